//! Who holds what: which edges were sent a block, and which of them the core names to another edge.
//!
//! A [`Holder`] is one edge with its [`Record`]; [`Holders`] are all of them; a [`Neighbours`] is one edge's view of
//! the others. An edge is named to others while it has a link, shares its store and said where it is reached, to
//! edges of its own site and of sites that the operator grouped with it. What is known may be wrong, since edges evict
//! blocks and die: a wrong referral costs the asker time, and it has the bytes from the core the second time it asks.
//!
//! Bounded: [`EDGES_MAX`] edges, a record of fixed capacity each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wanigan_parsers::wan::Referral;

use crate::addr::NodeId;
use crate::block::Digest;
use crate::matching::asking::Asking;
use crate::matching::uploads::Crossed;
use crate::matching::{Knowledge, Record};
use crate::pki::SiteName;

/// Every edge that this core has met since it started.
#[derive(Debug)]
pub struct Holders {
    edges: Mutex<HashMap<NodeId, Arc<Holder>>>,
    /// Sites that may be named to each other.
    groups: Vec<Vec<SiteName>>,
    blocks_each: usize,
    /// Changes whenever an edge comes, goes or says something new of itself.
    version: AtomicU64,
}

/// One edge, and what it was sent.
#[derive(Debug)]
pub struct Holder {
    id: NodeId,
    site: SiteName,
    record: Record,
    /// What its flows asked of what the record does not say.
    asking: Arc<Mutex<Asking>>,
    /// What it uploaded. It keeps such blocks, but under no name that others could ask it by.
    given: Record,
    crossed: Crossed,
    presence: Mutex<Presence>,
}

#[derive(Debug, Default)]
struct Presence {
    links: u32,
    shares: bool,
    asks: bool,
    addresses: Vec<SocketAddr>,
}

/// One edge with its view of the others.
#[derive(Debug)]
pub struct Neighbours {
    holders: Arc<Holders>,
    own: Arc<Holder>,
    /// The link of the flow.
    link: u64,
    /// Who may be named to `own`, its own site first, as of `version`.
    others: Vec<Arc<Holder>>,
    version: u64,
}

impl Holders {
    /// Makes records of at most `blocks_each` blocks an edge.
    #[must_use]
    pub fn new(blocks_each: usize, groups: Vec<Vec<SiteName>>) -> Self {
        Self { edges: Mutex::default(), groups, blocks_each, version: AtomicU64::new(0) }
    }

    /// Returns an edge, or `None` where there are too many.
    #[must_use]
    pub fn of(&self, id: NodeId, site: &SiteName) -> Option<Arc<Holder>> {
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        if edges.len() >= EDGES_MAX && !edges.contains_key(&id) {
            // What is known of edges that are not connected is only a guess.
            edges.retain(|_, holder| holder.presence().links > 0);
            if edges.len() >= EDGES_MAX {
                return None;
            }
        }
        let new = || {
            let blocks = self.blocks_each;
            let (record, given, crossed) = (Record::new(blocks), Record::new(blocks), Crossed::new(blocks));
            Arc::new(Holder {
                id,
                site: site.clone(),
                record,
                asking: Arc::default(),
                given,
                crossed,
                presence: Mutex::default(),
            })
        };
        let holder = edges.entry(id).or_insert_with(new);
        if holder.site != *site {
            // A new certificate moved it.
            *holder = new();
        }
        Some(Arc::clone(holder))
    }

    /// Notes that a link to the edge stands, and what it said of itself: whether it gives blocks, and takes them.
    pub fn handle_up(&self, holder: &Holder, shares: bool, asks: bool) {
        let mut presence = holder.presence();
        presence.links += 1;
        presence.shares = shares;
        presence.asks = asks;
        drop(presence);
        self.changed();
    }

    /// Notes that a link to the edge is gone.
    pub fn handle_down(&self, holder: &Holder) {
        let mut presence = holder.presence();
        presence.links = presence.links.saturating_sub(1);
        drop(presence);
        self.changed();
    }

    /// Notes where the edge is reached by others.
    pub fn handle_reached(&self, holder: &Holder, addresses: Vec<SocketAddr>) {
        holder.presence().addresses = addresses;
        self.changed();
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Returns who may be named to an edge, its own site first.
    fn others(&self, own: &Holder) -> Vec<Arc<Holder>> {
        if !own.presence().asks {
            return Vec::new();
        }
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let mut others: Vec<_> = edges
            .values()
            .filter(|other| other.id != own.id && self.are_grouped(&own.site, &other.site))
            .filter(|other| other.presence().is_named())
            .cloned()
            .collect();
        others.sort_by_key(|other| (other.site != own.site, other.id));
        others
    }

    fn are_grouped(&self, one: &SiteName, other: &SiteName) -> bool {
        one == other || self.groups.iter().any(|group| group.contains(one) && group.contains(other))
    }
}

impl Holder {
    /// Returns what the edge was sent.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Returns what the edge was sent or has sent: what it may refer to by digest alone.
    #[must_use]
    pub fn crossed(&self) -> &Crossed {
        &self.crossed
    }

    /// Notes which store the edge has.
    pub fn handle_store(&self, store: [u8; 16]) {
        self.record.handle_store(store);
        *self.asking.lock().unwrap_or_else(PoisonError::into_inner) = Asking::default();
        self.given.handle_store(store);
    }

    /// Notes a block that the edge sent in full.
    pub fn handle_given(&self, digest: &Digest) {
        self.crossed.insert(digest);
        self.given.learn(digest);
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence {
    fn is_named(&self) -> bool {
        self.links > 0 && self.shares && !self.addresses.is_empty()
    }
}

impl Neighbours {
    /// Makes an edge's view, for one flow over a link of it.
    #[must_use]
    pub fn new(holders: Arc<Holders>, own: Arc<Holder>, link: u64) -> Self {
        let version = holders.version.load(Ordering::Acquire);
        let others = holders.others(&own);
        Self { holders, own, link, others, version }
    }

    /// Returns the record of the edge itself.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.own.record
    }

    /// Returns what the edge's flows asked so far.
    #[must_use]
    pub fn asking(&self) -> Arc<Mutex<Asking>> {
        Arc::clone(&self.own.asking)
    }

    /// Notes that this flow sends the edge the block. Exactly one of the next two calls follows for it.
    pub fn handle_sent(&self, digest: &Digest) {
        self.own.record.handle_sent(digest, self.link);
    }

    /// Notes that the edge has a block that this flow sent.
    pub fn handle_received(&self, digest: &Digest) {
        self.own.record.handle_received(digest, self.link);
    }

    /// Notes that a block that this flow sent may not have arrived.
    pub fn handle_lost(&self, digest: &Digest) {
        self.own.record.handle_lost(digest, self.link);
    }

    /// Notes that the edge is told of the block.
    pub fn handle_named(&self, digest: &Digest) {
        self.own.crossed.insert(digest);
    }

    /// Notes that the edge itself does not have the block, whatever was known.
    pub fn handle_missed(&self, digest: &Digest) {
        self.own.record.forget(digest);
        self.own.given.forget(digest);
    }

    /// Returns whether the edge has the block, or will get it from another edge.
    pub fn knows(&mut self, digest: &Digest) -> bool {
        let own = &self.own;
        own.record.knows(digest) != Knowledge::Unknown || own.given.knows(digest) == Knowledge::Held || {
            self.refresh();
            self.others.iter().any(|other| other.record.knows(digest) != Knowledge::Unknown)
        }
    }

    /// Returns the edge to get a block from: itself where the block is on its way to it, one that has it, or one that
    /// is about to have it.
    pub fn refer(&mut self, digest: &Digest) -> Option<Referral> {
        if self.own.record.knows(digest) == Knowledge::OnTheWay {
            return Some(Referral { node: self.own.id, wait_ms: ON_THE_WAY_MS, addresses: Vec::new() });
        }
        self.refresh();
        let known = |other: &&Arc<Holder>| other.record.knows(digest) != Knowledge::Unknown;
        let near =
            self.others.iter().filter(known).map(|other| {
                (other.site != self.own.site, other.record.knows(digest) != Knowledge::Held, other)
            });
        // Several that are as good share the load: each block has an order of its own among them.
        let (_, on_the_way, chosen) =
            near.min_by_key(|(far, on_the_way, other)| (*far, *on_the_way, mix(digest, &other.id)))?;
        let addresses = chosen.presence().addresses.clone();
        let wait_ms = if on_the_way { ON_THE_WAY_MS } else { 0 };
        Some(Referral { node: chosen.id, wait_ms, addresses })
    }

    /// Notes that another edge turned out not to give a block that it was sent.
    pub fn forget(&self, node: NodeId, digest: &Digest) {
        if let Some(other) = self.others.iter().find(|other| other.id == node) {
            other.record.forget(digest);
        }
    }

    fn refresh(&mut self) {
        let version = self.holders.version.load(Ordering::Acquire);
        if version != self.version {
            self.version = version;
            self.others = self.holders.others(&self.own);
        }
    }
}

fn mix(digest: &Digest, node: &NodeId) -> u64 {
    let eight = |bytes: &[u8; 32]| u64::from_le_bytes(bytes[8..16].try_into().expect("eight of 32 bytes"));
    (eight(&digest.0) ^ eight(&node.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// How long an asker waits at an edge for a block on its way there, in milliseconds, before it asks the core again.
pub const ON_THE_WAY_MS: u32 = 1_000;

/// Edges whose records are kept.
pub const EDGES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_referred_to_a_neighbour_that_was_sent_the_block() {
        let holders = holders();
        let (one, two) = (edge(&holders, 1, "lisbon"), edge(&holders, 2, "lisbon"));
        let mut view = Neighbours::new(holders.clone(), one.clone(), 0);
        assert!(!view.knows(&D));
        two.record.handle_sent(&D, 0);
        assert!(view.knows(&D));
        assert_eq!(view.refer(&D).map(|to| (to.node, to.wait_ms)), Some((NodeId([2; 32]), ON_THE_WAY_MS)));
        two.record.handle_received(&D, 0);
        assert_eq!(view.refer(&D).map(|to| (to.node, to.wait_ms)), Some((NodeId([2; 32]), 0)));
        view.forget(NodeId([2; 32]), &D);
        assert_eq!(view.refer(&D), None);
        one.record.handle_sent(&D, 0);
        assert_eq!(view.refer(&D).map(|to| to.node), Some(NodeId([1; 32])), "it is on its way to the asker");
    }

    #[test]
    fn who_is_gone_does_not_share_or_is_nowhere_is_not_named() {
        let holders = holders();
        let (one, two) = (edge(&holders, 1, "lisbon"), edge(&holders, 2, "lisbon"));
        two.record.learn(&D);
        let mut view = Neighbours::new(holders.clone(), one, 0);
        assert!(view.refer(&D).is_some());
        holders.handle_reached(&two, Vec::new());
        assert_eq!(view.refer(&D), None);
        holders.handle_reached(&two, vec![address(2)]);
        holders.handle_down(&two);
        assert_eq!(view.refer(&D), None);
        holders.handle_up(&two, false, true);
        assert_eq!(view.refer(&D), None);
    }

    #[test]
    fn an_edge_that_takes_nothing_from_others_is_told_of_nobody() {
        let holders = holders();
        let (one, two) = (edge(&holders, 1, "lisbon"), edge(&holders, 2, "lisbon"));
        two.record.learn(&D);
        holders.handle_up(&one, true, false);
        let mut view = Neighbours::new(holders.clone(), one, 0);
        assert!(!view.knows(&D) && view.refer(&D).is_none());
    }

    #[test]
    fn sites_are_named_to_each_other_only_in_a_group_and_the_own_site_comes_first() {
        let holders = holders();
        let lisbon = edge(&holders, 1, "lisbon");
        let (porto, faro) = (edge(&holders, 2, "porto"), edge(&holders, 3, "faro"));
        porto.record.learn(&D);
        faro.record.learn(&D);
        let mut view = Neighbours::new(holders.clone(), lisbon, 0);
        assert_eq!(view.refer(&D).map(|to| to.node), Some(NodeId([2; 32])));
        let near = edge(&holders, 4, "lisbon");
        near.record.handle_sent(&D, 0);
        assert_eq!(view.refer(&D).map(|to| to.node), Some(NodeId([4; 32])));
        let mut view = Neighbours::new(holders.clone(), faro, 0);
        assert!(view.refer(&D).is_none() || view.refer(&D).map(|to| to.node) == Some(NodeId([3; 32])));
    }

    #[test]
    fn the_edges_are_bounded_and_those_that_are_gone_make_room() {
        let holders = holders();
        let site: SiteName = "lisbon".parse().unwrap();
        for n in 0..EDGES_MAX {
            let holder = holders.of(id(n), &site).unwrap();
            holders.handle_up(&holder, true, true);
        }
        assert!(holders.of(id(EDGES_MAX), &site).is_none());
        let gone = holders.of(id(0), &site).unwrap();
        holders.handle_down(&gone);
        assert!(holders.of(id(EDGES_MAX), &site).is_some());
    }

    const D: Digest = Digest([5; 32]);

    fn holders() -> Arc<Holders> {
        let group = ["lisbon", "porto"].map(|site| site.parse().unwrap());
        Arc::new(Holders::new(100, vec![group.to_vec()]))
    }

    fn edge(holders: &Holders, n: u8, site: &str) -> Arc<Holder> {
        let holder = holders.of(NodeId([n; 32]), &site.parse().unwrap()).unwrap();
        holders.handle_up(&holder, true, true);
        holders.handle_reached(&holder, vec![address(n)]);
        holder
    }

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 1, 0, n], 7747))
    }

    fn id(n: usize) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        NodeId(id)
    }
}
