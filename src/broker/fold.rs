//! From the log to memory: at the start, and whenever memory may hold what is not durable.

use super::Memory;
use super::clerk::{corrupt, ledger_refusal};
use super::orders::CATCH_UP;
use crate::domain::digest::read_canonical;
use crate::domain::event::{ENTRY_VERSION, Entry, Event};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::state::Beside as _;
use crate::ledger::Reader;
use crate::signer::cache::Cache;

/// Folds the log into memory: from a snapshot on that may be used, or from the beginning.
///
/// # Errors
/// When it cannot be read, or holds what this program does not know.
pub async fn fold(reader: &Reader, cache: &Cache) -> Result<Memory, Refusal> {
    let mut memory = Memory::default();
    if cache.path().exists() {
        match super::snapshot::load(cache, reader).await {
            Ok(restored) => memory = restored,
            Err(error) => tracing::warn!("the snapshot is not used, the log is folded from the beginning: {error}"),
        }
    }
    loop {
        let page = reader.leaves(memory.state.size, CATCH_UP).await.map_err(|e| ledger_refusal(&e))?;
        if page.is_empty() {
            break;
        }
        for leaf in page {
            let entry: Entry = match read_canonical(&leaf.bytes) {
                Ok(entry) => entry,
                Err(_) if Entry::is_newer(&leaf.bytes) => return Err(newer(leaf.seq)),
                Err(e) => return Err(corrupt(&format!("entry {}: {e}", leaf.seq))),
            };
            if entry.v > ENTRY_VERSION {
                return Err(newer(leaf.seq));
            }
            if let Event::BundleAdopted { bundle, .. } = &entry.event {
                let admins = memory.state.admins.clone();
                let bytes = reader.blob(bundle.as_bytes()).await.map_err(|e| ledger_refusal(&e))?;
                memory.shelf.put(&bytes.ok_or_else(|| corrupt("an adopted bundle is missing"))?, &admins);
                if memory.shelf.bundle(bundle).is_none() {
                    return Err(corrupt(&format!("the bundle that entry {} adopts cannot be read", leaf.seq)));
                }
            }
            memory.state.apply(&entry, &memory.shelf);
        }
    }
    let needed = memory.state.needed();
    memory.shelf.retain(&needed);
    let admins = memory.state.admins.clone();
    for digest in needed {
        if let Some(bytes) = reader.blob(digest.as_bytes()).await.map_err(|e| ledger_refusal(&e))? {
            memory.shelf.put(&bytes, &admins);
        }
    }
    Ok(memory)
}

fn newer(seq: u64) -> Refusal {
    Refusal::new(Code::LEDGER_NEWER, format!("A newer version of this program wrote entry {seq} of the ledger."))
}
