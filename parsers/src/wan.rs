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
//! | 01 | HELLO | min version u16, max version u16, store id 16, flags u8 (1 stores, 2 shares) |
//! | 02 | WELCOME | version u16, key id 8, time u64 (ms since 1970), flows u32, retain u64 |
//! | 03 | REFUSE | code u8 ([`Refusal`]) |
//! | 04 | PROGRESS | flow u64, resolved u64, credit u64 |
//! | 10 | OPEN | flow u64, client address, server address, credit u64 |
//! | 11 | OPENED | status u8 ([`DialStatus`]), credit u64 |
//! | 12 | LITERAL | bytes |
//! | 13 | DATA | reference, bytes |
//! | 14 | REF | reference, skip u32, length u32 |
//! | 15 | FIN | RESET | none |
//! | 16 | RESET | none |
//! | 17 | RELEASE | bytes u64 |
//! | 20 | FETCH | flow u64, count u16, numbers u64 each |
//! | 21 | BLOCK | number u64, bytes |
//! | 22 | GONE | number u64 |
//!
//! A PROGRESS of flow 2^64 - 1 concerns no flow: it is a sign of life with a number in `resolved`, which a core returns.
//!
//! Type 18 is kept for SEAL. A flow whose stream ends without FIN or RESET, or is itself reset, was
//! given up: the leg at the other side is reset at once, never closed in order. Credit and `resolved` are totals since the flow began, so the latest value says all:
//! a repeated or late PROGRESS does no harm.

use std::net::{IpAddr, SocketAddr};

use nom::bytes::complete::take;
use nom::combinator::{map, map_opt, map_res, rest, verify};
use nom::multi::length_count;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};
use nom::{IResult, Parser};

/// The protocol version this crate reads and writes.
pub const VERSION: u16 = 1;

/// The longest block a reference may name, in bytes. Every flow has room for one such block at its head, and it stays
/// well below what a sender retains for a flow.
pub const BLOCK_BYTES_MAX: usize = 128 << 10;

/// The longest LITERAL, in bytes.
pub const LITERAL_BYTES_MAX: usize = 128 << 10;

/// The most references one FETCH may name.
pub const FETCH_NUMBERS_MAX: usize = 256;

/// The flow of a PROGRESS that concerns none: a sign of life with a number in `resolved`, which the core returns.
pub const NO_FLOW: u64 = u64::MAX;

/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 5;

/// The longest payload of any frame, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = BLOCK_BYTES_MAX + REFERENCE_BYTES;

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
}

impl StreamKind {
    /// Returns the byte on the wire.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Control => 1,
            Self::Flow => 2,
            Self::Fetch => 3,
        }
    }

    /// Reads the byte on the wire.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Control),
            2 => Some(Self::Flow),
            3 => Some(Self::Fetch),
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
    },
    /// The core's answer to HELLO.
    Welcome {
        /// The version both will speak.
        version: u16,
        /// The core's current server secret.
        key: KeyId,
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
        /// Frame bytes the sender may have sent since the flow began.
        credit: u64,
    },
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
    Data(Reference, B),
    /// A slice of a content block.
    Ref {
        /// The block.
        reference: Reference,
        /// Where in the block the slice begins.
        skip: u32,
        /// The slice's length; at least 1.
        len: u32,
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
        /// Numbers of its REF frames, the first is 0.
        numbers: Vec<u64>,
    },
    /// A whole block that FETCH asked for.
    Block(u64, B),
    /// A number of FETCH whose block the core does not have any longer.
    Gone(u64),
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

impl<'a> Frame<&'a [u8]> {
    /// Reads the frame at the start of `input`. Returns it with the bytes it took, or `None` while it is incomplete.
    ///
    /// # Errors
    /// [`FrameError`] as soon as the header shows that no valid frame can follow.
    pub fn decode(input: &'a [u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some((header, body)) = input.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let kind = header[0];
        let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let max = payload_bytes_max(kind).ok_or(FrameError::UnknownType(kind))?;
        if len as usize > max {
            return Err(FrameError::TooLong { kind, len });
        }
        let Some(payload) = body.get(..len as usize) else { return Ok(None) };
        match payload_of(kind, payload) {
            Ok(([], frame)) => Ok(Some((frame, HEADER_BYTES + len as usize))),
            Ok(_) | Err(_) => Err(FrameError::Malformed(kind)),
        }
    }

    /// Replaces the borrowed payload by what `own` makes of it.
    pub fn map<B>(self, own: impl FnOnce(&'a [u8]) -> B) -> Frame<B> {
        match self {
            Self::Literal(bytes) => Frame::Literal(own(bytes)),
            Self::Data(reference, bytes) => Frame::Data(reference, own(bytes)),
            Self::Block(number, bytes) => Frame::Block(number, own(bytes)),
            Self::Hello { version_min, version_max, store, stores, shares } => {
                Frame::Hello { version_min, version_max, store, stores, shares }
            }
            Self::Welcome { version, key, time_ms, flows, retain } => {
                Frame::Welcome { version, key, time_ms, flows, retain }
            }
            Self::Refuse(refusal) => Frame::Refuse(refusal),
            Self::Progress { flow, resolved, credit } => Frame::Progress { flow, resolved, credit },
            Self::Open { flow, client, server, credit } => Frame::Open { flow, client, server, credit },
            Self::Opened { status, credit } => Frame::Opened { status, credit },
            Self::Ref { reference, skip, len } => Frame::Ref { reference, skip, len },
            Self::Fin => Frame::Fin,
            Self::Reset => Frame::Reset,
            Self::Release(credit) => Frame::Release(credit),
            Self::Fetch { flow, numbers } => Frame::Fetch { flow, numbers },
            Self::Gone(number) => Frame::Gone(number),
        }
    }
}

impl<B: AsRef<[u8]>> Frame<B> {
    /// Returns the bytes of content or literal that end the frame; they follow what [`Frame::encode_head`] writes.
    pub fn payload(&self) -> Option<&B> {
        match self {
            Self::Literal(bytes) | Self::Data(_, bytes) | Self::Block(_, bytes) => Some(bytes),
            Self::Hello { .. }
            | Self::Welcome { .. }
            | Self::Refuse(_)
            | Self::Progress { .. }
            | Self::Open { .. }
            | Self::Opened { .. }
            | Self::Ref { .. }
            | Self::Fin
            | Self::Reset
            | Self::Release(_)
            | Self::Fetch { .. }
            | Self::Gone(_) => None,
        }
    }

    /// Appends everything of the frame but [`Frame::payload`], which the caller sends from where it is.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        let kind = match self {
            Self::Hello { version_min, version_max, store, stores, shares } => {
                out.extend_from_slice(&version_min.to_be_bytes());
                out.extend_from_slice(&version_max.to_be_bytes());
                out.extend_from_slice(store);
                out.push(u8::from(*stores) | u8::from(*shares) << 1);
                HELLO
            }
            Self::Welcome { version, key, time_ms, flows, retain } => {
                out.extend_from_slice(&version.to_be_bytes());
                out.extend_from_slice(&key.0);
                out.extend_from_slice(&time_ms.to_be_bytes());
                out.extend_from_slice(&flows.to_be_bytes());
                out.extend_from_slice(&retain.to_be_bytes());
                WELCOME
            }
            Self::Refuse(refusal) => {
                out.push(refusal.to_byte());
                REFUSE
            }
            Self::Progress { flow, resolved, credit } => {
                out.extend_from_slice(&flow.to_be_bytes());
                out.extend_from_slice(&resolved.to_be_bytes());
                out.extend_from_slice(&credit.to_be_bytes());
                PROGRESS
            }
            Self::Open { flow, client, server, credit } => {
                out.extend_from_slice(&flow.to_be_bytes());
                encode_address(client, out);
                encode_address(server, out);
                out.extend_from_slice(&credit.to_be_bytes());
                OPEN
            }
            Self::Opened { status, credit } => {
                out.push(status.to_byte());
                out.extend_from_slice(&credit.to_be_bytes());
                OPENED
            }
            Self::Literal(_) => LITERAL,
            Self::Data(reference, _) => {
                encode_reference(reference, out);
                DATA
            }
            Self::Ref { reference, skip, len } => {
                encode_reference(reference, out);
                out.extend_from_slice(&skip.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
                REF
            }
            Self::Fin => FIN,
            Self::Reset => RESET,
            Self::Release(credit) => {
                out.extend_from_slice(&credit.to_be_bytes());
                RELEASE
            }
            Self::Fetch { flow, numbers } => {
                out.extend_from_slice(&flow.to_be_bytes());
                let count = u16::try_from(numbers.len()).expect("a FETCH is built with at most 256 numbers");
                out.extend_from_slice(&count.to_be_bytes());
                for number in numbers {
                    out.extend_from_slice(&number.to_be_bytes());
                }
                FETCH
            }
            Self::Block(number, _) => {
                out.extend_from_slice(&number.to_be_bytes());
                BLOCK
            }
            Self::Gone(number) => {
                out.extend_from_slice(&number.to_be_bytes());
                GONE
            }
        };
        let payload = self.payload().map_or(0, |bytes| bytes.as_ref().len());
        let len =
            u32::try_from(out.len() - start - HEADER_BYTES + payload).expect("frames are far below 4 GiB");
        out[start] = kind;
        out[start + 1..start + HEADER_BYTES].copy_from_slice(&len.to_be_bytes());
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        if let Some(payload) = self.payload() {
            out.extend_from_slice(payload.as_ref());
        }
    }
}

const HELLO: u8 = 0x01;
const WELCOME: u8 = 0x02;
const REFUSE: u8 = 0x03;
const PROGRESS: u8 = 0x04;
const OPEN: u8 = 0x10;
const OPENED: u8 = 0x11;
const LITERAL: u8 = 0x12;
const DATA: u8 = 0x13;
const REF: u8 = 0x14;
const FIN: u8 = 0x15;
const RESET: u8 = 0x16;
const RELEASE: u8 = 0x17;
const FETCH: u8 = 0x20;
const BLOCK: u8 = 0x21;
const GONE: u8 = 0x22;

fn payload_bytes_max(kind: u8) -> Option<usize> {
    match kind {
        LITERAL => Some(LITERAL_BYTES_MAX),
        DATA => Some(PAYLOAD_BYTES_MAX),
        BLOCK => Some(8 + BLOCK_BYTES_MAX),
        FETCH => Some(8 + 2 + 8 * FETCH_NUMBERS_MAX),
        HELLO | WELCOME | REFUSE | PROGRESS | OPEN | OPENED | REF | FIN | RESET | RELEASE | GONE => Some(256),
        _ => None,
    }
}

fn payload_of(kind: u8, input: &[u8]) -> IResult<&[u8], Frame<&[u8]>> {
    match kind {
        HELLO => map((be_u16, be_u16, array, be_u8), |(version_min, version_max, store, flags)| {
            Frame::Hello { version_min, version_max, store, stores: flags & 1 != 0, shares: flags & 2 != 0 }
        })
        .parse(input),
        WELCOME => map((be_u16, array, be_u64, be_u32, be_u64), |(version, key, time_ms, flows, retain)| {
            Frame::Welcome { version, key: KeyId(key), time_ms, flows, retain }
        })
        .parse(input),
        REFUSE => map(be_u8, |code| Frame::Refuse(Refusal::from_byte(code))).parse(input),
        PROGRESS => map((be_u64, be_u64, be_u64), |(flow, resolved, credit)| Frame::Progress {
            flow,
            resolved,
            credit,
        })
        .parse(input),
        OPEN => map((be_u64, address, address, be_u64), |(flow, client, server, credit)| Frame::Open {
            flow,
            client,
            server,
            credit,
        })
        .parse(input),
        OPENED => map((be_u8, be_u64), |(status, credit)| Frame::Opened {
            status: DialStatus::from_byte(status),
            credit,
        })
        .parse(input),
        LITERAL => map(verify(rest, |bytes: &[u8]| !bytes.is_empty()), Frame::Literal).parse(input),
        DATA => map(
            verify((reference, rest), |(reference, bytes): &(Reference, &[u8])| {
                reference.len as usize == bytes.len()
            }),
            |(reference, bytes)| Frame::Data(reference, bytes),
        )
        .parse(input),
        REF => map_opt((reference, be_u32, be_u32), |(reference, skip, len)| {
            let fits = len > 0 && skip.checked_add(len).is_some_and(|end| end <= reference.len);
            fits.then_some(Frame::Ref { reference, skip, len })
        })
        .parse(input),
        FIN => Ok((input, Frame::Fin)),
        RESET => Ok((input, Frame::Reset)),
        RELEASE => map(be_u64, Frame::Release).parse(input),
        FETCH => map(
            (
                be_u64,
                length_count(
                    verify(be_u16, |count| (1..=FETCH_NUMBERS_MAX).contains(&usize::from(*count))),
                    be_u64,
                ),
            ),
            |(flow, numbers)| Frame::Fetch { flow, numbers },
        )
        .parse(input),
        BLOCK => map((be_u64, rest), |(number, bytes)| Frame::Block(number, bytes)).parse(input),
        GONE => map(be_u64, Frame::Gone).parse(input),
        _ => Err(nom::Err::Failure(nom::error::Error::new(input, nom::error::ErrorKind::Switch))),
    }
}

fn array<const N: usize>(input: &[u8]) -> IResult<&[u8], [u8; N]> {
    map_res(take(N), <[u8; N]>::try_from).parse(input)
}

fn reference(input: &[u8]) -> IResult<&[u8], Reference> {
    map(
        (array, array, array, verify(be_u32, |len| (1..=BLOCK_BYTES_MAX).contains(&(*len as usize)))),
        |(digest, secret, key, len)| Reference {
            digest: Digest(digest),
            secret: Secret(secret),
            key: KeyId(key),
            len,
        },
    )
    .parse(input)
}

fn address(input: &[u8]) -> IResult<&[u8], SocketAddr> {
    let (input, family) = be_u8(input)?;
    let (input, ip) = match family {
        4 => map(array::<4>, IpAddr::from).parse(input)?,
        6 => map(array::<16>, IpAddr::from).parse(input)?,
        _ => return Err(nom::Err::Failure(nom::error::Error::new(input, nom::error::ErrorKind::Switch))),
    };
    map(be_u16, |port| SocketAddr::new(ip, port)).parse(input)
}

fn encode_reference(reference: &Reference, out: &mut Vec<u8>) {
    out.extend_from_slice(&reference.digest.0);
    out.extend_from_slice(&reference.secret.0);
    out.extend_from_slice(&reference.key.0);
    out.extend_from_slice(&reference.len.to_be_bytes());
}

fn encode_address(address: &SocketAddr, out: &mut Vec<u8>) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_frame_comes_back_from_its_bytes() {
        for frame in samples() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            let (decoded, taken) = Frame::decode(&bytes).unwrap().expect("the frame is complete");
            assert_eq!(taken, bytes.len(), "{frame:?}");
            assert_eq!(decoded.map(<[u8]>::to_vec), frame);
        }
    }

    #[test]
    fn a_cut_frame_is_incomplete_at_every_byte() {
        for frame in samples() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            for cut in 0..bytes.len() {
                assert_eq!(Frame::decode(&bytes[..cut]), Ok(None), "{frame:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_from_the_header_alone() {
        let header = [DATA, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Frame::decode(&header), Err(FrameError::TooLong { kind: DATA, len: u32::MAX }));
    }

    #[test]
    fn a_slice_outside_its_block_is_refused() {
        let mut bytes = Vec::new();
        Frame::<Vec<u8>>::Ref { reference: sample_reference(100), skip: 60, len: 41 }.encode(&mut bytes);
        assert_eq!(Frame::decode(&bytes), Err(FrameError::Malformed(REF)));
    }

    #[test]
    fn data_whose_length_is_not_its_references_is_refused() {
        let mut bytes = Vec::new();
        Frame::Data(sample_reference(4), b"five!".to_vec()).encode(&mut bytes);
        assert_eq!(Frame::decode(&bytes), Err(FrameError::Malformed(DATA)));
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Frame::decode(&bytes);
        }

        #[test]
        fn what_decodes_encodes_to_the_same_meaning(kind in 0u8..0x30, body in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut bytes = vec![kind];
            bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&body);
            if let Ok(Some((frame, _))) = Frame::decode(&bytes) {
                let mut again = Vec::new();
                frame.encode(&mut again);
                let (same, _) = Frame::decode(&again).unwrap().expect("complete");
                prop_assert_eq!(same, frame);
            }
        }
    }

    fn sample_reference(len: u32) -> Reference {
        Reference { digest: Digest([1; 32]), secret: Secret([2; 32]), key: KeyId([3; 8]), len }
    }

    fn samples() -> Vec<Frame<Vec<u8>>> {
        let v4 = SocketAddr::from(([10, 1, 0, 7], 50_000));
        let v6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 445));
        vec![
            Frame::Hello { version_min: 1, version_max: 3, store: [9; 16], stores: true, shares: false },
            Frame::Welcome { version: 1, key: KeyId([3; 8]), time_ms: 5, flows: 7, retain: 1 << 24 },
            Frame::Refuse(Refusal::Version),
            Frame::Refuse(Refusal::Other(99)),
            Frame::Progress { flow: 1, resolved: 2, credit: 3 },
            Frame::Open { flow: 1, client: v4, server: v6, credit: 65_536 },
            Frame::Opened { status: DialStatus::Refused, credit: 4 },
            Frame::Literal(b"abc".to_vec()),
            Frame::Data(sample_reference(3), b"abc".to_vec()),
            Frame::Ref { reference: sample_reference(100), skip: 60, len: 40 },
            Frame::Fin,
            Frame::Reset,
            Frame::Release(77),
            Frame::Fetch { flow: 4, numbers: vec![1, 5, u64::MAX] },
            Frame::Block(5, b"xyz".to_vec()),
            Frame::Gone(6),
        ]
    }
}
