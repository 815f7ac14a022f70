//! The keys whose tags are refused.
//!
//! In memory, because every question of a peer is checked; the owner writes the list into the index. A store without
//! a disk has it too.

use std::sync::{PoisonError, RwLock};

use crate::block::KeyId;

/// Keys in the order in which they expired, the newest [`KEYS_MAX`].
#[derive(Default)]
pub(super) struct Expired {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    keys: Vec<KeyId>,
    /// The index's list is in `keys`: what is not there was admitted again.
    has_loaded: bool,
}

impl Expired {
    /// Returns whether tags of the key are refused.
    pub(super) fn contains(&self, key: KeyId) -> bool {
        self.state.read().unwrap_or_else(PoisonError::into_inner).keys.contains(&key)
    }

    /// Refuses tags of the key, or admits them again; returns whether that is new.
    pub(super) fn set(&self, key: KeyId, expired: bool) -> bool {
        let keys = &mut self.state.write().unwrap_or_else(PoisonError::into_inner).keys;
        if keys.contains(&key) == expired {
            return false;
        }
        keys.retain(|other| *other != key);
        if expired {
            if keys.len() == KEYS_MAX {
                keys.remove(0);
            }
            keys.push(key);
        }
        true
    }

    /// Returns the keys, the first to expire first.
    pub(super) fn keys(&self) -> Vec<KeyId> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).keys.clone()
    }

    /// Takes the index's list along, when it is the first that is seen; returns the list that the index should have.
    pub(super) fn load(&self, persisted: &[KeyId]) -> Vec<KeyId> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if !state.has_loaded {
            state.has_loaded = true;
            let said = std::mem::take(&mut state.keys);
            let old = persisted.iter().filter(|key| !said.contains(key)).copied();
            state.keys = old.chain(said.iter().copied()).collect();
            let surplus = state.keys.len().saturating_sub(KEYS_MAX);
            state.keys.drain(..surplus);
        }
        state.keys.clone()
    }
}

/// A rotation a week fills the list in more than a year, when hardly a block of the first can be left.
const KEYS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_expires_until_it_is_admitted_again_and_the_list_is_bounded() {
        let expired = Expired::default();
        assert!(expired.set(key(1), true) && !expired.set(key(1), true));
        assert!(expired.contains(key(1)) && !expired.contains(key(2)));
        assert!(expired.set(key(1), false) && !expired.set(key(1), false));
        assert!(!expired.contains(key(1)));
        for n in 0..100 {
            expired.set(key(n), true);
        }
        assert_eq!(expired.keys(), (36..100).map(key).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_list_is_taken_along_and_a_later_one_is_replaced() {
        let expired = Expired::default();
        expired.set(key(3), true);
        assert_eq!(expired.load(&[key(1), key(3), key(2)]), [1, 2, 3].map(key));
        expired.set(key(1), false);
        assert_eq!(expired.load(&[key(1)]), [2, 3].map(key));
    }

    fn key(n: u8) -> KeyId {
        KeyId([n; 8])
    }
}
