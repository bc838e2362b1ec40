//! How a start and a command go beside a long ledger: `cargo bench --bench long_ledger`. Figures, never a test.
//!
//! `JIT_EVENTS` (1,000,000) entries of grants that are over, and `JIT_LIVE` (100,000) grants that are live; each in a ledger of its own. The
//! entries are made without signatures below a head that claims to have seen them, so that making them takes a minute and not an hour; what is
//! read and folded is as long as the real thing.
#![allow(clippy::unwrap_used)]

mod table;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use jit_broker::broker::reaper::round;
use jit_broker::clock::Simulated;
use jit_broker::daemon::Daemon;
use jit_broker::daemon::dev::{Somebody, TARGET, adopt, bundle};
use jit_broker::daemon::init::{Plan, init};
use jit_broker::domain::act::{Deed, SignedAct, Terms};
use jit_broker::domain::digest::{Digest, canonical};
use jit_broker::domain::event::{Boot, Cause, Command, ENTRY_VERSION, Entry, Event};
use jit_broker::domain::ids::{GrantId, InstallId, RequestId};
use jit_broker::domain::key::Key;
use jit_broker::domain::names::{PersonName, RoleName, StepName, TargetName};
use jit_broker::domain::request::RequestState;
use jit_broker::domain::text::Words;
use jit_broker::ledger::{Blob, Keep, Ledger, NewLeaf, OpenMode, Row};
use jit_broker::settings::Settings;
use table::{Figure, at, row};

const BEGIN: i64 = 1_800_000_000;

/// A clock whose wall time and boot-time clock have gone on together since the entries were made.
fn later(now: i64) -> Arc<Simulated> {
    let clock = Simulated::at(BEGIN);
    clock.advance(u64::try_from(now - BEGIN).unwrap());
    clock
}

struct World {
    settings: Settings,
    install: InstallId,
    alice: Somebody,
    bob: Somebody,
}

async fn world(dir: &Path) -> World {
    std::fs::create_dir_all(dir).unwrap();
    let clock = Simulated::at(BEGIN);
    let [admin, alice, bob] = ["root-admin", "alice", "bob"].map(|n| Somebody::make(dir, n).unwrap());
    let plan = Plan {
        dir: dir.join("broker"),
        admin: admin.name(),
        key: admin.key(),
        listen: "127.0.0.1:0".parse().unwrap(),
        public_url: "https://127.0.0.1:7443".to_owned(),
        gateway_ssh: None,
        gateway_source: Vec::new(),
    };
    let made = init(&plan, clock.clone()).await.unwrap();
    let settings = Settings::read(&made.config).unwrap();
    let daemon = Daemon::start(&settings, clock.clone()).await.unwrap();
    let text = bundle(&alice.key(), &bob.key(), "deploy", 22);
    adopt(&daemon.broker, &admin, made.genesis.install, &text).await.unwrap();
    daemon.stop().await;
    World { settings, install: made.genesis.install, alice, bob }
}

/// Writes entries by the thousand.
struct Scribe {
    ledger: Ledger,
    leaves: Vec<NewLeaf>,
    next: u64,
    sample: SignedAct,
}

impl Scribe {
    async fn put(&mut self, at: i64, act: Option<u64>, event: Event, words: Option<&Words>) {
        let cause = act.map(|n| {
            let nonce = format!("{n:032x}");
            let text = self.sample.act.replace(&"0".repeat(32), &nonce);
            Command::Act(SignedAct { act: text, signature: self.sample.signature.clone() })
        });
        let boot = Boot { id: "boot-1".to_owned(), ms: 1_000_000 };
        let entry = Entry { v: ENTRY_VERSION, seq: self.next, at, boot, cause, event };
        let concerns = entry.event.concerns();
        let row = Row {
            at,
            kind: entry.event.kind(),
            actor: concerns.actor.map(String::from),
            request_id: concerns.request.map(String::from),
            grant_id: concerns.grant.map(String::from),
            session_id: None,
            target: concerns.target.map(String::from),
        };
        let blobs = words.map(|w| Blob { bytes: w.bytes(), keep: Keep::Shreddable }).into_iter().collect();
        self.leaves.push(NewLeaf { bytes: canonical(&entry).unwrap(), row, blobs });
        self.next += 1;
        if self.leaves.len() >= 5000 {
            self.ledger.append(std::mem::take(&mut self.leaves)).await.unwrap();
        }
    }

    /// One request, one approval, one grant with one certificate; over after `for_s`, or live for as long.
    async fn grant(&mut self, n: u64, at: i64, for_s: u64, over: bool) {
        let request = RequestId::of_digest(&Digest::of(format!("r{n}").as_bytes()));
        let grant = GrantId::of_digest(&Digest::of(format!("g{n}").as_bytes()));
        let person: PersonName = PersonName::new(format!("user{}", n % 1000)).unwrap();
        let bob = PersonName::new("bob").unwrap();
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&n.to_be_bytes());
        let key = Key(jit_ca::key::PrivateKey::from_seed(seed).public().clone());
        let digest = Digest::of(&seed);
        let act = jit_broker::domain::ids::ActId::of_digest(&digest);
        let salt = format!("{n:032x}");
        let words = Words { salt, reason: Some(format!("hotfix for OPS-{n}, as agreed with the team")), ticket: None };
        let terms = Terms {
            target: TargetName::new(TARGET).unwrap(),
            target_digest: digest,
            role: RoleName::new("deploy").unwrap(),
            logins: vec!["deploy".parse().unwrap()],
            allow: vec![jit_broker::domain::target::Allow::Shell, jit_broker::domain::target::Allow::Exec],
            database: None,
            gateway: false,
            for_s,
        };
        let (length, commitment) = (i64::try_from(for_s).unwrap(), Some(words.commitment()));
        let submitted = Event::RequestSubmitted {
            request,
            digest,
            person: person.clone(),
            key: Some(key.clone()),
            terms: terms.clone(),
            code: "amber-acorn".to_owned(),
            answer_by: at + 28_800,
            rules: vec!["prod-deploy".parse().unwrap()],
            words: commitment,
            deed: None,
            key_fp: None,
            attested: false,
            extends: None,
        };
        self.put(at, Some(2 * n), submitted, Some(&words)).await;
        let step = StepName::new("peer").unwrap();
        let approved = Event::StepApproved {
            request,
            act,
            step,
            by: bob,
            touched: false,
            terms: terms.clone(),
            words: None,
            key_fp: None,
        };
        self.put(at, Some(2 * n + 1), approved, None).await;
        self.put(at, None, Event::RequestApproved { request, grant: Some(grant) }, None).await;
        let (ends_at, claim_by) = (at + length, at + 1800);
        let opened = Event::GrantOpened {
            grant,
            request,
            person,
            key: key.clone(),
            terms,
            starts_at: at,
            ends_at,
            claim_by,
            credential_s: None,
        };
        self.put(at, None, opened, None).await;
        let serial = n + 1;
        let issued = Event::CredentialIssued {
            credential: jit_broker::domain::grant::CredentialKind::SshUser,
            grant,
            serial,
            key,
            valid_after: at - 60,
            valid_before: ends_at,
            nonce: digest,
            tbs_sha256: digest,
        };
        self.put(at, None, issued, None).await;
        if over {
            let cause = Cause::WindowEnd;
            let ending = Event::GrantEnding { grant, cause, by: None, serials: Vec::new(), words: None };
            self.put(at, None, ending, None).await;
            self.put(at, None, Event::GrantEnded { grant, cause, proofs: Vec::new(), kept: Vec::new() }, None).await;
        }
    }

    async fn done(mut self, settings: &Settings) {
        self.ledger.append(std::mem::take(&mut self.leaves)).await.unwrap();
        let root = data_encoding::HEXLOWER.encode(&self.ledger.root());
        let head = format!("{{\"size\":{},\"root\":\"{root}\",\"krl_version\":0}}", self.ledger.size());
        std::fs::write(settings.ca_dir.join("head.json"), head).unwrap();
        self.ledger.close().await.unwrap();
    }
}

async fn scribe(world: &World) -> Scribe {
    let ledger = Ledger::open(&world.settings.ledger, OpenMode::Write).await.unwrap();
    let deed = Deed::Withdraw { by: world.alice.name(), request: RequestId::new([1; 16]) };
    let mut sample = world.alice.sign(world.install, BEGIN, None, deed).unwrap();
    let at = sample.act.find("\"nonce\":\"").unwrap() + 9;
    sample.act.replace_range(at..at + 32, &"0".repeat(32));
    let next = ledger.size();
    Scribe { ledger, leaves: Vec::new(), next, sample }
}

fn memory_mb(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// A process of its own, so that its memory is its own: start, figures, stop.
async fn start(config: &str, now: &str, what: &str, most_s: &str, most_mb: &str) {
    let settings = Settings::read(Path::new(config)).unwrap();
    let clock = later(now.parse().unwrap());
    let begun = Instant::now();
    let daemon = Daemon::start(&settings, clock).await.unwrap();
    let (took, rss, peak) = (begun.elapsed(), memory_mb("VmRSS"), memory_mb("VmHWM"));
    let begun = Instant::now();
    daemon.stop().await;
    let seen = format!("{took:.2?}, {rss} MB after it, {peak} MB at most; stop {:.2?}", begun.elapsed());
    let (aim_s, aim_mb): (f64, u64) = (most_s.parse().unwrap(), most_mb.parse().unwrap());
    let aim = match (aim_s > 0.0, aim_mb > 0) {
        (true, _) => format!("≤ {aim_s} s, ≤ {aim_mb} MB"),
        (false, true) => format!("≤ {aim_mb} MB"),
        (false, false) => String::new(),
    };
    let met = (aim_s == 0.0 || took.as_secs_f64() <= aim_s) && (aim_mb == 0 || rss <= aim_mb);
    row(&Figure { what, seen, aim: &aim, met: (!aim.is_empty()).then_some(met) });
}

fn starts(what: &str, world: &World, dir: &Path, now: i64, aims: [&str; 2]) {
    for round in ["without a snapshot", "with a snapshot"] {
        let (config, program) = (dir.join("broker/jit-broker.toml"), std::env::current_exe().unwrap());
        let what = format!("start with {what}, {round}");
        // What it costs once, after a snapshot was lost, has no aim.
        let aims = if round.starts_with("without") { ["0", "0"] } else { aims };
        let mut command = std::process::Command::new(program);
        command.arg("start").arg(config).arg(now.to_string()).arg(what).args(aims);
        assert!(command.status().unwrap().success());
    }
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len() >> 10);
    let (broker, signer) = (world.settings.state_dir.join("snapshot"), world.settings.ca_dir.join("head.fold"));
    println!("  snapshots: broker {} kB, signer {} kB", size(&broker), size(&signer));
}

/// The medians of some commands, each durable and signed.
async fn operate(what: &str, world: &World, clock: &Arc<Simulated>) {
    let daemon = Daemon::start(&world.settings, clock.clone()).await.unwrap();
    let broker = &daemon.broker;
    let mut times: [Vec<f64>; 5] = Default::default();
    let words = Words { salt: "0".repeat(32), reason: Some("hotfix for OPS-1".to_owned()), ticket: None };
    for _ in 0..300 {
        let us = |begun: Instant| begun.elapsed().as_secs_f64() * 1e6;
        let sign = |who: &Somebody, words: Option<&Words>, deed| {
            who.sign(world.install, broker.now(), words.map(Words::commitment), deed).unwrap()
        };
        let deed = Deed::Request {
            by: world.alice.name(),
            target: TargetName::new(TARGET).unwrap(),
            role: RoleName::new("deploy").unwrap(),
            for_s: Some(3600),
            key: world.alice.key(),
        };
        let ask = sign(&world.alice, Some(&words), deed);
        let id = RequestId::of_digest(&ask.digest());
        let begun = Instant::now();
        broker.act(ask, Some(&words), None).await.unwrap();
        times[0].push(us(begun));
        let (request_digest, terms) = {
            let memory = broker.memory().await;
            let request = memory.state.requests.get(&id).unwrap();
            (request.digest, request.standing_terms())
        };
        let deed = Deed::Approve { by: world.bob.name(), request: id, request_digest, terms };
        let approve = sign(&world.bob, None, deed);
        let begun = Instant::now();
        broker.act(approve, None, None).await.unwrap();
        times[1].push(us(begun));
        let RequestState::Approved { grant: Some(grant) } =
            broker.memory().await.state.requests.get(&id).unwrap().state
        else {
            panic!("not approved");
        };
        let begun = Instant::now();
        broker.issue(&world.alice.name(), grant, &world.alice.key(), None).await.unwrap();
        times[2].push(us(begun));
        let release = sign(&world.alice, None, Deed::Release { by: world.alice.name(), grant });
        let begun = Instant::now();
        broker.act(release, None, None).await.unwrap();
        times[3].push(us(begun));
        let begun = Instant::now();
        round(broker).await.unwrap();
        times[4].push(us(begun));
    }
    let names = ["ask", "approve", "issue", "release and list", "reaper's look"];
    let seen =
        names.iter().zip(&times).map(|(name, all)| format!("{name} {:.0} µs (p95 {:.0})", at(all, 50), at(all, 95)));
    let seen = seen.collect::<Vec<_>>().join(", ");
    row(&Figure { what, seen, aim: "", met: None });
    daemon.stop().await;
}

async fn measure(dir: &Path) {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(usual);
    let (events, live) = (number("JIT_EVENTS", 1_000_000), number("JIT_LIVE", 100_000));

    let long = world(&dir.join("long")).await;
    let begun = Instant::now();
    let mut writer = scribe(&long).await;
    for n in 0..events / 7 {
        writer.grant(n, BEGIN + i64::try_from(n).unwrap() * 10, 600, true).await;
    }
    writer.done(&long.settings).await;
    println!("{events} entries made in {:.0?}", begun.elapsed());
    let end = BEGIN + i64::try_from(events / 7).unwrap() * 10;
    starts(&format!("{events} entries in the ledger"), &long, &dir.join("long"), end, ["2", "120"]);

    for (name, live) in [("few", 100), ("many", live)] {
        let folder = dir.join(name);
        let held = world(&folder).await;
        let mut writer = scribe(&held).await;
        for n in 0..live {
            writer.grant(n, BEGIN + 1, 86_400, false).await;
        }
        writer.done(&held.settings).await;
        if live > 100 {
            starts(&format!("{live} live grants"), &held, &folder, BEGIN + 2000, ["0", "250"]);
        }
        operate(
            &format!("one command at a time beside {live} live grants, each durable and signed"),
            &held,
            &later(BEGIN + 2000),
        )
        .await;
    }
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "start", config, now, what, s, mb] => runtime.block_on(start(config, now, what, s, mb)),
        _ => {
            let folder =
                tempfile::Builder::new().prefix("long-ledger").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            runtime.block_on(measure(folder.path()));
        }
    }
}
