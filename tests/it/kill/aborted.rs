//! Clients that hang up at any moment of signing in, asking, taking an account, and giving it back.
//!
//! `JIT_ABORTS` (100) requests.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use jit_broker::clock::wall_s;
use jit_broker::daemon::dev::Somebody;
use jit_broker::domain::act::{Deed, Selector};
use jit_broker::domain::ids::GrantId;
use serde_json::json;

use super::oracle::{Site, Story, below, client_key};

/// How long log and server may differ afterwards.
const SOON: Duration = Duration::from_secs(10);

/// Hangs up on a number of requests; gives how many of each kind.
fn abort(site: &Site, who: &Somebody, role: &str, number: usize, kinds: &Mutex<[usize; 4]>) {
    let client = site.served.client(who).unwrap();
    let (_, key) = client_key();
    let mut held: Vec<GrantId> = Vec::new();
    let mut for_s = 600;
    for _ in 0..number {
        // Something to take or to give back.
        while held.len() < 4 {
            for_s += 1;
            held.push(client.ask_for("db-prod", role, for_s, key.clone()).unwrap());
        }
        let kind = usize::try_from(below(8)).unwrap();
        let (kind, path, body) = match kind {
            0 => (0, "/v1/acts".to_owned(), client.signed(client.challenge().unwrap(), None)),
            1 | 2 => {
                for_s += 1;
                let deed = client.asking("db-prod", role, for_s, key.clone());
                (1, "/v1/acts".to_owned(), client.signed(deed, None))
            }
            3..=5 => {
                let grant = held[usize::try_from(below(4)).unwrap()];
                (2, format!("/v1/grants/{grant}/credential"), json!({ "key": key }))
            }
            _ => {
                let grant = held.remove(usize::try_from(below(4)).unwrap());
                let deed = Deed::Release { by: who.name(), grant };
                (3, "/v1/acts".to_owned(), client.signed(deed, None))
            }
        };
        kinds.lock().unwrap()[kind] += 1;
        let share = if below(8) == 0 { u8::try_from(below(256)).unwrap() } else { u8::MAX };
        client.hang_up(&path, body, share, Duration::from_micros(below(40_000))).unwrap();
    }
}

#[test]
fn requests_that_are_broken_off_leave_nothing_behind() {
    let number = std::env::var("JIT_ABORTS").map_or(100, |text| text.parse().unwrap());
    let site = Site::start();
    let kinds = Mutex::new([0; 4]);
    std::thread::scope(|threads| {
        for (who, role) in
            [(&site.served.alice, "ro"), (&site.served.alice, "rw"), (&site.served.bob, "ro"), (&site.served.bob, "rw")]
        {
            let (site, kinds) = (&site, &kinds);
            threads.spawn(move || abort(site, who, role, number / 4, kinds));
        }
    });
    let mut story = Story::default();
    let settled = site.settle(&mut story, SOON);
    let now = wall_s();
    let planned: BTreeSet<String> = story.accounts(|told| told.live_at(now)).into_iter().map(str::to_owned).collect();
    let (there, _) = site.accounts();
    let without = planned.iter().filter(|name| !there.contains_key(*name)).count();
    let bob = site.served.client(&site.served.bob).unwrap();
    let deed = Deed::Revoke { by: site.served.bob.name(), of: Selector::Target("db-prod".parse().unwrap()) };
    bob.act(deed, Some("enough of that")).unwrap();
    let ended = site.settle(&mut story, SOON);
    assert_eq!(site.accounts().0.len(), 0);
    let [logins, asks, issues, releases] = kinds.into_inner().unwrap();
    println!(
        "{number} aborted ({logins} sign-ins, {asks} asks, {issues} issues, {releases} releases): 0 accounts that nobody knows of \
         after {:.2} s, {} accounts live, {without} live in the log and not on the server; all gone {:.2} s after they were revoked",
        settled.as_secs_f64(),
        planned.len(),
        ended.as_secs_f64()
    );
    assert_eq!(without, 0, "the log has accounts that the server has not");
    assert!(story.accounts(|told| told.made).len() * 5 > issues, "there was no load");
}
