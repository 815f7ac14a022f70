//! A flow's four halves against each other with a virtual clock: what one leg gives, the other leg gets, byte for
//! byte, whatever the cuts, the order of events, the losses of the store and the lack of memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::IntGauge;
use proptest::prelude::*;
use wanigan::addr::NodeId;
use wanigan::block::{Block, Digest, Hashed, Naming, Reference, ServerSecret};
use wanigan::budget::Budget;
use wanigan::flow::minter::Minter;
use wanigan::flow::receiving::{Output, Receiving, Wanted, Written};
use wanigan::flow::sending::Sending;
use wanigan::flow::terms::{Entitlement, Terms};
use wanigan::flow::window::{CREDIT_BASE, Window};
use wanigan::matching::compress::{Packer, Unpacker};
use wanigan::matching::matcher::{Loaded, Matcher};
use wanigan::matching::uploads::{Known, KnownOnLink};
use wanigan::matching::{ContentMap, MapHandle};
use wanigan::metrics::Source;
use wanigan::referral::{Holders, Neighbours};
use wanigan::shim::Shim;
use wanigan::shim::detecting::Detecting;
use wanigan::wan::FetchAnswer;
use wanigan_parsers::Direction;
use wanigan_parsers::wan::Frame;

use crate::capture::connections;

/// One node of the flow.
struct Node {
    shim: Detecting,
    sends: Direction,
    sending: Sending,
    packer: Packer,
    unpacker: Unpacker,
    receiving: Receiving,
    budget: Budget,
    /// Frames on their way to this node, and reports of the other node's receiver.
    frames: VecDeque<Vec<u8>>,
    reports: VecDeque<(u64, u64, u64)>,
    look_ups: VecDeque<Wanted>,
    fetches: VecDeque<Vec<Wanted>>,
    writing: VecDeque<u8>,
    delivered: Vec<u8>,
    finished: bool,
    references: usize,
}

/// What outlives a flow.
struct Site {
    holders: Arc<Holders>,
    naming: Arc<RwLock<Naming>>,
    /// What the edge may refer to, and the link that it is on.
    known: Arc<Known>,
    link: u64,
    /// The edge's store and the core's.
    stores: [HashMap<Reference, Block>; 2],
    /// What each has to compare with, and where.
    kept: [HashMap<Digest, Hashed>; 2],
    maps: [MapHandle; 2],
}

impl Site {
    /// Loads what a node wants to compare with what it read. Blocks may be gone.
    fn load(&self, node: &mut Node, faults: bool, dice: &mut Dice) {
        while let Some((digest, _)) = node.sending.poll_load() {
            let kept = &self.kept[usize::from(node.sends == Direction::ToClient)];
            let block = kept.get(&digest).cloned().filter(|_| !faults || dice.below(10) > 0);
            let missing = if dice.below(2) > 0 { Loaded::Gone } else { Loaded::NotNow };
            node.sending.handle_loaded(&digest, block.map_or(missing, Loaded::Block));
        }
    }

    /// Returns the store of the node that sends in this direction.
    fn store(&mut self, sends: Direction) -> &mut HashMap<Reference, Block> {
        &mut self.stores[usize::from(sends == Direction::ToClient)]
    }
}

impl Node {
    fn new(sends: Direction, site: &Site, memory: u64, now: Instant) -> Self {
        let budget = Budget::new(memory, IntGauge::new("used", "test").unwrap());
        let holder = site.holders.of(NodeId([1; 32]), &"lisbon".parse().unwrap()).unwrap();
        let (naming, numbers) = (Arc::clone(&site.naming), Arc::default());
        let known = KnownOnLink::new(Arc::clone(&site.known), site.link);
        let (minter, terms) = match sends {
            Direction::ToClient => {
                let neighbours = Neighbours::new(Arc::clone(&site.holders), Arc::clone(&holder), 0);
                let entitlement = Entitlement { naming: Arc::clone(&naming), holder };
                (Minter::Core { naming, neighbours, numbers }, Terms::OfEdge(entitlement))
            }
            Direction::ToServer => {
                let own = ServerSecret::new([9; 32]);
                (Minter::Edge { own, known: known.clone(), numbers }, Terms::OfRememberedCore(known))
            }
        };
        let window = Window::open(&budget).unwrap();
        let map = &site.maps[usize::from(sends == Direction::ToClient)];
        let matcher = Matcher::new(Arc::clone(map), b"server", &budget);
        let matcher = if sends == Direction::ToServer { matcher.of_uploads() } else { matcher };
        Self {
            shim: Detecting::new(),
            sends,
            sending: Sending::new(Some(minter), matcher, &budget, 1 << 20, CREDIT_BASE, now),
            receiving: Receiving::new(window, &budget, Arc::default()).keeping_literals().on(terms),
            packer: Packer::new(true, &budget),
            unpacker: Unpacker::new(&budget),
            budget,
            frames: VecDeque::new(),
            reports: VecDeque::new(),
            look_ups: VecDeque::new(),
            fetches: VecDeque::new(),
            writing: VecDeque::new(),
            delivered: Vec::new(),
            finished: false,
            references: 0,
        }
    }

    fn read(&mut self, bytes: &[u8], now: Instant) {
        let mut spans = Vec::new();
        self.shim.handle_input(self.sends, bytes, &mut spans);
        self.sending.handle_input(Bytes::copy_from_slice(bytes), &spans, now);
    }

    fn take_outputs(&mut self, other: &mut VecDeque<(u64, u64, u64)>, site: &mut Site) {
        while let Some(output) = self.receiving.poll_output() {
            match output {
                Output::LookUp(wanted) => self.look_ups.push_back(wanted),
                Output::Fetch(wanted) => self.fetches.push_back(wanted),
                Output::Store(block) => {
                    site.store(self.sends).insert(*block.reference(), block);
                }
                Output::Write(Written { bytes, .. }) => {
                    assert!(self.writing.is_empty(), "one write at a time");
                    let mut spans = Vec::new();
                    self.shim.handle_input(self.sends.reverse(), &bytes, &mut spans);
                    self.writing.extend(bytes);
                }
                Output::SealMissed => {}
                Output::Progress { resolved, blocks, credit } => {
                    other.push_back((resolved, blocks, self.unpacker.announce(credit)));
                }
                Output::Finish => self.finished = true,
                Output::Opened(_) | Output::Reset => unreachable!("nothing is dialled or reset here"),
            }
        }
    }
}

/// A conversation: what each side says, each part only after the other side got all before it.
type Conversation = Vec<(Direction, Vec<u8>)>;

/// Runs a conversation through an edge and a core. `dice` decides what happens next and how much of it; with `faults`
/// time passes between any two bytes and the stores lose blocks. Returns the references sent to the client's side.
fn run(conversation: &Conversation, site: &mut Site, memory: u64, faults: bool, dice: &mut Dice) -> usize {
    run_both(conversation, site, memory, faults, dice).1
}

/// Does so and returns the references sent to either side, the server's first.
fn run_both(
    conversation: &Conversation,
    site: &mut Site,
    memory: u64,
    faults: bool,
    dice: &mut Dice,
) -> (usize, usize) {
    let mut now = Instant::now();
    let mut edge = Node::new(Direction::ToServer, site, memory, now);
    let mut core = Node::new(Direction::ToClient, site, memory, now);
    // OPEN and OPENED: credit is given to begin with, what can be unpacked is told.
    let _ = core.packer.handle_credit(edge.unpacker.announce(CREDIT_BASE));
    let _ = edge.packer.handle_credit(core.unpacker.announce(CREDIT_BASE));
    let said = |direction| -> Vec<u8> {
        conversation.iter().filter(|(of, _)| *of == direction).flat_map(|(_, bytes)| bytes.clone()).collect()
    };
    let (to_server, to_client) = (said(Direction::ToServer), said(Direction::ToClient));
    let mut turns: VecDeque<(Direction, VecDeque<u8>)> =
        conversation.iter().map(|(direction, bytes)| (*direction, bytes.iter().copied().collect())).collect();
    let (mut spoken, mut ended) = ([0usize; 2], false);
    let mut idle = 0;
    while !(edge.sending.is_done()
        && core.sending.is_done()
        && edge.receiving.is_done()
        && core.receiving.is_done())
    {
        let before = progress(&edge, &core, &spoken);
        for _ in 0..8 {
            let event = dice.below(9);
            let amount_max = dice.amount_max;
            let amount_max = amount_max.unwrap_or([90_000, 40][dice.below(2)]);
            let amount = 1 + dice.below(amount_max);
            let (node, other) =
                if dice.below(2) == 0 { (&mut edge, &mut core) } else { (&mut core, &mut edge) };
            match event {
                // The leg speaks, if it is its turn and it has heard all that came before.
                0 => {
                    let heard = match node.sends {
                        Direction::ToServer => node.delivered.len() == spoken[1],
                        Direction::ToClient => node.delivered.len() == spoken[0],
                    };
                    if !node.sending.wants_input() {
                    } else if let Some((direction, rest)) = turns.front_mut() {
                        if *direction == node.sends && heard {
                            let bytes: Vec<u8> = rest.drain(..amount.min(rest.len())).collect();
                            spoken[usize::from(*direction == Direction::ToClient)] += bytes.len();
                            if rest.is_empty() {
                                turns.pop_front();
                            }
                            node.read(&bytes, now);
                        }
                    } else if !ended
                        && node.delivered.len()
                            == if node.sends == Direction::ToServer {
                                to_client.len()
                            } else {
                                to_server.len()
                            }
                    {
                        ended = true;
                        node.sending.handle_end();
                    } else if ended && node.finished {
                        node.sending.handle_end();
                    }
                }
                1 => {
                    site.load(node, faults, dice);
                    while let Some(frame) = node.sending.poll_frame() {
                        node.references += usize::from(matches!(frame, Frame::Ref { .. }));
                        let mut bytes = Vec::new();
                        node.packer.pack(frame).encode(&mut bytes);
                        other.frames.push_back(bytes);
                        while let Some(block) = node.sending.poll_kept() {
                            let kept = &mut site.kept[usize::from(node.sends == Direction::ToClient)];
                            kept.insert(block.reference().digest, block.into());
                        }
                    }
                }
                2 => {
                    if let Some(bytes) = node.frames.pop_front() {
                        let (frame, _) = Frame::decode(&bytes).unwrap().unwrap();
                        let frame = node.unpacker.unpack(frame.map(Bytes::copy_from_slice)).unwrap();
                        node.receiving.handle_frame(frame, now).unwrap();
                    }
                }
                3 => {
                    let part: Vec<u8> = node.writing.drain(..amount.min(node.writing.len())).collect();
                    if !part.is_empty() {
                        node.delivered.extend(&part);
                        node.receiving.handle_written(part.len(), now);
                    }
                }
                4 => {
                    if let Some((resolved, blocks, credit)) = node.reports.pop_front() {
                        let credit = node.packer.handle_credit(credit);
                        node.sending.handle_progress(resolved, blocks, credit);
                    }
                }
                5 => {
                    if let Some(Wanted { number, reference, .. }) = node.look_ups.pop_front() {
                        // The store may have lost any block at any time.
                        if faults && dice.below(10) == 0 {
                            site.store(node.sends).remove(&reference);
                        }
                        let block = site.store(node.sends).get(&reference).cloned();
                        node.receiving.handle_looked_up(number, block, now);
                    }
                }
                6 => {
                    for Wanted { number, reference, .. } in node.fetches.pop_front().unwrap_or_default() {
                        let FetchAnswer::Block(bytes) = other.sending.handle_fetch(number, false) else {
                            panic!("what was not acknowledged is retained");
                        };
                        let block = Block::verify(reference, bytes).unwrap();
                        site.store(node.sends).insert(reference, block.clone());
                        node.receiving.handle_fetched(number, Some((block, Source::Fetch)), now).unwrap();
                    }
                }
                7 if faults => now += Duration::from_micros(dice.below(20_000) as u64),
                8 => {
                    if node.sending.wants_input() {
                        node.sending.handle_wait(now);
                    }
                    node.sending.handle_timeout(now);
                    node.receiving.handle_timeout(now);
                }
                _ => {}
            }
            edge.take_outputs(&mut core.reports, site);
            core.take_outputs(&mut edge.reports, site);
        }
        idle = if progress(&edge, &core, &spoken) == before { idle + 1 } else { 0 };
        assert!(idle < 5_000, "the flow is stuck");
        if idle > 100 {
            now += Duration::from_secs(1);
        }
    }
    assert!(core.delivered == to_server, "the server got what the client said");
    assert!(edge.delivered == to_client, "the client got what the server said");
    assert!(edge.finished && core.finished);
    let references = (edge.references, core.references);
    for (node, name) in [(edge, "edge"), (core, "core")] {
        let budget = node.budget.clone();
        drop(node);
        assert_eq!(budget.free(), memory, "all memory of the {name} came back");
    }
    references
}

fn progress(edge: &Node, core: &Node, spoken: &[usize; 2]) -> [usize; 6] {
    let pending =
        |node: &Node| node.frames.len() + node.look_ups.len() + node.fetches.len() + node.reports.len();
    [edge.delivered.len(), core.delivered.len(), spoken[0], spoken[1], pending(edge), pending(core)]
}

/// Decisions from a seed, the same on every machine (xorshift64).
struct Dice {
    state: u64,
    /// The most bytes that a leg gives or takes at once; by turns many and few without it.
    amount_max: Option<usize>,
}

impl Dice {
    fn new(seed: u64) -> Self {
        Self { state: seed | 1, amount_max: None }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % limit as u64) as usize
    }
}

fn site() -> Site {
    let naming = Naming { current: ServerSecret::new([7; 32]), older: None };
    let known = Arc::new(Known::new(10_000));
    known.handle_key(naming.current.id());
    let (holders, naming) = (Arc::new(Holders::new(10_000, Vec::new())), Arc::new(RwLock::new(naming)));
    let map = || Arc::new(Mutex::new(ContentMap::new(10_000, 10_000)));
    let (stores, kept) = (Default::default(), Default::default());
    Site { holders, naming, known, link: 1, stores, kept, maps: [map(), map()] }
}

/// A client that uploads a file and then reads it back.
fn http_upload(file: &[u8]) -> Conversation {
    let length = file.len();
    let put = format!("PUT /f HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
    let made = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n".to_vec();
    let conversation = [(Direction::ToServer, [put.as_bytes(), file].concat()), (Direction::ToClient, made)];
    conversation.into_iter().chain(http_conversation(file, &[length])).collect()
}

/// Requests for one file by ranges of any size, on one connection.
fn http_conversation(file: &[u8], sizes: &[usize]) -> Conversation {
    let mut conversation = Vec::new();
    let mut at = 0;
    for size in sizes {
        let end = (at + size).min(file.len());
        if at == end {
            break;
        }
        let request = format!("GET /f HTTP/1.1\r\nHost: h\r\nRange: bytes={at}-{}\r\n\r\n", end - 1);
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {at}-{}/{}\r\n\r\n",
            end - at,
            end - 1,
            file.len()
        );
        conversation.push((Direction::ToServer, request.into_bytes()));
        conversation.push((Direction::ToClient, [head.as_bytes(), &file[at..end]].concat()));
        at = end;
    }
    conversation
}

fn file(len: usize, seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    (0..len).map(|_| dice.below(256) as u8).collect()
}

#[test]
fn a_second_read_crosses_as_references() {
    let file = file(500_000, 5);
    let mut site = site();
    let cold = run(&http_conversation(&file, &[500_000]), &mut site, 64 << 20, false, &mut Dice::new(1));
    let warm = run(&http_conversation(&file, &[500_000]), &mut site, 64 << 20, false, &mut Dice::new(2));
    assert_eq!(cold, 0);
    assert_eq!(warm, 500_000_usize.div_ceil(65_536));
}

#[test]
fn a_second_upload_crosses_as_references_too_and_on_a_new_link_what_came_back_does() {
    let file = file(600_000, 6);
    let blocks = 600_000_usize.div_ceil(65_536);
    let mut site = site();
    let run =
        |site: &mut Site, seed| run_both(&http_upload(&file), site, 64 << 20, false, &mut Dice::new(seed));
    let (cold, back) = run(&mut site, 1);
    // The core knows that the edge has it; the edge's store is another's business.
    assert_eq!((cold, back), (0, blocks));
    assert_eq!(run(&mut site, 2), (blocks, blocks));
    site.link += 1;
    // The core named all of it on the way back.
    assert_eq!(run(&mut site, 3), (blocks, blocks));
}

/// The connections of the recorded cases, as conversations.
fn recorded() -> Vec<Conversation> {
    let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pcaps");
    let mut files: Vec<_> =
        std::fs::read_dir(cases).unwrap().map(|case| case.unwrap().path().join("input.pcap")).collect();
    files.sort();
    let connections = files.iter().flat_map(|file| connections(&std::fs::read(file).unwrap()));
    connections.map(|connection| connection.runs).collect()
}

#[test]
fn recorded_flows_pass_a_byte_at_a_time() {
    let shortest =
        recorded().into_iter().min_by_key(|turns| turns.iter().map(|turn| turn.1.len()).sum::<usize>());
    let mut site = site();
    for seed in [3, 4] {
        let mut dice = Dice { amount_max: Some(1), ..Dice::new(seed) };
        run(shortest.as_ref().unwrap(), &mut site, 1 << 20, false, &mut dice);
    }
}

#[test]
fn recorded_reads_cross_as_references_the_second_time() {
    for conversation in recorded() {
        let mut site = site();
        let cold = run(&conversation, &mut site, 64 << 20, false, &mut Dice::new(1));
        let warm = run(&conversation, &mut site, 64 << 20, false, &mut Dice::new(2));
        let encrypted = conversation.iter().any(|(_, bytes)| bytes.get(4..8) == Some(b"\xfdSMB"));
        assert_eq!(warm > cold, !encrypted, "{cold} references, then {warm}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn recorded_flows_come_out_as_they_went_in(
        which in 0usize..16,
        seed in 1u64..u64::MAX,
        memory_kib in 300u64..3_000,
        amount in proptest::option::of(1usize..2_000),
    ) {
        let conversations = recorded();
        let conversation = &conversations[which % conversations.len()];
        let mut site = site();
        let mut dice = Dice { amount_max: amount, ..Dice::new(seed) };
        for _ in 0..2 {
            run(conversation, &mut site, memory_kib << 10, true, &mut dice);
        }
    }

    #[test]
    fn each_leg_gets_what_the_other_gave(
        seed in 1u64..u64::MAX,
        len in 1usize..500_000,
        sizes in proptest::collection::vec(1usize..200_000, 1..6),
        memory_kib in 300u64..3_000,
    ) {
        let file = file(len, seed);
        let conversation = [http_upload(&file), http_conversation(&file, &sizes)].concat();
        let mut site = site();
        let mut dice = Dice::new(seed);
        for _ in 0..3 {
            run(&conversation, &mut site, memory_kib << 10, true, &mut dice);
        }
    }

    #[test]
    fn bytes_of_no_protocol_pass_too(
        seed in 1u64..u64::MAX,
        turns in proptest::collection::vec((any::<bool>(), 1usize..150_000), 1..6),
    ) {
        let conversation = turns
            .iter()
            .map(|(up, len)| (if *up { Direction::ToServer } else { Direction::ToClient }, file(*len, seed)))
            .collect();
        run(&conversation, &mut site(), 1 << 20, true, &mut Dice::new(seed));
    }
}
