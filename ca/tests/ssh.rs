//! Certificates, judged by `ssh-keygen -L`, and what must not be signed or read.
#![allow(clippy::unwrap_used)]

mod oracle;

use data_encoding::{BASE64, HEXLOWER};
use jit_ca::CaError;
use jit_ca::key::{KeyError, PublicKey};
use jit_ca::limits::{LimitError, Limits};
use jit_ca::spec::{CertWindow, CriticalOption, Extension, Serial, UserSpec};
use jit_ca::ssh::{CertKind, read, sign_host, sign_user, tbs_host, tbs_user};
use oracle::{ca, host_spec, key, make_key, principals, ssh_keygen, stdout, text, user_spec};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

const LIMITS: &Limits = &Limits::STANDARD;

/// `ssh-keygen -L` in UTC, its lines trimmed.
fn listed(line: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k-cert.pub");
    std::fs::write(&path, format!("{line}\n")).unwrap();
    let told = stdout(ssh_keygen().env("TZ", "UTC").arg("-Lf").arg(&path));
    told.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_user_certificate_says_what_its_spec_says() {
    let mut spec = user_spec(key(1).public());
    spec.critical = vec![
        CriticalOption::SourceAddress(vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]),
        CriticalOption::ForceCommand("/usr/bin/uptime -p".to_owned()),
    ];
    spec.extensions = vec![
        Extension::PermitX11Forwarding,
        Extension::PermitPty,
        Extension::Named { name: "grant@jit-broker".to_owned(), value: "gr_1".to_owned() },
        Extension::PermitPortForwarding,
        Extension::PermitAgentForwarding,
    ];
    let cert = sign_user(&ca(9), &spec, LIMITS).unwrap();
    let told = listed(cert.openssh());
    let expected = [
        "Type: ssh-ed25519-cert-v01@openssh.com user certificate".to_owned(),
        format!("Public key: ED25519-CERT {}", spec.key.fingerprint()),
        format!("Signing CA: ED25519 {} (using ssh-ed25519)", ca(9).public().fingerprint()),
        "Key ID: \"jit:gr_1:alice\"".to_owned(),
        "Serial: 7".to_owned(),
        "Valid: from 2027-01-15T08:00:00 to 2027-01-15T08:11:00".to_owned(),
        "Principals:".to_owned(),
        "db1/deploy".to_owned(),
        "root".to_owned(),
        "Critical Options:".to_owned(),
        "force-command /usr/bin/uptime -p".to_owned(),
        "source-address 10.0.0.0/8,2001:db8::/32".to_owned(),
        "Extensions:".to_owned(),
    ];
    assert_eq!(told[1..14], expected);
    assert!(told[14].starts_with("grant@jit-broker"), "{told:?}");
    assert_eq!(
        told[15..],
        ["permit-X11-forwarding", "permit-agent-forwarding", "permit-port-forwarding", "permit-pty"]
    );

    let facts = read(cert.openssh()).unwrap();
    assert_eq!(&facts, cert.facts());
    assert_eq!((facts.kind, facts.serial, &facts.key), (CertKind::User, 7, &spec.key));
    assert_eq!(facts.tbs_sha256, <[u8; 32]>::from(Sha256::digest(tbs_user(&spec, ca(9).public()))));
    assert_eq!(facts.extensions["grant@jit-broker"], "gr_1");
    assert_eq!(facts.critical["force-command"], "/usr/bin/uptime -p");
}

#[test]
fn a_host_certificate_says_what_its_spec_says() {
    let spec = host_spec(key(1).public());
    let cert = sign_host(&ca(9), &spec, LIMITS).unwrap();
    let told = listed(cert.openssh());
    assert_eq!(told[1], "Type: ssh-ed25519-cert-v01@openssh.com host certificate");
    assert_eq!(told[7..], ["Principals:", "db1.example", "10.0.0.7", "Critical Options: (none)", "Extensions: (none)"]);
    let facts = read(cert.openssh()).unwrap();
    assert_eq!(facts.kind, CertKind::Host);
    assert_eq!(facts.tbs_sha256, <[u8; 32]>::from(Sha256::digest(tbs_host(&spec, ca(9).public()))));
}

#[test]
fn every_kind_of_subject_key() {
    let folder = tempfile::tempdir().unwrap();
    let kinds: [(&str, &[&str]); 3] =
        [("p256", &["-t", "ecdsa"]), ("p384", &["-t", "ecdsa", "-b", "384"]), ("rsa", &["-t", "rsa", "-b", "2048"])];
    for (name, arguments) in kinds {
        make_key(folder.path(), name, arguments);
        let subject = PublicKey::parse(&text(folder.path().join(format!("{name}.pub")))).unwrap();
        let cert = sign_user(&ca(9), &user_spec(&subject), LIMITS).unwrap();
        assert!(listed(cert.openssh())[2].ends_with(&subject.fingerprint()), "{name}");
        assert_eq!(read(cert.openssh()).unwrap().key, subject);
    }
    let sk = sk_key();
    let mut spec = user_spec(&sk);
    spec.critical = vec![CriticalOption::VerifyRequired];
    let cert = sign_user(&ca(9), &spec, LIMITS).unwrap();
    let told = listed(cert.openssh());
    assert_eq!(told[1], "Type: sk-ssh-ed25519-cert-v01@openssh.com user certificate");
    assert!(told.iter().any(|line| line == "verify-required"), "{told:?}");
}

fn sk_key() -> PublicKey {
    let plain = key(1).public().wire();
    let mut wire = vec![0, 0, 0, 26];
    wire.extend_from_slice(b"sk-ssh-ed25519@openssh.com");
    wire.extend_from_slice(&plain[15..]);
    wire.extend_from_slice(&[0, 0, 0, 4]);
    wire.extend_from_slice(b"ssh:");
    PublicKey::from_wire(&wire).unwrap()
}

#[test]
fn the_bytes_to_sign_are_those_of_ssh_keygen() {
    // ssh-keygen draws the nonce; with its nonce our bytes must be its bytes.
    let folder = tempfile::tempdir().unwrap();
    oracle::write_private(&folder.path().join("ca"), &key(9));
    std::fs::write(folder.path().join("k.pub"), key(1).public().to_string()).unwrap();
    let mut command = ssh_keygen();
    command.env("TZ", "UTC").args(["-q", "-z", "7", "-I", "jit:gr_1:alice", "-n", "db1/deploy,root"]);
    command.args(["-V", "20270115080000:20270115081100", "-O", "clear", "-O", "permit-pty"]);
    command.args(["-O", "force-command=uptime", "-O", "source-address=10.0.0.0/8", "-s"]);
    stdout(command.arg(folder.path().join("ca")).arg(folder.path().join("k.pub")));
    let theirs = read(&text(folder.path().join("k-cert.pub"))).unwrap();
    let mut spec = user_spec(key(1).public());
    spec.critical = vec![
        CriticalOption::SourceAddress(vec!["10.0.0.0/8".parse().unwrap()]),
        CriticalOption::ForceCommand("uptime".to_owned()),
    ];
    spec.nonce = theirs.nonce.clone().try_into().unwrap();
    let tbs = tbs_user(&spec, ca(9).public());
    assert_eq!(theirs.tbs_sha256, <[u8; 32]>::from(Sha256::digest(&tbs)));
}

#[test]
fn the_same_spec_gives_the_same_bytes() {
    let spec = user_spec(key(1).public());
    let tbs = tbs_user(&spec, ca(9).public());
    assert_eq!(tbs, tbs_user(&spec.clone(), ca(9).public()));
    let start = "000000207373682d656432353531392d636572742d763031406f70656e7373682e636f6d00000020";
    assert_eq!(HEXLOWER.encode(&tbs[..40]), start);
    assert_eq!(tbs[40..72], [9; 32]);
    let once = sign_user(&ca(9), &spec, LIMITS).unwrap();
    assert_eq!(once, sign_user(&ca(9), &spec, LIMITS).unwrap());
    let mut other = spec.clone();
    other.nonce = [8; 32];
    assert_ne!(tbs, tbs_user(&other, ca(9).public()));
}

#[test]
fn limits_hold_whatever_the_spec_says() {
    let spec = user_spec(key(1).public());
    let with = |change: &dyn Fn(&mut UserSpec)| {
        let mut changed = spec.clone();
        change(&mut changed);
        sign_user(&ca(9), &changed, LIMITS).map(|_| ())
    };
    let names: Vec<String> = (0..17).map(|n| format!("p{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let max_s = 7 * 86_400 + 60;
    let named = |name: &str, value: &str| Extension::Named { name: name.to_owned(), value: value.to_owned() };
    let command = |text: &str| vec![CriticalOption::ForceCommand(text.to_owned())];
    assert_eq!(with(&|_| ()), Ok(()));
    assert_eq!(with(&|s| s.window = CertWindow::new(1000, 1000 + max_s).unwrap()), Ok(()));
    assert_eq!(with(&|s| s.principals = principals(&names[..16])), Ok(()));
    let refused =
        |error: LimitError, change: &dyn Fn(&mut UserSpec)| assert_eq!(with(change), Err(CaError::Limit(error)));
    refused(LimitError::Window { length_s: max_s + 1, max_s }, &|s| {
        s.window = CertWindow::new(1000, 1001 + max_s).unwrap()
    });
    refused(LimitError::Principals { count: 17, max: 16 }, &|s| s.principals = principals(&names));
    refused(LimitError::SubjectIsCa, &|s| s.key = ca(9).public().clone());
    refused(LimitError::VerifyRequiredNeedsHardware, &|s| s.critical = vec![CriticalOption::VerifyRequired]);
    refused(LimitError::SourceAddress, &|s| s.critical = vec![CriticalOption::SourceAddress(vec![])]);
    refused(LimitError::ForceCommand, &|s| s.critical = command(""));
    refused(LimitError::ForceCommand, &|s| s.critical = command("id\nreboot"));
    refused(LimitError::ForceCommand, &|s| s.critical = command(&"x".repeat(4097)));
    refused(LimitError::DuplicateOption, &|s| s.critical = [command("a"), command("b")].concat());
    refused(LimitError::DuplicateOption, &|s| s.extensions = vec![Extension::PermitPty, Extension::PermitPty]);
    refused(LimitError::Extension, &|s| s.extensions = vec![named("permit-pty", "")]);
    refused(LimitError::Extension, &|s| s.extensions = vec![named("grant@", "x")]);
    refused(LimitError::Extension, &|s| s.extensions = vec![named("grant@a", "\n")]);
    refused(LimitError::Extensions, &|s| s.extensions = (0..17).map(|n| named(&format!("x{n}@a"), "")).collect());
    let mut host = host_spec(ca(9).public());
    assert_eq!(sign_host(&ca(9), &host, LIMITS), Err(CaError::Limit(LimitError::SubjectIsCa)));
    host.key = key(1).public().clone();
    host.window = CertWindow::new(0, 400 * 86_400 + 1).unwrap();
    assert!(matches!(sign_host(&ca(9), &host, LIMITS), Err(CaError::Limit(LimitError::Window { .. }))));
}

#[test]
fn the_widest_spec_is_signed_and_read() {
    let mut spec = user_spec(key(1).public());
    spec.serial = Serial::MAX;
    let ranges =
        (0..64u8).map(|n| format!("2001:db8:ffff:ffff:ffff:ffff:ffff:ff{n:02x}/128").parse().unwrap()).collect();
    spec.critical = vec![CriticalOption::SourceAddress(ranges), CriticalOption::ForceCommand("x".repeat(4096))];
    let long = |n: usize| Extension::Named { name: format!("{n:02}@{}", "d".repeat(61)), value: "v".repeat(4096) };
    spec.extensions = (0..16).map(long).collect();
    assert_eq!(sign_user(&ca(9), &spec, LIMITS).unwrap().facts().serial, i64::MAX as u64);
}

#[test]
fn a_changed_byte_is_refused() {
    let cert = sign_user(&ca(9), &user_spec(key(1).public()), LIMITS).unwrap();
    let (algorithm, base64) = cert.openssh().split_once(' ').unwrap();
    let blob = BASE64.decode(base64.as_bytes()).unwrap();
    for at in 0..blob.len() {
        for flip in [0x01, 0x80] {
            let mut changed = blob.clone();
            changed[at] ^= flip;
            assert!(read(&format!("{algorithm} {}", BASE64.encode(&changed))).is_err(), "byte {at} ^ {flip:#04x}");
        }
        assert!(read(&format!("{algorithm} {}", BASE64.encode(&blob[..at]))).is_err(), "cut at {at}");
    }
    assert!(read(&format!("{algorithm} {base64} a comment\n")).is_ok());
}

#[test]
fn what_is_not_a_certificate_is_refused() {
    let cert = sign_user(&ca(9), &user_spec(key(1).public()), LIMITS).unwrap();
    let base64 = cert.openssh().split_once(' ').unwrap().1;
    assert_eq!(PublicKey::parse(cert.openssh()), Err(KeyError::Certificate));
    assert_eq!(read(&key(1).public().to_string()), Err(CaError::Malformed));
    assert_eq!(read(&format!("ssh-rsa-cert-v01@openssh.com {base64}")), Err(CaError::Malformed));
    assert_eq!(read(""), Err(CaError::Malformed));
    assert_eq!(read(&"x".repeat(1 << 20)), Err(CaError::TooLong));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0usize..300) {
        let _ = read(&String::from_utf8_lossy(&bytes));
        let _ = read(&format!("ssh-ed25519-cert-v01@openssh.com {}", BASE64.encode(&bytes)));
        let mut start = tbs_user(&user_spec(key(1).public()), ca(9).public());
        start.truncate(cut);
        start.extend_from_slice(&bytes);
        let _ = read(&format!("ssh-ed25519-cert-v01@openssh.com {}", BASE64.encode(&start)));
    }
}
