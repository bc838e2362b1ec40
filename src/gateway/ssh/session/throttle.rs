//! How much clients may send ahead, while a target of their connection takes nothing.
//!
//! The SSH library grants a channel new room as soon as something came in, whether or not anybody took it, and hands one packet after the
//! other to its channel. So a channel that nobody takes from holds up all others of its connection, by what its client may send ahead: with
//! a whole window by 64 packets. The room that is granted is all that can be changed, for all channels of a connection alike, and there
//! always is some, because a client without room says nothing that more could be granted for.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::gateway::ssh::offer;

/// What a channel may send ahead while one is stuck, in bytes.
const ROOM: u32 = 32 * 1024;
/// So much may wait on the disk before there is less room, in bytes.
const PLENTY: u64 = 512 * 1024 * 1024;
/// With each so much more there is half the room, in bytes. What then comes within a session does not fill a [`super::backlog`].
const HALVED: u64 = 32 * 1024 * 1024;
/// The least room, in bytes.
const LEAST: u32 = 16;
/// What a client sends before it has used up the room that it had, at most, in bytes.
const ON_ITS_WAY: u64 = 2 * offer::WINDOW as u64;

/// A stuck channel for which nothing came for so long is in nobody's way.
const QUIET: Duration = Duration::from_secs(1);

/// What the channels of one connection know of each other.
#[derive(Debug, Default)]
pub struct Throttle {
    stuck: AtomicU32,
    waiting: AtomicU64,
    /// When something came for a stuck one.
    came: Mutex<Option<Instant>>,
}

impl Throttle {
    /// The room of a channel, in bytes, where `full` is what it is granted otherwise.
    pub fn room(&self, full: u32) -> u32 {
        if self.stuck.load(Ordering::Relaxed) == 0 || self.is_quiet() {
            return full;
        }
        let over = self.waiting.load(Ordering::Relaxed).saturating_sub(PLENTY);
        let halvings = u32::try_from(over.div_ceil(HALVED)).unwrap_or(u32::MAX);
        ROOM.checked_shr(halvings).unwrap_or(0).max(LEAST)
    }

    fn is_quiet(&self) -> bool {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|came| came.elapsed() >= QUIET)
    }

    /// Says that something comes; true where nothing had come for long.
    fn comes(&self) -> bool {
        let now = Instant::now();
        let before = self.came.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        before.is_none_or(|before| now - before >= QUIET)
    }
}

/// A channel whose target takes nothing, until this is dropped.
#[derive(Debug)]
pub struct Stuck {
    throttle: Arc<Throttle>,
    waiting: u64,
    /// What came in all, and since somebody waited for it, in bytes.
    came: (u64, u64),
}

impl Stuck {
    /// One more.
    pub fn new(throttle: Arc<Throttle>) -> Self {
        throttle.stuck.fetch_add(1, Ordering::Relaxed);
        Self { throttle, waiting: 0, came: (0, 0) }
    }

    /// True when somebody should wait before so many bytes come in: they are what the client had room for, and what comes before there is
    /// less room for it is best out of the way. `waiting`: what waits on the disk, in bytes.
    pub fn is_due(&mut self, coming: u64, waiting: u64) -> bool {
        self.tell(waiting);
        if self.throttle.comes() {
            self.came = (0, 0);
        }
        self.came.0 += coming;
        if self.came.0 <= ON_ITS_WAY {
            return false;
        }
        self.came.1 += coming;
        let is_due = self.came.1 >= u64::from(self.throttle.room(offer::WINDOW));
        if is_due {
            self.came.1 = 0;
        }
        is_due
    }

    /// Says how much waits on the disk, in bytes.
    pub fn tell(&mut self, waiting: u64) {
        self.throttle.waiting.fetch_add(waiting, Ordering::Relaxed);
        self.throttle.waiting.fetch_sub(self.waiting, Ordering::Relaxed);
        self.waiting = waiting;
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.tell(0);
        self.throttle.stuck.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn the_room_shrinks_with_what_waits_and_comes_back() {
        const MIB: u64 = 1024 * 1024;
        let (throttle, full) = (Arc::new(Throttle::default()), 2 * 1024 * 1024);
        assert_eq!(throttle.room(full), full);
        let (mut one, mut other) = (Stuck::new(throttle.clone()), Stuck::new(throttle.clone()));
        assert_eq!(throttle.room(full), full, "nothing comes for them");
        assert!(!one.is_due(1, 0));
        for (waiting, room) in
            [(0, 32768), (512, 32768), (513, 16384), (545, 8192), (768, 128), (2048, 16), (300, 32768)]
        {
            one.tell(waiting * MIB);
            assert_eq!(throttle.room(full), room, "{waiting} MiB");
        }
        assert!(!one.is_due(ON_ITS_WAY - 1, 300 * MIB), "what was on its way already");
        let due: Vec<bool> = (0..6).map(|_| one.is_due(16384, 300 * MIB)).collect();
        assert_eq!(due, [false, true, false, true, false, true]);
        other.tell(228 * MIB);
        assert_eq!(throttle.room(full), 16384, "the sum of both");
        drop(one);
        assert_eq!(throttle.room(full), 32768);
        *throttle.came.lock().unwrap() = Instant::now().checked_sub(QUIET);
        assert_eq!(throttle.room(full), full, "nothing came for a while");
        assert!(!other.is_due(ON_ITS_WAY, 0) && other.is_due(32768, 0), "what was on its way, and then no more");
        assert_eq!(throttle.room(full), 32768);
        drop(other);
        assert_eq!(throttle.room(full), full);
    }
}
