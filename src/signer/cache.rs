//! A snapshot's file: written whole, flushed, and put in its place only when somebody vouches for it; private to its owner.
//!
//! The signer's own file is vouched for by its head, the broker's by a leaf of the log. Nobody reads the other's.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::domain::snapshot::{Restored, Snapshot, SnapshotError, Still};

/// How many entries are worth a snapshot at a stop.
pub const WORTH: u64 = 1_000;
/// How many entries are folded between two snapshots, at least.
const EVERY: u64 = 10_000;

/// Where a snapshot lies.
#[derive(Debug, Clone)]
pub struct Cache {
    path: PathBuf,
}

/// How many entries there are between two snapshots of a state with so many objects: writing costs as much as there are objects.
pub fn every(objects: usize) -> u64 {
    EVERY.max(u64::try_from(objects).unwrap_or(u64::MAX))
}

impl Cache {
    /// Names the file; nothing is read yet.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn fresh(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        name.into()
    }

    /// Removes one that was not written to its end; only while nobody writes.
    pub fn tidy(&self) {
        let _ = fs::remove_file(self.fresh());
    }

    /// Writes a snapshot beside the one that is in use, and flushes it.
    ///
    /// # Errors
    /// What the disk says; the one in use stays.
    pub fn write(&self, still: &Still) -> Result<Snapshot, SnapshotError> {
        let fresh = self.fresh();
        // SECURITY: made anew, so that a file that lies there with another mode, or a link, is not written to.
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let sha256 = still.write(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        Ok(Snapshot { size: still.size(), sha256 })
    }

    /// Puts what [`Cache::write`] wrote in its place.
    ///
    /// # Errors
    /// What the disk says.
    pub fn keep(&self) -> Result<(), SnapshotError> {
        fs::rename(self.fresh(), &self.path)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        Ok(File::open(folder)?.sync_all()?)
    }

    /// Reads the snapshot in use. Its SHA-256 and size are the caller's to compare.
    ///
    /// # Errors
    /// When there is none, or it is not one of this version.
    pub fn read(&self) -> Result<Restored, SnapshotError> {
        Restored::read(&mut BufReader::with_capacity(1 << 20, File::open(&self.path)?))
    }
}
