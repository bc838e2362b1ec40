//! The reaper: makes every end happen, at the second, and keeps trying until it is proven.

use std::time::Duration;

use super::Broker;
use super::clerk::mended_by_an_entry;
use crate::clock::DRIFT_S;
use crate::domain::decide::MOST_DUE;
use crate::domain::event::Command;

/// The longest nap: the wall clock may be stepped, and the log must not be silent for more than ten minutes.
const LONGEST: Duration = Duration::from_millis(500);
/// The nap when something is about to fall due.
const SHORT: Duration = Duration::from_millis(25);
/// Silence after which a heartbeat is logged, in seconds (decisions.md 19).
const HEARTBEAT_S: i64 = 600;

/// Runs until the broker stops.
pub async fn run(broker: Broker, mut stop: tokio::sync::watch::Receiver<bool>) {
    let mut delay = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = stop.changed() => return,
        }
        delay = nap(&broker).await;
        if let Err(refusal) = round(&broker).await {
            tracing::error!(code = %refusal.code, "an end could not be recorded; trying again: {}", refusal.message);
            delay = Duration::from_secs(1);
        }
        broker.counts().reaped.now();
    }
}

/// Short when something falls due within a second: an end is kept to a few hundredths.
async fn nap(broker: &Broker) -> Duration {
    let next = broker.memory().await.state.next_deadline();
    if next.is_some_and(|at| at <= broker.now() + 1) { SHORT } else { LONGEST }
}

/// One look at every deadline; also called by tests that move the clock.
///
/// # Errors
/// When log or signer refuse; the next round tries again.
pub async fn round(broker: &Broker) -> Result<(), crate::domain::refusal::Refusal> {
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
    let list = broker.list_is_old(&broker.memory().await.state);
    // In recovery nothing is signed: hosts keep the list that they have.
    let recovering = broker.health().is_some_and(|why| mended_by_an_entry(why.code));
    if list && !recovering {
        broker.publish_krl().await?;
    }
    if silent {
        broker.command(Command::Beat, Vec::new()).await?;
    }
    Ok(())
}

/// Records that the clocks drifted apart or agree again, and ends what is over by a wall clock that is ahead.
async fn clocks(broker: &Broker) -> Result<(), crate::domain::refusal::Refusal> {
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
