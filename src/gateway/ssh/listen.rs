//! The port: who may stand before the door unknown, how many of them, and how loudly their noise is told.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::connection::{self, Connection};
use super::gate::{Alive, Gate};
use super::switch::Switch;

/// Connections of one source that have not been let in.
const PER_SOURCE: usize = 10;
/// Connections in all that have not been let in.
const IN_ALL: usize = 256;
/// How often one source's noise is logged, at most.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Sources whose noise is remembered.
const SOURCES: usize = 4096;
/// How long nothing is accepted after the system refused.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Who stands before the door: of each source, in the order in which they came, and how each is sent away.
#[derive(Default)]
struct Crowd {
    unknown: Mutex<Unknown>,
    told: Mutex<HashMap<IpAddr, Instant>>,
}

#[derive(Default)]
struct Unknown {
    of: HashMap<IpAddr, VecDeque<(u64, Switch)>>,
    held: usize,
    next: u64,
}

impl Unknown {
    /// Sends the oldest of the source that has the most away; among equals, whoever came first.
    fn make_room(&mut self) {
        let oldest = |queue: &VecDeque<(u64, Switch)>| queue.front().map_or(u64::MAX, |(number, _)| *number);
        let most = self.of.iter().max_by_key(|(_, queue)| (queue.len(), std::cmp::Reverse(oldest(queue))));
        let Some(source) = most.map(|(source, _)| *source) else { return };
        if let Some((number, switch)) = self.of.get(&source).and_then(|queue| queue.front()).cloned() {
            switch.cut();
            self.forget(source, number);
        }
    }

    fn forget(&mut self, source: IpAddr, number: u64) {
        let Some(queue) = self.of.get_mut(&source) else { return };
        let before = queue.len();
        queue.retain(|(held, _)| *held != number);
        self.held -= before - queue.len();
        if queue.is_empty() {
            self.of.remove(&source);
        }
    }
}

/// A place before the door, given back when it is dropped.
struct Place {
    crowd: Arc<Crowd>,
    source: IpAddr,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut unknown = self.crowd.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.forget(self.source, self.number);
    }
}

/// Who a flood comes from: an IPv4 address, or the /64 of an IPv6 one.
fn source(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

impl Crowd {
    /// A place for one more. Where all are taken, somebody who has been here for long without showing who they are makes room, so that
    /// a crowd does not keep out those who are known.
    fn place(self: &Arc<Self>, source: IpAddr, switch: &Switch) -> Option<Place> {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown.of.get(&source).is_some_and(|queue| queue.len() >= PER_SOURCE) {
            return None;
        }
        if unknown.held >= IN_ALL {
            unknown.make_room();
        }
        let number = unknown.next;
        unknown.next += 1;
        unknown.held += 1;
        unknown.of.entry(source).or_default().push_back((number, switch.clone()));
        Some(Place { crowd: self.clone(), source, number })
    }

    /// Logs at most one line a minute for a source.
    fn tell(&self, source: IpAddr, what: impl std::fmt::Display) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(&source).is_some_and(|at| at.elapsed() < LOG_EVERY) {
            return;
        }
        if told.len() >= SOURCES {
            told.retain(|_, at| at.elapsed() < LOG_EVERY);
        }
        if told.len() < SOURCES {
            told.insert(source, Instant::now());
            tracing::info!(%source, "a connection to the SSH gateway came to nothing: {what}");
        }
    }
}

/// Accepts until the daemon stops.
pub async fn run(gate: Arc<Gate>, listener: TcpListener, mut stop: watch::Receiver<bool>, alive: Alive) {
    let crowd = Arc::new(Crowd::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let source = source(peer.ip());
                // No place: the socket is closed at once, which costs nothing.
                let switch = Switch::default();
                let Some(place) = crowd.place(source, &switch) else {
                    crowd.tell(source, "too many that nobody knows yet");
                    continue;
                };
                tokio::spawn(serve(gate.clone(), (crowd.clone(), place, switch), stream, peer, alive.clone()));
            }
            Err(error) => {
                tracing::warn!("the SSH gateway accepts nothing for a moment: {error}");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

async fn serve(
    gate: Arc<Gate>,
    (crowd, place, switch): (Arc<Crowd>, Place, Switch),
    stream: TcpStream,
    peer: SocketAddr,
    alive: Alive,
) {
    let source = place.source;
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let face = match gate.faces.face(None).await {
        Ok(face) => face,
        Err(refusal) => return crowd.tell(source, refusal.message),
    };
    let connection = Connection { gate, peer, inside: None, face, switch, alive };
    if let Err(error) = connection::run(connection, stream, Some(Box::new(place))).await {
        crowd.tell(source, error);
    }
}
