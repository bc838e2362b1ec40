//! Whether a full-screen program has the terminal: a line written into one would break its picture.

/// Follows `ESC [ ? 47 / 1047 / 1049 h` and `l` (xterm's alternate screen) through the output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Screen {
    at: At,
    number: u32,
    found: bool,
    alternate: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    Text,
    Escape,
    Bracket,
    Numbers,
}

impl Screen {
    /// True while the alternate screen is on.
    pub fn is_alternate(&self) -> bool {
        self.alternate
    }

    /// Looks at output, in pieces of any size.
    pub fn see(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first().copied() {
            if self.at == At::Text {
                let Some(escape) = bytes.iter().position(|b| *b == 0x1b) else { return };
                bytes = bytes.get(escape + 1..).unwrap_or_default();
                self.at = At::Escape;
                continue;
            }
            bytes = bytes.get(1..).unwrap_or_default();
            self.step(first);
        }
    }

    fn step(&mut self, byte: u8) {
        self.at = match (self.at, byte) {
            (_, 0x1b) => At::Escape,
            (At::Escape, b'[') => At::Bracket,
            // A full reset leaves the alternate screen (RIS).
            (At::Escape, b'c') => {
                self.alternate = false;
                At::Text
            }
            (At::Bracket, b'?') => {
                (self.number, self.found) = (0, false);
                At::Numbers
            }
            (At::Numbers, b'0'..=b'9') => {
                self.number = self.number.saturating_mul(10).saturating_add(u32::from(byte - b'0'));
                At::Numbers
            }
            (At::Numbers, b';') => {
                self.take();
                At::Numbers
            }
            (At::Numbers, b'h' | b'l') => {
                self.take();
                if self.found {
                    self.alternate = byte == b'h';
                }
                At::Text
            }
            _ => At::Text,
        };
    }

    fn take(&mut self) {
        self.found |= matches!(self.number, 47 | 1047 | 1049);
        self.number = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(text: &str) -> bool {
        let mut screen = Screen::default();
        screen.see(text.as_bytes());
        screen.is_alternate()
    }

    #[test]
    fn full_screen_programs_are_noticed_and_forgotten() {
        for on in ["\x1b[?1049h", "\x1b[?47h", "x\x1b[?1047hy", "\x1b[?1;1049h", "\x1b\x1b[?1049h", "\x1b[?1049;25h"] {
            assert!(after(on), "{on:?}");
            assert!(!after(&format!("{on}\x1b[?1049l")), "{on:?}");
            assert!(!after(&format!("{on}\x1bc")), "{on:?}");
        }
        for off in ["\x1b[1049h", "\x1b[?25h", "[?1049h", "\x1b[?1049 h", "\x1b[?11049h", "\x1b[?99999999999h", ""] {
            assert!(!after(off), "{off:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "(\u{1b}|\\[|\\?|1049|47|;|h|l|c|x){0,40}", cut in 0usize..60) {
            let bytes = text.as_bytes();
            let (mut whole, mut parts) = (Screen::default(), Screen::default());
            whole.see(bytes);
            let cut = cut.min(bytes.len());
            parts.see(&bytes[..cut]);
            parts.see(&bytes[cut..]);
            prop_assert_eq!(whole, parts);
        }

        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            Screen::default().see(&bytes);
        }
    }
}
