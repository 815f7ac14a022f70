//! The direction from an edge to a core: what crosses, and what an edge has a right to.

use wanigan_parsers::wan::{KeyId, Secret};

use super::*;
use crate::block::digest;
use crate::flow::terms::{Entitlement, Terms};
use crate::matching::uploads::{Known, KnownOnLink, UNNAMED};
use crate::metrics::Source;
use crate::referral::Holder;

#[test]
fn a_second_upload_over_one_link_is_a_few_numbers() {
    let (mut world, known) = (World::new(), known());
    let file = file(64);
    let mut cold = world.upload(&known, 1);
    world.read(&mut cold, &file);
    assert!(cold.crossed > 4 << 20);
    let mut warm = world.upload(&known, 1);
    world.read(&mut warm, &file);
    assert!(warm.crossed < 100, "{} bytes", warm.crossed);
    assert_eq!(warm.kinds, ["run"]);
}

#[test]
fn on_a_new_link_only_a_secret_that_the_core_told_makes_a_reference() {
    let (mut world, known) = (World::new(), known());
    let (given, told) = (file(1).remove(0), Bytes::from(vec![7; CELL_BYTES]));
    let mut before = world.upload(&known, 1);
    world.read(&mut before, std::slice::from_ref(&given));
    let reference = *world.naming.read().unwrap().current.mint(told.clone()).reference();
    let terms = Terms::OfRememberedCore(KnownOnLink::new(Arc::clone(&known), 1));
    terms.admit(reference, None).unwrap();
    world.new_link();
    let mut flow = world.upload(&known, 2);
    flow.give(&[given, told]);
    let frames = flow.poll_frames();
    assert!(matches!(frames[0], Frame::Data { reference, .. } if reference.key == KeyId::PLAIN));
    assert!(matches!(frames[1], Frame::Ref { reference: named, .. } if named == reference));
}

#[test]
fn what_an_edge_sends_in_full_has_no_name_and_gets_the_cores_own() {
    let world = World::new();
    let mut flow = world.upload(&known(), 1);
    let bytes = Bytes::from(vec![7; CELL_BYTES]);
    flow.give(std::slice::from_ref(&bytes));
    let frames = flow.poll_frames();
    let Frame::Data { reference, .. } = frames[0] else { panic!("{frames:?}") };
    assert_eq!((reference.key, reference.secret), (KeyId::PLAIN, Secret([0; 32])));
    flow.handle_frames(frames);
    let Some(Output::Store(block)) = flow.receiving.poll_output() else { panic!("it is kept") };
    assert_eq!(block.reference(), world.naming.read().unwrap().current.mint(bytes).reference());
}

#[test]
fn a_bare_digest_is_fetched_from_its_edge_and_never_looked_up_until_the_edge_showed_the_bytes() {
    let world = World::new();
    let bytes = Bytes::from(vec![7; CELL_BYTES]);
    let block = world.naming.read().unwrap().current.mint(bytes);
    let bare = block.reference().under(UNNAMED);
    let mut receiving = world.judging();
    let now = world.now;
    receiving.handle_frame(refer(bare, 0), now).unwrap();
    let Some(Output::Fetch(wanted)) = receiving.poll_output() else { panic!("the edge is asked") };
    assert_eq!((wanted.len(), wanted[0].reference), (1, *block.reference()));
    assert!(receiving.poll_output().is_none());
    // By number it is no better.
    let slice = Frame::Slice { number: 0, skip: 0, len: 1 };
    receiving.handle_frame(slice.clone(), now).unwrap();
    assert!(matches!(receiving.poll_output(), Some(Output::Fetch(_))));
    receiving.handle_fetched(0, Some((block.clone(), Source::Fetch)), now).unwrap();
    receiving.handle_frame(slice, now).unwrap();
    let looked_up = std::iter::from_fn(|| receiving.poll_output());
    assert_eq!(looked_up.filter(|output| matches!(output, Output::LookUp(_))).count(), 1);
}

#[test]
fn an_edge_that_does_not_show_the_bytes_is_reset() {
    let world = World::new();
    let bare = world.naming.read().unwrap().current.mint(Bytes::from(vec![7; 9])).reference().under(UNNAMED);
    let mut receiving = world.judging();
    receiving.handle_frame(refer(bare, 0), world.now).unwrap();
    assert_eq!(receiving.handle_fetched(0, None, world.now), Err(Violation::Unresolved(0)));
    let written = std::iter::from_fn(|| receiving.poll_output());
    assert!(written.into_iter().all(|output| !matches!(output, Output::Write(..))));
}

#[test]
fn a_seal_whose_pieces_were_not_kept_gives_no_right_to_the_block() {
    let world = World::new();
    let digest = digest(&[7; 4096]);
    let bare = Reference { digest, secret: Secret([0; 32]), key: KeyId::PLAIN, len: 4096 };
    // As on a node without memory to spare.
    let window = Window::open(&world.budget).unwrap();
    let mut receiving =
        Receiving::new(window, &world.budget, Arc::clone(&world.numbered)).on(world.terms(&world.holder()));
    let spans = vec![SealSpan { offset: 0, len: 4096 }];
    receiving.handle_frame(Frame::Literal(Bytes::from(vec![1; 4096])), world.now).unwrap();
    receiving.handle_frame(Frame::Seal { reference: bare, number: 0, spans }, world.now).unwrap();
    receiving.handle_frame(Frame::Slice { number: 0, skip: 0, len: 9 }, world.now).unwrap();
    let outputs: Vec<Output> = std::iter::from_fn(|| receiving.poll_output()).collect();
    assert!(outputs.iter().any(|output| matches!(output, Output::SealMissed)));
    assert!(outputs.iter().any(|output| matches!(output, Output::Fetch(_))));
    assert!(!outputs.iter().any(|output| matches!(output, Output::LookUp(_))));
}

#[test]
fn a_secret_is_good_while_the_core_knows_its_key_and_a_wrong_one_resets_the_flow() {
    let world = World::new();
    let older = ServerSecret::new([9; 32]);
    world.naming.write().unwrap().older = Some(older.clone());
    let bytes = Bytes::from(vec![7; CELL_BYTES]);
    let (named, named_before) = (
        *world.naming.read().unwrap().current.mint(bytes.clone()).reference(),
        *older.mint(bytes.clone()).reference(),
    );
    for (number, reference) in [(0, named), (1, named_before)] {
        let mut receiving = world.judging();
        receiving.handle_frame(refer(reference, number), world.now).unwrap();
        let Some(Output::LookUp(wanted)) = receiving.poll_output() else { panic!("it is good") };
        assert_eq!(wanted.reference, named);
        assert_eq!(wanted.older.map(|older| wanted.reference.under(older)), Some(named_before));
    }
    for key in [named.key, named_before.key] {
        let forged = Reference { key, secret: Secret([3; 32]), ..named };
        let refused = world.judging().handle_frame(refer(forged, 2), world.now);
        assert!(matches!(refused, Err(Violation::Forged(_))), "{refused:?}");
    }
    // Another edge: this one has shown what it knows.
    let stranger = world.holders.of(NodeId([2; 32]), &"lisbon".parse().unwrap()).unwrap();
    world.naming.write().unwrap().older = None;
    let window = Window::open(&world.budget).unwrap();
    let mut receiving = Receiving::new(window, &world.budget, Arc::default()).on(world.terms(&stranger));
    receiving.handle_frame(refer(named_before, 0), world.now).unwrap();
    assert!(matches!(receiving.poll_output(), Some(Output::Fetch(_))), "its time is over");
}

#[test]
fn a_core_that_fetched_gets_blocks_in_full_for_a_while() {
    let (mut world, known) = (World::new(), known());
    let file = file(4);
    let mut cold = world.upload(&known, 1);
    world.read(&mut cold, &file);
    world.store.clear();
    let mut flow = world.upload(&known, 1);
    world.read(&mut flow, &file);
    assert_eq!(flow.fetched, 4);
    flow.give(&file);
    let frames = flow.poll_frames();
    assert!(frames.iter().all(|frame| matches!(frame, Frame::Data { .. })), "{frames:?}");
}

impl World {
    fn holder(&self) -> Arc<Holder> {
        self.holders.of(NodeId([1; 32]), &"lisbon".parse().unwrap()).unwrap()
    }

    fn terms(&self, holder: &Arc<Holder>) -> Terms {
        Terms::OfEdge(Entitlement { naming: Arc::clone(&self.naming), holder: Arc::clone(holder) })
    }

    /// A core's half.
    fn judging(&self) -> Receiving {
        self.receiving().on(self.terms(&self.holder()))
    }

    /// A flow on which an edge sends.
    fn upload(&self, known: &Arc<Known>, link: u64) -> Pair {
        known.handle_key(self.naming.read().unwrap().current.id());
        let minter = Minter::Edge {
            own: ServerSecret::new([5; 32]),
            known: KnownOnLink::new(Arc::clone(known), link),
            numbers: Arc::clone(&self.numbers),
        };
        self.pair(minter, self.judging(), 1 << 30)
    }
}

fn known() -> Arc<Known> {
    Arc::new(Known::new(1000))
}

fn refer(reference: Reference, number: u64) -> Frame<Bytes> {
    Frame::Ref { reference, number, older: None, skip: 0, len: reference.len }
}
