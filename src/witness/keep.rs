//! Keeping the checkpoints of other logs: a witness as C2SP tlog-witness describes it.
//!
//! True here: a newer checkpoint is taken only with the proof that the log only grew, and is on the disk before it is signed for; one at a
//! time, so that two cannot pass each other. Start at [`Keeper::add`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jit_ca::key::PrivateKey;
use tokio::sync::Mutex;

use super::deliver::put_aside;
use crate::domain::digest::Digest;
use crate::domain::key::Key;
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::cosign::{AddCheckpoint, CosignerKey, cosign};
use crate::ledger::note::{Checkpoint, NoteError, NoteSigner, SignedNote, follows};
use crate::ledger::tree::verify_consistency;
use crate::signer::keys::{read_private, replace, write_new};

const TEXT: &str = "text/plain; charset=utf-8";
/// PROTOCOL: tlog-witness: the type of the answer 409.
const SIZE: &str = "text/x.tlog.size";

/// The folder below the daemon's state in which the newest note of each log lies that is kept.
pub const WITNESSED: &str = "witnessed";

/// The file there in which the key lies that this broker signs with as a witness.
pub const KEY: &str = "witness_key";

/// Status, content type and body of an answer.
pub type Told = (u16, &'static str, String);

/// Keeps the newest checkpoint of each log that the configuration names.
#[derive(Debug, Default)]
pub struct Keeper {
    dir: PathBuf,
    logs: BTreeMap<String, [u8; 32]>,
    own: Option<Own>,
    one: Mutex<()>,
}

/// The key that this broker signs with as a witness; it signs nothing else.
#[derive(Debug)]
struct Own {
    name: String,
    public: [u8; 32],
    key: PrivateKey,
}

impl NoteSigner for Own {
    fn name(&self) -> &str {
        &self.name
    }

    fn public(&self) -> [u8; 32] {
        self.public
    }

    fn sign(&self, body: &[u8]) -> [u8; 64] {
        // The key was looked at when it was opened; a line that does not verify is not sent.
        self.key.sign_ed25519(body).unwrap_or([0; 64])
    }
}

/// The key that a file's text is, and its public half.
///
/// # Errors
/// [`Code::BAD_CONFIG`] when it is none that witnesses sign with.
pub fn key_of(path: &Path, text: &str) -> Result<(PrivateKey, [u8; 32]), Refusal> {
    let wrong = |e: String| Refusal::new(Code::BAD_CONFIG, format!("{} is not usable: {e}.", path.display()));
    let key = PrivateKey::from_openssh(text, None).map_err(|e| wrong(e.to_string()))?;
    let public = key.public().ed25519_bytes().ok_or_else(|| wrong("it is not an Ed25519 key".to_owned()))?;
    Ok((key, public))
}

impl Keeper {
    /// Opens the folder of what is kept, and makes the witness's key where there is none; `name` is the broker's address.
    ///
    /// # Errors
    /// When the key or the folder cannot be used.
    pub fn open(state_dir: &Path, keeps: &BTreeMap<String, Key>, name: &str) -> Result<Self, Refusal> {
        if keeps.is_empty() {
            return Ok(Self::default());
        }
        let (dir, path) = (state_dir.join(WITNESSED), state_dir.join(KEY));
        std::fs::create_dir_all(&dir)
            .map_err(|e| Refusal::new(Code::LOCAL_IO, format!("{} cannot be made: {e}.", dir.display())))?;
        if !path.exists() {
            let mut seed = [0; 32];
            crate::clock::fill(&mut seed);
            let made = PrivateKey::from_seed(seed).to_openssh("jit-broker witness");
            write_new(&path, made.map_err(|e| Refusal::new(Code::BUG, e.to_string()))?.as_bytes())?;
        }
        let (key, public) = key_of(&path, &read_private(&path)?)?;
        let name = name.trim_start_matches("https://").to_owned();
        let logs = keeps.iter().filter_map(|(origin, key)| Some((origin.clone(), key.0.ed25519_bytes()?)));
        Ok(Self { dir, logs: logs.collect(), own: Some(Own { name, public, key }), one: Mutex::default() })
    }

    /// The key by which others know this witness, `NAME+ID+KEY`.
    pub fn public(&self) -> Option<CosignerKey> {
        self.own.as_ref().map(|own| CosignerKey { name: own.name.clone(), public: own.public })
    }

    /// Takes a newer checkpoint of a log; `now` is in Unix seconds.
    pub async fn add(&self, body: &str, now: i64) -> Told {
        match self.judge(body, now).await {
            Ok(line) => (200, TEXT, line),
            Err(told) => told,
        }
    }

    async fn judge(&self, body: &str, now: i64) -> Result<String, Told> {
        let told = |status, text: &str| (status, TEXT, format!("{text}\n"));
        let add = AddCheckpoint::read(body).ok_or_else(|| told(400, "not a body of add-checkpoint"))?;
        let origin = add.note.lines().next().unwrap_or_default();
        let unknown = || told(404, "this log is not kept here");
        let own = self.own.as_ref().ok_or_else(unknown)?;
        let (name, public) = self.logs.iter().find(|(name, _)| follows(origin, name)).ok_or_else(unknown)?;
        let (new, epoch) = SignedNote::open_epoch(&add.note, name, public).map_err(|error| match error {
            NoteError::UnknownKey | NoteError::BadSignature => told(403, "not signed by the log's key"),
            other => told(400, &other.to_string()),
        })?;
        if add.old > new.size {
            return Err(told(400, "the old size is above the new one"));
        }
        let path = self.dir.join(Digest::of(name.as_bytes()).to_string());
        let _one = self.one.lock().await;
        let held = self.held(&path, name, public).map_err(|e| told(500, &e))?;
        // SECURITY: a log does not go back to an epoch that is over. A new one begins with nothing, as every log does at a witness; what was
        // lost before it, its own entries say, and the note of the old one stays here to hold against them.
        let before = match held.as_ref().map(|(_, kept)| *kept) {
            Some(kept) if kept > epoch => {
                tracing::error!("a log that is kept here goes back from epoch {kept} to {origin}:\n{}", add.note);
                return Err(told(422, "a later epoch of this log is kept here"));
            }
            kept => kept.filter(|kept| *kept < epoch),
        };
        let held = held.map(|(held, _)| held).filter(|_| before.is_none());
        let (size, root) = held.map_or((0, None), |held| (held.size, Some(held.root)));
        let conflict = || (409, SIZE, format!("{size}\n"));
        if add.old != size || (size == new.size && root.is_some_and(|root| root != new.root)) {
            return Err(conflict());
        }
        let grown = match root {
            Some(root) => verify_consistency(size, root, new.size, new.root, &add.proof).is_ok(),
            None => add.proof.is_empty(),
        };
        if !grown {
            tracing::error!("a log that is kept here shows a fork of {origin} at {size}:\n{}", add.note);
            return Err(told(422, "the proof does not lead from what is kept here to this"));
        }
        let bytes = add.note.clone().into_bytes();
        let kept = tokio::task::spawn_blocking(move || {
            if let Some(before) = before {
                put_aside(&path, before)?;
                tracing::warn!(
                    "epoch {epoch} of a log that is kept here begins; the last note of epoch {before} stays"
                );
            }
            replace(&path, &bytes, 0o600)
        })
        .await;
        kept.map_err(|e| e.to_string())
            .and_then(|kept| kept.map_err(|refusal| refusal.message))
            .map_err(|e| told(500, &e))?;
        let note = SignedNote { text: add.note };
        let line = cosign(&note, u64::try_from(now).unwrap_or(0), own).unwrap_or_default();
        let holds = self.public().is_some_and(|key| key.open(&format!("{}{line}", note.text)).is_some());
        if holds { Ok(line) } else { Err(told(500, "the witness's key signs nothing")) }
    }

    /// What is kept of a log, and of which epoch.
    fn held(&self, path: &Path, name: &str, public: &[u8; 32]) -> Result<Option<(Checkpoint, u32)>, String> {
        let text = match std::fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| e.to_string())?,
        };
        // SECURITY: what cannot be read is not forgotten: a witness that begins anew attests a roll back.
        SignedNote::open_epoch(&text, name, public).map(Some).map_err(|e| format!("what is kept is damaged: {e}"))
    }
}
