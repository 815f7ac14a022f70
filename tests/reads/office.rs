//! The servers, a core, and edges, with their restarts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use wanigan::config::Config;
use wanigan::demo::wan::{UdpWan, WanShape};
use wanigan::metrics::Metrics;
use wanigan::node::{self, Running};
use wanigan::pki::{Authority, Roles};

use crate::client::{Protocol, in_time};
use crate::dice::Dice;
use crate::nodes::{configure, free_udp_address};
use crate::truth::Truth;
use crate::{http, smb};

/// Everything of a run but its clients.
pub(crate) struct Office {
    pub(crate) core: Node,
    pub(crate) edges: Vec<Node>,
    authority: Authority,
    directory: tempfile::TempDir,
    servers: [SocketAddr; 2],
    /// Where edges find the core.
    core_address: SocketAddr,
    _wan: Option<UdpWan>,
    settings: String,
    has_peers: bool,
}

/// A node that lives more than once.
pub(crate) struct Node {
    config: PathBuf,
    life: Option<(Runtime, Running)>,
    /// What each of its lives counts.
    pub(crate) lives: Vec<Metrics>,
}

/// How a node goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// As told by an operator.
    Stop,
    /// All at once.
    Crash,
}

/// What is gone when a node comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Nothing,
    Store,
    Map,
}

impl Office {
    pub(crate) async fn start(truth: &Arc<Truth>, dice: &mut Dice) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::at(directory.path());
        authority.init().unwrap();
        let servers = [bind(Protocol::Http, truth, dice).await, bind(Protocol::Smb, truth, dice).await];
        let listen = free_udp_address();
        let delay = dice.pick(&[0, 0, 1, 8]);
        let shape = WanShape {
            bits_per_second: 1_000_000_000,
            one_way_delay: Duration::from_millis(delay),
            queue_bytes: 4 << 20,
        };
        let wan = (delay > 0).then(|| UdpWan::bind(listen, shape).unwrap());
        let compression = !dice.chance(200);
        let memory = dice.pick(&["0 B", "4 MiB"]);
        let flows_memory = dice.pick(&["8 MiB", "64 MiB"]);
        let settings = format!(
            "[store]\nsize = '9 MiB'\nmemory = '{memory}'\n[limits]\nmemory = '{flows_memory}'\nretain = '4 MiB'\n\
             [link]\ncompression = {compression}\n"
        );
        let tables = format!(
            "{settings}[core]\nlisten = '{listen}'\nallow-servers = ['{}', '{}']\nproofs = '{}'\n",
            servers[0],
            servers[1],
            dice.pick(&["keyed", "keyed", "plain"]),
        );
        let config = configure(&authority, directory.path(), ("hq", "hq"), Roles::CORE, &tables);
        let core_address = wan.as_ref().map_or(listen, UdpWan::address);
        let mut office = Self {
            core: Node::start(config).await,
            edges: Vec::new(),
            authority,
            directory,
            servers,
            core_address,
            _wan: wan,
            settings,
            has_peers: dice.chance(500),
        };
        office.add_edge().await;
        office
    }

    /// Starts another edge: of a site of its own, or in the LAN of the others.
    pub(crate) async fn add_edge(&mut self) {
        let name = format!("gw-{}", self.edges.len());
        let site = if self.has_peers { "branch" } else { &name };
        let peers = if self.has_peers {
            let asked: Vec<String> = self.edges.iter().filter_map(Node::peers_address).collect();
            format!(
                "[peers]\nlisten = '127.0.0.1:0'\ninterfaces = ['lo']\nbroadcast = false\nmulticast = false\n\
                 static = [{}]\n",
                asked.join(", ")
            )
        } else {
            "[peers]\nenabled = false\n".to_owned()
        };
        let mut tables = format!(
            "{}{peers}[[edge.route]]\nservers = ['127.0.0.0/8']\ncore = '{}'\n",
            self.settings, self.core_address
        );
        for server in self.servers {
            tables.push_str(&format!(
                "[[edge.intercept]]\nmode = 'listen'\nlisten = '127.0.0.1:0'\nserver = '{server}'\n"
            ));
        }
        let config = configure(&self.authority, self.directory.path(), (&name, site), Roles::EDGE, &tables);
        self.edges.push(Node::start(config).await);
        self.link_up().await;
    }

    /// Returns when the core that runs has a link with each edge that runs. It may count those of edges that are no more.
    pub(crate) async fn link_up(&self) {
        let up = async {
            while self.core.metrics().links_up.get() < self.edges.len() as i64
                || self.edges.iter().any(|edge| edge.metrics().links_up.get() != 1)
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        in_time("the link", up).await;
    }

    /// Returns where clients of an edge reach a server.
    pub(crate) fn address(&self, edge: usize, protocol: Protocol) -> SocketAddr {
        let (_, running) = self.edges[edge].life.as_ref().expect("it runs");
        running.edge_addresses()[protocol as usize]
    }

    pub(crate) async fn stop(&mut self) {
        for edge in &mut self.edges {
            edge.end(End::Stop).await;
        }
        self.core.end(End::Stop).await;
    }
}

impl Node {
    async fn start(config: PathBuf) -> Self {
        let mut node = Self { config, life: None, lives: Vec::new() };
        node.begin().await;
        node
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        self.lives.last().expect("it was started")
    }

    fn peers_address(&self) -> Option<String> {
        self.life.as_ref()?.1.peers_address().map(|address| format!("'{address}'"))
    }

    pub(crate) async fn restart(&mut self, end: End, loss: Loss) {
        self.end(end).await;
        let store = Config::load(&self.config).unwrap().store.dir;
        match loss {
            Loss::Nothing => {}
            Loss::Store => std::fs::remove_dir_all(store).unwrap(),
            Loss::Map => std::fs::remove_file(store.join("content-map.redb")).unwrap(),
        }
        self.begin().await;
    }

    async fn begin(&mut self) {
        let mut failed = String::new();
        for _ in 0..200 {
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let config = Config::load(&self.config).unwrap();
            let started = runtime.spawn(async move { node::start(&config).await }).await.unwrap();
            match started {
                // The store of the life before may still have its files.
                Ok(running) if running.metrics().store.up.get() == 1 => {
                    self.lives.push(running.metrics().clone());
                    self.life = Some((runtime, running));
                    return;
                }
                Ok(running) => {
                    drop(running);
                    failed = "its store is in use".to_owned();
                }
                Err(error) => failed = format!("{error:?}"),
            }
            end_runtime(runtime).await;
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{} does not start: {failed}", self.config.display());
    }

    async fn end(&mut self, end: End) {
        let (runtime, running) = self.life.take().expect("it runs");
        match end {
            End::Stop => in_time("a stop", runtime.spawn(running.stop())).await.unwrap(),
            End::Crash => drop(running),
        }
        end_runtime(runtime).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some((runtime, _)) = self.life.take() {
            runtime.shutdown_background();
        }
    }
}

async fn end_runtime(runtime: Runtime) {
    spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10))).await.unwrap();
}

/// Starts one of the servers.
async fn bind(protocol: Protocol, truth: &Arc<Truth>, dice: &mut Dice) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (truth, mut dice) = (Arc::clone(truth), Dice::new(dice.next()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (truth, dice) = (Arc::clone(&truth), Dice::new(dice.next()));
            stream.set_nodelay(true).unwrap();
            // A connection that breaks is its client's to notice.
            match protocol {
                Protocol::Http => drop(tokio::spawn(http::serve(stream, truth, dice))),
                Protocol::Smb => drop(tokio::spawn(smb::serve(stream, truth, dice))),
            }
        }
    });
    address
}
