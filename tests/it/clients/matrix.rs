//! Every client logs in with exactly what is printed, and with the very same no more once the grant is over.

use jit_broker::domain::database::Auth;

use super::desk::Desk;
use super::programs::{Printed, all, run};
use super::rust;
use crate::served::eventually;

/// What the server writes down about who may not come in any more. Clients tell it in their own words, and not all of them read the
/// server's last word when a handshake breaks off.
const REFUSALS: [&str; 3] = ["no pg_hba.conf entry", "password authentication failed", "certificate verify failed"];
/// Since node-postgres 8.23; it still reads the file.
const PGPASS: &str = "DeprecationWarning: pgpass support";

fn each_logs_in(desk: &Desk, printed: &Printed, user: &str) {
    let wanted = format!("{user}|2");
    let clients = all(desk, printed);
    for (client, done) in clients.iter().zip(run(desk, &clients)) {
        assert_eq!(
            (done.code, done.out.trim()),
            (Some(0), wanted.as_str()),
            "{}: {}\n{}",
            client.name,
            client.line,
            done.err
        );
        let quiet = done.err.is_empty() || (desk.auth == Auth::Password && done.err.contains(PGPASS));
        assert!(quiet, "{} has something to complain about: {}", client.name, done.err);
    }
    assert_eq!(rust::query(&printed.json), Ok(wanted), "tokio-postgres");
}

/// All fail, and the server's log shows that it was the server that refused each of them.
fn each_is_refused(desk: &Desk, printed: &Printed) {
    let before = desk.server.log().len();
    let clients = all(desk, printed);
    for (client, done) in clients.iter().zip(run(desk, &clients)) {
        assert_ne!(done.code, Some(0), "{}: {}", client.name, done.out);
    }
    rust::query(&printed.json).expect_err("tokio-postgres");
    let refusals = || {
        let log = desk.server.log()[before..].to_owned();
        log.lines().filter(|line| REFUSALS.iter().any(|word| line.contains(word))).count()
    };
    eventually("the server has refused each", || refusals() > clients.len());
}

fn matrix(auth: Auth) {
    let desk = Desk::start(auth, "");
    desk.told("jit-broker login db-prod --role ro --for 30m");
    let printed = Printed::take(&desk, "ro");
    let user = Printed::field(&printed.form, "User");
    assert!(user.ends_with("_jit"), "{user}");
    each_logs_in(&desk, &printed, &user);
    let grant = desk.run("alice", "jit-broker -o json status").json()["grants"][0]["id"].as_str().unwrap().to_owned();
    desk.run("bob", &format!("jit-broker revoke {grant} --reason 'enough of that'")).ok();
    each_is_refused(&desk, &printed);
    // A window that ends by itself.
    let grant = desk.writing("6s");
    desk.told("jit-broker login db-prod --role rw");
    let printed = Printed::take(&desk, "rw");
    let other = Printed::field(&printed.form, "User");
    let done = desk.run("alice", &format!("{} -XAtc 'select current_user'", printed.psql)).ok();
    assert_eq!(done.trim(), other);
    assert_ne!(other, user);
    eventually("the window has ended", || desk.grant(&grant)["state"] == "ended");
    each_is_refused(&desk, &printed);
}

#[test]
fn every_client_by_certificate() {
    matrix(Auth::Cert);
}

#[test]
fn every_client_by_password() {
    matrix(Auth::Password);
}
