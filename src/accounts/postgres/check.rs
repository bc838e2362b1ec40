//! `target test`: the chain that a target needs, link by link, each with what is missing.

use super::link::{Link as Session, Login, asks_for, reach};
use super::lock::Locked;
use super::make::POWER;
use super::server::Secret;
use super::sql::{Row, ident, literal};
use super::tls::subject;
use super::{GROUP, Postgres};
use crate::accounts::ending::{Link, Probe, ProbeLogin};
use crate::accounts::error::{AccountError, one_line};

/// Rights of the admin, roles that exist, in one row.
const RIGHTS: &str = "SELECT current_setting('server_version_num')::int, r.rolsuper, r.rolcreaterole, \
     coalesce((SELECT pg_has_role(r.oid, s.oid, 'USAGE') FROM pg_roles s WHERE s.rolname = 'pg_signal_backend'), false), \
     EXISTS (SELECT FROM pg_roles WHERE rolname = 'jit_accounts'), current_setting('server_version'), \
     pg_is_in_recovery() FROM pg_roles r WHERE r.rolname = current_user";

/// What was seen so far.
struct Chain(Vec<Link>);

impl Chain {
    fn holds(&mut self, what: &str, detail: impl Into<String>) {
        self.push(what, Some(true), detail, "");
    }

    fn push(&mut self, what: &str, ok: Option<bool>, detail: impl Into<String>, todo: impl Into<String>) {
        self.0.push(Link { what: one_line(what), ok, detail: one_line(&detail.into()), todo: todo.into() });
    }

    fn broken(&self) -> bool {
        self.0.iter().any(|link| link.ok == Some(false))
    }
}

impl Postgres {
    /// Tries each link of a target: reach, TLS and name, the admin's login and rights, every role that is handed out, and a
    /// trial account from making to dropping. Stops at the first that everything after it needs; never leaves the account.
    pub async fn check(&self, probe: &Probe) -> Vec<Link> {
        let mut chain = Chain(Vec::new());
        if self.check_admin(&mut chain).await.is_ok() {
            self.check_roles(probe, &mut chain).await;
            if !chain.broken() {
                self.check_connect(probe, &mut chain).await;
            }
            if !chain.broken() {
                self.check_account(probe, &mut chain).await;
            }
        }
        chain.0
    }

    async fn check_admin(&self, chain: &mut Chain) -> Result<(), ()> {
        let server = &self.pool.server;
        let address = format!("{}:{}", server.host, server.port);
        let limit = std::time::Duration::from_secs(super::link::CONNECT_S);
        match tokio::time::timeout(limit, reach(server)).await {
            Ok(Ok(_)) => chain.holds("reach", address),
            Ok(Err(error)) => {
                chain.push(
                    "reach",
                    Some(false),
                    error.to_string(),
                    format!("let this host reach {address} (listen_addresses, firewall)"),
                );
                return Err(());
            }
            Err(_) => {
                chain.push("reach", Some(false), "no answer within 5 s", format!("let this host reach {address}"));
                return Err(());
            }
        }
        if let Err(error) = self.pool.open(&server.database).await {
            let admin = ident(&server.admin);
            let (what, todo) = match &error {
                AccountError::Tls(why) if why.contains("offers no TLS") => {
                    ("tls", "ssl = on, ssl_cert_file and ssl_key_file in postgresql.conf; then restart".to_owned())
                }
                AccountError::Tls(_) => (
                    "tls",
                    format!(
                        "a certificate for {:?} from the CA in targets.toml, or another `tls` there",
                        server.tls_name
                    ),
                ),
                AccountError::RefusedLogin { message, .. } if message.contains("pg_hba.conf") => (
                    "admin login",
                    format!(
                        "in pg_hba.conf, above other lines: hostssl  all  {}  all  scram-sha-256",
                        hba_word(&server.admin)
                    ),
                ),
                AccountError::RefusedLogin { .. } | AccountError::Secret(_) => {
                    ("admin login", format!("the secret of {admin} in [secrets] is the server's: \\password {admin}"))
                }
                AccountError::Denied { sqlstate, .. } if sqlstate == "3D000" => {
                    ("admin login", "a `database` in targets.toml that exists".to_owned())
                }
                AccountError::Denied { sqlstate, .. } if sqlstate == "42501" => {
                    ("admin login", format!("GRANT CONNECT ON DATABASE {} TO {admin};", ident(&server.database)))
                }
                _ => ("admin login", String::new()),
            };
            if what == "admin login" {
                chain.holds("tls", format!("verified for {}", server.tls_name));
            }
            chain.push(what, Some(false), error.to_string(), todo);
            return Err(());
        }
        chain.holds("tls", format!("verified for {}", server.tls_name));
        chain.holds("admin login", server.admin.clone());
        match self.ask(RIGHTS).await {
            Ok(rows) => {
                self.check_rights(rows.first().cloned().unwrap_or_default(), chain);
                Ok(())
            }
            Err(error) => {
                chain.push("admin rights", Some(false), error.to_string(), "");
                Err(())
            }
        }
    }

    fn check_rights(&self, row: Row, chain: &mut Chain) {
        let admin = ident(&self.pool.server.admin);
        if row.yes(6) {
            chain.push(
                "writable",
                Some(false),
                "the server is a standby",
                "the address of the primary in targets.toml",
            );
        }
        if row.yes(1) {
            chain.push(
                "admin rights",
                None,
                "the admin is a superuser: more than is needed",
                format!("ALTER ROLE {admin} NOSUPERUSER;"),
            );
        } else if row.yes(2) {
            chain.holds("admin rights", "CREATEROLE, no superuser");
        } else {
            chain.push(
                "admin rights",
                Some(false),
                "the admin may make no roles",
                format!("ALTER ROLE {admin} CREATEROLE;"),
            );
        }
        if row.yes(3) {
            chain.holds("cut rights", "pg_signal_backend");
        } else {
            chain.push(
                "cut rights",
                Some(false),
                "the admin may cut no sessions",
                format!("GRANT pg_signal_backend TO {admin};"),
            );
        }
        if row.yes(4) {
            chain.holds("group", GROUP);
        } else {
            chain.push(
                "group",
                Some(false),
                format!("there is no role {GROUP}"),
                format!("CREATE ROLE {GROUP} NOLOGIN;"),
            );
        }
        if row.number(0) >= 160_000 {
            chain.push("version", None, format!("{} is untested; 15 is tested", row.text(5)), "");
        }
    }

    async fn check_roles(&self, probe: &Probe, chain: &mut Chain) {
        for role in &probe.roles {
            let what = format!("role {role}");
            let named = ident(role);
            let text = format!(
                "WITH RECURSIVE up(oid) AS (SELECT oid FROM pg_roles WHERE rolname = {0} \
                 UNION SELECT m.roleid FROM pg_auth_members m JOIN up ON m.member = up.oid) \
                 SELECT (SELECT count(*) FROM up), (SELECT json_agg(r.rolname) FROM up JOIN pg_roles r USING (oid) \
                 WHERE {POWER}), \
                 current_setting('server_version_num')::int < 160000 OR coalesce((SELECT pg_has_role(r.oid, \
                 'MEMBER WITH ADMIN OPTION') FROM pg_roles r WHERE r.rolname = {0}), false)",
                literal(role)
            );
            match self.ask(&text).await.map(|rows| rows.first().cloned().unwrap_or_default()) {
                Err(error) => chain.push(&what, Some(false), error.to_string(), ""),
                Ok(row) if row.number(0) == 0 => {
                    chain.push(&what, Some(false), "there is no such role", format!("CREATE ROLE {named} NOLOGIN;"));
                }
                Ok(row) if !row.list(1).is_empty() => {
                    let list = row.list(1).join(", ");
                    chain.push(
                        &what,
                        Some(false),
                        format!("too powerful to be handed out: {list}"),
                        "another role in targets.toml: NOLOGIN, that owns no database and has none of SUPERUSER, CREATEROLE, REPLICATION, \
                         BYPASSRLS, pg_execute_server_program, pg_read_server_files, pg_write_server_files, pg_signal_backend",
                    );
                }
                Ok(row) if !row.yes(2) => {
                    let admin = ident(&self.pool.server.admin);
                    chain.push(
                        &what,
                        Some(false),
                        "the admin may not hand it out",
                        format!("GRANT {named} TO {admin} WITH ADMIN OPTION;"),
                    );
                }
                Ok(_) => chain.holds(&what, "may be handed out"),
            }
        }
    }

    /// Whether each role of the target lets an account into the database.
    async fn check_connect(&self, probe: &Probe, chain: &mut Chain) {
        let database = &self.pool.server.database;
        for set in &probe.sets {
            let names = set.iter().map(String::as_str).chain([GROUP]).map(literal).collect::<Vec<_>>().join(", ");
            let text = format!(
                "SELECT bool_or(has_database_privilege(r.oid, {}, 'CONNECT')) FROM pg_roles r WHERE r.rolname IN ({names})",
                literal(database)
            );
            match self.ask(&text).await.map(|rows| rows.first().is_some_and(|row| row.yes(0))) {
                Ok(true) => {}
                Ok(false) => {
                    let role = set.first().map_or(GROUP, String::as_str);
                    let detail = format!("no account with {} may connect to the database {database}", set.join(", "));
                    let todo = format!("GRANT CONNECT ON DATABASE {} TO {};", ident(database), ident(role));
                    return chain.push("connect", Some(false), detail, todo);
                }
                Err(error) => return chain.push("connect", Some(false), error.to_string(), ""),
            }
        }
        chain.holds("connect", format!("the database {database}"));
    }

    /// The server must ask for certificates of our CA: clients send none that nobody asks for, and the server believes no other.
    async fn check_client_ca(&self, probe: &Probe, ca_pem: &str, chain: &mut Chain) -> Result<(), ()> {
        let Some((ours, name)) = subject(ca_pem) else { return Ok(()) };
        let file = self.ask("SELECT current_setting('ssl_ca_file')").await;
        let file = file.ok().and_then(|rows| rows.first().map(|row| one_line(row.text(0)))).unwrap_or_default();
        let print = "jit-broker ca export --kind x509-client";
        let (detail, todo) = match asks_for(&self.pool.server, probe.account.name.as_str()).await {
            Ok(Some(subjects)) if subjects.contains(&ours) => {
                chain.holds("client ca", format!("certificates of {name} are asked for"));
                return Ok(());
            }
            Ok(Some(_)) => (
                format!("certificates of {name} are not among those that the server asks for"),
                format!("{print} >> {}  # ssl_ca_file, on the server; then SELECT pg_reload_conf();", sh_word(&file)),
            ),
            Ok(None) => (
                "the server asks nobody for a certificate".to_owned(),
                format!(
                    "ssl_ca_file = 'clients.crt' in postgresql.conf, a file with what {print} prints; then SELECT pg_reload_conf();"
                ),
            ),
            Err(error) => (error.to_string(), String::new()),
        };
        chain.push("client ca", Some(false), detail, todo);
        Err(())
    }

    async fn check_account(&self, probe: &Probe, chain: &mut Chain) {
        let account = &probe.account;
        match self.make(account).await {
            Ok(()) => {
                chain.holds("make", account.name.as_str());
                self.check_login(probe, chain).await;
            }
            Err(error) => chain.push("make", Some(false), error.to_string(), ""),
        }
        match self.end(&account.name, account.grant).await {
            Ok(ending) if ending.gone => chain.holds("drop", "absence read back"),
            Ok(ending) => chain.push("drop", Some(false), ending.residue.join("; "), ""),
            Err(error) => chain.push("drop", Some(false), error.to_string(), format!("DROP ROLE {};", account.name)),
        }
    }

    /// The server must ask this very account for a certificate; the login with one is tried under a grant.
    async fn check_demand(&self, probe: &Probe, chain: &mut Chain) {
        let (server, user) = (&self.pool.server, probe.account.name.as_str());
        let secret = Secret::Password(zeroize::Zeroizing::new("none".to_owned()));
        let login = Login { user, secret: &secret, database: &server.database, admin: false };
        match Session::open(server, login).await {
            Err(AccountError::RefusedLogin { message, .. }) if message.contains("valid client certificate") => {
                chain.holds("login", "a certificate is demanded; one is signed for a grant alone, which the map in pg_ident.conf is for");
            }
            Err(error) => {
                let none = ProbeLogin::Cert { cert_pem: String::new(), key_pem: zeroize::Zeroizing::default() };
                chain.push("login", Some(false), error.to_string(), self.login_todo(&none, &error));
            }
            Ok(_) => chain.push(
                "login",
                Some(false),
                "the account got in without a certificate",
                format!("in pg_hba.conf, above lines for `all` users, then reload: hostssl  all  +{GROUP}  all  cert  map=jit"),
            ),
        }
    }

    async fn check_login(&self, probe: &Probe, chain: &mut Chain) {
        let server = &self.pool.server;
        let secret = match &probe.login {
            ProbeLogin::Password(password) => Secret::Password(password.clone()),
            ProbeLogin::NoCert { ca_pem } => {
                if self.check_client_ca(probe, ca_pem, chain).await.is_ok() {
                    self.check_demand(probe, chain).await;
                }
                return;
            }
            ProbeLogin::Cert { cert_pem, key_pem } => {
                Secret::Certificate { cert_pem: cert_pem.clone(), key_pem: key_pem.clone() }
            }
        };
        let user = probe.account.name.as_str();
        let login = Login { user, secret: &secret, database: &server.database, admin: false };
        let opened = match Session::open(server, login).await {
            Ok(mut session) => match session.run("SELECT current_user").await {
                Ok(rows) if rows.first().is_some_and(|row| row.text(0) == user) => Ok(session),
                Ok(_) => Err(AccountError::Invalid("the session is another user's")),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => {
                chain.push("login", Some(false), error.to_string(), self.login_todo(&probe.login, &error));
                return;
            }
        };
        chain.holds(
            "login",
            if matches!(probe.login, ProbeLogin::Password(_)) { "by password" } else { "by certificate" },
        );
        match self.lock(&probe.account.name, probe.account.grant).await {
            Ok(_) if session.run("SELECT 1").await.is_ok() => {
                chain.push("cut", Some(false), "the session goes on after it was cut", "");
            }
            Ok(Locked { open: Some(why), .. }) => chain.push("cut", Some(false), why, ""),
            Ok(locked) if locked.left == 0 => chain.holds("cut", "the session ended"),
            Ok(locked) => chain.push("cut", Some(false), format!("{} sessions do not end", locked.left), ""),
            Err(error) => chain.push("cut", Some(false), error.to_string(), ""),
        }
    }

    fn login_todo(&self, login: &ProbeLogin, error: &AccountError) -> String {
        let above = "in pg_hba.conf, above lines for `all` users, then reload:";
        match (login, error) {
            (ProbeLogin::Cert { .. }, AccountError::Tls(_)) => {
                "ssl_ca_file in postgresql.conf: the broker's CA for clients; then reload".to_owned()
            }
            (_, AccountError::Denied { sqlstate, .. }) if sqlstate == "42501" => {
                format!("GRANT CONNECT ON DATABASE {} TO {GROUP};", ident(&self.pool.server.database))
            }
            (ProbeLogin::Cert { .. }, AccountError::RefusedLogin { message, .. })
                if message.contains("certificate authentication failed") =>
            {
                "in pg_ident.conf, then reload: jit  /^([a-z][0-9a-z]{26}_jit)$  \\1".to_owned()
            }
            (ProbeLogin::Cert { .. }, _) => format!("{above} hostssl  all  +{GROUP}  all  cert  map=jit"),
            (ProbeLogin::NoCert { .. } | ProbeLogin::Password(_), _) => {
                format!("{above} hostssl  all  +{GROUP}  all  scram-sha-256")
            }
        }
    }
}

/// A user for pg_hba.conf, where a word that is not plain stands in quotes (chapter 21.1).
fn hba_word(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') && name != "all";
    if plain { name.to_owned() } else { ident(name) }
}

/// A path for sh.
fn sh_word(path: &str) -> String {
    let plain = !path.is_empty() && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    if plain { path.to_owned() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}
