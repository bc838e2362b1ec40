//! `audit verify`: fetched or at hand, judged here.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::audit::{LogArgs, fetch};
use super::client::Client;
use super::context::{Context, Seen};
use super::failure::Failure;
use super::home::Home;
use super::{Globals, keys, output};
use crate::daemon::verify::{audit, audit_tree, first_origin};
use crate::domain::ids::origin_of;
use crate::domain::key::Key;
use crate::domain::refusal::Code;
use crate::domain::text::shown;
use crate::ledger::cosign::CosignerKey;
use crate::ledger::verify::{OutsideNote, Report};
use crate::record::Store;
use crate::wire::{List, WitnessDoc};

/// The ledger in a folder, or the file itself.
pub fn ledger_in(path: &Path) -> PathBuf {
    let usual = [path.join("ledger.db"), path.join("state/ledger.db")];
    usual.into_iter().find(|p| p.is_file()).unwrap_or_else(|| path.to_owned())
}

/// What is known by another way than through the broker.
struct Known<'a> {
    key: Option<&'a Path>,
    witness: &'a [PathBuf],
    cosigner: Vec<CosignerKey>,
    recordings: Option<&'a Path>,
    quick: bool,
}

impl<'a> Known<'a> {
    fn of(args: &'a LogArgs) -> Result<Self, Failure> {
        let parse = |key: &String| {
            key.parse::<CosignerKey>()
                .map_err(|e| Failure::new(Code::USAGE, format!("--cosigner {}: {e}.", shown(key))))
        };
        Ok(Self {
            key: args.key.as_deref(),
            witness: &args.witness,
            cosigner: args.cosigner.iter().map(parse).collect::<Result<_, _>>()?,
            recordings: args.recordings.as_deref(),
            quick: args.quick,
        })
    }

    /// The checkpoints that were handed over.
    fn notes(&self) -> Result<Vec<OutsideNote>, Failure> {
        let mut outside = Vec::new();
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

/// A log that was fetched: nothing of it stays.
struct Fetched(PathBuf);

impl Drop for Fetched {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Judges a log against a key and the checkpoints that are held outside.
///
/// # Errors
/// When it cannot be fetched or read, or nobody says which key signs it.
pub async fn verify(args: &LogArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let (offline, known) = (args.offline.as_deref(), &Known::of(args)?);
    let home = Home::find()?;
    let context = match Context::load(&home) {
        Err(failure) if failure.0.code == Code::NOT_SIGNED_IN => None,
        other => Some(other?),
    };
    let mut outside = known.notes()?;
    // Before anything is fetched, which this client remembers as well.
    let seen = context.as_ref().map(|context| context.seen(&home));
    let mut fetched = None;
    let (path, origin, log_key) = match offline {
        Some(path) => {
            let path = ledger_in(path);
            outside.extend(cosigned_beside(&path, known));
            let (origin, log_key) = match (&context, known.key) {
                (Some(context), None) => (context.about.origin.clone(), context.about.log_key.clone()),
                // A log without a beginning is judged like any other: it is empty.
                (_, Some(key)) => {
                    (first_origin(&path).await?.unwrap_or_else(|| origin_of("nothing")), keys::public(key)?)
                }
                (None, None) => {
                    return Err(Failure::new(Code::USAGE, "Which key signs this log? Say it with --key PUB."));
                }
            };
            (path, origin, log_key)
        }
        None => {
            let mut client = Client::remembered(&home)?;
            let named = known.key.map(keys::public).transpose()?;
            let path = home.state.join(format!("verify-{}.jsonl", std::process::id()));
            super::home::private_folder(&home.state)?;
            fetched = Some(Fetched(path.clone()));
            // Before the log is fetched: it goes on, and must not look rolled back by what came meanwhile.
            if !known.cosigner.is_empty() {
                let list: List<WitnessDoc> = client.get("/v1/audit/witnesses").await?;
                outside.extend(list.items.iter().filter_map(|w| known.cosigned(w.note.as_deref()?)));
            }
            fetch(&mut client, &path).await?;
            let about = &client.context()?.about;
            (path, about.origin.clone(), named.unwrap_or_else(|| about.log_key.clone()))
        }
    };
    if context.is_some_and(|context| concerns(&context, &origin, &log_key))
        && let Some(Seen { text, .. }) = seen.transpose()?.flatten()
    {
        outside.push(OutsideNote { from: "this client".to_owned(), text });
    }
    let beside = path.with_file_name("recordings");
    let folder = known.recordings.or((offline.is_some() && beside.is_dir()).then_some(beside.as_path()));
    let store = folder.map(Store::to_read).transpose().map_err(|e| Failure::local("the recordings", e))?;
    let report = if known.quick {
        audit_tree(&path, origin, &log_key, &outside).await
    } else {
        audit(&path, origin, &log_key, &outside, store.as_ref()).await
    };
    drop(fetched);
    let report = report?;
    // While it is fetched the log goes on; a copy that lies still must be attested to its very end.
    let least = if offline.is_some() { report.size } else { 0 };
    print(&report, least, known.quick, globals)
}

/// True when a log is that of the broker where one is signed in, of whatever epoch: what was seen there is held against no other. The key
/// alone is enough, because a log that was emptied has no name any more.
fn concerns(context: &Context, origin: &str, log_key: &Key) -> bool {
    let name = |origin: &str| origin.rsplit_once("/e").map(|(name, _)| name.to_owned());
    context.about.log_key == *log_key || name(&context.about.origin) == name(origin)
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
