//! Blocks from edge to edge: TLS 1.3 over TCP, a proof for each block, many requests on a connection.
//!
//! A node that knows (from discovery, or from a core) that a peer has a block asks it with [`Peers::get`]. The connection
//! to the peer is made or reused; each request proves that the requester holds the block's hash, bound to this very TLS
//! connection, so that it can be relayed to nobody. What comes back is verified before anybody sees it. A node
//! that shares its store answers with [`Serving`].
//!
//! TCP and not QUIC like the link: on a LAN there is no loss for streams to hide from each other, and TLS over TCP costs
//! about half the CPU a byte.
//!
//! | child | what it decides |
//! |--|--|
//! | `requests` | requests on one connection, and when to give up on them (no I/O) |
//! | `serving` | what becomes of a peer's requests (no I/O) |
//! | `waiting` | who is told of a block that arrives |
//! | `book` | what each peer gave and took, whom to shun (no I/O) |
//! | `rate` | how fast blocks may go out (no I/O) |
//! | `buffers` | the memory of received blocks |
//! | `channel` | TLS on a socket |
//! | `connection`, `listener` | the tasks of the two sides |
//!
//! What this room refuses to know: how peers are found, what the store is, what a flow is. A peer that is lost, slow or
//! lying costs time only: every request ends, at the latest [`requests::ANSWER_WITHIN`] after the wait it asked for.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tracing::{debug, warn};

pub use self::listener::{Serving, ServingSettings};
pub use self::waiting::Waiting;

pub mod book;
mod buffers;
mod channel;
mod connection;
mod listener;
pub mod rate;
pub mod requests;
pub mod serving;
mod waiting;

use self::book::{Book, Ledger};
use self::buffers::Buffers;
use self::connection::{Connection, ConnectionSettings, Slot, Unanswered, Wanted};
use self::requests::{Answer, Patience};
use crate::addr::{NodeId, ServerAddr};
use crate::block::{Block, BlockHash, KeyId, Reference, Tag, digest};
use crate::drain::Drain;
use crate::fault::GetOutcome;
use crate::metrics::{Metrics, PeerMetrics};
use crate::pki::{NodeName, PeerClientTls, PeerIdentity, SiteName};
use crate::relay;

/// A boxed future of what a store may have.
pub type Lookup<'a, T> = Pin<Box<dyn Future<Output = Option<T>> + Send + 'a>>;

/// Where the blocks that peers ask for come from.
pub trait Blocks: Send + Sync {
    /// Returns the reference that has this tag under this key, if the block is held and the key has not expired.
    fn find(&self, key: KeyId, tag: Tag) -> Lookup<'_, Reference>;

    /// Returns the block.
    fn block(&self, reference: Reference) -> Lookup<'_, Block>;
}

/// Makes a TCP connection to a peer, in so much time at most.
pub type Dial = Arc<
    dyn Fn(SocketAddr, Duration) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>> + Send + Sync,
>;

/// Dials as everything of Wanigan does: marked, so that no interception rule of ours catches the connection.
#[must_use]
pub fn marked_dial() -> Dial {
    Arc::new(|address, deadline| Box::pin(relay::dial(ServerAddr(address), deadline)))
}

/// What came of asking a peer, if not the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GetError {
    /// The peer has no such block for this proof.
    #[error("get a block: the peer does not have it")]
    Gone,
    /// The peer, or this node's side of the connection to it, has too much to do.
    #[error("get a block: the peer is busy")]
    Busy,
    /// The connection could not be made, broke, or fell silent.
    #[error("get a block: the peer is lost")]
    Lost,
    /// The bytes were not those of the block. The peer is shunned.
    #[error("get a block: the peer sent other bytes")]
    Wrong,
    /// The peer refuses this node, is another than it should be, or is shunned.
    #[error("get a block: the peer and this node do not accept each other")]
    Refused,
}

/// What it takes to ask peers.
#[derive(Clone)]
pub struct PeersSettings {
    /// This node's site.
    pub site: SiteName,
    /// This node's TLS (see [`crate::pki::NodeIdentity::peer_client_tls`]).
    pub tls: PeerClientTls,
    /// Makes TCP connections (see [`marked_dial`]).
    pub dial: Dial,
    /// Connections to one peer at most; more than one are made only while many requests are open.
    pub connections_a_peer: usize,
    /// How long a peer is given.
    pub patience: Patience,
    /// Where to count.
    pub metrics: Metrics,
}

/// One peer, as `wanigan peers` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerReport {
    /// The peer.
    pub id: NodeId,
    /// Its name, once a connection stood.
    pub name: Option<NodeName>,
    /// Its site, once a connection stood.
    pub site: Option<SiteName>,
    /// Where it was reached, or came from, last.
    pub address: SocketAddr,
    /// Whether a connection to or from it stands.
    pub connected: bool,
    /// Verified blocks it gave.
    pub blocks_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Blocks it was given.
    pub blocks_served: u64,
    /// Their bytes.
    pub bytes_served: u64,
    /// Blocks it gave that were others than it was asked for.
    pub wrong: u64,
    /// Requests that got no answer.
    pub lost: u64,
    /// Smoothed time from a request without a wait to its block.
    pub latency: Option<Duration>,
    /// How much longer it is shunned.
    pub shunned_for: Option<Duration>,
}

/// The peers of one node: connections to them, and what they gave and took. Clones are the same.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    settings: PeersSettings,
    drain: Drain,
    book: Mutex<Book>,
    pool: Mutex<HashMap<NodeId, Reached>>,
    buffers: Buffers,
}

/// How one peer is reached.
#[derive(Default)]
struct Reached {
    connections: Vec<Arc<Connection>>,
    /// The last connection that could not be made: where to, why, and until when no other is tried.
    failed: Option<(SocketAddr, GetError, Instant)>,
}

impl Peers {
    /// Begins without connections.
    #[must_use]
    pub fn new(settings: PeersSettings, drain: Drain) -> Self {
        Self(Arc::new(Inner {
            settings,
            drain,
            book: Mutex::default(),
            pool: Mutex::default(),
            buffers: Buffers::default(),
        }))
    }

    /// Gets a block from a peer that is reached at an address, and verifies it.
    ///
    /// The peer may wait for the block as long as `wait`, if it does not have it yet. Any number of calls may run at once.
    /// The bytes are hashed in the caller's task, so calls in several tasks use several cores. Dropping the future
    /// takes the request back. Outcomes are counted here, all but [`GetOutcome::Late`].
    ///
    /// # Errors
    /// [`GetError`].
    pub async fn get(
        &self,
        peer: NodeId,
        address: SocketAddr,
        reference: &Reference,
        wait: Duration,
    ) -> Result<Block, GetError> {
        let began = Instant::now();
        let ledger = self.with_book(|book| book.open(peer, address, began));
        let got = match self.ask(peer, address, reference, wait).await {
            Ok(bytes) => verify(*reference, bytes),
            Err(error) => Err(error),
        };
        let metrics = self.metrics();
        match &got {
            Ok(block) => {
                let bytes = block.bytes().len();
                ledger.note_received(bytes);
                metrics.received_bytes.inc_by(bytes as u64);
                metrics.get_seconds.observe(began.elapsed().as_secs_f64());
                if wait.is_zero() {
                    ledger.note_latency(began.elapsed());
                }
            }
            Err(GetError::Wrong) => {
                ledger.wrong.fetch_add(1, Ordering::Relaxed);
                self.0.settings.metrics.wrong_blocks.inc();
                self.shun(peer, address);
            }
            Err(GetError::Lost) => drop(ledger.lost.fetch_add(1, Ordering::Relaxed)),
            Err(GetError::Gone | GetError::Busy | GetError::Refused) => {}
        }
        metrics.count_get(outcome(&got));
        got
    }

    async fn ask(
        &self,
        peer: NodeId,
        address: SocketAddr,
        reference: &Reference,
        wait: Duration,
    ) -> Result<Bytes, GetError> {
        let hash = BlockHash::of(reference);
        let wanted = Wanted { hash, tag: hash.tag(reference), key: reference.key, wait };
        // A connection that ends for want of use as the request comes is replaced, once.
        for _ in 0..2 {
            return match self.slot(peer, address)?.get(wanted).await {
                Ok(Answer::Bytes(bytes)) => Ok(self.0.buffers.lend(bytes)),
                Ok(Answer::Gone) => Err(GetError::Gone),
                Ok(Answer::Busy) => Err(GetError::Busy),
                Err(Unanswered::Lost) => Err(GetError::Lost),
                Err(Unanswered::Refused) => Err(GetError::Refused),
                Err(Unanswered::Idle) => continue,
            };
        }
        Err(GetError::Lost)
    }

    /// Returns whether a peer is shunned: nothing is asked of it, and its answers are worth nothing.
    #[must_use]
    pub fn is_shunned(&self, peer: NodeId) -> bool {
        self.with_book(|book| book.is_shunned(peer, Instant::now()))
    }

    /// Returns every remembered peer, in the order of their ids.
    #[must_use]
    pub fn report(&self) -> Vec<PeerReport> {
        let now = Instant::now();
        self.with_book(|book| book.entries().into_iter().map(|(id, entry)| report(id, entry, now)).collect())
    }

    /// Returns where peers are counted.
    pub(crate) fn metrics(&self) -> &PeerMetrics {
        &self.0.settings.metrics.peers
    }

    /// Returns whether what is exchanged with a peer crosses a WAN: sites are LANs.
    fn is_off_site(&self, peer: &PeerIdentity) -> bool {
        peer.site != self.0.settings.site
    }

    /// Notes a peer whose connection stands, and counts the connection until [`Ledger::connections`] is lowered.
    fn meet(&self, identity: PeerIdentity, address: SocketAddr) -> Arc<Ledger> {
        self.with_book(|book| {
            let ledger = book.open(identity.id, address, Instant::now());
            book.identify(identity);
            ledger.connections.fetch_add(1, Ordering::Relaxed);
            ledger
        })
    }

    /// Returns a place for a request to a peer, on the connection with the fewest, and begins another connection where
    /// there is none, or all have much to do.
    fn slot(&self, peer: NodeId, address: SocketAddr) -> Result<Slot, GetError> {
        if self.is_shunned(peer) {
            return Err(GetError::Refused);
        }
        let now = Instant::now();
        self.with_pool(|pool| {
            let others: usize = pool.values().map(|reached| reached.connections.len()).sum();
            let reached = pool.entry(peer).or_default();
            reached.connections.retain(|connection| connection.is_live());
            let best = reached.connections.iter().min_by_key(|connection| connection.open()).cloned();
            let failed = reached.failed.filter(|(at, _, until)| *at == address && *until > now);
            let more = match &best {
                None => true,
                Some(best) => {
                    best.open() >= MANY && reached.connections.len() < self.0.settings.connections_a_peer
                }
            };
            if more && failed.is_none() && others < CONNECTIONS_MAX {
                let connection = self.connect(peer, address);
                reached.connections.push(connection.clone());
                // The one that stands is the faster one for this request.
                return best.unwrap_or(connection).slot().ok_or(GetError::Busy);
            }
            match (best, failed) {
                (Some(best), _) => best.slot().ok_or(GetError::Busy),
                (None, Some((_, error, _))) => Err(error),
                (None, None) => Err(GetError::Busy),
            }
        })
    }

    /// Begins a connection.
    fn connect(&self, peer: NodeId, address: SocketAddr) -> Arc<Connection> {
        let (counted, peers) = (Arc::new(Mutex::new(None)), self.clone());
        let counting = counted.clone();
        let (connection, carried) = Connection::new(ConnectionSettings {
            address,
            tls: self.0.settings.tls.dialling(peer),
            dial: self.0.settings.dial.clone(),
            buffers: self.0.buffers.clone(),
            patience: self.0.settings.patience,
            greet: Box::new(move |identity| {
                let off_site = peers.is_off_site(&identity).then(|| peers.metrics().clone());
                let ledger = peers.meet(identity, address);
                *counting.lock().unwrap_or_else(PoisonError::into_inner) = Some(ledger);
                off_site
            }),
        });
        let (peers, stopping) = (self.clone(), self.0.drain.stopping().clone());
        self.0.drain.spawn("connection to a peer", async move {
            let left = stopping.run_until_cancelled(carried).await;
            let stood = counted.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(ledger) = &stood {
                ledger.connections.fetch_sub(1, Ordering::Relaxed);
            }
            let ended = left.as_ref().map_or(Unanswered::Lost, |left| left.reason);
            peers.handle_ended(peer, address, ended, stood.is_some());
            if let Some(left) = left {
                left.answer().await;
            }
        });
        connection
    }

    /// Forgets connections that have ended, and remembers for a while that there is no use in trying again.
    fn handle_ended(&self, peer: NodeId, address: SocketAddr, ended: Unanswered, stood: bool) {
        let failed = match ended {
            Unanswered::Refused => Some((GetError::Refused, REFUSED_PAUSE)),
            Unanswered::Lost if !stood => Some((GetError::Lost, LOST_PAUSE)),
            Unanswered::Lost | Unanswered::Idle => None,
        };
        self.with_pool(|pool| {
            let Some(reached) = pool.get_mut(&peer) else { return };
            reached.connections.retain(|connection| connection.is_live());
            reached.failed = failed.map(|(error, pause)| (address, error, Instant::now() + pause));
            // Few of these are kept, so that ids that lead nowhere do not gather.
            pool.retain(|_, reached| {
                !reached.connections.is_empty()
                    || reached.failed.is_some_and(|(_, _, until)| until > Instant::now())
            });
        });
    }

    /// Shuns a peer that sent wrong bytes, and drops its connections.
    fn shun(&self, peer: NodeId, address: SocketAddr) {
        let length = self.with_book(|book| book.shun(peer, address, Instant::now()));
        warn!(?peer, %address, seconds = length.as_secs(), "a peer sent wrong bytes and is shunned");
        let reached = self.with_pool(|pool| pool.remove(&peer)).unwrap_or_default();
        for connection in reached.connections {
            connection.close();
        }
        self.count_shunned();
        let (peers, stopping) = (self.clone(), self.0.drain.stopping().clone());
        self.0.drain.spawn("end of a shunning", async move {
            stopping.run_until_cancelled(tokio::time::sleep(length)).await;
            peers.count_shunned();
            debug!(?peer, "the shunning is over");
        });
    }

    fn count_shunned(&self) {
        let shunned = self.with_book(|book| book.shunned(Instant::now()));
        self.metrics().shunned.set(i64::try_from(shunned).unwrap_or(i64::MAX));
    }

    fn with_book<T>(&self, call: impl FnOnce(&mut Book) -> T) -> T {
        call(&mut self.0.book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_pool<T>(&self, call: impl FnOnce(&mut HashMap<NodeId, Reached>) -> T) -> T {
        call(&mut self.0.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Peers")
    }
}

/// Checks what a peer sent. Proofs cover the digest and no length: a peer whose bytes have the digest is not to blame
/// when the reference claims another length for them.
fn verify(reference: Reference, bytes: Bytes) -> Result<Block, GetError> {
    let sent = bytes.clone();
    Block::verify(reference, bytes)
        .map_err(|_| if digest(&sent) == reference.digest { GetError::Gone } else { GetError::Wrong })
}

fn outcome(got: &Result<Block, GetError>) -> GetOutcome {
    match got {
        Ok(_) => GetOutcome::Block,
        Err(GetError::Gone) => GetOutcome::Gone,
        Err(GetError::Busy) => GetOutcome::Busy,
        Err(GetError::Wrong) => GetOutcome::Wrong,
        Err(GetError::Lost | GetError::Refused) => GetOutcome::Lost,
    }
}

fn report(id: NodeId, entry: &book::Entry, now: Instant) -> PeerReport {
    let ledger = &entry.ledger;
    PeerReport {
        id,
        name: entry.identity.as_ref().map(|identity| identity.name.clone()),
        site: entry.identity.as_ref().map(|identity| identity.site.clone()),
        address: entry.address,
        connected: ledger.connections.load(Ordering::Relaxed) > 0,
        blocks_received: ledger.blocks_received.load(Ordering::Relaxed),
        bytes_received: ledger.bytes_received.load(Ordering::Relaxed),
        blocks_served: ledger.blocks_served.load(Ordering::Relaxed),
        bytes_served: ledger.bytes_served.load(Ordering::Relaxed),
        wrong: ledger.wrong.load(Ordering::Relaxed),
        lost: ledger.lost.load(Ordering::Relaxed),
        latency: ledger.latency(),
        shunned_for: entry.shunned_for(now),
    }
}

/// Connections to all peers together.
const CONNECTIONS_MAX: usize = 256;

/// Open requests on every connection to a peer from which another one is worth its handshake.
const MANY: usize = 16;

/// How long a peer is left alone that could not be reached.
const LOST_PAUSE: Duration = Duration::from_secs(1);

/// How long a peer is left alone that refuses this node, or is another than it should be.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
