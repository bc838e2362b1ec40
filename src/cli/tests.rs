//! The contract of cli.md: verbs, flags, exit statuses, and the keys of JSON that scripts rely on.
#![allow(clippy::unwrap_used)]

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_command_line_is_sound() {
    command().debug_assert();
}

#[test]
fn the_lines_of_the_contract_are_taken() {
    for line in [
        "jit-broker auth login --server https://b --fingerprint SHA256:x --as alice --ssh-key k",
        "jit-broker auth login --ca-file ca.pem",
        "jit-broker ls web-07 -o json",
        "jit-broker why web-07 --role deploy --for 30m --as alice",
        "jit-broker request a b --role r --for 2h30m --reason x --ticket T-1 --no-wait",
        "jit-broker request a --wait=30m",
        "jit-broker request a --wait --dry-run",
        "jit-broker login a --reason x",
        "jit-broker wait req_1 --timeout 5m",
        "jit-broker release --all",
        "jit-broker pending --all --output name",
        "jit-broker approve amber-otter --for 10m --role r --note n",
        "jit-broker deny req_1 --reason no",
        "jit-broker revoke gr_1 --reason x",
        "jit-broker revoke --person alice --reason x",
        "jit-broker revoke --target web-07 --reason x",
        "jit-broker apply d --dry-run --yes",
        "jit-broker person disable alice --reason x",
        "jit-broker key enroll alice --key k.pub",
        "jit-broker policy test d",
        "jit-broker audit export --to f",
        "jit-broker audit verify --offline d --key k.pub",
        "jit-broker --no-input --context prod status",
        "jit-broker status --no-input --context prod",
        "jit-broker explain JB2003",
        "jit-broker extend gr_1 --for 30m --reason x --ticket T-1 --no-wait",
        "jit-broker login a --agent",
        "jit-broker pending --watch",
        "jit-broker status --watch -o json",
        "jit-broker doctor --config f",
        "jit-broker completions fish --install",
        "jit-broker man --out d",
        "jit-broker policy who-can web-07 --role r --dir d",
        "jit-broker host enroll a --ssh root@b --ssh-config f",
        "jit-broker host enroll a --key k.pub --print",
        "jit-broker host leave a --ssh root@b",
        "jit-broker host leave a --print",
        "jit-broker session export ses_1 --raw",
        "jit-broker exec a b --role r -- cmd -x",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
    for line in [
        "jit-broker",
        "jit-broker request",
        "jit-broker request a --no-wait --wait",
        "jit-broker revoke --reason x",
        "jit-broker revoke gr_1 --person alice --reason x",
        "jit-broker release gr_1 --all",
        "jit-broker auth login --ca-file f --fingerprint SHA256:x",
        "jit-broker request ../x",
        "jit-broker ls -o yaml",
        "jit-broker auth login --insecure",
        "jit-broker extend gr_1 --reason x",
        "jit-broker host enroll a",
        "jit-broker host enroll a --ssh b --key k",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn exit_statuses_are_those_of_the_contract() {
    let table = [
        (Code::USAGE, 2),
        (Code::CANCELLED, 3),
        (Code::NOT_SIGNED_IN, 4),
        (Code::DENIED, 5),
        (Code::NO_RULE, 5),
        (Code::PENDING, 6),
        (Code::FINAL, 7),
        (Code::MISSING, 8),
        (Code::UNSAFE_FILE, 9),
        (Code::ROLLED_BACK, 9),
        (Code::RESIDUE, 10),
        (Code::UNREACHABLE, 69),
        (Code::BUG, 70),
        (Code::BAD_CONFIG, 78),
    ];
    for (code, exit) in table {
        assert_eq!(code.entry().exit, exit, "{code}");
    }
}

fn keys<T: serde::Serialize>(doc: &T) -> Vec<String> {
    match serde_json::to_value(doc).unwrap() {
        serde_json::Value::Object(map) => map.keys().cloned().collect(),
        other => panic!("{other}"),
    }
}

fn parsed<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn json_has_the_keys_that_scripts_rely_on() {
    use crate::domain::digest::Digest;
    use crate::domain::ids::{GrantId, RequestId};
    let (request, grant, digest) = (RequestId::new([1; 16]), GrantId::new([2; 16]), Digest::of(b""));
    let terms = serde_json::json!({ "target": "t", "target_digest": digest, "role": "r", "logins": [], "allow": [], "for_s": 1 });
    let step = serde_json::json!({ "name": "peer", "need": 1, "from": ["group:leads"], "eligible": [], "approved_by": ["bob"],
        "open": true, "presence": false });
    let request: crate::wire::RequestDoc = parsed(serde_json::json!({
        "schema": "jit-broker/request/v1", "id": request, "state": "pending", "target": "t", "role": "r", "requester": "alice",
        "reason": null, "ticket": null, "for_s": 1, "start_at": null, "created_at": "", "answer_by": "", "code": "", "steps": [step],
        "grant_id": null, "digest": digest, "terms": terms, "act": null, "refusal": null, "denied_by": null, "denial": null,
        "yours": false,
    }));
    let has = |keys: &[String], wanted: &str| {
        for key in wanted.split(' ') {
            assert!(keys.iter().any(|k| k == key), "{key} is not among {keys:?}");
        }
    };
    let wanted =
        "id state target role requester reason ticket for_s start_at created_at answer_by code steps grant_id digest";
    has(&keys(&request), wanted);
    has(&keys(&request.steps[0]), "name need from approved_by open");
    let grant: crate::wire::GrantDoc = parsed(serde_json::json!({
        "schema": "jit-broker/grant/v1", "id": grant, "request_id": request.id, "state": "ending", "target": "t", "role": "r",
        "logins": [], "person": "alice", "keys": [], "starts_at": "", "ends_at": "", "left_s": 0, "claim_by": "", "cause": null,
        "proofs": [], "waits_for": [], "latest_end": null, "sessions": 0,
    }));
    has(
        &keys(&grant),
        "id request_id state target role person starts_at ends_at left_s claim_by cause proofs sessions",
    );
}

#[test]
fn an_error_shows_no_control_characters_of_the_server() {
    let hostile = "no\u{1b}[2J\u{202e}gnp\u{9b}31m\rline";
    let failure = Failure::new(Code::DENIED, hostile);
    let text = failure.text();
    assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{9b}', '\r']), "{text:?}");
    assert!(text.starts_with(&Code::DENIED.to_string()));
    let json = failure.json();
    assert!(!json.contains(['\u{1b}', '\u{202e}', '\u{9b}', '\r', '\n']), "{json:?}");
    let doc: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((doc["schema"].as_str(), doc["message"].as_str()), (Some("jit-broker/error/v1"), Some(hostile)));
}

#[test]
fn every_text_is_that_of_a_verb_and_its_examples_can_be_typed() {
    for verb in texts::verbs() {
        let found = verb.split(' ').try_fold(command(), |found, name| found.find_subcommand(name).cloned());
        let found = found.unwrap_or_else(|| panic!("{verb} is no verb"));
        let examples = found.get_after_long_help().unwrap().to_string();
        for line in examples.lines().skip(1) {
            for part in line.split("&&").map(str::trim).filter(|part| part.starts_with("jit-broker ")) {
                let part = part.split(['|', '>']).next().unwrap_or_default();
                let words = part
                    .replace("\"mend", "mend")
                    .split_whitespace()
                    .map(|word| word.replace(['"', '\''], ""))
                    .collect::<Vec<_>>();
                if let Err(error) = command().try_get_matches_from(&words)
                    && !part.contains('"')
                    && !part.contains('\'')
                {
                    panic!("{part}: {error}");
                }
            }
        }
    }
}
