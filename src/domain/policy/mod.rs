//! The rules of the adopted bundle, as values that were checked when the bundle was read.
//!
//! True here: every list that could mean "everybody" or "everything" when it is empty is not empty; every rule has steps or is automatic.
//! Never here: reading files ([`super::bundle`]), judging a request ([`super::judge`]).
//! Start with [`Rule`]; a bundle's own tests are run by [`run_tests`].

mod own_tests;
mod reach;
mod select;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::cel::Condition;
use super::names::{PersonName, RuleId, StepName};
use super::person::Who;

pub use own_tests::{Expected, PolicyTest, TestFailure, run_tests};
pub(super) use reach::Reach;
pub use select::{Glob, Pattern, PatternError, Roles, Selector};

/// The longest that is granted when nobody says for how long, in seconds.
pub const UNASKED_S: u64 = 3600;

/// Whether a session must be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// Not recorded.
    Off,
    /// Recorded, or cut.
    Strict,
}

/// What an approval must be signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touch {
    /// Any key of the approver.
    Any,
    /// A security key that was touched (`presence = true`).
    Required,
}

/// Whether a gateway may ask for somebody who has no client (decisions.md 29).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attested {
    /// Only signed requests.
    No,
    /// Requests that a gateway attests, too.
    Yes,
}

/// What applies where a rule says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// How long people have to answer, in seconds.
    pub answer_within_s: u64,
    /// How long the first credential may be waited for, in seconds.
    pub claim_within_s: u64,
    /// The longest duration, in seconds.
    pub max_s: u64,
    /// How long one credential lives, in seconds; `None` is as long as the window.
    pub credential_s: Option<u64>,
    /// Whether sessions are recorded.
    pub record: Record,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            answer_within_s: 8 * 3600,
            claim_within_s: 30 * 60,
            max_s: 4 * 3600,
            credential_s: None,
            record: Record::Strict,
        }
    }
}

/// Who must agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consent {
    /// Nobody.
    Automatic,
    /// Nobody, if the condition holds; otherwise the request is refused.
    AutomaticIf(Condition),
    /// People, in this order.
    Steps(Vec<StepRule>),
}

/// A step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRule {
    /// Its name; steps of one name in several rules are one step.
    pub name: StepName,
    /// How many different people must agree.
    pub need: u32,
    /// Who is asked.
    pub from: Vec<Who>,
    /// What they sign with.
    pub touch: Touch,
    /// The people that `from` names; never a machine or an agent.
    pub members: Arc<BTreeSet<PersonName>>,
}

/// Who may have what, for how long, and who must agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub id: RuleId,
    /// Who may ask.
    pub who: Vec<Who>,
    /// For which targets.
    pub targets: Selector,
    /// In which roles.
    pub roles: Roles,
    /// The rule counts only while this holds.
    pub when: Option<Condition>,
    /// The rules that it relaxes.
    pub overrides: BTreeSet<RuleId>,
    /// The longest duration, in seconds.
    pub max_s: u64,
    /// How long people have to answer, in seconds.
    pub answer_within_s: u64,
    /// How long the first credential may be waited for, in seconds.
    pub claim_within_s: u64,
    /// How long one credential lives, in seconds; `None` is as long as the window.
    pub credential_s: Option<u64>,
    /// Whether sessions are recorded.
    pub record: Record,
    /// Whether a gateway may ask.
    pub attested: Attested,
    /// The fewest characters that a reason has; `None` needs no reason.
    pub min_reason_chars: Option<u32>,
    /// What a ticket looks like; `None` needs no ticket.
    pub ticket: Option<Pattern>,
    /// Who must agree.
    pub consent: Consent,
}

/// What is refused, whatever the rules say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forbid {
    /// Its name.
    pub id: RuleId,
    /// To whom; `None` is everybody.
    pub who: Option<Vec<Who>>,
    /// For which targets; `None` is every target but `broker/policy`.
    pub targets: Option<Selector>,
    /// In which roles.
    pub roles: Roles,
    /// Only while this holds; `None` is always.
    pub when: Option<Condition>,
}

impl Forbid {
    /// True when it is about this target; `broker/policy` must be named.
    pub fn selects(&self, target: &super::target::Target) -> bool {
        match &self.targets {
            Some(selector) => selector.selects(target),
            None => target.kind != super::target::TargetKind::Broker,
        }
    }
}

/// The adopted rules.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The time zone's name, as in the IANA database.
    pub timezone: String,
    /// What applies where a rule says nothing.
    pub defaults: Defaults,
    /// What may be granted.
    pub rules: Vec<Rule>,
    /// What is refused.
    pub forbids: Vec<Forbid>,
    /// What the bundle expects of itself.
    pub tests: Vec<PolicyTest>,
    zone: TimeZone,
    reach: Reach,
}

impl Policy {
    /// Puts checked parts together.
    pub(super) fn new(
        timezone: String,
        zone: TimeZone,
        defaults: Defaults,
        (rules, forbids, tests): (Vec<Rule>, Vec<Forbid>, Vec<PolicyTest>),
    ) -> Self {
        let reach = Reach::of(&rules, &forbids);
        Self { timezone, defaults, rules, forbids, tests, zone, reach }
    }

    /// The date and time of day in the policy's zone; `None` for an instant (Unix seconds) outside the years that are known.
    pub fn local(&self, at: i64) -> Option<DateTime> {
        Some(self.zone.to_datetime(jiff::Timestamp::from_second(at).ok()?))
    }

    /// True when a rule says who may change the bundle; otherwise any administrator may, alone (decisions.md 8).
    pub fn governs_itself(&self) -> bool {
        self.rules.iter().any(|rule| rule.targets.selects_broker() && rule.roles.holds(super::bundle::APPLY))
    }

    /// The rule of an id.
    pub fn rule(&self, id: &RuleId) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.id == *id)
    }

    pub(super) fn reach(&self) -> &Reach {
        &self.reach
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::new("UTC".to_owned(), TimeZone::UTC, Defaults::default(), (Vec::new(), Vec::new(), Vec::new()))
    }
}
