//! `audit verify`: fetched or at hand, judged here.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::audit::fetch;
use super::client::Client;
use super::context::Context;
use super::failure::Failure;
use super::home::Home;
use super::{Globals, keys, output};
use crate::daemon::verify::{audit, first_origin};
use crate::domain::refusal::Code;
use crate::ledger::verify::{OutsideNote, Report};
use crate::record::Store;

/// Judges a log against a key and the checkpoints that are held outside.
///
/// # Errors
/// When it cannot be fetched or read, or nobody says which key signs it.
pub async fn verify(
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
        && let Some((_, _, text)) = context.seen(&home)?
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
