//! An error as every face shows it.

use serde::{Deserialize, Serialize};

use crate::domain::names::RuleId;
use crate::domain::refusal::{Code, Refusal};

/// An error, on every face.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDoc {
    /// `jit-broker/error/v1`.
    pub schema: String,
    /// The stable code.
    pub code: Code,
    /// One sentence.
    pub message: String,
    /// The next command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The rule that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
}

impl From<&Refusal> for ErrorDoc {
    fn from(refusal: &Refusal) -> Self {
        Self {
            schema: "jit-broker/error/v1".to_owned(),
            code: refusal.code,
            message: refusal.message.clone(),
            hint: refusal.hint.clone(),
            rule: refusal.rule.clone(),
        }
    }
}
