//! Which rules count for an ask: those that match, less those that another one relaxes by name.

use std::collections::BTreeMap;

use super::{Ask, Conditions};
use crate::domain::bundle::Bundle;
use crate::domain::cel::{Condition, Facts};
use crate::domain::names::RuleId;
use crate::domain::policy::{Forbid, Rule};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::target::TargetKind;

/// The ask as conditions see it.
pub(super) struct Scene<'a> {
    facts: Facts<'a>,
    conditions: Conditions,
}

impl<'a> Scene<'a> {
    /// # Errors
    /// [`Code::CLOCK`] for an instant that no calendar has.
    pub(super) fn new(bundle: &Bundle, ask: &Ask<'a>, for_s: u64, conditions: Conditions) -> Result<Self, Refusal> {
        let now = bundle
            .policy
            .local(ask.now)
            .ok_or_else(|| Refusal::new(Code::CLOCK, "The time of the request is in no calendar."))?;
        let facts = Facts {
            person: ask.person,
            signed_in_s: ask.signed_in_s,
            target: ask.target,
            role: ask.role.as_str(),
            for_s,
            ticket: ask.ticket.unwrap_or_default(),
            now,
        };
        Ok(Self { facts, conditions })
    }

    /// True when the condition holds.
    ///
    /// # Errors
    /// INVARIANT: an error refuses, by the rule's name, and never counts as false (decisions.md 7).
    pub(super) fn holds(&self, rule: &RuleId, condition: &Condition) -> Result<bool, Refusal> {
        if self.conditions == Conditions::Fulfilled {
            return Ok(true);
        }
        condition.holds(&self.facts).map_err(|error| {
            Refusal::new(Code::CONDITION_FAILED, format!("The condition of {rule} could not be evaluated: {error}."))
                .by_rule(rule)
        })
    }
}

/// Refuses what a forbid matches.
pub(super) fn forbidden(bundle: &Bundle, ask: &Ask<'_>, scene: &Scene<'_>) -> Result<(), Refusal> {
    let all = &bundle.policy;
    let mut forbids: Vec<&Forbid> = all.reach().forbids(&all.forbids, ask.person);
    forbids.retain(|forbid| {
        // Without targets it means every one but the bundle itself, which nobody should lock by a broad freeze.
        let selects = match &forbid.targets {
            Some(targets) => targets.selects(ask.target),
            None => ask.target.kind != TargetKind::Broker,
        };
        selects && forbid.roles.holds(ask.role.as_str())
    });
    // Whatever their order, the same one is named.
    forbids.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    for forbid in forbids {
        let holds = match &forbid.when {
            None => true,
            // At its best for who asks, a forbid's condition does not hold.
            Some(_) if scene.conditions == Conditions::Fulfilled => false,
            Some(when) => scene.holds(&forbid.id, when)?,
        };
        if holds {
            let while_ = forbid.when.as_ref().map(|when| format!(", while {}", when.source())).unwrap_or_default();
            let message = format!("{} forbids {} on {}{while_}.", forbid.id, ask.role, ask.target.name);
            return Err(Refusal::new(Code::FORBIDDEN, message).by_rule(&forbid.id));
        }
    }
    Ok(())
}

/// The rules whose `who`, `targets` and `roles` match, by name, whatever their conditions say.
pub(super) fn candidates<'b>(bundle: &'b Bundle, ask: &Ask<'_>) -> Vec<&'b Rule> {
    let all = &bundle.policy;
    let mut rules = all.reach().rules(&all.rules, ask.person);
    rules.retain(|rule| rule.targets.selects(ask.target) && rule.roles.holds(ask.role.as_str()));
    rules.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    rules
}

/// Of the candidates those whose condition holds and that no other of them relaxes.
pub(super) fn standing<'b>(candidates: &[&'b Rule], scene: &Scene<'_>) -> Result<Vec<&'b Rule>, Refusal> {
    let mut holding = Vec::with_capacity(candidates.len());
    for rule in candidates {
        if rule.when.as_ref().map_or(Ok(true), |when| scene.holds(&rule.id, when))? {
            holding.push(*rule);
        }
    }
    Ok(not_relaxed(&holding))
}

/// A rule is relaxed by one that names it and is not itself relaxed.
///
/// Decided from the rules that nobody names downwards; the bundle's reader refuses cycles, and were there one, its rules would all stand.
fn not_relaxed<'b>(rules: &[&'b Rule]) -> Vec<&'b Rule> {
    let mut stands: BTreeMap<&RuleId, bool> = BTreeMap::new();
    if rules.iter().all(|rule| rule.overrides.is_empty()) {
        return rules.to_vec();
    }
    loop {
        let before = stands.len();
        for rule in rules {
            if stands.contains_key(&rule.id) {
                continue;
            }
            let mut relaxing =
                rules.iter().filter(|other| other.overrides.contains(&rule.id)).map(|r| stands.get(&r.id));
            if relaxing.clone().any(|verdict| verdict == Some(&true)) {
                stands.insert(&rule.id, false);
            } else if relaxing.all(|verdict| verdict == Some(&false)) {
                stands.insert(&rule.id, true);
            }
        }
        if stands.len() == before {
            return rules.iter().filter(|rule| stands.get(&rule.id) != Some(&false)).copied().collect();
        }
    }
}
