#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::bundle::{Bundle, BundleText};
use crate::domain::names::TargetName;
use crate::domain::refusal::Code;

const PEOPLE: &str = r#"
person = [
  { name = "alice", groups = ["backend"] }, { name = "bob", groups = ["backend"] },
  { name = "carol", groups = ["backend", "dba"] }, { name = "dave", groups = ["dba"] },
  { name = "bot", kind = "machine", groups = ["backend", "dba"] },
  { name = "helper", kind = "agent", owner = "alice", groups = ["backend"] },
  { name = "scribe", kind = "agent", owner = "alice", groups = ["backend", "dba"] },
]
"#;

const TARGETS: &str = r#"
[[target]]
name = "web-07"
kind = "ssh"
address = "10.0.3.7:22"
labels = { env = "prod" }
mode = "direct"
host_ca = "@broker"
  [target.roles.deploy]
  logins = ["deploy"]
  [target.roles.look]
  logins = ["nobody"]
  narrower_than = ["deploy"]
  [target.roles.admin]
  logins = ["root"]
"#;

const HEAD: &str = "timezone = \"Europe/Berlin\"\n";
/// Tuesday, 2026-11-24, 10:00 in Berlin.
const TUESDAY: &str = "2026-11-24T10:00:00+01:00";

fn bundle(policy: &str) -> Bundle {
    let file = |name: &str, text: String| (name.to_owned(), text);
    let files = [
        file("people.toml", PEOPLE.into()),
        file("targets.toml", TARGETS.into()),
        file("policy.toml", format!("{HEAD}{policy}")),
    ];
    Bundle::parse(&BundleText { files: files.into() }, &[]).unwrap_or_else(|problems| {
        panic!("{}\n{policy}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

/// A rule for `who` on web-07 in `roles`, with more lines.
fn rule(id: &str, who: &str, roles: &str, more: &str) -> String {
    format!(
        "[[rule]]\nid = \"{id}\"\nwho = [\"{who}\"]\ntargets = {{ name = \"web-07\" }}\nroles = [\"{roles}\"]\nrecord = \"off\"\n{more}\n"
    )
}

fn step(name: &str, need: u32, from: &str) -> String {
    format!("  [[rule.step]]\n  name = \"{name}\"\n  need = {need}\n  from = [\"{from}\"]\n")
}

/// What is asked, with everything owned.
#[derive(Clone)]
struct Asked {
    who: &'static str,
    role: &'static str,
    for_s: Option<u64>,
    reason: Option<&'static str>,
    ticket: Option<&'static str>,
    signed_in_s: Option<u64>,
    disabled: &'static [&'static str],
    at: &'static str,
}

const ALICE: Asked = Asked {
    who: "alice",
    role: "deploy",
    for_s: None,
    reason: None,
    ticket: None,
    signed_in_s: Some(60),
    disabled: &[],
    at: TUESDAY,
};

fn asked<T>(bundle: &Bundle, asked: &Asked, judged: impl Fn(&Bundle, &Ask<'_>) -> T) -> T {
    let disabled = asked.disabled.iter().map(|name| PersonName::new(name).unwrap()).collect();
    let ask = Ask {
        person: &bundle.people[asked.who],
        target: &bundle.targets[&TargetName::new("web-07").unwrap()],
        role: &RoleName::new(asked.role).unwrap(),
        for_s: asked.for_s,
        reason: asked.reason,
        ticket: asked.ticket,
        signed_in_s: asked.signed_in_s,
        disabled: &disabled,
        now: asked.at.parse::<jiff::Timestamp>().unwrap().as_second(),
    };
    judged(bundle, &ask)
}

fn verdict(policy: &str, ask: &Asked) -> Verdict {
    asked(&bundle(policy), ask, judge)
}

fn refusal(policy: &str, ask: &Asked) -> Refusal {
    match verdict(policy, ask) {
        Verdict::Refused(refusal) => refusal,
        other => panic!("granted: {other:?}"),
    }
}

fn granted(policy: &str, ask: &Asked) -> (Allowed, Vec<Step>) {
    match verdict(policy, ask) {
        Verdict::Refused(refusal) => panic!("{refusal}"),
        Verdict::Automatic(allowed) => (allowed, Vec::new()),
        Verdict::Steps(allowed, steps) => (allowed, steps),
    }
}

fn names(of: &BTreeSet<PersonName>) -> Vec<&str> {
    of.iter().map(PersonName::as_str).collect()
}

#[test]
fn nobody_has_anything_without_a_rule() {
    assert_eq!(refusal("", &ALICE).code, Code::NO_RULE);
    let other = rule("r", "person:bob", "*", "auto = true");
    assert_eq!(refusal(&other, &ALICE).code, Code::NO_RULE);
    assert_eq!(refusal(&other, &Asked { who: "bob", role: "nosuch", ..ALICE }).code, Code::NO_ROLE);
    assert_eq!(refusal(&other, &Asked { who: "bob", for_s: Some(0), ..ALICE }).code, Code::BAD_DURATION);
}

#[test]
fn the_strictest_of_each_thing_wins() {
    let policy = [
        rule("a", "group:backend", "*", "max = \"8h\"\nanswer_within = \"1h\"\ncredential = \"10m\"")
            + &step("owner", 1, "group:dba"),
        rule("b", "person:alice", "deploy", "max = \"2h\"\nclaim_within = \"5m\"\nreason = { min_chars = 5 }")
            + &step("peer", 1, "group:backend")
            + &step("owner", 2, "group:backend"),
        rule("c", "kind:person", "deploy", "auto = true\nmax = \"3h\""),
    ]
    .concat();
    let (allowed, steps) = granted(&policy, &Asked { reason: Some("hotfix"), ..ALICE });
    assert_eq!(allowed.rules.iter().map(RuleId::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!((allowed.for_s, allowed.max_s), (3600, 7200));
    assert_eq!((allowed.answer_within_s, allowed.claim_within_s, allowed.credential_s), (3600, 300, Some(600)));
    // `owner` alone would come first by name, but b puts `peer` before it.
    assert_eq!(steps.iter().map(|s| (s.name.as_str(), s.need)).collect::<Vec<_>>(), [("peer", 1), ("owner", 2)]);
    assert_eq!(names(&steps[0].eligible), ["bob", "carol"]);
    assert_eq!(names(&steps[1].eligible), ["carol"]);
    assert_eq!(refusal(&policy, &ALICE).code, Code::NEEDS_REASON);
}

#[test]
fn nobody_decides_on_their_own_or_their_agents_access() {
    let policy =
        rule("r", "group:backend", "*", "") + &step("peer", 1, "group:backend") + &step("owner", 1, "kind:person");
    let (_, steps) = granted(&policy, &ALICE);
    assert_eq!(names(&steps[0].eligible), ["bob", "carol"]);
    assert_eq!(names(&steps[1].eligible), ["bob", "carol", "dave"]);
    for who in ["helper", "scribe", "bot"] {
        let (_, steps) = granted(&policy, &Asked { who, ..ALICE });
        let all: Vec<&str> = steps.iter().flat_map(|step| names(&step.eligible)).collect();
        assert_eq!(all.contains(&"alice"), who == "bot", "{who}: {all:?}");
        assert!(!all.iter().any(|name| ["bot", "helper", "scribe"].contains(name)), "{who}: {all:?}");
    }
    let (_, steps) = granted(&policy, &Asked { disabled: &["bob"], ..ALICE });
    assert_eq!(names(&steps[0].eligible), ["carol"]);
    assert_eq!(refusal(&policy, &Asked { disabled: &["alice"], ..ALICE }).code, Code::DISABLED);
    assert_eq!(refusal(&policy, &Asked { who: "helper", disabled: &["alice"], ..ALICE }).code, Code::DISABLED);
}

#[test]
fn only_what_an_override_names_is_relaxed() {
    let strict = rule("strict", "group:backend", "*", "max = \"1h\"") + &step("peer", 1, "group:backend");
    let other = rule("other", "group:backend", "*", "max = \"30m\"") + &step("owner", 1, "group:dba");
    let lax = rule("lax", "person:alice", "*", "max = \"4h\"\nauto = true\noverrides = [\"strict\"]");
    let (allowed, steps) = granted(&format!("{strict}{lax}"), &ALICE);
    assert_eq!((allowed.max_s, steps.len()), (4 * 3600, 0));
    let (allowed, steps) = granted(&format!("{strict}{lax}"), &Asked { who: "bob", ..ALICE });
    assert_eq!((allowed.max_s, steps.len()), (3600, 1), "it relaxes for nobody whom it does not name");
    let (allowed, steps) = granted(&format!("{strict}{lax}{other}"), &ALICE);
    assert_eq!((allowed.max_s, steps[0].name.as_str()), (1800, "owner"));
    // Who relaxes the relaxing rule brings back what that one had relaxed.
    let top = rule("top", "group:backend", "*", "max = \"2h\"\nauto = true\noverrides = [\"lax\"]");
    let (allowed, steps) = granted(&format!("{strict}{lax}{top}"), &ALICE);
    assert_eq!((allowed.max_s, steps.len()), (3600, 1));
    // A relaxing rule whose condition does not hold relaxes nothing.
    let night =
        rule("lax", "person:alice", "*", "max = \"4h\"\nauto = true\noverrides = [\"strict\"]\nwhen = 'now.hour < 6'");
    assert_eq!(granted(&format!("{strict}{night}"), &ALICE).1.len(), 1);
}

#[test]
fn a_condition_that_cannot_be_evaluated_refuses() {
    let good = rule("good", "group:backend", "*", "auto = true");
    for more in ["when = 'target.labels.team == \"x\"'\nauto = true", "auto = 'target.labels.team == \"x\"'"] {
        for policy in
            [good.clone() + &rule("bad", "group:backend", "*", more), rule("bad", "group:backend", "*", more) + &good]
        {
            let refusal = refusal(&policy, &ALICE);
            assert_eq!((refusal.code, refusal.rule.unwrap().as_str()), (Code::CONDITION_FAILED, "bad"));
        }
        // Nobody else is held up by it.
        let others = good.clone() + &rule("bad", "person:dave", "*", more);
        assert!(matches!(verdict(&others, &ALICE), Verdict::Automatic(_)));
    }
    let forbid = good + "[[forbid]]\nid = \"bad\"\nwhen = 'target.labels.team == \"x\"'\n";
    assert_eq!(refusal(&forbid, &ALICE).code, Code::CONDITION_FAILED);
}

#[test]
fn automatic_needs_every_condition() {
    let fresh = rule("fresh", "group:backend", "*", "max = \"2h\"\nauto = 'requester.signed_in_s < 600'");
    assert!(matches!(verdict(&fresh, &ALICE), Verdict::Automatic(_)));
    for signed_in_s in [Some(600), Some(u64::MAX), None] {
        let stale = refusal(&fresh, &Asked { signed_in_s, ..ALICE });
        assert_eq!((stale.code, stale.rule.unwrap().as_str()), (Code::NO_RULE, "fresh"));
        assert!(stale.hint.unwrap().contains("auth login"));
        // The rule's limits stay, whoever else is lax.
        let both = fresh.clone() + &rule("lax", "group:backend", "*", "max = \"8h\"\nauto = true");
        assert_eq!(refusal(&both, &Asked { signed_in_s, ..ALICE }).code, Code::NO_RULE);
        let asks =
            fresh.clone() + &rule("asks", "group:backend", "*", "max = \"8h\"") + &step("peer", 1, "group:backend");
        let (allowed, steps) = granted(&asks, &Asked { signed_in_s, ..ALICE });
        assert_eq!((allowed.max_s, steps.len()), (7200, 1));
    }
}

#[test]
fn durations_are_bounded_and_told() {
    let policy = rule("r", "group:backend", "*", "max = \"20m\"\nauto = true");
    assert_eq!(granted(&policy, &ALICE).0.for_s, 1200);
    assert_eq!(granted(&policy, &Asked { for_s: Some(60), ..ALICE }).0.for_s, 60);
    for for_s in [1201, u64::MAX] {
        let refusal = refusal(&policy, &Asked { for_s: Some(for_s), ..ALICE });
        assert_eq!((refusal.code, refusal.rule.unwrap().as_str()), (Code::TOO_LONG, "r"));
        assert_eq!(refusal.hint.unwrap(), "jit-broker request web-07 --role deploy --for 20m");
    }
    // Conditions see the duration that is granted: shortened to 20m, the long rule does not count any more.
    let long = policy.clone()
        + &rule("long", "group:backend", "*", "when = 'for_s > 1800'")
        + &step("peer", 1, "group:backend");
    assert!(matches!(verdict(&long, &ALICE), Verdict::Automatic(allowed) if allowed.for_s == 1200));
}

#[test]
fn reasons_and_tickets_are_required_or_told() {
    let policy = rule(
        "r",
        "group:backend",
        "*",
        "auto = true\nreason = { min_chars = 12 }\nticket = { pattern = \"[A-Z]+-[0-9]+\" }",
    );
    let good = Asked { reason: Some("hotfix for OPS-1"), ticket: Some("OPS-1"), ..ALICE };
    granted(&policy, &good);
    for reason in [None, Some("short"), Some("  x          "), Some("")] {
        assert_eq!(refusal(&policy, &Asked { reason, ..good.clone() }).code, Code::NEEDS_REASON, "{reason:?}");
    }
    for ticket in [None, Some(""), Some("ops-1"), Some("OPS-1 x"), Some("OPS-1\n")] {
        assert_eq!(refusal(&policy, &Asked { ticket, ..good.clone() }).code, Code::NEEDS_TICKET, "{ticket:?}");
    }
    let (verdict, needs) = asked(&bundle(&policy), &ALICE, preview);
    assert!(matches!(verdict, Verdict::Automatic(_)));
    assert_eq!(needs, Requirements { min_reason_chars: Some(12), ticket_pattern: Some("[A-Z]+-[0-9]+".into()) });
    let (verdict, _) = asked(&bundle(&policy), &Asked { ticket: Some("x"), ..ALICE }, preview);
    assert!(matches!(verdict, Verdict::Refused(refusal) if refusal.code == Code::NEEDS_TICKET));
}

#[test]
fn of_several_reasons_to_refuse_the_same_one_is_named() {
    let forbid = |id: &str| format!("[[forbid]]\nid = \"{id}\"\nroles = [\"deploy\"]\n");
    let reason =
        |id: &str, min: u32| rule(id, "group:backend", "*", &format!("auto = true\nreason = {{ min_chars = {min} }}"));
    for policy in [forbid("a") + &forbid("b"), forbid("b") + &forbid("a")] {
        assert_eq!(refusal(&policy, &ALICE).rule.unwrap().as_str(), "a");
    }
    for policy in [reason("a", 5) + &reason("b", 20), reason("b", 20) + &reason("a", 5)] {
        assert_eq!(refusal(&policy, &Asked { reason: Some("ten chars."), ..ALICE }).rule.unwrap().as_str(), "b");
        granted(&policy, &Asked { reason: Some("twenty characters ok"), ..ALICE });
    }
}

#[test]
fn a_freeze_follows_the_wall_clock_of_its_zone() {
    let policy = rule("r", "group:backend", "*", "auto = true")
        + "[[forbid]]\nid = \"friday\"\nroles = [\"deploy\"]\nwhen = 'now.weekday == \"fri\" && now.hour >= 16'\n";
    for (at, frozen) in [
        ("2026-11-27T15:59:59+01:00", false),
        ("2026-11-27T16:00:00+01:00", true),
        ("2026-11-27T22:59:59Z", true),
        ("2026-11-27T23:00:00Z", false),
        // Summer time: 16:00 in Berlin is 14:00 in UTC.
        ("2026-07-03T13:59:59Z", false),
        ("2026-07-03T14:00:00Z", true),
    ] {
        let verdict = verdict(&policy, &Asked { at, ..ALICE });
        assert_eq!(matches!(&verdict, Verdict::Refused(r) if r.code == Code::FORBIDDEN), frozen, "{at}: {verdict:?}");
        assert_eq!(matches!(verdict, Verdict::Automatic(_)), !frozen, "{at}");
    }
    assert!(matches!(
        verdict(&policy, &Asked { role: "look", at: "2026-11-27T16:00:00+01:00", ..ALICE }),
        Verdict::Automatic(_)
    ));
}

#[test]
fn the_night_that_has_an_hour_twice_or_not_at_all() {
    let policy = rule("r", "group:backend", "*", "auto = true\nwhen = 'now.hour == 2 && now.minute == 30'");
    for (at, holds) in [
        ("2026-10-25T00:30:00Z", true),
        ("2026-10-25T01:30:00Z", true),
        ("2026-10-25T02:30:00Z", false),
        ("2026-03-29T00:30:00Z", false),
        ("2026-03-29T01:30:00Z", false),
    ] {
        assert_eq!(matches!(verdict(&policy, &Asked { at, ..ALICE }), Verdict::Automatic(_)), holds, "{at}");
    }
}

#[test]
fn the_nearest_is_the_same_role_then_a_narrower_one() {
    let shorter = rule("short", "group:backend", "deploy", "max = \"10m\"") + &step("peer", 1, "group:dba");
    let look = rule("look", "group:backend", "look", "max = \"2h\"") + &step("peer", 1, "group:dba");
    let admin = rule("admin", "group:backend", "admin", "auto = true");
    let ask = Asked { for_s: Some(5400), ..ALICE };
    let near = |policy: &str| asked(&bundle(policy), &ask, nearest).map(|n| (n.role.to_string(), n.for_s, n.verdict));
    assert_eq!(near(&format!("{shorter}{look}{admin}")), Some(("deploy".into(), 600, "ask")));
    assert_eq!(near(&format!("{look}{admin}")), Some(("look".into(), 5400, "ask")));
    assert_eq!(near(&admin), Some(("admin".into(), 5400, "automatic")));
    assert_eq!(near(""), None);
    // What nobody could ever approve is not offered.
    assert_eq!(near(&(rule("r", "group:backend", "look", "") + &step("peer", 2, "person:carol"))), None);
    assert_eq!(refusal(&look, &ALICE).hint.unwrap(), "jit-broker request web-07 --role look --for 1h");
}

#[test]
fn a_star_never_means_the_bundle_itself() {
    let policy = "[[rule]]\nid = \"all\"\nwho = [\"group:backend\"]\ntargets = { name = \"*\" }\nroles = [\"*\"]\nrecord = \"off\"\nauto = true\n";
    let named = "[[rule]]\nid = \"own\"\nwho = [\"group:backend\"]\ntargets = { name = \"broker/policy\" }\nroles = [\"apply\"]\n";
    for (policy, governed) in [
        (policy.to_owned(), false),
        (named.to_owned() + &step("peer", 1, "group:dba") + "[[forbid]]\nid = \"freeze\"\n", true),
    ] {
        let bundle = bundle(&policy);
        assert_eq!(bundle.policy.governs_itself(), governed);
        let ask = Ask {
            person: &bundle.people["alice"],
            target: &bundle.targets["broker/policy"],
            role: &RoleName::new("apply").unwrap(),
            for_s: None,
            reason: None,
            ticket: None,
            signed_in_s: Some(1),
            disabled: &BTreeSet::new(),
            now: 1_800_000_000,
        };
        let verdict = judge(&bundle, &ask);
        assert_eq!(matches!(verdict, Verdict::Steps(..)), governed, "{verdict:?}");
        assert_eq!(matches!(verdict, Verdict::Refused(_)), !governed, "{verdict:?}");
    }
}

/// One made-up rule: who, max in minutes, consent, reason, condition.
type Spec = (bool, u8, u8, bool, u8);

fn written(place: usize, spec: &Spec, overrides: Option<usize>) -> String {
    let (group, max, consent, reason, when) = *spec;
    let mut more = format!("max = \"{}m\"\n", 10 * (u32::from(max) + 1));
    if reason {
        more += &format!("reason = {{ min_chars = {} }}\n", max + 1);
    }
    more += ["", "when = 'for_s <= 900'\n", "when = 'now.hour > 20'\n"][usize::from(when)];
    if let Some(other) = overrides {
        more += &format!("overrides = [\"r{other}\"]\n");
    }
    more += &match consent {
        0 => "auto = true\n".to_owned(),
        1 => "auto = 'requester.signed_in_s < 30'\n".to_owned(),
        2 => step("peer", 1, "group:backend"),
        3 => step("owner", 2, "group:dba"),
        _ => step("peer", 2, "kind:person") + &step("owner", 1, "kind:person"),
    };
    rule(&format!("r{place}"), if group { "group:backend" } else { "person:alice" }, "deploy", &more)
}

fn spec() -> impl Strategy<Value = Spec> {
    (any::<bool>(), 0u8..9, 0u8..5, any::<bool>(), 0u8..3)
}

/// What a verdict demands, so that more of it is stricter: longest duration, needs and eligible people of each step.
fn demands(verdict: &Verdict) -> Option<(u64, BTreeMap<&StepName, &Step>)> {
    match verdict {
        Verdict::Refused(_) => None,
        Verdict::Automatic(allowed) => Some((allowed.max_s, BTreeMap::new())),
        Verdict::Steps(allowed, steps) => Some((allowed.max_s, steps.iter().map(|step| (&step.name, step)).collect())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_order_of_the_rules_says_nothing(
        (specs, order) in prop::collection::vec((spec(), prop::option::of(0usize..6)), 1..6).prop_flat_map(|specs| {
            let order: Vec<usize> = (0..specs.len()).collect();
            (Just(specs), Just(order).prop_shuffle())
        }),
        for_s in prop::option::of(60u64..6000),
        reason in prop::option::of(Just("because of it")),
    ) {
        // Only later ones override, so that there is no circle.
        let rules: Vec<String> = specs
            .iter()
            .enumerate()
            .map(|(place, (spec, over))| written(place, spec, over.filter(|over| *over < place)))
            .collect();
        let shuffled: String = order.iter().map(|place| rules[*place].as_str()).collect();
        let ask = Asked { for_s, reason, ..ALICE };
        prop_assert_eq!(verdict(&rules.concat(), &ask), verdict(&shuffled, &ask));
    }

    #[test]
    fn one_more_rule_never_makes_it_laxer(
        specs in prop::collection::vec(spec(), 1..5),
        more in spec(),
        for_s in 60u64..6000,
    ) {
        let rules: String = specs.iter().enumerate().map(|(place, spec)| written(place, spec, None)).collect();
        let ask = Asked { for_s: Some(for_s), reason: Some("because of it"), ..ALICE };
        let before = verdict(&rules, &ask);
        let after = verdict(&(rules + &written(99, &more, None)), &ask);
        if let (Some((max_before, steps_before)), Some((max_after, steps_after))) = (demands(&before), demands(&after)) {
            prop_assert!(max_after <= max_before);
            for (name, step) in steps_before {
                let now = steps_after.get(name);
                prop_assert!(now.is_some_and(|now| now.need >= step.need && now.eligible.is_subset(&step.eligible)), "{name}");
            }
        }
    }
}
