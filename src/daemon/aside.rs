//! What is not yet what it will be: what a backup writes before it is one, and what killed writes of daemon and signer leave.
//!
//! True here: what a backup writes is locked for as long as somebody works with it, so that what a killed backup left behind is known, and removed by the
//! next one; the daemon clears up while it holds the ledger, the signer while it has its socket. Only names of our own form go: the name that
//! it would have had, a dot, 32 digits of hex.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::backup::{STATE, is_key, is_note};
use super::outside::COSIGNED;
use super::trouble::TROUBLE;
use super::{HEAD, RELOADED, cache_of};
use crate::broker::left::LEFT;
use crate::settings::Settings;
use crate::signer::gate;
use crate::signer::keys::{ending, tidy, would_be};
use crate::witness::keep::WITNESSED;

/// Something that is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Aside {
    path: PathBuf,
    held: File,
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
}

impl Aside {
    /// A private folder.
    pub(super) fn folder(within: &Path, stem: &str) -> io::Result<Self> {
        clear(within, stem, Kind::Folder);
        let path = within.join(format!("{stem}{}", ending()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Self::hold(File::open(&path)?, path)
    }

    /// A private file beside the one that it will be.
    pub(super) fn file(to: &Path) -> io::Result<Self> {
        let stem = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        clear(folder_of(to), &stem, Kind::File);
        let path = folder_of(to).join(format!("{stem}{}", ending()));
        Self::hold(OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?, path)
    }

    fn hold(held: File, path: PathBuf) -> io::Result<Self> {
        // Where a file system has no locks, nothing of it is ever cleared away either.
        let _ = flock(&held, FlockOperation::NonBlockingLockExclusive);
        Ok(Self { path, held })
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, to write.
    pub(super) fn open(&self) -> io::Result<File> {
        self.held.try_clone()
    }

    /// Gives the file its name, which nothing has yet, for good.
    pub(super) fn keep(self, to: &Path) -> io::Result<()> {
        self.held.sync_all()?;
        match renameat_with(CWD, &self.path, CWD, to, RenameFlags::NOREPLACE) {
            // File systems of other machines may not know how; there it is looked up first.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                if fs::symlink_metadata(to).is_ok() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                fs::rename(&self.path, to)?;
            }
            other => other?,
        }
        File::open(folder_of(to))?.sync_all()
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path).or_else(|_| fs::remove_dir_all(&self.path));
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes what nobody works with any more.
fn clear(within: &Path, stem: &str, kind: Kind) {
    for entry in fs::read_dir(within).into_iter().flatten().flatten() {
        let wanted = entry.file_type().is_ok_and(|found| match kind {
            Kind::Folder => found.is_dir(),
            Kind::File => found.is_file(),
        });
        let name = entry.file_name().to_string_lossy().into_owned();
        if !wanted || would_be(&name) != Some(stem) {
            continue;
        }
        let path = entry.path();
        let Ok(found) = File::open(&path) else { continue };
        if flock(&found, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let gone = if kind == Kind::File { fs::remove_file(&path) } else { fs::remove_dir_all(&path) };
            gone.unwrap_or_else(|e| tracing::warn!("{} is left of an earlier backup: {e}", path.display()));
        }
    }
}

/// Removes what a killed daemon left half-written; for whoever holds the ledger.
pub(super) fn clear_state(settings: &Settings) {
    let state = &settings.state_dir;
    tidy(state, |name| STATE.contains(&name) || name == LEFT || name == TROUBLE || name.ends_with(RELOADED));
    tidy(&state.join(WITNESSED), is_note);
    tidy(&state.join(COSIGNED), |_| true);
    cache_of(settings).tidy();
}

/// Removes what a killed signer left half-written; for the one signer of a configuration.
pub fn clear_keys(settings: &Settings) {
    tidy(&settings.ca_dir, |name| name == HEAD || is_key(name));
    gate::cache_of(&settings.ca_dir.join(HEAD)).tidy();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_being_worked_with_stays_and_what_was_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("b");
        let (folder, file) = (Aside::folder(dir.path(), "w").unwrap(), Aside::file(&to).unwrap());
        let left = dir.path().join(format!("w{}", ending()));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("ledger.db"), "x").unwrap();
        let torn = dir.path().join(format!("b{}", ending()));
        fs::write(&torn, "x").unwrap();
        let others = ["w.0", "b.2026", "bb.0123456789abcdef0123456789abcdef", "b.0123456789abcdef0123456789abcdeg"];
        others.iter().for_each(|name| fs::write(dir.path().join(name), "x").unwrap());
        let (second, again) = (Aside::folder(dir.path(), "w").unwrap(), Aside::file(&to).unwrap());
        assert!(!left.exists() && !torn.exists());
        assert!(folder.path().exists() && file.path().exists() && second.path().exists());
        assert!(others.iter().all(|name| dir.path().join(name).exists()));
        // The first that is ready has the name.
        again.keep(&to).unwrap();
        assert_eq!(file.keep(&to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop((folder, second));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1 + others.len(), "nothing else is left");
    }
}
