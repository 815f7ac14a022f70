//! The shell of one direction: reads a TUN device, asks the shaper, writes the other one.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tun_rs::SyncDevice;

use super::shaper::{Drop, Shape, Shaper};
use super::{Counters, Passing};
use crate::process::run;

/// What a direction's thread shares with its owner.
#[derive(Debug)]
pub(super) struct Lane {
    setting: Mutex<(Shape, Passing)>,
    stopped: AtomicBool,
    entered_bytes: AtomicU64,
    entered_packets: AtomicU64,
    delivered_bytes: AtomicU64,
    delivered_packets: AtomicU64,
    dropped_queue: AtomicU64,
    dropped_loss: AtomicU64,
    dropped_switch: AtomicU64,
}

impl Lane {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            setting: Mutex::new((shape, Passing::All)),
            stopped: AtomicBool::new(false),
            entered_bytes: AtomicU64::new(0),
            entered_packets: AtomicU64::new(0),
            delivered_bytes: AtomicU64::new(0),
            delivered_packets: AtomicU64::new(0),
            dropped_queue: AtomicU64::new(0),
            dropped_loss: AtomicU64::new(0),
            dropped_switch: AtomicU64::new(0),
        }
    }

    pub(super) fn set_shape(&self, shape: Shape) {
        self.setting().0 = shape;
    }

    pub(super) fn set_passing(&self, passing: Passing) {
        self.setting().1 = passing;
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            entered_bytes: read(&self.entered_bytes),
            entered_packets: read(&self.entered_packets),
            delivered_bytes: read(&self.delivered_bytes),
            delivered_packets: read(&self.delivered_packets),
            dropped_queue: read(&self.dropped_queue),
            dropped_loss: read(&self.dropped_loss),
            dropped_switch: read(&self.dropped_switch),
        }
    }

    fn setting(&self) -> MutexGuard<'_, (Shape, Passing)> {
        self.setting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread of a direction.
pub(super) fn start(
    name: &str,
    from: &Arc<SyncDevice>,
    to: &Arc<SyncDevice>,
    lane: Arc<Lane>,
) -> Result<JoinHandle<()>> {
    let (from, to) = (Arc::clone(from), Arc::clone(to));
    let seed = name.bytes().fold(SEED, |seed, byte| seed.rotate_left(8) ^ u64::from(byte));
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            hurry();
            carry(&from, &to, &lane, Shaper::new(seed));
        })
        .context("start a thread of the WAN")
}

/// Lets this thread go before the programs that it connects, as a wire would: on a busy machine it adds milliseconds
/// otherwise. The kernel leaves them a part of the processor whatever happens (sched_rt_runtime_us).
fn hurry() {
    let thread = nix::unistd::gettid().to_string();
    // Where that is not allowed the link still works, less punctually.
    let _ = run(Command::new("chrt").args(["--fifo", "--pid", "1", &thread]), Duration::from_secs(5));
}

fn carry(from: &SyncDevice, to: &SyncDevice, lane: &Lane, mut shaper: Shaper) {
    let mut buffer = vec![0; 65_536];
    while !lane.stopped.load(Ordering::Relaxed) {
        let more = take_burst(from, lane, &mut shaper, &mut buffer);
        deliver(to, lane, &mut shaper);
        if !more {
            sleep_until(from, shaper.poll_timeout());
        }
    }
}

/// Reads what is there, a bounded number of packets so that due ones are not late. Returns whether there may be more.
fn take_burst(from: &SyncDevice, lane: &Lane, shaper: &mut Shaper, buffer: &mut [u8]) -> bool {
    for _ in 0..BURST {
        let Ok(length) = from.recv(buffer) else {
            return false;
        };
        let packet = &buffer[..length];
        add(&lane.entered_bytes, length as u64);
        add(&lane.entered_packets, 1);
        let (shape, passing) = *lane.setting();
        if !passes(packet, passing) {
            add(&lane.dropped_switch, 1);
            continue;
        }
        match shaper.handle_packet(packet, &shape, Instant::now()) {
            Ok(()) => {}
            Err(Drop::Queue) => add(&lane.dropped_queue, 1),
            Err(Drop::Loss) => add(&lane.dropped_loss, 1),
        }
    }
    true
}

fn deliver(to: &SyncDevice, lane: &Lane, shaper: &mut Shaper) {
    while let Some(packet) = shaper.poll_packet(Instant::now()) {
        if !passes(&packet, lane.setting().1) {
            add(&lane.dropped_switch, 1);
            continue;
        }
        match to.send(&packet) {
            Ok(_) => {
                add(&lane.delivered_bytes, packet.len() as u64);
                add(&lane.delivered_packets, 1);
            }
            // The device's queue into the kernel is full, as a receiver's ring can be.
            Err(error) if error.kind() == ErrorKind::WouldBlock => add(&lane.dropped_queue, 1),
            // The device is down or going: the lab is being removed.
            Err(_) => add(&lane.dropped_switch, 1),
        }
    }
}

/// Sleeps until a packet enters or the time has come. Looks up twenty times a second to see whether to stop.
fn sleep_until(from: &SyncDevice, due: Option<Instant>) {
    let due = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()).min(IDLE));
    let mut polled = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
    // Interrupted or failed: the caller's loop looks again.
    let _ = ppoll(&mut polled, Some(TimeSpec::from_duration(due)), None);
}

fn passes(packet: &[u8], passing: Passing) -> bool {
    match passing {
        Passing::All => true,
        Passing::Nothing => false,
        Passing::AllButUdp => !is_udp(packet),
    }
}

/// Tells UDP by the protocol field of IPv4 (RFC 791 section 3.1) or the first next header of IPv6 (RFC 8200 section 3).
fn is_udp(packet: &[u8]) -> bool {
    const UDP: u8 = 17;
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet.get(9) == Some(&UDP),
        Some(6) => packet.get(6) == Some(&UDP),
        _ => false,
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

const BURST: usize = 64;
const IDLE: Duration = Duration::from_millis(50);
const SEED: u64 = 0x7761_6e69_6761_6e21;
