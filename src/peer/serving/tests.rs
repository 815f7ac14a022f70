//! One session, a virtual clock, and a store that is a few lines.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::block::{ServerSecret, tag};

const EXPORTER: Exporter = [5; 32];

#[test]
fn a_proven_request_gets_its_block_and_the_others_get_gone() {
    let mut pair = Pair::new([block(1)]);
    let foreign = proof::get(&BlockHash::of(block(1).reference()), &tag(block(1).reference()), &[6; 32]);
    pair.get(1, &block(1), 0);
    pair.get(2, &block(2), 0);
    pair.get_with(3, &block(1), 0, foreign);
    pair.get_with(4, &block(1), 0, tag(block(1).reference()).0);
    assert_eq!(pair.run(), ["block 1", "gone 2", "gone 3", "gone 4"]);
    assert_eq!(
        pair.refusals(),
        [ServeRefusal::UnknownTag, ServeRefusal::WrongProof, ServeRefusal::WrongProof]
    );
    assert!(pair.session.idle_since().is_some() && pair.taken() == 0);
}

#[test]
fn a_block_that_arrives_ends_the_wait_for_it() {
    let mut pair = Pair::new([]);
    pair.get(1, &block(1), 5_000);
    assert_eq!(pair.run(), [""; 0]);
    assert_eq!(pair.taken(), 1);
    pair.session.handle_arrival(1, block(1));
    assert_eq!(pair.run(), ["block 1"]);
    assert_eq!(pair.taken(), 0);
}

#[test]
fn an_unknown_tag_and_a_wrong_proof_are_the_same_wait() {
    let mut pair = Pair::new([block(1)]);
    pair.get(1, &block(2), 300);
    pair.get_with(2, &block(1), 300, [0; 32]);
    assert_eq!(pair.run(), [""; 0]);
    // It arrives once more, which says nothing to who has no proof.
    pair.session.handle_arrival(2, block(1));
    pair.pass(299);
    assert_eq!(pair.run(), ["waiting"]);
    pair.pass(1);
    assert_eq!(pair.run(), ["gone 1", "gone 2"]);
    assert_eq!(pair.refusals(), [ServeRefusal::WrongProof, ServeRefusal::UnknownTag]);
}

#[test]
fn a_wait_is_cut_to_the_longest_and_shows_signs_of_life() {
    let mut pair = Pair::new([]);
    pair.get(1, &block(1), u32::MAX);
    let mut signs = 0;
    while pair.now < pair.start + WAIT_MAX - ALIVE_EVERY {
        pair.pass_until_due();
        signs += pair.run().iter().filter(|answer| *answer == "waiting").count();
    }
    assert_eq!(signs, 99);
    pair.now = pair.start + WAIT_MAX;
    assert_eq!(pair.run(), ["gone 1"]);
    assert_eq!(pair.session.poll_timeout(true), None);
}

#[test]
fn requests_beyond_the_limit_are_refused_and_a_cancelled_one_makes_room() {
    let mut pair = Pair::new([]);
    let max = u32::try_from(REQUESTS_MAX).unwrap();
    for request in 0..max {
        pair.get(request, &block(1), 5_000);
    }
    assert_eq!(pair.run(), [""; 0]);
    pair.get(max, &block(1), 5_000);
    assert_eq!(pair.run(), ["busy 256"]);
    pair.frame(Frame::Cancel { request: 7 });
    pair.get(max, &block(1), 5_000);
    assert_eq!(pair.run(), [""; 0]);
    assert_eq!(pair.taken(), REQUESTS_MAX);
}

#[test]
fn where_no_place_is_left_a_wait_is_refused() {
    let mut pair = Pair::new([block(1)]);
    pair.places.limit.set(0);
    pair.get(1, &block(1), 5_000);
    pair.get(2, &block(1), 0);
    assert_eq!(pair.run(), ["busy 1", "block 2"]);
}

#[test]
fn blocks_are_read_a_few_ahead_and_arrivals_beyond_wait_for_their_turn_in_the_store() {
    let mut pair = Pair::new((1..40).map(block));
    for fill in 1..20 {
        pair.get(u32::from(fill), &block(fill), 0);
    }
    pair.look();
    assert_eq!(pair.session.blocks, READ_AHEAD);
    for fill in 20..40 {
        pair.get(u32::from(fill), &block(fill), 5_000);
        pair.session.handle_arrival(u32::from(fill), block(fill));
    }
    assert_eq!(pair.session.blocks, READ_AHEAD + ARRIVED_MAX);
    let answers = pair.run();
    assert_eq!(answers.len(), 39);
    assert!(answers.iter().all(|answer| answer.starts_with("block")));
}

#[test]
fn a_block_goes_when_it_is_granted_and_signs_of_life_before() {
    let mut pair = Pair::new([block(1)]);
    pair.get(1, &block(1), 0);
    pair.look();
    let turn = pair.now + Duration::from_millis(500);
    let mut seen = Vec::new();
    while pair.now < turn {
        seen.extend(pair.session.poll_answer(pair.now, |bytes| {
            assert_eq!(bytes, 100);
            turn
        }));
        pair.pass_until_due();
    }
    assert!(seen.len() == 2 && seen.iter().all(|answer| matches!(answer, Answer::Waiting)));
    assert_eq!(pair.now, turn);
    let granted_twice = |_| panic!("a block is granted once");
    assert!(matches!(pair.session.poll_answer(turn, granted_twice), Some(Answer::Block(1, _))));
}

#[test]
fn what_breaks_the_protocol_is_told() {
    let mut pair = Pair::new([]);
    pair.get(1, &block(1), 5_000);
    let again = pair.frame_of(1, &block(1), 0, [0; 32]);
    assert_eq!(pair.session.handle_frame(&again, pair.now), Err(Broken::Twice(1)));
    for frame in [Frame::<Vec<u8>>::Gone { request: 1 }, Frame::Busy { request: 1 }, Frame::Waiting] {
        assert_eq!(pair.session.handle_frame(&frame, pair.now), Err(Broken::Unexpected));
    }
}

#[test]
fn a_cancelled_number_does_not_get_the_answer_of_its_past() {
    let mut pair = Pair::new([block(1)]);
    pair.get(1, &block(1), 0);
    let Some(Lookup::Find { request: 1, .. }) = pair.session.poll_lookup() else { panic!("nothing to find") };
    pair.frame(Frame::Cancel { request: 1 });
    pair.get_with(1, &block(1), 0, [0; 32]);
    pair.session.handle_found(1, Some(*block(1).reference()), pair.now);
    assert_eq!(pair.run(), ["busy 1"]);
}

proptest! {
    /// Random peers: blocks go to proven requests alone, each request is answered once at most, everything is bounded,
    /// and when all waits are over nothing is left.
    #[test]
    fn whatever_a_peer_sends_only_proven_requests_get_blocks(
        steps in proptest::collection::vec((0u8..8, 0u32..6, 1u8..6, 0u32..400), 0..120),
    ) {
        let mut pair = Pair::new((1..4).map(block));
        // Whether each request has a proof, by number.
        let mut honest = Vec::new();
        for (kind, back, fill, wait) in steps {
            let new = u32::try_from(honest.len()).unwrap();
            let old = new.saturating_sub(back + 1);
            match kind {
                0..=2 => {
                    pair.get(new, &block(fill), wait);
                    honest.push(true);
                }
                3 => {
                    pair.get_with(new, &block(fill), wait, [0; 32]);
                    honest.push(false);
                }
                4 => pair.frame(Frame::Cancel { request: old }),
                5 => pair.session.handle_arrival(old, block(fill)),
                6 => pair.pass(u64::from(wait)),
                _ => {
                    for answer in pair.run() {
                        if let Some(request) = answer.strip_prefix("block ") {
                            prop_assert!(std::mem::take(&mut honest[request.parse::<usize>().unwrap()]), "{answer}");
                        }
                    }
                }
            }
            prop_assert!(pair.session.blocks <= READ_AHEAD + ARRIVED_MAX);
            prop_assert!(pair.session.queue.len() <= pair.session.open.len());
        }
        pair.run();
        pair.pass(400);
        pair.run();
        prop_assert!(pair.session.idle_since().is_some() && pair.taken() == 0 && pair.session.waits.is_empty());
    }
}

struct Pair {
    session: Session<Seats>,
    places: Seats,
    store: HashMap<Tag, Block>,
    start: Instant,
    now: Instant,
}

impl Pair {
    fn new(blocks: impl IntoIterator<Item = Block>) -> Self {
        let places = Seats { taken: Rc::default(), limit: Rc::new(Cell::new(REQUESTS_MAX)) };
        let now = Instant::now();
        let store = blocks.into_iter().map(|block| (tag(block.reference()), block)).collect();
        Self { session: Session::new(EXPORTER, places.clone(), now), places, store, start: now, now }
    }

    fn get(&mut self, request: u32, block: &Block, wait_ms: u32) {
        let proof = proof::get(&BlockHash::of(block.reference()), &tag(block.reference()), &EXPORTER);
        self.get_with(request, block, wait_ms, proof);
    }

    fn get_with(&mut self, request: u32, block: &Block, wait_ms: u32, proof: Proof) {
        self.frame(self.frame_of(request, block, wait_ms, proof));
    }

    fn frame_of(&self, request: u32, block: &Block, wait_ms: u32, proof: Proof) -> Frame<Vec<u8>> {
        let reference = block.reference();
        Frame::Get { request, wait_ms, key: reference.key, tag: tag(reference), proof }
    }

    fn frame(&mut self, frame: Frame<Vec<u8>>) {
        self.session.handle_frame(&frame, self.now).unwrap();
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn pass_until_due(&mut self) {
        self.now = self.session.poll_timeout(true).unwrap().max(self.now);
    }

    /// Answers every lookup.
    fn look(&mut self) {
        while let Some(lookup) = self.session.poll_lookup() {
            match lookup {
                Lookup::Find { request, tag, .. } => {
                    let found = self.store.get(&tag).map(|block| *block.reference());
                    self.session.handle_found(request, found, self.now);
                }
                Lookup::Read { request, reference } => {
                    let block = self.store.get(&tag(&reference)).cloned();
                    self.session.handle_read(request, block, self.now);
                }
            }
        }
    }

    /// Goes on until nothing is left to do, and returns what was answered.
    fn run(&mut self) -> Vec<String> {
        let mut answers = Vec::new();
        self.session.handle_timeout(self.now);
        loop {
            self.look();
            let Some(answer) = self.session.poll_answer(self.now, |_| self.now) else { return answers };
            answers.push(match answer {
                Answer::Block(request, _) => format!("block {request}"),
                Answer::Gone(request) => format!("gone {request}"),
                Answer::Busy(request) => format!("busy {request}"),
                Answer::Waiting => "waiting".to_owned(),
            });
        }
    }

    fn refusals(&mut self) -> Vec<ServeRefusal> {
        let mut refusals: Vec<_> = std::iter::from_fn(|| self.session.poll_refusal()).collect();
        refusals.reverse();
        refusals
    }

    fn taken(&self) -> usize {
        self.places.taken.get()
    }
}

#[derive(Clone)]
struct Seats {
    taken: Rc<Cell<usize>>,
    limit: Rc<Cell<usize>>,
}

struct Seat(Rc<Cell<usize>>);

impl Places for Seats {
    type Ticket = Seat;

    fn take(&self, _request: u32, _key: KeyId, _tag: Tag) -> Option<Seat> {
        (self.taken.get() < self.limit.get()).then(|| {
            self.taken.set(self.taken.get() + 1);
            Seat(self.taken.clone())
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn block(fill: u8) -> Block {
    ServerSecret::new([7; 32]).mint(Bytes::from(vec![fill; 100]))
}
