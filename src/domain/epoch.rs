//! Epochs of a log: what is true of it after a restore, a loss that people acknowledged, and administrators who were replaced.
//!
//! An epoch begins where the continuity of the log cannot be shown. It has serials of its own, so that none of the lost entries' repeats;
//! its checkpoints say which it is; and it says for ever what was known of the one before.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::key::Key;
use super::names::PersonName;

/// How many bits of a serial count within an epoch (decisions.md 18).
const COUNTER_BITS: u32 = 40;
/// How many serials of lost entries are revoked beyond those that somebody is known to have seen.
const UNSEEN: u64 = 1000;
/// The most serials of the lost entries of an epoch that are revoked one by one.
const MOST_LOST: u64 = 100_000;
/// The most epochs that are lost as a whole whose serials are revoked; the newest ones.
const MOST_EPOCHS: usize = 8;
/// How long a certificate of a lost entry may hold at most, in seconds: the longest duration that can be asked for.
pub const LONGEST_S: i64 = 366 * 86_400;

/// A checkpoint of the log, as somebody holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witnessed {
    /// The epoch that it is of.
    pub epoch: u32,
    /// How many entries it has.
    pub size: u64,
    /// Their root.
    pub root: Digest,
    /// The signed note.
    pub note: String,
}

/// What an administrator says when an epoch is to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEpoch {
    /// Its number; above every one that anybody has seen.
    pub epoch: u32,
    /// The newest checkpoint that the broker still has.
    pub kept: Witnessed,
    /// The newest checkpoint that the administrator has seen, where it is newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Witnessed>,
}

impl NewEpoch {
    /// How many entries are known to be lost.
    pub fn lost(&self) -> u64 {
        self.seen.as_ref().map_or(0, |seen| seen.size.saturating_sub(self.kept.size))
    }

    /// The same with what another administrator has seen.
    #[must_use]
    pub fn joined(&self, other: &Self) -> Self {
        let newest = |new: &Self| new.seen.as_ref().map(|seen| (seen.epoch, seen.size));
        let seen = if newest(other) > newest(self) { &other.seen } else { &self.seen };
        Self { seen: seen.clone(), ..other.clone() }
    }

    /// The serials that certificates of lost entries may have, where `last` is the last known one: those after it, and the first ones of
    /// each epoch that is lost as a whole. Each entry has one at most.
    pub fn lost_serials(&self, last: u64) -> impl Iterator<Item = u64> {
        let after = |last: u64, entries: u64| {
            last.saturating_add(1)..=last.saturating_add(entries.saturating_add(UNSEEN).min(MOST_LOST))
        };
        let (newest, entries) = self.seen.as_ref().map_or((0, 0), |seen| (seen.epoch, seen.size));
        let whole = (self.kept.epoch.saturating_add(1)..=newest).rev().take(MOST_EPOCHS);
        std::iter::once(after(last, self.lost())).chain(whole.map(move |epoch| after(floor(epoch), entries))).flatten()
    }
}

/// An epoch that began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Where and why.
    pub new: NewEpoch,
    /// The entry with which it began.
    pub seq: u64,
    /// When, in Unix seconds.
    pub at: i64,
    /// Who said so.
    pub by: Vec<PersonName>,
}

/// An epoch that one administrator wants to begin, and another must too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// What they said.
    pub new: NewEpoch,
    /// Who.
    pub by: PersonName,
}

/// Administrators who were replaced by whoever is root on the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// The entry.
    pub seq: u64,
    /// When, in Unix seconds.
    pub at: i64,
    /// Who they are since then.
    pub admins: BTreeMap<PersonName, Key>,
}

/// The serial after which those of an epoch are counted.
pub fn floor(epoch: u32) -> u64 {
    u64::from(epoch) << COUNTER_BITS
}
