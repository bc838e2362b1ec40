//! What has left memory: found through the log's index and folded again from its own entries.

use super::Broker;
use crate::domain::act::{Deed, Selector, SignedAct};
use crate::domain::event::Entry;
use crate::domain::grant::Grant;
use crate::domain::ids::{GrantId, RequestId};
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::request::Request;
use crate::domain::shelf::Shelf;
use crate::domain::state::State;
use crate::ledger::Filter;

impl Broker {
    /// The state that the entries which a filter finds make by themselves.
    async fn folded(&self, filter: Filter, about: impl Fn(&Entry) -> bool) -> State {
        let leaves = self.reader().search_all(&filter).await.unwrap_or_default();
        let entries = leaves.iter().rev().filter_map(|leaf| serde_json::from_slice::<Entry>(&leaf.bytes).ok());
        let (mut state, nothing) = (State::default(), Shelf::default());
        // The columns are only derived from the entries, so the entries themselves must say it too.
        entries.filter(about).for_each(|entry| state.recall(&entry, &nothing));
        state
    }

    /// A request that was over for long, with its text.
    pub(super) async fn past_request(&self, id: RequestId) -> Option<(Request, Shelf)> {
        let filter = Filter { request_id: Some(id.to_string()), ..Filter::default() };
        let state = self.folded(filter, |entry| entry.event.concerns().request == Some(id)).await;
        let request = state.requests.get(&id)?.clone();
        let mut shelf = Shelf::default();
        if let Some(commitment) = request.words
            && let Ok(Some(bytes)) = self.reader().blob(commitment.as_bytes()).await
        {
            shelf.put(&bytes, &Default::default());
        }
        Some((request, shelf))
    }

    /// A grant that was over for long.
    pub(super) async fn past_grant(&self, id: GrantId) -> Option<Grant> {
        let filter = Filter { grant_id: Some(id.to_string()), ..Filter::default() };
        let state = self.folded(filter, |entry| entry.event.concerns().grant == Some(id)).await;
        state.grants.get(&id).cloned()
    }

    /// The better answer to an act that was refused because memory has no such thing any more: to whom it concerns, how it came out.
    pub(super) async fn over_long_ago(&self, by: &PersonName, signed: &SignedAct) -> Option<Refusal> {
        let (what, id, word) = match signed.read().ok()?.deed {
            Deed::Approve { request, .. } | Deed::Deny { request, .. } | Deed::Withdraw { request, .. } => {
                ("Request", request.to_string(), self.request_doc(by, request).await.ok()?.state)
            }
            Deed::Release { grant, .. }
            | Deed::Extend { grant, .. }
            | Deed::BindKey { grant, .. }
            | Deed::Revoke { of: Selector::Grant(grant), .. } => {
                ("Grant", grant.to_string(), self.grant_doc(by, grant).await.ok()?.state)
            }
            _ => return None,
        };
        // What is open and somebody else's is not over.
        if matches!(word.as_str(), "pending" | "ready" | "active" | "ending" | "residue") {
            return None;
        }
        Some(Refusal::new(Code::FINAL, format!("{what} {id} is {word} already.")).hint(format!("jit-broker show {id}")))
    }
}
