//! The sockets of discovery: one a family to speak and to be spoken to, and ears where that one is deaf.
//!
//! Linux gives broadcasts and multicasts only to sockets bound to any address or to the very address they are sent to. So
//! where the node is to listen at one address alone, a socket more is bound to each broadcast address and group; on
//! it nothing is ever sent, since answers and asks shall come from the node's own address.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::task::Poll;
use std::time::Duration;

use ipnet::IpNet;
use pnet_datalink::{NetworkInterface, interfaces};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::DiscoveryError;
use super::interfaces::{Destination, GROUP_V4, GROUP_V6, Interface, Kind, Ways, broadcasts};

/// What the kernel keeps of datagrams while this node is busy, in bytes, if it grants so much.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// How often a port is tried that is free in one family and taken in the other.
const PORT_ATTEMPTS: u32 = 10;

/// How long a datagram waits for room in the kernel's buffer before it is dropped.
const SEND_WAIT: Duration = Duration::from_millis(20);

/// All sockets of discovery.
#[derive(Debug)]
pub(super) struct Sockets {
    port: u16,
    ways: Ways,
    /// One a family, bound to the address to listen at.
    mouths: Vec<UdpSocket>,
    ears: Vec<UdpSocket>,
    /// Indices of the interfaces on which the mouths joined the groups.
    joined: Vec<u32>,
    /// Which socket is asked first for a datagram, in turns.
    turn: usize,
}

impl Sockets {
    pub(super) fn bind(listen: SocketAddr, ways: Ways) -> Result<Self, DiscoveryError> {
        let mut attempts = 0;
        let mouths = loop {
            attempts += 1;
            match bind_mouths(listen) {
                Err(DiscoveryError::Bind { source, .. })
                    if listen.port() == 0
                        && source.kind() == io::ErrorKind::AddrInUse
                        && attempts < PORT_ATTEMPTS => {}
                mouths => break mouths?,
            }
        };
        let port = mouths.first().and_then(|mouth| mouth.local_addr().ok()).map_or(0, |local| local.port());
        Ok(Self { port, ways, mouths, ears: Vec::new(), joined: Vec::new(), turn: 0 })
    }

    /// Returns the port of all sockets.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Listens to broadcasts and groups on these interfaces, and on no others.
    pub(super) fn listen_on(&mut self, chosen: &[Interface]) {
        for mouth in &self.mouths {
            if mouth.local_addr().is_ok_and(|local| local.ip().is_unspecified()) && self.ways.multicast {
                let socket = SockRef::from(mouth);
                let gone = self.joined.iter().filter(|index| chosen.iter().all(|one| one.index != **index));
                gone.for_each(|index| leave(&socket, *index));
                chosen.iter().filter(|one| one.kind.multicast).for_each(|one| join(&socket, one));
            }
        }
        self.joined = chosen.iter().map(|one| one.index).collect();
        let wanted: Vec<(SocketAddr, &Interface)> = self.wanted_ears(chosen);
        self.ears.retain(|ear| {
            ear.local_addr().is_ok_and(|local| wanted.iter().any(|(address, _)| same(*address, local)))
        });
        for (address, interface) in wanted {
            if let Err(error) = self.listen_at(address, interface) {
                let interface = interface.name.as_str();
                tracing::warn!(%address, interface, %error, "asks to this address will not be heard");
            }
        }
    }

    fn listen_at(&mut self, address: SocketAddr, interface: &Interface) -> io::Result<()> {
        let has = |ear: &UdpSocket| ear.local_addr().is_ok_and(|local| same(address, local));
        if !self.ears.iter().any(has) {
            self.ears.push(bind_ear(address)?);
        }
        if let Some(ear) = self.ears.iter().find(|ear| has(ear)).filter(|_| address.ip().is_multicast()) {
            join(&SockRef::from(ear), interface);
        }
        Ok(())
    }

    fn wanted_ears<'a>(&self, chosen: &'a [Interface]) -> Vec<(SocketAddr, &'a Interface)> {
        let own = self.mouths.iter().filter_map(|mouth| mouth.local_addr().ok().map(|local| local.ip()));
        let mut wanted = Vec::new();
        for ip in own.filter(|ip| !ip.is_unspecified()) {
            for interface in chosen.iter().filter(|one| one.addresses.iter().any(|net| net.addr() == ip)) {
                if ip.is_ipv4() && self.ways.broadcast {
                    let ear = |ip: Ipv4Addr| (SocketAddr::from((ip, self.port)), interface);
                    wanted.extend(broadcasts(interface).map(ear));
                }
                if self.ways.multicast && interface.kind.multicast {
                    let group = match ip {
                        IpAddr::V4(_) => SocketAddr::from((GROUP_V4, self.port)),
                        IpAddr::V6(_) => SocketAddrV6::new(GROUP_V6, self.port, 0, interface.index).into(),
                    };
                    wanted.push((group, interface));
                }
            }
        }
        wanted
    }

    /// Returns the next datagram: where it came from, and how long it is. One that does not fit is cut.
    pub(super) async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(SocketAddr, usize)> {
        let Self { mouths, ears, turn, .. } = self;
        let count = mouths.len() + ears.len();
        *turn = turn.wrapping_add(1);
        let first = *turn;
        poll_fn(|cx| {
            let all = mouths.iter().chain(ears.iter()).cycle().skip(first % count).take(count);
            for socket in all {
                let mut buffer = ReadBuf::new(buffer);
                if let Poll::Ready(received) = socket.poll_recv_from(cx, &mut buffer) {
                    return Poll::Ready(received.map(|from| (canonical(from), buffer.filled().len())));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Sends a datagram. Errors are the network's business: nobody waits for an answer for long.
    pub(super) async fn send(&self, to: Destination, bytes: &[u8]) -> io::Result<()> {
        let (address, out_of) = match to {
            Destination::Address(address) => (address, None),
            Destination::GroupV4(ip) => (SocketAddr::from((GROUP_V4, self.port)), Some(ip)),
        };
        let of_family =
            |mouth: &&UdpSocket| mouth.local_addr().is_ok_and(|local| local.is_ipv4() == address.is_ipv4());
        let Some(mouth) = self.mouths.iter().find(of_family) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        if let Some(ip) = out_of {
            SockRef::from(mouth).set_multicast_if_v4(&ip)?;
        }
        match mouth.try_send_to(bytes, address) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                timeout(SEND_WAIT, mouth.send_to(bytes, address)).await.map_err(io::Error::from)??;
            }
            sent => _ = sent?,
        }
        Ok(())
    }

    /// Returns whether a family can be spoken.
    pub(super) fn speaks_to(&self, to: Destination) -> bool {
        let v4 = match to {
            Destination::Address(address) => address.is_ipv4(),
            Destination::GroupV4(_) => true,
        };
        self.mouths.iter().any(|mouth| mouth.local_addr().is_ok_and(|local| local.is_ipv4() == v4))
    }
}

/// Asks the system for its interfaces.
pub(super) fn list_interfaces() -> Vec<Interface> {
    interfaces().iter().map(interface).collect()
}

fn interface(found: &NetworkInterface) -> Interface {
    let net = |ip: IpAddr, prefix: u8| IpNet::new(ip, prefix).ok();
    Interface {
        name: found.name.clone(),
        index: found.index,
        kind: Kind {
            up: found.is_up(),
            loopback: found.is_loopback(),
            point_to_point: found.is_point_to_point(),
            broadcast: found.is_broadcast(),
            multicast: found.is_multicast(),
        },
        addresses: found.ips.iter().filter_map(|network| net(network.ip(), network.prefix())).collect(),
    }
}

fn bind_mouths(listen: SocketAddr) -> Result<Vec<UdpSocket>, DiscoveryError> {
    let first = bind_mouth(listen);
    if listen.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return first.map(|mouth| vec![mouth]);
    }
    // Without IPv6 in the kernel, IPv4 alone will do.
    let port = match &first {
        Ok(mouth) => mouth.local_addr().map_or(listen.port(), |local| local.port()),
        Err(DiscoveryError::Bind { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
            return first.map(|mouth| vec![mouth]);
        }
        Err(error) => {
            tracing::info!(error = error as &dyn std::error::Error, "discovery without IPv6");
            listen.port()
        }
    };
    let second = bind_mouth(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    Ok(first.into_iter().chain([second]).collect())
}

fn bind_mouth(address: SocketAddr) -> Result<UdpSocket, DiscoveryError> {
    let bind = || {
        let socket =
            Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if address.is_ipv4() {
            socket.set_broadcast(true)?;
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_ttl_v4(1)?;
        } else {
            socket.set_only_v6(true)?;
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_hops_v6(1)?;
        }
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
        socket.bind(&address.into())?;
        UdpSocket::from_std(socket.into())
    };
    bind().map_err(|source| DiscoveryError::Bind { address, source })
}

/// Binds a socket to a broadcast address or group; several nodes of a host may share it.
fn bind_ear(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Joins the group of a socket's family on an interface; once more does no harm.
fn join(socket: &Socket, interface: &Interface) {
    let joined = if is_v4(socket) {
        socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(interface.index))
    } else {
        socket.join_multicast_v6(&GROUP_V6, interface.index)
    };
    match joined {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            tracing::warn!(interface = interface.name, %error, "no multicast on this interface");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Leaves the group of a socket's family. An interface that is gone has left it by itself.
fn leave(socket: &Socket, index: u32) {
    let _ = if is_v4(socket) {
        socket.leave_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index))
    } else {
        socket.leave_multicast_v6(&GROUP_V6, index)
    };
}

fn is_v4(socket: &Socket) -> bool {
    socket.domain().is_ok_and(|domain| domain == Domain::IPV4)
}

/// Returns whether two addresses are bound to the same, flow labels aside.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    let scope = |address: SocketAddr| match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    };
    (one.ip(), one.port(), scope(one)) == (other.ip(), other.port(), scope(other))
}

/// Returns an IPv4 address that was mapped into IPv6 as what it is.
fn canonical(mut address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
        IpAddr::V6(_) => {
            if let SocketAddr::V6(address) = &mut address {
                address.set_flowinfo(0);
            }
            address
        }
    }
}
