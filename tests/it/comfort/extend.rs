//! A grant goes on: asked for on the command line, agreed to, and used without a break.

use std::time::Duration;

use jit_broker::domain::act::{Deed, Selector};
use jit_broker::domain::event::Event;
use jit_broker::domain::ids::GrantId;
use jit_broker::domain::names::{RoleName, TargetName};
use jit_broker::domain::refusal::{Code, Refusal};
use jit_broker::domain::request::RequestState;
use jit_broker::domain::session::SessionCause;

use crate::gateway::world::{Gw, Pass, TARGET, until};
use crate::trust::words;
use crate::world::{Done, World};

#[test]
fn alice_extends_and_bob_agrees_to_the_end_that_she_signed() {
    let world = World::start();
    let first = world.granted("10m");
    world.run("alice", "jit-broker login web-07").ok();
    let line = format!("jit-broker -o json extend {first} --for 20m --reason 'the migration takes longer'");
    let request = world.run("alice", &line).json();
    assert_eq!((request["state"].as_str(), request["extends"].as_str()), (Some("pending"), Some(first.as_str())));
    let id = request["id"].as_str().unwrap();
    let grant = world.run("alice", &format!("jit-broker -o json show {first}")).json();
    let end = |text: &serde_json::Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second();
    assert_eq!(end(&request["until"]), end(&grant["ends_at"]) + 1200);
    let shown = world.run("bob", &format!("jit-broker show {id}")).ok();
    assert!(shown.contains(&format!("to go on with {first}")) && shown.contains("deploy on web-07"), "{shown}");
    let after = world.run("bob", &format!("jit-broker -o json approve {id}")).json();
    let second = after["grant_id"].as_str().unwrap().to_owned();
    let now = world.run("alice", &format!("jit-broker -o json show {second}")).json();
    assert_eq!(end(&now["ends_at"]), end(&request["until"]), "however long bob took");
    let status = world.run("alice", "jit-broker status").ok();
    assert!(status.contains(&format!("goes on as {second}")), "{status}");
    let ls = world.run("alice", "jit-broker ls web-07").ok();
    assert!(ls.contains("active (29m5") || ls.contains("active (30m left)"), "the longer one counts: {ls}");
    world.run("alice", "$SSH web-07 true").ok();
    // Whoever agreed can show why it was granted: the rules are run again, on the grant that went on too.
    let file = world.dir.join("receipt.json");
    world.run("bob", &format!("jit-broker receipt {second} --out {}", file.display())).ok();
    let proof = world.run("bob", &format!("jit-broker -o json verify {}", file.display())).json();
    assert_eq!(proof["judged_again"].as_bool(), Some(true), "{proof}");
    assert!(proof["gaps"].as_array().is_none_or(Vec::is_empty), "{proof}");
}

#[test]
fn what_cannot_go_on_is_told_with_the_next_command() {
    let world = World::start();
    let grant = world.granted("50m");
    let reason = "--reason 'the migration takes longer'";
    let long = world.run("alice", &format!("jit-broker extend {grant} --for 30m {reason}"));
    assert_eq!(long.code, Some(5), "{}", long.err);
    assert!(
        long.err.contains("JB2003") && long.err.contains(&format!("jit-broker extend {grant} --for ")),
        "{}",
        long.err
    );
    let other = world.run("bob", &format!("jit-broker extend {grant} --for 5m {reason}"));
    assert_eq!(other.code, Some(8), "{}", other.err);
    world.run("alice", &format!("jit-broker release {grant}"));
    let over = world.run("alice", &format!("jit-broker extend {grant} --for 5m {reason}"));
    assert_eq!(over.code, Some(7), "{}", over.err);
    assert!(over.err.contains("jit-broker login web-07 --role deploy"), "{}", over.err);
}

/// Alice asks that a grant go on until a moment.
fn extend(
    world: &Gw,
    grant: GrantId,
    until: i64,
    key: &jit_broker::domain::key::Key,
) -> Result<jit_broker::domain::ids::RequestId, Refusal> {
    let deed = Deed::Extend {
        by: world.alice.name(),
        grant,
        target: TargetName::new(TARGET).unwrap(),
        role: RoleName::new("work").unwrap(),
        until,
        key: key.clone(),
    };
    world.act(&world.alice, Some(&words("the migration takes longer")), deed)
}

fn end_of(world: &Gw, grant: GrantId) -> i64 {
    world.run(world.broker().memory()).state.grants.get(&grant).unwrap().ends_at
}

fn key_of(world: &Gw, pass: &Pass) -> jit_broker::domain::key::Key {
    world.run(world.broker().memory()).state.grants.get(&pass.grant).unwrap().keys[0].clone()
}

#[test]
fn a_live_session_goes_on_under_the_extension_and_ends_with_it() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let (key, socket) = (key_of(&world, &pass), world.dir.join("cm"));
    let path = format!("ControlPath={}", socket.display());
    let mut master = world.client("ssh", Some(&pass));
    let mut master = master.args(["-M", "-N", "-o", &path, "gateway"]).spawn().unwrap();
    until(Duration::from_secs(10), "the master", || socket.exists());
    let end = end_of(&world, pass.grant);
    let request = extend(&world, pass.grant, end + 900, &key).unwrap();
    // People take their time; the end stays the one that was signed.
    world.clock.advance(300);
    world.agree(request);
    let longer = world.grant_of(request);
    assert_eq!(end_of(&world, longer), end + 900);
    world.clock.advance(305);
    let over = || world.run(world.broker().memory()).state.grants.get(&pass.grant).is_some_and(|grant| grant.over());
    until(Duration::from_secs(2), "the end of the first grant", over);
    let moved =
        |event: &Event| matches!(event, Event::SessionMoved { from, to, .. } if *from == pass.grant && *to == longer);
    assert!(world.events().iter().any(moved));
    let mut command = world.client("ssh", None);
    let done: Done = command.args(["-o", &path, "gateway", "echo on"]).output().unwrap().into();
    assert_eq!(done.ok(), "on\n");
    world.clock.advance(900);
    until(Duration::from_secs(2), "the master's end", || master.try_wait().unwrap().is_some());
    assert_eq!(world.end(longer).1.cause, SessionCause::WindowEnd);
}

#[test]
fn an_extension_undoes_no_revocation_and_gets_around_no_longest_time() {
    let world = Gw::start();
    let pass = world.pass("work", 3600);
    let (key, end) = (key_of(&world, &pass), end_of(&world, pass.grant));
    let code = |result: Result<jit_broker::domain::ids::RequestId, Refusal>| result.unwrap_err().code;
    // Eight hours from now is what the rule allows, whatever was granted before.
    assert_eq!(code(extend(&world, pass.grant, end + 7 * 3600 + 60, &key)), Code::TOO_LONG);
    assert_eq!(code(extend(&world, pass.grant, end, &key)), Code::BAD_DURATION, "no longer than it is");
    assert_eq!(code(extend(&world, pass.grant, i64::MAX, &key)), Code::BAD_DURATION);
    assert_eq!(code(extend(&world, GrantId::new([9; 16]), end + 60, &key)), Code::MISSING);
    let theirs = Deed::Extend {
        by: world.bob.name(),
        grant: pass.grant,
        target: TargetName::new(TARGET).unwrap(),
        role: RoleName::new("work").unwrap(),
        until: end + 60,
        key: key.clone(),
    };
    assert_eq!(code(world.act(&world.bob, Some(&words("mine now, please")), theirs)), Code::MISSING);
    let wider = Deed::Extend {
        by: world.alice.name(),
        grant: pass.grant,
        target: TargetName::new(TARGET).unwrap(),
        role: RoleName::new("all").unwrap(),
        until: end + 60,
        key: key.clone(),
    };
    assert_eq!(code(world.act(&world.alice, Some(&words("a wider role")), wider)), Code::BAD_ACT);
    let waiting = extend(&world, pass.grant, end + 600, &key).unwrap();
    world
        .act(
            &world.bob,
            Some(&words("the work is done")),
            Deed::Revoke { by: world.bob.name(), of: Selector::Grant(pass.grant) },
        )
        .unwrap();
    let memory = world.run(world.broker().memory());
    let request = memory.state.requests.get(&waiting).unwrap();
    let deed = Deed::Approve {
        by: world.bob.name(),
        request: waiting,
        request_digest: request.digest,
        terms: request.standing_terms(),
    };
    drop(memory);
    let _ = world.act(&world.bob, None, deed);
    let memory = world.run(world.broker().memory());
    let state = &memory.state.requests.get(&waiting).unwrap().state;
    assert!(matches!(state, RequestState::Invalidated { .. }), "{state:?}");
    assert!(memory.state.open_grants_of(&world.alice.name()).next().is_none());
}

/// How a request stands.
fn word(world: &Gw, request: jit_broker::domain::ids::RequestId) -> (&'static str, String) {
    let memory = world.run(world.broker().memory());
    let state = &memory.state.requests.get(&request).unwrap().state;
    (state.word(), format!("{state:?}"))
}

#[test]
fn another_bundle_lets_an_extension_wait_that_it_still_allows() {
    let world = Gw::start();
    let pass = world.pass("work", 3600);
    let (key, end) = (key_of(&world, &pass), end_of(&world, pass.grant));
    let waiting = extend(&world, pass.grant, end + 600, &key).unwrap();
    let host = "host_ca = \"@broker\"";
    world.adopt_with(host, "# Nothing but this comment is new.\n");
    let (state, how) = word(&world, waiting);
    assert_eq!(state, "pending", "{how}");
    world.agree(waiting);
    assert_eq!(end_of(&world, world.grant_of(waiting)), end + 600);
    // Where the grant was ended, or the rules do not allow it any more, it does not wait on.
    let second = extend(&world, world.grant_of(waiting), end + 900, &key).unwrap();
    world.adopt_with(host, "# And now only this one.\nanswer_within = \"2h\"\n");
    assert_eq!(word(&world, second).0, "pending");
    world.revoke(world.grant_of(waiting));
    world.adopt_with(host, "");
    let (state, how) = word(&world, second);
    assert!(state == "invalidated" && how.contains("is revoked"), "{how}");
}
