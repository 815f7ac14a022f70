//! The sending half of a flow: bytes of the local leg in, frames for the link out. No I/O.
//!
//! A shim's spans go through the splitter; each block then becomes a REF, if the record says that the other side was
//! sent it, or DATA. The bytes behind a REF are retained until the other side acknowledged it: they cannot be read
//! again, since we have no credentials at the server.
//!
//! Limits: at `retain` bytes the flow's leg is not read until acknowledgements come. Where the node's budget has no
//! room for another retained block, the block goes as DATA and the flow goes on. No frame begins without credit.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wanigan_parsers::wan::Frame;

use super::window::CREDIT_BASE;
use crate::block::split::{CELL_BYTES, Piece, Splitter};
use crate::block::{Block, ServerSecret};
use crate::budget::{Budget, Reservation};
use crate::fault::OpaqueReason;
use crate::matching::Record;
use crate::shim::Span;

/// How long a flow is idle before it gives back credit it does not need.
const IDLE: Duration = Duration::from_secs(1);

/// Blocks that go as DATA after a first miss; each further miss doubles the number.
const PUSH_AFTER_MISS: u32 = 32;

/// The most blocks that go as DATA after a miss before a REF is tried again.
const PUSH_AFTER_MISS_MAX: u32 = 4096;

/// What makes references: present where the content server's answers arrive.
#[derive(Debug, Clone)]
pub struct Minter {
    /// The core's server secret.
    pub secret: ServerSecret,
    /// What the edge at the other side was sent.
    pub record: Arc<Record>,
}

/// The sending half of one flow.
#[derive(Debug)]
pub struct Sending {
    minter: Option<Minter>,
    splitter: Splitter,
    frames: VecDeque<Frame<Bytes>>,
    opaque: Vec<(OpaqueReason, usize)>,
    retained: VecDeque<Block>,
    reservation: Reservation,
    retain_bytes_max: u64,
    /// Number of the oldest retained reference; all before it are acknowledged.
    resolved: u64,
    credit: u64,
    sent: u64,
    last_activity: Instant,
    /// Blocks that still go as DATA because of a miss, and how many the last miss asked for.
    pushing: u32,
    push_length: u32,
    ended: bool,
}

impl Sending {
    /// Makes the half for a flow that may send `credit` frame bytes at first.
    ///
    /// # Panics
    /// Never: an empty reservation always fits.
    #[must_use]
    pub fn new(
        minter: Option<Minter>,
        budget: &Budget,
        retain_bytes_max: u64,
        credit: u64,
        now: Instant,
    ) -> Self {
        Self {
            minter,
            splitter: Splitter::default(),
            frames: VecDeque::new(),
            opaque: Vec::new(),
            retained: VecDeque::new(),
            reservation: budget.reserve(0).expect("nothing always fits"),
            retain_bytes_max,
            resolved: 0,
            credit: credit.min(CREDIT_TOTAL_MAX),
            sent: 0,
            last_activity: now,
            pushing: 0,
            push_length: PUSH_AFTER_MISS / 2,
            ended: false,
        }
    }

    /// Takes bytes that were read from the leg, partitioned by `spans`.
    pub fn handle_input(&mut self, bytes: Bytes, spans: &[Span], now: Instant) {
        self.last_activity = now;
        self.splitter.handle_input(bytes, spans);
        self.take_pieces();
    }

    /// The leg is being read and has nothing to say at this moment.
    pub fn handle_wait(&mut self, now: Instant) {
        self.splitter.handle_wait(now);
    }

    /// The leg ended in good order.
    pub fn handle_end(&mut self) {
        self.splitter.handle_end();
        self.take_pieces();
        self.frames.push_back(Frame::Fin);
        self.ended = true;
    }

    /// The leg was reset: what was read of it goes first.
    pub fn handle_reset(&mut self) {
        if !self.ended {
            self.splitter.handle_end();
            self.take_pieces();
            self.frames.push_back(Frame::Reset);
            self.ended = true;
        }
    }

    /// Takes the totals that the other side reported. Older reports change nothing.
    pub fn handle_progress(&mut self, resolved: u64, credit: u64) {
        self.credit = self.credit.max(credit.min(CREDIT_TOTAL_MAX));
        while self.resolved < resolved {
            let Some(block) = self.retained.pop_front() else { break };
            self.reservation.shrink(block.bytes().len() as u64);
            self.resolved += 1;
        }
    }

    /// Returns the block of a reference that the other side could not resolve, and pushes for a while.
    pub fn handle_fetch(&mut self, number: u64) -> Option<Bytes> {
        if self.pushing == 0 {
            self.push_length = (self.push_length * 2).min(PUSH_AFTER_MISS_MAX);
        }
        self.pushing = self.push_length;
        let index = usize::try_from(number.checked_sub(self.resolved)?).ok()?;
        self.retained.get(index).map(|block| block.bytes().clone())
    }

    /// Lets go of held bytes and of credit whose time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.splitter.handle_timeout(now);
        self.take_pieces();
        if self.spare_credit() > 0 && now >= self.last_activity + IDLE && self.frames.is_empty() {
            let spare = self.spare_credit();
            self.sent += spare;
            self.frames.push_back(Frame::Release(spare));
        }
    }

    /// Returns when [`Sending::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let idle = (self.spare_credit() > 0 && self.frames.is_empty()).then(|| self.last_activity + IDLE);
        [self.splitter.poll_timeout(), idle].into_iter().flatten().min()
    }

    /// Returns the next frame, if there is one and credit to begin it.
    pub fn poll_frame(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.frames.front()?;
        let cost = frame_cost(frame);
        if cost > 0 && self.sent + cost > self.credit {
            return None;
        }
        self.sent += cost;
        self.frames.pop_front()
    }

    /// Returns opaque bytes since the last call, by reason.
    pub fn poll_opaque(&mut self) -> Vec<(OpaqueReason, usize)> {
        mem::take(&mut self.opaque)
    }

    /// Returns whether more of the leg should be read.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.frames.is_empty() && self.reservation.bytes() < self.retain_bytes_max && !self.ended
    }

    /// Returns whether the leg ended and the other side needs nothing more of this half.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.ended && self.frames.is_empty() && self.retained.is_empty()
    }

    /// Returns whether the leg's end was taken in.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Returns whether the leg ended and every frame was taken, FIN or RESET last.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.ended && self.frames.is_empty()
    }

    fn spare_credit(&self) -> u64 {
        if self.ended {
            return 0;
        }
        self.credit.saturating_sub(self.sent + CREDIT_BASE)
    }

    fn take_pieces(&mut self) {
        while let Some(piece) = self.splitter.poll_piece() {
            match piece {
                Piece::Opaque(bytes, reason) => self.pass_on(bytes, reason),
                Piece::Content(bytes) => match self.minter.clone() {
                    Some(minter) => self.name(&minter, bytes),
                    None => self.pass_on(bytes, OpaqueReason::NoShim),
                },
            }
        }
    }

    fn name(&mut self, minter: &Minter, bytes: Bytes) {
        let block = minter.secret.mint(bytes);
        let reference = *block.reference();
        let known = minter.record.knows(&reference.digest);
        if known && self.pushing == 0 && self.reservation.grow(u64::from(reference.len)) {
            self.frames.push_back(Frame::Ref { reference, skip: 0, len: reference.len });
            self.retained.push_back(block);
        } else {
            self.pushing = self.pushing.saturating_sub(u32::from(known));
            minter.record.learn(&reference.digest);
            self.frames.push_back(Frame::Data(reference, block.bytes().clone()));
        }
    }

    fn pass_on(&mut self, mut bytes: Bytes, reason: OpaqueReason) {
        self.opaque.push((reason, bytes.len()));
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(CELL_BYTES));
            self.frames.push_back(Frame::Literal(part));
        }
    }
}

/// Returns the credit that a frame uses: what it is likely to occupy at the receiver.
#[must_use]
pub fn frame_cost(frame: &Frame<Bytes>) -> u64 {
    match frame {
        Frame::Literal(bytes) | Frame::Data(_, bytes) => bytes.len() as u64 + FRAME_OVERHEAD,
        Frame::Ref { .. } => FRAME_OVERHEAD,
        _ => 0,
    }
}

/// No flow lives to use so much; keeps sums with what another node claims in range.
const CREDIT_TOTAL_MAX: u64 = u64::MAX / 2;

/// Credit that a frame uses beside its content, in bytes: its place in the receiver's queue.
const FRAME_OVERHEAD: u64 = 160;

#[cfg(test)]
mod tests {
    use prometheus::IntGauge;

    use super::*;

    #[test]
    fn an_unknown_block_is_pushed_and_the_next_time_only_named() {
        let mut sending = core_half(1 << 20);
        read(&mut sending, 1);
        assert!(matches!(sending.poll_frame(), Some(Frame::Data(..))));
        read(&mut sending, 1);
        assert!(matches!(sending.poll_frame(), Some(Frame::Ref { .. })));
        assert_eq!(sending.reservation.bytes(), CELL_BYTES as u64);
        sending.handle_progress(1, 0);
        assert_eq!(sending.reservation.bytes(), 0);
    }

    #[test]
    fn a_missed_block_can_be_fetched_and_turns_the_flow_to_data() {
        let mut sending = core_half(1 << 20);
        for _ in 0..2 {
            read(&mut sending, 1);
            sending.poll_frame();
        }
        assert_eq!(sending.handle_fetch(0).unwrap().len(), CELL_BYTES);
        assert_eq!(sending.handle_fetch(1), None);
        read(&mut sending, 1);
        assert!(matches!(sending.poll_frame(), Some(Frame::Data(..))));
    }

    #[test]
    fn a_flow_at_its_retain_limit_is_not_read_and_without_budget_blocks_go_in_full() {
        let mut sending = core_half(1 << 20);
        sending.retain_bytes_max = 2 * CELL_BYTES as u64;
        read(&mut sending, 1);
        sending.poll_frame();
        for wanted in [true, false] {
            read(&mut sending, 1);
            sending.poll_frame();
            assert_eq!(sending.wants_input(), wanted);
        }
        let mut sending = core_half(CELL_BYTES as u64);
        for expected_ref in [false, true, false] {
            read(&mut sending, 1);
            assert_eq!(matches!(sending.poll_frame(), Some(Frame::Ref { .. })), expected_ref);
        }
    }

    #[test]
    fn nothing_is_sent_without_credit_and_an_idle_flow_gives_it_back() {
        let mut sending = core_half(1 << 20);
        sending.credit = FRAME_OVERHEAD + 3;
        let now = sending.last_activity;
        sending.handle_input(Bytes::from_static(b"abc"), &[Span::opaque(3, OpaqueReason::Framing)], now);
        sending.handle_input(Bytes::from_static(b"def"), &[Span::opaque(3, OpaqueReason::Framing)], now);
        assert_eq!(sending.poll_frame(), Some(Frame::Literal(Bytes::from_static(b"abc"))));
        assert_eq!(sending.poll_frame(), None);
        sending.handle_progress(0, 10 << 20);
        assert!(sending.poll_frame().is_some());
        let wake = sending.poll_timeout().expect("the flow is idle with much credit");
        sending.handle_timeout(wake);
        let Some(Frame::Release(spare)) = sending.poll_frame() else { panic!("credit is given back") };
        assert_eq!(sending.sent + CREDIT_BASE, 10 << 20);
        assert!(spare > 9 << 20);
        assert_eq!(sending.poll_timeout(), None);
    }

    #[test]
    fn credit_beyond_all_measure_is_no_fault_of_arithmetic() {
        let mut sending = core_half(1 << 20);
        sending.handle_progress(u64::MAX, u64::MAX);
        let wake = sending.poll_timeout().expect("the flow is idle with much credit");
        sending.handle_timeout(wake);
        assert!(matches!(sending.poll_frame(), Some(Frame::Release(_))));
        read(&mut sending, 1);
        assert!(matches!(sending.poll_frame(), Some(Frame::Data(..))));
    }

    fn core_half(budget: u64) -> Sending {
        let minter = Minter { secret: ServerSecret::new([1; 32]), record: Arc::new(Record::new(1000)) };
        let budget = Budget::new(budget, IntGauge::new("used", "test").unwrap());
        Sending::new(Some(minter), &budget, 16 << 20, 1 << 30, Instant::now())
    }

    fn read(sending: &mut Sending, fill: u8) {
        let now = sending.last_activity;
        sending.handle_input(Bytes::from(vec![fill; CELL_BYTES]), &[Span::content(CELL_BYTES, 0, true)], now);
    }
}
