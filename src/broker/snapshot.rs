//! The broker's snapshot: a cache of the fold, for a fast start (decisions.md 16).
//!
//! True here: it is used only if its tree is the log's and was signed at that size, and a leaf that is in the signed log has its SHA-256;
//! anything else is a line in the log and a fold from the beginning. It is written off the clerk's path.
//! Never here: anything for the signer, which has its own.

use std::sync::Arc;

use super::clerk::ledger_refusal;
use super::{Broker, Memory};
use crate::domain::bundle::{Bundle, BundleText};
use crate::domain::digest::read_canonical;
use crate::domain::event::{Command, Entry, Event, Genesis};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::snapshot::{Restored, SnapshotError, Still};
use crate::ledger::{Checkpoint, Filter, Reader, SignedNote, leaf_hash, tree};
use crate::signer::cache::{Cache, WORTH, every};
use crate::signer::gate::origin_of;

/// How many of the newest snapshot leaves are looked through for the file's own.
const NEWEST: u32 = 16;

fn unfit(why: &'static str) -> SnapshotError {
    SnapshotError::Shape(why)
}

fn unreadable(error: &crate::ledger::LedgerError) -> SnapshotError {
    SnapshotError::Io(std::io::Error::other(error.to_string()))
}

/// The fold as the snapshot has it, if it may be used.
///
/// # Errors
/// Why it may not.
pub async fn load(cache: &Cache, reader: &Reader) -> Result<Memory, SnapshotError> {
    let path = cache.clone();
    let read = tokio::task::spawn_blocking(move || path.read()).await;
    let mut found = read.map_err(|_| unfit("reading it failed"))??;
    let genesis = genesis(reader).await?;
    if found.state.genesis.as_deref() != Some(&genesis) || found.state.size == 0 {
        return Err(unfit("it is of another log"));
    }
    of_this_tree(&found, &genesis, reader).await?;
    vouched(&found, &genesis, reader).await?;
    if found.state.bundle.digest != found.bundle {
        let bytes = reader.blob(found.bundle.as_bytes()).await.map_err(|e| unreadable(&e))?;
        let text =
            bytes.and_then(|b| BundleText::from_bytes(&b).ok()).ok_or_else(|| unfit("its bundle is not there"))?;
        let admins: Vec<_> = found.state.admins.keys().cloned().collect();
        let bundle = Bundle::parse(&text, &admins).map_err(|_| unfit("its bundle does not parse"))?;
        found.adopt(Arc::new(bundle))?;
    }
    Ok(Memory { state: found.state, shelf: found.shelf })
}

async fn genesis(reader: &Reader) -> Result<Genesis, SnapshotError> {
    let leaf = reader.leaf(0).await.map_err(|e| unreadable(&e))?.ok_or_else(|| unfit("the log has not begun"))?;
    match read_canonical::<Entry>(&leaf.bytes).map(|entry| entry.event) {
        Ok(Event::Begun(genesis)) => Ok(*genesis),
        _ => Err(unfit("the log has no beginning")),
    }
}

fn opened(text: Option<String>, genesis: &Genesis) -> Result<Checkpoint, SnapshotError> {
    let text = text.ok_or_else(|| unfit("no checkpoint of its size was signed"))?;
    let public = genesis.log_key.0.ed25519_bytes().ok_or_else(|| unfit("the log's key is not Ed25519"))?;
    let origin = origin_of(&genesis.install.to_string());
    let opened = SignedNote::open_epoch(&text, &origin, &public).map_err(|_| unfit("the checkpoint is not signed"))?;
    Ok(opened.0)
}

/// Size and root are those of a signed checkpoint, and of the log that is there.
async fn of_this_tree(found: &Restored, genesis: &Genesis, reader: &Reader) -> Result<(), SnapshotError> {
    let size = found.state.size;
    let checkpoint = opened(reader.checkpoint_at(size).await.map_err(|e| unreadable(&e))?, genesis)?;
    let frontier = reader.frontier(size).await.map_err(|e| unreadable(&e))?;
    let same = checkpoint.size == size && checkpoint.root == frontier.root() && frontier.encode() == found.frontier;
    if same { Ok(()) } else { Err(unfit("its tree is not the one that was signed")) }
}

/// A leaf of the signed log has its SHA-256.
async fn vouched(found: &Restored, genesis: &Genesis, reader: &Reader) -> Result<(), SnapshotError> {
    let filter = Filter { kind: Some("snapshot.taken".to_owned()), limit: NEWEST, ..Filter::default() };
    let leaves = reader.search(&filter).await.map_err(|e| unreadable(&e))?;
    let wanted = Event::SnapshotTaken { size: found.state.size, sha256: found.sha256 };
    let names = |bytes: &[u8]| read_canonical::<Entry>(bytes).is_ok_and(|entry| entry.event == wanted);
    let leaf = leaves.iter().find(|leaf| names(&leaf.bytes)).ok_or_else(|| unfit("no leaf has its SHA-256"))?;
    let newest = opened(reader.checkpoint_newest().await.map_err(|e| unreadable(&e))?, genesis)?;
    let proof = reader.inclusion(leaf.seq, newest.size).await.map_err(|e| unreadable(&e))?;
    tree::verify_inclusion(leaf_hash(&leaf.bytes), leaf.seq, newest.size, &proof, newest.root)
        .map_err(|_| unfit("the leaf that has its SHA-256 is not in the signed log"))
}

fn failed(error: &SnapshotError) -> Refusal {
    Refusal::new(Code::LOCAL_IO, format!("The snapshot was not written: {error}."))
}

impl Broker {
    /// Writes a snapshot of what is durable and signed now, and has its SHA-256 logged.
    ///
    /// # Errors
    /// When the disk refuses, or the signer has not signed this size; the older snapshot stays.
    pub async fn snapshot(&self) -> Result<(), Refusal> {
        let _one_at_a_time = self.inner.snapshotting.lock().await;
        let still = Still::of(&self.memory().await.state, Vec::new(), Vec::new());
        let size = still.size();
        let signed = self.changed().wait_for(|seen| *seen >= size).await.is_ok();
        let noted = self.reader().checkpoint_at(size).await.map_err(|e| ledger_refusal(&e))?;
        if !signed || noted.is_none() {
            return Err(Refusal::new(Code::SIGNER_AWAY, "No checkpoint of this size was signed; no snapshot."));
        }
        let frontier = self.reader().frontier(size).await.map_err(|e| ledger_refusal(&e))?;
        let (cache, still) = (self.inner.cache.clone(), still.with_frontier(frontier.encode()));
        let written = tokio::task::spawn_blocking(move || cache.write(&still)).await;
        let snapshot = written.unwrap_or(Err(unfit("writing it failed"))).map_err(|e| failed(&e))?;
        self.command(Command::Snapshot { size: snapshot.size, sha256: snapshot.sha256 }, Vec::new()).await?;
        self.inner.cache.keep().map_err(|e| failed(&e))
    }

    /// How many entries came since the newest snapshot, and after how many the next one is due.
    async fn since_snapshot(&self) -> (u64, u64) {
        let memory = self.memory().await;
        let state = &memory.state;
        let since = state.size.saturating_sub(state.snapshot.map_or(0, |s| s.size));
        (since, every(state.requests.len() + state.grants.len()))
    }

    /// At a stop: a snapshot where it saves the next start something.
    pub async fn snapshot_at_stop(&self) {
        if self.since_snapshot().await.0 >= WORTH
            && let Err(refusal) = self.snapshot().await
        {
            tracing::warn!(code = %refusal.code, "{}", refusal.message);
        }
    }
}

/// Takes snapshots while the log grows, until the broker stops.
pub async fn run(broker: Broker, mut stop: tokio::sync::watch::Receiver<bool>) {
    let mut changed = broker.changed();
    // A snapshot that fails is tried again when as many entries have come again.
    let mut tried = 0;
    loop {
        tokio::select! {
            grown = changed.changed() => if grown.is_err() { return },
            _ = stop.changed() => return,
        }
        let size = *changed.borrow_and_update();
        if size < tried {
            continue;
        }
        let (since, due) = broker.since_snapshot().await;
        tried = size + due.saturating_sub(since).max(1);
        if since < due {
            continue;
        }
        tried = size + due;
        if let Err(refusal) = broker.snapshot().await {
            tracing::warn!(code = %refusal.code, "{}", refusal.message);
        }
    }
}
