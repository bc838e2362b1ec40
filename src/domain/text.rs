//! Text that people wrote: how much of it is taken, and how it is shown so that it can harm nobody.

use serde::{Deserialize, Serialize};

use super::digest::{Digest, canonical};
use super::refusal::{Code, Refusal};

/// The most characters that a reason or note may have.
pub const MAX_REASON_CHARS: usize = 2000;
/// The most characters that a ticket may have.
pub const MAX_TICKET_CHARS: usize = 64;

/// Escapes what could move a cursor, hide or reorder text: controls, bidirectional marks, zero-width and other invisible characters.
///
/// The result is one line of printable characters (Unicode UAX #9 and the general categories Cc, Cf, Zl, Zp).
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if deceptive(c) {
            if (c as u32) < 0x100 {
                out.push_str(&format!("\\x{:02x}", c as u32));
            } else {
                out.push_str(&format!("\\u{{{:x}}}", c as u32));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// True for a character that does not simply stand where it is written.
pub fn deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c as u32,
            0xad | 0x34f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f
            | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb
            | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

/// Escapes the same characters in a JSON document, as JSON does (RFC 8259 section 7): it means the same, and harms no terminal.
pub fn shown_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if deceptive(c) {
            c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// The personal text of an act, kept beside the log and bound to it by a salted commitment (decisions.md 15).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// 32 hex digits that the client drew; without them the commitment could be guessed.
    pub salt: String,
    /// Why it is asked, approved, denied or revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The ticket it is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

impl Words {
    /// The bytes that are stored beside the log.
    pub fn bytes(&self) -> Vec<u8> {
        canonical(self).unwrap_or_default()
    }

    /// The commitment that the signed act carries: SHA-256 of [`Words::bytes`].
    pub fn commitment(&self) -> Digest {
        Digest::of(&self.bytes())
    }

    /// Refuses text that is too long, empty, or made to deceive, and a salt that is no salt.
    ///
    /// # Errors
    /// A [`Refusal`] that states the limit.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.salt.len() != 32 || !self.salt.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Refusal::new(Code::BAD_ACT, "The salt of the text is not 32 hex digits."));
        }
        if let Some(reason) = &self.reason {
            check_text("reason", reason, MAX_REASON_CHARS)?;
        }
        if let Some(ticket) = &self.ticket {
            check_text("ticket", ticket, MAX_TICKET_CHARS)?;
        }
        Ok(())
    }
}

/// Refuses a text of people that is empty, too long, or has characters that deceive.
///
/// # Errors
/// [`Code::BAD_TEXT`] with the limit or the first such character, escaped.
pub fn check_text(what: &str, text: &str, max_chars: usize) -> Result<(), Refusal> {
    let chars = text.chars().count();
    if chars > max_chars {
        return Err(Refusal::new(
            Code::BAD_TEXT,
            format!("The {what} has {chars} characters; at most {max_chars} are taken."),
        )
        .hint("Say it shorter, and put the long story into the ticket."));
    }
    if text.trim().is_empty() {
        return Err(Refusal::new(Code::BAD_TEXT, format!("The {what} is empty.")));
    }
    if let Some((at, c)) = text.chars().enumerate().find(|(_, c)| deceptive(*c)) {
        return Err(Refusal::new(
            Code::BAD_TEXT,
            format!(
                "The {what} has {} at character {}: control and invisible characters are not taken.",
                shown(&c.to_string()),
                at + 1
            ),
        )
        .hint("Write it again as one line of plain text."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_that_moves_the_cursor_is_shown() {
        let hostile = "a\x1b[2Jb\u{202e}c\u{200b}d\r\ne\u{2028}f\u{7f}";
        let safe = shown(hostile);
        assert!(!safe.chars().any(deceptive), "{safe:?}");
        assert!(safe.contains("\\x1b") && safe.contains("\\u{202e}"));
        assert_eq!(shown("Überprüfung für OPS-1 – 漢字"), "Überprüfung für OPS-1 – 漢字");
    }

    #[test]
    fn a_json_document_keeps_its_meaning_and_moves_no_cursor() {
        let hostile = "a\x1b[2Jb\u{202e}c\u{9b}d\u{1d173}\r\n\u{7f}";
        let safe = shown_json(&serde_json::to_string(hostile).unwrap());
        assert!(!safe.chars().any(deceptive), "{safe:?}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), hostile);
    }

    #[test]
    fn long_empty_and_deceptive_reasons_are_refused() {
        assert!(check_text("reason", &"x".repeat(2000), 2000).is_ok());
        for bad in
            ["x".repeat(2001), " ".into(), String::new(), "a\u{202e}b".into(), "a\nb".into(), "x".repeat(1 << 20)]
        {
            assert_eq!(check_text("reason", &bad, 2000).unwrap_err().code, Code::BAD_TEXT);
        }
    }

    #[test]
    fn the_salt_makes_equal_texts_differ() {
        let words = |salt: &str| Words { salt: salt.repeat(32), reason: Some("x".into()), ticket: None };
        assert_ne!(words("a").commitment(), words("b").commitment());
        assert!(words("a").check().is_ok() && words("z").check().is_err());
    }
}
