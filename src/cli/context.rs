//! Which broker, who, and with which key: what `auth login` remembers.

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::home::{Home, read_private, write_private};
use crate::domain::key::Key;
use crate::domain::names::PersonName;
use crate::domain::refusal::Code;
use crate::ledger::note::SignedNote;
use crate::ledger::tree::{Hash, verify_consistency};
use crate::wire::About;

/// The remembered broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `https://HOST:PORT`.
    pub server: String,
    /// What the broker said of itself at the first sign-in; pinned.
    pub about: About,
    /// Who one is there.
    pub person: Option<PersonName>,
    /// The key file, or the fingerprint of a key in the agent.
    pub key: Option<String>,
}

impl Context {
    /// Reads what `auth login` wrote.
    ///
    /// # Errors
    /// [`Code::NOT_SIGNED_IN`] when there is nothing.
    pub fn load(home: &Home) -> Result<Self, Failure> {
        let text = read_private(&home.config.join("context.json"))?;
        let text = text.ok_or_else(|| Failure::new(Code::NOT_SIGNED_IN, "No broker is known here yet."))?;
        serde_json::from_str(&text).map_err(|e| Failure::local("context.json is damaged", e))
    }

    /// Remembers.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, home: &Home) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Failure::local("the context", e))?;
        write_private(&home.config.join("context.json"), &text)
    }

    fn log_bytes(&self) -> [u8; 32] {
        key_bytes(&self.about.log_key)
    }

    /// The newest checkpoint that this client has seen.
    ///
    /// # Errors
    /// When it is damaged: it is the witness, so it is not simply forgotten.
    pub fn seen(&self, home: &Home) -> Result<Option<(u64, Hash, String)>, Failure> {
        let Some(text) = read_private(&home.state.join("checkpoint"))? else { return Ok(None) };
        let note = SignedNote::open(&text, &self.about.origin, &self.log_bytes())
            .map_err(|e| Failure::new(Code::ROLLED_BACK, format!("The remembered checkpoint is damaged: {e}.")))?;
        Ok(Some((note.size, note.root, text)))
    }

    /// Demands that the broker's log only grew since this client last looked (security.md 5.4).
    ///
    /// # Errors
    /// [`Code::ROLLED_BACK`], with both notes saved.
    pub fn witness(&self, home: &Home, note: Option<&str>, proof: &[Hash]) -> Result<(), Failure> {
        let seen = self.seen(home)?;
        let Some(text) = note else {
            return match seen {
                None => Ok(()),
                Some((size, _, _)) => {
                    Err(self.alarm(home, None, format!("it showed no checkpoint; {size} entries were seen before")))
                }
            };
        };
        let new = SignedNote::open(text, &self.about.origin, &self.log_bytes())
            .map_err(|e| self.alarm(home, Some(text), e.to_string()))?;
        if let Some((size, root, _)) = seen {
            if new.size < size {
                return Err(self.alarm(
                    home,
                    Some(text),
                    format!("it shows {} entries; {size} were seen before", new.size),
                ));
            }
            if verify_consistency(size, root, new.size, new.root, proof).is_err() {
                return Err(self.alarm(
                    home,
                    Some(text),
                    format!("its log is another one than the {size} entries seen before"),
                ));
            }
            if new.size == size {
                return Ok(());
            }
        }
        write_private(&home.state.join("checkpoint"), text.as_bytes())
    }

    fn alarm(&self, home: &Home, note: Option<&str>, what: String) -> Failure {
        let path = home.state.join("conflicting-checkpoint");
        let saved = note.map(|text| write_private(&path, text.as_bytes()));
        let kept = home.state.join("checkpoint");
        let files = match saved {
            Some(Ok(())) => format!("{} and {}", kept.display(), path.display()),
            _ => kept.display().to_string(),
        };
        Failure::new(Code::ROLLED_BACK, format!("The broker's log was rolled back or forked: {what}. Kept: {files}."))
    }
}

/// The 32 bytes of an Ed25519 key; zeros, which verify nothing, for another kind.
pub fn key_bytes(key: &Key) -> [u8; 32] {
    key.0.ed25519_bytes().unwrap_or_default()
}
