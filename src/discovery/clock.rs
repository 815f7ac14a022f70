//! The time of each domain as its core told it, carried on by the monotonic clock, and the nonces seen in it.
//!
//! What the node's own clock says is of no importance. Cores of one domain agree within a quarter of the window, and
//! clocks drift, so a domain's time may step a little either way: a step back does not make an ask fresh again whose
//! nonce was forgotten, since asks older than a window before the *latest* time there ever was are refused. A step
//! back by more than a window means that the core's clock was wrong; the domain then begins anew.

use std::time::Instant;

use crate::block::KeyId;
use crate::fault::DiscoveryRefusal;
use crate::proof::{self, ReplayWindow, Stale, WINDOW_MS};

/// Domains at most; each may remember [`proof::NONCES_MAX`] nonces. The one that was told its time longest ago makes
/// room for another.
pub const DOMAINS_MAX: usize = 16;

/// The times of all domains.
#[derive(Debug, Default)]
pub(super) struct Clock {
    domains: Vec<Domain>,
}

#[derive(Debug)]
struct Domain {
    key: KeyId,
    told_ms: u64,
    told_at: Instant,
    /// The latest time this domain ever had.
    latest_ms: u64,
    window: ReplayWindow,
}

impl Domain {
    fn new(key: KeyId, time_ms: u64, now: Instant) -> Self {
        let window = ReplayWindow::new(time_ms);
        Self { key, told_ms: time_ms, told_at: now, latest_ms: time_ms, window }
    }

    fn now_ms(&mut self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.told_at).as_millis();
        let now_ms = self.told_ms.saturating_add(u64::try_from(since).unwrap_or(u64::MAX));
        self.latest_ms = self.latest_ms.max(now_ms);
        now_ms
    }

    fn handle_time(&mut self, time_ms: u64, now: Instant) {
        self.now_ms(now);
        if time_ms.saturating_add(WINDOW_MS) < self.latest_ms {
            *self = Self::new(self.key, time_ms, now);
        }
        self.told_ms = time_ms;
        self.told_at = now;
    }

    fn check(&mut self, ask: &proof::Ask, now: Instant) -> Result<(), DiscoveryRefusal> {
        let now_ms = self.now_ms(now);
        if ask.time_ms.saturating_add(WINDOW_MS) < self.latest_ms {
            return Err(DiscoveryRefusal::Stale);
        }
        self.window.check(ask, now_ms).map_err(|stale| match stale {
            Stale::Time | Stale::BeforeStart => DiscoveryRefusal::Stale,
            Stale::Replayed => DiscoveryRefusal::Replayed,
            Stale::Full => DiscoveryRefusal::Full,
        })
    }
}

impl Clock {
    /// Sets the time of a domain.
    pub(super) fn handle_time(&mut self, key: KeyId, time_ms: u64, now: Instant) {
        if let Some(domain) = self.domain(key) {
            return domain.handle_time(time_ms, now);
        }
        if self.domains.len() >= DOMAINS_MAX {
            let oldest = self.domains.iter().enumerate().min_by_key(|(_, domain)| domain.told_at);
            if let Some((at, _)) = oldest {
                self.domains.swap_remove(at);
            }
        }
        self.domains.push(Domain::new(key, time_ms, now));
    }

    /// Forgets a domain.
    pub(super) fn handle_expired(&mut self, key: KeyId) {
        self.domains.retain(|domain| domain.key != key);
    }

    /// Returns the time of a domain, if it is known.
    pub(super) fn now_ms(&mut self, key: KeyId, now: Instant) -> Option<u64> {
        self.domain(key).map(|domain| domain.now_ms(now))
    }

    /// Checks whether an ask is fresh.
    pub(super) fn check(
        &mut self,
        key: KeyId,
        ask: &proof::Ask,
        now: Instant,
    ) -> Result<(), DiscoveryRefusal> {
        let unknown =
            if self.domains.is_empty() { DiscoveryRefusal::NoTime } else { DiscoveryRefusal::UnknownKey };
        self.domain(key).ok_or(unknown)?.check(ask, now)
    }

    /// Remembers an ask of which a proof was verified.
    pub(super) fn record(&mut self, key: KeyId, ask: &proof::Ask, now: Instant) {
        if let Some(domain) = self.domain(key) {
            let now_ms = domain.now_ms(now);
            domain.window.record(ask, now_ms);
        }
    }

    fn domain(&mut self, key: KeyId) -> Option<&mut Domain> {
        self.domains.iter_mut().find(|domain| domain.key == key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::addr::NodeId;

    const KEY: KeyId = KeyId([1; 8]);
    const TIME: u64 = 1_000_000_000;

    #[test]
    fn time_goes_on_by_the_monotonic_clock() {
        let start = Instant::now();
        let mut clock = Clock::default();
        assert_eq!(clock.check(KEY, &ask(TIME), start), Err(DiscoveryRefusal::NoTime));
        clock.handle_time(KEY, TIME, start);
        assert_eq!(clock.now_ms(KEY, start + Duration::from_secs(7)), Some(TIME + 7_000));
        assert_eq!(clock.check(KeyId([2; 8]), &ask(TIME), start), Err(DiscoveryRefusal::UnknownKey));
        clock.handle_expired(KEY);
        assert_eq!(clock.now_ms(KEY, start), None);
    }

    #[test]
    fn a_small_step_back_does_not_make_a_forgotten_ask_fresh() {
        let start = Instant::now();
        let mut clock = Clock::default();
        clock.handle_time(KEY, TIME, start);
        // As far ahead as an ask may be.
        let early = ask(TIME + WINDOW_MS);
        assert_eq!(clock.check(KEY, &early, start), Ok(()));
        clock.record(KEY, &early, start);
        let later = start + Duration::from_millis(2 * WINDOW_MS + 1);
        let now_ms = clock.now_ms(KEY, later).unwrap();
        assert_eq!(clock.check(KEY, &ask(now_ms), later), Ok(()), "by this check the old nonce is forgotten");
        for back in [1, WINDOW_MS / 4, WINDOW_MS / 2, WINDOW_MS] {
            clock.handle_time(KEY, now_ms - back, later);
            assert_eq!(clock.check(KEY, &early, later), Err(DiscoveryRefusal::Stale), "back by {back} ms");
            assert_eq!(clock.check(KEY, &ask(now_ms), later), Ok(()));
        }
    }

    #[test]
    fn a_large_step_back_begins_the_domain_anew() {
        let start = Instant::now();
        let mut clock = Clock::default();
        clock.handle_time(KEY, TIME + 7_200_000, start);
        clock.handle_time(KEY, TIME, start);
        assert_eq!(clock.check(KEY, &ask(TIME), start), Ok(()));
        assert_eq!(clock.check(KEY, &ask(TIME - 1), start), Err(DiscoveryRefusal::Stale));
    }

    #[test]
    fn domains_are_few_and_the_one_told_longest_ago_goes() {
        let start = Instant::now();
        let mut clock = Clock::default();
        let key = |number: usize| KeyId([u8::try_from(number).unwrap(); 8]);
        for number in 0..=DOMAINS_MAX {
            clock.handle_time(key(number), TIME, start + Duration::from_secs(number as u64));
        }
        assert_eq!(clock.domains.len(), DOMAINS_MAX);
        assert_eq!(clock.now_ms(key(0), start), None);
        assert!(clock.now_ms(key(1), start).is_some());
    }

    fn ask(time_ms: u64) -> proof::Ask {
        proof::Ask { nonce: [3; 16], time_ms, requester: NodeId([4; 32]) }
    }
}
