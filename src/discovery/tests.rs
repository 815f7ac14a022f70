//! Nodes on this host's loopback.

use std::net::UdpSocket as StdSocket;

use bytes::Bytes;
use prometheus::TextEncoder;
use tokio::time::timeout;

use super::*;
use crate::block::{ServerSecret, tag};

const LONG: Duration = Duration::from_secs(20);
/// Longer than an ask lives, so that scheduling decides nothing.
const ROUND_TRIP: Duration = Duration::from_secs(1);

#[tokio::test]
async fn two_nodes_find_each_others_blocks_by_either_family() {
    for ip in ["127.0.0.1", "::1"] {
        let ip: IpAddr = ip.parse().unwrap();
        let mut one = Node::start(1, ip, &[(ip, 1)], true);
        let mut two = Node::start(2, ip, &[(ip, one.discovery.port())], true);
        let found = two.ask_until_answered().await;
        assert_eq!(found.peer, id(1));
        assert_eq!(found.addr, SocketAddr::from((ip, 8_001)));
        assert_eq!(found.load, 1);
        assert_eq!(found.blocks, [(references()[1], true)]);
        assert_eq!(two.count("wanigan_discovery_found_blocks_total"), 1);
        assert!(two.count("wanigan_discovery_asked_blocks_total") >= 3);
        assert!(two.count("wanigan_discovery_sent_bytes_total") >= 70 + 3 * 64);
        assert!(one.count("wanigan_discovery_answered_blocks_total") >= 1);
        assert!(one.count("wanigan_discovery_received_bytes_total") >= 70 + 3 * 64);
        // The other way round: the first one knows only a port at which nobody listens.
        let asked = one.discovery.ask(references(), ROUND_TRIP);
        assert!(asked.is_some_and(|until| until <= Instant::now() + ROUND_TRIP / 2));
        assert!(timeout(Duration::from_millis(50), one.events.recv()).await.is_err());
    }
}

#[tokio::test]
async fn garbage_is_counted_and_does_no_harm() {
    let ip = IpAddr::from([127, 0, 0, 1]);
    let one = Node::start(1, ip, &[(ip, 1)], true);
    let noise = StdSocket::bind((ip, 0)).unwrap();
    let to = (ip, one.discovery.port());
    for garbage in [&b""[..], b"WNG", b"WNG\x01\x01", b"WNG\x02\x01", &[0xff; 1_232], &[0xff; 4_000]] {
        noise.send_to(garbage, to).unwrap();
    }
    one.until("wanigan_discovery_refusals_total{reason=\"malformed\"}", 6).await;
    let mut two = Node::start(2, ip, &[(ip, one.discovery.port())], true);
    assert_eq!(two.ask_until_answered().await.peer, id(1));
}

#[tokio::test]
async fn strangers_and_nodes_that_share_nothing_meet_silence() {
    let ip = IpAddr::from([127, 0, 0, 1]);
    let elsewhere = IpAddr::from([127, 0, 0, 9]);
    let shy = Node::start(1, ip, &[(ip, 1)], false);
    let stranger = Node::start(2, ip, &[(elsewhere, 1)], true);
    let ports = [shy.discovery.port(), stranger.discovery.port()];
    let mut asker = Node::start(3, ip, &ports.map(|port| (ip, port)), true);
    assert!(asker.discovery.ask(references(), ROUND_TRIP).is_some());
    shy.until("wanigan_discovery_refusals_total{reason=\"not_sharing\"}", 1).await;
    stranger.until("wanigan_discovery_refusals_total{reason=\"off_link\"}", 1).await;
    assert_eq!(shy.count("wanigan_discovery_sent_bytes_total"), 0);
    assert_eq!(stranger.count("wanigan_discovery_sent_bytes_total"), 0);
    assert!(asker.events.try_recv().is_err());
}

#[tokio::test]
async fn blocks_that_are_not_asked_for_are_handed_back() {
    let ip = IpAddr::from([127, 0, 0, 1]);
    let mut one = Node::start(1, ip, &[(ip, 1)], true);
    one.discovery.expire(references()[0].key);
    assert!(one.discovery.ask(references(), ROUND_TRIP).is_some());
    let event = timeout(LONG, one.events.recv()).await.unwrap();
    assert_eq!(event, Some(Event::NotAsked(references())));
    let mut alone = Node::start(2, ip, &[], true);
    assert!(alone.discovery.ask(references(), ROUND_TRIP).is_some());
    let event = timeout(LONG, alone.events.recv()).await.unwrap();
    assert_eq!(event, Some(Event::NotAsked(references())), "there is nobody to ask");
}

#[tokio::test]
async fn listening_to_any_address_takes_both_families_at_one_port() {
    let any: SocketAddr = "[::]:0".parse().unwrap();
    let ways = Ways { broadcast: true, multicast: true };
    let mut sockets = Sockets::bind(any, ways).unwrap();
    for ip in ["127.0.0.1", "::1"] {
        let ip: IpAddr = ip.parse().unwrap();
        let to = Destination::Address(SocketAddr::from((ip, sockets.port())));
        if ip.is_ipv6() && !sockets.speaks_to(to) {
            continue;
        }
        sockets.send(to, b"hello").await.unwrap();
        let mut buffer = [0; 9];
        let (from, len) = timeout(LONG, sockets.receive(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((from, &buffer[..len]), (SocketAddr::from((ip, sockets.port())), &b"hello"[..]));
    }
    assert!(matches!(
        Sockets::bind(SocketAddr::from(([127, 0, 0, 1], sockets.port())), ways),
        Err(DiscoveryError::Bind { .. })
    ));
}

struct Node {
    discovery: Discovery,
    events: mpsc::Receiver<Event>,
    metrics: Metrics,
    drain: Drain,
}

/// Has one of the blocks, and that is still on its way.
struct OneBlock(u8);

impl Holdings for OneBlock {
    fn find(&self, key: KeyId, tags: Vec<Tag>) -> Finding<'_> {
        let held = references()[1];
        let find = move |wanted: &Tag| (*wanted == tag(&held) && key == held.key).then_some(held);
        let found = tags.iter().map(find).map(|found| found.map(|reference| Found { reference, soon: true }));
        Box::pin(std::future::ready(found.collect()))
    }

    fn load(&self) -> u8 {
        self.0
    }
}

impl Node {
    fn start(number: u8, ip: IpAddr, peers: &[(IpAddr, u16)], share: bool) -> Self {
        let (drain, metrics) = (Drain::new(), Metrics::new());
        let settings = DiscoverySettings {
            id: id(number),
            share,
            listen: SocketAddr::from((ip, 0)),
            transfer_port: Some(8_000 + u16::from(number)),
            interfaces: vec!["there is none of this name".to_owned()],
            broadcast: true,
            multicast: true,
            static_peers: peers.iter().map(|peer| SocketAddr::from(*peer)).collect(),
        };
        let holdings = Arc::new(OneBlock(number));
        let (discovery, events) =
            Discovery::start(settings, holdings, metrics.clone(), &drain).expect("loopback has free ports");
        discovery.set_time(references()[0].key, 1_700_000_000_000);
        Self { discovery, events, metrics, drain }
    }

    /// Asks again and again: the other node may still be starting.
    async fn ask_until_answered(&mut self) -> Answer {
        let asking = async {
            loop {
                let _ = self.discovery.ask(references(), ROUND_TRIP);
                if let Ok(event) = timeout(Duration::from_millis(100), self.events.recv()).await {
                    match event.expect("the task runs") {
                        Event::Answer(answer) => return answer,
                        Event::NotAsked(_) => {}
                    }
                }
            }
        };
        timeout(LONG, asking).await.expect("a peer answers")
    }

    fn count(&self, name: &str) -> u64 {
        let text = TextEncoder::new().encode_to_string(&self.metrics.registry().gather()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    async fn until(&self, name: &str, count: u64) {
        let counting = async {
            while self.count(name) < count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, counting).await.unwrap_or_else(|_| panic!("{name} is {}", self.count(name)));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.drain.stopping().cancel();
    }
}

fn id(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn references() -> Vec<Reference> {
    let secret = ServerSecret::new([7; 32]);
    (0..3).map(|number| *secret.mint(Bytes::from(format!("block {number}"))).reference()).collect()
}
