//! Where each missing block is to come from. No I/O: events and the time in, actions out.
//!
//! A block is one [`Entry`] however many flows wait for it. What is tried, in this order, and always beside a deadline:
//!
//! 1. a peer that gave this flow its other blocks lately (a flow reads one file, and who has a part has the rest);
//! 2. peers that answered an ask, the one first that will be done first: least outstanding, fastest, least loaded, one
//!    with the block before one that will have it soon. A peer has [`PEER_GETS_MAX`] requests at a time, so a large
//!    read spreads over all that have it;
//! 3. the core, which may name an edge that was sent the block ([`CoreAnswer::Refer`]): that edge, then the core again,
//!    for the bytes. A block that is on its way to that edge, or to this node for another flow, is waited for while
//!    the core says so, at most [`ROUNDS_MAX`] times.
//!
//! A peer that gives nothing for [`HEDGE_AFTER`] is left for a while, and what it owes is fetched from the core
//! beside it; whichever comes first is taken. So is a block that a peer owes for [`HEDGE_LATEST`], whatever else it
//! gives. A flow whose core no longer has the block leaves it to the others that wait; when none of them can get it
//! either, each is told that nobody can.
//!
//! Everything is bounded by what flows look ahead: so many entries, wants and requests; peers by [`PEERS_MAX`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wanigan_parsers::wan::{FETCH_NUMBERS_MAX, Referral};

mod entry;
mod standing;

use self::entry::{Asked, Candidate, Entry, FlowState, Get};
use self::standing::Peer;
pub use self::standing::{HEDGE_AFTER, HEDGE_LATEST, PEER_GETS_MAX};
use crate::addr::NodeId;
use crate::block::{Block, Named, Reference};
use crate::discovery::Answer;
use crate::fault::GetOutcome;
use crate::metrics::Source;

/// A flow of this edge, over all its links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey(pub u64);

/// One block that is being looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub u64);

/// A block that a flow needs.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// Number of its REF in the flow.
    pub number: u64,
    /// The block.
    pub reference: Reference,
    /// Its name under the core's older server secret.
    pub older: Option<Named>,
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Action {
    /// Ask by discovery, then call [`Plan::handle_asked`].
    Ask(Vec<Reference>),
    /// Request a block from a peer, then call [`Plan::handle_got`].
    Get {
        /// The block.
        entry: EntryId,
        /// Who has it.
        peer: NodeId,
        /// Where it is reached, the likeliest first.
        addresses: Vec<SocketAddr>,
        /// The names it may know the block by, the likeliest first.
        names: Vec<Reference>,
        /// How long it may wait for the block itself.
        wait: Duration,
    },
    /// Look into the store once more, then call [`Plan::handle_arrived`] if the block is there.
    Look(Reference),
    /// Give up a request.
    Cancel {
        /// The block.
        entry: EntryId,
        /// Who was asked.
        peer: NodeId,
    },
    /// Ask the core, then call [`Plan::handle_core`] for each number.
    Fetch {
        /// On behalf of this flow.
        flow: FlowKey,
        /// Whether an edge's name is as good as the bytes.
        refer: bool,
        /// The numbers in the flow, and what they stand for.
        wanted: Vec<(u64, Reference)>,
    },
    /// Keep a block that came.
    Keep(Block),
    /// Tell a flow what became of a number; `None` when nobody has the block.
    Deliver {
        /// The flow.
        flow: FlowKey,
        /// Its number.
        number: u64,
        /// The block and where it came from.
        block: Option<(Block, Source)>,
    },
}

/// What the core said of one number.
#[derive(Debug)]
pub enum CoreAnswer {
    /// The block, verified.
    Block(Block),
    /// An edge that was sent it.
    Refer(Referral),
    /// Nothing: it does not retain the block any longer, sent wrong bytes, or the link broke.
    Gone,
}

/// Decides where missing blocks come from.
#[derive(Debug)]
pub struct Plan {
    own: NodeId,
    /// Whether the other side of the link may name an edge in place of the bytes.
    refers: bool,
    entries: BTreeMap<EntryId, Entry>,
    /// Entries by each of their names.
    names: HashMap<Reference, EntryId>,
    flows: HashMap<FlowKey, FlowState>,
    peers: HashMap<NodeId, Peer>,
    /// Entries whose peers have all the requests they may have.
    ready: VecDeque<EntryId>,
    timers: BTreeSet<(Instant, EntryId)>,
    to_ask: Vec<EntryId>,
    to_fetch: Vec<EntryId>,
    actions: VecDeque<Action>,
    next_entry: u64,
}

impl Plan {
    /// Makes the plan of a node.
    #[must_use]
    pub fn new(own: NodeId) -> Self {
        Self {
            own,
            refers: true,
            entries: BTreeMap::new(),
            names: HashMap::new(),
            flows: HashMap::new(),
            peers: HashMap::new(),
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            to_ask: Vec::new(),
            to_fetch: Vec::new(),
            actions: VecDeque::new(),
            next_entry: 0,
        }
    }

    /// Makes the plan of a core for one of its edges: what an upload refers to comes from that edge alone.
    #[must_use]
    pub fn of_uploads(own: NodeId) -> Self {
        Self { refers: false, ..Self::new(own) }
    }

    /// Takes the blocks that a flow's store does not have.
    pub fn handle_want(&mut self, flow: FlowKey, wants: &[Want], now: Instant) {
        for want in wants {
            let id = match self.names.get(&want.reference) {
                Some(id) if self.entries.get(id).is_some_and(|e| e.reference == want.reference) => *id,
                _ => self.add(want),
            };
            let state = self.flows.entry(flow).or_default();
            state.numbers.insert(want.number, id);
            let entry = self.entries.get_mut(&id).expect("it was found or added");
            entry.wants.push((flow, want.number));
            for likely in &state.likely {
                if let Some(name) = entry.name(likely.key) {
                    let (peer, source) = (likely.peer, likely.source);
                    entry.consider(Candidate {
                        peer,
                        name,
                        referred: false,
                        soon: false,
                        source,
                        wait: Duration::ZERO,
                    });
                }
            }
            self.advance(id, now);
        }
        self.flush();
    }

    /// Takes the end of a flow: nothing is wanted for it any longer.
    pub fn forget_flow(&mut self, flow: FlowKey, now: Instant) {
        let Some(state) = self.flows.remove(&flow) else { return };
        for id in state.numbers.into_values() {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.wants.retain(|(of, _)| *of != flow);
            if entry.wants.is_empty() {
                self.remove(id);
            } else if entry.core == Some(flow) {
                // Its core forgets with it what it retained for it.
                entry.core = None;
                self.advance(id, now);
            }
        }
        self.pump(now);
        self.flush();
    }

    /// Takes note of an ask that went out, with the moment until which answers are waited for; `None` where discovery
    /// does not ask at this moment.
    pub fn handle_asked(&mut self, blocks: &[Reference], until: Option<Instant>, now: Instant) {
        for name in blocks {
            let Some(id) = self.names.get(name).copied() else { continue };
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            // What was to be asked may turn out not to be asked.
            if entry.asked == Asked::Now || (until.is_none() && entry.asked != Asked::NotYet) {
                entry.asked = until.map_or(Asked::Done, Asked::Until);
                self.advance(id, now);
            }
        }
        self.flush();
    }

    /// Takes a peer's verified answer.
    pub fn handle_answer(&mut self, answer: &Answer, now: Instant) {
        let Answer { peer, addr, load, .. } = *answer;
        self.meet(peer, &[addr], now).load = load;
        for (name, soon) in &answer.blocks {
            let Some(id) = self.names.get(name).copied() else { continue };
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let wait = if *soon { SOON_WAIT } else { Duration::ZERO };
            let (name, soon, source) = (*name, *soon, Source::Peer);
            entry.consider(Candidate { peer, name, referred: false, soon, source, wait });
            if !soon {
                for (flow, _) in &entry.wants {
                    let flow = self.flows.entry(*flow).or_default();
                    flow.expect(peer, name.key, source);
                }
            }
            if entry.gets.is_empty() {
                self.advance(id, now);
            }
        }
        self.flush();
    }

    /// Takes what came of [`Action::Get`].
    pub fn handle_got(&mut self, id: EntryId, peer: NodeId, got: Result<Block, GetOutcome>, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(at) = entry.gets.iter().position(|get| get.of.peer == peer) else { return };
        let Get { of, since } = entry.gets.swap_remove(at);
        let waited = !of.wait.is_zero();
        let flows: Vec<FlowKey> = entry.wants.iter().map(|(flow, _)| *flow).collect();
        let mut key = of.name.key;
        let block = match got {
            Ok(block) => {
                key = block.reference().key;
                block.under(entry.reference)
            }
            Err(outcome) => {
                if of.referred {
                    entry.rounds += u32::from(waited);
                    if !waited {
                        entry.refused.push(peer);
                    }
                    entry.refer = waited && outcome == GetOutcome::Gone && entry.rounds < ROUNDS_MAX;
                }
                self.handle_miss(peer, outcome, &flows, now);
                None
            }
        };
        self.release(peer, waited);
        if let Some(block) = block {
            if !waited {
                self.handle_service(peer, since, now);
                for flow in &flows {
                    if let Some(flow) = self.flows.get_mut(flow) {
                        flow.expect(peer, key, of.source);
                    }
                }
            }
            self.deliver(id, &block, of.source, true);
        } else {
            self.advance(id, now);
        }
        self.pump(now);
        self.flush();
    }

    /// Takes what the core said of a number of [`Action::Fetch`].
    pub fn handle_core(&mut self, flow: FlowKey, number: u64, answer: CoreAnswer, now: Instant) {
        let id = self.flows.get(&flow).and_then(|state| state.numbers.get(&number)).copied();
        let Some((id, entry)) = id.and_then(|id| Some((id, self.entries.get_mut(&id)?))) else { return };
        if entry.core == Some(flow) {
            entry.core = None;
        }
        match answer {
            CoreAnswer::Block(block) => match block.under(entry.reference) {
                Some(block) => self.deliver(id, &block, Source::Fetch, true),
                None => entry.gone.push(flow),
            },
            CoreAnswer::Gone => entry.gone.push(flow),
            CoreAnswer::Refer(referral) => self.handle_referral(id, &referral, now),
        }
        self.advance(id, now);
        self.pump(now);
        self.flush();
    }

    /// Takes a block that came to this node for a flow that had not asked.
    pub fn handle_arrived(&mut self, block: &Block, now: Instant) {
        if let Some(id) = self.names.get(block.reference()).copied()
            && let Some(entry) = self.entries.get(&id)
            && let Some(block) = block.clone().under(entry.reference)
        {
            self.deliver(id, &block, Source::Store, false);
        }
        self.pump(now);
        self.flush();
    }

    /// Goes on with what has waited long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, id));
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.timer = None;
            if matches!(entry.asked, Asked::Until(until) if until <= now) {
                entry.asked = Asked::Done;
            }
            if entry.awaited.is_some_and(|until| until <= now) {
                entry.awaited = None;
                entry.rounds += 1;
                entry.refer = entry.rounds < ROUNDS_MAX;
            }
            self.hedge(id, now);
            self.advance(id, now);
        }
        self.pump(now);
        self.flush();
    }

    /// Returns when [`Plan::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Returns the next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns the number of blocks that are being looked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether no block is being looked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns whether nothing is kept but what is known of peers: no block, no flow, no request, nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let left = self.names.len() + self.flows.len() + self.timers.len() + self.ready.len();
        let to_do = self.to_ask.len() + self.to_fetch.len() + self.actions.len();
        self.is_empty() && left + to_do == 0 && self.peers.values().all(|peer| peer.outstanding == 0)
    }

    fn add(&mut self, want: &Want) -> EntryId {
        let id = EntryId(self.next_entry);
        self.next_entry += 1;
        let Want { reference, older, .. } = *want;
        let entry = Entry {
            reference,
            older,
            wants: Vec::new(),
            candidates: Vec::new(),
            tried: Vec::new(),
            refused: Vec::new(),
            gets: Vec::new(),
            asked: Asked::NotYet,
            core: None,
            refer: self.refers,
            rounds: 0,
            gone: Vec::new(),
            awaited: None,
            timer: None,
            is_ready: false,
        };
        for name in entry.names() {
            // Its own name belongs to the entry; an older one to whoever came first.
            if name == reference {
                self.names.insert(name, id);
            } else {
                self.names.entry(name).or_insert(id);
            }
        }
        self.entries.insert(id, entry);
        id
    }

    /// Does the next thing for an entry for which nothing is under way.
    fn advance(&mut self, id: EntryId, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.gets.is_empty() && entry.awaited.is_none() {
            let mut full = false;
            let best = entry
                .candidates
                .iter()
                .filter(|candidate| !entry.tried.contains(&candidate.peer))
                .filter_map(|candidate| {
                    let peer = self.peers.get(&candidate.peer).filter(|peer| peer.is_usable(now))?;
                    let busy = candidate.wait.is_zero() && peer.outstanding >= peer.window;
                    full |= busy;
                    (!busy).then(|| (candidate.soon, peer.completion(), candidate))
                })
                .min_by_key(|(soon, completion, candidate)| (*soon, *completion, candidate.peer));
            match best.map(|(_, _, candidate)| *candidate) {
                Some(candidate) => self.get(id, candidate, now),
                None if full && entry.is_ready => {}
                None if full => {
                    entry.is_ready = true;
                    self.ready.push_back(id);
                }
                None if matches!(entry.asked, Asked::NotYet) => {
                    entry.asked = Asked::Now;
                    self.to_ask.push(id);
                }
                None if matches!(entry.asked, Asked::Done) && entry.core.is_none() => self.ask_core(id),
                None => {}
            }
        }
        self.set_timer(id);
    }

    /// Has the core asked on behalf of a flow whose core still has the block, or gives the block up.
    fn ask_core(&mut self, id: EntryId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match entry.core_flow() {
            Some(flow) => {
                entry.core = Some(flow);
                self.to_fetch.push(id);
            }
            None if entry.gets.is_empty() => self.give_up(id),
            None => {}
        }
    }

    fn get(&mut self, id: EntryId, of: Candidate, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(peer) = self.peers.get_mut(&of.peer) else { return };
        peer.outstanding += u32::from(of.wait.is_zero());
        peer.seen = now;
        entry.tried.push(of.peer);
        entry.gets.push(Get { of, since: now });
        let addresses = peer.addresses.clone();
        // What is on its way comes under the name that it has at the core.
        let older = entry.names().filter(|name| of.referred && of.wait.is_zero() && *name != of.name);
        let names = std::iter::once(of.name).chain(older).collect();
        self.actions.push_back(Action::Get { entry: id, peer: of.peer, addresses, names, wait: of.wait });
    }

    fn handle_referral(&mut self, id: EntryId, referral: &Referral, now: Instant) {
        let wait = Duration::from_millis(u64::from(referral.wait_ms)).min(REFERRAL_WAIT_MAX);
        if referral.node == self.own {
            let Some(entry) = self.entries.get_mut(&id) else { return };
            entry.awaited = Some(now + wait);
            // It may have come while the core said so.
            self.actions.push_back(Action::Look(entry.reference));
            return;
        }
        self.meet(referral.node, &referral.addresses, now);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let usable = self.peers.get(&referral.node).is_some_and(|peer| peer.is_usable(now));
        if !usable || entry.refused.contains(&referral.node) {
            entry.refer = false;
            return;
        }
        // It may have been tried before, on a guess, and have got the block since.
        entry.tried.retain(|peer| *peer != referral.node);
        let (name, referred) = (entry.reference, true);
        entry.candidates.retain(|candidate| candidate.peer != referral.node);
        let (peer, source) = (referral.node, Source::Referral);
        entry.candidates.push(Candidate { peer, name, referred, soon: false, source, wait });
    }

    /// Asks the core beside a peer that gives nothing, and prefers others for a while.
    fn hedge(&mut self, id: EntryId, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let mut late = false;
        for get in &entry.gets {
            let Some(peer) = self.peers.get_mut(&get.of.peer) else { continue };
            if peer.hedge_at(get) > now {
                continue;
            }
            late = true;
            // One that is slow with all alike gives what it can; the core only helps.
            if peer.silent_at(get) <= now || peer.passes_over(get) {
                peer.fail(AVOID_SLOW, now);
                self.flows.values_mut().for_each(|flow| flow.likely.retain(|l| l.peer != get.of.peer));
            }
        }
        if late && entry.core.is_none() {
            entry.refer = false;
            self.ask_core(id);
        }
    }

    fn handle_miss(&mut self, id: NodeId, outcome: GetOutcome, flows: &[FlowKey], now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let pause = match outcome {
            GetOutcome::Block | GetOutcome::Late | GetOutcome::Gone => {
                for flow in flows {
                    if let Some(flow) = self.flows.get_mut(flow) {
                        flow.miss(id);
                    }
                }
                return;
            }
            GetOutcome::Busy => AVOID_BUSY,
            GetOutcome::Lost => AVOID_LOST,
            GetOutcome::Wrong => SHUN,
        };
        peer.fail(pause, now);
        self.flows.values_mut().for_each(|flow| flow.likely.retain(|likely| likely.peer != id));
    }

    fn handle_service(&mut self, id: NodeId, since: Instant, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let took = now.saturating_duration_since(since);
            peer.service = Some(peer.service.map_or(took, |before| (before * 7 + took) / 8));
            peer.last_block = Some(now);
            peer.answered = peer.answered.max(Some(since));
            peer.window = (peer.window * 2).min(PEER_GETS_MAX);
            peer.strikes = 0;
        }
    }

    fn release(&mut self, peer: NodeId, waited: bool) {
        if let Some(peer) = self.peers.get_mut(&peer).filter(|_| !waited) {
            peer.outstanding = peer.outstanding.saturating_sub(1);
        }
    }

    /// Starts what waited for a peer to have room. To be called wherever a request may have ended.
    fn pump(&mut self, now: Instant) {
        let mut looked_at = 0;
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { return };
            // Those that ended while they waited are in nobody's way.
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.is_ready = false;
            self.advance(id, now);
            looked_at += 1;
            if looked_at >= PUMP {
                return;
            }
        }
    }

    fn deliver(&mut self, id: EntryId, block: &Block, source: Source, keep: bool) {
        if keep {
            self.actions.push_back(Action::Keep(block.clone()));
        }
        for (flow, number) in self.remove(id) {
            let block = Some((block.clone(), source));
            self.actions.push_back(Action::Deliver { flow, number, block });
        }
    }

    fn give_up(&mut self, id: EntryId) {
        for (flow, number) in self.remove(id) {
            self.actions.push_back(Action::Deliver { flow, number, block: None });
        }
    }

    /// Ends an entry and every request for it; returns who waited.
    fn remove(&mut self, id: EntryId) -> Vec<(FlowKey, u64)> {
        let Some(entry) = self.entries.remove(&id) else { return Vec::new() };
        for name in entry.names() {
            if self.names.get(&name) == Some(&id) {
                self.names.remove(&name);
            }
        }
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, id));
        }
        for get in &entry.gets {
            self.release(get.of.peer, !get.of.wait.is_zero());
            self.actions.push_back(Action::Cancel { entry: id, peer: get.of.peer });
        }
        for (flow, number) in &entry.wants {
            if let Some(state) = self.flows.get_mut(flow) {
                state.numbers.remove(number);
            }
        }
        entry.wants
    }

    fn set_timer(&mut self, id: EntryId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let asked = match entry.asked {
            Asked::Until(until) if entry.gets.is_empty() => Some(until),
            Asked::Until(_) | Asked::NotYet | Asked::Now | Asked::Done => None,
        };
        let hedge = entry
            .gets
            .iter()
            .filter(|_| entry.core.is_none() && entry.core_flow().is_some())
            .filter_map(|get| Some(self.peers.get(&get.of.peer)?.hedge_at(get)))
            .min();
        let timer = [asked, hedge, entry.awaited].into_iter().flatten().min();
        if timer != entry.timer {
            if let Some(before) = entry.timer {
                self.timers.remove(&(before, id));
            }
            if let Some(at) = timer {
                self.timers.insert((at, id));
            }
            entry.timer = timer;
        }
    }

    /// Puts together what one event wants to ask.
    fn flush(&mut self) {
        let asks: Vec<Reference> = std::mem::take(&mut self.to_ask)
            .into_iter()
            .filter_map(|id| self.entries.get(&id))
            .flat_map(Entry::names)
            .collect();
        if !asks.is_empty() {
            self.actions.push_back(Action::Ask(asks));
        }
        let mut fetches: BTreeMap<(FlowKey, bool), Vec<(u64, Reference)>> = BTreeMap::new();
        for id in std::mem::take(&mut self.to_fetch) {
            let Some(entry) = self.entries.get(&id) else { continue };
            let Some(flow) = entry.core else { continue };
            let number = entry.wants.iter().find(|(of, _)| *of == flow).map(|(_, number)| *number);
            if let Some(number) = number {
                fetches.entry((flow, entry.refer)).or_default().push((number, entry.reference));
            }
        }
        for ((flow, refer), wanted) in fetches {
            for wanted in wanted.chunks(FETCH_NUMBERS_MAX) {
                self.actions.push_back(Action::Fetch { flow, refer, wanted: wanted.to_vec() });
            }
        }
    }

    /// Notes where a peer is reached.
    fn meet(&mut self, id: NodeId, addresses: &[SocketAddr], now: Instant) -> &mut Peer {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&id) {
            let idle = |(_, peer): &(&NodeId, &Peer)| peer.outstanding == 0;
            let oldest = self.peers.iter().filter(idle).min_by_key(|(id, peer)| (peer.seen, **id));
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.peers.remove(&oldest);
            }
        }
        let peer = self.peers.entry(id).or_insert_with(|| Peer {
            addresses: Vec::new(),
            load: 0,
            outstanding: 0,
            service: None,
            last_block: None,
            answered: None,
            avoided_until: None,
            window: PEER_GETS_MAX,
            strikes: 0,
            seen: now,
        });
        peer.seen = now;
        if !addresses.is_empty() {
            peer.addresses = addresses.to_vec();
        }
        peer
    }
}

/// How often the core may say that a block is still on its way to another edge.
pub const ROUNDS_MAX: u32 = 20;

/// Peers that are remembered.
pub const PEERS_MAX: usize = 1024;

/// How long a peer is asked for nothing after it sent bytes that are not the block.
const SHUN: Duration = Duration::from_secs(600);

/// How long the first time that it was too slow, lost, or too busy (see [`Peer::fail`]).
const AVOID_SLOW: Duration = Duration::from_secs(1);
const AVOID_LOST: Duration = Duration::from_secs(1);
const AVOID_BUSY: Duration = Duration::from_millis(250);

/// How long a peer that said "soon" is waited for.
const SOON_WAIT: Duration = Duration::from_secs(1);

/// The longest wait that a referral may ask for.
const REFERRAL_WAIT_MAX: Duration = Duration::from_secs(2);

/// Waiting entries looked at after an event.
const PUMP: usize = 64;

#[cfg(test)]
mod tests;
