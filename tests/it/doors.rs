//! Every route, tried as every wrong caller. A route without a row here fails the suite.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use jit_broker::api::{Api, router};
use jit_broker::domain::ids::SessionId;
use tower::ServiceExt;

use crate::trust::World;

/// Method, path, body, and the status for nobody, alice (no office), bob (operator, auditor) and the administrator.
const DOORS: [(&str, &str, &str, [u16; 4]); 36] = [
    ("GET", "/livez", "", [200, 200, 200, 200]),
    ("GET", "/readyz", "", [200, 200, 200, 200]),
    ("GET", "/metrics", "", [404, 404, 404, 404]),
    ("GET", "/v1/about", "", [200, 200, 200, 200]),
    ("POST", "/v1/challenge", "{}", [200, 200, 200, 200]),
    ("POST", "/v1/acts", "{\"act\":\"{}\",\"signature\":\"\"}", [400, 400, 400, 400]),
    ("GET", "/v1/krl", "", [200, 200, 200, 200]),
    ("POST", "/v1/hosts/confirm", "{\"act\":\"{}\",\"signature\":\"\"}", [400, 400, 400, 400]),
    ("POST", "/v1/targets/{target}/test", "", [401, 403, 404, 404]),
    ("GET", "/v1/hosts/{target}/certificate", "", [401, 403, 403, 403]),
    ("GET", "/v1/authorities", "", [401, 403, 200, 200]),
    ("POST", "/v1/authorities/{purpose}/next", "{}", [401, 403, 403, 200]),
    ("GET", "/v1/log", "", [401, 200, 200, 200]),
    ("GET", "/v1/me", "", [401, 200, 200, 200]),
    ("GET", "/v1/targets", "", [401, 200, 200, 200]),
    ("GET", "/v1/why?target=web-07", "", [401, 200, 200, 200]),
    ("GET", "/v1/requests", "", [401, 200, 200, 200]),
    ("GET", "/v1/requests?scope=all", "", [401, 403, 200, 200]),
    ("GET", "/v1/requests/{id}", "", [401, 200, 200, 200]),
    ("GET", "/v1/requests/{id}/earlier", "", [401, 200, 200, 200]),
    ("GET", "/v1/grants", "", [401, 200, 200, 200]),
    ("GET", "/v1/left", "", [401, 200, 200, 200]),
    ("GET", "/v1/grants/{id}", "", [401, 200, 200, 200]),
    ("POST", "/v1/grants/{id}/credential", "{key}", [401, 200, 404, 404]),
    ("GET", "/v1/sessions", "", [401, 200, 200, 200]),
    ("GET", "/v1/sessions/search?text=x", "", [401, 200, 200, 200]),
    ("GET", "/v1/sessions/{id}", "", [401, 404, 404, 404]),
    ("GET", "/v1/sessions/{id}/recording", "", [401, 404, 404, 404]),
    ("GET", "/v1/bundle", "", [401, 403, 200, 200]),
    ("GET", "/v1/people", "", [401, 200, 200, 200]),
    ("GET", "/v1/audit/events", "", [401, 200, 200, 200]),
    ("GET", "/v1/audit/export", "", [401, 403, 200, 200]),
    ("GET", "/v1/audit/witnesses", "", [401, 403, 200, 200]),
    ("GET", "/v1/receipts/{about}", "", [401, 200, 200, 200]),
    ("POST", "/v1/witness/add-checkpoint", "old 0\n\na/log\n", [404, 404, 404, 404]),
    ("POST", "/v1/logout", "", [401, 200, 200, 200]),
];

async fn status(api: &Api, method: &str, path: &str, body: &str, token: Option<&str>) -> StatusCode {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Body::from(body.to_owned())).unwrap();
    router(api.clone()).oneshot(request).await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_for_every_caller() {
    let world = World::start().await;
    let request = world.ask(600).await.unwrap();
    world.approve(&world.bob, request, |_| {}).await.unwrap();
    let grant = world.grant(request).await;
    let api = Api { broker: world.broker().clone(), server_ca_pem: "".into(), recordings: None };
    let token = |name: &str| world.token(name);
    for (method, path, body, wanted) in DOORS {
        let id = match path {
            _ if path.contains("grants") => grant.to_string(),
            _ if path.contains("sessions") => SessionId::new([7; 16]).to_string(),
            _ => request.to_string(),
        };
        let path = path
            .replace("{id}", &id)
            .replace("{target}", "web-07")
            .replace("{about}", &id)
            .replace("{purpose}", "ssh-user");
        let body = body.replace("{key}", &format!("{{\"key\":\"{}\"}}", world.alice.key()));
        for (who, wanted) in [None, Some("alice"), Some("bob"), Some("root-admin")].into_iter().zip(wanted) {
            let session = who.map(token);
            let got = status(&api, method, &path, &body, session.as_deref()).await;
            assert_eq!(got.as_u16(), wanted, "{method} {path} as {who:?}");
        }
        // A session that is over, a made-up one, and one of somebody who is not in the bundle are nobody's.
        if wanted[0] == 401 {
            let stranger = token("mallory");
            for wrong in ["", "AAAA", stranger.as_str()] {
                assert_eq!(status(&api, method, &path, &body, Some(wrong)).await.as_u16(), 401, "{method} {path}");
            }
        }
    }
    let late = token("alice");
    world.clock.advance(3600);
    assert_eq!(status(&api, "GET", "/v1/me", "", Some(&late)).await, StatusCode::UNAUTHORIZED);
    world.stop().await;
}

#[test]
fn no_route_is_without_a_row() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/mod.rs")).unwrap();
    let routes = text.split(".route(").skip(1).filter_map(|r| r.split('"').nth(1));
    for route in routes {
        assert!(DOORS.iter().any(|(_, path, ..)| path.split('?').next() == Some(route)), "{route} has no row");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bodies_are_refused_before_they_are_kept() {
    let world = World::start().await;
    let api = Api { broker: world.broker().clone(), server_ca_pem: "".into(), recordings: None };
    let deep = "[".repeat(100_000);
    let wide = format!("{{\"act\":\"{}\",\"signature\":\"\"}}", "x".repeat(2 << 20));
    let cases = [
        ("{\"act\":\"{}\",\"signature\":\"\",\"approved_by\":\"me\"}".to_owned(), 400),
        ("{\"act\":1e999,\"signature\":\"\"}".to_owned(), 400),
        ("{\"act\":\"\\ud800\",\"signature\":\"\"}".to_owned(), 400),
        ("NaN".to_owned(), 400),
        (deep, 400),
        (wide, 400),
    ];
    for (body, wanted) in cases {
        let shown: String = body.chars().take(40).collect();
        assert_eq!(status(&api, "POST", "/v1/acts", &body, None).await.as_u16(), wanted, "{shown}");
    }
    world.stop().await;
}
