//! The reaper: makes every end happen, at the second, and keeps trying until it is proven.

use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::Broker;
use super::clerk::mended_by_an_entry;
use crate::clock::DRIFT_S;
use crate::domain::decide::MOST_DUE;
use crate::domain::event::Command;
use crate::domain::refusal::Refusal;

/// The longest nap: the wall clock may be stepped, and the log must not be silent for more than ten minutes.
const LONGEST: Duration = Duration::from_millis(500);
/// The nap when something is about to fall due.
const SHORT: Duration = Duration::from_millis(25);
/// Silence after which a heartbeat is logged, in seconds (decisions.md 19).
const HEARTBEAT_S: i64 = 600;

/// How long what failed is let be.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs until the broker stops. INVARIANT: no end waits for the list of an earlier one, which is the signer's.
pub async fn run(broker: Broker, stop: watch::Receiver<bool>) {
    let looked = Notify::new();
    tokio::join!(reap(&broker, stop.clone(), &looked), publish(&broker, stop, &looked));
}

async fn reap(broker: &Broker, mut stop: watch::Receiver<bool>, looked: &Notify) {
    let mut delay = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = stop.changed() => return,
        }
        delay = nap(broker).await;
        if let Err(refusal) = ends(broker).await {
            tracing::error!(code = %refusal.code, "an end could not be recorded; trying again: {}", refusal.message);
            delay = AGAIN;
        }
        broker.counts().reaped.now();
        looked.notify_one();
    }
}

/// Publishes the list after each look, where another one is asked for.
async fn publish(broker: &Broker, mut stop: watch::Receiver<bool>, looked: &Notify) {
    let mut failed: Option<Refusal> = None;
    loop {
        let next = async {
            if failed.is_some() {
                tokio::time::sleep(AGAIN).await;
            }
            looked.notified().await;
            list(broker).await
        };
        let now = tokio::select! {
            published = next => published.err(),
            _ = stop.changed() => return,
        };
        if let Some(refusal) = now.as_ref().filter(|now| failed.as_ref() != Some(*now)) {
            tracing::error!(code = %refusal.code, "no revocation list was published; trying again: {}", refusal.message);
        }
        failed = now;
    }
}

/// Short when something falls due within a second: an end is kept to a few hundredths.
async fn nap(broker: &Broker) -> Duration {
    let next = broker.memory().await.state.next_deadline();
    if next.is_some_and(|at| at <= broker.now() + 1) { SHORT } else { LONGEST }
}

/// One look at every deadline, and the list that follows; also called by tests that move the clock.
///
/// # Errors
/// When log or signer refuse; the next round tries again.
pub async fn round(broker: &Broker) -> Result<(), Refusal> {
    ends(broker).await?;
    list(broker).await
}

async fn list(broker: &Broker) -> Result<(), Refusal> {
    // In recovery nothing is signed: hosts keep the list that they have.
    let recovering = broker.health().is_some_and(|why| mended_by_an_entry(why.code));
    if recovering { Ok(()) } else { broker.publish_due().await }
}

/// Makes every end that is due. The signer is waited for as long as the clerk does, and no longer.
pub(super) async fn ends(broker: &Broker) -> Result<(), Refusal> {
    clocks(broker).await?;
    let (due, silent) = {
        let memory = broker.memory().await;
        let state = &memory.state;
        // Never before the log's last entry: what is over for the clerk is over here.
        let now = broker.now().max(state.last_at);
        let due = state.next_deadline().is_some_and(|at| at <= now) || state.has_provable();
        (due, now - state.last_at >= HEARTBEAT_S)
    };
    if due {
        while broker.command(Command::Due, Vec::new()).await?.events.len() >= MOST_DUE {}
    }
    if silent {
        broker.command(Command::Beat, Vec::new()).await?;
    }
    Ok(())
}

/// Records that the clocks drifted apart or agree again, and ends what is over by a wall clock that is ahead.
async fn clocks(broker: &Broker) -> Result<(), Refusal> {
    let (moment, synchronised) = (broker.keeper().now(), broker.keeper().healable());
    let (drift, over) = {
        let memory = broker.memory().await;
        (memory.state.clock_drift, memory.state.next_deadline().is_some_and(|at| at <= moment.wall_s))
    };
    let said = drift.is_some_and(|known| known.saturating_sub(moment.drift_s).saturating_abs() <= DRIFT_S);
    let news = synchronised || if moment.drifted() { !said } else { drift.is_some() };
    if news || moment.drift_s > DRIFT_S && over {
        let jumped = Command::Clock { drift_s: moment.drift_s, synchronised };
        while broker.command(jumped.clone(), Vec::new()).await?.events.len() >= MOST_DUE && !synchronised {}
    }
    Ok(())
}
