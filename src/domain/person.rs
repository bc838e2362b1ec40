//! People, machines and agents: one canonical name for each, whatever keys and identities they have.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::key::Key;
use super::names::{GroupName, PersonName};

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PersonKind {
    /// A human being.
    Person,
    /// A program of its own.
    Machine,
    /// A program that acts for somebody, who never counts as an approver of what it asks.
    Agent {
        /// The person it acts for.
        owner: PersonName,
    },
}

impl PersonKind {
    /// The word of the files and of conditions: `person`, `machine` or `agent`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Machine => "machine",
            Self::Agent { .. } => "agent",
        }
    }
}

/// One person of the adopted bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The canonical name.
    pub name: PersonName,
    /// Human, machine or agent.
    pub kind: PersonKind,
    /// The groups they are in.
    pub groups: BTreeSet<GroupName>,
    /// The keys that sign for them.
    pub keys: Vec<Key>,
}

/// Somebody that a rule or an office names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Who {
    /// `person:NAME`.
    Person(PersonName),
    /// `group:NAME`.
    Group(GroupName),
    /// `kind:person`, `kind:machine` or `kind:agent`.
    Kind(String),
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Person(name) => write!(f, "person:{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Kind(kind) => write!(f, "kind:{kind}"),
        }
    }
}

impl Who {
    /// True when this names the person.
    pub fn names(&self, person: &Person) -> bool {
        match self {
            Self::Person(name) => *name == person.name,
            Self::Group(group) => person.groups.contains(group),
            Self::Kind(kind) => kind == person.kind.word(),
        }
    }
}

/// Those who may do what is not an access: decisions.md 11.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offices {
    /// May disable people, revoke anything, confirm the clock.
    pub operators: Vec<Who>,
    /// May read the whole log.
    pub auditors: Vec<Who>,
}

/// Everybody in the adopted bundle, by name.
pub type People = BTreeMap<PersonName, Person>;
