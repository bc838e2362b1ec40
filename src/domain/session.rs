//! A session: one connection of a person through a gateway, under one grant.

use jit_ca::spec::Cidr;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::event::Cause;
use super::ids::{GrantId, SessionId};
use super::key::Key;
use super::names::{LoginName, PersonName, TargetName};
use super::target::Address;

/// The name that the SSH gateway has besides its address: what clients check its host certificate against, wherever it is.
pub const GATEWAY_ALIAS: &str = "jit-gateway";

/// A gateway as clients and targets see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// What clients connect to.
    pub address: Address,
    /// The ranges from which it reaches its targets, as they see it.
    pub source: Vec<Cidr>,
}

/// The most open sessions under one grant.
pub const MAX_SESSIONS: usize = 256;
/// The most sessions under one grant in all: their serials stand in one entry when it is ended early, and an entry stays below 64 KiB.
pub const MAX_LEGS: usize = 4_000;

/// The key and certificate with which a gateway opens the target for one session. The private half never leaves its memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leg {
    /// Unique for the user CA, for ever.
    pub serial: u64,
    /// The gateway's key.
    pub key: Key,
    /// Valid from, in Unix seconds.
    pub valid_after: i64,
    /// Not valid from this second on: the grant's end.
    pub valid_before: i64,
    /// The ranges that the certificate may be used from: the gateway's own addresses.
    pub source: Vec<String>,
    /// The certificate's nonce.
    pub nonce: Digest,
    /// SHA-256 of the exact bytes that are signed.
    pub tbs_sha256: Digest,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The grant that it is under.
    pub grant: GrantId,
    /// Whose it is.
    pub person: PersonName,
    /// Where it leads.
    pub target: TargetName,
    /// The account there.
    pub login: LoginName,
    /// The key that the person proved to have.
    pub by_key: Key,
    /// Since when, in Unix seconds.
    pub opened_at: i64,
    /// Who asked that it be ended, while it is still open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_asked_by: Option<PersonName>,
    /// With what it opens the target.
    pub leg: Leg,
}

/// Why a session closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionCause {
    /// The person closed it, or their network did.
    Closed,
    /// The target closed it.
    TargetClosed,
    /// The target could not be reached.
    TargetAway,
    /// The target showed another key than the inventory says.
    HostkeyMismatch,
    /// The grant's window ended.
    WindowEnd,
    /// The grant was given back.
    Released,
    /// The grant was ended by somebody.
    Revoked,
    /// Its holder was disabled.
    PersonDisabled,
    /// Somebody ended this session alone.
    EndedBy,
    /// What happened could not be recorded any more.
    RecordingLost,
    /// The daemon stopped in good order.
    Drained,
    /// The daemon was gone without closing it; told at the next start.
    Lost,
}

impl SessionCause {
    /// The word of session/v1.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::TargetClosed => "target-closed",
            Self::TargetAway => "target-away",
            Self::HostkeyMismatch => "hostkey-mismatch",
            Self::WindowEnd => "window-end",
            Self::Released => "released",
            Self::Revoked => "revoked",
            Self::PersonDisabled => "person-disabled",
            Self::EndedBy => "ended-by",
            Self::RecordingLost => "recording-lost",
            Self::Drained => "drained",
            Self::Lost => "lost",
        }
    }
}

impl From<Cause> for SessionCause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::WindowEnd => Self::WindowEnd,
            Cause::Released => Self::Released,
            Cause::Revoked => Self::Revoked,
            Cause::PersonDisabled => Self::PersonDisabled,
        }
    }
}

/// What a closed recording is known by for ever: any other bytes are another recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// The file's length in bytes.
    pub bytes: u64,
    /// How many chunks it has.
    pub chunks: u64,
    /// The last link of the chain of hashes over its chunks.
    pub sha256: Digest,
}

impl SessionEnd {
    /// An end before any byte passed.
    pub fn nothing(cause: SessionCause) -> Self {
        Self { cause, late_ms: None, bytes_in: 0, bytes_out: 0, recording: None }
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionEnd {
    /// Why.
    pub cause: SessionCause,
    /// How long after the end of its grant (or the word that ended it) the last byte could pass, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_ms: Option<u64>,
    /// Bytes from the person to the target.
    pub bytes_in: u64,
    /// Bytes from the target to the person.
    pub bytes_out: u64,
    /// The recording; absent when nothing could be recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<Sealed>,
}
