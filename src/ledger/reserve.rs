//! Room on the disk that is kept for ends.
//!
//! True here: while the reserve stands anything may be written; when the disk is full it is given up, and from then on
//! only ends are written, until it can be made again. Start at [`Reserve::stand`].

use super::beside;
use super::error::LedgerError;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How much is kept, in bytes: room for about a thousand revocations that come one at a time, each with its checkpoint
/// and its revocation list (security.md F15).
pub const RESERVE_BYTES: u64 = 64 << 20;

/// The file `<ledger>.reserve`; clones share it.
#[derive(Debug, Clone)]
pub struct Reserve {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    stands: Mutex<bool>,
}

impl Reserve {
    /// Names the reserve of a ledger; nothing is made yet.
    pub fn beside(ledger: &Path) -> Self {
        let (path, stands) = (beside(ledger, ".reserve"), Mutex::new(false));
        Self { inner: Arc::new(Inner { path, stands }) }
    }

    /// Makes sure that the reserve is there; costs nothing while it is.
    ///
    /// # Errors
    /// [`LedgerError::Full`] when there is no room for it, [`LedgerError::ReadOnly`], [`LedgerError::Io`].
    pub fn stand(&self) -> Result<(), LedgerError> {
        let mut stands = self.inner.stands.lock().unwrap_or_else(PoisonError::into_inner);
        if *stands {
            return Ok(());
        }
        match allocate(&self.inner.path) {
            Ok(()) => {
                *stands = true;
                Ok(())
            }
            Err(error) => {
                // A part of a reserve only takes room from the ends.
                let _ = std::fs::remove_file(&self.inner.path);
                Err(match error.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LedgerError::Full,
                    io::ErrorKind::ReadOnlyFilesystem => LedgerError::ReadOnly,
                    _ => LedgerError::Io(error),
                })
            }
        }
    }

    /// True while it is there.
    pub fn stands(&self) -> bool {
        *self.inner.stands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the room away; true when there was some.
    pub fn spend(&self) -> bool {
        let mut stands = self.inner.stands.lock().unwrap_or_else(PoisonError::into_inner);
        *stands = false;
        std::fs::remove_file(&self.inner.path).is_ok()
    }
}

fn allocate(path: &Path) -> io::Result<()> {
    if let Ok(found) = std::fs::metadata(path)
        && found.len() == RESERVE_BYTES
        && found.blocks() * 512 >= RESERVE_BYTES
    {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
        Err(rustix::io::Errno::OPNOTSUPP) => fill(&file)?,
        other => other?,
    }
    file.sync_all()
}

/// For file systems that cannot allocate ahead.
fn fill(mut file: &File) -> io::Result<()> {
    let zeroes = vec![0; 1 << 20];
    (0..RESERVE_BYTES >> 20).try_for_each(|_| file.write_all(&zeroes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_takes_the_room_and_gives_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::beside(&folder.path().join("ledger.db"));
        let path = folder.path().join("ledger.db.reserve");
        assert!(!reserve.spend() && !reserve.stands(), "there is nothing yet");
        reserve.stand().unwrap();
        assert!(reserve.stands());
        let found = std::fs::metadata(&path).unwrap();
        assert!(found.blocks() * 512 >= RESERVE_BYTES, "the blocks are really taken");
        assert_eq!(found.mode() & 0o777, 0o600);
        // A copy without its blocks is no reserve.
        std::fs::remove_file(&path).unwrap();
        std::fs::File::create(&path).unwrap().set_len(RESERVE_BYTES).unwrap();
        let again = Reserve::beside(&folder.path().join("ledger.db"));
        again.stand().unwrap();
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= RESERVE_BYTES);
        assert!(again.spend() && !again.stands() && !path.exists());
        // Where it cannot be made nothing is left behind.
        let nowhere = Reserve::beside(&folder.path().join("missing/ledger.db"));
        assert!(matches!(nowhere.stand(), Err(LedgerError::Io(_))));
    }
}
