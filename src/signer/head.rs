//! The file in which the signer remembers its head, written in place: two slots in turn, so that a write that breaks off leaves the other.
//!
//! A new file with its name changed costs two flushes of the file system's own journal for every batch of the log; this costs one of 4 KiB.
//! Each slot is one line, filled up with blanks: the head as JSON, a tab, which write it is, a tab, and a checksum over both. A file that is
//! nothing but JSON is one that an earlier version or a restore wrote.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::keys::{io_refusal, replace};
use crate::domain::refusal::Refusal;

/// The least size of a slot, in bytes: a page, which a disk writes whole or not at all.
const SLOT: usize = 4096;

fn sum(n: u64, head: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::new().chain_update(n.to_be_bytes()).chain_update(head).finalize())
}

/// The number of a whole slot, and its head.
fn whole(line: &str) -> Option<(u64, &str)> {
    let (rest, said) = line.trim_end().rsplit_once('\t')?;
    let (head, n) = rest.rsplit_once('\t')?;
    let n = n.parse().ok()?;
    (said == sum(n, head)).then_some((n, head))
}

/// The head that was written last, from the text of the file.
pub fn newest(text: &str) -> &str {
    text.lines().filter_map(whole).max_by_key(|(n, _)| *n).map_or(text, |(_, head)| head)
}

/// The file, open for as long as the signer runs.
#[derive(Debug)]
pub struct HeadFile {
    path: PathBuf,
    /// Open once it has slots.
    file: Option<File>,
    size: usize,
    n: u64,
}

impl HeadFile {
    /// The file at a path, which is not touched yet.
    pub fn at(path: PathBuf) -> Self {
        Self { path, file: None, size: SLOT, n: 0 }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a head; it is on the disk when this returns. After an error the one before it stays.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&mut self, head: &str) -> Result<(), Refusal> {
        let n = self.n + 1;
        let mut line = format!("{head}\t{n}\t{}", sum(n, head)).into_bytes();
        match &self.file {
            // INVARIANT: never the slot that was written last.
            Some(file) if line.len() < self.size => {
                line.resize(self.size - 1, b' ');
                line.push(b'\n');
                let at = (n % 2) * self.size as u64;
                let written = still_there(file, &self.path)
                    .and_then(|()| file.write_all_at(&line, at))
                    .and_then(|()| file.sync_data());
                written.map_err(|e| io_refusal(&self.path, &e))?;
            }
            _ => self.begin(line)?,
        }
        self.n = n;
        Ok(())
    }

    /// Makes the file anew, with room for this line in both slots.
    fn begin(&mut self, mut line: Vec<u8>) -> Result<(), Refusal> {
        let size = (2 * line.len()).next_power_of_two().max(SLOT);
        line.resize(size - 1, b' ');
        line.push(b'\n');
        replace(&self.path, &[line.as_slice(), &line].concat(), 0o600)?;
        let opened = OpenOptions::new().read(true).write(true).open(&self.path);
        (self.file, self.size) = (Some(opened.map_err(|e| io_refusal(&self.path, &e))?), size);
        Ok(())
    }
}

/// SECURITY: a file that was moved away or replaced would be written for nobody, and what is signed then could not be told from a roll back.
fn still_there(file: &File, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let (ours, theirs) = (file.metadata()?, std::fs::symlink_metadata(path)?);
    if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
        Ok(())
    } else {
        Err(io::Error::other("it is another file than the signer opened"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn kept(path: &Path) -> String {
        newest(&std::fs::read_to_string(path).unwrap()).to_owned()
    }

    #[test]
    fn the_last_that_was_written_whole_is_the_head() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head.json");
        let mut file = HeadFile::at(path.clone());
        for n in 0..5 {
            file.write(&format!("{{\"size\":{n}}}")).unwrap();
            assert_eq!(kept(&path), format!("{{\"size\":{n}}}"));
        }
        // A write that broke off anywhere: the one before it counts.
        let (good, before) = (std::fs::read(&path).unwrap(), "{\"size\":4}");
        file.write("{\"size\":5}").unwrap();
        let after = std::fs::read(&path).unwrap();
        for cut in 0..after.len() {
            let torn = [&after[..cut], &good[cut..]].concat();
            let torn = String::from_utf8(torn).unwrap();
            let found = newest(&torn);
            assert!(found == before || found == "{\"size\":5}", "{cut}: {found}");
        }
        let begun = SLOT * usize::from(after[..SLOT] == good[..SLOT]);
        let torn = [&after[..begun + 40], &good[begun + 40..]].concat();
        assert_eq!(newest(&String::from_utf8(torn).unwrap()), before);
    }

    #[test]
    fn one_line_of_an_earlier_version_is_read_and_a_long_head_makes_room() {
        assert_eq!(newest("{\"size\":9}"), "{\"size\":9}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head.json");
        std::fs::write(&path, "{\"size\":9}").unwrap();
        let mut file = HeadFile::at(path.clone());
        for length in [10, 3000, 5000, 100_000, 20] {
            let head = format!("\"{}\"", "x".repeat(length));
            file.write(&head).unwrap();
            assert_eq!(kept(&path), head);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len() % SLOT as u64, 0);
    }

    #[test]
    fn a_file_that_was_replaced_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head.json");
        let mut file = HeadFile::at(path.clone());
        file.write("1").unwrap();
        std::fs::copy(&path, dir.path().join("old")).unwrap();
        std::fs::rename(dir.path().join("old"), &path).unwrap();
        assert!(file.write("2").is_err());
        assert_eq!(kept(&path), "1");
    }
}
