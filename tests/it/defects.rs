//! Where the program is wrong: one connection, one task or one command ends, it is counted, and nobody's data is in what is told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, ExitCode, Output};
use std::time::Duration;

use axum::routing::get;
use jit_broker::api::metrics::{Metrics, router};
use jit_broker::api::serve::serve_plain;
use jit_broker::api::{Api, router as routes};
use jit_broker::domain::refusal::Code;
use tokio::net::TcpListener;

use crate::served::PROGRAM;
use crate::trust::World;

const CANARY: &str = "canary-in-a-panic-44d1";

fn get_from(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

/// Says to a test that it is the process which panics: the hook of panics is a process's.
const CHILD: &str = "JIT_TEST_PANICS_HERE";

/// This test again, in a process of its own.
fn again(name: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("defects::{name}"), "--nocapture"]).env(CHILD, "1").output().unwrap()
}

async fn a_daemon_with_a_defect() {
    jit_broker::bug::watch(|_| {}, |sentence| eprintln!("TOLD {sentence}"));
    let world = World::start().await;
    let metrics = Metrics { broker: world.broker().clone(), ledger: world.settings.ledger.clone(), recordings: None };
    let secret = format!("token {CANARY}");
    let wrong = move || {
        let secret = secret.clone();
        async move {
            let found: Result<(), String> = std::hint::black_box(Err(secret));
            found.unwrap();
            "never"
        }
    };
    let routes = router(metrics)
        .route("/defect", get(wrong))
        .route("/said", get(async || -> &'static str { panic!("a text of the source") }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let serving = tokio::spawn(serve_plain(listener, routes, stopped));
    let asked = tokio::task::spawn_blocking(move || {
        let before = get_from(port, "/metrics");
        assert!(before.contains("jit_broker_panics_total 0\n"), "{before}");
        for path in ["/defect", "/said"] {
            assert_eq!(get_from(port, path), "", "the connection is closed without an answer");
        }
        let after = get_from(port, "/metrics");
        assert!(after.contains("jit_broker_panics_total 2\n") && after.contains("jit_broker_ready 1\n"), "{after}");
        assert!(get_from(port, "/readyz").contains(" 200 "));
    });
    asked.await.unwrap();
    assert!(world.open(600).await.to_string().starts_with("gr_"), "it goes on granting");
    stop.send_replace(true);
    serving.await.unwrap();
    world.stop().await;
}

#[test]
fn a_handler_that_panics_ends_its_connection_alone() {
    if std::env::var_os(CHILD).is_some() {
        return tokio::runtime::Runtime::new().unwrap().block_on(a_daemon_with_a_defect());
    }
    let out = again("a_handler_that_panics_ends_its_connection_alone");
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}");
    let told: Vec<&str> = said.lines().filter(|line| line.starts_with("TOLD")).collect();
    assert_eq!(told.len(), 2, "{said}");
    assert!(told.iter().all(|line| line.contains("tests/it/defects.rs:")), "{told:?}");
    assert!(told[1].ends_with(": a text of the source."), "{told:?}");
    assert!(!said.contains(CANARY), "{said}");
}

#[test]
fn a_command_that_panics_says_so_and_exits_70() {
    if std::env::var_os(CHILD).is_some() {
        let code = jit_broker::cli::guarded(false, || -> ExitCode { panic!("{CANARY} {}", std::process::id()) });
        std::process::exit(if code == ExitCode::from(70) { 70 } else { 99 });
    }
    let out = again("a_command_that_panics_says_so_and_exits_70");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(i32::from(Code::BUG.entry().exit)), "{said}");
    assert!(said.contains("JB7070: A defect of jit-broker ") && said.contains("tests/it/defects.rs:"), "{said}");
    assert!(said.contains("next: Report it") && !said.contains(CANARY), "{said}");
}

#[test]
fn an_answer_that_cannot_be_written_is_no_defect() {
    for (more, wanted) in [("", "JB7007: the answer: No space left on device"), ("-o json ", "\"code\":\"JB7007\"")] {
        let line = format!("'{PROGRAM}' {more}explain JB2003 > /dev/full");
        let out = Command::new("sh").args(["-c", &line]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains(wanted) && said.lines().count() <= 2, "{said}");
    }
}

/// Nobody fills the log, and on a full disk the reserve of the ends, with what is refused anyway; what ends something is never counted.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_refused_is_counted_and_what_ends_something_is_not() {
    use jit_broker::domain::act::Deed;
    use jit_broker::domain::digest::Digest;
    use jit_broker::domain::ids::GrantId;
    use jit_broker::domain::refusal::Code;

    let world = crate::trust::World::start().await;
    let grant = world.open(600).await;
    let before = *world.broker().changed().borrow();
    let release = async |grant| {
        let deed = Deed::Release { by: world.alice.name(), grant };
        world.broker().act(world.sign(&world.alice, None, deed), None, None).await.map(drop)
    };
    for n in 0..1200_u32 {
        let unknown = GrantId::of_digest(&Digest::of(&n.to_le_bytes()));
        assert_eq!(release(unknown).await.unwrap_err().code, Code::MISSING);
    }
    let grown = *world.broker().changed().borrow() - before;
    assert!((900..1100).contains(&grown), "{grown} entries");
    assert_eq!(world.ask(60).await.unwrap_err().code, Code::TOO_OFTEN);
    release(grant).await.unwrap();
    world.stop().await;
}

/// A host that says now this and now that of the authority that it shows does not fill the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_contradicts_itself_makes_no_entries() {
    use jit_broker::daemon::dev::TARGET;
    use jit_broker::domain::act::{Deed, HOST_NAMESPACE, SignedAct};
    use jit_broker::domain::digest::canonical;
    use jit_broker::domain::event::{Command, HostWord};
    use jit_broker::domain::key::Key;
    use jit_broker::domain::names::TargetName;

    let world = crate::trust::World::start().await;
    let (host, target) = (jit_ca::key::PrivateKey::from_seed([5; 32]), TargetName::new(TARGET).unwrap());
    let deed = Deed::EnrollHost { by: world.admin.name(), target: target.clone(), key: Key(host.public().clone()) };
    world.broker().act(world.sign(&world.admin, None, deed), None, None).await.unwrap();
    let active = world.broker().memory().await.state.genesis.as_ref().unwrap().ssh_host.0.fingerprint();
    let says = async |host_ca: &str| {
        let (install, at) = (world.install, world.broker().now());
        let host_ca = Some(host_ca.to_owned());
        let word = HostWord { install, target: target.clone(), krl_version: 0, at, trust: None, host_ca };
        let bytes = canonical(&word).unwrap();
        let signature = jit_ca::sshsig::sign(&host, HOST_NAMESPACE, &bytes).unwrap();
        let signed = SignedAct { act: String::from_utf8(bytes).unwrap(), signature };
        world.broker().command(Command::Confirm(signed), Vec::new()).await.unwrap().events.len()
    };
    assert_eq!(says("SHA256:other").await, 1, "the first word of it");
    for other in [0, 0, 0, 0, 0] {
        assert_eq!((says("SHA256:another").await, says("SHA256:other").await), (other, other));
    }
    assert_eq!((says(&active).await, says("SHA256:other").await, says(&active).await), (1, 0, 0));
    world.stop().await;
}

/// What a route that takes a signed text answers: its status.
async fn posted(world: &World, path: &str, signed: &jit_broker::domain::act::SignedAct) -> u16 {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    let api = Api { broker: world.broker().clone(), server_ca_pem: "".into(), recordings: None };
    let body = Body::from(serde_json::to_vec(signed).unwrap());
    let request = Request::builder().method("POST").uri(path).body(body).unwrap();
    routes(api).oneshot(request).await.unwrap().status().as_u16()
}

/// The word of no enrolled host gets no place in the queue, where revocations wait.
#[tokio::test(flavor = "multi_thread")]
async fn the_word_of_no_host_waits_for_nobody() {
    use jit_broker::daemon::dev::TARGET;
    use jit_broker::domain::act::{Deed, HOST_NAMESPACE, SignedAct};
    use jit_broker::domain::digest::canonical;
    use jit_broker::domain::event::{Command, HostWord};
    use jit_broker::domain::key::Key;
    use sqlx::{ConnectOptions, Connection};

    let world = World::start().await;
    let [host, other] = [5, 6].map(|seed| jit_ca::key::PrivateKey::from_seed([seed; 32]));
    let (by, target) = (world.admin.name(), TARGET.parse().unwrap());
    let deed = Deed::EnrollHost { by, target, key: Key(host.public().clone()) };
    world.broker().act(world.sign(&world.admin, None, deed), None, None).await.unwrap();
    let word = |target: &str, key: &jit_ca::key::PrivateKey| {
        let (install, at, target) = (world.install, world.broker().now(), target.parse().unwrap());
        let word = HostWord { install, target, krl_version: 0, at, trust: None, host_ca: Some("SHA256:a".to_owned()) };
        let bytes = canonical(&word).unwrap();
        let signature = jit_ca::sshsig::sign(key, HOST_NAMESPACE, &bytes).unwrap();
        SignedAct { act: String::from_utf8(bytes).unwrap(), signature }
    };
    // Somebody else holds the store, so the clerk stands still.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&world.settings.ledger);
    let mut holder = options.connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut holder).await.unwrap();
    let broker = world.broker().clone();
    let beat = tokio::spawn(async move { broker.command(Command::Beat, Vec::new()).await });
    while world.broker().decided().await.state.size == *world.broker().changed().borrow() {
        tokio::task::yield_now().await;
    }
    for (signed, wanted) in [(word("web-08", &host), 404), (word(TARGET, &other), 403)] {
        let answer = posted(&world, "/v1/hosts/confirm", &signed);
        let answer = tokio::time::timeout(Duration::from_secs(2), answer).await;
        assert_eq!(answer.ok(), Some(wanted), "{}", signed.act);
    }
    assert!(!beat.is_finished());
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    holder.close().await.unwrap();
    let _ = beat.await.unwrap();
    assert_eq!(posted(&world, "/v1/hosts/confirm", &word(TARGET, &host)).await, 200);
    world.stop().await;
}

/// Whoever signs more than is taken uses up no challenge with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_is_one_too_many_answers_no_challenge() {
    use jit_broker::domain::act::Deed;

    let world = World::start().await;
    let login = |challenge: &str| {
        let (public_url, challenge) = (world.broker().public_url().to_owned(), challenge.to_owned());
        world.sign(&world.alice, None, Deed::Login { public_url, challenge })
    };
    let drawn = || world.broker().sessions().challenge(world.broker().now());
    let open = |challenge: &str| world.broker().sessions().knows(challenge, world.broker().now());
    let (first, last) = (drawn(), drawn());
    assert_eq!((posted(&world, "/v1/acts", &login(&first)).await, open(&first)), (200, false));
    while world.broker().act(login("made up"), None, None).await.err().is_none_or(|no| no.code != Code::TOO_OFTEN) {}
    assert_eq!((posted(&world, "/v1/acts", &login(&last)).await, open(&last)), (429, true));
    world.stop().await;
}
