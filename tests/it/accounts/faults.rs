//! Servers that are down, hang, restart, are full, are read-only or are not what they say; and what their logs hold.

use std::time::{Duration, Instant};

use jit_broker::accounts::postgres::{MAX_SESSIONS, Postgres};
use jit_broker::accounts::{AccountError, Proof, scram};
use jit_broker::clock::random16;
use jit_broker::daemon::postgres::{HBA_CERT, HBA_PASSWORD};

use super::db::{Db, INSTALL, account, gone, key, target};

/// The statements of all of it are in the server's log, the refused ones as well: no password is.
#[tokio::test(flavor = "multi_thread")]
async fn the_servers_log_holds_no_secret() {
    let conf =
        "log_statement = 'all'\nlog_min_error_statement = 'debug5'\nlog_min_messages = 'info'\nlog_connections = on";
    let db = Db::start(HBA_PASSWORD, conf);
    let canary = "canary-of-the-client-7f3a";
    let mut one = account(&["ro"]);
    one.proof = Proof::Password(scram::verifier(canary, &random16()).unwrap());
    db.accounts.make(&one).await.unwrap();
    db.accounts.make(&one).await.unwrap();
    db.by_password(one.name.as_str(), canary, "SELECT 1").ok();
    let mut refused = account(&["no such role"]);
    refused.proof = one.proof.clone();
    let error = db.accounts.make(&refused).await.unwrap_err();
    assert!(!format!("{error:?} {error} {one:?}").contains("SCRAM"));
    gone(&db.accounts.end(&one.name, one.grant).await.unwrap());
    let log = db.server.log();
    assert!(log.contains(&format!("CREATE ROLE {}", refused.name)) && log.contains("no such role"), "the log was on");
    assert!(!log.contains(canary) && !log.contains(&db.password), "a clear password is in the log");
    let debug = format!("{:?} {:?}", target(&db.server, &db.password), db.accounts);
    assert!(!debug.contains(&db.password), "{debug}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_the_one_is_refused() {
    let mut db = Db::cert();
    let accounts = |change: &dyn Fn(&mut jit_broker::accounts::postgres::Server)| {
        let mut server = target(&db.server, &db.password);
        change(&mut server);
        Postgres::new(server, INSTALL, key())
    };
    let other_ca = std::fs::read_to_string(db.folder.path().join("ca.crt")).unwrap();
    let wrong = [
        accounts(&|s| s.tls_name = "db-prod.corp".to_owned()),
        accounts(&|s| s.ca_pem.clone_from(&other_ca)),
        accounts(&|s| s.ca_pem = "no certificate".to_owned()),
        accounts(&|s| s.tls_name = "not a name;".to_owned()),
    ];
    for accounts in wrong {
        let error = accounts.sweep().await.unwrap_err();
        assert!(matches!(error, AccountError::Tls(_)), "{error:?}");
    }
    // A server that says N to the request for TLS hears no password.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 8];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(b"N").await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        rest
    });
    let error = accounts(&|s| s.port = port).sweep().await.unwrap_err();
    assert!(matches!(error, AccountError::Tls(_)), "{error:?}");
    assert!(heard.await.unwrap().is_empty(), "something was sent in the clear");
    db.server.stop();
    db.sql_conf("ssl = off");
    db.server.run().unwrap();
    let error = db.accounts.sweep().await.unwrap_err();
    assert!(matches!(error, AccountError::Tls(_)), "{error:?}");
}

/// F10: down at the end and back again; sessions that waited for work died unseen.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_down_is_worked_with_when_it_is_back() {
    let mut db = Db::cert();
    let one = account(&["ro"]);
    db.accounts.make(&one).await.unwrap();
    db.server.stop();
    let begun = Instant::now();
    let error = db.accounts.end(&one.name, one.grant).await.unwrap_err();
    assert!(matches!(error, AccountError::Unreachable(_)) && error.passing(), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    db.server.run().unwrap();
    gone(&db.accounts.end(&one.name, one.grant).await.unwrap());
    // A standby reads and takes no accounts.
    db.server.stop();
    db.touch("data/standby.signal");
    db.server.run().unwrap();
    assert_eq!(db.accounts.make(&one).await.unwrap_err(), AccountError::ReadOnly);
}

/// F12: a server that takes connections and never answers; one that has no place left.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_or_is_full_is_given_up_in_time() {
    let db = Db::start(HBA_CERT, "max_connections = 8\nsuperuser_reserved_connections = 3\nmax_wal_senders = 0");
    let one = account(&["ro"]);
    db.accounts.make(&one).await.unwrap();
    db.certify(one.name.as_str());
    db.stop_all(true);
    let fresh = Postgres::new(target(&db.server, &db.password), INSTALL, key());
    let begun = Instant::now();
    let (open, new) = tokio::join!(db.accounts.end(&one.name, one.grant), fresh.sweep());
    let took = begun.elapsed();
    db.stop_all(false);
    assert!(matches!(open.as_ref().unwrap_err(), AccountError::Timeout { limit_s: 10, .. }), "{open:?}");
    assert!(matches!(new.as_ref().unwrap_err(), AccountError::Timeout { limit_s: 5, .. }), "{new:?}");
    assert!(took < Duration::from_secs(12), "{took:?}");
    let sessions: Vec<_> = (0..5)
        .map(|_| {
            let mut command = db.psql(one.name.as_str(), None);
            command.args(["-c", "SELECT pg_sleep(600)"]).spawn().unwrap()
        })
        .collect();
    db.until(&format!("SELECT count(*) >= 3 FROM pg_stat_activity WHERE usename = '{}'", one.name));
    let full = Postgres::new(target(&db.server, &db.password), INSTALL, key());
    let mut seen = Vec::new();
    for _ in 0..8 {
        let alone = Postgres::new(target(&db.server, &db.password), INSTALL, key());
        seen.push((alone.sweep().await, alone));
    }
    assert!(
        seen.iter().any(|(answer, _)| matches!(answer, Err(AccountError::Busy(_)))),
        "{:?}",
        seen.iter().map(|s| &s.0).collect::<Vec<_>>()
    );
    drop(seen);
    db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND pid <> pg_backend_pid()");
    db.until("SELECT count(*) < 4 FROM pg_stat_activity WHERE backend_type = 'client backend'");
    gone(&full.end(&one.name, one.grant).await.unwrap());
    for mut session in sessions {
        session.wait().unwrap();
    }
}

/// Many at once over few sessions, with the server restarted in the middle: no account is left that nobody knows of.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_leaves_no_orphan() {
    let mut db = Db::cert();
    let accounts: Vec<_> = (0..60).map(|_| account(&["ro"])).collect();
    let work: Vec<_> = accounts
        .iter()
        .cloned()
        .map(|one| {
            let room = db.accounts.clone();
            tokio::spawn(async move {
                let made = room.make(&one).await;
                let ended = room.end(&one.name, one.grant).await;
                (made, ended)
            })
        })
        .collect();
    db.until("SELECT count(*) > 0 FROM pg_roles WHERE rolname LIKE '%\\_jit'");
    let most: usize = db.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'jit_admin'").parse().unwrap();
    assert!(most <= MAX_SESSIONS, "{most}");
    db.server.stop();
    db.server.run().unwrap();
    let mut failed = 0;
    for task in work {
        let (made, ended) = task.await.unwrap();
        failed += usize::from(made.is_err() || ended.is_err());
        for error in [made.err(), ended.err()].into_iter().flatten() {
            assert!(error.passing(), "{error:?}");
        }
    }
    assert!(failed > 0, "the restart was not in the middle");
    for one in &accounts {
        gone(&db.accounts.end(&one.name, one.grant).await.unwrap());
    }
    assert_eq!(db.accounts.sweep().await.unwrap(), []);
    assert_eq!(db.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE '%jit%'"), "2");
}

/// F4, T93: the broker dies while the server makes the account; an end right after it must not say "gone" too early.
#[tokio::test(flavor = "multi_thread")]
async fn a_making_that_is_still_under_way_does_not_slip_past_the_end() {
    let db = Db::cert();
    db.accounts.sweep().await.unwrap();
    let one = account(&["ro"]);
    let mut blocker = std::process::Command::new("psql");
    blocker.args(["-X", "-q", "-U", "postgres", "-d", "postgres", "-p", &db.server.port.to_string(), "-h"]);
    let mut blocker = blocker.arg(&db.server.dir).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = blocker.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"BEGIN; LOCK pg_auth_members IN SHARE MODE;\n").unwrap();
    db.until("SELECT count(*) > 0 FROM pg_locks WHERE relation = 'pg_auth_members'::regclass AND mode = 'ShareLock'");
    let making = tokio::spawn({
        let (accounts, one) = (db.accounts.clone(), one.clone());
        async move { accounts.make(&one).await }
    });
    db.until("SELECT count(*) > 0 FROM pg_locks WHERE relation = 'pg_auth_members'::regclass AND NOT granted");
    making.abort();
    assert!(making.await.unwrap_err().is_cancelled());
    let ending = tokio::spawn({
        let (accounts, one) = (db.accounts.clone(), one.clone());
        async move { accounts.end(&one.name, one.grant).await }
    });
    db.until("SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
    drop(input);
    blocker.wait().unwrap();
    let ending = ending.await.unwrap().unwrap();
    gone(&ending);
    assert!(ending.steps.iter().any(|step| step.what == "drop" && step.ok == Some(true)), "{ending:#?}");
    db.until("SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE '%CREATE ROLE%' AND state = 'active' AND pid <> pg_backend_pid()");
    assert_eq!(db.accounts.sweep().await.unwrap(), []);
}
