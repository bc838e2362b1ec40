//! The SSH gateway.
//!
//! A person's own ssh connects here: with the certificate of a grant (a), through a hop to the target's name (b), or with an enrolled key
//! and `login%target` (c). Each channel gets a connection of its own to the target, opened with a key that lives as long as the session.
//!
//! True here: who somebody is comes from what they proved, in [`admit`]; bytes are recorded, then forwarded, in [`session`]; the lease ends
//! everything within a second, there too. Never here: a target that was not proved to be the one, a byte after the end.
//! Start with [`serve`], then [`door`].

pub mod admit;
mod ask;
mod connection;
mod door;
mod gate;
mod jump;
mod keys;
mod lent;
mod lines;
mod listen;
mod offer;
pub mod session;
mod switch;
pub mod user;

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use jit_ca::key::PrivateKey;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::broker::Broker;
use crate::domain::refusal::{Code, Refusal};
use crate::record::Store;
use crate::settings::GatewaySsh;
use crate::signer::keys::io_refusal;

/// The running gateway.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Running {
    /// Waits until it has stopped: nothing is accepted any more and every session is closed and sealed.
    pub async fn stopped(mut self) {
        self.ended().await;
    }

    /// Waits until it is over, by itself or because it was told to stop; again it answers at once.
    pub async fn ended(&mut self) {
        if !self.task.is_finished() {
            let _ = (&mut self.task).await;
        }
    }
}

/// Starts the gateway; it stops when `stop` turns true.
///
/// # Errors
/// When the port is taken, or the gateway can have no certificate for its own name, whatever the clock says.
pub async fn serve(
    broker: Broker,
    store: Arc<Store>,
    config: &GatewaySsh,
    host_key: &PrivateKey,
    stop: watch::Receiver<bool>,
) -> Result<Running, Refusal> {
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|e| Refusal::new(Code::PORT_TAKEN, format!("{} cannot be listened on: {e}.", config.listen)))?;
    let address = listener.local_addr().map_err(|e| Refusal::new(Code::PORT_TAKEN, e.to_string()))?;
    let spool = store.dir().join("spool");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&spool);
    made.map_err(|e| io_refusal(&spool, &e))?;
    let bad = |e: &dyn std::fmt::Display| Refusal::new(Code::BAD_KEY, format!("The gateway's host key: {e}."));
    let text = host_key.to_openssh("jit-gateway").map_err(|e| bad(&e))?;
    let key = russh::keys::PrivateKey::from_openssh(text.as_bytes()).map_err(|e| bad(&e))?;
    let faces = offer::Faces::new(broker.clone(), key)?;
    match faces.face(None).await {
        // Nobody comes in until the clock is right. But the broker runs: it keeps ends, and takes an operator's word that it is.
        Err(refusal) if refusal.code == Code::CLOCK => tracing::warn!(code = %refusal.code, "{}", refusal.message),
        other => drop(other?),
    }
    let gate = Arc::new(gate::Gate { broker, store, spool, faces, stop: stop.clone() });
    let (alive, mut all) = mpsc::channel(1);
    let task = tokio::spawn(async move {
        listen::run(gate, listener, stop, alive).await;
        // Ends when the last connection and the last session have let go.
        let _ = all.recv().await;
    });
    Ok(Running { address, task })
}
