//! What the broker knows: the fold of the log with what stands beside it, and who may look at it while a batch is being written.
//!
//! The clerk applies a batch before it is durable, because the next command in it is decided on that. Whoever tells somebody what is so looks
//! with [`Shared::durable`] and waits for the disk. Who asks only whether a command may be put to the clerk at all need not wait: that is
//! decided again in its turn, on what is durable by then.

use std::ops::Deref;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::domain::shelf::Shelf;
use crate::domain::state::State;

/// Everything in memory.
#[derive(Debug, Default)]
pub struct Memory {
    /// The fold of the log.
    pub state: State,
    /// Texts and bundles.
    pub shelf: Shelf,
}

/// The memory, for the clerk and everybody who looks at it.
#[derive(Debug, Default)]
pub struct Shared {
    /// Held by the clerk from the first decision of a batch until all of it is on the disk. Always taken before the memory itself.
    written: RwLock<()>,
    memory: RwLock<Memory>,
}

/// A look at what is durable; no batch is written meanwhile.
pub struct Look<'a> {
    memory: RwLockReadGuard<'a, Memory>,
    _written: RwLockReadGuard<'a, ()>,
}

impl Deref for Look<'_> {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        &self.memory
    }
}

impl Shared {
    pub(super) fn new(memory: Memory) -> Self {
        Self { written: RwLock::new(()), memory: RwLock::new(memory) }
    }

    /// A look at what is durable.
    pub async fn durable(&self) -> Look<'_> {
        let written = self.written.read().await;
        Look { memory: self.memory.read().await, _written: written }
    }

    /// A look at what the clerk has decided, which the disk may still refuse. SECURITY: nothing that was seen here is told to anybody, or has
    /// an effect but through the clerk. That an administrator's signature lets somebody in is believed at once.
    pub async fn decided(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().await
    }

    /// Begins a batch: until it ends nobody sees what is not durable.
    pub(super) async fn batch(&self) -> RwLockWriteGuard<'_, ()> {
        self.written.write().await
    }

    /// Changes the memory.
    pub(super) async fn change(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn while_a_batch_is_written_it_is_seen_by_whom_the_clerk_decides_again_and_told_to_nobody() {
        let shared = Shared::default();
        let batch = shared.batch().await;
        shared.change().await.state.size = 7;
        assert_eq!(shared.decided().await.state.size, 7);
        assert!(timeout(Duration::ZERO, shared.durable()).await.is_err(), "not on the disk yet");
        drop(batch);
        let look = timeout(Duration::ZERO, shared.durable()).await.unwrap();
        assert_eq!(look.state.size, 7);
        assert!(timeout(Duration::ZERO, shared.batch()).await.is_err(), "no batch begins under whoever looks");
    }
}
