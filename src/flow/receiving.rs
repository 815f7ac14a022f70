//! The receiving half of a flow: frames of the link in, bytes for the local leg out, in order. No I/O, no protocol.
//!
//! References are resolved ahead of the leg, as far as memory allows; the one at the head always has room. References
//! that the store does not have are looked for elsewhere (see `fetch.rs`), several at once. A block whose bytes do not
//! match its reference never reaches the leg.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wanigan_parsers::wan::{DialStatus, FETCH_NUMBERS_MAX, Frame, SealSpan};

use super::credit::frame_cost;
use super::recent::{NotYetCome, Recent};
use super::terms::{Admitted, Forged, Terms};
use super::window::{Overrun, Window};
use crate::block::{Block, Named, Reference, WrongBlock};
use crate::budget::{Budget, Reservation};
use crate::matching::observer::Origin;
use crate::metrics::Source;
use crate::wan::numbering::{NumberTaken, Numbered};

/// References resolved ahead of the leg at most.
pub const LOOKAHEAD: usize = 64;

/// References resolved before they are acknowledged at once.
const ACK_EVERY: u64 = 32;

/// How long an acknowledgement may wait for others.
const ACK_DELAY: Duration = Duration::from_millis(25);

/// How long word of a DATA frame that was taken may wait for others.
const TAKEN_DELAY: Duration = Duration::from_millis(100);

/// What the shell is to do.
#[derive(Debug)]
pub enum Output {
    /// The other side's dial ended.
    Opened(DialStatus),
    /// Look the block up in the store, then call [`Receiving::handle_looked_up`].
    LookUp(Wanted),
    /// Get these blocks from elsewhere, then call [`Receiving::handle_fetched`] for each.
    Fetch(Vec<Wanted>),
    /// Keep the block.
    Store(Block),
    /// Count a block that was sealed and cannot be kept, since its bytes were not.
    SealMissed,
    /// Write the bytes to the leg, then call [`Receiving::handle_written`].
    Write(Written),
    /// Tell the sender how far we are: references resolved, credit given.
    Progress {
        /// References resolved since the flow began.
        resolved: u64,
        /// DATA and SEAL frames taken since the flow began.
        blocks: u64,
        /// Credit given since the flow began.
        credit: u64,
    },
    /// End the leg's sending direction in good order.
    Finish,
    /// Reset the leg: the other side's was.
    Reset,
}

/// Bytes for the leg.
#[derive(Debug)]
pub struct Written {
    /// The bytes.
    pub bytes: Bytes,
    /// Where their block came from, if they are of one.
    pub source: Option<Source>,
    /// Which block's they are.
    pub origin: Option<Origin>,
}

/// A block that a REF, RUN or SLICE names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Number of the reference among those of its flow.
    pub number: u64,
    /// The block.
    pub reference: Reference,
    /// Its name under the core's older server secret.
    pub older: Option<Named>,
}

/// Why the flow must be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Sender: bytes that are not the block they claim to be.
    #[error(transparent)]
    WrongBlock(#[from] WrongBlock),
    /// Sender: more than it was given credit for.
    #[error(transparent)]
    Overrun(#[from] Overrun),
    /// Sender: a frame that has no place where it came.
    #[error("frame out of place")]
    OutOfPlace,
    /// Sender: one number for two references.
    #[error(transparent)]
    NumberTaken(#[from] NumberTaken),
    /// Sender: an edge that gave a secret which is not the block's.
    #[error(transparent)]
    Forged(#[from] Forged),
    /// Sender: a number that no frame introduced, or so long ago that it is not to be used.
    #[error("number {0} stands for nothing")]
    UnknownNumber(u64),
    /// Sender: a SEAL of nothing.
    #[error(transparent)]
    NotYetCome(#[from] NotYetCome),
    /// Sender: it does not have what it referred to.
    #[error("reference {0} can be resolved by nobody")]
    Unresolved(u64),
}

/// The receiving half of one flow.
#[derive(Debug)]
pub struct Receiving {
    window: Window,
    terms: Terms,
    numbered: Arc<Numbered>,
    recent: Option<Recent>,
    queue: VecDeque<Item>,
    /// Memory of resolved references that wait for their turn.
    reservation: Reservation,
    looking_ahead: usize,
    /// References in the queue that are not ready; without any there is nothing to search the queue for.
    unresolved: usize,
    outputs: VecDeque<Output>,
    writing: Option<Writing>,
    /// Number of the next reference to arrive.
    next_number: u64,
    acked: u64,
    /// DATA and SEAL frames taken, and those that were reported.
    blocks: u64,
    blocks_acked: u64,
    ack_deadline: Option<Instant>,
    grant: Option<u64>,
    finished: bool,
}

#[derive(Debug)]
enum Item {
    Literal(Bytes),
    Data(Block),
    Ref(Ref),
    Fin,
    Reset,
}

#[derive(Debug)]
struct Ref {
    wanted: Wanted,
    /// Whether this node's store may be asked.
    entitled: bool,
    skip: usize,
    len: usize,
    state: RefState,
    /// Bytes of the reservation that this reference holds.
    reserved: u64,
}

#[derive(Debug)]
enum RefState {
    Waiting,
    LookingUp,
    Missing,
    Fetching,
    Ready(Bytes, Source),
}

#[derive(Debug)]
struct Writing {
    left: usize,
    cost: u64,
    reserved: u64,
}

impl Receiving {
    /// Makes the half for a flow with an open window.
    ///
    /// # Panics
    /// Never: an empty reservation always fits.
    #[must_use]
    pub fn new(window: Window, budget: &Budget, numbered: Arc<Numbered>) -> Self {
        Self {
            window,
            terms: Terms::default(),
            numbered,
            recent: None,
            queue: VecDeque::new(),
            reservation: budget.reserve(0).expect("nothing always fits"),
            looking_ahead: 0,
            unresolved: 0,
            outputs: VecDeque::new(),
            writing: None,
            next_number: 0,
            acked: 0,
            blocks: 0,
            blocks_acked: 0,
            ack_deadline: None,
            grant: None,
            finished: false,
        }
    }

    /// Takes references on other terms than a core's word.
    #[must_use]
    pub fn on(self, terms: Terms) -> Self {
        Self { terms, ..self }
    }

    /// Has the half keep what came as LITERAL, for SEAL to name: without this nothing that is sealed is stored.
    #[must_use]
    pub fn keeping_literals(mut self) -> Self {
        self.recent = Some(Recent::new(self.reservation.budget()));
        self
    }

    /// Returns the credit for OPEN or OPENED.
    #[must_use]
    pub fn credit(&self) -> u64 {
        self.window.granted()
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// [`Violation`] when the flow must be reset.
    pub fn handle_frame(&mut self, frame: Frame<Bytes>, now: Instant) -> Result<(), Violation> {
        if self.finished {
            return Err(Violation::OutOfPlace);
        }
        self.window.handle_received(frame_cost(&frame))?;
        match frame {
            Frame::Opened { status, credit: _ } => self.outputs.push_back(Output::Opened(status)),
            Frame::Literal(bytes) => {
                if let Some(recent) = &mut self.recent {
                    recent.handle_literal(&bytes, now);
                }
                self.queue.push_back(Item::Literal(bytes));
            }
            Frame::Data { reference, number, bytes } => {
                let block = self.terms.take(Block::verify(reference, bytes)?);
                self.numbered.insert(number, reference, None)?;
                self.handle_named(u64::from(reference.len));
                self.blocks += 1;
                self.queue.push_back(Item::Data(block.clone()));
                self.outputs.push_back(Output::Store(block));
            }
            Frame::Ref { reference, number, older, skip, len } => {
                // Before anything else: to look it up is to use it.
                let admitted = self.terms.admit(reference, older)?;
                self.numbered.insert(number, reference, older)?;
                self.handle_reference(admitted, skip, len);
            }
            Frame::Run { first, count } => {
                for number in first..first.saturating_add(u64::from(count)) {
                    let admitted = self.of_number(number)?;
                    self.handle_reference(admitted, 0, admitted.reference.len);
                }
            }
            Frame::Slice { number, skip, len } => {
                let admitted = self.of_number(number)?;
                if skip.checked_add(len).is_none_or(|end| end > admitted.reference.len) {
                    return Err(Violation::OutOfPlace);
                }
                self.handle_reference(admitted, skip, len);
            }
            Frame::Seal { reference, number, spans } => self.handle_seal(reference, number, &spans)?,
            Frame::Fin => {
                self.finished = true;
                self.queue.push_back(Item::Fin);
            }
            Frame::Reset => {
                self.finished = true;
                self.queue.push_back(Item::Reset);
            }
            Frame::Release(bytes) => self.window.handle_released(bytes)?,
            _ => return Err(Violation::OutOfPlace),
        }
        self.advance(now);
        Ok(())
    }

    /// Queues a slice of a block.
    fn handle_reference(&mut self, admitted: Admitted, skip: u32, len: u32) {
        self.handle_named(u64::from(len));
        let Admitted { reference, older, entitled } = admitted;
        self.queue.push_back(Item::Ref(Ref {
            wanted: Wanted { number: self.next_number, reference, older },
            entitled,
            skip: skip as usize,
            len: len as usize,
            state: RefState::Waiting,
            reserved: 0,
        }));
        self.next_number += 1;
        self.unresolved += 1;
    }

    /// Stores a block of bytes that came before.
    fn handle_seal(
        &mut self,
        reference: Reference,
        number: u64,
        spans: &[SealSpan],
    ) -> Result<(), Violation> {
        let bytes = match &mut self.recent {
            Some(recent) => recent.handle_seal(spans)?,
            None => None,
        };
        let output = match bytes {
            Some(bytes) => Output::Store(self.terms.take(Block::verify(reference, bytes)?)),
            None => Output::SealMissed,
        };
        self.numbered.insert(number, reference, None)?;
        self.blocks += 1;
        self.outputs.push_back(output);
        Ok(())
    }

    fn handle_named(&mut self, bytes: u64) {
        if let Some(recent) = &mut self.recent {
            recent.handle_named(bytes);
        }
    }

    fn of_number(&self, number: u64) -> Result<Admitted, Violation> {
        let (reference, older) = self.numbered.get(number).ok_or(Violation::UnknownNumber(number))?;
        Ok(self.terms.admit(reference, older)?)
    }

    /// Takes the store's answer to [`Output::LookUp`].
    pub fn handle_looked_up(&mut self, number: u64, block: Option<Block>, now: Instant) {
        match (self.find(number), block) {
            (Some(item), Some(block)) => {
                item.state = RefState::Ready(item.slice(block.bytes()), Source::Store);
                self.unresolved -= 1;
            }
            (Some(item), None) => item.state = RefState::Missing,
            (None, _) => {}
        }
        self.advance(now);
    }

    /// Takes the answer for one reference of [`Output::Fetch`], or `None` where nobody has the block.
    ///
    /// # Errors
    /// [`Violation`] when there is none: the flow must be reset.
    pub fn handle_fetched(
        &mut self,
        number: u64,
        block: Option<(Block, Source)>,
        now: Instant,
    ) -> Result<(), Violation> {
        let (block, source) = block.ok_or(Violation::Unresolved(number))?;
        let item = self.find(number).ok_or(Violation::OutOfPlace)?;
        if !matches!(item.state, RefState::Fetching) || *block.reference() != item.wanted.reference {
            return Err(Violation::OutOfPlace);
        }
        item.state = RefState::Ready(item.slice(block.bytes()), source);
        if !item.entitled {
            // It is now: it had the bytes.
            let _ = self.terms.take(block);
        }
        self.unresolved -= 1;
        self.advance(now);
        Ok(())
    }

    /// Takes note of bytes that the leg took of the last [`Output::Write`].
    pub fn handle_written(&mut self, bytes: usize, now: Instant) {
        let Some(writing) = &mut self.writing else { return };
        writing.left -= bytes;
        if writing.left == 0 {
            let (cost, reserved) = (writing.cost, writing.reserved);
            self.writing = None;
            self.reservation.shrink(reserved);
            self.grant = self.window.handle_delivered(cost, now).or(self.grant);
            self.advance(now);
        }
    }

    /// Sends a delayed acknowledgement, and lets go of what was kept for long.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(recent) = &mut self.recent {
            recent.handle_timeout(now);
        }
        self.report(now);
    }

    /// Returns when [`Receiving::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let kept = self.recent.as_ref().and_then(Recent::poll_timeout);
        [self.ack_deadline, kept].into_iter().flatten().min()
    }

    /// Returns the next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns whether FIN or RESET arrived.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Returns whether everything up to FIN was written.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.finished
            && self.queue.is_empty()
            && self.writing.is_none()
            && self.acked == self.next_number
            && self.blocks_acked == self.blocks
    }

    fn advance(&mut self, now: Instant) {
        self.write_head();
        if self.unresolved > 0 {
            self.look_ahead();
            self.fetch_missing();
        }
        self.report(now);
    }

    /// Hands the head of the queue to the leg if it is complete.
    fn write_head(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let ready = match self.queue.front() {
            Some(Item::Ref(item)) => matches!(item.state, RefState::Ready(..)),
            head => head.is_some(),
        };
        if !ready {
            return;
        }
        let head = self.queue.pop_front().expect("the head was there");
        let mut origin = None;
        let (bytes, source, cost, reserved) = match head {
            Item::Fin => {
                self.outputs.push_back(Output::Finish);
                return;
            }
            Item::Reset => {
                self.outputs.push_back(Output::Reset);
                return;
            }
            Item::Literal(bytes) => {
                let cost = frame_cost(&Frame::Literal(bytes.clone()));
                (bytes, None, cost, 0)
            }
            Item::Data(block) => {
                origin = Some(origin_of(block.reference(), 0));
                let bytes = block.bytes().clone();
                let cost = frame_cost(&Frame::Literal(bytes.clone()));
                (bytes, Some(Source::Core), cost, 0)
            }
            Item::Ref(item) => {
                self.looking_ahead -= 1;
                origin = Some(origin_of(&item.wanted.reference, item.skip));
                let cost = frame_cost(&Frame::Slice { number: 0, skip: 0, len: 1 });
                let RefState::Ready(bytes, source) = item.state else {
                    unreachable!("only a ready reference is taken")
                };
                (bytes, Some(source), cost, item.reserved)
            }
        };
        self.writing = Some(Writing { left: bytes.len(), cost, reserved });
        self.outputs.push_back(Output::Write(Written { bytes, source, origin }));
    }

    /// Has references looked up, the head first, as far as memory allows.
    fn look_ahead(&mut self) {
        for (place, item) in self.queue.iter_mut().enumerate() {
            if self.looking_ahead >= LOOKAHEAD {
                return;
            }
            let Item::Ref(item) = item else { continue };
            if !matches!(item.state, RefState::Waiting) {
                continue;
            }
            // The flow's base credit has room for the head; the others need room of their own.
            let bytes = u64::from(item.wanted.reference.len);
            if self.reservation.grow(bytes) {
                item.reserved = bytes;
            } else if place > 0 {
                return;
            }
            self.looking_ahead += 1;
            if !item.entitled {
                item.state = RefState::Missing;
                continue;
            }
            item.state = RefState::LookingUp;
            self.outputs.push_back(Output::LookUp(item.wanted));
        }
    }

    /// Fetches what is missing, together, once no look-up is under way that may find more.
    fn fetch_missing(&mut self) {
        let refs = || {
            self.queue.iter().filter_map(|item| match item {
                Item::Ref(item) => Some(item),
                Item::Literal(_) | Item::Data(_) | Item::Fin | Item::Reset => None,
            })
        };
        if refs().any(|item| matches!(item.state, RefState::LookingUp)) {
            return;
        }
        let wanted: Vec<Wanted> = refs()
            .filter(|item| matches!(item.state, RefState::Missing))
            .map(|item| item.wanted)
            .take(FETCH_NUMBERS_MAX)
            .collect();
        if wanted.is_empty() {
            return;
        }
        for Wanted { number, .. } in &wanted {
            self.find(*number).expect("it was found a moment ago").state = RefState::Fetching;
        }
        self.outputs.push_back(Output::Fetch(wanted));
    }

    /// Tells the sender about new credit at once, about resolved references and blocks taken in batches.
    fn report(&mut self, now: Instant) {
        let (resolved, blocks) = (self.resolved(), self.blocks);
        let news = resolved - self.acked + (blocks - self.blocks_acked);
        let due = news >= ACK_EVERY || self.ack_deadline.is_some_and(|deadline| deadline <= now);
        if due || self.grant.is_some() {
            self.acked = resolved;
            self.blocks_acked = blocks;
            self.ack_deadline = None;
            self.grant = None;
            self.outputs.push_back(Output::Progress { resolved, blocks, credit: self.window.granted() });
        } else if news > 0 {
            // What was resolved lets the sender go on; what was taken only tells others where it is.
            let delay = if resolved > self.acked { ACK_DELAY } else { TAKEN_DELAY };
            let deadline = self.ack_deadline.map_or(now + delay, |before| before.min(now + delay));
            self.ack_deadline = Some(deadline);
        }
    }

    /// Returns the number of the first reference that is not resolved.
    fn resolved(&self) -> u64 {
        if self.unresolved == 0 {
            return self.next_number;
        }
        self.queue
            .iter()
            .find_map(|item| match item {
                Item::Ref(item) if !matches!(item.state, RefState::Ready(..)) => Some(item.wanted.number),
                Item::Ref(_) | Item::Literal(_) | Item::Data(_) | Item::Fin | Item::Reset => None,
            })
            .unwrap_or(self.next_number)
    }

    fn find(&mut self, number: u64) -> Option<&mut Ref> {
        self.queue.iter_mut().find_map(|item| match item {
            Item::Ref(item) if item.wanted.number == number => Some(item),
            Item::Ref(_) | Item::Literal(_) | Item::Data(_) | Item::Fin | Item::Reset => None,
        })
    }
}

fn origin_of(reference: &Reference, skip: usize) -> Origin {
    let skip = u32::try_from(skip).expect("within a block");
    Origin { digest: reference.digest, block_len: reference.len, skip }
}

impl Ref {
    fn slice(&self, block: &Bytes) -> Bytes {
        block.slice(self.skip..self.skip + self.len)
    }
}
