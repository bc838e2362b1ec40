//! `kill -9` of a broker that makes and ends accounts under load: log and server are never apart for long.
//!
//! `JIT_KILL_ROUNDS` makes it longer.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jit_broker::clock::wall_s;
use jit_broker::daemon::dev::Somebody;
use jit_broker::domain::act::{Deed, Selector};
use jit_broker::domain::ids::GrantId;
use jit_broker::domain::key::Key;
use jit_ca::x509::X509Key;

use super::Stop;
use super::oracle::{Site, Story, below, client_key};
use crate::served::{Failed, eventually};

/// How soon after a start log and server say the same (security.md, F4: 60 s; I3: 5 s for what was over).
const SOON: Duration = Duration::from_secs(10);

/// A credential that somebody holds.
struct Held {
    grant: GrantId,
    user: String,
    pem: String,
    key: Key,
    file: PathBuf,
}

/// What clients saw with their own eyes.
#[derive(Default)]
struct Seen {
    grants: BTreeSet<GrantId>,
    held: Vec<Held>,
    /// Logins that the server took, and grants whose login it refused.
    logins: usize,
    shut_out: Vec<(GrantId, String)>,
    sessions: Vec<Child>,
    /// Grants that were said to be over.
    over: BTreeSet<GrantId>,
    refusals: BTreeSet<String>,
}

struct Load<'a> {
    site: &'a Site,
    seen: &'a Mutex<Seen>,
    over: &'a AtomicBool,
}

impl Load<'_> {
    /// Asks, takes the credential, logs in, stays or gives back; until the broker is gone.
    fn work(&self, who: &Somebody, key: &X509Key, public: &Key, round: u64) {
        let Ok(client) = self.site.served.client(who) else { return };
        let mut longer = 600 + round * 29 % 2900;
        while !self.over.load(Ordering::Relaxed) {
            longer += 1;
            let (role, for_s) = if below(3) == 0 { ("ro", 2 + below(4)) } else { ("rw", longer) };
            let result = client.ask_for("db-prod", role, for_s, public.clone()).and_then(|grant| {
                self.seen.lock().unwrap().grants.insert(grant);
                let doc = client.credential(grant, public)?;
                self.log_in(grant, key, public, &doc);
                if below(3) == 0 {
                    client.release(grant)?;
                    self.seen.lock().unwrap().over.insert(grant);
                }
                Ok(())
            });
            match result {
                Ok(()) => {}
                Err(Failed::Cut) => return,
                Err(Failed::Refused(code)) => drop(self.seen.lock().unwrap().refusals.insert(code.to_string())),
            }
        }
    }

    fn log_in(&self, grant: GrantId, key: &X509Key, public: &Key, doc: &serde_json::Value) {
        let pem = doc["certificate"].as_str().unwrap().to_owned();
        let user = doc["account"]["user"].as_str().unwrap().to_owned();
        let file = self.site.keep(&pem, key);
        let held = Held { grant, user: user.clone(), pem, key: public.clone(), file: file.clone() };
        self.seen.lock().unwrap().held.push(held);
        // Most go on at once, so that accounts are made and ended all the time.
        let text = match below(9) {
            0 => "SELECT pg_sleep(30)",
            1..=5 => return,
            6 => "CREATE TABLE IF NOT EXISTS mine AS SELECT 1 AS n",
            _ => "SELECT count(*) FROM notes",
        };
        let mut child = self.site.psql(&user, &file, text).spawn().unwrap();
        if text.contains("sleep") {
            self.seen.lock().unwrap().sessions.push(child);
            return;
        }
        let mut said = String::new();
        std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut said).unwrap();
        let mut seen = self.seen.lock().unwrap();
        // A read-only role may not make a table: it is in nevertheless.
        match child.wait().unwrap().success() || said.contains("read-only") || said.contains("permission denied for") {
            true => seen.logins += 1,
            false => seen.shut_out.push((grant, said)),
        }
    }

    /// Ends what there is, one by one, and now and then everything.
    fn end(&self, round: u64) {
        let Ok(bob) = self.site.served.client(&self.site.served.bob) else { return };
        let mut tried = BTreeSet::new();
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(below(20)));
            let next = self.seen.lock().unwrap().grants.iter().find(|g| !tried.contains(*g)).copied();
            let Some(grant) = next else { continue };
            tried.insert(grant);
            let all = round % 4 == 3 && below(20) == 0;
            let of = if all { Selector::Target("db-prod".parse().unwrap()) } else { Selector::Grant(grant) };
            let deed = Deed::Revoke { by: self.site.served.bob.name(), of };
            match bob.act(deed, Some("enough of that")) {
                Ok(_) if all => {}
                Ok(_) => drop(self.seen.lock().unwrap().over.insert(grant)),
                Err(Failed::Cut) => return,
                Err(Failed::Refused(code)) => drop(self.seen.lock().unwrap().refusals.insert(code.to_string())),
            }
        }
    }
}

/// What clients saw is what the log says, and what the log says is what the server does.
fn judge(site: &Site, story: &Story, seen: &mut Seen) {
    let now = wall_s();
    for held in &seen.held {
        site.allowed(story, held.grant, &held.key, &held.pem);
        assert_eq!(story.grants[&held.grant].account.as_ref(), Some(&held.user));
    }
    for grant in &seen.grants {
        assert!(story.grants.contains_key(grant), "{grant} was told to a client and is lost");
    }
    for grant in &seen.over {
        assert!(story.grants[grant].ended, "{grant} was said to be over and lives again");
    }
    for (grant, said) in std::mem::take(&mut seen.shut_out) {
        // OpenSSL counts a certificate's last second as over.
        assert!(!story.grants[&grant].live_at(now + 2), "{grant} is live and its holder was shut out: {said}");
    }
    // One who holds a live grant still gets in.
    let live = |held: &&Held| story.grants[&held.grant].live_at(now + 2);
    if let Some(held) = seen.held.iter().rev().find(live) {
        let said = site.psql(&held.user, &held.file, "SELECT 1").output().unwrap();
        assert!(said.status.success(), "{}: {}", held.grant, String::from_utf8_lossy(&said.stderr));
    }
}

#[test]
fn no_account_is_lost_sight_of_when_a_broker_is_killed_under_load() {
    let rounds = std::env::var("JIT_KILL_ROUNDS").map_or(6_u64, |text| text.parse().unwrap());
    let mut site = Site::start();
    let (seen, mut story) = (Mutex::new(Seen::default()), Story::default());
    let keys = [client_key(), client_key()];
    let (mut caught, mut longest, mut total) = (0, Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        let over = AtomicBool::new(false);
        let before = seen.lock().unwrap().grants.len();
        let load = Load { site: &site, seen: &seen, over: &over };
        let wait = Duration::from_millis(below(1000));
        std::thread::scope(|threads| {
            let _stop = Stop(&over);
            threads.spawn(|| load.work(&site.served.alice, &keys[0].0, &keys[0].1, round));
            threads.spawn(|| load.work(&site.served.alice, &keys[0].0, &keys[0].1, round));
            threads.spawn(|| load.work(&site.served.bob, &keys[1].0, &keys[1].1, round));
            threads.spawn(|| load.end(round));
            eventually("there is load", || seen.lock().unwrap().grants.len() > before);
            std::thread::sleep(wait);
            let pid = site.served.server.as_ref().unwrap().id();
            std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
            over.store(true, Ordering::Relaxed);
        });
        site.served.kill();
        site.read(&mut story);
        let (there, _) = site.accounts();
        let firm = story.accounts(|told| told.made && told.live_at(wall_s()));
        caught += there.keys().filter(|name| !firm.contains(name.as_str())).count();
        let begun = Instant::now();
        site.served.serve();
        site.settle(&mut story, SOON);
        longest = longest.max(begun.elapsed());
        total += begun.elapsed();
        judge(&site, &story, &mut seen.lock().unwrap());
    }
    let mut seen = seen.into_inner().unwrap();
    let bob = site.served.client(&site.served.bob).unwrap();
    let deed = Deed::Revoke { by: site.served.bob.name(), of: Selector::Target("db-prod".parse().unwrap()) };
    bob.act(deed, Some("enough of that")).unwrap();
    site.settle(&mut story, SOON);
    judge(&site, &story, &mut seen);
    assert_eq!(site.accounts().0.len(), 0);
    // No session is left on the server, so every psql ends by itself.
    for session in &mut seen.sessions {
        session.wait().unwrap();
    }
    println!(
        "{rounds} kills: {} grants, {} credentials, {} logins; {caught} accounts half made or half ended at a kill; \
         log and server agreed {:.2} s after a start on average, {:.2} s at most; refused: {:?}",
        seen.grants.len(),
        seen.held.len(),
        seen.logins,
        total.as_secs_f64() / f64::from(u32::try_from(rounds).unwrap().max(1)),
        longest.as_secs_f64(),
        seen.refusals
    );
    assert!(seen.held.len() as u64 >= rounds && !seen.over.is_empty(), "there was no load");
    site.served.sign_in("bob");
    site.verify();
}
