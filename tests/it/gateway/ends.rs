//! The end is the end: of the window, by a word, by the daemon's stop.

use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use jit_broker::domain::session::SessionCause;

use super::world::{Gw, Pass, put, until};
use crate::world::Done;

/// The longest that anything may pass after an end.
const LIMIT: Duration = Duration::from_secs(2);

/// A client that has begun to run something.
struct Busy {
    child: Child,
    seen: std::sync::mpsc::Receiver<(Instant, Vec<u8>)>,
}

impl Busy {
    fn start(world: &Gw, pass: &Pass, arguments: &[&str]) -> Self {
        let mut command = world.client("ssh", Some(pass));
        let mut child = command.args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let (sender, seen) = std::sync::mpsc::channel();
        let mut stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = stdout.read(&mut bytes)
                && length > 0
            {
                let _ = sender.send((Instant::now(), bytes[..length].to_vec()));
            }
        });
        Self { child, seen }
    }

    fn wait_for(&self, text: &str) {
        let (begun, mut all) = (Instant::now(), Vec::new());
        while !String::from_utf8_lossy(&all).contains(text) {
            assert!(begun.elapsed() < Duration::from_secs(15), "no {text}: {}", String::from_utf8_lossy(&all));
            if let Ok((_, bytes)) = self.seen.recv_timeout(Duration::from_millis(50)) {
                all.extend(bytes);
            }
        }
    }

    /// Waits for its end: what it said since, when it said the last of it, and how it ended.
    fn ended(mut self, since: Instant) -> (Done, Duration, String) {
        drop(self.child.stdin.take());
        let done: Done = self.child.wait_with_output().unwrap().into();
        let (mut last, mut said) = (since, Vec::new());
        while let Ok((at, bytes)) = self.seen.recv_timeout(Duration::from_secs(1)) {
            last = last.max(at);
            said.extend(bytes);
        }
        (done, last.duration_since(since), String::from_utf8_lossy(&said).into_owned())
    }
}

/// Everything that a session can be busy with when it ends.
fn busy(world: &Gw, pass: &Pass) -> Vec<(&'static str, Busy)> {
    let ticking = Busy::start(world, pass, &["gateway", "while :; do echo tick; sleep 0.1; done"]);
    ticking.wait_for("tick");
    let sleeping = Busy::start(world, pass, &["gateway", "echo on; sleep 3600"]);
    sleeping.wait_for("on");
    let mut shell = Busy::start(world, pass, &["-tt", "gateway"]);
    shell.child.stdin.as_mut().unwrap().write_all(b"echo o$((0))n\n").unwrap();
    shell.wait_for("o0n");
    let flood = Busy::start(world, pass, &["gateway", "echo on; cat > /dev/null"]);
    flood.wait_for("on");
    vec![("ticking", ticking), ("sleeping", sleeping), ("shell", shell), ("upload", flood)]
}

fn all_cut(world: &Gw, pass: &Pass, cause: SessionCause, word: &str, end: impl FnOnce()) {
    let sessions = busy(world, pass);
    let begun = Instant::now();
    end();
    let came = Instant::now();
    for (what, busy) in sessions {
        let (done, last, said) = busy.ended(came);
        assert!(last < LIMIT, "{what}: a byte passed {last:?} after the end");
        assert_eq!(done.code, Some(254), "{what}: {done:?}");
        let line = if what == "shell" { &said } else { &done.err };
        assert!(line.contains(word), "{what}: {done:?} {said}");
    }
    assert!(begun.elapsed() < LIMIT + Duration::from_secs(1), "{:?}", begun.elapsed());
    until(LIMIT, "all ends", || world.ends(pass.grant).len() == 4);
    for (session, end) in world.ends(pass.grant) {
        assert_eq!(end.cause, cause);
        assert!(end.late_ms.is_some_and(|late| late < 2000), "{end:?}");
        world.store.verify(session, end.recording.as_ref().unwrap()).unwrap();
    }
    let after = world.ssh(pass, &["echo again"]);
    assert_ne!(after.code, Some(0));
    assert_eq!(after.out, "");
}

#[test]
fn the_windows_end_cuts_whatever_is_going_on() {
    let world = Gw::start();
    let pass = world.pass("all", 600);
    all_cut(&world, &pass, SessionCause::WindowEnd, "the window ended at", || world.clock.advance(600));
}

#[test]
fn a_revocation_cuts_whatever_is_going_on() {
    let world = Gw::start();
    let pass = world.pass("all", 600);
    all_cut(&world, &pass, SessionCause::Revoked, "the grant was revoked", || world.revoke(pass.grant));
}

#[test]
fn a_master_connection_opens_nothing_after_the_end() {
    let world = Gw::start();
    let pass = world.pass("all", 600);
    let socket = world.dir.join("cm");
    let path = format!("ControlPath={}", socket.display());
    let mut master = world.client("ssh", Some(&pass));
    let mut master = master.args(["-M", "-N", "-o", &path, "gateway"]).spawn().unwrap();
    until(Duration::from_secs(10), "the master", || socket.exists());
    let through = |arguments: &[&str]| -> Done {
        let mut command = world.client("ssh", None);
        command.args(["-o", &path, "gateway"]).args(arguments).output().unwrap().into()
    };
    for _ in 0..20 {
        assert_eq!(through(&["echo one"]).ok(), "one\n");
    }
    world.clock.advance(600);
    let mut after = through(&["echo two"]);
    let begun = Instant::now();
    while after.out == "two\n" && begun.elapsed() < LIMIT {
        after = through(&["echo two"]);
    }
    assert!(after.out.is_empty() && after.code != Some(0), "{after:?}");
    until(LIMIT, "the master's end", || master.try_wait().unwrap().is_some());
    assert_eq!(world.end(pass.grant).1.cause, SessionCause::WindowEnd);
}

#[test]
fn an_upload_and_a_client_that_does_not_read_are_cut_as_well() {
    let world = Gw::start();
    let pass = world.pass("all", 600);
    std::fs::File::create(world.dir.join("big")).unwrap().set_len(4 << 30).unwrap();
    put(&world.dir.join("batch"), &format!("put {0}/big {0}/copy\n", world.dir.display()));
    let mut sftp = world.client("sftp", Some(&pass));
    let sftp = sftp.arg("-b").arg(world.dir.join("batch")).arg("gateway").spawn().unwrap();
    until(Duration::from_secs(10), "the copy", || world.dir.join("copy").metadata().is_ok_and(|m| m.len() > 1 << 20));
    // Nobody reads what this one says, so its window and its sockets are full.
    let mut stalled = world.client("ssh", Some(&pass));
    let mut stalled = stalled.args(["gateway", "yes"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    world.clock.advance(600);
    let begun = Instant::now();
    let done: Done = sftp.wait_with_output().unwrap().into();
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert_ne!(done.code, Some(0));
    until(LIMIT, "both ends", || world.ends(pass.grant).len() == 2);
    let size = world.dir.join("copy").metadata().unwrap().len();
    assert!(world.ends(pass.grant).iter().all(|(_, end)| end.cause == SessionCause::WindowEnd));
    let _ = stalled.kill();
    let _ = stalled.wait();
    assert_eq!(world.dir.join("copy").metadata().unwrap().len(), size, "nothing is written any more");
}

#[test]
fn a_stop_gives_a_moment_and_then_seals() {
    let mut world = Gw::start();
    let pass = world.pass("work", 600);
    let shell = Busy::start(&world, &pass, &["-tt", "gateway", "echo on; sleep 3600"]);
    shell.wait_for("on");
    let port = world.port;
    let took = world.close();
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(13), "{took:?}");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "nobody is let in any more");
    let (done, _, said) = shell.ended(Instant::now());
    assert_eq!(done.code, Some(254), "{done:?}");
    assert!(said.contains("is stopping") && said.contains("the broker stopped"), "{said}");
    assert_eq!(world.end(pass.grant).1.cause, SessionCause::Drained);
}

#[test]
fn a_stop_waits_for_no_stranger() {
    let mut world = Gw::start();
    let strangers: Vec<_> = [&b""[..], b"SSH-2.0-x\r\n", b"SSH-2.0-x\r\n\0\0\x01"]
        .into_iter()
        .map(|said| {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", world.port)).unwrap();
            std::io::Write::write_all(&mut stream, said).unwrap();
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let took = world.close();
    assert!(took < Duration::from_secs(2), "{took:?}");
    drop(strangers);
}

#[test]
fn a_stop_gives_no_more_than_the_window() {
    let mut world = Gw::start();
    let pass = world.pass("work", 600);
    let shell = Busy::start(&world, &pass, &["-tt", "gateway", "echo on; sleep 3600"]);
    shell.wait_for("on");
    world.clock.advance(596);
    let took = world.close();
    assert!(took < Duration::from_secs(7), "{took:?}");
    let (done, ..) = shell.ended(Instant::now());
    assert_eq!(done.code, Some(254), "{done:?}");
    let cause = world.end(pass.grant).1.cause;
    assert!([SessionCause::Drained, SessionCause::WindowEnd].contains(&cause), "{cause:?}");
}

#[test]
fn an_overlapping_grant_keeps_the_connection_and_what_it_opens() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let socket = world.dir.join("cm");
    let path = format!("ControlPath={}", socket.display());
    let mut master = world.client("ssh", Some(&pass));
    let mut master = master.args(["-M", "-N", "-o", &path, "gateway"]).spawn().unwrap();
    until(Duration::from_secs(10), "the master", || socket.exists());
    world.clock.advance(590);
    let longer = world.granted("work", 900).0;
    world.clock.advance(20);
    let ended = || world.run(world.broker().memory()).state.grants.get(&pass.grant).is_some_and(|grant| grant.over());
    until(LIMIT, "the end of the first grant", ended);
    let mut command = world.client("ssh", None);
    let done: Done = command.args(["-o", &path, "gateway", "echo on"]).output().unwrap().into();
    assert_eq!(done.ok(), "on\n", "a channel with the second certificate");
    world.clock.advance(900);
    until(LIMIT, "the master's end", || master.try_wait().unwrap().is_some());
    assert_eq!(world.end(longer).1.cause, SessionCause::WindowEnd);
}
