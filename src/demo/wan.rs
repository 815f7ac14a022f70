//! A WAN in user space, on loopback: rate, delay, a short queue, and byte counters of its own.
//!
//! [`UdpWan`] stands between the edges and a core, [`TcpWan`] between a client and a server for comparison. Both
//! send everything that travels one way over one [`Line`], as a branch has one uplink and one downlink: a packet waits its turn, takes
//! its length's time on the wire and arrives a fixed delay later. Packets that find the queue full are dropped
//! (drop-tail), as a router does.
//!
//! Timers are tokio's, so packets arrive up to a millisecond late, never early; the line's own schedule is
//! exact, so lateness does not add up. What can go wrong: on a machine too busy to wake in time the WAN seems slower.

mod line;
mod tcp;
mod udp;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};
use wanigan_parsers::Direction;

pub use line::Line;
pub use tcp::TcpWan;
pub use udp::UdpWan;

/// What a WAN is like, each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WanShape {
    /// Rate in bits per second, headers included.
    pub bits_per_second: u64,
    /// The way's delay, without waiting and serialisation.
    pub one_way_delay: Duration,
    /// How much may wait for the wire.
    pub queue_bytes: u64,
}

impl Default for WanShape {
    /// 20 Mbit/s and 50 ms of round trip, with a queue of two bandwidth-delay products.
    fn default() -> Self {
        Self { bits_per_second: 20_000_000, one_way_delay: Duration::from_millis(25), queue_bytes: 256 << 10 }
    }
}

/// What has crossed a WAN since it began, IP and transport headers included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WanBytes {
    /// Bytes from edges to the core.
    pub to_server: u64,
    /// Bytes from the core to edges.
    pub to_client: u64,
}

impl WanBytes {
    /// Returns both ways together.
    #[must_use]
    pub fn total(self) -> u64 {
        self.to_server + self.to_client
    }

    /// Returns what crossed since `earlier` was read.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            to_server: self.to_server.saturating_sub(earlier.to_server),
            to_client: self.to_client.saturating_sub(earlier.to_client),
        }
    }
}

/// Both ways of one WAN. Tasks of all connections share them, as they would share the wire; a lock is held for an
/// addition, never over an await.
#[derive(Debug)]
struct Lines {
    to_server: Mutex<Line>,
    to_client: Mutex<Line>,
}

impl Lines {
    fn new(shape: WanShape) -> Self {
        Self { to_server: Mutex::new(Line::new(shape)), to_client: Mutex::new(Line::new(shape)) }
    }

    fn way(&self, direction: Direction) -> MutexGuard<'_, Line> {
        let line = match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        };
        line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self) -> WanBytes {
        WanBytes {
            to_server: self.way(Direction::ToServer).carried_bytes(),
            to_client: self.way(Direction::ToClient).carried_bytes(),
        }
    }

    fn dropped_packets(&self) -> u64 {
        Direction::ALL.iter().map(|direction| self.way(*direction).dropped_packets()).sum()
    }
}

/// Starts a WAN's tasks on a thread and a runtime of their own, so that nodes in the same process that are busy do not
/// slow the WAN down. They end when the guard is dropped.
fn on_own_thread<T, F>(start: impl FnOnce() -> io::Result<(T, F)>) -> io::Result<(T, DropGuard)>
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (started, task) = {
        let _context = runtime.enter();
        start()?
    };
    let running = CancellationToken::new();
    let until = running.clone();
    std::thread::Builder::new()
        .name("wan".to_owned())
        .spawn(move || runtime.block_on(until.run_until_cancelled(task)))?;
    Ok((started, running.drop_guard()))
}

async fn sleep_until(due: Instant) {
    tokio::time::sleep_until(due.into()).await;
}
