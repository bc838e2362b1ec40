//! How fast `audit verify` is on one core: `cargo bench --bench verify`. Figures, never a test.
//!
//! `JIT_GRANTS` (2,000) grants with real signatures, asked for, agreed to and issued through a broker: everything is decided again. Then
//! `JIT_LEAVES` (300,000) leaves as opaque bytes of the usual length: the hashes alone, as `--quick` looks at them.
#![allow(clippy::unwrap_used)]

#[expect(dead_code, reason = "no shares of a list here")]
mod table;

use std::path::Path;
use std::time::Instant;

use jit_broker::clock::Simulated;
use jit_broker::daemon::Daemon;
use jit_broker::daemon::dev::{Somebody, TARGET, adopt, bundle};
use jit_broker::daemon::init::{Plan, init};
use jit_broker::daemon::verify::audit;
use jit_broker::domain::act::Deed;
use jit_broker::domain::ids::RequestId;
use jit_broker::domain::names::{RoleName, TargetName};
use jit_broker::domain::request::RequestState;
use jit_broker::domain::text::Words;
use jit_broker::ledger::verify::{Pinned, Source, verify_tree};
use jit_broker::ledger::{Checkpoint, Ledger, NewLeaf, NoteSigner, OpenMode, Reader, Row};
use jit_broker::settings::Settings;
use jit_broker::signer::gate::origin_of;
use jit_ca::key::PrivateKey;
use table::{Figure, row};

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn told(what: &str, entries: u64, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let rate = f64::from(u32::try_from(entries).unwrap()) / seconds;
    let (seen, met) = (format!("{rate:.0} entries/s; 10 M in {:.0} s", 1e7 / rate), 1e7 / rate <= 60.0);
    row(&Figure { what, seen, aim: "10 M in 60 s", met: Some(met) });
}

/// A broker's own log, and the time that judging all of it takes.
async fn whole(dir: &Path) {
    let clock = Simulated::at(1_800_000_000);
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
    let (settings, install) = (Settings::read(&made.config).unwrap(), made.genesis.install);
    let daemon = Daemon::start(&settings, clock.clone()).await.unwrap();
    let broker = &daemon.broker;
    adopt(broker, &admin, install, &bundle(&alice.key(), &bob.key(), "deploy", 22)).await.unwrap();
    for n in 0..number("JIT_GRANTS", 2000) {
        let words = Words { salt: format!("{n:032x}"), reason: Some(format!("hotfix for OPS-{n}")), ticket: None };
        let deed = Deed::Request {
            by: alice.name(),
            target: TargetName::new(TARGET).unwrap(),
            role: RoleName::new("deploy").unwrap(),
            for_s: Some(60),
            key: alice.key(),
        };
        let signed = alice.sign(install, broker.now(), Some(words.commitment()), deed).unwrap();
        let request = RequestId::of_digest(&signed.digest());
        broker.act(signed, Some(&words), None).await.unwrap();
        let (request_digest, terms) = {
            let memory = broker.memory().await;
            let asked = memory.state.requests.get(&request).unwrap();
            (asked.digest, asked.standing_terms())
        };
        let deed = Deed::Approve { by: bob.name(), request, request_digest, terms };
        broker.act(bob.sign(install, broker.now(), None, deed).unwrap(), None, None).await.unwrap();
        let state = broker.memory().await.state.requests.get(&request).unwrap().state.clone();
        let RequestState::Approved { grant: Some(grant) } = state else { panic!("{state:?}") };
        broker.issue(&alice.name(), grant, &alice.key(), None).await.unwrap();
        clock.advance(1);
    }
    daemon.stop().await;
    let begun = Instant::now();
    let origin = origin_of(&install.to_string());
    let report = audit(&settings.ledger, origin, &made.genesis.log_key, &[], None).await.unwrap();
    assert!(report.ok, "{:#?}", report.problems);
    told("audit verify: every entry decided again, every signature checked", report.size, begun);
}

struct Log(PrivateKey);

impl NoteSigner for Log {
    fn name(&self) -> &str {
        "bench/log"
    }

    fn public(&self) -> [u8; 32] {
        self.0.public().ed25519_bytes().unwrap()
    }

    fn sign(&self, body: &[u8]) -> [u8; 64] {
        self.0.sign_ed25519(body).unwrap()
    }
}

/// Opaque leaves, and the time that hashing them takes.
async fn tree(dir: &Path) {
    let (path, leaves) = (dir.join("tree.db"), number("JIT_LEAVES", 300_000));
    let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
    for from in (0..leaves).step_by(5000) {
        let batch = (from..from + 5000).map(|n| NewLeaf {
            bytes: format!("{n:0700}").into_bytes(),
            row: Row { at: 1_800_000_000, kind: "bench".to_owned(), ..Row::default() },
            blobs: Vec::new(),
        });
        ledger.append(batch.collect()).await.unwrap();
    }
    let (log, size) = (Log(PrivateKey::from_seed([1; 32])), ledger.size());
    let note = Checkpoint { origin: "bench/log".to_owned(), size, root: ledger.root() }.sign(&log);
    ledger.put_checkpoint(&note, size).await.unwrap();
    ledger.close().await.unwrap();
    let pinned = Pinned { origin: "bench/log".to_owned(), public: log.public(), genesis: None };
    let begun = Instant::now();
    let source = Source::Sqlite(Reader::open(&path).await.unwrap());
    let report = verify_tree(&source, &pinned, &[]).await.unwrap();
    assert!(report.ok, "{:#?}", report.problems);
    told("audit verify --quick: hashes and the newest checkpoint", report.size, begun);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    runtime.block_on(async {
        whole(dir.path()).await;
        tree(dir.path()).await;
    });
}
