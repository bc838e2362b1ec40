//! Every refusal has a code, a sentence, the next command, and the exit status of the contract.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use jit_broker::daemon::dev::Somebody;

use crate::served::{PROGRAM, Served, free_port};
use crate::world::{Done, World};

#[test]
fn refusals_of_the_requester() {
    let world = World::start();
    let long = "x".repeat(1 << 20);
    std::fs::write(world.dir.join("alice/long"), long).unwrap();
    let cases = [
        ("request web-07 --for 0s --reason 'hotfix OPS'", 2, "JB1003"),
        ("request web-07 --for -5m --reason 'hotfix OPS'", 2, "JB1003"),
        ("request web-07 --for 18446744073709551616s --reason 'hotfix OPS'", 2, "JB1003"),
        ("request web-07 --for 2h --reason 'hotfix OPS' --no-wait", 5, "JB2003"),
        ("request web-07 --for 5m --reason short --no-wait", 5, "JB2004"),
        ("request web-07 --for 5m --no-wait", 5, "JB2004"),
        ("request web-07 --for 5m --reason \"$(printf 'hotfix\\033[2Jxx')\" --no-wait", 2, "JB1002"),
        ("request web-07 --for 5m --reason \"$(printf 'hotfix \\342\\200\\256 gnp')\" --no-wait", 2, "JB1002"),
        ("request web-99 --for 5m --reason 'hotfix OPS' --no-wait", 8, "JB1008"),
        ("show req_0000", 8, "JB1008"),
        ("release", 2, "JB1007"),
        ("audit export", 5, "JB2012"),
        ("explain JB9999", 8, "JB1008"),
    ];
    for (line, exit, code) in cases {
        let done = world.run("alice", &format!("jit-broker {line}"));
        assert_eq!(done.code, Some(exit), "{line}: {}", done.err);
        assert!(done.err.contains(code), "{line}: {}", done.err);
        assert!(!done.err.contains('\x1b') && !done.err.contains('\u{202e}'), "{line}: {}", done.err);
    }
    let error = world.run("alice", "jit-broker -o json request web-07 --for 2h --reason 'hotfix OPS' --no-wait");
    let doc: serde_json::Value = serde_json::from_str(error.err.lines().last().unwrap()).unwrap();
    assert_eq!(doc["schema"], "jit-broker/error/v1");
    assert_eq!(doc["code"], "JB2003");
    assert!(doc["hint"].as_str().unwrap().contains("jit-broker request web-07"), "{doc}");
}

#[test]
fn a_reader_that_goes_away_ends_the_answer_quietly() {
    for line in [["explain", "JB2003"].as_slice(), &["--help"], &["-o", "json", "explain", "JB2003"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done =
            std::process::Command::new(env!("CARGO_BIN_EXE_jit-broker")).args(line).stdout(writer).output().unwrap();
        assert!(done.stderr.is_empty(), "{line:?}: {}", String::from_utf8_lossy(&done.stderr));
        assert!(matches!(done.status.code(), Some(0 | 141)), "{line:?}: {:?}", done.status);
    }
}

#[test]
fn refusals_of_the_operator() {
    let world = World::start();
    let own = world.dir.join("broker/jit-broker.toml");
    let text = std::fs::read_to_string(&own).unwrap();
    let broken = world.dir.join("broken.toml");
    std::fs::write(&broken, text.replace("public_url", "public_ulr")).unwrap();
    let done = world.run("root-admin", &format!("jit-broker check --config {}", broken.display()));
    assert_eq!(done.code, Some(78), "{}", done.err);
    assert!(done.err.contains("did you mean public_url?") && done.err.contains("broken.toml:"), "{}", done.err);
    // A second daemon: the port is taken; on another port the ledger is held.
    let done = world.run("root-admin", &format!("jit-broker serve --config {}", own.display()));
    assert_eq!((done.code, done.err.contains("JB8002")), (Some(78), true), "{}", done.err);
    let other = world.dir.join("broker/other.toml");
    let moved = text.lines().map(|l| if l.starts_with("listen") { "listen = \"127.0.0.1:0\"" } else { l });
    std::fs::write(&other, moved.collect::<Vec<_>>().join("\n")).unwrap();
    let done = world.run("root-admin", &format!("jit-broker serve --config {}", other.display()));
    assert_eq!((done.code, done.err.contains("JB6002")), (Some(78), true), "{}", done.err);
    // `init` never overwrites, and open keys stop the start.
    let line = format!("jit-broker init --dir {}/broker --admin me --key id_ed25519.pub", world.dir.display());
    assert_eq!(world.run("root-admin", &line).code, Some(78));
    world.run("root-admin", "chmod 644 ../broker/state/ca/ssh_user").ok();
    let done = world.run("root-admin", &format!("jit-broker check --config {}", own.display()));
    assert_eq!(
        (done.code, done.err.contains("chmod 600") || done.err.contains("mode 600")),
        (Some(78), true),
        "{}",
        done.err
    );
}

#[test]
fn a_broker_that_listens_everywhere_says_which_address_clients_use() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    Somebody::make(folder.path(), "root-admin").unwrap();
    let (dir, key) = (folder.path().join("broker"), folder.path().join("root-admin/id_ed25519.pub"));
    let init = |more: &[&str]| -> Done {
        let mut command = Command::new(PROGRAM);
        command.args(["init", "--admin", "root-admin", "--dir"]).arg(&dir).arg("--key").arg(&key).args(more);
        command.output().unwrap().into()
    };
    for more in [
        ["--listen", "0.0.0.0:7443"],
        ["--listen", "[::]:7443"],
        ["--public-url", "https://0.0.0.0:7443"],
        ["--public-url", "https://[::ffff:0.0.0.0]:7443"],
        ["--public-url", "https://:443"],
        ["--public-url", "https://[]:443"],
        ["--public-url", "http://broker.corp"],
    ] {
        let done = init(&more);
        assert_eq!(done.code, Some(2), "{more:?}: {}", done.err);
        assert!(done.err.contains("--public-url") && !dir.exists(), "{more:?}: {}", done.err);
    }
    init(&["--listen", "0.0.0.0:7443", "--public-url", "https://broker.corp:7443/"]).ok();
    // What `init` refuses is refused where it is written by hand.
    let config = dir.join("jit-broker.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    let check = || -> Done { Command::new(PROGRAM).args(["check", "--config"]).arg(&config).output().unwrap().into() };
    check().ok();
    let gateway = "[gateway.ssh]\nlisten = \"127.0.0.1:7022\"\naddress = \"0.0.0.0:7022\"\n";
    for (text, wrong) in [
        (good.replace("https://broker.corp:7443/", "https://0.0.0.0:7443"), "public_url: nobody connects to 0.0.0.0"),
        (good.replace("https://broker.corp:7443/", "https://:443"), "public_url: must be https://HOST[:PORT]"),
        (format!("{good}{gateway}"), "address: nobody connects to 0.0.0.0"),
    ] {
        std::fs::write(&config, text).unwrap();
        let done = check();
        assert_eq!((done.code, done.err.contains(wrong)), (Some(78), true), "{wrong}: {}", done.err);
    }
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn check_tells_what_a_start_refuses_and_what_mends_it() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = std::fs::canonicalize(folder.path()).unwrap();
    let gateway = format!("127.0.0.1:{}", free_port());
    let mut served = Served::init_with(dir, Vec::new(), &["--gateway-ssh", &gateway]);
    let (config, state) = (served.config(), served.broker_dir().join("state"));
    let keeps = format!("[keeps.other]\norigin = \"jit-broker/audit/x/e0\"\nkey = \"{}\"\n", served.alice.key());
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + &keeps).unwrap();
    let check = |served: &Served| -> Done {
        served.operator(&["check", "--config", &config.display().to_string()]).output().unwrap().into()
    };
    // Before the first start, too: what the daemon makes is not missed, and not made.
    check(&served).ok();
    assert!(!state.join("recordings").exists() && !state.join("marker").exists());
    served.serve();
    served.stop();
    let refused = |wrong: &str, next: &str| {
        let (mut child, ready) = served.try_serve();
        let _ = child.kill();
        child.wait().unwrap();
        assert!(ready.is_err(), "it started with {wrong}");
        let done = check(&served);
        let told = done.err.contains(wrong) && done.err.contains(&format!("next: {next}"));
        assert!(done.code == Some(78) && told, "{wrong}: {:?} {}", done.code, done.err);
    };
    let (ledger, away) = (served.ledger(), state.join("away.db"));
    std::fs::rename(&ledger, &away).unwrap();
    refused(&format!("no ledger at {}", ledger.display()), "Mend [store].url");
    std::fs::rename(&away, &ledger).unwrap();
    chmod(&state.join("recordings"), 0o755);
    refused("recordings can be entered by others", "chmod 700");
    chmod(&state.join("recordings"), 0o700);
    for name in ["gateway_ssh_key", "marker", "witness_key"] {
        let path = state.join(name);
        chmod(&path, 0o644);
        refused(&format!("{name} has mode 644"), "chmod 600");
        chmod(&path, 0o600);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, "damaged").unwrap();
        refused(&format!("{name} is not"), "jit-broker check");
        std::fs::write(&path, text).unwrap();
    }
    check(&served).ok();
}

#[test]
fn a_key_that_nobody_knows_gets_no_session() {
    let world = World::start();
    let url = world.run("alice", "sed -n 's/.*\"server\": \"\\(.*\\)\",/\\1/p' jit/config/context.json").ok();
    let line = format!(
        "ssh-keygen -q -t ed25519 -N '' -f k && JIT_BROKER_HOME=$PWD/x jit-broker auth login --server {} --ca-file ../server-ca.pem --ssh-key k",
        url.trim()
    );
    let done = world.run("alice", &line);
    assert_eq!(done.code, Some(4), "{}", done.err);
    let line = format!(
        "JIT_BROKER_HOME=$PWD/y jit-broker auth login --server {} --fingerprint SHA256:AAAA --ssh-key id_ed25519",
        url.trim()
    );
    let done = world.run("alice", &line);
    assert_eq!((done.code, done.err.contains("JB7003")), (Some(9), true), "{}", done.err);
    let line = format!("JIT_BROKER_HOME=$PWD/z jit-broker auth login --server {} --ssh-key id_ed25519", url.trim());
    let done = world.run("alice", &line);
    assert_eq!((done.code, done.err.contains("first use")), (Some(2), true), "{}", done.err);
}

#[test]
fn operators_alone_say_that_the_clock_is_right() {
    let world = World::start();
    assert_eq!(world.run("alice", "jit-broker clock confirm --yes").code, Some(5));
    let done = world.run("bob", "jit-broker clock confirm");
    assert_eq!((done.code, done.err.contains("--yes")), (Some(2), true), "{}", done.err);
    assert_eq!(world.count("clock.confirmed"), 0);
    world.run("bob", "jit-broker clock confirm --yes").ok();
    assert_eq!(world.count("clock.confirmed"), 1);
}
