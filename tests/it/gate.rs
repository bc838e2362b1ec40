//! The gate and the clerk under lies, lateness, and failures: what the signer signs, and what is left standing.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use jit_broker::api::{Api, router};
use jit_broker::broker::reaper::round;
use jit_broker::clock::{Simulated, Timekeeper};
use jit_broker::daemon::dev::{Somebody, bundle};
use jit_broker::daemon::{Daemon, open_gate};
use jit_broker::domain::act::{Deed, Selector, SignedAct};
use jit_broker::domain::bundle::BundleText;
use jit_broker::domain::event::{Command, Entry, Event};
use jit_broker::domain::grant::GrantState;
use jit_broker::domain::ids::RequestId;
use jit_broker::domain::names::{RoleName, TargetName};
use jit_broker::domain::refusal::{Code, Refusal};
use jit_broker::domain::text::Words;
use jit_broker::signer::gate::Gate;
use jit_broker::signer::{Answer, Leaf, Order, Signer};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::trust::{World, fresh_gate, leaves, words};

async fn restart(world: &mut World) {
    world.daemon.take().unwrap().stop().await;
    world.daemon = Some(Daemon::start(&world.settings, world.clock.clone()).await.unwrap());
}

fn request(world: &World) -> (SignedAct, RequestId) {
    request_for(world, 600)
}

fn request_for(world: &World, for_s: u64) -> (SignedAct, RequestId) {
    let deed = Deed::Request {
        by: world.alice.name(),
        target: TargetName::new(jit_broker::daemon::dev::TARGET).unwrap(),
        role: RoleName::new("deploy").unwrap(),
        for_s: Some(for_s),
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
pub(crate) fn show(gate: &mut impl Signer, leaves: &[Leaf]) -> Result<Answer, Refusal> {
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
    let honest = leaves(&world.settings.ledger).await;
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
    let honest = leaves(&world.settings.ledger).await;
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
    let honest = leaves(&world.settings.ledger).await;
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
    let mut old: serde_json::Value = serde_json::from_str(jit_broker::signer::head::newest(&kept)).unwrap();
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
    let honest = leaves(&world.settings.ledger).await;
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

/// By a time in the future every revoked certificate is over, and the list could be empty.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_from_the_future_shortens_no_revocation_list() {
    let mut world = World::start().await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    revoke(&world, grant).await;
    let honest = leaves(&world.settings.ledger).await;
    world.daemon.take().unwrap().stop().await;
    let mut gate = fresh_gate(&world, "future.json");
    show(&mut gate, &honest).unwrap();
    let mut lie = honest.clone();
    let mut entry: Entry = serde_json::from_str(&honest.last().unwrap().entry).unwrap();
    (entry.seq, entry.at) = (entry.seq + 1, entry.at + 10 * 365 * 86_400);
    (entry.cause, entry.event) = (Some(Command::Beat), Event::Heartbeat);
    let bytes = jit_broker::domain::digest::canonical(&entry).unwrap();
    lie.push(Leaf { entry: String::from_utf8(bytes).unwrap(), blobs: Vec::new() });
    assert_eq!(show(&mut gate, &lie).unwrap_err().code, Code::CLOCK);
    let Answer::Krl { krl, .. } = gate.order(Order::Krl).unwrap() else { panic!("no list") };
    let list = jit_ca::krl::Krl::decode(&data_encoding::BASE64.decode(krl.as_bytes()).unwrap()).unwrap();
    assert_eq!(list.serials.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_too_late_is_not_signed() {
    let mut world = World::start().await;
    let grant = world.open(3000).await;
    let opened = leaves(&world.settings.ledger).await;
    world.issue(grant).await.unwrap();
    let issued = leaves(&world.settings.ledger).await;
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
    let opened = leaves(&world.settings.ledger).await;
    // The last second for the first use: a daemon that says so later is believed within the skew alone.
    let claim_by = world.broker().memory().await.state.grants.get(&grant).unwrap().claim_by;
    world.clock.advance(u64::try_from(claim_by - world.broker().now() - 1).unwrap());
    world.issue(grant).await.unwrap();
    let issued = leaves(&world.settings.ledger).await;
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
    let honest = leaves(&world.settings.ledger).await;
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

/// Waits until the signer signs again.
async fn recovered(world: &World) {
    let until = Instant::now() + Duration::from_secs(20);
    while let Some(refusal) = world.broker().health() {
        assert!(Instant::now() < until, "{refusal}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ready(world: &World) -> StatusCode {
    let api = Api { broker: world.broker().clone(), server_ca_pem: "".into(), recordings: None };
    let request = Request::builder().uri("/readyz").body(Body::empty()).unwrap();
    router(api).oneshot(request).await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_signer_the_broker_grants_nothing_and_says_what_is_not_published() {
    let mut world = World::start().await;
    let fault = with_faults(&mut world).await;
    let grant = world.open(3000).await;
    world.issue(grant).await.unwrap();
    let (waiting, another) = (world.ask(3300).await.unwrap(), world.ask(3400).await.unwrap());
    assert_eq!(ready(&world).await, StatusCode::OK);
    *fault.lock().unwrap() = Some("away");
    // The first one finds out, the second is refused before anything is written.
    assert_eq!(world.approve(&world.bob, waiting, |_| {}).await.unwrap_err().code, Code::SIGNER_AWAY);
    assert_eq!(ready(&world).await, StatusCode::SERVICE_UNAVAILABLE);
    let size = world.broker().reader().size().await.unwrap();
    assert_eq!(world.approve(&world.bob, another, |_| {}).await.unwrap_err().code, Code::SIGNER_AWAY);
    assert_eq!(world.ask(3500).await.unwrap_err().code, Code::SIGNER_AWAY);
    assert_eq!(world.broker().reader().size().await.unwrap(), size);
    // An end is recorded whatever happens, but it does not look like more than that.
    let why = words("enough of that");
    let deed = Deed::Revoke { by: world.bob.name(), of: Selector::Grant(grant) };
    let signed = world.sign(&world.bob, Some(&why), deed);
    let api = Api { broker: world.broker().clone(), server_ca_pem: "".into(), recordings: None };
    let post = serde_json::json!({ "act": signed.act, "signature": signed.signature, "words": why });
    let request = Request::builder().method("POST").uri("/v1/acts").body(Body::from(post.to_string())).unwrap();
    let answer = router(api).oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let notice = body["notice"].as_str().unwrap();
    assert!(notice.contains("not published"), "{notice}");
    assert!(matches!(world.state(grant).await, GrantState::Ending { .. }));
    // When it is back, everything is made good without anybody asking.
    *fault.lock().unwrap() = None;
    recovered(&world).await;
    assert_eq!(ready(&world).await, StatusCode::OK);
    round(world.broker()).await.unwrap();
    let krl = world.broker().krl().unwrap();
    assert_eq!(krl.version, world.broker().memory().await.state.krl.version);
    let approved = world.grant(waiting).await;
    world.issue(approved).await.unwrap();
    world.approve(&world.bob, another, |_| {}).await.unwrap();
    world.stop().await;
}

/// Carries out acts together, so that they share their flushes.
async fn together(world: &World, acts: Vec<(SignedAct, Option<Words>)>) {
    let mut running = JoinSet::new();
    for (signed, text) in acts {
        let broker = world.broker().clone();
        running.spawn(async move { broker.act(signed, text.as_ref(), None).await });
    }
    running.join_all().await.into_iter().for_each(|done| drop(done.unwrap()));
}

/// Opens this many windows of alice, none of which covers the next.
async fn many(world: &World, count: u64) {
    let all: Vec<u64> = (60..60 + count).collect();
    for some in all.chunks(40) {
        let asked: Vec<_> = some.iter().map(|for_s| request_for(world, *for_s)).collect();
        let ids: Vec<RequestId> = asked.iter().map(|(_, id)| *id).collect();
        together(world, asked.into_iter().map(|(act, _)| (act, Some(words("hotfix for OPS-1")))).collect()).await;
        let mut approvals = Vec::new();
        for request in ids {
            let (request_digest, terms) = world.terms(request).await;
            let deed = Deed::Approve { by: world.bob.name(), request, request_digest, terms };
            approvals.push((world.sign(&world.bob, None, deed), None));
        }
        together(world, approvals).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_many_events_is_shown_whole_and_deadlines_come_in_pieces() {
    let mut world = World::start().await;
    let fault = with_faults(&mut world).await;
    many(&world, 505).await;
    // After a long night everything is due at once.
    let before = world.broker().reader().size().await.unwrap();
    world.clock.advance(3600);
    round(world.broker()).await.unwrap();
    let memory = world.broker().memory().await;
    assert!(memory.state.grants.values().all(|g| g.state == GrantState::Lapsed));
    drop(memory);
    let due = world.broker().reader().leaves(before, 1000).await.unwrap();
    let text = |i: usize| String::from_utf8_lossy(&due[i].bytes).into_owned();
    let causes: Vec<usize> = (0..due.len()).filter(|i| text(*i).contains("\"command\":\"due\"")).collect();
    assert!(due.len() >= 505 && causes.len() > 1 && causes.windows(2).all(|w| w[1] - w[0] <= 500), "{causes:?}");
    // A revocation of everything is one command, however large; the signer has not seen it when it comes back.
    many(&world, 505).await;
    *fault.lock().unwrap() = Some("away");
    let why = words("enough of that");
    let deed = Deed::Revoke { by: world.bob.name(), of: Selector::Person(world.alice.name()) };
    let done = world.broker().act(world.sign(&world.bob, Some(&why), deed), Some(&why), None).await.unwrap();
    assert!(done.events.len() > 1000, "{}", done.events.len());
    *fault.lock().unwrap() = None;
    recovered(&world).await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_bundle_stands_beside_the_log_only_where_the_refusal_needs_it() {
    let world = World::start().await;
    let base = world.broker().memory().await.state.bundle.digest;
    let mut text = bundle(&world.alice.key(), &world.bob.key(), "deploy", 22);
    let apply = |who: &Somebody, text: &BundleText| {
        let deed = Deed::Apply { by: who.name(), bundle: text.digest(), base };
        (world.sign(who, None, deed), text.bytes())
    };
    let stored = async |text: &BundleText| {
        let digest = text.digest();
        world.broker().reader().blob(digest.as_bytes()).await.unwrap().is_some()
    };
    // Anybody known could fill the disk with it.
    text.files.get_mut("policy.toml").unwrap().push_str("# of alice\n");
    let (signed, bytes) = apply(&world.alice, &text);
    assert_eq!(world.broker().act(signed, None, Some(bytes)).await.unwrap_err().code, Code::NOT_OFFICE);
    assert!(!stored(&text).await);
    // What fails its own tests is what was refused; without it nobody could decide the same again.
    let policy = text.files.get_mut("policy.toml").unwrap();
    *policy = policy
        .replace("expect = { steps = [\"peer\"], max = \"1h\" }", "expect = { steps = [\"boss\"], max = \"1h\" }");
    let (signed, bytes) = apply(&world.admin, &text);
    assert_eq!(world.broker().act(signed, None, Some(bytes)).await.unwrap_err().code, Code::BUNDLE_REFUSED);
    assert!(stored(&text).await);
    let shown: Vec<Leaf> = partly_stored(&world).await;
    show(&mut fresh_gate(&world, "refused.json"), &shown).unwrap();
    world.stop().await;
}

/// The leaves with those of their blobs that were stored.
async fn partly_stored(world: &World) -> Vec<Leaf> {
    let reader = jit_broker::ledger::Reader::open(&world.settings.ledger).await.unwrap();
    let mut out = Vec::new();
    for leaf in reader.leaves(0, 1000).await.unwrap() {
        let entry = String::from_utf8(leaf.bytes).unwrap();
        let parsed: jit_broker::domain::event::Entry = serde_json::from_str(&entry).unwrap();
        let (bundles, texts) = jit_broker::broker::clerk::beside(&parsed);
        let mut blobs = Vec::new();
        for digest in bundles.iter().chain(&texts) {
            blobs.extend(reader.blob(digest.as_bytes()).await.unwrap().map(|b| String::from_utf8(b).unwrap()));
        }
        out.push(Leaf { entry, blobs });
    }
    out
}

pub(crate) async fn tamper(world: &World, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&world.settings.ledger);
    let mut conn = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    sqlx::Connection::close(conn).await.unwrap();
}

/// What the daemon says that stops it; it stops within seconds.
async fn stopped_by(world: &mut World) -> Refusal {
    let daemon = world.daemon.as_mut().unwrap();
    tokio::time::timeout(Duration::from_secs(20), daemon.failed()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_that_leaves_the_log_whole_stops_nothing() {
    let world = World::start().await;
    tamper(&world, "CREATE TRIGGER full BEFORE INSERT ON leaf BEGIN SELECT RAISE(ABORT, 'no room'); END").await;
    assert_eq!(world.ask(600).await.unwrap_err().code, Code::LEDGER_DOWN);
    assert!(world.broker().memory().await.state.open_requests.is_empty());
    tamper(&world, "DROP TRIGGER full").await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_the_tree_in_memory_stops_the_daemon() {
    // What was written is not what is read back.
    let mut world = World::start().await;
    tamper(
        &world,
        "DROP TRIGGER leaf_update; CREATE TRIGGER flip AFTER INSERT ON leaf BEGIN
           UPDATE leaf SET bytes = CAST(replace(CAST(bytes AS TEXT), 'alice', 'malic') AS BLOB) WHERE seq = NEW.seq; END",
    )
    .await;
    assert!(world.ask(600).await.is_err());
    assert_eq!(stopped_by(&mut world).await.code, Code::LEDGER_CORRUPT);
    assert!(world.ask(600).await.is_err());
    world.stop().await;
    // Nothing can be written, and nothing read that would tell what is durable.
    let mut world = World::start().await;
    tamper(&world, "ALTER TABLE leaf RENAME TO gone").await;
    assert!(world.ask(600).await.is_err());
    assert_eq!(stopped_by(&mut world).await.code, Code::LEDGER_DOWN);
    assert!(world.broker().memory().await.state.requests.is_empty(), "what is not durable is not known");
    world.stop().await;
}

/// The certificate that the daemon shows, as openssl sees it, in a file of its own.
fn shown_certificate(world: &World, name: &str) -> std::path::PathBuf {
    let address = world.daemon.as_ref().unwrap().address;
    let path = world.settings.state_dir.join(name);
    let line =
        format!("openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -out {}", path.display());
    assert!(std::process::Command::new("sh").args(["-c", &line]).status().unwrap().success(), "{line}");
    path
}

/// True when openssl says at this moment that it leads to the authority.
fn verifies(world: &World, leaf: &std::path::Path, at: i64) -> bool {
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["verify", "-x509_strict", "-attime", &at.to_string(), "-CAfile"]);
    openssl.arg(world.settings.ca_dir.join("x509_server.crt")).arg(leaf).output().unwrap().status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_certificate_is_renewed_while_it_runs() {
    let world = World::start().await;
    let first = shown_certificate(&world, "first.pem");
    let week = 7 * 86_400;
    let made = world.broker().now();
    assert!(verifies(&world, &first, made) && verifies(&world, &first, made + week - 60));
    assert!(!verifies(&world, &first, made + week + 60));
    world.clock.advance(86_400 + 1);
    let now = world.broker().now();
    let until = Instant::now() + Duration::from_secs(20);
    while !verifies(&world, &shown_certificate(&world, "next.pem"), now + week - 60) {
        assert!(Instant::now() < until, "it was not renewed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_too_long_is_refused_alone() {
    let world = World::start().await;
    let what = "x".repeat(70_000);
    let broker = world.broker().clone();
    // They wait together while a batch is written, and so are one.
    let mut sent = JoinSet::new();
    for n in 0..8 {
        let (broker, what) = (broker.clone(), if n == 3 { what.clone() } else { format!("{n}") });
        let found = Command::AccountFound { server: "db".to_owned(), account: "a".to_owned(), what };
        sent.spawn(async move { (n, broker.command(found, Vec::new()).await.map(drop)) });
    }
    for (n, told) in sent.join_all().await {
        assert_eq!(told.err().map(|refusal| refusal.code), (n == 3).then_some(Code::BUG), "{n}");
    }
    world.stop().await;
}
