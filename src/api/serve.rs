//! The listener: TLS, and every limit that keeps slow and hostile clients from harming the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
/// How long a connection may live; clients connect again.
const LIFE: Duration = Duration::from_secs(600);
/// How long requests that are being answered have once the daemon stops.
const LAST: Duration = Duration::from_secs(2);
/// The most connections from one address, and in all.
const PER_SOURCE: usize = 128;
const IN_ALL: usize = 2048;

/// Who a request comes from, as connections are counted.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

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
    run(listener, Some(tls), router, stop).await;
}

/// The same without TLS, for loopback.
pub async fn serve_plain(listener: TcpListener, router: axum::Router, stop: watch::Receiver<bool>) {
    run(listener, None, router, stop).await;
}

async fn run(listener: TcpListener, tls: Option<TlsAcceptor>, router: axum::Router, mut stop: watch::Receiver<bool>) {
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
            let _ = tokio::time::timeout(LIFE, connection(stream, tls, router, peer, stop)).await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(LAST, async { while open.join_next().await.is_some() {} }).await;
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: axum::Router,
    peer: Peer,
    stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => http(stream, router, peer, stop).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                http(stream, router, peer, stop).await;
            }
        }
    }
}

async fn http<S>(stream: S, router: axum::Router, peer: Peer, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(64 * 1024).keep_alive(true);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request)
    });
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let done = tokio::select! {
        done = serving.as_mut() => Some(done),
        () = async { let _ = stop.wait_for(|stop| *stop).await; } => None,
    };
    let done = match done {
        Some(done) => done,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = done {
        tracing::debug!("a connection ended: {error}");
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
}
