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
    /// Sends one away of the sources that have the most: who has said the least, and of those who came first. Whoever is about to come in
    /// has said who they are, in more bytes than a flood sends.
    fn make_room(&mut self) {
        let most = self.of.values().map(VecDeque::len).max();
        let of_most = self.of.iter().filter(|(_, queue)| Some(queue.len()) == most);
        let held = of_most.flat_map(|(source, queue)| queue.iter().map(|(number, switch)| (switch, *number, *source)));
        let least = held.min_by_key(|(switch, number, _)| (switch.heard(), *number));
        if let Some((switch, number, source)) = least.map(|(switch, number, source)| (switch.clone(), number, source)) {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::gateway::ssh::switch::Cuttable;

    #[tokio::test]
    async fn a_flood_sends_nobody_away_who_has_said_something() {
        let crowd = Arc::new(Crowd::default());
        let silent = |n: u32| crowd.place(IpAddr::V4((0x7f01_0000 + n).into()), &Switch::default()).unwrap();
        let mut places: Vec<Place> = (0..100).map(silent).collect();
        let speaking = Switch::default();
        let _place = crowd.place("127.0.0.1".parse().unwrap(), &speaking).unwrap();
        let (mut client, stream) = tokio::io::duplex(64);
        let mut stream = Cuttable::new(stream, speaking.clone());
        client.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        stream.read_exact(&mut [0; 11]).await.unwrap();
        places.extend((100..5000).map(silent));
        client.write_all(b"more").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!((speaking.heard(), crowd.unknown.lock().unwrap().held), (15, IN_ALL));
        // One source that has more than the others makes room first, whatever it has said.
        let loud = Switch::default();
        let _two = [0, 1].map(|_| crowd.place("127.0.0.1".parse().unwrap(), &loud).unwrap());
        places.push(silent(5000));
        client.write_all(b"!").await.unwrap();
        assert!(stream.read_exact(&mut [0]).await.is_ok(), "it has said more than the other two");
    }
}
