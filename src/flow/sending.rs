//! The sending half of a flow: bytes of the local leg in, frames for the link out. No I/O.
//!
//! A shim's spans go through the matcher, which says what of the bytes is which block. Here each piece becomes what is
//! to go out, and what is new is given to this node's own store; which frame it goes as is decided when it goes
//! (`outbound.rs`).
//!
//! Limits: the leg is not read while something waits to go out, nor while `retain` bytes wait to be acknowledged by
//! the other side.

use std::collections::VecDeque;
use std::mem;
use std::time::Instant;

use bytes::Bytes;
use wanigan_parsers::wan::Frame;

use super::minter::Minter;
use super::outbound::Outbound;
use crate::block::{Block, Digest};
use crate::budget::Budget;
use crate::fault::OpaqueReason;
use crate::matching::matcher::{CELL_BYTES, Loaded, Matcher, Piece, Slice};
use crate::shim::Span;
use crate::wan::FetchAnswer;

/// The sending half of one flow.
#[derive(Debug)]
pub struct Sending {
    matcher: Matcher,
    outbound: Outbound,
    opaque: Vec<(OpaqueReason, usize)>,
    /// Blocks for this node's own store.
    kept: VecDeque<Block>,
    ended: bool,
    /// What is said when everything that was read went out.
    closing: Option<Frame<Bytes>>,
}

impl Sending {
    /// Makes the half for a flow that may send `credit` frame bytes at first. Without a minter nothing is named, and
    /// all goes as it is.
    #[must_use]
    pub fn new(
        minter: Option<Minter>,
        matcher: Matcher,
        budget: &Budget,
        retain_bytes_max: u64,
        credit: u64,
        now: Instant,
    ) -> Self {
        Self {
            matcher,
            outbound: Outbound::new(minter, budget, retain_bytes_max, credit, now),
            opaque: Vec::new(),
            kept: VecDeque::new(),
            ended: false,
            closing: None,
        }
    }

    /// Takes bytes that were read from the leg, partitioned by `spans`.
    pub fn handle_input(&mut self, bytes: Bytes, spans: &[Span], now: Instant) {
        self.outbound.handle_read(now);
        self.matcher.handle_input(bytes, spans);
        self.take_pieces();
    }

    /// The leg is being read and has nothing to say at this moment.
    pub fn handle_wait(&mut self, now: Instant) {
        self.matcher.handle_wait(now);
        self.outbound.handle_wait(now);
    }

    /// The leg ended in good order.
    pub fn handle_end(&mut self) {
        self.end(Frame::Fin);
    }

    /// The leg was reset: what was read of it goes first.
    pub fn handle_reset(&mut self) {
        if !self.ended {
            self.end(Frame::Reset);
        }
    }

    fn end(&mut self, last: Frame<Bytes>) {
        self.ended = true;
        self.closing = Some(last);
        self.outbound.handle_end();
        self.matcher.handle_end();
        self.take_pieces();
    }

    /// Returns the digest and length of a block of this node's own store that is to be compared with what was read.
    pub fn poll_load(&mut self) -> Option<(Digest, u32)> {
        self.matcher.poll_load()
    }

    /// Takes the answer to [`Sending::poll_load`].
    pub fn handle_loaded(&mut self, digest: &Digest, loaded: Loaded) {
        self.matcher.handle_loaded(digest, loaded);
        self.take_pieces();
    }

    /// Takes the totals that the other side reported: references resolved, DATA and SEAL frames taken, credit given.
    /// Older reports change nothing.
    pub fn handle_progress(&mut self, resolved: u64, blocks: u64, credit: u64) {
        self.outbound.handle_progress(resolved, blocks, credit);
    }

    /// Answers for a reference that the other side could not resolve. `refer` says that the name of an edge that has
    /// the block would help.
    pub fn handle_fetch(&mut self, number: u64, refer: bool) -> FetchAnswer {
        self.outbound.handle_fetch(number, refer)
    }

    /// Lets go of held bytes and of credit whose time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.matcher.handle_timeout(now);
        self.take_pieces();
        self.outbound.handle_timeout(now);
    }

    /// Returns when [`Sending::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.matcher.poll_timeout(), self.outbound.poll_timeout()].into_iter().flatten().min()
    }

    /// Returns the next frame, if there is one and credit to begin it.
    pub fn poll_frame(&mut self) -> Option<Frame<Bytes>> {
        self.outbound.poll_frame()
    }

    /// Returns the next block that was new or was sealed, for this node's store.
    ///
    /// To be called until there is none before [`Sending::poll_frame`] is: nothing but the caller bounds what waits here.
    pub fn poll_kept(&mut self) -> Option<Block> {
        self.kept.pop_front()
    }

    /// Returns opaque bytes since the last call, by reason.
    pub fn poll_opaque(&mut self) -> Vec<(OpaqueReason, usize)> {
        mem::take(&mut self.opaque)
    }

    /// Returns whether more of the leg should be read.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.outbound.wants_more() && !self.ended && self.matcher.wants_input()
    }

    /// Returns whether the leg ended and the other side needs nothing more of this half.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_sent() && self.outbound.is_acknowledged()
    }

    /// Returns whether the leg's end was taken in.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Returns whether the leg ended and every frame was taken, FIN or RESET last.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.ended && self.closing.is_none() && self.outbound.is_sent()
    }

    fn take_pieces(&mut self) {
        while let Some(piece) = self.matcher.poll_piece() {
            let has_names = self.outbound.has_names();
            match piece {
                Piece::Opaque(bytes, reason) => self.pass_on(bytes, reason),
                Piece::New(content) if has_names => {
                    let block = self.outbound.take_block(content);
                    self.kept.push_back(block);
                }
                Piece::Whole(content) if has_names => drop(self.outbound.take_block(content)),
                Piece::Seal(content, spans) if has_names => {
                    let block = self.outbound.take_seal(content, spans);
                    self.kept.push_back(block);
                }
                Piece::Slice(slice) if has_names => self.take_slice(&slice),
                Piece::New(content) | Piece::Whole(content) => {
                    self.pass_on(content.bytes().clone(), OpaqueReason::NoShim);
                }
                Piece::Slice(slice) => self.pass_on(slice.bytes(), OpaqueReason::NoShim),
                Piece::Seal(..) => {}
            }
        }
        if self.matcher.is_empty()
            && let Some(last) = self.closing.take()
        {
            self.outbound.close(last);
        }
    }

    /// Takes a part of a block, which goes as it is where the block is not to be named.
    fn take_slice(&mut self, slice: &Slice) {
        let Slice { skip, len, same_version, .. } = *slice;
        if !self.outbound.take_part(slice.block.clone(), skip, len, same_version) {
            self.pass_on(slice.bytes(), OpaqueReason::Piecemeal);
            self.matcher.handle_denied(slice);
        }
    }

    fn pass_on(&mut self, bytes: Bytes, reason: OpaqueReason) {
        self.opaque.push((reason, bytes.len()));
        // Of a longer buffer, or of a block that was loaded to be compared, they would keep all while they wait, and
        // until the link has brought them over.
        let is_part = bytes.len() < CELL_BYTES / 2;
        self.outbound.pass_on(if is_part { Bytes::copy_from_slice(&bytes) } else { bytes });
    }
}

#[cfg(test)]
impl Sending {
    /// What waits to go out, for tests that have no matcher find it.
    pub(crate) fn outbound(&mut self) -> &mut Outbound {
        &mut self.outbound
    }

    /// Whether everything was sent and acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.outbound.is_sent() && self.outbound.is_acknowledged()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::IntGauge;

    use super::*;

    #[test]
    fn a_flow_that_has_nothing_to_name_blocks_with_passes_on_every_byte_and_then_its_end() {
        let mut sending = half_without_names();
        let now = Instant::now();
        let content: Bytes = (0..3 * CELL_BYTES).map(|n| n as u8).collect();
        sending.handle_input(content.clone(), &[Span::content(content.len(), 0, true)], now);
        sending.handle_end();
        assert!(!sending.wants_input() && sending.is_ended() && !sending.is_sent());
        let mut frames: Vec<_> = std::iter::from_fn(|| sending.poll_frame()).collect();
        assert_eq!(frames.pop(), Some(Frame::Fin));
        let literals = frames.iter().map(|frame| match frame {
            Frame::Literal(bytes) => &bytes[..],
            other => panic!("{other:?} of no minter"),
        });
        assert_eq!(literals.collect::<Vec<_>>().concat(), content);
        assert!(sending.is_done() && sending.poll_kept().is_none());
    }

    #[test]
    fn a_leg_is_not_read_while_its_bytes_wait_and_a_reset_comes_after_them_and_once() {
        let mut sending = half_without_names();
        sending.handle_input(
            Bytes::from_static(b"abc"),
            &[Span::opaque(3, OpaqueReason::Framing)],
            Instant::now(),
        );
        assert!(!sending.wants_input());
        assert_eq!(sending.poll_opaque(), [(OpaqueReason::Framing, 3)]);
        sending.handle_reset();
        sending.handle_reset();
        let frames: Vec<_> = std::iter::from_fn(|| sending.poll_frame()).collect();
        assert_eq!(frames, [Frame::Literal(Bytes::from_static(b"abc")), Frame::Reset]);
    }

    fn half_without_names() -> Sending {
        let budget = Budget::new(1 << 20, IntGauge::new("used", "test").unwrap());
        Sending::new(None, Matcher::alone(&budget), &budget, 1 << 20, 1 << 30, Instant::now())
    }
}
