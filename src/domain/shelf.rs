//! What stands beside the log, in memory: texts and parsed bundles by their digest.

use std::collections::{BTreeMap, HashMap};
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
    bundles: HashMap<Digest, Arc<Bundle>>,
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
            self.bundles.insert(digest, Arc::new(bundle));
        }
        digest
    }

    /// Lets go of a text or bundle that nothing refers to any more.
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
        self.bundles.get(digest).cloned()
    }
}
