//! What entries of a log show by themselves: who asked, who agreed, under which rules, and what was signed for it.
//!
//! True here: pure; every signature of a person is checked again, the rules are run again where the bundle is there, and the bytes that an
//! authority signed are computed again. Never here: I/O, a broker's word. What is *not* in the log no such set of entries can show.
//! Start at [`open`], for receipts.

use std::collections::VecDeque;
use std::sync::Arc;

use jit_ca::spec::{CertWindow, HostSpec, KeyId, Principal, Principals, Serial};
use jit_ca::x509::CaCert;

use super::receipt::{About, allows};
use crate::domain::act::{Act, Deed, SignedAct};
use crate::domain::authority::{Authorities, Purpose};
use crate::domain::decide::{Now, client_spec, decide, judged_again, leg_spec, user_spec};
use crate::domain::digest::{Digest, read_canonical};
use crate::domain::event::{Command, Entry, Event, Genesis};
use crate::domain::grant::{Credential, CredentialKind, Grant};
use crate::domain::ids::{GrantId, InstallId, RequestId, SessionId};
use crate::domain::key::Key;
use crate::domain::names::{PersonName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::request::Request;
use crate::domain::session::{Leg, Session};
use crate::domain::shelf::Shelf;
use crate::domain::state::{Beside, Host, State};
use crate::domain::text::Words;
use crate::ledger::tlog_proof::TlogProof;
use crate::ledger::{Checkpoint, leaf_hash};
use crate::signer::gate::origin_of;
use crate::wire::ReceiptDoc;

/// What somebody signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The entry.
    pub seq: u64,
    /// Who, as the act says.
    pub person: PersonName,
    /// The deed's word, such as `approve`.
    pub deed: &'static str,
    /// The key that signed; none where a gateway said it for somebody.
    pub key_fp: Option<String>,
    /// True where the bundle, leaf 0 or an enrolment shows that the key was theirs.
    pub theirs: bool,
    /// Why, in their words; hostile text.
    pub words: Option<Words>,
}

/// What a set of entries shows.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Leaf 0.
    pub genesis: Option<Arc<Genesis>>,
    /// The request, as its entries leave it.
    pub request: Option<Request>,
    /// The grant, as its entries leave it.
    pub grant: Option<Grant>,
    /// The certificates with which the gateway opens targets, by their sessions; only those that were asked for.
    pub legs: Vec<(SessionId, Leg)>,
    /// Hosts that were enrolled, with their certificates.
    pub hosts: Vec<(TargetName, Host)>,
    /// Everything that people signed.
    pub said: Vec<Said>,
    /// The bundle under which it was judged.
    pub bundle: Option<Digest>,
    /// True where the rules of that bundle were run again and gave the same.
    pub judged: bool,
    /// What cannot be judged from this alone.
    pub gaps: Vec<String>,
    /// What is wrong.
    pub problems: Vec<String>,
    /// Every authority that an entry names: those of leaf 0, and those that were staged since, in force still or not.
    pub authorities: Vec<(Purpose, String)>,
    state: State,
    shelf: Shelf,
    /// The texts, to be read again when other administrators come.
    texts: Vec<Vec<u8>>,
    expected: VecDeque<Event>,
    next: u64,
    adopted: Option<Digest>,
    adopted_at: Option<i64>,
    /// A text is gone that the rules need.
    lost: bool,
}

/// Reads a receipt against the log's key: places, texts, signatures, rules.
///
/// # Errors
/// [`Code::FALSE_PROOF`] with everything that is wrong.
pub fn open(doc: &ReceiptDoc, log_key: &Key) -> Result<(Evidence, Checkpoint), Refusal> {
    let refuse = |what: String| Refusal::new(Code::FALSE_PROOF, format!("The receipt does not hold: {what}"));
    if doc.schema != "jit-broker/receipt/v1" {
        return Err(refuse(format!("its schema is {:?}.", doc.schema)));
    }
    let public = log_key.0.ed25519_bytes().ok_or_else(|| refuse("the log's key is not an Ed25519 key.".to_owned()))?;
    let origin = origin_of(&doc.install.to_string());
    let (mut entries, mut newest) = (Vec::<Entry>::new(), None::<(Checkpoint, String)>);
    for proven in &doc.entries {
        let proof = TlogProof::read(&proven.proof).map_err(|e| refuse(format!("{e}.")))?;
        let at = |e: String| refuse(format!("entry {}: {e}.", proof.seq));
        let opened = proof.open(leaf_hash(proven.entry.as_bytes()), &origin, &public).map_err(|e| at(e.to_string()))?;
        if newest.as_ref().is_some_and(|(_, note)| *note != proof.note) {
            return Err(at("it is proven against another checkpoint than the others".to_owned()));
        }
        let entry: Entry = read_canonical(proven.entry.as_bytes()).map_err(|e| at(e.to_string()))?;
        if entry.seq != proof.seq || entries.last().is_some_and(|last| last.seq >= entry.seq) {
            return Err(at("it is not where it says".to_owned()));
        }
        entries.push(entry);
        newest = Some((opened, proof.note));
    }
    let (Some((checkpoint, _)), Some(Event::Begun(genesis))) = (newest, entries.first().map(|e| &e.event)) else {
        return Err(refuse("it does not have the beginning of the log.".to_owned()));
    };
    if genesis.log_key != *log_key || genesis.install != doc.install || doc.log_key != *log_key {
        return Err(refuse("the log begins with another key or installation.".to_owned()));
    }
    for (digest, text) in &doc.texts {
        if Digest::of(text.as_bytes()) != *digest {
            return Err(refuse(format!("the text {digest} is another one.")));
        }
    }
    let about: About = doc.about.parse().map_err(|()| refuse("what it is about is nothing of a log.".to_owned()))?;
    let evidence = Evidence::read(&entries, doc.texts.values().map(String::as_bytes), &about);
    let spoken_of = match &about {
        About::Request(id) => evidence.request.as_ref().is_some_and(|request| request.id == *id),
        About::Grant(id) => evidence.grant.as_ref().is_some_and(|grant| grant.id == *id),
        About::Certificate(_) => evidence.grant.is_some(),
        About::Host(..) => !evidence.hosts.is_empty(),
    };
    // A request that was refused or covered at once is no object of the state; its entry is all that there is.
    let told =
        entries.iter().any(|entry| matches!(&about, About::Request(id) if entry.event.concerns().request == Some(*id)));
    if !spoken_of && !told {
        return Err(refuse("it has nothing of what it is about.".to_owned()));
    }
    match evidence.problems.as_slice() {
        [] => Ok((evidence, checkpoint)),
        problems => Err(refuse(problems.join("\n"))),
    }
}

impl Evidence {
    /// Reads entries of one request and grant, in order and beginning with leaf 0; their places in the log are shown already.
    pub fn read<'a>(entries: &[Entry], texts: impl Iterator<Item = &'a [u8]>, about: &About) -> Self {
        let mut evidence = Self { texts: texts.map(<[u8]>::to_vec).collect(), ..Self::default() };
        let (request, grant) = chosen(entries, about);
        entries.iter().for_each(|entry| evidence.take(entry, request, grant));
        evidence.conclude();
        evidence
    }

    /// A personal text, where it is there.
    pub fn words(&self, commitment: Option<Digest>) -> Option<Words> {
        commitment.and_then(|digest| self.shelf.words(&digest))
    }

    fn bundle_is_here(&self) -> bool {
        self.adopted.is_some_and(|digest| self.shelf.bundle(&digest).is_some())
    }

    /// The authorities of a purpose that were named so far.
    fn named(&self, purpose: Purpose) -> impl Iterator<Item = &str> {
        self.authorities.iter().filter(move |(of, _)| *of == purpose).map(|(_, public)| public.as_str())
    }

    /// The host whose certificate these bytes are, by their SHA-256: a renewed one has the serial of its enrolment and another authority.
    pub fn host_of(&self, tbs: Digest) -> Option<&(TargetName, Host)> {
        let install = self.genesis.as_ref()?.install;
        let signed = |target: &TargetName, host: &Host| {
            self.named(Purpose::SshHost).any(|ca| host_tbs(install, ca, target, host) == Some(tbs))
        };
        self.hosts.iter().find(|(target, host)| signed(target, host))
    }

    /// What an entry says of those whom this installation trusts.
    fn trust(&mut self, event: &Event) {
        let admins = match event {
            Event::Begun(genesis) => {
                let rings = Authorities::of(genesis).rings;
                self.authorities.extend(rings.into_iter().map(|(purpose, ring)| (purpose, ring.active)));
                &genesis.admins
            }
            Event::TrustReset { admins } => admins,
            Event::CaStaged { ca, public, .. } => return self.authorities.push((*ca, public.clone())),
            _ => return,
        };
        // A bundle is read beside the administrators of its time.
        for text in &self.texts {
            self.shelf.put(text, admins);
        }
    }

    fn take(&mut self, entry: &Entry, request: Option<RequestId>, grant: Option<GrantId>) {
        self.trust(&entry.event);
        if let Some(cause) = &entry.cause {
            self.expected.clear();
            if let Some((signed, _)) = cause.act() {
                self.signed(entry, signed, matches!(cause, Command::Attested(_)));
            }
            self.decide_again(entry, cause, request);
        } else if entry.seq != self.next {
            self.expected.clear();
        }
        self.next = entry.seq + 1;
        self.follows(entry, request);
        match &entry.event {
            Event::CredentialIssued { grant, tbs_sha256, .. } => self.credential(entry, *grant, *tbs_sha256),
            Event::SessionOpened { session } => self.session(entry, session),
            Event::SessionMoved { session, leg, .. } => self.legs.push((*session, (**leg).clone())),
            Event::RequestSubmitted { .. } => self.bundle = self.adopted,
            Event::BundleAdopted { bundle, .. } => (self.adopted, self.adopted_at) = (Some(*bundle), Some(entry.at)),
            _ => {}
        }
        self.state.apply(entry, &self.shelf);
        if let Event::HostEnrolled { target, .. } = &entry.event {
            self.hosts.extend(self.state.hosts.get(target).map(|host| (target.clone(), host.clone())));
        }
        self.genesis.clone_from(&self.state.genesis);
        // What is over leaves the state some time later.
        if let Some(found) = request.and_then(|id| self.state.requests.get(&id)) {
            self.request = Some(found.clone());
        }
        if let Some(found) = grant.and_then(|id| self.state.grants.get(&id)) {
            self.grant = Some(found.clone());
        }
    }

    /// Checks a person's signature, and that the entry says what they said.
    fn signed(&mut self, entry: &Entry, signed: &SignedAct, attested: bool) {
        let seq = entry.seq;
        let act = match signed.read() {
            Ok(act) => act,
            Err(refusal) => return self.problems.push(format!("entry {seq}: {}", refusal.message)),
        };
        if self.state.genesis.as_ref().map(|genesis| genesis.install) != Some(act.install) {
            self.problems.push(format!("entry {seq}: signed for another installation"));
        }
        let mut theirs = attested;
        if !attested {
            match jit_ca::sshsig::verify(act.deed.namespace(), signed.act.as_bytes(), &signed.signature) {
                Ok(by) if by.key.fingerprint() == act.key_fp => {
                    let owner = self.state.owner_of(&Key(by.key));
                    theirs = owner.is_some() && owner.as_ref() == act.deed.by();
                }
                Ok(_) => self.problems.push(format!("entry {seq}: signed by another key than the act names")),
                Err(e) => self.problems.push(format!("entry {seq}: the signature does not hold: {e}")),
            }
        }
        if !says(&entry.event, signed, &act) {
            self.problems.push(format!("entry {seq}: it says something else than what was signed"));
        }
        let Some(person) = act.deed.by().cloned() else { return };
        let words = self.words(act.words);
        let key_fp = (!attested).then_some(act.key_fp);
        self.said.push(Said { seq, person, deed: act.deed.word(), key_fp, theirs, words });
    }

    /// Runs the rules again on what was asked and agreed.
    fn decide_again(&mut self, entry: &Entry, cause: &Command, request: Option<RequestId>) {
        let Some(act) = cause.act().and_then(|(signed, _)| signed.read().ok()) else { return };
        // Where rules asked nobody any more, the act of who answered is on the outcome itself.
        let opens = gives(&entry.event, request)
            || matches!(&entry.event, Event::RequestApproved { request: id, .. } if Some(*id) == request);
        if !opens || !self.bundle_is_here() || self.lost {
            return;
        }
        if act.words.is_some_and(|digest| self.shelf.words(&digest).is_none()) {
            self.lost = true;
            return self.gaps.push(format!("entry {}: its text is gone, so the rules were not run again", entry.seq));
        }
        let asked = request.and_then(|id| self.state.requests.get(&id)).and_then(|request| request.extends);
        let goes_on = if let Deed::Extend { grant, .. } = act.deed { Some(grant) } else { asked.map(|e| e.grant) };
        if goes_on.is_some_and(|grant| self.state.grants.get(&grant).is_none()) {
            self.lost = true;
            return self.gaps.push(format!("entry {}: the grant that was to go on is not in the receipt", entry.seq));
        }
        match decide(&self.state, cause, Now { at: entry.at, beside: &self.shelf }) {
            Ok(events) => self.expected = events.into(),
            Err(refusal) => {
                self.problems.push(format!("entry {}: nothing justifies it: {}", entry.seq, refusal.message))
            }
        }
    }

    /// Demands that an entry which gives something is what the rules made of it.
    fn follows(&mut self, entry: &Entry, request: Option<RequestId>) {
        let expected = self.expected.pop_front();
        let gives = gives(&entry.event, request);
        match expected {
            Some(event) if same(event.clone(), &entry.event) => self.judged |= gives,
            Some(_) => self.problems.push(format!("entry {}: it is not what the rules make of its cause", entry.seq)),
            None if gives && self.let_through(entry) => (self.bundle, self.judged) = (self.adopted, true),
            None if gives && self.bundle_is_here() && !self.lost => {
                self.problems.push(format!("entry {}: nothing in the receipt justifies it", entry.seq));
            }
            None => {}
        }
    }

    /// True for a grant that came with a bundle: under its rules nobody was left to be asked, and they give the same here.
    fn let_through(&self, entry: &Entry) -> bool {
        let Event::GrantOpened { request, .. } = &entry.event else { return false };
        let Some(request) = self.state.requests.get(request) else { return false };
        let now = Now { at: entry.at, beside: &self.shelf };
        let came_along =
            entry.cause.is_none() && self.adopted_at == Some(entry.at) && self.bundle_is_here() && !self.lost;
        came_along && judged_again(&self.state, request, now).is_ok_and(|events| events.contains(&entry.event))
    }

    /// Computes again the bytes that an authority may sign.
    fn credential(&mut self, entry: &Entry, grant: GrantId, allowed: Digest) {
        let Event::CredentialIssued { credential, serial, key, valid_after, valid_before, nonce, .. } = &entry.event
        else {
            return;
        };
        let Some(grant) = self.state.grants.get(&grant) else {
            return self.gaps.push(format!("entry {}: its grant is not in the receipt", entry.seq));
        };
        let (kind, serial, key) = (*credential, *serial, key.clone());
        let (valid_after, valid_before, nonce) = (*valid_after, *valid_before, *nonce);
        let credential = Credential { kind, serial, key, valid_after, valid_before, nonce, tbs_sha256: allowed };
        if valid_before > grant.ends_at || !grant.keys.contains(&credential.key) {
            let say = format!("entry {}: serial {serial} is outside the window or the keys of the grant", entry.seq);
            return self.problems.push(say);
        }
        // Which of the authorities it was is in the bytes themselves; that it was the one in force, `audit verify` shows.
        if !self.named(purpose(kind)).any(|ca| tbs(ca, grant, &credential) == Some(allowed)) {
            self.problems.push(format!("entry {}: serial {serial} is for other bytes than the grant gives", entry.seq));
        }
    }

    fn session(&mut self, entry: &Entry, session: &Session) {
        let spec = self.state.grants.get(&session.grant).and_then(|grant| leg_spec(grant, session).ok());
        let tbs = |ca: Key| spec.as_ref().map(|spec| Digest::of(&jit_ca::ssh::tbs_user(spec, &ca.0)));
        if self.named(Purpose::SshUser).filter_map(ssh).any(|ca| tbs(ca) == Some(session.leg.tbs_sha256)) {
            self.legs.push((session.id, session.leg.clone()));
        } else {
            self.problems.push(format!("entry {}: the session's certificate is not of its grant", entry.seq));
        }
    }

    fn conclude(&mut self) {
        if let (Some(request), Some(grant)) = (&self.request, &self.grant)
            && grant.request == request.id
        {
            let agreed = request.standing_terms();
            let wide = grant.terms.for_s > agreed.for_s || grant.ends_at - grant.starts_at > for_s(agreed.for_s);
            let other = (&grant.terms.target, &grant.terms.role, &grant.terms.logins, &grant.person)
                != (&agreed.target, &agreed.role, &agreed.logins, &request.person);
            if wide || other || request.key.as_ref() != grant.keys.first() {
                self.problems.push(format!("grant {} is more than, or something else than, what was agreed", grant.id));
            }
        }
        self.judged &= !self.lost;
        if self.request.is_some() && !self.judged {
            self.gaps.push("the rules were not run again: the bundle or a text is not in the receipt".to_owned());
        }
        let unknown = self.said.iter().filter(|said| !said.theirs);
        let unknown: Vec<String> = unknown.map(|said| format!("{} (entry {})", said.person, said.seq)).collect();
        if !unknown.is_empty() {
            let who = unknown.join(", ");
            self.gaps.push(format!("that the keys were theirs is not shown here for: {who}; the signer checked it"));
        }
    }
}

fn for_s(s: u64) -> i64 {
    i64::try_from(s).unwrap_or(i64::MAX)
}

fn purpose(kind: CredentialKind) -> Purpose {
    match kind {
        CredentialKind::SshUser => Purpose::SshUser,
        CredentialKind::SshGateway => Purpose::SshGateway,
        CredentialKind::X509Client => Purpose::X509Client,
    }
}

fn ssh(public: &str) -> Option<Key> {
    Key::try_from(public.to_owned()).ok()
}

/// The digest of the bytes that an authority may sign for a credential.
fn tbs(ca: &str, grant: &Grant, credential: &Credential) -> Option<Digest> {
    if credential.kind == CredentialKind::X509Client {
        let spec = client_spec(grant, &grant.account.as_ref()?.name, credential);
        return Some(Digest::of(&jit_ca::x509::tbs_client(&CaCert::from_pem(ca).ok()?, &spec).ok()?));
    }
    Some(Digest::of(&jit_ca::ssh::tbs_user(&user_spec(grant, credential).ok()?, &ssh(ca)?.0)))
}

/// The digest of the bytes that a host authority may sign for an enrolled host.
fn host_tbs(install: InstallId, ca: &str, target: &TargetName, host: &Host) -> Option<Digest> {
    let nonce = Digest::of(format!("{install} host {target} {}", host.serial).as_bytes());
    let seconds = |at: i64| u64::try_from(at).ok();
    let spec = HostSpec {
        serial: Serial::new(host.serial).ok()?,
        key: host.key.0.clone(),
        key_id: KeyId::new(format!("jit:host:{target}")).ok()?,
        principals: Principals::new(vec![Principal::new(target.as_str()).ok()?]).ok()?,
        window: CertWindow::new(seconds(host.valid_after)?, seconds(host.valid_before)?).ok()?,
        nonce: *nonce.as_bytes(),
    };
    Some(Digest::of(&jit_ca::ssh::tbs_host(&spec, &ssh(ca)?.0)))
}

/// The match code avoids those of other open requests, which are not in a receipt; it decides nothing.
fn same(mut expected: Event, found: &Event) -> bool {
    if let (Event::RequestSubmitted { code, .. }, Event::RequestSubmitted { code: drawn, .. }) = (&mut expected, found)
    {
        code.clone_from(drawn);
    }
    expected == *found
}

/// The request and the grant that a set of entries is about: others may be in it for what they led to.
fn chosen(entries: &[Entry], about: &About) -> (Option<RequestId>, Option<GrantId>) {
    let opened = |fits: &dyn Fn(&RequestId, &GrantId) -> bool| {
        entries.iter().find_map(|entry| match &entry.event {
            Event::GrantOpened { request, grant, .. } if fits(request, grant) => Some((Some(*request), Some(*grant))),
            _ => None,
        })
    };
    let grant = match about {
        About::Request(id) => return opened(&|request, _| request == id).unwrap_or((Some(*id), None)),
        About::Grant(id) => Some(*id),
        About::Certificate(digest) => {
            entries.iter().find(|e| allows(&e.event) == Some(*digest)).and_then(|e| e.event.concerns().grant)
        }
        About::Host(..) => None,
    };
    let Some(id) = grant else { return (None, None) };
    opened(&|_, grant| *grant == id).unwrap_or((None, Some(id)))
}

/// True for what opens, or goes towards opening, what this is about. What another request led to is here for its signature alone.
fn gives(event: &Event, request: Option<RequestId>) -> bool {
    let opens =
        matches!(event, Event::RequestSubmitted { .. } | Event::StepApproved { .. } | Event::GrantOpened { .. });
    opens && event.concerns().request == request
}

/// Whether an entry says what its signed act says, as far as they can be laid side by side.
fn says(event: &Event, signed: &SignedAct, act: &Act) -> bool {
    match (event, &act.deed) {
        (
            Event::RequestSubmitted { request, digest, person, key, terms, words, key_fp, .. },
            Deed::Request { by, target, role, for_s, key: asked },
        ) => {
            let ids = *request == RequestId::of_digest(&signed.digest()) && *digest == signed.digest();
            let what = (&terms.target, &terms.role) == (target, role) && for_s.is_none_or(|s| terms.for_s <= s);
            let who = person == by && key.as_ref() == Some(asked) && key_fp.as_ref() == Some(&act.key_fp);
            ids && what && who && *words == act.words
        }
        (
            Event::StepApproved { request, act: id, by: person, terms, words, key_fp, .. },
            Deed::Approve { by, request: named, terms: agreed, .. },
        ) => {
            let who = person == by && key_fp.as_ref() == Some(&act.key_fp) && *id == signed.id();
            who && request == named && terms == agreed && *words == act.words
        }
        (Event::RequestSubmitted { person, digest, .. }, deed) => {
            deed.by() == Some(person) && *digest == signed.digest()
        }
        (Event::RequestApproved { request, .. }, Deed::Approve { request: named, .. }) => request == named,
        (Event::StepApproved { .. } | Event::RequestApproved { .. } | Event::GrantOpened { .. }, _) => false,
        (Event::RequestDenied { request, act: id, by: person, .. }, Deed::Deny { by, request: named }) => {
            person == by && request == named && *id == signed.id()
        }
        (Event::GrantEnding { by: Some(person), .. }, deed) => deed.by() == Some(person) && deed.ends(),
        _ => true,
    }
}
