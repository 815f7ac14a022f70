//! CREATE (MS-SMB2 2.2.13 and 2.2.14): the fixed parts of the bodies, which begin behind the header, and the list of
//! create contexts.

use nom::bytes::streaming::take;
use nom::combinator::verify;
use nom::number::streaming::{le_u16, le_u32, le_u64};
use nom::{IResult, Parser};

use super::FileId;
use super::header::HEADER_BYTES;

/// What to do if the file is there, or is not (MS-SMB2 2.2.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CreateDisposition(pub u32);

impl CreateDisposition {
    /// FILE_SUPERSEDE
    pub const SUPERSEDE: Self = Self(0);
    /// FILE_OPEN: open it, fail if it is not there.
    pub const OPEN: Self = Self(1);
    /// FILE_CREATE: fail if it is there.
    pub const CREATE: Self = Self(2);
    /// FILE_OPEN_IF: open it, create it if it is not there.
    pub const OPEN_IF: Self = Self(3);

    /// Returns whether content that is there already stays.
    #[must_use]
    pub fn keeps_content(self) -> bool {
        matches!(self, Self::OPEN | Self::CREATE | Self::OPEN_IF)
    }
}

/// What the server did (MS-SMB2 2.2.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CreateAction(pub u32);

impl CreateAction {
    /// FILE_OPENED: the file was there and stays as it was. All others leave an empty one.
    pub const OPENED: Self = Self(1);
}

/// File attributes (MS-FSCC 2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileAttributes(pub u32);

impl FileAttributes {
    /// FILE_ATTRIBUTE_DIRECTORY
    pub const DIRECTORY: u32 = 0x0000_0010;

    /// Returns whether they are those of a directory.
    #[must_use]
    pub fn is_directory(self) -> bool {
        self.0 & Self::DIRECTORY != 0
    }
}

/// A CREATE request.
///
/// ```text
///  0      2     3        4               8       16      24       28      32      36            40
/// +------+-----+--------+---------------+-------+-------+--------+-------+-------+-------------+---------
/// | 57   | sec | oplock | impersonation | flags | -     | access | attr. | share | disposition | options
/// +------+-----+--------+---------------+-------+-------+--------+-------+-------+-------------+---------
///  44            46            48               52               56
/// -+------------+-------------+----------------+----------------+
///  | name offset| name length | ctx. offset    | ctx. length    |
/// -+------------+-------------+----------------+----------------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateRequest {
    /// What to do with content that is there.
    pub disposition: CreateDisposition,
    /// How to open it: a set of flags.
    pub options: u32,
    /// Where the name begins, counted from the header's first byte.
    pub name_offset: u16,
    /// Bytes of the name, which is in UTF-16.
    pub name_length: u16,
    /// Where the create contexts begin, counted from the header's first byte.
    pub contexts_offset: u32,
    /// Bytes of the create contexts.
    pub contexts_length: u32,
}

impl CreateRequest {
    /// Bytes of the body before its buffer.
    pub const BYTES: usize = 56;

    /// FILE_OPEN_BY_FILE_ID: the name is no name but a number.
    pub const OPEN_BY_FILE_ID: u32 = 0x0000_2000;

    /// The least offset at which a name or contexts do not overlap the body.
    pub const BUFFER_OFFSET_MIN: usize = HEADER_BYTES + Self::BYTES;

    /// Reads the body of a request.
    ///
    /// # Errors
    /// `Incomplete` below 56 bytes; `Error` for another StructureSize.
    pub fn parse(input: &[u8]) -> IResult<&[u8], Self> {
        let (rest, (_, _, disposition, options, name_offset, name_length, contexts_offset, contexts_length)) =
            (
                verify(le_u16, |size| *size == 57),
                take(34_usize),
                le_u32.map(CreateDisposition),
                le_u32,
                le_u16,
                le_u16,
                le_u32,
                le_u32,
            )
                .parse(input)?;
        Ok((rest, Self { disposition, options, name_offset, name_length, contexts_offset, contexts_length }))
    }
}

/// A CREATE response.
///
/// ```text
///  0      2        3       4        8               16            24           32            40
/// +------+--------+-------+--------+---------------+-------------+------------+-------------+-----------
/// | 89   | oplock | flags | action | creation time | last access | last write | change time | allocation
/// +------+--------+-------+--------+---------------+-------------+------------+-------------+-----------
///  48             56           60   64       80            84            88
/// -+-------------+------------+----+--------+-------------+-------------+
///  | end of file | attributes | -  | FileId | ctx. offset | ctx. length |
/// -+-------------+------------+----+--------+-------------+-------------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateResponse {
    /// What the server did.
    pub action: CreateAction,
    /// When the content last changed, in units of 100 ns since 1601; servers may be late to say so.
    pub last_write_time: u64,
    /// When anything of the file last changed, its access rights among it; 0 from servers that do not know, and from Samba
    /// the time of the last write.
    pub change_time: u64,
    /// Bytes of content.
    pub end_of_file: u64,
    /// Attributes.
    pub attributes: FileAttributes,
    /// What further requests call the file.
    pub file_id: FileId,
}

impl CreateResponse {
    /// Bytes of the body before its contexts.
    pub const BYTES: usize = 88;

    /// Reads the body of a successful response.
    ///
    /// # Errors
    /// `Incomplete` below 88 bytes; `Error` for another StructureSize, that of an error response among them.
    pub fn parse(input: &[u8]) -> IResult<&[u8], Self> {
        let (rest, (_, _oplock_and_flags, action, _creation_time, _last_access_time)) =
            (verify(le_u16, |size| *size == 89), le_u16, le_u32.map(CreateAction), le_u64, le_u64)
                .parse(input)?;
        let (rest, (last_write_time, change_time, _allocation_size, end_of_file)) =
            (le_u64, le_u64, le_u64, le_u64).parse(rest)?;
        let (rest, (attributes, _reserved, file_id, _contexts)) = (
            le_u32.map(FileAttributes),
            le_u32,
            take(16_usize).map(|bytes: &[u8]| FileId(std::array::from_fn(|at| bytes[at]))),
            le_u64,
        )
            .parse(rest)?;
        Ok((rest, Self { action, last_write_time, change_time, end_of_file, attributes, file_id }))
    }
}

/// A create context (MS-SMB2 2.2.13.2).
///
/// ```text
///  0        4             6             8    10            12            16
/// +--------+-------------+-------------+----+-------------+-------------+
/// | next   | name offset | name length | -  | data offset | data length |      offsets count from the context's first
/// +--------+-------------+-------------+----+-------------+-------------+      byte; `next` is 0 in the last one
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateContext<'a> {
    /// Four letters, or a GUID.
    pub name: &'a [u8],
    /// What it says.
    pub data: &'a [u8],
}

impl<'a> CreateContext<'a> {
    /// SMB2_CREATE_TIMEWARP_TOKEN: the file as it was at a time, from a snapshot (MS-SMB2 2.2.13.2.7).
    pub const TIMEWARP: &'static [u8] = b"TWrp";

    const BYTES: usize = 16;

    /// Goes through a list of contexts. A context that does not lie within the list is `None`, and the last.
    pub fn list(list: &'a [u8]) -> impl Iterator<Item = Option<Self>> {
        let mut rest = Some(list).filter(|list| !list.is_empty());
        std::iter::from_fn(move || {
            let context = rest.take()?;
            let read = Self::first(context);
            if let Some((_, next)) = read {
                rest = next;
            }
            Some(read.map(|(context, _)| context))
        })
    }

    /// Reads the first context of a list and returns the rest of the list with it.
    fn first(list: &'a [u8]) -> Option<(Self, Option<&'a [u8]>)> {
        let mut fixed = (le_u32::<_, ()>, le_u16, le_u16, le_u16, le_u16, le_u32);
        let (_, (next, name_offset, name_length, _, data_offset, data_length)) =
            fixed.parse(list.get(..Self::BYTES)?).ok()?;
        let next = usize::try_from(next).ok()?;
        let (context, rest) = match next {
            0 => (list, None),
            // A context ends where the next begins, which makes the walk an advance.
            _ if next < Self::BYTES => return None,
            _ => list.split_at_checked(next).map(|(context, rest)| (context, Some(rest)))?,
        };
        let within = |offset: u16, length: usize| match length {
            0 => Some(&context[..0]),
            _ => context.get(usize::from(offset)..)?.get(..length),
        };
        let name = within(name_offset, usize::from(name_length))?;
        let data = within(data_offset, usize::try_from(data_length).ok()?)?;
        Some((Self { name, data }, rest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::assert_streams;
    use super::*;

    #[test]
    fn a_request_is_read_from_its_offsets() {
        let mut body = [0xcc; CreateRequest::BYTES];
        body[..2].copy_from_slice(&[57, 0]);
        body[36..40].copy_from_slice(&3_u32.to_le_bytes());
        body[40..44].copy_from_slice(&0x0020_2040_u32.to_le_bytes());
        body[44..48].copy_from_slice(&[120, 0, 0x34, 0x12]);
        body[48..52].copy_from_slice(&0x0001_0203_u32.to_le_bytes());
        body[52..].copy_from_slice(&0x0004_0506_u32.to_le_bytes());
        assert_eq!(
            assert_streams(CreateRequest::parse, &body),
            CreateRequest {
                disposition: CreateDisposition::OPEN_IF,
                options: 0x0020_2040,
                name_offset: 120,
                name_length: 0x1234,
                contexts_offset: 0x0001_0203,
                contexts_length: 0x0004_0506,
            }
        );
        body[0] = 56;
        assert!(matches!(CreateRequest::parse(&body), Err(nom::Err::Error(_))));
    }

    #[test]
    fn only_opening_and_creating_keep_content() {
        let keep: Vec<_> = (0..8).filter(|value| CreateDisposition(*value).keeps_content()).collect();
        assert_eq!(keep, [1, 2, 3]);
    }

    #[test]
    fn a_response_is_read_from_its_offsets() {
        let mut body = [0xcc; CreateResponse::BYTES];
        body[..2].copy_from_slice(&[89, 0]);
        body[4..8].copy_from_slice(&1_u32.to_le_bytes());
        body[24..32].copy_from_slice(&0x11_u64.to_le_bytes());
        body[32..40].copy_from_slice(&0x22_u64.to_le_bytes());
        body[48..56].copy_from_slice(&0x33_u64.to_le_bytes());
        body[56..60].copy_from_slice(&0x30_u32.to_le_bytes());
        body[64..80].fill(0xf1);
        let response = assert_streams(CreateResponse::parse, &body);
        assert_eq!(
            response,
            CreateResponse {
                action: CreateAction::OPENED,
                last_write_time: 0x11,
                change_time: 0x22,
                end_of_file: 0x33,
                attributes: FileAttributes(0x30),
                file_id: FileId([0xf1; 16]),
            }
        );
        assert!(response.attributes.is_directory());
        body[0] = 9;
        assert!(matches!(CreateResponse::parse(&body), Err(nom::Err::Error(_))));
    }

    #[test]
    fn contexts_are_listed_in_their_order() {
        let list = [context(32, b"MxAc", b""), context(0, b"TWrp", b"12345678")].concat();
        let listed: Vec<_> = CreateContext::list(&list).collect();
        assert_eq!(
            listed,
            [
                Some(CreateContext { name: b"MxAc", data: b"" }),
                Some(CreateContext { name: b"TWrp", data: b"12345678" })
            ]
        );
        assert_eq!(CreateContext::list(b"").count(), 0);
    }

    #[test]
    fn a_context_that_leads_nowhere_is_the_last() {
        let good = context(32, b"MxAc", b"");
        let bad = [
            context(8, b"TWrp", b"12345678"),
            context(u32::MAX, b"TWrp", b"12345678"),
            context(0, b"TWrp", b"12345678")[..28].to_vec(),
            context(0, b"TWrp", b"")[..12].to_vec(),
        ];
        for bad in bad {
            let list = [&good[..], &bad].concat();
            let listed: Vec<_> = CreateContext::list(&list).map(|context| context.is_some()).collect();
            assert_eq!(listed, [true, false], "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_list_panics_or_goes_on_for_ever(list in proptest::collection::vec(0_u8..40, 0..200)) {
            prop_assert!(CreateContext::list(&list).count() <= list.len() / CreateContext::BYTES + 1);
        }
    }

    /// A context of 32 bytes.
    fn context(next: u32, name: &[u8], data: &[u8]) -> Vec<u8> {
        let mut bytes = next.to_le_bytes().to_vec();
        bytes.extend([16, 0, name.len() as u8, 0, 0, 0, 24, 0, data.len() as u8, 0, 0, 0]);
        bytes.extend(name);
        bytes.resize(24, 0);
        bytes.extend(data);
        bytes.resize(32, 0);
        bytes
    }
}
