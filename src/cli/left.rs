//! What is left on targets, as `status` and `check` show it.

use std::path::Path;

use super::failure::Failure;
use super::home::read_private;
use crate::broker::left::LEFT;
use crate::domain::text::shown;
use crate::wire::LeftDoc;

/// What is left on targets, a line or more for each.
pub fn show_left(doc: &LeftDoc) -> Vec<String> {
    let mut lines = Vec::new();
    for residue in &doc.residue {
        lines.push(format!("{}  residue  {} on {} of {}", residue.grant, residue.role, residue.target, residue.person));
        lines.extend(residue.left.iter().map(|left| format!("  LEFT {}", shown(left))));
    }
    for stranger in &doc.strangers {
        let word = if stranger.ours { "LEFT" } else { "stranger" };
        let (server, account, what) = (shown(&stranger.server), shown(&stranger.account), shown(&stranger.what));
        lines.push(format!("{word} {account} on {server}: {what}"));
    }
    lines.extend(doc.rotations.iter().flat_map(super::rotate::lines));
    lines
}

/// What the broker of this machine last wrote down; nothing where none ran yet.
///
/// # Errors
/// When the file is open to others or damaged.
pub fn written(state_dir: &Path) -> Result<Option<LeftDoc>, Failure> {
    let path = state_dir.join(LEFT);
    let text = read_private(&path)?;
    let damaged = |e: serde_json::Error| Failure::local(format!("{} is damaged", path.display()), e);
    text.map(|text| serde_json::from_str(&text).map_err(damaged)).transpose()
}
