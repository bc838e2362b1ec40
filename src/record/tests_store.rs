#![allow(clippy::unwrap_used)]
use super::*;
use crate::record::format::tests::{header, noise};
use crate::record::{Frame, Stored};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("recordings")).unwrap();
    (dir, store)
}

fn output(store: &Store, id: SessionId) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in store.reader(id).unwrap() {
        if let Stored::Output(data) = frame.unwrap().what {
            out.extend(data);
        }
    }
    out
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

/// Three sealed recordings of several chunks.
async fn filled(store: &Store) -> Vec<(SessionId, Sealed)> {
    let mut out = Vec::new();
    for n in 1..4 {
        let recorder = store.begin(header(n)).unwrap();
        for _ in 0..10 {
            recorder.put(Frame::Output { channel: 1, data: &noise(20_000) }).await.unwrap();
        }
        out.push((header(n).session, recorder.seal().await.unwrap()));
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_is_read_back_and_sealed() {
    let (dir, store) = store();
    let recorder = store.begin(header(1)).unwrap();
    let id = header(1).session;
    assert!(store.begin(header(1)).is_err(), "one recording a session");
    let mut expected = Vec::new();
    for n in 0..300u32 {
        let data = vec![n as u8; (n as usize * 37) % 9000];
        recorder.put(Frame::Output { channel: 1, data: &data }).await.unwrap();
        expected.extend(data);
    }
    let other = recorder.clone();
    let sealed = recorder.seal().await.unwrap();
    assert!(matches!(other.put(Frame::Close { channel: 1 }).await, Err(RecordError::Closed)));
    assert_eq!(output(&store, id), expected);
    let path = store.path(id).unwrap();
    assert_eq!(path, dir.path().join(format!("recordings/2026/09/{id}.rec")));
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!((found.len(), found.mode() & 0o777), (sealed.bytes, 0o600));
    assert_eq!(std::fs::metadata(store.dir()).unwrap().mode() & 0o777, 0o700);
    store.verify(id, &sealed).unwrap();
    assert_eq!(store.sealed(id).unwrap(), sealed);
    assert!(store.recover().is_empty());
    assert!(matches!(store.path(header(9).session), Err(RecordError::Missing)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_does_not_fill_is_written_in_time_and_an_idle_session_holds_nothing() {
    let (_dir, store) = store();
    let recorder = store.begin(header(1)).unwrap();
    let mut tail = recorder.tail();
    let before = *tail.borrow_and_update();
    recorder.put(Frame::Output { channel: 1, data: b"hello" }).await.unwrap();
    let begun = std::time::Instant::now();
    tail.changed().await.unwrap();
    assert!(*tail.borrow() > before && begun.elapsed() < Duration::from_secs(2));
    assert_eq!(output(&store, header(1).session), b"hello");
    assert!(begun.elapsed() > Duration::from_millis(200), "it waits for more first");
    eventually("the buffers are given back", || recorder.live.holds() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn little_is_outside_the_file() {
    let (_dir, store) = store();
    for (n, fresh, most) in [(1, true, 64 << 10), (2, false, 192 << 10)] {
        let recorder = store.begin(header(n)).unwrap();
        let id = header(n).session;
        for round in 1..=2000usize {
            let data = if fresh { noise(1500) } else { vec![7; 1500] };
            recorder.put(Frame::Output { channel: 1, data: &data }).await.unwrap();
            if round % 40 == 0 {
                let outside = round * 1500 - output(&store, id).len();
                assert!(outside <= most, "{outside} are not in the file");
            }
        }
        assert!(recorder.live.holds() <= 128 << 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_is_lost_at_once_and_sealed_to_the_last_chunk() {
    let (_dir, store) = store();
    let recorder = store.begin(header(1)).unwrap();
    let mut failed = recorder.failed();
    recorder.put(Frame::Output { channel: 1, data: &[1; 40_000] }).await.unwrap();
    std::fs::remove_dir_all(store.dir().join("open")).unwrap();
    recorder.put(Frame::Output { channel: 1, data: &[1; 40_000] }).await.ok();
    tokio::time::timeout(Duration::from_secs(2), failed.wait_for(|f| *f)).await.unwrap().unwrap();
    for _ in 0..3 {
        let refused = recorder.put(Frame::Note { text: "x" }).await;
        assert!(matches!(refused, Err(RecordError::Lost { .. })), "{refused:?}");
    }
    assert!(recorder.seal().await.is_err(), "there is no file");
    // The others go on.
    let next = store.begin(header(2)).unwrap();
    next.put(Frame::Note { text: "x" }).await.unwrap();
    next.seal().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_leaves_whole_chunks() {
    let (dir, store) = store();
    let id = header(1).session;
    let recorder = store.begin(header(1)).unwrap();
    let mut tail = recorder.tail();
    recorder.put(Frame::Output { channel: 1, data: &noise(100_000) }).await.unwrap();
    tail.wait_for(|n| *n > 100_000).await.unwrap();
    assert!(store.recover().is_empty(), "it is being recorded");
    drop((recorder, store));
    let path = dir.path().join(format!("recordings/open/{id}.rec"));
    let whole = std::fs::read(&path).unwrap();
    // Torn anywhere: never an error, never half a chunk.
    for cut in [0, 1, 500, 33_000, 70_000] {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let store = Store::open(dir.path().join("recordings")).unwrap();
        let frames = store.reader(id).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
        let recovered = store.recover();
        assert_eq!(recovered.len(), 1);
        let (found, sealed) = &recovered[0];
        assert_eq!(*found, id);
        store.verify(id, sealed).unwrap();
        assert_eq!(store.reader(id).unwrap().count(), frames.len());
        let kept = output(&store, id).len();
        assert!(kept <= 100_000 && kept + cut + 33_000 > 100_000, "{cut}: {kept}");
        assert!(store.recover().is_empty());
    }
    // What is wrong in the middle is not thrown away.
    let mut wrong = whole.clone();
    wrong[1000] ^= 1;
    std::fs::write(&path, &wrong).unwrap();
    let store = Store::open(dir.path().join("recordings")).unwrap();
    assert_eq!(store.recover()[0].1.chunks, 0);
    let torn = path.with_file_name(format!("{id}.rec.torn"));
    assert!(torn.metadata().unwrap().len() > 90_000);
    // Nor is it in the way when a stop came between that and the seal.
    std::fs::write(&path, &wrong).unwrap();
    std::fs::write(&torn, "a piece").unwrap();
    let store = Store::open(dir.path().join("recordings")).unwrap();
    assert_eq!(store.recover().len(), 1);
    assert!(torn.metadata().unwrap().len() > 7);
    // One without a header is tried once, and not at every start.
    std::fs::write(&path, &whole[..5]).unwrap();
    assert!(store.recover().is_empty() && !path.exists());
    assert_eq!(torn.metadata().unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_recording_is_named_with_its_chunk() {
    let (_dir, store) = store();
    let all = filled(&store).await;
    let (id, sealed) = &all[0];
    let path = store.path(*id).unwrap();
    let good = std::fs::read(&path).unwrap();
    let start = crate::record::format::begin(&header(1)).0.len();
    // Where each chunk begins.
    let mut starts = vec![start];
    while let Some(length) = starts.last().and_then(|at| good.get(*at..*at + 4)) {
        let next = starts.last().unwrap() + 36 + u32::from_le_bytes(length.try_into().unwrap()) as usize;
        starts.push(next);
    }
    assert_eq!(starts.len() as u64, sealed.chunks + 1);
    let (first, second, third, last) = (starts[0], starts[1], starts[2], starts[starts.len() - 2]);
    let forged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        store.verify(*id, sealed).unwrap_err().chunk
    };
    assert_eq!(forged(&|b| b[second + 100] ^= 1), 2, "a flipped bit");
    assert_eq!(forged(&|b| b.truncate(last)), sealed.chunks, "the last one dropped");
    assert_eq!(forged(&|b| b.truncate(last + 50)), sealed.chunks, "and half dropped");
    assert_eq!(
        forged(&|b| {
            let swapped = [&good[..first], &good[second..third], &good[first..second], &good[third..]].concat();
            *b = swapped;
        }),
        1,
        "two swapped"
    );
    assert_eq!(forged(&|b| b.clear()), 0, "cut to zero");
    assert_eq!(forged(&|b| b.extend(b"more")), sealed.chunks + 1);
    let theirs = std::fs::read(store.path(all[1].0).unwrap()).unwrap();
    assert_eq!(forged(&|b| b.clone_from(&theirs)), 0, "another session's");
    assert!(store.reader(*id).is_err());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(store.verify(*id, sealed).unwrap_err().chunk, 0, "none at all");
    // A chain that is made anew is not the one that was sealed.
    std::fs::rename(store.path(all[1].0).unwrap(), path.with_file_name("kept")).unwrap();
    let recorder = store.begin(header(2)).unwrap();
    recorder.put(Frame::Output { channel: 1, data: &noise(20_000) }).await.unwrap();
    recorder.seal().await.unwrap();
    assert!(store.verify(all[1].0, &all[1].1).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_link_is_followed_and_no_folder_of_others_is_used() {
    let (dir, store) = store();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, store.dir().join("open")).unwrap();
    assert!(store.begin(header(1)).is_err());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    let id = header(1).session;
    std::fs::create_dir_all(store.dir().join("2026/09")).unwrap();
    std::fs::write(outside.join("secret"), "x").unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), store.dir().join(format!("2026/09/{id}.rec"))).unwrap();
    assert!(matches!(store.file(id), Err(RecordError::Missing)));
    std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(Store::open(&outside), Err(RecordError::Io { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn keystrokes_are_stored_as_the_terminal_shows_them() {
    let (_dir, store) = store();
    let recorder = store.begin(header(1)).unwrap();
    let put = async |frame: Frame<'_>| recorder.put(frame).await.unwrap();
    put(Frame::Open { channel: 1, what: "shell", command: None, size: Some((80, 24)) }).await;
    put(Frame::Input { channel: 1, data: b"su\r" }).await;
    put(Frame::Output { channel: 1, data: b"su\r\nPassword: " }).await;
    put(Frame::Input { channel: 1, data: b"hunter2\r" }).await;
    put(Frame::Output { channel: 1, data: b"\r\n# " }).await;
    put(Frame::Input { channel: 1, data: b"half" }).await;
    put(Frame::Open { channel: 2, what: "exec", command: Some(b"sh"), size: None }).await;
    put(Frame::Input { channel: 2, data: b"echo piped" }).await;
    recorder.seal().await.unwrap();
    let frames = store.reader(header(1).session).unwrap().map(|f| f.unwrap());
    let typed: Vec<_> =
        frames.filter(|f| matches!(f.what, Stored::Input(_) | Stored::Hidden)).map(|f| (f.channel, f.what)).collect();
    let input = |text: &str| Stored::Input(text.as_bytes().to_vec());
    assert_eq!(
        typed,
        [(1, input("su\r")), (1, Stored::Hidden), (1, input("\r")), (2, input("echo piped")), (1, Stored::Hidden)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_terminal_is_one_too_many_to_be_looked_at_for_passwords() {
    let (_dir, store) = store();
    let recorder = store.begin(header(1)).unwrap();
    let open = |channel| Frame::Open { channel, what: "shell", command: None, size: Some((80, 24)) };
    let mut refused = None;
    for channel in 1..=1000 {
        if recorder.put(open(channel)).await.is_err() {
            refused = Some(channel);
            break;
        }
        recorder.put(Frame::Input { channel, data: b"secret\r" }).await.unwrap();
    }
    assert!(refused.is_some_and(|channel| channel > 128), "one connection has up to 128 channels: {refused:?}");
    let id = header(1).session;
    recorder.seal().await.unwrap();
    let stored: Vec<_> = store.reader(id).unwrap().map(|frame| frame.unwrap().what).collect();
    assert!(!stored.iter().any(|what| matches!(what, Stored::Input(_))), "nothing was shown, so nothing is stored");
}
