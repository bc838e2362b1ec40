//! The folder of recordings: where they lie, how one begins, and what a killed daemon left.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};

use super::error::RecordError;
use super::folder::Folder;
use super::format::{Broken, Decoder, begin};
use super::frame::Header;
use super::live::{Chain, Live, Recorder};
use super::reader::Reader;
use super::writer::{Order, Registry, shelve, start};
use crate::domain::ids::SessionId;
use crate::domain::session::Sealed;

/// The folder of recordings that are not sealed.
pub(super) const OPEN: &str = "open";
/// Below this no new session is recorded; below twice that it is said in the log. In thousandths of the disk.
const LEAST_PERMILLE: u64 = 50;
/// The most writing threads.
const MAX_WRITERS: usize = 4;

/// All recordings of a broker: `<dir>/open/<session>.rec` while they grow, `<dir>/<yyyy>/<mm>/<session>.rec` when they are sealed.
pub struct Store {
    dir: PathBuf,
    top: Arc<Folder>,
    writers: Vec<Sender<Order>>,
    live: Registry,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.dir.display())
    }
}

pub(super) fn name_of(id: SessionId) -> String {
    format!("{id}.rec")
}

/// Year and month of an instant, in UTC.
fn month_of(at_ms: i64) -> (String, String) {
    let at = jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default().to_string();
    let part = |range| at.get(range).unwrap_or("0000").to_owned();
    (part(0..4), part(5..7))
}

impl Store {
    /// Opens the folder, making it where it is missing, and starts the writers.
    ///
    /// # Errors
    /// [`RecordError::Io`] when others may enter it, or it cannot be opened.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, RecordError> {
        let dir = dir.into();
        let io = || RecordError::io(format!("the folder of recordings {}", dir.display()));
        let top = Arc::new(Folder::top(&dir).map_err(io())?);
        let live = Registry::default();
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_WRITERS);
        let finished = indexer(top.clone()).map_err(io())?;
        let sealed = move |id, month| drop(finished.send((id, month)));
        let writers = start(count, top.clone(), &live, sealed).map_err(io())?;
        Ok(Self { dir, top, writers, live })
    }

    /// Opens a folder only to read and to verify what is in it; whose it is does not matter.
    ///
    /// # Errors
    /// [`RecordError::Io`] when it cannot be opened.
    pub fn to_read(dir: impl Into<PathBuf>) -> Result<Self, RecordError> {
        let dir = dir.into();
        let top = Folder::foreign(&dir)
            .map_err(|source| RecordError::Io { what: format!("{}: {source}", dir.display()), source })?;
        Ok(Self { dir, top: Arc::new(top), writers: Vec::new(), live: Registry::default() })
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<SessionId, Weak<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How much of the disk is free, in thousandths.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn free_permille(&self) -> Result<u64, RecordError> {
        self.top.free_permille().map_err(RecordError::io("the disk".to_owned()))
    }

    /// Whether a recording could be begun here, as far as that can be seen without one.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn writable(&self) -> Result<(), RecordError> {
        let io = || RecordError::io(format!("the folder of recordings {}", self.dir.display()));
        self.top.writable().map_err(io())?;
        match self.top.folder(OPEN) {
            // Made with the first one.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            open => open.and_then(|open| open.writable()).map_err(io()),
        }
    }

    /// Begins a recording; the header is in the file when this returns. Blocks on the disk for a moment.
    ///
    /// # Errors
    /// [`RecordError::Room`] when less than 5 % of the disk is free; [`RecordError::Io`] when there is one of this session already, or
    /// the file cannot be made.
    pub fn begin(&self, header: Header) -> Result<Recorder, RecordError> {
        let id = header.session;
        let io = |what: &str| RecordError::io(format!("{what} of {id}"));
        if self.writers.is_empty() {
            return Err(RecordError::Lost { why: "this folder is only read".into() });
        }
        let permille_free = self.top.free_permille().map_err(io("the disk"))?;
        if permille_free < LEAST_PERMILLE {
            return Err(RecordError::Room { permille_free });
        }
        if permille_free < 2 * LEAST_PERMILLE {
            tracing::warn!(
                permille_free,
                "the disk for recordings is nearly full; below 50 no new session is recorded"
            );
        }
        let (bytes, link) = begin(&header);
        let open = self.top.make_folder(OPEN).map_err(io("the folder"))?;
        let mut file = open.make_file(&name_of(id)).map_err(io("the file"))?;
        if let Err(error) = file.write_all(&bytes) {
            // Nothing is in it yet, and nobody would ever seal it.
            let _ = open.remove(&name_of(id));
            return Err(io("the header")(error));
        }
        let chain = Chain { link, chunks: 0, bytes: bytes.len() as u64, dirty: false };
        let writer = self.writers[usize::from(link[0]) % self.writers.len()].clone();
        let live = Arc::new(Live::new(id, month_of(header.opened_at_ms), file, chain, writer));
        let mut all = self.live();
        all.retain(|_, live| live.strong_count() > 0);
        all.insert(id, Arc::downgrade(&live));
        Ok(Recorder { live })
    }

    /// The recorder of a session that is being recorded by this process.
    pub fn recorder(&self, id: SessionId) -> Option<Recorder> {
        let live = self.live().get(&id)?.upgrade()?;
        Some(Recorder { live })
    }

    /// Finds a recording, sealed or not.
    fn find(&self, id: SessionId) -> Result<(PathBuf, File), RecordError> {
        let name = name_of(id);
        // A seal may move it while we look: so open, sealed, and open again.
        for _ in 0..2 {
            if let Ok(file) = self.top.folder(OPEN).and_then(|open| open.file(&name)) {
                return Ok((self.dir.join(OPEN).join(&name), file));
            }
            for (year, month, folder) in self.months() {
                if let Ok(file) = folder.file(&name) {
                    return Ok((self.dir.join(year).join(month).join(&name), file));
                }
            }
        }
        Err(RecordError::Missing)
    }

    /// The folders of sealed recordings, newest first.
    pub(super) fn months(&self) -> Vec<(String, String, Folder)> {
        let digits = |name: &String, n: usize| name.len() == n && name.bytes().all(|b| b.is_ascii_digit());
        let mut out = Vec::new();
        for year in self.top.names().unwrap_or_default().into_iter().rev().filter(|name| digits(name, 4)) {
            let Ok(folder) = self.top.folder(&year) else { continue };
            for month in folder.names().unwrap_or_default().into_iter().rev().filter(|name| digits(name, 2)) {
                out.extend(folder.folder(&month).map(|inside| (year.clone(), month, inside)));
            }
        }
        out
    }

    /// Where a recording lies.
    ///
    /// # Errors
    /// [`RecordError::Missing`].
    pub fn path(&self, id: SessionId) -> Result<PathBuf, RecordError> {
        self.find(id).map(|(path, _)| path)
    }

    /// The open file of a recording, sealed or not.
    ///
    /// # Errors
    /// [`RecordError::Missing`].
    pub fn file(&self, id: SessionId) -> Result<File, RecordError> {
        self.find(id).map(|(_, file)| file)
    }

    /// Reads a recording, sealed or not.
    ///
    /// # Errors
    /// [`RecordError::Missing`], or when it is not a recording of this session.
    pub fn reader(&self, id: SessionId) -> Result<Reader<File>, RecordError> {
        let mut reader = Reader::new(self.file(id)?);
        let header = reader.header().map_err(|e| RecordError::Lost { why: e.to_string().into() })?;
        if header.session != id {
            return Err(RecordError::Lost { why: "it is another session's".into() });
        }
        Ok(reader)
    }

    /// Checks a sealed recording: its header, each chunk, its end.
    ///
    /// # Errors
    /// Which chunk is not what was recorded; chunk 0 is the header, or the whole file.
    pub fn verify(&self, id: SessionId, sealed: &Sealed) -> Result<(), Broken> {
        let broken = |what: String| Broken { chunk: 0, what };
        let mut file = self.file(id).map_err(|e| broken(e.to_string()))?;
        let mut decoder = Decoder::default();
        let read = follow(&mut file, &mut decoder);
        if decoder.header().is_some_and(|header| header.session != id) {
            return Err(broken("it is another session's".to_owned()));
        }
        read?;
        let (bytes, chunks, sha256) = decoder.whole();
        let next = Broken { chunk: chunks + 1, what: String::new() };
        if decoder.header().is_none() {
            return Err(broken("its header is not whole".to_owned()));
        }
        if chunks < sealed.chunks {
            return Err(Broken { what: format!("it is missing; {} were sealed", sealed.chunks), ..next });
        }
        if chunks > sealed.chunks || decoder.left_over() > 0 {
            let what = format!("there is more than the {} that were sealed", sealed.chunks);
            return Err(Broken { chunk: sealed.chunks + 1, what });
        }
        if bytes != sealed.bytes || sha256 != sealed.sha256 {
            let what = "the chain to here is not the one that was sealed".to_owned();
            return Err(Broken { chunk: chunks, what });
        }
        Ok(())
    }

    /// What a sealed recording is known by, read from the file itself: for a session whose end did not reach the log.
    ///
    /// # Errors
    /// [`RecordError::Missing`], or that it is broken.
    pub fn sealed(&self, id: SessionId) -> Result<Sealed, RecordError> {
        let mut decoder = Decoder::default();
        let lost = |e: Broken| RecordError::Lost { why: e.to_string().into() };
        follow(&mut self.file(id)?, &mut decoder).map_err(lost)?;
        let (bytes, chunks, sha256) = decoder.whole();
        Ok(Sealed { bytes, chunks, sha256 })
    }

    /// Seals what a killed daemon left, each up to its last whole chunk. Before anything is recorded; also gives nothing of what this
    /// process is recording.
    pub fn recover(&self) -> Vec<(SessionId, Sealed)> {
        let Ok(open) = self.top.folder(OPEN) else { return Vec::new() };
        let names = open.names().unwrap_or_default();
        let ids = names.iter().filter_map(|name| name.strip_suffix(".rec")?.parse::<SessionId>().ok());
        let mut out = Vec::new();
        for id in ids {
            if self.live().get(&id).is_some_and(|live| live.strong_count() > 0) {
                continue;
            }
            match self.mend(&open, id) {
                Ok(sealed) => out.push((id, sealed)),
                Err(error) => tracing::error!(session = %id, %error, "a recording could not be sealed"),
            }
        }
        out
    }

    fn mend(&self, open: &Folder, id: SessionId) -> Result<Sealed, RecordError> {
        let name = name_of(id);
        let io = |what: &str| RecordError::io(format!("{what} of {id}"));
        let mut file = open.file_to_mend(&name).map_err(io("the file"))?;
        let mut decoder = Decoder::default();
        let broken = follow(&mut file, &mut decoder).err();
        let lost = |why: &str| RecordError::Lost { why: why.into() };
        let Some(header) = decoder.header() else {
            // Nothing passed before there was a header, so nothing of the session is lost with it.
            open.rename(&name, open, &format!("{name}.torn")).map_err(io("the place"))?;
            return Err(lost("its header is not whole"));
        };
        if header.session != id {
            return Err(lost("it is another session's"));
        }
        let month = month_of(header.opened_at_ms);
        let (bytes, chunks, sha256) = decoder.whole();
        if let Some(broken) = broken {
            // Not a chunk that is only torn: what is cut off is kept, for whoever asks what happened.
            tracing::warn!(session = %id, %broken, "the rest of a recording that a stop left is set aside");
            set_aside(open, &name, &mut file, bytes).map_err(io("the rest"))?;
        }
        file.set_len(bytes).map_err(io("the file"))?;
        file.sync_all().map_err(io("the file"))?;
        shelve(&self.top, id, &month).map_err(io("the place"))?;
        Ok(Sealed { bytes, chunks, sha256 })
    }
}

/// Starts the thread that makes sealed recordings searchable; it ends with the sender.
fn indexer(top: Arc<Folder>) -> std::io::Result<Sender<(SessionId, (String, String))>> {
    let (sender, sealed) = std::sync::mpsc::channel::<(SessionId, (String, String))>();
    std::thread::Builder::new().name("record-index".to_owned()).spawn(move || {
        for (id, (year, month)) in sealed {
            let made =
                top.folder(&year).and_then(|y| y.folder(&month)).and_then(|folder| super::index::make(&folder, id));
            if let Err(error) = made {
                tracing::warn!(session = %id, %error, "a recording cannot be searched yet");
            }
        }
    })?;
    Ok(sender)
}

/// Reads a file to its end or to the first chunk that is broken.
fn follow(file: &mut File, decoder: &mut Decoder) -> Result<(), Broken> {
    loop {
        let read = decoder.pull(file, 256 << 10);
        if read.map_err(|e| Broken { chunk: decoder.whole().1 + 1, what: e.to_string() })? == 0 {
            return Ok(());
        }
        while decoder.skip()? {}
    }
}

fn set_aside(open: &Folder, name: &str, file: &mut File, from: u64) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(from))?;
    let torn = format!("{name}.torn");
    // What a stop in the middle of this left is a piece of the same.
    match open.remove(&torn) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut aside = open.make_file(&torn)?;
    std::io::copy(file, &mut aside)?;
    aside.sync_all()
}

#[cfg(test)]
#[path = "tests_store.rs"]
mod tests;
