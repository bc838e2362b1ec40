//! A served broker with a recording gateway before a real sshd, started below the shim or beside it, and what clients saw of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jit_broker::domain::event::{Entry, Event};
use jit_broker::domain::ids::{GrantId, SessionId};
use jit_broker::domain::session::{SessionCause, SessionEnd};
use jit_broker::ledger::Reader;
use jit_broker::record::{Store, Stored};
use jit_ca::key::PrivateKey;

use super::page::Shim;
use crate::served::{Served, eventually, free_port, serial};
use crate::world::Done;

/// Nobody has to agree to `ops` on web-07 and to `free` on gw-07; bob has to agree to `work` on gw-07. Both on gw-07 are recorded.
const POLICY: &str = "schema = 1\n[[rule]]\nid = \"ops\"\nwho = [\"group:backend\"]\ntargets = { name = \"web-07\" }\nroles = [\"ops\"]\n\
    max = \"8h\"\nrecord = \"off\"\nauto = true\n\
    [[rule]]\nid = \"free\"\nwho = [\"group:backend\"]\ntargets = { name = \"gw-07\" }\nroles = [\"free\"]\nmax = \"8h\"\nauto = true\n\
    [[rule]]\nid = \"work\"\nwho = [\"group:backend\"]\ntargets = { name = \"gw-07\" }\nroles = [\"work\"]\nmax = \"8h\"\n\
    [[rule.step]]\nname = \"peer\"\nneed = 1\nfrom = [\"group:leads\"]\n";

pub struct Site {
    pub served: Served,
    pub shim: Shim,
    pub signer: Option<Child>,
    below: Vec<String>,
    apart: bool,
    sshd: Child,
    runtime: tokio::runtime::Runtime,
}

fn private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// Has it end, and kills it where it does not; gives whether it did in good order.
fn end(child: &mut Child, what: &str) -> bool {
    Command::new("kill").arg(child.id().to_string()).stderr(Stdio::null()).status().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{what} did not stop in 30 s");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Site {
    /// With its signer inside, or as a process of its own. Nothing runs yet but sshd.
    pub fn start(apart: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("faults").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let dir = std::fs::canonicalize(folder.path()).unwrap();
        let shim = Shim::build(&dir);
        let gateway = format!("127.0.0.1:{}", free_port());
        let mut served = Served::init_with(dir.clone(), Vec::new(), &["--gateway-ssh", &gateway]);
        served.keep(folder);
        if apart {
            let text = std::fs::read_to_string(served.config()).unwrap();
            let kept = text.lines().filter(|l| !l.starts_with("signer "));
            let own = format!("[ca]\nsigner = \"unix:{}\"", dir.join("disk/broker/signer.sock").display());
            private(&served.config(), &kept.collect::<Vec<_>>().join("\n").replace("[ca]", &own));
        }
        let below = shim.before(&dir.join("disk"));
        let (port, login) = (free_port(), Done::from(Command::new("id").arg("-un").output().unwrap()).ok());
        let sshd = run_sshd(&served, port, login.trim());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut site = Self { served, shim, signer: None, below, apart, sshd, runtime };
        site.serve(false).unwrap();
        site.adopt(port, login.trim());
        site.write_ssh(&gateway, login.trim());
        assert!(site.stop());
        site
    }

    fn adopt(&self, port: u16, login: &str) {
        let (served, folder) = (&self.served, self.served.dir.join("bundle"));
        std::fs::create_dir(&folder).unwrap();
        let (alice, bob, host) = (served.alice.key(), served.bob.key(), PrivateKey::from_seed([9; 32]));
        let people = format!(
            "[[person]]\nname = \"alice\"\ngroups = [\"backend\"]\nkeys = [\"{alice}\"]\n[[person]]\nname = \"bob\"\n\
             groups = [\"leads\"]\nkeys = [\"{bob}\"]\n[offices]\noperators = [\"group:leads\"]\nauditors = [\"group:leads\"]\n"
        );
        let role = |name: &str| {
            format!("[target.roles.{name}]\nlogins = [\"{login}\"]\nallow = [\"shell\", \"exec\", \"sftp\"]\n")
        };
        let targets = format!(
            "[[target]]\nname = \"web-07\"\nkind = \"ssh\"\naddress = \"127.0.0.1:22\"\nmode = \"direct\"\nhost_ca = \"@broker\"\n\
             [target.roles.ops]\nlogins = [\"ops\"]\n\
             [[target]]\nname = \"gw-07\"\nkind = \"ssh\"\naddress = \"127.0.0.1:{port}\"\nmode = \"gateway\"\nhost_key = \"{}\"\n{}{}",
            host.public(),
            role("free"),
            role("work")
        );
        for (name, text) in [("people.toml", people), ("targets.toml", targets), ("policy.toml", POLICY.to_owned())] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        served.sign_in("root-admin");
        served.cli("root-admin", "jit-broker apply ../bundle --yes").ok();
        served.sign_in("alice");
        served.sign_in("bob");
    }

    fn write_ssh(&self, gateway: &str, login: &str) {
        let (served, dir) = (&self.served, self.served.dir.display());
        let host_ca = served.cli("bob", "jit-broker ca export --kind ssh-host").ok();
        let known = served.dir.join("known_hosts");
        let keys: Vec<&str> = host_ca.split_whitespace().skip_while(|w| !w.starts_with("ssh-")).take(2).collect();
        private(&known, &format!("@cert-authority jit-gateway {}\n", keys.join(" ")));
        private(
            &served.dir.join("ssh_config"),
            &format!(
                "Host gateway\n  HostName 127.0.0.1\n  Port {}\n  User {login}\n  HostKeyAlias jit-gateway\n  UserKnownHostsFile {dir}/known_hosts\n  \
                 GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n  BatchMode yes\n  IdentitiesOnly yes\n  ConnectTimeout 10\n  LogLevel ERROR\n",
                gateway.rsplit(':').next().unwrap()
            ),
        );
    }

    fn log(&self, name: &str) -> PathBuf {
        self.served.dir.join(name)
    }

    /// What the daemon said since it was started.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log("serve.log")).unwrap()).into_owned()
    }

    fn launch(&mut self, verb: &str, word: &str) -> Result<Child, String> {
        let path = self.log(&format!("{verb}.log"));
        let file = std::fs::File::create(&path).unwrap();
        let config = self.served.config();
        let mut child = self.served.operator(&[verb, "--config"]).arg(config).stderr(file).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let said = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            if said.contains(word) {
                return Ok(child);
            }
            if child.try_wait().unwrap().is_some() {
                return Err(String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned());
            }
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{verb} neither started nor ended in 60 s: {said}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts it, and its signer where that is a process of its own, below the shim or not; gives what it said where it did not come up.
    pub fn serve(&mut self, shimmed: bool) -> Result<(), String> {
        self.served.before = if shimmed { self.below.clone() } else { Vec::new() };
        if self.apart && self.signer.is_none() {
            self.start_signer()?;
        }
        self.served.server = Some(self.launch("serve", "listening on")?);
        Ok(())
    }

    /// Starts it below the shim, behind more words.
    pub fn serve_after(&mut self, mut words: Vec<String>) -> Result<(), String> {
        words.extend(self.below.iter().cloned());
        self.served.before = words;
        self.served.server = Some(self.launch("serve", "listening on")?);
        Ok(())
    }

    /// Starts the signer that is a process of its own, as the daemon was started.
    pub fn start_signer(&mut self) -> Result<(), String> {
        let child = self.launch("signer", "signing for")?;
        self.signer = Some(child);
        let socket = self.served.broker_dir().join("signer.sock");
        let until = Instant::now() + Duration::from_secs(30);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            let over = self.signer.as_mut().unwrap().try_wait().unwrap().is_some();
            if over {
                self.signer = None;
                return Err(String::from_utf8_lossy(&std::fs::read(self.log("signer.log")).unwrap()).into_owned());
            }
            assert!(Instant::now() < until, "the signer's socket never came");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Stops everything by SIGTERM; gives whether the daemon ended in good order.
    pub fn stop(&mut self) -> bool {
        let well = self.served.server.take().is_none_or(|mut child| end(&mut child, "the daemon"));
        if let Some(mut signer) = self.signer.take() {
            end(&mut signer, "the signer");
        }
        well
    }

    /// `kill -9` of both.
    pub fn kill(&mut self) {
        self.served.kill();
        self.kill_signer();
    }

    /// `kill -9`.
    pub fn kill_signer(&mut self) {
        if let Some(mut child) = self.signer.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn recordings(&self) -> PathBuf {
        self.served.broker_dir().join("state/recordings")
    }

    /// `ssh gateway LINE` with a key whose certificate lies beside it.
    pub fn ssh(&self, key: &Path, line: &str) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(self.served.dir.join("ssh_config")).arg("-i").arg(key).args(["gateway", line]);
        command.env_remove("SSH_AUTH_SOCK").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A fresh key of somebody's, as a file.
    pub fn key(&self, name: &str) -> (PathBuf, PrivateKey) {
        let mut seed = [0; 32];
        jit_broker::clock::fill(&mut seed);
        let (path, key) = (self.served.dir.join(name), PrivateKey::from_seed(seed));
        let _ = std::fs::remove_file(path.with_file_name(format!("{name}-cert.pub")));
        private(&path, &key.to_openssh(name).unwrap());
        private(&path.with_file_name(format!("{name}.pub")), &format!("{} {name}\n", key.public()));
        (path, key)
    }

    /// What the log says, read from outside.
    pub fn story(&self) -> Story {
        let mut story = Story::default();
        self.runtime.block_on(async {
            let reader = Reader::open(&self.served.ledger()).await.unwrap();
            let mut next = 0;
            loop {
                let page = reader.leaves(next, 1000).await.unwrap();
                let Some(last) = page.last() else { return };
                next = last.seq + 1;
                page.iter().for_each(|leaf| story.tell(serde_json::from_slice::<Entry>(&leaf.bytes).unwrap().event));
            }
        });
        story
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

/// An sshd that takes what the gateway shows, and nothing else.
fn run_sshd(served: &Served, port: u16, login: &str) -> Child {
    let host = served.dir.join("host");
    std::fs::create_dir(&host).unwrap();
    let at = host.display();
    private(&host.join("key"), &PrivateKey::from_seed([9; 32]).to_openssh("host").unwrap());
    let config = served.config();
    let ca = served.operator(&["ca", "export", "--kind", "ssh-user", "--config"]).arg(config).output().unwrap();
    private(&host.join("ca.pub"), &Done::from(ca).ok());
    private(&host.join("principals"), &format!("gw-07/{login}\n"));
    private(
        &host.join("sshd_config"),
        &format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/key\nTrustedUserCAKeys {at}/ca.pub\n\
             AuthorizedPrincipalsFile {at}/principals\nAuthorizedKeysFile none\nAuthenticationMethods publickey\nUsePAM no\n\
             PermitRootLogin prohibit-password\nStrictModes no\nPidFile none\nMaxStartups 200\nSubsystem sftp internal-sftp\n"
        ),
    );
    let _ = std::fs::create_dir_all("/run/sshd");
    let log = std::fs::File::create(host.join("log")).unwrap();
    let mut sshd = Command::new("/usr/sbin/sshd");
    sshd.args(["-D", "-e", "-f"]).arg(host.join("sshd_config")).stdin(Stdio::null()).stderr(log);
    let child = sshd.spawn().unwrap();
    eventually("sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    child
}

/// What the log says of credentials and sessions.
#[derive(Debug, Default)]
pub struct Story {
    /// Kind of credential and serial: each authority counts for itself.
    pub serials: BTreeMap<(String, u64), GrantId>,
    /// With their ends.
    pub grants: BTreeMap<GrantId, i64>,
    pub over: BTreeSet<GrantId>,
    pub sessions: BTreeMap<SessionId, GrantId>,
    pub closed: BTreeMap<SessionId, SessionEnd>,
}

impl Story {
    fn tell(&mut self, event: Event) {
        match event {
            Event::GrantOpened { grant, ends_at, .. } => drop(self.grants.insert(grant, ends_at)),
            Event::GrantEnding { grant, .. }
            | Event::GrantEnded { grant, .. }
            | Event::GrantLapsed { grant }
            | Event::GrantCancelled { grant, .. } => drop(self.over.insert(grant)),
            Event::CredentialIssued { grant, serial, credential, .. } => {
                let old = self.serials.insert((format!("{credential:?}"), serial), grant);
                assert!(old.is_none(), "serial {serial} stands twice in the log");
            }
            Event::SessionOpened { session } => drop(self.sessions.insert(session.id, session.grant)),
            Event::SessionClosed { session, end, .. } => drop(self.closed.insert(session, end)),
            _ => {}
        }
    }
}

/// What clients saw with their own eyes.
#[derive(Debug, Default)]
pub struct Seen {
    pub grants: BTreeSet<GrantId>,
    pub certificates: Vec<(GrantId, String)>,
    /// Said to be over.
    pub revoked: BTreeSet<GrantId>,
    /// What came through a session under a grant.
    pub shown: Vec<(GrantId, Vec<u8>)>,
}

/// Every credential, every end and every byte that clients saw is what the log and the recordings say. `disk_failed`: a recording may have
/// been lost, so it need not be sealed, and its session was cut for it.
#[track_caller]
pub fn judge(site: &Site, seen: &Seen, disk_failed: bool) {
    let story = site.story();
    for grant in &seen.grants {
        assert!(story.grants.contains_key(grant), "{grant} was told to a client and is lost");
    }
    for (grant, certificate) in &seen.certificates {
        let facts = jit_ca::ssh::read(certificate).unwrap();
        let logged = story.serials.iter().any(|((_, serial), of)| *serial == facts.serial && of == grant);
        assert!(logged, "a client has certificate {} of {grant} and the log has not", facts.serial);
    }
    // Hosts trust the authority of users; what the gateway's gives opens the gateway alone, which asks the state.
    let for_hosts = |of: &GrantId, serial: u64| story.serials.get(&("SshUser".to_owned(), serial)) == Some(of);
    let revoked = seen.certificates.iter().filter(|(of, _)| seen.revoked.contains(of));
    let revoked: BTreeSet<u64> =
        revoked.map(|(of, text)| (of, serial(text))).filter(|(of, n)| for_hosts(of, *n)).map(|(_, n)| n).collect();
    assert!(seen.revoked.is_subset(&story.over), "what was said to be over lives again");
    let bob = site.served.client(&site.served.bob).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let list = bob.list();
        let missing: Vec<&u64> = revoked.difference(&list.serials).collect();
        if missing.is_empty() {
            break;
        }
        assert!(
            Instant::now() < until,
            "hosts would take {missing:?}, which were revoked; list {} has {:?}, the log {:?}\n{}",
            list.version,
            list.serials,
            story.serials,
            site.said()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let store = Store::to_read(site.recordings()).unwrap();
    for (session, grant) in &story.sessions {
        let end = story.closed.get(session).unwrap_or_else(|| panic!("{session} of {grant} is over and never closed"));
        match &end.recording {
            Some(sealed) => store.verify(*session, sealed).unwrap_or_else(|e| panic!("{session}: {e:?}")),
            None => assert!(
                disk_failed || matches!(end.cause, SessionCause::TargetAway | SessionCause::Lost),
                "{session}: {end:?} has no recording"
            ),
        }
    }
    for (grant, bytes) in seen.shown.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let most =
            story.sessions.iter().filter(|(_, of)| *of == grant).map(|(session, _)| recorded(&store, *session)).max();
        let most = most.unwrap_or_else(|| panic!("{grant}: a client saw output, and there was no session"));
        // Of the file at most 64 KiB were not written yet, which is no more than 192 KiB of what passed (record::Recorder).
        assert!(bytes.len() as u64 <= most + (192 << 10), "{grant}: {} bytes passed, {most} are recorded", bytes.len());
    }
    let open: Vec<_> = std::fs::read_dir(site.recordings().join("open")).into_iter().flatten().flatten().collect();
    let open: Vec<_> = open.iter().map(|e| e.file_name()).filter(|n| n.to_string_lossy().ends_with(".rec")).collect();
    assert!(open.is_empty(), "{open:?} stay unsealed");
}

/// How many bytes of output can be read from a recording.
fn recorded(store: &Store, session: SessionId) -> u64 {
    let frames = store.reader(session).into_iter().flat_map(|reader| reader.map_while(Result::ok));
    frames.map(|frame| if let Stored::Output(bytes) = frame.what { bytes.len() as u64 } else { 0 }).sum()
}
