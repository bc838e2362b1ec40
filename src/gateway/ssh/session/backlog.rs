//! What a target has not taken yet: some of it in memory, the rest in a file without a name, all of it bounded.
//!
//! The gateway must read what a client sends even when the target takes nothing, because one channel that is not read holds up every
//! channel of its connection.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

/// The most that waits while the target takes it, in bytes: it is still in the processor's cache then.
const BEHIND: u64 = 256 * 1024;
/// The most that waits in memory, in bytes.
pub const MEMORY: u64 = 4 * 1024 * 1024;
/// The most that waits on the disk, in bytes.
pub const DISK: u64 = 1024 * 1024 * 1024;
/// How much is read back at once, in bytes.
const READ: u64 = 1024 * 1024;

/// The least that a packet takes in memory, in bytes, whatever is in it.
const LEAST: u64 = 256;

/// What a packet takes in memory, in bytes.
pub fn cost(length: usize) -> u64 {
    (length as u64).max(LEAST)
}

/// Bytes in the order in which they came. What is in memory came before what is in the file.
#[derive(Debug)]
pub struct Backlog {
    dir: PathBuf,
    memory: VecDeque<Bytes>,
    held: u64,
    file: Option<Arc<File>>,
    read_at: u64,
    written_at: u64,
    disk: u64,
}

impl Backlog {
    /// An empty one; its file, if it ever needs one, is made in a folder that only the broker can enter.
    pub fn new(dir: PathBuf) -> Self {
        Self::bounded(dir, DISK)
    }

    fn bounded(dir: PathBuf, disk: u64) -> Self {
        Self { dir, memory: VecDeque::new(), held: 0, file: None, read_at: 0, written_at: 0, disk }
    }

    /// True when the client should be slowed.
    pub fn is_behind(&self) -> bool {
        self.held >= BEHIND || self.read_at != self.written_at
    }

    /// True when memory is full.
    fn is_long(&self) -> bool {
        self.held >= MEMORY || self.read_at != self.written_at
    }

    /// What waits on the disk, in bytes.
    pub fn on_disk(&self) -> u64 {
        self.written_at - self.read_at
    }

    /// True when nothing more may be put.
    pub fn is_full(&self) -> bool {
        self.on_disk() >= self.disk
    }

    /// Takes bytes in.
    ///
    /// # Errors
    /// When the file cannot be made or written.
    pub async fn put(&mut self, bytes: Bytes) -> io::Result<()> {
        if !self.is_long() {
            self.held += cost(bytes.len());
            self.memory.push_back(bytes);
            return Ok(());
        }
        let file = match &self.file {
            Some(file) => file.clone(),
            None => {
                let dir = self.dir.clone();
                let made = Arc::new(blocking(move || nameless(&dir)).await?);
                self.file = Some(made.clone());
                made
            }
        };
        let (at, length) = (self.written_at, bytes.len() as u64);
        blocking(move || file.write_all_at(&bytes, at)).await?;
        self.written_at += length;
        Ok(())
    }

    /// Gives the oldest bytes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn take(&mut self) -> io::Result<Option<Bytes>> {
        if self.memory.is_empty() && self.read_at != self.written_at {
            self.read_back().await?;
        }
        let bytes = self.memory.pop_front();
        self.held -= bytes.as_ref().map_or(0, |bytes| cost(bytes.len()));
        Ok(bytes)
    }

    async fn read_back(&mut self) -> io::Result<()> {
        let Some(file) = self.file.clone() else { return Err(io::ErrorKind::NotFound.into()) };
        let (at, length) = (self.read_at, (self.written_at - self.read_at).min(READ));
        let bytes = blocking(move || {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            file.read_exact_at(&mut bytes, at)?;
            // Gives the room on the disk back; where the file system cannot, the file stays as long as the channel.
            let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(&*file, flags, at, length);
            Ok(bytes)
        })
        .await?;
        self.read_at += length;
        let mut bytes = Bytes::from(bytes);
        while !bytes.is_empty() {
            let packet = bytes.split_to(bytes.len().min(32 * 1024));
            self.held += cost(packet.len());
            self.memory.push_back(packet);
        }
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// A file that has lost its name before anything is in it, so that a crash leaves nothing behind.
fn nameless(dir: &std::path::Path) -> io::Result<File> {
    let name: String = crate::clock::random16().iter().map(|byte| format!("{byte:02x}")).collect();
    let path = dir.join(format!("spool-{name}"));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn many_small_packets_are_as_much_as_they_take() {
        let dir = tempfile::tempdir().unwrap();
        let mut backlog = Backlog::new(dir.path().to_owned());
        for n in 0..20_000u32 {
            backlog.put(Bytes::copy_from_slice(&n.to_be_bytes()[3..])).await.unwrap();
        }
        assert!(backlog.memory.len() as u64 <= MEMORY / LEAST && backlog.on_disk() > 0);
        let mut taken = Vec::new();
        while let Some(bytes) = backlog.take().await.unwrap() {
            taken.extend_from_slice(&bytes);
        }
        assert!(taken.iter().copied().eq((0..20_000u32).map(|n| n.to_be_bytes()[3])));
        assert_eq!(backlog.held, 0);
    }

    #[tokio::test]
    async fn bytes_come_back_in_order_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut backlog = Backlog::bounded(dir.path().to_owned(), 3 * 1024 * 1024);
        let packet = |n: u32| Bytes::from(n.to_be_bytes().repeat(8192));
        let (mut put, mut taken) = (0, 0);
        for round in 0..40u32 {
            while !backlog.is_full() && put < round * 40 {
                backlog.put(packet(put)).await.unwrap();
                put += 1;
            }
            assert!(backlog.held <= MEMORY + READ);
            for _ in 0..round % 50 {
                let Some(mut bytes) = backlog.take().await.unwrap() else { break };
                while bytes.len() < 32 * 1024 {
                    let more = backlog.take().await.unwrap().unwrap();
                    bytes = [bytes, more].concat().into();
                }
                assert_eq!(bytes, packet(taken));
                taken += 1;
            }
        }
        while let Some(bytes) = backlog.take().await.unwrap() {
            assert_eq!(bytes, packet(taken));
            taken += 1;
        }
        assert!(taken == put && put > 200 && !backlog.is_long());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no file has a name");
    }
}
