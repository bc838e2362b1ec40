//! A backup under load, its restore, an old store under a newer signer, lost administrators: what is signed, and who notices.

use std::path::Path;
use std::process::Command;

use jit_broker::domain::refusal::Code;

use crate::served::{Failed, PROGRAM, Served, eventually, serial};
use crate::world::Done;

/// The first serial of an epoch is above this.
const EPOCH: u64 = 1 << 40;

fn passphrase(served: &Served) -> String {
    let path = served.dir.join("passphrase");
    std::fs::write(&path, "correct horse battery\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn operator(served: &Served, args: &[&str]) -> Done {
    served.operator(args).output().unwrap().into()
}

fn backup(served: &Served, to: &str) -> Done {
    let config = served.config().display().to_string();
    operator(served, &["backup", "--to", to, "--config", &config, "--passphrase-file", &passphrase(served)])
}

/// Puts what was restored where the broker is served from; what was there is kept beside it.
fn exchange(served: &Served, restored: &Path, aside: &str) {
    std::fs::rename(served.broker_dir(), served.dir.join(aside)).unwrap();
    std::fs::rename(restored, served.broker_dir()).unwrap();
}

fn restore(served: &Served, from: &str, aside: &str) {
    let (dir, secret) = (served.dir.join("restored"), passphrase(served));
    let to = dir.display().to_string();
    operator(served, &["restore", from, "--dir", &to, "--passphrase-file", &secret]).ok();
    exchange(served, &dir, aside);
}

fn started() -> Served {
    let mut served = Served::init();
    served.serve();
    served.adopt();
    for who in ["alice", "bob"] {
        served.sign_in(who);
    }
    served
}

#[test]
fn a_current_backup_goes_on_without_a_serial_twice() {
    let mut served = started();
    let alice = served.client(&served.alice).unwrap();
    let first = serial(&alice.certificate(alice.ask(7000).unwrap()).unwrap());
    let file = served.dir.join("broker.backup").display().to_string();
    // While it is made others go on.
    let made = std::thread::scope(|scope| {
        let made = scope.spawn(|| backup(&served, &file));
        for n in 0..40 {
            let _ = alice.ask(7001 + n).unwrap();
        }
        made.join().unwrap()
    });
    assert!(made.ok().contains("entries"));
    let sealed = std::fs::read(&file).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    for clear in [&b"PRIVATE KEY"[..], b"SQLite format", b"alice", b"root-admin"] {
        assert!(!sealed.windows(clear.len()).any(|w| w == clear), "{}", String::from_utf8_lossy(clear));
    }
    let beside: Vec<_> = std::fs::read_dir(&served.dir).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!beside.iter().any(|n| n.to_string_lossy().starts_with("broker.backup.")), "{beside:?}");
    assert_eq!(backup(&served, &file).code, Some(78), "never over one that is there");
    drop(alice);
    served.kill();
    // Nothing is overwritten, and nothing is left of what failed.
    let (dir, secret) = (served.dir.join("restored"), passphrase(&served));
    let to = dir.display().to_string();
    let full = operator(
        &served,
        &["restore", &file, "--dir", &served.dir.display().to_string(), "--passphrase-file", &secret],
    );
    assert!(full.code == Some(78) && full.err.contains("JB8003"), "{}", full.err);
    std::fs::write(&secret, "another horse battery").unwrap();
    let wrong = operator(&served, &["restore", &file, "--dir", &to, "--passphrase-file", &secret]);
    assert!(wrong.code == Some(78) && wrong.err.contains("JB8007") && !dir.exists(), "{}", wrong.err);
    restore(&served, &file, "old");
    served.serve();
    // In recovery: people are told, and nothing is signed.
    let alice = served.client(&served.alice).unwrap();
    assert_eq!(alice.ask(900).unwrap_err().code(), Code::RECOVERY);
    assert!(
        matches!(alice.call("GET", "/v1/krl", None), Err(Failed::Refused(Code::MISSING))),
        "hosts keep what they have"
    );
    let said = served.cli("bob", "jit-broker audit begin-epoch --yes");
    assert!(said.err.contains("JB2012"), "{}", said.err);
    let begun = served.cli("root-admin", "jit-broker audit begin-epoch --yes");
    assert!(begun.code == Some(0) && begun.err.contains("Epoch 1 has begun"), "{}", begun.err);
    eventually("it signs again", || alice.ask(901).is_ok());
    let second = serial(&alice.certificate(alice.ask(9000).unwrap()).unwrap());
    assert!(first < EPOCH && second > EPOCH, "{first} {second}");
    let list = alice.list();
    assert!(list.version > EPOCH && list.serials.contains(&(first + 1)), "what lost entries certified is revoked");
    // Every client whose view is borne out goes on by itself, and the acknowledgement is told for ever.
    let verified = served.cli("bob", "jit-broker audit verify");
    assert_eq!(verified.code, Some(0), "{}\n{}", verified.out, verified.err);
    assert!(verified.err.contains("acknowledged by root-admin"), "{}", verified.err);
    served.kill();
    served.serve();
    let again = served.client(&served.alice).unwrap();
    assert!(serial(&again.certificate(again.ask(9001).unwrap()).unwrap()) > second);
}

#[test]
fn a_restore_beside_the_broker_touches_nothing_of_it_however_its_configuration_is_written() {
    let mut served = started();
    served.stop();
    let state = served.broker_dir().join("state").display().to_string();
    let good = std::fs::read_to_string(served.config()).unwrap();
    let url = format!("\"sqlite:{state}/ledger.db\"");
    let commented = good
        .replace("[server]", "[server]  # where people reach it")
        .replace("state_dir  = \"state\"", &format!("'state_dir' = '{state}'  # of the old machine"))
        .replace("[store]", "[store] # one file")
        .replace("\"sqlite:state/ledger.db\"", &url)
        .replace("[ca]", "[ ca ]  # the signer's keys")
        .replace("\"state/ca\"", &format!("\"{state}/ca\""));
    let without =
        |line: &&str| !["[store]", "url =", "[ca]", "dir  ", "signer ="].iter().any(|word| line.starts_with(word));
    let inline = good.lines().filter(without).collect::<Vec<_>>().join("\n").replace(
        "schema = 1",
        &format!(
            "schema = 1\nstore.url = {url}\nca = {{ dir = \"{state}/ca\", signer = \"unix:{state}/signer.sock\" }}"
        ),
    );
    let head = served.broker_dir().join("state/ca/head.json");
    let before = std::fs::read(&head).unwrap();
    for (n, text) in [commented, inline].into_iter().enumerate() {
        std::fs::write(served.config(), &text).unwrap();
        let file = served.dir.join(format!("{n}.backup")).display().to_string();
        backup(&served, &file).ok();
        let (dir, secret) = (served.dir.join(format!("restored-{n}")), passphrase(&served));
        let to = dir.display().to_string();
        operator(&served, &["restore", &file, "--dir", &to, "--passphrase-file", &secret]).ok();
        assert!(std::fs::read(&head).unwrap() == before, "the head of the broker that was backed up is its own");
        let restored = std::fs::read_to_string(dir.join("state/ca/head.json")).unwrap();
        assert!(restored.contains("\"recovery\":{"), "{restored}");
        let text = std::fs::read_to_string(dir.join("jit-broker.toml")).unwrap();
        assert!(!text.contains(&state) && text.contains("# The addresses from which targets see"), "{text}");
    }
    std::fs::write(served.config(), good).unwrap();
    served.serve();
    served.client(&served.alice).unwrap().ask(600).unwrap();
}

#[test]
fn a_backup_that_is_killed_is_in_nobodys_way_and_the_next_one_clears_up() {
    let served = started();
    let file = served.dir.join("away/broker.backup");
    let away = file.parent().unwrap();
    std::fs::create_dir(away).unwrap();
    let names = |dir: &Path| -> Vec<String> {
        let all = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name());
        all.map(|name| name.to_string_lossy().into_owned()).collect()
    };
    let (to, config, secret) = (file.display().to_string(), served.config().display().to_string(), passphrase(&served));
    let mut killed =
        served.operator(&["backup", "--to", &to, "--config", &config, "--passphrase-file", &secret]).spawn().unwrap();
    eventually("it has begun", || !names(away).is_empty());
    killed.kill().unwrap();
    killed.wait().unwrap();
    // Another one was killed while it copied the log; what only looks like that is nobody's.
    let state = served.broker_dir().join("state");
    let copy = state.join("backup.0123456789abcdef0123456789abcdef");
    let others = ["backup.old", "backup.0123456789abcdef0123456789abcdeg"].map(|name| state.join(name));
    for folder in others.iter().chain([&copy]) {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("ledger.db"), "SQLite format 3").unwrap();
    }
    std::fs::write(away.join("broker.backup.2026"), "kept").unwrap();
    backup(&served, &to).ok();
    let mut left = names(away);
    left.sort();
    assert_eq!(left, ["broker.backup", "broker.backup.2026"]);
    assert!(!copy.exists() && others.iter().all(|folder| folder.exists()));
    let kept = names(&state).into_iter().filter(|name| name.starts_with("backup."));
    assert_eq!(kept.count(), others.len(), "nothing of the killed one either");
}

#[test]
fn an_old_backup_is_noticed_by_who_saw_more_and_acknowledged() {
    let mut served = started();
    let file = served.dir.join("broker.backup").display().to_string();
    backup(&served, &file).ok();
    let alice = served.client(&served.alice).unwrap();
    let lost = serial(&alice.certificate(alice.ask(7000).unwrap()).unwrap());
    // Two clients see more than the backup has; the administrator's is one of them.
    served.cli("root-admin", "jit-broker auth status").ok();
    served.cli("bob", "jit-broker status").ok();
    drop(alice);
    served.stop();
    restore(&served, &file, "old");
    served.serve();
    let noticed = served.cli("bob", "jit-broker status");
    assert!(noticed.code == Some(9) && noticed.err.contains("JB7002"), "{}", noticed.err);
    let begun = served.cli("root-admin", "jit-broker audit begin-epoch --yes");
    assert!(begun.code == Some(0) && begun.err.contains("are lost"), "{}", begun.err);
    let alice = served.client(&served.alice).unwrap();
    eventually("it signs again", || alice.ask(901).is_ok());
    assert!(alice.list().serials.contains(&lost), "the certificate that nobody knows of any more is revoked");
    // Bob saw what is lost: he is told, once.
    let told = served.cli("bob", "jit-broker status");
    assert!(told.code == Some(9) && told.err.contains("JB7008"), "{}", told.err);
    let note = std::fs::read_to_string(served.dir.join("bob/jit/state/checkpoint")).unwrap();
    let acknowledged = served.cli("bob", "jit-broker auth acknowledge --yes");
    assert!(acknowledged.code == Some(0) && acknowledged.err.contains("root-admin"), "{}", acknowledged.err);
    assert_eq!(served.cli("bob", "jit-broker status").code, Some(0));
    assert!(served.dir.join("bob/jit/state/checkpoint.lost-before-e1").exists());
    // For ever: with the old note in hand the loss is named, and is no fork.
    std::fs::write(served.dir.join("bob/old.note"), note).unwrap();
    let verified = served.cli("bob", "jit-broker audit verify --witness old.note");
    assert_eq!(verified.code, Some(0), "{}\n{}", verified.out, verified.err);
    assert!(
        verified.err.contains("lost before epoch 1") && verified.err.contains("acknowledged by root-admin"),
        "{}",
        verified.err
    );
}

#[test]
fn what_was_certified_in_an_epoch_that_is_lost_is_revoked_as_well() {
    let mut served = started();
    let file = served.dir.join("broker.backup").display().to_string();
    backup(&served, &file).ok();
    let lose = |served: &mut Served, aside: &str| {
        served.cli("root-admin", "jit-broker auth status").ok();
        served.stop();
        restore(served, &file, aside);
        served.serve();
        let begun = served.cli("root-admin", "jit-broker audit begin-epoch --yes");
        assert_eq!(begun.code, Some(0), "{}", begun.err);
        begun.err
    };
    lose(&mut served, "first");
    let alice = served.client(&served.alice).unwrap();
    eventually("it signs again", || alice.ask(901).is_ok());
    let lost = serial(&alice.certificate(alice.ask(7000).unwrap()).unwrap());
    drop(alice);
    // The machine is lost again, and the only backup is from before the first time.
    let said = lose(&mut served, "second");
    assert!(said.contains("Epoch 1 is lost") && said.contains("Epoch 2 has begun"), "{said}");
    let alice = served.client(&served.alice).unwrap();
    eventually("it signs again", || alice.ask(902).is_ok());
    let list = alice.list();
    assert!(lost > EPOCH && list.serials.contains(&lost) && list.version > 2 * EPOCH, "{lost}");
    let second = serial(&alice.certificate(alice.ask(7001).unwrap()).unwrap());
    assert!(second > 2 * EPOCH && !alice.list().serials.contains(&second), "{second}");
}

#[test]
fn who_heard_of_an_authority_that_was_lost_hears_of_the_next_one() {
    let mut served = started();
    let file = served.dir.join("broker.backup").display().to_string();
    backup(&served, &file).ok();
    let rotate = |served: &Served| served.cli("root-admin", "jit-broker ca rotate ssh-host").ok();
    let export = |served: &Served| served.cli("root-admin", "jit-broker ca export --kind ssh-host").ok();
    let believed = |served: &Served| -> String {
        let text = std::fs::read_to_string(served.dir.join("bob/jit/config/context.json")).unwrap();
        let context: serde_json::Value = serde_json::from_str(&text).unwrap();
        let word = context["about"]["trust"]["word"].as_str().unwrap();
        let word: serde_json::Value = serde_json::from_str(word).unwrap();
        word["ssh_host"].as_array().unwrap().iter().map(|key| format!("{}\n", key.as_str().unwrap())).collect()
    };
    rotate(&served);
    served.cli("bob", "jit-broker status").ok();
    let lost = export(&served);
    assert_eq!((believed(&served), lost.lines().count()), (lost.clone(), 2));
    served.stop();
    restore(&served, &file, "old");
    served.serve();
    // Nobody signs whom to trust in recovery; who signs in all the same keeps what they know.
    let known = std::fs::read_to_string(served.dir.join("alice/jit/config/context.json")).unwrap();
    served.sign_in("alice");
    assert_eq!(std::fs::read_to_string(served.dir.join("alice/jit/config/context.json")).unwrap(), known);
    served.cli("root-admin", "jit-broker audit begin-epoch --yes").ok();
    // The loss comes first, at a sign-in as well; once it is acknowledged nothing of what was lost is believed.
    let told = served.try_sign_in("bob");
    assert!(told.code == Some(9) && told.err.contains("JB7008"), "{}", told.err);
    served.cli("bob", "jit-broker auth acknowledge --yes").ok();
    served.sign_in("bob");
    assert_eq!((believed(&served), export(&served).lines().count()), (export(&served), 1));
    rotate(&served);
    served.cli("bob", "jit-broker status").ok();
    let now = export(&served);
    assert_eq!((believed(&served), now.lines().count()), (now.clone(), 2));
    assert_ne!(now, lost);
}

#[test]
fn an_old_store_under_a_newer_signer_and_a_lost_head_are_mended_in_place() {
    let mut served = started();
    served.stop();
    let ledger = served.ledger();
    let (store, old) = (ledger.parent().unwrap(), served.dir.join("old"));
    std::fs::create_dir(&old).unwrap();
    let copy = |from: &Path, to: &Path| {
        for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
            let _ = std::fs::remove_file(to.join(name));
            if from.join(name).exists() {
                std::fs::copy(from.join(name), to.join(name)).unwrap();
            }
        }
    };
    copy(store, &old);
    served.serve();
    served.client(&served.alice).unwrap().ask(7000).unwrap();
    served.stop();
    copy(&old, store);
    let (mut child, ready) = served.try_serve();
    let said = ready.unwrap_err();
    assert_ne!(child.wait().unwrap().code(), Some(0));
    assert!(said.contains("JB5005") && said.contains("restore --in-place"), "{said}");
    let config = served.config().display().to_string();
    let mended = operator(&served, &["restore", "--in-place", "--config", &config]);
    assert!(mended.code == Some(0) && mended.err.contains("begin-epoch"), "{}", mended.err);
    served.serve();
    let held = operator(&served, &["restore", "--in-place", "--config", &config]);
    assert!(held.code == Some(78) && held.err.contains("JB6002"), "{}", held.err);
    // What the signer itself signed is acknowledged, though no client has seen it.
    let begun = served.cli("root-admin", "jit-broker audit begin-epoch --yes");
    assert!(begun.code == Some(0) && begun.err.contains("are lost"), "{}", begun.err);
    let alice = served.client(&served.alice).unwrap();
    eventually("it signs again", || alice.ask(901).is_ok());
    drop(alice);
    served.stop();
    // The signer's head is gone: it says so, and the same way mends it.
    let head = served.broker_dir().join("state/ca/head.json");
    std::fs::remove_file(&head).unwrap();
    let (mut child, ready) = served.try_serve();
    let said = ready.unwrap_err();
    let _ = child.wait();
    assert!(said.contains("JB8006") && said.contains("restore --in-place"), "{said}");
    operator(&served, &["restore", "--in-place", "--config", &config]).ok();
    served.serve();
    let alice = served.client(&served.alice).unwrap();
    assert_eq!(alice.ask(902).unwrap_err().code(), Code::RECOVERY);
    let begun = served.cli("root-admin", "jit-broker audit begin-epoch --yes");
    assert!(begun.code == Some(0) && begun.err.contains("Epoch 2"), "{}", begun.err);
    eventually("it signs again", || alice.ask(903).is_ok());
    served.sign_in("bob");
    let verified = served.cli("bob", "jit-broker audit verify");
    assert_eq!(verified.code, Some(0), "{}\n{}", verified.out, verified.err);
}

#[test]
fn lost_administrators_are_replaced_by_root_and_every_client_is_told_once() {
    let mut served = started();
    let config = served.config();
    let reset = |served: &Served| {
        let at = config.display().to_string();
        operator(served, &["trust", "reset", "--config", &at, "--yes"])
    };
    assert!(reset(&served).err.contains("JB6002"), "not while the daemon runs");
    served.cli("root-admin", "jit-broker person disable alice --reason 'on leave'").ok();
    served.stop();
    let text = std::fs::read_to_string(&config).unwrap();
    let before = std::fs::read_to_string(served.dir.join("root-admin/id_ed25519.pub")).unwrap();
    let key = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(served.dir.join("new"))
        .status()
        .unwrap();
    let after = std::fs::read_to_string(served.dir.join("new.pub")).unwrap();
    // Only an administrator could enable her again.
    let alone = text.replace("root-admin", "alice").replace(&key(&before), &served.alice.key().to_string());
    std::fs::write(&config, alone).unwrap();
    let nobody = reset(&served);
    assert!(nobody.code == Some(5) && nobody.err.contains("JB3013") && nobody.err.contains("alice"), "{}", nobody.err);
    std::fs::write(&config, text.replace(&key(&before), &key(&after))).unwrap();
    let checked = operator(&served, &["check", "--config", &config.display().to_string()]);
    assert!(checked.code == Some(78) && checked.err.contains("[trust]"), "{}", checked.err);
    let (mut child, ready) = served.try_serve();
    let said = ready.unwrap_err();
    let _ = child.wait();
    assert!(said.contains("JB8004"), "{said}");
    reset(&served).ok();
    assert!(reset(&served).err.contains("already"));
    served.serve();
    // Each client is told, until it acknowledges.
    for _ in 0..2 {
        let told = served.cli("bob", "jit-broker status");
        assert!(told.code == Some(9) && told.err.contains("JB7009"), "{}", told.err);
    }
    let acknowledged = served.cli("bob", "jit-broker auth acknowledge --yes");
    assert!(acknowledged.code == Some(0) && acknowledged.err.contains("Nobody signed"), "{}", acknowledged.err);
    assert_eq!(served.cli("bob", "jit-broker status").code, Some(0));
    let verified = served.cli("bob", "jit-broker audit verify");
    assert_eq!(verified.code, Some(0), "{}\n{}", verified.out, verified.err);
    assert!(verified.err.contains("trust-reset"), "{}", verified.err);
    // The old key is nobody's, the new one administers.
    let old = served.cli("root-admin", "jit-broker auth acknowledge --yes");
    assert_ne!(old.code, Some(0), "{}{}", old.out, old.err);
    for name in ["id_ed25519", "id_ed25519.pub"] {
        let from = served.dir.join(name.replace("id_ed25519", "new"));
        std::fs::copy(from, served.dir.join("root-admin").join(name)).unwrap();
    }
    std::fs::remove_dir_all(served.dir.join("root-admin/jit")).unwrap();
    served.sign_in("root-admin");
    served.cli("root-admin", "jit-broker person ls").ok();
    let people = served.dir.join("bundle/people.toml");
    let text = std::fs::read_to_string(&people).unwrap();
    std::fs::write(&people, text + "[[person]]\nname = \"carol\"\n").unwrap_or_default();
    let applied = served.cli("root-admin", "jit-broker apply ../bundle --dry-run");
    assert_eq!(applied.code, Some(0), "{}", applied.err);
}

#[test]
fn a_configuration_is_taken_while_it_runs_or_the_old_one_stays() {
    let mut served = started();
    let config = served.config();
    let at = config.display().to_string();
    let good = std::fs::read_to_string(&config).unwrap();
    let reload = |served: &Served| operator(served, &["reload", "--config", &at]);
    let same = reload(&served);
    assert!(same.code == Some(0) && same.err.contains("counts now"), "{}", same.err);
    std::fs::write(&config, good.replace("schema", "shema")).unwrap();
    let bad = reload(&served);
    assert!(bad.code == Some(78) && bad.err.contains("shema"), "{}", bad.err);
    // A signal alone: the daemon looks for itself, keeps what it has, and says why.
    let pid = served.server.as_ref().unwrap().id().to_string();
    let told = served.broker_dir().join("state/ledger.db.reloaded");
    Command::new("kill").args(["-HUP", &pid]).status().unwrap();
    eventually("it says why", || std::fs::read_to_string(&told).unwrap_or_default().contains("shema"));
    served.client(&served.alice).unwrap().ask(900).unwrap();
    std::fs::write(
        &config,
        good.replace("[trust]", "# nothing\n[trust]").replace("state_dir  = \"state\"", "state_dir = \"other\""),
    )
    .unwrap();
    let later = reload(&served);
    assert!(later.code == Some(0) && later.err.contains("state_dir") && later.err.contains("restart"), "{}", later.err);
    // What is opened once is named, and never said to count.
    let key = served.alice.key();
    for (name, more) in [
        ("[witness]", "[witness.disk]\nfile = \"outside.note\"".to_owned()),
        ("[keeps]", format!("[keeps.other]\norigin = \"jit-broker/audit/x/e0\"\nkey = \"{key}\"")),
        ("[metrics]", "[metrics]\nlisten = \"127.0.0.1:9\"".to_owned()),
    ] {
        std::fs::write(&config, format!("{good}\n{more}\n")).unwrap();
        let later = reload(&served);
        let needs = later.err.contains(name) && later.err.contains("restart");
        assert!(later.code == Some(0) && needs, "{name}: {}", later.err);
    }
    std::fs::write(&config, &good).unwrap();
    assert!(!reload(&served).err.contains("restart"));
    served.stop();
    let nobody = reload(&served);
    assert_eq!(nobody.code, Some(69), "{}", nobody.err);
    assert!(Path::new(PROGRAM).exists());
}

#[test]
fn what_killed_writes_left_goes_at_the_next_start_and_nothing_else_does() {
    let mut served = Served::init();
    let state = served.broker_dir().join("state");
    let ending = "0123456789abcdef0123456789abcdef";
    let note = "0f".repeat(32);
    std::fs::create_dir(state.join("witnessed")).unwrap();
    let named = |names: &[&str]| names.iter().map(|name| state.join(format!("{name}.{ending}"))).collect::<Vec<_>>();
    let mut half = named(&[
        "krl",
        "left.json",
        "trouble.json",
        "ledger.db.reloaded",
        "ca/log",
        "ca/x509_client.2.crt",
        "ca/head.json",
    ]);
    half.extend(named(&[&format!("witnessed/{note}"), &format!("witnessed/{note}.e3")]));
    half.extend(["snapshot.new", "ca/head.fold.new"].map(|name| state.join(name)));
    let mut kept = named(&["ledger.db", "mine", "witnessed/mine", "ca/mine"]);
    kept.extend([state.join("krl.old"), state.join("ledger.db.new"), state.join(format!("krl.{}x", &ending[1..]))]);
    half.iter().chain(&kept).for_each(|path| std::fs::write(path, "half").unwrap());
    // Who only looks clears nothing up: the daemon may be writing.
    let config = served.config().display().to_string();
    served.operator(&["check", "--config", &config]).output().unwrap();
    assert!(half.iter().all(|path| path.exists()));
    served.serve();
    let left: Vec<_> = half.iter().filter(|path| path.exists()).collect();
    assert!(left.is_empty(), "{left:#?}");
    let gone: Vec<_> = kept.iter().filter(|path| !path.exists()).collect();
    assert!(gone.is_empty(), "{gone:#?}");
}

#[test]
fn a_bundle_in_folders_is_checked_as_one_in_files() {
    let mut served = Served::init();
    served.serve();
    served.stop();
    let (folder, config) = (served.broker_dir(), served.config().display().to_string());
    let check = || operator(&served, &["check", "--config", &config]);
    for kind in ["people", "targets", "policy"] {
        std::fs::create_dir(folder.join(kind)).unwrap();
        let (from, to) = (folder.join(format!("{kind}.toml")), folder.join(format!("{kind}/10-prod.toml")));
        std::fs::rename(from, to).unwrap();
    }
    let good = check();
    assert_eq!(good.code, Some(0), "{}", good.err);
    let policy = folder.join("policy/10-prod.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, format!("{text}\n[[rule]\nid = 1\n")).unwrap();
    let bad = check();
    assert!(bad.code == Some(78) && bad.err.contains("policy/10-prod.toml"), "{}", bad.err);
    let found = operator(&served, &["doctor", "--config", &config]);
    assert!(!found.out.contains("not kept here"), "{}", found.out);
}

#[test]
fn where_there_are_two_administrators_an_epoch_takes_both() {
    let mut served = started();
    served.stop();
    served.name_second();
    let config = served.config().display().to_string();
    operator(&served, &["trust", "reset", "--config", &config, "--yes"]).ok();
    served.serve();
    for who in ["root-admin", "second"] {
        let _ = std::fs::remove_dir_all(served.dir.join(who).join("jit"));
        served.sign_in(who);
    }
    let file = served.dir.join("broker.backup").display().to_string();
    backup(&served, &file).ok();
    served.stop();
    restore(&served, &file, "old");
    served.serve();
    let begin = |who: &str| served.cli(who, "jit-broker audit begin-epoch --yes");
    for _ in 0..2 {
        let one = begin("root-admin");
        assert!(one.code == Some(6) && one.err.contains("Another administrator"), "{}", one.err);
    }
    let alice = served.client(&served.alice).unwrap();
    assert_eq!(alice.ask(900).unwrap_err().code(), Code::RECOVERY);
    let both = begin("second");
    assert!(both.code == Some(0) && both.err.contains("Epoch 1 has begun"), "{}", both.err);
    eventually("it signs again", || alice.ask(901).is_ok());
    served.cli("bob", "jit-broker auth acknowledge --yes").ok();
    let verified = served.cli("bob", "jit-broker audit verify");
    assert!(verified.err.contains("acknowledged by root-admin and second"), "{}", verified.err);
}

/// In recovery the gate signs nothing, whatever it is shown, and an epoch needs more than to be said.
#[tokio::test(flavor = "multi_thread")]
async fn a_signer_in_recovery_signs_nothing_and_no_epoch_that_is_made_up() {
    use jit_broker::domain::act::Deed;
    use jit_broker::domain::digest::Digest;
    use jit_broker::domain::epoch::{NewEpoch, Witnessed};
    use jit_broker::signer::{Order, Signer};

    let mut world = crate::trust::World::start().await;
    let grant = world.open(600).await;
    world.issue(grant).await.unwrap();
    world.daemon.take().unwrap().stop().await;
    jit_broker::daemon::restore::in_place(&world.settings).await.unwrap();
    let honest = crate::trust::leaves(&world.settings.ledger).await;
    let mut gate = jit_broker::daemon::open_gate(&world.settings, world.clock.clone()).unwrap();
    assert_eq!(crate::gate::show(&mut gate, &honest).unwrap_err().code, Code::RECOVERY);
    let target = jit_broker::domain::names::TargetName::new("web-07").unwrap();
    let key = world.alice.key();
    for order in [
        Order::Krl,
        Order::Trust,
        Order::NextKey { purpose: jit_broker::domain::authority::Purpose::SshUser },
        Order::Credential { grant, key: key.clone() },
        Order::HostCert { target },
        Order::GatewayCert { key, target: None },
        Order::Checkpoint { from: honest.len() as u64, leaves: Vec::new() },
    ] {
        assert_eq!(gate.order(order.clone()).unwrap_err().code, Code::RECOVERY, "{order:?}");
    }
    drop(gate);
    // A child of another test holds what this process has open until it becomes its program.
    let mut started = jit_broker::daemon::Daemon::start(&world.settings, world.clock.clone()).await;
    for _ in 0..40 {
        if started.as_ref().err().is_none_or(|refusal| refusal.code != Code::LEDGER_HELD) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        started = jit_broker::daemon::Daemon::start(&world.settings, world.clock.clone()).await;
    }
    world.daemon = Some(started.unwrap());
    assert_eq!(world.ask(60).await.unwrap_err().code, Code::RECOVERY);
    let doc = world.broker().log_doc().await;
    assert!(doc.recovering && doc.signed.is_none(), "{doc:?}");
    let note = doc.note.unwrap();
    let lines: Vec<&str> = note.lines().collect();
    let root: [u8; 32] = data_encoding::BASE64.decode(lines[2].as_bytes()).unwrap().try_into().unwrap();
    let kept = Witnessed { epoch: 0, size: lines[1].parse().unwrap(), root: Digest::new(root), note };
    let begin = async |who: &jit_broker::daemon::dev::Somebody, new: NewEpoch| {
        let deed = Deed::BeginEpoch { by: who.name(), new: Box::new(new) };
        world.broker().act(world.sign(who, None, deed), None, None).await
    };
    let good = NewEpoch { epoch: 1, kept: kept.clone(), seen: None };
    assert_eq!(begin(&world.bob, good.clone()).await.unwrap_err().code, Code::NOT_OFFICE);
    // Made up: a root that nobody signed, a size that is not the note's, an epoch that was before, one beyond all serials.
    let other = Witnessed { root: Digest::new([7; 32]), ..kept.clone() };
    let longer = Witnessed { size: kept.size + 5, ..kept.clone() };
    for (new, code) in [
        (NewEpoch { kept: other, ..good.clone() }, Code::BAD_ACT),
        (NewEpoch { seen: Some(longer), ..good.clone() }, Code::BAD_ACT),
        (NewEpoch { epoch: 0, ..good.clone() }, Code::BAD_ACT),
        (NewEpoch { epoch: u32::MAX, ..good.clone() }, Code::BAD_ACT),
    ] {
        assert_eq!(begin(&world.admin, new.clone()).await.unwrap_err().code, code, "{new:?}");
    }
    assert_eq!(world.ask(60).await.unwrap_err().code, Code::RECOVERY);
    begin(&world.admin, good).await.unwrap();
    let again = world.open(700).await;
    let serial = jit_ca::ssh::read(&world.issue(again).await.unwrap()).unwrap().serial;
    assert_eq!(serial, EPOCH + 1);
    assert!(world.broker().memory().await.state.indexes_hold());
    world.stop().await;
}
