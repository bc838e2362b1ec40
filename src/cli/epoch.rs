//! After a restore or a loss: `audit begin-epoch` for administrators, `auth acknowledge` for everybody else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::ask::me;
use super::client::Client;
use super::context::{Context, Seen};
use super::failure::Failure;
use super::home::Home;
use super::trust::Acknowledged;
use super::{Globals, output, prompt};
use crate::domain::act::Deed;
use crate::domain::digest::Digest;
use crate::domain::epoch::{NewEpoch, Witnessed};
use crate::domain::refusal::Code;
use crate::wire::{About, EpochDoc, LogDoc};

/// `jit-broker audit begin-epoch`
#[derive(Debug, Args)]
pub struct BeginArgs {
    /// A checkpoint that was kept outside; the newest one that this client has seen is known by itself
    #[arg(long, value_name = "NOTE")]
    witness: Vec<PathBuf>,
    /// Without asking
    #[arg(long)]
    yes: bool,
}

impl From<Seen> for Witnessed {
    fn from(seen: Seen) -> Self {
        Self { epoch: seen.epoch, size: seen.size, root: Digest::new(seen.root), note: seen.text }
    }
}

fn names<T: ToString>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl BeginArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Code::PENDING`] while another administrator must say the same, or as the broker says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let home = Home::find()?;
        let mut client = Client::remembered(&home)?;
        client.look_away();
        let doc: LogDoc = client.get("/v1/log").await?;
        let context = client.context()?.clone();
        let new = self.what(&home, &context, &doc)?;
        let lost = match &new.seen {
            Some(seen) if seen.epoch > new.kept.epoch => format!(
                "Epoch {} is lost: {} entries were seen with it, and the broker does not have them.",
                seen.epoch, seen.size
            ),
            Some(seen) => format!(
                "Entries {} to {} are lost: they were seen, and the broker does not have them.",
                new.kept.size,
                seen.size.saturating_sub(1)
            ),
            None => "Nothing that this client has seen is lost.".to_owned(),
        };
        eprintln!(
            "The broker kept {} entries that were signed, in epoch {}. {lost}\nIn epoch {} serials and revocation lists jump ahead, certificates of lost entries are revoked, and every verification will tell of this for ever.",
            new.kept.size, new.kept.epoch, new.epoch
        );
        if !self.yes && !prompt::confirm("Begin it?", "--yes")? {
            return Err(Failure::new(Code::CANCELLED, "Nothing was changed."));
        }
        let deed = Deed::BeginEpoch { by: me(&client)?, new: Box::new(new.clone()) };
        let outcome = client.act(deed, None, None).await?;
        if !outcome.events.iter().any(|kind| kind == "epoch.begun") {
            let message = "Another administrator must say the same: jit-broker audit begin-epoch";
            return Err(Failure::new(Code::PENDING, message));
        }
        context.put_aside(&home, new.epoch)?;
        let said = format!("Epoch {} has begun; the broker signs again.", new.epoch);
        output::done(globals.output, "epoch.begun", &said)?;
        Ok(ExitCode::SUCCESS)
    }

    /// What is known: the newest checkpoint that the broker kept, and the newest that was seen.
    fn what(&self, home: &Home, context: &Context, doc: &LogDoc) -> Result<NewEpoch, Failure> {
        let none = || Failure::new(Code::LEDGER_CORRUPT, "The broker has no signed checkpoint at all.");
        let wrong =
            |e| Failure::new(Code::ROLLED_BACK, format!("The broker's checkpoint is not signed by its log: {e}."));
        let kept = context.open_note(doc.note.as_deref().ok_or_else(none)?).map_err(wrong)?;
        let mut seen: Vec<Seen> = context.seen(home)?.into_iter().collect();
        seen.extend(doc.signed.as_deref().map(|text| context.open_note(text).map_err(wrong)).transpose()?);
        for path in &self.witness {
            let text = std::fs::read_to_string(path).map_err(|e| Failure::local(path.display(), e))?;
            let bad = |e| Failure::new(Code::BAD_SIGNATURE, format!("{}: {e}.", path.display()));
            seen.push(context.open_note(&text).map_err(bad)?);
        }
        // One of equal or smaller size may still be another log; the broker's next answer shows that.
        let newest = seen.into_iter().max_by_key(|seen| (seen.epoch, seen.size));
        let newest = newest.filter(|seen| (seen.epoch, seen.size) > (kept.epoch, kept.size));
        let first = doc.proposal.as_ref().map(|proposal| proposal.new.epoch);
        let least = newest.as_ref().map_or(0, |seen| seen.epoch).max(kept.epoch).max(doc.epoch) + 1;
        let epoch = first.filter(|epoch| *epoch >= least).unwrap_or(least);
        Ok(NewEpoch { epoch, kept: kept.into(), seen: newest.map(Witnessed::from) })
    }
}

/// Acknowledges, on this client, what administrators or root have said in the log: once.
///
/// # Errors
/// [`Code::ROLLED_BACK`] when the loss is in no epoch, so that there is nothing to acknowledge.
pub async fn acknowledge(yes: bool, globals: &Globals) -> Result<ExitCode, Failure> {
    let home = Home::find()?;
    let mut client = Client::remembered(&home)?;
    client.look_away();
    let doc: LogDoc = client.get("/v1/log").await?;
    let about: About = client.get("/v1/about").await?;
    let mut context = client.context()?.clone();
    let seen = context.seen(&home)?;
    let lost = lost(&context, &doc, seen.as_ref())?;
    if let Some(epoch) = lost {
        let kept = epoch.new.kept.size;
        eprintln!(
            "Epoch {} began at {}: what came after entry {kept} is lost. Acknowledged by: {}",
            epoch.new.epoch,
            epoch.at,
            names(&epoch.by)
        );
    }
    if let Some(at) = &doc.reset_at {
        eprintln!(
            "At {at} root on the broker made these the administrators: {}. Nobody signed for that.",
            names(&doc.admins)
        );
    }
    if lost.is_none() && doc.reset_at.is_none() {
        output::done(globals.output, "auth.acknowledged", "There is nothing to acknowledge.")?;
        return Ok(ExitCode::SUCCESS);
    }
    if !yes && !prompt::confirm("Have you asked them by another way, and is it so?", "--yes")? {
        return Err(Failure::new(Code::CANCELLED, "Nothing was changed."));
    }
    if let Some(epoch) = lost {
        context.put_aside(&home, epoch.new.epoch)?;
    }
    context.learn(&home, about, Acknowledged::Yes)?;
    output::done(globals.output, "auth.acknowledged", "Acknowledged; this client goes on from here.")?;
    Ok(ExitCode::SUCCESS)
}

/// The epoch before whose beginning entries were lost that this client has seen.
fn lost<'a>(context: &Context, doc: &'a LogDoc, seen: Option<&Seen>) -> Result<Option<&'a EpochDoc>, Failure> {
    let Some(seen) = seen else { return Ok(None) };
    let note = doc.note.as_deref().and_then(|text| context.open_note(text).ok());
    let Some(now) = note else { return Ok(None) };
    let begun = doc.epochs.iter().find(|epoch| seen.epoch < epoch.new.epoch && seen.size > epoch.new.kept.size);
    if begun.is_none() && now.size < seen.size {
        let message = format!("The broker shows {} entries, {} were seen, and no epoch says why.", now.size, seen.size);
        return Err(Failure::new(Code::ROLLED_BACK, message));
    }
    Ok(begun)
}

/// The configuration of the broker on this machine.
#[derive(Debug, Args)]
pub struct ResetArgs {
    /// The broker's configuration; its [trust] names the administrators that are to be
    #[arg(long, default_value = "/etc/jit-broker/jit-broker.toml")]
    config: PathBuf,
    /// Without asking
    #[arg(long)]
    yes: bool,
}

impl ResetArgs {
    /// Runs the verb, on the broker's machine, with the daemon stopped.
    ///
    /// # Errors
    /// [`Code::LEDGER_HELD`] while the daemon runs, or what refuses.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let settings = settings(&self.config)?;
        let admins: Vec<_> = settings.admins.keys().cloned().collect();
        eprintln!(
            "{} becomes the administrator of this broker, and nobody else. It is in the log for ever, every verification tells of it, and every client must acknowledge it once.",
            names(&admins)
        );
        if !self.yes && !prompt::confirm("Is that so?", "--yes")? {
            return Err(Failure::new(Code::CANCELLED, "Nothing was changed."));
        }
        let clock = std::sync::Arc::new(crate::clock::System::new());
        let done = super::onsite::reset(&settings, clock).await?;
        let said =
            if done { "The administrators are those of [trust] now. Start the daemon." } else { "They are already." };
        output::done(globals.output, "trust.reset", said)?;
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn settings(config: &Path) -> Result<crate::settings::Settings, Failure> {
    Ok(crate::settings::Settings::read(config).map_err(|problems| crate::settings::bad_config(&problems))?)
}
