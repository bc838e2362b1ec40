//! The operator's verbs in the small client: they are there, and say where they can be run.

use std::process::ExitCode;

use clap::Args;

use super::Globals;
use super::failure::Failure;
use crate::domain::refusal::Code;

/// Says that this program has no broker in it.
pub fn full_program(verb: &str) -> Failure {
    Failure::new(
        Code::USAGE,
        format!("This is the small client: `jit-broker {verb}` is in the program that brokers run."),
    )
}

/// Whatever was typed.
#[derive(Debug, Args)]
pub struct InitArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

impl InitArgs {
    /// # Errors
    /// Always.
    pub async fn run(&self, _: &Globals) -> Result<ExitCode, Failure> {
        Err(full_program("init"))
    }
}

/// Whatever was typed.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

impl ConfigArgs {
    /// # Errors
    /// Always.
    pub async fn serve(&self) -> Result<ExitCode, Failure> {
        Err(full_program("serve"))
    }

    /// # Errors
    /// Always.
    pub async fn check(&self, _: &Globals) -> Result<ExitCode, Failure> {
        Err(full_program("check"))
    }

    /// # Errors
    /// Always.
    pub async fn reload(&self, _: &Globals) -> Result<ExitCode, Failure> {
        Err(full_program("reload"))
    }

    /// # Errors
    /// Always.
    pub fn signer(&self) -> Result<ExitCode, Failure> {
        Err(full_program("signer"))
    }
}

/// Whatever was typed.
#[derive(Debug, Args)]
pub struct DevArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

impl DevArgs {
    /// # Errors
    /// Always.
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        Err(full_program("dev"))
    }
}
