//! Snapshots are a cache: right or not used, and never the signer's reason to sign.

use std::collections::BTreeSet;
use std::path::PathBuf;

use jit_broker::broker::clerk::fold;
use jit_broker::broker::evidence;
use jit_broker::broker::reaper::round;
use jit_broker::broker::receipt::About;
use jit_broker::broker::snapshot::load;
use jit_broker::daemon::{Daemon, open_gate};
use jit_broker::domain::act::Deed;
use jit_broker::domain::digest::Digest;
use jit_broker::domain::event::Command;
use jit_broker::domain::ids::{GrantId, SessionId};
use jit_broker::domain::key::Key;
use jit_broker::domain::refusal::Code;
use jit_broker::domain::session::{SessionCause, SessionEnd};
use jit_broker::domain::snapshot::{FOLD, SnapshotError, Still};
use jit_broker::domain::state::State;
use jit_broker::ledger::Reader;
use jit_broker::signer::cache::Cache;
use jit_broker::signer::keys::Keys;
use jit_broker::signer::{Answer, Order, Signer};

use crate::trust::{World, fresh_gate, leaves, words};

/// Equal states are written as equal bytes.
fn written(state: &State) -> String {
    let mut out = Vec::new();
    Still::of(state, Vec::new(), Vec::new()).write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn file(world: &World) -> PathBuf {
    world.settings.state_dir.join("snapshot")
}

/// What the broker has in memory is what the whole log says.
pub(crate) async fn as_folded(broker: &jit_broker::broker::Broker) {
    let memory = broker.memory().await;
    let folded = fold(broker.reader(), &Cache::at("none".into())).await.unwrap();
    assert_eq!(written(&memory.state), written(&folded.state));
    assert!(memory.state.indexes_hold() && folded.state.indexes_hold());
    let beside = |shelf: &jit_broker::domain::shelf::Shelf| shelf.blobs().collect::<Vec<_>>();
    let needed = memory.state.needed();
    let kept: Vec<_> = beside(&memory.shelf).into_iter().filter(|blob| needed.contains(&Digest::of(blob))).collect();
    assert_eq!(kept, beside(&folded.shelf));
}

/// A world with a bit of everything, and a snapshot of it.
async fn pictured() -> World {
    let world = World::start().await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    world.ask(1200).await.unwrap();
    world.broker().snapshot().await.unwrap();
    world.ask(1800).await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_snapshot_is_used_and_a_wrong_one_is_not() {
    use std::os::unix::fs::PermissionsExt;
    let (world, other) = (pictured().await, pictured().await);
    let cache = Cache::at(file(&world));
    let reader = Reader::open(&world.settings.ledger).await.unwrap();
    assert_eq!(std::fs::metadata(cache.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let good = std::fs::read_to_string(cache.path()).unwrap();
    let restored = load(&cache, &reader).await.unwrap();
    let size = restored.state.size;
    assert!(size > 5 && size < world.broker().memory().await.state.size, "the rest is folded");

    let replaced = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1).into_bytes()
    };
    let mut wrong = vec![
        ("of another version", replaced(&format!("\"fold\":\"{FOLD}\""), "\"fold\":\"0.0.1/0\"")),
        ("of another size", replaced(&format!("\"size\":{size},"), &format!("\"size\":{},", size - 1))),
        ("cut short", good.as_bytes()[..good.len() / 2].to_vec()),
        ("with more at the end", [good.as_bytes(), b"\"end\"\n"].concat()),
        ("empty", Vec::new()),
        ("of another log", std::fs::read(file(&other)).unwrap()),
        ("with a longer window", replaced("\"for_s\":600", "\"for_s\":900")),
    ];
    for place in (0..good.len()).step_by(good.len() / 40) {
        let mut flipped = good.clone().into_bytes();
        flipped[place] ^= 1;
        wrong.push(("with a flipped bit", flipped));
    }
    for (what, bytes) in wrong {
        std::fs::write(cache.path(), bytes).unwrap();
        assert!(load(&cache, &reader).await.is_err(), "a snapshot {what} was used");
        let folded = fold(&reader, &cache).await.unwrap();
        assert_eq!(written(&folded.state), written(&world.broker().memory().await.state), "{what}");
    }
    std::fs::write(cache.path(), replaced(&format!("\"fold\":\"{FOLD}\""), "\"fold\":\"0.0.1/0\"")).unwrap();
    assert!(matches!(load(&cache, &reader).await, Err(SnapshotError::Version(_))));
    std::fs::remove_file(cache.path()).unwrap();
    assert!(matches!(load(&cache, &reader).await, Err(SnapshotError::Io(_))));
    world.stop().await;
    other.stop().await;
}

/// Writes a snapshot of the broker's state, changed on the way, and has the log vouch for it.
async fn doctored(world: &World, change: impl FnOnce(String) -> String) {
    let reader = Reader::open(&world.settings.ledger).await.unwrap();
    let state = world.broker().memory().await.state.clone();
    let frontier = reader.frontier(state.size).await.unwrap().encode();
    let mut out = Vec::new();
    Still::of(&state, frontier, Vec::new()).write(&mut out).unwrap();
    let text = change(String::from_utf8(out).unwrap());
    let command = Command::Snapshot { size: state.size, sha256: Digest::of(text.as_bytes()) };
    world.broker().command(command, Vec::new()).await.unwrap();
    std::fs::write(file(world), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vouched_snapshot_of_another_tree_is_not_used() {
    let world = pictured().await;
    let reader = Reader::open(&world.settings.ledger).await.unwrap();
    // A leaf has its SHA-256, but its size is that of another checkpoint, or its tree another one.
    let size = world.broker().memory().await.state.size;
    let (from, to) = (format!("\"size\":{size},"), format!("\"size\":{},", size - 1));
    doctored(&world, |text| text.replacen(&from, &to, 1)).await;
    assert!(load(&Cache::at(file(&world)), &reader).await.is_err());
    doctored(&world, |text| {
        let at = text.find("\"frontier\":\"").unwrap() + 40;
        let digit = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
        format!("{}{digit}{}", &text[..at], &text[at + 1..])
    })
    .await;
    assert!(load(&Cache::at(file(&world)), &reader).await.is_err());
    doctored(&world, |text| text).await;
    assert!(load(&Cache::at(file(&world)), &reader).await.is_ok(), "the doctor alone is not what is refused");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_a_doctored_snapshot_gets_no_signature() {
    let mut world = World::start().await;
    let grant = world.open(600).await;
    let ends_at = world.broker().memory().await.state.grants.get(&grant).unwrap().ends_at;
    let longer = |text: String| {
        let text = text.replace(&format!("\"ends_at\":{ends_at}"), &format!("\"ends_at\":{}", ends_at + 36_000));
        text.replace(&format!("\"claim_by\":{ends_at}"), &format!("\"claim_by\":{}", ends_at + 36_000))
    };
    doctored(&world, longer).await;
    world.daemon.take().unwrap().stop().await;
    world.daemon = Some(Daemon::start(&world.settings, world.clock.clone()).await.unwrap());
    let believed = world.broker().memory().await.state.grants.get(&grant).unwrap().ends_at;
    assert_eq!(believed, ends_at + 36_000, "the broker itself was taken in");
    world.clock.advance(700);
    let refusal = world.issue(grant).await.unwrap_err();
    assert!(matches!(refusal.code, Code::LOG_LIES | Code::SIGNER_REFUSED), "{refusal}");
    let size = world.broker().memory().await.state.size;
    let reader = Reader::open(&world.settings.ledger).await.unwrap();
    assert!(reader.checkpoint_at(size).await.unwrap().is_none(), "the lie is not signed either");
    world.stop().await;
}

fn head(gate: &mut dyn Signer) -> u64 {
    match gate.order(Order::Head).unwrap() {
        Answer::Head { size } => size,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signer_goes_on_from_its_own_snapshot_and_from_no_other() {
    let world = World::start().await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    world.broker().snapshot().await.unwrap();
    let all = leaves(&world.settings.ledger).await;
    let (first, rest) = all.split_at(all.len() - 1);
    let mut gate = fresh_gate(&world, "own.json");
    gate.order(Order::Checkpoint { from: 0, leaves: first.to_vec() }).unwrap();
    gate.rest();
    drop(gate);
    let own = world.settings.state_dir.join("own.fold");
    let good = std::fs::read(&own).unwrap();
    let seen = u64::try_from(first.len()).unwrap();
    let mut again = fresh_gate(&world, "own.json");
    assert_eq!(head(&mut again), seen);
    again.order(Order::Credential { grant, key: world.alice.key() }).unwrap();
    again.order(Order::Checkpoint { from: seen, leaves: rest.to_vec() }).unwrap();
    drop(again);

    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let longer = String::from_utf8(good.clone()).unwrap().replace("\"for_s\":600", "\"for_s\":6000").into_bytes();
    assert_ne!(longer, good);
    let brokers = std::fs::read(file(&world)).unwrap();
    for (what, bytes) in [("flipped", flipped), ("changed", longer), ("the broker's", brokers), ("empty", Vec::new())] {
        std::fs::write(&own, bytes).unwrap();
        let mut gate = fresh_gate(&world, "own.json");
        assert_eq!(head(&mut gate), 0, "{what}: it folds from the beginning");
        gate.order(Order::Credential { grant, key: world.alice.key() }).unwrap_err();
        gate.order(Order::Checkpoint { from: 0, leaves: all.clone() }).unwrap();
        gate.order(Order::Credential { grant, key: world.alice.key() }).unwrap();
    }
    std::fs::remove_file(&own).unwrap();
    assert_eq!(head(&mut fresh_gate(&world, "own.json")), 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_leaves_memory_and_is_found_in_the_log() {
    let world = World::start().await;
    let denied = world.ask(1800).await.unwrap();
    let why = words("not now, please");
    let deny = Deed::Deny { by: world.bob.name(), request: denied };
    world.broker().act(world.sign(&world.bob, Some(&why), deny), Some(&why), None).await.unwrap();
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    world.clock.advance(700);
    round(world.broker()).await.unwrap();
    let (alice, bob) = (world.alice.name(), world.bob.name());
    let request = world.broker().grant_doc(&alice, grant).await.unwrap().request_id;
    let before = (
        world.broker().request_doc(&alice, denied).await.unwrap(),
        world.broker().request_doc(&bob, request).await.unwrap(),
        world.broker().grant_doc(&bob, grant).await.unwrap(),
    );
    let pending = world.ask(900).await.unwrap();
    world.clock.advance(3700);
    world.broker().command(Command::Beat, Vec::new()).await.unwrap();
    {
        let memory = world.broker().memory().await;
        assert!(memory.state.grants.is_empty(), "the grant is over");
        assert_eq!(memory.state.requests.keys().collect::<Vec<_>>(), [&pending], "what waits stays");
    }
    let after = (
        world.broker().request_doc(&alice, denied).await.unwrap(),
        world.broker().request_doc(&bob, request).await.unwrap(),
        world.broker().grant_doc(&bob, grant).await.unwrap(),
    );
    assert_eq!(serde_json::to_value(before).unwrap(), serde_json::to_value(after).unwrap());
    assert_eq!(world.broker().request_doc(&alice, denied).await.unwrap().denial.as_deref(), Some("not now, please"));
    let stranger = "mallory".parse().unwrap();
    assert_eq!(world.broker().grant_doc(&stranger, grant).await.unwrap_err().code, Code::MISSING);
    assert_eq!(world.broker().request_doc(&stranger, denied).await.unwrap_err().code, Code::MISSING);
    let mine = world.broker().request_docs(&alice, "mine").await.unwrap();
    let mine: BTreeSet<_> = mine.iter().map(|doc| doc.id).collect();
    assert_eq!(mine, BTreeSet::from([denied, request, pending]));

    // Acts on it are told how it came out; to whom it does not concern there is no such thing.
    let release = Deed::Release { by: alice.clone(), grant };
    let refusal = world.broker().act(world.sign(&world.alice, None, release), None, None).await.unwrap_err();
    assert_eq!((refusal.code, refusal.message), (Code::FINAL, format!("Grant {grant} is ended already.")));
    let withdraw = Deed::Withdraw { by: alice, request: denied };
    let refusal = world.broker().act(world.sign(&world.alice, None, withdraw), None, None).await.unwrap_err();
    assert_eq!(refusal.code, Code::FINAL);
    assert_eq!(world.issue(grant).await.unwrap_err().code, Code::WINDOW_CLOSED);
    // The signer agrees with all of that: it signs what came last.
    let size = world.broker().memory().await.state.size;
    let reader = Reader::open(&world.settings.ledger).await.unwrap();
    assert!(reader.checkpoint_at(size).await.unwrap().is_some());
    as_folded(world.broker()).await;
    world.stop().await;
}

/// A grant through the gateway whose one session was recorded, over for more than an hour; gives the session too.
async fn watched(looks: usize) -> (World, GrantId, SessionId) {
    let world = World::with_gateway().await;
    let grant = world.open(600).await;
    let leg = Key(jit_ca::key::PrivateKey::from_seed([77; 32]).public().clone());
    let opened =
        world.broker().open_session(grant, &"deploy".parse().unwrap(), &world.alice.key(), &leg).await.unwrap();
    let session = opened.session;
    for _ in 0..looks {
        world.broker().command(look(&world, session, grant), Vec::new()).await.unwrap();
    }
    world.broker().close_session(session, SessionEnd::nothing(SessionCause::Closed)).await.unwrap();
    world.clock.advance(700);
    round(world.broker()).await.unwrap();
    assert!(world.broker().memory().await.state.grants.get(&grant).unwrap().over());
    world.clock.advance(3700);
    (world, grant, session)
}

fn look(world: &World, session: SessionId, grant: GrantId) -> Command {
    Command::ReadRecording { session, grant, by: world.bob.name() }
}

/// The grant and its request are found, and both receipts tell how it was opened and how it ended.
async fn found_whole(world: &World, grant: GrantId) {
    let (alice, bob) = (world.alice.name(), world.bob.name());
    assert!(world.broker().memory().await.state.grants.is_empty(), "it has left memory");
    let doc = world.broker().grant_doc(&bob, grant).await.unwrap();
    assert_eq!((doc.state.as_str(), doc.sessions), ("ended", 1));
    let request = world.broker().request_doc(&alice, doc.request_id).await.unwrap();
    assert_eq!((request.state.as_str(), request.grant_id), ("approved", Some(grant)));
    let key = Keys::load(&world.settings.ca_dir).unwrap().log_public();
    for about in [About::Grant(grant), About::Request(request.id)] {
        let receipt = world.broker().receipt(&bob, &about).await.unwrap();
        for kind in ["request.submitted", "request.step_approved", "grant.opened", "grant.ending", "grant.ended"] {
            let has = receipt.entries.iter().any(|e| e.entry.contains(&format!("\"kind\":\"{kind}\"")));
            assert!(has, "the receipt of {about} has no {kind}");
        }
        assert!(evidence::open(&receipt, &key).unwrap().0.judged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_is_looked_at_long_after_does_not_hide_its_grant() {
    let (world, grant, session) = watched(0).await;
    world.broker().command(look(&world, session, grant), Vec::new()).await.unwrap();
    found_whole(&world, grant).await;
    as_folded(world.broker()).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_with_more_entries_than_one_search_gives_is_found_whole() {
    let (world, grant, _) = watched(1010).await;
    world.broker().command(Command::Beat, Vec::new()).await.unwrap();
    found_whole(&world, grant).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_more_than_a_page_starts_with_and_without_snapshots() {
    let mut world = World::start().await;
    for _ in 0..1100 {
        world.broker().command(Command::Beat, Vec::new()).await.unwrap();
    }
    world.daemon.take().unwrap().stop().await;
    let own = world.settings.ca_dir.join("head.fold");
    assert!(file(&world).exists() && own.exists(), "a stop leaves snapshots where they save something");
    for remove in [false, true, false] {
        if remove {
            std::fs::remove_file(&own).unwrap();
            std::fs::remove_file(file(&world)).unwrap();
        }
        let mut gate = open_gate(&world.settings, world.clock.clone()).unwrap();
        assert_eq!(head(&mut gate) > 1000, !remove);
        drop(gate);
        world.daemon = Some(Daemon::start(&world.settings, world.clock.clone()).await.unwrap());
        as_folded(world.broker()).await;
        let grant = world.open(600).await;
        world.issue(grant).await.unwrap();
        world.clock.advance(700);
        world.daemon.take().unwrap().stop().await;
    }
}
