//! Two and more nodes on a LAN without wires: what they say to each other, and what they do not.

use bytes::Bytes;
use proptest::prelude::*;
use wanigan_parsers::discovery::{Ask, BLOCKS_MAX, Have};

use super::*;
use crate::block::{ServerSecret, tag};
use crate::discovery::answerer::{BACK_OFF_MAX, COPIES_WITHIN, CROWD, LOOK_UPS_MAX};
use crate::discovery::asker::{ASK_LIFETIME, ASKS_MAX, OWN_ASKS};
use crate::discovery::pace::{MISSES_MAX, QUIET_EVERY, WAIT_MAX};

const TIME: u64 = 1_700_000_000_000;
const RTT: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

#[test]
fn a_peer_that_has_the_blocks_is_found() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 40);
    lan.nodes[1].holds.extend(blocks[5..30].iter().map(|block| (*block, false)));
    let asked = lan.ask(0, &blocks);
    assert_eq!((asked.blocks, asked.left.len(), asked.until), (40, 0, lan.now + WAIT_MAX));
    lan.deliver();
    let answers = &lan.nodes[0].answers;
    assert_eq!(answers.len(), 2, "the third datagram asks for nothing that is there");
    assert!(answers.iter().all(|answer| answer.peer == id(1) && answer.addr == transfer(1)));
    let had: Vec<Reference> =
        answers.iter().flat_map(|answer| &answer.blocks).map(|(block, _)| *block).collect();
    assert_eq!(had, &blocks[5..30]);
    assert_eq!(lan.nodes[0].first, 25);
    assert_eq!(lan.refusals(), []);
}

#[test]
fn blocks_on_their_way_are_answered_as_such() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 2);
    lan.nodes[1].holds.extend([(blocks[0], true), (blocks[1], false)]);
    lan.ask(0, &blocks);
    lan.deliver();
    assert_eq!(lan.nodes[0].answers[0].blocks, [(blocks[0], true), (blocks[1], false)]);
}

#[test]
fn blocks_of_two_domains_are_asked_for_in_a_datagram_each() {
    let mut lan = Lan::new(2);
    let blocks = [references(1, 2), references(2, 2)].concat();
    let mixed = [blocks[0], blocks[2], blocks[1], blocks[3]];
    lan.nodes[1].holds.extend(blocks.iter().map(|block| (*block, false)));
    lan.nodes[0].state.ask(mixed.to_vec(), RTT, lan.now);
    let asks: Vec<Ask> = lan.datagrams(0).iter().map(|bytes| ask_of(bytes)).collect();
    assert_eq!(asks.len(), 2);
    assert!(asks[0].key != asks[1].key && asks.iter().all(|ask| ask.blocks.len() == 2));
}

#[test]
fn plain_blocks_are_found_too() {
    let mut lan = Lan::new(2);
    let blocks: Vec<Reference> = references(1, 3).iter().map(plain).collect();
    for node in &mut lan.nodes {
        node.state.handle_time(KeyId::PLAIN, TIME, lan.now);
    }
    lan.nodes[1].holds.extend(blocks.iter().map(|block| (*block, false)));
    lan.ask(0, &blocks);
    lan.deliver();
    assert_eq!(lan.nodes[0].first, 3);
}

#[test]
fn nobody_who_lacks_a_block_says_anything() {
    let mut lan = Lan::new(3);
    lan.ask(0, &references(1, 18));
    lan.deliver();
    assert_eq!(lan.sent, 0);
    assert_eq!(lan.refusals(), []);
}

#[test]
fn who_knows_the_tag_alone_gets_no_answer() {
    let mut lan = Lan::new(2);
    let held = references(1, 2);
    lan.nodes[1].holds.extend(held.iter().map(|block| (*block, false)));
    // The tags are right, the proofs are of another block's hash.
    let mut ask = ask_of(&lan.ask_bytes(0, &references(9, 2)));
    ask.key = held[0].key;
    for (asked, held) in ask.blocks.iter_mut().zip(&held) {
        asked.tag = tag(held);
    }
    lan.hear(1, &ask.encode());
    lan.deliver();
    assert_eq!(lan.sent, 0);
    assert_eq!(lan.refusals(), [DiscoveryRefusal::WrongProof; 2]);
}

#[test]
fn who_guesses_the_content_of_a_keyed_block_learns_nothing() {
    let mut lan = Lan::new(2);
    let held = references(1, 2);
    lan.nodes[1].holds.extend(held.iter().map(|block| (*block, false)));
    for node in &mut lan.nodes {
        node.state.handle_time(KeyId::PLAIN, TIME, lan.now);
    }
    // The content gives the digest, and with it everything of plain mode.
    let guessed: Vec<Reference> = held.iter().map(plain).collect();
    lan.ask(0, &guessed);
    lan.deliver();
    let mut ask = ask_of(&lan.ask_bytes(0, &guessed));
    ask.key = held[0].key;
    lan.hear(1, &ask.encode());
    lan.deliver();
    assert_eq!((lan.sent, lan.refusals()), (0, vec![]), "as if nothing were there");
}

#[test]
fn a_proof_does_not_pass_for_another_requester_time_nonce_or_block() {
    let blocks = references(1, 2);
    let change: [Change<Ask, ()>; 5] = [
        ("requester", (), |ask| ask.requester = id(7)),
        ("time", (), |ask| ask.time_ms += 1),
        ("nonce", (), |ask| ask.nonce[0] ^= 1),
        ("order", (), |ask| {
            let first = ask.blocks[0].proof;
            ask.blocks[0].proof = ask.blocks[1].proof;
            ask.blocks[1].proof = first;
        }),
        ("bit", (), |ask| ask.blocks.iter_mut().for_each(|block| block.proof[31] ^= 0x80)),
    ];
    for (what, (), change) in change {
        let mut lan = Lan::new(2);
        lan.nodes[1].holds.extend(blocks.iter().map(|block| (*block, false)));
        let mut ask = ask_of(&lan.ask_bytes(0, &blocks));
        change(&mut ask);
        lan.hear(1, &ask.encode());
        lan.deliver();
        assert_eq!((lan.sent, lan.refusals()), (0, vec![DiscoveryRefusal::WrongProof; 2]), "{what}");
    }
}

#[test]
fn right_proofs_beside_wrong_ones_are_answered_alone() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 3);
    lan.nodes[1].holds.extend(blocks.iter().map(|block| (*block, false)));
    let mut ask = ask_of(&lan.ask_bytes(0, &blocks));
    ask.blocks[1].proof = [0; 32];
    lan.hear(1, &ask.encode());
    lan.deliver();
    assert_eq!(lan.nodes[0].answers[0].blocks, [(blocks[0], false), (blocks[2], false)]);
    assert_eq!(lan.refusals(), [DiscoveryRefusal::WrongProof]);
}

#[test]
fn a_replayed_ask_is_met_with_silence_and_a_copy_too() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 2);
    lan.nodes[1].holds.extend(blocks.iter().map(|block| (*block, false)));
    let bytes = lan.ask_bytes(0, &blocks);
    // The network doubles it, before the look-up is done and after it.
    lan.hear(1, &bytes);
    lan.hear(1, &bytes);
    lan.deliver();
    lan.hear(1, &bytes);
    lan.deliver();
    assert_eq!((lan.sent, lan.refusals()), (1, vec![]));
    lan.now += COPIES_WITHIN;
    lan.hear(1, &bytes);
    lan.deliver();
    assert_eq!((lan.sent, lan.refusals()), (1, vec![DiscoveryRefusal::Replayed]));
    lan.now += Duration::from_secs(60);
    lan.hear(1, &bytes);
    lan.deliver();
    assert_eq!((lan.sent, lan.refusals()), (1, vec![DiscoveryRefusal::Stale]));
}

#[test]
fn a_part_of_an_ask_that_is_looked_up_is_no_copy_and_gets_no_second_answer() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 2);
    lan.nodes[1].holds.extend(blocks.iter().map(|block| (*block, false)));
    let whole = lan.ask_bytes(0, &blocks);
    let mut part = ask_of(&whole);
    part.blocks.truncate(1);
    lan.hear(1, &part.encode());
    lan.hear(1, &whole);
    lan.deliver();
    assert_eq!((lan.sent, lan.refusals()), (1, vec![DiscoveryRefusal::Replayed]));
}

#[test]
fn an_ask_that_proved_nothing_does_not_use_up_its_nonce() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 1);
    lan.nodes[1].holds.push((blocks[0], false));
    let bytes = lan.ask_bytes(0, &blocks);
    let mut forged = ask_of(&bytes);
    forged.blocks[0].proof = [1; 32];
    lan.hear(1, &forged.encode());
    lan.deliver();
    lan.hear(1, &bytes);
    lan.deliver();
    assert_eq!((lan.sent, lan.refusals()), (1, vec![DiscoveryRefusal::WrongProof]));
}

#[test]
fn clocks_do_not_matter_but_the_domain_time_does() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 1);
    lan.nodes[1].holds.push((blocks[0], false));
    for (off, refused) in [(-15_000_i64, None), (15_000, None), (61_000, Some(DiscoveryRefusal::Stale))] {
        lan.nodes[0].state.handle_time(blocks[0].key, TIME.saturating_add_signed(100_000 + off), lan.now);
        lan.nodes[1].state.handle_time(blocks[0].key, TIME + 100_000, lan.now);
        lan.ask(0, &blocks);
        lan.deliver();
        assert_eq!(lan.refusals(), Vec::from_iter(refused), "{off} ms off");
    }
    assert_eq!(lan.sent, 2);
}

#[test]
fn a_stamp_from_before_this_process_began_is_met_with_silence() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 1);
    lan.nodes[1].holds.push((blocks[0], false));
    let bytes = lan.ask_bytes(0, &blocks);
    lan.now += 10 * MS;
    lan.restart(1);
    lan.hear(1, &bytes);
    lan.deliver();
    assert_eq!((lan.sent, lan.refusals()), (0, vec![DiscoveryRefusal::Stale]));
}

#[test]
fn without_time_or_with_an_unknown_or_expired_key_there_is_silence() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 1);
    lan.nodes[1].holds.push((blocks[0], false));
    let bytes = lan.ask_bytes(0, &blocks);
    lan.nodes[1].state.handle_key_expired(blocks[0].key);
    lan.hear(1, &bytes);
    for other in [2, 9] {
        lan.nodes[1].state.handle_key_expired(references(other, 1)[0].key);
    }
    lan.hear(1, &bytes);
    lan.deliver();
    assert_eq!(lan.sent, 0);
    assert_eq!(lan.refusals(), [DiscoveryRefusal::UnknownKey, DiscoveryRefusal::NoTime]);
    // Nor is anything asked.
    let asked = lan.nodes[1].state.ask(blocks.clone(), RTT, lan.now);
    assert_eq!((asked.blocks, asked.left), (0, blocks));
}

#[test]
fn a_key_that_expires_during_the_look_up_is_met_with_silence() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 1);
    lan.nodes[1].holds.push((blocks[0], false));
    let bytes = lan.ask_bytes(0, &blocks);
    lan.hear(1, &bytes);
    lan.nodes[1].state.handle_key_expired(blocks[0].key);
    lan.deliver();
    assert_eq!((lan.sent, lan.refusals()), (0, vec![DiscoveryRefusal::UnknownKey]));
}

#[test]
fn a_node_that_shares_nothing_is_silent_and_still_asks() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 1);
    for node in &mut lan.nodes {
        node.holds.push((blocks[0], false));
    }
    lan.nodes[1].state = state(1, false);
    lan.tell_time();
    lan.ask(0, &blocks);
    lan.deliver();
    assert_eq!((lan.sent, lan.refusals()), (0, vec![DiscoveryRefusal::NotSharing]));
    lan.ask(1, &blocks);
    lan.deliver();
    assert_eq!(lan.nodes[1].first, 1);
}

#[test]
fn sources_elsewhere_own_asks_and_garbage_are_refused_by_reason() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 1);
    let bytes = lan.ask_bytes(0, &blocks);
    let now = lan.now;
    lan.nodes[1].state.handle_datagram(address(0), Origin::Elsewhere, &bytes, now);
    lan.hear(0, &bytes);
    lan.hear(1, b"WNG");
    lan.hear(1, &[0; 1_500]);
    assert_eq!(
        lan.refusals(),
        [
            DiscoveryRefusal::Own,
            DiscoveryRefusal::OffLink,
            DiscoveryRefusal::Malformed,
            DiscoveryRefusal::Malformed
        ]
    );
}

#[test]
fn a_flood_from_one_source_is_cut_off_and_others_are_heard() {
    let mut lan = Lan::new(3);
    let blocks = references(1, 1);
    lan.nodes[2].holds.push((blocks[0], false));
    for _ in 0..FROM_ONE.burst + 50 {
        lan.nodes[2].state.handle_datagram(address(0), Origin::OnLink, b"flood", lan.now);
    }
    let refused = lan.refusals();
    assert_eq!(refused.iter().filter(|reason| **reason == DiscoveryRefusal::Rate).count(), 50);
    lan.ask(1, &blocks);
    lan.deliver();
    assert_eq!(lan.nodes[1].first, 1);
}

#[test]
fn all_sources_together_have_a_limit_too() {
    let mut lan = Lan::new(2);
    let bytes = lan.ask_bytes(0, &references(1, 1));
    for source in 0..ASKS_FROM_ALL.burst + 100 {
        let from = SocketAddr::from((std::net::Ipv4Addr::from(0x0a01_0000 + source), 7_747));
        lan.nodes[1].state.handle_datagram(from, Origin::OnLink, &bytes, lan.now);
    }
    let refused = lan.refusals().iter().filter(|reason| **reason == DiscoveryRefusal::Rate).count();
    assert_eq!(refused, 100);
}

#[test]
fn look_ups_are_few_and_those_that_nobody_finishes_are_given_up() {
    let mut lan = Lan::new(2);
    let now = lan.now;
    let asks: Vec<Vec<u8>> = (0..2)
        .flat_map(|round| {
            lan.now += Duration::from_secs(1) * round;
            (0..LOOK_UPS_MAX).map(|_| lan.ask_bytes(0, &references(1, 1))).collect::<Vec<_>>()
        })
        .collect();
    lan.now = now;
    for bytes in &asks[..=LOOK_UPS_MAX] {
        lan.nodes[1].state.handle_datagram(address(0), Origin::OnLink, bytes, lan.now);
    }
    let mut outputs = std::iter::from_fn(|| lan.nodes[1].state.poll_output());
    assert_eq!(
        outputs.by_ref().filter(|output| matches!(output, Output::LookUp { .. })).count(),
        LOOK_UPS_MAX
    );
    lan.now += Duration::from_secs(1);
    lan.nodes[1].state.handle_datagram(address(0), Origin::OnLink, &asks[LOOK_UPS_MAX + 1], lan.now);
    assert!(matches!(lan.nodes[1].state.poll_output(), Some(Output::LookUp { .. })));
    lan.nodes[1].state.handle_found(0, &[None], 0, lan.now);
    assert_eq!(lan.nodes[1].state.poll_output(), None, "the first look-up is forgotten");
}

#[test]
fn answers_with_wrong_proofs_or_to_nothing_asked_are_dropped() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 2);
    lan.nodes[1].holds.extend(blocks.iter().map(|block| (*block, false)));
    let bytes = lan.ask_bytes(0, &blocks);
    lan.nodes[1].state.handle_datagram(address(0), Origin::OnLink, &bytes, lan.now);
    lan.look_up(1);
    let have = lan.have_of(1);
    let change: [Change<Have, DiscoveryRefusal>; 6] = [
        ("nonce of the ask", DiscoveryRefusal::Unexpected, |have| have.ask_nonce[0] ^= 1),
        ("nonce", DiscoveryRefusal::WrongProof, |have| have.nonce[0] ^= 1),
        ("responder", DiscoveryRefusal::WrongProof, |have| have.responder = id(9)),
        ("soon", DiscoveryRefusal::WrongProof, |have| {
            have.blocks.iter_mut().for_each(|block| block.soon = true)
        }),
        ("responder is the requester", DiscoveryRefusal::Own, |have| have.responder = id(0)),
        ("index", DiscoveryRefusal::Malformed, |have| have.blocks[1].index = 2),
    ];
    for (what, reason, change) in change {
        let mut have = have.clone();
        change(&mut have);
        lan.hear(0, &have.encode());
        let refused = lan.refusals();
        assert!(!refused.is_empty() && refused.iter().all(|found| *found == reason), "{what}: {refused:?}");
    }
    lan.deliver();
    assert_eq!(lan.nodes[0].answers, []);
    lan.hear(0, &have.encode());
    lan.hear(0, &have.encode());
    lan.deliver();
    assert_eq!(lan.nodes[0].answers.len(), 1);
    assert_eq!(lan.refusals(), [DiscoveryRefusal::Unexpected], "the same answer again");
    lan.now += ASK_LIFETIME;
    let mut late = have;
    late.port += 1;
    lan.hear(0, &late.encode());
    assert_eq!(lan.refusals(), [DiscoveryRefusal::Unexpected], "too late");
}

#[test]
fn an_ask_taken_for_an_answer_proves_nothing() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 1);
    let ask = ask_of(&lan.ask_bytes(0, &blocks));
    let have = Have {
        responder: id(1),
        nonce: ask.nonce,
        ask_nonce: ask.nonce,
        port: 1,
        load: 0,
        blocks: vec![wanigan_parsers::discovery::HadBlock {
            index: 0,
            soon: false,
            proof: ask.blocks[0].proof,
        }],
    };
    lan.hear(0, &have.encode());
    lan.deliver();
    assert_eq!((lan.nodes[0].answers.len(), lan.refusals()), (0, vec![DiscoveryRefusal::WrongProof]));
}

#[test]
fn a_true_answer_is_taken_beside_a_copy_with_another_port() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 1);
    lan.nodes[1].holds.push((blocks[0], false));
    let bytes = lan.ask_bytes(0, &blocks);
    lan.nodes[1].state.handle_datagram(address(0), Origin::OnLink, &bytes, lan.now);
    lan.look_up(1);
    let have = lan.have_of(1);
    lan.hear(0, &Have { port: 1, ..have.clone() }.encode());
    lan.hear(0, &have.encode());
    lan.deliver();
    let addresses: Vec<u16> = lan.nodes[0].answers.iter().map(|answer| answer.addr.port()).collect();
    assert_eq!(addresses, [1, transfer(1).port()]);
    assert_eq!(lan.nodes[0].first, 1, "one block was found, however often");
}

#[test]
fn an_answer_is_never_longer_than_its_ask() {
    for count in 1..=BLOCKS_MAX {
        let mut lan = Lan::new(2);
        let blocks = references(1, count);
        lan.nodes[1].holds.extend(blocks.iter().map(|block| (*block, false)));
        let ask = lan.ask_bytes(0, &blocks);
        lan.nodes[1].state.handle_datagram(address(0), Origin::OnLink, &ask, lan.now);
        lan.look_up(1);
        assert!(lan.have_of(1).encode().len() <= ask.len());
    }
}

#[test]
fn where_nobody_answers_a_node_asks_once_a_second_until_somebody_does() {
    let mut lan = Lan::new(2);
    let blocks = references(1, 1);
    for _ in 0..MISSES_MAX {
        let asked = lan.ask(0, &blocks);
        assert_eq!(asked.blocks, 1);
        lan.deliver();
        lan.now = asked.until;
    }
    assert_eq!(lan.ask(0, &blocks).left, blocks);
    assert!(!lan.nodes[0].state.pace(lan.now).should_ask(lan.now));
    lan.now += QUIET_EVERY;
    lan.nodes[1].holds.push((blocks[0], false));
    assert_eq!(lan.ask(0, &blocks).blocks, 1);
    lan.deliver();
    for _ in 0..3 {
        assert_eq!(lan.ask(0, &blocks).blocks, 1);
    }
}

#[test]
fn many_datagrams_at_once_that_nobody_answers_are_one_miss() {
    let mut lan = Lan::new(1);
    let asked = lan.ask(0, &references(1, 128));
    assert_eq!(asked.blocks, 128);
    lan.now = asked.until;
    assert!(lan.nodes[0].state.pace(lan.now).should_ask(lan.now));
}

#[test]
fn own_asks_have_a_limit_of_rate_and_number() {
    let mut lan = Lan::new(1);
    let burst = OWN_ASKS.burst as usize;
    let asked = lan.ask(0, &references(1, 1).repeat(BLOCKS_MAX * (burst + 2)));
    assert_eq!((asked.blocks, asked.left.len()), (BLOCKS_MAX * burst, BLOCKS_MAX * 2));
    let mut sent = burst;
    for _ in 0..950 {
        lan.now += MS;
        // Somebody answers now and then, so that the node goes on asking.
        lan.nodes[0].state.asker.pace.handle_answered(None);
        sent += lan.ask(0, &references(1, 1)).blocks;
    }
    assert!(sent <= ASKS_MAX, "{sent} are out");
    lan.now += ASK_LIFETIME;
    lan.nodes[0].state.asker.pace.handle_answered(None);
    assert_eq!(lan.ask(0, &references(1, 1)).blocks, 1);
}

#[test]
fn answers_to_a_crowd_are_put_off_a_little() {
    let mut lan = Lan::new(CROWD + 1);
    let blocks = references(1, 1);
    let last = CROWD;
    lan.nodes[last].holds.push((blocks[0], false));
    for asker in 0..CROWD {
        lan.ask(asker, &blocks);
        lan.deliver();
    }
    assert_eq!(lan.sent, CROWD - 1, "all but the last were answered at once");
    let due = lan.nodes[last].state.poll_timeout().expect("an answer is put off");
    assert!(due <= lan.now + BACK_OFF_MAX);
    lan.now = due;
    lan.nodes[last].state.handle_timeout(due);
    lan.deliver();
    assert_eq!(lan.sent, CROWD);
    assert_eq!(lan.nodes[CROWD - 1].first, 1);
}

proptest! {
    #[test]
    fn no_datagram_and_no_look_up_makes_a_state_panic_or_speak(
        datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
        flips in proptest::collection::vec((any::<u16>(), 1u8..), 1..4),
        counts in proptest::collection::vec(0usize..30, 4),
    ) {
        let mut lan = Lan::new(2);
        let blocks = references(1, 3);
        lan.nodes[1].holds.extend(blocks.iter().map(|block| (*block, false)));
        for bytes in &datagrams {
            lan.hear(1, bytes);
            lan.hear(0, bytes);
        }
        let mut ask = lan.ask_bytes(0, &blocks);
        for (at, flip) in &flips {
            let at = usize::from(*at) % ask.len();
            ask[at] ^= flip;
        }
        lan.hear(1, &ask);
        for (number, count) in (0..).zip(counts) {
            let found = vec![Some(Found { reference: references(5, 1)[0], soon: false }); count];
            lan.nodes[1].state.handle_found(number, &found, 0, lan.now);
        }
        lan.deliver();
        prop_assert_eq!(lan.sent, 0);
    }
}

/// What is changed in a datagram, what comes of it, and how.
type Change<Datagram, Expected> = (&'static str, Expected, fn(&mut Datagram));

/// Nodes on one network, without delay.
struct Lan {
    nodes: Vec<Node>,
    now: Instant,
    /// Answers that were sent.
    sent: usize,
    began: Instant,
}

struct Node {
    state: State,
    holds: Vec<(Reference, bool)>,
    answers: Vec<Answer>,
    first: usize,
    refused: Vec<DiscoveryRefusal>,
    out: Vec<(Option<SocketAddr>, Vec<u8>)>,
}

impl Lan {
    fn new(count: usize) -> Self {
        let node = |number| Node {
            state: state(number, true),
            holds: Vec::new(),
            answers: Vec::new(),
            first: 0,
            refused: Vec::new(),
            out: Vec::new(),
        };
        let now = Instant::now();
        let mut lan = Self { nodes: (0..count).map(node).collect(), now, sent: 0, began: now };
        lan.tell_time();
        lan
    }

    fn tell_time(&mut self) {
        let since = u64::try_from((self.now - self.began).as_millis()).unwrap();
        for node in &mut self.nodes {
            for secret in [1, 2, 9] {
                node.state.handle_time(references(secret, 1)[0].key, TIME + since, self.now);
            }
        }
    }

    fn restart(&mut self, number: usize) {
        self.nodes[number].state = state(number, true);
        self.tell_time();
    }

    fn ask(&mut self, number: usize, references: &[Reference]) -> Asked {
        self.nodes[number].state.ask(references.to_vec(), RTT, self.now)
    }

    /// Asks, and returns the one datagram that nobody has heard.
    fn ask_bytes(&mut self, number: usize, references: &[Reference]) -> Vec<u8> {
        // A quiet network, or a limit, is not what the caller is after.
        self.nodes[number].state.asker.pace.handle_answered(None);
        self.nodes[number].state.ask(references.to_vec(), RTT, self.now);
        let mut datagrams = self.datagrams(number);
        assert_eq!(datagrams.len(), 1);
        datagrams.remove(0)
    }

    fn datagrams(&mut self, number: usize) -> Vec<Vec<u8>> {
        self.look_up(number);
        self.nodes[number].out.drain(..).map(|(_, bytes)| bytes).collect()
    }

    fn have_of(&mut self, number: usize) -> Have {
        match Datagram::decode(&self.datagrams(number)[0]).unwrap() {
            Datagram::Have(have) => have,
            Datagram::Ask(_) => panic!("not an answer"),
        }
    }

    fn hear(&mut self, number: usize, bytes: &[u8]) {
        let from = address(usize::from(number == 0));
        self.nodes[number].state.handle_datagram(from, Origin::OnLink, bytes, self.now);
    }

    /// Carries out what a node wants, except for what it sends.
    fn look_up(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        while let Some(output) = node.state.poll_output() {
            match output {
                Output::Ask(bytes) => node.out.push((None, bytes)),
                Output::Send { to, bytes, blocks: _ } => node.out.push((Some(to), bytes)),
                Output::LookUp { number, key, tags } => {
                    let find = |wanted: &Tag| {
                        let held =
                            node.holds.iter().find(|(held, _)| tag(held) == *wanted && held.key == key);
                        held.map(|(reference, soon)| Found { reference: *reference, soon: *soon })
                    };
                    let found: Vec<Option<Found>> = tags.iter().map(find).collect();
                    node.state.handle_found(number, &found, 7, self.now);
                }
                Output::Answer { answer, first } => {
                    node.answers.push(answer);
                    node.first += first;
                }
                Output::Refused { reason, .. } => node.refused.push(reason),
            }
        }
    }

    /// Delivers until nobody has anything to say.
    fn deliver(&mut self) {
        loop {
            (0..self.nodes.len()).for_each(|number| self.look_up(number));
            let sent: Vec<(usize, Option<SocketAddr>, Vec<u8>)> = (0..self.nodes.len())
                .flat_map(|number| {
                    self.nodes[number]
                        .out
                        .drain(..)
                        .map(move |(to, bytes)| (number, to, bytes))
                        .collect::<Vec<_>>()
                })
                .collect();
            if sent.is_empty() {
                return;
            }
            for (number, to, bytes) in sent {
                self.sent += usize::from(to.is_some());
                for other in (0..self.nodes.len()).filter(|other| *other != number) {
                    if to.is_none_or(|to| to == address(other)) {
                        self.nodes[other].state.handle_datagram(
                            address(number),
                            Origin::OnLink,
                            &bytes,
                            self.now,
                        );
                    }
                }
            }
        }
    }

    /// Returns why nodes were silent since the last call, node by node.
    fn refusals(&mut self) -> Vec<DiscoveryRefusal> {
        (0..self.nodes.len()).for_each(|number| self.look_up(number));
        self.nodes.iter_mut().flat_map(|node| node.refused.drain(..)).collect()
    }
}

pub(super) fn state(number: usize, share: bool) -> State {
    let settings = StateSettings { id: id(number), share, transfer_port: transfer(number).port() };
    let mut drawn = 0_u64;
    let random = move || {
        drawn += 1;
        let mut nonce = [u8::try_from(number).unwrap() | 0x80; 16];
        nonce[8..].copy_from_slice(&drawn.to_be_bytes());
        Some(nonce)
    };
    State::new(settings, Box::new(random))
}

pub(super) fn id(number: usize) -> NodeId {
    NodeId([u8::try_from(number).unwrap(); 32])
}

pub(super) fn address(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(number).unwrap()], 7_747))
}

fn transfer(number: usize) -> SocketAddr {
    let mut address = address(number);
    address.set_port(8_000 + u16::try_from(number).unwrap());
    address
}

pub(super) fn references(secret: u8, count: usize) -> Vec<Reference> {
    let secret = ServerSecret::new([secret; 32]);
    (0..count).map(|number| *secret.mint(Bytes::from(format!("block {number}"))).reference()).collect()
}

fn plain(reference: &Reference) -> Reference {
    Reference { key: KeyId::PLAIN, secret: crate::block::Secret([0; 32]), ..*reference }
}

fn ask_of(bytes: &[u8]) -> Ask {
    match Datagram::decode(bytes).unwrap() {
        Datagram::Ask(ask) => ask,
        Datagram::Have(_) => panic!("not an ask"),
    }
}
