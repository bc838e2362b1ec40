//! Reading a certificate as somebody shows it, and asking whose it is.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use jit_ca::ssh::{CertKind, CertificateFacts};
use rustls::pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::context::Context;
use super::failure::Failure;
use crate::broker::evidence::Evidence;
use crate::domain::authority::Purpose;
use crate::domain::digest::Digest;
use crate::domain::ids::GrantId;
use crate::domain::key::Key;
use crate::domain::names::TargetName;
use crate::domain::refusal::Code;

/// A certificate, of which only its own signature was looked at.
#[derive(Debug)]
pub enum Shown {
    /// OpenSSH; it is signed by the key that it names.
    Ssh(Box<CertificateFacts>),
    /// X.509.
    X509 {
        /// The DER.
        der: Vec<u8>,
        /// The serial, as 64 bits where it has no more.
        serial: Option<u64>,
        /// The validity, in Unix seconds; the last second still counts.
        window: (i64, i64),
        /// SHA-256 of the signed bytes.
        tbs: Digest,
        /// The grant that its alternative name speaks of.
        grant: Option<GrantId>,
    },
}

/// The public keys of an installation's authorities, of those that were as well as of those that are.
#[derive(Debug)]
pub struct Authorities {
    /// OpenSSH keys by their purpose.
    pub ssh: Vec<(Purpose, Key)>,
    /// The certificates of the client authorities, PEM.
    pub x509_client: String,
}

impl Authorities {
    /// Those that the log names.
    pub fn of(evidence: &Evidence) -> Self {
        let ssh = |(purpose, public): &(Purpose, String)| Some((*purpose, Key::try_from(public.clone()).ok()?));
        let client = evidence.authorities.iter().filter(|(purpose, _)| *purpose == Purpose::X509Client);
        Self {
            ssh: evidence.authorities.iter().filter_map(ssh).collect(),
            x509_client: client.map(|(_, pem)| pem.as_str()).collect(),
        }
    }

    /// Those that this client believes now.
    pub fn believed(context: &Context) -> Self {
        let of = |purpose| context.trusted(purpose).into_iter().map(move |key| (purpose, key));
        let ssh = [Purpose::SshUser, Purpose::SshGateway, Purpose::SshHost].into_iter().flat_map(of).collect();
        Self { ssh, x509_client: context.client_pem().unwrap_or_default() }
    }
}

fn not_one(why: impl std::fmt::Display) -> Failure {
    Failure::new(Code::BAD_KEY, format!("This is no certificate that can be judged: {why}."))
}

impl Shown {
    /// Reads an OpenSSH certificate line, with or without a comment, or the first certificate of a PEM text.
    ///
    /// # Errors
    /// [`Code::BAD_KEY`] when it is neither, or its signature does not fit.
    pub fn read(text: &str) -> Result<Self, Failure> {
        if text.contains("-----BEGIN CERTIFICATE-----") {
            return Self::x509(CertificateDer::from_pem_slice(text.as_bytes()).map_err(not_one)?.to_vec());
        }
        let mut words = text.split_whitespace();
        let (Some(kind), Some(blob)) = (words.next(), words.next()) else {
            return Err(not_one("neither an OpenSSH certificate nor PEM"));
        };
        jit_ca::ssh::read(&format!("{kind} {blob}")).map(|facts| Self::Ssh(Box::new(facts))).map_err(not_one)
    }

    fn x509(der: Vec<u8>) -> Result<Self, Failure> {
        let (rest, cert) = X509Certificate::from_der(&der).map_err(not_one)?;
        if !rest.is_empty() {
            return Err(not_one("something follows the certificate"));
        }
        if cert.is_ca() {
            return Err(not_one("it is the certificate of an authority"));
        }
        let names = cert.subject_alternative_name().ok().flatten();
        let uri = names.and_then(|names| {
            names.value.general_names.iter().find_map(|name| match name {
                x509_parser::extensions::GeneralName::URI(uri) => uri.strip_prefix("jit:")?.parse().ok(),
                _ => None,
            })
        });
        let raw = cert.raw_serial();
        let serial = raw.iter().try_fold(0_u64, |sum, byte| Some(sum.checked_mul(256)? + u64::from(*byte)));
        let window = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
        let tbs = Digest::of(cert.tbs_certificate.as_ref());
        drop(cert);
        Ok(Self::X509 { der, serial, window, tbs, grant: uri })
    }

    /// SHA-256 of the bytes that the authority signed.
    pub fn tbs(&self) -> Digest {
        match self {
            Self::Ssh(facts) => Digest::new(facts.tbs_sha256),
            Self::X509 { tbs, .. } => *tbs,
        }
    }

    /// The grant that it speaks of; a word, not a proof.
    pub fn grant(&self) -> Option<GrantId> {
        match self {
            Self::Ssh(facts) => facts.key_id.split(':').nth(1)?.parse().ok(),
            Self::X509 { grant, .. } => *grant,
        }
    }

    /// The host that it is for and its serial.
    pub fn host(&self) -> Option<(TargetName, u64)> {
        match self {
            Self::Ssh(facts) if facts.kind == CertKind::Host => {
                Some((facts.key_id.strip_prefix("jit:host:")?.parse().ok()?, facts.serial))
            }
            _ => None,
        }
    }

    /// Its fingerprint, as `ssh-keygen -l` or `openssl x509 -fingerprint -sha256` show it, its serial, and until when it is valid.
    pub fn facts(&self) -> (String, Option<u64>, i64) {
        match self {
            Self::Ssh(facts) => {
                (facts.key.fingerprint(), Some(facts.serial), i64::try_from(facts.valid_before).unwrap_or(i64::MAX))
            }
            Self::X509 { der, serial, window, .. } => {
                let bytes: Vec<String> = Digest::of(der).as_bytes().iter().map(|b| format!("{b:02X}")).collect();
                (bytes.join(":"), *serial, window.1 + 1)
            }
        }
    }

    /// Demands that an authority of the installation signed it.
    ///
    /// # Errors
    /// [`Code::NOT_IN_LOG`] when none did.
    pub fn signed_by(&self, authorities: &Authorities) -> Result<(), Failure> {
        let stranger = |who: String| {
            let mut failure = Failure::new(
                Code::NOT_IN_LOG,
                format!("No authority of this installation signed this certificate: {who} did."),
            );
            failure.0.hint = Some("jit-broker ca list shows the authorities".to_owned());
            failure
        };
        let who = match self {
            Self::Ssh(facts) if authorities.ssh.iter().any(|(_, key)| key.0 == facts.ca) => return Ok(()),
            Self::Ssh(facts) => facts.ca.fingerprint(),
            Self::X509 { der, .. } => {
                let (_, cert) = X509Certificate::from_der(der).map_err(not_one)?;
                for ca in CertificateDer::pem_slice_iter(authorities.x509_client.as_bytes()) {
                    if is_by(&cert, &ca.map_err(not_one)?)? {
                        return Ok(());
                    }
                }
                cert.issuer().to_string()
            }
        };
        Err(stranger(who))
    }
}

/// True where the key of this authority signed it.
fn is_by(cert: &X509Certificate<'_>, ca: &CertificateDer<'_>) -> Result<bool, Failure> {
    let (_, ca) = X509Certificate::from_der(ca).map_err(not_one)?;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &ca.public_key().subject_public_key.data[..]);
    let tbs: &[u8] = cert.tbs_certificate.as_ref();
    Ok(key.verify(tbs, &cert.signature_value.data).is_ok())
}
