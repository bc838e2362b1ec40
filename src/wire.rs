//! The documents that API and command line exchange. Types alone; no logic.
//!
//! | route | takes | gives |
//! |---|---|---|
//! | `GET /v1/about` | – (public) | [`About`] |
//! | `POST /v1/challenge` | – (public) | [`Challenge`] |
//! | `POST /v1/acts` | [`ActPost`] (public: the signature is the sign-in) | [`Outcome`] |
//! | `GET /v1/krl` | – (public) | [`KrlDoc`] |
//! | `POST /v1/hosts/confirm` | [`crate::domain::act::SignedAct`] by the host's key (public) | [`Outcome`] |
//! | `GET /v1/log` | session | [`LogDoc`] |
//! | `GET /v1/authorities` | operators, auditors | [`List`] of [`AuthorityDoc`] |
//! | `POST /v1/authorities/{purpose}/next` | administrator | [`NextKey`] |
//! | `GET /v1/me` | session | [`Me`] |
//! | `GET /v1/targets` | session | [`List`] of [`TargetDoc`] |
//! | `GET /v1/why?target=&role=&for_s=&as=` | session (`as` another: operators, auditors) | [`WhyDoc`] |
//! | `GET /v1/requests?scope=mine\|answer\|all` | session (`all`: auditors) | [`List`] of [`RequestDoc`] |
//! | `GET /v1/requests/{id}?wait_s=` | requester, eligible approver, operator, auditor | [`RequestDoc`] |
//! | `GET /v1/requests/{id}/earlier` | as the request; other targets: operators, auditors | [`List`] of [`EarlierDoc`] |
//! | `GET /v1/grants?scope=mine\|all` | session (`all`: operators, auditors) | [`List`] of [`GrantDoc`] |
//! | `GET /v1/left` | session; only what concerns one, but operators and auditors all | [`LeftDoc`] |
//! | `GET /v1/grants/{id}` | holder, operator, auditor, approver | [`GrantDoc`] |
//! | `POST /v1/grants/{id}/credential` | holder: [`CredentialPost`] | [`CredentialDoc`] |
//! | `POST /v1/targets/{target}/test` | operators | [`List`] of [`LinkDoc`] |
//! | `GET /v1/hosts/{target}/certificate` | administrator | [`HostCertificate`] |
//! | `GET /v1/bundle` | session | [`BundleDoc`] |
//! | `GET /v1/people` | session | [`List`] of [`PersonDoc`] |
//! | `GET /v1/sessions?live=&person=&target=&before_seq=&limit=` | session; only one's own, but operators and auditors all | [`List`] of [`RecordedDoc`] |
//! | `GET /v1/sessions/{id}` | whose it is, operators, auditors | [`RecordedDoc`] |
//! | `GET /v1/sessions/{id}/recording?from=&wait_s=` | whose it is, auditors; an event | bytes of the file from that offset, and in `jit-recording` whether it is `live` or `sealed` |
//! | `GET /v1/sessions/search?text=` | session; only one's own, but auditors all; an event for each that is found | [`List`] of [`FoundDoc`] |
//! | `GET /v1/audit/events?…` | session; only what concerns one, but auditors all | [`List`] of [`EventDoc`] |
//! | `GET /v1/audit/export` | auditors, operators | lines of JSON |
//! | `GET /v1/audit/witnesses` | auditors, operators | [`List`] of [`WitnessDoc`] |
//! | `GET /v1/receipts/{about}` | whom the request or grant concerns, auditors | [`ReceiptDoc`] |
//! | `POST /v1/witness/add-checkpoint` | – (public): a log that this broker keeps notes of, C2SP tlog-witness | text |
//! | `GET /livez`, `GET /readyz` | – (public) | text |
//!
//! A request with the header `jit-seen: SIZE` is answered with `jit-checkpoint` (base64 of the newest signed note) and
//! `jit-proof` (base64 of the consistency proof from SIZE, hashes back to back), and `jit-trust` (the version of the authorities); the session travels as `authorization: Bearer …`.

mod authority;
mod earlier;
mod epoch;
mod error;
mod finding;
mod left;
mod receipt;
mod recorded;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use authority::{About, AuthorityDoc, HostCertificate, KrlDoc, LackingDoc, NextKey};
pub use earlier::EarlierDoc;
pub use epoch::{EpochDoc, LogDoc, ProposalDoc};
pub use error::ErrorDoc;
pub use finding::{FindingDoc, Health};
pub use left::{LeftDoc, ResidueDoc, StrangerDoc};
pub use receipt::{EventDoc, ProvenDoc, ReceiptDoc, WitnessDoc};
pub use recorded::{FoundDoc, RecordedDoc};

use crate::domain::act::Terms;
use crate::domain::database::Auth;
use crate::domain::digest::Digest;
use crate::domain::ids::{GrantId, RequestId};
use crate::domain::key::Key;
use crate::domain::names::{AccountName, DatabaseName, GroupName, LoginName, PersonName, RoleName, RuleId, TargetName};
use crate::domain::target::Allow;
use crate::domain::text::Words;

/// A challenge to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Opaque; used once, within a minute.
    pub challenge: String,
}

/// A signed act with what stands beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActPost {
    /// Canonical JSON of the act.
    pub act: String,
    /// Armored SSHSIG.
    pub signature: String,
    /// Reason and ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<Words>,
    /// The files of a bundle, for `apply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BTreeMap<String, String>>,
}

/// What came of an act.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The kinds of events that followed; none when it had been done before.
    pub events: Vec<String>,
    /// What is recorded, but not signed or published yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// The request it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestDoc>,
    /// The grants it was about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<GrantDoc>,
    /// A session, after sign-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionDoc>,
    /// A host certificate, after enrolment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostCertificate>,
}

/// A sign-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionDoc {
    /// Secret; goes into `authorization: Bearer`.
    pub token: String,
    /// Who signed in.
    pub person: PersonName,
    /// Until when.
    pub expires_at: i64,
}

/// Who one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    /// `jit-broker/me/v1`.
    pub schema: String,
    /// The name.
    pub person: PersonName,
    /// The groups.
    pub groups: Vec<GroupName>,
    /// `administrator`, `operator`, `auditor`.
    pub offices: Vec<String>,
    /// Until when the session holds; RFC 3339.
    pub expires_at: String,
}

/// A list of documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<T> {
    /// `jit-broker/<kind>-list/v1`.
    pub schema: String,
    /// The documents.
    pub items: Vec<T>,
    /// Where the next page begins.
    pub next: Option<u64>,
}

/// A target as one person sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetDoc {
    /// Its name.
    pub name: TargetName,
    /// `ssh`.
    pub kind: String,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// `direct` or `gateway`.
    pub mode: String,
    /// What rules select by.
    pub labels: BTreeMap<String, String>,
    /// The name that its host key is known by.
    pub alias: String,
    /// The line that goes into known_hosts.
    pub known_hosts: String,
    /// What a database has besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseDoc>,
    /// Its roles.
    pub roles: Vec<RoleDoc>,
}

/// A database as its clients need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseDoc {
    /// The database to log in to.
    pub name: DatabaseName,
    /// How accounts prove themselves.
    pub auth: Auth,
    /// The name in the server's certificate.
    pub tls_name: String,
    /// The authorities that may have signed it, PEM.
    pub tls_ca: String,
}

/// A role as one person sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleDoc {
    /// Its name.
    pub name: RoleName,
    /// The accounts.
    pub logins: Vec<LoginName>,
    /// What a session may do.
    pub allow: Vec<Allow>,
    /// Roles that this one is narrower than.
    pub narrower_than: Vec<RoleName>,
    /// What it gives on a database, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives: Option<String>,
    /// `automatic`, `ask`, `never` or `active`.
    pub verdict: String,
    /// The longest duration, in seconds.
    pub max_s: Option<u64>,
    /// Who answers.
    pub who: Vec<String>,
    /// The grant that is open.
    pub grant_id: Option<GrantId>,
    /// What is left of it, in seconds.
    pub left_s: Option<i64>,
}

/// What policy says, and the nearest thing that would be granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyDoc {
    /// `jit-broker/why/v1`.
    pub schema: String,
    /// Who asks.
    pub person: PersonName,
    /// The target.
    pub target: TargetName,
    /// The role.
    pub role: RoleName,
    /// `automatic`, `ask` or `never`.
    pub verdict: String,
    /// The rules that matched.
    pub rules: Vec<RuleId>,
    /// The longest duration, in seconds.
    pub max_s: Option<u64>,
    /// The shortest reason, in characters.
    pub min_reason_chars: Option<u32>,
    /// The form of a ticket.
    pub ticket_pattern: Option<String>,
    /// The steps.
    pub steps: Vec<StepDoc>,
    /// Why not.
    pub refusal: Option<ErrorDoc>,
    /// The command that would be granted.
    pub nearest: Option<String>,
}

/// One step of approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDoc {
    /// Its name.
    pub name: String,
    /// How many people.
    pub need: u32,
    /// Out of whom, as the rule says it.
    pub from: Vec<String>,
    /// Who may answer now.
    pub eligible: Vec<PersonName>,
    /// Who agreed.
    pub approved_by: Vec<PersonName>,
    /// True for the step that waits.
    pub open: bool,
    /// True where a security key must be touched.
    pub presence: bool,
}

/// `request/v1` (cli.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestDoc {
    /// `jit-broker/request/v1`.
    pub schema: String,
    /// Its id.
    pub id: RequestId,
    /// A word of product.md.
    pub state: String,
    /// The target.
    pub target: TargetName,
    /// The role.
    pub role: RoleName,
    /// Who asked.
    pub requester: PersonName,
    /// They asked inside ssh: the gateway says so, and nobody signed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attested: bool,
    /// Why; hostile text.
    pub reason: Option<String>,
    /// The ticket; hostile text.
    pub ticket: Option<String>,
    /// For how long, in seconds, as it stands.
    pub for_s: u64,
    /// When the window begins; at approval where absent.
    pub start_at: Option<String>,
    /// The grant that is to go on, where it is an extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<GrantId>,
    /// The end that was asked for, where it is an extension; RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub answer_by: String,
    /// The match code.
    pub code: String,
    /// The steps.
    pub steps: Vec<StepDoc>,
    /// The grant.
    pub grant_id: Option<GrantId>,
    /// SHA-256 of the request's signed act.
    pub digest: Digest,
    /// The terms that stand: what an approval signs.
    pub terms: Terms,
    /// The request's own act, so that an approver computes the digest themselves.
    pub act: Option<String>,
    /// Why it is over.
    pub refusal: Option<ErrorDoc>,
    /// Who said no.
    pub denied_by: Option<PersonName>,
    /// Their reason; hostile text.
    pub denial: Option<String>,
    /// Whether the asking person may answer now.
    pub yours: bool,
}

/// `grant/v1` (cli.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantDoc {
    /// `jit-broker/grant/v1`.
    pub schema: String,
    /// Its id.
    pub id: GrantId,
    /// Its request.
    pub request_id: RequestId,
    /// A word of product.md.
    pub state: String,
    /// The target.
    pub target: TargetName,
    /// The role.
    pub role: RoleName,
    /// Accounts that it opens.
    pub logins: Vec<LoginName>,
    /// Who holds it.
    pub person: PersonName,
    /// Keys that certificates may be for.
    pub keys: Vec<Key>,
    /// RFC 3339.
    pub starts_at: String,
    /// RFC 3339.
    pub ends_at: String,
    /// What is left of the window, in seconds.
    pub left_s: i64,
    /// RFC 3339.
    pub claim_by: String,
    /// Why it ended.
    pub cause: Option<String>,
    /// What was read back.
    pub proofs: Vec<ProofDoc>,
    /// While ending: the hosts that have not confirmed.
    pub waits_for: Vec<TargetName>,
    /// While ending: from when no host accepts a certificate of it; RFC 3339.
    pub latest_end: Option<String>,
    /// Its target is reached through the gateway.
    #[serde(default)]
    pub gateway: bool,
    /// Sessions that were opened through the gateway; none for direct targets.
    pub sessions: u64,
    /// The account on a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountName>,
    /// While it is residue: what is left on the target; hostile text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    /// What the account made and what is kept, under a role without rights; hostile text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}

/// What was read back when an access ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofDoc {
    /// What was looked at: `krl`, `host`, `expiry`, `session`.
    pub what: String,
    /// Whether it shows the end; absent where nobody can see it.
    pub ok: Option<bool>,
    /// RFC 3339.
    pub at: String,
    /// In words.
    pub detail: String,
}

/// Asks for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialPost {
    /// A key of the grant.
    pub key: Key,
    /// The SCRAM-SHA-256 verifier of the password that the client made, for accounts with passwords.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier: Option<String>,
}

/// `credential/v1` (cli.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialDoc {
    /// `jit-broker/credential/v1`.
    pub schema: String,
    /// Its serial in words.
    pub id: String,
    /// The grant.
    pub grant_id: GrantId,
    /// `ssh-user`, `x509-client` or `password`.
    pub kind: String,
    /// Unique for the CA, for ever.
    pub serial: u64,
    /// `jit:<grant>:<person>`.
    pub key_id: String,
    /// `target/login`.
    pub principals: Vec<String>,
    /// RFC 3339.
    pub valid_after: String,
    /// RFC 3339.
    pub valid_before: String,
    /// The same in Unix seconds.
    pub valid_before_s: i64,
    /// Of the certified key.
    pub fingerprint: String,
    /// One line of OpenSSH, or PEM; empty for a password.
    pub certificate: String,
    /// The account on a database, and how it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountDoc>,
    /// Where the client left the certificate on this machine; absent in the broker's own answer.
    #[serde(default)]
    pub path: Option<String>,
    /// Every file that belongs to it on this machine: the certificates of the logins, and the key.
    #[serde(default)]
    pub files: Vec<String>,
}

/// Everything that a client of a database needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountDoc {
    /// The account.
    pub user: AccountName,
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database and how the server is known.
    pub database: DatabaseDoc,
}

/// One link of the chain that a target needs (`target test`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkDoc {
    /// Such as `reach`, `tls`, `admin login`.
    pub what: String,
    /// Whether it holds; absent for a warning.
    pub ok: Option<bool>,
    /// What was seen; hostile text.
    pub detail: String,
    /// The SQL or the line of pg_hba.conf that is missing.
    pub todo: String,
}

/// The adopted bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleDoc {
    /// Its digest: the base of the next `apply`.
    pub digest: Digest,
    /// File name to text.
    pub files: BTreeMap<String, String>,
}

/// A person as others see them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonDoc {
    /// The name.
    pub name: PersonName,
    /// `person`, `machine` or `agent`.
    pub kind: String,
    /// The groups.
    pub groups: Vec<GroupName>,
    /// True when disabled.
    pub disabled: bool,
    /// Fingerprints of their keys.
    pub keys: Vec<String>,
}
