//! The gateways of a configuration: what a dead daemon left open is sealed and closed, then they listen.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use jit_ca::key::PrivateKey;
use tokio::sync::watch;

use crate::broker::Broker;
use crate::domain::ids::SessionId;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::session::Sealed;
use crate::gateway::ssh::{self, Running};
use crate::record::Store;
use crate::settings::Settings;
use crate::signer::keys::{read_private, write_new};

/// The gateways that listen, and how they are told to drain.
pub(super) struct Gateways {
    ssh: Option<Running>,
    drain: watch::Sender<bool>,
}

/// Starts them.
///
/// # Errors
/// When a port is taken, a key cannot be read, or the log cannot be written.
pub(super) async fn start(
    settings: &Settings,
    broker: &Broker,
    store: Option<Arc<Store>>,
) -> Result<Gateways, Refusal> {
    let recovered = store.clone();
    let sealed = tokio::task::spawn_blocking(move || recovered.map(|store| store.recover()).unwrap_or_default()).await;
    let mut sealed: HashMap<SessionId, Sealed> = sealed.unwrap_or_default().into_iter().collect();
    // One that was sealed, and whose end did not reach the log any more, is read again.
    let again = |id| store.as_ref().and_then(|store| store.sealed(id).ok());
    let lost = broker.close_lost(|id| sealed.remove(&id).or_else(|| again(id))).await?;
    if lost > 0 {
        tracing::warn!("{lost} sessions of a daemon that is gone were closed; their recordings end at the last chunk");
    }
    let (drain, drained) = watch::channel(false);
    let ssh = match (&settings.gateway_ssh, store) {
        (Some(config), Some(store)) => {
            let key = host_key(&settings.state_dir.join(HOST_KEY))?;
            Some(ssh::serve(broker.clone(), store, config, &key, drained).await?)
        }
        _ => None,
    };
    Ok(Gateways { ssh, drain })
}

impl Gateways {
    /// Where the SSH gateway listens.
    pub(super) fn ssh_address(&self) -> Option<std::net::SocketAddr> {
        self.ssh.as_ref().map(|running| running.address)
    }

    /// Waits for the first that ends; for ever, where there are none.
    pub(super) async fn ended(&mut self) {
        match &mut self.ssh {
            Some(running) => running.ended().await,
            None => std::future::pending().await,
        }
    }

    /// No new sessions; live ones get a notice and a little time, never past their end.
    pub(super) async fn stop(self) {
        self.drain.send_replace(true);
        if let Some(running) = self.ssh {
            running.stopped().await;
        }
    }
}

/// The file below the daemon's state in which the gateway's host key lies.
pub(super) const HOST_KEY: &str = "gateway_ssh_key";

/// The gateway's host key; made at the first start.
fn host_key(path: &Path) -> Result<PrivateKey, Refusal> {
    if !path.exists() {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        crate::clock::fill(&mut *seed);
        let text = PrivateKey::from_seed(*seed).to_openssh("jit-broker gateway");
        write_new(path, text.map_err(|e| Refusal::new(Code::BUG, e.to_string()))?.as_bytes())?;
    }
    key_of(path, &read_private(path)?)
}

/// The key that a file's text is.
///
/// # Errors
/// [`Code::BAD_CONFIG`] when it is none.
pub(super) fn key_of(path: &Path, text: &str) -> Result<PrivateKey, Refusal> {
    PrivateKey::from_openssh(text, None)
        .map_err(|e| Refusal::new(Code::BAD_CONFIG, format!("{} is not a key: {e}.", path.display())))
}
