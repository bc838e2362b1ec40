//! What `audit verify` still asks of a command that cannot be decided again, because a text that it depended on was shredded.
//!
//! True here: the command's signature was checked; what the log says of it is about the same request, person, key and terms, or gives nobody
//! anything. What never happens here: an entry passes because a text of something else is gone. Start at [`Doubt::of`].

use std::collections::BTreeSet;

use crate::domain::act::{Deed, Terms};
use crate::domain::decide::{Now, carried};
use crate::domain::digest::Digest;
use crate::domain::event::{Command, Entry, Event};
use crate::domain::ids::{ActId, GrantId, RequestId};
use crate::domain::key::Key;
use crate::domain::names::PersonName;
use crate::domain::request::Request;
use crate::domain::shelf::Shelf;
use crate::domain::state::State;

/// A command whose outcome the rules alone no longer tell.
#[derive(Default)]
pub struct Doubt {
    /// The request that it is about; that of its grant.
    request: Option<RequestId>,
    /// Whose act it is, which, and what it says.
    by: Option<PersonName>,
    act: Option<ActId>,
    deed: Option<Deed>,
    /// The grant that is used.
    used: Option<GrantId>,
    /// It may adopt a bundle, under which other requests need nobody any more.
    adopts: bool,
}

impl Doubt {
    /// The doubt about a command, if a text is gone that its decision reads.
    pub fn of(state: &State, gone: &BTreeSet<Digest>, command: &Command) -> Option<Self> {
        if gone.is_empty() {
            return None;
        }
        let lost = |id: &RequestId| {
            let words = state.requests.get(id).and_then(|request| request.words);
            words.is_some_and(|words| gone.contains(&words))
        };
        let of_grant = |grant: &GrantId| state.grants.get(grant).map(|grant| grant.request);
        if let Command::Issue { grant, .. } | Command::OpenSession { grant, .. } = command {
            let request = of_grant(grant).filter(lost)?;
            return Some(Self { request: Some(request), used: Some(*grant), ..Self::default() });
        }
        let (signed, _) = command.act()?;
        let act = signed.read().ok()?;
        let request = match &act.deed {
            Deed::Approve { request, .. } | Deed::Deny { request, .. } => *request,
            Deed::BindKey { grant, .. } => of_grant(grant)?,
            _ => RequestId::of_digest(&signed.digest()),
        };
        let adopts = match &act.deed {
            Deed::Apply { .. } => true,
            Deed::Approve { .. } => state.requests.get(&request).is_some_and(|request| request.key.is_none()),
            _ => false,
        };
        let own = act.words.is_some_and(|words| gone.contains(&words));
        // A bundle is judged with every request that waits; and who may end a grant, with the rules under which it was asked for.
        let others = match &act.deed {
            _ if adopts => state.open_requests.iter().any(lost),
            Deed::Revoke { .. } | Deed::EndSession { .. } => {
                state.open_grants.iter().filter_map(of_grant).any(|id| lost(&id))
            }
            _ => false,
        };
        let by = act.deed.by().cloned();
        (own || others || lost(&request)).then(|| Self {
            request: Some(request),
            by,
            act: Some(signed.id()),
            deed: Some(act.deed),
            used: None,
            adopts,
        })
    }

    /// True for an event that the command may have had, whatever the text was.
    pub fn allows(&self, state: &State, entry: &Entry, shelf: &Shelf) -> bool {
        let ours = |id: &RequestId| self.request == Some(*id);
        let request = self.request.and_then(|id| state.requests.get(&id));
        match &entry.event {
            // These give nobody anything.
            Event::RequestRefused { .. }
            | Event::RequestCovered { .. }
            | Event::RequestDenied { .. }
            | Event::RequestInvalidated { .. }
            | Event::GrantCancelled { .. }
            | Event::GrantEnding { .. }
            | Event::GrantEnded { .. }
            | Event::PersonDisabled { .. }
            | Event::KeyRevoked { .. }
            | Event::SessionEndAsked { .. } => true,
            Event::ActRefused { act, .. } => self.act == Some(*act),
            Event::RequestSubmitted { request, person, key, terms, deed, .. } => {
                ours(request) && self.asked(state, (person, key.as_ref()), terms, deed.as_deref())
            }
            Event::StepApproved { request, act, by, terms, .. } => {
                ours(request)
                    && (self.act, self.by.as_ref()) == (Some(*act), Some(by))
                    && matches!(&self.deed, Some(Deed::Approve { terms: said, .. }) if said == terms)
            }
            Event::RequestApproved { request, .. } => ours(request) || self.adopts,
            Event::GrantOpened { request, person, key, terms, .. } => {
                let asked = state.requests.get(request);
                (ours(request) || self.adopts) && asked.is_some_and(|asked| gives(asked, (person, key), terms))
            }
            Event::KeyBound { grant, key, .. } => {
                matches!(&self.deed, Some(Deed::BindKey { grant: of, key: bound, .. }) if (of, bound) == (grant, key))
            }
            Event::CredentialIssued { grant, key, .. } | Event::AccountPlanned { grant, key, .. } => {
                self.used == Some(*grant) && state.grants.get(grant).is_some_and(|grant| grant.keys.contains(key))
            }
            Event::SessionOpened { session } => self.used == Some(session.grant),
            Event::SessionMoved { from, to, .. } => {
                let holder = |id| state.grants.get(id).map(|grant| &grant.person);
                holder(from).is_some() && holder(from) == holder(to)
            }
            Event::BundleAdopted { bundle, .. } => match &self.deed {
                Some(Deed::Apply { bundle: said, .. }) => said == bundle,
                _ => request.is_some_and(|request| {
                    request.key.is_none() && request.deed.is_none() && request.terms.target_digest == *bundle
                }),
            },
            event => self.carried(state, request, Now { at: entry.at, beside: shelf }).contains(event),
        }
    }

    /// True where that is what the act asked for.
    fn asked(&self, state: &State, whose: (&PersonName, Option<&Key>), terms: &Terms, waits: Option<&Deed>) -> bool {
        let same = match &self.deed {
            Some(Deed::Request { target, role, key, .. } | Deed::Extend { target, role, key, .. }) => {
                let found = state.bundle.targets.get(target);
                (target, role, Some(key), None) == (&terms.target, &terms.role, whose.1, waits)
                    && found.is_some_and(|found| found.digest() == terms.target_digest)
                    && found.and_then(|found| found.roles.get(role)).is_some_and(|role| role.is_in(terms))
            }
            Some(Deed::Apply { bundle, .. }) => (whose.1, waits, bundle) == (None, None, &terms.target_digest),
            said => (whose.1, waits) == (None, said.as_ref()),
        };
        same && self.by.as_ref() == Some(whose.0)
    }

    /// What a deed that gives power does once nobody is left to be asked.
    fn carried(&self, state: &State, request: Option<&Request>, now: Now<'_>) -> Vec<Event> {
        let waited = request
            .and_then(|request| Some((&request.person, ActId::of_digest(&request.digest), request.deed.as_deref()?)));
        let said = || Some((self.by.as_ref()?, self.act?, self.deed.as_ref()?));
        let done = waited.or_else(said).map(|(by, act, deed)| carried(state, by, act, deed, now));
        done.and_then(Result::ok).unwrap_or_default()
    }
}

/// True where that is in a request, or less.
fn gives(request: &Request, whose: (&PersonName, &Key), terms: &Terms) -> bool {
    let standing = request.standing_terms();
    let (target, digest) = (&standing.target, &standing.target_digest);
    (&request.person, request.key.as_ref()) == (whose.0, Some(whose.1))
        && (target, digest) == (&terms.target, &terms.target_digest)
        && (&standing.role, &standing.logins) == (&terms.role, &terms.logins)
        && (&standing.allow, &standing.database) == (&terms.allow, &terms.database)
        && terms.for_s <= standing.for_s
}
