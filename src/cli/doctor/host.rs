//! An enrolled host: what its sshd believes, and how old its revocation list is.

use std::fs;
use std::path::Path;

use jit_ca::krl::Krl;

use super::super::client::{Client, Trust};
use super::super::failure::Failure;
use super::super::home::Home;
use super::super::host::{authorities, verified};
use super::{Findings, clock, said};
use crate::wire::KrlDoc;

/// Looks at a host's folder.
pub async fn examine(dir: &Path, found: &mut Findings) {
    clock(found);
    let env = fs::read_to_string(dir.join("host.env")).unwrap_or_default();
    let value = |name: &str| env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    let (server, target) = (value("JIT_BROKER_SERVER"), value("JIT_BROKER_TARGET"));
    let again = match (&server, &target) {
        (Some(server), Some(target)) => format!("jit-broker host run --once --server {server} --target {target}"),
        _ => "jit-broker host enroll, once more".to_owned(),
    };
    let installed = list(&dir.join("krl"), &again, found);
    sshd(dir, found);
    timer(found);
    let Some(server) = server else {
        return found.problem("host", format!("{} does not name the broker", dir.join("host.env").display()), again);
    };
    match newest(dir, &server).await {
        Ok(version) => match installed {
            Some(held) if held < version => {
                found.problem("revocation list", format!("list {held} is here, and the broker has {version}"), again);
            }
            Some(held) => found.ok("revocation list", format!("list {held} is the newest")),
            None => {}
        },
        Err(failure) => found.refused("broker", &failure, ""),
    }
}

/// The version of the list that sshd reads.
fn list(path: &Path, again: &str, found: &mut Findings) -> Option<u64> {
    let shown = path.display();
    match fs::read(path) {
        Err(e) => {
            found.problem("revocation list", format!("{shown}: {e}; sshd refuses every public key without it"), again)
        }
        Ok(bytes) if bytes.is_empty() => {
            found.problem(
                "revocation list",
                format!("{shown} is empty: sshd takes certificates that were revoked"),
                again,
            );
        }
        Ok(bytes) => match Krl::decode(&bytes) {
            Ok(list) => return Some(list.version),
            Err(e) => {
                found.problem("revocation list", format!("{shown}: {e}; sshd refuses every public key with it"), again)
            }
        },
    }
    None
}

/// Whether sshd really uses the files; it tells root alone.
fn sshd(dir: &Path, found: &mut Findings) {
    // Where sshd_config has a Match, it tells nothing without a connection to judge.
    let who = ["-T", "-C", "user=root,host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22"];
    let Some(text) = said("sshd", &who).or_else(|| said("/usr/sbin/sshd", &who)) else {
        return found.note("sshd", "only root can ask sshd what it uses", "sudo jit-broker doctor");
    };
    let uses = |key: &str, file: &str| {
        let wanted = format!("{key} {}", dir.join(file).display());
        text.lines().any(|line| line.eq_ignore_ascii_case(&wanted))
    };
    let missing: Vec<&str> = [("trustedusercakeys", "user_ca.pub"), ("revokedkeys", "krl")]
        .into_iter()
        .filter(|(key, file)| !uses(key, file))
        .map(|(key, _)| key)
        .collect();
    match missing.as_slice() {
        [] => found.ok("sshd", "it trusts the broker's authority and reads the revocation list"),
        all => {
            let next = "Put Include /etc/ssh/sshd_config.d/*.conf first in sshd_config, then: systemctl reload ssh";
            found.problem("sshd", format!("it does not use the broker's files: {}", all.join(", ")), next);
        }
    }
}

fn timer(found: &mut Findings) {
    if !Path::new("/run/systemd/system").exists() {
        return found.note("timer", "no systemd here: something else must keep jit-broker host run going", "");
    }
    match said("systemctl", &["is-active", "jit-broker-host.timer"]) {
        Some(_) => found.ok("timer", "it keeps the revocation list fresh"),
        None => found.problem(
            "timer",
            "nothing keeps the revocation list fresh",
            "systemctl enable --now jit-broker-host.timer",
        ),
    }
}

/// The version of the broker's list, whose signature holds.
async fn newest(dir: &Path, server: &str) -> Result<u64, Failure> {
    let ca = dir.join("server_ca.pem");
    let pem = fs::read_to_string(&ca).map_err(|e| Failure::local(ca.display(), e))?;
    let home = Home { config: dir.to_owned(), state: dir.to_owned(), run: dir.to_owned() };
    let mut client = Client::first(home, server.to_owned(), Trust::Pem(pem));
    let doc: KrlDoc = client.get("/v1/krl").await?;
    verified(&doc, &authorities(&dir.join("user_ca.pub"))?.0)?;
    Ok(doc.version)
}
