//! Leases: how long each open session may go on. One task looks at the state for all of them, so that a thousand sessions wait on a
//! thousand cheap signals and on nothing else.
//!
//! Time is the broker's own, which a stepped wall clock does not extend (decisions.md 20): it is looked at often while an end is near.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Broker;
use crate::domain::decide::{over, successor};
use crate::domain::ids::SessionId;
use crate::domain::session::SessionCause;

/// The longest time between two looks.
const LONGEST: Duration = Duration::from_millis(250);
/// The time between two looks while an end is at most two seconds away.
const SHORT: Duration = Duration::from_millis(10);

/// Why a session must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Why.
    pub cause: SessionCause,
    /// When that was seen, in milliseconds of the boot-time clock.
    pub seen_ms: u64,
    /// When the window ended, in Unix milliseconds, where that is why.
    pub ended_wall_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    ends_at: i64,
    over: Option<Over>,
}

/// The leases of all open sessions.
#[derive(Debug, Default)]
pub struct Leases {
    open: Mutex<HashMap<SessionId, watch::Sender<Standing>>>,
}

/// One session's lease.
#[derive(Debug, Clone)]
pub struct Lease {
    standing: watch::Receiver<Standing>,
}

impl Lease {
    /// The end as it stands, in Unix seconds; it never comes earlier but by [`Lease::over`].
    pub fn ends_at(&self) -> i64 {
        self.standing.borrow().ends_at
    }

    /// Why it is over, if it is.
    pub fn is_over(&self) -> Option<Over> {
        self.standing.borrow().over
    }

    /// Waits until it is over. May be dropped and called again.
    pub async fn over(&mut self) -> Over {
        loop {
            if let Some(over) = self.standing.borrow_and_update().over {
                return over;
            }
            if self.standing.changed().await.is_err() {
                // SECURITY: whoever looks after the leases is gone: nothing is known to be allowed any more.
                let over = self.standing.borrow().over;
                return over.unwrap_or(Over { cause: SessionCause::Lost, seen_ms: 0, ended_wall_ms: None });
            }
        }
    }
}

impl Leases {
    pub(super) fn of(&self, session: SessionId, ends_at: i64) -> Lease {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = open.entry(session).or_insert_with(|| watch::channel(Standing { ends_at, over: None }).0);
        Lease { standing: sender.subscribe() }
    }

    pub(super) fn forget(&self, session: SessionId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
    }
}

/// Looks after the leases until the broker stops; those that stand then are left to the gateways, which drain.
pub async fn run(broker: Broker, mut stop: watch::Receiver<bool>) {
    let mut changed = broker.changed();
    loop {
        let nap = look(&broker).await;
        tokio::select! {
            () = tokio::time::sleep(nap) => {}
            grown = changed.changed() => if grown.is_err() { return },
            _ = stop.changed() => return,
        }
    }
}

/// One look at every lease; gives the time until the next.
pub async fn look(broker: &Broker) -> Duration {
    let memory = broker.memory().await;
    let state = &memory.state;
    let moment = broker.keeper().now();
    let now = moment.at.max(state.last_at);
    let mut nap = LONGEST;
    let open = broker.inner.leases.open.lock().unwrap_or_else(PoisonError::into_inner);
    for (id, sender) in open.iter() {
        let held = *sender.borrow();
        if held.over.is_some() {
            continue;
        }
        let session = state.sessions.get(id);
        let grant =
            session.and_then(|session| successor(state, session, now).or_else(|| state.grants.get(&session.grant)));
        let ends_at = grant.map_or(held.ends_at, |grant| grant.ends_at);
        if now + 2 >= ends_at {
            nap = SHORT;
        }
        // What ends, ends by whichever clock is later (decisions.md 20).
        let by_wall = moment.wall_s >= ends_at && moment.drift_s > 0;
        let cause = over(state, *id, now).or_else(|| by_wall.then_some(SessionCause::WindowEnd));
        let over = cause.map(|cause| {
            let ended_wall_ms = (cause == SessionCause::WindowEnd).then(|| ends_at.saturating_mul(1000));
            Over { cause, seen_ms: moment.boot.ms, ended_wall_ms }
        });
        let standing = Standing { ends_at, over };
        if standing != held {
            sender.send_replace(standing);
        }
    }
    nap
}
