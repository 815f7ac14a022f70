//! The node's memory for flows: one pool with a limit, from which every flow reserves before it holds bytes.
//!
//! A reservation that does not fit is refused at once; what the asker does then is its own decision (grant less
//! credit, send a block in full, let the connection go direct), so nothing ever waits for memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::IntGauge;

/// A handle to the pool.
#[derive(Debug, Clone)]
pub struct Budget {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    limit: u64,
    used: AtomicU64,
    gauge: IntGauge,
}

impl Budget {
    /// Makes a pool of `limit` bytes whose use `gauge` shows.
    #[must_use]
    pub fn new(limit: u64, gauge: IntGauge) -> Self {
        Self { pool: Arc::new(Pool { limit, used: AtomicU64::new(0), gauge }) }
    }

    /// Reserves `bytes` if they fit under the limit.
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let mut reservation = Reservation { budget: self.clone(), bytes: 0 };
        reservation.grow(bytes).then_some(reservation)
    }

    /// Reserves `bytes` if half of the pool stays free: for what a flow can do without, so that no other is refused for
    /// it.
    #[must_use]
    pub fn reserve_spare(&self, bytes: u64) -> Option<Reservation> {
        if self.free().checked_sub(bytes)? < self.pool.limit / 2 {
            return None;
        }
        self.reserve(bytes)
    }

    /// Returns the bytes that are not reserved.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.pool.limit.saturating_sub(self.pool.used.load(Ordering::Relaxed))
    }

    /// Returns the pool's limit.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.pool.limit
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self.pool.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.pool.limit)
        });
        if taken.is_ok() {
            self.pool.gauge.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        taken.is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.pool.used.fetch_sub(bytes, Ordering::Relaxed);
        self.pool.gauge.sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Reserved bytes, given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    bytes: u64,
}

impl Reservation {
    /// Reserves more. Returns whether it fitted.
    #[must_use]
    pub fn grow(&mut self, bytes: u64) -> bool {
        let taken = self.budget.take(bytes);
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Gives a part back.
    ///
    /// # Panics
    /// If more is given back than was reserved, which is a bug of the caller.
    pub fn shrink(&mut self, bytes: u64) {
        self.bytes = self.bytes.checked_sub(bytes).expect("only reserved bytes are given back");
        self.budget.give_back(bytes);
    }

    /// Returns the pool.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Returns the reserved bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_what_is_dropped_comes_back() {
        let budget = Budget::new(100, IntGauge::new("used", "test").unwrap());
        let mut one = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        assert!(!one.grow(41));
        assert!(one.grow(40));
        one.shrink(50);
        assert_eq!(budget.free(), 50);
        drop(one);
        assert_eq!(budget.free(), 100);
    }
    #[test]
    fn what_is_spare_leaves_half_of_the_pool() {
        let budget = Budget::new(100, IntGauge::new("used", "test").unwrap());
        assert!(budget.reserve_spare(51).is_none());
        let spare = budget.reserve_spare(50);
        assert!(spare.is_some() && budget.reserve_spare(1).is_none());
        assert!(budget.reserve(50).is_some());
        drop(spare);
        assert!(budget.reserve_spare(101).is_none());
    }
}
