//! What the broker counts of itself, for metrics and for its self-check. Numbers alone: never a name, an id or a text.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::clock::monotonic_us;

/// The upper bounds of the buckets of a duration, in microseconds.
pub const BOUNDS_US: [u64; 12] =
    [500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000, 10_000_000];

/// How long something took, each time.
#[derive(Debug, Default)]
pub struct Took {
    within: [AtomicU64; BOUNDS_US.len()],
    times: AtomicU64,
    sum_us: AtomicU64,
}

impl Took {
    /// Counts one that began at a moment of [`monotonic_us`] and ends now.
    pub fn since(&self, began_us: u64) {
        let took = monotonic_us().saturating_sub(began_us);
        if let Some(bucket) = BOUNDS_US.iter().zip(&self.within).find(|(bound, _)| took <= **bound) {
            bucket.1.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(took, Ordering::Relaxed);
        self.times.fetch_add(1, Ordering::Relaxed);
    }

    /// How many took at most each of [`BOUNDS_US`].
    pub fn at_most(&self) -> [u64; BOUNDS_US.len()] {
        let mut sum = 0;
        self.within.each_ref().map(|bucket| {
            sum += bucket.load(Ordering::Relaxed);
            sum
        })
    }

    /// How many, and how long in all, in microseconds.
    pub fn total(&self) -> (u64, u64) {
        (self.times.load(Ordering::Relaxed), self.sum_us.load(Ordering::Relaxed))
    }
}

/// When a loop last came round.
#[derive(Debug)]
pub struct Turn(AtomicU64);

impl Default for Turn {
    fn default() -> Self {
        Self(AtomicU64::new(monotonic_us()))
    }
}

impl Turn {
    /// It comes round now.
    pub fn now(&self) {
        self.0.store(monotonic_us(), Ordering::Relaxed);
    }

    /// How long ago that was, in milliseconds.
    pub fn ago_ms(&self) -> u64 {
        monotonic_us().saturating_sub(self.0.load(Ordering::Relaxed)) / 1000
    }
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Batches of the log, from the decision to the flush and the reading back.
    pub append: Took,
    /// The reaper's rounds.
    pub reaped: Turn,
    /// The looks at all leases.
    pub leased: Turn,
    entries: Mutex<BTreeMap<String, u64>>,
}

impl Counts {
    /// Counts an entry of the log.
    pub fn entry(&self, kind: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.get_mut(kind) {
            Some(count) => *count += 1,
            None => drop(entries.insert(kind.to_owned(), 1)),
        }
    }

    /// The entries that this process wrote, by kind.
    pub fn entries(&self) -> BTreeMap<String, u64> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let took = Took::default();
        took.since(monotonic_us());
        took.since(monotonic_us() - 30_000);
        took.since(monotonic_us().saturating_sub(3_000_000));
        let at_most = took.at_most();
        assert_eq!((at_most[0], at_most[5], at_most[6], at_most[11]), (1, 1, 2, 3), "{at_most:?}");
        let (times, sum_us) = took.total();
        assert!(times == 3 && (3_030_000..3_500_000).contains(&sum_us), "{sum_us}");
    }
}
