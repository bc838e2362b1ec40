//! The state: the fold of the log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::act::Terms;
use super::authority::{Authorities, Purpose};
use super::bundle::Bundle;
use super::confirmed::Confirmed;
use super::digest::Digest;
use super::epoch::{self, Epoch, Proposal, Reset};
use super::event::{Boot, Entry, Event, Genesis};
use super::grant::{Credential, CredentialKind, Grant, GrantState, SKEW_S};
use super::ids::{ActId, GrantId, RequestId, SessionId};
use super::index::Index;
use super::key::Key;
use super::names::{PersonName, TargetName};
use super::pool::Pool;
use super::refusal::Refusal;
use super::request::{Approval, Request, RequestState};
use super::retire::Over;
use super::session::{Leg, Session};
use super::snapshot::Snapshot;
use super::table::Table;
use super::text::Words;

/// What stands beside the log: personal text, and the bundles that acts name by digest.
pub trait Beside {
    /// The personal text with this commitment, unless it was shredded.
    fn words(&self, commitment: &Digest) -> Option<Words>;
    /// The bundle with this digest, parsed.
    fn bundle(&self, digest: &Digest) -> Option<Arc<Bundle>>;
}

/// A host that an administrator had certified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its key.
    pub key: Key,
    /// The serial of its certificate.
    pub serial: u64,
    /// Its certificate's window.
    pub valid_after: i64,
    /// Its certificate's window.
    pub valid_before: i64,
    /// The newest revocation list that it confirmed.
    pub krl_version: u64,
    /// When it last confirmed one.
    pub confirmed_at: Option<i64>,
    /// The version of the authorities that it trusts, as it said last.
    pub trust: u64,
    /// Fingerprint of the authority that signed the certificate that it shows, where it said so.
    pub host_ca: Option<String>,
}

/// The published revocation list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedKrl {
    /// Rises with every publication; 0 before the first.
    pub version: u64,
    /// When, in Unix seconds.
    pub at: i64,
    /// What it lists.
    pub serials: BTreeSet<u64>,
    /// The version of the authorities that it was made under.
    pub trust: u64,
}

/// The fold of the log. `decide` reads it, [`State::apply`] alone changes it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Leaf 0; absent before the log began.
    pub genesis: Option<Arc<Genesis>>,
    /// The administrators: those of leaf 0, or of the last reset.
    pub admins: Arc<BTreeMap<PersonName, Key>>,
    /// How often they were replaced by root, with the last time.
    pub resets: u64,
    /// The last time.
    pub reset: Option<Reset>,
    /// The epoch of the log; the first is 0.
    pub epoch: u32,
    /// Those that began later.
    pub epochs: Vec<Epoch>,
    /// One that an administrator wants to begin.
    pub proposal: Option<Proposal>,
    /// The authorities.
    pub authorities: Authorities,
    /// The adopted bundle.
    #[serde(skip)]
    pub bundle: Arc<Bundle>,
    /// Entries folded so far.
    pub size: u64,
    /// When the last one was.
    pub last_at: i64,
    /// The boot of the last one.
    pub last_boot: Option<Boot>,
    /// Disabled people.
    pub disabled: BTreeSet<PersonName>,
    /// Keys that administrators enrolled, with their owners.
    pub enrolled: BTreeMap<Key, PersonName>,
    /// Keys that are refused for ever.
    pub revoked_keys: BTreeSet<Key>,
    /// Their fingerprints.
    pub revoked_fps: BTreeSet<String>,
    /// When each person last signed in.
    pub signed_in: BTreeMap<PersonName, i64>,
    /// Requests by id: those that wait, those with an open grant, and for an hour those that are over.
    #[serde(skip)]
    pub requests: Table<RequestId, Request>,
    /// Grants by id: those that are open, and for an hour those that are over.
    #[serde(skip)]
    pub grants: Table<GrantId, Grant>,
    /// Enrolled hosts.
    pub hosts: BTreeMap<TargetName, Host>,
    /// The published revocation list.
    pub krl: PublishedKrl,
    /// Revoked serials with the end of their certificates.
    pub revoked: BTreeMap<u64, i64>,
    /// The last serial of the user CA.
    pub last_serial: u64,
    /// The last serial of the host CA.
    pub last_host_serial: u64,
    /// The last serial of the client CA.
    pub last_client_serial: u64,
    /// The last serial of the gateway's CA.
    pub last_gateway_serial: u64,
    /// Open sessions through a gateway.
    pub sessions: BTreeMap<SessionId, Session>,
    /// When an operator last confirmed the clock.
    pub clock_confirmed: Option<Confirmed>,
    /// The newest snapshot that the log names.
    pub snapshot: Option<Snapshot>,
    /// How far the wall clock is known to have drifted, in seconds, while it has.
    pub clock_drift: Option<i64>,
    /// Acts seen lately, so that sending one twice does nothing twice.
    #[serde(skip)]
    pub acts: BTreeSet<ActId>,
    /// The acts with their times, oldest first.
    pub(super) acts_at: VecDeque<(i64, ActId)>,
    /// Those of them that were refused, so that sending one twice gives the same answer.
    pub refused_acts: BTreeMap<ActId, Refusal>,
    /// What is over and leaves memory, with the moment since when.
    pub(super) leaving: VecDeque<(i64, Over)>,
    /// Requests that wait, and grants that are not over.
    #[serde(skip)]
    pub open_requests: BTreeSet<RequestId>,
    /// Grants that are not final.
    #[serde(skip)]
    pub open_grants: BTreeSet<GrantId>,
    /// The terms that requests and grants have in common.
    #[serde(skip)]
    pub(super) terms: Pool<Arc<Terms>>,
    /// Their keys.
    #[serde(skip)]
    pub(super) keys: Pool<Key>,
    /// Where to look in all this.
    #[serde(skip)]
    pub(super) index: Index,
}

impl State {
    /// Folds one entry. Never fails: what may be in the log was decided before.
    pub fn apply(&mut self, entry: &Entry, beside: &dyn Beside) {
        let were_open = self.take(entry, beside);
        self.retire(were_open, entry.at);
    }

    /// As [`State::apply`], and what is over stays: for the entries of one thing, read back long after.
    pub fn recall(&mut self, entry: &Entry, beside: &dyn Beside) {
        self.take(entry, beside);
    }

    /// Gives what was open and the entry is about.
    fn take(&mut self, entry: &Entry, beside: &dyn Beside) -> Vec<Over> {
        self.size = entry.seq + 1;
        self.last_at = entry.at;
        self.last_boot = Some(entry.boot.clone());
        self.heed_clock(entry);
        if let Some((signed, _)) = entry.cause.as_ref().and_then(super::event::Command::act) {
            self.remember_act(signed.id(), entry.at);
            if let Event::ActRefused { refusal, .. } | Event::RequestRefused { refusal, .. } = &entry.event {
                self.refused_acts.insert(signed.id(), refusal.clone());
            }
        }
        let about = entry.event.concerns();
        let were_open = self.open_among(&about);
        self.unindex(&about);
        self.apply_event(&entry.event, entry.at, beside);
        self.remember_binder(entry);
        self.reindex(&about, &entry.event);
        were_open
    }

    /// An act is stale long before it is forgotten here.
    fn remember_act(&mut self, id: ActId, at: i64) {
        if self.acts.insert(id) {
            self.acts_at.push_back((at, id));
        }
        let oldest = at - 3 * super::act::ACT_SKEW_S;
        while let Some((_, id)) = self.acts_at.pop_front_if(|(at, _)| *at < oldest) {
            self.acts.remove(&id);
            self.refused_acts.remove(&id);
        }
    }

    /// Whose signature bound a key: that stands in the act alone.
    fn remember_binder(&mut self, entry: &Entry) {
        let Event::KeyBound { grant, .. } = &entry.event else { return };
        let act = entry.cause.as_ref().and_then(super::event::Command::act).and_then(|(signed, _)| signed.read().ok());
        if let (Some(act), Some(grant)) = (act, self.grants.get_mut(grant)) {
            grant.bound_by.insert(act.key_fp);
        }
    }

    fn apply_event(&mut self, event: &Event, at: i64, beside: &dyn Beside) {
        match event {
            Event::Begun(genesis) => {
                self.authorities = Authorities::of(genesis);
                self.admins = Arc::new(genesis.admins.clone());
                self.genesis = Some(Arc::new((**genesis).clone()));
            }
            Event::Started | Event::Stopped | Event::Heartbeat | Event::ActRefused { .. } => {}
            Event::SnapshotTaken { size, sha256 } => self.snapshot = Some(Snapshot { size: *size, sha256: *sha256 }),
            Event::SignedIn { person, .. } => {
                self.signed_in.insert(person.clone(), at);
            }
            Event::BundleAdopted { bundle, .. } => {
                if let Some(bundle) = beside.bundle(bundle) {
                    self.bundle = bundle;
                }
            }
            Event::PersonDisabled { person, .. } => {
                self.disabled.insert(person.clone());
            }
            Event::PersonEnabled { person, .. } => {
                self.disabled.remove(person);
            }
            Event::KeyEnrolled { person, key, .. } => {
                self.enrolled.insert(key.clone(), person.clone());
            }
            Event::KeyRevoked { key, .. } => self.revoke_key(key, at),
            Event::ClockJumped { drift_s, synchronised } => {
                let agree = *synchronised || drift_s.saturating_abs() <= super::decide::DRIFT_S;
                self.clock_drift = (!agree).then_some(*drift_s);
            }
            Event::ClockConfirmed { .. } => self.clock_drift = None,
            Event::HostEnrolled { target, key, serial, valid_after, valid_before, .. } => {
                self.last_host_serial = self.last_host_serial.max(*serial);
                let host = Host {
                    key: key.clone(),
                    serial: *serial,
                    valid_after: *valid_after,
                    valid_before: *valid_before,
                    krl_version: 0,
                    confirmed_at: None,
                    // What is printed for the host is what is trusted now.
                    trust: self.authorities.version,
                    host_ca: None,
                };
                self.hosts.insert(target.clone(), host);
            }
            Event::HostConfirmed { target, version, trust, host_ca } => {
                if let Some(host) = self.hosts.get_mut(target) {
                    (host.krl_version, host.confirmed_at) = (*version, Some(at));
                    host.trust = trust.unwrap_or(host.trust);
                    host.host_ca = host_ca.clone().or_else(|| host.host_ca.take());
                }
            }
            Event::KrlPublished { version, serials, listed } => {
                // INVARIANT: only what the log itself says is revoked can have been listed.
                let serials = if listed.is_some() { self.krl_wanted(at) } else { serials.iter().copied().collect() };
                self.apply_krl(*version, serials, at);
            }
            _ => self.apply_trust(event, at),
        }
    }

    fn apply_trust(&mut self, event: &Event, at: i64) {
        match event {
            Event::CaStaged { ca, public, .. } => self.authorities.stage(*ca, public, at),
            Event::CaActivated { ca, .. } => {
                let serial = self.last_serial_of(*ca);
                self.authorities.activate(*ca, serial, at);
            }
            Event::CaRetired { ca, .. } => self.authorities.retire(*ca),
            Event::CaAbandoned { ca, .. } => self.authorities.abandon(*ca),
            Event::EpochProposed { by, new, .. } => {
                self.proposal = Some(Proposal { new: (**new).clone(), by: by.clone() });
            }
            Event::EpochBegun { by, new, .. } => self.begin_epoch(by, new, at),
            Event::TrustReset { admins } => {
                self.admins = Arc::new(admins.clone());
                self.resets += 1;
                self.reset = Some(Reset { seq: self.size - 1, at, admins: admins.clone() });
                self.authorities.version += 1;
                self.proposal = None;
            }
            _ => self.apply_request_or_grant(event, at),
        }
    }

    /// SECURITY (T15, T65, T72): no serial and no version of a list or of the authorities is one of the lost entries, and what those had
    /// certified is revoked. Who heard of a lost authority would take no later word, and a host that did could confirm nothing.
    fn begin_epoch(&mut self, by: &[PersonName], new: &epoch::NewEpoch, at: i64) {
        let floor = epoch::floor(new.epoch);
        let lost = new.lost_serials(self.last_serial);
        self.revoked.extend(lost.map(|serial| (serial, at.saturating_add(epoch::LONGEST_S))));
        let serials = [&mut self.last_serial, &mut self.last_host_serial, &mut self.last_client_serial];
        let versions = [&mut self.krl.version, &mut self.authorities.version];
        for last in serials.into_iter().chain([&mut self.last_gateway_serial]).chain(versions) {
            *last = floor.max(*last);
        }
        self.epoch = new.epoch;
        self.epochs.push(Epoch { new: new.clone(), seq: self.size - 1, at, by: by.to_vec() });
        self.proposal = None;
    }

    fn last_serial_of(&self, ca: Purpose) -> u64 {
        match ca {
            Purpose::SshUser => self.last_serial,
            Purpose::SshGateway => self.last_gateway_serial,
            Purpose::X509Client => self.last_client_serial,
            // Host certificates are signed again when they are asked for; those of servers are not counted.
            Purpose::SshHost | Purpose::X509Server => 0,
        }
    }

    /// SECURITY: a stolen key's fresh sign-in must not make a rule grant by itself, and its certificates go on the list.
    fn revoke_key(&mut self, key: &Key, at: i64) {
        if let Some(owner) = self.owner_of(key) {
            self.signed_in.remove(&owner);
        }
        self.revoked_fps.insert(key.0.fingerprint());
        self.revoked_keys.insert(key.clone());
        for grant in self.open_grants.iter().filter_map(|id| self.grants.get(id)) {
            let held = grant.ssh_credentials().filter(|c| c.key == *key && at < c.valid_before + SKEW_S);
            self.revoked.extend(held.map(|c| (c.serial, c.valid_before)));
        }
    }

    fn apply_krl(&mut self, version: u64, serials: BTreeSet<u64>, at: i64) {
        self.krl = PublishedKrl { version, at, serials, trust: self.authorities.version };
        self.revoked.retain(|_, valid_before| at < *valid_before + SKEW_S);
        self.list_endings(version, at);
    }

    fn apply_request_or_grant(&mut self, event: &Event, at: i64) {
        match event {
            Event::RequestSubmitted {
                request,
                digest,
                person,
                key,
                terms,
                code,
                answer_by,
                rules,
                words,
                deed,
                key_fp,
                attested,
                extends,
            } => {
                let (terms, key) =
                    (self.terms.share(Arc::new(terms.clone())), key.as_ref().map(|key| self.keys.share(key.clone())));
                self.open_requests.insert(*request);
                self.requests.insert(
                    *request,
                    Request {
                        id: *request,
                        digest: *digest,
                        person: person.clone(),
                        key,
                        terms,
                        code: code.clone(),
                        created_at: at,
                        answer_by: *answer_by,
                        rules: rules.clone(),
                        words: *words,
                        deed: deed.clone(),
                        key_fp: key_fp.clone(),
                        attested: *attested,
                        extends: *extends,
                        approvals: Vec::new(),
                        state: RequestState::Pending,
                    },
                );
            }
            Event::StepApproved { request, step, by, touched, terms, words, key_fp, .. } => {
                let terms = self.terms.share(Arc::new(terms.clone()));
                if let Some(request) = self.requests.get_mut(request) {
                    request.approvals.reserve_exact(1);
                    request.approvals.push(Approval {
                        step: step.clone(),
                        by: by.clone(),
                        touched: *touched,
                        terms,
                        at,
                        words: *words,
                        key_fp: key_fp.clone(),
                    });
                }
            }
            Event::RequestApproved { request, grant } => self.close(request, RequestState::Approved { grant: *grant }),
            Event::RequestDenied { request, by, words, .. } => {
                self.close(request, RequestState::Denied { by: by.clone(), words: *words });
            }
            Event::RequestWithdrawn { request, .. } => self.close(request, RequestState::Withdrawn),
            Event::RequestExpired { request } => self.close(request, RequestState::Expired),
            Event::RequestInvalidated { request, refusal } => {
                self.close(request, RequestState::Invalidated { refusal: refusal.clone() });
            }
            _ => self.apply_grant(event, at),
        }
    }

    fn apply_grant(&mut self, event: &Event, at: i64) {
        match event {
            Event::GrantOpened { grant, request, person, key, terms, starts_at, ends_at, claim_by, credential_s } => {
                let (terms, key) = (self.terms.share(Arc::new(terms.clone())), self.keys.share(key.clone()));
                self.open_grants.insert(*grant);
                self.grants.insert(
                    *grant,
                    Grant {
                        id: *grant,
                        request: *request,
                        person: person.clone(),
                        keys: vec![key],
                        bound_by: BTreeSet::new(),
                        terms,
                        starts_at: *starts_at,
                        ends_at: *ends_at,
                        claim_by: *claim_by,
                        credential_s: *credential_s,
                        credentials: Vec::new(),
                        account: None,
                        account_made: false,
                        sessions: BTreeSet::new(),
                        legs: Vec::new(),
                        state: GrantState::Ready,
                    },
                );
            }
            Event::KeyBound { grant, key, .. } => {
                let key = self.keys.share(key.clone());
                if let Some(grant) = self.grants.get_mut(grant) {
                    grant.keys.reserve_exact(1);
                    grant.keys.push(key);
                }
            }
            Event::AccountPlanned { grant, account, .. } => {
                if let Some(grant) = self.grants.get_mut(grant) {
                    grant.state = GrantState::Active;
                    (grant.account, grant.account_made) = (Some((**account).clone()), false);
                }
            }
            Event::AccountMade { grant, .. } => {
                if let Some(grant) = self.grants.get_mut(grant) {
                    grant.account_made = true;
                }
            }
            Event::AccountResidue { grant, left, .. } => {
                if let Some(grant) = self.grants.get_mut(grant)
                    && let Some((cause, at)) = grant.removing()
                {
                    grant.state = GrantState::Residue { cause, at, left: left.clone() };
                }
            }
            Event::CredentialIssued {
                credential: kind,
                grant,
                serial,
                key,
                valid_after,
                valid_before,
                nonce,
                tbs_sha256,
            } => {
                match kind {
                    CredentialKind::SshUser => self.last_serial = self.last_serial.max(*serial),
                    CredentialKind::X509Client => self.last_client_serial = self.last_client_serial.max(*serial),
                    CredentialKind::SshGateway => self.last_gateway_serial = self.last_gateway_serial.max(*serial),
                }
                let key = self.keys.share(key.clone());
                if let Some(grant) = self.grants.get_mut(grant) {
                    grant.state = GrantState::Active;
                    // Most grants have one; the usual growth makes room for four.
                    grant.credentials.reserve_exact(1);
                    grant.credentials.push(Credential {
                        kind: *kind,
                        serial: *serial,
                        key,
                        valid_after: *valid_after,
                        valid_before: *valid_before,
                        nonce: *nonce,
                        tbs_sha256: *tbs_sha256,
                    });
                }
            }
            Event::GrantEnding { grant, cause, serials, .. } => {
                if let Some(grant) = self.grants.get_mut(grant) {
                    grant.state = GrantState::Ending { cause: *cause, at, krl_version: None };
                    for credential in grant.ssh_credentials().filter(|c| serials.contains(&c.serial)) {
                        self.revoked.insert(credential.serial, credential.valid_before);
                    }
                    let legs = grant.legs.iter().filter(|serial| serials.contains(serial));
                    self.revoked.extend(legs.map(|serial| (*serial, grant.ends_at)));
                }
            }
            Event::SessionOpened { session } => self.open_session(session),
            Event::SessionMoved { session, from, to, leg } => self.move_session(*session, *from, *to, leg),
            Event::SessionEndAsked { session, by, .. } => {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.end_asked_by = Some(by.clone());
                }
            }
            Event::SessionClosed { session, grant, .. } => {
                self.sessions.remove(session);
                if let Some(grant) = self.grants.get_mut(grant) {
                    grant.sessions.remove(session);
                }
            }
            Event::GrantEnded { grant, cause, proofs, kept } => {
                let (cause, proofs, kept) = (*cause, proofs.clone(), kept.clone());
                self.finish(grant, GrantState::Ended { cause, at, proofs, kept });
            }
            Event::GrantLapsed { grant } => self.finish(grant, GrantState::Lapsed),
            Event::GrantCancelled { grant, refusal } => {
                self.finish(grant, GrantState::Cancelled { refusal: refusal.clone() });
            }
            _ => {}
        }
    }

    fn open_session(&mut self, session: &Session) {
        self.last_serial = self.last_serial.max(session.leg.serial);
        if let Some(grant) = self.grants.get_mut(&session.grant) {
            grant.state = GrantState::Active;
            grant.sessions.insert(session.id);
            grant.legs.push(session.leg.serial);
        }
        self.sessions.insert(session.id, session.clone());
    }

    fn move_session(&mut self, id: SessionId, from: GrantId, to: GrantId, leg: &Leg) {
        self.last_serial = self.last_serial.max(leg.serial);
        if let Some(grant) = self.grants.get_mut(&from) {
            grant.sessions.remove(&id);
        }
        if let Some(grant) = self.grants.get_mut(&to) {
            grant.state = GrantState::Active;
            grant.sessions.insert(id);
            grant.legs.push(leg.serial);
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            (session.grant, session.leg) = (to, leg.clone());
        }
    }

    fn close(&mut self, id: &RequestId, state: RequestState) {
        self.open_requests.remove(id);
        if let Some(request) = self.requests.get_mut(id) {
            request.state = state;
        }
    }

    fn finish(&mut self, id: &GrantId, state: GrantState) {
        self.open_grants.remove(id);
        if let Some(grant) = self.grants.get_mut(id) {
            grant.state = state;
        }
    }

    /// The same state under another bundle: all that a request is judged by, revoked keys and the grant that is to go on too.
    pub fn under(&self, bundle: Arc<Bundle>) -> Self {
        Self { bundle, ..self.clone() }
    }

    /// The serials that a revocation list made at `now` must have.
    pub fn krl_wanted(&self, now: i64) -> BTreeSet<u64> {
        self.revoked
            .iter()
            .filter(|(_, valid_before)| now < **valid_before + SKEW_S)
            .map(|(serial, _)| *serial)
            .collect()
    }
}
