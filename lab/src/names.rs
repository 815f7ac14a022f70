//! What blocks are called: digest, secret, hash and tag, computed here a second time and from the documents alone
//! (docs/protocol.md), so that a search of a capture looks for what the nodes must not say and not for what they think
//! they do not.

use std::path::Path;

use anyhow::{Context, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};

use crate::capture::Needles;

/// What a core makes secrets with, or that it makes none.
#[derive(Clone)]
pub enum Domain {
    /// Keyed mode: the core's secret.
    Keyed([u8; 32]),
    /// Plain mode.
    Plain,
}

/// The names of one block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// `D`, SHA-256 of the block.
    pub digest: [u8; 32],
    /// `S`, in keyed mode.
    pub secret: Option<[u8; 32]>,
    /// `H`: whoever has it is entitled to the block.
    pub hash: [u8; 32],
    /// `T`, under which it is asked for. The only one of the four that may be seen on a LAN.
    pub tag: [u8; 32],
}

impl Domain {
    /// Reads the secret of a core from its state directory.
    ///
    /// # Errors
    /// If it is not there, or not as long as it should be.
    pub fn of_core(state: &Path) -> Result<Self> {
        let secret = std::fs::read(state.join("server-secret")).context("read the core's secret")?;
        let secret = secret.try_into().ok().context("a server secret has 32 bytes")?;
        Ok(Self::Keyed(secret))
    }

    /// Names a block.
    #[must_use]
    pub fn names(&self, block: &[u8]) -> Names {
        let digest: [u8; 32] = Sha256::digest(block).into();
        match self {
            Self::Keyed(key) => {
                let secret = hmac(key, &[b"wanigan secret v1", &digest]);
                let hash = hmac(&secret, &[&digest]);
                Names { digest, secret: Some(secret), hash, tag: sha256(&[&hash, &secret]) }
            }
            Self::Plain => {
                let tag = sha256(&[&digest, b"MS P2P Caching"]);
                Names { digest, secret: None, hash: digest, tag }
            }
        }
    }

    /// Returns the public name of the domain's secret: eight bytes, zero in plain mode.
    #[must_use]
    pub fn key_id(&self) -> [u8; 8] {
        let mut id = [0; 8];
        if let Self::Keyed(key) = self {
            id.copy_from_slice(&hmac(key, &[b"wanigan key id v1"])[..8]);
        }
        id
    }

    /// Returns what must not be seen where this content crosses: digests, secrets and hashes of its blocks, and pieces of
    /// the content itself, one in any packet of it.
    #[must_use]
    pub fn secrets(&self, content: &[u8]) -> Needles {
        let mut needles = Needles::new();
        needles.add_pieces("content", content, 512);
        for (number, block) in content.chunks(BLOCK).enumerate() {
            let names = self.names(block);
            needles.add(&format!("digest of block {number}"), &names.digest);
            if let Some(secret) = names.secret {
                needles.add(&format!("secret of block {number}"), &secret);
                needles.add(&format!("hash of block {number}"), &names.hash);
            }
        }
        needles
    }

    /// Returns the tags of the content's blocks.
    #[must_use]
    pub fn tags(&self, content: &[u8]) -> Needles {
        let mut needles = Needles::new();
        for (number, block) in content.chunks(BLOCK).enumerate() {
            needles.add(&format!("tag of block {number}"), &self.names(block).tag);
        }
        needles
    }
}

/// Authenticates parts, one after the other, with HMAC-SHA-256.
#[must_use]
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// Content is cut on this grid of its file's offset.
pub const BLOCK: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_names_of_a_block_differ_and_depend_on_the_secret() {
        let (one, other) = (Domain::Keyed([1; 32]).names(b"block"), Domain::Keyed([2; 32]).names(b"block"));
        assert_eq!(one.digest, other.digest);
        let all = [one.digest, one.hash, other.hash, one.tag, other.tag];
        for (number, name) in all.iter().enumerate() {
            assert!(!all[number + 1..].contains(name));
        }
        let plain = Domain::Plain.names(b"block");
        assert!(plain.secret.is_none() && plain.hash == plain.digest && plain.tag != one.tag);
    }
}
