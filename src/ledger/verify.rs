//! The judgement: is this the log that was signed, and who outside has seen how much of it?
//!
//! True here: `ok` needs a signature by the pinned key over the whole tree; stored hashes are compared, never believed;
//! every leaf is hashed again, in a stream. What never happens here: nothing is written or repaired; no clock.
//! Start at [`verify`]. Problem kinds are listed at [`Problem`].

use super::error::LedgerError;
use super::export::{ExportLines, Record};
use super::findings::{Findings, both_notes};
use super::note::{Checkpoint, SignedNote};
use super::proof::Run;
use super::reader::{PAGE, Reader};
use super::sqlite::{self, FullLeaf, Tile};
use super::tree::{Frontier, Hash, blob_hash, leaf_hash};
use super::{Keep, push_with_tiles};
use data_encoding::HEXLOWER;
use serde::Serialize;
use std::collections::HashMap;
use std::path::PathBuf;

/// Twice the heartbeat of 10 minutes, in seconds (decisions.md 19).
const SILENCE_S: i64 = 1200;

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
    let mut found = Findings::default();
    let outside = open_outside(pinned, outside, &mut found);
    let mut beside = Beside::new(pinned, &outside);
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
    let attested = beside.conclude(&walk, &mut found);
    if attested.as_ref().is_none_or(|(n, _)| *n < size) {
        let seen = attested.as_ref().map_or(0, |(n, _)| *n);
        found.warning(Some(seen), "unattested", format!("leaves {seen} to {size} are attested by nobody outside"));
    }
    let (problems, warnings) = (found.problems.close(), found.warnings.close());
    Ok(Report { ok: problems.is_empty(), size, root: walk.frontier.root(), attested, problems, warnings })
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

/// A root that the tree must have at a size. Small, because there is one for each stored checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Mark {
    size: u64,
    /// The outside note, by index; `None` is a stored checkpoint.
    outside: Option<u32>,
    root: Hash,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BlobState {
    Good(Keep),
    Altered,
}

/// What stands beside the leaves: checkpoints and blobs, read first.
struct Beside<'a> {
    pinned: &'a Pinned,
    outside: &'a [Witnessed<'a>],
    marks: Vec<Mark>,
    newest: Option<u64>,
    any_note: bool,
    /// For each outside note the stored one to print next to it: of the same size or the next larger.
    nearest: Vec<Option<(u64, String)>>,
    blobs: HashMap<Hash, BlobState>,
}

impl<'a> Beside<'a> {
    fn new(pinned: &'a Pinned, outside: &'a [Witnessed<'a>]) -> Self {
        let marks = (0..).zip(outside).map(|(i, w)| Mark {
            size: w.checkpoint.size,
            outside: Some(i),
            root: w.checkpoint.root,
        });
        Self {
            pinned,
            outside,
            marks: marks.collect(),
            newest: None,
            any_note: false,
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
                    Ok(text) => self.stored_note(&text, size, found),
                    Err(_) => found.problem(None, "note", format!("checkpoint {}: not text", row.id)),
                }
            }
        }
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
        while let Some(record) = lines.next().await? {
            match record {
                Record::Checkpoint { text, size } => self.stored_note(&text, Some(size), found),
                Record::Blob { hash, bytes, keep } => self.stored_blob(hash, &bytes, keep, checks, found),
                Record::Header { .. } | Record::Leaf { .. } | Record::Bad { .. } => {}
            }
        }
        Ok(())
    }

    fn stored_note(&mut self, text: &str, column: Option<u64>, found: &mut Findings) {
        self.any_note = true;
        let checkpoint = match SignedNote::open_epoch(text, &self.pinned.origin, &self.pinned.public) {
            Ok((checkpoint, _)) => checkpoint,
            Err(super::NoteError::UnknownKey) => {
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

    /// Judges what only the whole tree can tell, and finds the largest outside note that agrees.
    fn conclude(&self, walk: &Walk<'_>, found: &mut Findings) -> Option<(u64, String)> {
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
        let mut attested: Option<(u64, String)> = None;
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
            } else if attested.as_ref().is_none_or(|(n, _)| *n < seen) {
                attested = Some((seen, from.clone()));
            }
        }
        attested
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

/// The stream of leaves, hashed again.
struct Walk<'a> {
    pinned: &'a Pinned,
    frontier: Frontier,
    last_hash: Hash,
    last_at: Option<i64>,
    tiles: Vec<Tile>,
    tile_count: u64,
    next_mark: usize,
    /// The largest size whose stored checkpoint agreed: what is wrong lies after it.
    good: u64,
    /// Outside notes with another root.
    failed: Vec<u32>,
    begun: Vec<(u32, u64)>,
}

impl<'a> Walk<'a> {
    fn new(pinned: &'a Pinned) -> Self {
        Self {
            pinned,
            frontier: Frontier::empty(),
            last_hash: Hash::default(),
            last_at: None,
            tiles: Vec::new(),
            tile_count: 0,
            next_mark: 0,
            good: 0,
            failed: Vec::new(),
            begun: Vec::new(),
        }
    }

    async fn read_store(
        &mut self,
        reader: &Reader,
        end: u64,
        beside: &Beside<'_>,
        checks: &mut (dyn LeafCheck + Send),
        found: &mut Findings,
    ) -> Result<(), LedgerError> {
        self.check_marks(beside, found);
        let mut from = 0;
        while from < end {
            let page = sqlite::full_leaves(&reader.pool, from, PAGE).await?;
            let Some(last) = page.last() else { break };
            from = last.seq.saturating_add(1);
            for leaf in page.iter().filter(|leaf| leaf.seq < end) {
                self.columns(leaf, found);
                self.leaf(leaf.seq, &leaf.bytes, Some(leaf.at), beside, checks, found);
            }
            for tile in std::mem::take(&mut self.tiles) {
                self.tile_count += 1;
                let stored = sqlite::tiles(&reader.pool, Run { level: tile.level, from: tile.idx, to: tile.idx + 1 });
                let same = stored.await?.first().is_some_and(|(_, hash)| *hash == tile.hash);
                if !same {
                    let seq = tile.idx.saturating_mul(1 << (8 * tile.level));
                    let (level, idx) = (tile.level, tile.idx);
                    found.problem(
                        Some(seq),
                        "tile",
                        format!("tile {level}/{idx} is missing or is not of these leaves"),
                    );
                }
            }
        }
        let stored = sqlite::tile_count(&reader.pool).await?;
        if stored > self.tile_count && reader.size().await? == end {
            found.problem(None, "tile", format!("{stored} tiles where {} belong", self.tile_count));
        }
        Ok(())
    }

    async fn read_export(
        &mut self,
        mut lines: ExportLines,
        beside: &Beside<'_>,
        checks: &mut (dyn LeafCheck + Send),
        found: &mut Findings,
    ) -> Result<(), LedgerError> {
        self.check_marks(beside, found);
        let mut header = None;
        while let Some(record) = lines.next().await? {
            match record {
                Record::Header { size } => header = Some(size),
                Record::Leaf { seq, bytes } => {
                    self.leaf(seq, &bytes, None, beside, checks, found);
                    self.tiles.clear();
                }
                Record::Bad { line, why } => found.problem(None, "export", format!("line {line}: {why}")),
                Record::Blob { .. } | Record::Checkpoint { .. } => {}
            }
        }
        if header != Some(self.frontier.size()) {
            let size = self.frontier.size();
            found.problem(None, "export", format!("the header says {header:?} leaves, there are {size}"));
        }
        Ok(())
    }

    /// Compares the columns that are derived from the leaf; nothing relies on them, but they must not lie.
    fn columns(&self, leaf: &FullLeaf, found: &mut Findings) {
        let hash = leaf_hash(&leaf.bytes);
        if leaf.hash != hash {
            let (want, is) = (HEXLOWER.encode(&leaf.hash), HEXLOWER.encode(&hash));
            found.problem(Some(leaf.seq), "leaf-hash", format!("expected {want}, the leaf has {is}"));
        }
        if leaf.prev_hash != self.last_hash {
            let (want, is) = (HEXLOWER.encode(&self.last_hash), HEXLOWER.encode(&leaf.prev_hash));
            found.problem(Some(leaf.seq), "prev-hash", format!("expected {want}, found {is}"));
        }
    }

    fn leaf(
        &mut self,
        seq: u64,
        bytes: &[u8],
        at_column: Option<i64>,
        beside: &Beside<'_>,
        checks: &mut (dyn LeafCheck + Send),
        found: &mut Findings,
    ) {
        let expected = self.frontier.size();
        if seq != expected {
            found.problem(Some(seq), "sequence", format!("expected leaf {expected}, found {seq}"));
        }
        let hash = leaf_hash(bytes);
        if expected == 0 && self.pinned.genesis.is_some_and(|genesis| genesis != hash) {
            found.problem(Some(0), "genesis", format!("leaf 0 is {}, not the pinned one", HEXLOWER.encode(&hash)));
        }
        push_with_tiles(&mut self.frontier, hash, &mut self.tiles);
        self.last_hash = hash;
        self.check_marks(beside, found);
        let facts = checks.leaf(seq, bytes);
        self.begun.extend(facts.begins);
        self.times(seq, facts.at, at_column, found);
        check_blobs(seq, &facts, beside, found);
        for problem in facts.problems {
            found.problems.push(Problem { seq: problem.seq.or(Some(seq)), ..problem });
        }
        for warning in facts.warnings {
            found.warnings.push(Problem { seq: warning.seq.or(Some(seq)), ..warning });
        }
    }

    fn check_marks(&mut self, beside: &Beside<'_>, found: &mut Findings) {
        let size = self.frontier.size();
        let mut root = None;
        while let Some(mark) = beside.marks.get(self.next_mark).filter(|mark| mark.size <= size) {
            self.next_mark += 1;
            let root = *root.get_or_insert_with(|| self.frontier.root());
            match mark.outside {
                _ if mark.root == root && mark.outside.is_none() => self.good = size,
                _ if mark.root == root => {}
                Some(i) => self.failed.push(i),
                None => {
                    let (want, is) = (HEXLOWER.encode(&mark.root), HEXLOWER.encode(&root));
                    let good = self.good;
                    let detail = format!(
                        "checkpoint at size {size}: signed root {want}, the leaves give {is}; it agreed at size {good}"
                    );
                    found.problem(None, "checkpoint", detail);
                }
            }
        }
    }

    fn times(&mut self, seq: u64, at: Option<i64>, column: Option<i64>, found: &mut Findings) {
        let Some(at) = at else { return };
        if let Some(column) = column.filter(|column| *column != at) {
            found.problem(Some(seq), "row", format!("the leaf is of {at}, its column says {column}"));
        }
        match self.last_at.replace(at).map(|last| at.saturating_sub(last)) {
            Some(gap) if gap > SILENCE_S => found.warning(Some(seq), "silence", format!("{gap} s without an event")),
            Some(gap) if gap < 0 => found.warning(Some(seq), "time", format!("{gap} s after the leaf before")),
            _ => {}
        }
    }
}

fn check_blobs(seq: u64, facts: &LeafFacts, beside: &Beside<'_>, found: &mut Findings) {
    let required = facts.required_blobs.iter().map(|hash| (hash, Keep::Required));
    for (hash, keep) in required.chain(facts.shreddable_blobs.iter().map(|hash| (hash, Keep::Shreddable))) {
        let name = HEXLOWER.encode(hash);
        match (beside.blobs.get(hash), keep) {
            (Some(BlobState::Altered), _) => found.problem(Some(seq), "blob-altered", format!("blob {name}")),
            (None, Keep::Required) => found.problem(Some(seq), "blob-missing", format!("required blob {name}")),
            (Some(BlobState::Good(Keep::Shreddable)), Keep::Required) => {
                found.problem(Some(seq), "blob-keep", format!("required blob {name} is stored as shreddable"));
            }
            (None, Keep::Shreddable) | (Some(BlobState::Good(_)), _) => {}
        }
    }
}
