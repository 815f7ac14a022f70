//! Binding the listeners: one a family, all on one port, transparent where the mode needs it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::{InterceptError, InterceptSettings, Mode};

/// Binds one listener a family, all on one port.
pub(super) fn bind(
    settings: &InterceptSettings,
    transparent: bool,
) -> Result<Vec<TcpListener>, InterceptError> {
    for _ in 0..PORT_ATTEMPTS {
        match bind_once(settings, transparent) {
            // A free port of one family can be taken in the other.
            Err(InterceptError::Bind { source, .. })
                if settings.listen.port() == 0 && source.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    bind_once(settings, transparent)
}

fn bind_once(settings: &InterceptSettings, transparent: bool) -> Result<Vec<TcpListener>, InterceptError> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut port = settings.listen.port();
    for (ip, required) in settings.addresses() {
        let mut address = settings.listen;
        address.set_ip(ip);
        address.set_port(port);
        match listener(address, transparent) {
            Ok(listener) => {
                port = listener.local_addr().map_or(port, |local| local.port());
                listeners.push(listener);
            }
            Err(error) if required => return Err(error),
            Err(error) => {
                tracing::info!(%address, error = &error as &dyn std::error::Error, "no listener for this family");
            }
        }
    }
    Ok(listeners)
}

fn listener(address: SocketAddr, transparent: bool) -> Result<TcpListener, InterceptError> {
    let bind = |source| InterceptError::Bind { address, source };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))
        .map_err(bind)?;
    socket.set_reuse_address(true).map_err(bind)?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(bind)?;
    }
    if transparent {
        let made = if address.is_ipv4() {
            socket.set_ip_transparent_v4(true)
        } else {
            socket.set_ip_transparent_v6(true)
        };
        made.map_err(|source| InterceptError::Transparent { address, source })?;
    }
    socket.bind(&address.into()).map_err(bind)?;
    socket.listen(BACKLOG).map_err(bind)?;
    TcpListener::from_std(socket.into()).map_err(bind)
}

impl InterceptSettings {
    /// Returns the addresses to bind, each with whether it must succeed.
    fn addresses(&self) -> Vec<(IpAddr, bool)> {
        const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let ip = self.listen.ip();
        if !ip.is_unspecified() {
            return vec![(ip, true)];
        }
        match self.mode {
            Mode::Listen { .. } if ip.is_ipv4() => vec![(V4, true)],
            Mode::Listen { .. } => vec![(V6, true), (V4, false)],
            Mode::TProxy | Mode::Redirect if self.manage_nftables => {
                let wanted = |v4| self.servers.iter().any(|net| net.addr().is_ipv4() == v4);
                [(V4, true), (V6, true)].into_iter().filter(|(ip, _)| wanted(ip.is_ipv4())).collect()
            }
            Mode::TProxy | Mode::Redirect => vec![(V4, ip.is_ipv4()), (V6, ip.is_ipv6())],
        }
    }
}

pub(super) fn local_addrs(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}

/// A morning's rush of clients waits here; no more than the usual `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
const PORT_ATTEMPTS: usize = 8;
