//! The operator's verbs: those that run on the broker's own machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::files::has_bundle;
use super::home::Home;
use super::{Globals, keys, output};
use crate::broker::left::LEFT;
use crate::clock::System;
use crate::daemon::init::{Plan, init, init_services};
use crate::daemon::look::refusals;
use crate::daemon::notify::Notify;
use crate::daemon::services::CONFIG_DIR;
use crate::daemon::{Daemon, RELOADED, aside, open_gate, watch};
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::target::Mode;
use crate::settings::{Settings, SignerAt, bad_config};
use crate::wire::LeftDoc;

/// `jit-broker init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder that is made
    #[arg(long, required_unless_present = "services")]
    dir: Option<PathBuf>,
    /// For the two units, as root: /etc/jit-broker, and the users' own folders below /var/lib
    #[arg(long)]
    services: bool,
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
    /// Where the SSH gateway listens, as in 0.0.0.0:7022
    #[arg(long, value_name = "ADDR")]
    gateway_ssh: Option<std::net::SocketAddr>,
    /// The address range from which targets see the gateway, as in 10.0.0.5/32; default: where it listens
    #[arg(long, value_name = "CIDR", requires = "gateway_ssh")]
    gateway_source: Vec<String>,
}

impl InitArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Code::NOT_EMPTY`], or what the disk says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let plan = Plan {
            dir: self.dir.clone().unwrap_or_else(|| CONFIG_DIR.into()),
            admin: self.admin.clone(),
            key: keys::public(&self.key)?,
            listen: self.listen,
            public_url: self.public_url.clone().unwrap_or_else(|| format!("https://{}", self.listen)),
            gateway_ssh: self.gateway_ssh,
            gateway_source: self.gateway_source.clone(),
        };
        let clock = Arc::new(System::new());
        let made = if self.services { init_services(&plan, clock).await? } else { init(&plan, clock).await? };
        let (genesis, config) = (&made.genesis, made.config.display().to_string());
        let fields = serde_json::json!({ "config": config, "install": genesis.install, "ssh_user": genesis.ssh_user,
            "ssh_host": genesis.ssh_host, "log_key": genesis.log_key, "fingerprint": genesis.x509_server });
        let lines = [
            format!("user CA      {}", genesis.ssh_user),
            format!("host CA      {}", genesis.ssh_host),
            format!("log key      {}", genesis.log_key),
            format!("fingerprint  {}", genesis.x509_server),
        ];
        output::answer(globals.output, "init", fields, &config, &lines)?;
        let (url, fingerprint, dir) = (&plan.public_url, &genesis.x509_server, plan.dir.display());
        eprintln!("Next:");
        if self.services {
            eprintln!("  systemctl enable --now jit-broker-signer jit-broker");
        } else {
            eprintln!("  jit-broker serve --config {config}");
        }
        eprintln!("  jit-broker auth login --server {url} --fingerprint {fingerprint} --as {}", plan.admin);
        eprintln!("  jit-broker apply {dir}      # after people.toml, targets.toml and policy.toml were filled in");
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
        // Before the ledger is held, by which `reload` finds this process. A reload that comes during the start is heeded after it; a stop is
        // one at once, whatever the start waits for, and leaves what a kill leaves.
        let mut hang_up = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok();
        let mut over = std::pin::pin!(ended());
        let mut daemon = tokio::select! {
            started = Daemon::start(&settings, Arc::new(System::new())) => started?,
            () = &mut over => std::process::exit(0),
        };
        eprintln!("listening on https://{}", daemon.address);
        daemon
            .witness_key
            .iter()
            .for_each(|key| eprintln!("keeps checkpoints of other logs, and signs for them as {key}"));
        daemon.gateway_ssh.iter().for_each(|address| eprintln!("ssh gateway on {address}"));
        daemon.metrics.iter().for_each(|address| eprintln!("metrics on http://{address}/metrics"));
        let notify = Arc::new(Notify::from_env());
        notify.ready("serving");
        daemon.watch(notify.clone());
        let failure = loop {
            let told = async {
                match &mut hang_up {
                    Some(signal) => signal.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut over => break None,
                refusal = daemon.failed() => break Some(refusal),
                // The bundle takes effect by `apply`; what this file says of sockets and keys is opened once.
                _ = told => {
                    notify.reloading();
                    let told = match self.settings() {
                        Ok(next) => Reloaded { good: true, restart_for: owned(daemon.reload(&next)), problem: None },
                        Err(failure) => Reloaded { good: false, restart_for: Vec::new(), problem: Some(failure.0.message) },
                    };
                    told.lines(&self.config).iter().for_each(|line| eprintln!("{line}"));
                    told.write(&settings.ledger);
                    notify.ready("serving");
                }
            }
        };
        notify.stopping();
        daemon.stop().await;
        match failure {
            None => Ok(ExitCode::SUCCESS),
            Some(refusal) => Err(refusal.into()),
        }
    }

    /// `reload`: the file is looked at here first, then the running daemon takes it, or says why not.
    ///
    /// # Errors
    /// Every problem of the file; [`Code::UNREACHABLE`] where no daemon runs.
    pub async fn reload(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let settings = self.settings()?;
        let away = || Failure::new(Code::UNREACHABLE, format!("No daemon holds {}.", settings.ledger.display()));
        let pid = crate::ledger::held_by(&settings.ledger).and_then(rustix::process::Pid::from_raw).ok_or_else(away)?;
        let before = Reloaded::read(&settings.ledger);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP)
            .map_err(|e| Failure::local("the daemon", e))?;
        for _ in 0..ANSWERS {
            tokio::time::sleep(ANSWER).await;
            let Some((at, told)) = Reloaded::read(&settings.ledger) else { continue };
            if before.as_ref().is_some_and(|(known, _)| *known == at) {
                continue;
            }
            let lines = told.lines(&self.config);
            if !told.good {
                return Err(Failure::new(Code::BAD_CONFIG, lines.join("\n")));
            }
            let fields = serde_json::json!({ "done": "reload", "restart_for": told.restart_for });
            output::answer(globals.output, "done", fields, "", &[])?;
            lines.iter().for_each(|line| eprintln!("{line}"));
            return Ok(ExitCode::SUCCESS);
        }
        Err(Failure::local("the daemon", "it did not say in time what it made of the file; see its log"))
    }

    /// `check`: what `serve` would refuse, and what the running broker says is left on targets; exit status 10 for that.
    ///
    /// # Errors
    /// Every problem.
    pub async fn check(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let settings = self.settings()?;
        let mut problems: Vec<String> = refusals(&settings).await.into_iter().map(problem).collect();
        let folder = self.config.parent().unwrap_or(Path::new("."));
        let admins: Vec<PersonName> = settings.admins.keys().cloned().collect();
        if has_bundle(folder) {
            match super::admin::read_bundle(folder, &admins) {
                Ok((_, bundle)) if settings.gateway_ssh.is_none() => problems.extend(bundle.unreachable()),
                Ok(_) => {}
                Err(failure) => problems.push(problem(failure.0)),
            }
        }
        if !problems.is_empty() {
            return Err(bad_config(&problems).into());
        }
        let left = written(&settings.state_dir)?;
        let good = format!("{}: good", self.config.display());
        let Some(left) = left else {
            output::done(globals.output, "check", &good)?;
            return Ok(ExitCode::SUCCESS);
        };
        eprintln!("{good}");
        if globals.json() {
            let fields = serde_json::json!({ "done": "check", "residue": left.residue, "strangers": left.strangers });
            output::answer(globals.output, "done", fields, "", &[])?;
        }
        super::left::show_left(&left).iter().for_each(|line| eprintln!("{line}"));
        Ok(if left.is_residue() { ExitCode::from(10) } else { ExitCode::SUCCESS })
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
        let listener = crate::signer::socket::bind(path, 0o660)?;
        aside::clear_keys(&settings);
        eprintln!("signing for {}", path.display());
        let notify = Notify::from_env();
        if notify.is_heard() {
            watch::signer(path, notify);
        }
        crate::signer::socket::serve(&listener, &mut gate);
        Ok(ExitCode::SUCCESS)
    }
}

/// A refusal among several, with its next step, where that is another than to look for problems.
fn problem(refusal: Refusal) -> String {
    match refusal.hint.filter(|hint| Some(hint.as_str()) != Code::BAD_CONFIG.entry().next) {
        Some(hint) => format!("{}\n  next: {hint}", refusal.message),
        None => refusal.message,
    }
}

/// What the broker of this machine last wrote down; nothing where none ran yet.
pub(super) fn written(state_dir: &Path) -> Result<Option<LeftDoc>, Failure> {
    let path = state_dir.join(LEFT);
    let there = path.try_exists().map_err(|e| Failure::local(path.display(), e))?;
    let text = if there { Some(crate::signer::keys::look(&path)?) } else { None };
    let damaged = |e: serde_json::Error| Failure::local(format!("{} is damaged", path.display()), e);
    text.map(|text| serde_json::from_str(&text).map_err(damaged)).transpose()
}

/// How often, and how many times, the answer of the daemon is looked for.
const ANSWER: std::time::Duration = std::time::Duration::from_millis(50);
const ANSWERS: u32 = 200;
/// Where the daemon says what it made of a new configuration: beside its ledger, which stays where it is.
fn reloaded(ledger: &Path) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(RELOADED);
    name.into()
}

/// What a daemon made of a new configuration.
#[derive(Debug, Serialize, Deserialize)]
struct Reloaded {
    good: bool,
    restart_for: Vec<String>,
    problem: Option<String>,
}

fn owned(names: Vec<&str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

impl Reloaded {
    fn lines(&self, config: &Path) -> Vec<String> {
        let shown = config.display();
        match (&self.problem, self.restart_for.is_empty()) {
            (Some(problem), _) => vec![format!("{shown} was not taken; what was before goes on."), problem.clone()],
            (None, true) => vec![format!("{shown} counts now.")],
            (None, false) => {
                vec![format!("{shown} counts now, but for {}: that needs a restart.", self.restart_for.join(", "))]
            }
        }
    }

    fn write(&self, ledger: &Path) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Err(refusal) = crate::signer::keys::replace(&reloaded(ledger), &text, 0o600) {
            tracing::warn!("what came of the reload was not written: {}", refusal.message);
        }
    }

    /// With the inode of the file: each answer is a new one.
    fn read(ledger: &Path) -> Option<(u64, Self)> {
        let path = reloaded(ledger);
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).ok()?);
        Some((inode, serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?))
    }
}

/// Waits for SIGTERM or SIGINT; neither kills the process any more from the call on, and not only once it is waited for.
fn ended() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let both = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut term), Ok(mut int)) = both else { return };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }
}

/// `jit-broker dev`
#[derive(Debug, Args)]
pub struct DevArgs {
    /// The private folder; default: one below the state folder, removed at the end
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Plays the whole story, both sides, and ends
    #[arg(long, conflicts_with = "direct")]
    story: bool,
    /// The host is reached directly, and not through the gateway
    #[arg(long)]
    direct: bool,
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
        let mode = if self.direct { Mode::Direct } else { Mode::Gateway };
        let mut world = crate::daemon::dev::start(&dir, mode).await?;
        let played = crate::daemon::story::introduce(&world).await;
        let mut result = match played {
            Ok(()) if self.story => crate::daemon::story::play(&world).await,
            other => other,
        };
        if result.is_ok() && !self.story {
            crate::daemon::story::by_hand(&world, self.dir.is_some());
            result = tokio::select! {
                () = ended() => Ok(()),
                refusal = world.daemon.failed() => Err(refusal),
            };
        }
        world.stop().await;
        if self.dir.is_none() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        result?;
        Ok(ExitCode::SUCCESS)
    }
}
