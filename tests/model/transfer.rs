//! Connections between edges: the asking side's `Requests` and the serving side's `Session`, and what lies between them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use wanigan::addr::NodeId;
use wanigan::block::{Block, BlockHash, Reference};
use wanigan::fault::GetOutcome;
use wanigan::fetch::plan::EntryId;
use wanigan::peer::Waiting;
use wanigan::peer::requests::{self, Patience, Requests};
use wanigan::peer::serving::{self, Broken, Lookup, Places, REQUESTS_MAX, Session};
use wanigan::proof::{self, Exporter};
use wanigan_parsers::peer::Frame;

use crate::edge::{Lie, Running};
use crate::world::{Event, Life, World};

pub(crate) type ConnId = u64;

type Arrivals = mpsc::Receiver<(u32, Block)>;

/// One connection.
pub(crate) struct Conn {
    /// Who asks; `None` is the adversary.
    pub(crate) client: Option<Life>,
    pub(crate) server: Life,
    exporter: Exporter,
    is_up: bool,
    /// Requests that wait for the connection to stand.
    dialling: Vec<Asked>,
    requests: Requests<Asked>,
    next_request: u32,
    session: Box<dyn Serves>,
    /// Whether the serving side lives.
    pub(crate) is_served: bool,
    looking: bool,
    fate: Fate,
    answered: u32,
    /// Until when the serving side's socket takes nothing.
    busy_until: Instant,
    /// When the last frame arrives, each way.
    last: [Instant; 2],
}

/// A request of the plan: by each name in turn.
#[derive(Debug, Clone)]
struct Asked {
    entry: EntryId,
    peer: NodeId,
    names: VecDeque<Reference>,
    wait: Duration,
    /// Tells a request from a later one for the same block.
    mark: u64,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Fine,
    /// After so many answers nothing comes any more.
    Silent(u32),
    /// After so many answers it breaks.
    Cut(u32),
    /// Each answer takes so long.
    Slow(Duration),
}

/// A session whose places have a type that only the product names.
struct Serving<P: Places> {
    session: Session<P>,
    arrivals: Arrivals,
}

trait Serves {
    fn handle_frame(&mut self, frame: &Frame<Vec<u8>>, now: Instant) -> Result<(), Broken>;
    fn handle_looked_up(&mut self, looked_up: LookedUp, now: Instant);
    fn handle_timeout(&mut self, now: Instant);
    fn take_arrivals(&mut self);
    fn poll_lookup(&mut self) -> Option<Lookup>;
    fn poll_answer(&mut self, now: Instant) -> Option<serving::Answer>;
    fn poll_timeout(&self, can_send: bool) -> Option<Instant>;
    fn is_idle(&self) -> bool;
}

pub(crate) enum LookedUp {
    Found(u32, Option<Reference>),
    Read(u32, Option<Block>),
}

impl<P: Places> Serves for Serving<P> {
    fn handle_frame(&mut self, frame: &Frame<Vec<u8>>, now: Instant) -> Result<(), Broken> {
        self.session.handle_frame(frame, now)
    }

    fn handle_looked_up(&mut self, looked_up: LookedUp, now: Instant) {
        match looked_up {
            LookedUp::Found(request, found) => self.session.handle_found(request, found, now),
            LookedUp::Read(request, block) => self.session.handle_read(request, block, now),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.session.handle_timeout(now);
    }

    fn take_arrivals(&mut self) {
        while let Ok((request, block)) = self.arrivals.try_recv() {
            self.session.handle_arrival(request, block);
        }
    }

    fn poll_lookup(&mut self) -> Option<Lookup> {
        self.session.poll_lookup()
    }

    fn poll_answer(&mut self, now: Instant) -> Option<serving::Answer> {
        while self.session.poll_refusal().is_some() {}
        self.session.poll_answer(now, |_| now)
    }

    fn poll_timeout(&self, can_send: bool) -> Option<Instant> {
        self.session.poll_timeout(can_send)
    }

    fn is_idle(&self) -> bool {
        self.session.idle_since().is_some()
    }
}

fn serving(exporter: Exporter, waiting: &Waiting, now: Instant) -> Box<dyn Serves> {
    let (sender, arrivals) = mpsc::channel(REQUESTS_MAX);
    Box::new(Serving { session: Session::new(exporter, waiting.places(sender), now), arrivals })
}

impl Conn {
    pub(crate) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let busy = Some(self.busy_until).filter(|until| *until > now);
        [self.due_at(now), busy].into_iter().flatten().min()
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.busy_until == now || self.due_at(now).is_some_and(|due| due <= now)
    }

    fn due_at(&self, now: Instant) -> Option<Instant> {
        let served = || self.session.poll_timeout(now >= self.busy_until);
        let session = self.is_served.then(served).flatten();
        [session, self.requests.poll_timeout()].into_iter().flatten().min()
    }

    pub(crate) fn check_idle(&self) {
        assert!(self.dialling.is_empty() && self.requests.is_empty(), "a request is left");
        assert!(!self.is_served || self.session.is_idle(), "a session is left with requests");
    }
}

impl World {
    /// Requests a block from a peer for the plan.
    pub(crate) fn get(
        &mut self,
        at: usize,
        (entry, peer): (EntryId, NodeId),
        addresses: &[SocketAddr],
        names: Vec<Reference>,
        wait: Duration,
    ) {
        let mark = self.mark();
        let asked = Asked { entry, peer, names: names.into(), wait, mark };
        let known = self.edges[at].connections.get(&peer).copied();
        let connection = known.or_else(|| self.dial(at, peer, addresses));
        let connection = connection.unwrap_or_else(|| {
            // Nobody is there: the host says so, or nothing does.
            let dead = self.dice.chance(500);
            let after = if dead { Duration::from_millis(500) } else { Duration::from_micros(300) };
            let life = self.edges[at].life();
            self.after(after, Event::NotReached { life, entry, peer, mark });
            0
        });
        let running = Running { connection, mark, number: None };
        assert!(self.edges[at].running.insert((entry, peer), running).is_none(), "asked twice at once");
        if let Some(conn) = self.conns.get_mut(&connection) {
            if conn.is_up {
                self.send_get(connection, asked);
            } else {
                conn.dialling.push(asked);
            }
        }
    }

    fn dial(&mut self, at: usize, peer: NodeId, addresses: &[SocketAddr]) -> Option<ConnId> {
        // Where a peer is reached is not proved: whoever replays its answer may have said otherwise.
        let is_there = |edge: &&crate::edge::Edge| {
            edge.is_up && edge.shares && edge.id == peer && addresses.contains(&edge.address)
        };
        let server = self.edges.iter().find(is_there)?;
        let (server, client) = (server.life(), self.edges[at].life());
        let connection = self.connect(Some(client), server);
        self.edges[at].connections.insert(peer, connection);
        let after = self.dice.micros(300..3_000);
        self.after(after, Event::Up { connection });
        Some(connection)
    }

    pub(crate) fn connect(&mut self, client: Option<Life>, server: Life) -> ConnId {
        let exporter: Exporter = self.dice.bytes();
        let connection = self.mark();
        let fate = self.fate();
        let session = serving(exporter, &self.edges[server.edge].waiting, self.now);
        let conn = Conn {
            client,
            server,
            exporter,
            is_up: client.is_none(),
            dialling: Vec::new(),
            requests: Requests::new(Patience::default(), self.now),
            next_request: 0,
            session,
            is_served: true,
            looking: false,
            fate: if client.is_some() { fate } else { Fate::Fine },
            answered: 0,
            busy_until: self.now,
            last: [self.now; 2],
        };
        self.conns.insert(connection, conn);
        connection
    }

    fn fate(&mut self) -> Fate {
        let (ill, after) = (self.dice.chance(self.settings.ill), self.dice.below(12));
        let after = u32::try_from(after).expect("a small number");
        let slow = self.dice.micros(30_000..600_000);
        if !ill {
            let slow = self.settings.slow;
            return if slow.is_zero() { Fate::Fine } else { Fate::Slow(slow) };
        }
        self.dice.pick(&[Fate::Silent(after), Fate::Cut(after), Fate::Slow(slow)])
    }

    /// Has every connection of an edge, and all that it makes later, end in a way.
    pub(crate) fn break_connections(&mut self, server: usize, silent: bool) {
        for conn in self.conns.values_mut().filter(|conn| conn.server.edge == server) {
            conn.fate = if silent { Fate::Silent(conn.answered) } else { Fate::Cut(conn.answered) };
        }
    }

    fn send_get(&mut self, connection: ConnId, asked: Asked) {
        let Some(conn) = self.conns.get_mut(&connection) else { return };
        let name = asked.names[0];
        let (hash, request) = (BlockHash::of(&name), conn.next_request);
        conn.next_request += 1;
        if let Some(client) = conn.client
            && let Some(running) = self.edges[client.edge].running.get_mut(&(asked.entry, asked.peer))
            && running.mark == asked.mark
        {
            running.number = Some(request);
        }
        let tag = hash.tag(&name);
        let proof = proof::get(&hash, &tag, &conn.exporter);
        let wait_ms = u32::try_from(asked.wait.as_millis()).expect("a short wait");
        let wait = asked.wait;
        conn.requests.begin(request, asked, wait, self.now);
        let frame = Frame::Get { request, wait_ms, key: name.key, tag, proof };
        self.adversary.see_get(&frame);
        self.send_to_server(connection, frame);
    }

    pub(crate) fn send_to_server(&mut self, connection: ConnId, frame: Frame<Vec<u8>>) {
        let after = self.dice.micros(50..400);
        let Some(conn) = self.conns.get_mut(&connection) else { return };
        conn.last[0] = conn.last[0].max(self.now + after);
        let at = conn.last[0];
        self.at(at, Event::ToServer { connection, frame });
    }

    pub(crate) fn handle_up(&mut self, connection: ConnId) {
        let Some(conn) = self.conns.get_mut(&connection) else { return };
        conn.is_up = true;
        for asked in std::mem::take(&mut conn.dialling) {
            self.send_get(connection, asked);
        }
    }

    pub(crate) fn handle_to_server(&mut self, connection: ConnId, frame: &Frame<Vec<u8>>) {
        let Some(conn) = self.conns.get_mut(&connection) else { return };
        if let Err(broken) = conn.session.handle_frame(frame, self.now) {
            assert!(conn.client.is_none(), "an edge breaks the protocol: {broken}");
            self.conns.remove(&connection);
        }
        self.serve(connection);
    }

    /// Lets every connection that an edge serves go on.
    pub(crate) fn serve_all_of(&mut self, server: usize) {
        let served = self.conns.iter().filter(|(_, conn)| conn.server.edge == server);
        for connection in served.map(|(id, _)| *id).collect::<Vec<ConnId>>() {
            self.serve(connection);
        }
    }

    /// Does what the serving side of a connection can do at this moment.
    pub(crate) fn serve(&mut self, connection: ConnId) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&connection) else { return };
        let edge = &self.edges[conn.server.edge];
        if edge.life() != conn.server {
            return;
        }
        let lie = edge.lie;
        conn.session.take_arrivals();
        conn.session.handle_timeout(now);
        if !conn.looking
            && let Some(lookup) = conn.session.poll_lookup()
        {
            conn.looking = true;
            let after = self.dice.micros(10..800);
            self.after(after, Event::Read { connection, lookup });
        }
        loop {
            let Some(conn) = self.conns.get_mut(&connection).filter(|conn| conn.busy_until <= now) else {
                return;
            };
            let Some(answer) = conn.session.poll_answer(now) else {
                let due = conn.session.poll_timeout(true);
                assert!(due.is_none_or(|due| due > now), "a session has something to do and does not do it");
                return;
            };
            let client = conn.client;
            let frame = match answer {
                serving::Answer::Block(request, block) => {
                    let to = client.map_or(crate::adversary::ID, |life| self.edges[life.edge].id);
                    self.truth.check_served(to, &block);
                    self.served += 1;
                    Frame::Block { request, bytes: block.bytes().to_vec() }
                }
                serving::Answer::Gone(request) => Frame::Gone { request },
                serving::Answer::Busy(request) => Frame::Busy { request },
                serving::Answer::Waiting => Frame::Waiting,
            };
            if client.is_none() {
                continue;
            }
            match self.lie(lie, frame) {
                Some(frame) => self.send_answer(connection, frame),
                None => self.keep_alive(connection),
            }
        }
    }

    /// Shows signs of life for as long as anybody waits for an answer that is not to come.
    pub(crate) fn keep_alive(&mut self, connection: ConnId) {
        let Some(conn) = self.conns.get(&connection).filter(|conn| !conn.requests.is_empty()) else { return };
        let fate = conn.fate;
        if matches!(fate, Fate::Fine | Fate::Slow(_)) {
            self.after(Duration::from_micros(200), Event::ToClient { connection, frame: Frame::Waiting });
        }
        self.after(Duration::from_millis(200), Event::KeepAlive { connection });
    }

    /// Returns what an edge says in place of the truth, or `None` when it says nothing.
    fn lie(&mut self, lie: Lie, frame: Frame<Vec<u8>>) -> Option<Frame<Vec<u8>>> {
        Some(match (lie, frame) {
            (Lie::Forges, Frame::Block { request, mut bytes }) => {
                let at = self.dice.below(bytes.len());
                bytes[at] ^= 1;
                Frame::Block { request, bytes }
            }
            (Lie::Denies, Frame::Block { request, .. }) => Frame::Gone { request },
            (Lie::Withholds, Frame::Block { .. }) if self.dice.chance(300) => return None,
            (Lie::Promises, Frame::Gone { .. }) => return None,
            (_, frame) => frame,
        })
    }

    fn send_answer(&mut self, connection: ConnId, frame: Frame<Vec<u8>>) {
        let (now, mut after) = (self.now, self.dice.micros(50..400));
        let Some(conn) = self.conns.get_mut(&connection) else { return };
        let is_answer = frame != Frame::Waiting;
        conn.answered += u32::from(is_answer);
        match conn.fate {
            Fate::Silent(most) if conn.answered > most => return,
            Fate::Cut(most) if conn.answered > most => {
                self.after(after, Event::Reset { connection });
                return;
            }
            Fate::Slow(each) if is_answer => {
                conn.busy_until = now + each;
                after += each;
                // Parts of the frame are heard.
                let mut part = Duration::from_millis(100);
                while part < each {
                    self.after(part, Event::Heard { connection });
                    part += Duration::from_millis(100);
                }
            }
            Fate::Slow(_) | Fate::Fine | Fate::Silent(_) | Fate::Cut(_) => {
                conn.busy_until = now + Duration::from_micros(40);
            }
        }
        let conn = self.conns.get_mut(&connection).expect("it was there");
        conn.last[1] = conn.last[1].max(now + after);
        let at = conn.last[1];
        self.at(at, Event::ToClient { connection, frame });
    }

    pub(crate) fn handle_read(&mut self, connection: ConnId, lookup: Lookup) {
        let Some(conn) = self.conns.get_mut(&connection) else { return };
        conn.looking = false;
        let edge = &self.edges[conn.server.edge];
        if edge.life() != conn.server {
            return;
        }
        let looked_up = match lookup {
            Lookup::Find { request, key, tag } => LookedUp::Found(request, edge.store.find(key, tag)),
            Lookup::Read { request, reference } => LookedUp::Read(request, edge.store.get(&reference)),
        };
        conn.session.handle_looked_up(looked_up, self.now);
        self.serve(connection);
    }

    pub(crate) fn handle_heard(&mut self, connection: ConnId) {
        if let Some(conn) = self.conns.get_mut(&connection) {
            conn.requests.handle_heard(self.now);
        }
    }

    pub(crate) fn handle_to_client(&mut self, connection: ConnId, frame: Frame<Vec<u8>>) {
        let Some(conn) = self.conns.get_mut(&connection) else { return };
        conn.requests.handle_heard(self.now);
        let (asked, answer) = match conn.requests.handle_frame(frame) {
            Ok(Some(answered)) => answered,
            Ok(None) => return,
            Err(failed) => panic!("a session answers: {failed}"),
        };
        let result = match answer {
            requests::Answer::Bytes(bytes) => {
                Block::verify(asked.names[0], Bytes::from(bytes)).map_err(|_| GetOutcome::Wrong)
            }
            requests::Answer::Gone if asked.names.len() > 1 => {
                let mut asked = asked;
                asked.names.pop_front();
                return self.send_get(connection, asked);
            }
            requests::Answer::Gone => Err(GetOutcome::Gone),
            requests::Answer::Busy => Err(GetOutcome::Busy),
        };
        let lied = matches!(result, Err(GetOutcome::Wrong));
        let client = conn.client.expect("the adversary hears nothing");
        self.finish(client, asked.entry, asked.peer, asked.mark, result);
        if lied {
            self.close(connection);
        }
    }

    /// Tells the plan what came of a request, if it still waits for it.
    pub(crate) fn finish(
        &mut self,
        client: Life,
        entry: EntryId,
        peer: NodeId,
        mark: u64,
        result: Result<Block, GetOutcome>,
    ) {
        let Some(edge) = self.edges.get_mut(client.edge).filter(|edge| edge.life() == client) else { return };
        if edge.running.get(&(entry, peer)).is_some_and(|running| running.mark == mark) {
            edge.running.remove(&(entry, peer));
            edge.plan.handle_got(entry, peer, result.clone(), self.now);
            self.trace(|| format!("edge {}: {entry:?} from {peer:?}: {result:?}", client.edge));
        }
    }

    /// Takes a request back.
    pub(crate) fn cancel(&mut self, at: usize, entry: EntryId, peer: NodeId) {
        let Some(running) = self.edges[at].running.remove(&(entry, peer)) else { return };
        let Some(conn) = self.conns.get_mut(&running.connection) else { return };
        conn.dialling.retain(|asked| asked.mark != running.mark);
        if let Some(request) = running.number
            && conn.requests.cancel(request)
        {
            self.send_to_server(running.connection, Frame::Cancel { request });
        }
    }

    /// Looks after the asking side of a connection.
    pub(crate) fn time_out_requests(&mut self, connection: ConnId) {
        let Some(conn) = self.conns.get_mut(&connection) else { return };
        let Some(client) = conn.client else { return };
        match conn.requests.handle_timeout(self.now) {
            Ok(mut overdue) => {
                overdue.sort_by_key(|(request, _)| *request);
                for (request, asked) in overdue {
                    self.send_to_server(connection, Frame::Cancel { request });
                    self.finish(client, asked.entry, asked.peer, asked.mark, Err(GetOutcome::Lost));
                }
            }
            Err(_) => self.close(connection),
        }
    }

    /// Ends a connection; its requests are lost.
    pub(crate) fn close(&mut self, connection: ConnId) {
        let Some(mut conn) = self.conns.remove(&connection) else { return };
        let Some(client) = conn.client else { return };
        let edge = &mut self.edges[client.edge];
        if edge.life() != client {
            return;
        }
        edge.connections.retain(|_, known| *known != connection);
        let mut lost = conn.requests.take_all();
        lost.extend(std::mem::take(&mut conn.dialling));
        lost.sort_by_key(|asked| asked.mark);
        for Asked { entry, peer, mark, .. } in lost {
            self.finish(client, entry, peer, mark, Err(GetOutcome::Lost));
        }
    }
}
