//! One connection to a peer, from the side that asks: a task that dials, then carries requests until it ends.
//!
//! Requests may be handed to a [`Connection`] before it stands; they wait for the dial, which has a deadline. However it
//! ends, each gets an answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wanigan_parsers::peer::{Frame, FrameError, FrameReader};

use super::Dial;
use super::buffers::Buffers;
use super::channel::{Channel, ChannelError};
use super::requests::{Answer, Failed, Patience, Requests};
use super::serving::REQUESTS_MAX;
use crate::block::{BlockHash, KeyId, Tag};
use crate::metrics::PeerMetrics;
use crate::pki::PeerIdentity;
use crate::proof::{self, Exporter};

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// The block's hash, to prove it with. It does not leave this host.
    pub(super) hash: BlockHash,
    /// The block's tag.
    pub(super) tag: Tag,
    /// The server secret of the tag.
    pub(super) key: KeyId,
    /// How long the peer may wait for the block.
    pub(super) wait: Duration,
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The connection could not be made, broke, or fell silent.
    Lost,
    /// One side refuses the other.
    Refused,
    /// The connection was closed for want of use at this very moment; another will do.
    Idle,
}

/// A connection that stands or is being made.
#[derive(Debug)]
pub(super) struct Connection {
    commands: mpsc::Sender<Command>,
    slots: Arc<Semaphore>,
    next: AtomicU32,
    close: CancellationToken,
}

/// A place for one request on a connection.
#[derive(Debug)]
pub(super) struct Slot {
    connection: Arc<Connection>,
    permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Command {
    Get(u32, Wanted, Reply),
    Cancel(u32),
}

#[derive(Debug)]
struct Reply {
    answer: oneshot::Sender<Result<Answer, Unanswered>>,
    /// Free again when the request is off the connection.
    _permit: OwnedSemaphorePermit,
}

/// What it takes to make a connection.
pub(super) struct ConnectionSettings {
    /// Where the peer is.
    pub(super) address: SocketAddr,
    /// TLS that accepts this peer alone.
    pub(super) tls: Arc<ClientConfig>,
    /// Makes the TCP connection.
    pub(super) dial: Dial,
    /// Where the memory of blocks comes from.
    pub(super) buffers: Buffers,
    /// How long it is given.
    pub(super) patience: Patience,
    /// Hears who the peer is once the connection stands; returns where its bytes are counted, if it is at another site.
    pub(super) greet: Box<dyn FnOnce(PeerIdentity) -> Option<PeerMetrics> + Send>,
}

impl Connection {
    /// Returns a connection, and the task that makes and carries it and says how it ended.
    pub(super) fn new(
        settings: ConnectionSettings,
    ) -> (Arc<Self>, impl Future<Output = Leftover> + Send + 'static) {
        // A request and its cancellation have room each.
        let (sender, commands) = mpsc::channel(2 * REQUESTS_MAX);
        let close = CancellationToken::new();
        let connection = Self {
            commands: sender,
            slots: Arc::new(Semaphore::new(REQUESTS_MAX)),
            next: AtomicU32::new(0),
            close: close.clone(),
        };
        (Arc::new(connection), run(settings, commands, close))
    }

    /// Returns how many requests are open.
    #[must_use]
    pub(super) fn open(&self) -> usize {
        REQUESTS_MAX - self.slots.available_permits()
    }

    /// Returns whether the connection has not ended.
    #[must_use]
    pub(super) fn is_live(&self) -> bool {
        !self.commands.is_closed() && !self.close.is_cancelled()
    }

    /// Ends the connection and with it its requests.
    pub(super) fn close(&self) {
        self.close.cancel();
    }

    /// Returns a place for a request, or `None` when all are taken.
    #[must_use]
    pub(super) fn slot(self: &Arc<Self>) -> Option<Slot> {
        let permit = self.slots.clone().try_acquire_owned().ok()?;
        Some(Slot { connection: self.clone(), permit })
    }
}

impl Slot {
    /// Asks. Dropping the future takes the request back.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub(super) async fn get(self, wanted: Wanted) -> Result<Answer, Unanswered> {
        let Self { connection, permit } = self;
        let request = connection.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let reply = Reply { answer: sender, _permit: permit };
        match connection.commands.try_send(Command::Get(request, wanted, reply)) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => return Err(Unanswered::Idle),
            Err(TrySendError::Full(_)) => return Ok(Answer::Busy),
        }
        let mut cancel = CancelOnDrop { connection: &connection, request: Some(request) };
        let answer = answer.await;
        cancel.request = None;
        answer.unwrap_or(Err(Unanswered::Lost))
    }
}

/// Takes a request back unless it was answered.
struct CancelOnDrop<'a> {
    connection: &'a Connection,
    request: Option<u32>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            // There is room, and a connection that has ended needs no cancellation.
            let _ = self.connection.commands.try_send(Command::Cancel(request));
        }
    }
}

/// What is left of a connection that has ended: whoever asked still waits for an answer.
pub(super) struct Leftover {
    /// How it ended.
    pub(super) reason: Unanswered,
    requests: Requests<Reply>,
    commands: mpsc::Receiver<Command>,
}

impl Leftover {
    /// Answers all. Whoever is answered may ask again at once: what the end of the connection changes comes first.
    pub(super) async fn answer(self) {
        let Self { reason, mut requests, mut commands } = self;
        for reply in requests.take_all() {
            reply.send(Err(reason));
        }
        while let Some(command) = commands.recv().await {
            if let Command::Get(_, _, reply) = command {
                reply.send(Err(reason));
            }
        }
    }
}

async fn run(
    settings: ConnectionSettings,
    mut commands: mpsc::Receiver<Command>,
    close: CancellationToken,
) -> Leftover {
    let address = settings.address;
    let mut requests = Requests::new(settings.patience, Instant::now());
    let ended = close.run_until_cancelled(carry(settings, &mut commands, &mut requests)).await;
    let reason = match &ended {
        Some(error) => {
            debug!(%address, reason = error as &dyn std::error::Error, "connection to a peer ended");
            error.meaning()
        }
        None => Unanswered::Lost,
    };
    commands.close();
    Leftover { reason, requests, commands }
}

impl Reply {
    /// Whoever asked may be gone.
    fn send(self, answer: Result<Answer, Unanswered>) {
        let _ = self.answer.send(answer);
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("dial")]
    Dial(#[source] std::io::Error),
    #[error("no handshake in time")]
    HandshakeLate,
    #[error("refused")]
    Refused(#[source] ChannelError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("malformed frame")]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Failed(#[from] Failed),
    #[error("idle")]
    Idle,
}

impl Ended {
    fn meaning(&self) -> Unanswered {
        match self {
            Self::Refused(_) => Unanswered::Refused,
            Self::Idle => Unanswered::Idle,
            Self::Dial(_) | Self::HandshakeLate | Self::Channel(_) | Self::Frame(_) | Self::Failed(_) => {
                Unanswered::Lost
            }
        }
    }

    /// An error before anything was heard: an alert, or our own verdict on a certificate, is a refusal.
    fn at_first(error: ChannelError) -> Self {
        match &error {
            ChannelError::Tls(_) | ChannelError::Certificate(_) | ChannelError::Protocol => {
                Self::Refused(error)
            }
            ChannelError::Io(_) | ChannelError::Closed => Self::Channel(error),
        }
    }
}

async fn carry(
    settings: ConnectionSettings,
    commands: &mut mpsc::Receiver<Command>,
    requests: &mut Requests<Reply>,
) -> Ended {
    let buffers = settings.buffers.clone();
    match open(settings).await {
        Ok((channel, exporter)) => {
            let conversation = Conversation {
                channel,
                exporter,
                reader: FrameReader::default(),
                buffers,
                requests,
                out: Vec::new(),
                heard: false,
                used: Instant::now(),
            };
            match conversation.carry(commands).await {
                Ok(never) => match never {},
                Err(ended) => ended,
            }
        }
        Err(ended) => ended,
    }
}

async fn open(settings: ConnectionSettings) -> Result<(Channel, Exporter), Ended> {
    let ConnectionSettings { address, tls, dial, patience, greet, buffers: _ } = settings;
    let tcp = dial(address, patience.dial).await.map_err(Ended::Dial)?;
    let mut channel = timeout(patience.handshake, Channel::connect(tcp, tls))
        .await
        .map_err(|_| Ended::HandshakeLate)?
        .map_err(Ended::at_first)?;
    if let Some(metrics) = greet(channel.identity()?) {
        channel.count_off_site(&metrics);
    }
    let exporter = channel.exporter()?;
    Ok((channel, exporter))
}

struct Conversation<'a> {
    channel: Channel,
    exporter: Exporter,
    reader: FrameReader,
    buffers: Buffers,
    requests: &'a mut Requests<Reply>,
    /// Frames that were not handed to the channel yet.
    out: Vec<u8>,
    /// Whether the peer ever said anything: until then it may still refuse us.
    heard: bool,
    /// When a request was made or answered last.
    used: Instant,
}

impl Conversation<'_> {
    async fn carry(
        mut self,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<std::convert::Infallible, Ended> {
        loop {
            self.channel.flush()?;
            let deadline = self.requests.poll_timeout().unwrap_or(self.used + IDLE);
            tokio::select! {
                // While the socket is full, requests stay where they are.
                command = commands.recv(), if self.channel.is_flushed() => {
                    let Some(command) = command else { return Err(Ended::Idle) };
                    // Whoever else is about to ask comes first: many requests then cost one write, and where nobody
                    // is, this costs nothing.
                    yield_now().await;
                    self.handle_commands(command, commands)?;
                }
                ready = self.channel.ready(true) => {
                    if ready.map_err(ChannelError::from)?.is_readable() {
                        self.read()?;
                    }
                }
                () = sleep_until(deadline.into()) => self.handle_timeout()?,
            }
        }
    }

    fn handle_commands(&mut self, first: Command, more: &mut mpsc::Receiver<Command>) -> Result<(), Ended> {
        self.used = Instant::now();
        let mut next = Some(first);
        while let Some(command) = next {
            self.handle_command(command);
            next = more.try_recv().ok();
        }
        self.send()
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Get(request, wanted, reply) => {
                let Wanted { hash, tag, key, wait } = wanted;
                let frame = Frame::<&[u8]>::Get {
                    request,
                    wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
                    key,
                    tag,
                    proof: proof::get(&hash, &tag, &self.exporter),
                };
                frame.encode_head(&mut self.out);
                self.requests.begin(request, reply, wait, self.used);
            }
            Command::Cancel(request) => self.cancel(request),
        }
    }

    fn cancel(&mut self, request: u32) {
        if self.requests.cancel(request) {
            Frame::<&[u8]>::Cancel { request }.encode_head(&mut self.out);
        }
    }

    fn send(&mut self) -> Result<(), Ended> {
        self.channel.send(&self.out, &[])?;
        self.out.clear();
        Ok(())
    }

    fn read(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        let buffers = &self.buffers;
        let (reader, requests, heard) = (&mut self.reader, &mut *self.requests, &mut self.heard);
        let read = self.channel.receive(READS_AT_ONCE, |mut bytes| {
            *heard = true;
            requests.handle_heard(now);
            loop {
                if reader.needs_memory()
                    && let Some(memory) = buffers.take()
                {
                    reader.lend(memory);
                }
                let Some(frame) = reader.read(&mut bytes)? else { return Ok(()) };
                if let Some((reply, answer)) = requests.handle_frame(frame)? {
                    reply.send(Ok(answer));
                }
            }
        });
        self.used = now;
        match read {
            Err(Ended::Channel(error)) if !self.heard => Err(Ended::at_first(error)),
            read => read,
        }
    }

    fn handle_timeout(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        if self.requests.is_empty() {
            return if now >= self.used + IDLE { Err(Ended::Idle) } else { Ok(()) };
        }
        // This node may be the one that is slow: what has come by now is read before the peer is called silent.
        self.read()?;
        // What is overdue is taken back; its asker finds that nobody will answer.
        for (request, reply) in self.requests.handle_timeout(now)? {
            Frame::<&[u8]>::Cancel { request }.encode_head(&mut self.out);
            reply.send(Err(Unanswered::Lost));
        }
        if self.out.is_empty() { Ok(()) } else { self.send() }
    }
}

/// Reads from the socket before other business is looked after: some 1 MiB.
const READS_AT_ONCE: usize = 64;

/// How long a connection is kept that is not used: less than its other side does, so that no request meets its end.
const IDLE: Duration = Duration::from_secs(30);
