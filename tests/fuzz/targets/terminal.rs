//! What a terminal is shown of a recording, or of a stranger's text: nothing of it reaches further than the screen.
#![no_main]
use jit_broker::domain::text::shown;
use jit_broker::gateway::ssh::user::User;
use jit_broker::record::screen::Screen;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<Vec<u8>>| {
    let mut screen = Screen::default();
    let out: String = pieces.iter().map(|piece| screen.push(piece)).collect();
    for forbidden in ["\x1b]", "\x1bP", "\x1b_", "\x1b^", "\x1bX", "\x1bc", "\u{9b}", "\u{9d}", "\u{90}"] {
        assert!(!out.contains(forbidden), "{out:?}");
    }
    for piece in &pieces {
        let text = String::from_utf8_lossy(piece);
        assert!(!shown(&text).chars().any(char::is_control));
        let _ = User::read(&text);
    }
});
