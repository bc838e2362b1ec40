//! `ssh-config`: what makes plain `ssh TARGET`, scp, sftp, rsync and git work.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::Globals;
use super::client::Client;
use super::failure::Failure;
use super::home::{Home, write_private};
use crate::domain::refusal::Code;
use crate::wire::{List, TargetDoc};

/// `jit-broker ssh-config`
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct SshConfigArgs {
    /// Prints it (the default)
    #[arg(long)]
    print: bool,
    /// Writes it, and has ~/.ssh/config include it
    #[arg(long)]
    install: bool,
    /// Takes it out again
    #[arg(long)]
    remove: bool,
}

impl SshConfigArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// When a file cannot be written, or the broker does not answer.
    pub async fn run(&self, _: &Globals) -> Result<ExitCode, Failure> {
        let home = Home::find()?;
        let ours = home.config.join("ssh_config");
        let user = user_config()?;
        if self.remove {
            edit(&user, &ours, Edit::Remove)?;
            let _ = fs::remove_file(&ours);
            return Ok(ExitCode::SUCCESS);
        }
        let mut client = Client::remembered(&home)?;
        let targets: List<TargetDoc> = client.get("/v1/targets").await?;
        let known: String = targets.items.iter().map(|t| format!("{}\n", t.known_hosts)).collect();
        let text = text(&home, &targets.items)?;
        if !self.install {
            print!("{text}");
            return Ok(ExitCode::SUCCESS);
        }
        write_private(&home.config.join("known_hosts"), known.as_bytes())?;
        write_private(&ours, text.as_bytes())?;
        edit(&user, &ours, Edit::Install)?;
        eprintln!("{} targets: plain ssh works for them. Run this again when targets were added.", targets.items.len());
        Ok(ExitCode::SUCCESS)
    }
}

fn user_config() -> Result<PathBuf, Failure> {
    let home = std::env::var_os("HOME").ok_or_else(|| Failure::new(Code::LOCAL_IO, "HOME is not set."))?;
    Ok(PathBuf::from(home).join(".ssh/config"))
}

/// The configuration: what is static first, so that a failing hook ends in "permission denied" and not in a DNS error (facts.md 5).
fn text(home: &Home, targets: &[TargetDoc]) -> Result<String, Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::local("this program", e))?;
    let environment =
        std::env::var("JIT_BROKER_HOME").map(|h| format!("JIT_BROKER_HOME={} ", shell(&h))).unwrap_or_default();
    let mut out = String::from("# Written by jit-broker ssh-config; changes are lost.\n");
    for target in targets {
        let mut logins: Vec<_> = target.roles.iter().filter(|r| r.verdict != "never").flat_map(|r| &r.logins).collect();
        logins.sort();
        logins.dedup();
        let _ = writeln!(out, "Match originalhost {}", target.name);
        let _ = writeln!(out, "  HostName {}\n  Port {}\n  HostKeyAlias {}", target.host, target.port, target.name);
        if let [login] = logins.as_slice() {
            let _ = writeln!(out, "  User {login}");
        }
        let _ = writeln!(
            out,
            "  UserKnownHostsFile \"{}\"\n  StrictHostKeyChecking yes\n  ControlPersist no",
            home.config.join("known_hosts").display()
        );
    }
    if !targets.is_empty() {
        let names: Vec<&str> = targets.iter().map(|t| t.name.as_str()).collect();
        let hook = format!("{environment}{} hook '%n' '%r'", shell(&program.display().to_string()));
        let _ = writeln!(out, "Match originalhost {} exec \"{hook}\"", names.join(","));
        let files = home.run.join("ssh");
        let _ = writeln!(
            out,
            "  IdentityFile \"{0}/%n/key\"\n  CertificateFile \"{0}/%n/%r-cert.pub\"\n  IdentitiesOnly yes",
            files.display()
        );
    }
    out.push_str("Match all\n");
    Ok(out)
}

/// Quotes a word for the shell that ssh runs the hook with, inside the double quotes of ssh_config.
fn shell(word: &str) -> String {
    format!("'{}'", word.replace('%', "%%").replace('\'', "'\\''").replace('"', "\\\""))
}

enum Edit {
    Install,
    Remove,
}

/// Puts the `Include` line first in the user's own file, or takes it out; no other line is touched.
fn edit(user: &Path, ours: &Path, what: Edit) -> Result<(), Failure> {
    let path = fs::canonicalize(user).unwrap_or_else(|_| user.to_owned());
    let old = fs::read_to_string(&path).unwrap_or_default();
    let line = format!("Include \"{}\"", ours.display());
    let rest: Vec<&str> = old.lines().filter(|l| *l != line).collect();
    let mut new = match what {
        Edit::Install => format!("{line}\n"),
        Edit::Remove => String::new(),
    };
    rest.iter().for_each(|l| {
        new.push_str(l);
        new.push('\n');
    });
    if new == old {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| Failure::local(folder.display(), e))?;
    }
    let mode =
        fs::metadata(&path).map(|m| std::os::unix::fs::PermissionsExt::mode(&m.permissions()) & 0o777).unwrap_or(0o600);
    Ok(crate::signer::keys::replace(&path, new.as_bytes(), mode)?)
}
