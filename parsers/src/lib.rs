//! Wire formats: SMB, HTTP and Wanigan's own. Pure functions and small state over `&[u8]`.
//!
//! This crate does no I/O, knows no clock and allocates only what a checked length allows. No input makes it
//! panic. Parsers of streams take any segmentation of the bytes and give the same result.

use std::fmt;

pub mod detect;
pub mod discovery;
pub mod http1;
pub mod nbss;
pub mod peer;
pub mod smb2;
pub mod wan;

/// The numbers of a node's certificate that name it: SHA-256 of its public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub [u8; 32]);

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `T`, the hash of a block's hash: peers index and ask by it. Who has only this proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub [u8; 32]);

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}{:02x}{:02x}..", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// The way bytes travel through a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the client to the content server: requests, and the data of writes.
    ToServer,
    /// From the content server to the client: responses, and the data of reads.
    ToClient,
}

impl Direction {
    /// Both directions, for tables that have one entry each.
    pub const ALL: [Self; 2] = [Self::ToServer, Self::ToClient];

    /// Returns the opposite direction.
    #[must_use]
    pub fn reverse(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }

    /// Returns the name used in logs and as the value of metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ToServer => "to_server",
            Self::ToClient => "to_client",
        }
    }
}
