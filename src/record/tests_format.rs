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
    let (mut chunk, mut packer) = (Vec::new(), Packer::default());
    let mut close = |chunk: &mut Vec<u8>| {
        if !chunk.is_empty() {
            assert!(chunk.len() <= CHUNK);
            last = packer.pack(chunk, &last, &mut out);
            chunk.clear();
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

/// Bytes that nothing makes smaller.
pub fn noise(length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    crate::clock::fill(&mut out);
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
    let data = noise(5 * CHUNK);
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

/// The links of a file's chunks and what they are made of, by the rules at the top of `format.rs`.
fn chunks_of(bytes: &[u8]) -> Vec<(bool, Vec<u8>)> {
    let (head, mut last) = begin(&header(1));
    let mut rest = &bytes[head.len()..];
    let mut out = Vec::new();
    while !rest.is_empty() {
        let word = u32::from_le_bytes(rest[..4].try_into().unwrap());
        let (length, packed) = ((word & 0x7fff_ffff) as usize, word >> 31 == 1);
        let body = &rest[PREFIX..PREFIX + length];
        let mut sum = Sha256::new().chain_update(last);
        if packed {
            sum = sum.chain_update([0]);
        }
        last = sum.chain_update(body).finalize().into();
        assert_eq!(rest[4..PREFIX], last);
        out.push((packed, body.to_vec()));
        rest = &rest[PREFIX + length..];
    }
    out
}

#[test]
fn what_compresses_is_compressed_and_what_does_not_costs_no_more_room() {
    let text = b"drwxr-xr-x 2 root root 4096 Nov 27 22:43 some-folder\n".repeat(5000);
    let small = file(&[Frame::Output { channel: 1, data: &text }]);
    assert!(small.len() < text.len() / 10, "{} of {}", small.len(), text.len());
    assert!(chunks_of(&small).iter().all(|(packed, _)| *packed));
    let noise = noise(40 * CHUNK);
    let big = file(&[Frame::Output { channel: 1, data: &noise }]);
    assert!(big.len() < noise.len() + 50 * (PREFIX + 16));
    assert!(chunks_of(&big).iter().all(|(packed, _)| !*packed));
    // And after noise, text is seen to compress again.
    let mixed =
        [Frame::Output { channel: 1, data: &noise }, Frame::Output { channel: 1, data: &b"x".repeat(80 * CHUNK) }];
    assert!(file(&mixed).len() < noise.len() + 40 * CHUNK);
}

/// SECURITY (T58): the bit that says how a chunk is read is not taken for the other: neither chain holds for it.
#[test]
fn a_compressed_chunk_is_not_taken_for_frames_nor_frames_for_a_compressed_chunk() {
    let start = begin(&header(1)).0.len();
    for data in [vec![b'x'; CHUNK / 2], noise(CHUNK / 2)] {
        let mut bytes = file(&[Frame::Output { channel: 1, data: &data }]);
        bytes[start + 3] ^= 0x80;
        assert_eq!(read(&bytes, 4096).unwrap_err().chunk, 1);
    }
    // A block with its mark before it, said to be frames: the chain holds, and nothing comes of it.
    let packed = file(&[Frame::Output { channel: 1, data: &[b'x'; CHUNK / 2] }]);
    let (_, block) = chunks_of(&packed).remove(0);
    let mut bytes = packed[..start].to_vec();
    bytes.extend((block.len() as u32 + 1).to_le_bytes());
    bytes.extend(&packed[start + 4..start + PREFIX]);
    bytes.push(0);
    bytes.extend(block);
    let broken = read(&bytes, 4096).unwrap_err();
    assert_eq!((broken.chunk, broken.what.as_str()), (1, "its frames cannot be read"));
}

#[test]
fn a_block_that_says_more_than_a_chunk_is_refused() {
    let (mut bytes, last) = begin(&header(1));
    let block = lz4_flex::block::compress(&vec![0; 10 * CHUNK]);
    assert!(block.len() < CHUNK);
    bytes.extend((block.len() as u32 | PACKED).to_le_bytes());
    bytes.extend(packed_link(&last, &block));
    bytes.extend(block);
    assert_eq!(read(&bytes, 4096).unwrap_err().what, "its frames cannot be read");
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
