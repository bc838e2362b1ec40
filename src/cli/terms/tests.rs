//! Every way in which a broker could show something else than the requester signed.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::domain::act::ACT_SCHEMA;
use crate::domain::key::Key;
use crate::domain::names::{LoginName, PersonName, TargetName};
use crate::domain::target::Allow;

const TARGETS: &str = r#"
[[target]]
name = "web-07"
kind = "ssh"
address = "web-07.example:22"
mode = "direct"
host_ca = "@broker"
[target.roles.root]
logins = ["root"]
allow = ["shell", "exec"]
[target.roles.deploy]
logins = ["deploy"]
allow = ["shell", "exec"]
narrower_than = ["root"]
[target.roles.read]
logins = ["reader"]
allow = ["exec"]
narrower_than = ["deploy"]
"#;

fn install() -> InstallId {
    InstallId::new([1; 16])
}

fn bundle(targets: &str) -> BundleDoc {
    // Rules and people that do not stand by themselves: an approver cannot know the administrators of [trust].
    let policy = "schema = 1\n[[rule]]\nid = \"r\"\nwho = [\"somebody-else\"]\n";
    let files = [("targets.toml", format!("schema = 1\n{targets}")), ("policy.toml", policy.to_owned())];
    let text = BundleText { files: files.map(|(name, text)| (name.to_owned(), text)).into() };
    BundleDoc { digest: text.digest(), files: text.files }
}

fn inventory() -> Targets {
    targets(&bundle(TARGETS)).unwrap_or_else(|f| panic!("{}", f.0.message))
}

fn person(name: &str) -> PersonName {
    PersonName::new(name).unwrap()
}

fn role(name: &str) -> RoleName {
    RoleName::new(name).unwrap()
}

fn act(deed: Deed) -> Act {
    let key_fp = "SHA256:x".to_owned();
    Act { schema: ACT_SCHEMA.to_owned(), install: install(), key_fp, at: 1, nonce: "0".repeat(32), words: None, deed }
}

fn asks(role_name: &str, for_s: Option<u64>) -> Deed {
    let key = Key(jit_ca::key::PrivateKey::from_seed([1; 32]).public().clone());
    Deed::Request { by: person("alice"), target: TargetName::new("web-07").unwrap(), role: role(role_name), for_s, key }
}

fn granted(role_name: &str, for_s: u64) -> Terms {
    let all = inventory();
    let target = all.get("web-07").unwrap();
    let found = &target.roles[&role(role_name)];
    Terms {
        target: target.name.clone(),
        target_digest: target.digest(),
        role: role(role_name),
        logins: found.logins.clone(),
        allow: found.allow.iter().copied().collect(),
        database: None,
        gateway: false,
        for_s,
    }
}

/// What an honest broker shows of an act.
fn doc(act: &Act, terms: Terms) -> RequestDoc {
    let text = String::from_utf8(act.bytes().unwrap()).unwrap();
    let digest = Digest::of(text.as_bytes());
    serde_json::from_value(serde_json::json!({
        "schema": "jit-broker/request/v1", "id": RequestId::of_digest(&digest), "state": "pending",
        "target": terms.target, "role": terms.role, "requester": "alice", "reason": null, "ticket": null,
        "for_s": terms.for_s, "start_at": null, "created_at": "", "answer_by": "", "code": "amber-otter", "steps": [],
        "grant_id": null, "digest": digest, "terms": terms, "act": text, "refusal": null, "denied_by": null,
        "denial": null, "yours": true,
    }))
    .unwrap()
}

fn honest() -> RequestDoc {
    doc(&act(asks("root", Some(3600))), granted("root", 3600))
}

type Lie = fn(&mut RequestDoc);

fn goes_on() -> Deed {
    let key = Key(jit_ca::key::PrivateKey::from_seed([1; 32]).public().clone());
    let target = TargetName::new("web-07").unwrap();
    Deed::Extend { by: person("alice"), grant: GrantId::new([3; 16]), target, role: role("deploy"), until: 3601, key }
}

fn extension(act: &Act, terms: Terms, until: i64) -> RequestDoc {
    let mut shown = doc(act, terms);
    (shown.extends, shown.until) = (Some(GrantId::new([3; 16])), Some(crate::cli::output::instant(until)));
    shown
}

#[test]
fn an_extension_is_shown_with_the_grant_and_the_end_that_were_signed() {
    let act = act(goes_on());
    let honest = || extension(&act, granted("deploy", 3600), 3601);
    assert!(!refused(&honest()));
    let lies: [(&str, Lie); 7] = [
        ("another grant", |d| d.extends = Some(GrantId::new([4; 16]))),
        ("no extension", |d| d.extends = None),
        ("another end", |d| d.until = Some(crate::cli::output::instant(3602))),
        ("no end", |d| d.until = None),
        ("far more time", |d| (d.for_s, d.terms.for_s) = (3600 + 302, 3600 + 302)),
        ("no time", |d| (d.for_s, d.terms.for_s) = (0, 0)),
        ("a wider role", |d| (d.role, d.terms) = (role("root"), granted("root", 3600))),
    ];
    for (what, lie) in lies {
        let mut doc = honest();
        lie(&mut doc);
        assert!(refused(&doc), "{what}");
    }
    let mut asked = doc(&self::act(asks("root", Some(3600))), granted("root", 3600));
    asked.extends = Some(GrantId::new([3; 16]));
    assert!(refused(&asked), "a request that is shown as an extension");
}

fn refused(doc: &RequestDoc) -> bool {
    matches!(verified(doc, install(), &inventory()), Err(failure) if failure.0.code == Code::STALE_TERMS)
}

#[test]
fn what_was_signed_may_be_approved() {
    assert_eq!(verified(&honest(), install(), &inventory()).unwrap(), honest().terms);
    // Earlier approvers made it shorter and narrower, one role after the other.
    let narrowed = doc(&act(asks("root", Some(3600))), granted("read", 60));
    verified(&narrowed, install(), &inventory()).unwrap();
    let usual = doc(&act(asks("deploy", None)), granted("deploy", 1800));
    verified(&usual, install(), &inventory()).unwrap();
}

#[test]
fn everything_else_is_refused() {
    type Lie = fn(&mut RequestDoc);
    let changes: [(&str, Lie); 15] = [
        ("no act", |d| d.act = None),
        ("another act", |d| d.act = doc(&act(asks("read", Some(60))), granted("read", 60)).act),
        ("another digest", |d| d.digest = Digest::of(b"x")),
        ("another id", |d| d.id = RequestId::new([3; 16])),
        ("another person", |d| d.requester = person("mallory")),
        ("a role that is only shown", |d| d.role = role("read")),
        ("a time that is only shown", |d| d.for_s = 60),
        ("another target shown", |d| d.target = TargetName::new("web-08").unwrap()),
        ("another target", |d| {
            d.target = TargetName::new("web-08").unwrap();
            d.terms.target = d.target.clone();
        }),
        ("another address", |d| d.terms.target_digest = Digest::of(b"x")),
        ("longer", |d| (d.for_s, d.terms.for_s) = (7200, 7200)),
        ("no time at all", |d| (d.for_s, d.terms.for_s) = (0, 0)),
        ("one more login", |d| d.terms.logins.push(LoginName::new("admin").unwrap())),
        ("one more right", |d| d.terms.allow.push(Allow::Forward)),
        ("an act with a blank", |d| d.act = d.act.as_ref().map(|a| format!("{a} "))),
    ];
    for (what, change) in changes {
        let mut doc = honest();
        change(&mut doc);
        assert!(refused(&doc), "{what}");
    }
}

#[test]
fn a_wider_role_than_the_signed_one_is_refused() {
    let wider = doc(&act(asks("read", Some(60))), granted("root", 60));
    assert!(refused(&wider), "read was asked for, root is offered");
}

#[test]
fn acts_for_elsewhere_or_of_another_kind_are_refused() {
    let mut elsewhere = act(asks("root", Some(3600)));
    elsewhere.install = InstallId::new([2; 16]);
    assert!(refused(&doc(&elsewhere, granted("root", 3600))));
    let other = act(Deed::Disable { by: person("alice"), person: person("bob") });
    assert!(refused(&doc(&other, granted("root", 3600))));
}

#[test]
fn a_bundle_is_approved_by_its_digest_alone() {
    let new = Digest::of(b"new bundle");
    let deed = Deed::Apply { by: person("alice"), bundle: new, base: Digest::of(b"old") };
    let terms = |digest| Terms {
        target: TargetName::new("broker/policy").unwrap(),
        target_digest: digest,
        role: role("apply"),
        logins: vec![],
        allow: vec![],
        database: None,
        gateway: false,
        for_s: 0,
    };
    verified(&doc(&act(deed.clone()), terms(new)), install(), &inventory()).unwrap();
    assert!(refused(&doc(&act(deed.clone()), terms(Digest::of(b"another")))));
    assert!(refused(&doc(&act(deed), granted("root", 3600))), "a bundle's act must not open a host");
}

#[test]
fn a_bundle_that_is_not_its_digest_is_not_read() {
    let mut doc = bundle(TARGETS);
    doc.files.insert("targets.toml".to_owned(), "schema = 1\n".to_owned());
    assert_eq!(targets(&doc).unwrap_err().0.code, Code::STALE_TERMS);
}

#[test]
fn approving_only_makes_it_less() {
    let all = inventory();
    let standing = || granted("root", 3600);
    assert_eq!(narrowed(standing(), Some(60), None, &all).unwrap().for_s, 60);
    assert_eq!(narrowed(standing(), None, Some(&role("deploy")), &all).unwrap(), granted("deploy", 3600));
    let code = |result: Result<Terms, Failure>| result.unwrap_err().0.code;
    assert_eq!(code(narrowed(standing(), Some(3601), None, &all)), Code::NOT_NARROWER);
    assert_eq!(code(narrowed(granted("deploy", 60), None, Some(&role("root")), &all)), Code::NOT_NARROWER);
    assert_eq!(code(narrowed(standing(), None, Some(&role("nothing")), &all)), Code::NO_ROLE);
}
