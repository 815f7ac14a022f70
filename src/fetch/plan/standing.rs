//! What is known of one peer: how fast it is, how much it is asked at a time, and how long it is left alone after it
//! failed. No I/O.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::entry::Get;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) load: u8,
    /// Requests for blocks that it should have.
    pub(super) outstanding: u32,
    /// How long a block takes, smoothed.
    pub(super) service: Option<Duration>,
    pub(super) last_block: Option<Instant>,
    /// When the latest of the requests that it met was made.
    pub(super) answered: Option<Instant>,
    /// Until when others are preferred.
    pub(super) avoided_until: Option<Instant>,
    /// Requests it may have at a time: one after it failed, and more with each block.
    pub(super) window: u32,
    /// How often it failed since its last block; each time it is avoided for longer.
    pub(super) strikes: u32,
    pub(super) seen: Instant,
}

impl Peer {
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.avoided_until.is_none_or(|until| until <= now)
    }

    /// Has the peer left alone for a while, twice as long each time it fails again. Many requests that fail together
    /// are one failure.
    pub(super) fn fail(&mut self, pause: Duration, now: Instant) {
        let until = now + pause * (1 << self.strikes.min(STRIKES_MAX));
        if self.is_usable(now) {
            self.strikes += 1;
            self.window = 1;
        }
        self.avoided_until = Some(self.avoided_until.map_or(until, |before| before.max(until)));
    }

    /// Returns how long the next block would take, in microseconds: a peer that was never asked may be the fastest.
    pub(super) fn completion(&self) -> u128 {
        let service = self.service.unwrap_or(SERVICE_UNKNOWN).as_micros().max(1);
        service * u128::from(self.outstanding + 1) * u128::from(u32::from(self.load) + 64) / 64
    }

    /// Returns when the core is asked beside a request to this peer, unless its block comes first: where nothing comes,
    /// and at the latest when the request is [`HEDGE_LATEST`] old. A wait that the peer was granted is over by then.
    pub(super) fn hedge_at(&self, get: &Get) -> Instant {
        self.silent_at(get).min(get.since + get.of.wait + HEDGE_LATEST)
    }

    /// Returns when the peer, of which a block is requested, will have given nothing for too long.
    pub(super) fn silent_at(&self, get: &Get) -> Instant {
        let since = get.since + get.of.wait;
        let patience = (self.service.unwrap_or_default() * 4).clamp(HEDGE_AFTER, HEDGE_AFTER_MAX);
        self.last_block.map_or(since, |last| last.max(since)) + patience
    }

    /// Returns whether the peer gave a block that was requested after this one.
    pub(super) fn passes_over(&self, get: &Get) -> bool {
        self.answered.is_some_and(|answered| answered > get.since)
    }
}

/// Requests to one peer at a time: 1 MiB of blocks.
pub const PEER_GETS_MAX: u32 = 16;

/// How long a peer may give nothing before the core is asked beside it; up to [`HEDGE_AFTER_MAX`] where its blocks
/// have been taking long.
pub const HEDGE_AFTER: Duration = Duration::from_millis(400);

/// See [`HEDGE_AFTER`].
pub(super) const HEDGE_AFTER_MAX: Duration = Duration::from_millis(700);

/// How long one request may take while the peer gives other blocks.
pub const HEDGE_LATEST: Duration = Duration::from_secs(1);

/// Failures in a row that double the time a peer is left alone for: 32 times as long in the end.
const STRIKES_MAX: u32 = 5;

/// Assumed of a peer that gave no block yet.
const SERVICE_UNKNOWN: Duration = Duration::from_micros(500);
