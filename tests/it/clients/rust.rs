//! tokio-postgres with rustls: everything it is told comes out of `jit-broker env --shell json`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::Config;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

type Wrapped = tokio_rustls::client::TlsStream<TcpStream>;

struct Handshake(Arc<rustls::ClientConfig>, ServerName<'static>);
struct Stream(Wrapped);

impl TlsConnect<TcpStream> for Handshake {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        Box::pin(async move { Ok(Stream(tokio_rustls::TlsConnector::from(self.0).connect(self.1, stream).await?)) })
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn tls(env: &Value) -> rustls::ClientConfig {
    let pem = |name: &str| std::fs::read(env[name].as_str().unwrap()).unwrap();
    let chain = |name| CertificateDer::pem_slice_iter(&pem(name)).collect::<Result<Vec<_>, _>>().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    chain("PGSSLROOTCERT").into_iter().for_each(|ca| roots.add(ca).unwrap());
    assert_eq!(env["PGSSLMODE"], "verify-full");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    if env["PGSSLCERT"].is_null() {
        return builder.with_no_client_auth();
    }
    let key = PrivateKeyDer::from_pem_slice(&pem("PGSSLKEY")).unwrap();
    builder.with_client_auth_cert(chain("PGSSLCERT"), key).unwrap()
}

/// Logs in with the environment that was printed; gives the user, or every error on the way.
pub fn query(env: &str) -> Result<String, String> {
    let env: Value = serde_json::from_str(env).unwrap();
    let text = |name: &str| env[name].as_str().unwrap();
    let mut config = Config::new();
    config.user(text("PGUSER")).dbname(text("PGDATABASE")).ssl_mode(tokio_postgres::config::SslMode::Require);
    if !env["PGPASSFILE"].is_null() {
        let file = std::fs::read_to_string(text("PGPASSFILE")).unwrap();
        config.password(file.trim_end().rsplit(':').next().unwrap());
    }
    let host = env["PGHOSTADDR"].as_str().unwrap_or_else(|| text("PGHOST")).to_owned();
    let place = (host, text("PGPORT").parse::<u16>().unwrap());
    let shake = Handshake(Arc::new(tls(&env)), ServerName::try_from(text("PGHOST").to_owned()).unwrap());
    let told = |e: tokio_postgres::Error| format!("{e:?}");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let stream = TcpStream::connect(place).await.unwrap();
        let (client, connection) = config.connect_raw(stream, shake).await.map_err(told)?;
        let driven = tokio::spawn(connection);
        let row = client.query_one("select current_user::text, count(*) from notes", &[]).await.map_err(told)?;
        drop(client);
        let _ = driven.await;
        Ok(format!("{}|{}", row.get::<_, String>(0), row.get::<_, i64>(1)))
    })
}
