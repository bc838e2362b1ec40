//! Blobs that are put aside while a log is read: some in memory, the rest in a file without a name.
//!
//! True here: what was put is given back, however much it is. What never happens here: the file is seen by anybody else, or stays.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::domain::digest::Digest;

/// How much stays in memory, in bytes.
const MEMORY: usize = 64 << 20;

/// Where a blob lies.
enum Place {
    Memory(Vec<u8>),
    File { from: u64, length: usize },
}

/// Blobs by their SHA-256.
pub struct Blobs {
    blobs: HashMap<Digest, Place>,
    /// How much may still be kept in memory.
    room: usize,
    file: Option<File>,
    end: u64,
}

impl Default for Blobs {
    fn default() -> Self {
        Self::with_room(MEMORY)
    }
}

impl Blobs {
    fn with_room(room: usize) -> Self {
        Self { blobs: HashMap::new(), room, file: None, end: 0 }
    }

    /// True where it was put.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.blobs.contains_key(digest)
    }

    /// Puts a blob; where no file can be written, into memory, however much that takes.
    pub fn put(&mut self, digest: Digest, bytes: &[u8]) {
        let place = match self.room.checked_sub(bytes.len()) {
            Some(left) => {
                self.room = left;
                Place::Memory(bytes.to_vec())
            }
            None => self.write(bytes).unwrap_or_else(|_| Place::Memory(bytes.to_vec())),
        };
        self.blobs.insert(digest, place);
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<Place> {
        let file = match self.file.take() {
            Some(file) => file,
            None => nameless()?,
        };
        file.write_all_at(bytes, self.end)?;
        self.file = Some(file);
        let from = self.end;
        self.end += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Place::File { from, length: bytes.len() })
    }

    /// Gives a blob back.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn get(&self, digest: &Digest) -> io::Result<Option<Cow<'_, [u8]>>> {
        match (self.blobs.get(digest), &self.file) {
            (None, _) => Ok(None),
            (Some(Place::Memory(bytes)), _) => Ok(Some(Cow::Borrowed(bytes))),
            (Some(Place::File { from, length }), Some(file)) => {
                let mut bytes = vec![0; *length];
                file.read_exact_at(&mut bytes, *from)?;
                Ok(Some(Cow::Owned(bytes)))
            }
            (Some(Place::File { .. }), None) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// A file that is gone when it is closed.
fn nameless() -> io::Result<File> {
    let name = data_encoding::HEXLOWER.encode(&crate::clock::random16());
    let path = std::env::temp_dir().join(format!("jit-broker-{name}"));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn more_than_fits_into_memory_is_given_back_as_well() {
        let mut kept = Blobs::with_room(10);
        let blobs: Vec<Vec<u8>> = (0..20_u8).map(|n| vec![n; usize::from(n)]).collect();
        for blob in &blobs {
            kept.put(Digest::of(blob), blob);
        }
        assert!(kept.file.is_some() && kept.end > 100);
        for blob in &blobs {
            assert_eq!(kept.get(&Digest::of(blob)).unwrap().unwrap(), &blob[..]);
        }
        assert!(kept.get(&Digest::of(b"another")).unwrap().is_none());
        assert!(!kept.holds(&Digest::of(b"another")));
    }
}
