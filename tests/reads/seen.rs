//! What the runs have met, so that it is known to have been tested.

use std::time::Duration;

use wanigan::metrics::{Metrics, Source};

use crate::office::Office;

/// What all runs together have met.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The longest read beside which nothing was restarted.
    pub(crate) longest: Duration,
    pub(crate) visits: u64,
    pub(crate) hung_up: u64,
    pub(crate) broken: u64,
    pub(crate) edits: u64,
    pub(crate) uploads: u64,
    pub(crate) edge_restarts: u64,
    pub(crate) core_restarts: u64,
    pub(crate) stores_lost: u64,
    /// Bytes of blocks that were sealed out of pieces and named later.
    pub(crate) sealed: u64,
    /// Bytes of parts of blocks that were named.
    pub(crate) sliced: u64,
    pub(crate) edges_stored: u64,
    pub(crate) edges_fetched: u64,
    pub(crate) edges_from_peers: u64,
    pub(crate) edges_evicted: u64,
    pub(crate) edges_direct: u64,
    pub(crate) core_stored: u64,
    pub(crate) core_fetched: u64,
    pub(crate) core_evicted: u64,
}

impl Seen {
    /// Fails unless everything that this test is about has happened.
    pub(crate) fn everything(&self) {
        for (count, what) in [
            (self.visits, "reads"),
            (self.hung_up, "clients that hung up"),
            (self.edits, "edits"),
            (self.uploads, "uploads"),
            (self.edge_restarts, "restarts of edges"),
            (self.core_restarts, "restarts of the core"),
            (self.stores_lost, "lost stores"),
            (self.sealed, "sealed bytes"),
            (self.sliced, "parts of blocks"),
            (self.edges_stored, "references that edges resolved"),
            (self.edges_fetched, "blocks that edges missed"),
            (self.edges_evicted, "evictions at edges"),
            (self.core_stored, "references that the core resolved"),
            (self.core_evicted, "evictions at the core"),
        ] {
            assert!(count > 0, "there were no {what}");
        }
    }

    /// Adds what the nodes counted in all of their lives.
    pub(crate) fn add(&mut self, office: &Office) {
        let direct = office.edges.iter().flat_map(|edge| &edge.lives).map(Metrics::direct_flows);
        self.edges_direct += direct.sum::<u64>();
        for metrics in office.edges.iter().flat_map(|edge| &edge.lives) {
            self.edges_stored += metrics.block_bytes(Source::Store);
            self.edges_fetched += metrics.block_bytes(Source::Fetch);
            self.edges_from_peers +=
                metrics.block_bytes(Source::Peer) + metrics.block_bytes(Source::Referral);
            self.edges_evicted += metrics.store.evicted_bytes.get();
        }
        for metrics in &office.core.lives {
            self.core_stored += metrics.block_bytes(Source::Store);
            self.core_fetched += metrics.block_bytes(Source::Fetch);
            self.core_evicted += metrics.store.evicted_bytes.get();
        }
        for metrics in office.edges.iter().flat_map(|edge| &edge.lives).chain(&office.core.lives) {
            assert_eq!(metrics.wrong_blocks.get(), 0, "a block was not what it was named");
            assert_eq!(metrics.refused_references.get(), 0, "an honest edge was refused");
            assert_eq!(metrics.store.bad_blocks.get(), 0, "a block went bad in a store");
        }
    }
}
