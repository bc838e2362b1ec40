//! Documents of recorded sessions.

use serde::{Deserialize, Serialize};

use crate::domain::digest::Digest;
use crate::domain::ids::{GrantId, SessionId};
use crate::domain::names::{LoginName, PersonName, TargetName};

/// A session through a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedDoc {
    /// `jit-broker/session/v1`.
    pub schema: String,
    /// The session.
    pub id: SessionId,
    /// The grant that it is under.
    pub grant_id: GrantId,
    /// Whose it is.
    pub person: PersonName,
    /// Where it leads.
    pub target: TargetName,
    /// The account there.
    pub login: LoginName,
    /// `ssh`.
    pub kind: String,
    /// RFC 3339.
    pub opened_at: String,
    /// RFC 3339; none while it is open.
    pub closed_at: Option<String>,
    /// Why it is closed.
    pub cause: Option<String>,
    /// How long after the word that ended it the last byte could pass, in milliseconds.
    pub late_ms: Option<u64>,
    /// Bytes from the person, when it is closed.
    pub bytes_in: Option<u64>,
    /// Bytes to the person, when it is closed.
    pub bytes_out: Option<u64>,
    /// `live`, `sealed`, or nothing when there is none.
    pub recording: Option<String>,
    /// The length of the sealed recording, in bytes.
    pub recorded_bytes: Option<u64>,
    /// The last link of the sealed recording.
    pub sha256: Option<Digest>,
}

/// A line that was found in a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundDoc {
    /// `jit-broker/found/v1`.
    pub schema: String,
    /// In which session.
    pub session_id: SessionId,
    /// How long after its beginning, in milliseconds.
    pub at_ms: u64,
    /// The line, escaped.
    pub line: String,
}
