//! The stream of leaves of a verification, hashed again and laid beside checkpoints, tiles and blobs.
//!
//! True here: each leaf is hashed once, in order, and nothing stored is believed. What never happens here: nothing is kept but the frontier.

use super::error::LedgerError;
use super::export::{ExportLines, Record};
use super::findings::Findings;
use super::proof::Run;
use super::reader::{PAGE, Reader};
use super::sqlite::{self, FullLeaf, Tile};
use super::tree::{Frontier, Hash, leaf_hash};
use super::verify::{Beside, BlobState, LeafCheck, LeafFacts, Pinned, Problem};
use super::{Keep, push_with_tiles};
use data_encoding::HEXLOWER;
use std::panic::resume_unwind;

/// Twice the heartbeat of 10 minutes, in seconds (decisions.md 19).
const SILENCE_S: i64 = 1200;

/// The stream of leaves, hashed again.
pub(super) struct Walk<'a> {
    pinned: &'a Pinned,
    pub(super) frontier: Frontier,
    last_hash: Hash,
    last_at: Option<i64>,
    tiles: Vec<Tile>,
    tile_count: u64,
    next_mark: usize,
    /// The largest size whose stored checkpoint agreed: what is wrong lies after it.
    good: u64,
    /// Outside notes with another root.
    pub(super) failed: Vec<u32>,
    /// The epochs that begin, and how many leaves were kept of those before.
    pub(super) begun: Vec<(u32, u64)>,
}

/// A leaf on its way by, with its hash and the time in its column.
struct Passing<'a> {
    seq: u64,
    bytes: &'a [u8],
    hash: Hash,
    at: Option<i64>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(pinned: &'a Pinned) -> Self {
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

    pub(super) async fn read_store(
        &mut self,
        reader: &Reader,
        end: u64,
        beside: &Beside<'_>,
        checks: &mut (dyn LeafCheck + Send),
        found: &mut Findings,
    ) -> Result<(), LedgerError> {
        self.check_marks(beside, found);
        // The next leaves are read while these are judged.
        let ahead = |from| {
            let pool = reader.pool.clone();
            tokio::spawn(async move { sqlite::full_leaves(&pool, from, PAGE).await })
        };
        let (mut from, mut next) = (0, ahead(0));
        while from < end {
            let page = next.await.unwrap_or_else(|panic| resume_unwind(panic.into_panic()))?;
            let Some(last) = page.last() else { break };
            from = last.seq.saturating_add(1);
            next = ahead(from);
            for leaf in page.iter().filter(|leaf| leaf.seq < end) {
                let hash = leaf_hash(&leaf.bytes);
                self.columns(leaf, hash, found);
                self.leaf(
                    &Passing { seq: leaf.seq, bytes: &leaf.bytes, hash, at: Some(leaf.at) },
                    beside,
                    checks,
                    found,
                );
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

    pub(super) async fn read_export(
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
                    self.leaf(
                        &Passing { seq, bytes: &bytes, hash: leaf_hash(&bytes), at: None },
                        beside,
                        checks,
                        found,
                    );
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
    fn columns(&self, leaf: &FullLeaf, hash: Hash, found: &mut Findings) {
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
        passing: &Passing<'_>,
        beside: &Beside<'_>,
        checks: &mut (dyn LeafCheck + Send),
        found: &mut Findings,
    ) {
        let Passing { seq, bytes, hash, at } = *passing;
        let expected = self.frontier.size();
        if seq != expected {
            found.problem(Some(seq), "sequence", format!("expected leaf {expected}, found {seq}"));
        }
        if expected == 0 && self.pinned.genesis.is_some_and(|genesis| genesis != hash) {
            found.problem(Some(0), "genesis", format!("leaf 0 is {}, not the pinned one", HEXLOWER.encode(&hash)));
        }
        push_with_tiles(&mut self.frontier, hash, &mut self.tiles);
        self.last_hash = hash;
        self.check_marks(beside, found);
        let facts = checks.leaf(seq, bytes);
        self.begun.extend(facts.begins);
        self.times(seq, facts.at, at, found);
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
