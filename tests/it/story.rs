//! The main path through the built binary, with a real sshd: `dev --story` fails unless every step goes as it must.

use std::process::Command;

#[test]
fn ask_approve_ssh_revoke_prove_verify() {
    assert!(std::path::Path::new("/usr/sbin/sshd").exists(), "sshd is missing: apt-get install openssh-server");
    // Not below a folder that everybody may write: sshd's StrictModes refuses its files there (decisions.md 37).
    let home = std::env::var("HOME").unwrap();
    let dir = tempfile::Builder::new().prefix(".jit-story").tempdir_in(home).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_jit-broker"))
        .args(["dev", "--story", "--dir"])
        .arg(dir.path().join("world"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}\n{}", String::from_utf8_lossy(&out.stderr));
    for seen in [
        "Permission denied (publickey)",
        "every session through the gateway is closed",
        "grant.ended",
        "session.read",
        "[exec: id -un",
        "attested outside",
        "copied",
    ] {
        assert!(text.contains(seen), "{seen} is missing in\n{text}");
    }
}
