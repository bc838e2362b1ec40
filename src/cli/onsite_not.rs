//! What needs the broker's own files, in the small client, which cannot read them.

use std::sync::Arc;

use super::failure::Failure;
use super::serve::full_program;
use crate::clock::Clock;
use crate::domain::state::State;
use crate::settings::Settings;

/// # Errors
/// Always.
pub async fn folded(_: &Settings) -> Result<State, Failure> {
    Err(full_program("ca --config"))
}

/// # Errors
/// Always.
pub async fn reset(_: &Settings, _: Arc<dyn Clock>) -> Result<bool, Failure> {
    Err(full_program("trust reset"))
}
