//! SSH certificates a second, over HTTPS connections that are kept, with an entry in the log each that is on the disk before it leaves.
//!
//! `cargo bench --bench certificates [-- ROUNDS]`. The broker is the built program in a process of its own, so that its CPU is its alone; the
//! load is one thread of this process. Every certificate is of a fresh key under a live grant; people, grants and keys are made before.
//! In every round a bare SQLite commit is measured as well: what one durable append costs on this disk. At the end each certificate is
//! compared with its entry in the log. `JIT_PROGRAM` measures another build, `JIT_CERTIFICATES` a share of them in percent.
#![allow(clippy::unwrap_used)]

mod load;
#[path = "../table.rs"]
mod table;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use jit_broker::clock::{System, fill, wall_s};
use jit_broker::daemon::dev::Somebody;
use jit_broker::daemon::init::{Plan, init};
use jit_broker::domain::act::Deed;
use jit_broker::domain::bundle::BundleText;
use jit_broker::domain::digest::Digest;
use jit_broker::domain::event::{Entry, Event};
use jit_broker::domain::ids::{GrantId, InstallId};
use jit_broker::domain::key::Key;
use jit_broker::domain::names::{RoleName, TargetName};
use jit_broker::ledger::Reader;
use jit_broker::settings::Settings;
use jit_ca::key::PrivateKey;
use load::{Came, Place, request};
use serde_json::{Value, json};
use sqlx::ConnectOptions as _;
use table::{Figure, at, row};

/// Connections, and how many certificates they ask for in a round.
const LEVELS: [(usize, usize); 3] = [(1, 1000), (8, 6000), (32, 20_000)];
/// A grant takes at most eight keys.
const KEYS: usize = 8;
/// A person may sign a thousand acts at once, so no more than this many grants each, with their keys.
const TARGETS: usize = 100;

struct Served {
    child: Child,
    ledger: PathBuf,
    place: Place,
    url: String,
    install: InstallId,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Served {
    async fn start(dir: &Path, admin: &Somebody) -> Self {
        let port = free_port();
        let url = format!("https://127.0.0.1:{port}");
        let plan = Plan {
            dir: dir.join("broker"),
            admin: admin.name(),
            key: admin.key(),
            listen: ([127, 0, 0, 1], port).into(),
            public_url: url.clone(),
            gateway_ssh: None,
            gateway_source: Vec::new(),
        };
        let made = init(&plan, Arc::new(System::new())).await.unwrap();
        let settings = Settings::read(&made.config).unwrap();
        let program = std::env::var("JIT_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_jit-broker").to_owned());
        let mut serve = Command::new(program);
        let mut child = serve.arg("serve").arg("--config").arg(&made.config).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("listening on")), "the broker did not start");
        std::thread::spawn(move || lines.for_each(|line| eprintln!("{line}")));
        let ca = std::fs::read(settings.ca_dir.join("x509_server.crt")).unwrap();
        let place = Place::new(&ca, port);
        Self { child, ledger: settings.ledger, place, url, install: made.genesis.install }
    }

    async fn act(&self, connection: &mut load::Connection, who: &Somebody, deed: Deed, more: Value) -> Value {
        let signed = who.sign(self.install, wall_s(), None, deed).unwrap();
        let mut post = json!({ "act": signed.act, "signature": signed.signature });
        post.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        serde_json::from_slice(&connection.call(&request("/v1/acts", None, &post.to_string())).await).unwrap()
    }

    /// Signs somebody in; gives the token.
    async fn sign_in(&self, connection: &mut load::Connection, who: &Somebody) -> String {
        let challenge = connection.call(&request("/v1/challenge", None, "{}")).await;
        let challenge: Value = serde_json::from_slice(&challenge).unwrap();
        let challenge = challenge["challenge"].as_str().unwrap().to_owned();
        let deed = Deed::Login { public_url: self.url.clone(), challenge };
        self.act(connection, who, deed, Value::Null).await["session"]["token"].as_str().unwrap().to_owned()
    }

    /// User and system time of the broker, in seconds.
    fn cpu_s(&self) -> f64 {
        cpu_s(&self.child.id().to_string())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// proc(5): ticks of 10 ms.
fn cpu_s(pid: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = text.rsplit(')').next().unwrap();
    let fields: Vec<f64> = after.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (fields[10] + fields[11]) / 100.0
}

/// Everybody may have the role on every target, without asking anybody.
fn bundle(people: &[Somebody], targets: usize) -> BundleText {
    let people: String = people
        .iter()
        .map(|who| {
            format!("[[person]]\nname = \"{}\"\ngroups = [\"backend\"]\nkeys = [\"{}\"]\n", who.name(), who.key())
        })
        .collect();
    let targets: String = (0..targets)
        .map(|n| {
            format!(
                "[[target]]\nname = \"web-{n}\"\nkind = \"ssh\"\naddress = \"10.0.0.1:22\"\nmode = \"direct\"\n\
                 host_ca = \"@broker\"\n[target.roles.deploy]\nlogins = [\"deploy\"]\n"
            )
        })
        .collect();
    let policy = "schema = 1\n[[rule]]\nid = \"deploy\"\nwho = [\"group:backend\"]\ntargets = { kind = \"ssh\" }\n\
                  roles = [\"deploy\"]\nmax = \"1h\"\nrecord = \"off\"\nauto = true\n";
    let files = [("people.toml", people), ("targets.toml", targets), ("policy.toml", policy.to_owned())];
    BundleText { files: files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect() }
}

/// A grant with all its keys, as requests for a certificate each.
async fn grant(
    served: &Served,
    connection: &mut load::Connection,
    (who, token): (&Somebody, &str),
    target: usize,
) -> Vec<Vec<u8>> {
    let keys: Vec<Key> = (0..KEYS)
        .map(|_| {
            let mut seed = [0; 32];
            fill(&mut seed);
            Key(PrivateKey::from_seed(seed).public().clone())
        })
        .collect();
    let deed = Deed::Request {
        by: who.name(),
        target: TargetName::new(format!("web-{target}")).unwrap(),
        role: RoleName::new("deploy").unwrap(),
        for_s: Some(3600),
        key: keys[0].clone(),
    };
    let outcome = served.act(connection, who, deed, Value::Null).await;
    let id: GrantId = outcome["grants"][0]["id"].as_str().unwrap().parse().unwrap();
    for key in &keys[1..] {
        let deed = Deed::BindKey { by: who.name(), grant: id, key: key.clone() };
        served.act(connection, who, deed, Value::Null).await;
    }
    let path = format!("/v1/grants/{id}/credential");
    keys.iter().map(|key| request(&path, Some(token), &json!({ "key": key }).to_string())).collect()
}

/// Requests for certificates: neighbours are of different grants, and one in eight is the first under its grant, which policy judges again.
async fn prepare(served: &Arc<Served>, people: &Arc<Vec<Somebody>>, count: usize) -> Vec<Vec<u8>> {
    let grants = count.div_ceil(KEYS);
    let mut connection = served.place.connect().await;
    let mut tokens = Vec::new();
    for who in people.iter() {
        tokens.push(served.sign_in(&mut connection, who).await);
    }
    let (next, tokens) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokens));
    let work: Vec<_> = (0..16)
        .map(|_| {
            let (next, served, people, tokens) = (next.clone(), served.clone(), people.clone(), tokens.clone());
            tokio::spawn(async move {
                let (mut connection, mut made) = (served.place.connect().await, Vec::new());
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= grants {
                        return made;
                    }
                    let (person, target) = (n % people.len(), n / people.len());
                    let who = (&people[person], tokens[person].as_str());
                    made.push(grant(&served, &mut connection, who, target).await);
                }
            })
        })
        .collect();
    let mut made = Vec::new();
    for task in work {
        made.extend(task.await.unwrap());
    }
    let blocks =
        made.chunks(64).flat_map(|block| (0..KEYS).flat_map(move |n| block.iter().map(move |of| of[n].clone())));
    blocks.take(count).collect()
}

/// The median time of one durable append, in milliseconds: a row of the usual length of an entry.
async fn bare_commit(dir: &Path) -> f64 {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(dir.join("bare.db"))
        .create_if_missing(true)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
        .synchronous(sqlx::sqlite::SqliteSynchronous::Full);
    let mut bare = options.connect().await.unwrap();
    sqlx::query("CREATE TABLE IF NOT EXISTS leaf (seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL)")
        .execute(&mut bare)
        .await
        .unwrap();
    let mut times = Vec::new();
    for _ in 0..300 {
        let begun = Instant::now();
        sqlx::query("INSERT INTO leaf (bytes) VALUES (?)").bind(vec![b'x'; 900]).execute(&mut bare).await.unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    at(&times, 50)
}

/// What one level saw in one round.
#[derive(Default)]
struct Seen {
    rate: Vec<f64>,
    server_ms: Vec<f64>,
    load_ms: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    bare_ms: Vec<f64>,
}

impl Seen {
    fn add(&mut self, (came, took_s): &(Vec<Came>, f64), [server_s, load_s]: [f64; 2], bare_ms: f64) {
        let (count, times) = (came.len() as f64, came.iter().map(|(ms, _)| *ms).collect::<Vec<_>>());
        self.rate.push(count / took_s);
        self.server_ms.push(server_s * 1e3 / count);
        self.load_ms.push(load_s * 1e3 / count);
        self.p50_ms.push(at(&times, 50));
        self.p99_ms.push(at(&times, 99));
        self.bare_ms.push(bare_ms);
    }

    fn tell(&self, connections: usize) {
        let median = |list: &Vec<f64>| at(list, 50);
        let (rate, cpu, p50, p99) =
            (median(&self.rate), median(&self.server_ms), median(&self.p50_ms), median(&self.p99_ms));
        let (bare, load) = (median(&self.bare_ms), median(&self.load_ms));
        let mut seen = format!(
            "{rate:.0}/s; CPU each: broker {cpu:.3} ms, load {load:.3} ms; p50 {p50:.1} ms, p99 {p99:.1} ms; \
             a bare SQLite commit {bare:.2} ms"
        );
        let (aim, met) = if connections == 1 {
            seen.push_str(&format!(": {:.1} × at p50", p50 / bare));
            ("≤ 2.5 × a bare commit (OpenBao without fsync: 1,095/s)", p50 / bare <= 2.5)
        } else {
            let met = rate >= 10_000.0 && cpu <= 0.15 && p99 <= 15.0;
            ("≥ 10,000/s; ≤ 0.15 ms CPU; p99 ≤ 15 ms (OpenBao without fsync: 1,920/s)", met)
        };
        let plural = if connections == 1 { "" } else { "s" };
        let what = format!("SSH certificates over HTTPS, {connections} connection{plural}, an entry on the disk each");
        row(&Figure { what: &what, seen, aim, met: Some(met) });
    }
}

/// Every certificate is another one, and its bytes are those that its entry in the log names.
async fn compare(ledger: &Path, came: &[Vec<u8>]) {
    let (reader, mut named, mut next) = (Reader::open(ledger).await.unwrap(), HashMap::new(), 0);
    loop {
        let page = reader.leaves(next, 1000).await.unwrap();
        let Some(last) = page.last() else { break };
        next = last.seq + 1;
        for leaf in page {
            let entry: Entry = serde_json::from_slice(&leaf.bytes).unwrap();
            if let Event::CredentialIssued { serial, tbs_sha256, .. } = entry.event {
                assert!(named.insert(serial, tbs_sha256).is_none(), "serial {serial} stands twice in the log");
            }
        }
    }
    for body in came {
        let doc: Value = serde_json::from_slice(body).unwrap();
        let facts = jit_ca::ssh::read(doc["certificate"].as_str().unwrap()).unwrap();
        let entry = named.remove(&facts.serial);
        assert!(entry == Some(Digest::new(facts.tbs_sha256)), "serial {} is not as its entry says", facts.serial);
    }
    println!("{} certificates are as their entries in the log say, of {next} entries", came.len());
}

async fn measure(dir: &Path) {
    let rounds = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(3_usize);
    let percent = std::env::var("JIT_CERTIFICATES").map_or(100, |text| text.parse::<usize>().unwrap());
    let levels = LEVELS.map(|(connections, count)| (connections, (count * percent / 100).max(connections)));
    let total = rounds * levels.iter().map(|(_, count)| count).sum::<usize>();
    let admin = Somebody::make(dir, "root-admin").unwrap();
    let people = total.div_ceil(KEYS).div_ceil(TARGETS).max(32);
    let people: Vec<_> = (0..people).map(|n| Somebody::make(dir, &format!("person-{n}")).unwrap()).collect();
    let served = Arc::new(Served::start(dir, &admin).await);
    let mut connection = served.place.connect().await;
    let text = bundle(&people, TARGETS);
    let base = jit_broker::domain::bundle::Bundle::default().digest;
    let deed = Deed::Apply { by: admin.name(), bundle: text.digest(), base };
    served.act(&mut connection, &admin, deed, json!({ "bundle": text.files })).await;
    let begun = Instant::now();
    let mut requests = prepare(&served, &Arc::new(people), total).await;
    println!("{total} keys under {} grants made in {:.0} s", total.div_ceil(KEYS), begun.elapsed().as_secs_f64());
    let mut seen = LEVELS.map(|_| Seen::default());
    let mut all = Vec::new();
    for round in 1..=rounds {
        for ((connections, count), seen) in levels.into_iter().zip(&mut seen) {
            let bare_ms = bare_commit(dir).await;
            let these = requests.split_off(requests.len() - count);
            let before = [served.cpu_s(), cpu_s("self")];
            let came = load::run(&served.place, connections, these).await;
            let spent = [served.cpu_s() - before[0], cpu_s("self") - before[1]];
            seen.add(&came, spent, bare_ms);
            println!(
                "round {round} of {rounds}, {connections} connections: {:.0}/s, CPU each {:.3} ms, of the load {:.3} ms, p99 {:.1} ms, bare commit {bare_ms:.2} ms",
                seen.rate.last().unwrap(),
                seen.server_ms.last().unwrap(),
                seen.load_ms.last().unwrap(),
                seen.p99_ms.last().unwrap()
            );
            all.extend(came.0.into_iter().map(|(_, body)| body));
        }
    }
    let ledger = served.ledger.clone();
    let mut served = Arc::into_inner(served).unwrap();
    Command::new("kill").arg(served.child.id().to_string()).status().unwrap();
    assert!(served.child.wait().unwrap().success());
    compare(&ledger, &all).await;
    LEVELS.iter().zip(&seen).for_each(|((connections, _), seen)| seen.tell(*connections));
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    runtime.block_on(measure(dir.path()));
}
