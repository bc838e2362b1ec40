//! SSH credentials on this machine: one key for each target that stays, and a certificate for each login that rotates.
//!
//! The paths never change between grants: `ssh/<target>/key`, `key.pub` and `<login>-cert.pub` in the run folder.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, Parser};
use jit_ca::key::PrivateKey;
use jit_ca::ssh::{CertKind, CertificateFacts};

use super::agent::Agent;
use super::ask::{Wish, granted};
use super::client::Client;
use super::failure::Failure;
use super::home::{Home, private_folder, read_private, write_private};
use super::{Globals, hook, keys, output, ssh_config};
use crate::domain::act::Deed;
use crate::domain::authority::Purpose;
use crate::domain::ids::GrantId;
use crate::domain::key::Key;
use crate::domain::names::{LoginName, RoleName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::wire::{CredentialDoc, CredentialPost, GrantDoc, TargetDoc};

/// How long before its issue a certificate may begin, in seconds (decisions.md 21).
const BACKDATED_S: i64 = 60;

/// Where the files of a target are; the paths never change between grants.
pub fn folder(home: &Home, target: &str) -> PathBuf {
    home.run.join("ssh").join(target)
}

/// The certificate of a login on a target.
pub fn certificate(home: &Home, target: &str, login: &str) -> PathBuf {
    folder(home, target).join(format!("{login}-cert.pub"))
}

/// Locks a file, and waits while another process holds it. The lock ends with the handle.
///
/// # Errors
/// When the file cannot be made.
pub fn lock(path: &Path) -> Result<File, Failure> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|e| Failure::local(path.display(), e))?;
    if file.try_lock().is_ok() {
        return Ok(file);
    }
    // Another run holds it while it asks people: that may take long, and must not look like a hang.
    let waits = path.file_name().is_some_and(|name| name == "ask.lock");
    if waits {
        eprintln!("jit-broker: another ssh asks for access to this target already; waiting for it.");
    }
    file.lock().map_err(|e| Failure::local(path.display(), e))?;
    Ok(file)
}

/// Makes a target's folder and locks it against other writers. Held for as long as files are written, never while anybody is asked.
fn writing(home: &Home, target: &str) -> Result<File, Failure> {
    private_folder(&home.run)?;
    private_folder(&home.run.join("ssh"))?;
    private_folder(&folder(home, target))?;
    lock(&folder(home, target).join("write.lock"))
}

/// The key pair of a target; made once, so that only certificates rotate (a pair cannot be swapped atomically).
///
/// # Errors
/// When the folder is open to others or cannot be written.
pub fn client_key(home: &Home, target: &TargetName) -> Result<Key, Failure> {
    let _writing = writing(home, target.as_str())?;
    let folder = folder(home, target.as_str());
    let path = folder.join("key");
    let bad = |e: jit_ca::key::KeyError| Failure::new(Code::BAD_KEY, format!("{}: {e}.", path.display()));
    if let Some(text) = read_private(&path)? {
        return Ok(Key(PrivateKey::from_openssh(&text, None).map_err(bad)?.public().clone()));
    }
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    crate::clock::fill(&mut *seed);
    let private = PrivateKey::from_seed(*seed);
    let key = Key(private.public().clone());
    write_private(&folder.join("key.pub"), format!("{key} jit-broker {target}\n").as_bytes())?;
    write_private(&path, private.to_openssh(&format!("jit-broker {target}")).map_err(bad)?.as_bytes())?;
    Ok(key)
}

/// Fetches the certificate of a grant for a key, bound first where the grant does not have it, and inspects it.
///
/// # Errors
/// The broker's refusal, or [`Code::LINT`] when the certificate is not what was granted.
pub async fn fetch(client: &mut Client, grant: &GrantDoc, key: &Key) -> Result<CredentialDoc, Failure> {
    if !grant.keys.contains(key) {
        let by = grant.person.clone();
        client.act(Deed::BindKey { by, grant: grant.id, key: key.clone() }, None, None).await?;
    }
    let path = format!("/v1/grants/{}/credential", grant.id);
    let doc: CredentialDoc = client.post(&path, &CredentialPost { key: key.clone(), verifier: None }).await?;
    let lint =
        |what: String| Failure::new(Code::LINT, format!("The broker's certificate is not what was granted: {what}."));
    let facts = jit_ca::ssh::read(&doc.certificate).map_err(|e| lint(e.to_string()))?;
    let purpose = if grant.gateway { Purpose::SshGateway } else { Purpose::SshUser };
    let authorities = client.context()?.trusted(purpose);
    if authorities.is_empty() {
        let older = "The broker had no gateway when you signed in; sign in again.".to_owned();
        return Err(hook::hinted(Failure::new(Code::NOT_SIGNED_IN, older), "jit-broker auth login".to_owned()));
    }
    match wrong(&facts, grant, key, &authorities) {
        Some(what) => Err(lint(what.to_owned())),
        None => Ok(doc),
    }
}

/// What is wrong with a certificate under a grant; none when it is exactly what was granted.
///
/// SECURITY: the broker's answer is not believed. A certificate of another authority, key, account or time is never written to disk.
pub(super) fn wrong(
    facts: &CertificateFacts,
    grant: &GrantDoc,
    key: &Key,
    authorities: &[Key],
) -> Option<&'static str> {
    let second = |text: &str| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second);
    let (Some(starts_at), Some(ends_at)) = (second(&grant.starts_at), second(&grant.ends_at)) else {
        return Some("the grant's window cannot be read");
    };
    let (after, before) = (i64::try_from(facts.valid_after), i64::try_from(facts.valid_before));
    let granted: Vec<String> = grant.logins.iter().map(|login| format!("{}/{login}", grant.target)).collect();
    if facts.kind != CertKind::User {
        Some("it is not for a user")
    } else if !authorities.iter().any(|authority| authority.0 == facts.ca) {
        Some("another authority signed it")
    } else if facts.key != key.0 {
        Some("it is for another key")
    } else if facts.principals.is_empty() || !facts.principals.iter().all(|p| granted.contains(p)) {
        Some("it names other accounts")
    } else if !before.is_ok_and(|s| s <= ends_at) || !after.is_ok_and(|s| s >= starts_at - BACKDATED_S) {
        Some("its time is not within the grant's")
    } else {
        None
    }
}

/// Leaves the certificate of a grant where ssh finds it.
///
/// # Errors
/// As [`fetch`], or when the disk refuses.
pub async fn ensure(client: &mut Client, grant: &GrantDoc) -> Result<CredentialDoc, Failure> {
    let home = client.home().clone();
    let key = client_key(&home, &grant.target)?;
    let mut doc = fetch(client, grant, &key).await?;
    let _writing = writing(&home, grant.target.as_str())?;
    for login in &grant.logins {
        let path = certificate(&home, grant.target.as_str(), login.as_str());
        write_private(&path, format!("{}\n", doc.certificate).as_bytes())?;
        hook::looked_at(&home, &grant.target, login)?;
        doc.files.push(path.display().to_string());
    }
    doc.path = doc.files.first().cloned();
    doc.files.push(folder(&home, grant.target.as_str()).join("key").display().to_string());
    Ok(doc)
}

/// Gives the ssh-agent what was just fetched, until the certificate's end: for programs that read no configuration of OpenSSH.
///
/// # Errors
/// [`Code::NO_KEY`] without an agent, or when it does not take it.
pub fn hand_over(home: &Home, target: &TargetName, doc: &CredentialDoc) -> Result<(), Failure> {
    let none = || Failure::new(Code::NO_KEY, "There is no ssh-agent: SSH_AUTH_SOCK names none that answers.");
    let mut agent = Agent::connect().ok_or_else(|| hook::hinted(none(), "eval \"$(ssh-agent)\"".to_owned()))?;
    let path = folder(home, target.as_str()).join("key");
    let missing = || Failure::new(Code::NO_KEY, format!("{} is not there.", path.display()));
    let pem = zeroize::Zeroizing::new(read_private(&path)?.ok_or_else(missing)?);
    let life_s = doc.valid_before_s.saturating_sub(crate::clock::wall_s());
    let life_s = u32::try_from(life_s).ok().filter(|s| *s > 0);
    let life_s = life_s.ok_or_else(|| Failure::new(Code::WINDOW_CLOSED, "The certificate is over already."))?;
    agent.add(&pem, &doc.certificate, &format!("jit-broker {target}"), life_s)
}

/// The grant that a certificate is of, as its key id says.
pub(super) fn grant_of(facts: &CertificateFacts) -> Option<GrantId> {
    facts.key_id.split(':').nth(1)?.parse().ok()
}

/// Removes the certificates of a grant, from the agent too: they are worthless, and should not be offered. Those of others stay.
pub fn forget(home: &Home, target: &TargetName, grant: GrantId) {
    let of = |line: &str| jit_ca::ssh::read(line.trim_end()).is_ok_and(|facts| grant_of(&facts) == Some(grant));
    if let Some(mut agent) = Agent::connect() {
        for line in agent.certificates().iter().filter(|line| of(line)) {
            agent.remove(line);
        }
    }
    let folder = folder(home, target.as_str());
    let _writing = lock(&folder.join("write.lock"));
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(login) = name.to_str().and_then(|name| name.strip_suffix("-cert.pub")) else { continue };
        if of(&fs::read_to_string(entry.path()).unwrap_or_default()) {
            let _ = fs::remove_file(folder.join(format!("{login}.checked")));
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// `jit-broker cert`
#[derive(Debug, Args)]
pub struct CertArgs {
    #[command(flatten)]
    wish: Wish,
    /// A public key of one's own; default: the key that this program keeps for the target
    #[arg(long, value_name = "PUB")]
    key: Option<PathBuf>,
    /// Where the certificate goes; `-` is stdout. With --key the default is beside the key, where ssh looks
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl CertArgs {
    /// Gets a certificate, asking for access where there is none.
    ///
    /// # Errors
    /// As asked.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let target = self.wish.one()?.clone();
        if self.wish.dry_run {
            return super::ask::request(&self.wish, super::ask::Leaves::Nothing, globals).await;
        }
        let mut client = Client::remembered(&Home::find()?)?;
        host(&super::ask::target(&mut client, &target).await?)?;
        let own = self.key.as_deref().map(keys::public).transpose()?;
        let key = match &own {
            Some(key) => key.clone(),
            None => client_key(client.home(), &target)?,
        };
        let grant = granted(&mut client, &self.wish, &target, &key, globals).await?;
        let mut doc =
            if own.is_some() { fetch(&mut client, &grant, &key).await? } else { ensure(&mut client, &grant).await? };
        let out = self.out.clone().or_else(|| self.key.as_deref().map(beside)).filter(|path| path.as_os_str() != "-");
        if let Some(path) = &out {
            crate::signer::keys::replace(path, format!("{}\n", doc.certificate).as_bytes(), 0o600)?;
            eprintln!("{}: {} until {}", path.display(), doc.principals.join(", "), doc.valid_before);
            doc.path = Some(path.display().to_string());
            doc.files = vec![path.display().to_string()];
        }
        if out.is_none() || globals.json() {
            output::one(globals.output, &doc, &doc.id, |d| vec![d.certificate.clone()])?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Before anybody is asked.
fn host(doc: &TargetDoc) -> Result<(), Failure> {
    match &doc.database {
        None => Ok(()),
        Some(_) => {
            let refusal = Refusal::new(Code::USAGE, format!("{} is a database.", doc.name));
            Err(Failure(refusal.hint(format!("jit-broker login {}", doc.name))))
        }
    }
}

/// Where ssh looks for the certificate of a key: `id.pub` and `id` both give `id-cert.pub`.
fn beside(key: &Path) -> PathBuf {
    let stem = if key.extension().is_some_and(|e| e == "pub") { key.with_extension("") } else { key.to_owned() };
    let mut path = stem.into_os_string();
    path.push("-cert.pub");
    path.into()
}

/// What may be said about the request that `ssh` sends where there is no grant.
#[derive(Debug, Clone, Args)]
struct Asking {
    /// The role on the target; may be left out where there is one
    #[arg(long)]
    role: Option<RoleName>,
    /// For how long: 30m, 2h, PT2H30M
    #[arg(long = "for", value_name = "DURATION")]
    for_: Option<String>,
    /// Why; those who approve read it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The ticket it is for
    #[arg(long, value_name = "ID")]
    ticket: Option<String>,
}

/// `jit-broker ssh`
#[derive(Debug, Args)]
pub struct SshArgs {
    #[command(flatten)]
    asking: Asking,
    /// [LOGIN@]TARGET, and then what ssh gets: its options, and a command
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["TARGET", "SSH ARGS"])]
    words: Vec<OsString>,
}

/// What stands after TARGET. ssh has no long options, so those that come first are ours.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, name = "jit-broker ssh TARGET")]
struct Late {
    #[command(flatten)]
    asking: Asking,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// A whole `ssh` command line, read.
#[derive(Debug)]
pub(super) struct Call {
    login: Option<LoginName>,
    wish: Wish,
    args: Vec<OsString>,
}

impl SshArgs {
    /// Gets a certificate and becomes ssh.
    ///
    /// # Errors
    /// None: a failure before ssh runs is printed here, and the exit status is 125.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        match self.prepare(globals).await {
            Ok(mut command) => {
                let error = command.exec();
                eprintln!("ssh: {error}");
                Ok(ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }))
            }
            Err(failure) => {
                failure.report(globals.json());
                Ok(ExitCode::from(125))
            }
        }
    }

    async fn prepare(&self, globals: &Globals) -> Result<Command, Failure> {
        let mut call = self.call()?;
        let mut client = Client::remembered(&Home::find()?)?;
        let target = call.wish.one()?.clone();
        let doc = super::ask::target(&mut client, &target).await?;
        host(&doc)?;
        ssh_config::check(&doc)?;
        if let (Some(login), None) = (&call.login, &call.wish.role) {
            call.wish.role = Some(hook::role_of(&doc, login)?.name.clone());
        }
        let key = client_key(client.home(), &target)?;
        let grant = granted(&mut client, &call.wish, &target, &key, globals).await?;
        ensure(&mut client, &grant).await?;
        let login = call.login.as_ref().or(grant.logins.first());
        let login = login.ok_or_else(|| Failure::new(Code::BUG, "The grant has no login."))?;
        if !grant.logins.contains(login) {
            let message = format!("The role {} on {target} does not open {login}.", grant.role);
            return Err(Failure::new(Code::NO_ROLE, message));
        }
        command(client.home(), &doc, login, &call.args)
    }

    pub(super) fn call(&self) -> Result<Call, Failure> {
        let usage = |what: String| Failure::new(Code::USAGE, what);
        let (first, rest) = self.words.split_first().ok_or_else(|| usage("Say which target.".to_owned()))?;
        let first = first.to_str().unwrap_or("\u{fffd}");
        let (login, target) = first.rsplit_once('@').map_or((None, first), |(login, target)| (Some(login), target));
        let login = login.map(LoginName::new).transpose().map_err(|e| usage(format!("{e}.")))?;
        let target = TargetName::new(target).map_err(|e| usage(format!("{e}.")))?;
        let late = Late::try_parse_from(rest).map_err(|e| usage(e.to_string()))?;
        let (early, later) = (self.asking.clone(), late.asking);
        let wish = Wish {
            targets: vec![target],
            role: later.role.or(early.role),
            for_: later.for_.or(early.for_),
            reason: later.reason.or(early.reason),
            ticket: later.ticket.or(early.ticket),
            no_wait: false,
            wait: None,
            dry_run: false,
        };
        Ok(Call { login, wish, args: late.args })
    }
}

/// The ssh command for a target whose certificate is there. The person's own configuration still counts where this says nothing.
///
/// # Errors
/// When a path cannot be said in ssh's own configuration language.
fn command(
    home: &Home,
    doc: &crate::wire::TargetDoc,
    login: &LoginName,
    args: &[OsString],
) -> Result<Command, Failure> {
    let name = doc.name.as_str();
    let known = folder(home, name).join("known_hosts");
    write_private(&known, format!("{}\n", doc.known_hosts).as_bytes())?;
    let mut command = Command::new("ssh");
    // SECURITY (T147): what the server sent stands behind a key word, after a check of its bytes; the one bare word is a TargetName,
    // which cannot begin with '-'. A `--` here would take the person's own options after TARGET for the remote command.
    for option in [
        format!("HostName={}", doc.host),
        format!("Port={}", doc.port),
        format!("User={login}"),
        format!("HostKeyAlias={}", doc.alias),
        format!("UserKnownHostsFile={}", ssh_config::quoted(&known)?),
        format!("IdentityFile={}", ssh_config::quoted(&folder(home, name).join("key"))?),
        format!("CertificateFile={}", ssh_config::quoted(&certificate(home, name, login.as_str()))?),
        "IdentitiesOnly=yes".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        "ControlPersist=no".to_owned(),
    ] {
        command.arg("-o").arg(option);
    }
    command.arg(name).args(args);
    Ok(command)
}

#[cfg(test)]
mod tests;
