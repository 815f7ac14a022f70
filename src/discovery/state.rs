//! Discovery without its I/O: asks, answers, and silence.
//!
//! Bytes in, actions out: the shell brings datagrams, time and what the store found, and carries out each [`Output`].
//! Both halves, asking and answering, are here; they share the domains' time and the limits. Whatever arrives,
//! nothing here grows past its named limit, and nothing is said to who has not proved to hold a block's hash.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wanigan_parsers::discovery::Datagram;

use super::answerer::{Answerer, Reply};
use super::asker::Asker;
use super::clock::Clock;
use super::limit::{Limit, Rate, SourceLimit};
use super::pace::Pace;
use crate::addr::NodeId;
use crate::block::{KeyId, Reference, Tag};
use crate::fault::DiscoveryRefusal;
use crate::proof::Nonce;

/// Draws a nonce, or finds that there is no randomness: then nothing is sent.
pub type Random = Box<dyn FnMut() -> Option<Nonce> + Send + Sync>;

/// Datagrams that are read from one source. A node asks at most 200 times a second, each perhaps over two ways.
pub(super) const FROM_ONE: Rate = Rate { per_second: 500, burst: 256 };

/// Asks that are read from all sources together.
pub(super) const ASKS_FROM_ALL: Rate = Rate { per_second: 2_000, burst: 512 };

/// Answers that are read from all sources together.
pub(super) const ANSWERS_FROM_ALL: Rate = Rate { per_second: 4_000, burst: 1_024 };

/// Answers that are put off at once; others go out as they come.
pub const PUT_OFF_MAX: usize = 256;

/// Where a datagram came from, as the interfaces tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The network of a chosen interface.
    OnLink,
    /// A listed peer.
    Listed,
    /// Anywhere else.
    Elsewhere,
}

/// A peer has blocks that were asked for; the proofs are right. Address and load are not proved: a lie costs time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who answered.
    pub peer: NodeId,
    /// Where the peer gives blocks away: a TCP address.
    pub addr: SocketAddr,
    /// How busy the peer says it is: 0 idle, 255 as busy as it can be.
    pub load: u8,
    /// What it has; `true` for what is still on its way to it.
    pub blocks: Vec<(Reference, bool)>,
}

/// A block that this node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The block.
    pub reference: Reference,
    /// Whether it is still on its way from the core.
    pub soon: bool,
}

/// What came of an attempt to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Until when answers are worth waiting for.
    pub until: Instant,
    /// Blocks asked for.
    pub blocks: usize,
    /// Blocks not asked for: a limit, a quiet network, or no time of their domain.
    pub left: Vec<Reference>,
}

/// What the shell is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this to everybody.
    Ask(Vec<u8>),
    /// Send this to one.
    Send {
        /// Where to.
        to: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
        /// Blocks in it that this node proves to have.
        blocks: usize,
    },
    /// Look these tags up, and say what was found to [`State::handle_found`].
    LookUp {
        /// Names the look-up.
        number: u64,
        /// The domain.
        key: KeyId,
        /// What to look for.
        tags: Vec<Tag>,
    },
    /// A peer has blocks.
    Answer {
        /// What it has.
        answer: Answer,
        /// Of these blocks, those that no other peer had answered for.
        first: usize,
    },
    /// A datagram, or a block of one, is met with silence.
    Refused {
        /// Where it came from.
        from: SocketAddr,
        /// Why.
        reason: DiscoveryRefusal,
    },
}

/// What discovery is set to.
#[derive(Debug, Clone, Copy)]
pub struct StateSettings {
    /// This node.
    pub id: NodeId,
    /// Whether it answers.
    pub share: bool,
    /// The TCP port at which it gives blocks away.
    pub transfer_port: u16,
}

/// Both halves of discovery.
pub struct State {
    settings: StateSettings,
    random: Random,
    clock: Clock,
    from_one: SourceLimit,
    asks: Limit,
    answers: Limit,
    asker: Asker,
    answerer: Answerer,
    put_off: Vec<(Instant, Reply)>,
    outputs: VecDeque<Output>,
}

impl State {
    /// Begins, knowing no domain: until a core told the time there are neither asks nor answers.
    #[must_use]
    pub fn new(settings: StateSettings, mut random: Random) -> Self {
        let seed = random().unwrap_or_default();
        Self {
            settings,
            random,
            clock: Clock::default(),
            from_one: SourceLimit::new(FROM_ONE, seed),
            asks: Limit::new(ASKS_FROM_ALL),
            answers: Limit::new(ANSWERS_FROM_ALL),
            asker: Asker::new(settings.id),
            answerer: Answerer::new(settings.id, settings.transfer_port),
            put_off: Vec::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes the time of a domain, in milliseconds since 1970, from one of its cores.
    pub fn handle_time(&mut self, key: KeyId, time_ms: u64, now: Instant) {
        self.clock.handle_time(key, time_ms, now);
    }

    /// Forgets a domain: its tags are neither asked for nor answered.
    pub fn handle_key_expired(&mut self, key: KeyId) {
        self.clock.handle_expired(key);
    }

    /// Returns what is known about how asks are answered.
    pub fn pace(&mut self, now: Instant) -> Pace {
        self.asker.settle(now);
        self.asker.pace
    }

    /// Asks for blocks. `round_trip` is that of the link which could give them too.
    pub fn ask(&mut self, references: Vec<Reference>, round_trip: Duration, now: Instant) -> Asked {
        let Self { clock, random, outputs, .. } = self;
        self.asker.ask(references, round_trip, (clock, random, outputs), now)
    }

    /// Takes a datagram.
    pub fn handle_datagram(&mut self, from: SocketAddr, origin: Origin, bytes: &[u8], now: Instant) {
        if let Err(reason) = self.read(from, origin, bytes, now) {
            self.outputs.push_back(Output::Refused { from, reason });
        }
    }

    /// Takes what a [`Output::LookUp`] found, an entry a tag, and how busy this node is.
    pub fn handle_found(&mut self, number: u64, found: &[Option<Found>], load: u8, now: Instant) {
        let Self { clock, random, outputs, .. } = self;
        let reply = self.answerer.handle_found(number, found, load, (clock, random, outputs), now);
        let Some(reply) = reply else { return };
        if reply.back_off.is_zero() || self.put_off.len() >= PUT_OFF_MAX {
            self.outputs.push_back(send(reply));
        } else {
            self.put_off.push((now + reply.back_off, reply));
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = self.put_off.extract_if(.., |(at, _)| *at <= now);
        self.outputs.extend(due.map(|(_, reply)| send(reply)));
    }

    /// Returns when [`State::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.put_off.iter().map(|(at, _)| *at).min()
    }

    /// Returns what to do next. To be called until there is nothing after every other call.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn read(
        &mut self,
        from: SocketAddr,
        origin: Origin,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DiscoveryRefusal> {
        if origin == Origin::Elsewhere {
            return Err(DiscoveryRefusal::OffLink);
        }
        if !self.from_one.take(from.ip(), now) {
            return Err(DiscoveryRefusal::Rate);
        }
        match Datagram::decode(bytes).map_err(|_| DiscoveryRefusal::Malformed)? {
            Datagram::Ask(ask) if ask.requester == self.settings.id => return Err(DiscoveryRefusal::Own),
            Datagram::Ask(_) if !self.settings.share => return Err(DiscoveryRefusal::NotSharing),
            Datagram::Ask(ask) if self.asks.take(now) => {
                self.answerer.handle_ask(from, ask, &mut self.clock, now, &mut self.outputs);
            }
            Datagram::Have(have) if self.answers.take(now) => {
                self.asker.handle_have(from, &have, now, &mut self.outputs);
            }
            Datagram::Ask(_) | Datagram::Have(_) => return Err(DiscoveryRefusal::Rate),
        }
        Ok(())
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn send(reply: Reply) -> Output {
    Output::Send { to: reply.to, bytes: reply.bytes, blocks: reply.blocks }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod model;
