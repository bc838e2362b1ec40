//! Handing one checkpoint to one place, and asking a place what it knows.

use std::path::{Path, PathBuf};

use super::{Place, post};
use crate::domain::digest::read_canonical;
use crate::domain::event::{Entry, Event};
use crate::domain::refusal::Refusal;
use crate::ledger::cosign::{AddCheckpoint, CosignerKey};
use crate::ledger::note::{Checkpoint, SignedNote, epoch_of};
use crate::ledger::{Filter, Reader};
use crate::settings::HttpsUrl;
use crate::signer::keys::{io_refusal, replace};

/// More epochs than a log can have that people begin by hand.
const MOST_EPOCHS: u32 = 1000;

/// Why a place did not take a checkpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// It cannot be reached, or answers nothing of use.
    #[error("{0}")]
    Away(String),
    /// It knows a longer log.
    #[error("it knows {known} entries, the ledger has {here}")]
    Ahead { known: u64, here: u64 },
    /// It knows a later epoch.
    #[error("it knows epoch {known}, the ledger is in epoch {here}")]
    Later { known: u32, here: u32 },
    /// It knows another log.
    #[error("it knows another log of {0} entries: one of the two was made up")]
    Fork(u64),
}

fn away(why: impl std::fmt::Display) -> Trouble {
    Trouble::Away(why.to_string())
}

/// Hands out; gives the note with the witness's signature where it signs.
pub(super) async fn deliver(
    place: &Place,
    known: u64,
    reader: &Reader,
    size: u64,
    note: &str,
) -> Result<Option<String>, Trouble> {
    match place {
        Place::File(path) => write(path, note).await.map(|()| None),
        Place::Webhook { url, ca } => {
            let answer = post::post(url, ca, "text/plain; charset=utf-8", note).await.map_err(away)?;
            if answer.status / 100 == 2 { Ok(None) } else { Err(away(format!("it answered {}", answer.status))) }
        }
        Place::Witness { url, key, ca, cosigned } => {
            let note = add(url, key, ca, reader, known, size, note).await?;
            write(cosigned, &note).await?;
            Ok(Some(note))
        }
    }
}

/// Asks what a place knows of the log whose newest stored checkpoint this is.
pub(super) async fn ask(place: &Place, reader: &Reader, note: &str, public: &[u8; 32]) -> Result<(), Trouble> {
    let origin = note.lines().next().unwrap_or_default();
    let first = epoch_of(origin).map_or_else(|| origin.to_owned(), |(log, _)| format!("{log}/e0"));
    let (here, epoch) = SignedNote::open_epoch(note, &first, public).map_err(away)?;
    match place {
        Place::Webhook { .. } => Ok(()),
        Place::File(path) => {
            let text = match tokio::fs::read_to_string(path).await {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                other => other.map_err(away)?,
            };
            match SignedNote::open_epoch(&text, &first, public) {
                Ok((_, known)) if known > epoch => Err(Trouble::Later { known, here: epoch }),
                Ok((kept, known)) if lost(reader, &kept, known).await? => Ok(()),
                Ok((kept, _)) => compare(reader, &kept, here.size).await,
                Err(error) => Err(away(format!("{} is not a checkpoint of this log: {error}", path.display()))),
            }
        }
        Place::Witness { url, key, ca, .. } => match add(url, key, ca, reader, 0, here.size, note).await {
            // Its checkpoint may have been lost with the power while every leaf of it was kept: the signer signs that size again, and
            // if those are other leaves, the next delivery is a fork.
            Err(Trouble::Ahead { known, .. }) if known <= reader.size().await.map_err(away)? => Ok(()),
            other => other.map(drop),
        },
    }
}

/// True where an epoch that began later says that entries of this checkpoint are lost.
async fn lost(reader: &Reader, kept: &Checkpoint, epoch: u32) -> Result<bool, Trouble> {
    let filter = Filter { kind: Some("epoch.begun".to_owned()), limit: MOST_EPOCHS, ..Filter::default() };
    let leaves = reader.search(&filter).await.map_err(away)?;
    let events = leaves.iter().filter_map(|leaf| read_canonical::<Entry>(&leaf.bytes).ok()).map(|entry| entry.event);
    Ok(events
        .filter_map(|event| match event {
            Event::EpochBegun { new, .. } => Some(new),
            _ => None,
        })
        .any(|new| new.epoch > epoch && kept.size > new.kept.size))
}

async fn compare(reader: &Reader, kept: &Checkpoint, here: u64) -> Result<(), Trouble> {
    let stored = reader.size().await.map_err(away)?;
    if kept.size > stored.max(here) {
        return Err(Trouble::Ahead { known: kept.size, here: stored });
    }
    let root = reader.frontier(kept.size).await.map_err(away)?.root();
    if root == kept.root { Ok(()) } else { Err(Trouble::Fork(kept.size)) }
}

/// C2SP tlog-witness: `add-checkpoint`, once more from the size that the witness says it knows.
async fn add(
    url: &HttpsUrl,
    key: &CosignerKey,
    ca: &Path,
    reader: &Reader,
    known: u64,
    size: u64,
    note: &str,
) -> Result<String, Trouble> {
    let url = HttpsUrl { path: format!("{}/add-checkpoint", url.path), ..url.clone() };
    let mut old = known.min(size);
    for _ in 0..2 {
        let proof = reader.consistency(old, size).await.map_err(away)?;
        let body = AddCheckpoint { old, proof, note: note.to_owned() }.write();
        let answer = post::post(&url, ca, "text/plain; charset=utf-8", &body).await.map_err(away)?;
        let text = String::from_utf8(answer.body).map_err(|_| away("its answer is not text"))?;
        match answer.status {
            200 => {
                let cosigned = format!("{note}{text}");
                // SECURITY: whoever answers 200 without the witness's own signature attests nothing.
                return match key.open(&cosigned) {
                    Some(_) => Ok(cosigned),
                    None => Err(away("it answered without its signature")),
                };
            }
            409 => {
                let said = text.strip_suffix('\n').and_then(|text| text.parse().ok());
                let said: u64 = said.ok_or_else(|| away("it answered 409 without a size"))?;
                if said > size {
                    return Err(Trouble::Ahead { known: said, here: size });
                }
                if said == old {
                    return Err(Trouble::Fork(said));
                }
                old = said;
            }
            422 => return Err(Trouble::Fork(old)),
            404 => return Err(away("it does not keep this log: add its origin and key there")),
            other => return Err(away(format!("it answered {other}"))),
        }
    }
    Err(away("it changes its mind about what it knows"))
}

/// Copies the last note of an epoch that is over to a file of its own beside the one that is replaced.
pub(super) fn put_aside(path: &Path, epoch: u32) -> Result<(), Refusal> {
    let aside = PathBuf::from(format!("{}.e{epoch}", path.display()));
    let copied = std::fs::read(path).map_err(|e| io_refusal(path, &e))?;
    replace(&aside, &copied, 0o644)
}

/// The epoch and the size that a note speaks of, whoever signed it.
fn place(note: &str) -> Option<(u32, u64)> {
    let mut lines = note.lines();
    let (_, epoch) = epoch_of(lines.next()?)?;
    Some((epoch, lines.next()?.parse().ok()?))
}

/// Replaces the file and flushes it, on a thread for that: the disk may hang. What it knows is never replaced by less.
async fn write(path: &Path, note: &str) -> Result<(), Trouble> {
    let (path, note) = (path.to_owned(), note.to_owned());
    let written = tokio::task::spawn_blocking(move || {
        let kept = std::fs::read_to_string(&path).ok().and_then(|text| place(&text));
        if let (Some((before, known)), Some((epoch, here))) = (kept, place(&note)) {
            if before > epoch {
                return Err(Trouble::Later { known: before, here: epoch });
            }
            if before < epoch {
                put_aside(&path, before).map_err(|refusal| away(refusal.message))?;
            } else if known > here {
                return Err(Trouble::Ahead { known, here });
            }
        }
        replace(&path, note.as_bytes(), 0o644).map_err(|refusal| away(refusal.message))
    });
    written.await.map_err(away)?
}
