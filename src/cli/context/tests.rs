//! Tests of what the client remembers, with hand-made logs.
#![allow(clippy::unwrap_used)]

use jit_ca::key::PrivateKey;

use super::super::trust::Acknowledged;
use super::*;
use crate::domain::authority::{SignedTrust, TRUST_NAMESPACE, TrustWord};
use crate::domain::ids::InstallId;
use crate::domain::key::Key;
use crate::ledger::note::Checkpoint;
use crate::ledger::note::NoteSigner;
use crate::ledger::tree::{Frontier, leaf_hash, node_hash};

struct Log {
    key: PrivateKey,
    name: String,
}

impl NoteSigner for Log {
    fn name(&self) -> &str {
        &self.name
    }
    fn public(&self) -> [u8; 32] {
        self.key.public().ed25519_bytes().unwrap()
    }
    fn sign(&self, body: &[u8]) -> [u8; 64] {
        self.key.sign_ed25519(body).unwrap()
    }
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed([seed; 32])
}

fn public(seed: u8) -> Key {
    Key(key(seed).public().clone())
}

fn about() -> About {
    let install = InstallId::new([1; 16]);
    About {
        version: "0".to_owned(),
        install,
        origin: origin_of(&install.to_string()),
        log_key: public(1),
        ssh_user: public(2),
        ssh_host: public(3),
        ssh_gateway: None,
        server_ca_pem: String::new(),
        x509_client: None,
        trust: None,
        public_url: "https://broker.example".to_owned(),
    }
}

fn context() -> Context {
    Context { server: "https://broker.example".to_owned(), about: about(), person: None, key: None }
}

fn note_by(seed: u8, leaves: &[&str]) -> String {
    let mut tree = Frontier::empty();
    leaves.iter().for_each(|leaf| tree.push(leaf_hash(leaf.as_bytes())));
    let checkpoint = Checkpoint { origin: about().origin, size: tree.size(), root: tree.root() };
    checkpoint.sign(&Log { key: key(seed), name: about().origin }).text
}

fn note(leaves: &[&str]) -> String {
    note_by(1, leaves)
}

fn leaf(text: &str) -> Hash {
    leaf_hash(text.as_bytes())
}

fn home() -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let below = |name| dir.path().join(name);
    let home = Home { config: below("config"), state: below("state"), run: below("run") };
    (dir, home)
}

/// What a run of the program does with one answer: it names what it has seen, and judges what comes.
fn see(home: &Home, note: Option<&str>, proof: &[Hash]) -> Result<(), Failure> {
    let sent = context().seen(home)?;
    context().witness(home, sent.as_ref(), note, proof)
}

fn size(home: &Home) -> u64 {
    context().seen(home).unwrap().unwrap().size
}

#[test]
fn a_log_that_grows_is_followed() {
    let (_dir, home) = home();
    see(&home, Some(&note(&["a", "b"])), &[]).unwrap();
    see(&home, Some(&note(&["a", "b"])), &[]).unwrap();
    // RFC 9162 section 2.1.4: from 2 to 3 leaves the proof is the third leaf.
    see(&home, Some(&note(&["a", "b", "c"])), &[leaf("c")]).unwrap();
    assert_eq!(size(&home), 3);
}

#[test]
fn rolled_back_forked_silent_and_foreign_logs_are_refused_with_both_notes_kept() {
    let (forked, shorter) = (note(&["a", "x", "c"]), note(&["a"]));
    let other_key = note_by(7, &["a", "b", "c"]);
    let good = note(&["a", "b"]);
    let longer_fork = note(&["x", "b", "c"]);
    let same_size = note(&["a", "x"]);
    let unproven = note(&["a", "b", "c"]);
    let fork_proof = [node_hash(&leaf("x"), &leaf("b")), leaf("c")];
    let cases: [(&str, Option<&str>, &[Hash]); 8] = [
        ("shorter", Some(&shorter), &[]),
        ("same size, another root", Some(&same_size), &[]),
        ("fork", Some(&forked), &[leaf("c")]),
        ("fork with its own proof", Some(&longer_fork), &fork_proof),
        ("without proof", Some(&unproven), &[]),
        ("signed by another key", Some(&other_key), &[leaf("c")]),
        ("no checkpoint", None, &[]),
        ("not a note", Some("hello"), &[]),
    ];
    for (what, shown, proof) in cases {
        let (_dir, home) = home();
        see(&home, Some(&good), &[]).unwrap();
        let failure = see(&home, shown, proof).unwrap_err();
        assert_eq!(failure.0.code, Code::ROLLED_BACK, "{what}");
        assert_eq!(failure.0.code.entry().exit, 9);
        assert_eq!(std::fs::read_to_string(home.state.join("checkpoint")).unwrap(), good, "{what}");
        if let Some(shown) = shown {
            let kept = home.state.join("conflicting-checkpoint");
            assert_eq!(std::fs::read_to_string(&kept).unwrap(), shown, "{what}");
            assert!(failure.0.message.contains(&kept.display().to_string()), "{what}: {}", failure.0.message);
        }
    }
}

#[test]
fn silence_is_refused_from_the_first_answer_on() {
    let (_dir, home) = home();
    assert_eq!(see(&home, None, &[]).unwrap_err().0.code, Code::ROLLED_BACK);
}

#[test]
fn a_damaged_witness_is_not_forgotten() {
    let (_dir, home) = home();
    write_private(&home.state.join("checkpoint"), b"damaged").unwrap();
    assert_eq!(see(&home, Some(&note(&["a"])), &[]).unwrap_err().0.code, Code::ROLLED_BACK);
}

#[test]
fn runs_at_the_same_time_do_not_alarm_one_another() {
    let (_dir, home) = home();
    see(&home, Some(&note(&["a", "b"])), &[]).unwrap();
    let sent = context().seen(&home).unwrap();
    // Another run stores four entries while this one waits; this one's answer is of three, proven from two.
    let four = note(&["a", "b", "c", "d"]);
    see(&home, Some(&four), &[node_hash(&leaf("c"), &leaf("d"))]).unwrap();
    context().witness(&home, sent.as_ref(), Some(&note(&["a", "b", "c"])), &[leaf("c")]).unwrap();
    assert_eq!(size(&home), 4, "the older answer does not replace the newer one");
    // Two logs of one size are a fork, whoever saw the other one.
    let fork = note(&["a", "b", "c", "x"]);
    let failure =
        context().witness(&home, sent.as_ref(), Some(&fork), &[node_hash(&leaf("c"), &leaf("x"))]).unwrap_err();
    assert_eq!(failure.0.code, Code::ROLLED_BACK);
}

#[test]
fn a_broker_that_contradicts_itself_is_not_pinned() {
    consistent(&about()).unwrap();
    type Lie = fn(&mut About);
    let wrong: [(&str, Lie); 4] = [
        ("origin", |a| a.origin = origin_of("in_other")),
        ("install", |a| a.install = InstallId::new([2; 16])),
        ("one key twice", |a| a.ssh_host = a.ssh_user.clone()),
        ("log key certifies", |a| a.log_key = a.ssh_user.clone()),
    ];
    for (what, change) in wrong {
        let mut about = about();
        change(&mut about);
        assert_eq!(consistent(&about).unwrap_err().0.code, Code::UNTRUSTED_SERVER, "{what}");
    }
    let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBGsX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfU=";
    let mut about = about();
    about.log_key = ecdsa.to_owned().try_into().unwrap();
    assert_eq!(consistent(&about).unwrap_err().0.code, Code::UNTRUSTED_SERVER, "another kind of key");
}

#[test]
fn a_sign_in_names_the_address_that_is_dialled() {
    let public = "https://broker.example";
    for same in
        [public, "https://broker.example:443", "https://BROKER.example", "https://127.0.0.1:7443", "https://[::1]:1"]
    {
        same_address(same, public).unwrap_or_else(|_| panic!("{same}"));
    }
    for other in
        ["https://evil.example", "https://broker.example:8443", "https://broker.example.evil", "https://10.0.0.1"]
    {
        assert_eq!(same_address(other, public).unwrap_err().0.code, Code::UNTRUSTED_SERVER, "{other}");
    }
}

#[test]
fn what_is_saved_is_read_again() {
    let (_dir, home) = home();
    assert_eq!(Context::load(&home).unwrap_err().0.code, Code::NOT_SIGNED_IN);
    context().save(&home).unwrap();
    assert_eq!(Context::load(&home).unwrap().about, about());
    write_private(&home.config.join("context.json"), b"{}").unwrap();
    assert_eq!(Context::load(&home).unwrap_err().0.code, Code::LOCAL_IO, "damage is not a missing sign-in");
}

fn of_epoch(epoch: u32, leaves: &[&str]) -> String {
    let mut tree = Frontier::empty();
    leaves.iter().for_each(|leaf| tree.push(leaf_hash(leaf.as_bytes())));
    let origin = about().origin.replace("/e0", &format!("/e{epoch}"));
    let checkpoint = Checkpoint { origin: origin.clone(), size: tree.size(), root: tree.root() };
    checkpoint.sign(&Log { key: key(1), name: origin }).text
}

#[test]
fn a_new_epoch_is_followed_where_nothing_is_lost_and_told_where_something_is() {
    let (_dir, home) = home();
    see(&home, Some(&note(&["a", "b"])), &[]).unwrap();
    // It goes on from what was seen.
    see(&home, Some(&of_epoch(1, &["a", "b", "c"])), &[leaf("c")]).unwrap();
    assert_eq!((size(&home), context().seen(&home).unwrap().unwrap().epoch), (3, 1));
    // The epoch before is over for this client, however long its log.
    let back = see(&home, Some(&note(&["a", "b", "c", "d"])), &[leaf("d")]).unwrap_err();
    assert_eq!(back.0.code, Code::ROLLED_BACK);
    // A later one that lacks what was seen: shorter, or of the same length and another.
    for lost in [of_epoch(2, &["a", "b"]), of_epoch(2, &["a", "b", "x", "y"])] {
        assert_eq!(see(&home, Some(&lost), &[]).unwrap_err().0.code, Code::EPOCH);
        assert_eq!(size(&home), 3, "what was seen stays remembered");
    }
    // Acknowledged: the old one is kept aside, and this client goes on.
    context().put_aside(&home, 2).unwrap();
    assert!(home.state.join("checkpoint.lost-before-e2").exists());
    see(&home, Some(&of_epoch(2, &["a", "b", "x", "y"])), &[]).unwrap();
    assert_eq!(see(&home, Some(&of_epoch(2, &["a", "b", "x"])), &[]).unwrap_err().0.code, Code::ROLLED_BACK);
    // An epoch is a plain number behind the same installation.
    for origin in ["/e01", "/e-1", "/e", "/e1/e1"] {
        let text = of_epoch(1, &["a", "b", "x", "y"]).replace("/e1", origin);
        assert_eq!(see(&home, Some(&text), &[]).unwrap_err().0.code, Code::ROLLED_BACK, "{origin}");
    }
}

/// What the broker says of itself with a signed word of a version.
fn saying(version: u64) -> About {
    let word = TrustWord {
        install: about().install,
        version,
        ssh_user: vec![public(2)],
        ssh_gateway: Vec::new(),
        ssh_host: vec![public(3)],
        x509_client: Vec::new(),
        x509_server: Vec::new(),
        resets: None,
    };
    let word = serde_json::to_string(&word).unwrap();
    let signature = jit_ca::sshsig::sign(&key(1), TRUST_NAMESPACE, word.as_bytes()).unwrap();
    About { trust: Some(SignedTrust { word, signatures: vec![signature] }), ..about() }
}

#[test]
fn an_older_word_on_the_authorities_is_neither_learnt_nor_signed_in_with() {
    let (_dir, home) = home();
    let at = |version| Context { about: saying(version), ..context() };
    at(5).save(&home).unwrap();
    // Not by a run that began before another one learnt of it, either.
    for (mut mine, says, known) in [(at(5), 4, 5), (at(2), 3, 5), (at(5), 6, 6)] {
        mine.learn(&home, saying(says), Acknowledged::No).unwrap();
        assert_eq!(Context::load(&home).unwrap().trust_version(), known, "{says}");
    }
    at(6).no_older(&at(6)).unwrap();
    at(6).no_older(&context()).unwrap();
    context().no_older(&context()).unwrap();
    for older in [at(5), at(0), context()] {
        assert_eq!(older.no_older(&at(6)).unwrap_err().0.code, Code::ROLLED_BACK);
    }
}
