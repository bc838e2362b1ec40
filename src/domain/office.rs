//! Who somebody is, and what office they hold: the state's view of people and their keys.

use std::collections::BTreeSet;

use super::bundle::Bundle;
use super::key::Key;
use super::names::PersonName;
use super::person::{Person, PersonKind, Who};
use super::state::State;

impl State {
    /// Who a key belongs to, disabled people included, revoked keys not.
    pub fn owner_of(&self, key: &Key) -> Option<PersonName> {
        if self.revoked_keys.contains(key) {
            return None;
        }
        if let Some(name) = self.enrolled.get(key) {
            return Some(name.clone());
        }
        // SECURITY: leaf 0 before the bundle, so that no bundle gives an administrator's key to somebody else.
        let pinned = self.admins.iter().filter(|(_, first)| *first == key).map(|(name, _)| name).next();
        pinned.or_else(|| self.bundle.owner_of(key)).cloned()
    }

    /// The person as rules see them; an administrator outside people.toml has no groups.
    pub fn person(&self, name: &PersonName) -> Option<Person> {
        if let Some(person) = self.bundle.people.get(name) {
            return Some(person.clone());
        }
        self.is_admin(name).then(|| Person {
            name: name.clone(),
            kind: PersonKind::Person,
            groups: BTreeSet::new(),
            keys: Vec::new(),
        })
    }

    /// True for an administrator.
    pub fn is_admin(&self, name: &PersonName) -> bool {
        self.admins.contains_key(name)
    }

    /// True when some administrator can still act under a bundle, once this person is disabled or that key is revoked.
    pub fn has_admin_without(&self, bundle: &Bundle, person: Option<&PersonName>, key: Option<&Key>) -> bool {
        let usable = |candidate: &Key| Some(candidate) != key && !self.revoked_keys.contains(candidate);
        self.admins.keys().any(|name| {
            Some(name) != person
                && !self.disabled.contains(name)
                && self.keys_of(bundle, name).any(|key| usable(key) && key.0.signs_acts())
        })
    }

    /// True while a key with this fingerprint is somebody's: not revoked, and still in people.toml where it is from there.
    pub fn has_key(&self, name: &PersonName, fingerprint: &str) -> bool {
        !self.revoked_fps.contains(fingerprint)
            && self.keys_of(&self.bundle, name).any(|key| key.0.fingerprint() == fingerprint)
    }

    /// The keys of somebody under a bundle, those that were revoked too.
    fn keys_of<'a>(&'a self, bundle: &'a Bundle, name: &'a PersonName) -> impl Iterator<Item = &'a Key> {
        let listed = bundle.people.get(name).into_iter().flat_map(|person| &person.keys);
        let enrolled = self.enrolled.iter().filter(move |(_, owner)| *owner == name).map(|(key, _)| key);
        listed.chain(self.admins.get(name)).chain(enrolled)
    }

    /// True for a holder of the operators' office; administrators hold it too.
    pub fn is_operator(&self, name: &PersonName) -> bool {
        self.is_admin(name) || self.holds(name, &self.bundle.offices.operators)
    }

    /// True for somebody who may read the whole log.
    pub fn is_auditor(&self, name: &PersonName) -> bool {
        self.holds(name, &self.bundle.offices.auditors)
    }

    fn holds(&self, name: &PersonName, office: &[Who]) -> bool {
        self.bundle.people.get(name).is_some_and(|person| office.iter().any(|who| who.names(person)))
    }
}
