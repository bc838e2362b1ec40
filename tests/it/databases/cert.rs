//! Accounts by certificate: what is issued, what it opens, and in which order.

use std::process::Command;

use jit_broker::domain::act::Deed;
use jit_broker::domain::refusal::Code;
use jit_ca::x509::X509Key;

use super::world::{Db, key_of};

#[test]
fn a_certificate_opens_the_account_until_the_end_and_no_longer() {
    let db = Db::cert();
    let (grant, account, file) = db.open("ro", 600);
    let who = db.by_cert(&account, &file, "SELECT current_user, current_setting('default_transaction_read_only'), current_setting('statement_timeout'), pg_has_role('pg_read_all_data', 'MEMBER'), count(*) FROM notes").ok();
    assert_eq!(who.trim(), format!("{account}|on|1min|t|2"));
    let write = db.by_cert(&account, &file, "BEGIN READ WRITE; INSERT INTO notes (text) VALUES ('no')");
    assert!(write.err.contains("permission denied"), "{write:?}");

    let mut said = Command::new("openssl");
    said.args(["x509", "-noout", "-enddate", "-subject", "-in"]).arg(&file);
    let said = String::from_utf8(said.output().unwrap().stdout).unwrap();
    let ends_at = db.run(db.broker().memory()).state.grants.get(&grant).unwrap().ends_at;
    let date = Command::new("date")
        .args(["-u", "-d", &format!("@{}", ends_at - 1), "+%b %e %H:%M:%S %Y GMT"])
        .output()
        .unwrap();
    assert!(said.contains(&format!("notAfter={}", String::from_utf8(date.stdout).unwrap().trim())), "{said}");
    assert!(said.contains(&format!("CN = {account}")) || said.contains(&format!("CN={account}")), "{said}");

    // The same again is the same; another key has its own certificate for the same account.
    let facts = || db.facts(&db.issue(grant).unwrap());
    assert_eq!(facts(), facts());
    let other = X509Key::generate().unwrap();
    assert_eq!(db.issue_for(grant, &other).unwrap_err().code, Code::OTHER_KEY);
    db.act(&db.alice, None, Deed::BindKey { by: db.alice.name(), grant, key: key_of(&other) }).unwrap();
    let pem = db.issue_for(grant, &other).unwrap();
    assert_ne!(db.facts(&pem), facts());
    let second = db.keep(&pem, &other);
    assert_eq!(db.by_cert(&account, &second, "SELECT current_user").ok().trim(), account.as_str());
    assert_eq!(db.all_accounts(), account.as_str(), "one account for both");
    // Without the key's certificate nobody comes in, and no certificate opens another account.
    assert_ne!(db.psql(account.as_str(), None, None).args(["-c", "SELECT 1"]).output().unwrap().status.code(), Some(0));
    let (_, another, _) = db.open("rw", 600);
    assert_ne!(db.by_cert(&another, &file, "SELECT 1").code, Some(0));

    db.revoke(grant);
    assert_eq!(db.issue(grant).unwrap_err().code, Code::WINDOW_CLOSED);
    db.ended(grant, std::time::Duration::from_secs(5));
    assert_ne!(db.by_cert(&account, &file, "SELECT 1").code, Some(0));
    let kinds = db.kinds(grant);
    assert_eq!(kinds.iter().filter(|k| *k == "credential.issued").count(), 2, "one for each key: {kinds:?}");
    let order = ["grant.opened", "account.planned", "credential.issued", "account.made", "grant.ending", "grant.ended"];
    let places: Vec<_> = order.map(|kind| kinds.iter().position(|k| k == kind)).into();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{kinds:?}");
}

#[test]
fn the_account_is_in_the_log_before_its_server_hears_of_it() {
    let mut db = Db::cert();
    let grant = db.grant("rw", 600);
    db.server.stop();
    let away = db.issue(grant).unwrap_err();
    assert_eq!(away.code, Code::TARGET_AWAY, "{away:?}");
    let planned = db.account(grant);
    db.server.run().unwrap();
    assert_eq!(db.all_accounts(), "", "nothing is half made");
    // The server refuses: a role that is handed out is missing.
    db.sql("ALTER ROLE app_writer RENAME TO elsewhere");
    let refused = db.issue(grant).unwrap_err();
    assert_eq!(refused.code, Code::TARGET_REFUSED, "{refused:?}");
    assert_eq!(db.all_accounts(), "");
    assert!(!db.kinds(grant).contains(&"account.made".to_owned()));
    db.sql("ALTER ROLE elsewhere RENAME TO app_writer");
    let file = db.keep(&db.issue(grant).unwrap(), &db.key);
    assert_eq!(db.account(grant), planned, "the account that was planned, and no second one");
    db.by_cert(&planned, &file, "INSERT INTO notes (text) VALUES ('yes')").ok();
    assert_eq!(db.all_accounts(), planned.as_str());
    let kinds = db.kinds(grant);
    assert_eq!(kinds.iter().filter(|k| *k == "account.planned").count(), 1, "{kinds:?}");
}
