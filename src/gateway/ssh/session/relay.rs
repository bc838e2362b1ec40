//! The bytes of one channel, both ways, until one side ends or the session does.
//!
//! Down (target to person) waits for the person's window, so a client that stops reading stops only its own connection to the target. Up
//! (person to target) always reads, because the SSH library holds up a whole connection for one channel that is not read: what the target
//! has not taken waits in a [`Sender`]. Connections of a remote forwarding share one to the target: they are read that way down as well.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use russh::server::Handle;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig, client, server};

use tokio::time::Instant;

use super::live::Cut;
use super::sender::{Peer, Sender, Sending, Unsent, Way, sent};
use super::tape::{Kind, Tape};
use crate::gateway::ssh::lines;

/// How long a side that is behind may take to be told that a connection is over.
const CLOSING: Duration = Duration::from_secs(5);
/// How long the end of the output waits for the exit status while the person still says something.
const EOF_WAITS: Duration = Duration::from_millis(200);
/// The exit status of what was cut: not 255, which is ssh's own.
pub const CUT_STATUS: u32 = 254;
/// Resizes and signals that may wait for the target.
const WORDS: usize = 64;

/// The person's end of a channel.
pub struct Down {
    /// What comes from the person.
    pub read: ChannelReadHalf,
    /// What goes there.
    pub write: ChannelWriteHalf<server::Msg>,
    /// For what the write half cannot say.
    pub handle: Handle,
}

/// The target's end.
pub struct Up {
    /// What comes from the target.
    pub read: ChannelReadHalf,
    /// What goes there.
    pub write: ChannelWriteHalf<client::Msg>,
}

/// Which requests wait for the target's answer, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A terminal.
    Terminal,
    /// The shell, command or subsystem itself.
    Start,
}

/// Why the bytes stopped.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The person's side closed.
    Person,
    /// The target's side closed.
    Target,
    /// It cannot be recorded.
    Recording,
    /// The session is over.
    Over(Arc<Cut>),
}

/// Passes everything on until there is no more, then closes the person's side.
pub async fn run(tape: Tape, mut down: Down, mut up: Up, asked: Vec<Asked>) {
    let ended = {
        let (write, all_said) = (&down.write, AtomicBool::new(false));
        tokio::select! {
            biased;
            cut = tape.live.cut() => Ended::Over(cut),
            ended = downloads(&tape, &mut up.read, write, &down.handle, asked, &all_said) => ended,
            ended = uploads(&tape, &mut down.read, &up.write, &all_said) => ended,
            never = notices(&tape, write) => never,
        }
    };
    match ended {
        Ended::Over(cut) => last_words(&tape, &down, &cut).await,
        Ended::Recording => {
            // The session's own task learns of it from the recorder; this channel stops here and now.
            let cut = Cut {
                cause: crate::domain::session::SessionCause::RecordingLost,
                line: lines::RECORDING_LOST.to_owned(),
            };
            last_words(&tape, &down, &cut).await;
        }
        Ended::Person if tape.kind == Kind::Forward => take_leave(&tape, &mut up).await,
        Ended::Person | Ended::Target => {}
    }
    let _ = down.write.close().await;
    tape.end().await;
}

/// Closes the target's side of a tunnel, and waits until it has taken what it was sent.
async fn take_leave(tape: &Tape, up: &mut Up) {
    let closed = async {
        let _ = (up.write.eof().await, up.write.close().await);
        while up.read.wait().await.is_some_and(|message| !matches!(message, ChannelMsg::Close)) {}
    };
    tokio::select! {
        _ = tape.live.cut() => {}
        _ = tokio::time::timeout(CLOSING, closed) => {}
    }
}

/// The same for a channel beside others of the same connection to the target: whichever side does not take what there is for it, the
/// other is read, and what came before an end is passed on. One for which a full [`super::backlog`] waits holds up the others after all.
pub async fn run_beside(tape: Tape, down: Down, up: Up) {
    let (Down { read: mut down_read, write: down_write, .. }, Up { read: mut up_read, write: up_write }) = (down, up);
    tokio::select! {
        biased;
        _ = tape.live.cut() => {}
        () = pass(&tape, Way::Down, &mut up_read, &down_write) => {}
        () = pass(&tape, Way::Up, &mut down_read, &up_write) => {}
    }
    // Nobody reads any more, so nothing waits for it. Both sides must hear of the end: the SSH library tells neither by itself.
    drop((down_read, up_read));
    let _ = tokio::time::timeout(CLOSING, async { tokio::join!(up_write.close(), down_write.close()) }).await;
    tape.end().await;
}

/// Passes one direction on until it ends, or nobody is there who takes it.
async fn pass<S: Peer>(tape: &Tape, way: Way, from: &mut ChannelReadHalf, to: &ChannelWriteHalf<S>) {
    let mut sender = Sender::new(tape, way, to);
    let (mut eof, mut over) = (false, false);
    loop {
        if sender.next(&mut eof).await.is_err() || (over && !sender.is_sending()) {
            return;
        }
        let message = tokio::select! {
            biased;
            done = sender.sent() => if done.is_err() { return } else { continue },
            message = from.wait(), if !over && !sender.is_full() => message,
        };
        match message {
            Some(ChannelMsg::Data { data }) => {
                if !matches!(sender.pace(data.len()).await, Ok(Ok(()))) || sender.put(data).await.is_err() {
                    return;
                }
            }
            Some(ChannelMsg::Eof) => {
                eof = true;
                sender.complete();
            }
            Some(ChannelMsg::Close) => {
                over = true;
                sender.complete();
            }
            Some(_) => {}
            None => {
                if way == Way::Down {
                    tape.live.target_gone.store(true, Ordering::SeqCst);
                }
                over = true;
            }
        }
    }
}

/// How long the last line may wait for the person's window.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// The last line and the exit status that marks a cut. A person who does not read gets neither: the connection is cut anyway.
async fn last_words(tape: &Tape, down: &Down, cut: &Cut) {
    let _ = tokio::time::timeout(LAST_WORDS, say_last_words(tape, down, cut)).await;
}

async fn say_last_words(tape: &Tape, down: &Down, cut: &Cut) {
    if tape.kind == Kind::Forward || cut.line.is_empty() {
        return;
    }
    let back = if tape.is_full_screen() { lines::TAKE_BACK } else { "" };
    let line = Bytes::from(format!("{back}\r\n{}\r\n", cut.line));
    let _ = match tape.kind {
        Kind::Terminal => down.write.data_bytes(line).await,
        _ => down.write.extended_data_bytes(1, line).await,
    };
    let _ = tape.exit(Some(CUT_STATUS), None).await;
    let _ = down.write.eof().await;
    let _ = down.write.exit_status(CUT_STATUS).await;
}

/// Shows the session's notices on a terminal, but rings only a bell where a full-screen program has it.
async fn notices(tape: &Tape, write: &ChannelWriteHalf<server::Msg>) -> Ended {
    if tape.kind != Kind::Terminal {
        return pending().await;
    }
    let mut notices = tape.live.notices.clone();
    notices.mark_unchanged();
    while notices.changed().await.is_ok() {
        let line = notices.borrow_and_update().clone();
        let bytes = if tape.is_full_screen() {
            Bytes::from_static(lines::BELL)
        } else {
            Bytes::from(format!("\r\n{line}\r\n"))
        };
        if tape.note(&line).await.is_err() {
            return Ended::Recording;
        }
        if write.data_bytes(bytes).await.is_err() {
            return Ended::Person;
        }
    }
    pending().await
}

async fn downloads(
    tape: &Tape,
    up: &mut ChannelReadHalf,
    down: &ChannelWriteHalf<server::Msg>,
    handle: &Handle,
    asked: Vec<Asked>,
    all_said: &AtomicBool,
) -> Ended {
    let mut asked = asked.into_iter();
    let mut held = Held::default();
    while let Some(message) = held.wait(up, down, all_said).await {
        if tape.live.is_cut() {
            return pending().await;
        }
        let recorded = match &message {
            ChannelMsg::Data { data } => tape.output(data).await,
            ChannelMsg::ExtendedData { data, ext: 1 } => tape.errors(data).await,
            ChannelMsg::ExitStatus { exit_status } => tape.exit(Some(*exit_status), None).await,
            ChannelMsg::ExitSignal { signal_name, .. } => tape.exit(None, Some(&name(signal_name))).await,
            _ => Ok(()),
        };
        // INVARIANT (I9): recorded before it is forwarded, or not forwarded; and nothing once the session is over (I3).
        if recorded.is_err() {
            return Ended::Recording;
        }
        if tape.live.is_cut() {
            return pending().await;
        }
        let passed = match message {
            ChannelMsg::Data { data } => down.data_bytes(data).await.is_ok(),
            ChannelMsg::ExtendedData { data, ext: 1 } => down.extended_data_bytes(1, data).await.is_ok(),
            ChannelMsg::Eof if tape.kind == Kind::Forward => down.eof().await.is_ok(),
            ChannelMsg::Eof => held.hold(),
            ChannelMsg::ExitStatus { exit_status } => {
                down.exit_status(exit_status).await.is_ok() && held.release(down).await
            }
            ChannelMsg::ExitSignal { signal_name, core_dumped, error_message, lang_tag } => {
                let id = down.id();
                handle.exit_signal_request(id, signal_name, core_dumped, error_message, lang_tag).await.is_ok()
                    && held.release(down).await
            }
            ChannelMsg::XonXoff { client_can_do } => handle.xon_xoff_request(down.id(), client_can_do).await.is_ok(),
            ChannelMsg::Success => answered(asked.next(), true, down, handle).await,
            ChannelMsg::Failure => answered(asked.next(), false, down, handle).await,
            ChannelMsg::Close => {
                held.release(down).await;
                return Ended::Target;
            }
            _ => true,
        };
        if !passed {
            // Who closed a tunnel may have said something that is still on its way.
            return if tape.kind == Kind::Forward { pending().await } else { Ended::Person };
        }
    }
    tape.live.target_gone.store(true, Ordering::SeqCst);
    Ended::Target
}

/// The end of the target's output, kept back until its exit status is there.
///
/// PROTOCOL: a client that has ended its own input closes the channel as soon as it hears of this end (RFC 4254 section 5.3), and the SSH
/// library answers that at once: an exit status that comes a moment later would be lost.
#[derive(Debug, Default)]
struct Held {
    eof: bool,
    until: Option<Instant>,
}

impl Held {
    fn hold(&mut self) -> bool {
        (self.eof, self.until) = (true, Some(Instant::now() + EOF_WAITS));
        true
    }

    async fn release(&mut self, down: &ChannelWriteHalf<server::Msg>) -> bool {
        self.until = None;
        !std::mem::take(&mut self.eof) || down.eof().await.is_ok()
    }

    /// Waits for the next message of the target. A person who still says something is told of the end before the exit, in case they wait
    /// for it: their side does not close the channel.
    async fn wait(
        &mut self,
        up: &mut ChannelReadHalf,
        down: &ChannelWriteHalf<server::Msg>,
        all_said: &AtomicBool,
    ) -> Option<ChannelMsg> {
        if let Some(until) = self.until.take() {
            match tokio::time::timeout_at(until, up.wait()).await {
                Ok(message) => {
                    self.until = Some(until);
                    return message;
                }
                Err(_) if !all_said.load(Ordering::SeqCst) => {
                    self.release(down).await;
                }
                Err(_) => {}
            }
        }
        up.wait().await
    }
}

/// Passes the answer to the start on; that to the terminal was given when it was asked for.
async fn answered(asked: Option<Asked>, good: bool, down: &ChannelWriteHalf<server::Msg>, handle: &Handle) -> bool {
    match (asked, good) {
        (Some(Asked::Start), true) => handle.channel_success(down.id()).await.is_ok(),
        (Some(Asked::Start), false) => handle.channel_failure(down.id()).await.is_ok(),
        (Some(Asked::Terminal), false) => {
            let line = Bytes::from_static(b"jit-broker: the target gave no terminal\r\n");
            down.extended_data_bytes(1, line).await.is_ok()
        }
        (Some(Asked::Terminal), true) | (None, _) => true,
    }
}

fn name(signal: &Sig) -> String {
    match signal {
        Sig::Custom(name) => name.clone(),
        other => format!("{other:?}"),
    }
}

/// A word beside the bytes.
enum Word {
    Resize([u32; 4]),
    Signal(Sig),
}

impl Word {
    fn send(self, up: &ChannelWriteHalf<client::Msg>) -> Sending<'_> {
        Some(Box::pin(async move {
            let sent = match self {
                Self::Resize([cols, rows, width, height]) => up.window_change(cols, rows, width, height).await,
                Self::Signal(signal) => up.signal(signal).await,
            };
            sent.map_err(|_| Unsent::Gone)
        }))
    }
}

async fn uploads(
    tape: &Tape,
    down: &mut ChannelReadHalf,
    up: &ChannelWriteHalf<client::Msg>,
    all_said: &AtomicBool,
) -> Ended {
    let mut sender = Sender::new(tape, Way::Up, up);
    let mut words = std::collections::VecDeque::new();
    let mut telling: Sending<'_> = None;
    let (mut eof, mut gone, mut over) = (false, false, false);
    loop {
        if !gone && let Err(error) = sender.next(&mut eof).await {
            return spool_failed(&error);
        }
        if over && (gone || !sender.is_sending()) {
            return Ended::Person;
        }
        if telling.is_none() && !gone {
            telling = words.pop_front().and_then(|word: Word| word.send(up));
        }
        let message = tokio::select! {
            biased;
            // The target is gone: what it still said is on its way down, so this only stops sending.
            done = sender.sent() => match done {
                Err(Unsent::Recording) => return Ended::Recording,
                done => { gone |= done.is_err(); continue }
            },
            done = sent(&mut telling) => { gone |= done.is_err(); continue }
            message = down.wait(), if !over && !sender.is_full() => message,
        };
        if tape.live.is_cut() {
            return pending().await;
        }
        match message {
            Some(ChannelMsg::Data { data }) => {
                if gone {
                    continue;
                }
                match sender.pace(data.len()).await {
                    Ok(Err(Unsent::Recording)) => return Ended::Recording,
                    Ok(Err(Unsent::Gone)) => {
                        gone = true;
                        continue;
                    }
                    Ok(Ok(())) => {}
                    Err(error) => return spool_failed(&error),
                }
                if let Err(error) = sender.put(data).await {
                    return spool_failed(&error);
                }
            }
            Some(ChannelMsg::Eof) => {
                eof = true;
                sender.complete();
                all_said.store(true, Ordering::SeqCst);
            }
            Some(ChannelMsg::WindowChange { col_width, row_height, pix_width, pix_height }) => {
                if tape.resize(col_width, row_height).await.is_err() {
                    return Ended::Recording;
                }
                if let Some(Word::Resize(_)) = words.back() {
                    words.pop_back();
                }
                words.push_back(Word::Resize([col_width, row_height, pix_width, pix_height]));
            }
            Some(ChannelMsg::Signal { signal }) if words.len() < WORDS => words.push_back(Word::Signal(signal)),
            // What was said before is passed on, as sshd does.
            Some(ChannelMsg::Close) if tape.kind == Kind::Forward => {
                sender.complete();
                (eof, over) = (true, true);
            }
            Some(ChannelMsg::Close) | None => return Ended::Person,
            Some(_) => {}
        }
    }
}

fn spool_failed(error: &std::io::Error) -> Ended {
    tracing::error!("what a target has not taken yet cannot be kept: {error}");
    Ended::Recording
}
