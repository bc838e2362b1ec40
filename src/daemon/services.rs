//! `init --services`: the folders and users of the two units. The signer's user has the keys, the daemon's has the log, and neither reads
//! the other's.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::domain::refusal::{Code, Refusal};
use crate::settings::Settings;
use crate::signer::keys::io_refusal;

/// Where the configuration of services lies.
pub const CONFIG_DIR: &str = "/etc/jit-broker";

/// The lines of jit-broker.toml that differ; the folders are those of systemd/tmpfiles.d.
pub(super) const LINES: [(&str, &str); 4] = [
    ("state_dir", "state_dir  = \"/var/lib/jit-broker\""),
    ("url", "url = \"sqlite:/var/lib/jit-broker/ledger.db\""),
    ("dir", "dir    = \"/var/lib/jit-broker-signer\""),
    ("signer", "signer = \"unix:/run/jit-broker/signer.sock\""),
];

/// The users of the two units: user id and group id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Users {
    daemon: (u32, u32),
    signer: (u32, u32),
}

impl Users {
    /// Looks them up (passwd(5)).
    ///
    /// # Errors
    /// [`Code::BAD_CONFIG`] when they are not there yet, or this is not root.
    pub(super) fn find() -> Result<Self, Refusal> {
        if !rustix::process::geteuid().is_root() {
            return Err(Refusal::new(Code::BAD_CONFIG, "Services are set up by root: files are given to two users.")
                .hint("sudo jit-broker init --services …"));
        }
        let path = Path::new("/etc/passwd");
        let all = fs::read_to_string(path).map_err(|e| io_refusal(path, &e))?;
        let ids = |wanted: &str| {
            let mut fields =
                all.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(wanted))?;
            Some((fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        let missing = |name: &str| {
            Refusal::new(Code::BAD_CONFIG, format!("There is no user {name}."))
                .hint("systemd-sysusers jit-broker.conf && systemd-tmpfiles --create jit-broker.conf")
        };
        let of = |name: &str| ids(name).ok_or_else(|| missing(name));
        Ok(Self { daemon: of("jit-broker")?, signer: of("jit-broker-signer")? })
    }

    /// Gives the files to their users; the configuration, in which no secret is, may be read by both.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn own(self, settings: &Settings, config: &Path) -> Result<(), Refusal> {
        give(&settings.state_dir, self.daemon)?;
        give(&settings.ca_dir, self.signer)?;
        let folder = config.parent().unwrap_or(Path::new(CONFIG_DIR));
        for (path, mode) in [(folder, 0o755), (config, 0o644)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| io_refusal(path, &e))?;
        }
        Ok(())
    }
}

/// A folder and the files in it; folders in it are none of `init`.
fn give(folder: &Path, (user, group): (u32, u32)) -> Result<(), Refusal> {
    let entries = fs::read_dir(folder).map_err(|e| io_refusal(folder, &e))?;
    for path in entries.flatten().map(|entry| entry.path()).chain([folder.to_path_buf()]) {
        chown(&path, Some(user), Some(group)).map_err(|e| io_refusal(&path, &e))?;
    }
    Ok(())
}
