//! Accounts by password: only a verifier travels, and no secret reaches any log.

use std::time::Duration;

use jit_broker::accounts::scram::{Verifier, verifier};
use jit_broker::clock::random16;
use jit_broker::daemon::dev::database::SECRET_FILE;
use jit_broker::domain::database::Auth;
use jit_broker::domain::refusal::Code;

use super::world::{Db, key_of};

fn made() -> (String, Verifier) {
    let password = format!("canary{}", data_encoding::HEXLOWER.encode(&random16()));
    let verifier = verifier(&password, &random16()).unwrap();
    (password, verifier)
}

#[test]
fn a_password_opens_the_account_and_stands_in_no_log() {
    let db = Db::start(Auth::Password, "log_statement = 'all'\nlog_min_messages = debug1\nlog_connections = on");
    let grant = db.grant("rw", 600);
    let ((old, first), (password, second)) = (made(), made());
    // The server refuses once, and logs the statement that failed.
    db.sql("ALTER ROLE app_writer RENAME TO elsewhere");
    assert_eq!(db.issue_password(grant, first.clone()).unwrap_err().code, Code::TARGET_REFUSED);
    db.sql("ALTER ROLE elsewhere RENAME TO app_writer");
    db.issue_password(grant, first.clone()).unwrap();
    let account = db.account(grant);
    let by = |password: &str, text: &str| -> crate::world::Done {
        db.psql(account.as_str(), None, Some(password)).args(["-c", text]).output().unwrap().into()
    };
    assert_eq!(by(&old, "SELECT current_user").ok().trim(), account.as_str());
    let ends_at = db.run(db.broker().memory()).state.grants.get(&grant).unwrap().ends_at;
    let until =
        db.sql(&format!("SELECT extract(epoch FROM rolvaliduntil)::bigint FROM pg_roles WHERE rolname = '{account}'"));
    assert_eq!(until, ends_at.to_string());
    // The same again, and another one: the one before opens nothing.
    db.issue_password(grant, first).unwrap();
    db.issue_password(grant, second.clone()).unwrap();
    assert_eq!(db.account(grant), account);
    by(&password, "INSERT INTO notes (text) VALUES ('yes')").ok();
    assert_ne!(by(&old, "SELECT 1").code, Some(0));
    // Neither without a verifier, nor with what the server would take for a clear password.
    let none = db.run(db.broker().issue(&db.alice.name(), grant, &key_of(&db.key), None)).unwrap_err();
    assert_eq!(none.code, Code::BAD_BODY);
    for text in ["hunter2", "md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "SCRAM-SHA-256$4096:x$y:z", "' ; DROP ROLE x"] {
        assert!(Verifier::new(text).is_err(), "{text}");
    }
    db.revoke(grant);
    db.ended(grant, Duration::from_secs(5));
    assert_ne!(by(&password, "SELECT 1").code, Some(0));

    let log = db.server.log();
    assert!(log.contains("CREATE ROLE") && log.contains("elsewhere"), "the log holds statements");
    let admin = std::fs::read_to_string(db.folder.path().join("broker").join(SECRET_FILE)).unwrap();
    let events = serde_json::to_string(&db.events()).unwrap();
    for secret in [&old, &password, &admin] {
        assert!(!log.contains(secret.as_str()), "a secret is in the server's log");
        assert!(!events.contains(secret.as_str()), "a secret is in the broker's log");
    }
    assert!(!events.contains(second.as_str()), "the broker's log holds a digest of the verifier");
}
