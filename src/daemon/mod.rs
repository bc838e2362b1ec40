//! The composition root: puts keys, ledger, signer, clerk, reaper and API together, and takes them apart again.
//!
//! Start with [`Daemon::start`].

pub mod aside;
pub mod backup;
mod blobs;
pub mod dev;
pub mod dig;
mod doubt;
mod gateways;
pub mod init;
pub mod look;
pub mod notify;
pub mod outside;
pub mod postgres;
pub mod reset;
pub mod restore;
mod sealed;
pub mod secrets;
pub mod services;
pub mod story;
mod tasks;
pub mod tls;
pub mod trouble;
pub mod verify;
pub mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::api::metrics::{self, Metrics};
use crate::api::serve::{serve, serve_plain};
use crate::api::sessions::Recordings;
use crate::api::{Api, router, with_outside};
use crate::broker::clerk::{self, SignerHandle, ledger_refusal};
use crate::broker::{Broker, accounts, lease, reaper, snapshot, sweep};
use crate::clock::{Clock, Timekeeper};
use crate::domain::event::Command;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::session::GATEWAY_ALIAS;
use crate::domain::state::State;
use crate::ledger::{Ledger, OpenMode, Reader};
use crate::record::{RecordError, Store};
use crate::settings::{Settings, SignerAt};
use crate::signer::Signer;
use crate::signer::cache::Cache;
use crate::signer::gate::{Gate, Pins};
use crate::signer::keys::Keys;
use crate::signer::socket::Remote;
use crate::witness::Witnesses;

use secrets::Secrets;

/// The file in the keys' folder in which the signer keeps how much of which log it has signed.
const HEAD: &str = "head.json";

/// What is behind the ledger's name in that of the file in which the daemon says what it made of a new configuration.
pub const RELOADED: &str = ".reloaded";

/// A running daemon.
pub struct Daemon {
    /// The verbs.
    pub broker: Broker,
    /// Where HTTPS listens.
    pub address: SocketAddr,
    /// The recordings, where a gateway makes them.
    pub recordings: Option<Arc<Store>>,
    /// The key by which others know this broker as a witness, where it is one.
    pub witness_key: Option<String>,
    /// Where the SSH gateway listens, where there is one.
    pub gateway_ssh: Option<SocketAddr>,
    /// Where metrics are served, where they are.
    pub metrics: Option<SocketAddr>,
    gateways: gateways::Gateways,
    witnesses: Witnesses,
    stop: tokio::sync::watch::Sender<bool>,
    tasks: tasks::Tasks,
    settings: Settings,
    secrets: Secrets,
    clerk: JoinHandle<Result<(), Refusal>>,
}

/// Opens the gate of a configuration with its keys.
///
/// # Errors
/// When keys are missing or too open, or the head is damaged.
pub fn open_gate(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Gate, Refusal> {
    Gate::open(Keys::load(&settings.ca_dir)?, settings.ca_dir.join(HEAD), pins(settings), Timekeeper::new(clock))
}

/// The signer of a configuration: its gate, or the socket to one.
fn signer_of(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Box<dyn Signer>, Refusal> {
    Ok(match &settings.signer {
        SignerAt::Local => Box::new(open_gate(settings, clock)?),
        SignerAt::Socket(path) => Box::new(Remote::new(path.clone())),
    })
}

/// Opens the gate of a configuration whose keys have signed nothing yet.
///
/// # Errors
/// As [`open_gate`]; [`Code::NOT_EMPTY`] when there is a head.
pub fn found_gate(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Gate, Refusal> {
    Gate::found(Keys::load(&settings.ca_dir)?, settings.ca_dir.join(HEAD), pins(settings), Timekeeper::new(clock))
}

/// What a configuration pins for its signer.
pub fn pins(settings: &Settings) -> Pins {
    let ssh = settings.gateway_ssh.as_ref().map(|ssh| &ssh.seen);
    Pins {
        server_names: tls::names_of(settings),
        admins: settings.admins.clone(),
        gateway_names: ssh.map(|ssh| vec![GATEWAY_ALIAS.to_owned(), ssh.address.host.clone()]).unwrap_or_default(),
        gateway_source: ssh.map(|ssh| ssh.source.iter().map(ToString::to_string).collect()).unwrap_or_default(),
    }
}

/// The recordings: where a gateway makes them, and where one made them once.
fn recordings(settings: &Settings) -> Result<Option<Arc<Store>>, Refusal> {
    if settings.gateway_ssh.is_none() && !settings.recordings.exists() {
        return Ok(None);
    }
    let broken = |e: RecordError| {
        let cause = std::error::Error::source(&e).map(|source| format!(": {source}")).unwrap_or_default();
        Refusal::new(Code::BAD_CONFIG, format!("{e}{cause}."))
    };
    Ok(Some(Arc::new(Store::open(&settings.recordings).map_err(broken)?)))
}

/// The state that a configuration's log folds to, without its daemon and next to it.
///
/// # Errors
/// When the log cannot be read.
pub async fn folded(settings: &Settings) -> Result<State, Refusal> {
    let reader = Reader::open(&settings.ledger).await.map_err(|e| ledger_refusal(&e))?;
    Ok(clerk::fold(&reader, &cache_of(settings)).await?.state)
}

/// Whether a configuration names the administrators of its log, without its daemon and next to it.
///
/// # Errors
/// [`Code::PINNED_TRUST`] where it does not; when the log cannot be read.
pub async fn agrees(settings: &Settings) -> Result<(), Refusal> {
    pinned(settings, &folded(settings).await?)
}

/// Where the broker keeps its snapshot.
fn cache_of(settings: &Settings) -> Cache {
    Cache::at(settings.state_dir.join("snapshot"))
}

impl Daemon {
    /// Starts everything. The port is bound first, so that a taken one changes nothing.
    ///
    /// # Errors
    /// What is wrong, with its code; nothing keeps running then.
    pub async fn start(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self, Refusal> {
        let signer = signer_of(settings, clock.clone())?;
        Self::start_with(settings, clock, signer).await
    }

    /// Starts everything with a given signer.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub async fn start_with(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        signer: Box<dyn Signer>,
    ) -> Result<Self, Refusal> {
        let (listener, address) = bind(settings.listen).await?;
        let local = match settings.metrics {
            Some(listen) => Some(bind(listen).await?),
            None => None,
        };
        let ledger = Ledger::open(&settings.ledger, OpenMode::Write).await.map_err(|e| ledger_refusal(&e))?;
        aside::clear_state(settings);
        if settings.signer == SignerAt::Local {
            aside::clear_keys(settings);
        }
        let signer = SignerHandle::new(signer);
        let outside = outside::open(settings, &ledger.reader(), signer.recovering().await).await?;
        let keeper = Arc::new(Timekeeper::new(clock));
        let mut parts = clerk::start(ledger, signer.clone(), keeper, cache_of(settings)).await?;
        if let Err(error) = parts.reserve.stand() {
            tracing::warn!("there is no reserve on the disk, so nothing is granted: {error}");
        }
        pinned(settings, &parts.memory.durable().await.state)?;
        let clerk = std::mem::replace(&mut parts.task, tokio::spawn(async { Ok(()) }));
        let krl_path = settings.state_dir.join("krl");
        let secrets = Secrets::of(settings);
        let accounts = secrets::accounts_with(settings, &secrets)?;
        let recordings = recordings(settings)?;
        let unwritable = trouble::of_recordings(settings, recordings.as_deref());
        let broker = Broker::new(
            parts,
            settings.public_url.clone(),
            krl_path,
            accounts,
            settings.gateway_ssh.as_ref().map(|ssh| ssh.seen.clone()),
        );
        broker.command(Command::Start, Vec::new()).await?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (acceptor, server_ca_pem, certificate) = tls::acceptor(&broker, signer).await?;
        reaper::round(&broker).await?;
        let gateways = gateways::start(settings, &broker, recordings.clone()).await?;
        let served = recordings.clone().map(Recordings::of);
        let api = Api { broker: broker.clone(), server_ca_pem: server_ca_pem.into(), recordings: served };
        let mut tasks = tasks::Tasks::default();
        tasks.start("the API", serve(listener, acceptor, with_outside(router(api), outside.clone()), stopped.clone()));
        tasks.start("the reaper", reaper::run(broker.clone(), stopped.clone()));
        tasks.start("what removes accounts", accounts::run(broker.clone(), stopped.clone()));
        tasks.start("what looks for strangers", sweep::run(broker.clone(), stopped.clone()));
        tasks.start("what looks after leases", lease::run(broker.clone(), stopped.clone()));
        tasks.start("what takes snapshots", snapshot::run(broker.clone(), stopped.clone()));
        tasks.start("what hands checkpoints out", outside::tend(&broker, &outside.witnesses, stopped.clone()));
        let told = settings.state_dir.join(trouble::TROUBLE);
        let witnesses = outside.witnesses.clone();
        tasks.start("what tells of trouble", trouble::tell(told, unwritable, witnesses, stopped.clone()));
        let metrics = local.as_ref().map(|(_, address)| *address);
        if let Some((listener, _)) = local {
            let (broker, ledger) = (broker.clone(), settings.ledger.clone());
            let routes = metrics::router(Metrics { broker, ledger, recordings: recordings.clone() });
            tasks.start("the metrics", serve_plain(listener, routes, stopped.clone()));
        }
        tasks.start("what renews the certificate", certificate.tend(stopped));
        Ok(Self {
            witness_key: outside.keeper.public().map(|key| key.to_string()),
            gateway_ssh: gateways.ssh_address(),
            gateways,
            witnesses: outside.witnesses,
            settings: settings.clone(),
            secrets,
            broker,
            address,
            recordings,
            metrics,
            stop,
            tasks,
            clerk,
        })
    }

    /// Has the daemon look at itself, and tells the service manager.
    pub fn watch(&mut self, notify: Arc<notify::Notify>) {
        let looking = watch::daemon(self.broker.clone(), notify, self.stop.subscribe());
        self.tasks.start("the self-check", looking);
    }

    /// Takes another configuration as far as that goes without a restart: where secrets come from. Gives what a restart is needed for;
    /// nothing of it was taken.
    pub fn reload(&mut self, next: &Settings) -> Vec<&'static str> {
        let now = &self.settings;
        // By all its fields, so that a new one is not forgotten here.
        let Settings {
            listen,
            public_url,
            state_dir,
            admins,
            ledger,
            ca_dir,
            signer,
            secrets: _,
            gateway_ssh,
            recordings,
            outside,
            metrics,
        } = next;
        let differs = [
            ("[server].listen", now.listen != *listen),
            ("[server].public_url", now.public_url != *public_url),
            ("[server].state_dir", now.state_dir != *state_dir),
            ("[trust]", now.admins != *admins),
            ("[store]", now.ledger != *ledger),
            ("[ca]", now.ca_dir != *ca_dir || now.signer != *signer),
            ("[gateway.ssh]", now.gateway_ssh != *gateway_ssh),
            ("[recording]", now.recordings != *recordings),
            ("[witness]", now.outside.witnesses != outside.witnesses),
            ("[keeps]", now.outside.keeps != outside.keeps),
            ("[metrics]", now.metrics != *metrics),
        ];
        if now.secrets != next.secrets {
            self.secrets.set(next);
            self.broker.forget_places();
            self.settings.secrets.clone_from(&next.secrets);
        }
        differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }

    /// Waits until the daemon can do its work no longer, and says why.
    pub async fn failed(&mut self) -> Refusal {
        let part = tokio::select! {
            clerk = &mut self.clerk => return clerk_ended(clerk),
            part = self.tasks.ended() => part,
            () = self.gateways.ended() => "the SSH gateway",
        };
        // The clerk takes the others along, and knows why.
        match tokio::time::timeout(Duration::from_secs(1), &mut self.clerk).await {
            Ok(clerk) => clerk_ended(clerk),
            // An end that nobody keeps is worse than a restart.
            Err(_) => Refusal::new(Code::BUG, format!("A part of the daemon ended by itself: {part}.")),
        }
    }

    /// Stops in order: no new connections, the log closed with its last entry.
    pub async fn stop(self) {
        // Leases are looked after for as long as a session drains.
        self.gateways.stop().await;
        self.stop.send_replace(true);
        self.tasks.all().await;
        self.broker.snapshot_at_stop().await;
        if let Err(refusal) = self.broker.command(Command::Stop, Vec::new()).await {
            tracing::warn!(code = %refusal.code, "the stop was not logged: {}", refusal.message);
        }
        self.witnesses.last(self.broker.reader(), self.broker.note(), self.broker.now()).await;
        drop(self.broker);
        if !self.clerk.is_finished() {
            self.clerk.abort();
            let _ = self.clerk.await;
        }
    }
}

fn clerk_ended(clerk: Result<Result<(), Refusal>, tokio::task::JoinError>) -> Refusal {
    match clerk {
        Ok(Err(refusal)) => refusal,
        Ok(Ok(())) => Refusal::new(Code::BUG, "The clerk stopped by itself."),
        Err(_) => Refusal::new(Code::BUG, "The clerk failed."),
    }
}

async fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), Refusal> {
    let taken = |e: std::io::Error| Refusal::new(Code::PORT_TAKEN, format!("{listen} cannot be listened on: {e}."));
    let listener = TcpListener::bind(listen).await.map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    Ok((listener, address))
}

/// The file must name the administrators that leaf 0 pins (decisions.md 3).
fn pinned(settings: &Settings, state: &State) -> Result<(), Refusal> {
    match &state.genesis {
        Some(_) if *state.admins == settings.admins => Ok(()),
        Some(_) => Err(Refusal::new(Code::PINNED_TRUST, "[trust] names other administrators than the log.")),
        None => Err(Refusal::new(Code::LEDGER_CORRUPT, "The ledger is empty: run jit-broker init in an empty folder.")),
    }
}
