//! The edge: connections come in from interception, and each goes over the link to the core its route names, or
//! direct.
//!
//! Direct is the answer to every doubt before a byte of the client may have reached the server: no route, no link, no
//! room, a core that may not or cannot dial. After that a flow is completed or reset.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::QuicClientConfig;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, debug_span, info, warn};
use wanigan_parsers::Direction;
use wanigan_parsers::wan::{DialStatus, Frame};

use crate::addr::{ClientAddr, ServerAddr};
use crate::block::ServerSecret;
use crate::budget::Budget;
use crate::config::{self, Config, CoreAddress, InterceptMode, Routes};
use crate::content_map::{Kept, SharedMap};
use crate::drain::{Drain, Tasks};
use crate::fault::{DirectReason, ResetReason};
use crate::fetch::Blocks;
use crate::flow::minter::Minter;
use crate::flow::receiving::Receiving;
use crate::flow::sending::Sending;
use crate::flow::terms::Terms;
use crate::flow::window::{CREDIT_BASE, Window};
use crate::flow::{End, Flow};

use crate::intercept::{
    Accept, Accepted, InterceptError, InterceptSettings, Interceptor, Mode, Rules, accept_fault,
};
use crate::matching::compress::{Packer, Unpacker};
use crate::matching::matcher::Matcher;
use crate::matching::observer::Observer;
use crate::matching::uploads::{KNOWN_BLOCKS, Known, KnownOnLink};
use crate::metrics::Metrics;
use crate::peer::Peers;
use crate::pki::{CORE_SERVER_NAME, NodeIdentity};
use crate::relay;
use crate::secret_file::{self, SecretFileError};
use crate::shim::detecting::Detecting;
use crate::store::Store;
use crate::wan::core_link::{CoreLink, CoreLinkSettings};
use crate::wan::transport::{TransportSettings, transport_config};
use crate::wan::{Hello, Link};

mod lan;

pub use self::lan::LanError;
use self::lan::Neighbourhood;

/// Why an edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeStartError {
    /// Discovery or transfer between peers.
    #[error("start peers")]
    Peers(#[from] LanError),
    /// The file of the secret that names uploads.
    #[error("load the secret of uploads")]
    Secret(#[from] SecretFileError),
    /// A listener or its rules.
    #[error("intercept at {0}")]
    Intercept(SocketAddr, #[source] InterceptError),
}

/// An edge that runs.
pub struct Started {
    /// Its peers, if it has any part in its LAN.
    pub peers: Option<Peers>,
    /// Where its peers ask it, with the port that the system chose.
    pub asked_at: Option<SocketAddr>,
    /// Where connections come in, in the order of the configuration, with the ports that the system chose.
    pub listening: Vec<SocketAddr>,
}

/// Starts the edge that the configuration asks for, over what the node keeps: a link to each core, a source of
/// connections for each `[[edge.intercept]]`. Returns `None` without an `[edge]`.
///
/// # Errors
/// [`EdgeStartError`]. A core that cannot be reached is none: connections go direct until it can.
pub async fn start(
    config: &Config,
    identity: &NodeIdentity,
    budget: &Budget,
    kept: &Kept,
    metrics: &Metrics,
    tasks: &Tasks,
) -> Result<Option<Started>, EdgeStartError> {
    let Some(settings) = &config.edge else { return Ok(None) };
    let store = &kept.store;
    let neighbourhood = if config.peers.enabled {
        Some(Neighbourhood::start(config, identity, store, metrics, &tasks.links)?)
    } else {
        None
    };
    let links = start_links(config, settings, identity, store, metrics, tasks);
    let cores = core_addresses(&settings.routes).await;
    let peers = neighbourhood.as_ref().map(|neighbourhood| neighbourhood.lan.peers.clone());
    let asked_at = neighbourhood
        .as_ref()
        .map(|neighbourhood| SocketAddr::new(config.peers.listen.ip(), neighbourhood.lan.discovery.port()));
    let uploads = ServerSecret::new(secret_file::load_or_create(&config.node.state_dir.join("uploads.key"))?);
    let blocks = start_blocks(neighbourhood, identity, store, &links, metrics, tasks);
    let known = links.iter().map(|(core, link)| (core.clone(), know(link.clone(), &tasks.links))).collect();
    let edge = Arc::new(Edge {
        routes: settings.routes.clone(),
        links,
        blocks: blocks.with_uploads(uploads.clone()),
        uploads,
        known,
        map: kept.map.clone(),
        flow_permits: Semaphore::new(config.limits.flows as usize),
        budget: budget.clone(),
        retain_bytes_max: config.limits.retain.as_u64(),
        compression: config.link.compression,
        metrics: metrics.clone(),
        quarantine: Quarantine::default(),
        tasks: tasks.clone(),
    });
    let mut listening = Vec::new();
    for intercept in &settings.intercepts {
        let wanted = intercept_settings(config, settings, intercept, &cores);
        let mut source = Interceptor::bind(wanted)
            .await
            .map_err(|error| EdgeStartError::Intercept(intercept.listen, error))?;
        listening.extend(source.local_addrs());
        info!(listen = %intercept.listen, "intercepting");
        let (edge, stopping) = (Arc::clone(&edge), tasks.flows.stopping().clone());
        // The rules go before the listener they lead to, or clients would be refused in between.
        let uncaught = match source.take_rules() {
            Some(rules) => keep_rules(rules, stopping, tasks),
            None => stopping,
        };
        tasks.flows.spawn("accept", async move {
            uncaught.run_until_cancelled(serve(edge, source)).await;
        });
    }
    Ok(Some(Started { peers, asked_at, listening }))
}

/// Starts what brings blocks that the store does not have.
fn start_blocks(
    neighbourhood: Option<Neighbourhood>,
    identity: &NodeIdentity,
    store: &Store,
    links: &HashMap<CoreAddress, CoreLink>,
    metrics: &Metrics,
    tasks: &Tasks,
) -> Blocks {
    let own = identity.identity().id;
    if let Some(neighbourhood) = &neighbourhood {
        links.values().for_each(|link| neighbourhood.follow(link.clone(), &tasks.links));
    }
    let lan = neighbourhood.map(|Neighbourhood { lan, answers, .. }| (lan, answers));
    Blocks::start(own, store.clone(), lan, metrics.clone(), &tasks.links)
}

fn start_links(
    config: &Config,
    settings: &config::Edge,
    identity: &NodeIdentity,
    store: &Store,
    metrics: &Metrics,
    tasks: &Tasks,
) -> HashMap<CoreAddress, CoreLink> {
    let crypto =
        QuicClientConfig::try_from(identity.edge_tls()).expect("TLS 1.3 has the initial cipher suite");
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client.transport_config(transport_config(&TransportSettings::of_edge(config)));
    let asks = config.peers.enabled;
    let hello = Hello { store: store.id(), stores: true, shares: config.store.share && asks, asks };
    settings
        .routes
        .cores()
        .map(|core| {
            let wanted = CoreLinkSettings {
                core: core.to_string(),
                server_name: CORE_SERVER_NAME,
                client: client.clone(),
                hello,
            };
            (core.clone(), CoreLink::start(wanted, metrics.clone(), &tasks.links))
        })
        .collect()
}

/// Starts to remember what uploads may refer to at a core.
fn know(mut core: CoreLink, tasks: &Drain) -> Arc<Known> {
    let known = Arc::new(Known::new(KNOWN_BLOCKS));
    let (follower, stopping) = (Arc::clone(&known), tasks.stopping().clone());
    tasks.spawn("core's keys", async move {
        let following = async {
            loop {
                let link = core.next().await;
                let mut keys = link.keys();
                let telling = async {
                    while let Ok(latest) = keys.wait_for(Option::is_some).await.map(|keys| *keys) {
                        latest.into_iter().for_each(|latest| follower.handle_key(latest.key));
                        if keys.changed().await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = telling => {}
                    () = link.closed() => {}
                }
            }
        };
        stopping.run_until_cancelled(following).await;
    });
    known
}

/// Looks up the cores, for the rules that exempt them. A name without an address at this moment is exempted by
/// [`Edge::admit`] only.
async fn core_addresses(routes: &Routes) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for core in routes.cores() {
        match tokio::net::lookup_host(core.to_string()).await {
            Ok(found) => addresses.extend(found.map(|address| address.ip().to_canonical())),
            Err(error) => warn!(%core, error = &error as &dyn std::error::Error, "core has no address yet"),
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn intercept_settings(
    config: &Config,
    settings: &config::Edge,
    intercept: &config::Intercept,
    cores: &[IpAddr],
) -> InterceptSettings {
    let (mode, rules) = match &intercept.mode {
        InterceptMode::Tproxy(rules) => (Mode::TProxy, Some(rules)),
        InterceptMode::Redirect { rules, .. } => (Mode::Redirect, Some(rules)),
        InterceptMode::Listen { server } => {
            let server = server.to_string().parse().expect("host:port was parsed from the configuration");
            (Mode::Listen { server }, None)
        }
    };
    InterceptSettings {
        mode,
        listen: intercept.listen,
        ports: rules.map_or_else(Vec::new, |rules| rules.ports.iter().collect()),
        manage_nftables: rules.is_some_and(|rules| rules.manage_nftables),
        local: matches!(intercept.mode, InterceptMode::Redirect { local: true, .. }),
        servers: settings.routes.iter().map(|(servers, _)| servers.network()).collect(),
        cores: cores.to_vec(),
        instance: format!("{}-{}", config.node.name, intercept.listen.port()),
    }
}

/// Brings the rules back when something else took them away, until the node stops; then they go. Returns what is
/// cancelled once they have gone.
fn keep_rules(mut rules: Rules, stopping: CancellationToken, tasks: &Tasks) -> CancellationToken {
    let gone = CancellationToken::new();
    let uncaught = gone.clone();
    tasks.flows.spawn("rules", async move {
        stopping.run_until_cancelled(restore_rules(&mut rules)).await;
        drop(rules);
        gone.cancel();
    });
    uncaught
}

async fn restore_rules(rules: &mut Rules) {
    loop {
        let lost = rules.lost().await;
        warn!(error = &lost as &dyn std::error::Error, "interception rules were lost");
        while let Err(error) = rules.apply().await {
            warn!(error = &error as &dyn std::error::Error, "interception rules cannot be applied");
            tokio::time::sleep(RULES_RETRY).await;
        }
        info!("interception rules are back");
    }
}

/// Everything an edge's connections share.
pub struct Edge {
    /// Which core serves which servers.
    pub routes: Routes,
    /// The links, by the address the routes name.
    pub links: HashMap<CoreAddress, CoreLink>,
    /// Blocks, from the store and elsewhere.
    pub blocks: Blocks,
    /// Names what clients upload, in this edge's own store.
    pub uploads: ServerSecret,
    /// Where blocks are in what clients write.
    pub map: SharedMap,
    /// What uploads may refer to, by core.
    pub known: HashMap<CoreAddress, Arc<Known>>,
    /// Flows at once, over all links; each core has a limit of its own.
    pub flow_permits: Semaphore,
    /// Memory for flows.
    pub budget: Budget,
    /// Limit of retained bytes of one flow.
    pub retain_bytes_max: u64,
    /// Whether what this node sends is compressed.
    pub compression: bool,
    /// Counts.
    pub metrics: Metrics,
    /// Servers that are not worth a flow for a while.
    pub quarantine: Quarantine,
    /// Where connections and links run.
    pub tasks: Tasks,
}

/// The way of a connection that does not go direct.
struct Way {
    link: Link,
    /// What the core at its end knows.
    known: KnownOnLink,
}

/// Carries the connections of one source for as long as it is polled.
pub async fn serve(edge: Arc<Edge>, mut source: impl Accept) {
    loop {
        match source.accept().await {
            Ok(accepted) => {
                let span = debug_span!("flow", client = %accepted.client, server = %accepted.server);
                let connection = Arc::clone(&edge).handle(accepted).instrument(span);
                edge.tasks.flows.spawn("connection", connection);
            }
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "connection not accepted");
                edge.metrics.count_accept_error(accept_fault(&error));
            }
        }
    }
}

impl Edge {
    async fn handle(self: Arc<Self>, accepted: Accepted) {
        let Accepted { stream, client, server } = accepted;
        if relay::prepare(&stream).is_err() {
            return;
        }
        match self.admit(client, server) {
            Ok(way) => self.carry(stream, client, server, &way).await,
            Err(reason) => self.relay_directly(stream, server, Bytes::new(), reason).await,
        }
    }

    /// Decides whether a connection goes over a link, and which.
    fn admit(&self, client: ClientAddr, server: ServerAddr) -> Result<Way, DirectReason> {
        let core = self.routes.core_for(server).ok_or(DirectReason::NoRoute)?;
        if let Some(reason) = self.quarantine.reason(server, Instant::now()) {
            return Err(reason);
        }
        let known = self.known.get(core).ok_or(DirectReason::NoRoute)?;
        let link = self.links.get(core).and_then(CoreLink::current).ok_or(DirectReason::LinkDown)?;
        let known = KnownOnLink::new(Arc::clone(known), link.id().0);
        let core = link.remote_address().ip().to_canonical();
        // On one machine everybody has the core's address; there the core knows its own sockets.
        if core == client.0.ip().to_canonical() && !core.is_loopback() {
            return Err(DirectReason::FromCore);
        }
        Ok(Way { link, known })
    }

    async fn carry(&self, mut leg: TcpStream, client: ClientAddr, server: ServerAddr, way: &Way) {
        let permit = self.flow_permits.try_acquire();
        let flow = if permit.is_ok() { self.open(client, server, way).await } else { None };
        let Some(flow) = flow else {
            drop(permit);
            return self.relay_directly(leg, server, Bytes::new(), DirectReason::Overload).await;
        };
        let end = flow.run(&mut leg).await;
        drop(permit);
        match end {
            End::Done => {}
            End::Reset(_) => relay::reset(leg),
            End::Unheard(first) if first.is_empty() => {
                self.relay_directly(leg, server, Bytes::new(), DirectReason::LinkDown).await;
            }
            End::Unheard(_) => {
                self.metrics.count_reset(ResetReason::LinkLost);
                relay::reset(leg);
            }
            End::NotOpened(status, first) => self.handle_not_opened(leg, server, status, &first).await,
        }
    }

    /// Opens a flow, or returns `None` where there is no stream or memory for it at once.
    async fn open(&self, client: ClientAddr, server: ServerAddr, way: &Way) -> Option<Flow> {
        let Way { link, known } = way;
        let window = Window::open(&self.budget)?.with_round_trip(link.rtt());
        let receiving = Receiving::new(window, &self.budget, link.numbered())
            .keeping_literals()
            .on(Terms::OfRememberedCore(known.clone()));
        let mut unpacker = Unpacker::new(&self.budget);
        let credit = unpacker.announce(receiving.credit());
        let open = |flow| Frame::Open { flow, client: client.0, server: server.0, credit };
        let (stream, port) = link.open_flow(open).await?;
        let minter =
            Minter::Edge { own: self.uploads.clone(), known: known.clone(), numbers: link.numbers() };
        let matcher = Matcher::new(self.map.handle(), server.service().as_bytes(), &self.budget).of_uploads();
        let now = Instant::now();
        Some(Flow {
            stream,
            fetches: self.blocks.flow(link.clone(), port.flow()),
            port,
            sending: Sending::new(
                Some(minter),
                matcher,
                &self.budget,
                self.retain_bytes_max,
                CREDIT_BASE,
                now,
            ),
            receiving,
            observer: Observer::new(self.map.handle(), server.service().as_bytes()),
            packer: Packer::new(self.compression, &self.budget),
            unpacker,
            shim: Box::new(Detecting::new()),
            sends: Direction::ToServer,
            unopened: Some(Vec::new()),
            blocks: self.blocks.clone(),
            metrics: self.metrics.clone(),
        })
    }

    async fn handle_not_opened(
        &self,
        leg: TcpStream,
        server: ServerAddr,
        status: DialStatus,
        first: &[Bytes],
    ) {
        debug!(?status, "the core did not connect");
        match status {
            DialStatus::Refused | DialStatus::TimedOut | DialStatus::Unreachable => {
                self.quarantine.add(server, DirectReason::DialFailed, Instant::now());
                self.metrics.count_reset(ResetReason::DialFailed);
                relay::reset(leg);
            }
            DialStatus::NotAllowed | DialStatus::Loop => {
                self.quarantine.add(server, DirectReason::NotAllowed, Instant::now());
                self.relay_directly(leg, server, joined(first), DirectReason::NotAllowed).await;
            }
            DialStatus::Overloaded | DialStatus::Connected | DialStatus::Other(_) => {
                self.relay_directly(leg, server, joined(first), DirectReason::Overload).await;
            }
        }
    }

    async fn relay_directly(&self, leg: TcpStream, server: ServerAddr, first: Bytes, reason: DirectReason) {
        debug!(reason = reason.as_str(), "relayed directly");
        self.metrics.count_direct(reason);
        match relay::dial(server, DIRECT_DIAL_TIMEOUT).await {
            Ok(stream) => {
                let metrics = self.metrics.clone();
                relay::relay(leg, stream, first, move |direction, bytes| {
                    metrics.count_direct_bytes(direction, bytes);
                })
                .await;
            }
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "direct connection failed");
                relay::reset(leg);
            }
        }
    }
}

/// Servers that connections go to directly for a while, because the core could not or may not dial them.
#[derive(Debug, Default)]
pub struct Quarantine {
    servers: Mutex<HashMap<ServerAddr, (DirectReason, Instant)>>,
}

impl Quarantine {
    fn add(&self, server: ServerAddr, reason: DirectReason, now: Instant) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() >= QUARANTINE_SERVERS_MAX {
            servers.retain(|_, (_, until)| *until > now);
        }
        if servers.len() < QUARANTINE_SERVERS_MAX {
            servers.insert(server, (reason, now + QUARANTINE));
        } else {
            warn!("too many servers cannot be dialled by the core");
        }
    }

    fn reason(&self, server: ServerAddr, now: Instant) -> Option<DirectReason> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.get(&server).filter(|(_, until)| *until > now).map(|(reason, _)| *reason)
    }
}

fn joined(first: &[Bytes]) -> Bytes {
    let mut bytes = BytesMut::new();
    first.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes.freeze()
}

/// How long a direct connection may take to begin.
const DIRECT_DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between attempts to bring rules back.
const RULES_RETRY: Duration = Duration::from_secs(5);

/// How long a server stays in quarantine.
const QUARANTINE: Duration = Duration::from_secs(30);

/// Servers in quarantine at once.
const QUARANTINE_SERVERS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn this_machines_own_connections_are_caught_where_the_configuration_says_so() {
        let intercept = |port: u16, more: &str| {
            format!(
                "[[edge.intercept]]\nmode = 'redirect'\nlisten = '0.0.0.0:{port}'\nports = [445]\n{more}\n"
            )
        };
        let text = format!(
            "[node]\nname = 'gw'\n{}{}[[edge.route]]\nservers = ['10.2.0.0/16']\ncore = '10.2.0.1:7400'",
            intercept(7445, ""),
            intercept(7446, "local = true")
        );
        let config = Config::parse(&text, Path::new("w.toml")).unwrap();
        let edge = config.edge.as_ref().unwrap();
        let local = |one| intercept_settings(&config, edge, one, &[]).local;
        assert_eq!(edge.intercepts.iter().map(local).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_server_in_quarantine_comes_back_and_their_number_is_bounded() {
        let quarantine = Quarantine::default();
        let start = Instant::now();
        let server = |n: usize| ServerAddr(SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 445)));
        quarantine.add(server(0), DirectReason::DialFailed, start);
        assert_eq!(quarantine.reason(server(0), start), Some(DirectReason::DialFailed));
        assert_eq!(quarantine.reason(server(0), start + QUARANTINE), None);
        for n in 0..2 * QUARANTINE_SERVERS_MAX {
            quarantine.add(server(n), DirectReason::NotAllowed, start);
        }
        assert_eq!(quarantine.servers.lock().unwrap().len(), QUARANTINE_SERVERS_MAX);
        quarantine.add(server(9_000), DirectReason::NotAllowed, start + QUARANTINE);
        assert!(quarantine.reason(server(9_000), start + QUARANTINE).is_some());
    }
}
