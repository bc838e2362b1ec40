//! The program as somebody types it: how long a command takes, how soon a broker serves, and what it holds while nothing happens.
//!
//! `cargo bench --bench program [-- ROUNDS]`. Broker and commands are the built program. Medians; `/bin/true` tells what starting anything
//! costs here.
#![allow(clippy::unwrap_used, dead_code)]

#[path = "../tests/it/served.rs"]
mod served;
mod table;
mod world;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use served::{PROGRAM, Served};
use table::{Figure, at, row};

/// How long a command takes, in milliseconds; it must succeed.
fn took(command: &mut Command) -> f64 {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    assert!(command.status().unwrap().success(), "{command:?}");
    begun.elapsed().as_secs_f64() * 1e3
}

/// A command of alice's.
fn hers(served: &Served, args: &[&str]) -> Command {
    let home = served.dir.join("alice");
    let mut command = Command::new(PROGRAM);
    command.args(args).env("HOME", &home).env("JIT_BROKER_HOME", home.join("jit")).env("JIT_BROKER_NO_INPUT", "1");
    command.env_remove("SSH_AUTH_SOCK");
    command
}

fn commands(served: &Served, rounds: usize) {
    let nothing: Vec<f64> = (0..rounds).map(|_| took(&mut Command::new("/bin/true"))).collect();
    let version: Vec<f64> = (0..rounds).map(|_| took(&mut hers(served, &["--version"]))).collect();
    let seen = format!("{:.1} ms (/bin/true {:.1} ms)", at(&version, 50), at(&nothing, 50));
    let met = Some(at(&version, 50) <= 5.0);
    row(&Figure { what: "`jit-broker --version`", seen, aim: "≤ 5 ms", met });
    let mut first = Vec::new();
    let mut again = Vec::new();
    let mut hook = Vec::new();
    for _ in 0..rounds {
        took(&mut hers(served, &["request", "web-07", "--role", "ops", "--for", "30m"]));
        first.push(took(&mut hers(served, &["login", "web-07", "--role", "ops"])));
        again.push(took(&mut hers(served, &["login", "web-07", "--role", "ops"])));
        hook.push(took(&mut hers(served, &["hook", "ssh", "web-07", "ops"])));
        // 10: what the host has not confirmed yet is over all the same.
        let released = hers(served, &["release", "--all"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(matches!(released.unwrap().code(), Some(0 | 10)));
    }
    let seen = format!(
        "{:.1} ms, p95 {:.1} ms, with an entry that is on the disk; {:.1} ms where there is one already",
        at(&first, 50),
        at(&first, 95),
        at(&again, 50)
    );
    let what = "`jit-broker login`: a certificate under a grant that was approved";
    row(&Figure { what, seen, aim: "≤ 25 ms (bao 115 ms)", met: Some(at(&first, 50) <= 25.0) });
    let seen = format!("{:.1} ms, p95 {:.1} ms", at(&hook, 50), at(&hook, 95));
    let met = Some(at(&hook, 50) <= 10.0);
    row(&Figure {
        what: "what ssh runs before it connects, with a certificate that holds", seen, aim: "≤ 10 ms", met
    });
}

fn starts(served: &mut Served, rounds: usize) {
    let grant = served.client(&served.alice).unwrap().ask(8 * 3600).unwrap();
    let (mut listens, mut certifies, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        served.stop();
        let begun = Instant::now();
        served.serve();
        listens.push(begun.elapsed().as_secs_f64() * 1e3);
        served.client(&served.alice).unwrap().certificate(grant).unwrap();
        certifies.push(begun.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(Duration::from_secs(2));
        idle.push(resident_mb(served.server.as_ref().unwrap().id()));
    }
    let seen = format!("{:.0} ms, sign-in included; listening after {:.0} ms", at(&certifies, 50), at(&listens, 50));
    let met = Some(at(&certifies, 50) <= 60.0);
    row(&Figure {
        what: "start of the broker to its first certificate",
        seen,
        aim: "≤ 60 ms (OpenBao 130–285 ms)",
        met,
    });
    let seen = format!("{:.1} MB", at(&idle, 50));
    let met = Some(at(&idle, 50) <= 25.0);
    row(&Figure { what: "memory of the idle broker, signer included", seen, aim: "≤ 25 MB (OpenBao 121 MB)", met });
}

fn resident_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn main() {
    let rounds = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(25_usize);
    let mut served = Served::init();
    served.serve();
    served.adopt();
    served.sign_in("alice");
    commands(&served, rounds);
    starts(&mut served, rounds.min(7));
}
