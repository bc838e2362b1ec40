//! Key revocation lists by serial, of one CA or of those that replace one another (PROTOCOL.krl).
//!
//! A list is never empty as a file: sshd reads 0 bytes as "nothing is revoked". Serials are the only thing listed, since
//! key IDs would tell names. Lists are not signed inside (OpenSSH refuses that from 9.4); sign the file.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::{KeyError, PublicKey};
use crate::wire::{Reader, Short, put_string, put_u32, put_u64};

/// The most serials that a list read here may expand to, repetitions included.
pub const MAX_SERIALS: u64 = 1 << 24;

const MAGIC: u64 = 0x5353_484b_524c_0a00;
const FORMAT: u32 = 1;
const SECTION_CERTIFICATES: u8 = 1;
const SECTION_EXPLICIT_KEY: u8 = 2;
const SECTION_EXTENSION: u8 = 255;
const SERIAL_LIST: u8 = 0x20;
const SERIAL_RANGE: u8 = 0x21;
const SERIAL_BITMAP: u8 = 0x22;
const CERT_EXTENSION: u8 = 0x39;

/// PROTOCOL: OpenSSH reads numbers of at most 16384 bits, and one bitmap is one number.
const MAX_BITMAP_BITS: u64 = 16 * 1024;

/// What a serial, a range and the frame of a bitmap take in the file, in bytes.
const SERIAL_BYTES: u64 = 8;
const RANGE_BYTES: u64 = 5 + 16;
const BITMAP_FRAME_BYTES: u64 = 5 + 8 + 4 + 1;

/// Why a list is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KrlError {
    /// Not a KRL, or cut short.
    #[error("not a well-formed KRL")]
    Malformed,
    /// A format version other than 1.
    #[error("KRL format {0} is not known")]
    Format(u32),
    /// A section that does not revoke by serial.
    #[error("KRL section {0:#04x} is not read here")]
    Section(u8),
    /// A critical extension.
    #[error("the KRL has a critical extension that is not known")]
    Extension,
    /// No CA, an unnamed one ("any CA"), or several with different serials.
    #[error("a KRL is read for one CA, or for several with the same serials")]
    Ca,
    /// The CA's key is not acceptable.
    #[error("the CA key in the KRL is not acceptable")]
    Key(#[source] KeyError),
    /// Serial 0, or a range that ends before it starts.
    #[error("the KRL lists a serial that cannot be revoked")]
    Serial,
    /// More serials than are read.
    #[error("the KRL lists more than {MAX_SERIALS} serials")]
    TooLarge,
}

/// A revocation list for the certificates of one CA, and of others that share its serials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Krl {
    /// Grows with every list that is published; sshd does not compare it, our host kit does.
    pub version: u64,
    /// When the list was made, in seconds since 1970.
    pub generated_at: u64,
    /// The CA whose certificates are listed.
    pub ca: PublicKey,
    /// Others whose certificates are listed by the same serials: the one before, while a CA is being replaced.
    pub also: Vec<PublicKey>,
    /// CAs of which every certificate is revoked.
    pub retired: Vec<PublicKey>,
    /// The revoked serials.
    pub serials: BTreeSet<u64>,
}

impl Krl {
    /// Writes the list, each stretch of serials in the smallest of the format's three ways; the same list gives the same
    /// bytes, and an empty one a valid file.
    ///
    /// Serial 0 is left out: no certificate of this crate has it, and OpenSSH refuses a whole file that lists it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_u64(&mut out, MAGIC);
        put_u32(&mut out, FORMAT);
        put_u64(&mut out, self.version);
        put_u64(&mut out, self.generated_at);
        put_u64(&mut out, 0);
        put_string(&mut out, b"");
        put_string(&mut out, b"");
        let runs = runs(&self.serials);
        for ca in std::iter::once(&self.ca).chain(&self.also) {
            out.push(SECTION_CERTIFICATES);
            let mut certificates = Vec::new();
            put_string(&mut certificates, ca.blob());
            put_string(&mut certificates, b"");
            put_serials(&mut certificates, &runs);
            put_string(&mut out, &certificates);
        }
        // PROTOCOL: a revoked key revokes what it signed as well.
        if !self.retired.is_empty() {
            out.push(SECTION_EXPLICIT_KEY);
            let mut keys = Vec::new();
            self.retired.iter().for_each(|key| put_string(&mut keys, key.blob()));
            put_string(&mut out, &keys);
        }
        out
    }

    /// Reads a list that revokes serials of one CA, or the same serials of several, as this crate or `ssh-keygen -k` writes it.
    ///
    /// # Errors
    /// For anything else. What is not understood is refused rather than skipped, since skipping would un-revoke.
    pub fn decode(bytes: &[u8]) -> Result<Self, KrlError> {
        let mut reader = Reader::new(bytes);
        if reader.u64()? != MAGIC {
            return Err(KrlError::Malformed);
        }
        let format = reader.u32()?;
        if format != FORMAT {
            return Err(KrlError::Format(format));
        }
        let version = reader.u64()?;
        let generated_at = reader.u64()?;
        let _flags = reader.u64()?;
        let _reserved = reader.string()?;
        let _comment = reader.string()?;
        let (mut order, mut listed) = (Vec::new(), BTreeMap::new());
        let (mut retired, mut named) = (Vec::new(), 0);
        while !reader.is_empty() {
            let section = reader.u8()?;
            let body = Reader::new(reader.string()?);
            match section {
                SECTION_CERTIFICATES => {
                    let mut found = Found { named, ..Found::default() };
                    let ca = read_certificates(body, &mut found)?;
                    named = found.named;
                    listed.entry(ca.blob().to_vec()).or_insert_with(BTreeSet::new).extend(found.serials);
                    if !order.contains(&ca) {
                        order.push(ca);
                    }
                }
                SECTION_EXPLICIT_KEY => retired.extend(read_keys(body)?),
                SECTION_EXTENSION => skip_extension(body)?,
                other => return Err(KrlError::Section(other)),
            }
        }
        let mut sets = listed.into_values();
        let serials = sets.next().ok_or(KrlError::Ca)?;
        if order.is_empty() || sets.any(|other| other != serials) {
            return Err(KrlError::Ca);
        }
        let ca = order.remove(0);
        Ok(Self { version, generated_at, ca, also: order, retired, serials })
    }
}

impl From<Short> for KrlError {
    fn from(_: Short) -> Self {
        Self::Malformed
    }
}

/// Serials as stretches without a gap, both ends included.
fn runs(serials: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &serial in serials.range(1..) {
        match runs.last_mut() {
            Some((_, hi)) if hi.checked_add(1) == Some(serial) => *hi = serial,
            _ => runs.push((serial, serial)),
        }
    }
    runs
}

/// What a run takes when it is not part of a bitmap, in bytes.
fn alone_bytes((lo, hi): (u64, u64)) -> u64 {
    (hi - lo).saturating_add(1).saturating_mul(SERIAL_BYTES).min(RANGE_BYTES)
}

fn put_serials(out: &mut Vec<u8>, runs: &[(u64, u64)]) {
    let mut listed = Vec::new();
    let mut rest = runs;
    while let Some((&first, _)) = rest.split_first() {
        let (bytes_alone, len) = cluster(rest);
        let (bitmap, after) = rest.split_at(len);
        let span = bitmap.last().map_or(1, |last| last.1 - first.0 + 1);
        if len > 1 && BITMAP_FRAME_BYTES + span.div_ceil(8) < bytes_alone {
            put_bitmap(out, first.0, span, bitmap);
        } else {
            for &(lo, hi) in bitmap {
                if hi - lo >= 2 {
                    put_range(out, lo, hi);
                } else {
                    (lo..=hi).for_each(|serial| put_u64(&mut listed, serial));
                }
            }
        }
        rest = after;
    }
    if !listed.is_empty() {
        out.push(SERIAL_LIST);
        put_string(out, &listed);
    }
}

/// Gathers the runs that are worth a common bitmap: what they take one by one, in bytes, and how many they are.
///
/// A run joins while the bits up to its end cost no more than listing it, so a long run stays outside as a range.
fn cluster(runs: &[(u64, u64)]) -> (u64, usize) {
    let Some(&first) = runs.first() else { return (0, 0) };
    let mut bytes = alone_bytes(first);
    let mut last = first.1;
    let mut len = 1;
    if first.1 - first.0 >= RANGE_BYTES * 8 {
        return (bytes, len);
    }
    for &run in runs.iter().skip(1) {
        let too_wide = run.1 - first.0 >= MAX_BITMAP_BITS;
        if too_wide || run.1 - last > alone_bytes(run) * 8 {
            break;
        }
        bytes += alone_bytes(run);
        last = run.1;
        len += 1;
    }
    (bytes, len)
}

fn put_range(out: &mut Vec<u8>, lo: u64, hi: u64) {
    out.push(SERIAL_RANGE);
    let mut body = Vec::with_capacity(16);
    put_u64(&mut body, lo);
    put_u64(&mut body, hi);
    put_string(out, &body);
}

/// PROTOCOL: bit n of the number, counted from its low end, revokes `offset + n`.
fn put_bitmap(out: &mut Vec<u8>, offset: u64, span: u64, runs: &[(u64, u64)]) {
    let mut number = vec![0u8; usize::try_from(span.div_ceil(8)).unwrap_or(0)];
    for serial in runs.iter().flat_map(|&(lo, hi)| lo..=hi) {
        let bit = serial - offset;
        let from_end = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        if let Some(byte) = number.iter_mut().rev().nth(from_end) {
            *byte |= 1 << (bit % 8);
        }
    }
    // The number is signed on the wire: a set top bit needs a zero byte in front.
    if number.first().is_some_and(|byte| byte & 0x80 != 0) {
        number.insert(0, 0);
    }
    let mut body = Vec::with_capacity(number.len() + 12);
    put_u64(&mut body, offset);
    put_string(&mut body, &number);
    out.push(SERIAL_BITMAP);
    put_string(out, &body);
}

/// The serials read so far, and how many were named, repetitions included.
#[derive(Default)]
struct Found {
    serials: BTreeSet<u64>,
    named: u64,
}

impl Found {
    fn add(&mut self, lo: u64, hi: u64) -> Result<(), KrlError> {
        if lo == 0 || lo > hi {
            return Err(KrlError::Serial);
        }
        // SECURITY: counted before expanding, so that 37 bytes cannot ask for 2^64 entries.
        let count = (hi - lo).saturating_add(1);
        self.named = self.named.saturating_add(count);
        if self.named > MAX_SERIALS {
            return Err(KrlError::TooLarge);
        }
        self.serials.extend(lo..=hi);
        Ok(())
    }
}

fn read_keys(mut body: Reader<'_>) -> Result<Vec<PublicKey>, KrlError> {
    let mut keys = Vec::new();
    while !body.is_empty() {
        keys.push(PublicKey::from_wire(body.string()?).map_err(KrlError::Key)?);
    }
    Ok(keys)
}

fn read_certificates(mut body: Reader<'_>, found: &mut Found) -> Result<PublicKey, KrlError> {
    let blob = body.string()?;
    if blob.is_empty() {
        return Err(KrlError::Ca);
    }
    let key = PublicKey::from_wire(blob).map_err(KrlError::Key)?;
    let _reserved = body.string()?;
    while !body.is_empty() {
        let section = body.u8()?;
        let mut part = Reader::new(body.string()?);
        match section {
            SERIAL_LIST => {
                while !part.is_empty() {
                    let serial = part.u64()?;
                    found.add(serial, serial)?;
                }
            }
            SERIAL_RANGE => {
                found.add(part.u64()?, part.u64()?)?;
                if !part.is_empty() {
                    return Err(KrlError::Malformed);
                }
            }
            SERIAL_BITMAP => read_bitmap(part, found)?,
            CERT_EXTENSION => skip_extension(part)?,
            other => return Err(KrlError::Section(other)),
        }
    }
    Ok(key)
}

fn read_bitmap(mut part: Reader<'_>, found: &mut Found) -> Result<(), KrlError> {
    let offset = part.u64()?;
    let number = part.string()?;
    let negative = number.first().is_some_and(|byte| byte & 0x80 != 0);
    let magnitude = number.strip_prefix(&[0]).unwrap_or(number);
    if !part.is_empty() || negative || magnitude.len() as u64 * 8 > MAX_BITMAP_BITS {
        return Err(KrlError::Malformed);
    }
    for (at, byte) in magnitude.iter().rev().enumerate() {
        for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
            let serial = offset.checked_add(at as u64 * 8 + bit).ok_or(KrlError::Serial)?;
            found.add(serial, serial)?;
        }
    }
    Ok(())
}

/// PROTOCOL: name, critical, contents; an unknown critical extension makes the list unusable.
fn skip_extension(mut body: Reader<'_>) -> Result<(), KrlError> {
    let _name = body.string()?;
    let critical = body.u8()?;
    let _contents = body.string()?;
    if critical != 0 { Err(KrlError::Extension) } else { Ok(()) }
}
