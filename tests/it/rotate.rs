//! The authorities are replaced under a running loop of real logins, and none is lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use jit_broker::domain::act::Deed;
use jit_broker::domain::authority::{Purpose, Rotation, Wait};
use jit_broker::domain::refusal::{Code, Refusal};
use jit_broker::signer::{Answer, Order, Signer};

use crate::served::eventually;
use crate::trust::{World as Inner, fresh_gate, leaves};
use crate::world::{Done, World};

/// Logins of alice, one after the other, for as long as something else goes on.
struct Loop<'a> {
    world: &'a World,
    one: Mutex<()>,
    over: AtomicBool,
    done: AtomicUsize,
}

impl Loop<'_> {
    fn run(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let _held = self.one.lock().unwrap_or_else(PoisonError::into_inner);
            let done = self.world.run("alice", "$SSH web-07 'echo in'");
            assert_eq!((done.code, done.out.as_str()), (Some(0), "in\n"), "{}", done.err);
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until this many more logins have worked.
    fn more(&self, n: usize) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("logins go on", || self.done.load(Ordering::Relaxed) >= before + n);
    }

    /// Alice gives her grant back and gets another, between two logins.
    fn another_grant(&self) {
        let _held = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        self.world.run("alice", "jit-broker release --all").ok();
        self.world.granted("30m");
    }
}

/// Does something while alice logs in again and again; gives how often she did.
fn meanwhile(world: &World, work: impl FnOnce(&Loop<'_>)) -> usize {
    world.granted("30m");
    let looping = Loop { world, one: Mutex::default(), over: AtomicBool::new(false), done: AtomicUsize::new(0) };
    std::thread::scope(|scope| {
        let logins = scope.spawn(|| looping.run());
        looping.more(1);
        work(&looping);
        looping.more(1);
        looping.over.store(true, Ordering::Relaxed);
        logins.join().unwrap();
    });
    looping.done.load(Ordering::Relaxed)
}

fn admin(world: &World, line: &str) -> Done {
    world.run("root-admin", &format!("jit-broker {line}"))
}

/// The fingerprint of the authority of alice's certificate.
fn signed_by(world: &World) -> String {
    let login = world.run("alice", "id -un").ok();
    let path = world.dir.join(format!("alice/jit/run/ssh/web-07/{}-cert.pub", login.trim()));
    jit_ca::ssh::read(std::fs::read_to_string(path).unwrap().trim_end()).unwrap().ca.fingerprint()
}

fn keys(world: &World, kind: &str) -> Vec<String> {
    admin(world, &format!("ca export --kind {kind}")).ok().lines().map(str::to_owned).collect()
}

#[test]
fn a_rotation_of_the_user_authority_loses_no_login_to_a_host() {
    let world = World::direct();
    let file = world.dir.join("host/user_ca.pub");
    let trusted = || std::fs::read_to_string(&file).unwrap().lines().count();
    let done = meanwhile(&world, |logins| {
        let old = signed_by(&world);
        world.run("alice", "cp jit/run/ssh/web-07/$(id -un)-cert.pub old-cert.pub").ok();
        assert_eq!(admin(&world, "ca rotate ssh-user --activate").code, Some(2), "nothing is staged");
        admin(&world, "ca rotate ssh-user").ok();
        assert_eq!(keys(&world, "ssh-user").len(), 2, "both are published");
        let twice = admin(&world, "ca rotate ssh-user");
        assert!(twice.code == Some(2) && twice.err.contains("JB3016"), "{}", twice.err);
        admin(&world, "ca rotate ssh-user --activate --wait 30s").ok();
        assert_eq!(trusted(), 2, "the host trusts both");
        logins.more(2);
        assert_eq!(signed_by(&world), old, "what was issued holds");
        // Who still needs the old one is named, and waited for.
        let refused = admin(&world, "ca rotate ssh-user --retire");
        assert!(refused.code == Some(6) && refused.err.contains("alice holds a certificate"), "{}", refused.err);
        let status = admin(&world, "ca rotate --status");
        assert!(status.err.contains("ssh-user LACKS gr_"), "{}", status.err);
        logins.another_grant();
        logins.more(2);
        assert_ne!(signed_by(&world), old, "the new key signs");
        admin(&world, "ca rotate ssh-user --retire --wait 30s").ok();
        eventually("the host trusts the new one alone", || trusted() == 1);
        logins.more(2);
        let list = jit_ca::krl::Krl::decode(&std::fs::read(world.dir.join("host/krl")).unwrap()).unwrap();
        assert_eq!(list.retired.iter().map(|key| key.fingerprint()).collect::<Vec<_>>(), [old]);
        // Why somebody had access does not end with the authority that signed it.
        for (who, file) in [("alice", "old-cert.pub"), ("bob", "../alice/old-cert.pub")] {
            let done = world.run(who, &format!("jit-broker verify {file}"));
            assert!(done.code == Some(0) && done.out.contains("in the log: ssh-user"), "{done:?}");
        }
        world.run("alice", "jit-broker verify jit/run/ssh/web-07/$(id -un)-cert.pub").ok();
    });
    assert!(done >= 8, "{done} logins");
    world.run("bob", "jit-broker audit verify").ok();
    let key = world.dir.join("broker/state/ca/ssh_user.2");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

/// Without waiting: who holds a certificate of the retired authority gets another one at the next look.
#[test]
fn a_forced_retirement_is_mended_by_the_clients_own_look() {
    let world = World::direct();
    world.granted("30m");
    world.run("alice", "$SSH web-07 true").ok();
    let old = signed_by(&world);
    admin(&world, "ca rotate ssh-user").ok();
    admin(&world, "ca rotate ssh-user --activate --wait 30s").ok();
    admin(&world, "ca rotate ssh-user --retire --force").ok();
    let file = world.dir.join("host/user_ca.pub");
    eventually("the host trusts the new one alone", || std::fs::read_to_string(&file).unwrap().lines().count() == 1);
    let folder = world.dir.join("alice/jit/run/ssh/web-07");
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.file_name().to_string_lossy().ends_with(".checked") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    world.run("alice", "$SSH web-07 true").ok();
    assert_ne!(signed_by(&world), old);
    // Nobody loses a word about it: who was shut out stands in the log.
    let told = world.run("bob", "jit-broker -o jsonl audit search --kind ca.retired").ok();
    assert!(told.contains("alice holds a certificate"), "{told}");
    assert_eq!(admin(&world, "ca rotate --status --config ../broker/jit-broker.toml").code, Some(2));
}

#[test]
fn a_sign_in_follows_new_authorities_like_any_other_contact_and_takes_no_older_word() {
    let world = World::direct();
    let known = world.dir.join("alice/jit/config/known_hosts");
    let believed = || std::fs::read_to_string(&known).unwrap().matches("@cert-authority").count();
    world.granted("30m");
    world.run("alice", "$SSH web-07 true").ok();
    let login = world.run("alice", "id -un").ok();
    let certificate = world.dir.join(format!("alice/jit/run/ssh/web-07/{}-cert.pub", login.trim()));
    assert!(certificate.exists());
    // Of all this alice hears at her sign-in first.
    let before = believed();
    for step in ["ssh-host", "ssh-user", "ssh-user --activate --force", "ssh-user --retire --force"] {
        admin(&world, &format!("ca rotate {step}")).ok();
    }
    assert_eq!(believed(), before);
    world.run("alice", "jit-broker auth login").ok();
    assert_eq!(believed(), before + 1, "plain ssh believes the next host authority before it signs");
    assert!(!certificate.exists(), "what nobody takes any more is not offered");
    // A client that knows a later word takes no older one, and keeps what it has.
    let context = world.dir.join("alice/jit/config/context.json");
    let mut later: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&context).unwrap()).unwrap();
    let word = later["about"]["trust"]["word"].as_str().unwrap().replace("\"version\":4", "\"version\":5");
    assert!(word.contains("\"version\":5"), "{word}");
    later["about"]["trust"]["word"] = word.into();
    std::fs::write(&context, later.to_string()).unwrap();
    let refused = world.run("alice", "jit-broker auth login");
    assert!(refused.code == Some(9) && refused.err.contains("JB7002"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&context).unwrap(), later.to_string());
}

#[test]
fn doctor_believes_what_the_log_says_of_new_authorities_and_all_are_listed() {
    let world = World::start();
    admin(&world, "ca rotate ssh-user").ok();
    admin(&world, "ca rotate ssh-user --activate --force").ok();
    let found = world.run("alice", "jit-broker doctor").out;
    assert!(found.contains("ok    broker ") && !found.contains("other things"), "{found}");
    // Bob has heard nothing yet, and hands on what he is told.
    assert_eq!(world.run("bob", "jit-broker ca export --kind ssh-user").ok().lines().count(), 2);
    let listed = world.run("alice", "jit-broker -o json ca list").json();
    let kinds: Vec<&str> = listed["items"].as_array().unwrap().iter().map(|a| a["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ssh-user", "ssh-user", "ssh-gateway", "ssh-host", "log", "x509-client", "x509-server"]);
}

#[test]
fn rotations_of_what_the_gateway_needs_lose_no_login_through_it() {
    let world = World::start();
    let known = world.dir.join("alice/jit/config/known_hosts");
    let believed = || std::fs::read_to_string(&known).unwrap().matches("@cert-authority").count();
    let done = meanwhile(&world, |logins| {
        // The gateway's own: nobody else looks at it.
        let old = signed_by(&world);
        admin(&world, "ca rotate ssh-gateway").ok();
        admin(&world, "ca rotate ssh-gateway --activate").ok();
        logins.more(1);
        logins.another_grant();
        logins.more(1);
        assert_ne!(signed_by(&world), old);
        admin(&world, "ca rotate ssh-gateway --retire --wait 30s").ok();
        logins.more(1);
        // That of the legs from the gateway to the host.
        admin(&world, "ca rotate ssh-user").ok();
        admin(&world, "ca rotate ssh-user --activate --wait 30s").ok();
        logins.more(1);
        admin(&world, "ca rotate ssh-user --retire --wait 30s").ok();
        logins.more(1);
        // That of the hosts, which clients know: they learn of it at their next look.
        let before = believed();
        admin(&world, "ca rotate ssh-host").ok();
        let early = admin(&world, "ca rotate ssh-host --activate");
        assert!(early.code == Some(6) && early.err.contains("clients"), "{}", early.err);
        let mark = world.dir.join("alice/jit/run/ssh/web-07");
        eventually("alice's ssh believes both", || {
            for entry in std::fs::read_dir(&mark).unwrap().flatten() {
                if entry.file_name().to_string_lossy().ends_with(".checked") {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
            believed() > before
        });
        admin(&world, "ca rotate ssh-host --activate --force").ok();
        logins.more(3);
        // The host itself still shows a certificate of the old one: it is named, and the gateway believes both meanwhile.
        let refused = admin(&world, "ca rotate ssh-host --retire");
        assert!(refused.code == Some(6) && refused.err.contains("web-07: it shows"), "{}", refused.err);
    });
    assert!(done >= 10, "{done} logins");
    world.run("bob", "jit-broker audit verify").ok();
}

async fn step(world: &Inner, ca: Purpose, step: Rotation) -> Result<(), Refusal> {
    let deed = Deed::RotateCa { by: world.admin.name(), ca, step };
    world.broker().act(world.sign(&world.admin, None, deed), None, None).await.map(drop)
}

async fn next(world: &Inner, ca: Purpose) -> String {
    world.broker().next_key(&world.admin.name(), ca).await.unwrap().public
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_heard_is_named_and_waited_for() {
    let world = Inner::start().await;
    let ca = Purpose::SshUser;
    // Nobody but administrators, and no key but the signer's own.
    let deed = Deed::RotateCa { by: world.bob.name(), ca, step: Rotation::Stage(next(&world, ca).await) };
    let refused = world.broker().act(world.sign(&world.bob, None, deed), None, None).await.unwrap_err();
    assert_eq!(refused.code, Code::NOT_OFFICE);
    assert_eq!(world.broker().next_key(&world.bob.name(), ca).await.unwrap_err().code, Code::NOT_OFFICE);
    let foreign = step(&world, ca, Rotation::Stage(world.bob.key().to_string())).await.unwrap_err();
    assert_eq!(foreign.code, Code::BAD_KEY);
    let public = next(&world, ca).await;
    assert_eq!(public, next(&world, ca).await, "one spare key, however often it is asked for");
    step(&world, ca, Rotation::Stage(public.clone())).await.unwrap();
    // The host of this world is not enrolled: nobody knows whom it trusts.
    let refused = step(&world, ca, Rotation::Activate(Wait::ForAll)).await.unwrap_err();
    assert!(refused.code == Code::NOT_HEARD && refused.message.contains("web-07"), "{refused:?}");
    let grant = world.open(600).await;
    let before = world.issue(grant).await.unwrap();
    step(&world, ca, Rotation::Activate(Wait::ForNobody)).await.unwrap();
    assert_eq!(world.issue(grant).await.unwrap(), before, "the same bytes, by the old key, while it is trusted");
    step(&world, ca, Rotation::Retire(Wait::ForNobody)).await.unwrap();
    let after = jit_ca::ssh::read(&world.issue(grant).await.unwrap()).unwrap();
    assert_eq!(after.ca.to_string(), public, "and a new certificate once it is not");
    // Clients learn of host keys in time; what is staged can be given up, and is never staged again.
    let host = Purpose::SshHost;
    step(&world, host, Rotation::Stage(next(&world, host).await)).await.unwrap();
    assert_eq!(step(&world, host, Rotation::Activate(Wait::ForAll)).await.unwrap_err().code, Code::NOT_HEARD);
    world.clock.advance(60);
    step(&world, host, Rotation::Abandon).await.unwrap();
    let another = next(&world, host).await;
    step(&world, host, Rotation::Stage(another)).await.unwrap();
    world.clock.advance(60);
    step(&world, host, Rotation::Activate(Wait::ForAll)).await.unwrap();
    world.stop().await;
}

/// A daemon that has an administrator's signature for a key of its own gets nobody to trust it.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_the_signers_is_told_to_nobody() {
    let mut world = Inner::start().await;
    let mine = world.bob.key().to_string();
    let deed = Deed::RotateCa { by: world.admin.name(), ca: Purpose::SshUser, step: Rotation::Stage(mine) };
    let signed = world.sign(&world.admin, None, deed);
    // The people of the world have that key; a stranger's would be taken by the rules.
    let refused = world.broker().command(jit_broker::domain::event::Command::Act(signed), Vec::new()).await.unwrap();
    assert_eq!(refused.events[0].kind(), "act.refused");
    let stranger = jit_ca::key::PrivateKey::from_seed([77; 32]).public().to_string();
    let deed = Deed::RotateCa { by: world.admin.name(), ca: Purpose::SshUser, step: Rotation::Stage(stranger) };
    let signed = world.sign(&world.admin, None, deed);
    world.broker().command(jit_broker::domain::event::Command::Act(signed), Vec::new()).await.unwrap();
    assert_eq!(world.broker().trust().await.unwrap_err().code, Code::KEY_GONE);
    let honest = leaves(&world.settings.ledger).await;
    world.daemon.take().unwrap().stop().await;
    let mut gate = fresh_gate(&world, "foreign.json");
    crate::gate::show(&mut gate, &honest).unwrap();
    assert_eq!(gate.order(Order::Trust).unwrap_err().code, Code::KEY_GONE);
    assert!(matches!(gate.order(Order::Krl), Ok(Answer::Krl { .. }) | Err(_)));
}

/// The processes whose command line names this file.
fn running(file: &std::path::Path) -> Vec<String> {
    let named = |pid: &String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&*file.to_string_lossy())
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    all.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit())).filter(named).collect()
}

#[test]
fn a_host_takes_new_authorities_by_itself_and_from_whom_it_trusts_alone() {
    let world = World::direct();
    let host = world.dir.join("host");
    let at = host.display();
    let server = format!("https://{}", world.address());
    std::fs::create_dir(world.dir.join("etc")).unwrap();
    let etc = world.dir.join("etc");
    for name in ["user_ca.pub", "ssh_host_ed25519_key-cert.pub", "krl"] {
        std::fs::copy(host.join(name), etc.join(name)).unwrap();
    }
    std::fs::copy(world.dir.join("server-ca.pem"), etc.join("server_ca.pem")).unwrap();
    let run = format!(
        "host run --once --server {server} --target web-07 --host-key {at}/ssh_host_ed25519_key --dir {}",
        etc.display()
    );
    let read = |name: &str| std::fs::read_to_string(etc.join(name)).unwrap();
    admin(&world, &run).ok();
    let (first, cert) = (read("user_ca.pub"), read("ssh_host_ed25519_key-cert.pub"));
    for kind in ["ssh-user", "ssh-host", "x509-server"] {
        admin(&world, &format!("ca rotate {kind}")).ok();
    }
    admin(&world, &run).ok();
    assert_eq!(
        read("user_ca.pub").lines().filter(|line| line.starts_with("ssh-")).count(),
        2,
        "{}",
        read("user_ca.pub")
    );
    assert_eq!(read("server_ca.pem").matches("BEGIN CERTIFICATE").count(), 2);
    // A word that nobody signed whom this host trusts is not taken; nor is an older one.
    let stranger = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS\n";
    let good = read("user_ca.pub");
    std::fs::write(etc.join("user_ca.pub"), stranger).unwrap();
    let refused = admin(&world, &run);
    assert!(refused.code == Some(5) && refused.err.contains("host enroll"), "{}", refused.err);
    assert_eq!(read("user_ca.pub"), stranger, "and nothing changed");
    std::fs::write(etc.join("user_ca.pub"), good).unwrap();
    // The host's own certificate follows: the next one of the new authority, shown once sshd was told.
    admin(&world, "ca rotate ssh-host --activate --force").ok();
    let renewed = admin(&world, &run);
    assert!(renewed.code == Some(0) && renewed.err.contains("sshd"), "{}", renewed.err);
    assert_ne!(read("ssh_host_ed25519_key-cert.pub"), cert);
    assert!(etc.join("reload").exists());
    assert!(admin(&world, "ca rotate ssh-host --retire").err.contains("web-07"), "sshd shows the old one still");
    std::fs::copy(etc.join("ssh_host_ed25519_key-cert.pub"), host.join("ssh_host_ed25519_key-cert.pub")).unwrap();
    let sshd = running(&host.join("sshd_config"));
    assert!(!sshd.is_empty());
    sshd.iter().for_each(|pid| drop(std::process::Command::new("kill").args(["-HUP", pid]).status()));
    std::fs::remove_file(etc.join("reload")).unwrap();
    admin(&world, &run).ok();
    admin(&world, "ca rotate ssh-host --retire").ok();
    world.granted("30m");
    eventually("the host is believed by its new certificate alone", || {
        world.run("alice", "jit-broker ssh web-07 true").code == Some(0)
    });
    assert_ne!(first, read("user_ca.pub"));
}

#[test]
fn waiting_for_those_who_have_not_heard_writes_nothing_into_the_log() {
    let world = World::start();
    admin(&world, "ca rotate x509-client").ok();
    let refused = admin(&world, "ca rotate x509-client --activate --wait 7s");
    assert!(refused.code == Some(6) && refused.err.contains("JB3017"), "{}", refused.err);
    assert_eq!(refused.err.matches("Waiting for").count(), 1, "{}", refused.err);
    assert!(refused.err.contains("  db-prod: its ssl_ca_file"), "{}", refused.err);
    assert_eq!(world.count("act.refused"), 1, "what was signed once is refused once");
    // For a step that is not the next one nobody is waited for.
    for step in ["ssh-user --activate", "x509-client --retire"] {
        let begun = std::time::Instant::now();
        assert_eq!(admin(&world, &format!("ca rotate {step} --wait 1h")).code, Some(2), "{step}");
        assert!(begun.elapsed().as_secs() < 60, "{step}");
    }
}

#[test]
fn who_was_away_while_the_brokers_own_key_was_replaced_comes_back_by_its_fingerprint() {
    let world = World::start();
    world.run("alice", "jit-broker status").ok();
    admin(&world, "ca export --kind x509-server > old.pem").ok();
    admin(&world, "ca rotate x509-server").ok();
    let shown = |when: &str| {
        let status = admin(&world, "ca rotate --status");
        let line = status.err.lines().find(|line| line.contains(when)).unwrap_or_else(|| panic!("{}", status.err));
        line.rsplit_once("--fingerprint ").unwrap().1.to_owned()
    };
    let staged = shown("is not in touch before that");
    let done = admin(&world, "ca rotate x509-server --activate --force");
    assert!(done.code == Some(0) && format!("{}{}", done.out, done.err).contains("needs its fingerprint"), "{done:?}");
    let shows = format!(
        "openssl s_client -connect {} -CAfile old.pem -verify_return_error < /dev/null > /dev/null 2>&1",
        world.address()
    );
    eventually("the new authority's certificate is shown", || world.run("root-admin", &shows).code != Some(0));
    let refused = world.run("alice", "jit-broker status");
    assert!(refused.code != Some(0), "she hears of the new one in time: {refused:?}");
    let active = shown("was not in touch since it was staged");
    assert_eq!(active, staged);
    world.run("alice", &format!("jit-broker auth login --fingerprint {active}")).ok();
    world.run("alice", "jit-broker status").ok();
}

#[test]
fn databases_and_the_brokers_own_address_go_over_without_a_gap() {
    let world = World::start();
    let ask = "jit-broker exec db-prod --role ro -- psql -Atc 'select 1'";
    assert_eq!(world.run("alice", ask).ok(), "1\n");
    let certificate = "$(jit-broker -o json login db-prod --role ro | grep -o '/[^\"]*client.crt' | head -1)";
    world.run("alice", &format!("cp {certificate} old.crt")).ok();
    // Both certificates on the server, before the new one signs; the broker cannot see it, and says so.
    admin(&world, "ca rotate x509-client").ok();
    let refused = admin(&world, "ca rotate x509-client --activate");
    assert!(refused.code == Some(6) && refused.err.contains("db-prod: its ssl_ca_file"), "{}", refused.err);
    let config = std::fs::read_to_string(world.dir.join("broker/jit-broker.toml")).unwrap();
    let port = config.rsplit_once("for = \"127.0.0.1:").unwrap().1.split('"').next().unwrap().to_owned();
    let folders = [std::env::temp_dir(), world.dir.join("broker")].map(|dir| std::fs::read_dir(dir).unwrap().flatten());
    let mut servers = folders.into_iter().flatten().map(|entry| entry.path().join("data"));
    let ours = |data: &std::path::PathBuf| {
        let running = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        running.lines().nth(3).is_some_and(|line| line.trim() == port)
    };
    let data = servers.find(ours).unwrap();
    let both = admin(&world, "ca export --kind x509-client").ok();
    assert_eq!(both.matches("BEGIN CERTIFICATE").count(), 2);
    std::fs::write(data.join("clients.crt"), &both).unwrap();
    let pid = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    std::process::Command::new("kill").args(["-HUP", pid.lines().next().unwrap()]).status().unwrap();
    eventually("the server has read its file", || world.run("alice", ask).code == Some(0));
    admin(&world, "ca rotate x509-client --activate --force").ok();
    assert_eq!(world.run("alice", ask).ok(), "1\n", "the old certificate, or one of the new authority");
    world.run("alice", "jit-broker release --all").ok();
    let new = world.run("alice", &format!("cp {certificate} new.crt; openssl x509 -noout -issuer -in new.crt")).ok();
    assert_eq!(world.run("alice", ask).ok(), "1\n");
    admin(&world, "ca rotate x509-client --retire --wait 20s").ok();
    assert_eq!(admin(&world, "ca export --kind x509-client").ok().matches("BEGIN").count(), 1);
    for file in ["old.crt", "new.crt"] {
        let done = world.run("alice", &format!("jit-broker verify {file}"));
        assert!(done.code == Some(0) && done.out.contains("in the log: x509-client"), "{file}: {done:?}");
    }
    assert!(new.contains("jit-broker client CA"), "{new}");
    // The broker's own address: who has been in touch believes both, and goes on.
    let pem = || admin(&world, "ca export --kind x509-server").ok();
    let old = pem();
    admin(&world, "ca rotate x509-server").ok();
    for who in ["alice", "bob"] {
        world.run(who, "jit-broker status").ok();
    }
    assert_eq!(pem().matches("BEGIN").count(), 2);
    admin(&world, "ca rotate x509-server --activate --force").ok();
    let serves = |text: &str| {
        let file = world.dir.join("alice/pem");
        std::fs::write(&file, text).unwrap();
        let line = format!(
            "openssl s_client -connect {} -CAfile pem -verify_return_error < /dev/null > /dev/null 2>&1",
            world.address()
        );
        world.run("alice", &line).code == Some(0)
    };
    eventually("the new authority's certificate is shown", || !serves(&old));
    for who in ["alice", "bob", "root-admin"] {
        world.run(who, "jit-broker auth status").ok();
    }
    admin(&world, "ca rotate x509-server --retire").ok();
    let now = pem();
    assert!(now.matches("BEGIN").count() == 1 && now != old && serves(&now));
    world.run("bob", "jit-broker audit verify").ok();
}
