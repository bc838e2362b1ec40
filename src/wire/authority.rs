//! Documents of the authorities: what a broker is, whom to trust, and how a replacement stands.

use serde::{Deserialize, Serialize};

use crate::domain::authority::{Purpose, SignedTrust};
use crate::domain::ids::InstallId;
use crate::domain::key::Key;
use crate::domain::names::TargetName;

/// What a broker is, for everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The program's version.
    pub version: String,
    /// The installation.
    pub install: InstallId,
    /// The name of the log: the first line of its checkpoints.
    pub origin: String,
    /// The Ed25519 key of the log.
    pub log_key: Key,
    /// The user CA.
    pub ssh_user: Key,
    /// The host CA.
    pub ssh_host: Key,
    /// The authority over user certificates for the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_gateway: Option<Key>,
    /// The server CA's certificate, PEM.
    pub server_ca_pem: String,
    /// The client CA's certificate, PEM: what database servers trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x509_client: Option<String>,
    /// Whom to trust while authorities are replaced, and after; a broker of an earlier version does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<SignedTrust>,
    /// The address that sign-in names.
    pub public_url: String,
}

/// The revocation list with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KrlDoc {
    /// Rises with every publication.
    pub version: u64,
    /// Base64 of the file (PROTOCOL.krl).
    pub krl: String,
    /// Armored SSHSIG by the user CA over the file, namespace `krl@jit-broker`.
    pub signature: String,
    /// Whom to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<SignedTrust>,
}

/// A host certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCertificate {
    /// The target.
    pub target: TargetName,
    /// One line.
    pub certificate: String,
}

/// How the replacement of an authority stands. Public halves are OpenSSH keys or certificates as PEM; of the server's authority fingerprints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityDoc {
    /// What it signs.
    pub purpose: Purpose,
    /// `steady`, `staged` (the new key is trusted) or `active` (it signs; the old one is trusted still).
    pub phase: String,
    /// The key that signs.
    pub active: String,
    /// The key that will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The key that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<String>,
    /// Since when it stands so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Who would be shut out by the next step.
    pub lacking: Vec<LackingDoc>,
}

/// Somebody who has not heard of a new key, or still needs the old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LackingDoc {
    /// A target, a grant, or `clients`.
    pub who: String,
    /// What is missing, and what to do.
    pub why: String,
}

/// The key that will replace an authority's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextKey {
    /// What it will sign.
    pub purpose: Purpose,
    /// The public half, as an act names it.
    pub public: String,
}
