//! Guessing (T146): a thousand tokens that are none, names of who may exist, and spellings.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use jit_broker::api::{Api, router};
use jit_broker::daemon::dev::Somebody;
use jit_broker::domain::act::Deed;
use jit_broker::domain::names::{PersonName, RoleName, TargetName};
use jit_broker::domain::refusal::Code;
use tower::ServiceExt;

use crate::served::{Client, Served};
use crate::trust::World;

/// The answers to so many guesses on one connection.
fn guess(client: &Client<'_>, from: usize, count: usize) -> Vec<String> {
    let mut tls = client.connect().unwrap();
    (from..from + count)
        .map(|n| {
            write!(tls, "GET /v1/me HTTP/1.1\r\nhost: x\r\nauthorization: Bearer guess-{n:040}\r\n\r\n").unwrap();
            let mut answer = String::new();
            while !answer.contains("\r\n\r\n") || !answer.ends_with('}') {
                let mut piece = [0; 4096];
                let length = tls.read(&mut piece).unwrap();
                assert!(length > 0, "cut after {answer}");
                answer.push_str(std::str::from_utf8(&piece[..length]).unwrap());
            }
            answer.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n")
        })
        .collect()
}

#[test]
fn a_thousand_guesses_are_answered_alike_and_lock_nobody_out() {
    let mut served = Served::init();
    served.serve();
    served.adopt();
    let (alice, other) = (served.client(&served.alice).unwrap(), served.client(&served.bob).unwrap());
    let size = || served.cli("root-admin", "jit-broker -o json audit tail -n 1").json()["items"][0]["seq"].as_u64();
    served.sign_in("root-admin");
    let before = std::fs::metadata(served.ledger()).unwrap().len();
    let began = Instant::now();
    let (answers, slowest) = std::thread::scope(|scope| {
        let other = &other;
        let guessing: Vec<_> = (0..100).map(|n| scope.spawn(move || guess(other, n * 10, 10))).collect();
        let mut slowest = Duration::ZERO;
        while guessing.iter().any(|thread| !thread.is_finished()) {
            let asked = Instant::now();
            alice.call("GET", "/v1/me", None).unwrap();
            slowest = slowest.max(asked.elapsed());
            std::thread::sleep(Duration::from_millis(100));
        }
        let answers: Vec<String> = guessing.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (answers, slowest)
    });
    assert_eq!(answers.len(), 1000);
    assert!(answers[0].starts_with("HTTP/1.1 401 ") && answers[0].contains("JB4001"), "{}", answers[0]);
    assert!(answers.iter().all(|answer| answer == &answers[0]), "one answer for all");
    assert!(began.elapsed() > Duration::from_secs(5), "guessing got slow: {:?}", began.elapsed());
    assert!(slowest < Duration::from_secs(1), "who holds a token does not wait: {slowest:?}");
    // The same address signs in, and asks, as before; nothing of the guesses was kept.
    let again = served.client(&served.alice).unwrap();
    let grant = again.ask(600).unwrap();
    again.certificate(grant).unwrap();
    assert!(std::fs::metadata(served.ledger()).unwrap().len() < before + (1 << 20));
    assert!(size().is_none_or(|seq| seq < 60), "guesses are no entries");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_who_exists_from_what_is_refused() {
    let world = World::start().await;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let stranger = Somebody::make(folder.path(), "mallory").unwrap();
    let api = Api { broker: world.broker().clone(), server_ca_pem: "".into(), recordings: None };
    let said = |who: &Somebody, by: &str| {
        let deed = Deed::Request {
            by: PersonName::new(by).unwrap(),
            target: TargetName::new("web-07").unwrap(),
            role: RoleName::new("deploy").unwrap(),
            for_s: Some(60),
            key: who.key(),
        };
        serde_json::to_string(&world.sign(who, None, deed)).unwrap()
    };
    let asked = |body: String| {
        let api = api.clone();
        async move {
            let request = Request::builder().method("POST").uri("/v1/acts").body(Body::from(body)).unwrap();
            let answer = router(api).oneshot(request).await.unwrap();
            let status = answer.status();
            let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        }
    };
    // A key that nobody has, in the name of somebody and of nobody; then bob's own.
    for who in [&stranger, &world.bob] {
        let (real, made_up) = (asked(said(who, "alice")).await, asked(said(who, "zoe")).await);
        assert_eq!(real, made_up);
        assert_ne!(real.0.as_u16(), 200);
    }
    // A name has one spelling, so there is no other one that a limit would not know.
    for spelled in ["Alice", "alice ", "ALICE", "аlice", "alice\u{200b}", "alice\0", ""] {
        assert!(PersonName::new(spelled).is_err(), "{spelled:?}");
        let body =
            said(&world.alice, "alice").replace("\\\"by\\\":\\\"alice\\\"", &format!("\\\"by\\\":\\\"{spelled}\\\""));
        let (status, text) = asked(body).await;
        assert_eq!(status.as_u16(), 400, "{spelled:?}: {text}");
        assert!(text.contains(&Code::BAD_ACT.to_string()) || text.contains(&Code::BAD_BODY.to_string()), "{text}");
    }
    world.stop().await;
}
