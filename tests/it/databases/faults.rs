//! A server that is away, and an admin whose secret changed: shown as residue, tried again, and mended by itself.

use std::time::{Duration, Instant};

use jit_broker::domain::act::Deed;
use jit_broker::domain::grant::GrantState;
use jit_broker::domain::ids::GrantId;
use jit_broker::domain::names::AccountName;
use jit_broker::domain::refusal::Code;

use super::world::{Db, until};

#[test]
fn a_server_that_is_away_at_the_end_is_shown_and_finished_when_it_is_back() {
    let mut db = Db::cert();
    let (grant, account, _) = db.open("rw", 600);
    let (idle, _, _) = db.open("ro", 600);
    db.server.stop();
    db.revoke(grant);
    let shown = until(Duration::from_secs(5), "residue", || db.doc(grant).state == "residue");
    println!("residue is shown after {} ms", shown.as_millis());
    let doc = db.doc(grant);
    assert!(doc.left[0].contains(account.as_str()) && doc.left[0].contains(&format!("127.0.0.1:{}", db.server.port)));
    assert!(doc.left[0].contains("cannot be reached"), "{doc:?}");
    // Others are not held up: the grant that is open stays so, and one without an account ends at once.
    assert_eq!(db.doc(idle).state, "active");
    let unused = db.grant("rw", 600);
    db.act(&db.alice, None, Deed::Release { by: db.alice.name(), grant: unused }).unwrap();
    assert_eq!(db.doc(unused).state, "released");
    let asked = db.grant("rw", 600);
    assert_eq!(db.issue(asked).unwrap_err().code, Code::TARGET_AWAY);
    db.server.run().unwrap();
    println!("ended {} ms after the server was back", db.ended(grant, Duration::from_secs(5)).as_millis());
    assert_eq!(db.traces(&account), "0|0");
    db.issue(asked).unwrap();
    assert_eq!(db.all_accounts().lines().count(), 2, "the two that are open");
    assert_eq!(db.kinds(grant).iter().filter(|k| *k == "account.residue").count(), 1, "told once");
}

#[test]
fn a_server_that_is_restarted_under_sessions_keeps_nothing() {
    let mut db = Db::cert();
    let (grant, account, file) = db.open("rw", 600);
    db.server.stop();
    db.server.run().unwrap();
    // Pooled sessions of the admin died; nobody notices.
    let (second, ..) = db.open("ro", 600);
    db.by_cert(&account, &file, "SELECT 1").ok();
    db.revoke(grant);
    db.revoke(second);
    db.ended(grant, Duration::from_secs(5));
    db.ended(second, Duration::from_secs(5));
    assert_eq!(db.all_accounts(), "");
}

#[test]
fn a_changed_admin_password_is_residue_until_the_secret_is_written_anew() {
    let db = Db::cert();
    let (grant, account, _) = db.open("rw", 600);
    db.sql("ALTER ROLE jit_admin PASSWORD 'quite another'");
    db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'jit_admin'");
    db.revoke(grant);
    until(Duration::from_secs(10), "residue", || db.doc(grant).state == "residue");
    let left = db.doc(grant).left;
    assert!(left[0].contains("login was refused"), "{left:?}");
    assert!(!left[0].contains("quite another"));
    let asked = db.grant("ro", 600);
    let refused = db.issue(asked).unwrap_err();
    assert_eq!(refused.code, Code::TARGET_REFUSED, "{refused:?}");
    let path = db.folder.path().join("broker").join(jit_broker::daemon::dev::database::SECRET_FILE);
    std::fs::write(path, "quite another\n").unwrap();
    println!("mended {} ms after the secret was", db.ended(grant, Duration::from_secs(20)).as_millis());
    assert_eq!(db.traces(&account), "0|0");
    db.issue(asked).unwrap();
}

/// Alice's grant whose end the server refuses for so long that a pause which only grows would be of many seconds.
#[track_caller]
fn refused_for_long(db: &Db) -> (GrantId, AccountName) {
    let (grant, account, _) = db.open("rw", 600);
    db.sql("ALTER ROLE jit_admin PASSWORD 'quite another'");
    db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'jit_admin'");
    db.revoke(grant);
    until(Duration::from_secs(10), "residue", || db.doc(grant).state == "residue");
    let begun = Instant::now();
    let refusals = || db.server.log().matches("password authentication failed for user \"jit_admin\"").count();
    until(Duration::from_secs(60), "many refusals", || begun.elapsed() > Duration::from_secs(9) && refusals() >= 2);
    assert_eq!(db.doc(grant).state, "residue");
    assert!(refusals() <= 8, "{} logins in {:?}: servers count them", refusals(), begun.elapsed());
    (grant, account)
}

#[test]
fn a_secret_that_was_mended_counts_at_once_however_long_it_was_wrong() {
    let db = Db::cert();
    let (grant, account) = refused_for_long(&db);
    let path = db.folder.path().join("broker").join(jit_broker::daemon::dev::database::SECRET_FILE);
    std::fs::write(path, "quite another\n").unwrap();
    println!("gone {} ms after the secret was mended", db.ended(grant, Duration::from_secs(3)).as_millis());
    assert_eq!(db.traces(&account), "0|0");
}

#[test]
fn a_server_that_takes_the_old_secret_again_is_noticed_soon() {
    let db = Db::cert();
    let (grant, account) = refused_for_long(&db);
    let path = db.folder.path().join("broker").join(jit_broker::daemon::dev::database::SECRET_FILE);
    db.sql(&format!("ALTER ROLE jit_admin PASSWORD '{}'", std::fs::read_to_string(path).unwrap().trim()));
    println!("gone {} ms after the server was mended", db.ended(grant, Duration::from_secs(7)).as_millis());
    assert_eq!(db.traces(&account), "0|0");
}

#[test]
fn what_hinders_the_drop_is_told_until_it_is_gone() {
    let db = Db::cert();
    let (grant, account, file) = db.open("rw", 600);
    // Somebody else's right, given to the account by name, holds the role: it is locked and told, not lost.
    db.sql(&format!("CREATE TABLE other (n int); GRANT SELECT ON other TO {account}"));
    db.revoke(grant);
    until(Duration::from_secs(5), "residue", || matches!(db.state(grant), GrantState::Residue { .. }));
    let left = db.doc(grant).left.join(" ");
    assert!(left.contains("other"), "{left}");
    assert_ne!(db.by_cert(&account, &file, "SELECT 1").code, Some(0), "locked meanwhile");
    db.sql(&format!("REVOKE ALL ON other FROM {account}"));
    db.ended(grant, Duration::from_secs(20));
    assert_eq!(db.traces(&account), "0|0");
}
