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

/// A client with a remote forwarding to a port of the person's, and the port on the target.
fn remote(world: &Gw, pass: &Pass, to: u16) -> (Child, u16) {
    let port = free();
    let mut command = world.client("ssh", Some(pass));
    command.args(["-N", "-o", "ExitOnForwardFailure=yes", "-R"]);
    let child = command.arg(format!("127.0.0.1:{port}:127.0.0.1:{to}")).arg("gateway").spawn().unwrap();
    until(Duration::from_secs(10), "-R", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (child, port)
}

fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Listens, and has every connection in a thread of its own.
fn served(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, serve) = (listener.local_addr().unwrap().port(), std::sync::Arc::new(serve));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream.unwrap()));
        }
    });
    port
}

#[test]
fn what_comes_by_a_remote_forwarding_and_nobody_takes_is_closed() {
    let world = Gw::start();
    let pass = world.pass("all", 600);
    let (child, port) = remote(&world, &pass, free());
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let read = stream.read(&mut [0; 1]);
    assert!(matches!(&read, Ok(0)), "nobody listens at the person's: {read:?}");
    kill(child);
    // Somebody takes it, and goes away while the other side still talks.
    let (child, port) = remote(&world, &pass, served(|mut stream| drop(stream.read(&mut [0; 1]))));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let block = [7; 65536];
    until(Duration::from_secs(5), "it is closed", || stream.write_all(&block).is_err());
    kill(child);
}

#[test]
fn what_was_sent_through_a_tunnel_before_it_was_closed_arrives() {
    const SENT: usize = 32 << 20;
    let world = Gw::start();
    let pass = world.pass("all", 600);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
    let service = served(move |mut stream| {
        stream.write_all(b"hello").unwrap();
        wait.lock().unwrap().recv().unwrap();
        // By what it cannot pass on any more ssh hears that nobody is there.
        for _ in 0..5 {
            let _ = stream.write_all(b"more");
            pause(200);
        }
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        tell.send(all.len()).unwrap();
    });
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = world.client("ssh", Some(&pass));
    let child = command.args(["-N", "-L", &format!("{port}:127.0.0.1:{service}"), "gateway"]).spawn().unwrap();
    let mut client = None;
    until(Duration::from_secs(10), "-L", || {
        client = TcpStream::connect(("127.0.0.1", port)).ok();
        client.is_some()
    });
    let mut client = client.unwrap();
    client.write_all(&vec![7; SENT]).unwrap();
    // What ssh has not read when its peer goes away without having read is lost before the gateway.
    pause(1000);
    drop(client);
    go.send(()).unwrap();
    assert_eq!(told.recv_timeout(Duration::from_secs(40)).unwrap(), SENT);
    kill(child);
}

#[test]
fn a_stalled_connection_of_a_remote_forwarding_holds_up_no_other() {
    let world = Gw::start();
    let pass = world.pass("all", 600);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    // What begins with a zero is read when the word comes; whatever else is answered.
    let service = served(move |mut stream| {
        let mut bytes = [1; 3];
        let Ok(()) = stream.read_exact(&mut bytes[..1]) else { return };
        if bytes[0] == 0 {
            wait.lock().unwrap().recv().unwrap();
            let mut all = vec![0];
            stream.read_to_end(&mut all).unwrap();
            tell.send((all.len(), all.iter().zip(0u64..).all(|(byte, n)| *byte == (n / 65536) as u8))).unwrap();
        } else {
            let _ = stream.read_exact(&mut bytes[1..]).and_then(|()| stream.write_all(b"abcabc"));
        }
    });
    let (child, port) = remote(&world, &pass, service);
    let mut stalled = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stalled.set_write_timeout(Some(Duration::from_secs(8))).unwrap();
    let mut written = 0;
    for n in 0..256u64 {
        if stalled.write_all(&[n as u8; 65536]).is_err() {
            break;
        }
        written += 65536;
    }
    let begun = std::time::Instant::now();
    assert_eq!(says(port), "abcabc", "beside one that takes nothing, after {written} bytes");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(written, 256 << 16, "what is sent is taken");
    drop(stalled);
    go.send(()).unwrap();
    let all = told.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(all, (written, true), "in order, and to the end");
    kill(child);
}

#[test]
fn connections_of_a_remote_forwarding_count_as_channels() {
    let world = Gw::start();
    let pass = world.pass("all", 600);
    let (child, port) = remote(
        &world,
        &pass,
        served(|mut stream| {
            let mut byte = [0; 1];
            while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
        }),
    );
    let answered = |mut stream: &TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"x").is_ok() && matches!(stream.read(&mut [0; 1]), Ok(1))
    };
    let streams: Vec<TcpStream> = (0..140).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let taken = streams.iter().filter(|stream| answered(stream)).count();
    assert!((100..=127).contains(&taken), "{taken} of 140");
    drop(streams);
    until(Duration::from_secs(10), "there is room again", || {
        answered(&TcpStream::connect(("127.0.0.1", port)).unwrap())
    });
    kill(child);
}

#[test]
fn a_remote_forwarding_that_is_cancelled_takes_nothing_new_and_keeps_what_came() {
    let world = Gw::start();
    let pass = world.pass("all", 600);
    let (port, service) = (free(), echo());
    let socket = format!("ControlPath={}", world.dir.join("cm").display());
    let spec = format!("127.0.0.1:{port}:127.0.0.1:{service}");
    let mut master = world.client("ssh", Some(&pass));
    let master = master.args(["-M", "-N", "-o", &socket, "-R", &spec, "gateway"]).spawn().unwrap();
    let mut stream = None;
    until(Duration::from_secs(10), "-R", || {
        stream = TcpStream::connect(("127.0.0.1", port)).ok();
        stream.is_some()
    });
    let mut stream = stream.unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut echoed = |what: &[u8; 3]| {
        let mut answer = [0; 6];
        stream.write_all(what).and_then(|()| stream.read_exact(&mut answer)).unwrap();
        assert_eq!(answer, *[*what, *what].as_flattened());
    };
    echoed(b"one");
    let mut cancel = world.client("ssh", None);
    let cancel: Done = cancel.args(["-o", &socket, "-O", "cancel", "-R", &spec, "gateway"]).output().unwrap().into();
    cancel.ok();
    until(Duration::from_secs(5), "nobody listens", || TcpStream::connect(("127.0.0.1", port)).is_err());
    echoed(b"two");
    kill(master);
    assert_eq!(world.end(pass.grant).1.cause, jit_broker::domain::session::SessionCause::Closed);
}
