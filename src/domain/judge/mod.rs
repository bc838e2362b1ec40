//! What policy says of an ask.
//!
//! True here: the answer depends on the bundle and the ask alone, never on the order in which rules are written; of several matching
//! rules the strictest wins (decisions.md 5–8, 24); what cannot be evaluated is refused.
//! Never here: state of requests and grants, approvals ([`super::decide`]).
//! Start with [`judge`].

mod matching;
mod merge;
mod nearest;
mod rules;

use std::collections::BTreeSet;

use super::bundle::Bundle;
use super::names::{PersonName, RoleName, RuleId, StepName};
use super::person::Person;
use super::refusal::Refusal;
use super::target::Target;

pub use super::policy::Touch;
pub use matching::matchable;
pub(in crate::domain) use merge::{in_order, steps_of};
pub use nearest::{Nearest, nearest};

/// Who asks for what, and what is known of them.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Who asks.
    pub person: &'a Person,
    /// For which target.
    pub target: &'a Target,
    /// In which role.
    pub role: &'a RoleName,
    /// For how long, in seconds; `None` is one hour, or less where policy allows less.
    pub for_s: Option<u64>,
    /// Why.
    pub reason: Option<&'a str>,
    /// The ticket.
    pub ticket: Option<&'a str>,
    /// Seconds since their last signed sign-in; `None` is never.
    pub signed_in_s: Option<u64>,
    /// Everybody who is disabled.
    pub disabled: &'a BTreeSet<PersonName>,
    /// The moment of judgement, in Unix seconds.
    pub now: i64,
}

/// What policy says.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No.
    Refused(Refusal),
    /// Yes, at once.
    Automatic(Allowed),
    /// Yes, when people agree in these steps, one after the other.
    Steps(Allowed, Vec<Step>),
}

/// What may be granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// The rules that were combined, by name.
    pub rules: Vec<RuleId>,
    /// For how long it would be granted, in seconds.
    pub for_s: u64,
    /// The longest that could be asked for, in seconds.
    pub max_s: u64,
    /// How long people have to answer, in seconds.
    pub answer_within_s: u64,
    /// How long the first credential may be waited for, in seconds.
    pub claim_within_s: u64,
    /// How long one credential lives, in seconds; `None` is as long as the window.
    pub credential_s: Option<u64>,
    /// Every rule lets a gateway ask for somebody who has no client.
    pub attested: bool,
}

/// People who must agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub name: StepName,
    /// How many different people.
    pub need: u32,
    /// Who is asked, as the rules write it.
    pub from: Vec<String>,
    /// Who that is at this moment; never the requester, an agent's owner, a machine, an agent, or somebody disabled.
    pub eligible: BTreeSet<PersonName>,
    /// What they sign with.
    pub touch: Touch,
}

/// What an ask must bring along.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirements {
    /// The fewest characters of the reason; `None` needs no reason.
    pub min_reason_chars: Option<u32>,
    /// What the ticket looks like, a regular expression; `None` needs no ticket.
    pub ticket_pattern: Option<String>,
}

/// Whether a missing reason or ticket refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Refuses,
    IsTold,
}

/// Whether conditions are evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conditions {
    Evaluated,
    /// They are taken to be as good as they can be for whoever asks.
    Fulfilled,
}

/// Judges an ask. A refusal names the rule, and hints at the nearest thing that is possible.
pub fn judge(bundle: &Bundle, ask: &Ask<'_>) -> Verdict {
    with_hint(bundle, ask, merge::weigh(bundle, ask, Missing::Refuses, Conditions::Evaluated).0)
}

/// Judges an ask that is not made yet: a reason or ticket that is missing is told, and does not refuse.
pub fn preview(bundle: &Bundle, ask: &Ask<'_>) -> (Verdict, Requirements) {
    let (verdict, requirements) = merge::weigh(bundle, ask, Missing::IsTold, Conditions::Evaluated);
    (with_hint(bundle, ask, verdict), requirements)
}

/// What somebody could get at most: no reason or ticket is asked for, and every condition is taken to be fulfilled.
pub(super) fn most(bundle: &Bundle, ask: &Ask<'_>) -> Verdict {
    merge::weigh(bundle, ask, Missing::IsTold, Conditions::Fulfilled).0
}

fn with_hint(bundle: &Bundle, ask: &Ask<'_>, verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Refused(refusal) => Verdict::Refused(nearest::hinted(bundle, ask, refusal)),
        granted => granted,
    }
}

#[cfg(test)]
mod tests;
