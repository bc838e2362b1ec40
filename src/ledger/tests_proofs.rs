//! Proofs as texts, and what witnesses sign.
#![allow(clippy::unwrap_used)]

use super::cosign::{AddCheckpoint, CosignerKey, cosign};
use super::note::{Checkpoint, NoteSigner, SignedNote};
use super::tests::{Key, ORIGIN};
use super::tests_attacks::Victim;
use super::tlog_proof::{TlogProof, TlogProofError};
use super::tree::leaf_hash;

#[tokio::test]
async fn a_proof_is_of_one_leaf_one_place_and_one_log() {
    let victim = Victim::new(&[5, 9]).await;
    let note = victim.notes[1].clone();
    for (seq, bytes) in (0..).zip(victim.leaves().await) {
        let proof = TlogProof { seq, hashes: victim.reader.inclusion(seq, 9).await.unwrap(), note: note.clone() };
        let text = proof.write();
        let read = TlogProof::read(&text).unwrap();
        assert_eq!(read, proof);
        let leaf = leaf_hash(&bytes);
        assert_eq!(read.open(leaf, ORIGIN, &victim.key.public()).unwrap().size, 9);
        assert!(matches!(read.open(leaf_hash(b"other"), ORIGIN, &victim.key.public()), Err(TlogProofError::Proof(_))));
        assert!(matches!(read.open(leaf, "another/log", &victim.key.public()), Err(TlogProofError::Note(_))));
        assert!(read.open(leaf, ORIGIN, &Key::new(ORIGIN, 2).public()).is_err());
        let elsewhere = TlogProof { seq: (seq + 1) % 9, ..proof };
        assert!(elsewhere.open(leaf, ORIGIN, &victim.key.public()).is_err(), "{seq}");
        // No byte of it can be changed: it is not read, or proves nothing.
        for at in 0..text.len() {
            let mut bad = text.clone().into_bytes();
            bad[at] ^= 1;
            let Ok(bad) = String::from_utf8(bad) else { continue };
            let opened = TlogProof::read(&bad).and_then(|proof| proof.open(leaf, ORIGIN, &victim.key.public()));
            assert!(opened.is_err(), "byte {at} of\n{text}");
        }
    }
    for wrong in [
        "",
        "c2sp.org/tlog-proof@v1\n",
        "c2sp.org/tlog-proof@v1\nindex 01\n\nx",
        "c2sp.org/tlog-proof@v1\nindex 1\n \n\nx",
    ] {
        assert!(TlogProof::read(wrong).is_err(), "{wrong:?}");
    }
    let long = format!("c2sp.org/tlog-proof@v1\nindex 1\n{}\nx", "A".repeat(43) + "=\n");
    assert!(TlogProof::read(&long.replace("=\n", &("=\n".to_owned() + &("A".repeat(43) + "=\n").repeat(63)))).is_err());
}

#[test]
fn a_cosignature_is_of_one_witness_and_one_checkpoint() {
    let (log, witness) = (Key::new(ORIGIN, 1), Key::new("witness.example/w1", 2));
    let note = Checkpoint { origin: ORIGIN.into(), size: 7, root: [3; 32] }.sign(&log);
    let line = cosign(&note, 1_679_315_147, &witness).unwrap();
    let cosigned = format!("{}{line}", note.text);
    let key = CosignerKey { name: "witness.example/w1".into(), public: witness.public() };
    assert_eq!(key.open(&cosigned), Some(1_679_315_147));
    // The log's own signature is found as before, and the witness's is no signature of the log.
    assert_eq!(SignedNote::open(&cosigned, ORIGIN, &log.public()).unwrap().size, 7);
    assert_eq!(key.open(&note.text), None);
    for other in [
        CosignerKey { name: "witness.example/w2".into(), ..key.clone() },
        CosignerKey { public: log.public(), ..key.clone() },
    ] {
        assert_eq!(other.open(&cosigned), None);
    }
    let moved = Checkpoint { origin: ORIGIN.into(), size: 8, root: [3; 32] }.sign(&log);
    assert_eq!(key.open(&format!("{}{line}", moved.text)), None);
    assert_eq!(key.to_string().parse::<CosignerKey>().unwrap(), key);
    for wrong in ["", "a+b", "a+00000000+AAAA", &key.to_string().replace("w1+", "w2+"), &log_key(&log)] {
        assert!(wrong.parse::<CosignerKey>().is_err(), "{wrong}");
    }
}

/// A key of another kind: 0x01 signs notes, not cosignatures.
fn log_key(key: &Key) -> String {
    let mut bytes = vec![1];
    bytes.extend_from_slice(&key.public());
    format!("{ORIGIN}+00000000+{}", data_encoding::BASE64.encode(&bytes))
}

#[test]
fn a_body_of_add_checkpoint_is_read_in_one_form_only() {
    let note = Checkpoint { origin: ORIGIN.into(), size: 7, root: [3; 32] }.sign(&Key::new(ORIGIN, 1)).text;
    for proof in [vec![], vec![[1; 32]], vec![[9; 32]; 63]] {
        let add = AddCheckpoint { old: 5, proof, note: note.clone() };
        assert_eq!(AddCheckpoint::read(&add.write()).unwrap(), add);
    }
    let much = AddCheckpoint { old: 5, proof: vec![[1; 32]; 64], note: note.clone() };
    let wrong =
        ["", "old 5", "old 05\n\nx", "old -1\n\nx", "old 5 \n\nx", "old 5\nAAAA\n\nx", "size 5\n\nx", &much.write()];
    assert!(wrong.iter().all(|text| AddCheckpoint::read(text).is_none()));
}
