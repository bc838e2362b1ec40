//! What everything rests on: bundles, keys, people and hosts.

use super::answer::judged_again;
use super::ask::{approvable, bundle_terms, judge_words, subject, submitted};
use super::end::ending;
use super::{Now, Verified, bundle_of, missing};
use crate::domain::act::{ACT_SKEW_S, Deed, HOST_NAMESPACE, SignedAct};
use crate::domain::authority::Purpose;
use crate::domain::bundle::Bundle;
use crate::domain::digest::{Digest, read_canonical};
use crate::domain::event::{Cause, Event, HostWord};
use crate::domain::grant::BACKDATE_S;
use crate::domain::ids::{ActId, RequestId};
use crate::domain::judge::Verdict;
use crate::domain::key::Key;
use crate::domain::names::{PersonName, TargetName};
use crate::domain::person::{Person, PersonKind};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::state::State;
use crate::domain::target::{HostIdentity, TargetKind};

/// How long a host certificate is valid, in seconds.
const HOST_CERT_S: i64 = 365 * 86_400;
/// The longest fingerprint that a host may name, in bytes.
const MAX_FINGERPRINT: usize = 64;

pub(super) fn admin(state: &State, by: &Verified<'_>) -> Result<(), Refusal> {
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
    belongs(state, &parsed)?;
    if let Some(events) = governed(state, by, bundle, None, now)? {
        return Ok(events);
    }
    let mut events = vec![Event::BundleAdopted { by: by.person.clone(), act: by.signed.id(), bundle }];
    events.extend(rejudged(state, &bundle, None, now));
    Ok(events)
}

/// A key belongs to one person, host or authority (decisions.md 8): what leaf 0, enrolments and hosts have, no bundle gives to others.
/// And an administrator must be left who can mend a bundle.
pub(super) fn belongs(state: &State, parsed: &Bundle) -> Result<(), Refusal> {
    let refuse = |key: &Key, whose: &str| {
        let fp = key.0.fingerprint();
        Err(Refusal::new(Code::BUNDLE_REFUSED, format!("The key {fp} {whose} and belongs to nobody else.")))
    };
    let taken = |key: &Key, name: &PersonName| parsed.owner_of(key).is_some_and(|owner| owner != name);
    if let Some((key, name)) = state.enrolled.iter().find(|(key, name)| taken(key, name)) {
        return refuse(key, &format!("was enrolled for {name}"));
    }
    if let Some((target, host)) = state.hosts.iter().find(|(_, host)| parsed.owner_of(&host.key).is_some()) {
        return refuse(&host.key, &format!("is that of the host {target}"));
    }
    if let Some(genesis) = &state.genesis {
        if let Some((name, key)) = state.admins.iter().find(|(name, key)| taken(key, name)) {
            return refuse(key, &format!("is that of the administrator {name}"));
        }
        if parsed.owner_of(&genesis.log_key).is_some() {
            return refuse(&genesis.log_key, "is one of the broker's own");
        }
        let mut people = parsed.people.values().flat_map(|person| &person.keys);
        if let Some(key) = people.find(|key| state.authorities.is_one(key)) {
            return refuse(key, "is one of the broker's own");
        }
    }
    if state.has_admin_without(parsed, None, None) { Ok(()) } else { Err(last_admin()) }
}

fn last_admin() -> Refusal {
    Refusal::new(Code::LAST_ADMIN, "Nobody would be left who can administer this broker.")
}

/// The request that waits for people first, where a rule on `broker/policy` asks somebody. It is judged under the bundle that stands
/// (decisions.md 8); without a rule an administrator decides alone.
fn governed(
    state: &State,
    by: &Verified<'_>,
    digest: Digest,
    deed: Option<&Deed>,
    now: Now<'_>,
) -> Result<Option<Vec<Event>>, Refusal> {
    if !state.bundle.policy.governs_itself() {
        return Ok(None);
    }
    let (id, terms) = (RequestId::of_digest(&by.signed.digest()), bundle_terms(digest)?);
    let (person, target, _) = subject(state, &by.person, &terms.target, &terms.role)?;
    let words = by.words(now)?;
    match judge_words(state, &person, target, &terms.role, None, words.as_ref(), now.at) {
        Verdict::Refused(refusal) => Err(refusal),
        Verdict::Automatic(_) => Ok(None),
        Verdict::Steps(allowed, steps) => {
            approvable(&person, &steps)?;
            let mut event = submitted(state, id, by, None, terms, &allowed, now.at);
            if let Event::RequestSubmitted { deed: waiting, .. } = &mut event {
                *waiting = deed.cloned().map(Box::new);
            }
            Ok(Some(vec![event]))
        }
    }
}

/// Gives somebody power: a key, a host, or themselves back. One administrator does not get around the people whom a change of the bundle
/// must ask (decisions.md 9), so the same rule guards it.
pub(super) fn empower(state: &State, by: &Verified<'_>, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    admin(state, by)?;
    let events = carry_out(state, &by.person, by.signed.id(), &by.act.deed, now)?;
    if events.is_empty() {
        return Ok(events);
    }
    Ok(governed(state, by, by.signed.digest(), Some(&by.act.deed), now)?.unwrap_or(events))
}

/// What follows from a deed that gives power, once nobody is left to be asked.
pub(super) fn carry_out(
    state: &State,
    by: &PersonName,
    act: ActId,
    deed: &Deed,
    now: Now<'_>,
) -> Result<Vec<Event>, Refusal> {
    match deed {
        Deed::Enable { person, .. } => Ok(enable(state, by, act, person)),
        Deed::Enroll { person, key, .. } => enroll(state, by, act, person, key),
        Deed::EnrollHost { target, key, .. } => enroll_host(state, by, act, target, key, now),
        Deed::RotateCa { ca, step, .. } => super::rotate::rotate(state, by, act, *ca, step, now.at),
        _ => Err(Refusal::new(Code::BUG, "That deed waits for nobody.")),
    }
}

/// What a new bundle does to the requests that wait: some can no longer be granted, some need nobody any more and are granted.
pub(super) fn rejudged(state: &State, bundle: &Digest, skip: Option<RequestId>, now: Now<'_>) -> Vec<Event> {
    let Some(parsed) = now.beside.bundle(bundle) else { return Vec::new() };
    let next = state.under(parsed);
    let mut events = Vec::new();
    for id in state.open_requests.iter().filter(|id| Some(**id) != skip) {
        let Some(request) = state.requests.get(id) else { continue };
        let verdict = if request.key.is_none() && request.deed.is_none() {
            Err(Refusal::new(Code::STALE_BUNDLE, "Another bundle was adopted meanwhile."))
        } else {
            judged_again(&next, request, now)
        };
        events.extend(verdict.unwrap_or_else(|refusal| vec![Event::RequestInvalidated { request: *id, refusal }]));
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
    if state.is_admin(person) && !state.has_admin_without(&state.bundle, Some(person), None) {
        return Err(last_admin());
    }
    let mut events = vec![Event::PersonDisabled { by: by.person.clone(), act: by.signed.id(), person: person.clone() }];
    // Agents are judged by their owner as well, so they lose the same.
    let acts_for = |p: &&Person| matches!(&p.kind, PersonKind::Agent { owner } if owner == person);
    let agents = state.bundle.people.values().filter(acts_for).map(|agent| &agent.name);
    for name in std::iter::once(person).chain(agents) {
        let live = state.open_grants_of(name).filter(|grant| grant.live_at(now.at).is_ok());
        events.extend(
            live.flat_map(|grant| ending(grant, Cause::PersonDisabled, Some(&by.person), by.act.words, now.at)),
        );
        for id in state.pending_of(name) {
            let refusal = Refusal::new(Code::DISABLED, format!("{person} was disabled."));
            events.push(Event::RequestInvalidated { request: *id, refusal });
        }
    }
    Ok(events)
}

fn enable(state: &State, by: &PersonName, act: ActId, person: &PersonName) -> Vec<Event> {
    if !state.disabled.contains(person) {
        return Vec::new();
    }
    vec![Event::PersonEnabled { by: by.clone(), act, person: person.clone() }]
}

fn enroll(state: &State, by: &PersonName, act: ActId, person: &PersonName, key: &Key) -> Result<Vec<Event>, Refusal> {
    state.person(person).ok_or_else(|| missing("person"))?;
    if state.hosts.values().any(|host| host.key == *key) {
        return Err(Refusal::new(Code::BAD_KEY, "That key is in use for somebody or something else."));
    }
    if person == by {
        return Err(Refusal::new(Code::OWN_REQUEST, "Nobody enrols a key of their own alone.")
            .hint("Another administrator enrols it, or jit-broker apply DIR with the key in people.toml."));
    }
    if !key.0.signs_acts() {
        return Err(Refusal::new(Code::BAD_KEY, "RSA keys do not sign acts; take Ed25519, ECDSA or a security key."));
    }
    if state.revoked_keys.contains(key) {
        return Err(Refusal::new(Code::BAD_KEY, "That key was revoked, for ever."));
    }
    match state.owner_of(key) {
        Some(owner) if owner == *person => Ok(Vec::new()),
        Some(_) => Err(Refusal::new(Code::BAD_KEY, "That key belongs to somebody else already.")),
        None => Ok(vec![Event::KeyEnrolled { by: by.clone(), act, person: person.clone(), key: key.clone() }]),
    }
}

/// Takes a key away, with all that it asked for or holds. A grant that holds it beside other keys goes on for those; one that it asked for,
/// or bound a key to, does not: whoever had stolen it would name a key of their own.
pub(super) fn revoke_key(state: &State, by: &Verified<'_>, key: &Key, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    let owner = state.owner_of(key).ok_or_else(|| missing("key"))?;
    if owner != by.person && !state.is_operator(&by.person) {
        return Err(missing("key"));
    }
    if state.is_admin(&owner) && !state.has_admin_without(&state.bundle, None, Some(key)) {
        return Err(last_admin());
    }
    let fp = key.0.fingerprint();
    let mut events = vec![Event::KeyRevoked { by: by.person.clone(), act: by.signed.id(), key: key.clone() }];
    for grant in state.open_grants.iter().filter_map(|id| state.grants.get(id)) {
        // An account on a database is one for all keys.
        let left = grant.account.is_none()
            && grant.keys.iter().any(|other| other != key && !state.revoked_keys.contains(other));
        let asked = state.requests.get(&grant.request).is_some_and(|request| request.key_fp.as_ref() == Some(&fp));
        let taken = asked || grant.bound_by.contains(&fp) || grant.keys.contains(key) && !left;
        if grant.live_at(now.at).is_ok() && taken {
            events.extend(ending(grant, Cause::Revoked, Some(&by.person), by.act.words, now.at));
        }
    }
    for request in state.open_requests.iter().filter_map(|id| state.requests.get(id)) {
        if request.key.as_ref() == Some(key) || request.key_fp.as_ref() == Some(&fp) {
            let refusal = Refusal::new(Code::BAD_KEY, format!("The key {fp} was revoked."));
            events.push(Event::RequestInvalidated { request: request.id, refusal });
        }
    }
    Ok(events)
}

fn enroll_host(
    state: &State,
    by: &PersonName,
    act: ActId,
    target: &TargetName,
    key: &Key,
    now: Now<'_>,
) -> Result<Vec<Event>, Refusal> {
    let found = state.bundle.targets.get(target).ok_or_else(|| missing("target"))?;
    if found.kind != TargetKind::Ssh {
        return Err(Refusal::new(Code::BAD_NAME, format!("{target} is no SSH host; only those are enrolled.")));
    }
    if let HostIdentity::Key(pinned) = &found.host
        && pinned != key
    {
        return Err(Refusal::new(Code::BAD_KEY, format!("targets.toml pins another host key for {target}.")));
    }
    if state.owner_of(key).is_some() {
        return Err(Refusal::new(Code::BAD_KEY, "That key is somebody's own."));
    }
    // A host that has left the inventory may come back under another name.
    let known = |name: &TargetName| name != target && state.bundle.targets.contains_key(name);
    if let Some((name, _)) = state.hosts.iter().find(|(name, host)| known(name) && host.key == *key) {
        let next = format!("jit-broker host leave {name}, and take it out of targets.toml");
        return Err(Refusal::new(Code::BAD_KEY, format!("That is the key of {name}, which is enrolled.")).hint(next));
    }
    if state.hosts.get(target).is_some_and(|h| h.key == *key && h.valid_before - now.at > HOST_CERT_S / 2) {
        return Ok(Vec::new());
    }
    Ok(vec![Event::HostEnrolled {
        by: by.clone(),
        act,
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
    if word.trust > Some(state.authorities.version) {
        return Err(Refusal::new(Code::BAD_ACT, "There are no such authorities yet."));
    }
    let trust = word.trust.filter(|version| *version > host.trust);
    let further = word.krl_version > host.krl_version || trust.is_some();
    // SECURITY: what does not bring a host further is an entry only where it comes to show the authority that signs: one that says now
    // this and now that would fill the log.
    let signs = state.authorities.ssh(Purpose::SshHost).map(|key| key.0.fingerprint());
    let host_ca = word
        .host_ca
        .filter(|ca| host.host_ca.as_ref() != Some(ca) && ca.len() <= MAX_FINGERPRINT)
        .filter(|ca| further || host.host_ca.is_none() || signs.as_ref() == Some(ca));
    if !further && host_ca.is_none() {
        return Ok(Vec::new());
    }
    let version = word.krl_version.max(host.krl_version);
    Ok(vec![Event::HostConfirmed { target: word.target, version, trust, host_ca }])
}
