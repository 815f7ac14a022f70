//! Keys of content and where it was: two generations, of which the older one is forgotten when the younger is full.

use std::collections::HashMap;
use std::mem;

use crate::object::Place;

#[derive(Debug)]
pub(super) struct Keys {
    young: HashMap<u64, (Place, u64)>,
    old: HashMap<u64, (Place, u64)>,
    /// Of one generation.
    keys_max: usize,
}

impl Keys {
    /// Makes room for so many keys, both generations together.
    pub(super) fn new(keys_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), keys_max: keys_max / 2 }
    }

    pub(super) fn insert(&mut self, key: u64, place: Place, offset: u64) {
        if self.keys_max == 0 {
            return;
        }
        self.young.insert(key, (place, offset));
        if self.young.len() >= self.keys_max {
            self.old = mem::take(&mut self.young);
        }
    }

    /// Returns where the content was. A key in use moves to the younger generation.
    pub(super) fn find(&mut self, key: u64) -> Option<(Place, u64)> {
        if let Some(found) = self.young.get(&key) {
            return Some(*found);
        }
        let (place, offset) = *self.old.get(&key)?;
        self.insert(key, place, offset);
        Some((place, offset))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
