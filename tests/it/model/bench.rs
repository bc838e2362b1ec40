//! The thing that is walked: clerk, signer and ledger on a folder, without a socket and without a timer of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jit_broker::broker::clerk::{self, SignerHandle};
use jit_broker::broker::{Broker, reaper};
use jit_broker::clock::{Simulated, Timekeeper};
use jit_broker::daemon::init::{Plan, init};
use jit_broker::daemon::open_gate;
use jit_broker::domain::act::{ACT_SCHEMA, Act, Deed, HOST_NAMESPACE, SignedAct};
use jit_broker::domain::bundle::BundleText;
use jit_broker::domain::digest::canonical;
use jit_broker::domain::event::{Command, Event, HostWord};
use jit_broker::domain::ids::InstallId;
use jit_broker::domain::key::Key;
use jit_broker::domain::names::{PersonName, TargetName};
use jit_broker::domain::refusal::Refusal;
use jit_broker::domain::text::Words;
use jit_broker::ledger::{Ledger, OpenMode};
use jit_broker::settings::Settings;
use jit_broker::signer::cache::Cache;
use jit_ca::key::PrivateKey;

use super::Dice;

/// Somebody with a key that the dice gave.
pub struct Who {
    pub name: PersonName,
    pub private: PrivateKey,
}

impl Who {
    fn made(name: &str, dice: &mut Dice) -> Self {
        Self { name: PersonName::new(name).unwrap(), private: PrivateKey::from_seed(dice.bytes()) }
    }

    pub fn key(&self) -> Key {
        Key(self.private.public().clone())
    }
}

/// The running broker and its people.
pub struct Bench {
    folder: tempfile::TempDir,
    pub settings: Settings,
    pub clock: Arc<Simulated>,
    pub install: InstallId,
    pub admin: Who,
    pub alice: Who,
    pub laptop: PrivateKey,
    pub others: Vec<Who>,
    host: PrivateKey,
    running: Option<(Broker, tokio::task::JoinHandle<Result<(), Refusal>>)>,
    lives: u32,
    pub nonces: Dice,
}

/// Memory, where there is some: the walk asks for a hundred thousand flushes, and none of them is what it is about.
fn fast_folder() -> tempfile::TempDir {
    let builder = || tempfile::Builder::new().prefix("jit-model").to_owned();
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir_in(env!("CARGO_TARGET_TMPDIR"))).unwrap()
}

impl Bench {
    pub async fn start(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let (folder, clock) = (fast_folder(), Simulated::seeded(1_800_000_000, dice.0));
        let (admin, alice) = (Who::made("root-admin", &mut dice), Who::made("alice", &mut dice));
        let others = ["bob", "carol", "dave"].map(|name| Who::made(name, &mut dice)).into();
        let plan = Plan {
            dir: folder.path().join("broker"),
            admin: admin.name.clone(),
            key: admin.key(),
            listen: "127.0.0.1:0".parse().unwrap(),
            public_url: "https://127.0.0.1:7443".to_owned(),
            gateway_ssh: None,
            gateway_source: Vec::new(),
        };
        let made = init(&plan, clock.clone()).await.unwrap();
        let (laptop, host) = (PrivateKey::from_seed(dice.bytes()), PrivateKey::from_seed(dice.bytes()));
        let (settings, install) = (Settings::read(&made.config).unwrap(), made.genesis.install);
        let mut bench = Self {
            folder,
            settings,
            clock,
            install,
            admin,
            alice,
            laptop,
            others,
            host,
            running: None,
            lives: 0,
            nonces: dice,
        };
        bench.run().await.unwrap();
        bench
    }

    pub fn broker(&self) -> &Broker {
        &self.running.as_ref().unwrap().0
    }

    /// As the daemon starts, but for HTTPS and timers.
    pub async fn run(&mut self) -> Result<(), Refusal> {
        let ledger = Ledger::open(&self.settings.ledger, OpenMode::Write).await.unwrap();
        let gate = open_gate(&self.settings, self.clock.clone()).unwrap();
        let keeper = Arc::new(Timekeeper::new(self.clock.clone()));
        let cache = Cache::at(self.settings.state_dir.join("snapshot"));
        let mut parts = clerk::start(ledger, SignerHandle::new(Box::new(gate)), keeper, cache).await?;
        let task = std::mem::replace(&mut parts.task, tokio::spawn(async { Ok(()) }));
        let broker = Broker::new(
            parts,
            self.settings.public_url.clone(),
            self.settings.state_dir.join("krl"),
            jit_broker::daemon::secrets::accounts(&self.settings)?,
            self.settings.gateway_ssh.as_ref().map(|ssh| ssh.seen.clone()),
        );
        broker.command(Command::Start, Vec::new()).await.unwrap();
        reaper::round(&broker).await.unwrap();
        self.running = Some((broker, task));
        Ok(())
    }

    /// The first half of an orderly stop; [`Bench::end`] is the other.
    pub async fn say_stop(&self) {
        self.broker().command(Command::Stop, Vec::new()).await.unwrap();
    }

    /// Nothing is said and nothing is closed: the next life has what was on the disk at this moment. `head` is the signer's file from before
    /// the last entries, as when the power went between the append and the signature.
    pub async fn crash(&mut self, head: Option<Vec<u8>>) {
        self.lives += 1;
        let next = self.folder.path().join(format!("life{}", self.lives));
        std::fs::create_dir(&next).unwrap();
        let now = self.settings.ledger.clone();
        for suffix in ["", "-wal"] {
            let (from, to) = (beside(&now, suffix), beside(&next.join("ledger.db"), suffix));
            std::fs::copy(from, to).unwrap();
        }
        // Not state: only so that it need not be allocated anew.
        let _ = std::fs::rename(beside(&now, ".reserve"), beside(&next.join("ledger.db"), ".reserve"));
        if let Some(head) = head {
            std::fs::write(self.head(), head).unwrap();
        }
        self.end().await;
        for suffix in ["", "-wal", "-shm", ".lock"] {
            let _ = std::fs::remove_file(beside(&now, suffix));
        }
        self.settings.ledger = next.join("ledger.db");
    }

    pub async fn end(&mut self) {
        let (broker, task) = self.running.take().unwrap();
        drop(broker);
        task.abort();
        let _ = task.await;
    }

    /// Stops, and leaves the settings for whoever looks at the files.
    pub async fn stop(mut self) -> (Settings, tempfile::TempDir) {
        self.say_stop().await;
        self.end().await;
        (self.settings, self.folder)
    }

    /// The file in which the signer remembers what it signed.
    pub fn head(&self) -> PathBuf {
        self.settings.ca_dir.join("head.json")
    }

    /// Signs and submits; now and then the answer is lost, and the client sends the same again.
    pub async fn act(&mut self, who: Voice<'_>, at: i64, reason: Option<&str>, deed: Deed) -> Result<(), Refusal> {
        let words = reason.map(|text| Words { salt: self.nonces.hex(), reason: Some(text.to_owned()), ticket: None });
        let signed = self.sign(who, at, words.as_ref(), deed);
        let first = self.broker().act(signed.clone(), words.as_ref(), None).await;
        if self.nonces.roll(6) == 0 {
            let size = self.broker().memory().await.state.size;
            let again = self.broker().act(signed, words.as_ref(), None).await;
            let said = |r: &Result<clerk::Done, Refusal>| r.as_ref().map(drop).map_err(|e| e.code);
            assert_eq!(said(&again), said(&first), "the same act gets the same answer");
            assert_eq!(self.broker().memory().await.state.size, size, "an act that is sent twice is done once");
        }
        first.map(drop)
    }

    pub fn sign(&mut self, who: Voice<'_>, at: i64, words: Option<&Words>, deed: Deed) -> SignedAct {
        let private = match who {
            Voice::Admin => &self.admin.private,
            Voice::Alice => &self.alice.private,
            Voice::Other(name) => &self.others.iter().find(|o| o.name.as_str() == name).unwrap().private,
        };
        let namespace = deed.namespace();
        let act = Act {
            schema: ACT_SCHEMA.to_owned(),
            install: self.install,
            key_fp: private.public().fingerprint(),
            at,
            nonce: self.nonces.hex(),
            words: words.map(Words::commitment),
            deed,
        };
        let bytes = act.bytes().unwrap();
        let signature = jit_ca::sshsig::sign(private, namespace, &bytes).unwrap();
        SignedAct { act: String::from_utf8(bytes).unwrap(), signature }
    }

    pub fn name(&self, who: Voice<'_>) -> PersonName {
        match who {
            Voice::Admin => self.admin.name.clone(),
            Voice::Alice => self.alice.name.clone(),
            Voice::Other(name) => PersonName::new(name).unwrap(),
        }
    }

    /// Adopts the bundle of a version; see [`bundle`].
    pub async fn adopt(&mut self, version: Version, at: i64) -> Result<(), Refusal> {
        let text = bundle(self, version);
        jit_broker::domain::bundle::Bundle::parse(&text, std::slice::from_ref(&self.admin.name)).unwrap();
        let base = self.broker().memory().await.state.bundle.digest;
        let deed = Deed::Apply { by: self.admin.name.clone(), bundle: text.digest(), base };
        let signed = self.sign(Voice::Admin, at, None, deed);
        self.broker().act(signed, None, Some(text.bytes())).await.map(drop)
    }

    pub async fn enroll_host(&mut self, at: i64) {
        let key = Key(self.host.public().clone());
        let deed = Deed::EnrollHost { by: self.admin.name.clone(), target: TargetName::new("web-07").unwrap(), key };
        self.act(Voice::Admin, at, None, deed).await.unwrap();
    }

    /// The host of web-07 says which list it has.
    pub async fn confirm(&self, version: u64, at: i64) -> Result<Vec<Event>, Refusal> {
        let target = TargetName::new("web-07").unwrap();
        let bytes = canonical(&HostWord {
            install: self.install,
            target,
            krl_version: version,
            at,
            trust: None,
            host_ca: None,
        })
        .unwrap();
        let signature = jit_ca::sshsig::sign(&self.host, HOST_NAMESPACE, &bytes).unwrap();
        let signed = SignedAct { act: String::from_utf8(bytes).unwrap(), signature };
        self.broker().command(Command::Confirm(signed), Vec::new()).await.map(|done| done.events)
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Who speaks.
#[derive(Clone, Copy)]
pub enum Voice<'a> {
    Admin,
    Alice,
    Other(&'a str),
}

/// What the walk changes about the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The port of web-07: another one is another target.
    pub port: u16,
    /// Carol is among the leads.
    pub carol_leads: bool,
}

/// web-07 needs one of the leads; db-01 a peer, and then one of the leads who is somebody else.
fn bundle(bench: &Bench, version: Version) -> BundleText {
    let mut people =
        format!("[[person]]\nname = \"alice\"\ngroups = [\"backend\"]\nkeys = [\"{}\"]\n", bench.alice.key());
    for who in &bench.others {
        let leads = who.name.as_str() == "bob" || who.name.as_str() == "carol" && version.carol_leads;
        let groups = if leads { "\"backend\", \"leads\"" } else { "\"backend\"" };
        people.push_str(&format!(
            "[[person]]\nname = \"{}\"\ngroups = [{groups}]\nkeys = [\"{}\"]\n",
            who.name,
            who.key()
        ));
    }
    people.push_str("[offices]\noperators = [\"person:bob\"]\n");
    let target = |name: &str, port: u16, env: &str| {
        format!(
            "[[target]]\nname = \"{name}\"\nkind = \"ssh\"\naddress = \"127.0.0.1:{port}\"\nlabels = {{ env = \"{env}\" }}\n\
             mode = \"direct\"\nhost_ca = \"@broker\"\n[target.roles.deploy]\nlogins = [\"deploy\"]\n\
             [target.roles.view]\nlogins = [\"viewer\"]\nallow = [\"sftp\"]\nnarrower_than = [\"deploy\"]\n"
        )
    };
    let targets = format!("{}{}", target("web-07", version.port, "prod"), target("db-01", 22, "crit"));
    let step = |name: &str, group: &str| {
        format!("  [[rule.step]]\n  name = \"{name}\"\n  need = 1\n  from = [\"group:{group}\"]\n")
    };
    let rule = |env: &str, steps: &str| {
        format!(
            "[[rule]]\nid = \"{env}\"\nwho = [\"group:backend\"]\ntargets = {{ labels = {{ env = \"{env}\" }} }}\n\
             roles = [\"deploy\"]\nmax = \"1h\"\nrecord = \"off\"\nreason = {{ min_chars = 8 }}\n{steps}\n"
        )
    };
    let lead = step("lead", "leads");
    let policy =
        format!("schema = 1\n{}{}", rule("prod", &lead), rule("crit", &format!("{}{lead}", step("peer", "backend"))));
    let files = [("people.toml", people), ("targets.toml", targets), ("policy.toml", policy)];
    BundleText { files: files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect() }
}
