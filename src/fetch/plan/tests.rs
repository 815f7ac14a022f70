use bytes::Bytes;

use super::*;
use crate::block::ServerSecret;

#[test]
fn a_block_is_looked_for_once_however_many_flows_wait() {
    let mut plan = plan();
    let now = Instant::now();
    plan.handle_want(FlowKey(1), &[want(0, 1)], now);
    plan.handle_want(FlowKey(2), &[want(7, 1)], now);
    assert!(matches!(&actions(&mut plan)[..], [Action::Ask(asked)] if *asked == [reference(1)]));
    plan.handle_asked(&[reference(1)], None, now);
    let [Action::Fetch { flow: FlowKey(1), refer: true, wanted }] = &actions(&mut plan)[..] else { panic!() };
    assert_eq!(wanted[0].0, 0);
    plan.handle_core(FlowKey(1), 0, CoreAnswer::Block(block(1)), now);
    let got = actions(&mut plan);
    assert!(matches!(got[0], Action::Keep(_)));
    assert!(matches!(
        got[1],
        Action::Deliver { flow: FlowKey(1), number: 0, block: Some((_, Source::Fetch)) }
    ));
    assert!(matches!(
        got[2],
        Action::Deliver { flow: FlowKey(2), number: 7, block: Some((_, Source::Fetch)) }
    ));
    assert!(plan.is_empty() && plan.timers.is_empty() && plan.names.is_empty());
}

#[test]
fn a_peer_that_answers_gives_the_block_and_the_flows_next_ones_without_another_ask() {
    let mut plan = plan();
    let now = Instant::now();
    plan.handle_want(FlowKey(1), &[want(0, 1)], now);
    plan.handle_asked(&[reference(1)], Some(now + MS * 20), now);
    actions(&mut plan);
    plan.handle_answer(&answer(9, &[1], false), now);
    let entry = get(&actions(&mut plan), 9);
    plan.handle_got(entry, node(9), Ok(block(1)), now + MS);
    let got = actions(&mut plan);
    assert!(matches!(&got[1], Action::Deliver { block: Some((_, Source::Peer)), .. }));
    plan.handle_want(FlowKey(1), &[want(1, 2)], now);
    let entry = get(&actions(&mut plan), 9);
    plan.handle_got(entry, node(9), Err(GetOutcome::Gone), now);
    assert!(matches!(&actions(&mut plan)[..], [Action::Ask(_)]), "what it lacks is asked of all");
}

#[test]
fn where_nobody_answers_in_time_the_core_is_asked() {
    let mut plan = plan();
    let now = Instant::now();
    plan.handle_want(FlowKey(1), &[want(0, 1), want(1, 2)], now);
    plan.handle_asked(&[reference(1), reference(2)], Some(now + MS * 20), now);
    actions(&mut plan);
    assert_eq!(plan.poll_timeout(), Some(now + MS * 20));
    plan.handle_timeout(now + MS * 20);
    assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { wanted, .. }] if wanted.len() == 2));
    plan.handle_answer(&answer(9, &[1], false), now + MS * 30);
    get(&actions(&mut plan), 9);
}

#[test]
fn a_large_read_spreads_over_all_peers_that_have_it() {
    let mut plan = plan();
    let now = Instant::now();
    let wants: Vec<_> = (0..60).map(|n| want(n, u8::try_from(n).unwrap())).collect();
    let names: Vec<_> = wants.iter().map(|want| want.reference).collect();
    plan.handle_want(FlowKey(1), &wants, now);
    plan.handle_asked(&names, Some(now + MS * 20), now);
    actions(&mut plan);
    let all: Vec<u8> = (0..60).collect();
    plan.handle_answer(&answer(8, &all, false), now);
    plan.handle_answer(&answer(9, &all, false), now);
    let mut served = [0; 2];
    let mut pending = actions(&mut plan);
    for peer in [8, 9] {
        let count =
            pending.iter().filter(|a| matches!(a, Action::Get { peer: p, .. } if *p == node(peer))).count();
        assert_eq!(count, PEER_GETS_MAX as usize);
    }
    while !pending.is_empty() {
        if let Action::Get { entry, peer, names, .. } = pending.remove(0) {
            served[usize::from(peer == node(9))] += 1;
            plan.handle_got(entry, peer, Ok(block_of(names[0])), now + MS);
            pending.extend(actions(&mut plan));
        }
    }
    assert!(plan.is_empty() && served[0] + served[1] == 60 && served[0] > 20 && served[1] > 20, "{served:?}");
    assert!(plan.peers.values().all(|peer| peer.outstanding == 0));
}

#[test]
fn a_peer_that_gives_nothing_is_hedged_with_the_core_and_the_first_wins() {
    let mut plan = plan();
    let now = Instant::now();
    let entry = got_from_peer(&mut plan, 9, now);
    let late = plan.poll_timeout().expect("a hedge is planned");
    assert_eq!(late, now + HEDGE_AFTER);
    plan.handle_timeout(late);
    assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { refer: false, .. }]));
    plan.handle_core(FlowKey(1), 0, CoreAnswer::Block(block(1)), late);
    let got = actions(&mut plan);
    assert!(got.iter().any(|action| matches!(action, Action::Cancel { entry: of, .. } if *of == entry)));
    plan.handle_got(entry, node(9), Ok(block(1)), late);
    assert!(actions(&mut plan).is_empty(), "too late");
    plan.handle_want(FlowKey(2), &[want(0, 2)], late);
    plan.handle_asked(&[reference(2)], Some(late + MS * 20), late);
    actions(&mut plan);
    plan.handle_answer(&answer(9, &[2], false), late);
    assert!(actions(&mut plan).is_empty(), "a slow peer is left alone for a while");
}

#[test]
fn a_peer_that_promises_a_block_and_keeps_neither_word_nor_silence_is_hedged_after_the_wait() {
    let mut plan = plan();
    let now = Instant::now();
    plan.handle_want(FlowKey(1), &[want(0, 1)], now);
    plan.handle_asked(&[reference(1)], Some(now + MS * 20), now);
    actions(&mut plan);
    plan.handle_answer(&answer(9, &[1], true), now);
    get(&actions(&mut plan), 9);
    let late = now + SOON_WAIT + HEDGE_AFTER;
    assert_eq!(plan.poll_timeout(), Some(late));
    plan.handle_timeout(late);
    assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { refer: false, .. }]));
    assert_eq!(plan.poll_timeout(), None, "the core was asked");
}

#[test]
fn a_block_that_is_owed_for_long_is_hedged_whatever_else_its_peer_gives() {
    for (each, is_left) in [(MS * 50, true), (MS * 300, false)] {
        let mut plan = plan();
        let now = Instant::now();
        let wants: Vec<Want> = (0..40).map(|n| want(u64::from(n), n)).collect();
        plan.handle_want(FlowKey(1), &wants, now);
        let names: Vec<Reference> = wants.iter().map(|want| want.reference).collect();
        plan.handle_asked(&names, Some(now + MS * 20), now);
        actions(&mut plan);
        plan.handle_answer(&answer(9, &(0..40).collect::<Vec<u8>>(), false), now);
        let mut requested: VecDeque<(EntryId, Reference, Instant)> = VecDeque::new();
        let mut next = now + each;
        // It gives a block from time to time, and the first one never.
        let fetched = loop {
            let gets = actions(&mut plan).into_iter();
            let time = next - each;
            requested.extend(gets.filter_map(|action| match action {
                Action::Get { entry, names, .. } => Some((entry, names[0], time)),
                _ => None,
            }));
            let due = plan.poll_timeout().expect("something is hedged");
            if due < next {
                plan.handle_timeout(due);
                if plan.actions.iter().any(|action| matches!(action, Action::Fetch { .. })) {
                    break due;
                }
            } else {
                let (entry, name, _) = requested.remove(1).expect("there are more");
                plan.handle_got(entry, node(9), Ok(block_of(name)), next);
                next += each;
            }
        };
        assert_eq!(fetched, now + HEDGE_LATEST);
        assert_eq!(plan.peers[&node(9)].is_usable(fetched), !is_left);
    }
}

#[test]
fn a_lying_peer_is_shunned_and_the_next_source_asked() {
    let mut plan = plan();
    let now = Instant::now();
    let entry = got_from_peer(&mut plan, 9, now);
    plan.handle_got(entry, node(9), Err(GetOutcome::Wrong), now);
    assert!(!plan.peers[&node(9)].is_usable(now + AVOID_SLOW));
    plan.handle_timeout(now + MS * 20);
    assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { .. }]));
}

#[test]
fn a_referral_is_followed_once_and_then_the_core_gives_the_bytes() {
    let mut plan = plan();
    let now = Instant::now();
    asked_core(&mut plan, now);
    plan.handle_core(FlowKey(1), 0, CoreAnswer::Refer(referral(9, 0)), now);
    let entry = get(&actions(&mut plan), 9);
    plan.handle_got(entry, node(9), Err(GetOutcome::Gone), now);
    assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { refer: false, .. }]));
}

#[test]
fn an_edge_that_was_tried_on_a_guess_is_tried_again_when_the_core_names_it_and_once_only() {
    let mut plan = plan();
    let now = Instant::now();
    let entry = got_from_peer(&mut plan, 9, now);
    plan.handle_got(entry, node(9), Err(GetOutcome::Gone), now);
    plan.handle_timeout(now + MS * 20);
    actions(&mut plan);
    plan.handle_core(FlowKey(1), 0, CoreAnswer::Refer(referral(9, 0)), now);
    let entry = get(&actions(&mut plan), 9);
    plan.handle_got(entry, node(9), Err(GetOutcome::Gone), now);
    assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { refer: false, .. }]));
    plan.handle_core(FlowKey(1), 0, CoreAnswer::Refer(referral(9, 0)), now);
    assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { refer: false, .. }]), "a core that insists");
}

#[test]
fn an_edge_that_was_named_for_one_block_and_lacks_another_is_no_failed_referral() {
    let mut plan = plan();
    let now = Instant::now();
    asked_core(&mut plan, now);
    plan.handle_core(FlowKey(1), 0, CoreAnswer::Refer(referral(9, 0)), now);
    let entry = get(&actions(&mut plan), 9);
    plan.handle_got(entry, node(9), Ok(block(1)), now);
    actions(&mut plan);
    plan.handle_want(FlowKey(1), &[want(1, 2)], now);
    let entry = get(&actions(&mut plan), 9);
    plan.handle_got(entry, node(9), Err(GetOutcome::Gone), now);
    actions(&mut plan);
    plan.handle_asked(&[reference(2)], None, now);
    assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { refer: true, .. }]));
}

#[test]
fn a_block_on_its_way_is_waited_for_while_the_core_says_so_and_not_for_ever() {
    let mut plan = plan();
    let now = Instant::now();
    asked_core(&mut plan, now);
    for round in 1..=ROUNDS_MAX {
        plan.handle_core(FlowKey(1), 0, CoreAnswer::Refer(referral(9, 1_000)), now);
        let entry = get(&actions(&mut plan), 9);
        plan.handle_got(entry, node(9), Err(GetOutcome::Gone), now);
        let asked = actions(&mut plan);
        let [Action::Fetch { refer, .. }] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!(*refer, round < ROUNDS_MAX);
    }
    asked_core(&mut self::plan(), now);
    let mut plan = self::plan();
    asked_core(&mut plan, now);
    plan.handle_core(FlowKey(1), 0, CoreAnswer::Refer(referral(9, 1_000)), now);
    let entry = get(&actions(&mut plan), 9);
    plan.handle_got(entry, node(9), Err(GetOutcome::Lost), now);
    assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { refer: false, .. }]), "it died");
}

#[test]
fn a_peer_that_was_to_wait_for_a_block_and_says_nothing_afterwards_is_hedged_with_the_core() {
    let now = Instant::now();
    let mut referred = plan();
    asked_core(&mut referred, now);
    referred.handle_core(FlowKey(1), 0, CoreAnswer::Refer(referral(9, 1_000)), now);
    let mut promised = plan();
    promised.handle_want(FlowKey(1), &[want(0, 1)], now);
    promised.handle_asked(&[reference(1)], Some(now + MS * 20), now);
    actions(&mut promised);
    promised.handle_answer(&answer(9, &[1], true), now);
    for (mut plan, wait) in [(referred, MS * 1_000), (promised, SOON_WAIT)] {
        get(&actions(&mut plan), 9);
        let late = plan.poll_timeout().expect("the wait has an end");
        assert_eq!(late, now + wait + HEDGE_AFTER);
        plan.handle_timeout(late);
        assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { refer: false, .. }]));
        assert!(!plan.peers[&node(9)].is_usable(late));
    }
}

#[test]
fn a_block_on_its_way_to_this_node_is_taken_when_it_arrives() {
    let mut plan = plan();
    let now = Instant::now();
    asked_core(&mut plan, now);
    plan.handle_core(FlowKey(1), 0, CoreAnswer::Refer(referral(1, 1_000)), now);
    assert!(matches!(&actions(&mut plan)[..], [Action::Look(_)]));
    plan.handle_arrived(&block(2), now);
    plan.handle_arrived(&block(1), now);
    assert!(matches!(&actions(&mut plan)[..], [Action::Deliver { block: Some((_, Source::Store)), .. }]));
    asked_core(&mut plan, now);
    plan.handle_core(FlowKey(1), 0, CoreAnswer::Refer(referral(1, 1_000)), now);
    actions(&mut plan);
    plan.handle_timeout(now + MS * 1_000);
    assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { refer: true, .. }]));
}

#[test]
fn when_one_flows_core_has_lost_a_block_the_others_are_asked_and_at_last_all_are_told() {
    let mut plan = plan();
    let now = Instant::now();
    plan.handle_want(FlowKey(1), &[want(0, 1)], now);
    plan.handle_want(FlowKey(2), &[want(5, 1)], now);
    plan.handle_asked(&[reference(1)], None, now);
    actions(&mut plan);
    plan.handle_core(FlowKey(1), 0, CoreAnswer::Gone, now);
    assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { flow: FlowKey(2), .. }]));
    plan.handle_core(FlowKey(2), 5, CoreAnswer::Gone, now);
    let told = actions(&mut plan);
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|action| matches!(action, Action::Deliver { block: None, .. })));
    assert!(plan.is_empty());
}

#[test]
fn a_flow_that_ends_takes_its_wants_along_and_another_that_waits_goes_on() {
    let mut plan = plan();
    let now = Instant::now();
    plan.handle_want(FlowKey(1), &[want(0, 1), want(1, 2)], now);
    plan.handle_want(FlowKey(2), &[want(5, 1)], now);
    plan.handle_asked(&[reference(1), reference(2)], None, now);
    actions(&mut plan);
    plan.forget_flow(FlowKey(1), now);
    assert!(matches!(&actions(&mut plan)[..], [Action::Fetch { flow: FlowKey(2), .. }]));
    plan.forget_flow(FlowKey(2), now);
    assert!(plan.is_empty() && plan.flows.is_empty() && plan.timers.is_empty());
}

#[test]
fn requests_that_end_with_their_flow_or_by_themselves_make_room_for_those_of_others() {
    for ends in [true, false] {
        let mut plan = plan();
        let now = Instant::now();
        let wants =
            |from: u8, count: u8| -> Vec<Want> { (0..count).map(|n| want(u64::from(n), from + n)).collect() };
        plan.handle_want(FlowKey(1), &wants(0, 100), now);
        plan.handle_want(FlowKey(2), &wants(100, 1), now);
        let names: Vec<Reference> = (0..101).map(reference).collect();
        plan.handle_asked(&names, Some(now + MS * 20), now);
        plan.handle_answer(&answer(9, &(0..101).collect::<Vec<u8>>(), false), now);
        assert_eq!(plan.ready.len(), 101 - PEER_GETS_MAX as usize);
        actions(&mut plan);
        if ends {
            plan.forget_flow(FlowKey(1), now);
            assert!(plan.ready.is_empty());
        } else {
            plan.handle_arrived(&block(0), now);
        }
        let started = actions(&mut plan);
        let gets = started.iter().filter(|action| matches!(action, Action::Get { .. })).count();
        assert_eq!(gets, 1, "{started:?}");
    }
}

#[test]
fn in_a_grace_period_a_block_is_asked_for_by_both_names_and_taken_under_its_own() {
    let mut plan = plan();
    let now = Instant::now();
    let older = ServerSecret::new([2; 32]).name(&reference(1).digest);
    let want = Want { older: Some(older), ..want(0, 1) };
    plan.handle_want(FlowKey(1), &[want], now);
    let old_name = reference(1).under(older);
    assert!(matches!(&actions(&mut plan)[..], [Action::Ask(asked)] if *asked == [reference(1), old_name]));
    plan.handle_asked(&[reference(1), old_name], Some(now + MS * 20), now);
    let answer = Answer { blocks: vec![(old_name, false)], ..answer(9, &[], false) };
    plan.handle_answer(&answer, now);
    let entry = get(&actions(&mut plan), 9);
    plan.handle_got(entry, node(9), Ok(block(1).under(old_name).unwrap()), now);
    let got = actions(&mut plan);
    assert!(matches!(&got[0], Action::Keep(block) if *block.reference() == reference(1)));
}

const MS: Duration = Duration::from_millis(1);

fn plan() -> Plan {
    Plan::new(node(1))
}

/// Brings the plan to where the core was asked for block 1 on behalf of flow 1.
fn asked_core(plan: &mut Plan, now: Instant) {
    plan.handle_want(FlowKey(1), &[want(0, 1)], now);
    plan.handle_asked(&[reference(1)], None, now);
    assert!(actions(plan).iter().any(|action| matches!(action, Action::Fetch { refer: true, .. })));
}

/// Brings the plan to where block 1 was requested from a peer.
fn got_from_peer(plan: &mut Plan, peer: u8, now: Instant) -> EntryId {
    plan.handle_want(FlowKey(1), &[want(0, 1)], now);
    plan.handle_asked(&[reference(1)], Some(now + MS * 20), now);
    actions(plan);
    plan.handle_answer(&answer(peer, &[1], false), now);
    get(&actions(plan), peer)
}

fn get(actions: &[Action], from: u8) -> EntryId {
    match actions {
        [Action::Get { entry, peer, .. }] if *peer == node(from) => *entry,
        other => panic!("no request to {from}: {other:?}"),
    }
}

fn actions(plan: &mut Plan) -> Vec<Action> {
    std::iter::from_fn(|| plan.poll_action()).collect()
}

fn answer(peer: u8, blocks: &[u8], soon: bool) -> Answer {
    let blocks = blocks.iter().map(|n| (reference(*n), soon)).collect();
    Answer { peer: node(peer), addr: address(peer), load: 0, blocks }
}

fn referral(node: u8, wait_ms: u32) -> Referral {
    Referral { node: self::node(node), wait_ms, addresses: vec![address(node)] }
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, n], 7747))
}

fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn want(number: u64, n: u8) -> Want {
    Want { number, reference: reference(n), older: None }
}

fn reference(n: u8) -> Reference {
    *block(n).reference()
}

fn block_of(name: Reference) -> Block {
    (0..=255).map(block).find(|block| *block.reference() == name).unwrap()
}

fn block(n: u8) -> Block {
    ServerSecret::new([1; 32]).mint(Bytes::from(vec![n; 10]))
}
