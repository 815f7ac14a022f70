//! One direction of a link as arithmetic: when does a packet that enters now come out, if at all.
//!
//! Knows no socket and no clock; `now` is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How one direction of a link behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// From the end of a packet's sending to its arrival.
    pub one_way_delay: Duration,
    /// Bits of IP packets a second; none is as fast as the machine can.
    pub rate: Option<u64>,
    /// Chance of a packet to get lost, 0 to 1.
    pub loss: f64,
    /// Bytes that may wait to be sent; a packet that finds no room is dropped. None chooses [`Shape::queue_bytes`].
    pub queue: Option<u64>,
}

impl Shape {
    /// Returns a link with a rate in Mbit/s and a round-trip time, lossless, half of the time each way.
    #[must_use]
    pub const fn new(mbit_per_second: u64, round_trip: Duration) -> Self {
        let half = Duration::from_micros(round_trip.as_micros() as u64 / 2);
        Self { one_way_delay: half, rate: Some(mbit_per_second * 1_000_000), loss: 0.0, queue: None }
    }

    /// Returns a link as fast as the machine, with a round-trip time.
    #[must_use]
    pub const fn unshaped(round_trip: Duration) -> Self {
        let half = Duration::from_micros(round_trip.as_micros() as u64 / 2);
        Self { one_way_delay: half, rate: None, loss: 0.0, queue: None }
    }

    /// Returns the same link with loss.
    #[must_use]
    pub const fn with_loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    /// Returns the queue's limit: where none is set, one bandwidth-delay product and 100 KB, at least 128 KiB.
    #[must_use]
    pub fn queue_bytes(&self) -> u64 {
        let chosen = || {
            let round_trip = 2.0 * self.one_way_delay.as_secs_f64();
            let product = self.rate.unwrap_or(0) as f64 / 8.0 * round_trip;
            (product as u64 + 100_000).max(128 * 1024)
        };
        self.queue.unwrap_or_else(chosen)
    }
}

/// Why a packet does not come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drop {
    /// The queue was full.
    Queue,
    /// Lost by chance.
    Loss,
}

/// The packets of one direction.
#[derive(Debug)]
pub struct Shaper {
    /// When the sender will have sent all that it took.
    busy_until: Option<Instant>,
    under_way: VecDeque<(Instant, Vec<u8>)>,
    under_way_bytes: u64,
    random: u64,
}

impl Shaper {
    /// Returns an idle link. Equal seeds lose equal packets.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { busy_until: None, under_way: VecDeque::new(), under_way_bytes: 0, random: seed }
    }

    /// Takes a packet that enters the link.
    ///
    /// # Errors
    /// If it will not come out.
    pub fn handle_packet(&mut self, packet: &[u8], shape: &Shape, now: Instant) -> Result<(), Drop> {
        let bytes = packet.len() as u64;
        let start = self.busy_until.map_or(now, |busy| busy.max(now));
        let sent = match shape.rate {
            Some(rate) => {
                let waiting = (start - now).as_secs_f64() * rate as f64 / 8.0;
                if waiting + bytes as f64 > shape.queue_bytes() as f64 {
                    return Err(Drop::Queue);
                }
                start + Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64)
            }
            None if self.under_way_bytes + bytes > UNDER_WAY_BYTES_MAX => return Err(Drop::Queue),
            None => start,
        };
        self.busy_until = Some(sent);
        // The wire loses a packet after its time on it was spent.
        if shape.loss > 0.0 && self.chance() < shape.loss {
            return Err(Drop::Loss);
        }
        // A delay that was lowered a moment ago reorders nothing.
        let earliest = self.under_way.back().map_or(now, |(due, _)| *due);
        self.under_way.push_back(((sent + shape.one_way_delay).max(earliest), packet.to_vec()));
        self.under_way_bytes += bytes;
        Ok(())
    }

    /// Returns when the next packet comes out.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.under_way.front().map(|(due, _)| *due)
    }

    /// Returns a packet that is due.
    pub fn poll_packet(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.poll_timeout()? > now {
            return None;
        }
        let (_, packet) = self.under_way.pop_front()?;
        self.under_way_bytes -= packet.len() as u64;
        Some(packet)
    }

    /// Returns a number in 0..1 (splitmix64).
    fn chance(&mut self) -> f64 {
        (crate::content::splitmix(&mut self.random) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A link without a rate holds at most this; 25 ms of 10 Gbit/s are 31 MB.
const UNDER_WAY_BYTES_MAX: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape::new(20, Duration::from_millis(50));

    #[test]
    fn a_packet_takes_its_own_time_and_the_delay() {
        let (mut shaper, now) = (Shaper::new(1), Instant::now());
        shaper.handle_packet(&[0; 1500], &SHAPE, now).unwrap();
        // 1500 bytes at 20 Mbit/s are 600 us.
        assert_eq!(shaper.poll_timeout().unwrap() - now, Duration::from_micros(25_600));
        assert!(shaper.poll_packet(now + Duration::from_micros(25_599)).is_none());
        assert_eq!(shaper.poll_packet(now + Duration::from_micros(25_600)).unwrap().len(), 1500);
    }

    #[test]
    fn packets_leave_one_after_the_other_at_the_rate() {
        let (mut shaper, now) = (Shaper::new(1), Instant::now());
        for _ in 0..100 {
            shaper.handle_packet(&[0; 1500], &SHAPE, now).unwrap();
        }
        let last = now + Duration::from_millis(25) + Duration::from_micros(600) * 100;
        assert!(std::iter::from_fn(|| shaper.poll_packet(last - Duration::from_micros(1))).count() == 99);
        assert!(shaper.poll_packet(last).is_some());
    }

    #[test]
    fn a_full_queue_drops_the_newest() {
        let shape = Shape { queue: Some(15_000), ..SHAPE };
        let (mut shaper, now) = (Shaper::new(1), Instant::now());
        let taken = (0..20).filter(|_| shaper.handle_packet(&[0; 1500], &shape, now).is_ok()).count();
        assert_eq!(taken, 10);
        assert_eq!(shaper.handle_packet(&[0; 1500], &shape, now), Err(Drop::Queue));
        // Two packet times later there is room for two again.
        assert_eq!(shaper.handle_packet(&[0; 1500], &shape, now + Duration::from_micros(1201)), Ok(()));
    }

    #[test]
    fn loss_is_near_its_chance_and_repeats_with_the_seed() {
        let shape = Shape::unshaped(Duration::ZERO).with_loss(0.1);
        let lost = |seed| {
            let (mut shaper, now) = (Shaper::new(seed), Instant::now());
            (0..10_000).filter(|_| shaper.handle_packet(&[0; 100], &shape, now).is_err()).collect::<Vec<_>>()
        };
        assert!((900..1100).contains(&lost(7).len()), "{}", lost(7).len());
        assert_eq!(lost(7), lost(7));
        assert_ne!(lost(7), lost(8));
    }

    #[test]
    fn a_lowered_delay_does_not_reorder() {
        let (mut shaper, now) = (Shaper::new(1), Instant::now());
        shaper.handle_packet(&[1; 100], &SHAPE, now).unwrap();
        shaper.handle_packet(&[2; 100], &Shape::unshaped(Duration::ZERO), now).unwrap();
        let all: Vec<u8> = std::iter::from_fn(|| shaper.poll_packet(now + Duration::from_secs(1)))
            .map(|packet| packet[0])
            .collect();
        assert_eq!(all, [1, 2]);
    }

    #[test]
    fn the_queue_holds_a_bandwidth_delay_product_and_more() {
        assert_eq!(SHAPE.queue_bytes(), 225_000);
        assert_eq!(Shape::new(1, Duration::from_millis(10)).queue_bytes(), 128 * 1024);
    }
}
