//! What a new bundle changes: line by line, and who gains and who loses access by it.

use std::collections::{BTreeMap, BTreeSet};

use super::Bundle;
use crate::domain::judge::{Ask, Step, Verdict, most};
use crate::domain::names::{PersonName, RoleName, RuleId, TargetName};
use crate::domain::person::{Person, Who};
use crate::domain::policy::{Consent, Forbid, Roles, Rule, Selector, Touch};
use crate::domain::span::show_span;
use crate::domain::target::{HostIdentity, Target};

/// The most combinations of person, target and role that are compared.
const MAX_COMBINATIONS: usize = 20_000;

/// A rule that relaxes another one, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relaxation {
    /// The rule that overrides.
    pub rule: RuleId,
    /// The rule that it relaxes.
    pub relaxes: RuleId,
    /// The people whom both name.
    pub people: Vec<PersonName>,
}

impl std::fmt::Display for Relaxation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let people: Vec<&str> = self.people.iter().map(PersonName::as_str).collect();
        let people = if people.is_empty() { "nobody".to_owned() } else { people.join(", ") };
        write!(f, "{} relaxes {} for {people}", self.rule, self.relaxes)
    }
}

/// Lists every override with the people whom it relaxes, in the order of the rules.
pub fn relaxations(bundle: &Bundle) -> Vec<Relaxation> {
    let named = |rule: &Rule, person: &Person| rule.who.iter().any(|who| who.names(person));
    let mut list = Vec::new();
    for rule in &bundle.policy.rules {
        for relaxes in &rule.overrides {
            let other = bundle.policy.rule(relaxes);
            let both = |person: &&Person| named(rule, person) && other.is_some_and(|other| named(other, person));
            let people = bundle.people.values().filter(both).map(|person| person.name.clone()).collect();
            list.push(Relaxation { rule: rule.id.clone(), relaxes: relaxes.clone(), people });
        }
    }
    list
}

/// What changes between two bundles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// People, keys, groups, targets, rules: what is added, removed, changed.
    pub lines: Lines,
    /// Who can have more than before.
    pub gains: Vec<Access>,
    /// Who can have less than before.
    pub loses: Vec<Access>,
    /// Who can have as much as before, but from others.
    pub moves: Vec<Access>,
    /// How many combinations of person, target and role were not compared, because there are too many.
    pub not_compared: usize,
}

/// Short lines, each beginning with what it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    /// Only in the new bundle.
    pub added: Vec<String>,
    /// Only in the old bundle.
    pub removed: Vec<String>,
    /// In both, but different.
    pub changed: Vec<String>,
}

/// What somebody can have of a target at most, before and after; conditions are taken to be fulfilled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who.
    pub person: PersonName,
    /// On which target.
    pub target: TargetName,
    /// In which role.
    pub role: RoleName,
    /// `never`, or how: `automatic, at most 1h`, `ask peer, owner, at most 1h`.
    pub before: String,
    /// The same under the new bundle.
    pub after: String,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}: {} -> {}", self.person, self.target, self.role, self.before, self.after)
    }
}

impl Plan {
    /// True when nothing changes that is known to rules or people (comments and spaces may).
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares two bundles.
pub fn plan(old: &Bundle, new: &Bundle) -> Plan {
    let mut plan = Plan { lines: lines(old, new), ..Plan::default() };
    let people: BTreeMap<&PersonName, (Option<&Person>, Option<&Person>)> = both(&old.people, &new.people);
    let goals = goals(old, new);
    for (place, (name, target, role)) in
        people.keys().flat_map(|name| goals.iter().map(move |(target, role)| (*name, *target, *role))).enumerate()
    {
        if place >= MAX_COMBINATIONS {
            plan.not_compared = people.len().saturating_mul(goals.len()).saturating_sub(MAX_COMBINATIONS);
            break;
        }
        let before = Extent::of(old, name, target, role);
        let after = Extent::of(new, name, target, role);
        if before == after {
            continue;
        }
        let access = Access {
            person: name.clone(),
            target: target.clone(),
            role: role.clone(),
            before: before.to_string(),
            after: after.to_string(),
        };
        match before.amount().cmp(&after.amount()) {
            std::cmp::Ordering::Less => plan.gains.push(access),
            std::cmp::Ordering::Greater => plan.loses.push(access),
            std::cmp::Ordering::Equal => plan.moves.push(access),
        }
    }
    plan
}

fn goals<'b>(old: &'b Bundle, new: &'b Bundle) -> Vec<(&'b TargetName, &'b RoleName)> {
    let all: BTreeSet<_> = [old, new]
        .into_iter()
        .flat_map(|bundle| bundle.targets.values())
        .flat_map(|target| target.roles.keys().map(move |role| (&target.name, role)))
        .collect();
    all.into_iter().collect()
}

/// What somebody can have at most.
#[derive(PartialEq, Eq)]
enum Extent {
    Never,
    Ask(Vec<Step>, u64),
    Automatic(u64),
}

impl Extent {
    fn of(bundle: &Bundle, person: &PersonName, target: &TargetName, role: &RoleName) -> Self {
        let (Some(person), Some(target)) = (bundle.people.get(person), bundle.targets.get(target)) else {
            return Self::Never;
        };
        let disabled = BTreeSet::new();
        let ask = Ask {
            person,
            target,
            role,
            for_s: None,
            reason: None,
            ticket: None,
            signed_in_s: None,
            disabled: &disabled,
            now: 0,
        };
        match most(bundle, &ask) {
            Verdict::Refused(_) => Self::Never,
            Verdict::Automatic(allowed) => Self::Automatic(allowed.max_s),
            Verdict::Steps(allowed, steps) => Self::Ask(steps, allowed.max_s),
        }
    }

    /// How much it is: first how, then for how long.
    fn amount(&self) -> (u8, u64) {
        match self {
            Self::Never => (0, 0),
            Self::Ask(_, max_s) => (1, *max_s),
            Self::Automatic(max_s) => (2, *max_s),
        }
    }
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Automatic(max_s) => write!(f, "automatic, at most {}", show_span(*max_s)),
            Self::Ask(steps, max_s) => {
                let names: Vec<String> = steps
                    .iter()
                    .map(|step| format!("{} ({} of {})", step.name, step.need, step.from.join(", ")))
                    .collect();
                write!(f, "ask {}, at most {}", names.join(", "), show_span(*max_s))
            }
        }
    }
}

fn both<'m, K: Ord, V>(
    old: &'m BTreeMap<K, V>,
    new: &'m BTreeMap<K, V>,
) -> BTreeMap<&'m K, (Option<&'m V>, Option<&'m V>)> {
    old.keys().chain(new.keys()).map(|key| (key, (old.get(key), new.get(key)))).collect()
}

impl Lines {
    /// Notes what became of each thing of one sort; `differs` tells how two of one name differ, and nothing when they do not.
    fn compare<K: Ord + std::fmt::Display, V>(
        &mut self,
        sort: &str,
        old: &BTreeMap<K, V>,
        new: &BTreeMap<K, V>,
        differs: impl Fn(&V, &V) -> Option<String>,
    ) {
        for (name, pair) in both(old, new) {
            match pair {
                (None, Some(_)) => self.added.push(format!("{sort} {name}")),
                (Some(_), None) => self.removed.push(format!("{sort} {name}")),
                (Some(old), Some(new)) => {
                    self.changed.extend(differs(old, new).map(|how| format!("{sort} {name}: {how}")));
                }
                (None, None) => {}
            }
        }
    }
}

fn lines(old: &Bundle, new: &Bundle) -> Lines {
    let mut lines = Lines::default();
    lines.compare("person", &old.people, &new.people, |a, b| {
        (a.kind != b.kind).then(|| format!("{} -> {}", a.kind.word(), b.kind.word()))
    });
    let keys = |bundle: &Bundle| -> BTreeMap<String, ()> {
        bundle.keys().map(|(key, owner)| (format!("{} of {owner}", key.0.fingerprint()), ())).collect()
    };
    lines.compare("key", &keys(old), &keys(new), |(), ()| None);
    lines.compare("group", &old.groups, &new.groups, sets);
    let offices = |bundle: &Bundle| -> BTreeMap<String, ()> {
        let of = |office: &str, list: &[Who]| -> Vec<String> {
            list.iter().map(|who| format!("{office} {}", who)).collect()
        };
        let all = of("operator", &bundle.offices.operators).into_iter().chain(of("auditor", &bundle.offices.auditors));
        all.map(|line| (line, ())).collect()
    };
    lines.compare("office", &offices(old), &offices(new), |(), ()| None);
    lines.compare("target", &old.targets, &new.targets, target);
    let rules = |bundle: &Bundle| -> BTreeMap<RuleId, Rule> {
        bundle.policy.rules.iter().map(|rule| (rule.id.clone(), rule.clone())).collect()
    };
    lines.compare("rule", &rules(old), &rules(new), rule);
    let forbids = |bundle: &Bundle| -> BTreeMap<RuleId, Forbid> {
        bundle.policy.forbids.iter().map(|forbid| (forbid.id.clone(), forbid.clone())).collect()
    };
    lines.compare("forbid", &forbids(old), &forbids(new), forbid);
    if old.policy.timezone != new.policy.timezone {
        lines.changed.push(format!("timezone: {} -> {}", old.policy.timezone, new.policy.timezone));
    }
    lines
}

fn sets<T: Ord + std::fmt::Display>(old: &BTreeSet<T>, new: &BTreeSet<T>) -> Option<String> {
    let plus = new.difference(old).map(|item| format!("+{item}"));
    let minus = old.difference(new).map(|item| format!("-{item}"));
    let all: Vec<String> = plus.chain(minus).collect();
    (!all.is_empty()).then(|| all.join(" "))
}

/// Collects the fields in which two things of one name differ.
struct Differences(Vec<String>);

impl Differences {
    fn field<T: PartialEq>(&mut self, name: &str, old: &T, new: &T, shown: impl Fn(&T) -> String) {
        if old != new {
            self.0.push(format!("{name} {} -> {}", shown(old), shown(new)));
        }
    }

    fn told(self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.join("; "))
    }
}

fn target(old: &Target, new: &Target) -> Option<String> {
    let mut told = Differences(Vec::new());
    told.field("address", &old.address, &new.address, ToString::to_string);
    told.field("host", &old.host, &new.host, |host| match host {
        HostIdentity::Key(key) => key.0.fingerprint(),
        HostIdentity::BrokerCa => "@broker".to_owned(),
        HostIdentity::Tls => "tls".to_owned(),
    });
    told.field("database", &old.database, &new.database, |database| {
        database.as_ref().map_or_else(
            || "none".to_owned(),
            |d| {
                let ca = crate::domain::digest::Digest::of(d.tls_ca.as_bytes());
                format!("{} auth {} admin {} tls {} ca {ca}", d.name, d.auth.word(), d.admin, d.tls_name)
            },
        )
    });
    told.field("mode", &old.mode, &new.mode, |mode| format!("{mode:?}").to_lowercase());
    told.field("labels", &old.labels, &new.labels, |labels| {
        let all: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{{{}}}", all.join(", "))
    });
    for (name, pair) in both(&old.roles, &new.roles) {
        match pair {
            (None, Some(_)) => told.0.push(format!("+role {name}")),
            (Some(_), None) => told.0.push(format!("-role {name}")),
            (Some(old), Some(new)) => {
                let logins =
                    |logins: &Vec<_>| logins.iter().map(ToString::to_string).collect::<Vec<String>>().join(",");
                told.field(&format!("role {name} logins"), &old.logins, &new.logins, logins);
                told.field(&format!("role {name} allow"), &old.allow, &new.allow, |allow| {
                    format!("{allow:?}").to_lowercase()
                });
                told.field(&format!("role {name} gives"), &old.database, &new.database, |database| {
                    database.as_ref().map_or_else(|| "nothing".to_owned(), crate::domain::database::DatabaseRole::words)
                });
                told.field(&format!("role {name} narrower_than"), &old.narrower_than, &new.narrower_than, |roles| {
                    format!("{roles:?}")
                });
            }
            (None, None) => {}
        }
    }
    told.told()
}

fn rule(old: &Rule, new: &Rule) -> Option<String> {
    let mut told = Differences(Vec::new());
    let condition = |when: &Option<crate::domain::cel::Condition>| {
        when.as_ref().map_or_else(|| "always".to_owned(), |when| when.source().to_owned())
    };
    told.field("who", &old.who, &new.who, |who| shown_list(who));
    told.field("targets", &old.targets, &new.targets, shown_selector);
    told.field("roles", &old.roles, &new.roles, shown_roles);
    told.field("when", &old.when, &new.when, condition);
    told.field("overrides", &old.overrides, &new.overrides, |rules| format!("{rules:?}"));
    told.field("max", &old.max_s, &new.max_s, |s| show_span(*s));
    told.field("answer_within", &old.answer_within_s, &new.answer_within_s, |s| show_span(*s));
    told.field("claim_within", &old.claim_within_s, &new.claim_within_s, |s| show_span(*s));
    told.field("credential", &old.credential_s, &new.credential_s, |s| {
        s.map_or_else(|| "window".to_owned(), show_span)
    });
    told.field("record", &old.record, &new.record, |record| format!("{record:?}").to_lowercase());
    told.field("attested", &old.attested, &new.attested, |attested| format!("{attested:?}").to_lowercase());
    told.field("reason", &old.min_reason_chars, &new.min_reason_chars, |min| {
        min.map_or_else(|| "none".to_owned(), |min| format!("{min} characters"))
    });
    told.field("ticket", &old.ticket, &new.ticket, |ticket| {
        ticket.as_ref().map_or_else(|| "none".to_owned(), |ticket| ticket.source().to_owned())
    });
    let consent = |rule: &Rule| match &rule.consent {
        Consent::Automatic => "auto".to_owned(),
        Consent::AutomaticIf(condition) => format!("auto if {}", condition.source()),
        Consent::Steps(steps) => {
            let one = |touch: Touch| if touch == Touch::Required { " with a touch" } else { "" };
            let all: Vec<String> = steps
                .iter()
                .map(|step| format!("{} ({} of {}{})", step.name, step.need, shown_list(&step.from), one(step.touch)))
                .collect();
            all.join(", ")
        }
    };
    // Compared as they are written: who is in a group is told at the group.
    told.field("asks", &consent(old), &consent(new), String::clone);
    told.told()
}

fn forbid(old: &Forbid, new: &Forbid) -> Option<String> {
    let mut told = Differences(Vec::new());
    told.field("who", &old.who, &new.who, |who| {
        who.as_ref().map_or_else(|| "everybody".to_owned(), |who| shown_list(who))
    });
    told.field("targets", &old.targets, &new.targets, |targets| {
        targets.as_ref().map_or_else(|| "every target".to_owned(), shown_selector)
    });
    told.field("roles", &old.roles, &new.roles, shown_roles);
    told.field("when", &old.when, &new.when, |when| {
        when.as_ref().map_or_else(|| "always".to_owned(), |when| when.source().to_owned())
    });
    told.told()
}

fn shown_list(who: &[Who]) -> String {
    who.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn shown_selector(selector: &Selector) -> String {
    let name = selector.name.as_ref().map(|name| format!("name={}", name.as_str()));
    let kind = selector.kind.map(|kind| format!("kind={}", kind.word()));
    let labels = selector.labels.iter().map(|(key, value)| format!("{key}={value}"));
    name.into_iter().chain(kind).chain(labels).collect::<Vec<_>>().join(" ")
}

fn shown_roles(roles: &Roles) -> String {
    match roles {
        Roles::Any => "*".to_owned(),
        Roles::Named(names) => names.iter().map(RoleName::as_str).collect::<Vec<_>>().join(", "),
    }
}
