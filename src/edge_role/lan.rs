//! An edge among its neighbours: starts discovery and transfer over its store, and keeps them told of what only the
//! links know, the cores' time and their server secrets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::UnixTime;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};
use wanigan_parsers::Tag;
use wanigan_parsers::wan::REKEY_BLOCKS_MAX;

use crate::block::{Block, KeyId, Named, Reference};
use crate::config::{self, Config};
use crate::discovery::{self, Discovery, DiscoveryError, DiscoverySettings, Finding, Found, Holdings};
use crate::drain::Drain;
use crate::fetch::{Lan, Soon};
use crate::metrics::Metrics;
use crate::peer::requests::Patience;
use crate::peer::{self, Lookup, Peers, PeersSettings, Serving, ServingSettings, Waiting, marked_dial};
use crate::pki::{DomainClock, NodeIdentity};
use crate::store::Store;
use crate::wan::Link;
use crate::wan::core_link::CoreLink;

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
    /// Blocks on their way, for those who ask.
    pub soon: Arc<Soon>,
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
        let lan = Lan { discovery, peers, waiting };
        let advertise = settings.advertise.clone();
        Ok(Self { lan, answers, soon, domains, advertise, store: store.clone() })
    }

    /// Keeps a core told where this edge is reached, and this edge told of the core's time and secrets.
    pub(super) fn follow(&self, mut core: CoreLink, drain: &Drain) {
        let follower = Follower {
            discovery: self.lan.discovery.clone(),
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
#[derive(Debug, Default)]
pub(super) struct Domains(Mutex<HashMap<KeyId, (u64, Instant)>>);

impl Domains {
    fn set(&self, key: KeyId, time_ms: u64, at: Instant) {
        let mut domains = self.lock();
        if domains.len() < KEYS_MAX || domains.contains_key(&key) {
            domains.insert(key, (time_ms, at));
        }
    }

    fn remove(&self, key: KeyId) {
        self.lock().remove(&key);
    }

    fn is_good(&self, key: KeyId) -> bool {
        self.lock().contains_key(&key)
    }

    /// Returns the clock that certificates of peers are checked by: the one that was told last.
    fn clock(self: Arc<Self>) -> DomainClock {
        Arc::new(move || {
            let (time_ms, at) = self.lock().values().max_by_key(|(_, at)| *at).copied()?;
            let time = Duration::from_millis(time_ms) + at.elapsed();
            Some(UnixTime::since_unix_epoch(time))
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyId, (u64, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        if self.domains.is_good(key) { self.store.find_tag(key, &tag).await } else { None }
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
    discovery: Discovery,
    domains: Arc<Domains>,
    advertise: Vec<SocketAddr>,
    store: Store,
}

impl Follower {
    /// Follows one link until it ends.
    async fn follow(&self, link: &Link) {
        self.discovery.set_core_side(link.local_ip().map(|ip| ip.to_canonical()).into_iter().collect());
        let following = async { tokio::join!(self.tell_reached(link), self.follow_keys(link)) };
        tokio::select! {
            _ = following => {}
            () = link.closed() => {}
        }
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
        let mut good: Vec<KeyId> = Vec::new();
        let mut renewing = None;
        loop {
            let told = *keys.borrow_and_update();
            let now = *time.borrow_and_update();
            if let (Some(told), Some(now)) = (told, now) {
                let older = told.older.map(|older| older.key);
                let told_keys: Vec<KeyId> = std::iter::once(told.key).chain(older).collect();
                for key in &told_keys {
                    self.domains.set(*key, now.time_ms, now.at);
                    self.discovery.set_time(*key, now.time_ms);
                }
                if told_keys != good {
                    for ended in good.iter().filter(|key| !told_keys.contains(key)) {
                        info!("a server secret of the core has expired");
                        self.domains.remove(*ended);
                        self.discovery.expire(*ended);
                        self.store.expire(*ended);
                    }
                    told_keys.iter().for_each(|key| self.store.readmit(*key));
                    renewing = older.map(|older| Box::pin(self.renew(link, older, told.key)));
                    good = told_keys;
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
        let (mut from, mut renewed) = (None, 0);
        // What waits to be written is not walked over.
        self.store.flush().await;
        loop {
            let (blocks, next) = self.store.references(older, Some(current), from, REKEY_BLOCKS_MAX).await;
            if !blocks.is_empty() {
                let asked = blocks.iter().map(|block| (block.digest, block.secret)).collect();
                match link.rekey(older, asked).await {
                    Ok((key, secrets)) => renewed += self.adopt(&blocks, key, &secrets),
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

    fn adopt(&self, blocks: &[Reference], key: KeyId, secrets: &[crate::block::Secret]) -> usize {
        let named = blocks.iter().zip(secrets).filter(|(_, secret)| secret.0 != [0; 32]);
        named
            .filter(|(block, secret)| self.store.adopt(block, &block.under(Named { key, secret: **secret })))
            .count()
    }
}

/// Connections to one peer at most.
const CONNECTIONS_A_PEER: usize = 4;

/// Server secrets of all cores that are known at a time.
const KEYS_MAX: usize = 64;

/// Between two questions for new names: at most 25 kB of the WAN a second.
const RENEW_PAUSE: Duration = Duration::from_secs(1);
