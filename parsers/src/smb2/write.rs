//! WRITE (MS-SMB2 2.2.21): the fixed part of the request's body, which begins behind the header.

use nom::bytes::streaming::take;
use nom::combinator::verify;
use nom::number::streaming::{le_u16, le_u32, le_u64};
use nom::{IResult, Parser};

use super::header::HEADER_BYTES;
use super::read::Channel;

/// A WRITE request.
///
/// ```text
///  0      2             4        8        16       32        36          40          42          44      48
/// +------+-------------+--------+--------+--------+---------+-----------+-----------+-----------+-------+
/// | 49   | data offset | length | offset | FileId | channel | remaining | ch.offset | ch.length | flags |
/// +------+-------------+--------+--------+--------+---------+-----------+-----------+-----------+-------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteRequest {
    /// Where the data begins, counted from the header's first byte.
    pub data_offset: u16,
    /// Bytes of data.
    pub length: u32,
    /// Where in the file they go; all ones appends.
    pub offset: u64,
    /// How they travel.
    pub channel: Channel,
}

impl WriteRequest {
    /// Bytes of the body before its data.
    pub const BYTES: usize = 48;

    /// The least data offset at which data does not overlap the body.
    pub const DATA_OFFSET_MIN: u16 = (HEADER_BYTES + Self::BYTES) as u16;

    /// Reads the body of a request.
    ///
    /// # Errors
    /// `Incomplete` below 48 bytes; `Error` for another StructureSize.
    pub fn parse(input: &[u8]) -> IResult<&[u8], Self> {
        let (rest, (_, data_offset, length, offset, _file_id, channel, _channel_info_and_flags)) = (
            verify(le_u16, |size| *size == 49),
            le_u16,
            le_u32,
            le_u64,
            take(16_usize),
            le_u32.map(Channel),
            take(12_usize),
        )
            .parse(input)?;
        Ok((rest, Self { data_offset, length, offset, channel }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_streams;
    use super::*;

    #[test]
    fn a_request_is_read_from_its_offsets() {
        let mut body = [0; WriteRequest::BYTES];
        body[0] = 49;
        body[2] = 112;
        body[4..8].copy_from_slice(&0x0010_0000_u32.to_le_bytes());
        body[8..16].copy_from_slice(&0x0102_0304_0506_0708_u64.to_le_bytes());
        body[16..32].fill(0xee);
        body[32] = 1;
        body[36..].fill(0xdd);
        assert_eq!(
            assert_streams(WriteRequest::parse, &body),
            WriteRequest {
                data_offset: WriteRequest::DATA_OFFSET_MIN,
                length: 0x0010_0000,
                offset: 0x0102_0304_0506_0708,
                channel: Channel(1),
            }
        );
        body[0] = 17;
        assert!(matches!(WriteRequest::parse(&body), Err(nom::Err::Error(_))));
    }
}
