//! Sign-in: challenges that are answered once, and short sessions that live in memory only.

use std::collections::HashMap;

use aws_lc_rs::hmac;
use zeroize::Zeroize;

use super::Broker;
use crate::domain::digest::Digest;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};

/// How long a session holds, in seconds. Clients renew it silently where the key allows.
pub const SESSION_S: i64 = 900;
/// How long a challenge may be answered, in seconds.
const CHALLENGE_S: i64 = 60;
/// The most sessions that are kept; the oldest go first.
const MAX: usize = 100_000;

/// A signed-in person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Who.
    pub person: PersonName,
    /// Fingerprint of the key that signed in.
    pub key_fp: String,
    /// Until when.
    pub expires_at: i64,
}

/// All sessions, by the hash of their token: the token itself is nowhere.
#[derive(Debug)]
pub struct Sessions {
    secret: Secret,
    /// Challenges that were answered, until they would be too old anyway.
    answered: HashMap<String, i64>,
    sessions: HashMap<Digest, Session>,
}

/// What challenges are recognised by; new with every start.
struct Secret(hmac::Key);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Default for Sessions {
    fn default() -> Self {
        let mut bytes = [0; 32];
        crate::clock::fill(&mut bytes);
        let secret = Secret(hmac::Key::new(hmac::HMAC_SHA256, &bytes));
        bytes.zeroize();
        Self { secret, answered: HashMap::new(), sessions: HashMap::new() }
    }
}

impl Sessions {
    /// Draws a challenge. SECURITY: nothing is kept of it, so that nobody can push out other people's by asking for many.
    pub fn challenge(&self, now: i64) -> String {
        let (random, until) = (crate::clock::random16(), (now + CHALLENGE_S).to_be_bytes());
        let tag = hmac::sign(&self.secret.0, &[&random[..], &until].concat());
        data_encoding::HEXLOWER.encode(&[&random[..], &until, tag.as_ref()].concat())
    }

    /// True if a challenge is ours and in time, and nobody has answered it.
    pub fn knows(&self, challenge: &str, now: i64) -> bool {
        let Ok(bytes) = data_encoding::HEXLOWER.decode(challenge.as_bytes()) else { return false };
        let Some((said, tag)) = bytes.split_at_checked(24) else { return false };
        let until = said.last_chunk().map_or(i64::MIN, |until| i64::from_be_bytes(*until));
        hmac::verify(&self.secret.0, said, tag).is_ok() && now < until && !self.answered.contains_key(challenge)
    }

    /// Takes a challenge back, from somebody whose signature holds; true if [`Sessions::knows`] it.
    pub fn answer(&mut self, challenge: &str, now: i64) -> bool {
        let known = self.knows(challenge, now);
        if known {
            self.answered.retain(|_, until| now < *until);
            self.answered.insert(challenge.to_owned(), now + CHALLENGE_S);
        }
        known
    }

    /// Opens a session and gives its token: 256 random bits.
    pub fn open(&mut self, person: PersonName, key_fp: String, now: i64) -> (String, i64) {
        prune(&mut self.sessions, now, |s| s.expires_at);
        let mut bytes = [0; 32];
        crate::clock::fill(&mut bytes);
        let token = data_encoding::BASE64URL_NOPAD.encode(&bytes);
        let expires_at = now + SESSION_S;
        self.sessions.insert(Digest::of(token.as_bytes()), Session { person, key_fp, expires_at });
        (token, expires_at)
    }

    /// The session of a token.
    pub fn find(&self, token: &str, now: i64) -> Option<Session> {
        self.sessions.get(&Digest::of(token.as_bytes())).filter(|s| now < s.expires_at).cloned()
    }

    /// Ends the session of a token.
    pub fn close(&mut self, token: &str) {
        self.sessions.remove(&Digest::of(token.as_bytes()));
    }
}

impl Broker {
    /// Takes the challenge of a sign-in back. SECURITY: it makes a replayed one worthless, the address one that was made for another broker.
    pub(super) fn answered(&self, challenge: &str, public_url: &str) -> Result<(), Refusal> {
        let (ours, now) = (public_url == self.public_url(), self.now());
        if self.sessions().answer(challenge, now) && ours {
            return Ok(());
        }
        Err(Refusal::new(Code::BAD_CHALLENGE, "The challenge is unknown, used, too old, or for another address."))
    }
}

fn prune<K: std::hash::Hash + Eq + Clone, V>(map: &mut HashMap<K, V>, now: i64, until: impl Fn(&V) -> i64) {
    if map.len() < MAX / 100 {
        return;
    }
    map.retain(|_, v| now < until(v));
    if map.len() >= MAX
        && let Some(oldest) = map.iter().min_by_key(|(_, v)| until(v)).map(|(k, _)| k.clone())
    {
        map.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_once_in_time_and_survives_any_number_of_others() {
        let mut sessions = Sessions::default();
        let first = sessions.challenge(1000);
        for _ in 0..200_000 {
            sessions.challenge(1000);
        }
        assert!(sessions.answered.is_empty(), "asking keeps nothing");
        assert!(!sessions.knows(&first, 1000 + CHALLENGE_S));
        assert!(!Sessions::default().knows(&first, 1001), "another start");
        for place in [0, 40, 50, first.len() - 1] {
            let mut other = first.clone().into_bytes();
            other[place] = if other[place] == b'0' { b'1' } else { b'0' };
            assert!(!sessions.knows(&String::from_utf8_lossy(&other), 1001), "digit {place}");
        }
        assert!(
            !sessions.knows("", 1001) && !sessions.knows("é", 1001) && !sessions.knows(&first.to_uppercase(), 1001)
        );
        assert!(sessions.answer(&first, 1059) && !sessions.answer(&first, 1059));
    }
}
