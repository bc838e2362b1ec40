//! Public and private SSH keys, and which of them are acceptable.
//!
//! A [`PublicKey`] that exists is acceptable as the subject of a certificate: the checks are in the two ways in,
//! [`PublicKey::parse`] and [`PublicKey::from_wire`]. Secrets zeroize when dropped and print `***`.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING,
    ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, ParsedPublicKey, UnparsedPublicKey,
};
use data_encoding::{BASE64, BASE64_NOPAD};
use sha2::{Digest as _, Sha256};
use ssh_key::private::{EcdsaKeypair, Ed25519Keypair, KeypairData};
use ssh_key::public::{EcdsaPublicKey, KeyData, RsaPublicKey};
use zeroize::{Zeroize as _, Zeroizing};

use crate::wire::{Reader, put_string};

/// The longest key, public or private, that is looked at, in bytes.
pub const MAX_KEY_BYTES: usize = 16 * 1024;

/// The application that OpenSSH gives its hardware keys; a key made for another purpose is not one of ours.
const SK_APPLICATION: &str = "ssh:";

/// Why a key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not one `type base64 [comment]` line, not an OpenSSH private key, or damaged inside.
    #[error("not a well-formed key")]
    Malformed,
    /// Longer than any acceptable key.
    #[error("longer than {MAX_KEY_BYTES} bytes")]
    TooLong,
    /// A kind that is not accepted, such as DSA or ECDSA P-521, or a private key that is not handled here.
    #[error("a key of this kind is not accepted here; ed25519 is")]
    Unsupported,
    /// A certificate where a plain key belongs.
    #[error("a certificate, not a key")]
    Certificate,
    /// An RSA key outside 2048 to 8192 bits.
    #[error("an RSA key of {bits} bits; 2048 to 8192 are accepted")]
    RsaSize {
        /// The size of the modulus, in bits.
        bits: u32,
    },
    /// An RSA key with an even, small or oversized exponent, or an even modulus.
    #[error("an RSA key with a bad exponent or modulus")]
    RsaNumbers,
    /// A point that is not on its curve, or one that everybody can sign for.
    #[error("the public key is not a point of its curve that is safe to use")]
    Point,
    /// A hardware key that was made for another application.
    #[error("a hardware key whose application is not \"{SK_APPLICATION}\"")]
    Application,
    /// A private key that needs a passphrase, and none was given.
    #[error("the private key is encrypted")]
    Encrypted,
    /// A private key that the passphrase does not open.
    #[error("the passphrase does not open the private key")]
    Passphrase,
    /// A private key whose halves do not belong together.
    #[error("the public and private halves of the key do not match")]
    Mismatch,
    /// The operation needs an Ed25519 key.
    #[error("an ed25519 key is needed")]
    NotEd25519,
    /// The signing operation failed.
    #[error("signing failed")]
    Signing,
}

/// The kinds of keys that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// `ssh-ed25519`.
    Ed25519,
    /// `ecdsa-sha2-nistp256`.
    EcdsaP256,
    /// `ecdsa-sha2-nistp384`.
    EcdsaP384,
    /// `ssh-rsa`, as the subject of a certificate only.
    Rsa {
        /// The size of the modulus, in bits.
        bits: u32,
    },
    /// `sk-ssh-ed25519@openssh.com`.
    SkEd25519,
    /// `sk-ecdsa-sha2-nistp256@openssh.com`.
    SkEcdsaP256,
}

impl KeyKind {
    /// Gives the name of the kind on the wire and in key files.
    pub fn algorithm(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
            Self::Rsa { .. } => "ssh-rsa",
            Self::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            Self::SkEcdsaP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    /// Gives the name of certificates on keys of this kind (PROTOCOL.certkeys, PROTOCOL.u2f).
    pub(crate) fn certificate_algorithm(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519-cert-v01@openssh.com",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256-cert-v01@openssh.com",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384-cert-v01@openssh.com",
            Self::Rsa { .. } => "ssh-rsa-cert-v01@openssh.com",
            Self::SkEd25519 => "sk-ssh-ed25519-cert-v01@openssh.com",
            Self::SkEcdsaP256 => "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
        }
    }
}

/// A public key that was checked; equality, order and hash are those of its bytes. Clones share them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey {
    kind: KeyKind,
    blob: Arc<[u8]>,
}

impl PublicKey {
    /// Reads one line `type base64 [comment]` and drops the comment.
    ///
    /// # Errors
    /// For anything else (options in front, several lines, certificates), and for keys that are not accepted.
    pub fn parse(line: &str) -> Result<Self, KeyError> {
        let (algorithm, blob) = split_line(line, MAX_KEY_BYTES)?;
        let key = Self::from_wire(&blob)?;
        if key.kind.algorithm() == algorithm { Ok(key) } else { Err(KeyError::Malformed) }
    }

    /// Reads the SSH wire form (RFC 4253 section 6.6), as agents and certificates carry it.
    ///
    /// # Errors
    /// For trailing or non-canonical bytes, and for keys that are not accepted.
    pub fn from_wire(blob: &[u8]) -> Result<Self, KeyError> {
        if blob.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong);
        }
        let algorithm = Reader::new(blob).string().map_err(|_| KeyError::Malformed)?;
        if algorithm.windows(6).any(|part| part == b"-cert-") {
            return Err(KeyError::Certificate);
        }
        let parsed = ssh_key::PublicKey::from_bytes(blob).map_err(|error| match error {
            ssh_key::Error::AlgorithmUnknown | ssh_key::Error::AlgorithmUnsupported { .. } => KeyError::Unsupported,
            _ => KeyError::Malformed,
        })?;
        let kind = check(parsed.key_data())?;
        // Two encodings of one key would be two keys to every comparison by bytes.
        let canonical = parsed.to_bytes().is_ok_and(|again| again == blob);
        if canonical { Ok(Self { kind, blob: blob.into() }) } else { Err(KeyError::Malformed) }
    }

    /// Gives the SSH wire form, as the agent protocol uses it.
    pub fn wire(&self) -> Vec<u8> {
        self.blob.to_vec()
    }

    /// Tells whether there are clones of it.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.blob) > 1
    }

    pub(crate) fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Gives `SHA256:` and the unpadded base64 of the SHA-256 of the wire form, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", BASE64_NOPAD.encode(&Sha256::digest(&self.blob)))
    }

    /// Tells the kind.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Tells whether signatures of this key count for acts and sign-in: all kinds but RSA.
    pub fn signs_acts(&self) -> bool {
        !matches!(self.kind, KeyKind::Rsa { .. })
    }

    /// Tells whether the private half lives in a FIDO token.
    pub fn is_hardware(&self) -> bool {
        matches!(self.kind, KeyKind::SkEd25519 | KeyKind::SkEcdsaP256)
    }

    /// Gives the raw key when it is (plain) Ed25519.
    pub fn ed25519_bytes(&self) -> Option<[u8; 32]> {
        match self.kind {
            KeyKind::Ed25519 => self.blob.last_chunk().copied(),
            _ => None,
        }
    }

    /// Gives the wire form without the leading algorithm name, as it stands inside a certificate.
    pub(crate) fn fields(&self) -> &[u8] {
        self.blob.get(4 + self.kind.algorithm().len()..).unwrap_or_default()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(line: &str) -> Result<Self, KeyError> {
        Self::parse(line)
    }
}

impl fmt::Display for PublicKey {
    /// Prints `type base64`, without a comment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.algorithm(), BASE64.encode(&self.blob))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Splits `type base64 [comment]` and decodes the middle; one trailing line end is allowed.
pub(crate) fn split_line(line: &str, max_bytes: usize) -> Result<(&str, Vec<u8>), KeyError> {
    if line.len() > max_bytes {
        return Err(KeyError::TooLong);
    }
    let line = line.strip_suffix('\n').unwrap_or(line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.chars().any(char::is_control) {
        return Err(KeyError::Malformed);
    }
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let (Some(algorithm), Some(base64)) = (words.next(), words.next()) else { return Err(KeyError::Malformed) };
    let blob = BASE64.decode(base64.as_bytes()).map_err(|_| KeyError::Malformed)?;
    Ok((algorithm, blob))
}

fn check(key: &KeyData) -> Result<KeyKind, KeyError> {
    match key {
        KeyData::Ed25519(key) => check_ed25519(&key.0).map(|()| KeyKind::Ed25519),
        KeyData::SkEd25519(key) => {
            check_application(key.application())?;
            check_ed25519(&key.public_key().0).map(|()| KeyKind::SkEd25519)
        }
        KeyData::Ecdsa(key @ EcdsaPublicKey::NistP256(_)) => {
            check_p256(key.as_sec1_bytes()).map(|()| KeyKind::EcdsaP256)
        }
        KeyData::Ecdsa(key @ EcdsaPublicKey::NistP384(_)) => {
            check_p384(key.as_sec1_bytes()).map(|()| KeyKind::EcdsaP384)
        }
        KeyData::SkEcdsaSha2NistP256(key) => {
            check_application(key.application())?;
            check_p256(key.ec_point().as_bytes()).map(|()| KeyKind::SkEcdsaP256)
        }
        KeyData::Rsa(key) => check_rsa(key),
        KeyData::Certificate(_) => Err(KeyError::Certificate),
        _ => Err(KeyError::Unsupported),
    }
}

/// The encodings of points of order 1, 2, 4 and 8, without their sign bit; p and p+1 are the non-canonical 0 and 1.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    edge(0x01, 0x00, 0x00),
    edge(0xec, 0xff, 0x7f),
    edge(0xed, 0xff, 0x7f),
    edge(0xee, 0xff, 0x7f),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

const fn edge(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

pub(crate) fn check_ed25519(key: &[u8; 32]) -> Result<(), KeyError> {
    // SECURITY: for a key of small order anybody can write a signature that verifies for many messages.
    let mut unsigned = *key;
    unsigned[31] &= 0x7f;
    if SMALL_ORDER.contains(&unsigned) { Err(KeyError::Point) } else { Ok(()) }
}

pub(crate) fn check_p256(point: &[u8]) -> Result<(), KeyError> {
    // PROTOCOL: RFC 5656 allows compressed points, OpenSSH refuses them; one key has one encoding here.
    let uncompressed = point.len() == 65 && point.first() == Some(&4);
    let on_curve = uncompressed && ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).is_ok();
    if on_curve { Ok(()) } else { Err(KeyError::Point) }
}

fn check_p384(point: &[u8]) -> Result<(), KeyError> {
    let uncompressed = point.len() == 97 && point.first() == Some(&4);
    let on_curve = uncompressed && ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).is_ok();
    if on_curve { Ok(()) } else { Err(KeyError::Point) }
}

fn check_application(application: &str) -> Result<(), KeyError> {
    if application == SK_APPLICATION { Ok(()) } else { Err(KeyError::Application) }
}

fn check_rsa(key: &RsaPublicKey) -> Result<KeyKind, KeyError> {
    let n = key.n().as_positive_bytes().ok_or(KeyError::Malformed)?;
    let e = key.e().as_positive_bytes().ok_or(KeyError::Malformed)?;
    let leading = n.first().map_or(8, |byte| byte.leading_zeros());
    let bits = u32::try_from(n.len() * 8).unwrap_or(u32::MAX).saturating_sub(leading);
    if !(2048..=8192).contains(&bits) {
        return Err(KeyError::RsaSize { bits });
    }
    // A long exponent makes every verification as slow as a signature: more than 64 bits have no use.
    if e.len() > 8 {
        return Err(KeyError::RsaNumbers);
    }
    let e = e.iter().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let odd_modulus = n.last().is_some_and(|byte| byte & 1 == 1);
    if e < 65537 || e & 1 == 0 || !odd_modulus { Err(KeyError::RsaNumbers) } else { Ok(KeyKind::Rsa { bits }) }
}

/// A private key: Ed25519, ECDSA P-256 or P-384. Hardware and RSA keys sign through an agent only.
pub struct PrivateKey {
    secret: ssh_key::PrivateKey,
    public: PublicKey,
    /// The Ed25519 key as it signs: made at the first signature, because that costs as much as one.
    pair: OnceLock<Option<Ed25519KeyPair>>,
}

impl PrivateKey {
    /// Makes an Ed25519 key of a random seed.
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        let pair = Ed25519Keypair::from_seed(&seed);
        seed.zeroize();
        let mut blob = Vec::with_capacity(51);
        put_string(&mut blob, KeyKind::Ed25519.algorithm().as_bytes());
        put_string(&mut blob, &pair.public.0);
        Self {
            public: PublicKey { kind: KeyKind::Ed25519, blob: blob.into() },
            secret: pair.into(),
            pair: OnceLock::new(),
        }
    }

    /// Reads an OpenSSH private key file, opening it with the passphrase where it is encrypted (PROTOCOL.key).
    ///
    /// # Errors
    /// [`KeyError::Encrypted`] when a passphrase is needed, [`KeyError::Passphrase`] when it is wrong; a passphrase for
    /// a key that is not encrypted is ignored.
    pub fn from_openssh(pem: &str, passphrase: Option<&str>) -> Result<Self, KeyError> {
        if pem.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong);
        }
        let file = ssh_key::PrivateKey::from_openssh(pem).map_err(|_| KeyError::Malformed)?;
        let public = file.public_key().to_bytes().map_err(|_| KeyError::Malformed)?;
        let public = PublicKey::from_wire(&public)?;
        if !matches!(public.kind, KeyKind::Ed25519 | KeyKind::EcdsaP256 | KeyKind::EcdsaP384) {
            return Err(KeyError::Unsupported);
        }
        let secret = match (file.is_encrypted(), passphrase) {
            (false, _) => file,
            (true, None) => return Err(KeyError::Encrypted),
            (true, Some(passphrase)) => file.decrypt(passphrase).map_err(|_| KeyError::Passphrase)?,
        };
        check_halves(secret.key_data(), &public)?;
        Ok(Self { secret, public, pair: OnceLock::new() })
    }

    /// Writes an unencrypted OpenSSH private key file.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the comment cannot stand in it.
    pub fn to_openssh(&self, comment: &str) -> Result<Zeroizing<String>, KeyError> {
        let mut secret = self.secret.clone();
        secret.set_comment(comment);
        secret.to_openssh(ssh_key::LineEnding::LF).map_err(|_| KeyError::Malformed)
    }

    /// Gives the public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs with plain Ed25519 (RFC 8032), as the log's key does.
    ///
    /// # Errors
    /// [`KeyError::NotEd25519`] for other kinds.
    pub fn sign_ed25519(&self, message: &[u8]) -> Result<[u8; 64], KeyError> {
        let KeypairData::Ed25519(pair) = self.secret.key_data() else { return Err(KeyError::NotEd25519) };
        let made = self
            .pair
            .get_or_init(|| Ed25519KeyPair::from_seed_and_public_key(pair.private.as_ref(), &pair.public.0).ok());
        let pair = made.as_ref().ok_or(KeyError::Mismatch)?;
        let signature = pair.try_sign(message).map_err(|_| KeyError::Signing)?;
        signature.as_ref().try_into().map_err(|_| KeyError::Signing)
    }

    pub(crate) fn secret(&self) -> &ssh_key::PrivateKey {
        &self.secret
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// ssh-key compares the public parts of a file with each other, not with the ECDSA scalar.
fn check_halves(secret: &KeypairData, public: &PublicKey) -> Result<(), KeyError> {
    let (algorithm, scalar, point) = match secret {
        KeypairData::Ed25519(pair) => {
            let made = Ed25519KeyPair::from_seed_unchecked(pair.private.as_ref()).map_err(|_| KeyError::Mismatch)?;
            let same = public.ed25519_bytes().is_some_and(|bytes| bytes == made.public_key().as_ref());
            return if same { Ok(()) } else { Err(KeyError::Mismatch) };
        }
        KeypairData::Ecdsa(EcdsaKeypair::NistP256 { public, private }) => {
            (&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_slice(), public.as_bytes())
        }
        KeypairData::Ecdsa(EcdsaKeypair::NistP384 { public, private }) => {
            (&ECDSA_P384_SHA384_FIXED_SIGNING, private.as_slice(), public.as_bytes())
        }
        _ => return Err(KeyError::Unsupported),
    };
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, scalar, point).map_err(|_| KeyError::Mismatch)?;
    Ok(())
}

/// Tells whether `signature` is `public`'s Ed25519 signature over `message` (RFC 8032).
#[must_use]
pub fn verify_ed25519(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    check_ed25519(public).is_ok() && UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

/// A key that signs certificates and nothing else: Ed25519. Clones share the one secret.
#[derive(Debug, Clone)]
pub struct CaKey(Arc<PrivateKey>);

impl CaKey {
    /// Dedicates a key to signing certificates.
    ///
    /// # Errors
    /// [`KeyError::NotEd25519`] for other kinds.
    pub fn new(key: PrivateKey) -> Result<Self, KeyError> {
        if key.public.kind == KeyKind::Ed25519 { Ok(Self(Arc::new(key))) } else { Err(KeyError::NotEd25519) }
    }

    /// Gives the public half, as `TrustedUserCAKeys` and `@cert-authority` lines name it.
    pub fn public(&self) -> &PublicKey {
        self.0.public()
    }

    /// Gives the private half, to be written to its file.
    pub fn inner(&self) -> &PrivateKey {
        &self.0
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<[u8; 64], KeyError> {
        self.0.sign_ed25519(message)
    }
}
