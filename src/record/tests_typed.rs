#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

/// Plays a conversation: `>` typed, `<` printed; gives what is stored, `~` for a mark.
fn stored(talk: &[(char, &str)]) -> String {
    let mut typed = Typed::default();
    let mut out = String::new();
    let mut add = |releases: Vec<Release>| {
        for release in releases {
            match release {
                Release::Shown(bytes) => out.push_str(&String::from_utf8_lossy(&bytes)),
                Release::Hidden => out.push('~'),
            }
        }
    };
    for (who, text) in talk {
        add(if *who == '>' { typed.input(text.as_bytes()) } else { typed.output(text.as_bytes()) });
    }
    add(typed.close());
    out
}

#[test]
fn what_is_shown_is_stored() {
    assert_eq!(stored(&[('>', "l"), ('<', "l"), ('>', "s"), ('<', "s"), ('>', "\r"), ('<', "\r\nfile\r\n$ ")]), "ls\r");
    assert_eq!(stored(&[('>', "ls -l\r"), ('<', "ls -l\r\ntotal 0\r\n")]), "ls -l\r", "pasted");
    assert_eq!(stored(&[('>', "l"), ('>', "s"), ('<', "l"), ('<', "s"), ('>', "\r")]), "ls\r", "a slow line");
    assert_eq!(stored(&[('>', "ä"), ('<', "ä"), ('>', "\r")]), "ä\r");
    assert_eq!(stored(&[('>', "a\rb\r"), ('<', "a\r\nb\r\n")]), "a\rb\r", "two lines ahead");
}

#[test]
fn corrections_and_keys_are_stored() {
    let talk = [
        ('>', "lx"),
        ('<', "lx"),
        ('>', "\x7f"),
        ('<', "\x08 \x08"),
        ('>', "s"),
        ('<', "s"),
        ('>', "\r"),
        ('<', "\r\n"),
    ];
    assert_eq!(stored(&talk), "lx\x7fs\r");
    assert_eq!(stored(&[('>', "\x1b[A"), ('<', "ls -la"), ('>', "\r"), ('<', "\r\n")]), "\x1b[A\r");
    assert_eq!(stored(&[('>', "ca"), ('<', "ca"), ('>', "\t"), ('<', "t /etc/"), ('>', "x"), ('<', "x")]), "ca\tx");
    assert_eq!(stored(&[('>', "l"), ('<', "\x1b[32ml\x1b[0m"), ('>', "\r")]), "l\r", "a coloured echo");
    assert_eq!(stored(&[('>', "\x1bOA\x03"), ('<', "^C\r\n")]), "\x1bOA\x03");
}

#[test]
fn a_password_is_not() {
    let talk = [
        ('>', "sudo id\r"),
        ('<', "sudo id\r\n[sudo] password: "),
        ('>', "hunter2\r"),
        ('<', "\r\nuid=0\r\n$ "),
        ('>', "x"),
        ('<', "x"),
    ];
    assert_eq!(stored(&talk), "sudo id\r~\rx");
    for letters in [
        &[('>', "h"), ('>', "u"), ('>', "2"), ('>', "\r"), ('<', "\r\nSorry")][..],
        &[('>', "h"), ('<', "*"), ('>', "u2"), ('<', "*"), ('>', "\r"), ('<', "\r\n")],
    ] {
        assert_eq!(stored(letters), "~\r", "{letters:?}");
    }
    assert_eq!(stored(&[('>', "hunter2")]), "~", "and the session ends");
    assert_eq!(stored(&[('>', "hu\x7f\x7fnter2\r"), ('<', "\r\n")]), "~\r", "nor how long it is");
    // The answer that looks like its beginning gives nothing away while more was typed.
    assert_eq!(stored(&[('>', "so"), ('<', "s"), ('<', "yncing\r\n"), ('>', "x\r"), ('<', "$ ")]), "~\r");
    assert_eq!(
        stored(&[('>', "hunter2\rls\r"), ('<', "\r\n$ "), ('<', "ls\r\n")]),
        "~\r~\r",
        "typed ahead, after a prompt: not known"
    );
    let long = "x".repeat(10_000);
    assert_eq!(stored(&[('>', &long), ('>', "\r"), ('<', "\r\n")]), "~\r");
}

proptest! {
    /// Nothing that is not in the output is ever stored, but keys that print nothing.
    #[test]
    fn no_letter_is_stored_that_was_not_printed(talk in prop::collection::vec((any::<bool>(), "[abc\r\n\x1b\x7f\\[]{0,6}"), 0..40)) {
        let turns: Vec<(char, &str)> = talk.iter().map(|(typed, text)| (if *typed { '>' } else { '<' }, text.as_str())).collect();
        let printed: String = turns.iter().filter(|(who, _)| *who == '<').map(|(_, text)| *text).collect();
        let kept = stored(&turns);
        for letter in ['a', 'b', 'c'] {
            // After ESC a letter is a key; those are stored without an echo.
            if !talk.iter().any(|(_, text)| text.contains('\x1b')) {
                let count = |text: &str| text.chars().filter(|c| *c == letter).count();
                prop_assert!(count(&kept) <= count(&printed), "{kept:?}");
            }
        }
    }
}
