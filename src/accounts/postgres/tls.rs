//! TLS towards a target: always verified against the target's own authority and name, never optional.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use aws_lc_rs::digest;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::accounts::error::AccountError;

fn wrong(what: &str) -> AccountError {
    AccountError::Tls(what.to_owned())
}

fn chain(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, AccountError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    found.ok().filter(|list| !list.is_empty()).ok_or_else(|| wrong(what))
}

/// Builds the client's side: these authorities alone, and a client certificate where there is one.
pub(super) fn config(ca_pem: &str, client: Option<(&str, &str)>) -> Result<Arc<rustls::ClientConfig>, AccountError> {
    let mut roots = RootCertStore::empty();
    for ca in chain(ca_pem, "the target's CA is not a PEM certificate")? {
        roots.add(ca).map_err(|_| wrong("the target's CA cannot be read"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| wrong("no protocol version can be used"))?
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((cert_pem, key_pem)) => {
            let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
                .map_err(|_| AccountError::Secret("there is no private key in PEM".to_owned()))?;
            let certs = chain(cert_pem, "the client certificate is not PEM")?;
            builder
                .with_client_auth_cert(certs, key)
                .map_err(|_| AccountError::Secret("certificate and key do not fit".to_owned()))?
        }
    };
    Ok(Arc::new(config))
}

/// Notes whom a server would take a client certificate of, and has none.
#[derive(Debug, Default)]
pub(super) struct Asked(Mutex<Option<Vec<Vec<u8>>>>);

impl Asked {
    /// Subjects, DER; nothing when the server asked for no certificate.
    pub(super) fn subjects(&self) -> Option<Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, subjects: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let subjects = subjects.iter().map(|subject| subject.to_vec()).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(subjects);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// As [`config`], with nothing but a note of what is asked for.
pub(super) fn asking(ca_pem: &str, asked: Arc<Asked>) -> Result<Arc<rustls::ClientConfig>, AccountError> {
    let mut config = rustls::ClientConfig::clone(&*config(ca_pem, None)?);
    config.client_auth_cert_resolver = asked;
    Ok(Arc::new(config))
}

/// The subject of a certificate: DER, and in words.
pub(super) fn subject(pem: &str) -> Option<(Vec<u8>, String)> {
    let certs = chain(pem, "no certificate").ok()?;
    let (_, parsed) = X509Certificate::from_der(certs.first()?).ok()?;
    Some((parsed.subject().as_raw().to_vec(), parsed.subject().to_string()))
}

/// Shakes hands once, for the name that the target was given.
pub(super) struct Handshake {
    /// How.
    pub(super) config: Arc<rustls::ClientConfig>,
    /// The name that the certificate must have.
    pub(super) name: ServerName<'static>,
}

impl TlsConnect<TcpStream> for Handshake {
    type Stream = Verified;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Verified>> + Send>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        Box::pin(async move {
            let connector = tokio_rustls::TlsConnector::from(self.config);
            Ok(Verified(Box::new(connector.connect(self.name, stream).await?)))
        })
    }
}

/// A stream to a server that proved its name.
pub(super) struct Verified(Box<tokio_rustls::client::TlsStream<TcpStream>>);

impl TlsStream for Verified {
    /// PROTOCOL: RFC 5929 section 4.1, tls-server-end-point: the certificate's hash by the hash of its own signature, SHA-256 for
    /// MD5 and SHA-1. Binds the SCRAM exchange to this very connection.
    fn channel_binding(&self) -> ChannelBinding {
        let (_, session) = self.0.get_ref();
        let binding = session.peer_certificates().and_then(|chain| chain.first()).and_then(|cert| end_point(cert));
        binding.map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

fn end_point(cert: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(cert).ok()?;
    // Signature algorithms by their hash (RFC 4055, RFC 5758); Ed25519 and PSS have no one hash that all agree on.
    let hash = match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => {
            &digest::SHA256
        }
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(hash, cert).as_ref().to_vec())
}

impl AsyncRead for Verified {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Verified {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
