//! A listener that stands for one server: its name is looked up at each connection, beside the accept loop.
//!
//! A slow name server delays the connections that wait for it, never the listener: at most [`PENDING_MAX`] look-ups
//! run, more connections wait in the kernel's backlog.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Accepted, Refused, reached};
use crate::addr::{ClientAddr, ServerAddr};
use crate::relay;

/// The server a listener stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FixedServer {
    /// An address.
    Addr(ServerAddr),
    /// A name, looked up at each connection; the resolver's first address is taken.
    Name {
        /// The host's name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// A text that is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {0:?} as host:port")]
pub struct FixedServerError(String);

impl FromStr for FixedServer {
    type Err = FixedServerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Addr(ServerAddr(address)));
        }
        let refused = || FixedServerError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(refused)?;
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || !host.chars().all(letter) {
            return Err(refused());
        }
        Ok(Self::Name { host: host.to_owned(), port })
    }
}

impl fmt::Display for FixedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Connections whose server's name is being looked up.
#[derive(Debug)]
pub(super) struct Resolving {
    server: FixedServer,
    pending: JoinSet<io::Result<Accepted>>,
}

impl Resolving {
    pub(super) fn new(server: FixedServer) -> Self {
        Self { server, pending: JoinSet::new() }
    }

    /// Returns the connection at once where the server is an address.
    pub(super) fn admit(&mut self, stream: TcpStream, client: ClientAddr) -> io::Result<Option<Accepted>> {
        match &self.server {
            FixedServer::Addr(server) => accepted(stream, client, server.0).map(Some),
            FixedServer::Name { host, port } => {
                self.pending.spawn(resolve(stream, client, host.clone(), *port));
                Ok(None)
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= PENDING_MAX
    }

    /// Returns a connection whose look-up ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self.pending.poll_join_next(cx) {
            Poll::Ready(Some(result)) => {
                Poll::Ready(result.unwrap_or_else(|error| Err(io::Error::other(error))))
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

async fn resolve(stream: TcpStream, client: ClientAddr, host: String, port: u16) -> io::Result<Accepted> {
    let found =
        match tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host.as_str(), port))).await {
            Ok(found) => found.and_then(|mut all| all.next().ok_or_else(|| io::ErrorKind::NotFound.into())),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
    match found {
        Ok(server) => accepted(stream, client, server),
        Err(source) => {
            relay::reset(stream);
            Err(io::Error::other(Refused::Unresolved { host, source }))
        }
    }
}

/// Refuses to stand for ourselves: each connection would beget the next.
fn accepted(stream: TcpStream, client: ClientAddr, server: SocketAddr) -> io::Result<Accepted> {
    let listener = reached(&stream)?;
    if listener == server {
        relay::reset(stream);
        return Err(io::Error::other(Refused::NotIntercepted { client: client.0, listener }));
    }
    Ok(Accepted { stream, client, server: ServerAddr(server) })
}

const PENDING_MAX: usize = 64;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_server_is_an_address_or_a_name_with_a_port() {
        for text in ["10.2.0.7:445", "[fd00::7]:445"] {
            assert!(matches!(text.parse(), Ok(FixedServer::Addr(_))), "{text}");
        }
        let name: FixedServer = "fs1.hq.example:445".parse().unwrap();
        assert_eq!(name, FixedServer::Name { host: "fs1.hq.example".into(), port: 445 });
        assert_eq!(name.to_string(), "fs1.hq.example:445");
        for text in ["fs1", "fs1:", ":445", "fs1:0", "fs1:70000", "fd00::7:445", "a b:1", "fs1/x:80"] {
            assert!(text.parse::<FixedServer>().is_err(), "{text}");
        }
    }
}
