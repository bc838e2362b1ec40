//! What the daemon alone sees to be wrong with the places that it writes in, told to `doctor` by a file: its unit lets it write in few of
//! them, whoever owns them.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::refusal::Refusal;
use crate::record::Store;
use crate::settings::Settings;
use crate::signer::keys::{look, replace};
use crate::wire::{FindingDoc, Health};
use crate::witness::Witnesses;

/// The file below the daemon's state.
pub(super) const TROUBLE: &str = "trouble.json";
/// How often the daemon looks.
const LOOK: Duration = Duration::from_secs(2);
/// What lets a unit write elsewhere.
const UNIT: &str =
    "The folder is the daemon's own, and in ReadWritePaths= of its unit: systemctl edit jit-broker, then restart it";

fn problem(what: &str, detail: String, next: &str) -> FindingDoc {
    let (schema, what, next) = ("jit-broker/finding/v1".to_owned(), what.to_owned(), Some(next.to_owned()));
    FindingDoc { schema, what, health: Health::Problem, detail, next }
}

/// Recordings that cannot be written, at the start: no session would be let through, and the first to hear of it would be who asked for one.
/// It is no reason not to start, because ends must be kept.
pub(super) fn of_recordings(settings: &Settings, store: Option<&Store>) -> Option<FindingDoc> {
    let error = settings.gateway_ssh.as_ref().and(store)?.writable().err()?;
    let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    let detail =
        format!("the daemon cannot write in {}{cause}; no session is let through", settings.recordings.display());
    tracing::error!("{detail}. {UNIT}");
    Some(problem("recordings", detail, UNIT))
}

/// Writes it down whenever it changes, until told to stop.
pub(super) async fn tell(
    path: PathBuf,
    recordings: Option<FindingDoc>,
    witnesses: Witnesses,
    mut stop: watch::Receiver<bool>,
) {
    let mut written = None;
    loop {
        let outside = witnesses.docs().into_iter().filter_map(|doc| {
            let next = if doc.kind == "file" { UNIT } else { "As an auditor: jit-broker audit witnesses" };
            Some(problem("witness", format!("{}: {}", doc.name, doc.trouble?), next))
        });
        let all: Vec<FindingDoc> = recordings.iter().cloned().chain(outside).collect();
        if written.as_ref() != Some(&all)
            && let Ok(text) = serde_json::to_vec(&all)
        {
            if let Err(refusal) = replace(&path, &text, 0o600) {
                tracing::warn!("what is wrong was not written down for doctor: {}", refusal.message);
            }
            written = Some(all);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.changed() => return,
        }
    }
}

/// What the daemon that runs has told; nothing where none does.
///
/// # Errors
/// When it cannot be read.
pub fn told(settings: &Settings) -> Result<Vec<FindingDoc>, Refusal> {
    let path = settings.state_dir.join(TROUBLE);
    if crate::ledger::held_by(&settings.ledger).is_none() || !path.exists() {
        return Ok(Vec::new());
    }
    Ok(serde_json::from_str(&look(&path)?).unwrap_or_default())
}
