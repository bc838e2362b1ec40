//! Asking: what policy says of a request at the moment it is made, and of an extension.

use super::answer::open_window;
use super::{Now, Verified, missing};
use crate::domain::act::Terms;
use crate::domain::database::Auth;
use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::grant::Grant;
use crate::domain::ids::{GrantId, RequestId};
use crate::domain::judge::{Allowed, Ask, Step, Verdict, judge, matchable};
use crate::domain::key::Key;
use crate::domain::names::{PersonName, RoleName, TargetName};
use crate::domain::person::Person;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::request::Extension;
use crate::domain::span::MAX_SPAN_S;
use crate::domain::state::State;
use crate::domain::target::{Mode, Role, Target};
use crate::domain::text::Words;

/// How much of a grant must be left to cover an ask without a duration, in seconds (decisions.md 23).
const COVER_S: i64 = 60;
/// The most requests of one person that may wait at a time.
const MAX_PENDING: usize = 50;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub target: &'a TargetName,
    pub role: &'a RoleName,
    pub for_s: Option<u64>,
    pub key: &'a Key,
    pub extends: Option<Extension>,
}

/// Asks that a grant go on: judged as a request for all the time from now to the end that is asked for, so that no rule's longest time
/// is got around by asking again and again in pieces.
pub(super) fn extend(
    state: &State,
    by: &Verified<'_>,
    (grant, until): (GrantId, i64),
    wish: Wish<'_>,
    now: Now<'_>,
) -> Result<Vec<Event>, Refusal> {
    let old = state.grants.get(&grant).filter(|g| g.person == by.person).ok_or_else(|| missing("grant"))?;
    let old = old.live_at(now.at)?;
    if old.terms.target != *wish.target || old.terms.role != *wish.role {
        return Err(Refusal::new(Code::BAD_ACT, format!("Grant {grant} is for another target or role.")));
    }
    let longer = until.checked_sub(old.ends_at).is_some_and(|s| s > 0);
    let for_s = until.checked_sub(now.at).and_then(|s| u64::try_from(s).ok()).filter(|s| longer && *s <= MAX_SPAN_S);
    let Some(for_s) = for_s else {
        let message =
            format!("Grant {grant} ends at {}; an extension ends later, and at most 366 days from now.", old.ends_at);
        return Err(Refusal::new(Code::BAD_DURATION, message));
    };
    request(state, by, Wish { for_s: Some(for_s), extends: Some(Extension { grant, until }), ..wish }, now)
}

pub(super) fn request(state: &State, by: &Verified<'_>, wish: Wish<'_>, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    let Wish { target, role, for_s, key, extends } = wish;
    let id = RequestId::of_digest(&by.signed.digest());
    let words = by.words(now)?;
    let refused = |refusal: Refusal| {
        let (person, target) = (by.person.clone(), target.clone());
        Ok(vec![Event::RequestRefused { request: id, person, target, refusal, words: by.act.words }])
    };
    let (person, found, granted) = match subject(state, &by.person, target, role) {
        Ok(found) => found,
        Err(refusal) => return refused(refusal),
    };
    if state.authorities.is_one(key) {
        return refused(Refusal::new(Code::BAD_KEY, "The broker's own keys are never certified."));
    }
    if found.database.as_ref().is_some_and(|d| d.auth == Auth::Cert) && !jit_ca::x509::fits_client(&key.0) {
        return refused(Refusal::new(
            Code::BAD_KEY,
            "A client certificate is for an ECDSA P-256 or Ed25519 key; jit-broker login makes one.",
        ));
    }
    if state.revoked_keys.contains(key) {
        return refused(Refusal::new(Code::BAD_KEY, "That key was revoked, for ever."));
    }
    if extends.is_none()
        && let Some(grant) = covering(state, by, target, role, for_s, now.at)
    {
        let (person, target) = (by.person.clone(), target.clone());
        return Ok(vec![Event::RequestCovered { request: id, person, target, grant: grant.id }]);
    }
    if state.pending_of(&by.person).len() >= MAX_PENDING {
        return refused(
            Refusal::new(Code::TOO_MANY, format!("{MAX_PENDING} of your requests wait already."))
                .hint("jit-broker status shows them, and jit-broker withdraw takes one back."),
        );
    }
    let verdict = judge_words(state, &person, found, role, for_s, words.as_ref(), now.at);
    let (allowed, steps) = match verdict {
        Verdict::Refused(refusal) => return refused(refusal),
        Verdict::Automatic(allowed) => (allowed, Vec::new()),
        Verdict::Steps(allowed, steps) => (allowed, steps),
    };
    if by.attested
        && let Err(refusal) = attestable(found, &allowed, &steps)
    {
        return refused(refusal);
    }
    if let Err(refusal) = approvable(&person, &steps) {
        return refused(refusal);
    }
    let terms = terms_of(found, role, granted, allowed.for_s);
    let mut events = vec![submitted(state, id, by, Some(key.clone()), terms, &allowed, now.at)];
    if let (Some(until), Some(Event::RequestSubmitted { extends: kept, answer_by, .. })) = (extends, events.first_mut())
    {
        (*kept, *answer_by) = (extends, (*answer_by).min(until.until));
    }
    if steps.is_empty() {
        events.extend(open_window(&by.person, id, key, standing(&events), &allowed, extends, now.at));
    }
    Ok(events)
}

/// Refuses what a gateway may not ask for somebody: where a rule does not let it, and where nobody would look at it (decisions.md 29).
pub(super) fn attestable(target: &Target, allowed: &Allowed, steps: &[Step]) -> Result<(), Refusal> {
    if target.mode == Mode::Gateway && allowed.attested && !steps.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(Code::NO_RULE, format!("Access to {} is not given to requests that nobody signed.", target.name))
        .hint(format!("jit-broker request {}", target.name)))
}

fn standing(events: &[Event]) -> Option<Terms> {
    match events.first() {
        Some(Event::RequestSubmitted { terms, .. }) => Some(terms.clone()),
        _ => None,
    }
}

/// The event that records a request, with a code that no other open request has.
pub(super) fn submitted(
    state: &State,
    id: RequestId,
    by: &Verified<'_>,
    key: Option<Key>,
    terms: Terms,
    allowed: &Allowed,
    at: i64,
) -> Event {
    let digest = by.signed.digest();
    Event::RequestSubmitted {
        request: id,
        digest,
        person: by.person.clone(),
        key,
        terms,
        code: state.free_code(&digest),
        answer_by: at.saturating_add(i64::try_from(allowed.answer_within_s).unwrap_or(i64::MAX)),
        rules: allowed.rules.clone(),
        words: by.act.words,
        deed: None,
        key_fp: Some(by.act.key_fp.clone()),
        attested: by.attested,
        extends: None,
    }
}

/// Looks up person, target and role.
pub(in crate::domain) fn subject<'a>(
    state: &'a State,
    person: &PersonName,
    target: &TargetName,
    role: &RoleName,
) -> Result<(Person, &'a Target, &'a Role), Refusal> {
    let found =
        state.bundle.targets.get(target).ok_or_else(|| {
            Refusal::new(Code::MISSING, format!("There is no target {target}.")).hint("jit-broker ls")
        })?;
    let granted = found.roles.get(role).ok_or_else(|| {
        let roles: Vec<&str> = found.roles.keys().map(RoleName::as_str).collect();
        Refusal::new(Code::NO_ROLE, format!("{target} has no role {role}; it has {}.", roles.join(", ")))
            .hint(format!("jit-broker ls {target}"))
    })?;
    let person = state.person(person).ok_or_else(|| Refusal::new(Code::UNKNOWN_KEY, "You are not in people.toml."))?;
    Ok((person, found, granted))
}

/// Judges an ask with its text.
pub(in crate::domain) fn judge_words(
    state: &State,
    person: &Person,
    target: &Target,
    role: &RoleName,
    for_s: Option<u64>,
    words: Option<&Words>,
    at: i64,
) -> Verdict {
    let ask = Ask {
        person,
        target,
        role,
        for_s,
        reason: words.and_then(|w| w.reason.as_deref()),
        ticket: words.and_then(|w| w.ticket.as_deref()),
        signed_in_s: state.signed_in.get(&person.name).map(|t| u64::try_from(at.saturating_sub(*t)).unwrap_or(0)),
        disabled: &state.disabled,
        now: at,
    };
    judge(&state.bundle, &ask)
}

/// Refuses when no choice of different people can meet all steps (decisions.md 24).
pub(super) fn approvable(person: &Person, steps: &[Step]) -> Result<(), Refusal> {
    let open: Vec<_> = steps.iter().map(|s| (s.name.clone(), s.need, &s.eligible)).collect();
    let taken = std::iter::once(person.name.clone()).collect();
    matchable(&open, &taken).map_err(|step| {
        Refusal::new(
            Code::NOT_APPROVABLE,
            format!(
                "Step {step} can never be met: there are not enough different people besides you who may answer it."
            ),
        )
        .hint("An administrator must change the rule or the groups.")
    })
}

/// Exactly what would be granted.
pub(super) fn terms_of(target: &Target, role_name: &RoleName, role: &Role, for_s: u64) -> Terms {
    let mut terms = Terms {
        target: target.name.clone(),
        target_digest: target.digest(),
        role: role_name.clone(),
        logins: Vec::new(),
        allow: Vec::new(),
        database: None,
        gateway: target.mode == Mode::Gateway,
        for_s,
    };
    role.fill(role_name, &mut terms);
    terms
}

/// The terms of what `broker/policy` guards: the digest of a bundle, or of the act that says what else is to be done.
pub(super) fn bundle_terms(bundle: Digest) -> Result<Terms, Refusal> {
    let broken = |_| Refusal::new(Code::BUG, "The broker's own names are not names.");
    Ok(Terms {
        target: TargetName::new("broker/policy").map_err(broken)?,
        target_digest: bundle,
        role: RoleName::new("apply").map_err(broken)?,
        logins: Vec::new(),
        allow: Vec::new(),
        database: None,
        gateway: false,
        for_s: 0,
    })
}

/// The live grant that does what is asked for. One that is used inside ssh alone does so for nobody else.
fn covering<'a>(
    state: &'a State,
    by: &Verified<'_>,
    target: &TargetName,
    role: &RoleName,
    for_s: Option<u64>,
    at: i64,
) -> Option<&'a Grant> {
    let wanted = for_s.map_or(COVER_S, |s| i64::try_from(s).unwrap_or(i64::MAX));
    state.open_grants_of(&by.person).find(|grant| {
        grant.terms.target == *target
            && (by.attested || !state.is_attested(grant))
            && grant.terms.role == *role
            && grant.live_at(at).is_ok()
            && grant.ends_at.saturating_sub(at) >= wanted
    })
}
