//! `init`: from nothing to a broker that refuses everything.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::broker::clerk::{self, Job, SignerHandle, ledger_refusal};
use crate::clock::{Clock, Timekeeper};
use crate::domain::event::{Command, Genesis};
use crate::domain::ids::InstallId;
use crate::domain::key::Key;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::{Ledger, OpenMode};
use crate::settings::{REFERENCE, Settings, bad_config};
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
    if !plan.key.0.signs_acts() {
        return Err(Refusal::new(Code::BAD_KEY, "RSA keys do not sign acts; take Ed25519, ECDSA or a security key."));
    }
    if let Some(listen) = plan.gateway_ssh {
        source_of(listen, &plan.gateway_source)?;
    }
    let occupied = fs::read_dir(&plan.dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || plan.dir.is_file() {
        return Err(Refusal::new(
            Code::NOT_EMPTY,
            format!("{} is not empty; nothing was changed.", plan.dir.display()),
        ));
    }
    let state = plan.dir.join("state");
    for folder in [&plan.dir, &state, &state.join("ca")] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| Refusal::new(Code::LOCAL_IO, format!("{} cannot be made: {e}.", folder.display())))?;
    }
    let config = plan.dir.join("jit-broker.toml");
    write_new(&config, configuration(plan).as_bytes())?;
    for (name, text) in BUNDLE_FILES {
        write_new(&plan.dir.join(name), text.as_bytes())?;
    }
    let settings = Settings::read(&config).map_err(|problems| bad_config(&problems))?;
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
    Ok(Made { config, genesis })
}

/// The commented reference with the answers filled in.
fn configuration(plan: &Plan) -> String {
    let mut out = String::new();
    for line in REFERENCE.lines() {
        let key = line.split('=').next().unwrap_or_default().trim();
        let filled = match key {
            "listen" => Some(format!("listen     = \"{}\"", plan.listen)),
            "public_url" => Some(format!("public_url = \"{}\"", plan.public_url)),
            "admins" => Some(format!("admins = [{{ name = \"{}\", key = \"{}\" }}]", plan.admin, plan.key)),
            _ => None,
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

/// The files of a bundle in a folder: the three files, or folders of such files.
///
/// # Errors
/// [`Code::BAD_CONFIG`] when none can be read.
pub fn bundle_files(dir: &Path) -> Result<BTreeMap<String, String>, Refusal> {
    let mut files = BTreeMap::new();
    let broken = |path: &Path, e: std::io::Error| Refusal::new(Code::BAD_CONFIG, format!("{}: {e}.", path.display()));
    for kind in ["people", "targets", "policy"] {
        let single = dir.join(format!("{kind}.toml"));
        if single.is_file() {
            files.insert(format!("{kind}.toml"), fs::read_to_string(&single).map_err(|e| broken(&single, e))?);
        }
        let folder = dir.join(kind);
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.extension().is_some_and(|e| e == "toml") {
                files.insert(format!("{kind}/{name}"), fs::read_to_string(&path).map_err(|e| broken(&path, e))?);
            }
        }
    }
    if files.is_empty() {
        return Err(Refusal::new(
            Code::BAD_CONFIG,
            format!("{} has no people.toml, targets.toml or policy.toml.", dir.display()),
        ));
    }
    // Authorities that a target names are inlined, and nothing else that lies beside them.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let named = || files.iter().any(|(file, text)| file.starts_with("targets") && text.contains(&name));
        if name.ends_with(".crt") && named() {
            let path = entry.path();
            files.insert(name, fs::read_to_string(&path).map_err(|e| broken(&path, e))?);
        }
    }
    Ok(files)
}
