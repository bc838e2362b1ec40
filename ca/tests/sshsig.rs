//! Detached signatures, judged by `ssh-keygen -Y` both ways.
#![allow(clippy::unwrap_used)]

mod oracle;

use std::path::Path;
use std::process::Stdio;

use jit_ca::key::{PrivateKey, PublicKey};
use jit_ca::sshsig::{SigError, from_agent, sign, to_sign, verify};
use oracle::{key, make_key, ssh_keygen, stdout, text};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

const SPACE: &str = "act@jit-broker";
const MESSAGE: &[u8] = b"approve gr_1\n";

const KINDS: [(&str, &[&str]); 3] =
    [("ed", &["-t", "ed25519"]), ("p256", &["-t", "ecdsa"]), ("p384", &["-t", "ecdsa", "-b", "384"])];

fn keygen_verifies(folder: &Path, key: &PublicKey, namespace: &str, armored: &str) -> bool {
    let signers = folder.join("signers");
    let file = folder.join("sig");
    let message = folder.join("message");
    std::fs::write(&signers, format!("alice {key}\n")).unwrap();
    std::fs::write(&file, armored).unwrap();
    std::fs::write(&message, MESSAGE).unwrap();
    let mut command = ssh_keygen();
    command.args(["-Y", "verify", "-I", "alice", "-n", namespace, "-f"]).arg(&signers).arg("-s").arg(&file);
    command.stdin(std::fs::File::open(&message).unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}

#[test]
fn ssh_keygen_accepts_ours_and_we_accept_its() {
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments) in KINDS {
        make_key(folder.path(), name, arguments);
        let path = folder.path().join(name);
        let private = PrivateKey::from_openssh(&text(&path), None).unwrap();
        let armored = sign(&private, SPACE, MESSAGE).unwrap();
        assert!(keygen_verifies(folder.path(), private.public(), SPACE, &armored), "{name}");
        assert!(!keygen_verifies(folder.path(), private.public(), "other", &armored), "{name}");
        assert_eq!(verify(SPACE, MESSAGE, &armored).unwrap().key, *private.public());

        let message = folder.path().join(format!("{name}.message"));
        std::fs::write(&message, MESSAGE).unwrap();
        stdout(ssh_keygen().args(["-q", "-Y", "sign", "-n", SPACE, "-f"]).arg(&path).arg(&message));
        let theirs = text(folder.path().join(format!("{name}.message.sig")));
        let verified = verify(SPACE, MESSAGE, &theirs).unwrap();
        assert_eq!((verified.key, verified.user_present), (private.public().clone(), None));
        assert_eq!(verify("other", MESSAGE, &theirs), Err(SigError::Namespace));
        assert_eq!(verify(SPACE, b"approve gr_2\n", &theirs), Err(SigError::Mismatch));
    }
}

#[test]
fn rsa_signatures_of_ssh_keygen_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    make_key(folder.path(), "rsa", &["-t", "rsa", "-b", "2048"]);
    let message = folder.path().join("message");
    std::fs::write(&message, MESSAGE).unwrap();
    stdout(ssh_keygen().args(["-q", "-Y", "sign", "-n", SPACE, "-f"]).arg(folder.path().join("rsa")).arg(&message));
    let theirs = text(folder.path().join("message.sig"));
    assert_eq!(verify(SPACE, MESSAGE, &theirs), Err(SigError::Rsa));
    let rsa = PublicKey::parse(&text(folder.path().join("rsa.pub"))).unwrap();
    assert_eq!(from_agent(&rsa, SPACE, b""), Err(SigError::Rsa));
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend_from_slice(bytes);
}

fn blob(algorithm: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, algorithm.as_bytes());
    put(&mut out, raw);
    out
}

#[test]
fn an_agents_answer_is_armored() {
    let key = key(1);
    let raw = key.sign_ed25519(&to_sign(SPACE, MESSAGE)).unwrap();
    let armored = from_agent(key.public(), SPACE, &blob("ssh-ed25519", &raw)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    assert!(keygen_verifies(folder.path(), key.public(), SPACE, &armored));
    assert!(verify(SPACE, MESSAGE, &armored).is_ok());
    assert_eq!(from_agent(key.public(), SPACE, &blob("ssh-ed25519", &raw[..10])), Err(SigError::Malformed));
    assert_eq!(from_agent(key.public(), SPACE, b""), Err(SigError::Malformed));
    let sk = sk_key(&key);
    assert_eq!(from_agent(&sk, SPACE, &blob("ssh-ed25519", &raw)), Err(SigError::Algorithm));
}

fn sk_key(key: &PrivateKey) -> PublicKey {
    let mut wire = Vec::new();
    put(&mut wire, b"sk-ssh-ed25519@openssh.com");
    put(&mut wire, &key.public().ed25519_bytes().unwrap());
    put(&mut wire, b"ssh:");
    PublicKey::from_wire(&wire).unwrap()
}

/// What a FIDO token answers (PROTOCOL.u2f).
fn token(key: &PrivateKey, flags: u8, message: &[u8]) -> Vec<u8> {
    let mut signed = Sha256::digest(b"ssh:").to_vec();
    signed.push(flags);
    signed.extend_from_slice(&5u32.to_be_bytes());
    signed.extend_from_slice(&Sha256::digest(message));
    let mut out = blob("sk-ssh-ed25519@openssh.com", &key.sign_ed25519(&signed).unwrap());
    out.push(flags);
    out.extend_from_slice(&5u32.to_be_bytes());
    out
}

#[test]
fn hardware_signatures_tell_whether_somebody_was_there() {
    let inner = key(1);
    let sk = sk_key(&inner);
    let folder = tempfile::tempdir().unwrap();
    for (flags, present) in [(0x01, true), (0x05, true), (0x00, false), (0x04, false)] {
        let armored = from_agent(&sk, SPACE, &token(&inner, flags, &to_sign(SPACE, MESSAGE))).unwrap();
        let verified = verify(SPACE, MESSAGE, &armored).unwrap();
        assert_eq!((&verified.key, verified.user_present), (&sk, Some(present)));
        // ssh-keygen does not look at the flag, so it judges the signature alone.
        assert!(keygen_verifies(folder.path(), &sk, SPACE, &armored), "flags {flags:#x}");
    }
    // Flags that were not signed: a touch that did not happen.
    let mut forged = token(&inner, 0x00, &to_sign(SPACE, MESSAGE));
    let at = forged.len() - 5;
    forged[at] = 0x01;
    let armored = from_agent(&sk, SPACE, &forged).unwrap();
    assert_eq!(verify(SPACE, MESSAGE, &armored), Err(SigError::Mismatch));
}

#[test]
fn bounds() {
    let key = key(1);
    assert_eq!(sign(&key, "", MESSAGE), Err(SigError::Namespace));
    let armored = sign(&key, SPACE, MESSAGE).unwrap();
    assert_eq!(sign(&key, SPACE, MESSAGE).unwrap(), armored, "Ed25519 is deterministic");
    let long = format!("{armored}{}", "\n".repeat(16 * 1024));
    assert_eq!(verify(SPACE, MESSAGE, &long), Err(SigError::TooLong));
    assert!(verify(SPACE, MESSAGE, "").is_err());
}

proptest! {
    #[test]
    fn arbitrary_input_never_panics_and_no_byte_may_change(bytes in proptest::collection::vec(any::<u8>(), 0..300), at: prop::sample::Index) {
        let armored = sign(&key(1), SPACE, MESSAGE).unwrap();
        let _ = verify(SPACE, MESSAGE, &String::from_utf8_lossy(&bytes));
        let _ = from_agent(key(1).public(), SPACE, &bytes);
        let begin = "-----BEGIN SSH SIGNATURE-----\n";
        let end = "\n-----END SSH SIGNATURE-----\n";
        let base64 = data_encoding::BASE64.encode(&bytes);
        let refused = verify(SPACE, MESSAGE, &format!("{begin}{base64}{end}")).is_err();
        prop_assert!(refused);
        let body: String = armored.lines().filter(|line| !line.starts_with('-')).collect();
        let mut blob = data_encoding::BASE64.decode(body.as_bytes()).unwrap();
        let at = at.index(blob.len());
        blob[at] ^= 1;
        let lines: Vec<String> = data_encoding::BASE64.encode(&blob).as_bytes().chunks(70)
            .map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
        let refused = verify(SPACE, MESSAGE, &format!("{begin}{}{end}", lines.join("\n"))).is_err();
        prop_assert!(refused);
    }
}
