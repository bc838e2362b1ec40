//! Asking the person at the terminal; never anybody else.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::failure::Failure;
use crate::domain::refusal::Code;

/// Set by `--no-input`.
static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// Makes every question of this run fail, and name the flag that would have answered it.
pub fn forbid() {
    FORBIDDEN.store(true, Ordering::Relaxed);
}

fn forbidden() -> bool {
    let silenced = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    FORBIDDEN.load(Ordering::Relaxed) || silenced("CI") || silenced("JIT_BROKER_NO_INPUT")
}

/// True when somebody may be asked: both ends are a terminal, and nothing says otherwise.
pub fn possible() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && !forbidden()
}

/// What is said where a question cannot be asked.
pub fn nobody(flag: &str) -> Failure {
    Failure::new(Code::USAGE, format!("Nobody can be asked here. Say it with {flag}."))
}

fn terminal() -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty")
}

fn line(terminal: &File) -> Result<String, Failure> {
    let mut text = String::new();
    let read = BufReader::new(terminal).read_line(&mut text).map_err(|e| Failure::local("the terminal", e))?;
    if read == 0 {
        return Err(Failure::new(Code::CANCELLED, "Cancelled."));
    }
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks on the terminal itself, whatever stdin is: for the ssh hook.
///
/// # Errors
/// [`Code::USAGE`] without a terminal.
pub fn on_terminal(question: &str, flag: &str) -> Result<String, Failure> {
    if forbidden() {
        return Err(nobody(flag));
    }
    let mut terminal = terminal().map_err(|_| nobody(flag))?;
    let _ = terminal.write_all(question.as_bytes());
    line(&terminal)
}

/// Asks for a line.
///
/// # Errors
/// [`Code::USAGE`], naming the flag that would have answered, when nobody can be asked.
pub fn ask(question: &str, flag: &str) -> Result<String, Failure> {
    if !possible() {
        return Err(nobody(flag));
    }
    on_terminal(question, flag)
}

/// Asks for yes or no; only `y` and `yes` are yes.
///
/// # Errors
/// As [`ask`].
pub fn confirm(question: &str, flag: &str) -> Result<bool, Failure> {
    let answer = ask(&format!("{question} [y/N] "), flag)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Asks for a secret, without echo.
///
/// # Errors
/// As [`ask`].
pub fn secret(question: &str, flag: &str) -> Result<zeroize::Zeroizing<String>, Failure> {
    if forbidden() {
        return Err(nobody(flag));
    }
    let mut terminal = terminal().map_err(|_| nobody(flag))?;
    let before = tcgetattr(&terminal).map_err(|e| Failure::local("the terminal", e))?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    let _ = terminal.write_all(question.as_bytes());
    tcsetattr(&terminal, OptionalActions::Flush, &quiet).map_err(|e| Failure::local("the terminal", e))?;
    let answer = line(&terminal);
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &before);
    let _ = terminal.write_all(b"\n");
    answer.map(zeroize::Zeroizing::new)
}
