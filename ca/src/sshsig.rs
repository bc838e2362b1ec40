//! Detached signatures over messages, bound to a namespace (PROTOCOL.sshsig), as `ssh-keygen -Y` makes and checks them.
//!
//! A signature says which key made it; whose key that is, and what the namespace means, is the caller's to judge.

use sha2::{Digest as _, Sha512};
use ssh_key::{HashAlg, LineEnding, SshSig};

use crate::key::{KeyError, PrivateKey, PublicKey, verify_ed25519};
use crate::wire::put_string;

/// The longest armored signature that is looked at, in bytes.
pub const MAX_ARMOR_BYTES: usize = 16 * 1024;

/// The bit of a FIDO signature's flags that says a person touched the token (PROTOCOL.u2f).
const USER_PRESENT: u8 = 0x01;

/// What flags and counter add behind a FIDO signature, in bytes.
const SK_TRAILER_BYTES: usize = 5;

/// Why a signature is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigError {
    /// Not an armored SSH signature.
    #[error("not a well-formed SSH signature")]
    Malformed,
    /// Longer than any acceptable signature.
    #[error("longer than {MAX_ARMOR_BYTES} bytes")]
    TooLong,
    /// Made for another purpose.
    #[error("the signature was made for another namespace")]
    Namespace,
    /// The key is not acceptable.
    #[error("the signing key is not acceptable")]
    Key(#[source] KeyError),
    /// The key may not sign acts.
    #[error("RSA keys do not sign here; ed25519 does")]
    Rsa,
    /// The signature's algorithm is not the key's.
    #[error("the signature's algorithm is not the key's")]
    Algorithm,
    /// The signature does not fit message and key.
    #[error("the signature does not fit the message")]
    Mismatch,
    /// The signing operation failed.
    #[error("signing failed")]
    Signing,
}

/// What a signature that fits tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The key that signed.
    pub key: PublicKey,
    /// Whether a person touched the token; `None` for keys that are not hardware keys.
    pub user_present: Option<bool>,
}

/// Signs a message for a namespace, with SHA-512; gives the armored signature.
///
/// # Errors
/// [`SigError::Namespace`] when it is empty, [`SigError::Signing`] when the key fails.
pub fn sign(key: &PrivateKey, namespace: &str, message: &[u8]) -> Result<String, SigError> {
    if namespace.is_empty() {
        return Err(SigError::Namespace);
    }
    let made = SshSig::sign(key.secret(), namespace, HashAlg::Sha512, message).map_err(|_| SigError::Signing)?;
    made.to_pem(LineEnding::LF).map_err(|_| SigError::Signing)
}

/// Gives the bytes that an ssh-agent has to sign for a message, with SHA-512.
pub fn to_sign(namespace: &str, message: &[u8]) -> Vec<u8> {
    let mut out = b"SSHSIG".to_vec();
    put_string(&mut out, namespace.as_bytes());
    put_string(&mut out, b"");
    put_string(&mut out, b"sha512");
    put_string(&mut out, &Sha512::digest(message));
    out
}

/// Armors what an ssh-agent answered for the bytes of [`to_sign`]; it verifies nothing.
///
/// # Errors
/// When the key may not sign acts, or the answer is not a signature of the key's algorithm.
pub fn from_agent(key: &PublicKey, namespace: &str, signature_blob: &[u8]) -> Result<String, SigError> {
    if !key.signs_acts() {
        return Err(SigError::Rsa);
    }
    let signature = ssh_key::Signature::try_from(signature_blob).map_err(|_| SigError::Malformed)?;
    if signature.algorithm().as_str() != key.kind().algorithm() {
        return Err(SigError::Algorithm);
    }
    let key_data = ssh_key::PublicKey::from_bytes(key.blob()).map_err(|_| SigError::Malformed)?.into();
    let made = SshSig::new(key_data, namespace, HashAlg::Sha512, signature).map_err(|_| SigError::Namespace)?;
    made.to_pem(LineEnding::LF).map_err(|_| SigError::Malformed)
}

/// Checks an armored signature over a message for a namespace.
///
/// # Errors
/// When it is malformed, made for another namespace or by a key that may not sign, or does not fit the message.
pub fn verify(namespace: &str, message: &[u8], armored: &str) -> Result<Verified, SigError> {
    if armored.len() > MAX_ARMOR_BYTES {
        return Err(SigError::TooLong);
    }
    let signature = SshSig::from_pem(armored).map_err(|_| SigError::Malformed)?;
    // PROTOCOL: version 1; "reserved" may be ignored by readers, and nothing we know of fills it.
    if signature.version() != SshSig::VERSION || !signature.reserved().is_empty() {
        return Err(SigError::Malformed);
    }
    if signature.namespace() != namespace {
        return Err(SigError::Namespace);
    }
    let key_data = ssh_key::PublicKey::from(signature.public_key().clone());
    let blob = key_data.to_bytes().map_err(|_| SigError::Malformed)?;
    let key = PublicKey::from_wire(&blob).map_err(SigError::Key)?;
    if !key.signs_acts() {
        return Err(SigError::Rsa);
    }
    // SECURITY: the inner name decides how the bytes are read; a plain signature must not pass as a hardware one.
    if signature.algorithm().as_str() != key.kind().algorithm() {
        return Err(SigError::Algorithm);
    }
    let holds = match key.ed25519_bytes() {
        Some(public) => SshSig::signed_data(namespace, signature.hash_alg(), message)
            .is_ok_and(|signed| verify_ed25519(&public, &signed, signature.signature_bytes())),
        None => key_data.verify(namespace, message, &signature).is_ok(),
    };
    if !holds {
        return Err(SigError::Mismatch);
    }
    let user_present = if key.is_hardware() { Some(touched(signature.signature_bytes())?) } else { None };
    Ok(Verified { key, user_present })
}

fn touched(signature: &[u8]) -> Result<bool, SigError> {
    let flags = signature.len().checked_sub(SK_TRAILER_BYTES).and_then(|at| signature.get(at));
    flags.map(|flags| flags & USER_PRESENT != 0).ok_or(SigError::Malformed)
}
