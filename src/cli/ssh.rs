//! SSH credentials on this machine: a key for each target that stays, and certificates that rotate.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;
use jit_ca::key::PrivateKey;

use super::ask::{Wish, granted};
use super::client::Client;
use super::failure::Failure;
use super::home::{Home, private_folder, read_private, write_private};
use super::{Globals, keys};
use crate::domain::act::Deed;
use crate::domain::key::Key;
use crate::domain::names::TargetName;
use crate::domain::refusal::Code;
use crate::wire::{CredentialDoc, CredentialPost, GrantDoc};

/// Where the files of a target are; the paths never change between grants.
pub fn folder(home: &Home, target: &str) -> PathBuf {
    home.run.join("ssh").join(target)
}

/// The certificate of a login on a target.
pub fn certificate(home: &Home, target: &str, login: &str) -> PathBuf {
    folder(home, target).join(format!("{login}-cert.pub"))
}

/// The key pair of a target; made once, so that only certificates rotate.
///
/// # Errors
/// When the folder is open to others or cannot be written.
pub fn client_key(home: &Home, target: &TargetName) -> Result<Key, Failure> {
    let folder = folder(home, target.as_str());
    private_folder(&home.run)?;
    private_folder(&folder)?;
    let path = folder.join("key");
    let bad = |e: jit_ca::key::KeyError| Failure::new(Code::BAD_KEY, format!("{}: {e}.", path.display()));
    if let Some(text) = read_private(&path)? {
        return Ok(Key(PrivateKey::from_openssh(&text, None).map_err(bad)?.public().clone()));
    }
    let mut seed = [0; 32];
    crate::clock::fill(&mut seed);
    let private = PrivateKey::from_seed(seed);
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
    let doc: CredentialDoc = client.post(&path, &CredentialPost { key: key.clone() }).await?;
    let facts = jit_ca::ssh::read(&doc.certificate).map_err(|e| Failure::new(Code::LINT, format!("{e}.")))?;
    let ours = facts.key == key.0 && facts.ca == client.context()?.about.ssh_user.0;
    let end: Option<i64> = grant.ends_at.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second);
    let inside = i64::try_from(facts.valid_before).ok().zip(end).is_some_and(|(before, end)| before <= end);
    if !ours || !inside {
        return Err(Failure::new(Code::LINT, "The certificate is for another key, of another authority, or too long."));
    }
    Ok(doc)
}

/// Leaves the certificate of a grant where ssh finds it.
///
/// # Errors
/// As [`fetch`], or when the disk refuses.
pub async fn ensure(client: &mut Client, grant: &GrantDoc) -> Result<CredentialDoc, Failure> {
    let home = client.home().clone();
    let key = client_key(&home, &grant.target)?;
    let doc = fetch(client, grant, &key).await?;
    for login in &grant.logins {
        let path = certificate(&home, grant.target.as_str(), login.as_str());
        write_private(&path, format!("{}\n", doc.certificate).as_bytes())?;
    }
    Ok(doc)
}

/// Removes the certificates of a target: they are worthless, and should not be offered.
pub fn forget(home: &Home, target: &str) {
    for entry in std::fs::read_dir(folder(home, target)).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with("-cert.pub") {
            let _ = std::fs::remove_file(entry.path());
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
    /// Where the certificate goes; `-` is stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl CertArgs {
    /// Gets a certificate, asking for access where there is none.
    ///
    /// # Errors
    /// As asked.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let mut client = Client::remembered(&Home::find()?)?;
        let target = self.wish.one()?.clone();
        let own = self.key.as_deref().map(keys::public).transpose()?;
        let key = match &own {
            Some(key) => key.clone(),
            None => client_key(client.home(), &target)?,
        };
        let grant = granted(&mut client, &self.wish, &target, &key, globals).await?;
        let doc =
            if own.is_some() { fetch(&mut client, &grant, &key).await? } else { ensure(&mut client, &grant).await? };
        let default = self.key.as_ref().map(|k| k.with_extension("").display().to_string() + "-cert.pub");
        match self.out.as_ref().map(|o| o.display().to_string()).or(default) {
            None => super::output::one(globals.output, &doc, &doc.certificate, |d| vec![d.certificate.clone()])?,
            Some(path) if path == "-" => println!("{}", doc.certificate),
            Some(path) => {
                crate::signer::keys::replace(path.as_ref(), format!("{}\n", doc.certificate).as_bytes(), 0o600)?;
                eprintln!("{path}: {} until {}", doc.principals.join(", "), doc.valid_before);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `jit-broker ssh`
#[derive(Debug, Args)]
pub struct SshArgs {
    #[command(flatten)]
    wish: Wish,
    /// What ssh gets after the host
    #[arg(last = true)]
    args: Vec<String>,
}

impl SshArgs {
    /// Gets a certificate and becomes ssh.
    ///
    /// # Errors
    /// With exit status 125 before ssh runs.
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
        let mut client = Client::remembered(&Home::find()?)?;
        let target = self.wish.one()?.clone();
        let key = client_key(client.home(), &target)?;
        let grant = granted(&mut client, &self.wish, &target, &key, globals).await?;
        ensure(&mut client, &grant).await?;
        let doc = super::ask::target(&mut client, &target).await?;
        let home = client.home().clone();
        let login = grant.logins.first().ok_or_else(|| Failure::new(Code::BUG, "The grant has no login."))?;
        let known = home.run.join("known_hosts");
        write_private(&known, format!("{}\n", doc.known_hosts).as_bytes())?;
        let mut command = Command::new("ssh");
        command.arg("-o").arg(format!("HostKeyAlias={target}"));
        command.arg("-o").arg(format!("UserKnownHostsFile=\"{}\"", known.display()));
        command.args(["-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o", "ControlPersist=no"]);
        command
            .arg("-o")
            .arg(format!("CertificateFile=\"{}\"", certificate(&home, target.as_str(), login.as_str()).display()));
        command.arg("-i").arg(folder(&home, target.as_str()).join("key"));
        // SECURITY (T147): `--` ends the options, so that no name from the server becomes one.
        command
            .arg("-p")
            .arg(doc.port.to_string())
            .arg("-l")
            .arg(login.as_str())
            .arg("--")
            .arg(&doc.host)
            .args(&self.args);
        Ok(command)
    }
}
