//! `audit verify` in the small client, which has no ledger to judge with.

use std::process::ExitCode;

use super::Globals;
use super::audit::LogArgs;
use super::failure::Failure;
use super::serve::full_program;

/// Says where it can be done.
///
/// # Errors
/// Always.
pub async fn verify(_: &LogArgs, _: &Globals) -> Result<ExitCode, Failure> {
    Err(full_program("audit verify"))
}
