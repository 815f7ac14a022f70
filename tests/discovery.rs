//! Discovery between two hosts of one network: namespaces joined by a cable, real broadcast and multicast.
//!
//! Without root the tests are skipped, visibly.

#![expect(clippy::unwrap_used, reason = "a panic is how a test and its helpers fail")]

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use prometheus::TextEncoder;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::timeout;
use wanigan::addr::NodeId;
use wanigan::block::{Digest, KeyId, Reference, Secret, Tag, tag};
use wanigan::discovery::{Answer, Discovery, DiscoverySettings, Event, Finding, Found, Holdings};
use wanigan::drain::Drain;
use wanigan::metrics::Metrics;

const PORT: u16 = 7_747;
const ROUND_TRIP: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);
/// An ask for one block.
const ASK_BYTES: u64 = 70 + 64;

#[test]
fn a_peer_is_found_by_ipv4_broadcast() {
    let Some(lan) = Lan::new("a_peer_is_found_by_ipv4_broadcast", &V4) else { return };
    for listen in [["0.0.0.0"; 2], ["[::]"; 2], ["10.72.0.1", "10.72.0.2"]] {
        let seen = lan.ask(&listen.map(|ip| settings(ip, true, false)));
        assert_eq!(seen.answer.addr, SocketAddr::from(([10, 72, 0, 1], PORT)), "listening at {listen:?}");
        assert_eq!(seen.places, 1);
    }
}

#[test]
fn a_peer_is_found_by_ipv4_multicast() {
    let Some(lan) = Lan::new("a_peer_is_found_by_ipv4_multicast", &V4) else { return };
    for listen in [["0.0.0.0"; 2], ["10.72.0.1", "10.72.0.2"]] {
        let seen = lan.ask(&listen.map(|ip| settings(ip, false, true)));
        assert_eq!(seen.answer.addr, SocketAddr::from(([10, 72, 0, 1], PORT)), "listening at {listen:?}");
        assert_eq!(seen.places, 1);
    }
}

#[test]
fn a_peer_is_found_by_ipv6_multicast_and_reached_where_it_answered() {
    let name = "a_peer_is_found_by_ipv6_multicast_and_reached_where_it_answered";
    let Some(lan) = Lan::new(name, &V6) else { return };
    for (listen, link_local) in [(["[::]"; 2], true), (["[fd72::1]", "[fd72::2]"], false)] {
        let seen = lan.ask(&listen.map(|ip| settings(ip, true, true)));
        let SocketAddr::V6(addr) = seen.answer.addr else { panic!("{} is IPv4", seen.answer.addr) };
        assert_eq!(addr.ip().is_unicast_link_local(), link_local, "{addr}");
        assert_eq!(seen.places, 1);
        assert!(seen.reached, "{addr} leads to the peer");
    }
}

#[test]
fn an_ask_that_comes_by_both_families_is_answered_once() {
    let Some(lan) = Lan::new("an_ask_that_comes_by_both_families_is_answered_once", &BOTH) else { return };
    let seen = lan.ask(&["[::]"; 2].map(|ip| settings(ip, true, true)));
    assert_eq!(seen.places, 2);
    assert_eq!(seen.answers, 1);
    assert!(seen.peer.contains("wanigan_discovery_refusals_total{reason=\"replayed\"} 0"), "{}", seen.peer);
}

#[test]
fn the_network_towards_the_core_is_asked_only_where_there_is_no_other() {
    let name = "the_network_towards_the_core_is_asked_only_where_there_is_no_other";
    let Some(lan) = Lan::new(name, &V4) else { return };
    lan.ip("-n B link add wan0 type veth peer name wan1");
    lan.ip("-n B addr add 192.0.2.2/24 dev wan0");
    lan.ip("-n B link set wan0 up");
    let both = ["0.0.0.0"; 2].map(|ip| settings(ip, true, false));
    assert_eq!(lan.ask(&both).places, 2);
    assert_eq!(lan.ask_towards(&both, vec![IpAddr::from([192, 0, 2, 2])]).places, 1);
}

const V4: [[&str; 1]; 2] = [["10.72.0.1/24"], ["10.72.0.2/24"]];
const V6: [[&str; 1]; 2] = [["fd72::1/64"], ["fd72::2/64"]];
const BOTH: [[&str; 2]; 2] = [["10.72.0.1/24", "fd72::1/64"], ["10.72.0.2/24", "fd72::2/64"]];

/// Two namespaces and a cable; removed on drop.
struct Lan([String; 2]);

/// What the second node saw when it asked the first.
struct Seen {
    answer: Answer,
    /// Answers to one ask, within a moment.
    answers: usize,
    /// To how many places each ask went.
    places: u64,
    /// Whether a TCP connection to the answer's address stands.
    reached: bool,
    /// The first node's metrics.
    peer: String,
}

impl Lan {
    fn new<const N: usize>(test: &str, addresses: &[[&str; N]; 2]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip(test);
            return None;
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{:x}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lan = Self([format!("wida{id}"), format!("widb{id}")]);
        for ns in ["A", "B"] {
            lan.ip(&format!("netns add {ns}"));
            // Addresses are good at once.
            lan.ip(&format!("netns exec {ns} sysctl -qw net.ipv6.conf.default.accept_dad=0"));
            lan.ip(&format!("-n {ns} link set lo up"));
        }
        lan.ip("-n A link add lan0 type veth peer name lan0 netns B");
        for (ns, addresses) in ["A", "B"].into_iter().zip(addresses) {
            lan.ip(&format!("-n {ns} link set lan0 up"));
            for address in addresses {
                let nodad = if address.contains("::") { "nodad" } else { "" };
                lan.ip(&format!("-n {ns} addr add {address} dev lan0 {nodad}"));
            }
        }
        Some(lan)
    }

    /// Runs `ip`; A and B stand for the namespaces.
    fn ip(&self, command: &str) -> String {
        let named = |word: &str| match word {
            "A" => self.0[0].clone(),
            "B" => self.0[1].clone(),
            word => word.to_owned(),
        };
        let output = Command::new("ip").args(command.split_whitespace().map(named)).output().unwrap();
        assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn enter<T: Send + 'static>(
        &self,
        host: usize,
        run: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let file = File::open(format!("/run/netns/{}", self.0[host])).unwrap();
        std::thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
            Builder::new_current_thread().enable_all().build().unwrap().block_on(run())
        })
    }

    fn ask(&self, settings: &[DiscoverySettings; 2]) -> Seen {
        self.ask_towards(settings, Vec::new())
    }

    /// Starts both nodes and asks from the second one.
    fn ask_towards(&self, settings: &[DiscoverySettings; 2], core_side: Vec<IpAddr>) -> Seen {
        let [one, two] = settings.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, started) = std::sync::mpsc::channel();
        let peer = self.enter(0, async move || {
            let node = Node::start(one);
            let listener = TcpListener::bind(("::", PORT)).unwrap();
            ready.send(()).unwrap();
            let _ = stopped.await;
            drop(listener);
            node.metrics()
        });
        started.recv().unwrap();
        let asker = self.enter(1, async move || {
            let mut node = Node::start(two);
            for (core, address) in (0..).zip(core_side) {
                node.discovery.set_core_side(core, Some(address));
            }
            let answer = node.ask_until_answered().await;
            let mut answers = 1;
            while let Ok(Some(_)) = timeout(Duration::from_millis(100), node.events.recv()).await {
                answers += 1;
            }
            let asks = node.count("wanigan_discovery_asked_blocks_total");
            let places = node.count("wanigan_discovery_sent_bytes_total") / (asks * ASK_BYTES);
            let reached = TcpStream::connect_timeout(&answer.addr, Duration::from_secs(5)).is_ok();
            (answer, answers, places, reached)
        });
        let (answer, answers, places, reached) = asker.join().unwrap();
        drop(stop);
        Seen { answer, answers, places, reached, peer: peer.join().unwrap() }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for ns in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

struct Node {
    discovery: Discovery,
    events: tokio::sync::mpsc::Receiver<Event>,
    metrics: Metrics,
    drain: Drain,
}

impl Node {
    fn start(settings: DiscoverySettings) -> Self {
        let (drain, metrics) = (Drain::new(), Metrics::new());
        let (discovery, events) =
            Discovery::start(settings, Arc::new(OneBlock), metrics.clone(), &drain).unwrap();
        discovery.set_time(block().key, 1_700_000_000_000);
        Self { discovery, events, metrics, drain }
    }

    /// Asks again and again: the other node may still be starting.
    async fn ask_until_answered(&mut self) -> Answer {
        let asking = async {
            loop {
                let _ = self.discovery.ask(vec![block()], ROUND_TRIP);
                if let Ok(event) = timeout(Duration::from_millis(200), self.events.recv()).await {
                    match event.expect("the task runs") {
                        Event::Answer(answer) => return answer,
                        Event::NotAsked(_) => {}
                    }
                }
            }
        };
        timeout(LONG, asking).await.expect("the peer answers")
    }

    fn metrics(&self) -> String {
        TextEncoder::new().encode_to_string(&self.metrics.registry().gather()).unwrap()
    }

    fn count(&self, name: &str) -> u64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.drain.stopping().cancel();
    }
}

/// Has [`block`].
struct OneBlock;

impl Holdings for OneBlock {
    fn find(&self, _: KeyId, tags: Vec<Tag>) -> Finding<'_> {
        let find =
            |wanted: &Tag| (*wanted == tag(&block())).then(|| Found { reference: block(), soon: false });
        Box::pin(std::future::ready(tags.iter().map(find).collect()))
    }
}

fn block() -> Reference {
    Reference { digest: Digest([1; 32]), secret: Secret([2; 32]), key: KeyId([3; 8]), len: 65_536 }
}

fn settings(listen: &str, broadcast: bool, multicast: bool) -> DiscoverySettings {
    // Each node has an identity of its own, whatever it is set to.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut id = [0; 32];
    id[..4].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    DiscoverySettings {
        id: NodeId(id),
        share: true,
        listen: format!("{listen}:{PORT}").parse().unwrap(),
        transfer_port: None,
        interfaces: Vec::new(),
        broadcast,
        multicast,
        static_peers: Vec::new(),
    }
}

fn skip(test: &str) {
    println!("skipped: {test} needs root, for network namespaces");
    if let Some(path) = std::env::var_os("WANIGAN_SKIPPED") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}").unwrap();
    }
}
