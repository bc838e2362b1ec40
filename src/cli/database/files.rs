//! The files of a database's target, at paths that never change: key, certificate, authorities, service entry.
//!
//! `db/TARGET/` has the key, and what the last `login` left; `db/TARGET/roles/ROLE/` has what belongs to one role, so that two roles of a
//! target can be used at a time. Services are `TARGET` and `TARGET.ROLE`.

use std::fs;
use std::path::PathBuf;

use jit_ca::x509::X509Key;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{local, private_folder, read_private, write_private};
use crate::cli::failure::Failure;
use crate::cli::home::{Home, lock};
use crate::domain::database::Auth;
use crate::domain::ids::GrantId;
use crate::domain::key::Key;
use crate::domain::names::{AccountName, DatabaseName, RoleName, TargetName};
use crate::domain::refusal::Code;
use crate::domain::target::host_name;
use crate::wire::{AccountDoc, GrantDoc};

/// What is known of the credential that lies here; nothing of it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The target.
    pub target: TargetName,
    /// The grant.
    pub grant: GrantId,
    /// The role that it gives.
    pub role: RoleName,
    /// The account.
    pub user: AccountName,
    /// The server's address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The name in its certificate.
    pub tls_name: String,
    /// The authorities that may have signed it, PEM.
    pub tls_ca: String,
    /// The database.
    pub database: DatabaseName,
    /// How the account proves itself.
    pub auth: Auth,
    /// Not valid from this second on, in Unix seconds.
    pub until_s: i64,
}

impl Access {
    /// SECURITY (T147): host and name come from the broker and go into files and command lines: only what is a host stays.
    pub(super) fn new(grant: &GrantDoc, account: &AccountDoc, until_s: i64) -> Option<Self> {
        let host = |text: &str| host_name(text).or_else(|| host_name(&format!("[{text}]")));
        Some(Self {
            target: grant.target.clone(),
            grant: grant.id,
            role: grant.role.clone(),
            user: account.user.clone(),
            host: host(&account.host)?,
            port: account.port,
            tls_name: host(&account.database.tls_name)?,
            tls_ca: account.database.tls_ca.clone(),
            database: account.database.name.clone(),
            auth: account.database.auth,
            until_s,
        })
    }

    /// `host` and `hostaddr` as libpq takes them: the name is what the certificate must have, the address is where to go.
    pub(super) fn place(&self) -> (&str, Option<&str>) {
        let address = self.host != self.tls_name && self.host.parse::<std::net::IpAddr>().is_ok();
        (if address { &self.tls_name } else { &self.host }, address.then_some(self.host.as_str()))
    }
}

/// The one service file, with an entry for each target.
pub fn service_file(home: &Home) -> PathBuf {
    home.run.join("db").join("pg_service.conf")
}

/// The folder of one target.
pub struct Folder {
    path: PathBuf,
    base: PathBuf,
    target: TargetName,
}

/// Forgets the credential of a grant, wherever it lies; the key stays, and what belongs to other grants on the target.
pub fn forget(home: &Home, target: &TargetName, grant: GrantId) {
    let path = home.run.join("db").join(target.as_str());
    let _writing = lock(&path.join("write.lock"));
    let read = |file: PathBuf| read_private(&file).ok().flatten();
    let of = |text: &String| serde_json::from_str::<Access>(text).is_ok_and(|access| access.grant == grant);
    let roles = fs::read_dir(path.join("roles")).into_iter().flatten().flatten().map(|entry| entry.path());
    for folder in roles.chain([path.clone()]) {
        if read(folder.join("access.json")).as_ref().is_some_and(of) {
            for name in ["access.json", "client.crt", "pgpass"] {
                let _ = fs::remove_file(folder.join(name));
            }
        }
        // It may be there before the rest.
        if read(folder.join("password")).is_some_and(|text| text.split(' ').next() == Some(&grant.to_string())) {
            let _ = fs::remove_file(folder.join("password"));
        }
    }
}

impl Folder {
    pub(super) fn open(home: &Home, target: &TargetName) -> Result<Self, Failure> {
        let base = home.run.join("db");
        let path = base.join(target.as_str());
        for folder in [&home.run, &base, &path] {
            private_folder(folder)?;
        }
        Ok(Self { path, base, target: target.clone() })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file that belongs to one role.
    pub(super) fn of_role(&self, role: &RoleName, name: &str) -> PathBuf {
        self.path.join("roles").join(role.as_str()).join(name)
    }

    fn make_role(&self, role: &RoleName) -> Result<(), Failure> {
        private_folder(&self.file("roles"))?;
        private_folder(&self.file("roles").join(role.as_str()))
    }

    /// The client's key; made once, and written in the two forms that clients read.
    pub(super) fn key(&self) -> Result<Key, Failure> {
        let _writing = lock(&self.file("write.lock"))?;
        let path = self.file("client.key");
        let bad = |e: jit_ca::CaError| Failure::new(Code::BAD_KEY, format!("{}: {e}.", path.display()));
        let key = match read_private(&path)? {
            Some(text) => X509Key::from_pkcs8_pem(&Zeroizing::new(text)).map_err(bad)?,
            None => {
                let key = X509Key::generate().map_err(bad)?;
                write_private(&path, key.to_pkcs8_pem().as_bytes())?;
                key
            }
        };
        // JDBC before pgjdbc 42.7 reads DER alone.
        if !self.file("client.pk8").exists() {
            write_private(&self.file("client.pk8"), &key.to_pkcs8_der())?;
        }
        Ok(Key(key.public().map_err(bad)?))
    }

    /// The password and salt of a grant: the same whenever they are asked for, so that a broken-off ask goes on.
    pub(super) fn password(&self, grant: GrantId, role: &RoleName) -> Result<(Zeroizing<String>, [u8; 16]), Failure> {
        let _writing = lock(&self.file("write.lock"))?;
        self.make_role(role)?;
        let path = self.of_role(role, "password");
        let held = read_private(&path)?.map(Zeroizing::new);
        let parse = |text: &str| {
            let mut words = text.split_whitespace();
            let (of, password, salt) = (words.next()?, words.next()?, words.next()?);
            let salt = data_encoding::HEXLOWER.decode(salt.as_bytes()).ok()?.try_into().ok()?;
            (of == grant.to_string()).then(|| (Zeroizing::new(password.to_owned()), salt))
        };
        if let Some(found) = held.as_ref().and_then(|text| parse(text)) {
            return Ok(found);
        }
        let (random, salt) = (crate::clock::random16(), crate::clock::random16());
        let password = Zeroizing::new(data_encoding::HEXLOWER.encode(&random));
        let line = Zeroizing::new(format!("{grant} {} {}\n", password.as_str(), data_encoding::HEXLOWER.encode(&salt)));
        write_private(&path, line.as_bytes())?;
        Ok((password, salt))
    }

    /// What lies here for a role, or what the last `login` left; whether it still holds or not.
    pub(super) fn access(&self, role: Option<&RoleName>) -> Result<Option<Access>, Failure> {
        let path = role.map_or_else(|| self.file("access.json"), |role| self.of_role(role, "access.json"));
        let text = read_private(&path)?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Every file that clients of this kind use, the certificate or password first.
    pub(super) fn paths(&self, auth: Auth) -> Vec<String> {
        let names: &[&str] = match auth {
            Auth::Cert => &["client.crt", "client.key", "client.pk8", "root.crt"],
            Auth::Password => &["pgpass", "root.crt"],
        };
        let mut paths: Vec<String> = names.iter().map(|name| self.file(name).display().to_string()).collect();
        paths.push(self.base.join("pg_service.conf").display().to_string());
        paths
    }

    /// Writes the credential, each file atomically, the note of it last.
    pub(super) fn write(&self, access: &Access, certificate: &str) -> Result<(), Failure> {
        let password = match access.auth {
            Auth::Cert => None,
            Auth::Password => Some(self.password(access.grant, &access.role)?.0),
        };
        let _writing = lock(&self.file("write.lock"))?;
        self.make_role(&access.role)?;
        write_private(&self.file("root.crt"), access.tls_ca.as_bytes())?;
        let (name, proof) = match password {
            None => ("client.crt", Zeroizing::new(certificate.to_owned())),
            Some(password) => {
                let host = access.place().0.replace(':', "\\:");
                let line = format!("{host}:{}:*:{}:{}\n", access.port, access.user, password.as_str());
                ("pgpass", Zeroizing::new(line))
            }
        };
        let text = serde_json::to_vec(access).map_err(|e| local(&self.path, e))?;
        let role = self.of_role(&access.role, "");
        for (folder, service) in
            [(&role, format!("{}.{}", self.target, access.role)), (&self.path, self.target.to_string())]
        {
            let entry = service_entry(&service, &self.settings(access, &|name| folder.join(name)));
            write_private(&folder.join(name), proof.as_bytes())?;
            write_private(&folder.join("service"), entry.as_bytes())?;
            write_private(&folder.join("access.json"), &text)?;
        }
        self.join_services()
    }

    /// What libpq calls each thing, with its value; the proof lies in the role's own folder.
    pub(super) fn role_settings(&self, access: &Access) -> Vec<(&'static str, String)> {
        self.settings(access, &|name| self.of_role(&access.role, name))
    }

    fn settings(&self, access: &Access, proof: &dyn Fn(&str) -> PathBuf) -> Vec<(&'static str, String)> {
        let file = |name: &str| self.file(name).display().to_string();
        let proof = |name: &str| proof(name).display().to_string();
        let (host, address) = access.place();
        let mut all = vec![("host", host.to_owned())];
        all.extend(address.map(|address| ("hostaddr", address.to_owned())));
        all.extend([
            ("port", access.port.to_string()),
            ("dbname", access.database.to_string()),
            ("user", access.user.to_string()),
            ("sslmode", "verify-full".to_owned()),
            ("sslrootcert", file("root.crt")),
        ]);
        match access.auth {
            Auth::Cert => all.extend([("sslcert", proof("client.crt")), ("sslkey", file("client.key"))]),
            Auth::Password => all.push(("passfile", proof("pgpass"))),
        }
        all
    }

    /// libpq reads one service file: the entries of all targets, one after the other.
    fn join_services(&self) -> Result<(), Failure> {
        let _joining = lock(&self.base.join("service.lock"))?;
        let mut folders: Vec<PathBuf> = fs::read_dir(&self.base)
            .map_err(|e| local(&self.base, e))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.is_dir())
            .collect();
        folders.sort();
        let below = |path: &PathBuf| {
            let roles = fs::read_dir(path.join("roles")).into_iter().flatten().filter_map(Result::ok);
            let mut all: Vec<PathBuf> = roles.map(|entry| entry.path()).collect();
            all.sort();
            all.insert(0, path.clone());
            all
        };
        let read = |path: PathBuf| read_private(&path.join("service")).ok().flatten();
        let text: Vec<String> = folders.iter().flat_map(below).filter_map(read).collect();
        write_private(&self.base.join("pg_service.conf"), text.join("\n").as_bytes())
    }
}

fn service_entry(name: &str, settings: &[(&'static str, String)]) -> String {
    let lines: Vec<String> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("[{name}]\n{}\n", lines.join("\n"))
}
