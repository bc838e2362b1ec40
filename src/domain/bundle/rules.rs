//! `[[rule]]` and `[[forbid]]`, read one by one.

use std::collections::BTreeSet;

use super::people::World;
use super::policy_file::{credential, id, record};
use super::read::{At, Place, Problems, Table, Whole, meant, once};
use super::targets::{kind_of, labels};
use super::who::{Members, who_list};
use crate::domain::cel::Condition;
use crate::domain::names::{RoleName, RuleId, StepName, TargetName};
use crate::domain::person::Who;
use crate::domain::policy::{
    Attested, Consent, Defaults, Forbid, Glob, Pattern, Record, Roles, Rule, Selector, StepRule, Touch,
};
use crate::domain::target::TargetKind;
use crate::domain::text::MAX_REASON_CHARS;

/// The most people that a step may need.
const MAX_NEED: u32 = 16;

/// A rule with what the checks across rules want to point at.
pub(super) struct Drafted<'t> {
    pub(super) rule: Rule,
    pub(super) at: Place<'t>,
    /// What `overrides` says, in its order.
    pub(super) overrides: Vec<At<'t, RuleId>>,
    /// What the rule itself says of recording.
    pub(super) record: Option<Record>,
}

pub(super) fn rule<'t>(
    mut table: Table<'t>,
    world: &World,
    defaults: &Defaults,
    members: &mut Members<'_>,
    ids: &mut BTreeSet<RuleId>,
    problems: &mut Problems,
) -> Option<Drafted<'t>> {
    let at = table.at;
    let id = id(&mut table, ids, problems);
    let who = table.needed_texts("who", problems).map(|texts| who_list("who", texts, world, problems));
    let targets = needed_selector(&mut table, world, problems);
    let roles = table.needed_texts("roles", problems).and_then(|texts| roles(texts, targets.as_ref(), world, problems));
    let when = table.text("when", problems).and_then(|text| condition(text, problems));
    let overrides = overrides(&mut table, problems);
    let max_s = table.span("max", problems).unwrap_or(defaults.max_s);
    let answer_within_s = table.span("answer_within", problems).unwrap_or(defaults.answer_within_s);
    let claim_within_s = table.span("claim_within", problems).unwrap_or(defaults.claim_within_s);
    let credential_s = credential(&mut table, problems).unwrap_or(defaults.credential_s);
    let said = record(&mut table, problems);
    let attested = table.switch("attested", Attested::Yes, Attested::No, problems).unwrap_or(Attested::No);
    let min_reason_chars = table.table("reason", problems).and_then(|reason| min_chars(reason, problems));
    let ticket = table.table("ticket", problems).and_then(|ticket| pattern(ticket, problems));
    let consent = consent(&mut table, world, members, problems);
    table.finish(problems);
    let rule = Rule {
        id: id?,
        who: who?,
        targets: targets?,
        roles: roles?,
        when,
        overrides: overrides.iter().map(|over| over.value.clone()).collect(),
        max_s,
        answer_within_s,
        claim_within_s,
        credential_s,
        record: said.unwrap_or(defaults.record),
        attested,
        min_reason_chars,
        ticket,
        consent: consent?,
    };
    Some(Drafted { rule, at, overrides, record: said })
}

pub(super) fn forbid(
    mut table: Table<'_>,
    world: &World,
    ids: &mut BTreeSet<RuleId>,
    problems: &mut Problems,
) -> Option<Forbid> {
    let before = problems.len();
    let id = id(&mut table, ids, problems);
    let who = table.some_texts("who", problems).map(|texts| who_list("who", texts, world, problems));
    let targets = table.table("targets", problems).and_then(|table| selector(table, world, problems));
    let roles = match table.has("roles") {
        true => table.some_texts("roles", problems).and_then(|texts| roles(texts, targets.as_ref(), world, problems)),
        false => {
            table.any("roles");
            Some(Roles::Any)
        }
    };
    let when = table.text("when", problems).and_then(|text| condition(text, problems));
    table.finish(problems);
    // Half a forbid would forbid more or less than was meant; the bundle is refused anyhow.
    (problems.len() == before).then_some(Forbid { id: id?, who, targets, roles: roles?, when })
}

fn needed_selector(table: &mut Table<'_>, world: &World, problems: &mut Problems) -> Option<Selector> {
    if !table.has("targets") {
        problems.add(table.at, "[[rule]] has no targets");
    }
    table.table("targets", problems).and_then(|table| selector(table, world, problems))
}

fn selector(mut table: Table<'_>, world: &World, problems: &mut Problems) -> Option<Selector> {
    let (at, before) = (table.at, problems.len());
    let name = table.text("name", problems).and_then(|text| glob(text, world, problems));
    let kind = table.text("kind", problems).and_then(|text| match text.value {
        "broker" => Some(TargetKind::Broker),
        other => problems.take(text.at, kind_of(other)),
    });
    let labels = table.table("labels", problems).map(|table| {
        let labels = labels(&table, problems);
        if labels.is_empty() {
            problems.add(table.at, "labels is empty: leave it out or fill it");
        }
        labels
    });
    table.finish(problems);
    if problems.len() > before {
        return None;
    }
    if name.is_none() && kind.is_none() && labels.is_none() {
        problems.add(at, "targets selects nothing: say name, kind or labels (name = \"*\" is every target)");
        return None;
    }
    Some(Selector { name, kind, labels: labels.unwrap_or_default() })
}

fn glob(text: At<'_, &str>, world: &World, problems: &mut Problems) -> Option<Glob> {
    let glob = Glob::new(text.value);
    if glob.is_literal() {
        let name = problems.take(text.at, TargetName::new(text.value))?;
        if !world.targets.contains_key(&name) && world.whole == Whole::Yes {
            let guess = meant(text.value, world.targets.keys().map(TargetName::as_str));
            problems.add(text.at, format!("there is no target {name}{guess}"));
        }
        return Some(glob);
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'*' | b'?');
    if text.value.len() > 63 || !text.value.bytes().all(plain) {
        problems.add(text.at, "name is a target's name, where * stands for any characters and ? for one");
        return None;
    }
    Some(glob)
}

fn roles(
    texts: Vec<At<'_, &str>>,
    targets: Option<&Selector>,
    world: &World,
    problems: &mut Problems,
) -> Option<Roles> {
    if texts.iter().any(|text| text.value == "*") {
        if let [_, extra, ..] = texts.as_slice() {
            problems.add(extra.at, "\"*\" is every role, so it stands alone");
        }
        return Some(Roles::Any);
    }
    let selected: Vec<_> = world.targets.values().filter(|target| targets.is_some_and(|s| s.selects(target))).collect();
    let known: BTreeSet<&str> = selected.iter().flat_map(|target| target.roles.keys()).map(RoleName::as_str).collect();
    let mut names = BTreeSet::new();
    for text in texts {
        let Some(name) = problems.take(text.at, RoleName::new(text.value)) else { continue };
        once(&mut names, &name, text.at, "role", problems);
        if !known.is_empty() && !known.contains(name.as_str()) && world.whole == Whole::Yes {
            let guess = meant(name.as_str(), known.iter().copied());
            problems.add(text.at, format!("no target that is selected has a role {name}{guess}"));
        }
    }
    Some(Roles::Named(names))
}

fn overrides<'t>(table: &mut Table<'t>, problems: &mut Problems) -> Vec<At<'t, RuleId>> {
    let mut seen = BTreeSet::new();
    let mut overrides = Vec::new();
    for text in table.some_texts("overrides", problems).unwrap_or_default() {
        let Some(id) = problems.take(text.at, RuleId::new(text.value)) else { continue };
        if once(&mut seen, &id, text.at, "the rule", problems) {
            overrides.push(At { at: text.at, value: id });
        }
    }
    overrides
}

fn condition(text: At<'_, &str>, problems: &mut Problems) -> Option<Condition> {
    match Condition::compile(text.value) {
        Ok(condition) => Some(condition),
        Err(wrong) => {
            wrong.into_iter().for_each(|wrong| problems.add(text.at, wrong));
            None
        }
    }
}

fn min_chars(mut table: Table<'_>, problems: &mut Problems) -> Option<u32> {
    if !table.has("min_chars") {
        problems.add(table.at, "reason needs min_chars");
    }
    let min = table.number("min_chars", 1..=MAX_REASON_CHARS as u32, problems);
    table.finish(problems);
    min
}

fn pattern(mut table: Table<'_>, problems: &mut Problems) -> Option<Pattern> {
    let pattern =
        table.needed_text("pattern", problems).and_then(|text| problems.take(text.at, Pattern::new(text.value)));
    table.finish(problems);
    pattern
}

fn consent(
    table: &mut Table<'_>,
    world: &World,
    members: &mut Members<'_>,
    problems: &mut Problems,
) -> Option<Consent> {
    let at = table.at;
    let said = table.has("step");
    let tables = table.tables("step", problems);
    let mut seen = BTreeSet::new();
    let steps: Vec<Option<StepRule>> =
        tables.into_iter().map(|table| step(table, world, members, &mut seen, problems)).collect();
    let automatic = match table.any("auto") {
        None => None,
        Some(found) => match (found.value.as_bool(), found.value.as_str()) {
            (Some(true), _) => Some(Consent::Automatic),
            (Some(false), _) => None,
            (None, Some(source)) => {
                Some(Consent::AutomaticIf(condition(At { at: found.at, value: source }, problems)?))
            }
            (None, None) => {
                problems.add(found.at, "auto is true, false or a condition");
                return None;
            }
        },
    };
    match (automatic, said) {
        (Some(_), true) => {
            problems.add(at, "[[rule]] has both steps and auto: asking people or asking nobody, not both");
            None
        }
        (Some(automatic), false) => Some(automatic),
        (None, true) if !steps.is_empty() => steps.into_iter().collect::<Option<Vec<_>>>().map(Consent::Steps),
        (None, _) => {
            problems.add(at, "[[rule]] has neither a step nor auto: add [[rule.step]] or auto = true");
            None
        }
    }
}

fn step(
    mut table: Table<'_>,
    world: &World,
    members: &mut Members<'_>,
    seen: &mut BTreeSet<StepName>,
    problems: &mut Problems,
) -> Option<StepRule> {
    let at = table.at;
    let name = table.needed_text("name", problems).and_then(|text| {
        let name = problems.take(text.at, StepName::new(text.value))?;
        once(seen, &name, text.at, "step", problems).then_some(name)
    });
    let need = match table.has("need") {
        true => table.number("need", 1..=MAX_NEED, problems),
        false => {
            table.any("need");
            Some(1)
        }
    };
    let before = problems.len();
    let from = table.needed_texts("from", problems).map(|texts| {
        for text in texts.iter().filter(|text| matches!(text.value, "kind:machine" | "kind:agent")) {
            problems.add(text.at, "machines and agents never approve");
        }
        who_list("from", texts, world, problems)
    });
    let touch = table.switch("presence", Touch::Required, Touch::Any, problems).unwrap_or(Touch::Any);
    table.not_yet("remind", problems);
    table.not_yet("escalate", problems);
    let clean = problems.len() == before;
    table.finish(problems);
    let from: Vec<Who> = from?;
    let members = members.of(&from);
    if members.is_empty() && clean && world.whole == Whole::Yes {
        problems.add(at, "nobody whom from names can approve: machines and agents never do");
    }
    Some(StepRule { name: name?, need: need?, from, touch, members })
}
