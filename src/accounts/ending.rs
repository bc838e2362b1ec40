//! What this room reports: how an end went, what a sweep found, what a test of a target showed.

use super::marker::Marker;
use crate::domain::names::AccountName;
use zeroize::Zeroizing;

/// One step of an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `lock`, `terminate`, `rollback prepared`, `dropped` (one object that was the account's), `clear <database>`, `drop` or `read back`.
    pub what: String,
    /// Whether it did its work; nothing where there was nothing to do.
    pub ok: Option<bool>,
    /// What was done, or why not; one line.
    pub detail: String,
}

/// How far an end came. Only [`Ending::gone`] ends the work: until then the caller tries again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    /// The steps in order.
    pub steps: Vec<Step>,
    /// What was kept, as `database: kind identity`; it belongs to a role without any right that cannot log in.
    pub kept: Vec<String>,
    /// What hinders the end or is left, each named.
    pub residue: Vec<String>,
    /// Whether the absence of account, sessions, memberships, objects and prepared transactions was read back.
    pub gone: bool,
    /// How many sessions were cut.
    pub cut: usize,
    /// Whether it can still be used: it could not be locked, or sessions do not end.
    pub usable: bool,
}

impl Ending {
    pub(super) fn step(&mut self, what: impl Into<String>, ok: Option<bool>, detail: impl Into<String>) {
        self.steps.push(Step { what: what.into(), ok, detail: detail.into() });
    }
}

/// A role that a sweep found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// An account of this installation.
    Ours {
        /// Its name.
        name: AccountName,
        /// What its marker says.
        marker: Marker,
        /// Whether it can log in.
        can_login: bool,
    },
    /// A role that keeps the data of an account of this installation.
    Kept {
        /// Its name.
        role: String,
        /// What its marker says.
        marker: Marker,
    },
    /// A role that looks like ours and has no valid marker of this installation: reported, never touched.
    Stranger {
        /// Its name.
        role: String,
        /// Why it is not ours.
        why: &'static str,
    },
}

/// What `target test` needs for its trial account.
#[derive(Debug)]
pub struct Probe {
    /// The name of the trial account.
    pub account: super::Account,
    /// How to log in with it.
    pub login: ProbeLogin,
    /// Every role that the target hands out.
    pub roles: Vec<String>,
    /// What each role of the target gives at once; a login needs CONNECT by one of a set.
    pub sets: Vec<Vec<String>>,
}

/// What opens the trial account.
pub enum ProbeLogin {
    /// A client certificate for its name.
    Cert {
        /// The chain, PEM.
        cert_pem: String,
        /// The key, PKCS#8 PEM.
        key_pem: Zeroizing<String>,
    },
    /// Nothing, as the authority signs for grants alone: it must be refused because a certificate is missing, and for nothing else.
    NoCert {
        /// The authority whose certificates the server must ask for, PEM; empty where it is not known.
        ca_pem: String,
    },
    /// The password whose verifier the account has.
    Password(Zeroizing<String>),
}

impl std::fmt::Debug for ProbeLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cert { .. } => "Cert(***)",
            Self::NoCert { .. } => "NoCert",
            Self::Password(_) => "Password(***)",
        })
    }
}

/// One link of the chain that a target needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// `reach`, `tls`, `admin login`, `admin rights`, `role <name>`, `connect`, `make`, `client ca`, `login`, `cut` or `drop`.
    pub what: String,
    /// Whether it holds; nothing for a warning.
    pub ok: Option<bool>,
    /// What was seen; one line.
    pub detail: String,
    /// What to do: the SQL or the line of pg_hba.conf that is missing; empty where nothing is.
    pub todo: String,
}
