//! The mark that an account carries on its server: whose it is, and a code that only we can make.

use aws_lc_rs::{constant_time, hmac};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use crate::domain::ids::{GrantId, InstallId};
use crate::domain::names::AccountName;

const HEAD: &str = "jit-broker v1";

/// Longer comments are not looked at, in bytes.
const MAX_COMMENT_BYTES: usize = 64 * 1024;

/// The key of the codes in markers: 32 bytes, the same for the life of the installation.
#[derive(Clone)]
pub struct MarkerKey(Zeroizing<[u8; 32]>);

impl MarkerKey {
    /// Takes the key.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A number for a role that nobody can guess, for the lock that keeps its making and its end apart.
    pub(super) fn lock_number(&self, role: &str) -> i64 {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice());
        let code = hmac::sign(&key, format!("lock\0{role}").as_bytes());
        code.as_ref().first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes))
    }

    fn code(&self, text: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice());
        HEXLOWER.encode(hmac::sign(&key, text.as_bytes()).as_ref())
    }
}

impl std::fmt::Debug for MarkerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Whose an account is. Written as the role's comment:
/// `jit-broker v1 <install> <grant> <memberships> <code>`, where the code is HMAC-SHA256 over all of it and the role's name.
///
/// The memberships are what removal needs: they are taken away when the account is locked, and what it made can be cleared
/// away only by somebody who has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The installation.
    pub install: InstallId,
    /// The grant.
    pub grant: GrantId,
    /// The roles that the account was made a member of.
    pub member_of: Vec<String>,
}

impl Marker {
    /// Writes the comment for a role.
    pub fn write(&self, key: &MarkerKey, role: &str) -> String {
        let list = serde_json::Value::from(self.member_of.clone()).to_string();
        let body = format!("{HEAD} {} {} {}", self.install, self.grant, BASE64URL_NOPAD.encode(list.as_bytes()));
        let code = key.code(&signed(&body, role));
        format!("{body} {code}")
    }

    /// Reads a role's comment; nothing unless the code is ours, for this very name.
    pub fn read(key: &MarkerKey, role: &str, comment: &str) -> Option<Self> {
        if comment.len() > MAX_COMMENT_BYTES {
            return None;
        }
        let (body, code) = comment.rsplit_once(' ')?;
        let expected = key.code(&signed(body, role));
        let given = HEXLOWER_PERMISSIVE.decode(code.as_bytes()).map(|raw| HEXLOWER.encode(&raw)).ok()?;
        constant_time::verify_slices_are_equal(expected.as_bytes(), given.as_bytes()).ok()?;
        let mut parts = body.strip_prefix(HEAD)?.strip_prefix(' ')?.split(' ');
        let (install, grant, list) = (parts.next()?, parts.next()?, parts.next()?);
        let member_of = serde_json::from_slice(&BASE64URL_NOPAD.decode(list.as_bytes()).ok()?).ok()?;
        if parts.next().is_some() {
            return None;
        }
        Some(Self { install: install.parse().ok()?, grant: grant.parse().ok()?, member_of })
    }

    /// Says whether a comment claims to be a marker at all.
    pub fn claimed(comment: &str) -> bool {
        comment.starts_with("jit-broker v")
    }

    /// Says whether an account with this comment is ours for a grant.
    pub(super) fn of_grant(
        key: &MarkerKey,
        install: InstallId,
        grant: GrantId,
        role: &str,
        text: &str,
    ) -> Option<Self> {
        Self::read(key, role, text).filter(|marker| marker.install == install && marker.grant == grant)
    }
}

fn signed(body: &str, role: &str) -> String {
    // Neither part can hold a NUL, so that no two pairs give the same bytes.
    format!("{body}\0{role}")
}

/// The name for the marker of the role that keeps an account's data: another name, so another code.
pub(super) fn kept_comment(key: &MarkerKey, marker: &Marker, name: &AccountName) -> String {
    Marker { member_of: Vec::new(), ..marker.clone() }.write(key, &name.kept())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn marker() -> Marker {
        let member_of = vec!["app writer".to_owned(), "x'; DROP ROLE \"y\"; --\n".to_owned()];
        Marker { install: InstallId::new([1; 16]), grant: GrantId::new([2; 16]), member_of }
    }

    #[test]
    fn a_marker_is_read_back_for_its_name_and_key_only() {
        let (key, other) = (MarkerKey::new([3; 32]), MarkerKey::new([4; 32]));
        let text = marker().write(&key, "a_jit");
        assert!(text.bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{text}");
        assert_eq!(Marker::read(&key, "a_jit", &text), Some(marker()));
        assert_eq!(Marker::read(&other, "a_jit", &text), None);
        assert_eq!(Marker::read(&key, "b_jit", &text), None);
        assert_eq!(Marker::of_grant(&key, InstallId::new([1; 16]), GrantId::new([9; 16]), "a_jit", &text), None);
        assert_eq!(Marker::of_grant(&key, InstallId::new([9; 16]), GrantId::new([2; 16]), "a_jit", &text), None);
        assert_eq!(format!("{key:?}"), "***");
    }

    #[test]
    fn one_changed_byte_is_somebody_elses() {
        let key = MarkerKey::new([3; 32]);
        let text = marker().write(&key, "a_jit");
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(Marker::read(&key, "a_jit", &String::from_utf8(bytes).unwrap()), None, "byte {at}");
        }
        for wrong in ["", " ", HEAD, &text[..text.len() - 1], &format!("{text} "), &format!("{text}0")] {
            assert_eq!(Marker::read(&key, "a_jit", wrong), None, "{wrong:?}");
        }
    }
}
