//! One way of a WAN as arithmetic over time: when does a packet that comes now arrive, if it does?
//!
//! It holds no packet and reads no clock.

use std::time::{Duration, Instant};

use super::WanShape;

/// One way of a WAN.
#[derive(Debug)]
pub struct Line {
    shape: WanShape,
    /// When the last packet taken has left; `None` before the first.
    free: Option<Instant>,
    carried_bytes: u64,
    dropped_packets: u64,
}

impl Line {
    /// Returns a line that has carried nothing.
    #[must_use]
    pub fn new(shape: WanShape) -> Self {
        Self { shape, free: None, carried_bytes: 0, dropped_packets: 0 }
    }

    /// Takes a packet of so many bytes, headers included. Returns when it arrives, or `None` if the queue is full and
    /// it is dropped.
    pub fn carry(&mut self, now: Instant, bytes: u64) -> Option<Instant> {
        if self.full_for(now, bytes).is_some() {
            self.dropped_packets += 1;
            return None;
        }
        let start = self.free.map_or(now, |free| free.max(now));
        let free = start + self.time_on_wire(bytes);
        self.free = Some(free);
        self.carried_bytes += bytes;
        Some(free + self.shape.one_way_delay)
    }

    /// Returns how long a packet of so many bytes would find the queue full, `None` if there is room.
    #[must_use]
    pub fn full_for(&self, now: Instant, bytes: u64) -> Option<Duration> {
        let waiting = self.free?.checked_duration_since(now)?;
        let room = self.time_on_wire(self.shape.queue_bytes.saturating_sub(bytes));
        waiting.checked_sub(room).filter(|time| !time.is_zero())
    }

    /// Counts a packet that was lost before it came to the line.
    pub fn drop_packet(&mut self) {
        self.dropped_packets += 1;
    }

    /// Returns the bytes of all packets taken.
    #[must_use]
    pub fn carried_bytes(&self) -> u64 {
        self.carried_bytes
    }

    /// Returns how many packets were dropped.
    #[must_use]
    pub fn dropped_packets(&self) -> u64 {
        self.dropped_packets
    }

    fn time_on_wire(&self, bytes: u64) -> Duration {
        let rate = u128::from(self.shape.bits_per_second.max(1));
        let nanos = u128::from(bytes) * 8 * 1_000_000_000 / rate;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte a microsecond.
    const SHAPE: WanShape =
        WanShape { bits_per_second: 8_000_000, one_way_delay: Duration::from_millis(10), queue_bytes: 3000 };

    #[test]
    fn a_packet_arrives_after_its_time_on_the_wire_and_the_delay() {
        let start = Instant::now();
        let mut line = Line::new(SHAPE);
        assert_eq!(line.carry(start, 1000), Some(start + Duration::from_millis(11)));
        let idle = start + Duration::from_secs(1);
        assert_eq!(line.carry(idle, 500), Some(idle + Duration::from_micros(10_500)));
    }

    #[test]
    fn packets_that_come_together_leave_one_after_the_other() {
        let start = Instant::now();
        let mut line = Line::new(SHAPE);
        for turn in 1..=3 {
            assert_eq!(line.carry(start, 1000), Some(start + Duration::from_millis(10 + turn)));
        }
    }

    #[test]
    fn a_packet_that_finds_the_queue_full_is_dropped_and_not_counted_as_carried() {
        let start = Instant::now();
        let mut line = Line::new(SHAPE);
        for _ in 0..3 {
            assert!(line.carry(start, 1000).is_some());
        }
        assert_eq!(line.full_for(start, 1000), Some(Duration::from_millis(1)));
        assert_eq!(line.carry(start, 1000), None);
        assert_eq!((line.carried_bytes(), line.dropped_packets()), (3000, 1));
        assert!(line.carry(start + Duration::from_millis(1), 1000).is_some());
    }

    #[test]
    fn the_rate_holds_to_the_byte_over_many_packets() {
        let start = Instant::now();
        let mut line = Line::new(SHAPE);
        let mut now = start;
        let mut arrived = start;
        for _ in 0..1000 {
            arrived = line.carry(now, 1000).unwrap();
            now += line.full_for(now, 1000).unwrap_or_default();
        }
        assert_eq!(arrived - start, Duration::from_millis(1000 + 10));
    }
}
