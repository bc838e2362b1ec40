//! `audit verify`: the tree, and what the entries in it say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;

use super::blobs::Blobs;
use super::doubt::Doubt;
use crate::broker::clerk::ledger_refusal;
use crate::domain::decide::{Now, decide};
use crate::domain::digest::{Digest, read_canonical};
use crate::domain::epoch::{NewEpoch, Witnessed};
use crate::domain::event::{Command, Entry, Event, Listed, Named};
use crate::domain::ids::SessionId;
use crate::domain::key::Key;
use crate::domain::names::PersonName;
use crate::domain::refusal::Refusal;
use crate::domain::session::{Sealed, SessionEnd};
use crate::domain::shelf::Shelf;
use crate::domain::state::{Beside, State};
use crate::ledger::export::first_leaf;
use crate::ledger::verify::{LeafCheck, LeafFacts, OutsideNote, Pinned, Problem, Report, Source, verify, verify_tree};
use crate::ledger::{Hash, Reader, SignedNote};
use crate::record::Store;
use crate::signer::gate::origin_of;

/// How the events of the command that is being read stand to it.
enum Course {
    /// They are those that follow from it; these are still to come.
    Follows(VecDeque<Event>),
    /// They may be, as far as can be told without a text that is gone.
    Unread,
    /// They are not, which was said.
    Astray,
}

/// Checks that every entry is one that the rules of the log allow: order, time, windows, serials, lists; and that it is what
/// follows when its cause is decided again, with the signature of every act (security.md A7).
pub struct Entries {
    origin: String,
    log_key: Key,
    state: State,
    serials: BTreeSet<(&'static str, u64)>,
    shelf: Shelf,
    /// The stored blobs.
    blobs: Blobs,
    /// Named texts that are not there: shredded.
    gone: BTreeSet<Digest>,
    course: Course,
    /// Of the command that is being read.
    doubt: Option<Doubt>,
    /// The recordings that the log seals.
    sealed: Vec<(u64, SessionId, Sealed)>,
}

impl Entries {
    /// Begins with an empty log of this origin and key.
    pub fn new(origin: String, log_key: Key) -> Self {
        Self {
            origin,
            log_key,
            state: State::default(),
            serials: BTreeSet::new(),
            shelf: Shelf::default(),
            blobs: Blobs::default(),
            gone: BTreeSet::new(),
            course: Course::Follows(VecDeque::new()),
            doubt: None,
            sealed: Vec::new(),
        }
    }

    /// Decides the cause again; gives what is wrong and what could not be judged, as words.
    fn judge(&mut self, entry: &Entry) -> (Option<String>, Option<String>) {
        if let Some(command) = &entry.cause {
            if matches!(&self.course, Course::Follows(events) if !events.is_empty()) {
                self.course = Course::Astray;
                return (Some("it stands in the middle of a command".to_owned()), None);
            }
            self.doubt = Doubt::of(&self.state, &self.gone, command);
            match decide(&self.state, command, Now { at: entry.at, beside: &self.shelf }) {
                Ok(events) => self.course = Course::Follows(events.into()),
                Err(refusal) => {
                    self.course = Course::Astray;
                    return (Some(format!("nothing justifies it: {}", refusal.message)), None);
                }
            }
        }
        match &mut self.course {
            Course::Astray => return (None, None),
            Course::Follows(events) => {
                if events.pop_front().as_ref() == Some(&entry.event) {
                    return (None, None);
                }
            }
            Course::Unread => {}
        }
        if self.doubt.as_ref().is_some_and(|doubt| doubt.allows(&self.state, entry, &self.shelf)) {
            self.course = Course::Unread;
            let what = "a text is gone, so it was not decided again; it is about what its command is about";
            return (None, Some(format!("{}: {what}", entry.event.kind())));
        }
        self.course = Course::Astray;
        (Some("it is not what follows from its cause".to_owned()), None)
    }

    /// Puts what a command names at hand; gives what is new.
    fn put(&mut self, entry: &Entry, beside: &Named) -> io::Result<Vec<Digest>> {
        let admins = match &entry.event {
            Event::Begun(genesis) => genesis.admins.clone(),
            _ => BTreeMap::clone(&self.state.admins),
        };
        let mut new = Vec::new();
        for digest in [beside.words, beside.bundle].into_iter().flatten() {
            match self.blobs.get(&digest)? {
                _ if self.shelf.holds(&digest) => {}
                Some(bytes) => new.push(self.shelf.put(&bytes, &admins)),
                None => drop(self.gone.insert(digest)),
            }
        }
        Ok(new)
    }

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
            Event::Begun(genesis)
                if genesis.log_key != self.log_key || origin_of(&genesis.install.to_string()) != self.origin =>
            {
                say("genesis", "the log begins with another key or installation than the pinned one".to_owned());
            }
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
            Event::SessionClosed { session, end: SessionEnd { recording: Some(sealed), .. }, .. } => {
                self.sealed.push((seq, *session, sealed.clone()));
            }
            _ => {}
        }
        found
    }
}

/// What is said at every verification, for ever: what was lost, and who acknowledged it.
fn told_for_ever(event: &Event) -> Option<(&'static str, String)> {
    let names = |by: &[PersonName]| by.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    match event {
        Event::EpochBegun { by, new, .. } => {
            let (kept, epoch, by) = (new.kept.size, new.epoch, names(by));
            let lost = match &new.seen {
                Some(seen) => format!("entries {kept} to {} of epoch {} are lost", seen.size - 1, seen.epoch),
                None => format!("nobody is known to have seen more than the {kept} entries that were kept"),
            };
            Some(("epoch", format!("epoch {epoch} begins: {lost}; acknowledged by {by}")))
        }
        Event::TrustReset { admins } => {
            let admins: Vec<PersonName> = admins.keys().cloned().collect();
            let detail = format!("root on the broker made {} the administrators; nobody signed for it", names(&admins));
            Some(("trust-reset", detail))
        }
        _ => None,
    }
}

impl Entries {
    /// The notes that an epoch is founded on are signed ones, or they prove nothing.
    fn misquoted(&self, new: &NewEpoch) -> Option<String> {
        let public = self.log_key.0.ed25519_bytes()?;
        let quoted = |note: &Witnessed| {
            SignedNote::open_epoch(&note.note, &self.origin, &public).is_ok_and(|(checkpoint, epoch)| {
                (checkpoint.size, checkpoint.root, epoch) == (note.size, *note.root.as_bytes(), note.epoch)
            })
        };
        let all = std::iter::once(&new.kept).chain(&new.seen).all(quoted);
        (!all).then(|| "the checkpoints that it quotes are not signed ones".to_owned())
    }
}

impl LeafCheck for Entries {
    fn blob(&mut self, hash: &Hash, bytes: &[u8]) {
        self.blobs.put(Digest::new(*hash), bytes);
    }

    fn leaf(&mut self, seq: u64, bytes: &[u8]) -> LeafFacts {
        let mut facts = LeafFacts::default();
        let finding = |kind: &str, detail: String| Problem { seq: Some(seq), kind: kind.to_owned(), detail };
        let entry = match read_canonical::<Entry>(bytes) {
            Ok(entry) => entry,
            Err(error) => {
                facts.problems.push(finding("entry", format!("the entry cannot be read: {error}")));
                return facts;
            }
        };
        facts.at = Some(entry.at);
        facts.warnings.extend(told_for_ever(&entry.event).map(|(kind, detail)| finding(kind, detail)));
        if let Event::EpochBegun { new, .. } = &entry.event {
            facts.begins = Some((new.epoch, new.kept.size));
            facts.problems.extend(self.misquoted(new).map(|detail| finding("epoch", detail)));
        }
        facts.problems.extend(self.problems(seq, &entry));
        let beside = entry.cause.as_ref().map(Command::beside).unwrap_or_default();
        let new = self.put(&entry, &beside).unwrap_or_else(|error| {
            facts.problems.push(finding("beside", format!("what stands beside it cannot be read back: {error}")));
            Vec::new()
        });
        let (wrong, unjudged) = self.judge(&entry);
        facts.problems.extend(wrong.map(|detail| finding("decision", detail)));
        facts.warnings.extend(unjudged.map(|detail| finding("unjudged", detail)));
        facts.shreddable_blobs = beside.words.iter().map(|d| *d.as_bytes()).collect();
        if let Event::BundleAdopted { bundle, .. } = &entry.event {
            facts.required_blobs.push(*bundle.as_bytes());
            if self.blobs.holds(bundle) && self.shelf.bundle(bundle).is_none() {
                facts.problems.push(finding("bundle", format!("the adopted bundle {bundle} cannot be read")));
            }
        }
        self.state.apply(&entry, &self.shelf);
        beside.settle(&new, &self.state, &mut self.shelf);
        facts
    }
}

/// Verifies a ledger or an export against the pinned key of its log, and where there are recordings, that each is what the log sealed.
///
/// # Errors
/// When it cannot be read at all; everything else is in the report.
pub async fn audit(
    path: &Path,
    origin: String,
    log_key: &Key,
    outside: &[OutsideNote],
    recordings: Option<&Store>,
) -> Result<Report, Refusal> {
    let public = log_key.0.ed25519_bytes().unwrap_or_default();
    let mut entries = Entries::new(origin.clone(), log_key.clone());
    // What leaf 0 must say is compared where it is read; clients keep its key and installation, not its hash.
    let pinned = Pinned { origin, public, genesis: None };
    let source = source_at(path).await?;
    let mut report = verify(&source, &pinned, outside, &mut entries).await.map_err(|e| ledger_refusal(&e))?;
    if matches!(&entries.course, Course::Follows(events) if !events.is_empty()) {
        let detail = "the log ends in the middle of a command".to_owned();
        report.problems.push(Problem { seq: Some(report.size), kind: "decision".to_owned(), detail });
        report.ok = false;
    }
    for (seq, session, sealed) in recordings.iter().flat_map(|_| &entries.sealed) {
        if let Some(Err(broken)) = recordings.map(|store| store.verify(*session, sealed)) {
            let detail = format!("the recording of {session} is not what was sealed: {broken}");
            report.problems.push(Problem { seq: Some(*seq), kind: "recording".to_owned(), detail });
            report.ok = false;
        }
    }
    Ok(report)
}

/// Hashes everything and compares with the newest checkpoint: that nothing was changed, not that it was right.
///
/// # Errors
/// As [`audit`].
pub async fn audit_tree(
    path: &Path,
    origin: String,
    log_key: &Key,
    outside: &[OutsideNote],
) -> Result<Report, Refusal> {
    let pinned = Pinned { origin, public: log_key.0.ed25519_bytes().unwrap_or_default(), genesis: None };
    verify_tree(&source_at(path).await?, &pinned, outside).await.map_err(|e| ledger_refusal(&e))
}

async fn source_at(path: &Path) -> Result<Source, Refusal> {
    Ok(if begins_like_sqlite(path) {
        Source::Sqlite(Reader::open(path).await.map_err(|e| ledger_refusal(&e))?)
    } else {
        Source::Export(path.to_owned())
    })
}

/// The origin that the first entry of a ledger or an export implies, unchecked; none where there is no entry. An entry that cannot be read
/// implies one that nobody has, so that [`audit`] says what is wrong.
///
/// # Errors
/// When the file cannot be read.
pub async fn first_origin(path: &Path) -> Result<Option<String>, Refusal> {
    let bytes = if begins_like_sqlite(path) {
        let reader = Reader::open(path).await.map_err(|e| ledger_refusal(&e))?;
        reader.leaf(0).await.map_err(|e| ledger_refusal(&e))?.map(|leaf| leaf.bytes)
    } else {
        first_leaf(path).await.map_err(|e| ledger_refusal(&e))?
    };
    Ok(bytes.map(|bytes| match read_canonical::<Entry>(&bytes).map(|entry| entry.event) {
        Ok(Event::Begun(genesis)) => origin_of(&genesis.install.to_string()),
        _ => origin_of("unreadable"),
    }))
}

pub(crate) fn begins_like_sqlite(path: &Path) -> bool {
    let mut head = [0; 16];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
    read.is_ok() && &head == b"SQLite format 3\0"
}
