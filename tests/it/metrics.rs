//! `/metrics`: the numbers move, the text is what Prometheus reads, and nobody's name is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::served::{Served, free_port};

/// A plain GET; status and body.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The samples of a page, whose form is checked line by line (exposition format 0.0.4).
fn samples(page: &str) -> BTreeMap<String, f64> {
    let name = |text: &str| {
        text.starts_with("jit_broker_")
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let (mut typed, mut all) = (BTreeSet::new(), BTreeMap::new());
    let mut helped = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (of, help) = rest.split_once(' ').unwrap();
            assert!(name(of) && help.ends_with('.'), "{line}");
            helped = of.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (of, kind) = rest.split_once(' ').unwrap();
            assert!(of == helped && ["gauge", "counter", "histogram"].contains(&kind), "{line}");
            assert!(typed.insert(of.to_owned()), "{of} twice");
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let (of, labels) =
                key.split_once('{').map_or((key, ""), |(of, labels)| (of, labels.strip_suffix('}').unwrap()));
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| of.strip_suffix(end).filter(|f| typed.contains(*f)));
            assert!(name(of) && typed.contains(family.unwrap_or(of)), "{line}");
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once('=').unwrap();
                assert!(["version", "state", "kind", "le"].contains(&label), "{line}");
                let word = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap();
                assert!(word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b)), "{line}");
            }
            assert!(all.insert(key.to_owned(), value.parse().unwrap()).is_none(), "{key} twice");
        }
    }
    all
}

#[test]
fn the_numbers_follow_what_happens_and_name_nobody() {
    let mut served = Served::init();
    let port = free_port();
    let mut text = std::fs::read_to_string(served.config()).unwrap();
    text += &format!("\n[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    std::fs::write(served.config(), text).unwrap();
    served.serve();
    served.adopt();
    let (alice, bob) = (served.client(&served.alice).unwrap(), served.client(&served.bob).unwrap());
    let before = samples(&get(port, "/metrics").1);
    assert_eq!(before["jit_broker_grants{state=\"active\"}"], 0.0);
    assert!(before[&format!("jit_broker_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))] == 1.0);
    let grant = alice.ask(600).unwrap();
    alice.certificate(grant).unwrap();
    let (status, page) = get(port, "/metrics");
    let during = samples(&page);
    assert_eq!(status, 200);
    let grew = |name: &str, after: &BTreeMap<String, f64>| after[name] - before.get(name).copied().unwrap_or(0.0);
    assert_eq!(during["jit_broker_grants{state=\"active\"}"], 1.0);
    assert_eq!(grew("jit_broker_requests{state=\"approved\"}", &during), 1.0);
    for (name, least) in [
        ("jit_broker_ledger_entries", 3.0),
        ("jit_broker_entries_total{kind=\"credential.issued\"}", 1.0),
        ("jit_broker_append_seconds_count", 2.0),
        ("jit_broker_append_seconds_bucket{le=\"+Inf\"}", 2.0),
        ("jit_broker_signer_seconds_count", 3.0),
    ] {
        assert!(grew(name, &during) >= least, "{name} grew by {}", grew(name, &during));
    }
    for (name, value) in [
        ("ready", 1.0),
        ("signer_signs", 1.0),
        ("reserve", 1.0),
        ("panics_total", 0.0),
        ("residue", 0.0),
        ("sessions", 0.0),
    ] {
        assert_eq!(during[&format!("jit_broker_{name}")], value, "{name}");
    }
    assert_eq!(during["jit_broker_checkpoint_entries"], during["jit_broker_ledger_entries"]);
    assert!(during["jit_broker_ledger_bytes"] > 0.0 && during["jit_broker_resident_bytes"] > 1e6);
    let list = during["jit_broker_revocation_list_version"];
    bob.revoke(grant).unwrap();
    let after = samples(&get(port, "/metrics").1);
    assert_eq!((after["jit_broker_grants{state=\"active\"}"], after["jit_broker_revocation_list_serials"]), (0.0, 1.0));
    assert!(after["jit_broker_revocation_list_version"] > list);
    for name in [
        "alice",
        "bob",
        "root-admin",
        "web-07",
        "ops\"",
        "backend",
        "hotfix",
        &grant.to_string(),
        "SHA256:",
        "127.0.0.1",
    ] {
        assert!(!page.contains(name), "{name} is in the metrics");
    }
    assert_eq!((get(port, "/livez").0, get(port, "/readyz").0), (200, 200));
    // Nothing else is served without sign-in there, and no metrics with TLS.
    for path in ["/v1/grants", "/v1/me", "/", "/metrics/../v1/about"] {
        assert_eq!(get(port, path).0, 404, "{path}");
    }
    served.stop();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn metrics_are_for_this_machine_alone() {
    let served = Served::init();
    let kept = std::fs::read_to_string(served.config()).unwrap();
    for (listen, good) in
        [("0.0.0.0:9464", false), ("10.0.0.5:9464", false), ("[::]:9464", false), ("here", false), ("[::1]:9464", true)]
    {
        std::fs::write(served.config(), format!("{kept}\n[metrics]\nlisten = \"{listen}\"\n")).unwrap();
        let out = served.operator(&["check", "--config"]).arg(served.config()).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(if good { 0 } else { 78 }), "{listen}: {said}");
        assert!(good || said.contains("metrics.listen"), "{said}");
    }
}
