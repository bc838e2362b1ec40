//! `init`: from nothing to a broker that refuses everything.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::services;
use crate::broker::clerk::{self, Job, SignerHandle, ledger_refusal};
pub use crate::cli::{bundle_files, has_bundle};
use crate::clock::{Clock, Timekeeper};
use crate::domain::event::{Command, Genesis};
use crate::domain::ids::InstallId;
use crate::domain::key::Key;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::{Ledger, OpenMode};
use crate::settings::{REFERENCE, Settings, bad_config, nowhere, url_host};
use crate::signer::keys::{Keys, write_new};

/// What `init` was told.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The folder that is made.
    pub dir: PathBuf,
    /// The first administrator.
    pub admin: PersonName,
    /// Their public key.
    pub key: Key,
    /// Where HTTPS will listen.
    pub listen: std::net::SocketAddr,
    /// The address that clients will use.
    pub public_url: String,
    /// Where the SSH gateway will listen, where there is to be one.
    pub gateway_ssh: Option<std::net::SocketAddr>,
    /// The addresses from which targets see it, as ranges; its own address where there are none.
    pub gateway_source: Vec<String>,
}

/// What `init` made.
#[derive(Debug)]
pub struct Made {
    /// The configuration file.
    pub config: PathBuf,
    /// The first entry.
    pub genesis: Genesis,
}

/// The files of an empty bundle: everything is refused.
pub const BUNDLE_FILES: [(&str, &str); 3] = [
    ("people.toml", include_str!("../../config/people.toml")),
    ("targets.toml", include_str!("../../config/targets.toml")),
    ("policy.toml", include_str!("../../config/policy.toml")),
];

/// Makes folder, files, keys and the log's first entry. Never overwrites.
///
/// # Errors
/// [`Code::NOT_EMPTY`] when the folder has something in it; nothing is made then.
pub async fn init(plan: &Plan, clock: Arc<dyn Clock>) -> Result<Made, Refusal> {
    make(plan, clock, None).await
}

/// The same for the two units, with their folders and users (systemd/).
///
/// # Errors
/// As [`init`]; [`Code::BAD_CONFIG`] where the users are not there yet.
pub async fn init_services(plan: &Plan, clock: Arc<dyn Clock>) -> Result<Made, Refusal> {
    make(plan, clock, Some(services::Users::find()?)).await
}

fn vacant(dir: &Path) -> Result<(), Refusal> {
    let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || dir.is_file() {
        return Err(Refusal::new(Code::NOT_EMPTY, format!("{} is not empty; nothing was changed.", dir.display())));
    }
    Ok(())
}

fn folder(path: &Path) -> Result<(), Refusal> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| Refusal::new(Code::LOCAL_IO, format!("{} cannot be made: {e}.", path.display())))
}

async fn make(plan: &Plan, clock: Arc<dyn Clock>, users: Option<services::Users>) -> Result<Made, Refusal> {
    if !plan.key.0.signs_acts() {
        return Err(Refusal::new(Code::BAD_KEY, "RSA keys do not sign acts; take Ed25519, ECDSA or a security key."));
    }
    if let Some(listen) = plan.gateway_ssh {
        source_of(listen, &plan.gateway_source)?;
    }
    connectable(&plan.public_url)?;
    vacant(&plan.dir)?;
    let text = configuration(plan, if users.is_some() { &services::LINES } else { &[] });
    let config = plan.dir.join("jit-broker.toml");
    let settings = Settings::parse(&text, &config).map_err(|problems| bad_config(&problems))?;
    if users.is_some() {
        vacant(&settings.state_dir)?;
        vacant(&settings.ca_dir)?;
    }
    folder(&plan.dir)?;
    write_new(&config, text.as_bytes())?;
    for (name, text) in BUNDLE_FILES {
        write_new(&plan.dir.join(name), text.as_bytes())?;
    }
    folder(&settings.state_dir)?;
    folder(&settings.ca_dir)?;
    let keys = Keys::make(&settings.ca_dir, clock.read().wall_s)?;
    let mut install = [0; 16];
    clock.fill(&mut install);
    let genesis = Genesis {
        ssh_gateway: keys.ssh_gateway.as_ref().map(|key| Key(key.public().clone())),
        x509_client: keys.x509_client.as_ref().map(|(_, cert)| cert.pem().to_owned()),
        install: InstallId::new(install),
        admins: BTreeMap::from([(plan.admin.clone(), plan.key.clone())]),
        log_key: keys.log_public(),
        ssh_user: Key(keys.ssh_user.public().clone()),
        ssh_host: Key(keys.ssh_host.public().clone()),
        x509_server: keys.x509_cert.fingerprint(),
    };
    drop(keys);
    begin(&settings, clock, &genesis).await?;
    if let Some(users) = users {
        users.own(&settings, &config)?;
    }
    Ok(Made { config, genesis })
}

/// The commented reference with the answers filled in.
fn configuration(plan: &Plan, services: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for line in REFERENCE.lines() {
        let key = line.split('=').next().unwrap_or_default().trim();
        let filled = match key {
            "listen" => Some(format!("listen     = \"{}\"", plan.listen)),
            "public_url" => Some(format!("public_url = \"{}\"", plan.public_url)),
            "admins" => Some(format!("admins = [{{ name = \"{}\", key = \"{}\" }}]", plan.admin, plan.key)),
            _ => services.iter().find(|(name, _)| *name == key).map(|(_, line)| (*line).to_owned()),
        };
        out.push_str(filled.as_deref().unwrap_or(line));
        out.push('\n');
        if line == GATEWAY_SECTION
            && let Some(listen) = plan.gateway_ssh
        {
            out.push_str(&gateway(listen, &plan.gateway_source));
        }
    }
    out
}

/// Refuses an address that clients on other machines cannot use, as that of a broker that listens everywhere.
fn connectable(public_url: &str) -> Result<(), Refusal> {
    match url_host(public_url.trim_end_matches('/')) {
        Some((host, _)) if !nowhere(&host) => Ok(()),
        _ => Err(Refusal::new(
            Code::USAGE,
            format!("{public_url} is no address that clients connect to; name the one that they use by --public-url."),
        )
        .hint("jit-broker init … --public-url https://broker.corp:7443")),
    }
}

/// The line of the reference after which the gateway's own settings stand.
const GATEWAY_SECTION: &str = "# [gateway.ssh]";

fn gateway(listen: std::net::SocketAddr, source: &[String]) -> String {
    let source = source_of(listen, source).unwrap_or_default();
    let said = if source.is_empty() { String::new() } else { format!("source = {source:?}\n") };
    format!("[gateway.ssh]\nlisten = \"{listen}\"\n{said}")
}

/// The ranges from which targets see the gateway: what was said, or where it listens; loopback needs no word.
fn source_of(listen: std::net::SocketAddr, said: &[String]) -> Result<Vec<String>, Refusal> {
    if let Some(wrong) = said.iter().find(|range| range.parse::<jit_ca::spec::Cidr>().is_err()) {
        return Err(Refusal::new(Code::USAGE, format!("{wrong} is no address range: as in 10.0.0.5/32.")));
    }
    match listen.ip() {
        ip if !said.is_empty() || ip.is_loopback() => Ok(said.to_vec()),
        ip if !ip.is_unspecified() => Ok(crate::domain::decide::only(&[ip])),
        _ => Err(Refusal::new(Code::USAGE, "The gateway listens everywhere; say from which address targets see it.")
            .hint("jit-broker init … --gateway-source 10.0.0.5/32")),
    }
}

async fn begin(settings: &Settings, clock: Arc<dyn Clock>, genesis: &Genesis) -> Result<(), Refusal> {
    let gate = super::found_gate(settings, clock.clone())?;
    let ledger = Ledger::open(&settings.ledger, OpenMode::Create).await.map_err(|e| ledger_refusal(&e))?;
    let parts = clerk::start(
        ledger,
        SignerHandle::new(Box::new(gate)),
        Arc::new(Timekeeper::new(clock)),
        super::cache_of(settings),
    )
    .await?;
    let (reply, answer) = tokio::sync::oneshot::channel();
    let job = Job { command: Command::Begin(Box::new(genesis.clone())), blobs: Vec::new(), reply };
    let stopped = || Refusal::new(Code::LEDGER_DOWN, "The log could not be begun.");
    parts.jobs.send(job).await.map_err(|_| stopped())?;
    answer.await.map_err(|_| stopped())??;
    if parts.note.borrow().is_none() {
        return Err(Refusal::new(Code::SIGNER_AWAY, "The first checkpoint could not be signed."));
    }
    drop(parts.jobs);
    let _ = parts.task.await;
    Ok(())
}
