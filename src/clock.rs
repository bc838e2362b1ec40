//! The only reader of the operating system's time and randomness.
//!
//! Wall time can be stepped; the boot-time clock cannot, and it goes on in suspend. While the two agree, time is the later of them. Once
//! they have drifted apart, time goes on by the boot-time clock alone, so that one wrong tick cannot carry the log into another year;
//! nothing is granted until the system says that it is synchronised or an operator confirms, and what ends, ends by whichever clock is
//! later (decisions.md 20).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use crate::domain::decide::DRIFT_S;
use crate::domain::event::Boot;

/// The largest drift that "synchronised" heals without an operator, in seconds: a source that is off by more is not believed.
const HEAL_S: i64 = 86_400;
/// How long the broker may have been off across a boot, in seconds; after more, the new wall time is believed only when confirmed.
const OFF_S: i64 = 30 * 86_400;
/// How often the system is asked whether it is synchronised, in milliseconds.
const ASK_MS: u64 = 10_000;

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
    /// Wall time in Unix milliseconds, for measuring.
    fn wall_ms(&self) -> i64 {
        self.read().wall_s.saturating_mul(1000)
    }
    /// True when the system says that its wall clock follows a time source.
    fn synchronised(&self) -> bool {
        false
    }
}

/// The machine's own clocks and randomness.
#[derive(Debug)]
pub struct System {
    boot_id: String,
    synchronised: Arc<AtomicBool>,
    asked_ms: Mutex<Option<u64>>,
}

impl System {
    /// Reads the boot id once.
    pub fn new() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Self { boot_id, synchronised: Arc::default(), asked_ms: Mutex::default() }
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

/// Microseconds on the monotonic clock, for distances within one process (CLOCK_MONOTONIC).
pub fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let whole = u64::try_from(now.tv_sec).unwrap_or_default().saturating_mul(1_000_000);
    whole.saturating_add(u64::try_from(now.tv_nsec / 1000).unwrap_or_default())
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

    fn wall_ms(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    }

    /// The kernel's own word (`STA_UNSYNC` of adjtimex(2)), which a step by hand takes back. Asked on a thread of its own, because endings
    /// must not wait for it: the first answer is the one from before, which begins as "no".
    fn synchronised(&self) -> bool {
        let now_ms = self.read().boot.ms;
        let mut asked = self.asked_ms.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_none_or(|at| now_ms.saturating_sub(at) >= ASK_MS) {
            *asked = Some(now_ms);
            let found = self.synchronised.clone();
            std::thread::spawn(move || {
                let mut program = std::process::Command::new("/usr/bin/timedatectl");
                let said = program.args(["show", "--property=NTPSynchronized", "--value"]).output();
                found.store(said.is_ok_and(|said| said.stdout.trim_ascii() == b"yes"), Ordering::Relaxed);
            });
        }
        self.synchronised.load(Ordering::Relaxed)
    }
}

/// A clock that tests set. Both times move by [`Simulated::advance`]; [`Simulated::step_wall`] moves wall time alone.
#[derive(Debug)]
pub struct Simulated {
    times: Mutex<(i64, u64)>,
    boots: Mutex<u32>,
    /// The state of the generator, where a test wants the same bytes again.
    seed: Option<Mutex<u64>>,
    synchronised: AtomicBool,
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
        Self { times: Mutex::new((wall_s, 1_000_000)), boots: Mutex::new(1), seed, synchronised: AtomicBool::default() }
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

    /// Boots again: another boot, whose clock begins anew.
    pub fn reboot(&self) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).1 = 1000;
        *self.boots.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// Says whether the system follows a time source.
    pub fn synchronise(&self, holds: bool) {
        self.synchronised.store(holds, Ordering::Relaxed);
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

    fn synchronised(&self) -> bool {
        self.synchronised.load(Ordering::Relaxed)
    }
}

/// Where the two clocks stood together.
#[derive(Debug, Clone, Copy)]
pub struct Anchor {
    wall_s: i64,
    boot_ms: u64,
    /// Tied to the log already.
    resumed: bool,
    /// Of another boot, so that nothing says how much time has passed since.
    across: bool,
}

impl Anchor {
    fn at(reading: &Reading) -> Self {
        Self { wall_s: reading.wall_s, boot_ms: reading.boot.ms, resumed: false, across: false }
    }
}

/// Turns readings into the one time that counts.
#[derive(Debug)]
pub struct Timekeeper {
    clock: Arc<dyn Clock>,
    anchor: Mutex<Anchor>,
}

/// The time that counts, and whether it can be trusted for granting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// The later of wall time and of what the boot-time clock says; the latter alone while they have drifted apart. In Unix seconds.
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
        !self.drifted() && self.wall_s >= last_event_at - DRIFT_S
    }

    /// True while the two clocks tell different times.
    pub fn drifted(&self) -> bool {
        !(-DRIFT_S..=DRIFT_S).contains(&self.drift_s)
    }
}

impl Timekeeper {
    /// Anchors the two clocks to each other now.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let anchor = Mutex::new(Anchor::at(&clock.read()));
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
        let passed_ms = reading.boot.ms.saturating_sub(anchor.boot_ms);
        let by_boot = anchor.wall_s.saturating_add(i64::try_from(passed_ms / 1000).unwrap_or(i64::MAX));
        let drift_s = reading.wall_s.saturating_sub(by_boot);
        let mut moment = Moment { at: by_boot, wall_s: reading.wall_s, drift_s, boot: reading.boot };
        if !moment.drifted() {
            moment.at = moment.wall_s.max(by_boot);
        }
        moment
    }

    /// Ties the clocks to the log's last entry, once: within its boot the boot-time clock tells how long ago that was, so that a restart
    /// does not make a stepped wall clock right; after another boot, time goes on from there at least. Within its boot it went on from
    /// `resumes_at`, which is another time while the log stands still behind a clock that was confirmed.
    pub fn resume(&self, last_at: i64, resumes_at: i64, last_boot: Option<&Boot>) {
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut anchor.resumed, true) {
            return;
        }
        let Some(last) = last_boot else { return };
        let reading = self.clock.read();
        if !last.id.is_empty() && last.id == reading.boot.id && last.ms <= reading.boot.ms {
            (anchor.wall_s, anchor.boot_ms) = (resumes_at, last.ms);
        } else if reading.wall_s < last_at || reading.wall_s > last_at.saturating_add(OFF_S) {
            (anchor.wall_s, anchor.boot_ms, anchor.across) = (last_at, reading.boot.ms, true);
        }
    }

    /// True when the clocks have drifted apart and the system vouches for the wall clock.
    pub fn healable(&self) -> bool {
        let moment = self.now();
        let across = self.anchor.lock().unwrap_or_else(PoisonError::into_inner).across;
        moment.drifted() && (across || moment.drift_s.saturating_abs() <= HEAL_S) && self.clock.synchronised()
    }

    /// Anchors again: an operator or the system said that the wall clock is right.
    pub fn anchor(&self) {
        let reading = self.clock.read();
        self.restore(Anchor { resumed: true, ..Anchor::at(&reading) });
    }

    /// Where they are anchored.
    pub fn anchored(&self) -> Anchor {
        *self.anchor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Anchors them as they were: what was said of them was not recorded.
    pub fn restore(&self, anchor: Anchor) {
        *self.anchor.lock().unwrap_or_else(PoisonError::into_inner) = anchor;
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
        assert_eq!(keeper.now().at, 1_000_100, "one wrong tick moves nothing");
        assert!(!keeper.now().trusted(0));
        clock.advance(10);
        assert_eq!(keeper.now().at, 1_000_110);
        clock.step_wall(-10);
        keeper.anchor();
        assert!(keeper.now().trusted(0));
        assert!(!keeper.now().trusted(1_003_700 + 31));
    }

    #[test]
    fn a_restart_does_not_make_a_stepped_clock_right() {
        let clock = Simulated::at(1_000_000);
        let last = clock.read().boot;
        clock.advance(100);
        clock.step_wall(3600);
        let keeper = Timekeeper::new(clock.clone());
        keeper.resume(1_000_000, 1_000_000, Some(&last));
        assert_eq!((keeper.now().at, keeper.now().drift_s), (1_000_100, 3600));
        assert!(!keeper.healable());
        clock.synchronise(true);
        assert!(keeper.healable());
        clock.step_wall(80 * 365 * 86_400);
        assert!(!keeper.healable(), "no source is believed that is off by eighty years");
        // Another boot: how long the machine was off is not known, and neither 1970 nor 2099 is believed.
        clock.reboot();
        let keeper = Timekeeper::new(clock.clone());
        keeper.resume(1_000_000, 1_000_000, Some(&last));
        assert_eq!(keeper.now().at, 1_000_000);
        clock.step_wall(-clock.read().wall_s);
        let keeper = Timekeeper::new(clock.clone());
        keeper.resume(1_000_000, 1_000_000, Some(&last));
        clock.advance(5);
        assert_eq!(keeper.now().at, 1_000_005);
        assert!(keeper.now().drifted());
    }
}
