#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;

use super::*;
use crate::domain::names::{GroupName, PersonName, TargetName};
use crate::domain::person::PersonKind;
use crate::domain::target::{Address, HostIdentity, Mode, TargetKind};

/// Evaluates over alice of backend, signed in an hour ago, asking for rw on web-07 on a Friday at 16:30 in Berlin.
fn judge(source: &str) -> Result<bool, String> {
    let condition = Condition::compile(source).map_err(|wrong| wrong.join("; "))?;
    let person = Person {
        name: PersonName::new("alice").unwrap(),
        kind: PersonKind::Person,
        groups: ["backend", "dba"].map(|g| GroupName::new(g).unwrap()).into(),
        keys: Vec::new(),
    };
    let target = Target {
        name: TargetName::new("web-07").unwrap(),
        kind: TargetKind::Ssh,
        address: Address { host: "h".into(), port: 22 },
        labels: [("env".to_owned(), "prod".to_owned())].into(),
        mode: Mode::Direct,
        host: HostIdentity::BrokerCa,
        database: None,
        roles: BTreeMap::new(),
    };
    let now: DateTime = "2026-11-27T16:30:00".parse().unwrap();
    condition.holds(&Facts {
        person: &person,
        signed_in_s: Some(3600),
        target: &target,
        role: "rw",
        for_s: 1800,
        ticket: "OPS-1",
        now,
    })
}

#[test]
fn facts_are_seen() {
    for source in [
        "true",
        "requester.name == 'alice' && requester.kind == \"person\"",
        "'dba' in requester.groups && !('sre' in requester.groups)",
        "requester.signed_in_s < 43200",
        "target.name.startsWith('web-') && target.kind == 'ssh'",
        "target.labels.env == 'prod' && target.labels['env'].endsWith('d')",
        "has(target.labels.env) && !has(target.labels.team)",
        "role == 'rw' && for_s <= 1800 && for_s * 2 == 3600",
        "ticket.contains('OPS') && size(ticket) == 5",
        "now.weekday == 'fri' && now.hour >= 16 && now.minute == 30 && now.date == '2026-11-27'",
        "requester.groups.exists(g, g == 'dba') && requester.groups.all(g, size(g) > 2)",
        "requester.groups.exists_one(g, g.startsWith('b'))",
        "size(requester.groups.filter(g, g != 'dba')) == 1",
        "now.hour > 20 ? false : role in ['rw', 'ro']",
        "requester.groups[0] == 'backend'",
    ] {
        assert_eq!(judge(source), Ok(true), "{source}");
    }
    assert_eq!(judge("now.weekday == 'sat'"), Ok(false));
}

#[test]
fn errors_are_errors_and_never_false() {
    for (source, says) in [
        ("target.labels.team == 'x'", "No such key: team"),
        ("for_s * 9223372036854775807 > 0", "Overflow"),
        ("for_s / (for_s - 1800) > 0", "Division by zero"),
        ("requester.groups[7] == 'x'", "out of bounds"),
    ] {
        let error = judge(source).unwrap_err();
        assert!(error.contains(says), "{source}: {error}");
        assert!(!error.contains('\n') && error.chars().count() <= 400);
    }
}

#[test]
fn what_is_not_listed_does_not_load() {
    for (source, says) in [
        ("", "does not parse"),
        ("now.hour >=", "does not parse"),
        ("'unclosed", "does not parse"),
        ("nosuch == 1 || true", "nosuch is not one of the variables"),
        ("history.granted_30d > 3", "history.* is not in this version"),
        ("requester.email == 'x'", "requester has no field email; it has requester.name"),
        ("requester == requester", "requester alone is no value"),
        ("requester['name'] == 'a'", "requester alone is no value"),
        ("role.name == 'x'", "role has no fields"),
        ("now.second == 1", "now has no field second"),
        ("matches(role, 'x')", "the function matches is not one of"),
        ("role.matches('x')", "the function matches is not one of"),
        ("optional.of(1).hasValue()", "is not one of"),
        ("duration('1h') > duration('1m')", "the function duration is not one of"),
        ("type(role) == string", "the function type is not one of"),
        ("target.labels.?env.hasValue()", "does not parse"),
        ("requester.groups.all(a, requester.groups.exists(b, a == b))", "cannot be nested"),
        ("requester.groups.map(a, a).exists(b, b == 'x')", "cannot be nested"),
        ("[[1].map(a, a)].exists(b, b == [1])", "cannot be nested"),
        ("requester.groups.exists(now, now == 'x')", "now is a variable already"),
        ("requester.name", "true or false"),
        ("1 + 1", "true or false"),
        ("now.hour", "true or false"),
        ("true ? 1 : 2", "true or false"),
        ("requester.groups.map(g, g)", "true or false"),
        ("now.hour < 'x'", "the types do not fit"),
        ("!role", "the types do not fit"),
        ("size(for_s) == 1", "the types do not fit"),
        ("a.b.c{d: 1} == 1", "messages are not taken"),
    ] {
        let error = Condition::compile(source).expect_err(source).join("; ");
        assert!(error.contains(says), "{source}: {error}");
    }
    let long = format!("role == '{}'", "x".repeat(MAX_CONDITION_BYTES));
    assert!(Condition::compile(&long).unwrap_err()[0].contains("at most 1024"));
}

/// Shapes that recurse, repeated to fill the largest condition that is taken.
fn deep() -> Vec<String> {
    let shapes: &[(&str, &str, &str)] = &[
        ("(", "true", ")"),
        ("[", "1", "]"),
        ("!", "true", ""),
        ("-", "1", ""),
        ("1+", "1", ""),
        ("1-", "1", ""),
        ("true&&", "true", ""),
        ("true||", "true", ""),
        ("true?true:", "true", ""),
        ("size(", "''", ")"),
        ("{1:", "1", "}"),
        ("[1][", "0", "]"),
        ("", "target", ".labels"),
        ("", "role", "[0]"),
        ("", "role", ".size()"),
        ("1==", "1", ""),
        ("[1].all(x,", "true", ")"),
        ("has(target.labels.a)&&", "true", ""),
        ("{", "", ""),
        ("a(", "", ""),
        ("(", "", ""),
        ("\"", "", ""),
        ("?", "", ""),
    ];
    let mut all = Vec::new();
    for (before, middle, after) in shapes {
        let most = (MAX_CONDITION_BYTES - middle.len()) / (before.len() + after.len());
        for times in (1..=30).chain([40, 60, 96, 128, most / 2, most]).filter(|t| *t <= most) {
            all.push(format!("{}{middle}{} ", before.repeat(times), after.repeat(times)).trim_end().to_owned());
            all.push(
                format!("{}{middle}{}==1", before.repeat(times), after.repeat(times))
                    .chars()
                    .take(MAX_CONDITION_BYTES)
                    .collect(),
            );
        }
    }
    all
}

#[test]
fn deep_conditions_are_refused_without_an_abort() {
    let refused = deep().iter().filter(|source| Condition::compile(source).is_err()).count();
    assert!(refused > 200, "{refused}");
    let sum = (0..MAX_CONDITION_BYTES / 2).map(|_| "1").collect::<Vec<_>>().join("+");
    assert!(Condition::compile(&sum).unwrap_err()[0].contains("nested more than 24 levels"));
    // A long chain of && is balanced by the parser, so that real conditions may have many clauses.
    assert!(Condition::compile(&vec!["now.hour != 3"; 50].join("&&")).is_ok());
}

#[test]
fn the_deepest_condition_fits_a_small_stack() {
    let loaded: BTreeSet<String> = deep().into_iter().filter(|source| Condition::compile(source).is_ok()).collect();
    let sums = (2..60).map(|n| vec!["1"; n].join("+") + "==1").filter(|source| Condition::compile(source).is_ok());
    let nots =
        (2..60).map(|n| "!(".repeat(n) + "true" + &")".repeat(n)).filter(|source| Condition::compile(source).is_ok());
    let loops = (2..60)
        .map(|n| format!("requester.groups.all(g, {}g == '')", "true ? true : ".repeat(n)))
        .filter(|source| Condition::compile(source).is_ok());
    let all: Vec<String> = loaded.into_iter().chain(sums).chain(nots).chain(loops).collect();
    assert!(all.len() > 60, "{}", all.len());
    let small = std::thread::Builder::new().stack_size(512 * 1024).spawn(move || {
        for source in &all {
            let _ = judge(source);
        }
    });
    small.unwrap().join().unwrap();
}

#[test]
fn a_sign_in_that_never_was_is_not_fresh() {
    let condition = Condition::compile("requester.signed_in_s + 1 < 43200").unwrap();
    let person = Person {
        name: PersonName::new("a").unwrap(),
        kind: PersonKind::Machine,
        groups: BTreeSet::new(),
        keys: Vec::new(),
    };
    let target = Target {
        name: TargetName::new("a").unwrap(),
        kind: TargetKind::Ssh,
        address: Address { host: "h".into(), port: 22 },
        labels: BTreeMap::new(),
        mode: Mode::Direct,
        host: HostIdentity::BrokerCa,
        database: None,
        roles: BTreeMap::new(),
    };
    let now = DateTime::default();
    for signed_in_s in [None, Some(u64::MAX), Some(1 << 62)] {
        let facts = Facts { person: &person, signed_in_s, target: &target, role: "r", for_s: 1, ticket: "", now };
        assert_eq!(condition.holds(&facts), Ok(false), "{signed_in_s:?}");
    }
}
