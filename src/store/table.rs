//! The compact table in memory: reference to place on disk.
//!
//! An entry is a hint of 16 bytes, 64 bits of a keyed hash of the whole reference and a place; with the hash table's
//! own slack 20 to 39 bytes a block. What lies at the place names itself inside its seal and is compared before a
//! byte is given (see [`super::segment`]), so a wrong hint costs a read and nothing else. The hash key is random, so
//! nobody can choose blocks that collide.
//!
//! The owner adds; readers look up, and drop what they found to be bad. Each entry carries the bit that eviction goes
//! by: was it used since it was written?

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use prometheus::IntGauge;

use super::disk::SegmentId;
use crate::block::Reference;

/// Largest segment whose offsets an entry can hold.
pub(super) const SEGMENT_BYTES_MAX: u64 = 1 << 31;

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: SegmentId,
    pub(super) offset: u32,
}

/// Hints where blocks lie.
pub(super) struct Table {
    hash: RandomState,
    shards: [RwLock<Shard>; SHARDS],
    blocks: IntGauge,
}

type Shard = HashMap<u64, Slot, BuildHasherDefault<Hashed>>;

struct Slot {
    segment: SegmentId,
    /// The offset, and in the top bit whether the block was used.
    offset: AtomicU32,
}

impl Table {
    /// Makes an empty table that keeps its number of entries in the gauge.
    pub(super) fn new(blocks: IntGauge) -> Self {
        blocks.set(0);
        Self {
            hash: RandomState::new(),
            shards: [const { RwLock::new(Shard::with_hasher(BuildHasherDefault::new())) }; SHARDS],
            blocks,
        }
    }

    /// Returns where the block may lie, and remembers that it was used.
    pub(super) fn find(&self, reference: &Reference) -> Option<Place> {
        let hash = self.hash.hash_one(reference);
        let shard = read(self.shard(hash));
        let slot = shard.get(&hash)?;
        let offset = slot.offset.load(Ordering::Relaxed);
        if offset & USED == 0 {
            slot.offset.fetch_or(USED, Ordering::Relaxed);
        }
        Some(Place { segment: slot.segment, offset: offset & !USED })
    }

    /// Returns whether the block may be on disk.
    pub(super) fn contains(&self, reference: &Reference) -> bool {
        let hash = self.hash.hash_one(reference);
        read(self.shard(hash)).contains_key(&hash)
    }

    /// Returns whether the block is at this place and was used since it was put there.
    pub(super) fn was_used(&self, reference: &Reference, place: Place) -> bool {
        let hash = self.hash.hash_one(reference);
        let shard = read(self.shard(hash));
        shard
            .get(&hash)
            .is_some_and(|slot| slot.is_at(place) && slot.offset.load(Ordering::Relaxed) & USED != 0)
    }

    /// Notes where a block lies, in place of what was noted before.
    pub(super) fn insert(&self, reference: &Reference, place: Place) {
        debug_assert_eq!(place.offset & USED, 0);
        let hash = self.hash.hash_one(reference);
        let slot = Slot { segment: place.segment, offset: AtomicU32::new(place.offset) };
        if write(self.shard(hash)).insert(hash, slot).is_none() {
            self.blocks.inc();
        }
    }

    /// Forgets the block if it is noted at this place; returns whether it was.
    pub(super) fn remove(&self, reference: &Reference, place: Place) -> bool {
        let hash = self.hash.hash_one(reference);
        let mut shard = write(self.shard(hash));
        let removed = shard.get(&hash).is_some_and(|slot| slot.is_at(place));
        if removed {
            shard.remove(&hash);
            self.blocks.dec();
        }
        removed
    }

    /// Forgets every block of a segment. Walks the whole table.
    pub(super) fn remove_segment(&self, id: SegmentId) {
        for shard in &self.shards {
            let mut shard = write(shard);
            let before = shard.len();
            shard.retain(|_, slot| slot.segment != id);
            self.blocks.sub(i64::try_from(before - shard.len()).unwrap_or(i64::MAX));
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = write(shard);
            self.blocks.sub(i64::try_from(shard.len()).unwrap_or(i64::MAX));
            *shard = Shard::default();
        }
    }

    /// Returns the number of entries.
    pub(super) fn len(&self) -> u64 {
        self.shards.iter().map(|shard| read(shard).len() as u64).sum()
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        // The low bits choose the bucket within the shard, so others choose the shard.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }
}

impl Slot {
    fn is_at(&self, place: Place) -> bool {
        self.segment == place.segment && self.offset.load(Ordering::Relaxed) & !USED == place.offset
    }
}

/// Passes a hash through that is one already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

// An entry is whole at every moment, so a panic of another holder leaves nothing to fear.
fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

const USED: u32 = 1 << 31;
const SHARDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ServerSecret;

    #[test]
    fn an_entry_is_found_moved_and_forgotten_at_its_place_only() {
        let table = table();
        let (one, two) = (reference(1), reference(2));
        table.insert(&one, place(1, 64));
        assert_eq!(table.find(&one), Some(place(1, 64)));
        assert_eq!(table.find(&two), None);
        table.insert(&one, place(2, 99));
        assert!(!table.remove(&one, place(1, 64)));
        assert_eq!(table.find(&one), Some(place(2, 99)));
        assert!(table.remove(&one, place(2, 99)));
        assert_eq!((table.len(), table.blocks.get()), (0, 0));
    }

    #[test]
    fn an_entry_is_used_from_its_first_lookup_until_it_moves() {
        let table = table();
        let one = reference(1);
        table.insert(&one, place(1, 64));
        assert!(table.contains(&one) && !table.was_used(&one, place(1, 64)));
        table.find(&one);
        assert!(table.was_used(&one, place(1, 64)) && !table.was_used(&one, place(1, 65)));
        table.insert(&one, place(2, 64));
        assert!(!table.was_used(&one, place(2, 64)));
    }

    #[test]
    fn a_segment_takes_its_entries_along_and_the_gauge_follows() {
        let table = table();
        for n in 0..100 {
            table.insert(&reference(n), place(u32::from(n % 4), 64));
        }
        table.remove_segment(SegmentId(1));
        assert_eq!((table.len(), table.blocks.get()), (75, 75));
        assert!(!table.contains(&reference(1)) && table.contains(&reference(2)));
        table.clear();
        assert_eq!((table.len(), table.blocks.get()), (0, 0));
    }

    fn table() -> Table {
        Table::new(IntGauge::new("blocks", "blocks").unwrap())
    }

    fn reference(n: u8) -> Reference {
        *ServerSecret::new([1; 32]).mint(vec![n].into()).reference()
    }

    fn place(segment: u32, offset: u32) -> Place {
        Place { segment: SegmentId(segment), offset }
    }
}
