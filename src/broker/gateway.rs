//! What the gateways ask of the broker: who may enter, the certificates of both sides, and the log of sessions.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::sleep;

use super::Broker;
use super::lease::Lease;
use crate::clock::random16;
use crate::domain::act::{ACT_SCHEMA, Act, Deed, SignedAct};
use crate::domain::digest::Digest;
use crate::domain::event::{Command, Event};
use crate::domain::grant::Grant;
use crate::domain::ids::{GrantId, RequestId, SessionId};
use crate::domain::key::Key;
use crate::domain::names::{LoginName, PersonName, RoleName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::session::{Gateway, SessionCause, SessionEnd};
use crate::domain::target::{Allow, Target};
use crate::domain::text::Words;
use crate::signer::{Answer, Order};
use crate::wire::RequestDoc;

/// After how long the end of a session is tried to be logged again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause: so long after the log can be written again an end may come.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// An open session, with what reaches its target.
#[derive(Debug)]
pub struct Opened {
    /// Its id.
    pub session: SessionId,
    /// The grant that it is under.
    pub grant: GrantId,
    /// Whose it is.
    pub person: PersonName,
    /// The account on the target.
    pub login: LoginName,
    /// Where it leads, and how the host is known.
    pub target: Target,
    /// What it may do.
    pub allow: Vec<Allow>,
    /// The certificate of the gateway's key, as OpenSSH text.
    pub leg: String,
    /// The end of the grant, in Unix seconds.
    pub ends_at: i64,
    /// The role has keystrokes recorded.
    pub record_input: bool,
    /// How long it may go on.
    pub lease: Lease,
}

impl Broker {
    /// The SSH gateway of this broker's configuration.
    pub fn gateway(&self) -> Option<&Gateway> {
        self.inner.gateway.as_ref()
    }

    /// Opens a session: the entry is durable, then the gateway's key is certified for the target.
    ///
    /// # Errors
    /// The refusal of state, policy or signer; a session that was opened in the log is closed there again.
    pub async fn open_session(
        &self,
        grant: GrantId,
        login: &LoginName,
        by_key: &Key,
        leg_key: &Key,
    ) -> Result<Opened, Refusal> {
        let gateway = self.gateway().ok_or_else(|| Refusal::new(Code::BAD_CONFIG, "There is no SSH gateway here."))?;
        let mut nonce = [0; 32];
        self.inner.keeper.clock().fill(&mut nonce);
        let session = SessionId::new(random16());
        let command = Command::OpenSession {
            session,
            grant,
            login: login.clone(),
            by_key: by_key.clone(),
            leg_key: leg_key.clone(),
            source: gateway.source.iter().map(ToString::to_string).collect(),
            nonce: Digest::new(nonce),
        };
        let done = match self.command(command, Vec::new()).await {
            Ok(done) => done,
            Err(refusal) => {
                // Where the signer went away over it the session is in the log, and nobody else would ever close it.
                if self.memory().await.state.sessions.contains_key(&session) {
                    self.abandon(session).await;
                }
                return Err(refusal);
            }
        };
        if let Some(Event::GrantCancelled { refusal, .. }) = done.events.first() {
            return Err(refusal.clone());
        }
        match self.entered(session, grant, login).await {
            Ok(opened) => Ok(opened),
            Err(refusal) => {
                self.abandon(session).await;
                Err(refusal)
            }
        }
    }

    async fn entered(&self, session: SessionId, grant: GrantId, login: &LoginName) -> Result<Opened, Refusal> {
        let leg = self.session_leg(session).await?;
        let memory = self.memory().await;
        let missing = || Refusal::new(Code::MISSING, "There is no such target, or you may not know of it.");
        let held = memory.state.grants.get(&grant).ok_or_else(missing)?;
        let target = memory.state.bundle.targets.get(&held.terms.target).ok_or_else(missing)?;
        if target.digest() != held.terms.target_digest {
            let changed =
                format!("{} is not what was agreed any more: its address or its host key changed.", target.name);
            return Err(Refusal::new(Code::REJUDGED, changed).hint("Release the grant and ask again."));
        }
        Ok(Opened {
            session,
            grant,
            person: held.person.clone(),
            login: login.clone(),
            target: target.clone(),
            allow: held.terms.allow.clone(),
            leg,
            ends_at: held.ends_at,
            record_input: target.roles.get(&held.terms.role).is_some_and(|role| role.record_input),
            lease: self.inner.leases.of(session, held.ends_at),
        })
    }

    /// The certificate of the gateway's key as it stands: another one, once the session goes on under another grant.
    ///
    /// # Errors
    /// The signer's refusal.
    pub async fn session_leg(&self, session: SessionId) -> Result<String, Refusal> {
        match self.order(Order::SessionLeg { session }).await? {
            Answer::Certificate { openssh } => Ok(openssh),
            _ => Err(Refusal::new(Code::BUG, "The signer answered something else.")),
        }
    }

    /// Records the end of a session. Once is enough, and again does nothing.
    ///
    /// # Errors
    /// When the log cannot be written; [`Broker::surely_close_session`] tries again.
    pub async fn close_session(&self, session: SessionId, end: SessionEnd) -> Result<(), Refusal> {
        self.inner.leases.forget(session);
        self.command(Command::CloseSession { session, end }, Vec::new()).await.map(drop)
    }

    /// Records the end of a session, however often that must be tried: a grant is not over while one of its sessions is open. Gives up
    /// when there is no clerk any more; the next start closes what is open then. May be dropped.
    pub async fn surely_close_session(&self, session: SessionId, end: SessionEnd) {
        let mut pause = FIRST_PAUSE;
        while let Err(refusal) = self.close_session(session, end.clone()).await {
            tracing::error!(%session, code = %refusal.code, "the end was not logged: {}", refusal.message);
            if self.inner.jobs.is_closed() {
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Closes a session that came to nothing. Nobody waits for a log that cannot be written now.
    async fn abandon(&self, session: SessionId) {
        let end = SessionEnd::nothing(SessionCause::TargetAway);
        if self.close_session(session, end.clone()).await.is_err() {
            let broker = self.clone();
            tokio::spawn(async move { broker.surely_close_session(session, end).await });
        }
    }

    /// The host certificate of the gateway's key: in its own names, or in that of a target that is reached through it. Good for a day.
    ///
    /// # Errors
    /// The signer's refusal.
    pub async fn gateway_certificate(&self, key: &Key, target: Option<&TargetName>) -> Result<String, Refusal> {
        match self.order(Order::GatewayCert { key: key.clone(), target: target.cloned() }).await? {
            Answer::Certificate { openssh } => Ok(openssh),
            _ => Err(Refusal::new(Code::BUG, "The signer answered something else.")),
        }
    }

    /// The grant by which a person may enter a target as an account now: the one that lasts longest.
    pub async fn live_grant(&self, person: &PersonName, target: &TargetName, login: &LoginName) -> Option<GrantId> {
        let memory = self.memory().await;
        let now = self.now().max(memory.state.last_at);
        let fits = |grant: &&Grant| {
            grant.terms.gateway
                && grant.terms.target == *target
                && grant.terms.logins.contains(login)
                && grant.live_at(now).is_ok()
        };
        memory.state.open_grants_of(person).filter(fits).max_by_key(|grant| grant.ends_at).map(|grant| grant.id)
    }

    /// Asks for somebody whose key was proved to the gateway and who has no client (decisions.md 29). Gives the request as they see it.
    ///
    /// # Errors
    /// The refusal of policy, [`Code::NO_ROLE`] where no role opens the account.
    pub async fn attested_request(
        &self,
        (person, key): (&PersonName, &Key),
        target: &TargetName,
        login: &LoginName,
        for_s: Option<u64>,
        reason: &str,
    ) -> Result<RequestDoc, Refusal> {
        let role = self.role_opening(person, target, login).await?;
        let install = self.memory().await.state.genesis.as_ref().map(|g| g.install);
        let install = install.ok_or_else(|| Refusal::new(Code::LEDGER_CORRUPT, "The log has no beginning."))?;
        let hex = |bytes: [u8; 16]| data_encoding::HEXLOWER.encode(&bytes);
        let words = Words { salt: hex(random16()), reason: Some(reason.to_owned()), ticket: None };
        words.check()?;
        let act = Act {
            schema: ACT_SCHEMA.to_owned(),
            install,
            key_fp: key.0.fingerprint(),
            at: self.now(),
            nonce: hex(random16()),
            words: Some(words.commitment()),
            deed: Deed::Request { by: person.clone(), target: target.clone(), role, for_s, key: key.clone() },
        };
        let bug = |e: &dyn std::fmt::Display| Refusal::new(Code::BUG, format!("The request cannot be written: {e}."));
        let act = String::from_utf8(act.bytes().map_err(|e| bug(&e))?).map_err(|e| bug(&e))?;
        let said = SignedAct { act, signature: String::new() };
        let id = RequestId::of_digest(&said.digest());
        let now_ms = self.keeper().now().boot.ms;
        self.inner.quotas.lock().unwrap_or_else(PoisonError::into_inner).spend(person, now_ms)?;
        let done = self.command(Command::Attested(said), vec![words.bytes()]).await?;
        match done.events.into_iter().find_map(|event| match event {
            Event::RequestRefused { refusal, .. } => Some(refusal),
            _ => None,
        }) {
            Some(refusal) => Err(refusal),
            None => self.request_doc(person, id).await,
        }
    }

    /// The role that a person may ask people for to enter as an account: the first by name.
    async fn role_opening(
        &self,
        person: &PersonName,
        target: &TargetName,
        login: &LoginName,
    ) -> Result<RoleName, Refusal> {
        let docs = self.target_docs(person).await;
        let doc = docs.iter().find(|doc| doc.name == *target && doc.mode == "gateway");
        let roles = doc.into_iter().flat_map(|doc| &doc.roles);
        let role = roles.filter(|role| role.logins.contains(login)).find(|role| role.verdict == "ask");
        let none = || Refusal::new(Code::NO_ROLE, format!("No role that you may ask for opens {login} on {target}."));
        role.map(|role| role.name.clone()).ok_or_else(none)
    }

    /// Closes in the log what a daemon that is gone left open. `sealed` gives what was recorded of a session.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub async fn close_lost(
        &self,
        mut sealed: impl FnMut(SessionId) -> Option<crate::domain::session::Sealed>,
    ) -> Result<usize, Refusal> {
        let open: Vec<SessionId> = self.memory().await.state.sessions.keys().copied().collect();
        for session in &open {
            let end = SessionEnd { recording: sealed(*session), ..SessionEnd::nothing(SessionCause::Lost) };
            self.close_session(*session, end).await?;
        }
        Ok(open.len())
    }
}
