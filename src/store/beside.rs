//! A key for what a node keeps beside its store and what says as much as the store does.
//!
//! Whoever takes the disk without the key file must learn nothing from such a file either: what is in it is sealed
//! like the store's own rows, and found by names that nobody can read or guess.

use std::io;
use std::path::Path;

use super::seal::{KeyFault, Sealed, SegmentSecret, StoreKey, random};
use crate::block::KeyId;

/// A key of one such file.
pub(crate) struct BesideKey(SegmentSecret);

impl BesideKey {
    /// Derives the key of the file with this label from the store's key, which is made where there is none.
    pub(crate) fn load(key_file: &Path, label: &[u8]) -> Result<Self, KeyFault> {
        Ok(Self(StoreKey::load_or_make(key_file)?.beside(label)))
    }

    /// Returns under which name something with this name is kept.
    pub(crate) fn hidden(&self, name: &[u8]) -> [u8; 16] {
        self.0.hidden(name)
    }

    /// Returns a salt and the sealed bytes. `company` has to be there again for the seal to open.
    pub(crate) fn seal(&self, company: &[u8], mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let salt: [u8; SALT_BYTES] = random()?;
        self.0.names_key(KeyId::PLAIN, &salt).seal(Sealed::Names, company, &mut bytes);
        bytes.splice(0..0, salt);
        Ok(bytes)
    }

    /// Returns the bytes if they were sealed by this key in this company.
    pub(crate) fn open(&self, company: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (salt, bytes) = sealed.split_first_chunk::<SALT_BYTES>()?;
        let mut bytes = bytes.to_vec();
        self.0.names_key(KeyId::PLAIN, salt).open(Sealed::Names, company, &mut bytes).ok()?;
        Some(bytes)
    }
}

const SALT_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::super::seal::TAG_BYTES;
    use super::*;

    #[test]
    fn what_is_sealed_beside_the_store_opens_with_its_key_label_and_company_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("store.key");
        let key = BesideKey::load(&file, b"one").unwrap();
        let sealed = key.seal(b"company", b"content".to_vec()).unwrap();
        assert_eq!(sealed.len(), SALT_BYTES + 7 + TAG_BYTES);
        assert_ne!(sealed, key.seal(b"company", b"content".to_vec()).unwrap());
        let again = BesideKey::load(&file, b"one").unwrap();
        assert_eq!(again.open(b"company", &sealed), Some(b"content".to_vec()));
        assert_eq!(again.open(b"others", &sealed), None);
        assert_eq!(again.open(b"company", &sealed[..20]), None);
        let other = BesideKey::load(&file, b"two").unwrap();
        assert_eq!(other.open(b"company", &sealed), None);
        assert_eq!(key.hidden(b"name"), again.hidden(b"name"));
        assert_ne!(key.hidden(b"name"), other.hidden(b"name"));
    }
}
