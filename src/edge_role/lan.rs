//! An edge among its neighbours: starts discovery and transfer over its store, and keeps them told of what only the
//! links know, the cores' time and their server secrets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::UnixTime;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};
use wanigan_parsers::Tag;
use wanigan_parsers::wan::{OlderKey, REKEY_BLOCKS_MAX};

use crate::block::{Block, KeyId, Reference};
use crate::config::{self, Config};
use crate::discovery::{self, Discovery, DiscoveryError, DiscoverySettings, Finding, Found, Holdings};
use crate::drain::Drain;
use crate::fetch::{Lan, Soon};
use crate::metrics::Metrics;
use crate::peer::requests::Patience;
use crate::peer::{self, Lookup, Peers, PeersSettings, Serving, ServingSettings, Waiting, marked_dial};
use crate::pki::{DomainClock, NodeIdentity};
use crate::proof::LINK_EXPORTER_LABEL;
use crate::renaming::{self, Doubt};
use crate::store::Store;
use crate::wan::core_link::CoreLink;
use crate::wan::{CoreTime, Keys, Link};

/// Why an edge has no part in its LAN.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// The UDP address.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The TCP address.
    #[error("listen for peers on {0}")]
    Serve(SocketAddr, #[source] std::io::Error),
}

/// What an edge is to its neighbours.
pub(super) struct Neighbourhood {
    /// Asks, gets, and waits.
    pub lan: Lan,
    /// What comes of asks.
    pub answers: mpsc::Receiver<discovery::Event>,
    domains: Arc<Domains>,
    /// Where operators say that others reach this edge; the system's addresses where they say nothing.
    advertise: Vec<SocketAddr>,
    store: Store,
}

impl Neighbourhood {
    /// Starts discovery, and the serving of peers where the store is shared.
    ///
    /// # Errors
    /// [`LanError`] when an address cannot be had.
    pub(super) fn start(
        config: &Config,
        identity: &NodeIdentity,
        store: &Store,
        metrics: &Metrics,
        drain: &Drain,
    ) -> Result<Self, LanError> {
        let settings = &config.peers;
        let domains = Arc::new(Domains::default());
        let clock = Arc::clone(&domains).clock();
        let (soon, waiting) = (Arc::new(Soon::default()), Waiting::new());
        let peers = Peers::new(
            PeersSettings {
                site: identity.identity().site.clone(),
                tls: identity.peer_client_tls(clock.clone()),
                dial: marked_dial(),
                connections_a_peer: CONNECTIONS_A_PEER,
                patience: Patience::default(),
                metrics: metrics.clone(),
            },
            drain.clone(),
        );
        let held = Arc::new(Held {
            store: store.clone(),
            soon: soon.clone(),
            domains: domains.clone(),
            metrics: metrics.clone(),
            connections: settings.connections,
        });
        let mut discovery = DiscoverySettings {
            id: identity.identity().id,
            share: config.store.share,
            listen: settings.listen,
            transfer_port: None,
            interfaces: settings.interfaces.clone(),
            broadcast: settings.broadcast,
            multicast: settings.multicast,
            static_peers: settings.static_peers.clone(),
        };
        if config.store.share {
            let listen = settings.listen;
            let serving = Serving::bind(listen).map_err(|error| LanError::Serve(listen, error))?;
            let bound = serving.local_addr().map_err(|error| LanError::Serve(listen, error))?;
            discovery.transfer_port = Some(bound.port());
            let settings = serving_settings(settings, identity, clock, held.clone(), waiting.clone());
            drain.spawn("serving peers", serving.run(settings, peers.clone(), drain.clone()));
        }
        let (discovery, answers) = Discovery::start(discovery, held, metrics.clone(), drain)?;
        let lan = Lan { discovery, peers, waiting, soon };
        let advertise = settings.advertise.clone();
        Ok(Self { lan, answers, domains, advertise, store: store.clone() })
    }

    /// Keeps a core told where this edge is reached, and this edge told of the core's time and secrets.
    pub(super) fn follow(&self, mut core: CoreLink, drain: &Drain) {
        let follower = Follower {
            discovery: self.lan.discovery.clone(),
            number: self.domains.join(),
            domains: Arc::clone(&self.domains),
            advertise: self.advertise.clone(),
            store: self.store.clone(),
        };
        let stopping = drain.stopping().clone();
        drain.spawn("neighbourhood", async move {
            let following = async {
                loop {
                    let link = core.next().await;
                    follower.follow(&link).await;
                }
            };
            stopping.run_until_cancelled(following).await;
        });
    }
}

fn serving_settings(
    settings: &config::Peers,
    identity: &NodeIdentity,
    clock: DomainClock,
    blocks: Arc<Held>,
    waiting: Waiting,
) -> ServingSettings {
    ServingSettings {
        tls: identity.peer_server_tls(clock),
        connections: settings.connections as usize,
        rate: settings.rate.map(|rate| rate.as_u64()),
        blocks,
        waiting,
    }
}

/// What cores said of their domains: the time, and which of their server secrets are good.
///
/// Several cores may share a secret and change it at different moments. So a key is good while any core that is heard
/// says so. The word of a core that is away stands too, though not against one that is heard and says that the key's
/// time is over: that of its current secret until it says otherwise, that of an older one for the rest of its grace.
#[derive(Debug, Default)]
pub(super) struct Domains {
    keys: Mutex<HashMap<KeyId, Domain>>,
    cores: AtomicU64,
}

/// Names a core among those that are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CoreNumber(u64);

#[derive(Debug)]
struct Domain {
    time_ms: u64,
    at: Instant,
    claims: Vec<Claim>,
}

/// A core's word that a key is good.
#[derive(Debug)]
struct Claim {
    core: CoreNumber,
    until: Option<Instant>,
    is_away: bool,
}

impl Domains {
    fn join(&self) -> CoreNumber {
        CoreNumber(self.cores.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes all that one core says of its keys; returns those that no core says any longer to be good.
    fn handle_told(
        &self,
        core: CoreNumber,
        told: &[(KeyId, Option<Instant>)],
        CoreTime { time_ms, at }: CoreTime,
    ) -> Vec<KeyId> {
        let mut keys = self.lock();
        let is_over = |key: &KeyId, domain: &mut Domain| {
            let before = domain.claims.len();
            domain.claims.retain(|claim| claim.core != core);
            let has_dropped = domain.claims.len() < before && told.iter().all(|(good, _)| good != key);
            has_dropped && domain.claims.iter().all(|claim| claim.is_away)
        };
        let ended = keys.extract_if(is_over).map(|(key, _)| key).collect();
        for (key, until) in told {
            if keys.len() < KEYS_MAX || keys.contains_key(key) {
                let domain = keys.entry(*key).or_insert(Domain { time_ms, at, claims: Vec::new() });
                (domain.time_ms, domain.at) = (time_ms, at);
                domain.claims.push(Claim { core, until: *until, is_away: false });
            }
        }
        ended
    }

    /// Notes that a core is not heard any longer.
    fn handle_away(&self, core: CoreNumber) {
        for domain in self.lock().values_mut() {
            domain
                .claims
                .iter_mut()
                .filter(|claim| claim.core == core)
                .for_each(|claim| claim.is_away = true);
        }
    }

    fn is_good(&self, key: KeyId, now: Instant) -> bool {
        let is_said = |claim: &Claim| claim.until.is_none_or(|until| until > now);
        self.lock().get(&key).is_some_and(|domain| domain.claims.iter().any(is_said))
    }

    /// Returns the clock that certificates of peers are checked by: the one that was told last.
    fn clock(self: Arc<Self>) -> DomainClock {
        Arc::new(move || {
            let last = self.lock().values().max_by_key(|domain| domain.at).map(|d| (d.time_ms, d.at));
            let (time_ms, at) = last?;
            let time = Duration::from_millis(time_ms) + at.elapsed();
            Some(UnixTime::since_unix_epoch(time))
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyId, Domain>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What peers may find here.
struct Held {
    store: Store,
    soon: Arc<Soon>,
    domains: Arc<Domains>,
    metrics: Metrics,
    connections: u32,
}

impl Held {
    async fn find(&self, key: KeyId, tag: Tag) -> Option<Reference> {
        if self.domains.is_good(key, Instant::now()) { self.store.find_tag(key, &tag).await } else { None }
    }
}

impl Holdings for Held {
    fn find(&self, key: KeyId, tags: Vec<Tag>) -> Finding<'_> {
        Box::pin(async move {
            let mut found = Vec::with_capacity(tags.len());
            for tag in tags {
                let here = Held::find(self, key, tag).await.map(|reference| Found { reference, soon: false });
                let soon = || self.soon.find(key, tag).map(|reference| Found { reference, soon: true });
                found.push(here.or_else(soon));
            }
            found
        })
    }

    fn load(&self) -> u8 {
        let served = u64::try_from(self.metrics.peers.connections.get()).unwrap_or(0);
        u8::try_from((served * 255 / u64::from(self.connections.max(1))).min(255)).unwrap_or(u8::MAX)
    }
}

impl peer::Blocks for Held {
    fn find(&self, key: KeyId, tag: Tag) -> Lookup<'_, Reference> {
        Box::pin(Held::find(self, key, tag))
    }

    fn block(&self, reference: Reference) -> Lookup<'_, Block> {
        Box::pin(async move { self.store.get(&reference).await })
    }
}

/// What follows the links of one core.
struct Follower {
    number: CoreNumber,
    discovery: Discovery,
    domains: Arc<Domains>,
    advertise: Vec<SocketAddr>,
    store: Store,
}

impl Follower {
    /// Follows one link until it ends.
    async fn follow(&self, link: &Link) {
        self.discovery.set_core_side(self.number.0, link.local_ip().map(|ip| ip.to_canonical()));
        let following = async { tokio::join!(self.tell_reached(link), self.follow_keys(link)) };
        tokio::select! {
            _ = following => {}
            () = link.closed() => {}
        }
        self.domains.handle_away(self.number);
    }

    async fn tell_reached(&self, link: &Link) {
        if !self.advertise.is_empty() {
            return link.tell_reached(self.advertise.clone()).await;
        }
        let mut reached = self.discovery.reached();
        loop {
            let addresses = reached.borrow_and_update().clone();
            debug!(?addresses, "telling the core where this edge is reached");
            link.tell_reached(addresses).await;
            if reached.changed().await.is_err() {
                return;
            }
        }
    }

    /// Keeps the time of the core's keys, and renews the names of blocks when they change.
    async fn follow_keys(&self, link: &Link) {
        let (mut keys, mut time) = (link.keys(), link.time());
        let mut told: Option<Told> = None;
        let (mut renewing, mut has_begun) = (None, false);
        loop {
            let (latest, now) = (*keys.borrow_and_update(), *time.borrow_and_update());
            let is_new = latest.is_some_and(|latest| told.as_ref().is_none_or(|told| told.keys != latest));
            if let Some(latest) = latest.filter(|_| is_new) {
                told = Some(Told::new(latest, Instant::now()));
            }
            if let (Some(told), Some(now)) = (&told, now) {
                for ended in self.domains.handle_told(self.number, &told.good, now) {
                    info!("a server secret has expired");
                    self.discovery.expire(ended);
                    self.store.expire(ended);
                }
                for (key, _) in &told.good {
                    self.discovery.set_time(*key, now.time_ms);
                    if is_new || !has_begun {
                        self.store.readmit(*key);
                    }
                }
                if is_new || !has_begun {
                    let (current, older) = (told.keys.key, told.keys.older);
                    renewing = older.map(|older| Box::pin(self.renew(link, older.key, current)));
                    has_begun = true;
                }
            }
            let renewed = async {
                match &mut renewing {
                    Some(renewing) => renewing.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = keys.changed() => if changed.is_err() { return },
                changed = time.changed() => if changed.is_err() { return },
                () = renewed => renewing = None,
            }
        }
    }

    /// Asks the core for the new names of all blocks that are known by their older ones alone, a few at a time.
    async fn renew(&self, link: &Link, older: KeyId, current: KeyId) {
        // In plain mode the digest is all the name there is, so none is ever told.
        let Some(exporter) = link.exporter(LINK_EXPORTER_LABEL).filter(|_| older != KeyId::PLAIN) else {
            return;
        };
        let (mut from, mut renewed, mut doubt) = (None, 0, Doubt::default());
        // What waits to be written is not walked over.
        self.store.flush().await;
        loop {
            let Some(max) = doubt.blocks(REKEY_BLOCKS_MAX) else {
                warn!("the core does not know the older names of blocks that it offers to rename");
                return;
            };
            let (blocks, next) = self.store.references(older, Some(current), from, max).await;
            if !blocks.is_empty() {
                let asked = blocks.iter().map(|block| renaming::ask(block, &exporter)).collect();
                match link.rekey(older, asked).await {
                    Ok((key, answers)) => {
                        let accept =
                            |(older, answer)| Some((older, renaming::accept(older, key, answer, &exporter)?));
                        let named: Vec<_> = blocks.iter().zip(&answers).filter_map(accept).collect();
                        doubt.handle_answers(blocks.len(), named.len());
                        renewed += named.iter().filter(|(older, new)| self.store.adopt(older, new)).count();
                    }
                    Err(error) => {
                        warn!(error = &error as &dyn std::error::Error, "blocks keep their older names");
                        return;
                    }
                }
                tokio::time::sleep(RENEW_PAUSE).await;
            }
            from = next;
            if from.is_none() {
                info!(blocks = renewed, "the server secret was rotated; blocks have their new names");
                return;
            }
        }
    }
}

/// What a core said of its keys, and until when each is good by this node's clock.
struct Told {
    keys: Keys,
    good: Vec<(KeyId, Option<Instant>)>,
}

impl Told {
    fn new(keys: Keys, now: Instant) -> Self {
        // A grace beyond all measure has no end.
        let until = |older: OlderKey| now.checked_add(Duration::from_millis(older.left_ms));
        let older = keys.older.map(|older| (older.key, until(older)));
        Self { keys, good: std::iter::once((keys.key, None)).chain(older).collect() }
    }
}

/// Connections to one peer at most.
const CONNECTIONS_A_PEER: usize = 4;

/// Server secrets of all cores that are known at a time.
const KEYS_MAX: usize = 64;

/// Between two questions for new names: at most 17 kB each way of the WAN a second.
const RENEW_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: KeyId = KeyId([1; 8]);
    const TWO: KeyId = KeyId([2; 8]);

    #[test]
    fn a_key_is_good_while_any_core_says_so() {
        let (domains, now) = (Domains::default(), Instant::now());
        let (first, second) = (domains.join(), domains.join());
        assert!(!domains.is_good(ONE, now));
        assert_eq!(domains.handle_told(first, &[(ONE, None)], time(now)), []);
        assert_eq!(domains.handle_told(second, &[(ONE, None)], time(now)), []);
        // The first rotates, and its grace ends; the second has not heard of it.
        assert_eq!(domains.handle_told(first, &[(TWO, None)], time(now)), []);
        assert!(domains.is_good(ONE, now) && domains.is_good(TWO, now));
        assert_eq!(domains.handle_told(second, &[(TWO, None)], time(now)), [ONE]);
        assert!(!domains.is_good(ONE, now));
    }

    #[test]
    fn a_core_that_is_gone_does_not_keep_a_key_good_that_another_took_out_of_use() {
        let (domains, now) = (Domains::default(), Instant::now());
        let (gone, heard) = (domains.join(), domains.join());
        domains.handle_told(gone, &[(ONE, None)], time(now));
        domains.handle_away(gone);
        assert!(domains.is_good(ONE, now), "nobody says otherwise");
        domains.handle_told(heard, &[(ONE, None)], time(now));
        assert_eq!(domains.handle_told(heard, &[(TWO, None)], time(now)), [ONE]);
        assert!(!domains.is_good(ONE, now));
        // It is back, and has not heard of the rotation.
        domains.handle_told(gone, &[(ONE, None)], time(now));
        assert!(domains.is_good(ONE, now));
    }

    #[test]
    fn a_key_that_was_replaced_while_its_core_was_away_expires_when_the_core_is_back() {
        let (domains, now) = (Domains::default(), Instant::now());
        let core = domains.join();
        domains.handle_told(core, &[(ONE, None)], time(now));
        domains.handle_away(core);
        // Another link, and two rotations in between.
        assert_eq!(domains.handle_told(core, &[(TWO, None)], time(now)), [ONE]);
        assert!(!domains.is_good(ONE, now) && domains.is_good(TWO, now));
    }

    #[test]
    fn an_older_key_is_good_for_its_grace_though_the_core_is_away() {
        let (domains, now) = (Domains::default(), Instant::now());
        let core = domains.join();
        let older = Some(OlderKey { key: ONE, left_ms: 5_000 });
        domains.handle_told(core, &Told::new(Keys { key: TWO, older }, now).good, time(now));
        let later = |ms| now + Duration::from_millis(ms);
        assert!(domains.is_good(ONE, later(4_999)) && domains.is_good(TWO, later(4_999)));
        assert!(!domains.is_good(ONE, later(5_000)) && domains.is_good(TWO, later(5_000)));
    }

    #[test]
    fn one_core_names_few_keys_however_often_it_changes_its_mind() {
        let (domains, now) = (Domains::default(), Instant::now());
        let (honest, fickle) = (domains.join(), domains.join());
        domains.handle_told(honest, &[(ONE, None)], time(now));
        for n in 0..=255 {
            domains.handle_told(fickle, &[(KeyId([n; 8]), None), (KeyId([n; 8]), None)], time(now));
            assert!(domains.lock().len() <= 2);
        }
        assert!(domains.is_good(ONE, now));
    }

    fn time(at: Instant) -> CoreTime {
        CoreTime { time_ms: 1_000, at }
    }
}
