//! The n-th write fails, for every n: what clients were told holds, and the broker starts again by itself.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;

use regex::Regex;

use super::page::{EIO, ENOSPC, Fault, Shim};
use super::site::{Seen, Site, judge};
use crate::world::Done;

/// The folders that a run changes.
const CHANGED: [&str; 4] = ["disk", "alice", "bob", "root-admin"];

fn copy(from: &Path, to: &Path) {
    for name in CHANGED {
        let _ = std::fs::remove_dir_all(to.join(name));
        assert!(Command::new("cp").arg("-a").arg(from.join(name)).arg(to).status().unwrap().success());
    }
}

/// What a refused person or operator is told: what it is called, and what to do.
#[track_caller]
fn told(what: &str, text: &str) {
    let code = Regex::new(r"\bJB\d{4}\b").unwrap();
    assert!(
        code.is_match(text) && (text.contains("next:") || text.contains("\"hint\":")),
        "{what} has no code or no next step: {text:?}"
    );
    assert!(!text.contains("panicked"), "{what}: {text}");
}

struct Run<'a> {
    site: &'a Site,
    seen: Seen,
    /// What commands that did not do their work said.
    refusals: RefCell<Vec<String>>,
}

impl<'a> Run<'a> {
    fn new(site: &'a Site) -> Self {
        Self { site, seen: Seen::default(), refusals: RefCell::default() }
    }

    /// A person's command; gives its answer where it did its work.
    #[track_caller]
    fn cli(&self, who: &str, line: &str) -> Option<Done> {
        let done = self.site.served.cli(who, line);
        // 10: done, and some host has not said yet that it knows.
        if matches!(done.code, Some(0 | 10)) {
            return Some(done);
        }
        told(line, &done.err);
        self.refusals.borrow_mut().push(format!("{line}: {}", done.err));
        None
    }

    fn json(&self, who: &str, line: &str) -> Option<serde_json::Value> {
        self.cli(who, line).map(|done| serde_json::from_str(&done.out).unwrap())
    }

    /// What a person does in a day: signs in, asks, is agreed to, works through the gateway, takes a certificate; and both are ended.
    fn day(&mut self) {
        let served = &self.site.served;
        for who in ["alice", "bob"] {
            let done = served.try_sign_in(who);
            if done.code != Some(0) {
                told("auth login", &done.err);
            }
        }
        let (path, _) = self.site.key("pass");
        let asked = "jit-broker -o json request gw-07 --role work --for 15m --reason 'hotfix for OPS-1' --no-wait";
        let granted = |doc: &serde_json::Value| Some(doc["grant_id"].as_str()?.parse().unwrap());
        // What a disk that died kept from being ended is still granted: the same request again is that one.
        let grant = self.json("alice", asked).and_then(|doc| {
            let approve = || self.json("bob", &format!("jit-broker -o json approve {}", doc["id"].as_str()?));
            granted(&doc).or_else(|| granted(&approve()?))
        });
        if let Some(grant) = grant {
            self.seen.grants.insert(grant);
            let line = "jit-broker cert gw-07 --role work --key ../pass.pub --out ../pass-cert.pub --no-wait";
            if self.cli("alice", line).is_some() {
                let text = std::fs::read_to_string(served.dir.join("pass-cert.pub")).unwrap();
                self.seen.certificates.push((grant, text));
                let done: Done = self.site.ssh(&path, "seq 1 40000").output().unwrap().into();
                assert!(done.code == Some(0) || !done.err.is_empty(), "a session ended without a word");
                self.seen.shown.push((grant, done.out.into_bytes()));
            }
            self.end(grant);
        }
        let direct = "jit-broker -o json request web-07 --role ops --for 20m --no-wait";
        if let Some(doc) = self.json("alice", direct) {
            let grant = doc["grant_id"].as_str().unwrap().parse().unwrap();
            self.seen.grants.insert(grant);
            if let Some(done) = self.cli("alice", "jit-broker cert web-07 --role ops --out - --no-wait") {
                self.seen.certificates.push((grant, done.out.trim().to_owned()));
            }
            // Without the command, which waits for the word of a host that is not there.
            let ended = served.client(&served.bob).and_then(|bob| bob.revoke(grant));
            if ended.is_ok() {
                self.seen.revoked.insert(grant);
            }
        }
    }

    fn end(&mut self, grant: jit_broker::domain::ids::GrantId) {
        if self.cli("bob", &format!("jit-broker revoke {grant} --reason 'the work is done'")).is_some() {
            self.seen.revoked.insert(grant);
        }
    }
}

/// A site with a template that every run begins from. The first start of a gateway is still to come: it makes its key, and the reserve.
fn prepared(apart: bool) -> Site {
    let site = Site::start(apart);
    let dir = &site.served.dir;
    let _ = std::fs::remove_file(site.served.broker_dir().join("state/gateway_ssh_key"));
    let _ = std::fs::remove_file(format!("{}.reserve", site.served.ledger().display()));
    std::fs::create_dir(dir.join("template")).unwrap();
    copy(dir, &dir.join("template"));
    site
}

/// One run with one fault; true where it came to it.
fn run(site: &mut Site, fault: Fault) -> bool {
    copy(&site.served.dir.join("template"), &site.served.dir);
    site.shim.arm(fault);
    let started = site.serve(true);
    let mut run = Run::new(site);
    match started {
        Ok(()) => {
            run.day();
            if number("JIT_FAULT_AT").is_some() {
                eprintln!("refused: {:#?}", run.refusals);
            }
        }
        Err(said) => told("a start that failed", &said),
    }
    let seen = run.seen;
    let stopped = site.stop();
    let said = site.said();
    assert!(!said.contains("panicked"), "{said}");
    assert!(stopped || said.contains("JB"), "the daemon ended without a word: {said}");
    let (_, fired) = site.shim.counted();
    site.shim.disarm();
    if let Err(said) = site.serve(false) {
        panic!("it does not start again: {said}");
    }
    judge(site, &seen, fired > 0);
    // Everything works again.
    let mut run = Run::new(site);
    for who in ["alice", "bob"] {
        run.site.served.sign_in(who);
    }
    let verify = run.cli("bob", "jit-broker audit verify").unwrap();
    assert_eq!(verify.code, Some(0), "{}{}", verify.out, verify.err);
    run.day();
    assert_eq!((run.seen.certificates.len(), run.seen.revoked.len()), (2, 2), "{:?} {:?}", run.refusals, run.seen);
    assert!(run.seen.shown[0].1.len() > 200_000, "the session works");
    assert!(site.stop(), "{}", site.said());
    if let Err(said) = site.serve(false) {
        panic!("it does not start once more: {said}");
    }
    judge(site, &seen, fired > 0);
    site.stop();
    fired > 0
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// Walks through the n-th writes of a run, until it ends without a fault.
fn walk(apart: bool, error: i32, once: bool) {
    let mut site = prepared(apart);
    let fault = |first| Fault { first, once, error };
    assert!(!run(&mut site, fault(0)));
    let (all, _) = site.shim.counted();
    if let Some(n) = number("JIT_FAULT_AT") {
        let _diary = Diary { fault: fault(n), shim: site.shim.again() };
        assert!(run(&mut site, fault(n)), "there are not so many");
        return;
    }
    let stride = number("JIT_FAULT_STRIDE").unwrap_or(all / 3).max(1);
    let start = number("JIT_FAULT_FROM").unwrap_or_else(|| 1 + u64::from(jit_broker::clock::random16()[0]) % stride);
    let (mut n, mut fired, mut wrong) = (start, 0, Vec::new());
    loop {
        let came = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let _diary = Diary { fault: fault(n), shim: site.shim.again() };
            run(&mut site, fault(n))
        }));
        // What goes on beside makes a run a few calls longer or shorter than another.
        match came {
            Ok(true) => fired += 1,
            Ok(false) if n > all => break,
            Ok(false) => {}
            Err(_) => {
                wrong.push(n);
                site.kill();
            }
        }
        n += stride;
    }
    println!(
        "errno {error}, once: {once}, signer apart: {apart}: {all} writes in a run; each {stride}. from {start} failed, {fired} runs"
    );
    assert!(fired > 0 && wrong.is_empty(), "{fired} faults fired; JIT_FAULT_AT of what went wrong: {wrong:?}");
}

/// Says which write it was when something failed.
struct Diary {
    fault: Fault,
    shim: Shim,
}

impl Drop for Diary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("JIT_FAULT_AT={} of {:?}: {}", self.fault.first, self.fault, self.shim.what());
        }
    }
}

#[test]
fn a_disk_that_fills_up_at_any_write_takes_nothing_back() {
    walk(false, ENOSPC, false);
}

#[test]
fn one_write_that_fails_takes_nothing_back() {
    walk(true, EIO, true);
}

#[test]
fn a_disk_that_dies_at_any_write_takes_nothing_back() {
    walk(true, EIO, false);
}

/// Otherwise what is counted would not be what a disk is asked for.
#[test]
fn every_kind_of_write_is_seen() {
    let mut site = prepared(false);
    run(&mut site, Fault { first: 0, once: true, error: EIO });
    let kinds = site.shim.kinds();
    // write, pwrite64, fsync, fdatasync, ftruncate, fallocate, openat, renameat, mkdirat
    for kind in [0, 1, 4, 5, 6, 7, 8, 9, 12] {
        assert!(kinds[kind] > 0, "{kind} of {kinds:?}");
    }
}
