//! A server with the shipped role and lines, an authority for client certificates, and psql as anybody.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jit_broker::accounts::postgres::{Postgres, Secret, Server as Target};
use jit_broker::accounts::{Account, Ending, MarkerKey, Proof};
use jit_broker::clock::{Clock as _, System, random16};
use jit_broker::daemon::postgres::{HBA_CERT, HBA_PASSWORD, Plan, Server};
use jit_broker::domain::ids::{GrantId, InstallId};
use jit_broker::domain::names::AccountName;

use crate::world::Done;

pub const INSTALL: InstallId = InstallId::new([7; 16]);

pub struct Db {
    pub server: Server,
    pub accounts: Postgres,
    pub folder: tempfile::TempDir,
    pub password: String,
}

pub fn now() -> i64 {
    System::new().read().wall_s
}

pub fn key() -> MarkerKey {
    MarkerKey::new([9; 32])
}

fn openssl(folder: &Path, line: &str) {
    let done = Command::new("sh").args(["-c", line]).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Db {
    pub fn cert() -> Self {
        Self::start(HBA_CERT, "")
    }

    pub fn password() -> Self {
        Self::start(HBA_PASSWORD, "")
    }

    pub fn start(hba: &str, conf: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        openssl(
            folder.path(),
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 2 -subj '/CN=clients'",
        );
        let ca = std::fs::read_to_string(folder.path().join("ca.crt")).unwrap();
        let password = format!("canary-{}", AccountName::of_random(&random16()));
        let plan = Plan { dir: folder.path(), hba, client_ca_pem: &ca, admin_password: &password, conf, now: now() };
        let server = Server::start(&plan).unwrap();
        std::fs::write(folder.path().join("root.crt"), &server.ca_pem).unwrap();
        let accounts = Postgres::new(target(&server, &password), INSTALL, key());
        let db = Self { server, accounts, folder, password };
        db.sql(
            "CREATE ROLE app_owner NOLOGIN; CREATE ROLE rw NOLOGIN; CREATE ROLE ro NOLOGIN; CREATE ROLE app LOGIN; CREATE ROLE evil;
             CREATE SCHEMA app AUTHORIZATION app_owner; SET ROLE app_owner; CREATE TABLE app.orders (id int, v int);
             INSERT INTO app.orders SELECT i, i FROM generate_series(1, 1000) i;
             GRANT USAGE, CREATE ON SCHEMA app TO rw; GRANT USAGE ON SCHEMA app TO ro, app, evil; GRANT SELECT ON app.orders TO ro;
             GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON app.orders TO rw; GRANT INSERT, SELECT ON app.orders TO app;
             RESET ROLE; GRANT CREATE ON DATABASE postgres TO rw; GRANT CREATE ON SCHEMA public TO rw",
        );
        db
    }

    /// SQL as the superuser.
    #[track_caller]
    pub fn sql(&self, text: &str) -> String {
        self.sql_in("postgres", text)
    }

    #[track_caller]
    pub fn sql_in(&self, database: &str, text: &str) -> String {
        match self.server.sql(database, text) {
            Ok(out) => out,
            Err(refusal) => panic!("{text}: {}", refusal.message),
        }
    }

    /// Makes the certificate of an account, good for an hour around now; gives certificate and key.
    pub fn certify(&self, cn: &str) -> (PathBuf, PathBuf) {
        openssl(
            self.folder.path(),
            &format!(
                "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout '{cn}.key' -subj '/CN={cn}' -out '{cn}.csr' && \
                 echo extendedKeyUsage=clientAuth >ext && openssl x509 -req -in '{cn}.csr' -extfile ext -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -out '{cn}.crt'; chmod 600 '{cn}.key'"
            ),
        );
        (self.folder.path().join(format!("{cn}.crt")), self.folder.path().join(format!("{cn}.key")))
    }

    /// psql as an account by certificate (made beforehand), or by password.
    pub fn psql(&self, user: &str, password: Option<&str>) -> Command {
        let mut command = Command::new("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        command.args(["-h", "localhost", "-p", &self.server.port.to_string(), "-U", user, "-d", "postgres"]);
        command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", self.folder.path().join("root.crt"));
        command.env("PGCONNECT_TIMEOUT", "10").env("PGHOSTADDR", "127.0.0.1").env("HOME", self.folder.path());
        command.env("PGSSLCERT", self.folder.path().join(format!("{user}.crt")));
        command.env("PGSSLKEY", self.folder.path().join(format!("{user}.key")));
        if let Some(password) = password {
            command.env("PGPASSWORD", password);
        }
        command.arg("-w").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// One psql run as an account by certificate.
    pub fn by_cert(&self, user: &str, text: &str) -> Done {
        let mut command = self.psql(user, None);
        command.args(["-c", text]).output().unwrap().into()
    }

    pub fn by_password(&self, user: &str, password: &str, text: &str) -> Done {
        let mut command = self.psql(user, Some(password));
        command.args(["-c", text]).output().unwrap().into()
    }

    /// A script as an account by certificate; every statement must work.
    #[track_caller]
    pub fn script(&self, user: &str, database: &str, text: &str) {
        use std::io::Write as _;
        let mut command = self.psql(user, None);
        let mut child = command.args(["-d", database, "-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        Done::from(child.wait_with_output().unwrap()).ok();
    }

    /// A session that stays open in the background after a statement: psql whose input does not end.
    pub fn session(&self, user: &str, text: &str) -> Session {
        use std::io::Write as _;
        let mut child = self.psql(user, None).args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "SELECT 'here';\n{text}").unwrap();
        let session = Session { child, stdin };
        self.until(&format!("SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = '{user}'"));
        session
    }

    /// Waits until a query of the superuser is true; each look is a psql of its own.
    #[track_caller]
    pub fn until(&self, query: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.sql(query) != "t" {
            assert!(Instant::now() < end, "never true: {query}");
        }
    }

    /// Adds a line to the configuration of a stopped server.
    pub fn sql_conf(&self, line: &str) {
        use std::io::Write as _;
        let path = self.server.dir.join("data/postgresql.auto.conf");
        writeln!(std::fs::OpenOptions::new().append(true).open(path).unwrap(), "{line}").unwrap();
    }

    /// Makes an empty file in the server's folder, readable for the server.
    pub fn touch(&self, name: &str) {
        let path = self.server.dir.join(name);
        std::fs::write(&path, "").unwrap();
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&self.server.dir).unwrap());
        std::os::unix::fs::chown(path, Some(owner), None).unwrap();
    }

    /// Stops every process of the server in its tracks, or lets all go on.
    pub fn stop_all(&self, stop: bool) {
        let master = self.server.pid().unwrap();
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
        let mut pids = vec![master.to_string()];
        pids.extend(children.split_whitespace().map(str::to_owned));
        if !stop {
            pids.reverse();
        }
        for pid in pids {
            let _ = Command::new("kill").args([if stop { "-STOP" } else { "-CONT" }, &pid]).status();
        }
    }

    /// How many roles, sessions and memberships an account has.
    pub fn traces(&self, name: &AccountName) -> String {
        self.sql(&format!(
            "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = '{name}'), \
             (SELECT count(*) FROM pg_stat_activity WHERE usename = '{name}' OR (usesysid IS NOT NULL AND usename IS NULL)), \
             (SELECT count(*) FROM pg_auth_members WHERE member NOT IN (SELECT oid FROM pg_roles))"
        ))
    }
}

/// A psql in the background.
pub struct Session {
    child: Child,
    stdin: std::process::ChildStdin,
}

impl Session {
    /// Waits for its end after one more statement; gives what it said.
    pub fn ended(mut self) -> Done {
        let _ = std::io::Write::write_all(&mut self.stdin, b"\nSELECT 'after';\n");
        drop(self.stdin);
        self.child.wait_with_output().unwrap().into()
    }
}

/// The server as the broker sees it.
pub fn target(server: &Server, password: &str) -> Target {
    let secret = Secret::Password(password.to_owned().into());
    Target {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        tls_name: "localhost".to_owned(),
        ca_pem: server.ca_pem.clone(),
        database: "postgres".to_owned(),
        admin: "jit_admin".to_owned(),
        secret: Arc::new(move || Ok(secret.clone())),
    }
}

/// An account for an hour, proven by certificate.
pub fn account(member_of: &[&str]) -> Account {
    Account {
        name: AccountName::of_random(&random16()),
        grant: GrantId::new(random16()),
        member_of: member_of.iter().map(|role| (*role).to_owned()).collect(),
        read_only: false,
        statement_timeout_ms: None,
        connection_limit: None,
        valid_until: now() + 3600,
        proof: Proof::Cert,
    }
}

#[track_caller]
pub fn gone(ending: &Ending) {
    assert!(ending.gone, "{ending:#?}");
    assert!(ending.residue.is_empty(), "{ending:#?}");
}
