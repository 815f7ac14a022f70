//! The requests a node has made on one connection to a peer, and when it gives up on them. No I/O.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use wanigan_parsers::peer::Frame;

/// How long a peer is given. On a LAN an answer takes a millisecond, and somebody waits for the block.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To accept the TCP connection.
    pub dial: Duration,
    /// For the handshake.
    pub handshake: Duration,
    /// To be silent while it owes answers; after that the connection is given up.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let each = Duration::from_millis(500);
        Self { dial: each, handshake: each, silence: each }
    }
}

/// How long an answer may take beyond the wait that was asked for, however alive the peer is.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How often [`Requests::handle_timeout`] has a look while answers are owed.
const TICK: Duration = Duration::from_millis(100);

/// A peer's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Bytes that are yet to be verified.
    Bytes(Vec<u8>),
    /// It does not have the block, or says so.
    Gone,
    /// It has too much to do.
    Busy,
}

/// The peer is to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// Nothing came for [`Patience::silence`] while answers were owed.
    #[error("the peer fell silent")]
    Silent,
    /// A frame that only a requester sends.
    #[error("a responder sent a request")]
    Unexpected,
}

/// The open requests. `R` takes an answer.
#[derive(Debug)]
pub struct Requests<R> {
    open: HashMap<u32, Open<R>>,
    silence: Duration,
    /// When something came, or the first open request was made, last.
    heard: Instant,
    /// When the last look was had.
    looked: Instant,
}

#[derive(Debug)]
struct Open<R> {
    reply: R,
    until: Instant,
}

impl<R> Requests<R> {
    /// Begins without requests.
    #[must_use]
    pub fn new(patience: Patience, now: Instant) -> Self {
        Self { open: HashMap::new(), silence: patience.silence, heard: now, looked: now }
    }

    /// Notes a request that the peer may take `wait` to answer.
    pub fn begin(&mut self, request: u32, reply: R, wait: Duration, now: Instant) {
        if self.open.is_empty() {
            (self.heard, self.looked) = (now, now);
        }
        self.open.insert(request, Open { reply, until: now + wait + ANSWER_WITHIN });
    }

    /// Forgets a request. Returns whether it was open.
    pub fn cancel(&mut self, request: u32) -> bool {
        self.open.remove(&request).is_some()
    }

    /// Notes that something came: a frame, or a part of one.
    pub fn handle_heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Takes a frame. Returns who gets which answer; answers to what was cancelled go to nobody.
    ///
    /// # Errors
    /// [`Failed::Unexpected`] when the peer breaks the protocol.
    pub fn handle_frame(&mut self, frame: Frame<Vec<u8>>) -> Result<Option<(R, Answer)>, Failed> {
        let (request, answer) = match frame {
            Frame::Block { request, bytes } => (request, Answer::Bytes(bytes)),
            Frame::Gone { request } => (request, Answer::Gone),
            Frame::Busy { request } => (request, Answer::Busy),
            Frame::Waiting => return Ok(None),
            Frame::Get { .. } | Frame::Cancel { .. } => return Err(Failed::Unexpected),
        };
        Ok(self.open.remove(&request).map(|open| (open.reply, answer)))
    }

    /// Has a look at the time. Returns requests whose answer is overdue, with their numbers; they are forgotten.
    ///
    /// # Errors
    /// [`Failed::Silent`] when the connection is to be given up.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<Vec<(u32, R)>, Failed> {
        if self.open.is_empty() || now < self.looked + TICK {
            return Ok(Vec::new());
        }
        self.looked = now;
        if now >= self.heard + self.silence {
            return Err(Failed::Silent);
        }
        let overdue: Vec<u32> =
            self.open.iter().filter(|(_, open)| open.until <= now).map(|(request, _)| *request).collect();
        let take = |request| self.open.remove(&request).map(|open| (request, open.reply));
        Ok(overdue.into_iter().filter_map(take).collect())
    }

    /// Returns when [`Requests::handle_timeout`] is to be called, or `None` while nothing is owed.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.open.is_empty()).then(|| self.looked + TICK)
    }

    /// Returns whether no answer is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Ends all requests.
    pub fn take_all(&mut self) -> Vec<R> {
        self.open.drain().map(|(_, open)| open.reply).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_millis(500);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn answers_go_to_who_asked_and_to_nobody_else() {
        let now = Instant::now();
        let mut requests = Requests::new(Patience::default(), now);
        for request in 0..4 {
            requests.begin(request, request, Duration::ZERO, now);
        }
        assert!(requests.cancel(3) && !requests.cancel(3));
        let block = |request| Frame::Block { request, bytes: vec![1] };
        assert_eq!(requests.handle_frame(block(1)), Ok(Some((1, Answer::Bytes(vec![1])))));
        assert_eq!(requests.handle_frame(block(1)), Ok(None), "a second answer");
        assert_eq!(requests.handle_frame(block(3)), Ok(None), "a cancelled request");
        assert_eq!(requests.handle_frame(Frame::Busy { request: 0 }), Ok(Some((0, Answer::Busy))));
        assert_eq!(requests.handle_frame(Frame::Gone { request: 2 }), Ok(Some((2, Answer::Gone))));
        assert!(requests.is_empty() && requests.poll_timeout().is_none());
        assert_eq!(requests.handle_frame(Frame::Cancel { request: 2 }), Err(Failed::Unexpected));
    }

    #[test]
    fn a_peer_that_owes_answers_and_falls_silent_is_given_up_and_an_idle_one_is_not() {
        let start = Instant::now();
        let mut requests = Requests::new(Patience::default(), start);
        let later = start + Duration::from_secs(60);
        assert_eq!(requests.handle_timeout(later), Ok(vec![]), "nothing is owed");
        requests.begin(1, 1, Duration::from_secs(5), later);
        let mut now = later;
        // Parts of frames and WAITING are signs of life.
        for _ in 0..10 {
            now += SILENCE - MS;
            assert_eq!(requests.handle_timeout(now), Ok(vec![]));
            requests.handle_heard(now);
        }
        assert_eq!(requests.handle_timeout(now + SILENCE - MS), Ok(vec![]));
        assert_eq!(requests.handle_timeout(now + SILENCE + TICK), Err(Failed::Silent));
    }

    #[test]
    fn a_peer_that_only_says_that_it_lives_is_not_waited_for_for_ever() {
        let start = Instant::now();
        let mut requests = Requests::new(Patience::default(), start);
        requests.begin(1, 1, Duration::from_secs(2), start);
        requests.begin(2, 2, Duration::from_secs(20), start);
        let due = start + Duration::from_secs(2) + ANSWER_WITHIN;
        requests.handle_heard(due);
        assert_eq!(requests.handle_timeout(due - MS), Ok(vec![]));
        assert_eq!(requests.handle_timeout(due + TICK), Ok(vec![(1, 1)]));
        assert_eq!(requests.take_all(), [2]);
    }
}
