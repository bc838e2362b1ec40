//! Databases by the built binary: what `login`, `psql`, `env`, `exec`, `connect` and `target test` do with a real PostgreSQL.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::world::World;

impl World {
    /// Alice asks for writing, bob agrees; gives the grant's id. Nothing is made on the server yet.
    fn writing(&self, for_: &str) -> String {
        let line = format!("jit-broker -o json request db-prod --role rw --for {for_} --reason 'mend rows' --no-wait");
        let request = self.run("alice", &line).json();
        let id = request["id"].as_str().unwrap().to_owned();
        let after = self.run("bob", &format!("jit-broker -o json approve {id}")).json();
        after["grant_id"].as_str().unwrap().to_owned()
    }

    /// A psql of alice's that goes on until somebody ends it.
    fn session(&self, statements: &[&str]) -> Child {
        let cs: Vec<String> = statements.iter().map(|s| format!("-c \"{s}\"")).collect();
        let line = format!("exec jit-broker psql db-prod --role rw -- -qAt -v ON_ERROR_STOP=1 {}", cs.join(" "));
        let mut command = self.command("alice", &line);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn sessions(&self) -> usize {
        let line = "jit-broker exec db-prod --role ro -- psql -Atc \"select count(*) from pg_stat_activity where usename like '%_jit' and pid <> pg_backend_pid()\"";
        self.run("alice", line).ok().trim().parse().unwrap()
    }
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let began = Instant::now();
    while !check() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::yield_now();
    }
}

/// How long a child still ran, in milliseconds, and what it said.
fn end_of(mut child: Child) -> (u128, String) {
    let began = Instant::now();
    let status = child.wait().unwrap();
    let took = began.elapsed().as_millis();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(!status.success(), "it ended by itself: {text}");
    (took, text)
}

#[test]
fn what_login_leaves_is_what_clients_use() {
    let world = World::start();
    let done = world.run("alice", "jit-broker login db-prod --role ro --for 10m");
    assert!(done.err.contains("_jit until "), "{}", done.err);
    let line = done.ok();
    // The printed line is pasted as it is.
    let who = world.run("alice", &format!("{} -Atc 'select current_user'", line.trim())).ok();
    assert!(who.trim().ends_with("_jit"), "{who}");
    let uri = world.run("alice", "jit-broker connect db-prod --for uri").ok();
    assert_eq!(world.run("alice", &format!("psql '{}' -Atc 'select current_user'", uri.trim())).ok(), who);
    let env = "eval \"$(jit-broker env db-prod)\" && psql -Atc 'select current_user'";
    assert_eq!(world.run("alice", env).ok(), who);
    assert_eq!(world.run("alice", "jit-broker exec db-prod -- psql -Atc 'select current_user'").ok(), who);
    let jdbc = world.run("alice", "jit-broker connect db-prod --for jdbc").ok();
    assert!(jdbc.starts_with("jdbc:postgresql://localhost:") && jdbc.contains("client.pk8"), "{jdbc}");
    // The certificate ends with the grant, opens nothing else, and the account may only read.
    let folder = "jit/run/db/db-prod";
    let text = world
        .run("alice", &format!("openssl x509 -in {folder}/client.crt -noout -subject -enddate -ext extendedKeyUsage"))
        .ok();
    assert!(text.contains(who.trim()) && text.contains("TLS Web Client Authentication"), "{text}");
    let keys = world.run("alice", &format!("openssl pkey -in {folder}/client.key -outform DER | openssl dgst; openssl pkey -inform DER -in {folder}/client.pk8 -outform DER | openssl dgst; stat -c %a {folder} {folder}/client.key {folder}/client.pk8")).ok();
    let keys: Vec<&str> = keys.lines().collect();
    assert_eq!((keys[0], &keys[2..]), (keys[1], ["700", "600", "600"].as_slice()), "one key in two forms");
    let denied = world.run("alice", "jit-broker psql db-prod -- -c \"insert into notes (text) values ('x')\"");
    assert_eq!(denied.code, Some(1), "{}", denied.err);
    let other =
        world.run("alice", "jit-broker exec db-prod -- psql -d postgres -h localhost -U postgres -c 'select 1'");
    assert_eq!(other.code, Some(2), "a certificate opens its own account only: {}", other.err);
    // The same again asks nobody and makes nothing.
    let made = world.count("account.made");
    world.run("alice", "jit-broker login db-prod --role ro").ok();
    assert_eq!((world.count("account.made"), made), (1, 1));
    // Given back, it is gone, and that is told as such.
    let grant = world.run("alice", "jit-broker -o json release --all").json();
    let whats: Vec<&str> = grant["proofs"].as_array().unwrap().iter().map(|p| p["what"].as_str().unwrap()).collect();
    assert_eq!((grant["state"].as_str(), whats.last()), (Some("released"), Some(&"account")));
    let refused = world.run("alice", &format!("psql '{}' -Atc 'select 1'", uri.trim()));
    assert_eq!(refused.code, Some(2), "the kept certificate opens nothing: {}", refused.err);
    let lines =
        [("env db-prod --shell fish", "set -gx PGUSER"), ("env db-prod --shell json", "\"PGSSLMODE\":\"verify-full\"")];
    for (line, wanted) in lines {
        let out = world.run("alice", &format!("jit-broker {line} --role ro")).ok();
        assert!(out.contains(wanted), "{out}");
    }
}

#[test]
fn a_release_leaves_the_credential_of_the_other_role() {
    let world = World::start();
    world.run("alice", "jit-broker login db-prod --role ro").ok();
    let grant = world.writing("30m");
    world.run("alice", "jit-broker login db-prod --role rw").ok();
    let who = |role: &str| {
        let service = format!("PGSERVICEFILE=jit/run/db/pg_service.conf psql service=db-prod.{role}");
        world.run("alice", &format!("{service} -Atc 'select current_user'"))
    };
    let (reader, writer) = (who("ro").ok(), who("rw").ok());
    assert_ne!(reader, writer);
    world.run("alice", &format!("jit-broker release {grant}")).ok();
    assert_eq!(who("ro").ok(), reader, "its grant is active");
    assert_eq!(who("rw").code, Some(2));
    let left = world.run("alice", "find jit/run/db/db-prod -name client.crt").ok();
    assert_eq!(left, "jit/run/db/db-prod/roles/ro/client.crt\n", "of the released one nothing is left");
    world.run("alice", "jit-broker release --all").ok();
    assert_eq!(world.run("alice", "find jit/run/db/db-prod -name client.crt").ok(), "");
}

#[test]
fn sessions_are_cut_by_a_revocation_whatever_they_do() {
    let world = World::start();
    world.run("alice", "jit-broker login db-prod --role ro").ok();
    let grant = world.writing("30m");
    world.run("alice", "jit-broker login db-prod --role rw").ok();
    let busy = [
        world.session(&["select pg_sleep(300)"]),
        world.session(&["begin; lock table notes; select pg_sleep(300)"]),
        world.session(&["listen news; select pg_sleep(300)"]),
        world.session(&["copy (select pg_sleep(300)) to stdout"]),
    ];
    let mut idle = world.command("alice", "exec jit-broker psql db-prod --role rw -- -qAt -v ON_ERROR_STOP=1");
    let mut idle = idle.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("five sessions are open", || world.sessions() == 5);
    let done = world.run("bob", &format!("jit-broker revoke {grant} --reason 'enough of that'"));
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    assert!(done.out.contains("ok terminate: 5 cut, 0 left") && done.out.contains("ok account: "), "{}", done.out);
    for child in busy {
        let (took, text) = end_of(child);
        println!("still ran {took} ms after the answer");
        assert!(took < 1000 && text.contains("terminating connection"), "{took} ms: {text}");
    }
    drop(idle.stdin.take().map(|mut pipe| std::io::Write::write_all(&mut pipe, b"select 1;\n")));
    let (_, text) = end_of(idle);
    assert!(text.contains("terminating connection"), "{text}");
    assert_eq!(world.sessions(), 0);
    let again = world.run("alice", "jit-broker psql db-prod --role rw -- -c 'select 1'");
    assert_eq!((again.code, again.err.contains("rw on db-prod is over")), (Some(125), true), "{}", again.err);
    assert!(again.err.contains("jit-broker login db-prod --role rw --reason"), "{}", again.err);
}

#[test]
fn the_window_ends_to_the_second_and_data_stays_with_nobody() {
    let world = World::start();
    let grant = world.writing("8s");
    world.run("alice", "jit-broker login db-prod --role rw").ok();
    let child = world.session(&["create temp table t (a int); select pg_sleep(300)"]);
    let (_, text) = end_of(child);
    assert!(text.contains("terminating connection"), "{text}");
    let ended = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let doc = world.run("bob", &format!("jit-broker -o json show {grant}")).json();
    let ends_at: jiff::Timestamp = doc["ends_at"].as_str().unwrap().parse().unwrap();
    let late = i64::try_from(ended).unwrap() - ends_at.as_millisecond();
    println!("cut {late} ms after the window's end");
    assert!((0..1000).contains(&late), "{late} ms after the end");
    eventually("the grant is proven to have ended", || {
        world.run("bob", &format!("jit-broker -o json show {grant}")).json()["state"] == "ended"
    });
    // Locally it is known to be over, without a word from the server.
    let after = world.run("alice", "jit-broker psql db-prod --role rw -- -c 'select 1'");
    assert_eq!((after.code, after.err.contains("rw on db-prod ended at")), (Some(125), true), "{}", after.err);
}

#[test]
fn a_disabled_person_is_cut_off_and_a_target_is_tested() {
    let world = World::start();
    let done = world.run("bob", "jit-broker target test db-prod");
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    for link in ["reach", "tls", "admin login", "role app_writer", "make", "login", "drop"] {
        assert!(done.out.contains(&format!("{link}\tok\t")), "{link}: {}", done.out);
    }
    assert_eq!(world.run("alice", "jit-broker target test db-prod").code, Some(5));
    assert_eq!(world.run("bob", "jit-broker target test web-07").code, Some(8));
    world.writing("30m");
    world.run("alice", "jit-broker login db-prod --role rw").ok();
    let child = world.session(&["select pg_sleep(300)"]);
    let own = "jit-broker psql db-prod --role ro -- -Atc \"select count(*) from pg_stat_activity where usename like '%_jit' and pid <> pg_backend_pid()\"";
    eventually("the session is open", || world.run("bob", own).ok().trim() == "1");
    let done = world.run("bob", "jit-broker person disable alice --reason 'left the company'");
    assert!(matches!(done.code, Some(0 | 10)), "{}", done.err);
    let (took, text) = end_of(child);
    assert!(took < 2000 && text.contains("terminating connection"), "{took} ms: {text}");
}

#[test]
fn one_program_gets_the_credentials_of_several_databases() {
    let world = World::start();
    let adopted = world.run("bob", "jit-broker -o json policy show").json();
    let folder = world.dir.join("root-admin/two");
    std::fs::create_dir(&folder).unwrap();
    for (name, text) in adopted["files"].as_object().unwrap() {
        let mut text = text.as_str().unwrap().to_owned();
        if name == "targets.toml" {
            let at = text.find("[[target]]\nname = \"db-prod\"").unwrap();
            let second = text[at..].replace("name = \"db-prod\"", "name = \"db-two\"");
            text.push_str(&format!("\n{second}"));
        }
        std::fs::write(folder.join(name), text).unwrap();
    }
    world.run("root-admin", "jit-broker apply two --yes").ok();
    let line = "jit-broker exec db-prod db-two --role ro -- sh -c \
                'psql service=db-prod.ro -Atc \"select current_user\"; psql service=db-two.ro -Atc \"select current_user\"; psql -Atc \"select current_user\"'";
    let both = world.run("alice", line).ok();
    let users: Vec<&str> = both.lines().collect();
    assert_eq!(users.len(), 3, "{both}");
    assert!(
        users[0] != users[1] && users[0] == users[2],
        "each has an account of its own, and the first is the usual one: {both}"
    );
    let unknown = world.run("alice", "jit-broker exec db-prod db-three --role ro -- true");
    assert_eq!(unknown.code, Some(125), "{}", unknown.err);
    assert!(unknown.err.contains("db-three"), "{}", unknown.err);
}
