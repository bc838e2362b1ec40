//! Accounts are made, are what was asked, and are nobody else's.

use jit_broker::accounts::postgres::{Postgres, Secret};
use jit_broker::accounts::{Account, AccountError, Found, Marker, MarkerKey, Proof, scram};
use jit_broker::clock::random16;
use jit_broker::domain::ids::{GrantId, InstallId};
use jit_broker::domain::names::AccountName;

use super::db::{Db, INSTALL, account, gone, key, now, target};

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_opens_the_account_that_it_names_and_no_other() {
    let db = Db::cert();
    let (one, two) = (account(&["ro"]), account(&["rw"]));
    db.accounts.make(&one).await.unwrap();
    db.accounts.make(&two).await.unwrap();
    db.certify(one.name.as_str());
    assert_eq!(
        db.by_cert(one.name.as_str(), "SELECT current_user, count(*) FROM app.orders").ok(),
        format!("{}|1000\n", one.name)
    );
    assert!(db.by_cert(one.name.as_str(), "INSERT INTO app.orders VALUES (1, 1)").err.contains("permission denied"));
    // Another's name with one's own certificate, and names around it.
    let mut other = db.psql(two.name.as_str(), None);
    for file in ["PGSSLCERT", "PGSSLKEY"] {
        let ending = if file == "PGSSLCERT" { "crt" } else { "key" };
        other.env(file, db.folder.path().join(format!("{}.{ending}", one.name)));
    }
    let refused = other.args(["-c", "SELECT 1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("certificate authentication failed"), "{refused:?}");
    let around = format!("x{}", two.name);
    db.certify(&around);
    let mut malice = db.psql(two.name.as_str(), None);
    malice.env("PGSSLCERT", db.folder.path().join(format!("{around}.crt")));
    malice.env("PGSSLKEY", db.folder.path().join(format!("{around}.key")));
    assert!(!malice.args(["-c", "SELECT 1"]).output().unwrap().status.success());
    // Without TLS there is no way in.
    let mut plain = db.psql(one.name.as_str(), None);
    assert!(!plain.env("PGSSLMODE", "disable").args(["-c", "SELECT 1"]).output().unwrap().status.success());
    gone(&db.accounts.end(&one.name, one.grant).await.unwrap());
    assert_eq!(db.by_cert(one.name.as_str(), "SELECT 1").code, Some(2));
    db.certify(two.name.as_str());
    db.by_cert(two.name.as_str(), "SELECT 1").ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_opens_the_account_by_a_real_login_until_valid_until() {
    let db = Db::password();
    let mut one = account(&["ro"]);
    one.proof = Proof::Password(scram::verifier("s3cret of the client", &random16()).unwrap());
    (one.read_only, one.statement_timeout_ms, one.connection_limit) = (true, Some(90_000), Some(3));
    db.accounts.make(&one).await.unwrap();
    let name = one.name.as_str();
    let login = |password: &str, text: &str| db.by_password(name, password, text);
    assert_eq!(login("s3cret of the client", "SHOW transaction_read_only; SHOW statement_timeout").ok(), "on\n90s\n");
    assert!(login("s3cret of the clienT", "SELECT 1").err.contains("password authentication failed"));
    assert_eq!(db.sql(&format!("SELECT rolconnlimit, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolinherit FROM pg_roles WHERE rolname = '{name}'")), "3|f|f|f|f|f|t");
    // Done again it is brought to what is asked: another password, fewer limits, other roles.
    one.proof = Proof::Password(scram::verifier("another", &random16()).unwrap());
    (one.read_only, one.statement_timeout_ms, one.connection_limit) = (false, None, None);
    one.member_of = vec!["rw".to_owned()];
    db.accounts.make(&one).await.unwrap();
    assert_eq!(
        login("another", "SHOW transaction_read_only; SHOW statement_timeout; INSERT INTO app.orders VALUES (0, 0)")
            .ok(),
        "off\n0\n"
    );
    assert!(!login("s3cret of the client", "SELECT 1").err.is_empty());
    let roles = format!(
        "SELECT string_agg(roleid::regrole::text, ',' ORDER BY 1) FROM pg_auth_members WHERE member = '{name}'::regrole AND NOT admin_option"
    );
    assert_eq!(db.sql(&roles.replace("ORDER BY 1", "ORDER BY roleid::regrole::text")), "jit_accounts,rw");
    // Past its end the password is nothing.
    one.valid_until = now() - 1;
    db.accounts.make(&one).await.unwrap();
    assert!(login("another", "SELECT 1").err.contains("authentication failed"));
    gone(&db.accounts.end(&one.name, one.grant).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_our_mark_for_this_grant_is_never_touched() {
    let db = Db::cert();
    let mine = account(&["ro"]);
    db.accounts.make(&mine).await.unwrap();
    let strangers = [
        (
            Postgres::new(target(&db.server, &db.password), InstallId::new([8; 16]), key()),
            mine.grant,
            "another installation",
        ),
        (Postgres::new(target(&db.server, &db.password), INSTALL, MarkerKey::new([1; 32])), mine.grant, "another key"),
        (db.accounts.clone(), GrantId::new([3; 16]), "another grant"),
    ];
    let before = db.sql("SELECT r.*, a.rolpassword FROM pg_roles r JOIN pg_authid a USING (oid) ORDER BY 1");
    for (accounts, grant, who) in strangers {
        let is_foreign = |e: AccountError| assert!(matches!(e, AccountError::Foreign(_)), "{who}: {e:?}");
        is_foreign(accounts.make(&Account { grant, ..mine.clone() }).await.unwrap_err());
        is_foreign(accounts.lock(&mine.name, grant).await.unwrap_err());
        is_foreign(accounts.end(&mine.name, grant).await.unwrap_err());
    }
    // A comment copied from one account to another, and a role made by hand.
    let copied = account(&[]);
    db.sql(&format!("CREATE ROLE \"{}\" LOGIN; DO $$ BEGIN EXECUTE format('COMMENT ON ROLE \"{}\" IS %L', shobj_description('{}'::regrole, 'pg_authid')); END $$", copied.name, copied.name, mine.name));
    assert!(matches!(db.accounts.end(&copied.name, mine.grant).await, Err(AccountError::Foreign(_))));
    db.sql("CREATE ROLE \"by'hand\n_jit\" LOGIN");
    let found = db.accounts.sweep().await.unwrap();
    let marker = Marker { install: INSTALL, grant: mine.grant, member_of: vec!["ro".to_owned()] };
    assert!(found.contains(&Found::Ours { name: mine.name.clone(), marker, can_login: true }), "{found:#?}");
    let strangers: Vec<_> = found.iter().filter(|f| matches!(f, Found::Stranger { .. })).collect();
    assert_eq!(strangers.len(), 2, "{found:#?}");
    assert!(!format!("{strangers:?}").contains('\n'));
    db.sql(&format!("DROP ROLE \"by'hand\n_jit\"; DROP ROLE \"{}\"", copied.name));
    assert_eq!(db.sql("SELECT r.*, a.rolpassword FROM pg_roles r JOIN pg_authid a USING (oid) ORDER BY 1"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_out_is_checked_before_anybody_has_it() {
    let db = Db::cert();
    db.sql("CREATE ROLE maker NOLOGIN CREATEROLE; CREATE ROLE way NOLOGIN IN ROLE maker; CREATE ROLE \"a \"\"b\"\"; --\" NOLOGIN");
    let error = db.accounts.make(&account(&["way"])).await.unwrap_err();
    assert_eq!(error, AccountError::Powerful("maker".to_owned()));
    // A role that can log in is given a password; the owner of a database shuts the admin out; the server's own programs outlive everything.
    db.sql(
        "CREATE ROLE dbo NOLOGIN; CREATE DATABASE other OWNER dbo; CREATE ROLE dba NOLOGIN IN ROLE pg_signal_backend",
    );
    db.sql("GRANT app, dbo, dba, pg_execute_server_program TO jit_admin WITH ADMIN OPTION");
    for (role, named) in [
        ("app", "app"),
        ("dbo", "dbo"),
        ("dba", "pg_signal_backend"),
        ("pg_execute_server_program", "pg_execute_server_program"),
    ] {
        let error = db.accounts.make(&account(&[role])).await.unwrap_err();
        assert_eq!(error, AccountError::Powerful(named.to_owned()), "{role}");
    }
    assert!(matches!(db.accounts.make(&account(&["postgres"])).await, Err(AccountError::Denied { .. })));
    assert!(matches!(db.accounts.make(&account(&["no such role"])).await, Err(AccountError::Denied { .. })));
    for wrong in ["", "a\0", &"é".repeat(40), &"a".repeat(64)] {
        assert!(matches!(db.accounts.make(&account(&[wrong])).await, Err(AccountError::Invalid(_))), "{wrong:?}");
    }
    assert_eq!(
        db.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE '%jit'"),
        "0",
        "nothing is left of a refused one"
    );
    let odd = account(&["a \"b\"; --", "ro", "ro"]);
    db.accounts.make(&odd).await.unwrap();
    gone(&db.accounts.end(&odd.name, odd.grant).await.unwrap());
}

/// T90 and T96: what the user can do to their own account, and what the broker's own account can.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_user_does_to_the_account_outlives_it() {
    let db = Db::cert();
    let mut one = account(&["rw"]);
    one.read_only = true;
    db.accounts.make(&one).await.unwrap();
    let name = one.name.as_str();
    db.certify(name);
    for refused in [
        format!("GRANT {name} TO evil"),
        "GRANT rw TO evil".to_owned(),
        "CREATE ROLE more LOGIN".to_owned(),
        format!("ALTER ROLE {name} VALID UNTIL 'infinity'"),
        format!("ALTER ROLE {name} CREATEROLE"),
        format!("COMMENT ON ROLE {name} IS 'mine'"),
        "SET ROLE jit_admin".to_owned(),
        "SELECT pg_read_file('/etc/passwd')".to_owned(),
    ] {
        assert_eq!(db.by_cert(name, &refused).code, Some(1), "{refused}");
    }
    // A password of one's own, other settings, and writing in spite of `read_only`: possible, and over with the account.
    db.by_cert(
        name,
        &format!(
            "SET transaction_read_only = off; ALTER ROLE {name} PASSWORD 'x'; ALTER ROLE {name} SET work_mem = '5MB'"
        ),
    )
    .ok();
    db.by_cert(name, "BEGIN; SET TRANSACTION READ WRITE; UPDATE app.orders SET v = 2 WHERE id = 1; COMMIT").ok();
    db.sql(&format!("GRANT {name} TO evil; GRANT app_owner TO {name}"));
    gone(&db.accounts.end(&one.name, one.grant).await.unwrap());
    assert_eq!(db.traces(&one.name), "0|0|0");
    assert_eq!(
        db.sql("SELECT rolsuper, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = 'jit_admin'"),
        "f|f|f|f"
    );
    assert_eq!(
        db.sql(
            "SELECT string_agg(roleid::regrole::text, ',') FROM pg_auth_members WHERE member = 'jit_admin'::regrole"
        ),
        "pg_signal_backend"
    );
    let admin = db.by_password("jit_admin", &db.password, "SELECT count(*) FROM app.orders");
    assert!(admin.err.contains("permission denied"), "the broker's account reads no data: {}", admin.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_password_that_changed_is_noticed() {
    let db = Db::cert();
    let handle = std::sync::Arc::new(std::sync::Mutex::new(db.password.clone()));
    let mut server = target(&db.server, "");
    let read = handle.clone();
    server.secret = std::sync::Arc::new(move || Ok(Secret::Password(read.lock().unwrap().clone().into())));
    let accounts = Postgres::new(server, INSTALL, key());
    accounts.make(&account(&[])).await.unwrap();
    db.sql("ALTER ROLE jit_admin PASSWORD 'changed'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'jit_admin'");
    db.until("SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'jit_admin'");
    let refused = accounts.sweep().await.unwrap_err();
    assert!(matches!(&refused, AccountError::RefusedLogin { sqlstate, .. } if sqlstate == "28P01"), "{refused:?}");
    assert!(!refused.to_string().contains(&db.password));
    *handle.lock().unwrap() = "changed".to_owned();
    assert_eq!(accounts.sweep().await.unwrap().len(), 1);
    assert!(format!("{accounts:?}").contains("***"));
    let _ = AccountName::of_random(&random16());
}
