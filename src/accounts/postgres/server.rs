//! Which server, as whom, and the few sessions to it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::link::{Link, Login};
use crate::accounts::error::AccountError;

/// The most sessions of ours on one server.
pub const MAX_SESSIONS: usize = 8;
/// Of these, the most that clear away what accounts left.
const MAX_CLEARINGS: usize = MAX_SESSIONS / 2;
/// How long an unused session stays open.
const IDLE_S: u64 = 60;
/// How long a free session is waited for.
const WAIT_S: u64 = 10;

/// What opens the admin's account.
#[derive(Clone)]
pub enum Secret {
    /// A password, for SCRAM.
    Password(Zeroizing<String>),
    /// A client certificate.
    Certificate {
        /// The chain, PEM.
        cert_pem: String,
        /// The key, PEM.
        key_pem: Zeroizing<String>,
    },
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Password(a), Self::Password(b)) => a == b,
            (Self::Certificate { cert_pem: a, key_pem: b }, Self::Certificate { cert_pem: c, key_pem: d }) => {
                a == c && b == d
            }
            _ => false,
        }
    }
}

/// Gives the admin's secret; asked again after a refused login, so that a changed one is noticed.
pub type SecretSource = Arc<dyn Fn() -> Result<Secret, String> + Send + Sync>;

/// A target's server and the account there that makes accounts.
#[derive(Clone)]
pub struct Server {
    /// A DNS name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The name that the server's certificate must have.
    pub tls_name: String,
    /// The authorities that may have signed it, PEM.
    pub ca_pem: String,
    /// The database that the admin connects to.
    pub database: String,
    /// The admin's role.
    pub admin: String,
    /// The admin's secret.
    pub secret: SecretSource,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls_name", &self.tls_name)
            .field("database", &self.database)
            .field("admin", &self.admin)
            .field("secret", &"***")
            .finish_non_exhaustive()
    }
}

/// The sessions to one server: a compartment of its own, so that a server that hangs holds up no other.
pub(super) struct Pool {
    pub(super) server: Server,
    secret: Mutex<Option<Secret>>,
    /// What the source gave when the last login came to nothing for want of the right secret.
    refused: Mutex<Option<Result<Secret, String>>>,
    idle: Mutex<Vec<(Link, Instant)>>,
    places: Arc<Semaphore>,
    /// The ends that are under way, but for those that clear away: those take their time, and nobody's end waits for them.
    pub(super) ends: Arc<Semaphore>,
    pub(super) clearings: Arc<Semaphore>,
}

/// A session in use; goes back when dropped, unless it broke.
pub(super) struct Lease {
    link: Option<Link>,
    pool: Arc<Pool>,
    home: bool,
    _place: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(server: Server) -> Self {
        let slots = |count| Arc::new(Semaphore::new(count));
        Self {
            server,
            secret: Mutex::new(None),
            refused: Mutex::new(None),
            idle: Mutex::new(Vec::new()),
            places: slots(MAX_SESSIONS),
            ends: slots(MAX_SESSIONS),
            clearings: slots(MAX_CLEARINGS),
        }
    }

    fn fresh_secret(&self) -> Result<Secret, AccountError> {
        let found = (self.server.secret)();
        if found.is_err() {
            self.remember_refused(found.clone());
        }
        let secret = found.map_err(AccountError::Secret)?;
        *self.secret.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret.clone());
        Ok(secret)
    }

    fn remember_refused(&self, secret: Result<Secret, String>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret);
    }

    /// Whether the last login was refused and the source gives another secret now.
    pub(super) fn secret_changed(&self) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        refused.is_some_and(|refused| refused != (self.server.secret)())
    }

    /// Opens a session as the admin; a refused login is tried once more when the secret has changed.
    pub(super) async fn open(&self, database: &str) -> Result<Link, AccountError> {
        let known = self.secret.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let secret = match known {
            Some(secret) => secret,
            None => self.fresh_secret()?,
        };
        let login = |secret| Login { user: &self.server.admin, secret, database, admin: true };
        let first = Link::open(&self.server, login(&secret)).await;
        let Err(AccountError::RefusedLogin { .. }) = first else { return first };
        let fresh = self.fresh_secret()?;
        let last = if fresh == secret { first } else { Link::open(&self.server, login(&fresh)).await };
        if let Err(AccountError::RefusedLogin { .. }) = last {
            self.remember_refused(Ok(fresh));
        }
        last
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, AccountError> {
        let busy = || AccountError::Busy(format!("all {MAX_SESSIONS} of ours are in use"));
        let waited = timeout(Duration::from_secs(WAIT_S), self.places.clone().acquire_owned()).await;
        waited.map_err(|_| busy())?.map_err(|_| busy())
    }

    /// Takes a session to the admin's database, a waiting one where there is one.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, AccountError> {
        let place = self.place().await?;
        self.lease_at(place).await
    }

    /// As [`Self::lease`] for who holds one already, and must not wait for another: nothing when all are in use.
    pub(super) async fn lease_if_free(self: &Arc<Self>) -> Result<Option<Lease>, AccountError> {
        match self.places.clone().try_acquire_owned() {
            Ok(place) => self.lease_at(place).await.map(Some),
            Err(_) => Ok(None),
        }
    }

    async fn lease_at(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Result<Lease, AccountError> {
        let waiting = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(link, since)| link.healthy() && since.elapsed() < Duration::from_secs(IDLE_S));
            idle.pop()
        };
        let link = match waiting {
            Some((link, _)) => link,
            None => {
                let mut link = self.open(&self.server.database).await?;
                link.run(super::PREPARED).await?;
                link
            }
        };
        Ok(Lease { link: Some(link), pool: self.clone(), home: true, _place: place })
    }

    /// Takes a new session to another database; it is closed afterwards.
    pub(super) async fn lease_to(self: &Arc<Self>, database: &str) -> Result<Lease, AccountError> {
        let place = self.place().await?;
        let link = self.open(database).await?;
        Ok(Lease { link: Some(link), pool: self.clone(), home: false, _place: place })
    }

    /// Closes every waiting session: one was found dead, and the others are from the same time.
    pub(super) fn forget(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Closes what has waited for too long, as long as anything waits.
    async fn close_idle(pool: std::sync::Weak<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(IDLE_S / 2)).await;
            let Some(pool) = pool.upgrade() else { return };
            let mut idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(link, since)| link.healthy() && since.elapsed() < Duration::from_secs(IDLE_S));
            if idle.is_empty() {
                return;
            }
        }
    }
}

impl Lease {
    /// Whether an error may only mean that a waiting session had died meanwhile.
    pub(super) fn stale(&self, error: &AccountError) -> bool {
        matches!(error, AccountError::Unreachable(_)) && self.link.as_ref().is_some_and(|link| link.used)
    }

    /// The session.
    pub(super) fn link(&mut self) -> Result<&mut Link, AccountError> {
        self.link.as_mut().ok_or(AccountError::Invalid("the session was given back"))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        if !self.home || !link.healthy() {
            return;
        }
        link.used = true;
        let first = {
            let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((link, Instant::now()));
            idle.len() == 1
        };
        if let (true, Ok(runtime)) = (first, tokio::runtime::Handle::try_current()) {
            runtime.spawn(Pool::close_idle(Arc::downgrade(&self.pool)));
        }
    }
}
