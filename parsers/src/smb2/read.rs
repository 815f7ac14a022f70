//! READ (MS-SMB2 2.2.19 and 2.2.20): the fixed parts of the bodies, which begin behind the header.

use nom::bytes::streaming::take;
use nom::combinator::verify;
use nom::number::streaming::{le_u16, le_u32, le_u64, u8};
use nom::{IResult, Parser};

use super::header::HEADER_BYTES;

/// How the data of a READ or WRITE travels (MS-SMB2 2.2.19, 2.2.21).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Channel(pub u32);

impl Channel {
    /// In the message itself. The other values move it by RDMA.
    pub const NONE: Self = Self(0);
}

/// A READ request.
///
/// ```text
///  0      2   3    4        8        16       32           36        40          44          46          48
/// +------+---+----+--------+--------+--------+------------+---------+-----------+-----------+-----------+
/// | 49   |pad|flag| length | offset | FileId | min. count | channel | remaining | ch.offset | ch.length |
/// +------+---+----+--------+--------+--------+------------+---------+-----------+-----------+-----------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequest {
    /// Bytes asked for.
    pub length: u32,
    /// Where in the file they begin.
    pub offset: u64,
    /// How they travel.
    pub channel: Channel,
}

impl ReadRequest {
    /// Bytes of the body before its buffer.
    pub const BYTES: usize = 48;

    /// Reads the body of a request.
    ///
    /// # Errors
    /// `Incomplete` below 48 bytes; `Error` for another StructureSize.
    pub fn parse(input: &[u8]) -> IResult<&[u8], Self> {
        let (rest, (_, _padding, _flags, length, offset, _file_id, _minimum_count, channel, _channel_info)) =
            (
                verify(le_u16, |size| *size == 49),
                u8,
                u8,
                le_u32,
                le_u64,
                take(16_usize),
                le_u32,
                le_u32.map(Channel),
                take(8_usize),
            )
                .parse(input)?;
        Ok((rest, Self { length, offset, channel }))
    }
}

/// A READ response.
///
/// ```text
///  0      2             3   4             8                12             16
/// +------+-------------+---+-------------+----------------+--------------+
/// | 17   | data offset | 0 | data length | data remaining | flags        |
/// +------+-------------+---+-------------+----------------+--------------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadResponse {
    /// Where the data begins, counted from the header's first byte.
    pub data_offset: u8,
    /// Bytes of data.
    pub data_length: u32,
    /// Flags of 3.1.1; reserved before.
    pub flags: u32,
}

impl ReadResponse {
    /// Bytes of the body before its data.
    pub const BYTES: usize = 16;

    /// SMB2_READFLAG_RESPONSE_RDMA_TRANSFORM: what follows is no file data but an RDMA transform.
    pub const RDMA_TRANSFORM: u32 = 0x0000_0001;

    /// The least data offset at which data does not overlap the body.
    pub const DATA_OFFSET_MIN: u8 = (HEADER_BYTES + Self::BYTES) as u8;

    /// Reads the body of a successful response.
    ///
    /// # Errors
    /// `Incomplete` below 16 bytes; `Error` for another StructureSize, that of an error response among them.
    pub fn parse(input: &[u8]) -> IResult<&[u8], Self> {
        let (rest, (_, data_offset, _reserved, data_length, _data_remaining, flags)) =
            (verify(le_u16, |size| *size == 17), u8, u8, le_u32, le_u32, le_u32).parse(input)?;
        Ok((rest, Self { data_offset, data_length, flags }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_streams;
    use super::*;

    #[test]
    fn a_request_is_read_from_its_offsets() {
        let mut body = [0; ReadRequest::BYTES];
        body[0] = 49;
        body[2..4].copy_from_slice(&[0x50, 0x02]);
        body[4..8].copy_from_slice(&0x0080_0000_u32.to_le_bytes());
        body[8..16].copy_from_slice(&0x0102_0304_0506_0708_u64.to_le_bytes());
        body[16..32].fill(0xff);
        body[32] = 7;
        body[36] = 2;
        body[40] = 9;
        assert_eq!(
            assert_streams(ReadRequest::parse, &body),
            ReadRequest { length: 0x0080_0000, offset: 0x0102_0304_0506_0708, channel: Channel(2) }
        );
        body[0] = 48;
        assert!(matches!(ReadRequest::parse(&body), Err(nom::Err::Error(_))));
    }

    #[test]
    fn a_response_is_read_from_its_offsets() {
        let mut body = [0; ReadResponse::BYTES];
        body[0] = 17;
        body[2..4].copy_from_slice(&[88, 0xee]);
        body[4..8].copy_from_slice(&0x0001_0002_u32.to_le_bytes());
        body[8] = 0x33;
        body[12] = 1;
        assert_eq!(
            assert_streams(ReadResponse::parse, &body),
            ReadResponse { data_offset: 88, data_length: 0x0001_0002, flags: ReadResponse::RDMA_TRANSFORM }
        );
        body[0] = 9;
        assert!(matches!(ReadResponse::parse(&body), Err(nom::Err::Error(_))));
    }
}
