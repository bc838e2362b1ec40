//! `status` and `pending`: what one has, what waits, and both as they change.

use std::collections::BTreeMap;
use std::process::ExitCode;

use super::ask::show_grant;
use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::review::ago;
use super::wait::waits_for;
use super::watch::{Picture, watch};
use super::{Globals, answer, left, output};
use crate::domain::ids::GrantId;
use crate::domain::text::shown;
use crate::wire::{GrantDoc, LeftDoc, List, RequestDoc};

/// Everything that `status` tells.
struct Standing {
    grants: Vec<GrantDoc>,
    pending: Vec<RequestDoc>,
    left: LeftDoc,
}

impl Standing {
    async fn fetch(client: &mut Client) -> Result<Self, Failure> {
        let grants: List<GrantDoc> = client.get("/v1/grants?scope=mine").await?;
        let requests: List<RequestDoc> = client.get("/v1/requests?scope=mine").await?;
        let pending = requests.items.into_iter().filter(|r| r.state == "pending").collect();
        Ok(Self { grants: grants.items, pending, left: client.get("/v1/left").await? })
    }

    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.grants.iter().flat_map(|grant| self.grant(grant)).collect();
        lines.extend(self.pending.iter().map(waiting));
        let mine = |id: &GrantId| self.grants.iter().any(|g| g.id == *id);
        let residue = self.left.residue.iter().filter(|r| !mine(&r.grant)).cloned().collect();
        lines.extend(left::show_left(&LeftDoc { residue, ..self.left.clone() }));
        lines
    }

    /// A grant, and the one that it goes on as.
    fn grant(&self, grant: &GrantDoc) -> Vec<String> {
        let mut lines = show_grant(grant);
        let same =
            |other: &&GrantDoc| other.target == grant.target && other.role == grant.role && other.left_s > grant.left_s;
        let next = self.grants.iter().filter(same).max_by_key(|other| other.left_s);
        if let Some(next) = next.filter(|_| grant.left_s > 0) {
            lines.push(format!("  goes on as {} until {}", next.id, next.ends_at));
        }
        lines
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({ "grants": self.grants, "requests": self.pending,
            "residue": self.left.residue, "strangers": self.left.strangers })
    }

    fn is_residue(&self) -> bool {
        self.left.is_residue() || self.grants.iter().any(answer::unproven)
    }

    fn picture(&self) -> Picture {
        let grants = self.grants.iter().map(|g| {
            let what = format!("{}\t{}\t{} on {}\tuntil {}", g.id, g.state, g.role, g.target, g.ends_at);
            (g.id.to_string(), what)
        });
        let pending = self.pending.iter().map(|r| (r.id.to_string(), waiting(r)));
        let mut json = self.json();
        json["schema"] = "jit-broker/status/v1".into();
        Picture { lines: self.lines(), things: grants.chain(pending).collect(), json }
    }
}

fn waiting(r: &RequestDoc) -> String {
    format!("{}  {}  {} on {}  waits for {}", r.id, r.code, r.role, r.target, waits_for(r))
}

/// `status`; exit status 10 while something is left on a target.
///
/// # Errors
/// As the broker says.
pub async fn status(keep: bool, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    if keep {
        return watch(globals, "is open", async || Ok(Standing::fetch(&mut client).await?.picture())).await;
    }
    let standing = Standing::fetch(&mut client).await?;
    if globals.json() {
        output::answer(globals.output, "status", standing.json(), "", &[])?;
    } else if globals.output == output::Format::Name {
        let grants = standing.grants.iter().map(|g| g.id.to_string());
        grants.chain(standing.pending.iter().map(|r| r.id.to_string())).for_each(|id| println!("{id}"));
    } else {
        if standing.grants.is_empty() && standing.pending.is_empty() {
            eprintln!("Nothing is open. jit-broker ls shows what you may ask for.");
        }
        standing.lines().iter().for_each(|line| println!("{}", shown(line)));
    }
    Ok(if standing.is_residue() { ExitCode::from(10) } else { ExitCode::SUCCESS })
}

const HEAD: [&str; 7] = ["id", "who", "what", "for", "code", "reason", "asked"];

fn row(r: &RequestDoc) -> [String; 7] {
    [
        r.id.to_string(),
        r.requester.to_string(),
        format!("{} on {}", r.role, r.target),
        output::span(i64::try_from(r.for_s).unwrap_or(0)),
        r.code.clone(),
        r.reason.clone().unwrap_or_default(),
        r.created_at.clone(),
    ]
}

/// `pending`: what waits for one's own answer, or for anybody's.
///
/// # Errors
/// As the broker says.
pub async fn pending(all: bool, keep: bool, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let path = format!("/v1/requests?scope={}", if all { "all" } else { "answer" });
    if keep {
        let what = if all { "waits for anybody" } else { "waits for you" };
        return watch(globals, what, async || Ok(picture(&client.get::<List<RequestDoc>>(&path).await?))).await;
    }
    let list: List<RequestDoc> = client.get(&path).await?;
    output::list(globals.output, "request", &list.items, &HEAD, |r| row(r).into())?;
    if list.items.is_empty() && !globals.json() && globals.output != output::Format::Name {
        eprintln!("Nothing waits for {}.", if all { "anybody" } else { "you" });
    }
    Ok(ExitCode::SUCCESS)
}

fn picture(list: &List<RequestDoc>) -> Picture {
    let now = crate::clock::wall_s();
    let things: BTreeMap<String, String> = list.items.iter().map(|r| (r.id.to_string(), row(r).join("\t"))).collect();
    // The two words are enough to answer by, and leave room for the reason.
    let head = ["code", "who", "what", "for", "asked", "reason"];
    let lines = output::rows(
        &head,
        list.items.iter().map(|r| {
            let [_, who, what, span, code, reason, _] = row(r);
            vec![code, who, what, span, ago(&r.created_at, now), reason]
        }),
    );
    let lines = if list.items.is_empty() { Vec::new() } else { lines };
    Picture { lines, things, json: serde_json::json!(list) }
}
