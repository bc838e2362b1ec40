//! What a witness says of a log: C2SP tlog-cosignature (Ed25519), and the call by which it is asked, C2SP tlog-witness.
//!
//! True here: pure bytes; a cosignature that [`CosignerKey::open`] accepts was made by that key over exactly this checkpoint. What never
//! happens here: no I/O; nothing is kept: the witness's memory lies with the caller. Start at [`AddCheckpoint`].

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use data_encoding::{BASE64, HEXLOWER};
use sha2::{Digest, Sha256};

use super::note::{NoteSigner, SIGNATURE_MARK, SignedNote};
use super::tlog_proof::hash;
use super::tree::Hash;

/// PROTOCOL: tlog-cosignature, "Format": 0x04 is an Ed25519 cosignature.
const COSIGNATURE_TYPE: u8 = 0x04;
/// PROTOCOL: tlog-witness: at most 63 lines of proof.
const MAX_PROOF: usize = 63;

/// A witness's name and public key, as `NAME+ID+KEY` (C2SP signed-note, "Verifier keys").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignerKey {
    /// The name; no blank, no `+`.
    pub name: String,
    /// The Ed25519 key.
    pub public: [u8; 32],
}

/// The text is not a key of a witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the key of a witness: NAME+ID+KEY, of the type 0x04 (Ed25519 cosignatures)")]
pub struct CosignerKeyError;

impl CosignerKey {
    fn id(&self) -> [u8; 4] {
        let sha = Sha256::new().chain_update(&self.name).chain_update([b'\n', COSIGNATURE_TYPE]);
        let [a, b, c, d, ..]: Hash = sha.chain_update(self.public).finalize().into();
        [a, b, c, d]
    }

    /// Finds and checks this witness's cosignature in a note or below it; gives when it was made, in Unix seconds.
    ///
    /// Lines of others are ignored; none that holds is `None`.
    pub fn open(&self, note: &str) -> Option<u64> {
        let (body, lines) = note.rsplit_once("\n\n")?;
        lines.lines().find_map(|line| {
            let (name, encoded) = line.strip_prefix(SIGNATURE_MARK)?.split_once(' ')?;
            let bytes = BASE64.decode(encoded.as_bytes()).ok()?;
            let (id, rest) = bytes.split_first_chunk::<4>()?;
            let (time, signature) = rest.split_first_chunk::<8>()?;
            if name != self.name || *id != self.id() {
                return None;
            }
            let time = u64::from_be_bytes(*time);
            let key = UnparsedPublicKey::new(&ED25519, self.public);
            key.verify(cosigned(time, &format!("{body}\n")).as_bytes(), signature).ok().map(|()| time)
        })
    }
}

impl fmt::Display for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![COSIGNATURE_TYPE];
        key.extend_from_slice(&self.public);
        write!(f, "{}+{}+{}", self.name, HEXLOWER.encode(&self.id()), BASE64.encode(&key))
    }
}

impl FromStr for CosignerKey {
    type Err = CosignerKeyError;

    fn from_str(text: &str) -> Result<Self, CosignerKeyError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(CosignerKeyError);
        };
        let bytes = BASE64.decode(key.as_bytes()).map_err(|_| CosignerKeyError)?;
        let (kind, public) = bytes.split_first().ok_or(CosignerKeyError)?;
        let public = public.try_into().map_err(|_| CosignerKeyError)?;
        let key = Self { name: name.to_owned(), public };
        let named = !name.is_empty() && !name.contains(char::is_whitespace);
        if *kind == COSIGNATURE_TYPE && named && key.to_string() == text { Ok(key) } else { Err(CosignerKeyError) }
    }
}

/// PROTOCOL: tlog-cosignature, "Ed25519 signed message".
fn cosigned(time: u64, body: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{body}")
}

/// Signs the checkpoint of a note as a witness; gives the signature line, with its line feed. `at` is in Unix seconds.
pub fn cosign(note: &SignedNote, at: u64, signer: &dyn NoteSigner) -> Option<String> {
    let (body, _) = note.text.rsplit_once("\n\n")?;
    let key = CosignerKey { name: signer.name().to_owned(), public: signer.public() };
    let mut blob = key.id().to_vec();
    blob.extend_from_slice(&at.to_be_bytes());
    blob.extend_from_slice(&signer.sign(cosigned(at, &format!("{body}\n")).as_bytes()));
    Some(format!("{SIGNATURE_MARK}{} {}\n", key.name, BASE64.encode(&blob)))
}

/// The body of `POST …/add-checkpoint`: what the witness is taken to know, the proof from there, and the note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size that the witness is taken to know; 0 when nothing.
    pub old: u64,
    /// The consistency proof from there (RFC 6962, section 2.1.2).
    pub proof: Vec<Hash>,
    /// The note, verbatim.
    pub note: String,
}

impl AddCheckpoint {
    /// Writes the body.
    pub fn write(&self) -> String {
        let mut text = format!("old {}\n", self.old);
        self.proof.iter().for_each(|hash| text += &format!("{}\n", BASE64.encode(hash)));
        text + "\n" + &self.note
    }

    /// Reads a body; anything that would be written differently is none.
    pub fn read(text: &str) -> Option<Self> {
        let (head, note) = text.strip_prefix("old ")?.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let old = lines.next()?.parse().ok()?;
        let proof = lines.map(hash).collect::<Option<Vec<Hash>>>()?;
        let read = Self { old, proof, note: note.to_owned() };
        (read.proof.len() <= MAX_PROOF && read.write() == text).then_some(read)
    }
}
