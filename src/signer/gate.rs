//! The gate: folds, judges again, signs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use jit_ca::x509::ServerName;
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::head::{HeadFile, newest};
use super::keys::Keys;
use super::recall::Recall;
use super::recovery::Recovery;
use super::{Answer, Leaf, Order, Signer, Signing, lies, refused};
use crate::clock::Timekeeper;
use crate::domain::decide::{Now, decide};
use crate::domain::digest::{Digest, read_canonical};
use crate::domain::event::{Command, ENTRY_VERSION, Entry, Event, Genesis};
use crate::domain::ids::GrantId;
use crate::domain::key::Key;
use crate::domain::names::PersonName;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::shelf::Shelf;
use crate::domain::snapshot::Snapshot;
use crate::domain::state::{Beside, State};
use crate::ledger::note::{Checkpoint, NoteSigner};
use crate::ledger::tree::{Frontier, leaf_hash};

/// How far an entry's time may be ahead of the signer's own clock, in seconds.
const AHEAD_S: i64 = 30;
/// How far an entry's time may be behind the signer's own clock before what it grants is not signed, in seconds.
const BEHIND_S: i64 = 300;

/// What the gate remembers across restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) size: u64,
    pub(super) root: String,
    pub(super) krl_version: u64,
    /// The snapshot of its own fold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) snapshot: Option<Snapshot>,
    /// SHA-256 of leaf 0 as hex; empty in heads that were written before it was kept.
    #[serde(default)]
    pub(super) genesis: String,
    /// What was shown too late to be granted, while it is open.
    #[serde(default)]
    pub(super) late: Late,
    /// The epoch of that log.
    #[serde(default)]
    pub(super) epoch: u32,
    /// Nothing is signed until somebody says that this log is the one to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) recovery: Option<Recovery>,
}

/// Entries that grant something, but reached the signer long after their own time: a daemon may have made them up in
/// between, for a time of day or a person that was right then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Late {
    pub(super) grants: BTreeSet<GrantId>,
    /// Serials with their grants.
    pub(super) serials: BTreeMap<u64, GrantId>,
}

/// What the signer knows from its own configuration, whatever a log says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins {
    /// The names that the daemon's HTTPS certificate may have.
    pub server_names: Vec<ServerName>,
    /// The administrators of `[trust]`: leaf 0 must name exactly these (decisions.md 3).
    pub admins: BTreeMap<PersonName, Key>,
    /// The names that the SSH gateway's own host certificate has.
    pub gateway_names: Vec<String>,
    /// The ranges from which the SSH gateway reaches its targets.
    pub gateway_source: Vec<String>,
}

/// The signer. It believes the log as far as it can check it, and nothing else.
#[derive(Debug)]
pub struct Gate {
    pub(super) keys: Keys,
    pub(super) state: State,
    pub(super) shelf: Shelf,
    pub(super) frontier: Frontier,
    /// SHA-256 of leaf 0 as shown, as hex.
    pub(super) genesis: String,
    /// Events of the command that is being shown, still to come.
    expected: VecDeque<Event>,
    pub(super) late: Late,
    pub(super) head: Head,
    pub(super) recall: Recall,
    head_file: HeadFile,
    pub(super) pins: Pins,
    pub(super) keeper: Timekeeper,
    /// Why nothing is signed any more until somebody has looked.
    broken: Option<Refusal>,
}

impl Gate {
    /// Opens the gate with its keys and the head that it signed last.
    ///
    /// # Errors
    /// [`Code::HEAD_GONE`] when there is none, [`Code::BAD_CONFIG`] when it is not what this program wrote: without it a
    /// roll back could not be seen.
    pub fn open(keys: Keys, head_path: PathBuf, pins: Pins, keeper: Timekeeper) -> Result<Self, Refusal> {
        let shown = head_path.display();
        let head = match std::fs::read_to_string(&head_path) {
            Ok(text) => serde_json::from_str(newest(&text))
                .map_err(|e| Refusal::new(Code::BAD_CONFIG, format!("{shown} is damaged: {e}.")))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let gone = format!("{shown} is not there, but the keys beside it have signed a log.");
                return Err(Refusal::new(Code::HEAD_GONE, gone));
            }
            Err(e) => return Err(Refusal::new(Code::BAD_CONFIG, format!("{shown} cannot be read: {e}."))),
        };
        Ok(Self::with(keys, head_path, head, pins, keeper))
    }

    /// Opens the gate with keys that have signed no log yet; the first checkpoint makes the head.
    ///
    /// # Errors
    /// [`Code::NOT_EMPTY`] when there is a head: the keys have signed a log already.
    pub fn found(keys: Keys, head_path: PathBuf, pins: Pins, keeper: Timekeeper) -> Result<Self, Refusal> {
        if head_path.exists() {
            return Err(Refusal::new(Code::NOT_EMPTY, format!("{} is there already.", head_path.display())));
        }
        Ok(Self::with(keys, head_path, Head::default(), pins, keeper))
    }

    fn with(keys: Keys, head_path: PathBuf, head: Head, pins: Pins, keeper: Timekeeper) -> Self {
        let cache = cache_of(&head_path);
        let mut gate = Self {
            keys,
            state: State::default(),
            shelf: Shelf::default(),
            frontier: Frontier::empty(),
            genesis: String::new(),
            expected: VecDeque::new(),
            late: head.late.clone(),
            head,
            recall: Recall { cache, writing: None, begun: 0 },
            head_file: HeadFile::at(head_path),
            pins,
            keeper,
            broken: None,
        };
        gate.recall();
        gate
    }

    /// True between commands, while nothing is wrong.
    pub(super) fn whole(&self) -> bool {
        self.expected.is_empty() && self.broken.is_none()
    }

    /// True while nothing that was folded is still to be written down.
    pub(super) fn settled(&self) -> bool {
        self.whole() && self.head.size == self.state.size
    }

    /// The keys' public halves, for the first entry of a log.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    fn take(&mut self, leaf: &Leaf) -> Result<(), Refusal> {
        let entry: Entry =
            read_canonical(leaf.entry.as_bytes()).map_err(|e| lies(format!("An entry cannot be read: {e}.")))?;
        let seq = self.state.size;
        if entry.v != ENTRY_VERSION || entry.seq != seq || entry.at < self.state.last_at {
            return Err(lies(format!("Entry {} has another version, place or time than it must have.", entry.seq)));
        }
        let admins = match (&entry.event, &self.state.genesis) {
            (Event::Begun(genesis), None) => {
                self.begins(genesis, leaf.entry.as_bytes())?;
                genesis.admins.clone()
            }
            (_, Some(_)) => BTreeMap::clone(&self.state.admins),
            _ => return Err(lies("The log does not begin with its beginning.")),
        };
        // SECURITY: what an entry does not name is not kept: a daemon could fill the memory with it.
        let beside = entry.cause.as_ref().map(Command::beside).unwrap_or_default();
        let named = leaf.blobs.iter().map(|blob| (Digest::of(blob.as_bytes()), blob)).filter(|(d, _)| beside.names(d));
        let mut new = Vec::new();
        for (digest, blob) in named {
            if !self.shelf.holds(&digest) {
                new.push(digest);
                self.shelf.put(blob.as_bytes(), &admins);
            }
        }
        // Below the head every entry was judged when it was new; the root at the head shows that it is the same one.
        if seq >= self.head.size {
            self.judge(&entry)?;
            self.note_lateness(&entry);
            if matches!(entry.event, Event::ClockConfirmed { .. }) {
                self.keeper.anchor();
            }
        }
        // SECURITY: without its bundle an adoption would change nothing, and the old policy would go on.
        if let Event::BundleAdopted { bundle, .. } = &entry.event
            && self.shelf.bundle(bundle).is_none()
        {
            return Err(lies(format!("Entry {seq} adopts a bundle that was not shown.")));
        }
        self.state.apply(&entry, &self.shelf);
        beside.settle(&new, &self.state, &mut self.shelf);
        self.frontier.push(leaf_hash(leaf.entry.as_bytes()));
        if self.state.size == self.head.size && hex(&self.frontier.root()) != self.head.root {
            return Err(lies(format!("The log of size {} is another one than was signed before.", self.head.size)));
        }
        Ok(())
    }

    /// Decides the entry's command again: the log must hold exactly what follows from it.
    fn judge(&mut self, entry: &Entry) -> Result<(), Refusal> {
        self.keeper.resume(self.state.last_at, self.state.resumes_at(), self.state.last_boot.as_ref());
        let now = self.keeper.now();
        // SECURITY: an end from the future is no better than a grant: by its time every revoked certificate would be over, and the list of
        // them empty. A log whose clock was set back stands still until this clock has come up to it, so that ends go on.
        if entry.at > now.at.max(now.wall_s).saturating_add(AHEAD_S).max(self.state.last_at) {
            return Err(Refusal::new(
                Code::CLOCK,
                format!("Entry {} is more than {AHEAD_S} s ahead of the signer's clock.", entry.seq),
            ));
        }
        match (&entry.cause, self.expected.is_empty()) {
            (Some(command), true) => {
                let now = Now { at: entry.at, beside: &self.shelf };
                let events = decide(&self.state, command, now)
                    .map_err(|r| lies(format!("Entry {} is not justified: {}", entry.seq, r.message)))?;
                self.expected = events.into();
            }
            (None, false) => {}
            _ => return Err(lies(format!("Entry {} stands where it cannot.", entry.seq))),
        }
        if self.expected.pop_front().as_ref() != Some(&entry.event) {
            return Err(lies(format!("Entry {} is not what follows from its cause.", entry.seq)));
        }
        // SECURITY: nobody signs for new administrators; that root wrote them into the signer's own configuration is what counts.
        if matches!(&entry.event, Event::TrustReset { admins } if *admins != self.pins.admins) {
            let refusal = lies(format!("Entry {} names administrators that [trust] here does not.", entry.seq));
            return Err(
                refusal.hint("Where [trust] was changed: systemctl restart jit-broker-signer, then the same again")
            );
        }
        Ok(())
    }

    fn note_lateness(&mut self, entry: &Entry) {
        let now = self.keeper.now().at;
        let late = now - entry.at > BEHIND_S;
        match &entry.event {
            Event::GrantOpened { grant, .. } if late => drop(self.late.grants.insert(*grant)),
            Event::SessionOpened { session } => {
                let first =
                    self.state.grants.get(&session.grant).filter(|g| g.legs.is_empty() && g.credentials.is_empty());
                if first.is_some_and(|g| late || now >= g.claim_by + AHEAD_S) {
                    self.late.grants.insert(session.grant);
                }
            }
            // A grant that was shown too late to be believed lends itself to no session either: `session_leg` looks at it.
            Event::SessionMoved { to, .. } if late => drop(self.late.grants.insert(*to)),
            Event::CredentialIssued { grant, serial, .. } => {
                let first = self.state.grants.get(grant).filter(|g| g.credentials.is_empty());
                // The first use must be in time by this clock too, not by what the entry says alone.
                if late || first.is_some_and(|g| now >= g.claim_by + AHEAD_S) {
                    // Each authority counts its own serials.
                    let other = self.late.serials.insert(*serial, *grant).filter(|other| other != grant);
                    self.late.grants.extend(other);
                }
            }
            _ => {}
        }
    }

    /// SECURITY: the one entry that nothing before it justifies: it must be the one that was signed before, name this
    /// signer's keys, and the administrators of the signer's own configuration.
    fn begins(&mut self, genesis: &Genesis, leaf: &[u8]) -> Result<(), Refusal> {
        let digest = Digest::of(leaf).to_string();
        if !self.head.genesis.is_empty() && self.head.genesis != digest {
            return Err(lies("The log begins with another entry than the one that was signed before."));
        }
        self.genesis = digest;
        let client = self.keys.x509_client.as_ref().map(|(_, cert)| cert.pem());
        let ours = genesis.log_key == self.keys.log_public()
            && genesis.x509_client.as_deref() == client
            && genesis.ssh_gateway.as_ref().map(|key| &key.0) == self.keys.ssh_gateway.as_ref().map(|key| key.public())
            && genesis.ssh_user.0 == *self.keys.ssh_user.public()
            && genesis.ssh_host.0 == *self.keys.ssh_host.public();
        if ours { Ok(()) } else { Err(lies("The log begins with other keys than the signer's.")) }
    }

    fn checkpoint(&mut self, from: u64, leaves: &[Leaf]) -> Result<Answer, Refusal> {
        if from != self.state.size {
            return Err(refused(format!("The gate stands at {}, not at {from}.", self.state.size)));
        }
        let taken = leaves.iter().try_for_each(|leaf| self.take(leaf)).and_then(|()| {
            if self.expected.is_empty() { Ok(()) } else { Err(lies("The log ends in the middle of a command.")) }
        });
        if let Err(refusal) = taken {
            // The broker and the signer look at one clock, but not always from the same start: that passes.
            if refusal.code != Code::CLOCK {
                self.broken = Some(refusal.clone());
            }
            return Err(refusal);
        }
        if self.state.size < self.head.size {
            // A page of a longer log: nothing is signed below the head, and nothing is wrong while more comes.
            if !leaves.is_empty() {
                return Ok(Answer::Head { size: self.state.size });
            }
            let what = format!("The log has {} entries; {} were signed before.", self.state.size, self.head.size);
            let way = "Bring the newest ledger back. Where it is lost: jit-broker restore --in-place --config FILE (as root where services run), then jit-broker audit begin-epoch";
            return Err(lies(what).hint(way));
        }
        self.pinned()?;
        self.flush()?;
        if let Some(refusal) = self.recovering() {
            return Err(refusal);
        }
        let root = self.frontier.root();
        self.refresh();
        let checkpoint = Checkpoint { origin: self.origin()?, size: self.state.size, root };
        let signer = LogSigner { name: checkpoint.origin.clone(), key: &self.keys.log, public: self.log_bytes()? };
        Ok(Answer::Checkpoint { note: checkpoint.sign(&signer).text, size: self.state.size })
    }

    /// Remembers how far it has folded: nothing is signed on entries that a restart would not ask for again.
    fn flush(&mut self) -> Result<(), Refusal> {
        if !self.expected.is_empty() {
            return Err(lies("The log ends in the middle of a command."));
        }
        self.late.grants.retain(|id| self.state.open_grants.contains(id));
        self.late.serials.retain(|_, id| self.state.open_grants.contains(id));
        self.remember(Head {
            size: self.state.size,
            root: hex(&self.frontier.root()),
            genesis: self.genesis.clone(),
            epoch: self.state.epoch,
            late: self.late.clone(),
            recovery: self.head.recovery.clone().filter(|_| self.recovering().is_some()),
            ..self.head.clone()
        })
    }

    /// INVARIANT (I8): flushed before the signature leaves.
    pub(super) fn remember(&mut self, head: Head) -> Result<(), Refusal> {
        if head == self.head {
            return Ok(());
        }
        let text = serde_json::to_string(&head).map_err(|e| Refusal::new(Code::BUG, e.to_string()))?;
        self.head_file.write(&text)?;
        self.head = head;
        Ok(())
    }

    fn origin(&self) -> Result<String, Refusal> {
        let genesis = self.state.genesis.as_ref().ok_or_else(|| lies("The log has not begun."))?;
        Ok(origin_at(&genesis.install.to_string(), self.state.epoch))
    }

    pub(super) fn log_bytes(&self) -> Result<[u8; 32], Refusal> {
        self.keys
            .log
            .public()
            .ed25519_bytes()
            .ok_or_else(|| Refusal::new(Code::BAD_CONFIG, "The log's key is not Ed25519."))
    }

    /// SECURITY: below the head entries are neither judged nor bound to the root yet, and what is above it could be taken
    /// back: nothing may rest on either.
    pub(super) fn shown(&mut self) -> Result<(), Refusal> {
        if self.state.size < self.head.size || self.state.size == 0 {
            return Err(lies("The log was not shown up to the head that was signed."));
        }
        self.pinned()?;
        if let Some(refusal) = self.recovering() {
            return Err(refusal);
        }
        match self.flush() {
            Err(refusal) if refusal.code != Code::DISK_FULL => {
                let line = format!("What was shown last is in no signed head yet: {}", refusal.message);
                Err(Refusal { hint: refusal.hint, ..refused(line) })
            }
            other => other,
        }
    }

    /// The administrators are those of the signer's own configuration (decisions.md 3).
    fn pinned(&self) -> Result<(), Refusal> {
        if self.state.admins.is_empty() || *self.state.admins == self.pins.admins {
            return Ok(());
        }
        Err(Refusal::new(Code::PINNED_TRUST, "[trust] names other administrators than the log."))
    }

    /// SECURITY: granting relies on the signer's own clock, never on a time in a message.
    pub(super) fn trusted_now(&mut self) -> Result<i64, Refusal> {
        self.shown()?;
        self.keeper.resume(self.state.last_at, self.state.resumes_at(), self.state.last_boot.as_ref());
        // SECURITY: the daemon's word that the clock is right again heals nothing here; an operator's signature or our own system's does.
        if self.keeper.healable() {
            self.keeper.anchor();
        }
        let now = self.keeper.now();
        if now.trusted(self.state.last_at) {
            // Within the drift that is allowed the log may be ahead; what it opened a second ago is open.
            return Ok(now.at.max(self.state.last_at));
        }
        Err(Refusal::new(Code::CLOCK, format!("The signer's clock is off by {} s; nothing is signed.", now.drift_s)))
    }
}

impl Signer for Gate {
    fn order(&mut self, order: Order) -> Result<Answer, Refusal> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        match order {
            Order::Head => Ok(Answer::Head { size: self.state.size }),
            Order::Checkpoint { from, leaves } => self.checkpoint(from, &leaves),
            Order::Credential { grant, key } => self.credential(grant, &key),
            Order::HostCert { target } => self.host_cert(&target),
            Order::ServerLeaf { spki } => self.server_leaf(&spki),
            Order::SessionLeg { session } => self.session_leg(session),
            Order::GatewayCert { key, target } => self.gateway_cert(&key, target.as_ref()),
            Order::Krl => self.krl(),
            Order::NextKey { purpose } => self.next_key(purpose),
            Order::Trust => self.trust(),
            Order::Signed => self.signed_before(),
        }
    }

    fn judge_only(&mut self, order: &Order) -> Option<Result<Signing, Refusal>> {
        match order {
            Order::Credential { grant, key } => self.judge_credential(*grant, key),
            _ => None,
        }
    }
}

pub use crate::domain::ids::origin_of;

/// Where the signer of a head keeps its snapshot.
pub fn cache_of(head: &Path) -> Cache {
    Cache::at(head.with_extension("fold"))
}

/// The origin in an epoch.
pub fn origin_at(install: &str, epoch: u32) -> String {
    format!("jit-broker/audit/{install}/e{epoch}")
}

/// Bytes of a hash as the head has them.
pub fn hex(hash: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(hash)
}

pub(super) struct LogSigner<'a> {
    pub(super) name: String,
    pub(super) key: &'a jit_ca::key::PrivateKey,
    pub(super) public: [u8; 32],
}

impl NoteSigner for LogSigner<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn public(&self) -> [u8; 32] {
        self.public
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign_ed25519(message).unwrap_or([0; 64])
    }
}
