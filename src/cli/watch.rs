//! `--watch`: the same answer, again and again, as it changes.
//!
//! On a terminal one picture is redrawn in place, each time in a single write, so that nothing flickers; elsewhere a line for each thing
//! that came, changed or went; with JSON a document for each change. A broker that is away is told of, and asked again.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use super::failure::Failure;
use super::{Globals, output};
use crate::domain::refusal::Code;
use crate::domain::text::shown;

/// How often the broker is asked.
const EVERY: Duration = Duration::from_secs(2);

/// What there is at a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picture {
    /// For a terminal, hostile text still in it.
    pub lines: Vec<String>,
    /// One line for each thing, by its name; times that only pass are not in it.
    pub things: BTreeMap<String, String>,
    /// The document.
    pub json: serde_json::Value,
}

/// Shows pictures until Ctrl-C; exit status 130 then.
///
/// # Errors
/// What asking again would not mend, such as an ended sign-in.
pub async fn watch(
    globals: &Globals,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Picture, Failure>,
) -> Result<ExitCode, Failure> {
    let drawn = !globals.json()
        && globals.output != output::Format::Name
        && std::io::stdout().is_terminal()
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let mut view = View { drawn, json: globals.json(), what: what.to_owned(), ..View::default() };
    let mut over = std::pin::pin!(tokio::signal::ctrl_c());
    if drawn {
        put(&enter())?;
    }
    let result = loop {
        let seen = tokio::select! {
            _ = &mut over => break Ok(ExitCode::from(130)),
            seen = look() => seen,
        };
        let shown = match seen {
            Ok(picture) => view.show(picture),
            Err(failure) if failure.0.code == Code::UNREACHABLE => view.away(&failure),
            Err(failure) => break Err(failure),
        };
        if let Err(failure) = shown {
            break Err(failure);
        }
        tokio::select! {
            _ = &mut over => break Ok(ExitCode::from(130)),
            () = tokio::time::sleep(EVERY) => {}
        }
    };
    if drawn {
        // What was there last stays to be read.
        let last: String = view.last.lines.iter().map(|line| format!("{}\n", shown(line))).collect();
        put(&format!("{}{last}", leave()))?;
    }
    result
}

/// The other screen, without a cursor.
fn enter() -> String {
    "\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J".to_owned()
}

fn leave() -> String {
    "\x1b[?25h\x1b[?1049l".to_owned()
}

fn put(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Failure::local("stdout", e))
}

/// What was shown last.
#[derive(Debug, Default)]
struct View {
    drawn: bool,
    json: bool,
    what: String,
    last: Picture,
    begun: bool,
    away: bool,
    screen: String,
}

impl View {
    fn show(&mut self, picture: Picture) -> Result<(), Failure> {
        self.away = false;
        let old = std::mem::replace(&mut self.last, picture);
        if self.drawn {
            return self.draw("");
        }
        let first = !std::mem::replace(&mut self.begun, true);
        if self.json {
            let changed = first || old.things != self.last.things;
            return if changed {
                put(&format!("{}\n", crate::domain::text::shown_json(&self.last.json.to_string())))
            } else {
                Ok(())
            };
        }
        let now = output::instant(crate::clock::wall_s());
        let mut text: String =
            news(&old.things, &self.last.things).iter().map(|line| format!("{now}\t{line}\n")).collect();
        if first && text.is_empty() {
            text = format!("{now}\tnothing {}\n", self.what);
        }
        put(&text)
    }

    fn away(&mut self, failure: &Failure) -> Result<(), Failure> {
        if self.drawn {
            return self.draw(&format!("{} Trying again.", failure.0.message));
        }
        if !std::mem::replace(&mut self.away, true) {
            eprintln!("{} Trying again.", shown(&failure.0.message));
        }
        Ok(())
    }

    fn draw(&mut self, note: &str) -> Result<(), Failure> {
        let (rows, columns) = size();
        let screen = frame(&self.last.lines, &self.what, note, (rows, columns));
        if screen == self.screen {
            return Ok(());
        }
        put(&screen)?;
        self.screen = screen;
        Ok(())
    }
}

/// The terminal's rows and columns; 24 and 80 where it does not tell.
fn size() -> (usize, usize) {
    let told = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let told = told.filter(|size| size.ws_row > 0 && size.ws_col > 0);
    told.map_or((24, 80), |size| (size.ws_row.into(), size.ws_col.into()))
}

/// One write that replaces the screen: every line is overwritten and its rest erased, so that nothing is empty in between. Terminals that
/// know synchronised output (mode 2026) show it at once; others ignore that.
fn frame(lines: &[String], what: &str, note: &str, (rows, columns): (usize, usize)) -> String {
    let room = rows.saturating_sub(2).max(1);
    let fits = |line: &str| shown(line).chars().take(columns).collect::<String>();
    let mut all: Vec<String> = lines.iter().take(room).map(|line| fits(line)).collect();
    if lines.is_empty() {
        all.push(format!("Nothing {what}."));
    }
    if lines.len() > room {
        all.push(format!("… {} more lines", lines.len() - room));
    }
    let end = if note.is_empty() { "Ctrl-C ends this.".to_owned() } else { fits(note) };
    all.push(end);
    format!("\x1b[?2026h\x1b[H{}\x1b[K\x1b[J\x1b[?2026l", all.join("\x1b[K\r\n"))
}

/// What came, changed or went, a line each.
fn news(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let came = new.iter().filter(|(name, line)| old.get(*name) != Some(line)).map(|(_, line)| shown(line));
    let went =
        old.keys().filter(|name| !new.contains_key(*name)).map(|name| format!("{} is not here any more", shown(name)));
    came.chain(went).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn things(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(name, line)| ((*name).to_owned(), (*line).to_owned())).collect()
    }

    #[test]
    fn only_news_is_printed() {
        let before = things(&[("req_a", "req_a pending"), ("req_b", "req_b pending")]);
        let after = things(&[("req_b", "req_b pending"), ("req_c", "req_c \x1b[2J")]);
        assert_eq!(news(&before, &after), ["req_c \\x1b[2J", "req_a is not here any more"]);
        assert!(news(&after, &after).is_empty());
    }

    #[test]
    fn a_frame_fits_the_terminal_and_obeys_nobody() {
        let lines: Vec<String> = (0..50).map(|n| format!("line {n} \x1b[2J {}", "x".repeat(200))).collect();
        let text = frame(&lines, "waits", "", (10, 40));
        assert_eq!(text.matches("\r\n").count(), 9, "{text}");
        assert!(!text.contains("\x1b[2J") && text.contains("… 42 more lines"), "{text}");
        let rows: Vec<&str> = text.trim_start_matches("\x1b[?2026h\x1b[H").split("\x1b[K").collect();
        assert!(rows.iter().all(|row| row.trim_start_matches("\r\n").chars().count() <= 40), "{rows:?}");
        assert!(frame(&[], "waits for you", "", (24, 80)).contains("Nothing waits for you."));
    }
}
