//! Identifiers: 128 bits, printed with a prefix and Crockford base32, parsed strictly.

use std::fmt;
use std::str::FromStr;

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Serialize};

/// A text that is not an identifier of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id of the form {prefix}…")]
pub struct IdError {
    prefix: &'static str,
    text: String,
}

fn crockford() -> &'static Encoding {
    static ENCODING: std::sync::OnceLock<Encoding> = std::sync::OnceLock::new();
    ENCODING.get_or_init(|| {
        let mut spec = Specification::new();
        spec.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
        // Five bits a symbol leave two bits over in 26 symbols; they must be zero.
        spec.encoding().unwrap_or(data_encoding::BASE32_DNSCURVE)
    })
}

/// Encodes bytes as lower-case Crockford base32 without padding.
pub fn base32(bytes: &[u8]) -> String {
    crockford().encode(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 16]);

        impl $name {
            /// The prefix that every printed id of this kind carries.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an id of 16 bytes that come from the caller's randomness or from a digest.
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Makes the id that the first 16 bytes of a digest name.
            pub fn of_digest(digest: &$crate::domain::digest::Digest) -> Self {
                let mut bytes = [0u8; 16];
                for (to, from) in bytes.iter_mut().zip(digest.as_bytes()) {
                    *to = *from;
                }
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, base32(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let wrong = || IdError { prefix: $prefix, text: text.chars().take(64).collect() };
                let digits = text.strip_prefix($prefix).ok_or_else(wrong)?;
                let bytes = crockford().decode(digits.as_bytes()).map_err(|_| wrong())?;
                Ok(Self(bytes.try_into().map_err(|_| wrong())?))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

id!(
    /// Names a request; derived from the digest of the signed act that made it.
    RequestId, "req_"
);
id!(
    /// Names a grant; derived from the request that opened it.
    GrantId, "gr_"
);
id!(
    /// Names a credential; derived from grant, key and serial.
    CredentialId, "cred_"
);
id!(
    /// Names a signed act; the first half of the SHA-256 of its canonical bytes.
    ActId, "act_"
);
id!(
    /// Names a session through a gateway; drawn when it is opened.
    SessionId, "ses_"
);
id!(
    /// Names an installation: the random number in leaf 0.
    InstallId, "in_"
);

/// The origin of an installation's log: the first line of its checkpoints.
pub fn origin_of(install: &str) -> String {
    format!("jit-broker/audit/{install}/e0")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_round_trip_and_refuse_everything_else() {
        let id = RequestId::new([7; 16]);
        let text = id.to_string();
        assert_eq!(text.len(), 4 + 26);
        assert_eq!(text.parse::<RequestId>().unwrap(), id);
        let upper = text.to_uppercase();
        for wrong in ["", "req_", "gr_0", upper.as_str(), &text[..29], "req_..", "req_\u{202e}"] {
            assert!(wrong.parse::<RequestId>().is_err(), "{wrong:?}");
        }
        assert!(text.parse::<GrantId>().is_err());
    }
}
