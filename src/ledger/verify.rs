//! The judgement: is this the log that was signed, and who outside has seen how much of it?
//!
//! True here: `ok` needs a signature by the pinned key over the whole tree; stored hashes are compared, never believed;
//! every leaf is hashed again, in a stream. What never happens here: nothing is written or repaired; no clock.
//! Start at [`verify`]. Problem kinds are listed at [`Problem`].

use super::Keep;
use super::error::LedgerError;
use super::export::{ExportLines, Record};
use super::findings::{Findings, both_notes};
use super::note::{Checkpoint, NoteError, SignedNote};
use super::reader::{PAGE, Reader};
use super::sqlite;
use super::tree::{Hash, blob_hash};
use super::walk::Walk;
use data_encoding::HEXLOWER;
use serde::Serialize;
use std::collections::HashMap;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread::available_parallelism;

/// What is verified.
#[derive(Debug, Clone)]
pub enum Source {
    /// The store, or a copy of it.
    Sqlite(Reader),
    /// A file that [`super::export_jsonl`] wrote.
    Export(PathBuf),
}

/// What is known out of band; everything is judged by it.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// The log's origin, which is also the name of its key.
    pub origin: String,
    /// The log's Ed25519 public key.
    pub public: [u8; 32],
    /// The leaf hash of leaf 0.
    pub genesis: Option<Hash>,
}

/// A checkpoint that somebody outside kept.
#[derive(Debug, Clone)]
pub struct OutsideNote {
    /// Who kept it.
    pub from: String,
    /// The signed note.
    pub text: String,
}

/// One finding.
///
/// Kinds of problems: `empty`, `genesis`, `sequence`, `leaf-hash`, `prev-hash`, `tile`, `row`, `checkpoint` (the tree
/// is not the signed one), `note` (a stored note does not verify), `unknown-key`, `unsigned`, `unsigned-tail`,
/// `truncated`, `rolled-back`, `fork`, `two-notes`, `outside-note`, `blob-missing`, `blob-altered`, `blob-keep`,
/// `export`, `more`. Kinds of warnings: `unattested`, `silence`, `time`, `lost`, `more`. A [`LeafCheck`] adds its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The leaf, where there is one.
    pub seq: Option<u64>,
    /// The kind, a stable word.
    pub kind: String,
    /// What was expected and what was found.
    pub detail: String,
}

/// The result of [`verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// No problems. A log that nobody outside attests can be `ok`: look at `attested` too.
    pub ok: bool,
    /// The number of leaves found.
    pub size: u64,
    /// The root of the leaves found.
    #[serde(serialize_with = "hex")]
    pub root: Hash,
    /// The largest outside note that agrees: its size, and who kept it.
    pub attested: Option<(u64, String)>,
    /// Every outside note that agrees, the largest first.
    pub copies: Vec<(u64, String)>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is worth a look.
    pub warnings: Vec<Problem>,
}

fn hex<S: serde::Serializer>(hash: &Hash, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&HEXLOWER.encode(hash))
}

/// What the meaning of a leaf adds to the judgement.
#[derive(Debug, Clone, Default)]
pub struct LeafFacts {
    /// When it happened, in Unix seconds; compared with the column.
    pub at: Option<i64>,
    /// Blobs that must be there.
    pub required_blobs: Vec<Hash>,
    /// Blobs that may be gone, but not altered.
    pub shreddable_blobs: Vec<Hash>,
    /// What is wrong with the leaf itself.
    pub problems: Vec<Problem>,
    /// What is worth a look.
    pub warnings: Vec<Problem>,
    /// The epoch that begins here, and how many leaves were kept of earlier ones: of those, notes of more are of an acknowledged loss.
    pub begins: Option<(u32, u64)>,
}

/// Knows what leaves mean; sees each once, in order.
pub trait LeafCheck {
    /// Takes a stored blob whose bytes are those of its hash; all blobs come before the first leaf.
    fn blob(&mut self, _hash: &Hash, _bytes: &[u8]) {}

    /// Judges one leaf.
    fn leaf(&mut self, seq: u64, bytes: &[u8]) -> LeafFacts;
}

/// Takes leaves as opaque.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoChecks;

impl LeafCheck for NoChecks {
    fn leaf(&mut self, _seq: u64, _bytes: &[u8]) -> LeafFacts {
        LeafFacts::default()
    }
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Everything: each stored checkpoint, each blob.
    Whole,
    /// The hashes of all leaves and the newest checkpoint: that nothing was changed, not that it was right.
    Tree,
}

/// Verifies a log from its first leaf to its last against the pinned key and the notes kept outside.
///
/// Of a store that is being written the leaves after the newest checkpoint may show as `unsigned-tail` for a moment.
///
/// # Errors
/// [`LedgerError`] when the source cannot be read; that is no verdict, and never a good one.
pub async fn verify(
    source: &Source,
    pinned: &Pinned,
    outside: &[OutsideNote],
    checks: &mut (dyn LeafCheck + Send),
) -> Result<Report, LedgerError> {
    judge(source, pinned, outside, checks, Depth::Whole).await
}

/// Hashes every leaf and compares with the newest checkpoint and the notes kept outside, and looks at nothing else.
///
/// # Errors
/// As [`verify`].
pub async fn verify_tree(source: &Source, pinned: &Pinned, outside: &[OutsideNote]) -> Result<Report, LedgerError> {
    judge(source, pinned, outside, &mut NoChecks, Depth::Tree).await
}

async fn judge(
    source: &Source,
    pinned: &Pinned,
    outside: &[OutsideNote],
    checks: &mut (dyn LeafCheck + Send),
    depth: Depth,
) -> Result<Report, LedgerError> {
    let mut found = Findings::default();
    let outside = open_outside(pinned, outside, &mut found);
    let mut beside = Beside::new(pinned, &outside, depth);
    let mut walk = Walk::new(pinned);
    match source {
        Source::Sqlite(reader) => {
            // The end is fixed before the checkpoints are read: leaves appended later are not judged.
            let end = reader.size().await?;
            beside.read_store(reader, end, checks, &mut found).await?;
            beside.marks.sort();
            walk.read_store(reader, end, &beside, checks, &mut found).await?;
        }
        Source::Export(path) => {
            beside.read_export(ExportLines::open(path).await?, checks, &mut found).await?;
            beside.marks.sort();
            walk.read_export(ExportLines::open(path).await?, &beside, checks, &mut found).await?;
        }
    }
    let size = walk.frontier.size();
    let mut copies = beside.conclude(&walk, &mut found);
    copies.sort_by(|(a, _), (b, _)| b.cmp(a));
    let attested = copies.first().cloned();
    if attested.as_ref().is_none_or(|(n, _)| *n < size) {
        let seen = attested.as_ref().map_or(0, |(n, _)| *n);
        found.warning(Some(seen), "unattested", format!("leaves {seen} to {size} are attested by nobody outside"));
    }
    let (problems, warnings) = (found.problems.close(), found.warnings.close());
    Ok(Report { ok: problems.is_empty(), size, root: walk.frontier.root(), attested, copies, problems, warnings })
}

/// An outside note that verified.
struct Witnessed<'a> {
    note: &'a OutsideNote,
    checkpoint: Checkpoint,
    epoch: u32,
}

fn open_outside<'a>(pinned: &Pinned, notes: &'a [OutsideNote], found: &mut Findings) -> Vec<Witnessed<'a>> {
    let mut out: Vec<Witnessed<'a>> = Vec::new();
    for note in notes {
        let (checkpoint, epoch) = match SignedNote::open_epoch(&note.text, &pinned.origin, &pinned.public) {
            Ok(opened) => opened,
            Err(error) => {
                found.problem(None, "outside-note", format!("{}: {error}", note.from));
                continue;
            }
        };
        if let Some(other) = out.iter().find(|o| o.checkpoint.contradicts(&checkpoint)) {
            found.problem(None, "two-notes", both_notes(&other.note.from, &other.note.text, &note.from, &note.text));
        }
        out.push(Witnessed { note, checkpoint, epoch });
    }
    out
}

/// How many notes are opened at a time.
const AT_ONCE: usize = 1024;

/// What a slow function gives for each item, in their order, a share of the items on each core.
fn on_all_cores<T: Sync, R: Send>(items: &[T], slow: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let share = items.len().div_ceil(available_parallelism().map_or(1, NonZero::get)).max(1);
    std::thread::scope(|threads| {
        let work = |items: &'_ [T]| items.iter().map(&slow).collect::<Vec<R>>();
        let shares: Vec<_> = items.chunks(share).map(|items| threads.spawn(move || work(items))).collect();
        shares.into_iter().flat_map(|share| share.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// A root that the tree must have at a size. Small, because there is one for each stored checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) size: u64,
    /// The outside note, by index; `None` is a stored checkpoint.
    pub(super) outside: Option<u32>,
    pub(super) root: Hash,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BlobState {
    Good(Keep),
    Altered,
}

/// What stands beside the leaves: checkpoints and blobs, read first.
pub(super) struct Beside<'a> {
    pinned: &'a Pinned,
    outside: &'a [Witnessed<'a>],
    depth: Depth,
    pub(super) marks: Vec<Mark>,
    newest: Option<u64>,
    /// Stored notes that are still to be opened, with the size under which they are filed: many at a time, on all cores.
    unopened: Vec<(String, Option<u64>)>,
    /// For each outside note the stored one to print next to it: of the same size or the next larger.
    nearest: Vec<Option<(u64, String)>>,
    pub(super) blobs: HashMap<Hash, BlobState>,
}

impl<'a> Beside<'a> {
    fn new(pinned: &'a Pinned, outside: &'a [Witnessed<'a>], depth: Depth) -> Self {
        let marks = (0..).zip(outside).map(|(i, w)| Mark {
            size: w.checkpoint.size,
            outside: Some(i),
            root: w.checkpoint.root,
        });
        Self {
            pinned,
            outside,
            depth,
            marks: marks.collect(),
            newest: None,
            unopened: Vec::new(),
            nearest: vec![None; outside.len()],
            blobs: HashMap::new(),
        }
    }

    async fn read_store(
        &mut self,
        reader: &Reader,
        end: u64,
        checks: &mut (dyn LeafCheck + Send),
        found: &mut Findings,
    ) -> Result<(), LedgerError> {
        if self.depth == Depth::Tree {
            for row in sqlite::checkpoints_largest(&reader.pool).await? {
                let text = String::from_utf8_lossy(&row.text);
                self.stored_note(text.into_owned(), u64::try_from(row.size).ok(), found);
            }
            self.open_notes(found);
            return Ok(());
        }
        let mut id = i64::MIN;
        loop {
            let page = sqlite::checkpoints(&reader.pool, id, PAGE).await?;
            let Some(last) = page.last() else { break };
            id = last.id;
            for row in page {
                let size = u64::try_from(row.size).ok();
                let grown = size.is_some_and(|n| n > end);
                if grown && size <= Some(reader.size().await?) {
                    continue;
                }
                match String::from_utf8(row.text) {
                    Ok(text) => self.stored_note(text, size, found),
                    Err(_) => found.problem(None, "note", format!("checkpoint {}: not text", row.id)),
                }
            }
        }
        self.open_notes(found);
        let mut id = i64::MIN;
        while let Some(blob) = sqlite::blob_after(&reader.pool, id).await? {
            id = blob.id;
            match Hash::try_from(blob.sha256.as_slice()) {
                Ok(hash) => self.stored_blob(hash, &blob.bytes, blob.keep, checks, found),
                Err(_) => found.problem(None, "blob-altered", format!("blob {id} has no SHA-256")),
            }
        }
        Ok(())
    }

    async fn read_export(
        &mut self,
        mut lines: ExportLines,
        checks: &mut (dyn LeafCheck + Send),
        found: &mut Findings,
    ) -> Result<(), LedgerError> {
        let mut newest: Option<(u64, String)> = None;
        while let Some(record) = lines.next_beside().await? {
            match record {
                Record::Checkpoint { text, size } if self.depth == Depth::Tree => {
                    if newest.as_ref().is_none_or(|(held, _)| *held <= size) {
                        newest = Some((size, text));
                    }
                }
                Record::Blob { .. } if self.depth == Depth::Tree => {}
                Record::Checkpoint { text, size } => self.stored_note(text, Some(size), found),
                Record::Blob { hash, bytes, keep } => self.stored_blob(hash, &bytes, keep, checks, found),
                Record::Header { .. } | Record::Leaf { .. } | Record::Bad { .. } => {}
            }
        }
        if let Some((size, text)) = newest {
            self.stored_note(text, Some(size), found);
        }
        self.open_notes(found);
        Ok(())
    }

    fn stored_note(&mut self, text: String, column: Option<u64>, found: &mut Findings) {
        self.unopened.push((text, column));
        if self.unopened.len() >= AT_ONCE {
            self.open_notes(found);
        }
    }

    fn open_notes(&mut self, found: &mut Findings) {
        let unopened = std::mem::take(&mut self.unopened);
        let opened =
            on_all_cores(&unopened, |(text, _)| SignedNote::open_epoch(text, &self.pinned.origin, &self.pinned.public));
        for ((text, column), opened) in unopened.iter().zip(opened) {
            self.opened_note(text, *column, opened, found);
        }
    }

    fn opened_note(
        &mut self,
        text: &str,
        column: Option<u64>,
        opened: Result<(Checkpoint, u32), NoteError>,
        found: &mut Findings,
    ) {
        let checkpoint = match opened {
            Ok((checkpoint, _)) => checkpoint,
            Err(NoteError::UnknownKey) => {
                let at = column.map_or_else(|| "?".into(), |n| n.to_string());
                return found.problem(None, "unknown-key", format!("checkpoint at size {at}: not by the pinned key"));
            }
            Err(error) => return found.problem(None, "note", format!("checkpoint at size {column:?}: {error}")),
        };
        let size = checkpoint.size;
        if column != Some(size) {
            found.problem(None, "note", format!("a checkpoint of size {size} is filed under {column:?}"));
        }
        self.marks.push(Mark { size, outside: None, root: checkpoint.root });
        self.newest = self.newest.max(Some(size));
        for (witness, nearest) in self.outside.iter().zip(&mut self.nearest) {
            let wanted = witness.checkpoint.size;
            let better = match nearest {
                None => true,
                Some((held, _)) if *held < wanted => size > *held,
                Some((held, held_text)) => {
                    // At the same size the one that contradicts the witness is the one to show.
                    let contradicts = size == wanted && checkpoint.root != witness.checkpoint.root;
                    (wanted..*held).contains(&size) || (size == *held && contradicts && held_text != text)
                }
            };
            if better {
                *nearest = Some((size, text.to_owned()));
            }
        }
    }

    fn stored_blob(
        &mut self,
        hash: Hash,
        bytes: &[u8],
        keep: Keep,
        checks: &mut (dyn LeafCheck + Send),
        found: &mut Findings,
    ) {
        let actual = blob_hash(bytes);
        let good = actual == hash;
        if !good {
            let (hash, actual) = (HEXLOWER.encode(&hash), HEXLOWER.encode(&actual));
            found.problem(None, "blob-altered", format!("blob {hash} has SHA-256 {actual}"));
        }
        if good {
            checks.blob(&hash, bytes);
        }
        self.blobs.insert(hash, if good { BlobState::Good(keep) } else { BlobState::Altered });
    }

    /// Judges what only the whole tree can tell, and finds the outside notes that agree.
    fn conclude(&self, walk: &Walk<'_>, found: &mut Findings) -> Vec<(u64, String)> {
        let size = walk.frontier.size();
        if size == 0 {
            found.problem(None, "empty", "the log has no leaves");
        }
        match self.newest {
            None => found.problem(None, "unsigned", "no checkpoint by the pinned key"),
            Some(newest) if newest < size => {
                let detail = format!("leaves {newest} to {size} are in no checkpoint");
                found.problem(Some(newest), "unsigned-tail", detail);
            }
            Some(newest) if newest > size => {
                found.problem(Some(size), "truncated", format!("tree {size} < checkpoint {newest}"));
            }
            Some(_) => {}
        }
        for pair in self.marks.windows(2) {
            if let [a, b] = pair
                && a.size == b.size
                && a.outside.is_none()
                && b.outside.is_none()
                && a.root != b.root
            {
                let (a_root, b_root) = (HEXLOWER.encode(&a.root), HEXLOWER.encode(&b.root));
                let detail = format!("two stored checkpoints of size {}, roots {a_root} and {b_root}", a.size);
                found.problem(None, "two-notes", detail);
            }
        }
        let mut copies = Vec::new();
        for (i, witness) in (0..).zip(self.outside) {
            let (from, seen) = (&witness.note.from, witness.checkpoint.size);
            let lost = walk.begun.iter().find(|(epoch, kept)| witness.epoch < *epoch && seen > *kept);
            if let Some((epoch, kept)) = lost.filter(|_| seen > size || walk.failed.contains(&i)) {
                let detail = format!("{from} holds {seen} leaves; those after {kept} were lost before epoch {epoch}");
                found.warning(Some(*kept), "lost", detail);
            } else if seen > size {
                let detail = format!("tree {size} < witnessed {seen} ({from}):\n{}", witness.note.text);
                found.problem(Some(size), "rolled-back", detail);
            } else if walk.failed.contains(&i) {
                self.fork(i, found);
            } else {
                copies.push((seen, from.clone()));
            }
        }
        copies
    }

    fn fork(&self, index: u32, found: &mut Findings) {
        let Some(witness) = self.outside.get(index as usize) else { return };
        let seen = witness.checkpoint.size;
        match self.nearest.get(index as usize).and_then(Option::as_ref) {
            Some((size, text)) if *size >= seen => {
                let kind = if *size == seen { "two-notes" } else { "fork" };
                let notes = both_notes("stored", text, &witness.note.from, &witness.note.text);
                found.problem(Some(seen), kind, format!("fork at size {seen}: {notes}"));
            }
            _ => {
                let (from, text) = (&witness.note.from, &witness.note.text);
                found.problem(Some(seen), "fork", format!("fork at size {seen}: {from} has\n{text}"));
            }
        }
    }
}
