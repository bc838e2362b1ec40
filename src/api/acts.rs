//! Routes that pass on what somebody signed.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;

use super::{Api, Body, Caller, Path, Problem, bearer};
use crate::accounts::scram::Verifier;
use crate::broker::Issued;
use crate::broker::view::instant;
use crate::domain::act::{Deed, SignedAct};
use crate::domain::authority::Purpose;
use crate::domain::bundle::BundleText;
use crate::domain::event::{Event, HostWord};
use crate::domain::ids::{GrantId, RequestId};
use crate::domain::key::Key;
use crate::domain::names::PersonName;
use crate::domain::names::TargetName;
use crate::domain::refusal::{Code, Refusal};
use crate::wire::{
    ActPost, Challenge, CredentialDoc, CredentialPost, HostCertificate, LinkDoc, List, NextKey, Outcome, SessionDoc,
};

pub(super) async fn challenge(State(api): State<Api>) -> Json<Challenge> {
    let now = api.broker.now();
    Json(Challenge { challenge: api.broker.sessions().challenge(now) })
}

pub(super) async fn logout(State(api): State<Api>, _caller: Caller, headers: HeaderMap) -> Json<Outcome> {
    if let Some(token) = bearer(&headers) {
        api.broker.sessions().close(token);
    }
    Json(Outcome::default())
}

pub(super) async fn act(State(api): State<Api>, Body(post): Body<ActPost>) -> Result<Json<Outcome>, Problem> {
    let signed = SignedAct { act: post.act, signature: post.signature };
    let (act, _) = api.broker.admit(&signed).await?;
    let bundle = match post.bundle {
        None => None,
        Some(files) => Some(checked_bundle(&api, files, &act.deed).await?),
    };
    let done = api.broker.act(signed.clone(), post.words.as_ref(), bundle).await?;
    let events = done.events.iter().map(Event::kind).collect();
    let mut outcome = Outcome { events, notice: done.notice, ..Outcome::default() };
    let person = speaker(&act.deed, &done.events);
    if let Some(person) = &person {
        attach(&api, &mut outcome, &signed, &act.deed, &done.events, person).await?;
        if matches!(act.deed, Deed::Login { .. }) && !done.events.is_empty() {
            let now = api.broker.now();
            let (token, expires_at) = api.broker.sessions().open(person.clone(), act.key_fp.clone(), now);
            outcome.session = Some(SessionDoc { token, person: person.clone(), expires_at });
        }
    }
    Ok(Json(outcome))
}

/// A bundle must be the one that the act names, and parse, before it may stand beside the log.
async fn checked_bundle(
    api: &Api,
    files: std::collections::BTreeMap<String, String>,
    deed: &Deed,
) -> Result<Vec<u8>, Problem> {
    let text = BundleText { files };
    let bytes = text.bytes();
    let named = matches!(deed, Deed::Apply { bundle, .. } if *bundle == crate::domain::digest::Digest::of(&bytes));
    if !named {
        return Err(Refusal::new(Code::BAD_BODY, "The files are not those that the act names.").into());
    }
    let memory = api.broker.memory().await;
    let admins: Vec<PersonName> = memory.state.admins.keys().cloned().collect();
    drop(memory);
    crate::domain::bundle::Bundle::parse(&text, &admins).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Refusal::new(Code::BUNDLE_REFUSED, lines.join("\n"))
    })?;
    Ok(bytes)
}

fn speaker(deed: &Deed, events: &[Event]) -> Option<PersonName> {
    match (deed.by(), events.first()) {
        (Some(by), _) => Some(by.clone()),
        (None, Some(Event::SignedIn { person, .. })) => Some(person.clone()),
        _ => None,
    }
}

/// Adds the documents that the deed was about, as its speaker may see them.
async fn attach(
    api: &Api,
    outcome: &mut Outcome,
    signed: &SignedAct,
    deed: &Deed,
    events: &[Event],
    person: &PersonName,
) -> Result<(), Problem> {
    let mut grants: Vec<GrantId> = events.iter().filter_map(|e| e.concerns().grant).collect();
    grants.dedup();
    let request = match deed {
        Deed::Request { .. }
        | Deed::Extend { .. }
        | Deed::Apply { .. }
        | Deed::Enable { .. }
        | Deed::Enroll { .. }
        | Deed::EnrollHost { .. }
        | Deed::RotateCa { .. } => Some(RequestId::of_digest(&signed.digest())),
        Deed::Approve { request, .. } | Deed::Deny { request, .. } | Deed::Withdraw { request, .. } => Some(*request),
        Deed::Release { grant, .. } | Deed::BindKey { grant, .. } => {
            grants.push(*grant);
            None
        }
        _ => None,
    };
    grants.dedup();
    if let Some(id) = request {
        outcome.request = api.broker.request_doc(person, id).await.ok();
    }
    for id in grants {
        outcome.grants.extend(api.broker.grant_doc(person, id).await.ok());
    }
    if let Deed::EnrollHost { target, .. } = deed
        && outcome.request.is_none()
    {
        let certificate = api.broker.host_certificate(target).await?;
        outcome.host = Some(HostCertificate { target: target.clone(), certificate });
    }
    Ok(())
}

pub(super) async fn confirm(State(api): State<Api>, Body(signed): Body<SignedAct>) -> Result<Json<Outcome>, Problem> {
    let word: Option<HostWord> = serde_json::from_str(&signed.act).ok();
    let done = api.broker.confirm(signed).await?;
    let mut outcome = Outcome { events: done.events.iter().map(Event::kind).collect(), ..Outcome::default() };
    // A host that shows a certificate of an authority that is being replaced gets the next one at once.
    if let Some(HostWord { target, host_ca: Some(shown), .. }) = word {
        let active = api.broker.memory().await.state.authorities.ssh(Purpose::SshHost);
        if active.is_some_and(|key| key.0.fingerprint() != shown) {
            let certificate = api.broker.host_certificate(&target).await?;
            outcome.host = Some(HostCertificate { target, certificate });
        }
    }
    Ok(Json(outcome))
}

pub(super) async fn next_key(
    State(api): State<Api>,
    caller: Caller,
    Path(purpose): Path<Purpose>,
) -> Result<Json<NextKey>, Problem> {
    Ok(Json(api.broker.next_key(caller.name(), purpose).await?))
}

pub(super) async fn credential(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<GrantId>,
    Body(post): Body<CredentialPost>,
) -> Result<Json<CredentialDoc>, Problem> {
    let verifier = post.verifier.as_deref().map(Verifier::new).transpose();
    let verifier = verifier.map_err(|e| Refusal::new(Code::BAD_BODY, format!("The verifier: {e}.")))?;
    match api.broker.issue(caller.name(), id, &post.key, verifier).await? {
        Issued::Ssh(certificate) => Ok(Json(ssh_doc(id, &post.key, certificate)?)),
        Issued::Client(pem) => Ok(Json(api.broker.account_credential(id, &post.key, Some(pem)).await?)),
        Issued::Password => Ok(Json(api.broker.account_credential(id, &post.key, None).await?)),
    }
}

fn ssh_doc(grant: GrantId, key: &Key, certificate: String) -> Result<CredentialDoc, Refusal> {
    // The signer releases nothing that it did not read back and verify.
    let facts = jit_ca::ssh::read_checked(&certificate).map_err(|e| Refusal::new(Code::LINT, format!("{e}.")))?;
    let seconds = |s: u64| i64::try_from(s).unwrap_or(i64::MAX);
    Ok(CredentialDoc {
        schema: "jit-broker/credential/v1".to_owned(),
        id: format!("ssh-user-{}", facts.serial),
        grant_id: grant,
        kind: "ssh-user".to_owned(),
        serial: facts.serial,
        key_id: facts.key_id.to_string(),
        principals: facts.principals.iter().map(ToString::to_string).collect(),
        valid_after: instant(seconds(facts.valid_after)),
        valid_before: instant(seconds(facts.valid_before)),
        valid_before_s: seconds(facts.valid_before),
        fingerprint: key.0.fingerprint(),
        certificate,
        account: None,
        path: None,
        files: Vec::new(),
    })
}

pub(super) async fn test_target(
    State(api): State<Api>,
    caller: Caller,
    Path(target): Path<TargetName>,
) -> Result<Json<List<LinkDoc>>, Problem> {
    let items = api.broker.test_target(caller.name(), &target).await?;
    Ok(Json(List { schema: "jit-broker/link-list/v1".to_owned(), items, next: None }))
}
