//! Ansible through the gateway, with nothing but the configuration that people have.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use jit_broker::record::Stored;

use super::world::{Gw, Pass, TARGET, until};
use crate::world::Done;

/// A folder of Python packages that `make clients` installs.
pub fn packages() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("clients/ssh");
    for package in ["ansible", "paramiko"] {
        assert!(path.join(package).exists(), "{package} is not installed ({}): make clients", path.display());
    }
    path
}

fn ping(world: &Gw, pass: &Pass, host: &str, arguments: &[&str]) -> Done {
    let packages = packages();
    let mut ansible = Command::new("python3");
    ansible.arg(packages.join("bin/ansible")).env("PYTHONPATH", &packages);
    ansible.args(["all", "-i", &format!("{host},")]).args(arguments);
    let multiplexed = "-o ControlMaster=auto -o ControlPersist=60s";
    ansible.env("ANSIBLE_SSH_ARGS", format!("-F {}/config {multiplexed}", world.dir.display()));
    // The target is this machine, so its Python is the one that runs Ansible.
    let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let python = Done::from(python.expect("python3 is missing: make clients")).ok();
    ansible.env("ANSIBLE_PRIVATE_KEY_FILE", &pass.key).env("ANSIBLE_PYTHON_INTERPRETER", python.trim());
    ansible.env("ANSIBLE_SSH_CONTROL_PATH_DIR", world.dir.join("cp")).env("HOME", &world.dir);
    ansible.env("LC_ALL", "C.UTF-8").env_remove("SSH_AUTH_SOCK").current_dir(&world.dir).stdin(Stdio::null());
    ansible.output().expect("python3 is missing: make clients").into()
}

#[test]
fn ansible_reaches_a_target_by_both_ways() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    for host in ["gateway", TARGET] {
        let done = ping(&world, &pass, host, &["-m", "ping"]).ok();
        assert!(done.contains(&format!("{host} | SUCCESS")) && done.contains("\"ping\": \"pong\""), "{done}");
    }
    // A file goes by sftp, a command by exec, over the connection that stands.
    std::fs::write(world.dir.join("motd"), "copied by ansible\n").unwrap();
    let copy = format!("src={0}/motd dest={0}/motd-there", world.dir.display());
    let done = ping(&world, &pass, TARGET, &["-m", "copy", "-a", &copy]).ok();
    assert!(done.contains("CHANGED"), "{done}");
    assert_eq!(std::fs::read_to_string(world.dir.join("motd-there")).unwrap(), "copied by ansible\n");
    world.revoke(pass.grant);
    until(Duration::from_secs(10), "the ends", || world.ends(pass.grant).len() >= 2);
    let mut commands = String::new();
    for (session, end) in world.ends(pass.grant) {
        for frame in world.recorded(session, &end) {
            if let Stored::Open { command: Some(command), .. } = frame.what {
                commands += &String::from_utf8_lossy(&command);
            }
        }
    }
    assert!(commands.contains("AnsiballZ_ping.py"), "{commands}");
    let done = ping(&world, &pass, TARGET, &["-m", "ping"]);
    assert!(done.code != Some(0) && !done.out.contains("pong"), "{done:?}");
}
