//! What a terminal may be shown of a recording; pure.
//!
//! Kept: text, colours (SGR), movement of the cursor, erasing, inserting, scrolling, line drawing. Dropped: whatever asks the terminal
//! for an answer (it would be typed into the viewer's shell), writes its clipboard or title, makes links, or changes its modes: OSC,
//! DCS, APC, PM, SOS, queries, mouse, bracketed paste, and everything that is not known here (security.md T56). Switching to the other
//! screen becomes an erased one. The output is always whole UTF-8.

use super::utf8::Utf8;

/// The longest control sequence that is kept, in bytes.
const MAX_CONTROL: usize = 64;
/// After so many bytes a string that does not end is taken for text: it must not hide the rest of a session.
const MAX_STRING: usize = 64 << 10;
/// The largest number that is kept in a control sequence that moves or repeats.
const MAX_NUMBER: u32 = 9999;
/// What makes a terminal as it was after any of this was shown: colours, margins, character sets, the cursor.
pub const AFTER: &str = "\x1b[0m\x1b[r\x0f\x1b(B\x1b)B\x1b[999;1H\r\n";

#[derive(Debug, Clone, Default)]
enum State {
    #[default]
    Ground,
    Escape,
    /// `ESC` and an intermediate byte.
    Designate(char),
    /// `ESC` and several intermediate bytes.
    Ignore,
    Control(String),
    /// Inside a string that is dropped, of this many characters so far.
    Text(usize),
}

/// The filter.
#[derive(Debug, Clone, Default)]
pub struct Screen {
    utf8: Utf8,
    state: State,
}

impl Screen {
    /// Takes the next bytes of the recording; gives what may be shown.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let text = self.utf8.push(bytes);
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            self.take(c, &mut out);
        }
        out
    }

    /// The end: a character that is not whole by now never will be.
    pub fn finish(&mut self) -> &'static str {
        self.utf8.finish()
    }

    fn take(&mut self, c: char, out: &mut String) {
        // 8-bit controls mean what their two-character forms mean (ECMA-48 section 5.3), in a string too.
        if ('\u{80}'..='\u{9f}').contains(&c) {
            if c == '\u{9c}' || !matches!(self.state, State::Text(_)) {
                self.state = State::Escape;
                self.take(char::from((c as u8) - 0x40), out);
            }
            return;
        }
        match (c, &mut self.state) {
            ('\x1b', _) => self.state = State::Escape,
            ('\x18' | '\x1a', _) => self.state = State::Ground,
            (_, State::Text(n)) => {
                *n += 1;
                if c == '\x07' || *n > MAX_STRING {
                    self.state = State::Ground;
                }
            }
            (..' ' | '\x7f', _) => control(c, out),
            (_, State::Ground) => out.push(c),
            (_, State::Escape) => self.escape(c, out),
            (_, State::Designate(slot)) => {
                if matches!(slot, '(' | ')') && matches!(c, '0' | 'B') {
                    out.extend(['\x1b', *slot, c]);
                }
                self.state = if c < '0' { State::Ignore } else { State::Ground };
            }
            (_, State::Ignore) if c < '0' => {}
            (_, State::Ignore) => self.state = State::Ground,
            (_, State::Control(body)) if ('@'..='~').contains(&c) => {
                kept(body, c, out);
                self.state = State::Ground;
            }
            (_, State::Control(body)) => {
                // What is too long stays so, and is dropped at its end.
                if body.len() <= MAX_CONTROL {
                    body.push(c);
                }
            }
        }
    }

    fn escape(&mut self, c: char, out: &mut String) {
        self.state = match c {
            '[' => State::Control(String::new()),
            ']' | 'P' | '_' | '^' | 'X' => State::Text(0),
            ' '..='/' => State::Designate(c),
            // Save, restore, index, next line, reverse index.
            '7' | '8' | 'D' | 'E' | 'M' => {
                out.extend(['\x1b', c]);
                State::Ground
            }
            'c' => {
                out.push_str("\x1b[0m\x1b[2J\x1b[H");
                State::Ground
            }
            _ => State::Ground,
        };
    }
}

/// Controls of one character: tab, backspace, line ends, and the two shifts of line drawing.
fn control(c: char, out: &mut String) {
    if matches!(c, '\x08'..='\x0f') {
        out.push(c);
    }
}

/// Writes a control sequence where it is one of those that are kept.
fn kept(body: &str, last: char, out: &mut String) {
    if let Some(modes) = body.strip_prefix('?') {
        if matches!(last, 'h' | 'l') && modes.split(';').any(|mode| matches!(mode, "47" | "1047" | "1049")) {
            out.push_str("\x1b[2J\x1b[H");
        }
        return;
    }
    if body.len() > MAX_CONTROL || !body.bytes().all(|b| b.is_ascii_digit() || b == b';' || b == b':') {
        return;
    }
    let numbers = body.split([';', ':']).filter(|n| !n.is_empty()).map(|n| n.parse::<u32>().unwrap_or(u32::MAX));
    let fits = numbers.clone().all(|n| n <= MAX_NUMBER);
    let good = match last {
        'm' => fits,
        'A'..='I' | 'L' | 'M' | 'P' | 'S' | 'X' | 'Z' | '@' | '`' | 'a' | 'b' | 'd' | 'e' | 'f' | 'r' => {
            fits && numbers.count() <= 2
        }
        // 3 erases what the viewer's terminal has scrolled away.
        'J' | 'K' => numbers.clone().count() <= 1 && numbers.clone().all(|n| n <= 2),
        // With more numbers it is mouse tracking.
        'T' => fits && numbers.count() <= 1,
        's' | 'u' => body.is_empty(),
        _ => false,
    };
    if good {
        out.push_str("\x1b[");
        out.push_str(body);
        out.push(last);
    }
}

#[cfg(test)]
#[path = "tests_screen.rs"]
mod tests;
