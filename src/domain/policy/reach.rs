//! Finds the few rules that can concern a person without looking at all of them.

use std::collections::BTreeMap;

use super::{Forbid, Rule};
use crate::domain::names::{GroupName, PersonName};
use crate::domain::person::{Person, Who};

/// For each kind of person, each group and each name the places of the rules that name it.
#[derive(Debug, Clone, Default)]
pub(in crate::domain) struct Reach {
    rules: Index,
    forbids: Index,
}

#[derive(Debug, Clone, Default)]
struct Index {
    everybody: Vec<usize>,
    people: BTreeMap<PersonName, Vec<usize>>,
    groups: BTreeMap<GroupName, Vec<usize>>,
    kinds: BTreeMap<String, Vec<usize>>,
}

impl Reach {
    pub(super) fn of(rules: &[Rule], forbids: &[Forbid]) -> Self {
        let mut reach = Self::default();
        for (place, rule) in rules.iter().enumerate() {
            reach.rules.insert(place, Some(&rule.who));
        }
        for (place, forbid) in forbids.iter().enumerate() {
            reach.forbids.insert(place, forbid.who.as_deref());
        }
        reach
    }

    /// The rules whose `who` names the person, each once.
    pub(in crate::domain) fn rules<'p>(&self, all: &'p [Rule], person: &Person) -> Vec<&'p Rule> {
        self.rules.places(person).into_iter().filter_map(|place| all.get(place)).collect()
    }

    /// The forbids whose `who` names the person, each once.
    pub(in crate::domain) fn forbids<'p>(&self, all: &'p [Forbid], person: &Person) -> Vec<&'p Forbid> {
        self.forbids.places(person).into_iter().filter_map(|place| all.get(place)).collect()
    }
}

impl Index {
    fn insert(&mut self, place: usize, who: Option<&[Who]>) {
        let Some(who) = who else { return self.everybody.push(place) };
        for one in who {
            match one {
                Who::Person(name) => self.people.entry(name.clone()).or_default(),
                Who::Group(name) => self.groups.entry(name.clone()).or_default(),
                Who::Kind(word) => self.kinds.entry(word.clone()).or_default(),
            }
            .push(place);
        }
    }

    fn places(&self, person: &Person) -> Vec<usize> {
        let mut places = self.everybody.clone();
        places.extend(self.people.get(&person.name).into_iter().flatten());
        places.extend(self.kinds.get(person.kind.word()).into_iter().flatten());
        for group in &person.groups {
            places.extend(self.groups.get(group).into_iter().flatten());
        }
        places.sort_unstable();
        places.dedup();
        places
    }
}
