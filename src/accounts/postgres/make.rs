//! Making an account, and bringing one that is there to what it shall be.

use super::sql::{check_names, ident, idents, instant, literal};
use super::{Facts, GROUP, Postgres, Standing};
use crate::accounts::error::{AccountError, one_line};
use crate::accounts::marker::Marker;
use crate::accounts::{Account, Proof};

impl Postgres {
    /// Makes an account in one round trip and one transaction. Doing it again brings the account to what is asked.
    ///
    /// The caller has the account in its ledger before, and never uses a name for two grants.
    ///
    /// # Errors
    /// [`AccountError::Foreign`] when the role exists without our marker for this grant; [`AccountError::Powerful`] when a role to
    /// be handed out is superuser or may make roles; what the server refuses.
    pub async fn make(&self, account: &Account) -> Result<(), AccountError> {
        check_names(&account.member_of)?;
        let attributes = self.attributes(account)?;
        let member_of = memberships(account);
        let name = account.name.as_str();
        // Said in full, so that no default of another version decides. INHERIT: memberships work without SET ROLE.
        let create = format!(
            "{}; CREATE ROLE {name} NOSUPERUSER NOREPLICATION NOBYPASSRLS {attributes} IN ROLE {}; {}",
            self.alone(&account.name),
            idents(&member_of),
            self.finish(account)
        );
        match self.transact(&create, "").await {
            Ok(_) => Ok(()),
            Err((error, _)) if error.sqlstate() == Some("42710") => self.adopt(account).await,
            Err((error, _)) => Err(powerful(error)),
        }
    }

    async fn adopt(&self, account: &Account) -> Result<(), AccountError> {
        let Standing::Ours(facts) = self.standing(&account.name, account.grant).await? else {
            return Err(AccountError::Foreign(account.name.to_string()));
        };
        let name = account.name.as_str();
        let wanted = memberships(account);
        let (alone, attributes) = (self.alone(&account.name), self.attributes(account)?);
        let mut text = format!("{alone}; ALTER ROLE {name} {attributes}; ALTER ROLE {name} RESET ALL; ");
        text.push_str(&strip(name, &facts, &wanted).concat());
        for role in wanted.iter().filter(|role| !facts.of.contains(role)) {
            text.push_str(&format!("GRANT {} TO {name}; ", ident(role)));
        }
        text.push_str(&self.finish(account));
        self.transact(&text, "").await.map_err(|(error, _)| powerful(error))?;
        Ok(())
    }

    fn attributes(&self, account: &Account) -> Result<String, AccountError> {
        let password = match &account.proof {
            Proof::Cert => "NULL".to_owned(),
            Proof::Password(verifier) => literal(verifier.as_str()),
        };
        let limit = account.connection_limit.map_or(-1, i32::from);
        let until = instant(account.valid_until)?;
        Ok(format!(
            "LOGIN INHERIT NOCREATEDB NOCREATEROLE CONNECTION LIMIT {limit} PASSWORD {password} VALID UNTIL {until}"
        ))
    }

    /// Settings, marker, and the test of what it became a member of.
    fn finish(&self, account: &Account) -> String {
        let name = account.name.as_str();
        let mut text = String::new();
        if account.read_only {
            text.push_str(&format!("ALTER ROLE {name} SET default_transaction_read_only = on; "));
        }
        if let Some(ms) = account.statement_timeout_ms {
            text.push_str(&format!("ALTER ROLE {name} SET statement_timeout = {ms}; "));
        }
        let marker = Marker { install: self.install, grant: account.grant, member_of: account.member_of.clone() };
        let comment = literal(&marker.write(&self.key, name));
        text.push_str(&format!("COMMENT ON ROLE {name} IS {comment}; {}", power_check(name)));
        text
    }
}

/// What an account is a member of: its roles, and the group that pg_hba.conf names.
fn memberships(account: &Account) -> Vec<String> {
    let mut list = vec![GROUP.to_owned()];
    for role in &account.member_of {
        if !list.contains(role) {
            list.push(role.clone());
        }
    }
    list
}

/// Statements that take away memberships both ways, but those that are wanted.
pub(super) fn strip(name: &str, facts: &Facts, wanted: &[String]) -> Vec<String> {
    let of = facts.of.iter().filter(|role| !wanted.contains(role));
    let of = of.map(|role| format!("REVOKE {} FROM {name}; ", ident(role)));
    of.chain(facts.members.iter().map(|role| format!("REVOKE {name} FROM {}; ", ident(role)))).collect()
}

/// What a role `r` may not have whose members' grants end.
///
/// SECURITY: attributes are not inherited but are had by `SET ROLE`. With CREATEROLE accounts are made that outlive the grant; a role that can
/// log in is given a password of one's own; the owner of a database shuts the admin out of it; and the server's programs and files lead to
/// pg_hba.conf, its signals to the admin's own sessions (PostgreSQL, chapters 21.2, 21.5 and 22.4).
pub(super) const POWER: &str = "(r.rolsuper OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls OR r.rolcanlogin \
    OR r.rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files', 'pg_signal_backend') \
    OR EXISTS (SELECT FROM pg_database d WHERE d.datdba = r.oid))";

/// The cast of a text to a number fails and with it the transaction, without a second round trip and without plpgsql, which a server may
/// lack.
fn power_check(name: &str) -> String {
    format!(
        "WITH RECURSIVE up(oid) AS (SELECT oid FROM pg_roles WHERE rolname = '{name}' \
         UNION SELECT m.roleid FROM pg_auth_members m JOIN up ON m.member = up.oid) \
         SELECT ('too powerful: ' || r.rolname)::integer FROM up JOIN pg_roles r USING (oid) \
         WHERE r.rolname <> '{name}' AND {POWER}"
    )
}

fn powerful(error: AccountError) -> AccountError {
    match error {
        AccountError::Denied { sqlstate, message } if sqlstate == "22P02" && message.contains("too powerful: ") => {
            let role = message
                .split_once("too powerful: ")
                .map_or("", |(_, rest)| rest.trim_end_matches(['"', '»', '“', '”', ' ']));
            AccountError::Powerful(one_line(role))
        }
        other => other,
    }
}
