//! TREE_CONNECT (MS-SMB2 2.2.10): what a share is.

use nom::bytes::streaming::take;
use nom::combinator::verify;
use nom::number::streaming::{le_u16, u8};
use nom::{IResult, Parser};

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
    fn a_response_is_read_from_its_offsets() {
        let mut body = [0xcc; TreeConnectResponse::BYTES];
        body[..4].copy_from_slice(&[16, 0, 2, 0]);
        let response = assert_streams(TreeConnectResponse::parse, &body);
        assert_eq!(response, TreeConnectResponse { share_type: ShareType::PIPE });
        body[0] = 9;
        assert!(matches!(TreeConnectResponse::parse(&body), Err(nom::Err::Error(_))));
    }
}
