//! The daemon's own certificate: its key is made anew at every start and never stored; the signer certifies it.

use std::net::IpAddr;
use std::sync::Arc;

use jit_ca::x509::{ServerName, X509Key};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

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

/// Makes a key, has it certified, and gives the acceptor with the authority's certificate.
///
/// # Errors
/// When the signer refuses.
pub async fn acceptor(signer: &SignerHandle, reader: &Reader) -> Result<(TlsAcceptor, String), Refusal> {
    let broken = |what: String| Refusal::new(Code::LINT, format!("The server certificate cannot be used: {what}."));
    let key = X509Key::generate().map_err(|e| broken(e.to_string()))?;
    let order = Order::ServerLeaf { spki: data_encoding::HEXLOWER.encode(&key.spki_der()) };
    let Answer::ServerLeaf { chain_pem } = signer.order(order, reader).await? else {
        return Err(Refusal::new(Code::BUG, "The signer answered something else."));
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| broken(e.to_string()))?;
    let private = PrivateKeyDer::from_pem_slice(key.to_pkcs8_pem().as_bytes()).map_err(|e| broken(e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| broken(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|e| broken(e.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let authority = chain_pem.rfind("-----BEGIN").and_then(|at| chain_pem.get(at..)).unwrap_or_default().to_owned();
    Ok((TlsAcceptor::from(Arc::new(config)), authority))
}
