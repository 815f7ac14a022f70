//! What a sender knows of the blocks its receiver holds, and so whether a block goes as a reference or in full.
//!
//! The record is a guess with a cheap correction: a block that the receiver turns out not to hold is fetched, and the
//! flow pushes for a while. It is bounded: of two generations of digests the older one is forgotten when the younger
//! is full; blocks in use move to the younger one.

use std::collections::HashSet;
use std::mem;
use std::sync::{Mutex, PoisonError};

use crate::block::Digest;

/// What one edge was sent. Shared by the flows of that edge; every call is short and none waits.
#[derive(Debug)]
pub struct Record {
    generations: Mutex<Generations>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Generations {
    /// Names the receiver's store: another one holds nothing of this.
    store: [u8; 16],
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl Record {
    /// Makes a record of at most `capacity` blocks, 16 bytes of memory each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { generations: Mutex::default(), capacity }
    }

    /// Notes which store the edge has; a store other than last time's begins empty.
    pub fn handle_store(&self, store: [u8; 16]) {
        self.with(|generations| {
            if generations.store != store {
                *generations = Generations { store, ..Generations::default() };
            }
        });
    }

    /// Returns whether the edge was sent the block.
    pub fn knows(&self, digest: &Digest) -> bool {
        let entry = entry(digest);
        self.with(|generations| {
            let old = generations.old.contains(&entry);
            if old {
                self.insert(generations, entry);
            }
            old || generations.young.contains(&entry)
        })
    }

    /// Notes that the edge was sent the block.
    pub fn learn(&self, digest: &Digest) {
        self.with(|generations| self.insert(generations, entry(digest)));
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

/// A wrong guess costs one fetch, so eight bytes of the digest are enough.
fn entry(digest: &Digest) -> u64 {
    u64::from_le_bytes(digest.0[..8].try_into().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_in_use_outlive_the_others() {
        let record = Record::new(8);
        for n in 0..40 {
            record.learn(&digest(n));
            assert!(record.knows(&digest(0)));
        }
        assert!(!record.knows(&digest(1)));
        assert!(record.knows(&digest(39)));
        let held = record.with(|generations| generations.young.len() + generations.old.len());
        assert!(held <= 8, "{held}");
    }

    #[test]
    fn another_store_holds_nothing() {
        let record = Record::new(8);
        record.handle_store([1; 16]);
        record.learn(&digest(1));
        record.handle_store([1; 16]);
        assert!(record.knows(&digest(1)));
        record.handle_store([2; 16]);
        assert!(!record.knows(&digest(1)));
    }

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }
}
