//! The header of every plain message (MS-SMB2 2.2.1.1 and 2.2.1.2).
//!
//! ```text
//!  0        4      6      8       12     14     16     20     24          32            40         48          64
//! +--------+------+------+-------+------+------+------+------+-----------+-------------+----------+-----------+
//! | FE SMB | size | cred | status| cmd  | cred | flags| next | MessageId | - / TreeId  | SessionId| signature |
//! |        | 64   | chg  |       |      | r/r  |      |      |           | or AsyncId  |          |           |
//! +--------+------+------+-------+------+------+------+------+-----------+-------------+----------+-----------+
//! ```

use nom::bytes::streaming::{tag, take};
use nom::combinator::verify;
use nom::number::streaming::{le_u16, le_u32, le_u64};
use nom::{IResult, Parser};

use super::ProtocolId;

/// Bytes of a [`Header`] on the wire.
pub const HEADER_BYTES: usize = 64;

/// What a message asks for or answers (MS-SMB2 2.2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command(pub u16);

impl Command {
    /// NEGOTIATE
    pub const NEGOTIATE: Self = Self(0x0000);
    /// SESSION_SETUP
    pub const SESSION_SETUP: Self = Self(0x0001);
    /// LOGOFF
    pub const LOGOFF: Self = Self(0x0002);
    /// TREE_CONNECT
    pub const TREE_CONNECT: Self = Self(0x0003);
    /// TREE_DISCONNECT
    pub const TREE_DISCONNECT: Self = Self(0x0004);
    /// CREATE
    pub const CREATE: Self = Self(0x0005);
    /// CLOSE
    pub const CLOSE: Self = Self(0x0006);
    /// FLUSH
    pub const FLUSH: Self = Self(0x0007);
    /// READ
    pub const READ: Self = Self(0x0008);
    /// WRITE
    pub const WRITE: Self = Self(0x0009);
    /// LOCK
    pub const LOCK: Self = Self(0x000a);
    /// IOCTL
    pub const IOCTL: Self = Self(0x000b);
    /// CANCEL: has the MessageId of the request it cancels, and no response.
    pub const CANCEL: Self = Self(0x000c);
    /// QUERY_DIRECTORY
    pub const QUERY_DIRECTORY: Self = Self(0x000e);
    /// CHANGE_NOTIFY
    pub const CHANGE_NOTIFY: Self = Self(0x000f);
    /// QUERY_INFO
    pub const QUERY_INFO: Self = Self(0x0010);
    /// SET_INFO
    pub const SET_INFO: Self = Self(0x0011);
}

/// How a request went (MS-ERREF 2.3). In a request the field is ChannelSequence and means nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

impl Status {
    /// STATUS_SUCCESS
    pub const SUCCESS: Self = Self(0x0000_0000);
    /// STATUS_PENDING: an interim response, the final one follows with the same MessageId.
    pub const PENDING: Self = Self(0x0000_0103);
    /// STATUS_BUFFER_OVERFLOW: data is there, more of it than fitted. Pipes only.
    pub const BUFFER_OVERFLOW: Self = Self(0x8000_0005);
}

/// Flags of a message (MS-SMB2 2.2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flags(pub u32);

impl Flags {
    /// SMB2_FLAGS_SERVER_TO_REDIR: a response.
    pub const SERVER_TO_REDIR: Self = Self(0x0000_0001);
    /// SMB2_FLAGS_ASYNC_COMMAND: an AsyncId stands in the place of the TreeId.
    pub const ASYNC_COMMAND: Self = Self(0x0000_0002);
    /// SMB2_FLAGS_RELATED_OPERATIONS: session, tree and file are those of the message before it in the chain.
    pub const RELATED_OPERATIONS: Self = Self(0x0000_0004);
    /// SMB2_FLAGS_SIGNED
    pub const SIGNED: Self = Self(0x0000_0008);
    /// SMB2_FLAGS_DFS_OPERATIONS: a CREATE's name begins with a server and a share.
    pub const DFS_OPERATIONS: Self = Self(0x1000_0000);

    /// Returns whether every flag of `other` is set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Numbers the requests of a connection; a response has its request's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u64);

impl MessageId {
    /// The id of messages that answer no request: oplock and lease breaks (MS-SMB2 3.3.4.6).
    pub const UNSOLICITED: Self = Self(u64::MAX);
}

/// Names a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Names a tree connect within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeId(pub u32);

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How the request went; of no meaning in a request.
    pub status: Status,
    /// What the message asks for or answers.
    pub command: Command,
    /// Flags.
    pub flags: Flags,
    /// Offset of the next header from this one; 0 in the last message of a frame.
    pub next_command: u32,
    /// The request's number.
    pub message_id: MessageId,
    /// The tree connect; `None` in an asynchronous message, which has an AsyncId there.
    pub tree_id: Option<TreeId>,
    /// The session.
    pub session_id: SessionId,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// `Incomplete` below 64 bytes; `Error` for another ProtocolId or StructureSize.
    pub fn parse(input: &[u8]) -> IResult<&[u8], Self> {
        let (rest, (_, _, _credit_charge, status, command, _credits, flags)) = (
            tag(&ProtocolId::SMB2.0[..]),
            verify(le_u16, |size| usize::from(*size) == HEADER_BYTES),
            le_u16,
            le_u32.map(Status),
            le_u16.map(Command),
            le_u16,
            le_u32.map(Flags),
        )
            .parse(input)?;
        let (rest, (next_command, message_id, _process_id, tree_id, session_id, _signature)) = (
            le_u32,
            le_u64.map(MessageId),
            le_u32,
            le_u32.map(TreeId),
            le_u64.map(SessionId),
            take(16_usize),
        )
            .parse(rest)?;
        let tree_id = (!flags.contains(Flags::ASYNC_COMMAND)).then_some(tree_id);
        Ok((rest, Self { status, command, flags, next_command, message_id, tree_id, session_id }))
    }

    /// Returns whether the message is a response.
    #[must_use]
    pub fn is_response(&self) -> bool {
        self.flags.contains(Flags::SERVER_TO_REDIR)
    }

    /// Returns whether session, tree and file are those of the message before it in the chain.
    #[must_use]
    pub fn is_related(&self) -> bool {
        self.flags.contains(Flags::RELATED_OPERATIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_streams;
    use super::*;

    /// A response with every field set to something else than its neighbours.
    fn response() -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(b"\xfeSMB");
        bytes[4] = 64;
        bytes[6] = 5;
        bytes[8..12].copy_from_slice(&0x0000_0103_u32.to_le_bytes());
        bytes[12] = 8;
        bytes[14] = 9;
        bytes[16] = 0x0d;
        bytes[20] = 0x58;
        bytes[24..32].copy_from_slice(&0x0807_0605_0403_0201_u64.to_le_bytes());
        bytes[32..36].copy_from_slice(&[0xfe, 0xff, 0, 0]);
        bytes[36..40].copy_from_slice(&0x4433_2211_u32.to_le_bytes());
        bytes[40..48].copy_from_slice(&0x1817_1615_1413_1211_u64.to_le_bytes());
        bytes[48..].fill(0xaa);
        bytes
    }

    #[test]
    fn fields_are_read_from_their_offsets() {
        let header = assert_streams(Header::parse, &response());
        assert_eq!(
            header,
            Header {
                status: Status::PENDING,
                command: Command::READ,
                flags: Flags(0x0d),
                next_command: 0x58,
                message_id: MessageId(0x0807_0605_0403_0201),
                tree_id: Some(TreeId(0x4433_2211)),
                session_id: SessionId(0x1817_1615_1413_1211),
            }
        );
        assert!(header.is_response() && header.is_related() && header.flags.contains(Flags::SIGNED));
    }

    #[test]
    fn an_asynchronous_message_has_no_tree() {
        let mut bytes = response();
        bytes[16] |= 0x02;
        assert_eq!(Header::parse(&bytes).unwrap().1.tree_id, None);
    }

    #[test]
    fn another_protocol_or_structure_size_is_refused() {
        let (mut encrypted, mut oversized) = (response(), response());
        encrypted[0] = 0xfd;
        oversized[4] = 65;
        assert!(matches!(Header::parse(&encrypted), Err(nom::Err::Error(_))));
        assert!(matches!(Header::parse(&oversized), Err(nom::Err::Error(_))));
    }
}
