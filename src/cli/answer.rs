//! The approver's verbs, and everything that ends access.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::ask::{me, print_grant, print_request, words};
use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::{Globals, output, prompt, ssh};
use crate::domain::act::{Act, Deed, Selector, Terms};
use crate::domain::digest::{Digest, read_canonical};
use crate::domain::ids::{GrantId, RequestId};
use crate::domain::names::{PersonName, RoleName, TargetName};
use crate::domain::refusal::Code;
use crate::domain::span::parse_span;
use crate::domain::text::shown;
use crate::wire::{GrantDoc, List, RequestDoc, TargetDoc};

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
    let mut all: Vec<RequestDoc> = Vec::new();
    for scope in ["mine", "answer"] {
        let list: List<RequestDoc> = client.get(&format!("/v1/requests?scope={scope}")).await?;
        all.extend(list.items);
    }
    let mut fitting: Vec<RequestDoc> =
        all.into_iter().filter(|r| r.id.to_string().starts_with(text) || r.code == text).collect();
    fitting.dedup_by_key(|r| r.id);
    match (fitting.pop(), fitting.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(_), false) => Err(Failure::new(Code::AMBIGUOUS, format!("{} fits several requests.", shown(text)))),
        (None, _) => {
            Err(Failure::new(Code::MISSING, format!("There is no request {}, or you may not know of it.", shown(text))))
        }
    }
}

/// Finds a grant by a unique prefix of its id.
///
/// # Errors
/// [`Code::MISSING`], [`Code::AMBIGUOUS`].
pub async fn find_grant(client: &mut Client, text: &str) -> Result<GrantDoc, Failure> {
    if let Ok(id) = text.parse::<GrantId>() {
        return client.get(&format!("/v1/grants/{id}")).await;
    }
    let mut all: List<GrantDoc> = client.get("/v1/grants?scope=mine").await?;
    if let Ok(others) = client.get::<List<GrantDoc>>("/v1/grants?scope=all").await {
        all.items.extend(others.items);
    }
    all.items.sort_by_key(|g| g.id);
    all.items.dedup_by_key(|g| g.id);
    let mut fitting: Vec<GrantDoc> = all.items.into_iter().filter(|g| g.id.to_string().starts_with(text)).collect();
    match (fitting.pop(), fitting.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(_), false) => Err(Failure::new(Code::AMBIGUOUS, format!("{} fits several grants.", shown(text)))),
        (None, _) => {
            Err(Failure::new(Code::MISSING, format!("There is no grant {}, or you may not know of it.", shown(text))))
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

/// The terms that an approver signs, out of the requester's own signed act: what the broker shows beside it must agree with it.
fn terms(doc: &RequestDoc) -> Result<Terms, Failure> {
    let differs = |what: &str| {
        Failure::new(
            Code::STALE_TERMS,
            format!("The broker shows another {what} than the requester signed. Do not approve this."),
        )
    };
    let act = doc.act.as_deref().ok_or_else(|| differs("act"))?;
    if Digest::of(act.as_bytes()) != doc.digest || RequestId::of_digest(&doc.digest) != doc.id {
        return Err(differs("act"));
    }
    let act: Act = read_canonical(act.as_bytes()).map_err(|_| differs("act"))?;
    match &act.deed {
        Deed::Request { by, target, for_s, .. } => {
            if *by != doc.requester || *target != doc.target || *target != doc.terms.target {
                return Err(differs("person or target"));
            }
            if for_s.is_some_and(|s| doc.for_s > s) {
                return Err(differs("duration"));
            }
        }
        Deed::Apply { by, bundle, .. } if *by == doc.requester && *bundle == doc.terms.target_digest => {}
        _ => return Err(differs("act")),
    }
    Ok(doc.terms.clone())
}

async fn approve_doc(
    client: &mut Client,
    doc: &RequestDoc,
    for_s: Option<u64>,
    role: Option<&RoleName>,
    note: Option<&str>,
) -> Result<RequestDoc, Failure> {
    let mut terms = terms(doc)?;
    if let Some(s) = for_s {
        terms.for_s = s;
    }
    if let Some(name) = role {
        let all: List<TargetDoc> = client.get("/v1/targets").await?;
        let target = all.items.iter().find(|t| t.name == doc.target);
        let role = target.and_then(|t| t.roles.iter().find(|r| r.name == *name));
        let role = role.ok_or_else(|| {
            Failure::new(Code::NO_ROLE, format!("{} has no role {name} that you can see.", doc.target))
        })?;
        (terms.role, terms.logins, terms.allow) = (role.name.clone(), role.logins.clone(), role.allow.clone());
    }
    let deed = Deed::Approve { by: me(client)?, request: doc.id, request_digest: doc.digest, terms };
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

/// `deny`
pub async fn deny(id: &str, reason: Option<&str>, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let doc = find_request(&mut client, id).await?;
    let reason = match reason {
        Some(reason) => reason.to_owned(),
        None => prompt::ask("Reason: ", "--reason TEXT")?,
    };
    client.act(Deed::Deny { by: me(&client)?, request: doc.id }, words(Some(&reason), None)?, None).await?;
    let after: RequestDoc = client.get(&format!("/v1/requests/{}", doc.id)).await?;
    print_request(&after, globals)?;
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

/// `pending`
pub async fn pending(all: bool, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let scope = if all { "all" } else { "answer" };
    let list: List<RequestDoc> = client.get(&format!("/v1/requests?scope={scope}")).await?;
    let head = ["id", "who", "what", "for", "code", "reason"];
    output::list(globals.output, "request", &list.items, &head, |r| {
        vec![
            r.id.to_string(),
            r.requester.to_string(),
            format!("{} on {}", r.role, r.target),
            output::span(i64::try_from(r.for_s).unwrap_or(0)),
            r.code.clone(),
            r.reason.clone().unwrap_or_default(),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

/// `review`: one request at a time.
pub async fn review() -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let list: List<RequestDoc> = client.get("/v1/requests?scope=answer").await?;
    if list.items.is_empty() {
        eprintln!("Nothing waits for you.");
    }
    for item in list.items {
        let doc: RequestDoc = client.get(&format!("/v1/requests/{}", item.id)).await?;
        print_request(&doc, &Globals { output: output::Format::Table })?;
        let answer =
            prompt::ask("(a)pprove  (s)horten  (d)eny  (n)ext  (q)uit: ", "jit-broker approve ID, or deny ID")?;
        match answer.trim() {
            "a" => {
                let after = approve_doc(&mut client, &doc, None, None, None).await?;
                eprintln!("{}: {}", after.code, after.state);
            }
            "s" => {
                let span = parse_span(prompt::ask("For how long? ", "--for D")?.trim())?;
                let after = approve_doc(&mut client, &doc, Some(span), None, None).await?;
                eprintln!("{}: {}", after.code, after.state);
            }
            "d" => {
                let reason = prompt::ask("Reason: ", "--reason TEXT")?;
                client.act(Deed::Deny { by: me(&client)?, request: doc.id }, words(Some(&reason), None)?, None).await?;
            }
            "q" => break,
            _ => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `wait`
pub async fn wait(id: &str, timeout: Option<&str>, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let doc = find_request(&mut client, id).await?;
    let patience = timeout.map(parse_span).transpose()?.map_or(Duration::from_secs(8 * 3600), Duration::from_secs);
    let answered = super::ask::wait_for(&mut client, doc, patience, globals).await?;
    print_request(&answered, globals)?;
    super::ask::outcome(&mut client, &answered).await?;
    Ok(ExitCode::SUCCESS)
}

/// `show`
pub async fn show(id: &str, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    if id.starts_with("gr_") {
        print_grant(&find_grant(&mut client, id).await?, globals)?;
    } else {
        print_request(&find_request(&mut client, id).await?, globals)?;
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
    for grant in &ids {
        client.act(Deed::Release { by: me(&client)?, grant: grant.id }, None, None).await?;
        ssh::forget(&home, grant.target.as_str());
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
    let outcome = client.act(Deed::Revoke { by: me(&client)?, of }, words(Some(&reason), None)?, None).await?;
    watch(&mut client, outcome.grants.iter().map(|g| g.id).collect(), globals).await
}

/// Watches proofs come in; exit status 10 while anything is left.
pub async fn watch(client: &mut Client, ids: Vec<GrantId>, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut left = false;
    let began = Instant::now();
    for id in ids {
        let doc = loop {
            let doc: GrantDoc = client.get(&format!("/v1/grants/{id}")).await?;
            if doc.state != "ending" || began.elapsed() >= WATCH {
                break doc;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        left |= doc.state == "ending";
        print_grant(&doc, globals)?;
    }
    if left {
        eprintln!("Not confirmed yet; it is tried again by itself. jit-broker status shows it.");
    }
    Ok(if left { ExitCode::from(10) } else { ExitCode::SUCCESS })
}
