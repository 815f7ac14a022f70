//! Every metric of Wanigan, with unit and help. Labels come from closed sets, never from the network.

use prometheus::process_collector::ProcessCollector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use wanigan_parsers::Direction;

use crate::fault::{
    AcceptFault, DirectReason, DiscoveryRefusal, FlowRefusal, GetOutcome, OpaqueReason, Protocol,
    ResetReason, ServeRefusal,
};

/// Where a block's bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The own store.
    Store,
    /// A peer that answered a broadcast, or is known from an answer.
    Peer,
    /// An edge that the core named.
    Referral,
    /// The core, pushed with the reference.
    Core,
    /// The core, asked for with FETCH because the store did not have it.
    Fetch,
}

impl Source {
    const ALL: [Self; 5] = [Self::Store, Self::Peer, Self::Referral, Self::Core, Self::Fetch];

    fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Peer => "peer",
            Self::Referral => "referral",
            Self::Core => "core",
            Self::Fetch => "fetch",
        }
    }
}

/// All metrics of one node. Cloned handles count into the same numbers.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    lan_bytes: IntCounterVec,
    flow_wan_bytes: IntCounterVec,
    compression_before_bytes: IntCounterVec,
    compression_after_bytes: IntCounterVec,
    /// Bytes of datagrams sent on links, IP and UDP headers included.
    pub wan_sent_bytes: IntCounter,
    /// Bytes of datagrams received on links, IP and UDP headers included.
    pub wan_received_bytes: IntCounter,
    opaque_bytes: IntCounterVec,
    block_bytes: IntCounterVec,
    direct_bytes: IntCounterVec,
    flows: IntCounterVec,
    /// Flows carried over a link at this moment.
    pub flows_active: IntGauge,
    flows_direct: IntCounterVec,
    flows_reset: IntCounterVec,
    flows_refused: IntCounterVec,
    accept_errors: IntCounterVec,
    /// Links that answer at this moment.
    pub links_up: IntGauge,
    /// Memory reserved for flows, in bytes.
    pub memory_bytes: IntGauge,
    /// The limit of `memory_bytes`.
    pub memory_limit_bytes: IntGauge,
    /// Blocks whose bytes did not match their reference, from any source.
    pub wrong_blocks: IntCounter,
    /// References of edges with a forged secret.
    pub refused_references: IntCounter,
    /// Seals of bytes that this node did not keep.
    pub seals_missed: IntCounter,
    /// What the store counts.
    pub store: StoreMetrics,
    /// What discovery and transfer between peers count.
    pub peers: PeerMetrics,
    /// What the content map counts.
    pub content_map: ContentMapMetrics,
}

/// What the content map counts.
#[derive(Clone)]
pub struct ContentMapMetrics {
    /// Extents known.
    pub extents: IntGauge,
    /// Objects that have at least one.
    pub objects: IntGauge,
    /// Failures to read or write the map's file.
    pub errors: IntCounter,
}

/// What discovery and transfer between peers count.
#[derive(Clone)]
pub struct PeerMetrics {
    /// Datagrams sent: asks, once for each destination, and answers.
    pub discovery_sent_bytes: IntCounter,
    /// Datagrams received, refused ones among them.
    pub discovery_received_bytes: IntCounter,
    /// Blocks asked for by datagram.
    pub asked_blocks: IntCounter,
    /// Blocks of our asks that at least one peer proved to have.
    pub found_blocks: IntCounter,
    /// Blocks of others' asks that this node proved to have.
    pub answered_blocks: IntCounter,
    discovery_refusals: IntCounterVec,
    gets: IntCounterVec,
    /// Seconds from the request to the whole block, of blocks that peers gave.
    pub get_seconds: Histogram,
    /// Bytes of blocks received from peers.
    pub received_bytes: IntCounter,
    /// Bytes of blocks given to peers.
    pub served_bytes: IntCounter,
    /// Bytes exchanged with peers of other sites, as TCP carries them, handshakes among them.
    pub off_site_sent_bytes: IntCounter,
    /// The same for bytes received.
    pub off_site_received_bytes: IntCounter,
    serve_refusals: IntCounterVec,
    /// Connections of peers that are served at this moment.
    pub connections: IntGauge,
    /// Peers that are shunned at this moment.
    pub shunned: IntGauge,
}

impl PeerMetrics {
    fn new(r: &Registry) -> Self {
        Self {
            discovery_sent_bytes: counter(
                r,
                "wanigan_discovery_sent_bytes_total",
                "Payload bytes of discovery datagrams sent, once for each destination.",
            ),
            discovery_received_bytes: counter(
                r,
                "wanigan_discovery_received_bytes_total",
                "Payload bytes of discovery datagrams received, refused ones among them.",
            ),
            asked_blocks: counter(
                r,
                "wanigan_discovery_asked_blocks_total",
                "Blocks that this node asked its peers for by datagram.",
            ),
            found_blocks: counter(
                r,
                "wanigan_discovery_found_blocks_total",
                "Blocks asked for that at least one peer proved to have.",
            ),
            answered_blocks: counter(
                r,
                "wanigan_discovery_answered_blocks_total",
                "Blocks that peers asked for and this node proved to have.",
            ),
            discovery_refusals: counters(
                r,
                "wanigan_discovery_refusals_total",
                "Datagrams, or blocks in them, that were met with silence, by reason.",
                &["reason"],
            ),
            gets: counters(
                r,
                "wanigan_peer_gets_total",
                "Blocks that this node requested from peers, by outcome.",
                &["outcome"],
            ),
            get_seconds: histogram(
                r,
                "wanigan_peer_get_seconds",
                "Seconds from the request to the whole block, of blocks that peers gave.",
                &GET_SECONDS,
            ),
            received_bytes: counter(
                r,
                "wanigan_peer_received_bytes_total",
                "Bytes of blocks received from peers.",
            ),
            served_bytes: counter(r, "wanigan_peer_served_bytes_total", "Bytes of blocks given to peers."),
            off_site_sent_bytes: counter(
                r,
                "wanigan_peer_off_site_sent_bytes_total",
                "Bytes sent to peers of other sites, TLS included, without TCP and IP headers.",
            ),
            off_site_received_bytes: counter(
                r,
                "wanigan_peer_off_site_received_bytes_total",
                "Bytes received from peers of other sites, TLS included, without TCP and IP headers.",
            ),
            serve_refusals: counters(
                r,
                "wanigan_peer_refusals_total",
                "Connections and requests of peers that were not served, by reason.",
                &["reason"],
            ),
            connections: gauge(
                r,
                "wanigan_peer_connections",
                "Connections of peers that are served at this moment.",
            ),
            shunned: gauge(r, "wanigan_peers_shunned", "Peers that are shunned at this moment."),
        }
    }

    /// Counts a datagram, or a block in one, that was met with silence.
    pub fn count_discovery_refusal(&self, reason: DiscoveryRefusal) {
        self.discovery_refusals.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts what came of asking a peer for a block.
    pub fn count_get(&self, outcome: GetOutcome) {
        self.gets.with_label_values(&[outcome.as_str()]).inc();
    }

    /// Counts a connection or request of a peer that was not served.
    pub fn count_serve_refusal(&self, reason: ServeRefusal) {
        self.serve_refusals.with_label_values(&[reason.as_str()]).inc();
    }

    fn export_zeros(&self) {
        for reason in DiscoveryRefusal::ALL {
            self.discovery_refusals.with_label_values(&[reason.as_str()]);
        }
        for outcome in GetOutcome::ALL {
            self.gets.with_label_values(&[outcome.as_str()]);
        }
        for reason in ServeRefusal::ALL {
            self.serve_refusals.with_label_values(&[reason.as_str()]);
        }
    }
}

/// A LAN's fraction of a millisecond to a WAN's seconds.
const GET_SECONDS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// What the store counts.
#[derive(Clone)]
pub struct StoreMetrics {
    /// Bytes of segment files.
    pub bytes: IntGauge,
    /// The limit of `bytes`.
    pub limit_bytes: IntGauge,
    /// Blocks that can be found.
    pub blocks: IntGauge,
    /// Segment files.
    pub segments: IntGauge,
    /// Bytes of blocks in the memory tier.
    pub memory_bytes: IntGauge,
    /// Bytes of blocks that left with an evicted segment.
    pub evicted_bytes: IntCounter,
    /// Bytes of blocks that were written.
    pub written_bytes: IntCounter,
    /// Blocks that were not written because the queue to the disk was full.
    pub dropped_blocks: IntCounter,
    /// Blocks that failed their seal when read.
    pub bad_blocks: IntCounter,
    /// Failed reads, writes and commits.
    pub errors: IntCounter,
    /// Reads that were not begun because the disk did not answer.
    pub skipped_reads: IntCounter,
    /// Whether the disk is in use: 1, or 0 after it failed.
    pub up: IntGauge,
}

impl Metrics {
    /// Registers everything in a registry of its own.
    ///
    /// # Panics
    /// Never with the names below, which a test registers.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let metrics = Self {
            lan_bytes: counters(
                r,
                "wanigan_lan_bytes_total",
                "Bytes of flows on the TCP leg of this node, by protocol and direction.",
                &["protocol", "direction"],
            ),
            flow_wan_bytes: counters(
                r,
                "wanigan_flow_wan_bytes_total",
                "Frame bytes of flows on the link, by protocol and direction; without the transport's own overhead.",
                &["protocol", "direction"],
            ),
            compression_before_bytes: counters(
                r,
                "wanigan_compression_before_bytes_total",
                "Content of frames that crossed the link compressed, before it was, by direction.",
                &["direction"],
            ),
            compression_after_bytes: counters(
                r,
                "wanigan_compression_after_bytes_total",
                "Content of frames that crossed the link compressed, as it crossed, by direction.",
                &["direction"],
            ),
            wan_sent_bytes: counter(
                r,
                "wanigan_wan_sent_bytes_total",
                "Bytes of datagrams sent on links, IP and UDP headers included.",
            ),
            wan_received_bytes: counter(
                r,
                "wanigan_wan_received_bytes_total",
                "Bytes of datagrams received on links, IP and UDP headers included.",
            ),
            opaque_bytes: counters(
                r,
                "wanigan_opaque_bytes_total",
                "Bytes passed on without a reference, by reason.",
                &["reason"],
            ),
            block_bytes: counters(
                r,
                "wanigan_block_bytes_total",
                "Bytes of content blocks written to clients, by where they came from.",
                &["source"],
            ),
            direct_bytes: counters(
                r,
                "wanigan_direct_bytes_total",
                "Bytes of connections relayed directly, outside the link.",
                &["direction"],
            ),
            flows: counters(
                r,
                "wanigan_flows_total",
                "Flows carried over a link, by protocol, counted when they end.",
                &["protocol"],
            ),
            flows_active: gauge(r, "wanigan_flows_active", "Flows carried over a link at this moment."),
            flows_direct: counters(
                r,
                "wanigan_flows_direct_total",
                "Connections relayed directly, by reason.",
                &["reason"],
            ),
            flows_reset: counters(
                r,
                "wanigan_flows_reset_total",
                "Flows reset on both legs, by reason.",
                &["reason"],
            ),
            flows_refused: counters(
                r,
                "wanigan_flows_refused_total",
                "Flows that a core did not open for an edge, by reason.",
                &["reason"],
            ),
            accept_errors: counters(
                r,
                "wanigan_accept_errors_total",
                "Connections that arrived and were not handed to a flow, by reason.",
                &["reason"],
            ),
            links_up: gauge(r, "wanigan_links_up", "Links that answer at this moment."),
            memory_bytes: gauge(r, "wanigan_memory_bytes", "Memory reserved for flows."),
            memory_limit_bytes: gauge(r, "wanigan_memory_limit_bytes", "The limit of wanigan_memory_bytes."),
            wrong_blocks: counter(
                r,
                "wanigan_wrong_blocks_total",
                "Blocks whose bytes did not match their reference.",
            ),
            refused_references: counter(
                r,
                "wanigan_refused_references_total",
                "References of edges with a forged secret, at a core.",
            ),
            seals_missed: counter(
                r,
                "wanigan_seals_missed_total",
                "Blocks that crossed in pieces and were not stored, since the pieces were not kept.",
            ),
            store: StoreMetrics {
                bytes: gauge(r, "wanigan_store_bytes", "Bytes of the store's segment files."),
                limit_bytes: gauge(r, "wanigan_store_limit_bytes", "The limit of wanigan_store_bytes."),
                blocks: gauge(r, "wanigan_store_blocks", "Blocks in the store."),
                segments: gauge(r, "wanigan_store_segments", "Segment files of the store."),
                memory_bytes: gauge(
                    r,
                    "wanigan_store_memory_bytes",
                    "Bytes of blocks in the store's memory tier.",
                ),
                evicted_bytes: counter(
                    r,
                    "wanigan_store_evicted_bytes_total",
                    "Bytes of blocks that left with an evicted segment.",
                ),
                written_bytes: counter(
                    r,
                    "wanigan_store_written_bytes_total",
                    "Bytes of blocks written to the store.",
                ),
                dropped_blocks: counter(
                    r,
                    "wanigan_store_dropped_blocks_total",
                    "Blocks not written because the queue to the disk was full.",
                ),
                bad_blocks: counter(
                    r,
                    "wanigan_store_bad_blocks_total",
                    "Blocks that failed their seal when read; they are dropped and fetched again.",
                ),
                errors: counter(
                    r,
                    "wanigan_store_errors_total",
                    "Failed reads, writes and commits of the store.",
                ),
                skipped_reads: counter(
                    r,
                    "wanigan_store_skipped_reads_total",
                    "Reads not begun because the store's disk did not answer.",
                ),
                up: gauge(
                    r,
                    "wanigan_store_up",
                    "Whether the store's disk is in use: 1, or 0 after it failed.",
                ),
            },
            peers: PeerMetrics::new(r),
            content_map: ContentMapMetrics {
                extents: gauge(
                    r,
                    "wanigan_content_map_extents",
                    "Runs of files and representations whose blocks are known.",
                ),
                objects: gauge(
                    r,
                    "wanigan_content_map_objects",
                    "Files and representations of which at least one block is known.",
                ),
                errors: counter(
                    r,
                    "wanigan_content_map_errors_total",
                    "Failures to read or write the content map's file.",
                ),
            },
            registry,
        };
        metrics.export_zeros();
        metrics.peers.export_zeros();
        describe_process(&metrics.registry);
        metrics
    }

    /// Returns the registry, for the admin address.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts bytes of a flow on this node's TCP leg.
    pub fn count_lan_bytes(&self, protocol: Protocol, direction: Direction, bytes: usize) {
        self.lan_bytes.with_label_values(&[protocol.as_str(), direction.as_str()]).inc_by(bytes as u64);
    }

    /// Counts frame bytes of a flow on the link.
    pub fn count_flow_wan_bytes(&self, protocol: Protocol, direction: Direction, bytes: usize) {
        self.flow_wan_bytes.with_label_values(&[protocol.as_str(), direction.as_str()]).inc_by(bytes as u64);
    }

    /// Counts the content of a frame that crosses the link compressed.
    pub fn count_compression(&self, direction: Direction, before: usize, after: usize) {
        self.compression_before_bytes.with_label_values(&[direction.as_str()]).inc_by(before as u64);
        self.compression_after_bytes.with_label_values(&[direction.as_str()]).inc_by(after as u64);
    }

    /// Returns the content of frames that crossed compressed, before and after it was.
    #[must_use]
    pub fn compression_bytes(&self, direction: Direction) -> (u64, u64) {
        let bytes = |counter: &IntCounterVec| counter.with_label_values(&[direction.as_str()]).get();
        (bytes(&self.compression_before_bytes), bytes(&self.compression_after_bytes))
    }

    /// Counts bytes passed on without a reference.
    pub fn count_opaque_bytes(&self, reason: OpaqueReason, bytes: usize) {
        self.opaque_bytes.with_label_values(&[reason.as_str()]).inc_by(bytes as u64);
    }

    /// Counts bytes of content blocks written to a client.
    pub fn count_block_bytes(&self, source: Source, bytes: usize) {
        self.block_bytes.with_label_values(&[source.as_str()]).inc_by(bytes as u64);
    }

    /// Returns the bytes of blocks that came from a source.
    #[must_use]
    pub fn block_bytes(&self, source: Source) -> u64 {
        self.block_bytes.with_label_values(&[source.as_str()]).get()
    }

    /// Counts bytes relayed directly.
    pub fn count_direct_bytes(&self, direction: Direction, bytes: u64) {
        self.direct_bytes.with_label_values(&[direction.as_str()]).inc_by(bytes);
    }

    /// Counts a flow that ended.
    pub fn count_flow(&self, protocol: Protocol) {
        self.flows.with_label_values(&[protocol.as_str()]).inc();
    }

    /// Counts a connection relayed directly.
    pub fn count_direct(&self, reason: DirectReason) {
        self.flows_direct.with_label_values(&[reason.as_str()]).inc();
    }

    /// Returns how many connections were relayed directly, whatever the reason.
    #[must_use]
    pub fn direct_flows(&self) -> u64 {
        let by_reason = DirectReason::ALL.iter();
        by_reason.map(|reason| self.flows_direct.with_label_values(&[reason.as_str()]).get()).sum()
    }

    /// Counts a flow reset on both legs.
    pub fn count_reset(&self, reason: ResetReason) {
        self.flows_reset.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a flow that this core did not open.
    pub fn count_refused(&self, reason: FlowRefusal) {
        self.flows_refused.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a connection that arrived and was not handed to a flow.
    pub fn count_accept_error(&self, reason: AcceptFault) {
        self.accept_errors.with_label_values(&[reason.as_str()]).inc();
    }

    fn export_zeros(&self) {
        for direction in Direction::ALL {
            for protocol in Protocol::ALL {
                self.count_lan_bytes(*protocol, direction, 0);
                self.count_flow_wan_bytes(*protocol, direction, 0);
            }
            self.count_direct_bytes(direction, 0);
            self.count_compression(direction, 0, 0);
        }
        for protocol in Protocol::ALL {
            self.flows.with_label_values(&[protocol.as_str()]);
        }
        for reason in OpaqueReason::ALL {
            self.count_opaque_bytes(*reason, 0);
        }
        for reason in DirectReason::ALL {
            self.flows_direct.with_label_values(&[reason.as_str()]);
        }
        for reason in ResetReason::ALL {
            self.flows_reset.with_label_values(&[reason.as_str()]);
        }
        for reason in FlowRefusal::ALL {
            self.flows_refused.with_label_values(&[reason.as_str()]);
        }
        for reason in AcceptFault::ALL {
            self.accept_errors.with_label_values(&[reason.as_str()]);
        }
        for source in Source::ALL {
            self.count_block_bytes(source, 0);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Adds the version, and what the kernel knows of the process.
fn describe_process(registry: &Registry) {
    let info = Opts::new("wanigan_build_info", "Always 1; the version is its label.");
    let info = IntGauge::with_opts(info.const_label("version", env!("CARGO_PKG_VERSION")))
        .expect("name and label are valid");
    info.set(1);
    registry.register(Box::new(info)).expect("each name is registered once");
    registry.register(Box::new(ProcessCollector::for_self())).expect("each name is registered once");
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("name and labels are valid");
    registry.register(Box::new(counters.clone())).expect("each name is registered once");
    counters
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    let counter = IntCounter::new(name, help).expect("the name is valid");
    registry.register(Box::new(counter.clone())).expect("each name is registered once");
    counter
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    let gauge = IntGauge::new(name, help).expect("the name is valid");
    registry.register(Box::new(gauge.clone())).expect("each name is registered once");
    gauge
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    let histogram = Histogram::with_opts(opts).expect("the name is valid and the buckets ascend");
    registry.register(Box::new(histogram.clone())).expect("each name is registered once");
    histogram
}

#[cfg(test)]
mod reference;
