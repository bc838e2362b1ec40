//! Combines the rules that count: the strictest of everything.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::{Scene, candidates, forbidden, standing};
use super::{Allowed, Ask, Conditions, Missing, Requirements, Step, Verdict};
use crate::domain::bundle::Bundle;
use crate::domain::names::{PersonName, StepName};
use crate::domain::person::PersonKind;
use crate::domain::policy::{Attested, Consent, Rule, StepRule, UNASKED_S};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::span::show_span;

/// Judges, without hints at what else is possible.
pub(super) fn weigh(
    bundle: &Bundle,
    ask: &Ask<'_>,
    missing: Missing,
    conditions: Conditions,
) -> (Verdict, Requirements) {
    let mut requirements = Requirements::default();
    let verdict = weighed(bundle, ask, (missing, conditions), &mut requirements).unwrap_or_else(Verdict::Refused);
    (verdict, requirements)
}

fn weighed(
    bundle: &Bundle,
    ask: &Ask<'_>,
    (missing, conditions): (Missing, Conditions),
    needs: &mut Requirements,
) -> Result<Verdict, Refusal> {
    may_ask(ask)?;
    let candidates = candidates(bundle, ask);
    let (for_s, scene, rules) = settled(bundle, ask, &candidates, conditions)?;
    *needs = requirements(&rules);
    let allowed = allowed(ask, &rules, for_s)?;
    reason_given(ask, &rules, missing)?;
    ticket_given(ask, &rules, missing)?;
    let mut unmet = None;
    for rule in &rules {
        if let Consent::AutomaticIf(condition) = &rule.consent
            && !scene.holds(&rule.id, condition)?
        {
            unmet = unmet.or(Some((rule, condition)));
        }
    }
    let steps: Vec<&[StepRule]> = rules.iter().map(|rule| steps_of(rule)).filter(|steps| !steps.is_empty()).collect();
    if !steps.is_empty() {
        return Ok(Verdict::Steps(allowed, merged(ask, &steps)));
    }
    if let Some((rule, condition)) = unmet {
        let message = format!("{} grants this only while {}.", rule.id, condition.source());
        let refusal = Refusal::new(Code::NO_RULE, message).by_rule(&rule.id);
        let stale = condition.source().contains("signed_in_s");
        return Err(if stale {
            refusal.hint("jit-broker auth login signs in again; then ask again.")
        } else {
            refusal
        });
    }
    Ok(Verdict::Automatic(allowed))
}

/// Refuses people who may ask for nothing, roles that do not exist, and no time at all.
fn may_ask(ask: &Ask<'_>) -> Result<(), Refusal> {
    let name = &ask.person.name;
    if ask.disabled.contains(name) {
        return Err(Refusal::new(Code::DISABLED, format!("{name} is disabled.")));
    }
    if let PersonKind::Agent { owner } = &ask.person.kind
        && ask.disabled.contains(owner)
    {
        return Err(Refusal::new(Code::DISABLED, format!("{owner}, for whom {name} acts, is disabled.")));
    }
    if !ask.target.roles.contains_key(ask.role) {
        return Err(Refusal::new(Code::NO_ROLE, format!("{} has no role {}.", ask.target.name, ask.role)));
    }
    if ask.for_s == Some(0) {
        return Err(Refusal::new(Code::BAD_DURATION, "Access for no time is not granted."));
    }
    Ok(())
}

/// The duration, and the rules that count for exactly that duration.
///
/// Where none was asked it is one hour, or what the rules allow if that is less; as conditions may depend on the duration, shortening it
/// judges again. It only ever becomes shorter, and only to a rule's `max`, so that this ends.
fn settled<'a, 'b>(
    bundle: &Bundle,
    ask: &Ask<'a>,
    candidates: &[&'b Rule],
    conditions: Conditions,
) -> Result<(u64, Scene<'a>, Vec<&'b Rule>), Refusal> {
    let mut for_s = ask.for_s.unwrap_or(UNASKED_S);
    loop {
        let scene = Scene::new(bundle, ask, for_s, conditions)?;
        forbidden(bundle, ask, &scene)?;
        let rules = standing(candidates, &scene)?;
        let max_s = rules.iter().map(|rule| rule.max_s).min().ok_or_else(|| no_rule(ask, candidates))?;
        if ask.for_s.is_some() || for_s <= max_s {
            return Ok((for_s, scene, rules));
        }
        for_s = max_s;
    }
}

fn no_rule(ask: &Ask<'_>, candidates: &[&Rule]) -> Refusal {
    let Ask { person, target, role, .. } = ask;
    let message = format!("No rule lets {} be {role} on {}", person.name, target.name);
    match candidates.iter().find_map(|rule| rule.when.as_ref().map(|when| (&rule.id, when))) {
        Some((id, when)) => {
            Refusal::new(Code::NO_RULE, format!("{message} now: {id} counts only while {}.", when.source())).by_rule(id)
        }
        None => Refusal::new(Code::NO_RULE, format!("{message}.")),
    }
}

fn requirements(rules: &[&Rule]) -> Requirements {
    let patterns: BTreeSet<&str> = rules.iter().filter_map(|rule| rule.ticket.as_ref()).map(|p| p.source()).collect();
    Requirements {
        min_reason_chars: rules.iter().filter_map(|rule| rule.min_reason_chars).max(),
        ticket_pattern: (!patterns.is_empty()).then(|| patterns.into_iter().collect::<Vec<_>>().join(" and ")),
    }
}

fn allowed(ask: &Ask<'_>, rules: &[&Rule], for_s: u64) -> Result<Allowed, Refusal> {
    // By name where several are equally short; `rules` is never empty here.
    let Some(shortest) = rules.iter().min_by_key(|rule| (rule.max_s, &rule.id)) else { return Err(no_rule(ask, &[])) };
    let max_s = shortest.max_s;
    if for_s > max_s {
        let message =
            format!("{} is longer than {}, which {} allows at most.", show_span(for_s), show_span(max_s), shortest.id);
        return Err(Refusal::new(Code::TOO_LONG, message).by_rule(&shortest.id));
    }
    let least = |of: fn(&Rule) -> u64| rules.iter().map(|rule| of(rule)).min().unwrap_or_default();
    Ok(Allowed {
        rules: rules.iter().map(|rule| rule.id.clone()).collect(),
        for_s,
        max_s,
        answer_within_s: least(|rule| rule.answer_within_s),
        claim_within_s: least(|rule| rule.claim_within_s),
        credential_s: rules.iter().filter_map(|rule| rule.credential_s).min(),
        attested: rules.iter().all(|rule| rule.attested == Attested::Yes),
    })
}

fn reason_given(ask: &Ask<'_>, rules: &[&Rule], missing: Missing) -> Result<(), Refusal> {
    let Some((min_chars, rule)) =
        rules.iter().rev().filter_map(|rule| Some((rule.min_reason_chars?, rule))).max_by_key(|(chars, _)| *chars)
    else {
        return Ok(());
    };
    if ask.reason.is_none() && missing == Missing::IsTold {
        return Ok(());
    }
    let chars = ask.reason.map_or(0, |reason| reason.trim().chars().count());
    if chars >= usize::try_from(min_chars).unwrap_or(usize::MAX) && chars > 0 {
        return Ok(());
    }
    let message = match ask.reason {
        None => format!("{} needs a reason of at least {min_chars} characters.", rule.id),
        Some(_) => format!("{} needs a reason of at least {min_chars} characters; this one has {chars}.", rule.id),
    };
    Err(Refusal::new(Code::NEEDS_REASON, message).by_rule(&rule.id))
}

fn ticket_given(ask: &Ask<'_>, rules: &[&Rule], missing: Missing) -> Result<(), Refusal> {
    for rule in rules {
        let Some(pattern) = &rule.ticket else { continue };
        let message = match ask.ticket {
            Some(ticket) if pattern.fits(ticket) => continue,
            None if missing == Missing::IsTold => continue,
            Some(_) => format!("The ticket is not of the form that {} needs: {}.", rule.id, pattern.source()),
            None => format!("{} needs a ticket of the form {}.", rule.id, pattern.source()),
        };
        return Err(Refusal::new(Code::NEEDS_TICKET, message).by_rule(&rule.id));
    }
    Ok(())
}

/// All steps of all rules: each rule's order is kept, ties go by name; of one name the larger need, and only who is in every `from`.
fn merged(ask: &Ask<'_>, rules: &[&[StepRule]]) -> Vec<Step> {
    let mut by_name: BTreeMap<&StepName, Vec<&StepRule>> = BTreeMap::new();
    for step in rules.iter().copied().flatten() {
        by_name.entry(&step.name).or_default().push(step);
    }
    order(rules)
        .into_iter()
        .filter_map(|name| {
            let same = by_name.get(name)?;
            Some(Step {
                name: name.clone(),
                need: same.iter().map(|step| step.need).max()?,
                from: shown_from(same),
                eligible: eligible(ask, same),
                touch: same.iter().map(|step| step.touch).max()?,
            })
        })
        .collect()
}

/// Those whom every one of the steps of one name asks.
///
/// INVARIANT (I5): nobody decides on what they, or an agent of theirs, asked for. Machines and agents are not among the members.
fn eligible(ask: &Ask<'_>, same: &[&StepRule]) -> BTreeSet<PersonName> {
    let owner = match &ask.person.kind {
        PersonKind::Agent { owner } => Some(owner),
        PersonKind::Person | PersonKind::Machine => None,
    };
    let Some((first, rest)) = same.split_first() else { return BTreeSet::new() };
    first
        .members
        .iter()
        .filter(|name| rest.iter().all(|step| step.members.contains(*name)))
        .filter(|name| **name != ask.person.name && Some(*name) != owner && !ask.disabled.contains(*name))
        .cloned()
        .collect()
}

fn shown_from(same: &[&StepRule]) -> Vec<String> {
    let written: BTreeSet<Vec<String>> =
        same.iter().map(|step| step.from.iter().map(ToString::to_string).collect()).collect();
    if written.len() <= 1 {
        return written.into_iter().next().unwrap_or_default();
    }
    let each: Vec<String> = written.into_iter().map(|from| from.join(" or ")).collect();
    vec![each.join(", and also ")]
}

/// The steps of a rule; none of an automatic one.
pub(in crate::domain) fn steps_of(rule: &Rule) -> &[StepRule] {
    match &rule.consent {
        Consent::Steps(steps) => steps,
        Consent::Automatic | Consent::AutomaticIf(_) => &[],
    }
}

/// Every name once: after all that some rule puts before it, the first by name where several could come.
///
/// The bundle's reader refuses rules that contradict each other; were there some, the rest would follow by name: no step is ever lost.
fn order<'r>(rules: &[&'r [StepRule]]) -> Vec<&'r StepName> {
    let (mut sorted, mut left) = sorted(rules);
    sorted.append(&mut left);
    sorted
}

/// The names in order, and those that are in a cycle or behind one.
fn sorted<'r>(rules: &[&'r [StepRule]]) -> (Vec<&'r StepName>, Vec<&'r StepName>) {
    let mut before: BTreeMap<&StepName, BTreeSet<&StepName>> = BTreeMap::new();
    for steps in rules {
        for step in *steps {
            before.entry(&step.name).or_default();
        }
        for pair in steps.windows(2) {
            if let [first, second] = pair {
                before.entry(&second.name).or_default().insert(&first.name);
            }
        }
    }
    let mut done: Vec<&StepName> = Vec::with_capacity(before.len());
    while let Some(next) = before.iter().find(|(_, earlier)| earlier.iter().all(|name| !before.contains_key(name))) {
        let next = *next.0;
        before.remove(next);
        done.push(next);
    }
    (done, before.into_keys().collect())
}

/// Whether the steps of several rules can be put in one order.
///
/// # Errors
/// The names that stand in a circle.
pub(in crate::domain) fn in_order<'r>(rules: &[&'r [StepRule]]) -> Result<(), Vec<&'r StepName>> {
    match sorted(rules) {
        (_, stuck) if stuck.is_empty() => Ok(()),
        (_, stuck) => Err(stuck),
    }
}
