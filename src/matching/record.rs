//! What a sender knows of the blocks its receiver holds, and so whether a block goes as a reference or in full.
//!
//! Whether the receiver *still* holds a block is a guess with a cheap correction: what it turns out not to hold is
//! fetched, and the flow pushes for a while. That it was told of the block at all is no guess: a part of a block is
//! named to an edge because the record has the block (`flow/minter.rs`). So the record must take no block for another:
//! its entries are a hash of the whole digest under a random key, and who makes a block cannot choose its entry.
//!
//! It is bounded: of two generations of entries the older one is forgotten when the younger is full; blocks in use move
//! to the younger one. Blocks on their way are counted apart, until the receiver said that it has them, or the flow
//! that carried them is gone. What a link carries is worth nothing while nothing is heard over it: an edge that crashed,
//! or whose link died, may be back over another one long before that is given up, and would wait in vain.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::mem;
use std::sync::{Mutex, PoisonError};

use crate::block::Digest;

/// What is known of one block at one edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knowledge {
    /// Nothing: it was never sent, or long ago.
    Unknown,
    /// A flow is sending it at this moment.
    OnTheWay,
    /// The edge said that it has it.
    Held,
}

/// What one edge was sent. Shared by the flows of that edge; every call is short and none waits.
#[derive(Debug)]
pub struct Record {
    hash: RandomState,
    generations: Mutex<Generations>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Generations {
    /// Names the receiver's store: another one holds nothing of this.
    store: [u8; 16],
    young: HashSet<u64>,
    old: HashSet<u64>,
    /// By link: blocks that its flows are sending, and how many flows do. Bounded by what those flows have credit for.
    on_the_way: HashMap<u64, HashMap<u64, u32>>,
    /// Links over which nothing is heard.
    silent: HashSet<u64>,
}

impl Record {
    /// Makes a record of at most `capacity` blocks, some 20 bytes of memory each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { hash: RandomState::new(), generations: Mutex::default(), capacity }
    }

    /// Notes which store the edge has; a store other than last time's begins empty.
    pub fn handle_store(&self, store: [u8; 16]) {
        self.with(|generations| {
            if generations.store != store {
                generations.store = store;
                generations.young = HashSet::new();
                generations.old = HashSet::new();
            }
        });
    }

    /// Notes whether the edge is heard over a link: while it is not, nothing is on its way there.
    pub fn handle_hearing(&self, link: u64, is_heard: bool) {
        self.with(|generations| {
            if is_heard {
                generations.silent.remove(&link);
            } else {
                generations.silent.insert(link);
            }
        });
    }

    /// Notes that a link has ended.
    pub fn handle_gone(&self, link: u64) {
        self.with(|generations| {
            generations.silent.remove(&link);
            generations.on_the_way.remove(&link);
        });
    }

    /// Returns what is known of a block that is being used.
    pub fn knows(&self, digest: &Digest) -> Knowledge {
        let entry = self.entry(digest);
        self.with(|generations| {
            let old = generations.old.contains(&entry);
            if old {
                self.insert(generations, entry);
            }
            if old || generations.young.contains(&entry) {
                Knowledge::Held
            } else if generations.is_on_the_way(entry) {
                Knowledge::OnTheWay
            } else {
                Knowledge::Unknown
            }
        })
    }

    /// Notes that a flow sends the block over this link. Exactly one of the next two calls follows for it.
    pub fn handle_sent(&self, digest: &Digest, link: u64) {
        let entry = self.entry(digest);
        self.with(|generations| {
            *generations.on_the_way.entry(link).or_default().entry(entry).or_default() += 1;
        });
    }

    /// Notes that the edge has a block that [`Record::handle_sent`] was called for.
    pub fn handle_received(&self, digest: &Digest, link: u64) {
        let entry = self.entry(digest);
        self.with(|generations| {
            generations.arrive(entry, link);
            self.insert(generations, entry);
        });
    }

    /// Notes that a block that [`Record::handle_sent`] was called for may not have arrived: its flow is gone.
    pub fn handle_lost(&self, digest: &Digest, link: u64) {
        let entry = self.entry(digest);
        self.with(|generations| generations.arrive(entry, link));
    }

    /// Notes that the edge has the block, wherever it took it from.
    pub fn learn(&self, digest: &Digest) {
        let entry = self.entry(digest);
        self.with(|generations| self.insert(generations, entry));
    }

    /// Notes that the edge does not have the block, whatever was known.
    pub fn forget(&self, digest: &Digest) {
        let entry = self.entry(digest);
        self.with(|generations| {
            generations.young.remove(&entry);
            generations.old.remove(&entry);
        });
    }

    fn entry(&self, digest: &Digest) -> u64 {
        self.hash.hash_one(digest)
    }

    fn insert(&self, generations: &mut Generations, entry: u64) {
        generations.young.insert(entry);
        if generations.young.len() >= self.capacity.div_ceil(2) {
            generations.old = mem::take(&mut generations.young);
        }
    }

    fn with<T>(&self, call: impl FnOnce(&mut Generations) -> T) -> T {
        call(&mut self.generations.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Generations {
    fn is_on_the_way(&self, entry: u64) -> bool {
        self.on_the_way
            .iter()
            .any(|(link, blocks)| blocks.contains_key(&entry) && !self.silent.contains(link))
    }

    fn arrive(&mut self, entry: u64, link: u64) {
        let Some(blocks) = self.on_the_way.get_mut(&link) else { return };
        if let Some(count) = blocks.get_mut(&entry) {
            *count -= 1;
            if *count == 0 {
                blocks.remove(&entry);
            }
        }
        if blocks.is_empty() {
            self.on_the_way.remove(&link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_in_use_outlive_the_others() {
        let record = Record::new(8);
        for n in 0..40 {
            record.learn(&digest(n));
            assert_eq!(record.knows(&digest(0)), Knowledge::Held);
        }
        assert_eq!(record.knows(&digest(1)), Knowledge::Unknown);
        assert_eq!(record.knows(&digest(39)), Knowledge::Held);
        let held = record.with(|generations| generations.young.len() + generations.old.len());
        assert!(held <= 8, "{held}");
    }

    #[test]
    fn another_store_holds_nothing() {
        let record = Record::new(8);
        record.handle_store([1; 16]);
        record.learn(&digest(1));
        record.handle_store([1; 16]);
        assert_eq!(record.knows(&digest(1)), Knowledge::Held);
        record.handle_store([2; 16]);
        assert_eq!(record.knows(&digest(1)), Knowledge::Unknown);
    }

    #[test]
    fn a_block_is_on_its_way_until_it_arrived_or_its_last_flow_is_gone() {
        let record = Record::new(8);
        record.handle_sent(&digest(1), 0);
        record.handle_sent(&digest(1), 0);
        record.handle_lost(&digest(1), 0);
        assert_eq!(record.knows(&digest(1)), Knowledge::OnTheWay);
        record.handle_lost(&digest(1), 0);
        assert_eq!(record.knows(&digest(1)), Knowledge::Unknown);
        record.handle_sent(&digest(1), 0);
        record.handle_received(&digest(1), 0);
        assert_eq!(record.knows(&digest(1)), Knowledge::Held);
        record.forget(&digest(1));
        assert_eq!(record.knows(&digest(1)), Knowledge::Unknown);
        assert!(record.with(|generations| generations.on_the_way.is_empty()));
    }

    #[test]
    fn nothing_is_on_its_way_over_a_link_where_nothing_is_heard() {
        let record = Record::new(8);
        let (older, newer) = (1, 2);
        record.handle_sent(&digest(1), older);
        record.handle_sent(&digest(2), older);
        record.handle_hearing(older, false);
        record.handle_sent(&digest(3), older);
        for n in [1, 2, 3] {
            assert_eq!(record.knows(&digest(n)), Knowledge::Unknown);
        }
        record.handle_sent(&digest(2), newer);
        assert_eq!(record.knows(&digest(2)), Knowledge::OnTheWay);
        record.handle_received(&digest(3), older);
        assert_eq!(record.knows(&digest(3)), Knowledge::Held);
        record.handle_hearing(older, true);
        assert_eq!(record.knows(&digest(1)), Knowledge::OnTheWay);
        record.handle_gone(older);
        assert_eq!(record.knows(&digest(1)), Knowledge::Unknown);
        // Its flows end after it.
        record.handle_lost(&digest(1), older);
        record.handle_lost(&digest(2), older);
        assert_eq!(record.knows(&digest(2)), Knowledge::OnTheWay);
        record.handle_lost(&digest(2), newer);
        record.handle_hearing(newer, false);
        record.handle_gone(newer);
        assert!(
            record.with(|generations| generations.on_the_way.is_empty() && generations.silent.is_empty())
        );
    }

    #[test]
    fn digests_that_begin_alike_are_other_blocks_and_no_two_records_agree_on_where_a_block_is() {
        let (record, other) = (Record::new(8), Record::new(8));
        let mut alike = digest(1);
        alike.0[31] ^= 1;
        record.learn(&digest(1));
        record.handle_sent(&alike, 0);
        assert_eq!(record.knows(&alike), Knowledge::OnTheWay);
        record.forget(&alike);
        assert_eq!(record.knows(&digest(1)), Knowledge::Held);
        assert_ne!(record.entry(&digest(1)), other.entry(&digest(1)));
    }

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }
}
