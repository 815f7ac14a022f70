//! The demo's nodes: an authority, a core and two edges in one temporary directory, with a WAN between.
//!
//! They are configured and started as `wanigan run` does it; the only difference to three processes is that they are
//! one. The LAN of the two edges is loopback: it has no broadcast, so an edge is told where those before it are asked.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::wan::{UdpWan, WanShape};
use crate::config::{Config, ConfigError};
use crate::metrics::Source;
use crate::node::{self, NodeError, Running};
use crate::pki::{Authority, IssueError, Roles};

/// Number of edges.
pub const EDGES: usize = 2;

/// How long the edges may take to greet the core.
const LINK_TIMEOUT: Duration = Duration::from_secs(15);

/// Why the nodes do not run.
#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    /// The temporary directory.
    #[error("make a temporary directory")]
    Directory(#[source] io::Error),
    /// The certificates.
    #[error(transparent)]
    Certificates(#[from] IssueError),
    /// The demo's own configuration: our bug.
    #[error("configure a node: {0}")]
    Config(#[from] ConfigError),
    /// A node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The WAN.
    #[error("open the WAN")]
    Wan(#[source] io::Error),
    /// The edges did not reach the core.
    #[error("link the edges to the core within {LINK_TIMEOUT:?}")]
    Link,
}

/// Nodes that run.
pub struct Nodes {
    core: Running,
    edges: Vec<Running>,
    wan: UdpWan,
    _directory: TempDir,
}

impl Nodes {
    /// Starts the nodes and waits until the links stand. Each edge listens once for each of the servers.
    ///
    /// # Errors
    /// [`NodesError`].
    pub async fn start(shape: WanShape, servers: &[SocketAddr]) -> Result<Self, NodesError> {
        let directory =
            tempfile::Builder::new().prefix("wanigan-demo-").tempdir().map_err(NodesError::Directory)?;
        let authority = Authority::at(directory.path());
        authority.init()?;
        let core = start_node(&authority, directory.path(), "core", &core_tables(servers)).await?;
        let address = core.core_address().expect("it was configured as a core");
        let wan = UdpWan::bind(address, shape).map_err(NodesError::Wan)?;
        let mut edges: Vec<Running> = Vec::new();
        for number in 1..=EDGES {
            // An edge's port is known once it runs. That those before are not told of it is no loss: they read first.
            let peers: Vec<SocketAddr> = edges.iter().filter_map(Running::peers_address).collect();
            let tables = edge_tables(servers, wan.address()) + &peers_table(&peers);
            edges.push(start_node(&authority, directory.path(), &format!("edge-{number}"), &tables).await?);
        }
        let nodes = Self { core, edges, wan, _directory: directory };
        nodes.wait_for_links().await?;
        Ok(nodes)
    }

    /// Returns the WAN between the edges and the core.
    #[must_use]
    pub fn wan(&self) -> &UdpWan {
        &self.wan
    }

    /// Returns where clients of an edge reach a server, both counted from 0.
    ///
    /// # Panics
    /// If there is no such edge or server.
    #[must_use]
    pub fn address(&self, edge: usize, server: usize) -> SocketAddr {
        self.edges[edge].edge_addresses()[server]
    }

    /// Returns how many connections the edges relayed directly, past the WAN that is measured.
    #[must_use]
    pub fn direct_flows(&self) -> u64 {
        self.edges.iter().map(|edge| edge.metrics().direct_flows()).sum()
    }

    /// Returns how many bytes of blocks an edge, counted from 0, has had from its peers.
    ///
    /// # Panics
    /// If there is no such edge.
    #[must_use]
    pub fn peer_bytes(&self, edge: usize) -> u64 {
        self.edges[edge].metrics().block_bytes(Source::Peer)
    }

    /// Stops the nodes, the edges first.
    pub async fn stop(self) {
        for edge in self.edges {
            edge.stop().await;
        }
        self.core.stop().await;
    }

    async fn wait_for_links(&self) -> Result<(), NodesError> {
        let up = async {
            while self.edges.iter().any(|edge| edge.metrics().links_up.get() == 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LINK_TIMEOUT, up).await.map_err(|_| NodesError::Link)
    }
}

/// Issues a node its certificate and starts it with these tables of its role.
async fn start_node(
    authority: &Authority,
    directory: &Path,
    name: &str,
    tables: &str,
) -> Result<Running, NodesError> {
    let (site, roles) = if name == "core" { ("hq", Roles::CORE) } else { ("branch", Roles::EDGE) };
    let issued_to = name.parse().expect("the demo's names are names");
    authority.issue(&issued_to, &site.parse().expect("and its sites"), roles)?;
    // Paths are relative to the file, which need not exist.
    let text = format!(
        "[node]\nname = \"{name}\"\nsite = \"{site}\"\nstate-dir = \"{name}\"\nca = \"ca.pem\"\n\
         certificate = \"{name}.pem\"\nkey = \"{name}.key\"\n[admin]\nlisten = \"off\"\n{tables}"
    );
    let config = Config::parse(&text, &directory.join(format!("{name}.toml")))?;
    Ok(node::start(&config).await?)
}

fn core_tables(servers: &[SocketAddr]) -> String {
    let allowed: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
    format!("[core]\nlisten = \"127.0.0.1:0\"\nallow-servers = [{}]\n", allowed.join(", "))
}

fn edge_tables(servers: &[SocketAddr], core: SocketAddr) -> String {
    let mut tables = format!(
        "[store]\nsize = \"1 GiB\"\nmemory = \"64 MiB\"\n\
         [[edge.route]]\nservers = [\"127.0.0.0/8\"]\ncore = \"{core}\"\n"
    );
    for server in servers {
        let _ = write!(
            tables,
            "[[edge.intercept]]\nmode = \"listen\"\nlisten = \"127.0.0.1:0\"\nserver = \"{server}\"\n"
        );
    }
    tables
}

/// The ports are the system's, so that any number of demos run at a time; by its name, loopback is taken for a LAN.
fn peers_table(peers: &[SocketAddr]) -> String {
    let peers: Vec<String> = peers.iter().map(|peer| format!("\"{peer}\"")).collect();
    format!(
        "[peers]\nlisten = \"127.0.0.1:0\"\ninterfaces = [\"lo\"]\nbroadcast = false\nmulticast = false\n\
         static = [{}]\n",
        peers.join(", ")
    )
}
