//! Turns a fully specified *spec* into signed bytes, and refuses specs outside its [`limits::Limits`].
//!
//! What is true here:
//! - Every field of a spec is required; there is no default window, no default principal, no default serial.
//! - Nothing is released that was not parsed again, verified and compared with its spec field by field.
//! - The same spec gives the same to-be-signed bytes: seeds, nonces, serials and instants are arguments.
//!
//! What never happens here: reading a clock, a file or a socket; knowing a person, a policy or a grant.
//! Randomness is drawn only inside ECDSA P-256 ([`x509::X509Key`]), where the algorithm itself needs it.
//! This crate alone names `ssh-key` and `rcgen`; callers see the types below.
//!
//! Start reading at [`spec`] (what may be said at all), then [`limits`] (what may be signed), then [`ssh`].
//!
//! | module | holds |
//! |---|---|
//! | [`key`] | public and private keys, and which of them are acceptable |
//! | [`sshsig`] | detached signatures of people and of the broker (PROTOCOL.sshsig) |
//! | [`spec`] | the words of a certificate, as types that hold no bad value |
//! | [`limits`] | never more than this, whatever policy says |
//! | [`ssh`] | user and host certificates (PROTOCOL.certkeys) |
//! | [`krl`] | revocation lists (PROTOCOL.krl) |
//! | [`serial`] | epoch and counter in one number |
//! | [`x509`] | the TLS side: one CA and its server certificates (RFC 5280) |
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
pub mod key;
pub mod krl;
pub mod limits;
pub mod serial;
pub mod spec;
pub mod ssh;
pub mod sshsig;
mod wire;
pub mod x509;

pub use error::CaError;
