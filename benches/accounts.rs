//! Accounts on PostgreSQL: made and ended, a pair each, at 1, 8 and 32 at once, beside pgbench sending the same statements.
//!
//! `cargo bench --bench accounts [-- seconds]`. Alternates the two, three rounds, and prints the medians with their ratio.

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
        .args(["-n", "-f", script, "-c", &at_once.to_string(), "-j", "2", "-T", &seconds.to_string()])
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
    println!("at once   ours (pairs/s)   pgbench (pairs/s)   ratio");
    for at_once in [1, 8, 32] {
        let (mut us, mut them) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            us.push(ours(&runtime, &accounts, at_once, seconds));
            them.push(pgbench(&server, &password, at_once, seconds));
        }
        let (us, them) = (median(us), median(them));
        println!("{at_once:>7}   {us:>14.0}   {them:>17.0}   {:>5.2}", us / them);
    }
    ending_at_once(&runtime, &accounts);
}

/// 2,000 accounts that end in the same moment: how late the lock and the drop of each is.
fn ending_at_once(runtime: &tokio::runtime::Runtime, accounts: &Postgres) {
    let now = System::new().read().wall_s;
    let list: Vec<Account> = (0..2000).map(|_| account(now)).collect();
    runtime.block_on(async {
        for chunk in list.chunks(100) {
            let made: Vec<_> = chunk
                .iter()
                .cloned()
                .map(|one| {
                    let accounts = accounts.clone();
                    tokio::spawn(async move { accounts.make(&one).await })
                })
                .collect();
            for task in made {
                task.await.expect("no panic").expect("made");
            }
        }
        let places = Arc::new(tokio::sync::Semaphore::new(8));
        let begun = Instant::now();
        let ended: Vec<_> = list
            .into_iter()
            .map(|one| {
                let (accounts, places) = (accounts.clone(), places.clone());
                tokio::spawn(async move {
                    let _place = places.acquire().await;
                    assert!(accounts.end(&one.name, one.grant).await.expect("ended").gone);
                    begun.elapsed().as_secs_f64()
                })
            })
            .collect();
        let mut late = Vec::new();
        for task in ended {
            late.push(task.await.expect("no panic"));
        }
        late.sort_by(f64::total_cmp);
        let at = |share: usize| late.get(late.len() * share / 100).or(late.last()).copied().unwrap_or_default();
        println!("2000 ending at once: gone after p50 {:.1} s, p99 {:.1} s, last {:.1} s", at(50), at(99), at(100));
    });
}
