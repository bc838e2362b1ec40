//! How much one person may have decided: enough for any person and most scripts, too little to crowd out the others or fill the disk.

use std::collections::HashMap;

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
