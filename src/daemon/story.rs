//! The story of `make demo`: what people type and what they see, on both sides, with this very program and real ssh.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::dev::database::DB_TARGET as DATABASE;
use super::dev::{TARGET, World};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::session::GATEWAY_ALIAS;

fn failed(what: impl std::fmt::Display) -> Refusal {
    let message = format!("The story stopped: {}.", what.to_string().trim_end());
    Refusal::new(Code::LOCAL_IO, message)
        .hint("jit-broker dev --story --dir DIR keeps what it made, and host/sshd.log in it")
}

/// The folder that has this program under the name that people type, whatever its file is called.
fn programs(world: &World) -> PathBuf {
    world.dir.join("bin")
}

/// Runs a command line of one of the people, as they would in a shell of their own.
async fn typed(world: &World, who: &str, line: &str) -> Result<Output, Refusal> {
    let home = world.dir.join(who);
    let path = format!("{}:{}", programs(world).display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.arg("-c").arg(line).env("HOME", &home).env("JIT_BROKER_HOME", home.join("jit")).env("PATH", path);
    command.env_remove("SSH_AUTH_SOCK").env("JIT_BROKER_NO_INPUT", "1").stdin(std::process::Stdio::null());
    tokio::task::spawn_blocking(move || command.output()).await.map_err(failed)?.map_err(failed)
}

async fn show(world: &World, who: &str, line: &str) -> Result<Output, Refusal> {
    println!("\n{who}$ {line}");
    let out = typed(world, who, line).await?;
    print!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    Ok(out)
}

async fn must(world: &World, who: &str, line: &str) -> Result<String, Refusal> {
    let out = show(world, who, line).await?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(failed(format!("{line} ended with {}", out.status)))
    }
}

/// Signs the people in and installs the ssh hook for them.
///
/// # Errors
/// What did not work.
pub async fn introduce(world: &World) -> Result<(), Refusal> {
    let program = std::env::current_exe().map_err(failed)?;
    std::fs::create_dir_all(programs(world)).map_err(failed)?;
    std::os::unix::fs::symlink(program, programs(world).join("jit-broker")).map_err(failed)?;
    for who in ["root-admin", "alice", "bob"] {
        let url = world.daemon.broker.public_url();
        let login = format!("jit-broker auth login --server {url} --ca-file ../server-ca.pem --ssh-key id_ed25519");
        let home = world.dir.join(who);
        let out = typed(world, who, &format!("cd '{}' && {login}", home.display())).await?;
        if !out.status.success() {
            return Err(failed(String::from_utf8_lossy(&out.stderr)));
        }
    }
    for who in ["alice", "bob"] {
        let out = typed(world, who, "jit-broker ssh-config --install").await?;
        if !out.status.success() {
            return Err(failed(String::from_utf8_lossy(&out.stderr)));
        }
    }
    Ok(())
}

fn ssh(world: &World, who: &str) -> String {
    format!("ssh -F '{}'", world.dir.join(who).join(".ssh/config").display())
}

/// Plays it.
///
/// # Errors
/// The step that did not go as it must.
pub async fn play(world: &World) -> Result<(), Refusal> {
    let ssh = ssh(world, "alice");
    println!(
        "A broker, a host {TARGET} with a real sshd, a database {DATABASE} on a real PostgreSQL, and two people. Nobody has access."
    );
    must(world, "alice", "jit-broker ls").await?;
    let refused = show(world, "alice", &format!("{ssh} {TARGET} id -un")).await?;
    if refused.status.success() {
        return Err(failed("ssh must be refused before anything is granted"));
    }
    must(world, "alice", "jit-broker request web-07 --for 30m --reason 'hotfix for OPS-1' --no-wait").await?;
    let code = must(world, "bob", "jit-broker pending").await?;
    let code = code.split('\t').nth(4).unwrap_or_default().to_owned();
    must(world, "bob", &format!("jit-broker approve {code}")).await?;
    println!(
        "\nPlain ssh. The gateway checks her certificate and the grant, opens {TARGET} with a key of its own, and records:"
    );
    must(world, "alice", &format!("{ssh} -tt {TARGET} 'id -un; echo on $SSH_CONNECTION' 2>/dev/null")).await?;
    must(
        world,
        "alice",
        &format!(
            "scp -q -F '{}' {TARGET}:/etc/hostname \"$HOME/copy\" && echo copied",
            world.dir.join("alice/.ssh/config").display()
        ),
    )
    .await?;
    database(world).await?;
    must(world, "alice", "jit-broker status").await?;
    let certificate = format!("jit/run/ssh/{TARGET}/{}-cert.pub", world.login);
    must(
        world,
        "alice",
        &format!("cp \"$HOME/{certificate}\" \"$HOME/kept-cert.pub\"; ssh-keygen -L -f \"$HOME/kept-cert.pub\""),
    )
    .await?;
    println!("\nAlice starts something long, and bob revokes:");
    let long = format!("{ssh} {TARGET} 'while sleep 1; do date || exit; done'");
    println!("\nalice$ {long} &");
    let (cut, ended) = tokio::join!(typed(world, "alice", &long), async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        show(world, "bob", "jit-broker revoke --person alice --reason 'the demo is over'").await
    });
    let cut = cut?;
    print!("\nalice's session: {}{}", String::from_utf8_lossy(&cut.stdout), String::from_utf8_lossy(&cut.stderr));
    if !ended?.status.success() {
        return Err(failed("the end was not proven"));
    }
    if cut.status.success() {
        return Err(failed("a session went on after its grant was revoked"));
    }
    println!("\nAlice kept a copy of her certificate, which would have been valid for half an hour more:");
    let kept = format!(
        "ssh -F none -i \"$HOME/jit/run/ssh/{TARGET}/key\" -o CertificateFile=\"$HOME/kept-cert.pub\" -o IdentitiesOnly=yes -o BatchMode=yes \
         -o HostKeyAlias={GATEWAY_ALIAS} -o UserKnownHostsFile=\"$HOME/jit/config/known_hosts\" -p {} {}@127.0.0.1 id -un",
        world.daemon.gateway_ssh.map_or(0, |address| address.port()),
        world.login
    );
    if show(world, "alice", &kept).await?.status.success() {
        return Err(failed("a revoked certificate opened the host"));
    }
    println!("\nWhat was done is there to be looked at, by auditors, and every look is an entry:");
    let sessions = must(world, "bob", "jit-broker session ls").await?;
    // Newest first.
    let oldest = sessions.lines().rev().filter_map(|line| line.split('\t').next()).find(|id| id.starts_with("ses_"));
    let id = oldest.ok_or_else(|| failed("no session was recorded"))?.to_owned();
    must(world, "bob", &format!("jit-broker session replay {id} --text")).await?;
    must(world, "bob", "jit-broker audit tail -n 12").await?;
    must(world, "bob", "jit-broker audit verify").await?;
    println!("\nBy hand: jit-broker dev starts the same world and keeps it.");
    Ok(())
}

/// A session on a database that is cut when the window ends, and an account of which nothing is left.
async fn database(world: &World) -> Result<(), Refusal> {
    println!("\nA database, {DATABASE}. Reading is automatic; writing needs bob, and this window is six seconds long.");
    must(world, "alice", &format!("jit-broker login {DATABASE} --role ro --for 10m")).await?;
    must(world, "alice", &format!("jit-broker psql {DATABASE} -- -c 'select current_user, count(*) from notes'"))
        .await?;
    must(
        world,
        "alice",
        &format!("jit-broker request {DATABASE} --role rw --for 6s --reason 'mend rows for OPS-2' --no-wait"),
    )
    .await?;
    let code = must(world, "bob", "jit-broker pending").await?;
    let code = code.split('\t').nth(4).unwrap_or_default().to_owned();
    must(world, "bob", &format!("jit-broker approve {code}")).await?;
    let line = format!(
        "jit-broker psql {DATABASE} --role rw -- -c \"insert into notes (text) values ('mine')\" -c 'select pg_sleep(60)'"
    );
    let began = Instant::now();
    if show(world, "alice", &line).await?.status.success() || began.elapsed() > Duration::from_secs(10) {
        return Err(failed("a session went on after its window had ended"));
    }
    println!("(cut {} ms after it began)", began.elapsed().as_millis());
    if show(world, "alice", &format!("jit-broker psql {DATABASE} --role rw -- -c 'select 1'")).await?.status.success() {
        return Err(failed("the database was open after the window had ended"));
    }
    must(world, "bob", "jit-broker audit search --kind grant.ended").await.map(drop)
}

/// Says what to type, and what becomes of the folder.
pub fn by_hand(world: &World, kept: bool) {
    let home = |who: &str| world.dir.join(who).join("jit").display().to_string();
    let url = world.daemon.broker.public_url();
    println!("A broker at {url}, {TARGET} with a real sshd, and {DATABASE} on a real PostgreSQL. In two terminals:");
    for who in ["alice", "bob"] {
        println!("\n  # {who}\n  export JIT_BROKER_HOME={}", home(who));
        println!("  export PATH={}:$PATH", programs(world).display());
        match who {
            "alice" => println!(
                "  jit-broker request {TARGET} --for 10m --reason 'trying it out'\n  {} {TARGET}\n  jit-broker psql {DATABASE} --role ro",
                ssh(world, who)
            ),
            _ => println!("  jit-broker review"),
        }
    }
    if kept {
        println!("\nCtrl-C ends it; what it made stays in {}.", world.dir.display());
    } else {
        println!("\nCtrl-C ends it and removes everything.");
    }
}
