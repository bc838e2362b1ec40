//! The gate and the clerk under lies, lateness, and failures: what the signer signs, and what is left standing.

use jit_broker::daemon::{Daemon, open_gate};
use jit_broker::domain::act::{Deed, Selector, SignedAct};
use jit_broker::domain::event::Command;
use jit_broker::domain::ids::RequestId;
use jit_broker::domain::names::{RoleName, TargetName};
use jit_broker::domain::refusal::Code;
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
fn show(gate: &mut impl Signer, leaves: &[Leaf]) -> Result<Answer, jit_broker::domain::refusal::Refusal> {
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
    let entry: serde_json::Value = serde_json::from_str(&forged.entry).unwrap();
    let (seq, version) = (entry["seq"].as_u64().unwrap(), entry["event"]["version"].as_u64().unwrap());
    forged.entry = forged
        .entry
        .replace(&format!("\"version\":{version}"), "\"version\":1000000000")
        .replace("\"serials\":[1]", "\"serials\":[]")
        .replace(&format!("\"seq\":{seq}"), "\"seq\":1");
    assert!(forged.entry.contains("1000000000") && forged.entry.contains("[]") && forged.entry.contains("\"seq\":1,"));
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
