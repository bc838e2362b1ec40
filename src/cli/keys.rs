//! The key that signs: in the agent, or in a file.

use std::path::{Path, PathBuf};

use jit_ca::key::{KeyError, PrivateKey, PublicKey};

use super::agent::Agent;
use super::failure::Failure;
use super::home::read_private;
use super::prompt;
use crate::domain::key::Key;
use crate::domain::refusal::Code;

/// Something that signs for a person.
#[derive(Debug)]
pub enum Signing {
    /// A private key that was read from a file.
    File(Box<PrivateKey>, Key),
    /// A key in the agent.
    Agent(Key),
}

impl Signing {
    /// Chooses the key: a file or fingerprint that was named, else the agent's first, else the usual files.
    ///
    /// # Errors
    /// [`Code::NO_KEY`].
    pub fn choose(named: Option<&str>) -> Result<Self, Failure> {
        match named {
            Some(fingerprint) if fingerprint.starts_with("SHA256:") => {
                Self::in_agent(|k| k.0.fingerprint() == fingerprint)
                    .ok_or_else(|| Failure::new(Code::NO_KEY, format!("The ssh-agent does not have {fingerprint}.")))
            }
            Some(path) => Self::file(Path::new(path)),
            None => Self::in_agent(|_| true).map_or_else(Self::usual, Ok),
        }
    }

    /// The remembered key, if it signs without asking anybody: in the agent, or a file without a passphrase.
    ///
    /// # Errors
    /// [`Code::NO_KEY`], [`Code::BAD_KEY`].
    pub fn silent(named: &str) -> Result<Self, Failure> {
        if named.starts_with("SHA256:") {
            return Self::choose(Some(named));
        }
        let path = Path::new(named);
        let text = read_private(path)?;
        let text = text.ok_or_else(|| Failure::new(Code::NO_KEY, format!("{} is not there.", path.display())))?;
        let private = PrivateKey::from_openssh(&text, None)
            .map_err(|e| Failure::new(Code::BAD_KEY, format!("{}: {e}.", path.display())))?;
        let public = Key(private.public().clone());
        Ok(Self::File(Box::new(private), public))
    }

    fn in_agent(fits: impl Fn(&Key) -> bool) -> Option<Self> {
        Agent::connect()?.keys().into_iter().find(|k| fits(k)).map(Self::Agent)
    }

    fn usual() -> Result<Self, Failure> {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        for name in ["id_ed25519", "id_ecdsa"] {
            let path = home.join(".ssh").join(name);
            if path.is_file() {
                return Self::file(&path);
            }
        }
        Err(Failure::new(Code::NO_KEY, "There is no ssh-agent with a key, and no ~/.ssh/id_ed25519 or id_ecdsa."))
    }

    /// Reads a private key, or finds the agent's key for a public one.
    ///
    /// # Errors
    /// When it is open to others, not a key, or needs a passphrase and nobody can be asked.
    pub fn file(path: &Path) -> Result<Self, Failure> {
        let wrong = |e: KeyError| Failure::new(Code::BAD_KEY, format!("{}: {e}.", path.display()));
        if path.extension().is_some_and(|e| e == "pub") {
            let key = public(path)?;
            return Self::in_agent(|k| *k == key)
                .ok_or_else(|| Failure::new(Code::NO_KEY, format!("The ssh-agent does not have {}.", path.display())));
        }
        let text = read_private(path)?;
        let text = text.ok_or_else(|| Failure::new(Code::NO_KEY, format!("{} is not there.", path.display())))?;
        let private = match PrivateKey::from_openssh(&text, None) {
            Err(KeyError::Encrypted) => {
                let passphrase =
                    prompt::secret(&format!("Passphrase of {}: ", path.display()), "ssh-add, and no --ssh-key")?;
                PrivateKey::from_openssh(&text, Some(&passphrase)).map_err(wrong)?
            }
            other => other.map_err(wrong)?,
        };
        let public = Key(private.public().clone());
        Ok(Self::File(Box::new(private), public))
    }

    /// The public half.
    pub fn public(&self) -> &Key {
        match self {
            Self::File(_, key) | Self::Agent(key) => key,
        }
    }

    /// True for a security key, which waits for a touch.
    pub fn needs_touch(&self) -> bool {
        matches!(self.public().0.kind(), jit_ca::key::KeyKind::SkEd25519 | jit_ca::key::KeyKind::SkEcdsaP256)
    }

    /// Signs in a namespace (PROTOCOL.sshsig).
    ///
    /// # Errors
    /// [`Code::NO_KEY`] when the agent refuses.
    pub fn sign(&self, namespace: &str, message: &[u8]) -> Result<String, Failure> {
        if self.needs_touch() {
            eprintln!("Touch the security key.");
        }
        let wrong = |e: jit_ca::sshsig::SigError| Failure::new(Code::NO_KEY, format!("{e}."));
        match self {
            Self::File(private, _) => jit_ca::sshsig::sign(private, namespace, message).map_err(wrong),
            Self::Agent(key) => {
                let gone = || Failure::new(Code::NO_KEY, "The ssh-agent is gone.");
                let blob =
                    Agent::connect().ok_or_else(gone)?.sign(key, &jit_ca::sshsig::to_sign(namespace, message))?;
                jit_ca::sshsig::from_agent(&key.0, namespace, &blob).map_err(wrong)
            }
        }
    }
}

/// Reads a public key.
///
/// # Errors
/// When it is not one.
pub fn public(path: &Path) -> Result<Key, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::local(path.display(), e))?;
    let key = PublicKey::parse(text.trim_end_matches('\n'));
    key.map(Key).map_err(|e| Failure::new(Code::BAD_KEY, format!("{}: {e}.", path.display())))
}
