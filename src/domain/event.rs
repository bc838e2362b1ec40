//! What happened: the leaves of the log.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::act::{Deed, SignedAct, Terms};
use super::authority::Purpose;
use super::database::Account;
use super::digest::Digest;
use super::epoch::NewEpoch;
use super::grant::CredentialKind;
use super::ids::{ActId, GrantId, InstallId, RequestId, SessionId};
use super::key::Key;
use super::names::{AccountName, LoginName, PersonName, RuleId, StepName, TargetName};
use super::refusal::Refusal;
use super::request::Extension;
use super::session::{Leg, Session, SessionEnd};
use super::shelf::Shelf;
use super::state::State;

/// The version of entries that this program writes; older ones decode for ever.
pub const ENTRY_VERSION: u32 = 1;

/// One leaf: an event, when it happened by which clocks, and what caused it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// [`ENTRY_VERSION`].
    pub v: u32,
    /// The leaf's index.
    pub seq: u64,
    /// Unix seconds; never smaller than in the entry before.
    pub at: i64,
    /// The boot's id and the milliseconds of the boot-time clock.
    pub boot: Boot,
    /// The cause, on the first event of each command; the following ones carry none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Command>,
    /// What happened.
    pub event: Event,
}

/// Where the boot-time clock stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The kernel's boot id.
    pub id: String,
    /// CLOCK_BOOTTIME in milliseconds.
    pub ms: u64,
}

/// What is asked of the clerk. Everything that is random or from outside is in it, so that deciding again gives the same events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Begins a log.
    Begin(Box<Genesis>),
    /// A person's signed act.
    Act(SignedAct),
    /// A signed act that ends something, while the clocks have drifted apart: it counts if it is timely by either of them.
    ActByWall {
        /// The act.
        signed: SignedAct,
        /// What the wall clock shows, in Unix seconds.
        wall_s: i64,
    },
    /// A request of somebody without a client, said to a gateway: an act that is not signed, of the person whose key was proved there
    /// (decisions.md 29).
    Attested(SignedAct),
    /// A credential for a key under a grant; the nonce goes into the certificate, or names the account.
    Issue {
        /// The grant.
        grant: GrantId,
        /// The key.
        key: Key,
        /// 32 random bytes as hex.
        nonce: Digest,
        /// SHA-256 of the SCRAM verifier that the client made, for accounts with passwords.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verifier: Option<Digest>,
    },
    /// The account of a grant was made on its server.
    AccountMade {
        /// The grant.
        grant: GrantId,
    },
    /// The server was asked to remove the account of a grant; this is what was read back.
    AccountRemoved {
        /// The grant.
        grant: GrantId,
        /// What was looked at, and what it showed.
        proofs: Vec<Proof>,
        /// What of the account's is kept, under a role without rights.
        kept: Vec<String>,
        /// What is still there; nothing when the account is gone.
        left: Vec<String>,
    },
    /// A person whose key was proved to a gateway enters a target under a grant. The gateway's own key is certified for it.
    OpenSession {
        /// A random id.
        session: SessionId,
        /// The grant.
        grant: GrantId,
        /// The account on the target.
        login: LoginName,
        /// The key that the person proved to have.
        by_key: Key,
        /// The gateway's key for this session.
        leg_key: Key,
        /// The ranges that the gateway's certificate may be used from.
        source: Vec<String>,
        /// 32 random bytes for that certificate, as hex.
        nonce: Digest,
    },
    /// A session is over.
    CloseSession {
        /// The session.
        session: SessionId,
        /// How it ended.
        end: SessionEnd,
    },
    /// Somebody looks at a recording.
    ReadRecording {
        /// The session.
        session: SessionId,
        /// Its grant.
        grant: GrantId,
        /// Who looks.
        by: PersonName,
    },
    /// A server has an account with the broker's mark that the log does not know, or knows to be gone.
    AccountFound {
        /// The target, or the server's address where it has left the inventory.
        server: String,
        /// The account's name there; hostile text.
        account: String,
        /// What was done.
        what: String,
    },
    /// Whoever is root on the broker replaces the administrators (decisions.md 3).
    ResetTrust {
        /// Who they are from now on.
        admins: BTreeMap<PersonName, Key>,
    },
    /// Looks at every deadline.
    Due,
    /// The wall clock has drifted from the boot-time clock, or come back to it.
    Clock {
        /// How far it is ahead, in seconds.
        drift_s: i64,
        /// The system vouches for the wall clock, so that time goes on from there.
        synchronised: bool,
    },
    /// Publishes the revocation list that the state asks for.
    PublishKrl,
    /// A host's confirmation that it has a revocation list.
    Confirm(SignedAct),
    /// The daemon started.
    Start,
    /// The daemon stops.
    Stop,
    /// Nothing happened for a while.
    Beat,
    /// A snapshot of the state was written.
    Snapshot {
        /// How many entries are in it.
        size: u64,
        /// SHA-256 of the file.
        sha256: Digest,
    },
}

/// The blobs that a command names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// The bundle that an act wants adopted.
    pub bundle: Option<Digest>,
    /// The personal text that an act commits to.
    pub words: Option<Digest>,
    /// The request that the act would be.
    request: Option<RequestId>,
}

impl Command {
    /// True for what gives or prepares access: it fails closed on a bad clock and on a full disk, where ends go on.
    pub fn grants(&self) -> bool {
        let gives = |deed: &Deed| {
            matches!(
                deed,
                Deed::Request { .. }
                    | Deed::Extend { .. }
                    | Deed::Approve { .. }
                    | Deed::Apply { .. }
                    | Deed::Enroll { .. }
                    | Deed::EnrollHost { .. }
                    | Deed::BindKey { .. }
                    | Deed::Enable { .. }
                    | Deed::RotateCa { .. }
            )
        };
        let said = self.act().and_then(|(signed, _)| signed.read().ok());
        matches!(self, Self::Issue { .. } | Self::OpenSession { .. }) || said.is_some_and(|act| gives(&act.deed))
    }

    /// True for what is recorded on a full disk too; a snapshot is only a cache, and a host says again what it has.
    pub fn may_use_reserve(&self) -> bool {
        !self.grants() && !matches!(self, Self::Snapshot { .. } | Self::ReadRecording { .. } | Self::Confirm(_))
    }

    /// The blobs that stand beside this command.
    pub fn beside(&self) -> Named {
        let Some((signed, _)) = self.act() else { return Named::default() };
        let Ok(act) = signed.read() else { return Named::default() };
        let bundle = match act.deed {
            Deed::Apply { bundle, .. } => Some(bundle),
            _ => None,
        };
        Named { bundle, words: act.words, request: Some(RequestId::of_digest(&signed.digest())) }
    }
}

impl Named {
    /// True for a blob that the command names.
    pub fn names(&self, digest: &Digest) -> bool {
        self.bundle == Some(*digest) || self.words == Some(*digest)
    }

    /// Lets go of what a command brought, unless it made a request that needs it.
    pub fn settle(&self, new: &[Digest], state: &State, shelf: &mut Shelf) {
        if self.request.is_some_and(|id| state.requests.contains_key(&id)) {
            return;
        }
        // The adopted bundle stays: a snapshot brings it along.
        new.iter().filter(|digest| **digest != state.bundle.digest).for_each(|digest| shelf.discard(digest));
    }
}

impl Command {
    /// The signed act, and the wall clock that it may be measured by as well.
    pub fn act(&self) -> Option<(&SignedAct, Option<i64>)> {
        match self {
            Self::Act(signed) | Self::Attested(signed) => Some((signed, None)),
            Self::ActByWall { signed, wall_s } => Some((signed, Some(*wall_s))),
            _ => None,
        }
    }
}

/// What a host signs with its own key: it has this revocation list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostWord {
    /// The installation.
    pub install: InstallId,
    /// The host's name as a target.
    pub target: TargetName,
    /// The list's version.
    pub krl_version: u64,
    /// When, in Unix seconds.
    pub at: i64,
    /// The version of the authorities that it trusts; hosts of an earlier version do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<u64>,
    /// Fingerprint of the authority that signed the certificate that it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ca: Option<String>,
}

/// The first entry: what everything else rests on (decisions.md 3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// A random number that names this installation.
    pub install: InstallId,
    /// The first administrators.
    pub admins: BTreeMap<PersonName, Key>,
    /// The Ed25519 key that signs checkpoints.
    pub log_key: Key,
    /// The user CA.
    pub ssh_user: Key,
    /// The host CA.
    pub ssh_host: Key,
    /// SHA-256 of the server CA's certificate.
    pub x509_server: String,
    /// The client CA's certificate, PEM; absent in logs that began before there were database accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x509_client: Option<String>,
    /// The authority over user certificates for the gateway; absent in logs that began before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_gateway: Option<Key>,
}

/// Why a grant ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The window's end.
    WindowEnd,
    /// Its holder gave it back.
    Released,
    /// An operator or approver ended it.
    Revoked,
    /// Its holder was disabled.
    PersonDisabled,
}

impl Cause {
    /// The state in which a grant with this cause ends (product.md).
    pub fn state(self) -> &'static str {
        match self {
            Self::WindowEnd => "ended",
            Self::Released => "released",
            Self::Revoked | Self::PersonDisabled => "revoked",
        }
    }
}

/// One thing that was read back, or could not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What was looked at: `krl`, `host`, `expiry`, `session`, `account`, and what else a server shows.
    pub what: String,
    /// Whether it shows the end; absent where nobody can see it.
    pub ok: Option<bool>,
    /// When, in Unix seconds.
    pub at: i64,
    /// In words.
    pub detail: String,
}

/// Which serials a revocation list has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// How many.
    pub count: u64,
    /// SHA-256 of all of them in ascending order, as 8 bytes each, the highest byte first.
    pub sha256: Digest,
}

impl Listed {
    /// What stands for these serials.
    pub fn of(serials: &BTreeSet<u64>) -> Self {
        let bytes: Vec<u8> = serials.iter().flat_map(|serial| serial.to_be_bytes()).collect();
        Self { count: serials.len() as u64, sha256: Digest::of(&bytes) }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
#[allow(missing_docs)] // The fields are the nouns of product.md; each variant says what happened.
pub enum Event {
    /// The log began.
    #[serde(rename = "log.begun")]
    Begun(Box<Genesis>),
    /// The daemon started, or stopped, or nothing happened for ten minutes.
    #[serde(rename = "daemon.started")]
    Started,
    #[serde(rename = "daemon.stopped")]
    Stopped,
    #[serde(rename = "heartbeat")]
    Heartbeat,
    /// A snapshot of the state was written, as a cache for the next start.
    #[serde(rename = "snapshot.taken")]
    SnapshotTaken { size: u64, sha256: Digest },
    /// A person signed in.
    #[serde(rename = "person.signed_in")]
    SignedIn { person: PersonName, act: ActId, key_fp: String },
    /// A verified act was refused.
    #[serde(rename = "act.refused")]
    ActRefused { person: PersonName, act: ActId, deed: String, refusal: Refusal },
    /// A bundle was adopted.
    #[serde(rename = "bundle.adopted")]
    BundleAdopted { by: PersonName, act: ActId, bundle: Digest },
    /// A person was disabled, enabled; a key enrolled, revoked.
    #[serde(rename = "person.disabled")]
    PersonDisabled { by: PersonName, act: ActId, person: PersonName },
    #[serde(rename = "person.enabled")]
    PersonEnabled { by: PersonName, act: ActId, person: PersonName },
    #[serde(rename = "key.enrolled")]
    KeyEnrolled { by: PersonName, act: ActId, person: PersonName, key: Key },
    #[serde(rename = "key.revoked")]
    KeyRevoked { by: PersonName, act: ActId, key: Key },
    /// An operator said that the clock is right.
    #[serde(rename = "clock.confirmed")]
    ClockConfirmed { by: PersonName, act: ActId },
    /// The wall clock went another way than the boot-time clock, or came back.
    #[serde(rename = "clock.jumped")]
    ClockJumped { drift_s: i64, synchronised: bool },
    /// A request was made and waits for people, or was approved by rule.
    #[serde(rename = "request.submitted")]
    RequestSubmitted {
        request: RequestId,
        digest: Digest,
        person: PersonName,
        key: Option<Key>,
        terms: Terms,
        code: String,
        answer_by: i64,
        rules: Vec<RuleId>,
        words: Option<Digest>,
        /// What is done once people have agreed, where it is neither a grant nor a bundle.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deed: Option<Box<Deed>>,
        /// Fingerprint of the key that signed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_fp: Option<String>,
        /// A gateway says so, and nobody signed it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        attested: bool,
        /// The grant that is to go on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        extends: Option<Extension>,
    },
    /// A request was refused at once.
    #[serde(rename = "request.refused")]
    RequestRefused {
        request: RequestId,
        person: PersonName,
        target: TargetName,
        refusal: Refusal,
        words: Option<Digest>,
    },
    /// A live grant covers it already.
    #[serde(rename = "request.covered")]
    RequestCovered { request: RequestId, person: PersonName, target: TargetName, grant: GrantId },
    /// Somebody agreed.
    #[serde(rename = "request.step_approved")]
    StepApproved {
        request: RequestId,
        act: ActId,
        step: StepName,
        by: PersonName,
        touched: bool,
        terms: Terms,
        words: Option<Digest>,
        /// Fingerprint of the key that signed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_fp: Option<String>,
    },
    /// All have agreed, or rules did.
    #[serde(rename = "request.approved")]
    RequestApproved { request: RequestId, grant: Option<GrantId> },
    #[serde(rename = "request.denied")]
    RequestDenied { request: RequestId, act: ActId, by: PersonName, words: Option<Digest> },
    #[serde(rename = "request.withdrawn")]
    RequestWithdrawn { request: RequestId, act: ActId, by: PersonName },
    #[serde(rename = "request.expired")]
    RequestExpired { request: RequestId },
    #[serde(rename = "request.invalidated")]
    RequestInvalidated { request: RequestId, refusal: Refusal },
    /// A window was opened.
    #[serde(rename = "grant.opened")]
    GrantOpened {
        grant: GrantId,
        request: RequestId,
        person: PersonName,
        key: Key,
        terms: Terms,
        starts_at: i64,
        ends_at: i64,
        claim_by: i64,
        credential_s: Option<u64>,
    },
    #[serde(rename = "grant.key_bound")]
    KeyBound { grant: GrantId, act: ActId, key: Key },
    #[serde(rename = "grant.lapsed")]
    GrantLapsed { grant: GrantId },
    #[serde(rename = "grant.cancelled")]
    GrantCancelled { grant: GrantId, refusal: Refusal },
    /// The window is over; what was issued is being made worthless.
    #[serde(rename = "grant.ending")]
    GrantEnding { grant: GrantId, cause: Cause, by: Option<PersonName>, serials: Vec<u64>, words: Option<Digest> },
    /// The end is proven.
    #[serde(rename = "grant.ended")]
    GrantEnded {
        grant: GrantId,
        cause: Cause,
        proofs: Vec<Proof>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        kept: Vec<String>,
    },
    /// An account will be made on a server, or made to take another proof.
    #[serde(rename = "account.planned")]
    AccountPlanned { grant: GrantId, key: Key, account: Box<Account>, valid_until: i64 },
    #[serde(rename = "account.made")]
    AccountMade { grant: GrantId, account: AccountName },
    /// Something is left of it; the removal goes on.
    #[serde(rename = "account.residue")]
    AccountResidue { grant: GrantId, account: AccountName, kept: Vec<String>, left: Vec<String> },
    #[serde(rename = "account.found")]
    AccountFound { server: String, account: String, what: String },
    /// A certificate may be signed: exactly these bytes, under this serial.
    #[serde(rename = "credential.issued")]
    CredentialIssued {
        #[serde(default, skip_serializing_if = "CredentialKind::is_usual")]
        credential: CredentialKind,
        grant: GrantId,
        serial: u64,
        key: Key,
        valid_after: i64,
        valid_before: i64,
        nonce: Digest,
        tbs_sha256: Digest,
    },
    /// A session through a gateway was opened; the gateway's certificate for the target may be signed.
    #[serde(rename = "session.opened")]
    SessionOpened { session: Box<Session> },
    /// A session goes on under another grant of its holder, when the one that it was under ended.
    #[serde(rename = "session.moved")]
    SessionMoved { session: SessionId, from: GrantId, to: GrantId, leg: Box<Leg> },
    #[serde(rename = "session.end_asked")]
    SessionEndAsked { session: SessionId, grant: GrantId, act: ActId, by: PersonName, words: Option<Digest> },
    #[serde(rename = "session.closed")]
    SessionClosed { session: SessionId, grant: GrantId, person: PersonName, target: TargetName, end: SessionEnd },
    /// Somebody looked at a recording.
    #[serde(rename = "session.read")]
    SessionRead { session: SessionId, grant: GrantId, by: PersonName },
    /// A revocation list was published: all serials that were revoked and not yet expired then. The log itself says which, so that the
    /// entry stays small; older entries list them.
    #[serde(rename = "krl.published")]
    KrlPublished {
        version: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        serials: Vec<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        listed: Option<Listed>,
    },
    /// A host's key was certified.
    #[serde(rename = "host.enrolled")]
    HostEnrolled {
        by: PersonName,
        act: ActId,
        target: TargetName,
        key: Key,
        serial: u64,
        valid_after: i64,
        valid_before: i64,
    },
    /// A host has a revocation list, and trusts these authorities.
    #[serde(rename = "host.confirmed")]
    HostConfirmed {
        target: TargetName,
        version: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trust: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host_ca: Option<String>,
    },
    /// An authority is being replaced: the new key is trusted, then it signs, then the old one is trusted no longer. `lacking` are those who
    /// had not heard of it, where nobody waited for them.
    #[serde(rename = "ca.staged")]
    CaStaged { by: PersonName, act: ActId, ca: Purpose, public: String },
    #[serde(rename = "ca.activated")]
    CaActivated {
        by: PersonName,
        act: ActId,
        ca: Purpose,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lacking: Vec<String>,
    },
    #[serde(rename = "ca.retired")]
    CaRetired {
        by: PersonName,
        act: ActId,
        ca: Purpose,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lacking: Vec<String>,
    },
    /// An administrator wants a new epoch of the log to begin; then it began. It says for ever what was lost before it.
    #[serde(rename = "epoch.proposed")]
    EpochProposed { by: PersonName, act: ActId, new: Box<NewEpoch> },
    #[serde(rename = "epoch.begun")]
    EpochBegun { by: Vec<PersonName>, act: ActId, new: Box<NewEpoch> },
    /// The administrators were replaced, offline, by root on the broker.
    #[serde(rename = "trust.reset")]
    TrustReset { admins: BTreeMap<PersonName, Key> },
    #[serde(rename = "ca.abandoned")]
    CaAbandoned { by: PersonName, act: ActId, ca: Purpose },
}

#[cfg(test)]
#[path = "tests_event.rs"]
mod tests;
