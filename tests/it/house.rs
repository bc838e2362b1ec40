//! The house: floors, sizes, a true map, and shipped files that parse.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    out
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A room's code without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|s| s.to_string_lossy().starts_with("tests"))
}

#[test]
fn imports_point_down_only() {
    // What a room may not name. Rooms of one floor never meet.
    let forbidden: [(&str, &[&str]); 14] = [
        ("domain", &["ledger", "record", "signer", "broker", "api", "cli", "daemon", "clock", "settings", "wire"]),
        ("ledger", &["signer", "broker", "api", "cli", "daemon", "clock", "settings", "wire", "domain"]),
        ("signer", &["broker", "api", "cli", "daemon", "wire", "settings"]),
        ("accounts", &["ledger", "record", "signer", "broker", "api", "cli", "daemon", "clock", "settings", "wire"]),
        ("record", &["ledger", "signer", "accounts", "broker", "api", "cli", "daemon", "settings", "wire"]),
        ("ledger", &["accounts", "record"]),
        ("signer", &["accounts", "record"]),
        ("broker", &["api", "cli", "daemon", "settings"]),
        ("api", &["cli", "daemon", "gateway"]),
        ("gateway", &["api", "cli", "daemon"]),
        ("broker", &["gateway"]),
        ("cli", &["api"]),
        ("witness", &["accounts", "record", "broker", "api", "gateway", "cli", "daemon"]),
        ("broker", &["witness"]),
    ];
    let mut wrong = Vec::new();
    for (room, others) in forbidden {
        for path in sources(&root().join("src").join(room)) {
            let text = fs::read_to_string(&path).unwrap();
            for other in others {
                if text.contains(&format!("crate::{other}::")) {
                    wrong.push(format!("{} names {other}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_pure_core_touches_nothing_outside() {
    let banned =
        ["tokio", "sqlx", "russh", "axum", "std::net::Tcp", "std::fs", "SystemTime", "Instant::now", "aws_lc_rs"];
    let mut wrong = Vec::new();
    for path in sources(&root().join("src/domain")).into_iter().filter(|p| !is_test(p)) {
        let text = code(&path);
        for word in banned.iter().filter(|w| text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains(**w)))
        {
            wrong.push(format!("{} mentions {word}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_a_hall() {
    let mut all = sources(&root().join("src"));
    all.extend(sources(&root().join("ca/src")));
    let long: Vec<_> = all
        .into_iter()
        .filter(|p| !is_test(p))
        .map(|p| (code(&p).lines().count(), p))
        .filter(|(lines, _)| *lines > 600)
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn the_map_names_every_room_and_no_other() {
    let map = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        if name != "lib" && name != "main" {
            assert!(map.contains(&format!("[`{name}`]")), "{name} is not on the map");
            assert!(map.contains(&format!("pub mod {name};")), "{name} is not a module");
        }
    }
}

#[test]
fn only_the_ledger_writes_sql_and_only_the_api_serves_http() {
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        let room = path.strip_prefix(root().join("src")).unwrap().components().next().unwrap();
        let room = room.as_os_str().to_string_lossy().into_owned();
        assert!(room == "ledger" || !text.contains("sqlx::"), "{}", path.display());
        assert!(room == "accounts" || !text.contains("tokio_postgres::"), "{}", path.display());
        assert!(room == "api" || !text.contains("axum::"), "{}", path.display());
        assert!(path.starts_with(root().join("src/gateway/ssh")) || !text.contains("russh::"), "{}", path.display());
    }
}
