//! `trust reset`: root replaces the administrators, where every key of theirs is lost (decisions.md 3).

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::broker::clerk::{self, Job, SignerHandle, ledger_refusal};
use crate::clock::{Clock, Timekeeper};
use crate::domain::event::Command;
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::{Ledger, OpenMode};
use crate::settings::Settings;

/// Writes the administrators of `[trust]` into the log, and has it signed; false when they are those of the log already.
///
/// # Errors
/// [`Code::LEDGER_HELD`] while the daemon runs; what the signer says, whose own configuration must name the same people.
pub async fn reset(settings: &Settings, clock: Arc<dyn Clock>) -> Result<bool, Refusal> {
    let signer = super::signer_of(settings, clock.clone())?;
    let ledger = Ledger::open(&settings.ledger, OpenMode::Write).await.map_err(|e| ledger_refusal(&e))?;
    let keeper = Arc::new(Timekeeper::new(clock));
    let parts = clerk::start(ledger, SignerHandle::new(signer), keeper, super::cache_of(settings)).await?;
    let (reply, answer) = oneshot::channel();
    let command = Command::ResetTrust { admins: settings.admins.clone() };
    let gone = || Refusal::new(Code::LEDGER_DOWN, "The clerk stopped.");
    parts.jobs.send(Job { command, blobs: Vec::new(), reply }).await.map_err(|_| gone())?;
    let done = answer.await.map_err(|_| gone())??;
    let unsigned = parts.health.borrow().clone();
    drop(parts.jobs);
    let _ = parts.task.await;
    match unsigned {
        // A signer of its own reads [trust] when it starts.
        Some(why) if !done.events.is_empty() && why.code != Code::RECOVERY => {
            Err(Refusal { message: format!("It is in the log, and not signed yet: {}", why.message), ..why })
        }
        // In recovery an administrator goes on from here: that is one reason to reset them.
        Some(why) if why.code != Code::RECOVERY => Err(why),
        _ => Ok(!done.events.is_empty()),
    }
}
