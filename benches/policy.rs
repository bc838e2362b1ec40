//! What one decision of policy costs with a thousand rules and ten thousand people: `cargo bench --bench policy`.
//!
//! The verdict alone; a request costs clerk and signer that and the signature of its act. The rules are of the usual shapes, a quarter of them
//! with a condition; each ask is of another person for another target.
#![allow(clippy::unwrap_used)]

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Instant;

use jit_broker::domain::bundle::{Bundle, BundleText};
use jit_broker::domain::judge::{Ask, Verdict, judge};
use jit_broker::domain::names::{PersonName, RoleName};
use jit_ca::key::PrivateKey;
use table::{Figure, at, row};

const PEOPLE: usize = 10_000;
/// Those whom the text of a bundle, which has at most 1 MiB, holds beside these rules. The others join them in memory.
const WRITTEN: usize = 3_000;
const RULES: usize = 1_000;
const TARGETS: usize = 1_000;
const TEAMS: usize = 250;
const ASKS: usize = 20_000;

fn people() -> String {
    (0..WRITTEN).fold(String::new(), |mut text, n| {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&n.to_be_bytes());
        let key = PrivateKey::from_seed(seed);
        writeln!(
            text,
            "[[person]]\nname = \"person-{n}\"\ngroups = [\"team-{}\", \"leads-{}\"]\nkeys = [\"{}\"]",
            n % TEAMS,
            (n + 1) % TEAMS,
            key.public()
        )
        .unwrap();
        text
    })
}

fn targets() -> String {
    (0..TARGETS).fold(String::new(), |mut text, n| {
        let environment = if n % 5 == 0 { "prod" } else { "staging" };
        writeln!(
            text,
            "[[target]]\nname = \"web-{n}\"\nkind = \"ssh\"\naddress = \"10.0.3.7:22\"\nhost_ca = \"@broker\"\n\
             labels = {{ env = \"{environment}\", team = \"team-{}\" }}\n[target.roles.deploy]\nlogins = [\"deploy\"]",
            n % TEAMS
        )
        .unwrap();
        text
    })
}

/// Four rules a team.
fn policy() -> String {
    let mut text = "schema = 1\ntimezone = \"Europe/Berlin\"\n".to_owned();
    for n in 0..RULES {
        let (team, kind) = (n % TEAMS, n / TEAMS);
        let targets = match kind {
            0 => format!("{{ labels = {{ env = \"prod\", team = \"team-{team}\" }} }}"),
            1 => format!("{{ labels = {{ env = \"staging\", team = \"team-{team}\" }} }}"),
            2 => format!("{{ name = \"web-{team}*\" }}"),
            _ => format!("{{ kind = \"ssh\", labels = {{ team = \"team-{team}\" }} }}"),
        };
        writeln!(text, "[[rule]]\nid = \"rule-{n}\"\nwho = [\"group:team-{team}\"]\ntargets = {targets}").unwrap();
        writeln!(text, "roles = [\"deploy\"]\nmax = \"{}h\"", 1 + kind).unwrap();
        match kind {
            0 => writeln!(text, "reason = {{ min_chars = 12 }}").unwrap(),
            1 => writeln!(text, "when = 'requester.signed_in_s < 43200'").unwrap(),
            _ => {}
        }
        writeln!(text, "  [[rule.step]]\n  name = \"peer\"\n  need = 1\n  from = [\"group:leads-{team}\"]").unwrap();
    }
    for n in 0..20 {
        writeln!(
            text,
            "[[forbid]]\nid = \"freeze-{n}\"\ntargets = {{ labels = {{ env = \"prod\", team = \"team-{n}\" }} }}\n\
             roles = [\"deploy\"]\nwhen = 'now.weekday == \"fri\" && now.hour >= 16'"
        )
        .unwrap();
    }
    text
}

fn main() {
    let files = [("people.toml", people()), ("targets.toml", targets()), ("policy.toml", policy())];
    let files: BTreeMap<String, String> = files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    let text = BundleText { files };
    let begun = Instant::now();
    let mut bundle = Bundle::parse(&text, &[]).map_err(|e| format!("{e:?}")).unwrap();
    let parsed = begun.elapsed();
    for n in WRITTEN..PEOPLE {
        let mut person = bundle.people[&PersonName::new(format!("person-{}", n % TEAMS)).unwrap()].clone();
        person.name = PersonName::new(format!("person-{n}")).unwrap();
        for group in &person.groups {
            bundle.groups.get_mut(group).unwrap().insert(person.name.clone());
        }
        bundle.people.insert(person.name.clone(), person);
    }
    let (role, disabled) = (RoleName::new("deploy").unwrap(), BTreeSet::new());
    let (people, targets): (Vec<_>, Vec<_>) = (bundle.people.values().collect(), bundle.targets.values().collect());
    let (mut times, mut steps) = (Vec::with_capacity(ASKS), 0);
    for n in 0..ASKS {
        // Neighbours have nothing in common. Three quarters ask for something of their own team.
        let person = people[(n * 7919) % people.len()];
        let team = person.name.as_str()["person-".len()..].parse::<usize>().unwrap() % TEAMS;
        let target = if n % 4 == 0 {
            targets[(n * 31) % targets.len()]
        } else {
            let name = format!("web-{}", team + TEAMS * (n % (TARGETS / TEAMS)));
            targets.iter().find(|target| target.name.as_str() == name).unwrap()
        };
        let ask = Ask {
            person,
            target,
            role: &role,
            for_s: Some(1800),
            reason: Some("hotfix for OPS-1, see the ticket"),
            ticket: None,
            signed_in_s: Some(60),
            disabled: &disabled,
            now: 1_800_000_000,
        };
        let begun = Instant::now();
        let verdict = judge(&bundle, &ask);
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        steps += usize::from(matches!(verdict, Verdict::Steps(..)));
    }
    assert!(steps > ASKS / 2 && steps < ASKS, "{steps} of {ASKS}: the asks are all alike");
    let (p50, p99) = (at(&times, 50), at(&times, 99));
    let seen = format!(
        "p50 {p50:.1} µs, p99 {p99:.1} µs; {} of {ASKS} asks wait for people, the others are refused with a hint; a bundle of {WRITTEN} people is read in {} ms",
        steps,
        parsed.as_millis()
    );
    let what = format!("policy decision, {RULES} rules, {PEOPLE} people, {TARGETS} targets");
    row(&Figure { what: &what, seen, aim: "≤ 50 µs", met: Some(p99 <= 50.0) });
}
