#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn shown(bytes: &[u8]) -> String {
    Screen::default().push(bytes)
}

/// What may come out, said another way than the filter says it.
fn harmless(text: &str) -> bool {
    let pattern = concat!(
        r"\A(?:[^\x00-\x1f\x7f-\u{9f}]|[\x08-\x0f]|\x1b[78DEM]|\x1b[()][0B]|\x1b\[[su]|",
        r"\x1b\[[0-2]?;*[JK]|\x1b\[[0-9;:]*[A-IK-MPSTXZ@`abdefmr])*\z"
    );
    regex::Regex::new(pattern).unwrap().is_match(text)
}

#[test]
fn colour_and_movement_stay() {
    for kept in [
        "plain ä 漢字\r\n\tx\x08",
        "\x1b[1;31mred\x1b[0m\x1b[38;2;1;2;3m\x1b[4:3m",
        "\x1b[2J\x1b[H\x1b[10;20H\x1b[K\x1b[3A\x1b[5P\x1b[2L\x1b[1;24r\x1b[s\x1b[u",
        "\x1b7\x1b8\x1bM\x1b(0qqq\x1b(B\x0e\x0f",
    ] {
        assert_eq!(shown(kept.as_bytes()), kept);
    }
}

#[test]
fn what_reaches_further_than_the_screen_goes() {
    let table: [(&str, &[u8]); 29] = [
        ("OSC 52, the clipboard", b"\x1b]52;c;ZXZpbA==\x07"),
        ("OSC 8, a link", b"\x1b]8;;http://x\x1b\\"),
        ("the title", b"\x1b]0;title\x07"),
        ("the title, 8 bit", b"\xc2\x9d0;title\xc2\x9c"),
        ("DECRQSS", b"\x1bP$qm\x1b\\"),
        ("cursor report", b"\x1b[6n"),
        ("cursor report, 8 bit", b"\xc2\x9b6n"),
        ("DEC report", b"\x1b[?6n"),
        ("attributes", b"\x1b[c\x1b[>c\x1b[=c\x1b[0c"),
        ("DECID", b"\x1bZ"),
        ("ENQ", b"\x05"),
        ("window report", b"\x1b[21t\x1b[14t"),
        ("DECREQTPARM", b"\x1b[x"),
        ("DECRQM", b"\x1b[?1$p\x1b[4$p"),
        ("XTVERSION", b"\x1b[>q"),
        ("mouse", b"\x1b[?1000h\x1b[?1003h\x1b[?1006h"),
        ("mouse tracking", b"\x1b[1;2;3;4;5T"),
        ("bracketed paste", b"\x1b[?2004h"),
        ("focus", b"\x1b[?1004h"),
        ("keyboard modes", b"\x1b[>4;2m\x1b[>1u\x1b[=1u\x1b[?u"),
        ("insert and answer modes", b"\x1b[4h\x1b[20h"),
        ("the viewer's scrollback", b"\x1b[3J"),
        ("APC, PM, SOS", b"\x1b_Gx\x1b\\\x1b^x\x1b\\\x1bXx\x1b\\"),
        ("media copy", b"\x1b[5i\x1b[?5i"),
        ("LEDs, style", b"\x1b[1q\x1b[2 q"),
        ("key pad", b"\x1b=\x1b>"),
        ("coding", b"\x1b%G\x1b%@\x1b#8\x1b F"),
        ("bell and nothing", b"\x07\x00\x7f"),
        ("far too many", b"\x1b[99999999b"),
    ];
    for (what, bytes) in table {
        assert_eq!(shown(&[b"a", bytes, b"b"].concat()), "ab", "{what}");
    }
    // A raw 8-bit control is no UTF-8, and no control any more.
    assert_eq!(shown(b"a\x9b6nb\x9d52;c;x\x07"), "a\u{fffd}6nb\u{fffd}52;c;x");
    assert_eq!(shown(b"\x1b[?1049hvi\x1b[?1049l"), "\x1b[2J\x1b[Hvi\x1b[2J\x1b[H");
    assert_eq!(shown(b"\x1b]0;x\x18shown"), "shown", "cancelled");
    assert_eq!(shown(b"\x1b]0;x\x1b[1mshown"), "\x1b[1mshown", "as terminals do");
}

#[test]
fn a_string_that_does_not_end_hides_nothing_for_ever() {
    let long = [b"\x1bP".as_slice(), &[b'x'; MAX_STRING + 10], b"rm -rf /"].concat();
    assert!(shown(&long).ends_with("rm -rf /"));
    assert!(harmless(AFTER.trim_end_matches("\r\n")));
}

fn wild() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..6),
        Just(b"\x1b[".to_vec()),
        Just(b"\x1b]".to_vec()),
        Just(b"\x1bP".to_vec()),
        Just(b"\xc2\x9b".to_vec()),
        Just(b"\x9b".to_vec()),
        Just(b"\x1b\\".to_vec()),
        "[0-9;:?<>=$ !]{0,6}[@-~]".prop_map(String::into_bytes),
        Just("漢".as_bytes().to_vec()),
    ];
    prop::collection::vec(pieces, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn only_what_is_allowed_comes_out_however_it_is_cut(bytes in wild(), cut in 1usize..9) {
        let whole = shown(&bytes);
        prop_assert!(harmless(&whole), "{whole:?}");
        let mut screen = Screen::default();
        let pieces: String = bytes.chunks(cut).map(|piece| screen.push(piece)).collect();
        prop_assert_eq!(pieces, whole);
    }
}
