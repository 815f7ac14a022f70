//! The link between an edge and a core: one QUIC connection, kept warm by the edge.
//!
//! The edge opens the control stream (hello, then PROGRESS both ways) and one a flow; either side opens short ones for
//! fetches, the core for what an upload refers to. A [`Link`] is a cheap handle to one connection; a [`core_link::CoreLink`] is the edge's standing wish to
//! have one, which it meets again after every loss.
//!
//! What keeps it from ever waiting on itself: the task that reads the control stream only notes totals in the flows'
//! mailboxes and never waits; a flow that reports progress never waits either; flows, fetches and control each have
//! streams of their own (see [`transport::FETCH_STREAMS`] and the flows' permits).

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::sleep;
use wanigan_parsers::wan::{Frame, FrameError, KeyId, NO_FLOW, OlderKey, Refusal, StreamKind, VERSION};

pub mod core_link;
mod fetches;
pub mod frames;
mod hystart;
pub mod numbering;
pub mod session;
pub mod transport;

pub use self::fetches::{FetchAnswer, FetchRequest};
use self::frames::{FrameReader, READ_BYTES, StreamError, read_frame};
use self::numbering::{Numbered, Numbers};
use self::session::{Hearing, Liveness, SIGN_EVERY, VERSION_MIN};
use self::transport::FETCH_STREAMS;
use crate::drain::Drain;

/// Codes of reset streams: why a flow was reset, for the other side's metrics.
pub mod code {
    use quinn::VarInt;

    /// The leg was reset.
    pub const LEG: VarInt = VarInt::from_u32(1);
    /// The other side broke the protocol.
    pub const PROTOCOL: VarInt = VarInt::from_u32(2);
    /// A reference could be resolved by nobody.
    pub const UNRESOLVED: VarInt = VarInt::from_u32(3);
    /// The node is stopping, or the flow is given up before it began.
    pub const STOPPING: VarInt = VarInt::from_u32(4);
}

/// Why there is no link, or none any longer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The core's name has no address.
    #[error("no address of {0}")]
    NoAddress(String),
    /// The name could not be looked up.
    #[error("look up {0}")]
    Resolve(String, #[source] std::io::Error),
    /// The connection could not begin.
    #[error("connect to {0}")]
    Connect(SocketAddr, #[source] quinn::ConnectError),
    /// The connection broke or was refused; certificates are among the reasons.
    #[error("connection broke")]
    Connection(#[from] quinn::ConnectionError),
    /// No answer in time.
    #[error("no answer in {0:?}")]
    TimedOut(Duration),
    /// The control stream broke.
    #[error("control stream")]
    Stream(#[from] StreamError),
    /// The control stream could not be written.
    #[error("write control stream")]
    Write(#[from] quinn::WriteError),
    /// The other side's hello says that there will be no link.
    #[error("refused by the other side: {0:?}")]
    Refused(Refusal),
    /// A frame where it has no place.
    #[error("unexpected frame")]
    Unexpected,
}

/// The time of a core, at a moment of this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreTime {
    /// Milliseconds since 1970, as the core counts them.
    pub time_ms: u64,
    /// When that was.
    pub at: Instant,
}

/// The server secrets that a core names blocks with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// The current one.
    pub key: KeyId,
    /// The one before, in its grace period.
    pub older: Option<OlderKey>,
}

/// How far the receiver of a flow has come, as totals since the flow began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// References resolved.
    pub resolved: u64,
    /// DATA and SEAL frames taken.
    pub blocks: u64,
    /// Credit given.
    pub credit: u64,
}

/// A flow's place in its link: what the control and fetch streams have for it. Leaves the link when dropped.
#[derive(Debug)]
pub struct FlowPort {
    link: Link,
    flow: u64,
    /// Latest totals.
    pub progress: watch::Receiver<Progress>,
    /// Fetches to answer.
    pub fetches: mpsc::Receiver<FetchRequest>,
}

impl Drop for FlowPort {
    fn drop(&mut self) {
        self.link.with_flows(|flows| flows.remove(&self.flow));
    }
}

impl FlowPort {
    /// Returns the link.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Returns the flow's number.
    #[must_use]
    pub fn flow(&self) -> u64 {
        self.flow
    }
}

#[derive(Debug)]
struct Mailbox {
    progress: watch::Sender<Progress>,
    fetches: mpsc::Sender<FetchRequest>,
}

/// Tells this process's links apart; none is given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkId(pub u64);

/// A link that stands, from either side.
#[derive(Debug, Clone)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: LinkId,
    connection: Connection,
    control: mpsc::Sender<Frame<Bytes>>,
    flows: Mutex<HashMap<u64, Mailbox>>,
    next_flow: AtomicU64,
    fetch_permits: Arc<Semaphore>,
    flow_permits: Arc<Semaphore>,
    numbers: Arc<Numbers>,
    numbered: Arc<Numbered>,
    hearing: watch::Sender<Hearing>,
    /// The latest sign of life: that the core returned, or that the edge gave.
    heard: AtomicU64,
    /// What the core said last; nothing at a core.
    time: watch::Sender<Option<CoreTime>>,
    keys: watch::Sender<Option<Keys>>,
    /// Where the edge said that it is reached; nothing at an edge.
    reached: watch::Sender<Vec<SocketAddr>>,
}

/// A stream of a flow, first byte written or read.
#[derive(Debug)]
pub struct FlowStream {
    /// Towards the other node.
    pub send: SendStream,
    /// From the other node.
    pub recv: RecvStream,
    /// What was received of a frame.
    pub reader: FrameReader,
    /// Keeps the flow's place in the stream budget.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Link {
    /// Says hello as an edge and starts the control stream's tasks.
    ///
    /// # Errors
    /// [`LinkError`] when the core refuses or does not answer as it should.
    pub async fn greet(connection: Connection, hello: Hello, drain: &Drain) -> Result<Self, LinkError> {
        let (mut send, mut recv) = connection.open_bi().await?;
        let _ = send.set_priority(CONTROL_PRIORITY);
        let mut bytes = vec![StreamKind::Control.to_byte()];
        Frame::<Bytes>::Hello {
            version_min: VERSION_MIN,
            version_max: VERSION,
            store: hello.store,
            stores: hello.stores,
            shares: hello.shares,
            asks: hello.asks,
        }
        .encode(&mut bytes);
        send.write_all(&bytes).await?;
        let mut reader = FrameReader::default();
        match read_frame(&mut recv, &mut reader).await? {
            Frame::Welcome { version, flows, time_ms, retain: _ } if version >= VERSION_MIN => {
                let link = Self::start(connection, flows, send, recv, reader, drain);
                link.handle_time(time_ms);
                Ok(link)
            }
            Frame::Refuse(refusal) => Err(LinkError::Refused(refusal)),
            _ => Err(LinkError::Unexpected),
        }
    }

    /// Starts the control stream's tasks of a link whose hello is done.
    pub fn start(
        connection: Connection,
        flows: u32,
        send: SendStream,
        recv: RecvStream,
        reader: FrameReader,
        drain: &Drain,
    ) -> Self {
        let (control, frames) = mpsc::channel(CONTROL_QUEUE);
        let link = Self(Arc::new(Inner {
            id: LinkId(NEXT_LINK.fetch_add(1, Ordering::Relaxed)),
            connection,
            control,
            flows: Mutex::default(),
            next_flow: AtomicU64::new(0),
            fetch_permits: Arc::new(Semaphore::new(FETCH_STREAMS as usize)),
            flow_permits: Arc::new(Semaphore::new(flows as usize)),
            numbers: Arc::default(),
            numbered: Arc::default(),
            hearing: watch::Sender::new(Hearing::Clear),
            heard: AtomicU64::new(0),
            time: watch::Sender::new(None),
            keys: watch::Sender::new(None),
            reached: watch::Sender::new(Vec::new()),
        }));
        let name = "control stream";
        drain.spawn(name, write_control(send, frames));
        let reading = link.clone();
        drain.spawn(name, async move {
            let ended = read_control(&reading, recv, reader).await;
            reading.close();
            ended
        });
        link
    }

    /// Returns which link of this process it is.
    #[must_use]
    pub fn id(&self) -> LinkId {
        self.0.id
    }

    /// Follows the core's time: what it said at hello and with each sign of life.
    #[must_use]
    pub fn time(&self) -> watch::Receiver<Option<CoreTime>> {
        self.0.time.subscribe()
    }

    /// Follows the core's server secrets.
    #[must_use]
    pub fn keys(&self) -> watch::Receiver<Option<Keys>> {
        self.0.keys.subscribe()
    }

    /// Follows where the edge is reached by others.
    #[must_use]
    pub fn reached(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.0.reached.subscribe()
    }

    /// Tells the edge the core's server secrets.
    pub async fn tell_keys(&self, keys: Keys) {
        let Keys { key, older } = keys;
        // A control stream that has ended is noticed by whoever owns the link.
        let _ = self.0.control.send(Frame::Keys { key, older }).await;
    }

    /// Tells the core where this edge is reached by others.
    pub async fn tell_reached(&self, addresses: Vec<SocketAddr>) {
        let _ = self.0.control.send(Frame::Reached(addresses)).await;
    }

    /// Returns the numbers of references that this side introduced.
    #[must_use]
    pub fn numbers(&self) -> Arc<Numbers> {
        Arc::clone(&self.0.numbers)
    }

    /// Returns the references that the other side introduced.
    #[must_use]
    pub fn numbered(&self) -> Arc<Numbered> {
        Arc::clone(&self.0.numbered)
    }

    /// Returns the connection's round trip time.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.0.connection.rtt()
    }

    /// Returns what the line carries, in bytes a second: what the congestion controller lets go in a round trip.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let path = self.0.connection.stats().path;
        let micros = path.rtt.as_micros().max(1);
        u64::try_from(u128::from(path.cwnd) * 1_000_000 / micros).unwrap_or(u64::MAX)
    }

    /// Opens a stream for a flow and writes its first frame, or returns `None` where no stream is free at once or the
    /// other side falls silent before the frame is out.
    pub async fn open_flow(&self, open: impl FnOnce(u64) -> Frame<Bytes>) -> Option<(FlowStream, FlowPort)> {
        let permit = Arc::clone(&self.0.flow_permits).try_acquire_owned().ok()?;
        let opening = pin!(self.0.connection.open_bi());
        let (mut send, recv) = at_once(opening).await?.ok()?;
        let flow = self.0.next_flow.fetch_add(1, Ordering::Relaxed);
        let port = self.register(flow)?;
        let mut bytes = vec![StreamKind::Flow.to_byte()];
        open(flow).encode(&mut bytes);
        tokio::select! {
            written = send.write_all(&bytes) => written.ok()?,
            () = self.unheard() => {
                let _ = send.reset(code::STOPPING);
                return None;
            }
        }
        Some((FlowStream { send, recv, reader: FrameReader::default(), permit: Some(permit) }, port))
    }

    /// Gives a flow its mailboxes, or returns `None` where its number is taken.
    #[must_use]
    pub fn register(&self, flow: u64) -> Option<FlowPort> {
        let (progress, latest) = watch::channel(Progress::default());
        let (fetches, requests) = mpsc::channel(FETCH_QUEUE);
        let new = self.with_flows(|flows| {
            let free = !flows.contains_key(&flow);
            if free {
                flows.insert(flow, Mailbox { progress, fetches });
            }
            free
        });
        new.then(|| FlowPort { link: self.clone(), flow, progress: latest, fetches: requests })
    }

    /// Tells the other side how far a flow's receiver is. Returns whether the report was taken; if not, a later one
    /// with larger totals says it all.
    #[must_use]
    pub fn report(&self, flow: u64, progress: Progress) -> bool {
        let Progress { resolved, blocks, credit } = progress;
        self.0.control.try_send(Frame::Progress { flow, resolved, blocks, credit }).is_ok()
    }

    /// Returns the next stream that the other side opened.
    ///
    /// # Errors
    /// When the connection ended.
    pub async fn accept(&self) -> Result<(SendStream, RecvStream), quinn::ConnectionError> {
        self.0.connection.accept_bi().await
    }

    /// Waits until the other side has not been heard for [`session::SUSPECT_AFTER`], or the link has ended.
    pub async fn unheard(&self) {
        let mut hearing = self.0.hearing.subscribe();
        tokio::select! {
            _ = hearing.wait_for(|hearing| *hearing == Hearing::Lost) => {}
            _ = self.0.connection.closed() => {}
        }
    }

    /// Waits for the end of the connection.
    pub async fn closed(&self) {
        self.0.connection.closed().await;
    }

    /// Returns how well the other side is heard.
    #[must_use]
    pub fn hearing(&self) -> Hearing {
        match self.0.connection.close_reason() {
            Some(_) => Hearing::Lost,
            None => *self.0.hearing.borrow(),
        }
    }

    /// Follows how well the other side is heard; that the link has ended is not told.
    #[must_use]
    pub fn follow_hearing(&self) -> watch::Receiver<Hearing> {
        self.0.hearing.subscribe()
    }

    /// Waits until the other side is heard otherwise than `before`, or the link has ended.
    pub async fn hearing_changed(&self, before: Hearing) {
        let mut hearing = self.0.hearing.subscribe();
        tokio::select! {
            _ = hearing.wait_for(|hearing| *hearing != before) => {}
            _ = self.0.connection.closed() => {}
        }
    }

    /// Ends the link when its last flow has; until then what it carries goes on.
    pub async fn retire(&self) {
        while !self.with_flows(|flows| flows.is_empty()) {
            tokio::select! {
                () = self.closed() => return,
                () = sleep(RETIRE_TICK) => {}
            }
        }
        self.close();
    }

    /// Returns the address of this node's that the link goes out from, if the system tells.
    #[must_use]
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.0.connection.local_ip()
    }

    /// Returns where the other node is.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.0.connection.remote_address()
    }

    /// Ends the link and with it every flow on it.
    pub fn close(&self) {
        self.0.connection.close(VarInt::from_u32(0), b"");
    }

    /// Keeps [`Link::hearing`] true to the signs of life, until the link ends: an edge gives them, and hears those that
    /// the core returns; a core hears those that are given.
    ///
    /// Datagrams that arrive would not do, nor acknowledgements: a core that our packets do not reach goes on sending
    /// both.
    pub async fn watch_liveness(&self) -> quinn::ConnectionError {
        let mut liveness = Liveness::new(Instant::now());
        let mut ticks = 0;
        loop {
            tokio::select! {
                reason = self.0.connection.closed() => return reason,
                () = sleep(LIVENESS_TICK) => {
                    ticks += 1;
                    if ticks % SIGN_TICKS == 0 && !self.0.connection.side().is_server() {
                        let _ = self.report(NO_FLOW, Progress { resolved: ticks, ..Progress::default() });
                    }
                    let hearing = liveness.handle_count(self.0.heard.load(Ordering::Relaxed), Instant::now());
                    self.0.hearing.send_if_modified(|before| std::mem::replace(before, hearing) != hearing);
                }
            }
        }
    }

    /// Takes note of a sign of life, and returns it at a core.
    fn handle_sign(&self, sign: u64, time_ms: u64) {
        self.0.heard.fetch_max(sign, Ordering::Relaxed);
        if self.0.connection.side().is_server() {
            // Without room for it now the next one will do.
            let returned = Progress { resolved: sign, blocks: 0, credit: unix_time_ms() };
            let _ = self.report(NO_FLOW, returned);
        } else {
            self.handle_time(time_ms);
        }
    }

    fn handle_time(&self, time_ms: u64) {
        // It was said half a round trip ago.
        let way = u64::try_from(self.rtt().as_millis() / 2).unwrap_or(0);
        let time_ms = time_ms.saturating_add(way);
        self.0.time.send_replace(Some(CoreTime { time_ms, at: Instant::now() }));
    }

    fn with_flows<T>(&self, call: impl FnOnce(&mut HashMap<u64, Mailbox>) -> T) -> T {
        call(&mut self.0.flows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What an edge says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Hello {
    /// Names the store.
    pub store: [u8; 16],
    /// Whether blocks are kept.
    pub stores: bool,
    /// Whether blocks are given to peers.
    pub shares: bool,
    /// Whether blocks are taken from peers.
    pub asks: bool,
}

async fn write_control(
    mut send: SendStream,
    mut frames: mpsc::Receiver<Frame<Bytes>>,
) -> Result<(), LinkError> {
    let mut bytes = Vec::new();
    while let Some(frame) = frames.recv().await {
        frame.encode(&mut bytes);
        while bytes.len() < READ_BYTES
            && let Ok(frame) = frames.try_recv()
        {
            frame.encode(&mut bytes);
        }
        send.write_all(&bytes).await?;
        bytes.clear();
    }
    Ok(())
}

async fn read_control(link: &Link, mut recv: RecvStream, mut reader: FrameReader) -> Result<(), LinkError> {
    loop {
        match read_frame(&mut recv, &mut reader).await {
            Ok(Frame::Progress { flow: NO_FLOW, resolved, blocks: _, credit }) => {
                link.handle_sign(resolved, credit);
            }
            Ok(Frame::Keys { key, older }) if !link.0.connection.side().is_server() => {
                link.0.keys.send_replace(Some(Keys { key, older }));
            }
            Ok(Frame::Reached(addresses)) if link.0.connection.side().is_server() => {
                link.0.reached.send_replace(addresses);
            }
            Ok(Frame::Progress { flow, resolved, blocks, credit }) => link.with_flows(|flows| {
                if let Some(mailbox) = flows.get(&flow) {
                    mailbox.progress.send_modify(|latest| {
                        latest.resolved = latest.resolved.max(resolved);
                        latest.blocks = latest.blocks.max(blocks);
                        latest.credit = latest.credit.max(credit);
                    });
                }
            }),
            Ok(_) => return Err(LinkError::Unexpected),
            Err(StreamError::Frame(error)) => return Err(StreamError::Frame(error).into()),
            // The connection's end is reported by whoever watches the connection.
            Err(StreamError::Read(_) | StreamError::Ended) => return Ok(()),
        }
    }
}

/// Returns this node's time, in milliseconds since 1970.
#[must_use]
pub fn unix_time_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the core's clock is the time of its domain")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Polls a future once.
async fn at_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

impl From<FrameError> for LinkError {
    fn from(error: FrameError) -> Self {
        Self::Stream(error.into())
    }
}

static NEXT_LINK: AtomicU64 = AtomicU64::new(0);

/// Frames that wait for the control stream at most; beyond them a flow reports later.
const CONTROL_QUEUE: usize = 1024;

/// Fetches that wait for one flow at most.
const FETCH_QUEUE: usize = 4;

/// Stream priorities: acknowledgements and fetches overtake pushes (0).
const CONTROL_PRIORITY: i32 = 2;
const FETCH_PRIORITY: i32 = 1;

/// How often a link that was replaced looks whether its flows have ended.
const RETIRE_TICK: Duration = Duration::from_secs(1);

/// How often the returned signs of life are looked at.
const LIVENESS_TICK: Duration = Duration::from_millis(250);

/// Ticks from one sign of life to the next.
const SIGN_TICKS: u64 = (SIGN_EVERY.as_millis() / LIVENESS_TICK.as_millis()) as u64;
