//! Sign-in: challenges that are answered once, and short sessions that live in memory only.

use std::collections::HashMap;

use crate::domain::digest::Digest;
use crate::domain::names::PersonName;

/// How long a session holds, in seconds. Clients renew it silently where the key allows.
pub const SESSION_S: i64 = 900;
/// How long a challenge may be answered, in seconds.
const CHALLENGE_S: i64 = 60;
/// The most challenges and sessions that are kept; the oldest go first.
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
#[derive(Debug, Default)]
pub struct Sessions {
    challenges: HashMap<String, i64>,
    sessions: HashMap<Digest, Session>,
}

impl Sessions {
    /// Draws a challenge.
    pub fn challenge(&mut self, now: i64) -> String {
        prune(&mut self.challenges, now, |until| *until);
        let text = data_encoding::HEXLOWER.encode(&crate::clock::random16());
        self.challenges.insert(text.clone(), now + CHALLENGE_S);
        text
    }

    /// Takes a challenge back; true if it was ours, unused and in time.
    pub fn answer(&mut self, challenge: &str, now: i64) -> bool {
        self.challenges.remove(challenge).is_some_and(|until| now < until)
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
