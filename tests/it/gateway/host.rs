//! A target is the one that the inventory knows, or nothing is sent to it.

use jit_broker::domain::key::Key;
use jit_broker::domain::session::SessionCause;
use jit_ca::key::PrivateKey;

use super::world::Gw;

#[test]
fn a_pinned_key_is_the_only_one() {
    let world = Gw::start();
    let right = Key(PrivateKey::from_seed([9; 32]).public().clone());
    world.adopt(&format!("host_key = \"{right}\""));
    let pass = world.pass("work", 600);
    assert_eq!(world.ssh(&pass, &["echo pinned"]).ok(), "pinned\n");
    let wrong = Key(PrivateKey::from_seed([10; 32]).public().clone());
    world.adopt(&format!("host_key = \"{wrong}\""));
    let pass = world.pass("all", 600);
    let done = world.ssh(&pass, &["echo reached"]);
    assert_eq!((done.code, done.out.as_str()), (Some(254), ""), "{done:?}");
    assert!(done.err.contains("not what the inventory knows it by"), "{done:?}");
    assert_eq!(world.end(pass.grant).1.cause, SessionCause::HostkeyMismatch);
    let log = std::fs::read_to_string(world.dir.join("host/log")).unwrap();
    assert_eq!(log.matches("Accepted publickey").count(), 1, "{log}");
}

#[test]
fn a_target_that_is_away_is_told() {
    let mut world = Gw::start();
    world.ssh_port = 1;
    world.adopt("host_ca = \"@broker\"");
    let pass = world.pass("work", 600);
    let done = world.ssh(&pass, &["echo reached"]);
    assert_eq!(done.code, Some(254));
    assert!(done.err.contains("cannot be reached"), "{done:?}");
    assert_eq!(world.end(pass.grant).1.cause, SessionCause::TargetAway);
}
