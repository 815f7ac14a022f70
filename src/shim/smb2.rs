//! The SMB2 shim: SMB 2.0.2 to 3.1.1 over Direct TCP (port 445) and over NetBIOS sessions (port 139).
//!
//! A READ's data is content at the offset its request named, a WRITE's data at the offset it names itself. All else is
//! opaque: headers, other commands, padding, pipes, encrypted and compressed frames, SMB1 frames of a multi-protocol
//! NEGOTIATE. That is decided frame by frame and message by message, for one connection mixes them.
//!
//! ```text
//!   client bytes ──▶ walk ──▶ exchange ◀── walk ◀── server bytes
//!                   (frames,  (pending READs,
//!                   messages)  pipe trees)
//!                                 │
//!                               files ◀── names
//!                              (shares,  (places,
//!                               opens)    exact names)
//! ```
//!
//! `walk` keeps the place in one direction's stream, `exchange` matches the directions by MessageId. The shim decides
//! on a message's first bytes, 84 of a frame for a READ response, and knows from then on what up to 8 MiB of data are
//! without looking at them. It keeps no credit or dialect.
//!
//! `files` follows what is open, from TREE_CONNECT and CREATE on, to tell of which file content is: a hint of what it may
//! be compared with, and the condition for naming a slice of a block. Where data belongs in its file does not depend on
//! it, and content of a file that was opened elsewhere is content all the same.
//!
//! What can go wrong costs savings only. A message that fails a check is opaque, a broken chain makes the rest of its
//! frame opaque; only a frame that cannot be made out, or a full table of pending READs, ends the shim, in both
//! directions and for good.

mod exchange;
mod files;
mod names;
mod pending;
mod walk;

use exchange::{Exchange, Side};
use walk::Walk;
use wanigan_parsers::Direction;

use crate::fault::Protocol;
use crate::shim::{Shim, Span, SpanKind};

/// The state machine of one connection that speaks SMB2, or SMB1 at its start.
pub struct Smb2 {
    to_server: Walk,
    to_client: Walk,
    exchange: Exchange,
}

impl Smb2 {
    /// Starts at the first byte of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self { to_server: Walk::new(), to_client: Walk::new(), exchange: Exchange::default() }
    }
}

impl Default for Smb2 {
    fn default() -> Self {
        Self::new()
    }
}

impl Shim for Smb2 {
    fn protocol(&self) -> Protocol {
        self.exchange.protocol()
    }

    fn handle_input(&mut self, direction: Direction, mut input: &[u8], spans: &mut Vec<Span>) {
        // Spans of an earlier input stay as they are.
        let first = spans.len();
        while !input.is_empty() {
            let span = match (self.exchange.stopped(), direction) {
                (Some(reason), _) => Span::opaque(input.len(), reason),
                (None, Direction::ToServer) => {
                    self.to_server.advance(input, &mut Side { direction, exchange: &mut self.exchange })
                }
                (None, Direction::ToClient) => {
                    self.to_client.advance(input, &mut Side { direction, exchange: &mut self.exchange })
                }
            };
            input = &input[span.len..];
            append(spans, first, span);
        }
    }
}

/// Appends a span, or lengthens the last one from `first` on if it is opaque for the same reason.
fn append(spans: &mut Vec<Span>, first: usize, span: Span) {
    match spans[first..].last_mut() {
        Some(last) if last.kind == span.kind && matches!(span.kind, SpanKind::Opaque(_)) => {
            last.len += span.len
        }
        _ => spans.push(span),
    }
}
