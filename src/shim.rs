//! Shims: state machines that watch both directions of a flow and mark which bytes are file content.
//!
//! A shim alters nothing, holds nothing back and never waits for a whole message: for every input it returns spans
//! that partition exactly those bytes. What it does not know it marks opaque, with the reason; it never guesses.
//! The result must not depend on how the stream is cut into inputs, except that adjacent spans of one kind may be
//! cut in two.

pub mod http1;

use wanigan_parsers::Direction;

use crate::fault::{OpaqueReason, Protocol};
use crate::object::Object;

pub mod detecting;
pub mod smb2;

/// A protocol's state machine for one flow.
///
/// Requests must be given before their responses, which is the order in which they cross the proxy.
pub trait Shim: Send {
    /// Returns the protocol, for metrics.
    fn protocol(&self) -> Protocol;

    /// Looks at the next bytes of one direction and appends spans whose lengths sum to `input.len()`.
    fn handle_input(&mut self, direction: Direction, input: &[u8], spans: &mut Vec<Span>);
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Length in bytes, at least 1.
    pub len: usize,
    /// What the bytes are.
    pub kind: SpanKind,
}

/// What a span's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Passed on as they are.
    Opaque(OpaqueReason),
    /// Content of a file or representation.
    Content {
        /// Where in the file or representation the span begins, in bytes.
        offset: u64,
        /// Whether the data of this READ, or this body, or this chunk of it, ends with the span, so that whatever
        /// is held for a block need not wait.
        last: bool,
        /// Whether the file or representation has no bytes beyond the span, as far as was said.
        end: bool,
        /// Which file or representation it is, if that can be told.
        object: Option<Object>,
    },
}

impl Span {
    /// Returns an opaque span.
    #[must_use]
    pub fn opaque(len: usize, reason: OpaqueReason) -> Self {
        Self { len, kind: SpanKind::Opaque(reason) }
    }

    /// Returns a span of content of which it is not known what it belongs to.
    #[must_use]
    pub fn content(len: usize, offset: u64, last: bool) -> Self {
        Self::content_of(len, offset, last, false, None)
    }

    /// Returns a span of content of an object, or of something that nobody can tell.
    #[must_use]
    pub fn content_of(len: usize, offset: u64, last: bool, end: bool, object: Option<Object>) -> Self {
        Self { len, kind: SpanKind::Content { offset, last, end, object } }
    }
}
