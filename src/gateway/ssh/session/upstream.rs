//! The connection to a target: its host is proved to be the one, then the session's own key and certificate open it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jit_ca::ssh::CertKind;
use russh::client::{AuthResult, Handle, Msg, Session};
use russh::keys::{Certificate, PrivateKey, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, client};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::domain::key::Key;
use crate::domain::names::LoginName;
use crate::domain::session::SessionCause;
use crate::domain::target::{HostIdentity, Target};
use crate::gateway::ssh::lent::Lent;
use crate::gateway::ssh::switch::{Cuttable, Switch};
use crate::gateway::ssh::{keys, offer};

/// How long the network may take, at most.
const CONNECT: Duration = Duration::from_secs(5);
/// How long greeting, key exchange and login may take together, at most.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections of a remote forwarding that may wait to be taken.
const WAITING: usize = 128;

/// What opens a target.
#[derive(Clone)]
pub struct Leg {
    /// Where it is, and how it is known.
    pub target: Target,
    /// The account.
    pub login: LoginName,
    /// The session's key; it never leaves this process.
    pub key: Arc<PrivateKey>,
    /// Its certificate.
    pub certificate: Certificate,
    /// The authorities over host certificates: several while one is being replaced.
    pub host_ca: Vec<Key>,
}

/// Why a target was not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// For the log.
    pub cause: SessionCause,
    /// For the person.
    pub line: String,
}

/// A connection that the remote side opened for us.
pub struct Forwarded {
    /// Its bytes, once it is accepted.
    pub channel: Channel<Msg>,
    /// Accepts it, when the person has; dropped, refuses it.
    pub reply: client::ChannelOpenHandle,
    /// Where it was accepted.
    pub address: String,
    /// Where it was accepted.
    pub port: u32,
    /// Who connected there.
    pub from: (String, u32),
}

/// A connection to the target; dropping it ends it.
pub struct Upstream {
    /// What channels are opened with.
    pub handle: Handle<Check>,
    /// Connections for a remote forwarding, where one was asked for.
    pub forwarded: Mutex<Option<mpsc::Receiver<Forwarded>>>,
    switch: Switch,
}

impl Upstream {
    /// Ends it now, whoever still has it.
    pub fn cut(&self) {
        self.switch.cut();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Leg {
    /// Connects. `now` is for the host's certificate.
    ///
    /// # Errors
    /// What the person is told, and what the log says.
    pub async fn connect(&self, now: i64) -> Result<Upstream, Away> {
        let address = &self.target.address;
        let away = |why: String| Away {
            cause: SessionCause::TargetAway,
            line: format!("{} at {address} cannot be reached: {why}.", self.target.name),
        };
        let connecting = TcpStream::connect((address.host.as_str(), address.port));
        let stream = tokio::time::timeout(CONNECT, connecting)
            .await
            .map_err(|_| away(format!("no answer in {} s", CONNECT.as_secs())))?
            .map_err(|e| away(e.to_string()))?;
        let _ = stream.set_nodelay(true);
        let switch = Switch::default();
        let wrong = Arc::new(Mutex::new(None));
        let (sender, receiver) = mpsc::channel(WAITING);
        let check = Check {
            name: self.target.name.to_string(),
            host: self.target.host.clone(),
            host_ca: self.host_ca.clone(),
            now,
            wrong: wrong.clone(),
            forwarded: sender,
        };
        let stream = Cuttable::new(Lent::new(stream), switch.clone());
        // In a box: what it takes is given back, and a session does not hold it for as long as it lasts.
        let reached = tokio::time::timeout(HANDSHAKE, Box::pin(self.enter(stream, check))).await;
        let mismatch = wrong.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (reached, mismatch) {
            (_, Some(line)) => {
                switch.cut();
                Err(Away { cause: SessionCause::HostkeyMismatch, line })
            }
            (Ok(Ok(handle)), None) => Ok(Upstream { handle, forwarded: Mutex::new(Some(receiver)), switch }),
            (Ok(Err(why)), None) => {
                switch.cut();
                Err(away(why))
            }
            (Err(_), None) => {
                switch.cut();
                Err(away(format!("no login in {} s", HANDSHAKE.as_secs())))
            }
        }
    }

    async fn enter(&self, stream: Cuttable<Lent<TcpStream>>, check: Check) -> Result<Handle<Check>, String> {
        let pinned = match &self.target.host {
            HostIdentity::Key(key) => PublicKey::from_openssh(&key.to_string()).ok().map(|key| key.algorithm()),
            _ => None,
        };
        let config = offer::client(pinned);
        let connected = client::connect_stream(config, stream, check).await;
        let mut handle = connected.map_err(|e| format!("the handshake failed: {e}"))?;
        let login = self.login.as_str();
        let entered = handle.authenticate_openssh_cert(login, self.key.clone(), self.certificate.clone()).await;
        match entered {
            Ok(AuthResult::Success) => Ok(handle),
            Ok(AuthResult::Failure { .. }) => Err(format!(
                "it does not let the gateway in as {login}; does it trust the broker's user CA for {}/{login}",
                self.target.name
            )),
            Err(e) => Err(format!("the login failed: {e}")),
        }
    }
}

/// Judges the host, and takes what it opens by itself.
pub struct Check {
    name: String,
    host: HostIdentity,
    host_ca: Vec<Key>,
    now: i64,
    wrong: Arc<Mutex<Option<String>>>,
    forwarded: mpsc::Sender<Forwarded>,
}

impl Check {
    /// True for the pinned key itself, or for a certificate in the target's name by the broker's host CA.
    ///
    /// SECURITY (T33): no trust on first use, and a certificate does not stand in for a pinned key.
    fn is_the_one(&self, shown: &PublicKeyOrCertificate) -> bool {
        match (&self.host, shown) {
            (HostIdentity::Key(pinned), PublicKeyOrCertificate::PublicKey { key, .. }) => {
                keys::key(key).as_ref() == Some(pinned)
            }
            (HostIdentity::BrokerCa, PublicKeyOrCertificate::Certificate(certificate)) => {
                let Some(facts) = keys::facts(certificate) else { return false };
                let now = u64::try_from(self.now).unwrap_or(0);
                self.host_ca.contains(&Key(facts.ca.clone()))
                    && facts.kind == CertKind::Host
                    && facts.valid_after <= now
                    && now < facts.valid_before
                    && facts.critical.is_empty()
                    && facts.principals.contains(&self.name)
            }
            _ => false,
        }
    }
}

impl client::Handler for Check {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let fits = self.is_the_one(shown);
        if !fits {
            let fingerprint = keys::key(&shown.public_key()).map_or_else(|| "?".to_owned(), |key| key.0.fingerprint());
            let line = format!(
                "The host that answers for {} showed {fingerprint}, which is not what the inventory knows it by; nothing was sent to it.",
                self.name
            );
            *self.wrong.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
        }
        Ok(fits)
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        address: &str,
        port: u32,
        from: &str,
        from_port: u32,
        reply: client::ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let (address, from) = (address.to_owned(), (from.to_owned(), from_port));
        // A full queue or nobody who waits: dropping the reply refuses it.
        let _ = self.forwarded.try_send(Forwarded { channel, reply, address, port, from });
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _path: &str,
        _reply: client::ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _channel: Channel<Msg>,
        _reply: client::ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }
}
