//! Checkpoints outside: copies of our own newest one that we cannot take back, and those of other logs that we keep for them.
//!
//! True here: handing out never holds anything up; a newer checkpoint overtakes those that still wait, because it says all that they said.
//! What an outside copy knows is asked before anything is signed after a start. Never here: a decision about access, SQL, a CA's key.
//! Start at [`ask_first`], then [`Witnesses::tend`]; [`keep`] is the other side.

mod deliver;
pub mod keep;
mod post;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::refusal::{Code, Refusal};
use crate::ledger::Reader;
use crate::ledger::cosign::CosignerKey;
use crate::settings::{HttpsUrl, WitnessAt};
use crate::wire::WitnessDoc;
use deliver::Trouble;

/// The pause between two copies, and the longest one after failures.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long the start waits for the outside copies.
const FIRST: Duration = Duration::from_secs(8);
/// How long a stop waits for them.
const LAST: Duration = Duration::from_secs(2);

/// RFC 3339 in UTC, whole seconds.
fn instant(at: i64) -> String {
    jiff::Timestamp::from_second(at).map_or_else(|_| at.to_string(), |at| at.to_string())
}

/// Where one copy goes.
#[derive(Debug, Clone)]
enum Place {
    Witness { url: HttpsUrl, key: CosignerKey, ca: PathBuf, cosigned: PathBuf },
    Webhook { url: HttpsUrl, ca: PathBuf },
    File(PathBuf),
}

impl Place {
    fn word(&self) -> &'static str {
        match self {
            Self::Witness { .. } => "witness",
            Self::Webhook { .. } => "webhook",
            Self::File(_) => "file",
        }
    }
}

/// How handing out goes.
#[derive(Debug, Clone, Default)]
struct Status {
    /// Size and time of the newest copy.
    taken: Option<(u64, i64)>,
    dropped: u64,
    failed: u64,
    trouble: Option<String>,
    note: Option<String>,
}

#[derive(Debug)]
struct Witness {
    name: String,
    place: Place,
    status: Mutex<Status>,
}

/// All places where copies go; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Witnesses(Arc<Vec<Arc<Witness>>>);

/// What the API shows of all this.
#[derive(Debug, Clone)]
pub struct Outside {
    /// Where copies of our checkpoints go.
    pub witnesses: Witnesses,
    /// Those of other logs.
    pub keeper: Arc<keep::Keeper>,
}

impl Witnesses {
    /// Reads what the configuration names; `cosigned` is the folder for what witnesses signed.
    ///
    /// # Errors
    /// Every problem.
    pub fn of(settings: &BTreeMap<String, WitnessAt>, cosigned: PathBuf) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut all = Vec::new();
        for (name, at) in settings {
            let place = match at.clone() {
                WitnessAt::File(path) => Place::File(path),
                WitnessAt::Webhook { url, ca } => Place::Webhook { url, ca },
                WitnessAt::Witness { url, key, ca } => match key.parse() {
                    Ok(key) => Place::Witness { url, key, ca, cosigned: cosigned.join(name) },
                    Err(error) => {
                        problems.push(format!("witness.{name}: key: {error}"));
                        continue;
                    }
                },
            };
            if let Place::Witness { ca, .. } | Place::Webhook { ca, .. } = &place
                && let Err(error) = post::roots(ca)
            {
                problems.push(format!("witness.{name}: ca: {error}"));
            }
            all.push(Arc::new(Witness { name: name.clone(), place, status: Mutex::default() }));
        }
        if problems.is_empty() { Ok(Self(Arc::new(all))) } else { Err(problems) }
    }

    /// How handing out goes, for auditors.
    pub fn docs(&self) -> Vec<WitnessDoc> {
        self.0.iter().map(|witness| witness.doc()).collect()
    }

    /// Hands every newest checkpoint out, until told to stop; `now` tells the time in Unix seconds.
    pub async fn tend(
        self,
        reader: Reader,
        notes: watch::Receiver<Option<(u64, String)>>,
        now: Arc<dyn Fn() -> i64 + Send + Sync>,
        mut stop: watch::Receiver<bool>,
    ) {
        let each = self.0.iter().map(|witness| {
            let (witness, reader, notes) = (witness.clone(), reader.clone(), notes.clone());
            tokio::spawn(witness.tend(reader, notes, now.clone(), stop.clone()))
        });
        for task in each.collect::<Vec<_>>() {
            let _ = task.await;
        }
        // A part of the daemon that ends before the stop counts as broken; there may be no witness at all.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

impl Witnesses {
    /// Hands the last checkpoint out before a stop; whoever does not take it in time is told at the next start.
    pub async fn last(&self, reader: &Reader, newest: Option<(u64, String)>, at: i64) {
        let Some((size, note)) = newest else { return };
        let behind = self.0.iter().filter(|witness| witness.known() < size && witness.status().trouble.is_none());
        let each = behind.map(|witness| {
            let (witness, reader, note) = (witness.clone(), reader.clone(), note.clone());
            tokio::spawn(async move {
                let sent = deliver::deliver(&witness.place, witness.known(), &reader, size, &note).await;
                witness.heed(sent, size, &note, PAUSE, at);
            })
        });
        let all = each.collect::<Vec<_>>();
        let _ = tokio::time::timeout(LAST, async {
            for task in all {
                let _ = task.await;
            }
        })
        .await;
    }
}

impl Witness {
    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doc(&self) -> WitnessDoc {
        let status = self.status().clone();
        WitnessDoc {
            name: self.name.clone(),
            kind: self.place.word().to_owned(),
            size: status.taken.map(|(size, _)| size),
            at: status.taken.map(|(_, at)| instant(at)),
            dropped: status.dropped,
            failed: status.failed,
            trouble: status.trouble,
            note: status.note,
        }
    }

    /// One copy at a time; what comes meanwhile replaces what waits, and is counted.
    async fn tend(
        self: Arc<Self>,
        reader: Reader,
        mut notes: watch::Receiver<Option<(u64, String)>>,
        now: Arc<dyn Fn() -> i64 + Send + Sync>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut pause = PAUSE;
        let mut waiting = notes.borrow_and_update().clone();
        loop {
            let Some((size, note)) = waiting.take() else {
                tokio::select! {
                    changed = notes.changed() => if changed.is_err() { return },
                    _ = stop.changed() => return,
                }
                waiting = notes.borrow_and_update().clone();
                continue;
            };
            let sending = async {
                let sent = deliver::deliver(&self.place, self.known(), &reader, size, &note).await;
                pause = self.heed(sent, size, &note, pause, now());
                tokio::time::sleep(pause).await;
            };
            {
                let mut sending = std::pin::pin!(sending);
                loop {
                    tokio::select! {
                        () = &mut sending => break,
                        changed = notes.changed() => {
                            if changed.is_err() {
                                return;
                            }
                            let newer = notes.borrow_and_update().clone();
                            self.status().dropped += u64::from(waiting.is_some());
                            waiting = newer.or(waiting);
                        }
                        _ = stop.changed() => return,
                    }
                }
            }
            // What failed is tried again where nothing newer came.
            if waiting.is_none() && self.status().trouble.is_some() {
                waiting = Some((size, note));
            }
        }
    }

    /// The size that the place is taken to know.
    fn known(&self) -> u64 {
        self.status().taken.map_or(0, |(size, _)| size)
    }

    /// Remembers how it went; gives the pause until the next copy.
    fn heed(&self, sent: Result<Option<String>, Trouble>, size: u64, note: &str, pause: Duration, at: i64) -> Duration {
        let mut status = self.status();
        match sent {
            Ok(cosigned) => {
                status.taken = Some((size, at));
                status.trouble = None;
                status.note = Some(cosigned.unwrap_or_else(|| note.to_owned()));
                PAUSE
            }
            Err(trouble) => {
                status.failed += 1;
                let text = trouble.to_string();
                match &trouble {
                    _ if status.trouble.as_ref() == Some(&text) => {}
                    Trouble::Away(_) => {
                        tracing::warn!(witness = %self.name, "the checkpoint of {size} entries was not taken: {text}");
                    }
                    Trouble::Ahead { .. } | Trouble::Later { .. } | Trouble::Fork(_) => {
                        tracing::error!(witness = %self.name, "{text}; the next start will sign nothing:\n{note}");
                    }
                }
                status.trouble = Some(text);
                (pause * 2).min(LONGEST_PAUSE)
            }
        }
    }
}

/// Asks every outside copy what it knows of this log, before anything is signed (security.md 5.4).
///
/// A copy that cannot be asked is no reason to stand still; one that knows a longer or another log is, but for a signer in recovery: that
/// signs nothing before a new epoch acknowledges the loss, and only a broker that runs can be told so.
///
/// # Errors
/// [`Code::OUTSIDE_KNOWS_MORE`], with both notes.
pub async fn ask_first(
    witnesses: &Witnesses,
    reader: &Reader,
    public: &[u8; 32],
    recovering: bool,
) -> Result<(), Refusal> {
    let newest = reader.checkpoint_newest().await.ok().flatten();
    let Some(note) = newest.filter(|_| !witnesses.0.is_empty()) else { return Ok(()) };
    let asked = witnesses.0.iter().map(|witness| {
        let (witness, reader, note, public) = (witness.clone(), reader.clone(), note.clone(), *public);
        tokio::spawn(async move {
            let answer = tokio::time::timeout(FIRST, deliver::ask(&witness.place, &reader, &note, &public)).await;
            (witness, answer.unwrap_or_else(|_| Err(Trouble::Away("no answer in time".to_owned()))))
        })
    });
    for task in asked.collect::<Vec<_>>() {
        let Ok((witness, answer)) = task.await else { continue };
        match answer {
            Ok(()) => {}
            Err(Trouble::Away(why)) => {
                tracing::warn!(witness = %witness.name, "the outside copy could not be asked before the start: {why}");
            }
            Err(known) if recovering => {
                let name = &witness.name;
                tracing::error!(
                    "the outside copy {name} knows more of this log: {known}; hand its note to audit begin-epoch --witness"
                );
            }
            Err(known) => {
                let name = &witness.name;
                let message = format!(
                    "The outside copy {name} knows more of this log: {known}.\nThe newest checkpoint here:\n{note}"
                );
                return Err(Refusal::new(Code::OUTSIDE_KNOWS_MORE, message));
            }
        }
    }
    Ok(())
}
