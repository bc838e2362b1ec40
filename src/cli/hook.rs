//! What ssh runs before it connects (`Match … exec`). Quick and silent while a certificate holds.
//!
//! Its stdin and stdout are /dev/null; stderr and /dev/tty reach the person. A status other than 0 makes ssh go on without the certificate.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::ask::{me, outcome, target, wait_for, waits_for, words};
use super::client::Client;
use super::failure::Failure;
use super::home::{Home, private_folder};
use super::{Globals, output, prompt, ssh};
use crate::domain::act::Deed;
use crate::domain::names::{LoginName, TargetName};
use crate::domain::refusal::Code;
use crate::wire::{GrantDoc, RoleDoc, TargetDoc};

/// A certificate must hold so long to be used again, in seconds.
const MARGIN_S: i64 = 5;

/// `jit-broker hook`
#[derive(Debug, Args)]
pub struct HookArgs {
    /// `%n`: the host as it was typed
    host: String,
    /// `%r`: the remote user
    user: String,
}

impl HookArgs {
    /// True when the certificate that is there holds: nothing else needs to be looked at.
    pub fn cached(&self) -> bool {
        Home::find().is_ok_and(|home| holds(&home, &self.host, &self.user))
    }

    /// Makes sure that there is a certificate.
    ///
    /// # Errors
    /// With a sentence and the command to type.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        // SECURITY (T147): names with odd characters end here, before they become a path or a request.
        let name = TargetName::new(&self.host).map_err(|e| Failure::new(Code::BAD_NAME, format!("{e}.")))?;
        let login = LoginName::new(&self.user).map_err(|e| Failure::new(Code::BAD_NAME, format!("{e}.")))?;
        let home = Home::find()?;
        private_folder(&home.run)?;
        let _lock = lock(&home.run.join("hook.lock"))?;
        if holds(&home, &self.host, &self.user) {
            return Ok(ExitCode::SUCCESS);
        }
        let _ = std::fs::remove_file(ssh::certificate(&home, name.as_str(), login.as_str()));
        let mut client = Client::remembered(&home)?;
        let doc = target(&mut client, &name).await?;
        let role = role_of(&doc, &login)?;
        let grant = match role.grant_id {
            Some(id) => client.get::<GrantDoc>(&format!("/v1/grants/{id}")).await?,
            None => ask(&mut client, &doc, role, globals).await?,
        };
        let credential = ssh::ensure(&mut client, &grant).await?;
        eprintln!(
            "jit-broker: {} on {name} until {} ({} left)",
            grant.role,
            credential.valid_before,
            output::span(grant.left_s)
        );
        Ok(ExitCode::SUCCESS)
    }
}

fn holds(home: &Home, target: &str, login: &str) -> bool {
    if TargetName::new(target).is_err() || LoginName::new(login).is_err() {
        return false;
    }
    let Ok(text) = std::fs::read_to_string(ssh::certificate(home, target, login)) else { return false };
    let end = jit_ca::ssh::read(text.trim()).ok().and_then(|facts| i64::try_from(facts.valid_before).ok());
    end.is_some_and(|end| crate::clock::wall_s() + MARGIN_S < end)
}

/// Parallel runs wait for one another, so that four ssh cause one issue.
fn lock(path: &Path) -> Result<std::fs::File, Failure> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|e| Failure::local(path.display(), e))?;
    file.lock().map_err(|e| Failure::local(path.display(), e))?;
    Ok(file)
}

fn role_of<'a>(doc: &'a TargetDoc, login: &LoginName) -> Result<&'a RoleDoc, Failure> {
    let fitting: Vec<&RoleDoc> = doc.roles.iter().filter(|r| r.logins.contains(login)).collect();
    let first = |word: &str| fitting.iter().copied().find(|r| r.verdict == word);
    let possible: Vec<&RoleDoc> = fitting.iter().copied().filter(|r| r.verdict != "never").collect();
    if let Some(role) = first("active").or_else(|| first("automatic")) {
        return Ok(role);
    }
    match possible.as_slice() {
        [one] => Ok(one),
        [] => {
            let roles: Vec<String> = doc.roles.iter().map(|r| r.name.to_string()).collect();
            let mut failure = Failure::new(
                Code::NO_RULE,
                format!("No role on {} that you may have opens {login}; roles: {}.", doc.name, roles.join(", ")),
            );
            failure.0.hint = Some(format!("jit-broker ls {}", doc.name));
            Err(failure)
        }
        [one, ..] => {
            let mut failure = Failure::new(Code::USAGE, format!("Several roles on {} open {login}.", doc.name));
            failure.0.hint = Some(command(doc, one));
            Err(failure)
        }
    }
}

fn command(doc: &TargetDoc, role: &RoleDoc) -> String {
    format!("jit-broker login {} --role {} --reason \"…\"", doc.name, role.name)
}

async fn ask(client: &mut Client, doc: &TargetDoc, role: &RoleDoc, globals: &Globals) -> Result<GrantDoc, Failure> {
    let silent = quiet();
    let reason = match role.verdict.as_str() {
        "automatic" if silent => None,
        _ if silent => {
            let mut failure = Failure::new(
                Code::USAGE,
                format!("You have no access to {} now, and nobody can be asked here.", doc.name),
            );
            failure.0.hint = Some(command(doc, role));
            return Err(failure);
        }
        _ => Some(
            prompt::on_terminal(&format!("Reason for {} on {}: ", role.name, doc.name), "--reason \"…\"").map_err(
                |mut failure| {
                    failure.0.hint = Some(command(doc, role));
                    failure
                },
            )?,
        ),
    };
    let key = ssh::client_key(client.home(), &doc.name)?;
    let deed = Deed::Request { by: me(client)?, target: doc.name.clone(), role: role.name.clone(), for_s: None, key };
    let made = client.act(deed, words(reason.as_deref().filter(|r| !r.is_empty()), None)?, None).await?;
    if let Some(grant) = made.grants.into_iter().next() {
        return Ok(grant);
    }
    let request = made.request.ok_or_else(|| Failure::new(Code::BUG, "The broker answered without a request."))?;
    if request.state == "pending" {
        eprintln!(
            "jit-broker: {} waits for {} (Ctrl-C stops waiting; jit-broker withdraw {})",
            request.code,
            waits_for(&request),
            request.id
        );
    }
    let answered = wait_for(client, request, Duration::from_secs(8 * 3600), globals).await?;
    outcome(client, &answered).await
}

/// True when ssh only prints its configuration, or must not ask: its own arguments say so.
fn quiet() -> bool {
    if std::env::var_os("JIT_BROKER_NO_INPUT").is_some() || std::env::var_os("CI").is_some() {
        return true;
    }
    let mut pid = rustix::process::getppid().map(|p| p.as_raw_nonzero().get());
    for _ in 0..3 {
        let Some(parent) = pid else { break };
        let line = std::fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
        let args: Vec<String> = line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        let program = args.first().map(|a| a.rsplit('/').next().unwrap_or_default().to_owned()).unwrap_or_default();
        if program == "ssh" {
            return args
                .iter()
                .any(|a| a == "-G" || a.to_ascii_lowercase().replace([' ', '='], "").contains("batchmodeyes"));
        }
        let stat = std::fs::read_to_string(format!("/proc/{parent}/status")).unwrap_or_default();
        pid = stat.lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse().ok());
    }
    false
}
