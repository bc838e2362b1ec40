//! Ending: release, revoke, deadlines, and the proofs that an access is gone.

use std::collections::BTreeSet;

use super::answer::progress;
use super::{Now, Verified, missing};
use crate::domain::act::Selector;
use crate::domain::digest::Digest;
use crate::domain::event::{Cause, Event, Listed, Proof};
use crate::domain::grant::{Grant, GrantState};
use crate::domain::ids::GrantId;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::state::State;

pub(super) fn release(state: &State, by: &Verified<'_>, id: GrantId, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    let grant = state.grants.get(&id).filter(|g| g.person == by.person).ok_or_else(|| missing("grant"))?;
    open(grant)?;
    Ok(ending(grant, Cause::Released, Some(&by.person), None, now.at))
}

pub(super) fn revoke(state: &State, by: &Verified<'_>, of: &Selector, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    by.reason(now, "A revocation")?;
    let operator = state.is_operator(&by.person);
    let grants: Vec<&Grant> = match of {
        Selector::Grant(id) => {
            let grant = state.grants.get(id).ok_or_else(|| missing("grant"))?;
            if !operator && grant.person != by.person && !was_eligible(state, grant, &by.person, now) {
                return Err(missing("grant"));
            }
            open(grant)?;
            vec![grant]
        }
        _ if !operator => {
            return Err(Refusal::new(Code::NOT_OFFICE, "Operators alone revoke everything of a person or a target."));
        }
        Selector::Person(person) => state.open_grants_of(person).filter(|g| open(g).is_ok()).collect(),
        Selector::Target(target) => state.open_grants_on(target).filter(|g| open(g).is_ok()).collect(),
    };
    Ok(grants.into_iter().flat_map(|g| ending(g, Cause::Revoked, Some(&by.person), by.act.words, now.at)).collect())
}

/// An approver who was, or would have been, eligible may end what they may grant (decisions.md 11).
///
/// INVARIANT: what is over is not judged again: its text may be gone here and not there, and then broker and signer would differ.
fn was_eligible(state: &State, grant: &Grant, person: &PersonName, now: Now<'_>) -> bool {
    let Some(request) = state.requests.get(&grant.request) else { return false };
    request.approvals.iter().any(|a| a.by == *person)
        || open(grant).is_ok()
            && progress(state, request, now)
                .is_ok_and(|(_, views)| views.iter().any(|v| v.step.eligible.contains(person)))
}

fn open(grant: &Grant) -> Result<(), Refusal> {
    match grant.state {
        GrantState::Ready | GrantState::Active => Ok(()),
        _ => {
            let message = format!("Grant {} is {} already.", grant.id, grant.state.word());
            Err(Refusal::new(Code::FINAL, message).hint(format!("jit-broker show {}", grant.id)))
        }
    }
}

/// The events that end a grant now. A grant without certificates is over at once: there is nothing to make worthless.
pub(super) fn ending(
    grant: &Grant,
    cause: Cause,
    by: Option<&PersonName>,
    words: Option<Digest>,
    at: i64,
) -> Vec<Event> {
    if grant.terms.gateway {
        return super::session::ending(grant, cause, by, words, at);
    }
    let serials = grant.unexpired_serials(at);
    // The account of a database is over when its server shows it.
    let none_left = serials.is_empty() && grant.account.is_none();
    let mut events = vec![Event::GrantEnding { grant: grant.id, cause, by: by.cloned(), serials, words }];
    if none_left {
        let proofs = vec![proof("credential", Some(true), at, "no certificate of this grant is valid".to_owned())];
        events.push(Event::GrantEnded { grant: grant.id, cause, proofs, kept: Vec::new() });
    }
    events
}

/// About the most events of one look at the deadlines; whoever gets as many looks again.
pub const MOST_DUE: usize = 500;

/// Everything whose time has come by `by`, in Unix seconds, in pieces of [`MOST_DUE`]. What proves an end is measured by the log's own time.
pub(super) fn due(state: &State, now: Now<'_>, by: i64) -> Vec<Event> {
    let expired = state.due_requests(by).into_iter().take(MOST_DUE);
    let mut events: Vec<Event> = expired.map(|request| Event::RequestExpired { request }).collect();
    for grant in state.due_grants(by).iter().filter_map(|id| state.grants.get(id)) {
        if events.len() >= MOST_DUE {
            break;
        }
        match &grant.state {
            GrantState::Ready if grant.claim_by <= by => events.push(Event::GrantLapsed { grant: grant.id }),
            GrantState::Ready | GrantState::Active if grant.ends_at <= by && !grant.sessions.is_empty() => {
                let serials = events.iter().filter(|e| matches!(e, Event::SessionMoved { .. })).count() as u64;
                events.extend(super::session::window_end(state, grant, now, by, serials));
            }
            GrantState::Ready | GrantState::Active if grant.ends_at <= by => {
                events.extend(ending(grant, Cause::WindowEnd, None, None, now.at));
            }
            GrantState::Ending { cause, krl_version, .. } if grant.account.is_none() && !grant.terms.gateway => {
                if let Some(proofs) = proven(state, grant, *krl_version, now.at) {
                    events.push(Event::GrantEnded { grant: grant.id, cause: *cause, proofs, kept: Vec::new() });
                }
            }
            _ => {}
        }
    }
    events
}

/// The proofs of decisions.md 27, or nothing while one is missing.
fn proven(state: &State, grant: &Grant, krl_version: Option<u64>, at: i64) -> Option<Vec<Proof>> {
    let unobserved =
        || proof("session", None, at, "unobserved: what was open on the host may still be open there".to_owned());
    if at >= grant.latest_end() {
        let detail = "every certificate has been expired for 90 s".to_owned();
        return Some(vec![proof("expiry", Some(true), at, detail), unobserved()]);
    }
    let version = krl_version?;
    let host = state.hosts.get(&grant.terms.target)?;
    if host.krl_version < version {
        return None;
    }
    Some(vec![
        proof("krl", Some(true), at, format!("revocation list {version} names every serial")),
        proof("host", Some(true), at, format!("{} confirmed list {}", grant.terms.target, host.krl_version)),
        unobserved(),
    ])
}

pub(super) fn proof(what: &str, ok: Option<bool>, at: i64, detail: String) -> Proof {
    Proof { what: what.to_owned(), ok, at, detail }
}

/// The next revocation list, when the published one is not what it must be.
pub(super) fn publish(state: &State, at: i64) -> Vec<Event> {
    let wanted: BTreeSet<u64> = state.krl_wanted(at);
    // A list names the authorities that it is for, so it is made anew with them.
    if state.krl.version > 0 && wanted == state.krl.serials && state.krl.trust == state.authorities.version {
        return Vec::new();
    }
    vec![Event::KrlPublished { version: state.krl.version + 1, serials: Vec::new(), listed: Some(Listed::of(&wanted)) }]
}
