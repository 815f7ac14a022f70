//! Discovery between edges of one LAN: two datagrams, ASK to everybody and HAVE to the one who asked.
//!
//! A datagram is one message, whole; all integers are big-endian.
//!
//! ```text
//!  0         3      4      5
//! +---------+------+------+------------------------------------------------
//! | "WNG"   | vers | type | the rest depends on the type
//! +---------+------+------+------------------------------------------------
//!
//! ASK, type 1: 70 bytes and 64 for each block
//!  5        13              45         53           69     70
//! +--------+---------------+----------+------------+------+----------------
//! | key id | requester id  | time, ms | nonce      | n    | n blocks
//! |  8     |  32           |  u64     |  16        | u8   |
//! +--------+---------------+----------+------------+------+----------------
//!   block:   tag 32 | proof 32
//!
//! HAVE, type 2: 73 bytes and 34 for each block
//!  5               37           53             69      71     72     73
//! +---------------+------------+--------------+-------+------+------+------
//! | responder id  | its nonce  | ASK's nonce  | port  | load | n    | n blocks
//! |  32           |  16        |  16          | u16   | u8   | u8   |
//! +---------------+------------+--------------+-------+------+------+------
//!   block:   index in the ASK u8 | flags u8 (1 soon) | proof 32
//! ```
//!
//! `n` is 1 to 18. The blocks of a HAVE are in the order of the ASK, none twice, so a HAVE is always shorter than the
//! ASK it answers. The time of the ASK is not repeated: the requester finds it by the nonce, and the proofs cover it.
//! Bits of `flags` that have no meaning are zero; a reader refuses what it does not know, whole.

use nom::bytes::complete::{tag, take};
use nom::combinator::{map, map_res, verify};
use nom::error::ErrorKind;
use nom::multi::length_count;
use nom::number::complete::{be_u8, be_u16, be_u64};
use nom::{IResult, Parser};

use crate::wan::KeyId;
use crate::{NodeId, Tag};

/// The first bytes of every datagram.
pub const MAGIC: [u8; 3] = *b"WNG";

/// The version this crate reads and writes.
pub const VERSION: u8 = 1;

/// The longest datagram, in bytes of UDP payload: what IPv6 carries over any path without fragments (RFC 8200
/// section 5, less its header and UDP's).
pub const DATAGRAM_BYTES_MAX: usize = 1_232;

/// The most blocks a datagram names.
pub const BLOCKS_MAX: usize = (DATAGRAM_BYTES_MAX - ASK_HEADER_BYTES) / ASK_BLOCK_BYTES;

/// Bytes of an ASK before its blocks.
pub const ASK_HEADER_BYTES: usize = HEADER_BYTES + 8 + 32 + 8 + 16 + 1;

/// Bytes of each block of an ASK.
pub const ASK_BLOCK_BYTES: usize = 32 + 32;

/// Bytes of a HAVE before its blocks.
pub const HAVE_HEADER_BYTES: usize = HEADER_BYTES + 32 + 16 + 16 + 2 + 1 + 1;

/// Bytes of each block of a HAVE.
pub const HAVE_BLOCK_BYTES: usize = 1 + 1 + 32;

const HEADER_BYTES: usize = 5;

const ASK: u8 = 1;
const HAVE: u8 = 2;

const SOON: u8 = 1;

const _: () = {
    assert!(BLOCKS_MAX == 18);
    // A HAVE is never longer than its ASK: true of one block, and every other adds less to it.
    assert!(HAVE_HEADER_BYTES + HAVE_BLOCK_BYTES <= ASK_HEADER_BYTES + ASK_BLOCK_BYTES);
    assert!(HAVE_BLOCK_BYTES <= ASK_BLOCK_BYTES);
};

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datagram {
    /// Who has these blocks?
    Ask(Ask),
    /// I have some of them.
    Have(Have),
}

/// Who has these blocks?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The server secret that made the blocks' secrets.
    pub key: KeyId,
    /// Who asks.
    pub requester: NodeId,
    /// The time of the key's domain, milliseconds since 1970.
    pub time_ms: u64,
    /// Names this ASK.
    pub nonce: [u8; 16],
    /// What is asked for: at least one block, at most [`BLOCKS_MAX`].
    pub blocks: Vec<AskedBlock>,
}

/// One block of an [`Ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedBlock {
    /// The block's tag.
    pub tag: Tag,
    /// Shows that the requester has the block's hash.
    pub proof: [u8; 32],
}

/// I have some of the blocks of an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Have {
    /// Who answers.
    pub responder: NodeId,
    /// The responder's nonce.
    pub nonce: [u8; 16],
    /// The nonce of the ASK.
    pub ask_nonce: [u8; 16],
    /// The TCP port at which the responder gives blocks away; not 0.
    pub port: u16,
    /// How busy the responder is: 0 idle, 255 as busy as it can be.
    pub load: u8,
    /// What the responder has: at least one block, at most [`BLOCKS_MAX`], indices ascending.
    pub blocks: Vec<HadBlock>,
}

/// One block of a [`Have`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HadBlock {
    /// Which block of the ASK, counted from 0.
    pub index: u8,
    /// Whether the block is still on its way to the responder.
    pub soon: bool,
    /// Shows that the responder has the block's hash.
    pub proof: [u8; 32],
}

/// What is no datagram of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramError {
    /// It does not begin as ours do.
    NotOurs,
    /// A version that this crate does not know.
    Version(u8),
    /// A type that this version does not have.
    Type(u8),
    /// It ends before its message does.
    Short,
    /// It goes on for so many bytes after its message.
    Trailing(usize),
    /// A field has a value that it cannot have.
    Malformed,
}

impl std::fmt::Display for DatagramError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotOurs => f.write_str("not a datagram of discovery"),
            Self::Version(version) => write!(f, "datagram of version {version}"),
            Self::Type(kind) => write!(f, "datagram of unknown type {kind}"),
            Self::Short => f.write_str("datagram ends early"),
            Self::Trailing(bytes) => write!(f, "datagram with {bytes} bytes too many"),
            Self::Malformed => f.write_str("malformed datagram"),
        }
    }
}

impl std::error::Error for DatagramError {}

impl Datagram {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`DatagramError`] for anything but one whole message.
    pub fn decode(input: &[u8]) -> Result<Self, DatagramError> {
        let (input, kind) = header(input)?;
        let (rest, datagram) = match kind {
            ASK => map(ask, Self::Ask).parse(input),
            HAVE => map(have, Self::Have).parse(input),
            other => return Err(DatagramError::Type(other)),
        }
        .map_err(blame)?;
        if rest.is_empty() { Ok(datagram) } else { Err(DatagramError::Trailing(rest.len())) }
    }
}

impl Ask {
    /// Returns the datagram.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(ASK, ASK_HEADER_BYTES + ASK_BLOCK_BYTES * self.blocks.len());
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.requester.0);
        out.extend_from_slice(&self.time_ms.to_be_bytes());
        out.extend_from_slice(&self.nonce);
        out.push(count(self.blocks.len()));
        for block in &self.blocks {
            out.extend_from_slice(&block.tag.0);
            out.extend_from_slice(&block.proof);
        }
        out
    }
}

impl Have {
    /// Returns the datagram.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(HAVE, HAVE_HEADER_BYTES + HAVE_BLOCK_BYTES * self.blocks.len());
        out.extend_from_slice(&self.responder.0);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.ask_nonce);
        out.extend_from_slice(&self.port.to_be_bytes());
        out.push(self.load);
        out.push(count(self.blocks.len()));
        for block in &self.blocks {
            out.push(block.index);
            out.push(if block.soon { SOON } else { 0 });
            out.extend_from_slice(&block.proof);
        }
        out
    }
}

fn begin(kind: u8, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.push(kind);
    out
}

fn count(blocks: usize) -> u8 {
    debug_assert!((1..=BLOCKS_MAX).contains(&blocks));
    u8::try_from(blocks).expect("a datagram is built with at most 18 blocks")
}

/// Reads what all datagrams begin with, and returns the type.
fn header(input: &[u8]) -> Result<(&[u8], u8), DatagramError> {
    let magic = |input| tag::<_, _, nom::error::Error<&[u8]>>(&MAGIC[..]).parse(input);
    let (input, _) = magic(input).map_err(|_| DatagramError::NotOurs)?;
    let (input, version) = be_u8(input).map_err(blame)?;
    if version != VERSION {
        return Err(DatagramError::Version(version));
    }
    be_u8(input).map_err(blame)
}

fn blame(error: nom::Err<nom::error::Error<&[u8]>>) -> DatagramError {
    match error {
        nom::Err::Incomplete(_) => DatagramError::Short,
        nom::Err::Error(error) | nom::Err::Failure(error) if error.code == ErrorKind::Eof => {
            DatagramError::Short
        }
        nom::Err::Error(_) | nom::Err::Failure(_) => DatagramError::Malformed,
    }
}

fn ask(input: &[u8]) -> IResult<&[u8], Ask> {
    map(
        (array, array, be_u64, array, length_count(block_count, (array, array))),
        |(key, requester, time_ms, nonce, blocks)| Ask {
            key: KeyId(key),
            requester: NodeId(requester),
            time_ms,
            nonce,
            blocks: blocks.into_iter().map(|(tag, proof)| AskedBlock { tag: Tag(tag), proof }).collect(),
        },
    )
    .parse(input)
}

fn have(input: &[u8]) -> IResult<&[u8], Have> {
    map(
        (
            array,
            array,
            array,
            verify(be_u16, |port| *port != 0),
            be_u8,
            verify(length_count(block_count, had_block), |blocks: &Vec<HadBlock>| {
                blocks.is_sorted_by(|one, next| one.index < next.index)
            }),
        ),
        |(responder, nonce, ask_nonce, port, load, blocks)| Have {
            responder: NodeId(responder),
            nonce,
            ask_nonce,
            port,
            load,
            blocks,
        },
    )
    .parse(input)
}

fn had_block(input: &[u8]) -> IResult<&[u8], HadBlock> {
    let index = verify(be_u8, |index| usize::from(*index) < BLOCKS_MAX);
    let flags = verify(be_u8, |flags| flags & !SOON == 0);
    map((index, flags, array), |(index, flags, proof)| HadBlock { index, soon: flags & SOON != 0, proof })
        .parse(input)
}

fn block_count(input: &[u8]) -> IResult<&[u8], u8> {
    verify(be_u8, |count| (1..=BLOCKS_MAX).contains(&usize::from(*count))).parse(input)
}

fn array<const N: usize>(input: &[u8]) -> IResult<&[u8], [u8; N]> {
    map_res(take(N), <[u8; N]>::try_from).parse(input)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_datagram_comes_back_from_its_bytes() {
        for blocks in 1..=BLOCKS_MAX {
            for bytes in [sample_ask(blocks).encode(), sample_have(blocks).encode()] {
                assert!(bytes.len() <= DATAGRAM_BYTES_MAX);
                assert_eq!(encode(&Datagram::decode(&bytes).unwrap()), bytes);
            }
            let ask = sample_ask(blocks);
            assert_eq!(Datagram::decode(&ask.encode()), Ok(Datagram::Ask(ask)));
            let have = sample_have(blocks);
            assert_eq!(Datagram::decode(&have.encode()), Ok(Datagram::Have(have)));
        }
    }

    #[test]
    fn a_have_is_never_longer_than_its_ask() {
        for asked in 1..=BLOCKS_MAX {
            for had in 1..=asked {
                assert!(sample_have(had).encode().len() <= sample_ask(asked).encode().len());
            }
        }
    }

    #[test]
    fn a_datagram_cut_anywhere_is_refused_and_so_is_its_rest() {
        for bytes in [sample_ask(3).encode(), sample_have(3).encode()] {
            for cut in 0..bytes.len() {
                let expected = if cut < MAGIC.len() { DatagramError::NotOurs } else { DatagramError::Short };
                assert_eq!(Datagram::decode(&bytes[..cut]), Err(expected), "cut at {cut}");
                if cut > 0 {
                    assert_eq!(Datagram::decode(&bytes[cut..]), Err(DatagramError::NotOurs));
                }
            }
        }
    }

    #[test]
    fn bytes_after_the_message_are_refused() {
        for mut bytes in [sample_ask(2).encode(), sample_have(2).encode()] {
            bytes.extend_from_slice(&[0; 5]);
            assert_eq!(Datagram::decode(&bytes), Err(DatagramError::Trailing(5)));
        }
    }

    #[test]
    fn another_version_or_type_is_named() {
        let mut bytes = sample_ask(1).encode();
        bytes[4] = 3;
        assert_eq!(Datagram::decode(&bytes), Err(DatagramError::Type(3)));
        bytes[3] = 2;
        assert_eq!(Datagram::decode(&bytes), Err(DatagramError::Version(2)));
        bytes[0] = b'X';
        assert_eq!(Datagram::decode(&bytes), Err(DatagramError::NotOurs));
    }

    #[test]
    fn counts_ports_indices_and_flags_that_cannot_be_are_malformed() {
        let refused = |bytes: &[u8], at: usize, value: u8| {
            let mut bytes = bytes.to_vec();
            bytes[at] = value;
            assert_eq!(Datagram::decode(&bytes), Err(DatagramError::Malformed), "byte {at} as {value}");
        };
        let ask = sample_ask(2).encode();
        refused(&ask, ASK_HEADER_BYTES - 1, 0);
        refused(&ask, ASK_HEADER_BYTES - 1, 19);
        let mut have = sample_have(2);
        have.port = 7;
        let have = have.encode();
        refused(&have, HAVE_HEADER_BYTES - 1, 0);
        refused(&have, HAVE_HEADER_BYTES - 1, 19);
        refused(&have, HAVE_HEADER_BYTES - 3, 0);
        refused(&have, HAVE_HEADER_BYTES, 18);
        refused(&have, HAVE_HEADER_BYTES + 1, 2);
        // The second block's index is 1.
        refused(&have, HAVE_HEADER_BYTES, 1);
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..1_500)) {
            let _ = Datagram::decode(&bytes);
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(
            kind in 1u8..=2,
            count in 0u8..20,
            indices in proptest::collection::vec((0u8..20, 0u8..3), 0..20),
            seed in proptest::collection::vec(any::<u8>(), 1_300),
        ) {
            let mut bytes = seed;
            bytes[..3].copy_from_slice(&MAGIC);
            bytes[3] = VERSION;
            bytes[4] = kind;
            let (head, block) = if kind == ASK {
                (ASK_HEADER_BYTES, ASK_BLOCK_BYTES)
            } else {
                (HAVE_HEADER_BYTES, HAVE_BLOCK_BYTES)
            };
            bytes[head - 1] = count;
            if kind == HAVE {
                for (at, (index, flags)) in indices.iter().enumerate() {
                    bytes[head + at * block] = *index;
                    bytes[head + at * block + 1] = *flags;
                }
            }
            bytes.truncate(head + usize::from(count) * block);
            if let Ok(datagram) = Datagram::decode(&bytes) {
                prop_assert_eq!(encode(&datagram), bytes);
            } else {
                prop_assert!(kind == HAVE || count == 0 || count > 18);
            }
        }
    }

    fn encode(datagram: &Datagram) -> Vec<u8> {
        match datagram {
            Datagram::Ask(ask) => ask.encode(),
            Datagram::Have(have) => have.encode(),
        }
    }

    fn sample_ask(blocks: usize) -> Ask {
        let block = |number: usize| AskedBlock { tag: Tag([byte(number); 32]), proof: [0xfe; 32] };
        Ask {
            key: KeyId([1; 8]),
            requester: NodeId([2; 32]),
            time_ms: 3,
            nonce: [4; 16],
            blocks: (0..blocks).map(block).collect(),
        }
    }

    fn sample_have(blocks: usize) -> Have {
        let block =
            |number: usize| HadBlock { index: byte(number), soon: number % 2 == 1, proof: [0xfd; 32] };
        Have {
            responder: NodeId([5; 32]),
            nonce: [6; 16],
            ask_nonce: [4; 16],
            port: 7_747,
            load: 9,
            blocks: (0..blocks).map(block).collect(),
        }
    }

    fn byte(number: usize) -> u8 {
        u8::try_from(number).unwrap()
    }
}
