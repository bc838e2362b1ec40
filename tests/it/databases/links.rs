//! `target test`: all links hold on what is shipped, and what is missing is named with what to do.

use std::time::Duration;

use jit_broker::domain::database::Auth;
use jit_broker::domain::refusal::Code;
use jit_broker::signer::keys::Keys;
use jit_broker::wire::LinkDoc;
use jit_ca::x509::{CaSpec, X509Key, make_ca};

use super::world::{Db, until};

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
        for what in [
            "reach",
            "tls",
            "admin login",
            "role app_writer",
            "role pg_read_all_data",
            "connect",
            "make",
            "login",
            "drop",
        ] {
            assert!(all.iter().any(|l| l.what == what), "no {what}: {all:#?}");
        }
        assert_eq!(all.iter().any(|l| l.what == "client ca"), auth == Auth::Cert, "{all:#?}");
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

/// Reloads, and waits until the server says so and new sessions see it.
fn reload(db: &Db, setting: &str, value: &str) {
    db.sql("SELECT pg_reload_conf()");
    let seen = || db.sql(&format!("SELECT setting FROM pg_settings WHERE name = '{setting}'")) == value;
    until(Duration::from_secs(10), "the setting is in force", seen);
    std::thread::sleep(Duration::from_millis(200));
}

#[test]
fn a_server_that_does_not_trust_the_brokers_clients_is_told_which_file() {
    let db = Db::cert();
    let data = db.server.dir.join("data");
    let ours = std::fs::read_to_string(data.join("clients.crt")).unwrap();
    let put = |name: &str, text: &str| std::fs::write(data.join(name), text).unwrap();
    // The CA of another installation of this very program, in a file with a name that a shell would split.
    let folder = db.folder.path().join("other");
    std::fs::create_dir(&folder).unwrap();
    let other = Keys::make(&folder, jit_broker::clock::wall_s()).unwrap();
    let theirs = other.x509_client.as_ref().unwrap().1.pem().to_owned();
    put("it's ours.crt", &theirs);
    std::fs::set_permissions(data.join("it's ours.crt"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    db.sql("ALTER SYSTEM SET ssl_ca_file = 'it''s ours.crt'");
    reload(&db, "ssl_ca_file", "it's ours.crt");
    let (what, todo) = broken(&db);
    assert_eq!(what, "client ca", "{todo}");
    let command = todo.strip_suffix("  # ssl_ca_file, on the server; then SELECT pg_reload_conf();").unwrap();
    let append = command.strip_prefix("jit-broker ca export --kind x509-client >> ").unwrap();
    // What is printed mends it, as it is pasted.
    let mut shell = std::process::Command::new("sh");
    let mut child = shell
        .args(["-c", &format!("cat >> {append}")])
        .current_dir(&data)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), ours.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    reload(&db, "ssl_ca_file", "it's ours.crt");
    let all = links(&db);
    assert!(all.iter().all(|l| l.ok == Some(true)), "{all:#?}");
    // No authority at all: nobody is asked for a certificate.
    db.sql("ALTER SYSTEM SET ssl_ca_file = ''");
    reload(&db, "ssl_ca_file", "");
    let (what, todo) = broken(&db);
    assert!(
        what == "client ca" && todo.starts_with("ssl_ca_file = 'clients.crt' in postgresql.conf"),
        "{what}: {todo}"
    );
}

#[test]
fn what_is_printed_is_pasted() {
    let db = Db::cert();
    let mend = |wanted: &str| {
        let (what, todo) = broken(&db);
        assert_eq!(what, wanted, "{todo}");
        db.sql(&todo);
        let still = links(&db).into_iter().find(|l| l.ok == Some(false)).map(|l| l.what);
        assert_ne!(still.as_deref(), Some(wanted), "{todo} mends it");
        todo
    };
    // Nobody but those who are named may connect.
    db.sql("REVOKE CONNECT ON DATABASE app FROM PUBLIC");
    db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'jit_admin'");
    assert_eq!(mend("admin login"), "GRANT CONNECT ON DATABASE \"app\" TO \"jit_admin\";");
    // One at a time, for each role of the target.
    let (what, first) = broken(&db);
    assert_eq!(what, "connect");
    db.sql(&first);
    let second = mend("connect");
    let mut todos = [first, second];
    todos.sort();
    assert_eq!(
        todos,
        ["app_writer", "pg_read_all_data"].map(|r| format!("GRANT CONNECT ON DATABASE \"app\" TO \"{r}\";"))
    );
    assert!(links(&db).iter().all(|l| l.ok == Some(true)));
    // Somebody's line above ours lets everybody in.
    let path = db.server.dir.join("data/pg_hba.conf");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("local all postgres trust\nhostssl all +jit_accounts all trust\n{before}")).unwrap();
    hba(&db, "nothing at all");
    let (what, todo) = broken(&db);
    assert!(what == "login" && todo.ends_with("hostssl  all  +jit_accounts  all  cert  map=jit"), "{what}: {todo}");
}

/// Whenever the client hangs up: the trial account goes.
#[test]
fn a_test_that_nobody_waits_for_leaves_no_trial_account() {
    let db = Db::start(Auth::Password, "");
    let mut finished = false;
    for n in 1..80 {
        let broker = db.broker().clone();
        let (by, name) = (db.bob.name(), "db-prod".parse().unwrap());
        finished = db.run(async move {
            let mut test = Box::pin(broker.test_target(&by, &name));
            let mut polls = 0;
            std::future::poll_fn(|cx| {
                polls += 1;
                if polls > n { std::task::Poll::Ready(false) } else { test.as_mut().poll(cx).map(|_| true) }
            })
            .await
        });
        if finished {
            break;
        }
    }
    assert!(finished, "the test never came through");
    until(Duration::from_secs(10), "no trial account is left", || db.all_accounts().is_empty());
}

#[test]
fn a_server_that_is_away_is_told() {
    let mut db = Db::cert();
    db.server.stop();
    let all = links(&db);
    assert_eq!((all[0].what.as_str(), all[0].ok, all.len()), ("reach", Some(false), 1), "{all:#?}");
}
