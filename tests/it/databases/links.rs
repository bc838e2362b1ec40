//! `target test`: all links hold on what is shipped, and what is missing is named with what to do.

use jit_broker::domain::database::Auth;
use jit_broker::domain::refusal::Code;
use jit_broker::wire::LinkDoc;
use jit_ca::x509::{CaSpec, X509Key, make_ca};

use super::world::Db;

fn links(db: &Db) -> Vec<LinkDoc> {
    db.run(db.broker().test_target(&db.bob.name(), &"db-prod".parse().unwrap())).unwrap()
}

/// The first link that does not hold.
#[track_caller]
fn broken(db: &Db) -> (String, String) {
    let all = links(db);
    let link = all.iter().find(|l| l.ok == Some(false)).unwrap_or_else(|| panic!("all hold: {all:#?}"));
    assert_eq!(db.all_accounts(), "", "no trial account stays");
    (link.what.clone(), link.todo.clone())
}

fn hba(db: &Db, without: &str) -> String {
    let path = db.server.dir.join("data/pg_hba.conf");
    let before = std::fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = before.lines().filter(|l| !(l.starts_with("hostssl") && l.contains(without))).collect();
    std::fs::write(&path, kept.join("\n") + "\n").unwrap();
    db.sql("SELECT pg_reload_conf()");
    std::thread::sleep(std::time::Duration::from_millis(300));
    before
}

#[test]
fn what_is_shipped_holds_for_both_proofs() {
    for auth in [Auth::Cert, Auth::Password] {
        let db = Db::start(auth, "");
        let all = links(&db);
        assert!(all.iter().all(|l| l.ok == Some(true)), "{all:#?}");
        for what in ["reach", "tls", "admin login", "role app_writer", "role pg_read_all_data", "make", "login", "drop"]
        {
            assert!(all.iter().any(|l| l.what == what), "no {what}: {all:#?}");
        }
        assert_eq!(all.iter().any(|l| l.what == "cut"), auth == Auth::Password, "{all:#?}");
        assert_eq!(db.all_accounts(), "");
        let refused = db.run(db.broker().test_target(&db.alice.name(), &"db-prod".parse().unwrap())).unwrap_err();
        assert_eq!(refused.code, Code::NOT_OFFICE);
    }
}

#[test]
fn what_is_missing_is_named() {
    let db = Db::cert();
    let path = db.server.dir.join("data/pg_hba.conf");
    let before = hba(&db, "+jit_accounts");
    let (what, todo) = broken(&db);
    assert!(what == "login" && todo.contains("+jit_accounts  all  cert  map=jit"), "{what}: {todo}");
    std::fs::write(&path, &before).unwrap();
    hba(&db, "jit_admin");
    let (what, todo) = broken(&db);
    assert!(what == "admin login" && todo.contains("hostssl  all  jit_admin"), "{what}: {todo}");
    std::fs::write(&path, &before).unwrap();
    hba(&db, "nothing at all");
    assert!(links(&db).iter().all(|l| l.ok == Some(true)));

    db.sql("ALTER ROLE app_writer RENAME TO elsewhere");
    let (what, todo) = broken(&db);
    assert!(what == "role app_writer" && todo.starts_with("CREATE ROLE"), "{what}: {todo}");
    db.sql("ALTER ROLE elsewhere RENAME TO app_writer; ALTER ROLE app_writer CREATEROLE");
    let (what, todo) = broken(&db);
    assert!(what == "role app_writer" && todo.contains("another role"), "{what}: {todo}");
    db.sql("ALTER ROLE app_writer NOCREATEROLE; REVOKE pg_signal_backend FROM jit_admin");
    let (what, todo) = broken(&db);
    assert!(what == "cut rights" && todo.starts_with("GRANT pg_signal_backend TO"), "{what}: {todo}");
    db.sql("GRANT pg_signal_backend TO jit_admin; ALTER ROLE jit_admin PASSWORD 'another'");
    let (what, todo) = broken(&db);
    assert!(what == "admin login" && todo.contains("\\password"), "{what}: {todo}");

    let key = X509Key::generate().unwrap();
    let spec = CaSpec { name: "another".to_owned(), serial: [1; 16], not_before: 1, not_after: 4_000_000_000 };
    db.adopt(db.server.port, make_ca(&key, &spec).unwrap().pem());
    let (what, todo) = broken(&db);
    assert!(what == "tls" && todo.contains("from the CA in targets.toml"), "{what}: {todo}");
}

#[test]
fn a_server_that_is_away_is_told() {
    let mut db = Db::cert();
    db.server.stop();
    let all = links(&db);
    assert_eq!((all[0].what.as_str(), all[0].ok, all.len()), ("reach", Some(false), 1), "{all:#?}");
}
