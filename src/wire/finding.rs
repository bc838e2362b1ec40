//! What `doctor` finds.

use serde::{Deserialize, Serialize};

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing is wrong.
    Note,
    /// Wrong.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingDoc {
    /// `jit-broker/finding/v1`.
    pub schema: String,
    /// What was looked at, in a word or two.
    pub what: String,
    /// How it stands.
    pub health: Health,
    /// What was seen; hostile text.
    pub detail: String,
    /// The command that mends it.
    pub next: Option<String>,
}
