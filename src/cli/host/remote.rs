//! `host enroll --ssh` and `host leave --ssh`: the steps run on the host, and each is proven by looking there again.
//!
//! The way to the host is the operator's own ssh with the operator's own trust in it; this asks nothing of it but to run a command.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use super::super::client::Client;
use super::super::failure::Failure;
use super::super::home::Home;
use super::super::{Globals, doctor};
use super::{certified, leave_steps, steps};
use crate::domain::key::Key;
use crate::domain::names::TargetName;
use crate::domain::refusal::{Code, Refusal};
use crate::wire::KrlDoc;
use doctor::Findings;

/// Where the program is on a host.
const PROGRAM: &str = "/usr/local/bin/jit-broker";
/// What sshd uses, also where a Match would make it ask for whom.
const LOOK: &str =
    "PATH=$PATH:/usr/sbin:/sbin; sshd -T -C user=root,host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22";
/// How often, and how long after another, a thing is looked for that comes with a reload.
const LOOKS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(500);
/// The host's own key.
const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key.pub";

/// A host that ssh reaches as root.
#[derive(Debug)]
pub struct Remote {
    destination: String,
    config: Option<PathBuf>,
}

/// What a command on the host gave.
struct Done {
    ok: bool,
    /// ssh itself failed, and not the command (ssh(1)).
    away: bool,
    out: String,
    err: String,
}

impl Remote {
    /// Names a host as ssh does: `root@10.0.3.7`, `ssh://root@host:2222`, or an alias.
    ///
    /// # Errors
    /// [`Code::USAGE`] for what ssh would take for an option.
    pub fn new(destination: &str, config: Option<PathBuf>) -> Result<Self, Failure> {
        if destination.is_empty() || destination.starts_with('-') || destination.contains(char::is_whitespace) {
            return Err(Failure::new(Code::USAGE, "--ssh takes what ssh takes: root@HOST."));
        }
        Ok(Self { destination: destination.to_owned(), config })
    }

    /// Runs a command; `input` is its stdin. What ssh itself asks goes to the terminal.
    fn run(&self, command: &str, input: &[u8]) -> Result<Done, Failure> {
        let failed = |e: std::io::Error| Failure::local("ssh", e);
        let mut ssh = Command::new("ssh");
        if let Some(path) = &self.config {
            ssh.arg("-F").arg(path);
        }
        ssh.arg("-T").arg(&self.destination).arg(command);
        let child = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(failed)?;
        let mut stdin = child.stdin.take();
        let bytes = input.to_vec();
        // On a thread of its own: a command that says much while it reads must not stop both.
        let writing = std::thread::spawn(move || stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(&bytes)));
        let out = child.wait_with_output().map_err(failed)?;
        let _ = writing.join();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Ok(Done {
            ok: out.status.success(),
            away: out.status.code() == Some(255),
            out: text(&out.stdout),
            err: text(&out.stderr),
        })
    }

    /// Runs a command on a host whose sshd was told to read its configuration anew a moment ago: it lets nobody in for that moment.
    fn look(&self, command: &str) -> Result<Done, Failure> {
        match patiently(|| Ok(Some(self.run(command, b"")?).filter(|done| !done.away)))? {
            Some(done) => Ok(done),
            None => self.run(command, b""),
        }
    }

    fn must(&self, command: &str, input: &[u8]) -> Result<String, Failure> {
        let done = self.run(command, input)?;
        if done.ok {
            return Ok(done.out);
        }
        let message = format!("On {}, {command}: {}", self.destination, last_line(&done.err));
        Err(Failure(Refusal::new(Code::LOCAL_IO, message).hint(format!("ssh {} {command}", self.destination))))
    }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or("it failed without a word")
}

/// What this program said, or else whatever was said last.
fn why(text: &str) -> &str {
    text.lines().find(|line| line.starts_with("JB")).unwrap_or_else(|| last_line(text))
}

/// Enrols a host over ssh.
///
/// # Errors
/// What stopped it before the host was changed. From then on each step is a finding; exit status 1 where one does not hold.
pub async fn enroll(name: &TargetName, remote: &Remote, globals: &Globals) -> Result<ExitCode, Failure> {
    eprintln!("ssh {}: reading the host's key …", remote.destination);
    let line = remote.must(&format!("cat {HOST_KEY}"), b"")?;
    let key = jit_ca::key::PublicKey::parse(line.trim()).map(Key);
    let key = key.map_err(|e| Failure::new(Code::BAD_KEY, format!("{HOST_KEY} on {}: {e}.", remote.destination)))?;
    program(remote)?;
    let mut client = Client::remembered(&Home::find()?)?;
    let (doc, certificate) = certified(&mut client, name, &key).await?;
    let krl: KrlDoc = client.get("/v1/krl").await?;
    let script = steps(client.context()?, &doc, &key, &certificate, &krl)?;
    eprintln!("ssh {}: running the steps …", remote.destination);
    let done = remote.run("sh -s", script.as_bytes())?;
    let mut found = Findings::default();
    found.ok("host key", format!("{}, certified for {name}", key.0.fingerprint()));
    if done.ok {
        found.ok("steps", "all ran");
    } else {
        let print = format!("jit-broker host enroll {name} --key PUB --print shows the steps");
        found.problem("steps", why(&done.err), print);
    }
    proofs(remote, name, &client, (&krl, done.ok), &mut found)?;
    doctor::report(&found.all, globals)?;
    Ok(doctor::status(&found))
}

/// Makes sure that the program is on the host: this very one, where it is missing and the machine is of the same kind.
fn program(remote: &Remote) -> Result<(), Failure> {
    if remote.run(&format!("{PROGRAM} --version"), b"")?.ok {
        return Ok(());
    }
    let theirs = remote.must("uname -sm", b"")?;
    let ours = Command::new("uname").arg("-sm").output().map_err(|e| Failure::local("uname", e))?;
    let ours = String::from_utf8_lossy(&ours.stdout).trim().to_owned();
    if ours != theirs {
        let message = format!("{} has no {PROGRAM}, and is {theirs} where this is {ours}.", remote.destination);
        return Err(Failure(
            Refusal::new(Code::LOCAL_IO, message).hint(format!("Install jit-broker there: {PROGRAM}")),
        ));
    }
    let path = std::env::current_exe().map_err(|e| Failure::local("this program", e))?;
    let bytes = std::fs::read(&path).map_err(|e| Failure::local(path.display(), e))?;
    eprintln!("ssh {}: copying this program to {PROGRAM} ({} MiB) …", remote.destination, bytes.len() >> 20);
    remote.must(&format!("cat > {PROGRAM}.new && chmod 755 {PROGRAM}.new && mv {PROGRAM}.new {PROGRAM}"), &bytes)?;
    remote.must(&format!("{PROGRAM} --version"), b"").map(drop)
}

/// Looks at the host again: what sshd uses, what it shows to clients, which list it has, and whether one can still log in. `confirmed`: all
/// steps ran, and the last of them is the host's own word.
fn proofs(
    remote: &Remote,
    name: &TargetName,
    client: &Client,
    (krl, confirmed): (&KrlDoc, bool),
    found: &mut Findings,
) -> Result<(), Failure> {
    let told = remote.look(LOOK)?;
    let lower = told.out.to_ascii_lowercase();
    let uses =
        |key: &str| lower.lines().any(|line| line.starts_with(&format!("{key} ")) && line.contains("/jit-broker/"));
    let missing: Vec<&str> = ["trustedusercakeys", "revokedkeys", "hostcertificate", "authorizedprincipalsfile"]
        .into_iter()
        .filter(|key| !uses(key))
        .collect();
    if missing.is_empty() {
        found.ok("sshd", "it uses authority, principals, revocation list and host certificate");
    } else {
        let next = "Put Include /etc/ssh/sshd_config.d/*.conf first in sshd_config there, and enrol again";
        found.problem("sshd", format!("it does not use: {}", missing.join(", ")), next);
    }
    let port = lower.lines().find_map(|line| line.strip_prefix("port ")).unwrap_or("22").trim().to_owned();
    shown_certificate(remote, name, client, &port, found)?;
    let list = remote.look("cat /etc/ssh/jit-broker/krl.version")?;
    match list.out.trim().parse::<u64>() {
        Ok(version) if version >= krl.version && confirmed => {
            found.ok("revocation list", format!("list {version} is there, and confirmed to the broker"))
        }
        _ => found.problem(
            "revocation list",
            "the host has not confirmed it",
            format!("ssh {} systemctl status jit-broker-host", remote.destination),
        ),
    }
    let timer = remote.look("[ -d /run/systemd/system ] || exit 9; systemctl is-active jit-broker-host.timer")?;
    if timer.ok {
        found.ok("timer", "it keeps the list fresh");
    } else {
        found.note("timer", "no systemd timer runs there: keep jit-broker host run going by other means", "");
    }
    still_in(remote, found)
}

/// Looks again for a while: what comes with a reload needs a moment.
fn patiently<T>(mut look: impl FnMut() -> Result<Option<T>, Failure>) -> Result<Option<T>, Failure> {
    for _ in 1..LOOKS {
        if let Some(seen) = look()? {
            return Ok(Some(seen));
        }
        std::thread::sleep(PAUSE);
    }
    look()
}

/// The certificate that sshd shows to whoever connects, judged as a client would.
fn shown_certificate(
    remote: &Remote,
    name: &TargetName,
    client: &Client,
    port: &str,
    found: &mut Findings,
) -> Result<(), Failure> {
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(());
    }
    // `@cert-authority HOST TYPE BLOB` (ssh-keyscan(1), -c).
    let scan = || -> Result<Option<String>, Failure> {
        let out = remote.look(&format!("ssh-keyscan -c -t ed25519 -p {port} 127.0.0.1"))?.out;
        let line = out.lines().find_map(|line| line.find("ssh-ed25519-cert-v01@").and_then(|at| line.get(at..)));
        Ok(line.map(str::to_owned))
    };
    let line = patiently(scan)?;
    let authority = &client.context()?.about.ssh_host;
    match line.and_then(|line| jit_ca::ssh::read(line.trim()).ok()) {
        Some(facts) if facts.ca == authority.0 && facts.principals.iter().any(|p| p == name.as_str()) => {
            found.ok("certificate", format!("sshd shows the one for {name}"));
        }
        Some(_) => found.problem("certificate", "sshd shows another one", "systemctl reload ssh, on the host"),
        None => found.problem("certificate", "sshd shows none on 127.0.0.1", "systemctl reload ssh, on the host"),
    }
    Ok(())
}

/// A new connection after the change: nobody is locked out of the host.
fn still_in(remote: &Remote, found: &mut Findings) -> Result<(), Failure> {
    if remote.look("true")?.ok {
        found.ok("login", format!("ssh {} still gets in", remote.destination));
    } else {
        found.problem(
            "login",
            format!("ssh {} does not get in any more", remote.destination),
            "From a console: rm /etc/ssh/sshd_config.d/60-jit-broker.conf; systemctl reload ssh",
        );
    }
    Ok(())
}

/// Undoes an enrolment over ssh.
///
/// # Errors
/// When the host cannot be reached.
pub fn leave(name: &TargetName, remote: &Remote, globals: &Globals) -> Result<ExitCode, Failure> {
    eprintln!("ssh {}: running the steps …", remote.destination);
    let done = remote.run("sh -s", leave_steps(name).as_bytes())?;
    let mut found = Findings::default();
    if done.ok {
        found.ok("steps", "all ran");
    } else {
        found.problem("steps", why(&done.err), format!("jit-broker host leave {name} --print shows the steps"));
    }
    let told = remote.look(LOOK)?.out.to_ascii_lowercase();
    let uses: Vec<&str> = told.lines().filter(|line| line.contains("/etc/ssh/jit-broker/")).collect();
    match uses.as_slice() {
        [] => found.ok("sshd", "it uses nothing of the broker's"),
        some => found.problem(
            "sshd",
            format!("it still says: {}", some.join("; ")),
            "Take these lines out of sshd_config there, and run this again",
        ),
    }
    if remote.look("[ ! -e /etc/ssh/jit-broker ] && [ ! -e /etc/systemd/system/jit-broker-host.timer ]")?.ok {
        found.ok("files", "none of the broker's is left there");
    } else {
        found.problem(
            "files",
            "some of the broker's files are still there",
            format!("ssh {} ls -R /etc/ssh/jit-broker", remote.destination),
        );
    }
    still_in(remote, &mut found)?;
    doctor::report(&found.all, globals)?;
    if found.all.iter().all(|f| f.health != crate::wire::Health::Problem) {
        eprintln!("Take {name} out of targets.toml and apply, or nobody will know that it is not reached any more.");
    }
    Ok(doctor::status(&found))
}
