//! The end of an account: lock, cut, look again, clear away, drop, read back.
//!
//! Each step finds by itself what is left to do, so that an end that was broken off anywhere is simply begun again.

use super::sql::{Row, ident, literal};
use super::{Facts, Postgres, Prepared, Standing, read_back};
use crate::accounts::ending::Ending;
use crate::accounts::error::{AccountError, one_line};
use crate::domain::ids::GrantId;
use crate::domain::names::AccountName;

/// The most holders of a role that are named.
const MAX_HOLDERS: usize = 8;
const CLOSED: AccountError = AccountError::Invalid("the server is not worked with any more");

impl Postgres {
    /// Ends an account. What could not be done is in [`Ending::residue`], and the caller tries again until [`Ending::gone`].
    ///
    /// # Errors
    /// [`AccountError::Foreign`], or a server that cannot be worked with at all. Nothing is lost by either: begin again.
    pub async fn end(&self, name: &AccountName, grant: GrantId) -> Result<Ending, AccountError> {
        let mut ending = Ending::default();
        let slot = self.pool.ends.clone().acquire_owned().await.map_err(|_| CLOSED)?;
        let mut standing = self.standing(name, grant).await?;
        if matches!(standing, Standing::Missing { .. }) {
            self.transact(&self.alone(name), "").await.map_err(|(error, _)| error)?;
            standing = self.standing(name, grant).await?;
        }
        let facts = match standing {
            Standing::Missing { kept } => return self.already_gone(name, grant, kept, None, ending).await,
            Standing::Ours(facts) => facts,
        };
        let (locked, read) = self.lock_known(name, &facts, &mut ending).await?;
        if !locked.tell(&mut ending) {
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
        // What takes its time is nothing that others' ends wait for.
        let (_slot, _clearing) = if facts.entangled || facts.kept || !facts.prepared.is_empty() {
            drop(slot);
            (None, Some(self.pool.clearings.clone().acquire_owned().await.map_err(|_| CLOSED)?))
        } else {
            (Some(slot), None)
        };
        let prepared_left = !self.no_prepared(name, &facts, &mut ending).await?;
        if facts.entangled {
            self.clear_away(name, &facts, &mut ending).await?;
        } else if facts.kept {
            self.read_kept(name, grant, &mut ending).await?;
        }
        // Nothing would find a prepared transaction again once its role is gone.
        if !prepared_left {
            self.drop_role(name, &facts, &mut ending).await?;
        }
        if !ending.gone {
            ending.residue.extend(locked.stay);
        }
        Ok(ending)
    }

    /// Rolls back what the account prepared; tells whether nothing is left.
    async fn no_prepared(&self, name: &AccountName, facts: &Facts, ending: &mut Ending) -> Result<bool, AccountError> {
        if facts.unnamed > 0 {
            let left = format!("prepared transactions of {name} whose names cannot be read here: {}", facts.unnamed);
            ending.residue.push(left);
        }
        let rolled_back = facts.prepared.is_empty() || self.roll_back_prepared(name, &facts.prepared, ending).await?;
        Ok(rolled_back && facts.unnamed == 0)
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

    /// Rolls prepared transactions back; tells whether none is left. Their owners are the account, or what it is a member of.
    ///
    /// PROTOCOL: only the user who prepared a transaction, or a superuser, may roll it back, and only in its database.
    pub(super) async fn roll_back_prepared(
        &self,
        name: &AccountName,
        prepared: &[Prepared],
        ending: &mut Ending,
    ) -> Result<bool, AccountError> {
        self.ask(&format!("GRANT {name} TO CURRENT_USER")).await?;
        let mut left = 0;
        for (database, gid, owner) in prepared {
            let shown = one_line(gid);
            let told = format!("prepared transaction {shown} in {}: ", one_line(database));
            let known = ending.residue.iter().any(|line| line.starts_with(&told));
            ending.residue.retain(|line| !line.starts_with(&told));
            let done = async {
                let mut lease = self.pool.lease_to(database).await?;
                let link = lease.link()?;
                link.run(&format!("SET ROLE {}", ident(owner))).await?;
                link.run(&format!("ROLLBACK PREPARED {}", literal(gid))).await
            };
            match done.await {
                Ok(_) => ending.step("rollback prepared", Some(true), shown),
                // Gone meanwhile.
                Err(error) if error.sqlstate() == Some("42704") => ending.step("rollback prepared", None, shown),
                Err(error) => {
                    left += 1;
                    ending.residue.push(format!("{told}{error}"));
                    if !known {
                        ending.step("rollback prepared", Some(false), format!("{shown}: {error}"));
                    }
                }
            }
        }
        Ok(left == 0)
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
                let holders =
                    if error == AccountError::Blocked { self.holders(name, facts, ending).await? } else { Vec::new() };
                let why = if holders.is_empty() { why } else { format!("{why}: {}", holders.join(", ")) };
                ending.step("drop", Some(false), why.clone());
                ending.residue.push(format!("the account is locked but not dropped: {why}"));
                Ok(())
            }
            Err((error, _)) => Err(error),
        }
    }

    /// Names who holds the role, so that it cannot be dropped. Of what was prepared under a role that the account had, the next try
    /// finds nothing any more.
    async fn holders(
        &self,
        name: &AccountName,
        facts: &Facts,
        ending: &mut Ending,
    ) -> Result<Vec<String>, AccountError> {
        let rows = self.ask(&role_holders(facts.oid)).await?;
        let mut names = Vec::new();
        for row in rows.iter().take(MAX_HOLDERS) {
            let (pid, user) = (row.number(0), one_line(row.text(1)));
            if pid > 0 {
                names.push(format!("session {pid} of {user}"));
                continue;
            }
            let (database, gid) = (row.text(2), row.text(3));
            names.push(format!("prepared transaction {} of {user} in {}", one_line(gid), one_line(database)));
            if facts.marker.member_of.iter().any(|role| role == row.text(1)) {
                // The account cannot be used any more, and the membership ends with it.
                self.attempt(&format!("GRANT {} TO {name}", ident(row.text(1)))).await?;
                let prepared: Prepared = (database.to_owned(), gid.to_owned(), row.text(1).to_owned());
                self.roll_back_prepared(name, &[prepared], ending).await?;
            }
        }
        Ok(names)
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

/// Who holds a role in a lock of its own (`DROP ROLE` waits for those): session and user, or nothing, owner, database and name of
/// a prepared transaction.
fn role_holders(oid: u64) -> String {
    format!(
        "SELECT h.pid, coalesce(a.usename, p.owner), p.database, p.gid FROM pg_locks h \
         LEFT JOIN pg_stat_activity a ON a.pid = h.pid \
         LEFT JOIN pg_locks x ON x.pid IS NULL AND h.pid IS NULL AND x.virtualtransaction = h.virtualtransaction \
         AND x.locktype = 'transactionid' LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid \
         WHERE h.granted AND h.locktype = 'object' AND h.classid = 'pg_authid'::regclass AND h.objid = {oid} \
         ORDER BY h.pid NULLS FIRST"
    )
}
