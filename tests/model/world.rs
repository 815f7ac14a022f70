//! All nodes, the clock, and what happens when.
//!
//! Checked at every step: what a client gets are the bytes that its server gave, in order (`wan.rs`); each want of a live
//! flow ends once, with its block, or with nothing where its core refused it (`edge.rs`); who is answered or served was
//! told of the block by a core, and replays move nobody (`truth.rs`); no timer is due without doing something, nobody is
//! asked twice for the same, nothing grows. Checked at the end: nothing is left anywhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wanigan::addr::NodeId;
use wanigan::block::{Block, KeyId, Reference, Tag};
use wanigan::fault::GetOutcome;
use wanigan::fetch::plan::EntryId;
use wanigan::flow::receiving::Wanted;
use wanigan::flow::sending::Sending;
use wanigan::peer::serving::Lookup;
use wanigan_parsers::peer;
use wanigan_parsers::wan::Frame;

use crate::adversary::Adversary;
use crate::dice::Dice;
use crate::edge::Edge;
use crate::transfer::{Conn, ConnId};
use crate::truth::Truth;
use crate::wan::{Core, Flow, Question, Reply};

/// How bad the world is. Chances are per mille.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Settings {
    pub(crate) edges: usize,
    pub(crate) cores: usize,
    pub(crate) lans: u8,
    pub(crate) files: usize,
    pub(crate) blocks: usize,
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    pub(crate) late: usize,
    pub(crate) changed: usize,
    /// Connections that fall silent, break, or are slow.
    pub(crate) ill: usize,
    /// How long every answer takes, where it is long.
    pub(crate) slow: Duration,
    pub(crate) fetch_fails: usize,
    /// Frames of the core that are sent again.
    pub(crate) held_up: usize,
    /// How long a want may wait.
    pub(crate) patience: Duration,
}

/// An edge from its start to its death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) edge: usize,
    pub(crate) number: u64,
}

/// What happens at some moment.
pub(crate) enum Event {
    Datagram { to: usize, from: SocketAddr, bytes: Vec<u8> },
    Found { life: Life, number: u64, key: KeyId, tags: Vec<Tag> },
    Time(Life),
    Look { life: Life, reference: Reference },
    Arrived { life: Life, block: Block },
    NotReached { life: Life, entry: EntryId, peer: NodeId, mark: u64 },
    Up { connection: ConnId },
    ToServer { connection: ConnId, frame: peer::Frame<Vec<u8>> },
    Read { connection: ConnId, lookup: Lookup },
    ToClient { connection: ConnId, frame: peer::Frame<Vec<u8>> },
    Heard { connection: ConnId },
    KeepAlive { connection: ConnId },
    Reset { connection: ConnId },
    ServerGives { flow: u64 },
    Frame { flow: u64, frame: Frame<Bytes> },
    StoreLooks { flow: u64, wanted: Wanted },
    Written { flow: u64, bytes: usize },
    Progress { flow: u64, totals: (u64, u64, u64) },
    CoreForgets { sending: Box<Sending> },
    Question(Question),
    Reply(Reply),
    Mischief,
    Script(Op),
}

/// What operators, clients and fate do.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Read { edge: usize, core: usize, file: usize, from: usize, count: usize, hangs_up: Option<Duration> },
    HangUp { flow: u64 },
    Kill { edge: usize, silent: bool, back: Duration },
    Revive { edge: usize },
    LinkDown { edge: Box<Life> },
    Evict { edge: usize, per_mille: usize },
    Rotate { secret: u8 },
    Renew { edge: usize, core: usize },
    Expire,
    BreakLink { edge: usize, core: usize },
    BreakConnections { edge: usize, silent: bool },
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) settings: Settings,
    pub(crate) dice: Dice,
    pub(crate) truth: Truth,
    pub(crate) adversary: Adversary,
    pub(crate) edges: Vec<Edge>,
    pub(crate) cores: Vec<Core>,
    pub(crate) flows: BTreeMap<u64, Flow>,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    queue: BTreeMap<(Instant, u64), Event>,
    next: u64,
    /// Nothing new begins.
    pub(crate) is_over: bool,
    pub(crate) opened: usize,
    pub(crate) completed: usize,
    /// Wants that were met, by others and by a core.
    pub(crate) delivered: [usize; 2],
    pub(crate) from_peers: usize,
    /// Blocks that were named by number.
    pub(crate) numbered: usize,
    pub(crate) served: usize,
    pub(crate) longest: Duration,
    /// Tells what happens, to find out why a run failed.
    is_traced: bool,
}

const TIME: u64 = 1_700_000_000_000;

impl World {
    pub(crate) fn new(settings: Settings, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let truth = Truth::new(settings.files, settings.blocks, &mut dice);
        let start = Instant::now();
        let edge = |at: usize| u8::try_from(at).expect("few edges") % settings.lans;
        let edges = (0..settings.edges).map(|at| Edge::new(at, 0, edge(at), &mut dice)).collect();
        let mut world = Self {
            now: start,
            start,
            settings,
            truth,
            adversary: Adversary::default(),
            edges,
            cores: (0..settings.cores).map(|_| Core::new(1, 0)).collect(),
            flows: BTreeMap::new(),
            conns: BTreeMap::new(),
            queue: BTreeMap::new(),
            next: 1,
            is_over: false,
            opened: 0,
            completed: 0,
            delivered: [0; 2],
            from_peers: 0,
            numbered: 0,
            served: 0,
            longest: Duration::ZERO,
            is_traced: std::env::var_os("WANIGAN_MODEL_TRACE").is_some(),
            dice,
        };
        // Whose secrets differ may differ in their time, too.
        for core in 1..world.cores.len() {
            if world.dice.chance(500) {
                world.cores[core] = Core::new(2, 3_600_000);
            }
        }
        world
    }

    /// Starts the edges as they are set up.
    pub(crate) fn begin(&mut self) {
        for at in 0..self.edges.len() {
            self.come_up(at);
        }
    }

    fn come_up(&mut self, at: usize) {
        for core in &self.cores {
            core.handle_up(&self.edges[at]);
        }
        self.tell_time(self.edges[at].life());
    }

    pub(crate) fn time_ms(&self, core: usize) -> u64 {
        let passed = u64::try_from((self.now - self.start).as_millis()).expect("a short run");
        TIME + self.cores[core].ahead_ms + passed
    }

    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.is_traced {
            eprintln!("{:?} {}", self.now - self.start, what());
        }
    }

    pub(crate) fn mark(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn after(&mut self, after: Duration, event: Event) {
        self.at(self.now + after, event);
    }

    pub(crate) fn at(&mut self, at: Instant, event: Event) {
        let mark = self.mark();
        self.queue.insert((at, mark), event);
        assert!(self.queue.len() < 50_000, "events pile up");
    }

    /// Goes on until nothing is wanted and nothing flows, and then until nothing is left.
    pub(crate) fn run(&mut self, script: Vec<(Duration, Op)>) {
        let last = script.iter().map(|(at, _)| *at).max().unwrap_or_default();
        for (at, op) in script {
            self.after(at, Event::Script(op));
        }
        let mut stuck = 0;
        while !self.flows.is_empty() || self.now <= self.start + last {
            let before = self.now;
            self.step();
            stuck = if self.now == before { stuck + 1 } else { 0 };
            assert!(stuck < 5_000, "time stands still: {}", self.due());
            assert!(self.now < self.start + last + Duration::from_secs(90), "flows go on for ever");
        }
        self.is_over = true;
        let end = self.now + Duration::from_secs(25);
        while self.now < end {
            self.step();
        }
        self.edges.iter().for_each(Edge::check_idle);
        self.conns.values().for_each(Conn::check_idle);
        self.cores.iter().for_each(|core| core.check_idle(self));
    }

    /// Does what is due next.
    fn step(&mut self) {
        let timer = self.next_timer();
        let event = self.queue.first_key_value().map(|((at, _), _)| *at);
        let due = [timer, event].into_iter().flatten().min().expect("time is told for ever");
        self.now = self.now.max(due);
        if event == Some(due)
            && let Some((_, event)) = self.queue.pop_first()
        {
            self.handle(event);
        }
        self.time_out();
        for at in 0..self.edges.len() {
            self.run_edge(at);
        }
        self.check_waits();
    }

    fn next_timer(&self) -> Option<Instant> {
        let edges = self.edges.iter().filter(|edge| edge.is_up);
        let edges = edges.flat_map(|edge| [edge.plan.poll_timeout(), edge.state.poll_timeout()]);
        let conns = self.conns.values().map(|conn| conn.poll_timeout(self.now));
        let flows = self.flows.values().map(Flow::poll_timeout);
        edges.chain(conns).chain(flows).flatten().min()
    }

    /// Tells what is due.
    fn due(&self) -> String {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
        let edges = self.edges.iter().filter(|edge| is_due(edge.plan.poll_timeout()));
        let edges = edges.map(|edge| format!("the plan of edge {}", edge.at));
        let conns = self.conns.iter().filter(|(_, conn)| is_due(conn.poll_timeout(self.now)));
        let conns =
            conns.map(|(id, conn)| format!("connection {id}, {:?} to {:?}", conn.client, conn.server));
        let flows = self.flows.iter().filter(|(_, flow)| is_due(flow.poll_timeout()));
        edges
            .chain(conns)
            .chain(flows.map(|(id, _)| format!("flow {id}")))
            .collect::<Vec<String>>()
            .join(", ")
    }

    fn time_out(&mut self) {
        let now = self.now;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for edge in self.edges.iter_mut().filter(|edge| edge.is_up) {
            if is_due(edge.plan.poll_timeout()) {
                edge.plan.handle_timeout(now);
            }
            edge.state.handle_timeout(now);
        }
        let due: Vec<ConnId> =
            self.conns.iter().filter(|(_, conn)| conn.is_due(now)).map(|(id, _)| *id).collect();
        for connection in due {
            self.time_out_requests(connection);
            self.serve(connection);
        }
        let flows = self.flows.iter().filter(|(_, flow)| is_due(flow.poll_timeout()));
        for id in flows.map(|(id, _)| *id).collect::<Vec<u64>>() {
            self.time_out_flow(id);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Datagram { to, from, bytes } => self.handle_datagram(to, from, &bytes),
            Event::Found { life, number, key, tags } => self.handle_look_up(life, number, key, &tags),
            Event::Time(life) => self.tell_time(life),
            Event::Look { life, reference } => {
                let now = self.now;
                if let Some(edge) = self.living(life)
                    && let Some(block) = edge.store.get(&reference)
                {
                    edge.plan.handle_arrived(&block, now);
                }
            }
            Event::Arrived { life, block } => {
                let now = self.now;
                if let Some(edge) = self.living(life) {
                    edge.plan.handle_arrived(&block, now);
                }
            }
            Event::NotReached { life, entry, peer, mark } => {
                self.finish(life, entry, peer, mark, Err(GetOutcome::Lost));
            }
            Event::Up { connection } => self.handle_up(connection),
            Event::ToServer { connection, frame } => self.handle_to_server(connection, &frame),
            Event::Read { connection, lookup } => self.handle_read(connection, lookup),
            Event::ToClient { connection, frame } => self.handle_to_client(connection, frame),
            Event::Heard { connection } => self.handle_heard(connection),
            Event::KeepAlive { connection } => self.keep_alive(connection),
            Event::Reset { connection } => self.close(connection),
            Event::ServerGives { flow } => self.handle_server(flow),
            Event::Frame { flow, frame } => self.handle_frame(flow, frame),
            Event::StoreLooks { flow, wanted } => self.handle_store_looks(flow, wanted),
            Event::Written { flow, bytes } => self.handle_written(flow, bytes),
            Event::Progress { flow, totals } => self.handle_progress(flow, totals),
            Event::CoreForgets { sending } => drop(sending),
            Event::Question(question) => self.handle_question(question),
            Event::Reply(reply) => self.handle_reply(reply),
            Event::Mischief => self.handle_mischief(),
            Event::Script(op) => self.apply(op),
        }
    }

    fn living(&mut self, life: Life) -> Option<&mut Edge> {
        self.edges.get_mut(life.edge).filter(|edge| edge.life() == life)
    }

    fn apply(&mut self, op: Op) {
        self.trace(|| format!("{op:?}"));
        match op {
            Op::Read { edge, core, file, from, count, hangs_up } => {
                let script = (from..from + count).map(|block| (file, block)).collect();
                if let (Some(flow), Some(after)) = (self.open(edge, core, script), hangs_up) {
                    self.after(after, Event::Script(Op::HangUp { flow }));
                }
            }
            Op::HangUp { flow } => self.end(flow),
            Op::Kill { edge, silent, back } => self.kill(edge, silent, back),
            Op::Revive { edge } => {
                self.edges[edge].is_up = true;
                self.come_up(edge);
            }
            Op::LinkDown { edge } => {
                for core in &self.cores {
                    core.handle_down(&self.edges[edge.edge]);
                }
            }
            Op::Evict { edge, per_mille } => {
                let dice = &mut self.dice;
                self.edges[edge].store.evict(|_| dice.chance(per_mille));
            }
            Op::Rotate { secret } => {
                for core in &mut self.cores {
                    // Who shares a secret agrees on the time.
                    let own = u8::from(core.ahead_ms > 0);
                    core.rotate(secret + own);
                }
            }
            Op::Renew { edge, core } => self.renew(edge, core),
            Op::Expire => self.cores.iter_mut().for_each(Core::expire),
            Op::BreakLink { edge, core } => self.break_link(edge, Some(core)),
            Op::BreakConnections { edge, silent } => self.break_connections(edge, silent),
        }
    }

    /// Ends the life of an edge; another one begins later, with nothing.
    fn kill(&mut self, at: usize, silent: bool, back: Duration) {
        if !self.edges[at].is_up {
            return;
        }
        self.break_link(at, None);
        let before = self.edges[at].life();
        let mut next = self.edges[at].reborn(&mut self.dice);
        next.is_up = false;
        self.edges[at] = next;
        let involved = |conn: &Conn| (conn.client == Some(before), conn.server == before);
        for (connection, (is_client, is_server)) in
            self.conns.iter().map(|(id, conn)| (*id, involved(conn))).collect::<Vec<_>>()
        {
            let is_asked = self.conns[&connection].client.is_some();
            if is_client || (is_server && !is_asked) {
                self.conns.remove(&connection);
                continue;
            }
            if is_server {
                self.conns.get_mut(&connection).expect("it is there").is_served = false;
            }
            if is_server && !silent {
                self.after(Duration::from_millis(1), Event::Reset { connection });
            }
        }
        let noticed = self.dice.micros(1_000..back.as_micros().try_into().expect("a short time"));
        self.after(noticed, Event::Script(Op::LinkDown { edge: Box::new(before) }));
        self.after(back, Event::Script(Op::Revive { edge: at }));
    }
}
