//! Playing a recording, and following a live one.

use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::super::client::Client;
use super::super::failure::Failure;
use super::ReplayArgs;
use super::fetch::{Wait, forged, owned, piece};
use super::pace::{Key, Keys, Pace};
use crate::domain::refusal::Code;
use crate::domain::span::parse_span;
use crate::domain::text::shown;
use crate::record::export::Focus;
use crate::record::screen::{AFTER, Screen};
use crate::record::{Decoder, Reader, Stamped, Stored};
use crate::wire::RecordedDoc;

/// How far an arrow goes, in microseconds.
const STEP_US: u64 = 5_000_000;

/// How a recording is played.
#[derive(Debug)]
pub struct Wish {
    pace: Pace,
    at_us: u64,
    channel: Option<u32>,
}

impl Wish {
    /// Reads the flags.
    ///
    /// # Errors
    /// [`Code::USAGE`], [`Code::BAD_DURATION`].
    pub fn of(args: &ReplayArgs) -> Result<Self, Failure> {
        if !(0.01..=1000.0).contains(&args.speed) {
            return Err(Failure::new(Code::USAGE, "--speed takes a number from 0.01 to 1000."));
        }
        let span_us = |text: &str| match text {
            "0" | "0s" => Ok(0),
            _ => parse_span(text).map(|s| s.saturating_mul(1_000_000)),
        };
        let at_us = args.at.as_deref().map(span_us).transpose()?.unwrap_or(0);
        Ok(Self { pace: Pace { speed: args.speed, idle_us: span_us(&args.idle)? }, at_us, channel: args.channel })
    }
}

/// The filters of a channel's two streams, and what notes look like between them.
struct Shown {
    focus: Focus,
    output: Screen,
    errors: Screen,
}

impl Shown {
    fn on(channel: Option<u32>) -> Self {
        Self { focus: Focus::on(channel), output: Screen::default(), errors: Screen::default() }
    }

    /// What a frame puts on the screen.
    fn take(&mut self, frame: &Stamped) -> String {
        if let Stored::Note(text) = &frame.what {
            return format!("\r\n[{}]\r\n", shown(text));
        }
        if !self.focus.sees(frame) {
            return String::new();
        }
        match &frame.what {
            Stored::Output(data) => self.output.push(&self.focus.printed(data)),
            Stored::Errors(data) => self.errors.push(&self.focus.printed(data)),
            _ => String::new(),
        }
    }
}

/// The terminal that keys come from, as it is again afterwards.
struct Raw(Termios);

impl Raw {
    fn new() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() || !std::io::stdout().is_terminal() || !super::super::prompt::possible() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // Line ends of what we print ourselves, and of what a panic prints.
        raw.output_modes = before.output_modes;
        tcsetattr(&stdin, OptionalActions::Flush, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// Reads keys on a thread of their own, which ends with the process.
fn keys() -> Receiver<Key> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let (mut keys, mut buffer) = (Keys::default(), [0; 64]);
        while let Ok(n) = std::io::stdin().read(&mut buffer) {
            let found = keys.push(&buffer[..n]);
            if n == 0 || found.into_iter().any(|key| sender.send(key).is_err()) {
                return;
            }
        }
    });
    receiver
}

fn wrote(result: std::io::Result<()>) -> Result<(), Failure> {
    result.map_err(|e| Failure::local("stdout", e))
}

fn put(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    wrote(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// What ended a passage.
enum Turn {
    /// The recording is over, or the viewer has seen enough.
    Over,
    /// Go to this moment, in microseconds.
    To(u64),
}

/// Plays a recording on stdout.
///
/// # Errors
/// When it is broken, or stdout is closed.
pub fn play(mut file: File, wish: &Wish) -> Result<(), Failure> {
    let raw = Raw::new();
    let pressed = raw.as_ref().map(|_| keys());
    let mut to = wish.at_us;
    loop {
        file.seek(SeekFrom::Start(0)).map_err(|e| Failure::local("the recording", e))?;
        match passage(&file, wish, to, pressed.as_ref())? {
            Turn::Over => break,
            Turn::To(at) => {
                to = at;
                put("\x1b[0m\x1b[r\x1b[2J\x1b[H")?;
            }
        }
    }
    if std::io::stdout().is_terminal() { put(AFTER) } else { Ok(()) }
}

/// Plays from the beginning, at once up to `to`, then at its pace.
fn passage(file: &File, wish: &Wish, to: u64, pressed: Option<&Receiver<Key>>) -> Result<Turn, Failure> {
    let mut screen = Shown::on(wish.channel);
    let (mut last, mut fast) = (to, to);
    for frame in Reader::new(file) {
        let frame = frame.map_err(|broken| Failure::new(Code::LEDGER_CORRUPT, format!("The recording: {broken}.")))?;
        let text = screen.take(&frame);
        if frame.at_us > fast && !text.is_empty() {
            let wait = Duration::from_micros(wish.pace.wait_us(last, frame.at_us));
            match pause(wait, pressed) {
                None => {}
                Some(Key::Back) => return Ok(Turn::To(last.saturating_sub(STEP_US))),
                Some(Key::Forward) => fast = last.saturating_add(STEP_US),
                Some(_) => return Ok(Turn::Over),
            }
        }
        last = last.max(frame.at_us);
        put(&text)?;
    }
    if let Some(channel) = screen.focus.missing() {
        return Err(Failure::new(Code::MISSING, format!("The recording has no channel {channel}.")));
    }
    Ok(Turn::Over)
}

/// Waits; gives the key that ends the wait, and stops at a pause until the next one.
fn pause(wait: Duration, pressed: Option<&Receiver<Key>>) -> Option<Key> {
    let Some(pressed) = pressed else {
        std::thread::sleep(wait);
        return None;
    };
    let begun = crate::clock::monotonic_us();
    let mut spent = Duration::ZERO;
    loop {
        match pressed.recv_timeout(wait.saturating_sub(spent)) {
            Ok(Key::Pause) => match pressed.recv() {
                Ok(Key::Pause) | Err(_) => {}
                Ok(key) => return Some(key),
            },
            Ok(key) => return Some(key),
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(wait.saturating_sub(spent));
                return None;
            }
        }
        spent = Duration::from_micros(crate::clock::monotonic_us().saturating_sub(begun));
    }
}

/// Follows a session to its end. Nothing that is typed here goes anywhere.
///
/// # Errors
/// As the broker says, or when the recording is broken.
pub async fn tail(client: &mut Client, doc: &RecordedDoc) -> Result<(), Failure> {
    let (mut decoder, mut screen, mut from) = (Decoder::default(), Shown::on(None), 0);
    loop {
        let (bytes, live) = piece(client, doc, from, Wait::ForMore).await?;
        from += bytes.len() as u64;
        decoder.push(&bytes);
        while let Some(frames) = decoder.chunk().map_err(|broken| forged(doc, &broken))? {
            owned(doc, &decoder)?;
            let text: String = frames.iter().map(|frame| screen.take(frame)).collect();
            put(&text)?;
        }
        if bytes.is_empty() && !live {
            break;
        }
    }
    if std::io::stdout().is_terminal() {
        put(AFTER)?;
    }
    let now: RecordedDoc = client.get(&format!("/v1/sessions/{}", doc.id)).await?;
    eprintln!("{} is closed{}", doc.id, now.cause.map(|cause| format!(": {}", shown(&cause))).unwrap_or_default());
    Ok(())
}
