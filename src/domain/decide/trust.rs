//! What everything rests on: bundles, keys, people and hosts.

use super::answer::progress;
use super::ask::{approvable, bundle_terms, judge_words, subject, submitted};
use super::end::ending;
use super::{Now, Verified, bundle_of, missing};
use crate::domain::act::{ACT_SKEW_S, HOST_NAMESPACE, SignedAct};
use crate::domain::digest::{Digest, read_canonical};
use crate::domain::event::{Cause, Event, HostWord};
use crate::domain::grant::BACKDATE_S;
use crate::domain::ids::RequestId;
use crate::domain::judge::Verdict;
use crate::domain::key::Key;
use crate::domain::names::{PersonName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::state::State;
use crate::domain::target::{HostIdentity, TargetKind};

/// How long a host certificate is valid, in seconds.
const HOST_CERT_S: i64 = 365 * 86_400;

fn admin(state: &State, by: &Verified<'_>) -> Result<(), Refusal> {
    if state.is_admin(&by.person) {
        return Ok(());
    }
    Err(Refusal::new(Code::NOT_OFFICE, "Administrators alone do this."))
}

pub(super) fn apply_bundle(
    state: &State,
    by: &Verified<'_>,
    bundle: Digest,
    base: Digest,
    now: Now<'_>,
) -> Result<Vec<Event>, Refusal> {
    admin(state, by)?;
    if base != state.bundle.digest {
        return Err(Refusal::new(
            Code::STALE_BUNDLE,
            "The adopted bundle is not the one that this plan was made against.",
        ));
    }
    let parsed = bundle_of(now, &bundle)?;
    let failures = crate::domain::policy::run_tests(&parsed, now.at);
    if let Some(first) = failures.first() {
        return Err(Refusal::new(Code::BUNDLE_REFUSED, format!("{} of its own tests fail: {first}", failures.len())));
    }
    if let Some((key, name)) =
        state.enrolled.iter().find(|(key, name)| parsed.owner_of(key).is_some_and(|o| o != *name))
    {
        let fp = key.0.fingerprint();
        return Err(Refusal::new(
            Code::BUNDLE_REFUSED,
            format!("The key {fp} was enrolled for {name} and belongs to nobody else."),
        ));
    }
    let terms = bundle_terms(bundle)?;
    // A change of the bundle is judged under the old one (decisions.md 8); without a rule an administrator decides alone.
    if state.bundle.policy.governs_itself() {
        let id = RequestId::of_digest(&by.signed.digest());
        let (person, target, _) = subject(state, &by.person, &terms.target, &terms.role)?;
        let words = by.words(now)?;
        match judge_words(state, &person, target, &terms.role, None, words.as_ref(), now.at) {
            Verdict::Refused(refusal) => return Err(refusal),
            Verdict::Automatic(_) => {}
            Verdict::Steps(allowed, steps) => {
                approvable(&person, &steps)?;
                return Ok(vec![submitted(state, id, by, None, terms, &allowed, now.at)]);
            }
        }
    }
    let mut events = vec![Event::BundleAdopted { by: by.person.clone(), act: by.signed.id(), bundle }];
    events.extend(rejudged(state, &bundle, None, now));
    Ok(events)
}

/// What a new bundle does to the requests that wait: some can no longer be granted, some need nobody any more.
pub(super) fn rejudged(state: &State, bundle: &Digest, skip: Option<RequestId>, now: Now<'_>) -> Vec<Event> {
    let Some(parsed) = now.beside.bundle(bundle) else { return Vec::new() };
    let next = state.under(parsed);
    let mut events = Vec::new();
    for id in state.open_requests.iter().filter(|id| Some(**id) != skip) {
        let Some(request) = state.requests.get(id) else { continue };
        let verdict = if request.key.is_none() {
            Err(Refusal::new(Code::STALE_BUNDLE, "Another bundle was adopted meanwhile."))
        } else {
            progress(&next, request, now)
        };
        if let Err(refusal) = verdict {
            events.push(Event::RequestInvalidated { request: *id, refusal });
        }
    }
    events
}

pub(super) fn disable(
    state: &State,
    by: &Verified<'_>,
    person: &PersonName,
    now: Now<'_>,
) -> Result<Vec<Event>, Refusal> {
    if !state.is_operator(&by.person) {
        return Err(Refusal::new(Code::NOT_OFFICE, "Operators alone disable people."));
    }
    state.person(person).ok_or_else(|| missing("person"))?;
    by.reason(now, "Disabling somebody")?;
    if state.disabled.contains(person) {
        return Ok(Vec::new());
    }
    let mut events = vec![Event::PersonDisabled { by: by.person.clone(), act: by.signed.id(), person: person.clone() }];
    for grant in state.open_grants_of(person) {
        if grant.live_at(now.at).is_ok() {
            events.extend(ending(grant, Cause::PersonDisabled, Some(&by.person), by.act.words, now.at));
        }
    }
    for id in state.pending_of(person) {
        let refusal = Refusal::new(Code::DISABLED, format!("{person} was disabled."));
        events.push(Event::RequestInvalidated { request: *id, refusal });
    }
    Ok(events)
}

pub(super) fn enable(state: &State, by: &Verified<'_>, person: &PersonName) -> Result<Vec<Event>, Refusal> {
    admin(state, by)?;
    if !state.disabled.contains(person) {
        return Ok(Vec::new());
    }
    Ok(vec![Event::PersonEnabled { by: by.person.clone(), act: by.signed.id(), person: person.clone() }])
}

pub(super) fn enroll(state: &State, by: &Verified<'_>, person: &PersonName, key: &Key) -> Result<Vec<Event>, Refusal> {
    admin(state, by)?;
    state.person(person).ok_or_else(|| missing("person"))?;
    if !key.0.signs_acts() {
        return Err(Refusal::new(Code::BAD_KEY, "RSA keys do not sign acts; take Ed25519, ECDSA or a security key."));
    }
    if state.revoked_keys.contains(key) {
        return Err(Refusal::new(Code::BAD_KEY, "That key was revoked, for ever."));
    }
    match state.owner_of(key) {
        Some(owner) if owner == *person => Ok(Vec::new()),
        Some(_) => Err(Refusal::new(Code::BAD_KEY, "That key belongs to somebody else already.")),
        None => Ok(vec![Event::KeyEnrolled {
            by: by.person.clone(),
            act: by.signed.id(),
            person: person.clone(),
            key: key.clone(),
        }]),
    }
}

pub(super) fn revoke_key(state: &State, by: &Verified<'_>, key: &Key) -> Result<Vec<Event>, Refusal> {
    let owner = state.owner_of(key).ok_or_else(|| missing("key"))?;
    if owner != by.person && !state.is_operator(&by.person) {
        return Err(missing("key"));
    }
    Ok(vec![Event::KeyRevoked { by: by.person.clone(), act: by.signed.id(), key: key.clone() }])
}

pub(super) fn confirm_clock(state: &State, by: &Verified<'_>) -> Result<Vec<Event>, Refusal> {
    if !state.is_operator(&by.person) {
        return Err(Refusal::new(Code::NOT_OFFICE, "Operators alone confirm the clock."));
    }
    Ok(vec![Event::ClockConfirmed { by: by.person.clone(), act: by.signed.id() }])
}

pub(super) fn enroll_host(
    state: &State,
    by: &Verified<'_>,
    target: &TargetName,
    key: &Key,
    now: Now<'_>,
) -> Result<Vec<Event>, Refusal> {
    admin(state, by)?;
    let found = state.bundle.targets.get(target).ok_or_else(|| missing("target"))?;
    if found.kind != TargetKind::Ssh {
        return Err(Refusal::new(Code::BAD_NAME, format!("{target} is no SSH host; only those are enrolled.")));
    }
    if let HostIdentity::Key(pinned) = &found.host
        && pinned != key
    {
        return Err(Refusal::new(Code::BAD_KEY, format!("targets.toml pins another host key for {target}.")));
    }
    if state.owner_of(key).is_some() || state.hosts.iter().any(|(name, host)| name != target && host.key == *key) {
        return Err(Refusal::new(Code::BAD_KEY, "That key is in use for somebody or something else."));
    }
    Ok(vec![Event::HostEnrolled {
        by: by.person.clone(),
        act: by.signed.id(),
        target: target.clone(),
        key: key.clone(),
        serial: state.last_host_serial + 1,
        valid_after: now.at - BACKDATE_S,
        valid_before: now.at + HOST_CERT_S,
    }])
}

/// A host says with its own key which revocation list it has.
pub(super) fn confirm(state: &State, signed: &SignedAct, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    let word: HostWord = read_canonical(signed.act.as_bytes())
        .map_err(|e| Refusal::new(Code::BAD_ACT, format!("The confirmation cannot be read: {e}.")))?;
    let host = state.hosts.get(&word.target).ok_or_else(|| missing("host"))?;
    let verified = jit_ca::sshsig::verify(HOST_NAMESPACE, signed.act.as_bytes(), &signed.signature)
        .map_err(|e| Refusal::new(Code::BAD_SIGNATURE, format!("The signature does not hold: {e}.")))?;
    let here = state.genesis.as_ref().is_some_and(|g| g.install == word.install);
    if Key(verified.key) != host.key || !here {
        return Err(Refusal::new(Code::BAD_SIGNATURE, "The confirmation was not signed by the enrolled host."));
    }
    if now.at.saturating_sub(word.at).abs() > ACT_SKEW_S {
        return Err(Refusal::new(Code::STALE_ACT, "The confirmation was signed at another time."));
    }
    if word.krl_version > state.krl.version {
        return Err(Refusal::new(Code::BAD_ACT, "There is no such revocation list yet."));
    }
    if word.krl_version <= host.krl_version {
        return Ok(Vec::new());
    }
    Ok(vec![Event::HostConfirmed { target: word.target, version: word.krl_version }])
}
