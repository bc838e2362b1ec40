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
/// The most serials of lost entries that are revoked one by one.
const MOST_LOST: u64 = 100_000;
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
        let size = |new: &Self| new.seen.as_ref().map_or(0, |seen| seen.size);
        let seen = if size(other) > size(self) { &other.seen } else { &self.seen };
        Self { seen: seen.clone(), ..other.clone() }
    }

    /// How many serials after the last known one may be of lost entries: each entry has one at most.
    pub fn lost_serials(&self) -> u64 {
        self.lost().saturating_add(UNSEEN).min(MOST_LOST)
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
