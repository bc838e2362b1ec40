//! Decisions under pressure: what somebody unknown costs, what one person can do alone, and what a clock may ruin.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use jit_broker::api::{Api, router};
use jit_broker::broker::evidence::{self, Evidence};
use jit_broker::broker::reaper::round;
use jit_broker::broker::receipt::About;
use jit_broker::clock::Clock;
use jit_broker::daemon::Daemon;
use jit_broker::daemon::dev::{Somebody, TARGET, adopt, bundle};
use jit_broker::daemon::dig::{Sought, dig};
use jit_broker::domain::act::{ACT_NAMESPACE, ACT_SCHEMA, Act, Deed, Selector, SignedAct};
use jit_broker::domain::bundle::BundleText;
use jit_broker::domain::digest::Digest;
use jit_broker::domain::grant::GrantState;
use jit_broker::domain::ids::{GrantId, RequestId};
use jit_broker::domain::key::Key;
use jit_broker::domain::names::{PersonName, RoleName, TargetName};
use jit_broker::domain::refusal::{Code, Refusal};
use jit_broker::domain::state::{Beside, State};
use jit_broker::domain::text::Words;
use jit_broker::ledger::Filter;
use jit_broker::signer::keys::Keys;
use jit_broker::wire::{ActPost, ErrorDoc};
use tower::ServiceExt;

use crate::trust::{World, leaves, words};

fn apply(world: &World, text: &BundleText, base: jit_broker::domain::digest::Digest) -> SignedAct {
    world.sign(&world.admin, None, Deed::Apply { by: world.admin.name(), bundle: text.digest(), base })
}

/// What the API says to an act.
async fn post(world: &World, signed: &SignedAct, text: &BundleText) -> Option<Refusal> {
    let api = Api { broker: world.broker().clone(), server_ca_pem: "".into(), recordings: None };
    let act = ActPost {
        act: signed.act.clone(),
        signature: signed.signature.clone(),
        words: None,
        bundle: Some(text.files.clone()),
    };
    let body = Body::from(serde_json::to_vec(&act).unwrap());
    let response = router(api).oneshot(Request::post("/v1/acts").body(body).unwrap()).await.unwrap();
    if response.status().is_success() {
        return None;
    }
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let doc: ErrorDoc = serde_json::from_slice(&bytes).unwrap();
    Some(Refusal::new(doc.code, doc.message))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_nobody_known_signed_is_neither_parsed_nor_kept() {
    let world = World::start().await;
    let base = world.broker().memory().await.state.bundle.digest;
    let text = bundle(&world.alice.key(), &world.bob.key(), "deploy", 2222);
    let good = apply(&world, &text, base);
    // Bob's signature under the administrator's act, and no signature at all.
    let bobs = world.sign(&world.bob, None, Deed::Apply { by: world.admin.name(), bundle: text.digest(), base });
    let garbage = SignedAct { signature: "not a signature".to_owned(), ..good.clone() };
    for signed in [bobs, garbage] {
        // While somebody looks at the state the clerk waits; this one does not get as far as the clerk.
        let looking = world.broker().memory().await;
        let act = world.broker().act(signed.clone(), None, Some(text.bytes()));
        let answer = tokio::time::timeout(Duration::from_secs(5), act).await.expect("it was queued");
        assert_eq!(answer.unwrap_err().code, Code::BAD_SIGNATURE);
        drop(looking);
        assert!(world.broker().memory().await.shelf.bundle(&text.digest()).is_none(), "the bundle was kept");
        // The files do not even parse; whoever may not bring any is told of the signature, not of the files.
        let broken = BundleText { files: [("people.toml".to_owned(), "[[".to_owned())].into() };
        assert_eq!(post(&world, &signed, &broken).await.unwrap().code, Code::BAD_SIGNATURE);
    }
    // Bob is known, and an operator, but no administrator.
    let own = world.sign(&world.bob, None, Deed::Apply { by: world.bob.name(), bundle: text.digest(), base });
    assert_eq!(world.broker().act(own, None, Some(text.bytes())).await.unwrap_err().code, Code::NOT_OFFICE);
    assert!(world.broker().memory().await.shelf.bundle(&text.digest()).is_none(), "the bundle was kept");
    // Only what the act names is kept, and the act itself is carried out.
    let other = bundle(&world.alice.key(), &world.bob.key(), "deploy", 2223);
    assert!(world.broker().act(good.clone(), None, Some(other.bytes())).await.is_err());
    assert!(world.broker().memory().await.shelf.bundle(&other.digest()).is_none(), "another bundle was kept");
    assert!(post(&world, &apply(&world, &text, base), &text).await.is_none());
    assert_eq!(world.broker().memory().await.state.bundle.digest, text.digest());
    world.stop().await;
}

/// A rule on `broker/policy`: what an administrator changes waits for bob.
const FOUR_EYES: &str = "\n[[rule]]\nid = \"four-eyes\"\nwho = [\"person:root-admin\"]\ntargets = { name = \"broker/policy\" }\n\
    roles = [\"apply\"]\n  [[rule.step]]\n  name = \"second\"\n  need = 1\n  from = [\"group:leads\"]\n";

fn guarded(world: &World) -> BundleText {
    let mut text = bundle(&world.alice.key(), &world.bob.key(), "deploy", 22);
    text.files.get_mut("policy.toml").unwrap().push_str(FOUR_EYES);
    jit_broker::domain::bundle::Bundle::parse(&text, &[world.admin.name()]).unwrap();
    text
}

fn spare(seed: u8) -> Key {
    Key(jit_ca::key::PrivateKey::from_seed([seed; 32]).public().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_administrator_does_not_get_around_the_rule_on_broker_policy() {
    let world = World::start().await;
    let by = world.admin.name();
    // Nobody enrols their own second key alone, with or without a rule.
    let own = Deed::Enroll { by: by.clone(), person: by.clone(), key: spare(7) };
    let signed = world.sign(&world.admin, None, own);
    assert_eq!(world.broker().act(signed, None, None).await.unwrap_err().code, Code::OWN_REQUEST);
    adopt(world.broker(), &world.admin, world.install, &guarded(&world)).await.unwrap();
    let why = words("left the company");
    let disable = Deed::Disable { by: world.bob.name(), person: world.alice.name() };
    world.broker().act(world.sign(&world.bob, Some(&why), disable), Some(&why), None).await.unwrap();
    let host = TargetName::new(TARGET).unwrap();
    let deeds = [
        Deed::Enroll { by: by.clone(), person: world.bob.name(), key: spare(8) },
        Deed::EnrollHost { by: by.clone(), target: host.clone(), key: spare(9) },
        Deed::Enable { by, person: world.alice.name() },
    ];
    let mut waiting = Vec::new();
    for deed in deeds {
        let signed = world.sign(&world.admin, None, deed);
        let id = RequestId::of_digest(&signed.digest());
        world.broker().act(signed, None, None).await.unwrap();
        assert_eq!(world.approve(&world.admin, id, |_| {}).await.unwrap_err().code, Code::OWN_REQUEST);
        waiting.push(id);
    }
    {
        let memory = world.broker().memory().await;
        assert_eq!(memory.state.owner_of(&spare(8)), None, "a key was enrolled by one administrator");
        assert!(memory.state.hosts.is_empty(), "a host was enrolled by one administrator");
        assert!(memory.state.disabled.contains(&world.alice.name()), "enabled by one administrator");
    }
    for id in waiting {
        world.approve(&world.bob, id, |_| {}).await.unwrap();
    }
    let memory = world.broker().memory().await;
    assert_eq!(memory.state.owner_of(&spare(8)), Some(world.bob.name()));
    assert_eq!(memory.state.hosts.get(&host).unwrap().key, spare(9));
    assert!(memory.state.disabled.is_empty());
    drop(memory);
    world.broker().host_certificate(&host).await.unwrap();
    world.stop().await;
}

/// An act as somebody signs it whose own clock shows `at`.
async fn at(world: &World, who: &Somebody, at: i64, deed: Deed) -> Result<(), Refusal> {
    let why = words("as agreed on the phone");
    let signed = who.sign(world.install, at, Some(why.commitment()), deed).unwrap();
    world.broker().act(signed, Some(&why), None).await.map(drop)
}

fn over(state: &GrantState) -> bool {
    matches!(state, GrantState::Ending { .. } | GrantState::Ended { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tick_in_another_century_ends_early_and_ruins_nothing() {
    let mut world = World::start().await;
    let (short, century) = (world.open(600).await, 73 * 365 * 86_400);
    world.issue(short).await.unwrap();
    let begun = world.broker().now();
    world.clock.step_wall(century);
    round(world.broker()).await.unwrap();
    // T170: what is over by either clock ends, and its certificate goes on the list.
    assert!(over(&world.state(short).await));
    assert!(world.broker().memory().await.state.krl.serials.contains(&1));
    assert_eq!(world.ask(60).await.unwrap_err().code, Code::CLOCK);
    // A restart makes the stepped clock no better: neither broker nor signer.
    world.daemon.take().unwrap().stop().await;
    world.daemon = Some(Daemon::start(&world.settings, world.clock.clone()).await.unwrap());
    assert_eq!(world.ask(60).await.unwrap_err().code, Code::CLOCK);
    // Ending acts count, by whichever clock their signer has.
    let revoke = || Deed::Revoke { by: world.bob.name(), of: Selector::Person(world.alice.name()) };
    at(&world, &world.bob, begun, revoke()).await.unwrap();
    at(&world, &world.bob, begun + century, revoke()).await.unwrap();
    let late = Deed::Enroll { by: world.admin.name(), person: world.bob.name(), key: spare(5) };
    assert_eq!(at(&world, &world.admin, begun + century, late).await.unwrap_err().code, Code::STALE_ACT);
    assert_eq!(at(&world, &world.bob, begun + 9999, revoke()).await.unwrap_err().code, Code::STALE_ACT);
    // Put right, it goes on where it was; the log never went to the other century.
    world.clock.step_wall(-century);
    round(world.broker()).await.unwrap();
    let grant = world.open(60).await;
    world.issue(grant).await.unwrap();
    let memory = world.broker().memory().await;
    assert!(memory.state.last_at < begun + 100 && memory.state.clock_drift.is_none());
    drop(memory);
    world.stop().await;
}

/// What was signed before is believed by a signer whose wall clock was set back since, and ends go on; nothing is granted.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_a_clock_that_was_set_back_keeps_no_end_from_being_signed() {
    for reboot in [false, true] {
        let mut world = World::start().await;
        let grant = world.open(3600).await;
        world.issue(grant).await.unwrap();
        world.daemon.take().unwrap().stop().await;
        world.clock.step_wall(-3600);
        if reboot {
            world.clock.reboot();
        }
        world.daemon = Some(Daemon::start(&world.settings, world.clock.clone()).await.unwrap());
        assert_eq!(world.ask(60).await.unwrap_err().code, Code::CLOCK);
        world.clock.advance(5);
        let revoke = Deed::Revoke { by: world.bob.name(), of: Selector::Grant(grant) };
        at(&world, &world.bob, world.clock.read().wall_s, revoke).await.unwrap();
        let served = world.broker().krl().unwrap();
        let list = jit_ca::krl::Krl::decode(&data_encoding::BASE64.decode(served.krl.as_bytes()).unwrap()).unwrap();
        assert!(list.serials.contains(&1), "after a boot: {reboot}");
        let size = world.broker().memory().await.state.size;
        assert_eq!(world.broker().note().unwrap().0, size, "after a boot: {reboot}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_ahead_is_set_back_by_an_operator_and_nothing_lasts_longer() {
    let world = World::start().await;
    let grant = world.open(3600).await;
    world.issue(grant).await.unwrap();
    world.clock.step_wall(-1800);
    round(world.broker()).await.unwrap();
    let wall = world.clock.read().wall_s;
    let confirm = |by: &Somebody| Deed::ConfirmClock { by: by.name() };
    assert_eq!(at(&world, &world.alice, wall, confirm(&world.alice)).await.unwrap_err().code, Code::NOT_OFFICE);
    assert!(!over(&world.state(grant).await));
    at(&world, &world.bob, wall, confirm(&world.bob)).await.unwrap();
    // Its certificate would be accepted half an hour longer than was agreed.
    assert!(over(&world.state(grant).await));
    assert!(world.broker().memory().await.state.krl.serials.contains(&1));
    // T169: closed while the wall clock is behind the log, then open.
    assert!([Code::CLOCK, Code::STALE_ACT].contains(&world.ask(60).await.unwrap_err().code));
    at(&world, &world.bob, wall, Deed::Revoke { by: world.bob.name(), of: Selector::Person(world.alice.name()) })
        .await
        .unwrap();
    world.clock.advance(1790);
    let grant = world.open(60).await;
    let facts = jit_ca::ssh::read(&world.issue(grant).await.unwrap()).unwrap();
    assert!(i64::try_from(facts.valid_before).unwrap() <= world.clock.read().wall_s + 60 + 30);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_could_not_be_recorded_as_set_back_is_set_back_when_it_can_be() {
    let world = World::start().await;
    // Granted while the wall clock was ahead.
    world.clock.step_wall(3600);
    at(&world, &world.bob, world.clock.read().wall_s, Deed::ConfirmClock { by: world.bob.name() }).await.unwrap();
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    world.clock.synchronise(true);
    world.clock.step_wall(-3600);
    let full = "CREATE TRIGGER full BEFORE INSERT ON leaf BEGIN SELECT RAISE(ABORT, 'no room'); END";
    crate::gate::tamper(&world, full).await;
    let _ = round(world.broker()).await;
    assert!(!over(&world.state(grant).await), "nothing could be recorded");
    crate::gate::tamper(&world, "DROP TRIGGER full").await;
    round(world.broker()).await.unwrap();
    assert!(over(&world.state(grant).await), "an hour more than was agreed");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_what_an_operator_said_of_the_clock() {
    let mut world = World::start().await;
    let confirm = |by: &Somebody| Deed::ConfirmClock { by: by.name() };
    // Behind: the log stands still until the clock has come up to it, and the last entry's time says nothing of the clock.
    world.clock.step_wall(-1800);
    at(&world, &world.bob, world.clock.read().wall_s, confirm(&world.bob)).await.unwrap();
    world.clock.advance(600);
    world.daemon.take().unwrap().stop().await;
    world.daemon = Some(Daemon::start(&world.settings, world.clock.clone()).await.unwrap());
    world.clock.advance(1190);
    let grant = world.open(60).await;
    world.issue(grant).await.unwrap();
    // Ahead: the entry of the confirmation still has the time of the clock before; where it is the last one, a start goes on from the clock.
    world.clock.advance(120);
    world.clock.step_wall(60);
    let wall = world.clock.read().wall_s;
    at(&world, &world.bob, wall, confirm(&world.bob)).await.unwrap();
    let goes_on = |state: &State| (state.resumes_at(), state.last_at);
    assert_eq!(goes_on(&world.broker().memory().await.state), (wall, wall - 60));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_is_synchronised_again_opens_broker_and_signer() {
    let world = World::start().await;
    let grant = world.open(3600).await;
    world.clock.step_wall(1700);
    round(world.broker()).await.unwrap();
    assert_eq!(world.issue(grant).await.unwrap_err().code, Code::CLOCK);
    world.clock.synchronise(true);
    round(world.broker()).await.unwrap();
    assert_eq!(world.broker().now(), world.clock.read().wall_s);
    world.issue(grant).await.unwrap();
    // Part of its window is over by the clock that is right.
    world.clock.advance(1900);
    round(world.broker()).await.unwrap();
    assert!(over(&world.state(grant).await));
    world.stop().await;
}

/// Signs with a key that somebody has besides their first.
fn sign_with(world: &World, seed: u8, deed: Deed) -> SignedAct {
    sign_as(world, seed, None, deed)
}

fn sign_as(world: &World, seed: u8, text: Option<&Words>, deed: Deed) -> SignedAct {
    let key = jit_ca::key::PrivateKey::from_seed([seed; 32]);
    let act = Act {
        schema: ACT_SCHEMA.to_owned(),
        install: world.install,
        key_fp: key.public().fingerprint(),
        at: world.broker().now(),
        nonce: format!("{seed:032x}"),
        words: text.map(Words::commitment),
        deed,
    };
    let bytes = act.bytes().unwrap();
    let signature = jit_ca::sshsig::sign(&key, ACT_NAMESPACE, &bytes).unwrap();
    SignedAct { act: String::from_utf8(bytes).unwrap(), signature }
}

async fn enroll(world: &World, person: &Somebody, seed: u8) {
    let deed = Deed::Enroll { by: world.admin.name(), person: person.name(), key: spare(seed) };
    world.broker().act(world.sign(&world.admin, None, deed), None, None).await.unwrap();
}

async fn revoke(world: &World, key: Key) -> Result<(), Refusal> {
    let deed = Deed::RevokeKey { by: world.bob.name(), key };
    world.broker().act(world.sign(&world.bob, None, deed), None, None).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_key_approved_counts_no_more() {
    let world = World::start().await;
    enroll(&world, &world.bob, 11).await;
    let id = world.ask(600).await.unwrap();
    let (request_digest, terms) = world.terms(id).await;
    let deed = Deed::Approve { by: world.bob.name(), request: id, request_digest, terms };
    world.broker().act(sign_with(&world, 11, deed), None, None).await.unwrap();
    let grant = world.grant(id).await;
    revoke(&world, spare(11)).await.unwrap();
    assert_eq!(world.issue(grant).await.unwrap_err().code, Code::REJUDGED);
    assert!(matches!(world.state(grant).await, GrantState::Cancelled { .. }));
    // Nor does anything that it signs from now on.
    let deed = Deed::ConfirmClock { by: world.bob.name() };
    let refusal = world.broker().act(sign_with(&world, 11, deed), None, None).await.unwrap_err();
    assert_eq!(refusal.code, Code::UNKNOWN_KEY);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_approved_with_a_key_that_is_gone_may_do_so_with_another() {
    let world = World::start().await;
    let mut files = bundle(&world.alice.key(), &world.bob.key(), "deploy", 22).files;
    files.get_mut("people.toml").unwrap().insert_str(0, "[[person]]\nname = \"root-admin\"\ngroups = [\"admins\"]\n\n");
    let policy = files.get_mut("policy.toml").unwrap();
    let two =
        policy.replace("need = 1", "need = 2").replace("\"group:leads\"", "\"group:leads\", \"person:root-admin\"");
    assert_ne!(*policy, two);
    *policy = two;
    adopt(world.broker(), &world.admin, world.install, &BundleText { files }).await.unwrap();
    enroll(&world, &world.bob, 11).await;
    let id = world.ask(600).await.unwrap();
    let (request_digest, terms) = world.terms(id).await;
    let deed = Deed::Approve { by: world.bob.name(), request: id, request_digest, terms };
    world.broker().act(sign_with(&world, 11, deed), None, None).await.unwrap();
    revoke(&world, spare(11)).await.unwrap();
    world.approve(&world.admin, id, |_| {}).await.unwrap();
    let memory = world.broker().memory().await;
    assert_eq!(memory.state.requests.get(&id).unwrap().state.word(), "pending");
    drop(memory);
    world.approve(&world.bob, id, |_| {}).await.unwrap();
    world.issue(world.grant(id).await).await.unwrap();
    world.stop().await;
}

async fn me(world: &World, token: &str) -> u16 {
    let api = Api { broker: world.broker().clone(), server_ca_pem: "".into(), recordings: None };
    let request = Request::get("/v1/me").header("authorization", format!("Bearer {token}"));
    router(api).oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_key_holds_ends_and_other_keys_go_on() {
    let world = World::start().await;
    enroll(&world, &world.alice, 12).await;
    let (alice, now) = (world.alice.name(), world.broker().now());
    let fp = spare(12).0.fingerprint();
    let (token, _) = world.broker().sessions().open(alice.clone(), fp, now);
    let (kept, _) = world.broker().sessions().open(alice.clone(), world.alice.key().0.fingerprint(), now);
    let grant = world.open(600).await;
    let bind = Deed::BindKey { by: alice.clone(), grant, key: spare(12) };
    world.broker().act(world.sign(&world.alice, None, bind), None, None).await.unwrap();
    world.issue(grant).await.unwrap();
    world.broker().issue(&alice, grant, &spare(12), None).await.unwrap();
    assert_eq!((me(&world, &token).await, me(&world, &kept).await), (200, 200));
    revoke(&world, spare(12)).await.unwrap();
    assert_eq!((me(&world, &token).await, me(&world, &kept).await), (401, 200));
    assert_eq!(world.broker().memory().await.state.krl.serials, [2].into(), "its certificate, and no other");
    assert_eq!(world.broker().issue(&alice, grant, &spare(12), None).await.unwrap_err().code, Code::BAD_KEY);
    world.issue(grant).await.unwrap();
    // The last key of the grant takes the grant with it, and what waits for that key.
    let waiting = world.ask(3000).await.unwrap();
    revoke(&world, world.alice.key()).await.unwrap();
    assert!(over(&world.state(grant).await));
    let memory = world.broker().memory().await;
    assert_eq!(memory.state.krl.serials, [1, 2].into());
    assert_eq!(memory.state.requests.get(&waiting).unwrap().state.word(), "invalidated");
    drop(memory);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_bundle_takes_away_takes_its_session_with_it() {
    let world = World::start().await;
    enroll(&world, &world.alice, 16).await;
    let (gone, bob, admin) = (world.token("alice"), world.token("bob"), world.token("root-admin"));
    let (alice, now) = (world.alice.name(), world.broker().now());
    let (kept, _) = world.broker().sessions().open(alice, spare(16).0.fingerprint(), now);
    let all =
        async || [me(&world, &gone).await, me(&world, &kept).await, me(&world, &bob).await, me(&world, &admin).await];
    assert_eq!(all().await, [200; 4]);
    // Alice has another key in people.toml; that of the administrator is in leaf 0 alone.
    let text = bundle(&spare(17), &world.bob.key(), "deploy", 22);
    adopt(world.broker(), &world.admin, world.install, &text).await.unwrap();
    assert_eq!(all().await, [401, 200, 200, 200]);
    world.stop().await;
}

/// Somebody asks, with a key of theirs, for another key; bob agrees. Gives the grant, with a certificate for that key.
async fn opened_by(world: &World, who: &PersonName, signer: u8, key: u8) -> GrantId {
    let deed = Deed::Request {
        by: who.clone(),
        target: TargetName::new(TARGET).unwrap(),
        role: RoleName::new("deploy").unwrap(),
        for_s: Some(600),
        key: spare(key),
    };
    let text = words("hotfix for OPS-1");
    let signed = sign_as(world, signer, Some(&text), deed);
    let id = RequestId::of_digest(&signed.digest());
    world.broker().act(signed, Some(&text), None).await.unwrap();
    world.approve(&world.bob, id, |_| {}).await.unwrap();
    let grant = world.grant(id).await;
    world.broker().issue(who, grant, &spare(key), None).await.unwrap();
    grant
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_acts_for_a_disabled_person_loses_what_they_hold_too() {
    let world = World::start().await;
    let helper = PersonName::new("helper").unwrap();
    let mut text = bundle(&world.alice.key(), &world.bob.key(), "deploy", 22);
    let agents = format!(
        "[[person]]\nname = \"helper\"\nkind = \"agent\"\nowner = \"alice\"\ngroups = [\"backend\"]\nkeys = [\"{}\"]\n\n\
         [[person]]\nname = \"scribe\"\nkind = \"agent\"\nowner = \"bob\"\ngroups = [\"backend\"]\nkeys = [\"{}\"]\n\n\
         [[person]]\nname = \"carol\"\ngroups = [\"leads\"]\n\n",
        spare(41),
        spare(42)
    );
    text.files.get_mut("people.toml").unwrap().insert_str(0, &agents);
    adopt(world.broker(), &world.admin, world.install, &text).await.unwrap();
    let grant = opened_by(&world, &helper, 41, 41).await;
    let ask = |by: &PersonName, seed: u8| {
        let (target, role) = (TargetName::new(TARGET).unwrap(), RoleName::new("deploy").unwrap());
        let deed = Deed::Request { by: by.clone(), target, role, for_s: Some(1200), key: spare(seed) };
        sign_as(&world, seed, Some(&words("hotfix for OPS-1")), deed)
    };
    let mut waiting = Vec::new();
    for signed in [ask(&helper, 41), ask(&PersonName::new("scribe").unwrap(), 42)] {
        waiting.push(RequestId::of_digest(&signed.digest()));
        world.broker().act(signed, Some(&words("hotfix for OPS-1")), None).await.unwrap();
    }
    let why = words("left the company");
    let disable = Deed::Disable { by: world.bob.name(), person: world.alice.name() };
    world.broker().act(world.sign(&world.bob, Some(&why), disable), Some(&why), None).await.unwrap();
    assert!(over(&world.state(grant).await), "{:?}", world.state(grant).await);
    let memory = world.broker().memory().await;
    let word = |id: &RequestId| memory.state.requests.get(id).unwrap().state.word();
    assert_eq!(waiting.iter().map(word).collect::<Vec<_>>(), ["invalidated", "pending"]);
    assert_eq!(memory.state.krl.serials, [1].into());
    drop(memory);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_key_asked_for_ends_whatever_key_it_is_for() {
    let world = World::start().await;
    enroll(&world, &world.alice, 21).await;
    let grant = opened_by(&world, &world.alice.name(), 21, 22).await;
    revoke(&world, spare(21)).await.unwrap();
    assert!(over(&world.state(grant).await), "{:?}", world.state(grant).await);
    assert_eq!(world.broker().memory().await.state.krl.serials, [1].into(), "that of the fresh key");
    assert!(world.broker().issue(&world.alice.name(), grant, &spare(22), None).await.is_err());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_to_which_a_revoked_key_bound_another_ends_and_the_others_go_on() {
    let mut world = World::start().await;
    enroll(&world, &world.alice, 23).await;
    let alice = world.alice.name();
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    let bind = Deed::BindKey { by: alice.clone(), grant, key: spare(24) };
    world.broker().act(sign_with(&world, 23, bind), None, None).await.unwrap();
    world.broker().issue(&alice, grant, &spare(24), None).await.unwrap();
    // Who bound it is still known after a start from a snapshot.
    world.broker().snapshot().await.unwrap();
    world.daemon.take().unwrap().stop().await;
    world.daemon = Some(Daemon::start(&world.settings, world.clock.clone()).await.unwrap());
    revoke(&world, spare(23)).await.unwrap();
    assert!(over(&world.state(grant).await), "{:?}", world.state(grant).await);
    assert_eq!(world.broker().memory().await.state.krl.serials, [1, 2].into());
    assert!(world.broker().issue(&alice, grant, &spare(24), None).await.is_err());
    crate::snapshot::as_folded(world.broker()).await;
    // What her other key asks for is not touched by it.
    let next = world.open(600).await;
    world.issue(next).await.unwrap();
    world.stop().await;
}

/// Alice, and three who lead: so many of them must agree, or by `auto` nobody.
fn needing(world: &World, steps: &str) -> BundleText {
    let mut text = guarded(world);
    let people = text.files.get_mut("people.toml").unwrap();
    people.insert_str(0, "[[person]]\nname = \"carol\"\ngroups = [\"leads\"]\n\n");
    people.insert_str(0, "[[person]]\nname = \"dave\"\ngroups = [\"leads\"]\n\n");
    let policy = text.files.get_mut("policy.toml").unwrap();
    *policy = policy.replacen("  [[rule.step]]\n  name = \"peer\"\n  need = 1\n  from = [\"group:leads\"]\n", steps, 1);
    let (own, after) = (policy.find("[[test]]").unwrap(), policy.find("\n[[rule]]\nid = \"four-eyes\"").unwrap());
    policy.replace_range(own..after, "");
    text
}

const TWO: &str = "  [[rule.step]]\n  name = \"peer\"\n  need = 2\n  from = [\"group:leads\"]\n";
const ONE: &str = "  [[rule.step]]\n  name = \"peer\"\n  need = 1\n  from = [\"group:leads\"]\n";

/// Adopts a bundle that waits for bob, who agrees.
async fn adopt_agreed(world: &World, text: &BundleText) {
    let base = world.broker().memory().await.state.bundle.digest;
    let signed = apply(world, text, base);
    let id = RequestId::of_digest(&signed.digest());
    world.broker().act(signed, None, Some(text.bytes())).await.unwrap();
    world.approve(&world.bob, id, |_| {}).await.unwrap();
    assert_eq!(world.broker().memory().await.state.bundle.digest, text.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_another_bundle_lets_nobody_wait_for_is_granted_by_it() {
    let world = World::start().await;
    let word = async |id: RequestId| {
        let memory = world.broker().memory().await;
        memory.state.requests.get(&id).unwrap().state.word()
    };
    adopt(world.broker(), &world.admin, world.install, &needing(&world, TWO)).await.unwrap();
    // One has agreed, of two; nobody has agreed; and what bob agreed to with a key that is revoked by now.
    let (one, none) = (world.ask(600).await.unwrap(), world.ask(1200).await.unwrap());
    world.approve(&world.bob, one, |terms| terms.for_s = 300).await.unwrap();
    enroll_agreed(&world, &world.bob, 31).await;
    let lost = world.ask(1800).await.unwrap();
    let (request_digest, terms) = world.terms(lost).await;
    let deed = Deed::Approve { by: world.bob.name(), request: lost, request_digest, terms };
    world.broker().act(sign_with(&world, 31, deed), None, None).await.unwrap();
    revoke(&world, spare(31)).await.unwrap();
    world.clock.advance(60);
    adopt_agreed(&world, &needing(&world, ONE)).await;
    assert_eq!([word(one).await, word(none).await, word(lost).await], ["approved", "pending", "pending"]);
    let grant = world.grant(one).await;
    let (window, now) = {
        let memory = world.broker().memory().await;
        let found = memory.state.grants.get(&grant).unwrap();
        (found.ends_at - found.starts_at, found.starts_at == world.broker().now())
    };
    assert_eq!((window, now), (300, true), "the narrowest of what was agreed, from now on");
    world.issue(grant).await.unwrap();
    // The proof of it runs the rules again, under the bundle that let it through.
    let key = Keys::load(&world.settings.ca_dir).unwrap().log_public();
    let doc = world.broker().receipt(&world.bob.name(), &About::Grant(grant)).await.unwrap();
    let (evidence, _) = evidence::open(&doc, &key).unwrap();
    assert!(evidence.judged && evidence.grant.is_some(), "{:#?}", evidence.gaps);
    // Rules that ask nobody grant what waits; what waits for a change of the broker itself is to be done again.
    let enroll = Deed::Enroll { by: world.admin.name(), person: world.alice.name(), key: spare(32) };
    let signed = world.sign(&world.admin, None, enroll);
    let deed = RequestId::of_digest(&signed.digest());
    world.broker().act(signed, None, None).await.unwrap();
    let mut text = needing(&world, "auto = true\n");
    let policy = text.files.get_mut("policy.toml").unwrap();
    *policy = policy
        .replace("  [[rule.step]]\n  name = \"second\"\n  need = 1\n  from = [\"group:leads\"]\n", "auto = true\n");
    adopt_agreed(&world, &text).await;
    assert_eq!([word(none).await, word(lost).await, word(deed).await], ["approved", "approved", "invalidated"]);
    world.issue(world.grant(none).await).await.unwrap();
    assert!(world.broker().memory().await.state.owner_of(&spare(32)).is_none());
    crate::snapshot::as_folded(world.broker()).await;
    world.stop().await;
}

/// Approves with a key that somebody has besides their first.
async fn approve_with(world: &World, seed: u8, by: &str, id: RequestId) {
    let (request_digest, terms) = world.terms(id).await;
    let deed = Deed::Approve { by: PersonName::new(by).unwrap(), request: id, request_digest, terms };
    world.broker().act(sign_with(world, seed, deed), None, None).await.unwrap();
}

async fn sign_in(world: &World, who: &Somebody) {
    let broker = world.broker();
    let challenge = broker.sessions().challenge(broker.now());
    let deed = Deed::Login { public_url: broker.public_url().to_owned(), challenge };
    world.broker().act(world.sign(who, None, deed), None, None).await.unwrap();
}

/// What the receipt of a grant shows to somebody.
async fn receipt(world: &World, who: &PersonName, grant: GrantId) -> Evidence {
    let key = Keys::load(&world.settings.ca_dir).unwrap().log_public();
    let doc = world.broker().receipt(who, &About::Grant(grant)).await.unwrap();
    evidence::open(&doc, &key).unwrap().0
}

/// Demands that an administrator is shown why a grant is right, by its receipt and by the whole log.
async fn proven(world: &World, grant: GrantId) {
    let certificate = world.issue(grant).await.unwrap();
    let evidence = receipt(world, &world.admin.name(), grant).await;
    assert!(evidence.judged && evidence.gaps.is_empty(), "{:#?}", evidence.gaps);
    let tbs = Digest::new(jit_ca::ssh::read(&certificate).unwrap().tbs_sha256);
    let dug = dig(&world.settings.ledger, &Sought::Bytes(tbs)).await.unwrap();
    let texts = dug.texts.iter().map(Vec::as_slice);
    let evidence = Evidence::read(&dug.entries, texts, &About::Certificate(tbs));
    assert!(evidence.judged && evidence.problems.is_empty(), "{:#?} {:#?}", evidence.problems, evidence.gaps);
    assert!(evidence.grant.is_some_and(|found| found.id == grant));
}

/// Carol and dave with keys of their own, who lead and hold no office.
fn three_leads(world: &World, steps: &str) -> BundleText {
    let mut text = needing(world, steps);
    let people = text.files.get_mut("people.toml").unwrap();
    for (name, seed) in [("carol", 51), ("dave", 52)] {
        let named = format!("name = \"{name}\"\n");
        *people = people.replace(&named, &format!("{named}keys = [\"{}\"]\n", spare(seed)));
    }
    let offices = people.find("[offices]").unwrap();
    people.truncate(offices);
    people.push_str("[offices]\noperators = [\"person:bob\"]\nauditors = [\"person:bob\"]\n");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_proven_whatever_became_of_those_who_agreed_first() {
    let world = World::start().await;
    adopt(world.broker(), &world.admin, world.install, &three_leads(&world, TWO)).await.unwrap();
    let carol = PersonName::new("carol").unwrap();
    // Bob agrees twice: the key of the first time is revoked.
    enroll_agreed(&world, &world.bob, 31).await;
    let id = world.ask(600).await.unwrap();
    approve_with(&world, 31, "bob", id).await;
    revoke(&world, spare(31)).await.unwrap();
    world.approve(&world.bob, id, |_| {}).await.unwrap();
    approve_with(&world, 51, "carol", id).await;
    proven(&world, world.grant(id).await).await;
    // What happened to the keys of others is not carol's to read: that is no lie, and nothing is said to be judged.
    let evidence = receipt(&world, &carol, world.grant(id).await).await;
    assert!(!evidence.judged && evidence.gaps.iter().any(|gap| gap.contains("not run again")), "{:#?}", evidence.gaps);
    assert!(!evidence.said.iter().any(|said| said.deed == "revoke_key"), "{:#?}", evidence.said);
    // Nobody's word changed its weight: she is shown all of it.
    let id = world.ask(1200).await.unwrap();
    world.approve(&world.bob, id, |_| {}).await.unwrap();
    approve_with(&world, 51, "carol", id).await;
    assert!(receipt(&world, &carol, world.grant(id).await).await.judged);
    // Bob agrees and is disabled: two others must.
    let id = world.ask(1800).await.unwrap();
    world.approve(&world.bob, id, |_| {}).await.unwrap();
    let why = words("left the company");
    let disable = Deed::Disable { by: world.admin.name(), person: world.bob.name() };
    world.broker().act(world.sign(&world.admin, Some(&why), disable), Some(&why), None).await.unwrap();
    approve_with(&world, 51, "carol", id).await;
    approve_with(&world, 52, "dave", id).await;
    proven(&world, world.grant(id).await).await;
    let evidence = receipt(&world, &carol, world.grant(id).await).await;
    assert!(!evidence.judged && !evidence.said.iter().any(|said| said.deed == "disable"), "{:#?}", evidence.said);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_proven_where_each_answer_was_judged_by_another_sign_in() {
    let world = World::start().await;
    let mut text = three_leads(&world, TWO);
    let policy = text.files.get_mut("policy.toml").unwrap();
    *policy = policy.replacen("max = \"1h\"\n", "max = \"1h\"\nwhen = \"requester.signed_in_s < 900\"\n", 1);
    adopt(world.broker(), &world.admin, world.install, &text).await.unwrap();
    sign_in(&world, &world.alice).await;
    let id = world.ask(600).await.unwrap();
    for seed in [51, 52] {
        world.clock.advance(1000);
        sign_in(&world, &world.alice).await;
        approve_with(&world, seed, if seed == 51 { "carol" } else { "dave" }, id).await;
    }
    proven(&world, world.grant(id).await).await;
    world.stop().await;
}

/// By day nobody is asked, by night so many of those who lead.
fn by_the_hour(world: &World, steps: &str) -> BundleText {
    let mut text = three_leads(world, steps);
    let policy = text.files.get_mut("policy.toml").unwrap();
    let night = "max = \"1h\"\nwhen = \"now.hour < 9 || now.hour >= 17\"\n";
    *policy = policy.replacen("max = \"1h\"\n", night, 1);
    policy.push_str(
        "\n[[rule]]\nid = \"day\"\nwho = [\"group:backend\"]\ntargets = { kind = \"ssh\" }\nroles = [\"deploy\"]\n\
         max = \"1h\"\nrecord = \"off\"\nwhen = \"now.hour >= 9 && now.hour < 17\"\nauto = true\n",
    );
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_when_the_rules_began_to_ask_nobody_is_granted_at_the_next_answer() {
    let world = World::start().await;
    adopt(world.broker(), &world.admin, world.install, &by_the_hour(&world, TWO)).await.unwrap();
    // The world begins at eight o'clock.
    world.clock.advance(58 * 60);
    let (one, none) = (world.ask(600).await.unwrap(), world.ask(1200).await.unwrap());
    world.approve(&world.bob, one, |_| {}).await.unwrap();
    assert_eq!(world.approve(&world.bob, one, |_| {}).await.unwrap_err().code, Code::TWICE);
    world.clock.advance(180);
    // Not by who asked, and for nothing else than was asked for.
    assert_eq!(world.approve(&world.alice, none, |_| {}).await.unwrap_err().code, Code::OWN_REQUEST);
    let wider = world.approve(&world.bob, none, |terms| terms.for_s = 3600).await.unwrap_err();
    assert_eq!(wider.code, Code::NOT_NARROWER);
    for id in [one, none] {
        world.approve(&world.bob, id, |_| {}).await.unwrap();
        let grant = world.grant(id).await;
        assert!(world.state(grant).await == GrantState::Ready, "{:?}", world.state(grant).await);
        proven(&world, grant).await;
        let counted = world.broker().memory().await.state.requests.get(&id).unwrap().approvals.len();
        assert_eq!(counted, usize::from(id == one), "nobody was asked for the last word");
    }
    crate::snapshot::as_folded(world.broker()).await;
    // The log holds for whoever decides all of it again, and where the reasons are gone.
    let mut honest = leaves(&world.settings.ledger).await;
    let root = crate::audit::Root::of(&world);
    assert!(root.rebuilt(&world, "honest.db", &honest).await.ok);
    honest.iter_mut().filter(|leaf| leaf.entry.contains("\"request.submitted\"")).for_each(|leaf| leaf.blobs.clear());
    let report = root.rebuilt(&world, "gone.db", &honest).await;
    assert!(report.ok, "{report:#?}");
    world.stop().await;
}

/// As [`enroll`], where bob must agree.
async fn enroll_agreed(world: &World, person: &Somebody, seed: u8) {
    let deed = Deed::Enroll { by: world.admin.name(), person: person.name(), key: spare(seed) };
    let signed = world.sign(&world.admin, None, deed);
    let id = RequestId::of_digest(&signed.digest());
    world.broker().act(signed, None, None).await.unwrap();
    world.approve(&world.bob, id, |_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_administrator_stays() {
    let world = World::start().await;
    let disable = || Deed::Disable { by: world.bob.name(), person: world.admin.name() };
    let now = world.broker().now();
    assert_eq!(at(&world, &world.bob, now, disable()).await.unwrap_err().code, Code::LAST_ADMIN);
    assert_eq!(revoke(&world, world.admin.key()).await.unwrap_err().code, Code::LAST_ADMIN);
    // With a second key in the bundle the first may go; then the bundle may not drop the second.
    let mut text = bundle(&world.alice.key(), &world.bob.key(), "deploy", 22);
    let without = text.clone();
    let second = format!("[[person]]\nname = \"root-admin\"\nkeys = [\"{}\"]\n\n", spare(13));
    text.files.get_mut("people.toml").unwrap().insert_str(0, &second);
    adopt(world.broker(), &world.admin, world.install, &text).await.unwrap();
    revoke(&world, world.admin.key()).await.unwrap();
    let deed = Deed::Apply { by: world.admin.name(), bundle: without.digest(), base: text.digest() };
    let refusal = world.broker().act(sign_with(&world, 13, deed), None, Some(without.bytes())).await.unwrap_err();
    assert_eq!(refusal.code, Code::LAST_ADMIN);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_left_the_inventory_comes_back_under_another_name() {
    let world = World::start().await;
    let enroll = async |name: &str| {
        let deed = Deed::EnrollHost { by: world.admin.name(), target: TargetName::new(name).unwrap(), key: spare(14) };
        world.broker().act(world.sign(&world.admin, None, deed), None, None).await.map(drop)
    };
    enroll(TARGET).await.unwrap();
    let before = bundle(&world.alice.key(), &world.bob.key(), "deploy", 22);
    let mut both = before.clone();
    let targets = both.files.get_mut("targets.toml").unwrap();
    let renamed = targets.replace(TARGET, "web-7");
    targets.push_str(&renamed);
    adopt(world.broker(), &world.admin, world.install, &both).await.unwrap();
    let refusal = enroll("web-7").await.unwrap_err();
    assert!(refusal.code == Code::BAD_KEY && refusal.message.contains(TARGET), "{refusal:?}");
    assert!(refusal.hint.unwrap().contains("host leave web-07"));
    let mut gone = before;
    gone.files.values_mut().for_each(|file| *file = file.replace(TARGET, "web-7"));
    adopt(world.broker(), &world.admin, world.install, &gone).await.unwrap();
    enroll("web-7").await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_somebodys_is_nobody_elses_by_a_bundle() {
    let world = World::start().await;
    let host = Deed::EnrollHost { by: world.admin.name(), target: TargetName::new(TARGET).unwrap(), key: spare(14) };
    world.broker().act(world.sign(&world.admin, None, host), None, None).await.unwrap();
    for stolen in [world.admin.key(), spare(14)] {
        let text = bundle(&stolen, &world.bob.key(), "deploy", 22);
        let refusal = adopt(world.broker(), &world.admin, world.install, &text).await.unwrap_err();
        assert_eq!(refusal.code, Code::BUNDLE_REFUSED);
    }
    assert_eq!(world.broker().memory().await.state.owner_of(&world.admin.key()), Some(world.admin.name()));
    // Also when the key got its owner while the bundle was waiting for its approval.
    adopt(world.broker(), &world.admin, world.install, &guarded(&world)).await.unwrap();
    let mut text = guarded(&world);
    let people = text.files.get_mut("people.toml").unwrap();
    *people = people.replace(&world.alice.key().to_string(), &spare(15).to_string());
    let base = world.broker().memory().await.state.bundle.digest;
    let mut ids = Vec::new();
    for (deed, bytes) in [
        (Deed::Enroll { by: world.admin.name(), person: world.bob.name(), key: spare(15) }, None),
        (Deed::Apply { by: world.admin.name(), bundle: text.digest(), base }, Some(text.bytes())),
    ] {
        let signed = world.sign(&world.admin, None, deed);
        ids.push(RequestId::of_digest(&signed.digest()));
        world.broker().act(signed, None, bytes).await.unwrap();
    }
    for id in &ids {
        world.approve(&world.bob, *id, |_| {}).await.unwrap();
    }
    let memory = world.broker().memory().await;
    assert_eq!(memory.state.owner_of(&spare(15)), Some(world.bob.name()));
    assert_eq!(memory.state.requests.get(&ids[1]).unwrap().state.word(), "invalidated");
    assert_eq!(memory.state.bundle.digest, base);
    drop(memory);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_comes_in_pieces_and_is_the_whole_log() {
    let world = World::start().await;
    for _ in 0..300 {
        world.broker().command(jit_broker::domain::event::Command::Beat, Vec::new()).await.unwrap();
    }
    let (name, now) = (world.bob.name(), world.broker().now());
    let (token, _) = world.broker().sessions().open(name, world.bob.key().0.fingerprint(), now);
    let mut whole = Vec::new();
    jit_broker::ledger::export_jsonl(world.broker().reader(), u64::MAX, &mut whole).await.unwrap();
    assert!(whole.len() > 100_000, "more than one piece");
    let api = Api { broker: world.broker().clone(), server_ca_pem: "".into(), recordings: None };
    let request = Request::get("/v1/audit/export").header("authorization", format!("Bearer {token}"));
    let response = router(api).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let got = axum::body::to_bytes(response.into_body(), 1 << 30).await.unwrap();
    assert!(got == whole, "{} and {} bytes", got.len(), whole.len());
    world.stop().await;
}

/// A body that never comes.
struct Never;

impl hyper::body::Body for Never {
    type Data = axum::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_waited_for_ten_seconds() {
    let world = World::start().await;
    let api = Api { broker: world.broker().clone(), server_ca_pem: "".into(), recordings: None };
    let request = Request::post("/v1/acts").body(Body::new(Never)).unwrap();
    let begun = std::time::Instant::now();
    let response = router(api).oneshot(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 400);
    assert!((9..15).contains(&begun.elapsed().as_secs()));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_was_refused_is_refused_again_in_the_same_words() {
    let mut world = World::start().await;
    // One that is refused as an act, one as a request.
    let approve = {
        let id = world.ask(600).await.unwrap();
        let (request_digest, terms) = world.terms(id).await;
        let deed = Deed::Approve { by: world.alice.name(), request: id, request_digest, terms };
        world.sign(&world.alice, None, deed)
    };
    let ask = Deed::Request {
        by: world.alice.name(),
        target: TargetName::new("nowhere").unwrap(),
        role: RoleName::new("deploy").unwrap(),
        for_s: Some(60),
        key: world.alice.key(),
    };
    let ask = world.sign(&world.alice, None, ask);
    let mut first = Vec::new();
    for signed in [&approve, &ask] {
        first.push(world.broker().act(signed.clone(), None, None).await.unwrap_err());
    }
    assert_eq!(first.iter().map(|refusal| refusal.code).collect::<Vec<_>>(), [Code::OWN_REQUEST, Code::MISSING]);
    for _ in 0..2 {
        for (signed, refusal) in [&approve, &ask].into_iter().zip(&first) {
            assert_eq!(world.broker().act(signed.clone(), None, None).await.unwrap_err(), *refusal);
        }
        for kind in ["act.refused", "request.refused"] {
            let filter = Filter { kind: Some(kind.to_owned()), limit: 10, ..Filter::default() };
            let logged = world.broker().reader().search(&filter).await.unwrap();
            assert_eq!(logged.len(), 1, "refused again, but not logged again");
        }
        // Also by the broker and signer that are started again.
        world.daemon.take().unwrap().stop().await;
        world.daemon = Some(Daemon::start(&world.settings, world.clock.clone()).await.unwrap());
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_requests_come_newest_first() {
    let world = World::start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.insert(0, world.ask(600).await.unwrap());
        world.clock.advance(1);
    }
    let docs = world.broker().request_docs(&world.alice.name(), "mine").await.unwrap();
    assert_eq!(docs.iter().map(|doc| doc.id).collect::<Vec<_>>(), ids);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_requester_with_another_key_is_still_the_requester() {
    let world = World::start().await;
    let second = Somebody::make(world.settings.state_dir.as_path(), "laptop").unwrap();
    let enroll = Deed::Enroll { by: world.admin.name(), person: world.alice.name(), key: second.key() };
    world.broker().act(world.sign(&world.admin, None, enroll), None, None).await.unwrap();
    let id = world.ask(600).await.unwrap();
    let (request_digest, terms) = world.terms(id).await;
    let own = |by| Deed::Approve { by, request: id, request_digest, terms: terms.clone() };
    let refusal = world.broker().act(world.sign(&second, None, own(world.alice.name())), None, None).await.unwrap_err();
    assert_eq!(refusal.code, Code::OWN_REQUEST);
    // Under somebody else's name the key does not count at all.
    let refusal = world.broker().act(world.sign(&second, None, own(world.bob.name())), None, None).await.unwrap_err();
    assert_eq!(refusal.code, Code::BAD_SIGNATURE);
    assert_eq!(world.broker().request_doc(&world.alice.name(), id).await.unwrap().state, "pending");
    world.stop().await;
}
