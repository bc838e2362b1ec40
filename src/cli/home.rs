//! Where the client keeps things, closed to everybody else.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::domain::refusal::Code;

/// The three folders of the client.
#[derive(Debug, Clone)]
pub struct Home {
    /// Contexts and the server's authority.
    pub config: PathBuf,
    /// Remembered checkpoints.
    pub state: PathBuf,
    /// Keys, certificates, sessions.
    pub run: PathBuf,
}

fn var(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

impl Home {
    /// Finds the folders: `JIT_BROKER_HOME`, or those of the XDG base directory specification. Makes nothing.
    ///
    /// # Errors
    /// When there is no home at all.
    pub fn find() -> Result<Self, Failure> {
        if let Some(home) = var("JIT_BROKER_HOME") {
            return Ok(Self { config: home.join("config"), state: home.join("state"), run: home.join("run") });
        }
        let home = var("HOME").ok_or_else(|| Failure::new(Code::LOCAL_IO, "HOME is not set."))?;
        let name = "jit-broker";
        let state = var("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")).join(name);
        Ok(Self {
            config: var("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")).join(name),
            run: var("XDG_RUNTIME_DIR").map_or_else(|| state.join("run"), |r| r.join(name)),
            state,
        })
    }
}

/// Makes a folder of mode 700, or refuses one that others can enter.
///
/// # Errors
/// [`Code::UNSAFE_FILE`].
pub fn private_folder(path: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| Failure::local(path.display(), e))?;
    let meta = fs::metadata(path).map_err(|e| Failure::local(path.display(), e))?;
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if meta.permissions().mode() & 0o077 != 0 || !ours {
        let mut failure = Failure::new(Code::UNSAFE_FILE, format!("{} is open to others.", path.display()));
        failure.0.hint = Some(format!("chmod 700 {}", path.display()));
        return Err(failure);
    }
    Ok(())
}

/// Replaces a private file atomically; its folder is made.
///
/// # Errors
/// When the folder is open to others, or the disk refuses.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    private_folder(path.parent().unwrap_or(Path::new(".")))?;
    Ok(crate::signer::keys::replace(path, bytes, 0o600)?)
}

/// Reads a private file; none when it is not there.
///
/// # Errors
/// [`Code::UNSAFE_FILE`] when others could read or change it.
pub fn read_private(path: &Path) -> Result<Option<String>, Failure> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Failure::local(path.display(), e)),
    };
    if meta.permissions().mode() & 0o077 != 0 {
        let mut failure = Failure::new(Code::UNSAFE_FILE, format!("{} can be read by others.", path.display()));
        failure.0.hint = Some(format!("chmod 600 {}", path.display()));
        return Err(failure);
    }
    fs::read_to_string(path).map(Some).map_err(|e| Failure::local(path.display(), e))
}
