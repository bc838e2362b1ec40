//! The auditor's verbs.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::client::Client;
use super::failure::Failure;
use super::home::Home;
use super::verify::verify;
use super::{Globals, output};
use crate::domain::text::shown;
use crate::wire::{EventDoc, List, WitnessDoc};

/// So many events come in one answer of the broker.
const PAGE: usize = 1000;

/// `jit-broker audit …`
#[derive(Debug, Subcommand)]
pub enum AuditVerb {
    /// The newest events, oldest first
    Tail {
        /// How many
        #[arg(short, long, default_value_t = 20)]
        n: u32,
    },
    /// Events that fit
    Search(Query),
    /// Where copies of the newest checkpoint go, and how that goes
    Witnesses,
    /// The whole log with its checkpoints
    Export {
        /// Where to; default stdout
        #[arg(long)]
        to: Option<PathBuf>,
    },
    /// Begins a new epoch after a restore or a loss, so that the broker signs again; two administrators, or the one there is
    BeginEpoch(super::epoch::BeginArgs),
    /// Checks every entry, the tree and the checkpoints against the pinned key
    Verify(LogArgs),
}

/// Which log, and what is known of it by another way than through the broker.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// A ledger, a folder that has one, or an export; default: fetched from the broker
    #[arg(long, value_name = "DIR|FILE")]
    pub offline: Option<PathBuf>,
    /// The log's public key; default: the pinned one
    #[arg(long, value_name = "PUB")]
    pub key: Option<PathBuf>,
    /// A checkpoint that was kept outside
    #[arg(long, value_name = "NOTE")]
    pub witness: Vec<PathBuf>,
    /// The key of a witness, NAME+ID+KEY: the newest checkpoint that it signed counts as kept outside
    #[arg(long, value_name = "KEY")]
    pub cosigner: Vec<String>,
    /// Only hashes and the newest checkpoint: that nothing was changed, not that it was right
    #[arg(long)]
    pub quick: bool,
    /// Recordings to check against the log; default: those beside the ledger
    #[arg(long, value_name = "DIR")]
    pub recordings: Option<PathBuf>,
}

/// What to look for.
#[derive(Debug, Args)]
pub struct Query {
    /// Anywhere in the event
    text: Option<String>,
    /// Such as grant.opened
    #[arg(long)]
    kind: Option<String>,
    /// Who did it
    #[arg(long)]
    actor: Option<String>,
    /// On which target
    #[arg(long)]
    target: Option<String>,
    /// How many
    #[arg(short, long, default_value_t = 100)]
    n: u32,
}

impl AuditVerb {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn run(&self, globals: &Globals) -> Result<ExitCode, Failure> {
        match self {
            Self::Tail { n } => events(String::new(), *n, globals).await,
            Self::Search(query) => {
                let mut path = String::new();
                let parts =
                    [("text", &query.text), ("kind", &query.kind), ("actor", &query.actor), ("target", &query.target)];
                for (name, value) in parts {
                    value.iter().for_each(|v| path.push_str(&format!("&{name}={}", escaped(v))));
                }
                events(path, query.n, globals).await
            }
            Self::Export { to } => {
                let mut client = Client::remembered(&Home::find()?)?;
                match to {
                    Some(path) => fetch(&mut client, path).await?,
                    None => client.copy("/v1/audit/export", &mut std::io::stdout().lock()).await?,
                }
                Ok(ExitCode::SUCCESS)
            }
            Self::BeginEpoch(args) => args.run(globals).await,
            Self::Verify(args) => verify(args, globals).await,
            Self::Witnesses => witnesses(globals).await,
        }
    }
}

/// Fetches the export into a private file, which is there only when it is whole.
///
/// # Errors
/// As the broker says, and the disk.
pub async fn fetch(client: &mut Client, path: &Path) -> Result<(), Failure> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let part = path.with_file_name(name);
    let broken = |e: std::io::Error| Failure::local(path.display(), e);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(broken)?;
    let mut out = std::io::BufWriter::new(file);
    let copied = client.copy("/v1/audit/export", &mut out).await;
    let kept =
        copied.and_then(|()| out.get_ref().sync_all().and_then(|()| std::fs::rename(&part, path)).map_err(broken));
    if kept.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    kept
}

/// Escapes a text for a query (RFC 3986 section 2.1).
pub fn escaped(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// Fetches the newest events that fit, page by page until there are enough.
async fn events(filter: String, wanted: u32, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let mut all: Vec<EventDoc> = Vec::new();
    let mut before = String::new();
    loop {
        let left = usize::try_from(wanted).unwrap_or(usize::MAX).saturating_sub(all.len());
        if left == 0 {
            break;
        }
        let path = format!("/v1/audit/events?limit={}{filter}{before}", left.min(PAGE));
        let page: List<EventDoc> = client.get(&path).await?;
        all.extend(page.items);
        match page.next {
            Some(seq) => before = format!("&before_seq={seq}"),
            None => break,
        }
    }
    all.reverse();
    output::list(globals.output, "event", &all, &["seq", "at", "kind", "actor", "about"], |e| {
        let about = [
            e.target.as_ref().map(ToString::to_string),
            e.request_id.map(|r| r.to_string()),
            e.grant_id.map(|g| g.to_string()),
            e.session_id.clone(),
            e.detail["person"].as_str().map(str::to_owned),
            e.detail["refusal"]["code"].as_str().map(str::to_owned),
        ];
        vec![
            e.seq.to_string(),
            e.at.clone(),
            e.kind.clone(),
            e.actor.as_ref().map(ToString::to_string).unwrap_or_default(),
            about.into_iter().flatten().collect::<Vec<_>>().join(" "),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

/// `audit witnesses`
async fn witnesses(globals: &Globals) -> Result<ExitCode, Failure> {
    let mut client = Client::remembered(&Home::find()?)?;
    let list: List<WitnessDoc> = client.get("/v1/audit/witnesses").await?;
    let about = &client.context()?.about;
    eprintln!("to be kept elsewhere: origin = \"{}\"  key = \"{}\"", shown(&about.origin), about.log_key);
    let head = ["name", "kind", "size", "at", "dropped", "failed", "trouble"];
    output::list(globals.output, "witness", &list.items, &head, |w| {
        let size = w.size.map(|size| size.to_string()).unwrap_or_default();
        let (at, trouble) = (w.at.clone().unwrap_or_default(), w.trouble.clone().unwrap_or_default());
        vec![w.name.clone(), w.kind.clone(), size, at, w.dropped.to_string(), w.failed.to_string(), trouble]
    })?;
    Ok(ExitCode::SUCCESS)
}
