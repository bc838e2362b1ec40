//! The load: HTTPS connections that are kept, each sending one request that was made before after the other.
//!
//! One thread and no JSON while the clock runs, so that what is measured is the broker. What came back is looked at afterwards.

use std::sync::Arc;
use std::time::Instant;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where the broker is, and by which authority it is known.
#[derive(Clone)]
pub struct Place {
    tls: TlsConnector,
    port: u16,
}

/// One connection.
pub struct Connection {
    tls: TlsStream<TcpStream>,
    came: Vec<u8>,
}

impl Place {
    pub fn new(ca_pem: &[u8], port: u16) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        Self { tls: TlsConnector::from(Arc::new(config)), port }
    }

    pub async fn connect(&self) -> Connection {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let tls = self.tls.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
        Connection { tls, came: Vec::with_capacity(1 << 14) }
    }
}

/// The bytes of a request.
pub fn request(path: &str, token: Option<&str>, body: &str) -> Vec<u8> {
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{token}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Connection {
    /// Sends a request; gives the body of an answer that says 200.
    pub async fn call(&mut self, request: &[u8]) -> Vec<u8> {
        self.tls.write_all(request).await.unwrap();
        self.tls.flush().await.unwrap();
        self.came.clear();
        loop {
            let read = self.tls.read_buf(&mut self.came).await.unwrap();
            assert!(read > 0, "the broker hung up: {}", String::from_utf8_lossy(&self.came));
            let Some(head) = self.came.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let body = head + 4;
            if self.came.len() >= body + length(&self.came[..head]) {
                assert!(self.came.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&self.came));
                return self.came[body..].to_vec();
            }
        }
    }
}

fn length(head: &[u8]) -> usize {
    let head = std::str::from_utf8(head).unwrap();
    let line = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    line.unwrap().parse().unwrap()
}

/// What one request came to: how long it took, in milliseconds, and the body.
pub type Came = (f64, Vec<u8>);

/// Sends all requests over so many connections; gives what each came to, and how long all took together, in seconds.
pub async fn run(place: &Place, connections: usize, requests: Vec<Vec<u8>>) -> (Vec<Came>, f64) {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(place.connect().await);
    }
    let requests = Arc::new(requests);
    let begun = Instant::now();
    let work: Vec<_> = open
        .into_iter()
        .enumerate()
        .map(|(first, mut connection)| {
            let requests = requests.clone();
            tokio::spawn(async move {
                let mut came = Vec::with_capacity(requests.len() / connections + 1);
                for request in requests.iter().skip(first).step_by(connections) {
                    let sent = Instant::now();
                    let body = connection.call(request).await;
                    came.push((sent.elapsed().as_secs_f64() * 1e3, body));
                }
                came
            })
        })
        .collect();
    let mut came = Vec::new();
    for task in work {
        came.extend(task.await.unwrap());
    }
    (came, begun.elapsed().as_secs_f64())
}
