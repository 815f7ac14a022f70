//! What a caught connection was made for, read from its socket.
//!
//! A connection that nobody caught, made to the listener's own address, is told apart and refused: relaying it
//! would dial ourselves.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::{Refused, reached};
use crate::addr::ServerAddr;

/// A transparent socket's local address is the server's.
pub(super) fn tproxy_server(
    stream: &TcpStream,
    client: SocketAddr,
    listeners: &[TcpListener],
) -> io::Result<ServerAddr> {
    let server = reached(stream)?;
    // The listener's port is never among the caught ones.
    let own = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .any(|own| own.port() == server.port());
    if own { Err(not_intercepted(client, server)) } else { Ok(ServerAddr(server)) }
}

/// Connection tracking remembers the destination before translation (`SO_ORIGINAL_DST`).
pub(super) fn redirect_server(stream: &TcpStream, client: SocketAddr) -> io::Result<ServerAddr> {
    let local = reached(stream)?;
    let socket = SockRef::from(stream);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    // It fails where the connection is not tracked, so not translated either.
    match original.ok().and_then(|address| address.as_socket()) {
        Some(server) if server != local => Ok(ServerAddr(plain(server))),
        _ => Err(not_intercepted(client, local)),
    }
}

/// Drops the flow label and scope, which mean nothing to whoever dials.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

fn not_intercepted(client: SocketAddr, listener: SocketAddr) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, Refused::NotIntercepted { client, listener })
}
