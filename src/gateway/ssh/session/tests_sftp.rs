#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn packet(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let body: Vec<u8> = [&[kind][..], &fields.concat()].concat();
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat()
}

fn id(id: u32) -> [u8; 4] {
    id.to_be_bytes()
}

/// An upload of `data` in one piece to `name`.
fn upload(name: &[u8], data: &[u8]) -> [(bool, Vec<u8>); 6] {
    [
        (true, packet(3, &[&id(1), &string(name), &id(0x1a), &id(0)])),
        (false, packet(102, &[&id(1), &string(b"h")])),
        (true, packet(6, &[&id(2), &string(b"h"), &0u64.to_be_bytes(), &string(data)])),
        (false, packet(101, &[&id(2), &id(0), &string(b""), &string(b"")])),
        (true, packet(4, &[&id(3), &string(b"h")])),
        (false, packet(101, &[&id(3), &id(0), &string(b""), &string(b"")])),
    ]
}

fn told(parts: &[(bool, Vec<u8>)], cut: usize) -> Vec<String> {
    let mut sftp = Sftp::default();
    let mut out = Vec::new();
    for (client, bytes) in parts {
        for piece in bytes.chunks(cut.max(1)) {
            out.extend(if *client { sftp.client(piece) } else { sftp.server(piece) });
        }
    }
    out.extend(sftp.end());
    out
}

#[test]
fn an_upload_is_told_with_its_sum_and_its_name_is_harmless() {
    let told = told(&upload(b"a\n\x1b]52;\xff", b"abc"), 7);
    let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let document: serde_json::Value = serde_json::from_str(&told[0]).unwrap();
    assert_eq!(document["op"], "upload");
    assert_eq!((document["bytes"].as_u64(), document["sha256"].as_str()), (Some(3), Some(sum)));
    assert_eq!(document["path"], "a\n\u{1b}]52;\\xff");
    assert!(!told[0].contains(['\n', '\u{1b}']), "{told:?}");
}

#[test]
fn a_rename_and_a_failed_open_are_told() {
    let parts = [
        (true, packet(18, &[&id(1), &string(b"a"), &string(b"../../b")])),
        (false, packet(101, &[&id(1), &id(3), &string(b""), &string(b"")])),
        (true, packet(200, &[&id(2), &string(b"posix-rename@openssh.com"), &string(b"x"), &string(b"y")])),
        (false, packet(101, &[&id(2), &id(0), &string(b""), &string(b"")])),
    ];
    let told = told(&parts, 1000);
    assert_eq!(told[0], r#"{"op":"rename","path":"a","status":3,"to":"../../b"}"#);
    assert_eq!(told[1], r#"{"op":"rename","path":"x","status":0,"to":"y"}"#);
}

#[test]
fn what_is_out_of_order_has_no_sum() {
    let mut parts = upload(b"f", b"abc");
    parts[2].1 = packet(6, &[&id(2), &string(b"h"), &9u64.to_be_bytes(), &string(b"abc")]);
    let document: serde_json::Value = serde_json::from_str(&told(&parts, 1000)[0]).unwrap();
    assert!(document["sha256"].is_null() && document["bytes"] == 3);
}

fn status(n: u32, code: u32) -> (bool, Vec<u8>) {
    (false, packet(101, &[&id(n), &id(code), &string(b""), &string(b"")]))
}

fn open(n: u32, name: &[u8], flags: u32) -> (bool, Vec<u8>) {
    (true, packet(3, &[&id(n), &string(name), &id(flags), &id(0)]))
}

/// What reaches the server of what a client says, and what is told of it: nothing passes after what cannot be followed.
fn passed(parts: &[(bool, Vec<u8>)]) -> (usize, Vec<String>) {
    let (mut sftp, mut told, mut passed) = (Sftp::default(), Vec::new(), 0);
    for (client, bytes) in parts {
        told.extend(if *client { sftp.client(bytes) } else { sftp.server(bytes) });
        if sftp.is_lost() {
            break;
        }
        passed += usize::from(*client);
    }
    told.extend(sftp.end());
    (passed, told)
}

/// OpenSSH's server answers both; whoever remembers one of them alone takes the wrong one for answered.
#[test]
fn a_request_in_the_place_of_another_does_not_pass() {
    let handle = (true, packet(4, &[&id(1), &string(b"h")]));
    let second = [
        (true, packet(11, &[&id(1), &string(b"/tmp")])),
        (true, packet(13, &[&id(1), &string(b"/tmp/x")])),
        (true, packet(17, &[&id(1), &string(b"/nowhere")])),
        (true, packet(12, &[&id(1), &string(b"d")])),
        (true, packet(200, &[&id(1), &string(b"limits@openssh.com")])),
        handle,
    ];
    for second in second {
        let (passed, told) = passed(&[open(1, b"/etc/secret", 1), second.clone()]);
        assert_eq!(passed, 1, "{second:?}");
        assert_eq!(told, [r#"{"op":"unreadable"}"#, r#"{"op":"open","path":"/etc/secret","status":null}"#]);
    }
    // One after the other's answer is another matter.
    let after = [
        (true, packet(13, &[&id(1), &string(b"a")])),
        status(1, 0),
        (true, packet(17, &[&id(1), &string(b"a")])),
        (false, packet(105, &[&id(1), &id(0)])),
        (true, packet(13, &[&id(1), &string(b"b")])),
        status(1, 2),
    ];
    let (passed, told) = passed(&after);
    assert_eq!((passed, told.len()), (3, 2), "{told:?}");
    assert!(told[0].contains(r#""path":"a","status":0"#) && told[1].contains(r#""path":"b","status":2"#), "{told:?}");
}

/// OpenSSH's handles are small numbers that come again: one can be named before it is given.
#[test]
fn a_write_to_a_handle_that_is_not_open_does_not_pass() {
    let write = |n: u32| (true, packet(6, &[&id(n), &string(b"h"), &0u64.to_be_bytes(), &string(b"abc")]));
    let given = (false, packet(102, &[&id(1), &string(b"h")]));
    assert_eq!(passed(&[open(1, b"x", 0x1a), write(2), given.clone()]).0, 1);
    let closing = (true, packet(4, &[&id(2), &string(b"h")]));
    let (passed, told) = passed(&[open(1, b"x", 0x1a), given, closing, open(3, b"y", 0x1a), write(4)]);
    assert_eq!(passed, 3, "{told:?}");
}

/// What stands behind the content in its packet is no content: servers leave it out.
#[test]
fn content_is_as_long_as_it_says() {
    let mut parts = upload(b"f", b"abc");
    let write = |length: u32, rest: &[u8]| packet(6, &[&id(2), &string(b"h"), &0u64.to_be_bytes(), &id(length), rest]);
    parts[2].1 = write(3, b"abcjunk");
    let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    for cut in [1, 7, 1000] {
        let told = told(&parts, cut);
        assert!(told.len() == 1 && told[0].contains(r#""bytes":3"#) && told[0].contains(sum), "{cut}: {told:?}");
    }
    parts[2].1 = write(100, b"abc");
    assert!(told(&parts, 7).contains(&r#"{"op":"unreadable"}"#.to_owned()));
    let read = [
        open(1, b"f", 1),
        (false, packet(102, &[&id(1), &string(b"h")])),
        (true, packet(5, &[&id(2), &string(b"h"), &0u64.to_be_bytes(), &id(3)])),
        (false, packet(103, &[&id(2), &string(b"abc"), b"junk"])),
        (true, packet(4, &[&id(3), &string(b"h")])),
        status(3, 0),
    ];
    for cut in [1, 7, 1000] {
        let told = told(&read, cut);
        assert!(told.len() == 1 && told[0].contains(r#""bytes":3"#) && told[0].contains(sum), "{cut}: {told:?}");
    }
}

/// What is needed stands at the beginning of a request; what a server leaves out behind it hides nothing.
#[test]
fn a_long_tail_hides_no_request() {
    let (kind, name) = open(1, b"/etc/secret", 1);
    let long = packet(3, &[&name[5..], &[0; 100_000]]);
    let (_, told) = passed(&[(kind, long), status(1, 3)]);
    assert_eq!(told, [r#"{"op":"open","path":"/etc/secret","status":3}"#]);
}

/// Whoever leaves before the answer has had it done all the same.
#[test]
fn what_was_asked_and_not_answered_is_told() {
    let asked = [(true, packet(13, &[&id(1), &string(b"a")])), open(2, b"b", 2)];
    let wanted = [r#"{"op":"remove","path":"a","status":null}"#, r#"{"op":"open","path":"b","status":null}"#];
    assert_eq!(told(&asked, 1000), wanted);
}

#[test]
fn requests_without_an_answer_are_bounded() {
    let mut sftp = Sftp::default();
    let names = (0..).take_while(|n| {
        sftp.client(&packet(13, &[&id(*n), &string(&[b'x'; 60_000])]));
        !sftp.is_lost()
    });
    assert!((10..200).contains(&names.count()));
    let mut sftp = Sftp::default();
    let reads = (0..).take_while(|n| {
        sftp.client(&packet(5, &[&id(*n), &string(b"hand"), &0u64.to_be_bytes(), &id(9)]));
        !sftp.is_lost()
    });
    assert!((10_000..100_000).contains(&reads.count()));
}

#[test]
fn what_is_opened_is_followed_however_much_was_asked_meanwhile() {
    let mut sftp = Sftp::default();
    sftp.client(&packet(3, &[&id(1), &string(b"secret"), &id(1), &id(0)]));
    // As much as is remembered: long names first, then ever shorter ones.
    let mut asked = 1;
    for length in [60_000, 128, 0] {
        loop {
            asked += 1;
            let list = Asked::List { path: vec![b'x'; length] };
            if sftp.flow.held + list.size() > MEMORY {
                break;
            }
            sftp.client(&packet(11, &[&id(asked), &string(&vec![b'x'; length])]));
        }
    }
    assert!(!sftp.is_lost());
    let mut told = sftp.server(&packet(102, &[&id(1), &string(b"h")]));
    for n in 2..asked {
        sftp.server(&packet(101, &[&id(n), &id(4), &string(b""), &string(b"")]));
    }
    sftp.client(&packet(5, &[&id(1), &string(b"h"), &0u64.to_be_bytes(), &id(3)]));
    told.extend(sftp.server(&packet(103, &[&id(1), &string(b"abc")])));
    sftp.client(&packet(4, &[&id(1), &string(b"h")]));
    told.extend(sftp.server(&packet(101, &[&id(1), &id(0), &string(b""), &string(b"")])));
    let told: Vec<serde_json::Value> = told.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    assert!(!sftp.is_lost(), "{told:?}");
    let download = told.iter().find(|document| document["op"] == "download").unwrap();
    assert_eq!((&download["path"], download["bytes"].as_u64()), (&"secret".into(), Some(3)));
}

proptest! {
    #[test]
    fn pieces_make_no_difference(cut in 1usize..40, data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let parts = upload(b"name", &data);
        prop_assert_eq!(told(&parts, cut), told(&parts, 100_000));
    }

    #[test]
    fn no_bytes_break_it(client in proptest::collection::vec(any::<u8>(), 0..400), server in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut sftp = Sftp::default();
        sftp.client(&client);
        sftp.server(&server);
        sftp.end();
    }

    #[test]
    fn no_packets_break_it(kinds in proptest::collection::vec((any::<bool>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..30)) {
        let mut sftp = Sftp::default();
        for (client, kind, body) in kinds {
            let bytes = packet(kind, &[&body]);
            let told = if client { sftp.client(&bytes) } else { sftp.server(&bytes) };
            for document in told {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&document).is_ok());
            }
        }
    }
}
