//! The listener: TLS, and every limit that keeps slow and hostile clients from harming the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the header of a request may take.
const HEADERS: Duration = Duration::from_secs(10);
/// How long a connection takes requests, and how long the answer that it is giving then may stand still, which is longer than a poll waits.
const LIMITS: Limits = Limits { life: Duration::from_secs(600), stall: Duration::from_secs(60) };
/// What stands still: an answer of which fewer bytes than this were taken.
const LEAST: u64 = 64 * 1024;
/// How long requests that are being answered have once the daemon stops.
const LAST: Duration = Duration::from_secs(2);
/// The most connections from one address, and in all.
const PER_SOURCE: usize = 128;
const IN_ALL: usize = 2048;

/// Who a request comes from, as connections are counted.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// How long a connection goes on; clients connect again.
#[derive(Debug, Clone, Copy)]
struct Limits {
    life: Duration,
    stall: Duration,
}

/// Connections per source address.
#[derive(Debug, Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// Who a peer is counted as: an IPv6 network of 64 bits is one subscriber, and a mapped IPv4 address is that address.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

struct Place {
    sources: Arc<Sources>,
    address: IpAddr,
}

impl Sources {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = source(address);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(address).or_insert(0);
        if *count >= PER_SOURCE {
            return None;
        }
        *count += 1;
        Some(Place { sources: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.address);
            }
        }
    }
}

/// Serves the routes over TLS until told to stop; what is being answered then has a moment. Accepting goes on when descriptors run out,
/// after a pause.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, router: axum::Router, stop: watch::Receiver<bool>) {
    run(listener, Some(tls), router, LIMITS, stop).await;
}

/// The same without TLS, for loopback.
pub async fn serve_plain(listener: TcpListener, router: axum::Router, stop: watch::Receiver<bool>) {
    run(listener, None, router, LIMITS, stop).await;
}

async fn run(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: axum::Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let sources = Arc::new(Sources::default());
    let room = Arc::new(Semaphore::new(IN_ALL));
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("no connection can be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (Some(place), Ok(permit)) = (sources.enter(peer.ip()), room.clone().try_acquire_owned()) else { continue };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        open.spawn(async move {
            let peer = Peer(place.address);
            let _held = (place, permit);
            connection(stream, tls, (router, peer), limits, stop).await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(LAST, async { while open.join_next().await.is_some() {} }).await;
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    to: (axum::Router, Peer),
    limits: Limits,
    stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => http(stream, to, limits, stop).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                http(stream, to, limits, stop).await;
            }
        }
    }
}

async fn http<S>(stream: S, (router, peer): (axum::Router, Peer), limits: Limits, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(64 * 1024).keep_alive(true);
    let taken = Arc::new(AtomicU64::new(0));
    let counted = taken.clone();
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        let (answer, counted) = (router.clone().oneshot(request), counted.clone());
        let count = move |frame: Frame<Bytes>| {
            let length = frame.data_ref().map_or(0, Bytes::len);
            counted.fetch_add(u64::try_from(length).unwrap_or(u64::MAX), Ordering::Relaxed);
            frame
        };
        async move { answer.await.map(|answer| answer.map(|body| body.map_frame(count))) }
    });
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let done = tokio::select! {
        done = serving.as_mut() => Some(done),
        () = async { let _ = stop.wait_for(|stop| *stop).await; } => None,
        () = tokio::time::sleep(limits.life) => None,
    };
    let done = match done {
        Some(done) => Some(done),
        None => {
            serving.as_mut().graceful_shutdown();
            while_taken(serving, &taken, limits.stall).await
        }
    };
    match done {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!("a connection ended: {error}"),
        None => tracing::debug!("a connection was cut: its answer stood still"),
    }
}

/// Goes on with an answer for as long as it is taken.
async fn while_taken<T>(
    mut serving: Pin<&mut impl Future<Output = T>>,
    taken: &AtomicU64,
    stall: Duration,
) -> Option<T> {
    loop {
        let before = taken.load(Ordering::Relaxed);
        match tokio::time::timeout(stall, serving.as_mut()).await {
            Ok(done) => return Some(done),
            Err(_) if taken.load(Ordering::Relaxed).saturating_sub(before) < LEAST => return None,
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_network_is_one_source() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        let sources = Arc::new(Sources::default());
        let enter = |n: usize| sources.enter(format!("2001:db8::{n:x}").parse().unwrap());
        let places: Vec<_> = (1..=PER_SOURCE).map(|n| enter(n).unwrap()).collect();
        assert!(enter(9999).is_none());
        drop(places);
        assert!(enter(9999).is_some());
    }

    /// So many pieces, one every few milliseconds; tells when nobody takes them any more.
    struct Pieces {
        left: usize,
        pause: Pin<Box<tokio::time::Sleep>>,
        _gone: tokio::sync::oneshot::Sender<()>,
    }

    const PIECE: usize = 64 * 1024;

    impl hyper::body::Body for Pieces {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            std::task::ready!(self.pause.as_mut().poll(cx));
            self.pause = Box::pin(tokio::time::sleep(Duration::from_millis(10)));
            let piece = self.left.checked_sub(1).map(|left| {
                self.left = left;
                Ok(Frame::data(Bytes::from(vec![b'x'; PIECE])))
            });
            std::task::Poll::Ready(piece)
        }
    }

    /// Asks for so many pieces on a connection that takes requests for a moment only.
    async fn asked(pieces: usize) -> (TcpStream, tokio::sync::oneshot::Receiver<()>, watch::Sender<bool>) {
        use tokio::io::AsyncWriteExt;

        let (gone, went) = tokio::sync::oneshot::channel();
        let body = Pieces { left: pieces, pause: Box::pin(tokio::time::sleep(Duration::ZERO)), _gone: gone };
        let body = Arc::new(Mutex::new(Some(axum::body::Body::new(body))));
        let answer = move || std::future::ready(body.lock().unwrap().take().unwrap());
        let router = axum::Router::new().route("/", axum::routing::get(answer));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let limits = Limits { life: Duration::from_millis(100), stall: Duration::from_millis(500) };
        tokio::spawn(run(listener, None, router, limits, stopped));
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        (stream, went, stop)
    }

    #[tokio::test]
    async fn an_answer_goes_on_as_long_as_it_is_taken_and_its_connection_takes_no_other_request() {
        use tokio::io::AsyncReadExt;

        let began = std::time::Instant::now();
        let (mut stream, _went, _stop) = asked(150).await;
        let mut answer = Vec::new();
        // To the end of the connection.
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(began.elapsed() > Duration::from_millis(1200), "longer than its life and a stall");
        assert!(answer.ends_with(b"\r\n0\r\n\r\n"), "whole");
        assert_eq!(answer.iter().filter(|byte| **byte == b'x').count(), 150 * PIECE);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_is_cut() {
        let (_stream, went, _stop) = asked(usize::MAX).await;
        // The buffers on the way fill up first.
        let cut = tokio::time::timeout(Duration::from_secs(20), went).await;
        assert!(cut.unwrap().is_err(), "the answer was given up");
    }
}
