//! The nearest thing that would be granted, for whoever was refused.

use std::collections::BTreeSet;

use super::{Ask, Conditions, Missing, Verdict, matchable, merge};
use crate::domain::bundle::Bundle;
use crate::domain::names::RoleName;
use crate::domain::policy::UNASKED_S;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::span::show_span;
use crate::domain::target::TargetKind;

/// Something that the person may ask for instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    /// The role on the same target.
    pub role: RoleName,
    /// For how long, in seconds.
    pub for_s: u64,
    /// `automatic`, or `ask` when people must agree.
    pub verdict: &'static str,
}

/// Looks for what would be granted on the same target: first the same role for less time, then a narrower role, then any other; at once
/// rather than after asking.
pub fn nearest(bundle: &Bundle, ask: &Ask<'_>) -> Option<Nearest> {
    let others = ask.target.roles.iter().filter(|(name, _)| *name != ask.role);
    let narrower = |(_, role): &(&RoleName, &crate::domain::target::Role)| role.narrower_than.contains(ask.role);
    tried(bundle, ask, ask.role)
        .or_else(|| best(others.clone().filter(narrower).filter_map(|(name, _)| tried(bundle, ask, name))))
        .or_else(|| best(others.filter_map(|(name, _)| tried(bundle, ask, name))))
}

fn best(found: impl Iterator<Item = Nearest>) -> Option<Nearest> {
    found.min_by_key(|nearest| nearest.verdict != "automatic")
}

/// What would be granted in a role: as long as was asked, or as long as it goes.
fn tried(bundle: &Bundle, ask: &Ask<'_>, role: &RoleName) -> Option<Nearest> {
    let unasked = Ask { role, for_s: None, reason: None, ticket: None, ..*ask };
    let (max_s, unasked_s) = match merge::weigh(bundle, &unasked, Missing::IsTold, Conditions::Evaluated).0 {
        Verdict::Refused(_) => return None,
        Verdict::Automatic(allowed) | Verdict::Steps(allowed, _) => (allowed.max_s, allowed.for_s),
    };
    let wanted_s = ask.for_s.unwrap_or(UNASKED_S).clamp(1, max_s.max(1));
    granted(bundle, &Ask { for_s: Some(wanted_s), ..unasked })
        .or_else(|| granted(bundle, &Ask { for_s: Some(unasked_s), ..unasked }))
}

fn granted(bundle: &Bundle, ask: &Ask<'_>) -> Option<Nearest> {
    let (for_s, verdict) = match merge::weigh(bundle, ask, Missing::IsTold, Conditions::Evaluated).0 {
        Verdict::Refused(_) => return None,
        Verdict::Automatic(allowed) => (allowed.for_s, "automatic"),
        Verdict::Steps(allowed, steps) => {
            let open: Vec<_> = steps.iter().map(|step| (step.name.clone(), step.need, &step.eligible)).collect();
            matchable(&open, &BTreeSet::from([ask.person.name.clone()])).ok()?;
            (allowed.for_s, "ask")
        }
    };
    Some(Nearest { role: ask.role.clone(), for_s, verdict })
}

/// Adds the command that would work, where the refusal is one that another command avoids.
pub(super) fn hinted(bundle: &Bundle, ask: &Ask<'_>, refusal: Refusal) -> Refusal {
    let other_helps = [Code::NO_RULE, Code::FORBIDDEN, Code::TOO_LONG, Code::NO_ROLE].contains(&refusal.code);
    // A bundle is applied, not asked for; and a hint that is there already (sign in again) is nearer.
    let own = refusal.hint.as_deref() != refusal.code.entry().next;
    if !other_helps || own || ask.target.kind == TargetKind::Broker {
        return refusal;
    }
    match nearest(bundle, ask) {
        Some(Nearest { role, for_s, .. }) => {
            refusal.hint(format!("jit-broker request {} --role {role} --for {}", ask.target.name, show_span(for_s)))
        }
        None => refusal,
    }
}
