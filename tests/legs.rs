//! Real connections through an edge and a core on loopback: limits, resets, and what they leave behind.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use prometheus::IntGauge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use wanigan::budget::Budget;
use wanigan::config::Config;
use wanigan::content_map::{Kept, MapConfig, SharedMap};
use wanigan::drain::Tasks;
use wanigan::metrics::Metrics;
use wanigan::pki::{Authority, NodeIdentity, Roles};
use wanigan::store::Store;
use wanigan::{core_role, edge_role};
use wanigan_parsers::Direction;

#[tokio::test]
async fn connections_beyond_the_edges_own_limit_go_direct() {
    let server = greeting_server().await;
    let Pair { core: _core, edge, listen, .. } = pair(server, "[limits]\nflows = 1").await;

    let first = greeted(listen).await;
    assert_eq!((edge.metrics.flows_active.get(), edge.overloaded()), (1, 0));
    let second = greeted(listen).await;
    assert_eq!((edge.metrics.flows_active.get(), edge.overloaded()), (1, 1));
    drop(first);
    eventually(|| edge.metrics.flows_active.get() == 0).await;
    let _third = greeted(listen).await;
    assert_eq!((edge.metrics.flows_active.get(), edge.overloaded()), (1, 1));
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_downloads_leave_nothing_behind() {
    let (server, _) = flooding_server().await;
    let Pair { core, edge, listen, .. } = pair(server, "").await;
    for _ in 0..3 {
        let mut client = TcpStream::connect(listen).await.unwrap();
        client.write_all(b"hello?").await.unwrap();
        client.shutdown().await.unwrap();
        // Long enough for the credit of the flow to be used up.
        sleep(Duration::from_millis(700)).await;
    }
    eventually(|| edge.metrics.flows_active.get() == 0 && core.metrics.flows_active.get() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_reset_reaches_a_client_that_is_sending_as_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"part of an answer").await.unwrap();
                sleep(Duration::from_millis(300)).await;
                stream.set_zero_linger().unwrap();
            });
        }
    });
    let Pair { core: _core, edge: _edge, listen, .. } = pair(server, "").await;
    for round in 0..8 {
        let (mut read, mut write) = TcpStream::connect(listen).await.unwrap().into_split();
        // Stops before the reset: a write of the client's own would take the error from its read.
        let sending = async { while write.write_all(&[1; 65_536]).await.is_ok() {} };
        let _ = timeout(Duration::from_millis(150), sending).await;
        let mut got = Vec::new();
        let end = timeout(LIMIT, read.read_to_end(&mut got)).await.expect("in time");
        assert!(end.is_err(), "round {round} ended in good order after {} bytes", got.len());
        assert_eq!(got, b"part of an answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_reset_reaches_the_server_and_ends_the_transfer() {
    let (server, mut ends) = flooding_server().await;
    let Pair { core: _core, edge: _edge, listen, .. } = pair(server, "").await;
    for round in 0..6 {
        let mut client = TcpStream::connect(listen).await.unwrap();
        client.write_all(b"hello?").await.unwrap();
        client.read_exact(&mut vec![0; 100_000]).await.unwrap();
        sleep(Duration::from_millis(200)).await;
        client.set_zero_linger().unwrap();
        drop(client);
        let (reset, sent) = timeout(LIMIT, ends.recv()).await.expect("in time").unwrap();
        assert!(reset, "round {round}: the server saw an end in good order");
        assert!(sent < FLOOD / 2, "round {round}: {sent} bytes were taken for nobody");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_gone_while_its_server_does_not_read_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let Pair { core, edge, listen, .. } = pair(server, "").await;
    let mut client = TcpStream::connect(listen).await.unwrap();
    let sending = async { while client.write_all(&[1; 65_536]).await.is_ok() {} };
    // The kernel accepts for a server that never reads: all credit is used up.
    let _ = timeout(Duration::from_secs(1), sending).await;
    assert_eq!((edge.metrics.flows_active.get(), core.metrics.flows_active.get()), (1, 1));
    client.set_zero_linger().unwrap();
    drop(client);
    eventually(|| edge.metrics.flows_active.get() == 0 && core.metrics.flows_active.get() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_cross_the_link_compressed_unless_their_sender_is_told_not_to() {
    let server = repeating_server().await;
    for (setting, packs) in [("", true), ("[link]\ncompression = false", false)] {
        let Pair { core, edge, listen, .. } = pair(server, setting).await;
        let mut client = TcpStream::connect(listen).await.unwrap();
        let mut said = 0;
        for number in 0..50 {
            let line = format!("{:0>300}: a request very much like the one before\n", number);
            client.write_all(line.as_bytes()).await.unwrap();
            let mut answer = vec![0; line.len()];
            timeout(LIMIT, client.read_exact(&mut answer)).await.expect("in time").unwrap();
            assert_eq!(answer, line.as_bytes());
            said += line.len() as u64;
        }
        let (before, after) = edge.metrics.compression_bytes(Direction::ToClient);
        assert!(before > said * 8 / 10 && after < before / 4, "the core's: {after} of {before} of {said}");
        let (before, after) = edge.metrics.compression_bytes(Direction::ToServer);
        assert!(!packs || before > said * 8 / 10 && after < before / 4, "{after} of {before} of {said}");
        assert_eq!(before > 0, packs);
        for direction in [Direction::ToServer, Direction::ToClient] {
            let (sender, receiver) = (&core.metrics, &edge.metrics);
            assert_eq!(sender.compression_bytes(direction), receiver.compression_bytes(direction));
        }
        drop(client);
        eventually(|| edge.metrics.flows_active.get() == 0 && core.metrics.flows_active.get() == 0).await;
        assert_eq!((edge.budget.free(), core.budget.free()), (64 << 20, 64 << 20));
    }
}

/// An edge and a core on loopback, one listener before one server.
struct Pair {
    core: Node,
    edge: Node,
    listen: SocketAddr,
    _started: Option<edge_role::Started>,
    _directory: tempfile::TempDir,
}

async fn pair(server: SocketAddr, edge_settings: &str) -> Pair {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let dir = directory.path();
    let authority = Authority::at(dir);
    authority.init().expect("an authority");
    for (name, roles) in [("hq", Roles::CORE), ("gw", Roles::EDGE)] {
        authority
            .issue(&name.parse().expect("a name"), &name.parse().expect("a site"), roles)
            .expect("a node");
    }
    let allow = format!("[core]\nlisten = '127.0.0.1:0'\nallow-servers = ['127.0.0.1:{}']", server.port());
    let core = node(dir, "hq", &allow);
    let started = core_role::start(
        &core.config,
        &core.identity,
        &core.budget,
        &core.kept(),
        &core.metrics,
        &core.tasks,
    );
    let started_core = started.expect("the core starts").expect("it is a core");
    let core_address = started_core.endpoint.local_addr().expect("bound");
    let listen = free_address().await;
    let edge = node(
        dir,
        "gw",
        &format!(
            "{edge_settings}\n[peers]\nenabled = false\n[store]\nsize = '16 MiB'\n[[edge.intercept]]\nmode = 'listen'\nlisten = '{listen}'\n\
             server = '{server}'\n[[edge.route]]\nservers = ['127.0.0.1']\ncore = '{core_address}'"
        ),
    );
    let started = edge_role::start(
        &edge.config,
        &edge.identity,
        &edge.budget,
        &edge.kept(),
        &edge.metrics,
        &edge.tasks,
    )
    .await;
    let started = started.expect("the edge starts");
    eventually(|| edge.metrics.links_up.get() == 1).await;
    Pair { core, edge, listen, _started: started, _directory: directory }
}

/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What a flooding server has to give: more than all buffers on the way.
const FLOOD: usize = 256 << 20;

struct Node {
    config: Config,
    identity: NodeIdentity,
    budget: Budget,
    metrics: Metrics,
    tasks: Tasks,
}

impl Node {
    fn kept(&self) -> Kept {
        let config = wanigan::node::store_config(&self.config);
        let store = Store::open(config.clone(), self.metrics.store.clone()).expect("the store opens");
        let map = MapConfig::beside(&config, "content-map");
        let map = SharedMap::open(&map, &store, self.metrics.content_map.clone());
        Kept { store, map }
    }

    fn overloaded(&self) -> u64 {
        let families = self.metrics.registry().gather();
        let direct = families.iter().find(|family| family.name() == "wanigan_flows_direct_total");
        let metrics = direct.expect("it is registered").get_metric();
        let overload =
            metrics.iter().find(|metric| metric.get_label().iter().any(|label| label.value() == "overload"));
        overload.expect("every reason is there").get_counter().get_value() as u64
    }
}

fn node(dir: &Path, name: &str, rest: &str) -> Node {
    let text = format!(
        "[node]\nname = '{name}'\nca = 'ca.pem'\ncertificate = '{name}.pem'\nkey = '{name}.key'\nstate-dir = 'state-{name}'\n{rest}"
    );
    let config = Config::parse(&text, &dir.join("wanigan.toml")).expect("the configuration is right");
    std::fs::create_dir_all(&config.node.state_dir).expect("the directory can be made");
    let files = &config.node;
    let identity =
        NodeIdentity::load(&files.ca, &files.certificate, &files.key).expect("the certificate is right");
    let budget = Budget::new(64 << 20, IntGauge::new("used", "used").expect("it is a name"));
    Node { config, identity, budget, metrics: Metrics::new(), tasks: Tasks::default() }
}

/// A server that greets and then holds the connection.
async fn greeting_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"hello").await;
                let _ = stream.read(&mut [0; 16]).await;
            });
        }
    });
    address
}

/// A server that says what it hears.
async fn repeating_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// A server that sends until it cannot, and tells of each connection whether it was reset and what it sent.
async fn flooding_server() -> (SocketAddr, mpsc::Receiver<(bool, usize)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    let (ends, received) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ends = ends.clone();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.into_split();
                let flood = tokio::spawn(async move {
                    let mut sent = 0;
                    while sent < FLOOD {
                        if let Err(error) = write.write_all(&[7; 65_536]).await {
                            return (sent, error.kind() == io::ErrorKind::ConnectionReset);
                        }
                        sent += 65_536;
                    }
                    (sent, false)
                });
                let mut bytes = [0; 16];
                let reset_read = loop {
                    match read.read(&mut bytes).await {
                        Ok(0) => break false,
                        Ok(_) => {}
                        Err(_) => break true,
                    }
                };
                // The kernel tells of a reset once: to the write or to the read, whichever comes first.
                let (sent, reset_write) = flood.await.expect("it does not panic");
                let _ = ends.send((reset_read || reset_write, sent)).await;
            });
        }
    });
    (address, received)
}

async fn greeted(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("the edge listens");
    let mut greeting = [0; 5];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut greeting))
        .await
        .expect("in time")
        .expect("whole");
    assert_eq!(&greeting, b"hello");
    stream
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("loopback")
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came");
}
