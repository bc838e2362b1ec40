//! A stream that can be cut from outside: the one thing that ends a connection whose other side does not read.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long the other side may take to close, once there is nothing more to say to it.
const LEAVING: Duration = Duration::from_secs(1);

/// Cuts a stream.
#[derive(Debug, Clone, Default)]
pub struct Switch {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    cut: AtomicBool,
    heard: AtomicU64,
    sleeping: Mutex<Option<Waker>>,
}

impl Switch {
    /// Cuts it: whoever reads or writes gets an error from now on. Again does nothing.
    pub fn cut(&self) {
        self.inner.cut.store(true, Ordering::SeqCst);
        if let Some(waker) = self.inner.sleeping.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    /// How many bytes the other side has sent.
    pub fn heard(&self) -> u64 {
        self.inner.heard.load(Ordering::Relaxed)
    }

    fn is_cut(&self) -> bool {
        self.inner.cut.load(Ordering::SeqCst)
    }

    /// Remembers the one task that drives the stream, before it sleeps.
    fn sleep(&self, context: &Context<'_>) {
        let mut sleeping = self.inner.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        if !sleeping.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *sleeping = Some(context.waker().clone());
        }
    }
}

/// A stream behind a switch. INVARIANT: one task reads and writes it, so one waker is enough.
#[derive(Debug)]
pub struct Cuttable<S> {
    stream: S,
    switch: Switch,
    /// Set once this side was shut down.
    leaving: Option<Pin<Box<Sleep>>>,
}

impl<S> Cuttable<S> {
    /// Puts a stream behind a switch.
    pub fn new(stream: S, switch: Switch) -> Self {
        Self { stream, switch, leaving: None }
    }

    fn guarded<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let cut = || Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionAborted)));
        if self.switch.is_cut() {
            return cut();
        }
        let polled = poll(&mut self.stream, context);
        if polled.is_pending() {
            self.switch.sleep(context);
            // It may have been cut between the look and the sleep.
            if self.switch.is_cut() {
                return cut();
            }
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cuttable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // The end, for who stays after the goodbye: the SSH library would read on for ever.
        if self.leaving.as_mut().is_some_and(|leaving| leaving.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = self.guarded(cx, |stream, cx| Pin::new(stream).poll_read(cx, buf));
        let heard = u64::try_from(buf.filled().len() - before).unwrap_or_default();
        self.switch.inner.heard.fetch_add(heard, Ordering::Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cuttable<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.guarded(cx, |stream, cx| Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.guarded(cx, |stream, cx| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = self.guarded(cx, |stream, cx| Pin::new(stream).poll_shutdown(cx));
        if shut.is_ready() {
            self.leaving.get_or_insert_with(|| Box::pin(sleep(LEAVING)));
        }
        shut
    }
}
