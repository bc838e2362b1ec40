//! The ledger: an append-only Merkle log of opaque leaves, with blobs beside it, in one SQLite file.
//!
//! True here: a batch is durable, read back and hashed again before the tree in memory takes it; the exact bytes of a
//! leaf are stored once; one process writes. What never happens here: no clock, no randomness, no key, no meaning of a
//! leaf; nothing is updated or deleted except shreddable blobs. SQL stands in `sqlite.rs` only.
//!
//! Start at [`Ledger::append`]; then `tree.rs` for the hashes, `note.rs` for checkpoints, `verify.rs` for the judgement.

pub mod cosign;
mod error;
pub mod export;
mod findings;
pub mod note;
mod proof;
mod reader;
pub mod reserve;
mod sqlite;
pub mod tlog_proof;
pub mod tree;
pub mod verify;
mod walk;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_attacks;
#[cfg(test)]
mod tests_exports;
#[cfg(test)]
mod tests_proofs;
#[cfg(test)]
mod tests_store;

pub use error::LedgerError;
pub use export::export_jsonl;
pub use note::{Checkpoint, NoteError, NoteSigner, SignedNote};
pub use reader::Reader;
pub use reserve::Reserve;
pub use tree::{Frontier, Hash, ProofError, blob_hash, leaf_hash};

use rustix::fs::{FlockOperation, flock};
use sqlite::{Durable, InsertLeaf, Tile, Version};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// The largest leaf, in bytes: tile bundles have a 16-bit length (C2SP tlog-tiles).
pub const MAX_LEAF: usize = 65_535;
/// The largest blob, in bytes.
pub const MAX_BLOB: usize = 64 * 1024 * 1024;

/// What [`Ledger::open`] may find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Makes the file where there is none; takes one without leaves; refuses one with leaves.
    Create,
    /// Takes a ledger that is there.
    Write,
}

/// The columns by which a leaf is found; derived from the leaf by the caller, and never trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// When it happened, in Unix seconds.
    pub at: i64,
    /// The kind of event.
    pub kind: String,
    /// Who did it.
    pub actor: Option<String>,
    /// The request that it is about.
    pub request_id: Option<String>,
    /// The grant that it is about.
    pub grant_id: Option<String>,
    /// The session that it is about.
    pub session_id: Option<String>,
    /// The target that it is about.
    pub target: Option<String>,
}

/// Whether a blob may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The log cannot be folded without it.
    Required,
    /// Personal text that may be deleted; the tree stays whole.
    Shreddable,
}

impl Keep {
    fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Shreddable => "shreddable",
        }
    }

    /// The column has a CHECK; after tampering the stricter reading holds.
    fn parse(text: &str) -> Self {
        if text == "shreddable" { Self::Shreddable } else { Self::Required }
    }
}

/// Bytes beside the log, found by their SHA-256, which a leaf holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The bytes, at most [`MAX_BLOB`].
    pub bytes: Vec<u8>,
    /// Whether it may be deleted.
    pub keep: Keep,
}

/// A leaf to append, with the blobs that become durable together with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLeaf {
    /// The exact bytes, at most [`MAX_LEAF`].
    pub bytes: Vec<u8>,
    /// How it is found.
    pub row: Row,
    /// Its blobs.
    pub blobs: Vec<Blob>,
}

/// A leaf as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLeaf {
    /// Its index.
    pub seq: u64,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The index of its first leaf.
    pub first_seq: u64,
    /// The number of leaves after it.
    pub size: u64,
    /// The root after it.
    pub root: Hash,
}

/// What [`Reader::search`] looks for; what is `None` matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The kind, exactly.
    pub kind: Option<String>,
    /// The actor, exactly.
    pub actor: Option<String>,
    /// The request, exactly.
    pub request_id: Option<String>,
    /// The grant, exactly.
    pub grant_id: Option<String>,
    /// The session, exactly.
    pub session_id: Option<String>,
    /// One of these sessions, exactly.
    pub sessions: Option<Vec<String>>,
    /// The target, exactly.
    pub target: Option<String>,
    /// Text anywhere in the leaf; the case of ASCII letters does not matter.
    pub text: Option<String>,
    /// From this instant on, in Unix seconds.
    pub since_at: Option<i64>,
    /// To this instant, inclusive, in Unix seconds.
    pub until_at: Option<i64>,
    /// Only leaves before this index: the last one of the page before.
    pub before_seq: Option<u64>,
    /// At most this many leaves; never more than 1000.
    pub limit: u32,
}

/// The one writer of a ledger.
///
/// INVARIANT: the tree in memory holds only leaves that were read back from the store and hashed again.
#[derive(Debug)]
pub struct Ledger {
    conn: SqliteConnection,
    /// For checkpoints.
    notes: SqliteConnection,
    /// The writer's own way to read, which readers cannot keep from it.
    reader: Reader,
    shared: Reader,
    reserve: Reserve,
    frontier: Frontier,
    last_hash: Hash,
    // Declared last, dropped last: the lock outlives the connection's handle.
    _lock: Lock,
}

/// The lock of the one writer. Given back by word, because a program that is just being started by another thread of this process has
/// the descriptor as well until it is exec'ed, and would hold it for a moment longer.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl Ledger {
    /// Opens the ledger at `path` for writing and takes the lock `<path>.lock` until it is dropped.
    ///
    /// The tree is rebuilt from stored hashes; only the leaves after the last full tile are hashed again. The caller
    /// compares the root with a checkpoint.
    ///
    /// # Errors
    /// [`LedgerError::Held`], [`LedgerError::Missing`], [`LedgerError::Newer`], [`LedgerError::Corrupt`] at the first
    /// leaf that disagrees; [`LedgerError::Io`] (`AlreadyExists`) when `Create` finds leaves.
    pub async fn open(path: &Path, mode: OpenMode) -> Result<Self, LedgerError> {
        if mode == OpenMode::Write && !path.try_exists()? {
            return Err(LedgerError::Missing);
        }
        let lock = take_lock(path)?;
        prepare_file(path, mode)?;
        let reserve = Reserve::beside(path);
        // SQLite needs a little room to open; on a full disk that is what the reserve is for.
        let mut conn = match sqlite::connect_writer(path, Durable::AtOnce).await {
            Err(LedgerError::Full) if reserve.spend() => sqlite::connect_writer(path, Durable::AtOnce).await?,
            other => other?,
        };
        match (sqlite::version_of(&mut conn).await?, mode) {
            (Version::Ours, _) => {}
            (Version::Empty, OpenMode::Create) => sqlite::create(&mut conn).await?,
            (Version::Newer, _) => return Err(LedgerError::Newer),
            (Version::Empty, OpenMode::Write) => return Err(LedgerError::Missing),
            (Version::Foreign, _) => return Err(io::Error::new(io::ErrorKind::InvalidData, "not a ledger").into()),
        }
        let notes = sqlite::connect_writer(path, Durable::WithTheNext).await?;
        let reader = Reader::open(path).await?;
        let shared = Reader::open(path).await?;
        let (frontier, last_hash) = reader.load_tree().await?;
        if mode == OpenMode::Create && frontier.size() > 0 {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the ledger has leaves").into());
        }
        Ok(Self { conn, notes, reader, shared, reserve, frontier, last_hash, _lock: lock })
    }

    /// Tells how many leaves there are.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Computes the root.
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// Shows the tree's frontier.
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// Hands out a reader; it stays valid after the ledger is dropped.
    pub fn reader(&self) -> Reader {
        self.shared.clone()
    }

    /// Hands out the writer's own reader: what is needed to go on writing must not wait for other readers.
    pub fn own_reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Hands out the room that is kept for ends.
    pub fn reserve(&self) -> Reserve {
        self.reserve.clone()
    }

    /// Appends a batch in one transaction, reads it back, hashes it again and compares.
    ///
    /// An empty batch changes nothing. Not cancel-safe: when the future is dropped, or a commit fails without saying
    /// whether it is durable, the store may be ahead of the tree; the next append then says `Corrupt` until the ledger
    /// is opened again.
    ///
    /// # Errors
    /// [`LedgerError::TooLarge`], [`LedgerError::Full`], [`LedgerError::ReadOnly`], [`LedgerError::Corrupt`]; the tree in
    /// memory is unchanged.
    pub async fn append(&mut self, leaves: Vec<NewLeaf>) -> Result<Appended, LedgerError> {
        let first_seq = self.size();
        let blobs: Vec<(Hash, &Blob)> =
            leaves.iter().flat_map(|l| &l.blobs).map(|b| (blob_hash(&b.bytes), b)).collect();
        if leaves.iter().any(|l| l.bytes.len() > MAX_LEAF) || blobs.iter().any(|(_, b)| b.bytes.len() > MAX_BLOB) {
            return Err(LedgerError::TooLarge);
        }
        let (mut frontier, mut last_hash) = (self.frontier.clone(), self.last_hash);
        let (mut tiles, mut rows) = (Vec::new(), Vec::with_capacity(leaves.len()));
        for leaf in &leaves {
            let hash = leaf_hash(&leaf.bytes);
            push_with_tiles(&mut frontier, hash, &mut tiles);
            rows.push(InsertLeaf { bytes: &leaf.bytes, hash, prev_hash: last_hash, row: &leaf.row });
            last_hash = hash;
        }
        if !rows.is_empty() {
            sqlite::insert(&mut self.conn, first_seq, &rows, &tiles, &blobs).await?;
            if let Err(error) = self.reader.read_back(first_seq, &rows, &blobs).await {
                // A transaction that a dropped future left open has taken them in and not made them durable.
                sqlite::undo(&mut self.conn).await;
                return Err(error);
            }
        }
        self.frontier = frontier;
        self.last_hash = last_hash;
        Ok(Appended { first_seq, size: self.size(), root: self.root() })
    }

    /// Stores a checkpoint of `size` leaves; the same text twice is stored once.
    ///
    /// It is on the disk with the next batch at the latest: what a loss of power takes away before that, whoever signed it signs again.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] when the ledger is shorter than `size`; else as [`Ledger::append`].
    pub async fn put_checkpoint(&mut self, note: &SignedNote, size: u64) -> Result<(), LedgerError> {
        if size > self.size() {
            return Err(LedgerError::Corrupt { seq: self.size() });
        }
        sqlite::insert_checkpoint(&mut self.notes, &note.text, size).await
    }

    /// Deletes shreddable blobs for good; required ones and unknown hashes stay untouched. Tells how many went.
    ///
    /// # Errors
    /// [`LedgerError::ReadOnly`], [`LedgerError::Io`].
    pub async fn shred(&mut self, hashes: &[Hash]) -> Result<u64, LedgerError> {
        sqlite::shred(&mut self.conn, hashes).await
    }

    /// Closes the file; the lock is free on return.
    ///
    /// # Errors
    /// [`LedgerError::Io`]; what was appended is durable anyway.
    pub async fn close(self) -> Result<(), LedgerError> {
        self.reader.close().await;
        self.shared.close().await;
        self.notes.close().await?;
        Ok(self.conn.close().await?)
    }
}

/// Adds a leaf and collects the subtrees of 256, 65 536, ... leaves that it completes.
fn push_with_tiles(frontier: &mut Frontier, hash: Hash, tiles: &mut Vec<Tile>) {
    frontier.push_seen(hash, &mut |height, idx, hash| {
        if height.is_multiple_of(8) {
            tiles.push(Tile { level: height / 8, idx, hash: *hash });
        }
    });
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The process that writes a ledger, where one does.
pub fn held_by(path: &Path) -> Option<i32> {
    let mut file = File::open(beside(path, ".lock")).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            Read::by_ref(&mut file).take(20).read_to_string(&mut text).ok()?;
            text.trim().parse().ok()
        }
        // Nobody does: what stands in it is of a process that is gone.
        _ => None,
    }
}

/// The file of the lock. One that root makes belongs to whoever has the ledger: a service must take it afterwards.
fn lock_file(path: &Path) -> io::Result<File> {
    let lock = beside(path, ".lock");
    let mut options = OpenOptions::new();
    // SECURITY: root opens it in a folder of a service's: no link of theirs is followed.
    options.read(true).write(true).mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    match options.clone().create_new(true).open(&lock) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(&lock),
        Ok(file) if rustix::process::geteuid().is_root() && path.try_exists()? => {
            let owner = std::fs::metadata(path)?;
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
            Ok(file)
        }
        other => other,
    }
}

fn take_lock(path: &Path) -> Result<Lock, LedgerError> {
    let mut file = lock_file(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let pid =
                Read::by_ref(&mut file).take(20).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(LedgerError::Held { pid });
        }
        Err(error) => return Err(io::Error::from(error).into()),
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Lock(file))
}

/// Makes the file private; SQLite gives its write-ahead log the same mode.
fn prepare_file(path: &Path, mode: OpenMode) -> Result<(), LedgerError> {
    if mode == OpenMode::Create && !path.try_exists()? {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.sync_all()?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    let found = std::fs::metadata(path)?.permissions().mode();
    if found & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    Ok(())
}
