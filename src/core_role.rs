//! The core: edges connect, and each flow they open is dialled to the content server it names, if this core may dial
//! that server for that edge. What the server answers becomes blocks here, since here the server has just released
//! the bytes to that client.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{Instrument, debug, debug_span, info, warn};
use wanigan_parsers::Direction;
use wanigan_parsers::wan::{DialStatus, Frame, Refusal, StreamKind};

mod naming;

use self::naming::CoreNaming;

use crate::addr::{NodeId, ServerAddr};
use crate::budget::Budget;
use crate::config::{AllowServers, Config};
use crate::content_map::Kept;
use crate::drain::Tasks;
use crate::fault::{FlowRefusal, Once};
use crate::fetch::Blocks;
use crate::flow::minter::Minter;
use crate::flow::receiving::Receiving;
use crate::flow::sending::Sending;
use crate::flow::terms::{Entitlement, Terms};
use crate::flow::window::Window;
use crate::flow::{End, Flow};
use crate::matching::compress::{Packer, Unpacker};
use crate::matching::matcher::Matcher;
use crate::matching::observer::Observer;
use crate::metrics::Metrics;
use crate::pki::{self, NodeIdentity, PeerIdentity};
use crate::proof::LINK_EXPORTER_LABEL;
use crate::referral::{Holder, Holders, Neighbours};
use crate::relay;
use crate::secret_file::{self, SecretFileError};
use crate::shim::detecting::Detecting;
use crate::wan::frames::{FrameReader, READ_BYTES, read_frame, read_kind};
use crate::wan::session::{Hearing, choose_version};
use crate::wan::transport::{TransportSettings, bind_server, transport_config};
use crate::wan::{FlowStream, Link, LinkError, unix_time_ms};

/// Why a core did not start.
#[derive(Debug, thiserror::Error)]
pub enum CoreStartError {
    /// The server secret's file.
    #[error("load the server secret")]
    Secret(#[from] SecretFileError),
    /// The UDP address.
    #[error("listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
}

/// A core that runs.
pub struct Started {
    /// Where edges connect, to be closed at the end.
    pub endpoint: Endpoint,
}

/// Starts the core that the configuration asks for, over what the node keeps. Returns `None` without a `[core]`.
///
/// # Errors
/// [`CoreStartError`].
pub fn start(
    config: &Config,
    identity: &NodeIdentity,
    budget: &Budget,
    kept: &Kept,
    metrics: &Metrics,
    tasks: &Tasks,
) -> Result<Option<Started>, CoreStartError> {
    let Some(settings) = &config.core else { return Ok(None) };
    let state_dir = &config.node.state_dir;
    let naming = CoreNaming::start(settings.proofs, state_dir, settings.secret_grace, &tasks.links)?;
    let reset = secret_file::load_or_create(&state_dir.join("reset-key"))?;
    let crypto =
        QuicServerConfig::try_from(identity.core_tls()).expect("TLS 1.3 has the initial cipher suite");
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(transport_config(&TransportSettings::of_core(config)));
    let listen = settings.listen;
    let endpoint = bind_server(listen, server, &reset_key(&reset), metrics)
        .map_err(|error| CoreStartError::Listen(listen, error))?;
    let core = Arc::new(Core {
        allow_servers: settings.allow_servers.clone(),
        dial_timeout: settings.dial_timeout,
        naming,
        holders: Arc::new(Holders::new(RECORD_BLOCKS, settings.site_groups.clone())),
        warned: Once::default(),
        dialled: Dialled::default(),
        flows: config.limits.flows,
        flow_permits: Arc::new(Semaphore::new(config.limits.flows as usize)),
        budget: budget.clone(),
        retain_bytes_max: config.limits.retain.as_u64(),
        own: identity.identity().id,
        kept: kept.clone(),
        compression: config.link.compression,
        metrics: metrics.clone(),
        tasks: tasks.clone(),
    });
    info!(%listen, "serving edges");
    let (accepting, stopping) = (endpoint.clone(), tasks.flows.stopping().clone());
    tasks.flows.spawn("edges", async move {
        stopping.run_until_cancelled(serve(core, accepting)).await;
    });
    Ok(Some(Started { endpoint }))
}

/// Derives the key by which a restarted core tells edges that their links are gone (RFC 9000 section 10.3).
fn reset_key(secret: &[u8; 32]) -> [u8; 32] {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    let tag = aws_lc_rs::hmac::sign(&key, b"wanigan stateless reset v1");
    tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
}

/// Everything a core's edges share.
pub struct Core {
    /// What is dialled, and for whom.
    pub allow_servers: AllowServers,
    /// How long a server may take to accept a connection.
    pub dial_timeout: Duration,
    /// Keys the references.
    naming: CoreNaming,
    /// The edges, and what each was sent.
    pub holders: Arc<Holders>,
    /// Servers that are not dialled and were warned of.
    warned: Once<ServerAddr>,
    /// Sockets this core dialled from: a flow from one of them is a loop.
    pub dialled: Dialled,
    /// Flows at once, of all edges.
    pub flows: u32,
    /// Permits of them.
    pub flow_permits: Arc<Semaphore>,
    /// Memory for flows.
    pub budget: Budget,
    /// Limit of retained bytes of one flow.
    pub retain_bytes_max: u64,
    /// This node.
    own: NodeId,
    /// Blocks to compare with what servers send and for uploads to refer to.
    pub kept: Kept,
    /// Whether what this node sends is compressed.
    pub compression: bool,
    /// Counts.
    pub metrics: Metrics,
    /// Where connections and links run.
    pub tasks: Tasks,
}

/// An edge that is connected.
struct Peer {
    identity: PeerIdentity,
    holder: Arc<Holder>,
    /// The core's store, and what it does not have from this edge.
    blocks: Blocks,
}

/// Keeps true over which links an edge is heard: only what these carry is on its way to it.
async fn follow_hearing(link: &Link, holder: &Holder) {
    let mut hearing = link.follow_hearing();
    while hearing.changed().await.is_ok() {
        let is_heard = *hearing.borrow_and_update() != Hearing::Lost;
        holder.record().handle_hearing(link.id().0, is_heard);
    }
}

/// Serves edges until the endpoint is closed.
pub async fn serve(core: Arc<Core>, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        let from = incoming.remote_address();
        let edge = Arc::clone(&core).handle_edge(incoming);
        core.tasks.links.spawn("edge", async move {
            if let Err(error) = edge.await {
                debug!(%from, error = &error as &dyn std::error::Error, "edge not served");
            }
        });
    }
}

impl Core {
    async fn handle_edge(self: Arc<Self>, incoming: Incoming) -> Result<(), LinkError> {
        let connection = incoming.await?;
        let greeting = timeout(HELLO_DEADLINE, self.greet(&connection));
        let (link, edge) = greeting.await.map_err(|_| LinkError::TimedOut(HELLO_DEADLINE))??;
        info!(edge = %edge.identity.name, site = %edge.identity.site, from = %connection.remote_address(), "edge is up");
        self.metrics.links_up.inc();
        let following = async {
            let (core, holder) = (&self, &edge.holder);
            tokio::join!(
                core.naming.tell(&link),
                core.follow_reached(&link, holder),
                follow_hearing(&link, holder),
                link.watch_liveness(),
            );
            std::future::pending::<()>().await;
        };
        let accepting = async {
            loop {
                match link.accept().await {
                    Ok((send, recv)) => self.handle_stream(&link, &edge, send, recv),
                    Err(reason) => break reason,
                }
            }
        };
        let reason = tokio::select! {
            reason = accepting => reason,
            () = following => unreachable!("it waits for the link's end"),
        };
        self.holders.handle_down(&edge.holder);
        edge.holder.record().handle_gone(link.id().0);
        self.metrics.links_up.dec();
        info!(edge = %edge.identity.name, %reason, "edge is gone");
        Ok(())
    }

    /// Notes where the edge says that it is reached.
    async fn follow_reached(&self, link: &Link, holder: &Holder) {
        let mut reached = link.reached();
        while reached.changed().await.is_ok() {
            let mut addresses = reached.borrow_and_update().clone();
            // Others would dial them: none that means another host to each of them.
            let local = link.remote_address().ip().to_canonical().is_loopback();
            addresses.retain(|address| {
                let ip = address.ip().to_canonical();
                !ip.is_unspecified() && !ip.is_multicast() && (local || !ip.is_loopback())
            });
            self.holders.handle_reached(holder, addresses);
        }
    }

    /// Answers the hello of an edge.
    async fn greet(&self, connection: &Connection) -> Result<(Link, Arc<Peer>), LinkError> {
        let (mut send, mut recv) = connection.accept_bi().await?;
        let mut reader = FrameReader::default();
        if read_kind(&mut recv).await? != Some(StreamKind::Control) {
            return Err(LinkError::Unexpected);
        }
        let hello = read_frame(&mut recv, &mut reader).await?;
        let Frame::Hello { version_min, version_max, store, stores: _, shares, asks } = hello else {
            return Err(LinkError::Unexpected);
        };
        let accepted = match choose_version(version_min, version_max) {
            Ok(version) => self.identify(connection).map(|edge| (version, edge)),
            Err(refusal) => Err(refusal),
        };
        let mut bytes = Vec::new();
        let (version, edge) = match accepted {
            Ok(accepted) => accepted,
            Err(refusal) => {
                warn!(from = %connection.remote_address(), ?refusal, "edge refused");
                Frame::<Bytes>::Refuse(refusal).encode(&mut bytes);
                send.write_all(&bytes).await?;
                let _ = send.finish();
                let _ = timeout(HELLO_DEADLINE, send.stopped()).await;
                return Err(LinkError::Refused(refusal));
            }
        };
        Frame::<Bytes>::Welcome {
            version,
            time_ms: unix_time_ms(),
            flows: self.flows,
            retain: self.retain_bytes_max,
        }
        .encode(&mut bytes);
        send.write_all(&bytes).await?;
        edge.holder.handle_store(store);
        self.holders.handle_up(&edge.holder, shares, asks);
        let link = Link::start(connection.clone(), self.flows, send, recv, reader, &self.tasks.links);
        Ok((link, Arc::new(edge)))
    }

    fn identify(&self, connection: &Connection) -> Result<Peer, Refusal> {
        let identity = identity_of(connection)?;
        let holder = self.holders.of(identity.id, &identity.site).ok_or(Refusal::TooManyEdges)?;
        let (metrics, tasks) = (self.metrics.clone(), &self.tasks.links);
        let blocks = Blocks::of_uploads(self.own, self.kept.store.clone(), metrics, tasks);
        Ok(Peer { identity, holder, blocks })
    }

    fn handle_stream(
        self: &Arc<Self>,
        link: &Link,
        edge: &Arc<Peer>,
        send: SendStream,
        mut recv: RecvStream,
    ) {
        let (core, link, edge) = (Arc::clone(self), link.clone(), Arc::clone(edge));
        self.tasks.flows.spawn("stream", async move {
            let served = match read_kind(&mut recv).await {
                Ok(Some(StreamKind::Flow)) => {
                    let stream = FlowStream { send, recv, reader: FrameReader::default(), permit: None };
                    core.handle_flow(&link, &edge, stream).await
                }
                Ok(Some(StreamKind::Fetch)) => link.answer_fetch(send, recv).await,
                Ok(Some(StreamKind::Rekey)) => core.answer_rekey(&link, send, recv).await,
                Ok(Some(StreamKind::Control) | None) => Err(LinkError::Unexpected),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = served {
                debug!(edge = %edge.identity.name, error = &error as &dyn std::error::Error, "stream broke");
            }
        });
    }

    fn count_refused(&self, edge: &Peer, server: ServerAddr, status: DialStatus) {
        if let Some(reason) = FlowRefusal::of(status) {
            self.metrics.count_refused(reason);
        }
        if status == DialStatus::NotAllowed && self.warned.is_first(server) {
            let (name, site) = (&edge.identity.name, &edge.identity.site);
            warn!(%server, edge = %name, %site, "core.allow-servers does not name this server for the edge's site");
        }
    }

    /// Gives an edge the new names of blocks that it has.
    async fn answer_rekey(
        &self,
        link: &Link,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), LinkError> {
        let Frame::Rekey { key, blocks } = read_frame(&mut recv, &mut FrameReader::default()).await? else {
            return Err(LinkError::Unexpected);
        };
        let exporter = link.exporter(LINK_EXPORTER_LABEL).ok_or(LinkError::Unexpected)?;
        let (key, secrets) = self.naming.rename(key, &blocks, &exporter);
        let mut bytes = Vec::new();
        Frame::<Bytes>::Rekeyed { key, secrets }.encode(&mut bytes);
        send.write_all(&bytes).await?;
        let _ = send.finish();
        Ok(())
    }

    async fn handle_flow(
        self: &Arc<Self>,
        link: &Link,
        edge: &Peer,
        mut stream: FlowStream,
    ) -> Result<(), LinkError> {
        let open = read_frame(&mut stream.recv, &mut stream.reader).await?;
        let Frame::Open { flow, client, server, credit } = open else { return Err(LinkError::Unexpected) };
        let span = debug_span!("flow", edge = %edge.identity.name, %client, %server);
        // The port comes first: acknowledgements may arrive as soon as OPENED is out.
        let port = link.register(flow).ok_or(LinkError::Unexpected)?;
        let server = ServerAddr(server);
        let dialled = async {
            // An edge that is refused goes direct; a flow that is cut a moment later cannot.
            if self.tasks.flows.stopping().is_cancelled() {
                return Err(DialStatus::Overloaded);
            }
            let permit =
                Arc::clone(&self.flow_permits).try_acquire_owned().map_err(|_| DialStatus::Overloaded)?;
            let window =
                Window::open(&self.budget).ok_or(DialStatus::Overloaded)?.with_round_trip(link.rtt());
            if self.dialled.contains(client) {
                return Err(DialStatus::Loop);
            }
            if !self.allow_servers.allows(edge.identity.site.as_str(), server) {
                return Err(DialStatus::NotAllowed);
            }
            let leg = relay::dial(server, self.dial_timeout).await.map_err(|error| dial_status(&error))?;
            Ok((leg, window, permit))
        };
        let (mut leg, window, permit) = match dialled.instrument(span.clone()).await {
            Ok(dialled) => dialled,
            Err(status) => {
                self.count_refused(edge, server, status);
                return refuse_flow(stream, status).await;
            }
        };
        stream.permit = Some(permit);
        let _dialled = leg.local_addr().ok().map(|local| self.dialled.add(local));
        let entitlement = Entitlement { naming: self.naming.naming(), holder: Arc::clone(&edge.holder) };
        let receiving = Receiving::new(window, &self.budget, link.numbered())
            .keeping_literals()
            .on(Terms::OfEdge(entitlement));
        let (mut packer, mut unpacker) =
            (Packer::new(self.compression, &self.budget), Unpacker::new(&self.budget));
        let opened = Frame::<Bytes>::Opened {
            status: DialStatus::Connected,
            credit: unpacker.announce(receiving.credit()),
        };
        let credit = packer.handle_credit(credit);
        let mut bytes = Vec::new();
        opened.encode(&mut bytes);
        stream.send.write_all(&bytes).await?;
        let neighbours = Neighbours::new(Arc::clone(&self.holders), Arc::clone(&edge.holder), link.id().0);
        let minter = Minter::Core { naming: self.naming.naming(), neighbours, numbers: link.numbers() };
        let matcher = Matcher::new(self.kept.map.handle(), server.service().as_bytes(), &self.budget);
        let flow = Flow {
            stream,
            fetches: edge.blocks.flow(link.clone(), port.flow()),
            port,
            sending: Sending::new(
                Some(minter),
                matcher,
                &self.budget,
                self.retain_bytes_max,
                credit,
                Instant::now(),
            ),
            receiving,
            observer: Observer::new(self.kept.map.handle(), server.service().as_bytes()),
            packer,
            unpacker,
            shim: Box::new(Detecting::new()),
            sends: Direction::ToClient,
            unopened: None,
            blocks: edge.blocks.clone(),
            metrics: self.metrics.clone(),
        };
        match flow.run(&mut leg).instrument(span).await {
            End::Done => {}
            End::Reset(_) | End::NotOpened(..) | End::Unheard(_) => relay::reset(leg),
        }
        Ok(())
    }
}

async fn refuse_flow(mut stream: FlowStream, status: DialStatus) -> Result<(), LinkError> {
    debug!(?status, "flow not opened");
    let mut bytes = Vec::new();
    Frame::<Bytes>::Opened { status, credit: 0 }.encode(&mut bytes);
    stream.send.write_all(&bytes).await?;
    let _ = stream.send.finish();
    // The edge resets its direction once it has read the answer. To stop it here could overtake the answer.
    let rest = async { while let Ok(Some(_)) = stream.recv.read_chunk(READ_BYTES, false).await {} };
    let _ = timeout(HELLO_DEADLINE, rest).await;
    Ok(())
}

/// Returns who is at the other end, if its certificate makes it an edge.
fn identity_of(connection: &Connection) -> Result<PeerIdentity, Refusal> {
    let certificates = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok())
        .ok_or(Refusal::NotAnEdge)?;
    let certificate = certificates.first().ok_or(Refusal::NotAnEdge)?;
    let identity = pki::peer_identity(certificate).map_err(|error| {
        warn!(error = &error as &dyn std::error::Error, "certificate without a node's name");
        Refusal::NotAnEdge
    })?;
    if identity.roles.edge { Ok(identity) } else { Err(Refusal::NotAnEdge) }
}

fn dial_status(error: &io::Error) -> DialStatus {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DialStatus::Refused,
        io::ErrorKind::TimedOut => DialStatus::TimedOut,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => DialStatus::Unreachable,
        // Ours, not the server's: no socket, no port, no permission.
        _ => DialStatus::Overloaded,
    }
}

/// Local addresses of the connections this core dialled.
#[derive(Debug, Clone, Default)]
pub struct Dialled(Arc<Mutex<HashSet<SocketAddr>>>);

impl Dialled {
    fn add(&self, local: SocketAddr) -> DialledAddr {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(local);
        DialledAddr { dialled: self.clone(), local }
    }

    fn contains(&self, address: SocketAddr) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }
}

/// One of the addresses, for as long as its connection lives.
struct DialledAddr {
    dialled: Dialled,
    local: SocketAddr,
}

impl Drop for DialledAddr {
    fn drop(&mut self) {
        self.dialled.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.local);
    }
}

/// Blocks the core remembers for an edge at most: some 20 bytes each. The latest half is sure to be among them, 32 GiB
/// of content at 64 KiB.
pub const RECORD_BLOCKS: usize = 1 << 20;

/// How long an edge may take to say hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
