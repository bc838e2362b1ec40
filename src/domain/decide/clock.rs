//! Clocks that disagree: what is recorded of it, and what ends because of it (decisions.md 20).

use super::end::{due, ending};
use super::{Now, Verified};
use crate::domain::event::{Cause, Event};
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::state::State;

/// How far wall time and boot-time clock may drift apart before nothing is issued, in seconds.
pub const DRIFT_S: i64 = 30;

/// The wall clock drifted, or is itself again. While it is ahead, what would be over by it ends: early, which is safe. No
/// proof of an end rests on a clock that jumped.
pub(super) fn jumped(state: &State, drift_s: i64, synchronised: bool, now: Now<'_>) -> Vec<Event> {
    let known = state.clock_drift.unwrap_or(0);
    let news = synchronised || known.saturating_sub(drift_s).saturating_abs() > DRIFT_S;
    let back = state.clock_drift.is_some() && drift_s.saturating_abs() <= DRIFT_S;
    let mut events = Vec::new();
    if news || back {
        events.push(Event::ClockJumped { drift_s, synchronised });
    }
    let wall = now.at.saturating_add(drift_s);
    if synchronised {
        events.extend(set_back(state, wall, None, now));
    } else if drift_s > DRIFT_S {
        events.extend(due(state, now, wall));
    }
    events
}

pub(super) fn confirm(
    state: &State,
    by: &Verified<'_>,
    wall: Option<i64>,
    now: Now<'_>,
) -> Result<Vec<Event>, Refusal> {
    if !state.is_operator(&by.person) {
        return Err(Refusal::new(Code::NOT_OFFICE, "Operators alone confirm the clock."));
    }
    let mut events = vec![Event::ClockConfirmed { by: by.person.clone(), act: by.signed.id() }];
    events.extend(set_back(state, wall.unwrap_or(now.at), Some(&by.person), now));
    Ok(events)
}

/// Time goes on from an earlier wall clock: windows of the clock that was ahead would last longer than people agreed to, and its
/// certificates would be accepted for longer, so all of them end now.
fn set_back(state: &State, wall: i64, by: Option<&PersonName>, now: Now<'_>) -> Vec<Event> {
    if wall >= now.at.saturating_sub(DRIFT_S) {
        return Vec::new();
    }
    let open = state.open_grants.iter().filter_map(|id| state.grants.get(id));
    open.filter(|grant| grant.live_at(now.at).is_ok())
        .flat_map(|grant| ending(grant, Cause::Revoked, by, None, now.at))
        .collect()
}
