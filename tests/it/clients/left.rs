//! What is left on targets is shown to those whom it concerns: by `status`, and by `check` on the broker's machine.

use std::sync::Arc;

use jit_broker::accounts::postgres::{Postgres, Secret, Server};
use jit_broker::accounts::{Account, MarkerKey, Proof};
use jit_broker::clock::random16;
use jit_broker::domain::database::Auth;
use jit_broker::domain::ids::{GrantId, InstallId};
use jit_broker::domain::names::AccountName;
use serde_json::Value;

use super::desk::Desk;
use crate::served::eventually;
use crate::world::Done;

/// Makes an account behind the broker's back, with this mark; gives its name.
fn make(desk: &Desk, install: InstallId, key: MarkerKey) -> String {
    let password = std::fs::read_to_string(desk.served.broker_dir().join("db-prod-admin")).unwrap();
    let server = Server {
        host: "127.0.0.1".to_owned(),
        port: desk.server.port,
        tls_name: "localhost".to_owned(),
        ca_pem: desk.server.ca_pem.clone(),
        database: "app".to_owned(),
        admin: "jit_admin".to_owned(),
        secret: Arc::new(move || Ok(Secret::Password(password.trim().to_owned().into()))),
    };
    let account = Account {
        name: AccountName::of_random(&random16()),
        grant: GrantId::new(random16()),
        member_of: vec!["app_writer".to_owned()],
        read_only: false,
        statement_timeout_ms: None,
        connection_limit: None,
        valid_until: 4_000_000_000,
        proof: Proof::Cert,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Postgres::new(server, install, key).make(&account)).unwrap();
    account.name.to_string()
}

fn own_mark(desk: &Desk) -> (InstallId, MarkerKey) {
    let context: Value = serde_json::from_str(&desk.told("cat jit/config/context.json")).unwrap();
    let text = std::fs::read_to_string(desk.served.broker_dir().join("state/marker")).unwrap();
    let key = data_encoding::HEXLOWER.decode(text.trim().as_bytes()).unwrap();
    (context["about"]["install"].as_str().unwrap().parse().unwrap(), MarkerKey::new(key.try_into().unwrap()))
}

fn check(desk: &Desk, flags: &str) -> Done {
    desk.run("bob", &format!("jit-broker {flags} check --config {}", desk.served.config().display()))
}

#[test]
fn accounts_that_nobody_explains_are_shown() {
    let mut desk = Desk::start(Auth::Cert, "");
    assert_eq!((desk.run("bob", "jit-broker status").code, check(&desk, "").code), (Some(0), Some(0)));
    let (install, key) = own_mark(&desk);
    let (ours, theirs) = (make(&desk, install, key), make(&desk, InstallId::new(random16()), MarkerKey::new([3; 32])));
    desk.served.stop();
    desk.served.serve();
    eventually("the sweep has looked", || desk.run("bob", "jit-broker status").code == Some(10));
    let told = desk.run("bob", "jit-broker status").out;
    let server = format!("127.0.0.1:{}", desk.server.port);
    assert!(told.contains(&format!("LEFT {ours} on {server}: no open grant explains it")), "{told}");
    assert!(told.contains(&format!("stranger {theirs} on {server}: ")) && told.contains("not touched"), "{told}");
    let doc = desk.run("root-admin", "jit-broker -o json status");
    assert_eq!(doc.code, Some(10), "administrators are operators");
    let doc: Value = serde_json::from_str(&doc.out).unwrap();
    let mut found: Vec<_> =
        doc["strangers"].as_array().unwrap().iter().map(|s| (s["account"].as_str(), s["ours"].as_bool())).collect();
    let mut wanted = vec![(Some(ours.as_str()), Some(true)), (Some(theirs.as_str()), Some(false))];
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    // It concerns nobody without an office.
    let alice = desk.run("alice", "jit-broker -o json status");
    assert_eq!((alice.code, alice.out.contains(&ours)), (Some(0), false), "{}", alice.out);
    // On the broker's machine, without a session.
    let checked = check(&desk, "");
    assert_eq!((checked.code, checked.err.contains(&ours)), (Some(10), true), "{}", checked.err);
    let checked: Value = serde_json::from_str(&check(&desk, "-o json").out).unwrap();
    assert_eq!(checked["strangers"].as_array().map(Vec::len), Some(2), "{checked}");
    // Ours is cleared up by hand: what is not ours stays to be seen, and is no residue.
    desk.server.sql("app", &format!("DROP ROLE {ours}")).unwrap();
    desk.served.stop();
    desk.served.serve();
    eventually("the sweep has looked", || desk.run("bob", "jit-broker status").code == Some(0));
    eventually("theirs is still shown", || desk.run("bob", "jit-broker status").out.contains(&theirs));
    let checked = check(&desk, "");
    assert_eq!((checked.code, checked.err.contains(&theirs)), (Some(0), true), "{}", checked.err);
}

#[test]
fn what_could_not_be_removed_is_shown_until_it_is_gone() {
    let mut desk = Desk::start(Auth::Cert, "");
    let grant = desk.writing("30m");
    let user = Value::from(
        desk.told("jit-broker login db-prod --role rw >&2; jit-broker -o json show $(jit-broker -o name status)"),
    );
    let user: Value = serde_json::from_str(user.as_str().unwrap()).unwrap();
    let account = user["account"].as_str().unwrap().to_owned();
    desk.server.stop();
    let revoked = desk.run("bob", &format!("jit-broker revoke {grant} --reason 'enough of that'"));
    assert_eq!(revoked.code, Some(10), "{}{}", revoked.out, revoked.err);
    assert!(revoked.out.contains("residue") && revoked.out.contains(&format!("LEFT {account}")), "{}", revoked.out);
    for (who, line) in
        [("alice", "LEFT"), ("bob", "residue  rw on db-prod of alice"), ("root-admin", "cannot be reached")]
    {
        let told = desk.run(who, "jit-broker status");
        assert_eq!((told.code, told.out.contains(line)), (Some(10), true), "{who}: {}{}", told.out, told.err);
        assert_eq!(told.out.matches("LEFT").count(), 1, "{who}: {}", told.out);
    }
    let doc = desk.run("bob", "jit-broker -o json status").out;
    let doc: Value = serde_json::from_str(&doc).unwrap();
    assert_eq!(
        (doc["residue"][0]["grant"].as_str(), doc["residue"][0]["account"].as_str()),
        (Some(grant.as_str()), Some(account.as_str()))
    );
    let checked = check(&desk, "");
    assert_eq!((checked.code, checked.err.contains(&account)), (Some(10), true), "{}", checked.err);
    desk.server.run().unwrap();
    eventually("it is gone", || desk.run("bob", "jit-broker status").code == Some(0));
    eventually("check knows", || check(&desk, "").code == Some(0));
    assert_eq!(desk.grant(&grant)["state"], "revoked");
}
