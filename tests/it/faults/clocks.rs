//! The wall clock of a running broker is set, back and forth; and a machine sleeps, for which a time namespace stands.

use std::io::Read;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use jit_broker::domain::ids::GrantId;
use jit_broker::domain::key::Key;
use jit_broker::domain::refusal::Code;

use super::site::Site;
use crate::served::{Client, eventually};
use crate::world::Done;

const TICK: &str = "while :; do echo tick; sleep 0.05; done";
const HOUR: i64 = 3600;

/// A grant behind the gateway, with its certificate beside its key.
pub(super) fn pass(site: &Site, alice: &Client<'_>, name: &str, for_s: u64) -> (GrantId, PathBuf) {
    let (path, private) = site.key(name);
    let key = Key(private.public().clone());
    let grant = alice.ask_for("gw-07", "free", for_s, key.clone()).unwrap();
    let doc = alice.credential(grant, &key).unwrap();
    let certificate = doc["certificate"].as_str().unwrap();
    let ends_at = site.story().grants[&grant];
    let facts = jit_ca::ssh::read(certificate).unwrap();
    assert!(i64::try_from(facts.valid_before).unwrap() <= ends_at, "the window is in the certificate");
    std::fs::write(path.with_file_name(format!("{name}-cert.pub")), certificate).unwrap();
    (grant, path)
}

/// A session that has begun; gives what waits for its end, and says how long that took.
fn session(site: &Site, path: &std::path::Path) -> impl FnOnce() -> (Done, Instant) + use<> {
    let mut child = site.ssh(path, TICK).spawn().unwrap();
    let mut first = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"tick\n");
    move || {
        let done: Done = child.wait_with_output().unwrap().into();
        (done, Instant::now())
    }
}

fn refused(site: &Site, path: &std::path::Path, what: &str) {
    let done: Done = site.ssh(path, "echo in").output().unwrap().into();
    assert!(done.code != Some(0) && done.out.is_empty(), "{what}: {done:?}");
}

#[test]
fn a_wall_clock_that_is_set_back_lengthens_nothing() {
    let mut site = Site::start(false);
    site.serve(true).unwrap();
    let asked = |site: &Site, for_s| site.served.client(&site.served.alice).unwrap().ask(for_s);
    let (grant, path, began) = {
        let alice = site.served.client(&site.served.alice).unwrap();
        let began = Instant::now();
        let (grant, path) = pass(&site, &alice, "pass", 8);
        (grant, path, began)
    };
    let ended = session(&site, &path);
    site.shim.set_wall(-HOUR);
    eventually("nothing is granted", || asked(&site, 600).is_err_and(|e| e.code() == Code::CLOCK));
    site.served.sign_in("alice");
    let done = site.served.cli("alice", "jit-broker request web-07 --role ops --for 7h --no-wait");
    let code = Code::CLOCK.to_string();
    assert!(done.code != Some(0) && done.err.contains(&code) && done.err.contains("clock confirm"), "{}", done.err);
    let (done, at) = ended();
    // The grant began at a whole second, at most one before.
    let took = at - began;
    assert!(took < Duration::from_secs(11) && took > Duration::from_secs(5), "cut after {took:?}: {done:?}");
    for off in [-HOUR, -24 * HOUR, -jit_broker::clock::wall_s()] {
        site.shim.set_wall(off);
        refused(&site, &path, "a grant that is over opens nothing, whatever the clock says");
        let alice = site.served.client(&site.served.alice).unwrap();
        assert_eq!(alice.call("GET", &format!("/v1/grants/{grant}"), None).unwrap()["state"], "ended");
        assert_eq!(alice.ask(600).unwrap_err().code(), Code::CLOCK);
    }
    // A restart does not make it right.
    assert!(site.stop());
    site.shim.set_wall(-HOUR);
    site.serve(true).unwrap();
    refused(&site, &path, "nor after a restart");
    assert_eq!(asked(&site, 600).unwrap_err().code(), Code::CLOCK);
    site.shim.set_wall(0);
    asked(&site, 600).unwrap();
    assert!(site.stop());
}

#[test]
fn a_wall_clock_that_is_set_forward_ends_things_and_an_operator_says_when_it_is_right() {
    let mut site = Site::start(false);
    site.serve(true).unwrap();
    let (alice, bob) = (site.served.client(&site.served.alice).unwrap(), site.served.client(&site.served.bob).unwrap());
    let (short, path) = pass(&site, &alice, "pass", 600);
    let ended = session(&site, &path);
    let long = alice.ask(4 * 3600).unwrap();
    alice.certificate(long).unwrap();
    let stepped = Instant::now();
    site.shim.set_wall(HOUR);
    let (done, at) = ended();
    assert!(at - stepped < Duration::from_secs(4), "cut {:?} after the step: {done:?}", at - stepped);
    assert_eq!(alice.ask(600).unwrap_err().code(), Code::CLOCK);
    let state = |grant: GrantId| alice.call("GET", &format!("/v1/grants/{grant}"), None).unwrap()["state"].clone();
    eventually("it is over", || state(short) == "ended");
    assert_eq!(state(long), "active", "the other one's end has not come by any clock");
    // Back again: what was ended stays so, and it grants by itself.
    site.shim.set_wall(0);
    refused(&site, &path, "what was ended stays so");
    eventually("it grants again", || alice.ask(1200).is_ok());
    // The clock was wrong before, and is right now: an operator says so.
    site.shim.set_wall(HOUR);
    eventually("nothing is granted", || alice.ask(1300).is_err_and(|e| e.code() == Code::CLOCK));
    site.served.sign_in("bob");
    site.served.cli("bob", "jit-broker clock confirm --yes").ok();
    // By the clock that counts now the hour is over, and a window begins at it.
    let program = site.shim.before(&site.served.dir.join("disk"))[1..3].join(" ");
    let line = format!("export {program}; jit-broker -o json request web-07 --role ops --for 5h --no-wait");
    let doc = site.served.cli("alice", &line).json();
    let grant: GrantId = doc["grant_id"].as_str().unwrap().parse().unwrap();
    let left = site.story().grants[&grant] - jit_broker::clock::wall_s();
    assert!((6 * HOUR - 60..=6 * HOUR).contains(&left), "five hours from the broker's now: {left}");
    drop((alice, bob));
    assert!(site.stop());
}

/// Words that move the boot-time clock of what follows.
fn asleep(s: i64) -> Vec<String> {
    let root = rustix::process::geteuid().is_root();
    let words = ["unshare", "--time", "--fork", "--kill-child", "--boottime"].map(str::to_owned);
    let user = (!root).then(|| "--map-root-user".to_owned());
    words.into_iter().chain([s.to_string()]).chain(user).collect()
}

#[test]
fn what_ended_while_the_machine_slept_is_over_when_it_wakes() {
    let probe = asleep(HOUR);
    let there = Command::new(&probe[0]).args(&probe[1..]).arg("true").status().unwrap();
    assert!(there.success(), "this test needs a time namespace: unshare --time as root, or with user namespaces");
    let mut site = Site::start(false);
    site.serve(true).unwrap();
    let (grant, path) = {
        let alice = site.served.client(&site.served.alice).unwrap();
        pass(&site, &alice, "pass", 600)
    };
    // Asleep, with the daemon frozen, for which a kill stands: its boot-time clock cannot be moved while it runs.
    site.served.kill();
    // The wall clock went on as well, or it stood still, which is no reason to believe it.
    for offset in [HOUR, 0] {
        site.shim.set_wall(offset);
        site.serve_after(asleep(HOUR)).unwrap();
        refused(&site, &path, "it ended while the machine slept");
        eventually("its end is in the log", || site.story().over.contains(&grant));
        site.served.kill();
        eventually("it is gone", || jit_broker::ledger::held_by(&site.served.ledger()).is_none());
    }
}
