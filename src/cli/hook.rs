//! What ssh runs before it connects (`Match … exec`). Quick and silent while a certificate holds.
//!
//! Its stdin and stdout are /dev/null; stderr and /dev/tty reach the person. A status other than 0 makes ssh go on without the certificate.

use std::ffi::OsString;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::ask::{LONG, me, target, words};
use super::client::Client;
use super::failure::Failure;
use super::home::{Home, write_private};
use super::keys::Signing;
use super::wait::{complete, outcome, wait_for};
use super::{output, ssh};
use crate::domain::act::Deed;
use crate::domain::key::Key;
use crate::domain::names::{LoginName, TargetName};
use crate::domain::refusal::Code;
use crate::wire::{GrantDoc, List, RequestDoc, RoleDoc, TargetDoc};

/// A certificate must hold so long to be used again, in seconds.
const MARGIN_S: i64 = 5;
/// For so long the broker is not asked again whether a certificate's grant still stands, in seconds.
const LOOKED_AT_S: i64 = 15;
/// How long that question may take; a broker that is away must not keep a certificate that holds from being used.
const LOOK: Duration = Duration::from_secs(2);
/// How many ancestors are looked at for the ssh that runs this.
const ANCESTORS: usize = 16;
/// ssh's options that take a value (ssh(1)).
const VALUED: &str = "BbcDEeFIiJLlmOoPpQRSWw";

/// `jit-broker hook`
#[derive(Debug, Args)]
pub struct HookArgs {
    #[command(subcommand)]
    by: By,
}

#[derive(Debug, Subcommand)]
enum By {
    /// Run by ssh
    Ssh {
        /// `%n`: the host as it was typed
        host: OsString,
        /// `%r`: the remote user
        user: OsString,
    },
}

impl HookArgs {
    /// True when the certificate that is there holds, and its grant stood a moment ago: nothing else needs to be looked at.
    pub fn cached(&self) -> bool {
        let Ok((name, login)) = self.names() else { return false };
        let now = crate::clock::wall_s();
        Home::find().is_ok_and(|home| holds(&home, &name, &login, now) && just_looked_at(&home, &name, &login, now))
    }

    /// Makes sure that there is a certificate.
    ///
    /// # Errors
    /// With a sentence and the command to type.
    pub async fn run(&self) -> Result<ExitCode, Failure> {
        let (name, login) = self.names()?;
        let home = Home::find()?;
        let key = ssh::client_key(&home, &name)?;
        // Runs for the same target wait for one another, so that four ssh ask once; a question about one target holds up no other.
        let _asking = ssh::lock(&ssh::folder(&home, name.as_str()).join("ask.lock"))?;
        if holds(&home, &name, &login, crate::clock::wall_s()) {
            let over = if just_looked_at(&home, &name, &login, crate::clock::wall_s()) {
                None
            } else {
                tokio::time::timeout(LOOK, over(&home, &name, &login)).await.unwrap_or(None)
            };
            match over {
                Some(grant) => {
                    eprintln!("jit-broker: {} on {name} is {}; its certificate is removed.", grant.role, grant.state);
                }
                // What was learnt on the way may have taken it away: its authority was retired.
                None if holds(&home, &name, &login, crate::clock::wall_s()) => {
                    looked_at(&home, &name, &login)?;
                    return Ok(ExitCode::SUCCESS);
                }
                None => {}
            }
        }
        // ssh would offer an expired certificate all the same, and be refused for it.
        let _ = fs::remove_file(ssh::certificate(&home, name.as_str(), login.as_str()));
        let mut client = Client::remembered(&home)?;
        let doc = target(&mut client, &name).await?;
        let role = role_of(&doc, &login)?;
        let (grant, asked) = match role.grant_id {
            Some(id) => (client.get::<GrantDoc>(&format!("/v1/grants/{id}")).await?, false),
            None => (ask(&mut client, &doc, role, key).await?, true),
        };
        let credential = ssh::ensure(&mut client, &grant).await?;
        if asked {
            let left = output::span(grant.left_s);
            eprintln!("jit-broker: {} on {name} until {} ({left} left)", grant.role, credential.valid_before);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// SECURITY (T147): names with odd bytes end here, before they become a path or a request.
    fn names(&self) -> Result<(TargetName, LoginName), Failure> {
        let By::Ssh { host, user } = &self.by;
        let odd = |e| Failure::new(Code::BAD_NAME, format!("{e}."));
        let text = |word: &OsString| word.to_str().unwrap_or("\u{fffd}").to_owned();
        Ok((TargetName::new(text(host)).map_err(odd)?, LoginName::new(text(user)).map_err(odd)?))
    }
}

/// The file whose age tells when the broker last said that the grant behind a certificate stands.
fn mark(home: &Home, target: &TargetName, login: &LoginName) -> std::path::PathBuf {
    ssh::folder(home, target.as_str()).join(format!("{login}.checked"))
}

fn just_looked_at(home: &Home, target: &TargetName, login: &LoginName, now: i64) -> bool {
    let at = fs::metadata(mark(home, target, login)).map(|meta| std::os::unix::fs::MetadataExt::mtime(&meta));
    at.is_ok_and(|at| (at..at + LOOKED_AT_S).contains(&now))
}

/// Notes that the grant behind a certificate stands.
///
/// # Errors
/// When the disk refuses.
pub fn looked_at(home: &Home, target: &TargetName, login: &LoginName) -> Result<(), Failure> {
    write_private(&mark(home, target, login), b"")
}

/// The grant of the certificate that is there, when the broker says that it is over: sshd would refuse the certificate without a word
/// about why. Nothing when it stands, or when nobody can tell.
async fn over(home: &Home, target: &TargetName, login: &LoginName) -> Option<GrantDoc> {
    let text = fs::read_to_string(ssh::certificate(home, target.as_str(), login.as_str())).ok()?;
    let facts = jit_ca::ssh::read(text.trim_end()).ok()?;
    let id = ssh::grant_of(&facts)?;
    let mut client = Client::remembered(home).ok()?;
    // A touch of a security key is not asked for only to look.
    let touched =
        client.context().ok()?.key.as_deref().and_then(|key| Signing::silent(key).ok()).is_none_or(|s| s.needs_touch());
    if touched {
        client.forget_person();
    }
    let grant: GrantDoc = client.get(&format!("/v1/grants/{id}")).await.ok()?;
    (!matches!(grant.state.as_str(), "ready" | "active")).then_some(grant)
}

/// True when the certificate of a login holds for long enough, and is for the key that lies beside it.
pub(super) fn holds(home: &Home, target: &TargetName, login: &LoginName, now: i64) -> bool {
    let folder = ssh::folder(home, target.as_str());
    let Ok(text) = fs::read_to_string(ssh::certificate(home, target.as_str(), login.as_str())) else { return false };
    let Ok(facts) = jit_ca::ssh::read(text.trim_end()) else { return false };
    let ours = fs::read_to_string(folder.join("key.pub"))
        .is_ok_and(|line| jit_ca::key::PublicKey::parse(line.trim_end()).is_ok_and(|key| key == facts.key));
    let end = i64::try_from(facts.valid_before).unwrap_or(i64::MAX);
    ours && folder.join("key").is_file() && now.saturating_add(MARGIN_S) <= end
}

/// The role that opens a login: the one that is open, else one that is automatic, else the only one that may be asked for.
///
/// # Errors
/// [`Code::NO_RULE`] when there is none, [`Code::USAGE`] when a person must choose.
pub(super) fn role_of<'a>(doc: &'a TargetDoc, login: &LoginName) -> Result<&'a RoleDoc, Failure> {
    let possible = || doc.roles.iter().filter(|r| r.logins.contains(login) && r.verdict != "never");
    let live = possible().find(|r| r.grant_id.is_some());
    if let Some(role) = live.or_else(|| possible().find(|r| r.verdict == "automatic")) {
        return Ok(role);
    }
    match possible().collect::<Vec<_>>().as_slice() {
        [one] => Ok(one),
        [] => {
            let logins: Vec<String> = doc
                .roles
                .iter()
                .filter(|r| r.verdict != "never")
                .flat_map(|r| &r.logins)
                .map(ToString::to_string)
                .collect();
            let known =
                if logins.is_empty() { String::new() } else { format!("; you may ask for {}", logins.join(", ")) };
            let message = format!("No role on {} that you may have opens {login}{known}.", doc.name);
            Err(hinted(Failure::new(Code::NO_RULE, message), format!("jit-broker ls {}", doc.name)))
        }
        [one, ..] => {
            let names: Vec<String> = possible().map(|r| r.name.to_string()).collect();
            let message =
                format!("The roles {} on {} open {login}. Say which with --role.", names.join(", "), doc.name);
            Err(hinted(Failure::new(Code::USAGE, message), command(doc, one)))
        }
    }
}

pub(super) fn hinted(mut failure: Failure, hint: String) -> Failure {
    failure.0.hint = Some(hint);
    failure
}

fn command(doc: &TargetDoc, role: &RoleDoc) -> String {
    format!("jit-broker login {} --role {}", doc.name, role.name)
}

/// Asks for access and waits for the answer, where somebody is there to be asked.
async fn ask(client: &mut Client, doc: &TargetDoc, role: &RoleDoc, key: Key) -> Result<GrantDoc, Failure> {
    let silent = silenced();
    let mine: List<RequestDoc> = client.get("/v1/requests?scope=mine").await?;
    let open = mine.items.into_iter().find(|r| r.state == "pending" && r.target == doc.name && r.role == role.name);
    let request = match open {
        Some(request) if silent => return outcome(client, &request).await,
        Some(request) => request,
        None if silent => {
            let message = format!("You have no access to {} now, and nobody can be asked here.", doc.name);
            return Err(hinted(Failure::new(Code::USAGE, message), command(doc, role)));
        }
        None => {
            let said = complete(client, &doc.name, &role.name, (None, None)).await;
            let (reason, ticket) = said.map_err(|failure| hinted(failure, command(doc, role)))?;
            let by = me(client)?;
            let deed = Deed::Request { by, target: doc.name.clone(), role: role.name.clone(), for_s: None, key };
            let made = client.act(deed, words(reason.as_deref(), ticket.as_deref())?, None).await;
            let made = made.map_err(|failure| hinted(failure, command(doc, role)))?;
            match (made.request, made.grants.into_iter().next()) {
                (Some(request), _) => request,
                (None, Some(grant)) => return Ok(grant),
                (None, None) => return Err(Failure::new(Code::BUG, "The broker answered without a request.")),
            }
        }
    };
    if request.state == "pending" {
        eprintln!(
            "jit-broker: Ctrl-C stops waiting, the request stays; jit-broker withdraw {} takes it back.",
            request.id
        );
    }
    let answered = wait_for(client, request, LONG).await?;
    outcome(client, &answered).await
}

/// True when nobody is to be asked: no terminal, the environment says so, or the ssh that runs this does.
fn silenced() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    set("JIT_BROKER_NO_INPUT")
        || set("CI")
        || fs::OpenOptions::new().read(true).open("/dev/tty").is_err()
        || ancestors_are_silent()
}

/// Looks at the command lines of the processes above: ssh, and with ProxyJump the ssh above it.
fn ancestors_are_silent() -> bool {
    let mut pid = rustix::process::getppid().map(|p| p.as_raw_nonzero().get());
    for _ in 0..ANCESTORS {
        let Some(parent) = pid.filter(|pid| *pid > 1) else { break };
        let line = fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
        let words: Vec<String> = line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        if asks_nobody(&words) {
            return true;
        }
        let status = fs::read_to_string(format!("/proc/{parent}/status")).unwrap_or_default();
        pid = status.lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse().ok());
    }
    false
}

/// True for a command line of ssh that only prints its configuration (`-G`), or must not ask (`BatchMode`). The remote command is not read.
pub(super) fn asks_nobody(words: &[String]) -> bool {
    let mut words = words.iter();
    if words.next().is_none_or(|program| program.rsplit('/').next() != Some("ssh")) {
        return false;
    }
    let mut host = false;
    while let Some(word) = words.next() {
        match word.strip_prefix('-') {
            Some("-") => return false,
            None | Some("") if host => return false,
            None | Some("") => host = true,
            Some(letters) => {
                for (at, letter) in letters.char_indices() {
                    if letter == 'G' {
                        return true;
                    }
                    if VALUED.contains(letter) {
                        let rest = letters.get(at + letter.len_utf8()..).filter(|rest| !rest.is_empty());
                        let value = rest.or_else(|| words.next().map(String::as_str)).unwrap_or_default();
                        if letter == 'o' && batch(value) {
                            return true;
                        }
                        break;
                    }
                }
            }
        }
    }
    false
}

fn batch(option: &str) -> bool {
    let mut parts = option.split(|c: char| c == '=' || c == '"' || c.is_whitespace()).filter(|part| !part.is_empty());
    parts.next().is_some_and(|key| key.eq_ignore_ascii_case("batchmode"))
        && parts.next().is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "yes" | "true"))
}
