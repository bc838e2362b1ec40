//! Exports under attack: no byte of one can change unseen, and it heals nothing.

#![allow(clippy::unwrap_used)]

use super::tests::{Key, ORIGIN};
use super::tests_attacks::{Victim, fails_with};
use super::verify::{NoChecks, Source, verify};
use super::*;

#[tokio::test]
async fn no_byte_of_an_export_can_change() {
    let shape = |leaves: &mut Vec<NewLeaf>| {
        leaves[0].blobs = vec![Blob { bytes: b"bundle".to_vec(), keep: Keep::Required }];
    };
    let victim = Victim::with(&[2, 4], Key::new(ORIGIN, 1), shape).await;
    let good = victim.export().await;
    assert!(victim.report_export(&good, &[]).await.ok);
    for at in 0..good.len() {
        for mask in [0x01, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= mask;
            let report = victim.report_export(&bad, &[]).await;
            assert!(!report.ok, "byte {at} of {:?}", String::from_utf8_lossy(&bad));
        }
    }
}

#[tokio::test]
async fn lines_of_an_export_deleted_swapped_doubled_and_cut() {
    let victim = Victim::new(&[3, 6]).await;
    let good = String::from_utf8(victim.export().await).unwrap();
    let lines: Vec<&str> = good.split_inclusive('\n').collect();
    let is_leaf = |i: usize| lines[i].starts_with("{\"seq\"");
    for i in 0..lines.len() {
        // The older checkpoint may be missing: the newer one covers its leaves.
        let older_note = i == lines.len() - 2;
        let without: String = [&lines[..i], &lines[i + 1..]].concat().concat();
        assert_eq!(victim.report_export(without.as_bytes(), &[]).await.ok, older_note, "without line {i}");
        let cut: String = lines[..i].concat();
        assert!(!victim.report_export(cut.as_bytes(), &[]).await.ok, "cut at line {i}");
        if i > 0 && is_leaf(i) {
            let mut swapped = lines.clone();
            swapped.swap(i - 1, i);
            assert!(!victim.report_export(swapped.concat().as_bytes(), &[]).await.ok, "swapped {i}");
        }
        if is_leaf(i) || i == 0 {
            let doubled = [&lines[..=i], &lines[i..]].concat().concat();
            assert!(!victim.report_export(doubled.as_bytes(), &[]).await.ok, "doubled {i}");
        }
    }
    for extra in ["\n", " \n", "{\"seq\":6,\"leaf\":\"\"}\n", "x"] {
        assert!(!victim.report_export(format!("{good}{extra}").as_bytes(), &[]).await.ok, "{extra:?}");
    }
    assert!(!victim.report_export(good.trim_end().as_bytes(), &[]).await.ok, "no line break at the end");
}

/// Spellings that a JSON parser takes as equal: there is one encoding of a line, so that a file has one SHA-256.
#[tokio::test]
async fn an_export_has_one_spelling() {
    let victim = Victim::new(&[2]).await;
    let good = String::from_utf8(victim.export().await).unwrap();
    for (from, to) in [
        ("{\"seq\":1", "{ \"seq\":1"),
        ("\"seq\":1,", "\"seq\":1 ,"),
        ("\"leaf\"", "\"\\u006ceaf\""),
        ("\u{2014}", "\\u2014"),
        ("}\n", "}\r\n"),
    ] {
        let other = good.replacen(from, to, 1);
        assert_ne!(other, good);
        fails_with(&victim.report_export(other.as_bytes(), &[]).await, "export");
    }
}

/// An export of a damaged store gives the verdict of the store.
#[tokio::test]
async fn an_export_does_not_heal() {
    let mut victim = Victim::new(&[3, 6]).await;
    victim.sql("UPDATE leaf SET bytes = x'41' WHERE seq = 4").await;
    let bytes = victim.export().await;
    assert!(fails_with(&victim.report_export(&bytes, &[]).await, "checkpoint").detail.contains("agreed at size 3"));
    victim.sql("DELETE FROM leaf WHERE seq = 2").await;
    let refused = export_jsonl(&victim.reader, u64::MAX, &mut Vec::new()).await;
    assert!(matches!(refused, Err(LedgerError::Corrupt { seq: 2 })));
    let missing = Source::Export(victim.dir.path().join("none"));
    assert!(matches!(verify(&missing, &victim.pinned(), &[], &mut NoChecks).await, Err(LedgerError::Missing)));
}
