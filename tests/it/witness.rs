//! Copies of checkpoints outside: handed over, kept for others, asked at the start, and believed for what they sign.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jit_broker::domain::key::Key;
use jit_broker::ledger::cosign::{AddCheckpoint, CosignerKey};
use jit_broker::ledger::{Checkpoint, Frontier, NoteSigner, SignedNote, leaf_hash};
use jit_broker::settings::Settings;
use jit_broker::witness::keep::Keeper;
use jit_ca::key::PrivateKey;
use serde_json::Value;

use crate::served::{Served, eventually};
use crate::world::Done;

/// A log with a key of its own, and its leaves.
struct Log {
    key: PrivateKey,
    origin: String,
    leaves: Vec<[u8; 32]>,
}

impl NoteSigner for Log {
    fn name(&self) -> &str {
        &self.origin
    }

    fn public(&self) -> [u8; 32] {
        self.key.public().ed25519_bytes().unwrap()
    }

    fn sign(&self, body: &[u8]) -> [u8; 64] {
        self.key.sign_ed25519(body).unwrap()
    }
}

impl Log {
    fn new(seed: u8) -> Self {
        let leaves = (0..20_u8).map(|n| leaf_hash(&[n])).collect();
        Self { key: PrivateKey::from_seed([seed; 32]), origin: "jit-broker/audit/x/e0".to_owned(), leaves }
    }

    fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
        let mut tree = Frontier::empty();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree.root()
    }

    fn note(&self, size: usize) -> String {
        let checkpoint = Checkpoint {
            origin: self.origin.clone(),
            size: u64::try_from(size).unwrap(),
            root: Self::root(&self.leaves[..size]),
        };
        checkpoint.sign(self).text
    }

    /// RFC 6962, section 2.1.2, word for word.
    fn proof(m: usize, leaves: &[[u8; 32]], whole: bool) -> Vec<[u8; 32]> {
        let n = leaves.len();
        if m == n {
            return if whole { Vec::new() } else { vec![Self::root(leaves)] };
        }
        let k = n.next_power_of_two() / 2;
        let (mut proof, other) = if m <= k {
            (Self::proof(m, &leaves[..k], whole), Self::root(&leaves[k..]))
        } else {
            (Self::proof(m - k, &leaves[k..], false), Self::root(&leaves[..k]))
        };
        proof.push(other);
        proof
    }

    fn body(&self, old: usize, size: usize) -> String {
        let proof = if old == 0 { Vec::new() } else { Self::proof(old, &self.leaves[..size], true) };
        AddCheckpoint { old: u64::try_from(old).unwrap(), proof, note: self.note(size) }.write()
    }
}

#[tokio::test]
async fn a_witness_takes_only_a_log_that_grew_and_remembers_before_it_answers() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (log, stranger) = (Log::new(1), Log::new(2));
    let keeps = BTreeMap::from([(log.origin.clone(), Key(log.key.public().clone()))]);
    let open = || Keeper::open(dir.path(), &keeps, "https://witness.corp:7443").unwrap();
    let keeper = open();
    let key = keeper.public().unwrap();
    assert_eq!(key.name, "witness.corp:7443");
    let told = async |keeper: &Keeper, body: &str| {
        let (status, kind, text) = keeper.add(body, 1_800_000_000).await;
        (status, kind, text)
    };
    let status = async |keeper: &Keeper, body: &str| told(keeper, body).await.0;
    // The first one needs no proof; it is cosigned, and kept.
    let (code, _, line) = told(&keeper, &log.body(0, 5)).await;
    assert_eq!(code, 200);
    assert_eq!(key.open(&format!("{}{line}", log.note(5))), Some(1_800_000_000));
    // What is kept is what counts: another old size is a conflict that tells it.
    let (code, kind, text) = told(&keeper, &log.body(0, 9)).await;
    assert_eq!((code, kind, text.as_str()), (409, "text/x.tlog.size", "5\n"));
    assert_eq!(status(&keeper, &log.body(4, 9)).await, 409);
    assert_eq!(status(&keeper, &log.body(5, 9)).await, 200);
    // A shorter one is never taken again, after a restart either, and under the same key.
    drop(keeper);
    let keeper = open();
    assert_eq!(keeper.public().unwrap(), key);
    let (code, _, text) = told(&keeper, &log.body(0, 5)).await;
    assert_eq!((code, text.as_str()), (409, "9\n"));
    assert_eq!(status(&keeper, &log.body(9, 9)).await, 200, "the same once more is a sign of life");
    // A fork that the real key signed.
    let mut fork = Log::new(1);
    fork.leaves[7] = [0; 32];
    assert_eq!(status(&keeper, &fork.body(9, 12)).await, 422);
    assert_eq!(status(&keeper, &fork.body(9, 9)).await, 409);
    // Nobody else is believed, and nothing that is not in its form.
    assert_eq!(status(&keeper, &stranger.body(9, 12)).await, 403);
    let other = Log { origin: "jit-broker/audit/y/e0".to_owned(), ..Log::new(1) };
    assert_eq!(status(&keeper, &other.body(0, 12)).await, 404);
    assert_eq!(status(&keeper, "old 9\n\ngarbage").await, 404);
    assert_eq!(status(&keeper, "garbage").await, 400);
    assert_eq!(status(&keeper, &log.body(9, 12).replacen("old 9", "old 13", 1)).await, 400);
    let none = log.body(9, 12).split("\n\n").skip(1).fold("old 9".to_owned(), |all, part| format!("{all}\n\n{part}"));
    assert_eq!(status(&keeper, &none).await, 422, "without its proof");
    // Damaged memory is no reason to begin anew.
    let kept = std::fs::read_dir(dir.path().join("witnessed")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(kept, "garbage").unwrap();
    assert_eq!(status(&keeper, &log.body(0, 12)).await, 500);
    // A broker that keeps nothing says so.
    assert_eq!(status(&Keeper::default(), &log.body(0, 5)).await, 404);
}

#[tokio::test]
async fn a_witness_goes_on_with_a_new_epoch_and_never_back_to_an_old_one() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let old = Log::new(1);
    let new = |epoch: u32| {
        let mut log = Log { origin: format!("jit-broker/audit/x/e{epoch}"), ..Log::new(1) };
        log.leaves[7] = [u8::try_from(epoch).unwrap(); 32];
        log
    };
    let keeps = BTreeMap::from([(old.origin.clone(), Key(old.key.public().clone()))]);
    let keeper = Keeper::open(dir.path(), &keeps, "https://witness.corp:7443").unwrap();
    let told = async |body: &str| {
        let (status, _, text) = keeper.add(body, 1_800_000_000).await;
        (status, text)
    };
    assert_eq!(told(&old.body(0, 12)).await.0, 200);
    // The broker tries what it last handed out, is told that nothing is known of the epoch, and begins there; it may be shorter.
    let next = new(1);
    assert_eq!(told(&next.body(8, 9)).await, (409, "0\n".to_owned()));
    assert_eq!(told(&next.body(0, 9)).await.0, 200);
    let kept: Vec<String> = std::fs::read_dir(dir.path().join("witnessed"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert!(kept.len() == 2 && kept.contains(&old.note(12)) && kept.contains(&next.note(9)), "{kept:?}");
    // Inside it nothing is different.
    assert_eq!(told(&next.body(9, 11)).await.0, 200);
    assert_eq!(told(&next.body(0, 9)).await, (409, "11\n".to_owned()));
    let mut fork = new(1);
    fork.leaves[8] = [0; 32];
    assert_eq!(told(&fork.body(11, 14)).await.0, 422);
    // The old epoch is over, in whatever form; an origin that only looks like one of this log is none.
    assert_eq!(told(&old.body(12, 14)).await.0, 422);
    assert_eq!(told(&old.body(0, 14)).await.0, 422);
    for origin in
        ["jit-broker/audit/x/e01", "jit-broker/audit/x/e+2", "jit-broker/audit/y/e2", "jit-broker/audit/x/e0/e2"]
    {
        let log = Log { origin: origin.to_owned(), ..Log::new(1) };
        assert_eq!(told(&log.body(0, 12)).await.0, 404, "{origin}");
    }
    let stranger = Log { origin: "jit-broker/audit/x/e2".to_owned(), ..Log::new(2) };
    assert_eq!(told(&stranger.body(0, 12)).await.0, 403);
    assert_eq!(told(&new(3).body(0, 5)).await.0, 200);
    assert_eq!(told(&new(2).body(0, 20)).await.0, 422);
}

fn about(served: &Served, who: &str) -> Value {
    let context = std::fs::read_to_string(served.dir.join(who).join("jit/config/context.json")).unwrap();
    serde_json::from_str::<Value>(&context).unwrap()["about"].clone()
}

fn configure(served: &Served, text: &str) {
    let old = std::fs::read_to_string(served.config()).unwrap();
    std::fs::write(served.config(), format!("{old}\n{text}\n")).unwrap();
}

/// The witness's key, as its serve prints it.
fn cosigner(served: &Served) -> CosignerKey {
    let text = std::fs::read_to_string(served.broker_dir().join("state/witness_key")).unwrap();
    let public = PrivateKey::from_openssh(&text, None).unwrap().public().ed25519_bytes().unwrap();
    let config = Settings::read(&served.config()).unwrap();
    CosignerKey { name: config.public_url.trim_start_matches("https://").to_owned(), public }
}

fn copy(from: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let name = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        let _ = std::fs::remove_file(name(to));
        if name(from).exists() {
            std::fs::copy(name(from), name(to)).unwrap();
        }
    }
    let _ = std::fs::remove_file(format!("{}-shm", to.display()));
}

fn witnesses(served: &Served) -> Vec<Value> {
    let done = served.cli("bob", "jit-broker -o json audit witnesses").json();
    done["items"].as_array().unwrap().clone()
}

/// Two brokers; the second keeps the checkpoints of the first, and so does a file.
fn pair() -> (Served, Served) {
    let (mut first, mut second) = (Served::init(), Served::init());
    first.serve();
    first.adopt();
    first.sign_in("bob");
    first.stop();
    let about = about(&first, "bob");
    let (origin, key) = (about["origin"].as_str().unwrap(), about["log_key"].as_str().unwrap());
    configure(&second, &format!("[keeps.first]\norigin = \"{origin}\"\nkey = \"{key}\""));
    second.serve();
    let url = Settings::read(&second.config()).unwrap().public_url;
    let ca = first.dir.join("second-ca.pem");
    let line = format!("jit-broker ca export --kind x509-server --config {}", second.config().display());
    std::fs::write(&ca, second.cli("bob", &line).ok()).unwrap();
    configure(
        &first,
        &format!(
            "[witness.second]\nurl = \"{url}/v1/witness\"\nkey = \"{}\"\nca = \"{}\"\n[witness.disk]\nfile = \"{}\"",
            cosigner(&second),
            ca.display(),
            first.dir.join("outside.note").display()
        ),
    );
    first.serve();
    (first, second)
}

fn taken(first: &Served, size: u64) {
    eventually("both copies are taken", || {
        witnesses(first).iter().all(|w| w["size"].as_u64().is_some_and(|n| n >= size))
    });
}

#[test]
fn another_broker_and_a_file_keep_the_tail_and_audit_verify_says_who_attests_it() {
    let (mut first, mut second) = pair();
    let alice = first.client(&first.alice).unwrap();
    alice.certificate(alice.ask(600).unwrap()).unwrap();
    drop(alice);
    let size = first.cli("bob", "jit-broker -o json audit verify").json()["size"].as_u64().unwrap();
    taken(&first, size);
    let listed = witnesses(&first);
    assert_eq!(listed.len(), 2, "{listed:#?}");
    assert!(listed.iter().all(|w| w["trouble"].is_null()), "{listed:#?}");
    // The witness's signature counts, whoever hands it over; only its key must be known.
    let key = cosigner(&second);
    let done = first.cli("bob", &format!("jit-broker -o json audit verify --cosigner {key}")).json();
    let copies = done["copies"].as_array().unwrap();
    assert!(copies.iter().any(|c| c["from"].as_str().unwrap().starts_with(&format!("witness {}", key.name))), "{done}");
    // Somebody who has nothing but keys, on the stopped ledger: without a copy 11, with one 0.
    // A stop hands the last entry's checkpoint out as well.
    first.stop();
    std::fs::create_dir(first.dir.join("dave")).unwrap();
    std::fs::write(first.dir.join("log.pub"), about(&first, "bob")["log_key"].as_str().unwrap()).unwrap();
    let verify = |more: &str| {
        let folder = first.broker_dir();
        first.cli("dave", &format!("jit-broker audit verify --offline {} --key ../log.pub {more}", folder.display()))
    };
    assert_eq!(verify("").code, Some(11));
    let done = verify(&format!("--cosigner {key}"));
    assert!(done.code == Some(0) && done.out.contains(&format!("by witness {}", key.name)), "{done:?}");
    assert_eq!(verify("--witness ../outside.note").code, Some(0));
    let stranger = CosignerKey { public: Log::new(2).public(), ..key };
    assert_eq!(verify(&format!("--cosigner {stranger}")).code, Some(11), "a key that signed nothing attests nothing");
    second.stop();
}

#[test]
fn what_a_client_saw_of_one_log_is_held_against_no_other() {
    let (mut first, mut second) = pair();
    second.sign_in("root-admin");
    first.cli("bob", "jit-broker audit verify").ok();
    let origin = about(&first, "bob")["origin"].as_str().unwrap().to_owned();
    for (served, who) in [(&first, "bob"), (&second, "root-admin")] {
        std::fs::write(served.dir.join("log.pub"), about(served, who)["log_key"].as_str().unwrap()).unwrap();
    }
    first.stop();
    second.stop();
    // Bob is signed in at the first.
    let verify = |of: &Served, more: &str| {
        let (folder, key) = (of.broker_dir(), of.dir.join("log.pub"));
        let line = format!("jit-broker audit verify --offline {} --key {} {more}", folder.display(), key.display());
        first.cli("bob", &line)
    };
    let other = verify(&second, "");
    assert_eq!(other.code, Some(11), "{other:?}");
    let own = verify(&first, "");
    assert!(own.code == Some(11) && own.out.contains("by this client"), "{own:?}");
    // A note that is said to be of this very log still fails it, and so does damage to what was seen of it.
    let forged = Log { origin, ..Log::new(9) }.note(3);
    std::fs::write(first.dir.join("forged.note"), &forged).unwrap();
    assert_eq!(verify(&first, "--witness ../forged.note").code, Some(1));
    std::fs::write(first.dir.join("bob/jit/state/checkpoint"), &forged).unwrap();
    assert_eq!(verify(&first, "").code, Some(9));
    assert_eq!(verify(&second, "").code, Some(11));
}

#[test]
fn the_key_that_is_named_counts_and_not_the_pinned_one() {
    let mut served = Served::init();
    served.serve();
    served.adopt();
    served.sign_in("bob");
    std::fs::write(served.dir.join("log.pub"), about(&served, "bob")["log_key"].as_str().unwrap()).unwrap();
    let alice = served.client(&served.alice).unwrap();
    let grant = alice.ask(600).unwrap();
    std::fs::write(served.dir.join("cert.pub"), alice.certificate(grant).unwrap()).unwrap();
    let run = |line: &str| served.cli("bob", &format!("jit-broker {line}"));
    for line in ["audit verify", "verify ../cert.pub"] {
        run(line).ok();
        run(&format!("{line} --key ../log.pub")).ok();
        let other = run(&format!("{line} --key ../alice/id_ed25519.pub"));
        assert_eq!(other.code, Some(1), "{line}: {other:?}");
        assert_eq!(run(&format!("{line} --key ../none.pub")).code, Some(1), "{line}");
    }
    // What a receipt says is for nobody else, whatever lay in its place.
    let line = format!(
        "touch ../r.json; chmod 644 ../r.json; jit-broker receipt {grant} --out ../r.json >&2; stat -c %a ../r.json"
    );
    assert_eq!(served.cli("bob", &line).ok(), "600\n");
}

#[test]
fn a_ledger_that_was_rolled_back_is_not_served_because_an_outside_copy_knows_more() {
    let (mut first, mut second) = pair();
    first.stop();
    let (old, head) = (first.dir.join("old.db"), first.broker_dir().join("state/ca/head.json"));
    copy(&first.ledger(), &old);
    let old_head = std::fs::read(&head).unwrap();
    first.serve();
    let alice = first.client(&first.alice).unwrap();
    alice.certificate(alice.ask(600).unwrap()).unwrap();
    drop(alice);
    let size = first.cli("bob", "jit-broker -o json audit verify").json()["size"].as_u64().unwrap();
    taken(&first, size);
    first.stop();
    let (newer, newer_head) = (first.dir.join("newer.db"), std::fs::read(&head).unwrap());
    copy(&first.ledger(), &newer);
    // Root turns the ledger, the signer's memory and every snapshot back, so that nothing on this machine remembers.
    let back = |first: &Served| {
        copy(&old, &first.ledger());
        std::fs::write(&head, &old_head).unwrap();
        let _ = std::fs::remove_file(first.broker_dir().join("state/snapshot"));
        let _ = std::fs::remove_file(head.with_extension("fold"));
    };
    back(&first);
    let config = std::fs::read_to_string(first.config()).unwrap();
    let without = |name: &str| {
        let at = config.rfind(&format!("\n[witness.{name}]")).unwrap();
        let end = config[at + 1..].find("\n[").map_or(config.len(), |end| at + 1 + end);
        std::fs::write(first.config(), format!("{}{}", &config[..at], &config[end..])).unwrap();
    };
    for (gone, left) in [("disk", "second"), ("second", "disk")] {
        without(gone);
        let (mut child, ready) = first.try_serve();
        let said = ready.unwrap_err();
        assert!(said.contains("JB6013") && said.contains(left), "{left}: {said}");
        assert_eq!(child.wait().unwrap().code(), Some(70));
    }
    std::fs::write(first.config(), &config).unwrap();
    // A copy that cannot be asked holds nothing up.
    second.stop();
    copy(&newer, &first.ledger());
    std::fs::write(&head, &newer_head).unwrap();
    let _ = std::fs::remove_file(first.dir.join("outside.note"));
    first.serve();
    eventually("the one that is away is in trouble", || {
        witnesses(&first)
            .iter()
            .any(|w| w["name"] == "second" && w["failed"].as_u64() > Some(0) && !w["trouble"].is_null())
    });
    // It comes back, and takes what it missed.
    second.serve();
    taken(&first, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_was_restored_is_the_same_one_and_forgets_nothing() {
    let (mut first, mut second) = pair();
    taken(&first, 2);
    let note = || std::fs::read_to_string(first.dir.join("outside.note")).unwrap();
    let older = note();
    let alice = first.client(&first.alice).unwrap();
    alice.certificate(alice.ask(600).unwrap()).unwrap();
    drop(alice);
    let size = first.cli("bob", "jit-broker -o json audit verify").json()["size"].as_u64().unwrap();
    taken(&first, size);
    let newer = note();
    let (file, secret) = (second.dir.join("second.backup"), second.dir.join("passphrase"));
    std::fs::write(&secret, "correct horse battery").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (file, secret) = (file.display().to_string(), secret.display().to_string());
    let (config, dir) = (second.config().display().to_string(), second.dir.join("restored"));
    let made = second.operator(&["backup", "--to", &file, "--config", &config, "--passphrase-file", &secret]).output();
    Done::from(made.unwrap()).ok();
    let key = cosigner(&second);
    first.stop();
    second.stop();
    let to = dir.display().to_string();
    Done::from(second.operator(&["restore", &file, "--dir", &to, "--passphrase-file", &secret]).output().unwrap()).ok();
    let settings = Settings::read(&dir.join("jit-broker.toml")).unwrap();
    let keeper = Keeper::open(&settings.state_dir, &settings.outside.keeps, &settings.public_url).unwrap();
    assert_eq!(keeper.public(), Some(key));
    let size = |note: &str| note.lines().nth(1).unwrap().parse::<u64>().unwrap();
    assert!(size(&older) < size(&newer));
    let body = AddCheckpoint { old: 0, proof: Vec::new(), note: older }.write();
    let (status, _, said) = keeper.add(&body, jit_broker::clock::wall_s()).await;
    assert_eq!(status, 409, "it attests no roll back: {said}");
    assert!(said.trim().parse::<u64>().unwrap() >= size(&newer), "{said}");
}

/// A checkpoint is flushed with the next batch, and handed out before that.
#[test]
fn a_checkpoint_that_was_lost_with_the_power_is_no_roll_back() {
    let (mut first, _second) = pair();
    let alice = first.client(&first.alice).unwrap();
    alice.certificate(alice.ask(600).unwrap()).unwrap();
    drop(alice);
    let size = first.cli("bob", "jit-broker -o json audit verify").json()["size"].as_u64().unwrap();
    taken(&first, size);
    first.kill();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lost = "DELETE FROM checkpoint WHERE size = (SELECT max(size) FROM checkpoint)";
    runtime.block_on(crate::tampered::edit(&first.ledger(), lost));
    first.serve();
    // It is signed again, and what the copies hold is what they are given.
    taken(&first, size);
    assert!(witnesses(&first).iter().all(|w| w["trouble"].is_null()), "{:#?}", witnesses(&first));
}

#[test]
fn a_restored_broker_knows_whom_its_witnesses_certificates_are_of() {
    let (mut first, mut second) = pair();
    first.stop();
    second.stop();
    let ca = first.broker_dir().join("other-ca.pem");
    std::fs::copy(first.dir.join("second-ca.pem"), &ca).unwrap();
    let text = std::fs::read_to_string(first.config()).unwrap();
    let outside = first.dir.join("second-ca.pem").display().to_string();
    let more = "[witness.third]\nwebhook = \"https://third.corp/\"\nca = \"other-ca.pem\"\n";
    std::fs::write(first.config(), format!("{}\n{more}", text.replace(&outside, "other-ca.pem"))).unwrap();
    let secret = first.dir.join("passphrase");
    std::fs::write(&secret, "correct horse battery").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let at = |path: PathBuf| path.display().to_string();
    let (secret, file, dir) = (at(secret), at(first.dir.join("first.backup")), first.dir.join("restored"));
    let run = |args: &[&str]| Done::from(first.operator(args).output().unwrap());
    run(&["backup", "--to", &file, "--config", &at(first.config()), "--passphrase-file", &secret]).ok();
    run(&["restore", &file, "--dir", &at(dir.clone()), "--passphrase-file", &secret]).ok();
    assert_eq!(std::fs::read(dir.join("other-ca.pem")).unwrap(), std::fs::read(ca).unwrap());
    let good = run(&["check", "--config", &at(dir.join("jit-broker.toml"))]);
    assert_eq!(good.code, Some(0), "{}", good.err);
}

#[test]
fn outside_copies_go_on_over_an_epoch_that_acknowledges_what_they_know_to_be_lost() {
    let (mut first, mut second) = pair();
    first.stop();
    let old = first.dir.join("old.db");
    copy(&first.ledger(), &old);
    first.serve();
    let alice = first.client(&first.alice).unwrap();
    alice.certificate(alice.ask(600).unwrap()).unwrap();
    drop(alice);
    let size = first.cli("bob", "jit-broker -o json audit verify").json()["size"].as_u64().unwrap();
    taken(&first, size);
    first.stop();
    copy(&old, &first.ledger());
    let config = first.config().display().to_string();
    let mended: Done = first.operator(&["restore", "--in-place", "--config", &config]).output().unwrap().into();
    assert_eq!(mended.code, Some(0), "{mended:?}");
    // Both copies know more, and the broker runs all the same: it signs nothing until somebody acknowledges the loss.
    first.serve();
    let outside = first.dir.join("outside.note");
    let lost = std::fs::read_to_string(&outside).unwrap();
    let begun = first.cli("root-admin", "jit-broker audit begin-epoch --yes --witness ../outside.note");
    assert!(begun.code == Some(0) && begun.err.contains("are lost"), "{begun:?}");
    first.cli("bob", "jit-broker auth acknowledge --yes").ok();
    eventually("both copies are of the new epoch", || {
        let new = |w: &Value| w["trouble"].is_null() && w["note"].as_str().is_some_and(|n| n.contains("/e1\n"));
        witnesses(&first).iter().all(new)
    });
    // The last note of the old epoch stays, to hold against the log: it is a loss that was acknowledged.
    assert_eq!(std::fs::read_to_string(first.dir.join("outside.note.e0")).unwrap(), lost);
    let verified = first.cli("bob", "jit-broker audit verify --witness ../outside.note.e0");
    assert!(verified.code == Some(0) && verified.err.contains("lost before epoch 1"), "{verified:?}");
    let alice = first.client(&first.alice).unwrap();
    let grant = alice.ask(700).unwrap();
    alice.certificate(grant).unwrap();
    drop(alice);
    let receipt = first.cli("bob", &format!("jit-broker receipt {grant}")).ok();
    std::fs::write(first.dir.join("receipt.json"), receipt).unwrap();
    std::fs::write(first.dir.join("log.pub"), about(&first, "bob")["log_key"].as_str().unwrap()).unwrap();
    let judged = first.cli("bob", "jit-broker verify ../receipt.json --key ../log.pub");
    assert!(judged.code == Some(0) && judged.out.contains("/e1,"), "{judged:?}");
    first.stop();
    // The next start asks them, and finds its own epoch; a copy that missed it knows nothing that was not acknowledged.
    first.serve();
    first.stop();
    std::fs::write(&outside, &lost).unwrap();
    first.serve();
    eventually("it is handed over again", || std::fs::read_to_string(&outside).unwrap() != lost);
    first.cli("bob", "jit-broker audit export > ../export.jsonl").ok();
    first.stop();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify.py");
    let judge = |file: &str, more: &[&str]| {
        let mut command = std::process::Command::new("python3");
        let done: Done = command
            .arg(script)
            .args([file, "--key", "log.pub"])
            .args(more)
            .current_dir(&first.dir)
            .output()
            .unwrap()
            .into();
        assert!(matches!(done.code, Some(0 | 11)), "{file}: {done:?}");
        done.out
    };
    judge("receipt.json", &[]);
    assert!(judge("export.jsonl", &["--witness", "outside.note.e0"]).contains("were lost before a new epoch"));
    // A copy that knows a later epoch than the ledger is as good as one that knows more.
    let epoch = std::fs::read_to_string(&outside).unwrap();
    assert!(epoch.contains("/e1\n"));
    copy(&old, &first.ledger());
    let (mut child, ready) = first.try_serve();
    assert!(ready.unwrap_err().contains("it knows epoch 1"), "the ledger went back");
    let _ = child.wait();
    second.stop();
}

#[test]
fn what_checkpoints_are_not_sent_to() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("jit-broker.toml");
    let key = Log::new(1).key.public().to_string();
    let read = |witness: &str| {
        let text = format!(
            "schema = 1\n[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"https://127.0.0.1:7443\"\n[trust]\n\
             admins = [{{ name = \"root-admin\", key = \"{key}\" }}]\n{witness}\n"
        );
        std::fs::write(&path, text).unwrap();
        Settings::read(&path).map_err(|problems| problems.join("\n"))
    };
    for url in [
        "http://siem.corp/",
        "file:///etc/passwd",
        "gopher://siem.corp/",
        "https://",
        "https:///x",
        "https://a@siem.corp/",
        "https://169.254.169.254/latest",
        "https://[fe80::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://0.0.0.0/",
        "https://[::]/",
        "https://224.0.0.1/",
        "https://siem.corp/a b",
        "https://siem.corp/#x",
        "https://siem.corp:99999/",
    ] {
        let said = read(&format!("[witness.siem]\nwebhook = \"{url}\"")).unwrap_err();
        assert!(said.contains("witness.siem"), "{url}: {said}");
    }
    for wrong in [
        "[witness.x]\nurl = \"https://w.corp/\"",
        "[witness.x]\n",
        "[witness.x]\nfile = \"a\"\nwebhook = \"https://w.corp/\"",
        "[witness.\"a b\"]\nfile = \"a\"",
        "[witness.x]\nfile = \"a\"\nca = \"b\"",
        "[keeps.x]\norigin = \"a b\"\nkey = \"ssh-ed25519 AAAA\"",
        "[witness.x]\nfiel = \"a\"",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    let good = read("[witness.a]\nwebhook = \"https://siem.corp/x?y=1\"\n[witness.b]\nfile = \"a.note\"").unwrap();
    assert_eq!(good.outside.witnesses.len(), 2);
}

#[test]
fn a_webhook_takes_the_note_and_a_name_that_leads_inward_takes_nothing() {
    let mut served = Served::init();
    let hook = Hook::start(&served.dir);
    configure(
        &served,
        &format!(
            "[witness.hook]\nwebhook = \"https://127.0.0.1:{port}/notes\"\nca = \"{ca}\"\n[witness.inward]\n\
             webhook = \"https://localhost:{port}/notes\"\nca = \"{ca}\"",
            port = hook.port,
            ca = hook.ca.display()
        ),
    );
    served.serve();
    served.adopt();
    served.sign_in("bob");
    eventually("the hook is told, and the name is refused", || {
        let listed = witnesses(&served);
        let find = |name: &str| listed.iter().find(|w| w["name"] == name).unwrap().clone();
        find("hook")["size"].as_u64() > Some(1)
            && find("inward")["trouble"].as_str().is_some_and(|t| t.contains("leads to"))
    });
    let body = hook.taken.lock().unwrap().last().unwrap().clone();
    let about = about(&served, "bob");
    let key = jit_ca::key::PublicKey::parse(about["log_key"].as_str().unwrap()).unwrap();
    let note = body.split("\r\n\r\n").nth(1).unwrap();
    let origin = about["origin"].as_str().unwrap();
    assert!(SignedNote::open(note, origin, &key.ed25519_bytes().unwrap()).unwrap().size > 1);
    assert!(body.starts_with("POST /notes HTTP/1.1\r\n"), "{body}");
}

/// A small HTTPS server that takes everything.
struct Hook {
    port: u16,
    ca: PathBuf,
    taken: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl Hook {
    fn start(dir: &Path) -> Self {
        use jit_ca::x509::{CaSpec, ServerLeafSpec, ServerName, X509Key, make_ca, sign_server_leaf};
        use std::io::{Read, Write};
        let (ca_key, key) = (X509Key::generate().unwrap(), X509Key::generate().unwrap());
        let now = jit_broker::clock::wall_s();
        let (not_before, not_after) = (now - 3600, now + 86_400);
        let spec = CaSpec { name: "hook CA".to_owned(), serial: [1; 16], not_before, not_after };
        let ca = make_ca(&ca_key, &spec).unwrap();
        let names = vec![ServerName::Ip("127.0.0.1".parse().unwrap()), ServerName::Dns("localhost".to_owned())];
        let leaf =
            ServerLeafSpec { names, public_key_spki_der: key.spki_der(), serial: [2; 16], not_before, not_after };
        let leaf = sign_server_leaf(&ca, &ca_key, &leaf).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec());
        let config =
            builder.unwrap().with_no_client_auth().with_single_cert(vec![leaf.into()], private.into()).unwrap();
        let config = std::sync::Arc::new(config);
        let path = dir.join("hook-ca.pem");
        std::fs::write(&path, ca.pem()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let keep = taken.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut tls = rustls::ServerConnection::new(config.clone()).unwrap();
                let mut tls = rustls::Stream::new(&mut tls, &mut stream);
                let (mut text, mut buffer) = (String::new(), [0; 4096]);
                while !text.ends_with("=\n") {
                    match tls.read(&mut buffer) {
                        Ok(n) if n > 0 => text.push_str(&String::from_utf8_lossy(&buffer[..n])),
                        _ => break,
                    }
                }
                let _ = tls.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
                let _ = tls.flush();
                if !text.is_empty() {
                    keep.lock().unwrap().push(text);
                }
            }
        });
        Self { port, ca: path, taken }
    }
}
