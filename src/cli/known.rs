//! What this machine has seen of the broker: names and ids, for completion in a shell. A cache that nothing else relies on.
//!
//! True here: reading it touches no network and fails to an empty list; what others may not read is not in it (names, roles, ids and the
//! two words; no reasons).

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

use super::home::Home;
use crate::wire::{GrantDoc, List, RequestDoc, TargetDoc};

/// Its file in the state folder.
const FILE: &str = "known.json";
/// The largest that is read, in bytes.
const MAX: u64 = 4 << 20;

/// Names with a few words about each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// Targets with their kind.
    pub targets: BTreeMap<String, String>,
    /// The roles of each target.
    pub roles: BTreeMap<String, Vec<String>>,
    /// One's own requests that wait.
    pub mine: BTreeMap<String, String>,
    /// Requests that wait for one's answer.
    pub answer: BTreeMap<String, String>,
    /// Grants that are open.
    pub grants: BTreeMap<String, String>,
}

impl Known {
    /// What is known; nothing where nothing can be read.
    pub fn read(home: &Home) -> Self {
        let path = home.state.join(FILE);
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX) {
            return Self::default();
        }
        fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Takes what a list says.
    fn take(&mut self, path: &str, bytes: &[u8]) -> Option<()> {
        match path {
            "/v1/targets" => {
                let list: List<TargetDoc> = serde_json::from_slice(bytes).ok()?;
                self.targets = list.items.iter().map(|t| (t.name.to_string(), t.kind.clone())).collect();
                let roles = |t: &TargetDoc| t.roles.iter().map(|r| r.name.to_string()).collect();
                self.roles = list.items.iter().map(|t| (t.name.to_string(), roles(t))).collect();
            }
            "/v1/requests?scope=mine" => self.mine = requests(bytes)?,
            "/v1/requests?scope=answer" => self.answer = requests(bytes)?,
            "/v1/grants?scope=mine" => {
                let list: List<GrantDoc> = serde_json::from_slice(bytes).ok()?;
                let what = |g: &GrantDoc| format!("{} on {}, {}", g.role, g.target, g.state);
                self.grants = list.items.iter().map(|g| (g.id.to_string(), what(g))).collect();
            }
            _ => return None,
        }
        Some(())
    }
}

fn requests(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    let list: List<RequestDoc> = serde_json::from_slice(bytes).ok()?;
    let open = list.items.iter().filter(|r| r.state == "pending");
    let what = |r: &RequestDoc| format!("{} for {} on {}", r.requester, r.role, r.target);
    Some(open.flat_map(|r| [(r.code.clone(), what(r)), (r.id.to_string(), what(r))]).collect())
}

/// Remembers what an answer of the broker says, where it is one of the lists that are completed from. A cache that cannot be written is
/// no reason to fail.
pub fn learn(home: &Home, path: &str, bytes: &[u8]) {
    let old = Known::read(home);
    let mut new = old.clone();
    if new.take(path, bytes).is_none() || new == old {
        return;
    }
    let _ = super::home::write_private(&home.state.join(FILE), &serde_json::to_vec(&new).unwrap_or_default());
}
