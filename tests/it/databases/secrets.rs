//! The admin's secret goes to its own server and to no other.

use std::net::TcpListener;
use std::time::Duration;

use jit_broker::broker::sweep::Told;
use jit_broker::domain::act::Deed;
use jit_broker::domain::refusal::Code;

use super::world::Db;

#[test]
fn a_target_that_moved_gets_no_secret() {
    let db = Db::cert();
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    db.adopt(trap.local_addr().unwrap().port(), &db.server.ca_pem);
    let grant = db.grant("rw", 600);
    let refused = db.issue(grant).unwrap_err();
    assert_eq!((refused.code, refused.code.to_string().as_str()), (Code::SECRET, "JB9003"));
    let tested = db.run(db.broker().test_target(&db.bob.name(), &"db-prod".parse().unwrap())).unwrap_err();
    assert_eq!(tested.code, Code::SECRET);
    assert!(!db.run(db.broker().sweep(&mut Told::default())));
    // Nothing was planned, so that nothing is left to be removed.
    assert!(!db.kinds(grant).contains(&"account.planned".to_owned()), "{:?}", db.kinds(grant));
    db.act(&db.alice, None, Deed::Release { by: db.alice.name(), grant }).unwrap();
    db.ended(grant, Duration::from_secs(1));
    assert!(trap.accept().is_err(), "somebody called");
}

#[test]
fn an_account_that_is_there_ends_where_it_is() {
    let db = Db::cert();
    let (grant, account, _) = db.open("rw", 600);
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    db.adopt(trap.local_addr().unwrap().port(), &db.server.ca_pem);
    db.revoke(grant);
    db.ended(grant, Duration::from_secs(5));
    assert_eq!(db.traces(&account), "0|0");
    assert!(trap.accept().is_err(), "somebody called");
}
