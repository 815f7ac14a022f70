//! An edge keeps to its own limit of flows, whatever its core would grant.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use prometheus::IntGauge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wanigan::budget::Budget;
use wanigan::config::Config;
use wanigan::drain::Tasks;
use wanigan::metrics::Metrics;
use wanigan::pki::{Authority, NodeIdentity, Roles};
use wanigan::{core_role, edge_role};

#[tokio::test]
async fn connections_beyond_the_edges_own_limit_go_direct() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::at(dir.path());
    authority.init().unwrap();
    authority.issue(&"hq".parse().unwrap(), &"hq".parse().unwrap(), Roles::CORE).unwrap();
    authority.issue(&"gw".parse().unwrap(), &"gw".parse().unwrap(), Roles::EDGE).unwrap();
    let server = greeting_server().await;

    let core = node(
        dir.path(),
        "hq",
        &format!("[core]\nlisten = '127.0.0.1:0'\nallow-servers = ['127.0.0.1:{}']", server.port()),
    );
    let endpoint = core_role::start(&core.config, &core.identity, &core.budget, &core.metrics, &core.tasks);
    let core_address = endpoint.unwrap().unwrap().local_addr().unwrap();
    let listen = free_address().await;
    let edge = node(
        dir.path(),
        "gw",
        &format!(
            "[limits]\nflows = 1\n[store]\nsize = '16 MiB'\n[[edge.intercept]]\nmode = 'listen'\nlisten = '{listen}'\n\
             server = '{server}'\n[[edge.route]]\nservers = ['127.0.0.1']\ncore = '{core_address}'"
        ),
    );
    edge_role::start(&edge.config, &edge.identity, &edge.budget, &edge.metrics, &edge.tasks).await.unwrap();
    eventually(|| edge.metrics.links_up.get() == 1).await;

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

struct Node {
    config: Config,
    identity: NodeIdentity,
    budget: Budget,
    metrics: Metrics,
    tasks: Tasks,
}

impl Node {
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
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came");
}
