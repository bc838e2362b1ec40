//! Every attack of the audit table on the real file, by an attacker who can write it and drops the triggers first.
#![allow(clippy::unwrap_used)]

use super::tests::{Key, ORIGIN};
use super::tests_store::{leaf, numbered, seal};
use super::verify::{
    LeafCheck, LeafFacts, NoChecks, OutsideNote, Pinned, Problem, Report, Source, verify, verify_tree,
};
use super::*;
use sqlx::{AssertSqlSafe, query, query_as, raw_sql};
use tempfile::TempDir;

const DROP_TRIGGERS: &str = "DROP TRIGGER leaf_insert; DROP TRIGGER leaf_update; DROP TRIGGER leaf_delete;
    DROP TRIGGER tile_update; DROP TRIGGER tile_delete; DROP TRIGGER checkpoint_update; DROP TRIGGER checkpoint_delete;
    DROP TRIGGER blob_update; DROP TRIGGER blob_delete;";

/// A closed ledger whose file the attacker holds open.
pub(super) struct Victim {
    pub(super) dir: TempDir,
    pub(super) key: Key,
    pub(super) notes: Vec<String>,
    pub(super) conn: SqliteConnection,
    pub(super) reader: Reader,
}

impl Victim {
    /// One checkpoint at each of the sizes; the last is the end.
    pub(super) async fn new(sizes: &[u64]) -> Self {
        Self::with(sizes, Key::new(ORIGIN, 1), |_| {}).await
    }

    pub(super) async fn with(sizes: &[u64], key: Key, shape: impl Fn(&mut Vec<NewLeaf>)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
        let mut notes = Vec::new();
        for size in sizes {
            let mut leaves = numbered(ledger.size()..*size);
            shape(&mut leaves);
            ledger.append(leaves).await.unwrap();
            notes.push(seal(&mut ledger, &key).await);
        }
        ledger.close().await.unwrap();
        let mut conn = sqlite::connect_writer(&path, sqlite::Durable::AtOnce).await.unwrap();
        raw_sql(DROP_TRIGGERS).execute(&mut conn).await.unwrap();
        let reader = Reader::open(&path).await.unwrap();
        Self { dir, key, notes, conn, reader }
    }

    pub(super) async fn sql(&mut self, sql: &str) {
        raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.conn).await.unwrap();
    }

    pub(super) fn pinned(&self) -> Pinned {
        Pinned { origin: ORIGIN.into(), public: self.key.public(), genesis: None }
    }

    pub(super) async fn report_with(&self, outside: &[OutsideNote]) -> Report {
        verify(&Source::Sqlite(self.reader.clone()), &self.pinned(), outside, &mut NoChecks).await.unwrap()
    }

    pub(super) async fn report(&self) -> Report {
        self.report_with(&[]).await
    }

    pub(super) async fn leaves(&self) -> Vec<Vec<u8>> {
        self.reader.leaves(0, u32::MAX).await.unwrap().into_iter().map(|leaf| leaf.bytes).collect()
    }

    /// Replaces the leaves and computes all hash columns and tiles anew, as a careful attacker does.
    pub(super) async fn rebuild(&mut self, leaves: &[Vec<u8>]) -> Frontier {
        self.sql("BEGIN; DELETE FROM leaf; DELETE FROM tile;").await;
        let (mut tree, mut tiles, mut last) = (Frontier::empty(), Vec::new(), [0; 32]);
        for (seq, bytes) in (0_i64..).zip(leaves) {
            let hash = leaf_hash(bytes);
            push_with_tiles(&mut tree, hash, &mut tiles);
            query("INSERT INTO leaf (seq, bytes, hash, prev_hash, at, kind) VALUES (?, ?, ?, ?, 0, 'test')")
                .bind(seq)
                .bind(bytes)
                .bind(hash.as_slice())
                .bind(last.as_slice())
                .execute(&mut self.conn)
                .await
                .unwrap();
            last = hash;
        }
        for tile in tiles {
            query("INSERT INTO tile VALUES (?, ?, ?)")
                .bind(tile.level)
                .bind(tile.idx as i64)
                .bind(tile.hash.as_slice())
                .execute(&mut self.conn)
                .await
                .unwrap();
        }
        self.sql("COMMIT").await;
        tree
    }

    pub(super) async fn forge_note(&mut self, key: &Key, tree: &Frontier) -> String {
        let text = Checkpoint { origin: ORIGIN.into(), size: tree.size(), root: tree.root() }.sign(key).text;
        sqlite::insert_checkpoint(&mut self.conn, &text, tree.size()).await.unwrap();
        text
    }

    pub(super) async fn export(&self) -> Vec<u8> {
        let mut out = Vec::new();
        export_jsonl(&self.reader, u64::MAX, &mut out).await.unwrap();
        out
    }

    pub(super) async fn report_export(&self, bytes: &[u8], outside: &[OutsideNote]) -> Report {
        let path = self.dir.path().join("export.jsonl");
        std::fs::write(&path, bytes).unwrap();
        verify(&Source::Export(path), &self.pinned(), outside, &mut NoChecks).await.unwrap()
    }
}

fn kept(text: &str) -> Vec<OutsideNote> {
    vec![OutsideNote { from: "cli alice".into(), text: text.to_owned() }]
}

fn kinds(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|p| p.kind.as_str()).collect()
}

#[track_caller]
pub(super) fn fails_with<'a>(report: &'a Report, kind: &str) -> &'a Problem {
    assert!(!report.ok, "passed: {report:#?}");
    let found = report.problems.iter().find(|p| p.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind:?} in {:#?}", report.problems))
}

#[tokio::test]
async fn an_untouched_ledger_is_ok_and_attested_as_far_as_somebody_outside_saw_it() {
    let victim = Victim::new(&[300, 600]).await;
    let (old, new) = (kept(&victim.notes[0]), kept(&victim.notes[1]));
    let bytes = victim.export().await;
    for report in [victim.report().await, victim.report_export(&bytes, &[]).await] {
        assert!(report.ok, "{:#?}", report.problems);
        assert_eq!((report.size, report.attested.clone()), (600, None));
        assert_eq!(kinds(&report.warnings), ["unattested"]);
    }
    for report in [victim.report_with(&old).await, victim.report_export(&bytes, &old).await] {
        assert!(report.ok);
        assert_eq!(report.attested, Some((300, "cli alice".into())));
        assert_eq!((report.warnings[0].seq, kinds(&report.warnings)), (Some(300), vec!["unattested"]));
    }
    for report in [victim.report_with(&new).await, victim.report_export(&bytes, &new).await] {
        assert!(report.ok && report.warnings.is_empty());
        assert_eq!(report.attested, Some((600, "cli alice".into())));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["root"].as_str().unwrap().len(), 64);
    }
}

#[tokio::test]
async fn t186_every_byte_of_every_leaf_counts() {
    let mut victim = Victim::new(&[3, 7]).await;
    for (seq, bytes) in victim.leaves().await.into_iter().enumerate() {
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x20;
            set(&mut victim, "leaf", "bytes", "seq", seq as i64, &bad).await;
            let report = victim.report().await;
            assert_eq!(fails_with(&report, "leaf-hash").seq, Some(seq as u64));
            fails_with(&report, "checkpoint");
        }
        set(&mut victim, "leaf", "bytes", "seq", seq as i64, &bytes).await;
    }
    assert!(victim.report().await.ok);
}

async fn set(victim: &mut Victim, table: &str, column: &str, key: &str, id: i64, bytes: &[u8]) {
    let value = if column == "text" { "CAST(? AS TEXT)" } else { "?" };
    let sql = format!("UPDATE {table} SET {column} = {value} WHERE {key} = ?");
    query(AssertSqlSafe(sql)).bind(bytes).bind(id).execute(&mut victim.conn).await.unwrap();
}

#[tokio::test]
async fn every_byte_of_every_checkpoint_counts() {
    let mut victim = Victim::new(&[3, 7]).await;
    let rows: Vec<(i64, String)> =
        query_as("SELECT id, text FROM checkpoint").fetch_all(&mut victim.conn).await.unwrap();
    assert_eq!(rows.len(), 2);
    for (id, text) in rows {
        for at in 0..text.len() {
            // 0x20 turns letters into letters, 0x80 makes it invalid UTF-8.
            for mask in [0x01, 0x20, 0x80] {
                let mut bad = text.clone().into_bytes();
                bad[at] ^= mask;
                set(&mut victim, "checkpoint", "text", "id", id, &bad).await;
                let report = victim.report().await;
                let found = ["note", "unknown-key"].iter().any(|kind| kinds(&report.problems).contains(kind));
                assert!(!report.ok && found, "checkpoint {id} byte {at}: {report:#?}");
            }
        }
        set(&mut victim, "checkpoint", "text", "id", id, text.as_bytes()).await;
    }
    assert!(victim.report().await.ok);
    victim.sql("UPDATE checkpoint SET size = 6 WHERE size = 7").await;
    fails_with(&victim.report().await, "note");
    victim.sql("UPDATE checkpoint SET size = -7 WHERE size = 6").await;
    fails_with(&victim.report().await, "note");
}

#[tokio::test]
async fn columns_and_tiles_that_disagree_are_found_byte_by_byte() {
    let mut victim = Victim::new(&[600]).await;
    for at in 0..32 {
        for (column, kind) in [("hash", "leaf-hash"), ("prev_hash", "prev-hash")] {
            let sql = format!("SELECT {column} FROM leaf WHERE seq = 300");
            let good: Vec<u8> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut victim.conn).await.unwrap();
            let mut bad = good.clone();
            bad[at] ^= 1;
            set(&mut victim, "leaf", column, "seq", 300, &bad).await;
            let report = victim.report().await;
            assert_eq!(fails_with(&report, kind).seq, Some(300));
            assert_eq!(report.problems.len(), 1);
            set(&mut victim, "leaf", column, "seq", 300, &good).await;
        }
    }
    let good: Vec<u8> =
        sqlx::query_scalar("SELECT hash FROM tile WHERE idx = 1").fetch_one(&mut victim.conn).await.unwrap();
    set(&mut victim, "tile", "hash", "idx", 1, &[0; 32]).await;
    assert_eq!(fails_with(&victim.report().await, "tile").seq, Some(256));
    // The writer would compute on a wrong tree: its root is not the signed one, and the proof is refused.
    let (tree, _) = victim.reader.load_tree().await.unwrap();
    let signed = SignedNote::open(&victim.notes[0], ORIGIN, &victim.key.public()).unwrap();
    assert_ne!(tree.root(), signed.root);
    set(&mut victim, "tile", "hash", "idx", 1, &good).await;
    assert!(victim.report().await.ok);
    for sql in ["INSERT INTO tile VALUES (1, 2, x'00')", "DELETE FROM tile WHERE idx IN (1, 2)"] {
        victim.sql(sql).await;
        fails_with(&victim.report().await, "tile");
    }
}

#[tokio::test]
async fn t187_a_leaf_edited_and_everything_recomputed() {
    let mut victim = Victim::new(&[300, 600]).await;
    let good = victim.leaves().await;
    for at in [0, 255, 256, 299, 300, 599] {
        let mut leaves = good.clone();
        leaves[at] = b"another leaf".to_vec();
        victim.rebuild(&leaves).await;
        let report = victim.report().await;
        let detail = &fails_with(&report, "checkpoint").detail;
        let (first, agreed) = if at < 300 { (300, 0) } else { (600, 300) };
        assert!(detail.contains(&format!("size {first}:")) && detail.contains(&format!("agreed at size {agreed}")));
        assert!(kinds(&report.problems).iter().all(|kind| *kind == "checkpoint"), "{report:#?}");
    }
    victim.rebuild(&good).await;
    assert!(victim.report().await.ok);
}

#[tokio::test]
async fn t188_to_t190_rows_deleted_swapped_and_inserted() {
    let mut victim = Victim::new(&[5, 9]).await;
    let good = victim.leaves().await;
    for at in 0..good.len() {
        let mut leaves = good.clone();
        leaves.remove(at);
        victim.rebuild(&leaves).await;
        fails_with(&victim.report().await, "truncated");
        // The same number again: a deleted one made up for at the end.
        leaves.push(b"made up".to_vec());
        victim.rebuild(&leaves).await;
        fails_with(&victim.report().await, "checkpoint");
        if at > 0 {
            let mut leaves = good.clone();
            leaves.swap(at - 1, at);
            victim.rebuild(&leaves).await;
            fails_with(&victim.report().await, "checkpoint");
        }
    }
    for at in 0..=good.len() {
        let mut leaves = good.clone();
        leaves.insert(at, b"inserted".to_vec());
        victim.rebuild(&leaves).await;
        let report = victim.report().await;
        fails_with(&report, "unsigned-tail");
        assert_eq!(at < good.len(), kinds(&report.problems).contains(&"checkpoint"));
    }
    victim.rebuild(&good).await;
    assert!(victim.report().await.ok);
}

#[tokio::test]
async fn rows_deleted_or_swapped_without_renumbering() {
    for seq in 0..7 {
        let mut victim = Victim::new(&[3, 7]).await;
        victim.sql(&format!("DELETE FROM leaf WHERE seq = {seq}")).await;
        let report = victim.report().await;
        fails_with(&report, "truncated");
        if seq < 6 {
            assert_eq!(fails_with(&report, "sequence").seq, Some(seq + 1));
            let opened = Ledger::open(&victim.dir.path().join("ledger.db"), OpenMode::Write).await;
            assert!(matches!(opened, Err(LedgerError::Corrupt { seq: at }) if at == seq), "{opened:?}");
        }
    }
    let mut victim = Victim::new(&[3, 7]).await;
    victim.sql("UPDATE leaf SET seq = -1 WHERE seq = 2").await;
    fails_with(&victim.report().await, "sequence");
    let mut victim = Victim::new(&[3, 7]).await;
    victim.sql("UPDATE leaf SET seq = 100 WHERE seq = 2; UPDATE leaf SET seq = 2 WHERE seq = 5;").await;
    victim.sql("UPDATE leaf SET seq = 5 WHERE seq = 100").await;
    fails_with(&victim.report().await, "prev-hash");
}

#[tokio::test]
async fn t191_the_tail_cut_with_its_checkpoints() {
    let mut victim = Victim::new(&[900, 1000]).await;
    let seen = kept(&victim.notes[1]);
    let leaves = victim.leaves().await;
    victim.rebuild(&leaves[..900]).await;
    fails_with(&victim.report().await, "truncated");
    victim.sql("DELETE FROM checkpoint WHERE size = 1000").await;
    // Nobody outside: nothing to see, and it says so.
    let report = victim.report().await;
    assert!(report.ok && report.attested.is_none() && report.size == 900);
    assert_eq!(kinds(&report.warnings), ["unattested"]);
    let bytes = victim.export().await;
    for report in [victim.report_with(&seen).await, victim.report_export(&bytes, &seen).await] {
        let problem = fails_with(&report, "rolled-back");
        assert!(problem.detail.starts_with("tree 900 < witnessed 1000 (cli alice)"), "{}", problem.detail);
        assert!(problem.detail.contains(&victim.notes[1]));
        assert_eq!(report.attested, None);
    }
}

#[tokio::test]
async fn every_truncation_is_found_by_the_checkpoint_or_the_witness() {
    let mut victim = Victim::new(&[4, 8]).await;
    let leaves = victim.leaves().await;
    let seen = kept(&victim.notes[1]);
    for size in (0..8).rev() {
        victim.rebuild(&leaves[..size]).await;
        fails_with(&victim.report().await, "truncated");
        fails_with(&victim.report_with(&seen).await, "rolled-back");
    }
    fails_with(&victim.report().await, "empty");
}

#[tokio::test]
async fn t192_a_restored_copy_that_continued() {
    let mut victim = Victim::new(&[900, 1000]).await;
    let seen = [kept(&victim.notes[0]), kept(&victim.notes[1])].concat();
    let mut leaves = victim.leaves().await;
    leaves.truncate(900);
    leaves.extend((0..200).map(|i| format!("after the restore {i}").into_bytes()));
    let key = Key::new(ORIGIN, 1);
    victim.sql("DELETE FROM checkpoint WHERE size = 1000").await;
    let tree = victim.rebuild(&leaves).await;
    let forged = victim.forge_note(&key, &tree).await;
    let alone = victim.report().await;
    assert!(alone.ok && alone.attested.is_none());
    let bytes = victim.export().await;
    for report in [victim.report_with(&seen).await, victim.report_export(&bytes, &seen).await] {
        let problem = fails_with(&report, "fork");
        assert!(problem.detail.starts_with("fork at size 1000"));
        assert!(problem.detail.contains(&forged) && problem.detail.contains(&victim.notes[1]), "both notes");
        assert_eq!(report.attested, Some((900, "cli alice".into())));
    }
    // Restored and continued, but not yet as far as the witness saw.
    victim.sql("DELETE FROM checkpoint WHERE size = 1100").await;
    let tree = victim.rebuild(&leaves[..950]).await;
    victim.forge_note(&key, &tree).await;
    fails_with(&victim.report_with(&seen).await, "rolled-back");
}

#[tokio::test]
async fn t193_all_rebuilt_with_a_new_key() {
    let mut victim = Victim::new(&[300]).await;
    let tree = victim.rebuild(&[b"all new".to_vec()]).await;
    victim.sql("DELETE FROM checkpoint").await;
    let thief = Key::new(ORIGIN, 66);
    let text = victim.forge_note(&thief, &tree).await;
    let report = victim.report().await;
    assert!(fails_with(&report, "unknown-key").detail.contains("size 1"));
    fails_with(&report, "unsigned");
    let report = victim.report_with(&kept(&text)).await;
    fails_with(&report, "outside-note");
    assert_eq!(report.attested, None);
}

#[tokio::test]
async fn t194_two_notes_of_one_size_by_the_real_key() {
    let mut victim = Victim::new(&[300, 600]).await;
    let seen = kept(&victim.notes[1]);
    let mut leaves = victim.leaves().await;
    leaves[10] = b"rewritten".to_vec();
    let tree = victim.rebuild(&leaves).await;
    let key = Key::new(ORIGIN, 1);
    // Both notes stored.
    let forged = victim.forge_note(&key, &tree).await;
    let report = victim.report().await;
    assert!(fails_with(&report, "two-notes").detail.contains("size 600"));
    // Only the forged one stored: consistent in itself, and proven false by the witness.
    victim.sql("DELETE FROM checkpoint").await;
    victim.forge_note(&key, &tree).await;
    assert!(victim.report().await.ok);
    let bytes = victim.export().await;
    for report in [victim.report_with(&seen).await, victim.report_export(&bytes, &seen).await] {
        let detail = &fails_with(&report, "two-notes").detail;
        assert!(detail.contains(&forged) && detail.contains(&victim.notes[1]));
    }
    // Two witnesses were told different things, whatever the store says.
    let both = [kept(&victim.notes[1]), kept(&forged)].concat();
    fails_with(&victim.report_with(&both).await, "two-notes");
}

#[tokio::test]
async fn t195_an_empty_or_unsigned_log_never_passes() {
    let victim = Victim::new(&[]).await;
    let report = victim.report().await;
    assert_eq!(kinds(&report.problems), ["empty", "unsigned"]);
    let bytes = victim.export().await;
    fails_with(&victim.report_export(&bytes, &[]).await, "empty");
    for bytes in [&b""[..], b"\n", b"{}\n"] {
        fails_with(&victim.report_export(bytes, &[]).await, "unsigned");
    }
    // A signed empty tree is still no log.
    let victim = Victim::new(&[0]).await;
    assert_eq!(kinds(&victim.report().await.problems), ["empty"]);
    let mut victim = Victim::new(&[3, 7]).await;
    victim.sql("DELETE FROM checkpoint WHERE size = 7").await;
    let report = victim.report().await;
    assert_eq!((fails_with(&report, "unsigned-tail").seq, report.problems.len()), (Some(3), 1));
    victim.sql("DELETE FROM checkpoint").await;
    assert_eq!(kinds(&victim.report().await.problems), ["unsigned"]);
}

#[tokio::test]
async fn the_pinned_genesis_and_origin_hold() {
    let victim = Victim::new(&[5]).await;
    let source = Source::Sqlite(victim.reader.clone());
    let right = leaf_hash(b"leaf number 0");
    for (genesis, origin, kind) in [
        (Some(right), ORIGIN, None),
        (Some([0; 32]), ORIGIN, Some("genesis")),
        (None, "broker.example/audit/0f3c/e2", Some("unknown-key")),
    ] {
        let pinned = Pinned { origin: origin.into(), genesis, ..victim.pinned() };
        let report = verify(&source, &pinned, &[], &mut NoChecks).await.unwrap();
        match kind {
            Some(kind) => drop(fails_with(&report, kind).clone()),
            None => assert!(report.ok),
        }
    }
}

/// Reads `at=` and blob names out of the test's leaves.
struct TestChecks;

impl LeafCheck for TestChecks {
    fn leaf(&mut self, _seq: u64, bytes: &[u8]) -> LeafFacts {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let named = |mark: &str| {
            let words = text.split(' ').filter_map(|word| word.strip_prefix(mark));
            words.map(|word| blob_hash(word.as_bytes())).collect::<Vec<_>>()
        };
        let at = text.split(' ').find_map(|word| word.strip_prefix("at=")).and_then(|at| at.parse().ok());
        let bad = text.contains("bad").then(|| Problem { seq: None, kind: "bad".into(), detail: text.clone() });
        LeafFacts {
            at,
            required_blobs: named("needs="),
            shreddable_blobs: named("may="),
            problems: bad.into_iter().collect(),
            warnings: Vec::new(),
            begins: None,
        }
    }
}

async fn checked(victim: &Victim) -> [Report; 2] {
    let path = victim.dir.path().join("export.jsonl");
    std::fs::write(&path, victim.export().await).unwrap();
    let store = Source::Sqlite(victim.reader.clone());
    [
        verify(&store, &victim.pinned(), &[], &mut TestChecks).await.unwrap(),
        verify(&Source::Export(path), &victim.pinned(), &[], &mut TestChecks).await.unwrap(),
    ]
}

#[tokio::test]
async fn blobs_missing_altered_and_shredded() {
    let shape = |leaves: &mut Vec<NewLeaf>| {
        leaves[1] = leaf("needs=bundle may=reason");
        let blob = |text: &str, keep| Blob { bytes: text.as_bytes().to_vec(), keep };
        leaves[1].blobs = vec![blob("bundle", Keep::Required), blob("reason", Keep::Shreddable)];
    };
    let attacks = [
        ("DELETE FROM blob WHERE keep = 'shreddable'", None),
        ("DELETE FROM blob WHERE keep = 'required'", Some("blob-missing")),
        ("UPDATE blob SET bytes = x'00' WHERE keep = 'required'", Some("blob-altered")),
        ("UPDATE blob SET bytes = x'00' WHERE keep = 'shreddable'", Some("blob-altered")),
        ("UPDATE blob SET keep = 'shreddable' WHERE keep = 'required'", Some("blob-keep")),
    ];
    for (sql, kind) in attacks {
        let mut victim = Victim::with(&[4], Key::new(ORIGIN, 1), shape).await;
        assert!(checked(&victim).await.iter().all(|report| report.ok));
        victim.sql(sql).await;
        for report in checked(&victim).await {
            match kind {
                None => assert!(report.ok, "{report:#?}"),
                Some(kind) => {
                    fails_with(&report, kind);
                    assert!(report.problems.iter().any(|p| p.seq == Some(1)), "{report:#?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn t198_silence_is_a_warning_and_a_false_time_column_a_problem() {
    let shape = |leaves: &mut Vec<NewLeaf>| {
        for (leaf, at) in leaves.iter_mut().zip([0, 1200, 2401, 2400]) {
            *leaf = super::tests_store::leaf(&format!("at={at}"));
            leaf.row.at = at;
        }
    };
    let mut victim = Victim::with(&[4], Key::new(ORIGIN, 1), shape).await;
    for report in checked(&victim).await {
        assert!(report.ok);
        assert_eq!(kinds(&report.warnings), ["silence", "time", "unattested"]);
        assert_eq!((report.warnings[0].seq, report.warnings[0].detail.as_str()), (Some(2), "1201 s without an event"));
    }
    victim.sql("UPDATE leaf SET at = 1 WHERE seq = 0").await;
    assert_eq!(fails_with(&checked(&victim).await[0], "row").seq, Some(0));
}

#[tokio::test]
async fn what_the_check_says_of_a_leaf_is_a_problem_with_its_number_and_the_list_is_bounded() {
    let shape = |leaves: &mut Vec<NewLeaf>| leaves.iter_mut().for_each(|l| *l = leaf("bad"));
    let victim = Victim::with(&[1100], Key::new(ORIGIN, 1), shape).await;
    for report in checked(&victim).await {
        assert_eq!((report.problems.len(), report.problems[7].seq), (1001, Some(7)));
        assert_eq!(fails_with(&report, "more").detail, "100 more");
    }
}

/// A file that is no database any more is an error, never a verdict.
#[tokio::test]
async fn a_smashed_file_is_never_ok() {
    let victim = Victim::new(&[300]).await;
    let path = victim.dir.path().join("ledger.db");
    victim.conn.close().await.unwrap();
    victim.reader.close().await;
    let good = std::fs::read(&path).unwrap();
    let copy = victim.dir.path().join("copy.db");
    let pinned = Pinned { origin: ORIGIN.into(), public: victim.key.public(), genesis: None };
    for page in 0..good.len() / 4096 {
        let mut bad = good.clone();
        bad[page * 4096..(page + 1) * 4096].fill(0xa5);
        std::fs::write(&copy, &bad).unwrap();
        let report = match Reader::open(&copy).await {
            Ok(reader) => verify(&Source::Sqlite(reader), &pinned, &[], &mut NoChecks).await,
            Err(error) => Err(error),
        };
        // Pages of the search indexes are not read by the verification: only those may pass, and then with all leaves.
        if let Ok(report) = report {
            assert!(!report.ok || report.size == 300, "page {page}");
        }
    }
}

#[tokio::test]
async fn the_tree_alone_shows_every_change_of_a_leaf_and_nothing_else() {
    let mut victim = Victim::new(&[300, 600]).await;
    let quick = async |victim: &Victim, outside: &[OutsideNote]| {
        let store = verify_tree(&Source::Sqlite(victim.reader.clone()), &victim.pinned(), outside).await.unwrap();
        let path = victim.dir.path().join("quick.jsonl");
        std::fs::write(&path, victim.export().await).unwrap();
        let export = verify_tree(&Source::Export(path), &victim.pinned(), outside).await.unwrap();
        assert_eq!(store.ok, export.ok, "{store:#?}\n{export:#?}");
        assert_eq!(store.attested, export.attested);
        store
    };
    let (old, new) = (kept(&victim.notes[0]), kept(&victim.notes[1]));
    assert!(quick(&victim, &[]).await.ok);
    assert_eq!(quick(&victim, &old).await.attested, Some((300, "cli alice".into())));
    let good = victim.leaves().await;
    for at in [0, 299, 300, 599] {
        let mut leaves = good.clone();
        leaves[at] = b"another leaf".to_vec();
        victim.rebuild(&leaves).await;
        fails_with(&quick(&victim, &[]).await, "checkpoint");
        leaves.remove(at);
        victim.rebuild(&leaves).await;
        fails_with(&quick(&victim, &[]).await, "truncated");
    }
    victim.rebuild(&good[..300]).await;
    victim.sql("DELETE FROM checkpoint WHERE size = 600").await;
    assert!(quick(&victim, &[]).await.ok, "nobody here knows more");
    fails_with(&quick(&victim, &new).await, "rolled-back");
    victim.sql("DELETE FROM checkpoint").await;
    fails_with(&quick(&victim, &[]).await, "unsigned");
}
