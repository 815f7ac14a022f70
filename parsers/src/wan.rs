//! The link between an edge and a core: frames of flows, of the control stream and of fetches.
//!
//! A link is one QUIC connection. The edge opens every stream; a stream's first byte says what it is for
//! ([`StreamKind`]). After it, both directions are a sequence of frames:
//!
//! ```text
//!  0       1               5
//! +-------+---------------+----------------------+
//! | type  | length u32    | payload, length bytes|      all integers are big-endian
//! +-------+---------------+----------------------+
//!
//! reference:  digest 32 | secret 32 | key id 8 | block length u32                        (76 bytes)
//! address:    family u8 (4, 6) | address 4 or 16 | port u16
//! ```
//!
//! | type | frame | payload |
//! |--|--|--|
//! | 01 | HELLO | min version u16, max version u16, store id 16, flags u8 (1 stores, 2 shares, 4 asks) |
//! | 02 | WELCOME | version u16, time u64 (ms since 1970), flows u32, retain u64 |
//! | 03 | REFUSE | code u8 ([`Refusal`]) |
//! | 04 | PROGRESS | flow u64, resolved u64, blocks u64, credit u64 |
//! | 05 | KEYS | key id 8, 0 or 1 u8: older key id 8, its time left u64 (ms) |
//! | 06 | REACHED | count u8, addresses |
//! | 10 | OPEN | flow u64, client address, server address, credit u64 |
//! | 11 | OPENED | status u8 ([`DialStatus`]), credit u64 |
//! | 12 | LITERAL | bytes |
//! | 13 | DATA | reference, number u64, bytes |
//! | 14 | REF | reference, number u64, skip u32, length u32 |
//! | 15 | FIN | RESET | none |
//! | 16 | RESET | none |
//! | 17 | RELEASE | bytes u64 |
//! | 18 | SEAL | reference, number u64, count u8, each offset u64, length u32 |
//! | 19 | REF, with the reference under the older key | as REF, then older key id 8, older secret 32 |
//! | 1a | RUN | first number u64, count u16 |
//! | 1b | SLICE | number u64, skip u32, length u32 |
//! | 1c | LITERAL, compressed | length u32, flags u8, zstd |
//! | 1d | DATA, compressed | reference, number u64, flags u8, zstd |
//! | 20 | FETCH | flow u64, flags u8 (1 refer), count u16, numbers u64 each |
//! | 21 | BLOCK | number u64, bytes |
//! | 22 | GONE | number u64 |
//! | 23 | REFER | node id 32, wait u32 (ms), count u8, addresses, count u16, numbers u64 each |
//! | 24 | REKEY | older key id 8, count u16, each digest 32, proof 32 |
//! | 25 | REKEYED | key id 8, count u16, each secret 32, proof 32 |
//!
//! A PROGRESS of flow 2^64 - 1 concerns no flow: it is a sign of life with a number in `resolved`, which a core returns
//! with its time (ms since 1970) in `credit`.
//!
//! `number` is the sender's number for the reference, on this link and in this direction: from 0 up, never used for
//! another. RUN and SLICE name blocks by it, once a PROGRESS said that the frame which introduced it was taken, and
//! while fewer than half of [`NUMBERED_MAX`] newer ones exist.
//!
//! A flow whose stream ends without FIN or RESET, or is itself reset, was
//! given up: the leg at the other side is reset at once, never closed in order. Credit and `resolved` are totals since the flow began, so the latest value says all:
//! a repeated or late PROGRESS does no harm.
//!
//! The low 8 bits of `credit` in OPEN, OPENED and PROGRESS say what the receiver can unpack (`docs/protocol.md`, *Compression*); the
//! credit is in the others. RELEASE has no such bits.

use std::net::SocketAddr;

use crate::NodeId;

mod codec;

/// The protocol version this crate reads and writes.
pub const VERSION: u16 = 3;

/// The longest block a reference may name, in bytes. Every flow has room for one such block at its head, and it stays
/// well below what a sender retains for a flow.
pub const BLOCK_BYTES_MAX: usize = 128 << 10;

/// The longest LITERAL, in bytes.
pub const LITERAL_BYTES_MAX: usize = 128 << 10;

/// The most references one FETCH may name.
pub const FETCH_NUMBERS_MAX: usize = 256;

/// The most addresses under which an edge may be reached by others.
pub const ADDRESSES_MAX: usize = 8;

/// The most blocks that one REKEY may name.
pub const REKEY_BLOCKS_MAX: usize = 256;

/// The most references whose numbers a receiver keeps, for each link: the newest. A sender uses those of the newest
/// half, so that what overtakes a frame cannot take away what it names.
pub const NUMBERED_MAX: usize = 1 << 17;

/// The most blocks that one RUN may name.
pub const RUN_BLOCKS_MAX: usize = 256;

/// The most spans that one SEAL may have.
pub const SEAL_SPANS_MAX: usize = 64;

/// Bytes that came as LITERAL and that a receiver keeps for a SEAL to name, for each flow: the newest.
pub const SEAL_WINDOW: usize = 1 << 20;

/// The flow of a PROGRESS that concerns none: a sign of life with a number in `resolved`, which the core returns.
pub const NO_FLOW: u64 = u64::MAX;

/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 5;

/// The longest payload of any frame, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = REFERENCE_BYTES + 8 + BLOCK_BYTES_MAX;

/// Bytes of a [`Reference`] on the wire.
pub const REFERENCE_BYTES: usize = 32 + 32 + 8 + 4;

/// What a stream is for: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Hello, time, limits, progress of flows. One a connection, the first stream.
    Control,
    /// One intercepted connection.
    Flow,
    /// One FETCH and its answer.
    Fetch,
    /// One REKEY and its answer.
    Rekey,
}

impl StreamKind {
    /// Returns the byte on the wire.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Control => 1,
            Self::Flow => 2,
            Self::Fetch => 3,
            Self::Rekey => 4,
        }
    }

    /// Reads the byte on the wire.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Control),
            2 => Some(Self::Flow),
            3 => Some(Self::Fetch),
            4 => Some(Self::Rekey),
            _ => None,
        }
    }
}

/// SHA-256 of a block: what its bytes are checked against.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Enough to tell blocks apart in a log, too little to ask for one.
        write!(f, "{:02x}{:02x}{:02x}{:02x}..", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// The block's secret under a core's server secret; zeros in plain mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Which server secret a block's secret was made with; also the name of the domain that shares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 8]);

impl KeyId {
    /// The domain of plain mode, in which blocks have no secrets.
    pub const PLAIN: Self = Self([0; 8]);
}

/// Names one block of content. Possession of it entitles to the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Digest of the whole block.
    pub digest: Digest,
    /// Secret of the block.
    pub secret: Secret,
    /// The server secret that made `secret`.
    pub key: KeyId,
    /// Length of the whole block, in bytes; at least 1, at most [`BLOCK_BYTES_MAX`].
    pub len: u32,
}

impl Reference {
    /// Returns the same block's reference under another server secret.
    #[must_use]
    pub fn under(&self, named: Named) -> Self {
        Self { key: named.key, secret: named.secret, ..*self }
    }
}

/// A block's name under another server secret than its reference's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Named {
    /// The server secret.
    pub key: KeyId,
    /// The block's secret under it.
    pub secret: Secret,
}

/// A part of what a flow carried in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealSpan {
    /// Where it begins: bytes that this direction of the flow carried before it, in frames of whatever type.
    pub offset: u64,
    /// Its length in bytes; at least 1.
    pub len: u32,
}

/// The core's word that an edge was sent a block. A wrong one costs time, never bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referral {
    /// The edge; the asker itself where the block is on its way to it for another flow.
    pub node: NodeId,
    /// How long the block may still be on its way to that edge, in milliseconds; 0 where it has arrived.
    pub wait_ms: u32,
    /// Where the edge is reached; at most [`ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
}

/// A server secret that was replaced and is good for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OlderKey {
    /// The server secret.
    pub key: KeyId,
    /// How long peers answer for blocks named under it, in milliseconds.
    pub left_ms: u64,
}

/// Why a core takes no part in a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No protocol version is spoken by both.
    Version,
    /// The node's certificate does not make it an edge.
    NotAnEdge,
    /// The core has as many edges as it is set to serve.
    TooManyEdges,
    /// A code of a newer version.
    Other(u8),
}

impl Refusal {
    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Version,
            2 => Self::NotAnEdge,
            3 => Self::TooManyEdges,
            other => Self::Other(other),
        }
    }

    fn to_byte(self) -> u8 {
        match self {
            Self::Version => 1,
            Self::NotAnEdge => 2,
            Self::TooManyEdges => 3,
            Self::Other(byte) => byte,
        }
    }
}

/// What came of the core's dial to the content server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialStatus {
    /// Connected.
    Connected,
    /// The server refused the connection.
    Refused,
    /// No answer in time.
    TimedOut,
    /// No way to the server.
    Unreachable,
    /// The core's `allow-servers` does not name that server and port for this edge.
    NotAllowed,
    /// The client address is one of the core's own sockets: a loop.
    Loop,
    /// The core has no memory or sockets left for another flow.
    Overloaded,
    /// A code of a newer version.
    Other(u8),
}

impl DialStatus {
    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Connected,
            1 => Self::Refused,
            2 => Self::TimedOut,
            3 => Self::Unreachable,
            4 => Self::NotAllowed,
            5 => Self::Loop,
            6 => Self::Overloaded,
            other => Self::Other(other),
        }
    }

    fn to_byte(self) -> u8 {
        match self {
            Self::Connected => 0,
            Self::Refused => 1,
            Self::TimedOut => 2,
            Self::Unreachable => 3,
            Self::NotAllowed => 4,
            Self::Loop => 5,
            Self::Overloaded => 6,
            Self::Other(byte) => byte,
        }
    }
}

/// One frame. `B` holds the payload of those that carry content: a slice when read, owned bytes when sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<B> {
    /// First frame of an edge on the control stream.
    Hello {
        /// Lowest version spoken.
        version_min: u16,
        /// Highest version spoken.
        version_max: u16,
        /// Names the edge's store; a new one means that the old blocks are gone.
        store: [u8; 16],
        /// Whether the edge keeps what it gets.
        stores: bool,
        /// Whether the edge gives its blocks to peers.
        shares: bool,
        /// Whether the edge takes blocks from peers.
        asks: bool,
    },
    /// The core's answer to HELLO.
    Welcome {
        /// The version both will speak.
        version: u16,
        /// The core's time, milliseconds since 1970.
        time_ms: u64,
        /// Flows the core grants this edge at once.
        flows: u32,
        /// Bytes the core keeps for a flow's unacknowledged references.
        retain: u64,
    },
    /// The core's answer to HELLO when there will be no link.
    Refuse(Refusal),
    /// How far the receiver of a flow has come: references resolved, frame bytes it grants.
    Progress {
        /// The flow, as named by OPEN.
        flow: u64,
        /// References resolved since the flow began: their verified bytes are held until written.
        resolved: u64,
        /// DATA and SEAL frames taken since the flow began: their blocks are in the receiver's hands.
        blocks: u64,
        /// Frame bytes the sender may have sent since the flow began.
        credit: u64,
    },
    /// The core's server secrets: after WELCOME, and whenever they change.
    Keys {
        /// The current one.
        key: KeyId,
        /// The one before, in its grace period.
        older: Option<OlderKey>,
    },
    /// Where peers and edges that the core names this edge to reach its transfer; at most [`ADDRESSES_MAX`].
    Reached(Vec<SocketAddr>),
    /// First frame of a flow, from the edge.
    Open {
        /// The edge's number for this flow, never used twice on one link.
        flow: u64,
        /// The client's address as the edge saw it.
        client: SocketAddr,
        /// The server the client asked for.
        server: SocketAddr,
        /// Frame bytes the core may send.
        credit: u64,
    },
    /// First frame of a flow, from the core.
    Opened {
        /// What came of the dial.
        status: DialStatus,
        /// Frame bytes the edge may send.
        credit: u64,
    },
    /// Bytes to pass on as they are.
    Literal(B),
    /// A content block in full: pass on and store.
    Data {
        /// The block.
        reference: Reference,
        /// The sender's number for the reference.
        number: u64,
        /// The block's bytes.
        bytes: B,
    },
    /// A slice of a content block.
    Ref {
        /// The block.
        reference: Reference,
        /// The sender's number for the reference.
        number: u64,
        /// The block's name under the core's older server secret, in its grace period.
        older: Option<Named>,
        /// Where in the block the slice begins.
        skip: u32,
        /// The slice's length; at least 1.
        len: u32,
    },
    /// Bytes that went as LITERAL are a block: store it. Nothing to pass on.
    Seal {
        /// The block.
        reference: Reference,
        /// The sender's number for the reference.
        number: u64,
        /// Where its bytes went, in the block's order; at most [`SEAL_SPANS_MAX`], together as long as the block.
        spans: Vec<SealSpan>,
    },
    /// Whole blocks, one after the other, whose references have consecutive numbers.
    Run {
        /// The first one's number.
        first: u64,
        /// How many; at least 1, at most [`RUN_BLOCKS_MAX`].
        count: u16,
    },
    /// A slice of a content block whose reference has a number.
    Slice {
        /// The number.
        number: u64,
        /// Where in the block the slice begins.
        skip: u32,
        /// The slice's length; at least 1.
        len: u32,
    },
    /// LITERAL, compressed.
    PackedLiteral {
        /// Length of the bytes to pass on; at most [`LITERAL_BYTES_MAX`].
        len: u32,
        /// Flags and zstd; shorter than `len`.
        bytes: B,
    },
    /// DATA, compressed.
    PackedData {
        /// The block.
        reference: Reference,
        /// The sender's number for the reference.
        number: u64,
        /// Flags and zstd; shorter than the block.
        bytes: B,
    },
    /// The sender's leg has ended in good order.
    Fin,
    /// The sender's leg was reset; what came before it is passed on first.
    Reset,
    /// The sender gives back this many bytes of its credit: they count as if they had been sent.
    Release(u64),
    /// References of a flow, by their numbers, that could not be resolved.
    Fetch {
        /// The flow.
        flow: u64,
        /// Whether the asker would rather be told of an edge that has the block (REFER).
        refer: bool,
        /// Numbers of its REF frames, the first is 0.
        numbers: Vec<u64>,
    },
    /// A whole block that FETCH asked for.
    Block(u64, B),
    /// A number of FETCH whose block the core does not have any longer.
    Gone(u64),
    /// An edge that was sent these references' blocks.
    Refer {
        /// Who it is.
        referral: Referral,
        /// Numbers out of FETCH.
        numbers: Vec<u64>,
    },
    /// An edge asks for the secrets, under the current server secret, of blocks it has under an older one.
    Rekey {
        /// The older server secret.
        key: KeyId,
        /// The blocks, each with a proof that the edge was given its older name; at most [`REKEY_BLOCKS_MAX`].
        blocks: Vec<(Digest, [u8; 32])>,
    },
    /// The core's answer to REKEY, block by block.
    Rekeyed {
        /// The current server secret.
        key: KeyId,
        /// A secret for each block, with a proof that the core knows its older name; zeros for those whose proof was
        /// wrong.
        secrets: Vec<(Secret, [u8; 32])>,
    },
}

/// A frame that breaks the protocol. The link or flow it came on is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The length field is larger than any frame may be.
    TooLong {
        /// The frame's type.
        kind: u8,
        /// The length it claims, in bytes.
        len: u32,
    },
    /// A type of no frame of this version.
    UnknownType(u8),
    /// The payload does not have the form of its type.
    Malformed(u8),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong { kind, len } => write!(f, "frame of type {kind:#04x} claims {len} bytes"),
            Self::UnknownType(kind) => write!(f, "frame of unknown type {kind:#04x}"),
            Self::Malformed(kind) => write!(f, "malformed frame of type {kind:#04x}"),
        }
    }
}

impl std::error::Error for FrameError {}
