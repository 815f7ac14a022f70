//! Blocks of content, the references that name them, and the server secret that keys the references.
//!
//! A [`Block`] is only ever made by [`ServerSecret::mint`] from bytes that a content server sent, or by
//! [`Block::verify`] from bytes that came from anywhere else: whoever holds one need not ask where it came from.

use std::fmt;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
pub use wanigan_parsers::Tag;
pub use wanigan_parsers::wan::{BLOCK_BYTES_MAX, Digest, KeyId, Named, Reference, Secret};

/// Bytes with the reference that names them; the two agree.
#[derive(Clone)]
pub struct Block {
    reference: Reference,
    bytes: Bytes,
}

/// Bytes with their digest: the two agree, and nothing is said of who may have them.
#[derive(Clone, PartialEq, Eq)]
pub struct Hashed {
    digest: Digest,
    bytes: Bytes,
}

impl Hashed {
    /// Computes the digest.
    #[must_use]
    pub fn of(bytes: Bytes) -> Self {
        Self { digest: digest(&bytes), bytes }
    }

    /// Returns the digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns the bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl From<Block> for Hashed {
    fn from(block: Block) -> Self {
        Self { digest: block.reference.digest, bytes: block.bytes }
    }
}

impl fmt::Debug for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hashed({:?}, {} bytes)", self.digest, self.bytes.len())
    }
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

    /// Returns the block under another reference of the same content, or `None` if that names other content.
    #[must_use]
    pub fn under(self, reference: Reference) -> Option<Self> {
        let same = reference.digest == self.reference.digest && reference.len == self.reference.len;
        same.then_some(Self { reference, ..self })
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

/// `H`, the hash of a block: who has it is entitled to the block. It never leaves this host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlockHash([u8; 32]);

impl BlockHash {
    /// Derives the hash from a reference: `HMAC(S, D)`, or `D` in plain mode.
    #[must_use]
    pub fn of(reference: &Reference) -> Self {
        if reference.key == KeyId::PLAIN {
            return Self(reference.digest.0);
        }
        Self(hmac(&reference.secret.0, &[&reference.digest.0]))
    }

    /// Returns the tag under which peers ask for the block: `SHA-256(H ‖ S)`, or `SHA-256(H ‖ "MS P2P Caching")` in
    /// plain mode (US 7,617,322, figure 3).
    #[must_use]
    pub fn tag(&self, reference: &Reference) -> Tag {
        let mut tag = Sha256::new_with_prefix(self.0);
        if reference.key == KeyId::PLAIN {
            tag.update(b"MS P2P Caching");
        } else {
            tag.update(reference.secret.0);
        }
        Tag(tag.finalize().into())
    }

    /// Authenticates fields of fixed length under the hash. Each use has a label of its own, first among the parts.
    #[must_use]
    pub(crate) fn authenticate(&self, parts: &[&[u8]]) -> [u8; 32] {
        hmac(&self.0, parts)
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockHash(secret)")
    }
}

/// Returns the tag of a reference.
#[must_use]
pub fn tag(reference: &Reference) -> Tag {
    BlockHash::of(reference).tag(reference)
}

/// `K`: what a core, and those that share it, make block secrets with. It never leaves the core.
#[derive(Clone)]
pub struct ServerSecret {
    /// `None` in plain mode.
    key: Option<[u8; 32]>,
    id: KeyId,
}

/// What a core names blocks with.
#[derive(Debug, Clone)]
pub struct Naming {
    /// Keys every reference.
    pub current: ServerSecret,
    /// The one before, while peers may still know blocks under it only.
    pub older: Option<ServerSecret>,
}

impl ServerSecret {
    /// Takes the 32 random bytes of the secret's file.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        let full = hmac(&key, &[b"wanigan key id v1"]);
        let mut id = [0; 8];
        id.copy_from_slice(&full[..8]);
        Self { key: Some(key), id: KeyId(id) }
    }

    /// Stands for no secret: plain mode, in which a block's hash is its digest.
    #[must_use]
    pub fn plain() -> Self {
        Self { key: None, id: KeyId::PLAIN }
    }

    /// Returns the public name of the secret.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Names bytes that the content server just released.
    #[must_use]
    pub fn mint(&self, bytes: Bytes) -> Block {
        self.mint_hashed(Hashed::of(bytes))
    }

    /// Names bytes of which the content server just released every one.
    #[must_use]
    pub fn mint_hashed(&self, content: Hashed) -> Block {
        let Hashed { digest, bytes } = content;
        let Named { key, secret } = self.name(&digest);
        let len = u32::try_from(bytes.len()).expect("a matcher makes blocks far below 4 GiB");
        Block { reference: Reference { digest, secret, key, len }, bytes }
    }

    /// Returns the name of a block that whoever gets the name is entitled to.
    #[must_use]
    pub fn name(&self, digest: &Digest) -> Named {
        let secret = self.key.map_or([0; 32], |key| hmac(&key, &[b"wanigan secret v1", &digest.0]));
        Named { key: self.id, secret: Secret(secret) }
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

    #[test]
    fn a_tag_depends_on_the_secret_and_plain_mode_on_the_digest_alone() {
        let bytes = Bytes::from_static(b"content");
        let keyed = *ServerSecret::new([7; 32]).mint(bytes.clone()).reference();
        let other = *ServerSecret::new([8; 32]).mint(bytes).reference();
        let plain = Reference { key: KeyId::PLAIN, secret: Secret([0; 32]), ..keyed };
        assert_ne!(tag(&keyed), tag(&other));
        assert_ne!(tag(&keyed), tag(&plain));
        let expected = Sha256::digest([&keyed.digest.0[..], b"MS P2P Caching"].concat());
        assert_eq!(tag(&plain).0, <[u8; 32]>::from(expected));
        assert_eq!(format!("{:?}", BlockHash::of(&keyed)), "BlockHash(secret)");
    }
}
