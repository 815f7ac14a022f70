//! IOCTL (MS-SMB2 2.2.31): what is asked of the file system or server.

use nom::combinator::verify;
use nom::number::streaming::{le_u16, le_u32};
use nom::{IResult, Parser};

/// A control code (MS-FSCC 2.3, MS-SMB2 2.2.31).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ControlCode(pub u32);

impl ControlCode {
    /// FSCTL_GET_REPARSE_POINT
    pub const GET_REPARSE_POINT: Self = Self(0x0009_00a8);
    /// FSCTL_CREATE_OR_GET_OBJECT_ID
    pub const CREATE_OR_GET_OBJECT_ID: Self = Self(0x0009_00c0);
    /// FSCTL_QUERY_ALLOCATED_RANGES
    pub const QUERY_ALLOCATED_RANGES: Self = Self(0x0009_40cf);
    /// FSCTL_SRV_REQUEST_RESUME_KEY: names the file as the source of a copy on the server.
    pub const SRV_REQUEST_RESUME_KEY: Self = Self(0x0014_0078);
    /// FSCTL_SRV_ENUMERATE_SNAPSHOTS
    pub const SRV_ENUMERATE_SNAPSHOTS: Self = Self(0x0014_4064);
    /// FSCTL_LMR_REQUEST_RESILIENCY
    pub const LMR_REQUEST_RESILIENCY: Self = Self(0x0014_01d4);
    /// FSCTL_SRV_READ_HASH
    pub const SRV_READ_HASH: Self = Self(0x0014_41bb);

    /// Returns whether it is known to leave the file's content alone. The access bits in a code do not tell:
    /// FSCTL_SRV_COPYCHUNK writes, and says that it reads.
    #[must_use]
    pub fn keeps_content(self) -> bool {
        [
            Self::GET_REPARSE_POINT,
            Self::CREATE_OR_GET_OBJECT_ID,
            Self::QUERY_ALLOCATED_RANGES,
            Self::SRV_REQUEST_RESUME_KEY,
            Self::SRV_ENUMERATE_SNAPSHOTS,
            Self::LMR_REQUEST_RESILIENCY,
            Self::SRV_READ_HASH,
        ]
        .contains(&self)
    }

    /// Reads the code from the body of a request.
    ///
    /// ```text
    ///  0      2   4              8        24
    /// +------+---+--------------+--------+
    /// | 57   | - | control code | FileId |
    /// +------+---+--------------+--------+
    /// ```
    ///
    /// # Errors
    /// `Incomplete` below 8 bytes; `Error` for another StructureSize.
    pub fn parse(input: &[u8]) -> IResult<&[u8], Self> {
        (verify(le_u16, |size| *size == 57), le_u16, le_u32)
            .map(|(_, _, control_code)| Self(control_code))
            .parse(input)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_streams;
    use super::*;

    #[test]
    fn a_code_is_read_from_its_offset() {
        let body = [57, 0, 0xcc, 0xcc, 0x78, 0x00, 0x14, 0x00];
        assert_eq!(assert_streams(ControlCode::parse, &body), ControlCode::SRV_REQUEST_RESUME_KEY);
        assert!(matches!(ControlCode::parse(&[49; 8]), Err(nom::Err::Error(_))));
    }

    #[test]
    fn copies_on_the_server_change_content() {
        // FSCTL_SRV_COPYCHUNK and its variant for destinations that cannot be read.
        assert!(!ControlCode(0x0014_40f2).keeps_content() && !ControlCode(0x0014_80f2).keeps_content());
        assert!(ControlCode::SRV_REQUEST_RESUME_KEY.keeps_content());
    }
}
