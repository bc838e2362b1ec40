//! One connection: who it is, and what it may open. Nothing here waits for a target but a remote forwarding, whose answer the SSH library
//! wants at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use russh::keys::Certificate;
use russh::server::{Auth, ChannelOpenHandle, Handle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::admit::{Admitted, Denied, Knock, Proof, Way, admit, known};
use super::ask::Asking;
use super::gate::{Alive, Gate};
use super::session::live::{Entrance, Live, Standing, begin};
use super::session::{channel, forward};
use super::switch::Switch;
use super::{jump, keys, offer};
use crate::domain::ids::GrantId;
use crate::domain::key::Key;
use crate::domain::names::{LoginName, PersonName, TargetName};
use crate::domain::target::Allow;
use crate::domain::text::shown;

/// Keys that a client may show before it proves one.
const OFFERS: u32 = 32;
/// Open channels of one connection.
const CHANNELS: u32 = 128;

/// What a door is made of.
pub struct Parts {
    /// What all connections share.
    pub gate: Arc<Gate>,
    /// The client's address.
    pub peer: SocketAddr,
    /// The target in whose name this server stands, inside a jump.
    pub inside: Option<TargetName>,
    /// Cuts the connection.
    pub switch: Switch,
    /// Turns true when the connection is over.
    pub closed: watch::Receiver<bool>,
    /// Told when somebody is let in.
    pub entered: oneshot::Sender<()>,
    /// Kept while the session lasts.
    pub alive: Alive,
}

/// One connection's handler.
pub struct Door {
    gate: Arc<Gate>,
    peer: SocketAddr,
    inside: Option<TargetName>,
    switch: Switch,
    closed: watch::Receiver<bool>,
    entered: Option<oneshot::Sender<()>>,
    alive: Alive,
    offers: u32,
    admitted: Option<Admitted>,
    entry: Option<watch::Receiver<Standing>>,
    places: Places,
    forwards: HashMap<(String, u32), oneshot::Sender<()>>,
}

/// A terminal goes with a shell; a role without one gets none for its commands either, as its certificate says.
pub fn gives_terminal(live: &Live) -> bool {
    live.allows(Allow::Shell)
}

impl Door {
    /// Makes a handler.
    pub fn new(parts: Parts) -> Self {
        Self {
            gate: parts.gate,
            peer: parts.peer,
            inside: parts.inside,
            switch: parts.switch,
            closed: parts.closed,
            entered: Some(parts.entered),
            alive: parts.alive,
            offers: 0,
            admitted: None,
            entry: None,
            places: Places::default(),
            forwards: HashMap::new(),
        }
    }

    async fn judge(&mut self, proof: &Proof<'_>, user: &str) -> Auth {
        let memory = self.gate.broker.memory().await;
        let moment = self.gate.broker.keeper().now();
        let now = moment.at.max(memory.state.last_at);
        // What ends, ends by whichever clock is later (decisions.md 20).
        let latest = if moment.drift_s > 0 { now.max(moment.wall_s) } else { now };
        let knock = Knock { peer: self.peer.ip(), inside: self.inside.as_ref(), now, latest };
        match admit(proof, user, knock, &memory.state) {
            Ok(admitted) => {
                self.admitted = Some(admitted);
                Auth::Accept
            }
            Err(denied) => {
                self.denied(denied, user);
                Auth::reject()
            }
        }
    }

    fn denied(&self, denied: Denied, user: &str) {
        let short: String = user.chars().take(64).collect();
        tracing::info!(peer = %self.peer, user = %shown(&short), "a proved key was refused: {denied}");
    }

    /// Begins the session of somebody who was let in, where there is a grant for one.
    async fn enter(&mut self, handle: Handle) {
        let Some(admitted) = self.admitted.clone() else { return };
        let (grant, login, way) = match admitted.way {
            Way::Jump => return,
            Way::Granted { grant, login, .. } => (Some(grant), login, self.way("certificate")),
            Way::Asking { target, login } => {
                let grant = self.gate.broker.live_grant(&admitted.person, &target, &login).await;
                if grant.is_none() {
                    self.entry = Some(self.ask(&admitted.person, admitted.key.clone(), target, &login, handle.clone()));
                }
                (grant, login, self.way("key"))
            }
        };
        if let Some(grant) = grant {
            self.entry = Some(self.begin(grant, login, admitted.key, way, handle));
        }
    }

    fn way(&self, way: &'static str) -> &'static str {
        if self.inside.is_some() { "jump" } else { way }
    }

    /// Somebody without a grant: the session begins when they have asked for one, and got it.
    fn ask(
        &self,
        person: &PersonName,
        key: Key,
        target: TargetName,
        login: &LoginName,
        handle: Handle,
    ) -> watch::Receiver<Standing> {
        let (gate, switch, closed, alive) =
            (self.gate.clone(), self.switch.clone(), self.closed.clone(), self.alive.clone());
        let (by_key, account, from, way) = (key.clone(), login.clone(), self.peer.to_string(), self.way("key"));
        let start = move |grant| {
            let (login, by_key, from) = (account.clone(), by_key.clone(), from.clone());
            let entrance = Entrance { grant, login, by_key, from, way };
            begin(gate.clone(), entrance, handle.clone(), switch.clone(), closed.clone(), alive.clone())
        };
        let (person, login) = (person.clone(), login.clone());
        let asking = Asking {
            gate: self.gate.clone(),
            person,
            key,
            target,
            login,
            begin: Box::new(start),
            begun: Mutex::default(),
        };
        watch::channel(Standing::Ask(Arc::new(asking))).1
    }

    fn begin(
        &self,
        grant: GrantId,
        login: LoginName,
        by_key: Key,
        way: &'static str,
        handle: Handle,
    ) -> watch::Receiver<Standing> {
        let entrance = Entrance { grant, login, by_key, from: self.peer.to_string(), way };
        begin(self.gate.clone(), entrance, handle, self.switch.clone(), self.closed.clone(), self.alive.clone())
    }

    /// The session, if it stands already.
    fn live(&self) -> Option<Arc<Live>> {
        let open = |standing: &Standing| if let Standing::Open(live) = standing { Some(live.clone()) } else { None };
        match &*self.entry.as_ref()?.borrow() {
            Standing::Ask(asking) => open(&asking.begun()?.borrow()),
            standing => open(standing),
        }
    }
}

/// The places for channels of one connection, and for what goes with them at the target: remote forwardings, and what comes by them.
#[derive(Clone, Default)]
pub struct Places(Arc<AtomicU32>);

impl Places {
    /// One of them, unless all are taken.
    pub fn take(&self) -> Option<Place> {
        let place = Place(self.0.clone());
        (self.0.fetch_add(1, Ordering::SeqCst) < CHANNELS).then_some(place)
    }
}

/// Given back when a channel is over.
pub struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler for Door {
    type Error = russh::Error;

    /// SECURITY: nothing is remembered from an offer, which proves nothing (CVE-2024-45337), and the answer does not depend on the user.
    async fn auth_publickey_offered(&mut self, _user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        self.offers += 1;
        if self.offers > OFFERS {
            return Err(russh::Error::Disconnect);
        }
        let Some(key) = keys::key(offer.public_key) else { return Ok(Auth::reject()) };
        let known = known(&key, &self.gate.broker.memory().await.state);
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        match keys::key(key.public_key) {
            Some(key) => Ok(self.judge(&Proof::Key(&key), user).await),
            None => Ok(Auth::reject()),
        }
    }

    async fn auth_openssh_certificate(&mut self, user: &str, shown: &Certificate) -> Result<Auth, Self::Error> {
        match keys::facts(shown) {
            Some(facts) => Ok(self.judge(&Proof::Certificate(&facts), user).await),
            None => Ok(Auth::reject()),
        }
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        if let Some(entered) = self.entered.take() {
            let _ = entered.send(());
        }
        self.enter(session.handle()).await;
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let (Some(entry), Some(place)) = (self.entry.clone(), self.places.take()) else {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        };
        let handle = session.handle();
        tokio::spawn(async move {
            channel::serve(entry, channel, reply, handle).await;
            drop(place);
        });
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        from: &str,
        from_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(place) = self.places.take() else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let tunnel = forward::Tunnel { to: (host.to_owned(), port), from: (from.to_owned(), from_port) };
        let handle = session.handle();
        match (self.entry.clone(), &self.admitted) {
            // The name of a gateway target is a hop to it, whatever else the role allows.
            (entry, Some(admitted)) if self.inside.is_none() && jump::leads(&self.gate, admitted, host).await => {
                drop(entry);
                let hop = jump::Hop { gate: self.gate.clone(), peer: self.peer, alive: self.alive.clone() };
                let host = host.to_owned();
                tokio::spawn(async move {
                    hop.serve(&host, channel, reply).await;
                    drop(place);
                });
            }
            (Some(entry), Some(_)) => {
                tokio::spawn(async move {
                    forward::serve(entry, tunnel, channel, reply, handle).await;
                    drop(place);
                });
            }
            _ => reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await,
        }
        Ok(())
    }

    /// The library keeps one size for all channels of a connection, and asks for it when it has granted it to one.
    fn adjust_window(&mut self, _channel: ChannelId, _current: u32) -> u32 {
        self.live().map_or(offer::WINDOW, |live| live.throttle.room(offer::WINDOW))
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        _term: &str,
        _cols: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        // Answered here, because the library remembers the wish for an answer of the newest request alone.
        let gives = self.live().is_none_or(|live| gives_terminal(&live));
        if gives { session.channel_success(id) } else { session.channel_failure(id) }
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if channel::passes(name) { session.channel_success(id) } else { session.channel_failure(id) }
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let Some(mut entry) = self.entry.clone() else { return Ok(false) };
        // The request comes right behind the login; the session does not wait for this connection, so this ends.
        let Ok(Ok(live)) = timeout(forward::LISTEN, channel::standing(&mut entry)).await else { return Ok(false) };
        if !live.allows(Allow::Forward) || live.is_cut() {
            return Ok(false);
        }
        let Some(place) = self.places.take() else { return Ok(false) };
        let (cancel, cancelled) = oneshot::channel();
        let places = self.places.clone();
        let listening = forward::Listening { address: address.to_owned(), port: *port, place, places, cancelled };
        let Some(bound) = forward::listen(live, session.handle(), listening).await else { return Ok(false) };
        if *port == 0 {
            *port = bound;
        }
        self.forwards.insert((address.to_owned(), *port), cancel);
        Ok(true)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.forwards.remove(&(address.to_owned(), port)).is_some())
    }
}
