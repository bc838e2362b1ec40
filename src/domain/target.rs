//! Targets and their roles, as the operator's inventory describes them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::act::Terms;
use super::database::{Database, DatabaseRole, Route};
use super::digest::{Digest, digest_of};
use super::key::Key;
use super::names::{LoginName, RoleName, TargetName};

/// How a target is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Through the broker's gateway: recorded, cut at the end. Needs a build with that gateway.
    Gateway,
    /// Straight to the host: not recorded.
    Direct,
}

/// How a client knows that a host is the one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostIdentity {
    /// The host's own key, pinned in the inventory.
    Key(Key),
    /// A host certificate of the broker's own host CA (`host_ca = "@broker"`).
    BrokerCa,
    /// A server certificate, as [`Target::database`] says.
    Tls,
}

/// What a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allow {
    /// A terminal.
    Shell,
    /// A command without a terminal; scp, rsync and git need it.
    Exec,
    /// The sftp subsystem.
    Sftp,
    /// Port forwarding.
    Forward,
}

impl Allow {
    /// The word of the files, and of what people read.
    pub fn word(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Exec => "exec",
            Self::Sftp => "sftp",
            Self::Forward => "forward",
        }
    }
}

/// One role on a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Accounts on the host; never empty for SSH, empty for databases.
    pub logins: Vec<LoginName>,
    /// What a session may do; empty for databases.
    pub allow: BTreeSet<Allow>,
    /// Keystrokes are recorded too, as far as the terminal echoes them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub record_input: bool,
    /// What it gives on a database.
    pub database: Option<DatabaseRole>,
    /// Roles of the same target that this one is narrower than, for approving less.
    pub narrower_than: BTreeSet<RoleName>,
}

impl Role {
    /// True when terms give exactly what this role gives.
    pub fn is_in(&self, terms: &Terms) -> bool {
        self.logins == terms.logins && self.allow.iter().eq(terms.allow.iter()) && self.database == terms.database
    }

    /// Writes what this role gives into terms.
    pub fn fill(&self, name: &RoleName, terms: &mut Terms) {
        terms.role = name.clone();
        terms.logins.clone_from(&self.logins);
        terms.allow = self.allow.iter().copied().collect();
        terms.database.clone_from(&self.database);
    }
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The name that people type.
    pub name: TargetName,
    /// `ssh`, `postgres`, or `broker` for `broker/policy`.
    pub kind: TargetKind,
    /// `host:port`.
    pub address: Address,
    /// What rules select by.
    pub labels: BTreeMap<String, String>,
    /// Through the gateway or straight.
    pub mode: Mode,
    /// How its clients know it.
    pub host: HostIdentity,
    /// What a database has besides.
    pub database: Option<Database>,
    /// Its roles.
    pub roles: BTreeMap<RoleName, Role>,
}

/// What a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// A host with sshd.
    Ssh,
    /// A PostgreSQL server.
    Postgres,
    /// The broker itself: `broker/policy`.
    Broker,
}

impl TargetKind {
    /// The word of the files and of conditions.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::Postgres => "postgres",
            Self::Broker => "broker",
        }
    }
}

/// A host name or address with a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// A DNS name, an IPv4 or an IPv6 address without brackets; never starts with `-`.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What of a target an approval covers: where it is, how it is known, how it is reached.
#[derive(Serialize)]
struct Identity<'a> {
    name: &'a TargetName,
    kind: TargetKind,
    address: &'a Address,
    mode: Mode,
    host: &'a HostIdentity,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<&'a Database>,
}

impl Target {
    /// The digest of address, host identity and mode that the terms of a request carry (decisions.md 5).
    pub fn digest(&self) -> Digest {
        let identity = Identity {
            name: &self.name,
            kind: self.kind,
            address: &self.address,
            mode: self.mode,
            host: &self.host,
            database: self.database.as_ref(),
        };
        digest_of(&identity).unwrap_or_else(|_| Digest::of(b""))
    }

    /// Where accounts of a database are made, and removed.
    pub fn route(&self) -> Option<Route> {
        let database = self.database.as_ref()?;
        Some(Route {
            address: self.address.clone(),
            database: database.name.clone(),
            tls_name: database.tls_name.clone(),
            tls_ca: database.tls_ca.clone(),
            admin: database.admin.clone(),
        })
    }
}

/// Every target of the adopted bundle, by name.
pub type Targets = BTreeMap<TargetName, Target>;

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        address(text)
    }
}

/// Reads `host:port` or `[v6]:port`; the host ends up in ssh's arguments and files.
fn address(text: &str) -> Result<Address, String> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("address needs a port, as in web-07.corp:22".to_owned());
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port =
        port.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or("the port of address is from 1 to 65535")?;
    let host =
        host_name(host).ok_or("the host of address is a DNS name, an IPv4 address, or an IPv6 address in brackets")?;
    Ok(Address { host, port })
}

/// A host as it stands in an address or a certificate, in small letters and without brackets.
pub fn host_name(host: &str) -> Option<String> {
    let v6 = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let fits = match v6 {
        Some(v6) => is_v6(v6),
        None => {
            let dns = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            host.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && host.len() <= 253 && host.bytes().all(dns)
        }
    };
    fits.then(|| v6.unwrap_or(host).to_ascii_lowercase())
}

/// RFC 4291 section 2.2, without zones: eight groups, or fewer around one `::`.
fn is_v6(text: &str) -> bool {
    let group = |group: &str| (1..=4).contains(&group.len()) && group.bytes().all(|b| b.is_ascii_hexdigit());
    let count = |side: &str| {
        if side.is_empty() { Some(0) } else { side.split(':').map(|g| group(g).then_some(1)).sum::<Option<u32>>() }
    };
    match text.split_once("::") {
        Some((left, right)) => matches!((count(left), count(right)), (Some(l), Some(r)) if l + r <= 7),
        None => count(text) == Some(8),
    }
}
