//! Block transfer between peers: the frames inside a TLS connection from the edge that wants blocks to one that has them.
//!
//! The requester speaks GET and CANCEL, the responder everything else. Both directions are a sequence of frames:
//!
//! ```text
//!  0       1               5
//! +-------+---------------+----------------------+
//! | type  | length u32    | payload, length bytes|      all integers are big-endian
//! +-------+---------------+----------------------+
//! ```
//!
//! | type | frame | payload | length |
//! |--|--|--|--|
//! | 01 | GET | request u32, wait u32 (ms), key id 8, tag 32, proof 32 | 80 |
//! | 02 | BLOCK | request u32, bytes | 5 to 4 + [`BLOCK_BYTES_MAX`] |
//! | 03 | GONE | request u32 | 4 |
//! | 04 | BUSY | request u32 | 4 |
//! | 05 | WAITING | none | 0 |
//! | 06 | CANCEL | request u32 | 4 |
//!
//! A request is the requester's number for a GET; it may be used again once it was answered. There is no version
//! field: TLS negotiates the protocol (ALPN), and what is not in the table breaks it.
//!
//! [`FrameReader`] takes the stream in any segmentation and copies the bytes of a block once, to where they stay. It
//! allocates for one block at most, after its length was checked, and refuses to know whether a block is right.

use nom::bytes::complete::take;
use nom::combinator::{map, map_res, rest, verify};
use nom::number::complete::be_u32;
use nom::{IResult, Parser};

use crate::Tag;
pub use crate::wan::{BLOCK_BYTES_MAX, FrameError, KeyId};

/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 5;

/// Bytes of a BLOCK before the block.
pub const BLOCK_HEAD_BYTES: usize = HEADER_BYTES + 4;

/// Bytes of the longest frame but BLOCK: a GET.
pub const GET_BYTES: usize = HEADER_BYTES + 4 + 4 + 8 + 32 + 32;

/// One frame. `B` holds the bytes of a block: a slice or owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<B> {
    /// Asks for a block.
    Get {
        /// The requester's number for this request.
        request: u32,
        /// How long the responder may wait for a block that it does not have yet, in milliseconds.
        wait_ms: u32,
        /// The server secret of the tag.
        key: KeyId,
        /// Which block.
        tag: Tag,
        /// That the requester holds its hash, bound to this TLS connection.
        proof: [u8; 32],
    },
    /// The block of a request.
    Block {
        /// The request.
        request: u32,
        /// The whole block; at least one byte.
        bytes: B,
    },
    /// The responder has no block for this request and its proof.
    Gone {
        /// The request.
        request: u32,
    },
    /// The responder has too much to do to say whether it has the block.
    Busy {
        /// The request.
        request: u32,
    },
    /// The responder lives, and has not answered everything yet.
    Waiting,
    /// The requester does not want the answer any longer. It may come all the same, on its way already.
    Cancel {
        /// The request.
        request: u32,
    },
}

impl<B: AsRef<[u8]>> Frame<B> {
    /// Appends everything of the frame but the bytes of a block, which the caller sends from where they are.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        let kind = match self {
            Self::Get { request, wait_ms, key, tag, proof } => {
                out.extend_from_slice(&request.to_be_bytes());
                out.extend_from_slice(&wait_ms.to_be_bytes());
                out.extend_from_slice(&key.0);
                out.extend_from_slice(&tag.0);
                out.extend_from_slice(proof);
                GET
            }
            Self::Block { request, .. } => {
                out.extend_from_slice(&request.to_be_bytes());
                BLOCK
            }
            Self::Gone { request } => {
                out.extend_from_slice(&request.to_be_bytes());
                GONE
            }
            Self::Busy { request } => {
                out.extend_from_slice(&request.to_be_bytes());
                BUSY
            }
            Self::Waiting => WAITING,
            Self::Cancel { request } => {
                out.extend_from_slice(&request.to_be_bytes());
                CANCEL
            }
        };
        let bytes = if let Self::Block { bytes, .. } = self { bytes.as_ref().len() } else { 0 };
        let len =
            u32::try_from(out.len() - start - HEADER_BYTES + bytes).expect("blocks are far below 4 GiB");
        out[start] = kind;
        out[start + 1..start + HEADER_BYTES].copy_from_slice(&len.to_be_bytes());
    }
}

/// Gathers the frames of one direction.
#[derive(Debug)]
pub struct FrameReader {
    /// The frame's bytes before a block.
    head: [u8; GET_BYTES],
    held: usize,
    block: Option<Gathering>,
    /// Memory for the next block.
    lent: Vec<u8>,
}

#[derive(Debug)]
struct Gathering {
    request: u32,
    len: usize,
    bytes: Vec<u8>,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self { head: [0; GET_BYTES], held: 0, block: None, lent: Vec::new() }
    }
}

impl FrameReader {
    /// Returns whether the next block would be put in new memory.
    #[must_use]
    pub fn needs_memory(&self) -> bool {
        self.lent.capacity() == 0
    }

    /// Lends memory for the next block, which is given out with it. What it held is forgotten.
    pub fn lend(&mut self, memory: Vec<u8>) {
        self.lent = memory;
    }

    /// Takes bytes off the front of `input` until a frame is whole, and returns it; `None` says that all were taken.
    ///
    /// # Errors
    /// [`FrameError`] as soon as a header shows that no valid frame can follow. The stream is of no use from there on.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Frame<Vec<u8>>>, FrameError> {
        while !input.is_empty() {
            if let Some(mut block) = self.block.take() {
                let wanted = block.len - block.bytes.len();
                block.bytes.extend_from_slice(front(input, wanted));
                if block.bytes.len() == block.len {
                    return Ok(Some(Frame::Block { request: block.request, bytes: block.bytes }));
                }
                self.block = Some(block);
                continue;
            }
            let wanted = self.head_bytes()? - self.held;
            let taken = front(input, wanted);
            self.head[self.held..self.held + taken.len()].copy_from_slice(taken);
            self.held += taken.len();
            // Before the length is known this is the end of the header; after it, of what stands before a block.
            if self.held >= HEADER_BYTES && self.held == self.head_bytes()? {
                self.held = 0;
                if let Some(frame) = self.finish_head()? {
                    return Ok(Some(frame));
                }
            }
        }
        Ok(None)
    }

    /// Returns how many bytes of the frame stand before a block, as far as that is known.
    fn head_bytes(&self) -> Result<usize, FrameError> {
        if self.held < HEADER_BYTES {
            return Ok(HEADER_BYTES);
        }
        let (kind, len) = self.header();
        let (min, max) = match kind {
            GET => (80, 80),
            BLOCK => (5, 4 + BLOCK_BYTES_MAX),
            GONE | BUSY | CANCEL => (4, 4),
            WAITING => (0, 0),
            _ => return Err(FrameError::UnknownType(kind)),
        };
        if len as usize > max {
            Err(FrameError::TooLong { kind, len })
        } else if (len as usize) < min {
            Err(FrameError::Malformed(kind))
        } else if kind == BLOCK {
            Ok(BLOCK_HEAD_BYTES)
        } else {
            Ok(HEADER_BYTES + len as usize)
        }
    }

    fn header(&self) -> (u8, u32) {
        let [kind, len @ ..] = *self.head.first_chunk::<HEADER_BYTES>().expect("a GET is longer");
        (kind, u32::from_be_bytes(len))
    }

    /// Reads the frame that `head` holds, or begins the block that follows it.
    fn finish_head(&mut self) -> Result<Option<Frame<Vec<u8>>>, FrameError> {
        let (kind, len) = self.header();
        let payload = if kind == BLOCK { 4 } else { len as usize };
        let payload = &self.head[HEADER_BYTES..HEADER_BYTES + payload];
        match payload_of(kind, payload) {
            Ok(([], Frame::Block { request, .. })) => {
                let len = len as usize - 4;
                let mut bytes = std::mem::take(&mut self.lent);
                bytes.clear();
                bytes.reserve_exact(len);
                self.block = Some(Gathering { request, len, bytes });
                Ok(None)
            }
            Ok(([], frame)) => Ok(Some(frame)),
            Ok(_) | Err(_) => Err(FrameError::Malformed(kind)),
        }
    }
}

/// Takes at most `wanted` bytes off the front.
fn front<'a>(input: &mut &'a [u8], wanted: usize) -> &'a [u8] {
    let (front, rest) = input.split_at(wanted.min(input.len()));
    *input = rest;
    front
}

const GET: u8 = 0x01;
const BLOCK: u8 = 0x02;
const GONE: u8 = 0x03;
const BUSY: u8 = 0x04;
const WAITING: u8 = 0x05;
const CANCEL: u8 = 0x06;

fn payload_of(kind: u8, input: &[u8]) -> IResult<&[u8], Frame<Vec<u8>>> {
    match kind {
        GET => map((be_u32, be_u32, array, array, array), |(request, wait_ms, key, tag, proof)| Frame::Get {
            request,
            wait_ms,
            key: KeyId(key),
            tag: Tag(tag),
            proof,
        })
        .parse(input),
        // The bytes of the block come after what this reads.
        BLOCK => map((be_u32, verify(rest, <[u8]>::is_empty)), |(request, _)| Frame::Block {
            request,
            bytes: vec![],
        })
        .parse(input),
        GONE => map(be_u32, |request| Frame::Gone { request }).parse(input),
        BUSY => map(be_u32, |request| Frame::Busy { request }).parse(input),
        WAITING => Ok((input, Frame::Waiting)),
        CANCEL => map(be_u32, |request| Frame::Cancel { request }).parse(input),
        _ => Err(nom::Err::Failure(nom::error::Error::new(input, nom::error::ErrorKind::Switch))),
    }
}

fn array<const N: usize>(input: &[u8]) -> IResult<&[u8], [u8; N]> {
    map_res(take(N), <[u8; N]>::try_from).parse(input)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_come_back_from_their_bytes_whole_byte_by_byte_and_split_anywhere() {
        let frames = samples();
        let bytes: Vec<u8> = frames.iter().flat_map(encode).collect();
        assert_eq!(read_all(&[&bytes]), Ok(frames.clone()));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read_all(&single), Ok(frames.clone()));
        for at in 0..=bytes.len() {
            let (one, two) = bytes.split_at(at);
            assert_eq!(read_all(&[one, two]), Ok(frames.clone()), "split at {at}");
        }
    }

    #[test]
    fn a_cut_frame_is_incomplete_at_every_byte() {
        for frame in samples() {
            let bytes = encode(&frame);
            for cut in 0..bytes.len() {
                assert_eq!(read_all(&[&bytes[..cut]]), Ok(vec![]), "{frame:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn lengths_beyond_and_below_a_frames_own_are_refused_from_the_header_alone() {
        for (kind, len) in [(BLOCK, 5 + BLOCK_BYTES_MAX), (GET, 81), (GONE, 5), (WAITING, 1), (CANCEL, 5)] {
            let len = u32::try_from(len).unwrap();
            assert_eq!(read_all(&[&header(kind, len)]), Err(FrameError::TooLong { kind, len }));
        }
        for (kind, len) in [(BLOCK, 4), (GET, 79), (GONE, 3), (BUSY, 0), (CANCEL, 3)] {
            assert_eq!(read_all(&[&header(kind, len)]), Err(FrameError::Malformed(kind)));
        }
        assert_eq!(read_all(&[&header(0x07, 0)]), Err(FrameError::UnknownType(7)));
    }

    #[test]
    fn memory_is_taken_for_a_block_of_checked_length_and_no_more() {
        let mut reader = FrameReader::default();
        let mut head = header(BLOCK, u32::try_from(4 + BLOCK_BYTES_MAX).unwrap()).to_vec();
        head.extend_from_slice(&[0; 4]);
        assert_eq!(reader.read(&mut &head[..]), Ok(None));
        assert_eq!(reader.block.unwrap().bytes.capacity(), BLOCK_BYTES_MAX);
    }

    #[test]
    fn lent_memory_is_used_once_and_shows_nothing_of_its_past() {
        let mut reader = FrameReader::default();
        reader.lend(vec![0xee; 100]);
        let lent = reader.lent.as_ptr();
        let block = Frame::Block { request: 1, bytes: vec![7; 100] };
        let Ok(Some(Frame::Block { bytes, .. })) = reader.read(&mut &encode(&block)[..]) else {
            panic!("no block")
        };
        assert_eq!((bytes.as_ptr(), bytes.len()), (lent, 100));
        assert!(bytes.iter().all(|byte| *byte == 7) && reader.needs_memory());
    }

    proptest! {
        #[test]
        fn no_input_panics_and_what_is_read_encodes_to_the_same_bytes(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            kind in 0u8..8,
            len in 0u8..100,
        ) {
            let _ = read_all(&[&bytes]);
            let mut likely = header(kind, u32::from(len)).to_vec();
            likely.extend_from_slice(&bytes);
            if let Ok(frames) = read_all(&[&likely]) {
                let again: Vec<u8> = frames.iter().flat_map(encode).collect();
                prop_assert_eq!(&likely[..again.len()], &again[..]);
            }
        }

        #[test]
        fn no_segmentation_changes_what_is_read(
            bytes in proptest::collection::vec(0u8..9, 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read_all(&pieces), read_all(&[&bytes]));
        }
    }

    fn read_all(pieces: &[&[u8]]) -> Result<Vec<Frame<Vec<u8>>>, FrameError> {
        let mut reader = FrameReader::default();
        let mut frames = Vec::new();
        for mut piece in pieces.iter().copied() {
            while let Some(frame) = reader.read(&mut piece)? {
                frames.push(frame);
            }
            assert!(piece.is_empty());
        }
        Ok(frames)
    }

    fn encode(frame: &Frame<Vec<u8>>) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode_head(&mut bytes);
        if let Frame::Block { bytes: block, .. } = frame {
            bytes.extend_from_slice(block);
        }
        bytes
    }

    fn header(kind: u8, len: u32) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = len.to_be_bytes();
        [kind, a, b, c, d]
    }

    fn samples() -> Vec<Frame<Vec<u8>>> {
        vec![
            Frame::Get { request: 1, wait_ms: 20_000, key: KeyId([2; 8]), tag: Tag([3; 32]), proof: [4; 32] },
            Frame::Block { request: u32::MAX, bytes: b"block".to_vec() },
            Frame::Waiting,
            Frame::Block { request: 0, bytes: vec![7] },
            Frame::Gone { request: 5 },
            Frame::Waiting,
            Frame::Busy { request: 6 },
            Frame::Cancel { request: 7 },
        ]
    }
}
