//! The server CA and its leaves, judged by openssl, and what must not be signed.
#![allow(clippy::unwrap_used)]

mod oracle;

use std::net::IpAddr;
use std::path::Path;

use data_encoding::BASE64;
use jit_ca::CaError;
use jit_ca::x509::{
    CaCert, CaSpec, ClientFacts, ClientLeafSpec, ServerLeafSpec, ServerName, X509Key, make_ca, sign_client_leaf,
    sign_server_leaf, tbs_client,
};
use oracle::{openssl, stdout, text, told};
use proptest::prelude::*;

const START: i64 = 1_800_000_000;
const DAY_S: i64 = 86_400;

fn ca_spec() -> CaSpec {
    CaSpec {
        name: "jit-broker server CA".to_owned(),
        serial: [0x81; 16],
        not_before: START,
        not_after: START + 3650 * DAY_S,
    }
}

fn leaf_spec(key: &X509Key) -> ServerLeafSpec {
    let address = |text: &str| ServerName::Ip(text.parse::<IpAddr>().unwrap());
    ServerLeafSpec {
        names: vec![ServerName::Dns("db1.example".to_owned()), address("192.0.2.7"), address("2001:db8::7")],
        public_key_spki_der: key.spki_der(),
        serial: [1; 16],
        not_before: START,
        not_after: START + 90 * DAY_S,
    }
}

fn write_der(path: &Path, der: &[u8]) {
    std::fs::write(path, format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", wrapped(der)))
        .unwrap();
}

fn wrapped(der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    base64.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect::<Vec<_>>().join("\n")
}

fn verify(folder: &Path, leaf: &[u8], ca: &CaCert, at: i64, extra: &[&str]) -> Result<(), String> {
    std::fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    write_der(&folder.join("leaf.pem"), leaf);
    let mut command = openssl();
    command.args(["verify", "-x509_strict", "-attime", &at.to_string()]).args(extra);
    if !extra.contains(&"-purpose") {
        command.args(["-purpose", "sslserver"]);
    }
    let output = command.arg("-CAfile").arg(folder.join("ca.pem")).arg(folder.join("leaf.pem")).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(told(&output)) }
}

#[test]
fn openssl_accepts_the_chain_for_its_names_and_its_window_only() {
    let folder = tempfile::tempdir().unwrap();
    let (key, leaf_key) = (X509Key::generate().unwrap(), X509Key::generate().unwrap());
    let ca = make_ca(&key, &ca_spec()).unwrap();
    let spec = leaf_spec(&leaf_key);
    let leaf = sign_server_leaf(&ca, &key, &spec).unwrap();
    let check = |at: i64, extra: &[&str]| verify(folder.path(), &leaf, &ca, at, extra);
    let good: [&[&str]; 3] =
        [&["-verify_hostname", "db1.example"], &["-verify_ip", "192.0.2.7"], &["-verify_ip", "2001:db8::7"]];
    for extra in good {
        assert_eq!(check(START + 10, extra), Ok(()));
    }
    // RFC 5280 counts the second of notAfter in, openssl does not: it is nobody's to rely upon.
    assert_eq!(check(spec.not_after - 1, &[]), Ok(()));
    assert!(check(START + 10, &["-verify_hostname", "db2.example"]).unwrap_err().contains("ostname mismatch"));
    assert!(check(START + 10, &["-verify_ip", "192.0.2.8"]).is_err());
    assert!(check(START - 1, &[]).unwrap_err().contains("not yet valid"));
    assert!(check(spec.not_after + 1, &[]).unwrap_err().contains("expired"));
    assert!(check(START + 10, &["-purpose", "sslclient"]).is_err(), "a server certificate is for servers");
    let other_key = X509Key::generate().unwrap();
    let other = make_ca(&other_key, &ca_spec()).unwrap();
    assert!(verify(folder.path(), &leaf, &other, START + 10, &[]).is_err(), "another CA of the same name");
}

#[test]
fn openssl_reads_what_the_specs_say() {
    let folder = tempfile::tempdir().unwrap();
    let key = X509Key::generate().unwrap();
    let ca = make_ca(&key, &ca_spec()).unwrap();
    let leaf = sign_server_leaf(&ca, &key, &leaf_spec(&X509Key::generate().unwrap())).unwrap();
    let print = |name: &str| stdout(openssl().args(["x509", "-noout", "-text", "-in"]).arg(folder.path().join(name)));
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    write_der(&folder.path().join("leaf.pem"), &leaf);
    let (ca_text, leaf_text) = (print("ca.pem"), print("leaf.pem"));
    for part in ["CN = jit-broker server CA", "CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "81:81:81:81", "2027"]
    {
        assert!(ca_text.contains(part), "{part}: {ca_text}");
    }
    let parts = [
        "TLS Web Server Authentication",
        "Digital Signature",
        "CA:FALSE",
        "DNS:db1.example, IP Address:192.0.2.7, IP Address:2001:DB8",
    ];
    for part in parts {
        assert!(leaf_text.contains(part), "{part}: {leaf_text}");
    }
    let told =
        stdout(openssl().args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(folder.path().join("ca.pem")));
    let hex = told.trim_end().split_once('=').unwrap().1.replace(':', "");
    let digest = data_encoding::HEXUPPER.decode(hex.as_bytes()).unwrap();
    assert_eq!(ca.fingerprint(), format!("SHA256:{}", data_encoding::BASE64_NOPAD.encode(&digest)));
}

#[test]
fn keys_and_ca_come_back_from_pem() {
    let folder = tempfile::tempdir().unwrap();
    let key = X509Key::generate().unwrap();
    let pem = key.to_pkcs8_pem();
    assert_eq!(X509Key::from_pkcs8_pem(&pem).unwrap().spki_der(), key.spki_der());
    assert_eq!(format!("{key:?}"), "***");
    std::fs::write(folder.path().join("key.pem"), pem.as_bytes()).unwrap();
    let public = stdout(openssl().args(["pkey", "-pubout", "-in"]).arg(folder.path().join("key.pem")));
    assert_eq!(public, format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", wrapped(&key.spki_der())));
    let ca = make_ca(&key, &ca_spec()).unwrap();
    let again = CaCert::from_pem(ca.pem()).unwrap();
    assert_eq!(again, ca);
    assert_eq!(
        (again.name(), again.not_before(), again.not_after()),
        ("jit-broker server CA", START, ca_spec().not_after)
    );
    let theirs = folder.path().join("theirs.pem");
    stdout(openssl().args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"]).arg(&theirs));
    assert!(X509Key::from_pkcs8_pem(&text(&theirs)).is_ok());
    stdout(openssl().args(["genpkey", "-algorithm", "ED25519", "-out"]).arg(&theirs));
    assert_eq!(X509Key::from_pkcs8_pem(&text(&theirs)).unwrap_err(), CaError::X509Key);
}

#[test]
fn specs_that_are_not_signed() {
    let key = X509Key::generate().unwrap();
    let ca = make_ca(&key, &ca_spec()).unwrap();
    let leaf_key = X509Key::generate().unwrap();
    let with = |change: &dyn Fn(&mut ServerLeafSpec)| {
        let mut spec = leaf_spec(&leaf_key);
        change(&mut spec);
        sign_server_leaf(&ca, &key, &spec).map(|_| ())
    };
    let dns = |name: &str| vec![ServerName::Dns(name.to_owned())];
    assert_eq!(with(&|_| ()), Ok(()));
    for bad in
        ["", ".", "a.", "*.example", "A.example", "a b", "-a", "a-", "192.0.2.7", "ü", "a\0b", "a_b", &"x".repeat(64)]
    {
        assert_eq!(with(&|s| s.names = dns(bad)), Err(CaError::ServerNames), "{bad:?}");
    }
    assert_eq!(with(&|s| s.names = vec![]), Err(CaError::ServerNames));
    assert_eq!(with(&|s| s.names = [dns("a"), dns("a")].concat()), Err(CaError::ServerNames));
    assert_eq!(with(&|s| s.names = (0..65).flat_map(|n| dns(&format!("h{n}"))).collect()), Err(CaError::ServerNames));
    assert_eq!(with(&|s| s.serial = [0; 16]), Err(CaError::ZeroSerial));
    assert_eq!(with(&|s| s.not_after = s.not_before), Err(CaError::Window));
    assert_eq!(
        with(&|s| s.not_before = i64::MIN),
        Err(CaError::Limit(jit_ca::limits::LimitError::Window {
            length_s: (START + 90 * DAY_S).abs_diff(i64::MIN),
            max_s: 400 * 86_400,
        }))
    );
    assert_eq!(with(&|s| (s.not_before, s.not_after) = (-10, 10)), Err(CaError::Window));
    assert!(matches!(with(&|s| s.not_after = s.not_before + 401 * DAY_S), Err(CaError::Limit(_))));
    assert_eq!(with(&|s| (s.not_before, s.not_after) = (ca.not_after() - 5, ca.not_after())), Ok(()));
    assert_eq!(with(&|s| (s.not_before, s.not_after) = (ca.not_after() - 5, ca.not_after() + 1)), Err(CaError::Window));
    assert_eq!(with(&|s| s.public_key_spki_der = key.spki_der()), Err(CaError::SubjectKey));
    assert_eq!(with(&|s| s.public_key_spki_der.push(0)), Err(CaError::SubjectKey));
    assert_eq!(with(&|s| *s.public_key_spki_der.last_mut().unwrap() ^= 1), Err(CaError::SubjectKey));
    assert_eq!(sign_server_leaf(&ca, &leaf_key, &leaf_spec(&leaf_key)), Err(CaError::KeyMismatch));
    for name in ["", " ", "a\nb", "é", &"x".repeat(65)] {
        let spec = CaSpec { name: name.to_owned(), ..ca_spec() };
        assert_eq!(make_ca(&key, &spec), Err(CaError::Name), "{name:?}");
    }
}

#[test]
fn only_a_ca_is_read_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let key = X509Key::generate().unwrap();
    let ca = make_ca(&key, &ca_spec()).unwrap();
    let leaf = sign_server_leaf(&ca, &key, &leaf_spec(&X509Key::generate().unwrap())).unwrap();
    write_der(&folder.path().join("leaf.pem"), &leaf);
    assert!(matches!(CaCert::from_pem(&text(folder.path().join("leaf.pem"))), Err(CaError::NotCa(_))));
    let path = folder.path().join("changed.pem");
    for at in 0..ca.der().len() {
        let mut der = ca.der().to_vec();
        der[at] ^= 1;
        write_der(&path, &der);
        assert!(CaCert::from_pem(&text(&path)).is_err(), "byte {at}");
    }
}

proptest! {
    #[test]
    fn arbitrary_input_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = CaCert::from_pem(&String::from_utf8_lossy(&bytes));
        let _ = CaCert::from_pem(&format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", wrapped(&bytes)));
        let _ = X509Key::from_pkcs8_pem(&format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", wrapped(&bytes)));
    }
}

fn client_spec(key: &X509Key) -> ClientLeafSpec {
    ClientLeafSpec {
        account: "k7q2_jit".to_owned(),
        uri: "jit:gr_01".to_owned(),
        key: key.public().unwrap(),
        serial: (1 << 40) + 7,
        not_before: START,
        not_after: START + 3600 - 1,
    }
}

fn client_ca() -> (X509Key, CaCert) {
    let key = X509Key::generate().unwrap();
    let ca = make_ca(&key, &CaSpec { name: "jit-broker client CA".to_owned(), ..ca_spec() }).unwrap();
    (key, ca)
}

#[test]
fn openssl_accepts_a_client_for_its_window_and_as_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (key, ca) = client_ca();
    let spec = client_spec(&X509Key::generate().unwrap());
    let leaf = sign_client_leaf(&ca, &key, &spec).unwrap();
    let check = |at: i64, purpose: &str| verify(folder.path(), &leaf, &ca, at, &["-purpose", purpose]);
    assert_eq!(check(START + 10, "sslclient"), Ok(()));
    assert_eq!(check(spec.not_after - 1, "sslclient"), Ok(()));
    assert!(check(spec.not_after + 1, "sslclient").unwrap_err().contains("expired"));
    assert!(check(START + 10, "sslserver").is_err(), "a client certificate is for clients");
    let told = stdout(openssl().args(["x509", "-noout", "-text", "-in"]).arg(folder.path().join("leaf.pem")));
    for part in
        ["Subject: CN = k7q2_jit", "URI:jit:gr_01", "TLS Web Client Authentication", "CA:FALSE", "(0x10000000007)"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn the_bytes_of_a_client_are_known_before_they_are_signed() {
    let (key, ca) = client_ca();
    let ed25519 = jit_ca::key::PrivateKey::from_seed([7; 32]).public().clone();
    for subject in [X509Key::generate().unwrap().public().unwrap(), ed25519] {
        let spec = ClientLeafSpec { key: subject, ..client_spec(&key) };
        let tbs = tbs_client(&ca, &spec).unwrap();
        let leaf = sign_client_leaf(&ca, &key, &spec).unwrap();
        assert!(leaf.windows(tbs.len()).any(|part| part == tbs), "what is signed is what was announced");
        let mut der = String::from("-----BEGIN CERTIFICATE-----\n");
        der += &format!("{}\n-----END CERTIFICATE-----\n", wrapped(&leaf));
        let facts = ClientFacts::read(&der).unwrap();
        assert_eq!((facts.account.as_str(), facts.not_before, facts.not_after), ("k7q2_jit", START, spec.not_after));
        assert!(facts.is_for(&spec.key) && !facts.is_for(&key.public().unwrap()));
        assert_eq!(ClientFacts::read(ca.pem()), Err(CaError::Malformed), "an authority is no client");
        let later = ClientLeafSpec { not_after: spec.not_after + 1, ..spec };
        assert_ne!(tbs_client(&ca, &later).unwrap(), tbs);
    }
}

#[test]
fn clients_that_must_not_be_signed() {
    let (key, ca) = client_ca();
    let good = client_spec(&X509Key::generate().unwrap());
    let refused = |change: &dyn Fn(&mut ClientLeafSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        let told = sign_client_leaf(&ca, &key, &spec).unwrap_err();
        assert_eq!(tbs_client(&ca, &spec).unwrap_err(), told);
        told
    };
    for name in ["", "Postgres", "a b", "a,CN=postgres", "a/CN=b", "é", &"x".repeat(64)] {
        assert_eq!(refused(&|s| s.account = name.to_owned()), CaError::Name, "{name:?}");
    }
    assert_eq!(refused(&|s| s.uri = "a b".to_owned()), CaError::Name);
    assert_eq!(refused(&|s| s.serial = 0), CaError::ZeroSerial);
    assert_eq!(refused(&|s| s.not_after = s.not_before), CaError::Window);
    assert!(matches!(refused(&|s| s.not_after += 8 * DAY_S), CaError::Limit(_)));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p384");
    stdout(
        std::process::Command::new("ssh-keygen").args(["-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f"]).arg(&file),
    );
    let p384: jit_ca::key::PublicKey = std::fs::read_to_string(file.with_extension("pub")).unwrap().parse().unwrap();
    assert_eq!(refused(&|s| s.key = p384.clone()), CaError::SubjectKey);
    assert_eq!(refused(&|s| s.key = key.public().unwrap()), CaError::SubjectKey);
    let (other, _) = client_ca();
    assert_eq!(sign_client_leaf(&ca, &other, &good), Err(CaError::KeyMismatch));
}
