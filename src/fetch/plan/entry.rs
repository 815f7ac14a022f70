//! One block that is being looked for: who wants it, who may have it, who is asked; and what each flow learned of its
//! peers on the way. No I/O.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{EntryId, FlowKey};
use crate::addr::NodeId;
use crate::block::{KeyId, Named, Reference};
use crate::metrics::Source;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) reference: Reference,
    pub(super) older: Option<Named>,
    pub(super) wants: Vec<(FlowKey, u64)>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) tried: Vec<NodeId>,
    /// Edges that the core named and that did not have it after all.
    pub(super) refused: Vec<NodeId>,
    pub(super) gets: Vec<Get>,
    pub(super) asked: Asked,
    /// The flow on whose behalf the core is asked at this moment.
    pub(super) core: Option<FlowKey>,
    /// Whether the next question to the core may be answered by a referral.
    pub(super) refer: bool,
    pub(super) rounds: u32,
    /// Flows whose core does not have the block.
    pub(super) gone: Vec<FlowKey>,
    /// Until when the block may come by itself, for another flow of this node.
    pub(super) awaited: Option<Instant>,
    pub(super) timer: Option<Instant>,
    /// Whether it waits for a peer to have room.
    pub(super) is_ready: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    NotYet,
    /// The question is with the shell.
    Now,
    Until(Instant),
    Done,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) peer: NodeId,
    pub(super) name: Reference,
    /// The core named the peer for this very block; it may know it by its older name.
    pub(super) referred: bool,
    pub(super) soon: bool,
    pub(super) source: Source,
    pub(super) wait: Duration,
}

#[derive(Debug)]
pub(super) struct Get {
    pub(super) of: Candidate,
    pub(super) since: Instant,
}

#[derive(Debug, Default)]
pub(super) struct FlowState {
    /// In order, so that what ends with the flow ends in order.
    pub(super) numbers: BTreeMap<u64, EntryId>,
    pub(super) likely: Vec<Likely>,
}

/// A peer that gave a flow blocks, or proved to have some.
#[derive(Debug)]
pub(super) struct Likely {
    pub(super) peer: NodeId,
    pub(super) key: KeyId,
    pub(super) source: Source,
    pub(super) misses: u32,
}

impl Entry {
    /// Returns every name of the block, its own first.
    pub(super) fn names(&self) -> impl Iterator<Item = Reference> {
        let older = self.older.map(|older| self.reference.under(older));
        std::iter::once(self.reference).chain(older)
    }

    /// Returns a flow whose core may still have the block.
    pub(super) fn core_flow(&self) -> Option<FlowKey> {
        self.wants.iter().map(|(flow, _)| *flow).find(|flow| !self.gone.contains(flow))
    }

    pub(super) fn name(&self, key: KeyId) -> Option<Reference> {
        self.names().find(|name| name.key == key)
    }

    pub(super) fn consider(&mut self, candidate: Candidate) {
        let room = self.candidates.len() < CANDIDATES_MAX;
        match self.candidates.iter_mut().find(|known| known.peer == candidate.peer) {
            // What it has is better than what it will have.
            Some(known) if known.soon && !candidate.soon => *known = candidate,
            Some(_) => {}
            None if room => self.candidates.push(candidate),
            None => {}
        }
    }
}

impl FlowState {
    pub(super) fn expect(&mut self, peer: NodeId, key: KeyId, source: Source) {
        let room = self.likely.len() < LIKELY_MAX;
        match self.likely.iter_mut().find(|likely| likely.peer == peer) {
            Some(likely) => (likely.misses, likely.key) = (0, key),
            None if room => {
                self.likely.push(Likely { peer, key, source, misses: 0 });
            }
            None => {}
        }
    }

    pub(super) fn miss(&mut self, peer: NodeId) {
        for likely in self.likely.iter_mut().filter(|likely| likely.peer == peer) {
            likely.misses += 1;
        }
        self.likely.retain(|likely| likely.misses < MISSES_MAX);
    }
}

/// Peers considered for one block.
const CANDIDATES_MAX: usize = 8;

/// Peers remembered for one flow.
const LIKELY_MAX: usize = 8;

/// Blocks a likely peer may lack in a row before it is no longer likely.
const MISSES_MAX: u32 = 2;
