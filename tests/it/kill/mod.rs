//! `kill -9` under load: what anybody was told is still true.
//!
//! `JIT_KILL_ROUNDS` makes it longer, up to 100: every grant is asked for longer than those before.

mod aborted;
mod accounts;
mod oracle;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jit_broker::broker::clerk::fold;
use jit_broker::domain::event::{Entry, Event};
use jit_broker::domain::ids::GrantId;
use jit_broker::ledger::Reader;
use jit_broker::signer::cache::Cache;

use crate::served::{Failed, Served, eventually, serial};

/// What clients saw with their own eyes.
#[derive(Default)]
struct Seen {
    grants: BTreeSet<GrantId>,
    certificates: BTreeMap<u64, (GrantId, String)>,
    revoked: BTreeSet<GrantId>,
}

/// Ends the load when the round is over, and when it failed.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks, takes a certificate, asks for more; until the broker is gone.
fn take(served: &Served, seen: &Mutex<Seen>, over: &AtomicBool, mut for_s: u64) {
    let Ok(alice) = served.client(&served.alice) else { return };
    while !over.load(Ordering::Relaxed) {
        for_s += 2;
        let result = alice.ask(for_s).and_then(|grant| {
            seen.lock().unwrap().grants.insert(grant);
            alice.certificate(grant).map(|certificate| (grant, certificate))
        });
        match result {
            Ok((grant, certificate)) => {
                let mut seen = seen.lock().unwrap();
                let old = seen.certificates.insert(serial(&certificate), (grant, certificate.clone()));
                assert!(old.is_none_or(|(_, bytes)| bytes == certificate), "one serial, two certificates");
            }
            Err(Failed::Cut) => return,
            // The other client ended it in between.
            Err(Failed::Refused(code)) => assert_eq!(code.to_string(), "JB3006"),
        }
    }
}

/// Ends what there is.
fn end(served: &Served, seen: &Mutex<Seen>, over: &AtomicBool) {
    let Ok(bob) = served.client(&served.bob) else { return };
    let mut tried = BTreeSet::new();
    while !over.load(Ordering::Relaxed) {
        let next = seen.lock().unwrap().grants.iter().find(|g| !tried.contains(*g)).copied();
        let Some(grant) = next else {
            std::thread::yield_now();
            continue;
        };
        tried.insert(grant);
        match bob.revoke(grant) {
            Ok(_) => drop(seen.lock().unwrap().revoked.insert(grant)),
            Err(Failed::Cut) => return,
            Err(Failed::Refused(code)) => assert_eq!(code.to_string(), "JB3001"),
        }
    }
}

/// Killed writes leave files with names of their own; whoever starts next clears them away. While it runs it writes such files itself.
fn nothing_half_written(served: &Served) {
    let state = served.broker_dir().join("state");
    let folders = [state.clone(), state.join("ca")];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap().flatten());
    let half = |path: &std::path::Path| {
        let ending = path.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
        ending == "new" || (ending.len() == 32 && ending.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let left: Vec<_> = files.map(|entry| entry.path()).filter(|path| half(path)).collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_survives_a_kill() {
    let rounds = std::env::var("JIT_KILL_ROUNDS").map_or(20_u64, |text| text.parse().unwrap());
    let mut served = Served::init();
    served.serve();
    served.adopt();
    let seen = Mutex::new(Seen::default());
    for round in 0..rounds {
        let over = AtomicBool::new(false);
        let before = seen.lock().unwrap().grants.len();
        let wait = Duration::from_millis(u64::from(jit_broker::clock::random16()[0]));
        std::thread::scope(|threads| {
            let _stop = Stop(&over);
            threads.spawn(|| take(&served, &seen, &over, 600 + round * 275));
            threads.spawn(|| take(&served, &seen, &over, 601 + round * 275));
            threads.spawn(|| end(&served, &seen, &over));
            eventually("there is load", || seen.lock().unwrap().grants.len() > before);
            // The moment is the point of this test; nothing waits for anything here.
            std::thread::sleep(wait);
            let pid = served.server.as_ref().unwrap().id();
            std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
            over.store(true, Ordering::Relaxed);
        });
        served.kill();
        served.serve();
    }
    let bob = served.client(&served.bob).unwrap();
    let list = bob.list();
    served.sign_in("bob");
    let verify = served.cli("bob", "jit-broker audit verify");
    assert_eq!(verify.code, Some(0), "{}{}", verify.out, verify.err);
    served.stop();
    nothing_half_written(&served);
    let reader = Reader::open(&served.ledger()).await.unwrap();
    let state = fold(&reader, &Cache::at("none".into())).await.unwrap().state;
    let seen = seen.into_inner().unwrap();
    println!(
        "{rounds} kills: {} grants, {} certificates, {} revocations",
        seen.grants.len(),
        seen.certificates.len(),
        seen.revoked.len()
    );
    assert!(seen.certificates.len() as u64 >= rounds && !seen.revoked.is_empty(), "there was no load");
    for grant in &seen.grants {
        assert!(state.grants.contains_key(grant), "{grant} was told to a client and is lost");
    }
    for (serial, (grant, certificate)) in &seen.certificates {
        let facts = jit_ca::ssh::read(certificate).unwrap();
        let logged = state.grants.get(grant).unwrap().credentials.iter().find(|c| c.serial == *serial).unwrap();
        assert_eq!(u64::try_from(logged.valid_before), Ok(facts.valid_before));
        assert!(logged.key.0 == facts.key);
        if seen.revoked.contains(grant) {
            assert!(list.serials.contains(serial), "serial {serial} was revoked, and hosts would take it");
        }
    }
    let now = jit_broker::clock::wall_s();
    for grant in &seen.revoked {
        assert!(state.grants.get(grant).unwrap().live_at(now).is_err(), "{grant} was revoked and lives again");
    }
    let mut serials = BTreeSet::new();
    for leaf in reader.leaves(0, u32::MAX).await.unwrap() {
        let entry: Entry = serde_json::from_slice(&leaf.bytes).unwrap();
        if let Event::CredentialIssued { serial, .. } = entry.event {
            assert!(serials.insert(serial), "serial {serial} stands twice in the log");
        }
    }
    assert!(seen.certificates.keys().all(|serial| serials.contains(serial)));
}
