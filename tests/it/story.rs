//! The main path through the built binary, with a real sshd: `dev --story` fails unless every step goes as it must.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

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

#[test]
fn dev_works_whatever_the_programs_file_is_called_and_says_what_to_type() {
    let home = std::env::var("HOME").unwrap();
    let dir = tempfile::Builder::new().prefix(".jit-story").tempdir_in(home).unwrap();
    let bin = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = bin.path().join("broker-1.0-linux");
    std::fs::hard_link(env!("CARGO_BIN_EXE_jit-broker"), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["dev", "--dir"]).arg(dir.path().join("world")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut exports = Vec::new();
    let ready = lines.inspect(|line| exports.extend(line.starts_with("  export ").then(|| line.clone())));
    let last = ready.into_iter().find(|line| line.starts_with("Ctrl-C"));
    let typed = exports.iter().take(2).map(String::as_str).chain(["exec jit-broker auth status"]).collect::<Vec<_>>();
    let status = Command::new("sh").args(["-c", &typed.join("\n")]).output().unwrap();
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = last.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&ended.stderr)));
    assert!(said.contains("stays in") && dir.path().join("world").exists(), "{said}");
    assert!(String::from_utf8_lossy(&status.stdout).contains("alice"), "{status:?}");
}
