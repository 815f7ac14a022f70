//! What content belongs to, as far as a shim can tell: a file's place and its version.
//!
//! Both are hashes of what the protocol names, so that they have a fixed size and compare quickly. They serve to find
//! blocks that may be the same and to decide of which blocks a slice may be named; never to decide what bytes are.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Where content is found: server, share and path, stream and snapshot; or server, host and target.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(pub [u8; 16]);

/// One state of what is at a place: it changes whenever the content may have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub [u8; 16]);

/// A file or representation, in one version if that can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object {
    /// Where it is.
    pub place: Place,
    /// `None` where nothing vouches that what was read of it before is the same file, for the same readers.
    pub version: Option<Version>,
}

impl Place {
    /// Names a place by parts that name it together; no two lists of parts name the same.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(hash(b"wanigan place v1", parts))
    }

    /// Tells the places of one server from those of another.
    #[must_use]
    pub fn at(&self, server: &[u8]) -> Self {
        Self::of(&[server, &self.0])
    }
}

impl Version {
    /// Names a version by parts that name it together.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(hash(b"wanigan version v1", parts))
    }
}

fn hash(label: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new_with_prefix(label);
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut short = [0; 16];
    short.copy_from_slice(&hash.finalize()[..16]);
    short
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({:02x}{:02x}{:02x}{:02x})", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({:02x}{:02x}{:02x}{:02x})", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        assert_ne!(Place::of(&[b"ab", b"c"]), Place::of(&[b"a", b"bc"]));
        assert_ne!(Place::of(&[b"a"]).0, Version::of(&[b"a"]).0);
    }
}
