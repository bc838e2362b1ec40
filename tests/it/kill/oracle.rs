//! A served broker before a real PostgreSQL, and what its log and that server say, compared from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jit_broker::clock::{Clock as _, System, random16, wall_s};
use jit_broker::daemon::dev::bundle;
use jit_broker::daemon::dev::database::{DATABASE, start, with_database};
use jit_broker::daemon::postgres::Server;
use jit_broker::domain::database::Auth;
use jit_broker::domain::digest::Digest;
use jit_broker::domain::event::{Entry, Event};
use jit_broker::domain::ids::GrantId;
use jit_broker::domain::key::Key;
use jit_broker::ledger::Reader;
use jit_broker::settings::Settings;
use jit_ca::x509::X509Key;

use crate::served::{PROGRAM, Served};

/// Everything is granted at once: what is tried here is what follows.
const POLICY: &str = "schema = 1\n[[rule]]\nid = \"db\"\nwho = [\"group:backend\"]\ntargets = { kind = \"postgres\" }\n\
    roles = [\"ro\", \"rw\"]\nmax = \"1h\"\nrecord = \"off\"\nauto = true\n";

pub struct Site {
    pub served: Served,
    pub server: Server,
    runtime: tokio::runtime::Runtime,
}

/// What the log says of one grant.
#[derive(Debug, Default)]
pub struct Told {
    pub ends_at: i64,
    pub account: Option<String>,
    pub made: bool,
    pub ending: bool,
    pub ended: bool,
}

impl Told {
    /// True while an account of it may be on the server.
    pub fn live_at(&self, at: i64) -> bool {
        !self.ending && !self.ended && at < self.ends_at
    }
}

/// The log, read from outside as it grows.
#[derive(Debug, Default)]
pub struct Story {
    size: u64,
    pub grants: BTreeMap<GrantId, Told>,
    /// Serials with what the log allowed under them.
    pub serials: BTreeMap<u64, (GrantId, Key, Digest)>,
    /// Accounts that a broker found and could not explain.
    pub strangers: Vec<String>,
}

impl Story {
    fn tell(&mut self, event: Event) {
        match event {
            Event::GrantOpened { grant, ends_at, .. } => {
                self.grants.insert(grant, Told { ends_at, ..Told::default() });
            }
            Event::AccountPlanned { grant, account, .. } => {
                self.of(grant).account = Some(account.name.to_string());
            }
            Event::AccountMade { grant, .. } => self.of(grant).made = true,
            Event::GrantEnding { grant, .. } => self.of(grant).ending = true,
            Event::GrantEnded { grant, .. } | Event::GrantLapsed { grant } | Event::GrantCancelled { grant, .. } => {
                self.of(grant).ended = true;
            }
            Event::CredentialIssued { grant, serial, key, tbs_sha256, .. } => {
                let old = self.serials.insert(serial, (grant, key, tbs_sha256));
                assert!(old.is_none(), "serial {serial} stands twice in the log");
            }
            Event::AccountFound { account, what, .. } => self.strangers.push(format!("{account}: {what}")),
            _ => {}
        }
    }

    fn of(&mut self, grant: GrantId) -> &mut Told {
        self.grants.get_mut(&grant).unwrap()
    }

    pub fn accounts(&self, keep: impl Fn(&Told) -> bool) -> BTreeSet<&str> {
        self.grants.values().filter(|told| keep(told)).filter_map(|told| told.account.as_deref()).collect()
    }
}

impl Site {
    pub fn start() -> Self {
        let mut served = Served::init();
        let ca_dir = Settings::read(&served.config()).unwrap().ca_dir;
        let server = start(&served.broker_dir(), &ca_dir, Auth::Cert, System::new().read().wall_s, "").unwrap();
        server.sql(DATABASE, "GRANT CREATE ON SCHEMA public TO app_writer").unwrap();
        std::fs::write(served.dir.join("root.crt"), &server.ca_pem).unwrap();
        served.serve();
        let mut text = bundle(&served.alice.key(), &served.bob.key(), "ops", 22);
        text.files.insert("policy.toml".to_owned(), POLICY.to_owned());
        let text = with_database(text, Auth::Cert, server.port, &server.ca_pem);
        let folder = served.dir.join("bundle");
        std::fs::create_dir(&folder).unwrap();
        for (name, text) in &text.files {
            let text = if name == "policy.toml" { POLICY } else { text };
            std::fs::write(folder.join(name), text).unwrap();
        }
        served.sign_in("root-admin");
        served.cli("root-admin", "jit-broker apply ../bundle --yes").ok();
        Self { served, server, runtime: tokio::runtime::Runtime::new().unwrap() }
    }

    /// Reads on in the log.
    pub fn read(&self, story: &mut Story) {
        self.runtime.block_on(async {
            let reader = Reader::open(&self.served.ledger()).await.unwrap();
            loop {
                let page = reader.leaves(story.size, 1000).await.unwrap();
                if page.is_empty() {
                    return;
                }
                for leaf in page {
                    story.tell(serde_json::from_slice::<Entry>(&leaf.bytes).unwrap().event);
                    story.size = leaf.seq + 1;
                }
            }
        });
    }

    /// The accounts on the server, with whether they may log in; and how many sessions have no account any more.
    pub fn accounts(&self) -> (BTreeMap<String, bool>, String) {
        let text = "SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname LIKE '%\\_jit';
            SELECT '', count(*) FROM pg_stat_activity WHERE usesysid IS NOT NULL AND usesysid NOT IN (SELECT oid FROM pg_roles)";
        let rows = self.server.sql("postgres", text).unwrap();
        let mut rows: BTreeMap<String, String> =
            rows.lines().filter_map(|l| l.split_once('|')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        let ghosts = rows.remove("").unwrap();
        (rows.into_iter().map(|(name, can)| (name, can == "t")).collect(), ghosts)
    }

    /// Waits until log and server say the same: every account there is a live grant's, every account that was made for a live grant is
    /// there and may log in, and no session outlived its account. Gives how long that took.
    #[track_caller]
    pub fn settle(&self, story: &mut Story, limit: Duration) -> Duration {
        let begun = Instant::now();
        loop {
            let (there, ghosts) = self.accounts();
            self.read(story);
            let now = wall_s();
            let live = story.accounts(|told| told.live_at(now));
            let strange: Vec<_> = there.keys().filter(|name| !live.contains(name.as_str())).collect();
            let firm = story.accounts(|told| told.made && told.live_at(now));
            let locked: Vec<_> = firm.iter().filter(|name| there.get(**name) != Some(&true)).collect();
            let open = story.grants.values().filter(|t| !t.live_at(now) && !t.ended).count();
            if strange.is_empty() && locked.is_empty() && ghosts == "0" && open == 0 {
                assert_eq!(story.strangers, Vec::<String>::new(), "accounts that the log had not explained");
                return begun.elapsed();
            }
            let state =
                format!("{strange:?} unexplained, {locked:?} locked, {ghosts} sessions, {open} ends not proven");
            assert!(begun.elapsed() < limit, "after {limit:?}: {state}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Keeps a credential as a file for psql.
    pub fn keep(&self, pem: &str, key: &X509Key) -> PathBuf {
        let path = self.served.dir.join(format!("{}.pem", data_encoding::HEXLOWER.encode(&random16())));
        std::fs::write(&path, format!("{pem}{}", key.to_pkcs8_pem().as_str())).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    /// psql as an account.
    pub fn psql(&self, user: &str, file: &Path, text: &str) -> Command {
        let mut command = Command::new("psql");
        command.args(["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-h", "localhost", "-d", DATABASE]);
        command.args(["-p", &self.server.port.to_string(), "-U", user, "-c", text]);
        command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", self.served.dir.join("root.crt"));
        command.env("PGHOSTADDR", "127.0.0.1").env("HOME", &self.served.dir).env("PGCONNECT_TIMEOUT", "10");
        command.env("PGSSLCERT", file).env("PGSSLKEY", file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// What the log must say of a credential that a client holds: grant, key, and the very bytes.
    #[track_caller]
    pub fn allowed(&self, story: &Story, grant: GrantId, key: &Key, pem: &str) {
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = block.parse_x509().unwrap();
        let raw = certificate.raw_serial().iter().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        let told = story.serials.get(&raw).unwrap_or_else(|| panic!("serial {raw} was given and is not in the log"));
        let wanted = (grant, key.clone(), Digest::of(certificate.tbs_certificate.as_ref()));
        assert!(*told == wanted, "serial {raw}: other bytes than the log allows");
    }

    pub fn verify(&self) {
        let verify = self.served.cli("bob", &format!("{PROGRAM} audit verify"));
        assert_eq!(verify.code, Some(0), "{}{}", verify.out, verify.err);
    }
}

/// A key that client certificates may be for.
pub fn client_key() -> (X509Key, Key) {
    let key = X509Key::generate().unwrap();
    let public = Key(key.public().unwrap());
    (key, public)
}

/// Up to `n`, at random.
pub fn below(n: u64) -> u64 {
    u64::from_le_bytes(*random16().first_chunk().unwrap()) % n
}
