//! `audit verify --offline` of the built program on copies that somebody changed, and the clients of a broker whose ledger was rolled back.

use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::model::Dice;
use crate::served::Served;

/// A copy of a stopped ledger, with its write-ahead log if there is one.
fn copy(from: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let name = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        let _ = std::fs::remove_file(name(to));
        if name(from).exists() {
            std::fs::copy(name(from), name(to)).unwrap();
        }
    }
    let _ = std::fs::remove_file(format!("{}-shm", to.display()));
}

/// Whoever can write the file can drop the triggers.
pub(crate) async fn edit(path: &Path, sql: &'static str) {
    let mut conn = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    for trigger in ["leaf_insert", "leaf_update", "leaf_delete", "checkpoint_delete"] {
        let sql = sqlx::AssertSqlSafe(format!("DROP TRIGGER {trigger}"));
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    }
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

async fn flip(path: &Path, dice: &mut Dice) -> String {
    let mut conn = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::raw_sql("DROP TRIGGER leaf_update").execute(&mut conn).await.unwrap();
    let leaves: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT seq, bytes FROM leaf ORDER BY seq").fetch_all(&mut conn).await.unwrap();
    let pick = |dice: &mut Dice, n: usize| usize::try_from(dice.roll(u64::try_from(n).unwrap())).unwrap();
    let (seq, mut bytes) = leaves[pick(dice, leaves.len())].clone();
    let at = pick(dice, bytes.len());
    bytes[at] ^= 1 << dice.roll(8);
    let update = sqlx::query("UPDATE leaf SET bytes = ? WHERE seq = ?").bind(bytes).bind(seq);
    update.execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    format!("leaf {seq}, byte {at}")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_copy_is_found() {
    let mut served = Served::init();
    served.serve();
    served.adopt();
    let alice = served.client(&served.alice).unwrap();
    for n in 0..4 {
        let grant = alice.ask(600 + 10 * n).unwrap();
        alice.certificate(grant).unwrap();
    }
    drop(alice);
    // Bob has seen it all; dave has the key and has seen nothing.
    served.sign_in("bob");
    served.cli("bob", "jit-broker audit export --to ../export.jsonl").ok();
    served.cli("bob", "jit-broker ca list | sed -n 's/^log\t//p' > ../log.pub").ok();
    std::fs::create_dir(served.dir.join("dave")).unwrap();
    // Not an orderly stop, whose last entry bob would not have seen.
    served.kill();
    let (copied, export) = (served.dir.join("copy.db"), served.dir.join("export.jsonl"));
    let verify = |who: &str, file: &str| {
        let key = if who == "dave" { "--key ../log.pub" } else { "" };
        served.cli(who, &format!("jit-broker audit verify --offline ../{file} {key}")).code
    };
    copy(&served.ledger(), &copied);
    assert_eq!(verify("bob", "copy.db"), Some(0));
    assert_eq!(verify("dave", "copy.db"), Some(11), "the tail is attested by nobody that dave knows");
    assert_eq!(verify("bob", "export.jsonl"), Some(0));

    let mut dice = Dice(u64::from_le_bytes(jit_broker::clock::random16()[..8].try_into().unwrap()) | 1);
    for _ in 0..8 {
        copy(&served.ledger(), &copied);
        let what = flip(&copied, &mut dice).await;
        assert_eq!(verify("dave", "copy.db"), Some(1), "{what}");
    }
    for (what, sql) in [
        ("the beginning cannot be read", "UPDATE leaf SET bytes = x'7b' WHERE seq = 0"),
        ("a row is gone", "DELETE FROM leaf WHERE seq = 5"),
        (
            "a row is gone and the rest is numbered anew",
            "DELETE FROM leaf WHERE seq = 5; UPDATE leaf SET seq = -seq WHERE seq > 5; UPDATE leaf SET seq = -seq - 1 WHERE seq < 0",
        ),
        (
            "two are swapped",
            "UPDATE leaf SET seq = -1 WHERE seq = 5; UPDATE leaf SET seq = 5 WHERE seq = 6; UPDATE leaf SET seq = 6 WHERE seq = -1",
        ),
        (
            "one is inserted",
            "INSERT INTO leaf SELECT max(seq) + 1, bytes, hash, prev_hash, at, kind, actor, request_id, grant_id, session_id, target FROM leaf",
        ),
    ] {
        copy(&served.ledger(), &copied);
        edit(&copied, sql).await;
        for who in ["bob", "dave"] {
            assert_eq!(verify(who, "copy.db"), Some(1), "{what}, says {who}");
        }
    }
    // The tail is cut, together with the checkpoints that speak of it: only who remembers one can know.
    copy(&served.ledger(), &copied);
    edit(
        &copied,
        "DELETE FROM leaf WHERE seq >= (SELECT max(size) FROM checkpoint WHERE size < 8); DELETE FROM checkpoint WHERE size >= 8",
    )
    .await;
    assert_eq!(verify("bob", "copy.db"), Some(1), "bob remembers more");
    assert_eq!(verify("dave", "copy.db"), Some(11), "never a plain good");

    let bytes = std::fs::read(&export).unwrap();
    for _ in 0..8 {
        let mut changed = bytes.clone();
        let at = usize::try_from(dice.roll(u64::try_from(bytes.len()).unwrap())).unwrap();
        changed[at] ^= 1 << dice.roll(7);
        std::fs::write(&export, changed).unwrap();
        let code = verify("bob", "export.jsonl");
        assert_eq!(code, Some(1), "byte {at} of the export");
    }
}

#[test]
fn an_older_copy_is_noticed_by_the_signer_and_by_everybody() {
    let mut served = Served::init();
    served.serve();
    served.adopt();
    served.stop();
    let (old, head) = (served.dir.join("old.db"), served.broker_dir().join("state/ca/head.json"));
    copy(&served.ledger(), &old);
    let old_head = std::fs::read(&head).unwrap();
    served.serve();
    served.sign_in("alice");
    served.sign_in("bob");
    served.cli("alice", "jit-broker cert web-07 --role ops --for 15m --out -").ok();
    served.cli("bob", "jit-broker audit tail").ok();
    served.stop();
    copy(&old, &served.ledger());
    let (mut child, ready) = served.try_serve();
    let said = ready.unwrap_err();
    assert!(said.contains("JB5005"), "the signer knows more than the ledger shows: {said}");
    assert_eq!(child.wait().unwrap().code(), Some(70));
    // Somebody who is root makes the signer forget as well. Everybody else remembers.
    std::fs::write(head, old_head).unwrap();
    served.serve();
    for (who, line) in [("bob", "jit-broker audit tail"), ("alice", "jit-broker status"), ("alice", "jit-broker ls")] {
        let done = served.cli(who, line);
        assert_eq!((done.code, done.err.contains("JB7002")), (Some(9), true), "{who}: {}{}", done.out, done.err);
    }
}

/// A log that cannot be read is not one that was rolled back, and is not told as that.
#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_cannot_be_read_is_no_other_log() {
    let mut served = Served::init();
    served.serve();
    served.adopt();
    served.sign_in("bob");
    served.client(&served.alice).unwrap().ask(600).unwrap();
    edit(&served.ledger(), "DELETE FROM leaf WHERE seq > 0 AND seq < (SELECT max(seq) FROM leaf)").await;
    let done = served.cli("bob", "jit-broker status");
    assert_eq!(done.code, Some(70), "{done:?}");
    assert!(done.err.contains("JB6004") && !done.err.contains("rolled back"), "{done:?}");
    assert!(!served.dir.join("bob/jit/state/conflicting-checkpoint").exists());
}
