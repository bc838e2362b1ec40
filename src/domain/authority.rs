//! The authorities: one key a purpose (decisions.md 28), and how it is replaced without an outage.
//!
//! A new key is *staged*: everybody learns of it and trusts both. Then it is *activated*: it signs from now on. Then the old one is *retired*:
//! nobody is told to trust it any more. Each step is a signed act; who has not heard yet is named, and waited for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::event::Genesis;
use super::ids::InstallId;
use super::key::Key;

/// The SSHSIG namespace in which the signer says whom to trust.
pub const TRUST_NAMESPACE: &str = "trust@jit-broker";

/// What an authority signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// User certificates for hosts, and revocation lists.
    SshUser,
    /// User certificates for the gateway.
    SshGateway,
    /// Host certificates.
    SshHost,
    /// Certificates of database accounts.
    X509Client,
    /// The certificate of the broker's own HTTPS.
    X509Server,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::SshUser, Self::SshGateway, Self::SshHost, Self::X509Client, Self::X509Server];

    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::SshUser => "ssh-user",
            Self::SshGateway => "ssh-gateway",
            Self::SshHost => "ssh-host",
            Self::X509Client => "x509-client",
            Self::X509Server => "x509-server",
        }
    }

    /// True for an OpenSSH key; false for an X.509 certificate.
    pub fn is_ssh(self) -> bool {
        matches!(self, Self::SshUser | Self::SshGateway | Self::SshHost)
    }
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

impl std::str::FromStr for Purpose {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = || Self::ALL.map(Self::word).join(", ");
        Self::ALL.into_iter().find(|p| p.word() == text).ok_or_else(|| format!("one of {}", words()))
    }
}

/// One step of a replacement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// This key is trusted from now on, beside the one that signs. An OpenSSH key or a certificate as PEM; of the server's authority the fingerprint.
    Stage(String),
    /// The staged key signs from now on.
    Activate(Wait),
    /// The key that signed before is trusted no longer.
    Retire(Wait),
    /// The staged key is given up.
    Abandon,
}

/// What is done about those who have not heard yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// They are waited for: the step is refused and names them.
    ForAll,
    /// They lose access until they are told by hand.
    ForNobody,
}

/// A key that is trusted and signs nothing yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The public half.
    pub public: String,
    /// Since when, in Unix seconds.
    pub at: i64,
    /// The version of [`Authorities`] that first named it.
    pub version: u64,
}

/// A key that signed before, and is still trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// The public half.
    pub public: String,
    /// When it was replaced, in Unix seconds.
    pub at: i64,
    /// The last serial that it signed; host and server certificates are not counted here.
    pub serial: u64,
}

/// The keys of one purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// The one that signs.
    pub active: String,
    /// The one that will.
    pub next: Option<Staged>,
    /// The one that did.
    pub former: Option<Former>,
    /// Those that are trusted no longer.
    pub retired: BTreeSet<String>,
    /// Certificates up to this serial are of authorities that are trusted no longer.
    pub worthless: u64,
}

impl Ring {
    fn of(active: String) -> Self {
        Self { active, next: None, former: None, retired: BTreeSet::new(), worthless: 0 }
    }

    /// Those that are trusted; the one that signs stands first.
    pub fn trusted(&self) -> impl Iterator<Item = &str> {
        let next = self.next.iter().map(|staged| staged.public.as_str());
        let former = self.former.iter().map(|former| former.public.as_str());
        std::iter::once(self.active.as_str()).chain(next).chain(former)
    }

    /// Those that certificates in use may be of: the one that signs, and the one that did.
    pub fn signing(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.active.as_str()).chain(self.former.iter().map(|former| former.public.as_str()))
    }
}

fn key(text: &str) -> Option<Key> {
    Key::try_from(text.to_owned()).ok()
}

/// All authorities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorities {
    /// Rises with every step of any replacement.
    pub version: u64,
    /// The keys by purpose; a purpose that the log began without is not there.
    pub rings: BTreeMap<Purpose, Ring>,
}

impl Authorities {
    /// Those that a log begins with.
    pub fn of(genesis: &Genesis) -> Self {
        let first = |purpose| match purpose {
            Purpose::SshUser => Some(genesis.ssh_user.to_string()),
            Purpose::SshGateway => genesis.ssh_gateway.as_ref().map(ToString::to_string),
            Purpose::SshHost => Some(genesis.ssh_host.to_string()),
            Purpose::X509Client => genesis.x509_client.clone(),
            Purpose::X509Server => Some(genesis.x509_server.clone()),
        };
        let rings = Purpose::ALL.into_iter().filter_map(|p| Some((p, Ring::of(first(p)?)))).collect();
        Self { version: 0, rings }
    }

    /// The key that signs, of an SSH authority.
    pub fn ssh(&self, purpose: Purpose) -> Option<Key> {
        key(&self.rings.get(&purpose)?.active)
    }

    /// The trusted keys of an SSH authority; the one that signs stands first.
    pub fn ssh_trusted(&self, purpose: Purpose) -> Vec<Key> {
        self.rings.get(&purpose).into_iter().flat_map(Ring::trusted).filter_map(key).collect()
    }

    /// True for a key that is, was, or will be one of the SSH authorities: nobody has it, and it is never certified.
    pub fn is_one(&self, key: &Key) -> bool {
        let text = key.to_string();
        self.is_one_of(&text)
    }

    /// True for a public half that stands here already, for whatever purpose.
    pub fn is_one_of(&self, public: &str) -> bool {
        self.rings.values().any(|ring| ring.trusted().any(|known| known == public) || ring.retired.contains(public))
    }

    /// True when a certificate of this authority and serial is of one that is trusted no longer.
    pub fn is_worthless(&self, purpose: Purpose, serial: u64) -> bool {
        self.rings.get(&purpose).is_some_and(|ring| serial <= ring.worthless)
    }

    pub(super) fn stage(&mut self, purpose: Purpose, public: &str, at: i64) {
        self.version += 1;
        let staged = Staged { public: public.to_owned(), at, version: self.version };
        if let Some(ring) = self.rings.get_mut(&purpose) {
            ring.next = Some(staged);
        }
    }

    /// `serial` is the last one that the authority signed.
    pub(super) fn activate(&mut self, purpose: Purpose, serial: u64, at: i64) {
        self.version += 1;
        if let Some(ring) = self.rings.get_mut(&purpose)
            && let Some(staged) = ring.next.take()
        {
            let public = std::mem::replace(&mut ring.active, staged.public);
            ring.former = Some(Former { public, at, serial });
        }
    }

    pub(super) fn retire(&mut self, purpose: Purpose) {
        self.version += 1;
        if let Some(ring) = self.rings.get_mut(&purpose)
            && let Some(former) = ring.former.take()
        {
            ring.worthless = former.serial;
            ring.retired.insert(former.public);
        }
    }

    pub(super) fn abandon(&mut self, purpose: Purpose) {
        self.version += 1;
        if let Some(ring) = self.rings.get_mut(&purpose)
            && let Some(staged) = ring.next.take()
        {
            ring.retired.insert(staged.public);
        }
    }
}

/// Whom to trust, as the signer says it to clients and hosts; of several keys the one that signs stands first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustWord {
    /// The installation.
    pub install: InstallId,
    /// Rises with every step of a replacement; an older word is not believed.
    pub version: u64,
    /// The user authority.
    pub ssh_user: Vec<Key>,
    /// The authority over user certificates for the gateway.
    pub ssh_gateway: Vec<Key>,
    /// The host authority.
    pub ssh_host: Vec<Key>,
    /// The client authority's certificates, PEM.
    pub x509_client: Vec<String>,
    /// The server authority's certificates, PEM.
    pub x509_server: Vec<String>,
    /// How often root replaced the administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets: Option<u64>,
}

/// A [`TrustWord`] as it travels: canonical JSON, and signatures over it by the log's key and by the user authority's keys, so that clients
/// know it by the one and hosts by the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedTrust {
    /// The word.
    pub word: String,
    /// Armored SSHSIGs in [`TRUST_NAMESPACE`].
    pub signatures: Vec<String>,
}

impl SignedTrust {
    /// Reads the word, if one of these keys signed it for this installation.
    ///
    /// # Errors
    /// In words, when none did.
    pub fn open(&self, keys: &[Key], install: Option<InstallId>) -> Result<TrustWord, String> {
        let holds = |signature: &String| {
            jit_ca::sshsig::verify(TRUST_NAMESPACE, self.word.as_bytes(), signature)
                .is_ok_and(|verified| keys.contains(&Key(verified.key)))
        };
        if !self.signatures.iter().any(holds) {
            return Err("no key that is trusted here signed it".to_owned());
        }
        let word: TrustWord = serde_json::from_str(&self.word).map_err(|e| e.to_string())?;
        if install.is_some_and(|install| install != word.install) {
            return Err("it is another installation's".to_owned());
        }
        Ok(word)
    }

    /// Reads a word that was opened before.
    pub fn known(&self) -> Option<TrustWord> {
        serde_json::from_str(&self.word).ok()
    }
}
