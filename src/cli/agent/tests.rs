//! Against a real ssh-agent; ssh-keygen judges the signature.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::*;
use jit_ca::key::PrivateKey as PrivateKeyOf;

struct Running {
    child: Child,
    socket: PathBuf,
    dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(dir: &Path, socket: &Path, program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).current_dir(dir).env("SSH_AUTH_SOCK", socket).output();
    let out = out.unwrap_or_else(|e| panic!("{program} is missing ({e}): apt-get install openssh-client"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// An agent with an RSA key, a certified Ed25519 key and an ECDSA key.
fn agent() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let mut child = Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("ssh-agent is missing ({e}): apt-get install openssh-client"));
    // It says where it listens when it listens.
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let running = Running { child, socket, dir };
    let here = |program: &str, args: &[&str]| run(running.dir.path(), &running.socket, program, args);
    for (name, kind) in [("rsa", "rsa"), ("ed", "ed25519"), ("ec", "ecdsa")] {
        here("ssh-keygen", &["-q", "-t", kind, "-N", "", "-f", name]);
    }
    here("ssh-keygen", &["-q", "-s", "ec", "-I", "x", "-n", "x", "ed.pub"]);
    here("ssh-add", &["-q", "rsa", "ed", "ec"]);
    running
}

#[test]
fn lists_what_signs_acts_and_signs_as_ssh_keygen_verifies() {
    let running = agent();
    let dir = running.dir.path();
    let listed = run(dir, &running.socket, "ssh-add", &["-l"]);
    assert!(listed.contains("RSA") && listed.contains("CERT"), "the agent holds what must be passed over: {listed}");
    let mut agent = Agent::at(&running.socket).unwrap();
    let keys = agent.keys();
    let wanted = ["ed.pub", "ec.pub"].map(|name| super::super::keys::public(&dir.join(name)).unwrap());
    assert_eq!(keys, wanted);
    for key in keys {
        let message = b"an act";
        let blob = agent.sign(&key, &jit_ca::sshsig::to_sign("act@jit-broker", message)).unwrap();
        let armored = jit_ca::sshsig::from_agent(&key.0, "act@jit-broker", &blob).unwrap();
        std::fs::write(dir.join("signed.sig"), armored).unwrap();
        std::fs::write(dir.join("signed"), message).unwrap();
        std::fs::write(dir.join("allowed"), format!("alice {key}\n")).unwrap();
        let verify = |namespace: &str| {
            let args = ["-Y", "verify", "-f", "allowed", "-I", "alice", "-n", namespace, "-s", "signed.sig"];
            let input = std::fs::File::open(dir.join("signed")).unwrap();
            let out = Command::new("ssh-keygen").args(args).current_dir(dir).stdin(input).output().unwrap();
            out.status.success()
        };
        assert!(verify("act@jit-broker"), "{key}");
        assert!(!verify("login@jit-broker"), "another namespace must not verify");
    }
}

#[test]
fn a_key_that_the_agent_does_not_have_is_refused() {
    let running = agent();
    let stranger = Key(jit_ca::key::PrivateKey::from_seed([9; 32]).public().clone());
    let refused = Agent::at(&running.socket).unwrap().sign(&stranger, b"x").unwrap_err();
    assert_eq!(refused.0.code, Code::NO_KEY);
}

#[test]
fn hostile_answers_end_in_no_keys() {
    for answer in [
        &[][..],
        &[5],
        &[IDENTITIES_ANSWER],
        &[IDENTITIES_ANSWER, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 1],
        &[IDENTITIES_ANSWER, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0],
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut frame = Vec::new();
        put(&mut frame, answer);
        theirs.write_all(&frame).unwrap();
        assert_eq!(Agent { stream: ours }.keys(), [], "{answer:?}");
    }
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert_eq!(Agent { stream: ours }.keys(), [], "an answer of 4 GiB is not read");
}

#[test]
fn a_certificate_is_held_with_its_key_for_its_time_and_no_longer() {
    let running = agent();
    let dir = running.dir.path();
    let here = |program: &str, args: &[&str]| run(dir, &running.socket, program, args);
    let seed = PrivateKeyOf::from_seed([5; 32]);
    let pem = seed.to_openssh("x").unwrap();
    std::fs::write(dir.join("mine.pub"), format!("{} mine\n", seed.public())).unwrap();
    here("ssh-keygen", &["-q", "-s", "ec", "-I", "jit:gr_1:alice", "-n", "web-07/deploy", "-V", "-1m:+5m", "mine.pub"]);
    let line = std::fs::read_to_string(dir.join("mine-cert.pub")).unwrap();
    here("ssh-add", &["-q", "-D"]);
    let mut agent = Agent::at(&running.socket).unwrap();
    agent.add(&pem, &line, "jit-broker web-07", 300).unwrap_or_else(|f| panic!("{}", f.0.message));
    let listed = here("ssh-add", &["-L"]);
    assert!(listed.contains(line.split(' ').nth(1).unwrap()) && listed.contains("jit-broker web-07"), "{listed}");
    // The agent signs with it, so the private half is the right one.
    let mut request = vec![SIGN_REQUEST];
    put(&mut request, &certificate_blob(&line).unwrap());
    put(&mut request, b"text");
    request.extend([0; 4]);
    let answer = agent.ask(&request).unwrap();
    assert_eq!(answer[0], SIGN_RESPONSE);
    let signature: [u8; 64] = answer[answer.len() - 64..].try_into().unwrap();
    let public = seed.public().ed25519_bytes().unwrap();
    assert!(jit_ca::key::verify_ed25519(&public, b"text", &signature));
    agent.remove(&line);
    assert!(!here("sh", &["-c", "ssh-add -L || true"]).contains("jit-broker web-07"));
    // What is sent: the lifetime is the last thing, and there is no way to send none.
    let message = addition(&pem, &certificate_blob(&line).unwrap(), "x", 300).unwrap();
    assert_eq!(message[message.len() - 5..], [LIFETIME, 0, 0, 1, 44]);
}
