//! The files of a bundle, as an administrator has them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::failure::Failure;
use crate::domain::bundle::{Bundle, BundleText};
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};

/// The kinds of a bundle's files.
const KINDS: [&str; 3] = ["people", "targets", "policy"];

fn is_toml(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "toml")
}

/// True where the files of a bundle are kept in a folder, in whatever layout.
pub fn has_bundle(dir: &Path) -> bool {
    let any = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| is_toml(&entry.path()));
    KINDS.iter().any(|kind| dir.join(format!("{kind}.toml")).is_file() || any(&dir.join(kind)))
}

/// The files of a bundle in a folder: the three files, or folders of such files.
///
/// # Errors
/// [`Code::BAD_CONFIG`] when none can be read.
pub fn bundle_files(dir: &Path) -> Result<BTreeMap<String, String>, Refusal> {
    let mut files = BTreeMap::new();
    let broken = |path: &Path, e: std::io::Error| Refusal::new(Code::BAD_CONFIG, format!("{}: {e}.", path.display()));
    for kind in KINDS {
        let single = dir.join(format!("{kind}.toml"));
        if single.is_file() {
            files.insert(format!("{kind}.toml"), fs::read_to_string(&single).map_err(|e| broken(&single, e))?);
        }
        let folder = dir.join(kind);
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_toml(&path) {
                files.insert(format!("{kind}/{name}"), fs::read_to_string(&path).map_err(|e| broken(&path, e))?);
            }
        }
    }
    if files.is_empty() {
        return Err(Refusal::new(
            Code::BAD_CONFIG,
            format!("{} has no people.toml, targets.toml or policy.toml.", dir.display()),
        ));
    }
    // Authorities that a target names are inlined, and nothing else that lies beside them.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let named = || files.iter().any(|(file, text)| file.starts_with("targets") && text.contains(&name));
        if name.ends_with(".crt") && named() {
            let path = entry.path();
            files.insert(name, fs::read_to_string(&path).map_err(|e| broken(&path, e))?);
        }
    }
    Ok(files)
}

/// Reads a bundle that the broker took. Its files may name people who are in [trust] and not in people.toml, or were when it was taken; so
/// besides `admins` every `person:NAME` in it is taken to be one.
///
/// # Errors
/// [`Code::BUNDLE_REFUSED`] with every problem: a bundle that cannot be read is not an empty one.
pub fn taken(files: BTreeMap<String, String>, admins: &[PersonName]) -> Result<Bundle, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let named = files.values().flat_map(|text| text.split("person:").skip(1));
    let named = named.filter_map(|rest| PersonName::new(rest.split(|c| !plain(c)).next().unwrap_or_default()).ok());
    let names: BTreeSet<PersonName> = named.chain(admins.iter().cloned()).collect();
    if files.is_empty() {
        return Ok(Bundle::default());
    }
    Bundle::parse(&BundleText { files }, &names.into_iter().collect::<Vec<_>>()).map_err(|all| {
        let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
        Failure::new(Code::BUNDLE_REFUSED, lines.join("\n"))
    })
}
