//! The compact table in memory: name to place on disk.
//!
//! An entry is a hint of 16 bytes, 64 bits of a keyed hash of the beginning of a name and a place; with the hash
//! table's own slack 20 to 39 bytes. A block has one for the reference that it was written under, and one more for
//! each that it was adopted under (see [`super::names`]); all of them lead to the same place. What lies at the place
//! is compared before a byte or an answer is given, so a wrong hint costs a read and nothing else. The hash key is
//! random, so nobody can choose blocks that meet in one bucket. One entry more leads to each block from its digest.
//!
//! The owner adds; readers look up, and drop what they found to be bad. Each entry carries the bit that eviction goes
//! by: was it used since it was written?

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use prometheus::IntGauge;

use super::disk::SegmentId;
use super::name::Hint;
use crate::block::Digest;

/// Largest segment whose offsets an entry can hold.
pub(super) const SEGMENT_BYTES_MAX: u64 = 1 << 30;

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
    /// Entries that are of the name that a block was written under.
    blocks: AtomicU64,
    gauge: IntGauge,
}

type Shard = HashMap<u64, Slot, BuildHasherDefault<Hashed>>;

struct Slot {
    segment: SegmentId,
    /// The offset, and in the bits above it whether the block was used and whether the entry is one more of a block.
    offset: AtomicU32,
}

impl Table {
    /// Makes an empty table that keeps its number of blocks in the gauge.
    pub(super) fn new(gauge: IntGauge) -> Self {
        gauge.set(0);
        Self {
            hash: RandomState::new(),
            shards: [const { RwLock::new(Shard::with_hasher(BuildHasherDefault::new())) }; SHARDS],
            blocks: AtomicU64::new(0),
            gauge,
        }
    }

    /// Returns where the block may lie, and remembers that it was used.
    pub(super) fn find(&self, hint: &Hint) -> Option<Place> {
        let hash = self.hash(hint);
        let shard = read(self.shard(hash));
        let slot = shard.get(&hash)?;
        if slot.offset.load(Ordering::Relaxed) & USED == 0 {
            slot.offset.fetch_or(USED, Ordering::Relaxed);
        }
        Some(slot.place())
    }

    /// Returns where the block may lie; no use of it.
    pub(super) fn peek(&self, hint: &Hint) -> Option<Place> {
        let hash = self.hash(hint);
        read(self.shard(hash)).get(&hash).map(Slot::place)
    }

    /// Returns whether the block may be on disk.
    pub(super) fn contains(&self, hint: &Hint) -> bool {
        self.peek(hint).is_some()
    }

    /// Returns whether the block is at this place and was used since it was put there.
    pub(super) fn was_used(&self, hint: &Hint, place: Place) -> bool {
        let hash = self.hash(hint);
        let shard = read(self.shard(hash));
        shard
            .get(&hash)
            .is_some_and(|slot| slot.place() == place && slot.offset.load(Ordering::Relaxed) & USED != 0)
    }

    /// Notes where a block lies, in place of what was noted before.
    pub(super) fn insert(&self, hint: &Hint, place: Place) {
        self.insert_slot(self.hash(hint), place, 0);
    }

    /// Notes another name of a block that lies there.
    pub(super) fn insert_adopted(&self, hint: &Hint, place: Place) {
        self.insert_slot(self.hash(hint), place, FURTHER);
    }

    /// Returns where a block with the digest may lie; no use of it.
    pub(super) fn peek_digest(&self, digest: &Digest) -> Option<Place> {
        let hash = self.hash.hash_one(digest.0);
        read(self.shard(hash)).get(&hash).map(Slot::place)
    }

    /// Notes where a block with the digest lies, in place of what was noted before.
    pub(super) fn insert_digest(&self, digest: &Digest, place: Place) {
        self.insert_slot(self.hash.hash_one(digest.0), place, FURTHER);
    }

    /// Forgets that a block with the digest lies there.
    pub(super) fn remove_digest(&self, digest: &Digest, place: Place) {
        self.remove_slot(self.hash.hash_one(digest.0), place);
    }

    /// Forgets the block if it is noted at this place; returns whether it was.
    pub(super) fn remove(&self, hint: &Hint, place: Place) -> bool {
        self.remove_slot(self.hash(hint), place)
    }

    fn remove_slot(&self, hash: u64, place: Place) -> bool {
        let mut shard = write(self.shard(hash));
        if shard.get(&hash).is_none_or(|slot| slot.place() != place) {
            return false;
        }
        let blocks = shard.remove(&hash).map_or(0, |slot| slot.blocks());
        self.count(blocks, 0);
        true
    }

    /// Forgets every block of a segment. Walks the whole table.
    pub(super) fn remove_segment(&self, id: SegmentId) {
        for shard in &self.shards {
            let mut removed = 0;
            write(shard).retain(|_, slot| {
                let keep = slot.segment != id;
                removed += if keep { 0 } else { slot.blocks() };
                keep
            });
            self.count(removed, 0);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = write(shard);
            self.count(shard.values().map(Slot::blocks).sum(), 0);
            *shard = Shard::default();
        }
    }

    /// Returns the number of blocks, however many names they have.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    fn insert_slot(&self, hash: u64, place: Place, further: u32) {
        debug_assert_eq!(place.offset & (USED | FURTHER), 0);
        let slot = Slot { segment: place.segment, offset: AtomicU32::new(place.offset | further) };
        let new = slot.blocks();
        let old = write(self.shard(hash)).insert(hash, slot).map_or(0, |slot| slot.blocks());
        self.count(old, new);
    }

    fn count(&self, removed: u64, added: u64) {
        self.blocks.fetch_add(added, Ordering::Relaxed);
        self.blocks.fetch_sub(removed, Ordering::Relaxed);
        self.gauge.add(i64::try_from(added).unwrap_or(i64::MAX));
        self.gauge.sub(i64::try_from(removed).unwrap_or(i64::MAX));
    }

    fn hash(&self, hint: &Hint) -> u64 {
        self.hash.hash_one((u64::from_be_bytes(hint.key.0), u64::from_be_bytes(hint.prefix)))
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        // The low bits choose the bucket within the shard, so others choose the shard.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }
}

impl Slot {
    fn place(&self) -> Place {
        let offset = self.offset.load(Ordering::Relaxed) & !(USED | FURTHER);
        Place { segment: self.segment, offset }
    }

    fn blocks(&self) -> u64 {
        u64::from(self.offset.load(Ordering::Relaxed) & FURTHER == 0)
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
const FURTHER: u32 = 1 << 30;
const SHARDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::KeyId;

    #[test]
    fn an_entry_is_found_moved_and_forgotten_at_its_place_only() {
        let table = table();
        let (one, two) = (hint(1), hint(2));
        table.insert(&one, place(1, 64));
        assert_eq!(table.find(&one), Some(place(1, 64)));
        assert_eq!(table.find(&two), None);
        table.insert(&one, place(2, 99));
        assert!(!table.remove(&one, place(1, 64)));
        assert_eq!(table.find(&one), Some(place(2, 99)));
        assert!(table.remove(&one, place(2, 99)));
        assert_eq!((table.blocks(), table.gauge.get()), (0, 0));
    }

    #[test]
    fn an_entry_is_used_from_its_first_lookup_until_it_moves() {
        let table = table();
        let one = hint(1);
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
            table.insert(&hint(n), place(u32::from(n % 4), 64));
        }
        table.remove_segment(SegmentId(1));
        assert_eq!((table.blocks(), table.gauge.get()), (75, 75));
        assert!(!table.contains(&hint(1)) && table.contains(&hint(2)));
        table.clear();
        assert_eq!((table.blocks(), table.gauge.get()), (0, 0));
    }

    #[test]
    fn a_digest_leads_to_its_block_at_its_place_and_counts_as_none() {
        let table = table();
        let digest = |n| Digest([n; 32]);
        table.insert(&hint(1), place(1, 64));
        table.insert_digest(&digest(1), place(1, 64));
        assert_eq!(table.peek_digest(&digest(1)), Some(place(1, 64)));
        assert_eq!(table.peek_digest(&digest(2)), None);
        assert!(!table.was_used(&hint(1), place(1, 64)));
        table.remove_digest(&digest(1), place(2, 64));
        assert_eq!(table.peek_digest(&digest(1)), Some(place(1, 64)));
        table.remove_digest(&digest(1), place(1, 64));
        assert_eq!(table.peek_digest(&digest(1)), None);
        assert_eq!((table.blocks(), table.gauge.get()), (1, 1));
    }

    #[test]
    fn an_adopted_name_leads_to_its_block_and_counts_as_none() {
        let table = table();
        let adopted = Hint { key: KeyId([2; 8]), ..hint(1) };
        table.insert(&hint(1), place(1, 64));
        table.insert_adopted(&adopted, place(1, 64));
        assert_eq!(table.find(&adopted), Some(place(1, 64)));
        assert!(table.was_used(&adopted, place(1, 64)) && !table.was_used(&hint(1), place(1, 64)));
        assert_eq!((table.blocks(), table.gauge.get()), (1, 1));
        assert!(table.remove(&adopted, place(1, 64)));
        assert_eq!((table.blocks(), table.gauge.get()), (1, 1));
        table.insert_adopted(&adopted, place(1, 64));
        table.remove_segment(SegmentId(1));
        assert!(!table.contains(&adopted));
        assert_eq!((table.blocks(), table.gauge.get()), (0, 0));
    }

    fn table() -> Table {
        Table::new(IntGauge::new("blocks", "blocks").unwrap())
    }

    fn hint(n: u8) -> Hint {
        Hint { key: KeyId([1; 8]), prefix: [n; 8] }
    }

    fn place(segment: u32, offset: u32) -> Place {
        Place { segment: SegmentId(segment), offset }
    }
}
