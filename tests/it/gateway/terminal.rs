//! A real terminal (tmux) with a real shell, vim and less behind the gateway: what a person sees.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use jit_broker::domain::session::SessionCause;
use jit_broker::record::Stored;

use super::asking::waiting;
use super::world::{Gw, Pass, TARGET, put, until};
use crate::world::Done;

const SOON: Duration = Duration::from_secs(20);

/// A terminal of 100 by 30 without anybody before it, whose keys are sent and whose picture is read.
struct Terminal {
    dir: PathBuf,
}

impl Terminal {
    /// Opens one with `ssh` by the certificate of a pass in it.
    fn open(world: &Gw, pass: &Pass) -> Self {
        let dir = world.dir.display();
        let terminal = Self::run(world, &format!("ssh -F '{dir}/config' -i '{}' gateway", pass.key.display()));
        terminal.types("exec env LC_ALL=C.UTF-8 PS1='rea''dy> ' bash --norc --noprofile");
        terminal.sees("ready>");
        terminal
    }

    /// Opens one with a program in it.
    fn run(world: &Gw, program: &str) -> Self {
        let terminal = Self { dir: world.dir.clone() };
        put(
            &world.dir.join("tmux.conf"),
            "set -g remain-on-exit on\nset -g status off\nset -sg escape-time 0\nset -g default-terminal screen-256color\n",
        );
        // A file, as tmux does not always say what a pane's program ended with.
        let dir = world.dir.display();
        let program = format!("{program}; echo $? > '{dir}/status'");
        terminal.tmux(&["new-session", "-d", "-s", "main", "-x", "100", "-y", "30", &program]);
        terminal
    }

    #[track_caller]
    fn tmux(&self, arguments: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.arg("-L").arg("jit").arg("-f").arg(self.dir.join("tmux.conf")).args(arguments);
        tmux.env("TMUX_TMPDIR", &self.dir).env("LC_ALL", "C.UTF-8").env("SHELL", "/bin/sh");
        tmux.env_remove("TMUX").env_remove("SSH_AUTH_SOCK");
        let output = tmux.output().expect("tmux is missing: apt-get install tmux, or make setup");
        Done::from(output).ok()
    }

    /// Types a line.
    #[track_caller]
    fn types(&self, line: &str) {
        self.tmux(&["send-keys", "-t", "main", "-l", line]);
        self.press("Enter");
    }

    #[track_caller]
    fn press(&self, key: &str) {
        self.tmux(&["send-keys", "-t", "main", key]);
    }

    /// What is on the screen.
    #[track_caller]
    fn picture(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", "main"])
    }

    #[track_caller]
    fn sees(&self, what: &str) {
        let mut picture = String::new();
        let begun = std::time::Instant::now();
        while !picture.contains(what) {
            assert!(begun.elapsed() < SOON, "{what} never appeared in\n{picture}");
            std::thread::sleep(Duration::from_millis(20));
            picture = self.picture();
        }
    }

    /// What ssh ended with.
    fn status(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.dir.join("status")).ok()?;
        text.strip_suffix('\n').map(str::to_owned)
    }

    /// A variable of tmux's formats.
    #[track_caller]
    fn is(&self, variable: &str) -> String {
        self.tmux(&["display-message", "-p", "-t", "main", &format!("#{{{variable}}}")]).trim().to_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut tmux = Command::new("tmux");
        let _ = tmux.args(["-L", "jit", "kill-server"]).env("TMUX_TMPDIR", &self.dir).output();
    }
}

#[test]
fn full_screen_programs_work_and_sizes_follow() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let terminal = Terminal::open(&world, &pass);
    terminal.types("stty size; echo $TERM");
    terminal.sees("30 100\nscreen-256color\n");
    let file = world.dir.join("letter");
    terminal.types(&format!("vim -u NONE -N '{}'", file.display()));
    terminal.sees("[New");
    assert_eq!(terminal.is("alternate_on"), "1");
    terminal.press("i");
    terminal.types("seen through the gateway: äöü €");
    terminal.sees("seen through the gateway: äöü €\n");
    terminal.press("Escape");
    // The program behind is told of a new size, and draws to it.
    terminal.tmux(&["resize-window", "-t", "main", "-x", "130", "-y", "44"]);
    until(SOON, "the new size in vim", || {
        terminal.types(":set columns? lines?");
        std::thread::sleep(Duration::from_millis(100));
        let picture = terminal.picture();
        picture.contains("columns=130") && picture.contains("lines=44")
    });
    terminal.types(":redraw");
    terminal.types(":wq");
    until(SOON, "the shell's screen", || terminal.is("alternate_on") == "0");
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("seen through the gateway: äöü €\n"));
    terminal.types("clear; stty size");
    terminal.sees("44 130");
    let long: String = (1..=5000).map(|n| format!("line {n}\n")).collect();
    put(&world.dir.join("long"), &long);
    terminal.types(&format!("less '{}/long'", world.dir.display()));
    terminal.sees("line 1\nline 2\n");
    terminal.press("Space");
    terminal.sees("line 44\n");
    terminal.press("G");
    terminal.sees("line 4999\nline 5000\n");
    terminal.press("g");
    terminal.sees("line 1\nline 2\n");
    terminal.press("q");
    until(SOON, "the shell's screen", || terminal.is("alternate_on") == "0");
    // A program that gives the terminal back may throw away what was typed meanwhile: then it is typed again.
    let over = || terminal.status().is_some_and(|status| status == "7");
    for _ in 0..3 {
        let typed = Instant::now();
        terminal.types("exit 7");
        while !over() && typed.elapsed() < SOON / 3 {
            std::thread::sleep(Duration::from_millis(20));
        }
        if over() {
            break;
        }
    }
    assert!(over(), "{}", terminal.picture());
    let (session, end) = world.end(pass.grant);
    let sizes: Vec<_> = world
        .recorded(session, &end)
        .into_iter()
        .filter_map(|frame| match frame.what {
            Stored::Resize { cols, rows } => Some((cols, rows)),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [(130, 44)]);
}

#[test]
fn a_shell_is_warned_in_words_and_a_full_screen_program_by_the_bell() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let terminal = Terminal::open(&world, &pass);
    world.clock.advance(301);
    terminal.sees("\njit-broker: this session ends in 4m59s\n");
    terminal.press("Enter");
    terminal.types("echo st''ill here");
    terminal.sees("\nstill here\n");
    let file = world.dir.join("letter");
    terminal.types(&format!("vim -u NONE -N '{}'", file.display()));
    terminal.sees("[New");
    terminal.press("i");
    terminal.tmux(&["send-keys", "-t", "main", "-l", "in the middle of a word"]);
    terminal.sees("in the middle of a word");
    let before = terminal.picture();
    let cursor = || (terminal.is("cursor_x"), terminal.is("cursor_y"));
    let stood = cursor();
    assert_eq!(terminal.is("window_bell_flag"), "0");
    world.clock.advance(240);
    until(SOON, "the bell", || terminal.is("window_bell_flag") == "1");
    assert_eq!((terminal.picture(), cursor()), (before, stood), "the picture is as it was");
    terminal.tmux(&["send-keys", "-t", "main", "-l", " and on"]);
    terminal.sees("in the middle of a word and on\n");
    // The end, with a full-screen program still there: the last line stands on the screen that the shell was on.
    world.clock.advance(59);
    until(SOON, "the end", || terminal.status().is_some());
    let picture = terminal.picture();
    assert_eq!(terminal.status().unwrap(), "254", "{picture}");
    assert_eq!(terminal.is("alternate_on"), "0");
    assert!(picture.contains("\nstill here\n") && picture.contains("jit-broker: the window ended at "), "{picture}");
    assert!(!picture.contains("in the middle"), "{picture}");
    let (session, end) = world.end(pass.grant);
    assert_eq!(end.cause, SessionCause::WindowEnd);
    let notes: Vec<String> = world
        .recorded(session, &end)
        .into_iter()
        .filter_map(|frame| match frame.what {
            Stored::Note(text) => Some(text),
            _ => None,
        })
        .collect();
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[0].contains("4m59s") && notes[1].contains("59s") && notes[2].contains("window ended"), "{notes:?}");
}

#[test]
fn a_terminal_that_changed_while_somebody_was_asked_has_its_size() {
    let world = Gw::start();
    world.adopt_attested();
    let (dir, login) = (world.dir.display(), &world.login);
    let ssh = format!("ssh -F '{dir}/config' -i '{dir}/alice/id_ed25519' -o 'User={login}%{TARGET}' gateway");
    let terminal = Terminal::run(&world, &ssh);
    terminal.sees("Why do you need it?");
    terminal.types("hotfix for OPS-1");
    terminal.sees("For how long?");
    terminal.types("10m");
    terminal.sees("Waiting");
    terminal.tmux(&["resize-window", "-t", "main", "-x", "90", "-y", "20"]);
    // What is typed after it is heard after it: this key only wakes the one who waits.
    terminal.press("x");
    world.agree(waiting(&world));
    terminal.sees("Agreed to by bob");
    terminal.types("stty size");
    terminal.sees("20 90\n");
}
