//! What was typed on a terminal, kept back until the terminal shows it; pure.
//!
//! A program that asks for a password switches echo off on the target, which nobody on the way is told. So a typed character is stored
//! only once the output begins with it: all that was typed since, in order, with nothing else printed between. What is answered by
//! other output, or by a new line, was not shown: the whole line is dropped and a mark is left. Editors and programs that draw their
//! line anew on each key look the same and are not stored either; the output, which is always stored, has what they showed.
//!
//! Limits (security.md T57): a program that prints a password itself, or a background job that happens to print exactly the letters
//! typed so far of one, has them stored, as they are in the output then.

/// How much is kept back, in bytes; a longer line that is not shown is dropped.
const MOST: usize = 4096;

/// What may be stored now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// These were typed, and the terminal showed them.
    Shown(Vec<u8>),
    /// Something was typed that it did not show.
    Hidden,
}

/// Where a byte stream stands in an escape sequence (ECMA-48 section 5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// After ESC.
    Begun,
    /// `ESC [`, until a final byte.
    Control,
    /// `ESC O`, `ESC (` and the like: one more byte.
    One,
    /// OSC, DCS, APC, PM, SOS: until BEL or ST.
    Text,
}

impl Escape {
    /// Takes a byte; true when it belongs to a sequence.
    fn take(&mut self, byte: u8) -> bool {
        let (next, inside) = match (*self, byte) {
            (_, 0x1b) => (Self::Begun, true),
            (Self::None, _) => (Self::None, false),
            (Self::Begun, b'[') => (Self::Control, true),
            (Self::Begun, b']' | b'P' | b'_' | b'^' | b'X') => (Self::Text, true),
            (Self::Begun, b'O' | b'N' | 0x20..=0x2f) => (Self::One, true),
            (Self::Control, 0x40..=0x7e) | (Self::Begun | Self::One, _) | (Self::Text, 0x07) => (Self::None, true),
            (same, _) => (same, true),
        };
        *self = next;
        inside
    }
}

fn ends_line(byte: u8) -> bool {
    // Return, line feed, interrupt, end of file: whatever was asked for is over.
    matches!(byte, b'\r' | b'\n' | 0x03 | 0x04)
}

fn printable(byte: u8) -> bool {
    byte >= 0x20 && byte != 0x7f
}

/// What was typed on one terminal.
#[derive(Debug, Clone, Default)]
pub struct Typed {
    /// Kept back; each byte with whether the terminal has to show it.
    pending: std::collections::VecDeque<(u8, bool)>,
    /// How many of the front the output has shown.
    shown: usize,
    /// The line that is being typed is not shown.
    hidden: bool,
    /// So many new lines of the output belong to lines that were stored.
    owed: usize,
    typed: Escape,
    printed: Escape,
}

impl Typed {
    /// True while something is kept back.
    pub fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes what was typed; gives what may be stored.
    pub fn input(&mut self, bytes: &[u8]) -> Vec<Release> {
        let mut out = Vec::new();
        for &byte in bytes {
            let key = self.typed.take(byte);
            if self.hidden && (key || !ends_line(byte)) {
                continue;
            }
            if self.hidden {
                self.hidden = false;
                self.keep(byte, false, &mut out);
                continue;
            }
            self.pending.push_back((byte, !key && printable(byte)));
            if self.pending.len() > MOST {
                self.hide(&mut out);
            }
        }
        // What waits for nothing is stored at once: keys that print nothing.
        if !self.pending.iter().any(|(_, wants)| *wants) {
            self.release(self.pending.len(), &mut out);
        }
        out
    }

    /// Takes what the terminal printed; gives what may be stored.
    pub fn output(&mut self, bytes: &[u8]) -> Vec<Release> {
        let mut out = Vec::new();
        for &byte in bytes {
            if self.printed.take(byte) {
                continue;
            }
            let Some(next) = self.next() else { break };
            if byte == b'\n' && self.owed > 0 {
                self.owed -= 1;
                continue;
            }
            if printable(byte) && byte == next {
                self.shown += 1;
                if self.next().is_none() || self.line_is_shown() {
                    let whole = self.reach();
                    self.release(whole, &mut out);
                }
            } else if printable(byte) || (byte == b'\n' && self.line_end().is_some()) {
                self.hide(&mut out);
                if printable(byte) {
                    break;
                }
            }
        }
        if !self.waits() {
            (self.owed, self.printed) = (0, Escape::None);
        }
        out
    }

    /// The terminal is closed: what it has not shown by now it never will.
    pub fn close(&mut self) -> Vec<Release> {
        let mut out = Vec::new();
        if self.waits() {
            self.hide(&mut out);
            self.pending.clear();
        }
        out
    }

    /// The next byte that the terminal has to show. `shown` passes over those that it has not to.
    fn next(&mut self) -> Option<u8> {
        while let Some((byte, wants)) = self.pending.get(self.shown) {
            if *wants {
                return Some(*byte);
            }
            if ends_line(*byte) {
                return Some(*byte);
            }
            self.shown += 1;
        }
        None
    }

    /// True when what was shown reaches the end of a line.
    fn line_is_shown(&self) -> bool {
        self.pending.get(self.shown).is_some_and(|(byte, wants)| !wants && ends_line(*byte))
    }

    /// How many bytes of the front are shown, with the keys after them that print nothing.
    fn reach(&self) -> usize {
        let keys = self.pending.iter().skip(self.shown).take_while(|(_, wants)| !wants).count();
        self.shown + keys
    }

    /// Where the first line that was typed ends.
    fn line_end(&self) -> Option<usize> {
        self.pending.iter().position(|(byte, wants)| !wants && ends_line(*byte))
    }

    fn keep(&mut self, byte: u8, wants: bool, out: &mut Vec<Release>) {
        self.pending.push_back((byte, wants));
        self.release(1, out);
    }

    fn release(&mut self, n: usize, out: &mut Vec<Release>) {
        if n > 0 {
            let bytes: Vec<u8> = self.pending.drain(..n).map(|(byte, _)| byte).collect();
            self.owed += bytes.iter().filter(|byte| ends_line(**byte)).count();
            match out.last_mut() {
                Some(Release::Shown(before)) => before.extend(bytes),
                _ => out.push(Release::Shown(bytes)),
            }
        }
        self.shown = 0;
    }

    /// Drops the line that is not shown, up to and without its end; where it has no end yet, what follows goes too.
    fn hide(&mut self, out: &mut Vec<Release>) {
        out.push(Release::Hidden);
        let end = self.line_end();
        self.hidden = end.is_none();
        let n = end.unwrap_or(self.pending.len());
        self.pending.drain(..n);
        self.shown = 0;
        // The end itself says nothing; with it go the keys after it.
        let keys = self.pending.iter().take_while(|(_, wants)| !wants).count();
        self.release(keys, out);
        self.owed = 0;
    }
}

#[cfg(test)]
#[path = "tests_typed.rs"]
mod tests;
