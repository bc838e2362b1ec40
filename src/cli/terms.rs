//! What an approver signs: read out of the requester's own signed act and the bundle's text, never taken from the broker's word.
//!
//! True here: the terms that leave [`verified`] are for the person, the target and (at most) the role and the time that the requester
//! signed, with exactly the logins that the bundle gives that role. Everything else is refused before a signature is made.
//! Never here: I/O, or a signature. Start with [`verified`].

use crate::domain::act::{ACT_SKEW_S, Act, Deed, SignedAct, Terms};
use crate::domain::authority::Rotation;
use crate::domain::bundle::{Bundle, BundleText};
use crate::domain::digest::Digest;
use crate::domain::ids::{GrantId, InstallId, RequestId};
use crate::domain::names::{RoleName, TargetName};
use crate::domain::refusal::Code;
use crate::domain::target::{Target, Targets};
use crate::wire::{BundleDoc, RequestDoc};

use super::failure::Failure;

fn differs(what: &str) -> Failure {
    Failure::new(
        Code::STALE_TERMS,
        format!(
            "The broker shows another {what} than the requester signed, or than the bundle has. Do not approve this."
        ),
    )
}

/// The targets of the adopted bundle, out of its text.
///
/// # Errors
/// [`Code::STALE_TERMS`] when the text is not what its digest says, or no bundle.
pub(super) fn targets(doc: &BundleDoc) -> Result<Targets, Failure> {
    let whole = BundleText { files: doc.files.clone() };
    if whole.digest() != doc.digest {
        return Err(differs("bundle"));
    }
    // People and rules may name administrators of [trust] that an approver cannot know; the targets stand by themselves.
    let files =
        whole.files.into_iter().filter(|(name, _)| name.starts_with("targets") || name.ends_with(".crt")).collect();
    Ok(Bundle::parse(&BundleText { files }, &[]).map_err(|_| differs("bundle"))?.targets)
}

/// The act that made a request: its digest is the shown one, and the request's id.
fn act_of(doc: &RequestDoc, install: InstallId) -> Result<Act, Failure> {
    let text = doc.act.clone().ok_or_else(|| differs("act"))?;
    let signed = SignedAct { act: text, signature: String::new() };
    if signed.digest() != doc.digest || RequestId::of_digest(&doc.digest) != doc.id {
        return Err(differs("act"));
    }
    let act = signed.read().map_err(|_| differs("act"))?;
    if act.install != install || act.deed.by() != Some(&doc.requester) {
        return Err(differs("installation or person"));
    }
    Ok(act)
}

/// The terms that stand, once the requester's act and the bundle bear them out.
///
/// # Errors
/// [`Code::STALE_TERMS`] names what does not agree.
pub(super) fn verified(doc: &RequestDoc, install: InstallId, targets: &Targets) -> Result<Terms, Failure> {
    let act = act_of(doc, install)?;
    let terms = &doc.terms;
    // What is shown is what is signed.
    if doc.target != terms.target || doc.role != terms.role || doc.for_s != terms.for_s {
        return Err(differs("target, role or duration"));
    }
    match &act.deed {
        Deed::Request { target, role, for_s, .. } if doc.extends.is_none() => {
            access(terms, target, role, targets)?;
            if for_s.is_some_and(|asked| terms.for_s > asked) {
                return Err(differs("duration"));
            }
        }
        // What is given is the rest of the time until the end that they signed; the clocks may differ a little.
        Deed::Extend { grant, target, role, until, .. } if extends(doc, *grant, *until) => {
            access(terms, target, role, targets)?;
            let most = until.saturating_sub(act.at).saturating_add(ACT_SKEW_S);
            if !i64::try_from(terms.for_s).is_ok_and(|s| s <= most) {
                return Err(differs("end"));
            }
        }
        Deed::Apply { bundle, .. } => bundle_terms(terms, *bundle)?,
        Deed::Enable { .. } | Deed::Enroll { .. } | Deed::EnrollHost { .. } | Deed::RotateCa { .. } => {
            bundle_terms(terms, doc.digest)?;
        }
        _ => return Err(differs("act")),
    }
    Ok(terms.clone())
}

/// What is shown of an extension is what was signed.
fn extends(doc: &RequestDoc, grant: GrantId, until: i64) -> bool {
    doc.extends == Some(grant) && doc.until.as_deref() == Some(super::output::instant(until).as_str())
}

/// What a request asks for that is neither access nor a bundle, in words, out of the act itself.
pub(super) fn power(doc: &RequestDoc) -> Option<String> {
    let signed = SignedAct { act: doc.act.clone()?, signature: String::new() };
    match signed.read().ok()?.deed {
        Deed::Enable { person, .. } => Some(format!("to let {person} in again, who was disabled")),
        Deed::Enroll { person, key, .. } => Some(format!("to give {person} the key {}", key.0.fingerprint())),
        Deed::EnrollHost { target, key, .. } => {
            Some(format!("to certify {} as the host {target}", key.0.fingerprint()))
        }
        Deed::RotateCa { ca, step, .. } => Some(match step {
            Rotation::Stage(public) => format!("to have a new key of the authority {ca} trusted: {public}"),
            Rotation::Activate(_) => format!("to have the new key of the authority {ca} sign from now on"),
            Rotation::Retire(_) => format!("to have the old key of the authority {ca} trusted no longer"),
            Rotation::Abandon => format!("to give up the new key of the authority {ca}"),
        }),
        Deed::Apply { bundle, .. } => Some(format!("to adopt the bundle {bundle}")),
        _ => None,
    }
}

fn bundle_terms(terms: &Terms, bundle: Digest) -> Result<(), Failure> {
    let same =
        terms.target.as_str() == "broker/policy" && terms.role.as_str() == "apply" && terms.target_digest == bundle;
    if same && terms.logins.is_empty() && terms.allow.is_empty() && terms.database.is_none() {
        Ok(())
    } else {
        Err(differs("bundle"))
    }
}

/// Access to the target and in the role that were asked for, or in a narrower one, and nothing else.
fn access(terms: &Terms, asked: &TargetName, role: &RoleName, targets: &Targets) -> Result<(), Failure> {
    let found = targets.get(asked).filter(|_| *asked == terms.target).ok_or_else(|| differs("target"))?;
    if found.digest() != terms.target_digest {
        return Err(differs("address or host key"));
    }
    if terms.for_s == 0 {
        return Err(differs("duration"));
    }
    if !reaches(found, &terms.role, role) {
        return Err(differs("role"));
    }
    opens_exactly(found, terms)
}

fn opens_exactly(target: &Target, terms: &Terms) -> Result<(), Failure> {
    let role = target.roles.get(&terms.role).ok_or_else(|| differs("role"))?;
    if role.is_in(terms) { Ok(()) } else { Err(differs("list of logins")) }
}

/// True when `role` is the asked one, or what earlier approvers may have made of it, one narrower role after the other.
fn reaches(target: &Target, role: &RoleName, asked: &RoleName) -> bool {
    let (mut seen, mut open) = (vec![role], vec![role]);
    while let Some(name) = open.pop() {
        if name == asked {
            return target.roles.contains_key(asked);
        }
        for wider in target.roles.get(name).iter().flat_map(|r| &r.narrower_than) {
            if !seen.contains(&wider) {
                seen.push(wider);
                open.push(wider);
            }
        }
    }
    false
}

/// The terms with less of it, as an approver wants them.
///
/// # Errors
/// [`Code::NOT_NARROWER`] for more, [`Code::NO_ROLE`] for a role that the target does not have.
pub(super) fn narrowed(
    mut terms: Terms,
    for_s: Option<u64>,
    role: Option<&RoleName>,
    targets: &Targets,
) -> Result<Terms, Failure> {
    if let Some(s) = for_s {
        if s > terms.for_s {
            return Err(Failure::new(Code::NOT_NARROWER, "Approving can shorten what was asked, not lengthen it."));
        }
        terms.for_s = s;
    }
    if let Some(name) = role.filter(|name| **name != terms.role) {
        let found = targets.get(&terms.target).and_then(|t| t.roles.get(name));
        let found =
            found.ok_or_else(|| Failure::new(Code::NO_ROLE, format!("{} has no role {name}.", terms.target)))?;
        if !found.narrower_than.contains(&terms.role) {
            return Err(Failure::new(
                Code::NOT_NARROWER,
                format!("{name} is not declared narrower than {}.", terms.role),
            ));
        }
        found.fill(name, &mut terms);
    }
    Ok(terms)
}

#[cfg(test)]
mod tests;
