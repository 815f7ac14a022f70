//! The few fields of a head that say how its message is framed and where its content belongs.
//!
//! Everything is checked here, in one pass; what two recipients could read differently is [`Fault::Ambiguous`].

use nom::branch::alt;
use nom::bytes::complete::{tag, tag_no_case};
use nom::character::complete::{char, digit1};
use nom::combinator::{all_consuming, map, map_opt, value};
use nom::sequence::{preceded, separated_pair};
use nom::{IResult, Parser};

use super::{Fault, Framing, is_token};

/// The greatest length or offset that is read: file systems end here, and sums of two do not overflow.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// What a head says of its message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// `Content-Length` (RFC 9110 section 8.6).
    pub(super) content_length: Option<u64>,
    /// `Transfer-Encoding` whose last coding is chunked (RFC 9112 section 6.1).
    pub(super) chunked: bool,
    /// Any `Upgrade` (RFC 9110 section 7.8).
    pub(super) upgrade: bool,
    /// `Content-Range` (RFC 9110 section 14.4).
    pub(super) range: Range,
    /// `Content-Type: multipart/byteranges` (RFC 9110 section 14.6).
    pub(super) multipart: bool,
}

/// What `Content-Range` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Range {
    /// It is not there.
    #[default]
    Absent,
    /// These bytes, both ends included.
    Bytes {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte.
        last: u64,
        /// Bytes of the whole representation, if it is said.
        complete: Option<u64>,
    },
    /// Another unit, no satisfied range, more than one field, or nonsense.
    Unusable,
}

impl Fields {
    /// Reads the fields of a head.
    pub(super) fn read(version: u8, fields: &[httparse::Header<'_>]) -> Result<Self, Fault> {
        let mut read = Self::default();
        let mut codings = Codings::None;
        for field in fields {
            if field.name.eq_ignore_ascii_case("content-length") {
                read.content_length = Some(content_length(read.content_length, field.value)?);
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                codings = codings.and(field.value)?;
            } else if field.name.eq_ignore_ascii_case("upgrade") {
                read.upgrade = true;
            } else if field.name.eq_ignore_ascii_case("content-range") {
                read.range = read.range.and(field.value);
            } else if field.name.eq_ignore_ascii_case("content-type") {
                read.multipart |= is_multipart(field.value);
            }
        }
        read.chunked = match codings {
            Codings::None => false,
            // Without chunked at the end, or in HTTP/1.0, the end is a guess (RFC 9112 sections 6.1 and 6.3).
            Codings::Other => return Err(Fault::Ambiguous),
            Codings::Chunked if version == 0 || read.content_length.is_some() => {
                return Err(Fault::Ambiguous);
            }
            Codings::Chunked => true,
        };
        Ok(read)
    }

    /// Returns where content framed so begins by `Content-Range`: at 0 without one, nowhere if they do not agree.
    pub(super) fn offset(&self, framing: Framing) -> Option<u64> {
        match self.range {
            Range::Absent => Some(0),
            Range::Unusable => None,
            Range::Bytes { first, last, .. } => match framing {
                Framing::Length(len) => (len == last - first + 1).then_some(first),
                Framing::Chunked | Framing::UntilClose => Some(first),
            },
        }
    }

    /// Returns whether content framed so has the representation's last byte as its last. Where its length is not known
    /// ahead, that is not known either.
    pub(super) fn ends(&self, framing: Framing) -> bool {
        let complete = match self.range {
            Range::Absent => true,
            Range::Unusable => false,
            Range::Bytes { last, complete, .. } => complete.is_some_and(|complete| last + 1 == complete),
        };
        complete && matches!(framing, Framing::Length(_))
    }
}

impl Range {
    fn and(self, field: &[u8]) -> Self {
        match self {
            Self::Absent => content_range(field),
            Self::Bytes { .. } | Self::Unusable => Self::Unusable,
        }
    }
}

/// The codings of all `Transfer-Encoding` fields so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codings {
    None,
    /// Any but chunked.
    Other,
    /// Chunked, at the end.
    Chunked,
}

impl Codings {
    fn and(self, field: &[u8]) -> Result<Self, Fault> {
        field.split(|byte| *byte == b',').try_fold(self, |codings, coding| {
            let coding = coding.trim_ascii();
            // A parameter of a coding is legal and in no use; a quoted one could hide a comma.
            if coding.is_empty() || !coding.iter().all(|byte| is_token(*byte)) || codings == Self::Chunked {
                return Err(Fault::Ambiguous);
            }
            Ok(if coding.eq_ignore_ascii_case(b"chunked") { Self::Chunked } else { Self::Other })
        })
    }
}

/// Reads a `Content-Length`, which may be a list of one and the same number (RFC 9110 section 8.6).
fn content_length(before: Option<u64>, field: &[u8]) -> Result<u64, Fault> {
    let mut length = before;
    for member in field.split(|byte| *byte == b',') {
        let (_, member) = all_consuming(number).parse(member.trim_ascii()).map_err(|_| Fault::Ambiguous)?;
        if length.is_some_and(|length| length != member) {
            return Err(Fault::Ambiguous);
        }
        length = Some(member);
    }
    length.ok_or(Fault::Ambiguous)
}

fn content_range(field: &[u8]) -> Range {
    let unsatisfied = value(Range::Unusable, (char('*'), char('/'), number));
    let satisfied = map_opt(
        separated_pair(
            separated_pair(number, char('-'), number),
            char('/'),
            alt((map(number, Some), value(None, char('*')))),
        ),
        |((first, last), complete)| {
            let fits = first <= last && complete.is_none_or(|complete| last < complete);
            fits.then_some(Range::Bytes { first, last, complete })
        },
    );
    let mut range = all_consuming(preceded((tag_no_case("bytes"), tag(" ")), alt((satisfied, unsatisfied))));
    range.parse(field.trim_ascii()).map_or(Range::Unusable, |(_, range)| range)
}

fn is_multipart(field: &[u8]) -> bool {
    const MULTIPART: &[u8] = b"multipart/byteranges";
    field.get(..MULTIPART.len()).is_some_and(|media_type| media_type.eq_ignore_ascii_case(MULTIPART))
}

fn number(input: &[u8]) -> IResult<&[u8], u64> {
    map_opt(digit1, |digits: &[u8]| {
        let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
        (number <= OFFSET_MAX).then_some(number)
    })
    .parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_differ_or_are_no_numbers_are_ambiguous() {
        for (fields, expected) in [
            (&[("Content-Length", "42")][..], Ok(Some(42))),
            (&[("content-length", "42, 42"), ("CONTENT-LENGTH", "42")], Ok(Some(42))),
            (&[("Content-Length", "42"), ("Content-Length", "43")], Err(Fault::Ambiguous)),
            (&[("Content-Length", "42, 43")], Err(Fault::Ambiguous)),
            (&[("Content-Length", "")], Err(Fault::Ambiguous)),
            (&[("Content-Length", "42,")], Err(Fault::Ambiguous)),
            (&[("Content-Length", "+42")], Err(Fault::Ambiguous)),
            (&[("Content-Length", "-1")], Err(Fault::Ambiguous)),
            (&[("Content-Length", "0x10")], Err(Fault::Ambiguous)),
            (&[("Content-Length", "4 2")], Err(Fault::Ambiguous)),
            (&[("Content-Length", "9223372036854775807")], Ok(Some(i64::MAX as u64))),
            (&[("Content-Length", "9223372036854775808")], Err(Fault::Ambiguous)),
            (&[("Content-Length", "99999999999999999999999")], Err(Fault::Ambiguous)),
        ] {
            assert_eq!(read(1, fields).map(|fields| fields.content_length), expected, "{fields:?}");
        }
    }

    #[test]
    fn only_a_final_chunked_coding_frames_a_message() {
        for (version, fields, expected) in [
            (1, &[("Transfer-Encoding", "chunked")][..], Ok(true)),
            (1, &[("transfer-encoding", "gzip, Chunked")], Ok(true)),
            (1, &[("Transfer-Encoding", "gzip"), ("Transfer-Encoding", "chunked")], Ok(true)),
            (1, &[("Transfer-Encoding", "chunked, gzip")], Err(Fault::Ambiguous)),
            (1, &[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], Err(Fault::Ambiguous)),
            (1, &[("Transfer-Encoding", "chunked"), ("Content-Length", "3")], Err(Fault::Ambiguous)),
            (1, &[("Content-Length", "3"), ("Transfer-Encoding", "chunked")], Err(Fault::Ambiguous)),
            (0, &[("Transfer-Encoding", "chunked")], Err(Fault::Ambiguous)),
            (1, &[("Transfer-Encoding", "identity")], Err(Fault::Ambiguous)),
            (1, &[("Transfer-Encoding", "xchunked")], Err(Fault::Ambiguous)),
            (1, &[("Transfer-Encoding", "chunked;q=1")], Err(Fault::Ambiguous)),
            (1, &[("Transfer-Encoding", "")], Err(Fault::Ambiguous)),
            (1, &[("Transfer-Encoding", ",chunked")], Err(Fault::Ambiguous)),
            (1, &[("Transfer-Encoding", "\"chunked\"")], Err(Fault::Ambiguous)),
        ] {
            assert_eq!(read(version, fields).map(|fields| fields.chunked), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_content_range_is_read_strictly() {
        for (field, expected) in [
            ("bytes 0-0/1", Range::Bytes { first: 0, last: 0, complete: Some(1) }),
            ("Bytes 100-199/*", Range::Bytes { first: 100, last: 199, complete: None }),
            ("bytes 100-199/200", Range::Bytes { first: 100, last: 199, complete: Some(200) }),
            ("bytes 100-199/199", Range::Unusable),
            ("bytes 100-99/200", Range::Unusable),
            ("bytes */200", Range::Unusable),
            ("bytes=0-1/2", Range::Unusable),
            ("items 0-1/2", Range::Unusable),
            ("bytes 0-1/2, 3-4/5", Range::Unusable),
            ("bytes 0-99999999999999999999/*", Range::Unusable),
            ("", Range::Unusable),
        ] {
            assert_eq!(content_range(field.as_bytes()), expected, "{field:?}");
        }
        let twice = [("Content-Range", "bytes 0-0/1"), ("Content-Range", "bytes 0-0/1")];
        assert_eq!(read(1, &twice).map(|fields| fields.range), Ok(Range::Unusable));
    }

    #[test]
    fn content_begins_where_its_range_says_if_the_length_agrees() {
        let range = |complete| Range::Bytes { first: 100, last: 199, complete };
        let range = Fields { range: range(Some(200)), ..Fields::default() };
        assert_eq!(range.offset(Framing::Length(100)), Some(100));
        assert_eq!(range.offset(Framing::Length(99)), None);
        assert_eq!(range.offset(Framing::Chunked), Some(100));
        assert_eq!(Fields::default().offset(Framing::Length(5)), Some(0));
    }

    #[test]
    fn content_ends_the_representation_where_its_range_does() {
        for (complete, ends) in [(Some(200), true), (Some(201), false), (None, false)] {
            let fields =
                Fields { range: Range::Bytes { first: 100, last: 199, complete }, ..Fields::default() };
            assert_eq!(fields.ends(Framing::Length(100)), ends, "{complete:?}");
            assert!(!fields.ends(Framing::Chunked));
        }
        assert!(Fields::default().ends(Framing::Length(5)) && !Fields::default().ends(Framing::UntilClose));
        assert!(!Fields { range: Range::Unusable, ..Fields::default() }.ends(Framing::Length(5)));
    }

    fn read(version: u8, fields: &[(&str, &str)]) -> Result<Fields, Fault> {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        Fields::read(version, &fields)
    }
}
