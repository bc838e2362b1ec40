//! `host`: what a target's own sshd needs, and what keeps its revocation list fresh.

mod remote;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use jit_ca::key::{KeyKind, PrivateKey};
use jit_ca::krl::Krl;
use jit_ca::ssh::CertKind;

use super::ask::{me, target};
use super::client::{Client, Trust};
use super::context::Context;
use super::failure::Failure;
use super::home::{Home, read_private};
use super::hook::hinted;
use super::{Globals, keys, output};
use crate::domain::act::{Deed, HOST_NAMESPACE, KRL_NAMESPACE, SignedAct};
use crate::domain::authority::{Purpose, SignedTrust, TrustWord};
use crate::domain::digest::canonical;
use crate::domain::event::HostWord;
use crate::domain::key::Key;
use crate::domain::names::TargetName;
use crate::domain::refusal::Code;
use crate::domain::span::parse_span;
use crate::wire::{About, KrlDoc, Outcome, TargetDoc};

/// `jit-broker host …`
#[derive(Debug, Subcommand)]
pub enum HostVerb {
    /// Certifies a host's key, and makes its sshd trust the broker: over ssh, or by a script to run there
    Enroll {
        /// The target
        target: TargetName,
        /// Runs the steps on the host, where ssh gets in as root, and proves each: root@HOST
        #[arg(long, value_name = "DEST", required_unless_present = "key", conflicts_with_all = ["key", "print"])]
        ssh: Option<String>,
        /// With --ssh: ssh's configuration file
        #[arg(long, value_name = "FILE", requires = "ssh")]
        ssh_config: Option<PathBuf>,
        /// The host's public key: a copy of /etc/ssh/ssh_host_ed25519_key.pub. The steps are printed then
        #[arg(long, value_name = "PUB")]
        key: Option<PathBuf>,
        /// Prints the steps, which --key does anyway
        #[arg(long)]
        print: bool,
    },
    /// Undoes an enrolment: sshd is as it was, and nothing of the broker's is left on the host
    Leave {
        /// The target
        target: TargetName,
        /// Runs the steps on the host, and proves each: root@HOST
        #[arg(long, value_name = "DEST", conflicts_with = "print")]
        ssh: Option<String>,
        /// With --ssh: ssh's configuration file
        #[arg(long, value_name = "FILE", requires = "ssh")]
        ssh_config: Option<PathBuf>,
        /// Prints the steps (the default)
        #[arg(long)]
        print: bool,
    },
    /// On a host: fetches the revocation list, installs it, and confirms it
    Run(RunArgs),
}

/// What `host run` needs to know.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// https://HOST[:PORT]
    #[arg(long, env = "JIT_BROKER_SERVER")]
    pub server: String,
    /// The PEM file of the server's authority; default: server_ca.pem in the folder
    #[arg(long, env = "JIT_BROKER_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// This host's name as a target
    #[arg(long, env = "JIT_BROKER_TARGET")]
    pub target: TargetName,
    /// This host's private key
    #[arg(long, default_value = "/etc/ssh/ssh_host_ed25519_key")]
    pub host_key: PathBuf,
    /// Where the broker's files are on this host
    #[arg(long, default_value = "/etc/ssh/jit-broker")]
    pub dir: PathBuf,
    /// The file that TrustedUserCAKeys names; default: user_ca.pub in the folder
    #[arg(long)]
    pub trusted: Option<PathBuf>,
    /// The file that RevokedKeys names; default: krl in the folder
    #[arg(long)]
    pub krl: Option<PathBuf>,
    /// Remembers the newest list, should the list itself get lost; default: krl.version in the folder
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Once, for a timer
    #[arg(long, conflicts_with = "every")]
    pub once: bool,
    /// How often
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub every: String,
}

impl RunArgs {
    fn file(&self, named: Option<&PathBuf>, name: &str) -> PathBuf {
        named.cloned().unwrap_or_else(|| self.dir.join(name))
    }
}

impl HostVerb {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the broker says, or [`Code::ROLLED_BACK`] for an older list.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        match self {
            Self::Enroll { target, ssh: Some(ssh), ssh_config, .. } => {
                let remote = remote::Remote::new(ssh, ssh_config.clone())?;
                return remote::enroll(target, &remote, globals).await;
            }
            Self::Leave { target, ssh: Some(ssh), ssh_config, .. } => {
                return remote::leave(target, &remote::Remote::new(ssh, ssh_config.clone())?, globals);
            }
            Self::Enroll { target, key, .. } => {
                let key =
                    key.as_ref().ok_or_else(|| Failure::new(Code::USAGE, "Say --ssh root@HOST, or --key PUB."))?;
                print(target, &enroll(target, &keys::public(key)?).await?, globals)?;
                eprintln!(
                    "Read this, then run it as root on {target}: jit-broker host enroll … --print > {target}.sh; sh {target}.sh"
                );
            }
            Self::Leave { target, .. } => {
                print(target, &leave_steps(target), globals)?;
                eprintln!("Read this, then run it as root on {target}.");
            }
            Self::Run(args) if args.once => {
                let said = format!("list {} is installed and confirmed", run_once(args).await?);
                output::done(globals.output, "host.confirmed", &said)?;
            }
            Self::Run(args) => {
                let pause = Duration::from_secs(parse_span(&args.every)?);
                let mut told = None;
                loop {
                    match run_once(args).await {
                        Ok(version) if told == Some(version) => {}
                        Ok(version) => {
                            eprintln!("list {version} is installed and confirmed");
                            told = Some(version);
                        }
                        Err(failure) => drop(failure.report(false)),
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(target: &TargetName, script: &str, globals: &Globals) -> Result<(), Failure> {
    let fields = serde_json::json!({ "target": target, "script": script });
    let lines: Vec<String> = script.lines().map(str::to_owned).collect();
    output::answer(globals.output, "host", fields, target.as_str(), &lines)
}

/// Fetches, checks, installs and confirms the revocation list once; gives its version.
///
/// # Errors
/// [`Code::ROLLED_BACK`] for a list that is older than the newest one seen here, [`Code::BAD_SIGNATURE`], or that the broker cannot be
/// reached; what is installed stays then.
pub async fn run_once(args: &RunArgs) -> Result<u64, Failure> {
    let ca_file = args.file(args.ca_file.as_ref(), "server_ca.pem");
    let pem = fs::read_to_string(&ca_file).map_err(|e| Failure::local(ca_file.display(), e))?;
    let path = args.file(args.trusted.as_ref(), "user_ca.pub");
    let (mut trusted, mut trust) = authorities(&path)?;
    // A system service has no HOME, and this client keeps nothing.
    let home = Home { config: args.dir.clone(), state: args.dir.clone(), run: args.dir.clone() };
    let mut client = Client::first(home, args.server.clone(), Trust::Pem(pem));
    let doc: KrlDoc = client.get("/v1/krl").await?;
    let word = doc.trust.as_ref().map(|said| heard(said, &trusted)).transpose()?;
    if let Some(word) = word.filter(|word| word.version > trust) {
        crate::signer::keys::replace(&path, said(word.version, &word.ssh_user).as_bytes(), 0o644)?;
        if !word.x509_server.is_empty() {
            crate::signer::keys::replace(&ca_file, word.x509_server.concat().as_bytes(), 0o644)?;
        }
        (trusted, trust) = (word.ssh_user, word.version);
    }
    let (bytes, list) = verified(&doc, &trusted)?;
    let krl = args.file(args.krl.as_ref(), "krl");
    install(&bytes, &list, &krl, &args.file(args.state.as_ref(), "krl.version"))?;
    confirm(&mut client, args, list.version, trust).await?;
    Ok(list.version)
}

/// How the line begins that tells the version of the authorities in a file.
const VERSION: &str = "# jit-broker: authorities, version ";

/// A file that `TrustedUserCAKeys` names.
fn said(version: u64, keys: &[Key]) -> String {
    let head = if version > 0 { format!("{VERSION}{version}\n") } else { String::new() };
    let lines: Vec<String> = keys.iter().map(|key| format!("{key}\n")).collect();
    head + &lines.concat()
}

/// Whom to trust from now on, said by somebody who is trusted already.
fn heard(said: &SignedTrust, trusted: &[Key]) -> Result<TrustWord, Failure> {
    let word = said.open(trusted, None).map_err(|e| {
        let message = format!("The broker's word on whom to trust is not taken: {e}.");
        Failure::new(Code::BAD_SIGNATURE, message)
    });
    word.map_err(|failure| {
        hinted(failure, "This host has missed a new authority: jit-broker host enroll it again.".to_owned())
    })
    .and_then(|word| match word.ssh_user.is_empty() {
        false => Ok(word),
        true => Err(Failure::new(Code::BAD_SIGNATURE, "The broker's word names nobody to trust.")),
    })
}

/// Reads a file that `TrustedUserCAKeys` names: one key a line, two while an authority is being replaced; and its version.
pub(super) fn authorities(path: &Path) -> Result<(Vec<Key>, u64), Failure> {
    let text = fs::read_to_string(path).map_err(|e| Failure::local(path.display(), e))?;
    let version = text.lines().find_map(|line| line.strip_prefix(VERSION)?.trim().parse().ok()).unwrap_or(0);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Result<Vec<Key>, _> = lines.map(|line| jit_ca::key::PublicKey::parse(line).map(Key)).collect();
    let keys = keys.map_err(|e| Failure::new(Code::BAD_KEY, format!("{}: {e}.", path.display())))?;
    Ok((keys, version))
}

/// Checks that an authority of ours signed the list, that it is a whole one, and that it is the one that the document names.
pub(super) fn verified(doc: &KrlDoc, trusted: &[Key]) -> Result<(Vec<u8>, Krl), Failure> {
    let bad =
        |what: String| Failure::new(Code::BAD_SIGNATURE, format!("The revocation list is not the broker's: {what}."));
    let bytes = data_encoding::BASE64.decode(doc.krl.as_bytes()).map_err(|e| bad(e.to_string()))?;
    let signer = jit_ca::sshsig::verify(KRL_NAMESPACE, &bytes, &doc.signature).map_err(|e| bad(e.to_string()))?.key;
    let list = Krl::decode(&bytes).map_err(|e| bad(e.to_string()))?;
    if !trusted.iter().any(|key| key.0 == signer) || list.ca != signer {
        return Err(bad("another key signed it".to_owned()));
    }
    if list.version != doc.version {
        return Err(bad("its version is another one".to_owned()));
    }
    Ok((bytes, list))
}

/// Puts a checked list where sshd reads it at every login, in one step.
///
/// SECURITY (T65): sshd takes an older list without a word, and an empty file revokes nothing (facts.md 3). So versions are compared here,
/// also with the newest one ever seen, and a damaged file is replaced even when the version is no news.
pub(super) fn install(bytes: &[u8], list: &Krl, krl: &Path, state: &Path) -> Result<(), Failure> {
    let there = fs::read(krl).unwrap_or_default();
    let installed = Krl::decode(&there).map_or(0, |list| list.version);
    let seen = fs::read_to_string(state).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let newest = installed.max(seen);
    if list.version < newest {
        let message = format!(
            "The broker offers revocation list {}, but {newest} was here already. It was not taken.",
            list.version
        );
        return Err(Failure::new(Code::ROLLED_BACK, message));
    }
    if there != bytes {
        crate::signer::keys::replace(krl, bytes, 0o644)?;
    }
    if seen != list.version {
        crate::signer::keys::replace(state, format!("{}\n", list.version).as_bytes(), 0o644)?;
    }
    Ok(())
}

async fn confirm(client: &mut Client, args: &RunArgs, version: u64, trust: u64) -> Result<(), Failure> {
    let path = &args.host_key;
    let text =
        read_private(path)?.ok_or_else(|| Failure::new(Code::NO_KEY, format!("{} is not there.", path.display())))?;
    let bad = |e: jit_ca::key::KeyError| Failure::new(Code::BAD_KEY, format!("{}: {e}.", path.display()));
    let key = PrivateKey::from_openssh(&text, None).map_err(bad)?;
    let about: About = client.get("/v1/about").await?;
    let at = crate::clock::wall_s();
    let (certificate, pending) = (args.dir.join("ssh_host_ed25519_key-cert.pub"), args.dir.join("reload"));
    // What sshd has not read yet is shown to nobody.
    let shown = fs::read_to_string(&certificate).ok().filter(|_| !pending.exists());
    let shown = shown.and_then(|text| jit_ca::ssh::read(text.trim_end()).ok());
    let word = HostWord {
        install: about.install,
        target: args.target.clone(),
        krl_version: version,
        at,
        trust: (trust > 0).then_some(trust),
        host_ca: shown.map(|facts| facts.ca.fingerprint()),
    };
    let failed = |e: &dyn std::fmt::Display| Failure::local("the confirmation", e);
    let bytes = canonical(&word).map_err(|e| failed(&e))?;
    let signature = jit_ca::sshsig::sign(&key, HOST_NAMESPACE, &bytes).map_err(|e| failed(&e))?;
    let act = String::from_utf8(bytes).map_err(|e| failed(&e))?;
    let outcome: Outcome = client.post("/v1/hosts/confirm", &SignedAct { act, signature }).await?;
    let Some(next) = outcome.host else { return Ok(()) };
    // SECURITY: it is for this host's own key and name; whether clients believe its authority is theirs to judge.
    let facts = jit_ca::ssh::read(&next.certificate).map_err(|e| failed(&e))?;
    let ours = facts.kind == CertKind::Host && facts.key == *key.public();
    if !ours || !facts.principals.iter().any(|p| p == args.target.as_str()) {
        return Err(Failure::new(Code::LINT, "The broker sent a host certificate that is not for this host."));
    }
    crate::signer::keys::replace(&certificate, format!("{}\n", next.certificate).as_bytes(), 0o644)?;
    crate::signer::keys::replace(&pending, b"", 0o644)?;
    eprintln!(
        "A host certificate of a new authority is installed. Have sshd read its configuration anew, then: rm {}",
        pending.display()
    );
    Ok(())
}

/// The lines for sshd.
const DROP_IN: &str = "/etc/ssh/sshd_config.d/60-jit-broker.conf";
/// How the steps begin. Where sshd_config has a Match, `sshd -T` tells nothing without a connection to judge: WHO is one.
const HEAD: &str = r#"(
set -eu
umask 022
PATH=$PATH:/usr/sbin:/sbin
systemd=
WHO='-C user=root,host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22'
[ ! -d /run/systemd/system ] || systemd=yes
dir=/etc/ssh/jit-broker
mkdir -p $dir/principals /etc/ssh/sshd_config.d /etc/systemd/system
rm -f $dir/reload

"#;
/// Takes the new lines away again where sshd refuses them, or where older ones hide them: a host nobody can enter helps nobody.
const SSHD: &str = r#"sshd -t || { rm DROP_IN; echo 'sshd refuses these lines; they are gone again. Nothing else uses the files.' >&2; exit 1; }
sshd -T $WHO 2>/dev/null | grep -qix "trustedusercakeys $dir/user_ca.pub" ||
  echo 'DROP_IN has no effect: sshd_config does not include it, or names another TrustedUserCAKeys first.' >&2
RELOAD"#;
/// Has sshd read its configuration anew. Without systemd the process that the configuration names is told.
const RELOAD: &str = r#"if [ "$systemd" ]; then systemctl reload ssh || systemctl reload sshd
else
  pid=$(sshd -T $WHO 2>/dev/null | sed -n 's/^pidfile //p')
  if [ -s "${pid:-none}" ]; then kill -HUP "$(cat "$pid")"; else echo 'No systemd here: have sshd read its configuration anew (kill -HUP).'; fi
fi
"#;
/// Undoes it all: first what names the files, because sshd refuses every public key while it names a revocation list that is not there.
const LEAVE: &str = r#"(
set -eu
PATH=$PATH:/usr/sbin:/sbin
systemd=
WHO='-C user=root,host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22'
[ ! -d /run/systemd/system ] || systemd=yes

# sshd, before the files that it reads.
rm -f DROP_IN
sshd -t
if sshd -T $WHO 2>/dev/null | grep -q ' /etc/ssh/jit-broker/'; then
  echo 'sshd_config itself names files of jit-broker: take these lines out first. Nothing else was changed.' >&2
  sshd -T $WHO 2>/dev/null | grep ' /etc/ssh/jit-broker/' >&2
  exit 1
fi
RELOAD
# The timer, and then everything else. The program itself stays.
if [ "$systemd" ]; then systemctl disable --now jit-broker-host.timer || true; fi
rm -f /etc/systemd/system/jit-broker-host.timer /etc/systemd/system/jit-broker-host.service
if [ "$systemd" ]; then systemctl daemon-reload; fi
rm -rf /etc/ssh/jit-broker
)
"#;
/// What keeps the list fresh; a first round shows that it works. Where it does not, sshd believes the broker already: the next rounds are
/// needed all the more.
const FRESH: &str = r#"failed=
RUN --once || failed=yes
if [ "$systemd" ]; then
  systemctl daemon-reload
  systemctl enable --now jit-broker-host.timer
else
  echo 'No systemd here: keep this running as root: RUN'
fi
[ -z "$failed" ] || { echo 'This host has not confirmed its revocation list (see above); each round tries again.' >&2; exit 1; }
)
"#;

/// The steps that undo an enrolment, as a script.
fn leave_steps(name: &TargetName) -> String {
    let steps = LEAVE.replace("RELOAD\n", RELOAD).replace("DROP_IN", DROP_IN);
    format!("# For root on {name}: undoes what jit-broker host enroll did.\n{steps}")
}

async fn enroll(name: &TargetName, key: &Key) -> Result<String, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let (doc, certificate) = certified(&mut client, name, key).await?;
    let krl: KrlDoc = client.get("/v1/krl").await?;
    steps(client.context()?, &doc, key, &certificate, &krl)
}

/// Has a host's key certified.
async fn certified(client: &mut Client, name: &TargetName, key: &Key) -> Result<(TargetDoc, String), Failure> {
    if key.0.kind() != KeyKind::Ed25519 {
        return Err(Failure::new(Code::BAD_KEY, "The steps are for the host's Ed25519 key: ssh_host_ed25519_key.pub."));
    }
    let doc = target(client, name).await?;
    let deed = Deed::EnrollHost { by: me(client)?, target: name.clone(), key: key.clone() };
    let outcome: Outcome = client.act(deed, None, None).await?;
    if let Some(request) = outcome.request {
        let what = format!("Request {} waits for people; enrol the host again once they have agreed.", request.id);
        return Err(Failure::new(Code::PENDING, what));
    }
    let host = outcome.host.ok_or_else(|| Failure::new(Code::BUG, "The broker sent no certificate."))?;
    Ok((doc, host.certificate))
}

/// The steps on the host, as a script for a person to read and root to run.
///
/// SECURITY: root will paste this, so nothing from the server goes in before it was parsed: no line of it can end a here-document.
pub(super) fn steps(
    context: &Context,
    doc: &TargetDoc,
    key: &Key,
    certificate: &str,
    krl: &KrlDoc,
) -> Result<String, Failure> {
    let name = &doc.name;
    let lint = |what: &str| Failure::new(Code::LINT, format!("The broker's answer is not what was asked for: {what}."));
    let facts = jit_ca::ssh::read(certificate).map_err(|e| lint(&e.to_string()))?;
    let believed = context.trusted(Purpose::SshHost);
    let for_us = facts.principals.iter().any(|p| p == name.as_str());
    if facts.kind != CertKind::Host || facts.key != key.0 || !believed.iter().any(|ca| ca.0 == facts.ca) || !for_us {
        return Err(lint("the certificate is not for this host"));
    }
    let users = context.trusted(Purpose::SshUser);
    verified(krl, &users)?;
    let (pem, user_ca) = (context.server_pem(), said(context.trust_version(), &users));
    let pem = pem.trim_end();
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=- \r\n".contains(&b));
    if !plain(pem) || !context.server.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:/[]".contains(&b)) {
        return Err(lint("the server's authority or address cannot be one"));
    }
    let mut logins: Vec<_> = doc.roles.iter().flat_map(|r| &r.logins).collect();
    logins.sort();
    logins.dedup();
    let principals: String =
        logins.iter().map(|login| format!("echo '{name}/{login}' > $dir/principals/{login}\n")).collect();
    let file = |path: &str, text: &str| format!("cat > {path} <<'_END_'\n{}\n_END_\n", text.trim_end());
    let units = "/etc/systemd/system/jit-broker-host";
    let environment = format!(
        "JIT_BROKER_SERVER={}\nJIT_BROKER_CA_FILE=/etc/ssh/jit-broker/server_ca.pem\nJIT_BROKER_TARGET={name}",
        context.server
    );
    let parts = [
        format!("# For root on {name}: sh THIS-FILE. jit-broker itself goes to /usr/local/bin first.\n"),
        format!("# Pasted as a whole it works too; an error ends only what stands between the parentheses.\n{HEAD}"),
        "# Who is believed: the authority of user certificates, and that of the broker's own address.\n".to_owned(),
        file("$dir/user_ca.pub", &user_ca),
        file("$dir/server_ca.pem", pem),
        "\n# Which certificate opens which account: one that names this host and the account.\n".to_owned(),
        principals,
        "\n# The revocation list, before the directive that names it: without the file sshd refuses every public key.\n".to_owned(),
        format!("base64 -d > $dir/krl.new <<'_END_'\n{}\n_END_\nmv $dir/krl.new $dir/krl\n", krl.krl),
        "\n# The host's own certificate, so that clients need not trust on first use.\n".to_owned(),
        file("$dir/ssh_host_ed25519_key-cert.pub", certificate),
        "\n# sshd. On distributions without sshd_config.d put these lines into sshd_config, above every Match.\n".to_owned(),
        file(DROP_IN, include_str!("../../config/target-host/60-jit-broker.conf")),
        SSHD.replace("RELOAD", RELOAD).replace("DROP_IN", DROP_IN),
        "\n# Keeps the list fresh and confirms it.\n".to_owned(),
        file("$dir/host.env", &environment),
        file(&format!("{units}.service"), include_str!("../../config/target-host/jit-broker-host.service")),
        file(&format!("{units}.timer"), include_str!("../../config/target-host/jit-broker-host.timer")),
        FRESH.replace("RUN", &format!("/usr/local/bin/jit-broker host run --server {} --target {name}", context.server)),
    ];
    Ok(parts.concat())
}
