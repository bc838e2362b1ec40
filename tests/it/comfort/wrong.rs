//! What is typed wrongly, or too late: it ends nothing, opens nothing, and says what to type instead.

use crate::world::{Done, World};

fn said(done: &Done, code: i32, text: &str) {
    assert!(done.code == Some(code) && done.err.contains(text), "{code} {text}: {done:?}");
}

#[test]
fn an_id_that_says_nothing_names_nothing() {
    let world = World::direct();
    let asked = world.run("alice", "jit-broker -o json request web-07 --reason 'hotfix for OPS-1' --no-wait").json();
    let request = asked["id"].as_str().unwrap();
    for text in ["''", "r", "req_", "' '"] {
        said(&world.run("bob", &format!("jit-broker approve {text}")), 2, "Say which request");
        said(&world.run("alice", &format!("jit-broker withdraw {text}")), 2, "Say which request");
    }
    assert_eq!((world.count("request.approved"), world.count("request.withdrawn")), (0, 0));
    world.run("bob", &format!("jit-broker approve {request}")).ok();
    for line in ["revoke '' --reason xxx", "revoke gr_ --reason xxx", "extend gr --for 10m --reason 'one more hour'"] {
        let who = if line.starts_with("extend") { "alice" } else { "bob" };
        said(&world.run(who, &format!("jit-broker {line}")), 2, "Say which grant");
    }
    said(&world.run("bob", "jit-broker session end '' --reason xxx"), 2, "Say which session");
    assert_eq!(world.count("grant.ending"), 0);
    // A prefix that says something does.
    let grant = world.run("alice", "jit-broker -o name status").ok();
    world.run("bob", &format!("jit-broker revoke {} --reason xxx", &grant.trim()[..8])).ok();
    // What is over is told as that, by its whole id.
    said(&world.run("bob", &format!("jit-broker approve {request}")), 7, "JB3001");
    said(&world.run("bob", &format!("jit-broker approve {}", &request[..10])), 8, "its whole id");
}

#[test]
fn a_revocation_that_ends_nothing_says_so() {
    let world = World::direct();
    said(&world.run("bob", "jit-broker revoke --person nobody --reason xxx"), 8, "nobody called nobody");
    said(&world.run("bob", "jit-broker revoke --target web-70 --reason xxx"), 8, "did you mean web-07?");
    said(&world.run("bob", "jit-broker revoke --person alice --reason xxx"), 0, "Nothing of alice is open");
    let json = world.run("bob", "jit-broker -o json revoke --target web-07 --reason xxx");
    assert_eq!(json.json()["done"], "revoke.nothing");
    assert_eq!(world.run("alice", "jit-broker -o json release --all").json()["done"], "release.nothing");
}

#[test]
fn nobody_is_asked_for_what_cannot_be_meant() {
    let world = World::direct();
    let asks = |line: &str| world.run("alice", &format!("timeout 20 jit-broker {line} --reason 'hotfix for OPS-1'"));
    said(&asks("login web-07 --wait 2s"), 2, "--wait=2s");
    for line in ["cert db-prod --role ro", "cert db-prod --role rw"] {
        said(&asks(line), 2, "db-prod is a database");
    }
    let ssh = world.run("alice", "jit-broker ssh db-prod");
    said(&ssh, 125, "jit-broker login db-prod");
    assert_eq!(world.count("request.submitted"), 0);
}

#[test]
fn a_dry_run_says_what_would_be_refused() {
    let world = World::direct();
    let dry = |rest: &str| world.run("alice", &format!("jit-broker request web-07 --dry-run {rest}"));
    assert_eq!(dry("--reason 'hotfix for OPS-1'").code, Some(0));
    said(&dry("--reason '       x'"), 5, "JB2004");
    let long = dry("--for 400h --reason 'hotfix for OPS-1'");
    assert!(long.code == Some(5) && long.out.contains("JB2003"), "{long:?}");
    said(&world.run("alice", "jit-broker why web-70"), 8, "did you mean web-07?");
    assert_eq!(world.count("request.submitted"), 0);
}
