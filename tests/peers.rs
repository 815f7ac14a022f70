//! `wanigan peers` against nodes that run: a core, and two edges of one LAN, which is loopback here.
#![expect(clippy::unwrap_used, reason = "a panic is how a test and its helpers fail")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tokio::net::TcpListener;
use wanigan::admin::PeerReport;
use wanigan::config::Config;
use wanigan::demo::content_server::ContentServer;
use wanigan::demo::http_client;
use wanigan::demo::server::content;
use wanigan::demo::wan::{UdpWan, WanShape};
use wanigan::metrics::Source;
use wanigan::node::{self, Running};
use wanigan::pki::{Authority, Roles};

const FILE: &str = "/plan.bin";
const FILE_BYTES: usize = 2 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn each_edge_lists_the_other_with_what_it_gave_or_was_given() {
    let office = Office::start().await;
    for config in &office.configs {
        assert_eq!(stdout(&peers(config, &[])), "no peers are known yet\n");
        assert!(listed(config).is_empty());
    }
    for edge in &office.edges {
        let fetched = http_client::fetch(edge.edge_addresses()[0], FILE).await.unwrap();
        assert_eq!(fetched.bytes, FILE_BYTES as u64);
    }

    let given = office.edges[1].metrics().block_bytes(Source::Peer);
    assert!(given * 10 >= FILE_BYTES as u64 * 9, "{given} bytes came from edge 1");
    let [giver] = &listed(&office.configs[1])[..] else { panic!("edge 2 has one peer") };
    assert_eq!((&*giver.name, &*giver.site, giver.connected), ("edge-1", "branch", true));
    assert!(giver.blocks_received > 0 && giver.bytes_received >= given, "{giver:?}");
    assert_eq!((giver.blocks_served, giver.bytes_served, giver.wrong), (0, 0, 0));
    assert!(giver.latency_seconds.is_some_and(|seconds| seconds > 0.0));

    let [taker] = &listed(&office.configs[0])[..] else { panic!("edge 1 has one peer") };
    assert_eq!((&*taker.name, &*taker.site, taker.connected), ("edge-2", "branch", true));
    assert!(taker.blocks_served >= giver.blocks_received, "{taker:?}");
    assert!(taker.bytes_served >= giver.bytes_received, "{taker:?}");
    assert_eq!((taker.blocks_received, taker.bytes_received, taker.latency_seconds), (0, 0, None));
    assert!(taker.id != giver.id && taker.id.len() == 64, "{}, {}", taker.id, giver.id);

    for (config, other) in office.configs.iter().zip(["edge-2", "edge-1"]) {
        let table = stdout(&peers(config, &[]));
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("name ") && lines[0].contains("blocks got"), "{table}");
        assert!(lines[1].starts_with(&format!("{other}  branch  127.0.0.1:")), "{table}");
        assert!(lines[1].contains("connected") && lines.len() == 2, "{table}");
    }
    office.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_alone_has_no_peers_and_the_command_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let admin = free_address().await;
    let authority = Authority::at(directory.path());
    authority.init().unwrap();
    let core = "[core]\nlisten = \"127.0.0.1:0\"\nallow-servers = [\"127.0.0.1:80\"]\n";
    let config = configure(&authority, directory.path(), "core", admin, core);
    let node = node::start(&Config::load(&config).unwrap()).await.unwrap();
    assert!(stderr(&peers(&config, &[])).contains("this node is no edge"));

    // Its file says edge by now, the node that runs does not know.
    let edge = edge_tables("127.0.0.1:80".parse().unwrap(), "127.0.0.1:7400".parse().unwrap(), None);
    let edited = configure(&authority, directory.path(), "edge-1", admin, &edge);
    let said = stderr(&peers(&edited, &[]));
    assert!(said.contains(&format!("the peers of the node at {admin}: it has none")), "{said}");
    node.stop().await;
}

/// Two edges that share a LAN, a core, and a web server with a file.
struct Office {
    configs: Vec<PathBuf>,
    edges: Vec<Running>,
    core: Running,
    _wan: UdpWan,
    _server: ContentServer,
    _directory: tempfile::TempDir,
}

impl Office {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        let authority = Authority::at(dir);
        authority.init().unwrap();
        let server = ContentServer::bind().await.unwrap();
        server.put(FILE, content(FILE_BYTES, 7));
        let tables =
            format!("[core]\nlisten = \"127.0.0.1:0\"\nallow-servers = [\"{}\"]\n", server.address());
        let config = configure(&authority, dir, "core", free_address().await, &tables);
        let core = node::start(&Config::load(&config).unwrap()).await.unwrap();
        // Far away, or the core would be as good as any peer.
        let shape = WanShape { bits_per_second: 100_000_000, queue_bytes: 1 << 20, ..WanShape::default() };
        let wan = UdpWan::bind(core.core_address().unwrap(), shape).unwrap();
        let (mut configs, mut edges): (_, Vec<Running>) = (Vec::new(), Vec::new());
        for name in ["edge-1", "edge-2"] {
            let peer = edges.first().and_then(Running::peers_address);
            let tables = edge_tables(server.address(), wan.address(), peer);
            let config = configure(&authority, dir, name, free_address().await, &tables);
            edges.push(node::start(&Config::load(&config).unwrap()).await.unwrap());
            configs.push(config);
        }
        let up = async {
            while edges.iter().any(|edge| edge.metrics().links_up.get() == 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), up).await.expect("the links stand");
        Self { configs, edges, core, _wan: wan, _server: server, _directory: directory }
    }

    async fn stop(self) {
        for edge in self.edges {
            edge.stop().await;
        }
        self.core.stop().await;
    }
}

/// Issues a node's certificate and writes its configuration.
fn configure(authority: &Authority, dir: &Path, name: &str, admin: SocketAddr, tables: &str) -> PathBuf {
    let (site, roles) = if name == "core" { ("hq", Roles::CORE) } else { ("branch", Roles::EDGE) };
    authority.issue(&name.parse().unwrap(), &site.parse().unwrap(), roles).unwrap();
    let file = dir.join(format!("{name}.toml"));
    let text = format!(
        "[node]\nname = \"{name}\"\nsite = \"{site}\"\nstate-dir = \"{name}\"\nca = \"ca.pem\"\n\
         certificate = \"{name}.pem\"\nkey = \"{name}.key\"\n[admin]\nlisten = \"{admin}\"\n{tables}"
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn edge_tables(server: SocketAddr, core: SocketAddr, peer: Option<SocketAddr>) -> String {
    let listed = peer.map(|peer| format!("\"{peer}\"")).unwrap_or_default();
    format!(
        "[peers]\nlisten = \"127.0.0.1:0\"\ninterfaces = [\"lo\"]\nbroadcast = false\nmulticast = false\n\
         static = [{listed}]\n[store]\nsize = \"64 MiB\"\n[[edge.route]]\nservers = [\"127.0.0.0/8\"]\n\
         core = \"{core}\"\n[[edge.intercept]]\nmode = \"listen\"\nlisten = \"127.0.0.1:0\"\nserver = \"{server}\"\n"
    )
}

/// Runs `wanigan peers` as an operator does.
fn peers(config: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wanigan"))
        .arg("peers")
        .arg("-c")
        .arg(config)
        .args(more)
        .output()
        .unwrap()
}

fn listed(config: &Path) -> Vec<PeerReport> {
    serde_json::from_str(&stdout(&peers(config, &["--json"]))).unwrap()
}

fn stdout(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8(output.stderr.clone()).unwrap()
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).unwrap()
}
