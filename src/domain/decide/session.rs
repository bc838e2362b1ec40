//! Sessions through a gateway: when one may be opened, the certificate that opens the target, and what their end proves.

use std::net::IpAddr;

use jit_ca::spec::{CertWindow, Cidr, CriticalOption, Extension, KeyId, Principal, Principals, Serial, UserSpec};

use super::end::proof;
use super::issue::first_use;
use super::{Now, Verified, missing};
use crate::domain::authority::Purpose;
use crate::domain::digest::Digest;
use crate::domain::event::{Cause, Command, Event, Proof};
use crate::domain::grant::{BACKDATE_S, Grant, GrantState};
use crate::domain::ids::SessionId;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::session::{Leg, MAX_LEGS, MAX_SESSIONS, Session, SessionCause as Over, SessionEnd};
use crate::domain::state::State;
use crate::domain::target::Allow;

/// The most ranges that a gateway's certificate may be used from.
const MAX_SOURCES: usize = 8;

/// Opens a session, where the grant is live and the key is its holder's.
pub(super) fn open(state: &State, command: &Command, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    let Command::OpenSession { session, grant, login, by_key, leg_key, source, nonce } = command else {
        return Err(Refusal::new(Code::BUG, "This opens no session."));
    };
    let grant = state.grants.get(grant).ok_or_else(|| missing("grant"))?;
    let live = grant.live_at(now.at)?;
    if state.disabled.contains(&live.person) {
        return Err(Refusal::new(Code::DISABLED, format!("{} is disabled.", live.person)));
    }
    if !live.terms.gateway || !live.terms.logins.contains(login) {
        return Err(missing("target"));
    }
    if state.revoked_keys.contains(by_key) {
        return Err(Refusal::new(Code::BAD_KEY, "That key was revoked, for ever."));
    }
    if !live.keys.contains(by_key) && state.owner_of(by_key).as_ref() != Some(&live.person) {
        let hint = format!("jit-broker cert {} --key PUB binds one more key to the grant.", live.terms.target);
        return Err(Refusal::new(Code::OTHER_KEY, format!("Grant {} is not for that key.", live.id)).hint(hint));
    }
    if let Some(refusal) = first_use(state, &live, now)? {
        return Ok(vec![Event::GrantCancelled { grant: live.id, refusal }]);
    }
    if state.sessions.contains_key(session) {
        return Err(Refusal::new(Code::BUG, "A session has this id already."));
    }
    if live.sessions.len() >= MAX_SESSIONS || live.legs.len() >= MAX_LEGS {
        let many =
            format!("Grant {} has {} open sessions, and has had {}.", live.id, live.sessions.len(), live.legs.len());
        return Err(Refusal::new(Code::TOO_MANY, many));
    }
    if source.is_empty() || source.len() > MAX_SOURCES || ranges(source).is_err() {
        return Err(Refusal::new(Code::BAD_CONFIG, "The gateway does not say from which addresses it comes."));
    }
    let leg = Leg {
        serial: state.last_serial + 1,
        key: leg_key.clone(),
        valid_after: now.at - BACKDATE_S,
        valid_before: live.ends_at,
        source: source.clone(),
        nonce: *nonce,
        tbs_sha256: Digest::new([0; 32]),
    };
    let mut session = Session {
        id: *session,
        grant: live.id,
        person: live.person.clone(),
        target: live.terms.target.clone(),
        login: login.clone(),
        by_key: by_key.clone(),
        opened_at: now.at,
        end_asked_by: None,
        leg,
    };
    session.leg.tbs_sha256 = leg_digest(state, &live, &session)?;
    Ok(vec![Event::SessionOpened { session: Box::new(session) }])
}

fn leg_digest(state: &State, grant: &Grant, session: &Session) -> Result<Digest, Refusal> {
    let ca = state.authorities.ssh(Purpose::SshUser).ok_or_else(|| missing("authority"))?;
    Ok(Digest::of(&jit_ca::ssh::tbs_user(&leg_spec(grant, session)?, &ca.0)))
}

/// The grant under which a session goes on when its own ends: of the same person on the same target, for the same account, with at least
/// as much allowed, whatever its key. The one that lasts longest. `at` is the moment by which ends are measured, so that none is chosen that ends with it.
pub fn successor<'s>(state: &'s State, session: &Session, at: i64) -> Option<&'s Grant> {
    let own = state.grants.get(&session.grant)?;
    state
        .open_grants_of(&session.person)
        .filter(|other| other.id != own.id && other.terms.gateway && other.terms.target == own.terms.target)
        .filter(|other| other.terms.target_digest == own.terms.target_digest && other.live_at(at).is_ok())
        .filter(|other| other.terms.logins.contains(&session.login) && other.ends_at > own.ends_at)
        .filter(|other| own.terms.allow.iter().all(|allow| other.terms.allow.contains(allow)))
        .filter(|other| other.state != GrantState::Ready || at < other.claim_by)
        .filter(|other| other.sessions.len() < MAX_SESSIONS && other.legs.len() < MAX_LEGS)
        .max_by_key(|other| (other.ends_at, other.id))
}

/// The end of a window with sessions open: those that another grant covers go on under it, the others are cut.
/// The end has come by the moment `by`, which is later than now where a wall clock is ahead.
pub(super) fn window_end(state: &State, grant: &Grant, now: Now<'_>, by: i64, moved: u64) -> Vec<Event> {
    let mut events = Vec::new();
    for session in grant.sessions.iter().filter_map(|id| state.sessions.get(id)) {
        let serial = state.last_serial + 1 + moved + events.len() as u64;
        events.extend(to_successor(state, session, serial, now, by));
    }
    let stays =
        |id: &SessionId| !events.iter().any(|e| matches!(e, Event::SessionMoved { session, .. } if session == id));
    let left: Vec<SessionId> = grant.sessions.iter().copied().filter(stays).collect();
    let rest = Grant { sessions: left.into_iter().collect(), ..grant.clone() };
    events.extend(ending(&rest, Cause::WindowEnd, None, None, now.at));
    events
}

fn to_successor(state: &State, session: &Session, serial: u64, now: Now<'_>, by: i64) -> Option<Event> {
    let to = successor(state, session, by)?;
    let live = to.live_at(now.at).ok()?;
    if session.end_asked_by.is_some() || !matches!(first_use(state, &live, now), Ok(None)) {
        return None;
    }
    let nonce = Digest::of(format!("{} {} {serial}", session.leg.nonce, to.id).as_bytes());
    let (valid_after, valid_before) = (now.at - BACKDATE_S, to.ends_at);
    let leg = Leg { serial, valid_after, valid_before, nonce, ..session.leg.clone() };
    let mut after = Session { grant: to.id, leg, ..session.clone() };
    after.leg.tbs_sha256 = leg_digest(state, to, &after).ok()?;
    Some(Event::SessionMoved { session: session.id, from: session.grant, to: to.id, leg: Box::new(after.leg) })
}

fn ranges(source: &[String]) -> Result<Vec<Cidr>, Refusal> {
    let wrong = |_| Refusal::new(Code::BAD_CONFIG, "The gateway's own addresses are no address ranges.");
    source.iter().map(|range| range.parse().map_err(wrong)).collect()
}

/// The specification of the certificate with which the gateway opens the target: bound to its own addresses, and to one account.
///
/// # Errors
/// [`Code::LINT`] when a name cannot be in a certificate; the grammar of names makes that a defect.
pub fn leg_spec(grant: &Grant, session: &Session) -> Result<UserSpec, Refusal> {
    let lint = |what: &str| Refusal::new(Code::LINT, format!("The {what} cannot be in a certificate."));
    let leg = &session.leg;
    let principal = Principal::new(format!("{}/{}", session.target, session.login)).map_err(|_| lint("principal"))?;
    let mut extensions = Vec::new();
    if grant.terms.allow.contains(&Allow::Shell) {
        extensions.push(Extension::PermitPty);
    }
    if grant.terms.allow.contains(&Allow::Forward) {
        extensions.push(Extension::PermitPortForwarding);
    }
    for (name, value) in [("grant@jit-broker", grant.id.to_string()), ("session@jit-broker", session.id.to_string())] {
        extensions.push(Extension::Named { name: name.to_owned(), value });
    }
    let seconds = |at: i64| u64::try_from(at).map_err(|_| lint("time"));
    Ok(UserSpec {
        serial: Serial::new(leg.serial).map_err(|_| lint("serial"))?,
        key: leg.key.0.clone(),
        key_id: KeyId::new(format!("jit:{}:{}", grant.id, grant.person)).map_err(|_| lint("key id"))?,
        principals: Principals::new(vec![principal]).map_err(|_| lint("list of principals"))?,
        window: CertWindow::new(seconds(leg.valid_after)?, seconds(leg.valid_before)?).map_err(|_| lint("window"))?,
        // SECURITY (T35): worthless from anywhere but the gateway, so that nobody goes around what records.
        critical: vec![CriticalOption::SourceAddress(ranges(&leg.source)?)],
        extensions,
        nonce: *leg.nonce.as_bytes(),
    })
}

/// The ranges that stand for single addresses.
pub fn only(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(|address| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })).collect()
}

pub(super) fn close(state: &State, id: SessionId, end: &SessionEnd, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    let Some(session) = state.sessions.get(&id) else { return Ok(Vec::new()) };
    let mut events = vec![Event::SessionClosed {
        session: id,
        grant: session.grant,
        person: session.person.clone(),
        target: session.target.clone(),
        end: end.clone(),
    }];
    let grant = state.grants.get(&session.grant);
    if let Some(grant) = grant
        && let GrantState::Ending { cause, .. } = grant.state
        && grant.sessions.iter().all(|open| *open == id)
    {
        let late = end.late_ms.map_or_else(String::new, |ms| format!(", the last one {ms} ms after the end"));
        let detail = format!("every session through the gateway is closed{late}");
        events.push(ended(grant, cause, detail, now.at));
    }
    Ok(events)
}

fn ended(grant: &Grant, cause: Cause, sessions: String, at: i64) -> Event {
    let refuses = "the gateway refuses its certificates since the entry of its end".to_owned();
    let proofs: Vec<Proof> =
        vec![proof("gateway", Some(true), at, refuses), proof("session", Some(true), at, sessions)];
    Event::GrantEnded { grant: grant.id, cause, proofs, kept: Vec::new() }
}

/// The events that end a grant whose target is reached through the gateway: what is open there is cut because of them.
pub(super) fn ending(
    grant: &Grant,
    cause: Cause,
    by: Option<&PersonName>,
    words: Option<Digest>,
    at: i64,
) -> Vec<Event> {
    // The keys of the gateway's own certificates are gone with their sessions; until the window's end the list names them all the same.
    let serials = if at < grant.ends_at { grant.legs.clone() } else { Vec::new() };
    let mut events = vec![Event::GrantEnding { grant: grant.id, cause, by: by.cloned(), serials, words }];
    if grant.sessions.is_empty() {
        events.push(ended(grant, cause, "no session through the gateway was open".to_owned(), at));
    }
    events
}

pub(super) fn ask_end(state: &State, by: &Verified<'_>, id: SessionId, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    let session = state.sessions.get(&id).ok_or_else(|| missing("session"))?;
    if session.person != by.person && !state.is_operator(&by.person) {
        return Err(missing("session"));
    }
    by.reason(now, "The end of a session")?;
    if session.end_asked_by.is_some() {
        return Ok(Vec::new());
    }
    let (act, by_whom) = (by.signed.id(), by.person.clone());
    Ok(vec![Event::SessionEndAsked { session: id, grant: session.grant, act, by: by_whom, words: by.act.words }])
}

/// Why a session must end now; nothing while it may go on.
pub fn over(state: &State, id: SessionId, now: i64) -> Option<Over> {
    let Some(session) = state.sessions.get(&id) else { return Some(Over::Lost) };
    if session.end_asked_by.is_some() {
        return Some(Over::EndedBy);
    }
    if state.revoked_keys.contains(&session.by_key) {
        return Some(Over::Revoked);
    }
    let Some(grant) = state.grants.get(&session.grant) else { return Some(Over::Lost) };
    match &grant.state {
        GrantState::Ready | GrantState::Active if now < grant.ends_at => None,
        // The entry that moves it to the other grant comes in a moment.
        GrantState::Ready | GrantState::Active if successor(state, session, now).is_some() => None,
        GrantState::Ready | GrantState::Active => Some(Over::WindowEnd),
        GrantState::Ending { cause, .. } | GrantState::Residue { cause, .. } | GrantState::Ended { cause, .. } => {
            Some((*cause).into())
        }
        GrantState::Lapsed | GrantState::Cancelled { .. } => Some(Over::Revoked),
    }
}
