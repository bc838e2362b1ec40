//! Handing one checkpoint to one place, and asking a place what it knows.

use std::path::Path;

use super::{Place, post};
use crate::ledger::Reader;
use crate::ledger::cosign::{AddCheckpoint, CosignerKey};
use crate::ledger::note::{Checkpoint, SignedNote};
use crate::settings::HttpsUrl;
use crate::signer::keys::replace;

/// Why a place did not take a checkpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// It cannot be reached, or answers nothing of use.
    #[error("{0}")]
    Away(String),
    /// It knows a longer log.
    #[error("it knows {known} entries, the ledger has {here}")]
    Ahead { known: u64, here: u64 },
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
    let here = SignedNote::open(note, origin, public).map_err(away)?;
    match place {
        Place::Webhook { .. } => Ok(()),
        Place::File(path) => {
            let text = match tokio::fs::read_to_string(path).await {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                other => other.map_err(away)?,
            };
            match SignedNote::open(&text, origin, public) {
                Ok(kept) => compare(reader, &kept, here.size).await,
                Err(error) => Err(away(format!("{} is not a checkpoint of this log: {error}", path.display()))),
            }
        }
        Place::Witness { url, key, ca, .. } => add(url, key, ca, reader, 0, here.size, note).await.map(drop),
    }
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

/// Replaces the file and flushes it, on a thread for that: the disk may hang.
async fn write(path: &Path, note: &str) -> Result<(), Trouble> {
    let (path, note) = (path.to_owned(), note.to_owned());
    let written = tokio::task::spawn_blocking(move || replace(&path, note.as_bytes(), 0o644)).await;
    written.map_err(away)?.map_err(|refusal| away(refusal.message))
}
