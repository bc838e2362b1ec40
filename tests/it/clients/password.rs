//! Accounts by password on the command line: what is left behind, what it opens, and that no secret reaches any log.

use jit_broker::domain::database::Auth;

use super::desk::Desk;
use crate::served::eventually;

/// Everything that must be in no log: passwords, the admin's among them, and the bodies of private keys.
fn secrets(desk: &Desk, passwords: &[String]) -> Vec<String> {
    let dir = &desk.served.dir;
    let files = ["alice/jit/run/db/db-prod/client.key", "alice/id_ed25519", "disk/broker/state/marker"];
    let keys = files.map(|file| std::fs::read_to_string(dir.join(file)).unwrap());
    let lines = keys.iter().flat_map(|text| text.lines()).filter(|line| line.len() >= 32 && !line.starts_with("-----"));
    let admin = std::fs::read_to_string(desk.served.broker_dir().join("db-prod-admin")).unwrap();
    let mut all: Vec<String> = lines.map(str::to_owned).collect();
    assert!(all.len() >= 3, "a key without a line");
    all.push(admin.trim().to_owned());
    all.extend_from_slice(passwords);
    all
}

/// The password that a passfile of alice's holds.
fn password(desk: &Desk, folder: &str) -> String {
    desk.told(&format!("sed 's/.*://' {folder}/pgpass"))
}

#[test]
fn a_password_is_left_opens_the_account_and_stands_in_no_log() {
    let conf =
        "log_statement = 'all'\nlog_min_messages = debug1\nlog_min_error_statement = debug5\nlog_connections = on";
    let desk = Desk::start(Auth::Password, conf);
    // The server refuses the first making, and logs the statement that failed.
    desk.writing("30m");
    desk.server.sql("app", "ALTER ROLE app_writer RENAME TO elsewhere").unwrap();
    let refused = desk.run("alice", "jit-broker login db-prod --role rw");
    assert_ne!(refused.code, Some(0));
    let failed = desk.told("cut -d' ' -f2 jit/run/db/db-prod/roles/rw/password");
    assert!(!refused.err.contains(&failed) && refused.err.contains("app_writer"), "{}", refused.err);
    desk.server.sql("app", "ALTER ROLE elsewhere RENAME TO app_writer").unwrap();

    let line = desk.told("jit-broker login db-prod --role rw");
    let folder = "jit/run/db/db-prod";
    let modes = format!(
        "stat -c %a {folder} {folder}/pgpass {folder}/roles/rw {folder}/roles/rw/pgpass jit/run/db/pg_service.conf"
    );
    assert_eq!(desk.told(&modes).lines().collect::<Vec<_>>(), ["700", "600", "700", "600", "600"]);
    assert_eq!(desk.told(&format!("ls {folder}")).lines().filter(|f| f.ends_with(".crt")).count(), 1, "no certificate");
    let secret = password(&desk, folder);
    assert_eq!((secret.len(), secret.bytes().all(|b| b.is_ascii_hexdigit())), (32, true));
    let user = desk.told(&format!("{line} -XAtc 'select current_user'"));
    assert!(user.ends_with("_jit"), "{user}");
    let sql = "-XAtc 'select current_user'";
    let eval = "eval \"$(jit-broker env db-prod --role rw)\" && psql -XAtc 'select current_user'";
    for way in [
        &format!("jit-broker psql db-prod --role rw -- {sql}"),
        &format!("jit-broker exec db-prod --role rw -- psql {sql}"),
        eval,
        &format!("PGSERVICEFILE=jit/run/db/pg_service.conf psql service=db-prod.rw {sql}"),
    ] {
        assert_eq!(desk.told(way), user, "{way}");
    }
    desk.told("jit-broker psql db-prod --role rw -- -Xqc \"insert into notes (text) values ('yes')\"");
    // Nothing that is printed has the password: it would end in somebody's history.
    for what in ["psql", "uri", "jdbc", "dbeaver", "datagrip"] {
        assert!(!desk.told(&format!("jit-broker connect db-prod --role rw --for {what}")).contains(&secret), "{what}");
    }
    let hint = desk.run("alice", "jit-broker connect db-prod --role rw --for jdbc").err;
    assert!(hint.contains("PGPASSFILE=") && hint.contains("roles/rw/pgpass"), "{hint}");
    for shell in ["sh", "fish", "json"] {
        assert!(!desk.told(&format!("jit-broker env db-prod --role rw --shell {shell}")).contains(&secret), "{shell}");
    }
    // A wrong password is refused, and the statement of a user that fails is logged as the user typed it.
    let uri = desk.told("jit-broker connect db-prod --role rw --for uri");
    assert_eq!(desk.run("alice", &format!("PGPASSWORD=wrong psql '{uri}' {sql}")).code, Some(2));
    assert_ne!(desk.run("alice", &format!("psql '{uri}' -Xc 'select nothing'")).code, Some(0));

    let kept = desk.told(&format!("cp -r {folder}/roles/rw kept && cat kept/pgpass"));
    assert!(kept.ends_with(&secret));
    desk.told("jit-broker release --all");
    let gone = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{user}'");
    eventually("the account is gone", || desk.server.sql("app", &gone).unwrap() == "0");
    let after = desk
        .run("alice", &format!("PGPASSFILE=$PWD/kept/pgpass psql '{}' {sql}", uri.split("&passfile=").next().unwrap()));
    assert!(after.code == Some(2) && after.err.contains("no pg_hba.conf entry"), "{}", after.err);
    assert_eq!(desk.run("alice", &format!("{line} {sql}")).code, Some(2), "the line that was printed");
    let over = desk.run("alice", &format!("jit-broker psql db-prod --role rw -- {sql}"));
    assert_eq!(over.code, Some(125), "{}", over.err);

    let log = desk.server.log();
    assert!(log.contains("CREATE ROLE") && log.contains("SCRAM-SHA-256$") && log.contains("elsewhere"), "it logs all");
    let events = desk.run("bob", "jit-broker -o jsonl audit search -n 1000").ok();
    assert!(events.contains("account.made") && events.contains("account.planned"));
    let ledger = std::fs::read(desk.served.ledger()).unwrap();
    for secret in secrets(&desk, &[failed, secret]) {
        assert!(!log.contains(&secret), "a secret is in the server's log");
        assert!(!events.contains(&secret), "a secret is in the broker's log");
        assert!(
            !ledger.windows(secret.len()).any(|part| part == secret.as_bytes()),
            "a secret is in the ledger's file"
        );
    }
    assert!(!events.contains("SCRAM-SHA-256$"), "the broker's log holds a digest of the verifier");
}
