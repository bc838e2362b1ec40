//! A snapshot: the state as lines of JSON, so that a start need not fold the whole log (decisions.md 16).
//!
//! True here: what is written is a function of the state alone, so equal states give equal bytes; nothing is believed that was read, before
//! its SHA-256 is the expected one and it ends where it says.
//! Never here: the question whether a snapshot may be used: who keeps it answers that. The bundle is not in it, but beside it.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::bundle::Bundle;
use super::digest::Digest;
use super::grant::Grant;
use super::request::Request;
use super::shelf::Shelf;
use super::state::{Beside, State};

/// Names what wrote a snapshot: the release, and a number that rises whenever the fold changes within one.
pub const FOLD: &str = concat!(env!("CARGO_PKG_VERSION"), "/7");
/// The longest line, in bytes; the first holds all that is neither a request nor a grant.
const MAX_LINE: u64 = 256 << 20;

/// A snapshot as the log, or the signer's head, names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// How many entries are in it.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is none, or the disk refuses.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A line is not what this release writes.
    #[error("a line cannot be read: {0}")]
    Line(#[from] serde_json::Error),
    /// Another release or fold wrote it.
    #[error("it was written by {0}, this is {FOLD}")]
    Version(String),
    /// The lines are not those of a snapshot.
    #[error("{0}")]
    Shape(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line<T, R, G> {
    Head {
        fold: String,
        bundle: Digest,
        /// The tree's frontier as hex.
        frontier: String,
        state: T,
    },
    Request(R),
    Grant(G),
    /// What stands beside the state, where the keeper has no other place for it.
    Blob(String),
    End,
}

type Written<'a> = Line<&'a State, &'a Request, &'a Grant>;
type Found = Line<Box<State>, Request, Grant>;

/// A still picture of a state, cheap to take: it shares requests and grants with the state.
#[derive(Debug)]
pub struct Still {
    state: State,
    frontier: Vec<u8>,
    blobs: Vec<Vec<u8>>,
}

/// What was read.
#[derive(Debug)]
pub struct Restored {
    /// The state, with its indexes; its bundle is the one that the file names, or still the empty one.
    pub state: State,
    /// The digest of the bundle that the state had.
    pub bundle: Digest,
    /// The tree's frontier, encoded.
    pub frontier: Vec<u8>,
    /// What stood beside it.
    pub shelf: Shelf,
    /// The SHA-256 of all that was read.
    pub sha256: Digest,
}

impl Still {
    /// Takes the picture; `frontier` is the encoded frontier of the tree of exactly this size.
    pub fn of(state: &State, frontier: Vec<u8>, blobs: Vec<Vec<u8>>) -> Self {
        Self { state: state.clone(), frontier, blobs }
    }

    /// How many entries are in it.
    pub fn size(&self) -> u64 {
        self.state.size
    }

    /// Names the frontier, where it becomes known only after the picture was taken.
    #[must_use]
    pub fn with_frontier(mut self, frontier: Vec<u8>) -> Self {
        self.frontier = frontier;
        self
    }

    /// Writes it and gives the SHA-256 of what was written.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&self, out: &mut dyn Write) -> Result<Digest, SnapshotError> {
        let (mut hash, mut line) = (Sha256::new(), Vec::new());
        let mut put = |item: &Written<'_>| -> Result<(), SnapshotError> {
            line.clear();
            serde_json::to_writer(&mut line, item)?;
            line.push(b'\n');
            hash.update(&line);
            Ok(out.write_all(&line)?)
        };
        let frontier = data_encoding::HEXLOWER.encode(&self.frontier);
        put(&Line::Head { fold: FOLD.to_owned(), bundle: self.state.bundle.digest, frontier, state: &self.state })?;
        for blob in &self.blobs {
            let text = std::str::from_utf8(blob).map_err(|_| SnapshotError::Shape("a blob is not text"))?;
            put(&Line::Blob(text.to_owned()))?;
        }
        self.state.requests.values().try_for_each(|request| put(&Line::Request(request)))?;
        self.state.grants.values().try_for_each(|grant| put(&Line::Grant(grant)))?;
        put(&Line::End)?;
        Ok(Digest::new(hash.finalize().into()))
    }
}

impl State {
    /// Takes a request that was read elsewhere; it takes no more room than one that was folded.
    fn put_request(&mut self, mut request: Request) {
        request.terms = self.terms.share(request.terms);
        request.key = request.key.map(|key| self.keys.share(key));
        for approval in &mut request.approvals {
            approval.terms = self.terms.share(approval.terms.clone());
        }
        request.approvals.shrink_to_fit();
        request.rules.shrink_to_fit();
        self.requests.insert(request.id, request);
    }

    /// As [`State::put_request`].
    fn put_grant(&mut self, mut grant: Grant) {
        grant.terms = self.terms.share(grant.terms);
        grant.keys = grant.keys.into_iter().map(|key| self.keys.share(key)).collect();
        for credential in &mut grant.credentials {
            credential.key = self.keys.share(credential.key.clone());
        }
        grant.credentials.shrink_to_fit();
        grant.legs.shrink_to_fit();
        self.grants.insert(grant.id, grant);
    }
}

impl Restored {
    /// Reads a snapshot whole. The caller compares its SHA-256 and its size with what it trusts before it uses anything of it.
    ///
    /// # Errors
    /// When it is of another version, or not a snapshot.
    pub fn read(input: &mut dyn BufRead) -> Result<Self, SnapshotError> {
        let (mut hash, mut line) = (Sha256::new(), Vec::new());
        let mut next = || -> Result<Found, SnapshotError> {
            line.clear();
            let mut limited = Read::take(&mut *input, MAX_LINE);
            limited.read_until(b'\n', &mut line)?;
            hash.update(&line);
            Ok(serde_json::from_slice(&line)?)
        };
        let Line::Head { fold, bundle, frontier, state } = next()? else {
            return Err(SnapshotError::Shape("it does not begin with its head"));
        };
        if fold != FOLD {
            return Err(SnapshotError::Version(fold.chars().take(32).collect()));
        }
        let frontier = data_encoding::HEXLOWER
            .decode(frontier.as_bytes())
            .map_err(|_| SnapshotError::Shape("its frontier is not hex"))?;
        let (mut state, mut shelf) = (*state, Shelf::default());
        let admins = BTreeMap::clone(&state.admins);
        loop {
            match next()? {
                Line::Head { .. } => return Err(SnapshotError::Shape("it has two heads")),
                Line::Blob(text) => drop(shelf.put(text.as_bytes(), &admins)),
                Line::Request(request) => state.put_request(request),
                Line::Grant(grant) => state.put_grant(grant),
                Line::End => break,
            }
        }
        if !input.fill_buf()?.is_empty() {
            return Err(SnapshotError::Shape("something follows its end"));
        }
        state.index_all();
        if let Some(found) = shelf.bundle(&bundle) {
            state.bundle = found;
        }
        Ok(Self { state, bundle, frontier, shelf, sha256: Digest::new(hash.finalize().into()) })
    }

    /// Gives the state its bundle, if it is the one that it had.
    ///
    /// # Errors
    /// When it is another one.
    pub fn adopt(&mut self, bundle: Arc<Bundle>) -> Result<(), SnapshotError> {
        if bundle.digest != self.bundle {
            return Err(SnapshotError::Shape("its bundle is not there"));
        }
        self.state.bundle = bundle;
        Ok(())
    }
}
