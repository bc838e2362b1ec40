//! `person:NAME`, `group:NAME`, `kind:WORD`: reading them, and the people they stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::people::World;
use super::read::{At, Problems, Whole, meant};
use crate::domain::names::{GroupName, PersonName};
use crate::domain::person::{PersonKind, Who};
use crate::domain::text::shown;

/// Reads a list of those who are named; names that nobody has are problems.
pub(super) fn who_list(key: &str, texts: Vec<At<'_, &str>>, world: &World, problems: &mut Problems) -> Vec<Who> {
    let mut list = Vec::new();
    for text in texts {
        let Some(who) = who(text, world, problems) else { continue };
        if list.contains(&who) {
            problems.add(text.at, format!("{key} has {} twice", text.value));
        } else {
            list.push(who);
        }
    }
    list
}

fn who(text: At<'_, &str>, world: &World, problems: &mut Problems) -> Option<Who> {
    match text.value.split_once(':') {
        Some(("person", name)) => {
            let name = problems.take(text.at, PersonName::new(name))?;
            if !world.people.contains_key(&name) && !world.admins.contains(&name) && world.whole == Whole::Yes {
                let known = world.people.keys().chain(&world.admins).map(PersonName::as_str);
                problems.add(text.at, format!("there is no person {name}{}", meant(name.as_str(), known)));
            }
            Some(Who::Person(name))
        }
        Some(("group", name)) => {
            let name = problems.take(text.at, GroupName::new(name))?;
            if !world.groups.contains_key(&name) && world.whole == Whole::Yes {
                let guess = meant(name.as_str(), world.groups.keys().map(GroupName::as_str));
                problems.add(text.at, format!("nobody is in a group {name}{guess}"));
            }
            Some(Who::Group(name))
        }
        Some(("kind", word @ ("person" | "machine" | "agent"))) => Some(Who::Kind(word.to_owned())),
        Some(("kind", _)) => {
            problems.add(text.at, "a kind is kind:person, kind:machine or kind:agent");
            None
        }
        _ => {
            problems
                .add(text.at, format!("{} is not of the form person:NAME, group:NAME or kind:WORD", shown(text.value)));
            None
        }
    }
}

/// Resolves `from` lists to people, each distinct list once.
pub(super) struct Members<'w> {
    world: &'w World,
    known: BTreeMap<Vec<Who>, Arc<BTreeSet<PersonName>>>,
}

impl<'w> Members<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        Self { world, known: BTreeMap::new() }
    }

    /// The human beings that a list names. SECURITY: machines and agents are left out here, so that no step can count one.
    pub(super) fn of(&mut self, from: &[Who]) -> Arc<BTreeSet<PersonName>> {
        if let Some(members) = self.known.get(from) {
            return Arc::clone(members);
        }
        let mut members = BTreeSet::new();
        for who in from {
            match who {
                Who::Person(name) => members.extend(self.human(name).then(|| name.clone())),
                Who::Group(group) => {
                    let group = self.world.groups.get(group).into_iter().flatten();
                    members.extend(group.filter(|name| self.human(name)).cloned());
                }
                Who::Kind(kind) if kind == "person" => {
                    let all = self.world.people.keys().chain(&self.world.admins);
                    members.extend(all.filter(|name| self.human(name)).cloned());
                }
                Who::Kind(_) => {}
            }
        }
        let members = Arc::new(members);
        self.known.insert(from.to_vec(), Arc::clone(&members));
        members
    }

    fn human(&self, name: &PersonName) -> bool {
        match self.world.people.get(name) {
            Some(person) => person.kind == PersonKind::Person,
            None => self.world.admins.contains(name),
        }
    }
}
