//! How long a player waits, and what keys mean to it; pure.

/// When frames are shown.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// So many times as fast.
    pub speed: f64,
    /// Longer pauses become this, in microseconds.
    pub idle_us: u64,
}

impl Pace {
    /// How long to wait between two frames, in microseconds.
    pub fn wait_us(&self, last_us: u64, at_us: u64) -> u64 {
        let pause = at_us.saturating_sub(last_us).min(self.idle_us);
        // Rounded: nobody sees a microsecond.
        (pause as f64 / self.speed) as u64
    }
}

/// What a viewer wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Stop, or go on.
    Pause,
    /// 5 s on.
    Forward,
    /// 5 s back.
    Back,
    /// Enough.
    Quit,
}

/// Reads keys, also where an arrow comes in pieces.
#[derive(Debug, Default)]
pub struct Keys {
    pending: Vec<u8>,
}

impl Keys {
    /// Takes the bytes of a terminal; gives the keys that mean anything.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Key> {
        let mut out = Vec::new();
        for &byte in bytes {
            self.pending.push(byte);
            let key = match self.pending.as_slice() {
                b" " => Some(Key::Pause),
                b"q" | b"Q" | [3] => Some(Key::Quit),
                b"\x1b[C" | b"\x1bOC" => Some(Key::Forward),
                b"\x1b[D" | b"\x1bOD" => Some(Key::Back),
                b"\x1b" | b"\x1b[" | b"\x1bO" => continue,
                _ => None,
            };
            self.pending.clear();
            out.extend(key);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_shrink_and_speed_divides() {
        let pace = Pace { speed: 2.0, idle_us: 2_000_000 };
        assert_eq!(pace.wait_us(0, 1_000_000), 500_000);
        assert_eq!(pace.wait_us(0, 3_600_000_000), 1_000_000);
        assert_eq!(pace.wait_us(5, 1), 0);
    }

    #[test]
    fn keys_are_read_in_any_pieces() {
        let mut keys = Keys::default();
        assert_eq!(keys.push(b" \x1b[C\x1b[Dq"), [Key::Pause, Key::Forward, Key::Back, Key::Quit]);
        assert!(keys.push(b"\x1b").is_empty() && keys.push(b"[").is_empty());
        assert_eq!(keys.push(b"C"), [Key::Forward]);
        assert!(keys.push(b"xyz\x1b[A").is_empty());
        assert_eq!(keys.push(b"\x03"), [Key::Quit]);
    }
}
