//! The pure parts: published vectors, and every proof of every tree up to 40 leaves.
#![allow(clippy::unwrap_used)]

use super::note::{Checkpoint, NoteError, NoteSigner, SignedNote};
use super::proof::{Span, SpanHash, consistency_spans, inclusion_spans, runs};
use super::tree::{Frontier, Hash, ProofError, leaf_hash, node_hash, verify_consistency, verify_inclusion};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::{BASE64, HEXLOWER};

pub(super) const ORIGIN: &str = "broker.example/audit/0f3c/e1";

/// A log key from a fixed seed.
pub(super) struct Key {
    name: String,
    pair: Ed25519KeyPair,
}

impl Key {
    pub(super) fn new(name: &str, seed: u8) -> Self {
        Self { name: name.to_owned(), pair: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap() }
    }
}

impl NoteSigner for Key {
    fn name(&self) -> &str {
        &self.name
    }

    fn public(&self) -> [u8; 32] {
        self.pair.public_key().as_ref().try_into().unwrap()
    }

    fn sign(&self, body: &[u8]) -> [u8; 64] {
        self.pair.sign(body).as_ref().try_into().unwrap()
    }
}

/// RFC 6962, section 2.1, word for word: the oracle.
fn mth(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Frontier::empty().root(),
        [one] => *one,
        many => {
            let k = many.len().next_power_of_two() / 2;
            node_hash(&mth(&many[..k]), &mth(&many[k..]))
        }
    }
}

fn numbered(n: u64) -> Vec<Hash> {
    (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
}

fn span_hashes(spans: Vec<Span>, leaves: &[Hash]) -> Vec<Hash> {
    spans.into_iter().map(|s| mth(&leaves[s.from as usize..s.to as usize])).collect()
}

#[test]
fn roots_are_those_of_the_certificate_transparency_vectors() {
    let leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut frontier = Frontier::empty();
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(HEXLOWER.encode(&frontier.root()), empty);
    for (leaf, root) in leaves.iter().zip(roots) {
        frontier.push(leaf_hash(&HEXLOWER.decode(leaf.as_bytes()).unwrap()));
        assert_eq!(HEXLOWER.encode(&frontier.root()), root);
    }
}

#[test]
fn the_frontier_grows_like_the_tree_and_survives_encoding() {
    let leaves = numbered(1100);
    let mut frontier = Frontier::empty();
    for n in 0..leaves.len() {
        assert_eq!(frontier.size(), n as u64);
        assert_eq!(frontier.root(), mth(&leaves[..n]));
        let bytes = frontier.encode();
        assert_eq!(Frontier::decode(&bytes).unwrap(), frontier);
        assert!(Frontier::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(Frontier::decode(&[bytes, vec![0]].concat()).is_err());
        frontier.push_seen(leaves[n], &mut |height, index, hash| {
            let (from, width) = ((index as usize) << height, 1 << height);
            assert_eq!(*hash, mth(&leaves[from..from + width]));
        });
    }
    assert!(Frontier::decode(&[0xff; 8 + 64 * 32]).is_err());
    assert!(Frontier::decode(&[]).is_err());
}

#[test]
fn every_inclusion_proof_up_to_40_leaves_holds_and_no_damaged_one_does() {
    let leaves = numbered(41);
    for size in 1..=40_u64 {
        let root = mth(&leaves[..size as usize]);
        for seq in 0..size {
            let leaf = leaves[seq as usize];
            let proof = span_hashes(inclusion_spans(seq, size), &leaves);
            assert_eq!(verify_inclusion(leaf, seq, size, &proof, root), Ok(()), "{seq} in {size}");
            for other in (0..=size).filter(|other| *other != seq) {
                assert!(verify_inclusion(leaf, other, size, &proof, root).is_err(), "{seq} as {other} in {size}");
            }
            assert!(verify_inclusion(leaves[40], seq, size, &proof, root).is_err());
            damage(&proof, |bad| assert!(verify_inclusion(leaf, seq, size, bad, root).is_err()));
        }
    }
    assert_eq!(verify_inclusion([0; 32], 0, 0, &[], [0; 32]), Err(ProofError::Range));
    let endless = vec![[0; 32]; 1000];
    assert_eq!(verify_inclusion([0; 32], u64::MAX - 1, u64::MAX, &endless, [0; 32]), Err(ProofError::Length));
}

#[test]
fn every_consistency_proof_up_to_40_leaves_holds_and_no_damaged_one_does() {
    let leaves = numbered(40);
    let root = |n: u64| mth(&leaves[..n as usize]);
    for to in 0..=40 {
        for from in 0..=to {
            let spans = if from == 0 { Vec::new() } else { consistency_spans(from, to) };
            let proof = span_hashes(spans, &leaves);
            assert_eq!(verify_consistency(from, root(from), to, root(to), &proof), Ok(()), "{from} to {to}");
            assert!(verify_consistency(from, [7; 32], to, root(to), &proof).is_err());
            if from > 0 {
                assert!(verify_consistency(from, root(from), to, [7; 32], &proof).is_err());
            }
            if from < to {
                assert_eq!(verify_consistency(to, root(to), from, root(from), &proof), Err(ProofError::Range));
            }
            damage(&proof, |bad| assert!(verify_consistency(from, root(from), to, root(to), bad).is_err()));
        }
    }
}

/// Too long, too short, reordered, and every hash changed.
fn damage(proof: &[Hash], check: impl Fn(&[Hash])) {
    check(&[proof, &[[0; 32]]].concat());
    check(&[&[[0; 32]], proof].concat());
    for i in 0..proof.len() {
        check(&[&proof[..i], &proof[i + 1..]].concat());
        let mut bad = proof.to_vec();
        bad[i][31] ^= 1;
        check(&bad);
        if i > 0 {
            let mut bad = proof.to_vec();
            bad.swap(i - 1, i);
            check(&bad);
        }
    }
}

#[test]
fn spans_are_cut_into_stored_subtrees_without_gap_or_overlap() {
    let size = 3 * 65_536 + 5 * 256 + 17;
    for seq in [0, 255, 256, 65_535, 65_536, 131_073, size - 18, size - 1] {
        for span in inclusion_spans(seq, size).into_iter().chain(consistency_spans(seq + 1, size)) {
            let mut at = span.from;
            for run in runs(span) {
                let width = 1 << (8 * run.level);
                assert_eq!(run.from * width, at);
                assert!(run.from < run.to && run.to - run.from <= 256, "{run:?} is not the highest level");
                at = run.to * width;
            }
            assert_eq!(at, span.to);
        }
    }
    let leaves = numbered(700);
    for to in 1..=700 {
        let mut hash = SpanHash::default();
        leaves[..to].iter().for_each(|leaf| hash.push(*leaf, 1));
        assert_eq!(hash.finish(), Some(mth(&leaves[..to])));
    }
}

#[test]
fn a_note_opens_for_its_key_and_name_only() {
    let key = Key::new(ORIGIN, 1);
    let checkpoint = Checkpoint { origin: ORIGIN.into(), size: 900, root: [9; 32] };
    let text = checkpoint.sign(&key).text;
    assert_eq!(SignedNote::open(&text, ORIGIN, &key.public()), Ok(checkpoint.clone()));
    let other = Key::new(ORIGIN, 2);
    assert_eq!(SignedNote::open(&text, ORIGIN, &other.public()), Err(NoteError::UnknownKey));
    assert_eq!(SignedNote::open(&text, "other", &key.public()), Err(NoteError::UnknownKey));
    let strange = Checkpoint { origin: "other".into(), ..checkpoint.clone() };
    assert_eq!(
        SignedNote::open(&strange.sign(&key).text, ORIGIN, &key.public()),
        Err(NoteError::Origin("other".into()))
    );
    // A cosignature does not disturb, in either order; alone it is not enough.
    let cosigned = checkpoint.sign(&Key::new("witness.example/w", 3)).text;
    let (body, line) = cosigned.split_once("\n\n").unwrap();
    let ours = text.split_once("\n\n").unwrap().1;
    for both in [format!("{body}\n\n{line}{ours}"), format!("{body}\n\n{ours}{line}")] {
        assert_eq!(SignedNote::open(&both, ORIGIN, &key.public()), Ok(checkpoint.clone()));
    }
    assert_eq!(SignedNote::open(&cosigned, ORIGIN, &key.public()), Err(NoteError::UnknownKey));
}

#[test]
fn no_byte_of_a_note_can_change() {
    let key = Key::new(ORIGIN, 1);
    let text = Checkpoint { origin: ORIGIN.into(), size: 900, root: [9; 32] }.sign(&key).text;
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            if let Ok(bad) = String::from_utf8(bytes) {
                assert!(SignedNote::open(&bad, ORIGIN, &key.public()).is_err(), "byte {at} bit {bit}: {bad:?}");
            }
        }
        if text.is_char_boundary(at) {
            assert!(SignedNote::open(&text[..at], ORIGIN, &key.public()).is_err(), "cut at {at}");
        }
    }
    assert!(SignedNote::open(&format!("{text}\n"), ORIGIN, &key.public()).is_err());
    assert!(SignedNote::open(&"a".repeat(1 << 20), ORIGIN, &key.public()).is_err());
}

#[test]
fn a_body_that_is_not_three_canonical_lines_is_refused_though_signed() {
    let key = Key::new(ORIGIN, 1);
    let root = BASE64.encode(&[9; 32]);
    let sign = |body: &str| {
        // The signature line of this body: the last line of a note whose origin smuggles it in.
        let mut blob = super::note::key_id(ORIGIN, &key.public()).to_vec();
        blob.extend_from_slice(&key.sign(body.as_bytes()));
        format!("{body}\n\u{2014} {ORIGIN} {}\n", BASE64.encode(&blob))
    };
    let good = format!("{ORIGIN}\n900\n{root}\n");
    assert!(SignedNote::open(&sign(&good), ORIGIN, &key.public()).is_ok());
    for bad in [
        format!("{ORIGIN}\n900\n{root}\nextension\n"),
        format!("{ORIGIN}\n900\n"),
        format!("{ORIGIN}\n0900\n{root}\n"),
        format!("{ORIGIN}\n+900\n{root}\n"),
        format!("{ORIGIN}\n-1\n{root}\n"),
        format!("{ORIGIN}\n18446744073709551616\n{root}\n"),
        format!("{ORIGIN}\n900\n{}\n", BASE64.encode(&[9; 31])),
        format!("{ORIGIN}\n900\n{}\n", root.trim_end_matches('=')),
        format!("\n900\n{root}\n"),
        format!("{ORIGIN}\n900\n\n{root}\n"),
        format!("{ORIGIN}\n900\n{root}\n\n"),
    ] {
        let refused = SignedNote::open(&sign(&bad), ORIGIN, &key.public());
        assert!(matches!(refused, Err(NoteError::Body(_))), "{bad:?}: {refused:?}");
    }
}

/// The note and key of the documentation of golang.org/x/mod/sumdb/note: the signature holds, the body is no checkpoint.
#[test]
fn a_published_signed_note_verifies() {
    let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\
                \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    let key = BASE64.decode(b"ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap();
    let public: [u8; 32] = key[1..].try_into().unwrap();
    assert_eq!(SignedNote::open(text, "PeterNeumann", &public), Err(NoteError::Body("not three lines")));
    let altered = text.replace("answer", "Answer");
    assert_eq!(SignedNote::open(&altered, "PeterNeumann", &public), Err(NoteError::BadSignature));
}
