//! Where the client keeps things, closed to everybody else.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::failure::Failure;
use crate::domain::names::GroupName;
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

/// The context that the command line named; the folders of a named one lie below those of the unnamed one.
static CONTEXT: OnceLock<String> = OnceLock::new();

/// Chooses the context of this run: a broker of its own, with its own sign-in, checkpoint and credentials.
///
/// # Errors
/// [`Code::BAD_NAME`] for what could not be a folder's name.
pub fn choose(context: &str) -> Result<(), Failure> {
    let name = GroupName::new(context)
        .map_err(|_| Failure::new(Code::BAD_NAME, "A context is a small letter, then at most 31 of a-z 0-9 . _ -."))?;
    CONTEXT.get_or_init(|| name.to_string());
    Ok(())
}

impl Home {
    /// Finds the folders: `JIT_BROKER_HOME`, or those of the XDG base directory specification. Makes nothing.
    ///
    /// # Errors
    /// When there is no home at all.
    pub fn find() -> Result<Self, Failure> {
        let home = Self::unnamed()?;
        Ok(CONTEXT.get().map_or(home.clone(), |name| home.of_context(name)))
    }

    fn of_context(&self, name: &str) -> Self {
        let below = |folder: &Path| folder.join("context").join(name);
        Self { config: below(&self.config), state: below(&self.state), run: below(&self.run) }
    }

    fn unnamed() -> Result<Self, Failure> {
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

/// Waits for other runs of this program that hold the same lock; it goes with the file that is returned.
///
/// # Errors
/// When the file cannot be made.
pub fn lock(path: &Path) -> Result<fs::File, Failure> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|e| Failure::local(path.display(), e))?;
    file.lock().map_err(|e| Failure::local(path.display(), e))?;
    Ok(file)
}

/// Replaces a private file atomically; its folder is made.
///
/// # Errors
/// When the folder is open to others, or the disk refuses.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    private_folder(folder)?;
    // Runs at the same time replace the same file: each through a file of its own.
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}", data_encoding::HEXLOWER.encode(&crate::clock::random16())));
    let temporary = folder.join(name);
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(folder)?.sync_all()
    })();
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        Failure(crate::signer::keys::io_refusal(path, &e))
    })
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
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if meta.permissions().mode() & 0o077 != 0 || !ours {
        let mut failure = Failure::new(Code::UNSAFE_FILE, format!("{} can be read by others.", path.display()));
        failure.0.hint = Some(format!("chmod 600 {}", path.display()));
        return Err(failure);
    }
    fs::read_to_string(path).map(Some).map_err(|e| Failure::local(path.display(), e))
}

#[cfg(test)]
mod tests;
