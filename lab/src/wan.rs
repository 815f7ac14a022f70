//! The WAN between branch and head office: two TUN devices and the threads that carry packets between them.
//!
//! The kernel of the lab machines has no netem, so delay, rate, loss and queue are made here, one thread a direction around a
//! [`Shaper`](shaper::Shaper). Every packet is read, counted and written one by one: the devices offer no segmentation
//! offload, so what is counted is what a wire would carry at an MTU of 1500, IP headers included.
//!
//! What can go wrong: the threads share the machine's processors with what they connect. A starved thread adds delay, and
//! where the device's own queue overflows the kernel drops; [`Namespace::interface`] shows that as `dropped_packets`.

mod forwarder;
pub mod shaper;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tun_rs::{DeviceBuilder, SyncDevice};
use wanigan_parsers::Direction;

use crate::namespace::Namespace;
use crate::process::run;
use forwarder::Lane;
pub use shaper::Shape;

/// What the link lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Passing {
    /// Everything.
    #[default]
    All,
    /// Nothing: the cable is cut.
    Nothing,
    /// Everything but UDP: Wanigan's link is cut, and a direct connection still has a way.
    AllButUdp,
}

/// What one direction of the link counted since it was opened. Bytes are those of whole IP packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Bytes that a router sent into the link; the drops below are among them.
    pub entered_bytes: u64,
    /// Packets that a router sent into the link.
    pub entered_packets: u64,
    /// Bytes that came out at the other end.
    pub delivered_bytes: u64,
    /// Packets that came out at the other end.
    pub delivered_packets: u64,
    /// Packets for which the queue was full.
    pub dropped_queue: u64,
    /// Packets lost by chance.
    pub dropped_loss: u64,
    /// Packets dropped because the link was switched off for them.
    pub dropped_switch: u64,
}

/// Both directions' counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WanCounters {
    /// From the branch to the head office.
    pub to_server: Counters,
    /// From the head office to the branch.
    pub to_client: Counters,
}

impl WanCounters {
    /// Returns the bytes that were sent into the link, both ways together.
    #[must_use]
    pub fn entered_bytes(&self) -> u64 {
        self.to_server.entered_bytes + self.to_client.entered_bytes
    }
}

/// The link. Dropping it takes it down.
#[derive(Debug)]
pub struct Wan {
    lanes: [Arc<Lane>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Wan {
    /// Joins two namespaces with a device named `interface` in each; addresses and routes are the caller's.
    ///
    /// # Errors
    /// Without root or `/dev/net/tun`.
    pub fn open(branch: &Namespace, head_office: &Namespace, interface: &str, shape: Shape) -> Result<Self> {
        let branch_end = Arc::new(device(branch, interface)?);
        let head_office_end = Arc::new(device(head_office, interface)?);
        let lanes = [Arc::new(Lane::new(shape)), Arc::new(Lane::new(shape))];
        let mut wan = Self { lanes, threads: Vec::new() };
        let [to_server, to_client] = wan.lanes.clone();
        wan.threads.push(forwarder::start("wan-to-server", &branch_end, &head_office_end, to_server)?);
        wan.threads.push(forwarder::start("wan-to-client", &head_office_end, &branch_end, to_client)?);
        Ok(wan)
    }

    /// Changes both directions while packets flow; those already under way keep their time.
    pub fn set_shape(&self, shape: Shape) {
        self.lanes.iter().for_each(|lane| lane.set_shape(shape));
    }

    /// Changes one direction.
    pub fn set_shape_of(&self, direction: Direction, shape: Shape) {
        match direction {
            Direction::ToServer => self.lanes[0].set_shape(shape),
            Direction::ToClient => self.lanes[1].set_shape(shape),
        }
    }

    /// Switches the link, both ways; packets under way are dropped too.
    pub fn set_passing(&self, passing: Passing) {
        self.lanes.iter().for_each(|lane| lane.set_passing(passing));
    }

    /// Returns what both directions counted.
    #[must_use]
    pub fn counters(&self) -> WanCounters {
        WanCounters { to_server: self.lanes[0].counters(), to_client: self.lanes[1].counters() }
    }

    /// Does something and returns how many bytes entered the link for it, both ways together.
    ///
    /// # Errors
    /// If it fails.
    pub fn crossed(&self, quiet: Duration, what: impl FnOnce() -> Result<()>) -> Result<u64> {
        let before = self.settled(quiet).entered_bytes();
        what()?;
        Ok(self.settled(quiet).entered_bytes() - before)
    }

    /// Waits until nothing enters the link for `quiet`, at most a few seconds (links are kept alive), and returns the counters.
    #[must_use]
    pub fn settled(&self, quiet: Duration) -> WanCounters {
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut before = self.counters();
        loop {
            std::thread::sleep(quiet);
            let now = self.counters();
            if now == before || Instant::now() > deadline {
                return now;
            }
            before = now;
        }
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.lanes.iter().for_each(|lane| lane.stop());
        for thread in self.threads.drain(..) {
            // A panic of the thread has been printed by its own hook.
            let _ = thread.join();
        }
    }
}

/// Opens a TUN device and moves it into a namespace; the open descriptor goes on working across the move.
fn device(namespace: &Namespace, interface: &str) -> Result<SyncDevice> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let name = format!("wl{}-{}", MADE.fetch_add(1, Ordering::Relaxed) % 1000, std::process::id());
    let device = DeviceBuilder::new()
        .name(&name)
        .mtu(1500)
        .tx_queue_len(2000)
        .enable(false)
        .build_sync()
        .context("open a TUN device")?;
    device.set_nonblocking(true).context("make a TUN device nonblocking")?;
    let mut link = Command::new("ip");
    link.args(["link", "set", &name, "netns", namespace.name(), "name", interface]);
    run(&mut link, Duration::from_secs(10))?.ok().with_context(|| format!("move {name}"))?;
    // Without a link-local address the kernel sends no router solicitations, which would count as traffic.
    namespace.ip(&format!("link set {interface} addrgenmode none\nlink set {interface} up"))?;
    Ok(device)
}
