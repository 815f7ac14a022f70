//! The WAN between edges and a core: a UDP relay that gives each edge's address a socket of its own towards the core.
//!
//! ```text
//!  edge A ─┐                  ┌─ socket A ─┐
//!          ├─ listening port ─┤            ├─ core
//!  edge B ─┘                  └─ socket B ─┘
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;
use wanigan_parsers::Direction;

use super::{Lines, WanBytes, WanShape, on_own_thread, sleep_until};

/// Bytes of the IPv4 and UDP headers of a datagram.
const HEADER_BYTES: usize = 28;

/// The longest packet that passes, headers included; longer ones are dropped, as path MTU discovery expects.
const MTU_BYTES: usize = 1500;

/// Edges and client ports that may use one WAN.
const SOURCES_MAX: usize = 64;

/// Datagrams of one source that may be under way, each way. The line's queue and delay hold some 250 full ones.
const UNDER_WAY_MAX: usize = 8192;

/// What the relay asks of the kernel's buffers, so that bursts wait in the line's queue and not before it.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// A running WAN. It ends when this is dropped.
#[derive(Debug)]
pub struct UdpWan {
    address: SocketAddr,
    lines: Arc<Lines>,
    _running: DropGuard,
}

impl UdpWan {
    /// Opens a WAN to the core at this address, on a loopback port of its own.
    ///
    /// # Errors
    /// If no socket can be had.
    pub fn bind(core: SocketAddr, shape: WanShape) -> io::Result<Self> {
        let lines = Arc::new(Lines::new(shape));
        let shared = Arc::clone(&lines);
        let (address, running) = on_own_thread(move || {
            let socket = Arc::new(bind_loopback()?);
            let address = socket.local_addr()?;
            let relay = Relay { core, socket, lines: shared, sources: HashMap::new() };
            Ok((address, relay.run()))
        })?;
        Ok(Self { address, lines, _running: running })
    }

    /// Returns where edges reach the core through this WAN.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what has crossed, with 28 bytes of IPv4 and UDP headers for each datagram.
    #[must_use]
    pub fn bytes(&self) -> WanBytes {
        self.lines.bytes()
    }

    /// Returns how many datagrams were dropped: queue full, too long, or too many sources.
    #[must_use]
    pub fn dropped_packets(&self) -> u64 {
        self.lines.dropped_packets()
    }
}

/// A datagram under way and when it arrives.
type UnderWay = (Instant, Bytes);

struct Relay {
    core: SocketAddr,
    socket: Arc<UdpSocket>,
    lines: Arc<Lines>,
    sources: HashMap<SocketAddr, mpsc::Sender<UnderWay>>,
}

impl Relay {
    /// Reads what edges send until the socket fails.
    async fn run(mut self) {
        let mut buffer = vec![0; u16::MAX.into()];
        loop {
            // An error is an ICMP answer to something sent earlier; the socket still works.
            let Ok((len, source)) = self.socket.recv_from(&mut buffer).await else { continue };
            let lines = Arc::clone(&self.lines);
            match self.source(source) {
                Ok(queue) => enter(&lines, Direction::ToServer, &buffer[..len], queue),
                Err(_) => lines.way(Direction::ToServer).drop_packet(),
            }
        }
    }

    /// Returns the queue of datagrams from `source` to the core.
    fn source(&mut self, source: SocketAddr) -> io::Result<&mpsc::Sender<UnderWay>> {
        if !self.sources.contains_key(&source) {
            if self.sources.len() >= SOURCES_MAX {
                return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
            }
            let queue = self.open(source)?;
            self.sources.insert(source, queue);
        }
        Ok(&self.sources[&source])
    }

    fn open(&self, source: SocketAddr) -> io::Result<mpsc::Sender<UnderWay>> {
        let socket = Arc::new(bind_loopback()?);
        let (to_core, from_edge) = mpsc::channel(UNDER_WAY_MAX);
        let (to_edge, from_core) = mpsc::channel(UNDER_WAY_MAX);
        tokio::spawn(leave(from_edge, Arc::clone(&socket), self.core));
        tokio::spawn(leave(from_core, Arc::clone(&self.socket), source));
        tokio::spawn(answers(socket, self.core, Arc::clone(&self.lines), to_edge));
        Ok(to_core)
    }
}

/// Reads what the core sends to one edge.
async fn answers(socket: Arc<UdpSocket>, core: SocketAddr, lines: Arc<Lines>, queue: mpsc::Sender<UnderWay>) {
    let mut buffer = vec![0; u16::MAX.into()];
    loop {
        let Ok((len, source)) = socket.recv_from(&mut buffer).await else { continue };
        if source == core {
            enter(&lines, Direction::ToClient, &buffer[..len], &queue);
        }
    }
}

/// Puts a datagram on the line.
fn enter(lines: &Lines, direction: Direction, datagram: &[u8], queue: &mpsc::Sender<UnderWay>) {
    let len = datagram.len() + HEADER_BYTES;
    let mut line = lines.way(direction);
    let Ok(place) = queue.try_reserve() else { return line.drop_packet() };
    if len > MTU_BYTES {
        return line.drop_packet();
    }
    if let Some(due) = line.carry(Instant::now(), len as u64) {
        place.send((due, Bytes::copy_from_slice(datagram)));
    }
}

/// Sends datagrams on when they arrive.
async fn leave(mut queue: mpsc::Receiver<UnderWay>, socket: Arc<UdpSocket>, target: SocketAddr) {
    while let Some((due, datagram)) = queue.recv().await {
        sleep_until(due).await;
        // What cannot be sent is lost, as on a WAN; the node at its end may be gone.
        let _ = socket.send_to(&datagram, target).await;
    }
}

fn bind_loopback() -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let options = socket2::SockRef::from(&socket);
    options.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    options.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    UdpSocket::from_std(socket)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_datagram_takes_the_round_trip_and_is_counted_with_its_headers() {
        let (core, wan) = echo(WanShape::default()).await;
        let edge = bind_loopback().unwrap();
        let start = Instant::now();
        edge.send_to(&[7; 100], wan.address()).await.unwrap();
        let mut buffer = [0; 2000];
        let (len, from) = edge.recv_from(&mut buffer).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(50), "{:?}", start.elapsed());
        assert_eq!((&buffer[..len], from), (&[7; 100][..], wan.address()));
        assert_eq!(wan.bytes(), WanBytes { to_server: 128, to_client: 128 });
        core.abort();
    }

    #[tokio::test]
    async fn each_edge_gets_its_own_answers() {
        let (core, wan) = echo(WanShape::default()).await;
        let edges = [bind_loopback().unwrap(), bind_loopback().unwrap()];
        for (number, edge) in edges.iter().enumerate() {
            edge.send_to(&[u8::try_from(number).unwrap(); 9], wan.address()).await.unwrap();
        }
        for (number, edge) in edges.iter().enumerate() {
            let mut buffer = [0; 2000];
            let (len, _) = edge.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..len], &[u8::try_from(number).unwrap(); 9]);
        }
        core.abort();
    }

    #[tokio::test]
    async fn a_burst_is_spread_over_its_time_on_the_wire() {
        let (core, wan) = echo(WanShape::default()).await;
        let edge = bind_loopback().unwrap();
        let start = Instant::now();
        // 100 full packets of 0.6 ms each.
        for _ in 0..100 {
            edge.send_to(&[7; MTU_BYTES - HEADER_BYTES], wan.address()).await.unwrap();
        }
        let mut buffer = [0; 2000];
        for _ in 0..100 {
            edge.recv_from(&mut buffer).await.unwrap();
        }
        assert!(start.elapsed() >= Duration::from_millis(50 + 60), "{:?}", start.elapsed());
        assert_eq!(wan.bytes(), WanBytes { to_server: 150_000, to_client: 150_000 });
        assert_eq!(wan.dropped_packets(), 0);
        core.abort();
    }

    #[tokio::test]
    async fn what_the_queue_cannot_hold_or_is_too_long_is_dropped() {
        let shape = WanShape { queue_bytes: 15_000, bits_per_second: 1_000_000, ..WanShape::default() };
        let (core, wan) = echo(shape).await;
        let edge = bind_loopback().unwrap();
        for _ in 0..30 {
            edge.send_to(&[7; MTU_BYTES - HEADER_BYTES], wan.address()).await.unwrap();
        }
        edge.send_to(&[7; MTU_BYTES], wan.address()).await.unwrap();
        while wan.bytes().to_server + 1500 * wan.dropped_packets() < 31 * 1500 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!((11..=21).contains(&wan.dropped_packets()), "{}", wan.dropped_packets());
        core.abort();
    }

    /// A core that sends everything back, behind a WAN.
    async fn echo(shape: WanShape) -> (tokio::task::JoinHandle<()>, UdpWan) {
        let core = bind_loopback().unwrap();
        let wan = UdpWan::bind(core.local_addr().unwrap(), shape).unwrap();
        let echo = tokio::spawn(async move {
            let mut buffer = [0; 2000];
            loop {
                let (len, from) = core.recv_from(&mut buffer).await.unwrap();
                core.send_to(&buffer[..len], from).await.unwrap();
            }
        });
        (echo, wan)
    }
}
