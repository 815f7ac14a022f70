//! Addresses with their meaning in the type: parsed once, at the edge of the process.

use std::fmt;
use std::net::SocketAddr;

pub use wanigan_parsers::NodeId;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub SocketAddr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address! {
    /// Where a client's connection comes from.
    ClientAddr
}
address! {
    /// The content server a client asked for.
    ServerAddr
}

impl ServerAddr {
    /// Names the service that answers there. SMB has two ports for the same shares (MS-SMB2 section 2.1).
    #[must_use]
    pub fn service(&self) -> String {
        let port = if self.0.port() == NETBIOS_PORT { SMB_PORT } else { self.0.port() };
        SocketAddr::new(self.0.ip().to_canonical(), port).to_string()
    }
}

const NETBIOS_PORT: u16 = 139;
const SMB_PORT: u16 = 445;
