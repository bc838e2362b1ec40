//! `kill -9` of a broker, of its signer, and of both, while certificates are taken, sessions are recorded and all of them are ended.
//!
//! `JIT_KILL_ROUNDS` makes it longer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jit_broker::domain::ids::GrantId;
use jit_broker::domain::key::Key;

use super::Stop;
use super::oracle::below;
use crate::faults::site::{Seen, Site, judge};
use crate::served::{Failed, eventually};
use crate::world::Done;

/// About a second of output, 350 KB of it.
const WORK: &str = "n=0; while [ $n -lt 40 ]; do n=$((n+1)); seq 1 2000; sleep 0.02; done";

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    /// The grants whose certificates lie beside a key.
    passes: Mutex<BTreeMap<GrantId, PathBuf>>,
    refusals: Mutex<BTreeSet<String>>,
    sessions: AtomicU64,
    asked: AtomicU64,
}

struct Load<'a> {
    site: &'a Site,
    shared: &'a Shared,
    over: &'a AtomicBool,
}

impl Load<'_> {
    /// True while there is somebody to talk to.
    fn heard(&self, result: Result<(), Failed>) -> bool {
        match result {
            Ok(()) => true,
            Err(Failed::Cut) => false,
            Err(Failed::Refused(code)) => {
                self.shared.refusals.lock().unwrap().insert(code.to_string());
                true
            }
        }
    }

    /// Longer than any before, so that no grant that is there covers it.
    fn longer(&self) -> u64 {
        3600 + self.shared.asked.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes certificates for a host that is reached directly.
    fn take(&self) {
        let Ok(alice) = self.site.served.client(&self.site.served.alice) else { return };
        while !self.over.load(Ordering::Relaxed) {
            let result = alice.ask(self.longer()).and_then(|grant| {
                self.shared.seen.lock().unwrap().grants.insert(grant);
                let certificate = alice.certificate(grant)?;
                self.shared.seen.lock().unwrap().certificates.push((grant, certificate));
                Ok(())
            });
            if !self.heard(result) {
                return;
            }
        }
    }

    /// Works through the gateway, one session after the other.
    fn work(&self) {
        let Ok(alice) = self.site.served.client(&self.site.served.alice) else { return };
        while !self.over.load(Ordering::Relaxed) {
            let (path, private) = self.site.key(&format!("pass-{}", self.longer()));
            let key = Key(private.public().clone());
            let result = alice.ask_for("gw-07", "free", self.longer(), key.clone()).and_then(|grant| {
                self.shared.seen.lock().unwrap().grants.insert(grant);
                let doc = alice.credential(grant, &key)?;
                let certificate = doc["certificate"].as_str().unwrap().to_owned();
                std::fs::write(
                    path.with_file_name(format!("{}-cert.pub", path.file_name().unwrap().display())),
                    &certificate,
                )
                .unwrap();
                self.shared.seen.lock().unwrap().certificates.push((grant, certificate));
                self.shared.passes.lock().unwrap().insert(grant, path.clone());
                let done: Done = self.site.ssh(&path, WORK).output().unwrap().into();
                if !done.out.is_empty() {
                    self.shared.sessions.fetch_add(1, Ordering::Relaxed);
                    self.shared.seen.lock().unwrap().shown.push((grant, done.out.into_bytes()));
                }
                Ok(())
            });
            if !self.heard(result) {
                return;
            }
        }
    }

    /// Ends what there is, sooner or later.
    fn end(&self) {
        let Ok(bob) = self.site.served.client(&self.site.served.bob) else { return };
        let mut tried = BTreeSet::new();
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(below(100)));
            let seen = self.shared.seen.lock().unwrap();
            let left: Vec<GrantId> =
                seen.grants.difference(&seen.revoked).filter(|g| !tried.contains(*g)).copied().collect();
            drop(seen);
            let Some(grant) = left.get(usize::try_from(below(left.len().max(1) as u64)).unwrap()).copied() else {
                continue;
            };
            tried.insert(grant);
            let result = bob.revoke(grant).map(|_| {
                self.shared.seen.lock().unwrap().revoked.insert(grant);
            });
            if !self.heard(result) {
                return;
            }
        }
    }
}

/// Who is over stays outside, and who is not comes in.
fn knock(site: &Site, shared: &Shared) {
    let revoked = shared.seen.lock().unwrap().revoked.clone();
    let passes = shared.passes.lock().unwrap().clone();
    let (over, live): (Vec<_>, Vec<_>) = passes.into_iter().partition(|(grant, _)| revoked.contains(grant));
    for (grant, path) in over.iter().rev().take(2) {
        let done: Done = site.ssh(path, "echo in").output().unwrap().into();
        assert!(done.code != Some(0) && done.out.is_empty(), "{grant} was revoked and opens the gateway: {done:?}");
    }
    let story = site.story();
    if let Some((grant, path)) = live.iter().rev().find(|(grant, _)| !story.over.contains(grant)) {
        let done: Done = site.ssh(path, "echo in").output().unwrap().into();
        assert_eq!((done.code, done.out.as_str()), (Some(0), "in\n"), "{grant} is live: {done:?}");
    }
}

#[test]
fn no_certificate_end_or_recording_is_lost_when_broker_or_signer_are_killed() {
    let rounds = std::env::var("JIT_KILL_ROUNDS").map_or(6_u64, |text| text.parse().unwrap());
    let mut site = Site::start(true);
    site.serve(false).unwrap();
    let shared = Shared::default();
    let mut cut = 0;
    for round in 0..rounds {
        let over = AtomicBool::new(false);
        let (daemon, signer) = (round % 3 != 1, round % 3 != 0);
        let before = shared.sessions.load(Ordering::Relaxed);
        let load = Load { site: &site, shared: &shared, over: &over };
        let pid = |child: &std::process::Child| child.id().to_string();
        let doomed: Vec<String> =
            [site.served.server.as_ref().filter(|_| daemon).map(pid), site.signer.as_ref().filter(|_| signer).map(pid)]
                .into_iter()
                .flatten()
                .collect();
        let begun = shared.seen.lock().unwrap().grants.len();
        std::thread::scope(|threads| {
            let _stop = Stop(&over);
            threads.spawn(|| load.take());
            threads.spawn(|| load.work());
            threads.spawn(|| load.work());
            threads.spawn(|| load.end());
            eventually("there is load", || shared.seen.lock().unwrap().grants.len() > begun);
            // The moment is the point of this test; nothing waits for anything here.
            std::thread::sleep(Duration::from_millis(below(1500)));
            std::process::Command::new("kill").arg("-9").args(&doomed).status().unwrap();
            if !daemon {
                std::thread::sleep(Duration::from_millis(below(300)));
            }
            over.store(true, Ordering::Relaxed);
        });
        cut += u64::from(shared.sessions.load(Ordering::Relaxed) > before);
        if signer {
            site.kill_signer();
        }
        if daemon {
            site.served.kill();
            site.serve(false).unwrap();
        } else {
            site.start_signer().unwrap();
            let alice = site.served.client(&site.served.alice).unwrap();
            eventually("the signer is back", || alice.ask(load_again(&shared)).is_ok());
        }
        eventually("every session is closed", || {
            let story = site.story();
            story.sessions.keys().all(|session| story.closed.contains_key(session))
        });
        judge(&site, &shared.seen.lock().unwrap(), false);
        knock(&site, &shared);
    }
    site.served.sign_in("bob");
    let verify = site.served.cli("bob", "jit-broker audit verify");
    assert_eq!(verify.code, Some(0), "{}{}", verify.out, verify.err);
    assert!(site.stop(), "{}", site.said());
    let (seen, story) = (shared.seen.into_inner().unwrap(), site.story());
    let lost = story.closed.values().filter(|end| end.cause == jit_broker::domain::session::SessionCause::Lost).count();
    println!(
        "{rounds} kills of broker, signer or both: {} grants, {} certificates, {} revocations, {} sessions in the log of which {lost} were \
         cut by a kill; each is closed, and each recording verifies; output in {cut} rounds; refused: {:?}",
        seen.grants.len(),
        seen.certificates.len(),
        seen.revoked.len(),
        story.sessions.len(),
        shared.refusals.into_inner().unwrap()
    );
    assert!(
        seen.certificates.len() as u64 >= rounds && !seen.revoked.is_empty() && !seen.shown.is_empty(),
        "there was no load"
    );
}

fn load_again(shared: &Shared) -> u64 {
    3600 + shared.asked.fetch_add(1, Ordering::Relaxed)
}
