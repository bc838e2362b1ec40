//! `--watch`, in a pipe and in a terminal.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::served::Served;
use crate::terminal::Terminal;
use crate::world::World;

/// A command whose lines are read as they come.
struct Lines {
    child: Child,
    lines: Receiver<String>,
}

impl Lines {
    fn of(world: &World, who: &str, line: &str) -> Self {
        Self::run(world.command(who, &format!("exec {line}")))
    }

    fn run(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        Self { child, lines }
    }

    #[track_caller]
    fn next(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(20)).unwrap()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(world: &World, reason: &str) -> String {
    let line = format!("jit-broker -o json request web-07 --for 30m --reason '{reason}' --no-wait");
    world.run("alice", &line).json()["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_pipe_gets_a_line_for_what_comes_and_goes_and_nothing_else() {
    let world = World::start();
    let watching = Lines::of(&world, "bob", "jit-broker pending --watch");
    assert!(watching.next().ends_with("\tnothing waits for you"));
    let json = Lines::of(&world, "bob", "jit-broker -o json pending --watch");
    let empty: serde_json::Value = serde_json::from_str(&json.next()).unwrap();
    assert_eq!(
        (empty["schema"].as_str(), empty["items"].as_array().unwrap().len()),
        (Some("jit-broker/request-list/v1"), 0)
    );
    let id = ask(&world, "hotfix for OPS-1");
    let line = watching.next();
    assert!(line.contains(&id) && line.contains("deploy on web-07") && !line.contains('\x1b'), "{line}");
    let one: serde_json::Value = serde_json::from_str(&json.next()).unwrap();
    assert_eq!(one["items"][0]["id"], id.as_str());
    world.run("alice", &format!("jit-broker withdraw {id}")).ok();
    assert!(watching.next().ends_with(&format!("{id} is not here any more")));
    assert_eq!(watching.lines.try_recv().ok(), None);
}

#[test]
fn a_terminal_is_redrawn_in_place_and_is_as_before_at_the_end() {
    let world = World::start();
    let mut watching = Terminal::open(&world, "bob", "jit-broker pending --watch");
    watching.sees("\x1b[?1049h");
    watching.sees("Nothing waits for you.");
    let id = ask(&world, "hotfix for OPS-1");
    let code = world.run("bob", &format!("jit-broker -o json show {id}")).json()["code"].as_str().unwrap().to_owned();
    watching.sees(&code);
    watching.sees("just now");
    watching.types("\u{3}");
    let (status, screen) = watching.ends();
    assert_eq!(status, Some(130), "{screen}");
    let (drawn, after) = screen.rsplit_once("\x1b[?1049l").unwrap();
    assert!(after.contains(&code), "what was there last is left to read: {after}");
    assert_eq!(drawn.matches("\x1b[2J").count(), 1, "the screen is erased once, and then written over");
    assert!(drawn.contains("\x1b[?25l") && screen.contains("\x1b[?25h"), "{screen}");
    // What one has, likewise.
    let mut alice = Terminal::open(&world, "alice", "jit-broker status --watch");
    alice.sees("waits for bob");
    world.run("bob", &format!("jit-broker approve {code}")).ok();
    alice.sees("29m5");
    alice.types("\u{3}");
    assert_eq!(alice.ends().0, Some(130));
}

/// Sessions live in the broker's memory: each restart ends them.
#[test]
fn a_watch_signs_in_again_as_often_as_it_must() {
    let mut served = Served::init();
    served.serve();
    served.adopt();
    served.sign_in("alice");
    let watching = Lines::run(served.command("alice", "exec jit-broker status --watch"));
    watching.next();
    for for_s in [600, 1200, 1800] {
        served.kill();
        served.serve();
        let grant = served.client(&served.alice).unwrap().ask(for_s).unwrap();
        assert!(watching.next().contains(&grant.to_string()));
    }
}
