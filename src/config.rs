//! The configuration of a node: read once, checked as a whole, and typed from there on.
//!
//! The file is TOML. `raw.rs` reads it key by key and `build.rs` makes a [`Config`] of it in one function; whatever is wrong is
//! collected on the way, and the operator gets all of it at once ([`ConfigError`]). Nothing below sees the raw form.
//!
//! This module opens no file but the configuration itself: whether certificates exist and agree is for `wanigan
//! check` and for the start of the node to find out. [`Config`]'s `Display` writes a file with every key spelled out.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::pki::{NodeName, SiteName};

pub use self::address::{
    AddressError, AllowRule, AllowServers, CoreAddress, HostPort, Ports, Routes, ServerNet,
};
pub use self::certificate::CertificateError;
pub use self::quantity::{ByteSize, QuantityError};

mod address;
mod build;
mod certificate;
mod quantity;
mod raw;
mod show;

/// Everything a node is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Who this node is.
    pub node: Node,
    /// The role in the branch.
    pub edge: Option<Edge>,
    /// The role near the servers.
    pub core: Option<Core>,
    /// Blocks on disk and in memory.
    pub store: Store,
    /// The other edges of the LAN; a node that is only a core has nothing to do with them.
    pub peers: Peers,
    /// What all flows together may use.
    pub limits: Limits,
    /// The connection between edge and core.
    pub link: Link,
    /// The address for operators.
    pub admin: Admin,
}

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// Its site, as in its certificate.
    pub site: SiteName,
    /// Where secrets and the store are kept.
    pub state_dir: PathBuf,
    /// The certificate that vouches for all nodes.
    pub ca: PathBuf,
    /// This node's certificate.
    pub certificate: PathBuf,
    /// The key of this node's certificate.
    pub key: PathBuf,
}

/// The role in the branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// How connections come in; at least one way.
    pub intercepts: Vec<Intercept>,
    /// Which core serves which servers.
    pub routes: Routes,
}

/// One way for connections to come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intercept {
    /// Where connections are accepted.
    pub listen: SocketAddr,
    /// How they get there.
    pub mode: InterceptMode,
}

/// How connections get to an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterceptMode {
    /// By the kernel's TPROXY: the socket is bound to the server's address.
    Tproxy(Rules),
    /// By destination NAT: the server's address is asked of the kernel.
    Redirect {
        /// What is handed over.
        rules: Rules,
        /// Whether the connections of this machine's own programs are handed over too.
        local: bool,
    },
    /// By the client's own doing: everything accepted is for one server.
    Listen {
        /// The server.
        server: HostPort,
    },
}

/// What the kernel is told to hand over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The servers' ports.
    pub ports: Ports,
    /// Whether this process sets and removes the nftables rules itself.
    pub manage_nftables: bool,
}

/// The role near the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// The UDP address that edges connect to.
    pub listen: SocketAddr,
    /// What is dialled, and for whom.
    pub allow_servers: AllowServers,
    /// How long a server may take to accept a connection.
    pub dial_timeout: Duration,
    /// What a peer has to prove to be given a block.
    pub proofs: Proofs,
    /// How long blocks named under the previous server secret stay good.
    pub secret_grace: Duration,
    /// Sites whose edges may be referred to each other; those of one site always may.
    pub site_groups: Vec<Vec<SiteName>>,
}

/// What the references of a core are made with, and so what peers prove to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proofs {
    /// A secret for each block, made with the server secret: knowing the content is not enough.
    Keyed,
    /// The hash of the content alone.
    Plain,
}

/// Blocks on disk and in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The limit on disk.
    pub size: ByteSize,
    /// The limit of the memory tier.
    pub memory: ByteSize,
    /// The directory.
    pub dir: PathBuf,
    /// Whether peers are answered and given blocks.
    pub share: bool,
}

/// The other edges of the LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    /// Whether there are any: without, nobody is asked and nobody served.
    pub enabled: bool,
    /// Where datagrams of discovery (UDP) and requests for blocks (TCP) come in.
    pub listen: SocketAddr,
    /// The interfaces that discovery uses; none named: it chooses.
    pub interfaces: Vec<String>,
    /// Whether peers are asked by IPv4 broadcast.
    pub broadcast: bool,
    /// Whether peers are asked by IPv4 and IPv6 multicast.
    pub multicast: bool,
    /// Peers that are asked by unicast as well, wherever they are.
    pub static_peers: Vec<SocketAddr>,
    /// Where other edges are told to reach this one; none named: at the addresses of its interfaces.
    pub advertise: Vec<SocketAddr>,
    /// Peers served at a time.
    pub connections: u32,
    /// Bytes a second served at most, to all peers together.
    pub rate: Option<ByteSize>,
}

/// What all flows together may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all flows: retained, held, queued.
    pub memory: ByteSize,
    /// Number of flows.
    pub flows: u32,
    /// Unacknowledged references' data of one flow.
    pub retain: ByteSize,
}

/// The connection between edge and core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// How the sender finds its rate.
    pub congestion: Congestion,
    /// Whether what this node sends is compressed where that helps.
    pub compression: bool,
}

/// How the sender of a link finds its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// Loss is a sign of congestion (RFC 9438): fair to the TCP around it.
    Cubic,
    /// Rate and round trip are measured: keeps going where loss is not congestion.
    Bbr,
}

/// The address for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens, or `None`.
    pub listen: Option<SocketAddr>,
}

/// Text that is none of the words a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("none of the words it may be")]
pub struct NoSuchWord;

/// One thing wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place: `edge.route[0].core`.
    pub key: String,
    /// The value and the accepted form: `"10.0.0" is not host:port`.
    pub problem: String,
}

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("read {} as TOML", .file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Line, column and reason.
        source: toml::de::Error,
    },
    /// The file says things that cannot be; one line each.
    #[error("{}", Lines(.file, .problems))]
    Problems {
        /// The file.
        file: PathBuf,
        /// All of them.
        problems: Vec<Problem>,
    },
}

impl Config {
    /// Reads a file. Relative paths in it are taken from the directory it is in.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
        Self::parse(&text, file)
    }

    /// Reads the text of a file; `file` is named in errors, and relative paths are taken from its directory.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let table: toml::Table =
            text.parse().map_err(|source| ConfigError::Syntax { file: file.to_owned(), source })?;
        let dir = file.parent().unwrap_or(Path::new(""));
        build::config(table, dir)
            .map_err(|problems| ConfigError::Problems { file: file.to_owned(), problems })
    }
}

/// The problems of a file, a line each.
struct Lines<'a>(&'a Path, &'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { key, problem }) in self.1.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{}: {key}: {problem}", self.0.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
