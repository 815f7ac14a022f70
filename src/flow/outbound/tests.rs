//! A core's side of a flow, block by block.

use std::sync::{Arc, RwLock};

use prometheus::IntGauge;

use super::*;
use crate::addr::NodeId;
use crate::block::{Naming, ServerSecret};
use crate::flow::window::CREDIT_BASE;
use crate::referral::{Holders, Neighbours};

#[test]
fn an_unknown_block_is_pushed_and_the_next_time_only_named() {
    let mut outbound = core_half(1 << 20);
    read(&mut outbound, 1);
    assert!(matches!(outbound.poll_frame(), Some(Frame::Data { .. })));
    read(&mut outbound, 1);
    assert!(matches!(outbound.poll_frame(), Some(Frame::Ref { .. })));
    assert_eq!(outbound.retained_bytes(), CELL_BYTES as u64);
    outbound.handle_progress(1, 1, 0);
    assert_eq!(outbound.retained_bytes(), 0);
}

#[test]
fn a_missed_block_can_be_fetched_and_turns_the_flow_to_data() {
    let mut outbound = core_half(1 << 20);
    for _ in 0..2 {
        read(&mut outbound, 1);
        outbound.poll_frame();
    }
    outbound.handle_progress(0, 1, 0);
    // Nobody else has it.
    assert!(matches!(outbound.handle_fetch(0, true), FetchAnswer::Block(bytes) if bytes.len() == CELL_BYTES));
    assert_eq!(outbound.handle_fetch(1, true), FetchAnswer::Gone);
    read(&mut outbound, 1);
    assert!(matches!(outbound.poll_frame(), Some(Frame::Data { .. })));
}

#[test]
fn a_flow_at_its_retain_limit_is_not_read_and_without_budget_blocks_go_in_full() {
    let mut outbound = core_half(1 << 20);
    outbound.retain_bytes_max = 2 * CELL_BYTES as u64;
    for (fill, wanted) in [(1, true), (2, true), (1, true), (2, false)] {
        read(&mut outbound, fill);
        outbound.poll_frame();
        assert_eq!(outbound.wants_more(), wanted);
    }
    let mut outbound = core_half(CELL_BYTES as u64);
    for (fill, expected_ref) in [(1, false), (2, false), (1, true), (2, false)] {
        read(&mut outbound, fill);
        assert_eq!(matches!(outbound.poll_frame(), Some(Frame::Ref { .. })), expected_ref);
    }
}

#[test]
fn nothing_is_sent_without_credit_and_an_idle_flow_gives_it_back() {
    let mut outbound = core_half(1 << 20);
    outbound.credit = Credit::new(FRAME_OVERHEAD + 3);
    outbound.pass_on(Bytes::from_static(b"abc"));
    outbound.pass_on(Bytes::from_static(b"def"));
    assert_eq!(outbound.poll_frame(), Some(Frame::Literal(Bytes::from_static(b"abc"))));
    assert_eq!(outbound.poll_frame(), None);
    let later = Instant::now() + 5 * IDLE;
    outbound.handle_progress(0, 0, 10 << 20);
    assert!(outbound.poll_frame().is_some());
    // What waited for credit for long was not idle.
    assert_eq!(outbound.poll_timeout(), None);
    outbound.handle_wait(later);
    outbound.handle_wait(later + IDLE / 2);
    assert_eq!(outbound.poll_timeout(), Some(later + IDLE));
    outbound.handle_timeout(later + IDLE);
    let Some(Frame::Release(spare)) = outbound.poll_frame() else { panic!("credit is given back") };
    assert_eq!(outbound.credit.room(), CREDIT_BASE);
    assert!(spare > 9 << 20);
    assert_eq!(outbound.poll_timeout(), None);
}

#[test]
fn a_run_that_is_due_wakes_nobody_while_the_stream_does_not_take_it() {
    let mut outbound = core_half(1 << 20);
    read(&mut outbound, 1);
    outbound.poll_frame();
    outbound.handle_progress(0, 1, 0);
    read(&mut outbound, 1);
    assert_eq!(outbound.poll_frame(), None);
    let due = outbound.poll_timeout().expect("the run waits for a moment only");
    outbound.handle_timeout(due);
    assert!(outbound.poll_timeout().is_none_or(|at| at > due));
    assert_eq!(outbound.poll_frame(), Some(Frame::Run { first: 0, count: 1 }));
}

#[test]
fn credit_beyond_all_measure_is_no_fault_of_arithmetic() {
    let mut outbound = core_half(1 << 20);
    outbound.handle_progress(u64::MAX, u64::MAX, u64::MAX);
    outbound.handle_wait(Instant::now());
    let wake = outbound.poll_timeout().expect("the flow is idle with much credit");
    outbound.handle_timeout(wake);
    assert!(matches!(outbound.poll_frame(), Some(Frame::Release(_))));
    read(&mut outbound, 1);
    assert!(matches!(outbound.poll_frame(), Some(Frame::Data { .. })));
}

#[test]
fn of_two_flows_that_read_a_new_file_one_sends_each_block_and_the_other_is_referred_to_itself() {
    let site = holders();
    let (mut one, mut two) = (half(&site, 1, 1 << 20), half(&site, 1, 1 << 20));
    read(&mut one, 1);
    read(&mut two, 1);
    assert!(matches!(one.poll_frame(), Some(Frame::Data { .. })));
    assert!(matches!(two.poll_frame(), Some(Frame::Ref { .. })));
    let FetchAnswer::Refer(referral) = two.handle_fetch(0, true) else { panic!("it is on its way") };
    assert_eq!(referral.node, NodeId([1; 32]));
    drop(one);
    assert!(matches!(two.handle_fetch(0, true), FetchAnswer::Block(_)), "it never arrived");
}

#[test]
fn a_second_edge_is_referred_to_the_first_once_and_gets_the_bytes_when_that_fails() {
    let site = holders();
    let (mut one, mut two) = (half(&site, 1, 1 << 20), half(&site, 2, 1 << 20));
    read(&mut one, 1);
    one.poll_frame();
    one.handle_progress(0, 1, 0);
    read(&mut two, 1);
    assert!(matches!(two.poll_frame(), Some(Frame::Ref { .. })));
    let FetchAnswer::Refer(referral) = two.handle_fetch(0, true) else { panic!("edge 1 has it") };
    assert_eq!((referral.node, referral.wait_ms), (NodeId([1; 32]), 0));
    assert!(matches!(two.handle_fetch(0, false), FetchAnswer::Block(_)));
    let mut three = half(&site, 3, 1 << 20);
    read(&mut three, 1);
    assert!(matches!(three.poll_frame(), Some(Frame::Ref { .. })), "edge 2 will have it");
    let FetchAnswer::Refer(referral) = three.handle_fetch(0, true) else { panic!("edge 2 gets it") };
    assert_eq!(referral.node, NodeId([2; 32]), "edge 1 turned out not to give it");
}

#[test]
fn in_the_grace_period_a_reference_has_both_names() {
    let mut outbound = core_half(1 << 20);
    let older = ServerSecret::new([9; 32]);
    let Some(Minter::Core { naming, .. }) = &outbound.minter else { panic!("a core's half") };
    naming.write().unwrap().older = Some(older.clone());
    read(&mut outbound, 1);
    outbound.poll_frame();
    read(&mut outbound, 1);
    let Some(Frame::Ref { reference, older: Some(named), .. }) = outbound.poll_frame() else {
        panic!("a REF with the older name")
    };
    assert_eq!(named, older.name(&reference.digest));
    assert_ne!(named.key, reference.key);
}

#[test]
fn parts_that_wait_keep_no_more_than_the_flow_may_retain_and_each_block_once() {
    let (mut outbound, budget) = core_half_that_sent(8);
    outbound.retain_bytes_max = 4 * CELL_BYTES as u64;
    outbound.credit = Credit::new(0);
    let free = budget.free();
    // 256 bytes of 64 KiB each, twice.
    let queued: Vec<bool> =
        (0..8).flat_map(|fill| [part(&mut outbound, fill, 0), part(&mut outbound, fill, 1000)]).collect();
    assert_eq!(queued, (0..16).map(|n| n < 7).collect::<Vec<_>>());
    assert_eq!((outbound.poll_frame(), free - budget.free()), (None, 4 * CELL_BYTES as u64));
    outbound.handle_progress(0, 0, 1 << 20);
    let frames: Vec<_> = std::iter::from_fn(|| outbound.poll_frame()).collect();
    assert!(frames.iter().all(|frame| matches!(frame, Frame::Slice { len: 256, .. })), "{frames:?}");
    assert_eq!((frames.len(), free - budget.free()), (7, 4 * CELL_BYTES as u64), "they can be fetched");
    assert!(
        matches!(outbound.handle_fetch(6, false), FetchAnswer::Block(bytes) if bytes.len() == CELL_BYTES)
    );
    outbound.handle_progress(7, 0, 0);
    assert_eq!(free - budget.free(), 0);
}

#[test]
fn a_part_of_a_block_that_the_node_has_no_memory_for_does_not_wait() {
    let (mut outbound, budget) = core_half_that_sent(2);
    let others = budget.reserve(budget.free() - CELL_BYTES as u64).unwrap();
    assert!(part(&mut outbound, 0, 0) && !part(&mut outbound, 1, 0));
    // What waits already can be named: its memory goes with it.
    assert_eq!(budget.free(), 0);
    assert!(matches!(outbound.poll_frame(), Some(Frame::Slice { .. })));
    drop(others);
    assert!(part(&mut outbound, 1, 0));
}

#[test]
fn a_part_that_goes_as_it_is_in_the_end_keeps_nothing_of_its_block() {
    let (mut outbound, budget) = core_half_that_sent(2);
    let free = budget.free();
    assert!(part(&mut outbound, 0, 0));
    outbound.poll_frame();
    assert!(part(&mut outbound, 1, 100));
    outbound.handle_fetch(0, true);
    outbound.handle_progress(1, 0, 0);
    let Some(Frame::Literal(bytes)) = outbound.poll_frame() else { panic!("the flow pushes") };
    assert_eq!((bytes.len(), bytes.is_unique()), (256, true));
    assert_eq!(budget.free(), free);
}

fn holders() -> Arc<Holders> {
    Arc::new(Holders::new(1000, Vec::new()))
}

fn core_half(budget: u64) -> Outbound {
    half(&holders(), 1, budget)
}

/// A core's half whose edge took so many blocks, with its budget.
fn core_half_that_sent(blocks: u8) -> (Outbound, Budget) {
    let budget = Budget::new(4 << 20, IntGauge::new("used", "test").unwrap());
    let mut outbound = half_within(&holders(), 1, &budget);
    for fill in 0..blocks {
        read(&mut outbound, fill);
        outbound.poll_frame();
    }
    outbound.handle_progress(0, blocks.into(), 0);
    (outbound, budget)
}

fn half(holders: &Arc<Holders>, edge: u8, budget: u64) -> Outbound {
    half_within(holders, edge, &Budget::new(budget, IntGauge::new("used", "test").unwrap()))
}

/// A core's half for a flow of an edge that shares.
fn half_within(holders: &Arc<Holders>, edge: u8, budget: &Budget) -> Outbound {
    let holder = holders.of(NodeId([edge; 32]), &"lisbon".parse().unwrap()).unwrap();
    holders.handle_up(&holder, true, true);
    holders.handle_reached(&holder, vec![([10, 1, 0, edge], 7747).into()]);
    let naming = Naming { current: ServerSecret::new([1; 32]), older: None };
    let neighbours = Neighbours::new(Arc::clone(holders), holder, 0);
    let minter = Minter::Core { naming: Arc::new(RwLock::new(naming)), neighbours, numbers: Arc::default() };
    Outbound::new(Some(minter), budget, 16 << 20, 1 << 30, Instant::now())
}

fn read(outbound: &mut Outbound, fill: u8) {
    outbound.take_block(Hashed::of(vec![fill; CELL_BYTES].into()));
}

/// Queues 256 bytes of a block as the last reader's version has it. Returns whether they wait as a part of it.
fn part(outbound: &mut Outbound, fill: u8, skip: usize) -> bool {
    outbound.take_part(Hashed::of(vec![fill; CELL_BYTES].into()), skip, 256, true)
}
