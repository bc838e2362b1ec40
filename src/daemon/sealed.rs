//! A file that only a passphrase opens: what a backup is written through.
//!
//! True here: PBKDF2-HMAC-SHA512 makes the key (RFC 8018), AES-256-GCM seals pieces of a megabyte each (NIST SP 800-38D) under numbered nonces
//! and a salt of the file's own; the last piece says that it is the last, so that nothing can be changed, exchanged or cut off unseen.

use std::io::{self, Read, Write};
use std::num::NonZeroU32;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::pbkdf2;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The first line of the file.
const MAGIC: &[u8] = b"jit-broker backup 1\n";
/// Rounds of PBKDF2: about half a second.
const ROUNDS: u32 = 600_000;
/// The most rounds that a file may ask for, so that a made-up one cannot keep a machine busy.
const MOST_ROUNDS: u32 = 10_000_000;
/// The size of a piece, in bytes.
const PIECE: usize = 1 << 20;
/// What sealing adds to a piece, in bytes.
const TAG: usize = 16;
/// The longest header, in bytes.
const MAX_HEADER: usize = 4096;

/// What stands in front, in clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The program's version.
    pub version: String,
    /// The installation.
    pub install: String,
    /// When, in Unix seconds.
    pub at: i64,
    /// How the key is made of the passphrase: `pbkdf2-hmac-sha512`.
    kdf: String,
    rounds: u32,
    /// 32 random bytes as hex.
    salt: String,
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn key(passphrase: &str, rounds: u32, salt: &[u8]) -> io::Result<LessSafeKey> {
    let rounds = NonZeroU32::new(rounds).filter(|n| n.get() <= MOST_ROUNDS).ok_or_else(|| bad("its header"))?;
    let mut bytes = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, rounds, salt, passphrase.as_bytes(), &mut *bytes);
    let key = UnboundKey::new(&AES_256_GCM, &*bytes).map_err(|_| bad("its key"))?;
    Ok(LessSafeKey::new(key))
}

fn nonce(n: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = n.to_be_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

/// The header and whether a piece is the last are sealed with it.
fn beside(header: &[u8], last: Last) -> Vec<u8> {
    [header, &[u8::from(last == Last::Yes)]].concat()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

/// Seals what is written to it. Without [`Sealer::finish`] the file cannot be opened.
pub struct Sealer<W: Write> {
    out: W,
    key: LessSafeKey,
    header: Vec<u8>,
    piece: Zeroizing<Vec<u8>>,
    n: u64,
}

impl<W: Write> Sealer<W> {
    /// Writes the header. The salt is 32 random bytes.
    ///
    /// # Errors
    /// What the writer says.
    pub fn new(mut out: W, passphrase: &str, install: &str, at: i64, salt: [u8; 32]) -> io::Result<Self> {
        let header = Header {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            install: install.to_owned(),
            at,
            kdf: "pbkdf2-hmac-sha512".to_owned(),
            rounds: ROUNDS,
            salt: data_encoding::HEXLOWER.encode(&salt),
        };
        let mut line = serde_json::to_vec(&header)?;
        line.push(b'\n');
        out.write_all(MAGIC)?;
        out.write_all(&line)?;
        let key = key(passphrase, ROUNDS, &salt)?;
        Ok(Self { out, key, header: line, piece: Zeroizing::new(Vec::with_capacity(PIECE + TAG)), n: 0 })
    }

    fn seal(&mut self, last: Last) -> io::Result<()> {
        let mut bytes = self.piece.split_off(0);
        let beside = Aad::from(beside(&self.header, last));
        self.key.seal_in_place_append_tag(nonce(self.n), beside, &mut bytes).map_err(|_| bad("its key"))?;
        self.n += 1;
        let length = u32::try_from(bytes.len()).map_err(|_| bad("its length"))?;
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(&bytes)
    }

    /// Seals the last piece and gives the writer back.
    ///
    /// # Errors
    /// What the writer says.
    pub fn finish(mut self) -> io::Result<W> {
        self.seal(Last::Yes)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE - self.piece.len();
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.piece.extend_from_slice(taken);
        if self.piece.len() == PIECE {
            self.seal(Last::No)?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens what a [`Sealer`] sealed.
pub struct Opener<R: Read> {
    input: R,
    key: LessSafeKey,
    /// What stands in front.
    pub header: Header,
    line: Vec<u8>,
    piece: Zeroizing<Vec<u8>>,
    at: usize,
    n: u64,
    over: bool,
}

impl<R: Read> Opener<R> {
    /// Reads the header and makes the key; a wrong passphrase shows at the first read.
    ///
    /// # Errors
    /// `InvalidData` when it is no such file.
    pub fn new(mut input: R, passphrase: &str) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(|_| bad("it is no backup"))?;
        if magic != MAGIC {
            return Err(bad("it is no backup of this version"));
        }
        let (mut line, mut byte) = (Vec::new(), [0; 1]);
        while line.last() != Some(&b'\n') {
            if line.len() > MAX_HEADER {
                return Err(bad("its header"));
            }
            input.read_exact(&mut byte)?;
            line.extend_from_slice(&byte);
        }
        let header: Header = serde_json::from_slice(&line).map_err(|_| bad("its header"))?;
        let salt = data_encoding::HEXLOWER.decode(header.salt.as_bytes()).map_err(|_| bad("its header"))?;
        if header.kdf != "pbkdf2-hmac-sha512" {
            return Err(bad("its key is made in a way that is not known"));
        }
        let key = key(passphrase, header.rounds, &salt)?;
        Ok(Self { input, key, header, line, piece: Zeroizing::new(Vec::new()), at: 0, n: 0, over: false })
    }

    fn next(&mut self) -> io::Result<()> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(|_| bad("it was cut off"))?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > PIECE + TAG {
            return Err(bad("it was changed"));
        }
        let mut bytes = Zeroizing::new(vec![0; length]);
        self.input.read_exact(&mut bytes).map_err(|_| bad("it was cut off"))?;
        // A piece of full length may be the last one as well: which it is, its seal says.
        for last in [Last::No, Last::Yes] {
            let mut copy = Zeroizing::new(bytes.to_vec());
            let beside = Aad::from(beside(&self.line, last));
            if let Ok(plain) = self.key.open_in_place(nonce(self.n), beside, &mut copy) {
                let length = plain.len();
                copy.truncate(length);
                (self.piece, self.at, self.over) = (copy, 0, last == Last::Yes);
                self.n += 1;
                return Ok(());
            }
        }
        Err(bad(if self.n == 0 { "the passphrase is wrong, or it was changed" } else { "it was changed" }))
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.over {
                return Ok(0);
            }
            self.next()?;
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sealed(bytes: &[u8]) -> Vec<u8> {
        let mut sealer = Sealer::new(Vec::new(), "correct horse battery", "in_x", 7, [3; 32]).unwrap();
        sealer.write_all(bytes).unwrap();
        sealer.finish().unwrap()
    }

    fn opened(file: &[u8], passphrase: &str) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Opener::new(file, passphrase)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn what_was_sealed_comes_back_and_nothing_else_does() {
        let secret = b"-----BEGIN OPENSSH PRIVATE KEY-----";
        let long: Vec<u8> = secret.iter().copied().cycle().take(2 * PIECE + 5).collect();
        let file = sealed(&long);
        assert_eq!(opened(&file, "correct horse battery").unwrap(), long);
        assert!(!file.windows(secret.len()).any(|w| w == secret), "nothing of it is in clear");
        let wrong = opened(&file, "correct horse batterz").unwrap_err().to_string();
        assert!(wrong.contains("passphrase"), "{wrong}");
        // Cut at a piece's end, where no length tells, and anywhere else; a changed bit; two pieces exchanged.
        let head = file.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0 + 1;
        let piece = 4 + PIECE + TAG;
        for cut in [head, head + piece, head + 2 * piece, file.len() - 1] {
            assert!(opened(&file[..cut], "correct horse battery").is_err(), "cut at {cut}");
        }
        for at in [head - 5, head + 10, head + piece + 10, file.len() - 1] {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(opened(&changed, "correct horse battery").is_err(), "bit at {at}");
        }
        let mut exchanged = file.clone();
        exchanged[head..head + 2 * piece].rotate_left(piece);
        assert!(opened(&exchanged, "correct horse battery").is_err());
    }

    #[test]
    fn nothing_and_exactly_a_piece_are_files_too() {
        for bytes in [Vec::new(), vec![1; PIECE]] {
            assert_eq!(opened(&sealed(&bytes), "correct horse battery").unwrap(), bytes);
        }
        assert!(opened(b"", "x").is_err() && opened(b"SQLite format 3\0----------", "x").is_err());
    }
}
