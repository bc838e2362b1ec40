//! Revocation lists, judged by `ssh-keygen -Q`, and those that `ssh-keygen -k` wrote.
#![allow(clippy::unwrap_used)]

mod oracle;

use std::collections::BTreeSet;
use std::path::Path;

use jit_ca::krl::{Krl, KrlError};
use jit_ca::limits::Limits;
use jit_ca::spec::Serial;
use jit_ca::ssh::sign_user;
use oracle::{ca, key, ssh_keygen, stdout, told, user_spec};
use proptest::prelude::*;

fn krl(serials: impl IntoIterator<Item = u64>) -> Krl {
    Krl {
        version: 3,
        generated_at: 1_800_000_000,
        ca: ca(9).public().clone(),
        also: Vec::new(),
        retired: Vec::new(),
        serials: serials.into_iter().collect(),
    }
}

/// Asks ssh-keygen whether a certificate with the serial is revoked by the file.
fn revoked(folder: &Path, file: &Path, serial: u64, ca_seed: u8) -> bool {
    let mut spec = user_spec(key(1).public());
    spec.serial = Serial::new(serial).unwrap();
    let path = folder.join(format!("{serial}-cert.pub"));
    std::fs::write(&path, sign_user(&ca(ca_seed), &spec, &Limits::STANDARD).unwrap().openssh()).unwrap();
    let output = ssh_keygen().arg("-Qf").arg(file).arg(&path).output().unwrap();
    let text = told(&output);
    match (output.status.success(), text.contains("REVOKED")) {
        (true, false) => false,
        (false, true) => true,
        _ => panic!("serial {serial}: {text}"),
    }
}

#[test]
fn ssh_keygen_finds_what_is_listed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("krl");
    let mut serials: BTreeSet<u64> = [1, 2, 4, 7, 1000, (1 << 40) + 1, i64::MAX as u64].into();
    serials.extend(5000..9000);
    serials.extend((100_000..100_300).step_by(2));
    serials.extend([(5 << 40) + 1, (5 << 40) + 3, (5 << 40) + 5, (5 << 40) + 8, (5 << 40) + 900]);
    std::fs::write(&file, krl(serials.clone()).encode()).unwrap();
    let probes = [
        1,
        2,
        3,
        4,
        5,
        7,
        8,
        999,
        1000,
        1001,
        4999,
        5000,
        7777,
        8999,
        9000,
        99_999,
        100_000,
        100_001,
        100_298,
        100_299,
        1 << 40,
        (1 << 40) + 1,
        (5 << 40) + 1,
        (5 << 40) + 2,
        (5 << 40) + 8,
        (5 << 40) + 900,
        i64::MAX as u64 - 1,
        i64::MAX as u64,
    ];
    for serial in probes {
        assert_eq!(revoked(folder.path(), &file, serial, 9), serials.contains(&serial), "serial {serial}");
    }
    assert!(!revoked(folder.path(), &file, 1, 8), "another CA's serials are its own");
}

#[test]
fn while_a_ca_is_replaced_both_are_listed_and_a_retired_one_is_revoked_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("krl");
    let list = Krl { also: vec![ca(8).public().clone()], retired: vec![ca(7).public().clone()], ..krl([3, 5]) };
    let bytes = list.encode();
    assert_eq!(Krl::decode(&bytes).unwrap(), list);
    std::fs::write(&file, &bytes).unwrap();
    for (serial, by, expected) in
        [(3, 9, true), (4, 9, false), (5, 8, true), (4, 8, false), (4, 7, true), (9, 7, true), (3, 6, false)]
    {
        assert_eq!(revoked(folder.path(), &file, serial, by), expected, "serial {serial} of {by}");
    }
    // Two authorities with different serials: whoever reads the union would refuse what was not revoked.
    let (one, other) = (krl([3]), Krl { ca: ca(8).public().clone(), ..krl([5]) });
    let head = 8 + 4 + 8 + 8 + 8 + 4 + 4;
    let both = [one.encode(), other.encode()[head..].to_vec()].concat();
    assert_eq!(Krl::decode(&both), Err(KrlError::Ca));
}

#[test]
fn an_empty_list_is_a_valid_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("krl");
    let bytes = krl([]).encode();
    assert!(bytes.len() > 44);
    assert_eq!(Krl::decode(&bytes).unwrap(), krl([]));
    std::fs::write(&file, &bytes).unwrap();
    assert!(!revoked(folder.path(), &file, 1, 9));
    assert!(Krl::decode(&[]).is_err(), "0 bytes mean \"nothing revoked\" to sshd, and nothing here");
}

#[test]
fn lists_of_ssh_keygen_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pub");
    std::fs::write(&ca_file, ca(9).public().to_string()).unwrap();
    let cases: [(&str, Vec<u64>); 5] = [
        ("serial: 5\n", vec![5]),
        ("serial: 5\nserial: 7\nserial: 1000000\n", vec![5, 7, 1_000_000]),
        ("serial: 10-4000\n", (10..=4000).collect()),
        (
            "serial: 10-20\nserial: 22\nserial: 25\nserial: 30-33\n",
            [(10..=20).collect(), vec![22, 25], (30..=33).collect::<Vec<_>>()].concat(),
        ),
        ("serial: 9223372036854775807\nserial: 1\n", vec![1, i64::MAX as u64]),
    ];
    for (spec, expected) in cases {
        let input = folder.path().join("spec");
        let file = folder.path().join("krl");
        std::fs::write(&input, spec).unwrap();
        stdout(ssh_keygen().args(["-q", "-k", "-z", "42", "-f"]).arg(&file).arg("-s").arg(&ca_file).arg(&input));
        let read = Krl::decode(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!((read.version, &read.ca), (42, ca(9).public()), "{spec}");
        assert_eq!(read.serials.into_iter().collect::<Vec<_>>(), expected, "{spec}");
    }
}

#[test]
fn what_is_not_understood_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pub"), ca(9).public().to_string()).unwrap();
    let input = folder.path().join("spec");
    let file = folder.path().join("krl");
    let make = |spec: &str| {
        std::fs::write(&input, spec).unwrap();
        stdout(
            ssh_keygen().args(["-q", "-k", "-f"]).arg(&file).arg("-s").arg(folder.path().join("ca.pub")).arg(&input),
        );
        Krl::decode(&std::fs::read(&file).unwrap())
    };
    assert_eq!(make("id: alice\n"), Err(KrlError::Section(0x23)));
    assert_eq!(make(&format!("key: {}\n", key(1).public())), Err(KrlError::Ca));
    assert_eq!(make("serial: 1-9223372036854775807\n"), Err(KrlError::TooLarge));
    let bytes = krl([1, 5, 9]).encode();
    for cut in 0..bytes.len() {
        assert!(Krl::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let mut format = bytes.clone();
    format[11] = 2;
    assert_eq!(Krl::decode(&format), Err(KrlError::Format(2)));
}

#[test]
fn large_lists_stay_small() {
    assert!(krl(1..=100_000).encode().len() < 200, "a stretch is a range");
    let every_second = krl((1..=20_000).step_by(2)).encode().len();
    assert!(every_second < 3000, "{every_second}: a bit each, not eight bytes");
    let sparse = krl((1..=1000).map(|n| n << 20)).encode().len();
    assert!(sparse < 8 * 1000 + 200, "{sparse}: eight bytes each");
}

fn any_serials() -> impl Strategy<Value = BTreeSet<u64>> {
    let run = (1u64..1 << 45, 1u64..200, 1u64..4);
    let runs = proptest::collection::vec(run, 0..12);
    let near = proptest::collection::btree_set(1u64..40_000, 0..300);
    (runs, near, any::<bool>()).prop_map(|(runs, mut all, top)| {
        runs.into_iter().for_each(|(at, len, step)| all.extend((0..len).map(|n| at + n * step)));
        if top {
            all.extend([u64::MAX, u64::MAX - 1, u64::MAX - 20]);
        }
        all
    })
}

proptest! {
    #[test]
    fn lists_come_back(serials in any_serials(), version: u64, generated_at: u64) {
        let list = Krl { version, generated_at, ca: ca(9).public().clone(), also: Vec::new(), retired: Vec::new(), serials };
        prop_assert_eq!(Krl::decode(&list.encode()).unwrap(), list);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at: prop::sample::Index, byte: u8) {
        let _ = Krl::decode(&bytes);
        let mut list = krl([1, 2, 3, 10, 12, 15, 90, 1 << 50]).encode();
        let at = at.index(list.len());
        list[at] = byte;
        let _ = Krl::decode(&list);
    }
}
