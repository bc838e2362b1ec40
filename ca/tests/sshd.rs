//! A real sshd decides: which of our certificates it accepts, and which it refuses.
#![allow(clippy::unwrap_used)]

mod oracle;

use std::fs::{DirBuilder, File, Permissions};
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jit_ca::key::CaKey;
use jit_ca::krl::Krl;
use jit_ca::limits::Limits;
use jit_ca::spec::{CertWindow, CriticalOption, Serial, UserSpec};
use jit_ca::ssh::{sign_host, sign_user};
use oracle::{ca, host_spec, key, principals, program, stdout, told, user_spec, write_private};
use tempfile::TempDir;

const LIMITS: &Limits = &Limits::STANDARD;

/// An sshd of this test alone; ends with it.
struct Sshd {
    process: Child,
    port: u16,
    folder: TempDir,
    login: String,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn krl(serials: &[u64]) -> Vec<u8> {
    let list = Krl {
        version: 1,
        generated_at: now_s(),
        ca: ca(9).public().clone(),
        also: Vec::new(),
        retired: Vec::new(),
        serials: serials.iter().copied().collect(),
    };
    list.encode()
}

/// Under the target folder, so that a `/tmp` mounted without rights for sshd's children does not matter.
fn private_folder() -> TempDir {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tempfile::Builder::new().prefix("sshd").permissions(Permissions::from_mode(0o700)).tempdir_in(root).unwrap()
}

impl Sshd {
    fn start() -> Self {
        let login = stdout(Command::new("id").arg("-un")).trim().to_owned();
        if login == "root" {
            DirBuilder::new().recursive(true).mode(0o755).create("/run/sshd").unwrap();
        }
        let folder = private_folder();
        let path = |name: &str| folder.path().join(name);
        let host_cert = sign_host(&ca(7), &current_host_spec(), LIMITS).unwrap();
        write_private(&path("host"), &key(3));
        std::fs::write(path("host.pub"), key(3).public().to_string()).unwrap();
        std::fs::write(path("host-cert.pub"), host_cert.openssh()).unwrap();
        std::fs::write(path("user-ca.pub"), format!("{}\n", ca(9).public())).unwrap();
        std::fs::write(path("principals"), "db1/deploy\n").unwrap();
        std::fs::write(path("krl"), krl(&[13, 14, 15, 666])).unwrap();
        std::fs::write(path("known_hosts"), format!("@cert-authority db1.example {}\n", ca(7).public())).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(path("config"), config(folder.path(), port)).unwrap();
        let mut command = program("/usr/sbin/sshd", "openssh-server");
        command.args(["-D", "-e", "-f"]).arg(path("config")).stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.stderr(File::create(path("log")).unwrap()).spawn().unwrap();
        let sshd = Self { process, port, folder, login };
        sshd.await_banner();
        sshd
    }

    /// Knocks until the banner comes; each knock waits a little by itself.
    fn await_banner(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut banner = [0; 4];
                if stream.read_exact(&mut banner).is_ok() && &banner == b"SSH-" {
                    return;
                }
            }
            std::thread::yield_now();
        }
        panic!("sshd did not start: {}", self.log());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path("log")).unwrap()).into_owned()
    }

    /// Logs in with the key of a seed and a certificate line; gives what `command` printed, or ssh's complaint.
    fn login(&self, seed: u8, cert: &str, command: &str) -> Result<String, String> {
        let mut ssh = program("/usr/bin/ssh", "openssh-client");
        ssh.args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i"]).arg(self.identity(seed, cert));
        ssh.arg("-o").arg(format!("CertificateFile={}", self.path("user-cert.pub").display()));
        self.finish(&mut ssh, command)
    }

    /// Logs in through an agent, for certificates that ssh would not even offer when it reads them from a file.
    fn login_through_agent(&self, seed: u8, cert: &str, command: &str) -> Result<String, String> {
        let mut agent = program("/usr/bin/ssh-agent", "openssh-client");
        agent.args(["sh", "-c", "ssh-add -q \"$1\" && shift && exec ssh \"$@\"", "sh"]).arg(self.identity(seed, cert));
        self.finish(&mut agent, command)
    }

    fn identity(&self, seed: u8, cert: &str) -> PathBuf {
        write_private(&self.path("user"), &key(seed));
        std::fs::write(self.path("user.pub"), format!("{}\n", key(seed).public())).unwrap();
        std::fs::write(self.path("user-cert.pub"), format!("{cert}\n")).unwrap();
        self.path("user")
    }

    fn finish(&self, ssh: &mut Command, command: &str) -> Result<String, String> {
        ssh.args(["-F", "none", "-n", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]);
        ssh.args(["-o", "HostKeyAlias=db1.example", "-o", "StrictHostKeyChecking=yes"]);
        ssh.args(["-o", "GlobalKnownHostsFile=none", "-o", "PreferredAuthentications=publickey"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", self.path("known_hosts").display()));
        ssh.args(["-p", &self.port.to_string(), "-l", &self.login, "127.0.0.1", command]);
        let output = ssh.env_remove("SSH_AUTH_SOCK").output().unwrap();
        if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(told(&output)) }
    }
}

fn config(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        "ListenAddress 127.0.0.1:{port}\nPidFile none\nHostKey {folder}/host\nHostCertificate {folder}/host-cert.pub\n\
         TrustedUserCAKeys {folder}/user-ca.pub\nAuthorizedPrincipalsFile {folder}/principals\nRevokedKeys {folder}/krl\n\
         AuthorizedKeysFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
         UsePAM no\nStrictModes no\nMaxStartups 100\nLogLevel VERBOSE\n"
    )
}

fn current_host_spec() -> jit_ca::spec::HostSpec {
    let mut spec = host_spec(key(3).public());
    spec.window = CertWindow::new(now_s() - 60, now_s() + 3600).unwrap();
    spec
}

fn spec(serial: u64) -> UserSpec {
    let mut spec = user_spec(key(1).public());
    spec.serial = Serial::new(serial).unwrap();
    spec.principals = principals(&["db1/deploy"]);
    spec.window = CertWindow::new(now_s() - 60, now_s() + 600).unwrap();
    spec
}

fn signed(by: &CaKey, spec: &UserSpec) -> String {
    sign_user(by, spec, LIMITS).unwrap().openssh().to_owned()
}

#[test]
fn sshd_accepts_what_it_should_and_nothing_else() {
    let sshd = Sshd::start();
    let good = signed(&ca(9), &spec(12));
    assert_eq!(sshd.login(1, &good, "echo in").as_deref(), Ok("in\n"), "{}", sshd.log());
    let accepted = "Accepted certificate ID \"jit:gr_1:alice\" (serial 12) signed by ED25519";
    assert!(sshd.log().contains(accepted), "{}", sshd.log());

    let changed = |change: &dyn Fn(&mut UserSpec)| {
        let mut changed = spec(12);
        change(&mut changed);
        signed(&ca(9), &changed)
    };
    let now_s = now_s();
    let window = |from: u64, to: u64| CertWindow::new(from, to).unwrap();
    let mut host = current_host_spec();
    host.key = key(1).public().clone();
    host.principals = principals(&["db1/deploy"]);
    let refused: Vec<(&str, u8, String, &str)> = vec![
        (
            "wrong principal",
            1,
            changed(&|s| s.principals = principals(&["db2/deploy", &sshd.login])),
            "authorized principal",
        ),
        (
            "expired an hour ago",
            1,
            changed(&|s| s.window = window(now_s - 7200, now_s - 3600)),
            "Certificate invalid: expired",
        ),
        (
            "not yet valid",
            1,
            changed(&|s| s.window = window(now_s + 3600, now_s + 7200)),
            "Certificate invalid: not yet valid",
        ),
        ("another key", 2, good.clone(), ""),
        ("another CA", 1, signed(&ca(8), &spec(12)), ""),
        ("on the KRL", 1, signed(&ca(9), &spec(13)), "revoked"),
        ("on the KRL, in a stretch", 1, signed(&ca(9), &spec(15)), "revoked"),
        (
            "from elsewhere",
            1,
            changed(&|s| s.critical = vec![CriticalOption::SourceAddress(vec!["10.0.0.0/8".parse().unwrap()])]),
            "",
        ),
    ];
    for (name, seed, cert, reason) in refused {
        let before = sshd.log().len();
        let answer = sshd.login(seed, &cert, "echo in");
        assert!(answer.as_ref().is_err_and(|told| told.contains("Permission denied")), "{name}: {answer:?}");
        let log = sshd.log().split_off(before);
        // "Accepted certificate" is written before the key has proved itself; "Accepted publickey" is the login.
        assert!(log.contains(reason) && !log.contains("Accepted publickey"), "{name}: {log}");
    }
    let before = sshd.log().len();
    let host = sign_host(&ca(9), &host, LIMITS).unwrap();
    assert!(sshd.login_through_agent(1, host.openssh(), "echo in").is_err());
    let log = sshd.log().split_off(before);
    assert!(log.contains("not a user certificate") && !log.contains("Accepted publickey"), "host certificate: {log}");
    assert_eq!(sshd.login_through_agent(1, &good, "echo agent").as_deref(), Ok("agent\n"), "{}", sshd.log());
    assert_eq!(sshd.login(1, &good, "echo still").as_deref(), Ok("still\n"), "the refusals are not sshd's");
}

#[test]
fn options_are_enforced() {
    let sshd = Sshd::start();
    let mut bound = spec(20);
    bound.critical = vec![
        CriticalOption::ForceCommand("echo forced: $SSH_ORIGINAL_COMMAND".to_owned()),
        CriticalOption::SourceAddress(vec!["127.0.0.0/8".parse().unwrap()]),
    ];
    let cert = signed(&ca(9), &bound);
    assert_eq!(sshd.login(1, &cert, "id").as_deref(), Ok("forced: id\n"), "{}", sshd.log());
}

#[test]
fn a_krl_works_at_once_and_an_empty_one_refuses_nobody() {
    let sshd = Sshd::start();
    let cert = signed(&ca(9), &spec(30));
    let replace = |bytes: Vec<u8>| {
        std::fs::write(sshd.path("krl.new"), bytes).unwrap();
        std::fs::rename(sshd.path("krl.new"), sshd.path("krl")).unwrap();
    };
    replace(krl(&[]));
    assert_eq!(sshd.login(1, &cert, "echo in").as_deref(), Ok("in\n"), "{}", sshd.log());
    replace(krl(&[30]));
    assert!(sshd.login(1, &cert, "echo in").is_err());
    replace(krl(&(31..3000).step_by(3).collect::<Vec<_>>()));
    assert_eq!(sshd.login(1, &cert, "echo in").as_deref(), Ok("in\n"), "{}", sshd.log());
    assert!(sshd.login(1, &signed(&ca(9), &spec(34)), "echo in").is_err());
}

#[test]
fn the_host_certificate_is_checked_by_ssh() {
    let sshd = Sshd::start();
    let cert = signed(&ca(9), &spec(40));
    assert!(sshd.login(1, &cert, "echo in").is_ok(), "{}", sshd.log());
    std::fs::write(sshd.path("known_hosts"), format!("@cert-authority db1.example {}\n", ca(6).public())).unwrap();
    let answer = sshd.login(1, &cert, "echo in");
    assert!(answer.as_ref().is_err_and(|told| told.contains("Host key verification failed")), "{answer:?}");
}
