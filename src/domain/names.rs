//! Names that people and files give: validated once, at the type, and compared as bytes ever after.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that a name of this kind cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shown} is not a {what}: {rule}")]
pub struct NameError {
    what: &'static str,
    rule: &'static str,
    shown: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks a text and makes it a name.
            ///
            /// # Errors
            /// The rule that the text breaks, with the text escaped and shortened.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                if $valid(text) {
                    Ok(Self(text.into()))
                } else {
                    let shown = super::text::shown(&text.chars().take(64).collect::<String>());
                    Err(NameError { what: $what, rule: $rule, shown: format!("\"{shown}\"") })
                }
            }

            /// The name's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

fn starts_and_goes_on(text: &str, max: usize, first: fn(u8) -> bool, rest: fn(u8) -> bool) -> bool {
    let mut bytes = text.bytes();
    text.len() <= max && bytes.next().is_some_and(first) && bytes.all(rest)
}

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase()
}

fn word(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
}

fn plain(text: &str) -> bool {
    starts_and_goes_on(text, 32, lower, word)
}

fn target(text: &str) -> bool {
    text == "broker/policy" || starts_and_goes_on(text, 63, |b| b.is_ascii_lowercase() || b.is_ascii_digit(), word)
}

fn login(text: &str) -> bool {
    starts_and_goes_on(
        text,
        32,
        |b| b.is_ascii_alphabetic() || b == b'_',
        |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'),
    )
}

/// What every account's name ends in, so that people recognise it.
const ACCOUNT: &str = "_jit";

/// Sixteen letters that are symbols of Crockford's base32.
const LETTERS: [char; 16] = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'j', 'k', 'm', 'n', 'p', 'q', 'r', 's'];

fn account(text: &str) -> bool {
    let crockford = |b: u8| b.is_ascii_digit() || (b.is_ascii_lowercase() && !b"ilou".contains(&b));
    let random = text.strip_suffix(ACCOUNT).unwrap_or_default();
    random.len() == 27 && random.starts_with(LETTERS) && random.bytes().all(crockford)
}

impl AccountName {
    /// The name that 128 random bits give. The random part comes first: PostgreSQL cuts names at 63 bytes with a notice only, so two names
    /// with a common beginning could become one role.
    pub fn of_random(random: &[u8; 16]) -> Self {
        let [.., last] = *random;
        let letter = LETTERS.get(usize::from(last & 15)).copied().unwrap_or('a');
        Self(format!("{letter}{}{ACCOUNT}", super::ids::base32(random)).into())
    }

    /// Says whether a role's name looks like one of these; it may still be anybody's.
    pub fn resembles(text: &str) -> bool {
        text.ends_with(ACCOUNT)
    }

    /// The role without rights that receives what of this account must be kept.
    pub fn kept(&self) -> String {
        format!("{self}_kept")
    }
}

/// A name that is safe in a connection string and a pg_hba line too, though it is quoted wherever it goes.
fn identifier(text: &str) -> bool {
    starts_and_goes_on(
        text,
        63,
        |b| b.is_ascii_alphanumeric() || b == b'_',
        |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'$'),
    )
}

fn database_role(text: &str) -> bool {
    identifier(text) && !matches!(text, "public" | "none")
}

name!(
    /// The one canonical name of a person, machine or agent.
    PersonName, "person's name", "a small letter, then at most 31 of a-z 0-9 . _ -", plain
);
name!(
    /// A group of people.
    GroupName, "group's name", "a small letter, then at most 31 of a-z 0-9 . _ -", plain
);
name!(
    /// A role on a target.
    RoleName, "role's name", "a small letter, then at most 31 of a-z 0-9 . _ -", plain
);
name!(
    /// A rule of policy.
    RuleId, "rule's id", "a small letter, then at most 31 of a-z 0-9 . _ -", plain
);
name!(
    /// A step of approval.
    StepName, "step's name", "a small letter, then at most 31 of a-z 0-9 . _ -", plain
);
name!(
    /// A server, a database, or the broker's own `broker/policy`.
    TargetName, "target's name", "a small letter or digit, then at most 62 of a-z 0-9 . _ -", target
);
name!(
    /// An account on a target; becomes the second half of a principal.
    LoginName, "login", "a letter or _, then at most 31 of A-Z a-z 0-9 . _ -", login
);

name!(
    /// A temporary account on a database server; made by the broker, never by people.
    AccountName, "account's name", "a letter, 26 symbols of base32, then _jit", account
);
name!(
    /// A database on a server.
    DatabaseName, "database's name", "a letter, digit or _, then at most 62 of A-Z a-z 0-9 . _ - $", identifier
);
name!(
    /// A role on a database server that accounts become members of.
    DatabaseRoleName, "role of a server", "a letter, digit or _, then at most 62 of A-Z a-z 0-9 . _ - $; not public or none", database_role
);
name!(
    /// A secret of `[secrets]`, as the bundle names it.
    SecretName, "secret's name", "a small letter, then at most 31 of a-z 0-9 . _ -", plain
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_account_is_plain_short_and_random_first() {
        for bytes in [[0; 16], [255; 16], *b"\"; ALTER ROLE x "] {
            let name = AccountName::of_random(&bytes);
            assert_eq!(name.as_str().len(), 31);
            assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert!(name.kept().len() <= 63);
            assert_eq!(name.as_str().parse::<AccountName>().unwrap(), name);
        }
        let (a, b) = (AccountName::of_random(&[1; 16]), AccountName::of_random(&[2; 16]));
        assert_ne!(a.as_str().get(..1), b.as_str().get(..1), "no common beginning");
        let (kept, long) = (a.kept(), format!("0{a}"));
        let wrong = ["", "_jit", "public", "none", "pg_foo", "current_user", "a\"_jit", "é_jit", &kept, &long];
        for text in wrong.into_iter().map(str::to_owned).chain([a.as_str().to_uppercase(), format!("{a}\n")]) {
            assert!(text.parse::<AccountName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        for bad in [
            "",
            "-oProxyCommand=id",
            "a;id",
            "a,root",
            "a\nb",
            "a\tb",
            "a\0b",
            "A",
            "é",
            "a b",
            "$(id)",
            "`id`",
            "%h",
            "../x",
            "a\u{202e}b",
            "a/b",
            "*",
            "@x",
            &"a".repeat(64),
        ] {
            assert!(PersonName::new(bad).is_err(), "{bad:?}");
            assert!(TargetName::new(bad).is_err(), "{bad:?}");
        }
        assert!(LoginName::new("root ").is_err() && LoginName::new("a,root").is_err() && LoginName::new("-l").is_err());
        assert!(TargetName::new("broker/policy").is_ok() && TargetName::new("web-07").is_ok());
        let shown = PersonName::new("a\u{202e}b\n").unwrap_err().to_string();
        assert!(!shown.contains('\u{202e}') && !shown.contains('\n'), "{shown}");
    }
}
