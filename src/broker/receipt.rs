//! Receipts: the entries of the log that tell why something was granted, each with the proof of its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::Broker;
use super::clerk::{beside, corrupt, ledger_refusal};
use crate::domain::act::SignedAct;
use crate::domain::digest::{Digest, read_canonical};
use crate::domain::event::{Command, Entry, Event};
use crate::domain::ids::{GrantId, RequestId};
use crate::domain::names::{PersonName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::Filter;
use crate::ledger::tlog_proof::TlogProof;
use crate::wire::{ProvenDoc, ReceiptDoc};

/// How many entries one command can make at most, and how far back its cause is looked for.
const LONGEST_COMMAND: u64 = 1000;

/// What a receipt is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// A request, and the grant that came of it.
    Request(RequestId),
    /// A grant, and the request that it comes from.
    Grant(GrantId),
    /// A certificate, by the SHA-256 of the bytes that its authority signs.
    Certificate(Digest),
    /// The certificate of an enrolled host, by its serial.
    Host(TargetName, u64),
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(id) => id.fmt(f),
            Self::Grant(id) => id.fmt(f),
            Self::Certificate(digest) => digest.fmt(f),
            Self::Host(target, serial) => write!(f, "host-{target}-{serial}"),
        }
    }
}

impl FromStr for About {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let host = |rest: &str| {
            let (target, serial) = rest.rsplit_once('-')?;
            Some(Self::Host(target.parse().ok()?, serial.parse().ok()?))
        };
        let request = text.parse().map(Self::Request).ok();
        let found = request.or_else(|| text.parse().map(Self::Grant).ok());
        let found = found.or_else(|| text.parse().map(Self::Certificate).ok());
        found.or_else(|| text.strip_prefix("host-").and_then(host)).ok_or(())
    }
}

/// The entries of a receipt while they are gathered.
type Gathered = BTreeMap<u64, (Entry, Vec<u8>)>;

/// The digests by which an entry allows certificates to be signed.
pub fn allows(event: &Event) -> Option<Digest> {
    match event {
        Event::CredentialIssued { tbs_sha256, .. } => Some(*tbs_sha256),
        Event::SessionOpened { session } => Some(session.leg.tbs_sha256),
        Event::SessionMoved { leg, .. } => Some(leg.tbs_sha256),
        _ => None,
    }
}

/// True for what says whose keys count: every receipt has all of it.
pub fn names_trusted(event: &Event) -> bool {
    matches!(event, Event::Begun(_) | Event::CaStaged { .. } | Event::TrustReset { .. })
}

/// True for what tells how a grant stands: an extension of it is judged by that.
pub fn stands(event: &Event, id: GrantId) -> bool {
    let (Event::GrantOpened { grant, .. }
    | Event::GrantLapsed { grant }
    | Event::GrantCancelled { grant, .. }
    | Event::GrantEnding { grant, .. }
    | Event::GrantEnded { grant, .. }) = event
    else {
        return false;
    };
    *grant == id
}

/// True for what makes the word of one of these people, or what one of these keys signed, count no more, or again: agreement is judged by it.
pub fn reweighs(event: &Event, heard: &BTreeSet<(PersonName, String)>) -> bool {
    match event {
        Event::PersonDisabled { person, .. } | Event::PersonEnabled { person, .. } => {
            heard.iter().any(|(name, _)| name == person)
        }
        Event::KeyRevoked { key, .. } => {
            let revoked = key.0.fingerprint();
            heard.iter().any(|(_, key_fp)| *key_fp == revoked)
        }
        _ => false,
    }
}

impl Broker {
    /// Makes a receipt, for one of those whom it concerns.
    ///
    /// # Errors
    /// [`Code::MISSING`] for everybody else, [`Code::NOT_IN_LOG`] for auditors and operators.
    pub async fn receipt(&self, viewer: &PersonName, about: &About) -> Result<ReceiptDoc, Refusal> {
        let stopped = || Refusal::new(Code::SIGNER_AWAY, "The signer has not signed a checkpoint yet.");
        let (size, note) = self.note().ok_or_else(stopped)?;
        let (offices, genesis) = {
            let memory = self.memory().await;
            let state = &memory.state;
            let genesis = state.genesis.clone().ok_or_else(|| corrupt("the log has no beginning"))?;
            (state.is_auditor(viewer) || state.is_operator(viewer) || state.is_admin(viewer), genesis)
        };
        let mut found = Gathered::new();
        // Whom this installation trusts: what was signed by an authority of another time is judged by that one.
        for kind in ["log.begun", "ca.staged", "trust.reset"] {
            self.gather(&mut found, Filter { kind: Some(kind.to_owned()), ..Filter::default() }, names_trusted).await?;
        }
        let mut reads_bundle = offices;
        match about {
            About::Host(target, serial) => self.host(&mut found, offices, target, *serial).await?,
            About::Certificate(digest) => {
                let grant = self.certificate(&mut found, offices, *digest).await?;
                let request = self.grant_doc(viewer, grant).await?.request_id;
                reads_bundle |= self.story(&mut found, viewer, request, Some(grant)).await?;
            }
            About::Grant(grant) => {
                let request = self.grant_doc(viewer, *grant).await?.request_id;
                reads_bundle |= self.story(&mut found, viewer, request, Some(*grant)).await?;
            }
            About::Request(id) => {
                let grant = self.request_doc(viewer, *id).await?.grant_id;
                reads_bundle |= self.story(&mut found, viewer, *id, grant).await?;
            }
        }
        // What is not the viewer's to read is told as rules that were not run, and not as a lie.
        reads_bundle &= self.surroundings(&mut found, offices).await?;
        self.causes(&mut found, offices).await?;
        found.retain(|seq, _| *seq < size);
        let texts = self.texts(&found, reads_bundle).await?;
        let mut entries = Vec::new();
        for (seq, (_, bytes)) in found {
            let hashes = self.reader().inclusion(seq, size).await.map_err(|e| ledger_refusal(&e))?;
            let entry = String::from_utf8(bytes).map_err(|_| corrupt("a leaf is not text"))?;
            entries.push(ProvenDoc { entry, proof: TlogProof { seq, hashes, note: note.clone() }.write() });
        }
        Ok(ReceiptDoc {
            schema: "jit-broker/receipt/v1".to_owned(),
            about: about.to_string(),
            install: genesis.install,
            log_key: genesis.log_key.clone(),
            entries,
            texts,
        })
    }

    /// Adds what a filter finds: so many as it says, or all.
    async fn gather(&self, found: &mut Gathered, filter: Filter, fits: impl Fn(&Event) -> bool) -> Result<(), Refusal> {
        let reader = self.reader();
        let leaves = if filter.limit == 0 { reader.search_all(&filter).await } else { reader.search(&filter).await };
        for leaf in leaves.map_err(|e| ledger_refusal(&e))? {
            let entry: Entry = read_canonical(&leaf.bytes).map_err(|e| corrupt(&e.to_string()))?;
            // The columns are only derived from the entries, so the entries themselves must say it too.
            if fits(&entry.event) {
                found.insert(leaf.seq, (entry, leaf.bytes));
            }
        }
        Ok(())
    }

    /// Finds the entry that allows a certificate; gives its grant.
    async fn certificate(&self, found: &mut Gathered, offices: bool, digest: Digest) -> Result<GrantId, Refusal> {
        // It looks at every certificate that there was; whoever it concerns asks for the grant that their certificate names.
        if !offices {
            return Err(not_in_log(false, "certificate"));
        }
        let mut here = Gathered::new();
        for kind in ["credential.issued", "session.opened", "session.moved"] {
            let filter = Filter { kind: Some(kind.to_owned()), text: Some(digest.to_string()), ..Filter::default() };
            self.gather(&mut here, filter, |event| allows(event) == Some(digest)).await?;
        }
        let grant = here.values().find_map(|(entry, _)| entry.event.concerns().grant);
        found.append(&mut here);
        grant.ok_or_else(|| not_in_log(offices, "certificate"))
    }

    async fn host(&self, found: &mut Gathered, offices: bool, target: &TargetName, serial: u64) -> Result<(), Refusal> {
        if !offices {
            return Err(not_in_log(false, "host certificate"));
        }
        let filter = Filter {
            kind: Some("host.enrolled".to_owned()),
            target: Some(target.to_string()),
            text: Some(format!("\"serial\":{serial},")),
            ..Filter::default()
        };
        let before = found.len();
        self.gather(found, filter, |event| matches!(event, Event::HostEnrolled { serial: s, .. } if *s == serial))
            .await?;
        if found.len() == before { Err(not_in_log(true, "host certificate")) } else { Ok(()) }
    }

    /// Everything about a request and its grant but the sessions, and how the grant stood that it goes on from; tells whether the viewer was asked for an answer and so reads the bundle.
    async fn story(
        &self,
        found: &mut Gathered,
        viewer: &PersonName,
        request: RequestId,
        grant: Option<GrantId>,
    ) -> Result<bool, Refusal> {
        let doc = self.request_doc(viewer, request).await?;
        let about = Filter { request_id: Some(request.to_string()), ..Filter::default() };
        self.gather(found, about, |event| event.concerns().request == Some(request)).await?;
        if let Some(grant) = grant
            && self.grant_doc(viewer, grant).await.is_ok()
        {
            let about = Filter { grant_id: Some(grant.to_string()), ..Filter::default() };
            let ours = |event: &Event| event.concerns().grant == Some(grant) && event.concerns().session.is_none();
            self.gather(found, about, ours).await?;
        }
        if let Some(before) = doc.extends
            && self.grant_doc(viewer, before).await.is_ok()
        {
            let ours = found.iter().filter(|(_, (entry, _))| entry.event.concerns().request == Some(request));
            let before_seq = ours.map(|(seq, _)| *seq).max();
            let about = Filter { grant_id: Some(before.to_string()), before_seq, ..Filter::default() };
            self.gather(found, about, |event| stands(event, before)).await?;
        }
        Ok(doc.steps.iter().any(|step| step.eligible.contains(viewer) || step.approved_by.contains(viewer)))
    }

    /// What was judged by: the bundles in force while it was, the last sign-in before each entry, and of those who signed anything the
    /// enrolment of their keys, and what made their word count no more or again; tells whether the viewer reads all of that.
    async fn surroundings(&self, found: &mut Gathered, offices: bool) -> Result<bool, Refusal> {
        let judged = found.iter().filter(|(_, (entry, _))| entry.event.concerns().request.is_some());
        let asked = judged.clone().find(|(_, (e, _))| matches!(e.event, Event::RequestSubmitted { .. }));
        let asked = asked.map(|(seq, (entry, _))| (*seq, entry.event.concerns().actor));
        let (Some((first, who)), Some(last)) = (asked, judged.clone().map(|(seq, _)| *seq).max()) else {
            return Ok(true);
        };
        let judged: Vec<u64> = judged.map(|(seq, _)| *seq).filter(|seq| *seq >= first).collect();
        let mut before = last;
        loop {
            let mut page = Gathered::new();
            let kind = Some("bundle.adopted".to_owned());
            let filter = Filter { kind, before_seq: Some(before), limit: 1, ..Filter::default() };
            self.gather(&mut page, filter, |event| matches!(event, Event::BundleAdopted { .. })).await?;
            let Some(seq) = page.keys().next().copied() else { break };
            found.append(&mut page);
            before = seq;
            if seq < first {
                break;
            }
        }
        let actor = who.map(|name| name.to_string());
        for seq in judged {
            let (kind, actor) = (Some("person.signed_in".to_owned()), actor.clone());
            let filter = Filter { kind, actor, before_seq: Some(seq), limit: 1, ..Filter::default() };
            self.gather(found, filter, |event| matches!(event, Event::SignedIn { .. })).await?;
        }
        let (heard, mut changes) = (heard(found.values().map(|(entry, _)| entry)), Gathered::new());
        for kind in ["key.revoked", "person.disabled", "person.enabled"] {
            let filter = Filter { kind: Some(kind.to_owned()), before_seq: Some(last), ..Filter::default() };
            self.gather(&mut changes, filter, |event| reweighs(event, &heard)).await?;
        }
        changes.retain(|seq, _| *seq > first);
        let reads_all = offices || changes.is_empty();
        if offices {
            found.append(&mut changes);
        }
        let signed: BTreeSet<(PersonName, String)> = found.values().filter_map(|(entry, _)| signer(entry)).collect();
        for (name, key_fp) in signed {
            let (kind, text) = (Some("key.enrolled".to_owned()), Some(format!("\"person\":\"{name}\"")));
            let ours = |event: &Event| matches!(event, Event::KeyEnrolled { person, key, .. } if *person == name && key.0.fingerprint() == key_fp);
            self.gather(found, Filter { kind, text, ..Filter::default() }, ours).await?;
        }
        Ok(reads_all)
    }

    /// Adds the signed act that an entry follows from, where it is on another entry. One that is about somebody else's access is for
    /// auditors and operators.
    async fn causes(&self, found: &mut Gathered, offices: bool) -> Result<(), Refusal> {
        let without: Vec<u64> = found.iter().filter(|(_, (e, _))| e.cause.is_none()).map(|(seq, _)| *seq).collect();
        for seq in without {
            let mut at = seq;
            while at > 0 && seq - at < LONGEST_COMMAND {
                at -= 1;
                if found.get(&at).is_some_and(|(entry, _)| entry.cause.is_some()) {
                    break;
                }
                let Some(leaf) = self.reader().leaf(at).await.map_err(|e| ledger_refusal(&e))? else { break };
                let entry: Entry = read_canonical(&leaf.bytes).map_err(|e| corrupt(&e.to_string()))?;
                let Some(cause) = &entry.cause else { continue };
                if offices && cause.act().is_some() {
                    found.insert(at, (entry, leaf.bytes));
                }
                break;
            }
        }
        Ok(())
    }

    async fn texts(&self, found: &Gathered, reads_bundle: bool) -> Result<BTreeMap<Digest, String>, Refusal> {
        let mut texts = BTreeMap::new();
        for (entry, _) in found.values().filter(|(entry, _)| !names_trusted(&entry.event)) {
            let (mut wanted, words) = beside(entry);
            if let Event::BundleAdopted { bundle, .. } = &entry.event {
                wanted.push(*bundle);
            }
            wanted.retain(|_| reads_bundle);
            for digest in wanted.into_iter().chain(words) {
                let bytes = self.reader().blob(digest.as_bytes()).await.map_err(|e| ledger_refusal(&e))?;
                if let Some(text) = bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
                    texts.insert(digest, text);
                }
            }
        }
        Ok(texts)
    }
}

/// Those whose word was judged, each with the fingerprint of the key: who asked, who answered, and who signed in.
pub fn heard<'a>(entries: impl Iterator<Item = &'a Entry>) -> BTreeSet<(PersonName, String)> {
    let judged =
        |entry: &&Entry| entry.event.concerns().request.is_some() || matches!(entry.event, Event::SignedIn { .. });
    entries.filter(judged).filter_map(signer).collect()
}

/// Who signed what caused an entry, and the fingerprint of the key.
fn signer(entry: &Entry) -> Option<(PersonName, String)> {
    // The act of a sign-in names nobody.
    if let Event::SignedIn { person, key_fp, .. } = &entry.event {
        return Some((person.clone(), key_fp.clone()));
    }
    let act =
        entry.cause.as_ref().and_then(Command::act).and_then(|(signed, _): (&SignedAct, _)| signed.read().ok())?;
    Some((act.deed.by()?.clone(), act.key_fp))
}

fn not_in_log(offices: bool, what: &str) -> Refusal {
    if offices {
        return Refusal::new(Code::NOT_IN_LOG, format!("The log knows no such {what}: nobody allowed it."));
    }
    Refusal::new(Code::MISSING, format!("The log knows no such {what}, or you may not know of it: ask an auditor."))
}
