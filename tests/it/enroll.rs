//! What `host enroll --print` prints, run by a shell as printed (below a folder of the test's own), and a real sshd with what it left.

use crate::world::{World, sshd};

#[test]
fn the_printed_steps_make_a_host_that_the_hook_opens() {
    let world = World::direct();
    let root = world.dir.join("etc-of-the-host");
    std::fs::create_dir_all(root.join("etc/ssh")).unwrap();
    let at = root.display().to_string();
    let key = format!("{at}/etc/ssh/ssh_host_ed25519_key");
    world.run("root-admin", &format!("ssh-keygen -q -t ed25519 -N '' -f {key}")).ok();
    let printed = world.run("root-admin", &format!("jit-broker host enroll web-07 --key {key}.pub --print"));
    let program = env!("CARGO_BIN_EXE_jit-broker");
    // Paths only: everything else runs as printed. The systemd of this machine is not there for the script, and host run gets its folders.
    let script = printed.ok().replace(
        "/usr/local/bin/jit-broker host run",
        &format!("{program} host run --host-key {key} --dir {at}/etc/ssh/jit-broker"),
    );
    let script = script.replace(" /etc/", &format!(" {at}/etc/")).replace("=/etc/", &format!("={at}/etc/"));
    let script = script.replace("/run/systemd/system", &format!("{at}/none"));
    std::fs::write(root.join("steps.sh"), script).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "Include {at}/etc/ssh/sshd_config.d/*.conf\nPort {free}\nListenAddress 127.0.0.1\nHostKey {key}\nPidFile none\n\
         UsePAM no\nAuthorizedKeysFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    );
    std::fs::write(root.join("sshd_config"), config).unwrap();
    // `sshd -t` and `sshd -T` of the script look at this configuration.
    std::fs::create_dir(root.join("bin")).unwrap();
    std::fs::write(root.join("bin/sshd"), format!("#!/bin/sh\nexec /usr/sbin/sshd -f {at}/sshd_config \"$@\"\n"))
        .unwrap();
    world.run("root-admin", &format!("chmod 755 {at}/bin/sshd")).ok();
    let done = world.run("root-admin", &format!("PATH={at}/bin:$PATH sh {at}/steps.sh"));
    assert_eq!(done.code, Some(0), "{}\n{}", done.out, done.err);
    assert!(!done.err.contains("no effect") && !done.err.contains("Could not load"), "{}", done.err);
    assert!(done.err.contains("is installed and confirmed"), "{}", done.err);
    let mut sshd = sshd(&root.join("sshd_config"));
    world.granted("30m");
    let entered = world.run("alice", &format!("$SSH -p {free} web-07 'echo in'"));
    // A list that a line of the steps took the content of, and one that is not there: sshd takes the first for "nothing is revoked".
    let krl = root.join("etc/ssh/jit-broker/krl");
    let version = |path: &std::path::Path| jit_ca::krl::Krl::decode(&std::fs::read(path).unwrap()).unwrap().version;
    let before = version(&krl);
    std::fs::write(&krl, b"").unwrap();
    let again = format!(
        "{program} host run --once --host-key {key} --dir {at}/etc/ssh/jit-broker --target web-07 --server $(sed -n 's/.*\"server\": \"\\(.*\\)\",/\\1/p' jit/config/context.json)"
    );
    let mended = world.run("root-admin", &again);
    let _ = sshd.kill();
    let _ = sshd.wait();
    assert_eq!((entered.code, entered.out.as_str()), (Some(0), "in\n"), "{}", entered.err);
    assert_eq!(mended.code, Some(0), "{}", mended.err);
    assert!(version(&krl) >= before, "an emptied list is put right in the next round");
}

#[test]
fn steps_that_sshd_refuses_leave_it_as_it_was() {
    let world = World::start();
    let root = world.dir.join("refusing");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    let at = root.display().to_string();
    world.run("root-admin", "ssh-keygen -q -t ed25519 -N '' -f host_key").ok();
    let script = world.run("root-admin", "jit-broker host enroll web-07 --key host_key.pub --print").ok();
    let script = script.replace(" /etc/", &format!(" {at}/etc/")).replace("=/etc/", &format!("={at}/etc/"));
    std::fs::write(root.join("steps.sh"), script).unwrap();
    std::fs::write(root.join("bin/sshd"), "#!/bin/sh\nexit 255\n").unwrap();
    world.run("root-admin", &format!("chmod 755 {at}/bin/sshd")).ok();
    let done = world.run("root-admin", &format!("PATH={at}/bin:$PATH sh {at}/steps.sh"));
    assert_eq!(done.code, Some(1), "{}\n{}", done.out, done.err);
    assert!(root.join("etc/ssh/jit-broker/krl").exists());
    assert!(!root.join("etc/ssh/sshd_config.d/60-jit-broker.conf").exists(), "the refused lines are gone again");
}
