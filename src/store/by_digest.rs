//! Blocks by their digest alone, for the one who compares.
//!
//! A sender that has just been given bytes by a content server (or, at an edge, by a client) wants to know whether
//! they are bytes of a block that it has, whatever reference that was stored under. Possession of a digest is no
//! entitlement, and content maps are full of digests: so what is found here may be compared with, and nothing else.
//! It is not served to anybody, and not named to anybody before the comparison said that the bytes are the same.
//!
//! A bounded cache in memory says which reference a block was lately put or read under; what it does not know takes
//! a manifest, where the table has an entry for the digest. Then the block is read by its reference like any other.

use quick_cache::sync::Cache;

use super::Store;
use super::tier::DiskTier;
use crate::block::{Block, Digest, Reference};

/// The references of blocks that were lately used. What it says may be gone.
pub(super) struct Recent(Cache<Digest, Reference>);

impl Recent {
    /// Makes it for a memory tier of so many bytes.
    pub(super) fn new(memory_bytes: u64) -> Self {
        let references = (memory_bytes / BYTES_PER_REFERENCE).clamp(REFERENCES_MIN, REFERENCES_MAX);
        Self(Cache::new(usize::try_from(references).unwrap_or(0)))
    }

    pub(super) fn note(&self, reference: &Reference) {
        self.0.insert(reference.digest, *reference);
    }

    fn find(&self, digest: &Digest, len: u32) -> Option<Reference> {
        self.0.get(digest).filter(|reference| reference.len == len)
    }
}

impl Store {
    /// Returns a block with the digest if it is in memory. Never waits for a disk. See [`Store::get_digest`].
    #[must_use]
    pub fn get_digest_now(&self, digest: &Digest, len: u32) -> Option<Block> {
        self.get_now(&self.shared.recent.find(digest, len)?)
    }

    /// Returns whether a block with the digest may be on disk. Never waits for the disk.
    #[must_use]
    pub fn may_have_digest(&self, digest: &Digest) -> bool {
        self.shared.tier.as_ref().is_some_and(|tier| tier.reader.table.peek_digest(digest).is_some())
    }

    /// Returns whether the disk does not answer: what is not found may be there.
    #[must_use]
    pub fn disk_hangs(&self) -> bool {
        self.shared.tier.as_ref().is_some_and(DiskTier::hangs)
    }

    /// Returns a block with the digest and length if the store has it, under whichever reference it was put.
    ///
    /// Only for comparing with bytes that this node was just given: whoever has but a digest is not entitled to the
    /// block. Its reference may be of another domain, or of a secret that was rotated. Dropping the future is
    /// harmless.
    pub async fn get_digest(&self, digest: &Digest, len: u32) -> Option<Block> {
        let recent = self.shared.recent.find(digest, len);
        if let Some(reference) = recent
            && let Some(block) = self.get(&reference).await
        {
            return Some(block);
        }
        let tier = self.shared.tier.as_ref()?;
        tier.reader.table.peek_digest(digest)?;
        let digest = *digest;
        let found = tier.look_up(move |reader| reader.find_digest(&digest, len)).await.flatten()?;
        // What is not there under the one has not come back under it.
        if recent == Some(found) { None } else { self.get(&found).await }
    }
}

/// Half of the usual block, so that the cache knows all that the memory tier has.
const BYTES_PER_REFERENCE: u64 = 32 << 10;
const REFERENCES_MIN: u64 = 64;
const REFERENCES_MAX: u64 = 32 << 10;
