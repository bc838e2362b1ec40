//! A broker as an operator runs it: `init`, `serve` and `signer` of the built program, and small HTTPS clients of people with keys.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jit_broker::daemon::dev::Somebody;
use jit_broker::domain::act::{Deed, Selector};
use jit_broker::domain::ids::{GrantId, InstallId};
use jit_broker::domain::key::Key;
use jit_broker::domain::names::{RoleName, TargetName};
use jit_broker::domain::refusal::Code;
use jit_broker::domain::text::Words;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::world::Done;

/// The built program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_jit-broker");

/// Files, people and a broker that can be stopped, killed and started again.
pub struct Served {
    pub dir: PathBuf,
    pub alice: Somebody,
    pub bob: Somebody,
    /// What stands before every command of the broker's: another user, another namespace.
    pub before: Vec<String>,
    pub server: Option<Child>,
    port: u16,
    fingerprint: String,
    _folder: Option<tempfile::TempDir>,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits for something, and not for long.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A line of the log, without the colours that it has on a terminal.
fn starts(child: &mut Child, word: &str) -> Result<(), String> {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = String::new();
    while let Some(Ok(line)) = lines.next() {
        if line.contains(word) {
            // What it says later must not fill the pipe.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(());
        }
        said.push_str(&line);
        said.push('\n');
    }
    Err(said)
}

impl Served {
    pub fn init() -> Self {
        let folder = tempfile::Builder::new().prefix("served").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let dir = std::fs::canonicalize(folder.path()).unwrap();
        let mut served = Self::init_in(dir, Vec::new());
        served._folder = Some(folder);
        served
    }

    /// In a folder that may exist for the commands of the broker alone.
    pub fn init_in(dir: PathBuf, before: Vec<String>) -> Self {
        Self::init_with(dir, before, &[])
    }

    /// With more words to `init`.
    pub fn init_with(dir: PathBuf, before: Vec<String>, more: &[&str]) -> Self {
        let [_, alice, bob] = ["root-admin", "alice", "bob"].map(|name| Somebody::make(&dir, name).unwrap());
        let port = free_port();
        let mut served =
            Self { dir, alice, bob, before, server: None, port, fingerprint: String::new(), _folder: None };
        let (config, key) = (served.broker_dir(), served.dir.join("root-admin/id_ed25519.pub"));
        let mut init = served.operator(&["init", "--admin", "root-admin", "--listen", &format!("127.0.0.1:{port}")]);
        let out = Done::from(init.args(more).arg("--dir").arg(config).arg("--key").arg(key).output().unwrap()).ok();
        let line = out.lines().find_map(|l| l.strip_prefix("fingerprint"));
        served.fingerprint = line.unwrap().trim().to_owned();
        served
    }

    /// Keeps a folder for as long as this is here.
    pub fn keep(&mut self, folder: tempfile::TempDir) {
        self._folder = Some(folder);
    }

    pub fn broker_dir(&self) -> PathBuf {
        self.dir.join("disk/broker")
    }

    pub fn config(&self) -> PathBuf {
        self.broker_dir().join("jit-broker.toml")
    }

    pub fn ledger(&self) -> PathBuf {
        self.broker_dir().join("state/ledger.db")
    }

    /// A command of the operator's.
    pub fn operator(&self, args: &[&str]) -> Command {
        let mut words = self.before.iter().map(String::as_str).chain([PROGRAM]).chain(args.iter().copied());
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
        command
    }

    pub fn serve(&mut self) {
        let (child, ready) = self.try_serve();
        self.server = Some(child);
        ready.unwrap();
    }

    /// Starts it; gives what it said where it did not come up.
    pub fn try_serve(&self) -> (Child, Result<(), String>) {
        let config = self.config();
        let mut command = self.operator(&["serve", "--config"]);
        let mut child = command.arg(config).stderr(Stdio::piped()).spawn().unwrap();
        let ready = starts(&mut child, "listening on");
        (child, ready)
    }

    /// Makes `second` a key, and names them in [trust] beside root-admin.
    pub fn name_second(&self) {
        let second = self.dir.join("second");
        std::fs::create_dir(&second).unwrap();
        let key = second.join("id_ed25519");
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        let public = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let text = std::fs::read_to_string(self.config()).unwrap();
        let text = text.replace("admins = [{", &format!("admins = [{{ name = \"second\", key = \"{public}\" }}, {{"));
        std::fs::write(self.config(), text).unwrap();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.server.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// An orderly stop.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.server.take() {
            Command::new("kill").arg(child.id().to_string()).status().unwrap();
            assert!(child.wait().unwrap().success());
        }
    }

    /// Starts the signer of the configuration, as somebody.
    pub fn signer(&self, before: &[&str]) -> Child {
        let mut words = before.iter().copied().chain([PROGRAM, "signer", "--config"]);
        let mut command = Command::new(words.next().unwrap());
        let mut child = command.args(words).arg(self.config()).stderr(Stdio::piped()).spawn().unwrap();
        starts(&mut child, "signing for").unwrap();
        child
    }

    /// Adopts the world's people and rules: alice has `ops` without asking anybody, and bob may end it.
    pub fn adopt(&self) {
        let (alice, bob) = (self.alice.key(), self.bob.key());
        let folder = self.dir.join("bundle");
        std::fs::create_dir(&folder).unwrap();
        let put = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
        put(
            "people.toml",
            format!(
                "[[person]]\nname = \"alice\"\ngroups = [\"backend\"]\nkeys = [\"{alice}\"]\n[[person]]\nname = \"bob\"\n\
                 groups = [\"leads\"]\nkeys = [\"{bob}\"]\n[offices]\noperators = [\"group:leads\"]\nauditors = [\"group:leads\"]\n"
            ),
        );
        put(
            "targets.toml",
            "[[target]]\nname = \"web-07\"\nkind = \"ssh\"\naddress = \"127.0.0.1:22\"\nmode = \"direct\"\nhost_ca = \"@broker\"\n\
             [target.roles.ops]\nlogins = [\"ops\"]\n"
                .to_owned(),
        );
        put(
            "policy.toml",
            "schema = 1\n[[rule]]\nid = \"ops\"\nwho = [\"group:backend\"]\ntargets = { name = \"web-07\" }\nroles = [\"ops\"]\n\
             max = \"8h\"\nrecord = \"off\"\nauto = true\n"
                .to_owned(),
        );
        self.sign_in("root-admin");
        self.cli("root-admin", "jit-broker apply ../bundle --yes").ok();
    }

    /// Signs somebody's command line in.
    pub fn sign_in(&self, who: &str) {
        self.try_sign_in(who).ok();
    }

    /// Tries to.
    pub fn try_sign_in(&self, who: &str) -> Done {
        let (port, fingerprint) = (self.port, &self.fingerprint);
        let line = format!(
            "jit-broker auth login --server https://127.0.0.1:{port} --fingerprint {fingerprint} --ssh-key $PWD/id_ed25519"
        );
        self.cli(who, &line)
    }

    /// A person's command line.
    pub fn cli(&self, who: &str, line: &str) -> Done {
        self.command(who, line).output().unwrap().into()
    }

    /// One that is still to be run.
    pub fn command(&self, who: &str, line: &str) -> Command {
        let (program, home) = (Path::new(PROGRAM), self.dir.join(who));
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(&home).env("HOME", &home).env("PATH", path);
        command.env("JIT_BROKER_HOME", home.join("jit")).env("JIT_BROKER_NO_INPUT", "1");
        command.env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
        command
    }

    /// A small client of somebody's, signed in.
    pub fn client<'a>(&self, who: &'a Somebody) -> Result<Client<'a>, Failed> {
        let pem = std::fs::read(self.dir.join("root-admin/jit/ca.pem")).ok();
        let pem = pem.unwrap_or_else(|| self.authority());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls_pki_types::CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = Arc::new(config.unwrap().with_root_certificates(roots).with_no_client_auth());
        let mut client = Client { who, tls, port: self.port, token: None, install: InstallId::new([0; 16]) };
        let about = client.call("GET", "/v1/about", None)?;
        client.install = about["install"].as_str().unwrap().parse().unwrap();
        let outcome = client.act(client.challenge()?, None)?;
        client.token = outcome["session"]["token"].as_str().map(str::to_owned);
        Ok(client)
    }

    /// The authority's certificate, kept where the tests can read it whoever runs the broker.
    fn authority(&self) -> Vec<u8> {
        let text = self.cli("root-admin", "cat jit/config/context.json").ok();
        let context: Value = serde_json::from_str(&text).unwrap();
        context["about"]["server_ca_pem"].as_str().unwrap().as_bytes().to_vec()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Why a call came to nothing.
#[derive(Debug)]
pub enum Failed {
    /// No answer: nobody knows what was done.
    Cut,
    /// The broker's refusal.
    Refused(Code),
}

impl Failed {
    #[track_caller]
    pub fn code(&self) -> Code {
        match self {
            Self::Refused(code) => *code,
            Self::Cut => panic!("there was no answer"),
        }
    }
}

/// One request a connection, over TLS to the pinned authority.
pub struct Client<'a> {
    who: &'a Somebody,
    tls: Arc<rustls::ClientConfig>,
    port: u16,
    token: Option<String>,
    install: InstallId,
}

impl Client<'_> {
    pub fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Failed> {
        let answer = self.exchange(method, path, body).map_err(|_| Failed::Cut)?;
        let text = String::from_utf8(answer).map_err(|_| Failed::Cut)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or(Failed::Cut)?;
        let length = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if length.is_some_and(|n: usize| n != body.len()) {
            return Err(Failed::Cut);
        }
        let doc: Value = serde_json::from_str(body).map_err(|_| Failed::Cut)?;
        match doc["code"].as_str().filter(|_| doc["schema"] == "jit-broker/error/v1") {
            Some(code) => Err(Failed::Refused(code.parse().unwrap())),
            None => Ok(doc),
        }
    }

    /// The token of the session.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// A connection on which anything may be said.
    pub fn connect(&self) -> std::io::Result<rustls::StreamOwned<rustls::ClientConnection, TcpStream>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(40)))?;
        let name = "127.0.0.1".try_into().unwrap();
        let connection = rustls::ClientConnection::new(self.tls.clone(), name).map_err(std::io::Error::other)?;
        Ok(rustls::StreamOwned::new(connection, stream))
    }

    fn text(&self, method: &str, path: &str, body: Option<Value>) -> String {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let token = self.token.as_ref().map(|t| format!("authorization: Bearer {t}\r\n")).unwrap_or_default();
        format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{token}content-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// Sends a share of a request in 1/256, waits, and drops the connection whatever the broker is doing.
    pub fn hang_up(&self, path: &str, body: Value, share: u8, after: Duration) -> std::io::Result<()> {
        let (mut tls, text) = (self.connect()?, self.text("POST", path, Some(body)));
        let length = text.len() * (usize::from(share) + 1) / 256;
        tls.write_all(&text.as_bytes()[..length])?;
        tls.flush()?;
        // The moment is the point; nothing waits for anything here.
        std::thread::sleep(after);
        tls.sock.shutdown(std::net::Shutdown::Both)
    }

    fn exchange(&self, method: &str, path: &str, body: Option<Value>) -> std::io::Result<Vec<u8>> {
        let mut tls = self.connect()?;
        tls.write_all(self.text(method, path, body).as_bytes())?;
        let mut answer = Vec::new();
        match tls.read_to_end(&mut answer) {
            // A broker that is killed sends no closing alert; what came is judged by its length.
            Err(e) if answer.is_empty() => Err(e),
            _ => Ok(answer),
        }
    }

    pub fn act(&self, deed: Deed, reason: Option<&str>) -> Result<Value, Failed> {
        self.call("POST", "/v1/acts", Some(self.signed(deed, reason)))
    }

    /// The body of an act.
    pub fn signed(&self, deed: Deed, reason: Option<&str>) -> Value {
        let salt = data_encoding::HEXLOWER.encode(&jit_broker::clock::random16());
        let words = reason.map(|text| Words { salt, reason: Some(text.to_owned()), ticket: None });
        let commitment = words.as_ref().map(Words::commitment);
        let signed = self.who.sign(self.install, jit_broker::clock::wall_s(), commitment, deed).unwrap();
        let mut post = json!({ "act": signed.act, "signature": signed.signature });
        if let Some(words) = words {
            post["words"] = serde_json::to_value(words).unwrap();
        }
        post
    }

    pub fn challenge(&self) -> Result<Deed, Failed> {
        let challenge = self.call("POST", "/v1/challenge", Some(json!({})))?["challenge"].as_str().unwrap().to_owned();
        Ok(Deed::Login { public_url: format!("https://127.0.0.1:{}", self.port), challenge })
    }

    /// Asks for `ops`, which nobody has to agree to.
    pub fn ask(&self, for_s: u64) -> Result<GrantId, Failed> {
        self.ask_for("web-07", "ops", for_s, self.who.key())
    }

    /// What asks for a role that nobody has to agree to.
    pub fn asking(&self, target: &str, role: &str, for_s: u64, key: Key) -> Deed {
        let (target, role) = (TargetName::new(target).unwrap(), RoleName::new(role).unwrap());
        Deed::Request { by: self.who.name(), target, role, for_s: Some(for_s), key }
    }

    pub fn ask_for(&self, target: &str, role: &str, for_s: u64, key: Key) -> Result<GrantId, Failed> {
        let outcome = self.act(self.asking(target, role, for_s, key), None)?;
        Ok(outcome["grants"][0]["id"].as_str().unwrap().parse().unwrap())
    }

    pub fn certificate(&self, grant: GrantId) -> Result<String, Failed> {
        Ok(self.credential(grant, &self.who.key())?["certificate"].as_str().unwrap().to_owned())
    }

    pub fn credential(&self, grant: GrantId, key: &Key) -> Result<Value, Failed> {
        self.call("POST", &format!("/v1/grants/{grant}/credential"), Some(json!({ "key": key })))
    }

    pub fn release(&self, grant: GrantId) -> Result<Value, Failed> {
        self.act(Deed::Release { by: self.who.name(), grant }, None)
    }

    pub fn revoke(&self, grant: GrantId) -> Result<Value, Failed> {
        self.act(Deed::Revoke { by: self.who.name(), of: Selector::Grant(grant) }, Some("enough of that"))
    }

    /// The list that hosts are served.
    pub fn list(&self) -> jit_ca::krl::Krl {
        let doc = self.call("GET", "/v1/krl", None).unwrap();
        let bytes = data_encoding::BASE64.decode(doc["krl"].as_str().unwrap().as_bytes()).unwrap();
        jit_ca::krl::Krl::decode(&bytes).unwrap()
    }
}

/// The serial of a certificate.
pub fn serial(certificate: &str) -> u64 {
    jit_ca::ssh::read(certificate).unwrap().serial
}
