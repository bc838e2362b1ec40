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
use crate::domain::state::State;

/// The longest time between two looks.
const LONGEST: Duration = Duration::from_millis(250);
/// How long the disk is waited for before what is only decided is looked at.
const DISK: Duration = Duration::from_millis(200);
/// The time between two looks while an end is at most two seconds away.
const SHORT: Duration = Duration::from_millis(10);

/// How long before the end people are warned, in seconds; the longest first.
pub const WARN_S: [i64; 2] = [300, 60];

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
    /// Which of [`WARN_S`] the end has come within.
    near_s: Option<i64>,
    over: Option<Over>,
}

/// The leases of all open sessions.
#[derive(Debug, Default)]
pub struct Leases {
    open: Mutex<HashMap<SessionId, watch::Sender<Standing>>>,
    calm: Mutex<Calm>,
}

/// Until when nothing can have changed: the state has this size, and no end or warning is due before that second.
#[derive(Debug, Default, Clone, Copy)]
struct Calm {
    size: u64,
    until: i64,
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

    /// Which of [`WARN_S`] the end has come within, if any. What changes after this wakes [`Lease::over_or_changed`].
    pub fn near_s(&mut self) -> Option<i64> {
        self.standing.borrow_and_update().near_s
    }

    /// Why it is over, if it is.
    pub fn is_over(&self) -> Option<Over> {
        self.standing.borrow().over
    }

    /// Waits until it is over. May be dropped and called again.
    pub async fn over(&mut self) -> Over {
        loop {
            if let Some(over) = self.over_or_changed().await {
                return over;
            }
        }
    }

    /// Waits until it is over, or until anything else of it has changed. May be dropped and called again.
    pub async fn over_or_changed(&mut self) -> Option<Over> {
        if let Some(over) = self.is_over() {
            return Some(over);
        }
        if self.standing.changed().await.is_err() {
            // SECURITY: whoever looks after the leases is gone: nothing is known to be allowed any more.
            let over = self.standing.borrow().over;
            return Some(over.unwrap_or(Over { cause: SessionCause::Lost, seen_ms: 0, ended_wall_ms: None }));
        }
        self.is_over()
    }
}

impl Leases {
    pub(super) fn of(&self, session: SessionId, ends_at: i64) -> Lease {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = Standing { ends_at, near_s: None, over: None };
        let sender = open.entry(session).or_insert_with(|| watch::channel(standing).0);
        *self.calm.lock().unwrap_or_else(PoisonError::into_inner) = Calm::default();
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
        broker.counts().leased.now();
        tokio::select! {
            () = tokio::time::sleep(nap) => {}
            grown = changed.changed() => if grown.is_err() { return },
            _ = stop.changed() => return,
        }
    }
}

/// One look at every lease; gives the time until the next.
///
/// What is durable counts. A disk that stands still must not keep a session open, so there it is looked at what is decided, which ends
/// sessions and lengthens none.
pub async fn look(broker: &Broker) -> Duration {
    match tokio::time::timeout(DISK, broker.memory()).await {
        Ok(memory) => look_at(broker, &memory.state, true),
        Err(_) => look_at(broker, &broker.decided().await.state, false),
    }
}

fn look_at(broker: &Broker, state: &State, durable: bool) -> Duration {
    let moment = broker.keeper().now();
    let now = moment.at.max(state.last_at);
    let latest = now.max(moment.wall_s);
    let size = state.size;
    {
        let calm = broker.inner.leases.calm.lock().unwrap_or_else(PoisonError::into_inner);
        if calm.size == size && latest < calm.until {
            return LONGEST;
        }
    }
    let mut nap = LONGEST;
    let mut calm = Calm { size, until: i64::MAX };
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
        let ends_at = if durable { ends_at } else { ends_at.min(held.ends_at) };
        if now + 2 >= ends_at {
            nap = SHORT;
        }
        let marks = WARN_S.into_iter().chain([2, 0]).map(|left_s| ends_at.saturating_sub(left_s));
        calm.until = marks.filter(|at| *at > now).min().unwrap_or(now).min(calm.until);
        // What ends, ends by whichever clock is later (decisions.md 20).
        let by_wall = moment.wall_s >= ends_at && moment.drift_s > 0;
        let past = by_wall || !durable && now >= ends_at;
        let cause = over(state, *id, now).or_else(|| past.then_some(SessionCause::WindowEnd));
        let over = cause.map(|cause| {
            let ended_wall_ms = (cause == SessionCause::WindowEnd).then(|| ends_at.saturating_mul(1000));
            Over { cause, seen_ms: moment.boot.ms, ended_wall_ms }
        });
        let near_s = WARN_S.into_iter().filter(|left_s| ends_at - now <= *left_s).min();
        let standing = Standing { ends_at, near_s, over };
        if standing != held {
            sender.send_replace(standing);
        }
    }
    if durable {
        *broker.inner.leases.calm.lock().unwrap_or_else(PoisonError::into_inner) = calm;
    }
    nap
}
