//! `[witness.NAME]` and `[keeps.NAME]`: where copies of the newest checkpoint go, and whose are kept here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::url_host;
use crate::domain::key::Key;

/// Where Debian keeps the authorities that browsers trust.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// An address that something is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsUrl {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query, from the slash on.
    pub path: String,
}

/// Where a copy of the newest checkpoint goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WitnessAt {
    /// A witness (C2SP tlog-witness), or another jit-broker.
    Witness {
        /// What stands before `/add-checkpoint`.
        url: HttpsUrl,
        /// Its key, `NAME+ID+KEY`.
        key: String,
        /// The authorities of its certificate, PEM.
        ca: PathBuf,
    },
    /// Whatever takes a note by POST.
    Webhook {
        /// The address.
        url: HttpsUrl,
        /// The authorities of its certificate, PEM.
        ca: PathBuf,
    },
    /// A file, best on a disk that this machine cannot take back.
    File(PathBuf),
}

/// What `[witness.*]` and `[keeps.*]` say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outside {
    /// Where copies go, by name.
    pub witnesses: BTreeMap<String, WitnessAt>,
    /// The logs whose checkpoints are kept here: origin and key.
    pub keeps: BTreeMap<String, Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WitnessLine {
    url: Option<String>,
    key: Option<String>,
    webhook: Option<String>,
    file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeepsLine {
    origin: String,
    key: Key,
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "https://{host}:{}{}", self.port, self.path)
    }
}

/// True for an address that nothing is ever sent to: this network's own services, and what is no address of one host (T155).
pub fn forbidden(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast(),
    }
}

fn https_url(text: &str) -> Result<HttpsUrl, String> {
    let wrong = || "must be https://HOST[:PORT][/PATH], without a user and a fragment".to_owned();
    let rest = text.strip_prefix("https://").ok_or_else(wrong)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = url_host(&format!("https://{authority}")).ok_or_else(wrong)?;
    if path.contains('#') || path.chars().any(|c| c.is_whitespace() || !c.is_ascii_graphic()) {
        return Err(wrong());
    }
    if host.parse::<IpAddr>().is_ok_and(forbidden) {
        return Err(format!("{host} is not an address that checkpoints are sent to"));
    }
    Ok(HttpsUrl { host, port, path: path.to_owned() })
}

impl WitnessLine {
    pub(super) fn read(self, base: &Path) -> Result<WitnessAt, String> {
        let ca = |ca: Option<PathBuf>| ca.map_or_else(|| PathBuf::from(SYSTEM_CA), |ca| base.join(ca));
        match (self.url, self.key, self.webhook, self.file) {
            (Some(url), Some(key), None, None) => {
                let mut url = https_url(&url).map_err(|e| format!("url: {e}"))?;
                url.path = url.path.trim_end_matches('/').to_owned();
                Ok(WitnessAt::Witness { url, key, ca: ca(self.ca) })
            }
            (Some(_), None, None, None) => Err("key: a witness counts by its key, NAME+ID+KEY".to_owned()),
            (None, None, Some(url), None) => {
                let mut url = https_url(&url).map_err(|e| format!("webhook: {e}"))?;
                if url.path.is_empty() {
                    url.path = "/".to_owned();
                }
                Ok(WitnessAt::Webhook { url, ca: ca(self.ca) })
            }
            (None, None, None, Some(file)) if self.ca.is_none() => Ok(WitnessAt::File(base.join(file))),
            _ => Err("say url and key, or webhook, or file".to_owned()),
        }
    }
}

pub(super) fn read(
    witnesses: BTreeMap<String, WitnessLine>,
    keeps: BTreeMap<String, KeepsLine>,
    base: &Path,
    problems: &mut Vec<String>,
) -> Outside {
    let mut outside = Outside::default();
    for (name, line) in witnesses {
        let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        match line.read(base) {
            Ok(at) if plain && name.len() <= 64 => drop(outside.witnesses.insert(name, at)),
            Ok(_) => problems.push(format!("witness: {name:?} is no name; letters, digits, - and _ make one")),
            Err(why) => problems.push(format!("witness.{name}: {why}")),
        }
    }
    for (name, line) in keeps {
        if line.key.0.ed25519_bytes().is_none() {
            problems.push(format!("keeps.{name}: the key of a log is an Ed25519 key"));
        }
        if line.origin.is_empty() || line.origin.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+') {
            problems.push(format!("keeps.{name}: {:?} is no origin of a log", line.origin));
        }
        if outside.keeps.insert(line.origin, line.key).is_some() {
            problems.push(format!("keeps.{name}: the origin stands twice"));
        }
    }
    outside
}
