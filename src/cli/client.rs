//! The client of the API: one connection over TLS to exactly the pinned broker.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;

use super::context::{Context, same_address};
use super::failure::Failure;
use super::home::{Home, read_private, write_private};
use super::keys::Signing;
use super::trust::Acknowledged;
use crate::domain::act::{ACT_SCHEMA, Act, Deed};
use crate::domain::bundle::BundleText;
use crate::domain::refusal::Code;
use crate::domain::text::Words;
use crate::settings::url_host;
use crate::wire::{ActPost, Challenge, ErrorDoc, Outcome, SessionDoc};

/// How long connecting, and an answer, may take. Long polls ask for at most 30 s.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(45);
/// When a person is told that the broker is waited for.
const SLOW: Duration = Duration::from_secs(3);
/// The largest answer, in bytes.
const MAX_ANSWER: usize = 64 << 20;

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
    /// It signs in again now: what that asks for is not asked for anew.
    renewing: bool,
    /// The broker tells of authorities that are not known here yet.
    behind: bool,
    /// The log is not compared with what was seen of it.
    unwitnessed: bool,
}

fn unreachable(server: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(Code::UNREACHABLE, format!("{server} cannot be reached: {why}."))
}

impl Client {
    /// A client before the first sign-in.
    pub fn first(home: Home, server: String, trust: Trust) -> Self {
        Self {
            home,
            server,
            trust,
            context: None,
            token: None,
            sender: None,
            renewing: false,
            behind: false,
            unwitnessed: false,
        }
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
            trust: Trust::Pem(context.server_pem()),
            context: Some(context),
            token,
            sender: None,
            renewing: false,
            behind: false,
            unwitnessed: false,
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

    /// Forgets who is signed in, so that nothing renews itself.
    pub fn forget_person(&mut self) {
        if let Some(context) = &mut self.context {
            context.person = None;
        }
    }

    /// Compares the log no longer with what was seen of it: for those who look at a loss, and acknowledge it.
    pub fn look_away(&mut self) {
        self.unwitnessed = true;
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

    async fn send(&mut self, request: &Asked<'_>, seen: Option<u64>) -> Result<Response<Incoming>, Failure> {
        let server = self.server.clone();
        let late = || unreachable(&server, "no answer in time");
        let reused = self.sender.as_ref().is_some_and(|s| !s.is_closed());
        let made = request.build(&server, seen, self.token.as_deref())?;
        let told = told(&server, request.path);
        let sending = async { Ok::<_, Failure>(self.connection().await?.send_request(made).await) };
        let answered = tokio::select! {
            answer = tokio::time::timeout(ANSWER, sending) => answer,
            never = told => match never {},
        };
        match answered.map_err(|_| late())?? {
            Ok(response) => Ok(response),
            // The broker closes idle connections, for instance while a person reads a prompt. Sending twice is safe: acts are
            // idempotent (decisions.md 4), and so is issuing (22).
            Err(_) if reused => {
                self.sender = None;
                let made = request.build(&server, seen, self.token.as_deref())?;
                let sending = self.connection().await?.send_request(made);
                let answer = tokio::time::timeout(ANSWER, sending).await.map_err(|_| late())?;
                answer.map_err(|e| unreachable(&server, e))
            }
            Err(e) => Err(unreachable(&server, e)),
        }
    }

    /// Sends a request, and checks the checkpoint that comes with the answer before anything of the answer is read.
    async fn once(&mut self, request: &Asked<'_>) -> Result<Response<Incoming>, Failure> {
        let witness = self.context.as_ref().filter(|_| !self.unwitnessed).cloned();
        let seen = match &witness {
            Some(context) => context.seen(&self.home)?,
            None => None,
        };
        let size = witness.is_some().then(|| seen.as_ref().map_or(0, |seen| seen.size));
        let response = self.send(request, size).await?;
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            data_encoding::BASE64.decode(value.as_bytes()).ok()
        };
        // A broker that cannot read its log shows no checkpoint: nothing is believed of its answer but that it is none.
        let unread =
            response.status() == StatusCode::SERVICE_UNAVAILABLE && !response.headers().contains_key("jit-checkpoint");
        if let Some(context) = witness.as_ref().filter(|_| !unread) {
            let note = header("jit-checkpoint").and_then(|n| String::from_utf8(n).ok());
            let proof = header("jit-proof").unwrap_or_default();
            let (hashes, rest) = proof.as_chunks::<32>();
            let hashes = if rest.is_empty() { hashes } else { &[] };
            context.witness(&self.home, seen.as_ref(), note.as_deref(), hashes)?;
            let version = response.headers().get("jit-trust").and_then(|value| value.to_str().ok()?.parse().ok());
            self.behind = version > Some(context.trust_version());
        }
        Ok(response)
    }

    async fn answered(&mut self, request: &Asked<'_>) -> Result<Response<Incoming>, Failure> {
        let mut renewed = false;
        loop {
            let response = self.once(request).await?;
            let status = response.status().as_u16();
            if status < 300 {
                return Ok(response);
            }
            let bytes = read_all(&self.server, response).await?;
            let doc: ErrorDoc = serde_json::from_slice(&bytes).map_err(|_| {
                Failure::new(Code::UNREACHABLE, format!("The server answered {status}, and not like a broker."))
            })?;
            // An ended sign-in renews itself where the key signs without asking anybody.
            let remembered = self.context.as_ref().filter(|c| c.person.is_some()).and_then(|c| c.key.clone());
            if doc.code == Code::NOT_SIGNED_IN
                && !self.renewing
                && !renewed
                && let Some(key) = remembered
                && let Ok(signing) = Signing::silent(&key)
            {
                self.token = None;
                self.renewing = true;
                let signed_in = Box::pin(self.sign_in(&signing)).await;
                self.renewing = false;
                signed_in?;
                renewed = true;
                continue;
            }
            return Err(doc.into());
        }
    }

    async fn call(&mut self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Vec<u8>, Failure> {
        let response = self.answered(&Asked { method, path, body }).await?;
        let answer = read_all(&self.server, response).await?;
        self.catch_up().await?;
        Ok(answer)
    }

    /// Learns of new authorities as soon as the broker tells that there are some: they sign soon.
    async fn catch_up(&mut self) -> Result<(), Failure> {
        if !std::mem::take(&mut self.behind) {
            return Ok(());
        }
        let response = self.once(&Asked { method: "GET", path: "/v1/about", body: None }).await?;
        self.behind = false;
        let bytes = read_all(&self.server, response).await?;
        let about = serde_json::from_slice(&bytes).map_err(|e| Failure::local("the broker's answer", e))?;
        if let Some(context) = &mut self.context {
            context.learn(&self.home, about, Acknowledged::No)?;
            self.trust = Trust::Pem(context.server_pem());
        }
        Ok(())
    }

    /// Reads a document.
    ///
    /// # Errors
    /// What the broker says, or that it cannot be reached.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        let bytes = self.call("GET", path, None).await?;
        if self.context.is_some() {
            super::known::learn(&self.home, path, &bytes);
        }
        serde_json::from_slice(&bytes).map_err(|e| Failure::local("the broker's answer", e))
    }

    /// Reads bytes, and what a header that comes with them says.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn bytes(&mut self, path: &str, header: &str) -> Result<(Vec<u8>, Option<String>), Failure> {
        let response = self.answered(&Asked { method: "GET", path, body: None }).await?;
        let said = response.headers().get(header).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok((read_all(&self.server, response).await?, said))
    }

    /// Passes an answer on while it arrives, however large it is; each piece must arrive in time.
    ///
    /// # Errors
    /// As [`Client::get`], or when the writer refuses.
    pub async fn copy(&mut self, path: &str, out: &mut dyn std::io::Write) -> Result<(), Failure> {
        let mut body = self.answered(&Asked { method: "GET", path, body: None }).await?.into_body();
        let server = &self.server;
        loop {
            let frame = tokio::time::timeout(ANSWER, body.frame()).await;
            let Some(frame) = frame.map_err(|_| unreachable(server, "no answer in time"))? else { break };
            let frame = frame.map_err(|e| unreachable(server, e))?;
            if let Some(piece) = frame.data_ref() {
                out.write_all(piece).map_err(|e| Failure::local("the export", e))?;
            }
        }
        out.flush().map_err(|e| Failure::local("the export", e))
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
        let outcome = self.act_with(&signing, &context, deed, words, bundle).await?;
        if let Some(notice) = &outcome.notice {
            eprintln!("warning: {}", crate::domain::text::shown(notice));
        }
        Ok(outcome)
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

    /// Opens a session; nothing of it is kept.
    ///
    /// # Errors
    /// [`Code::NO_KEY`], [`Code::UNTRUSTED_SERVER`], or what the broker says.
    pub async fn open_session(&mut self, signing: &Signing) -> Result<SessionDoc, Failure> {
        let context = self.context()?.clone();
        // SECURITY: a broker that names another broker's address could pass the signature on to it.
        same_address(&context.server, &context.about.public_url)?;
        let challenge: Challenge = self.post("/v1/challenge", &serde_json::json!({})).await?;
        let deed = Deed::Login { public_url: context.about.public_url.clone(), challenge: challenge.challenge };
        let outcome = self.act_with(signing, &context, deed, None, None).await?;
        outcome.session.ok_or_else(|| Failure::new(Code::BUG, "The broker opened no session."))
    }

    /// Signs in again as the same person.
    async fn sign_in(&mut self, signing: &Signing) -> Result<(), Failure> {
        let session = self.open_session(signing).await?;
        if self.context()?.person.as_ref().is_some_and(|person| *person != session.person) {
            return Err(Failure::new(Code::UNKNOWN_KEY, format!("That key is {}'s.", session.person)));
        }
        self.keep_session(&session.token)
    }
}

/// Says what is waited for, to a person, when an answer takes long; calls that are meant to wait have words of their own.
async fn told(server: &str, path: &str) -> std::convert::Infallible {
    tokio::time::sleep(SLOW).await;
    if std::io::stderr().is_terminal() && !path.contains("wait_s=") {
        eprintln!("waiting for {server} …");
    }
    std::future::pending().await
}

/// A request before it is sent.
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    body: Option<&'a [u8]>,
}

impl Asked<'_> {
    fn build(&self, server: &str, seen: Option<u64>, token: Option<&str>) -> Result<Request<Full<Bytes>>, Failure> {
        // The authority as it was typed, with its port and brackets (RFC 9112 section 3.2).
        let host = server.strip_prefix("https://").unwrap_or(server);
        let mut request = Request::builder().method(self.method).uri(self.path).header("host", host);
        if let Some(size) = seen {
            request = request.header("jit-seen", size);
        }
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if self.body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = Full::new(Bytes::copy_from_slice(self.body.unwrap_or_default()));
        request.body(body).map_err(|e| Failure::local("the request", e))
    }
}

async fn read_all(server: &str, response: Response<Incoming>) -> Result<Vec<u8>, Failure> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect();
    let body = tokio::time::timeout(ANSWER, body).await.map_err(|_| unreachable(server, "no answer in time"))?;
    Ok(body.map_err(|e| unreachable(server, e))?.to_bytes().to_vec())
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
            Some(error) => Failure::new(
                Code::UNTRUSTED_SERVER,
                format!(
                    "{server} is not the pinned broker: {}.",
                    error.to_string().trim_start_matches("unexpected error: ")
                ),
            ),
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

/// `SHA256:` and the unpadded base64 of a certificate's SHA-256.
fn fingerprint(cert: &CertificateDer<'_>) -> String {
    let digest = crate::domain::digest::Digest::of(cert);
    format!("SHA256:{}", data_encoding::BASE64_NOPAD.encode(digest.as_bytes()))
}

impl Trust {
    /// The authority that is pinned from now on: the one that was given, or the shown one if it has the given fingerprint.
    ///
    /// # Errors
    /// [`Code::UNTRUSTED_SERVER`] when what the broker shows is another one.
    pub fn pinned(&self, shown_pem: &str) -> Result<String, Failure> {
        match self {
            Self::Pem(pem) => Ok(pem.clone()),
            Self::Fingerprint(wanted) => {
                let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(shown_pem.as_bytes()).collect();
                match certs.unwrap_or_default().as_slice() {
                    [one] if fingerprint(one) == *wanted => Ok(shown_pem.to_owned()),
                    _ => Err(Failure::new(
                        Code::UNTRUSTED_SERVER,
                        "The authority that the broker names is not the one with that fingerprint.",
                    )),
                }
            }
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
