//! Algorithms and keys of the connection itself: what is agreed on, what is not, and new keys in the middle of a transfer.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::world::Gw;
use crate::world::Done;

/// What the installed ssh has of a kind: `kex`, `cipher`.
fn has(kind: &str, name: &str) -> bool {
    let listed: Done = Command::new("ssh").args(["-Q", kind]).output().unwrap().into();
    listed.ok().lines().any(|line| line == name)
}

#[test]
fn good_algorithms_are_agreed_on_and_bad_ones_are_not() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let with = |options: &[&str]| -> Done {
        let mut command = world.client("ssh", Some(&pass));
        command.arg("-v").args(options).args(["gateway", "echo fine"]).output().unwrap().into()
    };
    for cipher in ["chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "aes128-ctr"] {
        let done = with(&["-o", &format!("Ciphers={cipher}")]);
        assert_eq!((done.code, done.out.as_str()), (Some(0), "fine\n"), "{cipher}: {done:?}");
        assert!(done.err.contains(&format!("server->client cipher: {cipher}")), "{}", done.err);
    }
    let mut agreed = 0;
    for kex in
        ["curve25519-sha256", "curve25519-sha256@libssh.org", "mlkem768x25519-sha256", "diffie-hellman-group16-sha512"]
    {
        // OpenSSH has mlkem from 9.9 on.
        if !has("kex", kex) {
            assert_eq!(kex, "mlkem768x25519-sha256", "{kex} is not in this ssh");
            continue;
        }
        let done = with(&["-o", &format!("KexAlgorithms={kex}")]);
        assert_eq!((done.code, done.out.as_str()), (Some(0), "fine\n"), "{kex}: {done:?}");
        assert!(done.err.contains(&format!("kex: algorithm: {kex}")), "{}", done.err);
        agreed += 1;
    }
    assert!(agreed >= 3);
    for (options, word) in [
        (vec!["-o", "Ciphers=3des-cbc"], "no matching cipher found"),
        (vec!["-o", "Ciphers=aes256-cbc"], "no matching cipher found"),
        (vec!["-o", "Ciphers=aes128-ctr", "-o", "MACs=hmac-sha1"], "no matching MAC found"),
        (vec!["-o", "Ciphers=aes128-ctr", "-o", "MACs=hmac-sha1-etm@openssh.com"], "no matching MAC found"),
        (vec!["-o", "KexAlgorithms=diffie-hellman-group14-sha1"], "no matching key exchange method found"),
        (vec!["-o", "KexAlgorithms=diffie-hellman-group1-sha1"], "no matching key exchange method found"),
        (vec!["-o", "HostKeyAlgorithms=ssh-rsa"], "no matching host key type found"),
    ] {
        let done = with(&options);
        assert!(done.code == Some(255) && done.err.contains(word), "{options:?}: {done:?}");
    }
}

/// A packet without encryption (RFC 4253 section 6).
fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 4 + (8 - (payload.len() + 9) % 8) % 8;
    let mut out = u32::try_from(payload.len() + padding + 1).unwrap().to_be_bytes().to_vec();
    out.push(u8::try_from(padding).unwrap());
    out.extend(payload);
    out.extend(vec![0; padding]);
    out
}

/// KEXINIT with these lists of key exchanges and ciphers.
fn kexinit(kex: &str, cipher: &str) -> Vec<u8> {
    let mut out = vec![20];
    out.extend([7; 16]);
    let mac = "hmac-sha2-256";
    for list in [kex, "ssh-ed25519", cipher, cipher, mac, mac, "none", "none", "", ""] {
        out.extend(u32::try_from(list.len()).unwrap().to_be_bytes());
        out.extend(list.as_bytes());
    }
    out.extend([0; 5]);
    out
}

/// Says this after the greeting; gives the numbers of the messages that came before the connection's end or a pause.
fn answers(world: &Gw, packets: &[Vec<u8>]) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(("127.0.0.1", world.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.write_all(b"SSH-2.0-test\r\n").unwrap();
    for payload in packets {
        let _ = stream.write_all(&packet(payload));
    }
    let (mut bytes, mut piece) = (Vec::new(), [0; 8192]);
    let closed = loop {
        match stream.read(&mut piece) {
            Ok(0) => break true,
            Ok(n) => bytes.extend(&piece[..n]),
            Err(e) => break e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    };
    let mut rest = &bytes[bytes.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1)..];
    let mut kinds = Vec::new();
    while let Some(length) = rest.get(..4) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        kinds.extend(rest.get(5));
        rest = rest.get(4 + length..).unwrap_or_default();
        // After NEWKEYS it is encrypted.
        if kinds.last() == Some(&21) {
            break;
        }
    }
    (kinds, closed)
}

#[test]
fn nothing_is_slipped_in_before_the_keys() {
    let world = Gw::start();
    let ecdh = [&[30, 0, 0, 0, 32][..], &[9; 32]].concat();
    let ignore = vec![2, 0, 0, 0, 1, b'x'];
    let (plain, strict) = ("curve25519-sha256", "curve25519-sha256,kex-strict-c-v00@openssh.com");
    let init = |kex: &str| kexinit(kex, "aes128-ctr");
    // As it should be: the exchange is answered.
    let (kinds, _) = answers(&world, &[init(strict), ecdh.clone()]);
    assert!(kinds.starts_with(&[20, 31]), "{kinds:?}");
    // Strict: IGNORE between KEXINIT and the exchange is the end (CVE-2023-48795); likewise when it comes first of all.
    for packets in [[init(strict), ignore.clone(), ecdh.clone()], [ignore.clone(), init(strict), ecdh.clone()]] {
        let (kinds, closed) = answers(&world, &packets);
        assert!(closed && !kinds.contains(&31), "{kinds:?}, closed: {closed}");
    }
    // No cipher, one that is broken, a point of small order.
    let zero = [&[30, 0, 0, 0, 32][..], &[0; 32]].concat();
    for packets in [
        [kexinit(plain, "none"), ecdh.clone()],
        [kexinit(plain, "3des-cbc"), ecdh.clone()],
        [kexinit("diffie-hellman-group1-sha1", "aes128-ctr"), ecdh],
        [init(plain), zero],
    ] {
        let (kinds, closed) = answers(&world, &packets);
        assert!(closed && !kinds.contains(&31), "{kinds:?}, closed: {closed}");
    }
}

#[test]
fn new_keys_in_the_middle_of_a_transfer_change_nothing() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let bytes: Vec<u8> = (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    for cipher in ["aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"] {
        let mut command = world.client("ssh", Some(&pass));
        command.args(["-v", "-c", cipher, "-o", "RekeyLimit=1M", "gateway", "cat"]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&sent));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && output.stdout == bytes, "{} bytes came back: {said}", output.stdout.len());
        let rekeyed = said.matches("SSH2_MSG_NEWKEYS sent").count();
        assert!(rekeyed > 10, "{rekeyed} times new keys");
    }
}
