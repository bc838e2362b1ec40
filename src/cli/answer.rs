//! The approver's verbs, and everything that ends access.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::ask::{me, print_grant, print_request, words};
use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::{Globals, output, prompt, ssh, terms};
use crate::domain::act::{Deed, Selector};
use crate::domain::ids::{GrantId, RequestId};
use crate::domain::names::{PersonName, RoleName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::span::parse_span;
use crate::domain::text::shown;
use crate::wire::{BundleDoc, GrantDoc, List, PersonDoc, RequestDoc};

/// How long `revoke` and `release` watch the proofs come in.
const WATCH: Duration = Duration::from_secs(5);

/// Finds a request by a unique prefix of its id, or by its code.
///
/// # Errors
/// [`Code::MISSING`], [`Code::AMBIGUOUS`].
pub async fn find_request(client: &mut Client, text: &str) -> Result<RequestDoc, Failure> {
    if let Ok(id) = text.parse::<RequestId>() {
        return client.get(&format!("/v1/requests/{id}")).await;
    }
    says_which("req_", "request", text)?;
    let mut all: Vec<RequestDoc> = Vec::new();
    for scope in ["mine", "answer"] {
        let list: List<RequestDoc> = client.get(&format!("/v1/requests?scope={scope}")).await?;
        all.extend(list.items);
    }
    // For offices alone.
    if let Ok(others) = client.get::<List<RequestDoc>>("/v1/requests?scope=all").await {
        all.extend(others.items);
    }
    all.sort_by_key(|r| r.id);
    all.dedup_by_key(|r| r.id);
    let fitting = all.into_iter().filter(|r| r.id.to_string().starts_with(text) || r.code == text);
    let id = only(fitting.map(|r| r.id), "request", text)?;
    // The list may be older than an answer that came since.
    client.get(&format!("/v1/requests/{id}")).await
}

/// Finds a grant by a unique prefix of its id.
///
/// # Errors
/// [`Code::MISSING`], [`Code::AMBIGUOUS`].
pub async fn find_grant(client: &mut Client, text: &str) -> Result<GrantDoc, Failure> {
    if let Ok(id) = text.parse::<GrantId>() {
        return client.get(&format!("/v1/grants/{id}")).await;
    }
    says_which("gr_", "grant", text)?;
    let mut all: List<GrantDoc> = client.get("/v1/grants?scope=mine").await?;
    if let Ok(others) = client.get::<List<GrantDoc>>("/v1/grants?scope=all").await {
        all.items.extend(others.items);
    }
    all.items.sort_by_key(|g| g.id);
    all.items.dedup_by_key(|g| g.id);
    only(all.items.into_iter().filter(|g| g.id.to_string().starts_with(text)), "grant", text)
}

/// SECURITY: what says nothing, as an unset variable of a script does, would fit whatever there is.
///
/// # Errors
/// [`Code::USAGE`].
pub(super) fn says_which(tag: &str, what: &str, text: &str) -> Result<(), Failure> {
    match tag.starts_with(text.trim()) {
        true => Err(Failure::new(Code::USAGE, format!("Say which {what}: {} names none.", serde_json::json!(text)))),
        false => Ok(()),
    }
}

/// The one thing that a text fits.
pub(super) fn only<T>(mut fitting: impl Iterator<Item = T>, what: &str, text: &str) -> Result<T, Failure> {
    let text = shown(text);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Failure::new(Code::AMBIGUOUS, format!("{text} fits more than one {what}."))),
        (None, _) => {
            let (more, all) = match what {
                "session" => ("", "jit-broker session ls"),
                "request" => {
                    (" One that is answered is found by its whole id.", "jit-broker pending; jit-broker status")
                }
                _ => (" One that is over is found by its whole id.", "jit-broker status"),
            };
            let message = format!("There is no {what} {text}, or you may not know of it.{more}");
            Err(Failure(Refusal::new(Code::MISSING, message).hint(all)))
        }
    }
}

/// What somebody says to a request.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The request: its id, a prefix of it, or its two words
    id: String,
    /// Only for so long
    #[arg(long = "for", value_name = "DURATION", allow_hyphen_values = true)]
    for_: Option<String>,
    /// Only in this narrower role
    #[arg(long)]
    role: Option<RoleName>,
    /// A note for those who read the log
    #[arg(long)]
    note: Option<String>,
}

/// Signs an approval of what the requester signed, or of less; the broker's word alone is never signed.
pub(super) async fn approve_doc(
    client: &mut Client,
    doc: &RequestDoc,
    for_s: Option<u64>,
    role: Option<&RoleName>,
    note: Option<&str>,
) -> Result<RequestDoc, Failure> {
    let by = me(client)?;
    if doc.requester == by {
        let mut failure = Failure::new(Code::OWN_REQUEST, "It is your own request.");
        failure.0.hint = Some(format!("jit-broker withdraw {}", doc.id));
        return Err(failure);
    }
    let bundle: BundleDoc = match client.get("/v1/bundle").await {
        Err(failure) if failure.0.code == Code::NOT_OFFICE => {
            return Err(Failure::new(Code::NOT_ELIGIBLE, format!("The open step of {} does not ask you.", doc.id)));
        }
        other => other?,
    };
    let targets = terms::targets(&bundle)?;
    let standing = terms::verified(doc, client.context()?.about.install, &targets)?;
    let terms = terms::narrowed(standing, for_s, role, &targets)?;
    let deed = Deed::Approve { by, request: doc.id, request_digest: doc.digest, terms };
    client.act(deed, words(note, None)?, None).await?;
    client.get(&format!("/v1/requests/{}", doc.id)).await
}

/// `approve`
pub async fn approve(args: &ApproveArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let doc = find_request(&mut client, &args.id).await?;
    let for_s = args.for_.as_deref().map(parse_span).transpose()?;
    let after = approve_doc(&mut client, &doc, for_s, args.role.as_ref(), args.note.as_deref()).await?;
    print_request(&after, globals)?;
    Ok(ExitCode::SUCCESS)
}

/// Signs a denial, and gives what came of it.
pub(super) async fn deny_doc(client: &mut Client, doc: &RequestDoc, reason: &str) -> Result<RequestDoc, Failure> {
    client.act(Deed::Deny { by: me(client)?, request: doc.id }, words(Some(reason), None)?, None).await?;
    client.get(&format!("/v1/requests/{}", doc.id)).await
}

/// `deny`
pub async fn deny(id: &str, reason: Option<&str>, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let doc = find_request(&mut client, id).await?;
    let reason = match reason {
        Some(reason) => reason.to_owned(),
        None => prompt::ask("Reason: ", "--reason TEXT")?,
    };
    print_request(&deny_doc(&mut client, &doc, &reason).await?, globals)?;
    Ok(ExitCode::SUCCESS)
}

/// `withdraw`
pub async fn withdraw(id: &str, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let doc = find_request(&mut client, id).await?;
    client.act(Deed::Withdraw { by: me(&client)?, request: doc.id }, None, None).await?;
    let after: RequestDoc = client.get(&format!("/v1/requests/{}", doc.id)).await?;
    print_request(&after, globals)?;
    Ok(ExitCode::SUCCESS)
}

/// `wait`
pub async fn wait(id: &str, timeout: Option<&str>, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let doc = find_request(&mut client, id).await?;
    let patience = timeout.map(parse_span).transpose()?.map_or(super::ask::LONG, Duration::from_secs);
    let answered = super::wait::wait_for(&mut client, doc, patience).await?;
    print_request(&answered, globals)?;
    super::wait::outcome(&mut client, &answered).await?;
    Ok(ExitCode::SUCCESS)
}

/// `show`
pub async fn show(id: &str, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    if id.starts_with("gr_") {
        print_grant(&find_grant(&mut client, id).await?, globals)?;
    } else {
        let doc = find_request(&mut client, id).await?;
        print_request(&doc, globals)?;
        let proposal = doc.yours && doc.target.as_str() == "broker/policy" && doc.state == "pending";
        if proposal && matches!(globals.output, output::Format::Auto | output::Format::Table) {
            super::admin::show_proposal(&mut client, &doc).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `release`
pub async fn release(id: Option<&str>, all: bool, globals: &Globals) -> Result<ExitCode, Failure> {
    let home = Home::find()?;
    let mut client = Client::remembered(&home)?;
    let mine: List<GrantDoc> = client.get("/v1/grants?scope=mine").await?;
    let open = mine.items.into_iter().filter(|g| matches!(g.state.as_str(), "ready" | "active"));
    let ids: Vec<GrantDoc> = match id {
        Some(id) => vec![find_grant(&mut client, id).await?],
        None if all => open.collect(),
        None => return Err(Failure::new(Code::USAGE, "Which grant? Name it, or say --all.")),
    };
    if ids.is_empty() {
        output::done(globals.output, "release.nothing", "There is nothing to release.")?;
    }
    for grant in &ids {
        client.act(Deed::Release { by: me(&client)?, grant: grant.id }, None, None).await?;
        ssh::forget(&home, &grant.target, grant.id);
        super::database::forget(&home, &grant.target, grant.id);
    }
    watch(&mut client, ids.iter().map(|g| g.id).collect(), globals).await
}

/// What `revoke` ends.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// One grant
    grant: Option<String>,
    /// Everything of a person
    #[arg(long)]
    person: Option<PersonName>,
    /// Everything on a target
    #[arg(long)]
    target: Option<TargetName>,
}

/// `revoke`
pub async fn revoke(which: &Which, reason: Option<&str>, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let reason = match reason {
        Some(reason) => reason.to_owned(),
        None => prompt::ask("Reason: ", "--reason TEXT")?,
    };
    let of = match (&which.grant, &which.person, &which.target) {
        (Some(id), _, _) => Selector::Grant(find_grant(&mut client, id).await?.id),
        (_, Some(person), _) => Selector::Person(person.clone()),
        (_, _, Some(target)) => Selector::Target(target.clone()),
        _ => return Err(Failure::new(Code::USAGE, "What? A grant, --person or --target.")),
    };
    let deed = Deed::Revoke { by: me(&client)?, of: of.clone() };
    let outcome = client.act(deed, words(Some(&reason), None)?, None).await?;
    if outcome.grants.is_empty() {
        let name = match &of {
            Selector::Person(name) => known(&mut client, name).await.map(|()| name.to_string())?,
            Selector::Target(name) => super::ask::target(&mut client, name).await?.name.to_string(),
            Selector::Grant(id) => id.to_string(),
        };
        output::done(globals.output, "revoke.nothing", &format!("Nothing of {name} is open."))?;
    }
    watch(&mut client, outcome.grants.iter().map(|g| g.id).collect(), globals).await
}

/// Looked at afterwards: what ends access does not wait for it.
async fn known(client: &mut Client, name: &PersonName) -> Result<(), Failure> {
    let people: List<PersonDoc> = client.get("/v1/people").await?;
    if people.items.iter().any(|person| person.name == *name) {
        return Ok(());
    }
    let message = format!("There is nobody called {name} among the people of this broker; nothing was ended.");
    Err(Failure(Refusal::new(Code::MISSING, message).hint("jit-broker person ls")))
}

/// Over, and not proven to be: hosts have not confirmed, or something is left.
pub fn unproven(grant: &GrantDoc) -> bool {
    matches!(grant.state.as_str(), "ending" | "residue")
}

/// Watches proofs come in; exit status 10 while anything is left.
pub async fn watch(client: &mut Client, ids: Vec<GrantId>, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut left = false;
    let began = Instant::now();
    for id in ids {
        let doc = loop {
            let doc: GrantDoc = client.get(&format!("/v1/grants/{id}")).await?;
            if !unproven(&doc) || began.elapsed() >= WATCH {
                break doc;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        left |= unproven(&doc);
        print_grant(&doc, globals)?;
    }
    if left {
        eprintln!("Not confirmed yet; it is tried again by itself. jit-broker status shows it.");
    }
    Ok(if left { ExitCode::from(10) } else { ExitCode::SUCCESS })
}
