//! Whoever stops reading holds up nobody else, and costs a bounded amount of memory.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::world::{Gw, until};
use crate::world::Done;

/// Resident memory of this process, the gateway in it, in MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Runs a test in a process of its own, whose memory is its own as well. True in that process.
fn alone(test: &str) -> bool {
    if std::env::var_os("JIT_ALONE").is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", &format!("gateway::bounds::{test}")]).env("JIT_ALONE", "1");
    let done: Done = command.output().unwrap().into();
    assert!(done.code == Some(0) && done.out.contains("1 passed"), "{}\n{}", done.out, done.err);
    false
}

/// A command that says again what is typed, and how long that took each time.
struct Echo {
    child: Child,
    took: Vec<Duration>,
}

impl Echo {
    fn start(command: &mut Command) -> Self {
        Self { child: command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap(), took: Vec::new() }
    }

    fn echoes(&mut self, times: usize) {
        let (stdin, stdout) = (self.child.stdin.as_mut().unwrap(), self.child.stdout.as_mut().unwrap());
        for _ in 0..times {
            let typed = Instant::now();
            stdin.write_all(b"x").unwrap();
            stdout.read_exact(&mut [0]).unwrap();
            self.took.push(typed.elapsed());
        }
    }

    fn median(&mut self) -> Duration {
        self.took.sort();
        self.took[self.took.len() / 2]
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

#[test]
fn a_target_that_takes_nothing_holds_up_no_other_channel() {
    if !alone("a_target_that_takes_nothing_holds_up_no_other_channel") {
        return;
    }
    let world = Gw::start();
    let pass = world.pass("all", 600);
    let socket = format!("ControlPath={}", world.dir.join("cm").display());
    let mut master = world.client("ssh", Some(&pass));
    let mut master = master.args(["-M", "-N", "-o", &socket, "gateway"]).spawn().unwrap();
    until(Duration::from_secs(10), "the master", || world.dir.join("cm").exists());
    let mut stuck = world.client("ssh", None);
    let mut stuck = stuck.args(["-o", &socket, "gateway", "sleep 3600"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = stuck.stdin.take().unwrap();
    let before = resident_mib();
    let (sent, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let block = vec![7u8; 1 << 20];
        for n in 1..=600 {
            if stdin.write_all(&block).is_err() {
                return;
            }
            let _ = sent.send(n);
        }
        // The end of the input is not sent while somebody still looks.
        std::thread::sleep(Duration::from_secs(60));
    });
    let mut typed = Echo::start(world.client("ssh", None).args(["-o", &socket, "gateway", "cat"]));
    let begun = Instant::now();
    let (mut reached, mut most, mut slowest) = (0, before, Duration::ZERO);
    while reached < 600 && begun.elapsed() < Duration::from_secs(120) {
        while let Ok(n) = seen.try_recv() {
            reached = n;
        }
        most = most.max(resident_mib());
        let asked = Instant::now();
        let mut other = world.client("ssh", None);
        let done: Done = other.args(["-o", &socket, "gateway", "echo quick"]).output().unwrap().into();
        assert_eq!(done.ok(), "quick\n");
        typed.echoes(20);
        if asked.elapsed() > slowest {
            slowest = asked.elapsed();
            eprintln!("{reached} MiB after {:?}: {slowest:?}", begun.elapsed());
        }
    }
    assert_eq!(reached, 600, "what is sent is taken");
    assert!(slowest < Duration::from_secs(5), "another channel took {slowest:?}");
    // A channel whose turn came after a window of the stuck one would have waited 64 ms.
    let median = typed.median();
    assert!(median < Duration::from_millis(20), "what is typed beside it comes back after {median:?}");
    assert!(most - before < 64, "{before} MiB before, {most} MiB at most");
    eprintln!(
        "600 MiB to a target that takes nothing: {} MiB more, other channels {slowest:?} at most, typing {median:?}",
        most - before
    );
    let _ = (stuck.kill(), stuck.wait(), master.kill(), master.wait());
}

#[test]
fn a_client_that_stops_reading_stops_only_its_own_target() {
    if !alone("a_client_that_stops_reading_stops_only_its_own_target") {
        return;
    }
    let world = Gw::start();
    let pass = world.pass("all", 600);
    let before = resident_mib();
    let mut stalled = world.client("ssh", Some(&pass));
    let mut stalled = stalled.args(["gateway", "yes"]).spawn().unwrap();
    let mut last = 0;
    // Until nothing moves any more.
    until(Duration::from_secs(20), "standstill", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = world.recording_bytes();
        std::mem::replace(&mut last, now) == now && now > 0
    });
    assert_eq!(world.ssh(&pass, &["echo quick"]).ok(), "quick\n");
    let more = resident_mib().saturating_sub(before);
    assert!(more < 48, "{more} MiB more");
    let _ = (stalled.kill(), stalled.wait());
}
