//! SCRAM-SHA-256 verifiers as PostgreSQL stores them (RFC 5802, RFC 7677; `scram-common.c`).
//!
//! The password is made and kept by the client; only the verifier travels, so that neither we nor the server's log ever
//! hold a password. Start at [`verifier`].

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use data_encoding::BASE64;

/// PostgreSQL's own count.
const ITERATIONS: u32 = 4096;

const MAX_SALT_BYTES: usize = 64;

/// A text that is not a SCRAM-SHA-256 verifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SCRAM-SHA-256 verifier is SCRAM-SHA-256$4096:salt$StoredKey:ServerKey in base64")]
pub struct VerifierError;

/// A checked verifier: `SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier(String);

impl Verifier {
    /// Checks a text.
    ///
    /// # Errors
    /// [`VerifierError`] for anything else: PostgreSQL would take it for a clear password.
    pub fn new(text: &str) -> Result<Self, VerifierError> {
        let checked = || {
            let rest = text.strip_prefix("SCRAM-SHA-256$4096:")?;
            let (salt, keys) = rest.split_once('$')?;
            let (stored, server) = keys.split_once(':')?;
            let salt = BASE64.decode(salt.as_bytes()).ok()?.len();
            let keys = BASE64.decode(stored.as_bytes()).ok()?.len() == 32
                && BASE64.decode(server.as_bytes()).ok()?.len() == 32;
            ((8..=MAX_SALT_BYTES).contains(&salt) && keys).then(|| Self(text.to_owned()))
        };
        checked().ok_or(VerifierError)
    }

    /// Gives the text for `PASSWORD '…'`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Computes the verifier of a password of printable ASCII, which SASLprep leaves as it is (RFC 4013).
///
/// # Errors
/// [`VerifierError`] for an empty password or one with other characters.
pub fn verifier(password: &str, salt: &[u8; 16]) -> Result<Verifier, VerifierError> {
    if password.is_empty() || !password.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
        return Err(VerifierError);
    }
    let iterations = NonZeroU32::new(ITERATIONS).ok_or(VerifierError)?;
    let mut salted = zeroize::Zeroizing::new([0u8; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), salted.as_mut_slice());
    let key = hmac::Key::new(hmac::HMAC_SHA256, salted.as_slice());
    let client = hmac::sign(&key, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client.as_ref());
    let server = hmac::sign(&key, b"Server Key");
    let encode = |bytes: &[u8]| BASE64.encode(bytes);
    Verifier::new(&format!(
        "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
        encode(salt),
        encode(stored.as_ref()),
        encode(server.as_ref())
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_example_of_rfc_7677_gives_its_keys() {
        // RFC 7677 section 3: user "user", password "pencil", salt W22ZaJ0SNY7soEsUEjb6gQ==, 4096 rounds. Its exchange's
        // proof and server signature follow from StoredKey and ServerKey, which other implementations print as these.
        let salt: [u8; 16] = BASE64.decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
        let made = verifier("pencil", &salt).unwrap();
        let (_, keys) = made.as_str().rsplit_once('$').unwrap();
        let server = BASE64.decode(keys.split_once(':').unwrap().1.as_bytes()).unwrap();
        let exchange = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &server), exchange.as_bytes());
        assert_eq!(BASE64.encode(signature.as_ref()), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(Verifier::new(made.as_str()).is_ok());
        assert_eq!(format!("{made:?}"), "***");
    }

    #[test]
    fn what_postgresql_would_take_for_a_password_is_refused() {
        let good = verifier("x", &[1; 16]).unwrap().as_str().to_owned();
        let md5 = "md5d0e3a6e0a3ab4ce0ff3cdd5bd7c9b9a1";
        let other = good.replace("4096", "1");
        let mut wrong = vec!["", "hunter2", md5, "SCRAM-SHA-256$4096:$:", &other, &good[..good.len() - 1]];
        let (quoted, spaced) = (format!("{good}'"), format!("{good} "));
        wrong.extend([quoted.as_str(), spaced.as_str()]);
        for text in wrong {
            assert_eq!(Verifier::new(text), Err(VerifierError), "{text:?}");
        }
        for password in ["", "é", "a\nb", "a\0"] {
            assert!(verifier(password, &[1; 16]).is_err());
        }
    }
}
