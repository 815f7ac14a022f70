//! Limits of rates, as the generic cell rate algorithm keeps them: one instant a limit, no clock and no timer.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// So many a second, and so many at once after a pause.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) per_second: u32,
    pub(super) burst: u32,
}

impl Rate {
    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second
    }

    /// Takes one from the allowance whose state is `full_at`, the instant at which it is whole again.
    fn take(self, full_at: &mut Option<Instant>, now: Instant) -> bool {
        let from = full_at.map_or(now, |at| at.max(now));
        if from.saturating_duration_since(now) > self.interval() * (self.burst - 1) {
            return false;
        }
        *full_at = Some(from + self.interval());
        true
    }
}

/// One limit.
#[derive(Debug)]
pub(super) struct Limit {
    rate: Rate,
    full_at: Option<Instant>,
}

impl Limit {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, full_at: None }
    }

    /// Takes one, if the rate allows it.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.rate.take(&mut self.full_at, now)
    }
}

/// Allowances of all sources, in a table of fixed size. Sources that fall on one place share its allowance; which
/// ones do is not to be foreseen by who does not know the seed.
#[derive(Debug)]
pub(super) struct SourceLimit {
    rate: Rate,
    seed: [u8; 16],
    full_at: Box<[Option<Instant>]>,
}

/// Places for sources.
pub(super) const SOURCES: usize = 1_024;

impl SourceLimit {
    pub(super) fn new(rate: Rate, seed: [u8; 16]) -> Self {
        Self { rate, seed, full_at: vec![None; SOURCES].into_boxed_slice() }
    }

    /// Takes one from a source's allowance, if the rate allows it.
    pub(super) fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.seed, source).hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % SOURCES as u64).expect("below the number of places");
        self.rate.take(&mut self.full_at[place], now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 100, burst: 5 };

    #[test]
    fn a_burst_passes_and_then_only_the_rate() {
        let start = Instant::now();
        let mut limit = Limit::new(RATE);
        let passed =
            |limit: &mut Limit, at: Instant, tries: usize| (0..tries).filter(|_| limit.take(at)).count();
        assert_eq!(passed(&mut limit, start, 20), 5);
        let second: usize =
            (1..=1_000).map(|ms| passed(&mut limit, start + Duration::from_millis(ms), 1)).sum();
        assert_eq!(second, 100);
        assert_eq!(passed(&mut limit, start + Duration::from_secs(9), 20), 5, "a pause gives the burst back");
    }

    #[test]
    fn one_source_does_not_use_up_the_allowance_of_another() {
        let now = Instant::now();
        let mut limit = SourceLimit::new(RATE, [7; 16]);
        let greedy = IpAddr::from([10, 0, 0, 1]);
        assert_eq!((0..100).filter(|_| limit.take(greedy, now)).count(), 5);
        let others = (2..=200).filter(|last| limit.take(IpAddr::from([10, 0, 0, *last]), now)).count();
        assert!(others >= 198, "{others} of 199 others passed");
    }
}
