//! The units as systemd reads them, and what the two programs tell the service manager: ready, alive, stopping.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jit_broker::domain::event::Command as Said;
use jit_broker::domain::refusal::Code;
use jit_broker::ledger::held_by;

use crate::served::{PROGRAM, Served, eventually, free_port};
use crate::trust::World;
use crate::world::Done;

/// The least that systemd's own judgement of a unit may be.
const EXPOSURE: f64 = 1.5;

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(unit(name)).unwrap()
}

#[test]
fn both_units_are_shut_in_as_systemd_sees_it() {
    for name in ["jit-broker.service", "jit-broker-signer.service"] {
        let mut analyze = Command::new("systemd-analyze");
        let out = analyze.args(["security", "--offline=yes", "--no-pager"]).arg(unit(name)).output();
        let out = out.expect("systemd-analyze is needed: apt-get install systemd");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let level = said.split("Overall exposure level for ").nth(1).and_then(|rest| rest.split_whitespace().nth(1));
        let level: f64 = level.and_then(|level| level.parse().ok()).unwrap_or_else(|| panic!("{name}: {said}"));
        assert!(level <= EXPOSURE, "{name} is at {level}");
    }
}

#[test]
fn both_units_are_understood_and_keep_nothing_in_run() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["jit-broker.service", "jit-broker-signer.service"] {
        let text = text(name);
        std::fs::write(folder.path().join(name), text.replace("/usr/local/bin/jit-broker", PROGRAM)).unwrap();
        // Debian 12's systemd knows neither notify-reload nor a state folder that a wiped /run would take along.
        for line in ["Type=notify\n", "WatchdogSec=", "RestartPreventExitStatus=78", "NotifyAccess=main"] {
            assert!(text.contains(line), "{name} has no {line}");
        }
        assert!(!text.contains("RuntimeDirectory"), "{name}");
    }
    let units = ["jit-broker.service", "jit-broker-signer.service"].map(|name| folder.path().join(name));
    let out = Command::new("systemd-analyze").arg("verify").args(units).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && !said.contains("jit-broker"), "{said}");
}

#[test]
fn the_users_and_their_folders_are_made() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: users are made by root alone");
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = folder.path();
    std::fs::create_dir(root.join("etc")).unwrap();
    for name in ["passwd", "group"] {
        std::fs::copy(format!("/etc/{name}"), root.join("etc").join(name)).unwrap();
    }
    let (users, folders) = (unit("sysusers.d/jit-broker.conf"), unit("tmpfiles.d/jit-broker.conf"));
    for (program, more, file) in [("systemd-sysusers", None, users), ("systemd-tmpfiles", Some("--create"), folders)] {
        let mut command = Command::new(program);
        let out = command.arg(format!("--root={}", root.display())).args(more).arg(file).output().unwrap();
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let made = std::fs::read_to_string(root.join("etc/passwd")).unwrap();
    let id = |name: &str| {
        made.lines().find_map(|line| line.strip_prefix(&format!("{name}:x:"))?.split(':').next()?.parse().ok())
    };
    let (daemon, signer): (Option<u32>, Option<u32>) = (id("jit-broker"), id("jit-broker-signer"));
    assert!(daemon.is_some() && signer.is_some() && daemon != signer, "{made}");
    for (path, mode, owner) in [
        ("run/jit-broker", 0o2750, signer),
        ("var/lib/jit-broker", 0o700, daemon),
        ("var/lib/jit-broker-signer", 0o700, signer),
    ] {
        let found = std::fs::metadata(root.join(path)).unwrap();
        assert_eq!((found.permissions().mode() & 0o7777, Some(found.uid())), (mode, owner), "{path}");
    }
}

/// A service manager's ear.
struct Ear {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Ear {
    fn beside(dir: &Path) -> Self {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path }
    }

    /// What stands before a command that it hears.
    fn before(&self, watchdog_s: u64) -> Vec<String> {
        let socket = format!("NOTIFY_SOCKET={}", self.path.display());
        vec!["env".to_owned(), socket, format!("WATCHDOG_USEC={}", watchdog_s * 1_000_000)]
    }

    /// Everything that is said until a line comes, or the time is over.
    fn hear(&self, wanted: &str, within: Duration) -> Result<Vec<String>, Vec<String>> {
        let (until, mut said) = (Instant::now() + within, Vec::new());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(said);
            }
            self.socket.set_read_timeout(Some(left)).unwrap();
            let mut buffer = [0; 4096];
            let Ok(length) = self.socket.recv(&mut buffer) else { return Err(said) };
            said.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
            if said.iter().any(|line| line == wanted) {
                return Ok(said);
            }
        }
    }
}

#[test]
fn the_daemon_says_when_it_serves_that_it_is_alive_and_when_it_stops() {
    let mut served = Served::init();
    let ear = Ear::beside(&served.dir);
    served.before = ear.before(2);
    served.serve();
    ear.hear("READY=1", Duration::from_secs(10)).unwrap();
    served.sign_in("root-admin");
    ear.hear("STATUS=serving", Duration::from_secs(10)).unwrap();
    for _ in 0..2 {
        ear.hear("WATCHDOG=1", Duration::from_secs(2)).unwrap();
    }
    // SIGHUP is a reload: told before and after.
    tell("-HUP", served.server.as_ref().unwrap());
    let said = ear.hear("READY=1", Duration::from_secs(5)).unwrap();
    assert!(said.contains(&"RELOADING=1".to_owned()), "{said:?}");
    served.stop();
    ear.hear("STOPPING=1", Duration::from_secs(5)).unwrap();
}

/// A stop, or a reload, that comes with the very word that it serves: systemd may send either as soon as it has heard it.
#[test]
fn a_stop_that_follows_at_once_is_an_orderly_one() {
    let mut served = Served::init();
    let ear = Ear::beside(&served.dir);
    served.before = ear.before(60);
    // Nobody listens and the queue is full, so that the daemon stands still where it says that it is ready.
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(b"STATUS=full", &ear.path).is_ok() {}
    served.serve();
    for signal in ["-HUP", "-TERM"] {
        tell(signal, served.server.as_ref().unwrap());
    }
    ear.hear("STOPPING=1", Duration::from_secs(10)).unwrap();
    assert!(served.server.take().unwrap().wait().unwrap().success());
}

/// A signer that takes what is said and does not answer: whoever asks it stands still, with the ledger in their hands.
struct Silent {
    socket: UnixListener,
    asked: Vec<UnixStream>,
}

impl Silent {
    fn before(served: &Served) -> Self {
        let path = served.dir.join("signer.sock");
        let text = std::fs::read_to_string(served.config()).unwrap();
        let text = text.replace("signer = \"local\"", &format!("signer = \"unix:{}\"", path.display()));
        std::fs::write(served.config(), text).unwrap();
        let socket = UnixListener::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, asked: Vec::new() }
    }

    /// Starts a program of the operator's, and waits until it has asked.
    fn asked_by(&mut self, command: &mut Command) -> Child {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("it asks its signer", || {
            self.asked.extend(self.socket.accept().map(|(stream, _)| stream));
            !self.asked.is_empty()
        });
        child
    }
}

fn tell(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// `reload` finds whoever holds the ledger, and that is a daemon long before it serves.
#[test]
fn a_reload_during_the_start_is_heeded_after_it_and_a_stop_at_once() {
    let mut served = Served::init();
    let config = served.config().display().to_string();
    let mut silent = Silent::before(&served);
    served.server = Some(silent.asked_by(&mut served.operator(&["serve", "--config", &config])));
    let daemon = served.server.as_mut().unwrap();
    tell("-HUP", daemon);
    assert!(daemon.try_wait().unwrap().is_none(), "it was ended by a reload");
    assert_eq!(held_by(&served.ledger()), i32::try_from(served.server.as_ref().unwrap().id()).ok());
    // The signer comes, and the start goes on.
    std::fs::remove_file(served.dir.join("signer.sock")).unwrap();
    let mut signer = served.signer(&[]);
    drop(silent);
    let told = served.broker_dir().join("state/ledger.db.reloaded");
    eventually("it has taken its configuration anew", || told.exists());
    served.stop();
    signer.kill().unwrap();
    signer.wait().unwrap();
    std::fs::remove_file(served.dir.join("signer.sock")).unwrap();
    let mut silent = Silent::before(&served);
    served.server = Some(silent.asked_by(&mut served.operator(&["serve", "--config", &config])));
    let began = Instant::now();
    tell("-TERM", served.server.as_ref().unwrap());
    let mut daemon = served.server.take().unwrap();
    assert!(daemon.wait().unwrap().success(), "a stop during the start is an orderly one");
    assert!(began.elapsed() < Duration::from_secs(5), "it waited for its signer: {:?}", began.elapsed());
}

#[test]
fn a_reload_does_not_end_what_holds_the_ledger_for_a_moment() {
    let served = Served::init();
    let config = served.config().display().to_string();
    let mut silent = Silent::before(&served);
    let mut reset = silent.asked_by(&mut served.operator(&["trust", "reset", "--config", &config, "--yes"]));
    assert_eq!(held_by(&served.ledger()), i32::try_from(reset.id()).ok());
    tell("-HUP", &reset);
    std::fs::remove_file(served.dir.join("signer.sock")).unwrap();
    let mut signer = served.signer(&[]);
    drop(silent);
    let ended = reset.wait().unwrap();
    // It may have lost its signer in the middle of a word; it says so, and is not killed.
    assert!(ended.code().is_some(), "{ended}");
    signer.kill().unwrap();
    signer.wait().unwrap();
}

/// What stands before a command that may not write in a folder, as a unit may not: a mount for root, whom no mode keeps out.
fn shut_out_of(folder: &Path) -> Vec<String> {
    if !rustix::process::geteuid().is_root() {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o500)).unwrap();
        return Vec::new();
    }
    let script = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@""#;
    ["unshare", "-m", "sh", "-c", script, &folder.display().to_string()].map(str::to_owned).into()
}

/// Whoever looks from outside of the unit can write there, so the daemon says it: at its start, and to `doctor`.
#[test]
fn a_folder_that_the_unit_may_not_write_in_is_told_before_a_session_is_refused() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = std::fs::canonicalize(folder.path()).unwrap();
    let gateway = format!("127.0.0.1:{}", free_port());
    let mut served = Served::init_with(dir, Vec::new(), &["--gateway-ssh", &gateway]);
    served.keep(folder);
    let (config, srv) = (served.config().display().to_string(), served.dir.join("srv"));
    // As a daemon left it that could write there.
    std::fs::create_dir_all(srv.join("spool")).unwrap();
    std::fs::set_permissions(&srv, std::fs::Permissions::from_mode(0o700)).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    let places = format!("[recording]\ndir = \"{0}\"\n[witness.disk]\nfile = \"{0}/note\"\n", srv.display());
    std::fs::write(&config, text + &places).unwrap();
    served.before = shut_out_of(&srv);
    let checked: Done = served.operator(&["check", "--config", &config]).output().unwrap().into();
    assert!(checked.code == Some(78) && checked.err.contains("no session is recorded"), "{}", checked.err);
    let log = served.dir.join("log");
    let mut serve = served.operator(&["serve", "--config", &config]);
    served.server = Some(serve.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap());
    let said = || std::fs::read_to_string(&log).unwrap();
    eventually("it serves", || said().contains("listening on"));
    assert!(said().contains("the daemon cannot write in") && said().contains("ReadWritePaths="), "{}", said());
    let doctor = || Done::from(Command::new(PROGRAM).args(["doctor", "--config", &config]).output().unwrap()).out;
    eventually("doctor knows of both", || {
        let found = doctor();
        let recordings = found.contains("BAD   recordings       the daemon cannot write in");
        recordings && found.contains("BAD   witness          disk: ") && !found.contains("ok    recordings")
    });
    served.stop();
    served.before.clear();
    std::fs::set_permissions(&srv, std::fs::Permissions::from_mode(0o700)).unwrap();
    served.serve();
    eventually("nothing is wrong with either", || {
        let found = doctor();
        found.contains("ok    recordings") && !found.contains("BAD   witness")
    });
    assert!(srv.join("note").exists());
}

/// Somebody who holds the store holds the clerk up: that is what a watchdog of four seconds must see, and no timer would.
#[test]
fn a_clerk_that_hangs_is_not_told_alive() {
    use sqlx::{ConnectOptions, Connection};

    let mut served = Served::init();
    let ear = Ear::beside(&served.dir);
    served.before = ear.before(4);
    served.serve();
    ear.hear("WATCHDOG=1", Duration::from_secs(10)).unwrap();
    served.adopt();
    served.sign_in("bob");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(served.ledger());
    let mut holder = runtime.block_on(options.connect()).unwrap();
    runtime.block_on(sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut holder)).unwrap();
    // Each batch waits until SQLite gives up; there is always a next one.
    let over = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    served.cli("bob", "jit-broker person disable alice --reason 'left the company'");
                }
            });
        }
        // What was sent before the first act reached it counts for nothing; then it is silent for longer than it ever is while it is well.
        let said = (0..10).find_map(|_| ear.hear("WATCHDOG=1", Duration::from_secs(5)).err());
        over.store(true, Ordering::Relaxed);
        runtime.block_on(sqlx::raw_sql("ROLLBACK").execute(&mut holder)).unwrap();
        said
    });
    runtime.block_on(holder.close()).unwrap();
    assert!(said.is_some(), "it was told alive while its clerk hung");
    ear.hear("WATCHDOG=1", Duration::from_secs(30)).unwrap();
    served.kill();
}

#[test]
fn a_signer_is_alive_while_its_socket_answers() {
    let mut served = Served::init();
    let ear = Ear::beside(&served.dir);
    let socket = served.dir.join("signer.sock");
    let text = std::fs::read_to_string(served.config()).unwrap();
    let text = text.replace("signer = \"local\"", &format!("signer = \"unix:{}\"", socket.display()));
    std::fs::write(served.config(), text).unwrap();
    let before = ear.before(1);
    let mut signer = served.signer(&before.iter().map(String::as_str).collect::<Vec<_>>());
    let said = ear.hear("READY=1", Duration::from_secs(10)).unwrap();
    assert!(!said.contains(&"WATCHDOG=1".to_owned()));
    ear.hear("WATCHDOG=1", Duration::from_secs(2)).unwrap();
    // A wiped /run: the process is there, and nobody could reach it.
    std::fs::remove_file(&socket).unwrap();
    ear.hear("WATCHDOG=1", Duration::from_millis(400)).ok();
    let said = ear.hear("WATCHDOG=1", Duration::from_secs(2));
    assert!(said.is_err(), "{said:?}");
    signer.kill().unwrap();
    signer.wait().unwrap();
    served.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_self_check_finds_a_clerk_that_does_not_answer() {
    let world = World::start().await;
    let broker = world.broker().clone();
    broker.alive(Duration::from_secs(5)).await.unwrap();
    broker.ready().await.unwrap();
    // Whoever looks at the state keeps the clerk waiting.
    let look = broker.memory().await;
    let waiting = tokio::spawn({
        let broker = broker.clone();
        async move { broker.command(Said::Beat, Vec::new()).await }
    });
    let stuck = broker.alive(Duration::from_millis(300)).await.unwrap_err();
    assert_eq!((stuck.code, stuck.message.as_str()), (Code::LEDGER_DOWN, "The clerk does not answer."));
    drop(look);
    waiting.await.unwrap().unwrap();
    broker.alive(Duration::from_secs(5)).await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_tells_what_keeps_from_granting() {
    let world = World::start().await;
    let broker = world.broker().clone();
    broker.ready().await.unwrap();
    assert!(broker.reserve().spend());
    assert_eq!(broker.ready().await.unwrap_err().code, Code::DISK_FULL);
    broker.alive(Duration::from_secs(5)).await.expect("a full disk is no reason for a restart");
    broker.reserve().stand().unwrap();
    broker.ready().await.unwrap();
    world.clock.step_wall(-3600);
    assert_eq!(broker.ready().await.unwrap_err().code, Code::CLOCK);
    broker.alive(Duration::from_secs(5)).await.expect("nor is a clock");
    world.stop().await;
}
