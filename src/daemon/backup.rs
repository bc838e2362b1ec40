//! `backup`: everything that a broker is, in one sealed file, while it runs.
//!
//! True here: the signer's head is copied before the log, so the log in the backup has at least what the head says; the log is copied as of
//! one moment; log, keys and texts leave this machine sealed only. Not in it: recordings, and the secrets of target databases.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::aside::Aside;
use super::gateways::HOST_KEY;
use super::init::{bundle_files, has_bundle};
use super::restore::place;
use super::sealed::Sealer;
use super::secrets::MARKER;
use crate::broker::clerk::ledger_refusal;
use crate::clock::Clock;
use crate::domain::digest::read_canonical;
use crate::domain::event::{Entry, Event};
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::Reader;
use crate::settings::{Settings, WitnessAt};
use crate::signer::keys::io_refusal;
use crate::witness::keep::{KEY, WITNESSED};

/// The shortest passphrase, in characters.
pub const SHORTEST: usize = 12;
/// The files of the daemon's state that cannot be made again.
pub(super) const STATE: [&str; 4] = [HOST_KEY, MARKER, "krl", KEY];
/// The copy of the log, and the private folder below the daemon's state in which it lies for a moment.
const COPY: &str = "ledger.db";
const WORK: &str = "backup";

/// What was backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// How many entries the log has.
    pub entries: u64,
    /// How many bytes the file has.
    pub bytes: u64,
}

fn cannot(path: &Path, error: &std::io::Error) -> Refusal {
    let refusal = Refusal::new(Code::LOCAL_IO, format!("{} cannot be read: {error}.", path.display()));
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        return refusal.hint("Run it as root: the signer's keys belong to a user of their own.");
    }
    refusal
}

/// Writes a backup of the broker of a configuration; never over a file that is there.
///
/// # Errors
/// [`Code::NOT_EMPTY`], [`Code::USAGE`] for a short passphrase, or what the disk says; nothing is left then.
pub async fn backup(
    settings: &Settings,
    config: &Path,
    to: &Path,
    passphrase: &str,
    clock: &dyn Clock,
) -> Result<Made, Refusal> {
    if passphrase.chars().count() < SHORTEST {
        let message =
            format!("The passphrase has fewer than {SHORTEST} characters; it protects every key of the authority.");
        return Err(Refusal::new(Code::USAGE, message));
    }
    let occupied = || {
        Refusal::new(Code::NOT_EMPTY, format!("{} is there already; nothing was changed.", to.display()))
            .hint("Choose another name.")
    };
    if fs::symlink_metadata(to).is_ok() {
        return Err(occupied());
    }
    let sealed = Aside::file(to).map_err(|e| io_refusal(to, &e))?;
    // SECURITY: the log in clear stays on the broker's own disk. Its name is the same each time, below a folder that is root's: whoever has
    // the folder around it could lead an open name of root's elsewhere, and this one is of use to nobody.
    let work = Aside::folder(&settings.state_dir, WORK).map_err(|e| io_refusal(&settings.state_dir, &e))?;
    let file = sealed.open().map_err(|e| io_refusal(to, &e))?;
    let entries = write(settings, config, file, &work.path().join(COPY), passphrase, clock).await?;
    let bytes = fs::metadata(sealed.path()).map_err(|e| io_refusal(to, &e))?.len();
    sealed.keep(to).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => occupied(),
        _ => io_refusal(to, &e),
    })?;
    Ok(Made { entries, bytes })
}

async fn write(
    settings: &Settings,
    config: &Path,
    file: fs::File,
    copy: &Path,
    passphrase: &str,
    clock: &dyn Clock,
) -> Result<u64, Refusal> {
    let reader = Reader::open(&settings.ledger).await.map_err(|e| ledger_refusal(&e))?;
    let install = install(&reader).await?;
    let mut salt = [0; 32];
    clock.fill(&mut salt);
    let failed = |e: std::io::Error| io_refusal(copy, &e);
    let out = std::io::BufWriter::with_capacity(1 << 20, file);
    let mut sealer = Sealer::new(out, passphrase, &install, clock.read().wall_s, salt).map_err(failed)?;
    // INVARIANT: the head before the log, and the keys after it. The other way round the head could be ahead of the copy, and a key that the
    // copy names could be missing.
    put(&mut sealer, "ca/head.json", &settings.ca_dir.join(super::HEAD))?;
    put(&mut sealer, "jit-broker.toml", config)?;
    let beside = config.parent().unwrap_or(Path::new("."));
    let mut files = if has_bundle(beside) { bundle_files(beside)? } else { BTreeMap::new() };
    files.extend(authorities(settings, beside)?);
    for (name, text) in files {
        entry(&mut sealer, &format!("bundle/{name}"), text.len() as u64, &mut text.as_bytes()).map_err(failed)?;
    }
    for name in STATE {
        let path = settings.state_dir.join(name);
        if path.exists() {
            put(&mut sealer, &format!("state/{name}"), &path)?;
        }
    }
    let witnessed = settings.state_dir.join(WITNESSED);
    if witnessed.exists() {
        folder(&mut sealer, &format!("state/{WITNESSED}"), &witnessed, is_note)?;
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(copy).map_err(failed)?;
    reader.copy_to(copy).await.map_err(|e| ledger_refusal(&e))?;
    let entries =
        Reader::open(copy).await.map_err(|e| ledger_refusal(&e))?.size().await.map_err(|e| ledger_refusal(&e))?;
    put(&mut sealer, "ledger.db", copy)?;
    folder(&mut sealer, "ca", &settings.ca_dir, is_key)?;
    end(&mut sealer).map_err(failed)?;
    let out = sealer.finish().map_err(failed)?;
    let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all().map_err(failed)?;
    Ok(entries)
}

/// The authorities of witnesses' certificates that lie in the configuration's own folder: without them it is refused.
fn authorities(settings: &Settings, beside: &Path) -> Result<BTreeMap<String, String>, Refusal> {
    let named = settings.outside.witnesses.values().filter_map(|at| match at {
        WitnessAt::Witness { ca, .. } | WitnessAt::Webhook { ca, .. } => Some(ca),
        WitnessAt::File(_) => None,
    });
    let ours = |ca: &&PathBuf| ca.starts_with(&settings.state_dir) || ca.starts_with(&settings.ca_dir);
    let here =
        named.filter(|ca| !ours(ca)).filter_map(|ca| Some((ca.strip_prefix(beside).ok()?.to_str()?.to_owned(), ca)));
    here.filter(|(name, ca)| place(&format!("bundle/{name}")).is_some() && ca.is_file())
        .map(|(name, ca)| Ok((name, fs::read_to_string(ca).map_err(|e| cannot(ca, &e))?)))
        .collect()
}

async fn install(reader: &Reader) -> Result<String, Refusal> {
    let leaf = reader.leaf(0).await.map_err(|e| ledger_refusal(&e))?;
    match leaf.map(|leaf| read_canonical::<Entry>(&leaf.bytes).map(|entry| entry.event)) {
        Some(Ok(Event::Begun(genesis))) => Ok(genesis.install.to_string()),
        _ => Err(Refusal::new(Code::LEDGER_CORRUPT, "The log does not begin with its beginning.")),
    }
}

/// The files of a folder with such names; no caches and no half-written ones.
fn folder(out: &mut dyn Write, to: &str, dir: &Path, wanted: fn(&str) -> bool) -> Result<(), Refusal> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .map_err(|e| cannot(dir, &e))?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| wanted(name))
        .collect();
    names.sort();
    names.iter().try_for_each(|name| put(out, &format!("{to}/{name}"), &dir.join(name)))
}

/// What a witness keeps of a log: the digest of its name, and behind it the epoch that is over.
pub(super) fn is_note(name: &str) -> bool {
    let (digest, epoch) = name.split_once(".e").unwrap_or((name, "0"));
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    digest.len() == 64 && digest.bytes().all(hex) && epoch.parse::<u32>().is_ok()
}

/// A key of an authority or a certificate: `ssh_user`, `x509_client.2`, `x509_client.2.crt`.
pub(super) fn is_key(name: &str) -> bool {
    let stem = name.strip_suffix(".crt").unwrap_or(name);
    let (first, number) = stem.split_once('.').unwrap_or((stem, "2"));
    let known = ["ssh_user", "ssh_gateway", "ssh_host", "x509_client", "x509_server", "log"].contains(&first);
    known && number.parse::<u32>().is_ok()
}

fn put(out: &mut dyn Write, name: &str, path: &Path) -> Result<(), Refusal> {
    let mut file = fs::File::open(path).map_err(|e| cannot(path, &e))?;
    let size = file.metadata().map_err(|e| cannot(path, &e))?.len();
    entry(out, name, size, &mut file).map_err(|e| io_refusal(path, &e))
}

/// One file: the length of its name, the name, its size, its bytes.
fn entry(out: &mut dyn Write, name: &str, size: u64, from: &mut dyn Read) -> std::io::Result<()> {
    let length = u16::try_from(name.len()).map_err(std::io::Error::other)?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(name.as_bytes())?;
    out.write_all(&size.to_be_bytes())?;
    // A file that grows meanwhile is taken as it was; one that shrinks is no backup.
    if std::io::copy(&mut from.take(size), out)? == size {
        Ok(())
    } else {
        Err(std::io::Error::other("it became shorter while it was read"))
    }
}

fn end(out: &mut dyn Write) -> std::io::Result<()> {
    out.write_all(&0_u16.to_be_bytes())
}
