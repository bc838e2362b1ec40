//! The listener: TLS, and every limit that keeps slow and hostile clients from harming the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the header of a request may take.
const HEADERS: Duration = Duration::from_secs(10);
/// How long a connection may live; clients connect again.
const LIFE: Duration = Duration::from_secs(600);
/// The most connections from one address, and in all.
const PER_SOURCE: usize = 128;
const IN_ALL: usize = 2048;

/// Connections per source address.
#[derive(Debug, Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

struct Place {
    sources: Arc<Sources>,
    address: IpAddr,
}

impl Sources {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
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

/// Serves the routes until told to stop. Accepting goes on when descriptors run out, after a pause.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, router: axum::Router, mut stop: watch::Receiver<bool>) {
    let sources = Arc::new(Sources::default());
    let room = Arc::new(Semaphore::new(IN_ALL));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
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
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move {
            let _held = (place, permit);
            let _ = tokio::time::timeout(LIFE, connection(stream, tls, router)).await;
        });
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, router: axum::Router) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await else { return };
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(64 * 1024).keep_alive(true);
    let service = TowerToHyperService::new(router);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("a connection ended: {error}");
    }
}
