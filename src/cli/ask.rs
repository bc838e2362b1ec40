//! The requester's verbs.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::wait::{complete, outcome, wait_for};
use super::{Globals, database, hint, hook, output, prompt, ssh};
use crate::domain::act::Deed;
use crate::domain::key::Key;
use crate::domain::names::{PersonName, RoleName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::span::parse_span;
use crate::domain::text::Words;
use crate::wire::{GrantDoc, List, RequestDoc, RoleDoc, TargetDoc, WhyDoc};

/// How long people are waited for where nothing was said.
pub const LONG: Duration = Duration::from_secs(8 * 3600);
/// The same, as it is said.
const PATIENCE: &str = "8h";

/// What somebody wants.
#[derive(Debug, Clone, Args)]
pub struct Wish {
    /// The target
    #[arg(required = true, value_name = "TARGET")]
    pub targets: Vec<TargetName>,
    /// The role on it; may be left out where there is one
    #[arg(long)]
    pub role: Option<RoleName>,
    /// For how long: 30m, 2h, PT2H30M
    #[arg(long = "for", value_name = "DURATION", allow_hyphen_values = true)]
    pub for_: Option<String>,
    /// Why; those who approve read it
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The ticket it is for
    #[arg(long, value_name = "ID")]
    pub ticket: Option<String>,
    /// Does not wait for an answer
    #[arg(long, conflicts_with = "wait")]
    pub no_wait: bool,
    /// Waits for an answer, at most so long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = PATIENCE, require_equals = true)]
    pub wait: Option<String>,
    /// Says what would happen, and asks nobody
    #[arg(long)]
    pub dry_run: bool,
}

impl Wish {
    /// The one target.
    ///
    /// # Errors
    /// [`Code::USAGE`] when there are several.
    pub fn one(&self) -> Result<&TargetName, Failure> {
        match self.targets.as_slice() {
            [one] => Ok(one),
            _ => Err(Failure::new(Code::USAGE, "One target at a time, please.")),
        }
    }

    /// How long people are waited for by who cannot go on without their answer.
    fn patience(&self) -> Result<Duration, Failure> {
        match &self.wait {
            Some(d) => Ok(Duration::from_secs(parse_span(d)?)),
            None if self.no_wait => Ok(Duration::ZERO),
            None => Ok(LONG),
        }
    }

    fn for_s(&self) -> Result<Option<u64>, Failure> {
        self.for_.as_deref().map(parse_span).transpose().map_err(Failure)
    }

    fn words(&self) -> Result<Option<Words>, Failure> {
        words(self.reason.as_deref(), self.ticket.as_deref())
    }
}

/// Makes the text that travels beside an act; none when nothing was said.
///
/// # Errors
/// [`Code::BAD_TEXT`].
pub fn words(reason: Option<&str>, ticket: Option<&str>) -> Result<Option<Words>, Failure> {
    if reason.is_none() && ticket.is_none() {
        return Ok(None);
    }
    let salt = data_encoding::HEXLOWER.encode(&crate::clock::random16());
    let words = Words { salt, reason: reason.map(str::to_owned), ticket: ticket.map(str::to_owned) };
    words.check()?;
    Ok(Some(words))
}

/// Who one is at the remembered broker.
///
/// # Errors
/// [`Code::NOT_SIGNED_IN`].
pub fn me(client: &Client) -> Result<PersonName, Failure> {
    client.context()?.person.clone().ok_or_else(|| Failure::new(Code::NOT_SIGNED_IN, "You are not signed in."))
}

/// One target as the broker shows it.
///
/// # Errors
/// [`Code::MISSING`].
pub async fn target(client: &mut Client, name: &TargetName) -> Result<TargetDoc, Failure> {
    let all: List<TargetDoc> = client.get("/v1/targets").await?;
    let near = near(name.as_str(), all.items.iter().map(|t| t.name.as_str()));
    let found = all.items.into_iter().find(|t| t.name == *name);
    found.ok_or_else(|| {
        let message = format!("There is no target {name}, or you may not know of it{near}");
        Failure(Refusal::new(Code::MISSING, message).hint("jit-broker ls"))
    })
}

/// "; did you mean …?" where something is close enough to be meant.
fn near<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> String {
    let closest = known.map(|name| (strsim::damerau_levenshtein(name, typed), name)).min();
    closest
        .filter(|(far, _)| (1..=2).contains(far))
        .map_or_else(|| ".".to_owned(), |(_, name)| format!("; did you mean {name}?"))
}

fn role<'a>(doc: &'a TargetDoc, wished: Option<&RoleName>) -> Result<&'a RoleDoc, Failure> {
    let roles: Vec<&RoleDoc> = match wished {
        Some(name) => doc.roles.iter().filter(|r| r.name == *name).collect(),
        None => {
            let live: Vec<_> = doc.roles.iter().filter(|r| r.verdict == "active").collect();
            let possible: Vec<_> = doc.roles.iter().filter(|r| r.verdict != "never").collect();
            if live.len() == 1 {
                live
            } else if possible.is_empty() {
                doc.roles.iter().collect()
            } else {
                possible
            }
        }
    };
    let names = || doc.roles.iter().map(|r| r.name.to_string()).collect::<Vec<_>>().join(", ");
    match roles.as_slice() {
        [one] => Ok(one),
        [] => {
            let message = format!("{} has no such role; it has {}.", doc.name, names());
            Err(Failure(Refusal::new(Code::NO_ROLE, message).hint(format!("jit-broker ls {}", doc.name))))
        }
        _ => {
            let message = format!("{} has the roles {}. Say which with --role.", doc.name, names());
            Err(Failure(Refusal::new(Code::USAGE, message).hint(format!("jit-broker ls {}", doc.name))))
        }
    }
}

/// The live grant for a wish: the one that is open, or a new one that is asked for and waited for.
///
/// # Errors
/// The refusal, a denial, or that it is still pending.
pub async fn granted(
    client: &mut Client,
    wish: &Wish,
    name: &TargetName,
    key: &Key,
    _: &Globals,
) -> Result<GrantDoc, Failure> {
    let doc = target(client, name).await?;
    let role = role(&doc, wish.role.as_ref())?;
    if let Some(id) = role.grant_id
        && wish.for_s()?.is_none_or(|s| role.left_s.is_some_and(|left| i64::try_from(s).is_ok_and(|s| left >= s)))
    {
        return client.get(&format!("/v1/grants/{id}")).await;
    }
    let mut wish = wish.clone();
    if prompt::possible() {
        (wish.reason, wish.ticket) = complete(client, name, &role.name, (wish.reason, wish.ticket)).await?;
    } else if wish.reason.is_none() && role.verdict == "ask" {
        let again = format!("jit-broker login {name} --role {} --reason \"…\"", role.name);
        return Err(hook::hinted(prompt::nobody("--reason TEXT"), again));
    }
    let patience = wish.patience()?;
    let request = submit(client, &wish, name, &role.name, key).await?;
    let answered = wait_for(client, request, patience).await?;
    outcome(client, &answered).await
}

async fn submit(
    client: &mut Client,
    wish: &Wish,
    target: &TargetName,
    role: &RoleName,
    key: &Key,
) -> Result<RequestDoc, Failure> {
    let by = me(client)?;
    let deed = Deed::Request { by, target: target.clone(), role: role.clone(), for_s: wish.for_s()?, key: key.clone() };
    let outcome = client.act(deed, wish.words()?, None).await?;
    if let Some(request) = outcome.request {
        return Ok(request);
    }
    match outcome.grants.into_iter().next() {
        // Nobody was asked: the document is that of the grant that covers it.
        Some(grant) => {
            eprintln!("{} covers it: {} left.", grant.id, output::span(grant.left_s));
            let mut doc: RequestDoc = client.get(&format!("/v1/requests/{}", grant.request_id)).await?;
            "covered".clone_into(&mut doc.state);
            Ok(doc)
        }
        None => Err(Failure::new(Code::BUG, "The broker answered neither with a request nor with a grant.")),
    }
}

/// What a request would open, in words.
pub(super) fn gives(terms: &crate::domain::act::Terms) -> String {
    match &terms.database {
        Some(role) => role.words(),
        None => {
            let logins: Vec<&str> = terms.logins.iter().map(|login| login.as_str()).collect();
            let allow: Vec<&str> = terms.allow.iter().map(|allow| allow.word()).collect();
            format!("logins {}; allows {}", logins.join(", "), allow.join(", "))
        }
    }
}

/// How it would be reached, and what its end does; nothing for databases, where it is always the same.
pub(super) fn powers(terms: &crate::domain::act::Terms) -> Option<String> {
    let how = match terms.gateway {
        true => "through the gateway: recorded, and cut at the end",
        false => "straight to the host: nothing is recorded, and what is open at the end stays open",
    };
    terms.database.is_none().then(|| how.to_owned())
}

fn show_request(doc: &RequestDoc) -> Vec<String> {
    let mut lines = vec![format!("{}  {}  {}", doc.id, doc.state, doc.code)];
    if let Some(what) = super::terms::power(doc) {
        lines.push(format!("  {} asks: {what}", doc.requester));
    } else if doc.target.as_str() == "broker/policy" {
        lines.push(format!("  {} asks to change the bundle to {}", doc.requester, doc.terms.target_digest));
    } else {
        let span = output::span(i64::try_from(doc.for_s).unwrap_or(0));
        match (&doc.extends, &doc.until) {
            (Some(grant), Some(until)) => {
                let (who, role, target) = (&doc.requester, &doc.role, &doc.target);
                lines.push(format!("  {who} asks to go on with {grant}, {role} on {target}, until {until}"));
            }
            _ => lines.push(format!("  {} asks for {} on {} for {span}", doc.requester, doc.role, doc.target)),
        }
        lines.push(format!("  {}", gives(&doc.terms)));
        lines.extend(powers(&doc.terms).map(|how| format!("  {how}")));
        if doc.attested {
            lines.push(format!("  asked inside ssh: the gateway saw {}'s key, and nobody signed this", doc.requester));
        }
    }
    lines.extend(doc.reason.iter().map(|r| format!("  reason: {r}")));
    lines.extend(doc.ticket.iter().map(|t| format!("  ticket: {t}")));
    for step in &doc.steps {
        lines.push(format!("  step {}", super::review::step(step)));
    }
    lines.extend(doc.grant_id.iter().map(|g| format!("  grant {g}")));
    lines.extend(doc.denial.iter().map(|d| format!("  denied: {d}")));
    lines.extend(doc.refusal.iter().map(|r| format!("  {}: {}", r.code, r.message)));
    lines
}

/// Lines about a grant.
pub fn show_grant(doc: &GrantDoc) -> Vec<String> {
    let logins: Vec<String> = doc.logins.iter().map(ToString::to_string).collect();
    let what = match &doc.account {
        Some(account) => account.to_string(),
        None => logins.join(", "),
    };
    // What ended early has no time left, whatever its window was.
    let left = if doc.left_s > 0 { format!("  {} left", output::span(doc.left_s)) } else { String::new() };
    let mut lines = vec![
        format!("{}  {}  {} on {} ({what})", doc.id, doc.state, doc.role, doc.target),
        format!("  {} .. {}{left}", doc.starts_at, doc.ends_at),
    ];
    for proof in &doc.proofs {
        let mark = proof.ok.map_or("?", |ok| if ok { "ok" } else { "NOT" });
        lines.push(format!("  {mark} {}: {}", proof.what, proof.detail));
    }
    lines.extend(doc.left.iter().map(|left| format!("  LEFT {left}")));
    lines.extend(doc.kept.iter().map(|kept| format!("  kept {kept}")));
    if let Some(end) = &doc.latest_end {
        let hosts: Vec<String> = doc.waits_for.iter().map(ToString::to_string).collect();
        lines.push(format!("  not confirmed yet by {}; over for certain at {end}", hosts.join(", ")));
    }
    lines
}

/// Prints a request in the chosen form.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn print_request(doc: &RequestDoc, globals: &Globals) -> Result<(), Failure> {
    output::one(globals.output, doc, &doc.id.to_string(), show_request)
}

/// Prints a grant in the chosen form.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn print_grant(doc: &GrantDoc, globals: &Globals) -> Result<(), Failure> {
    output::one(globals.output, doc, &doc.id.to_string(), show_grant)
}

/// `ls`
pub async fn ls(name: Option<&TargetName>, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let all: List<TargetDoc> = client.get("/v1/targets").await?;
    let items: Vec<TargetDoc> = all.items.into_iter().filter(|t| name.is_none_or(|n| t.name == *n)).collect();
    if let (true, Some(name)) = (items.is_empty(), name) {
        target(&mut client, name).await?;
    }
    let head = ["target", "kind", "role", "verdict", "longest", "who answers"];
    output::lists(globals.output, "target", &items, &head, |t| {
        let row = |r: &RoleDoc| {
            let left = r.left_s.map(|left| format!(" ({} left)", output::span(left))).unwrap_or_default();
            let longest = r.max_s.map_or_else(|| "-".to_owned(), |s| output::span(i64::try_from(s).unwrap_or(0)));
            let who = if r.who.is_empty() { "-".to_owned() } else { r.who.join(", ") };
            vec![t.name.to_string(), t.kind.clone(), r.name.to_string(), format!("{}{left}", r.verdict), longest, who]
        };
        t.roles.iter().map(row).collect()
    })?;
    if items.is_empty() && !globals.json() {
        eprintln!("There is nothing that you may ask for.");
    }
    Ok(ExitCode::SUCCESS)
}

/// `why`
pub async fn why(
    target: &TargetName,
    role: Option<&RoleName>,
    for_: Option<&str>,
    about: Option<&PersonName>,
    globals: &Globals,
) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    print_why(&why_doc(&mut client, target, role, for_, about).await?, globals)?;
    Ok(ExitCode::SUCCESS)
}

/// `request --dry-run`: what would become of each; the exit status of what would be refused.
async fn dry_run(client: &mut Client, wish: &Wish, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut worst = ExitCode::SUCCESS;
    for name in &wish.targets {
        let doc = why_doc(client, name, wish.role.as_ref(), wish.for_.as_deref(), None).await?;
        print_why(&doc, globals)?;
        let (said, least) = (wish.reason.as_deref().map(|text| text.trim().chars().count()), doc.min_reason_chars);
        if let Some(refusal) = &doc.refusal {
            worst = ExitCode::from(refusal.code.entry().exit);
        } else if let (Some(said), Some(least)) = (said, least)
            && u32::try_from(said).is_ok_and(|said| said < least)
        {
            let message = format!("{name}: the reason needs at least {least} characters.");
            worst = Failure::new(Code::NEEDS_REASON, message).report(globals.json());
        }
    }
    Ok(worst)
}

async fn why_doc(
    client: &mut Client,
    name: &TargetName,
    role: Option<&RoleName>,
    for_: Option<&str>,
    about: Option<&PersonName>,
) -> Result<WhyDoc, Failure> {
    let mut path = format!("/v1/why?target={name}");
    role.iter().for_each(|r| path.push_str(&format!("&role={r}")));
    about.iter().for_each(|a| path.push_str(&format!("&as={a}")));
    if let Some(s) = for_.map(parse_span).transpose()? {
        path.push_str(&format!("&for_s={s}"));
    }
    match client.get(&path).await {
        // What was meant, perhaps.
        Err(failure) if failure.0.code == Code::MISSING && about.is_none() => {
            target(client, name).await.and(Err(failure))
        }
        other => other,
    }
}

fn print_why(doc: &WhyDoc, globals: &Globals) -> Result<(), Failure> {
    output::one(globals.output, doc, &doc.verdict, |doc| {
        let mut lines = vec![format!("{} · {} on {}: {}", doc.person, doc.role, doc.target, doc.verdict)];
        let rules: Vec<String> = doc.rules.iter().map(ToString::to_string).collect();
        if !rules.is_empty() {
            lines.push(format!("  rules: {}", rules.join(", ")));
        }
        lines.extend(doc.max_s.map(|s| format!("  at most {}", output::span(i64::try_from(s).unwrap_or(0)))));
        lines.extend(doc.min_reason_chars.map(|n| format!("  reason: at least {n} characters")));
        lines.extend(doc.ticket_pattern.iter().map(|p| format!("  ticket: {p}")));
        lines.extend(doc.steps.iter().map(|s| format!("  step {}: {} of {}", s.name, s.need, s.from.join(", "))));
        lines.extend(doc.refusal.iter().map(|r| format!("  {}: {}", r.code, r.message)));
        lines.extend(doc.nearest.iter().map(|n| format!("  nearest: {n}")));
        lines
    })
}

/// What is left on this machine when access is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// Nothing: it was only asked.
    Nothing,
    /// The files of the credential.
    Files,
    /// These, and the certificate in the ssh-agent.
    FilesAndAgent,
}

/// `request` and `login`: each target by itself, so that one that is refused takes nothing from the others.
pub async fn request(wish: &Wish, leaves: Leaves, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    if wish.dry_run {
        return dry_run(&mut client, wish, globals).await;
    }
    // `--wait 2s`: the flag has its value behind `=`, so that it may stand alone.
    if wish.wait.as_deref() == Some(PATIENCE) {
        for name in wish.targets.iter().filter(|name| parse_span(name.as_str()).is_ok()) {
            if target(&mut client, name).await.is_err() {
                return Err(Failure::new(
                    Code::USAGE,
                    format!("{name} is no target; a time to wait is --wait={name}."),
                ));
            }
        }
    }
    // Before anybody is asked: it may be what cannot be read.
    let patience = match &wish.wait {
        None if !prompt::possible() => Duration::ZERO,
        _ => wish.patience()?,
    };
    let mut worst = ExitCode::SUCCESS;
    let mut asked = Vec::new();
    for name in &wish.targets {
        let done = match leaves {
            Leaves::Nothing => ask_one(&mut client, wish, name).await.map(|request| asked.push((name, request))),
            _ => login_one(&mut client, wish, name, leaves, globals).await,
        };
        if let Err(failure) = done {
            worst = go_on(failure, wish, name, globals)?;
        }
    }
    for (name, request) in asked {
        let answered = wait_for(&mut client, request, patience).await?;
        print_request(&answered, globals)?;
        match outcome(&mut client, &answered).await {
            Err(failure) if failure.0.code == Code::PENDING && patience.is_zero() => {}
            Err(failure) => worst = go_on(failure, wish, name, globals)?,
            Ok(_) => {}
        }
    }
    Ok(worst)
}

/// Tells what failed for one target of several, and goes on with the others unless they would fail alike.
fn go_on(mut failure: Failure, wish: &Wish, name: &TargetName, globals: &Globals) -> Result<ExitCode, Failure> {
    // Cancelled, not signed in, refused by this machine, interrupted, nobody there.
    if wish.targets.len() == 1 || matches!(failure.0.code.entry().exit, 3 | 4 | 9 | 69 | 130) {
        return Err(failure);
    }
    if !failure.0.message.contains(name.as_str()) {
        failure.0.message = format!("{name}: {}", failure.0.message);
    }
    Ok(failure.report(globals.json()))
}

async fn ask_one(client: &mut Client, wish: &Wish, name: &TargetName) -> Result<RequestDoc, Failure> {
    // The broker judges unknown targets and roles, so that even a wrong ask is in the log.
    let doc = target(client, name).await;
    let database = doc.as_ref().is_ok_and(|doc| doc.database.is_some());
    let key = if database { database::client_key(client.home(), name)? } else { ssh::client_key(client.home(), name)? };
    let is_there = |wished: &RoleName| doc.as_ref().is_ok_and(|doc| doc.roles.iter().any(|r| r.name == *wished));
    let (role_name, is_there) = match &wish.role {
        Some(wished) => (wished.clone(), is_there(wished)),
        None => (role(doc.as_ref().map_err(|failure| Failure(failure.0.clone()))?, None)?.name.clone(), true),
    };
    let mut wish = wish.clone();
    if prompt::possible() && is_there {
        (wish.reason, wish.ticket) = complete(client, name, &role_name, (wish.reason, wish.ticket)).await?;
    }
    submit(client, &wish, name, &role_name, &key).await
}

async fn login_one(
    client: &mut Client,
    wish: &Wish,
    name: &TargetName,
    leaves: Leaves,
    globals: &Globals,
) -> Result<(), Failure> {
    let database = target(client, name).await.ok().and_then(|doc| doc.database);
    if leaves == Leaves::FilesAndAgent && database.is_some() {
        return Err(Failure::new(Code::USAGE, format!("{name} is a database; the ssh-agent is for hosts.")));
    }
    let key = match &database {
        Some(_) => database::client_key(client.home(), name)?,
        None => ssh::client_key(client.home(), name)?,
    };
    let grant = granted(client, wish, name, &key, globals).await?;
    let (doc, line) = match &database {
        Some(found) => {
            let doc = database::ensure(client, &grant, found.auth).await?;
            (doc, database::how_to_use(client.home(), name))
        }
        None => {
            let doc = ssh::ensure(client, &grant).await?;
            if leaves == Leaves::FilesAndAgent {
                ssh::hand_over(client.home(), name, &doc)?;
                eprintln!("The ssh-agent has it until {}.", doc.valid_before);
            }
            let line = how_to_use(client, name);
            if line.starts_with("jit-broker ssh ") {
                let says = "jit-broker ssh-config --install makes plain ssh, scp and git ask by themselves.";
                hint::once(client.home(), "ssh-config", says);
            }
            (doc, line)
        }
    };
    eprintln!("{} until {}", doc.principals.join(", "), doc.valid_before);
    output::one(globals.output, &doc, &doc.id, |_| vec![line])
}

/// What to type next: plain ssh where the hook is installed, else our own.
fn how_to_use(client: &Client, target: &TargetName) -> String {
    let installed = std::fs::read_to_string(client.home().config.join("ssh_config"));
    let knows = installed.is_ok_and(|text| text.lines().any(|line| line == format!("Match originalhost {target}")));
    if knows { format!("ssh {target}") } else { format!("jit-broker ssh {target}") }
}
