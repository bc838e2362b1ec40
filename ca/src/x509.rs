//! The TLS side: CAs and the certificates of servers and of clients under them (RFC 5280), all signed with ECDSA P-256.
//!
//! What is signed is parsed again by another implementation (x509-parser), its signature verified and every field
//! compared with the spec before it is released. Servers and clients have a CA each: a key has one purpose.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use data_encoding::{BASE64, BASE64_NOPAD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub use crate::error::CaError;
use crate::limits::LimitError;

mod check;
mod client;

pub use client::{ClientFacts, ClientLeafSpec, fits_client, sign_client_leaf, tbs_client};

/// The longest PEM text that is looked at, in bytes.
const MAX_PEM_BYTES: usize = 16 * 1024;

/// The longest server certificate, in seconds: the bound that hosts have ([`crate::limits::Limits::STANDARD`]).
const MAX_LEAF_WINDOW_S: u64 = 400 * 24 * 60 * 60;

/// The most names in one server certificate.
const MAX_NAMES: usize = 64;

/// 9999-12-31T23:59:59Z, the last instant that X.509 can write.
const LAST_INSTANT_S: i64 = 253_402_300_799;

/// A P-256 private key for X.509; zeroizes when dropped and prints `***`.
pub struct X509Key {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl X509Key {
    /// Draws a new key from the provider's generator.
    ///
    /// # Errors
    /// [`CaError::Signing`] when the provider fails.
    pub fn generate() -> Result<Self, CaError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        Self::from_pkcs8(document.map_err(|_| CaError::Signing)?.as_ref())
    }

    /// Reads a PKCS#8 private key (`BEGIN PRIVATE KEY`).
    ///
    /// # Errors
    /// [`CaError::X509Key`] for anything but a P-256 key.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, CaError> {
        if pem.len() > MAX_PEM_BYTES {
            return Err(CaError::X509Key);
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| CaError::X509Key)?;
        Self::from_pkcs8(der.secret_pkcs8_der())
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, CaError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map_err(|_| CaError::X509Key)?;
        Ok(Self { pair, pkcs8: Zeroizing::new(der.to_vec()) })
    }

    /// Writes the key as PKCS#8 (`BEGIN PRIVATE KEY`), unencrypted.
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        pem("PRIVATE KEY", &self.pkcs8)
    }

    /// Writes the key as PKCS#8 DER, unencrypted: what JDBC reads.
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }

    /// Gives the public half as an SSH key (RFC 5656 section 3.1), as signed requests name it.
    ///
    /// # Errors
    /// [`CaError::Key`] never for a key that this type made.
    pub fn public(&self) -> Result<crate::key::PublicKey, CaError> {
        let mut blob = Vec::new();
        let point = self.pair.public_key().as_ref();
        for part in [b"ecdsa-sha2-nistp256".as_slice(), b"nistp256", point] {
            crate::wire::put_string(&mut blob, part);
        }
        crate::key::PublicKey::from_wire(&blob).map_err(CaError::Key)
    }

    /// Gives the DER of the SubjectPublicKeyInfo (RFC 5280 section 4.1).
    pub fn spki_der(&self) -> Vec<u8> {
        self.subject_public_key_info()
    }
}

impl fmt::Debug for X509Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl rcgen::PublicKeyData for X509Key {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for X509Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// Everything the certificate of a CA says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaSpec {
    /// The common name.
    pub name: String,
    /// Random; not zero.
    pub serial: [u8; 16],
    /// The first second of validity, in seconds since 1970.
    pub not_before: i64,
    /// The last second of validity, in seconds since 1970 (RFC 5280 section 4.1.2.5: it still counts).
    pub not_after: i64,
}

/// A name that clients check a server's certificate against.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerName {
    /// A host name in lower case, without wildcard and without a dot at its end.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// Everything a server certificate says, apart from who signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLeafSpec {
    /// The subject alternative names, in order.
    pub names: Vec<ServerName>,
    /// The server's key: P-256 or Ed25519, as DER of the SubjectPublicKeyInfo.
    pub public_key_spki_der: Vec<u8>,
    /// Random; not zero.
    pub serial: [u8; 16],
    /// The first second of validity, in seconds since 1970.
    pub not_before: i64,
    /// The last second of validity, in seconds since 1970 (RFC 5280 section 4.1.2.5: it still counts).
    pub not_after: i64,
}

/// The certificate of a CA, checked when read: self-signed P-256, CA with path length 0, signs certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCert {
    pem: String,
    der: Vec<u8>,
    facts: check::CaFacts,
}

impl CaCert {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// [`CaError::NotCa`] unless it is a CA certificate as this crate makes them.
    pub fn from_pem(pem: &str) -> Result<Self, CaError> {
        if pem.len() > MAX_PEM_BYTES {
            return Err(CaError::NotCa("it is too long"));
        }
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| CaError::NotCa("it is not PEM"))?;
        Self::from_der(&der)
    }

    fn from_der(der: &[u8]) -> Result<Self, CaError> {
        let facts = check::read_ca(der)?;
        Ok(Self { pem: pem("CERTIFICATE", der).to_string(), der: der.to_vec(), facts })
    }

    /// Gives the PEM text.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Gives the DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Gives the common name.
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// Gives the first second of validity, in seconds since 1970.
    pub fn not_before(&self) -> i64 {
        self.facts.not_before
    }

    /// Gives the last second of validity, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.facts.not_after
    }

    /// Gives `SHA256:` and the unpadded base64 of the SHA-256 of the DER.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", BASE64_NOPAD.encode(&Sha256::digest(&self.der)))
    }
}

/// Makes the self-signed certificate of a CA.
///
/// # Errors
/// When the spec cannot stand in a certificate, or what was signed does not read back as the spec.
pub fn make_ca(key: &X509Key, spec: &CaSpec) -> Result<CaCert, CaError> {
    let printable = spec.name.bytes().all(|b| (0x20..=0x7e).contains(&b));
    if spec.name.trim().is_empty() || spec.name.len() > 64 || !printable {
        return Err(CaError::Name);
    }
    let mut params = params(&spec.serial, spec.not_before, spec.not_after)?;
    params.distinguished_name.push(DnType::CommonName, spec.name.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let signed = params.self_signed(key).map_err(|_| CaError::Signing)?;
    let made = CaCert::from_der(signed.der())?;
    check::compare_ca(&made.facts, spec, &key.spki_der())?;
    Ok(made)
}

/// Signs a server certificate; gives its DER.
///
/// # Errors
/// When the spec crosses a limit or outlives the CA, or what was signed does not read back as the spec.
pub fn sign_server_leaf(ca: &CaCert, key: &X509Key, spec: &ServerLeafSpec) -> Result<Vec<u8>, CaError> {
    if key.spki_der() != ca.facts.spki_der {
        return Err(CaError::KeyMismatch);
    }
    let length_s = spec.not_after.abs_diff(spec.not_before);
    if length_s > MAX_LEAF_WINDOW_S {
        return Err(LimitError::Window { length_s, max_s: MAX_LEAF_WINDOW_S }.into());
    }
    if spec.not_after > ca.facts.not_after {
        return Err(CaError::Window);
    }
    let subject = check::subject_key(&spec.public_key_spki_der)?;
    if spec.public_key_spki_der == ca.facts.spki_der {
        return Err(CaError::SubjectKey);
    }
    let mut params = params(&spec.serial, spec.not_before, spec.not_after)?;
    params.subject_alt_names = alt_names(&spec.names)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let issuer = CertificateDer::from(ca.der.as_slice());
    let issuer = Issuer::from_ca_cert_der(&issuer, key).map_err(|_| CaError::Signing)?;
    let signed = params.signed_by(&subject, &issuer).map_err(|_| CaError::Signing)?;
    check::compare_leaf(signed.der(), spec, &ca.facts)?;
    Ok(signed.der().to_vec())
}

/// The fields that both kinds of certificates share; the subject is left empty.
fn params(serial: &[u8; 16], not_before: i64, not_after: i64) -> Result<CertificateParams, CaError> {
    if serial.iter().all(|byte| *byte == 0) {
        return Err(CaError::ZeroSerial);
    }
    if not_before >= not_after || not_after > LAST_INSTANT_S {
        return Err(CaError::Window);
    }
    let since_1970 = |at: i64| u64::try_from(at).map(Duration::from_secs).map_err(|_| CaError::Window);
    let start = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = start + since_1970(not_before)?;
    params.not_after = start + since_1970(not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(check::trim(serial)));
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}

fn alt_names(names: &[ServerName]) -> Result<Vec<SanType>, CaError> {
    let mut sorted: Vec<&ServerName> = names.iter().collect();
    sorted.sort_unstable();
    let repeated = sorted.windows(2).any(|pair| matches!(pair, [a, b] if a == b));
    if names.is_empty() || names.len() > MAX_NAMES || repeated {
        return Err(CaError::ServerNames);
    }
    let alt_name = |name: &ServerName| match name {
        ServerName::Dns(name) if is_host_name(name) => {
            name.as_str().try_into().map(SanType::DnsName).map_err(|_| CaError::ServerNames)
        }
        ServerName::Dns(_) => Err(CaError::ServerNames),
        ServerName::Ip(address) => Ok(SanType::IpAddress(*address)),
    };
    names.iter().map(alt_name).collect()
}

/// RFC 1123 host names in lower case; an address in dotted form is not a host name.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && name.parse::<IpAddr>().is_err()
}

/// RFC 7468: lines of 64 characters. The capacity is exact, so that no copy of a secret stays behind.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(BASE64.encode(der));
    let frame = 2 * label.len() + 32;
    let mut out = Zeroizing::new(String::with_capacity(base64.len() + base64.len() / 64 + 1 + frame));
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    for line in base64.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}
