//! What somebody asked for before: what an approver wants to know of the person in front of them.

use super::Broker;
use super::view::instant;
use crate::domain::event::Entry;
use crate::domain::ids::RequestId;
use crate::domain::names::PersonName;
use crate::domain::refusal::Refusal;
use crate::ledger::Filter;
use crate::wire::EarlierDoc;

/// The most requests that are told of.
const MOST: u32 = 5;

impl Broker {
    /// The last requests of whoever made this one, newest first, and how they came out. Those on other targets are told to operators
    /// and auditors alone, because others may not know of these targets; reasons are told to nobody here.
    ///
    /// # Errors
    /// As [`Broker::request_doc`].
    pub async fn earlier(&self, viewer: &PersonName, id: RequestId) -> Result<Vec<EarlierDoc>, Refusal> {
        let doc = self.request_doc(viewer, id).await?;
        let all = {
            let memory = self.memory().await;
            memory.state.is_operator(viewer) || memory.state.is_auditor(viewer)
        };
        let filter = Filter {
            actor: Some(doc.requester.to_string()),
            kind: Some("request.submitted".to_owned()),
            target: (!all).then(|| doc.target.to_string()),
            limit: MOST + 1,
            ..Default::default()
        };
        let leaves = self.reader().search(&filter).await.unwrap_or_default();
        let entries = leaves.iter().filter_map(|leaf| serde_json::from_slice::<Entry>(&leaf.bytes).ok());
        let ids: Vec<RequestId> = entries.filter_map(|entry| entry.event.concerns().request).collect();
        let mut out = Vec::new();
        for other in ids.into_iter().filter(|other| *other != id).take(MOST as usize) {
            out.extend(self.how_it_came_out(other).await);
        }
        Ok(out)
    }

    async fn how_it_came_out(&self, id: RequestId) -> Option<EarlierDoc> {
        let here = self.memory().await.state.requests.get(&id).cloned();
        let request = match here {
            Some(request) => request,
            None => self.past_request(id).await?.0,
        };
        let grant = match request.state.grant() {
            None => None,
            Some(id) => {
                let here = self.memory().await.state.grants.get(&id).cloned();
                if here.is_some() { here } else { self.past_grant(id).await }
            }
        };
        let terms = request.standing_terms();
        Some(EarlierDoc {
            schema: "jit-broker/earlier/v1".to_owned(),
            id,
            target: terms.target,
            role: terms.role,
            for_s: terms.for_s,
            created_at: instant(request.created_at),
            state: request.state.word().to_owned(),
            approved_by: request.approvals.iter().map(|approval| approval.by.clone()).collect(),
            grant_state: grant.map(|grant| grant.state.word().to_owned()),
        })
    }
}
