//! One session: opened in the log, recorded, watched until its lease is over, closed and sealed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::Disconnect;
use russh::keys::{Certificate, PrivateKey};
use russh::server::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::throttle::Throttle;
use super::upstream::{Away, Leg, Upstream};
use crate::broker::gateway::Opened;
use crate::broker::lease::Over;
use crate::domain::authority::Purpose;
use crate::domain::ids::{GrantId, SessionId};
use crate::domain::key::Key;
use crate::domain::names::{LoginName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::session::{SessionCause, SessionEnd};
use crate::domain::target::Allow;
use crate::gateway::ssh::ask::Asking;
use crate::gateway::ssh::gate::{Alive, Gate};
use crate::gateway::ssh::switch::Switch;
use crate::gateway::ssh::{keys, lines};
use crate::record::{Frame, Header, Recorder};

/// How long the last line and the closing of channels may take before the connection is cut.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How long sessions may go on once the daemon stops.
const GRACE: Duration = Duration::from_secs(10);
/// Connections to the target that may be made at the same time.
const CONNECTING: usize = 4;
/// How long after the stop the end of a session is still tried to be logged; the next start closes what is open then.
const STOPPED: Duration = Duration::from_secs(20);

/// What is asked for when a session is to begin.
pub struct Entrance {
    /// The grant.
    pub grant: GrantId,
    /// The account.
    pub login: LoginName,
    /// The key that was proved.
    pub by_key: Key,
    /// The client's address.
    pub from: String,
    /// How it came in: `certificate`, `jump` or `key`.
    pub way: &'static str,
}

/// How a connection's session stands.
#[derive(Clone)]
pub enum Standing {
    /// Being opened.
    Opening,
    /// Open.
    Open(Arc<Live>),
    /// There is no grant, and they may ask for one in a terminal.
    Ask(Arc<Asking>),
    /// Not opened, or over: this is told.
    Shut(Arc<str>),
}

/// Why everything stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// For the log.
    pub cause: SessionCause,
    /// For the person; empty when they ended it themselves.
    pub line: String,
}

/// An open session, shared by its channels.
pub struct Live {
    /// The recorder; everything is put here before it goes on.
    pub recorder: Recorder,
    /// Keystrokes are recorded.
    pub record_input: bool,
    /// Where spooled bytes may go.
    pub spool: PathBuf,
    /// What clients may send ahead.
    pub throttle: Arc<Throttle>,
    /// Whereto.
    pub target: TargetName,
    /// Bytes from the person.
    pub bytes_in: AtomicU64,
    /// Bytes to the person.
    pub bytes_out: AtomicU64,
    /// Lines that terminals show while the session goes on.
    pub notices: watch::Receiver<String>,
    /// Set when the target went away by itself.
    pub target_gone: AtomicBool,
    allow: Vec<Allow>,
    session: SessionId,
    leg: Leg,
    gate: Arc<Gate>,
    first: Mutex<Option<Upstream>>,
    connecting: Semaphore,
    stopped: AtomicBool,
    cut: watch::Receiver<Option<Arc<Cut>>>,
    numbers: AtomicU32,
    open: Arc<AtomicU32>,
    channels: mpsc::WeakSender<()>,
}

/// The place of one channel in its session; the session waits for it to be dropped.
pub struct Seat {
    /// The channel's number in the recording.
    pub number: u32,
    open: Arc<AtomicU32>,
    _alive: mpsc::Sender<()>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Live {
    /// Whether the role has this.
    pub fn allows(&self, what: Allow) -> bool {
        self.allow.contains(&what)
    }

    /// A seat for one more channel; none once the session is over.
    pub fn seat(&self) -> Option<Seat> {
        let alive = self.channels.upgrade()?;
        if self.is_cut() {
            return None;
        }
        self.open.fetch_add(1, Ordering::SeqCst);
        let number = self.numbers.fetch_add(1, Ordering::SeqCst);
        Some(Seat { number, open: self.open.clone(), _alive: alive })
    }

    /// True while the session has one channel only.
    pub fn is_alone(&self) -> bool {
        self.open.load(Ordering::SeqCst) <= 1
    }

    /// True once nothing may pass any more.
    pub fn is_cut(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Waits for the end, and says why.
    pub async fn cut(&self) -> Arc<Cut> {
        let mut cut = self.cut.clone();
        loop {
            if let Some(cut) = cut.borrow_and_update().clone() {
                return cut;
            }
            if cut.changed().await.is_err() {
                // The session's own task is gone: nothing is known to be allowed any more.
                return Arc::new(Cut { cause: SessionCause::Lost, line: String::new() });
            }
        }
    }

    /// What opens the target now. The certificate ends with the grant; a session that went on under another one has a new one there.
    async fn leg(&self) -> Result<Leg, Away> {
        let broker = &self.gate.broker;
        let over = u64::try_from(broker.now()).is_ok_and(|now| now >= self.leg.certificate.valid_before());
        if !over {
            return Ok(self.leg.clone());
        }
        let away = |line: String| Away { cause: SessionCause::TargetAway, line };
        let line = broker.session_leg(self.session).await.map_err(|refusal| away(refusal.message))?;
        let certificate = Certificate::from_openssh(&line).map_err(|e| away(e.to_string()))?;
        Ok(Leg { certificate, ..self.leg.clone() })
    }

    /// A connection to the target of its own: the one that was made in advance, or a new one.
    ///
    /// # Errors
    /// As [`Leg::connect`].
    pub async fn upstream(&self) -> Result<Upstream, Away> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(first) = first.filter(|first| !first.handle.is_closed()) {
            return Ok(first);
        }
        let _permit = self.connecting.acquire().await;
        let leg = self.leg().await?;
        Box::pin(leg.connect(self.gate.broker.now())).await
    }
}

/// Begins a session behind a connection; its end comes with the connection's, or with its lease's.
pub fn begin(
    gate: Arc<Gate>,
    entrance: Entrance,
    handle: Handle,
    switch: Switch,
    closed: watch::Receiver<bool>,
    alive: Alive,
) -> watch::Receiver<Standing> {
    let (standing, watching) = watch::channel(Standing::Opening);
    tokio::spawn(async move {
        let _alive = alive;
        let task = Task { gate, handle, switch, closed, standing };
        if let Err(line) = task.run(entrance).await {
            task.shut(&line);
        }
    });
    watching
}

struct Task {
    gate: Arc<Gate>,
    handle: Handle,
    switch: Switch,
    closed: watch::Receiver<bool>,
    standing: watch::Sender<Standing>,
}

impl Task {
    async fn run(&self, entrance: Entrance) -> Result<(), String> {
        let broker = &self.gate.broker;
        let (key, public) = leg_key().map_err(|refusal| lines::refused(&refusal))?;
        let opened = Box::pin(broker.open_session(entrance.grant, &entrance.login, &entrance.by_key, &public))
            .await
            .map_err(|refusal| lines::refused(&refusal))?;
        let id = opened.session;
        let header = Header {
            session: id,
            grant: opened.grant,
            person: opened.person.clone(),
            target: opened.target.name.clone(),
            login: opened.login.clone(),
            from: entrance.from,
            opened_at_ms: broker.keeper().clock().wall_ms(),
            way: entrance.way.to_owned(),
        };
        let recorder = match self.gate.store.begin(header) {
            Ok(recorder) => recorder,
            Err(error) => {
                tracing::error!(session = %id, "nothing can be recorded, so nobody is let in: {error}");
                self.shut(lines::RECORDING_LOST);
                self.close(&opened, SessionEnd::nothing(SessionCause::RecordingLost)).await;
                return Err(lines::RECORDING_LOST.to_owned());
            }
        };
        tracing::info!(session = %id, person = %opened.person, target = %opened.target.name, "session opened");
        let mut end = SessionEnd::nothing(SessionCause::Closed);
        let told = match Box::pin(self.reach(&opened, key, recorder.clone())).await {
            Ok((live, ends)) => {
                let live = Arc::new(live);
                self.standing.send_replace(Standing::Open(live.clone()));
                let cut = self.watch(&opened, &live, ends, &mut end).await;
                self.shut(&cut.line);
                Ok(())
            }
            Err(away) => {
                end.cause = away.cause;
                let _ = recorder.put(Frame::Note { text: &away.line }).await;
                let line = lines::told(&away.line);
                self.shut(&line);
                Err(line)
            }
        };
        match recorder.seal().await {
            Ok(sealed) => end.recording = Some(sealed),
            Err(error) => tracing::error!(session = %id, "the recording was not sealed: {error}"),
        }
        tracing::info!(session = %id, cause = end.cause.word(), late_ms = end.late_ms, "session closed");
        self.close(&opened, end).await;
        told
    }

    /// Tells the person, who does not wait for the log.
    fn shut(&self, line: &str) {
        self.standing.send_replace(Standing::Shut(line.into()));
    }

    /// The end is logged before anything else forgets the session; while the log cannot be written it is tried again.
    async fn close(&self, opened: &Opened, end: SessionEnd) {
        let mut stop = self.gate.stop.clone();
        let stopped = async {
            let _ = stop.wait_for(|stop| *stop).await;
            sleep(STOPPED).await;
        };
        tokio::select! {
            () = self.gate.broker.surely_close_session(opened.session, end) => {}
            () = stopped => {}
        }
    }

    async fn reach(&self, opened: &Opened, key: PrivateKey, recorder: Recorder) -> Result<(Live, Ends), Away> {
        let bug = |what: &str| Away { cause: SessionCause::TargetAway, line: format!("{what} cannot be read.") };
        let certificate = Certificate::from_openssh(&opened.leg).map_err(|_| bug("The gateway's own certificate"))?;
        let host_ca = self.gate.broker.memory().await.state.authorities.ssh_trusted(Purpose::SshHost);
        let target = opened.target.clone();
        let leg = Leg { target, login: opened.login.clone(), key: Arc::new(key), certificate, host_ca };
        let mut lease = opened.lease.clone();
        let mut closed = self.closed.clone();
        let first = tokio::select! {
            first = leg.connect(self.gate.broker.now()) => first?,
            over = lease.over() => return Err(Away { cause: over.cause, line: lines::why(over.cause, opened, &over) }),
            _ = closed.wait_for(|closed| *closed) => {
                return Err(Away { cause: SessionCause::Closed, line: "The person went away.".to_owned() });
            }
        };
        let (cut, cutting) = watch::channel(None);
        let (notice, notices) = watch::channel(String::new());
        let (channels, all) = mpsc::channel(1);
        let live = Live {
            recorder,
            record_input: opened.record_input,
            spool: self.gate.spool.clone(),
            throttle: Arc::default(),
            target: opened.target.name.clone(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            notices,
            target_gone: AtomicBool::new(false),
            allow: opened.allow.clone(),
            session: opened.session,
            leg,
            gate: self.gate.clone(),
            first: Mutex::new(Some(first)),
            connecting: Semaphore::new(CONNECTING),
            stopped: AtomicBool::new(false),
            cut: cutting,
            // 0 is for the notes of the recording.
            numbers: AtomicU32::new(1),
            open: Arc::default(),
            channels: channels.downgrade(),
        };
        Ok((live, Ends { cut, notice, channels, all }))
    }

    /// Waits for whatever ends the session, and ends it.
    async fn watch(&self, opened: &Opened, live: &Live, mut ends: Ends, end: &mut SessionEnd) -> Arc<Cut> {
        let over = self.wait(opened, live, &ends).await;
        let gone = live.target_gone.load(Ordering::SeqCst) && over.cause == SessionCause::Closed;
        let cause = if gone { SessionCause::TargetClosed } else { over.cause };
        let cut = Arc::new(Cut { cause, line: lines::why(cause, opened, &over) });
        // INVARIANT: the flag before the word, so that no byte passes once any channel has heard of it.
        live.stopped.store(true, Ordering::SeqCst);
        ends.cut.send_replace(Some(cut.clone()));
        drop(ends.channels);
        let _ = timeout(LAST_WORDS, ends.all.recv()).await;
        let late_ms = self.late(&over);
        self.say_goodbye(&cut.line).await;
        self.switch.cut();
        live.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        if !cut.line.is_empty() {
            let _ = live.recorder.put(Frame::Note { text: &cut.line }).await;
        }
        *end = SessionEnd {
            cause,
            late_ms,
            bytes_in: live.bytes_in.load(Ordering::SeqCst),
            bytes_out: live.bytes_out.load(Ordering::SeqCst),
            recording: None,
        };
        cut
    }

    /// A client that has lost its last channel leaves by itself, with the status that it was given; one that stays is sent away.
    async fn say_goodbye(&self, line: &str) {
        let mut closed = self.closed.clone();
        if timeout(LAST_WORDS, closed.wait_for(|closed| *closed)).await.is_ok() {
            return;
        }
        let leaving = async {
            let _ = self.handle.disconnect(Disconnect::ByApplication, line.to_owned(), "en".to_owned()).await;
            let _ = closed.wait_for(|closed| *closed).await;
        };
        let _ = timeout(LAST_WORDS, leaving).await;
    }

    /// How long after the end the last byte could pass, in milliseconds; nothing where nobody's end was overrun.
    fn late(&self, over: &Over) -> Option<u64> {
        let keeper = self.gate.broker.keeper();
        let late = match (over.ended_wall_ms, over.cause) {
            (Some(ended), _) => keeper.clock().wall_ms().saturating_sub(ended),
            (None, SessionCause::Closed | SessionCause::Drained | SessionCause::RecordingLost) => return None,
            (None, _) => i64::try_from(keeper.now().boot.ms.saturating_sub(over.seen_ms)).unwrap_or(i64::MAX),
        };
        Some(u64::try_from(late).unwrap_or(0))
    }

    async fn wait(&self, opened: &Opened, live: &Live, ends: &Ends) -> Over {
        let by = |cause| Over { cause, seen_ms: self.gate.broker.keeper().now().boot.ms, ended_wall_ms: None };
        let (mut lease, mut closed) = (opened.lease.clone(), self.closed.clone());
        let (mut failed, mut stop) = (live.recorder.failed(), self.gate.stop.clone());
        let mut warned = None;
        let mut deadline: Option<Instant> = None;
        loop {
            let left_s = lease.ends_at() - self.gate.broker.now();
            let near_s = lease.near_s();
            if near_s.is_some() && near_s != warned {
                ends.notice.send_replace(lines::warning(left_s));
            }
            // An end that has moved away is told again when it is near.
            warned = near_s;
            tokio::select! {
                biased;
                over = lease.over_or_changed() => if let Some(over) = over { return over },
                _ = failed.wait_for(|failed| *failed) => return by(SessionCause::RecordingLost),
                _ = closed.wait_for(|closed| *closed) => return by(SessionCause::Closed),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return by(SessionCause::Drained),
                _ = stop.wait_for(|stop| *stop), if deadline.is_none() => {
                    // Whoever looks after leases may be gone before this is, so the end is kept by this deadline as well; what was
                    // left when the nap began is seconds old.
                    let left_s = lease.ends_at() - self.gate.broker.now();
                    let left = Duration::from_secs(u64::try_from(left_s).unwrap_or(0));
                    deadline = Some(Instant::now() + GRACE.min(left));
                    ends.notice.send_replace(lines::STOPPING.to_owned());
                }
            }
        }
    }
}

/// What only the session's own task holds.
struct Ends {
    cut: watch::Sender<Option<Arc<Cut>>>,
    notice: watch::Sender<String>,
    channels: mpsc::Sender<()>,
    all: mpsc::Receiver<()>,
}

/// A fresh key for one session.
fn leg_key() -> Result<(PrivateKey, Key), Refusal> {
    let bug = || Refusal::new(Code::BUG, "No key could be made for the session.");
    let mut seed = [0; 32];
    crate::clock::fill(&mut seed);
    let pair = russh::keys::ssh_key::private::Ed25519Keypair::from_seed(&seed);
    zeroize::Zeroize::zeroize(&mut seed);
    let key = PrivateKey::from(pair);
    let public = keys::key(key.public_key()).ok_or_else(bug)?;
    Ok((key, public))
}
