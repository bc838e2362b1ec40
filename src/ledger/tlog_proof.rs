//! One leaf's place in a log as a text of its own: C2SP tlog-proof, version 1.
//!
//! True here: pure text; what [`TlogProof::read`] gives is in the form that [`TlogProof::write`] writes, and no other. What never happens
//! here: no checkpoint is believed; that is for [`TlogProof::open`]. Start there.

use data_encoding::BASE64;

use super::note::{Checkpoint, NoteError, SignedNote};
use super::tree::{Hash, ProofError, verify_inclusion};

/// PROTOCOL: tlog-proof, "Format".
const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1\n";
/// A tree has at most 63 levels.
const MAX_HASHES: usize = 63;

/// Why a proof shows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlogProofError {
    /// The text is not a proof.
    #[error("not a proof of C2SP tlog-proof: {0}")]
    Malformed(&'static str),
    /// The checkpoint is refused.
    #[error("the checkpoint is refused: {0}")]
    Note(#[from] NoteError),
    /// The hashes do not lead from the leaf to the checkpoint.
    #[error("{0}")]
    Proof(#[from] ProofError),
}

/// That a leaf stands at an index of the tree of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// The leaf's index.
    pub seq: u64,
    /// The inclusion proof, nearest the leaf first (RFC 6962, section 2.1.1).
    pub hashes: Vec<Hash>,
    /// The signed checkpoint, verbatim.
    pub note: String,
}

impl TlogProof {
    /// Writes the text.
    pub fn write(&self) -> String {
        let mut text = format!("{FIRST_LINE}index {}\n", self.seq);
        self.hashes.iter().for_each(|hash| text += &format!("{}\n", BASE64.encode(hash)));
        text + "\n" + &self.note
    }

    /// Reads the text; extra data is refused, because nothing here has any.
    ///
    /// # Errors
    /// [`TlogProofError::Malformed`].
    pub fn read(text: &str) -> Result<Self, TlogProofError> {
        let wrong = TlogProofError::Malformed;
        let rest = text.strip_prefix(FIRST_LINE).ok_or(wrong("another first line"))?;
        let rest = rest.strip_prefix("index ").ok_or(wrong("no index"))?;
        let (head, note) = rest.split_once("\n\n").ok_or(wrong("no checkpoint"))?;
        let mut lines = head.split('\n');
        let seq = lines.next().and_then(|line| line.parse().ok()).ok_or(wrong("no index"))?;
        let hashes: Option<Vec<Hash>> = lines.map(hash).collect();
        let proof = Self { seq, hashes: hashes.ok_or(wrong("not a hash"))?, note: note.to_owned() };
        if proof.hashes.len() > MAX_HASHES || proof.write() != text {
            return Err(wrong("not in its own form"));
        }
        Ok(proof)
    }

    /// Demands that a leaf with this hash is in the log of this name and key, in that epoch or a later one, and gives the checkpoint.
    ///
    /// # Errors
    /// [`TlogProofError`]; nothing may be concluded then.
    pub fn open(&self, leaf: Hash, origin: &str, public: &[u8; 32]) -> Result<Checkpoint, TlogProofError> {
        let (checkpoint, _) = SignedNote::open_epoch(&self.note, origin, public)?;
        verify_inclusion(leaf, self.seq, checkpoint.size, &self.hashes, checkpoint.root)?;
        Ok(checkpoint)
    }
}

/// One line of a proof.
pub(super) fn hash(line: &str) -> Option<Hash> {
    Hash::try_from(BASE64.decode(line.as_bytes()).ok()?.as_slice()).ok()
}
