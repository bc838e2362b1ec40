//! Values that many objects have in common, each kept once: a hundred thousand grants have a few thousand terms.

use std::collections::BTreeSet;
use std::sync::Arc;

/// How many values are kept before it is looked for the first time which nobody has any more.
const FIRST_LOOK: usize = 256;

/// The values that are shared.
#[derive(Debug, Clone)]
pub struct Pool<T> {
    kept: BTreeSet<Arc<T>>,
    /// How many there may be before the next look.
    look_at: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { kept: BTreeSet::new(), look_at: FIRST_LOOK }
    }
}

impl<T: Ord + Clone> Pool<T> {
    /// The one copy of a value.
    pub fn share(&mut self, value: &T) -> Arc<T> {
        if let Some(kept) = self.kept.get(value) {
            return kept.clone();
        }
        if self.kept.len() >= self.look_at {
            self.kept.retain(|kept| Arc::strong_count(kept) > 1);
            self.look_at = FIRST_LOOK.max(2 * self.kept.len());
        }
        let kept = Arc::new(value.clone());
        self.kept.insert(kept.clone());
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_those_that_nobody_has_go() {
        let mut pool = Pool::default();
        let one = pool.share(&"one".to_owned());
        assert!(Arc::ptr_eq(&one, &pool.share(&"one".to_owned())));
        for n in 0..10 * FIRST_LOOK {
            pool.share(&n.to_string());
        }
        assert!(pool.kept.len() <= FIRST_LOOK + 1, "{} are kept", pool.kept.len());
        assert!(Arc::ptr_eq(&one, &pool.share(&"one".to_owned())), "what somebody has stays");
    }
}
