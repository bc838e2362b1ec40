//! Finding in a whole log, offline, what a receipt would have: the entries about one certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::verify::begins_like_sqlite;
use crate::broker::clerk::{beside, ledger_refusal};
use crate::broker::receipt::{allows, heard, names_trusted, reweighs, stands};
use crate::domain::digest::{Digest, read_canonical};
use crate::domain::event::{Entry, Event};
use crate::domain::ids::{GrantId, RequestId};
use crate::domain::names::TargetName;
use crate::domain::refusal::Refusal;
use crate::ledger::Reader;
use crate::ledger::export::{Part, each};

/// What is looked for.
#[derive(Debug, Clone)]
pub enum Sought {
    /// What allows these bytes to be signed, by their SHA-256.
    Bytes(Digest),
    /// The enrolment of a host under this serial.
    Host(TargetName, u64),
}

/// Entries with the texts that they name.
#[derive(Debug, Default)]
pub struct Dug {
    /// In order, the first one of the log among them.
    pub entries: Vec<Entry>,
    /// Blobs.
    pub texts: Vec<Vec<u8>>,
}

/// True for what makes somebody's word, or what a key signed, count no more, or again.
fn changes(event: &Event) -> bool {
    matches!(event, Event::KeyRevoked { .. } | Event::PersonDisabled { .. } | Event::PersonEnabled { .. })
}

async fn walk(path: &Path, see: &mut (dyn FnMut(Part) + Send)) -> Result<(), Refusal> {
    let walked = if begins_like_sqlite(path) {
        Reader::open(path).await.map_err(|e| ledger_refusal(&e))?.each(see).await
    } else {
        each(path, see).await
    };
    walked.map_err(|e| ledger_refusal(&e))
}

/// Digs; whether the log itself is sound is for `audit verify`. Without anything that fits, those alone that say whom the installation trusts.
///
/// # Errors
/// When the file cannot be read.
pub async fn dig(path: &Path, sought: &Sought) -> Result<Dug, Refusal> {
    let (mut grant, mut request, mut asked, mut holder) = (None::<GrantId>, None::<RequestId>, None, None);
    let mut found = BTreeSet::new();
    walk(path, &mut |part| {
        let Part::Leaf { seq, bytes } = part else { return };
        let Ok(entry) = read_canonical::<Entry>(&bytes) else { return };
        let fits = match (sought, &entry.event) {
            (Sought::Bytes(digest), event) => allows(event) == Some(*digest),
            (Sought::Host(target, serial), Event::HostEnrolled { target: t, serial: s, .. }) => {
                (target, serial) == (t, s)
            }
            (Sought::Host(..), _) => false,
        };
        if fits {
            found.insert(seq);
            grant = grant.or(entry.event.concerns().grant);
        }
    })
    .await?;
    let mut extensions = BTreeMap::new();
    let whose = |entry: &Entry| grant.is_some() && entry.event.concerns().grant == grant;
    if grant.is_some() {
        walk(path, &mut |part| {
            let Part::Leaf { seq, bytes } = part else { return };
            let Ok(entry) = read_canonical::<Entry>(&bytes) else { return };
            if let Event::RequestSubmitted { request, extends: Some(extension), .. } = &entry.event {
                extensions.insert(*request, extension.grant);
            }
            if let (true, Event::GrantOpened { request: id, person, .. }) = (whose(&entry), &entry.event) {
                holder = Some(person.clone());
                request = Some(*id);
                asked = Some(seq);
            }
        })
        .await?;
    }
    let before = request.and_then(|id| extensions.get(&id).copied());
    let mut dug = Dug::default();
    let mut wanted = BTreeSet::new();
    walk(path, &mut |part| match part {
        Part::Leaf { seq, bytes } => {
            let Ok(entry) = read_canonical::<Entry>(&bytes) else { return };
            let about = entry.event.concerns();
            let ours = whose(&entry) && about.session.is_none() || request.is_some() && about.request == request;
            let judged_by = match &entry.event {
                Event::BundleAdopted { .. } | Event::KeyEnrolled { .. } => true,
                event if before.is_some_and(|grant| stands(event, grant)) => true,
                Event::SignedIn { person, .. } => Some(person) == holder.as_ref(),
                // Whose, is known when all have been heard.
                event => changes(event),
            };
            let judged_by = judged_by && asked.is_some_and(|last| seq < last);
            if names_trusted(&entry.event) || ours || judged_by || found.contains(&seq) {
                let (bundles, words) = beside(&entry);
                wanted.extend(bundles.into_iter().chain(words));
                if let Event::BundleAdopted { bundle, .. } = &entry.event {
                    wanted.insert(*bundle);
                }
                dug.entries.push(entry);
            }
        }
        Part::Blob(bytes) => {
            if wanted.contains(&Digest::of(&bytes)) {
                dug.texts.push(bytes);
            }
        }
    })
    .await?;
    let first = dug
        .entries
        .iter()
        .find(|entry| matches!(&entry.event, Event::RequestSubmitted { request: id, .. } if Some(*id) == request));
    let first = first.map_or(0, |entry| entry.seq);
    let heard = heard(dug.entries.iter());
    dug.entries.retain(|entry| !changes(&entry.event) || entry.seq > first && reweighs(&entry.event, &heard));
    Ok(dug)
}
