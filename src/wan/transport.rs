//! QUIC as the link uses it: windows, liveness, congestion control, and a socket that counts what crosses the WAN.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_lc_rs::hmac;
use prometheus::IntCounter;
use quinn::congestion::{BbrConfig, ControllerFactory};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AckFrequencyConfig, AsyncUdpSocket, Endpoint, EndpointConfig, IdleTimeout, Runtime, TokioRuntime,
    TransportConfig, UdpPoller, VarInt,
};
use socket2::{Domain, Socket, Type};

use super::hystart::HyStartConfig;
use super::session::{DEAD_AFTER, KEEP_ALIVE};
use crate::config::{Config, Congestion};
use crate::metrics::Metrics;

/// Streams for fetches in each direction: at a core they exist beside those for flows and one for control, at an edge
/// there are no others.
pub const FETCH_STREAMS: u32 = 256;

/// Receive window of a stream, in bytes: wider than any credit a flow gives, so that it never stops one.
pub const STREAM_WINDOW: u64 = 16 << 20;

/// What a link's transport may use.
#[derive(Debug, Clone, Copy)]
pub struct TransportSettings {
    /// Streams that the other side may have open.
    pub streams: u32,
    /// Memory for flows, the limit of what may be received and not yet taken.
    pub memory_bytes: u64,
    /// Congestion control.
    pub congestion: Congestion,
}

impl TransportSettings {
    /// Returns what a core's configuration says: its edges open flows and fetches, and one stream for control.
    #[must_use]
    pub fn of_core(config: &Config) -> Self {
        Self { streams: config.limits.flows.saturating_add(FETCH_STREAMS + 1), ..Self::of_edge(config) }
    }

    /// Returns what an edge's configuration says: its cores open fetches and nothing else.
    #[must_use]
    pub fn of_edge(config: &Config) -> Self {
        Self {
            streams: FETCH_STREAMS,
            memory_bytes: config.limits.memory.as_u64(),
            congestion: config.link.congestion,
        }
    }
}

/// Makes the transport's configuration.
///
/// A flow's own credit bounds what it receives (see `flow/window.rs`), and the node takes every stream's bytes at
/// once. So a stream's window is wider than any credit, and the connection's is the node's memory: neither ever
/// stops a flow because of another.
///
/// # Panics
/// Never: the constants are within QUIC's ranges.
#[must_use]
pub fn transport_config(settings: &TransportSettings) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let controller: Arc<dyn ControllerFactory + Send + Sync> = match settings.congestion {
        Congestion::Cubic => Arc::new(HyStartConfig::default()),
        Congestion::Bbr => Arc::new(BbrConfig::default()),
    };
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(ACK_EVERY_PACKETS);
    config
        .max_concurrent_bidi_streams(settings.streams.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u64(STREAM_WINDOW).expect("far below 2^62"))
        .receive_window(VarInt::from_u64(settings.memory_bytes.max(2 * STREAM_WINDOW)).unwrap_or(VarInt::MAX))
        .send_window(SEND_WINDOW)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::try_from(DEAD_AFTER).expect("ten seconds are a valid timeout")))
        .ack_frequency_config(Some(acks))
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(controller);
    Arc::new(config)
}

/// Binds the UDP socket of an edge.
///
/// # Errors
/// The socket's.
pub fn bind_client(ipv6: bool, metrics: &Metrics) -> io::Result<Endpoint> {
    let any = if ipv6 { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() };
    let socket = CountingSocket::bind(any, metrics)?;
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
}

/// Binds the UDP socket of a core.
///
/// Resets for links from before a restart (RFC 9000 §10.3) are not sent, whatever the key: quinn drops packets to connection
/// IDs that were signed with another process's key. So flows over a link whose core crashed end when the edge gives it up, in ten seconds.
///
/// # Errors
/// The socket's, for example that the address is in use.
pub fn bind_server(
    listen: SocketAddr,
    config: quinn::ServerConfig,
    reset_key: &[u8; 32],
    metrics: &Metrics,
) -> io::Result<Endpoint> {
    let socket = CountingSocket::bind(listen, metrics)?;
    let endpoint = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset_key)));
    Endpoint::new_with_abstract_socket(endpoint, Some(config), socket, Arc::new(TokioRuntime))
}

/// A UDP socket that counts the bytes its datagrams occupy on the network layer.
#[derive(Debug)]
struct CountingSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    sent: IntCounter,
    received: IntCounter,
}

impl CountingSocket {
    fn bind(address: SocketAddr, metrics: &Metrics) -> io::Result<Arc<Self>> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        if address.is_ipv6() && address.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        // The kernel caps both at its own limits; smaller buffers cost throughput, not correctness.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket.bind(&address.into())?;
        let inner = TokioRuntime.wrap_udp_socket(UdpSocket::from(socket))?;
        Ok(Arc::new(Self {
            inner,
            sent: metrics.wan_sent_bytes.clone(),
            received: metrics.wan_received_bytes.clone(),
        }))
    }
}

impl AsyncUdpSocket for CountingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)?;
        let len = transmit.contents.len();
        self.sent.inc_by(wire_bytes(len, transmit.segment_size.unwrap_or(len), &transmit.destination));
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.inner.poll_recv(context, buffers, meta);
        if let Poll::Ready(Ok(count)) = received {
            for meta in &meta[..count] {
                self.received.inc_by(wire_bytes(meta.len, meta.stride, &meta.addr));
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Returns the bytes that `len` bytes in datagrams of `segment` bytes occupy with their UDP and IP headers.
fn wire_bytes(len: usize, segment: usize, remote: &SocketAddr) -> u64 {
    let ip = match remote {
        SocketAddr::V4(_) => 20,
        SocketAddr::V6(remote) if remote.ip().to_ipv4_mapped().is_some() => 20,
        SocketAddr::V6(_) => 40,
    };
    let datagrams = if segment == 0 { 1 } else { len.div_ceil(segment) };
    (len + datagrams * (ip + 8)) as u64
}

/// Bytes sent and not yet acknowledged at most, over all flows of a link.
const SEND_WINDOW: u64 = 16 << 20;

/// Asked of the kernel for each direction of the socket.
const SOCKET_BUFFER: usize = 4 << 20;

/// Packets that share one acknowledgement: fewer bytes against the stream of data than TCP's every second.
const ACK_EVERY_PACKETS: VarInt = VarInt::from_u32(8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datagram_of_a_batch_has_its_own_headers() {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 1));
        let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 1));
        assert_eq!(wire_bytes(1_200, 1_200, &v4), 1_228);
        assert_eq!(wire_bytes(3_000, 1_200, &v4), 3_000 + 3 * 28);
        assert_eq!(wire_bytes(1_200, 1_200, &v6), 1_248);
        assert_eq!(wire_bytes(1_200, 1_200, &mapped), 1_228);
    }
}
