//! The log as lines of JSON, to be kept elsewhere and verified offline.
//!
//! True here: header, leaves in order, blobs, checkpoints; each line is exactly what its own encoding gives, so that no
//! byte can change unseen. What never happens here: nothing below the size that was asked for is left out. Start at
//! [`export_jsonl`].

use super::error::LedgerError;
use super::reader::{PAGE, Reader};
use super::tree::Hash;
use super::{Keep, MAX_BLOB, sqlite};
use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::Write;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

const FORMAT: &str = "jit-broker-ledger";
const VERSION: u32 = 1;
/// A blob in base64, and room for the rest of its line.
const MAX_LINE: u64 = (MAX_BLOB as u64).div_ceil(3) * 4 + 1024;

#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Line<'a> {
    Header { format: Cow<'a, str>, version: u32, size: u64 },
    Leaf { seq: u64, leaf: Cow<'a, str> },
    Blob { blob: Cow<'a, str>, bytes: Cow<'a, str>, keep: Keep },
    Checkpoint { checkpoint: Cow<'a, str>, size: u64 },
}

/// Writes the log's first `size` leaves, or all if there are fewer, with every blob and every checkpoint of them. Of a log
/// that is being written, a size that is known to be signed gives an export whose end is signed too.
///
/// # Errors
/// [`LedgerError::Io`] of the store or of `out`; [`LedgerError::Corrupt`] at a gap.
pub async fn export_jsonl(reader: &Reader, size: u64, out: &mut (dyn Write + Send)) -> Result<(), LedgerError> {
    let size = size.min(reader.size().await?);
    put(out, &Line::Header { format: FORMAT.into(), version: VERSION, size })?;
    let mut seq = 0;
    while seq < size {
        let page = reader.leaves(seq, PAGE).await?;
        if page.is_empty() {
            return Err(LedgerError::Corrupt { seq });
        }
        for leaf in page.into_iter().filter(|leaf| leaf.seq < size) {
            if leaf.seq != seq {
                return Err(LedgerError::Corrupt { seq });
            }
            put(out, &Line::Leaf { seq, leaf: BASE64.encode(&leaf.bytes).into() })?;
            seq += 1;
        }
    }
    let mut id = 0;
    while let Some(blob) = sqlite::blob_after(&reader.pool, id).await? {
        id = blob.id;
        let (hash, bytes) = (HEXLOWER.encode(&blob.sha256), BASE64.encode(&blob.bytes));
        put(out, &Line::Blob { blob: hash.into(), bytes: bytes.into(), keep: blob.keep })?;
    }
    let mut id = 0;
    loop {
        let page = sqlite::checkpoints(&reader.pool, id, PAGE).await?;
        let Some(last) = page.last() else { break };
        id = last.id;
        for note in page {
            let noted = u64::try_from(note.size).unwrap_or(u64::MAX);
            // A checkpoint beyond `size` belongs to leaves that nobody asked for, or to lost ones: those show, so
            // it is left out only if the store has its leaves.
            if noted > size && noted <= reader.size().await? {
                continue;
            }
            put(out, &Line::Checkpoint { checkpoint: String::from_utf8_lossy(&note.text), size: noted })?;
        }
    }
    Ok(out.flush()?)
}

/// One piece of a log on its way by.
#[derive(Debug)]
pub enum Part {
    /// A leaf, in order.
    Leaf {
        /// Its index.
        seq: u64,
        /// Its exact bytes.
        bytes: Vec<u8>,
    },
    /// A blob; in an export after all leaves.
    Blob(Vec<u8>),
}

/// Shows every leaf and blob of an export; nothing is judged, which is for [`super::verify::verify`].
///
/// # Errors
/// [`LedgerError::Missing`], [`LedgerError::Io`].
pub async fn each(path: &Path, see: &mut (dyn FnMut(Part) + Send)) -> Result<(), LedgerError> {
    let mut lines = ExportLines::open(path).await?;
    while let Some(record) = lines.next().await? {
        match record {
            Record::Leaf { seq, bytes } => see(Part::Leaf { seq, bytes }),
            Record::Blob { bytes, .. } => see(Part::Blob(bytes)),
            Record::Header { .. } | Record::Checkpoint { .. } | Record::Bad { .. } => {}
        }
    }
    Ok(())
}

/// Reads the first leaf of an export, as its line has it.
///
/// # Errors
/// [`LedgerError::Missing`], [`LedgerError::Io`].
pub async fn first_leaf(path: &Path) -> Result<Option<Vec<u8>>, LedgerError> {
    let mut lines = ExportLines::open(path).await?;
    while let Some(record) = lines.next().await? {
        if let Record::Leaf { seq: 0, bytes } = record {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn put(out: &mut (dyn Write + Send), line: &Line<'_>) -> Result<(), LedgerError> {
    let mut text = serde_json::to_vec(line).map_err(std::io::Error::other)?;
    text.push(b'\n');
    Ok(out.write_all(&text)?)
}

/// A line of an export, decoded.
pub(super) enum Record {
    Header { size: u64 },
    Leaf { seq: u64, bytes: Vec<u8> },
    Blob { hash: Hash, bytes: Vec<u8>, keep: Keep },
    Checkpoint { text: String, size: u64 },
    Bad { line: u64, why: &'static str },
}

/// Reads an export line by line.
pub(super) struct ExportLines {
    reader: BufReader<tokio::fs::File>,
    line: u64,
    buffer: Vec<u8>,
}

impl ExportLines {
    pub(super) async fn open(path: &Path) -> Result<Self, LedgerError> {
        let file = match tokio::fs::File::open(path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(LedgerError::Missing),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { reader: BufReader::with_capacity(256 * 1024, file), line: 0, buffer: Vec::new() })
    }

    /// Reads the next line that is no leaf, as the first of two readings does: leaves are judged in the second.
    pub(super) async fn next_beside(&mut self) -> Result<Option<Record>, LedgerError> {
        while self.fill().await? {
            if !self.buffer.starts_with(b"{\"seq\":") {
                return Ok(Some(self.record()));
            }
        }
        Ok(None)
    }

    /// Reads the next line; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Record>, LedgerError> {
        Ok(if self.fill().await? { Some(self.record()) } else { None })
    }

    async fn fill(&mut self) -> Result<bool, LedgerError> {
        self.buffer.clear();
        let read = (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut self.buffer).await?;
        self.line += u64::from(read > 0);
        Ok(read > 0)
    }

    fn record(&self) -> Record {
        decode(&self.buffer, self.line).unwrap_or_else(|why| Record::Bad { line: self.line, why })
    }
}

fn decode(bytes: &[u8], number: u64) -> Result<Record, &'static str> {
    let bytes = bytes.strip_suffix(b"\n").ok_or("no line break, or the line is too long")?;
    let line: Line<'_> = serde_json::from_slice(bytes).map_err(|_| "not a line of an export")?;
    if serde_json::to_vec(&line).ok().as_deref() != Some(bytes) {
        return Err("not in its own encoding");
    }
    let base64 = |text: &str| BASE64.decode(text.as_bytes()).map_err(|_| "not base64");
    if (number == 1) != matches!(line, Line::Header { .. }) {
        return Err("the header is the first line, and only that");
    }
    Ok(match line {
        Line::Header { format, version, size } if format == FORMAT && version == VERSION => Record::Header { size },
        Line::Header { .. } => return Err("another format or version"),
        Line::Leaf { seq, leaf } => Record::Leaf { seq, bytes: base64(&leaf)? },
        Line::Blob { blob, bytes, keep } => {
            let hash = HEXLOWER.decode(blob.as_bytes()).ok().and_then(|h| Hash::try_from(h.as_slice()).ok());
            Record::Blob { hash: hash.ok_or("not a SHA-256")?, bytes: base64(&bytes)?, keep }
        }
        Line::Checkpoint { checkpoint, size } => Record::Checkpoint { text: checkpoint.into_owned(), size },
    })
}
