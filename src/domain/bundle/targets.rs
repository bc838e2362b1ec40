//! targets.toml: which servers there are, how they are known, and which roles they have.

use std::collections::{BTreeMap, BTreeSet};

use jit_ca::key::{KeyKind, PublicKey};

use super::read::{At, Part, Problems, Roots, Table, meant, once};
use super::{APPLY, BROKER, GATEWAYS, databases};
use crate::domain::key::Key;
use crate::domain::names::{LoginName, RoleName, TargetName};
use crate::domain::session::GATEWAY_ALIAS;
use crate::domain::target::{Address, Allow, HostIdentity, Mode, Role, Target, TargetKind, Targets};
use crate::domain::text::check_text;

/// The most labels that a target may have, and the most characters in one's name or value.
const MAX_LABELS: usize = 64;
const MAX_LABEL_CHARS: usize = 64;

/// The targets that are there without being said: the bundle itself.
pub(super) fn built_in() -> Targets {
    let role = Role {
        logins: Vec::new(),
        allow: BTreeSet::new(),
        record_input: false,
        database: None,
        narrower_than: BTreeSet::new(),
    };
    let (Ok(name), Ok(apply)) = (TargetName::new(BROKER), RoleName::new(APPLY)) else { return Targets::new() };
    let target = Target {
        name: name.clone(),
        kind: TargetKind::Broker,
        address: Address { host: "broker".to_owned(), port: 1 },
        labels: BTreeMap::new(),
        mode: Mode::Direct,
        host: HostIdentity::BrokerCa,
        database: None,
        roles: BTreeMap::from([(apply, role)]),
    };
    Targets::from([(name, target)])
}

pub(super) fn read<'t>(roots: &'t Roots<'t>, problems: &mut Problems) -> Targets {
    let mut targets = built_in();
    let mut seen = BTreeSet::new();
    for mut root in roots.of(Part::Targets) {
        super::policy_file::schema(&mut root, problems);
        for table in root.tables("target", problems) {
            if let Some(target) = target(table, roots, &mut seen, problems) {
                targets.insert(target.name.clone(), target);
            }
        }
        root.finish(problems);
    }
    targets
}

fn target(
    mut table: Table<'_>,
    roots: &Roots<'_>,
    seen: &mut BTreeSet<TargetName>,
    problems: &mut Problems,
) -> Option<Target> {
    let at = table.at;
    let name = table.needed_text("name", problems).and_then(|name| name_of(name, seen, problems));
    let kind = table.needed_text("kind", problems)?;
    // What a target of an unknown kind has besides is known to a later version, so nothing more is said of it.
    let kind = problems.take(kind.at, kind_of(kind.value))?;
    let address = table.needed_text("address", problems).and_then(|text| problems.take(text.at, text.value.parse()));
    let labels = table.table("labels", problems).map(|labels| read_labels(labels, problems)).unwrap_or_default();
    let mode = read_mode(&mut table, kind, problems);
    let (host, database) = match kind {
        TargetKind::Postgres => {
            let database = databases::database(&mut table, roots, address.as_ref(), problems);
            (database.is_some().then_some(HostIdentity::Tls), database)
        }
        _ => (host(&mut table, mode, problems), None),
    };
    let roles = match table.table("roles", problems) {
        Some(roles) => read_roles(roles, kind, mode, problems),
        None => {
            problems.add(at, "[[target]] has no role: add [target.roles.NAME]");
            BTreeMap::new()
        }
    };
    table.finish(problems);
    let (name, address, mode, host) = (name?, address?, mode?, host?);
    Some(Target { name, kind, address, labels, mode, host, database, roles })
}

fn name_of(text: At<'_, &str>, seen: &mut BTreeSet<TargetName>, problems: &mut Problems) -> Option<TargetName> {
    let name = problems.take(text.at, TargetName::new(text.value))?;
    if name.as_str() == BROKER {
        problems.add(text.at, format!("{BROKER} is built in; rules may name it, targets.toml does not"));
        return None;
    }
    if name.as_str() == GATEWAY_ALIAS {
        problems.add(text.at, format!("{GATEWAY_ALIAS} is the gateway's own name; call the target something else"));
        return None;
    }
    once(seen, &name, text.at, "target", problems).then_some(name)
}

/// The kind that a word means, for targets and for the selectors of rules.
pub(super) fn kind_of(word: &str) -> Result<TargetKind, String> {
    match word {
        "ssh" => Ok(TargetKind::Ssh),
        "broker" => Err(format!("the broker is built in as {BROKER}")),
        "postgres" => Ok(TargetKind::Postgres),
        "mysql" => Err(format!("this build has no {word} targets yet")),
        other => Err(format!("kind is ssh or postgres{}", meant(other, ["ssh", "postgres", "mysql"]))),
    }
}

fn read_mode(table: &mut Table<'_>, kind: TargetKind, problems: &mut Problems) -> Option<Mode> {
    let (at, word) = table.text("mode", problems).map_or((table.at, "gateway"), |mode| (mode.at, mode.value));
    match word {
        "direct" => Some(Mode::Direct),
        "gateway" if GATEWAYS.contains(&kind) => Some(Mode::Gateway),
        "gateway" => {
            problems.add(at, format!("this build has no {} gateway yet: say mode = \"direct\"", kind.word()));
            None
        }
        other => {
            problems.add(at, format!("mode is gateway or direct{}", meant(other, ["gateway", "direct"])));
            None
        }
    }
}

fn host(table: &mut Table<'_>, mode: Option<Mode>, problems: &mut Problems) -> Option<HostIdentity> {
    let at = table.at;
    match (table.text("host_key", problems), table.text("host_ca", problems)) {
        (Some(text), None) => {
            let key = problems.take(text.at, PublicKey::parse(text.value))?;
            if mode == Some(Mode::Gateway) && matches!(key.kind(), KeyKind::Rsa { .. }) {
                // SECURITY: the gateway's SSH library is built without RSA, whose private-key operation leaks by its timing (facts.md).
                problems.add(
                    text.at,
                    "the gateway verifies no RSA host keys: pin the host's ed25519 or ECDSA key, enroll the host and say host_ca = \"@broker\", or say mode = \"direct\"",
                );
            }
            Some(HostIdentity::Key(Key(key)))
        }
        (None, Some(ca)) if ca.value == "@broker" => Some(HostIdentity::BrokerCa),
        (None, Some(ca)) => {
            problems.add(ca.at, "host_ca is \"@broker\"; another host's key is pinned by host_key");
            None
        }
        (Some(_), Some(ca)) => {
            problems.add(ca.at, "host_key and host_ca exclude each other");
            None
        }
        (None, None) => {
            if !table.has("host_key") && !table.has("host_ca") {
                problems.add(at, "[[target]] has neither host_key nor host_ca: a host is never trusted on first use");
            }
            None
        }
    }
}

fn read_labels(table: Table<'_>, problems: &mut Problems) -> BTreeMap<String, String> {
    let labels = labels(&table, problems);
    if labels.len() > MAX_LABELS {
        problems.add(table.at, format!("a target has at most {MAX_LABELS} labels"));
    }
    labels
}

/// Reads labels, of a target or of what a rule selects.
pub(super) fn labels(table: &Table<'_>, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, value) in table.each() {
        let Some(text) = value.value.as_str() else {
            problems.add(value.at, "a label is a string");
            continue;
        };
        let checked = check_text("label's name", key.value, MAX_LABEL_CHARS)
            .and_then(|()| check_text("label", text, MAX_LABEL_CHARS))
            .map_err(|refusal| refusal.message.trim_end_matches('.').to_owned());
        if problems.take(value.at, checked).is_some() {
            labels.insert(key.value.to_owned(), text.to_owned());
        }
    }
    labels
}

fn read_roles(
    table: Table<'_>,
    kind: TargetKind,
    mode: Option<Mode>,
    problems: &mut Problems,
) -> BTreeMap<RoleName, Role> {
    let mut roles = BTreeMap::new();
    let mut narrower = Vec::new();
    for (key, value) in table.each() {
        let name = problems.take(key.at, RoleName::new(key.value));
        let Some(mut role) = Table::of(value, format!("role {}", crate::domain::text::shown(key.value)), problems)
        else {
            continue;
        };
        let (logins, allow, database) = match kind {
            TargetKind::Postgres => (Vec::new(), BTreeSet::new(), databases::role(&mut role, problems)),
            _ => (logins(&mut role, problems), allow(&mut role, mode, problems), None),
        };
        let record_input =
            kind == TargetKind::Ssh && role.switch("record_input", true, false, problems).unwrap_or_default();
        let mut than = BTreeSet::new();
        for text in role.texts("narrower_than", problems).unwrap_or_default() {
            let Some(other) = problems.take(text.at, RoleName::new(text.value)) else { continue };
            if name.as_ref() == Some(&other) {
                problems.add(text.at, format!("role {other} cannot be narrower than itself"));
            } else if once(&mut than, &other, text.at, "role", problems) {
                narrower.push(At { at: text.at, value: other });
            }
        }
        role.finish(problems);
        if let Some(name) = name {
            roles.insert(name, Role { logins, allow, record_input, database, narrower_than: than });
        }
    }
    if roles.is_empty() {
        problems.add(table.at, "roles is empty: add [target.roles.NAME]");
    }
    for other in narrower {
        if !roles.contains_key(&other.value) {
            let guess = meant(other.value.as_str(), roles.keys().map(RoleName::as_str));
            problems.add(other.at, format!("the target has no role {}{guess}", other.value));
        } else if reaches(&roles, &other.value, &other.value) {
            problems.add(other.at, format!("role {} is narrower than itself, by way of others", other.value));
        }
    }
    roles
}

/// True when following `narrower_than` from a role leads to another one.
fn reaches(roles: &BTreeMap<RoleName, Role>, from: &RoleName, to: &RoleName) -> bool {
    let mut seen = BTreeSet::new();
    let mut left = vec![from];
    while let Some(name) = left.pop() {
        for next in roles.get(name).into_iter().flat_map(|role| &role.narrower_than) {
            if next == to {
                return true;
            }
            if seen.insert(next) {
                left.push(next);
            }
        }
    }
    false
}

fn logins(role: &mut Table<'_>, problems: &mut Problems) -> Vec<LoginName> {
    let mut seen = BTreeSet::new();
    let mut logins = Vec::new();
    for text in role.needed_texts("logins", problems).unwrap_or_default() {
        let Some(login) = problems.take(text.at, LoginName::new(text.value)) else { continue };
        if once(&mut seen, &login, text.at, "login", problems) {
            logins.push(login);
        }
    }
    logins
}

fn allow(role: &mut Table<'_>, mode: Option<Mode>, problems: &mut Problems) -> BTreeSet<Allow> {
    let at = role.at;
    if !role.has("allow") {
        role.some_texts("allow", problems);
        return BTreeSet::from([Allow::Shell, Allow::Exec, Allow::Sftp]);
    }
    let mut allow = BTreeSet::new();
    let Some(texts) = role.some_texts("allow", problems) else { return allow };
    let before = problems.len();
    for text in &texts {
        let one = match text.value {
            "shell" => Allow::Shell,
            "exec" => Allow::Exec,
            "sftp" => Allow::Sftp,
            "forward" => Allow::Forward,
            other => {
                let guess = meant(other, ["shell", "exec", "sftp", "forward"]);
                problems.add(text.at, format!("allow has shell, exec, sftp, forward{guess}"));
                continue;
            }
        };
        if !allow.insert(one) {
            problems.add(text.at, format!("allow has {} twice", text.value));
        }
    }
    let enforced = allow.contains(&Allow::Exec) || allow == BTreeSet::from([Allow::Sftp]);
    if mode == Some(Mode::Direct) && !enforced && problems.len() == before {
        let message = "sshd cannot enforce this on a direct target: a certificate cannot forbid commands, unless sftp is all that is allowed; \
                       say allow with exec, or allow = [\"sftp\"]";
        problems.add(texts.first().map_or(at, |text| text.at), message);
    }
    allow
}
