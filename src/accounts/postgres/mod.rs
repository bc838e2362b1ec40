//! Accounts on PostgreSQL servers (15 is what the suite runs; later versions are untested).
//!
//! The admin is no superuser: it has CREATEROLE and `pg_signal_backend`, see `config/target-db/admin-role.sql`. Everything goes
//! over a few pooled sessions a server, verified TLS only; 5 s to connect, 10 s a statement, 2 s a lock.
//!
//! Start at [`Postgres::make`] and [`Postgres::end`].

mod check;
mod end;
mod link;
mod lock;
mod make;
mod server;
mod sql;
mod sweep;
mod tls;
mod walk;

use std::sync::Arc;

pub use server::{MAX_SESSIONS, Secret, SecretSource, Server};

use super::error::AccountError;
use super::marker::{Marker, MarkerKey};
use crate::domain::ids::{GrantId, InstallId};
use crate::domain::names::AccountName;
use server::Pool;

/// The role that every account is a member of, so that lines of pg_hba.conf can name them all (`+jit_accounts`).
pub const GROUP: &str = "jit_accounts";

/// The accounts of one server. Clones share its sessions.
#[derive(Clone)]
pub struct Postgres {
    pool: Arc<Pool>,
    install: InstallId,
    key: MarkerKey,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").field("server", &self.pool.server).finish_non_exhaustive()
    }
}

/// What the server says of an account.
#[derive(Debug, Clone)]
struct Facts {
    oid: u64,
    marker: Marker,
    /// Roles that it is a member of.
    of: Vec<String>,
    /// Roles that are members of it.
    members: Vec<String>,
    /// Whether the role that keeps its data is there.
    kept: bool,
    /// Whether anything in any database depends on it.
    entangled: bool,
    /// Its prepared transactions.
    prepared: Vec<Prepared>,
    /// How many more it has, whose names are no text here: each is in the encoding of its database.
    unnamed: usize,
}

/// A prepared transaction: database, name, owner.
type Prepared = (String, String, String);

/// What is there under an account's name.
enum Standing {
    /// No role; `kept` says whether one that keeps its data is there.
    Missing { kept: bool },
    /// Our account.
    Ours(Facts),
}

impl Postgres {
    /// Takes the server, whose accounts these are, and the key of their markers. Connects when it is first used.
    pub fn new(server: Server, install: InstallId, key: MarkerKey) -> Self {
        Self { pool: Arc::new(Pool::new(server)), install, key }
    }

    /// Whether the admin's last login was refused and its source gives another secret now.
    pub fn secret_changed(&self) -> bool {
        self.pool.secret_changed()
    }

    /// Runs statements on a waiting or new session to the admin's database; once more when the session had died unseen.
    async fn ask(&self, sql: &str) -> Result<Vec<sql::Row>, AccountError> {
        let mut lease = self.pool.lease().await?;
        match lease.link()?.run(sql).await {
            Err(error) if lease.stale(&error) => {
                drop(lease);
                self.pool.forget();
                self.pool.lease().await?.link()?.run(sql).await
            }
            other => other,
        }
    }

    /// As [`Self::ask`], as one transaction with something to read after it; with the detail of a refusal.
    async fn transact(&self, sql: &str, after: &str) -> Result<Vec<sql::Row>, (AccountError, String)> {
        let plain = |error| (error, String::new());
        let mut lease = self.pool.lease().await.map_err(plain)?;
        let first = lease.link().map_err(plain)?.transact(sql, after).await;
        match first {
            Err((error, _)) if lease.stale(&error) => {
                drop(lease);
                self.pool.forget();
                self.pool.lease().await.map_err(plain)?.link().map_err(plain)?.transact(sql, after).await
            }
            Ok(rows) => {
                let cut = lease.link().map_err(plain)?.notices().into_iter().any(|n| n.sqlstate == "42622");
                // PROTOCOL: NOTICE 42622 says that a name was cut: another role may have been meant.
                if cut { Err(plain(AccountError::Invalid("the server cut a name"))) } else { Ok(rows) }
            }
            other => other,
        }
    }

    /// A lock for one name until the transaction ends. A making whose broker died may still be at work over there: an end that
    /// finds no role waits for it and looks again, or the role would appear after its absence was read back.
    fn alone(&self, name: &AccountName) -> String {
        format!("SELECT pg_advisory_xact_lock({})", self.key.lock_number(name.as_str()))
    }

    /// Reads what stands under a name.
    ///
    /// # Errors
    /// [`AccountError::Foreign`] for a role without our marker for this grant.
    async fn standing(&self, name: &AccountName, grant: GrantId) -> Result<Standing, AccountError> {
        let rows = self.ask(&facts_of(name)).await?;
        self.read_standing(name, grant, rows.first())
    }

    fn read_standing(
        &self,
        name: &AccountName,
        grant: GrantId,
        row: Option<&sql::Row>,
    ) -> Result<Standing, AccountError> {
        let row = row.filter(|row| row.0.len() == FACTS).ok_or(AccountError::Invalid("the server gave no answer"))?;
        if row.text(1).is_empty() {
            return Ok(Standing::Missing { kept: row.number(0) > 0 });
        }
        let marker = Marker::of_grant(&self.key, self.install, grant, name.as_str(), row.text(2))
            .ok_or_else(|| AccountError::Foreign(name.to_string()))?;
        let prepared: Vec<Prepared> = serde_json::from_str(row.text(6)).unwrap_or_default();
        Ok(Standing::Ours(Facts {
            oid: row.number(1),
            kept: row.number(0) > 0,
            marker,
            of: row.list(3),
            members: row.list(4),
            entangled: row.yes(5),
            unnamed: usize::try_from(row.number(7)).unwrap_or(usize::MAX).saturating_sub(prepared.len()),
            prepared,
        }))
    }
}

/// How many columns [`facts_of`] gives.
const FACTS: usize = 8;

/// What every session to the admin's database has prepared: planned once, where planning costs the server more than the answer. The first is
/// one row about a name, whether the role is there or not; the second is five counts that must be zero once an account is gone.
const PREPARED: &str = "\
    PREPARE jit_facts(name, name) AS SELECT (SELECT count(*) FROM pg_roles WHERE rolname = $2), r.oid, \
    shobj_description(r.oid, 'pg_authid'), \
    (SELECT json_agg(g.rolname) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid), \
    (SELECT json_agg(g.rolname) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.member WHERE m.roleid = r.oid), \
    EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = r.oid), \
    (SELECT json_agg(json_build_array(p.database, p.gid, p.owner)) FROM pg_prepared_xacts p WHERE p.owner = r.rolname), \
    (SELECT count(*) FROM pg_prepared_xact() WHERE ownerid = r.oid) \
    FROM (SELECT $1 AS wanted) w LEFT JOIN pg_roles r ON r.rolname = w.wanted; \
    PREPARE jit_gone(name, oid) AS SELECT (SELECT count(*) FROM pg_roles WHERE rolname = $1 OR oid = $2), \
    (SELECT count(*) FROM pg_stat_activity WHERE usesysid IN ($2, (SELECT oid FROM pg_roles WHERE rolname = $1))), \
    (SELECT count(*) FROM pg_auth_members WHERE roleid = $2 AND $2 <> 0) \
    + (SELECT count(*) FROM pg_auth_members WHERE member = $2 AND $2 <> 0) \
    + (SELECT count(*) FROM pg_auth_members WHERE grantor = $2 AND $2 <> 0), \
    (SELECT count(*) FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $2), \
    (SELECT count(*) FROM pg_prepared_xact() WHERE ownerid = $2)";

/// Asks for the facts of a name.
fn facts_of(name: &AccountName) -> String {
    format!("EXECUTE jit_facts({}, {})", sql::literal(name.as_str()), sql::literal(&name.kept()))
}

/// Asks what is left of an account. Without the role's number only its name can be looked for.
fn read_back(name: &AccountName, oid: Option<u64>) -> String {
    format!("EXECUTE jit_gone({}, {})", sql::literal(name.as_str()), oid.unwrap_or(0))
}
