//! Routes that read the log.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use super::{Api, Caller, Problem, Query};
use crate::broker::clerk::ledger_refusal;
use crate::broker::view::instant;
use crate::domain::digest::read_canonical;
use crate::domain::event::Entry;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::Filter;
use crate::wire::{EventDoc, List};

/// The most events in one answer.
const MAX_EVENTS: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Events {
    kind: Option<String>,
    actor: Option<String>,
    request_id: Option<String>,
    grant_id: Option<String>,
    target: Option<String>,
    text: Option<String>,
    since_at: Option<i64>,
    until_at: Option<i64>,
    before_seq: Option<u64>,
    limit: Option<u32>,
}

async fn reads_all(api: &Api, who: &PersonName) -> bool {
    let memory = api.broker.memory().await;
    memory.state.is_auditor(who) || memory.state.is_operator(who)
}

pub(super) async fn events(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<Events>,
) -> Result<Json<List<EventDoc>>, Problem> {
    let limit = query.limit.unwrap_or(100).clamp(1, MAX_EVENTS);
    // Everyone reads what concerns them; auditors and operators read all. Filtered in the query, not afterwards.
    let actor = if reads_all(&api, caller.name()).await { query.actor } else { Some(caller.name().to_string()) };
    let filter = Filter {
        kind: query.kind,
        actor,
        request_id: query.request_id,
        grant_id: query.grant_id,
        target: query.target,
        text: query.text,
        since_at: query.since_at,
        until_at: query.until_at,
        before_seq: query.before_seq,
        limit,
    };
    let leaves = api.broker.reader().search(&filter).await.map_err(|e| ledger_refusal(&e))?;
    let next = (leaves.len() == limit as usize).then(|| leaves.last().map(|l| l.seq)).flatten();
    let items = leaves.iter().filter_map(|leaf| event_doc(&leaf.bytes)).collect();
    Ok(Json(List { schema: "jit-broker/event-list/v1".to_owned(), items, next }))
}

/// An event as scripts read it.
pub(crate) fn event_doc(bytes: &[u8]) -> Option<EventDoc> {
    let entry: Entry = read_canonical(bytes).ok()?;
    let concerns = entry.event.concerns();
    Some(EventDoc {
        schema: "jit-broker/event/v1".to_owned(),
        seq: entry.seq,
        at: instant(entry.at),
        kind: entry.event.kind(),
        actor: concerns.actor,
        request_id: concerns.request,
        grant_id: concerns.grant,
        session_id: None,
        target: concerns.target,
        detail: serde_json::to_value(&entry.event).unwrap_or_default(),
    })
}

/// The whole log with its checkpoints, as lines that `audit verify --offline` reads.
pub(super) async fn export(State(api): State<Api>, caller: Caller) -> Result<Response, Problem> {
    if !reads_all(&api, caller.name()).await {
        return Err(Refusal::new(Code::NOT_OFFICE, "Auditors and operators alone export the log.").into());
    }
    let mut out = Vec::new();
    crate::ledger::export::export_jsonl(api.broker.reader(), &mut out).await.map_err(|e| ledger_refusal(&e))?;
    let response = Response::builder().header("content-type", "application/jsonl").body(Body::from(out));
    response.map_err(|e| Refusal::new(Code::BUG, e.to_string()).into())
}
