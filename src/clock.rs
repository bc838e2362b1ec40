//! The only reader of the operating system's time and randomness.
//!
//! Wall time can be stepped; the boot-time clock cannot, and it goes on in suspend. Deadlines follow whichever is later, so a step back
//! extends nothing and a step forward ends early (decisions.md 20).

use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::event::Boot;

/// How far wall time and boot-time clock may drift apart before nothing is issued, in seconds.
pub const DRIFT_S: i64 = 30;

/// One look at both clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Wall time in Unix seconds.
    pub wall_s: i64,
    /// CLOCK_BOOTTIME and the boot's id.
    pub boot: Boot,
}

/// A source of time and randomness.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Reads both clocks.
    fn read(&self) -> Reading;
    /// Fills a buffer with random bytes that nobody can guess.
    fn fill(&self, buffer: &mut [u8]);
}

/// The machine's own clocks and randomness.
#[derive(Debug)]
pub struct System {
    boot_id: String,
}

impl System {
    /// Reads the boot id once.
    pub fn new() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Self { boot_id }
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

/// Wall time in Unix seconds, for clients, who hold no deadline of anybody.
pub fn wall_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// Fills a buffer from the operating system's generator.
pub fn fill(buffer: &mut [u8]) {
    // SECURITY: no fallback: predictable nonces and tokens would be worse than stopping.
    if aws_lc_rs::rand::fill(buffer).is_err() {
        eprintln!("jit-broker: the system has no randomness; stopping");
        std::process::abort();
    }
}

/// Draws 16 random bytes.
pub fn random16() -> [u8; 16] {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    bytes
}

impl Clock for System {
    fn read(&self) -> Reading {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let ms = u64::try_from(boot.tv_sec).unwrap_or(0) * 1000 + u64::try_from(boot.tv_nsec).unwrap_or(0) / 1_000_000;
        Reading { wall_s: wall_s(), boot: Boot { id: self.boot_id.clone(), ms } }
    }

    fn fill(&self, buffer: &mut [u8]) {
        fill(buffer);
    }
}

/// A clock that tests set. Both times move by [`Simulated::advance`]; [`Simulated::step_wall`] moves wall time alone.
#[derive(Debug)]
pub struct Simulated {
    times: Mutex<(i64, u64)>,
    boots: Mutex<u32>,
    /// The state of the generator, where a test wants the same bytes again.
    seed: Option<Mutex<u64>>,
}

impl Simulated {
    /// Starts at a wall time.
    pub fn at(wall_s: i64) -> Arc<Self> {
        Arc::new(Self::new(wall_s, None))
    }

    /// Starts at a wall time, with bytes that everybody can guess: the same ones for the same seed, which is not 0.
    pub fn seeded(wall_s: i64, seed: u64) -> Arc<Self> {
        Arc::new(Self::new(wall_s, Some(Mutex::new(seed))))
    }

    fn new(wall_s: i64, seed: Option<Mutex<u64>>) -> Self {
        Self { times: Mutex::new((wall_s, 1_000_000)), boots: Mutex::new(1), seed }
    }

    /// Lets time pass.
    pub fn advance(&self, s: u64) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.0 += i64::try_from(s).unwrap_or(i64::MAX);
        times.1 += s * 1000;
    }

    /// Steps wall time alone, as a careless administrator or an attacker would.
    pub fn step_wall(&self, by_s: i64) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).0 += by_s;
    }

    /// Boots the machine: the boot-time clock begins again.
    pub fn reboot(&self) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).1 = 5_000;
        *self.boots.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }
}

impl Clock for Simulated {
    fn read(&self) -> Reading {
        let (wall_s, ms) = *self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format!("boot-{}", self.boots.lock().unwrap_or_else(PoisonError::into_inner));
        Reading { wall_s, boot: Boot { id, ms } }
    }

    fn fill(&self, buffer: &mut [u8]) {
        let Some(seed) = &self.seed else { return fill(buffer) };
        let mut state = seed.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in buffer {
            // xorshift64 (Marsaglia 2003)
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            *byte = state.to_le_bytes()[3];
        }
    }
}

/// Turns readings into the one time that counts.
#[derive(Debug)]
pub struct Timekeeper {
    clock: Arc<dyn Clock>,
    anchor: Mutex<Reading>,
}

/// The time that counts, and whether it can be trusted for granting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// The later of wall time and of what the boot-time clock says, in Unix seconds.
    pub at: i64,
    /// Wall time as the system shows it.
    pub wall_s: i64,
    /// How far wall time is ahead of the boot-time clock since the anchor, in seconds.
    pub drift_s: i64,
    /// The boot-time clock.
    pub boot: Boot,
}

impl Moment {
    /// True when granting may rely on it: no drift, and not behind the log.
    pub fn trusted(&self, last_event_at: i64) -> bool {
        self.drift_s.abs() <= DRIFT_S && self.wall_s >= last_event_at - DRIFT_S
    }
}

impl Timekeeper {
    /// Anchors the two clocks to each other now.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let anchor = Mutex::new(clock.read());
        Self { clock, anchor }
    }

    /// The clock it reads.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Reads the time that counts.
    pub fn now(&self) -> Moment {
        let reading = self.clock.read();
        let anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let passed_ms = reading.boot.ms.saturating_sub(anchor.boot.ms);
        let by_boot = anchor.wall_s + i64::try_from(passed_ms / 1000).unwrap_or(i64::MAX);
        Moment {
            at: reading.wall_s.max(by_boot),
            wall_s: reading.wall_s,
            drift_s: reading.wall_s - by_boot,
            boot: reading.boot,
        }
    }

    /// Anchors again: an operator said that the wall clock is right.
    pub fn anchor(&self) {
        *self.anchor.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.read();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_back_extends_nothing_and_a_step_forward_is_not_trusted() {
        let clock = Simulated::at(1_000_000);
        let keeper = Timekeeper::new(clock.clone());
        clock.advance(100);
        clock.step_wall(-3600);
        let back = keeper.now();
        assert_eq!(back.at, 1_000_100);
        assert!(!back.trusted(0));
        clock.step_wall(3600);
        assert!(keeper.now().trusted(1_000_100));
        clock.step_wall(3600);
        assert_eq!(keeper.now().at, 1_003_700);
        assert!(!keeper.now().trusted(0));
        keeper.anchor();
        assert!(keeper.now().trusted(0));
        assert!(!keeper.now().trusted(1_003_700 + 31));
    }
}
