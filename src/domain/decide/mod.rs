//! What may happen next: the one place where a command becomes events, or a refusal.
//!
//! The clerk runs it before it appends; the signer runs it again on every entry that it is shown, and a verifier may do so years later.

mod account;
mod answer;
mod ask;
mod clock;
mod end;
mod epoch;
mod issue;
mod rotate;
mod session;
mod trust;

use std::sync::Arc;

use super::act::{ACT_SKEW_S, Act, Deed, SignedAct};
use super::digest::Digest;
use super::event::{Command, Event};
use super::key::Key;
use super::names::PersonName;
use super::refusal::{Code, Refusal};
use super::state::{Beside, State};
use ask::Wish;

pub use account::{bounded, bounded_proofs, client_ca, client_spec};
pub use answer::{StepView, judged_again, progress};
pub use clock::DRIFT_S;
pub use end::MOST_DUE;
pub use issue::user_spec;
pub use rotate::{Lacking, lacking};
pub use session::{leg_spec, only, over, successor};

/// The moment and the surroundings in which a command is decided.
#[derive(Clone, Copy)]
pub struct Now<'a> {
    /// Unix seconds; never before the state's last entry.
    pub at: i64,
    /// What stands beside the log.
    pub beside: &'a dyn Beside,
}

/// An act whose signature holds and whose signer is known and active.
struct Verified<'a> {
    signed: &'a SignedAct,
    act: &'a Act,
    person: PersonName,
    touched: bool,
    /// Nobody signed it: a gateway says so.
    attested: bool,
}

/// Decides a command: the events that follow from it, in order. No events means that it changes nothing (it was done before).
/// An act that was refused before is refused again, in the same words and without another entry.
///
/// # Errors
/// The refusal, where the command is not even an event: nobody known said it.
pub fn decide(state: &State, command: &Command, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    match command {
        Command::Begin(genesis) if state.size == 0 => Ok(vec![Event::Begun(genesis.clone())]),
        Command::Begin(_) => Err(Refusal::new(Code::NOT_EMPTY, "The log has begun already.")),
        _ if state.genesis.is_none() => Err(Refusal::new(Code::LEDGER_CORRUPT, "The log has no beginning.")),
        Command::Act(signed) => decide_act(state, signed, None, now),
        Command::ActByWall { signed, wall_s } => decide_act(state, signed, Some(*wall_s), now),
        Command::Attested(said) => decide_attested(state, said, now),
        Command::Issue { grant, key, nonce, verifier } => issue::issue(state, *grant, key, *nonce, *verifier, now),
        Command::AccountMade { grant } => account::made(state, *grant),
        Command::AccountRemoved { grant, proofs, kept, left } => account::removed(state, *grant, proofs, kept, left),
        Command::AccountFound { server, account, what } => {
            let (server, account, what) = (server.clone(), account.clone(), what.clone());
            Ok(vec![Event::AccountFound { server, account, what }])
        }
        Command::OpenSession { .. } => session::open(state, command, now),
        Command::CloseSession { session, end } => session::close(state, *session, end, now),
        Command::ReadRecording { session, grant, by } => {
            Ok(vec![Event::SessionRead { session: *session, grant: *grant, by: by.clone() }])
        }
        Command::ResetTrust { admins } => epoch::reset(state, admins),
        Command::Due => Ok(end::due(state, now, now.at)),
        Command::Clock { drift_s, synchronised } => Ok(clock::jumped(state, *drift_s, *synchronised, now)),
        Command::PublishKrl => Ok(end::publish(state, now.at)),
        Command::Confirm(signed) => trust::confirm(state, signed, now),
        Command::Start => Ok(vec![Event::Started]),
        Command::Stop => Ok(vec![Event::Stopped]),
        Command::Beat => Ok(vec![Event::Heartbeat]),
        Command::Snapshot { size, sha256 } => snapshot(state, *size, *sha256),
    }
}

/// What follows from a deed that gives power, once nobody is left to be asked.
///
/// # Errors
/// Why it can no longer be done.
pub fn carried(
    state: &State,
    by: &PersonName,
    act: super::ids::ActId,
    deed: &Deed,
    now: Now<'_>,
) -> Result<Vec<Event>, Refusal> {
    trust::carry_out(state, by, act, deed, now)
}

/// Who says this, if it is somebody known who may bring what comes with it. Cheap, so that it is asked before anything is parsed, kept or queued.
///
/// # Errors
/// What [`decide`] would say of signature, key, person and time; [`Code::NOT_OFFICE`] for a bundle of somebody who is no administrator.
pub fn admit(state: &State, signed: &SignedAct, at: i64, wall: Option<i64>) -> Result<(Act, PersonName), Refusal> {
    let act = signed.read()?;
    let verified = verify(state, signed, &act, at, wall)?;
    if matches!(act.deed, Deed::Apply { .. }) {
        trust::admin(state, &verified)?;
    }
    let person = verified.person;
    Ok((act, person))
}

fn decide_act(state: &State, signed: &SignedAct, wall: Option<i64>, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    let act = signed.read()?;
    let verified = verify(state, signed, &act, now.at, wall)?;
    if state.acts.contains(&signed.id()) {
        // The answer is the one that it got: nothing happens twice, and what was refused stays refused.
        return state.refused_acts.get(&signed.id()).map_or_else(|| Ok(Vec::new()), |refusal| Err(refusal.clone()));
    }
    let outcome = match &act.deed {
        Deed::Login { .. } => {
            Ok(vec![Event::SignedIn { person: verified.person.clone(), act: signed.id(), key_fp: act.key_fp.clone() }])
        }
        Deed::Request { target, role, for_s, key, .. } => {
            ask::request(state, &verified, Wish { target, role, for_s: *for_s, key, extends: None }, now)
        }
        Deed::Extend { grant, target, role, until, key, .. } => {
            let wish = Wish { target, role, for_s: None, key, extends: None };
            ask::extend(state, &verified, (*grant, *until), wish, now)
        }
        Deed::Approve { request, request_digest, terms, .. } => {
            answer::approve(state, &verified, *request, request_digest, terms, now)
        }
        Deed::Deny { request, .. } => answer::deny(state, &verified, *request, now),
        Deed::Withdraw { request, .. } => answer::withdraw(state, &verified, *request),
        Deed::BindKey { grant, key, .. } => issue::bind_key(state, &verified, *grant, key, now),
        Deed::Release { grant, .. } => end::release(state, &verified, *grant, now),
        Deed::Revoke { of, .. } => end::revoke(state, &verified, of, now),
        Deed::Disable { person, .. } => trust::disable(state, &verified, person, now),
        Deed::Enable { .. } | Deed::Enroll { .. } | Deed::EnrollHost { .. } | Deed::RotateCa { .. } => {
            trust::empower(state, &verified, now)
        }
        Deed::RevokeKey { key, .. } => trust::revoke_key(state, &verified, key, now),
        Deed::Apply { bundle, base, .. } => trust::apply_bundle(state, &verified, *bundle, *base, now),
        Deed::BeginEpoch { new, .. } => epoch::begin(state, &verified, new),
        Deed::ConfirmClock { .. } => clock::confirm(state, &verified, wall, now),
        Deed::EndSession { session, .. } => session::ask_end(state, &verified, *session, now),
    };
    // A refusal of somebody known is an event: who tried what, and what refused.
    outcome.or_else(|refusal| {
        let (person, act_id, deed) = (verified.person.clone(), signed.id(), act.deed.word().to_owned());
        Ok(vec![Event::ActRefused { person, act: act_id, deed, refusal }])
    })
}

/// The cache is not what counts: a leaf only pins it, so size and order are all that is judged.
fn snapshot(state: &State, size: u64, sha256: Digest) -> Result<Vec<Event>, Refusal> {
    if size == 0 || size > state.size || state.snapshot.is_some_and(|newest| size <= newest.size) {
        return Err(Refusal::new(Code::MISSING, "The snapshot is of no size that is newer and in the log."));
    }
    Ok(vec![Event::SnapshotTaken { size, sha256 }])
}

/// Checks time, installation, key and signature; what the act asks for is judged afterwards. An act that was taken before may be late,
/// and one that ends something may be timely by the wall clock instead.
fn verify<'a>(
    state: &State,
    signed: &'a SignedAct,
    act: &'a Act,
    at: i64,
    wall: Option<i64>,
) -> Result<Verified<'a>, Refusal> {
    let install = state.genesis.as_ref().map(|g| g.install);
    if install != Some(act.install) {
        return Err(Refusal::new(Code::WRONG_INSTALL, "The act was signed for another installation."));
    }
    let late = at.saturating_sub(act.at);
    let by_wall =
        wall.is_some_and(|wall| act.deed.ends() && wall.saturating_sub(act.at).saturating_abs() <= ACT_SKEW_S);
    if !by_wall && !(-ACT_SKEW_S..=ACT_SKEW_S).contains(&late) && !state.acts.contains(&signed.id()) {
        let way = if late > 0 { "ago" } else { "ahead" };
        return Err(Refusal::new(
            Code::STALE_ACT,
            format!(
                "The act was signed {} s {way} by the broker's clock; at most {ACT_SKEW_S} s are accepted.",
                late.unsigned_abs()
            ),
        ));
    }
    let verified = jit_ca::sshsig::verify(act.deed.namespace(), signed.act.as_bytes(), &signed.signature)
        .map_err(|e| Refusal::new(Code::BAD_SIGNATURE, format!("The signature does not hold: {e}.")))?;
    let key = Key(verified.key);
    if !key.0.signs_acts() || key.0.fingerprint() != act.key_fp {
        return Err(Refusal::new(Code::BAD_SIGNATURE, "The act was signed by another key than it names."));
    }
    let person = state
        .owner_of(&key)
        .ok_or_else(|| Refusal::new(Code::UNKNOWN_KEY, format!("No active person has the key {}.", act.key_fp)))?;
    if act.deed.by().is_some_and(|by| *by != person) {
        return Err(Refusal::new(Code::BAD_SIGNATURE, "The key does not belong to the person that the act names."));
    }
    if state.disabled.contains(&person) {
        return Err(Refusal::new(Code::DISABLED, format!("{person} is disabled.")));
    }
    if verified.user_present == Some(false) {
        return Err(Refusal::new(Code::BAD_SIGNATURE, "The security key was not touched."));
    }
    Ok(Verified { signed, act, person, touched: verified.user_present == Some(true), attested: false })
}

/// A request that a gateway makes for somebody whose key was proved to it. All but the signature is asked of it as of an act.
fn decide_attested(state: &State, said: &SignedAct, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    let act = said.read()?;
    let install = state.genesis.as_ref().map(|g| g.install);
    if install != Some(act.install) {
        return Err(Refusal::new(Code::WRONG_INSTALL, "The request is for another installation."));
    }
    let Deed::Request { by, target, role, for_s, key } = &act.deed else {
        return Err(Refusal::new(Code::BAD_ACT, "A gateway asks for access and for nothing else."));
    };
    if !said.signature.is_empty() || (now.at - act.at).abs() > ACT_SKEW_S || key.0.fingerprint() != act.key_fp {
        return Err(Refusal::new(Code::BAD_ACT, "The gateway's request does not hold together."));
    }
    if state.owner_of(key).as_ref() != Some(by) || !key.0.signs_acts() {
        return Err(Refusal::new(Code::UNKNOWN_KEY, format!("No active person has the key {}.", act.key_fp)));
    }
    if state.disabled.contains(by) {
        return Err(Refusal::new(Code::DISABLED, format!("{by} is disabled.")));
    }
    if state.acts.contains(&said.id()) {
        return state.refused_acts.get(&said.id()).map_or_else(|| Ok(Vec::new()), |refusal| Err(refusal.clone()));
    }
    let verified = Verified { signed: said, act: &act, person: by.clone(), touched: false, attested: true };
    ask::request(state, &verified, Wish { target, role, for_s: *for_s, key, extends: None }, now)
}

impl Verified<'_> {
    fn words(&self, now: Now<'_>) -> Result<Option<super::text::Words>, Refusal> {
        let Some(commitment) = self.act.words else { return Ok(None) };
        let words = now
            .beside
            .words(&commitment)
            .ok_or_else(|| Refusal::new(Code::BAD_ACT, "The text that the act commits to did not come with it."))?;
        words.check()?;
        Ok(Some(words))
    }

    fn reason(&self, now: Now<'_>, what: &str) -> Result<(), Refusal> {
        match self.words(now)?.and_then(|w| w.reason) {
            Some(_) => Ok(()),
            None => Err(Refusal::new(Code::NEEDS_REASON, format!("{what} needs a reason."))),
        }
    }
}

fn missing(what: &str) -> Refusal {
    Refusal::new(Code::MISSING, format!("There is no such {what}, or you may not know of it."))
}

/// The bundle of a digest, or a refusal that says what it lacks.
fn bundle_of(now: Now<'_>, digest: &Digest) -> Result<Arc<super::bundle::Bundle>, Refusal> {
    now.beside
        .bundle(digest)
        .ok_or_else(|| Refusal::new(Code::BUNDLE_REFUSED, "The bundle does not parse, or did not come with the act."))
}

#[cfg(test)]
#[path = "tests_moved.rs"]
mod tests;
