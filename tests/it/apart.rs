//! The signer as a process and, where the suite runs as root, a user of its own; and whoever else reaches its socket.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use jit_broker::domain::refusal::Code;
use jit_broker::signer::socket::Remote;
use jit_broker::signer::{Order, Signer};

use crate::served::{Served, eventually, serial};
use crate::world::Done;

/// The daemon and the signer are these; nobody else runs as them.
const DAEMON: u32 = 61_001;
const SIGNER: u32 = 61_002;

/// Runs as a user and nothing more.
fn as_user(id: u32) -> Vec<String> {
    let words = ["setpriv", "--reuid", &id.to_string(), "--regid", &id.to_string(), "--clear-groups", "--"];
    words.map(str::to_owned).into()
}

struct Apart {
    served: Served,
    signer: RefCell<Option<Child>>,
    as_signer: Vec<String>,
    socket: PathBuf,
}

fn chown(path: &std::path::Path, owner: &str) {
    assert!(Command::new("chown").args(["-R", owner]).arg(path).status().unwrap().success());
}

impl Apart {
    /// As the README says it, below a folder of the test.
    fn start() -> Self {
        let root = rustix::process::geteuid().is_root();
        let mut served = Served::init();
        let (keys, run) = (served.dir.join("signer"), served.dir.join("run"));
        std::fs::rename(served.broker_dir().join("state/ca"), &keys).unwrap();
        std::fs::create_dir(&run).unwrap();
        let socket = run.join("signer.sock");
        let own = format!("dir = \"{}\"\nsigner = \"unix:{}\"\n", keys.display(), socket.display());
        let text = std::fs::read_to_string(served.config()).unwrap();
        let kept = text.lines().filter(|l| !l.starts_with("dir ") && !l.starts_with("signer "));
        let text = kept.collect::<Vec<_>>().join("\n").replace("[ca]", &format!("[ca]\n{own}"));
        std::fs::write(served.config(), text).unwrap();
        let mut as_signer = Vec::new();
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o750)).unwrap();
        if root {
            for folder in served.dir.ancestors().skip(1) {
                let open = std::fs::metadata(folder).unwrap().permissions().mode() & 0o001 != 0;
                assert!(open, "the signer's user cannot pass through {}: run the suite elsewhere", folder.display());
            }
            // Everybody may pass through, and read the configuration: no secret is in it.
            for folder in [served.dir.clone(), served.dir.join("disk"), served.broker_dir()] {
                std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            std::fs::set_permissions(served.config(), std::fs::Permissions::from_mode(0o644)).unwrap();
            chown(&served.broker_dir().join("state"), &format!("{DAEMON}:{DAEMON}"));
            chown(&keys, &format!("{SIGNER}:{SIGNER}"));
            chown(&run, &format!("{SIGNER}:{DAEMON}"));
            std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o2750)).unwrap();
            served.before = as_user(DAEMON);
            as_signer = as_user(SIGNER);
        }
        let mut apart = Self { served, signer: RefCell::new(None), as_signer, socket };
        apart.start_signer();
        apart.served.serve();
        apart.served.adopt();
        apart
    }

    fn start_signer(&self) {
        let words: Vec<&str> = self.as_signer.iter().map(String::as_str).collect();
        *self.signer.borrow_mut() = Some(self.served.signer(&words));
        eventually("the signer's socket", || UnixStream::connect(&self.socket).is_ok());
    }

    fn kill_signer(&self) {
        let mut child = self.signer.borrow_mut().take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(mut child) = self.signer.borrow_mut().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_signer_of_its_own_comes_and_goes() {
    let mut apart = Apart::start();
    let mode = std::fs::metadata(&apart.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660, "nobody but the daemon's group reaches the socket");
    let served = &apart.served;
    let (alice, bob) = (served.client(&served.alice).unwrap(), served.client(&served.bob).unwrap());
    let grant = alice.ask(600).unwrap();
    let held = alice.certificate(grant).unwrap();
    let second = alice.ask(900).unwrap();
    assert!(!bob.list().serials.contains(&serial(&held)));

    // Away: nothing is issued, and what is ended is ended.
    apart.kill_signer();
    assert_eq!(alice.certificate(second).unwrap_err().code(), Code::SIGNER_AWAY);
    let began = Instant::now();
    bob.revoke(grant).unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "a revocation does not wait for the signer");
    assert_eq!(alice.certificate(grant).unwrap_err().code(), Code::WINDOW_CLOSED);
    apart.served.sign_in("alice");
    let done = apart.served.cli("alice", "jit-broker cert web-07 --role ops --for 15m --out -");
    assert_eq!((done.code, done.err.contains("JB5002")), (Some(69), true), "{}{}", done.out, done.err);

    // Back: it is shown the log, goes on, and the list that could not be signed is published without another word.
    apart.start_signer();
    let served = &apart.served;
    eventually("the serial is on the list", || bob.list().serials.contains(&serial(&held)));
    eventually("the clerk has seen that it is back", || alice.certificate(second).is_ok());

    // The daemon goes and comes while the signer stays, and both at once.
    let once = served.client(&served.alice).unwrap().certificate(second).unwrap();
    apart.served.kill();
    apart.served.serve();
    let served = &apart.served;
    assert_eq!(served.client(&served.alice).unwrap().certificate(second).unwrap(), once);
    apart.served.kill();
    apart.kill_signer();
    let (mut child, ready) = apart.served.try_serve();
    let said = ready.unwrap_err();
    assert_eq!(child.wait().unwrap().code(), Some(69), "{said}");
    assert!(said.contains("JB5002"), "{said}");
    apart.start_signer();
    apart.served.serve();
    let served = &apart.served;
    assert_eq!(served.client(&served.alice).unwrap().certificate(second).unwrap(), once);
    served.sign_in("bob");
    assert_eq!(served.cli("bob", "jit-broker audit verify").code, Some(0));
    if !apart.as_signer.is_empty() {
        let reads = |who: u32, path: PathBuf| {
            let mut words = as_user(who);
            words.extend(["cat".to_owned(), path.display().to_string()]);
            Command::new(&words[0]).args(&words[1..]).output().unwrap().status.success()
        };
        assert!(!reads(DAEMON, served.dir.join("signer/ssh_user")), "the daemon's user cannot read a key");
        assert!(!reads(SIGNER, served.ledger()), "nor the signer's user the ledger");
        let mut words = as_user(61_003);
        words.extend([crate::served::PROGRAM.to_owned(), "signer".to_owned(), "--config".to_owned()]);
        let stranger = Command::new(&words[0]).args(&words[1..]).arg(served.config()).output().unwrap();
        assert!(!stranger.status.success(), "a stranger is no signer");
    }
}

/// Neither what ends by its time nor what is answered waits for a signer that is there and says nothing.
#[test]
fn a_signer_that_hangs_delays_no_end_and_no_answer() {
    let apart = Apart::start();
    let served = &apart.served;
    let (alice, bob) = (served.client(&served.alice).unwrap(), served.client(&served.bob).unwrap());
    let (short, asked) = (alice.ask(15).unwrap(), Instant::now());
    let long = alice.ask(600).unwrap();
    alice.certificate(short).unwrap();
    let held = alice.certificate(long).unwrap();
    let pid = apart.signer.borrow().as_ref().unwrap().id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    signal("-STOP");
    let took = |what: &str, began: Instant| assert!(began.elapsed() < Duration::from_secs(6), "{what} takes long");
    let began = Instant::now();
    assert!(bob.revoke(long).unwrap()["notice"].as_str().is_some_and(|notice| notice.contains("not published")));
    took("a revocation", began);
    // People sign in meanwhile, and some hang up.
    let ended = || alice.call("GET", &format!("/v1/grants/{short}"), None).unwrap()["state"] == "ending";
    while !ended() {
        assert!(asked.elapsed() < Duration::from_secs(15 + 5), "the window's end is late");
        let login = alice.signed(alice.challenge().unwrap(), None);
        alice.hang_up("/v1/acts", login, 255, Duration::from_millis(50)).unwrap();
        let began = Instant::now();
        served.client(&served.alice).unwrap();
        took("a sign-in", began);
    }
    signal("-CONT");
    eventually("the serial is on the list", || bob.list().serials.contains(&serial(&held)));
}

/// A frame as the daemon writes it.
fn frame(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// True when the other end closed the connection.
fn closed(stream: &mut UnixStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_))
}

#[test]
fn whoever_reaches_the_socket_gets_no_more_than_the_log_allows() {
    let apart = Apart::start();
    let served = &apart.served;
    let (alice, bob) = (served.client(&served.alice).unwrap(), served.client(&served.bob).unwrap());
    let grant = alice.ask(600).unwrap();
    alice.certificate(grant).unwrap();
    let over = alice.ask(900).unwrap();
    alice.certificate(over).unwrap();
    bob.revoke(over).unwrap();

    let mut direct = Remote::new(apart.socket.clone());
    let mut refused = |order: Order| direct.order(order).unwrap_err().code;
    let made_up = "gr_0000000000000000000000000c".parse();
    for (what, order) in [
        ("no such grant", made_up.ok().map(|grant| Order::Credential { grant, key: served.alice.key() })),
        ("another key", Some(Order::Credential { grant, key: served.bob.key() })),
        ("a grant that is over", Some(Order::Credential { grant: over, key: served.alice.key() })),
        ("a host that nobody enrolled", Some(Order::HostCert { target: "web-07".parse().unwrap() })),
        ("a shorter log", Some(Order::Checkpoint { from: 0, leaves: Vec::new() })),
        ("a longer log", Some(Order::Checkpoint { from: 1_000_000, leaves: Vec::new() })),
    ] {
        let order = order.unwrap_or_else(|| panic!("{what} is no order"));
        assert_eq!(refused(order), Code::SIGNER_REFUSED, "{what}");
    }

    // Half a frame, garbage, a length of 4 GiB, silence: each holds up nobody but itself.
    let connect = || UnixStream::connect(&apart.socket).unwrap();
    let mut half = connect();
    half.write_all(&frame(b"{\"verb\":\"head\"}")[..9]).unwrap();
    let idle: Vec<UnixStream> = (0..12).map(|_| connect()).collect();
    let began = Instant::now();
    alice.certificate(grant).unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "the daemon is served while others stall");
    let bodies: [Vec<u8>; 6] = [
        u32::MAX.to_be_bytes().to_vec(),
        frame(b"{\"verb\":\"sign_anything\"}"),
        frame(b"{\"verb\":\"host_cert\",\"target\":\"web-07\",\"approved\":true}"),
        frame(&[0xff; 4096]),
        frame("[".repeat(200_000).as_bytes()),
        frame(b""),
    ];
    for body in bodies {
        let mut stream = connect();
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let _ = stream.write_all(&body);
        assert!(closed(&mut stream), "{shown}");
    }
    assert!(closed(&mut half), "half a frame is not waited for for ever");
    drop(idle);
    alice.certificate(grant).unwrap();

    // A forged entry at the end of the log: nothing is signed any more until somebody has looked.
    let head = match Remote::new(apart.socket.clone()).order(Order::Head).unwrap() {
        jit_broker::signer::Answer::Head { size } => size,
        other => panic!("{other:?}"),
    };
    let entry = format!(
        "{{\"at\":{},\"boot\":{{\"id\":\"\",\"ms\":1}},\"event\":{{\"kind\":\"person.enabled\"}},\"seq\":{head},\"v\":1}}",
        jit_broker::clock::wall_s()
    );
    let forged = Order::Checkpoint { from: head, leaves: vec![jit_broker::signer::Leaf { entry, blobs: Vec::new() }] };
    assert_eq!(direct.order(forged).unwrap_err().code, Code::LOG_LIES);
    assert_eq!(alice.certificate(grant).unwrap_err().code(), Code::LOG_LIES);
}

/// Whose the files of both services are, with their modes.
fn owners(apart: &Apart) -> BTreeMap<PathBuf, (u32, u32, u32)> {
    let folders = [apart.served.dir.join("signer"), apart.served.broker_dir().join("state")];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap().flatten());
    let all = files.map(|entry| entry.path()).chain(folders.clone());
    all.map(|path| {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        (path, (meta.uid(), meta.gid(), meta.mode()))
    })
    .collect()
}

#[test]
fn root_mends_and_looks_at_what_two_services_own_and_takes_nothing_from_them() {
    let mut apart = Apart::start();
    if apart.as_signer.is_empty() {
        // Without root there are no two users.
        return;
    }
    let config = apart.served.config().display().to_string();
    let root = |args: &[&str]| -> Done { Command::new(crate::served::PROGRAM).args(args).output().unwrap().into() };
    apart.served.client(&apart.served.alice).unwrap().ask(600).unwrap();
    // The authority's public halves, beside the running services.
    let listed = root(&["ca", "list", "--config", &config]).ok();
    assert!(listed.contains("ssh-user") && listed.contains("x509-server"), "{listed}");
    apart.served.sign_in("bob");
    let known = apart.served.cli("bob", "jit-broker ca export --kind ssh-user").ok();
    assert_eq!(root(&["ca", "export", "--kind", "ssh-user", "--config", &config]).ok(), known);
    // A store that is older than what was signed, and then a signer without its head.
    apart.served.stop();
    let (ledger, old) = (apart.served.ledger(), apart.served.dir.join("old.db"));
    std::fs::copy(&ledger, &old).unwrap();
    apart.served.serve();
    apart.served.client(&apart.served.alice).unwrap().ask(900).unwrap();
    apart.served.stop();
    let head = apart.served.dir.join("signer/head.json");
    // What a write left that was killed in the middle, and what only looks like it.
    let ending = "0123456789abcdef0123456789abcdef";
    let half = [format!("head.json.{ending}"), format!("ssh_user.2.{ending}"), "head.fold.new".to_owned()];
    let kept = [format!("notes.{ending}"), "head.json.2026".to_owned(), format!("ssh_user.{}", &ending[1..])];
    half.iter().chain(&kept).for_each(|name| std::fs::write(head.with_file_name(name), "half").unwrap());
    for epoch in 1..=2 {
        apart.kill_signer();
        if epoch == 1 {
            std::fs::write(&ledger, std::fs::read(&old).unwrap()).unwrap();
        }
        let mut before = owners(&apart);
        if epoch == 2 {
            std::fs::remove_file(&head).unwrap();
            // Whoever brings an old store back may have left the lock behind.
            std::fs::remove_file(apart.served.broker_dir().join("state/ledger.db.lock")).unwrap();
        }
        for who in [DAEMON, SIGNER] {
            let mut words = as_user(who);
            words.extend([crate::served::PROGRAM, "restore", "--in-place", "--config", &config].map(str::to_owned));
            let done = Done::from(Command::new(&words[0]).args(&words[1..]).output().unwrap());
            assert!(done.code != Some(0) && done.err.contains("as root"), "{who}: {}", done.err);
        }
        root(&["restore", "--in-place", "--config", &config]).ok();
        let mut after = owners(&apart);
        for suffix in ["-wal", "-shm"] {
            let name = PathBuf::from(format!("{}{suffix}", ledger.display()));
            before.remove(&name);
            after.remove(&name);
        }
        assert_eq!(before, after);
        apart.start_signer();
        assert!(!half.iter().any(|name| head.with_file_name(name).exists()), "the signer clears up");
        assert!(kept.iter().all(|name| head.with_file_name(name).exists()), "and takes nothing else");
        apart.served.serve();
        let begun = apart.served.cli("root-admin", "jit-broker audit begin-epoch --yes");
        assert!(begun.code == Some(0) && begun.err.contains(&format!("Epoch {epoch}")), "{}", begun.err);
        let alice = apart.served.client(&apart.served.alice).unwrap();
        eventually("it signs again", || alice.ask(901).is_ok());
        apart.served.stop();
    }
}

#[test]
fn what_root_runs_beside_two_services_works_and_takes_no_file_from_them() {
    let mut apart = Apart::start();
    if apart.as_signer.is_empty() {
        return;
    }
    let config = apart.served.config();
    let at = config.display().to_string();
    let root = |args: &[&str]| -> Done { Command::new(crate::served::PROGRAM).args(args).output().unwrap().into() };
    let left = apart.served.broker_dir().join("state/left.json");
    eventually("the daemon has said what is left", || left.exists());
    let before = owners(&apart);
    let good = root(&["check", "--config", &at]);
    assert!(good.code == Some(0) && good.err.contains("good"), "{}{}", good.out, good.err);
    let found = root(&["doctor", "--config", &at]);
    assert!(!found.out.contains("JB") && !found.err.contains("JB"), "{}{}", found.out, found.err);
    root(&["reload", "--config", &at]).ok();
    let (to, secret) = (apart.served.dir.join("broker.backup"), apart.served.dir.join("passphrase"));
    std::fs::write(&secret, "correct horse battery").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (to, secret) = (to.display().to_string(), secret.display().to_string());
    root(&["backup", "--to", &to, "--config", &at, "--passphrase-file", &secret]).ok();
    let dir = apart.served.dir.join("restored").display().to_string();
    root(&["restore", &to, "--dir", &dir, "--passphrase-file", &secret]).ok();
    // The administrators are lost: root writes others into the configuration that both read.
    apart.served.stop();
    let text = std::fs::read_to_string(&config).unwrap();
    let key = std::fs::read_to_string(apart.served.dir.join("root-admin/id_ed25519.pub")).unwrap();
    let key = key.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let other = jit_ca::key::PrivateKey::from_seed([9; 32]).public().to_string();
    std::fs::write(&config, text.replace(&key, &other)).unwrap();
    // The signer reads it when it starts: until then it is in the log, and what to do is said.
    let early = root(&["trust", "reset", "--config", &at, "--yes"]);
    assert!(early.code != Some(0) && early.err.contains("It is in the log"), "{}{}", early.out, early.err);
    assert!(early.err.contains("systemctl restart jit-broker-signer, then the same again"), "{}", early.err);
    apart.kill_signer();
    apart.start_signer();
    root(&["trust", "reset", "--config", &at, "--yes"]).ok();
    let after = owners(&apart);
    for (path, was) in &before {
        assert_eq!(after.get(path).unwrap_or(was), was, "{}", path.display());
    }
    let strange: Vec<_> = after.iter().filter(|(_, (user, _, _))| *user == 0).collect();
    assert!(strange.is_empty(), "{strange:#?}");
    apart.served.serve();
}
