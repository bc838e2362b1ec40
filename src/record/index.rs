//! What can be searched of a recording: commands, file operations, notes and the text that was shown.
//!
//! It is a cache beside the recording, `<session>.txt`, made after the seal and again when it is missing: one line of text a line, with
//! the time before a tab. Nothing is decided from it. What a program draws on a full screen is in it row by row, as it was drawn.

use std::io::{Read, Write};

use super::folder::Folder;
use super::frame::Stored;
use super::reader::Reader;
use super::screen::Screen;
use super::store::Store;
use crate::domain::ids::SessionId;
use crate::domain::text::shown;

/// The most text that is kept of what one session showed, in bytes. Commands and files are always kept, up to as much again.
const MOST: usize = 4 << 20;
/// So much of what it printed is looked at for that, in bytes.
const LOOKED_AT: usize = 4 * MOST;
/// The longest line, in bytes; longer ones are cut there.
const LINE: usize = 4096;

/// A line in which a text was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// In which session.
    pub session: SessionId,
    /// How long after its beginning, in milliseconds.
    pub at_ms: u64,
    /// The line; hostile text is escaped.
    pub line: String,
}

/// What a frame says in words, if it says anything.
pub fn said(what: &Stored) -> Option<String> {
    let bytes = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(shown(&match what {
        Stored::Open { what, command: Some(command), .. } => format!("{what}: {}", bytes(command)),
        Stored::Open { what, .. } => what.clone(),
        Stored::FileOp(json) => format!("file: {json}"),
        Stored::Forward(json) => format!("forward (content not visible): {json}"),
        Stored::Exit { status: Some(status), .. } => format!("exit {status}"),
        Stored::Exit { signal, .. } => format!("ended by {}", signal.as_deref().unwrap_or("nothing that was told")),
        Stored::Hidden => "typed, and not shown".to_owned(),
        Stored::Note(text) => format!("note: {text}"),
        _ => return None,
    }))
}

/// Where a line stands in a sequence of those that [`Screen`] lets through.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    Escape,
    Control,
    Designate,
}

/// The line that a channel is printing.
#[derive(Default)]
struct Printing {
    screen: Screen,
    line: String,
    sequence: Sequence,
}

impl Printing {
    /// Takes output; gives the lines that ended. Colours go; a cursor that moves along its row is a gap, one that leaves it ends the line.
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut out = Vec::new();
        let text = self.screen.push(bytes);
        for c in text.chars() {
            match (self.sequence, c) {
                (Sequence::None, '\x1b') => self.sequence = Sequence::Escape,
                (Sequence::None, '\n' | '\r') => out.extend(self.ended()),
                (Sequence::None, '\x08') => {
                    self.line.pop();
                }
                (Sequence::None, '\t') => self.add(' '),
                (Sequence::None, _) if c.is_control() => {}
                (Sequence::None, _) => self.add(c),
                (Sequence::Escape, '[') => self.sequence = Sequence::Control,
                (Sequence::Escape, '(' | ')') => self.sequence = Sequence::Designate,
                (Sequence::Escape | Sequence::Designate, _) => self.sequence = Sequence::None,
                (Sequence::Control, '0'..='9' | ';' | ':') => {}
                (Sequence::Control, _) => {
                    self.sequence = Sequence::None;
                    match c {
                        'A' | 'B' | 'E' | 'F' | 'H' | 'd'..='f' => out.extend(self.ended()),
                        'C' | 'D' | 'G' | 'I' | 'a' | '`' if !self.line.ends_with(' ') => self.add(' '),
                        _ => {}
                    }
                }
            }
        }
        out
    }

    fn ended(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        (!line.trim().is_empty()).then_some(line)
    }

    fn add(&mut self, c: char) {
        if self.line.len() < LINE {
            self.line.push(c);
        }
    }
}

/// Writes the searchable text of a recording; stops quietly where it is broken.
pub fn write<R: Read>(mut from: Reader<R>, out: &mut dyn Write) -> std::io::Result<()> {
    let mut printing: std::collections::BTreeMap<u32, Printing> = std::collections::BTreeMap::new();
    let (mut seen, mut printed, mut told) = (0, 0, 0);
    let mut put = |at_us: u64, line: &str, used: &mut usize| {
        *used += line.len() + 12;
        if *used <= MOST { writeln!(out, "{}\t{}", at_us / 1000, shown(line.trim_end())) } else { Ok(()) }
    };
    let mut last = 0;
    while let Some(Ok(frame)) = from.next() {
        if printed >= MOST || seen >= LOOKED_AT {
            from.skim();
        }
        last = frame.at_us;
        if let Some(said) = said(&frame.what) {
            put(frame.at_us, &said, &mut told)?;
        }
        match &frame.what {
            Stored::Output(data) | Stored::Errors(data) if printed < MOST && seen < LOOKED_AT => {
                seen += data.len();
                for line in printing.entry(frame.channel).or_default().push(data) {
                    put(frame.at_us, &line, &mut printed)?;
                }
            }
            Stored::Close => {
                if let Some(rest) = printing.remove(&frame.channel).filter(|p| !p.line.trim().is_empty()) {
                    put(frame.at_us, &rest.line, &mut printed)?;
                }
            }
            _ => {}
        }
    }
    for rest in printing.into_values().filter(|p| !p.line.trim().is_empty()) {
        put(last, &rest.line, &mut printed)?;
    }
    out.flush()
}

fn name_of(id: SessionId) -> String {
    format!("{id}.txt")
}

/// Makes the index of one sealed recording, whole or not at all.
pub(super) fn make(folder: &Folder, id: SessionId) -> std::io::Result<()> {
    let reader = Reader::unchecked(folder.file(&super::store::name_of(id))?);
    let part = format!("{id}.part");
    let _ = folder.remove(&part);
    let mut out = std::io::BufWriter::new(folder.make_file(&part)?);
    write(reader, &mut out)?;
    out.flush()?;
    folder.rename(&part, folder, &name_of(id))
}

impl Store {
    /// Makes the index of every sealed recording that has none; gives how many. Blocks on the disk.
    pub fn reindex(&self) -> usize {
        let mut made = 0;
        for (_, _, folder) in self.months() {
            for id in recordings(&folder) {
                if folder.file(&name_of(id)).is_err() && make(&folder, id).is_ok() {
                    made += 1;
                }
            }
        }
        made
    }

    /// Finds a text in what `visible` sessions said and showed, newest month first; ASCII letters match in either case. Blocks on the disk.
    ///
    /// At most `most` lines come back.
    pub fn search(&self, text: &str, most: usize, visible: &dyn Fn(SessionId) -> bool) -> Vec<Found> {
        let wanted = shown(text).to_ascii_lowercase();
        let mut out = Vec::new();
        for (_, _, folder) in self.months() {
            let mut found: Vec<Found> = Vec::new();
            for id in recordings(&folder).into_iter().filter(|id| visible(*id)) {
                if folder.file(&name_of(id)).is_err() {
                    let _ = make(&folder, id);
                }
                let Ok(file) = folder.file(&name_of(id)) else { continue };
                found.extend(matches(file, id, wanted.as_bytes(), most));
            }
            out.append(&mut found);
            if out.len() >= most {
                out.truncate(most);
                break;
            }
        }
        out
    }
}

/// The sealed recordings in a folder, those that were written last first.
fn recordings(folder: &Folder) -> Vec<SessionId> {
    let names = folder.names().unwrap_or_default();
    let ids = names.iter().filter_map(|name| name.strip_suffix(".rec")?.parse::<SessionId>().ok());
    let written = |id: &SessionId| {
        let file = folder.file(&super::store::name_of(*id)).and_then(|f| f.metadata());
        std::cmp::Reverse(file.and_then(|found| found.modified()).ok())
    };
    let mut ids: Vec<_> = ids.collect();
    ids.sort_by_cached_key(written);
    ids
}

fn matches(mut from: impl Read, id: SessionId, wanted: &[u8], most: usize) -> Vec<Found> {
    let (mut text, mut out, mut at) = (Vec::new(), Vec::new(), 0);
    if wanted.is_empty() || from.read_to_end(&mut text).is_err() {
        return out;
    }
    let low = text.to_ascii_lowercase();
    let finder = memchr::memmem::Finder::new(wanted);
    while out.len() < most
        && let Some(hit) = low.get(at..).and_then(|rest| finder.find(rest)).map(|hit| at + hit)
    {
        let begin = memchr::memrchr(b'\n', &text[..hit]).map_or(0, |n| n + 1);
        let end = memchr::memchr(b'\n', &text[hit..]).map_or(text.len(), |n| hit + n);
        let tab = memchr::memchr(b'\t', &text[begin..end]).map_or(end, |n| begin + n);
        if hit <= tab {
            // In the time, or in what is no line of ours.
            at = tab + 1;
            continue;
        }
        let number = String::from_utf8_lossy(&text[begin..tab]);
        let line = String::from_utf8_lossy(&text[tab + 1..end]);
        out.push(Found { session: id, at_ms: number.parse().unwrap_or(0), line: shown(&line) });
        at = end + 1;
    }
    out
}

#[cfg(test)]
#[path = "tests_index.rs"]
mod tests;
