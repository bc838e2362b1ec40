//! Reading: cheap to clone, next to the writer or offline.
//!
//! True here: connections are read-only. What never happens here: nothing is written, and nothing read is trusted; who
//! needs certainty calls `verify`. Start at [`Reader::open`].

use super::error::LedgerError;
use super::proof::{Span, consistency_spans, inclusion_spans};
use super::sqlite::{self, Access, InsertLeaf, Version};
use super::tree::{Frontier, Hash, blob_hash, leaf_hash};
use super::{Blob, Filter, StoredLeaf};
use sqlx::sqlite::SqlitePool;
use std::io;
use std::path::Path;

/// Read-back and verification read this many leaves at once: at most 16 MiB.
pub(super) const PAGE: u32 = 256;

/// Reads a ledger; clones share one pool of connections.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(super) pool: SqlitePool,
}

impl Reader {
    /// Opens a ledger to read, without the lock: next to its writer, or a copy of it, also on read-only media.
    ///
    /// # Errors
    /// [`LedgerError::Missing`], [`LedgerError::Newer`], [`LedgerError::Io`].
    pub async fn open(path: &Path) -> Result<Self, LedgerError> {
        if !path.try_exists()? {
            return Err(LedgerError::Missing);
        }
        let shared = match sqlite::connect_readers(path, Access::Shared).await {
            Ok(pool) => sqlite::version(&pool).await.map(|version| (pool, version)),
            Err(error) => Err(error),
        };
        // A store in WAL mode needs a folder that can be written. Without unmerged writes it can be read as it is.
        let (pool, version) = match shared {
            Ok(found) => found,
            Err(error) if std::fs::metadata(super::beside(path, "-wal")).is_ok_and(|m| m.len() > 0) => {
                return Err(error);
            }
            Err(_) => {
                let pool = sqlite::connect_readers(path, Access::Immutable).await?;
                let version = sqlite::version(&pool).await?;
                (pool, version)
            }
        };
        match version {
            Version::Ours => Ok(Self { pool }),
            Version::Newer => Err(LedgerError::Newer),
            Version::Empty => Err(LedgerError::Missing),
            Version::Foreign => Err(io::Error::new(io::ErrorKind::InvalidData, "not a ledger").into()),
        }
    }

    /// Copies the ledger, as of one moment, into a file that is empty or not there; its writer goes on meanwhile.
    ///
    /// # Errors
    /// [`LedgerError::Full`], [`LedgerError::Io`].
    pub async fn copy_to(&self, path: &Path) -> Result<(), LedgerError> {
        sqlite::copy_to(&self.pool, path).await
    }

    /// Tells how many leaves are stored.
    ///
    /// # Errors
    /// [`LedgerError::Io`], as for every read here.
    pub async fn size(&self) -> Result<u64, LedgerError> {
        sqlite::size(&self.pool).await
    }

    /// Reads at most `limit` leaves from index `from` on, in order.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub async fn leaves(&self, from: u64, limit: u32) -> Result<Vec<StoredLeaf>, LedgerError> {
        sqlite::leaves(&self.pool, from, limit).await
    }

    /// Reads one leaf.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub async fn leaf(&self, seq: u64) -> Result<Option<StoredLeaf>, LedgerError> {
        Ok(sqlite::leaves(&self.pool, seq, 1).await?.pop().filter(|leaf| leaf.seq == seq))
    }

    /// Reads a blob by its SHA-256; `None` when it was never there or is shredded.
    ///
    /// # Errors
    /// [`LedgerError::Io`]; also (`InvalidData`) when the bytes are not those of the hash.
    pub async fn blob(&self, hash: &Hash) -> Result<Option<Vec<u8>>, LedgerError> {
        match sqlite::blob(&self.pool, hash).await? {
            Some(bytes) if blob_hash(&bytes) != *hash => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a blob was altered").into())
            }
            found => Ok(found),
        }
    }

    /// Shows every leaf and blob; nothing is judged, which is for [`super::verify::verify`].
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub async fn each(&self, see: &mut (dyn FnMut(super::export::Part) + Send)) -> Result<(), LedgerError> {
        let mut from = 0;
        loop {
            let page = self.leaves(from, PAGE).await?;
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            page.into_iter().for_each(|leaf| see(super::export::Part::Leaf { seq: leaf.seq, bytes: leaf.bytes }));
        }
        let mut id = i64::MIN;
        while let Some(blob) = sqlite::blob_after(&self.pool, id).await? {
            id = blob.id;
            see(super::export::Part::Blob(blob.bytes));
        }
        Ok(())
    }

    /// Finds leaves by their columns, newest first.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub async fn search(&self, filter: &Filter) -> Result<Vec<StoredLeaf>, LedgerError> {
        sqlite::search(&self.pool, filter).await
    }

    /// Finds all leaves by their columns, newest first, page by page; the filter's own limit does not count.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub async fn search_all(&self, filter: &Filter) -> Result<Vec<StoredLeaf>, LedgerError> {
        let mut filter = Filter { limit: sqlite::MAX_ROWS, ..filter.clone() };
        let mut found = Vec::new();
        loop {
            let page = self.search(&filter).await?;
            let full = page.len() == sqlite::MAX_ROWS as usize;
            filter.before_seq = page.last().map(|leaf| leaf.seq);
            found.extend(page);
            if !full {
                return Ok(found);
            }
        }
    }

    /// Reads the text of the checkpoint with the largest size; not checked.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub async fn checkpoint_newest(&self) -> Result<Option<String>, LedgerError> {
        sqlite::checkpoint_newest(&self.pool).await
    }

    /// Reads the text of the newest checkpoint of exactly this size; not checked.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub async fn checkpoint_at(&self, size: u64) -> Result<Option<String>, LedgerError> {
        sqlite::checkpoint_at(&self.pool, size).await
    }

    /// Puts the frontier of the tree of the first `size` leaves together from stored hashes.
    ///
    /// # Errors
    /// [`LedgerError::Io`] (`InvalidInput`) when there are fewer; [`LedgerError::Corrupt`].
    pub async fn frontier(&self, size: u64) -> Result<Frontier, LedgerError> {
        self.known(true, size).await?;
        let nodes = sqlite::span_hash(&self.pool, Span { from: 0, to: size }).await?.nodes();
        Frontier::from_parts(size, nodes).ok_or(LedgerError::Corrupt { seq: 0 })
    }

    /// Makes the proof that leaf `seq` is in the tree of the first `size` leaves.
    ///
    /// # Errors
    /// [`LedgerError::Io`] (`InvalidInput`) when there is no such leaf or size; [`LedgerError::Corrupt`].
    pub async fn inclusion(&self, seq: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
        self.known(seq < size, size).await?;
        self.hashes(inclusion_spans(seq, size)).await
    }

    /// Makes the proof that the tree of `to` leaves begins with that of `from`; empty for `from` 0 and for `from == to`.
    ///
    /// # Errors
    /// As [`Reader::inclusion`].
    pub async fn consistency(&self, from: u64, to: u64) -> Result<Vec<Hash>, LedgerError> {
        self.known(from <= to, to).await?;
        if from == 0 { Ok(Vec::new()) } else { self.hashes(consistency_spans(from, to)).await }
    }

    async fn known(&self, ordered: bool, size: u64) -> Result<(), LedgerError> {
        if ordered && size <= self.size().await? {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "no such leaf or size").into())
    }

    async fn hashes(&self, spans: Vec<Span>) -> Result<Vec<Hash>, LedgerError> {
        let mut out = Vec::with_capacity(spans.len());
        for span in spans {
            let hash = sqlite::span_hash(&self.pool, span).await?.finish();
            out.push(hash.ok_or(LedgerError::Corrupt { seq: span.from })?);
        }
        Ok(out)
    }

    /// Rebuilds the tree from stored hashes, and hashes the leaves after the last full tile again.
    pub(super) async fn load_tree(&self) -> Result<(Frontier, Hash), LedgerError> {
        let size = sqlite::size_checked(&self.pool).await?;
        let nodes = sqlite::span_hash(&self.pool, Span { from: 0, to: size }).await?.nodes();
        let mut last_hash = Hash::default();
        let tail = (size.saturating_sub(1)) & !0xff;
        for (leaf, expected) in sqlite::full_leaves(&self.pool, tail, PAGE).await?.into_iter().zip(tail..) {
            let hash = leaf_hash(&leaf.bytes);
            let linked = leaf.seq == tail && tail > 0 || leaf.prev_hash == last_hash;
            if leaf.seq != expected || leaf.hash != hash || !linked {
                return Err(LedgerError::Corrupt { seq: expected });
            }
            last_hash = hash;
        }
        let frontier = Frontier::from_parts(size, nodes).ok_or(LedgerError::Corrupt { seq: 0 })?;
        Ok((frontier, last_hash))
    }

    /// Compares what is stored with what was to be stored.
    ///
    /// SECURITY: a bit that flips between memory and disk must show before a root is signed over it. The connection is
    /// another one than the writer's, so that its page cache cannot answer.
    pub(super) async fn read_back(
        &self,
        first: u64,
        rows: &[InsertLeaf<'_>],
        blobs: &[(Hash, &Blob)],
    ) -> Result<(), LedgerError> {
        let mut seq = first;
        for chunk in rows.chunks(PAGE as usize) {
            let stored = sqlite::full_leaves(&self.pool, seq, PAGE).await?;
            for (i, want) in chunk.iter().enumerate() {
                let same = stored.get(i).is_some_and(|found| {
                    found.seq == seq && leaf_hash(&found.bytes) == want.hash && found.hash == want.hash
                });
                if !same {
                    return Err(LedgerError::Corrupt { seq });
                }
                seq += 1;
            }
        }
        for (hash, _) in blobs {
            match sqlite::blob(&self.pool, hash).await? {
                Some(bytes) if blob_hash(&bytes) == *hash => {}
                _ => return Err(LedgerError::Corrupt { seq: first }),
            }
        }
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}
