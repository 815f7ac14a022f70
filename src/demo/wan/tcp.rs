//! The WAN for a direct connection: a TCP relay with the same line, to compare with.
//!
//! Bytes travel in segments of a full packet, each with its headers, and the first ones wait for the round trip of a
//! handshake. Slow start, loss and acknowledgements are left out, so the direct row is the best that a plain
//! connection could do: the comparison flatters it, never Wanigan.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;
use wanigan_parsers::Direction;

use super::{Lines, WanBytes, WanShape, on_own_thread, sleep_until};

/// Bytes of the IPv4 and TCP headers of a segment, timestamps included.
const HEADER_BYTES: usize = 52;

/// Payload of a full segment.
const SEGMENT_BYTES: usize = 1500 - HEADER_BYTES;

/// Segments of one connection that may be under way, each way; a client that stops reading stops the server here.
const UNDER_WAY_MAX: usize = 1024;

/// A running WAN. It ends, with its connections, when this is dropped.
#[derive(Debug)]
pub struct TcpWan {
    address: SocketAddr,
    lines: Arc<Lines>,
    _running: DropGuard,
}

impl TcpWan {
    /// Opens a WAN to the server at this address, on a loopback port of its own.
    ///
    /// # Errors
    /// If no socket can be had.
    pub fn bind(server: SocketAddr, shape: WanShape) -> io::Result<Self> {
        let lines = Arc::new(Lines::new(shape));
        let shared = Arc::clone(&lines);
        let (address, running) = on_own_thread(move || {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            Ok((listener.local_addr()?, accept(listener, server, shape.one_way_delay, shared)))
        })?;
        Ok(Self { address, lines, _running: running })
    }

    /// Returns where clients reach the server through this WAN.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what has crossed, with 52 bytes of IPv4 and TCP headers for each segment.
    #[must_use]
    pub fn bytes(&self) -> WanBytes {
        self.lines.bytes()
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, delay: Duration, lines: Arc<Lines>) {
    while let Ok((client, _)) = listener.accept().await {
        let lines = Arc::clone(&lines);
        // A leg that breaks ends both: the sockets close when they are dropped with this future.
        tokio::spawn(async move { relay(client, server, delay, &lines).await });
    }
}

async fn relay(client: TcpStream, server: SocketAddr, delay: Duration, lines: &Lines) -> io::Result<()> {
    // SYN and SYN-ACK; loopback has accepted already.
    tokio::time::sleep(delay * 2).await;
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(
        carry(from_client, to_server, lines, Direction::ToServer),
        carry(from_server, to_client, lines, Direction::ToClient),
    )?;
    Ok(())
}

/// Carries one direction of one connection to its end.
async fn carry(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    lines: &Lines,
    direction: Direction,
) -> io::Result<()> {
    let (queue, segments) = mpsc::channel(UNDER_WAY_MAX);
    tokio::try_join!(enter(from, queue, lines, direction), leave(segments, to))?;
    Ok(())
}

/// A segment under way and when it arrives; an empty one is the end.
type UnderWay = (Instant, Bytes);

async fn enter(
    mut from: OwnedReadHalf,
    queue: mpsc::Sender<UnderWay>,
    lines: &Lines,
    direction: Direction,
) -> io::Result<()> {
    let mut buffer = [0; SEGMENT_BYTES];
    loop {
        let len = from.read(&mut buffer).await?;
        let due = turn(lines, direction, len + HEADER_BYTES).await;
        let segment = (due, Bytes::copy_from_slice(&buffer[..len]));
        if queue.send(segment).await.is_err() || len == 0 {
            return Ok(());
        }
    }
}

/// Waits for room in the line's queue: the window of a sender that never loses a packet.
async fn turn(lines: &Lines, direction: Direction, bytes: usize) -> Instant {
    loop {
        let wait = {
            let now = Instant::now();
            let mut line = lines.way(direction);
            match line.full_for(now, bytes as u64) {
                Some(wait) => wait,
                None => match line.carry(now, bytes as u64) {
                    Some(due) => return due,
                    None => continue,
                },
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn leave(mut segments: mpsc::Receiver<UnderWay>, mut to: OwnedWriteHalf) -> io::Result<()> {
    while let Some((due, segment)) = segments.recv().await {
        sleep_until(due).await;
        if segment.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(&segment).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_arrive_whole_and_not_before_their_time() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let wan = TcpWan::bind(listener.local_addr().unwrap(), WanShape::default()).unwrap();
        let body: Vec<u8> = (0..300_000u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
        let sent = body.clone();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.unwrap();
            stream.write_all(&sent).await.unwrap();
            request
        });
        let start = Instant::now();
        let mut client = TcpStream::connect(wan.address()).await.unwrap();
        client.write_all(b"please").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        // A handshake, a round trip, and 300,000 bytes at 2.5 MB/s.
        assert!(start.elapsed() >= Duration::from_millis(50 + 50 + 120), "{:?}", start.elapsed());
        assert_eq!(got, body);
        assert_eq!(server.await.unwrap(), b"please");
        let segments = 300_000usize.div_ceil(SEGMENT_BYTES);
        assert!(wan.bytes().to_client >= (300_000 + segments * HEADER_BYTES) as u64);
        assert_eq!(wan.bytes().to_server, 6 + 2 * HEADER_BYTES as u64);
    }

    #[tokio::test]
    async fn a_server_that_refuses_closes_the_client() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let nobody = port.local_addr().unwrap();
        drop(port);
        let wan = TcpWan::bind(nobody, WanShape::default()).unwrap();
        let mut client = TcpStream::connect(wan.address()).await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
