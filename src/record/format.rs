//! The bytes of a recording; pure.
//!
//! ```text
//! file   = magic, u32 length, header (JSON), chunk*
//! chunk  = u32 length, link (32 bytes), frame+     or, with the highest bit of the length set, the LZ4 block of them
//! frame  = kind, varint channel, varint µs since the last frame, varint length, bytes
//! link 0 = SHA-256(everything before the first chunk); link n = SHA-256(link n-1, frames of chunk n),
//!          or SHA-256(link n-1, 0, block of chunk n): no frame begins with 0, so that one is never taken for the other
//! ```
//! Integers are little-endian, varints LEB128. A frame never crosses a chunk; [`MORE`] in its kind says that the next frame of
//! the same kind and channel goes on with it.

use std::io::Read;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::frame::{Frame, Header, Stamped, Stored};
use crate::domain::digest::Digest;

/// The most bytes of frames in one chunk.
pub const CHUNK: usize = 32 << 10;
/// What stands before the frames of a chunk, in bytes.
pub const PREFIX: usize = 4 + 32;
/// The bit of a chunk's length that says that its frames are compressed.
const PACKED: u32 = 1 << 31;
/// The longest frame that is not a stream: a command, a file operation, a note.
pub const MAX_WHOLE: usize = 1 << 20;
/// The longest header, in bytes.
pub const MAX_HEADER: usize = 64 << 10;
/// The bit of a frame's kind that says that it goes on.
pub const MORE: u8 = 0x80;
const MAGIC: &[u8] = b"jit-broker recording 1\n";
/// Kind, channel, time, length at their longest.
const FRAME_HEAD: usize = 1 + 5 + 10 + 5;
/// A piece shorter than this waits for the next chunk, unless it is the whole.
const LEAST: usize = 256;

/// Kinds of frames, as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Open = 1,
    Output = 2,
    Errors = 3,
    Input = 4,
    Hidden = 5,
    Resize = 6,
    FileOp = 7,
    Forward = 8,
    Exit = 9,
    Close = 10,
    Note = 11,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::*;
        [Open, Output, Errors, Input, Hidden, Resize, FileOp, Forward, Exit, Close, Note]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    fn stream(self) -> bool {
        matches!(self, Self::Output | Self::Errors | Self::Input)
    }
}

#[derive(Serialize, Deserialize)]
struct OpenBody {
    what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    /// Where it is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<(u16, u16)>,
}

#[derive(Serialize, Deserialize)]
struct ExitBody {
    status: Option<u32>,
    signal: Option<String>,
}

/// A frame with its body made, ready to be cut into pieces.
pub struct Encoded<'a> {
    kind: Kind,
    channel: u32,
    body: std::borrow::Cow<'a, [u8]>,
    at: usize,
    begun: bool,
}

impl<'a> Encoded<'a> {
    /// Makes the body of a frame; `None` when it is longer than [`MAX_WHOLE`].
    pub fn of(frame: Frame<'a>) -> Option<Self> {
        use std::borrow::Cow::{Borrowed, Owned};
        let (kind, channel, body) = match frame {
            Frame::Open { channel, what, command, size } => {
                let text = command.map(std::str::from_utf8);
                let body = OpenBody {
                    what: what.to_owned(),
                    command: text.and_then(Result::ok).map(str::to_owned),
                    command_base64: command
                        .filter(|_| text.is_some_and(|t| t.is_err()))
                        .map(|c| data_encoding::BASE64.encode(c)),
                    size,
                };
                (Kind::Open, channel, Owned(serde_json::to_vec(&body).unwrap_or_default()))
            }
            Frame::Output { channel, data } => (Kind::Output, channel, Borrowed(data)),
            Frame::Errors { channel, data } => (Kind::Errors, channel, Borrowed(data)),
            Frame::Input { channel, data } => (Kind::Input, channel, Borrowed(data)),
            Frame::Resize { channel, cols, rows } => {
                let [a, b] = cols.to_le_bytes();
                let [c, d] = rows.to_le_bytes();
                (Kind::Resize, channel, Owned(vec![a, b, c, d]))
            }
            Frame::FileOp { channel, json } => (Kind::FileOp, channel, Borrowed(json.as_bytes())),
            Frame::Forward { channel, json } => (Kind::Forward, channel, Borrowed(json.as_bytes())),
            Frame::Exit { channel, status, signal } => {
                let body = ExitBody { status, signal: signal.map(str::to_owned) };
                (Kind::Exit, channel, Owned(serde_json::to_vec(&body).unwrap_or_default()))
            }
            Frame::Close { channel } => (Kind::Close, channel, Borrowed(&[][..])),
            Frame::Note { text } => (Kind::Note, 0, Borrowed(text.as_bytes())),
        };
        (kind.stream() || body.len() <= MAX_WHOLE).then_some(Self { kind, channel, body, at: 0, begun: false })
    }

    /// The mark that something was typed which is not stored.
    pub fn hidden(channel: u32) -> Self {
        Self { kind: Kind::Hidden, channel, body: std::borrow::Cow::Borrowed(&[]), at: 0, begun: false }
    }

    /// Puts as much of it behind the frames of a chunk as there is room for; true when all of it is in.
    ///
    /// `since_us` is the time since the last frame; it is used when a piece was put, which the second word of the answer says.
    pub fn put(&mut self, chunk: &mut Vec<u8>, since_us: u64) -> (bool, bool) {
        let left = self.body.len() - self.at;
        if left == 0 && self.begun {
            return (true, false);
        }
        let used = chunk.len();
        let room = CHUNK.saturating_sub(used + FRAME_HEAD);
        if used + FRAME_HEAD > CHUNK || room < left.min(LEAST) {
            return (false, false);
        }
        let take = left.min(room);
        let more = take < left && !self.kind.stream();
        chunk.push(self.kind as u8 | if more { MORE } else { 0 });
        push_varint(chunk, u64::from(self.channel));
        push_varint(chunk, since_us);
        push_varint(chunk, take as u64);
        chunk.extend_from_slice(&self.body[self.at..self.at + take]);
        self.at += take;
        self.begun = true;
        (self.at == self.body.len(), true)
    }
}

fn push_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

/// The bytes that a file begins with, and link 0.
pub fn begin(header: &Header) -> (Vec<u8>, [u8; 32]) {
    let json = serde_json::to_vec(header).unwrap_or_default();
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&json);
    let link = Sha256::digest(&bytes).into();
    (bytes, link)
}

/// The link of a chunk after `last`.
pub fn link(last: &[u8; 32], frames: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(last).chain_update(frames).finalize().into()
}

fn packed_link(last: &[u8; 32], block: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(last).chain_update([0]).chain_update(block).finalize().into()
}

/// Makes chunks of frames, compressed where that makes them smaller by an eighth at least.
///
/// What is not written needs neither hashing nor copying, so this saves time as well as room; and where it saves nothing it is tried less
/// and less often.
#[derive(Debug, Default)]
pub struct Packer {
    /// Chunks that are not tried.
    pass: u32,
    /// How many there were the last time.
    passed: u32,
}

/// The most chunks in a row that are not tried to be compressed.
const MOST_PASSED: u32 = 32;

impl Packer {
    /// Appends the chunk of these frames, at most [`CHUNK`] bytes of them, to `out`; gives its link.
    pub fn pack(&mut self, frames: &[u8], last: &[u8; 32], out: &mut Vec<u8>) -> [u8; 32] {
        let start = out.len();
        if let Some(block) = self.try_pack(frames, out) {
            let link = packed_link(last, &out[start + PREFIX..]);
            prefix(&mut out[start..], block | PACKED, &link);
            return link;
        }
        out.resize(start + PREFIX, 0);
        out.extend_from_slice(frames);
        let link = link(last, frames);
        prefix(&mut out[start..], small(frames.len()), &link);
        link
    }

    /// Leaves room for the prefix and a block in `out` and gives the block's length; nothing where it does not pay.
    fn try_pack(&mut self, frames: &[u8], out: &mut Vec<u8>) -> Option<u32> {
        if self.pass > 0 {
            self.pass -= 1;
            return None;
        }
        let start = out.len();
        out.resize(start + PREFIX + lz4_flex::block::get_maximum_output_size(frames.len()), 0);
        let packed = lz4_flex::block::compress_into(frames, &mut out[start + PREFIX..]).ok();
        let pays = packed.filter(|length| *length <= frames.len() - frames.len() / 8);
        out.truncate(start + pays.map_or(0, |length| PREFIX + length));
        self.passed = if pays.is_some() { 0 } else { (2 * self.passed + 1).min(MOST_PASSED) };
        self.pass = self.passed;
        pays.map(small)
    }
}

fn small(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn prefix(chunk: &mut [u8], length: u32, link: &[u8; 32]) {
    chunk[..4].copy_from_slice(&length.to_le_bytes());
    chunk[4..PREFIX].copy_from_slice(link);
}

/// Where a recording is not what was recorded. Chunk 0 is the header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chunk {chunk}: {what}")]
pub struct Broken {
    /// Which chunk, from 1.
    pub chunk: u64,
    /// What is wrong with it.
    pub what: String,
}

/// Reads the bytes of a recording in pieces of any size, and checks the chain before anything of a chunk is given out.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
    at: usize,
    header: Option<Header>,
    link: [u8; 32],
    chunks: u64,
    /// Bytes of the header and of whole chunks.
    whole: u64,
    at_us: u64,
    /// The frames of a compressed chunk.
    plain: Vec<u8>,
    /// The chain is taken as it is said.
    unchecked: bool,
    /// What streams carry is passed over.
    skim: bool,
    parts: std::collections::BTreeMap<(u32, Kind), Vec<u8>>,
}

impl Decoder {
    /// One that believes the chain: for what is made from our own file and decides nothing.
    pub(super) fn unchecked() -> Self {
        Self { unchecked: true, ..Self::default() }
    }

    /// From now on streams are not given out, which is cheaper: commands, files, notes and ends still are.
    pub(super) fn skim(&mut self) {
        self.skim = true;
    }

    /// Takes more bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        self.make_room();
        self.pending.extend_from_slice(bytes);
    }

    /// Takes at most `most` bytes from a file; gives how many came.
    ///
    /// # Errors
    /// As reading.
    pub(super) fn pull(&mut self, from: &mut impl Read, most: u64) -> std::io::Result<usize> {
        self.make_room();
        from.take(most).read_to_end(&mut self.pending)
    }

    /// Forgets what was read.
    fn make_room(&mut self) {
        self.pending.drain(..self.at);
        self.at = 0;
    }

    /// The header, once it was read.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// How far it is whole: bytes, chunks, the last link.
    pub fn whole(&self) -> (u64, u64, Digest) {
        (self.whole, self.chunks, Digest::new(self.link))
    }

    /// How many bytes are left over that are not a whole chunk yet.
    pub fn left_over(&self) -> u64 {
        (self.pending.len() - self.at) as u64
    }

    fn broken(&self, what: impl Into<String>) -> Broken {
        Broken { chunk: if self.header.is_some() { self.chunks + 1 } else { 0 }, what: what.into() }
    }

    fn take(&mut self, n: usize) {
        self.at += n;
        self.whole += n as u64;
    }

    fn read_header(&mut self) -> Result<bool, Broken> {
        let rest = &self.pending[self.at..];
        let shown = rest.len().min(MAGIC.len());
        if rest[..shown] != MAGIC[..shown] {
            return Err(self.broken("it does not begin like a recording"));
        }
        let Some(length) = rest.get(MAGIC.len()..MAGIC.len() + 4) else { return Ok(false) };
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
        if length > MAX_HEADER {
            return Err(self.broken("its header is too long"));
        }
        let end = MAGIC.len() + 4 + length;
        let Some(json) = rest.get(MAGIC.len() + 4..end) else { return Ok(false) };
        let header = serde_json::from_slice(json).map_err(|_| self.broken("its header cannot be read"))?;
        self.link = Sha256::digest(&rest[..end]).into();
        self.header = Some(header);
        self.take(end);
        Ok(true)
    }

    /// Checks the next chunk; `None` until it is whole. Gives the range of its frames, or of their block, in what is pending.
    fn check(&mut self) -> Result<Option<(std::ops::Range<usize>, bool)>, Broken> {
        if self.header.is_none() && !self.read_header()? {
            return Ok(None);
        }
        let rest = &self.pending[self.at..];
        let Some((length, after)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let word = u32::from_le_bytes(*length);
        let (length, packed) = ((word & !PACKED) as usize, word & PACKED != 0);
        if length == 0 || length > CHUNK {
            return Err(self.broken("its length is not one that is written"));
        }
        let Some((said, after)) = after.split_first_chunk::<32>() else { return Ok(None) };
        let Some(frames) = after.get(..length) else { return Ok(None) };
        let link = match (self.unchecked, packed) {
            (true, _) => *said,
            (false, true) => packed_link(&self.link, frames),
            (false, false) => link(&self.link, frames),
        };
        if link != *said {
            return Err(self.broken("its bytes are not those that were recorded"));
        }
        let from = self.at + PREFIX;
        self.link = link;
        self.take(PREFIX + length);
        self.chunks += 1;
        Ok(Some((from..from + length, packed)))
    }

    /// Passes over the next whole chunk; false when there is none.
    ///
    /// # Errors
    /// [`Broken`], and from then on always.
    pub fn skip(&mut self) -> Result<bool, Broken> {
        self.check().map(|found| found.is_some())
    }

    /// The frames of the next whole chunk; `None` when there is none.
    ///
    /// # Errors
    /// [`Broken`], and from then on always.
    pub fn chunk(&mut self) -> Result<Option<Vec<Stamped>>, Broken> {
        let Some((range, packed)) = self.check()? else { return Ok(None) };
        let (bytes, mut plain) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.plain));
        let read = if packed {
            plain.resize(CHUNK, 0);
            let length = lz4_flex::block::decompress_into(&bytes[range], &mut plain).ok();
            length.and_then(|length| self.frames(&plain[..length]))
        } else {
            self.frames(&bytes[range])
        };
        (self.pending, self.plain) = (bytes, plain);
        match read {
            Some(frames) => Ok(Some(frames)),
            None => Err(Broken { chunk: self.chunks, what: "its frames cannot be read".to_owned() }),
        }
    }

    fn frames(&mut self, mut bytes: &[u8]) -> Option<Vec<Stamped>> {
        let mut out = Vec::new();
        while let Some((first, rest)) = bytes.split_first() {
            bytes = rest;
            let kind = Kind::of(first & !MORE)?;
            let channel = u32::try_from(varint(&mut bytes)?).ok()?;
            self.at_us = self.at_us.saturating_add(varint(&mut bytes)?);
            let length = usize::try_from(varint(&mut bytes)?).ok()?;
            let body = bytes.get(..length)?;
            bytes = bytes.get(length..)?;
            if self.skim && kind.stream() {
                continue;
            }
            if first & MORE != 0 || self.parts.contains_key(&(channel, kind)) {
                let part = self.parts.entry((channel, kind)).or_default();
                part.extend_from_slice(body);
                if part.len() > MAX_WHOLE {
                    return None;
                }
                if first & MORE != 0 {
                    continue;
                }
                let whole = self.parts.remove(&(channel, kind))?;
                out.push(Stamped { at_us: self.at_us, channel, what: stored(kind, whole)? });
            } else {
                out.push(Stamped { at_us: self.at_us, channel, what: stored(kind, body.to_vec())? });
            }
        }
        Some(out)
    }
}

fn stored(kind: Kind, body: Vec<u8>) -> Option<Stored> {
    Some(match kind {
        Kind::Open => {
            let open: OpenBody = serde_json::from_slice(&body).ok()?;
            let bytes = match (open.command, open.command_base64) {
                (Some(text), _) => Some(text.into_bytes()),
                (None, Some(text)) => Some(data_encoding::BASE64.decode(text.as_bytes()).ok()?),
                (None, None) => None,
            };
            Stored::Open { what: open.what, command: bytes, size: open.size }
        }
        Kind::Output => Stored::Output(body),
        Kind::Errors => Stored::Errors(body),
        Kind::Input => Stored::Input(body),
        Kind::Hidden => Stored::Hidden,
        Kind::Resize => {
            let [a, b, c, d] = body.as_slice().try_into().ok()?;
            Stored::Resize { cols: u16::from_le_bytes([a, b]), rows: u16::from_le_bytes([c, d]) }
        }
        Kind::FileOp => Stored::FileOp(String::from_utf8(body).ok()?),
        Kind::Forward => Stored::Forward(String::from_utf8(body).ok()?),
        Kind::Exit => {
            let exit: ExitBody = serde_json::from_slice(&body).ok()?;
            Stored::Exit { status: exit.status, signal: exit.signal }
        }
        Kind::Close => Stored::Close,
        Kind::Note => Stored::Note(String::from_utf8(body).ok()?),
    })
}

#[cfg(test)]
#[path = "tests_format.rs"]
pub(super) mod tests;
