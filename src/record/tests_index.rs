#![allow(clippy::unwrap_used)]
use super::*;
use crate::record::format::tests::header;
use crate::record::frame::Frame;

async fn recorded(store: &Store, n: u8, frames: &[Frame<'_>]) -> SessionId {
    let recorder = store.begin(header(n)).unwrap();
    for frame in frames {
        recorder.put(*frame).await.unwrap();
    }
    recorder.seal().await.unwrap();
    header(n).session
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_files_and_text_are_found_in_the_sessions_one_may_see() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("r")).unwrap();
    let one = [
        Frame::Open { channel: 1, what: "exec", command: Some(b"DROP table \x1b[2J"), size: None },
        Frame::Output { channel: 1, data: b"the \x1b[1mSecret\x1b[0m wo" },
        Frame::Output { channel: 1, data: b"rd 1234\nnext\n" },
        Frame::FileOp { channel: 2, json: "{\"op\":\"put\",\"path\":\"/etc/passwd\"}" },
    ];
    let first = recorded(&store, 1, &one).await;
    let second = recorded(&store, 2, &[Frame::Note { text: "a secret too" }]).await;
    let all = |_| true;
    let found = store.search("SECRET", 100, &all);
    assert_eq!(found.iter().map(|f| f.session).collect::<std::collections::BTreeSet<_>>(), [first, second].into());
    assert!(found.iter().any(|f| f.line == "the Secret word 1234"), "{found:?}");
    assert_eq!(store.search("secret", 100, &|id| id == second).len(), 1);
    assert_eq!(store.search("secret", 1, &all).len(), 1);
    assert_eq!(store.search("/etc/passwd", 100, &all).len(), 1);
    let command = store.search("drop TABLE", 100, &all);
    assert_eq!(command[0].line, "exec: DROP table \\x1b[2J");
    assert!(store.search("", 100, &all).is_empty() && store.search("nowhere", 100, &all).is_empty());
    assert!(store.search("\t", 100, &all).is_empty() && store.search("0", 100, &all).is_empty(), "times are no text");
    assert_eq!(store.search("4", 100, &all).len(), 1);
    // It is a cache.
    let index = store.path(first).unwrap().with_extension("txt");
    std::fs::remove_file(&index).unwrap();
    assert_eq!(store.search("Secret word", 100, &all).len(), 1);
    assert!(index.exists());
    std::fs::remove_file(&index).unwrap();
    assert_eq!(store.reindex(), 1);
}

#[test]
fn a_long_session_has_a_short_index_that_keeps_the_last_command() {
    let long = "0123456789 abcdefghij\n".repeat(500_000);
    let frames = [
        Frame::Output { channel: 1, data: long.as_bytes() },
        Frame::Open { channel: 2, what: "exec", command: Some(b"last"), size: None },
    ];
    let bytes = crate::record::format::tests::file(&frames);
    let mut out = Vec::new();
    write(Reader::new(bytes.as_slice()), &mut out).unwrap();
    assert!(out.len() <= MOST + 1000 && out.len() > MOST / 2, "{}", out.len());
    assert!(out.ends_with(b"\texec: last\n"));
}

#[test]
fn what_is_drawn_on_a_full_screen_is_found_row_by_row() {
    let filler: String = (1..200).map(|row| format!("\x1b[{};1H{}", row % 30 + 1, "x".repeat(80))).collect();
    let drawn = format!(
        "\x1b[?1049h\x1b[2J{filler}\x1b[7;3Hthe needle\x1b[7;20H= \x1b[1m42\x1b[0m\x1b[8;1Hnext row\x1b[?1049l$ "
    );
    let bytes = crate::record::format::tests::file(&[Frame::Output { channel: 1, data: drawn.as_bytes() }]);
    let mut out = Vec::new();
    write(Reader::new(bytes.as_slice()), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().filter_map(|line| line.split_once('\t')).map(|(_, line)| line).collect();
    assert!(lines.contains(&"the needle"), "{lines:?}");
    assert!(lines.contains(&"= 42") && lines.contains(&"next row"), "{lines:?}");
}
