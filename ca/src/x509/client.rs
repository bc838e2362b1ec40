//! Certificates of clients: the proof of a temporary account on a database (RFC 5280; PostgreSQL chapter 21.12).
//!
//! A CA of its own signs them, for no other purpose. The common name is the account's name, which PostgreSQL compares byte for byte.

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::{CaCert, X509Key, check, params};
use crate::error::CaError;
use crate::key::{KeyKind, PublicKey};
use crate::limits::{LimitError, Limits};

/// Everything the certificate of a client says, apart from who signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientLeafSpec {
    /// The common name: an account, `[a-z0-9_]`, 1 to 63 bytes.
    pub account: String,
    /// The one subject alternative name, a URI: which grant allows it. Printable ASCII without spaces, at most 128 bytes.
    pub uri: String,
    /// The client's key: Ed25519 or ECDSA P-256.
    pub key: PublicKey,
    /// Unique for the CA, for ever; not zero.
    pub serial: u64,
    /// The first second of validity, in seconds since 1970.
    pub not_before: i64,
    /// The last second of validity, in seconds since 1970 (RFC 5280 section 4.1.2.5: it still counts).
    pub not_after: i64,
}

/// Tells whether a key can be the subject of a client certificate: P-256, which every TLS library takes, or Ed25519.
pub fn fits_client(key: &PublicKey) -> bool {
    matches!(key.kind(), KeyKind::Ed25519 | KeyKind::EcdsaP256)
}

/// Gives the exact bytes that would be signed (TBSCertificate, RFC 5280 section 4.1), so that they can be agreed on before they are.
///
/// # Errors
/// When the spec crosses a limit, cannot stand in a certificate, or outlives the CA.
pub fn tbs_client(ca: &CaCert, spec: &ClientLeafSpec) -> Result<Vec<u8>, CaError> {
    let unsigned = made(ca, Unsigned { point: ca.facts.point() }, spec)?;
    check::tbs(&unsigned).ok_or(CaError::Lint { field: "encoding" })
}

/// Signs a client certificate; gives its DER.
///
/// # Errors
/// As [`tbs_client`], and when what was signed does not read back as the spec.
pub fn sign_client_leaf(ca: &CaCert, key: &X509Key, spec: &ClientLeafSpec) -> Result<Vec<u8>, CaError> {
    if key.spki_der() != ca.facts.spki_der {
        return Err(CaError::KeyMismatch);
    }
    let der = made(ca, key, spec)?;
    check::compare_client(&der, spec, &ca.facts)?;
    Ok(der)
}

fn made(ca: &CaCert, key: impl rcgen::SigningKey, spec: &ClientLeafSpec) -> Result<Vec<u8>, CaError> {
    let spki = spki_of(&spec.key)?;
    if spki == ca.facts.spki_der {
        return Err(CaError::SubjectKey);
    }
    let subject = check::subject_key(&spki)?;
    let params = client_params(ca, spec)?;
    let issuer = CertificateDer::from(ca.der());
    let issuer = Issuer::from_ca_cert_der(&issuer, key).map_err(|_| CaError::Signing)?;
    let signed = params.signed_by(&subject, &issuer).map_err(|_| CaError::Signing)?;
    Ok(signed.der().to_vec())
}

fn client_params(ca: &CaCert, spec: &ClientLeafSpec) -> Result<CertificateParams, CaError> {
    let max_s = Limits::STANDARD.max_user_window_s;
    let length_s = spec.not_after.abs_diff(spec.not_before);
    if length_s > max_s {
        return Err(LimitError::Window { length_s, max_s }.into());
    }
    if spec.not_after > ca.not_after() {
        return Err(CaError::Window);
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let uri_fits = (1..=128).contains(&spec.uri.len()) && spec.uri.bytes().all(|b| b.is_ascii_graphic());
    if spec.account.is_empty() || spec.account.len() > 63 || !spec.account.bytes().all(plain) || !uri_fits {
        return Err(CaError::Name);
    }
    let mut serial = [0; 16];
    let (_, low) = serial.split_at_mut(8);
    low.copy_from_slice(&spec.serial.to_be_bytes());
    let mut params = params(&serial, spec.not_before, spec.not_after)?;
    params.distinguished_name.push(DnType::CommonName, spec.account.as_str());
    params.subject_alt_names = vec![SanType::URI(spec.uri.as_str().try_into().map_err(|_| CaError::Name)?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The SubjectPublicKeyInfo of an SSH key (RFC 5480 section 2, RFC 8410 section 4).
pub(super) fn spki_of(key: &PublicKey) -> Result<Vec<u8>, CaError> {
    const ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    const P256: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
        0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let (head, length): (&[u8], usize) = match key.kind() {
        KeyKind::Ed25519 => (&ED25519, 32),
        KeyKind::EcdsaP256 => (&P256, 65),
        _ => return Err(CaError::SubjectKey),
    };
    let fields = key.fields();
    let point = fields.len().checked_sub(length).and_then(|at| fields.get(at..)).ok_or(CaError::SubjectKey)?;
    Ok([head, point].concat())
}

/// Stands where the CA's key would, and signs nothing: for the bytes that come before the signature.
struct Unsigned<'a> {
    point: &'a [u8],
}

impl rcgen::PublicKeyData for Unsigned<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Unsigned<'_> {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(vec![0; 64])
    }
}

/// What a client certificate says, for whoever is about to keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFacts {
    /// The common name: an account.
    pub account: String,
    /// The first second of validity, in seconds since 1970.
    pub not_before: i64,
    /// The last second of validity, in seconds since 1970.
    pub not_after: i64,
    spki_der: Vec<u8>,
}

impl ClientFacts {
    /// Reads one certificate, PEM. The signature is not looked at: the server that it is shown to does that.
    ///
    /// # Errors
    /// [`CaError::Malformed`] for anything but one certificate of a client as this crate makes them.
    pub fn read(pem: &str) -> Result<Self, CaError> {
        if pem.len() > super::MAX_PEM_BYTES {
            return Err(CaError::TooLong);
        }
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| CaError::Malformed)?;
        check::client_facts(&der).ok_or(CaError::Malformed)
    }

    /// Tells whether it is for a key.
    pub fn is_for(&self, key: &PublicKey) -> bool {
        spki_of(key).is_ok_and(|spki| spki == self.spki_der)
    }
}

impl ClientFacts {
    pub(super) fn of(account: &str, not_before: i64, not_after: i64, spki_der: &[u8]) -> Self {
        Self { account: account.to_owned(), not_before, not_after, spki_der: spki_der.to_vec() }
    }
}
