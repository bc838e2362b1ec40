//! What a "no" carries: a stable code, the sentence, the rule that refused, and the next command to type.

use serde::{Deserialize, Serialize};

pub use super::codes::Code;
use super::names::RuleId;

/// Policy or state says no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The stable code; `jit-broker explain CODE` tells more.
    pub code: Code,
    /// One sentence for a person, with a full stop, without the code.
    pub message: String,
    /// The rule that refused, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// What to do next; usually a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Refusal {
    /// Makes a refusal with the code's own hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), rule: None, hint: code.entry().next.map(str::to_owned) }
    }

    /// Replaces the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the rule that refused.
    #[must_use]
    pub fn by_rule(mut self, rule: &RuleId) -> Self {
        self.rule = Some(rule.clone());
        self
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl std::error::Error for Refusal {}
