//! Reads TCP connections out of capture files: legacy pcap, with pnet's packet types for what is in the packets.
//!
//! Good enough for tests, not for a monitor: it holds the whole capture, and a direction with a hole ends there.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use pnet_packet::Packet;
use pnet_packet::ethernet::{EtherTypes, EthernetPacket};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;
use pnet_packet::tcp::{TcpFlags, TcpPacket};
use pnet_packet::vlan::VlanPacket;
use wanigan_parsers::Direction;

/// One TCP connection: the bytes each side got, in the order in which they became whole.
#[derive(Default)]
pub(crate) struct Connection {
    /// The port of the side that did not open the connection.
    pub(crate) server_port: u16,
    /// Runs of bytes; two runs of one direction may follow each other.
    pub(crate) runs: Vec<(Direction, Vec<u8>)>,
}

impl Connection {
    /// Returns all bytes of one direction.
    pub(crate) fn bytes(&self, direction: Direction) -> Vec<u8> {
        self.runs.iter().filter(|run| run.0 == direction).flat_map(|run| run.1.iter().copied()).collect()
    }
}

/// Returns the connections of a capture in the order of their first packets.
pub(crate) fn connections(pcap: &[u8]) -> Vec<Connection> {
    let mut open: HashMap<(SocketAddr, SocketAddr), usize> = HashMap::new();
    let mut all: Vec<Reassembly> = Vec::new();
    for (link_type, packet) in packets(pcap) {
        let Some((from, to, segment)) = network_layer(link_type, packet).and_then(transport_layer) else {
            continue;
        };
        let (syn, ack) = (segment.flags & TcpFlags::SYN != 0, segment.flags & TcpFlags::ACK != 0);
        let known = open.get(&(from, to)).copied().filter(|_| !syn || ack);
        let at = known.unwrap_or_else(|| {
            // Midstream, the side with the lower port is taken for the server.
            let from_client = if syn { !ack } else { from.port() > to.port() };
            let (client, server) = if from_client { (from, to) } else { (to, from) };
            open.insert((client, server), all.len());
            open.insert((server, client), all.len());
            all.push(Reassembly::new(client, server));
            all.len() - 1
        });
        all[at].take(from, &segment);
    }
    all.into_iter().map(|reassembly| reassembly.connection).collect()
}

/// One segment of a connection.
struct Segment {
    sequence: u32,
    flags: u8,
    data: Vec<u8>,
}

/// Puts the segments of a connection in order.
struct Reassembly {
    client: SocketAddr,
    connection: Connection,
    sides: [Side; 2],
}

/// One direction: where the next byte is, and what came early.
#[derive(Default)]
struct Side {
    next: Option<u32>,
    early: BTreeMap<u32, Vec<u8>>,
}

impl Reassembly {
    fn new(client: SocketAddr, server: SocketAddr) -> Self {
        let connection = Connection { server_port: server.port(), runs: Vec::new() };
        Self { client, connection, sides: Default::default() }
    }

    fn take(&mut self, from: SocketAddr, segment: &Segment) {
        let direction = if from == self.client { Direction::ToServer } else { Direction::ToClient };
        let side = &mut self.sides[usize::from(direction == Direction::ToClient)];
        let syn = u32::from(segment.flags & TcpFlags::SYN != 0);
        let start = segment.sequence.wrapping_add(syn);
        let next = side.next.get_or_insert(start);
        if segment.data.is_empty() {
            return;
        }
        // Keys are distances from a fixed point of the stream, so that they sort across a wrap of the numbers.
        let early = side.early.entry(start).or_default();
        if early.len() < segment.data.len() {
            early.clone_from(&segment.data);
        }
        while let Some((at, data)) = ready(&side.early, *next).map(|at| (at, side.early.remove(&at))) {
            let (data, seen) = (data.unwrap_or_default(), next.wrapping_sub(at) as usize);
            if let Some(fresh) = data.get(seen..).filter(|fresh| !fresh.is_empty()) {
                *next = next.wrapping_add(fresh.len() as u32);
                self.connection.runs.push((direction, fresh.to_vec()));
            }
        }
    }
}

/// Finds a segment that begins at or before the next byte.
fn ready(early: &BTreeMap<u32, Vec<u8>>, next: u32) -> Option<u32> {
    early.keys().copied().find(|start| next.wrapping_sub(*start) < 1 << 31)
}

/// Returns the packets of a file with its link type.
fn packets(pcap: &[u8]) -> Vec<(u32, &[u8])> {
    let Some((header, mut rest)) = pcap.split_at_checked(24) else { return Vec::new() };
    let number: fn([u8; 4]) -> u32 = match header[..4] {
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => u32::from_le_bytes,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => u32::from_be_bytes,
        _ => return Vec::new(),
    };
    let link_type = number([header[20], header[21], header[22], header[23]]);
    let mut packets = Vec::new();
    while let Some((record, behind)) = rest.split_at_checked(16) {
        let len = number([record[8], record[9], record[10], record[11]]) as usize;
        let Some((packet, behind)) = behind.split_at_checked(len) else { break };
        packets.push((link_type, packet));
        rest = behind;
    }
    packets
}

/// Returns the IP packet in a frame: Ethernet, BSD loopback or raw IP.
fn network_layer(link_type: u32, frame: &[u8]) -> Option<&[u8]> {
    match link_type {
        0 => frame.get(4..),
        1 => {
            let ethernet = EthernetPacket::new(frame)?;
            let mut at = EthernetPacket::minimum_packet_size();
            let mut ethertype = ethernet.get_ethertype();
            while ethertype == EtherTypes::Vlan {
                ethertype = VlanPacket::new(frame.get(at..)?)?.get_ethertype();
                at += VlanPacket::minimum_packet_size();
            }
            matches!(ethertype, EtherTypes::Ipv4 | EtherTypes::Ipv6).then(|| frame.get(at..))?
        }
        12 | 14 | 101 => Some(frame),
        _ => None,
    }
}

/// Returns the TCP segment in an IP packet, with source and destination.
fn transport_layer(packet: &[u8]) -> Option<(SocketAddr, SocketAddr, Segment)> {
    let (source, destination, payload): (IpAddr, IpAddr, Vec<u8>) = match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new(packet)?;
            let tcp = ip.get_next_level_protocol() == IpNextHeaderProtocols::Tcp;
            // Fragments are not put together.
            let whole = ip.get_fragment_offset() == 0;
            let header = usize::from(ip.get_header_length()) * 4;
            let payload = packet.get(header..usize::from(ip.get_total_length()).min(packet.len()))?;
            (tcp && whole).then(|| (ip.get_source().into(), ip.get_destination().into(), payload.to_vec()))?
        }
        6 => {
            let ip = Ipv6Packet::new(packet)?;
            let tcp = ip.get_next_header() == IpNextHeaderProtocols::Tcp;
            tcp.then(|| (ip.get_source().into(), ip.get_destination().into(), ip.payload().to_vec()))?
        }
        _ => return None,
    };
    let tcp = TcpPacket::new(&payload)?;
    let header = usize::from(tcp.get_data_offset()) * 4;
    let segment = Segment {
        sequence: tcp.get_sequence(),
        flags: tcp.get_flags(),
        data: payload.get(header..)?.to_vec(),
    };
    let from = SocketAddr::new(source, tcp.get_source());
    Some((from, SocketAddr::new(destination, tcp.get_destination()), segment))
}
