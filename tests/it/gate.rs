//! The gate and the clerk under lies, lateness, and failures: what the signer signs, and what is left standing.

use std::sync::{Arc, Mutex};

use jit_broker::clock::{Simulated, Timekeeper};
use jit_broker::daemon::{Daemon, open_gate};
use jit_broker::domain::act::{Deed, Selector, SignedAct};
use jit_broker::domain::event::Command;
use jit_broker::domain::ids::RequestId;
use jit_broker::domain::names::{RoleName, TargetName};
use jit_broker::domain::refusal::{Code, Refusal};
use jit_broker::signer::gate::Gate;
use jit_broker::signer::{Answer, Leaf, Order, Signer};
use tokio::task::JoinSet;

use crate::trust::{World, fresh_gate, leaves, words};

async fn restart(world: &mut World) {
    world.daemon.take().unwrap().stop().await;
    world.daemon = Some(Daemon::start(&world.settings, world.clock.clone()).await.unwrap());
}

fn request(world: &World) -> (SignedAct, RequestId) {
    let deed = Deed::Request {
        by: world.alice.name(),
        target: TargetName::new(jit_broker::daemon::dev::TARGET).unwrap(),
        role: RoleName::new("deploy").unwrap(),
        for_s: Some(600),
        key: world.alice.key(),
    };
    let signed = world.sign(&world.alice, Some(&words("hotfix for OPS-1")), deed);
    let id = RequestId::of_digest(&signed.digest());
    (signed, id)
}

async fn revoke(world: &World, grant: jit_broker::domain::ids::GrantId) {
    let why = words("enough of that");
    let deed = Deed::Revoke { by: world.bob.name(), of: Selector::Grant(grant) };
    world.broker().act(world.sign(&world.bob, Some(&why), deed), Some(&why), None).await.unwrap();
}

/// Shows everything that the gate has not seen; gives its last answer.
fn show(gate: &mut impl Signer, leaves: &[Leaf]) -> Result<Answer, Refusal> {
    let Answer::Head { size } = gate.order(Order::Head)? else { panic!("no head") };
    let rest = leaves.get(usize::try_from(size).unwrap()..).unwrap_or_default().to_vec();
    gate.order(Order::Checkpoint { from: size, leaves: rest })
}

/// The place of the last entry of a kind.
fn last(leaves: &[Leaf], kind: &str) -> usize {
    leaves.iter().rposition(|l| l.entry.contains(&format!("\"kind\":\"{kind}\""))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_is_sent_again_takes_no_text_from_an_open_request() {
    let mut world = World::start().await;
    let (signed, id) = request(&world);
    let text = words("hotfix for OPS-1");
    world.broker().act(signed.clone(), Some(&text), None).await.unwrap();
    assert!(world.broker().act(signed.clone(), Some(&text), None).await.unwrap().events.is_empty());
    // Nor does one that nobody known has signed.
    let forged = SignedAct { signature: signed.signature.replace("SSH", "SSX"), ..request(&world).0 };
    assert_eq!(world.broker().act(forged, Some(&text), None).await.unwrap_err().code, Code::BAD_SIGNATURE);
    world.approve(&world.bob, id, |_| {}).await.unwrap();
    let grant = world.grant(id).await;
    world.issue(grant).await.unwrap();
    restart(&mut world).await;
    world.issue(grant).await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_many_pages_is_caught_up_with() {
    let mut world = World::start().await;
    let grant = world.open(3000).await;
    let mut beats = JoinSet::new();
    for _ in 0..2300 {
        let broker = world.broker().clone();
        beats.spawn(async move { broker.command(Command::Beat, Vec::new()).await });
    }
    beats.join_all().await.into_iter().for_each(|beat| drop(beat.unwrap()));
    assert!(world.broker().reader().size().await.unwrap() > 2300);
    restart(&mut world).await;
    world.issue(grant).await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_revocation_list_is_signed_that_the_signed_log_does_not_hold() {
    let mut world = World::start().await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    revoke(&world, grant).await;
    let honest = leaves(&world).await;
    world.daemon.take().unwrap().stop().await;
    // After a restart of the signer: the real beginning, and an invented list without any serial.
    let mut forged = honest[last(&honest, "krl.published")].clone();
    let mut entry: serde_json::Value = serde_json::from_str(&forged.entry).unwrap();
    entry["event"] = serde_json::json!({ "kind": "krl.published", "serials": [], "version": 1_000_000_000 });
    entry["seq"] = serde_json::json!(1);
    forged.entry = serde_json::to_string(&entry).unwrap();
    let mut gate = open_gate(&world.settings, world.clock.clone()).unwrap();
    let _ = gate.order(Order::Checkpoint { from: 0, leaves: vec![honest[0].clone(), forged] });
    assert_eq!(gate.order(Order::Krl).unwrap_err().code, Code::LOG_LIES);
    // A list that lacks what was revoked since is not signed either.
    let before = honest[..last(&honest, "krl.published")].to_vec();
    let mut gate = fresh_gate(&world, "before.json");
    show(&mut gate, &before).unwrap();
    assert_eq!(gate.order(Order::Krl).unwrap_err().code, Code::SIGNER_REFUSED);
    show(&mut gate, &honest).unwrap();
    assert!(matches!(gate.order(Order::Krl), Ok(Answer::Krl { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_withheld_does_not_keep_the_old_policy() {
    let mut world = World::start().await;
    world.open(600).await;
    let honest = leaves(&world).await;
    world.daemon.take().unwrap().stop().await;
    let adopted = last(&honest, "bundle.adopted");
    let mut withheld = honest.clone();
    withheld[adopted].blobs.clear();
    let mut gate = open_gate(&world.settings, world.clock.clone()).unwrap();
    assert_eq!(show(&mut gate, &withheld).unwrap_err().code, Code::LOG_LIES);
    // A blob counts only beside the entry that names it; others would be kept for ever.
    let submitted = last(&honest, "request.submitted");
    let mut moved = honest.clone();
    let text = moved[submitted].blobs.pop().unwrap();
    moved[adopted].blobs.push(text);
    let mut gate = fresh_gate(&world, "moved.json");
    assert_eq!(show(&mut gate, &moved).unwrap_err().code, Code::LOG_LIES);
    show(&mut fresh_gate(&world, "honest.json"), &honest).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_head_and_another_beginning_are_refused() {
    let mut world = World::start().await;
    let honest = leaves(&world).await;
    world.daemon.take().unwrap().stop().await;
    let head = world.settings.ca_dir.join("head.json");
    let kept = std::fs::read_to_string(&head).unwrap();
    assert!(kept.contains("\"genesis\":\""), "{kept}");
    std::fs::remove_file(&head).unwrap();
    let started = Daemon::start(&world.settings, world.clock.clone()).await;
    assert_eq!(started.err().unwrap().code, Code::HEAD_GONE);
    // The keys alone do not make a log theirs: the first entry must name the administrators of [trust].
    let mut mallory = world.settings.clone();
    mallory.admins.insert(world.bob.name(), world.bob.key());
    let mut gate = jit_broker::daemon::found_gate(&mallory, world.clock.clone()).unwrap();
    assert_eq!(show(&mut gate, &honest).unwrap_err().code, Code::PINNED_TRUST);
    assert_eq!(gate.order(Order::Krl).unwrap_err().code, Code::PINNED_TRUST);
    // Nor may there be another one than was signed before, whatever follows it.
    std::fs::write(&head, &kept).unwrap();
    let mut other = honest.clone();
    other[0].entry = other[0].entry.replace("\"ms\":1000000", "\"ms\":1000001");
    let mut gate = open_gate(&world.settings, world.clock.clone()).unwrap();
    assert_eq!(show(&mut gate, &other[..1]).unwrap_err().code, Code::LOG_LIES);
    // A head of before the hash was kept is taken, and the hash is in the next one.
    let mut old: serde_json::Value = serde_json::from_str(&kept).unwrap();
    old.as_object_mut().unwrap().remove("genesis");
    std::fs::write(&head, old.to_string()).unwrap();
    let daemon = Daemon::start(&world.settings, world.clock.clone()).await.unwrap();
    daemon.stop().await;
    assert!(std::fs::read_to_string(&head).unwrap().contains("\"genesis\":\""));
    let again = jit_broker::daemon::found_gate(&world.settings, world.clock.clone());
    assert_eq!(again.err().unwrap().code, Code::NOT_EMPTY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_whose_clock_is_a_little_behind_signs_and_one_far_behind_waits() {
    let world = World::start().await;
    world.open(600).await;
    let honest = leaves(&world).await;
    world.clock.step_wall(-25);
    show(&mut fresh_gate(&world, "behind.json"), &honest).unwrap();
    world.clock.step_wall(-35);
    let mut gate = fresh_gate(&world, "far.json");
    assert_eq!(show(&mut gate, &honest).unwrap_err().code, Code::CLOCK);
    // Nothing of what it has taken meanwhile is signed, and nothing is broken for ever.
    world.clock.step_wall(60);
    assert!(matches!(show(&mut gate, &honest), Ok(Answer::Checkpoint { .. })));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_too_late_is_not_signed() {
    let mut world = World::start().await;
    let grant = world.open(3000).await;
    let opened = leaves(&world).await;
    world.issue(grant).await.unwrap();
    let issued = leaves(&world).await;
    world.daemon.take().unwrap().stop().await;
    let order = || Order::Credential { grant, key: world.alice.key() };
    let mut in_time = fresh_gate(&world, "in-time.json");
    let mut paused = fresh_gate(&world, "paused.json");
    let mut unclaimed = fresh_gate(&world, "unclaimed.json");
    show(&mut in_time, &issued).unwrap();
    show(&mut paused, &opened).unwrap();
    show(&mut unclaimed, &opened).unwrap();
    // A daemon that held an entry back for more than five minutes made it up, or nobody waits for it any more.
    world.clock.advance(301);
    show(&mut paused, &issued).unwrap();
    assert_eq!(paused.order(order()).unwrap_err().code, Code::SIGNER_REFUSED);
    in_time.order(order()).unwrap();
    // The same holds for a window that was opened late, and after a restart of the signer.
    let mut late = fresh_gate(&world, "late.json");
    show(&mut late, &issued).unwrap();
    for name in ["late.json", "paused.json"] {
        let mut again = fresh_gate(&world, name);
        show(&mut again, &issued).unwrap();
        assert_eq!(again.order(order()).unwrap_err().code, Code::SIGNER_REFUSED, "{name}");
    }
    let mut again = fresh_gate(&world, "in-time.json");
    show(&mut again, &issued).unwrap();
    again.order(order()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_use_is_in_time_by_the_signers_own_clock() {
    let mut world = World::start().await;
    let grant = world.open(3000).await;
    let opened = leaves(&world).await;
    // The last second for the first use: a daemon that says so later is believed within the skew alone.
    let claim_by = world.broker().memory().await.state.grants.get(&grant).unwrap().claim_by;
    world.clock.advance(u64::try_from(claim_by - world.broker().now() - 1).unwrap());
    world.issue(grant).await.unwrap();
    let issued = leaves(&world).await;
    world.daemon.take().unwrap().stop().await;
    let order = || Order::Credential { grant, key: world.alice.key() };
    world.clock.advance(20);
    // The window was seen in time, the first use is judged 20 s and 120 s later.
    let gate = |name: &str| {
        let clock = Simulated::at(claim_by - 1700);
        let keys = jit_broker::signer::keys::Keys::load(&world.settings.ca_dir).unwrap();
        let (head, pins) = (world.settings.state_dir.join(name), jit_broker::daemon::pins(&world.settings));
        (Gate::found(keys, head, pins, Timekeeper::new(clock.clone())).unwrap(), clock)
    };
    for (name, after, code) in [("soon", 20, None), ("later", 120, Some(Code::SIGNER_REFUSED))] {
        let (mut gate, clock) = gate(name);
        show(&mut gate, &opened).unwrap();
        clock.advance(1700 + after);
        show(&mut gate, &issued).unwrap();
        assert_eq!(gate.order(order()).err().map(|r| r.code), code, "{name}");
    }
}

/// The real gate behind faults that a test throws.
struct Faulty {
    gate: Gate,
    fault: Arc<Mutex<Option<&'static str>>>,
}

impl Signer for Faulty {
    fn order(&mut self, order: Order) -> Result<Answer, Refusal> {
        let fault = *self.fault.lock().unwrap();
        match fault {
            None => self.gate.order(order),
            Some("panic") => panic!("thrown by a test"),
            Some(fault) => Err(Refusal::new(Code::SIGNER_AWAY, fault)),
        }
    }
}

/// Starts the world's daemon anew with a signer that can be made to fail.
async fn with_faults(world: &mut World) -> Arc<Mutex<Option<&'static str>>> {
    world.daemon.take().unwrap().stop().await;
    let fault = Arc::new(Mutex::new(None));
    let gate = open_gate(&world.settings, world.clock.clone()).unwrap();
    let signer = Box::new(Faulty { gate, fault: fault.clone() });
    world.daemon = Some(Daemon::start_with(&world.settings, world.clock.clone(), signer).await.unwrap());
    fault
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_past_a_head_that_was_not_flushed() {
    let world = World::start().await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    let honest = leaves(&world).await;
    let order = || Order::Credential { grant, key: world.alice.key() };
    // The folder of the head is not there yet.
    let mut gate = fresh_gate(&world, "flush/head.json");
    assert_eq!(show(&mut gate, &honest).unwrap_err().code, Code::LOCAL_IO);
    assert_eq!(gate.order(order()).unwrap_err().code, Code::SIGNER_REFUSED);
    assert!(gate.order(Order::Krl).is_err());
    std::fs::create_dir(world.settings.state_dir.join("flush")).unwrap();
    show(&mut gate, &honest).unwrap();
    gate.order(order()).unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_panicked_signs_nothing_more() {
    let mut world = World::start().await;
    let fault = with_faults(&mut world).await;
    let grant = world.open(600).await;
    *fault.lock().unwrap() = Some("panic");
    assert!(world.issue(grant).await.is_err());
    *fault.lock().unwrap() = None;
    assert_eq!(world.issue(grant).await.unwrap_err().code, Code::SIGNER_AWAY);
    world.stop().await;
}
