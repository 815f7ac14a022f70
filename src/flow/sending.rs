//! The sending half of a flow: bytes of the local leg in, frames for the link out. No I/O.
//!
//! A shim's spans go through the splitter; each block then becomes a REF, if the other side has it or can get it from
//! a neighbour, or DATA. Which of the two is decided at the moment it is sent, so that of several flows that read the
//! same new file only one sends each block. The bytes behind a REF are retained until the other side acknowledged it:
//! they cannot be read again, since we have no credentials at the server.
//!
//! Limits: at `retain` bytes the flow's leg is not read until acknowledgements come. Where the node's budget has no
//! room for another retained block, the block goes as DATA and the flow goes on. No frame begins without credit.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use wanigan_parsers::wan::{Frame, RUN_BLOCKS_MAX, SealSpan};

use super::retained::RetainedQueue;
use super::window::CREDIT_BASE;
use crate::block::split::{CELL_BYTES, Piece, Splitter};
use crate::block::{Block, Digest, Named, Naming, Reference};
use crate::budget::Budget;
use crate::fault::OpaqueReason;
use crate::referral::Neighbours;
use crate::shim::Span;
use crate::wan::FetchAnswer;
use crate::wan::numbering::Numbers;

/// How long a flow is idle before it gives back credit it does not need.
const IDLE: Duration = Duration::from_secs(1);

/// Blocks that go as DATA after a first miss; each further miss doubles the number.
const PUSH_AFTER_MISS: u32 = 32;

/// The most blocks that go as DATA after a miss before a REF is tried again.
const PUSH_AFTER_MISS_MAX: u32 = 4096;

/// Referrals that may lead to nothing, one after the other, before blocks go as DATA.
const REFERRALS_FAILED_MAX: u32 = 64;

/// What makes references: present where the content server's answers arrive.
#[derive(Debug)]
pub struct Minter {
    /// The core's server secrets.
    pub naming: Arc<RwLock<Naming>>,
    /// What the edge at the other side and its neighbours were sent.
    pub neighbours: Neighbours,
    /// The link's numbers for references.
    pub numbers: Arc<Numbers>,
}

/// The sending half of one flow.
#[derive(Debug)]
pub struct Sending {
    minter: Option<Minter>,
    splitter: Splitter,
    queue: VecDeque<Queued>,
    opaque: Vec<(OpaqueReason, usize)>,
    retained: RetainedQueue,
    /// Blocks sent as DATA or SEAL of which the other side has not said that it took them, each with the link's number
    /// that was introduced, and how many it did say.
    on_the_way: VecDeque<(Digest, u64)>,
    taken: u64,
    retain_bytes_max: u64,
    credit: u64,
    sent: u64,
    last_activity: Instant,
    /// Blocks that still go as DATA because of a miss, and how many the last miss asked for.
    pushing: u32,
    push_length: u32,
    /// Referrals that led to nothing since the last that did not.
    failed_referrals: u32,
    ended: bool,
}

#[derive(Debug)]
enum Queued {
    Frame(Frame<Bytes>),
    /// A block that is named, and perhaps under the older server secret too.
    Block(Block, Option<Named>),
    /// A part of a block. Whoever queues it has decided that the other side is entitled to the whole.
    Slice(Slice),
    /// A block whose bytes went as LITERAL.
    #[cfg_attr(not(test), expect(dead_code, reason = "whoever assembles blocks seals them"))]
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
        budget: &Budget,
        retain_bytes_max: u64,
        credit: u64,
        now: Instant,
    ) -> Self {
        Self {
            minter,
            splitter: Splitter::default(),
            queue: VecDeque::new(),
            opaque: Vec::new(),
            retained: RetainedQueue::new(budget),
            on_the_way: VecDeque::new(),
            taken: 0,
            retain_bytes_max,
            credit: credit.min(CREDIT_TOTAL_MAX),
            sent: 0,
            last_activity: now,
            pushing: 0,
            push_length: PUSH_AFTER_MISS / 2,
            failed_referrals: 0,
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
        self.queue.push_back(Queued::Frame(Frame::Fin));
        self.ended = true;
    }

    /// The leg was reset: what was read of it goes first.
    pub fn handle_reset(&mut self) {
        if !self.ended {
            self.splitter.handle_end();
            self.take_pieces();
            self.queue.push_back(Queued::Frame(Frame::Reset));
            self.ended = true;
        }
    }

    /// Takes the totals that the other side reported: references resolved, DATA and SEAL frames taken, credit given.
    /// Older reports change nothing.
    pub fn handle_progress(&mut self, resolved: u64, blocks: u64, credit: u64) {
        self.credit = self.credit.max(credit.min(CREDIT_TOTAL_MAX));
        while let Some(retained) = self.retained.pop_resolved(resolved) {
            if let Some(minter) = &self.minter {
                if let Some(number) = retained.introduced {
                    minter.numbers.confirm(number);
                }
                let (record, digest) = (minter.neighbours.record(), &retained.block.reference().digest);
                if retained.fetched { record.handle_received(digest) } else { record.learn(digest) }
            }
            if retained.referred.is_some() && !retained.fetched {
                self.failed_referrals = 0;
            }
        }
        while self.taken < blocks {
            let Some((digest, number)) = self.on_the_way.pop_front() else { break };
            self.taken += 1;
            if let Some(minter) = &self.minter {
                minter.numbers.confirm(number);
                minter.neighbours.record().handle_received(&digest);
            }
        }
    }

    /// Answers for a reference that the other side could not resolve: with the name of an edge that has the block,
    /// where `refer` says that this would help, or with the block; then blocks are pushed for a while.
    pub fn handle_fetch(&mut self, number: u64, refer: bool) -> FetchAnswer {
        let Some(retained) = self.retained.get_mut(number) else { return FetchAnswer::Gone };
        let digest = retained.block.reference().digest;
        if let Some(minter) = &mut self.minter {
            if refer && let Some(referral) = minter.neighbours.refer(&digest) {
                retained.referred = Some(referral.node);
                return FetchAnswer::Refer(referral);
            }
            if let Some(node) = retained.referred.take() {
                minter.neighbours.forget(node, &digest);
            }
            let record = minter.neighbours.record();
            record.forget(&digest);
            if !retained.fetched {
                retained.fetched = true;
                record.handle_sent(&digest);
            }
        }
        self.failed_referrals += u32::from(!refer);
        // Who has neighbours with the blocks gets more of them there, unless that fails again and again.
        if refer || self.failed_referrals > REFERRALS_FAILED_MAX {
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
        self.splitter.handle_timeout(now);
        self.take_pieces();
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
        [self.splitter.poll_timeout(), idle].into_iter().flatten().min()
    }

    /// Returns the next frame, if there is one and credit to begin it.
    pub fn poll_frame(&mut self) -> Option<Frame<Bytes>> {
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

    /// Returns opaque bytes since the last call, by reason.
    pub fn poll_opaque(&mut self) -> Vec<(OpaqueReason, usize)> {
        mem::take(&mut self.opaque)
    }

    /// Returns whether more of the leg should be read.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.queue.is_empty() && self.retained.bytes() < self.retain_bytes_max && !self.ended
    }

    /// Returns whether the leg ended and the other side needs nothing more of this half.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.ended && self.queue.is_empty() && self.retained.is_empty() && self.on_the_way.is_empty()
    }

    /// Returns whether the leg's end was taken in.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Returns whether the leg ended and every frame was taken, FIN or RESET last.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.ended && self.queue.is_empty()
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
                Piece::Content(bytes) => match &self.minter {
                    Some(minter) => {
                        let naming = minter.naming.read().unwrap_or_else(PoisonError::into_inner);
                        let block = naming.current.mint(bytes);
                        let digest = &block.reference().digest;
                        let older = naming.older.as_ref().map(|secret| secret.name(digest));
                        self.queue.push_back(Queued::Block(block, older));
                    }
                    None => self.pass_on(bytes, OpaqueReason::NoShim),
                },
            }
        }
    }

    /// Sends a block or a part of one, by reference if the other side has it or can get it; else in full. Puts it back
    /// for want of credit.
    fn send_slice(&mut self, slice: Slice) -> Option<Frame<Bytes>> {
        let room = self.credit.saturating_sub(self.sent);
        let minter = self.minter.as_mut().expect("only a minter's blocks are queued");
        let known = room >= FRAME_OVERHEAD && minter.neighbours.knows(&slice.block.reference().digest);
        if known && self.pushing == 0 && self.retained.push(slice.block.clone()) {
            self.sent += FRAME_OVERHEAD;
            return Some(self.refer(&slice));
        }
        if room < slice.bytes_at_once() as u64 + FRAME_OVERHEAD {
            self.queue.push_front(Queued::Slice(slice));
            return None;
        }
        self.pushing = self.pushing.saturating_sub(u32::from(known));
        let frame = if slice.is_whole() { self.push(&slice.block) } else { self.pass_on_slice(slice) };
        self.sent += frame_cost(&frame);
        Some(frame)
    }

    /// Names a block that was just retained: by the link's number where the other side knows that.
    fn refer(&mut self, slice: &Slice) -> Frame<Bytes> {
        let Slice { older, skip, len, .. } = *slice;
        let reference = *slice.block.reference();
        let numbers = &self.minter.as_ref().expect("only a minter's blocks are queued").numbers;
        match numbers.find(&reference) {
            Some(first) if slice.is_whole() => Frame::Run { first, count: self.extend_run(first) },
            Some(number) => Frame::Slice { number, skip, len },
            None => {
                let number = numbers.assign(&reference);
                self.retained.handle_introduced(number);
                Frame::Ref { reference, number, older, skip, len }
            }
        }
    }

    /// Takes the blocks that go on a run from the queue. Returns its length with the first one.
    fn extend_run(&mut self, first: u64) -> u16 {
        let mut count = 1;
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
        self.credit.saturating_sub(self.sent) >= FRAME_OVERHEAD
            && minter.numbers.find(reference) == Some(number)
            && minter.neighbours.knows(&reference.digest)
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
        let reference = *block.reference();
        let number = self.introduce(&reference);
        Frame::Data { reference, number, bytes: block.bytes().clone() }
    }

    fn send_seal(&mut self, reference: Reference, spans: Vec<SealSpan>) -> Option<Frame<Bytes>> {
        let number = self.introduce(&reference);
        Some(Frame::Seal { reference, number, spans })
    }

    /// Numbers a block that the other side will have by the frame that this number is for.
    fn introduce(&mut self, reference: &Reference) -> u64 {
        let minter = self.minter.as_ref().expect("only a minter's blocks are queued");
        minter.neighbours.record().handle_sent(&reference.digest);
        let number = minter.numbers.assign(reference);
        self.on_the_way.push_back((reference.digest, number));
        number
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
        let record = minter.neighbours.record();
        self.on_the_way.iter().for_each(|(digest, _)| record.handle_lost(digest));
        let fetched = self.retained.iter().filter(|retained| retained.fetched);
        fetched.for_each(|retained| record.handle_lost(&retained.block.reference().digest));
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

    use super::*;
    use crate::addr::NodeId;
    use crate::block::ServerSecret;
    use crate::referral::Holders;

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
        sending.minter.as_ref().unwrap().naming.write().unwrap().older = Some(older.clone());
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
        let minter = Minter { naming: Arc::new(RwLock::new(naming)), neighbours, numbers: Arc::default() };
        let budget = Budget::new(budget, IntGauge::new("used", "test").unwrap());
        Sending::new(Some(minter), &budget, 16 << 20, 1 << 30, Instant::now())
    }

    fn read(sending: &mut Sending, fill: u8) {
        let now = sending.last_activity;
        sending.handle_input(Bytes::from(vec![fill; CELL_BYTES]), &[Span::content(CELL_BYTES, 0, true)], now);
    }
}
