//! Temporary accounts on target servers: made, locked, cut off, dropped, and proven gone.
//!
//! What is true here:
//! * An account's name is ours and random ([`AccountName`]); no text of a person reaches it. What is read back from a server is
//!   hostile and is quoted.
//! * Every account carries a [`Marker`] that only this installation can make. A role without it is never changed.
//! * No clear password is taken: a certificate proves the account, or a [`scram::Verifier`] that the client computed.
//! * The end has one order: no login and no memberships, cut, look again, clear away, drop, read back. Every step can be done
//!   again after a crash at any point.
//!
//! What never happens here: nothing that an account owned is handed to a role that has any right or can log in.
//! What an account cannot be kept from: `read_only` and the statement's limit are the session's defaults, and the user may
//! `SET` them otherwise; what must not be written must not be granted.
//!
//! Start at [`postgres::Postgres`].

mod ending;
mod error;
mod marker;
pub mod postgres;
pub mod scram;

pub use ending::{Ending, Found, Link, Probe, ProbeLogin, Step};
pub use error::AccountError;
pub use marker::{Marker, MarkerKey};

use crate::domain::ids::GrantId;
use crate::domain::names::AccountName;

/// How a person proves that an account is theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A client certificate whose common name is the account's.
    Cert,
    /// A password that only the client knows.
    Password(scram::Verifier),
}

/// One account as it shall be on its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name there.
    pub name: AccountName,
    /// The grant that it serves.
    pub grant: GrantId,
    /// The roles whose privileges it has; each 1 to 63 bytes.
    pub member_of: Vec<String>,
    /// Whether sessions begin read-only. A default: the user may set it otherwise in the session.
    pub read_only: bool,
    /// The limit of a statement, in milliseconds. A default as well.
    pub statement_timeout_ms: Option<u32>,
    /// The most sessions at once.
    pub connection_limit: Option<u16>,
    /// The end, in seconds since 1970: no password opens the account later (`VALID UNTIL` binds passwords only).
    pub valid_until: i64,
    /// How its user proves it.
    pub proof: Proof,
}
