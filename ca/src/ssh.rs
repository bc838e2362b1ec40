//! User and host certificates (PROTOCOL.certkeys).
//!
//! The bytes to be signed are written here, field by field, and are a function of spec and CA alone; what was signed is
//! read back by another implementation (ssh-key), verified and compared with the spec before anybody sees it.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use sha2::{Digest as _, Sha256};
use ssh_key::certificate::CertType;

pub use crate::error::CaError;
use crate::key::{CaKey, KeyError, KeyKind, PublicKey, split_line, verify_ed25519};
use crate::limits::Limits;
use crate::spec::{CertWindow, HostSpec, KeyId, Principals, Serial, UserSpec};
use crate::wire::{put_string, put_u32, put_u64};

/// The longest certificate line that is looked at, in bytes: the widest spec needs half of it.
pub const MAX_CERTIFICATE_BYTES: usize = 256 * 1024;

/// The two types of certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertKind {
    /// For logging in.
    User,
    /// For a host to prove its name.
    Host,
}

/// What a certificate says. Only the CA's signature was checked: whether that CA is trusted, the time, the principals
/// and the options are the reader's to judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// User or host.
    pub kind: CertKind,
    /// The serial; may be 0 in certificates of other CAs.
    pub serial: u64,
    /// The subject's key.
    pub key: PublicKey,
    /// The CA's key.
    pub ca: PublicKey,
    /// The text that hosts log.
    pub key_id: String,
    /// The principals in order; may be empty in certificates of other CAs, and then speaks for nobody.
    pub principals: Vec<String>,
    /// The first second of validity.
    pub valid_after: u64,
    /// The first second after validity.
    pub valid_before: u64,
    /// Critical options by name; flags have an empty value.
    pub critical: BTreeMap<String, String>,
    /// Extensions by name; flags have an empty value.
    pub extensions: BTreeMap<String, String>,
    /// The CA's random bytes.
    pub nonce: Vec<u8>,
    /// SHA-256 of the bytes that were signed.
    pub tbs_sha256: [u8; 32],
}

/// A certificate that was signed here and checked against its spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshCertificate {
    openssh: String,
    facts: CertificateFacts,
}

impl SshCertificate {
    /// Gives the line `type base64`, without comment and line end, as a `-cert.pub` file holds it.
    pub fn openssh(&self) -> &str {
        &self.openssh
    }

    /// Gives the fingerprint of the subject's key.
    pub fn subject_fingerprint(&self) -> String {
        self.facts.key.fingerprint()
    }

    /// Gives what was read back.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }
}

/// Gives the exact bytes that the CA signs for a user certificate; the same spec gives the same bytes.
pub fn tbs_user(spec: &UserSpec, ca: &PublicKey) -> Vec<u8> {
    Fields::of_user(spec).encode(ca)
}

/// Gives the exact bytes that the CA signs for a host certificate; the same spec gives the same bytes.
pub fn tbs_host(spec: &HostSpec, ca: &PublicKey) -> Vec<u8> {
    Fields::of_host(spec).encode(ca)
}

/// Signs a user certificate.
///
/// # Errors
/// When the spec crosses a limit, or what was signed does not read back as the spec.
pub fn sign_user(ca: &CaKey, spec: &UserSpec, limits: &Limits) -> Result<SshCertificate, CaError> {
    limits.check_user(spec, ca.public())?;
    sign(ca, &Fields::of_user(spec))
}

/// Signs a host certificate.
///
/// # Errors
/// When the spec crosses a limit, or what was signed does not read back as the spec.
pub fn sign_host(ca: &CaKey, spec: &HostSpec, limits: &Limits) -> Result<SshCertificate, CaError> {
    limits.check_host(spec, ca.public())?;
    sign(ca, &Fields::of_host(spec))
}

/// Reads a certificate line and checks the signature of the CA that it names.
///
/// # Errors
/// When it is not canonical, names an unacceptable key, or its signature does not fit. CA keys that cannot be checked
/// (RSA among them) count as the last.
pub fn read(openssh: &str) -> Result<CertificateFacts, CaError> {
    let parsed = Parsed::of(openssh)?;
    verify(&parsed.cert, &parsed.facts.ca, parsed.tbs())?;
    Ok(parsed.facts)
}

/// Reads a certificate line of somebody who has checked its signature, and does not check it again.
///
/// # Errors
/// As [`read`], but for the signature.
pub fn read_checked(openssh: &str) -> Result<CertificateFacts, CaError> {
    Parsed::of(openssh).map(|parsed| parsed.facts)
}

/// A well-formed certificate; whether its signature holds is another question.
struct Parsed {
    blob: Vec<u8>,
    cert: ssh_key::Certificate,
    tbs_len: usize,
    facts: CertificateFacts,
}

impl Parsed {
    fn of(openssh: &str) -> Result<Self, CaError> {
        let (algorithm, blob) = split_line(openssh, MAX_CERTIFICATE_BYTES).map_err(|error| match error {
            KeyError::TooLong => CaError::TooLong,
            _ => CaError::Malformed,
        })?;
        let cert = ssh_key::Certificate::from_bytes(&blob).map_err(|_| CaError::Malformed)?;
        if !cert.to_bytes().is_ok_and(|again| again == blob) {
            return Err(CaError::Malformed);
        }
        let key = acceptable(cert.public_key())?;
        let ca = acceptable(cert.signature_key())?;
        if key.kind().certificate_algorithm() != algorithm {
            return Err(CaError::Malformed);
        }
        let tbs = signed_part(&blob, &cert, &ca)?;
        let facts = CertificateFacts {
            kind: match cert.cert_type() {
                CertType::User => CertKind::User,
                CertType::Host => CertKind::Host,
            },
            serial: cert.serial(),
            key,
            ca,
            key_id: cert.key_id().to_owned(),
            principals: cert.valid_principals().to_vec(),
            valid_after: cert.valid_after(),
            valid_before: cert.valid_before(),
            critical: cert.critical_options().0.clone(),
            extensions: cert.extensions().0.clone(),
            nonce: cert.nonce().to_vec(),
            tbs_sha256: Sha256::digest(tbs).into(),
        };
        Ok(Self { tbs_len: tbs.len(), blob, cert, facts })
    }

    fn tbs(&self) -> &[u8] {
        self.blob.get(..self.tbs_len).unwrap_or_default()
    }
}

fn acceptable(key: &ssh_key::public::KeyData) -> Result<PublicKey, CaError> {
    let blob = ssh_key::PublicKey::from(key.clone()).to_bytes().map_err(|_| CaError::Malformed)?;
    PublicKey::from_wire(&blob).map_err(CaError::Key)
}

/// Gives what stands before the signature, which must end in an empty reserved field and the CA's key.
fn signed_part<'a>(blob: &'a [u8], cert: &ssh_key::Certificate, ca: &PublicKey) -> Result<&'a [u8], CaError> {
    let signature = Vec::<u8>::try_from(cert.signature().clone()).map_err(|_| CaError::Malformed)?;
    let end = blob.len().checked_sub(4 + signature.len()).ok_or(CaError::Malformed)?;
    let tbs = blob.get(..end).ok_or(CaError::Malformed)?;
    let mut tail = Vec::new();
    put_string(&mut tail, b"");
    put_string(&mut tail, ca.blob());
    if tbs.ends_with(&tail) { Ok(tbs) } else { Err(CaError::Malformed) }
}

fn verify(cert: &ssh_key::Certificate, ca: &PublicKey, tbs: &[u8]) -> Result<(), CaError> {
    if cert.signature().algorithm().as_str() != ca.kind().algorithm() {
        return Err(CaError::Signature);
    }
    if let Some(public) = ca.ed25519_bytes() {
        let holds = verify_ed25519(&public, tbs, cert.signature().as_bytes());
        return match cert.valid_after() < cert.valid_before() {
            true if holds => Ok(()),
            true => Err(CaError::Signature),
            false => Err(CaError::Malformed),
        };
    }
    // ssh-key offers the signature check only together with CA and time: both are fed from the certificate itself.
    let own_ca = cert.signature_key().fingerprint(ssh_key::HashAlg::Sha256);
    if cert.valid_after() >= cert.valid_before() {
        return Err(CaError::Malformed);
    }
    cert.validate_at(cert.valid_after(), [&own_ca]).map_err(|_| CaError::Signature)
}

/// What both specs say, in the words of the format.
struct Fields<'a> {
    kind: CertKind,
    serial: Serial,
    key: &'a PublicKey,
    key_id: &'a KeyId,
    principals: &'a Principals,
    window: CertWindow,
    critical: BTreeMap<String, String>,
    extensions: BTreeMap<String, String>,
    nonce: &'a [u8; 32],
}

impl<'a> Fields<'a> {
    fn of_user(spec: &'a UserSpec) -> Self {
        Self {
            kind: CertKind::User,
            serial: spec.serial,
            key: &spec.key,
            key_id: &spec.key_id,
            principals: &spec.principals,
            window: spec.window,
            critical: spec.critical_map(),
            extensions: spec.extension_map(),
            nonce: &spec.nonce,
        }
    }

    fn of_host(spec: &'a HostSpec) -> Self {
        Self {
            kind: CertKind::Host,
            serial: spec.serial,
            key: &spec.key,
            key_id: &spec.key_id,
            principals: &spec.principals,
            window: spec.window,
            critical: BTreeMap::new(),
            extensions: BTreeMap::new(),
            nonce: &spec.nonce,
        }
    }

    /// PROTOCOL: type, nonce, key, serial, type, key ID, principals, window, options, extensions, reserved, CA key.
    fn encode(&self, ca: &PublicKey) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        put_string(&mut out, self.key.kind().certificate_algorithm().as_bytes());
        put_string(&mut out, self.nonce);
        out.extend_from_slice(self.key.fields());
        put_u64(&mut out, self.serial.value());
        let kind = match self.kind {
            CertKind::User => 1,
            CertKind::Host => 2,
        };
        put_u32(&mut out, kind);
        put_string(&mut out, self.key_id.as_str().as_bytes());
        let mut principals = Vec::new();
        self.principals.iter().for_each(|principal| put_string(&mut principals, principal.as_str().as_bytes()));
        put_string(&mut out, &principals);
        put_u64(&mut out, self.window.valid_after());
        put_u64(&mut out, self.window.valid_before());
        put_string(&mut out, &encode_options(&self.critical));
        put_string(&mut out, &encode_options(&self.extensions));
        put_string(&mut out, b"");
        put_string(&mut out, ca.blob());
        out
    }
}

/// PROTOCOL: sorted by name; a value is a string within the data string, a flag is an empty data string.
fn encode_options(options: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in options {
        put_string(&mut out, name.as_bytes());
        let mut data = Vec::new();
        if !value.is_empty() {
            put_string(&mut data, value.as_bytes());
        }
        put_string(&mut out, &data);
    }
    out
}

fn sign(ca: &CaKey, fields: &Fields<'_>) -> Result<SshCertificate, CaError> {
    let tbs = fields.encode(ca.public());
    let raw = ca.sign(&tbs).map_err(|_| CaError::Signing)?;
    let mut signature = Vec::with_capacity(83);
    put_string(&mut signature, KeyKind::Ed25519.algorithm().as_bytes());
    put_string(&mut signature, &raw);
    let mut blob = tbs;
    put_string(&mut blob, &signature);
    release(format!("{} {}", fields.key.kind().certificate_algorithm(), BASE64.encode(&blob)), fields, ca.public())
}

/// Lets a signed certificate go, if it reads back as what was to be signed.
///
/// SECURITY: a fault between spec and bytes (memory, a bug, a signer that was swapped) must not leave the process.
fn release(openssh: String, fields: &Fields<'_>, ca: &PublicKey) -> Result<SshCertificate, CaError> {
    let facts = read(&openssh)?;
    let same = [
        ("type", facts.kind == fields.kind),
        ("serial", facts.serial == fields.serial.value()),
        ("key", facts.key == *fields.key),
        ("CA key", facts.ca == *ca),
        ("key ID", facts.key_id == fields.key_id.as_str()),
        ("principals", facts.principals.iter().eq(fields.principals.iter().map(|principal| principal.as_str()))),
        ("valid after", facts.valid_after == fields.window.valid_after()),
        ("valid before", facts.valid_before == fields.window.valid_before()),
        ("critical options", facts.critical == fields.critical),
        ("extensions", facts.extensions == fields.extensions),
        ("nonce", facts.nonce == fields.nonce),
    ];
    match same.into_iter().find(|(_, equal)| !equal) {
        Some((field, _)) => Err(CaError::Lint { field }),
        None => Ok(SshCertificate { openssh, facts }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PrivateKey;
    use crate::spec::{Extension, Principal};

    fn spec() -> UserSpec {
        UserSpec {
            serial: Serial::new(7).unwrap(),
            key: PrivateKey::from_seed([1; 32]).public().clone(),
            key_id: KeyId::new("jit:gr_1:alice").unwrap(),
            principals: Principals::new(vec![Principal::new("root").unwrap()]).unwrap(),
            window: CertWindow::new(1000, 1600).unwrap(),
            critical: vec![],
            extensions: vec![Extension::PermitPty],
            nonce: [9; 32],
        }
    }

    /// A signer that signs something else, validly: every field must be noticed on its own.
    #[test]
    fn what_differs_from_its_spec_is_not_released() {
        type Change<'a> = &'a dyn Fn(&mut UserSpec);
        let ca = CaKey::new(PrivateKey::from_seed([9; 32])).unwrap();
        let asked = spec();
        let table: [(&str, Change<'_>); 9] = [
            ("serial", &|s| s.serial = Serial::new(8).unwrap()),
            ("key", &|s| s.key = PrivateKey::from_seed([2; 32]).public().clone()),
            ("key ID", &|s| s.key_id = KeyId::new("jit:gr_2:alice").unwrap()),
            ("principals", &|s| s.principals = Principals::new(vec![Principal::new("db").unwrap()]).unwrap()),
            ("valid after", &|s| s.window = CertWindow::new(999, 1600).unwrap()),
            ("valid before", &|s| s.window = CertWindow::new(1000, 1601).unwrap()),
            ("critical options", &|s| s.critical = vec![crate::spec::CriticalOption::ForceCommand("id".to_owned())]),
            ("extensions", &|s| s.extensions.push(Extension::PermitAgentForwarding)),
            ("nonce", &|s| s.nonce = [8; 32]),
        ];
        for (field, change) in table {
            let mut made = asked.clone();
            change(&mut made);
            let line = sign(&ca, &Fields::of_user(&made)).unwrap().openssh;
            assert_eq!(release(line, &Fields::of_user(&asked), ca.public()), Err(CaError::Lint { field }));
        }
        let line = sign(&ca, &Fields::of_user(&asked)).unwrap().openssh;
        let other = PrivateKey::from_seed([8; 32]);
        let refused = release(line.clone(), &Fields::of_user(&asked), other.public());
        assert_eq!(refused, Err(CaError::Lint { field: "CA key" }));
        let host = Fields { kind: CertKind::Host, ..Fields::of_user(&asked) };
        assert_eq!(release(line, &host, ca.public()), Err(CaError::Lint { field: "type" }));
    }
}
