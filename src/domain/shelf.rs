//! What stands beside the log, in memory: texts and parsed bundles by their digest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::bundle::{Bundle, BundleText};
use super::digest::{Digest, read_canonical};
use super::key::Key;
use super::names::PersonName;
use super::state::Beside;
use super::text::Words;

/// The blobs that deciding needs.
#[derive(Debug, Default)]
pub struct Shelf {
    words: HashMap<Digest, Words>,
    bundles: HashMap<Digest, (Arc<Bundle>, Box<[u8]>)>,
}

impl Shelf {
    /// Takes the bytes of a blob and names them; what is neither a text nor a valid bundle is not kept.
    pub fn put(&mut self, bytes: &[u8], admins: &BTreeMap<PersonName, Key>) -> Digest {
        let digest = Digest::of(bytes);
        let names: Vec<PersonName> = admins.keys().cloned().collect();
        if let Ok(words) = read_canonical::<Words>(bytes) {
            self.words.insert(digest, words);
        } else if let Ok(text) = BundleText::from_bytes(bytes)
            && let Ok(bundle) = Bundle::parse(&text, &names)
        {
            self.bundles.insert(digest, (Arc::new(bundle), bytes.into()));
        }
        digest
    }

    /// The bytes of everything on it, in the order of their digests.
    pub fn blobs(&self) -> impl Iterator<Item = Vec<u8>> {
        let words: BTreeMap<&Digest, Vec<u8>> =
            self.words.iter().map(|(digest, words)| (digest, words.bytes())).collect();
        let bundles: BTreeMap<&Digest, Vec<u8>> =
            self.bundles.iter().map(|(d, (_, bytes))| (d, bytes.to_vec())).collect();
        words.into_values().chain(bundles.into_values())
    }

    /// Lets go of everything else.
    pub fn retain(&mut self, needed: &BTreeSet<Digest>) {
        self.words.retain(|digest, _| needed.contains(digest));
        self.bundles.retain(|digest, _| needed.contains(digest));
    }

    /// True for a blob that is kept.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.words.contains_key(digest) || self.bundles.contains_key(digest)
    }

    /// Lets go of a blob that nothing refers to any more.
    pub fn discard(&mut self, digest: &Digest) {
        self.words.remove(digest);
        self.bundles.remove(digest);
    }
}

impl Beside for Shelf {
    fn words(&self, commitment: &Digest) -> Option<Words> {
        self.words.get(commitment).cloned()
    }

    fn bundle(&self, digest: &Digest) -> Option<Arc<Bundle>> {
        self.bundles.get(digest).map(|(bundle, _)| bundle.clone())
    }
}
