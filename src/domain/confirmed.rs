//! A clock that an operator said is right, and what a restart makes of that.

use serde::{Deserialize, Serialize};

use super::event::{Boot, Command, Entry, Event};
use super::state::State;

/// What the wall clock showed when an operator confirmed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmed {
    /// The time of the entry: still that of the clock before.
    pub at: i64,
    /// The wall clock, in Unix seconds.
    pub wall_s: i64,
    /// The boot-time clock.
    pub boot: Boot,
}

impl State {
    pub(super) fn heed_clock(&mut self, entry: &Entry) {
        if !matches!(entry.event, Event::ClockConfirmed { .. }) {
            return;
        }
        let wall_s = match &entry.cause {
            Some(Command::ActByWall { wall_s, .. }) => *wall_s,
            _ => entry.at,
        };
        self.clock_confirmed = Some(Confirmed { at: entry.at, wall_s, boot: entry.boot.clone() });
    }

    /// The time that a start within the same boot goes on from, at the boot-time clock of the last entry; in Unix seconds.
    ///
    /// That of the last entry, but where it still is the one of a confirmation: until then the log had gone by another clock, and where that
    /// was ahead it stands still until the right one has come up to it. SECURITY: a daemon that names a wrong wall clock makes the signer
    /// distrust its own, and grants nothing.
    pub fn resumes_at(&self) -> i64 {
        match (&self.clock_confirmed, &self.last_boot) {
            (Some(confirmed), Some(last)) if confirmed.at == self.last_at && confirmed.boot.id == last.id => {
                let passed_s = last.ms.saturating_sub(confirmed.boot.ms) / 1000;
                confirmed.wall_s.saturating_add(i64::try_from(passed_s).unwrap_or(i64::MAX))
            }
            _ => self.last_at,
        }
    }
}
