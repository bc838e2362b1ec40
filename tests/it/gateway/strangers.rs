//! Who nobody knows: noise, floods, and slowness.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::world::{Gw, until};
use crate::world::Done;

fn connect(world: &Gw) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", world.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    stream
}

/// True while the gateway shows its banner to a newcomer.
fn greets(world: &Gw) -> bool {
    let mut banner = [0; 4];
    TcpStream::connect(("127.0.0.1", world.port)).is_ok_and(|mut stream| stream.read_exact(&mut banner).is_ok())
}

#[test]
fn noise_harms_nobody() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let noises: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0; 100_000],
        b"SSH-2.0-x\r\n\xff\xff\xff\xff\x00\x14",
        b"SSH-2.0-x\r\n\x00\x04\x00\x01\x00\x14",
        b"SSH-1.5-x\r\n\x00\x00\x00\x00",
    ];
    for _ in 0..3 {
        for noise in noises {
            let mut stream = connect(&world);
            let _ = stream.write_all(noise);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        }
    }
    assert_eq!(world.ssh(&pass, &["echo fine"]).ok(), "fine\n");
}

#[test]
fn the_unknown_of_one_source_are_few_and_their_time_is_short() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let begun = Instant::now();
    let mut idle: Vec<_> = (0..10).map(|_| connect(&world)).collect();
    for stream in &mut idle {
        stream.read_exact(&mut [0; 4]).unwrap();
    }
    // The eleventh is closed without a word, and costs nothing.
    assert!(!greets(&world));
    for _ in 0..500 {
        let _ = TcpStream::connect(("127.0.0.1", world.port));
    }
    // A trickle does not buy time: the grace is absolute.
    let mut trickle = idle.pop().unwrap();
    trickle.write_all(b"SSH-2.0-slow\r\n").unwrap();
    let mut rest = Vec::new();
    trickle.read_to_end(&mut rest).ok();
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(25) && took < Duration::from_secs(35), "{took:?}");
    until(Duration::from_secs(5), "room for the known", || greets(&world));
    assert_eq!(world.ssh(&pass, &["echo fine"]).ok(), "fine\n");
}

#[test]
fn attempts_are_few_and_nobody_learns_who_exists() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let tried = |user: &str, key: &std::path::Path| -> (Done, Duration) {
        let begun = Instant::now();
        let mut command = world.client("ssh", None);
        command.arg("-i").arg(key).args(["-l", user, "gateway", "echo in"]);
        (command.output().unwrap().into(), begun.elapsed())
    };
    let stranger = world.dir.join("stranger");
    super::world::put(&stranger, &jit_ca::key::PrivateKey::from_seed([77; 32]).to_openssh("x").unwrap());
    let mut errors = std::collections::BTreeSet::new();
    let mut times = Vec::new();
    let (login, target) = (world.login.clone(), super::world::TARGET);
    for user in [login.as_str(), "nobody", &format!("{login}%{target}"), "root%not-there", "alice#db01", "a:b:root"] {
        let (done, took) = tried(user, &stranger);
        assert_eq!(done.code, Some(255), "{user}: {done:?}");
        errors.insert(done.err.replace(user, "USER"));
        times.push(took);
    }
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(times.iter().all(|took| *took >= Duration::from_millis(300)), "{times:?}");
    // Twelve keys of nobody: the connection ends before they are all tried.
    let mut command = world.client("ssh", Some(&pass));
    for n in 0..12u8 {
        let path = world.dir.join(format!("stranger-{n}"));
        super::world::put(&path, &jit_ca::key::PrivateKey::from_seed([100 + n; 32]).to_openssh("x").unwrap());
        command.arg("-i").arg(path);
    }
    // A fresh grant's own key is tried first; so it must be out of the way.
    std::fs::remove_file(&pass.key).unwrap();
    let done: Done = command.args(["-v", "gateway", "echo in"]).output().unwrap().into();
    assert_eq!(done.code, Some(255));
    let offered = done.err.matches("Offering public key").count();
    assert!((5..=7).contains(&offered), "{offered} offers\n{}", done.err);
}
