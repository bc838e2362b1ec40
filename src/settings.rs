//! `jit-broker.toml`: the machine's own file, parsed whole before any port is bound. Unknown keys are errors.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use jit_ca::spec::Cidr;
use serde::Deserialize;

use crate::domain::key::Key;
use crate::domain::names::{PersonName, SecretName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::session::Gateway;
use crate::domain::target::Address;

mod witness;

pub use witness::{HttpsUrl, Outside, WitnessAt, forbidden};

/// The full commented reference, which `init` writes.
pub const REFERENCE: &str = include_str!("../config/jit-broker.toml");

/// The daemon's configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where HTTPS listens.
    pub listen: SocketAddr,
    /// The address that clients use and sign.
    pub public_url: String,
    /// Where everything that changes lives.
    pub state_dir: PathBuf,
    /// The first administrators, as pinned in leaf 0.
    pub admins: BTreeMap<PersonName, Key>,
    /// The ledger.
    pub ledger: PathBuf,
    /// The authority's keys.
    pub ca_dir: PathBuf,
    /// Where the signer is.
    pub signer: SignerAt,
    /// What the bundle may name as `credential:NAME`.
    pub secrets: BTreeMap<SecretName, Secret>,
    /// The SSH gateway, where there is one.
    pub gateway_ssh: Option<GatewaySsh>,
    /// Where recordings of sessions lie.
    pub recordings: PathBuf,
    /// Copies of checkpoints: where ours go, and whose are kept here.
    pub outside: Outside,
    /// Where metrics are served, where they are; loopback.
    pub metrics: Option<SocketAddr>,
}

/// The SSH gateway of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySsh {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How others see it.
    pub seen: Gateway,
}

/// Where a secret comes from, and where it may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The source.
    pub from: SecretFrom,
    /// The one server that it may be sent to.
    pub target: Address,
    /// The role on that server that it opens.
    pub user: String,
}

/// The sources of secrets; a secret itself never stands in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretFrom {
    /// A file of mode 600: a password, or a client certificate and its key as PEM.
    File(PathBuf),
    /// A credential of the systemd unit (systemd.exec, LoadCredential=).
    Credential(String),
    /// A variable of the environment; for tests.
    Env(String),
}

/// The role that makes accounts, where `[secrets]` does not say.
const ADMIN_USER: &str = "jit_admin";

/// Where the signer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignerAt {
    /// In the daemon's own process: for `dev`, tests and single users.
    Local,
    /// A process and user of its own.
    Socket(PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: u32,
    server: Server,
    trust: Trust,
    #[serde(default)]
    store: Store,
    #[serde(default)]
    ca: Ca,
    #[serde(default)]
    secrets: BTreeMap<SecretName, SecretLine>,
    #[serde(default)]
    gateway: Gateways,
    #[serde(default)]
    recording: Recording,
    #[serde(default)]
    witness: BTreeMap<String, witness::WitnessLine>,
    #[serde(default)]
    keeps: BTreeMap<String, witness::KeepsLine>,
    metrics: Option<Metrics>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metrics {
    listen: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Gateways {
    ssh: Option<SshLine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SshLine {
    listen: String,
    address: Option<String>,
    source: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Recording {
    dir: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretLine {
    from: String,
    #[serde(rename = "for")]
    target: String,
    user: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    listen: String,
    public_url: String,
    #[serde(default = "state_dir")]
    state_dir: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trust {
    admins: Vec<Admin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Admin {
    name: PersonName,
    key: Key,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Store {
    url: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Ca {
    dir: Option<PathBuf>,
    signer: Option<String>,
}

fn state_dir() -> PathBuf {
    PathBuf::from("state")
}

const KEYS: [&str; 29] = [
    "metrics",
    "witness",
    "keeps",
    "origin",
    "webhook",
    "file",
    "gateway",
    "ssh",
    "address",
    "source",
    "recording",
    "schema",
    "server",
    "trust",
    "store",
    "ca",
    "listen",
    "public_url",
    "state_dir",
    "admins",
    "name",
    "key",
    "url",
    "dir",
    "signer",
    "secrets",
    "from",
    "for",
    "user",
];

impl Settings {
    /// Reads the file; relative paths are relative to its folder.
    ///
    /// # Errors
    /// Every problem, each with its line where there is one.
    pub fn read(path: &Path) -> Result<Self, Vec<String>> {
        let text = std::fs::read_to_string(path);
        Self::parse(&text.map_err(|e| vec![format!("{}: cannot be read: {e}", path.display())])?, path)
    }

    /// Reads the text of a file that lies, or will lie, there.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, Vec<String>> {
        let shown = path.display();
        let file: File = toml::from_str(text).map_err(|e| vec![format!("{shown}:{}", toml_problem(text, &e))])?;
        file.check(path.parent().unwrap_or(Path::new(".")))
            .map_err(|all| all.iter().map(|p| format!("{shown}: {p}")).collect())
    }
}

/// One line: number, what is wrong, and the key that may have been meant.
fn toml_problem(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |s| s.start);
    let line = text.get(..at).map_or(1, |before| before.lines().count().max(1) + usize::from(before.ends_with('\n')));
    let message = error.message();
    let key = error.span().and_then(|s| text.get(s)).unwrap_or_default().trim();
    let close = KEYS.iter().map(|k| (strsim::damerau_levenshtein(k, key), *k)).min();
    match close {
        Some((1..=3, near)) if message.contains("unknown field") => format!("{line}: {message}; did you mean {near}?"),
        _ => format!("{line}: {message}"),
    }
}

impl File {
    fn check(self, base: &Path) -> Result<Settings, Vec<String>> {
        let mut problems = Vec::new();
        if self.schema != 1 {
            problems.push(format!("schema = {}: this version reads 1", self.schema));
        }
        let listen = self.server.listen.parse::<SocketAddr>().map_err(|e| problems.push(format!("listen: {e}"))).ok();
        let public_url = self.server.public_url.trim_end_matches('/').to_owned();
        match url_host(&public_url) {
            None => problems.push("public_url: must be https://HOST[:PORT]".to_owned()),
            Some((host, _)) if nowhere(&host) => {
                problems.push(format!("public_url: nobody connects to {host}; say this machine's name or address"));
            }
            Some(_) => {}
        }
        let mut admins = BTreeMap::new();
        for admin in self.trust.admins {
            if !admin.key.0.signs_acts() {
                problems.push(format!(
                    "trust: the key of {} cannot sign acts; take Ed25519, ECDSA or a security key",
                    admin.name
                ));
            }
            if admins.values().any(|k| *k == admin.key) || admins.insert(admin.name.clone(), admin.key).is_some() {
                problems.push(format!("trust: {} or their key stands twice", admin.name));
            }
        }
        if admins.is_empty() {
            problems.push("trust: at least one administrator is needed".to_owned());
        }
        let state_dir = base.join(self.server.state_dir);
        let ledger = match self.store.url.as_deref() {
            None => state_dir.join("ledger.db"),
            Some(url) => match url.strip_prefix("sqlite:") {
                Some(path) if !path.is_empty() => base.join(path),
                _ => {
                    problems.push("store.url: sqlite:PATH is the one store of this version".to_owned());
                    PathBuf::new()
                }
            },
        };
        let ca_dir = self.ca.dir.map_or_else(|| state_dir.join("ca"), |dir| base.join(dir));
        let signer = match self.ca.signer.as_deref() {
            None | Some("local") => SignerAt::Local,
            Some(text) => match text.strip_prefix("unix:") {
                Some(path) if !path.is_empty() => SignerAt::Socket(base.join(path)),
                _ => {
                    problems.push("ca.signer: must be \"local\" or \"unix:PATH\"".to_owned());
                    SignerAt::Local
                }
            },
        };
        let secrets = self
            .secrets
            .into_iter()
            .filter_map(|(name, line)| {
                let read = line.read(base);
                read.map_err(|why| problems.push(format!("secrets.{name}: {why}"))).ok().map(|secret| (name, secret))
            })
            .collect();
        let gateway_ssh = self
            .gateway
            .ssh
            .and_then(|line| line.read(&public_url).map_err(|why| problems.push(format!("gateway.ssh: {why}"))).ok());
        let outside = witness::read(self.witness, self.keeps, base, &mut problems);
        let recordings = self.recording.dir.map_or_else(|| state_dir.join("recordings"), |dir| base.join(dir));
        let metrics = self
            .metrics
            .and_then(|line| line.read().map_err(|why| problems.push(format!("metrics.listen: {why}"))).ok());
        match listen {
            Some(listen) if problems.is_empty() => Ok(Settings {
                listen,
                public_url,
                state_dir,
                admins,
                ledger,
                ca_dir,
                signer,
                secrets,
                gateway_ssh,
                recordings,
                outside,
                metrics,
            }),
            _ => Err(problems),
        }
    }
}

impl SecretLine {
    fn read(self, base: &Path) -> Result<Secret, String> {
        let plain =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let from = match self.from.split_once(':') {
            Some(("file", path)) if !path.is_empty() => SecretFrom::File(base.join(path)),
            Some(("credential", name)) if plain(name) && !name.starts_with('.') => {
                SecretFrom::Credential(name.to_owned())
            }
            Some(("env", name)) if plain(name) => SecretFrom::Env(name.to_owned()),
            _ => {
                return Err(
                    "from is file:PATH, credential:NAME or env:NAME; the secret itself never stands here".to_owned()
                );
            }
        };
        let target = self.target.parse().map_err(|e| format!("for: {e}"))?;
        let user = self.user.unwrap_or_else(|| ADMIN_USER.to_owned());
        if user.is_empty() || user.len() > 63 || user.contains(char::is_control) {
            return Err("user is 1 to 63 bytes without control characters".to_owned());
        }
        Ok(Secret { from, target, user })
    }
}

impl Metrics {
    /// SECURITY: nobody signs in there, so it is for this machine alone.
    fn read(self) -> Result<SocketAddr, String> {
        let listen: SocketAddr = self.listen.parse().map_err(|e| format!("{e}"))?;
        if listen.ip().is_loopback() {
            return Ok(listen);
        }
        Err("there is neither TLS nor sign-in on it, so it listens on loopback only, as in 127.0.0.1:9464".to_owned())
    }
}

impl SshLine {
    fn read(self, public_url: &str) -> Result<GatewaySsh, String> {
        let listen: SocketAddr = self.listen.parse().map_err(|e| format!("listen: {e}"))?;
        let address = match self.address {
            Some(text) => {
                let said: Address = text.parse().map_err(|e| format!("address: {e}"))?;
                if nowhere(&said.host) {
                    return Err(format!(
                        "address: nobody connects to {}; say this machine's name or address",
                        said.host
                    ));
                }
                said
            }
            None => {
                let host = url_host(public_url).map(|(host, _)| host).ok_or("address: must be HOST:PORT")?;
                Address { host, port: listen.port() }
            }
        };
        let source = match self.source {
            Some(ranges) if !ranges.is_empty() => ranges,
            _ if listen.ip().is_loopback() => ["127.0.0.1/32", "::1/128"].map(str::to_owned).to_vec(),
            _ => {
                return Err(
                    "source: name the addresses from which targets see the gateway, as in [\"10.0.0.5/32\"]".to_owned()
                );
            }
        };
        let range = |text: &String| text.parse::<Cidr>().map_err(|e| format!("source: {text}: {e}"));
        let source = source.iter().map(range).collect::<Result<_, _>>()?;
        Ok(GatewaySsh { listen, seen: Gateway { address, source } })
    }
}

/// Host and port of an `https://` address.
pub fn url_host(url: &str) -> Option<(String, u16)> {
    let rest = url.strip_prefix("https://")?;
    if rest.is_empty() || rest.contains(['/', '?', '#', '@', ' ']) {
        return None;
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(443), |port| port.parse().ok())?;
    Some((host.to_owned(), port)).filter(|(host, _)| !host.is_empty())
}

/// True for an address on which one listens everywhere, and to which nobody connects from elsewhere.
pub fn nowhere(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_unspecified())
}

/// All problems as one refusal.
pub fn bad_config(problems: &[String]) -> Refusal {
    Refusal::new(Code::BAD_CONFIG, problems.join("\n"))
}
