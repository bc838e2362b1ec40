//! Sessions through gateways, as people see them: which there are, and who may look at their recordings.
//!
//! Whoever may not know of a session gets the answer for one that does not exist. Documents: the holder, operators, auditors.
//! Recordings: the holder and auditors, and each look is in the log before the first byte is given out.

use std::collections::{BTreeSet, HashMap};

use super::Broker;
use super::clerk::ledger_refusal;
use super::view::instant;
use crate::domain::digest::read_canonical;
use crate::domain::event::{Command, Entry, Event};
use crate::domain::ids::SessionId;
use crate::domain::names::{PersonName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::session::{Session, SessionEnd};
use crate::ledger::Filter;
use crate::wire::RecordedDoc;

/// The most sessions in one answer.
const MAX_DOCS: u32 = 200;
/// The most sessions of one person that a search goes through.
const MAX_OWN: usize = 10_000;

/// Which sessions.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Only open ones.
    pub live: bool,
    /// Only this person's.
    pub person: Option<PersonName>,
    /// Only on this target.
    pub target: Option<TargetName>,
    /// Only those that were opened before this entry: the last one of the page before.
    pub before_seq: Option<u64>,
    /// So many.
    pub limit: Option<u32>,
}

fn missing() -> Refusal {
    Refusal::new(Code::MISSING, "There is no such session, or you may not know of it.")
}

fn doc(session: &Session, end: Option<(i64, &SessionEnd)>) -> RecordedDoc {
    let sealed = end.and_then(|(_, end)| end.recording.as_ref());
    RecordedDoc {
        schema: "jit-broker/session/v1".to_owned(),
        id: session.id,
        grant_id: session.grant,
        person: session.person.clone(),
        target: session.target.clone(),
        login: session.login.clone(),
        kind: "ssh".to_owned(),
        opened_at: instant(session.opened_at),
        closed_at: end.map(|(at, _)| instant(at)),
        cause: end.map(|(_, end)| end.cause.word().to_owned()),
        late_ms: end.and_then(|(_, end)| end.late_ms),
        bytes_in: end.map(|(_, end)| end.bytes_in),
        bytes_out: end.map(|(_, end)| end.bytes_out),
        recording: match (end, sealed) {
            (None, _) => Some("live".to_owned()),
            (_, Some(_)) => Some("sealed".to_owned()),
            _ => None,
        },
        recorded_bytes: sealed.map(|sealed| sealed.bytes),
        sha256: sealed.map(|sealed| sealed.sha256),
    }
}

impl Broker {
    /// The sessions that somebody may know of, newest first, and the entry to go on before.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn recorded_docs(
        &self,
        who: &PersonName,
        which: &Which,
    ) -> Result<(Vec<RecordedDoc>, Option<u64>), Refusal> {
        let memory = self.memory().await;
        let state = &memory.state;
        let all = state.is_auditor(who) || state.is_operator(who);
        let person = if all { which.person.as_ref() } else { Some(who) };
        if which.person.is_some() && which.person.as_ref() != person {
            return Ok((Vec::new(), None));
        }
        // Open sessions lie thinly among the closed ones, and memory has them all; the log has their order.
        let fits = |session: &&Session| {
            person.is_none_or(|person| session.person == *person)
                && which.target.as_ref().is_none_or(|target| session.target == *target)
        };
        let open = state.sessions.values().filter(fits).map(|session| session.id.to_string());
        let sessions = which.live.then(|| open.collect::<Vec<_>>());
        drop(memory);
        if sessions.as_ref().is_some_and(Vec::is_empty) {
            return Ok((Vec::new(), None));
        }
        let limit = which.limit.unwrap_or(50).clamp(1, MAX_DOCS);
        // What memory chose already is not asked for again.
        let asked = !which.live;
        let filter = Filter {
            kind: Some("session.opened".to_owned()),
            actor: person.filter(|_| asked).map(ToString::to_string),
            target: which.target.as_ref().filter(|_| asked).map(ToString::to_string),
            sessions,
            before_seq: which.before_seq,
            limit,
            ..Filter::default()
        };
        let leaves = self.reader().search(&filter).await.map_err(|e| ledger_refusal(&e))?;
        let next = (leaves.len() == limit as usize).then(|| leaves.last().map(|leaf| leaf.seq)).flatten();
        let found: Vec<Session> = leaves.iter().filter_map(|leaf| opened(&leaf.bytes)).collect();
        let ends = if which.live { HashMap::new() } else { self.ends_of(&found).await? };
        let docs = found.iter().map(|session| doc(session, ends.get(&session.id).map(|(at, end)| (*at, end))));
        Ok((docs.collect(), next))
    }

    /// The ends of those that are closed, with their instants.
    async fn ends_of(&self, sessions: &[Session]) -> Result<HashMap<SessionId, (i64, SessionEnd)>, Refusal> {
        let filter = Filter {
            kind: Some("session.closed".to_owned()),
            sessions: Some(sessions.iter().map(|session| session.id.to_string()).collect()),
            limit: MAX_DOCS,
            ..Filter::default()
        };
        let leaves = self.reader().search(&filter).await.map_err(|e| ledger_refusal(&e))?;
        let ends = leaves.iter().filter_map(|leaf| match read_canonical(&leaf.bytes).ok()? {
            Entry { at, event: Event::SessionClosed { session, end, .. }, .. } => Some((session, (at, end))),
            _ => None,
        });
        Ok(ends.collect())
    }

    async fn with_end(&self, session: &Session) -> Result<RecordedDoc, Refusal> {
        let end = self.event_of(session.id, "session.closed").await?;
        Ok(match &end {
            Some(Entry { at, event: Event::SessionClosed { end, .. }, .. }) => doc(session, Some((*at, end))),
            _ => doc(session, None),
        })
    }

    async fn event_of(&self, id: SessionId, kind: &str) -> Result<Option<Entry>, Refusal> {
        let (kind, session_id) = (Some(kind.to_owned()), Some(id.to_string()));
        let filter = Filter { kind, session_id, limit: 1, ..Filter::default() };
        let leaves = self.reader().search(&filter).await.map_err(|e| ledger_refusal(&e))?;
        Ok(leaves.first().and_then(|leaf| read_canonical(&leaf.bytes).ok()))
    }

    async fn session(&self, id: SessionId) -> Result<Session, Refusal> {
        match self.event_of(id, "session.opened").await?.map(|entry| entry.event) {
            Some(Event::SessionOpened { session }) => Ok(*session),
            _ => Err(missing()),
        }
    }

    /// One session, for those who may know of it.
    ///
    /// # Errors
    /// [`Code::MISSING`] for all others.
    pub async fn recorded_doc(&self, who: &PersonName, id: SessionId) -> Result<RecordedDoc, Refusal> {
        let session = self.session(id).await?;
        let memory = self.memory().await;
        let knows = session.person == *who || memory.state.is_auditor(who) || memory.state.is_operator(who);
        drop(memory);
        if knows { self.with_end(&session).await } else { Err(missing()) }
    }

    /// The session whose recording somebody may look at.
    ///
    /// # Errors
    /// [`Code::MISSING`] for all but its holder and auditors.
    pub async fn watchable(&self, who: &PersonName, id: SessionId) -> Result<RecordedDoc, Refusal> {
        let session = self.session(id).await?;
        let sees = session.person == *who || self.memory().await.state.is_auditor(who);
        if sees { self.with_end(&session).await } else { Err(missing()) }
    }

    /// Records that somebody looks at a recording; durable when it returns.
    ///
    /// # Errors
    /// When the log cannot be written: then nothing is to be shown.
    pub async fn look(&self, who: &PersonName, doc: &RecordedDoc) -> Result<(), Refusal> {
        let command = Command::ReadRecording { session: doc.id, grant: doc.grant_id, by: who.clone() };
        self.command(command, Vec::new()).await.map(drop)
    }

    /// The sessions whose recordings somebody may search: `None` for all.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn searchable(&self, who: &PersonName) -> Result<Option<BTreeSet<SessionId>>, Refusal> {
        if self.memory().await.state.is_auditor(who) {
            return Ok(None);
        }
        let (kind, actor) = (Some("session.opened".to_owned()), Some(who.to_string()));
        let mut filter = Filter { kind, actor, limit: 1000, ..Filter::default() };
        let mut own = BTreeSet::new();
        loop {
            let leaves = self.reader().search(&filter).await.map_err(|e| ledger_refusal(&e))?;
            own.extend(leaves.iter().filter_map(|leaf| opened(&leaf.bytes)).map(|session| session.id));
            filter.before_seq = leaves.last().map(|leaf| leaf.seq);
            if leaves.len() < 1000 || own.len() >= MAX_OWN {
                return Ok(Some(own));
            }
        }
    }
}

fn opened(bytes: &[u8]) -> Option<Session> {
    match read_canonical::<Entry>(bytes).ok()?.event {
        Event::SessionOpened { session } => Some(*session),
        _ => None,
    }
}
