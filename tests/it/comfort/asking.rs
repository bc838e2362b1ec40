//! What may be said about waiting and asking counts with every verb that takes it.

use crate::world::World;

#[test]
fn who_will_not_wait_does_not_and_who_only_looks_asks_nobody() {
    let world = World::direct();
    let key = "ssh-keygen -q -t ed25519 -N '' -f own";
    world.run("alice", key).ok();
    for line in ["login web-07", "cert web-07", "cert web-07 --key own.pub"] {
        let dry = world.run("alice", &format!("timeout 20 jit-broker {line} --reason 'hotfix for OPS-1' --dry-run"));
        assert!(dry.code == Some(0) && dry.out.contains("peer: 1 of group:leads"), "{line}: {dry:?}");
        assert_eq!(world.count("request.submitted"), 0, "{line}");
    }
    for (n, line) in ["login web-07 --no-wait", "login web-07 --wait=1s", "cert web-07 --no-wait"].iter().enumerate() {
        let reason = format!("hotfix for OPS-{n}");
        let done = world.run("alice", &format!("timeout 20 jit-broker {line} --reason '{reason}'"));
        assert!(done.code == Some(6) && done.err.contains("jit-broker wait req_"), "{line}: {done:?}");
        world.run("alice", "jit-broker withdraw $(jit-broker -o name status)").ok();
    }
    let odd = world.run("alice", "jit-broker request web-07 --wait=soon --reason 'hotfix for OPS-9'");
    assert_eq!((odd.code, world.count("request.submitted")), (Some(2), 3), "nobody is asked by what cannot be read");
}

#[test]
fn one_target_that_is_refused_takes_nothing_from_the_others() {
    let world = World::direct();
    let line =
        "jit-broker -o json request nowhere web-07 elsewhere --role deploy --no-wait --reason 'hotfix for OPS-1'";
    let done = world.run("alice", line);
    assert_eq!((done.code, world.count("request.submitted")), (Some(8), 1), "{done:?}");
    let doc: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&doc["target"], &doc["state"]), (&"web-07".into(), &"pending".into()));
    for name in ["nowhere", "elsewhere"] {
        let said = done.err.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let told = said.filter(|doc| doc["message"].as_str().unwrap().contains(name)).count();
        assert_eq!(told, 1, "{name}: {}", done.err);
    }
    let login = world.run("alice", "timeout 20 jit-broker login nowhere web-07 --no-wait --reason 'hotfix for OPS-1'");
    assert!(
        login.code == Some(6) && login.err.contains("nowhere") && login.err.contains("jit-broker wait req_"),
        "{login:?}"
    );
}
