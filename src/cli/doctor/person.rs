//! A person's own machine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::super::agent::Agent;
use super::super::client::Client;
use super::super::context::Context;
use super::super::failure::Failure;
use super::super::home::Home;
use super::super::ssh_config;
use super::{Findings, said};
use crate::domain::refusal::Code;
use crate::wire::{About, List, Me, TargetDoc};

/// Clocks this far apart are told of, in seconds; acts are refused from five minutes on.
const APART_S: i64 = 10;
/// How long `ssh -G` may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// True when somebody has signed in here.
pub fn is_somebodys() -> bool {
    Home::find().is_ok_and(|home| home.config.join("context.json").exists())
}

/// Looks at everything that a person needs.
pub async fn examine(ssh_config: Option<&Path>, found: &mut Findings) {
    let home = match Home::find() {
        Ok(home) => home,
        Err(failure) => return found.refused("home", &failure, ""),
    };
    folders(&home, found);
    let context = match Context::load(&home) {
        Ok(context) => context,
        Err(failure) => return found.refused("broker", &failure, ""),
    };
    key(&context, found);
    let Ok(mut client) = Client::remembered(&home) else { return };
    let targets = broker(&mut client, &context, found).await;
    ssh(&home, ssh_config, targets.as_deref(), found);
}

/// Files that others could read or change, and where keys lie.
fn folders(home: &Home, found: &mut Findings) {
    let mut wrong = Vec::new();
    for folder in [&home.config, &home.state, &home.run] {
        open_to_others(folder, &mut wrong, 4);
    }
    match wrong.as_slice() {
        [] => found.ok("files", "closed to everybody else"),
        all => {
            for path in all {
                let mode = if path.is_dir() { "700" } else { "600" };
                let detail = format!("{} can be read or changed by others", path.display());
                found.problem("files", detail, format!("chmod {mode} '{}'", path.display()));
            }
        }
    }
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    if !set("JIT_BROKER_HOME") && !set("XDG_RUNTIME_DIR") {
        let uid = rustix::process::geteuid().as_raw();
        let detail = format!("XDG_RUNTIME_DIR is not set, so keys lie on the disk, in {}", home.run.display());
        found.note("runtime folder", detail, &format!("export XDG_RUNTIME_DIR=/run/user/{uid}"));
    }
}

/// Adds what is below a folder and open to others, to a depth.
fn open_to_others(path: &Path, wrong: &mut Vec<PathBuf>, depth: u32) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    if meta.is_symlink() {
        return;
    }
    if meta.permissions().mode() & 0o077 != 0 || meta.uid() != rustix::process::geteuid().as_raw() {
        wrong.push(path.to_owned());
    }
    if meta.is_dir() && depth > 0 {
        let below = fs::read_dir(path).into_iter().flatten().flatten();
        below.for_each(|entry| open_to_others(&entry.path(), wrong, depth - 1));
    }
}

/// The key that signs for this person.
fn key(context: &Context, found: &mut Findings) {
    let Some(named) = context.key.as_deref().filter(|key| !key.is_empty()) else {
        return found.problem("key", "no key is remembered", "jit-broker auth login");
    };
    if !named.starts_with("SHA256:") {
        return match fs::metadata(named) {
            Err(_) => found.problem("key", format!("{named} is not there"), "jit-broker auth login --ssh-key FILE"),
            Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
                found.problem("key", format!("{named} can be read by others"), format!("chmod 600 '{named}'"));
            }
            Ok(_) => found.ok("key", named),
        };
    }
    match Agent::connect().map(|mut agent| agent.keys()) {
        None => found.problem(
            "key",
            "the ssh-agent cannot be reached, and the key is in it",
            "eval \"$(ssh-agent)\"; ssh-add",
        ),
        Some(keys) if keys.iter().any(|key| key.0.fingerprint() == named) => {
            found.ok("key", format!("{named}, in the ssh-agent"));
        }
        Some(_) => found.problem("key", format!("the ssh-agent does not have {named}"), "ssh-add"),
    }
}

/// The broker: whether it answers, is the pinned one, agrees on the time, and knows this person.
async fn broker(client: &mut Client, context: &Context, found: &mut Findings) -> Option<Vec<TargetDoc>> {
    let before = crate::clock::wall_s();
    let (_, date) = match client.bytes("/v1/about", "date").await {
        Ok(answer) => answer,
        Err(failure) => {
            let next = format!("curl -k {}/livez", context.server);
            found.refused("broker", &failure, if failure.0.code == Code::UNREACHABLE { &next } else { "" });
            return None;
        }
    };
    // Asked once more, as everything else is: what the log's key says of new authorities is learnt on the way.
    let about: About = match client.get("/v1/about").await {
        Ok(about) => about,
        Err(failure) => {
            found.refused("broker", &failure, "");
            return None;
        }
    };
    let same = client.context().is_ok_and(|known| {
        let (now, known) = (&about, &known.about);
        now.install == known.install
            && now.log_key == known.log_key
            && now.ssh_user == known.ssh_user
            && now.ssh_host == known.ssh_host
    });
    if same {
        found.ok("broker", format!("{} is the one that is pinned here", context.server));
    } else {
        let detail = format!("{} says other things of itself than at the first sign-in", context.server);
        found.problem(
            "broker",
            detail,
            "Compare with your administrators, then: jit-broker auth login --fingerprint SHA256:…",
        );
    }
    apart(before, date.as_deref(), found);
    let me: Me = match client.get("/v1/me").await {
        Ok(me) => me,
        Err(failure) => {
            found.refused("sign-in", &failure, "jit-broker auth login");
            return None;
        }
    };
    found.ok("sign-in", format!("{}, until {}", me.person, me.expires_at));
    let targets: Result<List<TargetDoc>, Failure> = client.get("/v1/targets").await;
    targets.map_err(|failure| found.refused("targets", &failure, "")).ok().map(|list| list.items)
}

/// How far this machine's clock is from the broker's, by the date of its answer (RFC 9110 section 6.6.1), in whole seconds.
fn apart(before: i64, date: Option<&str>, found: &mut Findings) {
    let after = crate::clock::wall_s();
    let theirs = date.and_then(|text| jiff::fmt::rfc2822::parse(text).ok()).map(|at| at.timestamp().as_second());
    let Some(theirs) = theirs else { return found.note("clock", "the broker did not tell its time", "") };
    // The answer was made between the two moments.
    let off = if theirs < before { theirs - before } else { (theirs - after).max(0) };
    match off.abs() {
        0..=APART_S => found.ok("clock", "it agrees with the broker's"),
        s => {
            let way = if off > 0 { "behind" } else { "ahead of" };
            let detail = format!("it is {s} s {way} the broker's; what is signed is refused from 300 s on");
            found.problem("clock", detail, "timedatectl set-ntp true");
        }
    }
}

/// ssh's own configuration: the hook is there, is current, and is reached before anything that would win over it.
fn ssh(home: &Home, user: Option<&Path>, targets: Option<&[TargetDoc]>, found: &mut Findings) {
    let Some(version) = version() else {
        return found.problem("ssh", "there is no ssh here", "apt-get install openssh-client");
    };
    let ours = home.config.join("ssh_config");
    let user = user.map_or_else(ssh_config::user_config, |path| Ok(path.to_owned()));
    let (Ok(user), true) = (user, ours.is_file()) else {
        let detail = format!("{version}; plain ssh does not ask for access, because the hook is not installed");
        return found.note("ssh", detail, "jit-broker ssh-config --install");
    };
    let include = ssh_config::include(&ours).unwrap_or_default();
    let text = fs::read_to_string(&user).unwrap_or_default();
    let install = "jit-broker ssh-config --install";
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    match lines.position(|line| line == include.trim()) {
        None => {
            return found.problem("ssh", format!("{} does not include {}", user.display(), ours.display()), install);
        }
        Some(0) => {}
        Some(_) => {
            let detail =
                format!("in {} other lines stand before the Include, and the first value counts", user.display());
            found.problem("ssh", detail, install);
        }
    }
    let Some(targets) = targets else { return };
    let all: Vec<&TargetDoc> = targets.iter().filter(|t| t.kind == "ssh").collect();
    if ssh_config::current(home, &all.iter().map(|t| (*t).clone()).collect::<Vec<_>>())
        != fs::read_to_string(&ours).ok()
    {
        found.problem("ssh", "the targets, or the place of this program, have changed since it was installed", install);
    }
    let Some(first) = all.first() else { return found.ok("ssh", version) };
    match resolved(&user, first) {
        Some(differs) if differs.is_empty() => {
            found.ok("ssh", format!("{version}; plain ssh {} reaches the hook", first.name))
        }
        Some(differs) => {
            let detail = format!(
                "for {} ssh uses {}: another configuration wins over the hook's",
                first.name,
                differs.join(", ")
            );
            found.problem("ssh", detail, format!("ssh -G {} shows what it uses; {install}", first.name));
        }
        None => found.problem("ssh", format!("ssh cannot read {}", user.display()), format!("ssh -G {}", first.name)),
    }
}

fn version() -> Option<String> {
    let out = Command::new("ssh").arg("-V").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    text.split([',', ' ']).next().map(str::to_owned).filter(|name| !name.is_empty())
}

/// What ssh would use for a target and should not; nothing when ssh cannot read its configuration.
fn resolved(user: &Path, target: &TargetDoc) -> Option<Vec<String>> {
    let user = user.to_str()?;
    let seconds = PATIENCE.as_secs().to_string();
    let args = [seconds.as_str(), "ssh", "-F", user, "-G", "-o", "BatchMode=yes", target.name.as_str()];
    let text = said("timeout", &args)?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.unwrap_or("nothing").to_owned()
    };
    let wanted = [
        ("hostname", target.host.clone()),
        ("port", target.port.to_string()),
        ("hostkeyalias", target.alias.clone()),
        ("stricthostkeychecking", "yes".to_owned()),
    ];
    // `ssh -G` says true for yes.
    let same = |said: &str, wanted: &str| said.eq_ignore_ascii_case(wanted) || wanted == "yes" && said == "true";
    let wrong = wanted.iter().filter(|(key, wanted)| !same(&value(key), wanted));
    Some(wrong.map(|(key, _)| format!("{key} {}", value(key))).collect())
}
