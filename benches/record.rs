//! How fast the recorder takes bytes: `cargo bench --bench record`. Figures, never a test.
//!
//! `JIT_MIB` (512) per session, in packets of 32 KiB and of 1 KiB, by one session and by four at once; then the memory of 500 idle ones.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use jit_broker::domain::ids::{GrantId, SessionId};
use jit_broker::record::{Frame, Header, Recorder, Store};

fn header(n: u16) -> Header {
    let [a, b] = n.to_be_bytes();
    let mut id = [0; 16];
    (id[0], id[1]) = (a, b);
    Header {
        session: SessionId::new(id),
        grant: GrantId::new([1; 16]),
        person: "alice".parse().unwrap(),
        target: "web-07".parse().unwrap(),
        login: "deploy".parse().unwrap(),
        from: "127.0.0.1:1".to_owned(),
        opened_at_ms: 1_800_000_000_000,
        way: "ssh".to_owned(),
    }
}

fn cpu_s() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn fill(recorder: Recorder, mib: usize, packet: usize) {
    let data = vec![b'x'; packet];
    for _ in 0..(mib << 20) / packet {
        recorder.put(Frame::Output { channel: 1, data: &data }).await.unwrap();
    }
    recorder.seal().await.unwrap();
}

async fn passage(mib: usize, packet: usize, sessions: u16) {
    let dir = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open(dir.path().join("recordings")).unwrap();
    let (begun, cpu) = (Instant::now(), cpu_s());
    let tasks: Vec<_> =
        (0..sessions).map(|n| tokio::spawn(fill(store.begin(header(n)).unwrap(), mib, packet))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_s() - cpu);
    let all = mib as f64 * f64::from(sessions);
    println!(
        "{sessions} sessions, packets of {packet} bytes: {:.0} MiB/s to the seal, {:.2} CPU s/GiB",
        all / wall,
        cpu / (all / 1024.0)
    );
}

#[tokio::main]
async fn main() {
    let mib = std::env::var("JIT_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(512);
    for (packet, sessions) in [(32 << 10, 1), (1 << 10, 1), (32 << 10, 4)] {
        passage(mib / usize::from(sessions), packet, sessions).await;
    }
    let dir = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open(dir.path().join("recordings")).unwrap();
    let before = resident_kib();
    let mut idle = Vec::new();
    for n in 0..500 {
        let recorder = store.begin(header(n)).unwrap();
        recorder.put(Frame::Output { channel: 1, data: b"$ " }).await.unwrap();
        idle.push(recorder);
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    println!("500 idle sessions: {:.1} KiB each", (resident_kib() - before) as f64 / 500.0);
}
