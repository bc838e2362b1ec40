//! The authority's keys at rest: files of the signer's user that nobody else can read.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use jit_ca::key::{CaKey, PrivateKey};
use jit_ca::x509::{CaCert, CaSpec, X509Key, make_ca};

use crate::domain::authority::{Purpose, Ring};
use crate::domain::key::Key;
use crate::domain::refusal::{Code, Refusal};

/// How long an X.509 authority is valid, in seconds.
const X509_CA_S: i64 = 3650 * 86_400;

/// The way to files that belong to several users.
pub const AS_ROOT: &str = "Run it as root: its files belong to users of their own.";

/// One key per purpose (decisions.md 28).
#[derive(Debug)]
pub struct Keys {
    /// Signs user certificates and revocation lists.
    pub ssh_user: CaKey,
    /// Signs host certificates.
    pub ssh_host: CaKey,
    /// Signs checkpoints.
    pub log: PrivateKey,
    /// Signs the daemon's HTTPS certificate.
    pub x509_server: X509Key,
    /// The certificate of that authority.
    pub x509_cert: CaCert,
    /// Signs the certificates of database accounts, and its own certificate; absent where keys were made by an earlier version.
    pub x509_client: Option<(X509Key, CaCert)>,
    /// Signs user certificates for the gateway; absent where keys were made by an earlier version.
    pub ssh_gateway: Option<CaKey>,
    dir: PathBuf,
    /// Those that replace the first ones, oldest first.
    later: Vec<(Purpose, Later)>,
}

/// A key that replaces, or will replace, the first of its purpose.
#[derive(Debug)]
enum Later {
    Ssh(Box<CaKey>),
    X509(Box<(X509Key, CaCert)>),
}

impl Purpose {
    /// The name of the first key's file; those that replace it have `.2`, `.3` and so on behind it.
    fn file(self) -> &'static str {
        match self {
            Self::SshUser => "ssh_user",
            Self::SshGateway => "ssh_gateway",
            Self::SshHost => "ssh_host",
            Self::X509Client => "x509_client",
            Self::X509Server => "x509_server",
        }
    }

    /// What stands for a certificate of this purpose in the log.
    fn said(self, cert: &CaCert) -> String {
        if self == Self::X509Server { cert.fingerprint() } else { cert.pem().to_owned() }
    }
}

/// Reads a private file whole.
///
/// # Errors
/// [`Code::BAD_MODE`] when others could read or change it, [`Code::BAD_CONFIG`] when it is not there.
pub fn read_private(path: &Path) -> Result<String, Refusal> {
    read_of(path, Owner::Me)
}

/// Reads a private file of a service: as [`read_private`], and root may look whoever has its folder.
///
/// # Errors
/// As [`read_private`].
pub fn look(path: &Path) -> Result<String, Refusal> {
    read_of(path, Owner::Folder)
}

/// Whose private files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Those of the user that this runs as.
    Me,
    /// For root, who looks at what a service owns: those of whoever has their folder, too.
    Folder,
}

fn read_of(path: &Path, owner: Owner) -> Result<String, Refusal> {
    let broken = |e: std::io::Error| {
        let refusal = Refusal::new(Code::BAD_CONFIG, format!("{} cannot be read: {e}.", path.display()));
        if e.kind() == std::io::ErrorKind::PermissionDenied { refusal.hint(AS_ROOT) } else { refusal }
    };
    let meta = fs::symlink_metadata(path).map_err(broken)?;
    let mode = meta.permissions().mode() & 0o777;
    let me = rustix::process::geteuid();
    let folder = || fs::metadata(folder_of(path)).map(|folder| folder.uid());
    let ours = meta.uid() == me.as_raw()
        || (owner == Owner::Folder && me.is_root() && meta.uid() == folder().map_err(broken)?);
    if meta.is_file() && !ours {
        let message = format!("{} belongs to user {}, and this runs as another.", path.display(), meta.uid());
        return Err(Refusal::new(Code::BAD_MODE, message).hint(format!("sudo -u '#{}' jit-broker …", meta.uid())));
    }
    if !meta.is_file() || mode & 0o077 != 0 {
        return Err(Refusal::new(
            Code::BAD_MODE,
            format!("{} has mode {mode:03o}; it must be a file of mode 600.", path.display()),
        )
        .hint(format!("chmod 600 {}", path.display())));
    }
    fs::read_to_string(path).map_err(broken)
}

/// Writes a new private file, whole or not at all; never over one that is there.
///
/// # Errors
/// [`Code::NOT_EMPTY`] or what the file system says.
pub fn write_new(path: &Path, text: &[u8]) -> Result<(), Refusal> {
    // Half a key would be in the way of the next attempt, and be read as a whole one.
    beside(path, text, 0o600, None, |temporary| {
        fs::hard_link(temporary, path).and_then(|()| fs::remove_file(temporary))
    })
    .map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Refusal::new(Code::NOT_EMPTY, format!("{} is there already.", path.display()))
        }
        _ => io_refusal(path, &e),
    })
}

/// Replaces a file atomically: temporary file, flush, rename, flush of the folder.
///
/// # Errors
/// What the file system says; the old file stays.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Refusal> {
    beside(path, bytes, mode, None, |temporary| fs::rename(temporary, path)).map_err(|e| io_refusal(path, &e))
}

/// Replaces a private file as [`replace`] does; where root does it, it belongs to whoever has the folder: a service must read it.
///
/// # Errors
/// As [`replace`].
pub fn replace_for_owner(path: &Path, bytes: &[u8]) -> Result<(), Refusal> {
    let folder = fs::metadata(folder_of(path)).map_err(|e| io_refusal(path, &e))?;
    let owner = rustix::process::geteuid().is_root().then(|| (folder.uid(), folder.gid()));
    beside(path, bytes, 0o600, owner, |temporary| fs::rename(temporary, path)).map_err(|e| io_refusal(path, &e))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file beside another, flushes it, has it put in place, and flushes the folder.
fn beside(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
    put: impl FnOnce(&Path) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let folder = folder_of(path);
    // SECURITY (T148): a name that nobody guesses and a file that nobody made, so that no link laid out in a shared folder is followed.
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(ending());
    let temporary = folder.join(name);
    let result = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        // SECURITY: the open file, and not its name, which the folder's owner could lead elsewhere.
        owner.map_or(Ok(()), |(user, group)| fchown(&file, Some(user), Some(group)))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        put(&temporary)?;
        fs::File::open(folder)?.sync_all()
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// How the name of a file ends that is not yet what it will be.
pub fn ending() -> String {
    format!(".{}", data_encoding::HEXLOWER.encode(&crate::clock::random16()))
}

/// The name that such a file would have had; none where it is no such file.
pub fn would_be(name: &str) -> Option<&str> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    name.rsplit_once('.').filter(|(_, ending)| ending.len() == 32 && ending.bytes().all(hex)).map(|(stem, _)| stem)
}

/// Removes what writes left that were killed: such files of these names. Only for whoever alone writes in the folder.
pub fn tidy(dir: &Path, ours: impl Fn(&str) -> bool) {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in files.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
        if would_be(&entry.file_name().to_string_lossy()).is_some_and(&ours)
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!("{} is left of a write that broke off: {error}", entry.path().display());
        }
    }
}

/// What a failed write is called.
pub fn io_refusal(path: &Path, error: &std::io::Error) -> Refusal {
    let code = if error.kind() == std::io::ErrorKind::StorageFull { Code::DISK_FULL } else { Code::LOCAL_IO };
    Refusal::new(code, format!("{} cannot be written: {error}.", path.display()))
}

fn ssh_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}

fn load(dir: &Path, name: &str, owner: Owner) -> Result<PrivateKey, Refusal> {
    let path = ssh_path(dir, name);
    PrivateKey::from_openssh(&read_of(&path, owner)?, None)
        .map_err(|e| Refusal::new(Code::BAD_CONFIG, format!("{} is not a key: {e}.", path.display())))
}

fn wrong(dir: &Path, name: &str, e: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::BAD_CONFIG, format!("{} is not usable: {e}.", dir.join(name).display()))
}

fn load_ca(dir: &Path, name: &str, owner: Owner) -> Result<CaKey, Refusal> {
    CaKey::new(load(dir, name, owner)?).map_err(|e| wrong(dir, name, e))
}

fn load_x509(dir: &Path, name: &str, owner: Owner) -> Result<(X509Key, CaCert), Refusal> {
    let (key, cert) = (read_of(&dir.join(name), owner)?, read_of(&dir.join(format!("{name}.crt")), owner)?);
    let key = X509Key::from_pkcs8_pem(&key).map_err(|e| wrong(dir, name, e))?;
    Ok((key, CaCert::from_pem(&cert).map_err(|e| wrong(dir, name, e))?))
}

fn make_ssh(dir: &Path, name: &str) -> Result<(), Refusal> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    crate::clock::fill(&mut *seed);
    let key = PrivateKey::from_seed(*seed);
    let text = key.to_openssh(&format!("jit-broker {name}")).map_err(|e| Refusal::new(Code::BUG, e.to_string()))?;
    write_new(&ssh_path(dir, name), text.as_bytes())
}

fn make_x509(dir: &Path, name: &str, purpose: &str, now: i64) -> Result<(X509Key, CaCert), Refusal> {
    let bug = |e: String| Refusal::new(Code::BUG, format!("The {purpose} CA could not be made: {e}."));
    let key = X509Key::generate().map_err(|e| bug(e.to_string()))?;
    let serial = crate::clock::random16();
    let spec = CaSpec {
        // Servers name whom they trust by subjects: two installations must not look alike.
        name: format!(
            "jit-broker {purpose} CA {:08x}",
            u32::from_be_bytes([serial[4], serial[5], serial[6], serial[7]])
        ),
        serial,
        not_before: now - 3600,
        not_after: now + X509_CA_S,
    };
    let cert = make_ca(&key, &spec).map_err(|e| bug(e.to_string()))?;
    // The certificate first: a key without one would be in the way for ever.
    replace(&dir.join(format!("{name}.crt")), cert.pem().as_bytes(), 0o600)?;
    write_new(&dir.join(name), key.to_pkcs8_pem().as_bytes())?;
    load_x509(dir, name, Owner::Me)
}

impl Keys {
    /// Makes all keys in a folder that has none.
    ///
    /// # Errors
    /// [`Code::NOT_EMPTY`] when there is a key already.
    pub fn make(dir: &Path, now: i64) -> Result<Self, Refusal> {
        for name in ["ssh_user", "ssh_gateway", "ssh_host", "log"] {
            make_ssh(dir, name)?;
        }
        for (name, purpose) in [("x509_server", "server"), ("x509_client", "client")] {
            make_x509(dir, name, purpose, now)?;
        }
        Self::load(dir)
    }

    /// The key that will replace the one of a purpose, as the log names it: one that no log has named yet, made where there is none.
    ///
    /// # Errors
    /// [`Code::MISSING`] where there is no authority of this purpose; what the disk says.
    pub fn next(&mut self, purpose: Purpose, ring: Option<&Ring>, now: i64) -> Result<String, Refusal> {
        let ring = ring.ok_or_else(|| Refusal::new(Code::MISSING, format!("There is no authority {purpose}.")))?;
        let named = |public: &String| ring.trusted().any(|known| known == public) || ring.retired.contains(public);
        if let Some(spare) = self.all(purpose).into_iter().find(|public| !named(public)) {
            return Ok(spare);
        }
        let file = (2..).map(|n| format!("{}.{n}", purpose.file())).find(|name| !self.dir.join(name).exists());
        let file = file.unwrap_or_default();
        let later = match purpose {
            Purpose::X509Client => Later::X509(Box::new(make_x509(&self.dir, &file, "client", now)?)),
            Purpose::X509Server => Later::X509(Box::new(make_x509(&self.dir, &file, "server", now)?)),
            _ => {
                make_ssh(&self.dir, &file)?;
                Later::Ssh(Box::new(load_ca(&self.dir, &file, Owner::Me)?))
            }
        };
        fs::File::open(&self.dir).and_then(|folder| folder.sync_all()).map_err(|e| io_refusal(&self.dir, &e))?;
        self.later.push((purpose, later));
        self.all(purpose).pop().ok_or_else(|| Refusal::new(Code::BUG, "The new key is not there."))
    }

    /// The public halves of a purpose that this signer holds, as the log names them, oldest first.
    pub fn all(&self, purpose: Purpose) -> Vec<String> {
        let ssh = self.ssh_keys(purpose).map(|key| key.public().to_string());
        ssh.chain(self.x509_keys(purpose).map(|(_, cert)| purpose.said(cert))).collect()
    }

    fn ssh_keys(&self, purpose: Purpose) -> impl Iterator<Item = &CaKey> {
        let first = match purpose {
            Purpose::SshUser => Some(&self.ssh_user),
            Purpose::SshGateway => self.ssh_gateway.as_ref(),
            Purpose::SshHost => Some(&self.ssh_host),
            Purpose::X509Client | Purpose::X509Server => None,
        };
        let later = self.later.iter().filter(move |(of, _)| *of == purpose).filter_map(|(_, key)| match key {
            Later::Ssh(key) => Some(key.as_ref()),
            Later::X509(_) => None,
        });
        first.into_iter().chain(later)
    }

    fn x509_keys(&self, purpose: Purpose) -> impl Iterator<Item = (&X509Key, &CaCert)> {
        let first = match purpose {
            Purpose::X509Client => self.x509_client.as_ref().map(|(key, cert)| (key, cert)),
            Purpose::X509Server => Some((&self.x509_server, &self.x509_cert)),
            _ => None,
        };
        let later = self.later.iter().filter(move |(of, _)| *of == purpose).filter_map(|(_, key)| match key {
            Later::X509(pair) => Some((&pair.0, &pair.1)),
            Later::Ssh(_) => None,
        });
        first.into_iter().chain(later)
    }

    /// The SSH key with this public half.
    pub fn ssh(&self, purpose: Purpose, public: &str) -> Option<&CaKey> {
        self.ssh_keys(purpose).find(|key| key.public().to_string() == public)
    }

    /// The X.509 key and certificate that the log names so.
    pub fn x509(&self, purpose: Purpose, public: &str) -> Option<(&X509Key, &CaCert)> {
        self.x509_keys(purpose).find(|(_, cert)| purpose.said(cert) == public)
    }

    /// Loads all keys.
    ///
    /// # Errors
    /// Names the file that is missing, too open, or not a key.
    pub fn load(dir: &Path) -> Result<Self, Refusal> {
        Self::load_of(dir, Owner::Me)
    }

    /// Loads all keys to look at their public halves: root may do that whoever they belong to.
    ///
    /// # Errors
    /// As [`Keys::load`].
    pub fn look(dir: &Path) -> Result<Self, Refusal> {
        Self::load_of(dir, Owner::Folder)
    }

    fn load_of(dir: &Path, owner: Owner) -> Result<Self, Refusal> {
        let (ca, x509) = (|name: &str| load_ca(dir, name, owner), |name: &str| load_x509(dir, name, owner));
        let (x509_server, x509_cert) = x509("x509_server")?;
        let ssh_gateway = if dir.join("ssh_gateway").exists() { Some(ca("ssh_gateway")?) } else { None };
        let x509_client = if dir.join("x509_client").exists() { Some(x509("x509_client")?) } else { None };
        let mut later = Vec::new();
        for purpose in Purpose::ALL {
            let names = (2..).map(|n| format!("{}.{n}", purpose.file()));
            for name in names.take_while(|name| dir.join(name).exists()) {
                let key = if purpose.is_ssh() {
                    Later::Ssh(Box::new(ca(&name)?))
                } else {
                    Later::X509(Box::new(x509(&name)?))
                };
                later.push((purpose, key));
            }
        }
        Ok(Self {
            ssh_user: ca("ssh_user")?,
            ssh_host: ca("ssh_host")?,
            log: load(dir, "log", owner)?,
            x509_server,
            x509_cert,
            x509_client,
            ssh_gateway,
            dir: dir.to_owned(),
            later,
        })
    }

    /// The public half of the log's key.
    pub fn log_public(&self) -> Key {
        Key(self.log.public().clone())
    }
}
