//! A running `jit-broker dev`: the built binary with a real sshd, and people who type.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The world; its folder is below HOME, because sshd refuses files below folders that everybody may write.
pub struct World {
    pub dir: PathBuf,
    child: Child,
    _folder: tempfile::TempDir,
}

/// What a command line did.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Done {
    /// The answer, when the command did its work.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self.out
    }

    /// The one JSON document of the answer.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).unwrap()
    }
}

impl World {
    pub fn start() -> Self {
        Self::under("077")
    }

    /// The world whose host is reached directly.
    pub fn direct() -> Self {
        Self::with("077", &["--direct"])
    }

    /// The world, started by a shell with this umask.
    pub fn under(umask: &str) -> Self {
        Self::with(umask, &[])
    }

    fn with(umask: &str, more: &[&str]) -> Self {
        let home = std::env::var("HOME").unwrap();
        let folder = tempfile::Builder::new().prefix(".jit-test").tempdir_in(home).unwrap();
        let dir = folder.path().join("w");
        let mut command = Command::new("sh");
        command.args(["-c", "umask $0; exec \"$@\"", umask, env!("CARGO_BIN_EXE_jit-broker"), "dev", "--dir"]);
        let mut child = command.arg(&dir).args(more).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.unwrap().starts_with("Ctrl-C"));
        assert!(ready, "dev did not start");
        Self { dir: std::fs::canonicalize(dir).unwrap(), child, _folder: folder }
    }

    /// The command line of a person in their own home; nobody can be asked.
    pub fn command(&self, who: &str, line: &str) -> Command {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_jit-broker"));
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let home = self.dir.join(who);
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(&home).env("HOME", &home).env("PATH", path);
        command.env("JIT_BROKER_HOME", home.join("jit")).env("JIT_BROKER_NO_INPUT", "1");
        command.env("SSH", format!("ssh -F {}/.ssh/config", home.display()));
        command.env("GIT_SSH_COMMAND", format!("ssh -F {}/.ssh/config", home.display()));
        command.env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
        command
    }

    pub fn run(&self, who: &str, line: &str) -> Done {
        self.command(who, line).output().unwrap().into()
    }

    /// Alice asks, bob agrees; gives the grant's id.
    pub fn granted(&self, for_: &str) -> String {
        let line = format!("jit-broker -o json request web-07 --for {for_} --reason 'hotfix for OPS-1' --no-wait");
        let request = self.run("alice", &line).json();
        let id = request["id"].as_str().unwrap();
        let after = self.run("bob", &format!("jit-broker -o json approve {id}")).json();
        after["grant_id"].as_str().unwrap().to_owned()
    }

    /// The address of the broker: HOST:PORT.
    pub fn address(&self) -> String {
        let context = std::fs::read_to_string(self.dir.join("alice/jit/config/context.json")).unwrap();
        let context: serde_json::Value = serde_json::from_str(&context).unwrap();
        context["server"].as_str().unwrap().trim_start_matches("https://").to_owned()
    }

    /// How many events of a kind the log has.
    pub fn count(&self, kind: &str) -> usize {
        self.run("bob", &format!("jit-broker -o jsonl audit search --kind {kind} -n 1000")).ok().lines().count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // SIGTERM, so that dev ends its sshd as well.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// An sshd of the test's own that listens; what it says after that is read, and dropped.
pub fn sshd(config: &Path) -> Child {
    let mut sshd = Command::new("/usr/sbin/sshd");
    let sshd = sshd.args(["-D", "-e", "-f"]).arg(config).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = sshd.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let (say, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.for_each(|line| drop(say.send(line))));
    let mut before = Vec::new();
    loop {
        // A daemon that ends closes the channel.
        match said.recv_timeout(Duration::from_secs(10)) {
            Ok(line) if line.starts_with("Server listening on") => return child,
            Ok(line) => before.push(line),
            Err(why) => panic!("sshd does not listen ({why}): {before:?}"),
        }
    }
}
