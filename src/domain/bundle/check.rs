//! What no rule can see alone: overrides, recording on direct targets, the order of steps.

use std::collections::{BTreeMap, BTreeSet};

use super::people::World;
use super::read::{Problems, Whole, meant};
use super::rules::Drafted;
use crate::domain::judge::{in_order, steps_of};
use crate::domain::names::{PersonName, RuleId, StepName};
use crate::domain::person::{Person, PersonKind, Who};
use crate::domain::policy::Record;
use crate::domain::target::{Mode, TargetKind};

/// Runs every check across rules. `ids` are those of all rules and forbids that have one, also of rules that are wrong otherwise.
pub(super) fn all(drafts: &[Drafted<'_>], world: &World, ids: &BTreeSet<RuleId>, problems: &mut Problems) {
    overrides(drafts, ids, problems);
    recording(drafts, world, problems);
    if world.whole == Whole::Yes {
        step_order(drafts, world, problems);
    }
}

fn overrides(drafts: &[Drafted<'_>], ids: &BTreeSet<RuleId>, problems: &mut Problems) {
    let rules: BTreeMap<&RuleId, &Drafted<'_>> = drafts.iter().map(|draft| (&draft.rule.id, draft)).collect();
    for draft in drafts {
        for over in &draft.overrides {
            if over.value == draft.rule.id {
                problems.add(over.at, format!("{} cannot override itself", over.value));
            } else if !ids.contains(&over.value) {
                let guess = meant(over.value.as_str(), rules.keys().map(|id| id.as_str()));
                problems.add(over.at, format!("there is no rule {}{guess}", over.value));
            } else if leads_to(&rules, &over.value, &draft.rule.id) {
                problems.add(over.at, format!("{} and {} override each other in a circle", draft.rule.id, over.value));
            }
        }
    }
}

fn leads_to(rules: &BTreeMap<&RuleId, &Drafted<'_>>, from: &RuleId, to: &RuleId) -> bool {
    let mut seen = BTreeSet::new();
    let mut left = vec![from];
    while let Some(id) = left.pop() {
        for next in rules.get(id).into_iter().flat_map(|draft| &draft.rule.overrides) {
            if next == to {
                return true;
            }
            if seen.insert(next) {
                left.push(next);
            }
        }
    }
    false
}

/// A direct target is not recorded, which every rule that opens it must say (decisions.md 26).
fn recording(drafts: &[Drafted<'_>], world: &World, problems: &mut Problems) {
    for draft in drafts.iter().filter(|draft| draft.record != Some(Record::Off)) {
        let direct = world.targets.values().find(|target| {
            target.kind != TargetKind::Broker
                && target.mode == Mode::Direct
                && draft.rule.targets.selects(target)
                && target.roles.keys().any(|role| draft.rule.roles.holds(role.as_str()))
        });
        if let Some(target) = direct {
            let message = format!(
                "rule {} opens {}, a direct target, which nothing records: say record = \"off\" in the rule",
                draft.rule.id, target.name
            );
            problems.add(draft.at, message);
        }
    }
}

/// Rules that can meet in one request must not order the same steps in opposite ways (decisions.md 24).
fn step_order(drafts: &[Drafted<'_>], world: &World, problems: &mut Problems) {
    let matters = |draft: &&Drafted<'_>| steps_of(&draft.rule).len() > 1 || !draft.rule.overrides.is_empty();
    let with_steps: Vec<&Drafted<'_>> = drafts.iter().filter(matters).collect();
    // Almost always all rules agree, and nothing else needs to be looked at.
    if ordered(&with_steps).is_ok() {
        return;
    }
    let mut told: BTreeSet<Vec<&RuleId>> = BTreeSet::new();
    let crowd = crowds(&with_steps, world);
    let mut goals: BTreeSet<Vec<usize>> = BTreeSet::new();
    for target in world.targets.values() {
        for role in target.roles.keys() {
            goals.insert(chosen(&with_steps, |draft| {
                draft.rule.targets.selects(target) && draft.rule.roles.holds(role.as_str())
            }));
        }
    }
    for goal in goals {
        let together: Vec<&Drafted<'_>> = goal.iter().filter_map(|place| with_steps.get(*place).copied()).collect();
        if ordered(&together).is_ok() {
            continue;
        }
        for people in &crowd {
            let met = together.iter().copied().filter(|draft| people.contains(&&draft.rule.id)).collect();
            let met = unrelaxed(met);
            let Err(stuck) = ordered(&met) else { continue };
            let rules: Vec<&RuleId> =
                met.iter().filter(|draft| has_any(draft, &stuck)).map(|draft| &draft.rule.id).collect();
            if told.insert(rules.clone()) {
                let shown = |names: Vec<&str>| names.join(", ");
                let message = format!(
                    "rules {} order the steps {} in opposite ways and can meet in one request",
                    shown(rules.iter().map(|id| id.as_str()).collect()),
                    shown(stuck.iter().map(|name| name.as_str()).collect()),
                );
                if let Some(first) = met.iter().find(|draft| rules.contains(&&draft.rule.id)) {
                    problems.add(first.at, message);
                }
            }
        }
    }
}

fn ordered<'d>(drafts: &[&'d Drafted<'_>]) -> Result<(), Vec<&'d StepName>> {
    let lists: Vec<_> = drafts.iter().map(|draft| steps_of(&draft.rule)).collect();
    in_order(&lists)
}

fn has_any(draft: &Drafted<'_>, names: &[&StepName]) -> bool {
    steps_of(&draft.rule).iter().filter(|step| names.contains(&&step.name)).count() > 1
}

fn chosen(drafts: &[&Drafted<'_>], fits: impl Fn(&Drafted<'_>) -> bool) -> Vec<usize> {
    drafts.iter().enumerate().filter(|(_, draft)| fits(draft)).map(|(place, _)| place).collect()
}

/// The distinct sets of rules that some person is named by.
fn crowds<'d>(drafts: &[&'d Drafted<'_>], world: &World) -> BTreeSet<Vec<&'d RuleId>> {
    let bare = |name: &PersonName| Person {
        name: name.clone(),
        kind: PersonKind::Person,
        groups: BTreeSet::new(),
        keys: Vec::new(),
    };
    let outside: Vec<Person> = world.admins.iter().filter(|name| !world.people.contains_key(*name)).map(bare).collect();
    let named = |person: &Person| -> Vec<&'d RuleId> {
        let names = |who: &[Who]| who.iter().any(|who| who.names(person));
        drafts.iter().filter(|draft| names(&draft.rule.who)).map(|draft| &draft.rule.id).collect()
    };
    world.people.values().chain(&outside).map(named).collect()
}

/// Leaves out rules that another one present always relaxes, so that the two never count together.
fn unrelaxed<'d, 't>(mut met: Vec<&'d Drafted<'t>>) -> Vec<&'d Drafted<'t>> {
    let relaxed: BTreeSet<RuleId> = met
        .iter()
        .filter(|draft| {
            draft.rule.when.is_none() && !met.iter().any(|other| other.rule.overrides.contains(&draft.rule.id))
        })
        .flat_map(|draft| draft.rule.overrides.iter().cloned())
        .collect();
    met.retain(|draft| !relaxed.contains(&draft.rule.id));
    met
}
