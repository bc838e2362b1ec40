//! Every line that the gateway writes to a person.

use crate::broker::gateway::Opened;
use crate::broker::lease::Over;
use crate::domain::refusal::Refusal;
use crate::domain::session::SessionCause;
use crate::domain::text::shown;

/// Nothing can be recorded.
pub const RECORDING_LOST: &str = "jit-broker: this cannot be recorded any more, so it was ended";
/// The daemon stops.
pub const STOPPING: &str = "jit-broker: the broker is stopping; this session ends in 10 seconds";
/// An empty bell, for a terminal whose picture must not be broken.
pub const BELL: &[u8] = b"\x07";

/// Takes a terminal back from a full-screen program that cannot do it itself any more: mouse, paste and keypad modes off, the cursor shown,
/// colours and scrolling region reset, and back to the screen that the shell was on (xterm's control sequences).
pub const TAKE_BACK: &str = "\x1b[?1000;1002;1003;1006;2004l\x1b[?1l\x1b>\x1b[?25h\x1b[0m\x1b[r\x1b[?1049l";

/// A refusal on one line.
pub fn refused(refusal: &Refusal) -> String {
    let hint = refusal.hint.as_ref().map(|hint| format!("; {}", shown(hint))).unwrap_or_default();
    format!("jit-broker: {} {}{hint}", refusal.code, shown(refusal.message.trim_end_matches('.')))
}

/// A sentence on one line.
pub fn told(sentence: &str) -> String {
    format!("jit-broker: {}", shown(sentence.trim_end_matches('.')))
}

/// The end is near.
pub fn warning(left_s: i64) -> String {
    let left = crate::domain::span::show_span(u64::try_from(left_s).unwrap_or(0));
    format!("jit-broker: this session ends in {left}")
}

/// What the role does not have.
pub fn not_allowed(what: &str, opened: &str) -> String {
    format!("jit-broker: the role does not allow {what} on {opened}")
}

/// Why a session ended, and how to ask again; empty when the person ended it.
pub fn why(cause: SessionCause, opened: &Opened, over: &Over) -> String {
    let again = format!("jit-broker request {}", opened.target.name);
    match cause {
        SessionCause::Closed | SessionCause::TargetClosed => String::new(),
        SessionCause::WindowEnd => {
            let at = over.ended_wall_ms.map_or(opened.ends_at, |ms| ms / 1000);
            format!("jit-broker: the window ended at {}; ask again: {again}", time_of_day(at))
        }
        SessionCause::Released => format!("jit-broker: the grant was given back; ask again: {again}"),
        SessionCause::Revoked => format!("jit-broker: the grant was revoked; ask again: {again}"),
        SessionCause::PersonDisabled => format!("jit-broker: {} was disabled", opened.person),
        SessionCause::EndedBy => "jit-broker: this session was ended by an operator".to_owned(),
        SessionCause::RecordingLost => RECORDING_LOST.to_owned(),
        SessionCause::Drained => "jit-broker: the broker stopped; connect again in a moment".to_owned(),
        SessionCause::TargetAway | SessionCause::HostkeyMismatch | SessionCause::Lost => {
            "jit-broker: the session was lost".to_owned()
        }
    }
}

/// A second of the day, in UTC.
fn time_of_day(at: i64) -> String {
    let s = at.rem_euclid(86_400);
    format!("{:02}:{:02}:{:02} UTC", s / 3600, s / 60 % 60, s % 60)
}
