//! SMB 2.0.2 to 3.1.1 messages, as far as Wanigan reads them (MS-SMB2 section 2.2).
//!
//! Every structure is read by its offsets from borrowed bytes and never written back: a middlebox that re-encodes what
//! it parsed breaks signatures over fields that senders fill as they please. Readers stop at the fixed part of a
//! message; they neither follow offsets nor judge whether a length fits what was received, which is the shim's task.
//! All integers are little-endian.
//!
//! A frame begins with four bytes that say what it is ([`ProtocolId`]). A plain one is a chain of messages, each a
//! [`Header`] and a body, in which NextCommand leads to the next:
//!
//! ```text
//!  0            64                NextCommand     +64
//! +------------+-----------+-----+---------------+-----------+-----+
//! | header     | body      | pad | header        | body      | pad |
//! +------------+-----------+-----+---------------+-----------+-----+
//! ```

pub mod create;
pub mod file;
pub mod header;
pub mod ioctl;
pub mod read;
pub mod tree;
pub mod write;

pub use create::{CreateContext, CreateRequest, CreateResponse};
pub use file::FileId;
pub use header::{Command, Flags, Header, MessageId, SessionId, Status, TreeId};
pub use ioctl::ControlCode;
pub use read::{ReadRequest, ReadResponse};
pub use tree::{ShareType, TreeConnectRequest, TreeConnectResponse};
pub use write::WriteRequest;

/// The first four bytes of a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProtocolId(pub [u8; 4]);

impl ProtocolId {
    /// SMB 2 and 3 in the clear (MS-SMB2 2.2.1).
    pub const SMB2: Self = Self(*b"\xfeSMB");
    /// SMB1 (MS-CIFS 2.2.3.1).
    pub const SMB1: Self = Self(*b"\xffSMB");
    /// SMB2 TRANSFORM_HEADER: the rest is encrypted (MS-SMB2 2.2.41).
    pub const TRANSFORM: Self = Self(*b"\xfdSMB");
    /// SMB2 COMPRESSION_TRANSFORM_HEADER: the rest is compressed (MS-SMB2 2.2.42).
    pub const COMPRESSION: Self = Self(*b"\xfcSMB");
}

#[cfg(test)]
mod tests {
    use nom::IResult;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_input_panics(input in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = Header::parse(&input);
            let _ = ReadRequest::parse(&input);
            let _ = ReadResponse::parse(&input);
            let _ = WriteRequest::parse(&input);
            let _ = TreeConnectResponse::parse(&input);
            let _ = TreeConnectRequest::parse(&input);
            let _ = CreateRequest::parse(&input);
            let _ = CreateResponse::parse(&input);
            let _ = ControlCode::parse(&input);
            for command in 0..20 {
                let _ = FileId::of_request(Command(command), &input);
            }
        }
    }

    /// Checks that a reader of a fixed structure wants every byte of it, and is indifferent to those behind it.
    #[track_caller]
    pub(super) fn assert_streams<T: PartialEq + std::fmt::Debug>(
        parse: fn(&[u8]) -> IResult<&[u8], T>,
        whole: &[u8],
    ) -> T {
        for len in 0..whole.len() {
            assert!(
                matches!(parse(&whole[..len]), Err(nom::Err::Incomplete(_))),
                "{len} of {} bytes",
                whole.len()
            );
        }
        let (rest, value) = parse(whole).unwrap();
        assert!(rest.is_empty());
        let longer = [whole, b"\xfe\xff\x00"].concat();
        let (rest, same) = parse(&longer).unwrap();
        assert_eq!((rest, &same), (&b"\xfe\xff\x00"[..], &value));
        value
    }
}
