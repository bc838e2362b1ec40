//! Where secrets are read: at the moment of their use, for the one address that they may go to, and kept nowhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use zeroize::Zeroizing;

use crate::accounts::MarkerKey;
use crate::accounts::postgres::Secret as Loaded;
use crate::broker::accounts::{Accounts, Admin};
use crate::domain::names::SecretName;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::target::Address;
use crate::settings::{Secret, SecretFrom, Settings};
use crate::signer::keys::{read_private, write_new};

/// The longest secret, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// The part of the broker that works with databases, as a configuration describes it.
///
/// # Errors
/// When the key of the marks cannot be read or made.
pub fn accounts(settings: &Settings) -> Result<Accounts, Refusal> {
    accounts_with(settings, &Secrets::of(settings))
}

/// The same, with secrets that come from elsewhere once the configuration is read anew.
///
/// # Errors
/// As [`accounts`].
pub fn accounts_with(settings: &Settings, secrets: &Secrets) -> Result<Accounts, Refusal> {
    let secrets = secrets.clone();
    let admins = Arc::new(move |name: &SecretName, address: &Address| {
        admin(&secrets.0.read().unwrap_or_else(PoisonError::into_inner), name, address)
    });
    Ok(Accounts::new(admins, marker_key(&settings.state_dir)?, &settings.state_dir))
}

/// Where secrets come from, as the configuration says now; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Arc<RwLock<BTreeMap<SecretName, Secret>>>);

impl Secrets {
    /// Takes those of a configuration.
    pub fn of(settings: &Settings) -> Self {
        let secrets = Self::default();
        secrets.set(settings);
        secrets
    }

    /// Takes those of another configuration, at once.
    pub fn set(&self, settings: &Settings) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clone_from(&settings.secrets);
    }
}

fn admin(secrets: &BTreeMap<SecretName, Secret>, name: &SecretName, address: &Address) -> Result<Admin, Refusal> {
    let refuse = |why: String| {
        Refusal::new(Code::SECRET, why).hint("Mend [secrets] in jit-broker.toml, then: jit-broker reload")
    };
    let secret = secrets.get(name).ok_or_else(|| refuse(format!("[secrets] of jit-broker.toml has no {name}.")))?;
    // SECURITY (decisions.md 10): whoever changes the inventory must not have the secret sent to a server of their own.
    if secret.target != *address {
        return Err(refuse(format!("The secret {name} is for {}, not for {address}.", secret.target)));
    }
    let (from, user) = (secret.from.clone(), secret.user.clone());
    Ok(Admin { user, secret: Arc::new(move || load(&from)) })
}

fn load(from: &SecretFrom) -> Result<Loaded, String> {
    let text = Zeroizing::new(match from {
        SecretFrom::File(path) => read_private(path).map_err(|refusal| refusal.message)?,
        SecretFrom::Credential(name) => {
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or("the unit has no credentials")?;
            let path = PathBuf::from(folder).join(name);
            fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?
        }
        SecretFrom::Env(name) => std::env::var(name).map_err(|_| format!("${name} is not set"))?,
    });
    if text.len() > MAX_BYTES {
        return Err(format!("it is longer than {MAX_BYTES} bytes"));
    }
    if text.contains("-----BEGIN ") {
        let at = text.find("-----BEGIN CERTIFICATE-----").ok_or("the PEM file has no certificate")?;
        return Ok(Loaded::Certificate {
            cert_pem: text.get(at..).unwrap_or_default().to_owned(),
            key_pem: text.clone(),
        });
    }
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(Loaded::Password(Zeroizing::new(password.to_owned())))
}

/// The file below the daemon's state in which the key of the marks on accounts lies.
pub(super) const MARKER: &str = "marker";

/// The key of the marks on accounts: the same for the installation's life, made at the first start.
fn marker_key(state_dir: &Path) -> Result<MarkerKey, Refusal> {
    let path = state_dir.join(MARKER);
    if !path.exists() {
        let mut bytes = Zeroizing::new([0; 32]);
        crate::clock::fill(bytes.as_mut());
        write_new(&path, Zeroizing::new(data_encoding::HEXLOWER.encode(bytes.as_ref())).as_bytes())?;
    }
    marker_of(&path, &Zeroizing::new(read_private(&path)?))
}

/// The key that a file's text is.
///
/// # Errors
/// [`Code::BAD_CONFIG`] when it is none.
pub(super) fn marker_of(path: &Path, text: &str) -> Result<MarkerKey, Refusal> {
    let bytes = data_encoding::HEXLOWER.decode(text.trim_end().as_bytes()).ok().map(Zeroizing::new);
    let bytes: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.as_slice().try_into().ok());
    let damaged = || Refusal::new(Code::BAD_CONFIG, format!("{} is not 64 hex digits.", path.display()));
    bytes.map(MarkerKey::new).ok_or_else(damaged)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_secret_goes_to_its_own_server_only() {
        let dir = tempfile::tempdir().unwrap();
        write_new(&dir.path().join("pw"), b"hunter2\n").unwrap();
        let secret = Secret {
            from: SecretFrom::File(dir.path().join("pw")),
            target: "db.corp:5432".parse().unwrap(),
            user: "jit_admin".to_owned(),
        };
        let secrets = BTreeMap::from([(SecretName::new("db").unwrap(), secret)]);
        let ask = |name: &str, at: &str| admin(&secrets, &SecretName::new(name).unwrap(), &at.parse().unwrap());
        let loaded = (ask("db", "db.corp:5432").unwrap().secret)().unwrap();
        assert_eq!(loaded, Loaded::Password(Zeroizing::new("hunter2".to_owned())));
        assert!(!format!("{loaded:?}").contains("hunter2"));
        for (name, at) in [("db", "evil.corp:5432"), ("db", "db.corp:5433"), ("other", "db.corp:5432")] {
            let Err(refusal) = ask(name, at) else { panic!("{name} was given to {at}") };
            assert_eq!(refusal.code, Code::SECRET);
        }
    }

    #[test]
    fn the_key_of_the_marks_stays() {
        let dir = tempfile::tempdir().unwrap();
        marker_key(dir.path()).unwrap();
        let first = fs::read(dir.path().join("marker")).unwrap();
        marker_key(dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("marker")).unwrap(), first);
        fs::write(dir.path().join("marker"), "short").unwrap();
        assert!(marker_key(dir.path()).is_err());
    }
}
