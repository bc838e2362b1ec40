//! Recordings on a small file system of their own that runs full: what cannot be recorded does not go on.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jit_broker::domain::session::SessionCause;
use jit_broker::record::Stored;

use super::world::{Gw, until};
use crate::world::Done;

const LINE: &str = "jit-broker: this cannot be recorded any more, so it was ended";

/// Runs a test in a mount namespace of its own, with a small file system at the folder that is given there.
fn on_a_small_disk(test: &str) -> Option<PathBuf> {
    if let Some(at) = std::env::var_os("JIT_SMALL_DISK") {
        return Some(at.into());
    }
    let folder = tempfile::Builder::new().prefix("lost").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = std::fs::canonicalize(folder.path()).unwrap();
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut command = Command::new("unshare");
    // Whoever is not root becomes themselves again once it is mounted.
    let (outer, inner) = if user == 0 {
        (vec!["-m"], String::new())
    } else {
        (vec!["-r", "-m"], format!("unshare -U --map-user={user} --map-group={group}"))
    };
    let script = format!("mount -t tmpfs -o size=16m,mode=0777 none \"$1\" && shift && exec {inner} \"$@\"");
    command.args(outer).args(["sh", "-c", &script, "sh"]).arg(&at).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", &format!("gateway::lost::{test}")]).env("JIT_SMALL_DISK", &at);
    let done: Done = command.output().unwrap().into();
    assert!(done.code == Some(0) && done.out.contains("1 passed"), "{}\n{}", done.out, done.err);
    None
}

#[test]
fn a_session_ends_when_it_cannot_be_recorded_any_more() {
    let Some(disk) = on_a_small_disk("a_session_ends_when_it_cannot_be_recorded_any_more") else { return };
    let world = Gw::recording_to(Some(disk.join("recordings")));
    let pass = world.pass("all", 600);
    let mut ticking = world.client("ssh", Some(&pass));
    let ticking =
        ticking.args(["gateway", "n=0; while :; do n=$((n+1)); seq -s, $n $((n+40)) || exit; sleep 0.01; done"]);
    let ticking = ticking.spawn().unwrap();
    // One that types: what it says is recorded before it is sent.
    let mut typing = world.client("ssh", Some(&pass));
    let said = world.dir.join("said");
    let line = format!("cat > {}", said.display());
    let mut typing = typing.args(["gateway", &line]).stdin(Stdio::piped()).spawn().unwrap();
    typing.stdin.as_mut().unwrap().write_all(b"before\n").unwrap();
    until(Duration::from_secs(15), "both", || {
        said.metadata().is_ok_and(|m| m.len() > 0) && world.recording_bytes() > 9000
    });
    let filler = disk.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[7; 4096]).is_ok() {}
    drop(file);
    let full = Instant::now();
    // As much as a pipe takes, again and again: all but 64 KiB of what reaches the target is in the recording, where nothing makes it smaller.
    let mut stdin = typing.stdin.take().unwrap();
    let mut noise = vec![0; 4 << 20];
    jit_broker::clock::fill(&mut noise);
    let writer = std::thread::spawn(move || while noise.chunks(8192).all(|piece| stdin.write_all(piece).is_ok()) {});
    let ticking: Done = ticking.wait_with_output().unwrap().into();
    let typing: Done = typing.wait_with_output().unwrap().into();
    let took = full.elapsed();
    writer.join().unwrap();
    assert!(took < Duration::from_secs(3), "{took:?}");
    for (what, done) in [("ticking", &ticking), ("typing", &typing)] {
        assert!(done.code == Some(254) && done.err.contains(LINE), "{what}: {:?} {}", done.code, done.err);
    }
    until(Duration::from_secs(5), "the ends", || world.ends(pass.grant).len() == 2);
    for (session, end) in world.ends(pass.grant) {
        assert_eq!(end.cause, SessionCause::RecordingLost);
        // Up to its last whole chunk it is as good as any other.
        world.store.verify(session, end.recording.as_ref().unwrap()).unwrap();
        let frames = world.store.reader(session).unwrap().map_while(Result::ok);
        let (mut from, mut to) = (0, 0);
        for frame in frames {
            match frame.what {
                Stored::Output(bytes) => from += bytes.len() as u64,
                Stored::Input(bytes) => to += bytes.len() as u64,
                _ => {}
            }
        }
        // Numbers compress: more of them fits into what is not written yet.
        let (reached, kept, most) = if to > 0 {
            (said.metadata().unwrap().len(), to, 64 << 10)
        } else {
            (ticking.out.len() as u64, from, 192 << 10)
        };
        assert!(kept > 0 && reached <= kept + most, "{reached} bytes passed, {kept} are recorded");
    }
    // Nobody new is let in, and nothing of theirs runs.
    let ran = world.dir.join("ran");
    let touch = format!("touch {}", ran.display());
    let refused = world.ssh(&pass, &[&touch]);
    assert!(refused.code == Some(254) && refused.err.contains(LINE), "{refused:?}");
    assert!(!ran.exists());
    assert_eq!(world.ends(pass.grant).last().unwrap().1.cause, SessionCause::RecordingLost);
    // Room is made: it goes on by itself.
    std::fs::remove_file(&filler).unwrap();
    world.ssh(&pass, &[&touch]).ok();
    assert!(ran.exists());
    until(Duration::from_secs(5), "the end", || world.ends(pass.grant).len() == 4);
    let (session, end) = world.ends(pass.grant).pop().unwrap();
    world.recorded(session, &end);
}
