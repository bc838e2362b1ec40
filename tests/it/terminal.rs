//! The hook in a real terminal: alice types the reason and waits, bob agrees meanwhile, and `ssh` goes on.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::world::World;

/// A command under a pseudo terminal of `script` (bsdutils), and all that appeared on it.
pub struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    pub fn open(world: &World, who: &str, line: &str) -> Self {
        let log = world.dir.join(who).join("typescript");
        // A suite that runs in the background is deaf to Ctrl-C, and its children would be (POSIX sh, asynchronous lists).
        let script = format!("exec env --default-signal=INT script -q -e -f -c \"$LINE\" '{}'", log.display());
        let mut command: Command = world.command(who, &script);
        command.env_remove("JIT_BROKER_NO_INPUT").env_remove("CI").env("TERM", "xterm").env("LINE", line);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (keys, mut out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = screen.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n) = out.read(&mut piece) {
                if n == 0 {
                    break;
                }
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..n]));
            }
        });
        Self { child, keys, screen }
    }

    #[track_caller]
    pub fn sees(&self, what: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.screen.lock().unwrap().contains(what) {
            assert!(Instant::now() < until, "{what} never appeared in\n{}", self.screen.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Its exit status, and the screen.
    #[track_caller]
    pub fn ends(mut self) -> (Option<i32>, String) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), self.screen.lock().unwrap().clone());
            }
            assert!(Instant::now() < until, "it did not end:\n{}", self.screen.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn code_of(world: &World) -> String {
    world.run("alice", "jit-broker -o json status").json()["requests"][0]["code"].as_str().unwrap().to_owned()
}

#[test]
fn alice_types_the_reason_and_bob_reviews_meanwhile() {
    let world = World::start();
    let mut alice = Terminal::open(&world, "alice", "$SSH web-07 'echo I am $(id -un)'");
    alice.sees("reason for deploy on web-07 (at least 8 characters): ");
    alice.types("short\n");
    alice.sees("short\r\njit-broker: reason for deploy");
    alice.types("hotfix for OPS-1\n");
    alice.sees("waits for bob (step peer)");
    alice.sees("jit-broker withdraw req_");
    // Both see the same two words.
    let code = code_of(&world);
    alice.sees(&code);
    alice.sees("waits for bob (step peer)  2s");
    let mut bob = Terminal::open(&world, "bob", "jit-broker review");
    bob.sees(&code);
    bob.sees("reason:  hotfix for OPS-1");
    bob.sees("(a)pprove");
    bob.types("w\n");
    bob.sees("rules: prod-deploy");
    bob.types("a\n");
    let (status, screen) = bob.ends();
    assert_eq!(status, Some(0), "{screen}");
    assert!(screen.contains(&format!("{code}: approved")), "{screen}");
    let (status, screen) = alice.ends();
    assert_eq!(status, Some(0), "{screen}");
    assert!(screen.contains("left)") && screen.contains("I am "), "{screen}");
}

#[test]
fn a_denial_ends_the_waiting_and_nobody_is_asked_for_a_password() {
    let world = World::start();
    let mut alice = Terminal::open(&world, "alice", "$SSH web-07 true");
    alice.sees("reason for deploy");
    alice.types("hotfix for OPS-2\n");
    alice.sees("waits for bob");
    let code = code_of(&world);
    world.run("bob", &format!("jit-broker deny {code} --reason 'not on a friday'")).ok();
    let (status, screen) = alice.ends();
    assert_eq!(status, Some(255), "{screen}");
    assert!(screen.contains("bob denied it: not on a friday") && screen.contains("Permission denied"), "{screen}");
    assert!(!screen.contains("assword:"), "{screen}");
}

#[test]
fn ctrl_c_stops_the_waiting_and_the_request_stays() {
    let world = World::start();
    let mut alice = Terminal::open(&world, "alice", "$SSH web-07 true");
    alice.sees("reason for deploy");
    alice.types("hotfix for OPS-3\n");
    alice.sees("waits for bob");
    alice.types("\u{3}");
    let (status, screen) = alice.ends();
    assert!(status == Some(130) || status == Some(255), "{status:?} {screen}");
    assert_eq!(world.run("alice", "jit-broker -o json status").json()["requests"][0]["state"], "pending");
    // The next `ssh` waits for the same request; nobody is asked twice.
    let second = Terminal::open(&world, "alice", "$SSH web-07 true");
    second.sees("waits for bob");
    world.run("bob", &format!("jit-broker approve {}", code_of(&world))).ok();
    assert_eq!(second.ends().0, Some(0));
    assert_eq!(world.count("request.submitted"), 1);
}
