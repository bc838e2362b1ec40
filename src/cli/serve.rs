//! The operator's verbs: those that run on the broker's own machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::{Globals, keys};
use crate::clock::System;
use crate::daemon::init::{Plan, init};
use crate::daemon::{Daemon, open_gate};
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::settings::{Settings, SignerAt, bad_config};
use crate::wire::KrlDoc;

/// `jit-broker init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder that is made
    #[arg(long)]
    dir: PathBuf,
    /// The first administrator's name
    #[arg(long)]
    admin: PersonName,
    /// The first administrator's public key
    #[arg(long, value_name = "PUB")]
    key: PathBuf,
    /// Where HTTPS listens
    #[arg(long, default_value = "127.0.0.1:7443")]
    listen: std::net::SocketAddr,
    /// The address that clients use; default https://LISTEN
    #[arg(long)]
    public_url: Option<String>,
}

impl InitArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Code::NOT_EMPTY`], or what the disk says.
    pub async fn run(&self, _: &Globals) -> Result<ExitCode, Failure> {
        let plan = Plan {
            dir: self.dir.clone(),
            admin: self.admin.clone(),
            key: keys::public(&self.key)?,
            listen: self.listen,
            public_url: self.public_url.clone().unwrap_or_else(|| format!("https://{}", self.listen)),
        };
        let made = init(&plan, Arc::new(System::new())).await?;
        println!("user CA      {}", made.genesis.ssh_user);
        println!("host CA      {}", made.genesis.ssh_host);
        println!("log key      {}", made.genesis.log_key);
        println!("fingerprint  {}", made.genesis.x509_server);
        eprintln!("Next:");
        eprintln!("  jit-broker serve --config {}", made.config.display());
        eprintln!("  jit-broker auth login --server {} --fingerprint {}", plan.public_url, made.genesis.x509_server);
        Ok(ExitCode::SUCCESS)
    }
}

/// The configuration file of a verb.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(long, default_value = "/etc/jit-broker/jit-broker.toml")]
    config: PathBuf,
}

impl ConfigArgs {
    fn settings(&self) -> Result<Settings, Failure> {
        Ok(Settings::read(&self.config).map_err(|problems| bad_config(&problems))?)
    }

    /// `serve`
    ///
    /// # Errors
    /// What is wrong, before a port is bound.
    pub async fn serve(&self) -> Result<ExitCode, Failure> {
        let settings = self.settings()?;
        let mut daemon = Daemon::start(&settings, Arc::new(System::new())).await?;
        eprintln!("listening on https://{}", daemon.address);
        let failure = tokio::select! {
            () = ended() => None,
            refusal = daemon.failed() => Some(refusal),
        };
        daemon.stop().await;
        match failure {
            None => Ok(ExitCode::SUCCESS),
            Some(refusal) => Err(refusal.into()),
        }
    }

    /// `check`
    ///
    /// # Errors
    /// Every problem.
    pub async fn check(&self) -> Result<ExitCode, Failure> {
        let settings = self.settings()?;
        let mut problems = Vec::new();
        if settings.signer == SignerAt::Local
            && let Err(refusal) = open_gate(&settings, Arc::new(System::new()))
        {
            problems.push(refusal.message);
        }
        let folder = self.config.parent().unwrap_or(Path::new("."));
        let admins: Vec<PersonName> = settings.admins.keys().cloned().collect();
        if folder.join("policy.toml").exists()
            && let Err(failure) = super::admin::read_bundle(folder, &admins)
        {
            problems.push(failure.0.message);
        }
        if problems.is_empty() {
            eprintln!("{}: good", self.config.display());
            return Ok(ExitCode::SUCCESS);
        }
        Err(bad_config(&problems).into())
    }

    /// `signer`
    ///
    /// # Errors
    /// When keys cannot be used or the socket not bound.
    pub fn signer(&self) -> Result<ExitCode, Failure> {
        let settings = self.settings()?;
        let SignerAt::Socket(path) = &settings.signer else {
            return Err(Failure::new(
                Code::BAD_CONFIG,
                "[ca].signer is \"local\"; say \"unix:PATH\" for a signer of its own.",
            ));
        };
        let mut gate = open_gate(&settings, Arc::new(System::new()))?;
        eprintln!("signing for {}", path.display());
        crate::signer::socket::serve(path, 0o660, &mut gate)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Waits for SIGTERM or SIGINT.
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// `jit-broker dev`
#[derive(Debug, Args)]
pub struct DevArgs {
    /// The private folder; default: one below the state folder, removed at the end
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Plays the whole story, both sides, and ends
    #[arg(long)]
    story: bool,
}

impl DevArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// What could not be started.
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => Home::find()?.state.join(format!("dev-{}", std::process::id())),
        };
        let world = crate::daemon::dev::start(&dir).await?;
        let played = crate::daemon::story::introduce(&world).await;
        let result = match played {
            Ok(()) if self.story => crate::daemon::story::play(&world).await,
            other => other,
        };
        if result.is_ok() && !self.story {
            crate::daemon::story::by_hand(&world);
            ended().await;
        }
        world.stop().await;
        if self.dir.is_none() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        result?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `jit-broker ca …`
#[derive(Debug, Subcommand)]
pub enum CaVerb {
    /// The authority's public keys
    List,
    /// One of them: ssh-user, ssh-host, x509-server
    Export {
        /// Which
        #[arg(long)]
        kind: String,
    },
    /// The revocation list, for sshd's RevokedKeys
    Krl,
}

impl CaVerb {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn run(&self, _: &Globals) -> Result<ExitCode, Failure> {
        let mut client = Client::remembered(&Home::find()?)?;
        let about = client.context()?.about.clone();
        match self {
            Self::List => {
                println!("ssh-user\t{}\nssh-host\t{}\nlog\t{}", about.ssh_user, about.ssh_host, about.log_key);
            }
            Self::Export { kind } => match kind.as_str() {
                "ssh-user" => println!("{}", about.ssh_user),
                "ssh-host" => println!("{}", about.ssh_host),
                "x509-server" => print!("{}", about.server_ca_pem),
                other => {
                    return Err(Refusal::new(
                        Code::USAGE,
                        format!("There is no {other}: ssh-user, ssh-host, x509-server."),
                    )
                    .into());
                }
            },
            Self::Krl => {
                let doc: KrlDoc = client.get("/v1/krl").await?;
                let bytes =
                    data_encoding::BASE64.decode(doc.krl.as_bytes()).map_err(|e| Failure::local("the list", e))?;
                std::io::Write::write_all(&mut std::io::stdout(), &bytes).map_err(|e| Failure::local("stdout", e))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
