//! The demo: the main job on one machine, with figures. `wanigan demo`, or `make demo`.
//!
//! ```text
//!  http_client ── edge 1 ── wan::UdpWan ── core ── content_server
//!  smbclient  ──/   │     /                    \── smbd (samba)
//!  http_client ── edge 2 ─
//!  http_client ──────────── wan::TcpWan ────────── content_server        the direct row
//! ```
//!
//! All of it stays on loopback, needs no root and no configuration, and is gone with its handles: tasks, the private
//! `smbd` and the directories. The WAN counts its bytes itself, so that the figures do not rest on Wanigan's own. The
//! clients hash what they got, and [`run`] fails when that is not the server's file; [`Fetched`] is what a row of the
//! [`table`] is made of.
//!
//! Edge 2 never saw what edge 1 read, and has it from there.
//!
//! What can go wrong: Samba is not installed or does not start, which leaves its rows out and says so. A connection
//! that an edge relayed past the WAN would look like a great saving, so it is a failure; so is a read of edge 2 whose
//! blocks did not come from edge 1.

pub mod content_server;
pub mod http_client;
pub mod nodes;
pub mod samba;
pub mod server;
pub mod table;
pub mod wan;

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use tokio::time::timeout;

use self::content_server::ContentServer;
use self::nodes::{Nodes, NodesError};
use self::samba::{Samba, SambaError};
use self::server::{Server, ServerError};
use self::table::Table;
use self::wan::{WanBytes, WanShape};

/// What a client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// From before the connection to the last byte.
    pub elapsed: Duration,
}

/// How much is read, and over what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of each file.
    pub file_bytes: usize,
    /// The WAN, both for edges and for the direct way.
    pub wan: WanShape,
}

impl Default for Settings {
    /// 16 MiB over 20 Mbit/s: seven seconds for a cold read, a minute in all.
    fn default() -> Self {
        Self { file_bytes: 16 << 20, wan: WanShape::default() }
    }
}

/// One read of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Past Wanigan, over a WAN of the same kind.
    Direct,
    /// Through edge 1, which has never seen the file.
    Cold,
    /// Through edge 1 by another client.
    Warm,
    /// Through edge 2, which has never seen the file and has edge 1 for a peer.
    OtherEdge,
    /// Through edge 1 after a change of [`CHANGED_BYTES`] in place.
    Changed,
}

/// How many bytes change in place.
pub const CHANGED_BYTES: usize = 100;

/// What happened.
#[derive(Debug)]
pub struct Report {
    /// In the order of the reads.
    pub rows: Vec<Row>,
    /// Why there are no rows of SMB.
    pub without_smb: Option<SambaError>,
}

/// What one read took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The protocol's name.
    pub protocol: &'static str,
    /// Which read.
    pub step: Step,
    /// What the client got; its hash is that of the server's file.
    pub fetched: Fetched,
    /// What crossed the WAN meanwhile.
    pub wan: WanBytes,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The web server.
    #[error("start the web server")]
    ContentServer(#[source] io::Error),
    /// The nodes, or the WAN between them.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// A server or a client.
    #[error("{action}")]
    Server {
        /// What was tried.
        action: String,
        /// What they say.
        source: ServerError,
    },
    /// A client got something else than the server's file: the worst that can happen.
    #[error("{0}: the client got other bytes than the server has")]
    WrongBytes(String),
    /// An edge relayed a connection directly, so the WAN's figures say nothing.
    #[error("{0}: the edge relayed the connection past the core")]
    PastTheWan(String),
    /// Edge 2 had most blocks over the WAN.
    #[error("{step}: {bytes} bytes came from edge 1, which had them all")]
    NotFromThePeer {
        /// What was read.
        step: String,
        /// What edge 1 gave.
        bytes: u64,
    },
    /// A read did not end.
    #[error("{0}: not done after {READ_TIMEOUT:?}")]
    Stuck(String),
    /// Standard output.
    #[error("print")]
    Print(#[from] io::Error),
}

/// Runs the demo and tells on `out` what it does.
///
/// # Errors
/// [`DemoError`], also when a client got anything but the server's file.
pub async fn run(settings: Settings, out: &mut impl Write) -> Result<Report, DemoError> {
    write!(out, "{}", Introduction(settings))?;
    let (mut servers, without_smb) = start_servers(settings).await?;
    if let Some(why) = &without_smb {
        writeln!(out, "SMB is left out: failed to {}\n", Causes(why))?;
    }
    let addresses: Vec<_> = servers.iter().map(Server::address).collect();
    let nodes = Nodes::start(settings.wan, &addresses).await?;
    let rows = read_all(settings, &mut servers, &nodes, out).await;
    nodes.stop().await;
    let report = Report { rows: rows?, without_smb };
    write!(out, "\n{}\n{CLOSING}", report.table())?;
    Ok(report)
}

async fn start_servers(settings: Settings) -> Result<(Vec<Server>, Option<SambaError>), DemoError> {
    let Settings { file_bytes, wan } = settings;
    let put = |source| DemoError::Server { action: "prepare a server".to_owned(), source };
    let http = ContentServer::bind().await.map_err(DemoError::ContentServer)?;
    let mut servers = vec![Server::http(http, server::content(file_bytes, 1), wan).map_err(put)?];
    let samba = tokio::task::spawn_blocking(Samba::start).await.expect("starting Samba does not panic");
    match samba {
        Ok(samba) => {
            // Another file: blocks are known by their content, whichever protocol brought them.
            servers.push(Server::smb(samba, server::content(file_bytes, 2), wan).map_err(put)?);
            Ok((servers, None))
        }
        Err(why) => Ok((servers, Some(why))),
    }
}

async fn read_all(
    settings: Settings,
    servers: &mut [Server],
    nodes: &Nodes,
    out: &mut impl Write,
) -> Result<Vec<Row>, DemoError> {
    let mut rows = Vec::new();
    for (index, server) in servers.iter_mut().enumerate() {
        for step in Step::ALL {
            writeln!(out, "  reading: {}, {step}", server.protocol())?;
            out.flush()?;
            if step == Step::Changed {
                let action = format!("change the file of {}", server.protocol());
                server.change().map_err(|source| DemoError::Server { action, source })?;
            }
            rows.push(read(settings.wan, server, index, nodes, step).await?);
        }
    }
    Ok(rows)
}

async fn read(
    shape: WanShape,
    server: &Server,
    index: usize,
    nodes: &Nodes,
    step: Step,
) -> Result<Row, DemoError> {
    let protocol = server.protocol();
    let action = format!("read over {protocol}, {step}");
    let (through, bytes): (_, &dyn Fn() -> WanBytes) = match step.edge() {
        None => (server.direct().address(), &|| server.direct().bytes()),
        Some(edge) => (nodes.address(edge, index), &|| nodes.wan().bytes()),
    };
    let from_peers = || step.edge().map_or(0, |edge| nodes.peer_bytes(edge));
    let (before, from_peers_before) = (bytes(), from_peers());
    let fetched = match timeout(READ_TIMEOUT, server.fetch(through)).await {
        Ok(Ok(fetched)) => fetched,
        Ok(Err(source)) => return Err(DemoError::Server { action, source }),
        Err(_) => return Err(DemoError::Stuck(action)),
    };
    // What a read still sends after its last byte: acknowledgements, the end of the flow.
    tokio::time::sleep(shape.one_way_delay * 4 + ACKNOWLEDGED_AFTER).await;
    let wan = bytes().since(before);
    if !server.has(&fetched) {
        return Err(DemoError::WrongBytes(action));
    }
    if nodes.direct_flows() > 0 {
        return Err(DemoError::PastTheWan(action));
    }
    let given = from_peers() - from_peers_before;
    if step == Step::OtherEdge && given < fetched.bytes / 2 {
        return Err(DemoError::NotFromThePeer { step: action, bytes: given });
    }
    Ok(Row { protocol, step, fetched, wan })
}

impl Step {
    /// In their order.
    pub const ALL: [Self; 5] = [Self::Direct, Self::Cold, Self::Warm, Self::OtherEdge, Self::Changed];

    fn edge(self) -> Option<usize> {
        match self {
            Self::Direct => None,
            Self::Cold | Self::Warm | Self::Changed => Some(0),
            Self::OtherEdge => Some(1),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct, without Wanigan"),
            Self::Cold => f.write_str("edge 1, first read (cold)"),
            Self::Warm => f.write_str("edge 1, another client (warm)"),
            Self::OtherEdge => f.write_str("edge 2, first read (from edge 1)"),
            Self::Changed => write!(f, "edge 1, {CHANGED_BYTES} bytes changed"),
        }
    }
}

impl Report {
    /// Returns the table that the demo prints.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        for Row { protocol, step, fetched, wan } in &self.rows {
            table.row(format!("{protocol}, {step}"), fetched, wan.total());
        }
        if let Some(why) = &self.without_smb {
            table.note(format!("SMB is left out: failed to {}", Causes(why)));
        }
        table
    }
}

/// What is about to happen.
struct Introduction(Settings);

impl fmt::Display for Introduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { file_bytes, wan } = self.0;
        let kib = file_bytes >> 10;
        let size = if kib.is_multiple_of(1024) { format!("{} MiB", kib >> 10) } else { format!("{kib} KiB") };
        let rate = wan.bits_per_second / 1_000_000;
        let round_trip = (wan.one_way_delay * 2).as_millis();
        writeln!(
            f,
            "A branch reads a file of {size} over a WAN of {rate} Mbit/s and {round_trip} ms round trip. Everything is\n\
             on loopback: real nodes and clients, and a relay for the WAN that delays and counts each packet.\n\n\
             \x20 client ── edge 1 ══╗\n\
             \x20           LAN │    WAN ══ core ── web server, smbd\n\
             \x20 client ── edge 2 ══╝\n\n\
             The file is random bytes, so nothing is saved by compression. The SHA-256 of what each client got\n\
             is compared with the server's.\n"
        )
    }
}

const CLOSING: &str = "\
Every client got the server's bytes. The share is what crossed the WAN, both ways and with all headers,
of what the client got. Each read was answered by the server, so a changed file is never served stale.
Edge 2 had never seen the files: the core named the blocks, and edge 1 gave them to a neighbour that
proved to know their hashes. It was told edge 1's address, for want of broadcast on loopback.

Next: README.md has what is saved and what is not; docs/configuration.md and packaging/wanigan.toml
have the configuration of a node, which `wanigan check` explains and `wanigan run` runs.
";

/// An error with its causes, on one line.
struct Causes<'a>(&'a dyn std::error::Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let causes = std::iter::successors(self.0.source(), |cause| cause.source());
        causes.into_iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

/// How long one read may take: many times what the default file needs.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest that QUIC waits with an acknowledgement (RFC 9000 section 13.2.1: 25 ms), and a few timers' slack.
const ACKNOWLEDGED_AFTER: Duration = Duration::from_millis(60);
