//! Reading ahead from a socket with a buffer that is lent: a connection that is idle holds none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read at once, in bytes: a packet with the largest content, nearly.
const READ: usize = 32 * 1024;
/// Buffers that a thread keeps for its next reads.
const KEPT: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn lend() -> Box<[u8]> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; READ].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < KEPT {
            spare.push(buffer);
        }
    });
}

/// What was read and not taken yet: `from..to` of the buffer.
struct Held {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
}

/// A stream that is read ahead, so that a small packet costs one call of the system and not two.
///
/// As [`tokio::io::BufReader`], but for the memory, of which that holds its 32 KiB for as long as a connection lasts: two of them an idle
/// session (24 KiB of them were resident).
pub struct Lent<S> {
    stream: S,
    held: Option<Held>,
}

impl<S> Lent<S> {
    /// Reads ahead from a stream.
    pub fn new(stream: S) -> Self {
        Self { stream, held: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut held = match self.held.take() {
            Some(held) => held,
            // As much as a buffer takes, or nothing at all: there is nothing to read ahead for.
            None if buf.remaining() >= READ || buf.remaining() == 0 => {
                return Pin::new(&mut self.stream).poll_read(cx, buf);
            }
            None => {
                let mut buffer = lend();
                let mut ahead = ReadBuf::new(&mut buffer);
                let polled = Pin::new(&mut self.stream).poll_read(cx, &mut ahead);
                let to = ahead.filled().len();
                if to == 0 {
                    give_back(buffer);
                    return polled;
                }
                Held { buffer, from: 0, to }
            }
        };
        let taken = (held.to - held.from).min(buf.remaining());
        buf.put_slice(held.buffer.get(held.from..held.from + taken).unwrap_or_default());
        held.from += taken;
        if held.from == held.to {
            give_back(held.buffer);
        } else {
            self.held = Some(held);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn every_byte_arrives_in_order_however_it_is_read() {
        let sent: Vec<u8> = (0..200_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let (mut far, near) = tokio::io::duplex(70_000);
        let sending = tokio::spawn({
            let sent = sent.clone();
            async move { far.write_all(&sent).await.unwrap() }
        });
        let (mut near, mut seen) = (Lent::new(near), Vec::new());
        for length in [1, 4, 0, READ - 1, READ, READ + 1, 3].into_iter().cycle() {
            let mut part = vec![0; length.min(sent.len() - seen.len())];
            near.read_exact(&mut part).await.unwrap();
            seen.extend(part);
            if seen.len() == sent.len() {
                break;
            }
        }
        assert!(seen == sent);
        sending.await.unwrap();
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0, "the end is told");
    }

    #[tokio::test]
    async fn who_waits_and_who_has_taken_all_holds_no_buffer() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut near = Lent::new(near);
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(1), near.read(&mut [0; 4])).await;
        assert!(nothing.is_err() && near.held.is_none());
        far.write_all(b"abcd").await.unwrap();
        let mut part = [0; 3];
        near.read_exact(&mut part).await.unwrap();
        assert!(near.held.is_some());
        near.read_exact(&mut part[..1]).await.unwrap();
        assert!(near.held.is_none());
    }
}
