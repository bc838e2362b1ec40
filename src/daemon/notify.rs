//! Telling systemd how the service is (sd_notify(3)): ready, stopping, reloading, and that its self-check went well.
//!
//! Without `$NOTIFY_SOCKET` everything here does nothing.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager, where there is one.
#[derive(Debug, Default)]
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the environment says it.
    pub fn from_env() -> Self {
        let to = std::env::var("NOTIFY_SOCKET").ok().and_then(|path| {
            let address = match path.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&path),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        let said = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        // WATCHDOG_PID names who is watched; a child that inherits the variables is not.
        let ours = said("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = said("WATCHDOG_USEC").filter(|us| ours && *us > 0).map(Duration::from_micros);
        Self { to, watchdog }
    }

    /// Within which time the self-check must be told, where somebody waits for it.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// True where there is somebody to tell.
    pub fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// The service does its work.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The service ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    /// The configuration is being read again; [`Notify::ready`] follows.
    pub fn reloading(&self) {
        let us = crate::clock::monotonic_us();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
    }

    /// The self-check went well.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// How it is, in a few words for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!("the service manager was not told: {error}");
        }
    }
}
