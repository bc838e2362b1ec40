//! The log cannot be written when a session ends: the end reaches it as soon as it can be, without a restart.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::clocks::pass;
use super::page::{ENOSPC, Fault};
use super::site::Site;
use crate::served::eventually;

/// A session is broken off while nothing can be written.
fn ends_unlogged(site: &Site, path: &Path) {
    let mut child = site.ssh(path, "echo in; cat").stdin(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    site.shim.arm(Fault { first: 1, once: false, error: ENOSPC });
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("it is tried", || site.said().contains("the end was not logged"));
}

#[test]
fn the_end_of_a_session_reaches_the_log_however_long_that_takes() {
    let mut site = Site::start(false);
    site.serve(true).unwrap();
    let (grant, path) = pass(&site, &site.served.client(&site.served.alice).unwrap(), "pass", 45);
    ends_unlogged(&site, &path);
    // Longer than anybody would wait who gives up after some tries.
    std::thread::sleep(Duration::from_secs(25));
    assert!(site.story().closed.is_empty());
    site.shim.disarm();
    eventually("the end is logged", || site.story().closed.len() == 1);
    let alice = site.served.client(&site.served.alice).unwrap();
    let state = || alice.call("GET", &format!("/v1/grants/{grant}"), None).unwrap()["state"].clone();
    eventually("the grant is ended", || state() == "ended");
    drop(alice);
    assert!(site.stop(), "{}", site.said());
}

/// A stop waits for it as well, and not for ever; the next start knows how it ended.
#[test]
fn a_stop_does_not_wait_for_ever_for_a_log_that_cannot_be_written() {
    let mut site = Site::start(false);
    site.serve(true).unwrap();
    let (_, path) = pass(&site, &site.served.client(&site.served.alice).unwrap(), "pass", 3600);
    ends_unlogged(&site, &path);
    site.stop();
    site.shim.disarm();
    assert!(site.story().closed.is_empty());
    site.serve(false).unwrap();
    assert_eq!(site.story().closed.len(), 1);
    assert!(site.stop());
}

/// From one write of a session's beginning on nothing can be written, and soon it can be again. About the twentieth is the first that finds
/// the session in the log.
#[test]
fn what_was_opened_in_the_log_is_closed_there() {
    let mut site = Site::start(false);
    site.serve(true).unwrap();
    let (_, path) = pass(&site, &site.served.client(&site.served.alice).unwrap(), "pass", 3600);
    let mut opened = 0;
    for first in 12..30 {
        site.shim.arm(Fault { first, once: false, error: ENOSPC });
        site.ssh(&path, "true").output().unwrap();
        site.shim.disarm();
        eventually(&format!("closed, without the writes from {first} on: {}", site.shim.what()), || {
            let story = site.story();
            opened = story.sessions.len();
            story.sessions.keys().all(|session| story.closed.contains_key(session))
        });
    }
    assert!(opened > 3, "{opened}");
    assert!(site.stop(), "{}", site.said());
}
