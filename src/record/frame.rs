//! What a recording is made of.

use serde::{Deserialize, Serialize};

use crate::domain::ids::{GrantId, SessionId};
use crate::domain::names::{LoginName, PersonName, TargetName};

/// What a recording begins with: whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The session.
    pub session: SessionId,
    /// The grant that it is under.
    pub grant: GrantId,
    /// Whose it is.
    pub person: PersonName,
    /// Where it leads.
    pub target: TargetName,
    /// The account there.
    pub login: LoginName,
    /// The client's address.
    pub from: String,
    /// When it was opened, in Unix milliseconds.
    pub opened_at_ms: i64,
    /// By which gateway.
    pub way: String,
}

/// One thing that happened in a session, on its way into the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A channel begins; one with a size is a terminal.
    Open {
        /// Its number within the session.
        channel: u32,
        /// `shell`, `exec`, `sftp`, `forward` …
        what: &'a str,
        /// The command, as it was sent.
        command: Option<&'a [u8]>,
        /// Columns and rows.
        size: Option<(u16, u16)>,
    },
    /// Bytes from the target.
    Output {
        /// Its channel.
        channel: u32,
        /// The bytes.
        data: &'a [u8],
    },
    /// Bytes from the target's error stream.
    Errors {
        /// Its channel.
        channel: u32,
        /// The bytes.
        data: &'a [u8],
    },
    /// Bytes from the person.
    Input {
        /// Its channel.
        channel: u32,
        /// The bytes.
        data: &'a [u8],
    },
    /// The terminal has another size.
    Resize {
        /// Its channel.
        channel: u32,
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
    /// A file was read, written, moved or removed.
    FileOp {
        /// Its channel.
        channel: u32,
        /// What, as a JSON object.
        json: &'a str,
    },
    /// A tunnel, whose content nobody sees.
    Forward {
        /// Its channel.
        channel: u32,
        /// Where to, as a JSON object.
        json: &'a str,
    },
    /// The command ended.
    Exit {
        /// Its channel.
        channel: u32,
        /// Its exit status.
        status: Option<u32>,
        /// The signal that ended it.
        signal: Option<&'a str>,
    },
    /// A channel is closed.
    Close {
        /// Its number.
        channel: u32,
    },
    /// A word of the broker: a warning, or why the session was cut.
    Note {
        /// What it says.
        text: &'a str,
    },
}

/// A frame as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped {
    /// How long after the beginning of the session, in microseconds.
    pub at_us: u64,
    /// Its channel; 0 for notes.
    pub channel: u32,
    /// What happened.
    pub what: Stored,
}

/// What happened, as it is read back. The fields are those of [`Frame`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Stored {
    Open {
        what: String,
        command: Option<Vec<u8>>,
        size: Option<(u16, u16)>,
    },
    Output(Vec<u8>),
    Errors(Vec<u8>),
    Input(Vec<u8>),
    /// Something was typed that the terminal did not show; what it was is not stored.
    Hidden,
    Resize {
        cols: u16,
        rows: u16,
    },
    FileOp(String),
    Forward(String),
    Exit {
        status: Option<u32>,
        signal: Option<String>,
    },
    Close,
    Note(String),
}

impl Stored {
    /// The word by which exports call it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Output(_) => "output",
            Self::Errors(_) => "errors",
            Self::Input(_) => "input",
            Self::Hidden => "hidden",
            Self::Resize { .. } => "resize",
            Self::FileOp(_) => "file",
            Self::Forward(_) => "forward",
            Self::Exit { .. } => "exit",
            Self::Close => "close",
            Self::Note(_) => "note",
        }
    }
}
