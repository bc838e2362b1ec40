//! Real ssh, scp, sftp, rsync and git against a real sshd, with a certificate that jit-ca made and a script in the broker's place.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use clap::Parser;
use jit_ca::key::{CaKey, PrivateKey};
use jit_ca::limits::Limits;
use jit_ca::spec::{CertWindow, HostSpec, KeyId, Principal, Principals, Serial, UserSpec};
use tempfile::TempDir;

use super::*;
use crate::cli::ssh_config::{Edit, edit, install, text};
use crate::cli::{context::Context, hook, host};
use crate::domain::act::KRL_NAMESPACE;
use crate::wire::{KrlDoc, TargetDoc};

const USER_CA: u8 = 1;
const HOST_CA: u8 = 2;
const HOST: u8 = 3;
const GRANT: GrantId = GrantId::new([1; 16]);

fn ca(seed: u8) -> CaKey {
    CaKey::new(PrivateKey::from_seed([seed; 32])).unwrap()
}

fn public(seed: u8) -> Key {
    Key(PrivateKey::from_seed([seed; 32]).public().clone())
}

fn now() -> i64 {
    crate::clock::wall_s()
}

fn names(list: &[&str]) -> Principals {
    Principals::new(list.iter().map(|p| Principal::new(*p).unwrap()).collect()).unwrap()
}

fn window(after: i64, before: i64) -> CertWindow {
    CertWindow::new(u64::try_from(after).unwrap(), u64::try_from(before).unwrap()).unwrap()
}

fn user_certificate(signer: u8, key: &Key, principals: &[&str], window: CertWindow) -> String {
    let spec = UserSpec {
        serial: Serial::new(7).unwrap(),
        key: key.0.clone(),
        key_id: KeyId::new(format!("jit:{GRANT}:alice")).unwrap(),
        principals: names(principals),
        window,
        critical: vec![],
        extensions: vec![],
        nonce: [9; 32],
    };
    jit_ca::ssh::sign_user(&ca(signer), &spec, &Limits::STANDARD).unwrap().openssh().to_owned()
}

fn host_certificate(key: &Key, name: &str) -> String {
    let spec = HostSpec {
        serial: Serial::new(8).unwrap(),
        key: key.0.clone(),
        key_id: KeyId::new("jit:host:web-07").unwrap(),
        principals: names(&[name]),
        window: window(now() - 60, now() + 3600),
        nonce: [8; 32],
    };
    jit_ca::ssh::sign_host(&ca(HOST_CA), &spec, &Limits::STANDARD).unwrap().openssh().to_owned()
}

fn target_doc(name: &str, port: u16, roles: &[(&str, &[&str], &str)]) -> TargetDoc {
    let roles: Vec<_> = roles
        .iter()
        .map(|(role, logins, verdict)| {
            serde_json::json!({"name": role, "logins": logins, "allow": [], "narrower_than": [], "verdict": verdict,
                "max_s": null, "who": [], "grant_id": null, "left_s": null})
        })
        .collect();
    let known = format!("@cert-authority {name} {}", public(HOST_CA));
    serde_json::from_value(serde_json::json!({"name": name, "kind": "ssh", "host": "127.0.0.1", "port": port,
        "mode": "direct", "labels": {}, "alias": name, "known_hosts": known, "roles": roles}))
    .unwrap()
}

/// A folder beside the test program.
fn private() -> TempDir {
    let program = std::env::current_exe().unwrap();
    let place = program.ancestors().nth(2).unwrap();
    let dir = tempfile::Builder::new().prefix("ssh").tempdir_in(place).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

fn home(dir: &Path) -> Home {
    Home { config: dir.join("my config"), state: dir.join("state"), run: dir.join("run") }
}

fn me() -> String {
    let out = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// A host with the broker's lines in its sshd_config, and a person's machine with ours.
struct World {
    sshd: Child,
    port: u16,
    dir: TempDir,
    login: String,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

impl World {
    fn new() -> Self {
        let dir = private();
        let (path, login) = (dir.path(), me());
        let host = PrivateKey::from_seed([HOST; 32]);
        let write = |name: &str, text: &str, mode: u32| {
            fs::write(path.join(name), text).unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::create_dir(path.join("principals")).unwrap();
        write("host_key", &host.to_openssh("host").unwrap(), 0o600);
        write("host_key-cert.pub", &format!("{}\n", host_certificate(&public(HOST), "web-07")), 0o644);
        write("user_ca.pub", &format!("{}\n", public(USER_CA)), 0o644);
        write(&format!("principals/{login}"), &format!("web-07/{login}\n"), 0o644);
        let list = Krl::new(1);
        fs::write(path.join("krl"), &list.0).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let d = path.display();
        // Without StrictModes, because the build folder may be anywhere, also below a world-writable one.
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {d}/host_key\nHostCertificate {d}/host_key-cert.pub\nPidFile none\n\
             TrustedUserCAKeys {d}/user_ca.pub\nAuthorizedPrincipalsFile {d}/principals/%u\nRevokedKeys {d}/krl\n\
             AuthorizedKeysFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n\
             StrictModes no\nSubsystem sftp internal-sftp\n"
        );
        write("sshd_config", &config, 0o600);
        let mut sshd = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(path.join("sshd_config"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("sshd: apt-get install openssh-server");
        let mut lines = BufReader::new(sshd.stderr.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains("Server listening on"));
        assert!(ready, "sshd did not start");
        std::thread::spawn(move || lines.for_each(drop));
        Self { sshd, port, dir, login }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Installs the configuration, with a script that notes how it was called and ends with `status`.
    fn install(&self, status: u8) {
        let hook = self.path("stand in");
        let log = self.path("calls");
        let script = format!("#!/bin/sh\necho \"$JIT_BROKER_HOME $*\" >> '{}'\nexit {status}\n", log.display());
        fs::write(&hook, script).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        let home = home(self.dir.path());
        let roles: &[(&str, &[&str], &str)] = &[("deploy", &[&self.login], "ask"), ("root", &["nobody"], "never")];
        let targets = [target_doc("web-07", self.port, roles), target_doc("web-08", self.port, roles)];
        let text = text(&home, &targets, &hook, &[("JIT_BROKER_HOME", self.dir.path().to_owned())]).unwrap();
        install(&home, &targets, &text, &self.path("user/config")).unwrap();
    }

    /// What the hook would have left.
    fn certify(&self, window: CertWindow) {
        let home = home(self.dir.path());
        let name = TargetName::new("web-07").unwrap();
        let key = client_key(&home, &name).unwrap();
        let line = user_certificate(USER_CA, &key, &[&format!("web-07/{}", self.login)], window);
        write_private(&certificate(&home, "web-07", &self.login), line.as_bytes()).unwrap();
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        let config = self.path("user/config").display().to_string();
        let shell = format!("ssh -F '{config}'");
        let mut command = Command::new("timeout");
        command.args(["30", program]);
        if matches!(program, "ssh" | "scp" | "sftp") {
            command.args(["-F", &config]);
        }
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env_remove("SSH_AUTH_SOCK").env("GIT_SSH_COMMAND", &shell).env("RSYNC_RSH", &shell);
        command.output().unwrap_or_else(|e| panic!("{program}: {e}; apt-get install openssh-client rsync git"))
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.path("calls")).unwrap_or_default()
    }
}

fn ok(out: &Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A revocation list with its signature.
struct Krl(Vec<u8>, jit_ca::krl::Krl, KrlDoc);

impl Krl {
    fn new(version: u64) -> Self {
        Self::by(version, USER_CA)
    }

    fn by(version: u64, seed: u8) -> Self {
        let key = PrivateKey::from_seed([seed; 32]);
        let list = jit_ca::krl::Krl {
            version,
            generated_at: 1,
            ca: key.public().clone(),
            also: Vec::new(),
            retired: Vec::new(),
            serials: [5, version + 10].into(),
        };
        let bytes = list.encode();
        let signature = jit_ca::sshsig::sign(&key, KRL_NAMESPACE, &bytes).unwrap();
        let doc = KrlDoc { version, krl: data_encoding::BASE64.encode(&bytes), signature, trust: None };
        Self(bytes, list, doc)
    }
}

#[test]
fn plain_ssh_scp_sftp_rsync_and_git_work() {
    let world = World::new();
    world.install(0);
    world.certify(window(now() - 60, now() + 600));
    assert_eq!(ok(&world.run("ssh", &["web-07", "id", "-un"])).trim(), world.login);
    let expected = format!("{} hook ssh -- web-07 {}\n", world.dir.path().display(), world.login);
    assert_eq!(world.calls(), expected, "the hook runs once, with what was typed and the remote user");

    fs::write(world.path("sent"), "text").unwrap();
    let remote = |name: &str| format!("web-07:{}", world.path(name).display());
    ok(&world.run("scp", &["-q", "sent", &remote("by-scp")]));
    ok(&world.run("scp", &["-O", "-q", "sent", &remote("by-old-scp")]));
    ok(&world.run("rsync", &["sent", &remote("by-rsync")]));
    fs::write(world.path("batch"), format!("put sent {}\n", world.path("by-sftp").display())).unwrap();
    ok(&world.run("sftp", &["-q", "-b", "batch", "web-07"]));
    for name in ["by-scp", "by-old-scp", "by-rsync", "by-sftp"] {
        assert_eq!(fs::read_to_string(world.path(name)).unwrap(), "text", "{name}");
    }
    ok(&world.run("git", &["init", "-q", "--bare", "there.git"]));
    ok(&world.run("git", &["ls-remote", &remote("there.git")]));
}

#[test]
fn a_hook_that_fails_ends_in_permission_denied() {
    let world = World::new();
    world.install(1);
    world.certify(window(now() - 60, now() + 600));
    let out = world.run("ssh", &["-oBatchMode=yes", "web-07", "true"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("Permission denied"), "{said}");
    assert!(!said.contains("resolve hostname"), "{said}");
}

#[test]
fn the_certificate_decides_and_not_the_key() {
    let world = World::new();
    world.install(0);
    let refused =
        |what: &str| assert!(!world.run("ssh", &["-oBatchMode=yes", "web-07", "true"]).status.success(), "{what}");
    world.certify(window(now() - 600, now() - 1));
    refused("expired");
    world.certify(window(now() - 60, now() + 600));
    ok(&world.run("ssh", &["web-07", "true"]));
    let other = Command::new("ssh-keygen").args(["-Q", "-l", "-f"]).arg(world.path("krl")).output().unwrap();
    ok(&other);
    // Serial 7 goes on the list.
    let mut list = Krl::new(2).1;
    list.serials.insert(7);
    host::install(&list.encode(), &list, &world.path("krl"), &world.path("krl.version")).unwrap();
    refused("revoked");
}

#[test]
fn the_host_must_show_its_own_certificate() {
    let world = World::new();
    world.install(0);
    world.certify(window(now() - 60, now() + 600));
    let out = world.run("ssh", &["-oBatchMode=yes", "web-08", "true"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("Host key verification failed"), "{said}");
}

#[test]
fn other_hosts_never_notice() {
    let world = World::new();
    let own = "Host *\n  User carol\n  ForwardAgent yes\n\nHost web-07\n  Compression yes\n";
    fs::create_dir(world.path("user")).unwrap();
    fs::write(world.path("user/config"), own).unwrap();
    let before = ok(&world.run("ssh", &["-G", "elsewhere.example"]));
    world.install(0);
    assert_eq!(ok(&world.run("ssh", &["-G", "elsewhere.example"])), before);
    assert_eq!(world.calls(), "");
    let ours = ok(&world.run("ssh", &["-G", "web-07"]));
    let key = world.path("run/ssh/%n/key").display().to_string();
    for line in [
        "hostname 127.0.0.1",
        "hostkeyalias web-07",
        "identitiesonly yes",
        "compression yes",
        "stricthostkeychecking true",
    ] {
        assert!(ours.lines().any(|l| l == line), "{line}\n{ours}");
    }
    assert!(ours.contains(&key) || ours.contains(&key.replace("%n", "web-07")), "{ours}");
    assert!(ours.lines().any(|l| l == format!("user {}", world.login)), "the person's own User comes later");
}

#[test]
fn metacharacters_never_reach_a_shell() {
    let world = World::new();
    world.install(0);
    let mark = world.path("mark");
    for word in [";", "$(", "`", "'", "\"", "\\", "|", "&", "\n"] {
        for host in [format!("a{word}touch {}@web-07", mark.display()), format!("web-07{word}touch {}", mark.display())]
        {
            world.run("ssh", &["-oBatchMode=yes", &host, "true"]);
            assert!(!mark.exists(), "{host:?}");
        }
        let names = Cli::try_parse_from(["hook", "ssh", "--", &format!("web{word}"), "deploy"]).unwrap();
        assert!(!names.hook.cached());
    }
    assert!(!world.calls().contains("touch"), "{}", world.calls());
}

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    hook: hook::HookArgs,
}

#[test]
fn a_certificate_is_used_again_while_it_holds() {
    let dir = private();
    let home = home(dir.path());
    let (name, login) = (TargetName::new("web-07").unwrap(), LoginName::new("deploy").unwrap());
    assert!(!hook::holds(&home, &name, &login, 0));
    let key = client_key(&home, &name).unwrap();
    assert_eq!(client_key(&home, &name).unwrap(), key, "the key stays");
    let put = |key: &Key| {
        let line = user_certificate(USER_CA, key, &["web-07/deploy"], window(1000, 2000));
        write_private(&certificate(&home, "web-07", "deploy"), format!("{line}\n").as_bytes()).unwrap();
    };
    put(&key);
    assert!(hook::holds(&home, &name, &login, 1995));
    assert!(!hook::holds(&home, &name, &login, 1996));
    assert!(!hook::holds(&home, &name, &LoginName::new("root").unwrap(), 1500));
    put(&public(9));
    assert!(!hook::holds(&home, &name, &login, 1500), "for another key");
    put(&key);
    forget(&home, &name, GrantId::new([2; 16]));
    assert!(hook::holds(&home, &name, &login, 1500), "another grant's");
    forget(&home, &name, GRANT);
    assert!(!hook::holds(&home, &name, &login, 1500));
    assert_eq!(client_key(&home, &name).unwrap(), key);
    for file in ["key", "key.pub"] {
        let mode = fs::metadata(folder(&home, "web-07").join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let mut people = fs::metadata(folder(&home, "web-07")).unwrap().permissions();
    people.set_mode(0o750);
    fs::set_permissions(folder(&home, "web-07"), people).unwrap();
    assert_eq!(client_key(&home, &name).unwrap_err().0.code, Code::UNSAFE_FILE);
}

#[test]
fn parallel_first_uses_make_one_key() {
    let dir = private();
    let home = home(dir.path());
    let name = TargetName::new("web-07").unwrap();
    let keys: Vec<Key> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| client_key(&home, &name).unwrap())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn installing_and_removing_leave_every_other_byte() {
    let dir = private();
    let (user, ours) = (dir.path().join("ssh/config"), dir.path().join("my config/ssh_config"));
    let line = format!("Include \"{}\"\n", ours.display());
    edit(&user, &ours, Edit::Install).unwrap();
    let modes = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (fs::read_to_string(&user).unwrap(), modes(&user), modes(user.parent().unwrap())),
        (line.clone(), 0o600, 0o700)
    );
    edit(&user, &ours, Edit::Remove).unwrap();
    assert!(!user.exists(), "it was made here");
    edit(&user, &ours, Edit::Remove).unwrap();

    for old in [&b"Host *\r\n\tUser x\r\n\n\n# no line end"[..], b"\xff\xfe not text\n", b"\n"] {
        fs::write(&user, old).unwrap();
        fs::set_permissions(&user, fs::Permissions::from_mode(0o640)).unwrap();
        let with = [line.as_bytes(), old].concat();
        for _ in 0..2 {
            edit(&user, &ours, Edit::Install).unwrap();
            assert_eq!((fs::read(&user).unwrap(), modes(&user)), (with.clone(), 0o640));
        }
        for _ in 0..2 {
            edit(&user, &ours, Edit::Remove).unwrap();
            assert_eq!((fs::read(&user).unwrap(), modes(&user)), (old.to_vec(), 0o640));
        }
    }
    let dotfiles = dir.path().join("dotfiles");
    fs::rename(&user, &dotfiles).unwrap();
    symlink(&dotfiles, &user).unwrap();
    edit(&user, &ours, Edit::Install).unwrap();
    assert!(fs::symlink_metadata(&user).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&dotfiles).unwrap(), format!("{line}\n"));
    fs::remove_file(&dotfiles).unwrap();
    assert!(edit(&user, &ours, Edit::Install).is_err(), "a link to nowhere is not replaced");
    fs::remove_file(&user).unwrap();
    fs::create_dir(&user).unwrap();
    assert!(edit(&user, &ours, Edit::Install).is_err(), "what cannot be read is not replaced");
}

#[test]
fn a_server_cannot_write_more_than_an_address_into_the_configuration() {
    let home = home(Path::new("/h"));
    let program = Path::new("/usr/bin/jit-broker");
    let good = target_doc("web-07", 22, &[("deploy", &["deploy", "app"], "ask")]);
    let whole = text(&home, std::slice::from_ref(&good), program, &[]).unwrap();
    assert!(whole.contains("exec \"'/usr/bin/jit-broker' hook ssh -- '%n' '%r'\""), "{whole}");
    assert!(!whole.contains("User "), "two logins are possible");
    let hosts = ["", "-oProxyCommand=id", "a\n  ProxyCommand id", "a;id", "`id`", "%h", "$(id)", "a b", "\"", "ü"];
    for host in hosts {
        let doc = TargetDoc { host: host.to_owned(), ..good.clone() };
        assert!(text(&home, &[doc], program, &[]).is_err(), "{host:?}");
    }
    for host in ["10.0.0.7", "fe80::1", "web-07.corp", "web_07"] {
        let doc = TargetDoc { host: host.to_owned(), ..good.clone() };
        assert!(text(&home, &[doc], program, &[]).is_ok(), "{host:?}");
    }
    for known in
        ["", "* ssh-ed25519 AAAA", "web-07 x\n* ssh-ed25519 AAAA", "@cert-authority * ssh-ed25519 AAAA", "web-08 k"]
    {
        let doc = TargetDoc { known_hosts: known.to_owned(), ..good.clone() };
        assert!(text(&home, &[doc], program, &[]).is_err(), "{known:?}");
    }
    for path in ["/a'b", "/a\"b", "/a\\b", "/a%b", "/a$b", "/a`b", "/a*b", "/a\nb"] {
        assert!(text(&home, std::slice::from_ref(&good), Path::new(path), &[]).is_err(), "{path:?}");
        assert!(
            text(&home, std::slice::from_ref(&good), program, &[("JIT_BROKER_HOME", path.into())]).is_err(),
            "{path:?}"
        );
    }
}

fn grant() -> GrantDoc {
    let id = crate::domain::ids::GrantId::of_digest(&crate::domain::digest::Digest::of(b"1"));
    let request = crate::domain::ids::RequestId::of_digest(&crate::domain::digest::Digest::of(b"1"));
    serde_json::from_value(serde_json::json!({"schema": "jit-broker/grant/v1", "id": id, "request_id": request,
        "state": "active", "target": "web-07", "role": "deploy", "logins": ["deploy", "app"], "person": "alice",
        "keys": [public(9)], "starts_at": "1970-01-01T00:20:00Z", "ends_at": "1970-01-01T00:30:00Z", "left_s": 1,
        "claim_by": "1970-01-01T00:30:00Z", "cause": null, "proofs": [], "waits_for": [], "latest_end": null, "sessions": 0}))
    .unwrap()
}

#[test]
fn a_certificate_that_was_not_granted_is_not_kept() {
    let judge = |line: &str| wrong(&jit_ca::ssh::read(line).unwrap(), &grant(), &public(9), &[public(USER_CA)]);
    let good = || window(1140, 1800);
    assert_eq!(judge(&user_certificate(USER_CA, &public(9), &["web-07/deploy", "web-07/app"], good())), None);
    assert_eq!(judge(&user_certificate(USER_CA, &public(9), &["web-07/app"], window(1500, 1600))), None);
    let table = [
        user_certificate(HOST_CA, &public(9), &["web-07/deploy"], good()),
        user_certificate(USER_CA, &public(8), &["web-07/deploy"], good()),
        user_certificate(USER_CA, &public(9), &["web-07/deploy", "web-07/root"], good()),
        user_certificate(USER_CA, &public(9), &["deploy"], good()),
        user_certificate(USER_CA, &public(9), &["web-08/deploy"], good()),
        user_certificate(USER_CA, &public(9), &["web-07/deploy"], window(1140, 1801)),
        user_certificate(USER_CA, &public(9), &["web-07/deploy"], window(1139, 1800)),
        host_certificate(&public(9), "web-07"),
    ];
    for (at, line) in table.iter().enumerate() {
        assert!(judge(line).is_some(), "row {at}");
    }
}

#[test]
fn the_remote_user_picks_the_role() {
    let pick = |roles: &[(&str, &[&str], &str)], login: &str| {
        let doc = target_doc("web-07", 22, roles);
        hook::role_of(&doc, &LoginName::new(login).unwrap()).map(|r| r.name.to_string()).map_err(|f| f.0)
    };
    let roles: &[(&str, &[&str], &str)] =
        &[("deploy", &["app"], "ask"), ("admin", &["root", "app"], "ask"), ("owner", &["db"], "never")];
    assert_eq!(pick(roles, "root").unwrap(), "admin");
    let both = pick(roles, "app").unwrap_err();
    assert_eq!((both.code, both.hint.unwrap().as_str()), (Code::USAGE, "jit-broker login web-07 --role deploy"));
    assert_eq!(pick(roles, "db").unwrap_err().code, Code::NO_RULE);
    assert_eq!(pick(&[("a", &["x"], "ask"), ("b", &["x"], "automatic")], "x").unwrap(), "b");
    let mut doc = target_doc("web-07", 22, &[("a", &["x"], "automatic"), ("b", &["x"], "active")]);
    doc.roles[1].grant_id = Some(grant().id);
    assert_eq!(hook::role_of(&doc, &LoginName::new("x").unwrap()).unwrap().name.as_str(), "b");
}

#[test]
fn nobody_is_asked_where_ssh_must_not_ask() {
    let words = |line: &str| line.split('|').map(str::to_owned).collect::<Vec<_>>();
    for line in [
        "ssh|-G|web-07",
        "/usr/bin/ssh|-vG|web-07",
        "ssh|web-07|-G",
        "ssh|-oBatchMode=yes|web-07",
        "ssh|-o|BatchMode yes|web-07",
        "ssh|-vo|batchmode=YES|web-07",
        "ssh|-p|22|-oBatchMode true|x|ls",
    ] {
        assert!(hook::asks_nobody(&words(line)), "{line}");
    }
    for line in [
        "",
        "sh|-c|ssh -G",
        "ssh|web-07",
        "ssh|web-07|grep|-G|x",
        "ssh|-p|-G|web-07",
        "ssh|-l|G|web-07",
        "ssh|-o|BatchMode=no|web-07",
        "ssh|web-07|--|-G",
        "ssh|-oUser=BatchMode=yes|x",
    ] {
        assert!(!hook::asks_nobody(&words(line)), "{line}");
    }
}

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    ssh: SshArgs,
}

#[test]
fn the_ssh_verb_takes_what_ssh_takes() {
    let call = |words: &[&str]| Line::try_parse_from([&["ssh"], words].concat()).unwrap().ssh.call();
    let args = |call: &Call| call.args.iter().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join("|");
    let plain = call(&["web-07", "-o", "BatchMode=yes", "-L", "1:x:2", "uptime", "--pretty"]).unwrap();
    assert_eq!((args(&plain).as_str(), plain.login.is_none()), ("-o|BatchMode=yes|-L|1:x:2|uptime|--pretty", true));
    let ours = call(&["--for", "1h", "app@web-07", "--role", "deploy", "--reason=a b", "id", "--role", "x"]).unwrap();
    assert_eq!(ours.login.as_ref().map(LoginName::as_str), Some("app"));
    assert_eq!(ours.wish.role.as_ref().map(RoleName::as_str), Some("deploy"));
    assert_eq!((ours.wish.for_.as_deref(), ours.wish.reason.as_deref()), (Some("1h"), Some("a b")));
    assert_eq!(args(&ours), "id|--role|x");
    assert_eq!(args(&call(&["web-07", "--", "ls", "-la"]).unwrap()), "ls|-la");
    for bad in ["-oProxyCommand=id", "a;id", "$(id)@web-07", "-l@web-07", "@web-07", "web\n07", ""] {
        assert_eq!(call(&[bad]).unwrap_err().0.code, Code::USAGE, "{bad:?}");
    }
}

#[test]
fn the_ssh_verb_connects_without_any_installed_configuration() {
    let world = World::new();
    world.certify(window(now() - 60, now() + 600));
    let home = home(world.dir.path());
    let doc = target_doc("web-07", world.port, &[]);
    let login = LoginName::new(&world.login).unwrap();
    let mut ssh = command(&home, &doc, &login, &["-F".into(), "none".into(), "exit 7".into()]).unwrap();
    let out = ssh.env_remove("SSH_AUTH_SOCK").stdin(Stdio::null()).output().unwrap();
    assert_eq!(out.status.code(), Some(7), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn an_older_revocation_list_is_not_taken() {
    let dir = private();
    let (krl, state) = (dir.path().join("krl"), dir.path().join("krl.version"));
    let put = |version| {
        let list = Krl::new(version);
        host::install(&list.0, &list.1, &krl, &state).map_err(|f| f.0.code)
    };
    put(5).unwrap();
    let five = fs::read(&krl).unwrap();
    assert_eq!(fs::metadata(&krl).unwrap().permissions().mode() & 0o777, 0o644, "sshd's unprivileged part reads it");
    assert_eq!(put(4), Err(Code::ROLLED_BACK));
    assert_eq!(fs::read(&krl).unwrap(), five);
    put(5).unwrap();
    fs::write(&krl, "").unwrap();
    assert_eq!(put(4), Err(Code::ROLLED_BACK), "an emptied file is no excuse");
    put(5).unwrap();
    assert_eq!(fs::read(&krl).unwrap(), five, "an emptied file is mended");
    fs::remove_file(&state).unwrap();
    assert_eq!(put(4), Err(Code::ROLLED_BACK), "the list itself says its version");
    put(6).unwrap();
    assert_eq!(fs::read_to_string(&state).unwrap(), "6\n");
}

#[test]
fn a_list_of_somebody_else_is_not_taken() {
    let trusted = [public(9), public(USER_CA)];
    let code = |doc: &KrlDoc| host::verified(doc, &trusted).err().map(|f| f.0.code);
    let good = Krl::new(5).2;
    assert_eq!(code(&good), None);
    assert_eq!(code(&Krl::by(5, HOST_CA).2), Some(Code::BAD_SIGNATURE));
    assert_eq!(code(&KrlDoc { version: 6, ..good.clone() }), Some(Code::BAD_SIGNATURE));
    assert_eq!(code(&KrlDoc { krl: String::new(), ..good.clone() }), Some(Code::BAD_SIGNATURE));
    assert_eq!(code(&KrlDoc { krl: Krl::new(6).2.krl, ..good.clone() }), Some(Code::BAD_SIGNATURE));
    // A key that is trusted, but is not the list's own authority.
    let signature = jit_ca::sshsig::sign(&PrivateKey::from_seed([9; 32]), KRL_NAMESPACE, &Krl::new(5).0).unwrap();
    assert_eq!(code(&KrlDoc { signature, ..good.clone() }), Some(Code::BAD_SIGNATURE));
    let signature =
        jit_ca::sshsig::sign(&PrivateKey::from_seed([USER_CA; 32]), "act@jit-broker", &Krl::new(5).0).unwrap();
    assert_eq!(code(&KrlDoc { signature, ..good }), Some(Code::BAD_SIGNATURE));
}

#[test]
fn the_steps_for_a_host_are_a_script_and_nothing_of_the_server_s_gets_out_of_its_here_document() {
    let install = crate::domain::ids::InstallId::of_digest(&crate::domain::digest::Digest::of(b"1"));
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let context: Context = serde_json::from_value(serde_json::json!({"server": "https://broker.corp:7443", "person": "root-admin",
        "key": null, "about": {"version": "1", "install": install, "origin": "o", "log_key": public(4), "ssh_user": public(USER_CA),
        "ssh_host": public(HOST_CA), "server_ca_pem": pem, "public_url": "https://broker.corp:7443"}}))
    .unwrap();
    let doc = target_doc("web-07", 22, &[("deploy", &["deploy", "app"], "ask"), ("admin", &["app"], "never")]);
    let key = public(HOST);
    let krl = Krl::new(5).2;
    let script = host::steps(&context, &doc, &key, &host_certificate(&key, "web-07"), &krl).unwrap();
    for line in ["echo 'web-07/app' > $dir/principals/app", "echo 'web-07/deploy' > $dir/principals/deploy", "set -eu"]
    {
        assert_eq!(script.lines().filter(|l| *l == line).count(), 1, "{line}");
    }
    let at = |what: &str| script.find(what).unwrap_or_else(|| panic!("{what}"));
    assert!(
        at("mv $dir/krl.new $dir/krl") < at("\nRevokedKeys /etc/ssh/jit-broker/krl"),
        "the list before its directive"
    );
    let dir = private();
    fs::write(dir.path().join("steps"), &script).unwrap();
    ok(&Command::new("sh").args(["-n", "steps"]).current_dir(dir.path()).output().unwrap());

    let evil = "_END_\ntouch /tmp/x\n";
    let mut other = context.clone();
    other.about.server_ca_pem.push_str(evil);
    let certificate = host_certificate(&key, "web-07");
    assert!(host::steps(&other, &doc, &key, &certificate, &krl).is_err());
    for wrong in
        [format!("{certificate}\n{evil}"), host_certificate(&key, "web-08"), host_certificate(&public(9), "web-07")]
    {
        assert!(host::steps(&context, &doc, &key, &wrong, &krl).is_err());
    }
    assert!(host::steps(&context, &doc, &key, &certificate, &KrlDoc { krl: evil.to_owned(), ..krl.clone() }).is_err());
    let other = context;
    for evil in ["\n_END_", ";id", "$(id)", "'x"] {
        let mut other = other.clone();
        other.server.push_str(evil);
        assert!(host::steps(&other, &doc, &key, &certificate, &krl).is_err(), "{evil}");
    }
}
