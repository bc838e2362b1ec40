//! The log's epochs as the broker tells of them, and what it asks of a new one before it is an entry.

use super::Broker;
use super::clerk::SignerHandle;
use super::view::instant;
use crate::domain::act::Deed;
use crate::domain::epoch::Witnessed;
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::SignedNote;
use crate::signer::gate::origin_of;
use crate::signer::{Answer, Order};
use crate::wire::{EpochDoc, LogDoc, ProposalDoc};

impl SignerHandle {
    /// True when the signer signs nothing before a new epoch begins; asked before it is shown the log.
    pub async fn recovering(&self) -> bool {
        // A signer that cannot be asked is taken for one that signs.
        let lacks_the_log = |refusal: Refusal| refusal.code == Code::LOG_LIES;
        self.raw(Order::Signed).await.map_or_else(lacks_the_log, |_| true)
    }
}

impl Broker {
    /// How the log stands.
    pub async fn log_doc(&self) -> LogDoc {
        let why = self.health();
        let (note, signed) = self.signed_notes().await;
        let memory = self.memory().await;
        let state = &memory.state;
        LogDoc {
            schema: "jit-broker/log/v1".to_owned(),
            epoch: state.epoch,
            size: state.size,
            recovering: why.as_ref().is_some_and(|why| why.code == Code::RECOVERY),
            unsigned: why.map(|why| why.message),
            note,
            signed,
            proposal: state.proposal.as_ref().map(|p| ProposalDoc { by: p.by.clone(), new: p.new.clone() }),
            epochs: (state.epochs.iter())
                .map(|e| EpochDoc { new: e.new.clone(), seq: e.seq, at: instant(e.at), by: e.by.clone() })
                .collect(),
            admins: state.admins.keys().cloned().collect(),
            reset_at: state.reset.as_ref().map(|reset| instant(reset.at)),
        }
    }

    /// The newest checkpoint that this log bears out, and in recovery what the signer signed beyond it.
    async fn signed_notes(&self) -> (Option<String>, Option<String>) {
        let stored = self.note();
        let known = match self.health().filter(|why| why.code == Code::RECOVERY) {
            Some(_) => self.order(Order::Signed).await.ok(),
            None => None,
        };
        let Some(Answer::Checkpoint { note, size }) = known else { return (stored.map(|(_, note)| note), None) };
        let root = note.lines().nth(2).and_then(|root| data_encoding::BASE64.decode(root.as_bytes()).ok());
        let here = self.reader().frontier(size).await.is_ok_and(|frontier| Some(frontier.root().to_vec()) == root);
        match stored {
            Some((kept, text)) if !here || kept >= size => (Some(text), Some(note).filter(|_| !here)),
            _ if here => (Some(note), None),
            _ => (None, Some(note)),
        }
    }

    /// Refuses an epoch that is founded on checkpoints that nobody signed, or on one that is not of this log.
    ///
    /// # Errors
    /// [`Code::BAD_ACT`].
    pub async fn may_begin(&self, deed: &Deed) -> Result<(), Refusal> {
        let Deed::BeginEpoch { new, .. } = deed else { return Ok(()) };
        let bad = |what: &str| Refusal::new(Code::BAD_ACT, format!("The epoch cannot begin: {what}."));
        let (origin, public) = {
            let memory = self.memory().await;
            let genesis = memory.state.genesis.as_ref().ok_or_else(|| bad("the log has not begun"))?;
            (origin_of(&genesis.install.to_string()), genesis.log_key.0.ed25519_bytes().unwrap_or_default())
        };
        let signed = |note: &Witnessed| {
            SignedNote::open_epoch(&note.note, &origin, &public).is_ok_and(|(checkpoint, epoch)| {
                (checkpoint.size, checkpoint.root, epoch) == (note.size, *note.root.as_bytes(), note.epoch)
            })
        };
        if !std::iter::once(&new.kept).chain(&new.seen).all(signed) {
            return Err(bad("a checkpoint that it quotes is not signed by this log's key"));
        }
        let frontier = self.reader().frontier(new.kept.size).await;
        if frontier.is_ok_and(|frontier| frontier.root() == *new.kept.root.as_bytes()) {
            return Ok(());
        }
        Err(bad("the checkpoint that is said to be kept is of another log"))
    }
}
