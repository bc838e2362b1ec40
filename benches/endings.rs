//! Accounts that end, through the whole broker before a real PostgreSQL.
//!
//! `JIT_ENDINGS` (2,000) accounts that end spread over a minute, then in one second, then by revocation; how late each was proven gone is
//! read from the log. 50 sessions that are cut. Broker, ledger, signer, PostgreSQL and this program share the machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::table::{Figure, at, row};
use jit_broker::broker::{Broker, Issued};
use jit_broker::clock::{Clock as _, System};
use jit_broker::daemon::Daemon;
use jit_broker::daemon::dev::database::{DATABASE, SECRET_FILE, start};
use jit_broker::daemon::dev::{Somebody, adopt, bundle};
use jit_broker::daemon::init::{Plan, init};
use jit_broker::daemon::postgres::Server;
use jit_broker::daemon::verify::audit;
use jit_broker::domain::act::{Deed, Selector};
use jit_broker::domain::bundle::BundleText;
use jit_broker::domain::database::Auth;
use jit_broker::domain::event::{Entry, Event};
use jit_broker::domain::ids::{GrantId, InstallId, RequestId};
use jit_broker::domain::key::Key;
use jit_broker::domain::request::RequestState;
use jit_broker::domain::text::Words;
use jit_broker::settings::Settings;
use jit_ca::x509::X509Key;

const PEOPLE: usize = 10;
const TARGETS: usize = 20;
const ROLES: usize = 10;
/// How long the accounts may take to be made before the first one ends, in seconds.
const MAKING_S: i64 = 40;

struct World {
    broker: Broker,
    install: InstallId,
    people: Vec<Somebody>,
    bob: Somebody,
    key: Arc<X509Key>,
    server: Server,
    folder: std::path::PathBuf,
}

/// Ten people, twenty targets on one server with ten roles each: 2,000 grants that do not cover each other.
fn texts(people: &[Somebody], bob: &Somebody, port: u16, ca_pem: &str) -> BundleText {
    let mut text = bundle(&people[0].key(), &bob.key(), "ops", 22);
    let (mut persons, mut targets) = (String::new(), String::new());
    for person in people {
        let (name, key) = (person.name(), person.key());
        let _ = writeln!(persons, "[[person]]\nname = \"{name}\"\ngroups = [\"backend\"]\nkeys = [\"{key}\"]\n");
    }
    let _ = writeln!(persons, "[[person]]\nname = \"bob\"\ngroups = [\"leads\"]\nkeys = [\"{}\"]\n", bob.key());
    persons.push_str("[offices]\noperators = [\"group:leads\"]\nauditors = [\"group:leads\"]\n");
    for n in 0..TARGETS {
        let _ = writeln!(
            targets,
            "[[target]]\nname = \"db-{n}\"\nkind = \"postgres\"\naddress = \"127.0.0.1:{port}\"\ndatabase = \"{DATABASE}\"\n\
             mode = \"direct\"\nauth = \"cert\"\nadmin = \"credential:{SECRET_FILE}\"\ntls = {{ ca = \"db-ca.crt\", name = \"localhost\" }}"
        );
        for role in 0..ROLES {
            let _ = writeln!(targets, "[target.roles.r{role}]\nmember_of = [\"app_writer\"]");
        }
    }
    let roles: Vec<String> = (0..ROLES).map(|n| format!("\"r{n}\"")).collect();
    let policy = format!(
        "schema = 1\n[[rule]]\nid = \"db\"\nwho = [\"group:backend\"]\ntargets = {{ kind = \"postgres\" }}\nroles = [{}]\nmax = \"1h\"\n\
         record = \"off\"\nauto = true\n",
        roles.join(", ")
    );
    for (name, content) in
        [("people.toml", persons), ("targets.toml", targets), ("policy.toml", policy), ("db-ca.crt", ca_pem.to_owned())]
    {
        text.files.insert(name.to_owned(), content);
    }
    text
}

async fn world(folder: &Path) -> (World, Daemon, Settings) {
    let [admin, bob] = ["root-admin", "bob"].map(|n| Somebody::make(folder, n).unwrap());
    let people: Vec<_> = (0..PEOPLE).map(|n| Somebody::make(folder, &format!("person-{n}")).unwrap()).collect();
    let plan = Plan {
        dir: folder.join("broker"),
        admin: admin.name(),
        key: admin.key(),
        listen: "127.0.0.1:0".parse().unwrap(),
        public_url: "https://127.0.0.1:7443".to_owned(),
        gateway_ssh: None,
        gateway_source: Vec::new(),
    };
    let made = init(&plan, Arc::new(System::new())).await.unwrap();
    let ca_dir = Settings::read(&made.config).unwrap().ca_dir;
    let server = start(&plan.dir, &ca_dir, Auth::Cert, System::new().read().wall_s, "").unwrap();
    std::fs::write(folder.join("root.crt"), &server.ca_pem).unwrap();
    let settings = Settings::read(&made.config).unwrap();
    let daemon = Daemon::start(&settings, Arc::new(System::new())).await.unwrap();
    let install = made.genesis.install;
    adopt(&daemon.broker, &admin, install, &texts(&people, &bob, server.port, &server.ca_pem)).await.unwrap();
    let key = Arc::new(X509Key::generate().unwrap());
    let (broker, folder) = (daemon.broker.clone(), folder.to_path_buf());
    (World { broker, install, people, bob, key, server, folder }, daemon, settings)
}

fn wall_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

impl World {
    fn key(&self) -> Key {
        Key(self.key.public().unwrap())
    }

    /// The grant of a number, with its account and certificate.
    async fn open(&self, n: usize, for_s: i64) -> (GrantId, String) {
        let who = &self.people[n % PEOPLE];
        let (target, role) = (n / PEOPLE % TARGETS, n / PEOPLE / TARGETS % ROLES);
        let deed = Deed::Request {
            by: who.name(),
            target: format!("db-{target}").parse().unwrap(),
            role: format!("r{role}").parse().unwrap(),
            for_s: u64::try_from(for_s).ok(),
            key: self.key(),
        };
        let signed = who.sign(self.install, self.broker.now(), None, deed).unwrap();
        let id = RequestId::of_digest(&signed.digest());
        self.broker.act(signed, None, None).await.unwrap();
        let RequestState::Approved { grant: Some(grant) } =
            self.broker.memory().await.state.requests.get(&id).unwrap().state
        else {
            panic!("not granted");
        };
        match self.broker.issue(&who.name(), grant, &self.key(), None).await.unwrap() {
            Issued::Client(pem) => (grant, pem),
            other => panic!("{other:?}"),
        }
    }

    /// Opens many, 32 at a time, each until its own end.
    async fn open_all(self: &Arc<Self>, number: usize, end: impl Fn(usize) -> i64) -> Vec<GrantId> {
        let places = Arc::new(tokio::sync::Semaphore::new(32));
        let mut tasks = Vec::new();
        for n in 0..number {
            let (world, end, place) = (self.clone(), end(n), places.clone().acquire_owned().await.unwrap());
            tasks.push(tokio::spawn(async move {
                let grant = world.open(n, end - world.broker.now()).await.0;
                drop(place);
                grant
            }));
        }
        let mut grants = Vec::new();
        for task in tasks {
            grants.push(task.await.unwrap());
        }
        grants
    }

    /// Waits until nothing is left, then gives when each grant was proven over, in milliseconds of the wall clock, and when it should be.
    async fn ended(&self, grants: &[GrantId]) -> Vec<(i64, i64)> {
        let mut changed = self.broker.changed();
        loop {
            let memory = self.broker.memory().await;
            if !grants.iter().any(|id| memory.state.open_grants.contains(id)) {
                break;
            }
            drop(memory);
            tokio::time::timeout(Duration::from_secs(300), changed.changed()).await.unwrap().unwrap();
            // Looking costs as much as ending one: not after every entry.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let behind = wall_ms() - i64::try_from(System::new().read().boot.ms).unwrap();
        let (mut opened, mut over, mut from) = (BTreeMap::new(), BTreeMap::new(), 0);
        loop {
            let page = self.broker.reader().leaves(from, 1000).await.unwrap();
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            for leaf in page {
                let entry: Entry = serde_json::from_slice(&leaf.bytes).unwrap();
                match entry.event {
                    Event::GrantOpened { grant, ends_at, .. } => drop(opened.insert(grant, ends_at * 1000)),
                    Event::GrantEnded { grant, .. } => {
                        over.insert(grant, i64::try_from(entry.boot.ms).unwrap() + behind);
                    }
                    _ => {}
                }
            }
        }
        grants.iter().map(|id| (over[id], opened[id])).collect()
    }

    fn accounts(&self) -> String {
        self.server.sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname LIKE '%\\_jit'").unwrap()
    }

    async fn revoke(&self, of: Selector) {
        let text = Words { salt: "0".repeat(32), reason: Some("the servers are going away".to_owned()), ticket: None };
        let deed = Deed::Revoke { by: self.bob.name(), of };
        let signed = self.bob.sign(self.install, self.broker.now(), Some(text.commitment()), deed).unwrap();
        self.broker.act(signed, Some(&text), None).await.unwrap();
    }

    /// Sessions that sleep, each of an account of its own; gives a handle that tells when psql was cut.
    async fn sessions(&self, number: usize, for_s: i64) -> (Vec<GrantId>, Vec<std::thread::JoinHandle<i64>>) {
        let (mut grants, mut handles) = (Vec::new(), Vec::new());
        let end = self.broker.now() + for_s;
        for n in 0..number {
            let (grant, pem) = self.open(n, end - self.broker.now()).await;
            let name =
                self.broker.memory().await.state.grants.get(&grant).unwrap().account.as_ref().unwrap().name.clone();
            let file = self.folder.join(format!("{name}.pem"));
            std::fs::write(&file, format!("{pem}{}", self.key.to_pkcs8_pem().as_str())).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            let mut psql = Command::new("psql");
            psql.args(["-X", "-q", "-w", "-h", "localhost", "-d", DATABASE, "-c", "SELECT pg_sleep(600)", "-U"]);
            psql.arg(name.as_str()).args(["-p", &self.server.port.to_string()]).env("PGHOSTADDR", "127.0.0.1");
            psql.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", self.folder.join("root.crt"));
            psql.env("PGSSLCERT", &file).env("PGSSLKEY", &file).env("HOME", &self.folder);
            let mut child = psql.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            handles.push(std::thread::spawn(move || {
                assert!(!child.wait().unwrap().success());
                wall_ms()
            }));
            grants.push(grant);
        }
        let text = "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE '%\\_jit' AND query LIKE '%sleep%'";
        let until = Instant::now() + Duration::from_secs(20);
        while self.server.sql("postgres", text).unwrap() != number.to_string() {
            assert!(Instant::now() < until, "the sessions do not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (grants, handles)
    }
}

fn late(list: &[(i64, i64)]) -> Vec<f64> {
    list.iter().map(|(over, due)| (over - due) as f64 / 1000.0).collect()
}

fn spread(late: &[f64]) -> String {
    format!(
        "p50 {:.2} s, p95 {:.2} s, p99 {:.2} s, max {:.2} s",
        at(late, 50),
        at(late, 95),
        at(late, 99),
        at(late, 100)
    )
}

async fn many(world: &Arc<World>, number: usize) {
    let begun = Instant::now();
    let first = world.broker.now() + MAKING_S;
    let step = |n: usize| first + i64::try_from(n * 60 / number).unwrap();
    let grants = world.open_all(number, step).await;
    let took = begun.elapsed().as_secs_f64();
    println!("{number} accounts made through the broker in {took:.1} s, {:.0} a second", number as f64 / took);
    let over = late(&world.ended(&grants).await);
    let what = format!("{number} accounts ending in the same minute: lateness of the proven drop");
    row(&Figure { what: &what, seen: spread(&over), aim: "p99 ≤ 1 s", met: Some(at(&over, 99) <= 1.0) });

    let end = world.broker.now() + MAKING_S;
    let grants = world.open_all(number, |_| end).await;
    assert!(world.broker.now() < end, "making them took too long");
    let over = late(&world.ended(&grants).await);
    let what = format!("{number} accounts ending in the same second: lateness of the proven drop");
    row(&Figure { what: &what, seen: spread(&over), aim: "all ≤ 5 s", met: Some(at(&over, 100) <= 5.0) });

    let grants = world.open_all(number, |_| world.broker.now() + 3600).await;
    let begun = wall_ms();
    for n in 0..TARGETS {
        world.revoke(Selector::Target(format!("db-{n}").parse().unwrap())).await;
    }
    let acts = wall_ms() - begun;
    let over: Vec<_> = world.ended(&grants).await.into_iter().map(|(over, _)| (over, begun)).collect();
    let seen = format!("{}; the {TARGETS} acts themselves {acts} ms", spread(&late(&over)));
    let what = format!("{number} accounts revoked at once ({TARGETS} acts): proven drop after the first act");
    row(&Figure { what: &what, seen, aim: "all ≤ 5 s", met: Some(at(&late(&over), 100) <= 5.0) });
    assert_eq!(world.accounts(), "0");
}

async fn cut(world: &Arc<World>) {
    let (grants, handles) = world.sessions(50, 20).await;
    let due = world.broker.memory().await.state.grants.get(&grants[0]).unwrap().ends_at * 1000;
    let ends: Vec<_> = handles.into_iter().map(|h| h.join().unwrap()).map(|cut| (cut, due)).collect();
    let over = late(&ends);
    let seen = format!("p50 {:.0} ms, max {:.0} ms", at(&over, 50) * 1e3, at(&over, 100) * 1e3);
    let what = "50 live sessions whose windows end in one second: cut";
    row(&Figure { what, seen, aim: "≤ 1 s", met: Some(at(&over, 100) <= 1.0) });
    let mut alone = Vec::new();
    let (grants, handles) = world.sessions(50, 3000).await;
    for (grant, handle) in grants.iter().zip(handles) {
        let begun = wall_ms();
        world.revoke(Selector::Grant(*grant)).await;
        alone.push((handle.join().unwrap(), begun));
    }
    let over = late(&alone);
    let seen = format!("p50 {:.0} ms, max {:.0} ms", at(&over, 50) * 1e3, at(&over, 100) * 1e3);
    let what = "50 live sessions revoked one after the other: cut after the act was sent";
    row(&Figure { what, seen, aim: "≤ 1 s", met: Some(at(&over, 100) <= 1.0) });
    world.ended(&grants).await;
}

/// Reads back and decides every entry of what was just done, with the signature of every act.
async fn verify(settings: &Settings, install: InstallId, log_key: &Key) {
    let begun = Instant::now();
    let origin = jit_broker::signer::gate::origin_of(&install.to_string());
    let report = audit(&settings.ledger, origin, log_key, &[], None).await.unwrap();
    let took = begun.elapsed().as_secs_f64();
    assert!(report.ok, "{:?}", report.problems.first());
    let each = took / report.size as f64;
    let seen =
        format!("{:.0} entries a second ({} in {took:.1} s), 10 M in {:.0} s", 1.0 / each, report.size, each * 1e7);
    let what = "audit verify: every leaf hashed, every command decided again, every act's signature checked";
    row(&Figure { what, seen, aim: "10 M in ≤ 60 s", met: Some(each * 1e7 <= 60.0) });
}

/// Runs it all.
pub fn run(runtime: &tokio::runtime::Runtime) {
    let number = std::env::var("JIT_ENDINGS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000);
    let folder = tempfile::Builder::new().prefix("endings").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    runtime.block_on(async {
        let (world, daemon, settings) = world(folder.path()).await;
        let world = Arc::new(world);
        cut(&world).await;
        many(&world, number).await;
        let log_key = world.broker.memory().await.state.genesis.as_ref().unwrap().log_key.clone();
        let install = world.install;
        drop(world);
        daemon.stop().await;
        verify(&settings, install, &log_key).await;
    });
}
