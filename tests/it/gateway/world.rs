//! A broker with its SSH gateway in a runtime of its own, a real sshd behind it, and people with the real ssh.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jit_broker::broker::{Broker, Issued};
use jit_broker::clock::{Clock as _, Simulated, System};
use jit_broker::daemon::Daemon;
use jit_broker::daemon::dev::{Somebody, adopt};
use jit_broker::daemon::init::{Plan, init};
use jit_broker::domain::act::{Deed, Selector};
use jit_broker::domain::bundle::BundleText;
use jit_broker::domain::event::{Entry, Event};
use jit_broker::domain::ids::{GrantId, InstallId, RequestId};
use jit_broker::domain::key::Key;
use jit_broker::domain::names::{RoleName, TargetName};
use jit_broker::domain::refusal::Refusal;
use jit_broker::domain::request::RequestState;
use jit_broker::domain::session::SessionEnd;
use jit_broker::domain::text::Words;
use jit_broker::gateway::ssh;
use jit_broker::record::Store;
use jit_broker::settings::Settings;
use jit_ca::key::PrivateKey;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::trust::words;
use crate::world::Done;

pub const TARGET: &str = "web-07";

/// The roles of the target, with what each allows.
const ROLES: [(&str, &str); 5] = [
    ("all", "\"shell\", \"exec\", \"sftp\", \"forward\""),
    ("shell", "\"shell\""),
    ("exec", "\"exec\""),
    ("sftp", "\"sftp\""),
    ("work", "\"shell\", \"exec\", \"sftp\""),
];

pub struct Gw {
    runtime: Option<Runtime>,
    daemon: Option<Daemon>,
    gateway: Option<ssh::Running>,
    pub stop: watch::Sender<bool>,
    pub clock: Arc<Simulated>,
    pub store: Arc<Store>,
    pub settings: Settings,
    pub install: InstallId,
    pub admin: Somebody,
    pub alice: Somebody,
    pub bob: Somebody,
    /// Where clients connect.
    pub port: u16,
    /// Where the target's sshd listens.
    pub ssh_port: u16,
    /// The one account that it can log in.
    pub login: String,
    pub dir: PathBuf,
    sshd: Option<Child>,
    _folder: tempfile::TempDir,
}

/// A grant with the files that ssh takes.
pub struct Pass {
    pub grant: GrantId,
    pub key: PathBuf,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn put(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
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

impl Gw {
    pub fn start() -> Self {
        Self::recording_to(None)
    }

    /// Recordings go to this folder; nothing for the usual one.
    pub fn recording_to(recordings: Option<PathBuf>) -> Self {
        let home = std::env::var("HOME").unwrap();
        let folder = tempfile::Builder::new().prefix(".jit-gw").tempdir_in(home).unwrap();
        let dir = folder.path().to_owned();
        let [admin, alice, bob] = ["root-admin", "alice", "bob"].map(|n| Somebody::make(&dir, n).unwrap());
        let plan = Plan {
            dir: dir.join("broker"),
            admin: admin.name(),
            key: admin.key(),
            listen: "127.0.0.1:0".parse().unwrap(),
            public_url: "https://127.0.0.1:7443".to_owned(),
            gateway_ssh: Some(std::net::SocketAddr::from(([127, 0, 0, 1], free_port()))),
            gateway_source: Vec::new(),
        };
        let runtime = Runtime::new().unwrap();
        let made = runtime.block_on(init(&plan, Arc::new(System::new()))).unwrap();
        let mut settings = Settings::read(&made.config).unwrap();
        if let Some(recordings) = recordings {
            settings.recordings = recordings;
        }
        let clock = Simulated::at(System::new().read().wall_s);
        let daemon = runtime.block_on(Daemon::start(&settings, clock.clone())).unwrap();
        let store = Arc::new(Store::open(&settings.recordings).unwrap());
        let login = Done::from(Command::new("id").arg("-un").output().unwrap()).ok().trim().to_owned();
        let mut world = Self {
            runtime: Some(runtime),
            daemon: Some(daemon),
            gateway: None,
            stop: watch::channel(false).0,
            clock,
            store,
            install: made.genesis.install,
            settings,
            admin,
            alice,
            bob,
            port: 0,
            ssh_port: free_port(),
            login,
            dir,
            sshd: None,
            _folder: folder,
        };
        world.adopt("host_ca = \"@broker\"");
        let certificate = world.enroll();
        world.run_sshd(&certificate);
        world.open();
        world.write_config();
        world
    }

    /// Opens the gateway, as the daemon does.
    pub fn open(&mut self) {
        let mut config = self.settings.gateway_ssh.clone().unwrap();
        // Beside the daemon's own, so that a test stops this one alone.
        config.listen.set_port(0);
        let host_key = PrivateKey::from_seed([7; 32]);
        let serving = ssh::serve(self.broker().clone(), self.store.clone(), &config, &host_key, self.stop.subscribe());
        let running = self.run(serving).unwrap();
        self.port = running.address.port();
        self.gateway = Some(running);
    }

    /// Stops the gateway alone, in order; gives how long that took.
    pub fn close(&mut self) -> Duration {
        let begun = Instant::now();
        self.stop.send_replace(true);
        let gateway = self.gateway.take().unwrap();
        self.run(gateway.stopped());
        begun.elapsed()
    }

    pub fn adopt(&self, host: &str) {
        self.adopt_with(host, "");
    }

    /// The same rules, and a gateway may ask for people.
    pub fn adopt_attested(&self) {
        self.adopt_with("host_ca = \"@broker\"", "attested = true\n");
    }

    /// The same people and targets, with more in the rule.
    pub fn adopt_with(&self, host: &str, more: &str) {
        let (alice, bob) = (self.alice.key(), self.bob.key());
        let people = format!(
            "[[person]]\nname = \"alice\"\ngroups = [\"backend\"]\nkeys = [\"{alice}\"]\n\n\
             [[person]]\nname = \"bob\"\ngroups = [\"leads\"]\nkeys = [\"{bob}\"]\n\n\
             [offices]\noperators = [\"group:leads\"]\nauditors = [\"group:leads\"]\n"
        );
        let roles: String = ROLES
            .iter()
            .map(|(role, allow)| {
                format!(
                    "[target.roles.{role}]\nlogins = [\"{}\"]\nallow = [{allow}]\nrecord_input = true\n",
                    self.login
                )
            })
            .collect();
        let targets = format!(
            "[[target]]\nname = \"{TARGET}\"\nkind = \"ssh\"\naddress = \"127.0.0.1:{}\"\nlabels = {{ env = \"prod\" }}\n\
             mode = \"gateway\"\n{host}\n{roles}",
            self.ssh_port
        );
        let policy = "schema = 1\n\n[[rule]]\nid = \"prod\"\nwho = [\"group:backend\"]\n\
             targets = { kind = \"ssh\", labels = { env = \"prod\" } }\nroles = [\"*\"]\nmax = \"8h\"\nMORE\
             reason = { min_chars = 8 }\n  [[rule.step]]\n  name = \"peer\"\n  need = 1\n  from = [\"group:leads\"]\n";
        let files = [("people.toml", people), ("targets.toml", targets), ("policy.toml", policy.replace("MORE", more))];
        let text = BundleText { files: files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect() };
        self.run(adopt(self.broker(), &self.admin, self.install, &text)).unwrap();
    }

    fn enroll(&self) -> String {
        let host = PrivateKey::from_seed([9; 32]);
        let target = TargetName::new(TARGET).unwrap();
        let deed = Deed::EnrollHost { by: self.admin.name(), target: target.clone(), key: Key(host.public().clone()) };
        self.act(&self.admin, None, deed).unwrap();
        self.run(self.broker().host_certificate(&target)).unwrap()
    }

    fn run_sshd(&mut self, certificate: &str) {
        let host = self.dir.join("host");
        std::fs::create_dir_all(&host).unwrap();
        let at = host.display();
        put(&host.join("key"), &PrivateKey::from_seed([9; 32]).to_openssh("host").unwrap());
        put(&host.join("key-cert.pub"), &format!("{certificate}\n"));
        put(&host.join("ca.pub"), &format!("{}\n", self.authority("ssh_user")));
        put(&host.join("principals"), &format!("{TARGET}/{}\n", self.login));
        put(
            &host.join("sshd_config"),
            &format!(
                "Port {}\nListenAddress 127.0.0.1\nHostKey {at}/key\nHostCertificate {at}/key-cert.pub\n\
                 TrustedUserCAKeys {at}/ca.pub\nAuthorizedPrincipalsFile {at}/principals\nAuthorizedKeysFile none\n\
                 AuthenticationMethods publickey\nUsePAM no\nPermitRootLogin prohibit-password\nStrictModes yes\n\
                 PidFile none\nSubsystem sftp internal-sftp\nMaxStartups 200\nAcceptEnv LANG LC_* GIT_PROTOCOL\nLogLevel VERBOSE\n",
                self.ssh_port
            ),
        );
        let _ = std::fs::create_dir_all("/run/sshd");
        let log = std::fs::File::create(host.join("log")).unwrap();
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f"]).arg(host.join("sshd_config")).stdin(Stdio::null()).stderr(log);
        self.sshd = Some(sshd.spawn().unwrap());
        let port = self.ssh_port;
        until(Duration::from_secs(10), "sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// An authority's public key by its name in the first entry.
    pub fn authority(&self, which: &str) -> Key {
        let memory = self.run(self.broker().memory());
        let genesis = memory.state.genesis.clone().unwrap();
        match which {
            "ssh_user" => genesis.ssh_user.clone(),
            "ssh_host" => genesis.ssh_host.clone(),
            _ => genesis.ssh_gateway.clone().unwrap(),
        }
    }

    fn write_config(&self) {
        let dir = self.dir.display();
        put(
            &self.dir.join("known_hosts"),
            &format!("@cert-authority jit-gateway,{TARGET} {}\n", self.authority("ssh_host")),
        );
        put(
            &self.dir.join("config"),
            &format!(
                "Host *\n  UserKnownHostsFile {dir}/known_hosts\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n  \
                 BatchMode yes\n  IdentitiesOnly yes\n  ConnectTimeout 10\n\
                 Host gateway\n  HostName 127.0.0.1\n  Port {}\n  HostKeyAlias jit-gateway\n  User {}\n\
                 Host hop\n  HostName 127.0.0.1\n  Port {}\n  HostKeyAlias jit-gateway\n  User alice\n  IdentityFile {dir}/alice/id_ed25519\n\
                 Host {TARGET}\n  User {}\n  ProxyJump hop\n",
                self.port, self.login, self.port, self.login
            ),
        );
    }

    pub fn broker(&self) -> &Broker {
        &self.daemon.as_ref().unwrap().broker
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(work)
    }

    pub fn act(&self, who: &Somebody, text: Option<&Words>, deed: Deed) -> Result<RequestId, Refusal> {
        let signed = who.sign(self.install, self.broker().now(), text.map(Words::commitment), deed)?;
        let id = RequestId::of_digest(&signed.digest());
        self.run(self.broker().act(signed, text, None)).map(|_| id)
    }

    /// Alice asks for a fresh key, bob agrees; with the certificate beside the key.
    #[track_caller]
    pub fn pass(&self, role: &str, for_s: u64) -> Pass {
        let (grant, path, key) = self.granted(role, for_s);
        let Issued::Ssh(line) = self.run(self.broker().issue(&self.alice.name(), grant, &key, None)).unwrap() else {
            panic!("another credential");
        };
        put(&path.with_file_name(format!("{}-cert.pub", path.file_name().unwrap().display())), &format!("{line}\n"));
        Pass { grant, key: path }
    }

    /// Alice asks for a fresh key, bob agrees.
    #[track_caller]
    pub fn granted(&self, role: &str, for_s: u64) -> (GrantId, PathBuf, Key) {
        let private = PrivateKey::from_seed({
            let mut seed = [0; 32];
            jit_broker::clock::fill(&mut seed);
            seed
        });
        let key = Key(private.public().clone());
        let path =
            self.dir.join(format!("pass-{}", jit_broker::clock::random16().map(|b| format!("{b:02x}")).concat()));
        put(&path, &private.to_openssh("pass").unwrap());
        let deed = Deed::Request {
            by: self.alice.name(),
            target: TargetName::new(TARGET).unwrap(),
            role: RoleName::new(role).unwrap(),
            for_s: Some(for_s),
            key: key.clone(),
        };
        let id = self.act(&self.alice, Some(&words("hotfix for OPS-1")), deed).unwrap();
        self.agree(id);
        (self.grant_of(id), path, key)
    }

    /// Bob agrees.
    #[track_caller]
    pub fn agree(&self, id: RequestId) {
        let memory = self.run(self.broker().memory());
        let request = memory.state.requests.get(&id).unwrap();
        let (request_digest, terms) = (request.digest, request.standing_terms());
        drop(memory);
        let deed = Deed::Approve { by: self.bob.name(), request: id, request_digest, terms };
        self.act(&self.bob, None, deed).unwrap();
    }

    /// What a request gave.
    #[track_caller]
    pub fn grant_of(&self, id: RequestId) -> GrantId {
        let memory = self.run(self.broker().memory());
        match memory.state.requests.get(&id).unwrap().state {
            RequestState::Approved { grant: Some(grant) } => grant,
            ref other => panic!("{other:?}"),
        }
    }

    pub fn revoke(&self, grant: GrantId) {
        let deed = Deed::Revoke { by: self.bob.name(), of: Selector::Grant(grant) };
        self.act(&self.bob, Some(&words("the work is done")), deed).unwrap();
    }

    /// A client program with this world's configuration: `ssh`, `scp`, `sftp`.
    pub fn client(&self, program: &str, pass: Option<&Pass>) -> Command {
        let mut command = Command::new(program);
        command.arg("-F").arg(self.dir.join("config"));
        if let Some(pass) = pass {
            command.arg("-i").arg(&pass.key);
        }
        command.env_remove("SSH_AUTH_SOCK").env("HOME", &self.dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `ssh gateway LINE` by the certificate of a pass.
    pub fn ssh(&self, pass: &Pass, arguments: &[&str]) -> Done {
        self.client("ssh", Some(pass)).arg("gateway").args(arguments).output().unwrap().into()
    }

    pub fn events(&self) -> Vec<Event> {
        let leaves = self.run(self.broker().reader().leaves(0, 10_000)).unwrap();
        leaves.iter().map(|leaf| serde_json::from_slice::<Entry>(&leaf.bytes).unwrap().event).collect()
    }

    /// The ends of all sessions so far, in order, under a grant.
    pub fn ends(&self, of: GrantId) -> Vec<(jit_broker::domain::ids::SessionId, SessionEnd)> {
        let closed = |event| match event {
            Event::SessionClosed { session, grant, end, .. } if grant == of => Some((session, end)),
            _ => None,
        };
        self.events().into_iter().filter_map(closed).collect()
    }

    /// Waits for the end of the only session under a grant.
    #[track_caller]
    pub fn end(&self, of: GrantId) -> (jit_broker::domain::ids::SessionId, SessionEnd) {
        until(Duration::from_secs(20), "the session's end", || !self.ends(of).is_empty());
        self.ends(of).remove(0)
    }

    /// Everything that a recording says, as text of its frames.
    pub fn recorded(
        &self,
        session: jit_broker::domain::ids::SessionId,
        end: &SessionEnd,
    ) -> Vec<jit_broker::record::Stamped> {
        self.store.verify(session, end.recording.as_ref().unwrap()).unwrap();
        self.store.reader(session).unwrap().map(|frame| frame.unwrap()).collect()
    }
}

impl Drop for Gw {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let (Some(daemon), Some(runtime)) = (self.daemon.take(), self.runtime.take()) {
            let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), daemon.stop()).await });
            runtime.shutdown_background();
        }
        if let Some(sshd) = &mut self.sshd {
            let _ = sshd.kill();
            let _ = sshd.wait();
        }
    }
}

impl Gw {
    /// The length of all recordings together, open ones too.
    pub fn recording_bytes(&self) -> u64 {
        fn below(dir: &Path) -> u64 {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .map(|entry| match entry.metadata() {
                    Ok(found) if found.is_dir() => below(&entry.path()),
                    Ok(found) => found.len(),
                    Err(_) => 0,
                })
                .sum()
        }
        below(&self.settings.recordings)
    }
}
