//! The auditor's verbs.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::client::Client;
use super::context::{Context, Seen};
use super::failure::Failure;
use super::home::Home;
use super::{Globals, keys, output};
use crate::daemon::verify::{audit, first_origin};
use crate::domain::refusal::Code;
use crate::ledger::verify::{OutsideNote, Report};
use crate::record::Store;
use crate::wire::{EventDoc, List};

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
    /// The whole log with its checkpoints
    Export {
        /// Where to; default stdout
        #[arg(long)]
        to: Option<PathBuf>,
    },
    /// Begins a new epoch after a restore or a loss, so that the broker signs again; two administrators, or the one there is
    BeginEpoch(super::epoch::BeginArgs),
    /// Checks every entry, the tree and the checkpoints against the pinned key
    Verify {
        /// A ledger, a folder that has one, or an export; default: fetched from the broker
        #[arg(long, value_name = "DIR|FILE")]
        offline: Option<PathBuf>,
        /// The log's public key; default: the pinned one
        #[arg(long, value_name = "PUB")]
        key: Option<PathBuf>,
        /// A checkpoint that was kept outside
        #[arg(long, value_name = "NOTE")]
        witness: Vec<PathBuf>,
        /// Recordings to check against the log; default: those beside the ledger
        #[arg(long, value_name = "DIR")]
        recordings: Option<PathBuf>,
    },
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
            Self::Verify { offline, key, witness, recordings } => {
                verify(offline.as_deref(), key.as_deref(), witness, recordings.as_deref(), globals).await
            }
        }
    }
}

/// Fetches the export into a private file, which is there only when it is whole.
async fn fetch(client: &mut Client, path: &Path) -> Result<(), Failure> {
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

async fn verify(
    offline: Option<&Path>,
    key: Option<&Path>,
    witness: &[PathBuf],
    recordings: Option<&Path>,
    globals: &Globals,
) -> Result<ExitCode, Failure> {
    let home = Home::find()?;
    let context = Context::load(&home);
    let mut outside = Vec::new();
    if let Ok(context) = &context
        && let Some(Seen { text, .. }) = context.seen(&home)?
    {
        outside.push(OutsideNote { from: "this client".to_owned(), text });
    }
    for path in witness {
        let text = std::fs::read_to_string(path).map_err(|e| Failure::local(path.display(), e))?;
        outside.push(OutsideNote { from: path.display().to_string(), text });
    }
    let fetched;
    let (path, origin, log_key) = match offline {
        Some(path) => {
            let path = [path.join("ledger.db"), path.join("state/ledger.db")]
                .into_iter()
                .find(|p| p.is_file())
                .unwrap_or_else(|| path.to_owned());
            let (origin, log_key) = match (&context, key) {
                (Ok(context), None) => (context.about.origin.clone(), context.about.log_key.clone()),
                (_, Some(key)) => {
                    let begins = || Failure::new(Code::LEDGER_CORRUPT, "The log does not begin with its beginning.");
                    (first_origin(&path).await?.ok_or_else(begins)?, keys::public(key)?)
                }
                (Err(_), None) => {
                    return Err(Failure::new(Code::USAGE, "Which key signs this log? Say it with --key PUB."));
                }
            };
            (path, origin, log_key)
        }
        None => {
            let mut client = Client::remembered(&home)?;
            fetched = home.state.join(format!("verify-{}.jsonl", std::process::id()));
            super::home::private_folder(&home.state)?;
            fetch(&mut client, &fetched).await?;
            let about = &client.context()?.about;
            (fetched.clone(), about.origin.clone(), about.log_key.clone())
        }
    };
    let beside = path.with_file_name("recordings");
    let folder = recordings.or((offline.is_some() && beside.is_dir()).then_some(beside.as_path()));
    let store = folder.map(Store::to_read).transpose().map_err(|e| Failure::local("the recordings", e))?;
    let report = audit(&path, origin, &log_key, &outside, store.as_ref()).await?;
    if offline.is_none() {
        let _ = std::fs::remove_file(&path);
    }
    // While it is fetched the log goes on; a copy that lies still must be attested to its very end.
    let least = if offline.is_some() { report.size } else { 0 };
    print(&report, least, globals)
}

fn print(report: &Report, least: u64, globals: &Globals) -> Result<ExitCode, Failure> {
    let root = data_encoding::HEXLOWER.encode(&report.root);
    if globals.json() {
        let attested = report.attested.as_ref().map(|(size, from)| serde_json::json!({ "size": size, "from": from }));
        let doc = serde_json::json!({
            "ok": report.ok, "size": report.size, "root": root, "problems": report.problems, "warnings": report.warnings,
            "attested": attested,
        });
        output::answer(globals.output, "verify", doc, "", &[])?;
    } else if globals.output == output::Format::Name {
        println!("{root}");
    } else {
        for problem in &report.problems {
            let seq = problem.seq.map(|s| format!("entry {s}: ")).unwrap_or_default();
            println!("FAIL {}: {seq}{}", problem.kind, crate::domain::text::shown(&problem.detail));
        }
        for warning in &report.warnings {
            let seq = warning.seq.map(|s| format!("entry {s}: ")).unwrap_or_default();
            eprintln!("warning: {}: {seq}{}", warning.kind, crate::domain::text::shown(&warning.detail));
        }
        let word = if report.ok { "ok" } else { "FAILED" };
        println!("{word}: {} entries, root {root}", report.size);
        match &report.attested {
            Some((size, from)) if *size == report.size => println!("attested outside up to {size} by {from}"),
            Some((size, from)) => println!(
                "attested outside up to {size} by {from}; the {} entries after it by nobody",
                report.size.saturating_sub(*size)
            ),
            None => println!("the tail is attested by nobody outside"),
        }
    }
    Ok(ExitCode::from(match (report.ok, &report.attested) {
        (false, _) => 1,
        (true, Some((size, _))) if *size >= least => 0,
        (true, _) => 11,
    }))
}
