//! The ssh-agent protocol, as far as signing and handing over certificates need it (draft-ietf-sshm-ssh-agent).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use jit_ca::key::PublicKey;

use super::failure::Failure;
use crate::domain::key::Key;
use crate::domain::refusal::Code;

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const SUCCESS: u8 = 6;
const REMOVE_IDENTITY: u8 = 18;
const ADD_CONSTRAINED: u8 = 25;
/// Constraint: so many seconds.
const LIFETIME: u8 = 1;
/// The type of what is added (PROTOCOL.certkeys).
const CERT_TYPE: &[u8] = b"ssh-ed25519-cert-v01@openssh.com";
/// The largest answer, in bytes.
const MAX: usize = 256 * 1024;

/// A connection to the user's agent.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *bytes = rest;
    Some(value)
}

fn put(out: &mut Vec<u8>, value: &[u8]) {
    out.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(value);
}

impl Agent {
    /// Connects to `SSH_AUTH_SOCK`; none when there is no agent.
    pub fn connect() -> Option<Self> {
        Self::at(Path::new(&std::env::var_os("SSH_AUTH_SOCK").filter(|p| !p.is_empty())?))
    }

    fn at(path: &Path) -> Option<Self> {
        let stream = UnixStream::connect(path).ok()?;
        // A touch or a confirmation may take a person a while.
        stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        Some(Self { stream })
    }

    fn ask(&mut self, message: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut frame = Vec::with_capacity(message.len() + 4);
        put(&mut frame, message);
        self.stream.write_all(&frame)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX {
            return Err(std::io::Error::other("the agent's answer is too large"));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// What it holds, as it travels.
    fn blobs(&mut self) -> Vec<Vec<u8>> {
        let Ok(answer) = self.ask(&[REQUEST_IDENTITIES]) else { return Vec::new() };
        let Some((&IDENTITIES_ANSWER, rest)) = answer.split_first() else { return Vec::new() };
        let Some((_, mut rest)) = rest.split_first_chunk::<4>() else { return Vec::new() };
        let mut blobs = Vec::new();
        while let (Some(blob), Some(_comment)) = (take(&mut rest), take(&mut rest)) {
            blobs.push(blob.to_vec());
        }
        blobs
    }

    /// The keys that can sign acts; certificates and RSA keys are passed over.
    pub fn keys(&mut self) -> Vec<Key> {
        let keys = self.blobs().into_iter().filter_map(|blob| PublicKey::from_wire(&blob).ok());
        keys.filter(PublicKey::signs_acts).map(Key).collect()
    }

    /// The certificates of the kind that [`Agent::add`] adds, whoever signed them, each as a line of OpenSSH's.
    pub fn certificates(&mut self) -> Vec<String> {
        let line = |blob: &Vec<u8>| {
            let kind = take(&mut blob.as_slice())?;
            let base64 = data_encoding::BASE64.encode(blob);
            (kind == CERT_TYPE).then(|| format!("{} {base64}", String::from_utf8_lossy(kind)))
        };
        self.blobs().iter().filter_map(line).collect()
    }

    /// Has the agent sign.
    ///
    /// # Errors
    /// [`Code::NO_KEY`] when the agent refuses.
    pub fn sign(&mut self, key: &Key, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut request = vec![SIGN_REQUEST];
        put(&mut request, &key.0.wire());
        put(&mut request, message);
        request.extend([0; 4]);
        let answer = self.ask(&request).map_err(|e| Failure::local("the ssh-agent", e))?;
        let refused = || Failure::new(Code::NO_KEY, "The ssh-agent refused to sign.");
        let Some((&SIGN_RESPONSE, mut rest)) = answer.split_first() else { return Err(refused()) };
        take(&mut rest).map(<[u8]>::to_vec).ok_or_else(refused)
    }
}

/// The message that adds a certificate with its key, for so many seconds. Every agent drops it by itself then; without a lifetime
/// OpenSSH before 10.1 keeps certificates that are over, and later ones keep the bare key (facts.md 5).
fn addition(key_pem: &str, certificate: &[u8], comment: &str, life_s: u32) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let secret = secret(key_pem)?;
    let mut message = zeroize::Zeroizing::new(Vec::with_capacity(certificate.len() + 256));
    message.push(ADD_CONSTRAINED);
    put(&mut message, CERT_TYPE);
    put(&mut message, certificate);
    put(&mut message, secret.get(32..)?);
    put(&mut message, &secret[..]);
    put(&mut message, comment.as_bytes());
    message.push(LIFETIME);
    message.extend(life_s.to_be_bytes());
    Some(message)
}

/// Seed and public half of an Ed25519 key without a passphrase (PROTOCOL.key).
fn secret(pem: &str) -> Option<zeroize::Zeroizing<[u8; 64]>> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let bytes = zeroize::Zeroizing::new(data_encoding::BASE64.decode(body.as_bytes()).ok()?);
    let mut rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    let (cipher, _kdf, _options) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)?);
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let (_public, private) = (take(&mut rest)?, take(&mut rest)?);
    // Two equal check numbers, then the type, the public half, and both halves.
    let mut private = private.get(8..)?;
    let (kind, _public, both) = (take(&mut private)?, take(&mut private)?, take(&mut private)?);
    let fits = cipher == b"none" && *count == [0, 0, 0, 1] && kind == b"ssh-ed25519";
    fits.then(|| both.try_into().ok()).flatten().map(zeroize::Zeroizing::new)
}

/// The bytes of a certificate line.
pub fn certificate_blob(line: &str) -> Option<Vec<u8>> {
    data_encoding::BASE64.decode(line.split_whitespace().nth(1)?.as_bytes()).ok()
}

impl Agent {
    /// Gives the agent a certificate with its key, until its end.
    ///
    /// # Errors
    /// [`Code::NO_KEY`] when the agent does not take it.
    pub fn add(&mut self, key_pem: &str, certificate: &str, comment: &str, life_s: u32) -> Result<(), Failure> {
        let refused = || Failure::new(Code::NO_KEY, "The ssh-agent did not take the certificate.");
        let blob = certificate_blob(certificate).ok_or_else(refused)?;
        let message = addition(key_pem, &blob, comment, life_s).ok_or_else(refused)?;
        let answer = self.ask(&message).map_err(|e| Failure::local("the ssh-agent", e))?;
        if answer.first() == Some(&SUCCESS) { Ok(()) } else { Err(refused()) }
    }

    /// Takes a certificate away; one that is not there is no matter.
    pub fn remove(&mut self, certificate: &str) {
        let Some(blob) = certificate_blob(certificate) else { return };
        let mut message = vec![REMOVE_IDENTITY];
        put(&mut message, &blob);
        let _ = self.ask(&message);
    }
}

#[cfg(test)]
mod tests;
