//! NetBIOS Session Service framing, also used by Direct TCP (MS-SMB2 2.1, RFC 1002 section 4.3).
//!
//! Owns the four bytes before every SMB message and refuses to know what a session message carries. What can go
//! wrong: a packet type of neither transport, or reserved flags in a control packet. Then nothing in the stream can be
//! trusted to be where it seems, so the reader of a stream has to give up on it.
//!
//! ```text
//!  0       1                       4
//! +-------+-----------------------+
//! | type  | length u24            |      session message: the length has 24 bits (MS-SMB2 2.1)
//! +-------+-----------------------+
//! | type  | 0000000e | length u16 |      control packet: 17 bits, `e` is the highest (RFC 1002 section 4.3.1)
//! +-------+-----------------------+
//! ```

use nom::combinator::verify;
use nom::number::streaming::{be_u8, be_u24};
use nom::{IResult, Parser};

/// Bytes of a [`Header`] on the wire.
pub const HEADER_BYTES: usize = 4;

/// The longest payload of a control packet, in bytes.
pub const CONTROL_BYTES_MAX: u32 = 0x1_ffff;

/// What a packet is for (RFC 1002 section 4.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PacketType(pub u8);

impl PacketType {
    /// Carries an SMB message; the only type of Direct TCP.
    pub const SESSION_MESSAGE: Self = Self(0x00);
    /// Names the two ends before the first message on port 139.
    pub const SESSION_REQUEST: Self = Self(0x81);
    /// Accepts a session request.
    pub const POSITIVE_SESSION_RESPONSE: Self = Self(0x82);
    /// Refuses a session request.
    pub const NEGATIVE_SESSION_RESPONSE: Self = Self(0x83);
    /// Names another address and port for the session.
    pub const RETARGET_SESSION_RESPONSE: Self = Self(0x84);
    /// Keeps the connection alive; either end may send it between any two packets.
    pub const SESSION_KEEP_ALIVE: Self = Self(0x85);

    /// Returns whether the packet belongs to the session service itself and carries no SMB message.
    #[must_use]
    pub fn is_control(self) -> bool {
        (Self::SESSION_REQUEST.0..=Self::SESSION_KEEP_ALIVE.0).contains(&self.0)
    }
}

/// The header of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the packet is for.
    pub packet_type: PacketType,
    /// Bytes that follow the header.
    pub len: u32,
}

impl Header {
    /// Reads a header.
    ///
    /// Session messages have 24-bit lengths on both ports: the bits that RFC 1002 reserves on port 139 are zero there.
    ///
    /// # Errors
    /// `Incomplete` below four bytes; `Error` for a type of neither transport, or a control packet with reserved flags.
    pub fn parse(input: &[u8]) -> IResult<&[u8], Self> {
        verify((be_u8, be_u24), |(packet_type, len)| match PacketType(*packet_type) {
            PacketType::SESSION_MESSAGE => true,
            control => control.is_control() && *len <= CONTROL_BYTES_MAX,
        })
        .map(|(packet_type, len)| Self { packet_type: PacketType(packet_type), len })
        .parse(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_message_has_a_length_of_24_bits() {
        let (rest, header) = Header::parse(&[0x00, 0x80, 0x01, 0x02, 0xfe]).unwrap();
        assert_eq!(header, Header { packet_type: PacketType::SESSION_MESSAGE, len: 0x80_0102 });
        assert_eq!(rest, [0xfe]);
    }

    #[test]
    fn control_packets_have_a_length_of_17_bits() {
        let (_, header) = Header::parse(&[0x81, 0x01, 0x00, 0x44]).unwrap();
        assert_eq!(header, Header { packet_type: PacketType::SESSION_REQUEST, len: 0x1_0044 });
        assert!(Header::parse(&[0x81, 0x02, 0x00, 0x44]).is_err());
        assert!(Header::parse(&[0x85, 0x00, 0x00, 0x00]).is_ok());
    }

    #[test]
    fn types_of_neither_transport_are_refused() {
        for packet_type in (0x01..=0x80).chain(0x86..=0xff) {
            assert!(
                matches!(Header::parse(&[packet_type, 0, 0, 0]), Err(nom::Err::Error(_))),
                "{packet_type:#x}"
            );
        }
    }

    #[test]
    fn less_than_four_bytes_is_incomplete() {
        let whole = [0x00, 0x00, 0x00, 0x40];
        for len in 0..whole.len() {
            assert!(matches!(Header::parse(&whole[..len]), Err(nom::Err::Incomplete(_))), "{len} bytes");
        }
    }
}
