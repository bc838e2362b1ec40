//! The ledger of the first release, as its program wrote it: it opens for ever. And one of a newer program: it is refused, in words.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jit_broker::clock::Simulated;
use jit_broker::daemon::Daemon;
use jit_broker::daemon::verify::{audit, first_origin};
use jit_broker::domain::event::Command;
use jit_broker::domain::grant::GrantState;
use jit_broker::domain::names::{PersonName, TargetName};
use jit_broker::domain::refusal::Code;
use jit_broker::ledger::{Ledger, NewLeaf, OpenMode, Reader, Row};
use jit_broker::settings::Settings;
use jit_broker::signer::keys::Keys;

/// When its last entry was written.
const LAST_AT: i64 = 1_795_820_559;

/// A copy to work with: keys must be private, and ports free.
fn copy() -> (tempfile::TempDir, Settings) {
    let folder = tempfile::Builder::new().prefix("first").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/first-release");
    let put = |from: PathBuf, to: PathBuf| {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&from, &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    for entry in std::fs::read_dir(from.join("ca")).unwrap().flatten() {
        put(entry.path(), folder.path().join("state/ca").join(entry.file_name()));
    }
    for name in ["ledger.db", "gateway_ssh_key", "marker"] {
        put(from.join(name), folder.path().join("state").join(name));
    }
    let config = folder.path().join("jit-broker.toml");
    put(from.join("jit-broker.toml"), config.clone());
    let mut settings = Settings::read(&config).unwrap();
    settings.listen.set_port(0);
    settings.gateway_ssh.as_mut().unwrap().listen.set_port(0);
    (folder, settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_of_the_first_release_opens_verifies_and_goes_on() {
    let (_folder, settings) = copy();
    let key = Keys::load(&settings.ca_dir).unwrap().log_public();
    let origin = first_origin(&settings.ledger).await.unwrap().unwrap();
    let report = audit(&settings.ledger, origin.clone(), &key, &[], None).await.unwrap();
    assert!(report.ok && report.size == 31, "{report:#?}");
    let daemon = Daemon::start(&settings, Simulated::at(LAST_AT + 5)).await.unwrap();
    {
        let memory = daemon.broker.memory().await;
        let state = &memory.state;
        assert_eq!(
            (state.bundle.targets.len(), state.last_serial, state.last_gateway_serial, state.epoch),
            (3, 1, 1, 0)
        );
        assert!(state.hosts.contains_key(&TargetName::new("web-07").unwrap()));
        assert_eq!(state.enrolled.values().map(ToString::to_string).collect::<Vec<_>>(), ["alice"]);
        assert!(state.is_admin(&PersonName::new("root-admin").unwrap()) && state.disabled.is_empty());
        assert!(state.grants.values().any(|grant| matches!(grant.state, GrantState::Ending { .. })));
        assert_eq!(state.krl.serials.iter().copied().collect::<Vec<_>>(), [1]);
    }
    // The signer takes what is added, and what was backed out of nothing.
    daemon.broker.command(Command::Beat, Vec::new()).await.unwrap();
    assert!(daemon.broker.health().is_none(), "{:?}", daemon.broker.health());
    daemon.broker.publish_krl().await.unwrap();
    daemon.stop().await;
    let report = audit(&settings.ledger, origin, &key, &[], None).await.unwrap();
    assert!(report.ok && report.size > 31, "{report:#?}");
}

async fn refused(settings: &Settings) -> jit_broker::domain::refusal::Refusal {
    Daemon::start(settings, Simulated::at(LAST_AT + 5)).await.err().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_program_wrote_is_refused_in_words() {
    // Another schema of the store: its number is in the header of the file (sqlite.org/fileformat.html, offset 60).
    let (_folder, settings) = copy();
    let mut bytes = std::fs::read(&settings.ledger).unwrap();
    bytes[60..64].copy_from_slice(&2_u32.to_be_bytes());
    std::fs::write(&settings.ledger, bytes).unwrap();
    assert_eq!(refused(&settings).await.code, Code::LEDGER_NEWER);
    // An entry of another version, of a kind, or of a command that is not known yet.
    let newest = |text: &str| text.replace("\"kind\":\"daemon.stopped\"", "\"kind\":\"moon.risen\"");
    let changes: [&dyn Fn(&str) -> String; 3] = [&|text| text.replace("\"v\":1}", "\"v\":2}"), &newest, &|text| {
        text.replace("\"command\":\"stop\"", "\"command\":\"ascend\"")
    }];
    for change in changes {
        let (_folder, settings) = copy();
        let last = Reader::open(&settings.ledger).await.unwrap().leaf(30).await.unwrap().unwrap();
        let text = String::from_utf8(last.bytes).unwrap().replace("\"seq\":30", "\"seq\":31");
        let changed = change(&text);
        assert_ne!(text, changed, "{text}");
        let mut ledger = Ledger::open(&settings.ledger, OpenMode::Write).await.unwrap();
        let leaf =
            NewLeaf { bytes: changed.into_bytes(), row: Row { at: LAST_AT, ..Row::default() }, blobs: Vec::new() };
        ledger.append(vec![leaf]).await.unwrap();
        ledger.close().await.unwrap();
        let refusal = refused(&settings).await;
        assert_eq!(refusal.code, Code::LEDGER_NEWER, "{refusal:?}");
        assert!(refusal.message.contains("newer version") && refusal.message.contains("31"), "{refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused() {
    let (_folder, settings) = copy();
    let daemon = Daemon::start(&settings, Simulated::at(LAST_AT + 5)).await.unwrap();
    let refusal = refused(&settings).await;
    assert!(refusal.code == Code::LEDGER_HELD, "{refusal:?}");
    assert!(refusal.message.contains(&std::process::id().to_string()), "it names the process: {refusal:?}");
    daemon.broker.command(Command::Beat, Vec::new()).await.unwrap();
    daemon.stop().await;
}
