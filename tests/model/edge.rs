//! One edge: the plan with a store, and what an edge's shells do between the state machines.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wanigan::addr::NodeId;
use wanigan::block::{Block, Digest, KeyId, Reference, Tag, tag};
use wanigan::discovery::state::{State, StateSettings};
use wanigan::fetch::plan::{Action, EntryId, FlowKey, Plan, ROUNDS_MAX};
use wanigan::metrics::Source;
use wanigan::peer::Waiting;
use wanigan::wan::numbering::{Numbered, Numbers};

use crate::dice::Dice;
use crate::lan::address;
use crate::transfer::ConnId;
use crate::world::{Event, Life, World};

/// The port of every edge.
pub(crate) const PORT: u16 = 7747;

/// How an edge treats others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// As it should.
    None,
    /// Gives other bytes than it was asked for.
    Forges,
    /// Says that it has nothing after all.
    Denies,
    /// Gives some blocks, and to some requests no answer ever.
    Withholds,
    /// Says that it has every block that it was told of.
    Boasts,
    /// Says that it will have every block soon, and lets whoever waits wait.
    Promises,
}

/// An edge. Everything but its identity, its place and its ways ends with its life.
pub(crate) struct Edge {
    pub(crate) at: usize,
    pub(crate) number: u64,
    pub(crate) id: NodeId,
    pub(crate) lan: u8,
    pub(crate) address: SocketAddr,
    pub(crate) shares: bool,
    pub(crate) lie: Lie,
    pub(crate) round_trip: Duration,
    pub(crate) is_up: bool,
    pub(crate) plan: Plan,
    pub(crate) state: State,
    pub(crate) store: Store,
    pub(crate) soon: BTreeMap<(KeyId, Tag), Reference>,
    pub(crate) waiting: Waiting,
    /// Connections that this edge made.
    pub(crate) connections: BTreeMap<NodeId, ConnId>,
    pub(crate) running: BTreeMap<(EntryId, NodeId), Running>,
    pub(crate) flows: BTreeMap<FlowKey, u64>,
    pub(crate) wants: BTreeMap<(FlowKey, u64), Wanting>,
    /// Blocks that the core of a flow said it does not have, or did not give.
    pub(crate) gone: BTreeSet<(FlowKey, Digest)>,
    /// Requests ever made for a block: without and with a wait.
    gets: BTreeMap<(EntryId, NodeId), (u32, u32)>,
    pub(crate) fetching: BTreeSet<(FlowKey, u64)>,
    /// Numbers of its links, by core: those that the core gave, and those that came.
    pub(crate) links: BTreeMap<usize, (Arc<Numbers>, Arc<Numbered>)>,
}

/// A want of a flow.
#[derive(Clone, Copy)]
pub(crate) struct Wanting {
    pub(crate) reference: Reference,
    pub(crate) since: Instant,
    /// Questions to the core.
    fetches: u32,
}

/// Where a request of the plan is.
#[derive(Clone, Copy)]
pub(crate) struct Running {
    pub(crate) connection: ConnId,
    pub(crate) mark: u64,
    /// Its number on the connection, once that stands.
    pub(crate) number: Option<u32>,
}

impl Edge {
    pub(crate) fn new(at: usize, number: u64, lan: u8, dice: &mut Dice) -> Self {
        let byte = u8::try_from(at).expect("few edges");
        let id = NodeId([byte + 1; 32]);
        let mut nonces = Dice::new(dice.next());
        let settings = StateSettings { id, share: true, transfer_port: PORT };
        Self {
            at,
            number,
            id,
            lan,
            address: address(lan, byte),
            shares: true,
            lie: Lie::None,
            round_trip: Duration::from_millis(20),
            is_up: true,
            plan: Plan::new(id),
            state: State::new(settings, Box::new(move || Some(nonces.bytes()))),
            store: Store::default(),
            soon: BTreeMap::new(),
            waiting: Waiting::new(),
            connections: BTreeMap::new(),
            running: BTreeMap::new(),
            flows: BTreeMap::new(),
            wants: BTreeMap::new(),
            gone: BTreeSet::new(),
            gets: BTreeMap::new(),
            fetching: BTreeSet::new(),
            links: BTreeMap::new(),
        }
    }

    /// The same edge with everything forgotten.
    pub(crate) fn reborn(&self, dice: &mut Dice) -> Self {
        let Self { shares, lie, round_trip, .. } = *self;
        let mut edge =
            Self { shares, lie, round_trip, ..Self::new(self.at, self.number + 1, self.lan, dice) };
        edge.set_sharing(shares, dice);
        edge
    }

    pub(crate) fn set_sharing(&mut self, shares: bool, dice: &mut Dice) {
        let mut nonces = Dice::new(dice.next());
        self.shares = shares;
        let settings = StateSettings { id: self.id, share: shares, transfer_port: PORT };
        self.state = State::new(settings, Box::new(move || Some(nonces.bytes())));
    }

    pub(crate) fn life(&self) -> Life {
        Life { edge: self.at, number: self.number }
    }

    /// Returns whether nothing is left of anything that was wanted or served.
    pub(crate) fn check_idle(&self) {
        let name = self.at;
        assert!(self.plan.is_idle(), "edge {name}: {:#?}", self.plan);
        assert!(self.plan.poll_timeout().is_none(), "edge {name} waits for nothing");
        assert!(self.wants.is_empty() && self.running.is_empty() && self.fetching.is_empty());
        assert!(self.flows.is_empty() && self.soon.is_empty(), "edge {name}: {:?}", self.flows);
        assert!(self.state.poll_timeout().is_none(), "edge {name} has an answer left");
        assert!(self.waiting.is_empty(), "edge {name}: {:?}", self.waiting);
    }
}

impl World {
    /// Does everything that an edge wants to do at this moment.
    pub(crate) fn run_edge(&mut self, at: usize) {
        for turn in 0.. {
            assert!(turn < 100_000, "edge {at} never has enough");
            if let Some(action) = self.edges[at].plan.poll_action() {
                self.act(at, action);
            } else if !self.run_discovery(at) {
                break;
            }
        }
        let edge = &self.edges[at];
        assert!(edge.plan.len() <= edge.wants.len(), "more is looked for than is wanted");
        assert!(edge.waiting.len() <= 1_000 && edge.running.len() <= 1_000);
    }

    fn act(&mut self, at: usize, action: Action) {
        let now = self.now;
        self.trace(|| format!("edge {at}: {action:?}"));
        match action {
            Action::Ask(blocks) => self.ask(at, blocks),
            Action::Get { entry, peer, addresses, names, wait } => {
                let counts = self.edges[at].gets.entry((entry, peer)).or_default();
                let count = if wait.is_zero() { &mut counts.0 } else { &mut counts.1 };
                *count += 1;
                // One on a guess or an answer, and one when the core names the peer.
                assert!(counts.0 <= 2 && counts.1 <= ROUNDS_MAX + 1, "{counts:?} requests for one block");
                for name in &names {
                    let given = self.truth.find_given(self.edges[at].id, name.key, tag(name));
                    assert!(given == Some(*name), "a request for what the edge was not told of");
                }
                self.get(at, (entry, peer), &addresses, names, wait);
            }
            Action::Look(reference) => {
                let (life, after) = (self.edges[at].life(), self.dice.micros(10..2_000));
                self.after(after, Event::Look { life, reference });
            }
            Action::Cancel { entry, peer } => self.cancel(at, entry, peer),
            Action::Fetch { flow, refer, wanted } => {
                let edge = &mut self.edges[at];
                for (number, reference) in &wanted {
                    let wanting = edge.wants.get_mut(&(flow, *number)).expect("the core is asked for wants");
                    wanting.fetches += 1;
                    let limit = 2 * ROUNDS_MAX + 8;
                    assert!(wanting.fetches <= limit, "the core is asked again and again");
                    assert_eq!(wanting.reference, *reference);
                    assert!(edge.fetching.insert((flow, *number)), "the core is asked twice at once");
                    if !refer {
                        edge.soon.insert((reference.key, tag(reference)), *reference);
                    }
                }
                self.fetch(at, flow, refer, wanted);
            }
            Action::Keep(block) => self.keep(at, block, false),
            Action::Deliver { flow, number, block } => {
                let edge = &mut self.edges[at];
                let wanting = edge.wants.remove(&(flow, number)).expect("each want of a live flow ends once");
                match &block {
                    Some((block, source)) => {
                        self.truth.check_block(block);
                        assert_eq!(*block.reference(), wanting.reference);
                        self.delivered[usize::from(*source == Source::Fetch)] += 1;
                        let took = now - wanting.since;
                        self.longest = self.longest.max(took);
                    }
                    None => {
                        let gone = edge.gone.contains(&(flow, wanting.reference.digest));
                        assert!(gone, "a block is given up that the core did not refuse");
                    }
                }
                let flow = edge.flows[&flow];
                self.handle_fetched(flow, number, block);
            }
        }
    }

    fn ask(&mut self, at: usize, blocks: Vec<Reference>) {
        let (now, edge) = (self.now, &mut self.edges[at]);
        let pace = edge.state.pace(now);
        if !pace.should_ask(now) {
            return edge.plan.handle_asked(&blocks, None, now);
        }
        let until = now + pace.wait(edge.round_trip);
        edge.plan.handle_asked(&blocks, Some(until), now);
        let asked = edge.state.ask(blocks, edge.round_trip, now);
        if !asked.left.is_empty() {
            edge.plan.handle_asked(&asked.left, None, now);
        }
    }

    /// Wants blocks for a flow.
    pub(crate) fn want(&mut self, at: usize, key: FlowKey, wants: &[wanigan::fetch::plan::Want]) {
        let (now, edge) = (self.now, &mut self.edges[at]);
        for want in wants {
            let wanting = Wanting { reference: want.reference, since: now, fetches: 0 };
            assert!(edge.wants.insert((key, want.number), wanting).is_none());
        }
        edge.plan.handle_want(key, wants, now);
    }

    /// Takes a block into the store and tells who waits for it. `news` says whether the plan has not heard of it.
    pub(crate) fn keep(&mut self, at: usize, block: Block, news: bool) {
        self.truth.check_block(&block);
        let edge = &mut self.edges[at];
        if !edge.waiting.is_empty() {
            edge.waiting.handle_block(&block);
            self.serve_all_of(at);
        }
        let edge = &mut self.edges[at];
        if news && !edge.plan.is_empty() {
            let life = edge.life();
            let after = self.dice.micros(1..1_000);
            self.after(after, Event::Arrived { life, block: block.clone() });
        }
        self.edges[at].store.put(block);
    }

    /// Looks whether anybody waits longer than anything excuses.
    pub(crate) fn check_waits(&self) {
        for edge in &self.edges {
            for ((flow, number), wanting) in &edge.wants {
                assert!(
                    self.now < wanting.since + self.settings.patience,
                    "edge {}, {flow:?}, number {number} waits since {:?}: {:#?}",
                    edge.at,
                    wanting.since - self.start,
                    edge.plan
                );
            }
        }
    }
}

/// A store of a few lines.
#[derive(Default)]
pub(crate) struct Store {
    blocks: HashMap<Reference, Block>,
    tags: HashMap<(KeyId, Tag), Reference>,
    /// In the order they came.
    order: Vec<Reference>,
}

impl Store {
    pub(crate) fn put(&mut self, block: Block) {
        let reference = *block.reference();
        if self.blocks.insert(reference, block).is_none() {
            self.tags.insert((reference.key, tag(&reference)), reference);
            self.order.push(reference);
        }
    }

    pub(crate) fn get(&self, reference: &Reference) -> Option<Block> {
        self.blocks.get(reference).cloned()
    }

    pub(crate) fn find(&self, key: KeyId, tag: Tag) -> Option<Reference> {
        self.tags.get(&(key, tag)).copied()
    }

    pub(crate) fn references(&self) -> Vec<Reference> {
        self.order.clone()
    }

    pub(crate) fn evict(&mut self, mut is_lost: impl FnMut(&Reference) -> bool) {
        self.order.retain(|reference| {
            let lost = is_lost(reference);
            if lost {
                self.blocks.remove(reference);
                self.tags.remove(&(reference.key, tag(reference)));
            }
            !lost
        });
    }

    pub(crate) fn expire(&mut self, key: KeyId) {
        self.evict(|reference| reference.key == key);
    }
}
