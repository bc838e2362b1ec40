//! `ssh-config`: what makes plain `ssh TARGET`, scp, sftp, rsync and git work.
//!
//! One file of ours, and one `Include` line at the top of the person's own; no other line is touched.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::client::Client;
use super::failure::Failure;
use super::home::{Home, write_private};
use super::{Globals, output};
use crate::domain::names::LoginName;
use crate::domain::refusal::Code;
use crate::domain::session::GATEWAY_ALIAS;
use crate::wire::{List, TargetDoc};

/// What decides where the hook finds its folders: written into the file, so that ssh and hook agree wherever ssh is started from.
const FOLDERS: [&str; 4] = ["JIT_BROKER_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"];

/// `jit-broker ssh-config`
#[derive(Debug, Args)]
pub struct SshConfigArgs {
    /// Prints it (the default)
    #[arg(long, group = "what")]
    print: bool,
    /// Writes it, and has ~/.ssh/config include it
    #[arg(long, group = "what")]
    install: bool,
    /// Takes it out again
    #[arg(long, group = "what")]
    remove: bool,
    /// The person's own configuration of ssh; default: ~/.ssh/config
    #[arg(long, value_name = "FILE")]
    ssh_config: Option<PathBuf>,
}

impl SshConfigArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// When a file cannot be written, or the broker does not answer.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let home = Home::find()?;
        let ours = home.config.join("ssh_config");
        let user = || self.ssh_config.clone().map_or_else(user_config, Ok);
        if self.remove {
            edit(&user()?, &ours, Edit::Remove)?;
            for file in [&ours, &home.config.join("known_hosts")] {
                let _ = fs::remove_file(file);
            }
            let said = format!("{} is as it was without jit-broker.", user()?.display());
            output::done(globals.output, "ssh-config.removed", &said)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut client = Client::remembered(&home)?;
        let mut targets: List<TargetDoc> = client.get("/v1/targets").await?;
        targets.items.retain(|t| t.kind == "ssh");
        let program = std::env::current_exe().map_err(|e| Failure::local("this program", e))?;
        let text = text(&home, &targets.items, &program, &folders())?;
        if !self.install {
            let fields = serde_json::json!({ "text": text });
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            output::answer(globals.output, "ssh-config", fields, "ssh_config", &lines)?;
            return Ok(ExitCode::SUCCESS);
        }
        install(&home, &targets.items, &text, &user()?)?;
        let names: Vec<&str> = targets.items.iter().map(|t| t.name.as_str()).collect();
        let said = match names.as_slice() {
            [] => "There is no target for ssh. Run this again when there is one.".to_owned(),
            names => format!("Plain ssh works for {}. Run this again when targets were added.", names.join(", ")),
        };
        output::done(globals.output, "ssh-config.installed", &said)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The person's own configuration of ssh.
///
/// # Errors
/// Without a home.
pub(super) fn user_config() -> Result<PathBuf, Failure> {
    let home = std::env::var_os("HOME").ok_or_else(|| Failure::new(Code::LOCAL_IO, "HOME is not set."))?;
    Ok(PathBuf::from(home).join(".ssh/config"))
}

fn folders() -> Vec<(&'static str, PathBuf)> {
    let set = |name| Some((name, PathBuf::from(std::env::var_os(name).filter(|v| !v.is_empty())?)));
    match set("JIT_BROKER_HOME") {
        Some(one) => vec![one],
        None => FOLDERS.into_iter().filter_map(set).collect(),
    }
}

/// Writes our files, and then the line that includes them.
pub(super) fn install(home: &Home, targets: &[TargetDoc], text: &str, user: &Path) -> Result<(), Failure> {
    let lines: std::collections::BTreeSet<&str> = targets.iter().flat_map(|t| t.known_hosts.lines()).collect();
    let known: String = lines.into_iter().map(|line| format!("{line}\n")).collect();
    let ours = home.config.join("ssh_config");
    write_private(&home.config.join("known_hosts"), known.as_bytes())?;
    write_private(&ours, text.as_bytes())?;
    edit(user, &ours, Edit::Install)
}

/// Refuses a target whose address or host key could say more in ssh's configuration than an address and a host key.
///
/// SECURITY (T147): both come from the server, and a line end in one would be a `ProxyCommand` of its choice.
///
/// # Errors
/// [`Code::BAD_NAME`].
pub fn check(doc: &TargetDoc) -> Result<(), Failure> {
    let address = !doc.host.is_empty()
        && doc.host.len() <= 253
        && !doc.host.starts_with('-')
        && doc.host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'-' | b'_'));
    // Several lines while an authority is being replaced; each is for this host.
    let lines: Vec<&str> = doc.known_hosts.split('\n').collect();
    let line = lines.iter().all(|line| line.bytes().all(|b| (b' '..=b'~').contains(&b)));
    // The alias of the gateway is ours, so that it cannot stand for another host.
    let alias = doc.alias == doc.name.as_str() || doc.mode == "gateway" && doc.alias == GATEWAY_ALIAS;
    let named = |line: &&str| line.trim_start_matches("@cert-authority ").split(' ').next() == Some(&doc.alias);
    let known = alias && lines.iter().all(named);
    if address && line && known && doc.port != 0 {
        return Ok(());
    }
    let message = format!("The broker gives an address or a host key for {} that cannot be one.", doc.name);
    Err(Failure::new(Code::BAD_NAME, message))
}

/// Quotes a path for ssh's configuration.
///
/// Paths with quotes, backslashes, `%`, `$` or wildcards are refused: versions of OpenSSH read these differently, and a shell reads the
/// hook's line once more.
///
/// # Errors
/// [`Code::LOCAL_IO`], naming the path.
pub fn quoted(path: &Path) -> Result<String, Failure> {
    word(path).map(|word| format!("\"{word}\""))
}

fn word(path: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(path).map_err(|e| Failure::local(path.display(), e))?;
    match path.to_str() {
        Some(text) if !text.chars().any(|c| c.is_control() || "\"'\\%$`*?[]{}".contains(c)) => Ok(text.to_owned()),
        _ => Err(Failure::local(
            path.display(),
            "this path cannot be written into ssh's configuration; set JIT_BROKER_HOME",
        )),
    }
}

/// The configuration. What is static stands first: a failing hook then ends in "permission denied" and not in a DNS error, and `%r` is
/// the remote user when the hook is called (facts.md 5).
pub(super) fn text(
    home: &Home,
    targets: &[TargetDoc],
    program: &Path,
    folders: &[(&str, PathBuf)],
) -> Result<String, Failure> {
    let known = quoted(&home.config.join("known_hosts"))?;
    let mut out = String::from("# Written by jit-broker ssh-config; changes are lost.\n");
    for target in targets {
        check(target)?;
        let _ = write!(
            out,
            "\nMatch originalhost {name}\n  HostName {}\n  Port {}\n  HostKeyAlias {alias}\n  UserKnownHostsFile {known}\n  \
             StrictHostKeyChecking yes\n  ControlPersist no\n",
            target.host,
            target.port,
            name = target.name,
            alias = target.alias
        );
        let logins = logins(target);
        if let [login] = logins.as_slice() {
            let _ = writeln!(out, "  User {login}");
        }
        // Who was refused here must not be asked for a password by sshd; accounts that are not the broker's stay as they were.
        if !logins.is_empty() {
            let names: Vec<&str> = logins.iter().map(|login| login.as_str()).collect();
            let _ = write!(
                out,
                "\nMatch originalhost {} user {}\n  PasswordAuthentication no\n  KbdInteractiveAuthentication no\n",
                target.name,
                names.join(",")
            );
        }
    }
    if !targets.is_empty() {
        let names: Vec<&str> = targets.iter().map(|t| t.name.as_str()).collect();
        let mut hook = String::new();
        for (name, folder) in folders {
            let _ = write!(hook, "{}{name}='{}' ", if hook.is_empty() { "env " } else { "" }, word(folder)?);
        }
        let _ = write!(hook, "'{}' hook ssh -- '%n' '%r'", word(program)?);
        let files = word(&home.run.join("ssh"))?;
        let _ = write!(
            out,
            "\nMatch originalhost {} exec \"{hook}\"\n  IdentityFile \"{files}/%n/key\"\n  \
             CertificateFile \"{files}/%n/%r-cert.pub\"\n  IdentitiesOnly yes\n",
            names.join(",")
        );
    }
    Ok(out)
}

/// The accounts that the person may ask for.
fn logins(target: &TargetDoc) -> Vec<&LoginName> {
    let mut logins: Vec<_> = target.roles.iter().filter(|r| r.verdict != "never").flat_map(|r| &r.logins).collect();
    logins.sort();
    logins.dedup();
    logins
}

/// What happens to the `Include` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edit {
    /// It stands first.
    Install,
    /// It is gone.
    Remove,
}

/// The line that includes our file.
///
/// # Errors
/// As [`quoted`].
pub(super) fn include(ours: &Path) -> Result<String, Failure> {
    Ok(format!("Include {}\n", quoted(ours)?))
}

/// What would be installed now.
pub(super) fn current(home: &Home, targets: &[TargetDoc]) -> Option<String> {
    text(home, targets, &std::env::current_exe().ok()?, &folders()).ok()
}

/// Puts the `Include` line first in the person's own file, or takes it out. Every other byte stays, and so do mode and symbolic link.
///
/// # Errors
/// When the file cannot be read or replaced; then nothing changed.
pub(super) fn edit(user: &Path, ours: &Path, what: Edit) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::local(user.display(), e);
    let link = fs::symlink_metadata(user).is_ok_and(|meta| meta.is_symlink());
    let path = if link { fs::canonicalize(user).map_err(failed)? } else { user.to_owned() };
    // Anything but "not there" stops here: an unreadable file must not be taken for an empty one and replaced.
    let old = match fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed(e)),
    };
    let line = include(ours)?;
    let mut new = if what == Edit::Install { line.clone().into_bytes() } else { Vec::new() };
    for other in old.as_deref().unwrap_or_default().split_inclusive(|b| *b == b'\n') {
        if other != line.as_bytes() {
            new.extend_from_slice(other);
        }
    }
    if old.as_deref().unwrap_or_default() == new {
        return Ok(());
    }
    if new.is_empty() && !link {
        return fs::remove_file(&path).map_err(failed);
    }
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let mode = fs::metadata(&path).map_or(0o600, |meta| meta.permissions().mode() & 0o777);
    Ok(crate::signer::keys::replace(&path, &new, mode)?)
}
