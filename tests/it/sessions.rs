//! Sessions through a gateway as the log and the signer see them: who may open one, what its certificate says, and what ends it.

use std::time::Duration;

use jit_broker::broker::gateway::Opened;
use jit_broker::broker::{lease, reaper::round};
use jit_broker::daemon::open_gate;
use jit_broker::domain::act::{Deed, Selector};
use jit_broker::domain::event::{Command, Event};
use jit_broker::domain::grant::GrantState;
use jit_broker::domain::ids::GrantId;
use jit_broker::domain::key::Key;
use jit_broker::domain::refusal::{Code, Refusal};
use jit_broker::domain::session::{SessionCause, SessionEnd};
use jit_broker::signer::{Order, Signer};

use crate::trust::{World, leaves, paused, stop_at, words};

fn leg() -> Key {
    Key(jit_ca::key::PrivateKey::from_seed([77; 32]).public().clone())
}

async fn enter(world: &World, grant: GrantId) -> Result<Opened, Refusal> {
    world.broker().open_session(grant, &"deploy".parse().unwrap(), &world.alice.key(), &leg()).await
}

/// Looks at the leases until this one is over, for ten seconds at most.
async fn over(world: &World, opened: &mut Opened) -> SessionCause {
    lease::look(world.broker()).await;
    tokio::time::timeout(Duration::from_secs(10), opened.lease.over()).await.unwrap().cause
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_own_certificate_is_bound_to_it_and_the_persons_opens_no_host() {
    let world = World::with_gateway().await;
    let grant = world.open(600).await;
    let certificate = jit_ca::ssh::read(&world.issue(grant).await.unwrap()).unwrap();
    let genesis = world.broker().memory().await.state.genesis.clone().unwrap();
    assert_eq!(Some(Key(certificate.ca.clone())), genesis.ssh_gateway);
    assert_ne!(Key(certificate.ca), genesis.ssh_user, "a host trusts this one");
    let opened = enter(&world, grant).await.unwrap();
    let facts = jit_ca::ssh::read(&opened.leg).unwrap();
    assert_eq!((Key(facts.ca), Key(facts.key)), (genesis.ssh_user.clone(), leg()));
    assert_eq!(facts.critical.get("source-address").map(String::as_str), Some("127.0.0.1/32,::1/128"));
    assert_eq!(facts.principals.iter().map(ToString::to_string).collect::<Vec<_>>(), ["web-07/deploy"]);
    assert_eq!(i64::try_from(facts.valid_before).unwrap(), opened.ends_at, "no longer than the grant");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_enters_with_anothers_key_another_account_or_without_a_window() {
    let world = World::with_gateway().await;
    let grant = world.open(600).await;
    let login = "deploy".parse().unwrap();
    let broker = world.broker();
    let other = broker.open_session(grant, &login, &world.bob.key(), &leg()).await.unwrap_err();
    assert_eq!(other.code, Code::OTHER_KEY);
    let root = broker.open_session(grant, &"root".parse().unwrap(), &world.alice.key(), &leg()).await.unwrap_err();
    assert_eq!(root.code, Code::MISSING);
    world.clock.advance(600);
    assert_eq!(enter(&world, grant).await.unwrap_err().code, Code::WINDOW_CLOSED);
    world.stop().await;
    // A grant that is not for the gateway opens none.
    let world = World::start().await;
    let grant = world.open(600).await;
    assert!(enter(&world, grant).await.is_err());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_ended_when_its_last_session_is_closed_and_not_before() {
    let world = World::with_gateway().await;
    let grant = world.open(600).await;
    let (mut one, two) = (enter(&world, grant).await.unwrap(), enter(&world, grant).await.unwrap());
    world.clock.advance(600);
    assert_eq!(over(&world, &mut one).await, SessionCause::WindowEnd);
    round(world.broker()).await.unwrap();
    world.clock.advance(3000);
    round(world.broker()).await.unwrap();
    assert!(matches!(world.state(grant).await, GrantState::Ending { .. }), "no time proves that a session is closed");
    let end = |late_ms| SessionEnd { late_ms: Some(late_ms), ..SessionEnd::nothing(SessionCause::WindowEnd) };
    world.broker().close_session(one.session, end(12)).await.unwrap();
    assert!(matches!(world.state(grant).await, GrantState::Ending { .. }));
    world.broker().close_session(two.session, end(17)).await.unwrap();
    world.broker().close_session(two.session, end(99)).await.unwrap();
    let GrantState::Ended { proofs, .. } = world.state(grant).await else { panic!("it is over") };
    let session = proofs.iter().find(|p| p.what == "session").unwrap();
    assert_eq!(session.ok, Some(true));
    assert!(session.detail.contains("17 ms"), "{}", session.detail);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_a_lost_key_and_an_operator_each_end_a_session() {
    let world = World::with_gateway().await;
    let why = words("enough of that");
    let grant = world.open(600).await;
    let (mut one, mut two) = (enter(&world, grant).await.unwrap(), enter(&world, grant).await.unwrap());
    assert!(one.lease.is_over().is_none());
    // One session alone, by its holder, and not by somebody it does not concern.
    let end = |who: &jit_broker::daemon::dev::Somebody| {
        world.sign(who, Some(&why), Deed::EndSession { by: who.name(), session: one.session })
    };
    let stranger = world.broker().act(end(&world.admin), Some(&why), None).await;
    assert!(stranger.is_ok(), "administrators are operators");
    assert_eq!(over(&world, &mut one).await, SessionCause::EndedBy);
    world.broker().close_session(one.session, SessionEnd::nothing(SessionCause::EndedBy)).await.unwrap();
    assert!(two.lease.is_over().is_none());
    assert!(matches!(world.state(grant).await, GrantState::Active));
    // Revoked: the certificates of both legs go on the list until the window's end.
    let revoke = Deed::Revoke { by: world.bob.name(), of: Selector::Grant(grant) };
    world.broker().act(world.sign(&world.bob, Some(&why), revoke), Some(&why), None).await.unwrap();
    assert_eq!(over(&world, &mut two).await, SessionCause::Revoked);
    assert_eq!(world.broker().memory().await.state.krl.serials.len(), 2);
    assert!(enter(&world, grant).await.is_err());
    // A key that is revoked takes its sessions along, though the grant stays.
    let again = world.open(600).await;
    let mut three = enter(&world, again).await.unwrap();
    let lost = Deed::RevokeKey { by: world.bob.name(), key: world.alice.key() };
    world.broker().act(world.sign(&world.bob, Some(&why), lost), Some(&why), None).await.unwrap();
    assert_eq!(over(&world, &mut three).await, SessionCause::Revoked);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signer_judges_sessions_by_itself() {
    let mut world = World::with_gateway().await;
    let grant = world.open(600).await;
    let opened = enter(&world, grant).await.unwrap();
    world.daemon.take().unwrap().stop().await;
    let shown = leaves(&world.settings.ledger).await;
    let mut settings = world.settings.clone();
    let leg = Order::SessionLeg { session: opened.session };
    let mut gate = open_gate(&settings, world.clock.clone()).unwrap();
    crate::gate::show(&mut gate, &shown).unwrap();
    assert!(gate.order(leg.clone()).is_ok());
    // The daemon says another address than the signer's own configuration.
    settings.gateway_ssh.as_mut().unwrap().seen.source = vec!["10.0.0.5/32".parse().unwrap()];
    let mut gate = open_gate(&settings, world.clock.clone()).unwrap();
    crate::gate::show(&mut gate, &shown).unwrap();
    assert_eq!(gate.order(leg.clone()).unwrap_err().code, Code::SIGNER_REFUSED);
    // A certificate in the name of a host that is not reached through the gateway.
    let cert = |target: Option<&str>| Order::GatewayCert {
        key: self::leg(),
        target: target.map(|name| name.parse().unwrap()),
    };
    assert!(gate.order(cert(Some("web-07"))).is_ok());
    assert!(gate.order(cert(None)).is_ok());
    assert_eq!(gate.order(cert(Some("web-08"))).unwrap_err().code, Code::SIGNER_REFUSED);
    world.clock.advance(600);
    assert_eq!(gate.order(leg).unwrap_err().code, Code::SIGNER_REFUSED, "the window is over by the signer's own clock");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_daemon_left_open_is_closed_at_the_next_start() {
    let mut world = World::with_gateway().await;
    let grant = world.open(600).await;
    let opened = enter(&world, grant).await.unwrap();
    world.daemon.take().unwrap().stop().await;
    world.daemon = Some(jit_broker::daemon::Daemon::start(&world.settings, world.clock.clone()).await.unwrap());
    assert!(world.broker().memory().await.state.sessions.is_empty());
    let closed = leaves(&world.settings.ledger).await.into_iter().rev().find_map(|leaf| {
        let entry: jit_broker::domain::event::Entry = serde_json::from_str(&leaf.entry).unwrap();
        match entry.event {
            Event::SessionClosed { session, end, .. } if session == opened.session => Some(end.cause),
            _ => None,
        }
    });
    assert_eq!(closed, Some(SessionCause::Lost));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_target_needs_a_gateway() {
    let world = World::start().await;
    let text = jit_broker::daemon::dev::bundle(&world.alice.key(), &world.bob.key(), "deploy", 22);
    let text = jit_broker::daemon::dev::through_gateway(text);
    let refused = jit_broker::daemon::dev::adopt(world.broker(), &world.admin, world.install, &text).await;
    assert_eq!(refused.unwrap_err().code, Code::BUNDLE_REFUSED);
    world.stop().await;
}

#[test]
fn check_tells_of_a_gateway_target_without_a_gateway_and_init_of_a_gateway_without_an_address() {
    let served = crate::served::Served::init();
    let text = jit_broker::daemon::dev::bundle(&served.alice.key(), &served.bob.key(), "deploy", 22);
    for (name, text) in jit_broker::daemon::dev::through_gateway(text).files {
        std::fs::write(served.broker_dir().join(name), text).unwrap();
    }
    let config = served.config();
    let check = || -> crate::world::Done {
        let config = config.display().to_string();
        served.operator(&["check", "--config", &config]).output().unwrap().into()
    };
    let done = check();
    assert_eq!(done.code, Some(78), "{done:?}");
    assert!(
        done.err.contains("web-07 is reached through the gateway, and jit-broker.toml has no [gateway.ssh]"),
        "{done:?}"
    );
    let before = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{before}\n[gateway.ssh]\nlisten = \"127.0.0.1:7022\"\n")).unwrap();
    assert_eq!(check().code, Some(0), "{:?}", check());
    // A gateway that listens everywhere must be told its address, before anything is made.
    let dir = served.dir.join("second");
    let key = served.dir.join("root-admin/id_ed25519.pub");
    let mut init = served.operator(&["init", "--admin", "root-admin", "--gateway-ssh", "0.0.0.0:7022"]);
    let done: crate::world::Done = init.arg("--dir").arg(&dir).arg("--key").arg(key).output().unwrap().into();
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("--gateway-source") && !dir.exists(), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_under_a_grant_that_lasts_longer_and_allows_as_much() {
    let world = World::with_gateway().await;
    let first = world.open(600).await;
    let mut opened = enter(&world, first).await.unwrap();
    world.clock.advance(500);
    // The window as it stands has less left than is asked for, so this is another grant.
    let second = world.open(900).await;
    assert_ne!(first, second);
    lease::look(world.broker()).await;
    assert_eq!(opened.lease.ends_at(), world.broker().now() + 900, "who is warned is warned of the later end");
    world.clock.advance(100);
    lease::look(world.broker()).await;
    assert!(opened.lease.is_over().is_none());
    round(world.broker()).await.unwrap();
    assert!(matches!(world.state(first).await, GrantState::Ended { .. }), "nothing is left under the first");
    assert!(matches!(world.state(second).await, GrantState::Active));
    let facts = jit_ca::ssh::read(&world.broker().session_leg(opened.session).await.unwrap()).unwrap();
    assert_eq!(i64::try_from(facts.valid_before).unwrap(), opened.lease.ends_at(), "the new certificate lasts as long");
    assert!(facts.extensions["grant@jit-broker"].contains(&second.to_string()));
    // And ends with it.
    world.clock.advance(800);
    assert_eq!(over(&world, &mut opened).await, SessionCause::WindowEnd);
    world.broker().close_session(opened.session, SessionEnd::nothing(SessionCause::WindowEnd)).await.unwrap();
    round(world.broker()).await.unwrap();
    assert!(matches!(world.state(second).await, GrantState::Ended { .. }));
    let memory = world.broker().memory().await;
    assert!(memory.state.indexes_hold());
    drop(memory);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_moves_nothing() {
    let world = World::with_gateway().await;
    let first = world.open(600).await;
    let mut opened = enter(&world, first).await.unwrap();
    let second = world.open(900).await;
    let why = words("enough of that");
    let revoke = Deed::Revoke { by: world.bob.name(), of: Selector::Grant(first) };
    world.broker().act(world.sign(&world.bob, Some(&why), revoke), Some(&why), None).await.unwrap();
    assert_eq!(over(&world, &mut opened).await, SessionCause::Revoked);
    assert!(matches!(world.state(second).await, GrantState::Ready));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_cuts_and_the_log_goes_on_while_the_signer_hangs() {
    let mut world = World::with_gateway().await;
    let doors = paused(&mut world).await;
    let grant = world.open(600).await;
    let mut opened = enter(&world, grant).await.unwrap();
    let (arrived, go_on) = stop_at(&doors);
    let why = words("enough of that");
    let deed = Deed::Revoke { by: world.bob.name(), of: Selector::Grant(grant) };
    let (revoke, broker) = (world.sign(&world.bob, Some(&why), deed), world.broker().clone());
    let revoked = tokio::spawn(async move { broker.act(revoke, Some(&why), None).await });
    tokio::task::spawn_blocking(move || arrived.recv_timeout(Duration::from_secs(30)).unwrap()).await.unwrap();
    // It is on the disk, and nobody looks but whoever always does.
    let over = tokio::time::timeout(Duration::from_secs(10), opened.lease.over()).await.unwrap();
    assert_eq!(over.cause, SessionCause::Revoked);
    // The next end does not wait for the signer either, and grants do.
    let beat = world.broker().command(Command::Beat, Vec::new());
    let beat = tokio::time::timeout(Duration::from_secs(20), beat).await.unwrap().unwrap();
    assert!(beat.notice.is_some_and(|notice| notice.contains("not signed")));
    assert_eq!(world.issue(grant).await.unwrap_err().code, Code::WINDOW_CLOSED);
    assert_eq!(world.ask(60).await.unwrap_err().code, Code::SIGNER_AWAY);
    go_on.send(()).unwrap();
    // The list of revoked serials is the signer's.
    revoked.await.unwrap().unwrap();
    let signed = async {
        while world.broker().note().is_none_or(|(size, _)| size < *world.broker().changed().borrow()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), signed).await.unwrap();
    world.open(600).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_ends_while_the_ledgers_disk_stands_still() {
    use sqlx::{ConnectOptions, Connection};

    let world = World::with_gateway().await;
    let grant = world.open(600).await;
    let mut opened = enter(&world, grant).await.unwrap();
    // Somebody else holds the store; a batch waits for them.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&world.settings.ledger);
    let mut other = options.connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let broker = world.broker().clone();
    let beat = tokio::spawn(async move { broker.command(Command::Beat, Vec::new()).await });
    while world.broker().decided().await.state.size == *world.broker().changed().borrow() {
        tokio::task::yield_now().await;
    }
    world.clock.advance(600);
    let over = tokio::time::timeout(Duration::from_secs(4), opened.lease.over()).await.unwrap();
    assert_eq!(over.cause, SessionCause::WindowEnd);
    assert!(!beat.is_finished(), "it was over before the disk went on");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    let _ = beat.await.unwrap();
    world.stop().await;
}
