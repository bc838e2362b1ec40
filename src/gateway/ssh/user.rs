//! What stands before the `@`: the account alone, or `account%target` for a client without certificates.

use crate::domain::names::{LoginName, TargetName};

/// What a client asks for by its user name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// An account; the certificate or the hop says where.
    Login(LoginName),
    /// An account on a target.
    At(LoginName, TargetName),
}

impl User {
    /// Reads a user name; anything outside the grammar is nobody.
    pub fn read(text: &str) -> Option<Self> {
        match text.split_once('%') {
            None => LoginName::new(text).ok().map(Self::Login),
            Some((login, target)) => Some(Self::At(LoginName::new(login).ok()?, TargetName::new(target).ok()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_two_forms_are_read() {
        assert_eq!(User::read("root"), Some(User::Login(LoginName::new("root").unwrap())));
        let at = User::At(LoginName::new("deploy").unwrap(), TargetName::new("web-07").unwrap());
        assert_eq!(User::read("deploy%web-07"), Some(at));
        let wrong = [
            "",
            "%",
            "a%",
            "%web",
            "alice#db01",
            "alice:db01:root",
            "a@b@c",
            "%00",
            "a%b%c",
            "a%../x",
            "$(id)",
            "a b",
            "a\u{202e}b",
            "../",
            "a%WEB",
            "-l",
            "a\0",
            "a\n",
            "a%web\n",
            "`id`",
        ];
        for text in wrong.into_iter().map(str::to_owned).chain(["a".repeat(65_536)]) {
            assert_eq!(User::read(&text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in "\\PC{0,80}") {
            let again = match User::read(&text) {
                None => return Ok(()),
                Some(User::Login(login)) => login.to_string(),
                Some(User::At(login, target)) => format!("{login}%{target}"),
            };
            prop_assert_eq!(again, text);
        }
    }
}
