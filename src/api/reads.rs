//! Routes that only read.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::{Api, Caller, Path, Problem, Query};
use crate::broker::view::instant;
use crate::domain::authority::{Purpose, SignedTrust};
use crate::domain::bundle::BundleText;
use crate::domain::digest::Digest;
use crate::domain::ids::{GrantId, RequestId};
use crate::domain::names::{PersonName, RoleName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::request::RequestState;
use crate::signer::gate::origin_of;
use crate::wire::{
    About, AuthorityDoc, BundleDoc, EarlierDoc, GrantDoc, HostCertificate, KrlDoc, LeftDoc, List, LogDoc, Me,
    PersonDoc, RequestDoc, TargetDoc, WhyDoc,
};

/// The target whose roles are changes of the bundle (config.md).
const BUNDLE_TARGET: &str = "broker/policy";
/// The longest that a client may wait in one call, in seconds.
const LONGEST_WAIT_S: u64 = 30;

fn missing(what: &str) -> Problem {
    Problem(Refusal::new(Code::MISSING, format!("There is no such {what}, or you may not know of it.")))
}

fn list<T>(kind: &str, items: Vec<T>) -> Json<List<T>> {
    Json(List { schema: format!("jit-broker/{kind}-list/v1"), items, next: None })
}

pub(super) async fn ready(State(api): State<Api>) -> Result<&'static str, Problem> {
    api.broker.ready().await?;
    Ok("ok\n")
}

pub(super) async fn about(State(api): State<Api>) -> Result<Json<About>, Problem> {
    // Without the signer what is known of the log is told all the same.
    let trust = api.broker.trust().await.ok();
    let memory = api.broker.memory().await;
    let genesis = memory.state.genesis.as_ref().ok_or_else(|| missing("log"))?;
    let authorities = &memory.state.authorities;
    let named = trust.as_ref().and_then(SignedTrust::known);
    Ok(Json(About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        install: genesis.install,
        origin: origin_of(&genesis.install.to_string()),
        log_key: genesis.log_key.clone(),
        ssh_user: authorities.ssh(Purpose::SshUser).unwrap_or_else(|| genesis.ssh_user.clone()),
        ssh_host: authorities.ssh(Purpose::SshHost).unwrap_or_else(|| genesis.ssh_host.clone()),
        ssh_gateway: authorities.ssh(Purpose::SshGateway),
        server_ca_pem: named
            .and_then(|word| word.x509_server.into_iter().next())
            .unwrap_or_else(|| api.server_ca_pem.to_string()),
        x509_client: authorities.rings.get(&Purpose::X509Client).map(|ring| ring.active.clone()),
        trust,
        public_url: api.broker.public_url().to_owned(),
    }))
}

pub(super) async fn krl(State(api): State<Api>) -> Result<Json<KrlDoc>, Problem> {
    let file = api.broker.krl().ok_or_else(|| missing("revocation list"))?;
    let trust = api.broker.trust().await.ok();
    Ok(Json(KrlDoc { version: file.version, krl: file.krl, signature: file.signature, trust }))
}

pub(super) async fn log(State(api): State<Api>, _caller: Caller) -> Json<LogDoc> {
    Json(api.broker.log_doc().await)
}

pub(super) async fn authorities(State(api): State<Api>, caller: Caller) -> Result<Json<List<AuthorityDoc>>, Problem> {
    Ok(list("authority", api.broker.authority_docs(caller.name()).await?))
}

pub(super) async fn host_certificate(
    State(api): State<Api>,
    caller: Caller,
    Path(target): Path<TargetName>,
) -> Result<Json<HostCertificate>, Problem> {
    if !api.broker.memory().await.state.is_admin(caller.name()) {
        return Err(Refusal::new(Code::NOT_OFFICE, "Administrators alone do this.").into());
    }
    let certificate = api.broker.host_certificate(&target).await?;
    Ok(Json(HostCertificate { target, certificate }))
}

pub(super) async fn me(State(api): State<Api>, caller: Caller) -> Result<Json<Me>, Problem> {
    let memory = api.broker.memory().await;
    let state = &memory.state;
    let person = state.person(caller.name()).ok_or_else(|| missing("person"))?;
    let offices = [
        ("administrator", state.is_admin(&person.name)),
        ("operator", state.is_operator(&person.name)),
        ("auditor", state.is_auditor(&person.name)),
    ];
    Ok(Json(Me {
        schema: "jit-broker/me/v1".to_owned(),
        person: person.name,
        groups: person.groups.into_iter().collect(),
        offices: offices.iter().filter(|(_, held)| *held).map(|(name, _)| (*name).to_owned()).collect(),
        expires_at: instant(caller.0.expires_at),
    }))
}

pub(super) async fn targets(State(api): State<Api>, caller: Caller) -> Json<List<TargetDoc>> {
    list("target", api.broker.target_docs(caller.name()).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhyQuery {
    target: TargetName,
    role: Option<RoleName>,
    for_s: Option<u64>,
    #[serde(rename = "as")]
    about: Option<PersonName>,
}

pub(super) async fn why(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<WhyQuery>,
) -> Result<Json<WhyDoc>, Problem> {
    let about = query.about.as_ref();
    Ok(Json(api.broker.why(caller.name(), about, &query.target, query.role.as_ref(), query.for_s).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scope {
    scope: Option<String>,
}

pub(super) async fn requests(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<Scope>,
) -> Result<Json<List<RequestDoc>>, Problem> {
    let docs = api.broker.request_docs(caller.name(), query.scope.as_deref().unwrap_or("mine")).await?;
    Ok(list("request", docs))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    wait_s: Option<u64>,
}

pub(super) async fn request(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<RequestId>,
    Query(query): Query<Wait>,
) -> Result<Json<RequestDoc>, Problem> {
    // Looked at first, so that nobody can wait on what they may not see.
    let doc = api.broker.request_doc(caller.name(), id).await?;
    let patience = std::time::Duration::from_secs(query.wait_s.unwrap_or(0).min(LONGEST_WAIT_S));
    if doc.state != RequestState::Pending.word() || patience.is_zero() {
        return Ok(Json(doc));
    }
    let mut changed = api.broker.changed();
    let answered = async {
        loop {
            changed.mark_unchanged();
            let state = api.broker.memory().await.state.requests.get(&id).map(|r| r.state.clone());
            if state != Some(RequestState::Pending) || changed.changed().await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(patience, answered).await;
    Ok(Json(api.broker.request_doc(caller.name(), id).await?))
}

pub(super) async fn earlier(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<RequestId>,
) -> Result<Json<List<EarlierDoc>>, Problem> {
    Ok(list("earlier", api.broker.earlier(caller.name(), id).await?))
}

pub(super) async fn grants(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<Scope>,
) -> Result<Json<List<GrantDoc>>, Problem> {
    let docs = api.broker.grant_docs(caller.name(), query.scope.as_deref().unwrap_or("mine")).await?;
    Ok(list("grant", docs))
}

pub(super) async fn left(State(api): State<Api>, caller: Caller) -> Json<LeftDoc> {
    Json(api.broker.left(caller.name()).await)
}

pub(super) async fn grant(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<GrantId>,
) -> Result<Json<GrantDoc>, Problem> {
    Ok(Json(api.broker.grant_doc(caller.name(), id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    digest: Option<Digest>,
}

pub(super) async fn bundle(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<Which>,
) -> Result<Json<BundleDoc>, Problem> {
    // Whoever is asked reads it too: approvers compute from its text what they sign (decisions.md 14).
    let asked = api.broker.request_docs(caller.name(), "answer").await.is_ok_and(|docs| !docs.is_empty());
    let digest = {
        let memory = api.broker.memory().await;
        let state = &memory.state;
        if !asked && !state.is_operator(caller.name()) && !state.is_auditor(caller.name()) {
            let message = "Administrators, operators, auditors, and those who are asked for an answer read the bundle.";
            return Err(Refusal::new(Code::NOT_OFFICE, message).into());
        }
        let proposed = |digest: &Digest| {
            let changes = state.requests.values().filter(|r| r.terms.target.as_str() == BUNDLE_TARGET);
            changes.map(|r| r.terms.target_digest).any(|d| d == *digest)
        };
        match query.digest {
            Some(digest) if digest == state.bundle.digest || proposed(&digest) => digest,
            Some(_) => return Err(missing("bundle")),
            None => state.bundle.digest,
        }
    };
    let bytes = api.broker.reader().blob(digest.as_bytes()).await.ok().flatten();
    let files = bytes.and_then(|b| BundleText::from_bytes(&b).ok()).map(|t| t.files).unwrap_or_default();
    Ok(Json(BundleDoc { digest, files }))
}

pub(super) async fn people(State(api): State<Api>, caller: Caller) -> Result<Json<List<PersonDoc>>, Problem> {
    let memory = api.broker.memory().await;
    let state = &memory.state;
    let all = state.is_operator(caller.name()) || state.is_auditor(caller.name());
    let docs = state.bundle.people.values().filter(|p| all || p.name == *caller.name()).map(|person| {
        let enrolled = state.enrolled.iter().filter(|(_, owner)| **owner == person.name).map(|(key, _)| key);
        let keys = person.keys.iter().chain(enrolled).filter(|k| !state.revoked_keys.contains(*k));
        PersonDoc {
            name: person.name.clone(),
            kind: person.kind.word().to_owned(),
            groups: person.groups.iter().cloned().collect(),
            disabled: state.disabled.contains(&person.name),
            keys: keys.map(|k| k.0.fingerprint()).collect(),
        }
    });
    Ok(list("person", docs.collect()))
}
