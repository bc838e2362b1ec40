//! `check` and `doctor`: what a start would refuse of this machine's files. They are looked at and not made, by whoever may read them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Access, access};
use zeroize::Zeroizing;

use super::{agrees, gateways, open_gate, outside, secrets};
use crate::clock::System;
use crate::domain::refusal::{Code, Refusal};
use crate::settings::{Settings, SignerAt};
use crate::signer::keys::{AS_ROOT, look};
use crate::witness::keep;

/// Everything that a start would refuse, as far as it can be seen beside a daemon that may be running.
pub async fn refusals(settings: &Settings) -> Vec<Refusal> {
    let mut all = Vec::new();
    if settings.signer == SignerAt::Local {
        all.extend(open_gate(settings, Arc::new(System::new())).err());
    }
    all.extend(outside::witnesses(settings).err());
    all.extend(ledger(settings).await.err());
    all.extend(recordings(settings).err());
    let at = |name: &str| settings.state_dir.join(name);
    all.extend(private(&at(secrets::MARKER), secrets::marker_of));
    if settings.gateway_ssh.is_some() {
        all.extend(private(&at(gateways::HOST_KEY), gateways::key_of));
    }
    if !settings.outside.keeps.is_empty() {
        all.extend(private(&at(keep::KEY), keep::key_of));
    }
    all
}

async fn ledger(settings: &Settings) -> Result<(), Refusal> {
    if matches!(settings.ledger.try_exists(), Ok(false)) {
        let message = format!("There is no ledger at {}.", settings.ledger.display());
        return Err(Refusal::new(Code::LEDGER_DOWN, message).hint("Mend [store].url, or put the ledger back there."));
    }
    agrees(settings).await
}

/// Whether the folder of recordings is the daemon's alone, and can be written; one that is missing is made by the daemon.
///
/// # Errors
/// [`Code::BAD_MODE`] where it belongs to somebody else or others may enter it; [`Code::BAD_CONFIG`] where it cannot be used.
pub fn recordings(settings: &Settings) -> Result<(), Refusal> {
    let (path, shown) = (&settings.recordings, settings.recordings.display());
    let cannot = |e: std::io::Error| {
        let refusal = Refusal::new(Code::BAD_CONFIG, format!("{shown} cannot be used: {e}; no session is recorded."));
        if e.kind() == std::io::ErrorKind::PermissionDenied { refusal.hint(AS_ROOT) } else { refusal }
    };
    let found = match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(cannot)?,
    };
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Refusal::new(Code::BAD_MODE, format!("{shown} can be entered by others: it has mode {mode:03o}."))
            .hint(format!("chmod 700 {shown}")));
    }
    let state = fs::metadata(&settings.state_dir).map_err(cannot)?;
    // A daemon that is root writes wherever it likes.
    if state.uid() != 0 && state.uid() != found.uid() {
        let message =
            format!("{shown} belongs to user {}, and the daemon's files to user {}.", found.uid(), state.uid());
        return Err(Refusal::new(Code::BAD_MODE, message).hint(format!(
            "chown -R {}:{} {shown}",
            state.uid(),
            state.gid()
        )));
    }
    access(path, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| cannot(e.into()))
}

/// What is wrong with a private file that the daemon makes where it is missing.
fn private<T>(path: &Path, read: impl FnOnce(&Path, &str) -> Result<T, Refusal>) -> Option<Refusal> {
    if matches!(path.try_exists(), Ok(false)) {
        return None;
    }
    look(path).map(Zeroizing::new).and_then(|text| read(path, &text)).err()
}
