//! Two implementations judge the same damaged exports: `audit verify --offline`, and tests/verify.py, written from the formats alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::BASE64;
use jit_broker::domain::act::{Deed, Selector};
use jit_broker::ledger::{Checkpoint, Frontier, NoteSigner, leaf_hash};
use jit_broker::signer::keys::Keys;
use serde_json::{Value, json};

use crate::audit::{Root, Stranger};
use crate::model::Dice;
use crate::served::PROGRAM;
use crate::trust::{World, words};

/// An export in pieces.
#[derive(Clone)]
struct Pieces {
    leaves: Vec<String>,
    /// Digest, bytes and keep, in their order.
    blobs: Vec<(String, Vec<u8>, String)>,
    notes: Vec<(String, u64)>,
}

impl Pieces {
    fn read(text: &str) -> Self {
        let mut pieces = Self { leaves: Vec::new(), blobs: Vec::new(), notes: Vec::new() };
        let bytes = |value: &Value| BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap();
        for line in text.lines().skip(1) {
            let line: Value = serde_json::from_str(line).unwrap();
            let word = |key: &str| line[key].as_str().unwrap().to_owned();
            if line.get("leaf").is_some() {
                pieces.leaves.push(String::from_utf8(bytes(&line["leaf"])).unwrap());
            } else if line.get("blob").is_some() {
                pieces.blobs.push((word("blob"), bytes(&line["bytes"]), word("keep")));
            } else {
                pieces.notes.push((word("checkpoint"), line["size"].as_u64().unwrap()));
            }
        }
        pieces
    }

    fn lines(&self) -> Vec<String> {
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let size = self.leaves.len();
        let mut lines = vec![format!("{{\"format\":\"jit-broker-ledger\",\"version\":1,\"size\":{size}}}")];
        lines.extend(
            self.leaves
                .iter()
                .enumerate()
                .map(|(seq, leaf)| format!("{{\"seq\":{seq},\"leaf\":{}}}", quoted(&BASE64.encode(leaf.as_bytes())))),
        );
        lines.extend(self.blobs.iter().map(|(hash, bytes, keep)| {
            format!("{{\"blob\":\"{hash}\",\"bytes\":\"{}\",\"keep\":\"{keep}\"}}", BASE64.encode(bytes))
        }));
        lines.extend(
            self.notes.iter().map(|(text, size)| format!("{{\"checkpoint\":{},\"size\":{size}}}", quoted(text))),
        );
        lines
    }

    fn text(&self) -> String {
        self.lines().join("\n") + "\n"
    }

    fn tree(&self) -> Frontier {
        let mut tree = Frontier::empty();
        self.leaves.iter().for_each(|leaf| tree.push(leaf_hash(leaf.as_bytes())));
        tree
    }

    /// One checkpoint over everything, signed by somebody.
    fn sealed(mut self, signer: &dyn NoteSigner) -> Self {
        let tree = self.tree();
        let note = Checkpoint { origin: signer.name().to_owned(), size: tree.size(), root: tree.root() }.sign(signer);
        self.notes = vec![(note.text, tree.size())];
        self
    }

    fn place(&self, kind: &str) -> usize {
        self.leaves.iter().rposition(|leaf| leaf.contains(&format!("\"kind\":\"{kind}\""))).unwrap()
    }

    /// Numbers the entries anew, as a careful forger does.
    fn renumbered(mut self) -> Self {
        for (seq, leaf) in self.leaves.iter_mut().enumerate() {
            let mut entry: Value = serde_json::from_str(leaf).unwrap();
            entry["seq"] = json!(seq);
            *leaf = serde_json::to_string(&entry).unwrap();
        }
        self
    }
}

/// A sample, the notes that were kept outside, and the verdict.
type Sample = (String, Vec<u8>, Vec<PathBuf>, i32);

struct Corpus {
    dir: PathBuf,
    samples: Vec<Sample>,
    newest: PathBuf,
}

impl Corpus {
    fn add(&mut self, what: impl Into<String>, text: impl Into<Vec<u8>>, code: i32) {
        self.samples.push((what.into(), text.into(), vec![self.newest.clone()], code));
    }

    fn note(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Has both judge each sample.
    fn judge(&self, key: &Path) {
        let mut differ = Vec::new();
        for (i, (what, bytes, notes, wanted)) in self.samples.iter().enumerate() {
            let path = self.dir.join(format!("sample-{i}.jsonl"));
            std::fs::write(&path, bytes).unwrap();
            let mut first = Command::new(PROGRAM);
            first.args(["audit", "verify", "--offline"]).arg(&path).env("JIT_BROKER_HOME", self.dir.join("home"));
            let mut second = Command::new("python3");
            second.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify.py")).arg(&path);
            let outcome = |command: &mut Command| {
                command.arg("--key").arg(key);
                for note in notes {
                    command.arg("--witness").arg(note);
                }
                let output = command.output().unwrap();
                (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
            };
            let (one, two) = (outcome(&mut first), outcome(&mut second));
            if (one.0, two.0) != (Some(*wanted), Some(*wanted)) {
                differ.push(format!("{what}: {wanted} was wanted\n{one:?}\n{two:?}"));
            }
        }
        assert!(differ.is_empty(), "{} of {} samples:\n{}", differ.len(), self.samples.len(), differ.join("\n\n"));
    }
}

/// A log with everything in it that the second implementation looks at.
async fn log(world: &World) -> (Pieces, String) {
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    let old = world.broker().note().unwrap().1;
    let why = words("über Nacht: \"/tmp\\x\" – 漢字");
    let deed = Deed::Revoke { by: world.bob.name(), of: Selector::Grant(grant) };
    world.broker().act(world.sign(&world.bob, Some(&why), deed), Some(&why), None).await.unwrap();
    let other = world.open(900).await;
    world.issue(other).await.unwrap();
    let mut out = Vec::new();
    jit_broker::ledger::export_jsonl(world.broker().reader(), u64::MAX, &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    let pieces = Pieces::read(&text);
    assert_eq!(pieces.text(), text, "the pieces make the same export");
    (pieces, old)
}

/// What whoever has the file can do to it.
fn damage(corpus: &mut Corpus, good: &Pieces) {
    let text = good.text();
    let lines = good.lines();
    let joined = |lines: &[String]| lines.join("\n") + "\n";
    let without = |n: usize| {
        let mut lines = lines.clone();
        lines.remove(n);
        joined(&lines)
    };
    for n in [1, 5, good.leaves.len()] {
        corpus.add(format!("leaf line {n} is gone"), without(n), 1);
        let mut twice = lines.clone();
        twice.insert(n, lines[n].clone());
        corpus.add(format!("leaf line {n} stands twice"), joined(&twice), 1);
        let mut pieces = good.clone();
        pieces.leaves.remove(n - 1);
        corpus.add(format!("leaf {n} is gone, the others are numbered anew"), pieces.clone().text(), 1);
        corpus.add(format!("leaf {n} is gone, the entries too"), pieces.renumbered().text(), 1);
    }
    let mut swapped = lines.clone();
    swapped.swap(4, 5);
    corpus.add("two lines are swapped", joined(&swapped), 1);
    let mut pieces = good.clone();
    pieces.leaves.swap(4, 5);
    corpus.add("two leaves are swapped", pieces.text(), 1);
    for at in [0, 3, good.leaves.len() - 1] {
        let mut pieces = good.clone();
        pieces.leaves[at] = pieces.leaves[at].replacen("\"ms\":", "\"ms\":1", 1);
        corpus.add(format!("leaf {at} is edited"), pieces.text(), 1);
    }
    let mut pieces = good.clone();
    pieces.notes.clear();
    corpus.add("no checkpoint", pieces.text(), 1);
    pieces.notes = good.notes[..1].to_vec();
    corpus.add("no newer checkpoint", pieces.text(), 1);
    let mut pieces = good.clone();
    pieces.notes[1].1 += 1;
    corpus.add("a checkpoint is filed under another size", pieces.text(), 1);
    corpus.add("nothing", "", 1);
    corpus.add("a header alone", format!("{}\n", lines[0].replace(&good.leaves.len().to_string(), "0")), 1);
    corpus.add("no header", without(0), 1);
    corpus.add("two headers", format!("{}\n{text}", lines[0]), 1);
    corpus.add("another version", text.replacen("\"version\":1", "\"version\":2", 1), 1);
    corpus.add("another size", text.replacen("\"size\":", "\"size\":1", 1), 1);
    for (what, changed) in [
        ("blanks", text.replacen("{\"seq\":2,", "{ \"seq\":2,", 1)),
        ("a float", text.replacen("{\"seq\":2,", "{\"seq\":2.0,", 1)),
        ("a key twice", text.replacen("{\"seq\":2,", "{\"seq\":2,\"seq\":2,", 1)),
        ("another order", text.replacen("\"keep\":\"required\"}", "\"keep\":\"required\",\"x\":1}", 1)),
        ("CR LF", text.replacen('\n', "\r\n", 1)),
        ("an empty line", text.replacen('\n', "\n\n", 1)),
        ("no line break at the end", text.trim_end().to_owned()),
        ("garbage at the end", format!("{text}garbage\n")),
        ("a NUL at the end", format!("{text}\0\n")),
    ] {
        corpus.add(what, changed, 1);
    }
    let bundle = good.blobs.iter().position(|(_, _, keep)| keep == "required").unwrap();
    let words = good.blobs.iter().position(|(_, _, keep)| keep == "shreddable").unwrap();
    let mut pieces = good.clone();
    pieces.blobs.remove(bundle);
    corpus.add("the bundle is gone", pieces.text(), 1);
    let mut pieces = good.clone();
    "shreddable".clone_into(&mut pieces.blobs[bundle].2);
    corpus.add("the bundle may be deleted", pieces.text(), 1);
    for at in [bundle, words] {
        let mut pieces = good.clone();
        pieces.blobs[at].1.push(b' ');
        corpus.add("a blob is edited", pieces.text(), 1);
    }
    let mut pieces = good.clone();
    pieces.blobs.remove(words);
    corpus.add("a reason was shredded, as it may be", pieces.text(), 0);
    let mut dice = Dice(u64::from_le_bytes(jit_broker::clock::random16()[..8].try_into().unwrap()) | 1);
    for _ in 0..24 {
        let mut bytes = text.clone().into_bytes();
        let at = usize::try_from(dice.roll(u64::try_from(bytes.len()).unwrap())).unwrap();
        let bit = dice.roll(7);
        bytes[at] ^= 1 << bit;
        corpus.add(format!("bit {bit} of byte {at} is flipped"), bytes, 1);
    }
}

/// What whoever has the log's own key can do, and what only outside copies show.
fn forge(corpus: &mut Corpus, good: &Pieces, root: &Root, old: &str) {
    let honest = good.clone().sealed(root);
    corpus.add("one checkpoint over everything", honest.text(), 0);
    let stranger = Stranger(jit_ca::key::PrivateKey::from_seed([9; 32]), root.origin.clone());
    corpus.add("sealed with another key", good.clone().sealed(&stranger).text(), 1);
    let mut edit = |what: &str, kind: &str, change: &dyn Fn(&str) -> String| {
        let mut pieces = good.clone();
        let at = pieces.place(kind);
        pieces.leaves[at] = change(&pieces.leaves[at]);
        assert_ne!(pieces.leaves[at], good.leaves[at], "{what}");
        corpus.samples.push((what.to_owned(), pieces.sealed(root).text().into_bytes(), Vec::new(), 1));
    };
    let signature = |kind: &str| {
        let entry: Value = serde_json::from_str(&good.leaves[good.place(kind)]).unwrap();
        serde_json::to_string(&entry["cause"]["signature"]).unwrap()
    };
    let (asked, agreed) = (signature("request.submitted"), signature("request.step_approved"));
    edit("an approval that nobody signed", "request.step_approved", &|leaf| leaf.replace(&agreed, &asked));
    edit("a request that nobody signed", "request.submitted", &|leaf| leaf.replace(&asked, &agreed));
    edit("a longer window", "grant.opened", &|leaf| leaf.replacen("\"ends_at\":1", "\"ends_at\":2", 1));
    edit("a serial twice", "credential.issued", &|leaf| leaf.replacen("\"serial\":2", "\"serial\":1", 1));
    edit("a certificate that outlives its grant", "credential.issued", &|leaf| {
        leaf.replacen("\"valid_before\":1", "\"valid_before\":2", 1)
    });
    edit("an entry from before", "credential.issued", &|leaf| {
        leaf.replacen("\"at\":1", "\"at\":0", 1).replace("\"at\":0", "\"at\":")
    });
    edit("another place", "credential.issued", &|leaf| leaf.replacen("\"seq\":", "\"seq\":1", 1));
    edit("not canonical", "credential.issued", &|leaf| leaf.replacen("\"seq\":", "\"seq\": ", 1));
    edit("another bundle", "bundle.adopted", &|leaf| {
        let digest: Value = serde_json::from_str(leaf).unwrap();
        let digest = digest["event"]["bundle"].as_str().unwrap().to_owned();
        leaf.replace(&format!("\"bundle\":\"{digest}\",\"by\""), &format!("\"bundle\":\"{}\",\"by\"", "0".repeat(64)))
    });
    // The tail is cut, to where an older checkpoint was signed.
    let cut = good.notes.iter().map(|(_, size)| *size).filter(|size| *size < good.leaves.len() as u64).max().unwrap();
    let mut pieces = good.clone();
    pieces.leaves.truncate(usize::try_from(cut).unwrap());
    pieces.notes.retain(|(_, size)| *size <= cut);
    corpus.add("the tail is cut, and somebody outside knows", pieces.text(), 1);
    corpus.samples.push(("the tail is cut".to_owned(), pieces.text().into_bytes(), Vec::new(), 11));
    // Outside notes that speak of something else.
    let mut other = good.clone();
    other.leaves.pop();
    other.leaves.push("{}".to_owned());
    let fork = other.clone().sealed(root).notes.remove(0).0;
    let fork = corpus.note("fork.note", &fork);
    let foreign = corpus.note("foreign.note", &good.clone().sealed(&stranger).notes[0].0);
    let old = corpus.note("old.note", old);
    let garbage = corpus.note("garbage.note", "garbage\n\n");
    let text = good.text().into_bytes();
    for (what, notes, code) in [
        ("nobody outside", vec![], 11),
        ("an older note", vec![old.clone()], 11),
        ("both notes", vec![old, corpus.newest.clone()], 0),
        ("a fork that the real key signed", vec![fork.clone()], 1),
        ("a fork beside the good one", vec![corpus.newest.clone(), fork], 1),
        ("a note of another key", vec![foreign], 1),
        ("a note that is none", vec![garbage], 1),
    ] {
        corpus.samples.push((what.to_owned(), text.clone(), notes, code));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t205_two_implementations_give_one_verdict_on_every_damaged_sample() {
    let world = World::start().await;
    let (good, old) = log(&world).await;
    let dir = world.settings.state_dir.join("corpus");
    std::fs::create_dir(&dir).unwrap();
    let (key, newest) = (dir.join("log.pub"), dir.join("newest.note"));
    std::fs::write(&key, Keys::load(&world.settings.ca_dir).unwrap().log_public().to_string()).unwrap();
    std::fs::write(&newest, world.broker().note().unwrap().1).unwrap();
    let mut corpus = Corpus { dir, samples: Vec::new(), newest };
    corpus.add("untouched", good.text(), 0);
    damage(&mut corpus, &good);
    forge(&mut corpus, &good, &Root::of(&world), &old);
    let verdicts = corpus.samples.iter().fold(BTreeMap::new(), |mut all: BTreeMap<i32, u32>, sample| {
        *all.entry(sample.3).or_default() += 1;
        all
    });
    assert!(verdicts[&0] >= 3 && verdicts[&1] >= 60 && verdicts[&11] >= 3, "{verdicts:?}");
    corpus.judge(&key);
    world.stop().await;
}
