//! The one place where an error becomes a text on stderr and an exit status.

use std::process::ExitCode;

use crate::domain::refusal::{Code, Refusal};
use crate::domain::text::{shown, shown_json};
use crate::wire::ErrorDoc;

/// Why a command did not do its work.
#[derive(Debug)]
pub struct Failure(pub Refusal);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<ErrorDoc> for Failure {
    fn from(doc: ErrorDoc) -> Self {
        Self(Refusal { code: doc.code, message: doc.message, rule: doc.rule, hint: doc.hint })
    }
}

impl Failure {
    /// Makes a failure with the code's own hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Refusal::new(code, message))
    }

    /// A local file or program failed.
    pub fn local(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self::new(Code::LOCAL_IO, format!("{what}: {error}."))
    }

    /// Prints the failure and gives its exit status.
    pub fn report(&self, json: bool) -> ExitCode {
        eprintln!("{}", if json { self.json() } else { self.text() });
        ExitCode::from(self.0.code.entry().exit)
    }

    /// One line of JSON.
    pub(super) fn json(&self) -> String {
        shown_json(&serde_json::to_string(&ErrorDoc::from(&self.0)).unwrap_or_default())
    }

    /// Lines for people; nothing in them moves a cursor or turns the text around.
    pub(super) fn text(&self) -> String {
        let message: Vec<String> = self.0.message.lines().map(shown).collect();
        let mut text = format!("{}: {}", self.0.code, message.join("\n  "));
        if let Some(rule) = &self.0.rule {
            text += &format!("\n  rule: {rule}");
        }
        if let Some(hint) = &self.0.hint {
            text += &format!("\n  next: {}", shown(hint));
        }
        text
    }
}
