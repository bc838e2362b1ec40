//! Whether the broker does its work: what the watchdog and `/readyz` ask.
//!
//! Two questions. [`Broker::alive`]: does everything move that keeps ends? Where it does not, a restart helps. [`Broker::ready`]: would
//! access be granted now? A signer that is away or a full disk make it unready, and are no reason to kill a daemon that still ends sessions.

use std::time::Duration;

use tokio::time::timeout;

use super::Broker;
use crate::domain::event::Command;
use crate::domain::refusal::{Code, Refusal};

/// How long a loop that keeps ends may be silent before it counts as stuck, in milliseconds; the longest nap is half a second.
const STUCK_MS: u64 = 10_000;
/// How long the store may take to answer what costs nothing.
const STORE: Duration = Duration::from_secs(2);

fn stuck(what: &str) -> Refusal {
    Refusal::new(Code::LEDGER_DOWN, format!("{what}.")).hint("journalctl -u jit-broker tells what it waits for.")
}

impl Broker {
    /// The self-check behind the watchdog: the store can be read, the clerk takes a command and answers, and both loops that keep ends came
    /// round lately. Each may take `patience`.
    ///
    /// # Errors
    /// What does not move.
    pub async fn alive(&self, patience: Duration) -> Result<(), Refusal> {
        let size =
            timeout(patience, self.reader().size()).await.map_err(|_| stuck("The ledger cannot be read in time"))?;
        size.map_err(|error| stuck(&format!("The ledger cannot be read: {error}")))?;
        // Decides what is due, which is most often nothing, and appends what follows. A refusal is an answer as well.
        let asked = timeout(patience, self.command(Command::Due, Vec::new())).await;
        drop(asked.map_err(|_| stuck("The clerk does not answer"))?);
        let counts = &self.inner.counts;
        let longest = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX).saturating_mul(2);
        // The reaper may have very many ends to record; leases wait for nobody.
        if counts.reaped.ago_ms() > longest.max(60_000) {
            return Err(stuck("The reaper does not come round"));
        }
        if counts.leased.ago_ms() > longest {
            return Err(stuck("Nobody looks after the leases"));
        }
        Ok(())
    }

    /// Whether access would be granted now.
    ///
    /// # Errors
    /// The first reason why it would not.
    pub async fn ready(&self) -> Result<(), Refusal> {
        if let Some(why) = self.health() {
            if why.code == Code::RECOVERY {
                return Err(why);
            }
            return Err(Refusal::new(Code::SIGNER_AWAY, why.message));
        }
        if self.note().is_none() {
            return Err(Refusal::new(Code::SIGNER_AWAY, "The signer has not signed a checkpoint yet."));
        }
        let readable = timeout(STORE, self.reader().size()).await;
        if !matches!(readable, Ok(Ok(_))) {
            return Err(Refusal::new(Code::LEDGER_DOWN, "The ledger cannot be read."));
        }
        if !self.reserve().stands() {
            return Err(Refusal::new(Code::DISK_FULL, "There is no reserve on the disk, so nothing is granted."));
        }
        let counts = &self.inner.counts;
        if counts.reaped.ago_ms().max(counts.leased.ago_ms()) > STUCK_MS {
            return Err(stuck("What keeps ends does not come round"));
        }
        let moment = self.inner.keeper.now();
        if moment.drifted() {
            let apart = format!("The clocks drifted {} s apart, so nothing is granted.", moment.drift_s);
            return Err(Refusal::new(Code::CLOCK, apart));
        }
        Ok(())
    }
}
