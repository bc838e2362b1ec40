#![allow(clippy::unwrap_used)]
use super::*;
use crate::domain::ids::{GrantId, SessionId};
use proptest::prelude::*;

pub fn header(n: u8) -> Header {
    Header {
        session: SessionId::new([n; 16]),
        grant: GrantId::new([2; 16]),
        person: "alice".parse().unwrap(),
        target: "web-07".parse().unwrap(),
        login: "deploy".parse().unwrap(),
        from: "192.0.2.7:40000".to_owned(),
        opened_at_ms: 1_790_000_000_000,
        way: "ssh".to_owned(),
    }
}

/// A whole file of these frames, one µs apart.
pub fn file(frames: &[Frame<'_>]) -> Vec<u8> {
    let (mut out, mut last) = begin(&header(1));
    let mut chunk = vec![0; PREFIX];
    let mut close = |chunk: &mut Vec<u8>| {
        if chunk.len() > PREFIX {
            assert!(chunk.len() - PREFIX <= CHUNK);
            last = close_chunk(chunk, &last);
            out.append(chunk);
            chunk.resize(PREFIX, 0);
        }
    };
    for frame in frames {
        let mut encoded = Encoded::of(*frame).unwrap();
        while !encoded.put(&mut chunk, 1).0 {
            close(&mut chunk);
        }
    }
    close(&mut chunk);
    out
}

fn read(bytes: &[u8], step: usize) -> Result<Vec<Stamped>, Broken> {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        decoder.push(piece);
        while let Some(frames) = decoder.chunk()? {
            out.extend(frames);
        }
    }
    Ok(out)
}

#[test]
fn every_kind_comes_back_as_it_went() {
    let long = "n".repeat(100_000);
    let wild = [0xff, 0, 0x1b];
    let frames = [
        Frame::Open { channel: 3, what: "exec", command: Some(&wild), size: None },
        Frame::Open { channel: u32::MAX, what: "shell", command: Some(b"top"), size: Some((80, 24)) },
        Frame::Output { channel: 3, data: b"out" },
        Frame::Errors { channel: 3, data: b"err" },
        Frame::Input { channel: 3, data: b"in" },
        Frame::Resize { channel: 3, cols: 200, rows: 50 },
        Frame::FileOp { channel: 3, json: "{}" },
        Frame::Forward { channel: 3, json: "{\"to\":1}" },
        Frame::Exit { channel: 3, status: Some(1), signal: None },
        Frame::Exit { channel: 3, status: None, signal: Some("KILL") },
        Frame::Close { channel: 3 },
        Frame::Note { text: &long },
    ];
    let expected = [
        (3, Stored::Open { what: "exec".into(), command: Some(wild.to_vec()), size: None }),
        (u32::MAX, Stored::Open { what: "shell".into(), command: Some(b"top".to_vec()), size: Some((80, 24)) }),
        (3, Stored::Output(b"out".to_vec())),
        (3, Stored::Errors(b"err".to_vec())),
        (3, Stored::Input(b"in".to_vec())),
        (3, Stored::Resize { cols: 200, rows: 50 }),
        (3, Stored::FileOp("{}".into())),
        (3, Stored::Forward("{\"to\":1}".into())),
        (3, Stored::Exit { status: Some(1), signal: None }),
        (3, Stored::Exit { status: None, signal: Some("KILL".into()) }),
        (3, Stored::Close),
        (0, Stored::Note(long.clone())),
    ];
    let bytes = file(&frames);
    for step in [1, 7, 4096, bytes.len()] {
        let found = read(&bytes, step).unwrap();
        let found: Vec<_> = found.into_iter().map(|s| (s.channel, s.what)).collect();
        assert_eq!(found, expected);
    }
    assert!(Encoded::of(Frame::Note { text: &"n".repeat(MAX_WHOLE + 1) }).is_none());
}

#[test]
fn the_chunk_that_was_changed_is_named() {
    let data = vec![b'x'; 5 * CHUNK];
    let bytes = file(&[Frame::Output { channel: 1, data: &data }]);
    let start = begin(&header(1)).0.len();
    assert_eq!(
        read(&bytes, 999)
            .unwrap()
            .iter()
            .map(|s| match &s.what {
                Stored::Output(d) => d.len(),
                _ => 0,
            })
            .sum::<usize>(),
        data.len()
    );
    for (at, chunk) in [(5, 0), (start - 1, 0), (start + PREFIX, 1), (start + 3 * (PREFIX + CHUNK) + 99, 4)] {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        let broken = read(&wrong, 4096).unwrap_err();
        // A changed header is one only where it cannot be read, or at the link of the first chunk.
        assert!(broken.chunk == chunk || (chunk == 0 && broken.chunk == 1), "{at}: {broken}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_panic_nothing(bytes in prop::collection::vec(any::<u8>(), 0..400), keep in 0usize..300) {
        let mut wild = file(&[Frame::Note { text: "x" }]);
        wild.truncate(keep);
        wild.extend(bytes);
        let _ = read(&wild, 13);
    }

    #[test]
    fn streams_come_back_whole(pieces in prop::collection::vec((1u32..4, 0usize..70_000), 0..12)) {
        let data: Vec<u8> = (0..70_000u32).map(|n| (n % 251) as u8).collect();
        let frames: Vec<_> = pieces.iter().map(|(channel, n)| Frame::Output { channel: *channel, data: &data[..*n] }).collect();
        let mut expected = std::collections::BTreeMap::<u32, Vec<u8>>::new();
        pieces.iter().for_each(|(channel, n)| expected.entry(*channel).or_default().extend(&data[..*n]));
        let mut found = std::collections::BTreeMap::<u32, Vec<u8>>::new();
        for frame in read(&file(&frames), 10_000).unwrap() {
            if let Stored::Output(data) = frame.what {
                found.entry(frame.channel).or_default().extend(data);
            }
        }
        prop_assert_eq!(found, expected);
    }
}
