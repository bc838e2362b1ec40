//! Receipts, and `verify` of certificates: what somebody outside can know with public keys only, and what a forger cannot make them believe.

use std::path::{Path, PathBuf};
use std::process::Command;

use jit_broker::broker::evidence::{self, Evidence};
use jit_broker::broker::receipt::About;
use jit_broker::daemon::dev::{adopt, bundle};
use jit_broker::domain::act::{Deed, Selector};
use jit_broker::domain::authority::{Purpose, Rotation, Wait};
use jit_broker::domain::bundle::BundleText;
use jit_broker::domain::digest::Digest;
use jit_broker::domain::event::Entry;
use jit_broker::domain::ids::GrantId;
use jit_broker::domain::key::Key;
use jit_broker::domain::names::PersonName;
use jit_broker::domain::refusal::Code;
use jit_broker::ledger::tlog_proof::TlogProof;
use jit_broker::ledger::{Checkpoint, Frontier, Reader, leaf_hash};
use jit_broker::signer::keys::Keys;
use jit_broker::wire::ReceiptDoc;

use crate::audit::Root;
use crate::served::PROGRAM;
use crate::trust::{World, words};
use crate::world::Done;

fn log_key(world: &World) -> Key {
    Keys::load(&world.settings.ca_dir).unwrap().log_public()
}

async fn receipt(world: &World, who: &PersonName, about: About) -> ReceiptDoc {
    world.broker().receipt(who, &about).await.unwrap()
}

/// The first thing that is wrong with a receipt.
#[track_caller]
fn wrong(doc: &ReceiptDoc, key: &Key) -> String {
    let refusal = evidence::open(doc, key).map(|(e, _)| e.problems).unwrap_err();
    assert_eq!(refusal.code, Code::FALSE_PROOF);
    refusal.message
}

/// What the program says, in a home that knows no broker.
fn run(world: &World, args: &[&str]) -> Done {
    let home = world.settings.state_dir.join("outsider");
    std::fs::create_dir_all(&home).unwrap();
    Command::new(PROGRAM).args(args).env("JIT_BROKER_HOME", home).output().unwrap().into()
}

fn second(args: &[&str]) -> Done {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify.py");
    Command::new("python3").arg(script).args(args).output().unwrap().into()
}

fn put(world: &World, name: &str, text: &str) -> PathBuf {
    let path = world.settings.state_dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_shows_who_asked_who_agreed_and_what_was_signed_for_it() {
    let world = World::start().await;
    let grant = world.open(600).await;
    let certificate = world.issue(grant).await.unwrap();
    world.open(900).await;
    let key = log_key(&world);
    let doc = receipt(&world, &world.bob.name(), About::Grant(grant)).await;
    let (evidence, checkpoint) = evidence::open(&doc, &key).unwrap();
    assert!(evidence.judged && evidence.gaps.is_empty(), "{:#?}", evidence.gaps);
    let request = evidence.request.as_ref().unwrap();
    assert_eq!((&request.person, request.approvals.len()), (&world.alice.name(), 1));
    assert_eq!(request.approvals[0].by, world.bob.name());
    assert_eq!(evidence.words(request.words).unwrap().reason.unwrap(), "hotfix for OPS-1");
    let issued = &evidence.grant.as_ref().unwrap().credentials[0];
    assert_eq!(issued.tbs_sha256, Digest::new(jit_ca::ssh::read(&certificate).unwrap().tbs_sha256));
    assert!(checkpoint.size > 0 && evidence.said.iter().all(|said| said.theirs), "{:#?}", evidence.said);
    // The same, asked for by the request and by the certificate.
    let by_request = receipt(&world, &world.bob.name(), About::Request(request.id)).await;
    assert_eq!(by_request.entries, doc.entries);
    let by_bytes = receipt(&world, &world.bob.name(), About::Certificate(issued.tbs_sha256)).await;
    assert_eq!(by_bytes.entries, doc.entries);
    // Nothing of the other grant is in it.
    let kinds = |kind: &str| doc.entries.iter().filter(|e| e.entry.contains(&format!("\"kind\":\"{kind}\""))).count();
    assert_eq!((kinds("grant.opened"), kinds("request.submitted"), kinds("credential.issued")), (1, 1, 1));
    // The program and the second implementation, offline, with the public key alone.
    let file = put(&world, "receipt.json", &serde_json::to_string(&doc).unwrap());
    let public = put(&world, "log.pub", &key.to_string());
    let done = run(&world, &["verify", text(&file), "--key", text(&public)]);
    assert_eq!(done.code, Some(0), "{done:?}");
    for said in
        ["alice asked, signed for deploy", "reason: hotfix for OPS-1", "bob agreed", "run again here", "serial 1"]
    {
        assert!(done.out.contains(said), "{said}: {}", done.out);
    }
    let json = run(&world, &["-o", "json", "verify", text(&file), "--key", text(&public)]).json();
    assert_eq!((json["schema"].as_str(), json["judged_again"].as_bool()), (Some("jit-broker/proof/v1"), Some(true)));
    assert_eq!(second(&[text(&file), "--key", text(&public)]).code, Some(0));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_for_those_whom_it_concerns_and_tells_them_no_more_than_they_may_read() {
    let world = World::start().await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    let strangers = world.broker().receipt(&world.admin.name(), &About::Grant(grant)).await;
    assert!(strangers.is_ok() || strangers.unwrap_err().code == Code::MISSING);
    let mallory = PersonName::new("mallory").unwrap();
    assert_eq!(world.broker().receipt(&mallory, &About::Grant(grant)).await.unwrap_err().code, Code::MISSING);
    // The holder does not read the bundle: the signatures hold, and what cannot be judged is said.
    let doc = receipt(&world, &world.alice.name(), About::Grant(grant)).await;
    assert!(!doc.texts.values().any(|text| text.contains("people.toml")), "the bundle is not alice's to read");
    let (evidence, _) = evidence::open(&doc, &log_key(&world)).unwrap();
    assert!(!evidence.judged && evidence.gaps.len() == 2, "{:#?}", evidence.gaps);
    // A certificate that nobody issued is told to an auditor, and not to others.
    let nothing = About::Certificate(Digest::of(b"nothing"));
    assert_eq!(world.broker().receipt(&world.bob.name(), &nothing).await.unwrap_err().code, Code::NOT_IN_LOG);
    assert_eq!(world.broker().receipt(&world.alice.name(), &nothing).await.unwrap_err().code, Code::MISSING);
    // What ended it is in it, with its signature: bob is auditor and sees his own act.
    let why = words("no longer needed");
    let deed = Deed::Revoke { by: world.bob.name(), of: Selector::Grant(grant) };
    world.broker().act(world.sign(&world.bob, Some(&why), deed), Some(&why), None).await.unwrap();
    let doc = receipt(&world, &world.bob.name(), About::Grant(grant)).await;
    let (evidence, _) = evidence::open(&doc, &log_key(&world)).unwrap();
    let ended = evidence.said.iter().find(|said| said.deed == "revoke").unwrap();
    assert_eq!(ended.words.as_ref().unwrap().reason.as_deref(), Some("no longer needed"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_forged_receipt_holds() {
    let world = World::start().await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    let key = log_key(&world);
    let good = receipt(&world, &world.bob.name(), About::Grant(grant)).await;
    let public = put(&world, "log.pub", &key.to_string());
    let place =
        |kind: &str| good.entries.iter().position(|e| e.entry.contains(&format!("\"kind\":\"{kind}\""))).unwrap();
    let (asked, approved, opened) = (place("request.submitted"), place("request.step_approved"), place("grant.opened"));
    let issued = place("credential.issued");
    // Without the log's key: nothing can be changed, added or moved.
    let mut forged = Vec::new();
    let mut change = |what: &str, change: &dyn Fn(&mut ReceiptDoc)| {
        let mut doc = good.clone();
        change(&mut doc);
        forged.push((what.to_owned(), doc));
    };
    change("a longer window", &|doc| {
        doc.entries[opened].entry = doc.entries[opened].entry.replace("\"for_s\":600", "\"for_s\":6000")
    });
    change("two entries swapped", &|doc| doc.entries.swap(asked, approved));
    change("an entry twice", &|doc| doc.entries.insert(asked, doc.entries[asked].clone()));
    change("the beginning is missing", &|doc| drop(doc.entries.remove(0)));
    change("another installation", &|doc| doc.install = jit_broker::domain::ids::InstallId::new([7; 16]));
    change("another reason", &|doc| doc.texts.values_mut().for_each(|text| *text = text.replace("OPS-1", "OPS-2")));
    change("proof of another place", &|doc| doc.entries[asked].proof = doc.entries[approved].proof.clone());
    change("about something else", &|doc| doc.about = GrantId::new([7; 16]).to_string());
    change("another schema", &|doc| doc.schema = "jit-broker/receipt/v2".to_owned());
    change("nothing", &|doc| doc.entries.clear());
    for (what, doc) in &forged {
        let said = wrong(doc, &key);
        let file = put(&world, "forged.json", &serde_json::to_string(doc).unwrap());
        let done = run(&world, &["verify", text(&file), "--key", text(&public)]);
        assert_eq!(done.code, Some(1), "{what}: {said} {done:?}");
        assert_eq!(second(&[text(&file), "--key", text(&public)]).code, Some(1), "{what}");
    }
    // An approval is left out: every proof holds, and the rules do not.
    let mut doc = good.clone();
    doc.entries.remove(approved);
    assert!(wrong(&doc, &key).contains("nothing in the receipt justifies it"));
    // Another key is given out of band.
    let other = Key(jit_ca::key::PrivateKey::from_seed([9; 32]).public().clone());
    assert!(wrong(&good, &other).contains("unknown key"));
    // With the log's key: root can sign any tree, but not what people signed, nor what the rules make of it.
    let root = Root::of(&world);
    let signature = |at: usize| {
        let entry: serde_json::Value = serde_json::from_str(&good.entries[at].entry).unwrap();
        serde_json::to_string(&entry["cause"]["signature"]).unwrap()
    };
    let edits: [(&str, usize, String, String); 5] = [
        ("the signature does not hold", approved, signature(approved), signature(asked)),
        ("not what the rules make", opened, "\"for_s\":600".to_owned(), "\"for_s\":6000".to_owned()),
        ("says something else", approved, "\"step\":".to_owned(), "\"step\":".to_owned()),
        ("outside the window", issued, "\"valid_before\":".to_owned(), "\"valid_before\":9".to_owned()),
        ("other bytes", issued, "\"tbs_sha256\":\"".to_owned(), "\"tbs_sha256\":\"".to_owned()),
    ];
    for (said, at, from, to) in edits {
        let mut doc = good.clone();
        let entry = &mut doc.entries[at].entry;
        *entry = match said {
            // bob signs for ten minutes, and the entry says that he said an hour.
            "says something else" => last_replaced(entry, "\"for_s\":600", "\"for_s\":3600"),
            "other bytes" => {
                let at = entry.find(&from).unwrap() + from.len();
                let digit = if &entry[at..=at] == "0" { "1" } else { "0" };
                format!("{}{digit}{}", &entry[..at], &entry[at + 1..])
            }
            _ => entry.replace(&from, &to),
        };
        let doc = resealed(&world, &root, doc).await;
        let found = wrong(&doc, &key);
        assert!(found.contains(said), "{said}: {found}");
    }
    world.stop().await;
}

fn last_replaced(text: &str, from: &str, to: &str) -> String {
    let at = text.rfind(from).unwrap();
    format!("{}{to}{}", &text[..at], &text[at + from.len()..])
}

/// What root makes of a receipt: a tree with these entries in their places, signed with the real key, and new proofs.
async fn resealed(world: &World, root: &Root, mut doc: ReceiptDoc) -> ReceiptDoc {
    let reader = Reader::open(&world.settings.ledger).await.unwrap();
    let mut leaves: Vec<Vec<u8>> = reader.leaves(0, 100_000).await.unwrap().into_iter().map(|l| l.bytes).collect();
    let places: Vec<u64> = doc.entries.iter().map(|e| TlogProof::read(&e.proof).unwrap().seq).collect();
    for (seq, proven) in places.iter().zip(&doc.entries) {
        leaves[usize::try_from(*seq).unwrap()] = proven.entry.clone().into_bytes();
    }
    let hashes: Vec<_> = leaves.iter().map(|bytes| leaf_hash(bytes)).collect();
    let mut tree = Frontier::empty();
    hashes.iter().for_each(|hash| tree.push(*hash));
    let note = Checkpoint { origin: root.origin.clone(), size: tree.size(), root: tree.root() }.sign(root).text;
    for (seq, proven) in places.into_iter().zip(&mut doc.entries) {
        let hashes = path(usize::try_from(seq).unwrap(), &hashes);
        proven.proof = TlogProof { seq, hashes, note: note.clone() }.write();
    }
    doc
}

/// RFC 6962, section 2.1.1, word for word.
fn path(m: usize, leaves: &[[u8; 32]]) -> Vec<[u8; 32]> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let root = |leaves: &[[u8; 32]]| {
        let mut tree = Frontier::empty();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree.root()
    };
    let k = leaves.len().next_power_of_two() / 2;
    let (mut proof, other) = if m < k {
        (path(m, &leaves[..k]), root(&leaves[k..]))
    } else {
        (path(m - k, &leaves[k..]), root(&leaves[..k]))
    };
    proof.push(other);
    proof
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_holds_under_a_bundle_that_was_replaced_and_when_its_text_was_shredded() {
    let world = World::start().await;
    let grant: GrantId = world.open(600).await;
    let mut files = bundle(&world.alice.key(), &world.bob.key(), "deploy", 22).files;
    files.get_mut("policy.toml").unwrap().push_str("\n# the next one\n");
    let next = BundleText { files };
    adopt(world.broker(), &world.admin, world.install, &next).await.unwrap();
    let mut doc = receipt(&world, &world.bob.name(), About::Grant(grant)).await;
    let (evidence, _) = evidence::open(&doc, &log_key(&world)).unwrap();
    assert!(evidence.judged && evidence.bundle != Some(next.digest()));
    doc.texts.retain(|_, text| text.contains("people.toml"));
    let (evidence, _) = evidence::open(&doc, &log_key(&world)).unwrap();
    assert!(evidence.gaps.iter().any(|gap| gap.contains("its text is gone")), "{:#?}", evidence.gaps);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_in_the_log_or_it_is_told_aloud() {
    let world = World::start().await;
    let grant = world.open(600).await;
    let certificate = world.issue(grant).await.unwrap();
    let key = log_key(&world);
    let public = put(&world, "log.pub", &key.to_string());
    let export = world.settings.state_dir.join("export.jsonl");
    let mut file = std::fs::File::create(&export).unwrap();
    jit_broker::ledger::export_jsonl(world.broker().reader(), u64::MAX, &mut file).await.unwrap();
    let doc = receipt(&world, &world.bob.name(), About::Grant(grant)).await;
    let kept = put(&world, "receipt.json", &serde_json::to_string(&doc).unwrap());
    let good = put(&world, "good-cert.pub", &format!("{certificate} alice@laptop\n"));
    for proof in [&export, &kept, &world.settings.ledger] {
        let done = run(&world, &["verify", text(&good), "--key", text(&public), "--offline", text(proof)]);
        assert_eq!(done.code, Some(0), "{}: {done:?}", proof.display());
        assert!(done.out.contains("in the log: ssh-user serial 1") && done.out.contains("bob agreed"), "{}", done.out);
    }
    // Somebody used the authority behind the log's back: the same, with another nonce.
    let keys = Keys::load(&world.settings.ca_dir).unwrap();
    let facts = jit_ca::ssh::read(&certificate).unwrap();
    let memory = world.broker().memory().await;
    let held = memory.state.grants.get(&grant).unwrap().clone();
    drop(memory);
    let mut credential = held.credentials[0].clone();
    credential.nonce = Digest::of(b"another");
    let spec = jit_broker::domain::decide::user_spec(&held, &credential).unwrap();
    let minted = jit_ca::ssh::sign_user(&keys.ssh_user, &spec, &jit_ca::limits::Limits::STANDARD).unwrap();
    assert_eq!((minted.facts().serial, &minted.facts().key_id), (facts.serial, &facts.key_id));
    let bad = put(&world, "minted-cert.pub", minted.openssh());
    for (proof, said) in [(&export, "NOT IN THE LOG"), (&kept, "does not speak of this certificate")] {
        let done = run(&world, &["verify", text(&bad), "--key", text(&public), "--offline", text(proof)]);
        assert!(done.code == Some(1) && done.err.contains(said), "{done:?}");
    }
    // Another authority.
    let stranger = jit_ca::key::CaKey::new(jit_ca::key::PrivateKey::from_seed([9; 32])).unwrap();
    let foreign = jit_ca::ssh::sign_user(&stranger, &spec, &jit_ca::limits::Limits::STANDARD).unwrap();
    let foreign = put(&world, "foreign-cert.pub", foreign.openssh());
    let done = run(&world, &["verify", text(&foreign), "--key", text(&public), "--offline", text(&export)]);
    assert!(done.code == Some(1) && done.err.contains("No authority of this installation"), "{done:?}");
    // A log that does not hold vouches for nothing.
    let broken = std::fs::read_to_string(&export).unwrap().replacen("\"seq\":3", "\"seq\":4", 1);
    let broken = put(&world, "broken.jsonl", &broken);
    let done = run(&world, &["verify", text(&good), "--key", text(&public), "--offline", text(&broken)]);
    assert!(done.code == Some(70) && done.err.contains("does not hold"), "{done:?}");
    let nothing = put(&world, "nothing", "ssh-ed25519 AAAA\n");
    let done = run(&world, &["verify", text(&nothing), "--key", text(&public), "--offline", text(&export)]);
    assert_eq!(done.code, Some(2), "{done:?}");
    world.stop().await;
}

/// Alice's grant goes on as another one, and bob agrees; gives that.
async fn gone_on(world: &World, grant: GrantId) -> GrantId {
    let until = world.broker().memory().await.state.grants.get(&grant).unwrap().ends_at + 600;
    let deed = Deed::Extend {
        by: world.alice.name(),
        grant,
        target: "web-07".parse().unwrap(),
        role: "deploy".parse().unwrap(),
        until,
        key: world.alice.key(),
    };
    let text = words("the migration takes longer");
    let signed = world.sign(&world.alice, Some(&text), deed);
    let id = jit_broker::domain::ids::RequestId::of_digest(&signed.digest());
    world.broker().act(signed, Some(&text), None).await.unwrap();
    world.approve(&world.bob, id, |_| {}).await.unwrap();
    world.grant(id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_is_judged_beside_the_grant_that_went_on_or_its_lack_is_told() {
    let world = World::start().await;
    let first = world.open(600).await;
    world.issue(first).await.unwrap();
    let second = gone_on(&world, first).await;
    let certificate = world.issue(second).await.unwrap();
    let key = log_key(&world);
    let doc = receipt(&world, &world.bob.name(), About::Grant(second)).await;
    let (evidence, _) = evidence::open(&doc, &key).unwrap();
    assert!(evidence.judged && evidence.gaps.is_empty(), "{:#?}", evidence.gaps);
    assert!(evidence.grant.is_some_and(|grant| grant.id == second && grant.credentials.len() == 1));
    // The same out of the whole log, for the certificate alone.
    let (public, cert) = (put(&world, "log.pub", &key.to_string()), put(&world, "cert.pub", &certificate));
    let ledger = text(&world.settings.ledger);
    let json = run(&world, &["-o", "json", "verify", text(&cert), "--key", text(&public), "--offline", ledger]).json();
    assert_eq!(json["judged_again"].as_bool(), Some(true), "{json}");
    // Without the grant that went on nothing is said to be judged, and nothing to be forged.
    let mut without = doc.clone();
    without
        .entries
        .retain(|e| !(e.entry.contains("\"kind\":\"grant.opened\"") && e.entry.contains(&first.to_string())));
    assert_eq!(without.entries.len() + 1, doc.entries.len());
    let (evidence, _) = evidence::open(&without, &key).unwrap();
    let told = evidence.gaps.iter().any(|gap| gap.contains("the grant that was to go on is not in the receipt"));
    assert!(!evidence.judged && told, "{:#?}", evidence.gaps);
    world.stop().await;
}

async fn rotate(world: &World, ca: Purpose, step: Rotation) {
    let deed = Deed::RotateCa { by: world.admin.name(), ca, step };
    world.broker().act(world.sign(&world.admin, None, deed), None, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_authority_signed_before_it_was_replaced_and_after_has_its_receipt() {
    let world = World::start().await;
    let key = log_key(&world);
    let public = put(&world, "log.pub", &key.to_string());
    let grant = world.open(600).await;
    let mut certificates = vec![(grant, world.issue(grant).await.unwrap())];
    for round in 0..2 {
        let staged = world.broker().next_key(&world.admin.name(), Purpose::SshUser).await.unwrap().public;
        rotate(&world, Purpose::SshUser, Rotation::Stage(staged)).await;
        rotate(&world, Purpose::SshUser, Rotation::Activate(Wait::ForNobody)).await;
        let grant = world.open(700 + round).await;
        certificates.push((grant, world.issue(grant).await.unwrap()));
        rotate(&world, Purpose::SshUser, Rotation::Retire(Wait::ForNobody)).await;
    }
    let authority = |(_, line): &(GrantId, String)| jit_ca::ssh::read(line).unwrap().ca.fingerprint();
    let authorities: std::collections::BTreeSet<String> = certificates.iter().map(authority).collect();
    assert_eq!(authorities.len(), 3, "three authorities signed");
    let export = world.settings.state_dir.join("export.jsonl");
    let mut file = std::fs::File::create(&export).unwrap();
    jit_broker::ledger::export_jsonl(world.broker().reader(), u64::MAX, &mut file).await.unwrap();
    for (grant, certificate) in &certificates {
        let tbs = Digest::new(jit_ca::ssh::read(certificate).unwrap().tbs_sha256);
        // For its holder as for an auditor.
        for who in [world.alice.name(), world.bob.name()] {
            let doc = receipt(&world, &who, About::Grant(*grant)).await;
            let (evidence, _) = evidence::open(&doc, &key).unwrap();
            assert_eq!(evidence.grant.unwrap().credentials[0].tbs_sha256, tbs);
            let kept = put(&world, "receipt.json", &serde_json::to_string(&doc).unwrap());
            assert_eq!(second(&[text(&kept), "--key", text(&public)]).code, Some(0));
        }
        let doc = receipt(&world, &world.bob.name(), About::Certificate(tbs)).await;
        let kept = put(&world, "receipt.json", &serde_json::to_string(&doc).unwrap());
        let cert = put(&world, "cert.pub", certificate);
        for proof in [&export, &kept, &world.settings.ledger] {
            let done = run(&world, &["verify", text(&cert), "--key", text(&public), "--offline", text(proof)]);
            assert!(done.code == Some(0) && done.out.contains("in the log: ssh-user"), "{done:?}");
        }
    }
    // What no entry names is no authority: without its staging the last one is a stranger.
    let mut doc = receipt(&world, &world.bob.name(), About::Grant(certificates[2].0)).await;
    doc.entries.retain(|entry| !entry.entry.contains("\"kind\":\"ca.staged\""));
    assert!(wrong(&doc, &key).contains("other bytes"));
    // A host's certificate is renewed by the next authority, under the serial of its enrolment.
    let web: jit_broker::domain::names::TargetName = "web-07".parse().unwrap();
    let host = Key(jit_ca::key::PrivateKey::from_seed([78; 32]).public().clone());
    let deed = Deed::EnrollHost { by: world.admin.name(), target: web.clone(), key: host };
    world.broker().act(world.sign(&world.admin, None, deed), None, None).await.unwrap();
    let mut lines = vec![world.broker().host_certificate(&web).await.unwrap()];
    let staged = world.broker().next_key(&world.admin.name(), Purpose::SshHost).await.unwrap().public;
    rotate(&world, Purpose::SshHost, Rotation::Stage(staged)).await;
    rotate(&world, Purpose::SshHost, Rotation::Activate(Wait::ForNobody)).await;
    lines.push(world.broker().host_certificate(&web).await.unwrap());
    assert_ne!(lines[0], lines[1]);
    for line in lines {
        let facts = jit_ca::ssh::read(&line).unwrap();
        let doc = receipt(&world, &world.bob.name(), About::Host(web.clone(), facts.serial)).await;
        let (evidence, _) = evidence::open(&doc, &key).unwrap();
        assert!(evidence.host_of(Digest::new(facts.tbs_sha256)).is_some(), "{line}");
        let kept = put(&world, "receipt.json", &serde_json::to_string(&doc).unwrap());
        let cert = put(&world, "cert.pub", &line);
        let done = run(&world, &["verify", text(&cert), "--key", text(&public), "--offline", text(&kept)]);
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    world.stop().await;
}

#[test]
fn entries_without_a_beginning_show_nothing() {
    let evidence = Evidence::read(&[] as &[Entry], std::iter::empty(), &About::Certificate(Digest::of(b"x")));
    assert!(evidence.request.is_none() && evidence.genesis.is_none() && !evidence.judged);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_own_certificates_and_those_of_hosts_are_found_as_well() {
    let world = World::with_gateway().await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    let leg = Key(jit_ca::key::PrivateKey::from_seed([77; 32]).public().clone());
    let opened =
        world.broker().open_session(grant, &"deploy".parse().unwrap(), &world.alice.key(), &leg).await.unwrap();
    let facts = jit_ca::ssh::read(&opened.leg).unwrap();
    let key = log_key(&world);
    let about = About::Certificate(Digest::new(facts.tbs_sha256));
    let doc = receipt(&world, &world.bob.name(), about).await;
    let (evidence, _) = evidence::open(&doc, &key).unwrap();
    assert_eq!(evidence.legs.len(), 1, "{evidence:#?}");
    assert_eq!((evidence.legs[0].0, evidence.legs[0].1.serial), (opened.session, facts.serial));
    assert!(evidence.judged && evidence.gaps.is_empty());
    let public = put(&world, "log.pub", &key.to_string());
    let kept = put(&world, "receipt.json", &serde_json::to_string(&doc).unwrap());
    let cert = put(&world, "leg-cert.pub", &opened.leg);
    let done = run(&world, &["verify", text(&cert), "--key", text(&public), "--offline", text(&kept)]);
    assert!(done.code == Some(0) && done.out.contains("the gateway's own"), "{done:?}");
    // The receipt of the grant alone says nothing of the session: that is not the same as not being in the log.
    let doc = receipt(&world, &world.bob.name(), About::Grant(grant)).await;
    let kept = put(&world, "grant.json", &serde_json::to_string(&doc).unwrap());
    let done = run(&world, &["verify", text(&cert), "--key", text(&public), "--offline", text(&kept)]);
    assert!(done.code == Some(1) && done.err.contains("does not speak of this certificate"), "{done:?}");
    // A host's certificate is computed again from its enrolment.
    let host = Key(jit_ca::key::PrivateKey::from_seed([78; 32]).public().clone());
    let deed = Deed::EnrollHost { by: world.admin.name(), target: "web-07".parse().unwrap(), key: host };
    world.broker().act(world.sign(&world.admin, None, deed), None, None).await.unwrap();
    let line = world.broker().host_certificate(&"web-07".parse().unwrap()).await.unwrap();
    let facts = jit_ca::ssh::read(&line).unwrap();
    let about = About::Host("web-07".parse().unwrap(), facts.serial);
    assert_eq!(about.to_string().parse(), Ok(about.clone()));
    assert_eq!(world.broker().receipt(&world.alice.name(), &about).await.unwrap_err().code, Code::MISSING);
    let doc = receipt(&world, &world.bob.name(), about).await;
    let (evidence, _) = evidence::open(&doc, &key).unwrap();
    assert_eq!(evidence.host_of(Digest::new(facts.tbs_sha256)).unwrap().1.serial, facts.serial);
    let unknown = About::Host("web-07".parse().unwrap(), facts.serial + 1);
    assert_eq!(world.broker().receipt(&world.bob.name(), &unknown).await.unwrap_err().code, Code::NOT_IN_LOG);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_bundle_has_a_receipt_and_what_is_granted_under_it_too() {
    let world = World::start().await;
    let mut files = bundle(&world.alice.key(), &world.bob.key(), "deploy", 22).files;
    files.get_mut("people.toml").unwrap().insert_str(0, "[[person]]\nname = \"root-admin\"\ngroups = [\"admins\"]\n\n");
    files.get_mut("policy.toml").unwrap().push_str(
        "\n[[rule]]\nid = \"own\"\nwho = [\"group:admins\"]\ntargets = { name = \"broker/policy\" }\nroles = [\"apply\"]\n\
         max = \"1h\"\n  [[rule.step]]\n  name = \"second\"\n  need = 1\n  from = [\"group:leads\"]\n",
    );
    let text = |files: &std::collections::BTreeMap<String, String>| BundleText { files: files.clone() };
    adopt(world.broker(), &world.admin, world.install, &text(&files)).await.unwrap();
    files.get_mut("policy.toml").unwrap().push_str("# the next one\n");
    adopt(world.broker(), &world.admin, world.install, &text(&files)).await.unwrap();
    let id = *world.broker().memory().await.state.open_requests.first().unwrap();
    world.approve(&world.bob, id, |_| {}).await.unwrap();
    assert_eq!(world.broker().memory().await.state.bundle.digest, text(&files).digest());
    let key = log_key(&world);
    let change = receipt(&world, &world.bob.name(), About::Request(id)).await;
    let (evidence, _) = evidence::open(&change, &key).unwrap();
    let request = evidence.request.as_ref().unwrap();
    assert!(evidence.judged && request.person == world.admin.name() && request.approvals.len() == 1, "{evidence:#?}");
    // The approval that adopted the bundle is in the receipt of what is granted under it: for its signature, and not to be judged again.
    let grant = world.open(600).await;
    let doc = receipt(&world, &world.bob.name(), About::Grant(grant)).await;
    let (evidence, _) = evidence::open(&doc, &key).unwrap();
    assert!(evidence.judged && evidence.bundle == Some(text(&files).digest()), "{evidence:#?}");
    assert!(evidence.said.iter().filter(|said| said.deed == "approve").count() == 2, "{:#?}", evidence.said);
    world.stop().await;
}
