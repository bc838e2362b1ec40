//! What is left on targets after the end.

use serde::{Deserialize, Serialize};

use super::AuthorityDoc;
use crate::domain::ids::GrantId;
use crate::domain::names::{AccountName, PersonName, RoleName, TargetName};

/// What is left on targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftDoc {
    /// `jit-broker/left/v1`.
    pub schema: String,
    /// Grants that are over and of which something is left.
    pub residue: Vec<ResidueDoc>,
    /// Accounts that no open grant explains, as the last look at each server found them.
    pub strangers: Vec<StrangerDoc>,
    /// Replacements of authorities that are going on; operators and auditors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotations: Vec<AuthorityDoc>,
}

impl LeftDoc {
    /// Whether something of this installation is left that should be gone.
    pub fn is_residue(&self) -> bool {
        !self.residue.is_empty() || self.strangers.iter().any(|stranger| stranger.ours)
    }
}

/// A grant of which something is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResidueDoc {
    /// The grant.
    pub grant: GrantId,
    /// Who had it.
    pub person: PersonName,
    /// The target.
    pub target: TargetName,
    /// The role on it.
    pub role: RoleName,
    /// The account on a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountName>,
    /// What is left; hostile text.
    pub left: Vec<String>,
}

/// An account that no open grant explains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrangerDoc {
    /// The server's address.
    pub server: String,
    /// Its name there; hostile text.
    pub account: String,
    /// Whether it carries this installation's mark; others are never touched.
    pub ours: bool,
    /// What was done about it.
    pub what: String,
}
