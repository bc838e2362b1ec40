//! The auditor's verbs.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::client::Client;
use super::context::Context;
use super::failure::Failure;
use super::home::Home;
use super::{Globals, keys, output};
use crate::daemon::verify::{audit, audit_tree, first_origin};
use crate::domain::refusal::Code;
use crate::domain::text::shown;
use crate::ledger::cosign::CosignerKey;
use crate::ledger::verify::{OutsideNote, Report};
use crate::record::Store;
use crate::signer::gate::origin_of;
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
        /// The key of a witness, NAME+ID+KEY: the newest checkpoint that it signed counts as kept outside
        #[arg(long, value_name = "KEY")]
        cosigner: Vec<CosignerKey>,
        /// Only hashes and the newest checkpoint: that nothing was changed, not that it was right
        #[arg(long)]
        quick: bool,
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
            Self::Verify { offline, key, witness, cosigner, quick, recordings } => {
                let known =
                    Known { key: key.as_deref(), witness, cosigner, recordings: recordings.as_deref(), quick: *quick };
                verify(offline.as_deref(), &known, globals).await
            }
            Self::Witnesses => witnesses(globals).await,
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

/// The ledger in a folder, or the file itself.
pub fn ledger_in(path: &Path) -> PathBuf {
    let usual = [path.join("ledger.db"), path.join("state/ledger.db")];
    usual.into_iter().find(|p| p.is_file()).unwrap_or_else(|| path.to_owned())
}

/// What is known by another way than through the broker.
struct Known<'a> {
    key: Option<&'a Path>,
    witness: &'a [PathBuf],
    cosigner: &'a [CosignerKey],
    recordings: Option<&'a Path>,
    quick: bool,
}

impl Known<'_> {
    /// The checkpoints that this client saw, and those that were handed over.
    fn notes(&self, context: Option<&Context>, home: &Home) -> Result<Vec<OutsideNote>, Failure> {
        let mut outside = Vec::new();
        if let Some(context) = context
            && let Some((_, _, text)) = context.seen(home)?
        {
            outside.push(OutsideNote { from: "this client".to_owned(), text });
        }
        for path in self.witness {
            let text = std::fs::read_to_string(path).map_err(|e| Failure::local(path.display(), e))?;
            outside.push(OutsideNote { from: path.display().to_string(), text });
        }
        Ok(outside)
    }

    /// Takes a note that a known witness signed, whoever hands it over; others attest nothing.
    fn cosigned(&self, text: &str) -> Option<OutsideNote> {
        self.cosigner.iter().find_map(|key| {
            let at = i64::try_from(key.open(text)?).ok()?;
            let from = format!("witness {} ({})", key.name, output::instant(at));
            Some(OutsideNote { from, text: text.to_owned() })
        })
    }
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

async fn verify(offline: Option<&Path>, known: &Known<'_>, globals: &Globals) -> Result<ExitCode, Failure> {
    let home = Home::find()?;
    let context = Context::load(&home);
    let mut outside = known.notes(context.as_ref().ok(), &home)?;
    let fetched;
    let (path, origin, log_key) = match offline {
        Some(path) => {
            let path = ledger_in(path);
            outside.extend(cosigned_beside(&path, known));
            let (origin, log_key) = match (&context, known.key) {
                (Ok(context), None) => (context.about.origin.clone(), context.about.log_key.clone()),
                // A log without a beginning is judged like any other: it is empty.
                (_, Some(key)) => {
                    (first_origin(&path).await?.unwrap_or_else(|| origin_of("nothing")), keys::public(key)?)
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
            // Before the log is fetched: it goes on, and must not look rolled back by what came meanwhile.
            if !known.cosigner.is_empty() {
                let list: List<WitnessDoc> = client.get("/v1/audit/witnesses").await?;
                outside.extend(list.items.iter().filter_map(|w| known.cosigned(w.note.as_deref()?)));
            }
            fetch(&mut client, &fetched).await?;
            let about = &client.context()?.about;
            (fetched.clone(), about.origin.clone(), about.log_key.clone())
        }
    };
    let beside = path.with_file_name("recordings");
    let folder = known.recordings.or((offline.is_some() && beside.is_dir()).then_some(beside.as_path()));
    let store = folder.map(Store::to_read).transpose().map_err(|e| Failure::local("the recordings", e))?;
    let report = if known.quick {
        audit_tree(&path, origin, &log_key, &outside).await?
    } else {
        audit(&path, origin, &log_key, &outside, store.as_ref()).await?
    };
    if offline.is_none() {
        let _ = std::fs::remove_file(&path);
    }
    // While it is fetched the log goes on; a copy that lies still must be attested to its very end.
    let least = if offline.is_some() { report.size } else { 0 };
    print(&report, least, known.quick, globals)
}

/// The notes beside a ledger that known witnesses signed.
fn cosigned_beside(ledger: &Path, known: &Known<'_>) -> Vec<OutsideNote> {
    let folder = std::fs::read_dir(ledger.with_file_name(crate::daemon::outside::COSIGNED));
    let files = folder.into_iter().flatten().flatten();
    files.filter_map(|file| known.cosigned(&std::fs::read_to_string(file.path()).ok()?)).collect()
}

fn print(report: &Report, least: u64, quick: bool, globals: &Globals) -> Result<ExitCode, Failure> {
    let root = data_encoding::HEXLOWER.encode(&report.root);
    if globals.json() {
        let doc = |(size, from): &(u64, String)| serde_json::json!({ "size": size, "from": from });
        let attested = report.attested.as_ref().map(doc);
        let doc = serde_json::json!({
            "ok": report.ok, "size": report.size, "root": root, "problems": report.problems, "warnings": report.warnings,
            "entries_judged": !quick, "attested": attested, "copies": report.copies.iter().map(doc).collect::<Vec<_>>(),
        });
        output::answer(globals.output, "verify", doc, "", &[])?;
    } else if globals.output == output::Format::Name {
        println!("{root}");
    } else {
        for problem in &report.problems {
            let seq = problem.seq.map(|s| format!("entry {s}: ")).unwrap_or_default();
            println!("FAIL {}: {seq}{}", problem.kind, shown(&problem.detail));
        }
        for warning in &report.warnings {
            let seq = warning.seq.map(|s| format!("entry {s}: ")).unwrap_or_default();
            eprintln!("warning: {}: {seq}{}", warning.kind, shown(&warning.detail));
        }
        let word = if report.ok { "ok" } else { "FAILED" };
        println!("{word}: {} entries, root {root}", report.size);
        if quick {
            println!(
                "hashes and the newest checkpoint alone: nothing was changed; whether it was right was not looked at"
            );
        }
        match &report.attested {
            Some((size, from)) if *size == report.size => {
                println!("attested outside up to {size} by {}", shown(from));
            }
            Some((size, from)) => println!(
                "attested outside up to {size} by {}; the {} entries after it by nobody",
                shown(from),
                report.size.saturating_sub(*size)
            ),
            None => println!("the tail is attested by nobody outside"),
        }
        for (size, from) in report.copies.iter().skip(1) {
            println!("attested outside up to {size} by {}", shown(from));
        }
    }
    Ok(ExitCode::from(match (report.ok, &report.attested) {
        (false, _) => 1,
        (true, Some((size, _))) if *size >= least => 0,
        (true, _) => 11,
    }))
}
