//! Documents of the log, and those that prove something to somebody outside.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::digest::Digest;
use crate::domain::ids::{GrantId, InstallId, RequestId};
use crate::domain::key::Key;
use crate::domain::names::{PersonName, TargetName};

/// `receipt/v1`: why something was granted, for those who have the log's public key and nothing else.
///
/// Nothing in it is to be believed: `jit-broker verify FILE` reads everything out of entries whose proofs hold, and of texts whose digests
/// those entries name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptDoc {
    /// `jit-broker/receipt/v1`.
    pub schema: String,
    /// What was asked for: a request, a grant, or the SHA-256 of the bytes that a certificate's authority signs.
    pub about: String,
    /// The installation.
    pub install: InstallId,
    /// The log's key, for comparison with the one that is known by another way.
    pub log_key: Key,
    /// Entries of the log in order, the first one among them.
    pub entries: Vec<ProvenDoc>,
    /// What stands beside the log, by its SHA-256: reasons with their salts, and bundles for those who may read them.
    pub texts: BTreeMap<Digest, String>,
}

/// An entry of the log and the proof of its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenDoc {
    /// The leaf's exact bytes: canonical JSON, signatures of people included.
    pub entry: String,
    /// C2SP tlog-proof: index, inclusion proof, signed checkpoint.
    pub proof: String,
}

/// A copy of the newest checkpoint somewhere else, as the broker knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessDoc {
    /// Its name in jit-broker.toml.
    pub name: String,
    /// `witness`, `webhook` or `file`.
    pub kind: String,
    /// The size of the newest checkpoint that it took; none since the start.
    pub size: Option<u64>,
    /// When it took it; RFC 3339.
    pub at: Option<String>,
    /// Checkpoints that a newer one overtook before they were sent: the newer one says all that they said.
    pub dropped: u64,
    /// Attempts that failed since the start.
    pub failed: u64,
    /// Why the last attempt failed, until one succeeds; hostile text.
    pub trouble: Option<String>,
    /// The cosigned checkpoint, for those who know the witness's key by another way.
    pub note: Option<String>,
}

/// `event/v1` (cli.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventDoc {
    /// `jit-broker/event/v1`.
    pub schema: String,
    /// The leaf's index.
    pub seq: u64,
    /// RFC 3339.
    pub at: String,
    /// Such as `grant.opened`.
    pub kind: String,
    /// Who did it.
    pub actor: Option<PersonName>,
    /// The request.
    pub request_id: Option<RequestId>,
    /// The grant.
    pub grant_id: Option<GrantId>,
    /// The session.
    pub session_id: Option<String>,
    /// The target.
    pub target: Option<TargetName>,
    /// The event itself.
    pub detail: serde_json::Value,
}
