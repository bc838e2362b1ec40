//! What an approver sees and types, in a terminal.

use crate::terminal::Terminal;
use crate::world::World;

fn asked(world: &World, reason: &str) -> serde_json::Value {
    let line = format!("jit-broker -o json request web-07 --for 30m --reason '{reason}' --no-wait");
    world.run("alice", &line).json()
}

#[test]
fn an_approver_sees_what_it_opens_and_what_they_had_before_and_can_shorten_or_deny_in_one_line() {
    let world = World::start();
    let first = asked(&world, "hotfix for OPS-1");
    let first = first["id"].as_str().unwrap();
    world.run("bob", &format!("jit-broker deny {first} --reason 'not on a friday'")).ok();
    let second = asked(&world, "hotfix for OPS-2");
    let mut bob = Terminal::open(&world, "bob", "jit-broker review");
    bob.sees("1 of 1");
    bob.sees("alice asks for deploy on web-07 for 30m");
    bob.sees("allows shell, exec, sftp");
    bob.sees("through the gateway: recorded, and cut at the end");
    bob.sees("reason:  hotfix for OPS-2");
    bob.sees("peer: 1 of group:leads");
    bob.sees("deploy on web-07 for 30m: denied");
    // What is no answer asks again, and so does a duration that cannot be granted.
    bob.sees("(q)uit: ");
    bob.types("yes\n");
    bob.sees("s 10m approves for less");
    bob.types("s 2h\n");
    bob.sees("not lengthen it");
    bob.types("s 10m\n");
    bob.sees("approved; alice has deploy on web-07 for 10m");
    let (status, screen) = bob.ends();
    assert_eq!(status, Some(0), "{screen}");
    assert!(screen.contains("1 answered."), "{screen}");
    assert!(screen.contains("hint: jit-broker pending --watch"), "{screen}");
    let grant = world.run("alice", &format!("jit-broker -o json show {}", second["id"].as_str().unwrap())).json();
    assert_eq!((grant["state"].as_str(), grant["for_s"].as_u64()), (Some("approved"), Some(600)));
    // A hint is said once.
    world.run("alice", "jit-broker release --all").ok();
    let third = asked(&world, "hotfix for OPS-3");
    let mut bob = Terminal::open(&world, "bob", "jit-broker review");
    bob.sees("for 10m: approved by bob, released");
    bob.types("d there is a freeze\n");
    let (status, screen) = bob.ends();
    assert_eq!(status, Some(0), "{screen}");
    assert!(screen.contains(": denied") && !screen.contains("hint:"), "{screen}");
    let after = world.run("alice", &format!("jit-broker -o json show {}", third["id"].as_str().unwrap())).json();
    assert_eq!(after["denial"], "there is a freeze");
}

#[test]
fn what_is_not_for_one_is_not_told_of_and_without_a_terminal_the_command_is_named() {
    let world = World::start();
    let id = asked(&world, "hotfix for OPS-1")["id"].as_str().unwrap().to_owned();
    let there = world.run("bob", "jit-broker review");
    assert_eq!(there.code, Some(2), "{}", there.err);
    assert!(there.err.contains(&format!("jit-broker approve {id}")), "{}", there.err);
    let none = world.run("alice", "jit-broker review");
    assert_eq!(none.code, Some(0));
    assert!(none.err.contains("Nothing waits for you."), "{}", none.err);
    let show = world.run("bob", &format!("jit-broker show {id}")).ok();
    assert!(show.contains("allows shell, exec, sftp"), "{show}");
}
