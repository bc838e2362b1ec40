//! The orders of the signer: carried out one after the other, by one thread at a time, in the order of their coming.
//!
//! An order blocks, so it runs on a thread for that. Whoever finds nobody carrying orders out wakes one; what comes meanwhile waits in the
//! queue, so that thirty of them cost one thread its waking, and not thirty; what nobody waits for any more is left out. A signature needs
//! the signer only until it was judged: whoever asked for it computes it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::clerk::{beside, corrupt, ledger_refusal};
use super::counts::Took;
use crate::clock::monotonic_us;
use crate::domain::digest::read_canonical;
use crate::domain::event::Entry;
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::Reader;
use crate::signer::{Answer, Leaf, Order, Signer, Signing};

/// How many leaves the signer is shown at a time when it catches up.
pub(super) const CATCH_UP: u32 = 1000;
/// How many bytes it is shown at a time, but for the end of the last command: text inside JSON may double in a frame.
const CATCH_UP_BYTES: usize = 16 << 20;

/// The signer, for everybody who may ask it; cheap to clone.
#[derive(Clone)]
pub struct SignerHandle {
    inner: Arc<Inner>,
}

struct Inner {
    signer: Mutex<Box<dyn Signer>>,
    waiting: Mutex<Waiting>,
    took: Took,
}

/// What the signer makes of an order.
enum Made {
    Answer(Answer),
    /// What it judged, for whoever asked to sign.
    Signing(Signing),
}

impl Made {
    fn answer(self) -> Result<Answer, Refusal> {
        match self {
            Self::Answer(answer) => Ok(answer),
            Self::Signing(signing) => signing.sign(),
        }
    }
}

type Waiter = (Order, oneshot::Sender<Result<Made, Refusal>>);

#[derive(Default)]
struct Waiting {
    orders: VecDeque<Waiter>,
    /// A thread carries them out.
    served: bool,
}

/// SECURITY: a signer that panicked has folded half an order: it signs nothing more.
fn failed() -> Refusal {
    Refusal::new(Code::SIGNER_AWAY, "The signer failed in the middle of an order; start it anew.")
}

/// Lets the next order wake a thread again where this one panicked; whoever waits is told.
struct Serving<'a>(&'a Inner);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut waiting = self.0.waiting();
            waiting.served = false;
            waiting.orders.clear();
        }
    }
}

impl Inner {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next order that somebody still waits for; nobody serves once there is none.
    fn next(&self) -> Option<Waiter> {
        let mut waiting = self.waiting();
        let next = std::iter::from_fn(|| waiting.orders.pop_front()).find(|(_, reply)| !reply.is_closed());
        waiting.served = next.is_some();
        next
    }

    fn carry_out(&self, order: Order) -> Result<Made, Refusal> {
        let _serving = Serving(self);
        let mut signer = self.signer.lock().map_err(|_| failed())?;
        match signer.judge_only(&order) {
            Some(judged) => judged.map(Made::Signing),
            None => signer.order(order).map(Made::Answer),
        }
    }

    /// Without a thread of its own, where the signer is free and nothing has to be waited for.
    fn at_once(&self, order: &Order) -> Option<Result<Made, Refusal>> {
        let judged = self.signer.try_lock().ok()?.judge_only(order)?;
        Some(judged.map(Made::Signing))
    }
}

/// Carries orders out until there is none. The last answer is given when nothing of the signer is held here any more: who hears it may be
/// about to close it.
fn serve(inner: Arc<Inner>) {
    let mut current = inner.next();
    while let Some((order, reply)) = current {
        let answer = inner.carry_out(order);
        current = inner.next();
        if current.is_none() {
            drop(inner);
            let _ = reply.send(answer);
            return;
        }
        // Whoever asked may have hung up.
        let _ = reply.send(answer);
    }
}

impl SignerHandle {
    /// Wraps a gate or a socket to one.
    pub fn new(signer: Box<dyn Signer>) -> Self {
        let inner = Inner { signer: Mutex::new(signer), waiting: Mutex::default(), took: Took::default() };
        Self { inner: Arc::new(inner) }
    }

    /// How long its orders took, with the time that they waited, whatever came of them.
    pub fn took(&self) -> &Took {
        &self.inner.took
    }

    pub(super) async fn raw(&self, order: Order) -> Result<Answer, Refusal> {
        let began_us = monotonic_us();
        let made = match self.inner.at_once(&order) {
            Some(made) => made,
            None => self.in_turn(order).await,
        };
        let answer = made.and_then(Made::answer);
        self.inner.took.since(began_us);
        answer
    }

    async fn in_turn(&self, order: Order) -> Result<Made, Refusal> {
        let (reply, made) = oneshot::channel();
        let served = {
            let mut waiting = self.inner.waiting();
            waiting.orders.push_back((order, reply));
            std::mem::replace(&mut waiting.served, true)
        };
        if !served {
            let inner = self.inner.clone();
            drop(tokio::task::spawn_blocking(move || serve(inner)));
        }
        made.await.map_err(|_| failed())?
    }

    /// Carries out an order; a signer that was restarted is shown the log again first.
    ///
    /// # Errors
    /// The signer's refusal.
    pub async fn order(&self, order: Order, reader: &Reader) -> Result<Answer, Refusal> {
        match self.raw(order.clone()).await {
            Err(refusal) if matches!(refusal.code, Code::LOG_LIES | Code::SIGNER_AWAY | Code::SIGNER_REFUSED) => {
                let size = reader.size().await.map_err(|e| ledger_refusal(&e))?;
                match self.raw(Order::Head).await? {
                    Answer::Head { size: head } if head < size => {
                        self.catch_up(reader).await?;
                        self.raw(order).await
                    }
                    _ => Err(refusal),
                }
            }
            other => other,
        }
    }

    /// Shows the signer everything that it has not seen, and gives the checkpoint it signs.
    ///
    /// # Errors
    /// The signer's refusal, or that the log cannot be read.
    pub async fn catch_up(&self, reader: &Reader) -> Result<(u64, String), Refusal> {
        let mut newest = None;
        loop {
            let Answer::Head { size: from } = self.raw(Order::Head).await? else {
                return Err(Refusal::new(Code::BUG, "The signer answered something else."));
            };
            let leaves = page(reader, from).await?;
            if leaves.is_empty()
                && let Some(done) = newest
            {
                return Ok(done);
            }
            match self.raw(Order::Checkpoint { from, leaves }).await? {
                Answer::Checkpoint { note, size } => newest = Some((size, note)),
                Answer::Head { size } if size > from => {}
                _ => return Err(Refusal::new(Code::BUG, "The signer answered something else.")),
            }
        }
    }
}

/// Reads whole commands, at least one, until there are enough for one order. The signer takes no piece of a command.
async fn page(reader: &Reader, from: u64) -> Result<Vec<Leaf>, Refusal> {
    let (mut leaves, mut bytes, mut next) = (Vec::new(), 0, from);
    loop {
        let stored = reader.leaves(next, CATCH_UP).await.map_err(|e| ledger_refusal(&e))?;
        let last = stored.len() < CATCH_UP as usize;
        for leaf in stored {
            next = leaf.seq + 1;
            let text = String::from_utf8(leaf.bytes).map_err(|_| corrupt("a leaf is not text"))?;
            let entry: Entry = read_canonical(text.as_bytes()).map_err(|e| corrupt(&e.to_string()))?;
            if entry.cause.is_some() && (leaves.len() >= CATCH_UP as usize || bytes >= CATCH_UP_BYTES) {
                return Ok(leaves);
            }
            let blobs = blobs_of(&entry, reader).await?;
            bytes += text.len() + blobs.iter().map(String::len).sum::<usize>();
            leaves.push(Leaf { entry: text, blobs });
        }
        if last {
            return Ok(leaves);
        }
    }
}

async fn blobs_of(entry: &Entry, reader: &Reader) -> Result<Vec<String>, Refusal> {
    let (required, shreddable) = beside(entry);
    let mut blobs = Vec::new();
    for digest in required.iter().chain(&shreddable) {
        let bytes = reader.blob(digest.as_bytes()).await.map_err(|e| ledger_refusal(&e))?;
        blobs.extend(bytes.and_then(|b| String::from_utf8(b).ok()));
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;

    use super::*;

    /// Says that it was asked, and takes its time.
    struct Slow {
        asked: mpsc::Sender<()>,
        on: mpsc::Receiver<()>,
    }

    impl Signer for Slow {
        fn order(&mut self, _: Order) -> Result<Answer, Refusal> {
            self.asked.send(()).unwrap();
            let _ = self.on.recv();
            Ok(Answer::Head { size: 7 })
        }
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_asked() {
        let ((asked, seen), (go_on, on)) = (mpsc::channel(), mpsc::channel());
        let signer = SignerHandle::new(Box::new(Slow { asked, on }));
        let ask = || {
            let signer = signer.clone();
            tokio::spawn(async move { signer.raw(Order::Head).await })
        };
        let first = ask();
        while seen.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        let (hung_up, last) = (ask(), ask());
        while signer.inner.waiting().orders.len() < 2 {
            tokio::task::yield_now().await;
        }
        hung_up.abort();
        assert!(hung_up.await.unwrap_err().is_cancelled());
        drop(go_on);
        for waiting in [first, last] {
            assert_eq!(waiting.await.unwrap(), Ok(Answer::Head { size: 7 }));
        }
        assert_eq!(seen.try_iter().count(), 1, "the last one's");
    }
}
