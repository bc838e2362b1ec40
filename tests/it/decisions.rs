//! Decisions under pressure: what somebody unknown costs, what one person can do alone, and what a clock may ruin.

use axum::body::Body;
use axum::http::Request;
use jit_broker::api::{Api, router};
use jit_broker::daemon::dev::{TARGET, adopt, bundle};
use jit_broker::domain::act::{Deed, SignedAct};
use jit_broker::domain::bundle::BundleText;
use jit_broker::domain::ids::RequestId;
use jit_broker::domain::key::Key;
use jit_broker::domain::names::TargetName;
use jit_broker::domain::refusal::{Code, Refusal};
use jit_broker::domain::state::Beside;
use jit_broker::wire::{ActPost, ErrorDoc};
use tower::ServiceExt;

use crate::trust::{World, words};

fn apply(world: &World, text: &BundleText, base: jit_broker::domain::digest::Digest) -> SignedAct {
    world.sign(&world.admin, None, Deed::Apply { by: world.admin.name(), bundle: text.digest(), base })
}

/// What the API says to an act.
async fn post(world: &World, signed: &SignedAct, text: &BundleText) -> Option<Refusal> {
    let api = Api { broker: world.broker().clone(), server_ca_pem: "".into() };
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
        let refusal = world.broker().act(signed.clone(), None, Some(text.bytes())).await.unwrap_err();
        assert_eq!(refusal.code, Code::BAD_SIGNATURE);
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
