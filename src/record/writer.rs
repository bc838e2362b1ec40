//! The threads that write: chunks, flushes and seals; nothing here ever runs on a worker of the runtime.
//!
//! A session belongs to one writer, so its chunks keep their order. What blocks on the disk (fdatasync, seals) is another thread's, so
//! that one slow flush delays nobody's chunks. The queues are unbounded channels of bounded content: at most one batch, one look and
//! one seal a session.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use super::error::RecordError;
use super::folder::Folder;
use super::live::{Batch, Live};
use crate::clock::monotonic_us;
use crate::domain::digest::Digest;
use crate::domain::ids::SessionId;
use crate::domain::session::Sealed;

/// How old a chunk gets before it is written, in microseconds.
const AGE_US: u64 = 250_000;
/// How long what is written may be only in the system's memory, in microseconds.
const SYNC_US: u64 = 8_000_000;

static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// How many bytes of recordings this process has written.
pub fn written_bytes() -> u64 {
    WRITTEN.load(Ordering::Relaxed)
}

/// What a writer is told.
pub enum Order {
    /// Chunks are ready.
    Write(Arc<Live>, Batch),
    /// A chunk has begun to fill.
    Watch(Arc<Live>),
    /// The session is over.
    Seal(Arc<Live>, oneshot::Sender<Result<Sealed, RecordError>>),
}

/// What the closer is told.
enum Slow {
    Sync(Arc<Live>),
    Seal(Arc<Live>, oneshot::Sender<Result<Sealed, RecordError>>),
}

/// Everything that is being recorded, so that a writer that dies takes it along.
pub type Registry = Arc<std::sync::Mutex<BTreeMap<SessionId, Weak<Live>>>>;

/// Starts the threads; gives the way to each writer. They end with the last sender.
///
/// `sealed` is called on the closer's thread after each seal.
///
/// # Errors
/// When the system gives no threads.
pub fn start(
    writers: usize,
    top: Arc<Folder>,
    all: &Registry,
    sealed: impl Fn(SessionId, (String, String)) + Send + 'static,
) -> std::io::Result<Vec<Sender<Order>>> {
    let (closer, slow) = channel();
    let doom = Doom(all.clone());
    std::thread::Builder::new().name("record-close".to_owned()).spawn(move || {
        close(&slow, &top, &doom.0, sealed);
    })?;
    (0..writers)
        .map(|n| {
            let (sender, orders) = channel();
            let writer = Writer { orders, closer: closer.clone(), due: BTreeMap::new(), drawn: 0 };
            let doom = Doom(all.clone());
            std::thread::Builder::new().name(format!("record-write-{n}")).spawn(move || {
                let _doom = doom;
                writer.run();
            })?;
            Ok(sender)
        })
        .collect()
}

/// Fails every recording when a thread of theirs panics: none goes on unwritten.
struct Doom(Registry);

impl Drop for Doom {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let all: Vec<_> = self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
            all.iter().filter_map(Weak::upgrade).for_each(|live| live.lose("a thread of the recorder died"));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Age,
    Sync,
}

struct Writer {
    orders: Receiver<Order>,
    closer: Sender<Slow>,
    /// When to look at what; the second number keeps keys apart.
    due: BTreeMap<(u64, u64), (Why, Arc<Live>)>,
    drawn: u64,
}

impl Writer {
    fn run(mut self) {
        loop {
            let order = match self.due.first_key_value() {
                None => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(((at, _), _)) => {
                    self.orders.recv_timeout(Duration::from_micros(at.saturating_sub(monotonic_us())))
                }
            };
            match order {
                Ok(Order::Write(live, batch)) => self.write(&live, batch),
                Ok(Order::Watch(live)) => self.at(monotonic_us() + AGE_US, Why::Age, live),
                Ok(Order::Seal(live, reply)) => {
                    if let Some(rest) = live.rest() {
                        self.write(&live, rest);
                    }
                    let _ = self.closer.send(Slow::Seal(live, reply));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if self.due.is_empty() => return,
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(10)),
            }
            self.look();
        }
    }

    fn at(&mut self, at: u64, why: Why, live: Arc<Live>) {
        self.drawn += 1;
        self.due.insert((at, self.drawn), (why, live));
    }

    fn look(&mut self) {
        let now = monotonic_us();
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let (why, live) = entry.remove();
            if why == Why::Sync {
                let _ = self.closer.send(Slow::Sync(live));
                continue;
            }
            let (batch, again) = live.due(now, AGE_US);
            if let Some(batch) = batch {
                self.write(&live, batch);
            }
            if let Some(at) = again {
                self.at(at, Why::Age, live);
            }
        }
    }

    /// Writes what is ready, and what becomes ready meanwhile.
    fn write(&mut self, live: &Arc<Live>, batch: Batch) {
        let mut next = Some(batch);
        while let Some(batch) = next.take() {
            if live.lost().is_some() {
                return;
            }
            let mut chain = live.chain.lock().unwrap_or_else(PoisonError::into_inner);
            let written =
                (&live.file).write_all(&batch.bytes).map_err(|e| e.to_string()).and_then(|()| still_there(&live.file));
            if let Err(why) = written {
                drop(chain);
                live.lose(why);
                return;
            }
            WRITTEN.fetch_add(batch.bytes.len() as u64, Ordering::Relaxed);
            chain.link = batch.link;
            (chain.chunks, chain.bytes) = (chain.chunks + batch.chunks, chain.bytes + batch.bytes.len() as u64);
            let bytes = chain.bytes;
            let first = !std::mem::replace(&mut chain.dirty, true);
            drop(chain);
            next = live.landed(batch.bytes, bytes);
            if first {
                self.at(monotonic_us() + SYNC_US, Why::Sync, live.clone());
            }
        }
    }
}

/// A file that was removed can still be written to, and would be gone with the session.
fn still_there(file: &std::fs::File) -> Result<(), String> {
    let found = rustix::fs::fstat(file).map_err(|e| e.to_string())?;
    if found.st_nlink == 0 { Err("its file was removed".to_owned()) } else { Ok(()) }
}

fn close(slow: &Receiver<Slow>, top: &Folder, all: &Registry, sealed: impl Fn(SessionId, (String, String))) {
    while let Ok(order) = slow.recv() {
        match order {
            Slow::Sync(live) => {
                live.chain.lock().unwrap_or_else(PoisonError::into_inner).dirty = false;
                if let Err(error) = live.file.sync_data() {
                    // A failed flush is final: what it dropped is not tried again by the system.
                    live.lose(error);
                }
            }
            Slow::Seal(live, reply) => {
                let done = seal(&live, top);
                let well = done.is_ok();
                all.lock().unwrap_or_else(PoisonError::into_inner).remove(&live.id);
                live.over();
                let _ = reply.send(done);
                if well {
                    sealed(live.id, live.month.clone());
                }
            }
        }
    }
}

fn seal(live: &Live, top: &Folder) -> Result<Sealed, RecordError> {
    let chain = *live.chain.lock().unwrap_or_else(PoisonError::into_inner);
    let io = |what: &str| RecordError::io(format!("{what} of {}", live.id));
    if live.lost().is_some() {
        // The end of a chunk that went wrong is no part of it.
        live.file.set_len(chain.bytes).map_err(io("the last whole chunk"))?;
    }
    still_there(&live.file).map_err(|why| RecordError::Lost { why: why.into() })?;
    live.file.sync_all().map_err(io("the file"))?;
    shelve(top, live.id, &live.month).map_err(io("the place"))?;
    Ok(Sealed { bytes: chain.bytes, chunks: chain.chunks, sha256: Digest::new(chain.link) })
}

/// Moves a finished file from the open ones to its month, durably.
pub fn shelve(top: &Folder, id: SessionId, month: &(String, String)) -> std::io::Result<()> {
    let open = top.make_folder(super::store::OPEN)?;
    let to = top.make_folder(&month.0)?.make_folder(&month.1)?;
    let name = super::store::name_of(id);
    open.rename(&name, &to, &name)?;
    to.sync()?;
    open.sync()
}
