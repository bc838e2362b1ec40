//! `doctor --config` in the small client, which has no broker to look at.

use std::path::Path;

use super::Findings;
use crate::cli::serve::full_program;

/// Says where it can be done.
pub async fn examine(_: &Path, found: &mut Findings) {
    found.refused("broker", &full_program("doctor --config"), "");
}
