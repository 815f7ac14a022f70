//! How long an ask is waited for, and whether asking is worth it.
//!
//! A peer that lacks a block is silent, so the only way to learn that nobody has it is to wait. What bounds the cost:
//! the wait is as long as answers have been taking (RFC 6298's estimate), never more than half the link's round trip;
//! and where asks found nobody, only one a second is sent, waited for at most a hundredth of that.

use std::time::{Duration, Instant};

/// The longest wait, whatever the link's round trip.
pub const WAIT_MAX: Duration = Duration::from_millis(100);

/// The shortest wait, unless half the link's round trip is less: timers and disks are no better.
pub const WAIT_MIN: Duration = Duration::from_millis(4);

/// Rounds of asks in a row without any answer after which a node asks rarely.
pub const MISSES_MAX: u32 = 4;

/// How often a node asks where nobody answers.
pub const QUIET_EVERY: Duration = Duration::from_secs(1);

/// The longest wait where nobody answers: with [`QUIET_EVERY`], a hundredth of the time.
pub const QUIET_WAIT_MAX: Duration = Duration::from_millis(10);

/// What a node knows about how its asks are answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// Smoothed time to the first answer, and its mean deviation.
    answers: Option<(Duration, Duration)>,
    misses: u32,
    asked_at: Option<Instant>,
}

impl Pace {
    /// Returns how long to wait for answers to an ask, given the round trip of the link that could give the blocks too.
    #[must_use]
    pub fn wait(&self, round_trip: Duration) -> Duration {
        let cap = if self.is_quiet() { QUIET_WAIT_MAX } else { WAIT_MAX }.min(round_trip / 2);
        match self.answers {
            Some((smoothed, deviation)) => (smoothed + 4 * deviation).max(WAIT_MIN).min(cap),
            None => cap,
        }
    }

    /// Returns whether an ask is worth its datagram at this moment.
    #[must_use]
    pub fn should_ask(&self, now: Instant) -> bool {
        let waited = self.asked_at.is_none_or(|at| now.saturating_duration_since(at) >= QUIET_EVERY);
        !self.is_quiet() || waited
    }

    fn is_quiet(&self) -> bool {
        self.misses >= MISSES_MAX
    }

    /// Notes that a round of asks went out.
    pub(super) fn handle_asked(&mut self, now: Instant) {
        self.asked_at = Some(now);
    }

    /// Notes that a round of asks was answered by nobody while it was waited for.
    pub(super) fn handle_missed(&mut self) {
        self.misses = self.misses.saturating_add(1);
    }

    /// Notes that somebody answered, and after how long if it was the first answer to its ask.
    pub(super) fn handle_answered(&mut self, after: Option<Duration>) {
        self.misses = 0;
        let Some(after) = after.map(|after| after.min(WAIT_MAX)) else { return };
        self.answers = Some(match self.answers {
            None => (after, after / 2),
            Some((smoothed, deviation)) => {
                ((7 * smoothed + after) / 8, (3 * deviation + smoothed.abs_diff(after)) / 4)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn before_anything_is_known_the_wait_is_half_a_round_trip_at_most() {
        let pace = Pace::default();
        assert_eq!(pace.wait(50 * MS), 25 * MS);
        assert_eq!(pace.wait(FAR), WAIT_MAX);
    }

    #[test]
    fn the_wait_follows_how_long_answers_take() {
        let mut pace = Pace::default();
        (0..50).for_each(|_| pace.handle_answered(Some(20 * MS)));
        assert!((20 * MS..22 * MS).contains(&pace.wait(FAR)), "{:?}", pace.wait(FAR));
        (0..50)
            .for_each(|number| pace.handle_answered(Some(if number % 2 == 0 { 10 * MS } else { 30 * MS })));
        assert!(
            (50 * MS..70 * MS).contains(&pace.wait(FAR)),
            "uneven answers take patience: {:?}",
            pace.wait(FAR)
        );
        (0..50).for_each(|_| pace.handle_answered(Some(MS / 10)));
        assert_eq!(pace.wait(FAR), WAIT_MIN);
        assert_eq!(pace.wait(2 * MS), MS, "the link is as fast");
        (0..50).for_each(|_| pace.handle_answered(Some(Duration::from_secs(9))));
        assert_eq!(pace.wait(FAR), WAIT_MAX);
    }

    #[test]
    fn where_nobody_answers_asks_are_few_and_cost_a_hundredth_of_the_time() {
        let now = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..MISSES_MAX {
            assert!(pace.should_ask(now));
            pace.handle_asked(now);
            pace.handle_missed();
        }
        assert!(!pace.should_ask(now + QUIET_EVERY - MS));
        assert!(pace.should_ask(now + QUIET_EVERY));
        assert!(pace.wait(FAR) * 100 <= QUIET_EVERY);
        pace.handle_answered(None);
        assert!(pace.should_ask(now), "an answer ends it");
        assert_eq!(pace.wait(FAR), WAIT_MAX);
    }
}
