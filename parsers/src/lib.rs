//! Wire formats: SMB, HTTP and Wanigan's own. Pure functions and small state over `&[u8]`.
//!
//! This crate does no I/O, knows no clock and allocates only what a checked length allows. No input makes it
//! panic. Parsers of streams take any segmentation of the bytes and give the same result.

pub mod detect;
pub mod http1;
pub mod nbss;
pub mod smb2;
pub mod wan;

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
