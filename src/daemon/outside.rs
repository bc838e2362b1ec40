//! The outside copies of a configuration: asked first, then kept up to date.

use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::clerk::{corrupt, ledger_refusal};
use crate::domain::digest::read_canonical;
use crate::domain::event::{Entry, Event};
use crate::domain::refusal::Refusal;
use crate::ledger::Reader;
use crate::settings::{Settings, bad_config};
use crate::signer::keys::io_refusal;
use crate::witness::keep::Keeper;
use crate::witness::{Outside, Witnesses, ask_first};

/// The folder in which the notes lie that witnesses signed.
pub const COSIGNED: &str = "cosigned";

/// What the configuration names, read.
///
/// # Errors
/// Every problem.
pub fn witnesses(settings: &Settings) -> Result<Witnesses, Refusal> {
    let folder = settings.state_dir.join(COSIGNED);
    Witnesses::of(&settings.outside.witnesses, folder).map_err(|problems| bad_config(&problems))
}

/// Opens both sides, and asks the outside copies before anything is signed; `recovering` is the signer's state.
///
/// # Errors
/// What is wrong with the configuration; [`Code::OUTSIDE_KNOWS_MORE`](crate::domain::refusal::Code::OUTSIDE_KNOWS_MORE).
pub async fn open(settings: &Settings, reader: &Reader, recovering: bool) -> Result<Outside, Refusal> {
    let witnesses = witnesses(settings)?;
    if !settings.outside.witnesses.is_empty() {
        let folder = settings.state_dir.join(COSIGNED);
        std::fs::create_dir_all(&folder).map_err(|e| io_refusal(&folder, &e))?;
    }
    if let Some(leaf) = reader.leaf(0).await.map_err(|e| ledger_refusal(&e))? {
        let first: Entry = read_canonical(&leaf.bytes).map_err(|e| corrupt(&e.to_string()))?;
        if let Event::Begun(genesis) = &first.event
            && let Some(public) = genesis.log_key.0.ed25519_bytes()
        {
            ask_first(&witnesses, reader, &public, recovering).await?;
        }
    }
    let keeper = Keeper::open(&settings.state_dir, &settings.outside.keeps, &settings.public_url)?;
    Ok(Outside { witnesses, keeper: Arc::new(keeper) })
}

/// Hands every newest checkpoint out, until told to stop.
pub fn tend(
    broker: &Broker,
    witnesses: &Witnesses,
    stop: tokio::sync::watch::Receiver<bool>,
) -> impl Future<Output = ()> + use<> {
    let (reader, notes, clock) = (broker.reader().clone(), broker.notes(), broker.clone());
    witnesses.clone().tend(reader, notes, Arc::new(move || clock.now()), stop)
}
