//! Walks one direction of a connection from frame to frame and from message to message.
//!
//! Owns the place in the stream and a copy of the bytes that the next decision needs: some hundred, but for a CREATE,
//! whose name may be long; [`HELD_BYTES_MAX`] at most. It refuses to know what a message means: it hands each one's header and the first bytes of its body to a [`Judge`] and
//! carries out the [`Payload`] that comes back. Every byte is given away in the call that brought it.
//!
//! The kind of a byte depends on the bytes before it and on itself, never on those behind it, whatever came in the same
//! input. That is what makes the spans the same under any segmentation.
//!
//! What can go wrong: a packet header that no transport knows, of which the judge is told because nothing behind it can
//! be read; and a broken chain, which costs the rest of its frame only.

use wanigan_parsers::nbss::{self, PacketType};
use wanigan_parsers::smb2::header::HEADER_BYTES;
use wanigan_parsers::smb2::{Header, ProtocolId, SessionId, TreeId};

use super::names::CREATE_BYTES_MAX;
use crate::fault::OpaqueReason;
use crate::object::Object;
use crate::shim::Span;

/// The most bytes of a stream that a walk keeps a copy of: a header and the longest part of a body that anybody reads.
pub(super) const HELD_BYTES_MAX: usize = HEADER_BYTES + CREATE_BYTES_MAX;

/// What a walk may keep allocated between two decisions; only names are longer than this.
const IDLE_BYTES_MAX: usize = 512;

/// What decides about messages.
pub(super) trait Judge {
    /// Returns how many bytes of the body are wanted beside the header, at most [`HELD_BYTES_MAX`] with it.
    fn body_bytes(&self, header: &Header) -> usize;

    /// Tells what the rest of a message is.
    fn judge(&mut self, message: &Message<'_>) -> Payload;

    /// Learns that a frame's payload begins with these bytes, and tells what the rest of it is unless it is plain SMB2.
    fn open_frame(&mut self, protocol_id: ProtocolId) -> OpaqueReason;

    /// Learns of a message whose NextCommand leads nowhere; the rest of its frame is passed over.
    fn pass_over(&mut self, header: &Header);

    /// Learns that the next frame cannot be made out. Nothing may be read from this direction any more.
    fn lose_stream(&mut self);
}

/// A tree connect of a connection.
pub(super) type Tree = (SessionId, TreeId);

/// A message, as far as it is needed to judge it.
pub(super) struct Message<'a> {
    /// Its header.
    pub(super) header: Header,
    /// The tree it works on; related messages work on that of the one before.
    pub(super) tree: Option<Tree>,
    /// The first bytes of its body: as many as the judge wanted, or all if there are fewer.
    pub(super) body: &'a [u8],
    /// Its length with header and padding, in bytes.
    pub(super) len: usize,
}

/// The bytes of a message behind those that were held: a gap, data, a tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Payload {
    gap: usize,
    data: usize,
    offset: u64,
    tail: usize,
    reason: OpaqueReason,
    end: bool,
    object: Option<Object>,
}

impl Payload {
    /// No content in it.
    pub(super) fn opaque(message: &Message<'_>, reason: OpaqueReason) -> Self {
        Self { gap: 0, data: 0, offset: 0, tail: message.left(), reason, end: false, object: None }
    }

    /// Content at `data_offset` of the message, which belongs at `offset` of the file.
    ///
    /// The data must lie within the message and behind the bytes held, or `None` is returned.
    pub(super) fn content(
        message: &Message<'_>,
        data_offset: usize,
        data: usize,
        offset: u64,
    ) -> Option<Self> {
        let gap = data_offset.checked_sub(message.held())?;
        let tail = message.left().checked_sub(gap)?.checked_sub(data)?;
        Some(Self { gap, data, offset, tail, reason: OpaqueReason::Framing, end: false, object: None })
    }

    /// Says what the content belongs to, and whether that has no bytes beyond it.
    pub(super) fn of(self, object: Option<Object>, end: bool) -> Self {
        Self { end, object, ..self }
    }

    /// Takes the next run of one kind, `len` bytes of it at most.
    fn take(&mut self, len: usize) -> Span {
        if self.gap > 0 {
            let len = len.min(self.gap);
            self.gap -= len;
            Span::opaque(len, OpaqueReason::Framing)
        } else if self.data > 0 {
            let len = len.min(self.data);
            let last = len == self.data;
            let span = Span::content_of(len, self.offset, last, last && self.end, self.object);
            self.data -= len;
            self.offset += len as u64;
            span
        } else {
            let len = len.min(self.tail);
            self.tail -= len;
            Span::opaque(len, self.reason)
        }
    }

    fn is_done(&self) -> bool {
        self.gap == 0 && self.data == 0 && self.tail == 0
    }
}

impl Message<'_> {
    fn held(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    fn left(&self) -> usize {
        self.len - self.held()
    }

    /// Returns bytes of the message, counted from its first; `None` unless they are in the part of the body that is held.
    pub(super) fn bytes(&self, offset: usize, length: usize) -> Option<&[u8]> {
        self.body.get(offset.checked_sub(HEADER_BYTES)?..)?.get(..length)
    }
}

/// The place in one direction's stream.
pub(super) struct Walk {
    stage: Stage,
    held: Held,
    /// Bytes of the frame behind those seen or, once a message's length is known, behind that message.
    frame_left: usize,
    /// The tree of the message before, for a related one.
    tree: Option<Tree>,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Stage {
    /// The header of a frame.
    Frame,
    /// The first bytes of a frame's payload.
    ProtocolId,
    /// The header of a message.
    Header,
    /// The first bytes of a message's body.
    Body { header: Header, len: usize, wanted: usize },
    /// The rest of a message.
    Payload(Payload),
    /// The rest of a frame that has no more messages to read.
    Rest(OpaqueReason),
}

impl Walk {
    /// Starts at the beginning of a stream.
    pub(super) fn new() -> Self {
        Self { stage: Stage::Frame, held: Held::new(), frame_left: 0, tree: None }
    }

    /// Takes bytes from the start of `input`, which is not empty, and returns what they are: at least one byte.
    pub(super) fn advance(&mut self, input: &[u8], judge: &mut impl Judge) -> Span {
        match self.stage {
            Stage::Payload(mut payload) => {
                let span = payload.take(input.len());
                self.set_payload(payload);
                span
            }
            Stage::Rest(reason) => {
                let len = input.len().min(self.frame_left);
                self.frame_left -= len;
                self.set_rest(reason);
                Span::opaque(len, reason)
            }
            Stage::Frame => self.hold(input, nbss::HEADER_BYTES, judge),
            Stage::ProtocolId => self.hold(input, size_of::<ProtocolId>(), judge),
            Stage::Header => self.hold(input, HEADER_BYTES, judge),
            Stage::Body { wanted, .. } => self.hold(input, HEADER_BYTES + wanted, judge),
        }
    }

    /// Adds to the bytes held until there are `target`, then decides.
    fn hold(&mut self, input: &[u8], target: usize, judge: &mut impl Judge) -> Span {
        let len = self.held.fill(input, target);
        if self.held.len() == target {
            self.decide(judge);
        }
        Span::opaque(len, OpaqueReason::Framing)
    }

    /// Moves on from a stage all of whose bytes are held.
    fn decide(&mut self, judge: &mut impl Judge) {
        match self.stage {
            Stage::Frame => self.enter_frame(judge),
            Stage::ProtocolId => self.identify(judge),
            Stage::Header => self.read_header(judge),
            Stage::Body { header, len, .. } => self.judge(header, len, judge),
            Stage::Payload(_) | Stage::Rest(_) => {}
        }
    }

    fn enter_frame(&mut self, judge: &mut impl Judge) {
        let Ok((_, header)) = nbss::Header::parse(self.held.bytes()) else { return judge.lose_stream() };
        self.tree = None;
        // At most 24 bits.
        self.frame_left = header.len as usize;
        if header.packet_type == PacketType::SESSION_MESSAGE && self.frame_left >= size_of::<ProtocolId>() {
            self.held.clear();
            self.stage = Stage::ProtocolId;
        } else {
            self.set_rest(OpaqueReason::Framing);
        }
    }

    fn identify(&mut self, judge: &mut impl Judge) {
        let protocol_id = ProtocolId(std::array::from_fn(|at| self.held.bytes()[at]));
        let reason = judge.open_frame(protocol_id);
        if protocol_id == ProtocolId::SMB2 && self.frame_left >= HEADER_BYTES {
            // The ProtocolId stays held: it is the header's first field.
            self.stage = Stage::Header;
        } else {
            self.frame_left -= self.held.len();
            let reason = if protocol_id == ProtocolId::SMB2 { OpaqueReason::Malformed } else { reason };
            self.set_rest(reason);
        }
    }

    /// Reads a header, all of which is still counted in `frame_left`.
    fn read_header(&mut self, judge: &mut impl Judge) {
        let Ok((_, header)) = Header::parse(self.held.bytes()) else { return self.give_up_frame() };
        let len = match header.next_command as usize {
            0 => self.frame_left,
            // MS-SMB2 2.2.1.2: the next header is aligned to 8 bytes from this one's start.
            next if next % 8 == 0 && next >= HEADER_BYTES && next < self.frame_left => next,
            _ => {
                judge.pass_over(&header);
                return self.give_up_frame();
            }
        };
        self.frame_left -= len;
        let wanted = judge.body_bytes(&header).min(HELD_BYTES_MAX - HEADER_BYTES).min(len - HEADER_BYTES);
        if wanted == 0 {
            self.judge(header, len, judge);
        } else {
            self.stage = Stage::Body { header, len, wanted };
        }
    }

    fn judge(&mut self, header: Header, len: usize, judge: &mut impl Judge) {
        if !header.is_related() {
            self.tree = header.tree_id.map(|tree_id| (header.session_id, tree_id));
        }
        let message = Message { header, tree: self.tree, body: &self.held.bytes()[HEADER_BYTES..], len };
        let payload = judge.judge(&message);
        self.set_payload(payload);
    }

    /// Passes over the rest of a frame whose chain is broken, from behind the header held.
    fn give_up_frame(&mut self) {
        self.frame_left -= self.held.len();
        self.set_rest(OpaqueReason::Malformed);
    }

    fn set_rest(&mut self, reason: OpaqueReason) {
        self.held.clear();
        self.stage = if self.frame_left > 0 { Stage::Rest(reason) } else { Stage::Frame };
    }

    fn set_payload(&mut self, payload: Payload) {
        self.held.clear();
        self.stage = if !payload.is_done() {
            Stage::Payload(payload)
        } else if self.frame_left >= HEADER_BYTES {
            Stage::Header
        } else if self.frame_left > 0 {
            Stage::Rest(OpaqueReason::Malformed)
        } else {
            Stage::Frame
        };
    }
}

/// The bytes that the next decision needs.
struct Held {
    bytes: Vec<u8>,
}

impl Held {
    fn new() -> Self {
        Self { bytes: Vec::with_capacity(IDLE_BYTES_MAX) }
    }

    /// Copies from the start of `input` until `target` bytes are held. Returns how many were copied.
    fn fill(&mut self, input: &[u8], target: usize) -> usize {
        let len = input.len().min(target - self.bytes.len());
        self.bytes.extend_from_slice(&input[..len]);
        len
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(IDLE_BYTES_MAX);
    }
}
