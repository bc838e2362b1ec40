//! The store: what is durable, what is refused, what is found.
#![allow(clippy::unwrap_used)]

use super::tests::{Key, ORIGIN};
use super::tree::{verify_consistency, verify_inclusion};
use super::*;
use sqlx::raw_sql;
use std::time::Instant;
use tempfile::TempDir;

pub(super) fn leaf(text: &str) -> NewLeaf {
    let row = Row { at: 1_700_000_000, kind: "test".into(), ..Row::default() };
    NewLeaf { bytes: text.as_bytes().to_vec(), row, blobs: Vec::new() }
}

pub(super) fn numbered(range: std::ops::Range<u64>) -> Vec<NewLeaf> {
    range.map(|i| leaf(&format!("leaf number {i}"))).collect()
}

pub(super) async fn seal(ledger: &mut Ledger, key: &Key) -> String {
    let (size, root) = (ledger.size(), ledger.root());
    let note = Checkpoint { origin: ORIGIN.into(), size, root }.sign(key);
    ledger.put_checkpoint(&note, size).await.unwrap();
    note.text
}

fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    (dir, path)
}

fn tree_of(texts: &[String]) -> Frontier {
    let mut tree = Frontier::empty();
    texts.iter().for_each(|t| tree.push(leaf_hash(t.as_bytes())));
    tree
}

#[tokio::test]
async fn what_is_appended_is_there_after_opening_again_at_every_size() {
    let (_dir, path) = folder();
    let mut texts = Vec::new();
    Ledger::open(&path, OpenMode::Create).await.unwrap().close().await.unwrap();
    for batch in [1_u64, 2, 0, 252, 1, 1, 254, 1, 3] {
        let mut ledger = Ledger::open(&path, OpenMode::Write).await.unwrap();
        assert_eq!((ledger.size(), ledger.root()), (texts.len() as u64, tree_of(&texts).root()));
        let first = texts.len() as u64;
        texts.extend((first..first + batch).map(|i| format!("leaf number {i}")));
        let done = ledger.append(numbered(first..first + batch)).await.unwrap();
        let tree = tree_of(&texts);
        assert_eq!(done, Appended { first_seq: first, size: tree.size(), root: tree.root() });
        assert_eq!(*ledger.frontier(), tree);
        ledger.close().await.unwrap();
    }
    let reader = Reader::open(&path).await.unwrap();
    assert_eq!(reader.size().await.unwrap(), texts.len() as u64);
    let stored = reader.leaves(250, 10).await.unwrap();
    let expected: Vec<_> =
        (250..260).map(|seq| StoredLeaf { seq, bytes: texts[seq as usize].clone().into_bytes() }).collect();
    assert_eq!(stored, expected);
    assert_eq!(reader.leaf(3).await.unwrap().unwrap().bytes, b"leaf number 3");
    assert_eq!(reader.leaf(texts.len() as u64).await.unwrap(), None);
}

#[tokio::test]
async fn proofs_out_of_the_store_verify_across_tiles() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    ledger.append(numbered(0..1300)).await.unwrap();
    let reader = ledger.reader();
    let texts: Vec<_> = (0..1300).map(|i| format!("leaf number {i}")).collect();
    for size in [1, 2, 255, 256, 257, 511, 512, 513, 1024, 1025, 1300_u64] {
        let root = tree_of(&texts[..size as usize]).root();
        for seq in [0, 1, 127, 255, 256, 300, 511, 512, 767, 1023, 1024, 1299].into_iter().filter(|s| *s < size) {
            let proof = reader.inclusion(seq, size).await.unwrap();
            let hash = leaf_hash(texts[seq as usize].as_bytes());
            assert_eq!(verify_inclusion(hash, seq, size, &proof, root), Ok(()), "{seq} in {size}");
            let old = tree_of(&texts[..seq as usize]).root();
            let proof = reader.consistency(seq, size).await.unwrap();
            assert_eq!(verify_consistency(seq, old, size, root, &proof), Ok(()), "{seq} to {size}");
        }
        assert!(reader.consistency(size, size).await.unwrap().is_empty());
    }
    assert!(matches!(reader.inclusion(5, 5).await, Err(LedgerError::Io(_))));
    assert!(matches!(reader.inclusion(5, 1301).await, Err(LedgerError::Io(_))));
    assert!(matches!(reader.consistency(6, 5).await, Err(LedgerError::Io(_))));
}

#[tokio::test]
async fn a_second_writer_is_refused_and_told_who_holds_it() {
    let (_dir, path) = folder();
    let ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    for mode in [OpenMode::Create, OpenMode::Write] {
        match Ledger::open(&path, mode).await {
            Err(LedgerError::Held { pid }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
    }
    ledger.close().await.unwrap();
    Ledger::open(&path, OpenMode::Write).await.unwrap();
}

#[tokio::test]
async fn files_are_private_and_flushed() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    ledger.append(numbered(0..3)).await.unwrap();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mode = std::fs::metadata(beside(&path, suffix)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
    let conn = &mut ledger.conn;
    let sync: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *conn).await.unwrap();
    let busy: i64 = sqlx::query_scalar("PRAGMA busy_timeout").fetch_one(&mut *conn).await.unwrap();
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *conn).await.unwrap();
    assert_eq!((sync, busy, journal.as_str()), (2, 5000, "wal"));
    ledger.close().await.unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    Ledger::open(&path, OpenMode::Write).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn opening_refuses_what_is_not_a_ledger_of_this_version() {
    let (dir, path) = folder();
    assert!(matches!(Ledger::open(&path, OpenMode::Write).await, Err(LedgerError::Missing)));
    assert!(matches!(Reader::open(&path).await, Err(LedgerError::Missing)));
    assert!(!path.exists());
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    ledger.append(numbered(0..1)).await.unwrap();
    ledger.close().await.unwrap();
    match Ledger::open(&path, OpenMode::Create).await {
        Err(LedgerError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::AlreadyExists),
        other => panic!("{other:?}"),
    }
    let mut conn = sqlite::connect_writer(&path, sqlite::Durable::AtOnce).await.unwrap();
    raw_sql("PRAGMA user_version = 2").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    assert!(matches!(Ledger::open(&path, OpenMode::Write).await, Err(LedgerError::Newer)));
    assert!(matches!(Reader::open(&path).await, Err(LedgerError::Newer)));
    let text = dir.path().join("text");
    std::fs::write(&text, "this is not a database, it is a text of some length".repeat(40)).unwrap();
    assert!(matches!(Ledger::open(&text, OpenMode::Write).await, Err(LedgerError::Io(_))));
    assert!(matches!(Reader::open(&text).await, Err(LedgerError::Io(_))));
}

#[tokio::test]
async fn a_full_store_refuses_the_whole_batch_and_stays_usable() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    ledger.append(numbered(0..10)).await.unwrap();
    let before = (ledger.size(), ledger.root());
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&mut ledger.conn).await.unwrap();
    let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {}", pages + 1));
    raw_sql(limit).execute(&mut ledger.conn).await.unwrap();
    let mut big = numbered(10..12);
    big[1].bytes = vec![b'x'; 60_000];
    assert!(matches!(ledger.append(big).await, Err(LedgerError::Full)));
    assert_eq!((ledger.size(), ledger.root()), before);
    assert_eq!(ledger.reader().size().await.unwrap(), 10);
    raw_sql("PRAGMA max_page_count = 1000000").execute(&mut ledger.conn).await.unwrap();
    assert_eq!(ledger.append(numbered(10..12)).await.unwrap().first_seq, 10);
    ledger.close().await.unwrap();
    assert_eq!(Ledger::open(&path, OpenMode::Write).await.unwrap().size(), 12);
}

#[tokio::test]
async fn a_read_only_store_says_so_and_the_tree_is_unchanged() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    ledger.append(numbered(0..2)).await.unwrap();
    raw_sql("PRAGMA query_only = ON").execute(&mut ledger.conn).await.unwrap();
    assert!(matches!(ledger.append(numbered(2..3)).await, Err(LedgerError::ReadOnly)));
    assert_eq!(ledger.size(), 2);
    raw_sql("PRAGMA query_only = OFF").execute(&mut ledger.conn).await.unwrap();
    assert_eq!(ledger.append(numbered(2..3)).await.unwrap().size, 3);
    // A reader has no way to write.
    let refused = raw_sql("DELETE FROM blob").execute(&ledger.reader().pool).await.map_err(LedgerError::from);
    assert!(matches!(refused, Err(LedgerError::ReadOnly)));
}

#[tokio::test]
async fn too_large_a_leaf_is_refused_and_the_largest_is_not() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    let mut leaf = leaf("");
    leaf.bytes = vec![0; MAX_LEAF + 1];
    assert!(matches!(ledger.append(vec![leaf.clone()]).await, Err(LedgerError::TooLarge)));
    leaf.bytes.pop();
    assert_eq!(ledger.append(vec![leaf]).await.unwrap().size, 1);
}

#[tokio::test]
async fn a_store_that_is_ahead_of_the_tree_is_not_extended() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    ledger.append(numbered(0..2)).await.unwrap();
    let foreign = "INSERT INTO leaf (seq, bytes, hash, prev_hash, at, kind) VALUES (2, x'', x'', x'', 0, '')";
    raw_sql(foreign).execute(&mut ledger.conn).await.unwrap();
    assert!(matches!(ledger.append(numbered(2..3)).await, Err(LedgerError::Corrupt { seq: 2 })));
    assert_eq!(ledger.size(), 2);
    ledger.close().await.unwrap();
    assert!(matches!(Ledger::open(&path, OpenMode::Write).await, Err(LedgerError::Corrupt { seq: 2 })));
}

/// A trigger stands in for the disk that stores something else than it was given.
#[tokio::test]
async fn a_leaf_that_is_not_stored_as_it_was_given_is_found_by_reading_back() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    ledger.append(numbered(0..2)).await.unwrap();
    let root = ledger.root();
    let flip = "DROP TRIGGER leaf_update; CREATE TRIGGER flip AFTER INSERT ON leaf WHEN NEW.seq = 3
                BEGIN UPDATE leaf SET bytes = x'00' WHERE seq = NEW.seq; END;";
    raw_sql(flip).execute(&mut ledger.conn).await.unwrap();
    assert!(matches!(ledger.append(numbered(2..5)).await, Err(LedgerError::Corrupt { seq: 3 })));
    assert_eq!((ledger.size(), ledger.root()), (2, root));
    assert!(matches!(ledger.append(numbered(2..5)).await, Err(LedgerError::Corrupt { seq: 2 })));
}

#[tokio::test]
async fn triggers_stop_updates_deletes_and_gaps() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    let mut leaves = numbered(0..257);
    leaves[0].blobs = vec![
        Blob { bytes: b"bundle".to_vec(), keep: Keep::Required },
        Blob { bytes: b"reason".to_vec(), keep: Keep::Shreddable },
    ];
    ledger.append(leaves).await.unwrap();
    seal(&mut ledger, &Key::new(ORIGIN, 1)).await;
    for sql in [
        "UPDATE leaf SET at = 0 WHERE seq = 0",
        "DELETE FROM leaf WHERE seq = 256",
        "INSERT OR REPLACE INTO leaf (seq, bytes, hash, prev_hash, at, kind) VALUES (0, x'', x'', x'', 0, '')",
        "INSERT INTO leaf (seq, bytes, hash, prev_hash, at, kind) VALUES (258, x'', x'', x'', 0, '')",
        "UPDATE tile SET hash = x''",
        "DELETE FROM tile",
        "UPDATE checkpoint SET size = 1",
        "DELETE FROM checkpoint",
        "DELETE FROM blob WHERE keep = 'required'",
        "UPDATE blob SET bytes = x'00'",
        "UPDATE blob SET keep = 'shreddable'",
    ] {
        assert!(raw_sql(sql).execute(&mut ledger.conn).await.is_err(), "{sql}");
    }
}

#[tokio::test]
async fn blobs_come_with_their_leaf_and_only_shreddable_ones_go() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    let blob = |text: &str, keep| Blob { bytes: text.as_bytes().to_vec(), keep };
    let (bundle, reason, both) = (blob_hash(b"bundle"), blob_hash(b"reason"), blob_hash(b"both"));
    let mut leaves = numbered(0..2);
    leaves[0].blobs = vec![blob("bundle", Keep::Required), blob("reason", Keep::Shreddable)];
    leaves[1].blobs =
        vec![blob("both", Keep::Shreddable), blob("both", Keep::Required), blob("both", Keep::Shreddable)];
    ledger.append(leaves).await.unwrap();
    let reader = ledger.reader();
    assert_eq!(reader.blob(&reason).await.unwrap().unwrap(), b"reason");
    assert_eq!(ledger.shred(&[bundle, reason, both, [0; 32]]).await.unwrap(), 1);
    assert_eq!(reader.blob(&reason).await.unwrap(), None);
    assert_eq!(reader.blob(&bundle).await.unwrap().unwrap(), b"bundle");
    assert_eq!(reader.blob(&both).await.unwrap().unwrap(), b"both");
    for suffix in ["", "-wal"] {
        let bytes = std::fs::read(beside(&path, suffix)).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"reason"), "still readable in the file{suffix}");
    }
}

#[tokio::test]
async fn search_finds_by_every_column_newest_first() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    let make = |i: i64| {
        let some = |name: &str| Some(format!("{name}{}", i % 3));
        let row = Row {
            at: 100 + i,
            kind: format!("kind{}", i % 2),
            actor: some("actor"),
            request_id: some("request"),
            grant_id: some("grant"),
            session_id: Some(format!("session{}", i / 3)),
            target: (i == 4).then(|| "db".to_owned()),
        };
        NewLeaf { bytes: format!("{{\"n\":{i},\"p\":\"100%_\\\\x{i}\"}}").into_bytes(), row, blobs: Vec::new() }
    };
    ledger.append((0..12).map(make).collect()).await.unwrap();
    let reader = ledger.reader();
    let some = |text: &str| Some(text.to_owned());
    let several = |ids: &[&str]| Some(ids.iter().map(|id| (*id).to_owned()).collect());
    let all = Filter { limit: 100, ..Filter::default() };
    let cases = [
        (all.clone(), (0..12).rev().collect::<Vec<u64>>()),
        (Filter { limit: 2, ..Filter::default() }, vec![11, 10]),
        (Filter::default(), vec![]),
        (Filter { kind: some("kind1"), before_seq: Some(6), ..all.clone() }, vec![5, 3, 1]),
        (Filter { actor: some("actor2"), ..all.clone() }, vec![11, 8, 5, 2]),
        (Filter { request_id: some("request0"), kind: some("kind0"), ..all.clone() }, vec![6, 0]),
        (Filter { grant_id: some("grant1"), since_at: Some(104), until_at: Some(107), ..all.clone() }, vec![7, 4]),
        (Filter { target: some("db"), ..all.clone() }, vec![4]),
        (Filter { session_id: some("session1"), ..all.clone() }, vec![5, 4, 3]),
        (
            Filter { kind: some("kind1"), sessions: several(&["session1", "session3"]), ..all.clone() },
            vec![11, 9, 5, 3],
        ),
        (Filter { sessions: several(&["session0", "\"]) OR 1=1 --"]), before_seq: Some(2), ..all.clone() }, vec![1, 0]),
        (Filter { sessions: several(&[]), ..all.clone() }, vec![]),
        (Filter { text: some("\"N\":7"), ..all.clone() }, vec![7]),
        (Filter { text: some("100%_\\\\x1"), ..all.clone() }, vec![11, 10, 1]),
        (Filter { text: some("n%7"), ..all.clone() }, vec![]),
        (Filter { text: some("' OR 1=1 --"), ..all.clone() }, vec![]),
        (Filter { kind: some("' OR 1=1 --"), ..all }, vec![]),
    ];
    for (filter, expected) in cases {
        let found: Vec<u64> = reader.search(&filter).await.unwrap().iter().map(|leaf| leaf.seq).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn the_newest_checkpoint_is_that_of_the_largest_size() {
    let (_dir, path) = folder();
    let key = Key::new(ORIGIN, 1);
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    assert_eq!(ledger.reader().checkpoint_newest().await.unwrap(), None);
    ledger.append(numbered(0..3)).await.unwrap();
    seal(&mut ledger, &key).await;
    ledger.append(numbered(3..9)).await.unwrap();
    let newest = seal(&mut ledger, &key).await;
    assert_eq!(seal(&mut ledger, &key).await, newest);
    assert_eq!(ledger.reader().checkpoint_newest().await.unwrap(), Some(newest.clone()));
    let beyond = ledger.put_checkpoint(&SignedNote { text: newest }, 10).await;
    assert!(matches!(beyond, Err(LedgerError::Corrupt { seq: 9 })));
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM checkpoint").fetch_one(&mut ledger.conn).await.unwrap();
    assert_eq!(count, 2);
}

#[tokio::test]
async fn a_transaction_that_was_left_open_swallows_nothing_and_is_gone_at_the_next_append() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    ledger.append(numbered(0..3)).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut ledger.conn).await.unwrap();
    assert!(matches!(ledger.append(numbered(3..4)).await, Err(LedgerError::Corrupt { seq: 3 })), "it is not durable");
    ledger.append(numbered(3..5)).await.unwrap();
    assert_eq!(Reader::open(&path).await.unwrap().size().await.unwrap(), 5);
}

#[tokio::test]
async fn a_reader_reads_next_to_the_writer() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    let offline = Reader::open(&path).await.unwrap();
    for n in 0..20 {
        ledger.append(numbered(n..n + 1)).await.unwrap();
        assert_eq!(offline.size().await.unwrap(), n + 1);
    }
}

/// Prints, asserts nothing about time.
#[tokio::test]
async fn throughput() {
    let (_dir, path) = folder();
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    let begun = Instant::now();
    for n in 0..100 {
        ledger.append(numbered(n..n + 1)).await.unwrap();
    }
    println!("single appends: {:.0} leaves/s", 100.0 / begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    for n in 0..20 {
        let first = 100 + n * 500;
        ledger.append(numbered(first..first + 500)).await.unwrap();
    }
    println!("batches of 500: {:.0} leaves/s", 10_000.0 / begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    for n in 0..100 {
        ledger.reader().inclusion(n * 97, ledger.size()).await.unwrap();
    }
    println!("inclusion proofs of {}: {:.0}/s", ledger.size(), 100.0 / begun.elapsed().as_secs_f64());
    let reader = ledger.reader();
    let pinned = verify::Pinned { origin: ORIGIN.into(), public: [0; 32], genesis: None };
    let begun = Instant::now();
    let report = verify::verify(&verify::Source::Sqlite(reader), &pinned, &[], &mut verify::NoChecks).await.unwrap();
    println!("verify: {:.0} leaves/s", report.size as f64 / begun.elapsed().as_secs_f64());
    assert_eq!((report.size, report.root), (ledger.size(), ledger.root()));
}
