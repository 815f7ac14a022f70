//! Cores and flows: the core's sending half with its minter, the edge's receiving half, and the link between them.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::IntGauge;
use wanigan::block::{Block, KeyId, Naming, Reference, ServerSecret, tag};
use wanigan::budget::Budget;
use wanigan::fetch::plan::{CoreAnswer, FlowKey, Want};
use wanigan::flow::minter::Minter;
use wanigan::flow::receiving::{Output, Receiving, Wanted, Written};
use wanigan::flow::sending::Sending;
use wanigan::flow::window::Window;
use wanigan::matching::Knowledge;
use wanigan::matching::matcher::CELL_BYTES;
use wanigan::matching::matcher::Matcher;
use wanigan::metrics::Source;
use wanigan::pki::SiteName;
use wanigan::referral::{Holder, Holders, Neighbours};
use wanigan::shim::Span;
use wanigan::wan::FetchAnswer;
use wanigan_parsers::wan::Frame;

use crate::world::{Event, Life, Op, World};

/// A core.
pub(crate) struct Core {
    holders: Arc<Holders>,
    naming: Arc<RwLock<Naming>>,
    expired: Vec<KeyId>,
    /// Its clock is so much ahead.
    pub(crate) ahead_ms: u64,
    budget: Budget,
}

/// One flow, both ends.
pub(crate) struct Flow {
    life: Life,
    core: usize,
    key: FlowKey,
    round_trip: Duration,
    /// Blocks that the content server is yet to give.
    script: VecDeque<(usize, usize)>,
    /// Gone when the core's end is.
    sending: Option<Sending>,
    receiving: Receiving,
    budget: Budget,
    /// What the client is yet to get, of what the server gave.
    expected: VecDeque<Bytes>,
    finished: bool,
    /// When the last frame arrives at the edge.
    last: Instant,
    /// Its core answers no question any more.
    is_deaf: bool,
}

/// A question to the core on its way.
pub(crate) struct Question {
    life: Life,
    key: FlowKey,
    flow: u64,
    refer: bool,
    wanted: Vec<(u64, Reference)>,
    round_trip: Duration,
}

/// One answer on its way back.
pub(crate) struct Reply {
    life: Life,
    key: FlowKey,
    number: u64,
    reference: Reference,
    answer: FetchAnswer,
    refer: bool,
}

const MEMORY: u64 = 64 << 20;

impl Core {
    pub(crate) fn new(secret: u8, ahead_ms: u64) -> Self {
        let naming = Naming { current: ServerSecret::new([secret; 32]), older: None };
        let group = ["lan0", "lan1"].map(|site| site.parse().expect("a site"));
        Self {
            holders: Arc::new(Holders::new(100_000, vec![group.to_vec()])),
            naming: Arc::new(RwLock::new(naming)),
            expired: Vec::new(),
            ahead_ms,
            budget: budget(),
        }
    }

    /// Returns the keys that are good, and those that are not any longer.
    pub(crate) fn keys(&self) -> (Vec<KeyId>, Vec<KeyId>) {
        let naming = self.naming.read().unwrap_or_else(PoisonError::into_inner);
        let older = naming.older.as_ref().map(ServerSecret::id);
        (std::iter::once(naming.current.id()).chain(older).collect(), self.expired.clone())
    }

    pub(crate) fn rotate(&mut self, secret: u8) {
        let mut naming = self.naming.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut naming.current, ServerSecret::new([secret; 32]));
        self.expired.extend(naming.older.replace(before).map(|older| older.id()));
    }

    pub(crate) fn expire(&mut self) {
        let mut naming = self.naming.write().unwrap_or_else(PoisonError::into_inner);
        self.expired.extend(naming.older.take().map(|older| older.id()));
    }

    fn holder(&self, world_edge: &crate::edge::Edge) -> Arc<Holder> {
        let site: SiteName = format!("lan{}", world_edge.lan).parse().expect("a site");
        self.holders.of(world_edge.id, &site).expect("few edges")
    }

    /// Notes that a link to an edge stands.
    pub(crate) fn handle_up(&self, edge: &crate::edge::Edge) {
        let holder = self.holder(edge);
        let mut store = [0; 16];
        store[0] = u8::try_from(edge.at).expect("few edges");
        store[8..].copy_from_slice(&edge.number.to_be_bytes());
        holder.record().handle_store(store);
        self.holders.handle_up(&holder, edge.shares, true);
        self.holders.handle_reached(&holder, vec![edge.address]);
    }

    pub(crate) fn handle_down(&self, edge: &crate::edge::Edge) {
        self.holders.handle_down(&self.holder(edge));
    }

    pub(crate) fn check_idle(&self, world: &World) {
        assert_eq!(self.budget.free(), MEMORY, "a core retains something");
        for edge in &world.edges {
            let holder = self.holder(edge);
            for block in world.truth.files.iter().flatten() {
                let known = holder.record().knows(&wanigan::block::digest(block));
                assert_ne!(known, Knowledge::OnTheWay, "a block is on its way to edge {} for ever", edge.at);
            }
        }
    }
}

impl Flow {
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let sending = self.sending.as_ref().and_then(Sending::poll_timeout);
        [sending, self.receiving.poll_timeout()].into_iter().flatten().min()
    }
}

impl World {
    /// Opens a flow that reads `script` through an edge.
    pub(crate) fn open(&mut self, at: usize, core: usize, script: VecDeque<(usize, usize)>) -> Option<u64> {
        if !self.edges[at].is_up {
            return None;
        }
        let id = self.mark();
        let (edge, now) = (&mut self.edges[at], self.now);
        let key = FlowKey(id);
        edge.flows.insert(key, id);
        let budget = budget();
        let (numbers, numbered) = edge.links.entry(core).or_default().clone();
        let receiving = Receiving::new(Window::open(&budget).expect("room for one"), &budget, numbered);
        let core_ref = &self.cores[core];
        let holder = core_ref.holder(edge);
        let neighbours = Neighbours::new(Arc::clone(&core_ref.holders), holder, 0);
        let minter = Minter::Core { naming: Arc::clone(&core_ref.naming), neighbours, numbers };
        let sending = Sending::new(
            Some(minter),
            Matcher::alone(&core_ref.budget),
            &core_ref.budget,
            1 << 20,
            receiving.credit(),
            now,
        );
        let (life, round_trip) = (edge.life(), edge.round_trip);
        let flow = Flow {
            life,
            core,
            key,
            round_trip,
            script,
            sending: Some(sending),
            receiving,
            budget,
            expected: VecDeque::new(),
            finished: false,
            last: now,
            is_deaf: false,
        };
        self.flows.insert(id, flow);
        self.opened += 1;
        self.after(round_trip, Event::ServerGives { flow: id });
        Some(id)
    }

    /// The content server gives the next block to the core.
    pub(crate) fn handle_server(&mut self, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let Some(sending) = flow.sending.as_mut().filter(|sending| !sending.is_ended()) else { return };
        let mut after = Duration::from_millis(2);
        if sending.wants_input() {
            match flow.script.pop_front() {
                Some((file, block)) => {
                    let bytes = self.truth.files[file][block].clone();
                    let span = Span::content(bytes.len(), (block * CELL_BYTES) as u64, true);
                    flow.expected.push_back(bytes.clone());
                    sending.handle_input(bytes, &[span], self.now);
                    after = self.dice.micros(50..2_000);
                }
                None => sending.handle_end(),
            }
        }
        self.after(after, Event::ServerGives { flow: id });
        self.send_frames(id);
    }

    pub(crate) fn send_frames(&mut self, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let (edge, half) = (self.edges[flow.life.edge].id, flow.round_trip / 2);
        let mut frames = Vec::new();
        while let Some(frame) = flow.sending.as_mut().and_then(Sending::poll_frame) {
            match &frame {
                Frame::Data { reference, bytes, .. } => {
                    self.truth.wan_bytes += bytes.len();
                    self.truth.give(edge, *reference);
                }
                Frame::Ref { reference, older, .. } => {
                    self.truth.give(edge, *reference);
                    if let Some(older) = older {
                        self.truth.give(edge, reference.under(*older));
                    }
                }
                Frame::Run { count, .. } => self.numbered += usize::from(*count),
                Frame::Slice { .. } => self.numbered += 1,
                _ => {}
            }
            frames.push(frame);
        }
        for frame in frames {
            // Streams are apart: what is lost on one holds up that one.
            let held_up = self.dice.chance(self.settings.held_up);
            let late = if held_up { self.dice.micros(5_000..400_000) } else { Duration::ZERO };
            let Some(flow) = self.flows.get_mut(&id) else { return };
            flow.last = flow.last.max(self.now + half + late);
            let at = flow.last;
            self.at(at, Event::Frame { flow: id, frame });
        }
    }

    pub(crate) fn handle_frame(&mut self, id: u64, frame: Frame<Bytes>) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.receiving.handle_frame(frame, self.now).expect("a core sends nothing wrong");
            self.run_flow(id);
        }
    }

    /// Carries out what the edge's half of a flow wants.
    pub(crate) fn run_flow(&mut self, id: u64) {
        while let Some(flow) = self.flows.get_mut(&id)
            && let Some(output) = flow.receiving.poll_output()
        {
            let (at, key, half) = (flow.life.edge, flow.key, flow.round_trip / 2);
            match output {
                Output::LookUp(wanted) => {
                    let after = self.dice.micros(10..1_500);
                    self.after(after, Event::StoreLooks { flow: id, wanted });
                }
                Output::Fetch(wanted) => {
                    let want = |Wanted { number, reference, older }| Want { number, reference, older };
                    let wants: Vec<Want> = wanted.into_iter().map(want).collect();
                    self.want(at, key, &wants);
                }
                Output::Store(block) => self.keep(at, block, true),
                Output::Write(Written { bytes, source, .. }) => {
                    let expected = flow.expected.pop_front();
                    assert!(expected.as_ref() == Some(&bytes), "the client gets other bytes");
                    if let Some(Source::Peer | Source::Referral) = source {
                        self.from_peers += 1;
                    }
                    let slow = self.dice.chance(20);
                    let after = self.dice.micros(if slow { 10_000..200_000 } else { 10..500 });
                    self.after(after, Event::Written { flow: id, bytes: bytes.len() });
                }
                Output::Progress { resolved, blocks, credit } => {
                    self.after(half, Event::Progress { flow: id, totals: (resolved, blocks, credit) });
                }
                Output::SealMissed => unreachable!("there is memory for all"),
                Output::Finish => flow.finished = true,
                Output::Opened(_) | Output::Reset => unreachable!("nothing is dialled or reset here"),
            }
        }
        self.end_if_done(id);
    }

    pub(crate) fn handle_store_looks(&mut self, id: u64, wanted: Wanted) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let store = &mut self.edges[flow.life.edge].store;
        let block = store.get(&wanted.reference).or_else(|| {
            let block = store.get(&wanted.reference.under(wanted.older?))?.under(wanted.reference)?;
            store.put(block.clone());
            Some(block)
        });
        flow.receiving.handle_looked_up(wanted.number, block, self.now);
        self.run_flow(id);
    }

    pub(crate) fn handle_written(&mut self, id: u64, bytes: usize) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.receiving.handle_written(bytes, self.now);
            self.run_flow(id);
        }
    }

    pub(crate) fn handle_progress(&mut self, id: u64, (resolved, blocks, credit): (u64, u64, u64)) {
        if let Some(sending) = self.flows.get_mut(&id).and_then(|flow| flow.sending.as_mut()) {
            sending.handle_progress(resolved, blocks, credit);
            self.send_frames(id);
            self.end_if_done(id);
        }
    }

    pub(crate) fn time_out_flow(&mut self, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if let Some(sending) = &mut flow.sending {
            sending.handle_timeout(self.now);
        }
        flow.receiving.handle_timeout(self.now);
        self.send_frames(id);
        self.run_flow(id);
    }

    /// What the plan says of a number.
    pub(crate) fn handle_fetched(&mut self, id: u64, number: u64, block: Option<(Block, Source)>) {
        let flow = self.flows.get_mut(&id).expect("a live flow");
        match flow.receiving.handle_fetched(number, block, self.now) {
            Ok(()) => self.run_flow(id),
            // The flow is reset, and the fetcher hears of it a little later.
            Err(_) => {
                let after = self.dice.micros(10..1_000);
                self.after(after, Event::Script(Op::HangUp { flow: id }));
            }
        }
    }

    /// The client hangs up, or the flow was reset.
    pub(crate) fn end(&mut self, id: u64) {
        let Some(flow) = self.flows.remove(&id) else { return };
        let (key, life, half) = (flow.key, flow.life, flow.round_trip / 2);
        self.forget(life, key);
        if let Some(sending) = flow.sending {
            self.after(half, Event::CoreForgets { sending: Box::new(sending) });
        }
        drop(flow.receiving);
        assert_eq!(flow.budget.free(), MEMORY, "a flow's memory did not come back");
    }

    fn end_if_done(&mut self, id: u64) {
        let Some(flow) = self.flows.get(&id) else { return };
        let sent = flow.sending.as_ref().is_some_and(Sending::is_done);
        if flow.finished && flow.receiving.is_done() && sent {
            assert!(flow.expected.is_empty() && flow.script.is_empty());
            self.completed += 1;
            self.end(id);
        }
    }

    fn forget(&mut self, life: Life, key: FlowKey) {
        let edge = &mut self.edges[life.edge];
        if edge.life() == life {
            edge.flows.remove(&key);
            edge.wants.retain(|(flow, _), _| *flow != key);
            edge.plan.forget_flow(key, self.now);
        }
    }

    /// Asks the core for a flow.
    pub(crate) fn fetch(&mut self, at: usize, key: FlowKey, refer: bool, wanted: Vec<(u64, Reference)>) {
        let edge = &self.edges[at];
        let (life, flow, round_trip) = (edge.life(), edge.flows[&key], edge.round_trip);
        let question = Question { life, key, flow, refer, wanted, round_trip };
        self.after(round_trip / 2, Event::Question(question));
    }

    pub(crate) fn handle_question(&mut self, question: Question) {
        let Question { life, key, flow, refer, wanted, round_trip } = question;
        let mut after = round_trip / 2;
        let mut fails =
            self.dice.chance(self.settings.fetch_fails).then(|| self.dice.below(wanted.len() + 1));
        for (number, reference) in wanted {
            if let Some(left) = &mut fails {
                *left = left.saturating_sub(1);
            }
            let mut flow = self.flows.get_mut(&flow);
            if let Some(flow) = &mut flow {
                flow.is_deaf |= fails == Some(0);
            }
            let broken = flow.as_ref().is_some_and(|flow| flow.is_deaf);
            let sending = flow.and_then(|flow| flow.sending.as_mut());
            let answer = match sending {
                Some(sending) if !broken => sending.handle_fetch(number, refer),
                _ => FetchAnswer::Gone,
            };
            if let FetchAnswer::Block(bytes) = &answer {
                self.truth.wan_bytes += bytes.len();
                after += Duration::from_micros(100);
            }
            self.after(after, Event::Reply(Reply { life, key, number, reference, answer, refer }));
        }
    }

    pub(crate) fn handle_reply(&mut self, reply: Reply) {
        let Reply { life, key, number, reference, answer, refer } = reply;
        let Some(edge) = self.edges.get_mut(life.edge).filter(|edge| edge.life() == life) else { return };
        edge.fetching.remove(&(key, number));
        if !refer {
            edge.soon.remove(&(reference.key, tag(&reference)));
        }
        self.trace(|| format!("edge {}: {key:?}, {number}: {answer:?}", life.edge));
        let edge = &mut self.edges[life.edge];
        let answer = match answer {
            FetchAnswer::Block(bytes) => {
                CoreAnswer::Block(Block::verify(reference, bytes).expect("a core sends nothing wrong"))
            }
            FetchAnswer::Refer(referral) => {
                assert!(refer, "only who asks for it is referred");
                CoreAnswer::Refer(referral)
            }
            FetchAnswer::Gone => {
                edge.gone.insert((key, reference.digest));
                CoreAnswer::Gone
            }
        };
        edge.plan.handle_core(key, number, answer, self.now);
    }

    /// Gives an edge the new names of blocks that it has under older ones.
    pub(crate) fn renew(&mut self, at: usize, core: usize) {
        let naming = self.cores[core].naming.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(older) = &naming.older else { return };
        let edge = &mut self.edges[at];
        for reference in edge.store.references() {
            if reference.key == older.id() && self.dice.chance(700) {
                let name = reference.under(naming.current.name(&reference.digest));
                self.truth.give(edge.id, name);
                let block = edge.store.get(&reference).and_then(|block| block.under(name));
                edge.store.put(block.expect("it is there, and the same"));
            }
        }
    }

    /// Ends every flow of an edge with a core, as when their link breaks.
    pub(crate) fn break_link(&mut self, at: usize, core: Option<usize>) {
        let of = |flow: &Flow| flow.life.edge == at && core.is_none_or(|core| core == flow.core);
        let broken: Vec<u64> = self.flows.iter().filter(|(_, flow)| of(flow)).map(|(id, _)| *id).collect();
        for id in broken {
            self.end(id);
            self.run_edge(at);
        }
        // The next link begins its numbers anew.
        self.edges[at].links.retain(|of, _| core.is_some_and(|core| core != *of));
    }
}

fn budget() -> Budget {
    Budget::new(MEMORY, IntGauge::new("used", "bytes").expect("a gauge"))
}
