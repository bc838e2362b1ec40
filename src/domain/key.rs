//! A person's public key, as the files and acts write it.

use jit_ca::key::PublicKey;
use serde::{Deserialize, Serialize};

/// A public key in serialised documents: `type base64`, without a comment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(pub PublicKey);

impl TryFrom<String> for Key {
    type Error = jit_ca::key::KeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        PublicKey::parse(&text).map(Self)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> String {
        key.0.to_string()
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}
