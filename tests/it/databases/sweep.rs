//! Accounts that nobody explains: what is ours is locked and told, what is not ours is told and left alone.

use std::sync::Arc;
use std::time::Duration;

use jit_broker::accounts::postgres::{Postgres, Secret, Server};
use jit_broker::accounts::{Account, Found, MarkerKey, Proof};
use jit_broker::broker::sweep::Told;
use jit_broker::clock::random16;
use jit_broker::daemon::dev::database::{DATABASE, SECRET_FILE};
use jit_broker::domain::event::Event;
use jit_broker::domain::ids::{GrantId, InstallId};
use jit_broker::domain::names::AccountName;

use super::world::{Db, until};

/// The room of accounts without its broker.
fn room(db: &Db, install: InstallId, key: MarkerKey) -> Postgres {
    let password = std::fs::read_to_string(db.folder.path().join("broker").join(SECRET_FILE)).unwrap();
    Postgres::new(
        Server {
            host: "127.0.0.1".to_owned(),
            port: db.server.port,
            tls_name: "localhost".to_owned(),
            ca_pem: db.server.ca_pem.clone(),
            database: DATABASE.to_owned(),
            admin: "jit_admin".to_owned(),
            secret: Arc::new(move || Ok(Secret::Password(password.clone().into()))),
        },
        install,
        key,
    )
}

fn own_key(db: &Db) -> MarkerKey {
    let text = std::fs::read_to_string(db.settings.state_dir.join("marker")).unwrap();
    let bytes = data_encoding::HEXLOWER.decode(text.trim().as_bytes()).unwrap();
    MarkerKey::new(bytes.try_into().unwrap())
}

fn account() -> Account {
    Account {
        name: AccountName::of_random(&random16()),
        grant: GrantId::new(random16()),
        member_of: vec!["app_writer".to_owned()],
        read_only: false,
        statement_timeout_ms: None,
        connection_limit: None,
        valid_until: 4_000_000_000,
        proof: Proof::Cert,
    }
}

fn found(db: &Db) -> Vec<(String, String)> {
    let told = |event| match event {
        Event::AccountFound { account, what, .. } => Some((account, what)),
        _ => None,
    };
    db.events().into_iter().filter_map(told).collect()
}

fn can_login(db: &Db, name: &AccountName) -> bool {
    db.sql(&format!("SELECT rolcanlogin FROM pg_roles WHERE rolname = '{name}'")) == "t"
}

#[test]
fn strangers_are_told_and_only_ours_are_touched() {
    let db = Db::cert();
    let (_, open, file) = db.open("rw", 600);
    let (ours, theirs, forged) = (account(), account(), AccountName::of_random(&random16()));
    let other = room(&db, InstallId::new(random16()), MarkerKey::new([3; 32]));
    db.run(room(&db, db.install, own_key(&db)).make(&ours)).unwrap();
    db.run(other.make(&theirs)).unwrap();
    let (install, code) = (db.install, "0".repeat(64));
    db.sql(&format!(
        "CREATE ROLE {forged} LOGIN; COMMENT ON ROLE {forged} IS 'jit-broker v1 {install} {} W10 {code}'",
        ours.grant
    ));
    let mut told = Told::default();
    assert!(db.run(db.broker().sweep(&mut told)));
    let all = found(&db);
    let of = |name: &AccountName| all.iter().find(|(n, _)| n == name.as_str()).map(|(_, what)| what.as_str());
    assert!(of(&ours.name).unwrap().contains("it is locked"), "{all:?}");
    assert!(of(&theirs.name).unwrap().contains("not touched"), "{all:?}");
    assert!(of(&forged).unwrap().contains("forged"), "{all:?}");
    assert_eq!(all.len(), 3, "the account of an open grant is no stranger: {all:?}");
    assert!(!can_login(&db, &ours.name) && can_login(&db, &theirs.name) && can_login(&db, &forged));
    db.by_cert(&open, &file, "SELECT 1").ok();
    db.run(db.broker().sweep(&mut told));
    assert_eq!(found(&db).len(), 3, "told once");
    // The other installation sees ours as a stranger, and cannot end it.
    let seen = db.run(other.sweep()).unwrap();
    assert!(
        seen.contains(&Found::Stranger {
            role: open.to_string(),
            why: "its marker is another installation's, or forged"
        })
    );
    assert!(db.run(other.end(&open, ours.grant)).is_err());
    db.by_cert(&open, &file, "SELECT 1").ok();
}

#[test]
fn an_account_that_ends_while_it_is_looked_for_is_no_stranger() {
    let db = Db::cert();
    let broker = db.broker().clone();
    let sweeping = db.runtime().spawn(async move {
        loop {
            broker.sweep(&mut Told::default()).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    for _ in 0..6 {
        let held = [db.open("rw", 600).0, db.open("ro", 600).0];
        held.iter().for_each(|grant| db.revoke(*grant));
        for grant in held {
            db.ended(grant, Duration::from_secs(5));
        }
    }
    sweeping.abort();
    assert_eq!(found(&db), []);
}

#[test]
fn a_start_looks_by_itself() {
    let mut db = Db::cert();
    let ours = account();
    db.run(room(&db, db.install, own_key(&db)).make(&ours)).unwrap();
    db.kill();
    db.boot();
    until(Duration::from_secs(5), "told", || !found(&db).is_empty());
    assert!(!can_login(&db, &ours.name));
}
