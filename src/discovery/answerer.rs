//! The answering half: which asks are looked up, and what is said to whom.
//!
//! Silence is the answer to everything but a fresh ask with a right proof, so whoever lacks a block's hash learns
//! nothing, not even that the tag is known here.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wanigan_parsers::discovery::{Ask, HadBlock, Have};

use super::clock::Clock;
use super::state::{Found, Output, Random};
use crate::addr::NodeId;
use crate::block::BlockHash;
use crate::fault::DiscoveryRefusal;
use crate::proof::{self, Nonce};

/// Asks that are being looked up at once.
pub const LOOK_UPS_MAX: usize = 64;

/// After this long a look-up is given up: nobody waits for its answer.
pub const LOOK_UP_LIFETIME: Duration = Duration::from_secs(1);

/// How long copies of an answered ask are taken for what the network doubled (an ask goes out over IPv4, IPv6 and to
/// listed peers) and not for somebody's replay.
pub const COPIES_WITHIN: Duration = Duration::from_secs(1);

/// Answered asks whose copies are recognised.
pub const COPIES_MAX: usize = 256;

/// Peers heard lately from which on answers are spread over [`BACK_OFF_MAX`], so that a crowd does not answer at once.
pub const CROWD: usize = 16;

/// The longest an answer is put off.
pub const BACK_OFF_MAX: Duration = Duration::from_millis(2);

/// For how long a peer that was heard counts as one of the crowd.
const HEARD_WITHIN: Duration = Duration::from_secs(60);

/// What this node is being asked.
#[derive(Debug)]
pub(super) struct Answerer {
    id: NodeId,
    port: u16,
    look_ups: Vec<LookUp>,
    next_look_up: u64,
    answered: VecDeque<(Instant, NodeId, Nonce)>,
    /// At most [`CROWD`] peers whose proofs were right, and when.
    heard: Vec<(NodeId, Instant)>,
}

#[derive(Debug)]
struct LookUp {
    number: u64,
    from: SocketAddr,
    ask: Ask,
    began_at: Instant,
}

/// An answer, and how long it is put off.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
    pub(super) back_off: Duration,
    pub(super) blocks: usize,
}

impl Answerer {
    pub(super) fn new(id: NodeId, port: u16) -> Self {
        Self { id, port, look_ups: Vec::new(), next_look_up: 0, answered: VecDeque::new(), heard: Vec::new() }
    }

    /// Takes an ask that came within the limits, and has its tags looked up if it is fresh.
    pub(super) fn handle_ask(
        &mut self,
        from: SocketAddr,
        ask: Ask,
        clock: &mut Clock,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) {
        self.settle(now);
        let fresh = clock.check(ask.key, &statement(&ask), now);
        if self.is_copy(&ask) {
            return;
        }
        if let Err(reason) = fresh {
            return outputs.push_back(Output::Refused { from, reason });
        }
        if self.look_ups.len() >= LOOK_UPS_MAX {
            return outputs.push_back(Output::Refused { from, reason: DiscoveryRefusal::Full });
        }
        let number = self.next_look_up;
        self.next_look_up += 1;
        let tags = ask.blocks.iter().map(|block| block.tag).collect();
        outputs.push_back(Output::LookUp { number, key: ask.key, tags });
        self.look_ups.push(LookUp { number, from, ask, began_at: now });
    }

    /// Takes what was found of an ask, in its order, and returns the answer if it deserves one.
    pub(super) fn handle_found(
        &mut self,
        number: u64,
        found: &[Option<Found>],
        load: u8,
        (clock, random, outputs): (&mut Clock, &mut Random, &mut VecDeque<Output>),
        now: Instant,
    ) -> Option<Reply> {
        self.settle(now);
        let at = self.look_ups.iter().position(|look_up| look_up.number == number)?;
        let LookUp { from, ask, .. } = self.look_ups.swap_remove(at);
        let nonce = random()?;
        let mut blocks = Vec::new();
        let mut refuse = |reason| outputs.push_back(Output::Refused { from, reason });
        for (index, found) in (0..).zip(found) {
            let Some(found) = found else { continue };
            match self.prove(&ask, index, found, nonce) {
                Some(block) => blocks.push(block),
                None => refuse(DiscoveryRefusal::WrongProof),
            }
        }
        if blocks.is_empty() {
            return None;
        }
        // Meanwhile another ask with the same nonce may have been answered, or the key have expired.
        if let Err(reason) = clock.check(ask.key, &statement(&ask), now) {
            refuse(reason);
            return None;
        }
        clock.record(ask.key, &statement(&ask), now);
        self.note_answered(&ask, now);
        let blocks_count = blocks.len();
        let have = Have { responder: self.id, nonce, ask_nonce: ask.nonce, port: self.port, load, blocks };
        let bytes = have.encode();
        debug_assert!(bytes.len() <= ask.encode().len(), "no reflection pays");
        Some(Reply { to: from, bytes, back_off: self.back_off(nonce), blocks: blocks_count })
    }

    /// Checks the requester's proof for a block that is here, and returns ours.
    fn prove(&self, ask: &Ask, index: u8, found: &Found, nonce: Nonce) -> Option<HadBlock> {
        let asked = ask.blocks.get(usize::from(index))?;
        let hash = BlockHash::of(&found.reference);
        if hash.tag(&found.reference) != asked.tag || found.reference.key != ask.key {
            return None;
        }
        let ask = statement(ask);
        if !proof::agree(&asked.proof, &proof::ask(&hash, &asked.tag, &ask)) {
            return None;
        }
        let have = proof::Have { ask, nonce, responder: self.id, soon: found.soon };
        Some(HadBlock { index, soon: found.soon, proof: proof::have(&hash, &asked.tag, &have) })
    }

    /// Returns whether the network brought an ask again that is being looked up or was just answered.
    fn is_copy(&self, ask: &Ask) -> bool {
        // One that is looked up has proved nothing yet, so that only the very same bytes count as its copy.
        self.look_ups.iter().any(|look_up| look_up.ask == *ask)
            || self
                .answered
                .iter()
                .any(|(_, requester, nonce)| (*requester, *nonce) == (ask.requester, ask.nonce))
    }

    fn note_answered(&mut self, ask: &Ask, now: Instant) {
        if self.answered.len() >= COPIES_MAX {
            self.answered.pop_front();
        }
        self.answered.push_back((now, ask.requester, ask.nonce));
        if let Some((_, at)) = self.heard.iter_mut().find(|(peer, _)| *peer == ask.requester) {
            *at = now;
        } else if self.heard.len() < CROWD {
            self.heard.push((ask.requester, now));
        }
    }

    /// Returns how long an answer is put off: not at all, unless so many peers are about that all at once would be lost.
    fn back_off(&self, nonce: Nonce) -> Duration {
        if self.heard.len() < CROWD {
            return Duration::ZERO;
        }
        // Any bytes of the nonce will do: it is random, and everybody may know for how long an answer was put off.
        BACK_OFF_MAX * u32::from(nonce[0]) / 256
    }

    fn settle(&mut self, now: Instant) {
        let within = |at: Instant, limit: Duration| now.saturating_duration_since(at) < limit;
        self.look_ups.retain(|look_up| within(look_up.began_at, LOOK_UP_LIFETIME));
        self.answered.retain(|(at, ..)| within(*at, COPIES_WITHIN));
        self.heard.retain(|(_, at)| within(*at, HEARD_WITHIN));
    }
}

fn statement(ask: &Ask) -> proof::Ask {
    proof::Ask { nonce: ask.nonce, time_ms: ask.time_ms, requester: ask.requester }
}
