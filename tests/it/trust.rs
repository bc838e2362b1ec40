//! Trust, in-process under a simulated clock: who may, when, and what the signer refuses.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use jit_broker::broker::Broker;
use jit_broker::broker::reaper::round;
use jit_broker::clock::{Simulated, Timekeeper};
use jit_broker::daemon::dev::{Somebody, TARGET, adopt, bundle, through_gateway};
use jit_broker::daemon::init::{Plan, init};
use jit_broker::daemon::{Daemon, open_gate};
use jit_broker::domain::act::{Deed, SignedAct, Terms};
use jit_broker::domain::bundle::BundleText;
use jit_broker::domain::grant::GrantState;
use jit_broker::domain::ids::{GrantId, InstallId, RequestId};
use jit_broker::domain::names::{RoleName, TargetName};
use jit_broker::domain::refusal::{Code, Refusal};
use jit_broker::domain::request::RequestState;
use jit_broker::domain::text::Words;
use jit_broker::settings::Settings;
use jit_broker::signer::gate::Gate;
use jit_broker::signer::{Answer, Leaf, Order, Signer};

pub(crate) struct World {
    _dir: tempfile::TempDir,
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<Simulated>,
    pub(crate) daemon: Option<Daemon>,
    pub(crate) install: InstallId,
    pub(crate) admin: Somebody,
    pub(crate) alice: Somebody,
    pub(crate) bob: Somebody,
}

pub(crate) type Doors = Arc<Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>>;

/// The real gate, which says that a checkpoint is asked for and waits for a test, if there is one at its doors.
struct Paused {
    gate: Gate,
    doors: Doors,
}

impl Signer for Paused {
    fn order(&mut self, order: Order) -> Result<Answer, Refusal> {
        if matches!(order, Order::Checkpoint { .. })
            && let Some((here, on)) = self.doors.lock().unwrap().take()
        {
            here.send(()).unwrap();
            on.recv_timeout(Duration::from_secs(30)).expect("a test that lets the signer go on");
        }
        self.gate.order(order)
    }
}

/// Starts the world's daemon anew with a signer that can be made to hang.
pub(crate) async fn paused(world: &mut World) -> Doors {
    world.daemon.take().unwrap().stop().await;
    let (gate, doors) = (open_gate(&world.settings, world.clock.clone()).unwrap(), Doors::default());
    let signer = Box::new(Paused { gate, doors: doors.clone() });
    world.daemon = Some(Daemon::start_with(&world.settings, world.clock.clone(), signer).await.unwrap());
    doors
}

/// Makes the signer hang at the next checkpoint: what tells that it does, and what lets it go on.
pub(crate) fn stop_at(doors: &Doors) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
    let ((here, arrived), (go_on, on)) = (mpsc::channel(), mpsc::channel());
    *doors.lock().unwrap() = Some((here, on));
    (arrived, go_on)
}

pub(crate) fn words(text: &str) -> Words {
    Words { salt: "0".repeat(32), reason: Some(text.to_owned()), ticket: None }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(false).await
    }

    /// A world whose one target is reached through the gateway.
    pub(crate) async fn with_gateway() -> Self {
        Self::start_with(true).await
    }

    async fn start_with(gateway: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("trust").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let clock = Simulated::at(1_800_000_000);
        let [admin, alice, bob] = ["root-admin", "alice", "bob"].map(|n| Somebody::make(dir.path(), n).unwrap());
        let plan = Plan {
            dir: dir.path().join("broker"),
            admin: admin.name(),
            key: admin.key(),
            listen: "127.0.0.1:0".parse().unwrap(),
            public_url: "https://127.0.0.1:7443".to_owned(),
            gateway_ssh: gateway.then(|| "127.0.0.1:0".parse().unwrap()),
            gateway_source: Vec::new(),
        };
        let made = init(&plan, clock.clone()).await.unwrap();
        let settings = Settings::read(&made.config).unwrap();
        let daemon = Daemon::start(&settings, clock.clone()).await.unwrap();
        let text = bundle(&alice.key(), &bob.key(), "deploy", 22);
        let text = if gateway { through_gateway(text) } else { text };
        let install = made.genesis.install;
        adopt(&daemon.broker, &admin, install, &text).await.unwrap();
        Self { _dir: dir, settings, clock, daemon: Some(daemon), install, admin, alice, bob }
    }

    pub(crate) async fn stop(self) {
        self.daemon.unwrap().stop().await;
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.daemon.as_ref().unwrap().broker
    }

    pub(crate) fn sign(&self, who: &Somebody, words: Option<&Words>, deed: Deed) -> SignedAct {
        who.sign(self.install, self.broker().now(), words.map(Words::commitment), deed).unwrap()
    }

    pub(crate) async fn ask(&self, for_s: u64) -> Result<RequestId, Refusal> {
        let text = words("hotfix for OPS-1");
        let deed = Deed::Request {
            by: self.alice.name(),
            target: TargetName::new(TARGET).unwrap(),
            role: RoleName::new("deploy").unwrap(),
            for_s: Some(for_s),
            key: self.alice.key(),
        };
        let signed = self.sign(&self.alice, Some(&text), deed);
        let id = RequestId::of_digest(&signed.digest());
        self.broker().act(signed, Some(&text), None).await.map(|_| id)
    }

    pub(crate) async fn terms(&self, id: RequestId) -> (jit_broker::domain::digest::Digest, Terms) {
        let memory = self.broker().memory().await;
        let request = memory.state.requests.get(&id).unwrap();
        (request.digest, request.standing_terms())
    }

    pub(crate) async fn approve(
        &self,
        who: &Somebody,
        id: RequestId,
        change: impl FnOnce(&mut Terms),
    ) -> Result<(), Refusal> {
        let (request_digest, mut terms) = self.terms(id).await;
        change(&mut terms);
        let deed = Deed::Approve { by: who.name(), request: id, request_digest, terms };
        self.broker().act(self.sign(who, None, deed), None, None).await.map(drop)
    }

    pub(crate) async fn grant(&self, id: RequestId) -> GrantId {
        match self.broker().memory().await.state.requests.get(&id).unwrap().state {
            RequestState::Approved { grant: Some(grant) } => grant,
            ref other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn open(&self, for_s: u64) -> GrantId {
        let id = self.ask(for_s).await.unwrap();
        self.approve(&self.bob, id, |_| {}).await.unwrap();
        self.grant(id).await
    }

    pub(crate) async fn issue(&self, grant: GrantId) -> Result<String, Refusal> {
        match self.broker().issue(&self.alice.name(), grant, &self.alice.key(), None).await? {
            jit_broker::broker::Issued::Ssh(certificate) => Ok(certificate),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn issue_for(&self, who: &Somebody, grant: GrantId) -> Result<String, Refusal> {
        match self.broker().issue(&who.name(), grant, &who.key(), None).await? {
            jit_broker::broker::Issued::Ssh(certificate) => Ok(certificate),
            other => panic!("{other:?}"),
        }
    }

    /// A session of somebody, by their own key; of a stranger's name by none.
    pub(crate) fn token(&self, name: &str) -> String {
        let who = [&self.admin, &self.alice, &self.bob].into_iter().find(|who| who.name().as_str() == name);
        let key_fp = who.map(|who| who.key().0.fingerprint()).unwrap_or_default();
        self.broker().sessions().open(name.parse().unwrap(), key_fp, self.broker().now()).0
    }

    pub(crate) async fn state(&self, grant: GrantId) -> GrantState {
        self.broker().memory().await.state.grants.get(&grant).unwrap().state.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_approves_their_own_and_everybody_counts_once() {
    let world = World::start().await;
    let id = world.ask(600).await.unwrap();
    assert_eq!(world.approve(&world.alice, id, |_| {}).await.unwrap_err().code, Code::OWN_REQUEST);
    assert_eq!(world.approve(&world.admin, id, |_| {}).await.unwrap_err().code, Code::NOT_ELIGIBLE);
    // Two approvals in the same instant make one grant.
    let (one, two) = tokio::join!(world.approve(&world.bob, id, |_| {}), world.approve(&world.bob, id, |_| {}));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    assert_eq!(world.broker().memory().await.state.grants.len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_is_in_the_certificate_and_ends_by_the_boot_clock() {
    let world = World::start().await;
    let approved_at = world.broker().now();
    let grant = world.open(600).await;
    let facts = jit_ca::ssh::read(&world.issue(grant).await.unwrap()).unwrap();
    assert_eq!(i64::try_from(facts.valid_before).unwrap(), approved_at + 600);
    assert_eq!(i64::try_from(facts.valid_after).unwrap(), approved_at - 60);
    assert_eq!(facts.principals.iter().map(ToString::to_string).collect::<Vec<_>>(), [format!("{TARGET}/deploy")]);
    // Issue is idempotent: the same bytes while valid.
    assert_eq!(world.issue(grant).await.unwrap(), world.issue(grant).await.unwrap());
    // A stepped wall clock extends nothing, and grants nothing.
    world.clock.advance(300);
    world.clock.step_wall(-3600);
    assert_eq!(world.ask(60).await.unwrap_err().code, Code::CLOCK);
    world.clock.advance(300);
    round(world.broker()).await.unwrap();
    assert!(matches!(world.state(grant).await, GrantState::Ending { .. } | GrantState::Ended { .. }));
    assert!(world.issue(grant).await.is_err());
    // Without a host that confirms, the end is proven when no certificate can be accepted any more.
    world.clock.advance(91);
    round(world.broker()).await.unwrap();
    assert!(matches!(world.state(grant).await, GrantState::Ended { .. }));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn approving_can_only_make_it_less() {
    let world = World::start().await;
    let id = world.ask(600).await.unwrap();
    assert_eq!(world.approve(&world.bob, id, |t| t.for_s = 601).await.unwrap_err().code, Code::NOT_NARROWER);
    let stale = world.approve(&world.bob, id, |t| t.logins = vec!["root".parse().unwrap()]).await.unwrap_err();
    assert_eq!(stale.code, Code::STALE_TERMS);
    world.approve(&world.bob, id, |t| t.for_s = 60).await.unwrap();
    let grant = world.grant(id).await;
    let memory = world.broker().memory().await;
    let opened = memory.state.grants.get(&grant).unwrap();
    assert_eq!(opened.ends_at - opened.starts_at, 60);
    drop(memory);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_changed_between_ask_and_approval_voids_what_no_longer_holds() {
    let world = World::start().await;
    let id = world.ask(600).await.unwrap();
    // The same people and rules, but the target is somewhere else now.
    let moved = bundle(&world.alice.key(), &world.bob.key(), "deploy", 2222);
    adopt(world.broker(), &world.admin, world.install, &moved).await.unwrap();
    let memory = world.broker().memory().await;
    let state = memory.state.requests.get(&id).unwrap().state.clone();
    assert!(matches!(&state, RequestState::Invalidated { refusal } if refusal.code == Code::STALE_TERMS), "{state:?}");
    drop(memory);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approver_who_lost_the_right_does_not_count_at_first_use() {
    let world = World::start().await;
    let grant = world.open(600).await;
    let mut files = bundle(&world.alice.key(), &world.bob.key(), "deploy", 22).files;
    let people = files.get_mut("people.toml").unwrap();
    *people = people.replace("groups = [\"backend\", \"leads\"]", "groups = [\"backend\"]");
    people.push_str("\n[[person]]\nname = \"carol\"\ngroups = [\"leads\"]\n");
    let text = people.clone();
    let (offices, rest) = (text.find("[offices]").unwrap(), text.find("\n[[person]]\nname = \"carol\"").unwrap());
    *people = format!("{}{}\n{}", &text[..offices], &text[rest..], &text[offices..rest]);
    adopt(world.broker(), &world.admin, world.install, &BundleText { files }).await.unwrap();
    assert_eq!(world.issue(grant).await.unwrap_err().code, Code::REJUDGED);
    assert!(matches!(world.state(grant).await, GrantState::Cancelled { .. }));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_person_loses_what_they_hold_at_once() {
    let world = World::start().await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    let why = words("left the company");
    let deed = Deed::Disable { by: world.bob.name(), person: world.alice.name() };
    world.broker().act(world.sign(&world.bob, Some(&why), deed), Some(&why), None).await.unwrap();
    assert!(world.issue(grant).await.is_err());
    assert_eq!(world.ask(60).await.unwrap_err().code, Code::DISABLED);
    let memory = world.broker().memory().await;
    assert!(memory.state.krl.serials.contains(&1), "the serial is on the published list");
    drop(memory);
    world.stop().await;
}

/// The leaves of a ledger, to be shown to a signer that lies are told to.
pub(crate) async fn leaves(ledger: &std::path::Path) -> Vec<Leaf> {
    let reader = jit_broker::ledger::Reader::open(ledger).await.unwrap();
    let mut out = Vec::new();
    for leaf in reader.leaves(0, 100_000).await.unwrap() {
        let entry = String::from_utf8(leaf.bytes).unwrap();
        let parsed: jit_broker::domain::event::Entry = serde_json::from_str(&entry).unwrap();
        let (required, texts) = jit_broker::broker::clerk::beside(&parsed);
        let mut blobs = Vec::new();
        for digest in required.iter().chain(&texts) {
            blobs.push(String::from_utf8(reader.blob(digest.as_bytes()).await.unwrap().unwrap()).unwrap());
        }
        out.push(Leaf { entry, blobs });
    }
    out
}

/// A signer with a head of its own; where there is none yet it judges every entry that it is shown.
pub(crate) fn fresh_gate(world: &World, name: &str) -> Gate {
    let head: PathBuf = world.settings.state_dir.join(name);
    let keys = jit_broker::signer::keys::Keys::load(&world.settings.ca_dir).unwrap();
    let (pins, keeper) = (jit_broker::daemon::pins(&world.settings), Timekeeper::new(world.clock.clone()));
    if head.exists() { Gate::open(keys, head, pins, keeper) } else { Gate::found(keys, head, pins, keeper) }.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_lies_gets_no_signature() {
    let world = World::start().await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    let honest = leaves(&world.settings.ledger).await;
    let mut gate = fresh_gate(&world, "honest.json");
    gate.order(Order::Checkpoint { from: 0, leaves: honest.clone() }).unwrap();
    gate.order(Order::Credential { grant, key: world.alice.key() }).unwrap();
    let other = gate.order(Order::Credential { grant, key: world.bob.key() }).unwrap_err();
    assert_eq!(other.code, Code::SIGNER_REFUSED, "somebody else's key");

    let at = |kind: &str| honest.iter().position(|l| l.entry.contains(&format!("\"kind\":\"{kind}\""))).unwrap();
    let edited = |place: usize, from: &str, to: &str| {
        let mut lie = honest.clone();
        assert!(lie[place].entry.contains(from), "{from} is not in {}", lie[place].entry);
        lie[place].entry = lie[place].entry.replace(from, to);
        lie
    };
    let mut without_approval = honest.clone();
    let approval = at("request.step_approved");
    let cause: serde_json::Value = serde_json::from_str(&honest[approval].entry).unwrap();
    without_approval.remove(approval);
    assert_eq!(cause["cause"]["command"], "act");
    let lies = [
        ("a longer window", edited(at("grant.opened"), "\"for_s\":600", "\"for_s\":60000")),
        ("another login", edited(at("request.submitted"), "\"logins\":[\"deploy\"]", "\"logins\":[\"root\"]")),
        ("a missing approval", without_approval),
        ("a used serial", edited(at("credential.issued"), "\"serial\":1", "\"serial\":2")),
        ("another bundle", edited(at("bundle.adopted"), "\"kind\":\"bundle.adopted\"", "\"kind\":\"heartbeat\"")),
    ];
    for (i, (what, lie)) in lies.into_iter().enumerate() {
        let mut gate = fresh_gate(&world, &format!("lie{i}.json"));
        let refusal = gate.order(Order::Checkpoint { from: 0, leaves: lie }).unwrap_err();
        assert_eq!(refusal.code, Code::LOG_LIES, "{what}: {refusal}");
        let after = gate.order(Order::Credential { grant, key: world.alice.key() }).unwrap_err();
        assert_eq!(after.code, Code::LOG_LIES, "nothing is signed after {what}");
    }
    // A shorter log than was signed before, and a fork of it.
    let mut again = fresh_gate(&world, "honest.json");
    let shorter = honest[..honest.len() - 1].to_vec();
    let from = u64::try_from(shorter.len()).unwrap();
    again.order(Order::Checkpoint { from: 0, leaves: shorter }).unwrap();
    let nothing = Order::Checkpoint { from, leaves: Vec::new() };
    assert_eq!(again.order(nothing).unwrap_err().code, Code::LOG_LIES);
    let mut forked = fresh_gate(&world, "honest.json");
    let fork = edited(0, "\"seq\":0", "\"seq\":0 ");
    assert_eq!(forked.order(Order::Checkpoint { from: 0, leaves: fork }).unwrap_err().code, Code::LOG_LIES);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_older_ledger_is_refused_by_the_signer() {
    let mut world = World::start().await;
    world.daemon.take().unwrap().stop().await;
    let files = ["db", "db-wal"].map(|e| world.settings.ledger.with_extension(e));
    let old: Vec<Option<Vec<u8>>> = files.iter().map(|f| std::fs::read(f).ok()).collect();
    let daemon = Daemon::start(&world.settings, world.clock.clone()).await.unwrap();
    daemon.stop().await;
    for (file, bytes) in files.iter().zip(old) {
        let _ = std::fs::remove_file(file);
        if let Some(bytes) = bytes {
            std::fs::write(file, bytes).unwrap();
        }
    }
    let _ = std::fs::remove_file(world.settings.ledger.with_extension("db-shm"));
    match Daemon::start(&world.settings, world.clock.clone()).await {
        Err(refusal) => assert_eq!(refusal.code, Code::LOG_LIES),
        Ok(_) => panic!("an older ledger was accepted"),
    }
    assert!(open_gate(&world.settings, world.clock.clone()).is_ok());
}

/// The signer keeps every text that it was shown, the broker those that are needed: an act that names an old one must not be decided
/// differently by the two, or anybody could stop the signer for good.
#[tokio::test(flavor = "multi_thread")]
async fn an_act_brings_its_own_text_and_bundle() {
    let mut world = World::start().await;
    let old = words("hotfix for OPS-1");
    let id = world.ask(600).await.unwrap();
    let deed = Deed::Withdraw { by: world.alice.name(), request: id };
    world.broker().act(world.sign(&world.alice, None, deed), None, None).await.unwrap();
    world.daemon.take().unwrap().stop().await;
    world.daemon = Some(Daemon::start(&world.settings, world.clock.clone()).await.unwrap());
    let deed = Deed::Request {
        by: world.alice.name(),
        target: TargetName::new(TARGET).unwrap(),
        role: RoleName::new("deploy").unwrap(),
        for_s: Some(600),
        key: world.alice.key(),
    };
    let signed = world.sign(&world.alice, Some(&old), deed);
    assert_eq!(world.broker().act(signed, None, None).await.unwrap_err().code, Code::BAD_ACT);
    let base = world.broker().memory().await.state.bundle.digest;
    let deed = Deed::Apply { by: world.admin.name(), bundle: base, base };
    let signed = world.sign(&world.admin, None, deed);
    assert_eq!(world.broker().act(signed, None, None).await.unwrap_err().code, Code::BUNDLE_REFUSED);
    // The signer goes on.
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    let size = world.broker().memory().await.state.size;
    assert_eq!(world.broker().note().unwrap().0, size, "every entry is under a checkpoint");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_ledger_is_refused() {
    let world = World::start().await;
    match Daemon::start(&world.settings, world.clock.clone()).await {
        Err(refusal) => assert_eq!(refusal.code, Code::LEDGER_HELD),
        Ok(_) => panic!("two daemons on one ledger"),
    }
    world.stop().await;
}
