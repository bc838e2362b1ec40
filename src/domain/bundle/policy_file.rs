//! policy.toml: time zone, defaults, rules, forbids and the bundle's own tests, put together.

use std::collections::BTreeSet;

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::check;
use super::people::World;
use super::read::{At, Part, Place, Problems, Roots, Table, Whole, meant, once};
use super::rules::{self, Drafted};
use super::who::Members;
use crate::domain::names::{PersonName, RoleName, RuleId, StepName, TargetName};
use crate::domain::policy::{Defaults, Expected, Forbid, Policy, PolicyTest, Record};
use crate::domain::text::{MAX_REASON_CHARS, MAX_TICKET_CHARS, check_text};

pub(super) fn read<'t>(roots: &'t Roots<'t>, world: &World, problems: &mut Problems) -> Policy {
    let mut tables: Vec<Table<'t>> = roots.of(Part::Policy).collect();
    let (timezone, zone) = settle(&mut tables, "timezone", problems, |table, problems| timezone(table, problems))
        .unwrap_or_else(|| ("UTC".to_owned(), TimeZone::UTC));
    let defaults = settle(&mut tables, "defaults", problems, |table, problems| {
        table.table("defaults", problems).map(|table| defaults(table, problems))
    })
    .unwrap_or_default();
    let mut members = Members::new(world);
    let mut ids = BTreeSet::new();
    let mut drafts: Vec<Drafted<'t>> = Vec::new();
    let mut forbids: Vec<Forbid> = Vec::new();
    let mut tests = Vec::new();
    for mut table in tables {
        schema(&mut table, problems);
        for rule in table.tables("rule", problems) {
            drafts.extend(rules::rule(rule, world, &defaults, &mut members, &mut ids, problems));
        }
        for forbid in table.tables("forbid", problems) {
            forbids.extend(rules::forbid(forbid, world, &mut ids, problems));
        }
        for test in table.tables("test", problems) {
            tests.extend(own_test(test, world, problems));
        }
        table.not_yet("breakglass", problems);
        table.finish(problems);
    }
    check::all(&drafts, world, &ids, problems);
    let rules = drafts.into_iter().map(|draft| draft.rule).collect();
    Policy::new(timezone, zone, defaults, (rules, forbids, tests))
}

/// `schema = 1`, which every file may say.
pub(super) fn schema(table: &mut Table<'_>, problems: &mut Problems) {
    table.number("schema", 1..=1, problems);
}

/// Reads something that one of several files may say.
fn settle<'t, T>(
    tables: &mut [Table<'t>],
    key: &'static str,
    problems: &mut Problems,
    mut read: impl FnMut(&mut Table<'t>, &mut Problems) -> Option<T>,
) -> Option<T> {
    let mut found = None;
    let mut said: Option<Place<'t>> = None;
    for table in tables {
        let here = table.has(key);
        let value = read(table, problems);
        match (here, said) {
            (true, Some(first)) => problems.add(table.at, format!("{key} is said in {} already", first.source.name)),
            (true, None) => (said, found) = (Some(table.at), value),
            (false, _) => {}
        }
    }
    found
}

fn timezone(table: &mut Table<'_>, problems: &mut Problems) -> Option<(String, TimeZone)> {
    let name = table.text("timezone", problems)?;
    // The database that was built in, never the machine's: broker, signer and a verifier years later must agree.
    match TimeZoneDatabase::bundled().get(name.value) {
        Ok(zone) => Some((name.value.to_owned(), zone)),
        Err(_) => {
            let names: Vec<String> = TimeZoneDatabase::bundled().available().map(|name| name.to_string()).collect();
            let guess = meant(name.value, names.iter().map(String::as_str));
            problems.add(name.at, format!("{} is no time zone{guess}", crate::domain::text::shown(name.value)));
            None
        }
    }
}

fn defaults(mut table: Table<'_>, problems: &mut Problems) -> Defaults {
    let built_in = Defaults::default();
    let defaults = Defaults {
        answer_within_s: table.span("answer_within", problems).unwrap_or(built_in.answer_within_s),
        claim_within_s: table.span("claim_within", problems).unwrap_or(built_in.claim_within_s),
        max_s: table.span("max", problems).unwrap_or(built_in.max_s),
        credential_s: credential(&mut table, problems).unwrap_or(built_in.credential_s),
        record: record(&mut table, problems).unwrap_or(built_in.record),
    };
    table.finish(problems);
    defaults
}

/// `credential`: `window` is `Some(None)`, a duration `Some(Some(seconds))`, nothing said `None`.
pub(super) fn credential(table: &mut Table<'_>, problems: &mut Problems) -> Option<Option<u64>> {
    match table.text("credential", problems)?.value {
        "window" => Some(None),
        _ => Some(Some(table.span("credential", problems)?)),
    }
}

pub(super) fn record(table: &mut Table<'_>, problems: &mut Problems) -> Option<Record> {
    let text = table.text("record", problems)?;
    match text.value {
        "strict" => Some(Record::Strict),
        "off" => Some(Record::Off),
        other => {
            problems.add(text.at, format!("record is strict or off{}", meant(other, ["strict", "off"])));
            None
        }
    }
}

fn own_test(mut table: Table<'_>, world: &World, problems: &mut Problems) -> Option<PolicyTest> {
    let at = table.at;
    let expected = expected(&mut table, problems);
    if !table.has("ask") {
        problems.add(at, "[[test]] has no ask");
    }
    let ask = table.table("ask", problems);
    table.finish(problems);
    let mut ask = ask?;
    let person = name(&mut ask, "as", problems, |text| PersonName::new(text));
    let target = name(&mut ask, "target", problems, |text| TargetName::new(text));
    let role = name(&mut ask, "role", problems, |text| RoleName::new(text));
    let for_s = ask.span("for", problems);
    let reason = words(&mut ask, "reason", MAX_REASON_CHARS, problems);
    let ticket = words(&mut ask, "ticket", MAX_TICKET_CHARS, problems);
    let signed_in_s = ask.span("signed_in", problems).unwrap_or(0);
    let instant = ask.text("at", problems).and_then(|at| {
        let parsed =
            at.value.parse::<jiff::Timestamp>().map_err(|_| "at is an instant as in 2026-11-27T16:30:00+01:00");
        problems.take(at.at, parsed).map(|instant| instant.as_second())
    });
    ask.finish(problems);
    let (expected, person, target, role) = (expected?, person?, target?, role?);
    if world.whole == Whole::Yes {
        // A stranger must be refused, which is worth a test; anything else said of one is a misspelt name.
        let known = world.people.contains_key(&person.value) || world.admins.contains(&person.value);
        if !known && expected != Expected::Refused {
            let guess = meant(person.value.as_str(), world.people.keys().map(PersonName::as_str));
            problems.add(person.at, format!("there is no person {}{guess}", person.value));
        }
        match world.targets.get(&target.value) {
            None => {
                let guess = meant(target.value.as_str(), world.targets.keys().map(TargetName::as_str));
                problems.add(target.at, format!("there is no target {}{guess}", target.value));
            }
            Some(found) if !found.roles.contains_key(&role.value) => {
                let guess = meant(role.value.as_str(), found.roles.keys().map(RoleName::as_str));
                problems.add(role.at, format!("{} has no role {}{guess}", target.value, role.value));
            }
            Some(_) => {}
        }
    }
    Some(PolicyTest {
        file: at.source.name.to_owned(),
        line: at.line(),
        person: person.value,
        target: target.value,
        role: role.value,
        for_s,
        reason,
        ticket,
        signed_in_s,
        at: instant,
        expected,
    })
}

fn name<'t, T, E: std::fmt::Display>(
    table: &mut Table<'t>,
    key: &'static str,
    problems: &mut Problems,
    new: impl Fn(&str) -> Result<T, E>,
) -> Option<At<'t, T>> {
    let text = table.needed_text(key, problems)?;
    Some(At { at: text.at, value: problems.take(text.at, new(text.value))? })
}

fn words(table: &mut Table<'_>, key: &'static str, max_chars: usize, problems: &mut Problems) -> Option<String> {
    let text = table.text(key, problems)?;
    let checked =
        check_text(key, text.value, max_chars).map_err(|refusal| refusal.message.trim_end_matches('.').to_owned());
    problems.take(text.at, checked)?;
    Some(text.value.to_owned())
}

/// `expect`: `"refused"`, `"auto"`, `{ steps = […], max = "1h" }` or `{ auto = true, max = "1h" }`.
fn expected(table: &mut Table<'_>, problems: &mut Problems) -> Option<Expected> {
    const FORMS: &str = "expect is \"refused\", \"auto\" or { steps = [\"…\"], max = \"1h\" }";
    let Some(found) = table.any("expect") else {
        problems.add(table.at, format!("[[test]] has no expect; {FORMS}"));
        return None;
    };
    match found.value.as_str() {
        Some("refused") => return Some(Expected::Refused),
        Some("auto") => return Some(Expected::Automatic(None)),
        Some(_) => {
            problems.add(found.at, FORMS);
            return None;
        }
        None if !found.value.is_table() => {
            problems.add(found.at, FORMS);
            return None;
        }
        None => {}
    }
    let mut expect = table.table("expect", problems)?;
    let max_s = expect.span("max", problems);
    let automatic = expect.switch("auto", true, false, problems).unwrap_or(false);
    let steps = expect.some_texts("steps", problems);
    let said = expect.has("steps");
    expect.finish(problems);
    match (automatic, steps) {
        (true, None) if !said => Some(Expected::Automatic(max_s)),
        (false, Some(steps)) => {
            let mut seen = BTreeSet::new();
            let mut names = Vec::new();
            for text in steps {
                let name = problems.take(text.at, StepName::new(text.value))?;
                if once(&mut seen, &name, text.at, "step", problems) {
                    names.push(name);
                }
            }
            Some(Expected::Steps(names, max_s))
        }
        (_, None) if said => None,
        _ => {
            problems.add(found.at, FORMS);
            None
        }
    }
}

/// The id of a rule or a forbid, which are names of one kind.
pub(super) fn id(table: &mut Table<'_>, ids: &mut BTreeSet<RuleId>, problems: &mut Problems) -> Option<RuleId> {
    let text = table.needed_text("id", problems)?;
    let id = problems.take(text.at, RuleId::new(text.value))?;
    once(ids, &id, text.at, "the id", problems).then_some(id)
}
