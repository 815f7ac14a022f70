//! What becomes of the requests on one connection of a peer that is served. No I/O.
//!
//! A [`Session`] takes frames, what the store says and blocks that arrive, and says what to look up and what to answer.
//! It holds requests, and a few blocks whose turn to be sent is next, as handles: never a queue of bytes.
//!
//! Whoever has only a tag learns nothing. A tag that is not held and a proof that is wrong get the same answer at the
//! same time: GONE at once, or when the wait that was asked for is over.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use wanigan_parsers::peer::Frame;

use crate::block::{Block, BlockHash, KeyId, Reference, Tag};
use crate::fault::ServeRefusal;
use crate::proof::{self, Exporter, Proof};

/// Requests of one connection that are not answered yet, at most; those beyond get BUSY.
pub const REQUESTS_MAX: usize = 256;

/// The longest wait for a block that is not there yet; a longer one that is asked for is cut to this.
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// How long a connection with unanswered requests is silent before it says that it lives.
pub const ALIVE_EVERY: Duration = Duration::from_millis(200);

/// Blocks read from the store ahead of being sent.
const READ_AHEAD: usize = 2;

/// Blocks held that arrived while they were waited for; those beyond are looked up again when it is their turn.
const ARRIVED_MAX: usize = 8;

/// Answers that wait to be sent before no further request is read.
const ANSWERS_MAX: usize = 2 * REQUESTS_MAX;

/// A request in a place where it hears of blocks that arrive; it leaves the place when its ticket is dropped.
pub trait Places {
    /// The ticket.
    type Ticket;

    /// Gives a request a place, or `None` when all are taken.
    fn take(&self, request: u32, key: KeyId, tag: Tag) -> Option<Self::Ticket>;
}

/// The next thing to ask the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// Which block has this tag?
    Find {
        /// The request.
        request: u32,
        /// The server secret of the tag.
        key: KeyId,
        /// The tag.
        tag: Tag,
    },
    /// The block of a request that proved to hold its hash.
    Read {
        /// The request.
        request: u32,
        /// Names the block.
        reference: Reference,
    },
}

/// An answer, or a sign of life.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The block.
    Block(u32, Block),
    /// No block for this request and its proof.
    Gone(u32),
    /// Too much to do.
    Busy(u32),
    /// Nothing yet.
    Waiting,
}

/// The peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A frame that only the responder sends.
    #[error("a requester sent an answer")]
    Unexpected,
    /// A number of a request that is not answered yet.
    #[error("request {0} was sent twice")]
    Twice(u32),
}

/// The requests of one connection. `P` is where waiting ones hear of blocks.
#[derive(Debug)]
pub struct Session<P: Places> {
    exporter: Exporter,
    places: P,
    open: HashMap<u32, Open<P::Ticket>>,
    /// Open requests to look up, in the order they came; cancelled ones may still be among them.
    queue: VecDeque<u32>,
    /// The request that the store was asked for, until it answered.
    looking: Option<u32>,
    /// An open request that proved its right to a block that is to be read.
    proven: Option<(u32, Reference)>,
    /// When waits are over.
    waits: BTreeSet<(Instant, u32)>,
    answers: VecDeque<Answer>,
    /// Blocks among the answers.
    blocks: usize,
    /// When the block that is the first answer may go.
    turn: Option<Instant>,
    /// When something was sent last.
    said: Instant,
    /// When a frame came, or a block went, last.
    active: Instant,
    refusals: Vec<ServeRefusal>,
}

#[derive(Debug)]
struct Open<T> {
    key: KeyId,
    tag: Tag,
    proof: Proof,
    until: Option<Instant>,
    /// Whether it was counted as refused.
    refused: bool,
    /// Kept for its drop.
    _ticket: Option<T>,
}

impl<P: Places> Session<P> {
    /// Begins with a connection that proofs are bound to by `exporter`.
    pub fn new(exporter: Exporter, places: P, now: Instant) -> Self {
        Self {
            exporter,
            places,
            open: HashMap::new(),
            queue: VecDeque::new(),
            looking: None,
            proven: None,
            waits: BTreeSet::new(),
            answers: VecDeque::new(),
            blocks: 0,
            turn: None,
            said: now,
            active: now,
            refusals: Vec::new(),
        }
    }

    /// Takes a frame of the peer.
    ///
    /// # Errors
    /// [`Broken`] when the connection is to be closed.
    pub fn handle_frame<B>(&mut self, frame: &Frame<B>, now: Instant) -> Result<(), Broken> {
        self.active = now;
        match *frame {
            Frame::Get { request, wait_ms, key, tag, proof } => {
                let until =
                    (wait_ms > 0).then(|| now + Duration::from_millis(u64::from(wait_ms)).min(WAIT_MAX));
                self.handle_get(request, Open { key, tag, proof, until, refused: false, _ticket: None })
            }
            Frame::Cancel { request } => {
                self.close(request);
                Ok(())
            }
            Frame::Block { .. } | Frame::Gone { .. } | Frame::Busy { .. } | Frame::Waiting => {
                Err(Broken::Unexpected)
            }
        }
    }

    fn handle_get(&mut self, request: u32, mut open: Open<P::Ticket>) -> Result<(), Broken> {
        if self.open.contains_key(&request) {
            return Err(Broken::Twice(request));
        }
        // A number that was cancelled must not get the answer to the lookup that is under way for it.
        let taken = self.looking == Some(request);
        if taken || self.open.len() + self.answers.len() >= REQUESTS_MAX {
            self.refuse(request);
            return Ok(());
        }
        if let Some(until) = open.until {
            // Before the lookup: a block that arrives in between is not missed.
            let Some(ticket) = self.places.take(request, open.key, open.tag) else {
                self.refuse(request);
                return Ok(());
            };
            open._ticket = Some(ticket);
            self.waits.insert((until, request));
        }
        self.open.insert(request, open);
        self.queue.push_back(request);
        Ok(())
    }

    /// Returns the next thing to ask the store, if there is room for another block and the last was answered.
    pub fn poll_lookup(&mut self) -> Option<Lookup> {
        if self.looking.is_some() || self.blocks >= READ_AHEAD {
            return None;
        }
        let lookup = match self.proven.take() {
            Some((request, reference)) => Lookup::Read { request, reference },
            None => {
                let request = self.queue.pop_front()?;
                let open = self.open.get(&request).expect("what is closed leaves the queue");
                Lookup::Find { request, key: open.key, tag: open.tag }
            }
        };
        let (Lookup::Find { request, .. } | Lookup::Read { request, .. }) = lookup;
        self.looking = Some(request);
        Some(lookup)
    }

    /// Takes what the store says to [`Lookup::Find`].
    pub fn handle_found(&mut self, request: u32, found: Option<Reference>, now: Instant) {
        self.looking = None;
        let Some(open) = self.open.get(&request) else { return };
        match found {
            Some(reference) if self.is_proven(open, &reference) => self.proven = Some((request, reference)),
            Some(_) => self.handle_missing(request, ServeRefusal::WrongProof, now),
            None => self.handle_missing(request, ServeRefusal::UnknownTag, now),
        }
    }

    /// Takes what the store says to [`Lookup::Read`].
    pub fn handle_read(&mut self, request: u32, block: Option<Block>, now: Instant) {
        self.looking = None;
        match block {
            Some(block) => self.give(request, block),
            None => self.handle_missing(request, ServeRefusal::UnknownTag, now),
        }
    }

    /// Takes a block that arrived for a request with a place.
    pub fn handle_arrival(&mut self, request: u32, block: Block) {
        let Some(open) = self.open.get(&request) else { return };
        if !self.is_proven(open, block.reference()) {
            // Nothing is said before the wait is over, as if nothing had come.
            self.count_refusal(request, ServeRefusal::WrongProof);
        } else if self.blocks < READ_AHEAD + ARRIVED_MAX {
            self.give(request, block);
        } else if !self.queue.contains(&request) {
            self.queue.push_back(request);
        }
    }

    /// Ends the waits that are over.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, request)) = self.waits.first().copied().filter(|(until, _)| *until <= now) {
            self.end(request, ServeRefusal::UnknownTag);
        }
    }

    /// Returns the next answer to send. `grant` says when so many bytes may go.
    pub fn poll_answer(&mut self, now: Instant, grant: impl FnOnce(u64) -> Instant) -> Option<Answer> {
        if let Some(Answer::Block(_, block)) = self.answers.front() {
            let turn = *self.turn.get_or_insert_with(|| grant(block.bytes().len() as u64));
            if turn > now {
                return self.poll_alive(now);
            }
        }
        let Some(answer) = self.answers.pop_front() else { return self.poll_alive(now) };
        if matches!(answer, Answer::Block(..)) {
            self.blocks -= 1;
            self.turn = None;
            self.active = now;
        }
        self.said = now;
        Some(answer)
    }

    fn poll_alive(&mut self, now: Instant) -> Option<Answer> {
        if self.idle_since().is_some() || now < self.said + ALIVE_EVERY {
            return None;
        }
        self.said = now;
        Some(Answer::Waiting)
    }

    /// Returns when there is something to do if nothing comes before: with [`Session::handle_timeout`], or, where
    /// something can be sent, with [`Session::poll_answer`].
    #[must_use]
    pub fn poll_timeout(&self, can_send: bool) -> Option<Instant> {
        let wait = self.waits.first().map(|(until, _)| *until);
        let alive = (can_send && self.idle_since().is_none()).then(|| self.said + ALIVE_EVERY);
        let turn = self.turn.filter(|_| can_send);
        [wait, alive, turn].into_iter().flatten().min()
    }

    /// Returns since when the connection has had nothing to do, or `None` while it has.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        (self.open.is_empty() && self.answers.is_empty()).then_some(self.active)
    }

    /// Returns whether further frames may be read: not while so many answers wait.
    #[must_use]
    pub fn takes_frames(&self) -> bool {
        self.answers.len() < ANSWERS_MAX
    }

    /// Returns a refusal to count.
    pub fn poll_refusal(&mut self) -> Option<ServeRefusal> {
        self.refusals.pop()
    }

    fn is_proven(&self, open: &Open<P::Ticket>, reference: &Reference) -> bool {
        let hash = BlockHash::of(reference);
        let expected = proof::get(&hash, &open.tag, &self.exporter);
        reference.key == open.key && hash.tag(reference) == open.tag && proof::agree(&expected, &open.proof)
    }

    /// Answers GONE, or goes on waiting where that was asked for.
    fn handle_missing(&mut self, request: u32, reason: ServeRefusal, now: Instant) {
        let Some(open) = self.open.get(&request) else { return };
        if open.until.is_none_or(|until| until <= now) {
            self.end(request, reason);
        } else if reason == ServeRefusal::WrongProof {
            // It will not get better, but to the peer this must look like any other wait.
            self.count_refusal(request, reason);
        }
    }

    /// Answers GONE.
    fn end(&mut self, request: u32, reason: ServeRefusal) {
        self.count_refusal(request, reason);
        self.close(request);
        self.answers.push_back(Answer::Gone(request));
    }

    fn count_refusal(&mut self, request: u32, reason: ServeRefusal) {
        if let Some(open) = self.open.get_mut(&request)
            && !std::mem::replace(&mut open.refused, true)
        {
            self.refusals.push(reason);
        }
    }

    fn give(&mut self, request: u32, block: Block) {
        if self.close(request) {
            self.blocks += 1;
            self.answers.push_back(Answer::Block(request, block));
        }
    }

    fn refuse(&mut self, request: u32) {
        self.refusals.push(ServeRefusal::Busy);
        self.answers.push_back(Answer::Busy(request));
    }

    /// Forgets a request, and returns whether it was open.
    fn close(&mut self, request: u32) -> bool {
        let Some(open) = self.open.remove(&request) else { return false };
        self.proven = self.proven.filter(|(proven, _)| *proven != request);
        self.queue.retain(|queued| *queued != request);
        if let Some(until) = open.until {
            self.waits.remove(&(until, request));
        }
        true
    }
}

#[cfg(test)]
mod tests;
