//! Every verb of the product, once.
//!
//! True here: one clerk decides and appends; nothing leaves before it is durable; the signer signs, never the broker.
//! Never here: HTTP, terminals, SQL, keys.
//! Start with [`clerk`], then [`Broker`].

pub mod accounts;
pub mod authority;
pub mod clerk;
pub mod counts;
mod earlier;
pub mod epoch;
pub mod evidence;
pub(crate) mod fold;
pub mod gateway;
mod health;
pub mod lease;
pub mod left;
pub mod memory;
pub mod orders;
mod past;
pub mod quota;
pub mod reaper;
pub mod receipt;
pub mod recorded;
pub mod session;
pub mod snapshot;
pub mod sweep;
pub mod view;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use crate::accounts::scram::Verifier;
use crate::clock::{DRIFT_S, Timekeeper};
use crate::domain::act::{Act, Deed, SignedAct};
use crate::domain::authority::SignedTrust;
use crate::domain::bundle::Bundle;
use crate::domain::decide::{Now, admit, decide};
use crate::domain::digest::Digest;
use crate::domain::event::{Command, Event};
use crate::domain::ids::GrantId;
use crate::domain::key::Key;
use crate::domain::names::{PersonName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::session::Gateway;
use crate::domain::shelf::Shelf;
use crate::domain::state::{Beside, State};
use crate::domain::text::Words;
use crate::ledger::{Reader, Reserve};
use crate::signer::{Answer, Order};

use clerk::{Done, Job, SignerHandle};
pub use memory::Memory;
use session::Sessions;

/// How often a revocation list is made anew at once when more was revoked meanwhile.
const KRL_TRIES: u32 = 8;

/// The running broker; cheap to clone.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: mpsc::Sender<Job>,
    memory: Arc<memory::Shared>,
    reader: Reader,
    reserve: Reserve,
    signer: SignerHandle,
    keeper: Arc<Timekeeper>,
    sessions: Mutex<Sessions>,
    quotas: Mutex<quota::Quotas>,
    guesses: Mutex<quota::Guesses>,
    changed: watch::Receiver<u64>,
    note: watch::Receiver<Option<(u64, String)>>,
    cache: crate::signer::cache::Cache,
    snapshotting: tokio::sync::Mutex<()>,
    health: watch::Receiver<Option<Refusal>>,
    counts: Arc<counts::Counts>,
    krl_path: PathBuf,
    krl: Mutex<Option<KrlFile>>,
    publishing: tokio::sync::Mutex<()>,
    public_url: String,
    accounts: accounts::Accounts,
    gateway: Option<Gateway>,
    leases: lease::Leases,
    trust: Mutex<Option<(u64, SignedTrust)>>,
}

/// What a grant gave for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issued {
    /// An OpenSSH certificate, one line.
    Ssh(String),
    /// A client certificate, PEM.
    Client(String),
    /// The account takes the password whose verifier was sent.
    Password,
}

/// The revocation list as it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KrlFile {
    /// Rises with every publication.
    pub version: u64,
    /// Base64 of the file.
    pub krl: String,
    /// Armored SSHSIG of the user CA.
    pub signature: String,
}

/// What stands beside an act that is only looked at.
struct Brought<'a> {
    shelf: &'a Shelf,
    words: Option<&'a Words>,
}

impl Beside for Brought<'_> {
    fn words(&self, commitment: &Digest) -> Option<Words> {
        let brought = self.words.filter(|words| words.commitment() == *commitment);
        brought.cloned().or_else(|| self.shelf.words(commitment))
    }

    fn bundle(&self, digest: &Digest) -> Option<Arc<Bundle>> {
        self.shelf.bundle(digest)
    }
}

impl Broker {
    /// Puts the broker together; the clerk must run already.
    pub fn new(
        parts: clerk::Parts,
        public_url: String,
        krl_path: PathBuf,
        accounts: accounts::Accounts,
        gateway: Option<Gateway>,
    ) -> Self {
        let inner = Inner {
            jobs: parts.jobs,
            memory: parts.memory,
            reader: parts.reader,
            reserve: parts.reserve,
            signer: parts.signer,
            keeper: parts.keeper,
            sessions: Mutex::new(Sessions::default()),
            quotas: Mutex::new(quota::Quotas::default()),
            guesses: Mutex::new(quota::Guesses::default()),
            changed: parts.changed,
            note: parts.note,
            cache: parts.cache,
            snapshotting: tokio::sync::Mutex::new(()),
            health: parts.health,
            counts: parts.counts,
            krl_path,
            krl: Mutex::new(None),
            publishing: tokio::sync::Mutex::new(()),
            public_url,
            accounts,
            gateway,
            leases: lease::Leases::default(),
            trust: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The address that sign-in names.
    pub fn public_url(&self) -> &str {
        &self.inner.public_url
    }

    /// The time that counts.
    pub fn now(&self) -> i64 {
        self.inner.keeper.now().at
    }

    /// The clock.
    pub fn keeper(&self) -> &Timekeeper {
        &self.inner.keeper
    }

    /// The log, for reading.
    pub fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    /// The room on the disk that is kept for ends.
    pub fn reserve(&self) -> &Reserve {
        &self.inner.reserve
    }

    /// A look at what is durable; the clerk waits meanwhile.
    pub async fn memory(&self) -> memory::Look<'_> {
        self.inner.memory.durable().await
    }

    /// A look at what is decided: only for what the clerk decides again ([`memory::Shared::decided`]).
    pub async fn decided(&self) -> tokio::sync::RwLockReadGuard<'_, Memory> {
        self.inner.memory.decided().await
    }

    /// Changes whenever the log grew.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.clone()
    }

    /// The newest signed checkpoint with its size.
    pub fn note(&self) -> Option<(u64, String)> {
        self.inner.note.borrow().clone()
    }

    /// Changes whenever a checkpoint was signed.
    pub fn notes(&self) -> watch::Receiver<Option<(u64, String)>> {
        self.inner.note.clone()
    }

    /// Why the signer signs nothing, while it does not.
    pub fn health(&self) -> Option<Refusal> {
        self.inner.health.borrow().clone()
    }

    /// What is counted.
    pub fn counts(&self) -> &counts::Counts {
        &self.inner.counts
    }

    /// How long the signer's orders took.
    pub fn signer_took(&self) -> &counts::Took {
        self.inner.signer.took()
    }

    /// Sessions and challenges.
    pub fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.inner.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a token that is none; tells how long its sender waits to hear so.
    pub fn guessed(&self, source: std::net::IpAddr) -> std::time::Duration {
        let now_ms = self.inner.keeper.now().boot.ms;
        self.inner.guesses.lock().unwrap_or_else(PoisonError::into_inner).count(source, now_ms)
    }

    /// Has the clerk decide a command; answers when what follows is durable and signed.
    ///
    /// # Errors
    /// The refusal, or [`Code::LEDGER_DOWN`].
    pub async fn command(&self, command: Command, blobs: Vec<Vec<u8>>) -> Result<Done, Refusal> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Refusal::new(Code::LEDGER_DOWN, "The broker is stopping.");
        self.inner.jobs.send(Job { command, blobs, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// The log's time, and the wall clock's where it tells another one.
    fn clocks(&self, state: &State) -> (i64, Option<i64>) {
        let moment = self.inner.keeper.now();
        let at = moment.at.max(state.last_at);
        (at, (at.saturating_sub(moment.wall_s).saturating_abs() > DRIFT_S).then_some(moment.wall_s))
    }

    /// Asks of an act what can be asked before anything that comes with it is looked at.
    ///
    /// # Errors
    /// As [`admit`].
    pub async fn admit(&self, signed: &SignedAct) -> Result<(Act, PersonName), Refusal> {
        let memory = self.decided().await;
        let (at, wall) = self.clocks(&memory.state);
        admit(&memory.state, signed, at, wall)
    }

    /// Carries out a person's signed act.
    ///
    /// # Errors
    /// As decided; a refusal of somebody known is in the log.
    pub async fn act(
        &self,
        signed: SignedAct,
        words: Option<&Words>,
        bundle: Option<Vec<u8>>,
    ) -> Result<Done, Refusal> {
        // SECURITY: an act of nobody known must cost neither memory nor a place in the queue, where revocations wait.
        let (act, person) = self.admit(&signed).await?;
        if !act.deed.ends() {
            self.spend(&person)?;
        }
        if let Deed::Login { challenge, public_url } = &act.deed {
            self.answered(challenge, public_url)?;
        }
        self.may_stage(&person, &act.deed).await?;
        self.may_begin(&act.deed).await?;
        let mut blobs = Vec::new();
        if let Some(words) = words.filter(|w| act.words == Some(w.commitment())) {
            words.check()?;
            blobs.push(words.bytes());
        }
        if let Deed::Apply { bundle: named, .. } = act.deed {
            let brought = bundle.filter(|bytes| Digest::of(bytes) == named);
            if let Some(bytes) = &brought {
                self.reachable(bytes)?;
            }
            blobs.extend(brought);
        }
        let (_, wall) = self.clocks(&self.memory().await.state);
        let command = match wall.filter(|_| act.deed.ends()) {
            Some(wall_s) => Command::ActByWall { signed: signed.clone(), wall_s },
            None => Command::Act(signed.clone()),
        };
        // What ends something is never counted; what would only be refused is, and is not even an entry beyond that.
        if act.deed.ends()
            && let Some(refusal) = self.refused_now(&command, words).await
        {
            self.spend(&person).map_err(|_| refusal)?;
        }
        // A refusal that is an entry, or one of an act that was refused before.
        let done = self.command(command, blobs).await.and_then(|done| match done.events.iter().find_map(refusal_in) {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(done),
        });
        match done {
            Err(refusal) if refusal.code == Code::MISSING => {
                Err(self.over_long_ago(&person, &signed).await.unwrap_or(refusal))
            }
            Err(refusal) => Err(refusal),
            Ok(mut done) => {
                if let Err(refusal) = self.settle().await {
                    tracing::error!(code = %refusal.code, "the revocation list was not published: {}", refusal.message);
                    done.notice = Some(format!("Recorded, not published: {}", refusal.message));
                }
                Ok(done)
            }
        }
    }

    /// Records what a host says of itself, and makes the ends that it proves.
    ///
    /// # Errors
    /// As decided.
    pub async fn confirm(&self, signed: SignedAct) -> Result<Done, Refusal> {
        let command = Command::Confirm(signed);
        {
            // SECURITY: as for acts, a word of no enrolled host costs no place in the queue.
            let memory = self.decided().await;
            let (at, _) = self.clocks(&memory.state);
            decide(&memory.state, &command, Now { at, beside: &memory.shelf })?;
        }
        let done = self.command(command, Vec::new()).await?;
        if !done.events.is_empty() {
            reaper::ends(self).await?;
        }
        Ok(done)
    }

    fn spend(&self, person: &PersonName) -> Result<(), Refusal> {
        let now_ms = self.inner.keeper.now().boot.ms;
        self.inner.quotas.lock().unwrap_or_else(PoisonError::into_inner).spend(person, now_ms)
    }

    /// Why a command would be refused as things stand, if that is all that would come of it.
    async fn refused_now(&self, command: &Command, words: Option<&Words>) -> Option<Refusal> {
        let memory = self.decided().await;
        let (at, _) = self.clocks(&memory.state);
        let beside = Brought { shelf: &memory.shelf, words };
        match decide(&memory.state, command, Now { at, beside: &beside }).as_deref() {
            Ok([Event::ActRefused { refusal, .. }]) => Some(refusal.clone()),
            _ => None,
        }
    }

    /// Refuses a bundle whose targets need a gateway that this configuration does not have (decisions.md 26).
    fn reachable(&self, bundle: &[u8]) -> Result<(), Refusal> {
        if self.gateway().is_some() {
            return Ok(());
        }
        let mut shelf = Shelf::default();
        shelf.put(bundle, &Default::default());
        match shelf.bundle(&Digest::of(bundle)).and_then(|parsed| parsed.unreachable()) {
            Some(message) => {
                Err(Refusal::new(Code::BUNDLE_REFUSED, message).hint("Add it and restart, or say mode = \"direct\"."))
            }
            None => Ok(()),
        }
    }

    /// Publishes what an end asks for at once, so that a revocation does not wait for a timer; nor does its answer wait for a signer that
    /// hangs: the reaper goes on.
    async fn settle(&self) -> Result<(), Refusal> {
        let late = |_| Refusal::new(Code::SIGNER_AWAY, "The signer does not answer in time.");
        tokio::time::timeout(clerk::TURN, self.publish_due()).await.map_err(late)?
    }

    /// Publishes the list that the state asks for, where another one is served; one publication at a time, whoever wants it.
    ///
    /// # Errors
    /// As [`Broker::publish_krl`].
    pub(crate) async fn publish_due(&self) -> Result<(), Refusal> {
        if !self.list_due().await? {
            return Ok(());
        }
        let _alone = self.inner.publishing.lock().await;
        // Whoever published meanwhile may have had all of it in.
        if self.list_due().await? { self.publish_krl().await } else { Ok(()) }
    }

    /// True when the list that is served is not the one that the state asks for: the state changed, or signer or disk failed at the last
    /// publication. A signer that is away is not asked: the clerk tells when it is back.
    async fn list_due(&self) -> Result<bool, Refusal> {
        let memory = self.memory().await;
        let now = self.now().max(memory.state.last_at);
        let served = self.inner.krl.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|list| list.version);
        let old = memory.state.krl_due(now) || served.is_none_or(|version| version < memory.state.krl.version);
        match self.health().filter(|why| old && why.code == Code::SIGNER_AWAY) {
            Some(away) => Err(away),
            None => Ok(old),
        }
    }

    /// Issues the credential of a grant for a key: event durable, then made on its server where it is an account, then signed.
    ///
    /// # Errors
    /// The refusal of state, policy, server or signer.
    pub async fn issue(
        &self,
        by: &PersonName,
        grant: GrantId,
        key: &Key,
        verifier: Option<Verifier>,
    ) -> Result<Issued, Refusal> {
        let held = self.decided().await.state.grants.get(&grant).map(|g| (g.person == *by, g.terms.database.is_some()));
        let Some((true, database)) = held else {
            let past = if held.is_none() { self.past_grant(grant).await.filter(|g| g.person == *by) } else { None };
            let missing = || Refusal::new(Code::MISSING, "There is no such grant, or you may not know of it.");
            return Err(past.and_then(|g| g.live_at(self.now()).err()).unwrap_or_else(missing));
        };
        if database {
            self.may_plan(grant).await?;
        }
        let mut nonce = [0; 32];
        self.inner.keeper.clock().fill(&mut nonce);
        let named = verifier.as_ref().map(accounts::digest);
        let command = Command::Issue { grant, key: key.clone(), nonce: Digest::new(nonce), verifier: named };
        if database {
            let password = verifier.is_some();
            self.plan_and_make(grant, command, verifier).await?;
            if password {
                return Ok(Issued::Password);
            }
        } else {
            granted(&self.command(command, Vec::new()).await?)?;
        }
        let signed = match self.order(Order::Credential { grant, key: key.clone() }).await {
            // It ended between the entry and the signature: that is told, not that the signer saw it.
            Err(refusal) if refusal.code == Code::SIGNER_REFUSED => {
                let memory = self.memory().await;
                let over = memory.state.grants.get(&grant).and_then(|g| g.live_at(self.now()).err());
                return Err(over.unwrap_or(refusal));
            }
            other => other?,
        };
        match signed {
            Answer::Certificate { openssh } => Ok(Issued::Ssh(openssh)),
            Answer::Client { pem } => Ok(Issued::Client(pem)),
            _ => Err(Refusal::new(Code::BUG, "The signer answered something else.")),
        }
    }

    /// The certificate of an enrolled host.
    ///
    /// # Errors
    /// The signer's refusal.
    pub async fn host_certificate(&self, target: &TargetName) -> Result<String, Refusal> {
        match self.order(Order::HostCert { target: target.clone() }).await? {
            Answer::Certificate { openssh } => Ok(openssh),
            _ => Err(Refusal::new(Code::BUG, "The signer answered something else.")),
        }
    }

    pub(crate) async fn order(&self, order: Order) -> Result<Answer, Refusal> {
        self.inner.signer.order(order, &self.inner.reader).await
    }

    /// Publishes the revocation list that the state asks for, if the published one differs.
    ///
    /// # Errors
    /// When log, signer or disk refuse; the list that was published before stays.
    pub async fn publish_krl(&self) -> Result<(), Refusal> {
        let mut tries = 0;
        loop {
            self.command(Command::PublishKrl, Vec::new()).await?;
            tries += 1;
            match self.serve_krl().await {
                // Something else was revoked in between, so the signer wants a newer list.
                Err(refusal) if refusal.code == Code::SIGNER_REFUSED && tries < KRL_TRIES => {}
                // The list is a part of the end: it may use the reserve as well.
                Err(refusal) if refusal.code == Code::DISK_FULL && self.inner.reserve.spend() => {}
                other => return other,
            }
        }
    }

    async fn serve_krl(&self) -> Result<(), Refusal> {
        let Answer::Krl { krl, signature, version } = self.order(Order::Krl).await? else {
            return Err(Refusal::new(Code::BUG, "The signer answered something else."));
        };
        let bytes = data_encoding::BASE64.decode(krl.as_bytes()).unwrap_or_default();
        // SECURITY: an empty list makes sshd accept everything (measured), so an empty file is never written.
        if bytes.is_empty() {
            return Err(Refusal::new(Code::LINT, "The revocation list is empty bytes; it was not published."));
        }
        let mut held = self.inner.krl.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|h| h.version < version) {
            crate::signer::keys::replace(&self.inner.krl_path, &bytes, 0o644)?;
            *held = Some(KrlFile { version, krl, signature });
        }
        Ok(())
    }

    /// The published revocation list.
    pub fn krl(&self) -> Option<KrlFile> {
        self.inner.krl.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A personal text by its commitment: from memory, or from beside the log.
    pub async fn words(&self, commitment: Option<Digest>) -> Option<Words> {
        let commitment = commitment?;
        if let Some(words) = self.memory().await.shelf.words(&commitment) {
            return Some(words);
        }
        let bytes = self.reader().blob(commitment.as_bytes()).await.ok()??;
        crate::domain::digest::read_canonical(&bytes).ok()
    }
}

/// A grant that is judged again at its first use may be cancelled by that.
fn granted(done: &Done) -> Result<(), Refusal> {
    let cancelled = |event: &Event| match event {
        Event::GrantCancelled { refusal, .. } => Some(refusal.clone()),
        _ => None,
    };
    done.events.iter().find_map(cancelled).map_or(Ok(()), Err)
}

fn refusal_in(event: &Event) -> Option<&Refusal> {
    match event {
        Event::ActRefused { refusal, .. } | Event::RequestRefused { refusal, .. } => Some(refusal),
        _ => None,
    }
}
