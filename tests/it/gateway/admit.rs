//! Certificates: the gateway's verdict beside that of a real sshd, on the same ones.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jit_broker::domain::authority::Authorities;
use jit_broker::domain::digest::Digest;
use jit_broker::domain::grant::{Credential, CredentialKind};
use jit_broker::domain::ids::GrantId;
use jit_broker::domain::key::Key;
use jit_broker::domain::names::TargetName;
use jit_broker::domain::state::State;
use jit_broker::gateway::ssh::admit::{Admitted, Denied, Knock, Proof, Way, admit};
use jit_ca::ssh::CertificateFacts;

use super::world::{Gw, TARGET, put, until};
use crate::world::Done;

/// An sshd that trusts one CA for one principal.
struct Judge {
    child: Child,
    port: u16,
}

impl Judge {
    fn start(world: &Gw, ca: &str) -> Self {
        let at = world.dir.join("judge");
        std::fs::create_dir_all(&at).unwrap();
        put(&at.join("ca.pub"), ca);
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (here, host) = (at.display(), world.dir.join("host"));
        put(
            &at.join("config"),
            &format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {}/key\nTrustedUserCAKeys {here}/ca.pub\n\
                 AuthorizedPrincipalsFile {}/principals\nAuthorizedKeysFile none\nUsePAM no\nStrictModes no\n\
                 PermitRootLogin prohibit-password\nPidFile none\nAuthenticationMethods publickey\n",
                host.display(),
                host.display()
            ),
        );
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-q", "-f"]).arg(at.join("config")).stdin(Stdio::null());
        let child = sshd.spawn().unwrap();
        until(Duration::from_secs(10), "sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port }
    }

    fn lets_in(&self, world: &Gw, key: &Path) -> bool {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        ssh.args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-i"]).arg(key);
        ssh.args(["-p", &self.port.to_string(), "-l", &world.login, "127.0.0.1", "echo in"]);
        let done: Done = ssh.env_remove("SSH_AUTH_SOCK").stdin(Stdio::null()).output().unwrap().into();
        done.out == "in\n"
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keygen(arguments: &[&str]) {
    let done: Done = Command::new("ssh-keygen").args(arguments).stdin(Stdio::null()).output().unwrap().into();
    done.ok();
}

struct Case {
    what: &'static str,
    arguments: Vec<String>,
    ca: &'static str,
    sshd: bool,
    ours: Result<(), Denied>,
}

fn cases(principal: &str) -> Vec<Case> {
    let case = |what, more: &[&str], sshd, ours| {
        let arguments = more.iter().map(ToString::to_string).collect();
        Case { what, arguments, ca: "ca", sshd, ours }
    };
    let named = ["-n", principal];
    let with = |more: &[&'static str]| -> Vec<String> {
        named.iter().map(ToString::to_string).chain(more.iter().map(ToString::to_string)).collect()
    };
    let full = |what, more: &[&'static str], sshd, ours| Case { what, arguments: with(more), ca: "ca", sshd, ours };
    let now = "-5m:+5m";
    vec![
        full("good", &["-V", now], true, Ok(())),
        full("over", &["-V", "-2h:-1h"], false, Err(Denied::Window)),
        full("early", &["-V", "+1h:+2h"], false, Err(Denied::Window)),
        // Stricter than sshd, on purpose: nothing of ours is for ever.
        full("for ever", &["-V", "always:forever"], true, Err(Denied::Window)),
        case("another principal", &["-n", "web-08/root", "-V", now], false, Err(Denied::Principal)),
        case("the account alone", &["-n", "root", "-V", now], false, Err(Denied::Principal)),
        case("no principal", &["-V", now], false, Err(Denied::Principal)),
        full("a host's", &["-V", now, "-h"], false, Err(Denied::Type)),
        Case { ca: "other", ..full("another CA", &["-V", now], false, Err(Denied::Authority)) },
        Case { ca: "self", ..full("its own CA", &["-V", now], false, Err(Denied::Authority)) },
        full("from here", &["-V", now, "-O", "source-address=127.0.0.0/8"], true, Ok(())),
        full("from elsewhere", &["-V", now, "-O", "source-address=10.0.0.0/8"], false, Err(Denied::Option)),
        full("from nowhere", &["-V", now, "-O", "critical:source-address=nonsense"], false, Err(Denied::Option)),
        full(
            "half from nowhere",
            &["-V", now, "-O", "critical:source-address=127.0.0.1,x"],
            false,
            Err(Denied::Option),
        ),
        full("an unknown option", &["-V", now, "-O", "critical:x@example=1"], false, Err(Denied::Option)),
        full("an unknown extension", &["-V", now, "-O", "extension:x@example=1"], true, Ok(())),
        // sshd keeps the first and cannot keep the second on such a key; neither is kept here, so both refuse.
        full("a forced command", &["-V", now, "-O", "force-command=echo in"], true, Err(Denied::Option)),
        full("a touch wanted", &["-V", now, "-O", "verify-required"], true, Err(Denied::Option)),
    ]
}

fn sign(dir: &Path, ca: &str, grant: GrantId, arguments: &[String]) -> (PathBuf, CertificateFacts) {
    let key = dir.join(format!("c-{}", jit_broker::clock::random16().map(|b| format!("{b:02x}")).concat()));
    let path = key.to_str().unwrap();
    keygen(&["-q", "-t", "ed25519", "-N", "", "-f", path]);
    let ca = if ca == "self" { path.to_owned() } else { dir.join(ca).to_str().unwrap().to_owned() };
    let (id, extension) = (format!("jit:{grant}:alice"), format!("extension:grant@jit-broker={grant}"));
    let mut all = vec!["-q", "-s", &ca, "-I", &id, "-z", "7"];
    all.extend(arguments.iter().map(String::as_str));
    // Hosts' certificates have no extensions.
    if !arguments.iter().any(|argument| argument == "-h") {
        all.extend(["-O", &extension]);
    }
    let public = format!("{path}.pub");
    all.push(&public);
    keygen(&all);
    let line = std::fs::read_to_string(format!("{path}-cert.pub")).unwrap();
    let line = line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    (key, jit_ca::ssh::read(&line).unwrap())
}

/// The state of the world, in which a CA is the gateway's and a certificate is a grant's.
fn having(world: &Gw, ca: &Key, grant: GrantId, facts: &CertificateFacts) -> State {
    let mut state = world.run(world.broker().memory()).state.clone();
    let mut genesis = (**state.genesis.as_ref().unwrap()).clone();
    genesis.ssh_gateway = Some(ca.clone());
    state.authorities = Authorities::of(&genesis);
    state.genesis = Some(Arc::new(genesis));
    state.grants.get_mut(&grant).unwrap().credentials.push(Credential {
        kind: CredentialKind::SshGateway,
        serial: facts.serial,
        key: Key(facts.key.clone()),
        valid_after: 0,
        valid_before: i64::MAX,
        nonce: Digest::new([0; 32]),
        tbs_sha256: Digest::new(facts.tbs_sha256),
    });
    state
}

fn ask(world: &Gw, facts: &CertificateFacts, state: &State) -> Result<Admitted, Denied> {
    let now = world.broker().now();
    let knock = Knock { peer: "127.0.0.1".parse().unwrap(), inside: None, now, latest: now };
    admit(&Proof::Certificate(facts), &world.login, knock, state)
}

fn cas(world: &Gw) -> Key {
    for name in ["ca", "other"] {
        keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", world.dir.join(name).to_str().unwrap()]);
    }
    let line = std::fs::read_to_string(world.dir.join("ca.pub")).unwrap();
    Key(jit_ca::key::PublicKey::parse(line.trim()).unwrap())
}

#[test]
fn the_verdicts_are_those_of_sshd_or_stricter() {
    let world = Gw::start();
    let ca = cas(&world);
    let judge = Judge::start(&world, &format!("{ca}\n"));
    let (grant, _, _) = world.granted("all", 3600);
    let mut wrong = Vec::new();
    for case in cases(&format!("{TARGET}/{}", world.login)) {
        let (key, facts) = sign(&world.dir, case.ca, grant, &case.arguments);
        let state = having(&world, &ca, grant, &facts);
        let (sshd, ours) = (judge.lets_in(&world, &key), ask(&world, &facts, &state).map(drop));
        if (sshd, ours) != (case.sshd, case.ours) {
            wrong.push(format!("{}: sshd {sshd}, ours {ours:?}", case.what));
        }
        assert!(sshd || ours.is_err(), "{}: laxer than sshd", case.what);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_a_logged_certificate_of_an_open_grant_opens_anything() {
    let world = Gw::start();
    let ca = cas(&world);
    let (grant, _, _) = world.granted("all", 3600);
    let principal = format!("{TARGET}/{}", world.login);
    let arguments = ["-n", &principal, "-V", "-5m:+5m"].map(str::to_owned);
    let (_, facts) = sign(&world.dir, "ca", grant, &arguments);
    let state = having(&world, &ca, grant, &facts);
    let way = Way::Granted { grant, target: TargetName::new(TARGET).unwrap(), login: world.login.parse().unwrap() };
    assert_eq!(ask(&world, &facts, &state).unwrap().way, way);
    let key = Key(facts.key.clone());
    type Change<'a> = &'a dyn Fn(&mut State);
    let table: [(&str, Denied, Change<'_>); 9] = [
        ("not logged", Denied::Grant, &|s| s.grants.get_mut(&grant).unwrap().credentials.clear()),
        ("other bytes", Denied::Grant, &|s| {
            s.grants.get_mut(&grant).unwrap().credentials[0].tbs_sha256 = Digest::new([1; 32])
        }),
        ("another serial", Denied::Grant, &|s| s.grants.get_mut(&grant).unwrap().credentials[0].serial = 8),
        ("of a host's CA", Denied::Grant, &|s| {
            s.grants.get_mut(&grant).unwrap().credentials[0].kind = CredentialKind::SshUser
        }),
        ("over", Denied::Grant, &|s| s.grants.get_mut(&grant).unwrap().ends_at = 0),
        ("the key revoked", Denied::Revoked, &|s| {
            s.revoked_keys.insert(key.clone());
        }),
        ("the CA revoked", Denied::Revoked, &|s| {
            s.revoked_keys.insert(ca.clone());
        }),
        ("disabled", Denied::Revoked, &|s| {
            s.disabled.insert("alice".parse().unwrap());
        }),
        ("no gateway", Denied::Authority, &|s| {
            let mut genesis = (**s.genesis.as_ref().unwrap()).clone();
            genesis.ssh_gateway = None;
            s.authorities = Authorities::of(&genesis);
            s.genesis = Some(Arc::new(genesis));
        }),
    ];
    for (what, denied, change) in table {
        let mut changed = state.clone();
        change(&mut changed);
        assert_eq!(ask(&world, &facts, &changed).map(drop), Err(denied), "{what}");
    }
    // To the second: valid from its first on, not any more at its end, whichever clock says so.
    let at = |now: u64, latest: u64| {
        let (now, latest) = (i64::try_from(now).unwrap(), i64::try_from(latest).unwrap());
        let mut open = state.clone();
        let held = open.grants.get_mut(&grant).unwrap();
        (held.starts_at, held.ends_at) = (0, i64::MAX);
        let knock = Knock { peer: "127.0.0.1".parse().unwrap(), inside: None, now, latest };
        admit(&Proof::Certificate(&facts), &world.login, knock, &open).is_ok()
    };
    let (after, before) = (facts.valid_after, facts.valid_before);
    assert!(at(after, after) && !at(after - 1, after - 1) && at(before - 1, before - 1) && !at(before, before));
    assert!(!at(before - 1, before));
    // The user must be the account of the principal, and nobody else's grammar passes.
    let now = world.broker().now();
    for user in ["nobody", "", "root%web-07", "alice#db01", "ROOT", "root ", "%"] {
        let knock = Knock { peer: "127.0.0.1".parse().unwrap(), inside: None, now, latest: now };
        assert!(admit(&Proof::Certificate(&facts), user, knock, &state).is_err(), "{user}");
    }
    // Inside a hop to another target it is worth nothing.
    let other = TargetName::new("web-08").unwrap();
    let knock = Knock { peer: "127.0.0.1".parse().unwrap(), inside: Some(&other), now, latest: now };
    assert_eq!(admit(&Proof::Certificate(&facts), &world.login, knock, &state), Err(Denied::Principal));
}
