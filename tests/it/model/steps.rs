//! The steps, and what the promises say of each.

use jit_broker::domain::act::{Deed, Selector, Terms};
use jit_broker::domain::ids::RequestId;
use jit_broker::domain::key::Key;
use jit_broker::domain::names::{RoleName, TargetName};
use jit_broker::domain::refusal::{Code, Refusal};
use jit_broker::domain::request::RequestState;
use jit_broker::domain::target::Allow;
use jit_broker::domain::text::Words;

use super::Walk;
use super::bench::{Version, Voice};
use super::reference::Asked;

const OTHERS: [&str; 3] = ["bob", "carol", "dave"];

/// Checks the answer. What left memory is refused in any case, and not everybody may know why.
#[track_caller]
fn answered<T: std::fmt::Debug>(result: &Result<T, Refusal>, left: bool, expected: Result<(), Code>) {
    let over = [Code::MISSING, Code::FINAL, Code::WINDOW_CLOSED];
    let refused = result.as_ref().is_err_and(|refusal| over.contains(&refusal.code));
    assert!(said(result) == expected || left && refused, "{result:?} is not {expected:?}");
}

/// What was said, or the code of the refusal.
fn said<T>(result: &Result<T, Refusal>) -> Result<(), Code> {
    result.as_ref().map(drop).map_err(|refusal| refusal.code)
}

impl Walk {
    /// One step; says what it did.
    pub async fn step(&mut self) -> String {
        match self.dice.roll(40) {
            0..=7 => self.ask().await,
            8..=15 => self.approve().await,
            16 => self.race().await,
            17 if self.dice.roll(2) == 0 => self.withdraw().await,
            18 if self.dice.roll(2) == 0 => self.deny().await,
            19..=25 => self.issue().await,
            26 => self.bind().await,
            27 => self.release().await,
            28 => self.revoke().await,
            29 if self.reference.disabled || self.dice.roll(4) == 0 => self.disable_or_enable().await,
            30 => self.begin_again().await,
            31 if self.clock_is_wrong() || self.dice.roll(4) == 0 => self.step_the_clock().await,
            32 if self.dice.roll(2) == 0 => self.change_the_rules().await,
            33 | 34 => self.confirm().await,
            35 if self.reference.disabled => self.disable_or_enable().await,
            36 if self.clock_is_wrong() => self.step_the_clock().await,
            _ => {
                let most =
                    self.dice.pick(&[9, 9, 9, 30, 30, 30, 30, 200, 200, 200, 200, 900, 900, 4_000, 32_000]).unwrap();
                let s = self.dice.roll(most);
                self.advance(s);
                format!("{s} s pass")
            }
        }
    }

    fn advance(&mut self, s: u64) {
        self.bench.clock.advance(s);
        self.reference.times.true_s += i64::try_from(s).unwrap();
    }

    fn granting(&self) -> Result<(), Code> {
        if self.reference.times.trusted() { Ok(()) } else { Err(Code::CLOCK) }
    }

    /// Who asks is asked for first.
    fn active(&self) -> Result<(), Code> {
        if self.reference.disabled { Err(Code::DISABLED) } else { Ok(()) }
    }

    fn clock_is_wrong(&self) -> bool {
        self.reference.times.off != 0 || self.reference.times.drifted()
    }

    /// Mostly what waits; sometimes what is decided, which must be refused.
    fn some_request(&mut self) -> Option<usize> {
        if self.dice.roll(8) == 0 && !self.reference.asked.is_empty() {
            let all = u64::try_from(self.reference.asked.len()).unwrap();
            return usize::try_from(self.dice.roll(all)).ok();
        }
        let pending = self.reference.pending.clone();
        self.dice.pick(&pending)
    }

    fn some_window(&mut self) -> Option<usize> {
        if self.dice.roll(6) == 0 && !self.reference.windows.is_empty() {
            let all = u64::try_from(self.reference.windows.len()).unwrap();
            return usize::try_from(self.dice.roll(all)).ok();
        }
        let open = self.reference.open.clone();
        self.dice.pick(&open)
    }

    /// What is over leaves memory some time later; nobody can do anything about it then.
    async fn request_left(&self, place: usize) -> bool {
        let asked = &self.reference.asked[place];
        let left = !self.bench.broker().memory().await.state.requests.contains_key(&asked.id);
        assert!(!left || asked.outcome.is_some(), "{} left memory while it waited", asked.id);
        left
    }

    async fn window_left(&self, place: usize) -> bool {
        let window = &self.reference.windows[place];
        let left = !self.bench.broker().memory().await.state.grants.contains_key(&window.id);
        assert!(!left || window.over.is_some() && window.ended, "{} left memory while it was open", window.id);
        left
    }

    async fn ask(&mut self) -> String {
        let web = self.dice.roll(3) > 0;
        let for_s = self.dice.pick(&[60_i64, 900, 1800, 3600, 3601]).unwrap();
        let target = if web { "web-07" } else { "db-01" };
        let deed = Deed::Request {
            by: self.bench.alice.name.clone(),
            target: TargetName::new(target).unwrap(),
            role: RoleName::new("deploy").unwrap(),
            for_s: u64::try_from(for_s).ok(),
            key: self.bench.alice.key(),
        };
        let now = self.reference.times.now();
        let covering = self.reference.open.iter().map(|w| &self.reference.windows[*w]).any(|w| {
            let asked = &self.reference.asked[w.asked];
            asked.web == web && !asked.narrowed && w.ends_at - now >= for_s
        });
        let expected = self.active().and(self.granting()).and(match for_s {
            _ if covering => Ok(()),
            _ if self.reference.pending.len() >= 50 => Err(Code::TOO_MANY),
            3601 => Err(Code::TOO_LONG),
            _ => Ok(()),
        });
        let words = Words { salt: self.bench.nonces.hex(), reason: Some("hotfix for OPS-1".to_owned()), ticket: None };
        let signed = self.bench.sign(Voice::Alice, now, Some(&words), deed);
        let id = RequestId::of_digest(&signed.digest());
        let result = self.bench.broker().act(signed.clone(), Some(&words), None).await;
        assert_eq!(said(&result), expected);
        if self.dice.roll(4) == 0 {
            let again = self.bench.broker().act(signed, Some(&words), None).await;
            assert_eq!(said(&again), expected, "the same request gets the same answer");
        }
        // What is covered is no request that anybody could answer.
        if expected.is_ok() && !covering {
            self.reference.pending.push(self.reference.asked.len());
            self.reference.asked.push(Asked {
                id,
                web,
                port: self.reference.version.port,
                for_s,
                narrowed: false,
                by: Vec::new(),
                answer_by: now + 8 * 3600,
                outcome: None,
            });
        }
        format!("ask {target} for {for_s} s: {expected:?} {id}")
    }

    /// What an approval of exactly these terms must come to: granted, one step further, void, or refused.
    fn verdict(&self, place: usize, who: &str, more: bool) -> Result<(), Code> {
        let asked = &self.reference.asked[place];
        if who == "alice" {
            self.active()?;
        }
        self.granting()?;
        if asked.outcome.is_some() {
            return Err(Code::FINAL);
        }
        if who == "alice" {
            return Err(Code::OWN_REQUEST);
        }
        if asked.by.contains(&who) {
            return Err(Code::TWICE);
        }
        let peer_is_open = !asked.web && asked.by.is_empty();
        if !peer_is_open && !self.reference.leads(who) {
            return Err(Code::NOT_ELIGIBLE);
        }
        if more { Err(Code::NOT_NARROWER) } else { Ok(()) }
    }

    /// Takes over what an accepted approval means.
    async fn approved(&mut self, place: usize, who: &'static str, terms: &Terms) {
        let asked = &mut self.reference.asked[place];
        asked.by.push(who);
        asked.for_s = i64::try_from(terms.for_s).unwrap();
        asked.narrowed |= terms.role.as_str() == "view";
        let id = asked.id;
        if self.reference.steps_left(&self.reference.asked[place]) > 0 {
            // A lead who was the peer cannot be the lead as well.
            let by = &self.reference.asked[place].by;
            if !["bob", "carol"].iter().any(|lead| self.reference.leads(lead) && !by.contains(lead)) {
                self.reference.finish(place, "invalidated");
            }
            return;
        }
        let state = self.bench.broker().memory().await.state.requests.get(&id).unwrap().state.clone();
        let RequestState::Approved { grant: Some(grant) } = state else { panic!("{id}: {state:?}") };
        self.reference.grant(grant, place);
    }

    async fn terms(&self, place: usize) -> (Terms, jit_broker::domain::digest::Digest) {
        let memory = self.bench.broker().memory().await;
        let request = memory.state.requests.get(&self.reference.asked[place].id).unwrap();
        (request.standing_terms(), request.digest)
    }

    fn agreement(&self, place: usize, who: &str, terms: &Terms, digest: jit_broker::domain::digest::Digest) -> Deed {
        let by = self.bench.name(voice(who));
        Deed::Approve { by, request: self.reference.asked[place].id, request_digest: digest, terms: terms.clone() }
    }

    async fn approve(&mut self) -> String {
        let Some(place) = self.some_request() else { return self.ask().await };
        if self.request_left(place).await {
            return "it left memory".to_owned();
        }
        let who = self.dice.pick(&["bob", "bob", "bob", "carol", "carol", "dave", "alice"]).unwrap();
        let (mut terms, digest) = self.terms(place).await;
        let mut more = false;
        match self.dice.roll(8) {
            0 => terms.for_s = (terms.for_s / 2).max(1),
            1 if terms.role.as_str() == "deploy" => {
                terms.role = RoleName::new("view").unwrap();
                terms.logins = vec!["viewer".parse().unwrap()];
                terms.allow = vec![Allow::Sftp];
            }
            2 => {
                terms.for_s += 1;
                more = true;
            }
            _ => {}
        }
        let expected = self.verdict(place, who, more);
        let (deed, now) = (self.agreement(place, who, &terms, digest), self.reference.times.now());
        let result = self.bench.act(voice(who), now, None, deed).await;
        assert_eq!(said(&result), expected, "{who} approves {}", self.reference.asked[place].id);
        if expected.is_ok() {
            self.approved(place, who, &terms).await;
        }
        format!("{who} approves {}: {expected:?}", self.reference.asked[place].id)
    }

    /// Two of them, in the same instant.
    async fn race(&mut self) -> String {
        let pending = self.reference.pending.clone();
        let Some(place) = self.dice.pick(&pending) else { return "nothing to race for".to_owned() };
        let (terms, digest) = self.terms(place).await;
        let now = self.reference.times.now();
        let deeds = ["bob", "carol"].map(|who| (who, self.agreement(place, who, &terms, digest)));
        let acts = deeds.map(|(who, deed)| self.bench.sign(voice(who), now, None, deed));
        let [one, two] = acts.map(|signed| self.bench.broker().act(signed, None, None));
        let (one, two) = tokio::join!(one, two);
        for (who, result) in [("bob", one), ("carol", two)] {
            let expected = self.verdict(place, who, false);
            assert_eq!(said(&result), expected, "{who} races for {}", self.reference.asked[place].id);
            if expected.is_ok() {
                self.approved(place, who, &terms).await;
            }
        }
        format!("bob and carol race for {}", self.reference.asked[place].id)
    }

    async fn withdraw(&mut self) -> String {
        let Some(place) = self.some_request() else { return "nothing to withdraw".to_owned() };
        let (id, now) = (self.reference.asked[place].id, self.reference.times.now());
        let left = self.request_left(place).await;
        let expected = match (self.reference.disabled, self.reference.asked[place].outcome) {
            (true, _) => Err(Code::DISABLED),
            (_, Some(_)) => Err(Code::FINAL),
            _ => Ok(()),
        };
        let deed = Deed::Withdraw { by: self.bench.alice.name.clone(), request: id };
        let result = self.bench.act(Voice::Alice, now, None, deed).await;
        answered(&result, left, expected);
        if expected.is_ok() {
            self.reference.finish(place, "withdrawn");
        }
        format!("withdraw {id}: {expected:?}")
    }

    async fn deny(&mut self) -> String {
        let Some(place) = self.some_request() else { return "nothing to deny".to_owned() };
        let who = self.dice.pick(&OTHERS).unwrap();
        let left = self.request_left(place).await;
        let asked = &self.reference.asked[place];
        let (id, now) = (asked.id, self.reference.times.now());
        let peer_is_open = !asked.web && asked.by.is_empty();
        let expected = match asked.outcome {
            Some(_) => Err(Code::FINAL),
            None if who == "bob" || peer_is_open || self.reference.leads(who) => Ok(()),
            None => Err(Code::NOT_ELIGIBLE),
        };
        let deed = Deed::Deny { by: self.bench.name(voice(who)), request: id };
        let result = self.bench.act(voice(who), now, Some("not now, please"), deed).await;
        answered(&result, left, expected);
        if expected.is_ok() {
            self.reference.finish(place, "denied");
        }
        format!("{who} denies {id}: {expected:?}")
    }

    async fn issue(&mut self) -> String {
        let Some(place) = self.some_window() else { return self.approve().await };
        let laptop = self.dice.roll(4) == 0;
        let key = if laptop { Key(self.bench.laptop.public().clone()) } else { self.bench.alice.key() };
        let left = self.window_left(place).await;
        let window = &self.reference.windows[place];
        let asked = &self.reference.asked[window.asked];
        let id = window.id;
        let stale = asked.web && asked.port != self.reference.version.port || self.reference.steps_left(asked) > 0;
        let first_use_refused = !window.claimed && stale;
        let expected = self.granting().and(match window.over {
            Some(_) => Err(Code::WINDOW_CLOSED),
            None if laptop && !window.second_key => Err(Code::OTHER_KEY),
            None if first_use_refused => Err(Code::REJUDGED),
            None => Ok(()),
        });
        let principal = format!(
            "{}/{}",
            if asked.web { "web-07" } else { "db-01" },
            if asked.narrowed { "viewer" } else { "deploy" }
        );
        let result = self.bench.broker().issue(&self.bench.alice.name, id, &key, None).await;
        answered(&result, left, expected);
        if expected == Err(Code::REJUDGED) {
            self.reference.end(place, "cancelled");
        }
        if let Ok(jit_broker::broker::Issued::Ssh(certificate)) = result {
            let facts = jit_ca::ssh::read(&certificate).unwrap();
            let window = &mut self.reference.windows[place];
            let before = i64::try_from(facts.valid_before).unwrap();
            assert_eq!(before, window.ends_at, "I2: the window is in the credential");
            assert_eq!(facts.principals.iter().map(ToString::to_string).collect::<Vec<_>>(), [principal]);
            assert!(facts.key == key.0 && facts.serial > 0);
            window.claimed = true;
            if window.certificates.insert(facts.serial, before).is_none() {
                assert!(self.reference.serials.insert(facts.serial), "I10: serial {} was used before", facts.serial);
            }
        }
        format!("issue under {id}, laptop {laptop}: {expected:?}")
    }

    async fn bind(&mut self) -> String {
        let Some(place) = self.some_window() else { return "nothing to bind to".to_owned() };
        let (id, now) = (self.reference.windows[place].id, self.reference.times.now());
        let left = self.window_left(place).await;
        let open = self.reference.windows[place].over.map_or(Ok(()), |_| Err(Code::WINDOW_CLOSED));
        let expected = self.active().and(self.granting()).and(open);
        let key = Key(self.bench.laptop.public().clone());
        let deed = Deed::BindKey { by: self.bench.alice.name.clone(), grant: id, key };
        let result = self.bench.act(Voice::Alice, now, None, deed).await;
        answered(&result, left, expected);
        self.reference.windows[place].second_key |= expected.is_ok();
        format!("bind the laptop to {id}: {expected:?}")
    }

    async fn release(&mut self) -> String {
        let Some(place) = self.some_window() else { return "nothing to release".to_owned() };
        let (id, now) = (self.reference.windows[place].id, self.reference.times.now());
        let left = self.window_left(place).await;
        let expected = match (self.reference.disabled, self.reference.windows[place].over) {
            (true, _) => Err(Code::DISABLED),
            (_, Some(_)) => Err(Code::FINAL),
            _ => Ok(()),
        };
        let deed = Deed::Release { by: self.bench.alice.name.clone(), grant: id };
        let result = self.bench.act(Voice::Alice, now, None, deed).await;
        answered(&result, left, expected);
        if expected.is_ok() {
            self.reference.end(place, "released");
        }
        format!("release {id}: {expected:?}")
    }

    async fn revoke(&mut self) -> String {
        let Some(place) = self.some_window() else { return "nothing to revoke".to_owned() };
        let who = self.dice.pick(&OTHERS).unwrap();
        let window = &self.reference.windows[place];
        let asked = &self.reference.asked[window.asked];
        let (id, now) = (window.id, self.reference.times.now());
        let current = !asked.web || asked.port == self.reference.version.port;
        let eligible = current && (!asked.web || self.reference.leads(who));
        let may = who == "bob" || asked.by.contains(&who) || eligible;
        let over = window.over.is_some();
        let deed = Deed::Revoke { by: self.bench.name(voice(who)), of: Selector::Grant(id) };
        let result = said(&self.bench.act(voice(who), now, Some("enough of that"), deed).await);
        let expected = match (may, over) {
            (false, _) => Err(Code::MISSING),
            (true, true) => Err(Code::FINAL),
            (true, false) => Ok(()),
        };
        // Only who approved what is over knows of it still.
        assert!(
            result == expected || over && matches!(result, Err(Code::MISSING | Code::FINAL)),
            "{who} revokes {id}: {result:?}"
        );
        if result.is_ok() {
            self.reference.end(place, "revoked");
        }
        format!("{who} revokes {id}: {result:?}")
    }

    async fn disable_or_enable(&mut self) -> String {
        let now = self.reference.times.now();
        if self.reference.disabled {
            let deed = Deed::Enable { by: self.bench.admin.name.clone(), person: self.bench.alice.name.clone() };
            let (result, expected) = (self.bench.act(Voice::Admin, now, None, deed).await, self.granting());
            assert_eq!(said(&result), expected);
            self.reference.disabled = expected.is_err();
            return format!("enable alice: {expected:?}");
        }
        let deed = Deed::Disable { by: self.bench.name(Voice::Other("bob")), person: self.bench.alice.name.clone() };
        self.bench.act(Voice::Other("bob"), now, Some("left the company"), deed).await.unwrap();
        self.reference.disabled = true;
        self.reference.end_all("revoked");
        for place in self.reference.pending.clone() {
            self.reference.finish(place, "invalidated");
        }
        "disable alice".to_owned()
    }

    /// A stop and a start, or a crash: of the process, of the machine, or just between the append and the signature.
    async fn begin_again(&mut self) -> String {
        let how = self.dice.roll(4);
        if self.dice.roll(2) == 0 {
            self.bench.broker().snapshot().await.unwrap();
        }
        if how == 0 {
            self.bench.say_stop().await;
        }
        self.check().await;
        let mut head = None;
        if how == 3 {
            head = Some(std::fs::read(self.bench.head()).unwrap());
            let last = self.ask().await;
            self.check().await;
            self.diary.steps.push(last);
        }
        if how == 2 {
            self.bench.clock.reboot();
        }
        if how == 0 {
            self.bench.end().await
        } else {
            self.bench.crash(head).await
        }
        self.reference.times.start(how == 2);
        self.bench.run().await.unwrap();
        self.check().await;
        crate::snapshot::as_folded(self.bench.broker()).await;
        self.look_at_everything().await;
        format!("begin again, {how}")
    }

    /// A careless administrator, or an attacker; or an operator who says that the clock is right as it is.
    async fn step_the_clock(&mut self) -> String {
        if self.reference.times.off != 0 && self.dice.roll(3) > 0 {
            self.bench.clock.step_wall(-self.reference.times.off);
            self.reference.times.off = 0;
            return "the wall clock is right again".to_owned();
        }
        if self.clock_is_wrong() {
            return self.confirm_the_clock().await;
        }
        // So that nothing of an earlier small step is left in the log.
        self.advance(40);
        self.check().await;
        let by = self.dice.pick(&[-7200, -60, 20, 300, 5000]).unwrap();
        self.bench.clock.step_wall(by);
        self.reference.times.off = by;
        format!("the wall clock steps by {by} s")
    }

    /// Windows of a clock that was ahead would last too long: they end.
    async fn confirm_the_clock(&mut self) -> String {
        let (by, now) = (self.bench.name(Voice::Other("bob")), self.reference.times.now());
        self.bench.act(Voice::Other("bob"), now, None, Deed::ConfirmClock { by }).await.unwrap();
        if self.reference.times.true_s + self.reference.times.off < now - 30 {
            self.reference.end_all("revoked");
        }
        self.reference.times.confirm();
        "bob confirms the clock".to_owned()
    }

    async fn change_the_rules(&mut self) -> String {
        let old = self.reference.version;
        let version = if self.dice.roll(2) == 0 {
            Version { port: if old.port == 22 { 2222 } else { 22 }, ..old }
        } else {
            Version { carol_leads: !old.carol_leads, ..old }
        };
        let (result, expected) = (self.bench.adopt(version, self.reference.times.now()).await, self.granting());
        assert_eq!(said(&result), expected);
        if expected.is_ok() {
            self.reference.version = version;
            for place in self.reference.pending.clone() {
                let asked = &self.reference.asked[place];
                if asked.web && asked.port != version.port {
                    self.reference.finish(place, "invalidated");
                }
            }
        }
        format!("adopt {version:?}: {expected:?}")
    }

    /// The host of web-07 takes the list that is served, or says so late.
    async fn confirm(&mut self) -> String {
        let served = self.bench.broker().krl().unwrap().version;
        let version = served.saturating_sub(self.dice.roll(2)).max(1);
        let now = self.reference.times.now();
        self.bench.confirm(version, now).await.unwrap();
        self.reference.confirmed = self.reference.confirmed.max(version);
        let future = self.bench.confirm(served + 1, now).await;
        assert_eq!(said(&future), Err(Code::BAD_ACT), "a list that is not there yet is not confirmed");
        format!("web-07 has list {version}")
    }
}

fn voice(who: &str) -> Voice<'_> {
    match who {
        "root-admin" => Voice::Admin,
        "alice" => Voice::Alice,
        other => Voice::Other(other),
    }
}
