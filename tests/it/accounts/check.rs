//! `target test`: each missing link is named, with what mends it; and what it says is what mends it.

use jit_broker::accounts::postgres::Postgres;
use jit_broker::accounts::{Link, Probe, ProbeLogin, Proof, scram};
use jit_broker::clock::random16;

use super::db::{Db, INSTALL, account, key, target};

fn probe(db: &Db, roles: &[&str]) -> Probe {
    let account = account(roles);
    let (cert, key) = db.certify(account.name.as_str());
    let read = |path| std::fs::read_to_string(path).unwrap();
    let login = ProbeLogin::Cert { cert_pem: read(cert), key_pem: read(key).into() };
    let roles: Vec<String> = roles.iter().map(|r| (*r).to_owned()).collect();
    Probe { account, login, sets: roles.iter().map(|r| vec![r.clone()]).collect(), roles }
}

#[track_caller]
fn broken<'a>(links: &'a [Link], what: &str) -> &'a Link {
    let wrong: Vec<_> = links.iter().filter(|link| link.ok == Some(false)).collect();
    assert_eq!(wrong.len(), 1, "{links:#?}");
    assert_eq!(wrong[0].what, what, "{links:#?}");
    wrong[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_link_holds_with_the_shipped_files_and_each_missing_one_is_named() {
    let db = Db::cert();
    let links = db.accounts.check(&probe(&db, &["ro", "rw"])).await;
    let all: Vec<_> = links.iter().map(|link| (link.what.as_str(), link.ok)).collect();
    let names = [
        "reach",
        "tls",
        "admin login",
        "admin rights",
        "cut rights",
        "group",
        "role ro",
        "role rw",
        "connect",
        "make",
        "login",
        "cut",
        "drop",
    ];
    assert_eq!(all, names.map(|name| (name, Some(true))), "{links:#?}");

    // Each is broken, named, and mended by what was said.
    for (breaks, what) in [
        ("ALTER ROLE jit_admin NOCREATEROLE", "admin rights"),
        ("REVOKE pg_signal_backend FROM jit_admin", "cut rights"),
        ("DROP ROLE jit_accounts", "group"),
        ("ALTER TABLE app.orders OWNER TO app_owner; DROP OWNED BY ro; DROP ROLE ro", "role ro"),
        ("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; GRANT CONNECT ON DATABASE postgres TO jit_admin", "connect"),
    ] {
        db.sql(breaks);
        let links = db.accounts.check(&probe(&db, &["ro"])).await;
        let todo = broken(&links, what).todo.clone();
        db.sql(&todo);
        let links = db.accounts.check(&probe(&db, &["ro"])).await;
        assert!(links.iter().all(|link| link.ok == Some(true)), "{todo}: {links:#?}");
    }
    db.sql("ALTER ROLE ro CREATEROLE");
    broken(&db.accounts.check(&probe(&db, &["ro"])).await, "role ro");
    db.sql("ALTER ROLE ro NOCREATEROLE; ALTER ROLE jit_admin SUPERUSER");
    let links = db.accounts.check(&probe(&db, &["ro"])).await;
    let warned: Vec<_> = links.iter().filter(|link| link.ok.is_none()).collect();
    assert!(warned.len() == 1 && warned[0].todo == "ALTER ROLE \"jit_admin\" NOSUPERUSER;", "{links:#?}");
    db.sql(&warned[0].todo);

    let other = |change: &dyn Fn(&mut jit_broker::accounts::postgres::Server)| {
        let mut server = target(&db.server, &db.password);
        change(&mut server);
        Postgres::new(server, INSTALL, key())
    };
    let one = probe(&db, &["ro"]);
    broken(&other(&|s| s.port = 1).check(&one).await, "reach");
    broken(&other(&|s| s.tls_name = "x.example".to_owned()).check(&one).await, "tls");
    broken(&other(&|s| s.database = "none".to_owned()).check(&one).await, "admin login");
    broken(&Postgres::new(target(&db.server, "wrong"), INSTALL, key()).check(&one).await, "admin login");
    assert_eq!(db.accounts.sweep().await.unwrap(), [], "no trial account is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_line_of_pg_hba_is_printed() {
    let db = Db::start(&jit_broker::daemon::postgres::HBA_CERT.replace("hostssl  all       +jit_accounts", "#"), "");
    let links = db.accounts.check(&probe(&db, &["ro"])).await;
    assert!(broken(&links, "login").todo.ends_with("hostssl  all  +jit_accounts  all  cert  map=jit"), "{links:#?}");
    assert!(links.last().is_some_and(|link| link.what == "drop" && link.ok == Some(true)));
    let db = Db::start("host all all all reject", "");
    assert!(
        broken(&db.accounts.check(&probe(&db, &[])).await, "admin login")
            .todo
            .contains("hostssl  all  jit_admin  all  scram-sha-256")
    );
    let db = Db::password();
    let mut account = account(&["ro"]);
    account.proof = Proof::Password(scram::verifier("p", &random16()).unwrap());
    let login = ProbeLogin::Password("p".to_owned().into());
    let links = db.accounts.check(&Probe { account, login, roles: vec!["ro".to_owned()], sets: Vec::new() }).await;
    assert!(links.iter().all(|link| link.ok == Some(true)), "{links:#?}");
}
