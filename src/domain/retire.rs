//! What is over leaves memory for the log's index (decisions.md 16), at moments that the log alone decides.

use serde::{Deserialize, Serialize};

use super::concerns::Concerns;
use super::ids::{GrantId, RequestId};
use super::request::RequestState;
use super::state::State;

/// How long what is over stays in memory, in seconds: far longer than an act is accepted after it was signed.
pub const KEEP_S: i64 = 3600;

/// Something that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Over {
    /// A request without a grant.
    Request(RequestId),
    /// A grant, with its request.
    Grant(GrantId),
}

impl State {
    /// Which of the things that an event is about are not over yet.
    pub(super) fn open_among(&self, about: &Concerns) -> Vec<Over> {
        let request = about.request.filter(|id| self.open_requests.contains(id)).map(Over::Request);
        let grant = about.grant.filter(|id| self.open_grants.contains(id)).map(Over::Grant);
        request.into_iter().chain(grant).collect()
    }

    /// Queues those that are over since an entry, and lets go of what has been over for long enough at its time.
    pub(super) fn retire(&mut self, were_open: Vec<Over>, at: i64) {
        for thing in were_open {
            let over = match &thing {
                // A request with a grant leaves together with it: first use and revocation judge it again.
                Over::Request(id) => self.requests.get(id).is_some_and(|request| {
                    !matches!(request.state, RequestState::Pending | RequestState::Approved { grant: Some(_) })
                }),
                Over::Grant(id) => self.grants.get(id).is_some_and(super::grant::Grant::over),
            };
            if over {
                self.leaving.push_back((at, thing));
            }
        }
        while let Some((_, thing)) = self.leaving.pop_front_if(|(over_at, _)| *over_at <= at - KEEP_S) {
            match thing {
                Over::Request(id) => drop(self.requests.remove(&id)),
                Over::Grant(id) => {
                    if let Some(grant) = self.grants.remove(&id) {
                        self.requests.remove(&grant.request);
                    }
                }
            }
        }
    }
}
