//! Two nodes on loopback, and peers that do what they should not.

use std::collections::HashSet;

use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;
use wanigan_parsers::peer::{Frame, FrameReader};

use super::channel::{Channel, ChannelError};
use super::serving::REQUESTS_MAX;
use super::*;
use crate::block::{ServerSecret, tag};
use crate::pki::{Authority, DomainClock, NodeIdentity, Roles};
use crate::proof;

const NO_WAIT: Duration = Duration::ZERO;

/// Enough for a busy machine, where it is not the patience that is tested.
const PATIENT: Patience = Patience {
    dial: Duration::from_secs(10),
    handshake: Duration::from_secs(10),
    silence: Duration::from_secs(5),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_come_over_one_connection_verified_and_counted_on_both_sides() {
    let net = Net::new();
    let (has, asks) = (net.serve("b", 0..20, None).await, net.peers("a"));
    for fill in 0..20 {
        let wanted = block(fill);
        let got = has.ask(&asks.peers, &wanted, NO_WAIT).await.unwrap();
        assert_eq!((got.reference(), got.bytes()), (wanted.reference(), wanted.bytes()));
    }
    assert_eq!(has.ask(&asks.peers, &block(99), NO_WAIT).await.unwrap_err(), GetError::Gone);
    let report = &asks.peers.report()[0];
    assert_eq!((report.id, report.blocks_received, report.bytes_received), (has.id, 20, 20 * 65_536));
    assert_eq!(report.name.as_ref().unwrap().as_str(), "b");
    assert!(report.connected && report.latency.is_some() && report.shunned_for.is_none());
    let report = &has.peers.report()[0];
    assert_eq!((report.id, report.blocks_served, report.bytes_served), (asks.id, 20, 20 * 65_536));
    assert_eq!(has.count("wanigan_peer_connections", ""), 1);
    assert_eq!(has.count("wanigan_peer_refusals_total", "unknown_tag"), 1);
    assert_eq!(asks.count("wanigan_peer_gets_total", "block"), 20);
    assert_eq!(asks.count("wanigan_peer_gets_total", "gone"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_requests_at_once_share_a_few_connections() {
    let net = Net::new();
    let (has, asks) = (net.serve("b", 0..50, None).await, net.peers("a"));
    let asked = (0..400_u16).map(|number| {
        let (peers, has_id, address) = (asks.peers.clone(), has.id, has.address);
        tokio::spawn(async move {
            let wanted = block(number % 50);
            peers
                .get(has_id, address, wanted.reference(), NO_WAIT)
                .await
                .map(|got| got.bytes() == wanted.bytes())
        })
    });
    let asked: Vec<_> = asked.collect();
    let mut busy = 0;
    for asked in asked {
        match asked.await.unwrap() {
            Ok(right) => assert!(right),
            // The first connection takes so many while the others are being made.
            Err(error) => {
                assert_eq!(error, GetError::Busy);
                busy += 1;
            }
        }
    }
    assert!(busy <= 400 - REQUESTS_MAX, "{busy} of 400 were too many");
    assert!((1..=4).contains(&has.count("wanigan_peer_connections", "")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_address_families_reach_a_socket_that_is_bound_to_any() {
    let net = Net::new();
    let has = net.serve_at("b", "[::]:0".parse().unwrap(), 0..1, None).await;
    for host in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(host.parse().unwrap(), has.address.port());
        let asks = net.peers(&format!("a{}", address.is_ipv4()));
        assert!(asks.peers.get(has.id, address, block(0).reference(), NO_WAIT).await.is_ok());
    }
}

#[tokio::test]
async fn who_has_no_proof_for_this_very_connection_gets_the_same_nothing_as_who_asks_for_nothing() {
    let net = Net::new();
    let has = net.serve("b", 0..1, None).await;
    let (wanted, unknown) = (block(0), block(9));
    let hash = BlockHash::of(wanted.reference());
    let (mut one, mut two) = (net.raw("a", &has).await, net.raw("c", &has).await);
    let replayed = one.proof(&wanted);
    one.get(1, &wanted, NO_WAIT, replayed).await;
    assert!(matches!(one.next().await, Frame::Block { request: 1, bytes } if bytes == *wanted.bytes()));
    // Seen on the wire, relayed, or sent again on another connection, it is worth nothing there.
    two.get(1, &wanted, NO_WAIT, replayed).await;
    // Possession of the tag alone.
    two.get(2, &wanted, NO_WAIT, tag(wanted.reference()).0).await;
    // A proof of another kind under the right hash.
    let ask = proof::Ask { nonce: [0; 16], time_ms: 0, requester: has.id };
    two.get(3, &wanted, NO_WAIT, proof::ask(&hash, &tag(wanted.reference()), &ask)).await;
    // A proof for another block.
    let other = two.proof(&unknown);
    two.get(4, &wanted, NO_WAIT, other).await;
    two.get(5, &unknown, NO_WAIT, other).await;
    for request in 1..=5 {
        assert_eq!(two.next().await, Frame::Gone { request });
    }
    assert_eq!(has.count("wanigan_peer_refusals_total", "wrong_proof"), 4);
    assert_eq!(has.count("wanigan_peer_refusals_total", "unknown_tag"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_arrives_while_it_is_waited_for_is_sent_at_once() {
    let net = Net::new();
    let patience = Patience { silence: Duration::from_secs(1), ..PATIENT };
    let (has, asks) = (net.serve("b", 0..0, None).await, net.peers_with("a", Roles::EDGE, patience));
    let wanted = block(3);
    let (peers, id, address, reference) = (asks.peers.clone(), has.id, has.address, *wanted.reference());
    let asked =
        tokio::spawn(async move { peers.get(id, address, &reference, Duration::from_secs(15)).await });
    has.until_waiting(1).await;
    // Longer than the silence after which a peer would be given up.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!asked.is_finished());
    let arrived = Instant::now();
    has.waiting.handle_block(&block(4));
    has.waiting.handle_block(&wanted);
    assert_eq!(asked.await.unwrap().unwrap().bytes(), wanted.bytes());
    assert!(arrived.elapsed() < Duration::from_secs(1));
    assert!(has.waiting.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_when_it_is_over_and_when_nobody_wants_the_block_any_longer() {
    let net = Net::new();
    let (has, asks) = (net.serve("b", 0..0, None).await, net.peers("a"));
    let began = Instant::now();
    let got = has.ask(&asks.peers, &block(1), Duration::from_millis(700)).await;
    assert_eq!(got.unwrap_err(), GetError::Gone);
    assert!((700..2_000).contains(&began.elapsed().as_millis()));
    assert!(has.waiting.is_empty());
    let wanted = block(1);
    let asking = has.ask(&asks.peers, &wanted, Duration::from_secs(15));
    assert!(timeout(Duration::from_millis(100), asking).await.is_err());
    has.until_waiting(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_dies_in_the_middle_of_a_block_is_lost_at_once() {
    let net = Net::new();
    let (asks, fake) = (net.peers("a"), net.fake("b", Fake::DiesHalfway).await);
    let began = Instant::now();
    let got = asks.peers.get(fake.id, fake.address, block(0).reference(), NO_WAIT).await;
    assert_eq!(got.unwrap_err(), GetError::Lost);
    assert!(began.elapsed() < PATIENT.silence / 2, "{:?}", began.elapsed());
    assert_eq!(asks.peers.report()[0].lost, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_falls_silent_in_the_middle_of_a_block_is_lost_after_half_a_second() {
    let net = Net::new();
    let patience = Patience { silence: Duration::from_millis(500), ..PATIENT };
    let (asks, fake) = (net.peers_with("a", Roles::EDGE, patience), net.fake("b", Fake::HangsHalfway).await);
    let began = Instant::now();
    let (one, two) = (block(0), block(1));
    let one = asks.peers.get(fake.id, fake.address, one.reference(), NO_WAIT);
    let two = asks.peers.get(fake.id, fake.address, two.reference(), Duration::from_secs(10));
    let (one, two) = tokio::join!(one, two);
    assert_eq!((one.unwrap_err(), two.unwrap_err()), (GetError::Lost, GetError::Lost));
    assert!((500..1_500).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_lies_is_shunned_with_all_its_connections_and_counted() {
    let net = Net::new();
    let asks = net.peers("a");
    let liar = net.serve_with("b", any(), Arc::new(Liar), None).await;
    assert_eq!(liar.ask(&asks.peers, &block(0), NO_WAIT).await.unwrap_err(), GetError::Wrong);
    assert!(asks.peers.is_shunned(liar.id));
    let report = &asks.peers.report()[0];
    assert_eq!((report.wrong, report.blocks_received), (1, 0));
    assert!(report.shunned_for.unwrap() > Duration::from_secs(590));
    assert_eq!(asks.count("wanigan_peers_shunned", ""), 1);
    assert_eq!(asks.count("wanigan_wrong_blocks_total", ""), 1);
    assert_eq!(liar.ask(&asks.peers, &block(1), NO_WAIT).await.unwrap_err(), GetError::Refused);
    // Nothing is left of the connection on either side.
    until(|| liar.count("wanigan_peer_connections", "") == 0 && !asks.peers.report()[0].connected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_not_to_blame_for_a_reference_with_a_wrong_length() {
    let net = Net::new();
    let (has, asks) = (net.serve("b", 0..1, None).await, net.peers("a"));
    let right = *block(0).reference();
    for len in [right.len - 1, right.len + 1] {
        let wrong = Reference { len, ..right };
        assert_eq!(asks.peers.get(has.id, has.address, &wrong, NO_WAIT).await.unwrap_err(), GetError::Gone);
    }
    assert!(!asks.peers.is_shunned(has.id));
    assert!(has.ask(&asks.peers, &block(0), NO_WAIT).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_other_nodes_than_the_expected_are_refused() {
    let (ours, theirs) = (Net::new(), Net::new());
    let has = ours.serve("b", 0..1, None).await;
    // The stranger does not accept the peer.
    let stranger = theirs.peers("a");
    assert_eq!(has.ask(&stranger.peers, &block(0), NO_WAIT).await.unwrap_err(), GetError::Refused);
    // One that accepts it is refused by it: a core's certificate of the same authority, for one.
    let core = ours.peers_with("hq", Roles::CORE, PATIENT);
    assert_eq!(has.ask(&core.peers, &block(0), NO_WAIT).await.unwrap_err(), GetError::Refused);
    until(|| has.count("wanigan_peer_refusals_total", "not_an_edge") >= 1).await;
    until(|| has.count("wanigan_peer_refusals_total", "handshake") >= 1).await;
    // It is not asked again for a while, once the end of the connection was noted.
    for _ in 0..20 {
        assert_eq!(has.ask(&core.peers, &block(0), NO_WAIT).await.unwrap_err(), GetError::Refused);
    }
    let refusals = has.count("wanigan_peer_refusals_total", "not_an_edge");
    assert!(refusals <= 3, "{refusals} connections for 21 requests");
    // Another node than the one that answered the ask.
    let asks = ours.peers("a");
    let got = asks.peers.get(asks.id, has.address, block(0).reference(), NO_WAIT).await;
    assert_eq!(got.unwrap_err(), GetError::Refused);
    assert_eq!(has.count("wanigan_peer_served_bytes_total", ""), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_cannot_be_reached_is_lost_and_is_not_tried_again_at_once() {
    let net = Net::new();
    let asks = net.peers_with("a", Roles::EDGE, Patience::default());
    // Bound, so that no other test is given the port, and not listening.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(any()).unwrap();
    let closed = socket.local_addr().unwrap();
    let wanted = block(0);
    let ask = || asks.peers.get(asks.id, closed, wanted.reference(), NO_WAIT);
    let began = Instant::now();
    assert_eq!(ask().await.unwrap_err(), GetError::Lost);
    // Somebody listens by now, but that is not looked at for a second.
    let listener = socket.listen(8).unwrap();
    assert_eq!(ask().await.unwrap_err(), GetError::Lost);
    let is_accepted = timeout(Duration::from_millis(50), listener.accept()).await.is_ok();
    // On a busy machine the second may be over.
    assert!(!is_accepted || began.elapsed() > Duration::from_secs(1));
    // It accepts, and does not shake hands.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    assert_eq!(ask().await.unwrap_err(), GetError::Lost);
    assert!((400..5_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_connection_has_so_many_requests_and_a_cancelled_one_makes_room() {
    let net = Net::new();
    let has = net.serve("b", 0..0, None).await;
    let mut raw = net.raw("a", &has).await;
    let (max, wait) = (u32::try_from(REQUESTS_MAX).unwrap(), Duration::from_secs(15));
    let (wanted, proof) = (block(0), raw.proof(&block(0)));
    for request in 0..=max {
        raw.get(request, &wanted, wait, proof).await;
    }
    assert_eq!(raw.next_but_waiting().await, Frame::Busy { request: max });
    assert_eq!(has.waiting.len(), REQUESTS_MAX);
    raw.send(&Frame::Cancel { request: 5 }).await;
    raw.get(max, &wanted, wait, proof).await;
    raw.get(max + 1, &wanted, wait, proof).await;
    assert_eq!(raw.next_but_waiting().await, Frame::Busy { request: max + 1 });
    has.waiting.handle_block(&wanted);
    let mut given = HashSet::new();
    // The store does not have it: what did not fit when the block came is asked for again, and waits on.
    while given.len() < 8 {
        let Frame::Block { request, .. } = raw.next_but_waiting().await else { panic!("no block") };
        assert!(request != 5 && given.insert(request));
    }
    drop(raw);
    has.until_waiting(0).await;
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_disconnected() {
    let net = Net::new();
    let has = net.serve("b", 0..1, None).await;
    for (count, frame) in [Frame::Waiting, Frame::Block { request: 1, bytes: vec![1] }].iter().enumerate() {
        let mut raw = net.raw(&format!("a{count}"), &has).await;
        raw.send(frame).await;
        assert!(raw.ends().await);
        until(|| has.count("wanigan_peer_refusals_total", "malformed") == count as u64 + 1).await;
    }
    let mut raw = net.raw("c", &has).await;
    raw.channel.send(&[0x01, 0xff, 0xff, 0xff, 0xff], &[]).unwrap();
    raw.channel.flush().unwrap();
    assert!(raw.ends().await);
    until(|| has.count("wanigan_peer_refusals_total", "malformed") == 3).await;
}

#[tokio::test]
async fn no_more_connections_are_served_than_are_set() {
    let net = Net::new();
    let has = net.serve_limited("b", 2).await;
    let (mut one, _two) = (net.raw("a", &has).await, net.raw("c", &has).await);
    let mut three = net.raw("d", &has).await;
    assert!(three.ends().await);
    until(|| has.count("wanigan_peer_refusals_total", "busy") == 1).await;
    let proof = one.proof(&block(0));
    one.get(1, &block(0), NO_WAIT, proof).await;
    assert!(matches!(one.next().await, Frame::Block { .. }));
}

#[tokio::test]
async fn a_stranger_that_keeps_silent_does_not_keep_peers_out() {
    let net = Net::new();
    let has = net.serve_limited("b", 1).await;
    let mut silent = Vec::new();
    for _ in 0..7 {
        silent.push(TcpStream::connect(has.address).await.unwrap());
    }
    let mut raw = net.raw("a", &has).await;
    let proof = raw.proof(&block(0));
    raw.get(1, &block(0), NO_WAIT, proof).await;
    assert!(matches!(raw.next().await, Frame::Block { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_of_all_peers_together_holds() {
    let net = Net::new();
    let has = net.serve("b", 0..24, Some(2_000_000)).await;
    let began = Instant::now();
    // 24 blocks of 64 KiB are 0.8 s at this rate.
    let pull = async |name: &str, blocks: std::ops::Range<u16>| {
        let asks = net.peers(name);
        for fill in blocks {
            has.ask(&asks.peers, &block(fill), NO_WAIT).await.unwrap();
        }
    };
    tokio::join!(pull("a", 0..12), pull("c", 12..24));
    let took = began.elapsed().as_millis();
    assert!((400..1_600).contains(&took), "{took} ms");
}

/// An authority and the nodes it makes.
struct Net(TempDir);

impl Net {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Authority::at(dir.path()).init().unwrap();
        Self(dir)
    }

    fn identity(&self, name: &str, roles: Roles) -> NodeIdentity {
        let issued = Authority::at(self.0.path())
            .issue(&name.parse().unwrap(), &"lisbon".parse().unwrap(), roles)
            .unwrap();
        NodeIdentity::load(&self.0.path().join("ca.pem"), &issued.certificate, &issued.key).unwrap()
    }

    fn peers(&self, name: &str) -> Asks {
        self.peers_with(name, Roles::EDGE, PATIENT)
    }

    fn peers_with(&self, name: &str, roles: Roles, patience: Patience) -> Asks {
        let identity = self.identity(name, roles);
        let metrics = Metrics::new();
        let (peers, drain) = peers(&identity, &metrics, patience);
        Asks { id: identity.identity().id, peers, metrics, drain }
    }

    async fn serve(&self, name: &str, blocks: std::ops::Range<u16>, rate: Option<u64>) -> Has {
        self.serve_at(name, any(), blocks, rate).await
    }

    async fn serve_at(
        &self,
        name: &str,
        listen: SocketAddr,
        blocks: std::ops::Range<u16>,
        rate: Option<u64>,
    ) -> Has {
        let held = blocks.map(block).map(|block| ((block.reference().key, tag(block.reference())), block));
        self.serve_with(name, listen, Arc::new(Held(held.collect())), rate).await
    }

    async fn serve_limited(&self, name: &str, connections: usize) -> Has {
        let held = [((block(0).reference().key, tag(block(0).reference())), block(0))];
        self.start(name, any(), Arc::new(Held(HashMap::from(held))), None, connections).await
    }

    async fn serve_with(
        &self,
        name: &str,
        listen: SocketAddr,
        blocks: Arc<dyn Blocks>,
        rate: Option<u64>,
    ) -> Has {
        self.start(name, listen, blocks, rate, 16).await
    }

    async fn start(
        &self,
        name: &str,
        listen: SocketAddr,
        blocks: Arc<dyn Blocks>,
        rate: Option<u64>,
        connections: usize,
    ) -> Has {
        let identity = self.identity(name, Roles::EDGE);
        let (metrics, waiting) = (Metrics::new(), Waiting::new());
        let (peers, drain) = peers(&identity, &metrics, PATIENT);
        let serving = Serving::bind(listen).unwrap();
        let address = serving.local_addr().unwrap();
        let settings = ServingSettings {
            tls: identity.peer_server_tls(system()),
            connections,
            rate,
            blocks,
            waiting: waiting.clone(),
        };
        drain.spawn("serving", serving.run(settings, peers.clone(), drain.clone()));
        Has { id: identity.identity().id, address, peers, waiting, metrics, _drain: drain }
    }

    /// A peer with a valid certificate and bad manners.
    async fn fake(&self, name: &str, fake: Fake) -> FakeHas {
        let identity = self.identity(name, Roles::EDGE);
        let listener = TcpListener::bind(any()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(misbehave(listener, identity.peer_server_tls(system()), fake));
        FakeHas { id: identity.identity().id, address }
    }

    /// A connection that is spoken on by hand.
    async fn raw(&self, name: &str, has: &Has) -> Raw {
        let tls = self.identity(name, Roles::EDGE).peer_client_tls(system()).dialling(has.id);
        let tcp = TcpStream::connect(has.address).await.unwrap();
        Raw {
            channel: Channel::connect(tcp, tls).await.unwrap(),
            reader: FrameReader::default(),
            got: vec![],
        }
    }
}

struct Asks {
    id: NodeId,
    peers: Peers,
    metrics: Metrics,
    drain: Drain,
}

impl Asks {
    fn count(&self, name: &str, label: &str) -> u64 {
        count(&self.metrics, name, label)
    }
}

impl Drop for Asks {
    fn drop(&mut self) {
        self.drain.stopping().cancel();
    }
}

struct Has {
    id: NodeId,
    address: SocketAddr,
    peers: Peers,
    waiting: Waiting,
    metrics: Metrics,
    _drain: Drain,
}

impl Has {
    async fn ask(&self, peers: &Peers, block: &Block, wait: Duration) -> Result<Block, GetError> {
        peers.get(self.id, self.address, block.reference(), wait).await
    }

    fn count(&self, name: &str, label: &str) -> u64 {
        count(&self.metrics, name, label)
    }

    async fn until_waiting(&self, count: usize) {
        until(|| self.waiting.len() == count).await;
    }
}

#[derive(Clone, Copy)]
enum Fake {
    DiesHalfway,
    HangsHalfway,
}

struct FakeHas {
    id: NodeId,
    address: SocketAddr,
}

async fn misbehave(listener: TcpListener, tls: Arc<ServerConfig>, fake: Fake) {
    let (tcp, _) = listener.accept().await.unwrap();
    let mut raw = Raw {
        channel: Channel::accept(tcp, tls).await.unwrap(),
        reader: FrameReader::default(),
        got: vec![],
    };
    let Frame::Get { request, .. } = raw.next().await else { panic!("no request") };
    let mut head = Vec::new();
    Frame::Block { request, bytes: block(0).bytes() }.encode_head(&mut head);
    raw.channel.send(&head, &block(0).bytes()[..30_000]).unwrap();
    raw.channel.flush().unwrap();
    match fake {
        Fake::DiesHalfway => {}
        Fake::HangsHalfway => std::future::pending().await,
    }
}

struct Raw {
    channel: Channel,
    reader: FrameReader,
    got: Vec<Frame<Vec<u8>>>,
}

impl Raw {
    fn proof(&self, block: &Block) -> proof::Proof {
        let reference = block.reference();
        proof::get(&BlockHash::of(reference), &tag(reference), &self.channel.exporter().unwrap())
    }

    async fn get(&mut self, request: u32, block: &Block, wait: Duration, proof: proof::Proof) {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap();
        let (key, tag) = (block.reference().key, tag(block.reference()));
        self.send(&Frame::Get { request, wait_ms, key, tag, proof }).await;
    }

    async fn send(&mut self, frame: &Frame<Vec<u8>>) {
        let mut head = Vec::new();
        frame.encode_head(&mut head);
        let bytes = if let Frame::Block { bytes, .. } = frame { &bytes[..] } else { &[] };
        self.channel.send(&head, bytes).unwrap();
        while !self.channel.is_flushed() {
            self.channel.ready(false).await.unwrap();
            self.channel.flush().unwrap();
        }
    }

    async fn next(&mut self) -> Frame<Vec<u8>> {
        self.try_next().await.expect("the connection stands")
    }

    async fn next_but_waiting(&mut self) -> Frame<Vec<u8>> {
        loop {
            match self.next().await {
                Frame::Waiting => {}
                frame => return frame,
            }
        }
    }

    async fn try_next(&mut self) -> Result<Frame<Vec<u8>>, ChannelError> {
        while self.got.is_empty() {
            timeout(Duration::from_secs(5), self.channel.ready(true)).await.expect("something comes")?;
            let (reader, got) = (&mut self.reader, &mut self.got);
            self.channel.receive::<ChannelError>(1, |mut bytes| {
                while let Some(frame) = reader.read(&mut bytes).expect("our frames are valid") {
                    got.push(frame);
                }
                Ok(())
            })?;
        }
        Ok(self.got.remove(0))
    }

    /// Returns whether the other side ends the connection.
    async fn ends(&mut self) -> bool {
        self.try_next().await.is_err()
    }
}

struct Held(HashMap<(KeyId, Tag), Block>);

impl Blocks for Held {
    fn find(&self, key: KeyId, tag: Tag) -> Lookup<'_, Reference> {
        Box::pin(async move { self.0.get(&(key, tag)).map(|block| *block.reference()) })
    }

    fn block(&self, reference: Reference) -> Lookup<'_, Block> {
        Box::pin(async move { self.0.get(&(reference.key, tag(&reference))).cloned() })
    }
}

/// Has the right hashes and the wrong bytes.
struct Liar;

impl Blocks for Liar {
    fn find(&self, _key: KeyId, wanted: Tag) -> Lookup<'_, Reference> {
        Box::pin(async move {
            (0..10).map(|fill| *block(fill).reference()).find(|reference| tag(reference) == wanted)
        })
    }

    fn block(&self, reference: Reference) -> Lookup<'_, Block> {
        let mut bytes = vec![0; reference.len as usize];
        bytes[0] = 0xff;
        Box::pin(async move { Some(Block::from_seal(reference, bytes.into())) })
    }
}

/// Waits for what is to become true soon.
async fn until(condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), reached).await.expect("it becomes true");
}

fn peers(identity: &NodeIdentity, metrics: &Metrics, patience: Patience) -> (Peers, Drain) {
    let drain = Drain::new();
    let settings = PeersSettings {
        site: identity.identity().site.clone(),
        tls: identity.peer_client_tls(system()),
        dial: marked_dial(),
        connections_a_peer: 4,
        patience,
        metrics: metrics.clone(),
    };
    (Peers::new(settings, drain.clone()), drain)
}

fn system() -> DomainClock {
    Arc::new(|| None)
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn block(number: u16) -> Block {
    let bytes: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(65_536).collect();
    ServerSecret::new([7; 32]).mint(bytes.into())
}

/// Returns a metric, the one with this label if there is one.
fn count(metrics: &Metrics, name: &str, label: &str) -> u64 {
    let families = metrics.registry().gather();
    let family = families.iter().find(|family| family.name() == name).expect("the metric is registered");
    let metric = family
        .get_metric()
        .iter()
        .find(|metric| label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label))
        .expect("the label is exported");
    let value = if metric.get_counter().get_value() > 0.0 {
        metric.get_counter().get_value()
    } else {
        metric.get_gauge().get_value()
    };
    value as u64
}
