//! The client of the API: one connection over TLS to exactly the pinned broker.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;

use super::context::Context;
use super::failure::Failure;
use super::home::{Home, read_private, write_private};
use super::keys::Signing;
use crate::domain::act::{ACT_SCHEMA, Act, Deed};
use crate::domain::bundle::BundleText;
use crate::domain::refusal::Code;
use crate::domain::text::Words;
use crate::settings::url_host;
use crate::wire::{ActPost, Challenge, ErrorDoc, Outcome};

/// How long connecting, and an answer, may take. Long polls ask for at most 30 s.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(45);
/// The largest answer, in bytes.
const MAX_ANSWER: usize = 256 << 20;

/// What is believed of the server.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The authority's certificate, PEM.
    Pem(String),
    /// `SHA256:…` of the authority's certificate, given out of band.
    Fingerprint(String),
}

/// A connection to a broker.
pub struct Client {
    home: Home,
    server: String,
    trust: Trust,
    context: Option<Context>,
    token: Option<String>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

fn unreachable(server: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(Code::UNREACHABLE, format!("{server} cannot be reached: {why}."))
}

impl Client {
    /// A client before the first sign-in.
    pub fn first(home: Home, server: String, trust: Trust) -> Self {
        Self { home, server, trust, context: None, token: None, sender: None }
    }

    /// The client of the remembered broker.
    ///
    /// # Errors
    /// [`Code::NOT_SIGNED_IN`] when there is none.
    pub fn remembered(home: &Home) -> Result<Self, Failure> {
        let context = Context::load(home)?;
        let token = read_private(&home.run.join("session"))?;
        Ok(Self {
            home: home.clone(),
            server: context.server.clone(),
            trust: Trust::Pem(context.about.server_ca_pem.clone()),
            context: Some(context),
            token,
            sender: None,
        })
    }

    /// What is remembered.
    ///
    /// # Errors
    /// [`Code::NOT_SIGNED_IN`] before the first sign-in.
    pub fn context(&self) -> Result<&Context, Failure> {
        self.context.as_ref().ok_or_else(|| Failure::new(Code::NOT_SIGNED_IN, "No broker is known here yet."))
    }

    /// The folders.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Takes over what a first sign-in learnt.
    pub fn adopt(&mut self, context: Context) {
        self.context = Some(context);
    }

    /// Keeps a session's token.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_session(&mut self, token: &str) -> Result<(), Failure> {
        write_private(&self.home.run.join("session"), token.as_bytes())?;
        self.token = Some(token.to_owned());
        Ok(())
    }

    async fn connection(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, Failure> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            self.sender = Some(connect(&self.server, &self.trust).await?);
        }
        self.sender.as_mut().ok_or_else(|| Failure::new(Code::BUG, "There is no connection."))
    }

    async fn once(&mut self, method: &str, path: &str, body: Option<&[u8]>) -> Result<(u16, Vec<u8>), Failure> {
        let (host, _) = url_host(&self.server).unwrap_or_default();
        let seen = match &self.context {
            Some(context) => Some(context.seen(&self.home)?.map_or(0, |(size, _, _)| size)),
            None => None,
        };
        let mut request = hyper::Request::builder().method(method).uri(path).header("host", host);
        if let Some(size) = seen {
            request = request.header("jit-seen", size);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request
            .body(Full::new(Bytes::copy_from_slice(body.unwrap_or_default())))
            .map_err(|e| Failure::local("the request", e))?;
        let server = self.server.clone();
        let sending = self.connection().await?.send_request(request);
        let response = tokio::time::timeout(ANSWER, sending)
            .await
            .map_err(|_| unreachable(&server, "no answer in time"))?
            .map_err(|e| unreachable(&server, e))?;
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            data_encoding::BASE64.decode(value.as_bytes()).ok()
        };
        let note = header("jit-checkpoint").and_then(|n| String::from_utf8(n).ok());
        let proof = header("jit-proof").unwrap_or_default();
        let (hashes, _) = proof.as_chunks::<32>();
        if let Some(context) = &self.context {
            context.witness(&self.home, note.as_deref(), hashes)?;
        }
        let status = response.status().as_u16();
        let body = tokio::time::timeout(ANSWER, Limited::new(response.into_body(), MAX_ANSWER).collect())
            .await
            .map_err(|_| unreachable(&server, "no answer in time"))?
            .map_err(|e| unreachable(&server, e))?;
        Ok((status, body.to_bytes().to_vec()))
    }

    async fn call(&mut self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Vec<u8>, Failure> {
        let mut renewed = false;
        loop {
            let (status, bytes) = self.once(method, path, body).await?;
            if status < 300 {
                return Ok(bytes);
            }
            let doc: ErrorDoc = serde_json::from_slice(&bytes).map_err(|_| {
                Failure::new(Code::UNREACHABLE, format!("The server answered {status}, and not like a broker."))
            })?;
            // An ended sign-in renews itself where the key allows it (decisions.md 32).
            if doc.code == Code::NOT_SIGNED_IN && !renewed && self.context.as_ref().is_some_and(|c| c.key.is_some()) {
                renewed = true;
                self.token = None;
                Box::pin(self.sign_in(None)).await?;
                continue;
            }
            return Err(doc.into());
        }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// What the broker says, or that it cannot be reached.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        let bytes = self.call("GET", path, None).await?;
        serde_json::from_slice(&bytes).map_err(|e| Failure::local("the broker's answer", e))
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_bytes(&mut self, path: &str) -> Result<Vec<u8>, Failure> {
        self.call("GET", path, None).await
    }

    /// Sends a document.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<B: Serialize, T: DeserializeOwned>(&mut self, path: &str, body: &B) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::local("the request", e))?;
        let bytes = self.call("POST", path, Some(&body)).await?;
        serde_json::from_slice(&bytes).map_err(|e| Failure::local("the broker's answer", e))
    }

    /// Signs an act and sends it.
    ///
    /// # Errors
    /// [`Code::NO_KEY`], or what the broker says.
    pub async fn act(
        &mut self,
        deed: Deed,
        words: Option<Words>,
        bundle: Option<&BundleText>,
    ) -> Result<Outcome, Failure> {
        let context = self.context()?.clone();
        let signing = Signing::choose(context.key.as_deref())?;
        self.act_with(&signing, &context, deed, words, bundle).await
    }

    async fn act_with(
        &mut self,
        signing: &Signing,
        context: &Context,
        deed: Deed,
        words: Option<Words>,
        bundle: Option<&BundleText>,
    ) -> Result<Outcome, Failure> {
        let namespace = deed.namespace();
        let act = Act {
            schema: ACT_SCHEMA.to_owned(),
            install: context.about.install,
            key_fp: signing.public().0.fingerprint(),
            at: crate::clock::wall_s(),
            nonce: data_encoding::HEXLOWER.encode(&crate::clock::random16()),
            words: words.as_ref().map(Words::commitment),
            deed,
        };
        let bytes = act.bytes().map_err(|e| Failure::local("the act", e))?;
        let signature = signing.sign(namespace, &bytes)?;
        let act = String::from_utf8(bytes).map_err(|e| Failure::local("the act", e))?;
        let post = ActPost { act, signature, words, bundle: bundle.map(|b| b.files.clone()) };
        self.post("/v1/acts", &post).await
    }

    /// Signs in, with a key that the caller chose or the remembered one.
    ///
    /// # Errors
    /// [`Code::NO_KEY`], or what the broker says.
    pub async fn sign_in(&mut self, signing: Option<&Signing>) -> Result<crate::wire::SessionDoc, Failure> {
        let context = self.context()?.clone();
        let chosen;
        let signing = match signing {
            Some(signing) => signing,
            None => {
                chosen = Signing::choose(context.key.as_deref())?;
                &chosen
            }
        };
        let challenge: Challenge = self.post("/v1/challenge", &serde_json::json!({})).await?;
        let deed = Deed::Login { public_url: context.about.public_url.clone(), challenge: challenge.challenge };
        let outcome = self.act_with(signing, &context, deed, None, None).await?;
        let session = outcome.session.ok_or_else(|| Failure::new(Code::BUG, "The broker opened no session."))?;
        self.keep_session(&session.token)?;
        Ok(session)
    }
}

async fn connect(server: &str, trust: &Trust) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let (host, port) =
        url_host(server).ok_or_else(|| Failure::new(Code::USAGE, format!("{server} is not https://HOST[:PORT].")))?;
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect((host.as_str(), port)))
        .await
        .map_err(|_| unreachable(server, "no connection in time"))?
        .map_err(|e| unreachable(server, e))?;
    let _ = stream.set_nodelay(true);
    let name = ServerName::try_from(host).map_err(|e| unreachable(server, e))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(trust)?));
    let stream = tokio::time::timeout(CONNECT, connector.connect(name, stream))
        .await
        .map_err(|_| unreachable(server, "no TLS in time"))?
        .map_err(|e| match e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(error) => Failure::new(Code::UNTRUSTED_SERVER, format!("{server} is not the pinned broker: {error}.")),
            None => unreachable(server, e),
        })?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(server, e))?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn tls(trust: &Trust) -> Result<rustls::ClientConfig, Failure> {
    let broken = |e: rustls::Error| Failure::local("TLS", e);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(broken)?;
    match trust {
        Trust::Pem(pem) => {
            let mut roots = RootCertStore::empty();
            for cert in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let cert = cert.map_err(|e| Failure::local("the server's authority", e))?;
                roots.add(cert).map_err(broken)?;
            }
            Ok(builder.with_root_certificates(roots).with_no_client_auth())
        }
        Trust::Fingerprint(wanted) => {
            let verifier = Arc::new(ByFingerprint { wanted: wanted.clone(), provider });
            Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
        }
    }
}

/// SECURITY: the authority is in the chain that the server shows, has the fingerprint that was given out of band, and signed the leaf for
/// this very name. Nothing is trusted on first use.
#[derive(Debug)]
struct ByFingerprint {
    wanted: String,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for ByFingerprint {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let fingerprint = |cert: &CertificateDer<'_>| {
            let digest = crate::domain::digest::Digest::of(cert);
            format!("SHA256:{}", data_encoding::BASE64_NOPAD.encode(digest.as_bytes()))
        };
        let authority = chain.iter().find(|cert| fingerprint(cert) == self.wanted);
        let authority = authority.ok_or_else(|| rustls::Error::General("the fingerprint is another one".to_owned()))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let parsed = rustls::server::ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            chain,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        rustls::client::verify_server_name(&parsed, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
