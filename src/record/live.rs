//! A session that is being recorded: the half of it that whoever forwards bytes holds.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};

use super::error::RecordError;
use super::format::{CHUNK, Encoded, Packer};
use super::frame::Frame;
use super::typed::{Release, Typed};
use super::writer::Order;
use crate::clock::monotonic_us;
use crate::domain::ids::SessionId;
use crate::domain::session::Sealed;

/// How long a frame may wait for its chunk to be written, in microseconds (security.md fault 16).
const LATEST_US: u64 = 8_000_000;
/// So much of a chunk's memory is worth keeping.
const WORTH: usize = CHUNK / 2;
/// So many bytes of frames behind one order to the writer, where they compress well: waking it costs more than writing them.
const ENOUGH: usize = 2 * CHUNK;
/// The most terminals of one session at a time.
const MAX_TERMINALS: usize = 256;

/// What the writers and the recorder share of one session.
pub struct Live {
    /// Whose it is.
    pub id: SessionId,
    /// Where it lies when it is sealed: year and month.
    pub month: (String, String),
    /// The open file.
    pub file: File,
    /// What the chain is at; the writers' alone.
    pub chain: Mutex<Chain>,
    state: Mutex<State>,
    room: Notify,
    failed: watch::Sender<bool>,
    written: watch::Sender<u64>,
    writer: Sender<Order>,
    began_us: u64,
}

/// How far the file is whole.
#[derive(Debug, Clone, Copy)]
pub struct Chain {
    /// The last link.
    pub link: [u8; 32],
    /// Chunks.
    pub chunks: u64,
    /// Bytes.
    pub bytes: u64,
    /// Some of it may be in the system's memory alone.
    pub dirty: bool,
}

/// Chunks that are written together.
#[derive(Debug, Default)]
pub struct Batch {
    /// The chunks.
    pub bytes: Vec<u8>,
    /// How many they are.
    pub chunks: u64,
    /// The link of the last.
    pub link: [u8; 32],
    /// How many bytes of frames are in them.
    plain: usize,
}

impl Batch {
    /// It waits to be written before more is put behind it.
    fn is_full(&self) -> bool {
        self.bytes.len() > WORTH || self.plain >= ENOUGH
    }
}

#[derive(Default)]
struct State {
    /// The frames of the chunk that is being filled.
    frames: Vec<u8>,
    packer: Packer,
    /// The chunks before it that are not handed over.
    ready: Batch,
    /// The link of the last chunk that was made.
    link: [u8; 32],
    /// When the first frame came of what is not handed over.
    since_us: u64,
    /// When the batch was handed over that is not written yet.
    flying_us: Option<u64>,
    /// The last batch's memory, while there is much to write.
    spare: Vec<u8>,
    /// The writer looks at it again by itself.
    watched: bool,
    last_us: u64,
    closed: bool,
    lost: Option<Arc<str>>,
    terminals: BTreeMap<u32, Typed>,
}

impl State {
    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.ready.bytes.is_empty()
    }

    /// Makes a chunk of the frames.
    fn close_chunk(&mut self) {
        if self.frames.is_empty() {
            return;
        }
        if self.ready.bytes.capacity() == 0 {
            self.ready.bytes = std::mem::take(&mut self.spare);
        }
        self.link = self.packer.pack(&self.frames, &self.link, &mut self.ready.bytes);
        (self.ready.link, self.ready.chunks) = (self.link, self.ready.chunks + 1);
        self.ready.plain += self.frames.len();
        self.frames.clear();
    }

    /// What is handed over now.
    fn hand_over(&mut self, now: u64) -> Batch {
        self.flying_us = Some(now);
        self.since_us = now;
        std::mem::take(&mut self.ready)
    }
}

impl Live {
    /// A recording whose header is written.
    pub fn new(id: SessionId, month: (String, String), file: File, chain: Chain, writer: Sender<Order>) -> Self {
        let now = monotonic_us();
        Self {
            id,
            month,
            file,
            chain: Mutex::new(chain),
            state: Mutex::new(State { last_us: now, link: chain.link, ..State::default() }),
            room: Notify::new(),
            failed: watch::Sender::new(false),
            written: watch::Sender::new(chain.bytes),
            writer,
            began_us: now,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every call fails, for this reason. What was written before stays.
    pub fn lose(&self, why: impl std::fmt::Display) {
        let mut state = self.state();
        if state.lost.is_none() {
            tracing::error!(session = %self.id, %why, "the recording is lost");
            state.lost = Some(why.to_string().into());
        }
        (state.frames, state.spare, state.ready) = (Vec::new(), Vec::new(), Batch::default());
        drop(state);
        self.failed.send_replace(true);
        self.room.notify_waiters();
    }

    /// Why it is lost, if it is.
    pub fn lost(&self) -> Option<Arc<str>> {
        self.state().lost.clone()
    }

    /// A batch was written; `bytes` are in the file now. Gives what has become ready meanwhile.
    pub fn landed(&self, mut memory: Vec<u8>, bytes: u64) -> Option<Batch> {
        let mut state = self.state();
        state.flying_us = None;
        // Only a session that has much to say keeps the memory.
        if memory.capacity() > WORTH && !state.is_empty() && state.lost.is_none() {
            memory.clear();
            state.spare = memory;
        }
        let more = (state.ready.is_full() && state.lost.is_none()).then(|| state.hand_over(monotonic_us()));
        drop(state);
        self.written.send_replace(bytes);
        self.room.notify_waiters();
        more
    }

    /// It is sealed: nobody waits for more of it.
    pub fn over(&self) {
        self.written.send_replace(u64::MAX);
    }

    /// What is due at `now_us`: what is to be written, and when to look again. Without either it is idle.
    pub fn due(&self, now_us: u64, age_us: u64) -> (Option<Batch>, Option<u64>) {
        let mut state = self.state();
        if state.is_empty() {
            state.watched = false;
            (state.spare, state.frames) = (Vec::new(), Vec::new());
            return (None, None);
        }
        let at = state.since_us + age_us;
        if now_us < at {
            return (None, Some(at));
        }
        // The batch before it is in this writer's queue; this one goes right after.
        if state.flying_us.is_some() {
            return (None, Some(now_us + age_us / 10));
        }
        state.close_chunk();
        (Some(state.hand_over(now_us)), Some(now_us + age_us))
    }

    /// How much memory its chunks hold, in bytes.
    #[cfg(test)]
    pub fn holds(&self) -> usize {
        let state = self.state();
        state.frames.capacity() + state.ready.bytes.capacity() + state.spare.capacity()
    }

    /// Takes what is left, for the last time.
    pub fn rest(&self) -> Option<Batch> {
        let mut state = self.state();
        state.closed = true;
        state.watched = false;
        state.close_chunk();
        (state.spare, state.frames) = (Vec::new(), Vec::new());
        let rest = std::mem::take(&mut state.ready);
        (rest.chunks > 0).then_some(rest)
    }

    /// One attempt to put the rest of a frame; `None` when there is no room before the next chunk is written.
    fn try_put(self: &Arc<Self>, frame: &mut Encoded<'_>) -> Result<Option<()>, RecordError> {
        let now = monotonic_us();
        let mut state = self.state();
        if let Some(why) = &state.lost {
            return Err(RecordError::Lost { why: why.clone() });
        }
        if state.closed {
            return Err(RecordError::Closed);
        }
        let oldest = state.flying_us.or((!state.is_empty()).then_some(state.since_us));
        if oldest.is_some_and(|at| now.saturating_sub(at) > LATEST_US) {
            drop(state);
            self.lose("nothing was written for 8 s");
            return Err(RecordError::Lost { why: "nothing was written for 8 s".into() });
        }
        loop {
            if state.ready.is_full() {
                if state.flying_us.is_some() {
                    return Ok(None);
                }
                let batch = state.hand_over(now);
                self.order(Order::Write(self.clone(), batch))?;
            }
            if state.is_empty() {
                state.since_us = now;
            }
            let since = now.saturating_sub(state.last_us);
            let (whole, put) = frame.put(&mut state.frames, since);
            if put {
                state.last_us = now.max(state.last_us);
            }
            if whole {
                break;
            }
            state.close_chunk();
        }
        if !std::mem::replace(&mut state.watched, true) {
            self.order(Order::Watch(self.clone()))?;
        }
        Ok(Some(()))
    }

    fn order(&self, order: Order) -> Result<(), RecordError> {
        self.writer.send(order).map_err(|_| RecordError::Lost { why: "the writer is gone".into() })
    }

    async fn put(self: &Arc<Self>, mut frame: Encoded<'_>) -> Result<(), RecordError> {
        if self.try_put(&mut frame)?.is_some() {
            return Ok(());
        }
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.try_put(&mut frame)?.is_some() {
                return Ok(());
            }
            let patience = Duration::from_micros(LATEST_US + 100_000);
            // Late or not, the next attempt says so.
            let _ = tokio::time::timeout(patience, room).await;
        }
    }
}

/// Takes what happens in one session. Cheap to clone.
///
/// At most 64 KiB of the file's bytes are not in it yet, which is never more than 192 KiB of what was put however well it compresses, for
/// at most 250 ms while the disk keeps up; after 8 s without a write the recording is lost. At most 8 s of what is in the file are not on the
/// disk when the power fails. An idle session holds no buffer.
#[derive(Clone)]
pub struct Recorder {
    pub(super) live: Arc<Live>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recorder({})", self.live.id)
    }
}

impl Recorder {
    /// Puts a frame into the recording; waits while more than one chunk has not been written.
    ///
    /// INVARIANT: bytes are forwarded only after this has returned `Ok`. What is typed on a terminal is kept back until the terminal
    /// shows it, and then stored before that output.
    ///
    /// # Errors
    /// [`RecordError::Lost`] after anything could not be written, for ever; [`RecordError::Closed`] after the seal;
    /// [`RecordError::TooLong`] for a command or note above 1 MiB; [`RecordError::TooMany`] for a terminal beyond 256.
    pub async fn put(&self, frame: Frame<'_>) -> Result<(), RecordError> {
        let (channel, releases) = self.keystrokes(&frame)?;
        for release in &releases {
            let stored = match release {
                Release::Shown(data) => Encoded::of(Frame::Input { channel, data }),
                Release::Hidden => Some(Encoded::hidden(channel)),
            };
            self.live.put(stored.ok_or(RecordError::TooLong)?).await?;
        }
        let kept_back = matches!(frame, Frame::Input { .. }) && self.live.state().terminals.contains_key(&channel);
        if kept_back {
            return self.check();
        }
        self.live.put(Encoded::of(frame).ok_or(RecordError::TooLong)?).await
    }

    /// That it is neither lost nor closed.
    fn check(&self) -> Result<(), RecordError> {
        let state = self.live.state();
        match &state.lost {
            Some(why) => Err(RecordError::Lost { why: why.clone() }),
            None if state.closed => Err(RecordError::Closed),
            None => Ok(()),
        }
    }

    /// Passes a frame by the keystrokes that are kept back on its channel.
    fn keystrokes(&self, frame: &Frame<'_>) -> Result<(u32, Vec<Release>), RecordError> {
        let mut state = self.live.state();
        let terminals = &mut state.terminals;
        Ok(match *frame {
            // SECURITY (T57): a terminal that is not looked at would have its passwords stored.
            Frame::Open { size: Some(_), .. } if terminals.len() >= MAX_TERMINALS => return Err(RecordError::TooMany),
            Frame::Open { channel, size: Some(_), .. } => {
                terminals.insert(channel, Typed::default());
                (channel, Vec::new())
            }
            Frame::Input { channel, data } => {
                (channel, terminals.get_mut(&channel).map(|typed| typed.input(data)).unwrap_or_default())
            }
            Frame::Output { channel, data } => {
                (channel, terminals.get_mut(&channel).map(|typed| typed.output(data)).unwrap_or_default())
            }
            Frame::Close { channel } => {
                (channel, terminals.remove(&channel).map(|mut typed| typed.close()).unwrap_or_default())
            }
            _ => (0, Vec::new()),
        })
    }

    /// Turns true when the recording is lost, and stays so.
    pub fn failed(&self) -> watch::Receiver<bool> {
        self.live.failed.subscribe()
    }

    /// The live view: how many bytes the file has, [`u64::MAX`] once it is sealed. A viewer reads the file and disturbs nobody, however slow.
    pub fn tail(&self) -> watch::Receiver<u64> {
        self.live.written.subscribe()
    }

    /// How long ago it began, in microseconds.
    pub fn age_us(&self) -> u64 {
        monotonic_us().saturating_sub(self.live.began_us)
    }

    /// Writes what is left, makes it durable, and says by what the recording is known from now on. A lost recording is sealed up to
    /// its last whole chunk.
    ///
    /// # Errors
    /// When not even that can be made durable.
    pub async fn seal(self) -> Result<Sealed, RecordError> {
        let terminals = std::mem::take(&mut self.live.state().terminals);
        for (channel, mut typed) in terminals {
            if !typed.close().is_empty() {
                // Lost or not: the seal says.
                let _ = self.live.put(Encoded::hidden(channel)).await;
            }
        }
        let (reply, answer) = oneshot::channel();
        self.live.order(Order::Seal(self.live.clone(), reply))?;
        answer.await.unwrap_or_else(|_| Err(RecordError::Lost { why: "the writer is gone".into() }))
    }
}
