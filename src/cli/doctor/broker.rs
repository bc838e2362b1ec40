//! The broker's own machine: clock, keys, the log, the disk, hosts. It reads what is on the disk, whether or not the daemon runs.

use std::io::Read;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::client::{Client, Trust};
use super::super::home::Home;
use super::super::{left, output};
use super::{Findings, bundle, clock};
use crate::broker::Memory;
use crate::broker::clerk::ledger_refusal;
use crate::clock::System;
use crate::daemon::{look, open_gate, trouble};
use crate::domain::refusal::Refusal;
use crate::domain::state::State;
use crate::domain::target::{HostIdentity, Mode, TargetKind};
use crate::ledger::Reader;
use crate::settings::{Settings, SignerAt};
use crate::signer::cache::Cache;

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Less room than this is told of: in bytes, and in hundredths of the disk.
const ROOM: (u64, u64) = (1 << 30, 5);
/// A host's certificate that ends sooner is told of, in seconds.
const SOON_S: i64 = 30 * 86_400;

/// Looks at everything that a broker needs.
pub async fn examine(config: &Path, found: &mut Findings) {
    let settings = match Settings::read(config) {
        Ok(settings) => settings,
        Err(problems) => {
            let next = format!("jit-broker check --config {}", config.display());
            return problems.into_iter().for_each(|problem| found.problem("configuration", problem, &next));
        }
    };
    found.ok("configuration", config.display().to_string());
    clock(found);
    keys(&settings, found);
    room(&settings, found);
    match trouble::told(&settings) {
        Ok(told) => found.all.extend(told),
        Err(refusal) => found.refused("daemon", &refusal.into(), ""),
    }
    recordings(&settings, found);
    daemon(&settings, config, found).await;
    gateway(&settings, found);
    match fold(&settings).await {
        Ok(memory) => {
            found.ok("log", format!("{} entries", memory.state.size));
            times(&memory.state, found);
            hosts(&memory.state, found);
            remains(&settings, found);
            bundle::examine(&settings, config, &memory.state, found).await;
        }
        Err(refusal) => found.refused("log", &refusal.into(), ""),
    }
}

async fn fold(settings: &Settings) -> Result<Memory, Refusal> {
    let reader = Reader::open(&settings.ledger).await.map_err(|e| ledger_refusal(&e))?;
    crate::broker::fold::fold(&reader, &Cache::at(settings.state_dir.join("snapshot"))).await
}

/// The authority's keys, or the signer that has them.
fn keys(settings: &Settings, found: &mut Findings) {
    match &settings.signer {
        SignerAt::Local => match open_gate(settings, Arc::new(System::new())) {
            Ok(_) => {
                let detail = "the daemon's own process holds the keys: who takes over that process can mint access";
                found.note("signer", detail, "[ca] signer = \"unix:PATH\", and the service jit-broker-signer");
            }
            Err(refusal) => found.refused("signer", &refusal.into(), ""),
        },
        SignerAt::Socket(path) => match UnixStream::connect(path) {
            Ok(_) => found.ok("signer", format!("it answers on {}", path.display())),
            Err(e) => found.problem("signer", format!("{}: {e}", path.display()), "systemctl status jit-broker-signer"),
        },
    }
}

/// Room on the disks that everything is written to.
fn room(settings: &Settings, found: &mut Findings) {
    let mut seen = Vec::new();
    for path in [&settings.state_dir, &settings.recordings] {
        let Ok(disk) = rustix::fs::statvfs(path) else { continue };
        if seen.contains(&disk.f_fsid) {
            continue;
        }
        seen.push(disk.f_fsid);
        let (free, all) = (disk.f_bavail * disk.f_frsize, (disk.f_blocks * disk.f_frsize).max(1));
        let percent = free.saturating_mul(100) / all;
        let detail = format!("{} MiB are free below {} ({percent} %)", free >> 20, path.display());
        if free < ROOM.0 || percent < ROOM.1 {
            let next = format!("du -xh --max-depth=1 {} | sort -h", path.display());
            found.problem("disk", format!("{detail}; a full disk grants nothing"), next);
        } else {
            found.ok("disk", detail);
        }
    }
}

fn recordings(settings: &Settings, found: &mut Findings) {
    if settings.gateway_ssh.is_none() {
        return;
    }
    let shown = settings.recordings.display();
    match look::recordings(settings) {
        Err(refusal) => found.refused("recordings", &refusal.into(), ""),
        // The daemon sees more than who looks from outside of its unit.
        Ok(()) if found.all.iter().any(|finding| finding.what == "recordings") => {}
        Ok(()) if settings.recordings.exists() => found.ok("recordings", format!("in {shown}")),
        Ok(()) => found.note("recordings", format!("{shown} is not there yet; the daemon makes it"), ""),
    }
}

/// Whether clients reach a daemon at the address that they are told, and it can grant.
async fn daemon(settings: &Settings, config: &Path, found: &mut Findings) {
    let ca = settings.ca_dir.join("x509_server.crt");
    // With a signer of its own the keys' folder is closed to everybody else: then the connection alone is looked at.
    let Ok(pem) = std::fs::read_to_string(&ca) else { return connects(settings, config, found) };
    let nowhere = settings.state_dir.clone();
    let home = Home { config: nowhere.clone(), state: nowhere.clone(), run: nowhere };
    let mut client = Client::first(home, settings.public_url.clone(), Trust::Pem(pem));
    match client.bytes("/readyz", "date").await {
        Ok(_) => found.ok("daemon", format!("it answers on {}", settings.public_url)),
        Err(failure) => {
            found.refused("daemon", &failure, &format!("jit-broker serve --config {}", config.display()));
        }
    }
}

fn connects(settings: &Settings, config: &Path, found: &mut Findings) {
    match TcpStream::connect_timeout(&near(settings.listen), PATIENCE) {
        Ok(_) => found.ok("daemon", format!("it listens on {}", settings.listen)),
        Err(e) => {
            let next = format!("jit-broker serve --config {}", config.display());
            found.problem("daemon", format!("{}: {e}", settings.listen), next);
        }
    }
}

/// Where a socket that listens everywhere is reached from here.
fn near(listen: SocketAddr) -> SocketAddr {
    let here = match listen {
        SocketAddr::V4(_) => std::net::IpAddr::from([127, 0, 0, 1]),
        SocketAddr::V6(_) => std::net::IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
    };
    if listen.ip().is_unspecified() { SocketAddr::new(here, listen.port()) } else { listen }
}

/// Whether an SSH server answers at the gateway's address as clients are told it.
fn gateway(settings: &Settings, found: &mut Findings) {
    let Some(ssh) = &settings.gateway_ssh else { return };
    let address = &ssh.seen.address;
    let banner = || -> std::io::Result<[u8; 8]> {
        let mut all = (address.host.as_str(), address.port).to_socket_addrs()?;
        let first = all.next().ok_or_else(|| std::io::Error::other("the name has no address"))?;
        let mut stream = TcpStream::connect_timeout(&first, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut begin = [0; 8];
        stream.read_exact(&mut begin)?;
        Ok(begin)
    };
    let next = "Mend [gateway.ssh] address: the one that clients connect to";
    match banner() {
        Ok(begin) if begin.starts_with(b"SSH-2.0-") => found.ok("gateway", format!("it answers on {address}")),
        Ok(_) => found.problem("gateway", format!("what answers on {address} is no SSH server"), next),
        Err(e) => found.problem("gateway", format!("{address}: {e}"), next),
    }
}

/// The log's time against the clock.
fn times(state: &State, found: &mut Findings) {
    let ahead = state.last_at - crate::clock::wall_s();
    if let Some(drift_s) = state.clock_drift {
        let detail = format!("the wall clock went {drift_s} s away from the boot-time clock; nothing is granted");
        found.problem("clock", detail, "Set it right, then as an operator: jit-broker clock confirm");
    } else if ahead > crate::clock::DRIFT_S {
        let detail = format!("the log's last entry is {} ahead of this clock", output::span(ahead));
        found.problem("clock", detail, "timedatectl set-ntp true");
    }
}

/// Hosts that do not know what was revoked, or cannot show who they are.
fn hosts(state: &State, found: &mut Findings) {
    let now = crate::clock::wall_s().max(state.last_at);
    let mut good = 0;
    for target in state.bundle.targets.values().filter(|target| target.kind == TargetKind::Ssh) {
        let (name, pinned) = (&target.name, matches!(target.host, HostIdentity::Key(_)));
        let enroll = format!("jit-broker host enroll {name} --ssh root@{}", target.address.host);
        match state.hosts.get(name) {
            None if pinned && target.mode == Mode::Direct => {
                let detail = format!(
                    "{name} is not enrolled: a grant that is ended early ends there by the certificate's own end only"
                );
                found.note("hosts", detail, &enroll);
            }
            None if pinned => good += 1,
            None => found.problem(
                "hosts",
                format!("{name} is not enrolled, so nobody can know it by a certificate"),
                enroll,
            ),
            Some(host) if host.valid_before <= now => {
                found.problem("hosts", format!("the certificate of {name} has expired"), enroll);
            }
            Some(host) if host.krl_version < state.krl.version => {
                let last = host.confirmed_at.map_or_else(|| "none yet".to_owned(), output::instant);
                let detail = format!(
                    "{name} has revocation list {}, and {} is the newest; its last word: {last}",
                    host.krl_version, state.krl.version
                );
                found.problem(
                    "hosts",
                    detail,
                    format!("On {name}: systemctl status jit-broker-host.timer, and jit-broker doctor"),
                );
            }
            Some(host) if host.valid_before - now < SOON_S => {
                let detail = format!("the certificate of {name} ends at {}", output::instant(host.valid_before));
                found.problem("hosts", detail, enroll);
            }
            Some(_) => good += 1,
        }
    }
    if good > 0 {
        found.ok("hosts", format!("{} with nothing to say", output::count(good, "host")));
    }
}

/// What is left on targets.
fn remains(settings: &Settings, found: &mut Findings) {
    match super::super::serve::written(&settings.state_dir) {
        Ok(Some(doc)) if doc.is_residue() => {
            let lines = left::show_left(&doc);
            lines.into_iter().for_each(|line| found.problem("residue", line, "jit-broker target test TARGET"));
        }
        Ok(_) => {}
        Err(failure) => found.refused("residue", &failure, ""),
    }
}
