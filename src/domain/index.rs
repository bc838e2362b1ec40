//! Where to look in the state: small ordered indexes, so that a command costs the same beside 100 grants and beside 100,000.
//!
//! True here: an index says nothing that the tables do not say; it is made again from them when a snapshot is read.
//! [`State::apply`] takes what an entry touches out of the indexes, changes it, and puts it in again.

use std::collections::{BTreeMap, BTreeSet};

use super::code::{CODES, match_code};
use super::concerns::Concerns;
use super::digest::Digest;
use super::event::Event;
use super::grant::{Grant, GrantState, SKEW_S};
use super::ids::{GrantId, RequestId};
use super::key::Key;
use super::names::{PersonName, TargetName};
use super::request::{Request, RequestState};
use super::state::State;

/// Something that has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Request(RequestId),
    Grant(GrantId),
}

/// The indexes of a [`State`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    deadlines: BTreeSet<(i64, Thing)>,
    /// Codes of pending requests.
    codes: BTreeMap<String, RequestId>,
    pending_of: BTreeMap<PersonName, BTreeSet<RequestId>>,
    grants_of: BTreeMap<PersonName, BTreeSet<GrantId>>,
    grants_on: BTreeMap<TargetName, BTreeSet<GrantId>>,
    /// Those that a gateway opens, by the keys that their certificates are for.
    grants_by: BTreeMap<Key, BTreeSet<GrantId>>,
    /// Over, and their accounts may still be on their servers.
    removing: BTreeSet<GrantId>,
    /// Ending, and not all serials are on a published list yet.
    unlisted: BTreeSet<GrantId>,
    /// Ending, with the version of the list that names all serials.
    listed_on: BTreeMap<TargetName, BTreeSet<(u64, GrantId)>>,
    /// Of those, the ones whose host has confirmed that list.
    provable: BTreeSet<GrantId>,
    /// Serials on the published list, by the moment from which they need not be there.
    published: BTreeSet<(i64, u64)>,
    /// Revoked serials that are not on it, likewise.
    unpublished: BTreeSet<(i64, u64)>,
}

fn put<K: Ord + Clone, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: V) {
    if let Some(set) = map.get_mut(key) {
        set.insert(value);
    } else {
        map.insert(key.clone(), BTreeSet::from([value]));
    }
}

fn take<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

/// When something happens to an open grant by itself.
fn deadline(grant: &Grant) -> i64 {
    match grant.state {
        GrantState::Ready => grant.claim_by.min(grant.ends_at),
        GrantState::Active => grant.ends_at,
        // A server shows the end of an account; no time does.
        _ if grant.account.is_some() => i64::MAX,
        // The gateway says when the last session is closed.
        _ if grant.terms.gateway => i64::MAX,
        _ => grant.latest_end(),
    }
}

impl Index {
    fn request(&mut self, request: &Request, into: bool) {
        if request.state != RequestState::Pending {
            return;
        }
        let entry = (request.answer_by, Thing::Request(request.id));
        if into {
            self.deadlines.insert(entry);
            self.codes.insert(request.code.clone(), request.id);
            put(&mut self.pending_of, &request.person, request.id);
        } else {
            self.deadlines.remove(&entry);
            self.codes.remove(&request.code);
            take(&mut self.pending_of, &request.person, &request.id);
        }
    }

    fn grant(&mut self, grant: &Grant, confirmed: u64, into: bool) {
        if grant.over() {
            return;
        }
        let (id, target) = (grant.id, &grant.terms.target);
        let entry = (deadline(grant), Thing::Grant(id));
        if into {
            self.deadlines.insert(entry);
            put(&mut self.grants_of, &grant.person, id);
            put(&mut self.grants_on, target, id);
        } else {
            self.deadlines.remove(&entry);
            take(&mut self.grants_of, &grant.person, &id);
            take(&mut self.grants_on, target, &id);
        }
        if grant.removing().is_some() {
            if into {
                self.removing.insert(id)
            } else {
                self.removing.remove(&id)
            };
            return;
        }
        if grant.terms.gateway {
            for key in &grant.keys {
                if into { put(&mut self.grants_by, key, id) } else { take(&mut self.grants_by, key, &id) }
            }
            return;
        }
        match grant.state {
            GrantState::Ending { krl_version: None, .. } if into => drop(self.unlisted.insert(id)),
            GrantState::Ending { krl_version: None, .. } => drop(self.unlisted.remove(&id)),
            GrantState::Ending { krl_version: Some(version), .. } if into => {
                put(&mut self.listed_on, target, (version, id));
                if confirmed >= version {
                    self.provable.insert(id);
                }
            }
            GrantState::Ending { krl_version: Some(version), .. } => {
                take(&mut self.listed_on, target, &(version, id));
                self.provable.remove(&id);
            }
            _ => {}
        }
    }

    fn host(&mut self, target: &TargetName, confirmed: u64) {
        for (version, id) in self.listed_on.get(target).into_iter().flatten() {
            if confirmed >= *version {
                self.provable.insert(*id);
            } else {
                self.provable.remove(id);
            }
        }
    }
}

impl State {
    /// Takes what an event is about out of the indexes, before it changes.
    pub(super) fn unindex(&mut self, about: &Concerns) {
        self.index_as(about, false);
    }

    /// Puts it in again, as it stands now.
    pub(super) fn reindex(&mut self, about: &Concerns, event: &Event) {
        self.index_as(about, true);
        match event {
            Event::HostConfirmed { target, .. } | Event::HostEnrolled { target, .. } => {
                self.index.host(target, self.confirmed_by(target));
            }
            Event::KrlPublished { .. } | Event::KeyRevoked { .. } | Event::EpochBegun { .. } => self.index_lists(),
            Event::GrantEnding { serials, .. } => {
                for serial in serials.iter().filter(|s| !self.krl.serials.contains(s)) {
                    let end = self.revoked.get(serial).map(|valid_before| valid_before + SKEW_S);
                    self.index.unpublished.extend(end.map(|end| (end, *serial)));
                }
            }
            _ => {}
        }
    }

    fn index_as(&mut self, about: &Concerns, into: bool) {
        if let Some(request) = about.request.and_then(|id| self.requests.get(&id)) {
            self.index.request(request, into);
        }
        if let Some(grant) = about.grant.and_then(|id| self.grants.get(&id)) {
            let confirmed = self.hosts.get(&grant.terms.target).map_or(0, |host| host.krl_version);
            self.index.grant(grant, confirmed, into);
        }
    }

    fn index_lists(&mut self) {
        self.index.published.clear();
        self.index.unpublished.clear();
        for (serial, valid_before) in &self.revoked {
            let listed = self.krl.serials.contains(serial);
            let list = if listed { &mut self.index.published } else { &mut self.index.unpublished };
            list.insert((valid_before + SKEW_S, *serial));
        }
    }

    fn confirmed_by(&self, target: &TargetName) -> u64 {
        self.hosts.get(target).map_or(0, |host| host.krl_version)
    }

    /// What must stand beside the state: the texts of its requests, the bundle, and bundles that wait.
    pub fn needed(&self) -> BTreeSet<Digest> {
        let texts = self.requests.values().filter_map(|request| request.words);
        let waiting = self.requests.values().filter(|r| r.key.is_none() && r.state == RequestState::Pending);
        let bundles = waiting.map(|request| request.terms.target_digest);
        texts.chain(bundles).chain([self.bundle.digest]).collect()
    }

    /// Makes every index anew from the tables.
    pub fn index_all(&mut self) {
        self.index = Index::default();
        self.acts = self.acts_at.iter().map(|(_, id)| *id).collect();
        self.open_requests =
            self.requests.values().filter(|r| r.state == RequestState::Pending).map(|r| r.id).collect();
        self.open_grants = self.grants.values().filter(|g| !g.over()).map(|g| g.id).collect();
        for request in self.requests.values() {
            self.index.request(request, true);
        }
        for grant in self.grants.values() {
            let confirmed = self.hosts.get(&grant.terms.target).map_or(0, |host| host.krl_version);
            self.index.grant(grant, confirmed, true);
        }
        self.index_lists();
    }

    /// True when every index says what the tables say.
    pub fn indexes_hold(&self) -> bool {
        let mut again = self.clone();
        again.index_all();
        again.index == self.index
            && again.open_requests == self.open_requests
            && again.open_grants == self.open_grants
            && again.acts == self.acts
    }

    /// Notes in every grant whose serials the list that was just published names that it does.
    pub(super) fn list_endings(&mut self, version: u64, at: i64) {
        for id in std::mem::take(&mut self.index.unlisted) {
            let Some(grant) = self.grants.get(&id) else { continue };
            let GrantState::Ending { at: ended_at, .. } = grant.state else { continue };
            let mut needed = grant.credentials.iter().filter(|c| ended_at < c.valid_before + SKEW_S);
            if !needed.all(|c| self.krl.serials.contains(&c.serial) || at >= c.valid_before + SKEW_S) {
                self.index.unlisted.insert(id);
                continue;
            }
            let confirmed = self.confirmed_by(&grant.terms.target);
            if let Some(grant) = self.grants.get_mut(&id) {
                if let GrantState::Ending { krl_version, .. } = &mut grant.state {
                    *krl_version = Some(version);
                }
                self.index.grant(grant, confirmed, true);
            }
        }
    }

    /// The grants of a person that are not final.
    pub fn open_grants_of(&self, person: &PersonName) -> impl Iterator<Item = &Grant> {
        self.index.grants_of.get(person).into_iter().flatten().filter_map(|id| self.grants.get(id))
    }

    /// The grants on a target that are not final.
    pub fn open_grants_on(&self, target: &TargetName) -> impl Iterator<Item = &Grant> {
        self.index.grants_on.get(target).into_iter().flatten().filter_map(|id| self.grants.get(id))
    }

    /// True when a grant that is not final and that a gateway opens has this key.
    pub fn has_gateway_key(&self, key: &Key) -> bool {
        self.index.grants_by.contains_key(key)
    }

    /// True for a grant that a gateway asked for: it is used inside it alone (decisions.md 29).
    pub fn is_attested(&self, grant: &Grant) -> bool {
        self.requests.get(&grant.request).is_some_and(|request| request.attested)
    }

    /// The grants that are over and whose accounts may still be on their servers.
    pub fn removing(&self) -> impl Iterator<Item = &Grant> {
        self.index.removing.iter().filter_map(|id| self.grants.get(id))
    }

    /// The requests of a person that wait.
    pub fn pending_of(&self, person: &PersonName) -> impl ExactSizeIterator<Item = &RequestId> {
        static NONE: BTreeSet<RequestId> = BTreeSet::new();
        self.index.pending_of.get(person).unwrap_or(&NONE).iter()
    }

    /// The first code that a digest proposes and no waiting request has; beyond 4096 of them a number makes it longer.
    pub fn free_code(&self, digest: &Digest) -> String {
        let full = u32::try_from(self.index.codes.len()).unwrap_or(u32::MAX) / CODES;
        let proposed = (full..=u32::MAX).flat_map(|round| {
            (0..CODES).map(move |n| match round {
                0 => match_code(digest, n),
                _ => format!("{}-{}", match_code(digest, n), round + 1),
            })
        });
        proposed.into_iter().find(|code| !self.index.codes.contains_key(code)).unwrap_or_default()
    }

    /// The requests whose last moment for an answer has come, by id.
    pub(super) fn due_requests(&self, now: i64) -> BTreeSet<RequestId> {
        let due = self.due_things(now);
        due.filter_map(|thing| if let Thing::Request(id) = thing { Some(id) } else { None }).collect()
    }

    /// The open grants of which something is due, or whose end can be proven, by id.
    pub(super) fn due_grants(&self, now: i64) -> BTreeSet<GrantId> {
        let due = self.due_things(now);
        let due = due.filter_map(|thing| if let Thing::Grant(id) = thing { Some(id) } else { None });
        due.chain(self.index.provable.iter().copied()).collect()
    }

    fn due_things(&self, now: i64) -> impl Iterator<Item = Thing> {
        self.index.deadlines.iter().take_while(move |(at, _)| *at <= now).map(|(_, thing)| *thing)
    }

    /// True when a grant that is ending can be shown to have ended: its host confirmed the list that names its serials.
    pub fn has_provable(&self) -> bool {
        !self.index.provable.is_empty()
    }

    /// True when the published revocation list is not the one that `now` asks for.
    pub fn krl_due(&self, now: i64) -> bool {
        self.krl.version == 0
            || self.krl.trust != self.authorities.version
            || self.index.published.first().is_some_and(|(end, _)| *end <= now)
            || self.index.unpublished.last().is_some_and(|(end, _)| now < *end)
    }

    /// The next moment at which something happens by itself.
    pub fn next_deadline(&self) -> Option<i64> {
        let things = self.index.deadlines.first().map(|(at, _)| *at);
        let pruning = self.index.published.first().map(|(end, _)| *end);
        things.into_iter().chain(pruning).min()
    }
}
