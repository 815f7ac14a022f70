//! What of a flow waits to go out, and the frames that it goes as. No I/O.
//!
//! Bytes, blocks, parts of blocks and seals come in the order of the stream, and leave in that order when there is
//! credit (`credit.rs`). A block goes by reference, if the other side has it or can get it from a neighbour
//! (`minter.rs`), else as DATA; a part by reference or as LITERAL. Which of the two is decided at the moment it is
//! sent, so that of several flows that read the same new file only one sends each block. References go by number where
//! the other side knows that, and blocks whose numbers follow on as one RUN.
//!
//! The blocks behind references are retained until the other side acknowledged them, and FETCH is answered out of
//! those (`retained.rs`). A miss has the next blocks go in full for a while (`pushing.rs`). Where the node's budget has
//! no room for another retained block, the block goes as DATA and the flow goes on.
//!
//! What waits is bounded by what was read before the leg rests ([`Outbound::wants_more`]), but for parts: each keeps its
//! whole block, which may be 256 times as long. So a part waits only where its block has memory already, out of the
//! node's budget and of what the flow may retain; without, its bytes go as they are.

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wanigan_parsers::wan::{Frame, RUN_BLOCKS_MAX, SealSpan};

use super::credit::{Credit, FRAME_OVERHEAD, frame_cost};
use super::guessing::Guessing;
use super::minter::Minter;
use super::pushing::Pushing;
use super::retained::{Held, RetainedQueue};
use crate::block::{Block, Digest, Hashed, Named, Reference};
use crate::budget::Budget;
use crate::matching::matcher::CELL_BYTES;
use crate::wan::FetchAnswer;

/// How long a flow is idle before it gives back credit it does not need.
const IDLE: Duration = Duration::from_secs(1);

/// How long a run of blocks waits for the next: what a server sends at once is read in several pieces.
const RUN_HOLD: Duration = Duration::from_millis(1);

/// The outgoing side of one flow.
#[derive(Debug)]
pub struct Outbound {
    minter: Option<Minter>,
    queue: VecDeque<Queued>,
    credit: Credit,
    retained: RetainedQueue,
    retain_bytes_max: u64,
    /// Blocks sent as DATA or SEAL of which the other side has not said that it took them, each with the link's number
    /// that was introduced, and how many it did say.
    on_the_way: VecDeque<(Digest, u64)>,
    taken: u64,
    pushing: Pushing,
    guessing: Guessing,
    /// A run of blocks that may go on with what is read next, and how long it waits for that.
    run: Option<(u64, u16)>,
    run_deadline: Option<Instant>,
    run_is_due: bool,
    last_read: Instant,
    /// Since when the leg has nothing to say and nothing goes out.
    idle_since: Option<Instant>,
    /// Nothing more is read.
    ended: bool,
}

#[derive(Debug)]
enum Queued {
    Frame(Frame<Bytes>),
    Part(Part),
    /// A block whose bytes went as LITERAL.
    Seal {
        reference: Reference,
        spans: Vec<SealSpan>,
    },
}

/// A block or a part of one. Whoever queues a part has decided that the other side is entitled to the whole.
#[derive(Debug)]
struct Part {
    block: Block,
    /// The memory of a block of which not every byte is to go out: of one that is whole, the bytes were read just now.
    held: Option<Held>,
    /// The block's name under the older server secret.
    older: Option<Named>,
    skip: u32,
    len: u32,
}

impl Outbound {
    /// Makes the side of a flow that may send `credit` frame bytes at first. Without a minter it has no blocks.
    #[must_use]
    pub fn new(
        minter: Option<Minter>,
        budget: &Budget,
        retain_bytes_max: u64,
        credit: u64,
        now: Instant,
    ) -> Self {
        let guessing = minter.as_ref().map(Minter::guessing).unwrap_or_default();
        Self {
            minter,
            queue: VecDeque::new(),
            credit: Credit::new(credit),
            retained: RetainedQueue::new(budget),
            retain_bytes_max,
            on_the_way: VecDeque::new(),
            taken: 0,
            pushing: Pushing::default(),
            guessing,
            run: None,
            run_deadline: None,
            run_is_due: false,
            last_read: now,
            idle_since: None,
            ended: false,
        }
    }

    /// Returns whether there is anything to name blocks with. Without it only [`Outbound::pass_on`] may be called.
    #[must_use]
    pub fn has_names(&self) -> bool {
        self.minter.is_some()
    }

    /// Notes that the leg said something.
    pub fn handle_read(&mut self, now: Instant) {
        self.last_read = now;
        self.idle_since = None;
    }

    /// Notes that the leg is waited for.
    pub fn handle_wait(&mut self, now: Instant) {
        self.idle_since.get_or_insert(now);
    }

    /// Notes that the leg says no more: nothing waits for it any longer.
    pub fn handle_end(&mut self) {
        self.ended = true;
    }

    /// Queues bytes that go as they are.
    pub fn pass_on(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(CELL_BYTES));
            self.queue.push_back(Queued::Frame(Frame::Literal(part)));
        }
    }

    /// Queues a block of which every byte was read, and returns it with its name.
    pub fn take_block(&mut self, content: Hashed) -> Block {
        let (block, older) = self.minter().mint(content);
        self.queue.push_back(Queued::Part(Part::whole(block.clone(), older)));
        block
    }

    /// Queues a part of a block, of which `same_version` says whether all of it was released at this place in this
    /// version. Returns `false` where the bytes are to go as they are: the other side may not be told of the block, or
    /// cannot have it, or missed others a moment ago, or there is no memory for the block.
    #[must_use]
    pub fn take_part(&mut self, content: Hashed, skip: usize, len: usize, same_version: bool) -> bool {
        let minter = self.minter.as_mut().expect(HAS_NAMES);
        let (block, older) = minter.mint(content);
        let can_be_named = minter.may_name_part(&block.reference().digest, same_version)
            && minter.known(block.reference()).is_some();
        if !can_be_named {
            return false;
        }
        if self.pushing.pushes() {
            // A flow whose reads are smaller than blocks has nothing else that counts.
            self.pushing.handle_pushed();
            return false;
        }
        if self.retained.bytes() >= self.retain_bytes_max {
            return false;
        }
        let Some(held) = self.retained.hold(&block) else { return false };
        let narrow = |len: usize| u32::try_from(len).expect("a block is far below 4 GiB");
        self.queue.push_back(Queued::Part(Part::of(held, older, narrow(skip), narrow(len))));
        true
    }

    /// Queues word that bytes which went as they are were a block, and returns the block with its name.
    pub fn take_seal(&mut self, content: Hashed, spans: Vec<SealSpan>) -> Block {
        let (block, _) = self.minter().mint(content);
        self.queue.push_back(Queued::Seal { reference: *block.reference(), spans });
        block
    }

    /// Queues the frame that ends the direction.
    pub fn close(&mut self, last: Frame<Bytes>) {
        self.queue.push_back(Queued::Frame(last));
    }

    /// Takes the totals that the other side reported: references resolved, DATA and SEAL frames taken, credit given.
    /// Older reports change nothing.
    pub fn handle_progress(&mut self, resolved: u64, blocks: u64, credit: u64) {
        self.credit.handle_given(credit);
        while let Some(retained) = self.retained.pop_resolved(resolved) {
            if let Some(minter) = &self.minter {
                if let Some(number) = retained.introduced {
                    minter.confirm(number);
                }
                let digest = &retained.block().reference().digest;
                if retained.fetched { minter.handle_taken(digest) } else { minter.handle_resolved(digest) }
            }
            if retained.guessed && !retained.fetched {
                self.guessing.handle_hit();
            }
            if retained.referred.is_some() && !retained.fetched {
                self.pushing.handle_referral_led();
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
        let minter = self.minter.as_mut().expect(HAS_NAMES);
        let digest = retained.block().reference().digest;
        if let Some(referral) = minter.refer(&digest, refer) {
            retained.referred = Some(referral.node);
            return FetchAnswer::Refer(referral);
        }
        minter.handle_missed(&digest, retained.referred.take());
        if !mem::replace(&mut retained.fetched, true) {
            minter.handle_sent(&digest);
        }
        if mem::take(&mut retained.guessed) {
            // It was nothing but a question, and this is the answer.
            self.guessing.handle_miss();
        } else {
            self.pushing.handle_missed(refer || !minter.refers());
        }
        FetchAnswer::Block(retained.block().bytes().clone())
    }

    /// Lets go of a run and of credit whose time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.run_deadline.is_some_and(|deadline| deadline <= now) {
            // It goes out when the stream takes it; until then there is nothing to wake up for.
            self.run_deadline = None;
            self.run_is_due = true;
        }
        if self.idle_until().is_some_and(|until| now >= until) {
            let spare = self.credit.spare();
            self.credit.spend(spare);
            self.queue.push_back(Queued::Frame(Frame::Release(spare)));
        }
    }

    /// Returns when [`Outbound::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.run_deadline, self.idle_until()].into_iter().flatten().min()
    }

    /// Returns the next frame, if there is one and credit to begin it.
    pub fn poll_frame(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.next_frame();
        if frame.is_some() {
            self.idle_since = None;
        }
        frame
    }

    fn next_frame(&mut self) -> Option<Frame<Bytes>> {
        if let Some((first, count)) = self.run.take() {
            return self.send_run(first, count);
        }
        match self.queue.pop_front()? {
            Queued::Frame(frame) => {
                let cost = frame_cost(&frame);
                if cost > self.credit.room() {
                    self.queue.push_front(Queued::Frame(frame));
                    return None;
                }
                self.credit.spend(cost);
                Some(frame)
            }
            Queued::Part(part) => {
                let part = self.join(part);
                self.send_part(part)
            }
            Queued::Seal { reference, spans } => {
                let (reference, number) = self.introduce(&reference);
                Some(Frame::Seal { reference, number, spans })
            }
        }
    }

    /// Returns whether there is room for more of the stream.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.queue.is_empty() && self.retained.bytes() < self.retain_bytes_max
    }

    /// Returns whether every frame was taken.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.queue.is_empty() && self.run.is_none()
    }

    /// Returns whether the other side acknowledged every block that was sent or referred to.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.retained.is_empty() && self.on_the_way.is_empty()
    }

    /// Until when credit that is of no use is kept. What waited for credit is no idle flow.
    fn idle_until(&self) -> Option<Instant> {
        let is_idle = !self.ended && self.credit.spare() > 0 && self.queue.is_empty();
        self.idle_since.filter(|_| is_idle).map(|since| since + IDLE)
    }

    fn minter(&self) -> &Minter {
        self.minter.as_ref().expect(HAS_NAMES)
    }

    /// Joins a part with those behind it that go on where it ends.
    fn join(&mut self, mut part: Part) -> Part {
        while let Some(Queued::Part(next)) = self.queue.front()
            && next.skip == part.skip + part.len
            && next.block.reference() == part.block.reference()
        {
            part.len += next.len;
            self.queue.pop_front();
        }
        part
    }

    /// Sends a block or a part of one, by reference if the other side has it or can get it; else in full. Puts it back
    /// for want of credit.
    fn send_part(&mut self, part: Part) -> Option<Frame<Bytes>> {
        let room = self.credit.room();
        let minter = self.minter.as_mut().expect(HAS_NAMES);
        let known = if room >= FRAME_OVERHEAD { minter.known(part.block.reference()) } else { None };
        let guesses = known.is_none() && part.is_whole() && self.guessing.guesses() && minter.refers();
        let named = if guesses { Some(*part.block.reference()) } else { known };
        if let Some(reference) = named
            && room >= FRAME_OVERHEAD
            && !self.pushing.pushes()
            && let Some(held) = part.held.clone().or_else(|| self.retained.hold(&part.block))
        {
            self.retained.push(held);
            self.credit.spend(FRAME_OVERHEAD);
            if guesses {
                self.retained.handle_guessed();
                self.guessing.handle_guess();
            }
            return self.refer(&part, reference);
        }
        if room < part.bytes_at_once() as u64 + FRAME_OVERHEAD {
            self.queue.push_front(Queued::Part(part));
            return None;
        }
        if known.is_some() {
            self.pushing.handle_pushed();
        } else if part.is_whole() {
            self.guessing.handle_pushed();
        }
        let frame = if part.is_whole() { self.push(&part.block) } else { self.pass_on_part(part) };
        self.credit.spend(frame_cost(&frame));
        Some(frame)
    }

    /// Names a block that was just retained: by the link's number where the other side knows that.
    fn refer(&mut self, part: &Part, reference: Reference) -> Option<Frame<Bytes>> {
        let Part { older, skip, len, .. } = *part;
        match self.minter().number(&reference) {
            Some(first) if part.is_whole() => self.send_run(first, 1),
            Some(number) => Some(Frame::Slice { number, skip, len }),
            None => {
                let number = self.minter().introduce(&reference);
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
            || self.run_deadline.is_some_and(|deadline| deadline <= self.last_read);
        if is_open && !is_due {
            self.run = Some((first, count));
            self.run_deadline.get_or_insert(self.last_read + RUN_HOLD);
            return None;
        }
        self.run_deadline = None;
        Some(Frame::Run { first, count })
    }

    /// Takes the blocks that go on a run from the queue. Returns its length with the first one.
    fn extend_run(&mut self, first: u64, mut count: u16) -> u16 {
        while usize::from(count) < RUN_BLOCKS_MAX && self.goes_on(first + u64::from(count)) {
            self.queue.pop_front();
            self.credit.spend(FRAME_OVERHEAD);
            count += 1;
        }
        count
    }

    /// Retains the block at the head of the queue if it is whole, can be referred to and has this number.
    fn goes_on(&mut self, number: u64) -> bool {
        let Some(Queued::Part(part)) = self.queue.front() else { return false };
        let minter = self.minter.as_mut().expect(HAS_NAMES);
        let reference = part.block.reference();
        let can_be_named = part.is_whole()
            && !self.pushing.pushes()
            && self.credit.room() >= FRAME_OVERHEAD
            && minter.number(reference) == Some(number)
            && minter.known(reference).is_some();
        if can_be_named && let Some(held) = part.held.clone().or_else(|| self.retained.hold(&part.block)) {
            self.retained.push(held);
            return true;
        }
        false
    }

    /// Sends a block in full.
    fn push(&mut self, block: &Block) -> Frame<Bytes> {
        let (reference, number) = self.introduce(block.reference());
        Frame::Data { reference, number, bytes: block.bytes().clone() }
    }

    /// Names and numbers a block that the other side will have by the frame that this is for.
    fn introduce(&mut self, reference: &Reference) -> (Reference, u64) {
        let minter = self.minter();
        minter.handle_sent(&reference.digest);
        let number = minter.introduce(reference);
        let named = minter.in_full(reference);
        self.on_the_way.push_back((reference.digest, number));
        (named, number)
    }

    /// Sends the bytes of a part of a block, or as many as go at once.
    fn pass_on_part(&mut self, mut part: Part) -> Frame<Bytes> {
        let (begin, count) = (part.skip as usize, part.bytes_at_once());
        // A copy, since what is on its way to the link would keep the whole block.
        let bytes = Bytes::copy_from_slice(&part.block.bytes()[begin..begin + count]);
        let sent = u32::try_from(count).expect("no more than the part");
        (part.skip, part.len) = (part.skip + sent, part.len - sent);
        if part.len > 0 {
            self.queue.push_front(Queued::Part(part));
        }
        Frame::Literal(bytes)
    }
}

#[cfg(test)]
impl Outbound {
    pub(crate) fn queue_part(&mut self, block: Block, skip: u32, len: u32) {
        let held = self.retained.hold(&block).unwrap();
        self.queue.push_back(Queued::Part(Part::of(held, None, skip, len)));
    }

    pub(crate) fn queue_seal(&mut self, reference: Reference, spans: Vec<SealSpan>) {
        self.queue.push_back(Queued::Seal { reference, spans });
    }

    pub(crate) fn retained_bytes(&self) -> u64 {
        self.retained.bytes()
    }
}

impl Drop for Outbound {
    /// What was on its way may never arrive.
    fn drop(&mut self) {
        let Some(minter) = &self.minter else { return };
        self.on_the_way.iter().for_each(|(digest, _)| minter.handle_lost(digest));
        let fetched = self.retained.iter().filter(|retained| retained.fetched);
        fetched.for_each(|retained| minter.handle_lost(&retained.block().reference().digest));
    }
}

impl Part {
    fn whole(block: Block, older: Option<Named>) -> Self {
        let len = block.reference().len;
        Self { block, held: None, older, skip: 0, len }
    }

    fn of(held: Held, older: Option<Named>, skip: u32, len: u32) -> Self {
        Self { block: held.block().clone(), held: Some(held), older, skip, len }
    }

    fn is_whole(&self) -> bool {
        self.len == self.block.reference().len
    }

    /// How many of its bytes one frame carries where it is not referred to. A block's all go at once.
    fn bytes_at_once(&self) -> usize {
        if self.is_whole() { self.len as usize } else { (self.len as usize).min(CELL_BYTES) }
    }
}

/// Why there is a minter where there are blocks.
const HAS_NAMES: &str = "who has nothing to name blocks with has none";

#[cfg(test)]
mod tests;
