//! Why a target's server did not do what was asked.
//!
//! True here: no text holds a secret, and what a server said is shown on one line, without control characters.

use crate::domain::text::shown;

/// Why something could not be done on a target's server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// Nothing answers, the answer was cut off, or the server is starting or stopping.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The server has no TLS, or is not the one that its authority and name say.
    #[error("TLS: {0}")]
    Tls(String),
    /// The admin's login was refused (SQLSTATE class 28).
    #[error("the admin's login was refused ({sqlstate}): {message}")]
    RefusedLogin {
        /// The server's code.
        sqlstate: String,
        /// What it said.
        message: String,
    },
    /// A secret cannot be had or used.
    #[error("the secret: {0}")]
    Secret(String),
    /// A statement was refused.
    #[error("refused ({sqlstate}): {message}")]
    Denied {
        /// The server's code.
        sqlstate: String,
        /// What it said.
        message: String,
    },
    /// The server has no connection left for us, or all of ours are in use.
    #[error("no connection is free: {0}")]
    Busy(String),
    /// A lock was not had within 2 s.
    #[error("blocked by a lock of another session")]
    Blocked,
    /// No answer within the limit.
    #[error("no answer within {limit_s} s: {what}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// The limit, in seconds.
        limit_s: u64,
    },
    /// The server takes no writes (a standby, or `default_transaction_read_only`).
    #[error("the server is read-only")]
    ReadOnly,
    /// A role of that name exists and does not carry our marker for this grant; it is not touched.
    #[error("the role {0} is not ours")]
    Foreign(String),
    /// A role that would be handed out gives what could outlive a grant.
    #[error("too powerful to be handed out: {0}")]
    Powerful(String),
    /// What was asked for cannot stand in a statement.
    #[error("{0}")]
    Invalid(&'static str),
}

impl AccountError {
    /// Says whether trying again may help without anybody doing anything.
    pub fn passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Busy(_) | Self::Blocked | Self::Timeout { .. } | Self::ReadOnly)
    }

    /// Whether the server refused a statement, and takes others.
    pub(super) fn refused(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Blocked)
    }

    /// Maps what the driver reports.
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            let said = || (db.code().code().to_owned(), one_line(db.message()));
            return match db.code().code() {
                "53300" | "53400" => Self::Busy(one_line(db.message())),
                "55P03" | "40P01" => Self::Blocked,
                "57014" => Self::Timeout { what: "a statement", limit_s: 10 },
                "25006" => Self::ReadOnly,
                "57P01" | "57P02" | "57P03" | "08006" => Self::Unreachable(one_line(db.message())),
                code if code.starts_with("28") => {
                    let (sqlstate, message) = said();
                    Self::RefusedLogin { sqlstate, message }
                }
                _ => {
                    let (sqlstate, message) = said();
                    Self::Denied { sqlstate, message }
                }
            };
        }
        let text = sources(error);
        // tokio-postgres keeps its kinds to itself; a TLS failure is an io error of rustls or this sentence of its own.
        if text.contains("does not support TLS") {
            return Self::Tls("the server offers no TLS".to_owned());
        }
        if text.contains("invalid peer certificate") || text.contains("received fatal alert") {
            return Self::Tls(text);
        }
        if text.contains("password missing") || text.contains("authentication") {
            return Self::RefusedLogin { sqlstate: "-".to_owned(), message: text };
        }
        Self::Unreachable(text)
    }

    /// The server's code, where it gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::RefusedLogin { sqlstate, .. } | Self::Denied { sqlstate, .. } => Some(sqlstate),
            _ => None,
        }
    }
}

fn sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    one_line(&text)
}

/// Puts what a server said on one line of bounded length; object names in it are anybody's.
pub(super) fn one_line(text: &str) -> String {
    shown(&text.chars().take(400).collect::<String>())
}
