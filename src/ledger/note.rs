//! Checkpoints: C2SP tlog-checkpoint in a C2SP signed note.

use sha2::{Digest as _, Sha256};

use super::tree::Hash;

/// The longest note that is read, in bytes.
const MAX_NOTE: usize = 64 * 1024;

/// What a checkpoint says: exactly three lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Names the log.
    pub origin: String,
    /// How many leaves.
    pub size: u64,
    /// The root of them.
    pub root: Hash,
}

/// Signs notes with the log's key.
pub trait NoteSigner {
    /// The key's name; for a log its origin.
    fn name(&self) -> &str;
    /// The Ed25519 public key.
    fn public(&self) -> [u8; 32];
    /// Signs with Ed25519 (RFC 8032).
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

/// A checkpoint with signature lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNote {
    /// The whole text.
    pub text: String,
}

/// Why a note is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not the text of a checkpoint.
    #[error("not a checkpoint: {0}")]
    Form(&'static str),
    /// Another log's.
    #[error("the checkpoint is of another log")]
    Origin,
    /// No signature of the pinned key holds.
    #[error("no signature of the pinned key: unknown key")]
    Unsigned,
}

fn key_id(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let hash = Sha256::new().chain_update(name.as_bytes()).chain_update([0x0a, 0x01]).chain_update(public).finalize();
    let mut id = [0; 4];
    id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    id
}

impl Checkpoint {
    /// The three lines that are signed.
    pub fn encode(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, data_encoding::BASE64.encode(&self.root))
    }

    /// Signs the checkpoint.
    pub fn sign(&self, signer: &dyn NoteSigner) -> SignedNote {
        let body = self.encode();
        let mut blob = key_id(signer.name(), &signer.public()).to_vec();
        blob.extend_from_slice(&signer.sign(body.as_bytes()));
        let line = format!("\u{2014} {} {}\n", signer.name(), data_encoding::BASE64.encode(&blob));
        SignedNote { text: format!("{body}\n{line}") }
    }

    fn decode(body: &str) -> Result<Self, NoteError> {
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root), Some(""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::Form("not exactly three lines"));
        };
        let number: u64 = size.parse().map_err(|_| NoteError::Form("the size is not a number"))?;
        let root = data_encoding::BASE64.decode(root.as_bytes()).map_err(|_| NoteError::Form("the root is not base64"))?;
        let root: Hash = root.try_into().map_err(|_| NoteError::Form("the root is not 32 bytes"))?;
        let checkpoint = Self { origin: origin.to_owned(), size: number, root };
        if checkpoint.encode() != body || origin.is_empty() {
            return Err(NoteError::Form("written in another way"));
        }
        Ok(checkpoint)
    }
}

impl SignedNote {
    /// Reads a note and believes it only when the pinned key signed it. Signature lines of other keys are passed over.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(text: &str, name: &str, public: &[u8; 32]) -> Result<Checkpoint, NoteError> {
        if text.len() > MAX_NOTE || text.contains('\r') {
            return Err(NoteError::Form("too long, or with carriage returns"));
        }
        let (body, signatures) = text.split_once("\n\n").ok_or(NoteError::Form("no signatures"))?;
        let body = format!("{body}\n");
        let checkpoint = Checkpoint::decode(&body)?;
        if checkpoint.origin != name {
            return Err(NoteError::Origin);
        }
        let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Form("the last line is cut"))?;
        let mut ours = 0;
        for line in signatures.split('\n') {
            let rest = line.strip_prefix("\u{2014} ").ok_or(NoteError::Form("a line that is no signature"))?;
            let (key, blob) = rest.split_once(' ').ok_or(NoteError::Form("a line that is no signature"))?;
            let blob = data_encoding::BASE64.decode(blob.as_bytes()).map_err(|_| NoteError::Form("a signature that is not base64"))?;
            let Some((id, signature)) = blob.split_at_checked(4) else {
                return Err(NoteError::Form("a signature that is too short"));
            };
            if key == name && id == key_id(name, public) {
                let verifier = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, public);
                verifier.verify(body.as_bytes(), signature).map_err(|_| NoteError::Unsigned)?;
                ours += 1;
            }
        }
        if ours > 0 { Ok(checkpoint) } else { Err(NoteError::Unsigned) }
    }
}
