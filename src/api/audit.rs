//! Routes that read the log.

use std::io::BufWriter;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use hyper::body::Frame;
use serde::Deserialize;

use super::{Api, Caller, Path, Problem, Query, Text};
use crate::broker::clerk::ledger_refusal;
use crate::broker::receipt::About;
use crate::broker::view::instant;
use crate::domain::digest::read_canonical;
use crate::domain::event::Entry;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::Filter;
use crate::wire::{EventDoc, List, ReceiptDoc, WitnessDoc};
use crate::witness::Outside;

/// The most events in one answer.
const MAX_EVENTS: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Events {
    kind: Option<String>,
    actor: Option<String>,
    request_id: Option<String>,
    grant_id: Option<String>,
    session_id: Option<String>,
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
        session_id: query.session_id,
        sessions: None,
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
        session_id: concerns.session.map(|id| id.to_string()),
        target: concerns.target,
        detail: serde_json::to_value(&entry.event).unwrap_or_default(),
    })
}

/// Pieces of an export that may wait for a slow reader, and how large each is, in bytes.
const AHEAD: usize = 4;
const CHUNK: usize = 64 * 1024;

type Piece = Result<Bytes, std::io::Error>;

/// The writing end of an export; it waits for the reader on a thread of its own.
struct Lines(tokio::sync::mpsc::Sender<Piece>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        tokio::task::block_in_place(|| self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The reading end, as a body.
struct Export(tokio::sync::mpsc::Receiver<Piece>);

impl hyper::body::Body for Export {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// The log with its checkpoints, as lines that `audit verify --offline` reads; up to the last batch that is done, whose
/// checkpoint is stored if there is one: what is being written right now would show as a tail that nobody signed.
pub(super) async fn export(State(api): State<Api>, caller: Caller) -> Result<Response, Problem> {
    if !reads_all(&api, caller.name()).await {
        return Err(Refusal::new(Code::NOT_OFFICE, "Auditors and operators alone export the log.").into());
    }
    let (lines, body) = tokio::sync::mpsc::channel(AHEAD);
    let (reader, size) = (api.broker.reader().clone(), *api.broker.changed().borrow());
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(CHUNK, Lines(lines.clone()));
        if let Err(error) = runtime.block_on(crate::ledger::export::export_jsonl(&reader, size, &mut out)) {
            tracing::warn!("an export ended early: {error}");
            // Whoever reads must see that it is not the whole log.
            let _ = lines.blocking_send(Err(std::io::Error::other("the export ended early")));
        }
    });
    let response = Response::builder().header("content-type", "application/jsonl").body(Body::new(Export(body)));
    response.map_err(|e| Refusal::new(Code::BUG, e.to_string()).into())
}

/// Why something was granted, for those who have the log's public key and nothing else.
pub(super) async fn receipt(
    State(api): State<Api>,
    caller: Caller,
    Path(about): Path<String>,
) -> Result<Json<ReceiptDoc>, Problem> {
    let missing = || Refusal::new(Code::MISSING, "There is no such thing, or you may not know of it.");
    let about: About = about.parse().map_err(|()| missing())?;
    Ok(Json(api.broker.receipt(caller.name(), &about).await?))
}

/// The copies of the newest checkpoint elsewhere, as the broker knows of them.
pub(super) async fn witnesses(
    State(api): State<Api>,
    outside: Option<Extension<Outside>>,
    caller: Caller,
) -> Result<Json<List<WitnessDoc>>, Problem> {
    if !reads_all(&api, caller.name()).await {
        return Err(Refusal::new(Code::NOT_OFFICE, "Auditors and operators alone see the witnesses.").into());
    }
    let items = outside.map(|Extension(outside)| outside.witnesses.docs()).unwrap_or_default();
    Ok(Json(List { schema: "jit-broker/witness-list/v1".to_owned(), items, next: None }))
}

/// C2SP tlog-witness, `add-checkpoint`: another log shows that it only grew.
pub(super) async fn add_checkpoint(
    State(api): State<Api>,
    outside: Option<Extension<Outside>>,
    Text(body): Text,
) -> Response {
    let keeper = outside.map(|Extension(outside)| outside.keeper).unwrap_or_default();
    let (status, kind, text) = keeper.add(&body, api.broker.now()).await;
    let answer = Response::builder().status(status).header("content-type", kind).body(Body::from(text));
    answer.unwrap_or_default()
}
