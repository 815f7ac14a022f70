//! What stands behind a reference that an edge sends: at the core, which blocks crossed to or from that edge; at the
//! edge, which blocks it may refer to and by which name.
//!
//! A reference from an edge is good at once for one of two reasons. Either it carries the block's secret under a server
//! secret of the core's, which the edge can only have from the core; or the very block crossed between the two before,
//! either way: then the edge had its bytes, or the core's word for them, and the digest alone says it all
//! ([`Crossed`]). Who knows a digest and no more has neither, and is asked for the bytes.
//!
//! That costs an honest edge a round trip, so it uses a bare digest only for what crossed the *same link*, and
//! [`Known`] remembers far less than [`Crossed`] does. Across links, to a core that may have been started again, only a
//! secret counts. Both forget the least used half when they are full.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use crate::block::{Digest, KeyId, Named, Secret};

/// The blocks that crossed between a core and one edge, either way. Shared by the flows of that edge; every call is
/// short and none waits.
///
/// Entries are 64 bits of a hash under a random key, so that nobody can make a block that passes for another.
#[derive(Debug)]
pub struct Crossed {
    hash: RandomState,
    generations: Mutex<[HashSet<u64>; 2]>,
    capacity: usize,
}

impl Crossed {
    /// Makes a set of at most `capacity` blocks, some 20 bytes of memory each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { hash: RandomState::new(), generations: Mutex::default(), capacity }
    }

    /// Notes a block that crosses.
    pub fn insert(&self, digest: &Digest) {
        let entry = self.hash.hash_one(digest);
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *generations;
        young.insert(entry);
        if young.len() >= self.capacity.div_ceil(2) {
            *old = mem::take(young);
        }
    }

    /// Returns whether a block crossed that is named again, and so is in use.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        let entry = self.hash.hash_one(digest);
        let is_old = {
            let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
            let [young, old] = &*generations;
            if young.contains(&entry) {
                return true;
            }
            old.contains(&entry)
        };
        if is_old {
            self.insert(digest);
        }
        is_old
    }
}

/// What an edge may refer to at one core. Shared by its flows to that core; every call is short and none waits.
#[derive(Debug)]
pub struct Known {
    hash: RandomState,
    state: Mutex<State>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    /// The core's current server secret; names under others are not used, since it may end at any time.
    key: Option<KeyId>,
    young: HashMap<u64, Entry>,
    old: HashMap<u64, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The latest link that the block crossed.
    link: u64,
    key: KeyId,
    secret: Secret,
}

impl Known {
    /// Makes an empty one for at most `capacity` blocks, some 100 bytes of memory each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { hash: RandomState::new(), state: Mutex::default(), capacity }
    }

    /// Takes the core's current server secret.
    pub fn handle_key(&self, key: KeyId) {
        self.with(|state| state.key = Some(key));
    }

    /// Notes that the core has a block that crossed this link, and its name there if the core told it.
    pub fn learn(&self, link: u64, digest: &Digest, named: Option<Named>) {
        let at = self.hash.hash_one(digest);
        self.with(|state| {
            let before = state.young.get(&at).or_else(|| state.old.get(&at));
            let Named { key, secret } = named.unwrap_or_else(|| before.map_or(UNNAMED, Entry::named));
            state.insert(at, Entry { link, key, secret }, self.capacity);
        });
    }

    /// Returns the name by which a block may be referred to on a link, if there is one: its secret, or none at all for
    /// what crossed this very link.
    #[must_use]
    pub fn refer(&self, link: u64, digest: &Digest) -> Option<Named> {
        let at = self.hash.hash_one(digest);
        self.with(|state| {
            let entry = *state.young.get(&at).or_else(|| state.old.get(&at))?;
            let named = entry.named();
            let has_secret = named.key != KeyId::PLAIN && state.key == Some(named.key);
            if !has_secret && entry.link != link {
                return None;
            }
            // It is in use.
            state.insert(at, entry, self.capacity);
            Some(if has_secret { named } else { UNNAMED })
        })
    }

    /// Notes that the core turned out not to have a block.
    pub fn forget(&self, digest: &Digest) {
        let at = self.hash.hash_one(digest);
        self.with(|state| {
            state.young.remove(&at);
            state.old.remove(&at);
        });
    }

    fn with<T>(&self, call: impl FnOnce(&mut State) -> T) -> T {
        call(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What an edge may refer to on one link.
#[derive(Debug, Clone)]
pub struct KnownOnLink {
    known: Arc<Known>,
    link: u64,
}

impl KnownOnLink {
    /// Narrows what is known at a core to one link.
    #[must_use]
    pub fn new(known: Arc<Known>, link: u64) -> Self {
        Self { known, link }
    }

    /// See [`Known::learn`].
    pub fn learn(&self, digest: &Digest, named: Option<Named>) {
        self.known.learn(self.link, digest, named);
    }

    /// See [`Known::refer`].
    #[must_use]
    pub fn refer(&self, digest: &Digest) -> Option<Named> {
        self.known.refer(self.link, digest)
    }

    /// See [`Known::forget`].
    pub fn forget(&self, digest: &Digest) {
        self.known.forget(digest);
    }
}

impl State {
    fn insert(&mut self, at: u64, entry: Entry, capacity: usize) {
        self.young.insert(at, entry);
        self.old.remove(&at);
        if self.young.len() >= capacity.div_ceil(2) {
            self.old = mem::take(&mut self.young);
        }
    }
}

impl Entry {
    fn named(&self) -> Named {
        Named { key: self.key, secret: self.secret }
    }
}

/// The name of a block of which the digest says all.
pub const UNNAMED: Named = Named { key: KeyId::PLAIN, secret: Secret([0; 32]) };

/// Blocks that an edge remembers for each core: 8 GiB of content at 64 KiB, some 12 MiB of memory when full.
pub const KNOWN_BLOCKS: usize = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: KeyId = KeyId([1; 8]);

    #[test]
    fn what_crossed_is_known_and_a_digest_from_elsewhere_is_not() {
        let crossed = Crossed::new(8);
        crossed.insert(&digest(1));
        assert!(crossed.contains(&digest(1)) && !crossed.contains(&digest(2)));
    }

    #[test]
    fn what_crossed_and_is_used_outlives_the_rest_within_the_capacity() {
        let crossed = Crossed::new(8);
        for n in 0..40 {
            crossed.insert(&digest(n));
            assert!(n == 0 || crossed.contains(&digest(0)));
        }
        assert!(crossed.contains(&digest(39)) && !crossed.contains(&digest(1)));
        let held: usize = crossed.generations.lock().unwrap().iter().map(HashSet::len).sum();
        assert!(held <= 8, "{held}");
    }

    #[test]
    fn a_bare_digest_is_good_on_the_link_it_crossed_and_nowhere_else() {
        let known = Known::new(8);
        known.handle_key(KEY);
        assert_eq!(known.refer(1, &digest(1)), None);
        known.learn(1, &digest(1), None);
        assert_eq!(known.refer(1, &digest(1)), Some(UNNAMED));
        assert_eq!(known.refer(2, &digest(1)), None);
        known.forget(&digest(1));
        assert_eq!(known.refer(1, &digest(1)), None);
    }

    #[test]
    fn a_secret_is_good_on_every_link_while_it_is_the_cores_current_one() {
        let known = Known::new(8);
        let named = Named { key: KEY, secret: Secret([7; 32]) };
        known.learn(1, &digest(1), Some(named));
        assert_eq!(known.refer(2, &digest(1)), None, "the core has not said which secret it uses");
        known.handle_key(KEY);
        assert_eq!(known.refer(2, &digest(1)), Some(named));
        known.learn(2, &digest(1), None);
        assert_eq!(known.refer(3, &digest(1)), Some(named), "what is learned again keeps its name");
        known.handle_key(KeyId([2; 8]));
        assert_eq!(known.refer(3, &digest(1)), None);
        assert_eq!(known.refer(2, &digest(1)), Some(UNNAMED));
    }

    #[test]
    fn in_plain_mode_the_name_that_a_core_told_is_no_more_than_a_digest() {
        let known = Known::new(8);
        known.handle_key(KeyId::PLAIN);
        known.learn(1, &digest(1), Some(UNNAMED));
        assert_eq!((known.refer(1, &digest(1)), known.refer(2, &digest(1))), (Some(UNNAMED), None));
    }

    #[test]
    fn an_edge_remembers_at_most_its_capacity() {
        let known = Known::new(8);
        for n in 0..40 {
            known.learn(1, &digest(n), None);
            assert!(known.refer(1, &digest(0)).is_some());
        }
        let held = known.with(|state| state.young.len() + state.old.len());
        assert!(held <= 8, "{held}");
    }

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }
}
