//! What must be true, from the promises alone: it knows nothing of our code but the words of product.md.

use std::collections::{BTreeMap, BTreeSet};

use jit_broker::domain::ids::{GrantId, RequestId};

use super::bench::Version;

/// How long after its end a certificate may still be accepted by a host whose clock is behind, in seconds.
pub const SKEW_S: i64 = 90;

/// A request that waits, or what came of it.
pub struct Asked {
    pub id: RequestId,
    pub web: bool,
    pub port: u16,
    pub for_s: i64,
    pub narrowed: bool,
    pub by: Vec<&'static str>,
    pub answer_by: i64,
    pub outcome: Option<&'static str>,
}

/// A window.
pub struct Window {
    pub id: GrantId,
    pub asked: usize,
    pub ends_at: i64,
    pub claim_by: i64,
    pub claimed: bool,
    pub second_key: bool,
    /// The word that it must have once it is over; `ending` comes first where there are certificates.
    pub over: Option<&'static str>,
    pub ended: bool,
    /// Serial and `valid_before` of every certificate that a client ever received, by key.
    pub certificates: BTreeMap<u64, i64>,
    /// The first published list that names all that it must.
    pub listed_in: Option<u64>,
    /// What that list must name.
    pub must_list: BTreeSet<u64>,
}

/// The clocks as they truly are, in seconds.
#[derive(Default, Clone, Copy)]
pub struct Times {
    pub true_s: i64,
    /// How far the wall clock is off, and how far it was when the two clocks were last anchored to each other.
    pub off: i64,
    pub anchored_off: i64,
    /// What the newest entry says, when it truly was, and how many entries there are.
    pub last_at: i64,
    pub last_true: i64,
    pub size: u64,
    /// The time of the entry with which an operator confirmed the clock in this boot, and how far off that clock was.
    pub confirmed: Option<(i64, i64)>,
}

impl Times {
    pub fn drift(&self) -> i64 {
        self.off - self.anchored_off
    }

    pub fn drifted(&self) -> bool {
        self.drift().abs() > 30
    }

    /// By the boot-time clock alone while the two tell different times, else by the later one.
    pub fn now(&self) -> i64 {
        let off = if self.drifted() { self.anchored_off } else { self.off.max(self.anchored_off) };
        (self.true_s + off).max(self.last_at)
    }

    /// By what ends are measured: a wall clock that is ahead ends early.
    pub fn ending(&self) -> i64 {
        if self.drift() > 30 { self.now() + self.drift() } else { self.now() }
    }

    pub fn trusted(&self) -> bool {
        !self.drifted() && self.true_s + self.off >= self.last_at - 30
    }

    /// A start: within a boot the log's last entry tells how long ago that was, or while the log still has the time of a confirmation, what
    /// was confirmed; after another boot, time never goes back.
    pub fn start(&mut self, rebooted: bool) {
        if rebooted {
            self.anchored_off = self.off.max(self.last_at - self.true_s);
            self.confirmed = None;
        } else {
            let confirmed = self.confirmed.filter(|(at, _)| *at == self.last_at);
            self.anchored_off = confirmed.map_or(self.last_at - self.last_true, |(_, off)| off);
        }
    }

    /// An operator says that the clock is right as it is. What differs by no more than is tolerated is not told apart.
    pub fn confirm(&mut self) {
        let (now, wall) = (self.now(), self.true_s + self.off);
        self.confirmed = Some((now, if (now - wall).abs() > 30 { self.off } else { now - self.true_s }));
        self.anchored_off = self.off;
    }

    pub fn logged(&mut self, size: u64, last_at: i64) {
        assert!(last_at >= self.last_at, "time in the log never goes back");
        if size > self.size {
            (self.size, self.last_at, self.last_true) = (size, last_at, self.true_s);
        }
    }
}

pub struct Reference {
    pub times: Times,
    pub version: Version,
    pub asked: Vec<Asked>,
    pub pending: Vec<usize>,
    pub windows: Vec<Window>,
    pub open: Vec<usize>,
    /// Windows that are over and not yet shown to be.
    pub ending: Vec<usize>,
    pub disabled: bool,
    /// Serials that were ended before their time, with `valid_before`.
    pub revoked: BTreeMap<u64, i64>,
    pub serials: BTreeSet<u64>,
    pub confirmed: u64,
    pub list: u64,
}

impl Reference {
    pub fn new(true_s: i64, version: Version) -> Self {
        Self {
            times: Times { true_s, ..Times::default() },
            version,
            asked: Vec::new(),
            pending: Vec::new(),
            windows: Vec::new(),
            open: Vec::new(),
            ending: Vec::new(),
            disabled: false,
            revoked: BTreeMap::new(),
            serials: BTreeSet::new(),
            confirmed: 0,
            list: 0,
        }
    }

    pub fn finish(&mut self, asked: usize, outcome: &'static str) {
        assert!(self.asked[asked].outcome.is_none(), "I4: a request has one outcome");
        self.asked[asked].outcome = Some(outcome);
        self.pending.retain(|p| *p != asked);
    }

    pub fn leads(&self, who: &str) -> bool {
        who == "bob" || who == "carol" && self.version.carol_leads
    }

    /// How many steps are left, when only those count who may approve now (I5).
    pub fn steps_left(&self, asked: &Asked) -> usize {
        let (mut peer, mut lead) = (asked.web, false);
        // Approvals were given for the step that was open then: on db-01 the first is the peer's.
        for (i, who) in asked.by.iter().enumerate() {
            if !asked.web && i == 0 {
                peer = true;
            } else {
                lead |= self.leads(who);
            }
        }
        usize::from(!peer) + usize::from(!lead)
    }

    pub fn grant(&mut self, id: GrantId, asked: usize) {
        let now = self.times.now();
        let ends_at = now + self.asked[asked].for_s;
        self.finish(asked, "approved");
        self.open.push(self.windows.len());
        self.windows.push(Window {
            id,
            asked,
            ends_at,
            claim_by: (now + 1800).min(ends_at),
            claimed: false,
            second_key: false,
            over: None,
            ended: false,
            certificates: BTreeMap::new(),
            listed_in: None,
            must_list: BTreeSet::new(),
        });
    }

    /// A window is over: every certificate that may still be accepted must be listed.
    pub fn end(&mut self, window: usize, word: &'static str) {
        let now = self.times.now();
        self.open.retain(|w| *w != window);
        let found = &mut self.windows[window];
        assert!(found.over.is_none(), "I4: final states never change");
        found.over = Some(word);
        let unexpired = found.certificates.iter().filter(|(_, before)| now < **before + SKEW_S);
        found.must_list = unexpired.clone().map(|(serial, _)| *serial).collect();
        self.revoked.extend(unexpired.map(|(serial, before)| (*serial, *before)));
        found.ended = matches!(word, "lapsed" | "cancelled") || found.must_list.is_empty();
        if !found.ended {
            self.ending.push(window);
        }
    }

    pub fn end_all(&mut self, word: &'static str) {
        for window in self.open.clone() {
            self.end(window, word);
        }
    }

    /// What time alone does.
    pub fn pass(&mut self) {
        let (now, ending) = (self.times.now(), self.times.ending());
        for asked in self.pending.clone() {
            if self.asked[asked].answer_by <= ending {
                self.finish(asked, "expired");
            }
        }
        for window in self.open.clone() {
            let found = &self.windows[window];
            if !found.claimed && found.claim_by <= ending {
                self.end(window, "lapsed");
            } else if found.ends_at <= ending {
                self.end(window, "ended");
            }
        }
        self.revoked.retain(|_, before| now < *before + SKEW_S);
    }

    /// A window that is over is shown to be over when no certificate can be accepted any more, or when its host has a list that names them.
    pub fn proven(&self, window: &Window) -> bool {
        let latest = window.certificates.values().max().map_or(0, |before| before + SKEW_S);
        let web = self.asked[window.asked].web;
        self.times.now() >= latest || web && window.listed_in.is_some_and(|version| version <= self.confirmed)
    }

    /// A list was published.
    pub fn published(&mut self, version: u64, serials: &BTreeSet<u64>) {
        assert!(version >= self.list, "I6: versions only rise");
        self.list = version;
        let now = self.times.now();
        for window in &self.ending {
            let found = &mut self.windows[*window];
            let named = |serial: &u64| serials.contains(serial) || now >= found.certificates[serial] + SKEW_S;
            if found.listed_in.is_none() && found.must_list.iter().all(named) {
                found.listed_in = Some(version);
            }
        }
        for serial in self.revoked.keys() {
            assert!(serials.contains(serial), "I6: {serial} is on the list until its end and the skew");
        }
    }
}
