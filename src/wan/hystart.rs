//! CUBIC that leaves slow start when the line's queue begins to grow, and not only when it has overflowed: HyStart++
//! (RFC 9406) around quinn's CUBIC (RFC 9438), which has no such end.
//!
//! Owns what it takes to tell a queue from a round trip: the least round trip of each round. Refuses to know what
//! happens after slow start, which is CUBIC's. What can go wrong: a line whose delay grows for other reasons ends slow
//! start early, which the rounds of conservative slow start are there to find out.
//!
//! Without it a new link sends twice what the line carries before it hears of a loss: on 20 Mbit/s at 50 ms, most of a
//! megabyte is sent again.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

/// Makes [`HyStart`].
#[derive(Debug, Default)]
pub(super) struct HyStartConfig(Arc<CubicConfig>);

impl ControllerFactory for HyStartConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(HyStart::new(Cubic::new(self.0.clone(), now, current_mtu), now))
    }
}

/// CUBIC behind HyStart++.
#[derive(Debug, Clone)]
struct HyStart {
    cubic: Cubic,
    rounds: Rounds,
}

/// How fast the window grows in slow start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// By what is acknowledged.
    Whole,
    /// By a part of that: the round trip has grown, and it may have been by chance.
    Conservative,
    /// No longer.
    Ended,
}

/// Judges slow start by the round trips of its rounds.
#[derive(Debug, Clone)]
struct Rounds {
    /// What a packet is sent after that is of this round.
    began: Instant,
    /// The least round trip of this round, and of how many.
    least: Option<Duration>,
    samples: u32,
    /// The least of the round before.
    before: Option<Duration>,
    conservative: Option<Conservative>,
}

#[derive(Debug, Clone, Copy)]
struct Conservative {
    /// The round trip that was taken for grown.
    baseline: Duration,
    rounds: u32,
}

impl HyStart {
    fn new(cubic: Cubic, now: Instant) -> Self {
        Self { cubic, rounds: Rounds::new(now) }
    }

    /// Returns whether there was no congestion yet. After one, CUBIC knows where slow start has to end (RFC 9406 §4.3).
    fn is_in_first_slow_start(&self) -> bool {
        self.cubic.metrics().ssthresh == Some(u64::MAX)
    }
}

impl Rounds {
    fn new(now: Instant) -> Self {
        Self { began: now, least: None, samples: 0, before: None, conservative: None }
    }

    /// Takes the round trip of a packet; judges a round once it has enough of them (RFC 9406 §4.2).
    fn handle_sample(&mut self, now: Instant, sent: Instant) {
        if sent >= self.began {
            self.began = now;
            self.before = self.least.take().or(self.before);
            self.samples = 0;
            if let Some(conservative) = &mut self.conservative {
                conservative.rounds += 1;
            }
        }
        let trip = now.saturating_duration_since(sent);
        let least = self.least.map_or(trip, |least| least.min(trip));
        self.least = Some(least);
        self.samples += 1;
        if self.samples < SAMPLES {
            return;
        }
        match (self.conservative, self.before) {
            (Some(conservative), _) if least < conservative.baseline => self.conservative = None,
            (None, Some(before)) if least >= before + (before / 8).clamp(GROWTH_MIN, GROWTH_MAX) => {
                self.conservative = Some(Conservative { baseline: least, rounds: 0 });
            }
            _ => {}
        }
    }

    fn growth(&self) -> Growth {
        match self.conservative {
            None => Growth::Whole,
            Some(conservative) if conservative.rounds < CONSERVATIVE_ROUNDS => Growth::Conservative,
            Some(_) => Growth::Ended,
        }
    }
}

impl Controller for HyStart {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        if !self.is_in_first_slow_start() {
            return self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        }
        // Acknowledgements of few packets may be delayed.
        if !app_limited {
            self.rounds.handle_sample(now, sent);
        }
        match self.rounds.growth() {
            Growth::Whole => self.cubic.on_ack(now, sent, bytes, app_limited, rtt),
            Growth::Conservative => {
                self.cubic.on_ack(now, sent, bytes / CONSERVATIVE_DIVISOR, app_limited, rtt);
            }
            // What is in flight fills line and queue: what CUBIC makes of a loss fills the line.
            Growth::Ended => self.cubic.on_congestion_event(now, sent, false, 0),
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.cubic.on_congestion_event(now, sent, is_persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Round trips of a round before it is judged (`N_RTT_SAMPLE`).
const SAMPLES: u32 = 8;

/// By how much the round trip has to grow: an eighth, within these (`MIN_RTT_THRESH`, `MAX_RTT_THRESH`).
const GROWTH_MIN: Duration = Duration::from_millis(4);
const GROWTH_MAX: Duration = Duration::from_millis(16);

/// How much slower conservative slow start grows, and for how many rounds (`CSS_GROWTH_DIVISOR`, `CSS_ROUNDS`).
const CONSERVATIVE_DIVISOR: u64 = 4;
const CONSERVATIVE_ROUNDS: u32 = 5;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const PACKET: u64 = 1_200;

    #[test]
    fn slow_start_slows_down_as_the_queue_grows() {
        let carries = 125_000;
        let line = Line { rate: 2_500_000, trip: Duration::from_millis(50), jitter: Duration::ZERO };
        let window = line.window_until(|rounds| rounds.growth() != Growth::Whole);
        // A round doubles the window, and what it does to the queue is known a round later.
        assert!((carries..carries * 9 / 2).contains(&window), "{window} where the line carries {carries}");
        assert!(line.window_until(|rounds| rounds.growth() == Growth::Ended) <= WINDOW_MAX);
    }

    #[test]
    fn a_round_trip_that_shakes_does_not_end_slow_start() {
        let jitter = Duration::from_millis(12);
        let line = Line { rate: 250_000_000, trip: Duration::from_millis(50), jitter };
        assert!(line.window_until(|rounds| rounds.growth() == Growth::Ended) > WINDOW_MAX);
    }

    #[test]
    fn a_slow_start_after_an_outage_is_cubics_own() {
        let start = Instant::now();
        let config = Arc::new(CubicConfig::default());
        let mut controller = HyStart::new(Cubic::new(config, start, 1_200), start);
        assert!(controller.is_in_first_slow_start());
        controller.on_congestion_event(start, start, true, PACKET);
        assert!(!controller.is_in_first_slow_start() && controller.window() < 10 * PACKET);
    }

    #[test]
    fn a_round_trip_that_grew_for_a_moment_lets_slow_start_go_on() {
        let start = Instant::now();
        let mut rounds = Rounds::new(start);
        let mut now = start;
        for trip in [50, 50, 60].map(Duration::from_millis) {
            let sent = now;
            now += trip;
            (0..SAMPLES).for_each(|_| rounds.handle_sample(now, sent));
        }
        assert_eq!(rounds.growth(), Growth::Conservative);
        let sent = now;
        now += Duration::from_millis(50);
        (0..SAMPLES).for_each(|_| rounds.handle_sample(now, sent));
        assert_eq!(rounds.growth(), Growth::Whole);
    }

    /// A line with an endless queue, and a sender that fills its window.
    struct Line {
        rate: u64,
        trip: Duration,
        jitter: Duration,
    }

    const WINDOW_MAX: u64 = 4_000_000;

    impl Line {
        /// Returns the window once the rounds are so, or the first one above [`WINDOW_MAX`].
        fn window_until(&self, is_so: impl Fn(&Rounds) -> bool) -> u64 {
            let start = Instant::now();
            let (mut rounds, mut window) = (Rounds::new(start), 10 * PACKET);
            let (mut now, mut free_at, mut count) = (start, start, 0_u32);
            let mut flying = VecDeque::new();
            while !is_so(&rounds) && window <= WINDOW_MAX {
                while (flying.len() as u64 + 1) * PACKET <= window {
                    free_at = free_at.max(now) + Duration::from_secs_f64(PACKET as f64 / self.rate as f64);
                    count += 1;
                    let shaken = self.jitter * (count.wrapping_mul(2_654_435_761) >> 24) / 256;
                    flying.push_back((now, free_at + self.trip + shaken));
                }
                let (sent, arrives) = flying.pop_front().unwrap();
                now = now.max(arrives);
                rounds.handle_sample(now, sent);
                window += match rounds.growth() {
                    Growth::Whole => PACKET,
                    Growth::Conservative => PACKET / CONSERVATIVE_DIVISOR,
                    Growth::Ended => 0,
                };
            }
            window
        }
    }
}
