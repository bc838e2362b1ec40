//! The end of what is in use: sessions of every kind are cut in time, the account is gone, and the log holds the proofs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jit_broker::domain::act::{Deed, Selector};
use jit_broker::domain::event::Cause;
use jit_broker::domain::grant::GrantState;
use jit_broker::domain::ids::GrantId;
use jit_broker::domain::names::{AccountName, TargetName};

use super::world::{Db, Session};
use crate::trust::words;

/// What sessions do when the end comes.
const BUSY: [&str; 5] = [
    "SELECT 'idle';",
    "SELECT pg_sleep(600);",
    "BEGIN; LOCK TABLE notes IN SHARE ROW EXCLUSIVE MODE; INSERT INTO notes (text) VALUES ('never');",
    "COPY notes (text) FROM STDIN;\na line",
    "LISTEN somebody;",
];

fn sessions(db: &Db, account: &AccountName, file: &std::path::PathBuf) -> Vec<Session> {
    BUSY.iter().map(|text| db.session(account, file, text)).collect()
}

/// Looks until the sessions are cut and the account is gone; gives when each was first seen, after a moment.
fn watch(db: &Db, account: &AccountName, since: impl Fn() -> Duration) -> (Duration, Duration) {
    let mut cut = None;
    loop {
        let traces = db.traces(account);
        let at = since();
        assert!(at < Duration::from_secs(20), "{traces}");
        if traces.starts_with("0|") {
            let cut = *cut.get_or_insert(at);
            if traces == "0|0" {
                return (cut, at);
            }
        }
    }
}

fn judge(what: &str, (cut, gone): (Duration, Duration)) {
    println!("{what}: cut after {} ms, gone after {} ms", cut.as_millis(), gone.as_millis());
    assert!(cut < Duration::from_secs(1), "{what}: cut after {cut:?}");
    assert!(gone < Duration::from_secs(2), "{what}: gone after {gone:?}");
}

#[track_caller]
fn proven(db: &Db, grant: GrantId, wanted: Cause, word: &str) -> Vec<String> {
    db.ended(grant, Duration::from_secs(5));
    let GrantState::Ended { cause, proofs, kept, .. } = db.state(grant) else { panic!("{:?}", db.state(grant)) };
    assert_eq!(cause, wanted);
    assert!(proofs.iter().any(|p| p.what == "account" && p.ok == Some(true)), "{proofs:?}");
    assert_eq!(proofs.iter().find(|p| p.what == "read back").unwrap().ok, Some(true));
    assert_eq!(db.doc(grant).state, word);
    kept
}

#[test]
fn every_kind_of_session_is_cut_when_a_grant_is_revoked() {
    let db = Db::cert();
    let (grant, account, file) = db.open("rw", 600);
    let sessions = sessions(&db, &account, &file);
    assert_eq!(db.traces(&account), "5|1");
    let begun = Instant::now();
    db.revoke(grant);
    println!("the act of revoking took {} ms", begun.elapsed().as_millis());
    judge("revoke", watch(&db, &account, || begun.elapsed()));
    proven(&db, grant, Cause::Revoked, "revoked");
    for session in sessions {
        let told = session.ended();
        assert!(told.code != Some(0) && !told.out.contains("after"), "{told:?}");
        assert!(told.err.contains("terminating connection due to administrator command"), "{told:?}");
    }
    assert_eq!(db.sql("SELECT count(*) FROM notes WHERE text = 'never'"), "0", "what was open is rolled back");
    let terminated = db.doc(grant).proofs.into_iter().find(|p| p.what == "terminate").unwrap();
    assert_eq!(terminated.detail, "5 cut, 0 left");
}

#[test]
fn a_session_that_holds_its_own_row_is_cut_in_time_and_holds_up_nobody() {
    let db = Db::cert();
    let held = [db.open("rw", 600), db.open("ro", 600)];
    let hold = "BEGIN READ WRITE; ALTER ROLE CURRENT_USER PASSWORD 'x';";
    let sessions: Vec<_> = held.iter().map(|(_, account, file)| db.session(account, file, hold)).collect();
    let begun = Instant::now();
    let deed = Deed::Revoke { by: db.bob.name(), of: Selector::Target(TargetName::new("db-prod").unwrap()) };
    db.act(&db.bob, Some(&words("the server is going away")), deed).unwrap();
    for (grant, account, _) in &held {
        judge("hold the row", watch(&db, account, || begun.elapsed()));
        db.ended(*grant, Duration::from_secs(5));
    }
    sessions.into_iter().for_each(|session| assert_ne!(session.ended().code, Some(0)));
}

/// Clearing away takes its time; whoever ends meanwhile does not wait for it.
#[test]
fn accounts_that_leave_thousands_of_tables_hold_up_nobody() {
    let db = Db::cert();
    db.sql("GRANT CREATE ON SCHEMA public TO app_writer");
    let many: Vec<_> = (0..8).map(|n| db.open("rw", 600 + n)).collect();
    for (n, (_, account, _)) in many.iter().enumerate() {
        db.sql(&format!("SET ROLE {account}; SELECT format('CREATE TABLE m{n}_%s (i serial)', i) FROM generate_series(1, 700) i\n\\gexec\n"));
    }
    let (grant, account, file) = db.open("ro", 600);
    let session = db.session(&account, &file, "SELECT 'idle';");
    for (grant, ..) in &many {
        db.act(&db.alice, None, Deed::Release { by: db.alice.name(), grant: *grant }).unwrap();
    }
    let locked = "SELECT count(*) FROM pg_roles WHERE rolname LIKE '%\\_jit' AND NOT rolcanlogin";
    crate::databases::world::until(Duration::from_secs(10), "all are locked", || db.sql(locked) == "8");
    let begun = Instant::now();
    db.revoke(grant);
    judge("meanwhile", watch(&db, &account, || begun.elapsed()));
    assert_ne!(session.ended().code, Some(0));
    assert_ne!(db.sql(locked), "0", "they are cleared away still");
    for (grant, ..) in &many {
        db.ended(*grant, Duration::from_secs(120));
    }
    println!("8 accounts with 1,400 tables and sequences each: {} ms", begun.elapsed().as_millis());
    assert_eq!(db.all_accounts(), "");
}

#[test]
fn every_kind_of_session_is_cut_when_the_window_ends() {
    let db = Db::cert();
    let (grant, account, file) = db.open("rw", 5);
    let sessions = sessions(&db, &account, &file);
    let ends_at = db.run(db.broker().memory()).state.grants.get(&grant).unwrap().ends_at;
    let ends_at = UNIX_EPOCH + Duration::from_secs(u64::try_from(ends_at).unwrap());
    let left = ends_at.duration_since(SystemTime::now()).unwrap();
    assert_eq!(db.traces(&account), "5|1", "nothing is cut before the end; {left:?} left");
    let late = || SystemTime::now().duration_since(ends_at).unwrap_or_default();
    let seen = watch(&db, &account, late);
    assert!(seen.0 > Duration::ZERO, "cut before the end");
    judge("window's end", seen);
    proven(&db, grant, Cause::WindowEnd, "ended");
    for session in sessions {
        assert_ne!(session.ended().code, Some(0));
    }
}

#[test]
fn released_accounts_are_gone_and_what_they_made_is_told() {
    let db = Db::cert();
    db.sql("GRANT CREATE ON SCHEMA public TO app_writer");
    let (grant, account, file) = db.open("rw", 600);
    db.by_cert(&account, &file, "CREATE TABLE mine AS SELECT 1 AS n").ok();
    let session = db.session(&account, &file, "SELECT 'idle';");
    let begun = Instant::now();
    db.act(&db.alice, None, Deed::Release { by: db.alice.name(), grant }).unwrap();
    judge("release", watch(&db, &account, || begun.elapsed()));
    let kept = proven(&db, grant, Cause::Released, "released");
    assert!(kept.iter().any(|line| line.contains("mine")), "{kept:?}");
    assert_eq!(db.doc(grant).kept, kept);
    assert_ne!(session.ended().code, Some(0));
    let owner = db.sql(
        "SELECT r.rolname, r.rolcanlogin FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE relname = 'mine'",
    );
    assert_eq!(owner, format!("{account}_kept|f"));
}

#[test]
fn a_disabled_person_is_cut_off_everywhere() {
    let db = Db::cert();
    let held = [db.open("ro", 600), db.open("rw", 600)];
    let sessions: Vec<_> = held.iter().map(|(_, a, file)| db.session(a, file, "SELECT pg_sleep(50);")).collect();
    let begun = Instant::now();
    let deed = Deed::Disable { by: db.bob.name(), person: db.alice.name() };
    db.act(&db.bob, Some(&words("left the company")), deed).unwrap();
    for (grant, account, _) in &held {
        judge("disable", watch(&db, account, || begun.elapsed()));
        db.ended(*grant, Duration::from_secs(5));
    }
    sessions.into_iter().for_each(|session| assert_ne!(session.ended().code, Some(0)));
}

#[test]
fn all_of_a_target_end_at_once() {
    let db = Db::cert();
    let held = [db.open("ro", 600), db.open("rw", 600)];
    let sessions: Vec<_> = held.iter().map(|(_, a, file)| db.session(a, file, "SELECT 'idle';")).collect();
    let begun = Instant::now();
    let deed = Deed::Revoke { by: db.bob.name(), of: Selector::Target(TargetName::new("db-prod").unwrap()) };
    db.act(&db.bob, Some(&words("the server is going away")), deed).unwrap();
    for (grant, account, _) in &held {
        judge("revoke the target", watch(&db, account, || begun.elapsed()));
        db.ended(*grant, Duration::from_secs(5));
    }
    assert_eq!(db.all_accounts(), "");
    sessions.into_iter().for_each(|session| assert_ne!(session.ended().code, Some(0)));
}
