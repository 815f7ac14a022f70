//! Discovery: who on this LAN has a block, asked and answered in datagrams that show possession and give nothing away.
//!
//! ```text
//!  fetch ── ask ──▶ Discovery ─┐                       ┌─ sockets: IPv4 broadcast, IPv6 and IPv4 multicast,
//!        ◀─ Event ───────────  task ── state.rs (S) ──┤            listed peers
//!  link ── time, keys ────────▶│                       └─ Holdings: what the store has, and what is on its way
//! ```
//!
//! One task owns the sockets and the [`State`], which decides everything about the protocol; this file carries that
//! out. `docs/protocol.md` has the formats and the rules for a second implementation.
//!
//! A [`Discovery`] is a cheap handle. It never waits: an ask that finds the task busy, the network quiet or a limit reached
//! is not sent, and whoever asked goes to the core, as it would have had nobody answered. Answers are candidates: the
//! proofs in them are right, yet the block counts only when its bytes are verified.
//!
//! What can go wrong costs savings, never access: no interface, no socket of a family, a full queue, a lost datagram.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};
use wanigan_parsers::discovery::DATAGRAM_BYTES_MAX;

use crate::addr::NodeId;
use crate::block::{KeyId, Reference, Tag};
use crate::drain::Drain;
use crate::fault::DiscoveryRefusal;
use crate::metrics::Metrics;

pub mod answerer;
pub mod asker;
pub mod clock;
pub mod interfaces;
mod limit;
pub mod pace;
mod sockets;
pub mod state;

use self::answerer::{LOOK_UP_LIFETIME, LOOK_UPS_MAX};
use self::clock::DOMAINS_MAX;
use self::interfaces::{Destination, Interface, Ways, choose, destinations, origin, reached_at};
use self::pace::Pace;
use self::sockets::{Sockets, list_interfaces};
pub use self::state::{Answer, Found};
use self::state::{Output, State, StateSettings};

/// How often the interfaces are listed anew.
pub const REFRESH_EVERY: Duration = Duration::from_secs(10);

/// Calls to ask that wait for the task.
pub const COMMANDS_MAX: usize = 256;

/// Events that wait for whoever asked.
pub const EVENTS_MAX: usize = 1_024;

/// How long the task takes no datagrams after the system failed to give it one.
const RECEIVE_PAUSE: Duration = Duration::from_millis(20);

/// What discovery is set to.
#[derive(Debug, Clone)]
pub struct DiscoverySettings {
    /// This node.
    pub id: NodeId,
    /// Whether this node answers: whether it shares what it has.
    pub share: bool,
    /// Where to listen. `[::]` takes both families. Asks go to the same port.
    pub listen: SocketAddr,
    /// The TCP port at which blocks are given away; by default that of `listen`.
    pub transfer_port: Option<u16>,
    /// The interfaces to use; none: all with neighbours.
    pub interfaces: Vec<String>,
    /// Whether to ask by IPv4 broadcast.
    pub broadcast: bool,
    /// Whether to ask by multicast.
    pub multicast: bool,
    /// Peers to ask directly, and to answer wherever they are.
    pub static_peers: Vec<SocketAddr>,
}

/// Why discovery cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The address cannot be had.
    #[error("bind UDP socket to {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
}

/// What was found of some tags, in their order.
pub type Finding<'a> = Pin<Box<dyn Future<Output = Vec<Option<Found>>> + Send + 'a>>;

/// What this node has, for answers to others.
pub trait Holdings: Send + Sync + 'static {
    /// Looks up tags of a domain. What takes longer than [`LOOK_UP_LIFETIME`] is given up.
    fn find(&self, key: KeyId, tags: Vec<Tag>) -> Finding<'_>;

    /// Returns how busy this node is at giving blocks away: 0 idle, 255 as busy as it can be.
    fn load(&self) -> u8 {
        0
    }
}

/// What comes of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer has blocks.
    Answer(Answer),
    /// These blocks were not asked for after all, since there is no network to ask, a limit was reached or no core told
    /// their domain's time: there is nothing to wait for.
    NotAsked(Vec<Reference>),
}

/// A handle to discovery.
#[derive(Debug, Clone)]
pub struct Discovery {
    asks: mpsc::Sender<Question>,
    told: Arc<watch::Sender<Told>>,
    pace: watch::Receiver<Pace>,
    reached: watch::Receiver<Vec<SocketAddr>>,
    port: u16,
}

#[derive(Debug)]
struct Question {
    references: Vec<Reference>,
    round_trip: Duration,
}

/// What the cores and links say: small, and only the latest counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Told {
    /// The time of each domain, and when it was that time.
    times: BTreeMap<KeyId, (u64, Instant)>,
    /// By core: the address of this host that the link to it goes out from.
    core_side: BTreeMap<u64, IpAddr>,
}

impl Discovery {
    /// Binds the sockets and starts the task. What comes of asks arrives at the receiver.
    ///
    /// # Errors
    /// [`DiscoveryError`] when the address to listen at cannot be had.
    pub fn start(
        settings: DiscoverySettings,
        holdings: Arc<dyn Holdings>,
        metrics: Metrics,
        drain: &Drain,
    ) -> Result<(Self, mpsc::Receiver<Event>), DiscoveryError> {
        let ways = Ways { broadcast: settings.broadcast, multicast: settings.multicast };
        let sockets = Sockets::bind(settings.listen, ways)?;
        let port = sockets.port();
        let state = StateSettings {
            id: settings.id,
            share: settings.share,
            transfer_port: settings.transfer_port.unwrap_or(port),
        };
        let (asks_in, asks) = mpsc::channel(COMMANDS_MAX);
        let (events, events_out) = mpsc::channel(EVENTS_MAX);
        let (found_in, found) = mpsc::channel(LOOK_UPS_MAX);
        let (told_in, told) = watch::channel(Told::default());
        let (pace_in, pace) = watch::channel(Pace::default());
        let (reached_in, reached) = watch::channel(Vec::new());
        let task = Task {
            ways,
            transfer_port: state.transfer_port,
            listen: settings.listen.ip().to_canonical(),
            reached: reached_in,
            static_peers: settings.static_peers.iter().map(|peer| canonical(*peer)).collect(),
            names: settings.interfaces,
            sockets,
            state: State::new(state, Box::new(draw)),
            chosen: Vec::new(),
            destinations: Vec::new(),
            holdings,
            metrics,
            drain: drain.clone(),
            events,
            found: found_in,
            pace: pace_in,
            told: Told::default(),
        };
        drain.spawn("discovery", task.run(asks, found, told));
        Ok((Self { asks: asks_in, told: Arc::new(told_in), pace, reached, port }, events_out))
    }

    /// Returns the UDP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Follows where this node gives blocks away, as others of its networks reach it.
    #[must_use]
    pub fn reached(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.reached.clone()
    }

    /// Asks the LAN for blocks. Returns until when answers are worth waiting for, or `None` when nothing is asked.
    /// `round_trip` is that of the link which could give the blocks too.
    #[must_use]
    pub fn ask(&self, references: Vec<Reference>, round_trip: Duration) -> Option<Instant> {
        let (now, pace) = (Instant::now(), *self.pace.borrow());
        if references.is_empty() || !pace.should_ask(now) {
            return None;
        }
        let question = Question { references, round_trip };
        self.asks.try_send(question).ok().map(|()| now + pace.wait(round_trip))
    }

    /// Returns how long an ask would be waited for.
    #[must_use]
    pub fn wait(&self, round_trip: Duration) -> Duration {
        self.pace.borrow().wait(round_trip)
    }

    /// Returns whether an ask would be sent, limits aside.
    #[must_use]
    pub fn should_ask(&self) -> bool {
        self.pace.borrow().should_ask(Instant::now())
    }

    /// Sets the time of a domain, in milliseconds since 1970, as one of its cores just told it. To be called again from
    /// time to time: clocks drift.
    pub fn set_time(&self, key: KeyId, time_ms: u64) {
        let now = Instant::now();
        self.told.send_modify(|told| {
            told.times.insert(key, (time_ms, now));
            if told.times.len() > DOMAINS_MAX {
                let oldest = told.times.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| *key);
                oldest.map(|key| told.times.remove(&key));
            }
        });
    }

    /// Forgets a domain: its blocks are neither asked for nor answered.
    pub fn expire(&self, key: KeyId) {
        self.told.send_if_modified(|told| told.times.remove(&key).is_some());
    }

    /// Says which of this host's addresses the link to a core goes out from; `core` tells cores apart.
    pub fn set_core_side(&self, core: u64, address: Option<IpAddr>) {
        self.told.send_if_modified(|told| {
            let before = match address {
                Some(address) => told.core_side.insert(core, address),
                None => told.core_side.remove(&core),
            };
            before != address
        });
    }
}

/// The owner of sockets and state.
struct Task {
    ways: Ways,
    transfer_port: u16,
    listen: IpAddr,
    reached: watch::Sender<Vec<SocketAddr>>,
    static_peers: Vec<SocketAddr>,
    names: Vec<String>,
    sockets: Sockets,
    state: State,
    chosen: Vec<Interface>,
    destinations: Vec<Destination>,
    holdings: Arc<dyn Holdings>,
    metrics: Metrics,
    drain: Drain,
    events: mpsc::Sender<Event>,
    found: mpsc::Sender<(u64, Vec<Option<Found>>)>,
    pace: watch::Sender<Pace>,
    told: Told,
}

impl Task {
    async fn run(
        mut self,
        mut asks: mpsc::Receiver<Question>,
        mut found: mpsc::Receiver<(u64, Vec<Option<Found>>)>,
        mut told: watch::Receiver<Told>,
    ) {
        let stopping = self.drain.stopping().clone();
        // One byte more than any datagram has: a longer one is cut to something that is none.
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        let mut refresh = interval(REFRESH_EVERY);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once.
        refresh.tick().await;
        self.refresh();
        let mut all_handles_gone = false;
        loop {
            let due = self.state.poll_timeout();
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = refresh.tick() => self.refresh(),
                changed = told.changed(), if !all_handles_gone => match changed {
                    Ok(()) => self.handle_told(told.borrow_and_update().clone()),
                    // There is still the answering.
                    Err(_) => all_handles_gone = true,
                },
                Some(question) = asks.recv() => {
                    // A domain's time may have been told just before its blocks are asked for.
                    if told.has_changed().unwrap_or(false) {
                        self.handle_told(told.borrow_and_update().clone());
                    }
                    self.ask(question);
                }
                Some((number, blocks)) = found.recv() => {
                    self.state.handle_found(number, &blocks, self.holdings.load(), Instant::now());
                }
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    self.state.handle_timeout(Instant::now());
                }
                received = self.sockets.receive(&mut buffer) => match received {
                    Ok((from, len)) => self.handle_datagram(from, &buffer[..len]),
                    Err(error) => {
                        tracing::debug!(%error, "a datagram could not be received");
                        sleep(RECEIVE_PAUSE).await;
                    }
                },
            }
            self.carry_out().await;
        }
    }

    fn ask(&mut self, question: Question) {
        if self.destinations.is_empty() {
            tracing::debug!("peers are not asked: no interface, no listed peer");
            return self.tell(Event::NotAsked(question.references));
        }
        let asked = self.state.ask(question.references, question.round_trip, Instant::now());
        self.metrics.peers.asked_blocks.inc_by(asked.blocks as u64);
        if asked.blocks > 0 {
            tracing::debug!(blocks = asked.blocks, places = self.destinations.len(), "asking peers");
        }
        if !asked.left.is_empty() {
            tracing::debug!(blocks = asked.left.len(), "peers are not asked: a limit, or an unknown domain");
            self.tell(Event::NotAsked(asked.left));
        }
    }

    fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.metrics.peers.discovery_received_bytes.inc_by(bytes.len() as u64);
        let origin = origin(from, &self.chosen, &self.static_peers);
        self.state.handle_datagram(from, origin, bytes, Instant::now());
    }

    fn handle_told(&mut self, told: Told) {
        for key in self.told.times.keys().filter(|key| !told.times.contains_key(key)) {
            self.state.handle_key_expired(*key);
        }
        for (key, (time_ms, at)) in &told.times {
            if self.told.times.get(key) != Some(&(*time_ms, *at)) {
                self.state.handle_time(*key, *time_ms, *at);
            }
        }
        let moved = self.told.core_side != told.core_side;
        self.told = told;
        if moved {
            self.refresh();
        }
    }

    /// Looks which interfaces there are.
    fn refresh(&mut self) {
        let core_side: Vec<IpAddr> = self.told.core_side.values().copied().collect();
        let chosen = choose(list_interfaces(), &self.names, &core_side);
        if chosen != self.chosen {
            let names: Vec<&str> = chosen.iter().map(|one| one.name.as_str()).collect();
            tracing::info!(interfaces = ?names, port = self.sockets.port(), "looking for peers");
            self.chosen = chosen;
        }
        let mut reached = reached_at(&self.chosen, self.transfer_port);
        // One address alone, or one family, is what peers are served at.
        reached.retain(|at| match self.listen {
            IpAddr::V4(listen) if listen.is_unspecified() => at.is_ipv4(),
            IpAddr::V6(listen) if listen.is_unspecified() => true,
            listen => at.ip() == listen,
        });
        self.reached.send_if_modified(|known| std::mem::replace(known, reached.clone()) != reached);
        self.sockets.listen_on(&self.chosen);
        self.destinations = destinations(&self.chosen, self.ways, &self.static_peers, self.sockets.port());
        self.destinations.retain(|to| self.sockets.speaks_to(*to));
    }

    async fn carry_out(&mut self) {
        while let Some(output) = self.state.poll_output() {
            match output {
                Output::Ask(bytes) => {
                    for to in &self.destinations {
                        self.send(*to, &bytes).await;
                    }
                }
                Output::Send { to, bytes, blocks } => {
                    tracing::debug!(%to, blocks, "answering a peer");
                    self.metrics.peers.answered_blocks.inc_by(blocks as u64);
                    self.send(Destination::Address(to), &bytes).await;
                }
                Output::LookUp { number, key, tags } => self.look_up(number, key, tags),
                Output::Answer { answer, first } => {
                    let Answer { peer, addr, load, blocks } = &answer;
                    tracing::debug!(?peer, %addr, load, blocks = blocks.len(), first, "a peer has blocks");
                    self.metrics.peers.found_blocks.inc_by(first as u64);
                    self.tell(Event::Answer(answer));
                }
                Output::Refused { from, reason } => self.count_refusal(from, reason),
            }
        }
        let pace = self.state.pace(Instant::now());
        self.pace.send_if_modified(|known| std::mem::replace(known, pace) != pace);
    }

    fn look_up(&self, number: u64, key: KeyId, tags: Vec<Tag>) {
        let (holdings, found) = (self.holdings.clone(), self.found.clone());
        self.drain.spawn("discovery look-up", async move {
            if let Ok(blocks) = timeout(LOOK_UP_LIFETIME, holdings.find(key, tags)).await {
                let _ = found.send((number, blocks)).await;
            }
        });
    }

    async fn send(&self, to: Destination, bytes: &[u8]) {
        match self.sockets.send(to, bytes).await {
            Ok(()) => self.metrics.peers.discovery_sent_bytes.inc_by(bytes.len() as u64),
            Err(error) => tracing::debug!(?to, %error, "a datagram could not be sent"),
        }
    }

    fn tell(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.metrics.peers.count_discovery_refusal(DiscoveryRefusal::Full);
        }
    }

    fn count_refusal(&self, from: SocketAddr, reason: DiscoveryRefusal) {
        self.metrics.peers.count_discovery_refusal(reason);
        match reason {
            // A broadcast comes back to whoever sent it.
            DiscoveryRefusal::Own => tracing::trace!(%from, "an ask of our own"),
            reason => tracing::debug!(%from, reason = reason.as_str(), "met with silence"),
        }
    }
}

fn draw() -> Option<[u8; 16]> {
    let mut nonce = [0; 16];
    rand::fill(&mut nonce).ok().map(|()| nonce)
}

fn canonical(mut address: SocketAddr) -> SocketAddr {
    address.set_ip(address.ip().to_canonical());
    address
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
