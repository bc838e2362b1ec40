//! `login --agent`: a real ssh-agent, and an ssh that reads no configuration of ours.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::served::Served;
use crate::world::World;

struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(world: &World) -> Self {
        // The path of a socket is short (unix(7)).
        let socket = std::env::temp_dir().join(format!(
            "jit-agent-{}-{}",
            std::process::id(),
            world.address().rsplit(':').next().unwrap()
        ));
        let mut child =
            Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, socket }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[test]
fn a_program_that_reads_no_configuration_gets_in_by_the_agent_until_the_release() {
    let world = World::direct();
    let agent = Agent::start(&world);
    let with = |line: &str| world.run("alice", &format!("export SSH_AUTH_SOCK={}; {line}", agent.socket.display()));
    world.granted("30m");
    let login = with("jit-broker login web-07 --agent");
    assert_eq!(login.code, Some(0), "{}", login.err);
    assert!(login.err.contains("The ssh-agent has it until "), "{}", login.err);
    let listed = with("ssh-add -L").ok();
    assert!(listed.contains("-cert-v01@openssh.com") && listed.contains("jit-broker web-07"), "{listed}");
    let target = world.run("alice", "jit-broker -o json target show web-07").json();
    let (host, port) = (target["host"].as_str().unwrap(), target["port"].as_u64().unwrap());
    std::fs::write(world.dir.join("alice/known"), target["known_hosts"].as_str().unwrap()).unwrap();
    let user = target["roles"][0]["logins"][0].as_str().unwrap();
    let plain = format!(
        "ssh -F none -o UserKnownHostsFile=$HOME/known -o HostKeyAlias=web-07 -o StrictHostKeyChecking=yes -o BatchMode=yes \
         -o PreferredAuthentications=publickey -o IdentityFile=none -p {port} {user}@{host}"
    );
    let entered = with(&format!("{plain} 'echo in'"));
    assert_eq!((entered.code, entered.out.as_str()), (Some(0), "in\n"), "{}", entered.err);
    // Access that is given back leaves the agent too.
    with("jit-broker release --all");
    let after = with("ssh-add -L");
    assert!(!after.out.contains("jit-broker web-07"), "{}", after.out);
    let none = world.run("alice", "jit-broker login db-prod --role ro --agent");
    assert_eq!(none.code, Some(2), "{}", none.err);
}

#[test]
fn without_an_agent_the_command_that_starts_one_is_named() {
    let world = World::start();
    world.granted("30m");
    let login = world.run("alice", "env -u SSH_AUTH_SOCK jit-broker login web-07 --agent");
    assert_eq!(login.code, Some(4), "{}", login.err);
    assert!(login.err.contains("ssh-agent"), "{}", login.err);
}

#[test]
fn a_release_takes_its_own_certificates_alone_from_the_disk_and_the_agent() {
    let mut served = Served::init();
    served.serve();
    served.adopt();
    // A second role, which opens the login of the first as well.
    let edit = |name: &str, change: &dyn Fn(String) -> String| {
        let path = served.dir.join("bundle").join(name);
        std::fs::write(&path, change(std::fs::read_to_string(&path).unwrap())).unwrap();
    };
    edit("targets.toml", &|text| text + "[target.roles.adm]\nlogins = [\"adm\", \"ops\"]\n");
    edit("policy.toml", &|text| text.replace("roles = [\"ops\"]", "roles = [\"ops\", \"adm\"]"));
    served.cli("root-admin", "jit-broker apply ../bundle --yes").ok();
    served.sign_in("alice");
    let script = "jit-broker login web-07 --role ops --agent >&2 && ops=$(jit-broker -o name status) \
         && jit-broker login web-07 --role adm --agent >&2 && ssh-add -L | wc -l; ls jit/run/ssh/web-07/*-cert.pub | wc -l; \
         jit-broker release $ops >&2; ssh-add -L | wc -l; ls jit/run/ssh/web-07/*-cert.pub | wc -l; \
         cut -d\" \" -f2 jit/run/ssh/web-07/adm-cert.pub | grep -cFf - $(ssh-add -L > held; echo held); \
         jit-broker release --all >&2; ssh-add -l; ls jit/run/ssh/web-07 | grep -c cert";
    let done = served.cli("alice", &format!("ssh-agent sh -c '{script}'"));
    let said: Vec<&str> = done.out.lines().collect();
    assert_eq!(said, ["2", "2", "1", "2", "1", "The agent has no identities.", "0"], "{}", done.err);
}
