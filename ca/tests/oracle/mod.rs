//! Real programs as judges, and the fixtures that all suites share.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use jit_ca::key::{CaKey, PrivateKey, PublicKey};
use jit_ca::spec::{CertWindow, Extension, HostSpec, KeyId, Principal, Principals, Serial, UserSpec};

/// Finds a program, or fails the test with the package to install.
pub(crate) fn program(path: &str, package: &str) -> Command {
    assert!(Path::new(path).exists(), "{path} is missing: apt-get install {package}");
    Command::new(path)
}

pub(crate) fn ssh_keygen() -> Command {
    program("/usr/bin/ssh-keygen", "openssh-client")
}

pub(crate) fn openssl() -> Command {
    program("/usr/bin/openssl", "openssl")
}

/// Runs to success and gives standard output.
pub(crate) fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Both outputs of a program, for messages.
pub(crate) fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Lets ssh-keygen make a key pair `folder/name`.
pub(crate) fn make_key(folder: &Path, name: &str, arguments: &[&str]) {
    let mut command = ssh_keygen();
    command.arg("-q").args(arguments).args(["-C", "a comment", "-f"]).arg(folder.join(name));
    if !arguments.contains(&"-N") {
        command.args(["-N", ""]);
    }
    stdout(&mut command);
}

pub(crate) fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Writes a private key as ssh wants it: readable by its owner only.
pub(crate) fn write_private(path: &Path, key: &PrivateKey) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, key.to_openssh("test").unwrap().as_bytes()).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn key(n: u8) -> PrivateKey {
    PrivateKey::from_seed([n; 32])
}

pub(crate) fn ca(n: u8) -> CaKey {
    CaKey::new(key(n)).unwrap()
}

pub(crate) fn principals(names: &[&str]) -> Principals {
    Principals::new(names.iter().map(|name| Principal::new(*name).unwrap()).collect()).unwrap()
}

pub(crate) fn user_spec(subject: &PublicKey) -> UserSpec {
    UserSpec {
        serial: Serial::new(7).unwrap(),
        key: subject.clone(),
        key_id: KeyId::new("jit:gr_1:alice").unwrap(),
        principals: principals(&["db1/deploy", "root"]),
        window: CertWindow::new(1_800_000_000, 1_800_000_660).unwrap(),
        critical: vec![],
        extensions: vec![Extension::PermitPty],
        nonce: [9; 32],
    }
}

pub(crate) fn host_spec(subject: &PublicKey) -> HostSpec {
    HostSpec {
        serial: Serial::new(8).unwrap(),
        key: subject.clone(),
        key_id: KeyId::new("host:db1").unwrap(),
        principals: principals(&["db1.example", "10.0.0.7"]),
        window: CertWindow::new(1_800_000_000, 1_810_000_000).unwrap(),
        nonce: [9; 32],
    }
}
