//! Recovery: the signer holds a log of which it does not know whether it is the newest, and signs nothing until people say so.
//!
//! True here: after a restore, or with a store that is shorter than what was signed, the head says so, and it is over only by an epoch that
//! administrators began after it, and that acknowledges at least all that this signer knows to have signed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::gate::{Gate, Head, LogSigner, hex, origin_at};
use super::head::newest;
use super::keys::replace_for_owner;
use super::{Answer, lies, refused};
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::note::Checkpoint;

/// What must be acknowledged before anything is signed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recovery {
    /// Entries below this were signed before; an epoch counts when it begins after them.
    pub(super) from: u64,
    /// The largest log that this signer signed.
    pub(super) size: u64,
    /// Its root, as hex.
    pub(super) root: String,
    /// Its epoch.
    #[serde(default)]
    pub(super) epoch: u32,
}

/// Makes of a head that was backed up one that is in recovery; gives its size and root.
///
/// # Errors
/// [`Code::BAD_CONFIG`] when it is no head.
pub fn restored(text: &str) -> Result<(String, u64, String), Refusal> {
    let bad = |e: serde_json::Error| Refusal::new(Code::BAD_CONFIG, format!("The signer's head is damaged: {e}."));
    let mut head: Head = serde_json::from_str(newest(text)).map_err(bad)?;
    head.snapshot = None;
    let here = Recovery { from: head.size, size: head.size, root: head.root.clone(), epoch: head.epoch };
    let (size, root) = (here.size, here.root.clone());
    let known = head.recovery.take().filter(|known| known.size > size);
    head.recovery = Some(known.map_or_else(|| here.clone(), |known| Recovery { from: size, ..known }));
    Ok((serde_json::to_string(&head).map_err(bad)?, size, root))
}

/// Takes the store that is there: the newest checkpoint in it is the signer's own, and stands in for a head that is newer, or gone.
///
/// # Errors
/// When the head cannot be read or replaced.
pub fn take_store(path: &Path, stored: &Checkpoint, epoch: u32, genesis: String) -> Result<(), Refusal> {
    let head: Option<Head> = match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(newest(&text)).ok(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(Refusal::new(Code::BAD_CONFIG, format!("{} cannot be read: {e}.", path.display()))),
    };
    let (size, root) = (stored.size, hex(&stored.root));
    let signed = head.iter().map(|h| Recovery { from: size, size: h.size, root: h.root.clone(), epoch: h.epoch });
    let before = head.iter().filter_map(|head| head.recovery.clone());
    let kept = Recovery { from: size, size, root: root.clone(), epoch };
    let known = signed.chain(before).fold(kept, |known, other| if other.size > known.size { other } else { known });
    let (krl_version, late) = head.map_or_else(Default::default, |head| (head.krl_version, head.late));
    let recovery = Some(Recovery { from: size, ..known });
    let next = Head { size, root, krl_version, genesis, epoch, recovery, late, snapshot: None };
    let text = serde_json::to_vec(&next).map_err(|e| Refusal::new(Code::BUG, e.to_string()))?;
    replace_for_owner(path, &text)
}

impl Gate {
    /// Why nothing is signed, while the signer does not know whether its log is the newest.
    pub(super) fn recovering(&self) -> Option<Refusal> {
        let known = self.head.recovery.as_ref()?;
        let covers = |epoch: &&crate::domain::epoch::Epoch| {
            let seen = epoch.new.seen.as_ref().filter(|seen| seen.size > epoch.new.kept.size);
            let most = seen.unwrap_or(&epoch.new.kept);
            let same = most.size != known.size || hex(most.root.as_bytes()) == known.root;
            epoch.seq >= known.from && most.size >= known.size && same
        };
        if self.state.epochs.last().filter(covers).is_some() {
            return None;
        }
        let message = format!(
            "The signer was restored, or its log is shorter than the {} entries that it signed: nothing is signed until a new epoch begins that acknowledges that.",
            known.size
        );
        Some(Refusal::new(Code::RECOVERY, message))
    }

    /// The largest checkpoint that was signed before the recovery: signing it again says nothing new, and lets an epoch acknowledge it.
    pub(super) fn signed_before(&mut self) -> Result<Answer, Refusal> {
        let none = || refused("The signer is not in recovery.");
        let known = self.head.recovery.clone().ok_or_else(none)?;
        let genesis = self.state.genesis.as_ref().ok_or_else(|| lies("The log has not begun."))?;
        let origin = origin_at(&genesis.install.to_string(), known.epoch);
        let root = data_encoding::HEXLOWER.decode(known.root.as_bytes()).ok();
        let root = root.and_then(|bytes| bytes.try_into().ok()).ok_or_else(none)?;
        let checkpoint = Checkpoint { origin: origin.clone(), size: known.size, root };
        let signer = LogSigner { name: origin, key: &self.keys.log, public: self.log_bytes()? };
        Ok(Answer::Checkpoint { note: checkpoint.sign(&signer).text, size: known.size })
    }
}
