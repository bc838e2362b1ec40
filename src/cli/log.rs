//! The log, on stderr: one event is one line, whatever is in it.
//!
//! `JIT_BROKER_LOG=LEVEL[,text|json|journal]`, as in `info` or `debug,json`. Where stderr is the journal and nothing else is said, lines
//! begin with the journal's priority (sd-daemon(3)) and have no time, because the journal has one.
//!
//! True here: every value is escaped and cut, so that nobody writes a second line or moves a cursor. Never here: what a dependency says
//! below WARN, because traces of protocols show bytes of other people.

use std::fmt::Write as _;
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::clock::wall_s;
use crate::domain::text::{shown, shown_json};

/// The most bytes of one value in a line.
const MAX_VALUE: usize = 2048;
/// What is logged where nothing is said.
const USUAL: LevelFilter = LevelFilter::WARN;
/// Our own code; everything else is a dependency.
const OURS: [&str; 2] = ["jit_broker", "jit_ca"];

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Time, level, place, message, fields.
    Text,
    /// One JSON object.
    Json,
    /// Priority, place, message, fields.
    Journal,
}

/// Starts the log as the environment says it.
pub fn start() {
    let said = std::env::var("JIT_BROKER_LOG").unwrap_or_default();
    let usual = if stderr_is_journal() { Style::Journal } else { Style::Text };
    let read = parse(&said, usual);
    let (level, style) = read.unwrap_or((USUAL, usual));
    // Somebody else's subscriber, in a test, stays.
    let _ = tracing::subscriber::set_global_default(Lines { level, style });
    if read.is_none() {
        tracing::warn!(said, "JIT_BROKER_LOG is not LEVEL[,text|json|journal]; warnings are logged");
    }
}

fn parse(said: &str, usual: Style) -> Option<(LevelFilter, Style)> {
    let (level, style) = said.split_once(',').unwrap_or((said, ""));
    let style = match style.trim() {
        "" => usual,
        "text" => Style::Text,
        "json" => Style::Json,
        "journal" => Style::Journal,
        _ => return None,
    };
    let level = if level.trim().is_empty() { USUAL } else { level.trim().parse().ok()? };
    Some((level, style))
}

/// True when stderr is the socket that `$JOURNAL_STREAM` names (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    let named = named.as_deref().and_then(|text| text.split_once(':'));
    let (Some((device, inode)), Ok(found)) = (named, rustix::fs::fstat(std::io::stderr())) else { return false };
    device.parse() == Ok(found.st_dev) && inode.parse() == Ok(found.st_ino)
}

/// The subscriber: no spans, no buffers, one write a line.
struct Lines {
    level: LevelFilter,
    style: Style,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target().split("::").next().is_some_and(|first| OURS.contains(&first));
        *metadata.level() <= self.level && (ours || *metadata.level() <= Level::WARN)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let line = self.style.line(event, wall_s());
        // There is nowhere left to tell of a stderr that is gone.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// An event's message and fields, cut.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = cut(&format!("{value:?}"));
        match field.name() {
            "message" => self.message = text,
            name => self.fields.push((name, text)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = cut(value),
            name => self.fields.push((name, cut(value))),
        }
    }
}

fn cut(text: &str) -> String {
    if text.len() <= MAX_VALUE {
        return text.to_owned();
    }
    let kept = text.get(..text.floor_char_boundary(MAX_VALUE)).unwrap_or_default();
    format!("{kept}… ({} bytes)", text.len())
}

impl Style {
    fn line(self, event: &Event<'_>, at: i64) -> String {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let mut said = Said::default();
        event.record(&mut said);
        let mut line = match self {
            Self::Json => json(level, target, &said, at),
            Self::Text => format!("{} {level} {}", instant(at), text(target, &said)),
            Self::Journal => format!("<{}>{}", priority(level), text(target, &said)),
        };
        line.push('\n');
        line
    }
}

fn text(target: &str, said: &Said) -> String {
    let mut out = format!("{target}: {}", shown(&said.message));
    for (name, value) in &said.fields {
        let value = shown(value);
        // A value that could be taken for the next field stands in quotes.
        let plain = !value.is_empty() && !value.contains([' ', '"', '=', '\\']);
        let _ = if plain { write!(out, " {name}={value}") } else { write!(out, " {name}={value:?}") };
    }
    out
}

fn json(level: Level, target: &str, said: &Said, at: i64) -> String {
    let mut doc: serde_json::Map<String, serde_json::Value> =
        said.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
    let own = [("at", instant(at)), ("level", level.as_str().to_ascii_lowercase()), ("target", target.to_owned())];
    doc.extend(own.map(|(name, value)| (name.to_owned(), value.into())));
    doc.insert("message".to_owned(), said.message.clone().into());
    shown_json(&serde_json::Value::Object(doc).to_string())
}

fn instant(at: i64) -> String {
    super::output::instant(at)
}

/// The priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Keeps the lines of what is told meanwhile.
    struct Kept(Style, Arc<Mutex<Vec<String>>>);

    impl Subscriber for Kept {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            Lines { level: LevelFilter::TRACE, style: self.0 }.enabled(metadata)
        }
        fn event(&self, event: &Event<'_>) {
            self.1.lock().unwrap().push(self.0.line(event, 1_800_000_000));
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    fn lines(style: Style, told: impl FnOnce()) -> Vec<String> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        tracing::subscriber::with_default(Kept(style, kept.clone()), told);
        let kept = kept.lock().unwrap();
        kept.clone()
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let hostile = "a\nERROR forged: x=1\r\n<3>b\u{2028}c\x1b[2Jd\0e\u{202e}f";
        let long = "x".repeat(1 << 20);
        for style in [Style::Text, Style::Json, Style::Journal] {
            let told = lines(style, || {
                tracing::error!(peer = hostile, user = %hostile, path = ?hostile, code = "JB1 level=x", "{hostile}{long}");
            });
            let [line] = told.as_slice() else { panic!("{told:?}") };
            let line = line.strip_suffix('\n').unwrap();
            assert!(!line.chars().any(crate::domain::text::deceptive), "{style:?}: {line}");
            assert!(line.len() < 16 * 1024 && line.contains("(1048"), "{} bytes", line.len());
            match style {
                Style::Json => {
                    let doc: serde_json::Value = serde_json::from_str(line).unwrap();
                    assert_eq!((doc["peer"].as_str(), doc["level"].as_str()), (Some(hostile), Some("error")));
                }
                Style::Text => assert!(line.starts_with("2027-01-15T08:00:00Z ERROR jit_broker::"), "{line}"),
                Style::Journal => assert!(line.starts_with("<3>jit_broker::"), "{line}"),
            }
            assert!(style == Style::Json || line.contains("code=\"JB1 level=x\""), "{line}");
        }
    }

    #[test]
    fn dependencies_are_heard_when_they_warn() {
        let told = lines(Style::Text, || {
            tracing::trace!("ours");
            tracing::info!(target: "hyper::proto", "theirs");
            tracing::info!(target: "jit_broker_evil", "not ours");
            tracing::warn!(target: "rustls::conn", "theirs");
        });
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("ours") && told[1].contains("WARN rustls::conn: theirs"));
    }

    #[test]
    fn the_environment_is_read_whole_or_not_at_all() {
        let of = |said| parse(said, Style::Text);
        assert_eq!(of(""), Some((LevelFilter::WARN, Style::Text)));
        assert_eq!(of("debug"), Some((LevelFilter::DEBUG, Style::Text)));
        assert_eq!(of("info,json"), Some((LevelFilter::INFO, Style::Json)));
        assert_eq!(of(",journal"), Some((LevelFilter::WARN, Style::Journal)));
        assert_eq!(of("off"), Some((LevelFilter::OFF, Style::Text)));
        for bad in ["loud", "info,xml", "info,json,text", "jit_broker=debug"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
