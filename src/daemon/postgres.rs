//! A throw-away PostgreSQL server: private folder, unprivileged, TLS, loopback, and the lines of `config/target-db`.
//!
//! `postgres` refuses to run as root; root runs it as the user `postgres` or `nobody`, in a folder of its own that this user can
//! reach. It is stopped by its own process id.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jit_ca::x509::{CaSpec, ServerLeafSpec, ServerName, X509Key, make_ca, sign_server_leaf};

use crate::clock::random16;
use crate::domain::refusal::{Code, Refusal};

/// `pg_hba.conf` for accounts with certificates.
pub const HBA_CERT: &str = include_str!("../../config/target-db/pg_hba-cert.conf");
/// `pg_hba.conf` for accounts with passwords.
pub const HBA_PASSWORD: &str = include_str!("../../config/target-db/pg_hba-password.conf");
/// The map of certificates to accounts.
pub const IDENT: &str = include_str!("../../config/target-db/pg_ident.conf");
/// The account that makes accounts.
pub const ADMIN_ROLE: &str = include_str!("../../config/target-db/admin-role.sql");

/// How long a server may take to start or stop, in seconds.
const START_S: u64 = 30;

/// What the server shall be.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// Where its folder is made, unless this is run by root: then below the system's folder for temporary files.
    pub dir: &'a Path,
    /// [`HBA_CERT`] or [`HBA_PASSWORD`].
    pub hba: &'a str,
    /// The authority of client certificates, PEM; empty for none.
    pub client_ca_pem: &'a str,
    /// The password of `jit_admin`.
    pub admin_password: &'a str,
    /// More lines of postgresql.conf.
    pub conf: &'a str,
    /// Now, in seconds since 1970: the server's certificate is good for a week.
    pub now: i64,
}

/// A running server; stops and is removed when dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens, on 127.0.0.1 with TLS.
    pub port: u16,
    /// The authority of its certificate, PEM. Its names are `localhost` and `127.0.0.1`.
    pub ca_pem: String,
    /// Its folder.
    pub dir: PathBuf,
    bin: PathBuf,
    user: Option<(u32, u32)>,
    child: Option<Child>,
}

fn broken(what: &str, why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::LOCAL_IO, format!("{what}: {why}."))
}

/// Finds the newest PostgreSQL's programs where distributions put them.
///
/// # Errors
/// With the package to install.
pub fn programs() -> Result<PathBuf, Refusal> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for base in ["/usr/lib/postgresql", "/usr/pgsql"] {
        for entry in fs::read_dir(base).into_iter().flatten().flatten() {
            let version = entry.file_name().to_string_lossy().parse().unwrap_or_default();
            let bin = entry.path().join("bin");
            if bin.join("postgres").exists() && bin.join("initdb").exists() {
                found.push((version, bin));
            }
        }
    }
    // 15 is what is tested.
    let best = found.iter().find(|(v, _)| *v == 15).or_else(|| found.iter().max());
    best.map(|(_, bin)| bin.clone())
        .ok_or_else(|| Refusal::new(Code::LOCAL_IO, "There is no PostgreSQL: apt-get install postgresql."))
}

/// The user and group that root runs the server as.
fn other_user() -> Result<Option<(u32, u32)>, Refusal> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let text = fs::read_to_string("/etc/passwd").map_err(|e| broken("/etc/passwd", e))?;
    let find = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .map(Some)
        .ok_or_else(|| broken("PostgreSQL", "there is neither a user postgres nor nobody to run it as"))
}

impl Server {
    /// Makes and starts a server with `admin-role.sql` applied.
    ///
    /// # Errors
    /// What is missing, or the end of the server's log.
    pub fn start(plan: &Plan<'_>) -> Result<Self, Refusal> {
        let (bin, user) = (programs()?, other_user()?);
        let base = if user.is_some() { std::env::temp_dir() } else { plan.dir.to_path_buf() };
        let random = data_encoding::HEXLOWER.encode(&random16());
        let dir = base.join(format!("jit-pg-{}", random.get(..12).unwrap_or(&random)));
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|e| broken(&dir.display().to_string(), e))?;
        let mut server = Self { port: free_port()?, ca_pem: String::new(), dir, bin, user, child: None };
        server.own(&server.dir)?;
        server.init(plan)?;
        server.run()?;
        let script = server.put("admin-role.sql", ADMIN_ROLE)?;
        let password = server.put("admin-password", plan.admin_password)?;
        let text = format!(
            "\\set ON_ERROR_STOP on\n\\set password `cat '{}'`\nSET log_statement = 'none';\nSET log_min_error_statement = 'panic';\n\\i '{}'\n",
            password.display(),
            script.display()
        );
        server.sql("postgres", &text)?;
        let _ = fs::remove_file(password);
        Ok(server)
    }

    fn own(&self, path: &Path) -> Result<(), Refusal> {
        let Some((uid, gid)) = self.user else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(|e| broken(&path.display().to_string(), e))
    }

    fn put(&self, name: &str, text: &str) -> Result<PathBuf, Refusal> {
        let path = self.dir.join(name);
        let told = |e| broken(&path.display().to_string(), e);
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).map_err(told)?;
        std::io::Write::write_all(&mut file, text.as_bytes()).map_err(told)?;
        self.own(&path)?;
        Ok(path)
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = match self.user {
            None => Command::new(program),
            Some((uid, gid)) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]);
                command.arg("--").arg(program);
                command
            }
        };
        command.current_dir(&self.dir).env_remove("PGDATA").env_remove("PGHOST").env_remove("PGOPTIONS");
        command.stdin(Stdio::null());
        command
    }

    fn init(&mut self, plan: &Plan<'_>) -> Result<(), Refusal> {
        let data = self.dir.join("data");
        let mut initdb = self.command("initdb");
        initdb.arg("-D").arg(&data).args(["-U", "postgres", "-A", "reject", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let made = initdb.output().map_err(|e| broken("initdb", e))?;
        if !made.status.success() {
            return Err(broken("initdb", String::from_utf8_lossy(&made.stderr).trim_end()));
        }
        let (cert, key) = self.certify(plan.now)?;
        self.put("data/server.crt", &cert)?;
        self.put("data/server.key", &key)?;
        self.put("data/clients.crt", plan.client_ca_pem)?;
        // The superuser comes in by the socket alone, which lies in the private folder.
        self.put("data/pg_hba.conf", &format!("local all postgres trust\n{}", plan.hba))?;
        self.put("data/pg_ident.conf", IDENT)?;
        let clients = if plan.client_ca_pem.is_empty() { "" } else { "ssl_ca_file = 'clients.crt'\n" };
        let conf = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nssl = on\nssl_cert_file = 'server.crt'\n\
             ssl_key_file = 'server.key'\n{clients}password_encryption = 'scram-sha-256'\nshared_buffers = 16MB\n\
             max_prepared_transactions = 20\nlogging_collector = off\n{}\n",
            self.port,
            self.dir.display(),
            plan.conf
        );
        self.put("data/postgresql.auto.conf", &conf).map(|_| ())
    }

    fn certify(&mut self, now: i64) -> Result<(String, zeroize::Zeroizing<String>), Refusal> {
        let refused = |e: jit_ca::CaError| broken("the server's certificate", e);
        let (ca_key, key) = (X509Key::generate().map_err(refused)?, X509Key::generate().map_err(refused)?);
        let (not_before, not_after) = (now - 3600, now + 7 * 86_400);
        let serial = |first: u8| {
            let mut bytes = random16();
            bytes[0] = first;
            bytes
        };
        let name = "jit-broker dev database CA".to_owned();
        let ca = make_ca(&ca_key, &CaSpec { name, serial: serial(1), not_before, not_after }).map_err(refused)?;
        let names = vec![ServerName::Dns("localhost".to_owned()), ServerName::Ip(std::net::Ipv4Addr::LOCALHOST.into())];
        let spec =
            ServerLeafSpec { names, public_key_spki_der: key.spki_der(), serial: serial(2), not_before, not_after };
        let leaf = sign_server_leaf(&ca, &ca_key, &spec).map_err(refused)?;
        ca.pem().clone_into(&mut self.ca_pem);
        let body = data_encoding::BASE64_MIME.encode(&leaf);
        let cert =
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", body.trim_end().replace('\r', ""));
        Ok((cert, key.to_pkcs8_pem()))
    }

    /// Starts the server's process and waits until it takes connections; also after [`Server::stop`].
    ///
    /// # Errors
    /// The end of the server's log.
    pub fn run(&mut self) -> Result<(), Refusal> {
        let log = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(self.log_path());
        let log = log.map_err(|e| broken("the server's log", e))?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.dir.join("data")).stdout(Stdio::null()).stderr(log);
        // Ctrl-C is for us: a server that it stops as well could not be asked for the end of the story.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        self.child = Some(command.spawn().map_err(|e| broken("postgres", e))?);
        let until = Instant::now() + Duration::from_secs(START_S);
        while self.sql("postgres", "SELECT 1").is_err() {
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > until {
                let log = self.log();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(broken("PostgreSQL did not start", last.join(" | ")));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }

    /// Runs psql as superuser over the private socket; gives rows, unaligned, `|` between columns.
    ///
    /// # Errors
    /// What psql says.
    pub fn sql(&self, database: &str, text: &str) -> Result<String, Refusal> {
        use std::io::Write as _;
        let mut command = Command::new(self.bin.join("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"]);
        command.arg(&self.dir).args(["-p", &self.port.to_string(), "-f", "-"]);
        command.env_remove("PGOPTIONS").env_remove("PGSERVICE").current_dir(&self.dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| broken("psql", e))?;
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(text.as_bytes());
        }
        let output = child.wait_with_output().map_err(|e| broken("psql", e))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(broken("psql", String::from_utf8_lossy(&output.stderr).trim_end()))
        }
    }

    /// The process id of the postmaster, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Stops the server at once and in order (SIGINT, "fast shutdown").
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let until = Instant::now() + Duration::from_secs(START_S);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        // Only what was made here: the folder is private and ours.
        let owner = self.user.map_or_else(|| rustix::process::geteuid().as_raw(), |(uid, _)| uid);
        if fs::symlink_metadata(&self.dir).is_ok_and(|m| m.is_dir() && m.uid() == owner) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn free_port() -> Result<u16, Refusal> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| broken("no port is free", e))?;
    Ok(listener.local_addr().map_err(|e| broken("no port is free", e))?.port())
}
