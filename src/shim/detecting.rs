//! A shim that finds out from the client's first bytes what a connection speaks, and then becomes that.
//!
//! Ports say little: SMB and HTTP servers listen where they like. Until the client's bytes are told apart, they are
//! opaque as framing, which the first bytes of every protocol known here are anyway; the shim that is chosen gets them
//! again so that it starts at the first byte. A server that speaks first speaks none of these protocols, and the
//! connection is opaque for good. What can go wrong: a protocol that resembles another, whose shim then finds nothing.

use wanigan_parsers::Direction;
use wanigan_parsers::detect::{DETECT_BYTES_MAX, Detected, detect};

use super::http1::Http1;
use super::smb2::Smb2;
use super::{Shim, Span};
use crate::fault::{OpaqueReason, Protocol};

/// A shim for any connection.
pub struct Detecting {
    state: State,
}

enum State {
    /// The client's bytes so far fit more than one protocol.
    Undecided { seen: [u8; DETECT_BYTES_MAX], len: usize },
    /// A protocol with a shim.
    Decided(Box<dyn Shim>),
    /// None.
    Opaque(Protocol, OpaqueReason),
}

impl Detecting {
    /// Starts at the first byte of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::Undecided { seen: [0; DETECT_BYTES_MAX], len: 0 } }
    }

    /// Takes the client's bytes one at a time until they tell the protocol. Returns how many it took.
    fn decide(&mut self, input: &[u8]) -> usize {
        let State::Undecided { seen, len } = &mut self.state else { return 0 };
        for (at, byte) in input.iter().enumerate() {
            seen[*len] = *byte;
            *len += 1;
            let detected = match detect(&seen[..*len]) {
                // The detector needs no more than this; were it to, it would have to guess.
                Detected::NeedMore if *len == seen.len() => Detected::Other,
                Detected::NeedMore => continue,
                detected => detected,
            };
            self.state = enter(detected, &seen[..*len]);
            return at + 1;
        }
        input.len()
    }
}

impl Default for Detecting {
    fn default() -> Self {
        Self::new()
    }
}

impl Shim for Detecting {
    fn protocol(&self) -> Protocol {
        match &self.state {
            State::Undecided { .. } => Protocol::Other,
            State::Decided(shim) => shim.protocol(),
            State::Opaque(protocol, _) => *protocol,
        }
    }

    fn handle_input(&mut self, direction: Direction, mut input: &[u8], spans: &mut Vec<Span>) {
        if let State::Undecided { .. } = self.state {
            match direction {
                Direction::ToServer => {
                    let taken = self.decide(input);
                    if taken > 0 {
                        spans.push(Span::opaque(taken, OpaqueReason::Framing));
                    }
                    input = &input[taken..];
                }
                Direction::ToClient if input.is_empty() => {}
                Direction::ToClient => {
                    self.state = State::Opaque(Protocol::Other, OpaqueReason::UnknownProtocol)
                }
            }
        }
        if input.is_empty() {
            return;
        }
        match &mut self.state {
            State::Decided(shim) => shim.handle_input(direction, input, spans),
            State::Opaque(_, reason) => spans.push(Span::opaque(input.len(), *reason)),
            // An undecided shim has taken all of its input.
            State::Undecided { .. } => {}
        }
    }
}

/// Makes the state for a protocol whose first bytes from the client are `seen`.
fn enter(detected: Detected, seen: &[u8]) -> State {
    let mut shim: Box<dyn Shim> = match detected {
        // SMB1 is opaque to the SMB2 shim, which goes on when a multi-protocol NEGOTIATE leads into SMB2.
        Detected::Smb2 | Detected::Smb1 | Detected::NetbiosSession => Box::new(Smb2::new()),
        Detected::Http1 => Box::new(Http1::new()),
        Detected::Http2Preface => return State::Opaque(Protocol::Other, OpaqueReason::Http2),
        Detected::Tls => return State::Opaque(Protocol::Tls, OpaqueReason::Tls),
        Detected::Other | Detected::NeedMore => {
            return State::Opaque(Protocol::Other, OpaqueReason::UnknownProtocol);
        }
    };
    // These bytes were given away as framing already.
    let mut given = Vec::new();
    shim.handle_input(Direction::ToServer, seen, &mut given);
    debug_assert_eq!(given.iter().map(|span| span.len).sum::<usize>(), seen.len());
    State::Decided(shim)
}
