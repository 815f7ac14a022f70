//! TREE_CONNECT (MS-SMB2 2.2.9 and 2.2.10): which share it is, and what it holds.

use nom::bytes::streaming::take;
use nom::combinator::verify;
use nom::number::streaming::{le_u16, u8};
use nom::{IResult, Parser};

use super::header::HEADER_BYTES;

/// What a share holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShareType(pub u8);

impl ShareType {
    /// Files.
    pub const DISK: Self = Self(1);
    /// Named pipes.
    pub const PIPE: Self = Self(2);
    /// A printer.
    pub const PRINT: Self = Self(3);
}

/// A TREE_CONNECT request.
///
/// ```text
///  0      2       4             6             8
/// +------+-------+-------------+-------------+
/// | 9    | flags | path offset | path length |
/// +------+-------+-------------+-------------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeConnectRequest {
    /// Flags of 3.1.1; reserved before.
    pub flags: u16,
    /// Where the path begins, counted from the header's first byte.
    pub path_offset: u16,
    /// Bytes of the path, `\\server\share` in UTF-16.
    pub path_length: u16,
}

impl TreeConnectRequest {
    /// Bytes of the body before its buffer.
    pub const BYTES: usize = 8;

    /// The least offset at which a path does not overlap the body.
    pub const PATH_OFFSET_MIN: usize = HEADER_BYTES + Self::BYTES;

    /// SMB2_TREE_CONNECT_FLAG_EXTENSION_PRESENT: the buffer holds more than the path (MS-SMB2 2.2.9.1).
    pub const EXTENSION_PRESENT: u16 = 0x0004;

    /// Reads the body of a request.
    ///
    /// # Errors
    /// `Incomplete` below 8 bytes; `Error` for another StructureSize.
    pub fn parse(input: &[u8]) -> IResult<&[u8], Self> {
        let (rest, (_, flags, path_offset, path_length)) =
            (verify(le_u16, |size| *size == 9), le_u16, le_u16, le_u16).parse(input)?;
        Ok((rest, Self { flags, path_offset, path_length }))
    }
}

/// A TREE_CONNECT response; the TreeId it grants is in its header.
///
/// ```text
///  0      2            3   4             8              12               16
/// +------+------------+---+-------------+--------------+----------------+
/// | 16   | share type | 0 | share flags | capabilities | maximal access |
/// +------+------------+---+-------------+--------------+----------------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeConnectResponse {
    /// What the share holds.
    pub share_type: ShareType,
}

impl TreeConnectResponse {
    /// Bytes of the body.
    pub const BYTES: usize = 16;

    /// Reads the body of a successful response.
    ///
    /// # Errors
    /// `Incomplete` below 16 bytes; `Error` for another StructureSize.
    pub fn parse(input: &[u8]) -> IResult<&[u8], Self> {
        let (rest, (_, share_type, _)) =
            (verify(le_u16, |size| *size == 16), u8.map(ShareType), take(13_usize)).parse(input)?;
        Ok((rest, Self { share_type }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_streams;
    use super::*;

    #[test]
    fn a_request_is_read_from_its_offsets() {
        let mut body = [9, 0, 4, 0, 72, 0, 0x34, 0x12];
        assert_eq!(
            assert_streams(TreeConnectRequest::parse, &body),
            TreeConnectRequest {
                flags: TreeConnectRequest::EXTENSION_PRESENT,
                path_offset: 72,
                path_length: 0x1234
            }
        );
        body[0] = 16;
        assert!(matches!(TreeConnectRequest::parse(&body), Err(nom::Err::Error(_))));
    }

    #[test]
    fn a_response_is_read_from_its_offsets() {
        let mut body = [0xcc; TreeConnectResponse::BYTES];
        body[..4].copy_from_slice(&[16, 0, 2, 0]);
        let response = assert_streams(TreeConnectResponse::parse, &body);
        assert_eq!(response, TreeConnectResponse { share_type: ShareType::PIPE });
        body[0] = 9;
        assert!(matches!(TreeConnectResponse::parse(&body), Err(nom::Err::Error(_))));
    }
}
