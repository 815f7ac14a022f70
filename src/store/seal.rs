//! The store's key, and the seal (AES-256-GCM) under which everything of a block lies on the disk.
//!
//! A segment has a key of its own, derived from the store's key and the random salt of its header, so a segment
//! number or an offset used again after a crash never meets the same key. Within a segment a nonce is the place of
//! what it seals; a place is written once, and a segment is not appended to after a restart. The names that blocks were
//! adopted under change, so each writing of them has a salt and with it a key of its own.
//!
//! Whoever takes the disk without the key file learns how many blocks there are and how long, and nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};

use crate::block::KeyId;

/// Bytes that a seal adds.
pub(super) const TAG_BYTES: usize = 16;

/// The secret from which every segment's key is derived.
#[derive(Clone)]
pub(super) struct StoreKey([u8; KEY_BYTES]);

/// Key of one segment, ready for use.
pub(super) struct SegmentKey(LessSafeKey);

/// Bytes that one segment's key is made of.
#[derive(Clone, Copy)]
pub(super) struct SegmentSecret([u8; 32]);

/// What a nonce counts, so that a block and a manifest never share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sealed {
    /// The block at this offset of the segment.
    Block(u32),
    /// The manifest of the segment's first so many blocks.
    Manifest(u32),
    /// Names that blocks were adopted under; each writing of them has a key of its own.
    Names,
}

/// What was opened is not what was sealed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the seal is broken")]
pub(super) struct BrokenSeal;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    /// The file is not a key; an operator has to say what it is.
    #[error("use {} as the store's key: it is not 32 bytes long", .0.display())]
    Malformed(PathBuf),
    /// The file could be neither read nor made.
    #[error("read or make the store's key {}", path.display())]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreKey {
    #[cfg(test)]
    pub(super) fn new(key: [u8; KEY_BYTES]) -> Self {
        Self(key)
    }

    /// Reads the key file, or makes it where there is none.
    pub(super) fn load_or_make(path: &Path) -> Result<Self, KeyFault> {
        let fault = |source| KeyFault::Io { path: path.to_owned(), source };
        match File::open(path) {
            Ok(file) => Self::load(path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path).map_err(fault),
            Err(error) => Err(fault(error)),
        }
    }

    fn load(path: &Path, file: File) -> Result<Self, KeyFault> {
        let fault = |source| KeyFault::Io { path: path.to_owned(), source };
        if file.metadata().map_err(fault)?.mode() & 0o007 != 0 {
            tracing::warn!(path = %path.display(), "everybody on this machine may read the store's key");
        }
        let mut key = Vec::new();
        file.take(KEY_BYTES as u64 + 1).read_to_end(&mut key).map_err(fault)?;
        let key = key.try_into().map_err(|_| KeyFault::Malformed(path.to_owned()))?;
        Ok(Self(key))
    }

    /// Writes a new key beside its place and moves it there, so that a power loss leaves a whole key or none.
    fn make(path: &Path) -> io::Result<Self> {
        let key = random()?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&key)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(dir)?.sync_all()?;
        Ok(Self(key))
    }

    /// Derives the key of what somebody else keeps beside the store, one for each label.
    pub(super) fn beside(&self, label: &[u8]) -> SegmentSecret {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        mac.update(b"wanigan beside the store v1");
        mac.update(label);
        let mut secret = [0; 32];
        secret.copy_from_slice(mac.sign().as_ref());
        SegmentSecret(secret)
    }

    /// Derives the key of the segment with this salt.
    pub(super) fn segment_secret(&self, id: u32, salt: &[u8; 32]) -> SegmentSecret {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        mac.update(b"wanigan store segment v1");
        mac.update(salt);
        mac.update(&id.to_le_bytes());
        let mut secret = [0; 32];
        secret.copy_from_slice(mac.sign().as_ref());
        SegmentSecret(secret)
    }
}

impl SegmentSecret {
    /// Expands the key for use.
    pub(super) fn key(&self) -> SegmentKey {
        let key = UnboundKey::new(&AES_256_GCM, &self.0).expect("AES-256 takes 32 bytes");
        SegmentKey(LessSafeKey::new(key))
    }

    /// Returns what a name becomes under the secret, where it has to be found and not to be read.
    pub(super) fn hidden(&self, name: &[u8]) -> [u8; 16] {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        mac.update(b"wanigan store hidden name v1");
        mac.update(name);
        let mut hidden = [0; 16];
        hidden.copy_from_slice(&mac.sign().as_ref()[..16]);
        hidden
    }

    /// Derives a key for what is written again and again: each writing brings a random salt.
    pub(super) fn names_key(&self, key: KeyId, salt: &[u8; 32]) -> SegmentKey {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        mac.update(b"wanigan store names v1");
        mac.update(salt);
        mac.update(&key.0);
        let mut secret = [0; 32];
        secret.copy_from_slice(mac.sign().as_ref());
        Self(secret).key()
    }
}

impl SegmentKey {
    /// Seals `bytes` where they are and appends the tag.
    pub(super) fn seal(&self, what: Sealed, aad: &[u8], bytes: &mut Vec<u8>) {
        self.0
            .seal_in_place_append_tag(what.nonce(), Aad::from(aad), bytes)
            .expect("a segment is far below the cipher's limit");
    }

    /// Opens `bytes` where they are and cuts off the tag.
    pub(super) fn open(&self, what: Sealed, aad: &[u8], bytes: &mut Vec<u8>) -> Result<(), BrokenSeal> {
        let plain = self.0.open_in_place(what.nonce(), Aad::from(aad), bytes).map_err(|_| BrokenSeal)?;
        let len = plain.len();
        bytes.truncate(len);
        Ok(())
    }
}

impl Sealed {
    fn nonce(self) -> Nonce {
        let (kind, place) = match self {
            Self::Block(offset) => (1, offset),
            Self::Manifest(blocks) => (2, blocks),
            Self::Names => (3, 0),
        };
        let mut nonce = [0; NONCE_LEN];
        nonce[0] = kind;
        nonce[1..5].copy_from_slice(&place.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Returns random bytes.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    Ok(bytes)
}

const KEY_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/store.key");
        let made = StoreKey::load_or_make(&path).unwrap();
        let loaded = StoreKey::load_or_make(&path).unwrap();
        assert_eq!(made.0, loaded.0);
        assert_ne!(made.0, [0; 32]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_of_another_length_is_not_taken_for_a_key() {
        let dir = tempfile::tempdir().unwrap();
        for len in [0, 31, 33, 1000] {
            let path = dir.path().join(format!("{len}.key"));
            fs::write(&path, vec![1; len]).unwrap();
            assert!(matches!(StoreKey::load_or_make(&path), Err(KeyFault::Malformed(_))), "{len}");
        }
    }

    #[test]
    fn a_seal_opens_only_with_its_key_place_kind_and_company() {
        let key = StoreKey::new([1; 32]).segment_secret(7, &[2; 32]).key();
        let mut sealed = b"content".to_vec();
        key.seal(Sealed::Block(64), b"aad", &mut sealed);
        assert_eq!(sealed.len(), 7 + TAG_BYTES);
        let open = |key: &SegmentKey, what, aad: &[u8]| {
            let mut bytes = sealed.clone();
            key.open(what, aad, &mut bytes).map(|()| bytes)
        };
        assert_eq!(open(&key, Sealed::Block(64), b"aad"), Ok(b"content".to_vec()));
        assert_eq!(open(&key, Sealed::Block(65), b"aad"), Err(BrokenSeal));
        assert_eq!(open(&key, Sealed::Manifest(64), b"aad"), Err(BrokenSeal));
        assert_eq!(open(&key, Sealed::Block(64), b"add"), Err(BrokenSeal));
        assert_eq!(open(&key, Sealed::Names, b"aad"), Err(BrokenSeal));
        for (store, id, salt) in [([3; 32], 7, [2; 32]), ([1; 32], 8, [2; 32]), ([1; 32], 7, [3; 32])] {
            let other = StoreKey::new(store).segment_secret(id, &salt).key();
            assert_eq!(open(&other, Sealed::Block(64), b"aad"), Err(BrokenSeal));
        }
    }
}
