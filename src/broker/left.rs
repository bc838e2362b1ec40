//! What is left on targets: grants that are over and not proven gone, and accounts that nobody explains.
//!
//! Those whom it concerns read it by the API; who sits at the broker's machine reads it in a file, without a session.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::Broker;
use crate::domain::grant::{Grant, GrantState};
use crate::domain::names::PersonName;
use crate::wire::{LeftDoc, ResidueDoc, StrangerDoc};

/// The name of the file below the broker's folder of state.
pub const LEFT: &str = "left.json";

/// What sweeps found last, by server.
#[derive(Debug)]
pub(super) struct Strangers {
    path: PathBuf,
    of: Mutex<BTreeMap<String, Vec<StrangerDoc>>>,
    written: Mutex<Option<LeftDoc>>,
}

impl Strangers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, of: Mutex::default(), written: Mutex::default() }
    }

    /// Takes what a look at a server showed; what was seen before and is not any more is forgotten.
    pub(super) fn saw(&self, server: String, found: Vec<StrangerDoc>) {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_empty() {
            of.remove(&server);
        } else {
            of.insert(server, found);
        }
    }

    /// Whether one carries this installation's mark.
    pub(super) fn any_of_ours(&self) -> bool {
        self.all().iter().any(|stranger| stranger.ours)
    }

    fn all(&self) -> Vec<StrangerDoc> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect()
    }
}

fn residue(grant: &Grant) -> Option<ResidueDoc> {
    let GrantState::Residue { left, .. } = &grant.state else { return None };
    Some(ResidueDoc {
        grant: grant.id,
        person: grant.person.clone(),
        target: grant.terms.target.clone(),
        role: grant.terms.role.clone(),
        account: grant.account.as_ref().map(|account| account.name.clone()),
        left: left.clone(),
    })
}

impl Broker {
    /// What is left, as far as it concerns the viewer: operators and auditors see all of it, everybody else their own grants.
    pub async fn left(&self, viewer: &PersonName) -> LeftDoc {
        let all = {
            let state = &self.memory().await.state;
            state.is_operator(viewer) || state.is_auditor(viewer)
        };
        let mut doc = self.all_that_is_left().await;
        if !all {
            doc.residue.retain(|residue| residue.person == *viewer);
            doc.strangers.clear();
        } else if let Ok(docs) = self.authority_docs(viewer).await {
            doc.rotations = docs.into_iter().filter(|doc| doc.phase != "steady").collect();
        }
        doc
    }

    async fn all_that_is_left(&self) -> LeftDoc {
        let memory = self.memory().await;
        LeftDoc {
            schema: "jit-broker/left/v1".to_owned(),
            residue: memory.state.removing().filter_map(residue).collect(),
            strangers: self.accounts().strangers.all(),
            rotations: Vec::new(),
        }
    }

    /// Writes the file for `check`, when it says something else than before.
    pub(super) async fn write_left(&self) {
        let doc = self.all_that_is_left().await;
        let strangers = &self.accounts().strangers;
        let mut written = strangers.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.as_ref() == Some(&doc) {
            return;
        }
        let Ok(text) = serde_json::to_vec(&doc) else { return };
        match crate::signer::keys::replace(&strangers.path, &text, 0o600) {
            Ok(()) => *written = Some(doc),
            Err(refusal) => tracing::warn!("what is left on targets could not be written: {}", refusal.message),
        }
    }
}
