//! `dev`: a throw-away broker on loopback with people, a real sshd and a real PostgreSQL of its own, in a private folder.
//!
//! Everything it does for people it does as they would: with signed acts, and with this very program.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jit_ca::key::PrivateKey;

use super::Daemon;
use super::init::{Plan, init};
use super::postgres;
use crate::broker::Broker;
use crate::clock::{Clock, System, fill, random16};
use crate::domain::act::{ACT_NAMESPACE, ACT_SCHEMA, Act, Deed, HOST_NAMESPACE, SignedAct};
use crate::domain::bundle::BundleText;
use crate::domain::database::Auth;
use crate::domain::digest::{Digest, canonical};
use crate::domain::event::{Command, HostWord};
use crate::domain::ids::InstallId;
use crate::domain::key::Key;
use crate::domain::names::{PersonName, TargetName};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::target::Mode;
use crate::settings::{Settings, bad_config};
use crate::signer::keys::{replace, write_new};

pub mod database;

/// The name of the target that `dev` makes.
pub const TARGET: &str = "web-07";

/// A running throw-away world.
pub struct World {
    /// The private folder.
    pub dir: PathBuf,
    /// The daemon.
    pub daemon: Daemon,
    /// Where sshd listens.
    pub ssh_port: u16,
    /// The account that sshd can log in.
    pub login: String,
    /// The database's server.
    pub postgres: postgres::Server,
    sshd: Child,
    following: tokio::task::JoinHandle<()>,
}

fn broken(what: &str, e: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::LOCAL_IO, format!("{what}: {e}."))
}

fn folder(path: &Path) -> Result<(), Refusal> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| broken(&path.display().to_string(), e))
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16, Refusal> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| broken("no port is free", e))?;
    Ok(listener.local_addr().map_err(|e| broken("no port is free", e))?.port())
}

/// Somebody of the world: a name and the key they sign with.
pub struct Somebody {
    name: PersonName,
    key: PrivateKey,
}

impl Somebody {
    /// Makes a person with a home that has a key in it.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn make(dir: &Path, name: &str) -> Result<Self, Refusal> {
        let home = dir.join(name);
        folder(&home)?;
        let mut seed = [0; 32];
        fill(&mut seed);
        let key = PrivateKey::from_seed(seed);
        let text = key.to_openssh(name).map_err(|e| broken("a key", e))?;
        write_new(&home.join("id_ed25519"), text.as_bytes())?;
        write_new(&home.join("id_ed25519.pub"), format!("{} {name}\n", key.public()).as_bytes())?;
        let name = PersonName::new(name).map_err(|e| broken("a name", e))?;
        Ok(Self { name, key })
    }

    /// Their name.
    pub fn name(&self) -> PersonName {
        self.name.clone()
    }

    /// Their public key.
    pub fn key(&self) -> Key {
        Key(self.key.public().clone())
    }

    /// Signs an act for an installation.
    ///
    /// # Errors
    /// None for keys that were made here.
    pub fn sign(&self, install: InstallId, at: i64, words: Option<Digest>, deed: Deed) -> Result<SignedAct, Refusal> {
        let namespace = deed.namespace();
        let act = Act {
            schema: ACT_SCHEMA.to_owned(),
            install,
            key_fp: self.key.public().fingerprint(),
            at,
            nonce: data_encoding::HEXLOWER.encode(&random16()),
            words,
            deed,
        };
        let bytes = act.bytes().map_err(|e| broken("an act", e))?;
        debug_assert!(namespace.starts_with("act@") == (namespace == ACT_NAMESPACE));
        let signature = jit_ca::sshsig::sign(&self.key, namespace, &bytes).map_err(|e| broken("a signature", e))?;
        let act = String::from_utf8(bytes).map_err(|e| broken("an act", e))?;
        Ok(SignedAct { act, signature })
    }
}

/// The bundle of the world: alice asks, bob agrees; `ops` is hers without asking.
pub fn bundle(alice: &Key, bob: &Key, login: &str, port: u16) -> BundleText {
    let people = format!(
        "[[person]]\nname = \"alice\"\ngroups = [\"backend\"]\nkeys = [\"{alice}\"]\n\n\
         [[person]]\nname = \"bob\"\ngroups = [\"backend\", \"leads\"]\nkeys = [\"{bob}\"]\n\n\
         [offices]\noperators = [\"group:leads\"]\nauditors = [\"group:leads\"]\n"
    );
    let targets = format!(
        "[[target]]\nname = \"{TARGET}\"\nkind = \"ssh\"\naddress = \"127.0.0.1:{port}\"\nlabels = {{ env = \"prod\" }}\n\
         mode = \"direct\"\nhost_ca = \"@broker\"\n\
         [target.roles.deploy]\nlogins = [\"{login}\"]\nallow = [\"shell\", \"exec\", \"sftp\"]\n"
    );
    let policy = "schema = 1\n\n[[rule]]\nid = \"prod-deploy\"\nwho = [\"group:backend\"]\n\
         targets = { kind = \"ssh\", labels = { env = \"prod\" } }\nroles = [\"deploy\"]\nmax = \"1h\"\nrecord = \"off\"\n\
         reason = { min_chars = 8 }\n  [[rule.step]]\n  name = \"peer\"\n  need = 1\n  from = [\"group:leads\"]\n\n\
         [[test]]\nask = { as = \"alice\", target = \"web-07\", role = \"deploy\", for = \"30m\", reason = \"hotfix for OPS-1\" }\n\
         expect = { steps = [\"peer\"], max = \"1h\" }\n";
    let files = [("people.toml", people), ("targets.toml", targets), ("policy.toml", policy.to_owned())];
    BundleText { files: files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect() }
}

/// The same with every target for ssh reached through the gateway, and recorded.
pub fn through_gateway(mut text: BundleText) -> BundleText {
    for file in text.files.values_mut() {
        *file = file.replace("mode = \"direct\"\nhost_ca", "mode = \"gateway\"\nhost_ca");
    }
    if let Some(policy) = text.files.get_mut("policy.toml") {
        *policy = policy.replacen("max = \"1h\"\nrecord = \"off\"", "max = \"1h\"\nrecord = \"strict\"", 1);
    }
    text
}

/// Starts the world in a folder that is empty or not there.
///
/// # Errors
/// What failed; nothing keeps running then.
pub async fn start(dir: &Path, mode: Mode) -> Result<World, Refusal> {
    postgres::programs()?;
    let clock: Arc<dyn Clock> = Arc::new(System::new());
    folder(dir)?;
    let dir = fs::canonicalize(dir).map_err(|e| broken("the folder", e))?;
    let admin = Somebody::make(&dir, "root-admin")?;
    let (alice, bob) = (Somebody::make(&dir, "alice")?, Somebody::make(&dir, "bob")?);
    let port = free_port()?;
    let plan = Plan {
        dir: dir.join("broker"),
        admin: admin.name(),
        key: admin.key(),
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], port)),
        public_url: format!("https://127.0.0.1:{port}"),
        gateway_ssh: Some(std::net::SocketAddr::from(([127, 0, 0, 1], free_port()?))),
        gateway_source: Vec::new(),
    };
    let made = init(&plan, clock.clone()).await?;
    let settings = Settings::read(&made.config).map_err(|problems| bad_config(&problems))?;
    let (broker_dir, now) = (dir.join("broker"), clock.read().wall_s);
    let postgres = database::start(&broker_dir, &settings.ca_dir, Auth::Cert, now, "")?;
    // Read again: the configuration tells of the database's secret now.
    let settings = Settings::read(&made.config).map_err(|problems| bad_config(&problems))?;
    let daemon = Daemon::start(&settings, clock).await?;
    let login = own_name()?;
    let ssh_port = free_port()?;
    let text = bundle(&alice.key(), &bob.key(), &login, ssh_port);
    let text = if mode == Mode::Gateway { through_gateway(text) } else { text };
    let text = database::with_database(text, Auth::Cert, postgres.port, &postgres.ca_pem);
    adopt(&daemon.broker, &admin, made.genesis.install, &text).await?;
    let ca = fs::read_to_string(settings.ca_dir.join("x509_server.crt")).map_err(|e| broken("the server CA", e))?;
    replace(&dir.join("server-ca.pem"), ca.as_bytes(), 0o600)?;
    let host = host_key(&dir)?;
    let certificate = enroll(&daemon.broker, &admin, made.genesis.install, &host).await?;
    let sshd = run_sshd(&dir, ssh_port, &login, &certificate, &made.genesis.ssh_user)?;
    let following = tokio::spawn(follow_krl(daemon.broker.clone(), host, made.genesis.install, dir.join("host/krl")));
    Ok(World { dir, daemon, ssh_port, login, postgres, sshd, following })
}

impl World {
    /// Stops sshd, daemon and PostgreSQL.
    pub async fn stop(mut self) {
        self.following.abort();
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
        self.daemon.stop().await;
        drop(self.postgres);
    }
}

fn own_name() -> Result<String, Refusal> {
    let out = Process::new("id").arg("-un").output().map_err(|e| broken("id -un", e))?;
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// Adopts a bundle as an administrator does.
///
/// # Errors
/// As decided.
pub async fn adopt(broker: &Broker, admin: &Somebody, install: InstallId, text: &BundleText) -> Result<(), Refusal> {
    let base = broker.memory().await.state.bundle.digest;
    let deed = Deed::Apply { by: admin.name(), bundle: text.digest(), base };
    let signed = admin.sign(install, broker.now(), None, deed)?;
    broker.act(signed, None, Some(text.bytes())).await.map(drop)
}

fn host_key(dir: &Path) -> Result<PrivateKey, Refusal> {
    let host = dir.join("host");
    folder(&host)?;
    let mut seed = [0; 32];
    fill(&mut seed);
    let key = PrivateKey::from_seed(seed);
    let text = key.to_openssh(TARGET).map_err(|e| broken("a host key", e))?;
    write_new(&host.join("ssh_host_ed25519_key"), text.as_bytes())?;
    Ok(key)
}

async fn enroll(broker: &Broker, admin: &Somebody, install: InstallId, host: &PrivateKey) -> Result<String, Refusal> {
    let target = TargetName::new(TARGET).map_err(|e| broken("a name", e))?;
    let deed = Deed::EnrollHost { by: admin.name(), target: target.clone(), key: Key(host.public().clone()) };
    broker.act(admin.sign(install, broker.now(), None, deed)?, None, None).await?;
    broker.host_certificate(&target).await
}

/// Starts an sshd that knows the user CA, one principal for one account, and the revocation list.
fn run_sshd(dir: &Path, port: u16, login: &str, certificate: &str, ca: &Key) -> Result<Child, Refusal> {
    let host = dir.join("host");
    folder(&host.join("principals"))?;
    let put = |name: &str, text: String| replace(&host.join(name), text.as_bytes(), 0o600);
    put("ssh_host_ed25519_key-cert.pub", format!("{certificate}\n"))?;
    put("user_ca.pub", format!("{ca}\n"))?;
    put(&format!("principals/{login}"), format!("{TARGET}/{login}\n"))?;
    let krl = fs::read(dir.join("broker/state/krl")).map_err(|e| broken("the revocation list", e))?;
    replace(&host.join("krl"), &krl, 0o600)?;
    let at = host.display();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/ssh_host_ed25519_key\n\
         HostCertificate {at}/ssh_host_ed25519_key-cert.pub\nTrustedUserCAKeys {at}/user_ca.pub\n\
         AuthorizedPrincipalsFile {at}/principals/%u\nRevokedKeys {at}/krl\nAuthorizedKeysFile none\n\
         AuthenticationMethods publickey\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n\
         PermitRootLogin prohibit-password\nStrictModes yes\nPidFile none\nSubsystem sftp internal-sftp\nLogLevel VERBOSE\n"
    );
    put("sshd_config", config)?;
    let program = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"].into_iter().find(|p| Path::new(p).exists());
    let program =
        program.ok_or_else(|| Refusal::new(Code::LOCAL_IO, "There is no sshd: apt-get install openssh-server."))?;
    if rustix::process::geteuid().is_root() {
        let _ = fs::create_dir_all("/run/sshd");
    }
    let log = fs::File::create(host.join("sshd.log")).map_err(|e| broken("sshd.log", e))?;
    let child = Process::new(program)
        .args(["-D", "-e", "-f"])
        .arg(host.join("sshd_config"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|e| broken(program, e))?;
    wait_for_port(port)?;
    Ok(child)
}

fn wait_for_port(port: u16) -> Result<(), Refusal> {
    let until = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > until {
            return Err(Refusal::new(Code::LOCAL_IO, "sshd did not start; see host/sshd.log."));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What `jit-broker host run` does on a real host: takes each new list, and says so with the host's key.
async fn follow_krl(broker: Broker, host: PrivateKey, install: InstallId, path: PathBuf) {
    let mut changed = broker.changed();
    let mut version = (0, 0);
    loop {
        let trust = broker.trust_version().await;
        if let Some(list) = broker.krl()
            && (list.version, trust) > version
        {
            version = (list.version, trust);
            if let Err(refusal) = install_and_confirm(&broker, &host, install, &path, &list).await {
                eprintln!("the host did not confirm list {}: {}", list.version, refusal.message);
            }
        }
        let _ = tokio::time::timeout(Duration::from_millis(200), changed.changed()).await;
    }
}

async fn install_and_confirm(
    broker: &Broker,
    host: &PrivateKey,
    install: InstallId,
    path: &Path,
    list: &crate::broker::KrlFile,
) -> Result<(), Refusal> {
    let bytes = data_encoding::BASE64.decode(list.krl.as_bytes()).map_err(|e| broken("the revocation list", e))?;
    replace(path, &bytes, 0o600)?;
    let target = TargetName::new(TARGET).map_err(|e| broken("a name", e))?;
    let word = broker.trust().await?.known().filter(|word| word.version > 0);
    if let Some(word) = &word {
        let keys: Vec<String> = word.ssh_user.iter().map(|key| format!("{key}\n")).collect();
        replace(&path.with_file_name("user_ca.pub"), keys.concat().as_bytes(), 0o600)?;
    }
    let (at, trust) = (broker.now(), word.map(|word| word.version));
    let word = HostWord { install, target, krl_version: list.version, at, trust, host_ca: None };
    let bytes = canonical(&word).map_err(|e| broken("a confirmation", e))?;
    let signature = jit_ca::sshsig::sign(host, HOST_NAMESPACE, &bytes).map_err(|e| broken("a confirmation", e))?;
    let act = String::from_utf8(bytes).map_err(|e| broken("a confirmation", e))?;
    broker.command(Command::Confirm(SignedAct { act, signature }), Vec::new()).await?;
    crate::broker::reaper::round(broker).await
}
