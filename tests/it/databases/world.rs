//! A broker in a runtime of its own, which can be killed, before a real PostgreSQL; people who sign; psql.

use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jit_broker::accounts::scram::Verifier;
use jit_broker::broker::{Broker, Issued};
use jit_broker::clock::{Clock as _, System};
use jit_broker::daemon::Daemon;
use jit_broker::daemon::dev::database::{DATABASE, DB_TARGET, start, with_database};
use jit_broker::daemon::dev::{Somebody, adopt, bundle};
use jit_broker::daemon::init::{Plan, init};
use jit_broker::daemon::postgres::Server;
use jit_broker::domain::act::{Deed, Selector};
use jit_broker::domain::database::Auth;
use jit_broker::domain::event::{Entry, Event};
use jit_broker::domain::grant::GrantState;
use jit_broker::domain::ids::{GrantId, InstallId, RequestId};
use jit_broker::domain::key::Key;
use jit_broker::domain::names::{AccountName, RoleName, TargetName};
use jit_broker::domain::refusal::Refusal;
use jit_broker::domain::request::RequestState;
use jit_broker::domain::text::Words;
use jit_broker::settings::Settings;
use jit_broker::wire::GrantDoc;
use jit_ca::x509::X509Key;
use tokio::runtime::Runtime;

use crate::trust::words;
use crate::world::Done;

pub struct Db {
    runtime: Option<Runtime>,
    daemon: Option<Daemon>,
    pub settings: Settings,
    pub install: InstallId,
    pub admin: Somebody,
    pub alice: Somebody,
    pub bob: Somebody,
    pub server: Server,
    pub key: X509Key,
    pub auth: Auth,
    pub folder: tempfile::TempDir,
}

pub fn key_of(key: &X509Key) -> Key {
    Key(key.public().unwrap())
}

/// Waits for something with a deadline; gives how long it took.
#[track_caller]
pub fn until(limit: Duration, what: &str, mut seen: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !seen() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    begun.elapsed()
}

impl Db {
    pub fn cert() -> Self {
        Self::start(Auth::Cert, "")
    }

    pub fn start(auth: Auth, conf: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("db").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let [admin, alice, bob] = ["root-admin", "alice", "bob"].map(|n| Somebody::make(folder.path(), n).unwrap());
        let plan = Plan {
            dir: folder.path().join("broker"),
            admin: admin.name(),
            key: admin.key(),
            listen: "127.0.0.1:0".parse().unwrap(),
            public_url: "https://127.0.0.1:7443".to_owned(),
            gateway_ssh: None,
            gateway_source: Vec::new(),
        };
        let runtime = Runtime::new().unwrap();
        let made = runtime.block_on(init(&plan, Arc::new(System::new()))).unwrap();
        let ca_dir = Settings::read(&made.config).unwrap().ca_dir;
        let server = start(&plan.dir, &ca_dir, auth, System::new().read().wall_s, conf).unwrap();
        std::fs::write(folder.path().join("root.crt"), &server.ca_pem).unwrap();
        let settings = Settings::read(&made.config).unwrap();
        let (install, key) = (made.genesis.install, X509Key::generate().unwrap());
        let daemon = None;
        let mut db =
            Self { runtime: Some(runtime), daemon, settings, install, admin, alice, bob, server, key, auth, folder };
        db.boot();
        db.adopt(db.server.port, &db.server.ca_pem.clone());
        db
    }

    /// Starts the broker; one that was killed may hold its ledger for a moment.
    pub fn boot(&mut self) {
        let end = Instant::now() + Duration::from_secs(10);
        let runtime = self.runtime.get_or_insert_with(|| Runtime::new().unwrap());
        self.daemon = loop {
            match runtime.block_on(Daemon::start(&self.settings, Arc::new(System::new()))) {
                Ok(daemon) => break Some(daemon),
                Err(refusal) => assert!(Instant::now() < end, "{refusal:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
    }

    /// Ends the broker where it stands: every task is dropped at its next wait.
    pub fn kill(&mut self) {
        let daemon = self.daemon.take();
        self.runtime.take().unwrap().shutdown_background();
        drop(daemon);
    }

    pub fn adopt(&self, port: u16, ca: &str) {
        let text = with_database(bundle(&self.alice.key(), &self.bob.key(), "deploy", 22), self.auth, port, ca);
        self.run(adopt(self.broker(), &self.admin, self.install, &text)).unwrap();
    }

    pub fn broker(&self) -> &Broker {
        &self.daemon.as_ref().unwrap().broker
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(work)
    }

    pub fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap()
    }

    pub fn act(&self, who: &Somebody, text: Option<&Words>, deed: Deed) -> Result<RequestId, Refusal> {
        let signed = who.sign(self.install, self.broker().now(), text.map(Words::commitment), deed)?;
        let id = RequestId::of_digest(&signed.digest());
        self.run(self.broker().act(signed, text, None)).map(|_| id)
    }

    /// Alice asks for the key of this world, bob agrees.
    #[track_caller]
    pub fn grant(&self, role: &str, for_s: u64) -> GrantId {
        let deed = Deed::Request {
            by: self.alice.name(),
            target: TargetName::new(DB_TARGET).unwrap(),
            role: RoleName::new(role).unwrap(),
            for_s: Some(for_s),
            key: key_of(&self.key),
        };
        let id = self.act(&self.alice, Some(&words("hotfix for OPS-1")), deed).unwrap();
        let memory = self.run(self.broker().memory());
        let request = memory.state.requests.get(&id).unwrap();
        let (request_digest, terms) = (request.digest, request.standing_terms());
        let waits = request.state == RequestState::Pending;
        drop(memory);
        if waits {
            let deed = Deed::Approve { by: self.bob.name(), request: id, request_digest, terms };
            self.act(&self.bob, None, deed).unwrap();
        }
        let memory = self.run(self.broker().memory());
        match memory.state.requests.get(&id).unwrap().state {
            RequestState::Approved { grant: Some(grant) } => grant,
            ref other => panic!("{other:?}"),
        }
    }

    pub fn issue(&self, grant: GrantId) -> Result<String, Refusal> {
        self.issue_for(grant, &self.key)
    }

    pub fn issue_for(&self, grant: GrantId, key: &X509Key) -> Result<String, Refusal> {
        match self.run(self.broker().issue(&self.alice.name(), grant, &key_of(key), None))? {
            Issued::Client(pem) => Ok(pem),
            other => panic!("{other:?}"),
        }
    }

    pub fn issue_password(&self, grant: GrantId, verifier: Verifier) -> Result<(), Refusal> {
        let issued = self.run(self.broker().issue(&self.alice.name(), grant, &key_of(&self.key), Some(verifier)))?;
        assert_eq!(issued, Issued::Password);
        Ok(())
    }

    /// A grant in use: its account, and the file with certificate and key.
    #[track_caller]
    pub fn open(&self, role: &str, for_s: u64) -> (GrantId, AccountName, PathBuf) {
        let grant = self.grant(role, for_s);
        let file = self.keep(&self.issue(grant).unwrap(), &self.key);
        (grant, self.account(grant), file)
    }

    pub fn keep(&self, pem: &str, key: &X509Key) -> PathBuf {
        let name = format!("{}.pem", Instant::now().elapsed().as_nanos() + u128::from(rand()));
        let path = self.folder.path().join(name);
        std::fs::write(&path, format!("{pem}{}", key.to_pkcs8_pem().as_str())).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    /// What a certificate says, without its signature, which is another one every time (ECDSA).
    pub fn facts(&self, pem: &str) -> String {
        let file = self.keep(pem, &self.key);
        let mut command = Command::new("openssl");
        command.args(["x509", "-noout", "-serial", "-dates", "-subject", "-pubkey", "-in"]).arg(file);
        let said = Done::from(command.output().unwrap()).ok();
        assert!(said.contains("notAfter="), "{said}");
        said
    }

    pub fn account(&self, grant: GrantId) -> AccountName {
        self.run(self.broker().memory()).state.grants.get(&grant).unwrap().account.as_ref().unwrap().name.clone()
    }

    pub fn state(&self, grant: GrantId) -> GrantState {
        self.run(self.broker().memory()).state.grants.get(&grant).unwrap().state.clone()
    }

    pub fn doc(&self, grant: GrantId) -> GrantDoc {
        self.run(self.broker().grant_doc(&self.alice.name(), grant)).unwrap()
    }

    pub fn revoke(&self, grant: GrantId) {
        let deed = Deed::Revoke { by: self.bob.name(), of: Selector::Grant(grant) };
        self.act(&self.bob, Some(&words("the work is done")), deed).unwrap();
    }

    #[track_caller]
    pub fn ended(&self, grant: GrantId, limit: Duration) -> Duration {
        let mut last = None;
        until(limit, &format!("{grant} ended"), || {
            let state = self.state(grant);
            let over = matches!(state, GrantState::Ended { .. });
            last = Some(state);
            over
        })
    }

    pub fn events(&self) -> Vec<Event> {
        let leaves = self.run(self.broker().reader().leaves(0, 10_000)).unwrap();
        leaves.iter().map(|leaf| serde_json::from_slice::<Entry>(&leaf.bytes).unwrap().event).collect()
    }

    /// The kinds of the events about accounts and one grant's end, in order.
    pub fn kinds(&self, grant: GrantId) -> Vec<String> {
        let about = |e: &&Event| e.concerns().grant == Some(grant);
        self.events().iter().filter(about).map(Event::kind).collect()
    }

    #[track_caller]
    pub fn sql(&self, text: &str) -> String {
        self.server.sql(DATABASE, text).unwrap_or_else(|refusal| panic!("{text}: {}", refusal.message))
    }

    /// Sessions and roles of an account, as `sessions|roles`.
    pub fn traces(&self, name: &AccountName) -> String {
        self.sql(&format!(
            "SELECT (SELECT count(*) FROM pg_stat_activity WHERE usename = '{name}' OR (usesysid IS NOT NULL AND usename IS NULL)), \
             (SELECT count(*) FROM pg_roles WHERE rolname = '{name}')"
        ))
    }

    /// Every account of the kind that brokers make.
    pub fn all_accounts(&self) -> String {
        self.sql("SELECT rolname FROM pg_roles WHERE rolname LIKE '%\\_jit' ORDER BY 1")
    }

    /// psql as an account, by certificate or by password.
    pub fn psql(&self, user: &str, file: Option<&PathBuf>, password: Option<&str>) -> Command {
        let mut command = Command::new("psql");
        command.args(["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-h", "localhost", "-d", DATABASE]);
        command.args(["-p", &self.server.port.to_string(), "-U", user]);
        command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", self.folder.path().join("root.crt"));
        command.env("PGCONNECT_TIMEOUT", "10").env("PGHOSTADDR", "127.0.0.1").env("HOME", self.folder.path());
        if let Some(file) = file {
            command.env("PGSSLCERT", file).env("PGSSLKEY", file);
        }
        if let Some(password) = password {
            command.env("PGPASSWORD", password);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn by_cert(&self, user: &AccountName, file: &PathBuf, text: &str) -> Done {
        self.psql(user.as_str(), Some(file), None).args(["-c", text]).output().unwrap().into()
    }

    /// A psql that stays: runs a text, then waits for more.
    pub fn session(&self, user: &AccountName, file: &PathBuf, text: &str) -> Session {
        use std::io::Write as _;
        // By a name of its own: a session that has just ended may be counted for a moment still.
        let name = format!("session-{}", rand());
        let here = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'");
        let mut command = self.psql(user.as_str(), Some(file), None);
        let mut child = command.args(["-f", "-"]).env("PGAPPNAME", &name).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{text}").unwrap();
        until(Duration::from_secs(10), "a session", || self.sql(&here) == "1");
        Session { child, stdin }
    }
}

fn rand() -> u64 {
    u64::from_le_bytes(*jit_broker::clock::random16().first_chunk().unwrap())
}

/// A psql in the background.
pub struct Session {
    child: Child,
    stdin: ChildStdin,
}

impl Session {
    pub fn ended(mut self) -> Done {
        let _ = std::io::Write::write_all(&mut self.stdin, b"\nSELECT 'after';\n");
        drop(self.stdin);
        self.child.wait_with_output().unwrap().into()
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if let (Some(daemon), Some(runtime)) = (self.daemon.take(), self.runtime.take()) {
            // What may still be at work is not waited for.
            let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), daemon.stop()).await });
            runtime.shutdown_background();
        }
    }
}
