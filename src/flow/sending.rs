//! The sending half of a flow: bytes of the local leg in, frames for the link out. No I/O.
//!
//! A shim's spans go through the matcher; each block then becomes a REF, if the other side has it or can get it from
//! a neighbour (`minter.rs`), or DATA. Which of the two is decided at the moment it is sent, so that of several flows
//! that read the same new file only one sends each block. The bytes behind a REF are retained until the other side acknowledged it:
//! they cannot be read again, since we have no credentials at the server.
//!
//! Limits: at `retain` bytes the flow's leg is not read until acknowledgements come. Where the node's budget has no
//! room for another retained block, the block goes as DATA and the flow goes on. No frame begins without credit.

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wanigan_parsers::wan::{Frame, RUN_BLOCKS_MAX, SealSpan};

use super::guessing::Guessing;
use super::minter::Minter;
use super::retained::RetainedQueue;
use super::window::CREDIT_BASE;
use crate::block::{Block, Digest, Hashed, Named, Reference};
use crate::budget::Budget;
use crate::fault::OpaqueReason;
use crate::matching::matcher::{self, CELL_BYTES, Matcher, Piece};
use crate::shim::Span;
use crate::wan::FetchAnswer;

/// How long a flow is idle before it gives back credit it does not need.
const IDLE: Duration = Duration::from_secs(1);

/// How long a run of blocks waits for the next: what a server sends at once is read in several pieces.
const RUN_HOLD: Duration = Duration::from_millis(1);

/// Blocks that go as DATA after a first miss; each further miss doubles the number.
const PUSH_AFTER_MISS: u32 = 32;

/// The most blocks that go as DATA after a miss before a REF is tried again.
const PUSH_AFTER_MISS_MAX: u32 = 4096;

/// Referrals that may lead to nothing, one after the other, before blocks go as DATA.
const REFERRALS_FAILED_MAX: u32 = 64;

/// The sending half of one flow.
#[derive(Debug)]
pub struct Sending {
    minter: Option<Minter>,
    matcher: Matcher,
    queue: VecDeque<Queued>,
    opaque: Vec<(OpaqueReason, usize)>,
    retained: RetainedQueue,
    /// Blocks sent as DATA or SEAL of which the other side has not said that it took them, each with the link's number
    /// that was introduced, and how many it did say.
    on_the_way: VecDeque<(Digest, u64)>,
    taken: u64,
    /// Blocks for this node's own store.
    kept: VecDeque<Block>,
    retain_bytes_max: u64,
    credit: u64,
    sent: u64,
    last_activity: Instant,
    /// Blocks that still go as DATA because of a miss, and how many the last miss asked for.
    pushing: u32,
    push_length: u32,
    /// Referrals that led to nothing since the last that did not.
    failed_referrals: u32,
    guessing: Guessing,
    ended: bool,
    /// What is said when everything that was read went out.
    closing: Option<Frame<Bytes>>,
    /// A run of blocks that may go on with what is read next, and how long it waits for that.
    run: Option<(u64, u16)>,
    run_deadline: Option<Instant>,
    run_is_due: bool,
}

#[derive(Debug)]
enum Queued {
    Frame(Frame<Bytes>),
    /// A block that is named, and perhaps under the older server secret too.
    Block(Block, Option<Named>),
    /// A part of a block. Whoever queues it has decided that the other side is entitled to the whole.
    Slice(Slice),
    /// A block whose bytes went as LITERAL.
    Seal {
        reference: Reference,
        spans: Vec<SealSpan>,
    },
}

#[derive(Debug)]
struct Slice {
    block: Block,
    /// The block's name under the older server secret.
    older: Option<Named>,
    skip: u32,
    len: u32,
}

impl Sending {
    /// Makes the half for a flow that may send `credit` frame bytes at first.
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
            minter,
            matcher,
            queue: VecDeque::new(),
            opaque: Vec::new(),
            retained: RetainedQueue::new(budget),
            on_the_way: VecDeque::new(),
            taken: 0,
            kept: VecDeque::new(),
            retain_bytes_max,
            credit: credit.min(CREDIT_TOTAL_MAX),
            sent: 0,
            last_activity: now,
            pushing: 0,
            push_length: PUSH_AFTER_MISS / 2,
            failed_referrals: 0,
            guessing: Guessing::default(),
            ended: false,
            closing: None,
            run: None,
            run_deadline: None,
            run_is_due: false,
        }
    }

    /// Takes bytes that were read from the leg, partitioned by `spans`.
    pub fn handle_input(&mut self, bytes: Bytes, spans: &[Span], now: Instant) {
        self.last_activity = now;
        self.matcher.handle_input(bytes, spans);
        self.take_pieces();
    }

    /// The leg is being read and has nothing to say at this moment.
    pub fn handle_wait(&mut self, now: Instant) {
        self.matcher.handle_wait(now);
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
        self.matcher.handle_end();
        self.take_pieces();
    }

    /// Returns the digest and length of a block of this node's own store that is to be compared with what was read.
    pub fn poll_load(&mut self) -> Option<(Digest, u32)> {
        self.matcher.poll_load()
    }

    /// Takes the answer to [`Sending::poll_load`].
    pub fn handle_loaded(&mut self, digest: &Digest, block: Option<Hashed>) {
        self.matcher.handle_loaded(digest, block);
        self.take_pieces();
    }

    /// Takes the totals that the other side reported: references resolved, DATA and SEAL frames taken, credit given.
    /// Older reports change nothing.
    pub fn handle_progress(&mut self, resolved: u64, blocks: u64, credit: u64) {
        self.credit = self.credit.max(credit.min(CREDIT_TOTAL_MAX));
        while let Some(retained) = self.retained.pop_resolved(resolved) {
            if let Some(minter) = &self.minter {
                if let Some(number) = retained.introduced {
                    minter.confirm(number);
                }
                let digest = &retained.block.reference().digest;
                if retained.fetched { minter.handle_taken(digest) } else { minter.handle_resolved(digest) }
            }
            if retained.guessed && !retained.fetched {
                self.guessing.handle_hit();
            }
            if retained.referred.is_some() && !retained.fetched {
                self.failed_referrals = 0;
            }
        }
        while self.taken < blocks {
            let Some((digest, number)) = self.on_the_way.pop_front() else { break };
            self.taken += 1;
            if let Some(minter) = &self.minter {
                minter.confirm(number);
                minter.handle_taken(&digest);
            }
        }
    }

    /// Answers for a reference that the other side could not resolve: with the name of an edge that has the block,
    /// where `refer` says that this would help, or with the block; then blocks are pushed for a while.
    pub fn handle_fetch(&mut self, number: u64, refer: bool) -> FetchAnswer {
        let Some(retained) = self.retained.get_mut(number) else { return FetchAnswer::Gone };
        let digest = retained.block.reference().digest;
        let mut alone = refer;
        if let Some(minter) = &mut self.minter {
            if let Some(referral) = minter.refer(&digest, refer) {
                retained.referred = Some(referral.node);
                return FetchAnswer::Refer(referral);
            }
            minter.handle_missed(&digest, retained.referred.take());
            if !retained.fetched {
                retained.fetched = true;
                minter.handle_sent(&digest);
            }
            alone |= !minter.refers();
        }
        if mem::take(&mut retained.guessed) {
            // It was nothing but a question, and this is the answer.
            self.guessing.handle_miss();
            return FetchAnswer::Block(retained.block.bytes().clone());
        }
        self.failed_referrals += u32::from(!alone);
        // Who has neighbours with the blocks gets more of them there, unless that fails again and again.
        if alone || self.failed_referrals > REFERRALS_FAILED_MAX {
            self.failed_referrals = 0;
            if self.pushing == 0 {
                self.push_length = (self.push_length * 2).min(PUSH_AFTER_MISS_MAX);
            }
            self.pushing = self.push_length;
        }
        FetchAnswer::Block(retained.block.bytes().clone())
    }

    /// Lets go of held bytes and of credit whose time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.matcher.handle_timeout(now);
        self.take_pieces();
        if self.run_deadline.is_some_and(|deadline| deadline <= now) {
            // It goes out when the stream takes it; until then there is nothing to wake up for.
            self.run_deadline = None;
            self.run_is_due = true;
        }
        if self.spare_credit() > 0 && now >= self.last_activity + IDLE && self.queue.is_empty() {
            let spare = self.spare_credit();
            self.sent += spare;
            self.queue.push_back(Queued::Frame(Frame::Release(spare)));
        }
    }

    /// Returns when [`Sending::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let idle = (self.spare_credit() > 0 && self.queue.is_empty()).then(|| self.last_activity + IDLE);
        [self.matcher.poll_timeout(), self.run_deadline, idle].into_iter().flatten().min()
    }

    /// Returns the next frame, if there is one and credit to begin it.
    pub fn poll_frame(&mut self) -> Option<Frame<Bytes>> {
        if let Some((first, count)) = self.run.take() {
            return self.send_run(first, count);
        }
        match self.queue.pop_front()? {
            Queued::Frame(frame) => {
                let cost = frame_cost(&frame);
                if cost > 0 && self.sent + cost > self.credit {
                    self.queue.push_front(Queued::Frame(frame));
                    return None;
                }
                self.sent += cost;
                Some(frame)
            }
            Queued::Block(block, older) => self.send_slice(Slice::whole(block, older)),
            Queued::Slice(slice) => {
                let slice = self.join(slice);
                self.send_slice(slice)
            }
            Queued::Seal { reference, spans } => self.send_seal(reference, spans),
        }
    }

    /// Returns the next block that was new or was sealed, for this node's store.
    ///
    /// To be called until there is none after each call of [`Sending::poll_frame`].
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
        self.queue.is_empty()
            && self.retained.bytes() < self.retain_bytes_max
            && !self.ended
            && self.matcher.wants_input()
    }

    /// Returns whether the leg ended and the other side needs nothing more of this half.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_sent() && self.retained.is_empty() && self.on_the_way.is_empty()
    }

    /// Returns whether the leg's end was taken in.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Returns whether the leg ended and every frame was taken, FIN or RESET last.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.ended && self.closing.is_none() && self.queue.is_empty() && self.run.is_none()
    }

    fn spare_credit(&self) -> u64 {
        if self.ended {
            return 0;
        }
        self.credit.saturating_sub(self.sent + CREDIT_BASE)
    }

    fn take_pieces(&mut self) {
        while let Some(piece) = self.matcher.poll_piece() {
            match (piece, &self.minter) {
                (Piece::Opaque(bytes, reason), _) => self.pass_on(bytes, reason),
                (Piece::New(content), Some(minter)) => {
                    let (block, older) = minter.mint(content);
                    self.kept.push_back(block.clone());
                    self.queue.push_back(Queued::Block(block, older));
                }
                (Piece::Whole(content), Some(minter)) => {
                    let (block, older) = minter.mint(content);
                    self.queue.push_back(Queued::Block(block, older));
                }
                (Piece::Seal(content, spans), Some(minter)) => {
                    let (block, _) = minter.mint(content);
                    let reference = *block.reference();
                    self.kept.push_back(block);
                    self.queue.push_back(Queued::Seal { reference, spans });
                }
                (Piece::Slice(slice), Some(_)) => self.take_slice(&slice),
                (Piece::New(content) | Piece::Whole(content), None) => {
                    self.pass_on(content.bytes().clone(), OpaqueReason::NoShim);
                }
                (Piece::Slice(slice), None) => self.pass_on(slice.bytes(), OpaqueReason::NoShim),
                (Piece::Seal(..), None) => {}
            }
        }
        if self.matcher.is_empty() {
            self.queue.extend(self.closing.take().map(Queued::Frame));
        }
    }

    /// Takes a part of a block: the other side is told of the block only if it may be, and can have it.
    fn take_slice(&mut self, slice: &matcher::Slice) {
        let minter = self.minter.as_mut().expect("who takes slices names them");
        let (block, older) = minter.mint(slice.block.clone());
        let can_be_named = minter.may_name_part(slice.block.digest(), slice.same_version)
            && minter.known(block.reference()).is_some();
        if can_be_named && self.pushing == 0 {
            let narrow = |len: usize| u32::try_from(len).expect("a block is far below 4 GiB");
            let (skip, len) = (narrow(slice.skip), narrow(slice.len));
            self.queue.push_back(Queued::Slice(Slice { block, older, skip, len }));
        } else {
            // A flow whose reads are smaller than blocks has nothing else that counts.
            self.pushing = self.pushing.saturating_sub(u32::from(can_be_named));
            self.pass_on(slice.bytes(), OpaqueReason::Piecemeal);
            self.matcher.handle_denied(slice);
        }
    }

    /// Sends a block or a part of one, by reference if the other side has it or can get it; else in full. Puts it back
    /// for want of credit.
    fn send_slice(&mut self, slice: Slice) -> Option<Frame<Bytes>> {
        let room = self.credit.saturating_sub(self.sent);
        let minter = self.minter.as_mut().expect("only a minter's blocks are queued");
        let known = if room >= FRAME_OVERHEAD { minter.known(slice.block.reference()) } else { None };
        let guesses = known.is_none() && slice.is_whole() && self.guessing.guesses() && minter.refers();
        let named = if guesses { Some(*slice.block.reference()) } else { known };
        if let Some(reference) = named
            && room >= FRAME_OVERHEAD
            && self.pushing == 0
            && self.retained.push(slice.block.clone())
        {
            self.sent += FRAME_OVERHEAD;
            if guesses {
                self.retained.handle_guessed();
                self.guessing.handle_guess();
            }
            return self.refer(&slice, reference);
        }
        if room < slice.bytes_at_once() as u64 + FRAME_OVERHEAD {
            self.queue.push_front(Queued::Slice(slice));
            return None;
        }
        self.pushing = self.pushing.saturating_sub(u32::from(known.is_some()));
        if known.is_none() && slice.is_whole() {
            self.guessing.handle_pushed();
        }
        let frame = if slice.is_whole() { self.push(&slice.block) } else { self.pass_on_slice(slice) };
        self.sent += frame_cost(&frame);
        Some(frame)
    }

    /// Names a block that was just retained: by the link's number where the other side knows that.
    fn refer(&mut self, slice: &Slice, reference: Reference) -> Option<Frame<Bytes>> {
        let Slice { older, skip, len, .. } = *slice;
        let minter = self.minter.as_ref().expect("only a minter's blocks are queued");
        match minter.number(&reference) {
            Some(first) if slice.is_whole() => self.send_run(first, 1),
            Some(number) => Some(Frame::Slice { number, skip, len }),
            None => {
                let number = minter.introduce(&reference);
                self.retained.handle_introduced(number);
                Some(Frame::Ref { reference, number, older, skip, len })
            }
        }
    }

    /// Sends a run with the blocks in the queue that go on it, or keeps it for a moment if there may be more.
    fn send_run(&mut self, first: u64, count: u16) -> Option<Frame<Bytes>> {
        let count = self.extend_run(first, count);
        let is_open = usize::from(count) < RUN_BLOCKS_MAX && self.queue.is_empty() && !self.ended;
        let is_due = mem::take(&mut self.run_is_due)
            || self.run_deadline.is_some_and(|deadline| deadline <= self.last_activity);
        if is_open && !is_due {
            self.run = Some((first, count));
            self.run_deadline.get_or_insert(self.last_activity + RUN_HOLD);
            return None;
        }
        self.run_deadline = None;
        Some(Frame::Run { first, count })
    }

    /// Takes the blocks that go on a run from the queue. Returns its length with the first one.
    fn extend_run(&mut self, first: u64, mut count: u16) -> u16 {
        while usize::from(count) < RUN_BLOCKS_MAX && self.goes_on(first + u64::from(count)) {
            self.queue.pop_front();
            self.sent += FRAME_OVERHEAD;
            count += 1;
        }
        count
    }

    /// Retains the block at the head of the queue if it is whole, can be referred to and has this number.
    fn goes_on(&mut self, number: u64) -> bool {
        let minter = self.minter.as_mut().expect("only a minter's blocks are queued");
        let block = match self.queue.front() {
            Some(Queued::Block(block, _)) => block,
            Some(Queued::Slice(slice)) if slice.is_whole() => &slice.block,
            Some(Queued::Slice(_) | Queued::Seal { .. } | Queued::Frame(_)) | None => return false,
        };
        let reference = block.reference();
        self.pushing == 0
            && self.credit.saturating_sub(self.sent) >= FRAME_OVERHEAD
            && minter.number(reference) == Some(number)
            && minter.known(reference).is_some()
            && self.retained.push(block.clone())
    }

    /// Joins a slice with those behind it that go on where it ends.
    fn join(&mut self, mut slice: Slice) -> Slice {
        while let Some(Queued::Slice(next)) = self.queue.front()
            && next.skip == slice.skip + slice.len
            && next.block.reference() == slice.block.reference()
        {
            slice.len += next.len;
            self.queue.pop_front();
        }
        slice
    }

    /// Sends a block in full.
    fn push(&mut self, block: &Block) -> Frame<Bytes> {
        let (reference, number) = self.introduce(block.reference());
        Frame::Data { reference, number, bytes: block.bytes().clone() }
    }

    fn send_seal(&mut self, reference: Reference, spans: Vec<SealSpan>) -> Option<Frame<Bytes>> {
        let (reference, number) = self.introduce(&reference);
        Some(Frame::Seal { reference, number, spans })
    }

    /// Names and numbers a block that the other side will have by the frame that this is for.
    fn introduce(&mut self, reference: &Reference) -> (Reference, u64) {
        let minter = self.minter.as_ref().expect("only a minter's blocks are queued");
        minter.handle_sent(&reference.digest);
        let number = minter.introduce(reference);
        self.on_the_way.push_back((reference.digest, number));
        (minter.in_full(reference), number)
    }

    /// Sends the bytes of a part of a block, or as many as go at once.
    fn pass_on_slice(&mut self, mut slice: Slice) -> Frame<Bytes> {
        let (begin, count) = (slice.skip as usize, slice.bytes_at_once());
        let bytes = slice.block.bytes().slice(begin..begin + count);
        let sent = u32::try_from(count).expect("no more than the slice");
        (slice.skip, slice.len) = (slice.skip + sent, slice.len - sent);
        if slice.len > 0 {
            self.queue.push_front(Queued::Slice(slice));
        }
        Frame::Literal(bytes)
    }

    fn pass_on(&mut self, mut bytes: Bytes, reason: OpaqueReason) {
        self.opaque.push((reason, bytes.len()));
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(CELL_BYTES));
            self.queue.push_back(Queued::Frame(Frame::Literal(part)));
        }
    }
}

#[cfg(test)]
impl Sending {
    pub(crate) fn queue_slice(&mut self, block: Block, skip: u32, len: u32) {
        self.queue.push_back(Queued::Slice(Slice { block, older: None, skip, len }));
    }

    pub(crate) fn queue_seal(&mut self, reference: Reference, spans: Vec<SealSpan>) {
        self.queue.push_back(Queued::Seal { reference, spans });
    }

    pub(crate) fn retained_bytes(&self) -> u64 {
        self.retained.bytes()
    }

    /// Whether everything was sent and acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.retained.is_empty() && self.on_the_way.is_empty()
    }
}

impl Slice {
    fn whole(block: Block, older: Option<Named>) -> Self {
        let len = block.reference().len;
        Self { block, older, skip: 0, len }
    }

    fn is_whole(&self) -> bool {
        self.len == self.block.reference().len
    }

    /// How many of its bytes one frame carries where it is not referred to. A block's all go at once.
    fn bytes_at_once(&self) -> usize {
        if self.is_whole() { self.len as usize } else { (self.len as usize).min(CELL_BYTES) }
    }
}

impl Drop for Sending {
    /// What was on its way may never arrive.
    fn drop(&mut self) {
        let Some(minter) = &self.minter else { return };
        self.on_the_way.iter().for_each(|(digest, _)| minter.handle_lost(digest));
        let fetched = self.retained.iter().filter(|retained| retained.fetched);
        fetched.for_each(|retained| minter.handle_lost(&retained.block.reference().digest));
    }
}

/// Returns the credit that a frame uses: what it is likely to occupy at the receiver.
#[must_use]
pub fn frame_cost(frame: &Frame<Bytes>) -> u64 {
    match frame {
        Frame::Literal(bytes) | Frame::Data { bytes, .. } => bytes.len() as u64 + FRAME_OVERHEAD,
        Frame::Ref { .. } | Frame::Slice { .. } => FRAME_OVERHEAD,
        Frame::Run { count, .. } => u64::from(*count) * FRAME_OVERHEAD,
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

    use std::sync::{Arc, RwLock};

    use super::*;
    use crate::addr::NodeId;
    use crate::block::{Naming, ServerSecret};
    use crate::referral::{Holders, Neighbours};

    #[test]
    fn an_unknown_block_is_pushed_and_the_next_time_only_named() {
        let mut sending = core_half(1 << 20);
        read(&mut sending, 1);
        assert!(matches!(sending.poll_frame(), Some(Frame::Data { .. })));
        read(&mut sending, 1);
        assert!(matches!(sending.poll_frame(), Some(Frame::Ref { .. })));
        assert_eq!(sending.retained.bytes(), CELL_BYTES as u64);
        sending.handle_progress(1, 1, 0);
        assert_eq!(sending.retained.bytes(), 0);
    }

    #[test]
    fn a_missed_block_can_be_fetched_and_turns_the_flow_to_data() {
        let mut sending = core_half(1 << 20);
        for _ in 0..2 {
            read(&mut sending, 1);
            sending.poll_frame();
        }
        sending.handle_progress(0, 1, 0);
        // Nobody else has it.
        assert!(
            matches!(sending.handle_fetch(0, true), FetchAnswer::Block(bytes) if bytes.len() == CELL_BYTES)
        );
        assert_eq!(sending.handle_fetch(1, true), FetchAnswer::Gone);
        read(&mut sending, 1);
        assert!(matches!(sending.poll_frame(), Some(Frame::Data { .. })));
    }

    #[test]
    fn a_flow_at_its_retain_limit_is_not_read_and_without_budget_blocks_go_in_full() {
        let mut sending = core_half(1 << 20);
        sending.retain_bytes_max = 2 * CELL_BYTES as u64;
        for (fill, wanted) in [(1, true), (2, true), (1, true), (2, false)] {
            read(&mut sending, fill);
            sending.poll_frame();
            assert_eq!(sending.wants_input(), wanted);
        }
        let mut sending = core_half(CELL_BYTES as u64);
        for (fill, expected_ref) in [(1, false), (2, false), (1, true), (2, false)] {
            read(&mut sending, fill);
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
        sending.handle_progress(0, 0, 10 << 20);
        assert!(sending.poll_frame().is_some());
        let wake = sending.poll_timeout().expect("the flow is idle with much credit");
        sending.handle_timeout(wake);
        let Some(Frame::Release(spare)) = sending.poll_frame() else { panic!("credit is given back") };
        assert_eq!(sending.sent + CREDIT_BASE, 10 << 20);
        assert!(spare > 9 << 20);
        assert_eq!(sending.poll_timeout(), None);
    }

    #[test]
    fn a_run_that_is_due_wakes_nobody_while_the_stream_does_not_take_it() {
        let mut sending = core_half(1 << 20);
        read(&mut sending, 1);
        sending.poll_frame();
        sending.handle_progress(0, 1, 0);
        read(&mut sending, 1);
        assert_eq!(sending.poll_frame(), None);
        let due = sending.poll_timeout().expect("the run waits for a moment only");
        sending.handle_timeout(due);
        assert!(sending.poll_timeout().is_none_or(|at| at > due));
        assert_eq!(sending.poll_frame(), Some(Frame::Run { first: 0, count: 1 }));
    }

    #[test]
    fn credit_beyond_all_measure_is_no_fault_of_arithmetic() {
        let mut sending = core_half(1 << 20);
        sending.handle_progress(u64::MAX, u64::MAX, u64::MAX);
        let wake = sending.poll_timeout().expect("the flow is idle with much credit");
        sending.handle_timeout(wake);
        assert!(matches!(sending.poll_frame(), Some(Frame::Release(_))));
        read(&mut sending, 1);
        assert!(matches!(sending.poll_frame(), Some(Frame::Data { .. })));
    }

    #[test]
    fn of_two_flows_that_read_a_new_file_one_sends_each_block_and_the_other_is_referred_to_itself() {
        let site = holders();
        let (mut one, mut two) = (half(&site, 1, 1 << 20), half(&site, 1, 1 << 20));
        read(&mut one, 1);
        read(&mut two, 1);
        assert!(matches!(one.poll_frame(), Some(Frame::Data { .. })));
        assert!(matches!(two.poll_frame(), Some(Frame::Ref { .. })));
        let FetchAnswer::Refer(referral) = two.handle_fetch(0, true) else { panic!("it is on its way") };
        assert_eq!(referral.node, NodeId([1; 32]));
        drop(one);
        assert!(matches!(two.handle_fetch(0, true), FetchAnswer::Block(_)), "it never arrived");
    }

    #[test]
    fn a_second_edge_is_referred_to_the_first_once_and_gets_the_bytes_when_that_fails() {
        let site = holders();
        let (mut one, mut two) = (half(&site, 1, 1 << 20), half(&site, 2, 1 << 20));
        read(&mut one, 1);
        one.poll_frame();
        one.handle_progress(0, 1, 0);
        read(&mut two, 1);
        assert!(matches!(two.poll_frame(), Some(Frame::Ref { .. })));
        let FetchAnswer::Refer(referral) = two.handle_fetch(0, true) else { panic!("edge 1 has it") };
        assert_eq!((referral.node, referral.wait_ms), (NodeId([1; 32]), 0));
        assert!(matches!(two.handle_fetch(0, false), FetchAnswer::Block(_)));
        let mut three = half(&site, 3, 1 << 20);
        read(&mut three, 1);
        assert!(matches!(three.poll_frame(), Some(Frame::Ref { .. })), "edge 2 will have it");
        let FetchAnswer::Refer(referral) = three.handle_fetch(0, true) else { panic!("edge 2 gets it") };
        assert_eq!(referral.node, NodeId([2; 32]), "edge 1 turned out not to give it");
    }

    #[test]
    fn in_the_grace_period_a_reference_has_both_names() {
        let mut sending = core_half(1 << 20);
        let older = ServerSecret::new([9; 32]);
        let Some(Minter::Core { naming, .. }) = &sending.minter else { panic!("a core's half") };
        naming.write().unwrap().older = Some(older.clone());
        read(&mut sending, 1);
        sending.poll_frame();
        read(&mut sending, 1);
        let Some(Frame::Ref { reference, older: Some(named), .. }) = sending.poll_frame() else {
            panic!("a REF with the older name")
        };
        assert_eq!(named, older.name(&reference.digest));
        assert_ne!(named.key, reference.key);
    }

    fn holders() -> Arc<Holders> {
        Arc::new(Holders::new(1000, Vec::new()))
    }

    fn core_half(budget: u64) -> Sending {
        half(&holders(), 1, budget)
    }

    /// A core's half for a flow of an edge that shares.
    fn half(holders: &Arc<Holders>, edge: u8, budget: u64) -> Sending {
        let holder = holders.of(NodeId([edge; 32]), &"lisbon".parse().unwrap()).unwrap();
        holders.handle_up(&holder, true, true);
        holders.handle_reached(&holder, vec![([10, 1, 0, edge], 7747).into()]);
        let naming = Naming { current: ServerSecret::new([1; 32]), older: None };
        let neighbours = Neighbours::new(Arc::clone(holders), holder);
        let minter =
            Minter::Core { naming: Arc::new(RwLock::new(naming)), neighbours, numbers: Arc::default() };
        let budget = Budget::new(budget, IntGauge::new("used", "test").unwrap());
        Sending::new(Some(minter), Matcher::alone(&budget), &budget, 16 << 20, 1 << 30, Instant::now())
    }

    fn read(sending: &mut Sending, fill: u8) {
        let now = sending.last_activity;
        sending.handle_input(Bytes::from(vec![fill; CELL_BYTES]), &[Span::content(CELL_BYTES, 0, true)], now);
    }
}
