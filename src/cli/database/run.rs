//! `psql` and `exec`: programs that are started with a credential.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use clap::Args;

use super::files::service_file;
use super::show::environment;
use super::{Asking, ready};
use crate::cli::Globals;
use crate::cli::failure::Failure;
use crate::domain::names::TargetName;

/// `jit-broker psql`
#[derive(Debug, Args)]
pub struct PsqlArgs {
    /// The target
    target: TargetName,
    #[command(flatten)]
    asking: Asking,
    /// What psql gets
    #[arg(last = true, value_name = "PSQL ARGS")]
    args: Vec<OsString>,
}

/// `jit-broker exec`
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The targets; the first one's settings are the PG* variables, each is a service of its own
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<TargetName>,
    #[command(flatten)]
    asking: Asking,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Becomes a program. A failure before it runs is printed here, and the exit status is 125; 126 and 127 as shells have them.
fn become_(prepared: Result<Command, Failure>, globals: &Globals) -> ExitCode {
    match prepared {
        Ok(mut command) => {
            let name = command.get_program().to_string_lossy().into_owned();
            let error = command.exec();
            eprintln!("{}: {error}", crate::domain::text::shown(&name));
            ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
        }
        Err(failure) => {
            failure.report(globals.json());
            ExitCode::from(125)
        }
    }
}

impl PsqlArgs {
    /// Becomes psql.
    ///
    /// # Errors
    /// None: see [`become_`].
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        Ok(become_(self.prepare(globals).await, globals))
    }

    async fn prepare(&self, globals: &Globals) -> Result<Command, Failure> {
        let (home, access) = ready(&self.asking.wish(&self.target), globals).await?;
        let mut command = Command::new("psql");
        command
            .env("PGSERVICEFILE", service_file(&home))
            .arg(format!("service={}.{}", access.target, access.role))
            .args(&self.args);
        Ok(command)
    }
}

impl ExecArgs {
    /// Becomes the command.
    ///
    /// # Errors
    /// None: see [`become_`].
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        Ok(become_(self.prepare(globals).await, globals))
    }

    async fn prepare(&self, globals: &Globals) -> Result<Command, Failure> {
        let (program, args) = self
            .command
            .split_first()
            .ok_or_else(|| Failure::new(crate::domain::refusal::Code::USAGE, "Say what to run."))?;
        let mut command = Command::new(program);
        command.args(args);
        for (place, target) in self.targets.iter().enumerate() {
            let (home, access) = ready(&self.asking.wish(target), globals).await?;
            if place == 0 {
                command.envs(environment(&home, &access)?);
            }
        }
        Ok(command)
    }
}
