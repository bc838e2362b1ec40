//! # jit-broker: access when it is needed, for as long as it is needed
//!
//! A person asks for a role on a target, for a purpose and a time. Policy grants it, refuses it, or names who must agree. On approval the
//! broker issues an SSH certificate whose validity *is* the granted window; every step is in a log that cannot be changed unnoticed.
//!
//! ## The map
//!
//! | floor | room | what it is |
//! |---|---|---|
//! | 0 | [`domain`] | facts and rules, pure: policy, [`domain::decide`], [`domain::state`] |
//! | 0 | [`wire`] | the documents of the API; types alone |
//! | 0 | [`clock`] | the only reader of OS time and randomness |
//! | 0 | [`settings`] | `jit-broker.toml`, checked |
//! | 0 | [`bug`] | panics: counted, told without data |
//! | 1 | [`ledger`] | the Merkle log: append, read, prove, verify |
//! | 1 | [`signer`] | the gate in front of the keys; folds the log for itself |
//! | 1 | [`accounts`] | temporary accounts on target servers: made, locked, dropped, proven gone |
//! | 1 | [`record`] | recordings of sessions: append, seal, verify, read back |
//! | 2 | [`broker`] | every verb, once: clerk, reaper, sessions, documents |
//! | 2 | [`witness`] | copies of checkpoints: ours handed outside, and asked at the start; those of other logs kept |
//! | 3 | [`api`] | HTTPS and JSON |
//! | 3 | [`gateway`] | what people connect to instead of the target: SSH |
//! | 3 | [`cli`] | the command line: a client of the API |
//! | 4 | [`daemon`] | puts it together: start, stop, `init`, `dev`, `audit verify` |
//!
//! The crate `jit-ca` turns fully specified certificates into signed bytes. Imports point down only.
//!
//! ## What always holds
//!
//! * No credential leaves before the entry that allows it is durable, and its bytes are those that the entry names.
//! * `valid_before` is never later than the grant's end; a grant is `ended` only when that was shown.
//! * State is the fold of the log; nothing is decided but in [`domain::decide`], and the signer decides everything again.

#[cfg(feature = "server")]
pub mod accounts;
#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod broker;
pub mod bug;
pub mod cli;
pub mod clock;
#[cfg(feature = "server")]
pub mod daemon;
pub mod domain;
#[cfg(feature = "server")]
pub mod gateway;
#[cfg(feature = "server")]
pub mod ledger;
pub mod record;
pub mod settings;
#[cfg(feature = "server")]
pub mod signer;
pub mod wire;
#[cfg(feature = "server")]
pub mod witness;

// Without the feature `server` this is a small client (decisions.md 35): of these rooms it has the files that a client needs.

/// How a client proves a password without sending it.
#[cfg(not(feature = "server"))]
pub mod accounts {
    pub mod scram;
}
/// How a client checks what the broker shows of the log.
#[cfg(not(feature = "server"))]
pub mod ledger {
    pub mod note;
    pub mod tree;
}
/// How files of keys are read and replaced.
#[cfg(not(feature = "server"))]
pub mod signer {
    pub mod keys;
}
