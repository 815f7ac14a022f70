//! The memory tier: the blocks used most, weighed by their bytes.
//!
//! quick_cache evicts before it admits, so the weight never passes the limit; a block heavier than a share of it is
//! not admitted at all. The limit is split over shards of at least [`SHARD_BYTES`], so that callers do not wait for
//! each other.

use prometheus::IntGauge;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::name::Name;
use crate::block::Block;

/// Blocks in memory, by their name.
pub(super) struct Memory {
    blocks: Cache<Name, Block, Weight>,
    bytes: IntGauge,
}

impl Memory {
    /// Makes a tier of at most so many bytes, which it shows in the gauge.
    pub(super) fn new(bytes_max: u64, bytes: IntGauge) -> Self {
        let options = OptionsBuilder::new()
            .weight_capacity(bytes_max)
            .hot_allocation(HOT_SHARE)
            .estimated_items_capacity(usize::try_from(bytes_max / TYPICAL_BYTES).unwrap_or(usize::MAX).max(1))
            .shards(usize::try_from((bytes_max / SHARD_BYTES).clamp(1, SHARDS_MAX)).unwrap_or(1))
            .build()
            .expect("weight and items are set");
        bytes.set(0);
        let blocks =
            Cache::with_options(options, Weight, DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self { blocks, bytes }
    }

    /// Returns the block if it is here.
    pub(super) fn find(&self, name: &Name) -> Option<Block> {
        self.blocks.get(name)
    }

    /// Returns the block if it is here; no use of it.
    pub(super) fn peek(&self, name: &Name) -> Option<Block> {
        self.blocks.peek(name)
    }

    /// Returns whether the block is here; no use of it.
    pub(super) fn contains(&self, name: &Name) -> bool {
        self.blocks.contains_key(name)
    }

    /// Takes the block, and drops others for it.
    pub(super) fn insert(&self, name: Name, block: Block) {
        self.blocks.insert(name, block);
        self.bytes.set(i64::try_from(self.blocks.weight()).unwrap_or(i64::MAX));
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<Name, Block> for Weight {
    fn weight(&self, _: &Name, block: &Block) -> u64 {
        block.bytes().len() as u64 + OVERHEAD_BYTES
    }
}

/// A name, a reference, a handle and the cache's own links, rounded up.
const OVERHEAD_BYTES: u64 = 320;
/// The rest is for newcomers: what one client just read, others of the site read next. The crate's own 0.97 leaves
/// them seven blocks a shard.
const HOT_SHARE: f64 = 0.8;
const TYPICAL_BYTES: u64 = 64 << 10;
const SHARD_BYTES: u64 = 16 << 20;
const SHARDS_MAX: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ServerSecret;

    #[test]
    fn the_tier_never_weighs_more_than_its_limit() {
        for limit in [0, 1000, 100_000, 1 << 20] {
            let memory = Memory::new(limit, IntGauge::new("bytes", "bytes").unwrap());
            let secret = ServerSecret::new([1; 32]);
            for n in 0_u32..500 {
                let len = 1 + (n as usize * 7919) % 20_000;
                let mut bytes = vec![0; len.max(4)];
                bytes[..4].copy_from_slice(&n.to_le_bytes());
                let block = secret.mint(bytes.into());
                memory.insert(Name::of(block.reference()), block);
                assert!(memory.blocks.weight() <= limit);
                assert_eq!(memory.bytes.get(), i64::try_from(memory.blocks.weight()).unwrap());
            }
            if limit >= 100_000 {
                assert!(memory.blocks.weight() > limit / 2, "a tier with room uses it");
            }
        }
    }
}
