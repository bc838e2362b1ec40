//! What the gateway offers on the wire: algorithms, limits and its host certificates, for both sides.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, Certificate, EcdsaCurve, PrivateKey};
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, client, compression, kex, mac, server};

use crate::broker::Broker;
use crate::domain::key::Key;
use crate::domain::names::TargetName;
use crate::domain::refusal::{Code, Refusal};

/// Failed attempts before a connection is closed.
const ATTEMPTS: usize = 6;
/// How long every refusal of a key takes.
const REJECTION: Duration = Duration::from_millis(300);
/// What a side may send before it must be let go on, in bytes.
pub const WINDOW: u32 = 2 * 1024 * 1024;
/// The largest packet's content, in bytes.
const PACKET: u32 = 32 * 1024;
/// Packets of a channel that may wait for their task.
const QUEUE: usize = 16;
/// How long a host certificate is used before a new one is asked for, in seconds; it is valid for twice as long.
const RENEW_S: i64 = 12 * 3600;

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::DH_G16_SHA512,
    kex::DH_G14_SHA256,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];
// The client's order wins among these; GCM costs half of chacha20 where the processor helps.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
    cipher::CHACHA20_POLY1305,
];
const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];
const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::SkEd25519,
    Algorithm::SkEcdsaSha2NistP256,
];
const HOST_KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
];

fn preferred(keys: Cow<'static, [Algorithm]>, certificates: &'static [Algorithm]) -> Preferred {
    Preferred {
        kex: Cow::Borrowed(KEX),
        key: keys,
        host_key_certificates: Cow::Borrowed(certificates),
        cipher: Cow::Borrowed(CIPHERS),
        mac: Cow::Borrowed(MACS),
        compression: Cow::Borrowed(&[compression::NONE]),
    }
}

fn server(key: PrivateKey, certificate: Certificate) -> server::Config {
    server::Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-jit-broker")),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REJECTION,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![key],
        certificates: vec![certificate],
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        channel_buffer_size: QUEUE,
        preferred: preferred(Cow::Borrowed(KEYS), &[]),
        max_auth_attempts: ATTEMPTS,
        inactivity_timeout: None,
        keepalive_interval: Some(Duration::from_secs(30)),
        keepalive_max: 4,
        nodelay: true,
        ..server::Config::default()
    }
}

/// What the gateway says to a target. Where a key is pinned, that key is what is asked for: hosts have several.
pub fn client(pinned: Option<Algorithm>) -> Arc<client::Config> {
    let preferred = match pinned {
        Some(algorithm) => preferred(Cow::Owned(vec![algorithm]), &[]),
        None => preferred(Cow::Borrowed(HOST_KEYS), HOST_KEYS),
    };
    Arc::new(client::Config {
        client_id: SshId::Standard(Cow::Borrowed("SSH-2.0-jit-broker")),
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        channel_buffer_size: QUEUE,
        preferred,
        inactivity_timeout: None,
        keepalive_interval: Some(Duration::from_secs(30)),
        keepalive_max: 4,
        nodelay: true,
        ..client::Config::default()
    })
}

/// What is shown, since when, and under which version of the authorities.
type Made = (i64, u64, Arc<server::Config>);

/// The gateway's host key with its certificates: for its own name, and in the names of targets that are reached through it.
pub struct Faces {
    broker: Broker,
    key: PrivateKey,
    public: Key,
    made: tokio::sync::Mutex<HashMap<Option<TargetName>, Made>>,
}

impl Faces {
    /// Takes the gateway's host key.
    ///
    /// # Errors
    /// [`Code::BAD_KEY`] when it is no Ed25519 key.
    pub fn new(broker: Broker, key: PrivateKey) -> Result<Self, Refusal> {
        let bad = || Refusal::new(Code::BAD_KEY, "The gateway's host key cannot be used.");
        let public = key.public_key().to_openssh().map_err(|_| bad())?;
        let public = super::keys::read(&public).ok_or_else(bad)?;
        Ok(Self { broker, key, public, made: tokio::sync::Mutex::default() })
    }

    /// What the gateway shows as itself, or as a target.
    ///
    /// # Errors
    /// The broker's refusal, when there is no certificate yet; an old one is used for as long as it is valid.
    pub async fn face(&self, target: Option<&TargetName>) -> Result<Arc<server::Config>, Refusal> {
        let mut made = self.made.lock().await;
        let (now, version) = (self.broker.now(), self.broker.trust_version().await);
        let held = made.get(&target.cloned()).cloned();
        if let Some((.., config)) = held.as_ref().filter(|(at, of, _)| now < at + RENEW_S && *of == version) {
            return Ok(config.clone());
        }
        let line = match (self.broker.gateway_certificate(&self.public, target).await, held) {
            (Ok(line), _) => line,
            (Err(refusal), Some((.., old))) => {
                tracing::warn!(code = %refusal.code, "the gateway's host certificate was not renewed: {}", refusal.message);
                return Ok(old);
            }
            (Err(refusal), None) => return Err(refusal),
        };
        let wrong = |_| Refusal::new(Code::BUG, "The gateway's host certificate cannot be read.");
        let certificate = Certificate::from_openssh(&line).map_err(wrong)?;
        let config = Arc::new(server(self.key.clone(), certificate));
        made.insert(target.cloned(), (now, version, config.clone()));
        Ok(config)
    }
}
