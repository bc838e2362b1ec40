//! What would be granted instead, and the command that asks for it.

use super::{Ask, Conditions, Requirements, Texts, Verdict, weigh};
use crate::domain::bundle::Bundle;
use crate::domain::names::{RoleName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::span::show_span;
use crate::domain::target::TargetKind;

/// Something that would be granted, close to what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    /// On this target.
    pub target: TargetName,
    /// In this role.
    pub role: RoleName,
    /// For so long, in seconds.
    pub for_s: u64,
    /// `automatic` or `ask`.
    pub verdict_word: &'static str,
    /// What the request must bring along.
    pub missing: Requirements,
}

impl Nearest {
    /// The command that asks for it.
    pub fn command(&self) -> String {
        let ticket = if self.missing.ticket_pattern.is_some() { " --ticket ID" } else { "" };
        format!("jit-broker request {} --role {} --for {} --reason \"…\"{ticket}", self.target, self.role, show_span(self.for_s))
    }
}

/// Finds the nearest thing that would be granted: what was asked itself, else a shorter time, else another role of the target,
/// first those that the target declares narrower. Reason and ticket are not judged.
pub fn nearest(bundle: &Bundle, ask: &Ask<'_>) -> Option<Nearest> {
    let same = std::iter::once(ask.role);
    let narrower = |role: &&RoleName| ask.target.roles.get(*role).is_some_and(|r| r.narrower_than.contains(ask.role));
    let others = || ask.target.roles.keys().filter(|role| *role != ask.role);
    same.chain(others().filter(narrower)).chain(others().filter(|role| !narrower(role))).find_map(|role| {
        granted(bundle, &Ask { role, ..*ask }).or_else(|| granted(bundle, &shorter(bundle, &Ask { role, ..*ask })?))
    })
}

/// The same for as long as the rules allow, when that is shorter.
fn shorter<'a>(bundle: &Bundle, ask: &Ask<'a>) -> Option<Ask<'a>> {
    let asked = ask.for_s?;
    match weigh(bundle, &Ask { for_s: None, ..*ask }, Texts::Later, Conditions::Evaluated).0 {
        Verdict::Automatic(allowed) | Verdict::Steps(allowed, _) if allowed.max_s < asked => {
            Some(Ask { for_s: Some(allowed.max_s), ..*ask })
        }
        _ => None,
    }
}

fn granted(bundle: &Bundle, ask: &Ask<'_>) -> Option<Nearest> {
    let (verdict, missing) = weigh(bundle, ask, Texts::Later, Conditions::Evaluated);
    let (for_s, verdict_word) = match verdict {
        Verdict::Refused(_) => return None,
        Verdict::Automatic(allowed) => (allowed.for_s, "automatic"),
        Verdict::Steps(allowed, _) => (allowed.for_s, "ask"),
    };
    Some(Nearest { target: ask.target.name.clone(), role: ask.role.clone(), for_s, verdict_word, missing })
}

/// Puts the command of the nearest thing into the hint of a refusal that another request could avoid.
pub(super) fn hint(bundle: &Bundle, ask: &Ask<'_>, refusal: Refusal) -> Refusal {
    let helps = matches!(
        refusal.code,
        Code::NO_RULE | Code::FORBIDDEN | Code::TOO_LONG | Code::NEEDS_REASON | Code::NEEDS_TICKET | Code::NOT_APPROVABLE
    );
    // A change of the bundle is asked for by `apply`, not by `request`.
    if !helps || ask.target.kind == TargetKind::Broker {
        return refusal;
    }
    match nearest(bundle, ask) {
        Some(near) => refusal.hint(near.command()),
        None => refusal,
    }
}
