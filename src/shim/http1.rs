//! The shim of HTTP/1.0 and 1.1: bodies are content, everything between them is framing.
//!
//! It pairs each response with its request, because a response's length depends on the request's method
//! (RFC 9112 section 6.3), and then walks bodies without looking at them. Content begins at offset 0, or where a 206,
//! or an upload with `Content-Range`, says. It refuses to know what the bytes mean: a `Content-Encoding` is content
//! as it is. Request bodies are marked like response bodies.
//!
//! | what | becomes |
//! |--|--|
//! | heads, chunk sizes, extensions, trailers | framing |
//! | a body of known length, the data of a chunk | content, `last` where the body or the chunk ends |
//! | a body until close | content that never has `last`: its end is the connection's |
//! | a multipart/byteranges body | content of its own, from offset 0, of no object |
//! | a 206 body whose range can't be told or does not fit its length | opaque, and the flow goes on |
//!
//! The body of a GET's 200 or 206 belongs to its target on its host, as does that of a PUT or POST. It has a version, by
//! its strong `ETag`, only where it is the same for everybody who asks: neither does the request say who asks, nor did
//! one before it on the connection authenticate (NTLM does so once, RFC 4559 section 6), nor does the response set a
//! cookie, forbid storing it in shared caches, or vary by more than `Accept-Encoding`.
//!
//! What can go wrong ends content for good, with the reason, from a byte that does not depend on how the stream is
//! cut. A fault of the server's stream ends both directions. One of the client's stream lets the responses to what
//! was asked before it pass, and ends the server's stream after them. Bytes that a client sends behind a CONNECT or
//! an `Upgrade` before the answer is there are such a fault: only the answer can say what they are.
//!
//! Memory is bounded by two heads of [`HEAD_BYTES_MAX`](wanigan_parsers::http1::HEAD_BYTES_MAX) bytes and
//! [`PENDING_MAX`] requests of some 40 bytes: names are kept as hashes.

use std::collections::VecDeque;

use wanigan_parsers::Direction;
use wanigan_parsers::http1::{
    Action, Body, Fault, Framing, HeadReader, MessageKind, Method, Piece, Represented, RequestHead,
    Requested, ResponseHead,
};

use crate::fault::{OpaqueReason, Protocol};
use crate::object::{Object, Place, Version};
use crate::shim::{Shim, Span, SpanKind};

#[cfg(test)]
mod tests;

/// The most requests that wait for their responses; browsers pipeline none, tools a handful.
pub const PENDING_MAX: usize = 1024;

/// The state of one HTTP/1 flow.
#[derive(Debug)]
pub struct Http1 {
    to_server: Lane,
    to_client: Lane,
    /// Requests whose final response has not begun.
    pending: VecDeque<Pending>,
    /// Whether a request has asked to end HTTP and its answer is not there.
    switching: bool,
    /// Whether a request has authenticated, which may hold for all that follow.
    authenticated: bool,
}

/// What a response needs of its request.
#[derive(Debug, Clone, Copy)]
struct Pending {
    method: Method,
    may_switch: bool,
    resource: Option<Resource>,
}

/// What a GET asks for.
#[derive(Debug, Clone, Copy)]
struct Resource {
    place: Place,
    /// Of its exact names; `None` where the answer may be for the asker alone.
    shared: Option<Version>,
}

/// What is known of a body's content.
#[derive(Debug, Clone, Copy)]
struct Content {
    /// Where the next byte belongs; `None` if nobody can tell.
    offset: Option<u64>,
    /// Whether the last byte is the last of the representation.
    ends: bool,
    object: Option<Object>,
}

/// One direction.
#[derive(Debug)]
struct Lane {
    state: State,
    reader: HeadReader,
}

#[derive(Debug)]
enum State {
    Head,
    Body {
        body: Body,
        content: Content,
    },
    /// For good.
    Opaque(OpaqueReason),
}

impl Http1 {
    /// Returns the state at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self {
            to_server: Lane::new(MessageKind::Request),
            to_client: Lane::new(MessageKind::Response),
            pending: VecDeque::new(),
            switching: false,
            authenticated: false,
        }
    }

    /// Marks the first run of `input` and returns its length, or 0 after a change of state.
    fn step(&mut self, direction: Direction, input: &[u8], marks: &mut Marks<'_>) -> usize {
        match &mut self.lane(direction).state {
            State::Opaque(reason) => {
                marks.opaque(input.len(), *reason);
                input.len()
            }
            State::Head => self.step_head(direction, input, marks),
            State::Body { body, content } => {
                let piece = match body.advance(input) {
                    Ok(piece) => piece,
                    Err(fault) => {
                        self.end(direction, reason_of(fault));
                        return 0;
                    }
                };
                let len = marks.piece(piece, content);
                if body.is_done() {
                    self.lane(direction).state = State::Head;
                }
                len
            }
        }
    }

    fn step_head(&mut self, direction: Direction, input: &[u8], marks: &mut Marks<'_>) -> usize {
        if let Some(reason) = self.unexpected(direction) {
            self.end(direction, reason);
            return 0;
        }
        let reader = &mut self.lane(direction).reader;
        match reader.advance(input) {
            Ok((taken, stands)) => {
                marks.opaque(taken, OpaqueReason::Framing);
                if stands {
                    self.handle_head(direction);
                }
                taken
            }
            Err(fault) => {
                self.end(direction, reason_of(fault));
                0
            }
        }
    }

    /// Returns why no head may begin here, if so.
    fn unexpected(&self, direction: Direction) -> Option<OpaqueReason> {
        match direction {
            Direction::ToServer => {
                (self.switching && self.to_server.reader.is_empty()).then_some(OpaqueReason::HttpAmbiguous)
            }
            Direction::ToClient if !self.pending.is_empty() => None,
            Direction::ToClient => match self.to_server.state {
                State::Opaque(reason) => Some(reason),
                // A response that nobody asked for has no length that one could know.
                State::Head | State::Body { .. } => Some(OpaqueReason::HttpAmbiguous),
            },
        }
    }

    fn handle_head(&mut self, direction: Direction) {
        let outcome = match direction {
            Direction::ToServer => self.handle_request(),
            Direction::ToClient => self.handle_response(),
        };
        self.lane(direction).reader.clear();
        match outcome {
            Ok(None) => {}
            Ok(Some((framing, content))) => {
                let body = Body::new(framing);
                let done = body.is_done();
                self.lane(direction).state = if done { State::Head } else { State::Body { body, content } };
            }
            Err(reason) => self.end(direction, reason),
        }
    }

    fn handle_request(&mut self) -> Outcome {
        let head = RequestHead::parse(self.to_server.reader.head()).map_err(reason_of)?;
        if self.pending.len() >= PENDING_MAX {
            return Err(OpaqueReason::TooManyPending);
        }
        self.authenticated |= head.requested.authenticates;
        let named = resource(&head.requested, self.authenticated);
        let (resource, object) = match head.requested.action {
            Action::Get => (named, None),
            Action::Upload => (None, named.map(|named| Object { place: named.place, version: None })),
            Action::Other => (None, None),
        };
        self.pending.push_back(Pending { method: head.method, may_switch: head.may_switch, resource });
        self.switching |= head.may_switch;
        Ok(Some((head.framing, Content { offset: head.offset, ends: head.ends, object })))
    }

    fn handle_response(&mut self) -> Outcome {
        let request = *self.pending.front().ok_or(OpaqueReason::HttpAmbiguous)?;
        let head = self.to_client.reader.head();
        match ResponseHead::parse(head, request.method).map_err(reason_of)? {
            ResponseHead::Interim => Ok(None),
            ResponseHead::Switched => Err(OpaqueReason::HttpUpgraded),
            ResponseHead::Final { framing, offset, ends, represented } => {
                let object = request.resource.and_then(|resource| object(&resource, &represented));
                self.pending.pop_front();
                self.switching &= !request.may_switch;
                Ok(Some((framing, Content { offset, ends, object })))
            }
        }
    }

    /// Makes a direction opaque for good; with the server's, both.
    fn end(&mut self, direction: Direction, reason: OpaqueReason) {
        self.to_server.end(reason);
        if direction == Direction::ToClient {
            self.to_client.end(reason);
            self.pending = VecDeque::new();
        }
    }

    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }
}

impl Default for Http1 {
    fn default() -> Self {
        Self::new()
    }
}

impl Shim for Http1 {
    fn protocol(&self) -> Protocol {
        Protocol::Http1
    }

    fn handle_input(&mut self, direction: Direction, input: &[u8], spans: &mut Vec<Span>) {
        let mut marks = Marks { first: spans.len(), spans };
        let mut rest = input;
        while !rest.is_empty() {
            let taken = self.step(direction, rest, &mut marks);
            rest = &rest[taken..];
        }
    }
}

impl Lane {
    fn new(kind: MessageKind) -> Self {
        Self { state: State::Head, reader: HeadReader::new(kind) }
    }

    /// Becomes opaque for good, unless it is: the first reason counts.
    fn end(&mut self, reason: OpaqueReason) {
        if !matches!(self.state, State::Opaque(_)) {
            self.state = State::Opaque(reason);
            self.reader.clear();
        }
    }
}

/// The body that follows a head, `None` after an interim response; or why the direction ends.
type Outcome = Result<Option<(Framing, Content)>, OpaqueReason>;

/// The spans of one input. Neighbours of one kind become one.
struct Marks<'a> {
    spans: &'a mut Vec<Span>,
    /// Where this input's spans begin.
    first: usize,
}

impl Marks<'_> {
    /// Marks a piece of a body and moves `content` past it. Returns its length.
    fn piece(&mut self, piece: Piece, content: &mut Content) -> usize {
        match (piece, &mut content.offset) {
            (Piece::Framing(len), _) => {
                self.opaque(len, OpaqueReason::Framing);
                len
            }
            (Piece::Content { len, last }, Some(offset)) => {
                let end = last && content.ends;
                self.spans.push(Span::content_of(len, *offset, last, end, content.object));
                *offset = offset.saturating_add(len as u64);
                len
            }
            (Piece::Content { len, .. }, None) => {
                self.opaque(len, OpaqueReason::HttpAmbiguous);
                len
            }
        }
    }

    fn opaque(&mut self, len: usize, reason: OpaqueReason) {
        let kind = SpanKind::Opaque(reason);
        match self.spans[self.first..].last_mut() {
            Some(span) if span.kind == kind => span.len += len,
            _ => self.spans.push(Span { len, kind }),
        }
    }
}

/// Names what a request is about, for whoever may have it.
fn resource(requested: &Requested<'_>, authenticated: bool) -> Option<Resource> {
    let (host, path) = requested.resource()?;
    let place = Place::of(&[b"http", &host.to_ascii_lowercase(), path]);
    let exact = [b"http", requested.host.unwrap_or_default(), requested.target];
    let shared = (!requested.personal && !authenticated).then(|| Version::of(&exact));
    Some(Resource { place, shared })
}

/// Returns what the body of a response belongs to.
fn object(resource: &Resource, represented: &Represented<'_>) -> Option<Object> {
    let version = resource
        .shared
        .zip(represented.validator)
        .map(|(names, validator)| Version::of(&[&names.0, validator.etag, validator.coding]));
    represented.is_targets.then_some(Object { place: resource.place, version })
}

fn reason_of(fault: Fault) -> OpaqueReason {
    match fault {
        Fault::Malformed => OpaqueReason::Malformed,
        Fault::Ambiguous => OpaqueReason::HttpAmbiguous,
        Fault::Http2 => OpaqueReason::Http2,
    }
}
