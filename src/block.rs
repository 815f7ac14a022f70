//! Blocks of content, the references that name them, and the server secret that keys the references.
//!
//! A [`Block`] is only ever made by [`ServerSecret::mint`] from bytes that a content server sent, or by
//! [`Block::verify`] from bytes that came from anywhere else: whoever holds one need not ask where it came from.

use std::fmt;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
pub use wanigan_parsers::wan::{BLOCK_BYTES_MAX, Digest, KeyId, Reference, Secret};

pub mod split;

/// Bytes with the reference that names them; the two agree.
#[derive(Clone)]
pub struct Block {
    reference: Reference,
    bytes: Bytes,
}

/// Candidate bytes that are not the block their reference names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes do not have the digest {0:?}")]
pub struct WrongBlock(pub Digest);

impl Block {
    /// Checks candidate bytes against a reference.
    ///
    /// # Errors
    /// [`WrongBlock`] when length or digest differ.
    pub fn verify(reference: Reference, bytes: Bytes) -> Result<Self, WrongBlock> {
        if bytes.len() == reference.len as usize && digest(&bytes) == reference.digest {
            Ok(Self { reference, bytes })
        } else {
            Err(WrongBlock(reference.digest))
        }
    }

    /// Makes a block of bytes that were just opened from a seal whose associated data held the digest: the seal is
    /// the verification (see the store).
    pub(crate) fn from_seal(reference: Reference, bytes: Bytes) -> Self {
        debug_assert_eq!(bytes.len(), reference.len as usize);
        Self { reference, bytes }
    }

    /// Returns what names the block.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Returns the content.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({:?}, {} bytes)", self.reference.digest, self.bytes.len())
    }
}

/// Returns the content digest `D` of a block.
#[must_use]
pub fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// `K`: what a core, and those that share it, make block secrets with. It never leaves the core.
#[derive(Clone)]
pub struct ServerSecret {
    key: [u8; 32],
    id: KeyId,
}

impl ServerSecret {
    /// Takes the 32 random bytes of the secret's file.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        let full = hmac(&key, &[b"wanigan key id v1"]);
        let mut id = [0; 8];
        id.copy_from_slice(&full[..8]);
        Self { key, id: KeyId(id) }
    }

    /// Returns the public name of the secret.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Names bytes that the content server just released.
    #[must_use]
    pub fn mint(&self, bytes: Bytes) -> Block {
        let digest = digest(&bytes);
        let secret = Secret(hmac(&self.key, &[b"wanigan secret v1", &digest.0]));
        let len = u32::try_from(bytes.len()).expect("a splitter makes blocks far below 4 GiB");
        Block { reference: Reference { digest, secret, key: self.id, len }, bytes }
    }
}

impl fmt::Debug for ServerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerSecret({:?})", self.id)
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_block_verifies_and_a_changed_one_does_not() {
        let block = ServerSecret::new([7; 32]).mint(Bytes::from_static(b"content"));
        assert!(Block::verify(*block.reference(), Bytes::from_static(b"content")).is_ok());
        assert!(Block::verify(*block.reference(), Bytes::from_static(b"Content")).is_err());
        assert!(Block::verify(*block.reference(), Bytes::from_static(b"content+")).is_err());
    }

    #[test]
    fn the_same_block_has_the_same_secret_at_one_core_and_another_at_another() {
        let bytes = Bytes::from_static(b"content");
        let one = ServerSecret::new([7; 32]).mint(bytes.clone());
        let again = ServerSecret::new([7; 32]).mint(bytes.clone());
        let other = ServerSecret::new([8; 32]).mint(bytes);
        assert_eq!(one.reference(), again.reference());
        assert_eq!(one.reference().digest, other.reference().digest);
        assert_ne!(one.reference().secret, other.reference().secret);
        assert_ne!(one.reference().key, other.reference().key);
    }
}
