//! Which keys are accepted: what ssh-keygen makes, and the table of what must not pass.
#![allow(clippy::unwrap_used)]

mod oracle;

use data_encoding::BASE64;
use jit_ca::key::{CaKey, KeyError, KeyKind, MAX_KEY_BYTES, PrivateKey, PublicKey, verify_ed25519};
use oracle::{key, make_key, ssh_keygen, stdout, text};
use proptest::prelude::*;

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend_from_slice(bytes);
}

fn wire(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    parts.iter().for_each(|part| put(&mut out, part));
    out
}

/// An RSA key of as many bits, with a modulus that nobody made of primes: only its form is looked at.
fn rsa(bits: usize, e: &[u8]) -> Vec<u8> {
    let mut n = vec![0];
    n.extend(std::iter::repeat_n(0xc3, bits / 8));
    wire(&[b"ssh-rsa", e, &n])
}

/// The base point of P-256 (FIPS 186-4), uncompressed.
const P256_G: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

fn p256_g() -> Vec<u8> {
    data_encoding::HEXLOWER.decode(P256_G.as_bytes()).unwrap()
}

#[test]
fn keys_of_ssh_keygen_are_read_and_fingerprinted_alike() {
    let folder = tempfile::tempdir().unwrap();
    let kinds: [(&str, &[&str], KeyKind); 4] = [
        ("ed", &["-t", "ed25519"], KeyKind::Ed25519),
        ("p256", &["-t", "ecdsa", "-b", "256"], KeyKind::EcdsaP256),
        ("p384", &["-t", "ecdsa", "-b", "384"], KeyKind::EcdsaP384),
        ("rsa", &["-t", "rsa", "-b", "2048"], KeyKind::Rsa { bits: 2048 }),
    ];
    for (name, arguments, kind) in kinds {
        make_key(folder.path(), name, arguments);
        let path = folder.path().join(format!("{name}.pub"));
        let line = text(&path);
        let key = PublicKey::parse(&line).unwrap();
        assert_eq!(key.kind(), kind);
        assert_eq!(key.signs_acts(), name != "rsa");
        assert!(!key.is_hardware());
        assert_eq!(line, format!("{key} a comment\n"), "the comment is dropped, and nothing else");
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        assert_eq!(PublicKey::from_wire(&key.wire()).unwrap(), key);
        let told = stdout(ssh_keygen().arg("-lf").arg(&path));
        assert_eq!(told.split(' ').nth(1), Some(key.fingerprint().as_str()));
    }
}

#[test]
fn hardware_keys() {
    let ed = key(1).public().ed25519_bytes().unwrap();
    let sk = wire(&[b"sk-ssh-ed25519@openssh.com", &ed, b"ssh:"]);
    let sk = PublicKey::from_wire(&sk).unwrap();
    assert_eq!(
        (sk.kind(), sk.is_hardware(), sk.signs_acts(), sk.ed25519_bytes()),
        (KeyKind::SkEd25519, true, true, None)
    );
    let sk = wire(&[b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", &p256_g(), b"ssh:"]);
    assert_eq!(PublicKey::from_wire(&sk).unwrap().kind(), KeyKind::SkEcdsaP256);
    for application in [&b""[..], b"ssh", b"ssh:work", b"https://example.org"] {
        let sk = wire(&[b"sk-ssh-ed25519@openssh.com", &ed, application]);
        assert_eq!(PublicKey::from_wire(&sk), Err(KeyError::Application));
        let sk = wire(&[b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", &p256_g(), application]);
        assert_eq!(PublicKey::from_wire(&sk), Err(KeyError::Application));
    }
}

#[test]
fn bad_keys_are_refused() {
    let mut off_curve = p256_g();
    *off_curve.last_mut().unwrap() ^= 1;
    let mut compressed = p256_g()[..33].to_vec();
    compressed[0] = 3;
    let ecdsa = |point: &[u8]| wire(&[b"ecdsa-sha2-nistp256", b"nistp256", point]);
    let mut trailing = key(1).public().wire();
    trailing.push(0);
    let small_order = wire(&[b"ssh-ed25519", &[0; 32]]);
    let f4: &[u8] = &[1, 0, 1];
    let table: Vec<(&str, Vec<u8>, KeyError)> = vec![
        ("empty", vec![], KeyError::Malformed),
        ("trailing byte", trailing, KeyError::Malformed),
        ("short ed25519", wire(&[b"ssh-ed25519", &[1; 31]]), KeyError::Malformed),
        ("ed25519 of small order", small_order, KeyError::Point),
        ("RSA 1024", rsa(1024, f4), KeyError::RsaSize { bits: 1024 }),
        ("RSA 2040", rsa(2040, f4), KeyError::RsaSize { bits: 2040 }),
        ("RSA 8200", rsa(8200, f4), KeyError::RsaSize { bits: 8200 }),
        ("RSA 16384", rsa(16384, f4), KeyError::RsaSize { bits: 16384 }),
        ("RSA e=1", rsa(2048, &[1]), KeyError::RsaNumbers),
        ("RSA e=3", rsa(2048, &[3]), KeyError::RsaNumbers),
        ("RSA e=65536", rsa(2048, &[1, 0, 0]), KeyError::RsaNumbers),
        ("RSA e even", rsa(2048, &[1, 0, 2]), KeyError::RsaNumbers),
        ("RSA e long", rsa(2048, &[1; 9]), KeyError::RsaNumbers),
        ("P-256 off the curve", ecdsa(&off_curve), KeyError::Point),
        ("P-256 at infinity", ecdsa(&[0]), KeyError::Malformed),
    ];
    for (name, blob, error) in table {
        assert_eq!(PublicKey::from_wire(&blob), Err(error), "{name}");
    }
    assert!(PublicKey::from_wire(&ecdsa(&compressed)).is_err());
    assert!(PublicKey::from_wire(&rsa(2048, f4)).is_ok() && PublicKey::from_wire(&rsa(8192, f4)).is_ok());
    let dsa = wire(&[b"ssh-dss", &[1; 128], &[1; 20], &[1; 128], &[1; 128]]);
    assert!(matches!(PublicKey::from_wire(&dsa), Err(KeyError::Unsupported | KeyError::Malformed)));
}

#[test]
fn a_line_holds_one_key_and_nothing_else() {
    let line = key(1).public().to_string();
    let other = key(2).public().to_string();
    assert!(PublicKey::parse(&format!("{line} somebody at home\n")).is_ok());
    let base64 = line.split(' ').nth(1).unwrap().to_owned();
    let bad = [
        String::new(),
        "\n".to_owned(),
        "ssh-ed25519".to_owned(),
        format!("restrict {line}"),
        format!("command=\"id\" {line}"),
        format!("cert-authority {line}"),
        format!("{line}\n{other}"),
        format!("{line}\n\n"),
        format!("{line} a\rb"),
        format!("{line} a\u{1b}[2J"),
        format!("ssh-rsa {base64}"),
        format!("ssh-ed25519 {base64}="),
        format!("ssh-ed25519 {}", BASE64.encode(b"ssh-ed25519")),
        format!("# {line}"),
    ];
    for bad in bad {
        assert!(PublicKey::parse(&bad).is_err(), "{bad:?}");
    }
    let long = format!("{line} {}", "x".repeat(MAX_KEY_BYTES));
    assert_eq!(PublicKey::parse(&long), Err(KeyError::TooLong));
}

#[test]
fn p521_and_dsa_of_ssh_keygen_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    make_key(folder.path(), "p521", &["-t", "ecdsa", "-b", "521"]);
    assert_eq!(PublicKey::parse(&text(folder.path().join("p521.pub"))), Err(KeyError::Unsupported));
    assert!(PrivateKey::from_openssh(&text(folder.path().join("p521")), None).is_err());
    make_key(folder.path(), "rsa", &["-t", "rsa", "-b", "2048"]);
    assert!(PrivateKey::from_openssh(&text(folder.path().join("rsa")), None).is_err());
}

#[test]
fn private_keys_go_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments) in
        [("ed", &["-t", "ed25519"][..]), ("p256", &["-t", "ecdsa"]), ("p384", &["-t", "ecdsa", "-b", "384"])]
    {
        make_key(folder.path(), name, arguments);
        let read = PrivateKey::from_openssh(&text(folder.path().join(name)), None).unwrap();
        let public = PublicKey::parse(&text(folder.path().join(format!("{name}.pub")))).unwrap();
        assert_eq!(*read.public(), public);
        let ours = folder.path().join(format!("{name}-ours"));
        oracle::write_private(&ours, &read);
        assert_eq!(stdout(ssh_keygen().arg("-yf").arg(&ours)).trim_end(), format!("{public} test"));
    }
}

#[test]
fn a_passphrase_is_asked_for_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    make_key(folder.path(), "k", &["-t", "ed25519", "-a", "1", "-N", "correct horse"]);
    let pem = text(folder.path().join("k"));
    assert_eq!(PrivateKey::from_openssh(&pem, None).unwrap_err(), KeyError::Encrypted);
    assert_eq!(PrivateKey::from_openssh(&pem, Some("wrong")).unwrap_err(), KeyError::Passphrase);
    let opened = PrivateKey::from_openssh(&pem, Some("correct horse")).unwrap();
    assert_eq!(*opened.public(), PublicKey::parse(&text(folder.path().join("k.pub"))).unwrap());
    assert_eq!(format!("{opened:?}"), "***");
    assert!(!format!("{:?}", CaKey::new(opened).unwrap()).contains("OPENSSH"));
}

#[test]
fn plain_ed25519_signatures() {
    // RFC 8032 section 7.1, test 2.
    let seed =
        data_encoding::HEXLOWER.decode(b"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap();
    let key = PrivateKey::from_seed(seed.try_into().unwrap());
    let signature = key.sign_ed25519(&[0x72]).unwrap();
    assert!(data_encoding::HEXLOWER.encode(&signature).starts_with("92a009a9f0d4cab8720e820b5f642540"));
    let public = key.public().ed25519_bytes().unwrap();
    assert!(verify_ed25519(&public, &[0x72], &signature));
    assert!(!verify_ed25519(&public, &[0x73], &signature));
    assert!(!verify_ed25519(&public, &[0x72], &signature[..63]));
    assert!(!verify_ed25519(&[0; 32], &[0x72], &[0; 64]));
    let folder = tempfile::tempdir().unwrap();
    make_key(folder.path(), "p", &["-t", "ecdsa"]);
    let ecdsa = PrivateKey::from_openssh(&text(folder.path().join("p")), None).unwrap();
    assert_eq!(ecdsa.sign_ed25519(b"x"), Err(KeyError::NotEd25519));
    assert_eq!(CaKey::new(ecdsa).unwrap_err(), KeyError::NotEd25519);
}

proptest! {
    #[test]
    fn arbitrary_input_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..51, byte: u8) {
        let _ = PublicKey::from_wire(&bytes);
        let _ = PublicKey::parse(&String::from_utf8_lossy(&bytes));
        let _ = PublicKey::parse(&format!("ssh-ed25519 {}", BASE64.encode(&bytes)));
        let _ = PrivateKey::from_openssh(&String::from_utf8_lossy(&bytes), None);
        let mut blob = key(1).public().wire();
        blob[at] = byte;
        if let Ok(read) = PublicKey::from_wire(&blob) {
            prop_assert_eq!(read.wire(), blob);
        }
    }
}
