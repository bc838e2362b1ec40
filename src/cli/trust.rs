//! Whom this client believes: what was pinned at the first sign-in, and what the log's key has signed since, while authorities are replaced.

use std::fs;

use super::context::Context;
use super::failure::Failure;
use super::home::{Home, write_private};
use crate::domain::authority::{Purpose, TrustWord};
use crate::domain::key::Key;
use crate::domain::refusal::Code;
use crate::wire::About;

fn untrusted(what: impl std::fmt::Display) -> Failure {
    Failure::new(Code::UNTRUSTED_SERVER, format!("The broker names authorities that cannot be believed: {what}."))
}

/// What the log's key says of the authorities; nothing where a broker of an earlier version does not say.
///
/// # Errors
/// [`Code::UNTRUSTED_SERVER`] when another key signed it, or it is not what the broker says of itself.
pub fn said(about: &About, log_key: &Key) -> Result<Option<TrustWord>, Failure> {
    let Some(trust) = &about.trust else { return Ok(None) };
    let word = trust.open(std::slice::from_ref(log_key), Some(about.install)).map_err(untrusted)?;
    let same = word.ssh_user.first() == Some(&about.ssh_user)
        && word.ssh_host.first() == Some(&about.ssh_host)
        && word.ssh_gateway.first() == about.ssh_gateway.as_ref();
    if same { Ok(Some(word)) } else { Err(untrusted("two of its answers differ")) }
}

/// Whether a person has said that they know of new administrators whom nobody signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// They have.
    Yes,
    /// Not here.
    No,
}

impl Context {
    fn word(&self) -> Option<TrustWord> {
        self.about.trust.as_ref()?.known()
    }

    /// The version of the authorities that this client knows.
    pub fn trust_version(&self) -> u64 {
        self.word().map_or(0, |word| word.version)
    }

    /// The trusted keys of an SSH authority; the one that signs stands first.
    pub fn trusted(&self, purpose: Purpose) -> Vec<Key> {
        let about = &self.about;
        match (purpose, self.word()) {
            (Purpose::SshUser, Some(word)) => word.ssh_user,
            (Purpose::SshUser, None) => vec![about.ssh_user.clone()],
            (Purpose::SshHost, Some(word)) => word.ssh_host,
            (Purpose::SshHost, None) => vec![about.ssh_host.clone()],
            (Purpose::SshGateway, Some(word)) => word.ssh_gateway,
            (Purpose::SshGateway, None) => about.ssh_gateway.iter().cloned().collect(),
            (Purpose::X509Client | Purpose::X509Server, _) => Vec::new(),
        }
    }

    /// The certificates of the authorities of the broker's own address, PEM.
    pub fn server_pem(&self) -> String {
        match self.word() {
            Some(word) if !word.x509_server.is_empty() => word.x509_server.concat(),
            _ => self.about.server_ca_pem.clone(),
        }
    }

    /// The certificates of the client authorities, PEM.
    pub fn client_pem(&self) -> Option<String> {
        match self.word() {
            Some(word) if !word.x509_client.is_empty() => Some(word.x509_client.concat()),
            _ => self.about.x509_client.clone(),
        }
    }

    /// Refuses a broker whose administrators root replaced since this client last knew them.
    ///
    /// # Errors
    /// [`Code::TRUST_RESET`].
    pub fn unreset(&self, about: &About) -> Result<(), Failure> {
        let resets = |about: &About| about.trust.as_ref().and_then(|trust| trust.known()?.resets).unwrap_or(0);
        if resets(about) <= resets(&self.about) {
            return Ok(());
        }
        let message =
            "The administrators of this broker were replaced by whoever is root on it; nobody signed for that.";
        Err(Failure::new(Code::TRUST_RESET, message))
    }

    /// Remembers what the broker says of its authorities now, if the pinned log key signed it and it is newer.
    ///
    /// # Errors
    /// [`Code::UNTRUSTED_SERVER`], or [`Code::TRUST_RESET`] once; nothing changes then.
    pub fn learn(&mut self, home: &Home, about: About, acknowledged: Acknowledged) -> Result<(), Failure> {
        if about.install != self.about.install || about.log_key != self.about.log_key {
            return Err(untrusted("it is another installation"));
        }
        let Some(word) = said(&about, &self.about.log_key)? else { return Ok(()) };
        // Somebody who is not signed in only for this moment stays remembered.
        let before = Self::load(home).unwrap_or_else(|_| self.clone());
        if word.version <= self.trust_version().max(before.trust_version()) {
            return Ok(());
        }
        if acknowledged == Acknowledged::No {
            self.unreset(&about)?;
        }
        self.about = About { public_url: self.about.public_url.clone(), ..about };
        Self { about: self.about.clone(), ..before.clone() }.replace(home, Some(&before))
    }

    /// Refuses an older word than was known before: it would bring back authorities that were retired (T72).
    ///
    /// # Errors
    /// [`Code::ROLLED_BACK`].
    pub fn no_older(&self, before: &Self) -> Result<(), Failure> {
        let (now, known) = (self.trust_version(), before.trust_version());
        if now >= known {
            return Ok(());
        }
        let message =
            format!("The broker tells version {now} of its authorities; version {known} was known here before.");
        Err(Failure::new(Code::ROLLED_BACK, message))
    }

    /// Remembers this in place of what was known before, once plain ssh believes the same authorities.
    ///
    /// # Errors
    /// When a file cannot be written; it is all done again at the next contact then.
    pub fn replace(&self, home: &Home, before: Option<&Self>) -> Result<(), Failure> {
        if let Some(word) = self.word() {
            forget_worthless(home, &word);
        }
        if let Some(before) = before {
            renew_known_hosts(home, &before.trusted(Purpose::SshHost), &self.trusted(Purpose::SshHost))?;
        }
        self.save(home)
    }
}

/// Removes the certificates of authorities that were retired: nobody takes them, and ssh would offer them until they end.
fn forget_worthless(home: &Home, word: &TrustWord) {
    let targets = fs::read_dir(home.run.join("ssh")).into_iter().flatten().flatten();
    for file in targets.flat_map(|target| fs::read_dir(target.path()).into_iter().flatten().flatten()) {
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        let Ok(facts) = jit_ca::ssh::read(text.trim_end()) else { continue };
        let trusted = word.ssh_user.iter().chain(&word.ssh_gateway).any(|key| key.0 == facts.ca);
        if file.file_name().to_string_lossy().ends_with("-cert.pub") && !trusted {
            let _ = fs::remove_file(file.path());
        }
    }
}

/// Writes the authorities over host certificates into the file that plain ssh reads: each pattern of one gets all.
fn renew_known_hosts(home: &Home, before: &[Key], now: &[Key]) -> Result<(), Failure> {
    let path = home.config.join("known_hosts");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    let ours: Vec<String> = before.iter().chain(now).map(ToString::to_string).collect();
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let rest = line.strip_prefix("@cert-authority ").and_then(|rest| rest.split_once(' '));
        let next = match rest {
            Some((pattern, key)) if ours.iter().any(|known| known == key) => {
                now.iter().map(|key| format!("@cert-authority {pattern} {key}")).collect()
            }
            _ => vec![line.to_owned()],
        };
        next.into_iter().for_each(|line| {
            if !lines.contains(&line) {
                lines.push(line);
            }
        });
    }
    write_private(&path, format!("{}\n", lines.join("\n")).as_bytes())
}
