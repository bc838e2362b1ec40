//! SSH through the gateway, recorded, beside a bare relay of the same library and beside ssh straight to the same kind of sshd.
//!
//! `cargo bench --bench ssh_relay [-- MIB ROUNDS CIPHER]`. Alternates the contenders and prints medians with ratios. The relays run in this
//! process, so its CPU time and memory are theirs; ssh and sshd are processes of their own. What passes is zeros, and then bytes that
//! nothing makes smaller: the best and the worst case of a recorder that compresses. `JIT_STAGES` (download,upload,echo,setup,idle)
//! measures some of it only.
#![allow(clippy::unwrap_used, dead_code)]

mod bare;
#[path = "../../tests/it/gateway/world.rs"]
mod gw;
#[path = "../table.rs"]
mod table;
#[path = "../world.rs"]
mod world;

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gw::{Gw, Pass, put, until};
use table::{Figure, row};

/// What the world of the tests names of its neighbours.
mod trust {
    pub fn words(reason: &str) -> jit_broker::domain::text::Words {
        let salt = data_encoding::HEXLOWER.encode(&jit_broker::clock::random16());
        jit_broker::domain::text::Words { salt, reason: Some(reason.to_owned()), ticket: None }
    }
}

const NAMES: [&str; 3] = ["direct", "bare", "gateway"];

struct Field {
    world: Gw,
    pass: Pass,
    /// Of another role: one grant has at most 256 open sessions.
    second: Pass,
    key: std::path::PathBuf,
    ports: [u16; 2],
    cipher: String,
    sshd: Child,
    /// Where the bytes come from.
    random: std::path::PathBuf,
}

/// What passes.
#[derive(Clone, Copy)]
enum Load {
    Zeros,
    Random,
}

impl Load {
    fn word(self) -> &'static str {
        match self {
            Self::Zeros => "zeros",
            Self::Random => "random bytes",
        }
    }
}

impl Field {
    fn start(cipher: &str, mib: u64, runtime: &tokio::runtime::Runtime) -> Self {
        let world = Gw::start();
        let (pass, second) = (world.pass("work", 8 * 3600), world.pass("exec", 8 * 3600));
        let at = world.dir.join("plain");
        std::fs::create_dir_all(&at).unwrap();
        let key = at.join("id");
        let pair = jit_ca::key::PrivateKey::from_seed([5; 32]);
        put(&key, &pair.to_openssh("bench").unwrap());
        put(&at.join("authorized"), &format!("{}\n", pair.public()));
        let sshd_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        put(
            &at.join("config"),
            &format!(
                "Port {sshd_port}\nListenAddress 127.0.0.1\nHostKey {}/host/key\nAuthorizedKeysFile {}/authorized\nUsePAM no\n\
                 PermitRootLogin prohibit-password\nPidFile none\nMaxStartups 200\n",
                world.dir.display(),
                at.display()
            ),
        );
        let mut sshd = Command::new("/usr/sbin/sshd");
        let sshd = sshd.args(["-D", "-q", "-f"]).arg(at.join("config")).stdin(Stdio::null()).spawn().unwrap();
        until(Duration::from_secs(10), "sshd", || std::net::TcpStream::connect(("127.0.0.1", sshd_port)).is_ok());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let bare_port = listener.local_addr().unwrap().port();
        let relay = bare::Bare {
            port: sshd_port,
            login: world.login.clone(),
            key: Arc::new(russh::keys::load_secret_key(&key, None).unwrap()),
        };
        runtime.spawn(relay.serve(listener));
        let random = at.join("random");
        let made =
            Command::new("sh").arg("-c").arg(format!("head -c {mib}M /dev/urandom > {}", random.display())).status();
        assert!(made.unwrap().success());
        Self { world, pass, second, key, ports: [sshd_port, bare_port], cipher: cipher.to_owned(), sshd, random }
    }

    /// ssh to a contender, by its place in [`NAMES`].
    fn ssh(&self, which: usize, line: &str) -> Command {
        self.ssh_by(&self.pass, which, line)
    }

    fn ssh_by(&self, pass: &Pass, which: usize, line: &str) -> Command {
        let mut command = Command::new("ssh");
        if which == 2 {
            command = self.world.client("ssh", Some(pass));
            // As the hook says it: the certificate first. With -i alone ssh tries the bare key before it, which is refused, slowly.
            command.arg("-o").arg(format!("CertificateFile={}-cert.pub", pass.key.display()));
            command.args(["-c", &self.cipher, "gateway"]);
        } else {
            command.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
            command.args(["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-q", "-c", &self.cipher, "-i"]);
            command.arg(&self.key).args(["-l", &self.world.login, "-p", &self.ports[which].to_string(), "127.0.0.1"]);
        }
        command.arg(line).env_remove("SSH_AUTH_SOCK").stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// The command that gives the bytes.
    fn source(&self, mib: u64, load: Load) -> String {
        match load {
            Load::Zeros => format!("head -c {mib}M /dev/zero"),
            Load::Random => format!("cat {}", self.random.display()),
        }
    }

    /// MiB a second, and CPU seconds a GiB with what is done behind the session.
    fn download(&self, which: usize, mib: u64, load: Load) -> [f64; 2] {
        let (begun, cpu) = (Instant::now(), cpu_s());
        assert!(self.ssh(which, &self.source(mib, load)).status().unwrap().success());
        rates(mib, begun, cpu)
    }

    fn upload(&self, which: usize, mib: u64, load: Load) -> [f64; 2] {
        let mut bytes =
            Command::new("sh").arg("-c").arg(self.source(mib, load)).stdout(Stdio::piped()).spawn().unwrap();
        let (begun, cpu) = (Instant::now(), cpu_s());
        let mut ssh = self.ssh(which, "cat > /dev/null");
        assert!(ssh.stdin(bytes.stdout.take().unwrap()).status().unwrap().success());
        bytes.wait().unwrap();
        rates(mib, begun, cpu)
    }

    /// The median echo of one byte, in microseconds.
    fn echo(&self, which: usize) -> f64 {
        let mut child = self.ssh(which, "cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut byte = [b'x'];
        let mut times: Vec<f64> = (0..600)
            .map(|_| {
                let begun = Instant::now();
                stdin.write_all(&byte).unwrap();
                stdout.read_exact(&mut byte).unwrap();
                begun.elapsed().as_secs_f64() * 1e6
            })
            .skip(100)
            .collect();
        drop(stdin);
        child.wait().unwrap();
        median(&mut times)
    }

    /// Milliseconds of time and of CPU that a connection costs.
    fn setup(&self, which: usize) -> [f64; 2] {
        let (begun, cpu, count) = (Instant::now(), cpu_s(), 20);
        for _ in 0..count {
            assert!(self.ssh(which, "true").status().unwrap().success());
        }
        [begun.elapsed().as_secs_f64() * 1000.0 / f64::from(count), (cpu_s() - cpu) * 1000.0 / f64::from(count)]
    }

    /// KiB of this process that an idle session costs, and its CPU in a second, in milliseconds.
    fn idle(&self, which: usize, count: u32) -> [f64; 2] {
        let before = resident_kib();
        let start = |number| {
            let pass = if number < 250 { &self.pass } else { &self.second };
            let mut child = self.ssh_by(pass, which, "echo on; exec sleep 600").stdout(Stdio::piped()).spawn().unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
            child
        };
        let mut children: Vec<Child> = (0..count).map(start).collect();
        std::thread::sleep(Duration::from_secs(1));
        let kib = (resident_kib() - before) / f64::from(count);
        let cpu = cpu_s();
        std::thread::sleep(Duration::from_secs(5));
        let cpu = (cpu_s() - cpu) * 1000.0 / 5.0;
        for child in &mut children {
            let _ = (child.kill(), child.wait());
        }
        [kib, cpu]
    }
}

fn rates(mib: u64, begun: Instant, cpu: f64) -> [f64; 2] {
    let (mib, wall) = (mib as f64, begun.elapsed().as_secs_f64());
    settle();
    [mib / wall, (cpu_s() - cpu) * 1024.0 / mib]
}

/// User and system time of this process, in seconds (proc(5), clock ticks of 10 ms).
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|f| f.parse().ok()).collect();
    (fields[10] + fields[11]) / 100.0
}

fn resident_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits until this process has nothing left to do from the measurement before: recordings are flushed and sealed behind a session.
fn settle() {
    until(Duration::from_secs(60), "quiet", || {
        let before = cpu_s();
        std::thread::sleep(Duration::from_millis(500));
        cpu_s() - before < 0.015
    });
}

fn median(of: &mut [f64]) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let number = |at: usize, usual: u64| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(usual);
    let (mib, rounds) = (number(0, 512), number(1, 3));
    let cipher = words.get(2).map_or("aes256-gcm@openssh.com", String::as_str);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let field = Field::start(cipher, mib, &runtime);
    let stages = std::env::var("JIT_STAGES").unwrap_or_else(|_| "download,upload,echo,setup,idle".to_owned());
    let staged = |stage: &str| stages.split(',').any(|wanted| wanted == stage);
    println!("{cipher}, {mib} MiB, {rounds} rounds, medians");
    let table = |what: &str, measure: &dyn Fn(usize) -> [f64; 2]| -> [[f64; 2]; 3] {
        let mut seen: [[Vec<f64>; 2]; 3] = std::array::from_fn(|_| [Vec::new(), Vec::new()]);
        for _ in 0..rounds {
            for (which, seen) in seen.iter_mut().enumerate() {
                settle();
                let [a, b] = measure(which);
                seen[0].push(a);
                seen[1].push(b);
            }
        }
        let medians = seen.map(|[mut a, mut b]| [median(&mut a), median(&mut b)]);
        for (name, [a, b]) in NAMES.iter().zip(&medians) {
            let (direct, bare) = (a / medians[0][0], a / medians[1][0]);
            println!("{what:44} {name:8} {a:10.2} {b:10.3}   {direct:5.2} of direct  {bare:5.2} of bare");
        }
        medians
    };
    let chacha = cipher.starts_with("chacha20");
    let cpu_aim = if chacha { 2.9 } else { 1.5 };
    let short = cipher.split('@').next().unwrap();
    for (way, load) in ["download", "upload"].into_iter().flat_map(|way| [(way, Load::Zeros), (way, Load::Random)]) {
        if !staged(way) {
            continue;
        }
        let what = format!("{way}, {}: MiB/s, relay CPU s/GiB", load.word());
        let [direct, bare, ours] = table(&what, &|which| match way {
            "download" => field.download(which, mib, load),
            _ => field.upload(which, mib, load),
        });
        let seen = format!(
            "{:.0} MiB/s: {:.2} of a bare relay ({:.0}), {:.2} of direct ({:.0}); {:.2} CPU s/GiB (bare {:.2})",
            ours[0],
            ours[0] / bare[0],
            bare[0],
            ours[0] / direct[0],
            direct[0],
            ours[1],
            bare[1]
        );
        let aim = format!("≥ 0.95 of bare; ≤ {cpu_aim} CPU s/GiB");
        let met = Some(ours[0] / bare[0] >= 0.95 && ours[1] <= cpu_aim);
        let what = format!("SSH {way} through the gateway, recorded, {mib} MiB of {}, {short}", load.word());
        row(&Figure { what: &what, seen, aim: &aim, met });
    }
    if chacha {
        return field.leave();
    }
    if staged("echo") {
        report_echo(&field, &table);
    }
    if staged("setup") {
        report_setup(&field, &table);
    }
    if staged("idle") {
        report_idle(&field);
    }
    field.leave();
}

/// Measures every contender in turn, some rounds, and gives the medians.
type Table<'a> = &'a dyn Fn(&str, &dyn Fn(usize) -> [f64; 2]) -> [[f64; 2]; 3];

fn report_echo(field: &Field, table: Table<'_>) {
    let [direct, bare, ours] = table("echo of a byte: us at p50", &|which| [field.echo(which), 0.0]);
    let added = ours[0] - direct[0];
    let seen = format!("{added:.0} µs (bare relay {:.0} µs; direct takes {:.0} µs)", bare[0] - direct[0], direct[0]);
    row(&Figure { what: "keystroke echo, added at p50", seen, aim: "≤ 150 µs", met: Some(added <= 150.0) });
}

fn report_setup(field: &Field, table: Table<'_>) {
    let [direct, bare, ours] = table("set-up: ms, relay CPU ms", &|which| field.setup(which));
    let seen = format!(
        "{:.1} ms of CPU (bare {:.1}); {:.0} ms, {:.2} of direct ({:.0} ms; bare {:.0} ms)",
        ours[1],
        bare[1],
        ours[0],
        ours[0] / direct[0],
        direct[0],
        bare[0]
    );
    let met = Some(ours[1] <= 5.0 && ours[0] / direct[0] <= 1.05);
    row(&Figure {
        what: "SSH connection set-up, with its entry in the log",
        seen,
        aim: "≤ 5 ms CPU; ≤ 1.05 of direct",
        met,
    });
}

fn report_idle(field: &Field) {
    let (ours, bare) = (field.idle(2, 500), field.idle(1, 200));
    let seen = format!("{:.0} KiB (bare {:.0}), {:.1} ms CPU a second for all", ours[0], bare[0], ours[1]);
    let met = Some(ours[0] <= 150.0);
    row(&Figure { what: "memory per recorded idle session, 500 open", seen, aim: "≤ 150 KiB; idle CPU 0", met });
}

impl Field {
    fn leave(self) {
        drop(self.world);
        let mut sshd = self.sshd;
        let _ = (sshd.kill(), sshd.wait());
    }
}
