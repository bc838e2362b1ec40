//! Whom to trust: the keys of the authorities that stand in the log, the revocation list that they sign, and the word that tells others of them.

use jit_ca::key::{CaKey, PublicKey};

use super::gate::{Gate, Head};
use super::{Answer, lies, refused};
use crate::domain::act::KRL_NAMESPACE;
use crate::domain::authority::{Purpose, Ring, SignedTrust, TRUST_NAMESPACE, TrustWord};
use crate::domain::digest::canonical;
use crate::domain::key::Key;
use crate::domain::refusal::{Code, Refusal};

/// What is said where the log names a key that is not there.
fn gone(purpose: Purpose) -> Refusal {
    Refusal::new(
        Code::KEY_GONE,
        format!("This signer does not have the key of the authority {purpose} that the log names."),
    )
}

impl Gate {
    pub(super) fn ring(&self, purpose: Purpose) -> Result<&Ring, Refusal> {
        let none = || refused(format!("There is no authority {purpose}."));
        self.state.authorities.rings.get(&purpose).ok_or_else(none)
    }

    /// The SSH authority that signs.
    pub(super) fn active(&self, purpose: Purpose) -> Result<&CaKey, Refusal> {
        self.keys.ssh(purpose, &self.ring(purpose)?.active).ok_or_else(|| gone(purpose))
    }

    /// The SSH authorities that certificates in use may be of; the one that signs stands first.
    pub(super) fn signing(&self, purpose: Purpose) -> Result<Vec<CaKey>, Refusal> {
        let found = self.ring(purpose)?.signing().filter_map(|key| self.keys.ssh(purpose, key));
        let keys: Vec<CaKey> = found.cloned().collect();
        if keys.is_empty() { Err(gone(purpose)) } else { Ok(keys) }
    }

    /// The key that will replace another one. It is made here and stays here; at most one waits for each purpose.
    pub(super) fn next_key(&mut self, purpose: Purpose) -> Result<Answer, Refusal> {
        let now = self.trusted_now()?;
        let ring = self.state.authorities.rings.get(&purpose);
        Ok(Answer::NextKey { public: self.keys.next(purpose, ring, now)? })
    }

    /// Says whom to trust, signed by the log's key and by each key of the user authority.
    ///
    /// SECURITY: an administrator can have any key staged; one that is not this signer's own is told to nobody.
    pub(super) fn trust(&mut self) -> Result<Answer, Refusal> {
        self.shown()?;
        let genesis = self.state.genesis.clone().ok_or_else(|| lies("The log has not begun."))?;
        let word = TrustWord {
            install: genesis.install,
            version: self.state.authorities.version,
            ssh_user: self.known(Purpose::SshUser)?,
            ssh_gateway: self.known(Purpose::SshGateway)?,
            ssh_host: self.known(Purpose::SshHost)?,
            x509_client: self.pems(Purpose::X509Client)?,
            x509_server: self.pems(Purpose::X509Server)?,
            resets: Some(self.state.resets).filter(|n| *n > 0),
        };
        let bytes = canonical(&word).map_err(|e| Refusal::new(Code::BUG, e.to_string()))?;
        let lint = |e: &dyn std::fmt::Display| Refusal::new(Code::LINT, format!("The word was not signed: {e}."));
        let users = self.ring(Purpose::SshUser)?.trusted().filter_map(|key| self.keys.ssh(Purpose::SshUser, key));
        let signers = std::iter::once(&self.keys.log).chain(users.map(CaKey::inner));
        let signatures = signers.map(|key| jit_ca::sshsig::sign(key, TRUST_NAMESPACE, &bytes).map_err(|e| lint(&e)));
        let signatures = signatures.collect::<Result<_, _>>()?;
        let word = String::from_utf8(bytes).map_err(|e| lint(&e))?;
        Ok(Answer::Trust { trust: SignedTrust { word, signatures } })
    }

    /// The trusted keys of an SSH authority, all of which are here; none where the log began without it.
    fn known(&self, purpose: Purpose) -> Result<Vec<Key>, Refusal> {
        let ring = self.state.authorities.rings.get(&purpose);
        let keys = ring.into_iter().flat_map(Ring::trusted).map(|public| self.keys.ssh(purpose, public));
        keys.map(|key| Ok(Key(key.ok_or_else(|| gone(purpose))?.public().clone()))).collect()
    }

    fn pems(&self, purpose: Purpose) -> Result<Vec<String>, Refusal> {
        let ring = self.state.authorities.rings.get(&purpose);
        let certs = ring.into_iter().flat_map(Ring::trusted).map(|public| self.keys.x509(purpose, public));
        certs.map(|pair| Ok(pair.ok_or_else(|| gone(purpose))?.1.pem().to_owned())).collect()
    }

    pub(super) fn krl(&mut self) -> Result<Answer, Refusal> {
        self.shown()?;
        let published = self.state.krl.clone();
        if published.version == 0 || published.version < self.head.krl_version {
            return Err(lies("The log's revocation list is older than one that was signed."));
        }
        let now = self.keeper.now().at.max(self.state.last_at);
        if let Some(serial) = self.state.krl_wanted(now).difference(&published.serials).next() {
            return Err(refused(format!("List {} lacks serial {serial}, which was revoked since.", published.version)));
        }
        self.remember(Head { krl_version: published.version, ..self.head.clone() })?;
        if published.trust != self.state.authorities.version {
            return Err(refused(format!("List {} is of before the last change of an authority.", published.version)));
        }
        let ring = self.ring(Purpose::SshUser)?;
        let read = |key: &String| PublicKey::parse(key).ok();
        let krl = jit_ca::krl::Krl {
            version: published.version,
            generated_at: u64::try_from(published.at).unwrap_or(0),
            ca: self.active(Purpose::SshUser)?.public().clone(),
            also: ring.former.iter().filter_map(|former| read(&former.public)).collect(),
            retired: ring.retired.iter().filter_map(read).collect(),
            serials: published.serials,
        };
        let bytes = krl.encode();
        let signature = jit_ca::sshsig::sign(self.active(Purpose::SshUser)?.inner(), KRL_NAMESPACE, &bytes)
            .map_err(|e| Refusal::new(Code::LINT, format!("The revocation list was not signed: {e}.")))?;
        Ok(Answer::Krl { krl: data_encoding::BASE64.encode(&bytes), signature, version: published.version })
    }
}
