//! Documents of the log's epochs: what is known of a loss, and who acknowledged it.

use serde::{Deserialize, Serialize};

use crate::domain::epoch::NewEpoch;
use crate::domain::names::PersonName;

/// How the log stands: its epoch, and what is known of those before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDoc {
    /// `jit-broker/log/v1`.
    pub schema: String,
    /// The epoch.
    pub epoch: u32,
    /// How many entries there are.
    pub size: u64,
    /// Why nothing is signed, while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsigned: Option<String>,
    /// True while that is so because the broker was restored.
    pub recovering: bool,
    /// The newest signed checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// In recovery the newest checkpoint that the signer signed before it, where the log does not have all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<String>,
    /// An epoch that one administrator wants to begin, and who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<ProposalDoc>,
    /// Epochs that began, oldest first.
    pub epochs: Vec<EpochDoc>,
    /// The administrators.
    pub admins: Vec<PersonName>,
    /// When root last replaced them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_at: Option<String>,
}

/// An epoch that somebody wants to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalDoc {
    /// Who.
    pub by: PersonName,
    /// Which.
    pub new: NewEpoch,
}

/// An epoch that began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochDoc {
    /// Which, and what was known.
    pub new: NewEpoch,
    /// The entry with which it began.
    pub seq: u64,
    /// When.
    pub at: String,
    /// Who acknowledged it.
    pub by: Vec<PersonName>,
}
