//! A recording in other forms: for players (asciicast v2), for programs (JSON lines), for people (text).

use std::io::{Read, Write};

use avt::Terminal;
use avt::observer::Transcript;
use serde_json::{Value, json};

use super::frame::{Header, Stamped, Stored};
use super::reader::Reader;
use super::screen::Screen;
use super::utf8::Utf8;
use crate::domain::text::{shown, shown_json};

/// The largest terminal that is played, in columns and rows: more is an attempt to fill memory.
const MAX_SIZE: (u16, u16) = (1000, 500);
/// The size of a terminal that nobody told.
const SIZE: (u16, u16) = (80, 24);

/// Why a recording cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The recording.
    #[error("the recording is broken")]
    Broken(#[from] super::format::Broken),
    /// Where it goes to.
    #[error("it cannot be written")]
    Write(#[from] std::io::Error),
    /// The channel that was asked for.
    #[error("it has no channel {0}")]
    Missing(u32),
}

/// A size as it is played.
pub fn clamped((cols, rows): (u16, u16)) -> (u16, u16) {
    (cols.clamp(1, MAX_SIZE.0), rows.clamp(1, MAX_SIZE.1))
}

/// Follows one channel of a session: the one that was asked for, or the first terminal, or the first that prints anything.
#[derive(Debug, Clone)]
pub struct Focus {
    channel: Option<u32>,
    terminal: bool,
    seen: bool,
}

impl Focus {
    /// On this channel, or on the first that has something to show.
    pub fn on(channel: Option<u32>) -> Self {
        Self { channel, terminal: false, seen: false }
    }

    /// True when the frame is one of the channel in focus. The first that opens a terminal or prints anything draws it.
    pub fn sees(&mut self, frame: &Stamped) -> bool {
        match &frame.what {
            Stored::Open { size: Some(_), .. } if self.channel.is_none() => self.channel = Some(frame.channel),
            Stored::Output(_) | Stored::Errors(_) if self.channel.is_none() => self.channel = Some(frame.channel),
            _ => {}
        }
        self.seen |= self.channel == Some(frame.channel);
        let sees = self.channel == Some(frame.channel) && !matches!(frame.what, Stored::Note(_));
        if sees && let Stored::Open { size, .. } = &frame.what {
            self.terminal = size.is_some();
        }
        sees
    }

    /// The channel that was asked for, as long as nothing of it came.
    pub fn missing(&self) -> Option<u32> {
        self.channel.filter(|_| !self.seen)
    }

    /// What was printed, as a terminal needs it: without a terminal on the target line ends are bare.
    pub fn printed(&self, data: &[u8]) -> Vec<u8> {
        if self.terminal {
            return data.to_vec();
        }
        let mut out = Vec::with_capacity(data.len() + data.len() / 16);
        for byte in data {
            if *byte == b'\n' {
                out.push(b'\r');
            }
            out.push(*byte);
        }
        out
    }
}

fn title(header: &Header) -> String {
    shown(&format!("{} on {} as {} ({})", header.person, header.target, header.login, header.session))
}

/// What becomes of control sequences in an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escapes {
    /// What asks the player's terminal for an answer, writes its clipboard or title, or changes its modes is dropped ([`Screen`]).
    Harmless,
    /// Every byte as it passed.
    Untouched,
}

/// The text of one stream of a channel.
enum Stream {
    Harmless(Screen),
    Untouched(Utf8),
}

impl Stream {
    fn new(escapes: Escapes) -> Self {
        match escapes {
            Escapes::Harmless => Self::Harmless(Screen::default()),
            Escapes::Untouched => Self::Untouched(Utf8::default()),
        }
    }

    fn push(&mut self, data: &[u8]) -> String {
        match self {
            Self::Harmless(screen) => screen.push(data),
            Self::Untouched(utf8) => utf8.push(data),
        }
    }

    fn finish(&mut self) -> &'static str {
        match self {
            Self::Harmless(screen) => screen.finish(),
            Self::Untouched(utf8) => utf8.finish(),
        }
    }
}

/// Writes asciicast v2, which every player reads: output, what was typed, and sizes of one channel.
///
/// # Errors
/// When the recording is broken, or it cannot be written.
pub fn cast<R: Read>(
    mut from: Reader<R>,
    channel: Option<u32>,
    escapes: Escapes,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let header = from.header()?;
    let mut focus = Focus::on(channel);
    let (mut output, mut errors, mut input) = (Stream::new(escapes), Stream::new(escapes), Stream::new(escapes));
    let mut begun = false;
    let mut last_us = 0;
    let mut begin = |out: &mut dyn Write, size: (u16, u16)| {
        let (width, height) = clamped(size);
        let line = json!({
            "version": 2, "width": width, "height": height, "timestamp": header.opened_at_ms / 1000,
            "title": title(&header), "env": { "TERM": "xterm-256color" },
        });
        if std::mem::replace(&mut begun, true) { Ok(()) } else { writeln!(out, "{line}") }
    };
    for frame in from {
        let frame = frame?;
        if !focus.sees(&frame) {
            continue;
        }
        last_us = frame.at_us;
        let event = |code: &str, data: &str| event(frame.at_us, code, data);
        let line = match &frame.what {
            Stored::Open { size, .. } => {
                begin(out, size.unwrap_or(SIZE))?;
                continue;
            }
            Stored::Output(data) => event("o", &output.push(&focus.printed(data))),
            Stored::Errors(data) => event("o", &errors.push(&focus.printed(data))),
            Stored::Input(data) => event("i", &input.push(data)),
            Stored::Resize { cols, rows } => {
                let (cols, rows) = clamped((*cols, *rows));
                event("r", &format!("{cols}x{rows}"))
            }
            _ => continue,
        };
        begin(out, SIZE)?;
        if let Some(line) = line {
            writeln!(out, "{line}")?;
        }
    }
    if let Some(channel) = focus.missing() {
        return Err(ExportError::Missing(channel));
    }
    begin(out, SIZE)?;
    for rest in [output.finish(), errors.finish()] {
        if let Some(line) = event(last_us, "o", rest) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(out.flush()?)
}

/// A line of asciicast v2; nothing for no text. Times are seconds with six digits.
fn event(at_us: u64, code: &str, text: &str) -> Option<String> {
    // The same JSON, that harms no terminal.
    let text = shown_json(&Value::from(text).to_string());
    let at = format!("{}.{:06}", at_us / 1_000_000, at_us % 1_000_000);
    (text != "\"\"").then(|| format!("[{at}, \"{code}\", {text}]"))
}

/// Writes one JSON object a frame, of all channels, after one for the header. Bytes that are no UTF-8 are base64.
///
/// # Errors
/// As [`cast`].
pub fn jsonl<R: Read>(mut from: Reader<R>, out: &mut dyn Write) -> Result<(), ExportError> {
    let header = from.header()?;
    let mut first = serde_json::to_value(&header).unwrap_or_default();
    first["schema"] = "jit-broker/recording/v1".into();
    writeln!(out, "{first}")?;
    for frame in from {
        let frame = frame?;
        let mut line = json!({ "at_us": frame.at_us, "channel": frame.channel, "kind": frame.what.word() });
        let mut bytes = |name: &str, data: &[u8]| match std::str::from_utf8(data) {
            Ok(text) => line[name] = text.into(),
            Err(_) => line[format!("{name}_base64")] = data_encoding::BASE64.encode(data).into(),
        };
        match &frame.what {
            Stored::Output(data) | Stored::Errors(data) | Stored::Input(data) => bytes("data", data),
            Stored::Open { what, command, size } => {
                if let Some(command) = command {
                    bytes("command", command);
                }
                line["what"] = what.as_str().into();
                line["size"] = json!(size);
            }
            Stored::Resize { cols, rows } => line["size"] = json!([cols, rows]),
            Stored::FileOp(text) | Stored::Forward(text) => {
                line["detail"] = serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into());
            }
            Stored::Exit { status, signal } => {
                line["status"] = json!(status);
                line["signal"] = json!(signal);
            }
            Stored::Note(text) => line["text"] = text.as_str().into(),
            Stored::Hidden | Stored::Close => {}
        }
        writeln!(out, "{}", shown_json(&line.to_string()))?;
    }
    Ok(out.flush()?)
}

/// Plays one channel on a terminal of its own.
struct Played {
    terminal: Terminal,
    transcript: Transcript,
    utf8: Utf8,
    bare: bool,
}

impl Played {
    fn new(size: Option<(u16, u16)>) -> Option<Self> {
        let (cols, rows) = clamped(size.unwrap_or((MAX_SIZE.0, SIZE.1)));
        let terminal = Terminal::new(cols.into(), rows.into()).ok()?;
        Some(Self { terminal, transcript: Transcript::new(), utf8: Utf8::default(), bare: size.is_none() })
    }

    fn push(&mut self, data: &[u8]) -> Vec<String> {
        let text = self.utf8.push(data);
        let text = if self.bare { text.replace('\n', "\r\n") } else { text };
        self.terminal.feed_with(text.as_str(), &mut self.transcript).into_iter().collect()
    }
}

/// Writes what could be read on the screen, line by line, with commands, file operations and marks in brackets.
///
/// # Errors
/// As [`cast`].
pub fn text<R: Read>(mut from: Reader<R>, out: &mut dyn Write) -> Result<(), ExportError> {
    let header = from.header()?;
    writeln!(out, "[{}, from {}]", title(&header), shown(&header.from))?;
    let mut screens: std::collections::BTreeMap<u32, Played> = std::collections::BTreeMap::new();
    let finish = |played: Played| played.transcript.finish(&played.terminal);
    for frame in from {
        let frame = frame?;
        let lines: Vec<String> = match &frame.what {
            Stored::Open { size, .. } => {
                screens.extend(Played::new(*size).map(|played| (frame.channel, played)));
                vec![format!("[{}]", super::index::said(&frame.what).unwrap_or_default())]
            }
            Stored::Output(data) | Stored::Errors(data) => {
                if !screens.contains_key(&frame.channel) {
                    screens.extend(Played::new(None).map(|played| (frame.channel, played)));
                }
                screens.get_mut(&frame.channel).map(|played| played.push(data)).unwrap_or_default()
            }
            Stored::Resize { cols, rows } => {
                let (cols, rows) = clamped((*cols, *rows));
                let played = screens.get_mut(&frame.channel);
                let lines = played.map(|p| p.terminal.resize_with(cols.into(), rows.into(), &mut p.transcript));
                lines.into_iter().flatten().collect()
            }
            Stored::Close => screens.remove(&frame.channel).map(finish).unwrap_or_default(),
            other => super::index::said(other).map(|said| format!("[{said}]")).into_iter().collect(),
        };
        lines.iter().try_for_each(|line| writeln!(out, "{}", shown(line.trim_end())))?;
    }
    for lines in screens.into_values().map(finish) {
        lines.iter().try_for_each(|line| writeln!(out, "{}", shown(line.trim_end())))?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
#[path = "tests_export.rs"]
mod tests;
