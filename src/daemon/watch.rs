//! The self-checks behind systemd's watchdog: what is told alive was looked at a moment ago (security.md F63).
//!
//! The daemon is alive while its store answers, its clerk decides, and both loops that keep ends come round; a signer that is away or a
//! full disk show in the status and in `/readyz`, and are no reason to cut sessions by a restart. The signer is alive while an order that
//! goes through its own socket is answered by its gate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::notify::Notify;
use crate::broker::Broker;
use crate::domain::refusal::Refusal;
use crate::domain::text::shown;
use crate::signer::socket::Remote;
use crate::signer::{Order, Signer};

/// How often it is looked where nobody waits for it.
const EVERY: Duration = Duration::from_secs(15);
/// How often a signer that is starting is asked.
const STARTING: Duration = Duration::from_millis(50);

/// Looks at the daemon for as long as it runs.
pub async fn daemon(broker: Broker, notify: Arc<Notify>, mut stop: tokio::sync::watch::Receiver<bool>) {
    let within = notify.watchdog().unwrap_or(4 * EVERY);
    let (mut said, mut failed) = (None, None);
    loop {
        let alive = broker.alive(within / 3).await;
        if alive.is_ok() {
            notify.alive();
        }
        told(&alive, &mut failed);
        let status = broker.ready().await.map_or_else(|why| why.message, |()| "serving".to_owned());
        if said.as_ref() != Some(&status) {
            notify.status(&shown(&status));
            said = Some(status);
        }
        tokio::select! {
            () = tokio::time::sleep(within / 4) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Looks at the signer behind a socket of this process, on a thread of its own; says that it is ready with the first answer.
pub fn signer(path: &Path, notify: Notify) {
    let path = path.to_owned();
    let look = move || {
        let within = notify.watchdog().unwrap_or(4 * EVERY);
        let (mut ready, mut failed) = (false, None);
        loop {
            // Anew each time, as the daemon would after a restart: the socket may have been removed.
            let answer = Remote::new(path.clone()).order(Order::Head).map(drop);
            match &answer {
                Ok(()) if ready => notify.alive(),
                Ok(()) => notify.ready("signing"),
                Err(_) => {}
            }
            if ready {
                told(&answer, &mut failed);
            }
            ready |= answer.is_ok();
            std::thread::sleep(if ready { within / 4 } else { STARTING });
        }
    };
    // Without the thread nobody says that the signer is ready, and systemd starts it anew.
    drop(std::thread::Builder::new().name("self-check".to_owned()).spawn(look));
}

/// A failure is told once, and again when it is another one.
fn told(found: &Result<(), Refusal>, before: &mut Option<Refusal>) {
    match (found, before.as_ref()) {
        (Err(refusal), known) if known != Some(refusal) => {
            tracing::error!(code = %refusal.code, "the self-check failed: {}", refusal.message);
        }
        (Ok(()), Some(_)) => tracing::warn!("the self-check goes well again"),
        _ => {}
    }
    *before = found.as_ref().err().cloned();
}
