//! How an epoch begins, and how administrators are replaced: both only once the continuity of the log or of its people is gone.

use std::collections::BTreeMap;

use super::trust::admin;
use super::{Verified, missing};
use crate::domain::epoch::{NewEpoch, Witnessed};
use crate::domain::event::Event;
use crate::domain::key::Key;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::state::State;

/// The longest note that is kept in an entry, in bytes.
const MAX_NOTE: usize = 2048;

/// Begins an epoch when two administrators want it, or the one that there is.
pub(super) fn begin(state: &State, by: &Verified<'_>, new: &NewEpoch) -> Result<Vec<Event>, Refusal> {
    admin(state, by)?;
    let wrong = |what: &str| Err(Refusal::new(Code::BAD_ACT, format!("The epoch cannot begin: {what}.")));
    let newest = new.seen.as_ref().map_or(0, |seen| seen.epoch).max(new.kept.epoch).max(state.epoch);
    if new.epoch <= newest || new.epoch > jit_ca::serial::MAX_EPOCH {
        return wrong(&format!("its number must be above {newest}"));
    }
    let long = |note: &Witnessed| note.note.len() > MAX_NOTE;
    if new.kept.size == 0 || new.kept.size > state.size || long(&new.kept) || new.seen.as_ref().is_some_and(long) {
        return wrong("the checkpoint that the broker kept is not one of this log");
    }
    if new.seen.as_ref().is_some_and(|seen| seen.size <= new.kept.size && seen.epoch == new.kept.epoch) {
        return wrong("what was seen is no newer than what was kept");
    }
    let (act, person) = (by.signed.id(), by.person.clone());
    let proposal = state.proposal.as_ref().filter(|proposal| state.is_admin(&proposal.by));
    let alone = state.admins.keys().filter(|name| !state.disabled.contains(*name)).count() < 2;
    match proposal {
        Some(first) if first.by != person && first.new.epoch == new.epoch && first.new.kept == new.kept => {
            let by = vec![first.by.clone(), person];
            Ok(vec![Event::EpochBegun { by, act, new: Box::new(first.new.joined(new)) }])
        }
        _ if alone => Ok(vec![Event::EpochBegun { by: vec![person], act, new: Box::new(new.clone()) }]),
        Some(first) if first.by == person && first.new == *new => Ok(Vec::new()),
        _ => Ok(vec![Event::EpochProposed { by: person, act, new: Box::new(new.clone()) }]),
    }
}

/// Replaces the administrators. Nothing signs for it but the signer's own configuration, which root wrote.
pub(super) fn reset(state: &State, admins: &BTreeMap<PersonName, Key>) -> Result<Vec<Event>, Refusal> {
    let genesis = state.genesis.as_ref().ok_or_else(|| missing("log"))?;
    if *state.admins == *admins {
        return Ok(Vec::new());
    }
    if admins.is_empty() {
        return Err(Refusal::new(Code::LAST_ADMIN, "Nobody would be left who can administer this broker."));
    }
    // Only an administrator enables anybody.
    if admins.keys().all(|name| state.disabled.contains(name)) {
        let names: Vec<_> = admins.keys().map(ToString::to_string).collect();
        let message = format!("Nobody could administer this broker: {} cannot act, being disabled.", names.join(", "));
        return Err(
            Refusal::new(Code::LAST_ADMIN, message).hint("Name somebody else in [trust], who enables them again.")
        );
    }
    for (name, key) in admins {
        let other = state.owner_of(key).is_some_and(|owner| owner != *name);
        let host = state.hosts.values().any(|host| host.key == *key);
        let ours = *key == genesis.log_key || state.authorities.is_one(key);
        if !key.0.signs_acts() || state.revoked_keys.contains(key) || other || host || ours {
            return Err(Refusal::new(Code::BAD_KEY, format!("The key of {name} cannot be an administrator's.")));
        }
    }
    Ok(vec![Event::TrustReset { admins: admins.clone() }])
}
