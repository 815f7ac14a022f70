//! HTTP/1.0 and HTTP/1.1 message framing (RFC 9112): where heads end, how long bodies are, where in a
//! representation a body begins.
//!
//! A message is read in two stages. A [`HeadReader`] copies bytes until the head stands, then [`RequestHead`] or
//! [`ResponseHead`] says what follows it, as a [`Framing`]; a [`Body`] walks that, without copying, in one step for
//! each run of content. Nothing here pairs requests with responses, and no field is kept but those that framing needs
//! and those that tell one representation from another ([`Requested`], [`Represented`]).
//!
//! It is strict where recipients in the field differ (RFC 9112 sections 2.2, 5.2, 6.1 and 6.3): a bare CR or LF, a
//! folded line, `Transfer-Encoding` beside `Content-Length`, two lengths that differ. A reader that guessed might
//! take the next message's head for content. The price of refusing is savings, never bytes.
//!
//! What can go wrong is a [`Fault`]. Each is found at the same byte, however the stream is cut.

mod body;
mod chunked;
mod fields;
mod head;
mod identity;
mod message;

pub use body::{Body, Piece};
pub use chunked::{CHUNK_LINE_BYTES_MAX, Chunked};
pub use head::{HEAD_BYTES_MAX, HeadReader};
pub use identity::{Action, Represented, Requested, Validator};
pub use message::{FIELDS_MAX, Method, RequestHead, ResponseHead};

/// Which of the two kinds of message a direction carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// From the client.
    Request,
    /// From the server.
    Response,
}

/// How the end of a message's body is known (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; 0 where the message has no body.
    Length(u64),
    /// The chunked transfer coding (RFC 9112 section 7.1).
    Chunked,
    /// Until the sender closes the connection.
    UntilClose,
}

/// Why a stream can't be read further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The bytes are not HTTP/1, or exceed a limit of this reader.
    Malformed,
    /// Recipients may differ over where this message ends (RFC 9112 sections 6.3 and 11.2).
    Ambiguous,
    /// The client speaks HTTP/2 with prior knowledge (RFC 9113 section 3.4).
    Http2,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed HTTP/1 message",
            Self::Ambiguous => "HTTP/1 message of ambiguous length",
            Self::Http2 => "HTTP/2 connection preface",
        })
    }
}

impl std::error::Error for Fault {}

/// Whether the byte may be part of a token, such as a method or a field name (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether the byte may be part of a field value or of a chunk extension: anything but control characters.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
