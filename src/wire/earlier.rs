//! What an approver is told of whoever asks.

use serde::{Deserialize, Serialize};

use crate::domain::ids::RequestId;
use crate::domain::names::{PersonName, RoleName, TargetName};

/// One of somebody's earlier requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierDoc {
    /// `jit-broker/earlier/v1`.
    pub schema: String,
    /// The request.
    pub id: RequestId,
    /// The target.
    pub target: TargetName,
    /// The role, as it stands.
    pub role: RoleName,
    /// For how long, in seconds, as it stands.
    pub for_s: u64,
    /// RFC 3339.
    pub created_at: String,
    /// How it stands: a word of product.md.
    pub state: String,
    /// Who agreed.
    pub approved_by: Vec<PersonName>,
    /// How its grant stands, where it led to one.
    pub grant_state: Option<String>,
}
