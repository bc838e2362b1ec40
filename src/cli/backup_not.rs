//! `backup` and `restore` in the small client.

use std::process::ExitCode;

use clap::Args;

use super::Globals;
use super::failure::Failure;
use super::serve::full_program;

/// Whatever was typed.
#[derive(Debug, Args)]
pub struct BackupArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

impl BackupArgs {
    /// # Errors
    /// Always.
    pub async fn run(&self, _: &Globals) -> Result<ExitCode, Failure> {
        Err(full_program("backup"))
    }
}

/// Whatever was typed.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

impl RestoreArgs {
    /// # Errors
    /// Always.
    pub async fn run(&self, _: &Globals) -> Result<ExitCode, Failure> {
        Err(full_program("restore"))
    }
}
