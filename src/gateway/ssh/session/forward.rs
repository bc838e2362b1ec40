//! Tunnels, where the role has them: each connection through one is recorded with its ends and its size, never its content.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelOpenFailure};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::channel::standing;
use super::live::{Live, Standing};
use super::relay::{self, Down, Up};
use super::tape::{Kind, Tape};
use super::upstream::{Forwarded, Upstream};
use crate::domain::target::Allow;
use crate::gateway::ssh::door::{Place, Places};

/// How long a remote forwarding may take to be set up, because the whole connection waits for it.
pub const LISTEN: Duration = Duration::from_secs(6);
/// How long a client may take to accept a connection of a remote forwarding.
const ACCEPT: Duration = Duration::from_secs(10);

/// The two ends of one connection through a tunnel.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Where it leads.
    pub to: (String, u32),
    /// Where it comes from.
    pub from: (String, u32),
}

impl Tunnel {
    fn json(&self, kind: &str) -> String {
        let json = serde_json::json!({
            "tunnel": kind, "host": self.to.0, "port": self.to.1,
            "from": self.from.0, "from_port": self.from.1, "content": "not visible",
        });
        crate::domain::text::shown_json(&json.to_string())
    }
}

async fn tape(live: Arc<Live>, tunnel: &Tunnel, kind: &str) -> Option<Tape> {
    let seat = live.seat()?;
    let place = format!("{}:{}", tunnel.to.0, tunnel.to.1);
    let tape = Tape::begin(live, seat, Kind::Forward, Some(place.as_bytes()), None, "forward").await.ok()?;
    tape.tunnel(&tunnel.json(kind)).await.ok()?;
    Some(tape)
}

/// Serves one local forwarding (`-L`, `-D`, `-W`).
pub async fn serve(
    mut entry: watch::Receiver<Standing>,
    tunnel: Tunnel,
    channel: Channel<Msg>,
    reply: ChannelOpenHandle,
    handle: Handle,
) {
    let live = match standing(&mut entry).await {
        Ok(live) if live.allows(Allow::Forward) && !live.is_cut() => live,
        _ => return reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await,
    };
    let opened = tokio::select! {
        opened = open(&live, &tunnel) => opened,
        _ = live.cut() => None,
    };
    let Some((upstream, up)) = opened else {
        return reply.reject(ChannelOpenFailure::ConnectFailed).await;
    };
    let Some(tape) = tape(live, &tunnel, "local").await else {
        return reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
    };
    reply.accept().await;
    let (down, up) = ends(channel, handle, up);
    relay::run(tape, down, up, Vec::new()).await;
    drop(upstream);
}

async fn open(live: &Live, tunnel: &Tunnel) -> Option<(Upstream, Channel<russh::client::Msg>)> {
    let upstream = live.upstream().await.ok()?;
    let ((host, port), (from, from_port)) = (tunnel.to.clone(), tunnel.from.clone());
    let up = upstream.handle.channel_open_direct_tcpip(host, port, from, from_port).await.ok()?;
    Some((upstream, up))
}

fn ends(down: Channel<Msg>, handle: Handle, up: Channel<russh::client::Msg>) -> (Down, Up) {
    let ((read, write), (up_read, up_write)) = (down.split(), up.split());
    (Down { read, write, handle }, Up { read: up_read, write: up_write })
}

/// What a remote forwarding is to listen for, and until when.
pub struct Listening {
    /// The address.
    pub address: String,
    /// The port; any for 0.
    pub port: u32,
    /// The place that the forwarding itself takes; connections take others.
    pub place: Place,
    /// The places.
    pub places: Places,
    /// Told, or dropped, when it is to end.
    pub cancelled: oneshot::Receiver<()>,
}

/// Has the target listen (`-R`), and passes on what connects there until the session is over or it is cancelled. Gives the port.
pub async fn listen(live: Arc<Live>, handle: Handle, listening: Listening) -> Option<u32> {
    let Listening { address, port, place, places, cancelled } = listening;
    let begun = async {
        // A connection of its own: what hangs in another channel cannot hold up the answer.
        let upstream = live.upstream().await.ok()?;
        let bound = upstream.handle.tcpip_forward(&address, port).await.ok()?;
        Some((upstream, bound))
    };
    let (upstream, bound) = timeout(LISTEN, begun).await.ok()??;
    let bound = if port == 0 { bound } else { port };
    tokio::spawn(async move {
        let upstream = Arc::new(upstream);
        tokio::select! {
            () = accept(&live, &upstream, &handle, &places) => {}
            _ = live.cut() => upstream.cut(),
            // Connections that came by it go on, as with plain ssh, and the one to the target goes with the last of them.
            _ = cancelled => drop(timeout(LISTEN, upstream.handle.cancel_tcpip_forward(address, bound)).await),
        }
        drop(place);
    });
    Some(bound)
}

async fn accept(live: &Arc<Live>, upstream: &Arc<Upstream>, handle: &Handle, places: &Places) {
    let forwarded = upstream.forwarded.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut forwarded) = forwarded else { return };
    while let Some(connection) = forwarded.recv().await {
        // Dropped where there is no place, which refuses it.
        let Some(place) = places.take() else { continue };
        let (live, upstream, handle) = (live.clone(), upstream.clone(), handle.clone());
        tokio::spawn(async move {
            take(live, connection, handle).await;
            drop((upstream, place));
        });
    }
}

/// Accepts what the person accepts, and refuses what they refuse.
async fn take(live: Arc<Live>, connection: Forwarded, handle: Handle) {
    let Forwarded { channel, reply, address, port, from } = connection;
    let tunnel = Tunnel { to: (address.clone(), port), from: from.clone() };
    let Some(tape) = tape(live, &tunnel, "remote").await else { return };
    let opening = handle.channel_open_forwarded_tcpip(address, port, from.0, from.1);
    match timeout(ACCEPT, opening).await {
        Ok(Ok(down)) => {
            reply.accept().await;
            let (down, up) = ends(down, handle, channel);
            relay::run_beside(tape, down, up).await;
        }
        _ => {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            tape.end().await;
        }
    }
}
