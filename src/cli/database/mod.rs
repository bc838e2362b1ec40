//! Databases on the command line: what `login` leaves behind, and the programs that use it.
//!
//! True here: the private key and the password are made on this machine and never leave it; the paths of a target never change between
//! grants; whether a credential is over is looked up here first, so that an ended grant never looks like a fault of the network.
//! Start with [`files`], then [`ready`].

mod files;
mod run;
mod show;

pub use files::forget;
pub use run::{ExecArgs, PsqlArgs};
pub use show::{ConnectArgs, EnvArgs};

use jit_ca::x509::ClientFacts;

use super::ask::{Wish, granted};
use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::{Globals, home};
use crate::accounts::scram;
use crate::domain::act::Deed;
use crate::domain::database::Auth;
use crate::domain::key::Key;
use crate::domain::names::TargetName;
use crate::domain::refusal::{Code, Refusal};
use crate::wire::{CredentialDoc, CredentialPost, GrantDoc};

use files::{Access, Folder};

/// A credential must hold for so long to be handed to a program, in seconds.
const MARGIN_S: i64 = 3;
/// How long the broker is waited for before a credential that is here is used.
const LOOK: std::time::Duration = std::time::Duration::from_secs(2);

/// The key that requests for a database name: ECDSA P-256, which every TLS library takes.
///
/// # Errors
/// When the folder is open to others or cannot be written.
pub fn client_key(home: &Home, target: &TargetName) -> Result<Key, Failure> {
    Folder::open(home, target)?.key()
}

/// Has the account of a grant made, and leaves everything that its clients need.
///
/// # Errors
/// The broker's refusal, or [`Code::LINT`] when its answer is not what was granted.
pub async fn ensure(client: &mut Client, grant: &GrantDoc, auth: Auth) -> Result<CredentialDoc, Failure> {
    let home = client.home().clone();
    let folder = Folder::open(&home, &grant.target)?;
    let key = folder.key()?;
    if !grant.keys.contains(&key) {
        let by = grant.person.clone();
        client.act(Deed::BindKey { by, grant: grant.id, key: key.clone() }, None, None).await?;
    }
    let verifier = match auth {
        Auth::Cert => None,
        Auth::Password => {
            let (password, salt) = folder.password(grant.id, &grant.role)?;
            let verifier = scram::verifier(&password, &salt).map_err(|e| Failure::local("the password", e))?;
            Some(verifier.as_str().to_owned())
        }
    };
    let path = format!("/v1/grants/{}/credential", grant.id);
    let mut doc: CredentialDoc = client.post(&path, &CredentialPost { key: key.clone(), verifier }).await?;
    let access = checked(&doc, grant, &key, auth)?;
    folder.write(&access, &doc.certificate)?;
    doc.files = folder.paths(auth);
    doc.path = doc.files.first().cloned();
    Ok(doc)
}

/// SECURITY: the broker's answer is not believed. A certificate for another key, account or time is never written to disk.
fn checked(doc: &CredentialDoc, grant: &GrantDoc, key: &Key, auth: Auth) -> Result<Access, Failure> {
    let lint =
        |what: &str| Failure::new(Code::LINT, format!("The broker's credential is not what was granted: {what}."));
    let account = doc.account.clone().ok_or_else(|| lint("it names no account"))?;
    let second = |text: &str| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second);
    let ends_at = second(&grant.ends_at).ok_or_else(|| lint("the grant's end cannot be read"))?;
    if doc.valid_before_s > ends_at || account.database.auth != auth {
        return Err(lint("its time or its kind"));
    }
    if auth == Auth::Cert {
        let facts = ClientFacts::read(&doc.certificate).map_err(|e| lint(&e.to_string()))?;
        if facts.account != account.user.as_str() || !facts.is_for(&key.0) || facts.not_after >= ends_at {
            return Err(lint("the certificate is for another account, key or time"));
        }
    }
    Access::new(grant, &account, doc.valid_before_s).ok_or_else(|| lint("the server's address"))
}

/// What a program may use now: what is here and holds, else a grant that is open or is asked for.
///
/// # Errors
/// The refusal, with the command to type.
pub async fn ready(wish: &Wish, globals: &Globals) -> Result<(Home, Access), Failure> {
    let (home, name) = (Home::find()?, wish.one()?.clone());
    let now = crate::clock::wall_s();
    let held = Folder::open(&home, &name)?.access(wish.role.as_ref())?;
    if let Some(over) = held.as_ref().filter(|a| a.until_s <= now) {
        eprintln!("jit-broker: {} on {name} ended at {}.", over.role, super::output::instant(over.until_s));
    }
    let mut client = Client::remembered(&home)?;
    if let Some(access) = held.filter(|a| now + MARGIN_S < a.until_s) {
        if stands(&mut client, &access).await {
            return Ok((home, access));
        }
        eprintln!("jit-broker: {} on {name} is over.", access.role);
        files::forget(&home, &access.target, access.grant);
    }
    let doc = super::ask::target(&mut client, &name).await?;
    let database = doc.database.ok_or_else(|| {
        Failure(Refusal::new(Code::USAGE, format!("{name} is no database.")).hint(format!("jit-broker ssh {name}")))
    })?;
    let key = client_key(&home, &name)?;
    let grant = granted(&mut client, wish, &name, &key, globals).await.map_err(|mut failure| {
        if failure.0.code == Code::USAGE {
            let role = wish.role.as_ref().map_or_else(|| "ROLE".to_owned(), ToString::to_string);
            failure.0.hint = Some(format!("jit-broker login {name} --role {role} --reason \"…\""));
        }
        failure
    })?;
    ensure(&mut client, &grant, database.auth).await?;
    let access = Folder::open(&home, &name)?.access(Some(&grant.role))?;
    let access = access.ok_or_else(|| Failure::new(Code::BUG, "The credential is not where it was left."))?;
    Ok((home, access))
}

/// False when the broker says that a grant is over; a broker that is away ends nothing.
async fn stands(client: &mut Client, access: &Access) -> bool {
    let path = format!("/v1/grants/{}", access.grant);
    match tokio::time::timeout(LOOK, client.get::<GrantDoc>(&path)).await {
        Ok(Ok(grant)) => matches!(grant.state.as_str(), "ready" | "active"),
        Ok(Err(failure)) => failure.0.code != Code::MISSING,
        Err(_) => true,
    }
}

/// The line to paste after `login`.
pub fn how_to_use(client_home: &Home, target: &TargetName) -> String {
    format!("PGSERVICEFILE={} psql service={target}", quoted(&files::service_file(client_home).display().to_string()))
}

/// The same for one role of a target, whatever the last `login` was for.
fn how_to_use_role(home: &Home, access: &Access) -> String {
    let file = quoted(&files::service_file(home).display().to_string());
    format!("PGSERVICEFILE={file} psql service={}.{}", access.target, access.role)
}

/// A word for sh: as it is where it is plain, else in single quotes.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-:=@,+%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Words that a verb which may have to ask takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Asking {
    /// The role on it; may be left out where there is one
    #[arg(long)]
    pub role: Option<crate::domain::names::RoleName>,
    /// For how long: 30m, 2h, PT2H30M
    #[arg(long = "for", value_name = "DURATION")]
    pub for_: Option<String>,
    /// Why; those who approve read it
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The ticket it is for
    #[arg(long, value_name = "ID")]
    pub ticket: Option<String>,
}

impl Asking {
    fn wish(&self, target: &TargetName) -> Wish {
        Wish {
            targets: vec![target.clone()],
            role: self.role.clone(),
            for_: self.for_.clone(),
            reason: self.reason.clone(),
            ticket: self.ticket.clone(),
            no_wait: false,
            wait: None,
            dry_run: false,
        }
    }
}

fn local(path: &std::path::Path, error: impl std::fmt::Display) -> Failure {
    Failure::local(path.display(), error)
}

use home::{private_folder, read_private, write_private};
