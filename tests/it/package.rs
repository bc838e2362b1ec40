//! The Debian package, for real: installed by dpkg over copies of this machine's own folders, started as its two users by the lines of
//! its own units, and removed again.

use std::path::PathBuf;
use std::process::Command;

use crate::served::PROGRAM;

fn build(out: &std::path::Path) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/debian/build.sh");
    let done = Command::new("sh").args([script, PROGRAM]).arg(out).env("COMPRESS", "gzip").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    PathBuf::from(String::from_utf8(done.stdout).unwrap().trim())
}

/// Runs in a mount namespace of its own: what it writes is gone with it.
const INSTALL: &str = r#"
set -eu
package=$1 work=$2 key=$3
mount --make-rprivate /
mount -t tmpfs -o mode=755 none "$work"
for folder in etc usr var; do
  mkdir "$work/$folder" "$work/$folder.work"
  mount -t overlay -o "lowerdir=/$folder,upperdir=$work/$folder,workdir=$work/$folder.work" overlay "/$folder"
done
mount -t tmpfs -o mode=755 none /run
say() { echo "-- $*"; }

dpkg -i "$package" >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; exit 1; }
grep -q 'init --services' "$work/dpkg"
say installed "$(jit-broker --version)"
jit-broker init --services --admin root-admin --key "$key" --listen 127.0.0.1:7443 >"$work/init" 2>&1 || { cat "$work/init"; exit 1; }
grep -q 'systemctl enable --now jit-broker-signer jit-broker' "$work/init"
jit-broker check --config /etc/jit-broker/jit-broker.toml 2>&1
# A second time nothing is overwritten.
code=0; jit-broker init --services --admin mallory --key "$key" >"$work/again" 2>&1 || code=$?
[ "$code" = 78 ] && grep -q JB8003 "$work/again"

# The two services, as their units say it: user, command line, and the word that they are ready.
of() { sed -n "s/^$2=//p" "/usr/lib/systemd/system/$1.service"; }
start() {
  user=$(of "$1" User)
  # What must exist before it starts, and is made by the unit itself where /run was wiped.
  before=$(of "$1" ExecStartPre | sed 's/^+//'); [ -z "$before" ] || $before
  python3 - "$work/$1.sock" "$work/$1.said" <<'LISTEN' &
import os, socket, sys, time
ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
ear.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o666); ear.settimeout(60)
while True:
    said = ear.recv(4096).decode()
    open(sys.argv[2], "a").write(said + "\n")
    if "STOPPING=1" in said: break
LISTEN
  ears="${ears:-} $!"
  while ! [ -S "$work/$1.sock" ]; do sleep 0.05; done
  NOTIFY_SOCKET="$work/$1.sock" setpriv --reuid "$user" --regid "$user" --init-groups --no-new-privs --bounding-set=-all -- \
    $(of "$1" ExecStart) >"$work/$1.log" 2>&1 &
  eval "pid=$!"
  tries=0
  until grep -q READY=1 "$work/$1.said" 2>/dev/null; do
    kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 600 ] || { cat "$work/$1.log"; exit 1; }
    tries=$((tries + 1)); sleep 0.05
  done
  say "$1" ready as "$(stat -c %U "/proc/$pid")"
}
rm -rf /run/jit-broker
start jit-broker-signer; signer=$pid
start jit-broker; daemon=$pid
stat -c '%n %U:%G %a' /run/jit-broker /run/jit-broker/signer.sock /var/lib/jit-broker /var/lib/jit-broker-signer /etc/jit-broker/jit-broker.toml \
  /var/lib/jit-broker-signer/ssh_user /var/lib/jit-broker/ledger.db
for file in /var/lib/jit-broker-signer/ssh_user; do
  setpriv --reuid jit-broker --regid jit-broker --clear-groups -- cat "$file" >/dev/null 2>&1 && { say "the daemon reads $file"; exit 1; }
done
python3 -c 'import ssl, urllib.request
page = urllib.request.urlopen("https://127.0.0.1:7443/readyz", context=ssl._create_unverified_context())
print("-- readyz", page.status)'
kill "$daemon"; wait "$daemon"
kill "$signer"; wait "$signer" || true
for ear in $ears; do kill "$ear" 2>/dev/null || true; done

dpkg -r jit-broker >"$work/remove" 2>&1 || { cat "$work/remove"; exit 1; }
! [ -e /usr/bin/jit-broker ] && ! [ -e /usr/lib/systemd/system/jit-broker.service ]
dpkg -P jit-broker >"$work/purge" 2>&1 || { cat "$work/purge"; exit 1; }
! [ -e /run/jit-broker ]
# The log and the keys are evidence.
[ -s /var/lib/jit-broker/ledger.db ] && [ -s /var/lib/jit-broker-signer/ssh_user ]
say removed
"#;

#[test]
fn the_package_is_installed_started_and_removed() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let package = build(folder.path());
    let listed = Command::new("dpkg-deb").arg("--contents").arg(&package).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for path in [
        "-rwxr-xr-x root/root ./usr/bin/jit-broker",
        "-rw-r--r-- root/root ./usr/lib/systemd/system/jit-broker.service",
        "-rw-r--r-- root/root ./usr/lib/systemd/system/jit-broker-signer.service",
        "-rw-r--r-- root/root ./usr/lib/sysusers.d/jit-broker.conf",
        "-rw-r--r-- root/root ./usr/lib/tmpfiles.d/jit-broker.conf",
        "-rw-r--r-- root/root ./usr/share/doc/jit-broker/examples/jit-broker.toml",
    ] {
        let (mode, name) = path.split_once(" ./").unwrap();
        let found = listed.lines().find(|line| line.ends_with(&format!("./{name}")));
        assert!(found.is_some_and(|line| line.starts_with(mode)), "{path} in {listed}");
    }
    assert!(!listed.contains("./etc/") && !listed.contains("./var/"), "state is made by init: {listed}");
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: the package was built and looked at, and not installed");
        return;
    }
    let key = folder.path().join("root-admin/id_ed25519.pub");
    jit_broker::daemon::dev::Somebody::make(folder.path(), "root-admin").unwrap();
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let mut command = Command::new("unshare");
    let done =
        command.args(["-m", "bash", "-c", INSTALL, "install"]).arg(&package).arg(&work).arg(&key).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}");
    for line in [
        "-- jit-broker-signer ready as jit-broker-signer",
        "-- jit-broker ready as jit-broker",
        "/run/jit-broker jit-broker-signer:jit-broker 2750",
        "/run/jit-broker/signer.sock jit-broker-signer:jit-broker 660",
        "/var/lib/jit-broker jit-broker:jit-broker 700",
        "/var/lib/jit-broker-signer jit-broker-signer:jit-broker-signer 700",
        "/var/lib/jit-broker-signer/ssh_user jit-broker-signer:jit-broker-signer 600",
        "/var/lib/jit-broker/ledger.db jit-broker:jit-broker 600",
        "/etc/jit-broker/jit-broker.toml root:root 644",
        "-- readyz 200",
        "-- removed",
    ] {
        assert!(said.lines().any(|found| found == line), "{line} in {said}");
    }
}
