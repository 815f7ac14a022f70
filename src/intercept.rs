//! How client connections come in: a listener that gives each connection with its client and the server it was
//! made for.
//!
//! Three ways ([`Mode`]): `tproxy` and `redirect` catch connections that a router forwards to servers, without the
//! client knowing; `listen` is an address that clients are pointed at and that stands for one server. The packet
//! filter's rules ([`Rules`]) live in a table that the kernel removes with this process, so that a process that is
//! gone leaves plain routing behind.
//!
//! This room knows nothing of routes, links or protocols: whoever calls [`Accept::accept`] decides what becomes of
//! a connection. What can go wrong: the packet filter refuses the rules (bind fails, with its message); its child
//! process dies (the rules vanish, traffic flows directly, [`Rules::lost`] reports it); the process runs out of file
//! descriptors (accept fails, pauses, and goes on).

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use ipnet::IpNet;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::addr::{ClientAddr, ServerAddr};
use crate::fault::AcceptFault;
use crate::relay;
pub use crate::relay::MARK;

mod explicit;
mod listener;
mod nft;
mod policy_route;
mod transparent;

pub use explicit::{FixedServer, FixedServerError};
pub use nft::Rules;

/// A connection that came in.
#[derive(Debug)]
pub struct Accepted {
    /// The connection to the client.
    pub stream: TcpStream,
    /// Where it comes from.
    pub client: ClientAddr,
    /// The server the client asked for.
    pub server: ServerAddr,
}

/// A source of connections. Tests inject their own.
pub trait Accept: Send {
    /// Returns the next connection. Cancel safe.
    ///
    /// An error concerns one connection or a shortage that passes, never the source as a whole: count it
    /// ([`accept_fault`]) and call again. A shortage is waited out inside the next call, so a loop does not spin.
    fn accept(&mut self) -> impl Future<Output = io::Result<Accepted>> + Send;
}

/// How connections are caught.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Forwarded packets are given to a transparent socket. With the listener gone, new connections are routed on.
    TProxy,
    /// Forwarded connections are translated to the listener; the kernel tells what they were made for.
    Redirect,
    /// Clients connect to the listener, which stands for one server.
    Listen {
        /// The server it stands for.
        server: FixedServer,
    },
}

/// What one interceptor is made of.
#[derive(Debug, Clone)]
pub struct InterceptSettings {
    /// How connections are caught.
    pub mode: Mode,
    /// Where the listener is bound. In the transparent modes an unspecified address of either family means both.
    pub listen: SocketAddr,
    /// Server ports that are caught. Not used by `Listen`, nor without `manage_nftables`.
    pub ports: Vec<u16>,
    /// Whether to install rules, and for `TProxy` a policy route. Without it the operator installs them.
    pub manage_nftables: bool,
    /// Whether to catch the connections of this machine's own programs too: a workstation's edge. `Redirect` only.
    pub local: bool,
    /// Routed networks: connections to servers elsewhere are not caught.
    pub servers: Vec<IpNet>,
    /// Addresses of cores: connections from them are not caught, so that a core behind this edge does not loop.
    pub cores: Vec<IpAddr>,
    /// Names the table: `wanigan-<instance>`. Unlike that of any other interceptor on the machine.
    pub instance: String,
}

/// Why an interceptor could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterceptError {
    /// The settings name no port, or no network of a family that the listener has.
    #[error("catch anything: no ports, or no servers of the listener's address family")]
    NothingToCatch,
    /// The listener's own port is among the ports to catch.
    #[error("catch port {0}: it is the listener's own port")]
    OwnPort(u16),
    /// Forwarded connections cannot be redirected to a loopback address.
    #[error("redirect forwarded connections to the loopback address {0}")]
    LoopbackListen(SocketAddr),
    /// The mode cannot catch this machine's own connections.
    #[error("catch local connections in this mode: only redirect can")]
    LocalNeedsRedirect,
    /// The listener could not be bound.
    #[error("listen on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The listener could not be made transparent.
    #[error("make the listener on {address} transparent (needs CAP_NET_ADMIN)")]
    Transparent {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A program that sets up the kernel could not be run.
    #[error("run {program}")]
    Program {
        /// Which.
        program: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A program that sets up the kernel refused.
    #[error("have {program} accept {task}: {message}")]
    Rejected {
        /// Which.
        program: &'static str,
        /// What it should have done.
        task: &'static str,
        /// What it said.
        message: String,
    },
    /// Another process owns a table of that name.
    #[error("own the nftables table inet {0}: another process holds it (is the instance name used twice?)")]
    TableTaken(String),
    /// The process that held the rules is gone, and the rules with it.
    #[error("keep the nftables rules: nft ended with {status}: {message}")]
    Lost {
        /// How it ended.
        status: String,
        /// What it said.
        message: String,
    },
}

/// Why a connection was refused by the interceptor itself.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("hand on a connection from {client}: it was made to the listener {listener} itself")]
    NotIntercepted { client: SocketAddr, listener: SocketAddr },
    #[error("hand on a connection: no address for {host}")]
    Unresolved { host: String, source: io::Error },
}

/// The listener of one way in.
#[derive(Debug)]
pub struct Interceptor {
    // First, so that no rule outlives the listener that it leads to.
    rules: Option<Rules>,
    listeners: Vec<TcpListener>,
    first: usize,
    resume_at: Option<Instant>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    TProxy,
    Redirect,
    Listen(explicit::Resolving),
}

impl Interceptor {
    /// Binds the listener and, with `manage_nftables`, installs the rules.
    ///
    /// # Errors
    /// [`InterceptError`] when the settings contradict themselves, or the kernel refuses listener or rules. Nothing
    /// stays behind then.
    pub async fn bind(settings: InterceptSettings) -> Result<Self, InterceptError> {
        let managed = settings.manage_nftables && !matches!(settings.mode, Mode::Listen { .. });
        if managed {
            settings.check()?;
        }
        let listeners = listener::bind(&settings, settings.mode == Mode::TProxy)?;
        let addresses = listener::local_addrs(&listeners);
        let rules = if managed { Some(Rules::apply_new(&settings, &addresses).await?) } else { None };
        let kind = match settings.mode {
            Mode::TProxy => Kind::TProxy,
            Mode::Redirect => Kind::Redirect,
            Mode::Listen { server } => Kind::Listen(explicit::Resolving::new(server)),
        };
        Ok(Self { rules, listeners, first: 0, resume_at: None, kind })
    }

    /// Returns where the listener is bound: one address, or one of each family.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        listener::local_addrs(&self.listeners)
    }

    /// Hands over the rules to whoever watches them ([`Rules::lost`]); kept here, they go with the interceptor.
    ///
    /// Remove them before the interceptor is dropped: a redirect to a listener that is gone refuses clients.
    pub fn take_rules(&mut self) -> Option<Rules> {
        self.rules.take()
    }

    /// Turns a raw connection into an accepted one; `None` when its server is still being looked up.
    fn admit(&mut self, stream: TcpStream, client: SocketAddr) -> io::Result<Option<Accepted>> {
        relay::prepare(&stream)?;
        let server = match &mut self.kind {
            Kind::TProxy => transparent::tproxy_server(&stream, client, &self.listeners),
            Kind::Redirect => transparent::redirect_server(&stream, client),
            Kind::Listen(resolving) => return resolving.admit(stream, ClientAddr(client)),
        };
        match server {
            Ok(server) => Ok(Some(Accepted { stream, client: ClientAddr(client), server })),
            Err(error) => {
                relay::reset(stream);
                Err(error)
            }
        }
    }

    /// Pauses after a shortage; other errors concern one connection only (accept(2), "Error handling").
    fn note(&mut self, error: &io::Error) {
        if accept_fault(error) == AcceptFault::Exhausted {
            self.resume_at = Some(Instant::now() + SHORTAGE_PAUSE);
        }
    }

    /// Polls the listeners in turn, so that a busy one does not starve the other.
    fn poll_listeners(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        self.first = (self.first + 1) % self.listeners.len();
        let (late, early) = self.listeners.split_at(self.first);
        for listener in early.iter().chain(late) {
            if let Poll::Ready(result) = listener.poll_accept(cx) {
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    }

    async fn next(&mut self) -> io::Result<Option<Accepted>> {
        poll_fn(|cx| {
            if let Kind::Listen(resolving) = &mut self.kind {
                if let Poll::Ready(result) = resolving.poll(cx) {
                    return Poll::Ready(result.map(Some));
                }
                if resolving.is_full() {
                    return Poll::Pending;
                }
            }
            match self.poll_listeners(cx) {
                Poll::Ready(Ok((stream, client))) => Poll::Ready(self.admit(stream, client)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

impl Accept for Interceptor {
    async fn accept(&mut self) -> io::Result<Accepted> {
        loop {
            if let Some(at) = self.resume_at {
                tokio::time::sleep_until(at).await;
                self.resume_at = None;
            }
            match self.next().await {
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) => {}
                Err(error) => {
                    self.note(&error);
                    return Err(error);
                }
            }
        }
    }
}

impl InterceptSettings {
    /// Finds contradictions that would make rules useless or harmful.
    fn check(&self) -> Result<(), InterceptError> {
        let any_family = self.listen.ip().is_unspecified();
        let usable = |net: &IpNet| any_family || net.addr().is_ipv4() == self.listen.is_ipv4();
        if self.ports.is_empty() || !self.servers.iter().any(usable) {
            return Err(InterceptError::NothingToCatch);
        }
        if self.ports.contains(&self.listen.port()) {
            return Err(InterceptError::OwnPort(self.listen.port()));
        }
        if self.local && self.mode != Mode::Redirect {
            return Err(InterceptError::LocalNeedsRedirect);
        }
        if self.mode == Mode::Redirect && self.listen.ip().is_loopback() && !self.local {
            return Err(InterceptError::LoopbackListen(self.listen));
        }
        Ok(())
    }
}

/// Sorts an error of [`Accept::accept`] for the metrics.
#[must_use]
pub fn accept_fault(error: &io::Error) -> AcceptFault {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Refused::NotIntercepted { .. }) => AcceptFault::NotIntercepted,
        Some(Refused::Unresolved { .. }) => AcceptFault::Unresolved,
        None if is_about_one_connection(error) => AcceptFault::Aborted,
        None => AcceptFault::Exhausted,
    }
}

/// Linux passes errors of the new connection's network on through accept(2).
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::NotConnected
            | Kind::PermissionDenied
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::TimedOut
            | Kind::Interrupted
            | Kind::InvalidInput
    )
}

/// Returns the address a connection reached us by.
fn reached(stream: &TcpStream) -> io::Result<SocketAddr> {
    SockRef::from(stream).local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Long enough for other connections to end, short enough that clients do not notice.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::net::TcpStream as Client;

    use super::*;

    fn settings(mode: Mode, listen: &str) -> InterceptSettings {
        InterceptSettings {
            mode,
            listen: listen.parse().unwrap(),
            ports: vec![445],
            manage_nftables: false,
            local: false,
            servers: vec!["10.2.0.0/16".parse().unwrap()],
            cores: Vec::new(),
            instance: "test".into(),
        }
    }

    fn listen_for(server: &str, listen: &str) -> InterceptSettings {
        settings(Mode::Listen { server: server.parse().unwrap() }, listen)
    }

    #[tokio::test]
    async fn a_listener_stands_for_its_fixed_server() {
        let mut interceptor = Interceptor::bind(listen_for("10.2.0.7:445", "127.0.0.1:0")).await.unwrap();
        let client = Client::connect(interceptor.local_addrs()[0]).unwrap();
        let accepted = interceptor.accept().await.unwrap();
        assert_eq!(accepted.client.0, client.local_addr().unwrap());
        assert_eq!(accepted.server.to_string(), "10.2.0.7:445");
    }

    #[tokio::test]
    async fn the_name_of_a_fixed_server_is_looked_up_at_each_connection() {
        let mut interceptor = Interceptor::bind(listen_for("localhost:445", "127.0.0.1:0")).await.unwrap();
        for _ in 0..2 {
            let client = Client::connect(interceptor.local_addrs()[0]).unwrap();
            let accepted = interceptor.accept().await.unwrap();
            assert_eq!(accepted.client.0, client.local_addr().unwrap());
            assert!(accepted.server.0.ip().is_loopback());
            assert_eq!(accepted.server.0.port(), 445);
        }
    }

    #[tokio::test]
    async fn a_listener_that_stands_for_itself_refuses() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        drop(taken);
        let mut interceptor = Interceptor::bind(listen_for(&address, &address)).await.unwrap();
        let _client = Client::connect(&address).unwrap();
        let error = interceptor.accept().await.unwrap_err();
        assert_eq!(accept_fault(&error), AcceptFault::NotIntercepted);
    }

    #[tokio::test]
    async fn an_unspecified_ipv6_listener_takes_both_families_on_one_port() {
        let mut interceptor = Interceptor::bind(listen_for("10.2.0.7:445", "[::]:0")).await.unwrap();
        let addresses = interceptor.local_addrs();
        assert!(addresses.iter().all(|address| address.port() == addresses[0].port()));
        for address in &addresses {
            let ip: IpAddr = if address.is_ipv4() { "127.0.0.1" } else { "::1" }.parse().unwrap();
            let client = Client::connect((ip, address.port())).unwrap();
            let accepted = interceptor.accept().await.unwrap();
            assert_eq!(accepted.client.0, client.local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn a_connection_made_to_the_redirect_listener_itself_is_reset() {
        use std::io::Read as _;
        let mut interceptor = Interceptor::bind(settings(Mode::Redirect, "127.0.0.1:0")).await.unwrap();
        let mut client = Client::connect(interceptor.local_addrs()[0]).unwrap();
        let error = interceptor.accept().await.unwrap_err();
        assert_eq!(accept_fault(&error), AcceptFault::NotIntercepted);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn settings_that_contradict_themselves_are_refused_before_anything_is_bound() {
        let managed = |mode, listen| InterceptSettings { manage_nftables: true, ..settings(mode, listen) };
        let refused = async |settings| Interceptor::bind(settings).await.unwrap_err();
        let own = managed(Mode::Redirect, "0.0.0.0:445");
        assert!(matches!(refused(own).await, InterceptError::OwnPort(445)));
        let loopback = managed(Mode::Redirect, "127.0.0.1:7445");
        assert!(matches!(refused(loopback).await, InterceptError::LoopbackListen(_)));
        let family = managed(Mode::Redirect, "[fd01::1]:7445");
        assert!(matches!(refused(family).await, InterceptError::NothingToCatch));
        let local = InterceptSettings { local: true, ..managed(Mode::TProxy, "0.0.0.0:7445") };
        assert!(matches!(refused(local).await, InterceptError::LocalNeedsRedirect));
    }

    #[test]
    fn only_shortages_make_the_listener_pause() {
        for (number, fault) in
            [(24, AcceptFault::Exhausted), (23, AcceptFault::Exhausted), (105, AcceptFault::Exhausted)]
        {
            assert_eq!(accept_fault(&io::Error::from_raw_os_error(number)), fault, "EMFILE, ENFILE, ENOBUFS");
        }
        for number in [103, 104, 113, 1] {
            let fault = accept_fault(&io::Error::from_raw_os_error(number));
            assert_eq!(fault, AcceptFault::Aborted, "ECONNABORTED, ECONNRESET, EHOSTUNREACH, EPERM");
        }
    }
}
