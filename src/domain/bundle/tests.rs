#![allow(clippy::unwrap_used)]
use data_encoding::BASE64;
use jit_ca::key::PrivateKey;
use proptest::prelude::*;

use super::*;
use crate::domain::policy::run_tests;

fn key(seed: u8) -> String {
    PrivateKey::from_seed([seed; 32]).public().to_string()
}

/// A well-formed RSA key of 2048 bits (RFC 4253 section 6.6).
fn rsa() -> String {
    let mut blob = Vec::new();
    let modulus = [&[0u8, 0x80][..], &[0x55; 254], &[0x01]].concat();
    for part in [&b"ssh-rsa"[..], &[1, 0, 1], &modulus] {
        blob.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        blob.extend(part);
    }
    format!("ssh-rsa {}", BASE64.encode(&blob))
}

fn people() -> String {
    format!(
        r#"[[person]]
name = "alice"
groups = ["backend"]
keys = ["{} alice@laptop"]
[[person]]
name = "bob"
groups = ["backend", "dba"]
keys = ["{}"]
[[person]]
name = "bot"
kind = "machine"
groups = ["machines"]
[[person]]
name = "helper"
kind = "agent"
owner = "alice"
[offices]
operators = ["group:dba"]
auditors = ["person:bob"]
"#,
        key(1),
        key(2)
    )
}

fn targets() -> String {
    format!(
        r#"[[target]]
name = "web-07"
kind = "ssh"
address = "[2001:DB8::7]:22"
labels = {{ env = "prod" }}
mode = "direct"
host_key = "{}"
  [target.roles.deploy]
  logins = ["deploy"]
  [target.roles.files]
  logins = ["deploy"]
  allow = ["sftp"]
  narrower_than = ["deploy"]
"#,
        key(9)
    )
}

const POLICY: &str = r#"schema = 1
timezone = "Europe/Berlin"
[defaults]
max = "4h"
[[rule]]
id = "prod"
who = ["group:backend"]
targets = { labels = { env = "prod" } }
roles = ["deploy"]
max = "1h"
record = "off"
  [[rule.step]]
  name = "peer"
  from = ["group:backend"]
[[rule]]
id = "files"
who = ["kind:person"]
targets = { name = "web-*" }
roles = ["files"]
record = "off"
auto = "requester.signed_in_s < 43200"
[[forbid]]
id = "freeze"
roles = ["deploy"]
when = 'now.weekday == "fri" && now.hour >= 16'
[[test]]
ask = { as = "alice", target = "web-07", role = "deploy", for = "30m", at = "2026-11-24T10:00:00+01:00" }
expect = { steps = ["peer"], max = "1h" }
[[test]]
ask = { as = "alice", target = "web-07", role = "deploy", at = "2026-11-27T16:00:00+01:00" }
expect = "refused"
[[test]]
ask = { as = "bob", target = "web-07", role = "files" }
expect = "auto"
[[test]]
ask = { as = "mallory", target = "web-07", role = "deploy" }
expect = "refused"
"#;

fn text(people: &str, targets: &str, policy: &str) -> BundleText {
    let files = [("people.toml", people), ("targets.toml", targets), ("policy.toml", policy)];
    BundleText { files: files.map(|(name, text)| (name.to_owned(), text.to_owned())).into() }
}

fn parse(people: &str, targets: &str, policy: &str) -> Result<Bundle, Vec<String>> {
    let admins = [PersonName::new("root-admin").unwrap()];
    Bundle::parse(&text(people, targets, policy), &admins)
        .map_err(|list| list.iter().map(ToString::to_string).collect())
}

fn good() -> Bundle {
    parse(&people(), &targets(), POLICY).unwrap_or_else(|list| panic!("{}", list.join("\n")))
}

#[test]
fn a_good_bundle_is_read_and_its_tests_pass() {
    let bundle = good();
    assert_eq!(run_tests(&bundle, 1_800_000_000), []);
    assert_eq!(bundle.people.len(), 4);
    assert_eq!(bundle.targets["web-07"].address.to_string(), "[2001:db8::7]:22");
    assert_eq!(bundle.targets.keys().map(|name| name.as_str()).collect::<Vec<_>>(), [BROKER, "web-07"]);
    let owner = Key(jit_ca::key::PublicKey::parse(&key(2)).unwrap());
    assert_eq!(bundle.owner_of(&owner).unwrap().as_str(), "bob");
    assert_eq!(bundle.owner_of(&Key(jit_ca::key::PublicKey::parse(&key(3)).unwrap())), None);
    assert_eq!(bundle.digest, text(&people(), &targets(), POLICY).digest());
    assert!(!bundle.policy.governs_itself());
}

#[test]
fn tests_that_fail_say_what_came_out() {
    let policy =
        POLICY.replace("expect = \"auto\"", "expect = \"refused\"").replace("max = \"1h\" }", "max = \"2h\" }");
    let failures: Vec<String> = run_tests(&parse(&people(), &targets(), &policy).unwrap(), 1_800_000_000)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert_eq!(
        failures[0],
        "policy.toml:26: alice asks for deploy on web-07: expected steps peer, at most 2h, got steps peer, at most 1h"
    );
    assert!(failures[1].ends_with("expected a refusal, got automatic, at most 4h"), "{}", failures[1]);
}

#[test]
fn the_text_has_one_form_and_a_bound() {
    let text = text(&people(), &targets(), POLICY);
    let bytes = text.bytes();
    assert_eq!(BundleText::from_bytes(&bytes).unwrap(), text);
    assert_eq!(text.digest(), Digest::of(&bytes));
    assert!(bytes.ends_with(br#","schema":"jit-broker/bundle/v1"}"#));
    let empty = br#"{"files":{},"schema":"jit-broker/bundle/v1"}"#;
    assert_eq!(BundleText::default().bytes(), empty);
    assert_eq!(BundleText::from_bytes(empty).unwrap().digest(), Bundle::default().digest);
    for bad in [
        &b""[..],
        br#"{"schema":"jit-broker/bundle/v1","files":{}}"#,
        br#"{"files":{},"schema":"jit-broker/bundle/v2"}"#,
        br#"{"files":{},"more":1,"schema":"jit-broker/bundle/v1"}"#,
        br#"{"files":{"a":1},"schema":"jit-broker/bundle/v1"}"#,
        br#"{"files":{"a":"x","a":"x"},"schema":"jit-broker/bundle/v1"}"#,
        br#"{"files":{}}"#,
    ] {
        assert_eq!(BundleText::from_bytes(bad).unwrap_err().code, Code::BAD_BODY, "{}", String::from_utf8_lossy(bad));
    }
    let large = BundleText { files: [("people.toml".to_owned(), "#".repeat(MAX_BUNDLE_BYTES))].into() };
    assert_eq!(BundleText::from_bytes(&large.bytes()).unwrap_err().code, Code::BAD_BODY);
    assert!(Bundle::parse(&large, &[]).is_err());
}

#[test]
fn nothing_is_in_an_empty_bundle_but_the_bundle() {
    let bundle = Bundle::parse(&BundleText::default(), &[]).unwrap();
    assert!(bundle.people.is_empty() && bundle.policy.rules.is_empty() && bundle.targets.len() == 1);
    assert_eq!(bundle.digest, Bundle::default().digest);
    assert!(plan(&bundle, &Bundle::default()).is_empty());
}

/// Which file is changed.
#[derive(Clone, Copy)]
enum In {
    People,
    Targets,
    Policy,
}
use In::{People as P, Policy as R, Targets as T};

/// What is replaced by what in a good bundle, and what must be said of it.
const MISTAKES: &[(In, &str, &str, &str)] = &[
    (
        P,
        "groups = [\"backend\"]",
        "group = [\"backend\"]",
        "people.toml:3: unknown key group in [[person]]; did you mean groups?",
    ),
    (P, "name = \"alice\"", "name = \"Alice\"", "people.toml:2: \"Alice\" is not a person's name"),
    (P, "name = \"alice\"", "name = 7", "people.toml:2: name must be a string, not an integer"),
    (P, "name = \"bob\"", "name = \"alice\"", "people.toml:6: person alice is there twice"),
    (P, "name = \"bob\"\n", "", "people.toml:5: [[person]] has no name"),
    (
        P,
        "kind = \"machine\"",
        "kind = \"machin\"",
        "people.toml:11: kind is person, machine or agent; did you mean machine?",
    ),
    (P, "owner = \"alice\"\n", "", "people.toml:15: an agent needs its owner"),
    (
        P,
        "owner = \"alice\"",
        "owner = \"alcie\"",
        "people.toml:16: the owner alcie is not in people.toml; did you mean alice?",
    ),
    (P, "owner = \"alice\"", "owner = \"bot\"", "people.toml:16: the owner bot is not a person"),
    (P, "kind = \"machine\"", "oidc = { subject = \"x\" }", "people.toml:11: oidc is not in this version"),
    (P, "operators = [\"group:dba\"]", "operators = []", "people.toml:18: operators is empty"),
    (P, "auditors = [\"person:bob\"]", "auditors = [\"bob\"]", "people.toml:19: bob is not of the form person:NAME"),
    (P, "[offices]", "[office]", "people.toml:17: unknown key office in the file; did you mean offices?"),
    (P, "groups = [\"machines\"]", "groups = [\"machines\"", "people.toml:13: not TOML"),
    (T, "kind = \"ssh\"", "kind = \"mysql\"", "targets.toml:3: this build has no mysql targets yet"),
    (T, "mode = \"direct\"", "mode = \"gatway\"", "targets.toml:6: mode is gateway or direct; did you mean gateway?"),
    (
        T,
        "address = \"[2001:DB8::7]:22\"",
        "address = \"-oProxyCommand=id:22\"",
        "targets.toml:4: the host of address is a DNS name",
    ),
    (T, "address = \"[2001:DB8::7]:22\"", "address = \"web-07\"", "targets.toml:4: address needs a port"),
    (
        T,
        "address = \"[2001:DB8::7]:22\"",
        "address = \"web-07:0\"",
        "targets.toml:4: the port of address is from 1 to 65535",
    ),
    (T, "host_key = ", "host_kee = ", "targets.toml:1: [[target]] has neither host_key nor host_ca"),
    (T, "logins = [\"deploy\"]\n  [", "logins = []\n  [", "targets.toml:9: logins is empty"),
    (T, "logins = [\"deploy\"]\n  [", "logins = [\"a,root\"]\n  [", "targets.toml:9: \"a,root\" is not a login"),
    (T, "allow = [\"sftp\"]", "allow = [\"shell\"]", "targets.toml:12: sshd cannot enforce this on a direct target"),
    (
        T,
        "allow = [\"sftp\"]",
        "allow = [\"sftp\", \"exce\"]",
        "targets.toml:12: allow has shell, exec, sftp, forward; did you mean exec?",
    ),
    (
        T,
        "narrower_than = [\"deploy\"]",
        "narrower_than = [\"deplyo\"]",
        "targets.toml:13: the target has no role deplyo; did you mean deploy?",
    ),
    (
        T,
        "narrower_than = [\"deploy\"]",
        "narrower_than = [\"files\"]",
        "targets.toml:13: role files cannot be narrower than itself",
    ),
    (T, "name = \"web-07\"", "name = \"broker/policy\"", "targets.toml:2: broker/policy is built in"),
    (R, "schema = 1", "schema = 2", "policy.toml:1: schema must be from 1 to 1"),
    (R, "Europe/Berlin", "Europe/Berlln", "policy.toml:2: Europe/Berlln is no time zone; did you mean Europe/Berlin?"),
    (R, "max = \"4h\"", "max = \"soon\"", "policy.toml:4: max: \"soon\" is no duration"),
    (R, "max = \"4h\"", "max = \"0s\"", "policy.toml:4: max: \"0s\" is no duration: it must be more than zero"),
    (R, "id = \"files\"", "id = \"prod\"", "policy.toml:16: the id prod is there twice"),
    (R, "id = \"freeze\"", "id = \"prod\"", "policy.toml:23: the id prod is there twice"),
    (R, "who = [\"group:backend\"]", "who = []", "policy.toml:7: who is empty"),
    (
        R,
        "who = [\"group:backend\"]",
        "who = [\"group:backemd\"]",
        "policy.toml:7: nobody is in a group backemd; did you mean backend?",
    ),
    (
        R,
        "who = [\"group:backend\"]",
        "who = [\"person:bobb\"]",
        "policy.toml:7: there is no person bobb; did you mean bob?",
    ),
    (
        R,
        "who = [\"kind:person\"]",
        "who = [\"kind:people\"]",
        "policy.toml:17: a kind is kind:person, kind:machine or kind:agent",
    ),
    (R, "targets = { labels = { env = \"prod\" } }", "targets = {}", "policy.toml:8: targets selects nothing"),
    (R, "targets = { labels = { env = \"prod\" } }", "targets = { labels = {} }", "policy.toml:8: labels is empty"),
    (R, "targets = { labels = { env = \"prod\" } }\n", "", "policy.toml:5: [[rule]] has no targets"),
    (
        R,
        "targets = { name = \"web-*\" }",
        "targets = { name = \"web-08\" }",
        "policy.toml:18: there is no target web-08; did you mean web-07?",
    ),
    (
        R,
        "roles = [\"files\"]",
        "roles = [\"flies\"]",
        "policy.toml:19: no target that is selected has a role flies; did you mean files?",
    ),
    (R, "roles = [\"files\"]", "roles = []", "policy.toml:19: roles is empty"),
    (
        R,
        "max = \"1h\"\nrecord = \"off\"",
        "max = \"1h\"",
        "policy.toml:5: rule prod opens web-07, a direct target, which nothing records: say record = \"off\"",
    ),
    (
        R,
        "max = \"1h\"\nrecord = \"off\"",
        "max = \"1h\"\nrecord = \"of\"",
        "policy.toml:11: record is strict or off; did you mean off?",
    ),
    (R, "auto = \"requester.signed_in_s < 43200\"", "", "policy.toml:15: [[rule]] has neither a step nor auto"),
    (R, "max = \"1h\"\n", "max = \"1h\"\nauto = true\n", "policy.toml:5: [[rule]] has both steps and auto"),
    (
        R,
        "auto = \"requester.signed_in_s < 43200\"",
        "auto = false",
        "policy.toml:15: [[rule]] has neither a step nor auto",
    ),
    (
        R,
        "requester.signed_in_s < 43200",
        "requester.signed_in < 43200",
        "policy.toml:21: requester has no field signed_in",
    ),
    (R, "requester.signed_in_s < 43200", "history.granted_30d > 2", "policy.toml:21: history.* is not in this version"),
    (R, "requester.signed_in_s < 43200", "1 +", "policy.toml:21: the condition does not parse"),
    (
        R,
        "max = \"1h\"\n",
        "max = \"1h\"\noverrides = [\"filse\"]\n",
        "policy.toml:11: there is no rule filse; did you mean files?",
    ),
    (R, "max = \"1h\"\n", "max = \"1h\"\noverrides = [\"prod\"]\n", "policy.toml:11: prod cannot override itself"),
    (R, "max = \"1h\"\n", "max = \"1h\"\nticket = { pattern = \"(\" }\n", "policy.toml:11: the pattern does not parse"),
    (
        R,
        "max = \"1h\"\n",
        "max = \"1h\"\nreason = { min_chars = 0 }\n",
        "policy.toml:11: min_chars must be from 1 to 2000",
    ),
    (R, "from = [\"group:backend\"]", "from = []", "policy.toml:14: from is empty"),
    (R, "from = [\"group:backend\"]", "from = [\"kind:agent\"]", "policy.toml:14: machines and agents never approve"),
    (
        R,
        "from = [\"group:backend\"]",
        "from = [\"group:machines\"]",
        "policy.toml:12: nobody whom from names can approve",
    ),
    (
        R,
        "from = [\"group:backend\"]",
        "from = [\"group:backend\"]\n  need = 0",
        "policy.toml:15: need must be from 1 to 16",
    ),
    (
        R,
        "from = [\"group:backend\"]",
        "from = [\"group:backend\"]\n  remind = \"5m\"",
        "policy.toml:15: remind is not in this version",
    ),
    (
        R,
        "from = [\"group:backend\"]",
        "from = [\"group:backend\"]\n  escalate = []",
        "policy.toml:15: escalate is not in this version",
    ),
    (
        R,
        "[[forbid]]",
        "[breakglass]\nwho = [\"group:backend\"]\n[[forbid]]",
        "policy.toml:22: breakglass is not in this version",
    ),
    (R, "as = \"bob\"", "as = \"bobb\"", "policy.toml:33: there is no person bobb; did you mean bob?"),
    (
        R,
        "target = \"web-07\", role = \"files\"",
        "target = \"web-7\", role = \"files\"",
        "policy.toml:33: there is no target web-7; did you mean web-07?",
    ),
    (R, "expect = \"auto\"", "expect = \"yes\"", "policy.toml:34: expect is \"refused\", \"auto\" or {"),
];

#[test]
fn every_mistake_is_told_with_its_line() {
    for (file, from, to, says) in MISTAKES {
        let (mut p, mut t, mut r) = (people(), targets(), POLICY.to_owned());
        let text = match file {
            P => &mut p,
            T => &mut t,
            R => &mut r,
        };
        assert!(text.contains(from), "{from}");
        *text = text.replacen(from, to, 1);
        match parse(&p, &t, &r) {
            Ok(_) => panic!("taken: {to}"),
            Err(list) => assert!(
                list.iter().any(|line| line.starts_with(says)),
                "{to}\n wanted {says}\n got {}",
                list.join("\n     ")
            ),
        }
    }
}

#[test]
fn keys_are_one_persons_and_can_sign() {
    let twice = people().replace(&key(2), &key(1));
    assert!(
        parse(&twice, &targets(), POLICY).unwrap_err()[0]
            .starts_with("people.toml:8: this key belongs to alice already")
    );
    // An RSA host key is the client's to verify on a direct target, and nobody's behind the gateway.
    let direct = targets().replace(&key(9), &rsa());
    parse(&people(), &direct, POLICY).unwrap();
    let behind = direct.replace("mode = \"direct\"", "mode = \"gateway\"");
    let problems = parse(&people(), &behind, POLICY).unwrap_err();
    assert!(problems[0].starts_with("targets.toml:7: the gateway verifies no RSA host keys"), "{problems:?}");
    let rsa = people().replace(&key(2), &rsa());
    assert!(parse(&rsa, &targets(), POLICY).unwrap_err()[0].starts_with("people.toml:8: this key cannot sign acts"));
    let junk = people().replace(&key(2), "ssh-ed25519 AAAA");
    assert!(parse(&junk, &targets(), POLICY).unwrap_err()[0].starts_with("people.toml:8: "));
}

#[test]
fn all_mistakes_are_told_at_once_in_order() {
    let people = people().replace("groups = [\"backend\"]", "group = 1").replace("[offices]", "[ofices]");
    let policy = POLICY.replace("4h", "never").replace("roles = [\"files\"]", "roles = \"files\"");
    let list = parse(&people, &targets().replace("mode =", "more = 1\nmode ="), &policy).unwrap_err();
    let place = |line: &String| line.split(':').take(2).collect::<Vec<_>>().join(":");
    let places: Vec<String> = list.iter().map(place).collect();
    assert_eq!(
        places,
        ["people.toml:3", "people.toml:17", "policy.toml:4", "policy.toml:19", "targets.toml:6"],
        "{list:#?}"
    );
}

#[test]
fn circles_are_refused() {
    let circle = POLICY
        .replace("max = \"1h\"\n", "max = \"1h\"\noverrides = [\"files\"]\n")
        .replace("roles = [\"files\"]", "roles = [\"files\"]\noverrides = [\"prod\"]");
    let list = parse(&people(), &targets(), &circle).unwrap_err().join("\n");
    assert!(list.contains("override each other in a circle"), "{list}");
    let other = "[[rule]]\nid = \"b\"\nwho = [\"person:alice\"]\ntargets = { name = \"web-07\" }\nroles = [\"deploy\"]\nrecord = \"off\"\n\
                 step = [{ name = \"owner\", from = [\"group:dba\"] }, { name = \"peer\", from = [\"group:backend\"] }]\n";
    let first = POLICY.replace("[[forbid]]", &format!("{other}[[forbid]]"));
    let policy = first.replace("expect = { steps = [\"peer\"], max = \"1h\" }", "expect = \"refused\"");
    parse(&people(), &targets(), &policy).unwrap();
    let both = policy.replace(
        "  from = [\"group:backend\"]\n",
        "  from = [\"group:backend\"]\n  [[rule.step]]\n  name = \"owner\"\n  from = [\"group:dba\"]\n",
    );
    let list = parse(&people(), &targets(), &both).unwrap_err().join("\n");
    assert!(list.contains("rules prod, b order the steps owner, peer in opposite ways"), "{list}");
    // Of two people no request meets both rules.
    parse(&people(), &targets(), &both.replace("who = [\"person:alice\"]", "who = [\"kind:machine\"]")).unwrap();
}

#[test]
fn files_may_be_split_and_others_are_refused() {
    let mut split = text(&people(), &targets(), POLICY);
    let (first, second) = POLICY.split_at(POLICY.find("[[forbid]]").unwrap());
    split.files.remove("policy.toml");
    split.files.insert("policy/a.toml".into(), first.into());
    split.files.insert("policy/b.toml".into(), second.into());
    assert_eq!(Bundle::parse(&split, &[]).unwrap().policy.forbids.len(), 1);
    for name in
        ["../people.toml", "people/../x.toml", "policy.yaml", "rules.toml", "people/a/b.toml", "people/.toml", ""]
    {
        let mut more = split.clone();
        more.files.insert(name.into(), String::new());
        let list = Bundle::parse(&more, &[]).unwrap_err();
        assert_eq!((list[0].file.as_str(), list[0].line), (name, None));
    }
    split.files.insert("policy/c.toml".into(), "timezone = \"UTC\"\n".into());
    assert!(
        Bundle::parse(&split, &[]).unwrap_err()[0].to_string().contains("timezone is said in policy/a.toml already")
    );
}

#[test]
fn the_plan_tells_what_changes_and_for_whom() {
    let old = good();
    let policy = POLICY.replace("max = \"1h\"\nrecord", "max = \"2h\"\nrecord").replace(
        "[[forbid]]",
        "[[rule]]\nid = \"fast\"\nwho = [\"person:alice\"]\ntargets = { name = \"web-07\" }\nroles = [\"deploy\"]\nrecord = \"off\"\nauto = true\noverrides = [\"prod\"]\n[[forbid]]",
    );
    let policy = policy.replace("expect = { steps = [\"peer\"], max = \"1h\" }", "expect = \"auto\"");
    let new = parse(&people().replace(&key(2), &key(3)), &targets().replace("DB8::7", "DB8::8"), &policy).unwrap();
    let plan = super::plan(&old, &new);
    let lines = |lines: &[String]| lines.join("\n");
    assert!(lines(&plan.lines.added).contains("rule fast") && lines(&plan.lines.added).contains("key SHA256:"));
    assert!(lines(&plan.lines.removed).contains(" of bob"));
    let changed = lines(&plan.lines.changed);
    assert!(changed.contains("target web-07: address [2001:db8::7]:22 -> [2001:db8::8]:22"), "{changed}");
    assert!(changed.contains("rule prod: max 1h -> 2h"), "{changed}");
    let gains: Vec<String> = plan.gains.iter().map(ToString::to_string).collect();
    assert_eq!(
        gains,
        [
            "alice web-07 deploy: ask peer (1 of group:backend), at most 1h -> automatic, at most 4h",
            "bob web-07 deploy: ask peer (1 of group:backend), at most 1h -> ask peer (1 of group:backend), at most 2h",
        ]
    );
    assert!(plan.loses.is_empty() && plan.not_compared == 0);
    let back = super::plan(&new, &old);
    assert_eq!((back.gains.len(), back.loses.len()), (0, 2));
    let relaxed: Vec<String> = relaxations(&new).iter().map(ToString::to_string).collect();
    assert_eq!(relaxed, ["fast relaxes prod for alice"]);
    assert!(super::plan(&old, &old).is_empty());
}

proptest! {
    #[test]
    fn no_text_panics(people in "\\PC{0,80}", policy in "(\\[\\[?[a-z.]{0,6}\\]?\\]?|[a-z]{1,6} = [\\[\"{a-z0-9 ]{0,8}|\n){0,12}") {
        let _ = parse(&people, &policy, &policy);
    }

    #[test]
    fn a_cut_or_torn_bundle_never_panics(cut in 0usize..1400, junk in "[\\[\\]\"={}\n a-z]{0,3}") {
        let policy = POLICY;
        let cut = (0..=cut.min(policy.len())).rev().find(|at| policy.is_char_boundary(*at)).unwrap();
        let _ = parse(&people(), &targets(), &format!("{}{junk}{}", &policy[..cut], &policy[cut..]));
        let _ = parse(&people(), &targets(), &policy[..cut]);
    }

    #[test]
    fn bytes_are_read_back(files in prop::collection::btree_map(".{0,12}", ".{0,40}", 0..4)) {
        let text = BundleText { files };
        prop_assert_eq!(BundleText::from_bytes(&text.bytes()).unwrap(), text);
    }
}
