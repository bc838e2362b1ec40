//! One POST over HTTPS: bounded in time and size, to an address that was looked at, without following a redirect.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;

use crate::settings::{HttpsUrl, forbidden};

/// How long the whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Reads the authorities of a file.
pub(super) fn roots(ca: &Path) -> Result<RootCertStore, String> {
    let shown = ca.display();
    let pem = std::fs::read(ca).map_err(|e| format!("{shown} cannot be read: {e}"))?;
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&pem) {
        // A system's bundle may have one that this program does not take.
        let _ = roots.add(cert.map_err(|e| format!("{shown}: {e}"))?);
    }
    if roots.is_empty() { Err(format!("{shown} has no certificate")) } else { Ok(roots) }
}

/// Sends a body and reads the answer.
pub(super) async fn post(url: &HttpsUrl, ca: &Path, kind: &str, body: &str) -> Result<Answer, String> {
    tokio::time::timeout(PATIENCE, exchange(url, ca, kind, body)).await.map_err(|_| "no answer in time".to_owned())?
}

async fn exchange(url: &HttpsUrl, ca: &Path, kind: &str, body: &str) -> Result<Answer, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = tls.map_err(|e| e.to_string())?.with_root_certificates(roots(ca)?).with_no_client_auth();
    let name = ServerName::try_from(url.host.clone()).map_err(|e| e.to_string())?;
    let stream = TcpStream::connect(address(url).await?).await.map_err(|e| e.to_string())?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
    let stream = TokioIo::new(stream.map_err(|e| e.to_string())?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(async move { drop(connection.await) });
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    let request = Request::post(&url.path)
        .header("host", format!("{host}:{}", url.port))
        .header("content-type", kind)
        .header("user-agent", concat!("jit-broker/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
    connection.abort();
    Ok(Answer { status, body: body.to_bytes().to_vec() })
}

/// Looks the host up once, and connects to what was looked at.
///
/// SECURITY (T155): a name that leads to this machine or to link-local services is refused each time that it does; an address is sent to
/// when the operator's own file names it.
async fn address(url: &HttpsUrl) -> Result<SocketAddr, String> {
    if let Ok(address) = url.host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, url.port));
    }
    let found = tokio::net::lookup_host((url.host.as_str(), url.port)).await.map_err(|e| e.to_string())?;
    let inward = |at: &SocketAddr| forbidden(at.ip()) || at.ip().to_canonical().is_loopback();
    let (bad, good): (Vec<_>, Vec<_>) = found.partition(inward);
    good.first().copied().ok_or_else(|| match bad.first() {
        Some(at) => format!("{} leads to {}, where nothing is sent", url.host, at.ip()),
        None => format!("{} has no address", url.host),
    })
}
