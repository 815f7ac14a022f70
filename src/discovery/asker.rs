//! The asking half: which asks are out, and which answers to them are true.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wanigan_parsers::discovery::{Ask, AskedBlock, BLOCKS_MAX, Have};

use super::clock::Clock;
use super::limit::{Limit, Rate};
use super::pace::Pace;
use super::state::{Answer, Asked, Output, Random};
use crate::addr::NodeId;
use crate::block::{BlockHash, KeyId, Reference, Tag};
use crate::fault::DiscoveryRefusal;
use crate::proof::{self, Nonce};

/// Datagrams a node asks with.
pub(super) const OWN_ASKS: Rate = Rate { per_second: 200, burst: 64 };

/// How long an answer is taken. Longer than any wait for it: a late answer still tells who has what.
pub const ASK_LIFETIME: Duration = Duration::from_secs(1);

/// Asks that are out at once.
pub const ASKS_MAX: usize = 256;

/// Answers to one ask that are taken.
pub const ANSWERS_MAX: usize = 64;

/// What this node asked, and how it went.
#[derive(Debug)]
pub(super) struct Asker {
    id: NodeId,
    limit: Limit,
    pub(super) pace: Pace,
    asks: HashMap<Nonce, Outstanding>,
    /// The same in the order they went out, with when each is given up.
    order: VecDeque<(Instant, Nonce)>,
    rounds: VecDeque<Round>,
    next_round: u64,
}

/// One call to ask, of any number of datagrams: whether anybody answered is judged once for all of it.
#[derive(Debug)]
struct Round {
    number: u64,
    until: Instant,
}

#[derive(Debug)]
struct Outstanding {
    statement: proof::Ask,
    asked_at: Instant,
    round: u64,
    blocks: Vec<Wanted>,
    /// Who answered, and where they said to be reached.
    answers: Vec<(NodeId, SocketAddr)>,
}

#[derive(Debug)]
struct Wanted {
    reference: Reference,
    hash: BlockHash,
    tag: Tag,
    found: bool,
}

impl Asker {
    pub(super) fn new(id: NodeId) -> Self {
        Self {
            id,
            limit: Limit::new(OWN_ASKS),
            pace: Pace::default(),
            asks: HashMap::new(),
            order: VecDeque::new(),
            rounds: VecDeque::new(),
            next_round: 0,
        }
    }

    /// Asks for blocks, as many as limits allow.
    pub(super) fn ask(
        &mut self,
        mut references: Vec<Reference>,
        round_trip: Duration,
        (clock, random, outputs): (&mut Clock, &mut Random, &mut VecDeque<Output>),
        now: Instant,
    ) -> Asked {
        self.settle(now);
        let until = now + self.pace.wait(round_trip);
        if !self.pace.should_ask(now) {
            return Asked { until: now, blocks: 0, left: references };
        }
        // One datagram asks in one domain only.
        references.sort_by_key(|reference| reference.key);
        let (mut blocks, mut left) = (0, Vec::new());
        for same_key in references.chunk_by(|one, next| one.key == next.key) {
            for batch in same_key.chunks(BLOCKS_MAX) {
                match self.datagram(batch, clock, random, now) {
                    Some(bytes) => {
                        outputs.push_back(Output::Ask(bytes));
                        blocks += batch.len();
                    }
                    None => left.extend_from_slice(batch),
                }
            }
        }
        if blocks > 0 {
            self.pace.handle_asked(now);
            self.rounds.push_back(Round { number: self.next_round, until });
            self.next_round += 1;
        }
        Asked { until, blocks, left }
    }

    /// Makes the datagram that asks for some blocks of one domain, and remembers it.
    fn datagram(
        &mut self,
        references: &[Reference],
        clock: &mut Clock,
        random: &mut Random,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let key: KeyId = references.first()?.key;
        let time_ms = clock.now_ms(key, now)?;
        if self.asks.len() >= ASKS_MAX || !self.limit.take(now) {
            return None;
        }
        let statement = proof::Ask { nonce: random()?, time_ms, requester: self.id };
        let blocks: Vec<Wanted> = references.iter().map(Wanted::new).collect();
        let asked = |block: &Wanted| AskedBlock {
            tag: block.tag,
            proof: proof::ask(&block.hash, &block.tag, &statement),
        };
        let ask = Ask {
            key,
            requester: self.id,
            time_ms,
            nonce: statement.nonce,
            blocks: blocks.iter().map(asked).collect(),
        };
        let round = self.next_round;
        self.order.push_back((now + ASK_LIFETIME, statement.nonce));
        self.asks.insert(
            statement.nonce,
            Outstanding { statement, asked_at: now, round, blocks, answers: Vec::new() },
        );
        Some(ask.encode())
    }

    /// Takes an answer; `from` is where its datagram came from.
    pub(super) fn handle_have(
        &mut self,
        from: SocketAddr,
        have: &Have,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) {
        self.settle(now);
        let mut refuse = |reason| outputs.push_back(Output::Refused { from, reason });
        // A link-local address stays bound to the interface it was heard on.
        let mut addr = from;
        addr.set_port(have.port);
        let Some(ask) = self.asks.get_mut(&have.ask_nonce) else {
            return refuse(DiscoveryRefusal::Unexpected);
        };
        if have.responder == self.id {
            return refuse(DiscoveryRefusal::Own);
        }
        if ask.answers.contains(&(have.responder, addr)) {
            return refuse(DiscoveryRefusal::Unexpected);
        }
        if ask.answers.len() >= ANSWERS_MAX {
            return refuse(DiscoveryRefusal::Full);
        }
        if have.blocks.iter().any(|block| usize::from(block.index) >= ask.blocks.len()) {
            return refuse(DiscoveryRefusal::Malformed);
        }
        let (mut blocks, mut first) = (Vec::new(), 0);
        for had in &have.blocks {
            let wanted = &mut ask.blocks[usize::from(had.index)];
            let statement = proof::Have {
                ask: ask.statement,
                nonce: have.nonce,
                responder: have.responder,
                soon: had.soon,
            };
            if proof::agree(&had.proof, &proof::have(&wanted.hash, &wanted.tag, &statement)) {
                blocks.push((wanted.reference, had.soon));
                first += usize::from(!std::mem::replace(&mut wanted.found, true));
            } else {
                refuse(DiscoveryRefusal::WrongProof);
            }
        }
        if blocks.is_empty() {
            return;
        }
        let after = ask.answers.is_empty().then(|| now.saturating_duration_since(ask.asked_at));
        ask.answers.push((have.responder, addr));
        let round = ask.round;
        self.rounds.retain(|waiting| waiting.number != round);
        self.pace.handle_answered(after);
        let answer = Answer { peer: have.responder, addr, load: have.load, blocks };
        outputs.push_back(Output::Answer { answer, first });
    }

    /// Gives up what is over.
    pub(super) fn settle(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, nonce)) = self.order.pop_front() {
                self.asks.remove(&nonce);
            }
        }
        let before = self.rounds.len();
        self.rounds.retain(|round| round.until > now);
        (self.rounds.len()..before).for_each(|_| self.pace.handle_missed());
    }
}

impl Wanted {
    fn new(reference: &Reference) -> Self {
        let hash = BlockHash::of(reference);
        Self { reference: *reference, hash, tag: hash.tag(reference), found: false }
    }
}
