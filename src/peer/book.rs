//! What a node remembers of its peers: what each gave and took, and who is shunned. No I/O.
//!
//! Counting is done in a [`Ledger`] that connections hold, so that a block costs a few atomic additions; the [`Book`]
//! itself is looked at when a connection begins or ends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::addr::NodeId;
use crate::pki::PeerIdentity;

/// The peers that are remembered at most.
pub const PEERS_MAX: usize = 1_024;

/// How long a peer is shunned that sent wrong bytes; doubled for every further time, up to [`SHUN_MAX`].
pub const SHUN: Duration = Duration::from_secs(600);

/// The longest shunning.
pub const SHUN_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What one peer gave and took.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Connections to it, and from it.
    pub connections: AtomicU32,
    /// Those of them on which it is served.
    pub served_connections: AtomicU32,
    /// Verified blocks it gave.
    pub blocks_received: AtomicU64,
    /// Their bytes.
    pub bytes_received: AtomicU64,
    /// Blocks it was given.
    pub blocks_served: AtomicU64,
    /// Their bytes.
    pub bytes_served: AtomicU64,
    /// Blocks it gave that were others than it was asked for.
    pub wrong: AtomicU64,
    /// Requests that got no answer.
    pub lost: AtomicU64,
    latency_us: AtomicU64,
}

impl Ledger {
    /// Notes a verified block.
    pub fn note_received(&self, bytes: usize) {
        self.blocks_received.fetch_add(1, Ordering::Relaxed);
        self.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes a block that was given.
    pub fn note_served(&self, bytes: usize) {
        self.blocks_served.fetch_add(1, Ordering::Relaxed);
        self.bytes_served.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes the time from a request to its block: smoothed as TCP smooths its round trip (RFC 6298).
    pub fn note_latency(&self, latency: Duration) {
        let new = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        let smooth = |old: u64| Some(if old == 0 { new } else { old - old / 8 + new / 8 });
        // It never fails: the closure always has a value.
        let _ = self.latency_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, smooth);
    }

    /// Returns the smoothed time from a request to its block.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        let latency = self.latency_us.load(Ordering::Relaxed);
        (latency > 0).then(|| Duration::from_micros(latency))
    }
}

/// One remembered peer.
#[derive(Debug)]
pub struct Entry {
    /// What its certificate said, once it was seen.
    pub identity: Option<PeerIdentity>,
    /// Where it was reached, or came from, last.
    pub address: SocketAddr,
    /// What it gave and took.
    pub ledger: Arc<Ledger>,
    seen: Instant,
    shunned_until: Option<Instant>,
    /// How often it was shunned.
    strikes: u32,
}

impl Entry {
    /// Returns how much longer the peer is shunned.
    #[must_use]
    pub fn shunned_for(&self, now: Instant) -> Option<Duration> {
        self.shunned_until?.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

/// The remembered peers, [`PEERS_MAX`] at most.
#[derive(Debug, Default)]
pub struct Book {
    entries: HashMap<NodeId, Entry>,
}

impl Book {
    /// Returns the ledger of a peer that is being reached at `address`, or comes from there.
    pub fn open(&mut self, id: NodeId, address: SocketAddr, now: Instant) -> Arc<Ledger> {
        if !self.entries.contains_key(&id) {
            self.make_room(now);
        }
        let entry = self.entries.entry(id).or_insert_with(|| Entry {
            identity: None,
            address,
            ledger: Arc::default(),
            seen: now,
            shunned_until: None,
            strikes: 0,
        });
        (entry.address, entry.seen) = (address, now);
        entry.ledger.clone()
    }

    /// Notes what the certificate of a peer says.
    pub fn identify(&mut self, identity: PeerIdentity) {
        if let Some(entry) = self.entries.get_mut(&identity.id) {
            entry.identity = Some(identity);
        }
    }

    /// Shuns a peer, and returns for how long.
    pub fn shun(&mut self, id: NodeId, address: SocketAddr, now: Instant) -> Duration {
        self.open(id, address, now);
        let Some(entry) = self.entries.get_mut(&id) else { return Duration::ZERO };
        let length = SHUN.saturating_mul(1 << entry.strikes.min(16)).min(SHUN_MAX);
        // Several wrong blocks that were on their way at once are one offence.
        if entry.shunned_for(now).is_none() {
            entry.strikes += 1;
            entry.shunned_until = Some(now + length);
        }
        entry.shunned_for(now).unwrap_or(length)
    }

    /// Returns whether a peer is shunned.
    #[must_use]
    pub fn is_shunned(&self, id: NodeId, now: Instant) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.shunned_for(now).is_some())
    }

    /// Returns how many peers are shunned.
    #[must_use]
    pub fn shunned(&self, now: Instant) -> usize {
        self.entries.values().filter(|entry| entry.shunned_for(now).is_some()).count()
    }

    /// Returns the remembered peers in the order of their ids.
    #[must_use]
    pub fn entries(&self) -> Vec<(NodeId, &Entry)> {
        let mut entries: Vec<_> = self.entries.iter().map(|(id, entry)| (*id, entry)).collect();
        entries.sort_unstable_by_key(|(id, _)| *id);
        entries
    }

    /// Forgets the peer that matters least, if there is no room for another: first those that are neither connected
    /// nor shunned, the one seen longest ago.
    fn make_room(&mut self, now: Instant) {
        if self.entries.len() < PEERS_MAX {
            return;
        }
        let matters = |entry: &Entry| {
            let connected = entry.ledger.connections.load(Ordering::Relaxed) > 0;
            (entry.shunned_for(now).is_some(), connected, entry.seen)
        };
        let least = self.entries.iter().min_by_key(|(id, entry)| (matters(entry), **id)).map(|(id, _)| *id);
        if let Some(least) = least {
            self.entries.remove(&least);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shunned_peer_is_welcome_again_after_ten_minutes_and_the_next_time_after_twenty() {
        let (mut book, now) = (Book::default(), Instant::now());
        assert_eq!(book.shun(id(1), address(), now), SHUN);
        assert_eq!(book.shun(id(1), address(), now), SHUN, "two wrong blocks at once are one offence");
        assert!(book.is_shunned(id(1), now + SHUN - Duration::from_millis(1)));
        assert_eq!((book.shunned(now), book.is_shunned(id(2), now)), (1, false));
        let later = now + SHUN;
        assert!(!book.is_shunned(id(1), later));
        assert_eq!(book.shun(id(1), address(), later), 2 * SHUN);
        assert!(book.is_shunned(id(1), later + 2 * SHUN - Duration::from_millis(1)));
        let mut now = later;
        for _ in 0..40 {
            now += SHUN_MAX;
            assert!(book.shun(id(1), address(), now) <= SHUN_MAX);
        }
    }

    #[test]
    fn a_full_book_forgets_the_oldest_idle_peer_and_keeps_connected_and_shunned_ones() {
        let (mut book, start) = (Book::default(), Instant::now());
        let tick = Duration::from_millis(1);
        book.shun(id(0), address(), start);
        let connected = book.open(id(1), address(), start + tick);
        connected.connections.fetch_add(1, Ordering::Relaxed);
        let mut now = start + tick;
        for number in 2..PEERS_MAX + 2 {
            now += tick;
            book.open(id(number), address(), now);
        }
        assert_eq!(book.entries.len(), PEERS_MAX);
        let known = |number: usize| book.entries.contains_key(&id(number));
        assert_eq!([0, 1, 2, 3, 4].map(known), [true, true, false, false, true]);
    }

    #[test]
    fn latency_is_smoothed() {
        let ledger = Ledger::default();
        assert_eq!(ledger.latency(), None);
        ledger.note_latency(Duration::from_micros(800));
        assert_eq!(ledger.latency(), Some(Duration::from_micros(800)));
        ledger.note_latency(Duration::from_micros(1_600));
        assert_eq!(ledger.latency(), Some(Duration::from_micros(900)));
    }

    fn id(number: usize) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        NodeId(id)
    }

    fn address() -> SocketAddr {
        SocketAddr::from(([10, 1, 0, 7], 7_747))
    }
}
