//! Accounts on PostgreSQL: made and ended, a pair each, at 1, 8 and 32 at once, beside pgbench sending the same statements; and how late
//! they end ([`endings`]).
//!
//! `cargo bench --bench accounts [-- seconds]`. Alternates the two, three rounds, and prints the medians with their ratio.
#![allow(clippy::unwrap_used)]

mod endings;
mod table;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jit_broker::accounts::postgres::{Postgres, Secret, Server as Target};
use jit_broker::accounts::{Account, MarkerKey, Proof};
use jit_broker::clock::{Clock as _, System, random16};
use jit_broker::daemon::postgres::{HBA_CERT, Plan, Server};
use jit_broker::domain::ids::{GrantId, InstallId};
use jit_broker::domain::names::AccountName;
use table::{Figure, row};

fn account(now: i64) -> Account {
    Account {
        name: AccountName::of_random(&random16()),
        grant: GrantId::new(random16()),
        member_of: vec!["ro".to_owned()],
        read_only: true,
        statement_timeout_ms: None,
        connection_limit: None,
        valid_until: now + 3600,
        proof: Proof::Cert,
    }
}

/// Pairs a second.
fn ours(runtime: &tokio::runtime::Runtime, accounts: &Postgres, at_once: usize, seconds: u64) -> f64 {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let now = System::new().read().wall_s;
    let begun = Instant::now();
    runtime.block_on(async {
        let work: Vec<_> = (0..at_once)
            .map(|_| {
                let (accounts, stop, done) = (accounts.clone(), stop.clone(), done.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let one = account(now);
                        accounts.make(&one).await.expect("made");
                        let ending = accounts.end(&one.name, one.grant).await.expect("ended");
                        assert!(ending.gone, "{ending:?}");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        stop.store(true, Ordering::Relaxed);
        for task in work {
            task.await.expect("no panic");
        }
    });
    done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

/// Transactions (pairs) a second of pgbench with the same statements.
fn pgbench(server: &Server, password: &str, at_once: usize, seconds: u64) -> f64 {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/accounts.sql");
    let output = Command::new("pgbench")
        .args(["-n", "-D", "ready=0", "-f", script, "-c", &at_once.to_string(), "-j", "2", "-T", &seconds.to_string()])
        .args(["-h", "127.0.0.1", "-p", &server.port.to_string(), "-U", "jit_admin", "postgres"])
        .env("PGPASSWORD", password)
        .env("PGSSLMODE", "require")
        .output()
        .expect("pgbench: apt-get install postgresql");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("tps = ")).and_then(|rest| rest.split(' ').next());
    line.and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn median(mut list: Vec<f64>) -> f64 {
    list.sort_by(f64::total_cmp);
    list.get(list.len() / 2).copied().unwrap_or_default()
}

fn main() {
    let seconds = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(5);
    let password = AccountName::of_random(&random16()).to_string();
    let now = System::new().read().wall_s;
    let dir = std::env::temp_dir();
    let plan = Plan { dir: &dir, hba: HBA_CERT, client_ca_pem: "", admin_password: &password, conf: "", now };
    let server = Server::start(&plan).expect("a server");
    server.sql("postgres", "CREATE ROLE ro NOLOGIN; ALTER ROLE jit_admin CONNECTION LIMIT 60").expect("roles");
    let secret = Secret::Password(password.clone().into());
    let target = Target {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        tls_name: "localhost".to_owned(),
        ca_pem: server.ca_pem.clone(),
        database: "postgres".to_owned(),
        admin: "jit_admin".to_owned(),
        secret: Arc::new(move || Ok(secret.clone())),
    };
    let accounts = Postgres::new(target, InstallId::new([7; 16]), MarkerKey::new([9; 32]));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for at_once in [1, 8, 32] {
        let (mut us, mut them) = ([Vec::new(), Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for round in 1..=3 {
            println!("{at_once} at once, round {round} of 3");
            let (server_s, own_s) = (cpu_of_server(&server), cpu_s("self"));
            let rate = ours(&runtime, &accounts, at_once, seconds);
            let pairs = rate * seconds as f64;
            us[0].push(rate);
            us[1].push((cpu_of_server(&server) - server_s) * 1e3 / pairs);
            us[2].push((cpu_s("self") - own_s) * 1e3 / pairs);
            let server_s = cpu_of_server(&server);
            let rate = pgbench(&server, &password, at_once, seconds);
            them[0].push(rate);
            them[1].push((cpu_of_server(&server) - server_s) * 1e3 / (rate * seconds as f64));
        }
        let [ours, server_ms, own_ms] = us.map(median);
        let [theirs, their_ms] = them.map(median);
        let seen = format!(
            "{ours:.0}/s beside {theirs:.0}/s of pgbench: {:.2}; CPU each: broker {own_ms:.2} ms, PostgreSQL {server_ms:.1} ms \
             (for pgbench {their_ms:.1} ms)",
            ours / theirs
        );
        let what = format!("accounts made and ended, pairs a second, {at_once} at once (8 sessions at most)");
        row(&Figure { what: &what, seen, aim: "≥ 0.8 of pgbench", met: Some(ours / theirs >= 0.8) });
    }
    drop((accounts, server));
    endings::run(&runtime);
}

/// User and system time of a process and of those children that it waited for, in seconds.
fn cpu_s(pid: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = text.rsplit(')').next().unwrap_or_default();
    let fields: Vec<f64> = after.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // The state is no number, so the first field here is the parent; the kernel counts in hundredths.
    let children = if pid == "self" { 2 } else { 4 };
    fields.iter().skip(10).take(children).sum::<f64>() / 100.0
}

/// As [`cpu_s`], of the postmaster with all its processes.
fn cpu_of_server(server: &Server) -> f64 {
    let master = server.pid().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
    let own = |pid: &str| cpu_s(pid);
    own(&master.to_string()) + children.split_whitespace().map(own).sum::<f64>()
}
