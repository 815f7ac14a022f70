//! The receiver's side of a flow's credit: how many frame bytes the sender may have on the way or in our queue. The
//! sender's is `credit.rs`.
//!
//! Every byte of credit is a byte reserved from the node's [`Budget`], so a sender that keeps to its credit can never
//! make the node hold more than the budget, and clients that stop reading cannot take the room of others: a flow may
//! have at most an eighth of what is free, so each further one gets less, down to [`CREDIT_BASE`], which is reserved
//! before the flow begins. A flow that uses half of its window in a moment doubles it, up to [`CREDIT_MAX`]; one that
//! falls idle is made small again by the sender's RELEASE.
//!
//! A window beyond what the line carries in a round trip makes nothing faster: it is a queue at the sender, of blocks that
//! were decided to go in full long before they go. Other edges that read the same file would wait for each of them.

use std::time::{Duration, Instant};

use crate::budget::{Budget, Reservation};

/// Credit every flow has for as long as it lives, in bytes: room for the block at its head. More than half of it is
/// always usable, and half of it is more than any frame costs, so a sender is never stuck between the two.
pub const CREDIT_BASE: u64 = 136 << 10;

/// The largest window, in bytes: 160 MB/s at a round trip of 50 ms.
pub const CREDIT_MAX: u64 = 8 << 20;

/// Half of a window that is used up within this time, or within a round trip if that is longer, may have held the sender
/// up: the window grows.
const USED_SOON: Duration = Duration::from_millis(150);

/// The sender used more credit than it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sender used {0} bytes beyond its credit")]
pub struct Overrun(pub u64);

/// Credit given, used and freed, as totals since the flow began.
#[derive(Debug)]
pub struct Window {
    /// Reserved bytes: always `granted - delivered`.
    reservation: Reservation,
    granted: u64,
    received: u64,
    delivered: u64,
    size: u64,
    used_soon: Duration,
    last_given: Option<Instant>,
}

impl Window {
    /// Reserves the base, or returns `None` where the node has no room for another flow.
    #[must_use]
    pub fn open(budget: &Budget) -> Option<Self> {
        let reservation = budget.reserve(CREDIT_BASE)?;
        Some(Self {
            reservation,
            granted: CREDIT_BASE,
            received: 0,
            delivered: 0,
            size: CREDIT_BASE,
            used_soon: USED_SOON,
            last_given: None,
        })
    }

    /// Tells how long the way to the sender and back takes.
    #[must_use]
    pub fn with_round_trip(self, time: Duration) -> Self {
        Self { used_soon: time.max(USED_SOON), ..self }
    }

    /// Returns the total credit given.
    #[must_use]
    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// Takes note of frame bytes that arrived.
    ///
    /// # Errors
    /// [`Overrun`] if the sender had no credit for them.
    pub fn handle_received(&mut self, bytes: u64) -> Result<(), Overrun> {
        self.received = self.received.saturating_add(bytes);
        match self.received.checked_sub(self.granted) {
            None | Some(0) => Ok(()),
            Some(over) => Err(Overrun(over)),
        }
    }

    /// Takes note of frame bytes that left the queue. Returns the new total when more credit was given.
    pub fn handle_delivered(&mut self, bytes: u64, now: Instant) -> Option<u64> {
        self.delivered += bytes;
        self.grant(now)
    }

    /// Takes note of credit that the sender gave back: the flow is idle.
    ///
    /// # Errors
    /// [`Overrun`] if it had less.
    pub fn handle_released(&mut self, bytes: u64) -> Result<(), Overrun> {
        self.handle_received(bytes)?;
        self.size = CREDIT_BASE;
        self.delivered += bytes;
        self.settle();
        Ok(())
    }

    /// Tops the window up when half of it is used.
    fn grant(&mut self, now: Instant) -> Option<u64> {
        let usable = self.granted.saturating_sub(self.received);
        if usable > self.size / 2 {
            self.settle();
            return None;
        }
        let fair = (self.reservation.budget().free() / 8).clamp(CREDIT_BASE, CREDIT_MAX);
        let is_soon =
            self.last_given.is_none_or(|last| now.saturating_duration_since(last) <= self.used_soon);
        self.size = if is_soon { (self.size * 2).min(fair) } else { self.size.min(fair) };
        let before = self.granted;
        self.granted = self.granted.max(self.delivered + self.size);
        let base_end = before.max(self.delivered + CREDIT_BASE);
        if !self.settle() {
            // The pool is empty: only the base, which is reserved already, moves on.
            self.granted = base_end;
            self.size = CREDIT_BASE;
            self.settle();
        }
        let is_more = self.granted > before;
        if is_more {
            self.last_given = Some(now);
        }
        is_more.then_some(self.granted)
    }

    /// Brings the reservation to what is outstanding. Returns whether it fitted.
    fn settle(&mut self) -> bool {
        let wanted = self.granted.saturating_sub(self.delivered).max(CREDIT_BASE);
        let held = self.reservation.bytes();
        if wanted > held {
            return self.reservation.grow(wanted - held);
        }
        self.reservation.shrink(held - wanted);
        true
    }
}

#[cfg(test)]
mod tests {
    use prometheus::IntGauge;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flow_in_use_grows_and_an_idle_one_shrinks() {
        let budget = budget(64 << 20);
        let mut window = Window::open(&budget).unwrap();
        let (mut sent, now) = (0, Instant::now());
        while window.size < (7 << 20) {
            let usable = window.granted() - sent;
            sent += usable;
            window.handle_received(usable).unwrap();
            window.handle_delivered(usable, now).expect("more is given");
        }
        let usable = window.granted() - sent;
        window.handle_released(usable - CREDIT_BASE).unwrap();
        assert_eq!((64 << 20) - budget.free(), CREDIT_BASE);
    }

    #[test]
    fn a_window_grows_to_what_the_line_carries_in_a_moment() {
        for (rate, round_trip, least, most) in [
            (2_500_000, 50, 300 << 10, 1_200 << 10),
            // Of the first half nothing is known yet.
            (100_000, 50, 0, 2 * CREDIT_BASE),
            (2_500_000, 600, 1_500_000, 5 << 20),
        ] {
            let budget = budget(256 << 20);
            let mut window =
                Window::open(&budget).unwrap().with_round_trip(Duration::from_millis(round_trip));
            let mut now = Instant::now();
            for _ in 0..400 {
                // A hundredth of a second's bytes come, if there is credit for them, and go.
                let bytes = (rate / 100).min(window.granted() - window.received);
                window.handle_received(bytes).unwrap();
                window.handle_delivered(bytes, now);
                now += Duration::from_millis(10);
            }
            assert!((least..=most).contains(&window.size), "{rate} {round_trip}: {}", window.size);
        }
    }

    #[test]
    fn flows_that_are_never_read_leave_room_for_the_next() {
        let budget = budget(64 << 20);
        let mut stuck: Vec<Window> = (0..100).map(|_| Window::open(&budget).unwrap()).collect();
        for window in &mut stuck {
            // Used in full, delivered but for the last byte, time and again.
            for _ in 0..6 {
                let usable = window.granted() - window.received;
                window.handle_received(usable).unwrap();
                window.handle_delivered(usable - 1, Instant::now());
            }
            let usable = window.granted() - window.received;
            window.handle_received(usable).unwrap();
        }
        assert!(Window::open(&budget).is_some());
        assert!(stuck.iter().all(|window| window.granted() - window.delivered >= CREDIT_BASE));
    }

    #[test]
    fn more_than_the_credit_is_refused() {
        let mut window = Window::open(&budget(1 << 20)).unwrap();
        assert_eq!(window.handle_received(CREDIT_BASE), Ok(()));
        assert_eq!(window.handle_received(5), Err(Overrun(5)));
    }

    proptest! {
        #[test]
        fn the_reservation_is_what_is_outstanding_and_the_sender_never_starves(
            limit in 1u64..80,
            steps in proptest::collection::vec((0u64..3_000_000, 0u64..3_000_000), 1..60),
        ) {
            let limit = limit << 20;
            let budget = budget(limit);
            let mut window = Window::open(&budget).unwrap();
            for (send, deliver) in steps {
                let send = send.min(window.granted().saturating_sub(window.received));
                window.handle_received(send).unwrap();
                window.handle_delivered(deliver.min(window.received - window.delivered), Instant::now());
                prop_assert_eq!(limit - budget.free(), (window.granted - window.delivered).max(CREDIT_BASE));
                if window.received == window.delivered {
                    prop_assert!(window.granted() > window.received);
                }
            }
        }
    }

    fn budget(limit: u64) -> Budget {
        Budget::new(limit, IntGauge::new("used", "test").unwrap())
    }
}
