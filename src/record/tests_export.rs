#![allow(clippy::unwrap_used)]
use super::*;
use crate::record::format::tests::{file, header};
use crate::record::frame::Frame;

fn session() -> Vec<u8> {
    file(&[
        Frame::Open { channel: 1, what: "shell", command: None, size: Some((100, 30)) },
        Frame::Output { channel: 1, data: b"$ caf\xc3" },
        Frame::Output { channel: 1, data: b"\xa9 \xff\x1b[31m\"red\"\x1b[0m\r\n" },
        Frame::Input { channel: 1, data: b"q" },
        Frame::Output { channel: 2, data: b"other\n" },
        Frame::Resize { channel: 1, cols: 65535, rows: 65535 },
        Frame::FileOp { channel: 3, json: "{\"path\":\"/a\\u001b[2J\"}" },
        Frame::Note { text: "5 minutes left" },
        Frame::Output { channel: 1, data: b"wrong\rright\x1b[K\r\nend\xe2" },
        Frame::Exit { channel: 1, status: Some(0), signal: None },
    ])
}

fn exported(bytes: &[u8], how: impl for<'a> Fn(Reader<&'a [u8]>, &mut dyn Write) -> Result<(), ExportError>) -> String {
    let mut out = Vec::new();
    how(Reader::new(bytes), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_cast_is_what_players_read() {
    let text = exported(&session(), |reader, out| cast(reader, None, Escapes::Harmless, out));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["version"], &lines[0]["width"], &lines[0]["height"]), (&json!(2), &json!(100), &json!(30)));
    assert_eq!(lines[0]["timestamp"], 1_790_000_000);
    let events: Vec<_> = lines[1..].iter().map(|l| (l[1].as_str().unwrap(), l[2].as_str().unwrap())).collect();
    let expected = [
        ("o", "$ caf"),
        ("o", "é \u{fffd}\x1b[31m\"red\"\x1b[0m\r\n"),
        ("i", "q"),
        ("r", "1000x500"),
        ("o", "wrong\rright\x1b[K\r\nend"),
        ("o", "\u{fffd}"),
    ];
    assert_eq!(events, expected);
    let times: Vec<f64> = lines[1..].iter().map(|l| l[0].as_f64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] == 0.000_002, "{times:?}");
    let other = exported(&session(), |reader, out| cast(reader, Some(2), Escapes::Harmless, out));
    assert!(other.ends_with("\"other\\r\\n\"]\n"), "{other}");
    assert_eq!(
        exported(&file(&[]), |reader, out| cast(reader, None, Escapes::Untouched, out)).lines().count(),
        1,
        "nothing happened"
    );
}

#[test]
fn json_lines_have_every_frame() {
    let text = exported(&session(), |reader, out| jsonl(reader, out));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["schema"], "jit-broker/recording/v1");
    assert_eq!(lines[0]["session"], header(1).session.to_string());
    assert_eq!(lines.len(), 11);
    assert_eq!(lines[2]["data_base64"], data_encoding::BASE64.encode(b"$ caf\xc3"));
    assert_eq!(lines[7]["detail"]["path"], "/a\u{1b}[2J");
}

#[test]
fn text_is_what_the_screen_showed_and_harms_no_terminal() {
    let text = exported(&session(), |reader, out| super::text(reader, out));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("alice on web-07 as deploy"));
    assert!(lines.contains(&"$ café \u{fffd}\"red\""), "{text}");
    assert!(lines.contains(&"right") && !text.contains("wrong"), "{text}");
    assert!(lines.contains(&"other") && lines.contains(&"[note: 5 minutes left]"));
    assert!(!text.contains('\x1b') && text.contains("\\\\u001b") | text.contains("\\u001b"), "{text}");
}

/// One of each that a viewer's terminal must not get: an answer that would be typed into their shell, the clipboard, the title, a link,
/// mouse tracking, the other screen, and what is cut in two between frames.
const HOSTILE: [&[u8]; 4] = [
    b"a\x1b[c\x1b[6n\x1b]52;c;ZXZpbA==\x07b\x1b]0;title\x1b\\c",
    b"\x1b]8;;http://x\x1b\\d\x1b[?1000h\x1b[?1049h\x1b[2",
    b"0t\x1bP$q\x1b\\e\x9d52;c;eA==\x9cf",
    b"\xc2\x9b6ng\x1b[31mred\x1b[0m\r\n",
];

#[test]
fn a_cast_harms_no_terminal_unless_every_byte_is_wanted() {
    let frames: Vec<Frame<'_>> = HOSTILE.iter().map(|data| Frame::Output { channel: 1, data }).collect();
    let all = |escapes| {
        let text = exported(&file(&frames), |reader, out| cast(reader, Some(1), escapes, out));
        let lines = text.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line[2].as_str().unwrap().to_owned()).collect::<String>()
    };
    let kept = all(Escapes::Harmless);
    for gone in ["\x1b[c", "[6n", "]52", "title", "http", "?1000", "?1049", "20t", "$q", "\u{9b}", "\u{9d}"] {
        assert!(!kept.contains(gone), "{gone:?} in {kept:?}");
    }
    assert!(kept.ends_with("g\x1b[31mred\x1b[0m\r\r\n"), "{kept:?}");
    assert!(kept.starts_with("abc") && kept.contains('d') && kept.contains('e'), "{kept:?}");
    let whole: Vec<u8> =
        HOSTILE.concat().iter().flat_map(|b| if *b == b'\n' { vec![b'\r', b'\n'] } else { vec![*b] }).collect();
    assert_eq!(all(Escapes::Untouched), String::from_utf8_lossy(&whole), "as it passed");
}
