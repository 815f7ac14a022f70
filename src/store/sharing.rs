//! What sharing with peers and the rotation of a server secret ask of the store.
//!
//! A peer's question is answered out of memory and manifests. Who has seen a tag, and no more, can cause the reading
//! of manifests at worst, a few at a time and none of those that were read lately; never that of a block.

use wanigan_parsers::Tag;

use super::name::Name;
use super::queue::{Adoption, Pushed};
use super::reader::{Cursor, Look, Reach, Reader};
use super::{Store, renamed};
use crate::block::{KeyId, Reference};

/// What is known of a tag without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagFound {
    /// The block has this reference. It may be gone a moment later.
    Here(Reference),
    /// No block here has the tag, or its key has expired.
    Unknown,
    /// There may be one: [`Store::find_tag`] can tell.
    OnDisk,
}

impl Store {
    /// Returns which block has the tag in the domain of `key`, as far as that is known without a disk. Never waits.
    #[must_use]
    pub fn find_tag_now(&self, key: KeyId, tag: &Tag) -> TagFound {
        if self.shared.expired.contains(key) {
            return TagFound::Unknown;
        }
        let name = Name { key, tag: *tag };
        if let Some(block) = self.shared.memory.peek(&name) {
            return TagFound::Here(*block.reference());
        }
        let Some(tier) = &self.shared.tier else { return TagFound::Unknown };
        if let Some(reference) = tier.queue.reference(&name) {
            return TagFound::Here(reference);
        }
        match tier.reader.find_name(&name, Reach::Memory) {
            Look::Here(reference) => TagFound::Here(reference),
            Look::Unknown => TagFound::Unknown,
            Look::OnDisk => TagFound::OnDisk,
        }
    }

    /// Returns the whole reference of the block that has the tag in the domain of `key`, secret included.
    ///
    /// Reads a manifest if need be, never a block. Dropping the future is harmless.
    pub async fn find_tag(&self, key: KeyId, tag: &Tag) -> Option<Reference> {
        match self.find_tag_now(key, tag) {
            TagFound::Here(reference) => return Some(reference),
            TagFound::Unknown => return None,
            TagFound::OnDisk => {}
        }
        let name = Name { key, tag: *tag };
        let look_up = move |reader: &Reader| match reader.find_name(&name, Reach::Disk) {
            Look::Here(reference) => Some(reference),
            Look::Unknown | Look::OnDisk => None,
        };
        let found = self.shared.tier.as_ref()?.look_up(look_up).await.flatten();
        found.filter(|_| !self.shared.expired.contains(key))
    }

    /// Makes the block that is here under `old` be found under `new` too, if both name the same content. Never waits.
    ///
    /// Returns whether it is so, as far as can be told at once: a block on disk is compared with `old`, secret
    /// included, before `new` is noted for good; that becomes durable as blocks do, see [`Store::flush`]. `false` too
    /// when the queue to the disk is full.
    ///
    /// A block that was learned under a secret is never known in plain mode.
    pub fn adopt(&self, old: &Reference, new: &Reference) -> bool {
        let same_content = old.digest == new.digest && old.len == new.len;
        if !same_content || old.key == new.key || new.key == KeyId::PLAIN {
            return false;
        }
        let (from, to) = (Name::of(old), Name::of(new));
        let held = self.shared.memory.peek(&from).filter(|block| block.reference() == old);
        if let Some(block) = &held
            && !self.shared.memory.contains(&to)
        {
            self.shared.memory.insert(to, renamed(block, new));
        }
        let Some(tier) = &self.shared.tier else { return held.is_some() };
        if tier.reader.table.contains(&to.hint()) {
            return true;
        }
        if !self.shared.knows(&from) {
            return held.is_some();
        }
        let queued = tier.queue.adopt(to, Adoption { old: *old, new: *new });
        queued == Pushed::Waiting || held.is_some()
    }

    /// Refuses the tags of a key from here on, also after a restart. The blocks stay, for who has their references.
    pub fn expire(&self, key: KeyId) {
        self.set_expired(key, true);
    }

    /// Takes back what [`Store::expire`] did, for a secret that is in use again.
    pub fn readmit(&self, key: KeyId) {
        self.set_expired(key, false);
    }

    /// Returns references that blocks on disk have under `key`, newest segments first, at most `max` of them, and
    /// where to go on: until there is no cursor. It may return none and a cursor, since one call looks at a bounded
    /// number of segments.
    ///
    /// Blocks that are known under the key `known` already are left out. A block that is written or moved meanwhile
    /// may be missed or come twice; what waits to be written is not there yet, see [`Store::flush`].
    pub async fn references(
        &self,
        key: KeyId,
        known: Option<KeyId>,
        from: Option<Cursor>,
        max: usize,
    ) -> (Vec<Reference>, Option<Cursor>) {
        let Some(tier) = &self.shared.tier else { return Default::default() };
        tier.walk(move |reader| reader.walk(key, known, from, max)).await.unwrap_or_default()
    }

    fn set_expired(&self, key: KeyId, expired: bool) {
        if self.shared.expired.set(key, expired)
            && let Some(tier) = &self.shared.tier
        {
            tier.queue.save_expired();
        }
    }
}
