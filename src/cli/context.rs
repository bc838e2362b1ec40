//! Which broker, who, and with which key: what `auth login` remembers.

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::home::{Home, lock, private_folder, read_private, write_private};
use crate::domain::ids::origin_of;
use crate::domain::names::PersonName;
use crate::domain::refusal::Code;
use crate::ledger::note::SignedNote;
use crate::ledger::tree::{Hash, verify_consistency};
use crate::settings::url_host;
use crate::wire::About;

/// A checkpoint as this client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its epoch.
    pub epoch: u32,
    /// How many entries it has.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// The signed note.
    pub text: String,
}

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
        let text = text.ok_or_else(|| {
            let mut failure = Failure::new(Code::NOT_SIGNED_IN, "No broker is known here yet.");
            let hint =
                "jit-broker auth login --server https://HOST[:PORT] --fingerprint SHA256:…, as your administrator says";
            failure.0.hint = Some(hint.to_owned());
            failure
        })?;
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

    /// Reads a signed note of this broker's log, of whatever epoch.
    ///
    /// # Errors
    /// In words.
    pub fn open_note(&self, text: &str) -> Result<Seen, String> {
        let public = log_bytes(&self.about).map_err(|failure| failure.0.message)?;
        let origin = origin_of(&self.about.install.to_string());
        let (note, epoch) = SignedNote::open_epoch(text, &origin, &public).map_err(|e| e.to_string())?;
        Ok(Seen { epoch, size: note.size, root: note.root, text: text.to_owned() })
    }

    /// The newest checkpoint that this client has seen.
    ///
    /// # Errors
    /// When it is damaged: it is the witness, so it is not simply forgotten.
    pub fn seen(&self, home: &Home) -> Result<Option<Seen>, Failure> {
        let Some(text) = read_private(&home.state.join("checkpoint"))? else { return Ok(None) };
        let damaged = |e| Failure::new(Code::ROLLED_BACK, format!("The remembered checkpoint is damaged: {e}."));
        self.open_note(&text).map(Some).map_err(damaged)
    }

    /// Demands that the broker's log only grew since `sent`, the checkpoint that the request named (security.md 5.4).
    ///
    /// # Errors
    /// [`Code::ROLLED_BACK`], with both notes saved; [`Code::EPOCH`] when entries that were seen are lost, and a new epoch says so.
    pub fn witness(&self, home: &Home, sent: Option<&Seen>, note: Option<&str>, proof: &[Hash]) -> Result<(), Failure> {
        let Some(text) = note else {
            let size = sent.map_or(0, |seen| seen.size);
            return Err(self.alarm(home, None, format!("it showed no checkpoint; {size} entries were seen before")));
        };
        let new = self.open_note(text).map_err(|e| self.alarm(home, Some(text), e))?;
        if let Some(seen) = sent {
            if new.epoch < seen.epoch {
                let what = format!("it shows epoch {}; epoch {} was seen before", new.epoch, seen.epoch);
                return Err(self.alarm(home, Some(text), what));
            }
            let grew =
                new.size >= seen.size && verify_consistency(seen.size, seen.root, new.size, new.root, proof).is_ok();
            if !grew && new.epoch > seen.epoch {
                // What was seen stays remembered until somebody acknowledges that it is gone.
                let message = format!(
                    "The broker's log began epoch {}, and does not have all of the {} entries that this client has seen.",
                    new.epoch, seen.size
                );
                return Err(Failure::new(Code::EPOCH, message));
            }
            if new.size < seen.size {
                let what = format!("it shows {} entries; {} were seen before", new.size, seen.size);
                return Err(self.alarm(home, Some(text), what));
            }
            if !grew {
                let what = format!("its log is another one than the {} entries seen before", seen.size);
                return Err(self.alarm(home, Some(text), what));
            }
        }
        self.remember(home, sent, &new)
    }

    /// Stores the newer checkpoint, unless another run of this program stored one while this one waited for its answer.
    fn remember(&self, home: &Home, sent: Option<&Seen>, new: &Seen) -> Result<(), Failure> {
        private_folder(&home.state)?;
        let _lock = lock(&home.state.join("checkpoint.lock"))?;
        match self.seen(home)? {
            Some(now) if (now.epoch, now.size) == (new.epoch, new.size) && now.root != new.root => {
                Err(self.alarm(home, Some(&new.text), format!("it shows two logs of {} entries", new.size)))
            }
            // INVARIANT: what is remembered was proven from what was remembered before; without a proof from the other run's
            // checkpoint to this one, theirs stays, and the next request asks for the proof from there.
            now if now.as_ref() != sent => Ok(()),
            Some(now) if (now.epoch, now.size) == (new.epoch, new.size) => Ok(()),
            _ => write_private(&home.state.join("checkpoint"), new.text.as_bytes()),
        }
    }

    /// Puts aside the checkpoint of a log whose loss somebody acknowledged here: it is kept, and not compared any more.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put_aside(&self, home: &Home, epoch: u32) -> Result<(), Failure> {
        let _lock = lock(&home.state.join("checkpoint.lock"))?;
        let (from, to) = (home.state.join("checkpoint"), home.state.join(format!("checkpoint.lost-before-e{epoch}")));
        match std::fs::rename(&from, &to) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::local(from.display(), e)),
            _ => Ok(()),
        }
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

/// The 32 bytes of the log's key.
///
/// # Errors
/// [`Code::UNTRUSTED_SERVER`] for a key of another kind: there is no stand-in that verifies nothing.
fn log_bytes(about: &About) -> Result<[u8; 32], Failure> {
    let bytes = about.log_key.0.ed25519_bytes();
    bytes.ok_or_else(|| Failure::new(Code::UNTRUSTED_SERVER, "The broker's log key is not an Ed25519 key."))
}

/// Demands that what a broker says of itself holds together, before it is pinned.
///
/// # Errors
/// [`Code::UNTRUSTED_SERVER`].
pub fn consistent(about: &About) -> Result<(), Failure> {
    log_bytes(about)?;
    let first = origin_of(&about.install.to_string());
    let same = about.origin.rsplit_once("/e").is_some_and(|(base, epoch)| {
        first.strip_suffix("/e0") == Some(base) && epoch.parse::<u32>().is_ok_and(|n| n.to_string() == epoch)
    });
    if !same {
        return Err(Failure::new(Code::UNTRUSTED_SERVER, "The broker's log is named after another installation."));
    }
    super::trust::said(about, &about.log_key)?;
    let mut keys = vec![&about.log_key, &about.ssh_user, &about.ssh_host];
    keys.extend(&about.ssh_gateway);
    let purposes = keys.len();
    keys.sort();
    keys.dedup();
    if keys.len() < purposes {
        return Err(Failure::new(Code::UNTRUSTED_SERVER, "The broker uses one key for two purposes."));
    }
    Ok(())
}

/// Demands that the address in sign-ins is the one that this client dials, or that it dials this very machine.
///
/// # Errors
/// [`Code::UNTRUSTED_SERVER`]: a broker that has others sign for somebody else's address could pass the sign-in on to it.
pub fn same_address(server: &str, public_url: &str) -> Result<(), Failure> {
    let (dialled, named) = (url_host(server), url_host(public_url));
    let same = dialled.is_some() && dialled.as_ref().map(lower) == named.as_ref().map(lower);
    let here = dialled.is_some_and(|(host, _)| {
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    });
    if same || here {
        return Ok(());
    }
    let mut failure = Failure::new(
        Code::UNTRUSTED_SERVER,
        format!("{server} wants a sign-in for {public_url}, which is another address."),
    );
    failure.0.hint = Some(format!("jit-broker auth login --server {public_url}"));
    Err(failure)
}

fn lower((host, port): &(String, u16)) -> (String, u16) {
    (host.to_ascii_lowercase(), *port)
}

#[cfg(test)]
mod tests;
