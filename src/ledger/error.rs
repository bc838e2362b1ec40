//! Why the ledger refuses.
//!
//! True here: SQLite's result codes become what a caller can act on. Start at [`LedgerError`].

use std::io;

/// Why a ledger cannot be opened, read or extended.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process writes this ledger.
    #[error("the ledger is held by another process{}", pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Held {
        /// The process that said so in the lock file, if it could be read.
        pid: Option<u32>,
    },
    /// The disk or the database is full; nothing was written.
    #[error("no space is left for the ledger")]
    Full,
    /// The file or its file system cannot be written.
    #[error("the ledger is read-only")]
    ReadOnly,
    /// What is stored is not what was written.
    #[error("the ledger is corrupt at leaf {seq}")]
    Corrupt {
        /// The first leaf that is wrong, missing or not accounted for.
        seq: u64,
    },
    /// A leaf is above 65 535 bytes, or a blob above 64 MiB.
    #[error("a leaf or blob is too large")]
    TooLarge,
    /// The file was written by a newer version.
    #[error("the ledger was written by a newer version")]
    Newer,
    /// There is no ledger at this path.
    #[error("there is no ledger here")]
    Missing,
    /// Anything else of the operating system or of SQLite.
    #[error("ledger: {0}")]
    Io(#[from] io::Error),
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        // SQLite's extended result code; its low byte is the primary one (sqlite.org/rescode.html).
        let code = error.as_database_error().and_then(|e| e.code()).and_then(|c| c.parse::<u32>().ok());
        // The index of the write-ahead log is shared memory; it fails to grow for lack of room alone.
        const SHM_SIZE: u32 = 4874;
        match (code.map(|c| if c == SHM_SIZE { 13 } else { c & 0xff }), error) {
            (Some(13), _) => Self::Full,
            (Some(8), _) => Self::ReadOnly,
            (Some(5 | 6), e) => Self::Io(io::Error::new(io::ErrorKind::WouldBlock, e)),
            (Some(11 | 26), e) => Self::Io(io::Error::new(io::ErrorKind::InvalidData, e)),
            (_, sqlx::Error::Io(e)) => Self::Io(e),
            (_, e @ (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))) => {
                Self::Io(io::Error::new(io::ErrorKind::InvalidData, e))
            }
            (_, e) => Self::Io(io::Error::other(e)),
        }
    }
}
