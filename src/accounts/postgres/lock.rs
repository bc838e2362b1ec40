//! The lock: no login, no password, no membership, and no session. Normally it is one round trip.
//!
//! SECURITY: an account may change its own password, so any session of it can hold the account's row (`pg_authid`) for as long as its
//! transaction is open, and the lock waits for that row. Sessions are therefore cut whether the lock came through or not, and then
//! it is tried again. Nothing but the account's row and its membership in the group decides who comes in.

use std::time::Duration;

use super::make::strip;
use super::sql::{Row, literal};
use super::{Facts, GROUP, Postgres, Prepared, Standing, facts_of};
use crate::accounts::ending::Ending;
use crate::accounts::error::{AccountError, one_line};
use crate::domain::ids::GrantId;
use crate::domain::names::AccountName;

/// How long sessions are looked for again after they were cut, in milliseconds.
const LOOK_MS: u64 = 3_000;
const LOOK_EVERY_MS: u64 = 15;
/// How long the lock waits for the account's row before the sessions are cut, in milliseconds.
const ROW_WAIT_MS: u64 = 200;
/// How often sessions are cut and the lock is tried again.
const ROUNDS: usize = 12;
/// How long a session of ours waits for the row, so that another sees whom it waits for, in milliseconds.
const HOLDER_WAIT_MS: u64 = 500;
const HOLDER_LOOK_MS: u64 = 50;

/// How an account was locked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locked {
    /// How many sessions were cut.
    pub cut: usize,
    /// How many were still there when the look ended; normally none.
    pub left: usize,
    /// Why it can still log in; normally nothing.
    pub open: Option<String>,
    /// Memberships that could not be taken away, each with why; the drop takes them.
    pub stay: Vec<String>,
}

impl Locked {
    /// Writes the steps down; tells whether the account cannot be used any more.
    pub(super) fn tell(&self, ending: &mut Ending) -> bool {
        ending.cut = self.cut;
        ending.usable = self.left > 0 || self.open.is_some();
        let detail = match (&self.open, self.stay.len()) {
            (Some(why), _) => why.clone(),
            (None, 0) => "no login, no password, no membership".to_owned(),
            (None, count) => format!("no login, no password; memberships that stay until the drop: {count}"),
        };
        ending.step("lock", Some(self.open.is_none()), detail);
        ending.step("terminate", Some(self.left == 0), format!("{} cut, {} left", self.cut, self.left));
        if let Some(why) = &self.open {
            ending.residue.push(format!("the account cannot be locked: {why}"));
        }
        if self.left > 0 {
            ending.residue.push(format!("{} sessions do not end", self.left));
        }
        !ending.usable
    }
}

impl Postgres {
    /// Locks an account and cuts its sessions: no login, no password, no membership. For many that end at once this comes
    /// first, for all of them. An account that is not there is locked already.
    ///
    /// # Errors
    /// [`AccountError::Foreign`]; what hinders the server.
    pub async fn lock(&self, name: &AccountName, grant: GrantId) -> Result<Locked, AccountError> {
        match self.standing(name, grant).await? {
            Standing::Missing { .. } => Ok(Locked::default()),
            Standing::Ours(facts) => {
                self.lock_known(name, &facts, &mut Ending::default()).await.map(|(locked, _)| locked)
            }
        }
    }

    /// Locks and cuts; gives what was read in the same round trip when no session could have changed it since.
    pub(super) async fn lock_known(
        &self,
        name: &AccountName,
        facts: &Facts,
        ending: &mut Ending,
    ) -> Result<(Locked, Option<Row>), AccountError> {
        let text = format!("{}; {}", no_login(name, ROW_WAIT_MS), strip(name.as_str(), facts, &[]).concat());
        let after = format!("{}; {}", terminate(facts.oid), facts_of(name));
        let mut rows = match self.transact(&text, &after).await {
            Ok(rows) => rows,
            Err((error, _)) if error.refused() => return Ok((self.lock_by_parts(name, facts, ending).await?, None)),
            Err((error, _)) => return Err(error),
        };
        let last = rows.pop();
        if rows.is_empty() {
            return Ok((Locked::default(), last));
        }
        let left = rows.len();
        Ok((self.look_again(facts.oid, numbers(&rows), left).await?, None))
    }

    /// Locks an account whose lock was refused as a whole: its row is held, or it has a membership that the admin may not take.
    async fn lock_by_parts(
        &self,
        name: &AccountName,
        facts: &Facts,
        ending: &mut Ending,
    ) -> Result<Locked, AccountError> {
        // By itself, as no account can hold this one: with our lines in pg_hba.conf nobody comes back to hold the row.
        self.attempt(&format!("REVOKE {GROUP} FROM {name}")).await?;
        let (mut seen, mut why) = (Vec::new(), String::new());
        for round in 0..ROUNDS {
            seen.extend(numbers(&self.ask(&terminate(facts.oid)).await?));
            // And in one round trip with the lock: nobody who came in meanwhile waits for the row before us.
            let text = format!("{}; {}", terminate(facts.oid), no_login(name, ROW_WAIT_MS));
            match self.transact(&text, "").await {
                Ok(rows) => {
                    seen.extend(numbers(&rows));
                    let locked = self.look_again(facts.oid, seen, 1).await?;
                    return Ok(Locked { stay: self.strip_each(name, facts).await?, ..locked });
                }
                Err((error, _)) if error.refused() => why = error.to_string(),
                Err((error, _)) => return Err(error),
            }
            match self.standing(name, facts.marker.grant).await? {
                Standing::Missing { .. } => return self.look_again(facts.oid, seen, 1).await,
                Standing::Ours(now) if now.prepared.is_empty() => {}
                Standing::Ours(now) => drop(self.roll_back_prepared(name, &now.prepared, ending).await?),
            }
            if round > 0 {
                self.free_row(name, ending).await?;
            }
        }
        let locked = self.look_again(facts.oid, seen, 1).await?;
        Ok(Locked { open: Some(why), ..locked })
    }

    /// Frees the account's row from what is no session of the account: somebody who became it (`SET ROLE`), or a transaction
    /// that was prepared under another role. One session of ours waits for the row, and another looks for whom it waits.
    async fn free_row(&self, name: &AccountName, ending: &mut Ending) -> Result<(), AccountError> {
        let mut waiting = self.pool.lease().await?;
        let Some(mut looking) = self.pool.lease_if_free().await? else { return Ok(()) };
        let waiting = waiting.link()?;
        let pid = waiting.run("SELECT pg_backend_pid()").await?.first().map_or(0, |row| row.number(0));
        let text = no_login(name, HOLDER_WAIT_MS);
        let look = async {
            tokio::time::sleep(Duration::from_millis(HOLDER_LOOK_MS)).await;
            looking.link()?.run(&holders(pid)).await
        };
        let (_, held) = tokio::join!(waiting.transact(&text, ""), look);
        let prepared: Vec<Prepared> = held?
            .iter()
            .filter(|row| row.0.len() == 3)
            .map(|row| (row.text(0).to_owned(), row.text(1).to_owned(), row.text(2).to_owned()))
            .collect();
        drop(looking);
        if !prepared.is_empty() {
            self.roll_back_prepared(name, &prepared, ending).await?;
        }
        Ok(())
    }

    /// Takes every membership away, each by itself where they cannot go at once; gives those that stay.
    async fn strip_each(&self, name: &AccountName, facts: &Facts) -> Result<Vec<String>, AccountError> {
        let statements = strip(name.as_str(), facts, &[]);
        if self.attempt(&statements.concat()).await?.is_none() {
            return Ok(Vec::new());
        }
        let mut stay = Vec::new();
        for statement in &statements {
            if let Some(error) = self.attempt(statement).await? {
                stay.push(one_line(&format!("{statement}{error}")));
            }
        }
        Ok(stay)
    }

    /// Runs statements as one transaction; gives why the server refused them.
    pub(super) async fn attempt(&self, sql: &str) -> Result<Option<AccountError>, AccountError> {
        match self.transact(sql, "").await {
            Ok(_) => Ok(None),
            Err((error, _)) if error.refused() => Ok(Some(error)),
            Err((error, _)) => Err(error),
        }
    }

    /// Cuts until nothing is there: a login that was under way when the lock was set may appear a moment later.
    pub(super) async fn look_again(
        &self,
        oid: u64,
        mut seen: Vec<u64>,
        mut left: usize,
    ) -> Result<Locked, AccountError> {
        let mut waited_ms = 0;
        while left > 0 && waited_ms < LOOK_MS {
            tokio::time::sleep(Duration::from_millis(LOOK_EVERY_MS)).await;
            waited_ms += LOOK_EVERY_MS;
            let again = self.ask(&terminate(oid)).await?;
            left = again.len();
            seen.extend(numbers(&again));
            seen.sort_unstable();
            seen.dedup();
        }
        Ok(Locked { cut: seen.len(), left, ..Locked::default() })
    }
}

fn numbers(rows: &[Row]) -> Vec<u64> {
    rows.iter().map(|row| row.number(0)).collect()
}

/// Takes login and password, and waits so long for the account's row.
fn no_login(name: &AccountName, wait_ms: u64) -> String {
    format!(
        "SET LOCAL lock_timeout = {}; \
         ALTER ROLE {name} NOLOGIN CONNECTION LIMIT 0 PASSWORD NULL VALID UNTIL '-infinity'",
        literal(&format!("{wait_ms}ms"))
    )
}

/// Signals every session of a role, and names them.
fn terminate(oid: u64) -> String {
    format!("SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = {oid}")
}

/// Signals every session that a waiting one of ours waits for, and names the prepared transactions that it waits for: database, name, owner.
/// No superuser's: those are out of the admin's reach.
fn holders(pid: u64) -> String {
    format!(
        "SELECT pg_terminate_backend(a.pid) FROM unnest(pg_blocking_pids({pid})) b JOIN pg_stat_activity a ON a.pid = b \
         JOIN pg_roles r ON r.oid = a.usesysid WHERE NOT r.rolsuper AND r.rolname <> current_user; \
         SELECT p.database, p.gid, p.owner FROM pg_locks l JOIN pg_prepared_xacts p ON p.transaction = l.transactionid \
         WHERE l.pid = {pid} AND l.locktype = 'transactionid' AND NOT l.granted"
    )
}
