//! `ca rotate`: the replacement of an authority, a step at a time.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::ask::me;
use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::{Globals, output};
use crate::domain::act::Deed;
use crate::domain::authority::{Purpose, Rotation, Wait};
use crate::domain::refusal::Code;
use crate::domain::span::parse_span;
use crate::domain::text::shown;
use crate::wire::{AuthorityDoc, List, NextKey, Outcome};

/// How often `--wait` looks again.
const PAUSE: Duration = Duration::from_secs(2);

/// `jit-broker ca rotate`
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Which: ssh-user, ssh-gateway, ssh-host, x509-client, x509-server. Without a flag a new key is made and trusted beside the old one
    #[arg(required_unless_present = "status")]
    kind: Option<Purpose>,
    /// How each replacement stands, and who has not heard of it
    #[arg(long, conflicts_with_all = ["activate", "retire", "abandon", "force", "wait"])]
    status: bool,
    /// The new key signs from now on
    #[arg(long, conflicts_with_all = ["retire", "abandon"])]
    activate: bool,
    /// The old key is trusted no longer
    #[arg(long, conflicts_with = "abandon")]
    retire: bool,
    /// The new key is given up, before it signed
    #[arg(long)]
    abandon: bool,
    /// Without those who have not heard: they have no access until they are told by hand
    #[arg(long)]
    force: bool,
    /// Waits for those who have not heard, at most so long
    #[arg(long, value_name = "DURATION", conflicts_with = "force")]
    wait: Option<String>,
}

impl RotateArgs {
    /// Runs the verb.
    ///
    /// # Errors
    /// [`Code::NOT_HEARD`] with the names of those who would be shut out, [`Code::NOT_STAGED`], or as the broker says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        let mut client = Client::remembered(&Home::find()?)?;
        let Some(ca) = self.kind.filter(|_| !self.status) else {
            let docs: List<AuthorityDoc> = client.get("/v1/authorities").await?;
            return status(docs, self.kind, globals);
        };
        let wait = if self.force { Wait::ForNobody } else { Wait::ForAll };
        let step = match (self.activate, self.retire, self.abandon) {
            (true, ..) => Rotation::Activate(wait),
            (_, true, _) => Rotation::Retire(wait),
            (.., true) => Rotation::Abandon,
            _ if self.force || self.wait.is_some() => {
                let what = "A new key is staged without anybody who could be shut out: say --activate or --retire.";
                return Err(Failure::new(Code::USAGE, what));
            }
            _ => {
                let next: NextKey = client.post(&format!("/v1/authorities/{ca}/next"), &serde_json::json!({})).await?;
                Rotation::Stage(next.public)
            }
        };
        let outcome = self.act(&mut client, ca, &step).await?;
        if let Some(request) = outcome.request {
            let what = format!("Request {} waits for people; the step is taken once they have agreed.", request.id);
            return Err(Failure::new(Code::PENDING, what));
        }
        output::done(globals.output, outcome.events.first().map_or("ca.unchanged", String::as_str), &said(ca, &step))?;
        Ok(ExitCode::SUCCESS)
    }

    /// Signs the step, once: a refusal stands in the log. With `--wait` when nobody lacks the key any more, or the time is up.
    async fn act(&self, client: &mut Client, ca: Purpose, step: &Rotation) -> Result<Outcome, Failure> {
        if let Some(wait) = self.wait.as_deref().map(parse_span).transpose()? {
            self.heard(client, ca, Duration::from_secs(wait)).await?;
        }
        let deed = Deed::RotateCa { by: me(client)?, ca, step: step.clone() };
        client.act(deed, None, None).await
    }

    /// Waits for those whom the step would shut out, and names them.
    async fn heard(&self, client: &mut Client, ca: Purpose, patience: Duration) -> Result<(), Failure> {
        let phase = if self.retire { "active" } else { "staged" };
        let (begun, mut told) = (Instant::now(), Vec::new());
        loop {
            let docs: List<AuthorityDoc> = client.get("/v1/authorities").await?;
            let lacks = |doc: &&AuthorityDoc| doc.purpose == ca && doc.phase == phase && !doc.lacking.is_empty();
            let Some(doc) = docs.items.iter().find(lacks) else { return Ok(()) };
            if begun.elapsed() >= patience {
                return Ok(());
            }
            let names: Vec<String> = doc.lacking.iter().map(|l| l.who.clone()).collect();
            if told != names {
                eprintln!("Waiting for those whom the next step for {ca} would shut out:");
                doc.lacking.iter().for_each(|l| eprintln!("  {}: {}", shown(&l.who), shown(&l.why)));
                told = names;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What was done, and what comes next.
fn said(ca: Purpose, step: &Rotation) -> String {
    match step {
        Rotation::Stage(_) => format!(
            "The new key of {ca} is trusted beside the old one. Next: jit-broker ca rotate --status, and when nobody lacks it jit-broker ca rotate {ca} --activate"
        ),
        Rotation::Activate(_) => {
            let away = match ca {
                Purpose::X509Server => {
                    " Who was not in touch since it was staged needs its fingerprint, which jit-broker ca rotate --status shows."
                }
                _ => "",
            };
            format!(
                "The new key of {ca} signs from now on; the old one is still trusted.{away} Next, when nobody needs it: jit-broker ca rotate {ca} --retire"
            )
        }
        Rotation::Retire(_) => {
            format!("The old key of {ca} is trusted no longer.")
        }
        Rotation::Abandon => format!("The new key of {ca} is given up."),
    }
}

fn status(docs: List<AuthorityDoc>, only: Option<Purpose>, globals: &Globals) -> Result<ExitCode, Failure> {
    let docs: Vec<AuthorityDoc> =
        docs.items.into_iter().filter(|doc| only.is_none_or(|kind| kind == doc.purpose)).collect();
    output::list(globals.output, "authority", &docs, &["kind", "phase", "since", "lacking"], |doc| {
        let since = doc.since.clone().unwrap_or_default();
        vec![doc.purpose.to_string(), doc.phase.clone(), since, doc.lacking.len().to_string()]
    })?;
    if !globals.json() {
        docs.iter().flat_map(lines).for_each(|line| eprintln!("{line}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// A replacement that is going on, for `status` and `ca rotate --status`; nothing where there is none.
pub fn lines(doc: &AuthorityDoc) -> Vec<String> {
    let ca = doc.purpose;
    let (what, flag) = match doc.phase.as_str() {
        "staged" => ("is trusted and does not sign yet", "--activate"),
        "active" => ("signs, and the old one is still trusted", "--retire"),
        _ => return Vec::new(),
    };
    let mut lines = vec![format!("{ca}: the new key {what}; next: jit-broker ca rotate {ca} {flag}")];
    if ca == Purpose::X509Server {
        let (when, new) = match &doc.next {
            Some(next) => ("is not in touch before that", next),
            None => ("was not in touch since it was staged", &doc.active),
        };
        lines.push(format!("  who {when} needs it by hand: jit-broker auth login --fingerprint {}", shown(new)));
    }
    lines.extend(doc.lacking.iter().map(|l| format!("  {ca} LACKS {}: {}", shown(&l.who), shown(&l.why))));
    lines
}
