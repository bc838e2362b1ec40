//! A grant: the window that approval opened, and what was issued inside it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::act::Terms;
use super::authority::Purpose;
use super::database::Account;
use super::digest::Digest;
use super::event::{Cause, Proof};
use super::ids::{GrantId, RequestId, SessionId};
use super::key::Key;
use super::names::PersonName;
use super::refusal::{Code, Refusal};

/// How long after `valid_before` a serial stays on the revocation list, in seconds: the one skew constant (decisions.md 33).
pub const SKEW_S: i64 = 90;
/// How long before its issue a certificate is valid, in seconds.
pub const BACKDATE_S: i64 = 60;
/// The most certificates under one grant.
pub const MAX_CREDENTIALS: usize = 64;

/// One grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// The request that it comes from.
    pub request: RequestId,
    /// Who holds it.
    pub person: PersonName,
    /// The keys that certificates may be for; the first is the one that the request named.
    pub keys: Vec<Key>,
    /// Fingerprints of the keys that signed for those which were bound later.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub bound_by: BTreeSet<String>,
    /// What was agreed.
    pub terms: Arc<Terms>,
    /// The window's beginning, in Unix seconds.
    pub starts_at: i64,
    /// The window's end: nothing is valid from this second on.
    pub ends_at: i64,
    /// The last moment for the first use.
    pub claim_by: i64,
    /// The longest life of one certificate; the whole window where absent.
    pub credential_s: Option<u64>,
    /// What was issued.
    pub credentials: Vec<Credential>,
    /// The account on a database; named in the log before it is made there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// Whether the server has it.
    #[serde(default)]
    pub account_made: bool,
    /// The sessions under it that are open.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub sessions: BTreeSet<SessionId>,
    /// The serials of the certificates with which gateways opened its target; they hold until its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<u64>,
    /// How it stands.
    pub state: GrantState,
}

/// Which authority signs a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialKind {
    /// An OpenSSH user certificate.
    #[default]
    SshUser,
    /// An X.509 client certificate.
    X509Client,
    /// An OpenSSH user certificate for the gateway; no host trusts its authority.
    SshGateway,
}

impl CredentialKind {
    /// The word of credential/v1.
    pub fn word(self) -> &'static str {
        match self {
            Self::SshUser => "ssh-user",
            Self::X509Client => "x509-client",
            Self::SshGateway => "ssh-gateway",
        }
    }

    /// The authority that signs it.
    pub fn purpose(self) -> Purpose {
        match self {
            Self::SshUser => Purpose::SshUser,
            Self::X509Client => Purpose::X509Client,
            Self::SshGateway => Purpose::SshGateway,
        }
    }

    /// For entries, which do not say the usual.
    pub fn is_usual(&self) -> bool {
        *self == Self::SshUser
    }
}

/// One certificate, as the log allowed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Which authority signs it.
    #[serde(default, skip_serializing_if = "CredentialKind::is_usual")]
    pub kind: CredentialKind,
    /// Unique for the CA, for ever.
    pub serial: u64,
    /// The key it is for.
    pub key: Key,
    /// Valid from, in Unix seconds.
    pub valid_after: i64,
    /// Not valid from this second on.
    pub valid_before: i64,
    /// The certificate's nonce; not used by X.509.
    pub nonce: Digest,
    /// SHA-256 of the exact bytes that are signed.
    pub tbs_sha256: Digest,
}

/// How a grant stands (product.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantState {
    /// Open, not used yet.
    Ready,
    /// Open and in use.
    Active,
    /// Over; the proofs are being collected.
    Ending {
        /// Why.
        cause: Cause,
        /// Since when.
        at: i64,
        /// The first published list that has all its serials.
        krl_version: Option<u64>,
    },
    /// Over, but something is left on the target; tried again for ever.
    Residue {
        /// Why it ended.
        cause: Cause,
        /// Since when it is over.
        at: i64,
        /// What is left, in words; hostile text.
        left: Vec<String>,
    },
    /// Over, and shown to be over.
    Ended {
        /// Why.
        cause: Cause,
        /// When that was proven.
        at: i64,
        /// What was read back.
        proofs: Vec<Proof>,
        /// What the account left behind, under a role without rights.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        kept: Vec<String>,
    },
    /// Never used in time.
    Lapsed,
    /// Refused at its first use.
    Cancelled {
        /// Why.
        refusal: Refusal,
    },
}

impl GrantState {
    /// The word of product.md.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Active => "active",
            Self::Ending { .. } => "ending",
            Self::Residue { .. } => "residue",
            Self::Ended { cause, .. } => cause.state(),
            Self::Lapsed => "lapsed",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}

/// A grant that is open at a certain moment. Only [`Grant::live_at`] makes one, and everything that gives access takes one.
#[derive(Debug, Clone, Copy)]
pub struct LiveGrant<'a> {
    grant: &'a Grant,
}

impl std::ops::Deref for LiveGrant<'_> {
    type Target = Grant;

    fn deref(&self) -> &Grant {
        self.grant
    }
}

impl Grant {
    /// The grant, if its window is open at `now`.
    ///
    /// # Errors
    /// [`Code::WINDOW_CLOSED`] with what happened.
    pub fn live_at(&self, now: i64) -> Result<LiveGrant<'_>, Refusal> {
        let open = matches!(self.state, GrantState::Ready | GrantState::Active);
        if open && self.starts_at <= now && now < self.ends_at {
            return Ok(LiveGrant { grant: self });
        }
        let word = if open { "ended" } else { self.state.word() };
        let message = format!("Grant {} is {word}; nothing is issued under it.", self.id);
        Err(Refusal::new(Code::WINDOW_CLOSED, message).hint(self.terms.ask_again()))
    }

    /// True when it is final: nothing happens to it any more.
    pub fn over(&self) -> bool {
        matches!(self.state, GrantState::Ended { .. } | GrantState::Lapsed | GrantState::Cancelled { .. })
    }

    /// The certificate for a key that is still valid for at least a second.
    pub fn credential_for(&self, key: &Key, now: i64) -> Option<&Credential> {
        self.credentials.iter().rev().find(|c| c.key == *key && now < c.valid_before)
    }

    /// The SSH serials that a host could still accept at `now`, its clock being at most [`SKEW_S`] behind.
    pub fn unexpired_serials(&self, now: i64) -> Vec<u64> {
        self.ssh_credentials().filter(|c| now < c.valid_before + SKEW_S).map(|c| c.serial).collect()
    }

    /// The moment from which no host accepts any of its SSH certificates.
    pub fn latest_end(&self) -> i64 {
        self.ssh_credentials().map(|c| c.valid_before + SKEW_S).max().unwrap_or(self.starts_at)
    }

    /// The certificates that revocation lists name.
    pub fn ssh_credentials(&self) -> impl Iterator<Item = &Credential> {
        self.credentials.iter().filter(|c| c.kind == CredentialKind::SshUser)
    }

    /// Why and since when it is over, while its account may still be there.
    pub fn removing(&self) -> Option<(Cause, i64)> {
        self.account.as_ref()?;
        match self.state {
            GrantState::Ending { cause, at, .. } | GrantState::Residue { cause, at, .. } => Some((cause, at)),
            _ => None,
        }
    }
}
