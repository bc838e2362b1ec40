//! What comes in from outside: the lock file has nothing that is banned, nothing older than the version that mended it, and one registry.

/// Each package of the lock file: name, version, source.
fn locked() -> Vec<(String, String, Option<String>)> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let doc: toml::Table = text.parse().unwrap();
    let field = |package: &toml::Value, name: &str| package.get(name).and_then(|v| v.as_str()).map(str::to_owned);
    let packages = doc["package"].as_array().unwrap().iter();
    packages.map(|p| (field(p, "name").unwrap(), field(p, "version").unwrap(), field(p, "source"))).collect()
}

/// Major, minor, patch; a version before a release counts as older than it.
fn order(version: &str) -> ([u64; 3], bool) {
    let (numbers, before) = version.split_once('-').map_or((version, false), |(numbers, _)| (numbers, true));
    let numbers = numbers.split('+').next().unwrap();
    let mut parts = numbers.split('.').map(|n| n.parse().unwrap());
    ([(); 3].map(|()| parts.next().unwrap_or(0)), !before)
}

/// The versions that mended what was known to be wrong; where a crate is not used, none is asked for.
const FLOORS: [(&str, &str); 11] = [
    ("russh", "0.63.1"),
    ("rustls-webpki", "0.103.13"),
    ("h2", "0.4.16"),
    ("tokio-postgres", "0.7.18"),
    ("postgres-protocol", "0.6.12"),
    ("sqlx", "0.8.1"),
    ("time", "0.3.47"),
    ("bytes", "1.11.1"),
    ("tracing-subscriber", "0.3.20"),
    ("jsonwebtoken", "10.3.0"),
    ("idna", "1.0.3"),
];

#[test]
fn nothing_is_older_than_what_mended_it() {
    let (locked, mut met) = (locked(), 0);
    for (name, floor) in FLOORS {
        for (_, version, _) in locked.iter().filter(|(found, ..)| found == name) {
            assert!(order(version) >= order(floor), "{name} {version} is older than {floor}");
            met += 1;
        }
    }
    assert!(met >= 7, "the floors of {met} crates were looked at");
    assert!(
        order("0.7.0-rc.11") < order("0.7.0") && order("0.10.0") > order("0.9.9") && order("1.2.3+x") == order("1.2.3")
    );
}

#[test]
fn what_is_banned_is_not_even_locked() {
    let banned = ["rsa", "openssl", "openssl-sys", "native-tls", "git2", "libssh2-sys"];
    let found: Vec<_> = locked().into_iter().filter(|(name, ..)| banned.contains(&name.as_str())).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn everything_comes_from_one_registry() {
    for (name, _, source) in locked() {
        let own = ["jit-broker", "jit-ca"].contains(&name.as_str());
        let registry = source.as_deref() == Some("registry+https://github.com/rust-lang/crates.io-index");
        assert!(registry || own && source.is_none(), "{name} comes from {source:?}");
    }
}

#[test]
fn versions_that_break_often_are_exact() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let doc: toml::Table = text.parse().unwrap();
    for name in ["russh", "ssh-key", "cel", "avt"] {
        let line = &doc["workspace"]["dependencies"][name];
        let version = line.as_str().or_else(|| line["version"].as_str()).unwrap();
        assert!(version.starts_with('='), "{name} {version}");
    }
}
