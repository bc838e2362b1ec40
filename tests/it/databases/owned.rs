//! Accounts that leave as much behind as they can, and servers that do not let go: after the end nothing is left, and all is told.

use std::process::Stdio;
use std::time::Duration;

use jit_broker::domain::act::Deed;
use jit_broker::domain::database::Auth;
use jit_broker::domain::event::{Command, Proof};
use jit_broker::domain::names::AccountName;

use super::world::{Db, until};

/// A schema whose name is a statement.
const HOSTILE: &str = r#"x"; ALTER ROLE evil SUPERUSER; --"#;

/// Everything that an account can make which should not outlive it.
const MADE: &str = r#"
CREATE SCHEMA "x""; ALTER ROLE evil SUPERUSER; --";
CREATE TABLE "x""; ALTER ROLE evil SUPERUSER; --".loot AS SELECT 1 AS n;
CREATE TABLE public.mine (n int);
CREATE FUNCTION public.become() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS
  $$BEGIN EXECUTE 'ALTER ROLE evil SUPERUSER'; RETURN current_user; EXCEPTION WHEN OTHERS THEN RETURN current_user; END$$;
GRANT EXECUTE ON FUNCTION public.become() TO PUBLIC;
CREATE VIEW public.through AS SELECT * FROM public.notes;
GRANT ALL ON public.mine, public.through TO evil WITH GRANT OPTION;
GRANT USAGE ON SCHEMA "x""; ALTER ROLE evil SUPERUSER; --" TO evil;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO evil;
BEGIN;
CREATE TABLE public.later (n int);
PREPARE TRANSACTION 'it''s later';
"#;

/// The roles with their powers and memberships, and what anybody may do with anything, but for what is kept.
fn powers(db: &Db) -> String {
    db.sql(
        "SELECT string_agg(line, E'\n' ORDER BY line) FROM ( \
         SELECT concat_ws(' ', rolname, rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, \
         (SELECT string_agg(g.rolname, ',' ORDER BY g.rolname) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid \
         WHERE m.member = r.oid)) AS line FROM pg_roles r WHERE rolname NOT LIKE '%\\_jit%' \
         UNION ALL SELECT concat_ws(' ', 'class', c.relname, pg_get_userbyid(c.relowner), c.relacl) FROM pg_class c \
         WHERE c.relnamespace = 'public'::regnamespace AND pg_get_userbyid(c.relowner) NOT LIKE '%\\_jit%' \
         UNION ALL SELECT concat_ws(' ', 'routine', p.proname, pg_get_userbyid(p.proowner)) FROM pg_proc p \
         WHERE p.pronamespace = 'public'::regnamespace \
         UNION ALL SELECT concat_ws(' ', 'default', pg_get_userbyid(d.defaclrole), d.defaclacl) FROM pg_default_acl d \
         UNION ALL SELECT concat_ws(' ', 'database', datname, datacl) FROM pg_database) x",
    )
}

#[test]
fn whatever_an_account_made_nobody_gains_by_it_and_the_report_names_it() {
    let db = Db::cert();
    db.sql("CREATE ROLE evil LOGIN; GRANT CREATE ON DATABASE app TO app_writer; GRANT CREATE ON SCHEMA public TO app_writer");
    let before = powers(&db);
    let (grant, account, file) = db.open("rw", 600);
    let script = db.folder.path().join("made.sql");
    std::fs::write(&script, MADE).unwrap();
    let made = db.psql(account.as_str(), Some(&file), None).args(["-v", "ON_ERROR_STOP=1", "-f"]).arg(&script).output();
    crate::world::Done::from(made.unwrap()).ok();
    assert_eq!(db.sql("SELECT gid FROM pg_prepared_xacts"), "it's later");
    // It works while the account is there: what follows is no accident.
    assert_eq!(db.sql("SET ROLE evil; SELECT public.become()").lines().last(), Some(account.as_str()));
    assert_ne!(powers(&db), before);

    db.revoke(grant);
    db.ended(grant, Duration::from_secs(15));
    assert_eq!(db.traces(&account), "0|0");
    assert_eq!(powers(&db), before, "nobody has more than before, and nothing more is there");
    assert_eq!(db.sql("SELECT count(*) FROM pg_prepared_xacts"), "0");
    let kept = format!("{account}_kept");
    let owned = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relkind = 'r' AND pg_get_userbyid(c.relowner) =";
    assert_eq!(db.sql(&format!("{owned} '{kept}' ORDER BY 1")), format!("public.mine\n{HOSTILE}.loot"));
    let idle = "SELECT rolcanlogin, rolsuper, rolcreaterole, (SELECT count(*) FROM pg_auth_members m WHERE r.oid IN (m.member, m.roleid)) \
                FROM pg_roles r WHERE rolname =";
    assert_eq!(db.sql(&format!("{idle} '{kept}'")), "f|f|f|0");
    for text in ["SELECT * FROM public.mine", r#"SELECT * FROM "x""; ALTER ROLE evil SUPERUSER; --".loot"#] {
        let denied = db.server.sql("app", &format!("SET ROLE evil; {text}")).unwrap_err();
        assert!(denied.message.contains("permission denied"), "{}", denied.message);
    }

    // `show` names what was kept, and what was dropped.
    let doc = db.doc(grant);
    for kept in ["public.mine", "loot", "schema"] {
        assert!(doc.kept.iter().any(|line| line.starts_with("app: ") && line.contains(kept)), "{kept}: {:?}", doc.kept);
    }
    let told = |what: &str, part: &str| {
        doc.proofs.iter().any(|p| p.what == what && p.ok == Some(true) && p.detail.contains(part))
    };
    for (what, part) in [
        ("rollback prepared", "it's later"),
        ("dropped", "public.become"),
        ("dropped", "public.through"),
        ("clear app", "dropped"),
        ("read back", "prepared transactions 0"),
        ("account", account.as_str()),
    ] {
        assert!(told(what, part), "{what} {part}: {:#?}", doc.proofs);
    }
}

/// A holder that leaves thousands of tables: the end comes, and the report is short.
#[test]
fn an_account_that_leaves_thousands_of_tables_is_ended() {
    let db = Db::cert();
    db.sql("GRANT CREATE ON SCHEMA public TO app_writer");
    let (grant, account, file) = db.open("rw", 600);
    let script = db.folder.path().join("many.sql");
    // 63 bytes, of characters that a report escapes.
    let name = "t%s_\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}";
    let text =
        format!("SELECT format('CREATE TABLE \"{name}\" (n serial)', i) FROM generate_series(1, 1500) i\n\\gexec\n");
    std::fs::write(&script, text).unwrap();
    let made = db.psql(account.as_str(), Some(&file), None).args(["-v", "ON_ERROR_STOP=1", "-f"]).arg(&script).output();
    crate::world::Done::from(made.unwrap()).ok();
    let (next, next_account, next_file) = db.open("rw", 600);
    let session = db.session(&next_account, &next_file, "SELECT 'idle';");
    db.act(&db.alice, None, Deed::Release { by: db.alice.name(), grant }).unwrap();
    db.revoke(next);
    println!("another's end: {} ms", db.ended(next, Duration::from_secs(10)).as_millis());
    assert_ne!(session.ended().code, Some(0));
    println!("3,000 tables and sequences: {} ms", db.ended(grant, Duration::from_secs(60)).as_millis());
    assert_eq!(db.traces(&account), "0|0");
    let doc = db.doc(grant);
    assert!(doc.kept.len() <= 64 && doc.kept.last().unwrap().starts_with("and "), "{:?}", doc.kept);
    assert_eq!(
        db.sql(&format!("SELECT count(*) FROM pg_class WHERE relowner = '{account}_kept'::regrole AND relkind = 'r'")),
        "1500"
    );
}

/// More steps than an entry takes: what proves the end is among those that are told.
#[test]
fn the_proof_of_the_end_is_told_however_much_was_dropped() {
    let db = Db::cert();
    db.sql("GRANT CREATE ON SCHEMA public TO app_writer");
    db.server.sql("postgres", "GRANT CREATE ON SCHEMA public TO app_writer").unwrap();
    let (grant, account, file) = db.open("rw", 600);
    let views: String = (0..32).map(|n| format!("CREATE VIEW v{n} AS SELECT {n} AS n;")).collect();
    for database in ["app", "postgres"] {
        let made = db.psql(account.as_str(), Some(&file), None).args(["-d", database, "-c", &views]).output();
        crate::world::Done::from(made.unwrap()).ok();
    }
    db.revoke(grant);
    db.ended(grant, Duration::from_secs(15));
    let proofs = db.doc(grant).proofs;
    for what in ["lock", "terminate", "dropped", "clear app", "read back", "account"] {
        assert!(proofs.iter().any(|p| p.what == what && p.ok == Some(true)), "{what}: {proofs:#?}");
    }
    assert!(proofs.len() <= 64 && proofs.iter().any(|p| p.detail.starts_with("and ")), "{proofs:#?}");
}

/// As the log decides it, whoever sends it.
#[test]
fn a_removal_with_many_steps_is_recorded() {
    let mut db = Db::cert();
    let (grant, ..) = db.open("rw", 600);
    db.server.stop();
    hindered(&db, grant, "cannot be reached");
    let proof =
        |what: &str| Proof { what: what.to_owned(), ok: Some(true), at: db.broker().now(), detail: "x".repeat(99) };
    let mut proofs = vec![proof("lock"), proof("terminate")];
    proofs.extend((0..63).map(|_| proof("dropped")));
    proofs.push(proof("account"));
    let command = Command::AccountRemoved { grant, proofs, kept: Vec::new(), left: Vec::new() };
    db.run(db.broker().command(command, Vec::new())).unwrap();
    db.ended(grant, Duration::from_secs(1));
    let told = db.doc(grant).proofs;
    let count = |what: &str| told.iter().filter(|p| p.what == what).count();
    assert_eq!((count("lock"), count("terminate"), count("account"), told.len()), (1, 1, 1, 64), "{told:#?}");
    assert!(told.iter().any(|p| p.detail == "and 3 more"), "{told:#?}");
}

#[track_caller]
fn hindered(db: &Db, grant: jit_broker::domain::ids::GrantId, why: &str) {
    db.revoke(grant);
    until(Duration::from_secs(15), "residue", || db.doc(grant).state == "residue");
    let left = db.doc(grant).left.join(" ");
    assert!(left.contains(why), "{left}");
}

#[test]
fn a_server_that_is_read_only_by_default_keeps_nobody() {
    let db = Db::cert();
    db.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    db.sql("SELECT pg_reload_conf()");
    until(Duration::from_secs(10), "the setting", || db.sql("SHOW default_transaction_read_only") == "on");
    db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'jit_admin'");
    let (grant, account, file) = db.open("rw", 600);
    assert_eq!(db.by_cert(&account, &file, "SHOW default_transaction_read_only").ok().trim(), "on");
    db.revoke(grant);
    db.ended(grant, Duration::from_secs(5));
    assert_eq!(db.traces(&account), "0|0");
}

#[test]
fn a_server_in_recovery_is_residue_until_it_is_promoted() {
    let mut db = Db::cert();
    let (grant, account, _) = db.open("rw", 600);
    db.server.stop();
    let signal = db.server.dir.join("data/standby.signal");
    std::fs::write(&signal, "").unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&db.server.dir).unwrap());
    std::os::unix::fs::chown(&signal, Some(owner), None).unwrap();
    db.server.run().unwrap();
    assert_eq!(db.sql("SELECT pg_is_in_recovery()"), "t");
    hindered(&db, grant, "read-only");
    assert_eq!(db.traces(&account), "0|1", "it is still there");
    let promoted = db.server.sql("app", "SELECT pg_promote()").unwrap();
    assert_eq!(promoted, "t");
    println!("gone {} ms after the promotion", db.ended(grant, Duration::from_secs(10)).as_millis());
    assert_eq!(db.traces(&account), "0|0");
}

/// A session of the superuser that holds one connection; of nobody's else, and not of the broker's.
fn holder(db: &Db) -> std::process::Child {
    let mut command = std::process::Command::new("psql");
    command.args(["-XqAt", "-U", "postgres", "-d", "app", "-h"]).arg(&db.server.dir);
    command.args(["-p", &db.server.port.to_string(), "-c", "SELECT pg_sleep(600)"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_server_without_a_free_connection_is_residue_until_it_has_one() {
    // Of 12 connections 3 are the superuser's.
    let db = Db::start(Auth::Cert, "max_connections = 12\nsuperuser_reserved_connections = 3");
    let (grant, account, _): (_, AccountName, _) = db.open("rw", 600);
    let mut holders: Vec<_> = (0..9).map(|_| holder(&db)).collect();
    let held = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND usename = 'postgres'";
    until(Duration::from_secs(10), "all are held", || db.sql(held) == "9");
    db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'jit_admin'");
    hindered(&db, grant, "no connection is free");
    assert_eq!(db.traces(&account), "0|1");
    for holder in &mut holders {
        holder.kill().unwrap();
        holder.wait().unwrap();
    }
    // A backend that sleeps does not see that its client is gone.
    db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND usename = 'postgres'");
    println!("gone {} ms after connections were free", db.ended(grant, Duration::from_secs(10)).as_millis());
    assert_eq!(db.traces(&account), "0|0");
}
