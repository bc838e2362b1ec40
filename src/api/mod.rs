//! HTTPS and JSON: the same verbs as everywhere, for clients that sign.
//!
//! True here: a route reads, or passes on one signed act; who may do what is decided below. Every limit stands in [`serve`].
//! Never here: a decision, a key of the broker, a change of state by GET.
//! The routes are listed in [`crate::wire`].

mod acts;
mod audit;
pub mod metrics;
mod reads;
pub mod serve;
pub mod sessions;

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, request::Parts};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::broker::Broker;
use crate::broker::clerk::ledger_refusal;
use crate::broker::session::Session;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::wire::ErrorDoc;
use crate::witness::Outside;

/// The largest body of most routes, in bytes.
const MAX_BODY: usize = 128 * 1024;
/// How long a body may take to arrive: slower ones are given up.
const BODY: std::time::Duration = std::time::Duration::from_secs(10);
/// The largest body of an act, which may carry a bundle, in bytes.
const MAX_ACT_BODY: usize = 1280 * 1024;

/// What the routes share.
#[derive(Clone)]
pub struct Api {
    /// The verbs.
    pub broker: Broker,
    /// The server CA's certificate, for those who pin it.
    pub server_ca_pem: std::sync::Arc<str>,
    /// What was recorded, where a gateway records.
    pub recordings: Option<sessions::Recordings>,
}

/// All routes.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(reads::ready))
        .route("/v1/about", get(reads::about))
        .route("/v1/challenge", post(acts::challenge))
        .route("/v1/acts", post(acts::act).layer(DefaultBodyLimit::max(MAX_ACT_BODY)))
        .route("/v1/krl", get(reads::krl))
        .route("/v1/hosts/confirm", post(acts::confirm))
        .route("/v1/hosts/{target}/certificate", get(reads::host_certificate))
        .route("/v1/authorities", get(reads::authorities))
        .route("/v1/authorities/{purpose}/next", post(acts::next_key))
        .route("/v1/log", get(reads::log))
        .route("/v1/me", get(reads::me))
        .route("/v1/logout", post(acts::logout))
        .route("/v1/targets", get(reads::targets))
        .route("/v1/why", get(reads::why))
        .route("/v1/requests", get(reads::requests))
        .route("/v1/requests/{id}", get(reads::request))
        .route("/v1/requests/{id}/earlier", get(reads::earlier))
        .route("/v1/grants", get(reads::grants))
        .route("/v1/left", get(reads::left))
        .route("/v1/grants/{id}", get(reads::grant))
        .route("/v1/grants/{id}/credential", post(acts::credential))
        .route("/v1/targets/{target}/test", post(acts::test_target))
        .route("/v1/sessions", get(sessions::sessions))
        .route("/v1/sessions/search", get(sessions::search))
        .route("/v1/sessions/{id}", get(sessions::session))
        .route("/v1/sessions/{id}/recording", get(sessions::recording))
        .route("/v1/bundle", get(reads::bundle))
        .route("/v1/people", get(reads::people))
        .route("/v1/audit/events", get(audit::events))
        .route("/v1/audit/export", get(audit::export))
        .route("/v1/audit/witnesses", get(audit::witnesses))
        .route("/v1/receipts/{about}", get(audit::receipt))
        .route("/v1/witness/add-checkpoint", post(audit::add_checkpoint))
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, Problem(Refusal::new(Code::MISSING, "This route takes another method.")))
        })
        .fallback(async || Problem(Refusal::new(Code::MISSING, "There is no such route.")))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn_with_state(api.clone(), prove))
        .with_state(api)
}

/// The routes, with the copies of checkpoints that they tell of.
pub fn with_outside(router: Router, outside: Outside) -> Router {
    router.layer(axum::Extension(outside))
}

/// A refusal on its way out.
pub struct Problem(pub Refusal);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.entry().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorDoc::from(&self.0))).into_response()
    }
}

/// A body of any form, as large and as slow as one may be.
async fn body(request: axum::extract::Request, api: &Api) -> Result<axum::body::Bytes, Problem> {
    let read = tokio::time::timeout(BODY, axum::body::Bytes::from_request(request, api)).await;
    let read = read.map_err(|_| Problem(Refusal::new(Code::BAD_BODY, "The body did not arrive in time.")))?;
    read.map_err(|e| {
        let mut refusal = Refusal::new(Code::BAD_BODY, format!("The body was not taken: {}.", e.body_text()));
        refusal.hint = None;
        Problem(refusal)
    })
}

/// A JSON body, with our own words for what is wrong with it.
pub struct Body<T>(pub T);

impl<T: serde::de::DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: axum::extract::Request, api: &Api) -> Result<Self, Problem> {
        let bytes = body(request, api).await?;
        let wrong = |e: serde_json::Error| {
            Problem(Refusal::new(Code::BAD_BODY, format!("The body is not the document that this route takes: {e}.")))
        };
        Ok(Self(serde_json::from_slice(&bytes).map_err(wrong)?))
    }
}

/// A body that is text.
pub struct Text(pub String);

impl FromRequest<Api> for Text {
    type Rejection = Problem;

    async fn from_request(request: axum::extract::Request, api: &Api) -> Result<Self, Problem> {
        let text = String::from_utf8(body(request, api).await?.into());
        text.map(Self).map_err(|_| Problem(Refusal::new(Code::BAD_BODY, "The body is not text in UTF-8.")))
    }
}

/// A query, with our own words for what is wrong with it.
pub struct Query<T>(pub T);

impl<T: serde::de::DeserializeOwned> FromRequestParts<Api> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let query = axum::extract::Query::from_request_parts(parts, api).await;
        let wrong = |e: axum::extract::rejection::QueryRejection| {
            Problem(Refusal::new(
                Code::BAD_BODY,
                format!("The query is not the one that this route takes: {}.", e.body_text()),
            ))
        };
        query.map(|axum::extract::Query(query)| Self(query)).map_err(wrong)
    }
}

/// A name or an id in a path. What cannot be one is not there.
pub struct Path<T>(pub T);

impl<T: serde::de::DeserializeOwned + Send> FromRequestParts<Api> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, api).await;
        let missing = |_| Problem(Refusal::new(Code::MISSING, "There is no such thing, or you may not know of it."));
        path.map(|axum::extract::Path(path)| Self(path)).map_err(missing)
    }
}

/// Whoever is signed in.
pub struct Caller(pub Session);

impl Caller {
    /// Their name.
    pub fn name(&self) -> &PersonName {
        &self.0.person
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let nobody = || Problem(Refusal::new(Code::NOT_SIGNED_IN, "You are not signed in, or not any more."));
        let token = bearer(&parts.headers).ok_or_else(nobody)?;
        let session = api.broker.sessions().find(token, api.broker.now());
        let Some(session) = session else {
            // SECURITY (T146): the answer is that of no token at all; guessing gets slow, and nobody who holds a token waits.
            let wait = parts.extensions.get::<serve::Peer>().map(|peer| api.broker.guessed(peer.0));
            tokio::time::sleep(wait.unwrap_or_default()).await;
            return Err(nobody());
        };
        // Whoever loses their access loses it here a moment before the disk has it.
        let memory = api.broker.decided().await;
        let (state, who) = (&memory.state, &session.person);
        if !state.has_key(who, &session.key_fp) || state.disabled.contains(who) || state.person(who).is_none() {
            return Err(nobody());
        }
        Ok(Self(session))
    }
}

/// Answers `jit-seen` with the newest checkpoint and the proof that it only grew.
async fn prove(State(api): State<Api>, request: axum::extract::Request, next: Next) -> Response {
    let seen = request.headers().get("jit-seen").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let mut response = next.run(request).await;
    if let Some(seen) = seen
        && let Err(refusal) = show_growth(&api, seen, response.headers_mut()).await
    {
        // Without its proof the checkpoint would be taken for that of another log.
        response = Problem(refusal).into_response();
    }
    let headers = response.headers_mut();
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

async fn show_growth(api: &Api, seen: u64, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let Some((size, note)) = api.broker.note() else { return Ok(()) };
    let proof = if seen > 0 && seen < size {
        api.broker.reader().consistency(seen, size).await.map_err(|e| ledger_refusal(&e))?
    } else {
        Vec::new()
    };
    headers.insert("jit-trust", HeaderValue::from(api.broker.trust_version().await));
    let encoded = data_encoding::BASE64.encode(note.as_bytes());
    let hashes = data_encoding::BASE64.encode(&proof.concat());
    if let (Ok(note), Ok(proof)) = (HeaderValue::from_str(&encoded), HeaderValue::from_str(&hashes)) {
        headers.insert("jit-checkpoint", note);
        headers.insert("jit-proof", proof);
    }
    Ok(())
}
