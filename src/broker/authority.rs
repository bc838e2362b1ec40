//! The authorities as the broker tells of them: whom to trust, and how a replacement stands.

use std::sync::PoisonError;

use super::Broker;
use super::view::instant;
use crate::domain::act::Deed;
use crate::domain::authority::{Authorities, Purpose, Rotation, SignedTrust};
use crate::domain::decide::lacking;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::signer::{Answer, Order};
use crate::wire::{AuthorityDoc, LackingDoc, NextKey};

impl Broker {
    /// The version of the authorities.
    pub async fn trust_version(&self) -> u64 {
        self.memory().await.state.authorities.version
    }

    /// Whom to trust, signed; asked of the signer once for each version.
    ///
    /// # Errors
    /// The signer's refusal.
    pub async fn trust(&self) -> Result<SignedTrust, Refusal> {
        let version = self.trust_version().await;
        let known = self.inner.trust.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, trust)) = known.filter(|(of, _)| *of == version) {
            return Ok(trust);
        }
        let Answer::Trust { trust } = self.order(Order::Trust).await? else {
            return Err(Refusal::new(Code::BUG, "The signer answered something else."));
        };
        if let Some(word) = trust.known() {
            *self.inner.trust.lock().unwrap_or_else(PoisonError::into_inner) = Some((word.version, trust.clone()));
        }
        Ok(trust)
    }

    /// The key that will replace an authority's, made by the signer where there is none yet.
    ///
    /// # Errors
    /// [`Code::NOT_OFFICE`], or the signer's refusal.
    pub async fn next_key(&self, by: &PersonName, purpose: Purpose) -> Result<NextKey, Refusal> {
        if !self.memory().await.state.is_admin(by) {
            return Err(Refusal::new(Code::NOT_OFFICE, "Administrators alone do this."));
        }
        match self.order(Order::NextKey { purpose }).await? {
            Answer::NextKey { public } => Ok(NextKey { purpose, public }),
            _ => Err(Refusal::new(Code::BUG, "The signer answered something else.")),
        }
    }

    /// Refuses to have a key staged that is not the signer's: nobody could sign with it.
    ///
    /// # Errors
    /// [`Code::BAD_KEY`], or the signer's refusal.
    pub async fn may_stage(&self, by: &PersonName, deed: &Deed) -> Result<(), Refusal> {
        let Deed::RotateCa { ca, step: Rotation::Stage(public), .. } = deed else { return Ok(()) };
        // Of others the refusal is an entry.
        if !self.memory().await.state.is_admin(by) {
            return Ok(());
        }
        match self.order(Order::NextKey { purpose: *ca }).await? {
            Answer::NextKey { public: ours } if ours == *public => Ok(()),
            _ => Err(Refusal::new(Code::BAD_KEY, "That is not the key that the signer made for this.")
                .hint(format!("jit-broker ca rotate {ca}"))),
        }
    }

    /// How each replacement stands, and who has not heard yet.
    ///
    /// # Errors
    /// [`Code::NOT_OFFICE`].
    pub async fn authority_docs(&self, viewer: &PersonName) -> Result<Vec<AuthorityDoc>, Refusal> {
        let memory = self.memory().await;
        let state = &memory.state;
        if !state.is_operator(viewer) && !state.is_auditor(viewer) {
            return Err(Refusal::new(Code::NOT_OFFICE, "Operators and auditors read this."));
        }
        let now = self.now().max(state.last_at);
        let mut docs = authority_docs(&state.authorities);
        for doc in &mut docs {
            let found = lacking(state, doc.purpose, now).into_iter();
            doc.lacking = found.map(|l| LackingDoc { who: l.who, why: l.why }).collect();
        }
        Ok(docs)
    }
}

/// The authorities as documents, without those who lack something.
pub fn authority_docs(authorities: &Authorities) -> Vec<AuthorityDoc> {
    let docs = authorities.rings.iter().map(|(purpose, ring)| {
        let (phase, since) = match (&ring.next, &ring.former) {
            (Some(next), _) => ("staged", Some(next.at)),
            (None, Some(former)) => ("active", Some(former.at)),
            (None, None) => ("steady", None),
        };
        AuthorityDoc {
            purpose: *purpose,
            phase: phase.to_owned(),
            active: ring.active.clone(),
            next: ring.next.as_ref().map(|next| next.public.clone()),
            former: ring.former.as_ref().map(|former| former.public.clone()),
            since: since.map(instant),
            lacking: Vec::new(),
        }
    });
    docs.collect()
}
