//! Bytes on their way to one side of a channel, which need not take them at once: recorded, then sent, in order.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::{ChannelId, ChannelMsg, ChannelWriteHalf};
use tokio::time::Instant;

use super::backlog::{Backlog, cost};
use super::tape::Tape;
use super::throttle::{Stuck, Throttle};

/// How long a packet of a side that is ahead of the other waits for it, at most.
const PACE: Duration = Duration::from_millis(5);
/// The same beside other channels, which wait with it; and all that a stuck one waits for as much as it has room for.
const PACE_BESIDE: Duration = Duration::from_millis(1);
/// A channel is stuck when so long nothing was sent of what waits. A disk that pauses is not: who throttles its client for that has nothing
/// to send when it goes on.
const STUCK: Duration = Duration::from_millis(500);
/// Or when so much waits on the disk, in bytes, however much is sent.
const LATE: u64 = 64 * 1024 * 1024;
/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the person to the target.
    Up,
    /// From the target to the person.
    Down,
}

/// A side of the SSH library: its server's, or its client's.
pub trait Peer: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static {}

impl<S: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static> Peer for S {}

/// Why something was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// It cannot be recorded.
    Recording,
    /// Whoever takes it is gone.
    Gone,
}

/// What is being sent.
pub type Sending<'a> = Option<Pin<Box<dyn Future<Output = Result<(), Unsent>> + Send + 'a>>>;

/// Records bytes, then sends them.
///
/// INVARIANT (I9): in this order. What is never taken is neither sent nor recorded.
async fn forward<S: Peer>(tape: &Tape, way: Way, to: &ChannelWriteHalf<S>, bytes: Bytes) -> Result<(), Unsent> {
    let recorded = match way {
        Way::Up => tape.input(&bytes).await,
        Way::Down => tape.output(&bytes).await,
    };
    recorded.map_err(|_| Unsent::Recording)?;
    if tape.live.is_cut() {
        return pending().await;
    }
    to.data_bytes(bytes).await.map_err(|_| Unsent::Gone)
}

/// Waits for what is being sent, if anything is.
///
/// # Errors
/// Why it was not sent.
pub async fn sent(sending: &mut Sending<'_>) -> Result<(), Unsent> {
    match sending {
        Some(future) => {
            let done = future.as_mut().await;
            *sending = None;
            done
        }
        None => pending().await,
    }
}

/// What one side said and the other has not taken.
pub struct Sender<'a, S: Peer> {
    tape: &'a Tape,
    way: Way,
    to: &'a ChannelWriteHalf<S>,
    backlog: Backlog,
    sending: Sending<'a>,
    /// Since when something waits, of which nothing was sent.
    waits: Option<Instant>,
    stuck: Option<Stuck>,
}

impl<'a, S: Peer> Sender<'a, S> {
    /// Nothing is waiting yet.
    pub fn new(tape: &'a Tape, way: Way, to: &'a ChannelWriteHalf<S>) -> Self {
        let backlog = Backlog::new(tape.live.spool.clone());
        Self { tape, way, to, backlog, sending: None, waits: None, stuck: None }
    }

    /// Takes bytes in.
    ///
    /// # Errors
    /// When they cannot be kept.
    pub async fn put(&mut self, bytes: Bytes) -> std::io::Result<()> {
        self.backlog.put(bytes).await
    }

    /// True when nothing more may be put.
    pub fn is_full(&self) -> bool {
        self.backlog.is_full()
    }

    /// True while something is being sent; after [`Sender::next`], while there is anything to send.
    pub fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Begins to send the oldest bytes, unless some are being sent; after the last of them the end, if there is one.
    ///
    /// # Errors
    /// When what was kept cannot be read.
    pub async fn next(&mut self, eof: &mut bool) -> std::io::Result<()> {
        if self.sending.is_some() {
            return Ok(());
        }
        let (tape, way, to) = (self.tape, self.way, self.to);
        self.sending = match self.backlog.take().await? {
            Some(bytes) => Some(Box::pin(forward(tape, way, to, bytes))),
            None if std::mem::take(eof) => Some(Box::pin(async { to.eof().await.map_err(|_| Unsent::Gone) })),
            None => None,
        };
        Ok(())
    }

    /// Waits until something was sent, if anything is being sent.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn sent(&mut self) -> Result<(), Unsent> {
        let done = sent(&mut self.sending).await;
        self.waits = None;
        let on_disk = self.backlog.on_disk();
        match &mut self.stuck {
            // What is in memory is there for the target until its client has heard that there is room again.
            Some(_) if on_disk == 0 => self.stuck = None,
            Some(stuck) => stuck.tell(on_disk),
            None => {}
        }
        done
    }

    /// Nothing more comes, so nobody is in anybody's way.
    pub fn complete(&mut self) {
        self.stuck = None;
    }

    /// Lets whoever takes it catch up for a moment before so many more bytes are put: what passes through memory is cheap, and what goes by
    /// the disk is not. One that takes nothing at all slows the other side down, and nobody else.
    ///
    /// # Errors
    /// As [`Sender::next`], and why something was not sent.
    pub async fn pace(&mut self, coming: usize) -> std::io::Result<Result<(), Unsent>> {
        if !self.backlog.is_behind() {
            return Ok(Ok(()));
        }
        let (waiting, since) = (self.backlog.on_disk(), *self.waits.get_or_insert_with(Instant::now));
        if self.stuck.is_none() && (since.elapsed() >= STUCK || waiting >= LATE) {
            self.stuck = Some(Stuck::new(self.throttle()));
        }
        let patient = self.stuck.is_none() && self.tape.live.is_alone();
        if self.stuck.as_mut().is_some_and(|stuck| !stuck.is_due(cost(coming), waiting)) {
            return Ok(Ok(()));
        }
        let until = Instant::now() + if patient { PACE } else { PACE_BESIDE };
        while self.backlog.is_behind() {
            match tokio::time::timeout_at(until, self.sent()).await {
                Ok(Ok(())) => self.next(&mut false).await?,
                Ok(Err(unsent)) => return Ok(Err(unsent)),
                Err(_) => break,
            }
        }
        Ok(Ok(()))
    }

    /// What a target sends for a client that takes nothing is of a connection that nobody throttles.
    fn throttle(&self) -> Arc<Throttle> {
        match self.way {
            Way::Up => self.tape.live.throttle.clone(),
            Way::Down => Arc::default(),
        }
    }
}
