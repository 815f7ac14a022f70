//! The bytes a second that a node gives to all its peers together. No I/O.

use std::time::{Duration, Instant};

/// Says when the next bytes may go, so that over time no more than the rate do.
///
/// Whoever asks gets a turn and keeps it, so askers take turns in the order in which they ask.
#[derive(Debug)]
pub struct Rate {
    bytes_per_second: u64,
    /// When all that was granted will have gone at the rate.
    spent_until: Option<Instant>,
}

impl Rate {
    /// Grants so many bytes a second.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), spent_until: None }
    }

    /// Grants `bytes` and returns the moment from which they may go.
    pub fn grant(&mut self, bytes: u64, now: Instant) -> Instant {
        let oldest = now.checked_sub(BURST).unwrap_or(now);
        let from = self.spent_until.map_or(oldest, |until| until.max(oldest));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        self.spent_until = Some(from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        from.max(now)
    }
}

/// What was not used of this long may be used at once.
const BURST: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_a_second_the_rate_is_granted_and_a_burst() {
        let start = Instant::now() + Duration::from_secs(1);
        let mut rate = Rate::new(1_000_000);
        let granted =
            (0..).take_while(|_| rate.grant(1_000, start) <= start + Duration::from_secs(1)).count();
        assert!((1_000..=1_052).contains(&granted), "{granted} kB in a second");
    }

    #[test]
    fn what_was_not_used_long_ago_is_gone() {
        let start = Instant::now() + Duration::from_secs(1);
        let mut rate = Rate::new(1_000_000);
        rate.grant(1_000, start);
        let later = start + Duration::from_secs(100);
        let at_once = (0..).take_while(|_| rate.grant(1_000, later) == later).count();
        assert!(at_once <= 52, "{at_once} kB at once");
    }
}
