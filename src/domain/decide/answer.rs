//! Answering: approve, approve for less, deny, withdraw; and how far a request is.

use std::collections::BTreeSet;

use super::ask::{judge_words, subject};
use super::{Now, Verified, bundle_of, missing};
use crate::domain::act::Terms;
use crate::domain::digest::Digest;
use crate::domain::event::{Cause, Event};
use crate::domain::grant::GrantState;
use crate::domain::ids::{GrantId, RequestId};
use crate::domain::judge::{Allowed, Step, Touch, Verdict, matchable};
use crate::domain::key::Key;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::request::{Approval, Extension, Request, RequestState};
use crate::domain::state::State;

/// A step with those who have met it.
#[derive(Debug, Clone)]
pub struct StepView {
    /// What policy asks.
    pub step: Step,
    /// Who agreed and still counts.
    pub approved_by: Vec<PersonName>,
}

impl StepView {
    /// How many are still missing.
    pub fn need_left(&self) -> u32 {
        self.step.need.saturating_sub(u32::try_from(self.approved_by.len()).unwrap_or(u32::MAX))
    }
}

/// Judges a pending request as of now: what policy allows, and each step with the approvals that count *now*.
///
/// # Errors
/// The refusal, when rules, people or target have changed so that it can no longer be granted.
pub fn progress(state: &State, request: &Request, now: Now<'_>) -> Result<(Allowed, Vec<StepView>), Refusal> {
    let words = request.words.and_then(|commitment| now.beside.words(&commitment));
    let (person, target, role) = subject(state, &request.person, &request.terms.target, &request.terms.role)?;
    let broker = request.key.is_none();
    goes_on(state, request, now.at)?;
    if !broker && (target.digest() != request.terms.target_digest || !role.is_in(&request.terms)) {
        return Err(Refusal::new(Code::STALE_TERMS, format!("{}, as it was asked for, has changed.", target.name)));
    }
    let asked = if broker { None } else { Some(request.standing_terms().for_s) };
    let (allowed, steps) = match judge_words(state, &person, target, &request.terms.role, asked, words.as_ref(), now.at)
    {
        Verdict::Refused(refusal) => return Err(refusal),
        Verdict::Automatic(allowed) => (allowed, Vec::new()),
        Verdict::Steps(allowed, steps) => (allowed, steps),
    };
    if request.attested {
        super::ask::attestable(target, &allowed, &steps)?;
    }
    let mut counted = BTreeSet::new();
    let views = steps
        .into_iter()
        .map(|step| {
            let approved_by = request
                .approvals
                .iter()
                .filter(|a| a.step == step.name && counts(state, &step, a))
                .filter(|a| counted.insert(a.by.clone()))
                .map(|a| a.by.clone())
                .collect();
            StepView { step, approved_by }
        })
        .collect();
    Ok((allowed, views))
}

/// While an extension waits, the grant that it goes on from must not have been ended early: agreeing must not undo a revocation.
fn goes_on(state: &State, request: &Request, at: i64) -> Result<(), Refusal> {
    let Some(extension) = request.extends.filter(|_| request.state == RequestState::Pending) else { return Ok(()) };
    let ended = match state.grants.get(&extension.grant).map(|grant| &grant.state) {
        Some(GrantState::Ready | GrantState::Active) => None,
        Some(
            GrantState::Ending { cause, .. } | GrantState::Residue { cause, .. } | GrantState::Ended { cause, .. },
        ) => (*cause != Cause::WindowEnd).then(|| cause.state()),
        Some(other) => Some(other.word()),
        // It has been over for so long that memory has let it go: how it ended is not known here.
        None => Some("over"),
    };
    let refuse = |what: String| Err(Refusal::new(Code::REJUDGED, what).hint(request.terms.ask_again()));
    match ended {
        Some(word) => refuse(format!("Grant {}, which was to go on, is {word}.", extension.grant)),
        None if extension.until <= at => refuse("The end that was asked for has passed.".to_owned()),
        None => Ok(()),
    }
}

/// INVARIANT (I5): only who is eligible now counts, whatever was true when they signed.
fn counts(state: &State, step: &Step, approval: &Approval) -> bool {
    step.eligible.contains(&approval.by)
        && !state.disabled.contains(&approval.by)
        && key_stands(state, approval)
        && (step.touch == Touch::Any || approval.touched)
}

fn key_stands(state: &State, approval: &Approval) -> bool {
    !approval.key_fp.as_ref().is_some_and(|fp| state.revoked_fps.contains(fp))
}

pub(super) fn approve(
    state: &State,
    by: &Verified<'_>,
    id: RequestId,
    digest: &Digest,
    terms: &Terms,
    now: Now<'_>,
) -> Result<Vec<Event>, Refusal> {
    by.words(now)?;
    let request = pending(state, id, now.at)?;
    if request.person == by.person {
        return Err(Refusal::new(Code::OWN_REQUEST, "You asked for this yourself."));
    }
    if request.digest != *digest {
        return Err(Refusal::new(Code::STALE_TERMS, "The approval is for another request."));
    }
    let (_, views) = match progress(state, request, now) {
        Ok(found) => found,
        Err(refusal) => return Ok(vec![Event::RequestInvalidated { request: id, refusal }]),
    };
    let Some(view) = views.iter().find(|v| v.need_left() > 0) else {
        // Conditions turn with the hour: what waited for people may ask nobody by now.
        narrower(state, request, terms)?;
        return complete(state, request, Vec::new(), now);
    };
    if request.approvals.iter().any(|a| a.by == by.person && key_stands(state, a)) {
        return Err(Refusal::new(Code::TWICE, "You approved this already; each person counts once."));
    }
    let touch_given = by.touched;
    if !view.step.eligible.contains(&by.person) {
        let from = view.step.from.join(", ");
        return Err(Refusal::new(
            Code::NOT_ELIGIBLE,
            format!("Step {} is for {from}; you are not among them.", view.step.name),
        ));
    }
    if view.step.touch == Touch::Required && !touch_given {
        return Err(Refusal::new(
            Code::NEEDS_PRESENCE,
            format!("Step {} needs a security key that is touched.", view.step.name),
        ));
    }
    narrower(state, request, terms)?;
    let step = view.step.name.clone();
    let approved = Event::StepApproved {
        request: id,
        act: by.signed.id(),
        step: step.clone(),
        by: by.person.clone(),
        touched: touch_given,
        terms: terms.clone(),
        words: by.act.words,
        key_fp: Some(by.act.key_fp.clone()),
    };
    let mut after = request.clone();
    after.approvals.push(Approval {
        step,
        by: by.person.clone(),
        touched: touch_given,
        terms: std::sync::Arc::new(terms.clone()),
        at: now.at,
        words: by.act.words,
        key_fp: Some(by.act.key_fp.clone()),
    });
    complete(state, &after, vec![approved], now)
}

/// After an approval, or where none is asked for any more: the window opens when no step is left, or people for the next step must still
/// be possible.
fn complete(state: &State, request: &Request, mut events: Vec<Event>, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    let (allowed, views) = match progress(state, request, now) {
        Ok(found) => found,
        Err(refusal) => {
            events.push(Event::RequestInvalidated { request: request.id, refusal });
            return Ok(events);
        }
    };
    let open: Vec<_> = views.iter().map(|v| (v.step.name.clone(), v.need_left(), &v.step.eligible)).collect();
    if open.iter().any(|(_, need, _)| *need > 0) {
        // Whoever approved with a key that was revoked since may do so again with another one.
        let counted = request.approvals.iter().filter(|a| key_stands(state, a));
        let mut taken: BTreeSet<PersonName> = counted.map(|a| a.by.clone()).collect();
        taken.insert(request.person.clone());
        if let Err(step) = matchable(&open, &taken) {
            let refusal =
                Refusal::new(Code::NOT_APPROVABLE, format!("Step {step} can no longer be met by different people."));
            events.push(Event::RequestInvalidated { request: request.id, refusal });
        }
        return Ok(events);
    }
    let terms = request.standing_terms();
    match &request.key {
        Some(key) => {
            let window = open_window(&request.person, request.id, key, Some(terms), &allowed, request.extends, now.at);
            events.extend(window);
        }
        None if request.deed.is_some() => {
            let act = crate::domain::ids::ActId::of_digest(&request.digest);
            match request.deed.as_ref().map(|deed| super::trust::carry_out(state, &request.person, act, deed, now)) {
                Some(Err(refusal)) => events.push(Event::RequestInvalidated { request: request.id, refusal }),
                done => {
                    events.push(Event::RequestApproved { request: request.id, grant: None });
                    events.extend(done.and_then(Result::ok).into_iter().flatten());
                }
            }
        }
        None => {
            let bundle = terms.target_digest;
            // Keys may have been enrolled since it was asked for.
            if let Err(refusal) = super::trust::belongs(state, &*bundle_of(now, &bundle)?) {
                events.push(Event::RequestInvalidated { request: request.id, refusal });
                return Ok(events);
            }
            events.push(Event::RequestApproved { request: request.id, grant: None });
            let act = crate::domain::ids::ActId::of_digest(&request.digest);
            events.push(Event::BundleAdopted { by: request.person.clone(), act, bundle });
            events.extend(super::trust::rejudged(state, &bundle, Some(request.id), now));
        }
    }
    Ok(events)
}

/// What other rules or people make of a request that waits: nothing while somebody is still to be asked, else what was asked for.
///
/// # Errors
/// The refusal, when it can no longer be granted. What is neither a grant nor a bundle is to be done again where nobody is asked for it:
/// all of a command is decided on one state, so two such deeds could contradict each other.
pub fn judged_again(state: &State, request: &Request, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    // What nobody answered in time is expired at the next look at deadlines, whatever the rules say by then.
    if request.answer_by <= now.at {
        return Ok(Vec::new());
    }
    let (allowed, views) = progress(state, request, now)?;
    if views.iter().any(|view| view.need_left() > 0) {
        return Ok(Vec::new());
    }
    let Some(key) = &request.key else {
        return Err(Refusal::new(Code::REJUDGED, "Nobody is asked for this any more.").hint("Do it once more."));
    };
    let (terms, extends) = (Some(request.standing_terms()), request.extends);
    Ok(open_window(&request.person, request.id, key, terms, &allowed, extends, now.at))
}

/// The events that open a window of whole seconds from now (decisions.md 21).
pub(super) fn open_window(
    person: &PersonName,
    id: RequestId,
    key: &Key,
    terms: Option<Terms>,
    allowed: &Allowed,
    extends: Option<Extension>,
    at: i64,
) -> Vec<Event> {
    let Some(mut terms) = terms else { return Vec::new() };
    terms.for_s = terms.for_s.min(allowed.max_s);
    if let Some(extension) = extends {
        // The end that was signed, and not later for the time that people took.
        terms.for_s = terms.for_s.min(u64::try_from(extension.until.saturating_sub(at)).unwrap_or(0));
    }
    let ends_at = at.saturating_add(i64::try_from(terms.for_s).unwrap_or(i64::MAX));
    let claim_by = at.saturating_add(i64::try_from(allowed.claim_within_s).unwrap_or(i64::MAX)).min(ends_at);
    let grant = GrantId::of_digest(&Digest::of(format!("grant {id}").as_bytes()));
    vec![
        Event::RequestApproved { request: id, grant: Some(grant) },
        Event::GrantOpened {
            grant,
            request: id,
            person: person.clone(),
            key: key.clone(),
            terms,
            starts_at: at,
            ends_at,
            claim_by,
            credential_s: allowed.credential_s,
        },
    ]
}

/// Approving may only make it less: time, or a role that the target declares narrower (decisions.md 25).
fn narrower(state: &State, request: &Request, terms: &Terms) -> Result<(), Refusal> {
    let standing = request.standing_terms();
    let refuse = |message: String| Err(Refusal::new(Code::NOT_NARROWER, message));
    if terms.target != standing.target || terms.target_digest != standing.target_digest {
        return Err(Refusal::new(Code::STALE_TERMS, "The approval names another target, or one that has changed."));
    }
    if terms.for_s > standing.for_s || (terms.for_s == 0 && standing.for_s > 0) {
        return refuse(format!("{} s were asked for; approving can only shorten that.", standing.for_s));
    }
    if terms.role == standing.role {
        if terms.logins != standing.logins || terms.allow != standing.allow || terms.database != standing.database {
            return Err(Refusal::new(Code::STALE_TERMS, "The approval names other logins than were asked for."));
        }
        return Ok(());
    }
    let target = state.bundle.targets.get(&terms.target).ok_or_else(|| missing("target"))?;
    match target.roles.get(&terms.role) {
        Some(role) if role.narrower_than.contains(&standing.role) => {
            if role.is_in(terms) {
                Ok(())
            } else {
                Err(Refusal::new(Code::STALE_TERMS, "The approval names other logins than the narrower role has."))
            }
        }
        _ => refuse(format!("{} is not declared narrower than {}.", terms.role, standing.role)),
    }
}

pub(super) fn deny(state: &State, by: &Verified<'_>, id: RequestId, now: Now<'_>) -> Result<Vec<Event>, Refusal> {
    let request = pending(state, id, now.at)?;
    if request.person == by.person {
        return Err(
            Refusal::new(Code::OWN_REQUEST, "It is your own request.").hint(format!("jit-broker withdraw {id}"))
        );
    }
    let eligible = progress(state, request, now)
        .is_ok_and(|(_, views)| views.iter().any(|v| v.need_left() > 0 && v.step.eligible.contains(&by.person)));
    if !eligible && !state.is_operator(&by.person) {
        return Err(Refusal::new(Code::NOT_ELIGIBLE, "Nothing of this request waits for you."));
    }
    by.reason(now, "A denial")?;
    Ok(vec![Event::RequestDenied { request: id, act: by.signed.id(), by: by.person.clone(), words: by.act.words }])
}

pub(super) fn withdraw(state: &State, by: &Verified<'_>, id: RequestId) -> Result<Vec<Event>, Refusal> {
    let request = state.requests.get(&id).ok_or_else(|| missing("request"))?;
    if request.person != by.person {
        return Err(missing("request"));
    }
    if request.state != RequestState::Pending {
        return Err(over(id, &format!("is {} already", request.state.word())));
    }
    Ok(vec![Event::RequestWithdrawn { request: id, act: by.signed.id(), by: by.person.clone() }])
}

fn over(id: RequestId, how: &str) -> Refusal {
    Refusal::new(Code::FINAL, format!("Request {id} {how}.")).hint(format!("jit-broker show {id}"))
}

fn pending(state: &State, id: RequestId, at: i64) -> Result<&Request, Refusal> {
    let request = state.requests.get(&id).ok_or_else(|| missing("request"))?;
    if request.state != RequestState::Pending {
        return Err(over(id, &format!("is {} already", request.state.word())));
    }
    if request.answer_by <= at {
        return Err(over(id, "has expired"));
    }
    Ok(request)
}
