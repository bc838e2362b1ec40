//! The daemon's own certificate: its key is made anew at every start and every day, and never stored; the signer certifies it.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jit_ca::x509::{ServerName, X509Key};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::broker::Broker;
use crate::broker::clerk::SignerHandle;
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::Reader;
use crate::settings::{Settings, url_host};
use crate::signer::{Answer, Order};

/// The names that the certificate may have: the host of `public_url`, and the loopback where that is listened on.
pub fn names_of(settings: &Settings) -> Vec<ServerName> {
    let mut names = Vec::new();
    if let Some((host, _)) = url_host(&settings.public_url) {
        match host.parse::<IpAddr>() {
            Ok(address) => names.push(ServerName::Ip(address)),
            Err(_) => names.push(ServerName::Dns(host)),
        }
    }
    if settings.listen.ip().is_loopback() {
        let loopback = ServerName::Ip(settings.listen.ip());
        if !names.contains(&loopback) {
            names.push(loopback);
        }
    }
    names
}

/// When a certificate is renewed, in seconds after it was made: a signer that is away for days harms nobody.
const RENEW_S: i64 = 86_400;
/// How soon a renewal that failed is tried again, in seconds.
const RETRY_S: i64 = 60;
/// How often the daemon looks at its certificate.
const LOOK: Duration = Duration::from_secs(1);

/// The certificate that new connections get.
#[derive(Debug)]
struct Held(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Held {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The daemon's certificate while it runs.
pub struct Certificate {
    held: Arc<Held>,
    broker: Broker,
    signer: SignerHandle,
    renew_at: i64,
    /// The version of the authorities that it was made under.
    version: u64,
}

fn broken(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::LINT, format!("The server certificate cannot be used: {what}."))
}

/// Makes a key and has it certified; gives both with the PEM of the authority.
async fn certified(signer: &SignerHandle, reader: &Reader) -> Result<(CertifiedKey, String), Refusal> {
    let key = X509Key::generate().map_err(broken)?;
    let order = Order::ServerLeaf { spki: data_encoding::HEXLOWER.encode(&key.spki_der()) };
    let Answer::ServerLeaf { chain_pem } = signer.order(order, reader).await? else {
        return Err(Refusal::new(Code::BUG, "The signer answered something else."));
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<_, _>>().map_err(broken)?;
    let private = PrivateKeyDer::from_pem_slice(key.to_pkcs8_pem().as_bytes()).map_err(broken)?;
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&private).map_err(broken)?;
    let authority = chain_pem.rfind("-----BEGIN").and_then(|at| chain_pem.get(at..)).unwrap_or_default().to_owned();
    let certified = CertifiedKey::new(chain, signing);
    certified.keys_match().map_err(broken)?;
    Ok((certified, authority))
}

/// Has a first certificate made, and gives the acceptor that shows it, with the authority's certificate.
///
/// # Errors
/// When the signer refuses.
pub async fn acceptor(broker: &Broker, signer: SignerHandle) -> Result<(TlsAcceptor, String, Certificate), Refusal> {
    let (now, version) = (broker.now(), broker.trust_version().await);
    let (first, authority) = certified(&signer, broker.reader()).await?;
    let held = Arc::new(Held(RwLock::new(Arc::new(first))));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(broken)?
        .with_no_client_auth()
        .with_cert_resolver(held.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let certificate = Certificate { held, broker: broker.clone(), signer, renew_at: now + RENEW_S, version };
    Ok((TlsAcceptor::from(Arc::new(config)), authority, certificate))
}

impl Certificate {
    /// Renews the certificate for as long as the daemon runs.
    pub async fn tend(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.changed() => return,
            }
            let (now, version) = (self.broker.now(), self.broker.trust_version().await);
            if now < self.renew_at && version == self.version {
                continue;
            }
            self.version = version;
            match certified(&self.signer, self.broker.reader()).await {
                Ok((next, _)) => {
                    *self.held.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
                    self.renew_at = now + RENEW_S;
                }
                Err(refusal) => {
                    tracing::error!(code = %refusal.code, "the server certificate was not renewed: {}", refusal.message);
                    self.renew_at = now + RETRY_S;
                }
            }
        }
    }
}
