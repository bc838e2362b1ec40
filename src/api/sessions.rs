//! Routes of recorded sessions. A recording goes out as the bytes of its file; the client checks and filters them.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::{Api, Caller, Path, Problem, Query};
use crate::broker::recorded::Which;
use crate::domain::ids::SessionId;
use crate::domain::names::{PersonName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::record::{RecordError, Store};
use crate::wire::{FoundDoc, List, RecordedDoc};

/// The most bytes of a recording in one answer.
const PIECE: usize = 4 << 20;
/// The longest that a viewer waits in one call, in seconds.
const LONGEST_WAIT_S: u64 = 30;
/// One look is told once; after this it is another one, in seconds.
const LOOK_S: i64 = 600;
/// The most lines that a search finds.
const MAX_FOUND: usize = 200;

/// The recordings, and who is looking at them.
#[derive(Debug, Clone)]
pub struct Recordings {
    store: Arc<Store>,
    looks: Arc<Mutex<BTreeMap<(PersonName, SessionId), i64>>>,
}

impl Recordings {
    /// Serves these recordings.
    pub fn of(store: Arc<Store>) -> Self {
        Self { store, looks: Arc::default() }
    }
}

fn gone() -> Problem {
    Problem(Refusal::new(Code::MISSING, "There is no such session, or you may not know of it."))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    live: Option<bool>,
    person: Option<PersonName>,
    target: Option<TargetName>,
    before_seq: Option<u64>,
    limit: Option<u32>,
}

pub(super) async fn sessions(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<List<RecordedDoc>>, Problem> {
    let ListQuery { live, person, target, before_seq, limit } = query;
    let which = Which { live: live.unwrap_or(false), person, target, before_seq, limit };
    let (items, next) = api.broker.recorded_docs(caller.name(), &which).await?;
    Ok(Json(List { schema: "jit-broker/session-list/v1".to_owned(), items, next }))
}

pub(super) async fn session(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<SessionId>,
) -> Result<Json<RecordedDoc>, Problem> {
    Ok(Json(api.broker.recorded_doc(caller.name(), id).await?))
}

/// Tells the log that somebody looks, once per look.
async fn tell(api: &Api, recordings: &Recordings, who: &PersonName, doc: &RecordedDoc) -> Result<(), Problem> {
    let now = api.broker.now();
    let key = (who.clone(), doc.id);
    {
        let mut looks = recordings.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.retain(|_, at| now.saturating_sub(*at) < LOOK_S);
        if looks.contains_key(&key) {
            return Ok(());
        }
    }
    api.broker.look(who, doc).await?;
    recordings.looks.lock().unwrap_or_else(PoisonError::into_inner).insert(key, now);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PieceQuery {
    from: Option<u64>,
    wait_s: Option<u64>,
}

pub(super) async fn recording(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<SessionId>,
    Query(query): Query<PieceQuery>,
) -> Result<Response, Problem> {
    let doc = api.broker.watchable(caller.name(), id).await?;
    let recordings = api.recordings.as_ref().ok_or_else(gone)?;
    let from = query.from.unwrap_or(0);
    tell(&api, recordings, caller.name(), &doc).await?;
    let patience = Duration::from_secs(query.wait_s.unwrap_or(0).min(LONGEST_WAIT_S));
    if let Some(mut tail) = recordings.store.recorder(id).map(|recorder| recorder.tail()) {
        let _ = tokio::time::timeout(patience, tail.wait_for(|bytes| *bytes > from)).await;
    }
    // Asked before the bytes are read: what says `sealed` has all of them behind it.
    let live = recordings.store.recorder(id).is_some();
    let store = recordings.store.clone();
    let read = tokio::task::spawn_blocking(move || piece(&store, id, from)).await;
    let bytes = match read.unwrap_or_else(|_| Ok(Vec::new())) {
        Ok(bytes) => bytes,
        Err(RecordError::Missing) => return Err(gone()),
        Err(error) => {
            tracing::error!(session = %id, %error, "a recording cannot be read");
            return Err(Refusal::new(Code::BUG, "The recording cannot be read; the broker's log says why.").into());
        }
    };
    let mut response = bytes.into_response();
    let state = HeaderValue::from_static(if live { "live" } else { "sealed" });
    response.headers_mut().insert("jit-recording", state);
    Ok(response)
}

fn piece(store: &Store, id: SessionId, from: u64) -> Result<Vec<u8>, RecordError> {
    let mut file = store.file(id)?;
    let mut bytes = Vec::new();
    let io = |source| RecordError::Io { what: format!("the recording of {id}"), source };
    file.seek(SeekFrom::Start(from)).map_err(io)?;
    file.take(PIECE as u64).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchQuery {
    text: String,
}

pub(super) async fn search(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<SearchQuery>,
) -> Result<Json<List<FoundDoc>>, Problem> {
    let mut items = Vec::new();
    if let Some(recordings) = &api.recordings {
        let visible = api.broker.searchable(caller.name()).await?;
        let store = recordings.store.clone();
        let sees = move |id| visible.as_ref().is_none_or(|own| own.contains(&id));
        let found = tokio::task::spawn_blocking(move || store.search(&query.text, MAX_FOUND, &sees)).await;
        let mut told = std::collections::BTreeSet::new();
        for found in found.unwrap_or_default() {
            if told.insert(found.session) {
                // A line of a recording is a look at it. One that the log does not know is nobody's.
                let Ok(doc) = api.broker.watchable(caller.name(), found.session).await else {
                    told.remove(&found.session);
                    continue;
                };
                tell(&api, recordings, caller.name(), &doc).await?;
            }
            let (session_id, at_ms, line) = (found.session, found.at_ms, found.line);
            items.push(FoundDoc { schema: "jit-broker/found/v1".to_owned(), session_id, at_ms, line });
        }
    }
    Ok(Json(List { schema: "jit-broker/found-list/v1".to_owned(), items, next: None }))
}
