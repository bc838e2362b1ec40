//! Everything that is SQL: the schema, the one writing transaction, the reads.
//!
//! True here: leaves, tiles and checkpoints are inserted, never updated or deleted; triggers say so too. What never
//! happens here: no decision about what a stored value means. Start at [`SCHEMA`], then [`insert`].

use super::error::LedgerError;
use super::proof::{Run, Span, SpanHash, runs};
use super::tree::Hash;
use super::{Blob, Filter, Keep, Row, StoredLeaf};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, QueryBuilder, Sqlite, query, query_as, query_scalar, raw_sql};
use std::path::Path;
use std::time::Duration;

/// `JITL`: tells this file from any other SQLite file.
const APPLICATION_ID: i64 = 0x4a49_544c;
const VERSION: i64 = 1;
const BUSY: Duration = Duration::from_secs(5);
pub(super) const MAX_ROWS: u32 = 1000;
/// How many leaves one statement inserts: each costs a word with the thread that has the connection, and each count is a statement of its own.
const ROWS: usize = 32;

// The triggers stop mistakes, not an attacker: whoever can write the file can drop them. The tree is what counts.
const SCHEMA: &str = "
CREATE TABLE leaf (
  seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL, hash BLOB NOT NULL, prev_hash BLOB NOT NULL, at INTEGER NOT NULL,
  kind TEXT NOT NULL, actor TEXT, request_id TEXT, grant_id TEXT, session_id TEXT, target TEXT) STRICT;
CREATE INDEX leaf_at ON leaf(at);
CREATE INDEX leaf_kind ON leaf(kind);
CREATE INDEX leaf_actor ON leaf(actor) WHERE actor IS NOT NULL;
CREATE INDEX leaf_request ON leaf(request_id) WHERE request_id IS NOT NULL;
CREATE INDEX leaf_grant ON leaf(grant_id) WHERE grant_id IS NOT NULL;
CREATE INDEX leaf_target ON leaf(target) WHERE target IS NOT NULL;
CREATE INDEX leaf_session ON leaf(session_id) WHERE session_id IS NOT NULL;
CREATE TABLE tile (level INTEGER NOT NULL, idx INTEGER NOT NULL, hash BLOB NOT NULL,
  PRIMARY KEY (level, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE blob (id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE, bytes BLOB NOT NULL,
  keep TEXT NOT NULL CHECK (keep IN ('required', 'shreddable'))) STRICT;
CREATE TABLE checkpoint (id INTEGER PRIMARY KEY, size INTEGER NOT NULL, text TEXT NOT NULL UNIQUE) STRICT;
CREATE INDEX checkpoint_size ON checkpoint(size);
CREATE TRIGGER leaf_insert BEFORE INSERT ON leaf
  WHEN NEW.seq IS NOT (SELECT coalesce(max(seq) + 1, 0) FROM leaf)
  BEGIN SELECT RAISE(ABORT, 'leaves are appended'); END;
CREATE TRIGGER leaf_update BEFORE UPDATE ON leaf BEGIN SELECT RAISE(ABORT, 'leaves never change'); END;
CREATE TRIGGER leaf_delete BEFORE DELETE ON leaf BEGIN SELECT RAISE(ABORT, 'leaves are never deleted'); END;
CREATE TRIGGER tile_update BEFORE UPDATE ON tile BEGIN SELECT RAISE(ABORT, 'tiles never change'); END;
CREATE TRIGGER tile_delete BEFORE DELETE ON tile BEGIN SELECT RAISE(ABORT, 'tiles are never deleted'); END;
CREATE TRIGGER checkpoint_update BEFORE UPDATE ON checkpoint
  BEGIN SELECT RAISE(ABORT, 'checkpoints never change'); END;
CREATE TRIGGER checkpoint_delete BEFORE DELETE ON checkpoint
  BEGIN SELECT RAISE(ABORT, 'checkpoints are never deleted'); END;
CREATE TRIGGER blob_update BEFORE UPDATE ON blob
  WHEN NEW.sha256 IS NOT OLD.sha256 OR NEW.bytes IS NOT OLD.bytes OR NEW.keep <> 'required'
  BEGIN SELECT RAISE(ABORT, 'blobs never change'); END;
CREATE TRIGGER blob_delete BEFORE DELETE ON blob WHEN OLD.keep = 'required'
  BEGIN SELECT RAISE(ABORT, 'required blobs are never deleted'); END;
PRAGMA application_id = 1246319692;
PRAGMA user_version = 1;
";

/// One leaf as stored, with the columns that are only derived from it.
#[derive(Debug)]
pub(super) struct FullLeaf {
    pub(super) seq: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) hash: Vec<u8>,
    pub(super) prev_hash: Vec<u8>,
    pub(super) at: i64,
}

/// One leaf ready to be inserted.
pub(super) struct InsertLeaf<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) hash: Hash,
    pub(super) prev_hash: Hash,
    pub(super) row: &'a Row,
}

/// A complete subtree of `256^level` leaves.
pub(super) struct Tile {
    pub(super) level: u32,
    pub(super) idx: u64,
    pub(super) hash: Hash,
}

/// A blob as stored.
pub(super) struct FullBlob {
    pub(super) id: i64,
    pub(super) sha256: Vec<u8>,
    pub(super) bytes: Vec<u8>,
    pub(super) keep: Keep,
}

/// A checkpoint as stored; the text may be any bytes after tampering.
pub(super) struct FullCheckpoint {
    pub(super) id: i64,
    pub(super) size: i64,
    pub(super) text: Vec<u8>,
}

fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Writes a copy of one moment (sqlite.org/lang_vacuum.html, VACUUM INTO).
pub(super) async fn copy_to(pool: &SqlitePool, path: &Path) -> Result<(), LedgerError> {
    let path = path.to_str().ok_or_else(|| std::io::Error::other("the path is not text"))?;
    query("VACUUM INTO ?").bind(path).execute(pool).await?;
    Ok(())
}

/// When what a writing connection commits is on the disk.
#[derive(Debug, Clone, Copy)]
pub(super) enum Durable {
    /// At its commit.
    AtOnce,
    /// With the next commit of another connection that is [`Durable::AtOnce`]: the write-ahead log is flushed as a whole.
    WithTheNext,
}

/// Opens a writing connection, with a write-ahead log.
pub(super) async fn connect_writer(path: &Path, durable: Durable) -> Result<SqliteConnection, LedgerError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(match durable {
            Durable::AtOnce => SqliteSynchronous::Full,
            Durable::WithTheNext => SqliteSynchronous::Normal,
        })
        .busy_timeout(BUSY)
        .pragma("secure_delete", "ON");
    Ok(options.connect().await?)
}

/// How the readers meet the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Access {
    /// With the locks of SQLite, next to a writer.
    Shared,
    /// Without locks and without a write-ahead log: for a folder that cannot be written.
    Immutable,
}

/// Opens a pool of reading connections.
pub(super) async fn connect_readers(path: &Path, access: Access) -> Result<SqlitePool, LedgerError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(true)
        .busy_timeout(BUSY)
        .immutable(matches!(access, Access::Immutable));
    Ok(SqlitePoolOptions::new().max_connections(4).test_before_acquire(false).connect_with(options).await?)
}

/// Creates the schema in an empty file.
pub(super) async fn create(conn: &mut SqliteConnection) -> Result<(), LedgerError> {
    begin(conn).await?;
    let made = raw_sql(SCHEMA).execute(&mut *conn).await.map(drop);
    finish(conn, made.map_err(LedgerError::from)).await
}

/// Begins a writing transaction.
///
/// Not with sqlx's own: when the disk is full SQLite ends the transaction by itself, sqlx goes on counting it, and from then on every other
/// one is refused.
async fn begin(conn: &mut SqliteConnection) -> Result<(), LedgerError> {
    if let Err(error) = raw_sql("BEGIN IMMEDIATE").execute(&mut *conn).await {
        // One that was left open by a future that was dropped ends here.
        if raw_sql("ROLLBACK").execute(&mut *conn).await.is_err() {
            return Err(error.into());
        }
        raw_sql("BEGIN IMMEDIATE").execute(conn).await?;
    }
    Ok(())
}

/// Makes a transaction durable, or undoes it when something in it failed.
async fn finish<T>(conn: &mut SqliteConnection, done: Result<T, LedgerError>) -> Result<T, LedgerError> {
    let done = match done {
        Ok(value) => raw_sql("COMMIT").execute(&mut *conn).await.map(|_| value).map_err(LedgerError::from),
        failed => failed,
    };
    if done.is_err() {
        undo(conn).await;
    }
    done
}

/// Ends a transaction that is open, whoever left it so. SQLite may have undone it already, and says so.
pub(super) async fn undo(conn: &mut SqliteConnection) {
    let _ = raw_sql("ROLLBACK").execute(conn).await;
}

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Ours,
    Empty,
    Newer,
    Foreign,
}

/// Tells what kind of file the readers have.
pub(super) async fn version(pool: &SqlitePool) -> Result<Version, LedgerError> {
    let mut conn = pool.acquire().await?;
    version_of(&mut conn).await
}

/// Tells what kind of file this is.
pub(super) async fn version_of(conn: &mut SqliteConnection) -> Result<Version, LedgerError> {
    let app: i64 = query_scalar("PRAGMA application_id").fetch_one(&mut *conn).await?;
    let version: i64 = query_scalar("PRAGMA user_version").fetch_one(&mut *conn).await?;
    Ok(match (app, version) {
        (APPLICATION_ID, VERSION) => Version::Ours,
        (APPLICATION_ID, v) if v > VERSION => Version::Newer,
        (0, 0) => Version::Empty,
        _ => Version::Foreign,
    })
}

/// Inserts a batch in one transaction: all of it is durable on return, or nothing.
///
/// # Errors
/// [`LedgerError::Corrupt`] when the store does not end where the tree in memory does.
pub(super) async fn insert(
    conn: &mut SqliteConnection,
    first: u64,
    leaves: &[InsertLeaf<'_>],
    tiles: &[Tile],
    blobs: &[(Hash, &Blob)],
) -> Result<(), LedgerError> {
    // One statement is a transaction by itself, and every other one costs two more changes of threads.
    let done = if leaves.len() <= ROWS && tiles.is_empty() && blobs.is_empty() {
        insert_leaves(conn, first, leaves).await
    } else {
        begin(conn).await?;
        let done = insert_all(conn, first, leaves, tiles, blobs).await;
        finish(conn, done).await
    };
    match done {
        Err(error) => {
            undo(conn).await;
            // What the trigger refuses is a store that ends elsewhere than the tree in memory.
            let stored = query_scalar::<_, i64>("SELECT coalesce(max(seq) + 1, 0) FROM leaf").fetch_one(conn).await;
            let elsewhere = stored.ok().filter(|stored| *stored != int(first));
            Err(elsewhere.map_or(error, |stored| LedgerError::Corrupt { seq: first.min(unsigned(stored)) }))
        }
        ok => ok,
    }
}

async fn insert_leaves(conn: &mut SqliteConnection, first: u64, leaves: &[InsertLeaf<'_>]) -> Result<(), LedgerError> {
    let mut seqs = first..;
    for chunk in leaves.chunks(ROWS) {
        let mut sql = QueryBuilder::<Sqlite>::new("INSERT INTO leaf ");
        sql.push_values(chunk.iter().zip(&mut seqs), |mut row, (leaf, seq)| {
            row.push_bind(int(seq))
                .push_bind(leaf.bytes)
                .push_bind(leaf.hash.as_slice())
                .push_bind(leaf.prev_hash.as_slice())
                .push_bind(leaf.row.at)
                .push_bind(&leaf.row.kind)
                .push_bind(&leaf.row.actor)
                .push_bind(&leaf.row.request_id)
                .push_bind(&leaf.row.grant_id)
                .push_bind(&leaf.row.session_id)
                .push_bind(&leaf.row.target);
        });
        sql.build().execute(&mut *conn).await?;
    }
    Ok(())
}

async fn insert_all(
    conn: &mut SqliteConnection,
    first: u64,
    leaves: &[InsertLeaf<'_>],
    tiles: &[Tile],
    blobs: &[(Hash, &Blob)],
) -> Result<(), LedgerError> {
    insert_leaves(conn, first, leaves).await?;
    for tile in tiles {
        query("INSERT INTO tile VALUES (?, ?, ?)")
            .bind(tile.level)
            .bind(int(tile.idx))
            .bind(tile.hash.as_slice())
            .execute(&mut *conn)
            .await?;
    }
    for (hash, blob) in blobs {
        // The same bytes may come twice: required wins, nothing is stored again.
        query(
            "INSERT INTO blob (sha256, bytes, keep) VALUES (?, ?, ?) ON CONFLICT (sha256) DO UPDATE SET keep = 'required'
             WHERE excluded.keep = 'required' AND blob.keep <> 'required'",
        )
        .bind(hash.as_slice())
        .bind(&blob.bytes)
        .bind(blob.keep.as_str())
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// Stores a checkpoint; the same text twice is stored once.
pub(super) async fn insert_checkpoint(conn: &mut SqliteConnection, text: &str, size: u64) -> Result<(), LedgerError> {
    query("INSERT INTO checkpoint (size, text) VALUES (?, ?) ON CONFLICT (text) DO NOTHING")
        .bind(int(size))
        .bind(text)
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes shreddable blobs, in the file and in the write-ahead log; tells how many there were.
pub(super) async fn shred(conn: &mut SqliteConnection, hashes: &[Hash]) -> Result<u64, LedgerError> {
    begin(conn).await?;
    let gone = delete_all(conn, hashes).await;
    let gone = finish(conn, gone).await?;
    // SECURITY: secure_delete zeroes the pages; without this the old ones stay readable in the write-ahead log.
    raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(conn).await?;
    Ok(gone)
}

async fn delete_all(conn: &mut SqliteConnection, hashes: &[Hash]) -> Result<u64, LedgerError> {
    let mut gone = 0;
    for hash in hashes {
        let done = query("DELETE FROM blob WHERE sha256 = ? AND keep = 'shreddable'").bind(hash.as_slice());
        gone += done.execute(&mut *conn).await?.rows_affected();
    }
    Ok(gone)
}

/// Tells how many leaves there are.
pub(super) async fn size(pool: &SqlitePool) -> Result<u64, LedgerError> {
    Ok(unsigned(query_scalar("SELECT coalesce(max(seq) + 1, 0) FROM leaf").fetch_one(pool).await?))
}

/// As [`size`], and counts the rows.
///
/// # Errors
/// [`LedgerError::Corrupt`] with the first gap when the numbers do not run from 0 without one.
pub(super) async fn size_checked(pool: &SqlitePool) -> Result<u64, LedgerError> {
    let (next, count): (i64, i64) =
        query_as("SELECT coalesce(max(seq) + 1, 0), count(*) FROM leaf").fetch_one(pool).await?;
    if next == count {
        return Ok(unsigned(next));
    }
    let gap: i64 = query_scalar(
        "SELECT coalesce((SELECT n FROM (SELECT seq, row_number() OVER (ORDER BY seq) - 1 AS n FROM leaf)
                          WHERE seq <> n ORDER BY n LIMIT 1), 0)",
    )
    .fetch_one(pool)
    .await?;
    Err(LedgerError::Corrupt { seq: unsigned(gap) })
}

/// Reads leaves in order with all columns that the tree is checked against.
pub(super) async fn full_leaves(pool: &SqlitePool, from: u64, limit: u32) -> Result<Vec<FullLeaf>, LedgerError> {
    type Columns = (i64, Vec<u8>, Vec<u8>, Vec<u8>, i64);
    let rows: Vec<Columns> =
        query_as("SELECT seq, bytes, hash, prev_hash, at FROM leaf WHERE seq >= ? ORDER BY seq LIMIT ?")
            .bind(int(from))
            .bind(limit)
            .fetch_all(pool)
            .await?;
    let leaf = |(seq, bytes, hash, prev_hash, at)| FullLeaf { seq: unsigned(seq), bytes, hash, prev_hash, at };
    Ok(rows.into_iter().map(leaf).collect())
}

/// Reads leaves in order.
pub(super) async fn leaves(pool: &SqlitePool, from: u64, limit: u32) -> Result<Vec<StoredLeaf>, LedgerError> {
    let rows: Vec<(i64, Vec<u8>)> = query_as("SELECT seq, bytes FROM leaf WHERE seq >= ? ORDER BY seq LIMIT ?")
        .bind(int(from))
        .bind(limit)
        .fetch_all(pool)
        .await?;
    Ok(rows.into_iter().map(|(seq, bytes)| StoredLeaf { seq: unsigned(seq), bytes }).collect())
}

/// Reads the leaves that match, newest first, at most 1000.
pub(super) async fn search(pool: &SqlitePool, filter: &Filter) -> Result<Vec<StoredLeaf>, LedgerError> {
    let mut sql = QueryBuilder::<Sqlite>::new("SELECT seq, bytes FROM leaf WHERE 1 = 1");
    // Few sessions are found by their own index; by kind and seq the whole log would be gone through for them.
    let kind = if filter.sessions.is_some() { " AND +kind = " } else { " AND kind = " };
    let equal = [
        (kind, &filter.kind),
        (" AND actor = ", &filter.actor),
        (" AND request_id = ", &filter.request_id),
        (" AND grant_id = ", &filter.grant_id),
        (" AND session_id = ", &filter.session_id),
        (" AND target = ", &filter.target),
    ];
    for (clause, value) in equal {
        if let Some(value) = value {
            sql.push(clause).push_bind(value.clone());
        }
    }
    if let Some(sessions) = &filter.sessions {
        let sessions = serde_json::Value::from(sessions.clone()).to_string();
        sql.push(" AND session_id IN (SELECT value FROM json_each(").push_bind(sessions).push("))");
    }
    if let Some(at) = filter.since_at {
        sql.push(" AND at >= ").push_bind(at);
    }
    if let Some(at) = filter.until_at {
        sql.push(" AND at <= ").push_bind(at);
    }
    if let Some(seq) = filter.before_seq {
        sql.push(" AND seq < ").push_bind(int(seq));
    }
    if let Some(text) = &filter.text {
        let text = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        sql.push(" AND CAST(bytes AS TEXT) LIKE ").push_bind(format!("%{text}%")).push(" ESCAPE '\\'");
    }
    sql.push(" ORDER BY seq DESC LIMIT ").push_bind(filter.limit.min(MAX_ROWS));
    let rows: Vec<(i64, Vec<u8>)> = sql.build_query_as().fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(seq, bytes)| StoredLeaf { seq: unsigned(seq), bytes }).collect())
}

/// Reads the checkpoints of the largest size; more than one where they contradict each other or are cosigned.
pub(super) async fn checkpoints_largest(pool: &SqlitePool) -> Result<Vec<FullCheckpoint>, LedgerError> {
    let sql = "SELECT id, size, CAST(text AS BLOB) FROM checkpoint WHERE size = (SELECT max(size) FROM checkpoint) LIMIT 1000";
    let rows: Vec<(i64, i64, Vec<u8>)> = query_as(sql).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(id, size, text)| FullCheckpoint { id, size, text }).collect())
}

/// Reads a blob.
pub(super) async fn blob(pool: &SqlitePool, hash: &Hash) -> Result<Option<Vec<u8>>, LedgerError> {
    Ok(query_scalar("SELECT bytes FROM blob WHERE sha256 = ?").bind(hash.as_slice()).fetch_optional(pool).await?)
}

/// Reads the next blob after `id`, in the order of their coming.
pub(super) async fn blob_after(pool: &SqlitePool, id: i64) -> Result<Option<FullBlob>, LedgerError> {
    let row: Option<(i64, Vec<u8>, Vec<u8>, String)> =
        query_as("SELECT id, sha256, bytes, keep FROM blob WHERE id > ? ORDER BY id LIMIT 1")
            .bind(id)
            .fetch_optional(pool)
            .await?;
    Ok(row.map(|(id, sha256, bytes, keep)| FullBlob { id, sha256, bytes, keep: Keep::parse(&keep) }))
}

/// Reads checkpoints in the order of their coming, after `id`.
pub(super) async fn checkpoints(pool: &SqlitePool, id: i64, limit: u32) -> Result<Vec<FullCheckpoint>, LedgerError> {
    let rows: Vec<(i64, i64, Vec<u8>)> =
        query_as("SELECT id, size, CAST(text AS BLOB) FROM checkpoint WHERE id > ? ORDER BY id LIMIT ?")
            .bind(id)
            .bind(limit)
            .fetch_all(pool)
            .await?;
    Ok(rows.into_iter().map(|(id, size, text)| FullCheckpoint { id, size, text }).collect())
}

/// Reads the checkpoint of the largest size.
pub(super) async fn checkpoint_newest(pool: &SqlitePool) -> Result<Option<String>, LedgerError> {
    let row: Option<Vec<u8>> =
        query_scalar("SELECT CAST(text AS BLOB) FROM checkpoint ORDER BY size DESC, id DESC LIMIT 1")
            .fetch_optional(pool)
            .await?;
    Ok(row.map(|text| String::from_utf8_lossy(&text).into_owned()))
}

/// Reads the newest checkpoint of a size.
pub(super) async fn checkpoint_at(pool: &SqlitePool, size: u64) -> Result<Option<String>, LedgerError> {
    let row: Option<Vec<u8>> =
        query_scalar("SELECT CAST(text AS BLOB) FROM checkpoint WHERE size = ? ORDER BY id DESC LIMIT 1")
            .bind(int(size))
            .fetch_optional(pool)
            .await?;
    Ok(row.map(|text| String::from_utf8_lossy(&text).into_owned()))
}

/// Reads the stored hashes of a run with their indexes.
pub(super) async fn tiles(pool: &SqlitePool, run: Run) -> Result<Vec<(u64, Vec<u8>)>, LedgerError> {
    let rows: Vec<(i64, Vec<u8>)> = if run.level == 0 {
        query_as("SELECT seq, hash FROM leaf WHERE seq >= ? AND seq < ? ORDER BY seq")
            .bind(int(run.from))
            .bind(int(run.to))
            .fetch_all(pool)
            .await?
    } else {
        query_as("SELECT idx, hash FROM tile WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx")
            .bind(run.level)
            .bind(int(run.from))
            .bind(int(run.to))
            .fetch_all(pool)
            .await?
    };
    Ok(rows.into_iter().map(|(idx, hash)| (unsigned(idx), hash)).collect())
}

/// Counts the tiles.
pub(super) async fn tile_count(pool: &SqlitePool) -> Result<u64, LedgerError> {
    Ok(unsigned(query_scalar("SELECT count(*) FROM tile").fetch_one(pool).await?))
}

/// Puts the hash of a span together from the leaf hashes and tiles.
///
/// # Errors
/// [`LedgerError::Corrupt`] when one of them is missing or not 32 bytes.
pub(super) async fn span_hash(pool: &SqlitePool, span: Span) -> Result<SpanHash, LedgerError> {
    let mut out = SpanHash::default();
    for run in runs(span) {
        let width = 1_u64 << (8 * run.level);
        let mut rows = tiles(pool, run).await?.into_iter();
        for idx in run.from..run.to {
            match rows.next().map(|(found, hash)| (found, Hash::try_from(hash.as_slice()))) {
                Some((found, Ok(hash))) if found == idx => out.push(hash, width),
                _ => return Err(LedgerError::Corrupt { seq: idx * width }),
            }
        }
    }
    Ok(out)
}
