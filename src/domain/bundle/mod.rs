//! The bundle: `people.toml`, `targets.toml` and `policy.toml` as one adopted text, read strictly and cross-checked.
//!
//! True here: a [`Bundle`] that exists has no unknown key, no dangling name, no empty list that could mean "everybody", no condition that
//! does not load; reading reports every problem with its file and line, not only the first.
//! Never here: files on disk (callers hand in their texts), signatures, the question who may adopt a bundle.
//! Start with [`Bundle::parse`].

mod check;
mod databases;
mod people;
pub mod plan;
mod policy_file;
mod read;
mod rules;
mod targets;
mod who;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::digest::{CanonicalError, Digest, canonical, read_canonical};
use super::key::Key;
use super::names::{GroupName, PersonName};
use super::person::{Offices, People};
use super::policy::Policy;
use super::refusal::{Code, Refusal};
use super::target::{Mode, TargetKind, Targets};

pub use plan::{Access, Lines, Plan, Relaxation, plan, relaxations};
pub use read::Problem;

use read::{Problems, Source};

/// The most bytes that a bundle may have in its canonical form.
pub const MAX_BUNDLE_BYTES: usize = 1 << 20;
/// The name of the target that stands for the bundle itself.
pub const BROKER: &str = "broker/policy";
/// The one role of [`BROKER`]: changing the bundle.
pub const APPLY: &str = "apply";
/// The kinds of target that this build has a gateway for.
pub const GATEWAYS: &[TargetKind] = &[TargetKind::Ssh];

const SCHEMA: &str = "jit-broker/bundle/v1";

/// The text of a bundle, by the name of each file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleText {
    /// `people.toml`, `targets.toml`, `policy.toml`, or folders of such files as `people/NAME.toml`; and the `NAME.crt` that targets name.
    pub files: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    files: BTreeMap<String, String>,
    schema: String,
}

impl BundleText {
    /// The canonical JSON that is signed, sent and kept: `{"files":{…},"schema":"jit-broker/bundle/v1"}`.
    pub fn bytes(&self) -> Vec<u8> {
        let document = Document { files: self.files.clone(), schema: SCHEMA.to_owned() };
        // Texts by names hold nothing that canonical JSON could not write.
        canonical(&document).unwrap_or_default()
    }

    /// Reads what [`BundleText::bytes`] wrote.
    ///
    /// # Errors
    /// [`Code::BAD_BODY`] for more than [`MAX_BUNDLE_BYTES`], another form, another schema.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let refuse = |message: String| Refusal::new(Code::BAD_BODY, message);
        if bytes.len() > MAX_BUNDLE_BYTES {
            return Err(refuse(format!("The bundle has {} bytes; at most {MAX_BUNDLE_BYTES} are taken.", bytes.len())));
        }
        let document: Document = read_canonical(bytes)
            .map_err(|error: CanonicalError| refuse(format!("The bundle cannot be read: {error}.")))?;
        if document.schema != SCHEMA {
            return Err(refuse(format!("The bundle's schema is not {SCHEMA}.")));
        }
        Ok(Self { files: document.files })
    }

    /// The SHA-256 of [`BundleText::bytes`]: what an administrator signs.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes())
    }
}

/// The adopted people, targets and rules.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The digest of the text that this was read from.
    pub digest: Digest,
    /// Everybody, by name.
    pub people: People,
    /// Who holds an office.
    pub offices: Offices,
    /// Every target by name; `broker/policy` is always among them.
    pub targets: Targets,
    /// The rules.
    pub policy: Policy,
    /// Who is in which group; no group is empty.
    pub groups: BTreeMap<GroupName, BTreeSet<PersonName>>,
    keys: BTreeMap<Key, PersonName>,
}

impl Bundle {
    /// Reads and cross-checks a bundle. `admins` are the names of `[trust]`, which need not be in people.toml.
    ///
    /// # Errors
    /// Every problem, in the order of files and lines (after a thousand only their number).
    pub fn parse(text: &BundleText, admins: &[PersonName]) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        let size = text.bytes().len();
        if size > MAX_BUNDLE_BYTES {
            return Err(vec![Problem {
                file: "bundle".to_owned(),
                line: None,
                message: format!("the files have {size} bytes together; at most {MAX_BUNDLE_BYTES} are taken"),
            }]);
        }
        let sources: Vec<Source<'_>> = text.files.iter().map(|(name, text)| Source::new(name, text)).collect();
        let roots = read::roots(&sources, &mut problems);
        let mut world = people::read(&roots, admins, &mut problems);
        world.targets = targets::read(&roots, &mut problems);
        let policy = policy_file::read(&roots, &world, &mut problems);
        match problems.into_list() {
            list if list.is_empty() => Ok(Self {
                digest: text.digest(),
                people: world.people,
                offices: world.offices,
                targets: world.targets,
                policy,
                groups: world.groups,
                keys: world.keys,
            }),
            list => Err(list),
        }
    }

    /// Every key with the person that it belongs to.
    pub fn keys(&self) -> impl Iterator<Item = (&Key, &PersonName)> {
        self.keys.iter()
    }

    /// What is wrong with the targets of a bundle where no gateway is configured (decisions.md 26).
    pub fn unreachable(&self) -> Option<String> {
        let through = self.targets.values().find(|target| target.mode == Mode::Gateway)?;
        Some(format!("{} is reached through the gateway, and jit-broker.toml has no [gateway.ssh].", through.name))
    }

    /// Who the bundle says a key belongs to.
    pub fn owner_of(&self, key: &Key) -> Option<&PersonName> {
        self.keys.get(key)
    }
}

/// The bundle of no files: nobody, nothing, and everything is refused.
impl Default for Bundle {
    fn default() -> Self {
        Self {
            digest: BundleText::default().digest(),
            people: People::new(),
            offices: Offices::default(),
            targets: targets::built_in(),
            policy: Policy::default(),
            groups: BTreeMap::new(),
            keys: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests;
