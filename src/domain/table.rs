//! A table of objects by id whose clones share the objects: a still picture of 100,000 grants costs pointers, not grants.

use std::collections::BTreeMap;
use std::collections::btree_map::Keys;
use std::sync::Arc;

/// Objects by id, in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<K, V> {
    rows: BTreeMap<K, Arc<V>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// The object of an id.
    pub fn get(&self, id: &K) -> Option<&V> {
        self.rows.get(id).map(Arc::as_ref)
    }

    /// The object of an id, to be changed; clones of the table keep it as it was.
    pub fn get_mut(&mut self, id: &K) -> Option<&mut V> {
        self.rows.get_mut(id).map(Arc::make_mut)
    }

    /// Puts an object in; the one that was there goes.
    pub fn insert(&mut self, id: K, object: V) {
        self.rows.insert(id, Arc::new(object));
    }

    /// Takes an object out.
    pub fn remove(&mut self, id: &K) -> Option<Arc<V>> {
        self.rows.remove(id)
    }

    /// True when there is an object of this id.
    pub fn contains_key(&self, id: &K) -> bool {
        self.rows.contains_key(id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The objects in the order of their ids.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.values().map(Arc::as_ref)
    }

    /// The ids in order.
    pub fn keys(&self) -> Keys<'_, K, Arc<V>> {
        self.rows.keys()
    }
}
