//! What is left on targets, as `status` and `check` show it.

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
