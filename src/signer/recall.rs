//! The gate's own snapshot: what it folded itself, vouched for by its own head. The broker has no part in it.

use std::thread::JoinHandle;

use super::cache::{Cache, WORTH, every};
use super::gate::Gate;
use crate::domain::snapshot::{Snapshot, SnapshotError, Still};
use crate::ledger::tree::Frontier;

/// The file, and the one that is being written.
#[derive(Debug)]
pub(super) struct Recall {
    pub(super) cache: Cache,
    pub(super) writing: Option<JoinHandle<Result<Snapshot, SnapshotError>>>,
    /// The size at which the last one was begun.
    pub(super) begun: u64,
}

impl Gate {
    /// Takes up the fold where the snapshot that the head vouches for left it; without one, or with any other, it folds from the beginning.
    pub(super) fn recall(&mut self) {
        let Some(vouched) = self.head.snapshot else { return };
        match self.restore(vouched) {
            Ok(()) => self.recall.begun = vouched.size,
            Err(error) => tracing::warn!("the signer's snapshot is not used, it folds from the beginning: {error}"),
        }
    }

    fn restore(&mut self, vouched: Snapshot) -> Result<(), SnapshotError> {
        let found = self.recall.cache.read()?;
        // SECURITY: the head is the signer's own and flushed before it signs; only bytes that it names become its state.
        if found.sha256 != vouched.sha256 || found.state.size != vouched.size || vouched.size > self.head.size {
            return Err(SnapshotError::Shape("it is not the one that the head names"));
        }
        let frontier = Frontier::decode(&found.frontier).map_err(|_| SnapshotError::Shape("its frontier is none"))?;
        let same = frontier.size() < self.head.size || super::gate::hex(&frontier.root()) == self.head.root;
        if frontier.size() != vouched.size || !same || found.state.bundle.digest != found.bundle {
            return Err(SnapshotError::Shape("its tree or bundle is another one"));
        }
        (self.state, self.shelf, self.frontier) = (found.state, found.shelf, frontier);
        self.genesis.clone_from(&self.head.genesis);
        Ok(())
    }

    fn picture(&mut self) -> Still {
        let needed = self.state.needed();
        self.shelf.retain(&needed);
        Still::of(&self.state, self.frontier.encode(), self.shelf.blobs().collect())
    }

    /// After a checkpoint: keeps the snapshot that was finished meanwhile, and begins the next one when it is time.
    pub(super) fn refresh(&mut self) {
        if self.recall.writing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.finish();
        }
        let objects = self.state.requests.len() + self.state.grants.len();
        if self.recall.writing.is_none() && self.state.size >= self.recall.begun + every(objects) {
            self.begin();
        }
    }

    fn begin(&mut self) {
        let (still, cache) = (self.picture(), self.recall.cache.clone());
        self.recall.begun = still.size();
        self.recall.writing = Some(std::thread::spawn(move || cache.write(&still)));
    }

    fn finish(&mut self) {
        let Some(writing) = self.recall.writing.take() else { return };
        let written = writing.join().unwrap_or(Err(SnapshotError::Shape("the thread that wrote it failed")));
        let kept = written.and_then(|snapshot| self.recall.cache.keep().map(|()| snapshot));
        match kept {
            Ok(snapshot) => {
                let head = super::gate::Head { snapshot: Some(snapshot), ..self.head.clone() };
                if let Err(refusal) = self.remember(head) {
                    tracing::warn!("the signer's snapshot is not named by its head: {}", refusal.message);
                }
            }
            Err(error) => tracing::warn!("the signer's snapshot was not written: {error}"),
        }
    }

    /// Writes a snapshot now, where there is something to write and the fold is whole.
    pub fn rest(&mut self) {
        self.finish();
        let known = self.head.snapshot.map_or(0, |snapshot| snapshot.size);
        if self.whole() && self.state.size == self.head.size && self.state.size > known {
            self.begin();
            self.finish();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.finish();
        if self.state.size >= self.recall.begun + WORTH {
            self.rest();
        }
    }
}
