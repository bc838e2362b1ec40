//! `audit verify` against a root who has the real log key: what the tree alone does not show.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use jit_broker::api::{Api, router};
use jit_broker::daemon::dev::{adopt, bundle};
use jit_broker::daemon::verify::audit;
use jit_broker::domain::act::{Deed, Terms};
use jit_broker::domain::bundle::BundleText;
use jit_broker::domain::digest::{Digest, canonical};
use jit_broker::domain::epoch::{NewEpoch, Witnessed};
use jit_broker::domain::event::{Command, Entry, Event};
use jit_broker::domain::ids::{ActId, GrantId, InstallId};
use jit_broker::domain::key::Key;
use jit_broker::domain::names::LoginName;
use jit_broker::domain::request::RequestState;
use jit_broker::ledger::verify::{OutsideNote, Report};
use jit_broker::ledger::{Blob, Checkpoint, Keep, Ledger, NewLeaf, NoteSigner, OpenMode, Row};
use jit_broker::signer::Leaf;
use jit_broker::signer::gate::origin_of;
use jit_broker::signer::keys::Keys;
use jit_ca::key::PrivateKey;
use tower::ServiceExt;

use crate::trust::{World, leaves, paused, stop_at};

pub(crate) struct Root {
    pub(crate) keys: Keys,
    pub(crate) origin: String,
}

impl NoteSigner for Root {
    fn name(&self) -> &str {
        &self.origin
    }

    fn public(&self) -> [u8; 32] {
        self.keys.log.public().ed25519_bytes().unwrap()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.keys.log.sign_ed25519(message).unwrap()
    }
}

/// Somebody with a key of their own, and the name that its notes bear.
pub(crate) struct Stranger(pub(crate) PrivateKey, pub(crate) String);

impl NoteSigner for Stranger {
    fn name(&self) -> &str {
        &self.1
    }

    fn public(&self) -> [u8; 32] {
        self.0.public().ed25519_bytes().unwrap()
    }

    fn sign(&self, body: &[u8]) -> [u8; 64] {
        self.0.sign_ed25519(body).unwrap()
    }
}

impl Root {
    pub(crate) fn of(world: &World) -> Self {
        let keys = Keys::load(&world.settings.ca_dir).unwrap();
        Self { keys, origin: origin_of(&world.install.to_string()) }
    }

    /// Builds a whole ledger anew and signs it; gives what `audit verify` says of it.
    pub(crate) async fn rebuilt(&self, world: &World, name: &str, leaves: &[Leaf]) -> Report {
        let path = world.settings.state_dir.join(name);
        let mut ledger = Ledger::open(&path, OpenMode::Create).await.unwrap();
        let rows = leaves.iter().map(|leaf| {
            let entry: Entry = serde_json::from_str(&leaf.entry).unwrap();
            let keep = |text: &String| if text.contains("\"people.toml\"") { Keep::Required } else { Keep::Shreddable };
            let blobs = leaf.blobs.iter().map(|b| Blob { keep: keep(b), bytes: b.clone().into_bytes() }).collect();
            let row = Row { at: entry.at, kind: entry.event.kind(), ..Row::default() };
            NewLeaf { bytes: leaf.entry.clone().into_bytes(), row, blobs }
        });
        let appended = ledger.append(rows.collect()).await.unwrap();
        let epoch = leaves.iter().filter(|leaf| leaf.entry.contains("\"kind\":\"epoch.begun\"")).count();
        let origin = self.origin.replace("/e0", &format!("/e{epoch}"));
        let signer = Self { keys: Keys::load(&world.settings.ca_dir).unwrap(), origin: origin.clone() };
        let note = Checkpoint { origin, size: appended.size, root: appended.root }.sign(&signer);
        ledger.put_checkpoint(&note, appended.size).await.unwrap();
        ledger.close().await.unwrap();
        audit(&path, self.origin.clone(), &self.keys.log_public(), &[], None).await.unwrap()
    }
}

fn place(leaves: &[Leaf], kind: &str) -> usize {
    leaves.iter().rposition(|l| l.entry.contains(&format!("\"kind\":\"{kind}\""))).unwrap()
}

/// The kinds of problems with the entries they are about.
fn problems(report: &Report) -> Vec<(Option<u64>, &str)> {
    report.problems.iter().map(|p| (p.seq, p.kind.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_signed_shows_even_in_a_log_that_root_signed() {
    let world = World::start().await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    let honest = leaves(&world.settings.ledger).await;
    let root = Root::of(&world);
    let report = root.rebuilt(&world, "honest.db", &honest).await;
    assert!(report.ok && report.warnings.iter().all(|w| w.kind == "unattested"), "{report:#?}");
    let signature = |leaf: &Leaf| {
        let entry: serde_json::Value = serde_json::from_str(&leaf.entry).unwrap();
        serde_json::to_string(&entry["cause"]["signature"]).unwrap()
    };
    let (asked, approved) = (place(&honest, "request.submitted"), place(&honest, "request.step_approved"));
    let opened = place(&honest, "grant.opened");
    // An approval that bob never signed.
    let mut forged = honest.clone();
    forged[approved].entry = forged[approved].entry.replace(&signature(&honest[approved]), &signature(&honest[asked]));
    let report = root.rebuilt(&world, "forged.db", &forged).await;
    assert_eq!(problems(&report), [(Some(approved as u64), "decision")], "{report:#?}");
    // A window that was never agreed to.
    let mut longer = honest.clone();
    let entry: Entry = serde_json::from_str(&honest[opened].entry).unwrap();
    let Event::GrantOpened { ends_at, .. } = entry.event else { panic!("{entry:?}") };
    longer[opened].entry = longer[opened].entry.replace(&ends_at.to_string(), &(ends_at + 60).to_string());
    let report = root.rebuilt(&world, "longer.db", &longer).await;
    assert!(problems(&report).contains(&(Some(opened as u64), "decision")), "{report:#?}");
    // A log that ends in the middle of what was decided.
    let report = root.rebuilt(&world, "cut.db", &honest[..opened]).await;
    assert_eq!(problems(&report), [(Some(opened as u64), "decision")], "{report:#?}");
    // Text that was shredded is no lie: the signature is judged, and what else could not be is said.
    let mut shredded = honest.clone();
    shredded[asked].blobs.clear();
    let report = root.rebuilt(&world, "shredded.db", &shredded).await;
    assert!(report.ok && report.warnings.iter().any(|w| w.kind == "unjudged"), "{report:#?}");
    shredded[asked].entry = shredded[asked].entry.replace(&signature(&honest[asked]), &signature(&honest[approved]));
    let report = root.rebuilt(&world, "shredded-and-forged.db", &shredded).await;
    assert!(problems(&report).contains(&(Some(asked as u64), "decision")), "{report:#?}");
    // A log of another installation, by the same key.
    let mut other = honest.clone();
    other[0].entry = other[0].entry.replace(&world.install.to_string(), &InstallId::new([7; 16]).to_string());
    let report = root.rebuilt(&world, "other.db", &other).await;
    assert!(problems(&report).contains(&(Some(0), "genesis")), "{report:#?}");
    world.stop().await;
}

/// The same with one entry more.
fn and_then(leaves: &[Leaf], cause: Option<Command>, event: Event) -> Vec<Leaf> {
    let last: Entry = serde_json::from_str(&leaves.last().unwrap().entry).unwrap();
    let entry = Entry { seq: leaves.len() as u64, cause, event, ..last };
    let entry = String::from_utf8(canonical(&entry).unwrap()).unwrap();
    [leaves, &[Leaf { entry, blobs: Vec::new() }]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_gone_lets_nothing_pass_but_what_its_own_command_may_have_done() {
    let world = World::start().await;
    let granted = world.open(600).await;
    let waiting = world.ask(1200).await.unwrap();
    let honest = leaves(&world.settings.ledger).await;
    let root = Root::of(&world);
    let mut gone = honest.clone();
    gone.iter_mut().filter(|l| l.entry.contains("\"request.submitted\"")).for_each(|l| l.blobs.clear());
    let report = root.rebuilt(&world, "gone.db", &gone).await;
    let unjudged = |report: &Report| report.warnings.iter().filter(|w| w.kind == "unjudged").count();
    assert!(report.ok && unjudged(&report) >= 2, "{report:#?}");
    let entry = |leaf: &Leaf| serde_json::from_str::<Entry>(&leaf.entry).unwrap();
    let stranger = Key(PrivateKey::from_seed([9; 32]).public().clone());
    let Entry { event: Event::GrantOpened { terms, .. }, .. } = entry(&honest[place(&honest, "grant.opened")]) else {
        panic!("no grant")
    };
    let asked = entry(&honest[place(&honest, "request.submitted")]).cause;
    let opened = |request, key: &Key, terms: &Terms| Event::GrantOpened {
        grant: GrantId::of_digest(&Digest::of(b"made up")),
        request,
        person: world.alice.name(),
        key: key.clone(),
        terms: terms.clone(),
        starts_at: world.broker().now(),
        ends_at: world.broker().now() + 60,
        claim_by: world.broker().now() + 60,
        credential_s: None,
    };
    let enrolled = Event::KeyEnrolled {
        by: world.admin.name(),
        act: ActId::of_digest(&Digest::of(b"made up")),
        person: world.bob.name(),
        key: stranger.clone(),
    };
    let issue = Command::Issue { grant: granted, key: stranger.clone(), nonce: Digest::of(b"n"), verifier: None };
    let opened_as = |grant, ends_at| match opened(waiting, &world.alice.key(), &terms) {
        Event::GrantOpened { request, person, key, terms, starts_at, claim_by, credential_s, .. } => {
            Event::GrantOpened { grant, request, person, key, terms, starts_at, ends_at, claim_by, credential_s }
        }
        other => other,
    };
    let own = GrantId::of_digest(&Digest::of(format!("grant {waiting}").as_bytes()));
    let deny = world.sign(&world.bob, None, Deed::Deny { by: world.bob.name(), request: waiting });
    let wider = Terms { logins: vec![LoginName::new("root").unwrap()], ..terms.clone() };
    for (name, cause, event) in [
        ("beat", Some(Command::Beat), enrolled.clone()),
        ("issue", Some(issue), enrolled.clone()),
        ("again", asked.clone(), enrolled.clone()),
        // Behind the request whose text is gone, as if rules had granted it.
        ("key", None, opened(waiting, &stranger, &terms)),
        ("wider", None, opened(waiting, &world.alice.key(), &wider)),
        ("long", None, opened_as(own, world.broker().now() + 10 * 366 * 86_400)),
        ("in place of another", None, opened_as(granted, world.broker().now() + 600)),
        // A denial is no consent, whatever the text was.
        ("denied", Some(Command::Act(deny)), Event::RequestApproved { request: waiting, grant: Some(own) }),
        ("enrolled", None, enrolled),
    ] {
        let report = root.rebuilt(&world, &format!("{name}.db"), &and_then(&gone, cause, event)).await;
        assert_eq!(problems(&report), [(Some(gone.len() as u64), "decision")], "{name}: {report:#?}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_quotes_what_nobody_signed_shows() {
    let world = World::start().await;
    world.open(600).await;
    let honest = leaves(&world.settings.ledger).await;
    let root = Root::of(&world);
    let size = honest.len() as u64;
    let frontier = world.broker().reader().frontier(size).await.unwrap();
    let stranger = Stranger(PrivateKey::from_seed([9; 32]), root.origin.clone());
    let signers: [(&str, &dyn NoteSigner, _); 2] =
        [("root.db", &root, vec![]), ("stranger.db", &stranger, vec![(Some(size), "epoch")])];
    for (name, signer, found) in signers {
        let note = Checkpoint { origin: root.origin.clone(), size, root: frontier.root() }.sign(signer).text;
        let kept = Witnessed { epoch: 0, size, root: Digest::new(frontier.root()), note };
        let new = Box::new(NewEpoch { epoch: 1, kept, seen: None });
        let act = world.sign(&world.admin, None, Deed::BeginEpoch { by: world.admin.name(), new: new.clone() });
        let event = Event::EpochBegun { by: vec![world.admin.name()], act: act.id(), new };
        let begun = and_then(&honest, Some(Command::Act(act)), event);
        let report = root.rebuilt(&world, name, &begun).await;
        assert_eq!(problems(&report), found, "{report:#?}");
        assert!(report.warnings.iter().any(|w| w.kind == "epoch"), "{report:#?}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_an_approval_adopted_must_be_there() {
    let world = World::start().await;
    let mut files = bundle(&world.alice.key(), &world.bob.key(), "deploy", 22).files;
    files.get_mut("people.toml").unwrap().insert_str(0, "[[person]]\nname = \"root-admin\"\ngroups = [\"admins\"]\n\n");
    files.get_mut("policy.toml").unwrap().push_str(
        "\n[[rule]]\nid = \"own\"\nwho = [\"group:admins\"]\ntargets = { name = \"broker/policy\" }\nroles = [\"apply\"]\n\
         max = \"1h\"\n  [[rule.step]]\n  name = \"second\"\n  need = 1\n  from = [\"group:leads\"]\n",
    );
    adopt(world.broker(), &world.admin, world.install, &BundleText { files: files.clone() }).await.unwrap();
    files.get_mut("policy.toml").unwrap().push_str("# the next one\n");
    let next = BundleText { files };
    adopt(world.broker(), &world.admin, world.install, &next).await.unwrap();
    let memory = world.broker().memory().await;
    let id = *memory.state.open_requests.first().unwrap();
    drop(memory);
    world.approve(&world.bob, id, |_| {}).await.unwrap();
    let memory = world.broker().memory().await;
    assert_eq!(memory.state.requests.get(&id).unwrap().state, RequestState::Approved { grant: None });
    assert_eq!(memory.state.bundle.digest, next.digest());
    drop(memory);
    let honest = leaves(&world.settings.ledger).await;
    let root = Root::of(&world);
    assert!(root.rebuilt(&world, "honest.db", &honest).await.ok);
    let mut withheld = honest.clone();
    withheld[place(&honest, "request.submitted")].blobs.clear();
    let report = root.rebuilt(&world, "withheld.db", &withheld).await;
    let adopted = place(&honest, "bundle.adopted") as u64;
    assert!(problems(&report).contains(&(Some(adopted), "blob-missing")), "{report:#?}");
    world.stop().await;
}

/// What the program says of a ledger, in a home of its own.
fn verify(world: &World, path: &Path, witness: Option<&Path>) -> (Option<i32>, String, String) {
    let home = world.settings.state_dir.join("auditor");
    std::fs::create_dir_all(&home).unwrap();
    let key = home.join("log.pub");
    let keys = Keys::load(&world.settings.ca_dir).unwrap();
    std::fs::write(&key, keys.log_public().to_string()).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_jit-broker"));
    command.args(["audit", "verify", "--offline"]).arg(path).arg("--key").arg(key);
    command.env("HOME", &home).env("JIT_BROKER_HOME", home.join("jit"));
    if let Some(witness) = witness {
        command.arg("--witness").arg(witness);
    }
    let out = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_status_says_who_attests_the_tail() {
    let world = World::start().await;
    let keep = |name: &str| -> PathBuf {
        let path = world.settings.state_dir.join(name);
        std::fs::write(&path, world.broker().note().unwrap().1).unwrap();
        path
    };
    let old = keep("old.note");
    world.open(600).await;
    let new = keep("new.note");
    let ledger = &world.settings.ledger;
    let (code, out, err) = verify(&world, ledger, None);
    assert!(code == Some(11) && out.contains("attested by nobody outside"), "{code:?}\n{out}\n{err}");
    // A note from before attests what was there before, and no more.
    let (code, out, err) = verify(&world, ledger, Some(&old));
    assert!(code == Some(11) && out.contains("after it by nobody"), "{code:?}\n{out}\n{err}");
    assert!(err.contains("warning: unattested"), "{err}");
    let (code, out, err) = verify(&world, ledger, Some(&new));
    assert!(code == Some(0) && out.contains("attested outside up to"), "{code:?}\n{out}\n{err}");
    assert!(!err.contains("warning"), "{err}");
    // An export is as good as the ledger.
    let export = world.settings.state_dir.join("export.jsonl");
    let mut file = std::fs::File::create(&export).unwrap();
    jit_broker::ledger::export_jsonl(world.broker().reader(), u64::MAX, &mut file).await.unwrap();
    assert_eq!(verify(&world, &export, Some(&new)).0, Some(0));
    let text = std::fs::read_to_string(&export).unwrap();
    std::fs::write(&export, text.replacen("\"seq\":3", "\"seq\":4", 1)).unwrap();
    let (code, out, _) = verify(&world, &export, Some(&new));
    assert!(code == Some(1) && out.contains("FAIL"), "{code:?}\n{out}");
    let outside = OutsideNote { from: "old".to_owned(), text: std::fs::read_to_string(&old).unwrap() };
    let root = Root::of(&world);
    let report = audit(ledger, root.origin.clone(), &root.keys.log_public(), &[outside], None).await.unwrap();
    assert!(report.attested.unwrap().0 < report.size);
    world.stop().await;
}

/// The log as auditors get it from a running broker.
async fn exported(world: &World, name: &str) -> PathBuf {
    let (person, now) = (world.bob.name(), world.broker().now());
    let (token, _) = world.broker().sessions().open(person, world.bob.key().0.fingerprint(), now);
    let api = Api { broker: world.broker().clone(), server_ca_pem: "".into(), recordings: None };
    let request = Request::get("/v1/audit/export").header("authorization", format!("Bearer {token}"));
    let response = router(api).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let path = world.settings.state_dir.join(name);
    std::fs::write(&path, axum::body::to_bytes(response.into_body(), 1 << 30).await.unwrap()).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_yet_is_not_exported_as_a_tail_that_nobody_signed() {
    let mut world = World::start().await;
    let doors = paused(&mut world).await;
    world.open(600).await;
    let (arrived, go_on) = stop_at(&doors);
    let broker = world.broker().clone();
    let beat = tokio::spawn(async move { broker.command(Command::Beat, Vec::new()).await });
    tokio::task::spawn_blocking(move || arrived.recv_timeout(Duration::from_secs(30)).unwrap()).await.unwrap();
    // On the disk, and not signed.
    let size = world.broker().reader().size().await.unwrap();
    let early = exported(&world, "early.jsonl").await;
    go_on.send(()).unwrap();
    beat.await.unwrap().unwrap();
    let late = exported(&world, "late.jsonl").await;
    let root = Root::of(&world);
    let key = root.keys.log_public();
    let early = audit(&early, root.origin.clone(), &key, &[], None).await.unwrap();
    assert!(early.ok && early.size == size - 1, "{early:#?}");
    let late = audit(&late, root.origin.clone(), &key, &[], None).await.unwrap();
    assert!(late.ok && late.size >= size, "{late:#?}");
    world.stop().await;
}
