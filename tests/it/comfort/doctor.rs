//! `doctor` on both sides: nothing to say where nothing is wrong, and one finding with its command for each thing that is made wrong.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::served::Served;
use crate::world::{Done, World};

/// What, health, detail, next.
type Found = (String, String, String, String);

fn findings(done: Done) -> (Option<i32>, Vec<Found>) {
    let doc: Value = serde_json::from_str(&done.out).unwrap_or_else(|e| panic!("{e}: {}\n{}", done.out, done.err));
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    let all = doc["items"].as_array().unwrap().iter();
    (done.code, all.map(|f| (text(f, "what"), text(f, "health"), text(f, "detail"), text(f, "next"))).collect())
}

#[track_caller]
fn problem(done: Done, what: &str, detail: &str, next: &str) {
    let (code, all) = findings(done);
    assert_eq!(code, Some(1), "{all:#?}");
    let fits = |(w, h, d, n): &&Found| w == what && h == "problem" && d.contains(detail) && n.contains(next);
    assert!(all.iter().any(|found| fits(&found)), "no {what}: {detail} in {all:#?}");
}

const PERSON: &str = "jit-broker -o json doctor --host-dir /nonexistent --ssh-config $HOME/.ssh/config";

#[test]
fn a_persons_machine() {
    let world = World::start();
    let (_, all) = findings(world.run("alice", PERSON));
    // This machine's own clock is not the test's to judge.
    let wrong: Vec<_> = all.iter().filter(|(what, health, ..)| health == "problem" && what != "clock").collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for what in ["files", "key", "broker", "sign-in", "ssh", "clock"] {
        assert!(all.iter().any(|(w, ..)| w == what), "{what} in {all:#?}");
    }
    let config = world.dir.join("alice/.ssh/config");
    let before = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("Host *\n  HostName elsewhere.example\n{before}")).unwrap();
    problem(world.run("alice", PERSON), "ssh", "hostname elsewhere.example", "ssh -G web-07");
    problem(world.run("alice", PERSON), "ssh", "other lines stand before", "ssh-config --install");
    std::fs::write(&config, "Host x\n").unwrap();
    problem(world.run("alice", PERSON), "ssh", "does not include", "ssh-config --install");
    std::fs::write(&config, before).unwrap();
    let ours = world.dir.join("alice/jit/config/ssh_config");
    let text = std::fs::read_to_string(&ours).unwrap();
    std::fs::write(&ours, text.replace("web-07", "web-08")).unwrap();
    problem(world.run("alice", PERSON), "ssh", "have changed since", "ssh-config --install");
    std::fs::write(&ours, text).unwrap();
    world.run("alice", "chmod 644 jit/config/context.json").ok();
    problem(world.run("alice", PERSON), "files", "context.json", "chmod 600");
    world.run("alice", "chmod 600 jit/config/context.json; mv id_ed25519 elsewhere").ok();
    problem(world.run("alice", PERSON), "key", "is not there", "--ssh-key");
    world.run("alice", "mv elsewhere id_ed25519").ok();
    let context = world.dir.join("alice/jit/config/context.json");
    let text = std::fs::read_to_string(&context).unwrap();
    std::fs::write(&context, text.replace(&world.address(), "127.0.0.1:9")).unwrap();
    problem(world.run("alice", PERSON), "broker", "cannot be reached", "livez");
    // As a person reads it.
    let read = world.run("alice", "jit-broker -o table doctor --host-dir /nonexistent");
    assert_eq!(read.code, Some(1));
    assert!(read.out.contains("BAD   broker") && read.out.contains("next: "), "{}", read.out);
}

#[test]
fn the_brokers_machine() {
    let world = World::start();
    let config = world.dir.join("broker/jit-broker.toml");
    let line = format!("jit-broker -o json doctor --config {}", config.display());
    let look = || world.run("root-admin", &line);
    let (code, all) = findings(look());
    // The world of one administrator is told of, as it should be.
    assert_eq!(code, Some(1), "{all:#?}");
    let wrong: Vec<_> =
        all.iter().filter(|(_, health, ..)| health == "problem").map(|(what, ..)| what.as_str()).collect();
    assert!(
        wrong.iter().all(|what| ["administrators", "approvers", "clock", "files", "disk"].contains(what)),
        "{all:#?}"
    );
    assert!(wrong.contains(&"administrators"));
    let alone = |(_, _, detail, _): &&Found| detail.contains("when bob asks");
    assert!(
        all.iter().any(|f| alone(&f)) && !all.iter().any(|f| f.2.contains("alice asks")),
        "bob is the only lead: {all:#?}"
    );
    for what in ["configuration", "signer", "daemon", "gateway", "log", "hosts", "recordings", "approvers", "disk"] {
        assert!(all.iter().any(|(w, ..)| w == what), "{what} in {all:#?}");
    }
    // Somebody edits a file, and nobody signs that.
    let adopted = world.run("bob", "jit-broker -o json policy show").json();
    for (name, text) in adopted["files"].as_object().unwrap() {
        std::fs::write(world.dir.join("broker").join(name), text.as_str().unwrap()).unwrap();
    }
    let (_, all) = findings(look());
    assert!(all.iter().any(|(what, health, ..)| what == "files" && health == "ok"), "{all:#?}");
    let policy = world.dir.join("broker/policy.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, text.replace("max = \"1h\"", "max = \"8h\"")).unwrap();
    problem(look(), "files", "policy.toml differ", "jit-broker apply");
    // The only one who may agree is disabled.
    world.run("root-admin", "jit-broker person disable bob --reason 'on leave'").ok();
    problem(
        look(),
        "approvers",
        "step peer for deploy on web-07 can never be met when alice",
        "who-can web-07 --role deploy",
    );
    world.run("root-admin", "chmod 755 ../broker/state/recordings").ok();
    problem(look(), "recordings", "can be entered by others", "chmod 700");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("nonsense = 1\n{text}")).unwrap();
    problem(look(), "configuration", "nonsense", "jit-broker check");
    std::fs::write(&config, text).unwrap();
    drop(world.run("root-admin", "true"));
}

#[test]
fn a_folder_that_the_daemon_makes_is_not_missed_and_one_of_somebody_elses_is_told() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = std::fs::canonicalize(folder.path()).unwrap();
    let served = Served::init_with(dir, Vec::new(), &["--gateway-ssh", "127.0.0.1:7022"]);
    let (config, state) = (served.config().display().to_string(), served.broker_dir().join("state"));
    let look = || -> Done { served.operator(&["-o", "json", "doctor", "--config", &config]).output().unwrap().into() };
    let (_, all) = findings(look());
    let there = |(what, health, detail, next): &&Found| {
        what == "recordings" && health == "note" && detail.contains("the daemon makes it") && next.is_empty()
    };
    assert!(all.iter().any(|f| there(&f)), "{all:#?}");
    let recordings = state.join("recordings");
    assert!(!recordings.exists());
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: nobody else's folder can be made");
        return;
    }
    // As root makes it where the daemon is another user.
    std::fs::create_dir(&recordings).unwrap();
    std::fs::set_permissions(&recordings, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&state, Some(61_001), Some(61_001)).unwrap();
    problem(look(), "recordings", "belongs to user 0", "chown -R 61001:61001");
    std::os::unix::fs::chown(&recordings, Some(61_001), Some(61_001)).unwrap();
    let (_, all) = findings(look());
    assert!(all.iter().any(|(what, health, ..)| what == "recordings" && health == "ok"), "{all:#?}");
}

#[test]
fn an_enrolled_host() {
    let world = World::direct();
    let host = world.dir.join("host/jit");
    std::fs::create_dir(&host).unwrap();
    let context = std::fs::read_to_string(world.dir.join("alice/jit/config/context.json")).unwrap();
    let context: Value = serde_json::from_str(&context).unwrap();
    std::fs::write(host.join("user_ca.pub"), context["about"]["ssh_user"].as_str().unwrap()).unwrap();
    std::fs::write(host.join("server_ca.pem"), context["about"]["server_ca_pem"].as_str().unwrap()).unwrap();
    let env = format!("JIT_BROKER_SERVER=https://{}\nJIT_BROKER_TARGET=web-07\n", world.address());
    std::fs::write(host.join("host.env"), env).unwrap();
    std::fs::copy(world.dir.join("broker/state/krl"), host.join("krl")).unwrap();
    let line = format!("env JIT_BROKER_HOME=/nonexistent jit-broker -o json doctor --host-dir {}", host.display());
    let look = || world.run("root-admin", &line);
    let (_, all) = findings(look());
    assert!(all.iter().any(|(what, health, ..)| what == "revocation list" && health == "ok"), "{all:#?}");
    // A list that is older than the broker's.
    let grant = world.granted("30m");
    world.run("alice", "jit-broker login web-07").ok();
    world.run("alice", &format!("jit-broker release {grant}"));
    problem(look(), "revocation list", "and the broker has", "host run --once");
    std::fs::write(host.join("krl"), b"").unwrap();
    problem(look(), "revocation list", "takes certificates that were revoked", "host run --once");
    std::fs::remove_file(host.join("krl")).unwrap();
    problem(look(), "revocation list", "refuses every public key", "host run --once");
}
