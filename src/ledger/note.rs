//! Checkpoints as signed notes: C2SP tlog-checkpoint in C2SP signed-note, signed with Ed25519.
//!
//! True here: a checkpoint that [`SignedNote::open`] returns was signed by the pinned key over exactly three lines.
//! What never happens here: no I/O; no signature of another key decides anything; no extension line is accepted.
//! Start at [`SignedNote::open`].

use super::tree::Hash;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use data_encoding::BASE64;
use sha2::{Digest, Sha256};

/// A note longer than this, in bytes, is refused unread.
const MAX_NOTE: usize = 64 * 1024;
/// PROTOCOL: signed-note, "Signature types": 0x01 is Ed25519.
const ED25519_TYPE: u8 = 0x01;
pub(super) const SIGNATURE_MARK: &str = "\u{2014} ";

/// Why a note is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The text is not a signed note.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// The body is not origin, size and root, or has extension lines.
    #[error("not a checkpoint of three lines: {0}")]
    Body(&'static str),
    /// The checkpoint is of another log.
    #[error("the origin is {0:?}")]
    Origin(String),
    /// No signature by the pinned key.
    #[error("unknown key: no signature by the pinned key")]
    UnknownKey,
    /// A signature that claims the pinned key does not verify.
    #[error("bad signature")]
    BadSignature,
}

/// Signs notes; the key lives where the caller keeps it.
pub trait NoteSigner {
    /// The key's name, which is the origin of the log.
    fn name(&self) -> &str;
    /// The Ed25519 public key.
    fn public(&self) -> [u8; 32];
    /// Signs the body of a note with Ed25519 (RFC 8032).
    fn sign(&self, body: &[u8]) -> [u8; 64];
}

/// What a log says about itself: its name, how many leaves it has, and their root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log, for example `host/audit/UUID/e1`: no line break, blank or `+`.
    pub origin: String,
    /// The number of leaves.
    pub size: u64,
    /// The root of the tree of that size.
    pub root: Hash,
}

/// The text of a note with its signatures; nothing is checked before [`SignedNote::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNote {
    /// Body, empty line, signature lines.
    pub text: String,
}

impl Checkpoint {
    /// Writes the three lines that are signed.
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root))
    }

    /// True when both cannot be: two roots of one size in one epoch.
    pub fn contradicts(&self, other: &Self) -> bool {
        self.origin == other.origin && self.size == other.size && self.root != other.root
    }

    /// Signs the checkpoint; the note carries one signature.
    pub fn sign(&self, signer: &dyn NoteSigner) -> SignedNote {
        let body = self.body();
        let mut blob = key_id(signer.name(), &signer.public()).to_vec();
        blob.extend_from_slice(&signer.sign(body.as_bytes()));
        SignedNote { text: format!("{body}\n{SIGNATURE_MARK}{} {}\n", signer.name(), BASE64.encode(&blob)) }
    }
}

impl SignedNote {
    /// Reads and checks a note: exactly three lines, the origin is `name`, and a signature by `public` verifies.
    ///
    /// Signatures of other keys are ignored (C2SP signed-note), so cosigned notes are fine.
    ///
    /// # Errors
    /// [`NoteError`]; the text says nothing then.
    pub fn open(text: &str, name: &str, public: &[u8; 32]) -> Result<Checkpoint, NoteError> {
        if text.len() > MAX_NOTE {
            return Err(NoteError::Malformed("too long"));
        }
        if text.chars().any(|c| c < ' ' && c != '\n') {
            return Err(NoteError::Malformed("control character"));
        }
        // PROTOCOL: the last empty line divides; a body with an empty line of its own has more than three lines anyway.
        let (body, signatures) = text.rsplit_once("\n\n").ok_or(NoteError::Malformed("no signatures"))?;
        verify_signatures(format!("{body}\n").as_bytes(), signatures, name, public)?;
        let checkpoint = read_body(body)?;
        if checkpoint.origin != name {
            return Err(NoteError::Origin(checkpoint.origin));
        }
        Ok(checkpoint)
    }
}

impl SignedNote {
    /// Reads and checks a note of the epoch that `name` is of, or of a later one of the same log; gives the epoch too.
    ///
    /// The epoch is the number behind `/e` at the end of the origin. Which of two epochs counts is the caller's to judge.
    ///
    /// # Errors
    /// As [`SignedNote::open`].
    pub fn open_epoch(text: &str, name: &str, public: &[u8; 32]) -> Result<(Checkpoint, u32), NoteError> {
        let origin = text.split('\n').next().unwrap_or_default();
        match epoch_of(origin) {
            Some((_, epoch)) if follows(origin, name) => Ok((Self::open(text, origin, public)?, epoch)),
            _ => Self::open(text, name, public).map(|checkpoint| (checkpoint, 0)),
        }
    }
}

/// The log and the epoch that an origin names, where it ends in `/eN`.
pub fn epoch_of(origin: &str) -> Option<(&str, u32)> {
    let (log, number) = origin.rsplit_once("/e")?;
    let epoch = number.parse::<u32>().ok().filter(|epoch| epoch.to_string() == number)?;
    Some((log, epoch))
}

/// True where both are origins of one log, and `origin` is of the epoch of `name` or a later one.
pub fn follows(origin: &str, name: &str) -> bool {
    let later = match (epoch_of(origin), epoch_of(name)) {
        (Some((log, epoch)), Some((first, least))) => log == first && epoch >= least,
        _ => false,
    };
    later || origin == name
}

/// PROTOCOL: signed-note: the first four bytes of SHA-256 of name, line feed, type and public key.
pub(super) fn key_id(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let sha = Sha256::new().chain_update(name).chain_update([b'\n', ED25519_TYPE]).chain_update(public);
    let [a, b, c, d, ..]: Hash = sha.finalize().into();
    [a, b, c, d]
}

fn verify_signatures(body: &[u8], lines: &str, name: &str, public: &[u8; 32]) -> Result<(), NoteError> {
    let lines = lines.strip_suffix('\n').ok_or(NoteError::Malformed("no line break at the end"))?;
    let id = key_id(name, public);
    let mut ours = false;
    for line in lines.split('\n') {
        let rest = line.strip_prefix(SIGNATURE_MARK).ok_or(NoteError::Malformed("not a signature line"))?;
        let (key, encoded) = rest.split_once(' ').ok_or(NoteError::Malformed("not a signature line"))?;
        let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| NoteError::Malformed("signature is not base64"))?;
        let (found, signature) = bytes.split_first_chunk::<4>().ok_or(NoteError::Malformed("signature too short"))?;
        if key.is_empty() || key.contains('+') {
            return Err(NoteError::Malformed("key name"));
        }
        if key != name || *found != id {
            continue;
        }
        let key = UnparsedPublicKey::new(&ED25519, public);
        key.verify(body, signature).map_err(|_| NoteError::BadSignature)?;
        ours = true;
    }
    if ours { Ok(()) } else { Err(NoteError::UnknownKey) }
}

fn read_body(body: &str) -> Result<Checkpoint, NoteError> {
    let mut lines = body.split('\n');
    let (Some(origin), Some(size), Some(root), None) = (lines.next(), lines.next(), lines.next(), lines.next()) else {
        return Err(NoteError::Body("not three lines"));
    };
    if origin.is_empty() {
        return Err(NoteError::Body("no origin"));
    }
    let number: u64 = size.parse().map_err(|_| NoteError::Body("size"))?;
    if number.to_string() != size {
        return Err(NoteError::Body("size is not canonical"));
    }
    let root = BASE64.decode(root.as_bytes()).map_err(|_| NoteError::Body("root is not base64"))?;
    let root = Hash::try_from(root.as_slice()).map_err(|_| NoteError::Body("root is not 32 bytes"))?;
    Ok(Checkpoint { origin: origin.to_owned(), size: number, root })
}
