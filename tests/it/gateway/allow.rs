//! What a role allows, and nothing else.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use jit_broker::record::Stored;

use super::world::{Gw, Pass, put, until};
use crate::world::Done;

/// Whether each kind of use works: shell, exec, sftp.
fn matrix(world: &Gw, pass: &Pass) -> [bool; 3] {
    let shell = {
        let mut child = world.client("ssh", Some(pass));
        let mut child = child.args(["-tt", "gateway"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"echo sh$((1+1))ell; exit\n").unwrap();
        let done: Done = child.wait_with_output().unwrap().into();
        done.out.contains("sh2ell")
    };
    let exec = world.ssh(pass, &["echo ex$((1+1))ec"]).out.contains("ex2ec");
    put(&world.dir.join("pwd"), "pwd\n");
    let mut sftp = world.client("sftp", Some(pass));
    let sftp = sftp.arg("-b").arg(world.dir.join("pwd")).arg("gateway").output().unwrap();
    [shell, exec, sftp.status.success()]
}

#[test]
fn each_role_gives_what_it_says() {
    let world = Gw::start();
    let table = [
        ("work", [true, true, true]),
        ("shell", [true, false, false]),
        ("exec", [false, true, false]),
        ("sftp", [false, false, true]),
    ];
    for (role, wanted) in table {
        let pass = world.pass(role, 600);
        assert_eq!(matrix(&world, &pass), wanted, "{role}");
        // The sftp server by another name is a command, and a command is a command.
        let named = world.ssh(&pass, &["/usr/lib/openssh/sftp-server < /dev/null; echo ran"]).out.contains("ran");
        assert_eq!(named, wanted[1], "{role}");
        let tunnel = world.client("ssh", Some(&pass)).args(["-W", "127.0.0.1:22", "gateway"]).output().unwrap();
        assert!(!tunnel.status.success(), "{role} has no tunnel");
    }
}

#[test]
fn agents_x11_and_sockets_are_never_forwarded() {
    let world = Gw::start();
    let pass = world.pass("all", 600);
    let mut command = world.client("ssh", Some(&pass));
    // A display that is there for the client: the gateway refuses it all the same.
    command.args(["-v", "-X", "-o", "ExitOnForwardFailure=yes", "gateway", "echo D=$DISPLAY A=$SSH_AUTH_SOCK"]);
    let done: Done = command.env("DISPLAY", "127.0.0.1:77").output().unwrap().into();
    assert!(done.out.contains("D= A=\n"), "{done:?}");
    let socket = world.dir.join("s");
    let mut command = world.client("ssh", Some(&pass));
    let forward = format!("{}:127.0.0.1:22", socket.display());
    command.args(["-o", "ExitOnForwardFailure=yes", "-R", &forward, "gateway", "true"]);
    assert!(!command.output().unwrap().status.success());
}

/// A server that says every line twice.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 64];
            while let Ok(length) = stream.read(&mut bytes)
                && length > 0
            {
                let _ = stream.write_all(&bytes[..length]);
                let _ = stream.write_all(&bytes[..length]);
            }
        }
    });
    port
}

fn says(port: u16) -> String {
    let mut answer = [0; 6];
    let limit = Some(Duration::from_secs(5));
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    stream.set_read_timeout(limit).unwrap();
    let _ = stream.write_all(b"abc");
    match stream.read_exact(&mut answer) {
        Ok(()) => String::from_utf8_lossy(&answer).into_owned(),
        Err(_) => String::new(),
    }
}

fn kill(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn tunnels_work_where_the_role_has_them_and_are_told_without_their_content() {
    let world = Gw::start();
    let pass = world.pass("all", 600);
    let server = echo();
    let ports = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let mut command = world.client("ssh", Some(&pass));
    command.args(["-N", "-o", "ExitOnForwardFailure=yes"]);
    command.args(["-L", &format!("{}:127.0.0.1:{server}", ports[0])]);
    command.args(["-R", &format!("127.0.0.1:{}:127.0.0.1:{server}", ports[1])]);
    command.args(["-D", &ports[2].to_string(), "gateway"]);
    let child = command.spawn().unwrap();
    until(Duration::from_secs(10), "-L", || says(ports[0]) == "abcabc");
    until(Duration::from_secs(10), "-R", || says(ports[1]) == "abcabc");
    let mut socks = TcpStream::connect(("127.0.0.1", ports[2])).unwrap();
    socks.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socks.write_all(&[5, 1, 0]).unwrap();
    let mut hello = [0; 2];
    socks.read_exact(&mut hello).unwrap();
    let [high, low] = server.to_be_bytes();
    socks.write_all(&[5, 1, 0, 1, 127, 0, 0, 1, high, low]).unwrap();
    let mut answer = [0; 10];
    socks.read_exact(&mut answer).unwrap();
    socks.write_all(b"xyz").unwrap();
    let mut said = [0; 6];
    socks.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"xyzxyz");
    drop(socks);
    kill(child);
    let (session, end) = world.end(pass.grant);
    let told: Vec<_> = world
        .recorded(session, &end)
        .into_iter()
        .filter_map(|frame| if let Stored::Forward(json) = frame.what { Some(json) } else { None })
        .collect();
    let all = told.join("\n");
    assert!(all.contains("\"tunnel\":\"local\"") && all.contains("\"tunnel\":\"remote\""), "{all}");
    assert!(all.contains("\"bytes_in\":3") && all.contains("\"bytes_out\":6") && all.contains("not visible"), "{all}");
    assert!(!all.contains("xyz"));
    let mut command = world.client("ssh", Some(&pass));
    let mut child =
        command.args(["-W", &format!("127.0.0.1:{server}"), "gateway"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"abc").unwrap();
    let done: Done = child.wait_with_output().unwrap().into();
    assert_eq!(done.ok(), "abcabc");
}
