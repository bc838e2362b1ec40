//! Clearing away what an account owns, in every database of its server.
//!
//! Data stays, and everything that is code or a privilege goes. Data is tables, materialized views, sequences, large objects,
//! and the schemas and types that these need; it moves to `<account>_kept`, a role of this grant alone that cannot log in, has
//! no right, and of which nobody is a member. The work is done as the account itself (`SET LOCAL ROLE`): a hostile object can
//! misuse no right of the admin, since that is not in force.
//!
//! SECURITY: `REASSIGN OWNED` to a role with rights would hand it the account's SECURITY DEFINER functions, which anybody may
//! call. Here they are dropped before, and their dependents with them; where that would lose data the body is replaced.

mod objects;

use objects::{DATA, Fate, Object, STAGES, Stage, attached, entangled, grants, owned, stub};

use super::server::Lease;
use super::sql::{Row, idents, literal};
use super::{Facts, Postgres};
use crate::accounts::ending::Ending;
use crate::accounts::error::{AccountError, one_line};
use crate::accounts::marker::{Marker, kept_comment};
use crate::domain::ids::GrantId;
use crate::domain::names::AccountName;

/// Statements in one transaction: each locks what it touches, and a server's lock table is small.
const BATCH: usize = 50;
/// After so many blocked objects the rest of a database waits for the next try.
const MAX_BLOCKED: usize = 3;
/// The most dropped objects of one database that are named; the rest is counted.
const MAX_NAMED: usize = 30;

/// Work in one database, as the account.
struct Walk<'a> {
    lease: Lease,
    name: &'a AccountName,
    kept: String,
    oid: u64,
    roles: &'a [String],
    done: usize,
    blocked: usize,
    dropped: usize,
    /// The first of them.
    named: Vec<String>,
    /// What was done beside plain drops.
    notes: Vec<String>,
    residue: Vec<String>,
}

/// How one statement went.
enum Outcome {
    Done,
    /// There is no such thing any more.
    Absent,
    /// Something needs it.
    Needed,
    /// It was not done, and why.
    Failed(AccountError, String),
}

impl Postgres {
    /// Clears everything of a locked account away, and lists what is kept and what could not be done.
    pub(super) async fn clear_away(
        &self,
        name: &AccountName,
        facts: &Facts,
        ending: &mut Ending,
    ) -> Result<(), AccountError> {
        self.make_kept(name, &facts.marker).await?;
        let wanted = facts.marker.member_of.iter().map(|role| literal(role)).collect::<Vec<_>>().join(", ");
        let wanted = if wanted.is_empty() { "NULL".to_owned() } else { wanted };
        let roles: Vec<String> = self
            .ask(&format!("SELECT rolname FROM pg_roles WHERE rolname IN ({wanted}) AND NOT rolsuper"))
            .await?
            .iter()
            .map(|row| row.text(0).to_owned())
            .collect();
        for row in self.databases_of(&format!("refobjid = {}", facts.oid)).await? {
            let database = row.text(0).to_owned();
            let what = format!("clear {}", one_line(&database));
            if !row.yes(1) {
                ending.residue.push(format!("database {} allows no connection and holds objects", one_line(&database)));
                ending.step(what, Some(false), "the database allows no connection");
                continue;
            }
            match self.walk(name, facts.oid, &roles, &database).await {
                Ok(walk) => {
                    for named in walk.named {
                        ending.step("dropped", Some(true), one_line(&format!("{}: {named}", one_line(&database))));
                    }
                    let mut told = vec![format!("{} dropped", walk.dropped)];
                    told.extend(walk.notes);
                    ending.step(what, Some(walk.residue.is_empty()), one_line(&told.join("; ")));
                    ending.residue.extend(walk.residue.into_iter().map(|r| format!("{}: {r}", one_line(&database))));
                }
                Err(error) => {
                    ending.step(what, Some(false), error.to_string());
                    ending.residue.push(format!("database {}: {error}", one_line(&database)));
                }
            }
        }
        self.list_kept(name, ending).await
    }

    /// Makes the role that keeps data. It is the grant's alone: code of one grant can never read what another left.
    async fn make_kept(&self, name: &AccountName, marker: &Marker) -> Result<(), AccountError> {
        let kept = name.kept();
        self.ask(&format!("GRANT {name} TO CURRENT_USER")).await?;
        let found = self.ask(&comment_of(&kept)).await?;
        if let Some(row) = found.first() {
            return self.kept_is_ours(name, marker.grant, row);
        }
        let comment = literal(&kept_comment(&self.key, marker, name));
        let text = format!(
            "CREATE ROLE {kept} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS; \
             COMMENT ON ROLE {kept} IS {comment}"
        );
        self.transact(&text, "").await.map(|_| ()).map_err(|(error, _)| error)
    }

    fn kept_is_ours(&self, name: &AccountName, grant: GrantId, row: &Row) -> Result<(), AccountError> {
        let kept = name.kept();
        let marker = Marker::of_grant(&self.key, self.install, grant, &kept, row.text(0));
        marker.map(|_| ()).ok_or(AccountError::Foreign(kept))
    }

    /// The databases in which a role has something; the admin's own where only the server itself has.
    async fn databases_of(&self, role: &str) -> Result<Vec<Row>, AccountError> {
        let text = format!(
            "SELECT d.datname, d.datallowconn FROM pg_database d WHERE d.oid IN (SELECT CASE s.dbid WHEN 0 THEN \
             (SELECT oid FROM pg_database WHERE datname = current_database()) ELSE s.dbid END \
             FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass AND {role}) ORDER BY d.datname"
        );
        self.ask(&text).await
    }

    /// Lists what a gone account left, after the check that the role is ours.
    pub(super) async fn read_kept(
        &self,
        name: &AccountName,
        grant: GrantId,
        ending: &mut Ending,
    ) -> Result<(), AccountError> {
        match self.ask(&comment_of(&name.kept())).await?.first() {
            Some(row) => {
                self.kept_is_ours(name, grant, row)?;
                self.list_kept(name, ending).await
            }
            None => Ok(()),
        }
    }

    /// Lists what is kept; drops the role when that is nothing.
    async fn list_kept(&self, name: &AccountName, ending: &mut Ending) -> Result<(), AccountError> {
        let kept = name.kept();
        let number = format!("(SELECT oid FROM pg_roles WHERE rolname = {})", literal(&kept));
        let databases = self.databases_of(&format!("refobjid = {number}")).await?;
        if databases.is_empty() {
            // Something may hold it for a moment; it has no right and the next end finds it.
            let dropped = self.ask(&format!("DROP ROLE IF EXISTS {kept}")).await;
            ending.step("keep", dropped.is_ok().then_some(true), "nothing is kept");
            return dropped.map(|_| ());
        }
        for row in databases.iter().filter(|row| row.yes(1)) {
            let mut lease = self.pool.lease_to(row.text(0)).await?;
            let link = lease.link()?;
            let oid = link.run(&format!("SELECT {number}")).await?.first().map_or(0, |row| row.number(0));
            for object in link.run(&owned(oid)).await? {
                let shown = format!("{}: {} {}", row.text(0), object.text(0), object.text(1));
                ending.kept.push(one_line(&shown));
            }
        }
        ending.kept.sort();
        ending.step("keep", Some(true), format!("{} objects belong to {kept}, which has no right", ending.kept.len()));
        Ok(())
    }

    async fn walk<'a>(
        &self,
        name: &'a AccountName,
        oid: u64,
        roles: &'a [String],
        database: &str,
    ) -> Result<Walk<'a>, AccountError> {
        let lease = self.pool.lease_to(database).await?;
        let kept = name.kept();
        let (notes, residue) = (Vec::new(), Vec::new());
        let mut walk =
            Walk { lease, name, kept, oid, roles, done: 0, blocked: 0, dropped: 0, named: Vec::new(), notes, residue };
        walk.begin().await?;
        for row in walk.rows(&attached(oid)).await? {
            if walk.gives_up() {
                break;
            }
            let outcome = walk.each(row.text(0)).await?;
            walk.note(row.text(0), outcome);
        }
        for stage in &STAGES {
            walk.stage(stage).await?;
        }
        if !walk.gives_up() {
            walk.hand_over().await?;
        }
        walk.commit().await?;
        Ok(walk)
    }
}

fn comment_of(role: &str) -> String {
    format!("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = {}", literal(role))
}

impl Walk<'_> {
    fn gives_up(&self) -> bool {
        self.blocked >= MAX_BLOCKED
    }

    async fn rows(&mut self, sql: &str) -> Result<Vec<Row>, AccountError> {
        self.lease.link()?.run(sql).await
    }

    /// Begins as the account. What it was a member of was taken from it when it was locked; the role that keeps its data has
    /// that until the transaction ends, which nobody else ever sees: a new owner must have CREATE on a schema.
    async fn begin(&mut self) -> Result<(), AccountError> {
        let (kept, name) = (&self.kept, self.name);
        let roles =
            if self.roles.is_empty() { String::new() } else { format!("GRANT {} TO {kept}; ", idents(self.roles)) };
        let text = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; {roles}GRANT {kept} TO {name}; \
             SET LOCAL ROLE {name}"
        );
        self.rows(&text).await.map(|_| ())
    }

    async fn commit(&mut self) -> Result<(), AccountError> {
        let (kept, name) = (&self.kept, self.name);
        let roles =
            if self.roles.is_empty() { String::new() } else { format!("REVOKE {} FROM {kept}; ", idents(self.roles)) };
        let text = format!("RESET ROLE; {roles}REVOKE {kept} FROM {name}; COMMIT");
        self.rows(&text).await.map(|_| ())
    }

    /// One statement, undone by itself when it is refused.
    async fn each(&mut self, statement: &str) -> Result<Outcome, AccountError> {
        self.done += 1;
        if self.done.is_multiple_of(BATCH) {
            self.commit().await?;
            self.begin().await?;
        }
        let sent = self.lease.link()?.raw(&format!("SAVEPOINT one; {statement}; RELEASE one")).await;
        let Err((error, detail)) = sent else { return Ok(Outcome::Done) };
        if !self.lease.link()?.healthy() {
            return Err(error);
        }
        self.rows("ROLLBACK TO one; RELEASE one").await?;
        Ok(match error.sqlstate() {
            Some("2BP01") => Outcome::Needed,
            Some("42704" | "42883" | "42P01" | "3F000") => Outcome::Absent,
            _ => Outcome::Failed(error, detail),
        })
    }

    fn dropped(&mut self, shown: &str) {
        self.dropped += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(one_line(shown));
        }
    }

    /// Counts a statement's outcome under a name.
    fn note(&mut self, shown: &str, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.dropped(shown),
            Outcome::Absent => {}
            Outcome::Needed => self.residue.push(one_line(&format!("{shown}: something needs it"))),
            Outcome::Failed(error, detail) => {
                self.blocked += usize::from(error == AccountError::Blocked);
                let detail = if detail.is_empty() { detail } else { format!("; {detail}") };
                self.residue.push(one_line(&format!("{shown}: {error}{detail}")));
            }
        }
    }

    async fn stage(&mut self, stage: &Stage) -> Result<(), AccountError> {
        // Twice: the second time what was needed by a later one is free.
        for last in [false, true] {
            let rows = self.rows(&owned(self.oid)).await?;
            let objects: Vec<Object> = rows.iter().filter_map(|row| Object::of(row, stage)).collect();
            for object in objects {
                if self.gives_up() {
                    return Ok(());
                }
                match stage.0 {
                    Fate::Goes if last => self.remove(&object).await?,
                    Fate::Goes | Fate::GoesIfUnused => {
                        let outcome = self.each(&format!("DROP {} {}", object.word, object.identity)).await?;
                        // Whatever refuses here, the last word is another: CASCADE, or the role that keeps it.
                        if matches!(outcome, Outcome::Done | Outcome::Failed(AccountError::Blocked, _)) {
                            self.note(&object.shown, outcome);
                        }
                    }
                    Fate::Stays if last => {}
                    Fate::Stays => self.keep(&object).await?,
                }
            }
        }
        Ok(())
    }

    /// Drops code with what depends on it. Where data would go with it, a function's body goes alone.
    async fn remove(&mut self, object: &Object) -> Result<(), AccountError> {
        let statement = format!("DROP {} {} CASCADE", object.word, object.identity);
        let sent = self.lease.link()?.raw(&format!("SAVEPOINT one; {DATA}; {statement}; {DATA}")).await;
        if !self.lease.link()?.healthy() {
            return sent.map(|_| ()).map_err(|(error, _)| error);
        }
        let notices = self.lease.link()?.notices();
        match sent {
            Ok(rows) if rows.first() == rows.last() && rows.len() == 2 => {
                self.rows("RELEASE one").await?;
                self.dropped(&object.shown);
                let taken: Vec<_> = notices.into_iter().filter(|n| n.sqlstate == "00000").map(|n| n.text).collect();
                self.notes.push(one_line(&format!("{}: {}", object.shown, taken.join("; "))));
                Ok(())
            }
            Ok(_) => {
                self.rows("ROLLBACK TO one; RELEASE one").await?;
                self.disarm(object).await
            }
            Err((error, detail)) => {
                self.rows("ROLLBACK TO one; RELEASE one").await?;
                self.note(&object.shown, Outcome::Failed(error, detail));
                Ok(())
            }
        }
    }

    async fn disarm(&mut self, object: &Object) -> Result<(), AccountError> {
        if object.word != "ROUTINE" {
            self.notes.push(one_line(&format!("{} is kept: data depends on it", object.shown)));
            return Ok(());
        }
        let text = self.rows(&stub(object.oid)).await?.first().map(|row| row.text(0).to_owned()).unwrap_or_default();
        let mut outcome = if text.is_empty() { Outcome::Needed } else { self.each(&text).await? };
        if !matches!(outcome, Outcome::Done) {
            outcome = self.each(&format!("ALTER ROUTINE {} SECURITY INVOKER", object.identity)).await?;
        }
        match outcome {
            Outcome::Done => {
                self.notes.push(one_line(&format!("{} is kept without its body: data depends on it", object.shown)));
            }
            other => self.note(&object.shown, other),
        }
        Ok(())
    }

    /// Gives data to the role that keeps it, one by one, so that what is blocked has a name.
    async fn keep(&mut self, object: &Object) -> Result<(), AccountError> {
        if object.temporary {
            let outcome = self.each(&format!("DROP {} {} CASCADE", object.word, object.identity)).await?;
            self.note(&object.shown, outcome);
            return Ok(());
        }
        if object.follows {
            return Ok(());
        }
        let outcome = self.each(&format!("ALTER {} {} OWNER TO {}", object.word, object.identity, self.kept)).await?;
        if let Outcome::Failed(error @ (AccountError::Blocked | AccountError::Timeout { .. }), detail) = outcome {
            self.note(&object.shown, Outcome::Failed(error, detail));
        }
        // Anything else that refuses here (no CREATE on the schema any more) REASSIGN OWNED may still do.
        Ok(())
    }

    /// Hands over what is left, takes away what was granted either way, and names what still speaks of the account.
    async fn hand_over(&mut self) -> Result<(), AccountError> {
        let reassigned = self.each(&format!("REASSIGN OWNED BY {} TO {}", self.name, self.kept)).await?;
        if matches!(reassigned, Outcome::Done) {
            // Only now: before, it would drop the data. What is left are default privileges, grants and user mappings.
            let outcome = self.each(&format!("DROP OWNED BY {}", self.name)).await?;
            if !matches!(outcome, Outcome::Done) {
                self.note("what was granted to the account", outcome);
            }
        } else {
            self.note("what is left of the account", reassigned);
        }
        for row in self.rows(&grants(&literal(&self.kept))).await? {
            let outcome = self.each(row.text(0)).await?;
            if let Outcome::Failed(..) = outcome {
                self.note(row.text(0), outcome);
            }
        }
        for row in self.rows(&entangled(self.oid)).await? {
            // The membership in the role that keeps its data ends with this transaction.
            let why =
                if row.text(2) == "o" { "is still owned" } else { "still names the account; its owner must REVOKE" };
            self.residue.push(one_line(&format!("{} {} {why}", row.text(0), row.text(1))));
        }
        Ok(())
    }
}
