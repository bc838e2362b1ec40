//! The gate in front of the keys (decisions.md 1-3).
//!
//! True here: the gate folds the log for itself, decides every command again, and checks every signature before it signs.
//! It keeps the newest (size, root) that it signed in a file of its own, flushed before the signature leaves, so that nobody can make it
//! sign a shorter or another log.
//! Never here: a network, a clock that a message sets, an order that carries its own justification.
//! Start with [`gate::Gate`]. [`socket`] is the same gate in a process and user of its own.

pub mod cache;
pub mod gate;
pub mod head;
pub mod keys;
mod recall;
pub mod recovery;
mod sign;
pub mod socket;
mod trust;

pub use sign::Signing;

use serde::{Deserialize, Serialize};

use crate::domain::authority::{Purpose, SignedTrust};
use crate::domain::ids::{GrantId, SessionId};
use crate::domain::key::Key;
use crate::domain::names::TargetName;
use crate::domain::refusal::{Code, Refusal};

/// A leaf with the blobs that deciding it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// The leaf's exact bytes, which are UTF-8.
    pub entry: String,
    /// Texts and bundles; UTF-8 too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<String>,
}

/// The closed list of what may be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// How far the gate has folded the log.
    Head,
    /// Takes the leaves since its head and signs a checkpoint; below the head that was signed before it answers with [`Answer::Head`].
    Checkpoint {
        /// Where they begin: the gate's own head.
        from: u64,
        /// The leaves, in order.
        leaves: Vec<Leaf>,
    },
    /// Signs the certificate that the log allows for this grant and key.
    Credential {
        /// The grant.
        grant: GrantId,
        /// The key.
        key: Key,
    },
    /// Signs the certificate of an enrolled host.
    HostCert {
        /// The host.
        target: TargetName,
    },
    /// Signs the certificate of the daemon's own HTTPS, for the names in the signer's own configuration.
    ServerLeaf {
        /// The key, as hex of its SubjectPublicKeyInfo.
        spki: String,
    },
    /// Signs the certificate with which the gateway opens the target of an open session.
    SessionLeg {
        /// The session.
        session: SessionId,
    },
    /// Signs a host certificate for the gateway's key: in its own names, which the signer's configuration says, or in that of a target that
    /// is reached through it.
    GatewayCert {
        /// The gateway's key.
        key: Key,
        /// The target.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<TargetName>,
    },
    /// Encodes and signs the revocation list that the log published last.
    Krl,
    /// Makes the key that will replace an authority's, or gives the one that waits for that.
    NextKey {
        /// What the authority signs.
        purpose: Purpose,
    },
    /// Says whom to trust.
    Trust,
    /// Signs again, in recovery, the largest checkpoint that was signed before it.
    Signed,
}

/// What the gate answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Where it stands.
    Head {
        /// Leaves folded.
        size: u64,
    },
    /// A signed checkpoint.
    Checkpoint {
        /// The note.
        note: String,
        /// Its size.
        size: u64,
    },
    /// A certificate line.
    Certificate {
        /// OpenSSH text.
        openssh: String,
    },
    /// The certificate of a database account.
    Client {
        /// PEM.
        pem: String,
    },
    /// A leaf certificate with its issuer.
    ServerLeaf {
        /// PEM of the leaf, then of the authority.
        chain_pem: String,
    },
    /// A revocation list.
    Krl {
        /// Base64 of the file.
        krl: String,
        /// Armored signature.
        signature: String,
        /// Its version.
        version: u64,
    },
    /// A public half, as an act names it.
    NextKey {
        /// An OpenSSH key, a certificate as PEM, or of the server's authority the fingerprint.
        public: String,
    },
    /// Whom to trust.
    Trust {
        /// Signed.
        trust: SignedTrust,
    },
}

/// Whoever can be asked: the gate itself, or a socket to it.
pub trait Signer: Send {
    /// Carries out one order.
    ///
    /// # Errors
    /// [`Code::SIGNER_REFUSED`] and [`Code::LOG_LIES`] from the gate, [`Code::SIGNER_AWAY`] when it cannot be reached.
    fn order(&mut self, order: Order) -> Result<Answer, Refusal>;

    /// Judges an order of which only arithmetic is left then, so that others need not wait for that; never waits for a disk or a peer.
    /// `None` says that it must be carried out as a whole.
    fn judge_only(&mut self, order: &Order) -> Option<Result<Signing, Refusal>> {
        let _ = order;
        None
    }
}

fn refused(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::SIGNER_REFUSED, message)
}

fn lies(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::LOG_LIES, message)
}
