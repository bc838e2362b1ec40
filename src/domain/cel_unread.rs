//! Conditions of policy in a client without a CEL engine: they are shown and never judged, which is the broker's work.

use jiff::civil::DateTime;
use std::sync::Arc;

use super::person::Person;
use super::target::Target;

/// A condition as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    source: Arc<str>,
}

/// What a condition is evaluated over.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Who asks.
    pub person: &'a Person,
    /// Seconds since their last signed sign-in; `None` is never.
    pub signed_in_s: Option<u64>,
    /// For what.
    pub target: &'a Target,
    /// In which role.
    pub role: &'a str,
    /// For how long, in seconds.
    pub for_s: u64,
    /// The ticket, empty where there is none.
    pub ticket: &'a str,
    /// The date and the time of day in the policy's time zone.
    pub now: DateTime,
}

impl Condition {
    /// Takes any text; the broker refuses what is no condition.
    ///
    /// # Errors
    /// None.
    pub fn compile(source: &str) -> Result<Self, Vec<String>> {
        Ok(Self { source: source.into() })
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// SECURITY: nothing holds that was not judged; an error refuses (decisions.md 7).
    ///
    /// # Errors
    /// Always.
    pub fn holds(&self, _: &Facts<'_>) -> Result<bool, String> {
        Err("this is the small client, which judges no conditions".to_owned())
    }
}
