//! Quoting, and rows as text. Everything goes by the simple protocol, so that several statements cost one round trip.

use crate::accounts::error::AccountError;

/// PostgreSQL cuts longer names with a notice only (NAMEDATALEN - 1).
pub(super) const MAX_NAME_BYTES: usize = 63;

/// Quotes a name. SECURITY: with the quotes doubled no byte of a name ends it; PostgreSQL's text holds no NUL.
pub(super) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text. SECURITY: connections are opened with `standard_conforming_strings = on`, so a backslash is a character.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Checks the names of roles that come from the operator's files.
pub(super) fn check_names(names: &[String]) -> Result<(), AccountError> {
    let good = |name: &String| !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains('\0');
    if names.iter().all(good) {
        Ok(())
    } else {
        Err(AccountError::Invalid("a role to be handed out has a name of 1 to 63 bytes without NUL"))
    }
}

/// Roles as a list of quoted names.
pub(super) fn idents(names: &[String]) -> String {
    names.iter().map(|name| ident(name)).collect::<Vec<_>>().join(", ")
}

/// An instant for `VALID UNTIL`, in seconds since 1970.
pub(super) fn instant(at: i64) -> Result<String, AccountError> {
    // PostgreSQL reads this form whatever its DateStyle is.
    jiff::Timestamp::from_second(at)
        .ok()
        .filter(|_| at > 0)
        .map(|t| literal(&t.to_string()))
        .ok_or(AccountError::Invalid("the account's end is not an instant"))
}

/// One row; columns are text or NULL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Row(pub(super) Vec<Option<String>>);

impl Row {
    /// A column's text; empty for NULL.
    pub(super) fn text(&self, at: usize) -> &str {
        self.0.get(at).and_then(Option::as_deref).unwrap_or_default()
    }

    /// A column's number; 0 for anything else.
    pub(super) fn number(&self, at: usize) -> u64 {
        self.text(at).parse().unwrap_or_default()
    }

    /// Whether a column is true.
    pub(super) fn yes(&self, at: usize) -> bool {
        self.text(at) == "t"
    }

    /// A column that is a JSON array of texts.
    pub(super) fn list(&self, at: usize) -> Vec<String> {
        serde_json::from_str(self.text(at)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_ends_a_quoted_name_or_text() {
        assert_eq!(ident("x\"; ALTER ROLE evil SUPERUSER; --"), "\"x\"\"; ALTER ROLE evil SUPERUSER; --\"");
        assert_eq!(literal("x'; DROP ROLE y; --\\"), "'x''; DROP ROLE y; --\\'");
        assert_eq!(instant(1_800_000_000).unwrap(), "'2027-01-15T08:00:00Z'");
        assert!(instant(0).is_err() && instant(i64::MAX).is_err());
        let name = |text: &str| check_names(&[text.to_owned()]).is_ok();
        assert!(name("é\"\\\n") && name(&"a".repeat(63)));
        assert!(!name("") && !name("a\0") && !name(&"a".repeat(64)) && !name(&"é".repeat(40)));
    }
}
