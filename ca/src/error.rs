//! Why a certificate, of either format, was not signed or is not accepted.

use crate::key::KeyError;
use crate::limits::LimitError;
use crate::ssh::MAX_CERTIFICATE_BYTES;

/// Why a certificate was not signed, or is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// The spec crosses a bound.
    #[error("the certificate crosses a limit: {0}")]
    Limit(#[from] LimitError),
    /// What was signed is not what the spec says; it was destroyed.
    #[error("the signed certificate differs from its spec in {field}")]
    Lint {
        /// The field that differs.
        field: &'static str,
    },
    /// The CA's key, or the provider under it, could not sign.
    #[error("the CA key could not sign")]
    Signing,
    /// SSH: not one `type base64 [comment]` line with a canonical certificate in it.
    #[error("not a well-formed certificate")]
    Malformed,
    /// Longer than any acceptable certificate.
    #[error("longer than {MAX_CERTIFICATE_BYTES} bytes")]
    TooLong,
    /// SSH: the subject's or the CA's key is not acceptable.
    #[error("a key in the certificate is not acceptable: {0}")]
    Key(#[source] KeyError),
    /// The signature does not fit.
    #[error("the certificate's signature does not verify")]
    Signature,
    /// X.509: not PEM of the right kind, or not a P-256 key inside.
    #[error("not a PKCS#8 P-256 private key")]
    X509Key,
    /// X.509: not a CA certificate as this crate makes them.
    #[error("not a CA certificate: {0}")]
    NotCa(&'static str),
    /// X.509: the key is not the CA certificate's.
    #[error("the key does not belong to the CA certificate")]
    KeyMismatch,
    /// X.509: the CA's name is empty, longer than 64 bytes or not printable ASCII.
    #[error("a CA name is 1 to 64 printable ASCII characters")]
    Name,
    /// X.509: no name, too many, one twice, or one that is not a host name or address.
    #[error("a server certificate names 1 to 64 different host names or addresses, without wildcards")]
    ServerNames,
    /// X.509: a subject key that is neither P-256 nor Ed25519, is damaged, or is the CA's own.
    #[error("the subject key is not an acceptable P-256 or Ed25519 key")]
    SubjectKey,
    /// X.509: a serial of zero.
    #[error("a serial is not zero")]
    ZeroSerial,
    /// X.509: an empty window, one before 1970 or after the year 9999, or one that ends after the CA's.
    #[error("the window is empty, outside 1970 to 9999, or ends after the CA's")]
    Window,
}
