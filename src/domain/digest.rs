//! Canonical JSON and SHA-256: what is signed, what is approved, what a leaf holds.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest; written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes bytes with SHA-256 (FIPS 180-4).
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps 32 bytes that are a digest already.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 64 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256 digest of 64 lower-case hex digits")]
pub struct DigestError;

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| DigestError)?;
        Ok(Self(bytes.try_into().map_err(|_| DigestError)?))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// Why bytes are not canonical JSON, or a value cannot be written as such.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// A number that is not an integer of 64 bits.
    #[error("a number that is not an integer")]
    Float,
    /// Not JSON, or JSON of another shape.
    #[error("not the JSON that was expected: {0}")]
    Shape(String),
    /// JSON, but written in another way than the canonical one (order, spaces, escapes, duplicate keys).
    #[error("JSON, but not in canonical form")]
    Form,
}

/// Writes a value as canonical JSON: keys sorted by their bytes, no spaces, integers only.
///
/// # Errors
/// A float, or a type that serde cannot write.
pub fn canonical<T: Serialize>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    let value = serde_json::to_value(value).map_err(|e| CanonicalError::Shape(e.to_string()))?;
    let mut out = Vec::with_capacity(256);
    write_value(&value, &mut out)?;
    Ok(out)
}

/// Reads canonical JSON; anything that would be written differently is refused.
///
/// # Errors
/// [`CanonicalError::Shape`] for other JSON, [`CanonicalError::Form`] for another way of writing it.
pub fn read_canonical<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CanonicalError> {
    // SECURITY: two texts of one meaning would let a signature cover what nobody saw.
    super::canonical::check(bytes)?;
    serde_json::from_slice(bytes).map_err(|e| CanonicalError::Shape(e.to_string()))
}

/// The SHA-256 of a value's canonical JSON.
///
/// # Errors
/// As [`canonical`].
pub fn digest_of<T: Serialize>(value: &T) -> Result<Digest, CanonicalError> {
    Ok(Digest::of(&canonical(value)?))
}

fn write_value(value: &Value, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => write_scalar(value, out),
        Value::Number(n) if n.is_i64() || n.is_u64() => write_scalar(value, out),
        Value::Number(_) => Err(CanonicalError::Float),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_value(item, out)?;
            }
            out.push(b']');
            Ok(())
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push(b'{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, key).map_err(|e| CanonicalError::Shape(e.to_string()))?;
                out.push(b':');
                if let Some(inner) = map.get(key) {
                    write_value(inner, out)?;
                }
            }
            out.push(b'}');
            Ok(())
        }
    }
}

fn write_scalar(value: &Value, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    serde_json::to_writer(out, value).map_err(|e| CanonicalError::Shape(e.to_string()))
}
