//! Hints for whoever does something for the first time: one line, once, to people at a terminal alone.

use super::home::{Home, write_private};
use super::prompt;

/// Says what else there is, unless it was said before on this machine. What cannot be remembered is not said.
pub fn once(home: &Home, name: &str, text: &str) {
    let mark = home.state.join("hints").join(name);
    if !prompt::possible() || mark.exists() || write_private(&mark, b"").is_err() {
        return;
    }
    eprintln!("hint: {text}");
}
