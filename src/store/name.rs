//! What the store looks blocks up by: their tag within a domain, and the first bytes of it.
//!
//! A tag is a hash of digest and secret, so whoever finds a block by a reference and a peer that asks by a tag go the
//! same way, through the same tables. A name is compared with the whole reference before anything is given.

use wanigan_parsers::Tag;

use crate::block::{self, KeyId, Reference};

/// A block's tag, and the domain it is a tag of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) key: KeyId,
    pub(super) tag: Tag,
}

/// A name without most of its tag: what an entry in memory is found by, and short enough to be kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) key: KeyId,
    pub(super) prefix: TagPrefix,
}

/// The first bytes of a tag.
pub(super) type TagPrefix = [u8; 8];

impl Name {
    /// Computes the name of a reference: five hashes of a few bytes.
    pub(super) fn of(reference: &Reference) -> Self {
        Self { key: reference.key, tag: block::tag(reference) }
    }

    /// Returns whether the reference is what the name names.
    pub(super) fn is_of(&self, reference: &Reference) -> bool {
        reference.key == self.key && block::tag(reference) == self.tag
    }

    /// Returns the beginning.
    pub(super) fn hint(&self) -> Hint {
        let mut prefix = TagPrefix::default();
        prefix.copy_from_slice(&self.tag.0[..size_of::<TagPrefix>()]);
        Hint { key: self.key, prefix }
    }
}
