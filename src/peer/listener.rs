//! The socket on which peers are served, and a task for each of them.
//!
//! A stranger gets as far as the handshake: those have places of their own, few a source address, and a deadline, so
//! that nobody without a certificate keeps peers out. What a peer may then take is bounded by its
//! [`Session`], by connections, and by the rate of all peers together.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, sleep_until, timeout};
use tracing::debug;
use wanigan_parsers::peer::{Frame, FrameError, FrameReader};

use super::book::Ledger;
use super::channel::{Channel, ChannelError};
use super::rate::Rate;
use super::serving::{Answer, Broken, Lookup, REQUESTS_MAX, Session};
use super::waiting::{Arrival, ConnectionPlaces, Waiting};
use super::{Blocks, Peers};
use crate::block::{Block, Reference};
use crate::drain::Drain;
use crate::fault::ServeRefusal;
use crate::metrics::PeerMetrics;
use crate::pki::NotThePeer;
use crate::relay;

/// What it takes to serve peers.
#[derive(Clone)]
pub struct ServingSettings {
    /// This node's TLS (see [`crate::pki::NodeIdentity::peer_server_tls`]).
    pub tls: Arc<ServerConfig>,
    /// Connections at once.
    pub connections: usize,
    /// Bytes of blocks a second, to all peers together.
    pub rate: Option<u64>,
    /// Where blocks come from.
    pub blocks: Arc<dyn Blocks>,
    /// Where requests wait for blocks that are on their way.
    pub waiting: Waiting,
}

/// A bound socket on which peers can be served.
#[derive(Debug)]
pub struct Serving {
    listener: TcpListener,
}

impl Serving {
    /// Binds the socket. `[::]` takes IPv4 too.
    ///
    /// # Errors
    /// The socket's, for example that the address is in use.
    pub fn bind(listen: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM.nonblocking(), None)?;
        if listen.is_ipv6() && listen.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&listen.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self { listener: TcpListener::from_std(socket.into())? })
    }

    /// Returns the address that was bound.
    ///
    /// # Errors
    /// The socket's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves peers until the drain's tasks are to stop. Whom it serves is noted in the book of `peers`.
    pub async fn run(self, settings: ServingSettings, peers: Peers, drain: Drain) {
        let stopping = drain.stopping().clone();
        let door = Door {
            slots: Arc::new(Semaphore::new(settings.connections)),
            handshakes: Arc::default(),
            rate: settings.rate.map(|rate| Arc::new(Mutex::new(Rate::new(rate)))),
            metrics: peers.metrics().clone(),
            settings,
            peers,
        };
        let accept = async {
            loop {
                match self.listener.accept().await {
                    Ok((tcp, from)) => door.admit(tcp, from, &drain),
                    // A connection that was gone before it was accepted, or no descriptor for it.
                    Err(error) => {
                        debug!(%error, "no connection of a peer accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        stopping.run_until_cancelled(accept).await;
    }
}

/// What all connections share.
#[derive(Clone)]
struct Door {
    settings: ServingSettings,
    slots: Arc<Semaphore>,
    handshakes: Arc<Mutex<HashMap<IpAddr, usize>>>,
    rate: Option<Arc<Mutex<Rate>>>,
    metrics: PeerMetrics,
    peers: Peers,
}

impl Door {
    fn admit(&self, tcp: TcpStream, from: SocketAddr, drain: &Drain) {
        let Some(place) = HandshakePlace::take(&self.handshakes, from.ip()) else {
            self.metrics.count_serve_refusal(ServeRefusal::Busy);
            return;
        };
        let (door, stopping) = (self.clone(), drain.stopping().clone());
        drain.spawn("serve a peer", async move {
            stopping.run_until_cancelled(door.serve(tcp, from, place)).await;
        });
    }

    async fn serve(self, tcp: TcpStream, from: SocketAddr, place: HandshakePlace) {
        if relay::prepare(&tcp).is_err() {
            return;
        }
        let handshake = timeout(HANDSHAKE_DEADLINE, Channel::accept(tcp, self.settings.tls.clone())).await;
        drop(place);
        let mut channel = match handshake {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => {
                debug!(%from, error = &error as &dyn std::error::Error, "peer refused");
                self.metrics.count_serve_refusal(refusal(&error));
                return;
            }
            Err(_) => {
                self.metrics.count_serve_refusal(ServeRefusal::Handshake);
                return;
            }
        };
        let (Ok(identity), Ok(exporter)) = (channel.identity(), channel.exporter()) else { return };
        let id = identity.id;
        if self.peers.is_off_site(&identity) {
            channel.count_off_site(&self.metrics);
        }
        let ledger = self.peers.meet(identity, from);
        let own = ledger.served_connections.fetch_add(1, Ordering::Relaxed);
        let _served = Served { ledger: ledger.clone(), metrics: self.metrics.clone() };
        self.metrics.connections.inc();
        let Ok(_slot) = self.slots.clone().try_acquire_owned() else {
            self.metrics.count_serve_refusal(ServeRefusal::Busy);
            return;
        };
        if own >= CONNECTIONS_A_PEER {
            self.metrics.count_serve_refusal(ServeRefusal::Busy);
            return;
        }
        let (sender, arrivals) = mpsc::channel(REQUESTS_MAX);
        let session = Session::new(exporter, self.settings.waiting.places(sender), Instant::now());
        let mut connection = Connection {
            channel,
            reader: FrameReader::default(),
            session,
            arrivals,
            sent: Instant::now(),
            ledger,
            door: &self,
        };
        let ended = connection.run(&*self.settings.blocks).await;
        if let ServeError::Frame(_) | ServeError::Broken(_) = ended {
            self.metrics.count_serve_refusal(ServeRefusal::Malformed);
        }
        debug!(peer = ?id, %from, reason = &ended as &dyn std::error::Error, "peer is served no longer");
    }
}

/// Why a peer is served no longer.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("malformed frame")]
    Frame(#[from] FrameError),
    #[error("protocol broken")]
    Broken(#[from] Broken),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("it takes its blocks too slowly")]
    Slow,
    #[error("idle")]
    Idle,
}

/// One connection of a peer.
struct Connection<'a> {
    channel: Channel,
    reader: FrameReader,
    session: Session<ConnectionPlaces>,
    arrivals: mpsc::Receiver<Arrival>,
    /// When what is being written was handed to the channel.
    sent: Instant,
    ledger: Arc<Ledger>,
    door: &'a Door,
}

impl Connection<'_> {
    async fn run(&mut self, blocks: &dyn Blocks) -> ServeError {
        match self.serve(blocks).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn serve(&mut self, blocks: &dyn Blocks) -> Result<std::convert::Infallible, ServeError> {
        let mut lookup: Option<Looking<'_>> = None;
        loop {
            if lookup.is_none() {
                lookup = self.session.poll_lookup().map(|next| look(blocks, next));
            }
            self.write()?;
            while let Some(reason) = self.session.poll_refusal() {
                self.door.metrics.count_serve_refusal(reason);
            }
            let deadline = self.deadline();
            tokio::select! {
                found = async { lookup.as_mut().expect("checked").await }, if lookup.is_some() => {
                    lookup = None;
                    let now = Instant::now();
                    match found {
                        Found::Reference(request, found) => self.session.handle_found(request, found, now),
                        Found::Block(request, block) => self.session.handle_read(request, block, now),
                    }
                }
                ready = self.channel.ready(self.session.takes_frames()) => {
                    if ready.map_err(ChannelError::from)?.is_readable() {
                        self.read()?;
                    }
                }
                Some((request, block)) = self.arrivals.recv() => self.session.handle_arrival(request, block),
                () = sleep_until(deadline.into()) => self.handle_timeout()?,
            }
        }
    }

    /// Hands the channel answers one at a time, for as long as the socket takes them.
    fn write(&mut self) -> Result<(), ServeError> {
        self.channel.flush()?;
        let mut head = Vec::with_capacity(16);
        while self.channel.is_flushed() {
            let now = Instant::now();
            let rate = self.door.rate.as_ref();
            let grant = |bytes| match rate {
                Some(rate) => rate.lock().unwrap_or_else(PoisonError::into_inner).grant(bytes, now),
                None => now,
            };
            let Some(answer) = self.session.poll_answer(now, grant) else { return Ok(()) };
            head.clear();
            let block = match &answer {
                Answer::Block(request, block) => {
                    Frame::Block { request: *request, bytes: block.bytes() }.encode_head(&mut head);
                    self.ledger.note_served(block.bytes().len());
                    self.door.metrics.served_bytes.inc_by(block.bytes().len() as u64);
                    &block.bytes()[..]
                }
                Answer::Gone(request) => encode(Frame::Gone { request: *request }, &mut head),
                Answer::Busy(request) => encode(Frame::Busy { request: *request }, &mut head),
                Answer::Waiting => encode(Frame::Waiting, &mut head),
            };
            self.sent = now;
            self.channel.send(&head, block)?;
            self.channel.flush()?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), ServeError> {
        let (reader, session, now) = (&mut self.reader, &mut self.session, Instant::now());
        self.channel.receive(1, |mut bytes| {
            while let Some(frame) = reader.read(&mut bytes)? {
                session.handle_frame(&frame, now)?;
            }
            Ok(())
        })
    }

    fn deadline(&self) -> Instant {
        let flushed = self.channel.is_flushed();
        let write = (!flushed).then(|| self.sent + WRITE_DEADLINE);
        let idle = self.session.idle_since().map(|since| since + IDLE);
        let session = self.session.poll_timeout(flushed);
        [write, idle, session].into_iter().flatten().min().unwrap_or_else(|| Instant::now() + IDLE)
    }

    fn handle_timeout(&mut self) -> Result<(), ServeError> {
        let now = Instant::now();
        if !self.channel.is_flushed() && now >= self.sent + WRITE_DEADLINE {
            return Err(ServeError::Slow);
        }
        if self.session.idle_since().is_some_and(|since| now >= since + IDLE) {
            return Err(ServeError::Idle);
        }
        self.session.handle_timeout(now);
        Ok(())
    }
}

/// A question to the store that is not answered yet.
type Looking<'a> = Pin<Box<dyn Future<Output = Found> + Send + 'a>>;

/// The store's answer for a request.
enum Found {
    Reference(u32, Option<Reference>),
    Block(u32, Option<Block>),
}

fn look(blocks: &dyn Blocks, lookup: Lookup) -> Looking<'_> {
    Box::pin(async move {
        match lookup {
            Lookup::Find { request, key, tag } => Found::Reference(request, blocks.find(key, tag).await),
            Lookup::Read { request, reference } => Found::Block(request, blocks.block(reference).await),
        }
    })
}

/// Appends a frame without a block.
fn encode<'a>(frame: Frame<&'a [u8]>, head: &mut Vec<u8>) -> &'a [u8] {
    frame.encode_head(head);
    &[]
}

fn refusal(error: &ChannelError) -> ServeRefusal {
    match error {
        ChannelError::Tls(error) if NotThePeer::of(error).is_some() => ServeRefusal::NotAnEdge,
        ChannelError::Certificate(_) => ServeRefusal::NotAnEdge,
        ChannelError::Tls(_) | ChannelError::Io(_) | ChannelError::Protocol | ChannelError::Closed => {
            ServeRefusal::Handshake
        }
    }
}

/// A connection that is counted as long as it lives.
struct Served {
    ledger: Arc<Ledger>,
    metrics: PeerMetrics,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.ledger.served_connections.fetch_sub(1, Ordering::Relaxed);
        self.ledger.connections.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.dec();
    }
}

/// A place for a handshake, by source address.
struct HandshakePlace {
    places: Arc<Mutex<HashMap<IpAddr, usize>>>,
    source: IpAddr,
}

impl HandshakePlace {
    fn take(places: &Arc<Mutex<HashMap<IpAddr, usize>>>, source: IpAddr) -> Option<Self> {
        let mut table = places.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: usize = table.values().sum();
        let own = table.entry(source).or_default();
        if *own >= HANDSHAKES_A_SOURCE || taken >= HANDSHAKES_MAX {
            if *own == 0 {
                table.remove(&source);
            }
            return None;
        }
        *own += 1;
        Some(Self { places: places.clone(), source })
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        let mut table = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = table.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                table.remove(&self.source);
            }
        }
    }
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(3);

/// Handshakes at once, and of one source address.
const HANDSHAKES_MAX: usize = 64;
const HANDSHAKES_A_SOURCE: usize = 8;

/// Connections of one peer.
const CONNECTIONS_A_PEER: u32 = 8;

/// How long a peer may take to read one answer.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a connection is kept that is not used.
const IDLE: Duration = Duration::from_secs(60);
