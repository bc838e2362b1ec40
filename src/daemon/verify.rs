//! `audit verify`: the tree, and what the entries in it say.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::broker::clerk::{beside, ledger_refusal};
use crate::domain::bundle::Bundle;
use crate::domain::digest::{Digest, read_canonical};
use crate::domain::event::{Entry, Event, Listed};
use crate::domain::key::Key;
use crate::domain::refusal::Refusal;
use crate::domain::state::{Beside, State};
use crate::domain::text::Words;
use crate::ledger::Reader;
use crate::ledger::verify::{LeafCheck, LeafFacts, OutsideNote, Pinned, Problem, Report, Source, verify};

/// Checks that every entry is one that the rules of the log allow: order, time, windows, serials, lists.
#[derive(Default)]
pub struct Entries {
    state: State,
    serials: BTreeSet<(&'static str, u64)>,
}

/// Bundles are not judged again here; only what entries say of each other is checked.
struct Nothing;

impl Beside for Nothing {
    fn words(&self, _: &Digest) -> Option<Words> {
        None
    }

    fn bundle(&self, _: &Digest) -> Option<Arc<Bundle>> {
        None
    }
}

impl Entries {
    fn problems(&mut self, seq: u64, entry: &Entry) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut say =
            |kind: &str, detail: String| found.push(Problem { seq: Some(seq), kind: kind.to_owned(), detail });
        if entry.seq != seq {
            say("order", format!("the entry says that it is number {}", entry.seq));
        }
        if entry.at < self.state.last_at {
            say("order", "the entry is older than the one before".to_owned());
        }
        match &entry.event {
            Event::CredentialIssued { credential, grant, serial, valid_before, key, .. } => {
                if !self.serials.insert((credential.word(), *serial)) {
                    say("serial", format!("serial {serial} was used before"));
                }
                match self.state.grants.get(grant) {
                    Some(open) if *valid_before <= open.ends_at && open.keys.contains(key) => {}
                    _ => say("window", format!("serial {serial} is outside the window or the keys of {grant}")),
                }
            }
            Event::KrlPublished { version, serials, listed } => {
                if *version <= self.state.krl.version {
                    say("krl", format!("list {version} does not follow {}", self.state.krl.version));
                }
                let wanted = self.state.krl_wanted(entry.at);
                if let Some(listed) = listed {
                    if *listed != Listed::of(&wanted) || !serials.is_empty() {
                        say(
                            "krl",
                            format!("list {version} does not have exactly the {} revoked serials", wanted.len()),
                        );
                    }
                } else {
                    for serial in wanted.difference(&serials.iter().copied().collect()) {
                        say("krl", format!("list {version} lacks serial {serial}"));
                    }
                }
            }
            _ => {}
        }
        found
    }
}

impl LeafCheck for Entries {
    fn leaf(&mut self, seq: u64, bytes: &[u8]) -> LeafFacts {
        let mut facts = LeafFacts::default();
        match read_canonical::<Entry>(bytes) {
            Err(error) => {
                facts.problems.push(Problem {
                    seq: Some(seq),
                    kind: "entry".to_owned(),
                    detail: format!("the entry cannot be read: {error}"),
                });
            }
            Ok(entry) => {
                facts.at = Some(entry.at);
                facts.problems = self.problems(seq, &entry);
                let (required, shreddable) = beside(&entry);
                let adopted = matches!(entry.event, Event::BundleAdopted { .. });
                let needed = if adopted { required } else { Vec::new() };
                facts.required_blobs = needed.iter().map(|d| *d.as_bytes()).collect();
                facts.shreddable_blobs = shreddable.iter().map(|d| *d.as_bytes()).collect();
                self.state.apply(&entry, &Nothing);
            }
        }
        facts
    }
}

/// Verifies a ledger or an export against the pinned key of its log.
///
/// # Errors
/// When it cannot be read at all; everything else is in the report.
pub async fn audit(path: &Path, origin: String, log_key: &Key, outside: &[OutsideNote]) -> Result<Report, Refusal> {
    let public = log_key.0.ed25519_bytes().unwrap_or_default();
    let pinned = Pinned { origin, public, genesis: None };
    let sqlite = begins_like_sqlite(path);
    let source = if sqlite {
        Source::Sqlite(Reader::open(path).await.map_err(|e| ledger_refusal(&e))?)
    } else {
        Source::Export(path.to_owned())
    };
    verify(&source, &pinned, outside, &mut Entries::default()).await.map_err(|e| ledger_refusal(&e))
}

fn begins_like_sqlite(path: &Path) -> bool {
    let mut head = [0; 16];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
    read.is_ok() && &head == b"SQLite format 3\0"
}
