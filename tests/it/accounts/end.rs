//! The end: whatever a session does, it is cut; whatever holds the removal up is named, and then removed.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jit_broker::accounts::Ending;
use jit_broker::clock::random16;
use jit_broker::daemon::postgres::HBA_CERT;
use jit_broker::domain::ids::GrantId;

use super::db::{Db, account, gone, now};

/// T84, T85: each kind of session, and that the end is quick.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_session_is_cut_at_once() {
    let db = Db::cert();
    let one = account(&["rw"]);
    db.accounts.make(&one).await.unwrap();
    let name = one.name.as_str();
    db.certify(name);
    let busy = [
        "",
        "SELECT pg_sleep(600);",
        "BEGIN; UPDATE app.orders SET v = 0; LOCK app.orders IN ROW EXCLUSIVE MODE;",
        "COPY app.orders FROM STDIN;\n1\t1",
        "LISTEN x; SELECT pg_advisory_lock(1); BEGIN; DECLARE c CURSOR FOR SELECT * FROM app.orders; FETCH c;",
        "CREATE TEMP TABLE t (i int); BEGIN; SAVEPOINT a; CREATE TABLE app.half (i int);",
    ];
    let sessions: Vec<_> = busy.iter().map(|text| db.session(name, text)).collect();
    db.until(&format!("SELECT count(*) = {} FROM pg_stat_activity WHERE usename = '{name}'", busy.len()));
    db.until("SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'");
    let begun = Instant::now();
    let ending = db.accounts.end(&one.name, one.grant).await.unwrap();
    let took = begun.elapsed();
    gone(&ending);
    assert_eq!(ending.cut, busy.len());
    assert!(took.as_secs() < 5, "{took:?}");
    assert_eq!(db.traces(&one.name), "0|0|0");
    for session in sessions {
        let done = session.ended();
        assert_ne!(done.code, Some(0));
        assert!(done.out.starts_with("here") && !done.out.contains("after"), "{done:?}");
    }
    assert_eq!(db.sql("SELECT count(*), sum(v) FROM app.orders"), "1000|500500", "what was not committed is not there");
    // The certificate is good for hours; the account is not.
    assert!(
        db.by_cert(name, "SELECT 1").err.contains("certificate authentication failed")
            || db.by_cert(name, "SELECT 1").code == Some(2)
    );
    let again = db.accounts.end(&one.name, one.grant).await.unwrap();
    gone(&again);
    gone(&db.accounts.end(&one.name, GrantId::new(random16())).await.unwrap());
}

/// The lock alone: no login by certificate though VALID UNTIL is ahead, sessions cut, memberships gone at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_leaves_nothing_to_use() {
    let db = Db::cert();
    let mut one = account(&["rw"]);
    one.valid_until = now() + 86_400;
    db.accounts.make(&one).await.unwrap();
    db.certify(one.name.as_str());
    let session = db.session(one.name.as_str(), "");
    db.sql(&format!("GRANT {} TO app", one.name));
    let locked = db.accounts.lock(&one.name, one.grant).await.unwrap();
    assert_eq!((locked.cut, locked.left), (1, 0));
    assert_ne!(session.ended().code, Some(0));
    assert!(db.by_cert(one.name.as_str(), "SELECT 1").err.contains("FATAL"));
    let rights = format!(
        "SELECT rolcanlogin, rolvaliduntil < now(), has_table_privilege(oid, 'app.orders', 'SELECT') FROM pg_roles WHERE rolname = '{}'",
        one.name
    );
    assert_eq!(db.sql(&rights), "f|t|f");
    assert_eq!(db.sql(&format!("SELECT pg_has_role('app', '{}', 'MEMBER')", one.name)), "f");
    // A past VALID UNTIL alone keeps no certificate out: the lock does.
    db.sql(&format!("ALTER ROLE {} LOGIN CONNECTION LIMIT -1 IN GROUP x", one.name).replace(" IN GROUP x", ""));
    db.sql(&format!("GRANT jit_accounts TO {}", one.name));
    db.by_cert(one.name.as_str(), "SELECT 1").ok();
    gone(&db.accounts.end(&one.name, one.grant).await.unwrap());
}

/// T86: a client that logs in again every few milliseconds, from before the end until after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_coming_back_does_not_survive() {
    let db = Arc::new(Db::cert());
    let one = account(&["ro"]);
    db.accounts.make(&one).await.unwrap();
    db.certify(one.name.as_str());
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, back) = std::sync::mpsc::channel();
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (db, name, stop, tell) = (db.clone(), one.name.clone(), stop.clone(), tell.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut command = db.psql(name.as_str(), None);
                    command.args(["-c", "SELECT pg_sleep(600)"]).stdout(Stdio::null()).stderr(Stdio::null());
                    if command.status().unwrap().success() {
                        return false;
                    }
                    let _ = tell.send(());
                }
                true
            })
        })
        .collect();
    db.until(&format!("SELECT count(*) = 6 FROM pg_stat_activity WHERE usename = '{}'", one.name));
    let ending = db.accounts.end(&one.name, one.grant).await.unwrap();
    gone(&ending);
    assert!(ending.cut >= 6, "{ending:?}");
    // They were cut, and are refused ever since, again and again.
    while back.try_recv().is_ok() {}
    for _ in 0..30 {
        back.recv_timeout(std::time::Duration::from_secs(20)).expect("nobody tries to come in any more");
    }
    assert_eq!(db.traces(&one.name), "0|0|0", "nobody with a role that is gone is in");
    stop.store(true, Ordering::Relaxed);
    assert!(clients.into_iter().all(|c| c.join().unwrap()), "a session ran to its own end");
}

/// Ends an account as the broker does, at most three times; nothing may be left of it, and soon.
#[track_caller]
fn ended_soon<'a>(
    db: &'a Db,
    one: &'a jit_broker::accounts::Account,
    limit: Duration,
) -> impl Future<Output = Ending> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let begun = Instant::now();
        let mut tries = Vec::new();
        for _ in 0..3 {
            tries.push(db.accounts.end(&one.name, one.grant).await);
            if tries.last().is_some_and(|t| t.as_ref().is_ok_and(|ending| ending.gone)) {
                break;
            }
        }
        let (took, traces) = (begun.elapsed(), db.traces(&one.name));
        println!("{caller}: {} tries, {} ms", tries.len(), took.as_millis());
        assert_eq!(traces, "0|0|0", "{caller}: {tries:#?}");
        assert!(took < limit, "{caller}: {took:?} {tries:#?}");
        tries.pop().unwrap().unwrap()
    }
}

/// Holds the account's own row of `pg_authid`, which a lock must change, until the session ends.
const HOLDS: &str = "BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'x';";

/// T85, I3: sessions that hold the account's row, so that the lock waits for them: one, and many of which one has it and all others wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_holds_its_own_row_is_cut() {
    let db = Db::cert();
    for count in [1, 12] {
        let one = account(&["rw"]);
        db.accounts.make(&one).await.unwrap();
        let name = one.name.as_str();
        db.certify(name);
        let sessions: Vec<_> = (0..count).map(|_| db.session(name, HOLDS)).collect();
        db.until(&format!(
            "SELECT count(*) = {count} FROM pg_stat_activity WHERE usename = '{name}' AND query LIKE 'ALTER ROLE%'"
        ));
        let ending = ended_soon(&db, &one, Duration::from_secs(3)).await;
        gone(&ending);
        assert_eq!(ending.cut, count);
        assert!(sessions.into_iter().all(|session| session.ended().code != Some(0)));
    }
}

/// As above, by clients that come back at once, and by some that change the row without end: the lock then meets a row that was just changed.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_back_to_hold_the_row_do_not_survive() {
    // With the lines that are shipped; and where a line for everybody lets the account in for as long as it has a login.
    for hba in [HBA_CERT.to_owned(), HBA_CERT.replace("+jit_accounts", "all")] {
        coming_back_to_hold_the_row(&hba).await;
    }
}

async fn coming_back_to_hold_the_row(hba: &str) {
    let db = Arc::new(Db::start(hba, ""));
    let one = account(&["rw"]);
    db.accounts.make(&one).await.unwrap();
    db.certify(one.name.as_str());
    let stop = Arc::new(AtomicBool::new(false));
    let holds = format!("{HOLDS} SELECT pg_sleep(600);");
    let again = "ALTER ROLE CURRENT_USER PASSWORD 'x';\n".repeat(20_000);
    let clients: Vec<_> = [&holds, &holds, &holds, &again, &again]
        .into_iter()
        .map(|text| {
            let (db, name, stop, text) = (db.clone(), one.name.clone(), stop.clone(), text.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut command = db.psql(name.as_str(), None);
                    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
                    let mut child = command.spawn().unwrap();
                    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes());
                    child.wait().unwrap();
                }
            })
        })
        .collect();
    db.until(&format!("SELECT count(*) >= 5 FROM pg_stat_activity WHERE usename = '{}'", one.name));
    gone(&ended_soon(&db, &one, Duration::from_secs(5)).await);
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|c| c.join().unwrap());
    assert_eq!(db.traces(&one.name), "0|0|0");
}

/// The row is held by what is no session of the account: a prepared transaction, also one under a role that the account is a member
/// of, and a session of somebody else who became the account.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_held_from_elsewhere_is_freed() {
    let db = Db::cert();
    for prepared in ["PREPARE TRANSACTION 'mine'", "SET LOCAL ROLE rw; PREPARE TRANSACTION 'theirs'"] {
        let one = account(&["rw"]);
        db.accounts.make(&one).await.unwrap();
        db.certify(one.name.as_str());
        db.script(one.name.as_str(), "postgres", &format!("{HOLDS} {prepared};"));
        let _session = db.session(one.name.as_str(), "");
        gone(&ended_soon(&db, &one, Duration::from_secs(5)).await);
        assert_eq!(db.sql("SELECT gid FROM pg_prepared_xacts"), "");
        assert_eq!(db.sql("SELECT count(*) FROM pg_auth_members WHERE member = 'jit_admin'::regrole"), "1");
    }
    let (one, other) = (account(&["rw"]), account(&["ro"]));
    for each in [&one, &other] {
        db.accounts.make(each).await.unwrap();
        db.certify(each.name.as_str());
    }
    let name = &one.name;
    db.sql(&format!("GRANT {name} TO {}", other.name));
    let _own = db.session(name.as_str(), "");
    let hold = format!("SET ROLE {name}; {HOLDS}");
    let held = db.session(other.name.as_str(), &hold);
    let innocent = db.session(other.name.as_str(), "");
    db.until(
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'ALTER ROLE%' AND state = 'idle in transaction'",
    );
    gone(&ended_soon(&db, &one, Duration::from_secs(5)).await);
    assert_ne!(held.ended().code, Some(0));
    assert_eq!(innocent.ended().code, Some(0), "only what held the row is cut");
}

/// A membership that the admin may not take: everything else of the lock holds all the same, and the drop takes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_membership_that_cannot_be_taken_keeps_nobody_in() {
    let db = Db::cert();
    db.sql("CREATE ROLE boss SUPERUSER");
    let one = account(&["rw"]);
    db.accounts.make(&one).await.unwrap();
    let name = one.name.as_str();
    db.certify(name);
    db.sql(&format!("GRANT boss TO {name}; GRANT {name} TO app"));
    let session = db.session(name, "");
    let locked = db.accounts.lock(&one.name, one.grant).await.unwrap();
    assert_eq!((locked.cut, locked.left), (1, 0));
    assert_ne!(session.ended().code, Some(0));
    let left = format!(
        "SELECT rolcanlogin, pg_has_role('{name}', 'rw', 'MEMBER'), pg_has_role('app', '{name}', 'MEMBER') FROM pg_roles WHERE rolname = '{name}'"
    );
    assert_eq!(db.sql(&left), "f|f|f");
    gone(&ended_soon(&db, &one, Duration::from_secs(3)).await);
}

/// A prepared transaction where the admin may not connect: it is residue for as long as it is there, and so is the account.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_that_cannot_be_reached_is_residue_until_it_is_gone() {
    let db = Db::cert();
    db.sql("CREATE DATABASE other");
    db.sql("REVOKE CONNECT ON DATABASE other FROM PUBLIC; GRANT CONNECT ON DATABASE other TO rw");
    db.sql_in("other", "CREATE TABLE t (i int); GRANT ALL ON t TO rw");
    let one = account(&["rw"]);
    db.accounts.make(&one).await.unwrap();
    db.certify(one.name.as_str());
    db.script(one.name.as_str(), "other", "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'x';");
    for _ in 0..3 {
        let ending = db.accounts.end(&one.name, one.grant).await.unwrap();
        assert_eq!(db.sql("SELECT count(*) FROM pg_prepared_xacts"), "1");
        assert!(!ending.gone, "{ending:#?}");
        assert!(ending.residue.iter().any(|r| r.contains("prepared transaction x in other")), "{ending:#?}");
    }
    db.sql("GRANT CONNECT ON DATABASE other TO jit_admin");
    gone(&db.accounts.end(&one.name, one.grant).await.unwrap());
    assert_eq!(db.sql("SELECT count(*) FROM pg_prepared_xacts"), "0");
}

/// As above, where another encoding gave it a name that the admin's database cannot read.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_without_a_readable_name_is_residue_until_it_is_gone() {
    let db = Db::cert();
    db.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    db.sql_in("latin", "CREATE TABLE t (i int); GRANT ALL ON t TO rw");
    let one = account(&["rw"]);
    db.accounts.make(&one).await.unwrap();
    db.certify(one.name.as_str());
    let text = "SET client_encoding = 'UTF8'; BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'é';";
    db.script(one.name.as_str(), "latin", text);
    for _ in 0..2 {
        let ending = db.accounts.end(&one.name, one.grant).await.unwrap();
        assert_eq!(db.sql("SELECT count(*) FROM pg_prepared_xacts"), "1");
        assert!(!ending.gone && format!("{:?}", ending.residue).contains("cannot be read"), "{ending:#?}");
    }
    db.sql_in("latin", "SET client_encoding = 'UTF8'; ROLLBACK PREPARED 'é'");
    gone(&db.accounts.end(&one.name, one.grant).await.unwrap());
}

/// What holds the role itself, so that it is not dropped: prepared under a role of the account it is rolled back, and a session is named.
#[tokio::test(flavor = "multi_thread")]
async fn what_holds_the_role_is_rolled_back_or_named() {
    let db = Db::cert();
    let one = account(&["rw"]);
    db.accounts.make(&one).await.unwrap();
    let name = one.name.as_str();
    db.certify(name);
    let text = "BEGIN; CREATE TABLE app.half (i int); SET LOCAL ROLE rw; PREPARE TRANSACTION 'held';";
    db.script(name, "postgres", text);
    gone(&ended_soon(&db, &one, Duration::from_secs(8)).await);
    assert_eq!(db.sql("SELECT count(*) FROM pg_prepared_xacts"), "0");
    let (one, other) = (account(&["rw"]), account(&["rw"]));
    for each in [&one, &other] {
        db.accounts.make(each).await.unwrap();
        db.certify(each.name.as_str());
    }
    let holds = format!("CREATE TABLE app.o (i int); BEGIN; GRANT SELECT ON app.o TO {};", one.name);
    let session = db.session(other.name.as_str(), &holds);
    db.until(
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'GRANT SELECT%' AND state = 'idle in transaction'",
    );
    let ending = db.accounts.end(&one.name, one.grant).await.unwrap();
    assert!(!ending.gone && format!("{:?}", ending.residue).contains(&format!("of {}", other.name)), "{ending:#?}");
    assert_eq!(session.ended().code, Some(0), "somebody else's session goes on");
}

/// T87: a prepared transaction in another database; open DDL of somebody else is residue with a name, and then gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_holds_the_removal_up_is_named_and_the_next_try_ends_it() {
    let db = Db::cert();
    db.sql("CREATE DATABASE other");
    db.sql("GRANT CREATE ON DATABASE other TO rw");
    let one = account(&["rw"]);
    db.accounts.make(&one).await.unwrap();
    let name = one.name.as_str();
    db.certify(name);
    db.script(
        name,
        "postgres",
        "CREATE TABLE app.mine (i int); GRANT ALL ON app.mine TO app; INSERT INTO app.mine VALUES (1);",
    );
    db.script(name, "other", "CREATE SCHEMA o; CREATE TABLE o.t (i int); BEGIN; INSERT INTO o.t VALUES (1); PREPARE TRANSACTION 'it''s \"one\\';");
    let mut blocker = std::process::Command::new("psql");
    blocker
        .args(["-X", "-q", "-U", "postgres", "-d", "postgres", "-p", &db.server.port.to_string(), "-h"])
        .arg(&db.server.dir);
    let mut blocker = blocker.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = blocker.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"BEGIN; ALTER TABLE app.mine ADD COLUMN j int;\n").unwrap();
    db.until(
        "SELECT count(*) > 0 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'app.mine'::regclass",
    );
    let first = db.accounts.end(&one.name, one.grant).await.unwrap();
    assert!(!first.gone);
    assert!(first.residue.iter().any(|r| r.contains("table app.mine") && r.contains("blocked")), "{first:#?}");
    assert!(db.by_cert(name, "SELECT 1").code == Some(2), "there is no login meanwhile");
    assert!(!db.sql("SELECT count(*) FROM pg_prepared_xacts").contains('1'), "{first:#?}");
    drop(input);
    blocker.wait().unwrap();
    let second = db.accounts.end(&one.name, one.grant).await.unwrap();
    gone(&second);
    assert_eq!(second.kept, ["other: schema o", "other: table o.t", "postgres: table app.mine"], "{second:#?}");
    let kept = db.accounts.end(&one.name, one.grant).await.unwrap();
    assert_eq!((kept.gone, kept.kept.len()), (true, 3));
    assert_eq!(db.sql("SELECT count(*) FROM pg_class WHERE relacl::text LIKE '%app=%' AND relname = 'mine'"), "0");
}

/// T93: the server forgets our sessions between any two steps; what was done stays done and the rest follows.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_broken_off_anywhere_is_begun_again() {
    let db = Arc::new(Db::start(HBA_CERT, "log_statement = 'all'"));
    let mut finished = false;
    // The n-th statement of ours is the last one: a session that sends more is cut.
    for n in 1..60 {
        let one = account(&["rw"]);
        db.accounts.make(&one).await.unwrap();
        let name = one.name.as_str();
        db.sql(&format!("SET ROLE {name}; CREATE TABLE app.t{n} (i int); CREATE FUNCTION app.f{n}() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; CREATE TABLE app.u{n} (i int DEFAULT app.f{n}())"));
        let broken = cut_after(&db, n, &one).await;
        finished = broken.as_ref().is_some_and(|ending| ending.gone);
        let ending = db.accounts.end(&one.name, one.grant).await.unwrap();
        gone(&ending);
        assert_eq!(ending.kept, [format!("postgres: table app.t{n}"), format!("postgres: table app.u{n}")], "n = {n}");
        assert_eq!(db.traces(&one.name), "0|0|0", "n = {n}");
        assert_eq!(db.sql(&format!("SELECT count(*) FROM pg_proc WHERE proname = 'f{n}'")), "0");
        let right = format!(
            "SELECT count(*) FROM pg_auth_members WHERE roleid = '{name}_kept'::regrole OR member = '{name}_kept'::regrole"
        );
        assert_eq!(db.sql(&right), "0", "n = {n}");
        if finished {
            break;
        }
    }
    assert!(finished, "the end never came through");
}

/// Runs an end whose broker dies with its n-th poll: the future is dropped, which closes its session in mid-statement.
async fn cut_after(db: &Db, n: usize, one: &jit_broker::accounts::Account) -> Option<Ending> {
    let mut end = Box::pin(db.accounts.end(&one.name, one.grant));
    let mut polls = 0;
    std::future::poll_fn(|cx| {
        polls += 1;
        if polls > n {
            return std::task::Poll::Ready(None);
        }
        end.as_mut().poll(cx).map(|result| Some(result.unwrap()))
    })
    .await
}
