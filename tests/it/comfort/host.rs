//! `host enroll --ssh` and `host leave --ssh` against a real sshd, whose files lie below a folder of the test's own.

use std::process::Child;

use crate::world::{Done, World, sshd};

/// A host: an sshd that root reaches by a key, with every path of the steps below one folder.
struct Host {
    at: String,
    port: u16,
    sshd: Child,
}

impl Host {
    fn start(world: &World) -> Self {
        let root = world.dir.join("machine");
        for folder in ["etc/ssh", "etc/systemd/system", "run", "bin", "usr"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let at = root.display().to_string();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let run = |line: &str| world.run("root-admin", line).ok();
        run(&format!("ssh-keygen -q -t ed25519 -N '' -f {at}/etc/ssh/ssh_host_ed25519_key"));
        run(&format!("cp id_ed25519.pub {at}/authorized; chmod 600 {at}/authorized"));
        // Paths only: everything else runs as it comes.
        let program = env!("CARGO_BIN_EXE_jit-broker");
        let wrap = format!(
            "#!/bin/sh\nPATH={at}/bin:$PATH\nchange() {{ sed -e 's# /etc/# {at}/etc/#g; s#=/etc/#={at}/etc/#g; s#/run/systemd/system#{at}/none#g; \
             s#/usr/local/bin/jit-broker host run#/usr/local/bin/jit-broker host run --host-key {at}/etc/ssh/ssh_host_ed25519_key --dir {at}/etc/ssh/jit-broker#g; \
             s#/usr/local/bin#{at}/usr#g'; }}\n\
             command=$(printf '%s' \"$SSH_ORIGINAL_COMMAND\" | change)\n\
             case \"$command\" in 'sh -s') change | sh -s ;; *) eval \"$command\" ;; esac\n"
        );
        std::fs::write(root.join("bin/wrap"), wrap).unwrap();
        std::fs::write(root.join("bin/sshd"), format!("#!/bin/sh\nexec /usr/sbin/sshd -f {at}/sshd_config \"$@\"\n"))
            .unwrap();
        run(&format!("chmod 755 {at}/bin/wrap {at}/bin/sshd"));
        std::os::unix::fs::symlink(program, root.join("usr/jit-broker")).unwrap();
        let config = format!(
            "Include {at}/etc/ssh/sshd_config.d/*.conf\nPort {port}\nListenAddress 127.0.0.1\nHostKey {at}/etc/ssh/ssh_host_ed25519_key\n\
             PidFile {at}/run/sshd.pid\nUsePAM no\nPermitRootLogin yes\nAuthorizedKeysFile {at}/authorized\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitUserEnvironment no\nMatch LocalPort {port}\n  ForceCommand /bin/sh {at}/bin/wrap\n"
        );
        std::fs::write(root.join("sshd_config"), config).unwrap();
        let sshd = sshd(&root.join("sshd_config"));
        let client = format!(
            "Host machine\n  HostName 127.0.0.1\n  Port {port}\n  User {}\n  IdentityFile {}/root-admin/id_ed25519\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {at}/known\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking accept-new\n  BatchMode yes\n",
            run("id -un").trim(),
            world.dir.display()
        );
        std::fs::write(root.join("client"), client).unwrap();
        Self { at, port, sshd }
    }

    fn jit(&self, world: &World, line: &str) -> Done {
        world.run("root-admin", &format!("jit-broker {line} --ssh machine --ssh-config {}/client", self.at))
    }

    /// Alice by her certificate; the forced command runs what she asks for.
    fn enter(&self, world: &World) -> Done {
        world.run("alice", &format!("$SSH -p {} -o HostKeyAlias=web-07 web-07 'echo in'", self.port))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

#[test]
fn a_host_is_enrolled_over_ssh_with_a_proof_of_each_step_and_leaves_again_without_a_trace() {
    let world = World::direct();
    let host = Host::start(&world);
    world.granted("30m");
    assert_ne!(host.enter(&world).code, Some(0), "it trusts nobody yet");
    let done = host.jit(&world, "-o json host enroll web-07");
    assert_eq!(done.code, Some(0), "{}\n{}", done.out, done.err);
    let doc: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let seen: Vec<&str> = doc["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["health"] == "ok")
        .filter_map(|f| f["what"].as_str())
        .collect();
    for what in ["host key", "steps", "sshd", "certificate", "revocation list", "login"] {
        assert!(seen.contains(&what), "{what} is not proven: {}", done.out);
    }
    let entered = host.enter(&world);
    assert_eq!((entered.code, entered.out.as_str()), (Some(0), "in\n"), "{}", entered.err);
    // Again is no harm.
    let again = host.jit(&world, "host enroll web-07");
    assert_eq!(again.code, Some(0), "{}\n{}", again.out, again.err);
    let left = host.jit(&world, "host leave web-07");
    assert_eq!(left.code, Some(0), "{}\n{}", left.out, left.err);
    for gone in
        ["etc/ssh/jit-broker", "etc/ssh/sshd_config.d/60-jit-broker.conf", "etc/systemd/system/jit-broker-host.timer"]
    {
        assert!(!std::path::Path::new(&host.at).join(gone).exists(), "{gone}");
    }
    let refused = host.enter(&world);
    assert_ne!(refused.code, Some(0), "its certificate opens nothing any more: {}", refused.out);
    let own = world.run("root-admin", &format!("ssh -F {}/client machine 'echo own'", host.at));
    assert_eq!(own.out, "own\n", "{}", own.err);
}

#[test]
fn a_step_that_does_not_hold_is_a_finding_and_an_unreachable_host_changes_nothing() {
    let world = World::direct();
    let host = Host::start(&world);
    // The configuration names no folder for drop-ins.
    let config = std::path::Path::new(&host.at).join("sshd_config");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.split_once('\n').unwrap().1).unwrap();
    let done = host.jit(&world, "-o json host enroll web-07");
    assert_eq!(done.code, Some(1), "{}\n{}", done.out, done.err);
    assert!(done.out.contains("it does not use: trustedusercakeys"), "{}", done.out);
    assert!(done.out.contains("still gets in"), "{}", done.out);
    let before = world.run("bob", "jit-broker -o jsonl audit search --kind host.enrolled -n 100").ok().lines().count();
    let away = world.run(
        "root-admin",
        &format!("jit-broker host enroll web-07 --ssh nobody@127.0.0.1 --ssh-config {}/client", host.at),
    );
    assert_eq!(away.code, Some(1), "{}", away.err);
    let option = world.run("root-admin", "jit-broker host enroll web-07 --ssh=-oProxyCommand=id");
    assert_eq!(option.code, Some(2), "{}", option.err);
    let after = world.run("bob", "jit-broker -o jsonl audit search --kind host.enrolled -n 100").ok().lines().count();
    assert_eq!(before, after, "nothing was certified");
}

/// From then on sshd believes the broker, so whatever the first round says, the next ones come.
#[test]
fn a_host_that_cannot_confirm_keeps_trying_and_is_not_told_to_have_confirmed() {
    let world = World::direct();
    let host = Host::start(&world);
    let at = &host.at;
    std::fs::create_dir(format!("{at}/none")).unwrap();
    let run = |line: &str| world.run("root-admin", line).ok();
    // This machine has no systemd; what it would be told is written down. The list arrives, and the key to confirm it with is away.
    let systemctl = format!(
        "#!/bin/sh\necho \"$@\" >> {at}/told\ncase \"$1\" in reload) kill -HUP $(cat {at}/run/sshd.pid) ;; esac\n"
    );
    let program = env!("CARGO_BIN_EXE_jit-broker");
    let keyless = format!(
        "#!/bin/sh\n[ \"$1 $2\" = 'host run' ] || exec {program} \"$@\"\nkey={at}/etc/ssh/ssh_host_ed25519_key\n\
         mv $key $key.away; {program} \"$@\"; code=$?; mv $key.away $key; exit $code\n"
    );
    std::fs::remove_file(format!("{at}/usr/jit-broker")).unwrap();
    for (path, text) in [("bin/systemctl", systemctl), ("usr/jit-broker", keyless)] {
        std::fs::write(format!("{at}/{path}"), text).unwrap();
        run(&format!("chmod 755 {at}/{path}"));
    }
    let done = host.jit(&world, "-o json host enroll web-07");
    assert_eq!(done.code, Some(1), "{}\n{}", done.out, done.err);
    assert!(std::path::Path::new(at).join("etc/ssh/jit-broker/krl.version").exists(), "the list is there");
    let doc: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let health =
        |what: &str| doc["items"].as_array().unwrap().iter().find(|f| f["what"] == what).unwrap()["health"].clone();
    assert_eq!((health("steps"), health("revocation list")), ("problem".into(), "problem".into()), "{}", done.out);
    assert!(done.out.contains("ssh_host_ed25519_key is not there"), "it says why: {}", done.out);
    let told = std::fs::read_to_string(format!("{at}/told")).unwrap();
    assert!(told.contains("enable --now jit-broker-host.timer"), "{told}");
}
