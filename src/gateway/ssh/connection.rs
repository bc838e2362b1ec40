//! The life of one connection: a bounded time to come in, then as long as its session, and never longer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::server::{Config, run_stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::door::{Door, Parts};
use super::gate::{Alive, Gate};
use super::lent::Lent;
use super::switch::{Cuttable, Switch};
use crate::domain::names::TargetName;

/// From the first byte to being let in, at most.
pub const GRACE: Duration = Duration::from_secs(30);
/// How long after the stop a connection may still be there; its session had ten seconds by then.
const STOPPED: Duration = Duration::from_secs(11);

/// What a connection is.
pub struct Connection {
    /// What all connections share.
    pub gate: Arc<Gate>,
    /// The client's address.
    pub peer: SocketAddr,
    /// The target in whose name the server stands, inside a jump.
    pub inside: Option<TargetName>,
    /// Host key, certificate and algorithms.
    pub face: Arc<Config>,
    /// Cuts it from outside.
    pub switch: Switch,
    /// Kept while it lasts.
    pub alive: Alive,
}

/// Runs a connection to its end. `unknown` is given back once somebody was let in.
///
/// # Errors
/// Why nobody was let in.
pub async fn run<S>(connection: Connection, stream: S, unknown: Option<Box<dyn Send>>) -> Result<(), russh::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let deadline = Instant::now() + GRACE;
    let mut stop = connection.gate.stop.clone();
    let switch = connection.switch;
    let (closing, closed) = watch::channel(false);
    let (entering, mut entered) = oneshot::channel();
    let door = Door::new(Parts {
        gate: connection.gate,
        peer: connection.peer,
        inside: connection.inside,
        switch: switch.clone(),
        closed,
        entered: entering,
        alive: connection.alive,
    });
    let stream = Cuttable::new(Lent::new(stream), switch.clone());
    // A stop waits for nobody who has not even said who they are.
    let begun = tokio::select! {
        begun = timeout_at(deadline, Box::pin(run_stream(connection.face, stream, door))) => begun.ok(),
        () = async { let _ = stop.wait_for(|stop| *stop).await; } => None,
    };
    let mut session = begun.ok_or(russh::Error::ConnectionTimeout)??;
    let let_in = tokio::select! {
        done = &mut session => return done,
        let_in = &mut entered => let_in.is_ok(),
        () = sleep_until(deadline) => false,
        _ = stop.wait_for(|stop| *stop) => false,
    };
    if !let_in {
        switch.cut();
        return Err(russh::Error::ConnectionTimeout);
    }
    drop(unknown);
    let done = tokio::select! {
        done = &mut session => done,
        () = async { let _ = stop.wait_for(|stop| *stop).await; sleep(STOPPED).await } => Ok(()),
    };
    closing.send_replace(true);
    switch.cut();
    // What went wrong after somebody was let in concerns their session, which tells of it.
    let _ = done;
    Ok(())
}
