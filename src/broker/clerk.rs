//! The clerk: one task that decides, appends and applies. No two decisions race (house.md).
//!
//! A batch is everything that waits when the clerk looks: decided in order, appended in one durable transaction, checkpointed by the
//! signer, answered. The cost of durability is shared by everyone in it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::counts::Counts;
pub use super::fold::fold;
use super::memory::{Memory, Shared};
pub use super::orders::SignerHandle;
use crate::clock::{Moment, Timekeeper, monotonic_us};
use crate::domain::act::{Deed, SignedAct};
use crate::domain::decide::{Now, decide};
use crate::domain::digest::{Digest, canonical};
use crate::domain::event::{Command, ENTRY_VERSION, Entry, Event};
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::note::SignedNote;
use crate::ledger::{Blob, Keep, Ledger, LedgerError, MAX_LEAF, NewLeaf, Reader, Reserve, Row};
use crate::signer::cache::{Cache, every};
use crate::signer::{Answer, Leaf, Order};

/// The most commands in one batch.
const BATCH: usize = 256;
/// How often a signer that signs nothing is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a batch waits for its checkpoint. Ends, which come with the batches after it, must not wait for a signer that hangs.
pub(super) const TURN: Duration = Duration::from_secs(2);
/// A command with what stands beside it, and where its answer goes.
pub struct Job {
    /// What is asked.
    pub command: Command,
    /// Texts and bundles that the command names by digest.
    pub blobs: Vec<Vec<u8>>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Done, Refusal>>,
}

/// What a command did, durably.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// The events, in order; none when nothing changed.
    pub events: Vec<Event>,
    /// What is recorded, but has no effect outside yet, and why.
    pub notice: Option<String>,
}

/// What the broker is put together from.
pub struct Parts {
    /// The clerk's queue.
    pub jobs: mpsc::Sender<Job>,
    /// What it folds into.
    pub memory: Arc<Shared>,
    /// The log, for reading.
    pub reader: Reader,
    /// The room on the disk that is kept for ends.
    pub reserve: Reserve,
    /// The signer.
    pub signer: SignerHandle,
    /// The clock.
    pub keeper: Arc<Timekeeper>,
    /// The log's size.
    pub changed: watch::Receiver<u64>,
    /// The newest checkpoint.
    pub note: watch::Receiver<Option<(u64, String)>>,
    /// Where the snapshot lies.
    pub cache: Cache,
    /// Why the signer signs nothing, while it does not.
    pub health: watch::Receiver<Option<Refusal>>,
    /// What is counted.
    pub counts: Arc<Counts>,
    /// The clerk's task; it ends with an error when memory and store can no longer be brought together.
    pub task: tokio::task::JoinHandle<Result<(), Refusal>>,
}

pub(crate) fn corrupt(what: &str) -> Refusal {
    Refusal::new(Code::LEDGER_CORRUPT, format!("The ledger is damaged: {what}."))
}

/// The digests of what stands beside an entry: bundles that are needed for ever, texts that may be shredded.
pub fn beside(entry: &Entry) -> (Vec<Digest>, Vec<Digest>) {
    let named = entry.cause.as_ref().map(Command::beside).unwrap_or_default();
    // A refused bundle need not parse, but its bytes are what was refused.
    (named.bundle.into_iter().collect(), named.words.into_iter().collect())
}

/// What a failure of the ledger is called.
pub fn ledger_refusal(error: &LedgerError) -> Refusal {
    match error {
        LedgerError::Full => Refusal::new(Code::DISK_FULL, "The disk of the ledger is full; nothing was done."),
        LedgerError::ReadOnly => {
            Refusal::new(Code::LEDGER_DOWN, "The ledger cannot be written: its file or its file system is read-only.")
        }
        LedgerError::Held { .. } => Refusal::new(Code::LEDGER_HELD, format!("The ledger is in use: {error}.")),
        LedgerError::Newer => Refusal::new(Code::LEDGER_NEWER, format!("{error}.")),
        LedgerError::Corrupt { .. } => Refusal::new(Code::LEDGER_CORRUPT, format!("{error}.")),
        other => {
            let refusal = Refusal::new(Code::LEDGER_DOWN, format!("The log cannot be used: {other}."));
            match other {
                LedgerError::Io(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                    refusal.hint("Run it as the service's own user, or as root.")
                }
                _ => refusal,
            }
        }
    }
}

struct Clerk {
    ledger: Ledger,
    reader: Reader,
    reserve: Reserve,
    memory: Arc<Shared>,
    signer: SignerHandle,
    keeper: Arc<Timekeeper>,
    changed: watch::Sender<u64>,
    note: watch::Sender<Option<(u64, String)>>,
    cache: Cache,
    /// The size at which the shelf was last cleared of what nothing needs.
    cleared: u64,
    health: watch::Sender<Option<Refusal>>,
    counts: Arc<Counts>,
    /// What the signer was asked and has not answered: nothing but grants waits for it longer than [`TURN`].
    asked: Option<Asked>,
}

/// A checkpoint to come.
type Asked = Pin<Box<dyn Future<Output = Result<(u64, String), Refusal>> + Send>>;

/// Starts the clerk on an opened ledger: folds it, lets the signer catch up, and serves the queue.
///
/// # Errors
/// When the log cannot be folded, or the signer refuses it.
pub async fn start(
    ledger: Ledger,
    signer: SignerHandle,
    keeper: Arc<Timekeeper>,
    cache: Cache,
) -> Result<Parts, Refusal> {
    let (reader, own, reserve) = (ledger.reader(), ledger.own_reader(), ledger.reserve());
    let memory = fold(&own, &cache).await?;
    let size = memory.state.size;
    keeper.resume(memory.state.last_at, memory.state.resumes_at(), memory.state.last_boot.as_ref());
    let memory = Arc::new(Shared::new(memory));
    let (jobs, queue) = mpsc::channel(4 * BATCH);
    let (changed, changed_seen) = watch::channel(size);
    let (note, note_seen) = watch::channel(None);
    let (health, health_seen) = watch::channel(None);
    let counts = Arc::<Counts>::default();
    let mut clerk = Clerk {
        ledger,
        reader: own,
        reserve: reserve.clone(),
        memory: memory.clone(),
        signer: signer.clone(),
        keeper: keeper.clone(),
        changed,
        note,
        cache: cache.clone(),
        cleared: size,
        health,
        counts: counts.clone(),
        asked: None,
    };
    if size > 0 {
        match clerk.signer.catch_up(&clerk.reader).await {
            Ok((size, note)) => clerk.keep_note(size, note).await,
            // What mends it is an entry, so the log must go on.
            Err(refusal) if mended_by_an_entry(refusal.code) => {
                clerk.note.send_replace(stored_note(&clerk.reader).await);
                clerk.heed(Err(refusal)).await;
            }
            Err(refusal) => return Err(refusal),
        }
    }
    let task = tokio::spawn(clerk.run(queue));
    let (changed, note, health) = (changed_seen, note_seen, health_seen);
    Ok(Parts { jobs, memory, reader, reserve, signer, keeper, changed, note, health, counts, cache, task })
}

/// True for what keeps a signer from signing until administrators, or root, have said something in the log.
pub fn mended_by_an_entry(code: Code) -> bool {
    matches!(code, Code::RECOVERY | Code::PINNED_TRUST)
}

/// The newest checkpoint that is stored, with its size; clients judge it.
async fn stored_note(reader: &Reader) -> Option<(u64, String)> {
    let text = reader.checkpoint_newest().await.ok()??;
    let size = text.lines().nth(1)?.parse().ok()?;
    Some((size, text))
}

/// A job that was decided and waits for its batch to be durable.
struct Decided {
    job: Job,
    events: Vec<Event>,
}

impl Decided {
    /// True for what is recorded on a full disk too. SECURITY: a refusal is an entry that anybody can have made, and ends nothing.
    fn may_use_reserve(&self) -> bool {
        self.job.command.may_use_reserve() && !self.events.iter().all(|e| matches!(e, Event::ActRefused { .. }))
    }
}

/// What could not be made durable, and why.
struct Undone {
    decided: Vec<Decided>,
    why: Refusal,
}

impl Clerk {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) -> Result<(), Refusal> {
        let (mut batch, mut tried) = (Vec::new(), Instant::now());
        loop {
            let unwell = self.health.borrow().is_some();
            // What waits may be many commands that change nothing, so it is not waited for silence.
            if unwell && self.asked.is_none() && tried.elapsed() >= RETRY {
                self.catch_up();
                tried = Instant::now();
            }
            let asked = async {
                match &mut self.asked {
                    Some(asked) => asked.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                note = asked => self.heed(note).await,
                taken = queue.recv_many(&mut batch, BATCH) => match taken {
                    0 => return Ok(()),
                    _ => self.carry_out(std::mem::take(&mut batch)).await?,
                },
                () = tokio::time::sleep(RETRY), if unwell => {}
            }
        }
    }

    /// Carries a batch out. On a full disk the reserve is given up for ends, and for nothing else.
    async fn carry_out(&mut self, batch: Vec<Job>) -> Result<(), Refusal> {
        let Some(mut undone) = self.attempt(batch).await? else { return Ok(()) };
        if undone.why.code == Code::DISK_FULL {
            let (ends, others): (Vec<Decided>, _) = undone.decided.into_iter().partition(Decided::may_use_reserve);
            refuse(others, &undone.why);
            undone.decided = ends;
            if !undone.decided.is_empty() && self.reserve.spend() {
                tracing::warn!("the disk is full: the reserve is used, for ends alone");
                match self.attempt(undone.decided.into_iter().map(|d| d.job).collect()).await? {
                    None => return Ok(()),
                    Some(again) => undone = again,
                }
            }
        }
        refuse(undone.decided, &undone.why);
        Ok(())
    }

    /// Gives back what could not be made durable.
    async fn attempt(&mut self, batch: Vec<Job>) -> Result<Option<Undone>, Refusal> {
        let shared = self.memory.clone();
        let written = shared.batch().await;
        let mut memory = shared.change().await;
        let (mut leaves, mut shown, mut decided) = (Vec::new(), Vec::new(), Vec::new());
        let (from, anchored) = (memory.state.size, self.keeper.anchored());
        for job in batch {
            match self.decide(&mut memory, &job, &mut leaves, &mut shown) {
                Ok(events) => decided.push(Decided { job, events }),
                Err(refusal) => drop(job.reply.send(Err(refusal))),
            }
        }
        let size = memory.state.size;
        if size >= self.cleared + every(memory.state.requests.len()) {
            let needed = memory.state.needed();
            memory.shelf.retain(&needed);
            self.cleared = size;
        }
        drop(memory);
        let began_us = monotonic_us();
        let kinds: Vec<String> = leaves.iter().map(|leaf| leaf.row.kind.clone()).collect();
        if !leaves.is_empty()
            && let Err(error) = self.ledger.append(leaves).await
        {
            tracing::error!("the log cannot be written: {error}");
            self.keeper.restore(anchored);
            self.fold_again().await?;
            return Ok(Some(Undone { decided, why: ledger_refusal(&error) }));
        }
        if !kinds.is_empty() {
            self.counts.append.since(began_us);
            kinds.iter().for_each(|kind| self.counts.entry(kind));
        }
        drop(written);
        if size > from {
            self.checkpoint(from, shown).await;
            self.changed.send_replace(size);
        }
        let unwell = self.health.borrow().clone();
        for Decided { job, events } in decided {
            let notice =
                unwell.as_ref().filter(|_| !events.is_empty()).map(|why| format!("Recorded, not signed: {why}"));
            drop(job.reply.send(match &unwell {
                // What opens an access counts only once it is signed for.
                Some(why) if job.command.grants() => Err(unsigned(why)),
                _ => Ok(Done { events, notice }),
            }));
        }
        Ok(None)
    }

    /// INVARIANT: nothing is told that is not durable: after a failed write the state is folded again from what the store
    /// holds. Where that cannot be, or the store is not what the tree in memory says, the daemon stops. While it is
    /// folded, leases are looked at by what was decided, which ends and opens nothing.
    async fn fold_again(&mut self) -> Result<(), Refusal> {
        let folded =
            fold(&self.reader, &self.cache).await.and_then(|folded| match folded.state.size == self.ledger.size() {
                true => Ok(folded),
                false => {
                    Err(corrupt(&format!("{} entries are stored, {} belong", folded.state.size, self.ledger.size())))
                }
            });
        let (memory, done) = match folded {
            Ok(folded) => (folded, Ok(())),
            Err(refusal) => (Memory::default(), Err(refusal)),
        };
        *self.memory.change().await = memory;
        done
    }

    fn decide(
        &self,
        memory: &mut Memory,
        job: &Job,
        leaves: &mut Vec<NewLeaf>,
        shown: &mut Vec<Leaf>,
    ) -> Result<Vec<Event>, Refusal> {
        let moment = self.keeper.now();
        let at = moment.at.max(memory.state.last_at);
        if job.command.grants() {
            if !moment.trusted(memory.state.last_at) {
                return Err(Refusal::new(
                    Code::CLOCK,
                    format!(
                        "The broker's clock is off by {} s; nothing is granted until it is right.",
                        moment.wall_s - at
                    ),
                ));
            }
            // Without the reserve what is left of the disk belongs to the ends.
            self.reserve.stand().map_err(|e| ledger_refusal(&e))?;
        }
        if job.command.grants()
            && let Some(why) = &*self.health.borrow()
        {
            // What would be refused in any case is told as that.
            let refused = matches!(job.command, Command::Issue { .. })
                .then(|| decide(&memory.state, &job.command, Now { at, beside: &memory.shelf }).err());
            return Err(refused.flatten().unwrap_or_else(|| unsigned(why)));
        }
        let admins = match &job.command {
            Command::Begin(genesis) => Arc::new(genesis.admins.clone()),
            _ => memory.state.admins.clone(),
        };
        // Nothing is kept that the command does not name.
        let beside = job.command.beside();
        let mut blobs: Vec<&Vec<u8>> = job.blobs.iter().filter(|bytes| beside.names(&Digest::of(bytes))).collect();
        complete(&job.command, &blobs)?;
        // What an open request needs may come again with another act: only what is new here goes when nothing follows.
        let new = blobs.iter().filter(|bytes| !memory.shelf.holds(&Digest::of(bytes))).collect::<Vec<_>>();
        let named: Vec<Digest> = new.into_iter().map(|bytes| memory.shelf.put(bytes, &admins)).collect();
        let outcome = decide(&memory.state, &job.command, Now { at, beside: &memory.shelf });
        let events = match outcome {
            Ok(events) if !events.is_empty() => events,
            other => {
                named.iter().for_each(|digest| memory.shelf.discard(digest));
                return other;
            }
        };
        // A refused bundle stands beside the log only where nobody could decide the same without it.
        if let (Some(bundle), [Event::ActRefused { .. }]) = (beside.bundle, events.as_slice())
            && named.contains(&bundle)
        {
            memory.shelf.discard(&bundle);
            let without = decide(&memory.state, &job.command, Now { at, beside: &memory.shelf });
            if without.is_ok_and(|without| without == events) {
                blobs.retain(|bytes| Digest::of(bytes) != bundle);
            }
        }
        let right =
            |e: &Event| matches!(e, Event::ClockConfirmed { .. } | Event::ClockJumped { synchronised: true, .. });
        let entries = match written(memory.state.size, &job.command, &events, (at, &moment)) {
            Ok(entries) => entries,
            Err(refusal) => {
                named.iter().for_each(|digest| memory.shelf.discard(digest));
                return Err(refusal);
            }
        };
        if events.iter().any(right) {
            self.keeper.anchor();
        }
        enter(memory, (job, &blobs), entries, leaves, shown);
        beside.settle(&named, &memory.state, &mut memory.shelf);
        Ok(events)
    }

    /// Has what was appended signed. A signer that is away is shown it when it catches up; one that refuses may have waited for just that.
    async fn checkpoint(&mut self, from: u64, leaves: Vec<Leaf>) {
        if self.health.borrow().as_ref().is_some_and(|why| why.code == Code::SIGNER_AWAY) {
            return;
        }
        let (signer, reader) = (self.signer.clone(), self.reader.clone());
        let asked = self.asked.insert(Box::pin(async move {
            match signer.raw(Order::Checkpoint { from, leaves }).await {
                Ok(Answer::Checkpoint { note, size }) => Ok((size, note)),
                // It was asked anew already; revocations do not wait for it any longer.
                Err(away) if away.code == Code::SIGNER_AWAY => Err(away),
                // A restarted signer is shown the log again; what is durable stays durable meanwhile.
                _ => signer.catch_up(&reader).await,
            }
        }));
        match tokio::time::timeout(TURN, asked).await {
            Ok(note) => self.heed(note).await,
            Err(_) => self.unwell(Refusal::new(Code::SIGNER_AWAY, "The signer does not answer.")),
        }
    }

    /// Shows the signer what it has not seen, beside everything else.
    fn catch_up(&mut self) {
        let (signer, reader) = (self.signer.clone(), self.reader.clone());
        self.asked = Some(Box::pin(async move { signer.catch_up(&reader).await }));
    }

    /// Keeps a note, or why there is none.
    async fn heed(&mut self, note: Result<(u64, String), Refusal>) {
        self.asked = None;
        match note {
            Ok((size, note)) => {
                self.keep_note(size, note).await;
                // What was appended while it was away must be signed too before anything is granted.
                if size < self.ledger.size() {
                    self.catch_up();
                } else {
                    self.health.send_replace(None);
                }
            }
            Err(refusal) => self.unwell(refusal),
        }
    }

    fn unwell(&self, why: Refusal) {
        if self.health.borrow().as_ref() != Some(&why) {
            tracing::error!(code = %why.code, "no checkpoint was signed: {}", why.message);
        }
        self.health.send_replace(Some(why));
    }

    async fn keep_note(&mut self, size: u64, text: String) {
        if let Err(error) = self.ledger.put_checkpoint(&SignedNote { text: text.clone() }, size).await {
            tracing::error!("the checkpoint of size {size} was not stored: {error}");
        }
        self.note.send_replace(Some((size, text)));
    }
}

/// An entry and its bytes.
type Written = (Entry, String);

/// The entries of a command. SECURITY: one that the ledger would not take is refused here, alone: it would take its whole batch with it.
fn written(
    size: u64,
    command: &Command,
    events: &[Event],
    (at, moment): (i64, &Moment),
) -> Result<Vec<Written>, Refusal> {
    let entry = |(seq, event): (u64, &Event)| {
        let cause = (seq == size).then(|| command.clone());
        let entry = Entry { v: ENTRY_VERSION, seq, at, boot: moment.boot.clone(), cause, event: event.clone() };
        let bytes = canonical(&entry).map_err(|e| e.to_string())?;
        if bytes.len() > MAX_LEAF {
            return Err(format!("it has {} bytes, and {MAX_LEAF} are the most", bytes.len()));
        }
        Ok((entry, String::from_utf8(bytes).map_err(|e| e.to_string())?))
    };
    let entries: Result<_, String> = (size..).zip(events).map(entry).collect();
    entries.map_err(|why| Refusal::new(Code::BUG, format!("An entry cannot be written: {why}.")))
}

/// Makes the leaves of a command and applies them.
fn enter(
    memory: &mut Memory,
    (job, blobs): (&Job, &[&Vec<u8>]),
    entries: Vec<Written>,
    leaves: &mut Vec<NewLeaf>,
    shown: &mut Vec<Leaf>,
) {
    let bundle = match &job.command {
        Command::Act(signed) => bundle_named(signed),
        _ => None,
    };
    for (i, (entry, text)) in entries.into_iter().enumerate() {
        let blobs: Vec<Vec<u8>> = if i == 0 { blobs.iter().map(|b| (*b).clone()).collect() } else { Vec::new() };
        let texts = blobs.iter().filter_map(|b| String::from_utf8(b.clone()).ok()).collect();
        let keep = |b: &[u8]| if Some(Digest::of(b)) == bundle { Keep::Required } else { Keep::Shreddable };
        let blobs = blobs.into_iter().map(|bytes| Blob { keep: keep(&bytes), bytes }).collect();
        leaves.push(NewLeaf { bytes: text.clone().into_bytes(), row: row_of(&entry), blobs });
        shown.push(Leaf { entry: text, blobs: texts });
        memory.state.apply(&entry, &memory.shelf);
    }
}

fn refuse(decided: Vec<Decided>, why: &Refusal) {
    decided.into_iter().for_each(|decided| drop(decided.job.reply.send(Err(why.clone()))));
}

fn bundle_named(signed: &SignedAct) -> Option<Digest> {
    match signed.read().ok()?.deed {
        Deed::Apply { bundle, .. } => Some(bundle),
        _ => None,
    }
}

/// SECURITY: an act that leans on a text of an earlier one would be judged by what happens to be in memory, which the signer may have let
/// go of, or the other way round; so every act brings what it names.
fn complete(command: &Command, brought: &[&Vec<u8>]) -> Result<(), Refusal> {
    let beside = command.beside();
    let came = |wanted: &Digest| brought.iter().any(|bytes| Digest::of(bytes) == *wanted);
    if beside.words.is_some_and(|commitment| !came(&commitment)) {
        return Err(Refusal::new(Code::BAD_ACT, "The text that the act commits to did not come with it."));
    }
    if beside.bundle.is_some_and(|bundle| !came(&bundle)) {
        return Err(Refusal::new(Code::BUNDLE_REFUSED, "The bundle did not come with the act."));
    }
    Ok(())
}

/// What is refused while nothing is signed; always with a code that says 503.
fn unsigned(why: &Refusal) -> Refusal {
    let code = if why.code.entry().http == 503 { why.code } else { Code::SIGNER_AWAY };
    Refusal::new(code, format!("The signer signs nothing now, so nothing is granted: {}", why.message))
}

fn row_of(entry: &Entry) -> Row {
    let concerns = entry.event.concerns();
    Row {
        at: entry.at,
        kind: entry.event.kind(),
        actor: concerns.actor.map(String::from),
        request_id: concerns.request.map(String::from),
        grant_id: concerns.grant.map(String::from),
        session_id: concerns.session.map(String::from),
        target: concerns.target.map(String::from),
    }
}
