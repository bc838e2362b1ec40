//! Databases as targets: what a role on one is, and the temporary account that a grant makes there.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::names::{AccountName, DatabaseName, DatabaseRoleName, SecretName};
use super::target::Address;

/// The most sessions at a time of an account whose role does not say.
pub const CONNECTION_LIMIT: u16 = 20;

/// What a role on a database gives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseRole {
    /// The roles on the server that the account is a member of; never empty.
    pub member_of: BTreeSet<DatabaseRoleName>,
    /// Sessions begin read-only. A help against mistakes: a person can switch it off, so rights must come from `member_of`.
    pub read_only: bool,
    /// How long one statement may run, in milliseconds; a person can change it in their session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement_timeout_ms: Option<u32>,
    /// The most sessions at a time.
    pub connection_limit: u16,
}

impl DatabaseRole {
    /// What it gives in words, for whoever approves it.
    pub fn words(&self) -> String {
        let members: Vec<&str> = self.member_of.iter().map(DatabaseRoleName::as_str).collect();
        let mut words = format!("member of {}", members.join(", "));
        if self.read_only {
            words += "; read-only by default";
        }
        if let Some(ms) = self.statement_timeout_ms {
            words += &format!("; statements at most {ms} ms");
        }
        words + &format!("; at most {} sessions", self.connection_limit)
    }
}

/// How an account proves itself to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// An X.509 client certificate, whose `notAfter` is the grant's end.
    Cert,
    /// A password that the client makes; the server gets its SCRAM-SHA-256 verifier and `VALID UNTIL`.
    Password,
}

impl Auth {
    /// The word of targets.toml.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cert => "cert",
            Self::Password => "password",
        }
    }
}

/// What targets.toml says of a database besides its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// The database that people log in to.
    pub name: DatabaseName,
    /// How accounts prove themselves.
    pub auth: Auth,
    /// The secret of the account that makes accounts.
    pub admin: SecretName,
    /// The name in the server's certificate.
    pub tls_name: String,
    /// The authorities that may have signed it, PEM.
    pub tls_ca: String,
}

/// Where an account is, and all that is needed to remove it: kept with the account, whatever the inventory says later.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// `host:port`.
    pub address: Address,
    /// The database that the broker logs in to.
    pub database: DatabaseName,
    /// The name in the server's certificate.
    pub tls_name: String,
    /// The authorities that may have signed it, PEM.
    pub tls_ca: String,
    /// The secret of the account that makes accounts.
    pub admin: SecretName,
}

/// The account of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Its name on the server: random, used once.
    pub name: AccountName,
    /// Where it is.
    pub route: Route,
    /// How it proves itself.
    pub auth: Auth,
    /// SHA-256 of the SCRAM verifier; absent with certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier: Option<Digest>,
}
