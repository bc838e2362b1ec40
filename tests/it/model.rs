//! A random walk of asks, answers, issues, ends, clock steps, crashes and restarts beside a small reference.
//!
//! `JIT_MODEL_STEPS` makes the walk longer. The reference knows nothing of our code: only what the promises say.

use std::collections::{BTreeMap, BTreeSet};

use jit_broker::broker::reaper::round;
use jit_broker::daemon::Daemon;
use jit_broker::domain::act::{Deed, Selector};
use jit_broker::domain::ids::{GrantId, RequestId};
use jit_broker::domain::refusal::Code;

use crate::trust::{World, words};

/// What a grant must be, by the promises alone.
struct Expected {
    ends_at: i64,
    claim_by: i64,
    claimed: bool,
    over: bool,
    /// Serial and `valid_before` of every certificate that a client ever received.
    certificates: BTreeMap<u64, i64>,
}

#[derive(Default)]
struct Reference {
    pending: BTreeMap<RequestId, i64>,
    finals: BTreeMap<RequestId, &'static str>,
    grants: BTreeMap<GrantId, Expected>,
    /// Serials that were ended before their time, with `valid_before`.
    revoked: BTreeMap<u64, i64>,
    serials: BTreeSet<u64>,
    disabled: bool,
    krl_version: u64,
}

impl Reference {
    fn end(&mut self, grant: GrantId, now: i64) {
        if let Some(expected) = self.grants.get_mut(&grant) {
            expected.over = true;
            let unexpired = expected.certificates.iter().filter(|(_, before)| now < **before + 90);
            self.revoked.extend(unexpired.map(|(serial, before)| (*serial, *before)));
        }
    }

    /// What time alone does.
    fn pass(&mut self, now: i64) {
        let late: Vec<RequestId> = self.pending.iter().filter(|(_, by)| **by <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.pending.remove(&id);
            self.finals.insert(id, "expired");
        }
        let ended: Vec<GrantId> = self
            .grants
            .iter()
            .filter(|(_, g)| !g.over && (g.ends_at <= now || (!g.claimed && g.claim_by <= now)))
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            self.end(id, now);
        }
    }
}

/// A small generator of its own (xorshift64*), so that a failing walk can be walked again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        let sides = u64::try_from(items.len()).ok().filter(|n| *n > 0)?;
        items.get(usize::try_from(self.roll(sides)).ok()?).copied()
    }
}

async fn step(world: &mut World, reference: &mut Reference, dice: &mut Dice) {
    let pending: Vec<RequestId> = reference.pending.keys().copied().collect();
    let open: Vec<GrantId> = reference.grants.iter().filter(|(_, g)| !g.over).map(|(id, _)| *id).collect();
    let now = world.broker().now();
    match dice.roll(14) {
        0..=2 => ask(world, reference, dice, now).await,
        3 | 4 => {
            if let Some(id) = dice.pick(&pending) {
                world.approve(&world.bob, id, |_| {}).await.unwrap();
                let grant = world.grant(id).await;
                reference.pending.remove(&id);
                reference.finals.insert(id, "approved");
                let (_, terms) = world.terms(id).await;
                let ends_at = now + i64::try_from(terms.for_s).unwrap();
                let claim_by = (now + 1800).min(ends_at);
                let expected =
                    Expected { ends_at, claim_by, claimed: false, over: false, certificates: BTreeMap::new() };
                reference.grants.insert(grant, expected);
            }
        }
        5 => {
            if let Some(id) = dice.pick(&pending) {
                let deed = Deed::Withdraw { by: world.alice.name(), request: id };
                let done = world.broker().act(world.sign(&world.alice, None, deed), None, None).await;
                if reference.disabled {
                    assert_eq!(done.unwrap_err().code, Code::DISABLED);
                } else {
                    done.unwrap();
                    reference.pending.remove(&id);
                    reference.finals.insert(id, "withdrawn");
                }
            }
        }
        6 => {
            if let Some(id) = dice.pick(&pending) {
                let why = words("not now, please");
                let deed = Deed::Deny { by: world.bob.name(), request: id };
                world.broker().act(world.sign(&world.bob, Some(&why), deed), Some(&why), None).await.unwrap();
                reference.pending.remove(&id);
                reference.finals.insert(id, "denied");
            }
        }
        7..=9 => issue(world, reference, dice).await,
        10 => {
            if let Some(id) = dice.pick(&open) {
                let why = words("enough of that");
                let deed = Deed::Revoke { by: world.bob.name(), of: Selector::Grant(id) };
                world.broker().act(world.sign(&world.bob, Some(&why), deed), Some(&why), None).await.unwrap();
                reference.end(id, now);
            }
        }
        11 => {
            // A crash or a stop, and a start on what is durable.
            let (settings, clock) = (world.settings.clone(), world.clock.clone());
            if dice.roll(2) == 0 {
                world.broker().snapshot().await.unwrap();
            }
            if let Some(daemon) = world.daemon.take() {
                daemon.stop().await;
            }
            world.daemon = Some(Daemon::start(&settings, clock).await.unwrap());
            crate::snapshot::as_folded(world).await;
        }
        12 if reference.disabled || dice.roll(5) == 0 => disable_or_enable(world, reference, now).await,
        _ => {
            if dice.roll(4) == 0 {
                // A wall clock that is stepped back and put right again extends nothing.
                world.clock.step_wall(-7200);
                let code = if reference.disabled { Code::DISABLED } else { Code::CLOCK };
                assert_eq!(world.ask(60).await.unwrap_err().code, code);
                world.clock.step_wall(7200);
            }
            world.clock.advance(dice.roll(1500));
        }
    }
}

async fn ask(world: &World, reference: &mut Reference, dice: &mut Dice, now: i64) {
    let for_s = [60, 300, 900, 3600, 3601].get(usize::try_from(dice.roll(5)).unwrap()).copied().unwrap();
    let live = reference.grants.values().any(|g| !g.over && g.ends_at - now >= i64::try_from(for_s).unwrap());
    match world.ask(for_s).await {
        Ok(id) => {
            assert!(!reference.disabled && for_s <= 3600 || live);
            if !live {
                reference.pending.insert(id, now + 8 * 3600);
            }
        }
        Err(refusal) if reference.disabled => assert_eq!(refusal.code, Code::DISABLED),
        Err(refusal) if for_s > 3600 => assert_eq!(refusal.code, Code::TOO_LONG),
        Err(refusal) => assert_eq!(refusal.code, Code::TOO_MANY, "{refusal}"),
    }
}

async fn issue(world: &World, reference: &mut Reference, dice: &mut Dice) {
    let all: Vec<GrantId> = reference.grants.keys().copied().collect();
    let open: Vec<GrantId> = reference.grants.iter().filter(|(_, g)| !g.over).map(|(id, _)| *id).collect();
    // Mostly under what is open; sometimes under what is over, which must be refused.
    let among = if dice.roll(4) == 0 || open.is_empty() { &all } else { &open };
    let Some(id) = dice.pick(among) else { return };
    let expected = reference.grants.get_mut(&id).unwrap();
    match world.issue(id).await {
        Ok(certificate) => {
            assert!(!expected.over && !reference.disabled, "a certificate under a grant that is over");
            let facts = jit_ca::ssh::read(&certificate).unwrap();
            let before = i64::try_from(facts.valid_before).unwrap();
            assert_eq!(before, expected.ends_at, "the window is in the credential");
            if expected.certificates.insert(facts.serial, before).is_none() {
                assert!(reference.serials.insert(facts.serial), "serial {} was used before", facts.serial);
            }
            expected.claimed = true;
        }
        Err(refusal) => assert!(expected.over || reference.disabled, "{refusal}"),
    }
}

async fn disable_or_enable(world: &World, reference: &mut Reference, now: i64) {
    if reference.disabled {
        let deed = Deed::Enable { by: world.admin.name(), person: world.alice.name() };
        world.broker().act(world.sign(&world.admin, None, deed), None, None).await.unwrap();
        reference.disabled = false;
        return;
    }
    let why = words("left the company");
    let deed = Deed::Disable { by: world.bob.name(), person: world.alice.name() };
    world.broker().act(world.sign(&world.bob, Some(&why), deed), Some(&why), None).await.unwrap();
    reference.disabled = true;
    for id in reference.grants.iter().filter(|(_, g)| !g.over).map(|(id, _)| *id).collect::<Vec<_>>() {
        reference.end(id, now);
    }
    for (id, _) in std::mem::take(&mut reference.pending) {
        reference.finals.insert(id, "invalidated");
    }
}

/// The invariants of security.md that can be seen from outside, after every step.
async fn check(world: &World, reference: &mut Reference) {
    let now = world.broker().now();
    reference.pass(now);
    round(world.broker()).await.unwrap();
    let memory = world.broker().memory().await;
    let state = &memory.state;
    assert!(state.indexes_hold());
    let (mut requests, mut grants) = (Vec::new(), Vec::new());
    for (id, word) in &reference.finals {
        match state.requests.get(id) {
            Some(request) => assert_eq!(request.state.word(), *word, "I4: a final state never changes"),
            None => requests.push((*id, *word)),
        }
    }
    for (id, expected) in &reference.grants {
        let Some(grant) = state.grants.get(id) else {
            assert!(expected.over, "{id} left memory while it was open");
            grants.push(*id);
            continue;
        };
        assert_eq!(grant.live_at(now).is_ok(), !expected.over, "{id} is {}", grant.state.word());
        for (serial, before) in &expected.certificates {
            let logged = grant.credentials.iter().find(|c| c.serial == *serial);
            assert_eq!(logged.map(|c| c.valid_before), Some(*before), "I1: what a client holds is in the log");
        }
    }
    reference.revoked.retain(|_, before| now < *before + 90);
    for serial in reference.revoked.keys() {
        assert!(state.krl.serials.contains(serial), "I6: {serial} is on the list until its end and the skew");
    }
    assert!(state.krl.version >= reference.krl_version, "I6: versions only rise");
    reference.krl_version = state.krl.version;
    drop(memory);
    // What has left memory is still known; one of each a step is enough.
    let turn = usize::try_from(now).unwrap();
    if let Some((id, word)) = requests.get(turn % requests.len().max(1)) {
        let doc = world.broker().request_doc(&world.alice.name(), *id).await.unwrap();
        assert_eq!(doc.state, *word, "I4: a final state never changes, in memory or not");
    }
    if let Some(id) = grants.get(turn % grants.len().max(1)) {
        let doc = world.broker().grant_doc(&world.bob.name(), *id).await.unwrap();
        assert!(["ended", "revoked", "lapsed", "cancelled"].contains(&doc.state.as_str()), "{}", doc.state);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_walk_keeps_every_promise() {
    let steps = std::env::var("JIT_MODEL_STEPS").ok().and_then(|s| s.parse().ok()).unwrap_or(600_usize);
    let seed = std::env::var("JIT_MODEL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x5eed);
    let (mut world, mut reference, mut dice) = (World::start().await, Reference::default(), Dice(seed));
    for _ in 0..steps {
        step(&mut world, &mut reference, &mut dice).await;
        check(&world, &mut reference).await;
    }
    let (serials, finals) = (reference.serials.len(), reference.finals.len());
    println!(
        "{steps} steps from seed {seed}: {serials} certificates, {finals} requests decided, {} grants",
        reference.grants.len()
    );
    assert!(
        serials * 120 > steps && finals * 20 > steps,
        "the walk went somewhere: {serials} certificates, {finals} requests"
    );
    let (settings, install) = (world.settings.clone(), world.install);
    world.daemon.take().unwrap().stop().await;
    // What is on disk verifies, whatever happened on the way.
    let key = jit_broker::signer::keys::Keys::load(&settings.ca_dir).unwrap().log_public();
    let origin = jit_broker::signer::gate::origin_of(&install.to_string());
    let report = jit_broker::daemon::verify::audit(&settings.ledger, origin, &key, &[]).await.unwrap();
    assert!(report.ok, "{:#?}", report.problems);
}
