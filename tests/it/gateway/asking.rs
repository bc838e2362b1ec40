//! Asking inside ssh, with a key and no client of the broker's (decisions.md 29).

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jit_broker::domain::act::Deed;
use jit_broker::domain::event::Event;
use jit_broker::domain::ids::{GrantId, RequestId};
use jit_broker::domain::names::{RoleName, TargetName};
use jit_broker::domain::refusal::Code;
use jit_broker::domain::session::SessionCause;

use super::world::{Gw, TARGET, until};
use crate::world::Done;

/// A terminal with ssh in it, as somebody who types sees it.
struct Typist {
    child: Child,
    stdin: ChildStdin,
    seen: Arc<Mutex<String>>,
}

impl Typist {
    fn sit_down(world: &Gw) -> Self {
        Self::with(world, &[])
    }

    fn with(world: &Gw, options: &[&str]) -> Self {
        let mut command = world.client("ssh", None);
        command.args(options).arg("-tt").arg("-i").arg(world.dir.join("alice/id_ed25519"));
        command.args(["-o", &format!("User={}%{TARGET}", world.login), "gateway"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let (stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let seen = Arc::new(Mutex::new(String::new()));
        let told = seen.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut piece) {
                told.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..n]));
            }
        });
        Self { child, stdin, seen }
    }

    fn sees(&self, text: &str) {
        until(Duration::from_secs(20), text, || self.seen.lock().unwrap().contains(text));
    }

    fn types(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).unwrap();
    }

    fn leaves(mut self) -> (Option<i32>, String) {
        drop(self.stdin);
        let code = self.child.wait().unwrap().code();
        (code, self.seen.lock().unwrap().clone())
    }
}

/// The one request that waits.
pub(super) fn waiting(world: &Gw) -> RequestId {
    *world.run(world.broker().memory()).state.open_requests.iter().next().unwrap()
}

#[test]
fn who_has_no_client_asks_waits_and_goes_on_into_the_session() {
    let world = Gw::start();
    world.adopt_attested();
    let mut typist = Typist::sit_down(&world);
    typist.sees("You have no access to web-07");
    typist.types("hotfiy\u{7f}x for \u{1b}[31mOPS-1\r");
    typist.sees("For how long?");
    typist.types("10m\r");
    typist.sees("code ");
    let id = waiting(&world);
    let doc = world.run(world.broker().request_doc(&world.bob.name(), id)).unwrap();
    assert!(doc.attested);
    assert_eq!((doc.reason.as_deref(), doc.for_s), (Some("hotfix for OPS-1"), 600));
    typist.sees(&doc.code);
    world.agree(id);
    typist.sees("Agreed to by bob");
    typist.types("echo in-$((40+2))\r");
    typist.sees("in-42");
    let grant = world.grant_of(id);
    // What was asked for inside ssh is used there alone.
    let issued = world.run(world.broker().issue(&world.alice.name(), grant, &world.alice.key(), None));
    assert_eq!(issued.unwrap_err().code, Code::OTHER_KEY);
    let other = jit_broker::domain::key::Key(jit_ca::key::PrivateKey::from_seed([3; 32]).public().clone());
    let bind = Deed::BindKey { by: world.alice.name(), grant, key: other };
    assert_eq!(world.act(&world.alice, None, bind).unwrap_err().code, Code::OTHER_KEY);
    signed_for_beside_it(&world, grant);
    typist.types("exit 5\r");
    let (code, seen) = typist.leaves();
    assert_eq!(code, Some(5), "{seen}");
    assert_eq!(world.end(grant).1.cause, SessionCause::Closed);
}

/// A grant that is used inside ssh alone does not stand for one that a client needs a certificate of.
fn signed_for_beside_it(world: &Gw, inside: GrantId) {
    let (alice, target) = (world.alice.name(), TargetName::new(TARGET).unwrap());
    let offered = |role: &RoleName| {
        let docs = world.run(world.broker().target_docs(&alice));
        let doc = docs.iter().find(|doc| doc.name == target).unwrap();
        let role = doc.roles.iter().find(|doc| doc.name == *role).unwrap();
        (role.verdict.clone(), role.grant_id)
    };
    let role = world.run(world.broker().memory()).state.grants.get(&inside).unwrap().terms.role.clone();
    assert_eq!(offered(&role), ("ask".to_owned(), None), "a client would take it and be refused");
    let deed = Deed::Request {
        by: alice.clone(),
        target: target.clone(),
        role: role.clone(),
        for_s: Some(120),
        key: world.alice.key(),
    };
    let id = world.act(&world.alice, Some(&crate::trust::words("hotfix for OPS-1")), deed).unwrap();
    assert_eq!(waiting(world), id, "people are asked");
    world.agree(id);
    let outside = world.grant_of(id);
    assert_eq!(offered(&role), ("active".to_owned(), Some(outside)), "though the other one lasts longer");
    world.run(world.broker().issue(&alice, outside, &world.alice.key(), None)).unwrap();
}

#[test]
fn a_no_and_a_ctrl_c_open_nothing() {
    let world = Gw::start();
    world.adopt_attested();
    let mut typist = Typist::sit_down(&world);
    typist.sees("Why do you need it?");
    typist.types("hotfix for OPS-1\r");
    typist.sees("For how long?");
    typist.types("\r");
    typist.sees("Waiting");
    let id = waiting(&world);
    typist.types("\u{3}");
    typist.sees("takes it back");
    let (code, seen) = typist.leaves();
    assert_eq!(code, Some(254), "{seen}");
    assert_eq!(waiting(&world), id, "the request stays");
    let why = crate::trust::words("not today, alice");
    world.act(&world.bob, Some(&why), Deed::Deny { by: world.bob.name(), request: id }).unwrap();
    let mut typist = Typist::sit_down(&world);
    typist.sees("Why do you need it?");
    typist.types("short\r");
    typist.sees("For how long?");
    typist.types("10m\r");
    typist.sees("JB");
    let (code, seen) = typist.leaves();
    assert_eq!(code, Some(254), "the reason is too short: {seen}");
    assert!(world.run(world.broker().memory()).state.sessions.is_empty());
}

#[test]
fn a_rule_that_does_not_say_so_takes_no_word_of_the_gateway() {
    let world = Gw::start();
    let mut typist = Typist::sit_down(&world);
    typist.sees("Why do you need it?");
    typist.types("hotfix for OPS-1\r");
    typist.sees("For how long?");
    typist.types("10m\r");
    typist.sees("nobody signed");
    typist.sees("jit-broker request web-07");
    assert_eq!(typist.leaves().0, Some(254));
    assert!(world.run(world.broker().memory()).state.open_requests.is_empty());
    // Nobody is asked anything where nobody sits.
    let mut command = world.client("ssh", None);
    command.arg("-i").arg(world.dir.join("alice/id_ed25519"));
    command.args(["-o", &format!("User={}%{TARGET}", world.login), "gateway", "id"]);
    let done: crate::world::Done = command.output().unwrap().into();
    assert_eq!(done.code, Some(254), "{done:?}");
    assert!(done.err.contains("jit-broker request web-07"), "{done:?}");
}

#[test]
fn what_else_comes_by_the_connection_is_of_the_session_that_was_agreed_to() {
    let world = Gw::start();
    world.adopt_attested();
    let socket = world.dir.join("cm").display().to_string();
    let mut typist = Typist::with(&world, &["-M", "-S", &socket]);
    typist.sees("Why do you need it?");
    let beside = |command: &str| -> Done {
        let mut ssh = world.client("ssh", None);
        ssh.args(["-S", &socket, "gateway", command]).output().unwrap().into()
    };
    let early = beside("echo early");
    assert!(early.code == Some(254) && early.err.contains("you have no grant"), "{early:?}");
    typist.types("hotfix for OPS-1\r");
    typist.sees("For how long?");
    typist.types("10m\r");
    typist.sees("Waiting");
    let id = waiting(&world);
    world.agree(id);
    typist.sees("Agreed to by bob");
    typist.types("echo in-$((40+2))\r");
    typist.sees("in-42");
    assert_eq!(beside("echo beside").ok(), "beside\n");
    typist.types("exit\r");
    typist.leaves();
    let grant = world.grant_of(id);
    world.end(grant);
    let opened = world.events().into_iter().filter(|e| matches!(e, Event::SessionOpened { .. })).count();
    assert_eq!(opened, 1, "one session");
}
