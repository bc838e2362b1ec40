//! What all connections of the gateway share.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::offer::Faces;
use crate::broker::Broker;
use crate::record::Store;

/// Kept by everything that must be over before the gateway is.
pub type Alive = mpsc::Sender<()>;

/// What all connections share.
pub struct Gate {
    /// The verbs.
    pub broker: Broker,
    /// Where sessions are recorded.
    pub store: Arc<Store>,
    /// Where bytes may wait that a target has not taken.
    pub spool: PathBuf,
    /// Host key and certificates.
    pub faces: Faces,
    /// Turns true when the daemon stops.
    pub stop: watch::Receiver<bool>,
}
