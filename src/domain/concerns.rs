//! Whom and what an event is about: what the log's index is searched by, and what the state's indexes are kept by.

use super::event::Event;
use super::ids::{GrantId, RequestId, SessionId};
use super::names::{PersonName, TargetName};

/// What the log's index is searched by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Concerns {
    /// Who did it.
    pub actor: Option<PersonName>,
    /// The request.
    pub request: Option<RequestId>,
    /// The grant.
    pub grant: Option<GrantId>,
    /// The target.
    pub target: Option<TargetName>,
    /// The session.
    pub session: Option<SessionId>,
}

impl Event {
    /// Whom and what it concerns.
    pub fn concerns(&self) -> Concerns {
        let mut c = Concerns::default();
        match self {
            Self::Begun(_)
            | Self::Started
            | Self::Stopped
            | Self::Heartbeat
            | Self::ClockJumped { .. }
            | Self::KrlPublished { .. }
            | Self::SnapshotTaken { .. }
            | Self::TrustReset { .. }
            | Self::AccountFound { .. } => {}
            Self::SignedIn { person, .. } | Self::ActRefused { person, .. } => c.actor = Some(person.clone()),
            Self::BundleAdopted { by, .. }
            | Self::PersonDisabled { by, .. }
            | Self::PersonEnabled { by, .. }
            | Self::KeyEnrolled { by, .. }
            | Self::KeyRevoked { by, .. }
            | Self::CaStaged { by, .. }
            | Self::CaActivated { by, .. }
            | Self::CaRetired { by, .. }
            | Self::CaAbandoned { by, .. }
            | Self::EpochProposed { by, .. }
            | Self::ClockConfirmed { by, .. } => c.actor = Some(by.clone()),
            Self::EpochBegun { by, .. } => c.actor = by.last().cloned(),
            Self::RequestSubmitted { request, person, terms, .. } => {
                (c.actor, c.request, c.target) = (Some(person.clone()), Some(*request), Some(terms.target.clone()));
            }
            Self::RequestRefused { request, person, target, .. } => {
                (c.actor, c.request, c.target) = (Some(person.clone()), Some(*request), Some(target.clone()));
            }
            Self::RequestCovered { request, person, target, grant } => {
                (c.actor, c.request, c.target) = (Some(person.clone()), Some(*request), Some(target.clone()));
                c.grant = Some(*grant);
            }
            Self::StepApproved { request, by, terms, .. } => {
                (c.actor, c.request, c.target) = (Some(by.clone()), Some(*request), Some(terms.target.clone()));
            }
            Self::RequestApproved { request, grant } => (c.request, c.grant) = (Some(*request), *grant),
            Self::RequestDenied { request, by, .. } | Self::RequestWithdrawn { request, by, .. } => {
                (c.actor, c.request) = (Some(by.clone()), Some(*request));
            }
            Self::RequestExpired { request } | Self::RequestInvalidated { request, .. } => c.request = Some(*request),
            Self::GrantOpened { grant, request, person, terms, .. } => {
                (c.request, c.grant, c.target) = (Some(*request), Some(*grant), Some(terms.target.clone()));
                c.actor = Some(person.clone());
            }
            Self::GrantEnding { grant, by, .. } => (c.actor, c.grant) = (by.clone(), Some(*grant)),
            Self::KeyBound { grant, .. }
            | Self::GrantLapsed { grant }
            | Self::GrantCancelled { grant, .. }
            | Self::GrantEnded { grant, .. }
            | Self::AccountPlanned { grant, .. }
            | Self::AccountMade { grant, .. }
            | Self::AccountResidue { grant, .. }
            | Self::CredentialIssued { grant, .. } => c.grant = Some(*grant),
            Self::HostEnrolled { by, target, .. } => (c.actor, c.target) = (Some(by.clone()), Some(target.clone())),
            Self::HostConfirmed { target, .. } => c.target = Some(target.clone()),
            Self::SessionOpened { session } => {
                (c.grant, c.session) = (Some(session.grant), Some(session.id));
                (c.actor, c.target) = (Some(session.person.clone()), Some(session.target.clone()));
            }
            Self::SessionClosed { session, grant, person, target, .. } => {
                (c.grant, c.session) = (Some(*grant), Some(*session));
                (c.actor, c.target) = (Some(person.clone()), Some(target.clone()));
            }
            // INVARIANT: the one whose place in the indexes may change.
            Self::SessionMoved { session, to, .. } => (c.grant, c.session) = (Some(*to), Some(*session)),
            Self::SessionEndAsked { session, grant, by, .. } | Self::SessionRead { session, grant, by } => {
                (c.actor, c.grant, c.session) = (Some(by.clone()), Some(*grant), Some(*session));
            }
        }
        c
    }
}
