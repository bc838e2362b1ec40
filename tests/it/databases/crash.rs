//! A broker that is killed between any two steps: no account is lost sight of.

use std::time::Duration;

use jit_broker::domain::act::{Deed, Selector};
use jit_broker::domain::ids::GrantId;

use super::world::{Db, key_of, until};
use crate::trust::words;

/// Lets the broker begin to issue, and kills it after a while.
fn issue_and_die(db: &mut Db, grant: GrantId, after: Duration) {
    let (broker, by, key) = (db.broker().clone(), db.alice.name(), key_of(&db.key));
    db.runtime().spawn(async move { broker.issue(&by, grant, &key, None).await });
    std::thread::sleep(after);
    db.kill();
}

/// Every account on the server is one that an open grant explains.
#[track_caller]
fn no_orphan(db: &Db) {
    let memory = db.run(db.broker().memory());
    let open = memory.state.open_grants.iter().filter_map(|id| memory.state.grants.get(id));
    let known: Vec<String> = open.filter_map(|g| g.account.as_ref().map(|a| a.name.to_string())).collect();
    drop(memory);
    let there = db.all_accounts();
    assert!(there.lines().all(|name| known.iter().any(|k| k == name)), "{there} is not in {known:?}");
}

#[test]
fn a_broker_killed_anywhere_leaves_no_orphan() {
    let mut db = Db::cert();
    let (mut planned, mut made, mut gone) = (0, 0, 0);
    for ms in [0, 1, 2, 4, 6, 8, 11, 15, 20, 30, 50] {
        let grant = db.grant("rw", 600);
        issue_and_die(&mut db, grant, Duration::from_millis(ms));
        planned += usize::from(!db.all_accounts().is_empty());
        db.boot();
        no_orphan(&db);
        let before = db.kinds(grant);
        made += usize::from(before.contains(&"account.made".to_owned()));
        // Asking again goes on where it stopped, and once made a restart changes nothing.
        let pem = db.issue(grant).unwrap();
        db.kill();
        db.boot();
        assert_eq!(db.facts(&db.issue(grant).unwrap()), db.facts(&pem));
        let (account, file) = (db.account(grant), db.keep(&pem, &db.key));
        db.by_cert(&account, &file, "SELECT 1").ok();
        assert_eq!(db.all_accounts(), account.as_str());
        let session = db.session(&account, &file, "SELECT pg_sleep(60);");
        // The end.
        let (broker, by) = (db.broker().clone(), db.bob.name());
        let text = words("the work is done");
        let deed = Deed::Revoke { by, of: Selector::Grant(grant) };
        let signed = db.bob.sign(db.install, broker.now(), Some(text.commitment()), deed).unwrap();
        db.run(async { broker.act(signed, Some(&text), None).await }).unwrap();
        drop(broker);
        std::thread::sleep(Duration::from_millis(ms));
        db.kill();
        gone += usize::from(db.all_accounts().is_empty());
        db.boot();
        db.ended(grant, Duration::from_secs(8));
        assert_eq!(db.all_accounts(), "", "after {ms} ms");
        assert_ne!(session.ended().code, Some(0));
    }
    println!(
        "of 11 killed while they issued, {planned} had an account and {made} had told so; {gone} of 11 were gone at the kill"
    );
    assert!(!db.events().iter().any(|e| e.kind() == "account.found"));
}

#[test]
fn a_broker_killed_while_its_server_hangs_leaves_no_orphan() {
    let mut db = Db::cert();
    // A waiting session, so that the statement is on its way when the server stops.
    let (first, ..) = db.open("ro", 600);
    let grant = db.grant("rw", 600);
    hang(&db, true);
    let (broker, by, key) = (db.broker().clone(), db.alice.name(), key_of(&db.key));
    db.runtime().spawn(async move { broker.issue(&by, grant, &key, None).await });
    until(Duration::from_secs(5), "planned", || db.kinds(grant).contains(&"account.planned".to_owned()));
    std::thread::sleep(Duration::from_millis(100));
    db.kill();
    hang(&db, false);
    db.boot();
    db.revoke(grant);
    db.ended(grant, Duration::from_secs(10));
    no_orphan(&db);
    assert_eq!(db.all_accounts(), db.account(first).as_str());
}

/// Stops every process of the server in its tracks, or lets all go on.
fn hang(db: &Db, stop: bool) {
    let master = db.server.pid().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
    let pids = std::iter::once(master.to_string()).chain(children.split_whitespace().map(str::to_owned));
    for pid in pids {
        let signal = if stop { "-STOP" } else { "-CONT" };
        let _ = std::process::Command::new("kill").args([signal, &pid]).status();
    }
}
