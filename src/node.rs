//! A node: the roles it was told to play, from the start to the signal that ends it.
//!
//! [`run`] is the whole life of a process; [`start`] and [`Running::stop`] are for programs with several nodes, such as
//! the demo. Nodes in one process share nothing but the runtime.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{Admin, AdminError, PeerReport};
use crate::budget::Budget;
use crate::config::{self, CertificateError, Config};
use crate::core_role::{self, CoreStartError};
use crate::drain::{Drain, Stopped, Tasks};
use crate::edge_role::{self, EdgeStartError};
use crate::metrics::Metrics;
use crate::peer;
use crate::pki::{IdentityError, NodeIdentity};
use crate::secret_file::{self, SecretFileError};
use crate::store::{Store, StoreConfig, StoreError};

/// How long the store may take to write what it has.
const CLOSE_DEADLINE: Duration = Duration::from_secs(20);

/// How long edges may take to hear that the core goes.
const FAREWELL_DEADLINE: Duration = Duration::from_millis(500);

/// How long tasks have to end after a signal. Flows are cut then, as a crash would cut them.
const STOP_SECONDS: u64 = 5;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The certificate, its key or the authority.
    #[error("load this node's identity")]
    Identity(#[from] IdentityError),
    /// The certificate is not for this node.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The state directory.
    #[error("prepare the state directory")]
    State(#[from] SecretFileError),
    /// The address for operators.
    #[error("start")]
    Admin(#[from] AdminError),
    /// The store's key file, or its size.
    #[error("open the store")]
    Store(#[from] StoreError),
    /// The edge.
    #[error("start the edge")]
    Edge(#[from] EdgeStartError),
    /// The core.
    #[error("start the core")]
    Core(#[from] CoreStartError),
    /// The signals.
    #[error("listen to signals")]
    Signals(#[source] io::Error),
}

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// [`NodeError`] when it cannot start.
pub async fn run(config: Config) -> Result<(), NodeError> {
    let mut signals = Signals::new().map_err(NodeError::Signals)?;
    let node = start(&config).await?;
    let signal = signals.next().await;
    tracing::info!(signal, "stopping");
    node.stop().await;
    Ok(())
}

/// Starts the roles that a configuration asks for.
///
/// # Errors
/// [`NodeError`]. Tasks of a role that had started end with the runtime.
pub async fn start(config: &Config) -> Result<Running, NodeError> {
    let identity = NodeIdentity::load(&config.node.ca, &config.node.certificate, &config.node.key)?;
    config.accepts_certificate(identity.identity())?;
    secret_file::create_private_dir(&config.node.state_dir)?;
    let (metrics, tasks) = (Metrics::new(), Tasks::default());
    // Operators are answered while the roles' tasks end, so this is not one of them.
    let operators = Drain::new();
    let admin = match config.admin.listen {
        Some(listen) => Some(Admin::bind(listen, metrics.registry().clone()).await?),
        None => None,
    };
    let memory = config.limits.memory.as_u64();
    let budget = Budget::new(memory, metrics.memory_bytes.clone());
    metrics.memory_limit_bytes.set(i64::try_from(memory).unwrap_or(i64::MAX));
    let kept = store_config(config);
    let store = Store::open(kept.clone(), metrics.store.clone())?;
    // The core first: a node with both roles may be its own edge's core.
    let core = core_role::start(config, &identity, &budget, (&store, &kept), &metrics, &tasks)?;
    let edge = edge_role::start(config, &identity, &budget, &store, &metrics, &tasks).await?;
    // Who finds the node healthy finds its interception in place.
    if let Some(mut admin) = admin {
        if let Some(peers) = edge.as_ref().and_then(|edge| edge.peers.clone()) {
            admin = admin.with_peers(move || peers.report().into_iter().map(told).collect());
        }
        operators.spawn("admin", admin.serve(tasks.flows.stopping().clone()));
    }
    let (name, site) = (&config.node.name, &config.node.site);
    tracing::info!(%name, %site, roles = %identity.identity().roles, version = env!("CARGO_PKG_VERSION"), "running");
    Ok(Running { metrics, tasks, operators, store, core, edge })
}

/// Returns where the configuration puts the node's store, of which there is one for all its roles.
#[must_use]
pub fn store_config(config: &Config) -> StoreConfig {
    let config::Store { dir, size, memory, .. } = &config.store;
    let key_file = config.node.state_dir.join("store.key");
    StoreConfig::new(dir.clone(), key_file, size.as_u64(), memory.as_u64())
}

/// A node whose roles run. Dropping it stops nothing: the tasks are the runtime's.
pub struct Running {
    metrics: Metrics,
    tasks: Tasks,
    operators: Drain,
    store: Store,
    core: Option<core_role::Started>,
    edge: Option<edge_role::Started>,
}

impl Running {
    /// Returns what the node counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns where edges reach this core, with the port that the system chose; `None` without a `[core]`.
    #[must_use]
    pub fn core_address(&self) -> Option<SocketAddr> {
        self.core.as_ref()?.endpoint.local_addr().ok()
    }

    /// Returns where connections come in, in the order of `[[edge.intercept]]`, with the ports that the system chose.
    #[must_use]
    pub fn edge_addresses(&self) -> &[SocketAddr] {
        self.edge.as_ref().map_or(&[], |edge| &edge.listening)
    }

    /// Returns where other edges ask this one, with the port that the system chose; `None` without peers.
    #[must_use]
    pub fn peers_address(&self) -> Option<SocketAddr> {
        self.edge.as_ref()?.asked_at
    }

    /// Ends the flows, then what they needed: the store and the links; the address for operators at last.
    pub async fn stop(self) {
        if let Stopped::Cut(tasks) = self.tasks.flows.stop(Duration::from_secs(STOP_SECONDS)).await {
            tracing::warn!(tasks, "some tasks did not end in time");
        }
        let map = self.core.as_ref().map(|core| core.map.clone());
        let closing = async {
            if let Some(map) = map {
                map.close().await;
            }
            self.store.close().await;
        };
        if tokio::time::timeout(CLOSE_DEADLINE, closing).await.is_err() {
            tracing::warn!("the store did not close in time");
        }
        if let Some(core_role::Started { endpoint, .. }) = self.core {
            endpoint.close(0u32.into(), b"stopping");
            // The word has to leave before the runtime does.
            let _ = tokio::time::timeout(FAREWELL_DEADLINE, endpoint.wait_idle()).await;
        }
        self.tasks.links.stop(Duration::ZERO).await;
        self.operators.stop(Duration::ZERO).await;
    }
}

/// Puts what a node knows of a peer as operators are told it.
fn told(peer: peer::PeerReport) -> PeerReport {
    PeerReport {
        id: peer.id.0.iter().map(|byte| format!("{byte:02x}")).collect(),
        name: peer.name.map(|name| name.to_string()).unwrap_or_default(),
        site: peer.site.map(|site| site.to_string()).unwrap_or_default(),
        address: peer.address.to_string(),
        connected: peer.connected,
        blocks_received: peer.blocks_received,
        bytes_received: peer.bytes_received,
        blocks_served: peer.blocks_served,
        bytes_served: peer.bytes_served,
        wrong: peer.wrong,
        lost: peer.lost,
        latency_seconds: peer.latency.map(|latency| latency.as_secs_f64()),
        shunned_seconds: peer.shunned_for.map(|left| left.as_secs_f64()),
    }
}

/// The signals that end a node.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
