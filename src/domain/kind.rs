//! What an event is called.

use super::event::Event;

impl Event {
    /// The event's stable kind, such as `grant.opened`.
    pub fn kind(&self) -> String {
        let kind = match self {
            Self::Begun(_) => "log.begun",
            Self::Started => "daemon.started",
            Self::Stopped => "daemon.stopped",
            Self::Heartbeat => "heartbeat",
            Self::SnapshotTaken { .. } => "snapshot.taken",
            Self::SignedIn { .. } => "person.signed_in",
            Self::ActRefused { .. } => "act.refused",
            Self::BundleAdopted { .. } => "bundle.adopted",
            Self::PersonDisabled { .. } => "person.disabled",
            Self::PersonEnabled { .. } => "person.enabled",
            Self::KeyEnrolled { .. } => "key.enrolled",
            Self::KeyRevoked { .. } => "key.revoked",
            Self::ClockConfirmed { .. } => "clock.confirmed",
            Self::ClockJumped { .. } => "clock.jumped",
            Self::RequestSubmitted { .. } => "request.submitted",
            Self::RequestRefused { .. } => "request.refused",
            Self::RequestCovered { .. } => "request.covered",
            Self::StepApproved { .. } => "request.step_approved",
            Self::RequestApproved { .. } => "request.approved",
            Self::RequestDenied { .. } => "request.denied",
            Self::RequestWithdrawn { .. } => "request.withdrawn",
            Self::RequestExpired { .. } => "request.expired",
            Self::RequestInvalidated { .. } => "request.invalidated",
            Self::GrantOpened { .. } => "grant.opened",
            Self::KeyBound { .. } => "grant.key_bound",
            Self::GrantLapsed { .. } => "grant.lapsed",
            Self::GrantCancelled { .. } => "grant.cancelled",
            Self::GrantEnding { .. } => "grant.ending",
            Self::GrantEnded { .. } => "grant.ended",
            Self::AccountPlanned { .. } => "account.planned",
            Self::AccountMade { .. } => "account.made",
            Self::AccountResidue { .. } => "account.residue",
            Self::AccountFound { .. } => "account.found",
            Self::CredentialIssued { .. } => "credential.issued",
            Self::SessionOpened { .. } => "session.opened",
            Self::SessionMoved { .. } => "session.moved",
            Self::SessionEndAsked { .. } => "session.end_asked",
            Self::SessionClosed { .. } => "session.closed",
            Self::SessionRead { .. } => "session.read",
            Self::KrlPublished { .. } => "krl.published",
            Self::HostEnrolled { .. } => "host.enrolled",
            Self::HostConfirmed { .. } => "host.confirmed",
            Self::CaStaged { .. } => "ca.staged",
            Self::CaActivated { .. } => "ca.activated",
            Self::CaRetired { .. } => "ca.retired",
            Self::EpochProposed { .. } => "epoch.proposed",
            Self::EpochBegun { .. } => "epoch.begun",
            Self::TrustReset { .. } => "trust.reset",
            Self::CaAbandoned { .. } => "ca.abandoned",
        };
        // Said twice, because asking the serialiser costs as much as writing the entry.
        debug_assert_eq!(serde_json::to_value(self).ok().as_ref().and_then(|v| v.get("kind")?.as_str()), Some(kind));
        kind.to_owned()
    }
}
