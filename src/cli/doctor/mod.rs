//! `doctor`: what is wrong, and the command that mends it.
//!
//! True here: nothing is changed, each look stands by itself, and one that fails is a finding and no end. Start with [`DoctorArgs::run`];
//! [`person`] looks at a person's machine, [`broker`] at the broker's, [`host`] at an enrolled host.

#[cfg(feature = "server")]
mod broker;
#[cfg(not(feature = "server"))]
#[path = "broker_not.rs"]
mod broker;
#[cfg(feature = "server")]
mod bundle;
mod host;
mod person;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::Args;

use super::failure::Failure;
use super::{Globals, output};
use crate::wire::{FindingDoc, Health};

/// `jit-broker doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// On the broker: its configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// On an enrolled host: where the broker's files are
    #[arg(long, value_name = "DIR", default_value = "/etc/ssh/jit-broker")]
    host_dir: PathBuf,
    /// The person's own configuration of ssh; default: ~/.ssh/config
    #[arg(long, value_name = "FILE")]
    ssh_config: Option<PathBuf>,
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) all: Vec<FindingDoc>,
}

impl Findings {
    fn put(&mut self, what: &str, health: Health, detail: impl Into<String>, next: Option<String>) {
        let (schema, what, detail) = ("jit-broker/finding/v1".to_owned(), what.to_owned(), detail.into());
        self.all.push(FindingDoc { schema, what, health, detail, next });
    }

    pub(super) fn ok(&mut self, what: &str, detail: impl Into<String>) {
        self.put(what, Health::Ok, detail, None);
    }

    pub(super) fn note(&mut self, what: &str, detail: impl Into<String>, next: &str) {
        self.put(what, Health::Note, detail, Some(next.to_owned()).filter(|next| !next.is_empty()));
    }

    pub(super) fn problem(&mut self, what: &str, detail: impl Into<String>, next: impl Into<String>) {
        self.put(what, Health::Problem, detail, Some(next.into()).filter(|next: &String| !next.is_empty()));
    }

    /// A refusal as a finding, with its own hint where there is no better one.
    fn refused(&mut self, what: &str, failure: &Failure, next: &str) {
        let hint = failure.0.hint.clone().unwrap_or_default();
        let next = if next.is_empty() { hint } else { next.to_owned() };
        self.problem(what, format!("{} ({})", failure.0.message, failure.0.code), next);
    }
}

impl DoctorArgs {
    /// Looks, and says what it saw; exit status 1 with problems.
    ///
    /// # Errors
    /// When the answer cannot be written.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let mut found = Findings::default();
        match &self.config {
            Some(config) => broker::examine(config, &mut found).await,
            None => {
                let host = self.host_dir.exists();
                if host {
                    host::examine(&self.host_dir, &mut found).await;
                }
                // A host needs no person on it.
                if !host || person::is_somebodys() {
                    person::examine(self.ssh_config.as_deref(), &mut found).await;
                }
            }
        }
        report(&found.all, globals)?;
        Ok(status(&found))
    }
}

/// 1 where something is wrong.
pub(super) fn status(found: &Findings) -> ExitCode {
    let wrong = found.all.iter().any(|finding| finding.health == Health::Problem);
    if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Prints what was found.
pub(super) fn report(all: &[FindingDoc], globals: &Globals) -> Result<(), Failure> {
    use output::Format;
    if matches!(globals.output, Format::Json | Format::Jsonl | Format::Name) {
        return output::list(globals.output, "finding", all, &[], |finding| vec![finding.what.clone()]);
    }
    for finding in all {
        let mark = match finding.health {
            Health::Ok => "ok  ",
            Health::Note => "note",
            Health::Problem => "BAD ",
        };
        let shown = crate::domain::text::shown;
        println!("{mark}  {:<16} {}", finding.what, shown(&finding.detail));
        finding.next.iter().for_each(|next| println!("      {:<16} next: {}", "", shown(next)));
    }
    let wrong = all.iter().filter(|finding| finding.health == Health::Problem).count();
    eprintln!(
        "{}",
        if wrong == 0 { "Nothing is wrong.".to_owned() } else { format!("{}.", output::count(wrong, "problem")) }
    );
    Ok(())
}

/// What a program prints, where it could be run and succeeded. Its stderr is not shown.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The kernel's word on this machine's clock, by timedatectl.
fn clock(found: &mut Findings) {
    let asked = said("timedatectl", &["show", "--property=NTPSynchronized", "--value"]);
    match asked.as_deref().map(str::trim) {
        Some("yes") => found.ok("clock", "it is synchronised"),
        Some(_) => found.problem("clock", "it is not synchronised with any source", "timedatectl set-ntp true"),
        None => found.note("clock", "nobody here can tell whether it is synchronised: timedatectl says nothing", ""),
    }
}
