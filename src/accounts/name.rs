//! The name of a temporary account: random, short, and never anybody's text.

use std::fmt;
use std::str::FromStr;

use crate::domain::ids::base32;

/// What every account's name ends in, so that people recognise it.
const SUFFIX: &str = "_jit";

/// A letter and the symbols of 128 bits in base32.
const RANDOM_CHARS: usize = 27;

/// Sixteen letters that are symbols of Crockford's base32.
const LETTERS: [char; 16] = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'j', 'k', 'm', 'n', 'p', 'q', 'r', 's'];

/// A role's name on a target: 27 random symbols and `_jit`, `[a-z][a-z0-9_]*`, 31 bytes; it needs no quotes in SQL.
///
/// The random part comes first: PostgreSQL cuts names at 63 bytes with a notice only, so two names with a common beginning
/// may become one role.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(String);

/// A text that is not the name of an account of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not the name of a temporary account")]
pub struct NameError;

impl AccountName {
    /// Makes the name that 128 random bits give.
    pub fn new(random: [u8; 16]) -> Self {
        let [.., last] = random;
        let letter = LETTERS.get(usize::from(last & 15)).copied().unwrap_or('a');
        Self(format!("{letter}{}{SUFFIX}", base32(&random)))
    }

    /// Gives the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Says whether a role's name looks like one of ours; it may still be anybody's.
    pub fn resembles(text: &str) -> bool {
        text.ends_with(SUFFIX)
    }

    /// The role without rights that receives what of this account must be kept.
    pub(super) fn kept(&self) -> String {
        format!("{}_kept", self.0)
    }
}

impl FromStr for AccountName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let random = text.strip_suffix(SUFFIX).ok_or(NameError)?;
        let crockford = |b: u8| b.is_ascii_digit() || (b.is_ascii_lowercase() && !b"ilou".contains(&b));
        if random.len() == RANDOM_CHARS && random.starts_with(LETTERS) && random.bytes().all(crockford) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError)
        }
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_plain_short_and_random_first() {
        for bytes in [[0; 16], [255; 16], *b"\"; ALTER ROLE x "] {
            let name = AccountName::new(bytes);
            assert_eq!(name.as_str().len(), 31);
            assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert!(name.kept().len() <= 63);
            assert_eq!(name.as_str().parse::<AccountName>().unwrap(), name);
        }
        let (a, b) = (AccountName::new([1; 16]), AccountName::new([2; 16]));
        assert_ne!(a.as_str().get(..1), b.as_str().get(..1), "no common beginning");
    }

    #[test]
    fn everything_else_is_no_name() {
        let good = AccountName::new([7; 16]);
        let kept = good.kept();
        let long = format!("0{good}");
        let wrong = ["", "_jit", "public", "none", "pg_foo", "current_user", "a\"_jit", "é_jit", &kept, &long];
        for text in wrong.into_iter().map(str::to_owned).chain([good.as_str().to_uppercase(), format!("{good}\n")]) {
            assert!(text.parse::<AccountName>().is_err(), "{text:?}");
        }
    }
}
