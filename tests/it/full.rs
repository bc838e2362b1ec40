//! A full disk and a read-only one, for real: a small file system of the broker's own.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use jit_broker::domain::refusal::Code;
use jit_broker::ledger::reserve::RESERVE_BYTES;

use crate::served::{Failed, Served, eventually, serial};

/// A mount namespace with a small file system in it; both end with the process that holds them.
struct Disk {
    holder: Child,
    enter: Vec<String>,
}

impl Disk {
    fn mount(at: &std::path::Path, bytes: u64) -> Self {
        let root = rustix::process::geteuid().is_root();
        let script = "mount -t tmpfs -o size=$1,mode=755 none \"$2\" && echo ready && cat";
        let mut command = Command::new("unshare");
        command.args(if root { &["-m"][..] } else { &["-r", "-m"] }).args(["sh", "-c", script, "sh"]);
        command.arg(bytes.to_string()).arg(at).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "this test needs a mount namespace of its own: unshare -m as root, or unshare -rm");
        let pid = holder.id().to_string();
        let user = if root { &[][..] } else { &["-U", "--preserve-credentials"] };
        let words = ["nsenter", "-t", &pid, "-m"].into_iter().chain(user.iter().copied()).map(str::to_owned);
        let enter = words.collect();
        Self { holder, enter }
    }

    /// A command on that disk.
    fn run(&self, line: &str) -> bool {
        let mut command = Command::new(&self.enter[0]);
        command.args(&self.enter[1..]).args(["sh", "-c", line]).stderr(Stdio::null()).status().unwrap().success()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// A broker on a disk of which, beside the reserve, `room` bytes are free at first.
fn small(room: u64) -> (Disk, Served, tempfile::TempDir) {
    let folder = tempfile::Builder::new().prefix("full").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = std::fs::canonicalize(folder.path()).unwrap();
    std::fs::create_dir(dir.join("disk")).unwrap();
    let disk = Disk::mount(&dir.join("disk"), RESERVE_BYTES + room);
    let mut served = Served::init_in(dir, disk.enter.clone());
    served.serve();
    served.adopt();
    (disk, served, folder)
}

#[test]
fn on_a_full_disk_nothing_is_granted_and_every_end_is_recorded() {
    let (disk, mut served, _folder) = small(8 << 20);
    let at = |name: &str| served.dir.join("disk").join(name).display().to_string();
    let (filler, reserve) = (at("filler"), format!("{}.reserve", served.ledger().display()));
    assert!(
        disk.run(&format!("test $(stat -c %s {reserve}) = {RESERVE_BYTES}")),
        "the reserve is there from the start"
    );
    let (alice, bob) = (served.client(&served.alice).unwrap(), served.client(&served.bob).unwrap());
    let mut held = Vec::new();
    for for_s in 0..4 {
        let grant = alice.ask(3600 + 2 * for_s).unwrap();
        held.push((grant, serial(&alice.certificate(grant).unwrap())));
    }
    assert!(!disk.run(&format!("cat /dev/zero > {filler}")), "the disk is full");

    // What still fits is granted and kept; then nothing is, with a clear code.
    let mut granted = Vec::new();
    let refused = (0..2000).find_map(|n| match alice.ask(4000 + n) {
        Ok(grant) => {
            granted.push(grant);
            None
        }
        Err(Failed::Refused(code)) => Some(code),
        Err(Failed::Cut) => panic!("no answer"),
    });
    assert_eq!(refused, Some(Code::DISK_FULL));
    served.sign_in("alice");
    let done = served.cli("alice", "jit-broker request web-07 --role ops --for 7h --no-wait");
    assert_eq!((done.code, done.err.contains("JB6005")), (Some(1), true), "{}{}", done.out, done.err);

    // Ends are recorded, and hosts hear of them; the room for that was kept.
    let (first, its_serial) = held[0];
    bob.revoke(first).unwrap();
    eventually("the list is published", || bob.list().serials.contains(&its_serial));
    assert_eq!(alice.ask(25_000).unwrap_err().code(), Code::DISK_FULL, "the reserve is for ends alone");
    assert!(alice.call("GET", "/v1/grants", None).is_ok(), "reading works");

    // A crash on the full disk: it comes back, knows everything, and goes on ending.
    drop((alice, bob));
    served.kill();
    served.serve();
    let (alice, bob) = (served.client(&served.alice).unwrap(), served.client(&served.bob).unwrap());
    assert_eq!(alice.call("GET", &format!("/v1/grants/{first}"), None).unwrap()["state"], "ending");
    let (second, its_serial) = held[1];
    bob.revoke(second).unwrap();
    eventually("the list is published", || bob.list().serials.contains(&its_serial));

    // Room is made: it goes on by itself.
    assert!(disk.run(&format!("rm {filler}")));
    let grant = alice.ask(26_000).unwrap();
    alice.certificate(grant).unwrap();
    assert!(disk.run(&format!("test $(stat -c %s {reserve}) = {RESERVE_BYTES}")), "the reserve stands again");
    for grant in granted {
        assert!(alice.call("GET", &format!("/v1/grants/{grant}"), None).is_ok(), "{grant} was promised");
    }
    served.sign_in("bob");
    assert_eq!(served.cli("bob", "jit-broker audit verify").code, Some(0));
}

/// The log lies in clear on the broker's own disk alone: where the backup goes there need be no room for it, and it never is there.
#[test]
fn a_backup_needs_no_room_for_the_log_in_clear_where_it_goes() {
    let folder = tempfile::Builder::new().prefix("full").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = std::fs::canonicalize(folder.path()).unwrap();
    std::fs::create_dir(dir.join("away")).unwrap();
    let mut served = Served::init_in(dir.clone(), Vec::new());
    served.serve();
    served.adopt();
    served.stop();
    std::fs::write(dir.join("passphrase"), "correct horse battery").unwrap();
    assert!(Command::new("chmod").arg("600").arg(dir.join("passphrase")).status().unwrap().success());
    let (config, secret) = (served.config().display().to_string(), dir.join("passphrase").display().to_string());
    let backup = |served: &Served, to: &str| {
        let args = ["backup", "--to", to, "--config", &config, "--passphrase-file", &secret];
        let made = served.operator(&args).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    // Both are about as large as the log: there is room for one of them.
    let first = dir.join("first.backup");
    backup(&served, &first.display().to_string());
    let disk = Disk::mount(&dir.join("away"), std::fs::metadata(&first).unwrap().len() * 3 / 2);
    served.before.clone_from(&disk.enter);
    backup(&served, &dir.join("away/broker.backup").display().to_string());
}

#[test]
fn a_read_only_ledger_is_a_clear_refusal_and_nothing_is_changed() {
    let (disk, mut served, _folder) = small(8 << 20);
    served.stop();
    let mount = served.dir.join("disk").display().to_string();
    let sum = format!("cd {mount}/broker/state && sha256sum ledger.db ca/head.json krl");
    let before = Command::new(&disk.enter[0]).args(&disk.enter[1..]).args(["sh", "-c", &sum]).output().unwrap();
    assert!(disk.run(&format!("mount -o remount,ro {mount}")));
    let (mut child, ready) = served.try_serve();
    let said = ready.unwrap_err();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("JB6001") && said.to_lowercase().contains("read-only"), "{said}");
    let after = Command::new(&disk.enter[0]).args(&disk.enter[1..]).args(["sh", "-c", &sum]).output().unwrap();
    assert_eq!(before.stdout, after.stdout);
    assert!(disk.run(&format!("mount -o remount,rw {mount}")));
    served.serve();
    let grant = served.client(&served.alice).unwrap().ask(600).unwrap();
    served.client(&served.alice).unwrap().certificate(grant).unwrap();
}

/// `init` on a disk without room: a clear refusal.
#[test]
fn init_on_a_full_disk_says_so() {
    let folder = tempfile::Builder::new().prefix("full").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir: PathBuf = std::fs::canonicalize(folder.path()).unwrap();
    std::fs::create_dir(dir.join("disk")).unwrap();
    let disk = Disk::mount(&dir.join("disk"), 256 << 10);
    let mut key = std::fs::File::create(dir.join("key.pub")).unwrap();
    let public = jit_ca::key::PrivateKey::from_seed([7; 32]).public().clone();
    writeln!(key, "{public} root-admin").unwrap();
    let line = format!(
        "cat /dev/zero > {0}/disk/filler; exec {1} init --dir {0}/disk/broker --admin root-admin --key {0}/key.pub",
        dir.display(),
        crate::served::PROGRAM
    );
    let output = Command::new(&disk.enter[0]).args(&disk.enter[1..]).args(["sh", "-c", &line]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.contains("JB6005")), (Some(1), true), "{said}");
}
