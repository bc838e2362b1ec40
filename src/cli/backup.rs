//! `backup` and `restore`: on the broker's own machine, for whoever may read its files.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use zeroize::Zeroizing;

use super::epoch::settings;
use super::failure::Failure;
use super::home::read_private;
use super::{Globals, output, prompt};
use crate::clock::System;
use crate::domain::refusal::Code;

/// `jit-broker backup`
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The new file
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The broker's configuration
    #[arg(long, default_value = "/etc/jit-broker/jit-broker.toml")]
    config: PathBuf,
    /// A private file with the passphrase; default: asked for
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// `jit-broker restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(required_unless_present = "in_place", requires = "dir")]
    file: Option<PathBuf>,
    /// The new folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A private file with the passphrase; default: asked for
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Goes on with the log that is there, though the signer has signed more or has lost its head; with daemon and signer stopped
    #[arg(long, conflicts_with_all = ["file", "dir"], requires = "config")]
    in_place: bool,
    /// With --in-place: the broker's configuration
    #[arg(long)]
    config: Option<PathBuf>,
}

fn from_file(path: &std::path::Path) -> Result<Zeroizing<String>, Failure> {
    let text = read_private(path)?.map(Zeroizing::new);
    let text = text.ok_or_else(|| Failure::local(path.display(), "it is not there"))?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

impl BackupArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Code::NOT_EMPTY`], or what the disk says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let settings = settings(&self.config)?;
        let passphrase = match &self.passphrase_file {
            Some(path) => from_file(path)?,
            None => {
                let first = prompt::secret("Passphrase for the backup: ", "--passphrase-file")?;
                if first != prompt::secret("Again: ", "--passphrase-file")? {
                    return Err(Failure::new(Code::USAGE, "The two are not the same."));
                }
                first
            }
        };
        let clock = System::new();
        let made = crate::daemon::backup::backup(&settings, &self.config, &self.to, &passphrase, &clock).await?;
        let fields = serde_json::json!({ "file": self.to, "entries": made.entries, "bytes": made.bytes });
        let said = format!("{}: {} entries, {} bytes", self.to.display(), made.entries, made.bytes);
        output::answer(globals.output, "backup", fields, &self.to.display().to_string(), &[said])?;
        eprintln!("Not in it: recordings ({}), and the files that [secrets] names.", settings.recordings.display());
        eprintln!(
            "Without the passphrase nobody opens it. Keep both, apart: jit-broker restore {} --dir DIR",
            self.to.display()
        );
        Ok(ExitCode::SUCCESS)
    }
}

impl RestoreArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Code::NOT_EMPTY`], [`Code::BAD_BACKUP`], or what the disk says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let next =
            "It is in recovery: it signs nothing until administrators have said what is known of the time since.";
        let (Some(file), Some(dir)) = (&self.file, &self.dir) else {
            let config = self.config.clone().unwrap_or_default();
            let size = crate::daemon::restore::in_place(&settings(&config)?).await?;
            let said = format!("The signer goes on after {size} entries. {next}");
            output::done(globals.output, "restore.in-place", &said)?;
            eprintln!("Next: start signer and daemon, then, as an administrator: jit-broker audit begin-epoch");
            return Ok(ExitCode::SUCCESS);
        };
        let passphrase = match &self.passphrase_file {
            Some(path) => from_file(path)?,
            None => prompt::secret("Passphrase of the backup: ", "--passphrase-file")?,
        };
        let made = crate::daemon::restore::restore(file, dir, &passphrase).await?;
        let (config, at) = (made.config.display().to_string(), output::instant(made.at));
        let fields = serde_json::json!({ "config": config, "made_at": at, "entries": made.entries });
        let said = format!("{config}: {} entries, as of {at}", made.entries);
        output::answer(globals.output, "restore", fields, &config, &[said])?;
        eprintln!("{next}\nNext:");
        eprintln!("  make sure that the broker it was made of does not run any more");
        eprintln!(
            "  jit-broker serve --config {config}      # jit-broker.toml.before has the paths of the old machine"
        );
        eprintln!("  jit-broker audit begin-epoch            # as an administrator; two of them where there are two");
        Ok(ExitCode::SUCCESS)
    }
}
