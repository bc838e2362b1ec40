//! Values that many objects have in common, each kept once: a hundred thousand grants have a few thousand terms.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::key::Key;

/// How many values are kept before it is looked for the first time which nobody has any more.
const FIRST_LOOK: usize = 256;

/// What is cheap to clone because clones are one value.
pub trait Shared: Ord + Clone {
    /// True while others than the pool have it.
    fn is_held(&self) -> bool;
}

impl<T: Ord> Shared for Arc<T> {
    fn is_held(&self) -> bool {
        Self::strong_count(self) > 1
    }
}

impl Shared for Key {
    fn is_held(&self) -> bool {
        self.0.is_shared()
    }
}

/// The values that are shared.
#[derive(Debug, Clone)]
pub struct Pool<T> {
    kept: BTreeSet<T>,
    /// How many there may be before the next look.
    look_at: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { kept: BTreeSet::new(), look_at: FIRST_LOOK }
    }
}

impl<T: Shared> Pool<T> {
    /// The one that is kept of all that are equal to this.
    pub fn share(&mut self, value: T) -> T {
        if let Some(kept) = self.kept.get(&value) {
            return kept.clone();
        }
        if self.kept.len() >= self.look_at {
            self.kept.retain(T::is_held);
            self.look_at = FIRST_LOOK.max(2 * self.kept.len());
        }
        self.kept.insert(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use jit_ca::key::PrivateKey;

    use super::*;

    #[test]
    fn equal_values_are_one_and_those_that_nobody_has_go() {
        let mut pool = Pool::default();
        let one = pool.share(Arc::new("one".to_owned()));
        assert!(Arc::ptr_eq(&one, &pool.share(Arc::new("one".to_owned()))));
        for n in 0..10 * FIRST_LOOK {
            pool.share(Arc::new(n.to_string()));
        }
        assert!(pool.kept.len() <= FIRST_LOOK + 1, "{} are kept", pool.kept.len());
        assert!(Arc::ptr_eq(&one, &pool.share(Arc::new("one".to_owned()))), "what somebody has stays");
    }

    #[test]
    fn a_key_is_held_by_whoever_has_a_clone_of_it() {
        let (mut pool, key) = (Pool::default(), |n: u32| {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&n.to_be_bytes());
            Key(PrivateKey::from_seed(seed).public().clone())
        });
        let held: Vec<Key> = (0..10).map(|n| pool.share(key(n))).collect();
        for n in 10..600 {
            pool.share(key(n));
        }
        assert!(pool.kept.len() < 400, "{} are kept", pool.kept.len());
        assert!(held.iter().all(|key| pool.kept.contains(key)), "what somebody has stays");
    }
}
