//! How much one person may have decided: enough for any person and most scripts, too little to crowd out the others or fill the disk. And
//! how many tokens that are none one address may show before it has to wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};

/// How many acts at once.
const BURST_MS: u64 = 1000 * EACH_MS;
/// How long it takes until one more is allowed, in milliseconds: ten a second.
const EACH_MS: u64 = 100;

/// When each person will have used up nothing, by the boot-time clock in milliseconds.
#[derive(Debug, Default)]
pub struct Quotas {
    free_at: HashMap<PersonName, u64>,
}

impl Quotas {
    /// Counts one act.
    ///
    /// # Errors
    /// [`Code::TOO_OFTEN`].
    pub fn spend(&mut self, person: &PersonName, now_ms: u64) -> Result<(), Refusal> {
        self.free_at.retain(|_, at| *at > now_ms);
        let at = self.free_at.entry(person.clone()).or_insert(now_ms);
        if *at + EACH_MS > now_ms + BURST_MS {
            return Err(Refusal::new(Code::TOO_OFTEN, "You sign more than the broker takes from one person."));
        }
        *at += EACH_MS;
        Ok(())
    }
}

/// How many bad tokens of one source cost nothing; each is forgiven after a second.
const TOKENS_MS: u64 = 100 * TOKEN_MS;
const TOKEN_MS: u64 = 1000;
/// How long a source waits for the answer to each further one.
const SLOW: Duration = Duration::from_secs(1);
/// The most sources that are remembered.
const SOURCES: usize = 10_000;

/// Bad tokens of each source, by the boot-time clock in milliseconds. Nobody is locked out: a good token is never looked for here.
#[derive(Debug, Default)]
pub struct Guesses {
    free_at: HashMap<IpAddr, u64>,
}

impl Guesses {
    /// Counts a bad token; tells how long its sender waits for the refusal.
    pub fn count(&mut self, source: IpAddr, now_ms: u64) -> Duration {
        self.free_at.retain(|_, at| *at > now_ms);
        if self.free_at.len() >= SOURCES && !self.free_at.contains_key(&source) {
            return SLOW;
        }
        let at = self.free_at.entry(source).or_insert(now_ms);
        if *at + TOKEN_MS > now_ms + TOKENS_MS {
            return SLOW;
        }
        *at += TOKEN_MS;
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_address_that_guesses_waits_and_no_other() {
        let (mut guesses, one, other) =
            (Guesses::default(), "192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert_eq!((0..1000).filter(|_| guesses.count(one, 7).is_zero()).count(), 100);
        assert!(guesses.count(other, 7).is_zero());
        assert!(!guesses.count(one, 900).is_zero() && guesses.count(one, 1007).is_zero());
    }

    #[test]
    fn one_person_is_slowed_down_and_no_other() {
        let (mut quotas, alice, bob) =
            (Quotas::default(), PersonName::new("alice").unwrap(), PersonName::new("bob").unwrap());
        let taken = (0..5000).filter(|_| quotas.spend(&alice, 7).is_ok()).count();
        assert_eq!(taken, 1000);
        quotas.spend(&bob, 7).unwrap();
        assert_eq!(quotas.spend(&alice, 106).unwrap_err().code, Code::TOO_OFTEN);
        quotas.spend(&alice, 107).unwrap();
        assert!(quotas.spend(&alice, 107).is_err());
        quotas.spend(&bob, 200_000).unwrap();
        assert_eq!(quotas.free_at.len(), 1, "who is quiet is forgotten");
    }
}
