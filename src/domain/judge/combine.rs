//! Several rules that match one request, made into one: the strictest of each thing, every requirement, all steps.

use std::collections::{BTreeMap, BTreeSet};

use super::{Allowed, Ask, OpenStep, Requirements, Step, Touch, matchable};
use crate::domain::names::{PersonName, StepName};
use crate::domain::person::PersonKind;
use crate::domain::policy::{Attested, Consent, Record, Rule, StepRule};
use crate::domain::refusal::{Code, Refusal};

/// The matching rules that none of the others relaxes.
///
/// A rule that is itself relaxed relaxes nothing: whoever relaxes it must name what it had relaxed as well.
pub(super) fn active(mut matching: Vec<&Rule>) -> Vec<&Rule> {
    matching.sort_by(|a, b| a.id.cmp(&b.id));
    if matching.iter().all(|rule| rule.overrides.is_empty()) {
        return matching;
    }
    let mut settled: BTreeMap<&str, Counts> = BTreeMap::new();
    // Overrides have no cycle (checked when the bundle is read), so that every round settles at least one rule.
    while settled.len() < matching.len() {
        let before = settled.len();
        for rule in &matching {
            let over = || matching.iter().filter(|other| other.overrides.contains(&rule.id));
            let state = |other: &&&Rule| settled.get(other.id.as_str()).copied();
            if over().any(|other| state(&other) == Some(Counts::Yes)) {
                settled.insert(rule.id.as_str(), Counts::No);
            } else if over().all(|other| state(&other) == Some(Counts::No)) {
                settled.insert(rule.id.as_str(), Counts::Yes);
            }
        }
        if settled.len() == before {
            break;
        }
    }
    matching.retain(|rule| settled.get(rule.id.as_str()) != Some(&Counts::No));
    matching
}

/// Whether a rule counts once overrides are settled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    Yes,
    No,
}

/// The shortest times, the strictest recording, every requirement. `for_s` is still open.
pub(super) fn strictest(active: &[&Rule]) -> (Allowed, Requirements) {
    let shortest = |of: fn(&Rule) -> u64| active.iter().map(|rule| of(rule)).min().unwrap_or(0);
    let all_attest = active.iter().all(|rule| rule.attested == Attested::Yes);
    let allowed = Allowed {
        rules: active.iter().map(|rule| rule.id.clone()).collect(),
        for_s: 0,
        max_s: shortest(|rule| rule.max_s),
        answer_within_s: shortest(|rule| rule.answer_within_s),
        claim_within_s: shortest(|rule| rule.claim_within_s),
        credential_s: active.iter().filter_map(|rule| rule.credential_s).min(),
        record: active.iter().map(|rule| rule.record).max().unwrap_or(Record::Strict),
        attested: if all_attest { Attested::Yes } else { Attested::No },
    };
    let tickets: BTreeSet<&str> = active.iter().filter_map(|rule| Some(rule.ticket.as_ref()?.source())).collect();
    let needs = Requirements {
        min_reason_chars: active.iter().filter_map(|rule| rule.min_reason_chars).max(),
        ticket_pattern: (!tickets.is_empty()).then(|| tickets.into_iter().collect::<Vec<_>>().join(" and ")),
    };
    (allowed, needs)
}

/// All steps of all rules, in an order that keeps every rule's own, with those who may answer them.
pub(super) fn steps(ask: &Ask<'_>, active: &[&Rule]) -> Result<Vec<Step>, Refusal> {
    let lists: Vec<&[StepRule]> = active.iter().map(|rule| steps_of(rule)).filter(|steps| !steps.is_empty()).collect();
    let mut parts: BTreeMap<&StepName, Vec<&StepRule>> = BTreeMap::new();
    for step in lists.iter().copied().flatten() {
        parts.entry(&step.name).or_default().push(step);
    }
    let names: Vec<Vec<&StepName>> = lists.iter().map(|steps| steps.iter().map(|step| &step.name).collect()).collect();
    let order = in_order(&names).map_err(|stuck| {
        // The bundle's reader refuses such rules; should it ever miss one, nobody gets in by that.
        let message = format!("Rules put step {} before and after another one.", shown_names(&stuck));
        Refusal::new(Code::NOT_APPROVABLE, message).hint("An administrator must change the rules.")
    })?;
    let out: Vec<Step> = order.iter().filter_map(|name| Some(merged(ask, name, parts.get(name)?))).collect();
    let open: Vec<OpenStep<'_>> = out.iter().map(|step| (step.name.clone(), step.need, &step.eligible)).collect();
    matchable(&open, &BTreeSet::new()).map_err(|name| not_approvable(&name, &out, active))?;
    Ok(out)
}

/// The steps of a rule; none of an automatic one.
pub(in crate::domain) fn steps_of(rule: &Rule) -> &[StepRule] {
    match &rule.consent {
        Consent::Steps(steps) => steps,
        Consent::Automatic | Consent::AutomaticIf(_) => &[],
    }
}

/// Orders names so that each list's own order is kept, ties by name.
///
/// # Errors
/// The names that stand in a circle.
pub(in crate::domain) fn in_order<'n>(lists: &[Vec<&'n StepName>]) -> Result<Vec<&'n StepName>, Vec<&'n StepName>> {
    let mut before: BTreeMap<&StepName, BTreeSet<&StepName>> = BTreeMap::new();
    for list in lists {
        let mut previous = None;
        for name in list {
            before.entry(name).or_default().extend(previous.replace(*name));
        }
    }
    let mut order = Vec::with_capacity(before.len());
    while !before.is_empty() {
        let next = before.iter().find(|(_, earlier)| earlier.is_empty()).map(|(name, _)| *name);
        let Some(next) = next else { return Err(before.into_keys().collect()) };
        before.remove(next);
        before.values_mut().for_each(|earlier| {
            earlier.remove(next);
        });
        order.push(next);
    }
    Ok(order)
}

/// One step of several rules: the larger number, only those whom every rule names, a touch if any rule wants one.
fn merged(ask: &Ask<'_>, name: &StepName, parts: &[&StepRule]) -> Step {
    let smallest = parts.iter().min_by_key(|part| part.members.len());
    let eligible = smallest
        .into_iter()
        .flat_map(|part| part.members.iter())
        .filter(|person| parts.iter().all(|part| part.members.contains(*person)))
        .filter(|person| !acts_for(ask, person) && !ask.disabled.contains(*person))
        .cloned()
        .collect();
    Step {
        name: name.clone(),
        need: parts.iter().map(|part| part.need).max().unwrap_or(1),
        eligible,
        from: shown_from(parts),
        touch: parts.iter().map(|part| part.touch).max().unwrap_or(Touch::Any),
    }
}

/// SECURITY: nobody approves their own access, nor what a program asks on their behalf. Machines and agents are in no step's
/// members, so that an agent of the requester, or another agent of the same owner, approves nothing either (suna#5684).
fn acts_for(ask: &Ask<'_>, person: &PersonName) -> bool {
    match &ask.person.kind {
        PersonKind::Agent { owner } => *person == ask.person.name || person == owner,
        PersonKind::Person | PersonKind::Machine => *person == ask.person.name,
    }
}

fn shown_from(parts: &[&StepRule]) -> Vec<String> {
    let lists: BTreeSet<Vec<String>> = parts
        .iter()
        .map(|part| part.from.iter().map(crate::domain::bundle::shown_who).collect::<BTreeSet<_>>().into_iter().collect())
        .collect();
    match (lists.len(), lists.first()) {
        (1, Some(only)) => only.clone(),
        _ => vec![lists.iter().map(|list| list.join(" or ")).collect::<Vec<_>>().join(", who are also ")],
    }
}

fn not_approvable(name: &StepName, steps: &[Step], active: &[&Rule]) -> Refusal {
    let step = steps.iter().find(|step| step.name == *name);
    let (need, from) = step.map_or((1, String::new()), |step| (step.need, step.from.join(", ")));
    let people = if need == 1 { "1 person".to_owned() } else { format!("{need} people") };
    let message = format!("Step {name} can never be met: it needs {people} of {from}, others than the requester and those in other steps.");
    let refusal = Refusal::new(Code::NOT_APPROVABLE, message).hint("An administrator must change the rule or the groups.");
    match active.iter().find(|rule| steps_of(rule).iter().any(|step| step.name == *name)) {
        Some(rule) => refusal.by_rule(&rule.id),
        None => refusal,
    }
}

fn shown_names(names: &[&StepName]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}
