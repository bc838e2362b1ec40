//! What an account leaves behind on purpose: names that are statements, code that waits for somebody with rights, grants.

use super::db::{Db, account, gone};

/// Names that end a quoted name, a text, a dollar quote or a line somewhere.
const NAMES: [&str; 8] = [
    "x; ALTER ROLE evil SUPERUSER; --",
    "x\"; ALTER ROLE evil SUPERUSER; --",
    "x'; ALTER ROLE evil SUPERUSER; --",
    "$$; ALTER ROLE evil SUPERUSER; $$",
    "x\\'; ALTER ROLE evil SUPERUSER; --",
    "x\n; ALTER ROLE evil SUPERUSER;\n--",
    "%I %s %L",
    "0123456789012345678901234567890123456789012345678901234567890é",
];

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// T83: everything that can be made under a hostile name.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_are_names_at_removal() {
    let db = Db::cert();
    db.sql("CREATE DATABASE \"d\"\"; ALTER ROLE evil SUPERUSER; --\"");
    db.sql("CREATE EXTENSION postgres_fdw; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO rw; GRANT CREATE ON DATABASE \"d\"\"; ALTER ROLE evil SUPERUSER; --\" TO rw");
    let one = account(&["rw"]);
    db.accounts.make(&one).await.unwrap();
    let name = one.name.as_str();
    db.certify(name);
    for (count, hostile) in NAMES.into_iter().enumerate() {
        let n = quoted(hostile);
        let text = format!(
            "CREATE SCHEMA {n}; CREATE TABLE {n}.{n} ({n} serial PRIMARY KEY, v int, w int DEFAULT 7); INSERT INTO {n}.{n} (v) VALUES (1);
             CREATE TYPE {n}.t{count} AS ENUM ('a'); CREATE DOMAIN {n}.d{count} AS int CHECK (value > 0);
             CREATE FUNCTION {n}.{n}() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; CREATE PROCEDURE {n}.p() LANGUAGE sql AS '';
             CREATE FUNCTION {n}.g(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
             ALTER TABLE {n}.{n} ADD COLUMN gen int GENERATED ALWAYS AS ({n}.g(v)) STORED; CREATE INDEX ON {n}.{n} ({n}.g(w));
             CREATE FUNCTION {n}.tr() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
             CREATE TRIGGER {n} BEFORE INSERT ON {n}.{n} FOR EACH ROW EXECUTE FUNCTION {n}.tr();
             CREATE TRIGGER {n} BEFORE INSERT ON app.orders FOR EACH ROW EXECUTE FUNCTION {n}.tr();
             CREATE POLICY {n} ON {n}.{n} USING (true); CREATE RULE {n} AS ON DELETE TO {n}.{n} DO ALSO NOTHING;
             CREATE VIEW {n}.v AS SELECT * FROM {n}.{n}; CREATE MATERIALIZED VIEW {n}.m AS SELECT {n}.g(v) FROM {n}.{n};
             CREATE AGGREGATE {n}.a(int) (sfunc = int4pl, stype = int); CREATE OPERATOR {n}.+= (leftarg = int, rightarg = int, function = int4pl);
             CREATE SEQUENCE {n}.s; CREATE STATISTICS {n}.st ON v, w FROM {n}.{n}; CREATE COLLATION {n}.c FROM \"C\";
             CREATE TEXT SEARCH CONFIGURATION {n}.ts (COPY = simple); CREATE TYPE {n}.comp AS (i int); CREATE CAST ({n}.comp AS text) WITH INOUT;
             CREATE SERVER {n} FOREIGN DATA WRAPPER postgres_fdw; CREATE USER MAPPING FOR CURRENT_USER SERVER {n} OPTIONS (user 'u', password 'p');
             CREATE FOREIGN TABLE {n}.f (i int) SERVER {n}; CREATE PUBLICATION {n} FOR TABLE {n}.{n};
             GRANT ALL ON {n}.{n} TO PUBLIC; GRANT SELECT (v) ON {n}.{n} TO app; GRANT ALL ON SCHEMA {n} TO PUBLIC, evil; GRANT ALL ON FUNCTION {n}.{n}() TO evil;
             GRANT USAGE ON SEQUENCE {n}.s TO evil; GRANT USAGE ON TYPE {n}.t{count} TO evil;
             ALTER DEFAULT PRIVILEGES IN SCHEMA {n} GRANT ALL ON TABLES TO evil;"
        );
        db.script(name, "postgres", &text);
    }
    db.script(name, "postgres", "SELECT lo_from_bytea(4711, 'x'); GRANT ALL ON LARGE OBJECT 4711 TO PUBLIC; CREATE EXTENSION hstore SCHEMA app; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO evil");
    db.script(
        name,
        "d\"; ALTER ROLE evil SUPERUSER; --",
        "CREATE SCHEMA \"a\"\"b\"; CREATE TABLE \"a\"\"b\".t (i int)",
    );
    let ending = db.accounts.end(&one.name, one.grant).await.unwrap();
    gone(&ending);
    assert_eq!(db.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'evil'"), "f");
    assert_eq!(db.traces(&one.name), "0|0|0");
    // Data is there, and nobody but the role without rights has anything of it.
    let kept = format!("{name}_kept");
    assert_eq!(
        db.sql(&format!("SELECT rolcanlogin, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = '{kept}'")),
        "f|f|f"
    );
    assert_eq!(
        db.sql(&format!("SELECT count(*) FROM pg_auth_members WHERE '{kept}'::regrole IN (roleid, member)")),
        "0"
    );
    for hostile in NAMES {
        let n = quoted(hostile);
        assert_eq!(db.sql(&format!("SELECT v, w, gen FROM {n}.{n}")), "1|7|2", "{n}");
        assert_eq!(db.sql(&format!("SELECT g FROM {n}.m")), "2", "{n}");
    }
    assert_eq!(db.sql("SELECT convert_from(lo_get(4711), 'UTF8')"), "x");
    // Code: only what the materialized views cannot do without, and that has no body any more.
    let mine = format!(
        "SELECT string_agg(DISTINCT proname || prosecdef || prosrc, ' ') FROM pg_proc WHERE proowner = '{kept}'::regrole"
    );
    assert_eq!(db.sql(&mine), "gfalseBEGIN RAISE EXCEPTION 'the account that made this is gone'; END");
    for nothing in [
        "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT count(*) FROM pg_policy",
        "SELECT count(*) FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class WHERE r.oid >= 16384 AND c.relkind <> 'm'",
        "SELECT count(*) FROM pg_foreign_server",
        "SELECT count(*) FROM pg_user_mapping",
        "SELECT count(*) FROM pg_publication",
        "SELECT count(*) FROM pg_default_acl",
        "SELECT count(*) FROM pg_cast c WHERE oid >= 16384",
        "SELECT count(*) FROM pg_operator WHERE oid >= 16384",
        "SELECT count(*) FROM pg_extension WHERE extname = 'hstore'",
    ] {
        assert_eq!(db.sql(nothing), "0", "{nothing}");
    }
    let reach = format!(
        "SELECT count(*) FROM pg_class c WHERE relowner = '{kept}'::regrole AND relkind IN ('r', 'm', 'S') AND \
         (CASE relkind WHEN 'S' THEN has_sequence_privilege('evil', oid, 'USAGE') ELSE has_table_privilege('evil', oid, 'SELECT') OR has_any_column_privilege('app', oid, 'SELECT') END)"
    );
    assert_eq!(db.sql(&reach), "0");
    assert_eq!(db.sql(&format!("SELECT count(*) FROM pg_namespace WHERE nspowner = '{kept}'::regrole AND has_schema_privilege('evil', oid, 'USAGE, CREATE')")), "0");
    assert_eq!(db.sql(&format!("SELECT count(*) FROM pg_proc WHERE proowner = '{kept}'::regrole AND has_function_privilege('evil', oid, 'EXECUTE')")), "0");
    assert_eq!(db.sql("SELECT lomacl FROM pg_largeobject_metadata WHERE oid = 4711"), format!("{{{kept}=rw/{kept}}}"));
    assert!(ending.kept.iter().all(|line| !line.contains('\n')), "{ending:#?}");
    assert!(
        ending.kept.iter().any(|line| line.starts_with("d\"; ALTER ROLE evil SUPERUSER; --: table")),
        "{ending:#?}"
    );
    // The application's table still works: the trigger that ran the account's code with the application's rights is gone.
    db.sql("SET ROLE app; INSERT INTO app.orders VALUES (5000, 1)");
}

/// T88: a definer function that anybody may call, and one that hides behind data of others so that it cannot be dropped.
#[tokio::test(flavor = "multi_thread")]
async fn no_code_of_an_account_ends_up_with_somebody_elses_rights() {
    let db = Db::cert();
    db.sql("CREATE TABLE app.secret (s text); ALTER TABLE app.secret OWNER TO app_owner; INSERT INTO app.secret VALUES ('x'); GRANT SELECT ON app.secret TO rw; GRANT TRIGGER ON app.orders TO rw");
    let one = account(&["rw"]);
    db.accounts.make(&one).await.unwrap();
    let name = one.name.as_str();
    db.certify(name);
    db.script(
        name,
        "postgres",
        "CREATE FUNCTION app.gadget() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT s FROM app.secret';
         CREATE FUNCTION app.spy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RAISE EXCEPTION ''spied''; END';
         CREATE TRIGGER spy BEFORE INSERT OR DELETE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.spy();
         CREATE FUNCTION app.diff(a int, b int) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT 1.0::float8';
         CREATE TYPE app.span AS RANGE (subtype = int, subtype_diff = app.diff);
         CREATE VIEW app.look AS SELECT app.gadget();",
    );
    // Others came to use the type, the view and the function.
    db.sql("CREATE TABLE app.theirs (i int, s app.span); INSERT INTO app.theirs VALUES (1, '[1,3)'); CREATE VIEW app.v AS SELECT * FROM app.look; CREATE TABLE app.d (t text DEFAULT app.gadget(), i int); INSERT INTO app.d VALUES ('old', 1)");
    assert!(db.sql("GRANT SELECT ON app.v TO evil; SET ROLE evil; SELECT app.gadget()").contains('x'));
    let ending = db.accounts.end(&one.name, one.grant).await.unwrap();
    gone(&ending);
    let owners = "SELECT count(*) FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner WHERE p.oid >= 16384 AND (p.prosecdef OR r.rolname NOT LIKE '%\\_jit\\_kept')";
    assert_eq!(
        db.sql(
            &owners
                .replace("r.rolname NOT LIKE", "p.prolang <> 12 AND r.rolname NOT LIKE")
                .replace("p.oid >= 16384 AND", "p.oid >= 16384 AND p.prolang <> 13 AND")
        ),
        "0"
    );
    assert_eq!(db.sql("SELECT count(*) FROM pg_proc WHERE proname IN ('gadget', 'spy')"), "0");
    assert_eq!(db.sql("SELECT * FROM app.theirs"), "1|[1,3)", "others' data stays");
    assert_eq!(db.sql("SELECT * FROM app.d; INSERT INTO app.d (i) VALUES (2)"), "old|1");
    assert!(db.sql("SELECT prosrc FROM pg_proc WHERE proname = 'diff'").contains("is gone"));
    db.sql("SET ROLE app; INSERT INTO app.orders VALUES (5000, 1)");
    let told = format!("{ending:?}");
    for named in [
        "trigger spy on table app.orders",
        "view app.v",
        "app.diff(integer,integer) is kept without its body",
        "type app.span",
    ] {
        assert!(told.contains(named), "{named} is not in the report: {ending:#?}");
    }
}

/// An account that made a materialized view in the name of a role it is a member of, so that its trigger cannot be dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_data_protects_lets_rows_pass() {
    let db = Db::cert();
    let one = account(&["rw"]);
    db.accounts.make(&one).await.unwrap();
    let name = one.name.as_str();
    db.certify(name);
    db.script(
        name,
        "postgres",
        "CREATE FUNCTION app.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''mine''; END';
         CREATE TRIGGER t BEFORE INSERT OR DELETE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.t();
         SET ROLE rw; CREATE TABLE app.shield (i int); CREATE TRIGGER t BEFORE INSERT ON app.shield FOR EACH ROW EXECUTE FUNCTION app.t();
         CREATE MATERIALIZED VIEW app.ms AS SELECT 'app.t()'::regprocedure AS p;",
    );
    let ending = db.accounts.end(&one.name, one.grant).await.unwrap();
    gone(&ending);
    assert!(format!("{ending:?}").contains("app.t() is kept without its body"), "{ending:#?}");
    db.sql("INSERT INTO app.orders VALUES (5000, 1); DELETE FROM app.orders WHERE id = 5000");
    assert_eq!(db.sql("SELECT count(*) FROM pg_matviews"), "1");
    assert_eq!(db.sql("SELECT count(*) FROM app.orders WHERE id = 5000"), "0");
    assert_eq!(db.sql("SELECT count(*) FROM pg_proc WHERE proowner = 'rw'::regrole OR prosrc LIKE '%mine%'"), "0");
}

/// A right that another owner gave to the account by name: only that owner can take it back, and until then it is residue.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_somebody_else_gave_is_residue_until_they_take_it_back() {
    let db = Db::cert();
    let one = account(&["ro"]);
    db.accounts.make(&one).await.unwrap();
    db.sql(&format!("GRANT SELECT ON app.orders TO {}", one.name));
    let first = db.accounts.end(&one.name, one.grant).await.unwrap();
    assert!(!first.gone);
    assert!(first.residue.iter().any(|r| r.contains("app.orders") && r.contains("REVOKE")), "{first:#?}");
    assert_eq!(db.sql(&format!("SELECT rolcanlogin FROM pg_roles WHERE rolname = '{}'", one.name)), "f");
    db.sql(&format!("REVOKE ALL ON app.orders FROM {}", one.name));
    gone(&db.accounts.end(&one.name, one.grant).await.unwrap());
}

/// More objects than a server's lock table holds for one transaction.
#[tokio::test(flavor = "multi_thread")]
async fn many_objects_are_cleared_away() {
    let db = Db::start(jit_broker::daemon::postgres::HBA_CERT, "max_locks_per_transaction = 10\nmax_connections = 20");
    let one = account(&["rw"]);
    db.accounts.make(&one).await.unwrap();
    let name = one.name.as_str();
    db.sql(&format!("SET ROLE {name}; CREATE SCHEMA many; SELECT format('CREATE TABLE many.t%s (i serial PRIMARY KEY); CREATE FUNCTION many.f%s() RETURNS int LANGUAGE sql AS ''SELECT 1''', i, i) FROM generate_series(1, 400) i\n\\gexec\n"));
    let ending = db.accounts.end(&one.name, one.grant).await.unwrap();
    gone(&ending);
    assert_eq!(ending.kept.len(), 801);
    assert_eq!(db.sql("SELECT count(*) FROM pg_proc WHERE pronamespace = 'many'::regnamespace"), "0");
}
