//! What the gate signs: each verb with its own checks, on the state that it has folded by itself.

use jit_ca::key::CaKey;
use jit_ca::limits::Limits;
use jit_ca::spec::{CertWindow, HostSpec, KeyId, Principal, Principals, Serial, UserSpec};
use jit_ca::x509::ServerLeafSpec;

use super::gate::Gate;
use super::{Answer, lies, refused};
use crate::domain::authority::Purpose;
use crate::domain::decide::{client_spec, leg_spec, user_spec};
use crate::domain::digest::Digest;
use crate::domain::grant::{Credential, CredentialKind, LiveGrant};
use crate::domain::ids::{GrantId, SessionId};
use crate::domain::key::Key;
use crate::domain::names::TargetName;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::target::Mode;

/// How long the daemon's HTTPS certificate is valid, in seconds; the daemon renews it daily.
const SERVER_LEAF_S: i64 = 7 * 86_400;
/// How long a host certificate of the gateway is valid, in seconds; the gateway renews it every few hours.
const GATEWAY_CERT_S: i64 = 86_400;

impl Gate {
    pub(super) fn credential(&mut self, id: GrantId, key: &Key) -> Result<Answer, Refusal> {
        let now = self.trusted_now()?;
        let (live, credential) = self.allowed(id, key, now)?;
        if credential.kind == CredentialKind::X509Client {
            return self.client_leaf(&live, credential);
        }
        self.user_cert(&live, credential)?.sign()
    }

    /// As [`Gate::credential`], up to the signature. Certificates of databases are signed as a whole: beside the account that is made for
    /// them they are quick.
    pub(super) fn judge_credential(&mut self, id: GrantId, key: &Key) -> Option<Result<Signing, Refusal>> {
        let ssh = |gate: &Self| gate.state.grants.get(&id).is_some_and(|grant| grant.terms.database.is_none());
        if !(self.settled() && ssh(self)) {
            return None;
        }
        Some(self.trusted_now().and_then(|now| {
            let (live, credential) = self.allowed(id, key, now)?;
            self.user_cert(&live, credential)
        }))
    }

    /// What the log allows for a grant and a key at this moment.
    fn allowed(&self, id: GrantId, key: &Key, now: i64) -> Result<(LiveGrant<'_>, &Credential), Refusal> {
        let grant = self.state.grants.get(&id).ok_or_else(|| refused("The log knows no such grant."))?;
        let live = grant.live_at(now).map_err(|r| refused(r.message))?;
        if self.state.disabled.contains(&live.person) {
            return Err(refused("The holder is disabled."));
        }
        if self.state.revoked_keys.contains(key) {
            return Err(refused("The key was revoked."));
        }
        if !live.keys.contains(key) {
            return Err(refused("The grant is for another key."));
        }
        let credential =
            grant.credential_for(key, now).ok_or_else(|| refused("The log allows no certificate for this key."))?;
        if self.late.grants.contains(&id) || self.late.serials.get(&credential.serial) == Some(&id) {
            return Err(refused("The signer was shown this too late to believe it: release the grant and ask again."));
        }
        let purpose = credential.kind.purpose();
        if purpose != Purpose::X509Client && self.state.authorities.is_worthless(purpose, credential.serial) {
            return Err(refused("The certificate is of an authority that was retired."));
        }
        Ok((live, credential))
    }

    fn user_cert(&self, live: &LiveGrant<'_>, credential: &Credential) -> Result<Signing, Refusal> {
        let authorities = self.signing(credential.kind.purpose())?;
        Ok(Signing { authorities, spec: user_spec(live, credential)?, allowed: credential.tbs_sha256 })
    }

    pub(super) fn session_leg(&mut self, id: SessionId) -> Result<Answer, Refusal> {
        let now = self.trusted_now()?;
        let session = self.state.sessions.get(&id).ok_or_else(|| refused("The log knows no such session."))?;
        if session.end_asked_by.is_some() || self.state.revoked_keys.contains(&session.by_key) {
            return Err(refused("The session is to end."));
        }
        let grant = self.state.grants.get(&session.grant).ok_or_else(|| refused("The log knows no such grant."))?;
        let live = grant.live_at(now).map_err(|r| refused(r.message))?;
        if self.state.disabled.contains(&live.person) {
            return Err(refused("The holder is disabled."));
        }
        if self.late.grants.contains(&live.id) {
            return Err(refused("The signer was shown this too late to believe it: release the grant and ask again."));
        }
        // SECURITY (T35): from anywhere else than the gateway the certificate is worthless, and where that is the daemon does not say.
        if session.leg.source != self.pins.gateway_source {
            return Err(refused("The gateway's addresses are not those of the signer's configuration."));
        }
        let authorities = self.signing(Purpose::SshUser)?;
        Signing { authorities, spec: leg_spec(&live, session)?, allowed: session.leg.tbs_sha256 }.sign()
    }

    pub(super) fn gateway_cert(&mut self, key: &Key, target: Option<&TargetName>) -> Result<Answer, Refusal> {
        let now = self.trusted_now()?;
        let names = match target {
            None => self.pins.gateway_names.clone(),
            Some(name) => {
                // SECURITY: in the name of a host that people reach directly it would stand in for that host.
                let through = self.state.bundle.targets.get(name).is_some_and(|t| t.mode == Mode::Gateway);
                if !through {
                    return Err(refused("No target of this name is reached through the gateway."));
                }
                vec![name.to_string()]
            }
        };
        if self.state.revoked_keys.contains(key) || self.state.owner_of(key).is_some() {
            return Err(refused("The gateway's key is a person's, or was revoked."));
        }
        let mut random = [0; 8];
        crate::clock::fill(&mut random);
        // Above every serial that the log counts.
        let serial = (u64::from_be_bytes(random) >> 2) | (1 << 62);
        let mut nonce = [0; 32];
        crate::clock::fill(&mut nonce);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.host(key, serial, "jit:gateway", &names, (now - 3600, now + GATEWAY_CERT_S), nonce)
    }

    fn host(
        &self,
        key: &Key,
        serial: u64,
        id: &str,
        names: &[&str],
        window: (i64, i64),
        nonce: [u8; 32],
    ) -> Result<Answer, Refusal> {
        let lint = |e: String| Refusal::new(Code::LINT, format!("The host certificate was not signed: {e}."));
        let seconds = |at: i64| u64::try_from(at).map_err(|e| lint(e.to_string()));
        let principals = names.iter().map(|name| Principal::new(*name)).collect::<Result<Vec<_>, _>>();
        let spec = HostSpec {
            serial: Serial::new(serial).map_err(|e| lint(e.to_string()))?,
            key: key.0.clone(),
            key_id: KeyId::new(id).map_err(|e| lint(e.to_string()))?,
            principals: Principals::new(principals.map_err(|e| lint(e.to_string()))?)
                .map_err(|e| lint(e.to_string()))?,
            window: CertWindow::new(seconds(window.0)?, seconds(window.1)?).map_err(|e| lint(e.to_string()))?,
            nonce,
        };
        let certificate = jit_ca::ssh::sign_host(self.active(Purpose::SshHost)?, &spec, &Limits::STANDARD)
            .map_err(|e| lint(e.to_string()))?;
        Ok(Answer::Certificate { openssh: certificate.openssh().to_owned() })
    }

    fn client_leaf(&self, live: &LiveGrant<'_>, credential: &Credential) -> Result<Answer, Refusal> {
        let account = live.account.as_ref().ok_or_else(|| refused("The grant has no account."))?;
        let lint = |e: jit_ca::CaError| Refusal::new(Code::LINT, format!("The certificate was not signed: {e}."));
        let spec = client_spec(live, &account.name, credential);
        let ring = self.ring(Purpose::X509Client)?;
        for (key, ca) in ring.signing().filter_map(|public| self.keys.x509(Purpose::X509Client, public)) {
            if Digest::of(&jit_ca::x509::tbs_client(ca, &spec).map_err(lint)?) == credential.tbs_sha256 {
                let der = jit_ca::x509::sign_client_leaf(ca, key, &spec).map_err(lint)?;
                return Ok(Answer::Client { pem: pem(&der) });
            }
        }
        Err(refused("The log allows other bytes under this serial."))
    }

    pub(super) fn host_cert(&mut self, target: &TargetName) -> Result<Answer, Refusal> {
        let now = self.trusted_now()?;
        let host = self.state.hosts.get(target).ok_or_else(|| refused("No administrator enrolled this host."))?;
        if now >= host.valid_before {
            return Err(refused("The host's certificate is over; enrol it again."));
        }
        let genesis = self.state.genesis.as_ref().ok_or_else(|| lies("The log has not begun."))?;
        let nonce = Digest::of(format!("{} host {target} {}", genesis.install, host.serial).as_bytes());
        let (id, window) = (format!("jit:host:{target}"), (host.valid_after, host.valid_before));
        self.host(&host.key, host.serial, &id, &[target.as_str()], window, *nonce.as_bytes())
    }

    pub(super) fn server_leaf(&self, spki: &str) -> Result<Answer, Refusal> {
        let now = self.keeper.now().at;
        let spki = data_encoding::HEXLOWER.decode(spki.as_bytes()).map_err(|_| refused("The key is not hex."))?;
        let spec = ServerLeafSpec {
            names: self.pins.server_names.clone(),
            public_key_spki_der: spki,
            serial: crate::clock::random16(),
            not_before: now - 3600,
            not_after: now + SERVER_LEAF_S,
        };
        // Before the log was shown the first authority is the one that there is.
        let active = self.ring(Purpose::X509Server).ok().map(|ring| ring.active.clone());
        let (key, cert) = match active {
            Some(active) => self.keys.x509(Purpose::X509Server, &active).ok_or_else(|| {
                Refusal::new(Code::KEY_GONE, "This signer does not have the key of the server's authority.")
            })?,
            None => (&self.keys.x509_server, &self.keys.x509_cert),
        };
        let der = jit_ca::x509::sign_server_leaf(cert, key, &spec)
            .map_err(|e| Refusal::new(Code::LINT, format!("The server certificate was not signed: {e}.")))?;
        Ok(Answer::ServerLeaf { chain_pem: format!("{}{}", pem(&der), cert.pem()) })
    }
}

/// A user certificate that was judged: what is left is to sign it.
pub struct Signing {
    /// While an authority is being replaced, what was allowed before is signed by the old key.
    authorities: Vec<CaKey>,
    spec: UserSpec,
    allowed: Digest,
}

impl Signing {
    /// Signs what the log allows, to the bit. The authority is a part of what is allowed.
    ///
    /// # Errors
    /// [`Code::SIGNER_REFUSED`] when the log allows other bytes, [`Code::LINT`] when what was signed does not read back as that.
    pub fn sign(self) -> Result<Answer, Refusal> {
        let fits = |ca: &&CaKey| Digest::of(&jit_ca::ssh::tbs_user(&self.spec, ca.public())) == self.allowed;
        let ca = self.authorities.iter().find(fits);
        let ca = ca.ok_or_else(|| refused("The log allows other bytes under this serial."))?;
        let certificate = jit_ca::ssh::sign_user(ca, &self.spec, &Limits::STANDARD)
            .map_err(|e| Refusal::new(Code::LINT, format!("The certificate was not signed: {e}.")))?;
        Ok(Answer::Certificate { openssh: certificate.openssh().to_owned() })
    }
}

/// RFC 7468.
fn pem(der: &[u8]) -> String {
    let base64 = data_encoding::BASE64.encode(der);
    let lines: Vec<&str> = base64.as_bytes().chunks(64).filter_map(|c| std::str::from_utf8(c).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
