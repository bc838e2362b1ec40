//! people.toml: who there is, how they sign, which groups they are in, who holds an office.

use std::collections::{BTreeMap, BTreeSet};

use jit_ca::key::PublicKey;

use super::read::{At, Part, Place, Problems, Roots, Table, Whole, meant, once};
use super::who::who_list;
use crate::domain::key::Key;
use crate::domain::names::{GroupName, PersonName};
use crate::domain::person::{Offices, People, Person, PersonKind};
use crate::domain::target::Targets;

/// The most groups that a person may be in; conditions loop over them.
const MAX_GROUPS: usize = 256;
/// The most keys that a person may have.
const MAX_KEYS: usize = 64;

/// Whom and what rules may name.
pub(super) struct World {
    pub(super) people: People,
    pub(super) groups: BTreeMap<GroupName, BTreeSet<PersonName>>,
    pub(super) keys: BTreeMap<Key, PersonName>,
    pub(super) offices: Offices,
    /// Administrators of `[trust]`; those outside people.toml are people without groups.
    pub(super) admins: BTreeSet<PersonName>,
    pub(super) targets: Targets,
    pub(super) whole: Whole,
}

pub(super) fn read<'t>(roots: &'t Roots<'t>, admins: &[PersonName], problems: &mut Problems) -> World {
    let mut world = World {
        people: People::new(),
        groups: BTreeMap::new(),
        keys: BTreeMap::new(),
        offices: Offices::default(),
        admins: admins.iter().cloned().collect(),
        targets: Targets::new(),
        whole: roots.whole,
    };
    let mut owners = Vec::new();
    let mut offices = Vec::new();
    for mut root in roots.of(Part::People) {
        super::policy_file::schema(&mut root, problems);
        for table in root.tables("person", problems) {
            person(table, &mut world, &mut owners, problems);
        }
        offices.extend(root.table("offices", problems));
        root.finish(problems);
    }
    for owner in owners {
        check_owner(&owner, &world, problems);
    }
    let mut said = false;
    for table in offices {
        if std::mem::replace(&mut said, true) {
            problems.add(table.at, "[offices] is there twice");
        }
        read_offices(table, &mut world, problems);
    }
    world
}

fn person<'t>(mut table: Table<'t>, world: &mut World, owners: &mut Vec<At<'t, PersonName>>, problems: &mut Problems) {
    let at = table.at;
    let name = table.needed_text("name", problems);
    let kind = kind(&mut table, problems);
    let groups = groups(&mut table, problems);
    let key_texts = table.texts("keys", problems).unwrap_or_default();
    table.not_yet("oidc", problems);
    table.finish(problems);
    let Some(At { at: name_at, value: text }) = name else { return };
    let Some(name) = problems.take(name_at, PersonName::new(text)) else { return };
    if world.people.contains_key(&name) {
        problems.add(name_at, format!("person {name} is there twice"));
        return;
    }
    let keys = keys(&name, key_texts, at, world, problems);
    if world.admins.contains(&name) && kind.as_ref().is_some_and(|kind| kind.value != PersonKind::Person) {
        problems.add(name_at, format!("{name} is an administrator of [trust], who must be a person"));
    }
    let kind = match kind {
        Some(At { at, value: PersonKind::Agent { owner } }) => {
            owners.push(At { at, value: owner.clone() });
            PersonKind::Agent { owner }
        }
        Some(At { value, .. }) => value,
        None => PersonKind::Person,
    };
    for group in &groups {
        world.groups.entry(group.clone()).or_default().insert(name.clone());
    }
    world.people.insert(name.clone(), Person { name, kind, groups, keys });
}

/// `kind` and, for an agent, `owner`; `None` where something about them is wrong or nothing is said.
fn kind<'t>(table: &mut Table<'t>, problems: &mut Problems) -> Option<At<'t, PersonKind>> {
    let kind = table.text("kind", problems);
    let owner = table.text("owner", problems);
    let (at, word) = kind.map_or((table.at, "person"), |kind| (kind.at, kind.value));
    match (word, owner) {
        ("agent", Some(owner)) => {
            let name = problems.take(owner.at, PersonName::new(owner.value))?;
            return Some(At { at: owner.at, value: PersonKind::Agent { owner: name } });
        }
        ("agent", None) => problems.add(at, "an agent needs its owner: owner = \"NAME\""),
        ("person" | "machine", Some(owner)) => problems.add(owner.at, "only an agent (kind = \"agent\") has an owner"),
        ("person", None) => return Some(At { at, value: PersonKind::Person }),
        ("machine", None) => return Some(At { at, value: PersonKind::Machine }),
        (other, _) => {
            let guess = meant(other, ["person", "machine", "agent"]);
            problems.add(at, format!("kind is person, machine or agent{guess}"));
        }
    }
    None
}

fn groups(table: &mut Table<'_>, problems: &mut Problems) -> BTreeSet<GroupName> {
    let at = table.at;
    let mut groups = BTreeSet::new();
    for text in table.texts("groups", problems).unwrap_or_default() {
        if let Some(name) = problems.take(text.at, GroupName::new(text.value)) {
            once(&mut groups, &name, text.at, "group", problems);
        }
    }
    if groups.len() > MAX_GROUPS {
        problems.add(at, format!("a person is in at most {MAX_GROUPS} groups"));
    }
    groups
}

/// SECURITY: a key is one person's. If two people had the same key, one human could ask as the one and approve as the other.
fn keys(
    name: &PersonName,
    texts: Vec<At<'_, &str>>,
    at: Place<'_>,
    world: &mut World,
    problems: &mut Problems,
) -> Vec<Key> {
    if texts.len() > MAX_KEYS {
        problems.add(at, format!("a person has at most {MAX_KEYS} keys"));
        return Vec::new();
    }
    let mut keys = Vec::new();
    for text in texts {
        let Some(public) = problems.take(text.at, PublicKey::parse(text.value)) else { continue };
        if !public.signs_acts() {
            let message = "this key cannot sign acts: use Ed25519, ECDSA P-256 or P-384, or a security key (sk-…); RSA is for certificates only";
            problems.add(text.at, message);
            continue;
        }
        let key = Key(public);
        match world.keys.get(&key) {
            Some(owner) if owner == name => problems.add(text.at, format!("this key of {name} is there twice")),
            Some(owner) => problems.add(text.at, format!("this key belongs to {owner} already; a key has one person")),
            None => {
                world.keys.insert(key.clone(), name.clone());
                keys.push(key);
            }
        }
    }
    keys
}

fn check_owner(owner: &At<'_, PersonName>, world: &World, problems: &mut Problems) {
    match world.people.get(&owner.value) {
        Some(person) if person.kind != PersonKind::Person => {
            problems.add(owner.at, format!("the owner {} is not a person", owner.value));
        }
        None if !world.admins.contains(&owner.value) && world.whole == Whole::Yes => {
            let guess = meant(owner.value.as_str(), world.people.keys().map(PersonName::as_str));
            problems.add(owner.at, format!("the owner {} is not in people.toml{guess}", owner.value));
        }
        _ => {}
    }
}

fn read_offices(mut table: Table<'_>, world: &mut World, problems: &mut Problems) {
    if let Some(texts) = table.some_texts("operators", problems) {
        world.offices.operators = who_list("operators", texts, world, problems);
    }
    if let Some(texts) = table.some_texts("auditors", problems) {
        world.offices.auditors = who_list("auditors", texts, world, problems);
    }
    table.finish(problems);
}
