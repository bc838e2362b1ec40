//! Reads back what was signed, with another parser than the one that wrote it, and compares.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::PublicKeyData as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{self as oids, Oid};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

use super::{CaSpec, ClientLeafSpec, ServerLeafSpec, ServerName};
use crate::error::CaError;
use crate::key::{check_ed25519, check_p256};

/// keyCertSign and cRLSign, as x509-parser counts the bits of KeyUsage.
const CA_USAGE: u16 = 1 << 5 | 1 << 6;

/// The AlgorithmIdentifier ecdsa-with-SHA256 (RFC 5758 section 3.2).
const ECDSA_WITH_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// digitalSignature.
const LEAF_USAGE: u16 = 1;

/// What is known of a CA certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CaFacts {
    pub(super) name: String,
    pub(super) serial: Vec<u8>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    pub(super) spki_der: Vec<u8>,
    /// The subject as it stands in the certificate, to be the issuer of the leaves byte for byte.
    subject_der: Vec<u8>,
    /// The point of the key.
    point: Vec<u8>,
}

impl CaFacts {
    pub(super) fn point(&self) -> &[u8] {
        &self.point
    }
}

/// Reads a server CA certificate and checks that it is one.
pub(super) fn read_ca(der: &[u8]) -> Result<CaFacts, CaError> {
    let cert = parse(der).ok_or(CaError::NotCa("it is not one X.509 version 3 certificate"))?;
    let expected =
        [oids::OID_X509_EXT_KEY_USAGE, oids::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, oids::OID_X509_EXT_BASIC_CONSTRAINTS];
    if !has_exactly(&cert, &expected) {
        return Err(CaError::NotCa("its extensions are not those of a CA made here"));
    }
    let constraints = cert.basic_constraints().ok().flatten().map(|ext| ext.value);
    if !constraints.is_some_and(|value| value.ca && value.path_len_constraint == Some(0)) {
        return Err(CaError::NotCa("it is not a CA with path length 0"));
    }
    if usage(&cert) != Some(CA_USAGE) {
        return Err(CaError::NotCa("its key usage is not signing certificates and lists"));
    }
    let spki_der = cert.public_key().raw.to_vec();
    let subject = subject_key(&spki_der).map_err(|_| CaError::NotCa("its key is not a P-256 key"))?;
    let point = subject.der_bytes().to_vec();
    if cert.issuer().as_raw() != cert.subject().as_raw() || !signed_by(&cert, &point) {
        return Err(CaError::NotCa("it is not signed by itself"));
    }
    let mut names = cert.subject().iter_common_name();
    let name = names.next().and_then(|name| name.as_str().ok()).ok_or(CaError::NotCa("it has no name"))?;
    Ok(CaFacts {
        name: name.to_owned(),
        serial: trim(cert.raw_serial()).to_vec(),
        not_before: cert.validity().not_before.timestamp(),
        not_after: cert.validity().not_after.timestamp(),
        spki_der,
        subject_der: cert.subject().as_raw().to_vec(),
        point,
    })
}

/// Compares a CA certificate with its spec.
pub(super) fn compare_ca(facts: &CaFacts, spec: &CaSpec, spki_der: &[u8]) -> Result<(), CaError> {
    first_difference([
        ("name", facts.name == spec.name),
        ("serial", facts.serial == trim(&spec.serial)),
        ("not before", facts.not_before == spec.not_before),
        ("not after", facts.not_after == spec.not_after),
        ("key", facts.spki_der == spki_der),
    ])
}

/// The extensions of a leaf, whatever it is for.
fn leaf_extensions() -> [Oid<'static>; 6] {
    [
        oids::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
        oids::OID_X509_EXT_SUBJECT_ALT_NAME,
        oids::OID_X509_EXT_KEY_USAGE,
        oids::OID_X509_EXT_EXTENDED_KEY_USAGE,
        oids::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
        oids::OID_X509_EXT_BASIC_CONSTRAINTS,
    ]
}

/// The purposes of a leaf: for servers, for clients, or anything else.
fn purposes(cert: &X509Certificate<'_>) -> Option<(bool, bool)> {
    let eku = cert.extended_key_usage().ok().flatten().map(|ext| ext.value)?;
    let others = eku.any || eku.code_signing || eku.email_protection || eku.time_stamping || eku.ocsp_signing;
    (!others && eku.other.is_empty()).then_some((eku.server_auth, eku.client_auth))
}

/// Compares a client certificate with its spec and its CA.
pub(super) fn compare_client(der: &[u8], spec: &ClientLeafSpec, ca: &CaFacts) -> Result<(), CaError> {
    let cert = parse(der).ok_or(CaError::Lint { field: "encoding" })?;
    let spki = super::client::spki_of(&spec.key)?;
    first_difference([
        ("extensions", has_exactly(&cert, &leaf_extensions())),
        ("serial", trim(cert.raw_serial()) == trim(&spec.serial.to_be_bytes())),
        ("issuer", cert.issuer().as_raw() == ca.subject_der),
        ("subject", only_name(&cert) == Some(spec.account.as_str())),
        ("not before", cert.validity().not_before.timestamp() == spec.not_before),
        ("not after", cert.validity().not_after.timestamp() == spec.not_after),
        ("key", cert.public_key().raw == spki),
        ("names", only_uri(&cert) == Some(spec.uri.as_str())),
        ("key usage", usage(&cert) == Some(LEAF_USAGE)),
        ("extended key usage", purposes(&cert) == Some((false, true))),
        ("basic constraints", !cert.is_ca()),
        ("signature", signed_by(&cert, &ca.point)),
    ])
}

/// What a certificate of a client says; none for any other.
pub(super) fn client_facts(der: &[u8]) -> Option<super::ClientFacts> {
    let cert = parse(der)?;
    let client = has_exactly(&cert, &leaf_extensions()) && purposes(&cert) == Some((false, true)) && !cert.is_ca();
    let (from, to) = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
    client.then_some(())?;
    Some(super::ClientFacts::of(only_name(&cert)?, from, to, cert.public_key().raw))
}

/// The common name, when the subject is nothing else.
fn only_name<'a>(cert: &'a X509Certificate<'_>) -> Option<&'a str> {
    let one = cert.subject().iter_attributes().count() == 1;
    let name = cert.subject().iter_common_name().next()?.as_str().ok()?;
    one.then_some(name)
}

fn only_uri<'a>(cert: &'a X509Certificate<'_>) -> Option<&'a str> {
    let extension = cert.extensions().iter().find(|ext| ext.oid == oids::OID_X509_EXT_SUBJECT_ALT_NAME)?;
    let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { return None };
    match names.general_names.as_slice() {
        [GeneralName::URI(uri)] => Some(uri),
        _ => None,
    }
}

/// The part of a certificate that is signed.
pub(super) fn tbs(der: &[u8]) -> Option<Vec<u8>> {
    let (rest, cert) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then(|| cert.tbs_certificate.as_ref().to_vec())
}

/// Compares a server certificate with its spec and its CA.
pub(super) fn compare_leaf(der: &[u8], spec: &ServerLeafSpec, ca: &CaFacts) -> Result<(), CaError> {
    let cert = parse(der).ok_or(CaError::Lint { field: "encoding" })?;
    first_difference([
        ("extensions", has_exactly(&cert, &leaf_extensions())),
        ("serial", trim(cert.raw_serial()) == trim(&spec.serial)),
        ("issuer", cert.issuer().as_raw() == ca.subject_der),
        ("subject", cert.subject().iter_rdn().next().is_none()),
        ("not before", cert.validity().not_before.timestamp() == spec.not_before),
        ("not after", cert.validity().not_after.timestamp() == spec.not_after),
        ("key", cert.public_key().raw == spec.public_key_spki_der),
        ("names", alt_names(&cert).as_deref() == Some(&spec.names)),
        ("key usage", usage(&cert) == Some(LEAF_USAGE)),
        ("extended key usage", purposes(&cert) == Some((true, false))),
        ("basic constraints", !cert.is_ca()),
        ("signature", signed_by(&cert, &ca.point)),
    ])
}

/// Reads a subject key: P-256 or Ed25519, canonical, and a usable point.
pub(super) fn subject_key(spki_der: &[u8]) -> Result<rcgen::SubjectPublicKeyInfo, CaError> {
    let key = rcgen::SubjectPublicKeyInfo::from_der(spki_der).map_err(|_| CaError::SubjectKey)?;
    if key.subject_public_key_info() != spki_der {
        return Err(CaError::SubjectKey);
    }
    let usable = if key.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256 {
        check_p256(key.der_bytes()).is_ok()
    } else if key.algorithm() == &rcgen::PKCS_ED25519 {
        key.der_bytes().try_into().is_ok_and(|bytes: &[u8; 32]| check_ed25519(bytes).is_ok())
    } else {
        false
    };
    if usable { Ok(key) } else { Err(CaError::SubjectKey) }
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, cert) = X509Certificate::from_der(der).ok()?;
    (rest.is_empty() && cert.version() == X509Version::V3 && is_canonical(der, &cert)).then_some(cert)
}

/// Tells whether what the signature does not cover stands in its only form: one certificate, one fingerprint.
fn is_canonical(der: &[u8], cert: &X509Certificate<'_>) -> bool {
    let signature = cert.signature_value.as_ref();
    let mut body = cert.tbs_certificate.as_ref().to_vec();
    body.extend_from_slice(&ECDSA_WITH_SHA256);
    body.push(0x03);
    put_length(&mut body, signature.len() + 1);
    body.push(0);
    body.extend_from_slice(signature);
    let mut again = vec![0x30];
    put_length(&mut again, body.len());
    again.extend_from_slice(&body);
    again == der
}

/// Appends a DER length (X.690 section 8.1.3).
fn put_length(out: &mut Vec<u8>, length: usize) {
    let bytes = length.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = bytes.get(zeros..).unwrap_or_default();
    if length >= 0x80 {
        out.push(0x80 | digits.len() as u8);
    }
    if length == 0 { out.push(0) } else { out.extend_from_slice(digits) }
}

fn has_exactly(cert: &X509Certificate<'_>, expected: &[Oid<'_>]) -> bool {
    let found = cert.extensions();
    found.len() == expected.len() && expected.iter().all(|oid| found.iter().any(|ext| ext.oid == *oid))
}

fn usage(cert: &X509Certificate<'_>) -> Option<u16> {
    cert.key_usage().ok().flatten().map(|ext| ext.value.flags)
}

fn alt_names(cert: &X509Certificate<'_>) -> Option<Vec<ServerName>> {
    let extension = cert.extensions().iter().find(|ext| ext.oid == oids::OID_X509_EXT_SUBJECT_ALT_NAME)?;
    let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { return None };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(ServerName::Dns((*name).to_owned())),
        GeneralName::IPAddress(bytes) => address(bytes).map(ServerName::Ip),
        _ => None,
    };
    names.general_names.iter().map(name).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.try_into().ok().map(|v4: [u8; 4]| IpAddr::V4(Ipv4Addr::from(v4))),
        16 => bytes.try_into().ok().map(|v6: [u8; 16]| IpAddr::V6(Ipv6Addr::from(v6))),
        _ => None,
    }
}

fn signed_by(cert: &X509Certificate<'_>, point: &[u8]) -> bool {
    // A signature is whole bytes; a bit string that says otherwise is a second form of the same certificate.
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
    cert.signature_value.unused_bits == 0
        && key.verify(cert.tbs_certificate.as_ref(), cert.signature_value.as_ref()).is_ok()
}

/// A serial as a number: without zeros in front.
pub(super) fn trim(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

fn first_difference<const N: usize>(fields: [(&'static str, bool); N]) -> Result<(), CaError> {
    match fields.into_iter().find(|(_, same)| !same) {
        Some((field, _)) => Err(CaError::Lint { field }),
        None => Ok(()),
    }
}
