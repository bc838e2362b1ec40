//! Keys between the SSH library's types and ours.

use jit_ca::ssh::CertificateFacts;
use russh::keys::{Certificate, PublicKey};

use crate::domain::key::Key;

/// Reads a key line; its comment is dropped.
pub fn read(line: &str) -> Option<Key> {
    let mut words = line.split(' ');
    let plain = format!("{} {}", words.next()?, words.next()?);
    jit_ca::key::PublicKey::parse(&plain).ok().map(Key)
}

/// A key of the library, where it is of a kind that we take.
pub fn key(key: &PublicKey) -> Option<Key> {
    read(&key.to_openssh().ok()?)
}

/// What a certificate says, read by our own reader, which checks the signature of the CA that it names.
pub fn facts(certificate: &Certificate) -> Option<CertificateFacts> {
    let line = certificate.to_openssh().ok()?;
    let mut words = line.split(' ');
    jit_ca::ssh::read(&format!("{} {}", words.next()?, words.next()?)).ok()
}
