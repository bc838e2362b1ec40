//! What can go wrong with a recording.

use std::io;
use std::sync::Arc;

/// Why something is not recorded or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Less than 5 % of the disk is free: no new session is recorded.
    #[error("only {permille_free} ‰ of the disk for recordings are free; new sessions need 50 ‰")]
    Room {
        /// What is free.
        permille_free: u64,
    },
    /// Something could not be written; final for this recording.
    #[error("the recording is lost: {why}")]
    Lost {
        /// Why.
        why: Arc<str>,
    },
    /// It is sealed.
    #[error("the recording is sealed")]
    Closed,
    /// A command, a name or a note that is longer than 1 MiB.
    #[error("longer than what is recorded as one piece")]
    TooLong,
    /// Another terminal, where a session has as many as are looked at.
    #[error("the session has too many terminals")]
    TooMany,
    /// What was said can be taken in two ways, so nobody could say afterwards what happened.
    #[error("what was said cannot be followed")]
    Unfollowed,
    /// There is no such recording.
    #[error("there is no recording of this session")]
    Missing,
    /// The folder or a file.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl RecordError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ => Self::Io { what, source },
        }
    }
}
