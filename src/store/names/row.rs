//! The layout of the names that blocks of one segment were adopted under: one row of the index a segment and key.
//!
//! ```text
//!  0                               32      36
//!  +-------------------------------+-------+------------------------------------+-------+
//!  |salt of the row's key          |order  |entries of 44 bytes each, sealed    |tag, 16|
//!  +-------------------------------+-------+------------------------------------+-------+
//! ```
//!
//! Of the keys of one segment, the one with the lower order came first. The seal ([`Sealed::Names`]) has the
//! segment's id, the key id and the order as associated data. It holds block secrets, hence sealed; a row is written
//! again whenever a name is added, hence a salt of its own. An entry, in the order of their places:
//!
//! ```text
//!  0   4                               36      44
//!  +---+-------------------------------+-------+
//!  |off|secret                         |tag    |
//!  +---+-------------------------------+-------+
//! ```
//!
//! The last are the first bytes of the tag, as in a manifest. Digest and length are the manifest's.

use std::io;

use super::super::disk::SegmentId;
use super::super::name::{Hint, Name, TagPrefix};
use super::super::seal::{Sealed, SegmentSecret, TAG_BYTES, random};
use super::super::segment::{BLOCKS_MAX, take, take_u32};
use crate::block::{KeyId, Reference, Secret};

/// What a block at a place was adopted under, beside the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Adopted {
    pub(in crate::store) offset: u32,
    pub(in crate::store) secret: Secret,
    pub(in crate::store) prefix: TagPrefix,
}

/// The names of a segment's blocks under one key.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) struct NamesRow {
    pub(in crate::store) order: u32,
    pub(in crate::store) entries: Vec<Adopted>,
}

impl Adopted {
    /// Makes the entry of the block at `offset` that is to be known under this reference too.
    pub(in crate::store) fn new(reference: &Reference, offset: u32) -> Self {
        Self { offset, secret: reference.secret, prefix: Name::of(reference).hint().prefix }
    }

    /// Returns what the block is found by.
    pub(in crate::store) fn hint(&self, key: KeyId) -> Hint {
        Hint { key, prefix: self.prefix }
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let offset = take_u32(&mut bytes)?;
        Some(Self { offset, secret: Secret(take(&mut bytes)?), prefix: take(&mut bytes)? })
    }
}

impl NamesRow {
    /// Returns the bytes of the row.
    ///
    /// # Errors
    /// When the system gives no randomness for the salt.
    pub(in crate::store) fn encode(
        &self,
        secret: &SegmentSecret,
        id: SegmentId,
        key: KeyId,
    ) -> io::Result<Vec<u8>> {
        let salt = random()?;
        let mut sealed = Vec::with_capacity(ENTRY_BYTES * self.entries.len() + TAG_BYTES);
        for entry in &self.entries {
            sealed.extend_from_slice(&entry.offset.to_le_bytes());
            sealed.extend_from_slice(&entry.secret.0);
            sealed.extend_from_slice(&entry.prefix);
        }
        let order = self.order.to_le_bytes();
        secret.names_key(key, &salt).seal(Sealed::Names, &aad(id, key, order), &mut sealed);
        Ok([&salt[..], &order, &sealed].concat())
    }

    /// Reads a row; `None` when it is not one that this store wrote there.
    pub(in crate::store) fn decode(
        secret: &SegmentSecret,
        id: SegmentId,
        key: KeyId,
        mut row: &[u8],
    ) -> Option<Self> {
        let (salt, order) = (take(&mut row)?, take(&mut row)?);
        let entries = row.len().checked_sub(TAG_BYTES)?;
        if !entries.is_multiple_of(ENTRY_BYTES) || entries / ENTRY_BYTES > BLOCKS_MAX {
            return None;
        }
        let mut plain = row.to_vec();
        secret.names_key(key, &salt).open(Sealed::Names, &aad(id, key, order), &mut plain).ok()?;
        let entries: Option<Vec<_>> = plain.chunks_exact(ENTRY_BYTES).map(Adopted::decode).collect();
        Some(Self { order: u32::from_le_bytes(order), entries: entries? })
    }
}

fn aad(id: SegmentId, key: KeyId, order: [u8; 4]) -> [u8; 16] {
    let mut aad = [0; 16];
    aad[..4].copy_from_slice(&id.0.to_le_bytes());
    aad[4..12].copy_from_slice(&key.0);
    aad[12..].copy_from_slice(&order);
    aad
}

const ENTRY_BYTES: usize = 4 + 32 + size_of::<TagPrefix>();

#[cfg(test)]
mod tests {
    use super::super::super::seal::StoreKey;
    use super::*;

    #[test]
    fn a_row_is_what_was_encoded_there_or_nothing() {
        let (secret, id, key) = (secret(7), SegmentId(7), KeyId([5; 8]));
        let entry = |n: u8| Adopted { offset: u32::from(n) * 100, secret: Secret([n; 32]), prefix: [n; 8] };
        let names = NamesRow { order: 3, entries: vec![entry(1), entry(2)] };
        let row = names.encode(&secret, id, key).unwrap();
        assert_eq!(NamesRow::decode(&secret, SegmentId(8), key, &row), None);
        assert_eq!(NamesRow::decode(&secret, id, KeyId([6; 8]), &row), None);
        assert_eq!(NamesRow::decode(&super::tests::secret(8), id, key, &row), None);
        for at in 0..row.len() {
            let mut bad = row.clone();
            bad[at] ^= 1;
            assert_eq!(NamesRow::decode(&secret, id, key, &bad), None, "byte {at}");
            assert_eq!(NamesRow::decode(&secret, id, key, &row[..at]), None, "cut at {at}");
        }
        assert_eq!(NamesRow::decode(&secret, id, key, &row), Some(names));
    }

    #[test]
    fn a_row_hides_secrets_and_tags_and_is_never_sealed_twice_alike() {
        let (secret, id, key) = (secret(7), SegmentId(7), KeyId([5; 8]));
        let entry = Adopted { offset: 64, secret: Secret([0xaa; 32]), prefix: [0xbb; 8] };
        let names = NamesRow { order: 0, entries: vec![entry] };
        let (one, two) = (names.encode(&secret, id, key).unwrap(), names.encode(&secret, id, key).unwrap());
        assert!(!one.windows(8).any(|bytes| bytes == [0xaa; 8] || bytes == [0xbb; 8]));
        assert_ne!(one[36..], two[36..]);
    }

    fn secret(id: u32) -> SegmentSecret {
        StoreKey::new([1; 32]).segment_secret(id, &[2; 32])
    }
}
