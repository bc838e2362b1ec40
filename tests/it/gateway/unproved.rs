//! What is said before anybody has proved who they are opens nothing, and costs whoever says it the connection.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use jit_broker::daemon::dev::Somebody;
use jit_broker::domain::event::Event;
use jit_broker::domain::session::SessionCause;
use serde_json::Value;

use super::ansible::packages;
use super::world::{Gw, TARGET, put, until};
use crate::world::Done;

/// Runs an attack of `stranger.py`.
#[track_caller]
fn stranger(port: u16, attack: &str, rest: &[String]) -> Value {
    let mut python = Command::new("python3");
    python.arg(format!("{}/tests/it/gateway/stranger.py", env!("CARGO_MANIFEST_DIR")));
    python.arg(port.to_string()).arg(attack).args(rest).env("PYTHONPATH", packages());
    let done = Done::from(python.output().expect("python3 is missing: make clients"));
    assert_eq!(done.code, Some(0), "{attack}: {done:?}");
    serde_json::from_str(&done.out).unwrap_or_else(|e| panic!("{attack}: {e}: {done:?}"))
}

fn count(said: &Value, kind: u64) -> usize {
    said["seen"].as_array().unwrap().iter().filter(|seen| seen.as_u64() == Some(kind)).count()
}

/// The SSH library hears such messages and does nothing, so whoever sends them is sent away when the time to come in is over.
#[test]
fn nothing_opens_before_authentication() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let (port, ran) = (world.port, world.dir.join("ran").display().to_string());
    std::thread::scope(|scope| {
        for attack in ["open", "open-after-service", "exec", "global", "success", "success-first"] {
            let ran = ran.clone();
            scope.spawn(move || {
                let said = stranger(port, attack, &[ran]);
                assert_eq!(said["alive"], false, "{attack}: {said}");
                // SUCCESS of authentication, of a global request, of a channel, of what is asked for on one.
                for kind in [52, 81, 91, 99] {
                    assert_eq!(count(&said, kind), 0, "{attack}: {said}");
                }
            });
        }
    });
    assert!(!world.dir.join("ran").exists());
    // What was asked for too early is not kept until somebody is let in, either.
    let user = format!("{}%{TARGET}", world.login);
    let said = stranger(port, "open-then-login", &[user, world.dir.join("alice/id_ed25519").display().to_string()]);
    assert_eq!((count(&said, 52), count(&said, 91)), (1, 0), "{said}");
    assert_eq!(world.ssh(&pass, &["echo fine"]).ok(), "fine\n");
    until(Duration::from_secs(10), "both ends", || world.ends(pass.grant).len() == 2);
    let bytes: u64 = world.ends(pass.grant).iter().map(|(_, end)| end.bytes_out).sum();
    assert_eq!(bytes, 5, "nothing else was ever said");
}

#[test]
fn a_key_that_was_offered_is_not_who_comes_in() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let user = format!("{}%{TARGET}", world.login);
    let key = |who: &str| world.dir.join(who).join("id_ed25519").display().to_string();
    let blob = |who: &Somebody| data_encoding::HEXLOWER.encode(&who.key().0.wire());
    // Alice has a grant; bob offers her key and proves his own: he is bob, who has none.
    let said = stranger(world.port, "offer-then-login", &[user.clone(), key("bob"), blob(&world.alice)]);
    assert_eq!((count(&said, 60), count(&said, 52)), (1, 1), "{said}");
    let opened = || -> Vec<String> {
        let events = world.events().into_iter();
        events
            .filter_map(|event| match event {
                Event::SessionOpened { session } => Some(session.person.to_string()),
                _ => None,
            })
            .collect()
    };
    assert_eq!(opened(), [""; 0]);
    let said = stranger(world.port, "offer-then-login", &[user, key("alice"), blob(&world.bob)]);
    assert_eq!((count(&said, 60), count(&said, 52), count(&said, 99)), (1, 1, 1), "{said}");
    assert_eq!(opened(), ["alice"]);
    assert_eq!(world.end(pass.grant).1.bytes_out, 3);
}

#[test]
fn odd_windows_and_channels_harm_nobody() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let user = format!("{}%{TARGET}", world.login);
    let said = stranger(world.port, "channels", &[user, world.dir.join("alice/id_ed25519").display().to_string()]);
    assert_eq!(count(&said, 91), 1, "{said}");
    // The SSH library refuses each of an unknown kind twice.
    assert!(said["alive"] == false || count(&said, 92) >= 10_000, "{} refusals", count(&said, 92));
    assert_eq!(world.ssh(&pass, &["echo fine"]).ok(), "fine\n");
}

#[test]
fn who_says_that_they_leave_has_left() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let user = format!("{}%{TARGET}", world.login);
    let key = world.dir.join("alice/id_ed25519").display().to_string();
    let seen = world.dir.join("the-end-was-seen");
    std::thread::scope(|scope| {
        let words = [user, key, seen.display().to_string()];
        let staying = scope.spawn(move || stranger(world.port, "leaves-and-stays", &words));
        // It holds the connection until it is told, which is longer than this waits.
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.end(pass.grant).1.cause));
        put(&seen, "");
        staying.join().unwrap();
        assert_eq!(end.ok(), Some(SessionCause::Closed));
    });
}

#[test]
fn offers_and_failures_are_counted() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let hex = |key: &jit_ca::key::PublicKey| data_encoding::HEXLOWER.encode(&key.wire());
    // A key that is known, offered for ever without a proof: each time it would do, and still there is an end.
    let known = world.alice.key();
    let said = stranger(world.port, "offers", &[hex(&known.0)]);
    assert_eq!((&said["alive"], count(&said, 52)), (&Value::Bool(false), 0), "{said}");
    assert!((1..=32).contains(&count(&said, 60)), "{said}");
    let nobodys = jit_ca::key::PrivateKey::from_seed([77; 32]);
    let begun = Instant::now();
    let said = stranger(world.port, "offers", &[hex(nobodys.public())]);
    assert_eq!((&said["alive"], count(&said, 60)), (&Value::Bool(false), 0), "{said}");
    assert!((1..=7).contains(&count(&said, 51)), "{said}");
    assert!(begun.elapsed() > Duration::from_secs(1), "whoever guesses is slowed");
    let keys: Vec<String> = (0..11u8)
        .map(|n| {
            let path = world.dir.join(format!("nobody-{n}"));
            put(&path, &jit_ca::key::PrivateKey::from_seed([120 + n; 32]).to_openssh("x").unwrap());
            path.display().to_string()
        })
        .collect();
    let said = stranger(world.port, "failures", &keys);
    assert_eq!((&said["alive"], count(&said, 52)), (&Value::Bool(false), 0), "{said}");
    assert!((5..=7).contains(&count(&said, 51)), "{said}");
    assert_eq!(world.ssh(&pass, &["echo fine"]).ok(), "fine\n");
}

/// A connection from one of this machine's loopback addresses.
fn from(source: [u8; 4], port: u16) -> Option<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((source, 0))).unwrap();
    connect(&socket, &SocketAddr::from(([127, 0, 0, 1], port))).ok()?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.read_exact(&mut [0; 4]).ok().map(|()| stream)
}

#[test]
fn a_crowd_of_many_sources_keeps_nobody_out() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let mut crowd = Vec::new();
    // 300 who say nothing, of 30 sources: more than there are places.
    for n in 0..300u32 {
        let source = [127, 0, 1, u8::try_from(n / 10).unwrap()];
        crowd.push(from(source, world.port).expect("a place"));
        if n % 50 == 49 {
            let begun = Instant::now();
            assert_eq!(world.ssh(&pass, &["echo fine"]).ok(), "fine\n");
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?} beside {n}", begun.elapsed());
        }
    }
    let gone = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        matches!(stream.read(&mut [0; 4096]), Ok(0)) || stream.take_error().is_ok_and(|error| error.is_some())
    };
    let mut left = 300;
    until(Duration::from_secs(5), "room was made", || {
        crowd.retain_mut(|stream| {
            let mut ended = false;
            for _ in 0..4 {
                ended |= gone(stream);
            }
            !ended
        });
        left = crowd.len();
        left <= 256
    });
    assert!(left >= 200, "{left} of 300 are still there");
}

#[test]
fn what_is_no_ssh_costs_nothing() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let hello: Vec<u8> = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[7; 508]].concat();
    let zeros = vec![0; 1 << 20];
    let noises: [&[u8]; 4] = [&hello, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &zeros, &[0xff; 70_000]];
    for noise in noises {
        let mut stream = from([127, 0, 2, 1], world.port).unwrap();
        // The rest may find a closed door.
        let _ = stream.write_all(noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let begun = Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 8192 && begun.elapsed() < Duration::from_secs(5), "{} bytes", rest.len());
    }
    // Half open: the other side ends at once, or resets.
    for _ in 0..50 {
        let stream = from([127, 0, 2, 2], world.port);
        if let Some(stream) = stream {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
    }
    assert_eq!(world.ssh(&pass, &["echo fine"]).ok(), "fine\n");
}
