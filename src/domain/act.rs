//! Signed acts: what a person says, in the exact bytes that their key signs (decisions.md 4).

use serde::{Deserialize, Serialize};

use super::authority::{Purpose, Rotation};
use super::database::DatabaseRole;
use super::digest::{CanonicalError, Digest, canonical, read_canonical};
use super::epoch::NewEpoch;
use super::ids::{ActId, GrantId, InstallId, RequestId, SessionId};
use super::key::Key;
use super::names::{LoginName, PersonName, RoleName, TargetName};
use super::refusal::{Code, Refusal};
use super::target::Allow;

/// The SSHSIG namespace of every act but sign-in (PROTOCOL.sshsig).
pub const ACT_NAMESPACE: &str = "act@jit-broker";
/// The SSHSIG namespace of sign-in.
pub const LOGIN_NAMESPACE: &str = "login@jit-broker";
/// The SSHSIG namespace in which a host's own key confirms a revocation list.
pub const HOST_NAMESPACE: &str = "host@jit-broker";
/// The SSHSIG namespace in which the user CA signs the revocation list.
pub const KRL_NAMESPACE: &str = "krl@jit-broker";
/// The schema of every act.
pub const ACT_SCHEMA: &str = "jit-broker/act/v1";
/// How far an act's own time may be from the broker's, in seconds.
pub const ACT_SKEW_S: i64 = 300;
/// The most bytes that an act may have.
pub const MAX_ACT_BYTES: usize = 16 * 1024;

/// One signed statement of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// [`ACT_SCHEMA`].
    pub schema: String,
    /// The installation that it is for; worthless anywhere else.
    pub install: InstallId,
    /// Fingerprint of the key that signs.
    pub key_fp: String,
    /// When it was signed, in Unix seconds.
    pub at: i64,
    /// 128 random bits as 32 hex digits.
    pub nonce: String,
    /// Commitment to the personal text that travels beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<Digest>,
    /// What is said.
    #[serde(flatten)]
    pub deed: Deed,
}

/// What an act says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum Deed {
    /// Signs in: answers the broker's challenge.
    Login {
        /// The broker's address as the client knows it.
        public_url: String,
        /// The challenge, as given.
        challenge: String,
    },
    /// Asks for access.
    Request {
        /// Who asks.
        by: PersonName,
        /// The target.
        target: TargetName,
        /// The role on it.
        role: RoleName,
        /// For how long, in seconds; policy's usual time where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_s: Option<u64>,
        /// The key that the certificate will be for.
        key: Key,
    },
    /// Asks that a grant go on: another one, of the same role on the same target, that ends later.
    Extend {
        /// Its holder.
        by: PersonName,
        /// The grant.
        grant: GrantId,
        /// Its target, said again so that an approver's client reads it here.
        target: TargetName,
        /// Its role, likewise.
        role: RoleName,
        /// The end that is asked for, in Unix seconds.
        until: i64,
        /// The key that the new grant's certificate will be for.
        key: Key,
    },
    /// Agrees to a request on exactly these terms.
    Approve {
        /// Who agrees.
        by: PersonName,
        /// The request.
        request: RequestId,
        /// The digest of the request's own act.
        request_digest: Digest,
        /// What is agreed to.
        terms: Terms,
    },
    /// Says no.
    Deny {
        /// Who denies.
        by: PersonName,
        /// The request.
        request: RequestId,
    },
    /// Takes a request back.
    Withdraw {
        /// The requester.
        by: PersonName,
        /// The request.
        request: RequestId,
    },
    /// Adds one more key to a grant.
    BindKey {
        /// The holder.
        by: PersonName,
        /// The grant.
        grant: GrantId,
        /// The key.
        key: Key,
    },
    /// Gives a grant back.
    Release {
        /// The holder.
        by: PersonName,
        /// The grant.
        grant: GrantId,
    },
    /// Ends grants.
    Revoke {
        /// Who ends them.
        by: PersonName,
        /// Which.
        of: Selector,
    },
    /// Disables a person: no sign-in, no approval, no access.
    Disable {
        /// The operator.
        by: PersonName,
        /// Whom.
        person: PersonName,
    },
    /// Lifts a disabling.
    Enable {
        /// The administrator.
        by: PersonName,
        /// Whom.
        person: PersonName,
    },
    /// Gives a person one more key.
    Enroll {
        /// The administrator.
        by: PersonName,
        /// Whose key.
        person: PersonName,
        /// The key.
        key: Key,
    },
    /// Takes a key away for ever.
    RevokeKey {
        /// The operator, or the key's owner.
        by: PersonName,
        /// The key.
        key: Key,
    },
    /// Adopts a bundle of people, targets and policy.
    Apply {
        /// The administrator.
        by: PersonName,
        /// The digest of the new bundle.
        bundle: Digest,
        /// The digest of the bundle that the plan was made against.
        base: Digest,
    },
    /// Has a host's key certified.
    EnrollHost {
        /// The administrator.
        by: PersonName,
        /// The target.
        target: TargetName,
        /// The host's public key.
        key: Key,
    },
    /// Says that the broker's clock is right.
    ConfirmClock {
        /// The operator.
        by: PersonName,
    },
    /// One step of the replacement of an authority.
    RotateCa {
        /// The administrator.
        by: PersonName,
        /// What the authority signs.
        ca: Purpose,
        /// Which step.
        step: Rotation,
    },
    /// Begins an epoch of the log, after a restore or a loss.
    BeginEpoch {
        /// The administrator.
        by: PersonName,
        /// Which, and what is known of the one before.
        new: Box<NewEpoch>,
    },
    /// Ends one session, and not its grant.
    EndSession {
        /// Its holder, or an operator.
        by: PersonName,
        /// The session.
        session: SessionId,
    },
}

impl Deed {
    /// Who says it; sign-in is known by its key alone.
    pub fn by(&self) -> Option<&PersonName> {
        match self {
            Self::Login { .. } => None,
            Self::Request { by, .. }
            | Self::Extend { by, .. }
            | Self::Approve { by, .. }
            | Self::Deny { by, .. }
            | Self::Withdraw { by, .. }
            | Self::BindKey { by, .. }
            | Self::Release { by, .. }
            | Self::Revoke { by, .. }
            | Self::Disable { by, .. }
            | Self::Enable { by, .. }
            | Self::Enroll { by, .. }
            | Self::RevokeKey { by, .. }
            | Self::Apply { by, .. }
            | Self::EnrollHost { by, .. }
            | Self::ConfirmClock { by }
            | Self::RotateCa { by, .. }
            | Self::BeginEpoch { by, .. }
            | Self::EndSession { by, .. } => Some(by),
        }
    }

    /// The word that the log uses for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Login { .. } => "login",
            Self::Request { .. } => "request",
            Self::Extend { .. } => "extend",
            Self::Approve { .. } => "approve",
            Self::Deny { .. } => "deny",
            Self::Withdraw { .. } => "withdraw",
            Self::BindKey { .. } => "bind_key",
            Self::Release { .. } => "release",
            Self::Revoke { .. } => "revoke",
            Self::Disable { .. } => "disable",
            Self::Enable { .. } => "enable",
            Self::Enroll { .. } => "enroll",
            Self::RevokeKey { .. } => "revoke_key",
            Self::Apply { .. } => "apply",
            Self::EnrollHost { .. } => "enroll_host",
            Self::ConfirmClock { .. } => "confirm_clock",
            Self::RotateCa { .. } => "rotate_ca",
            Self::BeginEpoch { .. } => "begin_epoch",
            Self::EndSession { .. } => "end_session",
        }
    }

    /// True when it only ever takes access away, or lets the operator say what time it is: this works whatever the clocks do.
    pub fn ends(&self) -> bool {
        matches!(
            self,
            Self::Deny { .. }
                | Self::Withdraw { .. }
                | Self::Release { .. }
                | Self::Revoke { .. }
                | Self::Disable { .. }
                | Self::RevokeKey { .. }
                | Self::ConfirmClock { .. }
                | Self::EndSession { .. }
        )
    }

    /// The namespace that its signature must have.
    pub fn namespace(&self) -> &'static str {
        if matches!(self, Self::Login { .. }) { LOGIN_NAMESPACE } else { ACT_NAMESPACE }
    }
}

/// Which grants a revocation ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// One grant.
    Grant(GrantId),
    /// All of a person.
    Person(PersonName),
    /// All on a target.
    Target(TargetName),
}

/// Exactly what is granted: what an approval signs (decisions.md 5).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The target.
    pub target: TargetName,
    /// Its address, identity and mode; for `broker/policy` the digest of the new bundle.
    pub target_digest: Digest,
    /// The role.
    pub role: RoleName,
    /// The accounts that the credential opens.
    pub logins: Vec<LoginName>,
    /// What a session may do.
    pub allow: Vec<Allow>,
    /// What is given on a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseRole>,
    /// Through the broker's gateway: recorded, and cut at the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gateway: bool,
    /// For how long, in seconds.
    pub for_s: u64,
}

impl Terms {
    /// The command that asks for the same once more.
    pub fn ask_again(&self) -> String {
        format!("Ask again: jit-broker request {} --role {} --reason \"…\"", self.target, self.role)
    }
}

/// An act as it travels: the canonical bytes and an armored SSHSIG over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedAct {
    /// Canonical JSON of the [`Act`].
    pub act: String,
    /// Armored signature (PROTOCOL.sshsig).
    pub signature: String,
}

impl Act {
    /// The bytes that are signed.
    ///
    /// # Errors
    /// None for a well-typed act; see [`canonical`].
    pub fn bytes(&self) -> Result<Vec<u8>, CanonicalError> {
        canonical(self)
    }
}

impl SignedAct {
    /// The digest of the signed bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(self.act.as_bytes())
    }

    /// The act's id.
    pub fn id(&self) -> ActId {
        ActId::of_digest(&self.digest())
    }

    /// Reads the act; bytes that would be written differently are refused.
    ///
    /// # Errors
    /// [`Code::BAD_ACT`].
    pub fn read(&self) -> Result<Act, Refusal> {
        let refuse = |why: String| Refusal::new(Code::BAD_ACT, format!("The act cannot be read: {why}."));
        if self.act.len() > MAX_ACT_BYTES {
            return Err(refuse(format!("it is larger than {MAX_ACT_BYTES} bytes")));
        }
        let act: Act = read_canonical(self.act.as_bytes()).map_err(|e| refuse(e.to_string()))?;
        // SECURITY: a field that this version does not know would be signed but not obeyed; it shows when written again.
        if act.bytes().ok().as_deref() != Some(self.act.as_bytes()) {
            return Err(refuse("it has a field that is not known".to_owned()));
        }
        if act.schema != ACT_SCHEMA {
            return Err(refuse("its schema is not known".to_owned()));
        }
        if act.nonce.len() != 32 || !act.nonce.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(refuse("its nonce is not 32 hex digits".to_owned()));
        }
        Ok(act)
    }
}
