//! A random walk of asks, answers, issues, ends, changes of the rules, clock steps, crashes and restarts beside a small reference.
//!
//! `JIT_MODEL_STEPS` makes it longer, as more walks; `JIT_MODEL_WALK` is how long one is, `JIT_MODEL_SEED` the first walk's seed,
//! `JIT_MODEL_THREADS` how many go at a time. A seed gives the same walk for ever: everything random comes from its dice. A million steps:
//! `CARGO_PROFILE_DEV_OPT_LEVEL=2`, and a thread for each core.

mod bench;
mod reference;
mod steps;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use jit_broker::broker::reaper::round;
use jit_broker::clock::{Simulated, Timekeeper};
use jit_broker::domain::event::Entry;
use jit_broker::domain::grant::GrantState;
use jit_broker::ledger::note::{Checkpoint, SignedNote};
use jit_broker::ledger::tree::verify_consistency;
use jit_broker::signer::gate::{Gate, origin_of};
use jit_broker::signer::keys::Keys;
use jit_broker::signer::{Order, Signer};

use bench::{Bench, Version};
use reference::Reference;

/// A small generator of its own (xorshift64*), so that a failing walk can be walked again.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        (self.next() >> 33) % sides
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        let sides = u64::try_from(items.len()).ok().filter(|n| *n > 0)?;
        items.get(usize::try_from(self.roll(sides)).ok()?).copied()
    }

    pub fn bytes(&mut self) -> [u8; 32] {
        std::array::from_fn(|_| (self.next() >> 40) as u8)
    }

    /// 128 bits, as nonces and salts are.
    pub fn hex(&mut self) -> String {
        format!("{:016x}{:016x}", self.next(), self.next())
    }
}

/// Says where a walk was when something failed.
struct Diary {
    seed: u64,
    steps: Vec<String>,
}

impl Drop for Diary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = self
                .steps
                .len()
                .saturating_sub(std::env::var("JIT_MODEL_TOLD").ok().and_then(|n| n.parse().ok()).unwrap_or(12));
            eprintln!("JIT_MODEL_SEED={} JIT_MODEL_STEPS={}: the walk failed at", self.seed, self.steps.len());
            self.steps.iter().skip(last).for_each(|line| eprintln!("  {line}"));
        }
    }
}

struct Walk {
    bench: Bench,
    reference: Reference,
    dice: Dice,
    diary: Diary,
    witnessed: Option<Checkpoint>,
    /// The serials of the list that is served.
    listed: BTreeSet<u64>,
    keys: Keys,
}

impl Walk {
    async fn start(seed: u64) -> Self {
        let seed = seed.max(1);
        let mut bench = Bench::start(seed).await;
        let version = Version { port: 22, carol_leads: true };
        bench.adopt(version, 1_800_000_000).await.unwrap();
        bench.enroll_host(1_800_000_000).await;
        let keys = Keys::load(&bench.settings.ca_dir).unwrap();
        let (reference, dice) = (Reference::new(1_800_000_000, version), Dice(seed ^ 0x9e37_79b9_7f4a_7c15));
        let (diary, listed) = (Diary { seed, steps: Vec::new() }, BTreeSet::new());
        Self { bench, reference, dice, diary, witnessed: None, listed, keys }
    }

    async fn walk(&mut self, steps: usize) {
        for n in 1..=steps {
            let line = self.step().await;
            self.diary.steps.push(line);
            self.check().await;
            if n % 64 == 0 || n == steps {
                self.look_at_everything().await;
            }
        }
    }

    /// The invariants of security.md that can be seen from outside, after every step.
    async fn check(&mut self) {
        self.reference.pass();
        round(self.bench.broker()).await.unwrap();
        let memory = self.bench.broker().memory().await;
        self.reference.times.logged(memory.state.size, memory.state.last_at);
        drop(memory);
        self.check_list();
        let reference = &mut self.reference;
        let memory = self.bench.broker().memory().await;
        for place in std::mem::take(&mut reference.ending) {
            let window = &reference.windows[place];
            let grant = memory.state.grants.get(&window.id).unwrap();
            if reference.proven(window) {
                let GrantState::Ended { proofs, .. } = &grant.state else { panic!("{} is proven", window.id) };
                assert!(proofs.iter().any(|p| p.ok == Some(true)) && proofs.iter().all(|p| p.ok != Some(false)));
                reference.windows[place].ended = true;
            } else {
                assert_eq!(grant.state.word(), "ending", "an end is said only when it is proven");
                reference.ending.push(place);
            }
        }
        let now = reference.times.now();
        for window in reference.open.iter().map(|place| &reference.windows[*place]) {
            assert!(memory.state.grants.get(&window.id).unwrap().live_at(now).is_ok(), "{} is open", window.id);
        }
        assert_eq!(memory.state.open_grants.len(), reference.open.len() + reference.ending.len());
        assert_eq!(memory.state.open_requests.len(), reference.pending.len());
        let noted = self.bench.broker().note().map(|(size, _)| size);
        assert_eq!(noted, Some(memory.state.size), "the signer decides as the broker does");
    }

    /// I6, by the bytes that hosts get.
    fn check_list(&mut self) {
        let served = self.bench.broker().krl().unwrap();
        if served.version != self.reference.list {
            let bytes = data_encoding::BASE64.decode(served.krl.as_bytes()).unwrap();
            let published = std::fs::read(self.bench.settings.state_dir.join("krl")).unwrap();
            assert_eq!(published, bytes, "the file for the hosts is the list that is served");
            let list = jit_ca::krl::Krl::decode(&bytes).unwrap();
            assert_eq!((list.version, &list.ca), (served.version, self.keys.ssh_user.public()));
            self.listed = list.serials;
        }
        self.reference.published(served.version, &self.listed);
    }

    /// Everything, and not only what the last step touched.
    async fn look_at_everything(&mut self) {
        let (mut requests, mut grants) = (Vec::new(), Vec::new());
        let memory = self.bench.broker().memory().await;
        let state = &memory.state;
        assert!(state.indexes_hold());
        for asked in &self.reference.asked {
            let word = asked.outcome.unwrap_or("pending");
            let Some(found) = state.requests.get(&asked.id) else {
                requests.push((asked.id, word));
                continue;
            };
            assert_eq!(found.state.word(), word, "I4: a final state never changes");
            let by: Vec<&str> = found.approvals.iter().map(|a| a.by.as_str()).collect();
            assert_eq!(by, asked.by, "I5: those who approved, each once");
            assert!(!by.contains(&"alice"), "I5: never the requester");
        }
        let mut serials = BTreeSet::new();
        for window in &self.reference.windows {
            let word = match (window.over, window.ended) {
                (Some(word), true) => word,
                (Some(_), false) => "ending",
                (None, _) if window.claimed => "active",
                (None, _) => "ready",
            };
            let Some(grant) = state.grants.get(&window.id) else {
                grants.push((window.id, word));
                continue;
            };
            assert_eq!(grant.state.word(), word, "{}", window.id);
            for credential in &grant.credentials {
                assert!(serials.insert(credential.serial) && credential.serial > 0, "I10: one serial, one certificate");
                assert!(credential.valid_before <= grant.ends_at, "I2: the window is in the credential");
            }
            for (serial, before) in &window.certificates {
                let logged = grant.credentials.iter().find(|c| c.serial == *serial);
                assert_eq!(logged.map(|c| c.valid_before), Some(*before), "I1: what a client holds is in the log");
            }
        }
        drop(memory);
        // What has left memory is still known; a few at a time, because each is looked up in the log.
        let turn = self.diary.steps.len();
        for (id, word) in requests.iter().cycle().skip(turn % requests.len().max(1)).take(requests.len().min(4)) {
            let doc = self.bench.broker().request_doc(&self.bench.alice.name, *id).await.unwrap();
            assert_eq!(doc.state, *word, "I4: a final state never changes, in memory or not");
        }
        let bob = self.bench.name(bench::Voice::Other("bob"));
        for (id, word) in grants.iter().cycle().skip(turn % grants.len().max(1)).take(grants.len().min(4)) {
            assert_eq!(self.bench.broker().grant_doc(&bob, *id).await.unwrap().state, *word, "{id}, in memory or not");
        }
        self.witness().await;
    }

    /// I8, as every client checks it.
    async fn witness(&mut self) {
        let (_, text) = self.bench.broker().note().unwrap();
        let origin = origin_of(&self.bench.install.to_string());
        let new = SignedNote::open(&text, &origin, &self.keys.log_public().0.ed25519_bytes().unwrap()).unwrap();
        if let Some(old) = &self.witnessed {
            assert!(old.size <= new.size, "I8: the log is never shorter");
            let proof = self.bench.broker().reader().consistency(old.size, new.size).await.unwrap();
            verify_consistency(old.size, old.root, new.size, new.root, &proof).unwrap();
        }
        self.witnessed = Some(new);
    }

    /// What is on disk verifies, and a signer that has seen nothing of it agrees with every single decision.
    async fn end(self) {
        let origin = origin_of(&self.bench.install.to_string());
        self.bench.clock.advance(2 * 86_400);
        let (settings, _folder) = self.bench.stop().await;
        let (key, head) = (self.keys.log_public(), settings.ca_dir.join("fresh.json"));
        let report = jit_broker::daemon::verify::audit(&settings.ledger, origin, &key, &[], None).await.unwrap();
        assert!(report.ok, "{:#?}", report.problems);
        let leaves = crate::trust::leaves(&settings.ledger).await;
        let last: Entry = serde_json::from_str(&leaves.last().unwrap().entry).unwrap();
        // The walk may have left the wall clock wrong; a signer that begins takes nothing from its future.
        let keeper = Timekeeper::new(Simulated::at(last.at));
        let mut gate = Gate::found(self.keys, head, jit_broker::daemon::pins(&settings), keeper).unwrap();
        gate.order(Order::Checkpoint { from: 0, leaves }).unwrap();
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn a_random_walk_keeps_every_promise() {
    let (all, long) = (number("JIT_MODEL_STEPS", 3_000), number("JIT_MODEL_WALK", 500).max(1));
    let (first, walks) = (number("JIT_MODEL_SEED", 0x5eed), all.div_ceil(long));
    let (next, sums) = (AtomicU64::new(0), Mutex::new((0, 0, 0)));
    // Walks know nothing of each other.
    let worker = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= walks {
                return;
            }
            let (certificates, decided, windows) = runtime.block_on(async {
                let mut walk = Walk::start(first + n).await;
                walk.walk(usize::try_from(long.min(all - n * long)).unwrap()).await;
                let decided = walk.reference.asked.iter().filter(|a| a.outcome.is_some()).count();
                let sums = (walk.reference.serials.len(), decided, walk.reference.windows.len());
                walk.end().await;
                sums
            });
            let mut sums = sums.lock().unwrap();
            *sums = (sums.0 + certificates, sums.1 + decided, sums.2 + windows);
        }
    };
    std::thread::scope(|threads| (0..number("JIT_MODEL_THREADS", 1)).for_each(|_| drop(threads.spawn(worker))));
    let ((certificates, decided, windows), seed) = (sums.into_inner().unwrap(), first + walks);
    println!(
        "{all} steps, seeds {first} to {}: {certificates} certificates, {decided} requests decided, {windows} grants",
        seed - 1
    );
    if all >= 3_000 {
        let least = usize::try_from(all / 40).unwrap();
        assert!(certificates > least && decided > least && windows > least, "the walk went nowhere");
    }
}

/// Otherwise a seed that was printed would be worth nothing.
#[tokio::test]
async fn a_seed_gives_the_same_walk() {
    let mut diaries = Vec::new();
    for _ in 0..2 {
        let mut walk = Walk::start(7).await;
        walk.walk(150).await;
        let ids: Vec<String> = walk.reference.windows.iter().map(|w| w.id.to_string()).collect();
        let size = walk.bench.broker().memory().await.state.size;
        diaries.push((std::mem::take(&mut walk.diary.steps), ids, size));
    }
    assert_eq!(diaries[0], diaries[1]);
}
