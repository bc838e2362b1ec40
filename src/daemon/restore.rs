//! `restore`: a broker out of a backup, in a folder of its own; and in place, with a log that is older than what was signed.
//!
//! True here: nothing is overwritten; what comes out is in recovery, and signs nothing until administrators have begun a new epoch.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::backup::{STATE, is_key, is_note};
use super::sealed::Opener;
use crate::broker::clerk::ledger_refusal;
use crate::domain::digest::{Digest, read_canonical};
use crate::domain::event::{Entry, Event, Genesis};
use crate::domain::refusal::{Code, Refusal};
use crate::ledger::note::{Checkpoint, SignedNote};
use crate::ledger::{Ledger, OpenMode, Reader};
use crate::settings::{Settings, SignerAt, bad_config};
use crate::signer::gate::{hex, origin_of};
use crate::signer::keys::{io_refusal, replace};
use crate::signer::recovery;
use crate::witness::keep::WITNESSED;

/// The longest name of a file in a backup, in bytes.
const MAX_NAME: usize = 256;

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The configuration.
    pub config: PathBuf,
    /// When the backup was made, in Unix seconds.
    pub at: i64,
    /// How many entries its log has.
    pub entries: u64,
}

fn damaged(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::BAD_BACKUP, format!("The backup cannot be used: {what}."))
}

/// Makes a broker of a backup in a new folder.
///
/// # Errors
/// [`Code::NOT_EMPTY`], [`Code::BAD_BACKUP`], or what the disk says; nothing is left then.
pub async fn restore(from: &Path, dir: &Path, passphrase: &str) -> Result<Restored, Refusal> {
    let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || dir.is_file() {
        let message = format!("{} is not empty; nothing was changed.", dir.display());
        return Err(Refusal::new(Code::NOT_EMPTY, message).hint("Restore into a new folder."));
    }
    let file = fs::File::open(from)
        .map_err(|e| Refusal::new(Code::LOCAL_IO, format!("{} cannot be read: {e}.", from.display())))?;
    let input = std::io::BufReader::with_capacity(1 << 20, file);
    let mut opener = Opener::new(input, passphrase).map_err(damaged)?;
    let made = match unpack(&mut opener, dir) {
        Ok(()) => settle(dir, opener.header.at).await,
        Err(refusal) => Err(refusal),
    };
    if made.is_err() {
        let _ = fs::remove_dir_all(dir);
    }
    made
}

fn unpack(input: &mut dyn Read, dir: &Path) -> Result<(), Refusal> {
    for folder in [dir.to_owned(), dir.join("state"), dir.join("state/ca")] {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|e| io_refusal(&folder, &e))?;
    }
    loop {
        let mut length = [0; 2];
        input.read_exact(&mut length).map_err(damaged)?;
        let length = usize::from(u16::from_be_bytes(length));
        if length == 0 {
            break;
        }
        let (mut name, mut size) = (vec![0; length.min(MAX_NAME)], [0; 8]);
        input.read_exact(&mut name).map_err(damaged)?;
        input.read_exact(&mut size).map_err(damaged)?;
        let name = String::from_utf8(name).map_err(|_| damaged("a name in it is not text"))?;
        let place = place(&name)
            .filter(|_| length <= MAX_NAME)
            .ok_or_else(|| damaged("it has a file that it must not have"))?;
        write(input, &dir.join(place), u64::from_be_bytes(size))?;
    }
    // The last piece of the file must be one that says so.
    match input.read(&mut [0; 1]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(damaged("something follows its end")),
        Err(e) => Err(damaged(e)),
    }
}

/// Where a file of a backup goes.
///
/// SECURITY: whoever made the file knew the passphrase, and still names nothing outside the new folder.
pub(super) fn place(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_))) && !name.contains(['\\', '\0']);
    let below = |folder: &str| name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
    match name {
        _ if !plain => None,
        "jit-broker.toml" => Some(PathBuf::from("jit-broker.toml.before")),
        "ledger.db" => Some(PathBuf::from("state/ledger.db")),
        "ca/head.json" => Some(PathBuf::from("state/ca/head.json")),
        _ if below("ca").is_some_and(is_key) => Some(Path::new("state").join(path)),
        _ if below("state").is_some_and(|rest| STATE.contains(&rest)) => Some(path.to_owned()),
        _ if below(&format!("state/{WITNESSED}")).is_some_and(is_note) => Some(path.to_owned()),
        // By its parts: what follows a second slash would be a path from the root.
        _ if [".toml", ".crt", ".pem"].iter().any(|ending| name.ends_with(ending)) => {
            path.strip_prefix("bundle").ok().map(Path::to_owned)
        }
        _ => None,
    }
}

fn write(input: &mut dyn Read, path: &Path, size: u64) -> Result<(), Refusal> {
    if let Some(folder) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|e| io_refusal(folder, &e))?;
    }
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|e| io_refusal(path, &e))?;
    let mut limited = input.take(size);
    let mut buffer = vec![0; 1 << 16];
    let mut copied = 0;
    loop {
        let n = limited.read(&mut buffer).map_err(damaged)?;
        if n == 0 {
            break;
        }
        copied += n as u64;
        let part = buffer.get(..n).unwrap_or_default();
        std::io::Write::write_all(&mut file, part).map_err(|e| io_refusal(path, &e))?;
    }
    if copied != size {
        return Err(damaged("it was cut off"));
    }
    file.sync_all().map_err(|e| io_refusal(path, &e))
}

/// Puts the signer into recovery, and checks that head, log and configuration belong together.
async fn settle(dir: &Path, at: i64) -> Result<Restored, Refusal> {
    let (config, before) = (dir.join("jit-broker.toml"), dir.join("jit-broker.toml.before"));
    let text = fs::read_to_string(&before).map_err(|e| io_refusal(&before, &e))?;
    replace(&config, moved(&text)?.as_bytes(), 0o600)?;
    let settings = Settings::read(&config).map_err(|problems| bad_config(&problems))?;
    inside(&settings, dir)?;
    let head = settings.ca_dir.join(super::HEAD);
    let text = fs::read_to_string(&head).map_err(|e| damaged(format!("the signer's head: {e}")))?;
    let (text, size, root) = recovery::restored(&text)?;
    let reader = Reader::open(&settings.ledger).await.map_err(|e| ledger_refusal(&e))?;
    let entries = reader.size().await.map_err(|e| ledger_refusal(&e))?;
    let frontier = reader.frontier(size).await.map_err(|_| damaged("its log is shorter than its signer's head"))?;
    if hex(&frontier.root()) != root {
        return Err(damaged("its log is another one than its signer signed"));
    }
    replace(&head, text.as_bytes(), 0o600)?;
    Ok(Restored { config, at, entries })
}

/// What a restored configuration says of its places: everything below its own folder, and the signer in the daemon's process, as `init` has it.
const PLACES: [(&str, &str, &str); 4] = [
    ("server", "state_dir", "\"state\""),
    ("store", "url", "\"sqlite:state/ledger.db\""),
    ("ca", "dir", "\"state/ca\""),
    ("ca", "signer", "\"local\""),
];

/// The configuration with these places; everything else, comments too, stays as it was written. What it does not say is so already.
fn moved(text: &str) -> Result<String, Refusal> {
    let parsed = DeTable::parse(text).map_err(|e| damaged(format!("its configuration: {}", e.message())))?;
    let below = |section: &str, key: &str| match find(parsed.get_ref(), section)?.get_ref() {
        DeValue::Table(table) => find(table, key).map(Spanned::span),
        _ => None,
    };
    let mut places: Vec<_> =
        PLACES.iter().filter_map(|(section, key, value)| Some((below(section, key)?, *value))).collect();
    // From the end, so that those before stay where they are.
    places.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut out = text.to_owned();
    places.into_iter().for_each(|(span, value)| out.replace_range(span, value));
    Ok(out)
}

fn find<'a, 'i>(table: &'a DeTable<'i>, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
    table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
}

/// SECURITY: what is written next lies in the new folder, or nothing is: a place of the old machine may be that of a broker that runs.
fn inside(settings: &Settings, dir: &Path) -> Result<(), Refusal> {
    let state = dir.join("state");
    let pairs = [
        (&settings.ledger, state.join("ledger.db")),
        (&settings.ca_dir, state.join("ca")),
        (&settings.state_dir, state),
    ];
    if let Some((other, _)) = pairs.iter().find(|(said, here)| *said != here) {
        return Err(damaged(format!("its configuration leads to {}, outside of the new folder", other.display())));
    }
    match settings.signer {
        SignerAt::Local => Ok(()),
        SignerAt::Socket(_) => Err(damaged("its configuration names another signer")),
    }
}

/// Goes on with the log that is there, where it is older than what the signer signed, or where the signer's head is lost. Gives its size.
///
/// # Errors
/// [`Code::LEDGER_HELD`] while the daemon runs; [`Code::LEDGER_CORRUPT`] where no checkpoint of the log is signed by its key.
pub async fn in_place(settings: &Settings) -> Result<u64, Refusal> {
    // Nobody else writes meanwhile.
    let ledger = Ledger::open(&settings.ledger, OpenMode::Write).await.map_err(|e| ledger_refusal(&e))?;
    let reader = ledger.reader();
    let keys = crate::signer::keys::Keys::look(&settings.ca_dir)?;
    let corrupt = |what: &str| Refusal::new(Code::LEDGER_CORRUPT, format!("The log cannot be gone on with: {what}."));
    let leaf = reader.leaf(0).await.map_err(|e| ledger_refusal(&e))?.ok_or_else(|| corrupt("it is empty"))?;
    let genesis: Genesis = match read_canonical::<Entry>(&leaf.bytes).map(|entry| entry.event) {
        Ok(Event::Begun(genesis)) => *genesis,
        _ => return Err(corrupt("it does not begin with its beginning")),
    };
    if genesis.log_key != keys.log_public() {
        return Err(corrupt("another signer's key signs it"));
    }
    let text = reader.checkpoint_newest().await.map_err(|e| ledger_refusal(&e))?;
    let text = text.ok_or_else(|| corrupt("it has no checkpoint"))?;
    let (newest, epoch) = newest(&text, &genesis, &reader).await.map_err(|what| corrupt(&what))?;
    let digest = Digest::of(&leaf.bytes).to_string();
    recovery::take_store(&settings.ca_dir.join(super::HEAD), &newest, epoch, digest)?;
    ledger.close().await.map_err(|e| ledger_refusal(&e))?;
    Ok(newest.size)
}

async fn newest(text: &str, genesis: &Genesis, reader: &Reader) -> Result<(Checkpoint, u32), String> {
    let public = genesis.log_key.0.ed25519_bytes().ok_or("its key is not Ed25519")?;
    let origin = origin_of(&genesis.install.to_string());
    let (checkpoint, epoch) = SignedNote::open_epoch(text, &origin, &public).map_err(|e| e.to_string())?;
    let frontier = reader.frontier(checkpoint.size).await.map_err(|e| e.to_string())?;
    if frontier.root() == checkpoint.root {
        Ok((checkpoint, epoch))
    } else {
        Err("its newest checkpoint is of another log".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_go_below_the_new_folder_or_nowhere() {
        let note = format!("state/witnessed/{}", "0f".repeat(32));
        let over = format!("{note}.e12");
        let kept = [
            ("ledger.db", "state/ledger.db"),
            ("ca/ssh_user.2", "state/ca/ssh_user.2"),
            ("ca/x509_client.2.crt", "state/ca/x509_client.2.crt"),
            ("bundle/people/team.toml", "people/team.toml"),
            ("bundle/other-ca.pem", "other-ca.pem"),
            ("state/krl", "state/krl"),
            ("state/witness_key", "state/witness_key"),
            (&note, &note),
            (&over, &over),
        ];
        for (name, at) in kept {
            assert_eq!(place(name), Some(PathBuf::from(at)), "{name}");
        }
        for name in [
            "../x",
            "/etc/passwd",
            "ca/../../x",
            "ca/authorized_keys",
            "ca/ssh_user.sh",
            "state/x",
            "state/witnessed/x",
            "state/witnessed/../krl",
            "state/witnessed/",
            "bundle/../x.toml",
            "bundle/x.sh",
            "",
            "ca/",
            "bundle//etc/x.toml",
        ] {
            assert!(place(name).is_none_or(|at| at.is_relative() && !at.starts_with("..")), "{name}");
            assert!(name == "bundle//etc/x.toml" || place(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_configuration_of_services_becomes_one_of_a_folder() {
        let plain = "schema = 1\n[server]\nlisten = \"0.0.0.0:7443\"\nstate_dir = \"/var/lib/jit-broker\"\n[store]\nurl = \"sqlite:/var/lib/x\"\n\
                     [ca]\ndir    = \"/var/lib/s\"\nsigner = \"unix:/run/x\"\n[recording]\ndir = \"/srv/rec\"\n";
        let commented = plain
            .replace("[server]", "[server]  # where [ca] is not")
            .replace("[store]", "[ store ] # dir = 1")
            .replace("[ca]", "[\"ca\"]  # the signer's keys")
            .replace("\"/var/lib/s\"", "'/var/lib/s'  # theirs");
        let inline = "schema = 1\nstore.url = '''\nsqlite:/var/lib/x'''\nca = { signer = \"unix:/run/x\", \"dir\" = \"/var/lib/s\" }\n\
                      recording = { dir = \"/srv/rec\" }\nserver = { listen = \"0.0.0.0:7443\", state_dir = \"/var/lib/jit-broker\" }\n";
        for text in [plain, &commented, inline] {
            let here = moved(text).unwrap();
            let read: toml::Table = toml::from_str(&here).unwrap();
            let said = |section: &str, key: &str| read[section][key].as_str().unwrap().to_owned();
            assert_eq!([said("server", "state_dir"), said("store", "url")], ["state", "sqlite:state/ledger.db"]);
            assert_eq!([said("ca", "dir"), said("ca", "signer")], ["state/ca", "local"], "{here}");
            assert_eq!([said("recording", "dir"), said("server", "listen")], ["/srv/rec", "0.0.0.0:7443"]);
            assert!(!here.contains("/var/lib") && !here.contains("/run/x"), "{here}");
        }
        let here = moved(&commented).unwrap();
        assert!(here.contains("dir    = \"state/ca\"  # theirs\n"), "the rest stays as it was written: {here}");
        assert!(moved("[ca\n").is_err());
    }

    #[test]
    fn a_configuration_that_leads_out_of_the_folder_is_not_used() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJZ3bpcocH6TLXgLPqKSCu8LfkmWnihcSV6ULWInp0gU";
        let read = |more: &str| {
            let text = format!(
                "schema = 1\nserver = {{ listen = \"127.0.0.1:0\", public_url = \"https://127.0.0.1:7443\" }}\n\
                 trust.admins = [{{ name = \"root-admin\", key = \"{key}\" }}]\n{more}"
            );
            Settings::parse(&text, Path::new("/new/jit-broker.toml")).unwrap()
        };
        inside(&read(""), Path::new("/new")).unwrap();
        for more in
            ["ca.dir = \"/old/ca\"", "ca.dir = \"../ca\"", "store.url = \"sqlite:/x\"", "ca.signer = \"unix:/x\""]
        {
            assert_eq!(inside(&read(more), Path::new("/new")).unwrap_err().code, Code::BAD_BACKUP, "{more}");
        }
    }
}
