//! The `[[test]]`s that a bundle carries: what it expects of itself.

use std::collections::BTreeSet;

use crate::domain::bundle::Bundle;
use crate::domain::judge::{Ask, Verdict, judge};
use crate::domain::names::{PersonName, RoleName, StepName, TargetName};
use crate::domain::person::{Person, PersonKind};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::span::show_span;

/// One `[[test]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyTest {
    /// The file it stands in.
    pub file: String,
    /// The line where it begins, from 1.
    pub line: usize,
    /// Who asks; somebody unknown is a person without groups.
    pub person: PersonName,
    /// For which target.
    pub target: TargetName,
    /// In which role.
    pub role: RoleName,
    /// For how long, in seconds.
    pub for_s: Option<u64>,
    /// Why.
    pub reason: Option<String>,
    /// The ticket.
    pub ticket: Option<String>,
    /// Seconds since the last sign-in.
    pub signed_in_s: u64,
    /// When, in Unix seconds; `None` is when the test is run.
    pub at: Option<i64>,
    /// What must come out.
    pub expected: Expected,
}

/// What a test expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// A refusal.
    Refused,
    /// Granted at once, with this longest duration in seconds where one is named.
    Automatic(Option<u64>),
    /// People are asked in exactly these steps, with this longest duration in seconds where one is named.
    Steps(Vec<StepName>, Option<u64>),
}

/// A test whose expectation was not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestFailure {
    /// The file it stands in.
    pub file: String,
    /// The line where it begins, from 1.
    pub line: usize,
    /// Who asked for what.
    pub asked: String,
    /// What was expected.
    pub expected: String,
    /// What came out.
    pub got: String,
}

impl std::fmt::Display for TestFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}: expected {}, got {}", self.file, self.line, self.asked, self.expected, self.got)
    }
}

/// Runs every test of a bundle at `now` (Unix seconds), in the order of the files; none left is success.
pub fn run_tests(bundle: &Bundle, now: i64) -> Vec<TestFailure> {
    bundle.policy.tests.iter().filter_map(|test| run(bundle, test, now)).collect()
}

fn run(bundle: &Bundle, test: &PolicyTest, now: i64) -> Option<TestFailure> {
    let verdict = verdict(bundle, test, now);
    let met = match (&test.expected, &verdict) {
        (Expected::Refused, Verdict::Refused(_)) => true,
        (Expected::Automatic(max_s), Verdict::Automatic(allowed)) => max_s.is_none_or(|max_s| max_s == allowed.max_s),
        (Expected::Steps(names, max_s), Verdict::Steps(allowed, steps)) => {
            names.iter().eq(steps.iter().map(|step| &step.name)) && max_s.is_none_or(|max_s| max_s == allowed.max_s)
        }
        _ => false,
    };
    (!met).then(|| TestFailure {
        file: test.file.clone(),
        line: test.line,
        asked: format!("{} asks for {} on {}", test.person, test.role, test.target),
        expected: shown_expected(&test.expected),
        got: shown_verdict(&verdict),
    })
}

fn verdict(bundle: &Bundle, test: &PolicyTest, now: i64) -> Verdict {
    let stranger =
        Person { name: test.person.clone(), kind: PersonKind::Person, groups: BTreeSet::new(), keys: Vec::new() };
    let Some(target) = bundle.targets.get(&test.target) else {
        return Verdict::Refused(Refusal::new(Code::MISSING, format!("There is no target {}.", test.target)));
    };
    judge(
        bundle,
        &Ask {
            person: bundle.people.get(&test.person).unwrap_or(&stranger),
            target,
            role: &test.role,
            for_s: test.for_s,
            reason: test.reason.as_deref(),
            ticket: test.ticket.as_deref(),
            signed_in_s: Some(test.signed_in_s),
            disabled: &BTreeSet::new(),
            now: test.at.unwrap_or(now),
        },
    )
}

fn shown_expected(expected: &Expected) -> String {
    match expected {
        Expected::Refused => "a refusal".to_owned(),
        Expected::Automatic(max_s) => format!("automatic{}", shown_max(*max_s)),
        Expected::Steps(names, max_s) => {
            format!("steps {}{}", names.iter().map(StepName::as_str).collect::<Vec<_>>().join(", "), shown_max(*max_s))
        }
    }
}

fn shown_verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Refused(refusal) => format!("refused ({} {})", refusal.code, refusal.message.trim_end_matches('.')),
        Verdict::Automatic(allowed) => format!("automatic{}", shown_max(Some(allowed.max_s))),
        Verdict::Steps(allowed, steps) => {
            let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
            format!("steps {}{}", names.join(", "), shown_max(Some(allowed.max_s)))
        }
    }
}

fn shown_max(max_s: Option<u64>) -> String {
    max_s.map(|max_s| format!(", at most {}", show_span(max_s))).unwrap_or_default()
}
