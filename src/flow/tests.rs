//! Several flows over one link: the two halves of each, with the link's numbers between them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::IntGauge;
use wanigan_parsers::wan::{Frame, RUN_BLOCKS_MAX, SealSpan};

use super::minter::Minter;
use super::receiving::{Output, Receiving, Violation, Written};
use super::sending::Sending;
use super::window::{CREDIT_BASE, Window};
use crate::addr::NodeId;
use crate::block::{Block, Naming, Reference, ServerSecret};
use crate::budget::Budget;
use crate::fault::OpaqueReason;
use crate::matching::matcher::CELL_BYTES;
use crate::matching::matcher::Matcher;
use crate::referral::{Holders, Neighbours};
use crate::shim::Span;
use crate::wan::numbering::{Numbered, Numbers};

mod uploads;

#[test]
fn a_warm_read_of_64_mib_costs_a_few_hundred_bytes() {
    let mut world = World::new();
    let file = file(1024);
    let mut cold = world.open();
    world.read(&mut cold, &file);
    // A few blocks are named as questions, and fetched.
    assert!(cold.crossed > 63 << 20);
    let mut warm = world.open();
    world.read(&mut warm, &file);
    assert!(warm.crossed < 600, "{} bytes", warm.crossed);
    assert_eq!(warm.kinds, ["run"; 1024 / RUN_BLOCKS_MAX]);
}

#[test]
fn a_block_is_named_by_number_only_when_the_other_side_said_that_it_knows_it() {
    let mut world = World::new();
    let (mut one, mut two) = (world.open(), world.open());
    let file = file(2);
    one.give(&file);
    let sent = one.poll_frames();
    one.handle_frames(sent.clone());
    // The word of it is on its way yet.
    two.give(&file);
    let frames = two.poll_frames();
    assert!(frames.iter().all(|frame| matches!(frame, Frame::Ref { .. })), "{frames:?}");
    world.settle(&mut one);
    two.give(&file);
    let frames = two.poll_frames();
    assert_eq!(frames, [Frame::Run { first: 0, count: 2 }]);
}

#[test]
fn a_link_that_starts_anew_begins_at_zero() {
    let mut world = World::new();
    let file = file(3);
    let mut before = world.open();
    world.read(&mut before, &file);
    world.new_link();
    let mut after = world.open();
    world.read(&mut after, &file);
    assert_eq!(after.kinds, ["ref"; 3]);
    let mut again = world.open();
    world.read(&mut again, &file);
    assert_eq!(again.kinds, ["run"]);
}

#[test]
fn a_rotated_server_secret_leaves_the_numbers_of_the_one_before() {
    let mut world = World::new();
    let file = file(3);
    let mut flow = world.open();
    world.read(&mut flow, &file);
    *world.naming.write().unwrap() =
        Naming { current: ServerSecret::new([2; 32]), older: Some(ServerSecret::new([1; 32])) };
    world.read(&mut flow, &file);
    world.read(&mut flow, &file);
    assert_eq!(flow.kinds, ["data", "data", "data", "ref", "ref", "ref", "run"]);
    assert!(world.store.keys().any(|reference| reference.key == ServerSecret::new([2; 32]).id()));
}

#[test]
fn blocks_out_of_the_order_of_their_numbers_go_one_by_one_and_slices_are_joined() {
    let mut world = World::new();
    let file = file(4);
    let mut flow = world.open();
    world.read(&mut flow, &file);
    flow.kinds.clear();
    let blocks = world.blocks(&file);
    let slice = |n: usize, skip, len| (blocks[n].clone(), skip, len);
    let whole = |n: usize| slice(n, 0, CELL_BYTES as u32);
    flow.give_slices([whole(3), whole(1), whole(2), slice(0, 0, 10), slice(0, 10, 5), slice(0, 16, 5)]);
    flow.give_slices([slice(2, 0, 65_000), slice(2, 65_000, 536), whole(3)]);
    world.settle(&mut flow);
    assert_eq!(flow.kinds, ["run", "run", "slice", "slice", "run"]);
    assert!(flow.sending.outbound().retained_bytes() == 0);
}

#[test]
fn a_slice_that_the_other_side_has_no_block_for_goes_as_it_is() {
    let mut world = World::new();
    let block = world.blocks(&[Bytes::from(vec![9; 2 * CELL_BYTES])])[0].clone();
    let mut flow = world.open();
    flow.give_slices([(block.clone(), 1, 100_000), (block, 100_001, 4)]);
    world.settle(&mut flow);
    assert_eq!(flow.kinds, ["literal", "literal"]);
    assert_eq!(flow.kinds.len(), 2, "they were joined and cut anew");
}

#[test]
fn a_run_takes_the_credit_of_its_references() {
    let mut world = World::new();
    let file = file(8);
    let mut cold = world.open();
    world.read(&mut cold, &file);
    let mut warm = world.open_with(5 * 160 + 159);
    warm.give(&file);
    assert_eq!(warm.poll_frames(), [Frame::Run { first: 0, count: 5 }]);
    assert_eq!(warm.poll_frames(), []);
    warm.sending.handle_progress(0, 0, 7 * 160);
    assert_eq!(warm.poll_frames(), [Frame::Run { first: 5, count: 2 }]);

    // And whoever has none is stopped: a run is as large as what it makes the receiver hold.
    let mut receiving = world.receiving();
    for _ in 0..CREDIT_BASE / (8 * 160) {
        receiving.handle_frame(Frame::Run { first: 0, count: 8 }, world.now).unwrap();
    }
    let over = receiving.handle_frame(Frame::Run { first: 0, count: 8 }, world.now);
    assert!(matches!(over, Err(Violation::Overrun(_))), "{over:?}");
}

#[test]
fn numbers_that_stand_for_nothing_and_slices_beyond_their_block_are_refused() {
    let mut world = World::new();
    let mut flow = world.open();
    let file = file(2);
    world.read(&mut flow, &file);
    let reference = *world.blocks(&file)[1].reference();
    let refused = |frame: Frame<Bytes>, violation: Violation| {
        let mut receiving = world.receiving();
        assert_eq!(receiving.handle_frame(frame, world.now), Err(violation));
    };
    refused(Frame::Run { first: 2, count: 1 }, Violation::UnknownNumber(2));
    refused(Frame::Run { first: 1, count: 2 }, Violation::UnknownNumber(2));
    refused(Frame::Run { first: u64::MAX - 1, count: 1 }, Violation::UnknownNumber(u64::MAX - 1));
    refused(Frame::Slice { number: 9, skip: 0, len: 1 }, Violation::UnknownNumber(9));
    let whole = CELL_BYTES as u32;
    refused(Frame::Slice { number: 1, skip: 1, len: whole }, Violation::OutOfPlace);
    refused(Frame::Slice { number: 1, skip: u32::MAX, len: 2 }, Violation::OutOfPlace);
    let taken = Frame::Ref { reference, number: 0, older: None, skip: 0, len: 1 };
    assert!(matches!(world.receiving().handle_frame(taken, world.now), Err(Violation::NumberTaken(_))));
    let packed = Frame::PackedLiteral { len: 100, bytes: Bytes::from_static(b"abc") };
    refused(packed, Violation::OutOfPlace);
}

#[test]
fn a_run_that_misses_in_the_store_is_fetched_block_by_block() {
    let mut world = World::new();
    let file = file(5);
    let mut flow = world.open();
    world.read(&mut flow, &file);
    world.store.retain(|reference, _| reference.digest.0[0] % 2 == 0);
    let lost = 5 - world.store.len();
    assert!(lost > 0, "the test needs other bytes");
    world.read(&mut flow, &file);
    assert_eq!((flow.fetched, flow.kinds.last()), (lost, Some(&"run")));
}

#[test]
fn what_went_in_pieces_is_sealed_stored_and_numbered() {
    let mut world = World::new();
    let (file, mut flow) = (file(1), world.open());
    let block = world.blocks(&file)[0].clone();
    let mut spans = Vec::new();
    let mut offset = 0;
    for piece in block.bytes().chunks(4096) {
        flow.give_opaque(b"header");
        flow.give_opaque(piece);
        spans.push(SealSpan { offset: offset + 6, len: 4096 });
        offset += 6 + 4096;
    }
    flow.sending.outbound().queue_seal(*block.reference(), spans.clone());
    world.settle(&mut flow);
    assert_eq!(world.store.get(block.reference()).map(Block::bytes), Some(block.bytes()));
    let mut other = world.open();
    world.read(&mut other, &file);
    assert_eq!(other.kinds, ["run"]);

    // The same bytes again, of another flow: its SEAL is of what it carried itself.
    let mut third = world.open();
    for piece in block.bytes().chunks(4096) {
        third.give_opaque(b"HEADER");
        third.give_opaque(&piece.iter().map(|byte| !byte).collect::<Vec<u8>>());
    }
    let frames = third.poll_frames();
    third.handle_frames(frames);
    let seal = Frame::Seal { reference: *block.reference(), number: 50, spans };
    assert!(matches!(third.receiving.handle_frame(seal, world.now), Err(Violation::WrongBlock(_))));
}

#[test]
fn a_seal_of_what_was_not_kept_stores_nothing_and_is_counted_and_costs_a_fetch_once() {
    let mut world = World::new();
    let (files, mut flow) = (file(3), world.open());
    world.read(&mut flow, &files[..1]);
    let blocks = world.blocks(&files);
    let span_of_the_first = SealSpan { offset: 0, len: CELL_BYTES as u32 };
    for block in &blocks[1..] {
        flow.give_opaque(block.bytes());
        flow.sending.outbound().queue_seal(*block.reference(), vec![span_of_the_first]);
    }
    world.settle(&mut flow);
    assert_eq!((flow.missed, world.store.len()), (2, 1));
    assert!(flow.sending.is_idle(), "the seals were acknowledged");
    // The sender finds out as with any block that is gone, of the whole or of a part.
    let part = (blocks[2].clone(), 9, 300);
    flow.kinds.clear();
    world.read(&mut flow, &files[1..2]);
    assert_eq!((flow.fetched, flow.kinds.as_slice()), (1, &["run"][..]));
    let mut other = world.open();
    other.give_slices([part.clone()]);
    world.settle(&mut other);
    assert_eq!((other.fetched, other.kinds.as_slice()), (1, &["slice"][..]));
    // Then it is a block as any other.
    assert_eq!(world.store.len(), 3);
    let mut third = world.open();
    world.read(&mut third, &files);
    third.give_slices([part]);
    world.settle(&mut third);
    assert_eq!(third.fetched, 0);
    assert!(!third.kinds.contains(&"data"), "{:?}", third.kinds);
}

/// What outlives a flow, and a link.
struct World {
    now: Instant,
    numbers: Arc<Numbers>,
    numbered: Arc<Numbered>,
    holders: Arc<Holders>,
    naming: Arc<RwLock<Naming>>,
    budget: Budget,
    store: HashMap<Reference, Block>,
}

/// Both halves of one direction of a flow.
struct Pair {
    sending: Sending,
    receiving: Receiving,
    /// What the leg is to get.
    expected: VecDeque<u8>,
    /// Bytes of frames that crossed, and what they were.
    crossed: usize,
    kinds: Vec<&'static str>,
    fetched: usize,
    missed: usize,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            numbers: Arc::default(),
            numbered: Arc::default(),
            holders: Arc::new(Holders::new(10_000, Vec::new())),
            naming: Arc::new(RwLock::new(Naming { current: ServerSecret::new([1; 32]), older: None })),
            budget: Budget::new(256 << 20, IntGauge::new("used", "test").unwrap()),
            store: HashMap::new(),
        }
    }

    fn new_link(&mut self) {
        (self.numbers, self.numbered) = (Arc::default(), Arc::default());
    }

    fn open(&self) -> Pair {
        self.open_with(1 << 30)
    }

    fn open_with(&self, credit: u64) -> Pair {
        let holder = self.holders.of(NodeId([1; 32]), &"lisbon".parse().unwrap()).unwrap();
        self.holders.handle_up(&holder, true, true);
        let neighbours = Neighbours::new(Arc::clone(&self.holders), holder, 0);
        let (naming, numbers) = (Arc::clone(&self.naming), Arc::clone(&self.numbers));
        let minter = Minter::Core { naming, neighbours, numbers };
        self.pair(minter, self.receiving(), credit)
    }

    fn pair(&self, minter: Minter, receiving: Receiving, credit: u64) -> Pair {
        let (matcher, credit) = (Matcher::alone(&self.budget), credit.min(receiving.credit()));
        Pair {
            sending: Sending::new(Some(minter), matcher, &self.budget, 64 << 20, credit, self.now),
            receiving,
            expected: VecDeque::new(),
            crossed: 0,
            kinds: Vec::new(),
            fetched: 0,
            missed: 0,
            now: self.now,
        }
    }

    fn receiving(&self) -> Receiving {
        let window = Window::open(&self.budget).unwrap();
        Receiving::new(window, &self.budget, Arc::clone(&self.numbered)).keeping_literals()
    }

    /// Has the server give blocks of a file, and the client get them.
    fn read(&mut self, flow: &mut Pair, blocks: &[Bytes]) {
        for part in blocks.chunks(RUN_BLOCKS_MAX) {
            flow.give(part);
            self.settle(flow);
        }
    }

    /// Goes on until both sides have said everything.
    fn settle(&mut self, flow: &mut Pair) {
        loop {
            let frames = flow.poll_frames();
            let quiet = frames.is_empty();
            flow.handle_frames(frames);
            while let Some(output) = flow.receiving.poll_output() {
                self.handle_output(flow, output);
            }
            if quiet && flow.sending.is_idle() {
                break;
            }
            flow.now += Duration::from_secs(1);
            flow.receiving.handle_timeout(flow.now);
        }
        assert!(flow.expected.is_empty(), "bytes are missing");
    }

    fn handle_output(&mut self, flow: &mut Pair, output: Output) {
        let now = flow.now;
        match output {
            Output::LookUp(wanted) => {
                let other = wanted.older.and_then(|older| self.store.get(&wanted.reference.under(older)));
                let block = self.store.get(&wanted.reference).or(other).cloned();
                let block = block.map(|block| block.under(wanted.reference).expect("the same content"));
                block.iter().for_each(|block| drop(self.store.insert(wanted.reference, block.clone())));
                flow.receiving.handle_looked_up(wanted.number, block, now);
            }
            Output::Fetch(wanted) => {
                for wanted in wanted {
                    let crate::wan::FetchAnswer::Block(bytes) =
                        flow.sending.handle_fetch(wanted.number, false)
                    else {
                        panic!("it is retained")
                    };
                    flow.fetched += 1;
                    let block = Block::verify(wanted.reference, bytes).unwrap();
                    // As every fetch does.
                    self.store.insert(wanted.reference, block.clone());
                    let source = crate::metrics::Source::Core;
                    flow.receiving.handle_fetched(wanted.number, Some((block, source)), now).unwrap();
                }
            }
            Output::Store(block) => drop(self.store.insert(*block.reference(), block)),
            Output::SealMissed => flow.missed += 1,
            Output::Write(Written { bytes, .. }) => {
                assert!(flow.expected.drain(..bytes.len()).eq(bytes.iter().copied()), "other bytes");
                flow.receiving.handle_written(bytes.len(), now);
            }
            Output::Progress { resolved, blocks, credit } => {
                flow.sending.handle_progress(resolved, blocks, credit);
            }
            Output::Opened(_) | Output::Finish | Output::Reset => unreachable!("nothing opens or ends"),
        }
    }

    fn blocks(&self, file: &[Bytes]) -> Vec<Block> {
        let naming = self.naming.read().unwrap();
        file.iter().map(|bytes| naming.current.mint(bytes.clone())).collect()
    }
}

impl Pair {
    fn give(&mut self, blocks: &[Bytes]) {
        let bytes: Bytes = blocks.concat().into();
        self.expected.extend(&bytes);
        let span = Span::content(bytes.len(), 0, true);
        self.sending.handle_input(bytes, &[span], self.now);
    }

    fn give_opaque(&mut self, bytes: &[u8]) {
        self.expected.extend(bytes);
        let span = Span::opaque(bytes.len(), OpaqueReason::Framing);
        self.sending.handle_input(Bytes::copy_from_slice(bytes), &[span], self.now);
    }

    fn give_slices<const N: usize>(&mut self, slices: [(Block, u32, u32); N]) {
        for (block, skip, len) in slices {
            self.expected.extend(&block.bytes()[skip as usize..(skip + len) as usize]);
            self.sending.outbound().queue_part(block, skip, len);
        }
    }

    fn poll_frames(&mut self) -> Vec<Frame<Bytes>> {
        let mut frames: Vec<_> = std::iter::from_fn(|| self.sending.poll_frame()).collect();
        // A run waits a moment for what follows.
        self.sending.handle_timeout(self.now + Duration::from_millis(1));
        frames.extend(std::iter::from_fn(|| self.sending.poll_frame()));
        frames
    }

    fn handle_frames(&mut self, frames: Vec<Frame<Bytes>>) {
        for frame in frames {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            self.crossed += bytes.len();
            self.kinds.extend(match &frame {
                Frame::Literal(_) => Some("literal"),
                Frame::Data { .. } => Some("data"),
                Frame::Ref { .. } => Some("ref"),
                Frame::Run { .. } => Some("run"),
                Frame::Slice { .. } => Some("slice"),
                _ => None,
            });
            let (frame, _) = Frame::decode(&bytes).unwrap().unwrap();
            self.receiving.handle_frame(frame.map(Bytes::copy_from_slice), self.now).unwrap();
        }
    }
}

/// Blocks of a whole cell each, no two alike.
fn file(blocks: u32) -> Vec<Bytes> {
    let block = |n: u32| {
        let mut bytes = vec![n as u8; CELL_BYTES];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        bytes.into()
    };
    (0..blocks).map(block).collect()
}
