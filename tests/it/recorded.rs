//! Recorded sessions as people see them: the built program against a broker with recordings in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jit_broker::broker::recorded::Which;
use jit_broker::clock::{Clock, System};
use jit_broker::daemon::Daemon;
use jit_broker::daemon::dev::{Somebody, adopt, bundle};
use jit_broker::daemon::init::{Plan, init};
use jit_broker::daemon::verify::audit;
use jit_broker::domain::act::Deed;
use jit_broker::domain::bundle::BundleText;
use jit_broker::domain::ids::{GrantId, InstallId, RequestId, SessionId};
use jit_broker::domain::names::{LoginName, RoleName, TargetName};
use jit_broker::domain::request::RequestState;
use jit_broker::domain::session::{SessionCause, SessionEnd};
use jit_broker::ledger::Filter;
use jit_broker::record::{Frame, Header, Recorder, Store};
use jit_broker::settings::Settings;
use jit_broker::signer::gate::origin_of;

use crate::served::{PROGRAM, free_port};
use crate::trust::words;
use crate::world::Done;

struct Gateway {
    _folder: tempfile::TempDir,
    dir: PathBuf,
    daemon: Daemon,
    settings: Settings,
    install: InstallId,
    alice: Somebody,
    bob: Somebody,
    url: String,
    fingerprint: String,
}

/// The rules of the other tests, with the target behind the gateway.
fn behind(mut text: BundleText, carol: &Somebody) -> BundleText {
    if let Some(people) = text.files.get_mut("people.toml") {
        *people = format!("[[person]]\nname = \"carol\"\nkeys = [\"{}\"]\n{people}", carol.key());
    }
    for file in text.files.values_mut() {
        *file = file.replace("mode = \"direct\"\n", "").replace("record = \"off\"\n", "");
    }
    text
}

impl Gateway {
    async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("sessions").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let dir = std::fs::canonicalize(folder.path()).unwrap();
        let [admin, alice, bob, carol] =
            ["root-admin", "alice", "bob", "carol"].map(|n| Somebody::make(&dir, n).unwrap());
        let (port, ssh) = (free_port(), free_port());
        let url = format!("https://127.0.0.1:{port}");
        let clock: Arc<dyn Clock> = Arc::new(System::new());
        let listen = ([127, 0, 0, 1], port).into();
        let plan = Plan {
            dir: dir.join("broker"),
            admin: admin.name(),
            key: admin.key(),
            listen,
            public_url: url.clone(),
            gateway_ssh: Some(([127, 0, 0, 1], ssh).into()),
            gateway_source: Vec::new(),
        };
        let made = init(&plan, clock.clone()).await.unwrap();
        let settings = Settings::read(&made.config).unwrap();
        let daemon = Daemon::start(&settings, clock).await.unwrap();
        let install = made.genesis.install;
        let text = behind(bundle(&alice.key(), &bob.key(), "deploy", 22), &carol);
        adopt(&daemon.broker, &admin, install, &text).await.unwrap();
        let fingerprint = std::fs::read(settings.ca_dir.join("x509_server.crt")).unwrap();
        let fingerprint = String::from_utf8(fingerprint).unwrap();
        Self { _folder: folder, dir, daemon, settings, install, alice, bob, url, fingerprint }
    }

    fn store(&self) -> &Arc<Store> {
        self.daemon.recordings.as_ref().unwrap()
    }

    async fn grant(&self) -> GrantId {
        let broker = &self.daemon.broker;
        let text = words("hotfix for OPS-1");
        let deed = Deed::Request {
            by: self.alice.name(),
            target: TargetName::new("web-07").unwrap(),
            role: RoleName::new("deploy").unwrap(),
            for_s: Some(600),
            key: self.alice.key(),
        };
        let signed = self.alice.sign(self.install, broker.now(), Some(text.commitment()), deed).unwrap();
        let id = RequestId::of_digest(&signed.digest());
        broker.act(signed, Some(&text), None).await.unwrap();
        let (request_digest, terms) = {
            let memory = broker.memory().await;
            let request = memory.state.requests.get(&id).unwrap();
            (request.digest, request.standing_terms())
        };
        let deed = Deed::Approve { by: self.bob.name(), request: id, request_digest, terms };
        broker.act(self.bob.sign(self.install, broker.now(), None, deed).unwrap(), None, None).await.unwrap();
        match broker.memory().await.state.requests.get(&id).unwrap().state {
            RequestState::Approved { grant: Some(grant) } => grant,
            ref other => panic!("{other:?}"),
        }
    }

    /// Opens a session in the log, and its recording.
    async fn open(&self, grant: GrantId) -> (SessionId, Recorder) {
        let leg = Somebody::make(&self.dir, &format!("leg-{}", free_port())).unwrap();
        let login: LoginName = "deploy".parse().unwrap();
        let opened = self.daemon.broker.open_session(grant, &login, &self.alice.key(), &leg.key()).await.unwrap();
        let header = Header {
            session: opened.session,
            grant,
            person: opened.person,
            target: opened.target.name.clone(),
            login,
            from: "127.0.0.1:1".to_owned(),
            opened_at_ms: self.daemon.broker.now() * 1000,
            way: "ssh".to_owned(),
        };
        (opened.session, self.store().begin(header).unwrap())
    }

    async fn close(&self, session: SessionId, recorder: Recorder) {
        let recording = Some(recorder.seal().await.unwrap());
        let end = SessionEnd { recording, bytes_out: 7, ..SessionEnd::nothing(SessionCause::Closed) };
        self.daemon.broker.close_session(session, end).await.unwrap();
    }

    async fn sign_in(&self, who: &str) {
        let ca = self.dir.join("ca.pem");
        std::fs::write(&ca, &self.fingerprint).unwrap();
        let line =
            format!("jit-broker auth login --server {} --ca-file {} --ssh-key $PWD/id_ed25519", self.url, ca.display());
        self.cli(who, &line).await.ok();
    }

    /// A person's command line.
    async fn cli(&self, who: &str, line: &str) -> Done {
        let home = self.dir.join(who);
        let path = format!("{}:{}", Path::new(PROGRAM).parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(&home).env("HOME", &home).env("PATH", path);
        command.env("JIT_BROKER_HOME", home.join("jit")).env("JIT_BROKER_NO_INPUT", "1");
        command.env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap().into()
    }

    /// How often it is in the log that somebody looked at a recording.
    async fn looks(&self) -> usize {
        let filter = Filter { kind: Some("session.read".to_owned()), limit: 100, ..Filter::default() };
        self.daemon.broker.reader().search(&filter).await.unwrap().len()
    }

    async fn verified(&self) -> Vec<String> {
        let origin = origin_of(&self.install.to_string());
        let key = self.daemon.broker.memory().await.state.genesis.as_ref().unwrap().log_key.clone();
        let store = Store::to_read(&self.settings.recordings).unwrap();
        let report = audit(&self.settings.ledger, origin, &key, &[], Some(&store)).await.unwrap();
        assert_eq!(report.ok, report.problems.is_empty());
        report.problems.into_iter().map(|problem| format!("{}: {}", problem.kind, problem.detail)).collect()
    }
}

const SHOWN: &[u8] = b"\x1b[31mdropping\x1b[0m \x1b]52;c;ZXZpbA==\x07tables\x1b[6n\r\n$ ";

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_played_exported_and_found_by_those_who_may() {
    let world = Gateway::start().await;
    for who in ["alice", "bob", "carol", "root-admin"] {
        world.sign_in(who).await;
    }
    let (id, recorder) = world.open(world.grant().await).await;
    recorder.put(Frame::Open { channel: 1, what: "shell", command: None, size: Some((80, 24)) }).await.unwrap();
    recorder.put(Frame::Output { channel: 1, data: SHOWN }).await.unwrap();

    // Alice has it, bob is an auditor, and for carol it does not exist.
    let list = world.cli("alice", "jit-broker -o json session ls --live").await.json();
    assert_eq!((&list["items"][0]["id"], &list["items"][0]["recording"]), (&id.to_string().into(), &"live".into()));
    assert_eq!(world.cli("bob", "jit-broker -o name session ls --person alice").await.ok().trim(), id.to_string());
    assert_eq!(world.cli("carol", "jit-broker -o name session ls").await.ok(), "");
    let made_up = SessionId::new([9; 16]);
    for verb in ["show", "tail", "replay", "export"] {
        let theirs = world.cli("carol", &format!("jit-broker session {verb} {id}")).await;
        let nothing = world.cli("carol", &format!("jit-broker session {verb} {made_up}")).await;
        assert_eq!((theirs.code, nothing.code), (Some(8), Some(8)), "{verb}");
        assert_eq!(theirs.err, nothing.err, "{verb}");
    }
    // An administrator is an operator, who knows of sessions and does not look into them.
    assert_eq!(world.cli("root-admin", &format!("jit-broker session show {id}")).await.code, Some(0));
    for verb in ["tail", "replay", "export"] {
        assert_eq!(world.cli("root-admin", &format!("jit-broker session {verb} {id}")).await.code, Some(8), "{verb}");
    }
    assert_eq!(world.looks().await, 0);

    // Bob follows it to its end.
    let line = format!("jit-broker session tail {id}");
    let (tail, ()) = tokio::join!(world.cli("bob", &line), async {
        let begun = std::time::Instant::now();
        while world.looks().await == 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "nobody looks");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        recorder.put(Frame::Output { channel: 1, data: b"the last word\r\n" }).await.unwrap();
        world.close(id, recorder.clone()).await;
    });
    assert!(tail.err.contains("closed"), "{}", tail.err);
    let shown = tail.ok();
    assert!(shown.starts_with("\x1b[31mdropping\x1b[0m tables\r\n$ the last word"), "{shown:?}");
    assert!(!shown.contains("\x1b]") && !shown.contains("[6n"), "{shown:?}");
    assert_eq!(world.looks().await, 1, "one look, however often it asked");

    // What was recorded is played, exported and found.
    let played = world.cli("alice", &format!("jit-broker session replay {id} --speed 100")).await.ok();
    assert_eq!(played, shown);
    let text = world.cli("alice", &format!("jit-broker session replay {id} --text")).await.ok();
    assert!(text.contains("\ndropping tables\n$ the last word\n") && !text.contains('\x1b'), "{text:?}");
    let file = world.dir.join("alice/x.cast");
    world.cli("alice", &format!("jit-broker session export {id} --format cast -O x.cast")).await.ok();
    let cast = std::fs::read_to_string(&file).unwrap();
    assert!(cast.lines().next().unwrap().contains("\"version\":2") && cast.contains("the last word"), "{cast}");
    let jsonl = world.cli("alice", &format!("jit-broker session export {id} --format jsonl")).await.ok();
    assert!(jsonl.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    assert_eq!(world.looks().await, 2, "alice looked too");
    let found = world.cli("bob", "jit-broker -o json session search 'DROPPING tab'").await.json();
    assert_eq!(found["items"][0]["session_id"], id.to_string());
    assert_eq!(world.cli("carol", "jit-broker session search dropping").await.ok(), "");
    let doc = world.cli("alice", &format!("jit-broker -o json session show {}", &id.to_string()[..12])).await.json();
    assert_eq!((&doc["schema"], &doc["cause"]), (&"jit-broker/session/v1".into(), &"closed".into()));
    assert_eq!(doc["sha256"].as_str().unwrap().len(), 64);
    let events = world.cli("alice", "jit-broker -o json audit tail -n 50").await.json();
    let ids = events["items"].as_array().unwrap().iter().filter(|event| event["session_id"] == id.to_string());
    assert!(ids.count() >= 3, "opened, closed, read");
    world.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_recording_is_found_by_the_auditor_and_shown_to_nobody() {
    let world = Gateway::start().await;
    world.sign_in("bob").await;
    let grant = world.grant().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let (id, recorder) = world.open(grant).await;
        // Nothing makes it smaller: it is in several chunks.
        let mut noise = vec![0; 100_000];
        jit_broker::clock::fill(&mut noise);
        recorder.put(Frame::Output { channel: 1, data: &noise }).await.unwrap();
        world.close(id, recorder).await;
        ids.push(id);
    }
    assert_eq!(world.verified().await, [""; 0]);
    let paths: Vec<PathBuf> = ids.iter().map(|id| world.store().path(*id).unwrap()).collect();
    let good = std::fs::read(&paths[0]).unwrap();
    let other = std::fs::read(&paths[1]).unwrap();
    let mut flipped = good.clone();
    flipped[50_000] ^= 1;
    let forged = [
        (flipped, "chunk 2"),
        (good[..good.len() - 10_000].to_vec(), "chunk "),
        (Vec::new(), "chunk 0"),
        (other, "chunk 0"),
    ];
    for (bytes, chunk) in forged {
        std::fs::write(&paths[0], bytes).unwrap();
        let problems = world.verified().await;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("recording: ") && problems[0].contains(&ids[0].to_string()), "{problems:?}");
        assert!(problems[0].contains(chunk), "{problems:?}");
        let shown = world.cli("bob", &format!("jit-broker session replay {} --text", ids[0])).await;
        assert_ne!(shown.code, Some(0));
        assert_eq!(shown.out, "");
    }
    std::fs::remove_file(&paths[0]).unwrap();
    assert!(world.verified().await[0].contains("chunk 0"), "a missing one is a problem");
    std::fs::write(&paths[0], good).unwrap();
    assert_eq!(world.verified().await, [""; 0]);
    let config = world.settings.ledger.parent().unwrap().parent().unwrap().to_owned();
    let pub_key = world.dir.join("log.pub");
    let key = world.daemon.broker.memory().await.state.genesis.as_ref().unwrap().log_key.to_string();
    std::fs::write(&pub_key, key).unwrap();
    std::fs::remove_file(&paths[1]).unwrap();
    let line = format!("jit-broker audit verify --offline {} --key {}", config.display(), pub_key.display());
    let verified = world.cli("bob", &line).await;
    assert_eq!(verified.code, Some(1), "{}", verified.err);
    assert!(verified.out.contains(&ids[1].to_string()), "{}", verified.out);
    world.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_daemon_left_is_sealed_and_closed_at_the_next_start() {
    let world = Gateway::start().await;
    let (id, recorder) = world.open(world.grant().await).await;
    let mut tail = recorder.tail();
    let before = *tail.borrow_and_update();
    recorder.put(Frame::Output { channel: 1, data: b"half a session" }).await.unwrap();
    tail.wait_for(|bytes| *bytes > before).await.unwrap();
    drop(recorder);
    world.daemon.stop().await;
    let daemon = Daemon::start(&world.settings, Arc::new(System::new())).await.unwrap();
    let doc = daemon.broker.recorded_doc(&world.bob.name(), id).await.unwrap();
    assert_eq!((doc.cause.as_deref(), doc.recording.as_deref()), (Some("lost"), Some("sealed")));
    let store = daemon.recordings.clone().unwrap();
    let sealed = store.sealed(id).unwrap();
    assert_eq!((Some(sealed.sha256), Some(sealed.bytes)), (doc.sha256, doc.recorded_bytes));
    assert!(!world.settings.recordings.join(format!("open/{id}.rec")).exists());
    daemon.stop().await;
}

/// Counts the statements that the store runs.
struct Statements(Arc<std::sync::atomic::AtomicUsize>);

impl tracing::Subscriber for Statements {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn event(&self, _event: &tracing::Event<'_>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }

    fn new_span(&self, _span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}
    fn enter(&self, _span: &tracing::span::Id) {}
    fn exit(&self, _span: &tracing::span::Id) {}
}

/// A page costs a few queries, however many sessions there are and however thinly open ones lie among them.
#[test]
fn a_page_of_sessions_takes_a_few_queries() {
    // Statements are counted for the whole process, so this one is alone in its.
    if std::env::var_os("JIT_ALONE").is_none() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--nocapture", "recorded::a_page_of_sessions_takes_a_few_queries"]);
        let done: Done = command.env("JIT_ALONE", "1").output().unwrap().into();
        assert!(done.code == Some(0) && done.out.contains("1 passed"), "{}\n{}", done.out, done.err);
        return;
    }
    let statements = Arc::default();
    tracing::subscriber::set_global_default(Statements(Arc::clone(&statements))).unwrap();
    let count = || statements.load(std::sync::atomic::Ordering::SeqCst);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let world = Gateway::start().await;
        let grant = world.grant().await;
        let mut ids = Vec::new();
        for _ in 0..40 {
            ids.push(world.open(grant).await);
        }
        let mut open = Vec::new();
        for (n, (id, recorder)) in ids.into_iter().enumerate() {
            // The first, one in the middle and one at the end stay open.
            if [0, 20, 39].contains(&n) {
                open.push((id, recorder));
            } else {
                world.close(id, recorder).await;
            }
        }
        let (broker, alice, bob) = (&world.daemon.broker, world.alice.name(), world.bob.name());
        let before = count();
        let which = Which { limit: Some(200), ..Which::default() };
        let (docs, next) = broker.recorded_docs(&alice, &which).await.unwrap();
        let took = count() - before;
        assert_eq!((docs.len(), next), (40, None));
        assert_eq!(docs.iter().filter(|doc| doc.closed_at.is_none()).count(), 3);
        assert!(docs.iter().all(|doc| doc.closed_at.is_none() || doc.sha256.is_some()));
        assert!((1..=3).contains(&took), "{took} statements for a page of 40");
        // Page by page, for the holder and for an auditor: each open one once, the newest first.
        for who in [&alice, &bob] {
            let (mut found, mut before_seq) = (Vec::new(), None);
            loop {
                let before = count();
                let which = Which { live: true, limit: Some(1), before_seq, ..Which::default() };
                let (docs, next) = broker.recorded_docs(who, &which).await.unwrap();
                let took = count() - before;
                assert!(took <= 2, "{took} statements for one open session");
                assert!(docs.len() <= 1, "the limit is kept");
                found.extend(docs.iter().map(|doc| doc.id));
                before_seq = next;
                if next.is_none() {
                    break;
                }
            }
            assert_eq!(found, open.iter().rev().map(|(id, _)| *id).collect::<Vec<_>>());
        }
        let elsewhere = Which { live: true, target: Some("db-prod".parse().unwrap()), ..Which::default() };
        assert_eq!(broker.recorded_docs(&alice, &elsewhere).await.unwrap().0.len(), 0);
        let theirs = Which { live: true, person: Some(bob.clone()), ..Which::default() };
        assert_eq!(broker.recorded_docs(&bob, &theirs).await.unwrap().0.len(), 0);
        world.daemon.stop().await;
    });
}
