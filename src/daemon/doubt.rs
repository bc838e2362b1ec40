//! What `audit verify` still asks of a command that cannot be decided again, because a text that it depended on was shredded.
//!
//! True here: the command's signature was checked; what the log says of it is about the same request, person, key and terms, or gives nobody
//! anything. What never happens here: an entry passes because a text of something else is gone. Start at [`Doubt::of`].

use std::collections::BTreeSet;

use crate::domain::act::{Deed, Terms};
use crate::domain::decide::{Now, carried, judged_again};
use crate::domain::digest::Digest;
use crate::domain::event::{Command, Entry, Event};
use crate::domain::ids::{ActId, GrantId, RequestId};
use crate::domain::key::Key;
use crate::domain::names::{LoginName, PersonName};
use crate::domain::request::{Request, RequestState};
use crate::domain::session::Session;
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
    /// The session that is opened: by which key, and into which account.
    enters: Option<(Key, LoginName)>,
    /// Deadlines are looked at: a session goes on under another grant, or is cut, by rules that read a text.
    due: bool,
    /// The requests whose text is gone.
    lost: BTreeSet<RequestId>,
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
        let open = || state.open_grants.iter().filter_map(of_grant);
        match command {
            Command::Issue { grant, .. } | Command::OpenSession { grant, .. } => {
                let request = of_grant(grant).filter(lost)?;
                let enters = match command {
                    Command::OpenSession { login, by_key, .. } => Some((by_key.clone(), login.clone())),
                    _ => None,
                };
                return Some(Self { request: Some(request), used: Some(*grant), enters, ..Self::default() });
            }
            Command::Due | Command::Clock { .. } => {
                let lost: BTreeSet<RequestId> = open().filter(lost).collect();
                return (!lost.is_empty()).then(|| Self { due: true, lost, ..Self::default() });
            }
            _ => {}
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
            Deed::Revoke { .. } | Deed::EndSession { .. } => open().any(|id| lost(&id)),
            _ => false,
        };
        let by = act.deed.by().cloned();
        (own || others || lost(&request)).then(|| Self {
            request: Some(request),
            by,
            act: Some(signed.id()),
            deed: Some(act.deed),
            adopts,
            lost: state.open_requests.iter().filter(|id| lost(id)).copied().collect(),
            ..Self::default()
        })
    }

    /// True for an event that the command may have had, whatever the text was.
    pub fn allows(&self, state: &State, entry: &Entry, shelf: &Shelf) -> bool {
        let ours = |id: &RequestId| self.request == Some(*id);
        let request = self.request.and_then(|id| state.requests.get(&id));
        let now = Now { at: entry.at, beside: shelf };
        let granted = |id: &RequestId| {
            state.requests.get(id).is_some_and(|asked| {
                ours(id) && self.consented(asked)
                    || self.adopts
                        && (self.lost.contains(id)
                            || judged_again(state, asked, now).is_ok_and(|events| events.contains(&entry.event)))
            })
        };
        match &entry.event {
            Event::ActRefused { act, .. } => self.act == Some(*act),
            Event::RequestRefused { request, .. }
            | Event::RequestCovered { request, .. }
            | Event::RequestDenied { request, .. } => ours(request),
            Event::RequestInvalidated { request, .. } => ours(request) || self.adopts,
            Event::RequestExpired { .. } | Event::GrantLapsed { .. } => self.due,
            Event::GrantCancelled { grant, .. } => self.used == Some(*grant),
            Event::GrantEnding { grant, .. } => self.due || self.ends(state, grant),
            // Of a direct grant without an account, and of one whose last session was closed, the end is proven at once.
            Event::GrantEnded { grant, .. } => {
                let nothing_left =
                    state.grants.get(grant).is_some_and(|g| g.account.is_none() && g.sessions.is_empty());
                nothing_left && (self.due || self.ends(state, grant))
            }
            Event::PersonDisabled { person, .. } => {
                matches!(&self.deed, Some(Deed::Disable { person: said, .. }) if said == person)
            }
            Event::KeyRevoked { key, .. } => {
                matches!(&self.deed, Some(Deed::RevokeKey { key: said, .. }) if said == key)
            }
            Event::SessionEndAsked { session, .. } => {
                matches!(&self.deed, Some(Deed::EndSession { session: said, .. }) if said == session)
            }
            Event::RequestSubmitted { request, person, key, terms, deed, .. } => {
                ours(request) && self.asked(state, (person, key.as_ref()), terms, deed.as_deref())
            }
            Event::StepApproved { request: id, act, by, terms, .. } => {
                ours(id)
                    && (self.act, self.by.as_ref()) == (Some(*act), Some(by))
                    && matches!(&self.deed, Some(Deed::Approve { terms: said, .. }) if said == terms)
                    && request.is_some_and(|asked| self.may_consent(asked))
            }
            Event::RequestApproved { request, .. } => granted(request),
            Event::GrantOpened { grant, request, person, key, terms, starts_at, ends_at, claim_by, .. } => {
                let id = GrantId::of_digest(&Digest::of(format!("grant {request}").as_bytes()));
                let lasts = ends_at.saturating_sub(*starts_at);
                let window = *starts_at == entry.at && *claim_by <= *ends_at && i64::try_from(terms.for_s) == Ok(lasts);
                let asked = state.requests.get(request);
                window
                    && *grant == id
                    && state.grants.get(grant).is_none()
                    && granted(request)
                    && asked.is_some_and(|asked| gives(asked, (person, key), terms))
            }
            Event::KeyBound { grant, key, .. } => {
                matches!(&self.deed, Some(Deed::BindKey { grant: of, key: bound, .. }) if (of, bound) == (grant, key))
                    && state.grants.get(grant).map(|grant| &grant.person) == self.by.as_ref()
            }
            Event::CredentialIssued { grant, key, .. } | Event::AccountPlanned { grant, key, .. } => {
                self.used == Some(*grant) && state.grants.get(grant).is_some_and(|grant| grant.keys.contains(key))
            }
            Event::SessionOpened { session } => {
                let into = Some((session.by_key.clone(), session.login.clone()));
                self.used == Some(session.grant) && self.enters == into && under(state, session, session.grant)
            }
            Event::SessionMoved { session, from, to, leg } => {
                let moved = state.sessions.get(session).filter(|held| self.due && held.grant == *from);
                let goes_on = state.grants.get(to).is_some_and(|grant| self.lost.contains(&grant.request));
                goes_on && moved.is_some_and(|held| under(state, &Session { leg: *leg.clone(), ..held.clone() }, *to))
            }
            Event::BundleAdopted { bundle, .. } => match &self.deed {
                Some(Deed::Apply { bundle: said, .. }) => said == bundle,
                _ => request.is_some_and(|asked| {
                    let adopts = asked.key.is_none() && asked.deed.is_none() && asked.terms.target_digest == *bundle;
                    adopts && self.consented(asked)
                }),
            },
            event => self.carried(state, request, now).contains(event),
        }
    }

    /// True where the act ends that grant.
    fn ends(&self, state: &State, grant: &GrantId) -> bool {
        let Some(grant) = state.grants.get(grant) else { return false };
        match &self.deed {
            Some(Deed::Release { grant: of, .. }) => *of == grant.id && self.by.as_ref() == Some(&grant.person),
            Some(Deed::Revoke { .. } | Deed::Disable { .. } | Deed::RevokeKey { .. }) => true,
            _ => false,
        }
    }

    /// True for an approval by somebody else, of this very request, for the first time.
    fn may_consent(&self, asked: &Request) -> bool {
        let Some(Deed::Approve { request_digest, .. }) = &self.deed else { return false };
        asked.state == RequestState::Pending
            && *request_digest == asked.digest
            && self.by.as_ref().is_some_and(|by| *by != asked.person)
            && !asked.approvals.iter().any(|approval| Some(&approval.by) == self.by.as_ref())
    }

    /// True where the act asks for it, or agrees to it: that is no approval of a step where rules ask nobody any more.
    fn consented(&self, asked: &Request) -> bool {
        match &self.deed {
            Some(Deed::Approve { request_digest, .. }) => {
                *request_digest == asked.digest && self.by.as_ref() != Some(&asked.person)
            }
            Some(Deed::Request { .. } | Deed::Extend { .. }) => self.by.as_ref() == Some(&asked.person),
            _ => false,
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
        let said = || {
            Some((
                self.by.as_ref()?,
                self.act?,
                self.deed.as_ref().filter(|deed| !matches!(deed, Deed::Approve { .. }))?,
            ))
        };
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

/// True for a session of the grant's holder, on its target, into one of its accounts, and no longer than it.
fn under(state: &State, session: &Session, grant: GrantId) -> bool {
    state.grants.get(&grant).is_some_and(|grant| {
        (&grant.person, &grant.terms.target) == (&session.person, &session.target)
            && grant.terms.logins.contains(&session.login)
            && session.leg.valid_before <= grant.ends_at
    })
}
