//! The end of an account: lock, cut, look again, clear away, drop, read back.
//!
//! Each step finds by itself what is left to do, so that an end that was broken off anywhere is simply begun again.

use std::time::Duration;

use super::make::strip;
use super::sql::{Row, literal};
use super::{Facts, Postgres, Standing, facts_of, read_back};
use crate::accounts::ending::Ending;
use crate::accounts::error::{AccountError, one_line};
use crate::domain::ids::GrantId;
use crate::domain::names::AccountName;

/// How long sessions are looked for again after they were cut, in milliseconds.
const LOOK_MS: u64 = 3_000;
const LOOK_EVERY_MS: u64 = 15;

/// How an account was locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// How many sessions were cut.
    pub cut: usize,
    /// How many were still there when the look ended; normally none.
    pub left: usize,
}

impl Postgres {
    /// Locks an account and cuts its sessions: no login, no password, no membership. For many that end at once this comes
    /// first, for all of them. An account that is not there is locked already.
    ///
    /// # Errors
    /// [`AccountError::Foreign`]; what hinders the server.
    pub async fn lock(&self, name: &AccountName, grant: GrantId) -> Result<Locked, AccountError> {
        match self.standing(name, grant).await? {
            Standing::Missing { .. } => Ok(Locked { cut: 0, left: 0 }),
            Standing::Ours(facts) => self.lock_known(name, &facts).await.map(|(locked, _)| locked),
        }
    }

    /// Locks and cuts; gives what was read in the same round trip when no session could have changed it since.
    async fn lock_known(&self, name: &AccountName, facts: &Facts) -> Result<(Locked, Option<Row>), AccountError> {
        let text = format!(
            "ALTER ROLE {name} NOLOGIN CONNECTION LIMIT 0 PASSWORD NULL VALID UNTIL '-infinity'; {}",
            strip(name.as_str(), facts, &[])
        );
        let after = format!("{}; {}", terminate(facts.oid), facts_of(name));
        let mut rows = self.transact(&text, &after).await.map_err(|(error, _)| error)?;
        let last = rows.pop();
        if rows.is_empty() {
            return Ok((Locked { cut: 0, left: 0 }, last));
        }
        let seen: Vec<u64> = rows.iter().map(|row| row.number(0)).collect();
        let left = seen.len();
        Ok((self.look_again(facts.oid, seen, left).await?, None))
    }

    /// Cuts until nothing is there: a login that was under way when the lock was set may appear a moment later.
    async fn look_again(&self, oid: u64, mut seen: Vec<u64>, mut left: usize) -> Result<Locked, AccountError> {
        let mut waited_ms = 0;
        while left > 0 && waited_ms < LOOK_MS {
            tokio::time::sleep(Duration::from_millis(LOOK_EVERY_MS)).await;
            waited_ms += LOOK_EVERY_MS;
            let again = self.ask(&terminate(oid)).await?;
            left = again.len();
            seen.extend(again.iter().map(|row| row.number(0)));
            seen.sort_unstable();
            seen.dedup();
        }
        Ok(Locked { cut: seen.len(), left })
    }

    /// Ends an account. What could not be done is in [`Ending::residue`], and the caller tries again until [`Ending::gone`].
    ///
    /// # Errors
    /// [`AccountError::Foreign`], or a server that cannot be worked with at all. Nothing is lost by either: begin again.
    pub async fn end(&self, name: &AccountName, grant: GrantId) -> Result<Ending, AccountError> {
        let mut ending = Ending::default();
        let mut standing = self.standing(name, grant).await?;
        if matches!(standing, Standing::Missing { .. }) {
            self.transact(&self.alone(name), "").await.map_err(|(error, _)| error)?;
            standing = self.standing(name, grant).await?;
        }
        let facts = match standing {
            Standing::Missing { kept } => return self.already_gone(name, grant, kept, None, ending).await,
            Standing::Ours(facts) => facts,
        };
        let (locked, read) = self.lock_known(name, &facts).await?;
        ending.cut = locked.cut;
        ending.step("lock", Some(true), "no login, no password, no membership");
        ending.step("terminate", Some(locked.left == 0), format!("{} cut, {} left", locked.cut, locked.left));
        if locked.left > 0 {
            ending.residue.push(format!("{} sessions do not end", locked.left));
            return Ok(ending);
        }
        // Read again: what a session did until it was cut is in no reading from before.
        let standing = match read {
            Some(row) => self.read_standing(name, grant, Some(&row))?,
            None => self.standing(name, grant).await?,
        };
        let facts = match standing {
            // An end that was broken off may still have been at work over there.
            Standing::Missing { kept } => {
                return self.already_gone(name, grant, kept, Some(facts.oid), ending).await;
            }
            Standing::Ours(facts) => facts,
        };
        if !facts.prepared.is_empty() {
            self.roll_back_prepared(name, &facts, &mut ending).await?;
        }
        if facts.entangled {
            self.clear_away(name, &facts, &mut ending).await?;
        } else if facts.kept {
            self.read_kept(name, grant, &mut ending).await?;
        }
        self.drop_role(name, &facts, &mut ending).await?;
        Ok(ending)
    }

    async fn already_gone(
        &self,
        name: &AccountName,
        grant: GrantId,
        kept: bool,
        oid: Option<u64>,
        mut ending: Ending,
    ) -> Result<Ending, AccountError> {
        ending.step("drop", None, "there is no such account");
        if kept {
            self.read_kept(name, grant, &mut ending).await?;
        }
        self.read_back(name, oid, &mut ending).await?;
        Ok(ending)
    }

    /// PROTOCOL: only the user who prepared a transaction, or a superuser, may roll it back, and only in its database.
    async fn roll_back_prepared(
        &self,
        name: &AccountName,
        facts: &Facts,
        ending: &mut Ending,
    ) -> Result<(), AccountError> {
        self.ask(&format!("GRANT {name} TO CURRENT_USER")).await?;
        for (database, gid) in &facts.prepared {
            let shown = one_line(gid);
            let done = async {
                let mut lease = self.pool.lease_to(database).await?;
                let link = lease.link()?;
                link.run(&format!("SET ROLE {name}")).await?;
                link.run(&format!("ROLLBACK PREPARED {}", literal(gid))).await
            };
            match done.await {
                Ok(_) => ending.step("rollback prepared", Some(true), shown),
                // Gone meanwhile.
                Err(error) if error.sqlstate() == Some("42704") => ending.step("rollback prepared", None, shown),
                Err(error) => {
                    ending.step("rollback prepared", Some(false), format!("{shown}: {error}"));
                    ending.residue.push(format!("prepared transaction {shown} in {}: {error}", one_line(database)));
                }
            }
        }
        Ok(())
    }

    async fn drop_role(&self, name: &AccountName, facts: &Facts, ending: &mut Ending) -> Result<(), AccountError> {
        match self.transact(&format!("DROP ROLE {name}"), &read_back(name, Some(facts.oid))).await {
            Ok(rows) => {
                ending.step("drop", Some(true), "dropped");
                self.judge(name, Some(facts.oid), rows, ending).await
            }
            Err((error, _)) if error.sqlstate() == Some("42704") => {
                ending.step("drop", None, "there is no such account");
                self.read_back(name, Some(facts.oid), ending).await
            }
            Err((error, detail)) if matches!(error, AccountError::Denied { .. } | AccountError::Blocked) => {
                let why = if detail.is_empty() { error.to_string() } else { detail };
                ending.step("drop", Some(false), why.clone());
                ending.residue.push(format!("the account is locked but not dropped: {why}"));
                Ok(())
            }
            Err((error, _)) => Err(error),
        }
    }

    async fn read_back(&self, name: &AccountName, oid: Option<u64>, ending: &mut Ending) -> Result<(), AccountError> {
        let rows = self.ask(&read_back(name, oid)).await?;
        self.judge(name, oid, rows, ending).await
    }

    async fn judge(
        &self,
        name: &AccountName,
        oid: Option<u64>,
        rows: Vec<Row>,
        ending: &mut Ending,
    ) -> Result<(), AccountError> {
        let mut row = rows.into_iter().next_back().unwrap_or_default();
        let sessions = row.number(1);
        if let (Some(oid), true) = (oid, sessions > 0) {
            // A login that passed its check just before the lock: it has no account any more, and is cut by its number.
            let locked = self.look_again(oid, Vec::new(), 1).await?;
            ending.cut += locked.cut;
            row = self.ask(&read_back(name, Some(oid))).await?.into_iter().next_back().unwrap_or_default();
        }
        let counts: Vec<u64> = (0..5).map(|at| row.number(at)).collect();
        let names = ["role", "sessions", "memberships", "dependencies", "prepared transactions"];
        let told: Vec<String> = names.iter().zip(&counts).map(|(name, count)| format!("{name} {count}")).collect();
        // A row of five columns was read: an empty answer proves nothing.
        let gone = row.0.len() == 5 && counts.iter().all(|count| *count == 0);
        ending.step("read back", Some(gone), told.join(", "));
        if !gone {
            ending.residue.push(format!("after the drop: {}", told.join(", ")));
        }
        ending.gone = gone && ending.residue.is_empty();
        Ok(())
    }
}

/// Signals every session of a role, and names them.
fn terminate(oid: u64) -> String {
    format!("SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = {oid}")
}
